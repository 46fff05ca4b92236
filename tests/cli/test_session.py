"""Without ``--uri`` it is the host that is read, also by a user who may have a session."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import cli, sample
from tests.support.libvirtd import Daemon
from tests.support.users import NOBODY, as_nobody

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = as_nobody
# What is imported later, nobody might not be allowed to read.
AS_NOBODY = f"""
import os
from virtmeter.cli import main
import virtmeter.cli.stats.command, virtmeter.cli.watch.command, virtmeter.cli.export.command
import virtmeter.cli.doctor.command
list(virtmeter.cli.doctor.command.agent(()))
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
main.main()
"""
COMMANDS = (("stats",), ("watch", "--count", "1"), ("export", "--once"))
ELSEWHERE = "your own libvirt session has no VMs; those of the host are at"


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of nobody's, with a path that is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="home-", dir="/tmp"))
    (path / "libvirt").mkdir()
    for each in (path, path / "libvirt"):
        os.chown(each, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


def opened_to_nobody(daemon: Daemon) -> Daemon:
    daemon.socket_path.parent.chmod(0o755)
    daemon.socket_path.chmod(0o777)
    return daemon


def run(
    home: Path, *arguments: str, system: Daemon | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command on a host on which this daemon, or none, is the system's."""
    script = "mount -t tmpfs -o mode=755 none /run && mkdir /run/libvirt"
    if system:
        script += f" && ln -s {opened_to_nobody(system).socket_path} /run/libvirt/libvirt-sock-ro"
    command = (sys.executable, "-c", AS_NOBODY)
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh", *command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=cli.TIMEOUT,
        env=cli.environment(HOME=str(home), XDG_RUNTIME_DIR=str(home), COLUMNS="1000"),
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_unprivileged_user_reads_the_host(
    home: Path, daemon: Daemon, command: tuple[str, ...]
) -> None:
    daemon.add(sample.domain())
    done = run(home, *command, system=daemon)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sample-1" in done.stdout
    if command == ("stats",):
        assert done.stdout.startswith("1 VM: 1 running at qemu:///system\n")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_where_there_is_none_that_is_an_error_and_nothing_is_started(
    home: Path, command: tuple[str, ...]
) -> None:
    for more in ((), ("--uri", "qemu:///session")):
        done = run(home, *command, *more)
        assert done.returncode == 3
        [line] = done.stderr.splitlines()
        uri = more[1] if more else "qemu:///system"
        assert line.startswith(f"virtmeter: no connection to {uri}: ")
    assert list((home / "libvirt").iterdir()) == []
    assert not (home / ".cache").exists()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_empty_session_beside_the_system_is_pointed_out(
    home: Path, daemon: Daemon, command: tuple[str, ...]
) -> None:
    session = ("--uri", "qemu:///session")
    with Daemon(home / "libvirt/libvirt-sock") as own:
        opened_to_nobody(own)
        done = run(home, *command, *session, system=daemon)
        assert done.returncode == 0
        [line] = done.stderr.splitlines()
        assert line == f"virtmeter: {ELSEWHERE} qemu:///system (--uri qemu:///system)"
        if command == ("stats",):
            assert done.stdout == "no VM at qemu:///session\n"
        assert run(home, *command, *session).stderr == "", "there is no system"
        own.add(sample.domain())
        assert run(home, *command, *session, system=daemon).stderr == ""


def test_the_doctor_looks_at_the_socket_that_is_used(home: Path, daemon: Daemon) -> None:
    session = ("doctor", "--format", "json", "--uri", "qemu:///session")
    with Daemon(home / "libvirt/libvirt-sock") as own:
        opened_to_nobody(own)
        done = run(home, *session, system=daemon)
    found = {each["what"]: each for each in json.loads(done.stdout)["findings"]}
    assert done.returncode == 0
    assert "reading the hypervisor at qemu:///session" in found
    assert any(f"the socket {home}/libvirt/libvirt-sock is open" in what for what in found)
    [warning] = [each["what"] for each in found.values() if each["level"] == "warning"]
    assert warning.startswith(ELSEWHERE)
    done = run(home, *session)
    assert f"there is no socket {home}/libvirt/virtqemud-sock nor" in done.stdout
    assert done.returncode == 1
