"""``virtmeter watch`` in a real terminal, and without one."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import termios
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import cli, sample
from tests.support.libvirtd import Never

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pexpect

    from tests.support.libvirtd import Daemon
    from tests.support.qemu import Libvirtd

ENTER, LEAVE, HIDE, SHOW = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25l", "\x1b[?25h"
UP, DOWN = "\x1b[A", "\x1b[B"
FAST = ("--interval", "0.2")
ROUND = "stty -a; {}; echo status=$?; stty -a; echo end"


@pytest.fixture
def host(tmp_path: Path) -> str:
    return cli.some_host(tmp_path, *(f"web-{number}" for number in range(1, 41)))


def drawn(child: pexpect.spawn, text: str) -> None:
    """Wait until this is on the screen, drawn from now on."""
    child.expect_exact(text)


def assert_as_before(said: str, status: int) -> None:
    """The terminal's settings are the same after as before, and so is its screen."""
    before, _, rest = said.partition(ENTER)
    screen, _, after = rest.rpartition(LEAVE)
    assert HIDE in screen
    assert after.lstrip().startswith(SHOW)
    printed = re.sub(r"\x1b\[[?0-9]*[a-z]", "", after)
    assert f"status={status}\r\n" in printed
    settings = printed.partition(f"status={status}\r\n")[2].partition("end")[0]
    assert "icanon" in settings
    assert settings.strip() == before.strip()


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        *(("q", 0), (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)),
        *(("\x03", 130), ("\x1c", 131)),
    ],
    ids=["q", "SIGINT", "SIGTERM", "SIGHUP", "Ctrl-C", "Ctrl-\\"],
)
def test_the_terminal_is_left_as_it_was(
    host: str, ending: str | signal.Signals, status: int
) -> None:
    # trap: the shell that looks at the terminal afterwards outlives a Ctrl-C and a Ctrl-\.
    with cli.terminal("watch", "--uri", host, script="trap : INT QUIT; " + ROUND) as child:
        drawn(child, "40 VMs: 40 running")
        said = child.before
        if isinstance(ending, str):
            child.send(ending)
        else:
            os.kill(watch_of(child), ending)
        assert_as_before(said + cli.everything(child), status)


def watch_of(shell: pexpect.spawn) -> int:
    return int(Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text())


def test_the_terminal_is_left_as_it_was_by_a_failure(tmp_path: Path) -> None:
    uri = f"qemu+unix:///system?socket={tmp_path}/nobody"
    with cli.terminal("watch", "--uri", uri, script=ROUND) as child:
        said = cli.everything(child)
    assert said.count("virtmeter: no connection to ") == 1
    line = re.search(r"virtmeter: no connection .*\r\n", said)
    assert line
    assert_as_before(said.replace(line[0], ""), 3)


def test_ctrl_z_and_back(host: str) -> None:
    with cli.terminal(script="exec bash --norc --noprofile -i") as shell:
        shell.sendline("PS1='ready> '; stty -a | md5sum")
        shell.expect(r"([0-9a-f]{32}).*ready> ")
        before = shell.match[1]
        shell.sendline(shlex.join([*cli.COMMAND, "watch", "--uri", host]))
        drawn(shell, ENTER)
        drawn(shell, "40 running")
        shell.send("\x1a")
        drawn(shell, LEAVE)
        shell.expect("Stopped.*ready> ")
        shell.sendline("stty -a | md5sum; fg")
        shell.expect(r"([0-9a-f]{32})")
        assert shell.match[1] == before
        drawn(shell, ENTER)
        drawn(shell, "40 running")
        shell.send("q")
        drawn(shell, LEAVE)
        shell.sendline("stty -a | md5sum; exit")
        shell.expect(r"([0-9a-f]{32})")
        assert shell.match[1] == before


def test_keys(host: str) -> None:
    with cli.terminal("watch", "--uri", host, rows=20) as child:
        drawn(child, "40 running")
        drawn(child, "[CPU▼]")
        child.send("v")
        drawn(child, "web-1 ")
        drawn(child, "[VM▲]")
        child.send("r")
        drawn(child, "web-40 ")
        drawn(child, "[VM▼]")
        child.send(DOWN)
        drawn(child, "web-39 ")
        drawn(child, "2 of 40")
        child.send("r/")
        drawn(child, "show all")
        child.send("web-33")
        drawn(child, "web-33 ")
        drawn(child, "/web-33▏")
        child.send("\r")
        drawn(child, "without /web-33")
        child.send("\x1b")
        drawn(child, "web-1 ")
        child.send("?")
        drawn(child, "sort by CPU, wait, steal")
        child.send("\x1b")
        drawn(child, "running")
        child.send("q")
        drawn(child, LEAVE)
        cli.everything(child)
        assert child.exitstatus == 0


def test_a_terminal_that_changes_its_size(host: str) -> None:
    with cli.terminal("watch", "--uri", host, columns=60, rows=10) as child:
        drawn(child, "write/s")
        drawn(child, "q")
        assert "steal" not in child.before
        child.setwinsize(60, 140)
        drawn(child, "steal")
        drawn(child, "web-40 ")
        child.setwinsize(10, 60)
        child.expect_exact("quit")
        child.send("q")
        cli.everything(child)
        assert child.exitstatus == 0


def test_a_terminal_that_claims_to_be_huge(host: str) -> None:
    with cli.terminal("watch", "--uri", host, columns=30000, rows=30000) as child:
        drawn(child, "40 running")
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{child.pid}/status").read_text())
        assert peak
        assert int(peak[1]) < 300_000
        child.send("q")
        cli.everything(child)
        assert child.exitstatus == 0


def test_a_terminal_that_does_not_know_its_size(host: str) -> None:
    with cli.terminal("watch", "--uri", host, columns=0, rows=0) as child:
        drawn(child, "40 running")
        child.send("q")
        cli.everything(child)
        assert child.exitstatus == 0


@contextmanager
def drawn_once(host: str, *command: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a watch that has a terminal to itself; tell of it once it has drawn."""
    ours, its = os.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", *command, "watch", "--uri", host, *FAST],
        stdin=its,
        stdout=its,
        stderr=subprocess.PIPE,
        text=True,
        env=cli.environment(),
    ) as watch:
        os.close(its)
        shown = b""
        while b"40 running" not in shown:
            shown += os.read(ours, 4096)
        try:
            yield watch, ours
        finally:
            watch.kill()


def is_as_it_was(terminal: int) -> bool:
    """Whether a terminal echoes, and takes lines, as before a watch."""
    flags = termios.tcgetattr(terminal)[3]
    return bool(flags & termios.ECHO and flags & termios.ICANON)


def ends_with_a_hangup(watch: subprocess.Popen[str]) -> None:
    assert watch.stderr
    assert watch.stderr.read() == ""
    assert watch.wait(cli.TIMEOUT) == 128 + signal.SIGHUP


def test_a_terminal_that_goes_away(host: str) -> None:
    with drawn_once(host, *cli.COMMAND) as (watch, terminal):
        os.close(terminal)
        ends_with_a_hangup(watch)


def test_a_terminal_that_goes_away_while_the_watch_is_stopped(host: str) -> None:
    # Its terminal has no shell, for which SIGTSTP would stop nothing.
    script = (
        "import os, signal\n"
        "from virtmeter.cli import main\n"
        "from virtmeter.cli.watch.signals import Bell\n"
        "Bell.stop_process = lambda _: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "main.main()"
    )
    with drawn_once(host, sys.executable, "-c", script) as (watch, terminal):
        watch.send_signal(signal.SIGTSTP)
        _, status = os.waitpid(watch.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        os.close(terminal)  # which continues it
        ends_with_a_hangup(watch)


def test_a_terminal_that_takes_nothing_any_more(host: str) -> None:
    script = "from virtmeter.cli import ending, main; ending.TIMEOUT = 0.5; main.main()"
    with drawn_once(host, sys.executable, "-c", script) as (watch, terminal):
        try:
            assert not is_as_it_was(terminal)
            os.write(terminal, b"\x13")  # Ctrl-S
            watch.terminate()
            assert watch.wait(cli.TIMEOUT) == 128 + signal.SIGTERM
            assert is_as_it_was(terminal)
        finally:
            os.close(terminal)


def test_a_guest_that_hangs_stays_on_the_screen(rig: Libvirtd) -> None:
    guest = rig.guests["booted"]
    common = ("watch", "--uri", rig.uri, "--timeout", "1", *FAST)
    with cli.terminal(*common) as child, guest.sigstopped():
        drawn(child, "1 hung")
        drawn(child, guest.name)
        drawn(child, "hung")
        os.kill(guest.pid, signal.SIGCONT)
        drawn(child, "1 running")
        child.send("q")
        cli.everything(child)
        assert child.exitstatus == 0


def test_libvirt_goes_and_comes_back(daemon: Daemon) -> None:
    daemon.add(sample.domain(1, bulk=True))
    with cli.terminal("watch", "--uri", daemon.uri, *FAST) as child:
        drawn(child, "1 VM: 1 running")
        daemon.stop()
        drawn(child, "without libvirt, which is tried again: no connection to")
        drawn(child, "sample-1")
        daemon.start()
        daemon.add(sample.domain(2, bulk=True))
        drawn(child, "2 VMs: 2 running")
        child.send("q")
        cli.everything(child)
        assert child.exitstatus == 0


@pytest.mark.parametrize(("key", "status"), [("q", 0), ("\x03", 130)], ids=["q", "Ctrl-C"])
def test_keys_are_heard_while_libvirt_hangs(daemon: Daemon, key: str, status: int) -> None:
    daemon.add(sample.domain(1, bulk=True))
    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", Never(), repeat=True)
    with cli.terminal("watch", "--uri", daemon.uri, "--timeout", "1000") as child:
        assert daemon.wait_until(
            lambda daemon: daemon.calls["CONNECT_GET_ALL_DOMAIN_STATS"] > 0, 20
        )
        child.send("?")
        drawn(child, "sort by CPU")
        child.send(key)
        cli.everything(child)
        assert child.exitstatus == status


def test_lines_without_a_terminal(rig: Libvirtd) -> None:
    common = ("watch", "--uri", rig.uri, "--count", "2", *FAST, "*-booted", "*-disks")
    done = cli.run(*common, FORCE_COLOR="1")
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = done.stdout.splitlines()
    assert header.split()[:3] == ["time", "state", "CPU%"]
    assert "\x1b" not in done.stdout
    values = [line.split() for line in lines]
    assert [row[-1].rpartition("-")[2] for row in values] == ["booted", "disks"] * 2
    assert {len(row) for row in values} == {len(header.split())}
    assert len({line.rindex("virtmeter-test-") for line in lines} | {header.index("VM")}) == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", values[0][0])
    assert [row[1] for row in values] == ["running", "paused"] * 2
    assert values[0][2] == "-", "there is nothing to compare a first reading with"
    # QEMU's own threads of the vCPUs may have something to do, after a hot-plug, say.
    assert 0 <= float(values[3][2]) < 25


def test_lines_of_a_guest_that_hangs(rig: Libvirtd) -> None:
    guest = rig.guests["booted"]
    common = ("watch", "--uri", rig.uri, "--timeout", "1", "--count", "2", *FAST)
    with guest.sigstopped():
        done = cli.run(*common, guest.name)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[1] for line in done.stdout.splitlines()[1:]] == ["hung"] * 2


def test_lines_of_an_outage(daemon: Daemon) -> None:
    daemon.add(sample.domain(1, bulk=True))
    with subprocess.Popen(
        [*cli.COMMAND, "watch", "--uri", daemon.uri, *FAST],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=cli.environment() | {"PYTHONUNBUFFERED": "1"},
    ) as watch:
        assert watch.stdout
        assert watch.stderr
        assert "sample-1" in [watch.stdout.readline() for _ in range(2)][1]
        daemon.stop()
        assert watch.stderr.readline().startswith("virtmeter: no connection to ")
        daemon.start()
        while "sample-1" not in watch.stdout.readline():
            pass
        os.kill(watch.pid, signal.SIGINT)
        assert watch.stderr.read() == "\n"
        assert watch.wait(cli.TIMEOUT) == 130


def test_a_reader_that_has_seen_enough(daemon: Daemon) -> None:
    daemon.add(sample.domain(1, bulk=True))
    command = [*cli.COMMAND, "watch", "--uri", daemon.uri, *FAST]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=cli.environment(),
    ) as watch:
        assert watch.stdout
        assert watch.stderr
        assert watch.stdout.readline().startswith("time ")
        watch.stdout.close()
        assert watch.stderr.read() == ""
        assert watch.wait(cli.TIMEOUT) == 0
