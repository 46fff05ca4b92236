"""Files that are named on the command line: what they may be, and what becomes of them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.exporter import run
from tests.support import cli, sample
from tests.support.users import NOBODY, as_nobody
from virtmeter.cli import files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.libvirtd import Daemon


def owner(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


@as_nobody
def test_a_file_that_is_there_keeps_its_mode_and_owner(tmp_path: Path) -> None:
    file, link, other = (tmp_path / name for name in ("file", "link", "other"))
    file.write_text("old")
    other.hardlink_to(file)
    link.symlink_to("file")
    os.chown(file, NOBODY, 12)
    file.chmod(0o640)
    files.write(link, b"new")
    assert link.is_symlink()
    assert owner(file) == (NOBODY, 12, 0o640)
    assert (file.read_text(), other.read_text()) == ("new", "old")
    assert sorted(tmp_path.iterdir()) == [file, link, other]


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that others get at, as they do not at ``tmp_path``."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o777)
        yield path


def file_of_a_group(directory: Path) -> Path:
    """Return a file that may be given to others by root alone."""
    file = directory / "file"
    file.write_text("old")
    file.chmod(0o664)
    os.chown(file, 0, 12)
    return file


@as_nobody
def test_the_owner_is_kept_as_far_as_that_is_permitted(open_to_all: Path) -> None:
    file = file_of_a_group(open_to_all)
    groups = os.getgroups()
    os.setgroups([12])
    os.seteuid(NOBODY)
    try:
        files.write(file, b"new")
    finally:
        os.seteuid(0)
        os.setgroups(groups)
    assert file.read_text() == "new"
    assert owner(file) == (NOBODY, 12, 0o664)


@as_nobody
def test_an_owner_who_is_none_in_a_container_is_no_obstacle(tmp_path: Path) -> None:
    file = file_of_a_group(tmp_path)
    once = ("export", "--once", "--uri", cli.some_host(tmp_path, "one"), "--output", str(file))
    # A user namespace with root alone, as that of PrivateUsers= and of a rootless container.
    alone = ("unshare", "--user", "--map-root-user")
    there = shutil.which("unshare")
    if not there or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are forbidden here")
    done = cli.shell(f'exec {" ".join(alone)} "$@"', *once)
    assert done.returncode == 0, done.stderr
    assert "virtmeter_up 1.0" in file.read_text().splitlines()
    assert owner(file) == (0, 0, 0o664)


def test_a_new_file_can_be_read_by_all_and_have_the_longest_name(tmp_path: Path) -> None:
    file, dangling = tmp_path / ("x" * 255), tmp_path / "dangling"
    dangling.symlink_to(file)
    files.write(dangling, b"new")
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert dangling.is_symlink()


def test_what_cannot_be_written_is_one_line_and_as_it_was(daemon: Daemon, tmp_path: Path) -> None:
    loop, pipe, nowhere = (tmp_path / name for name in ("loop", "pipe", "no\nwhere/file"))
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    for path, words in (
        (loop, "Too many levels of symbolic links"),
        (pipe, "nobody reads this pipe"),
        (nowhere, "No such file or directory"),
        ("/dev/full", "No space left on device"),
        ("/proc/1/file", "no file can be made in /proc/1 (No such file or directory)"),
    ):
        done = run("--once", "--uri", daemon.uri, "--output", str(path))
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert line.startswith("Error: cannot write ")
        assert words in line
    assert loop.is_symlink()
    assert pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == [loop, pipe]


def test_a_program_that_runs_is_not_replaced(daemon: Daemon, tmp_path: Path) -> None:
    program, link = tmp_path / "program", tmp_path / "link"
    sleep = shutil.which("sleep")
    assert sleep
    shutil.copy(sleep, program)
    link.symlink_to(program)
    before = program.read_bytes()
    process = subprocess.Popen([program, "60"])
    try:
        for path in (program, link, f"/proc/{process.pid}/exe"):
            done = run("--once", "--uri", daemon.uri, "--output", str(path))
            assert done.returncode == 1
            assert done.stderr == f"Error: cannot write {path}: Text file busy\n"
    finally:
        process.kill()
        process.wait()
    assert program.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [link, program]


def test_standard_output_is_written_to_and_not_replaced(daemon: Daemon, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    once = ("export", "--once", "--uri", daemon.uri, "--output", "/dev/stdout")
    done = cli.shell('exec "$@" >>"$LOG"', *once, LOG=str(log))
    assert (done.returncode, done.stderr) == (0, "")
    first, *rest = log.read_text().splitlines()
    assert first == "before"
    assert "virtmeter_up 1.0" in rest


@pytest.mark.parametrize("output", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_a_reader_of_standard_output_that_has_seen_enough_is_no_failure(
    daemon: Daemon, output: str
) -> None:
    # More than a pipe takes, so that the failure is at writing, and less, so that it is at the end.
    for count in (1, 100):
        daemon.add(*(sample.domain(number) for number in range(count)))
        script = '{ sleep 0.2; "$@"; echo "status=$?" >&2; } | true'
        done = cli.shell(script, "export", "--once", "--uri", daemon.uri, "--output", output)
        assert done.stderr == "status=0\n"


@pytest.mark.parametrize("option", ["--tls-cert", "--tls-client-ca", "--auth-file"])
def test_what_never_ends_is_not_read(tmp_path: Path, option: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    certificate = () if option == "--tls-cert" else ("--tls-cert", __file__)
    for path in (str(pipe), "/dev/zero"):
        done = run("--uri", "test:///default", *certificate, option, path)
        assert done.returncode == 2
        assert f"File '{path}' is not a regular file." in done.stderr
