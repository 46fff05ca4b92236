"""``virtmeter export`` as a service: what systemd makes of the ways in which it ends."""

from __future__ import annotations

import configparser
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

from tests.cli.exporter import COMMAND, Exporter

TEST = "test:///default"
ROOT = Path(__file__).parents[2]
UNIT = ROOT / "contrib/virtmeter-export.service"
FLEET = ROOT / "docs/fleet.md"
ADDED = re.findall(r"```ini\n(.*?)```", FLEET.read_text(), re.S)

HUNG_UP = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)

class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGHUP)

sys.meta_path.insert(0, Finder())
from virtmeter.cli.__main__ import main
main()
"""


def service() -> configparser.SectionProxy:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.read(UNIT)
    return unit["Service"]


def test_it_needs_no_group_and_no_user_that_a_host_may_not_have() -> None:
    """A unit with a group that is not there fails with status 216, and one with a user 217."""
    assert service()["DynamicUser"] == "yes"
    assert not {"user", "group", "supplementarygroups"}.intersection(service())


@pytest.mark.skipif(which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("added", ["", *ADDED], ids=range(1 + len(ADDED)))
def test_systemd_has_no_objections(tmp_path: Path, added: str) -> None:
    """Nor has it any to what a page adds by ``systemctl edit``."""
    installed = tmp_path / UNIT.name
    command = tmp_path / "virtmeter"  # our own path may have what systemd takes in none
    command.symlink_to(sys.executable)
    installed.write_text(UNIT.read_text().replace("/usr/bin/virtmeter", str(command)))
    edited = tmp_path / f"{UNIT.name}.d/override.conf"
    edited.parent.mkdir()
    edited.write_text(added)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", installed],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_it_serves_the_targets_that_its_options_name(tmp_path: Path) -> None:
    [options] = re.findall(r"OPTIONS=([^']*--targets[^']*)'", FLEET.read_text())
    file = tmp_path / "targets.toml"
    file.write_text('[targets.a]\nuri = "test:///default"\n')
    options = options.replace("/etc/virtmeter/targets.toml", str(file)).replace(
        ":9177", "127.0.0.1:0"
    )
    command = service()["ExecStart"].replace("$OPTIONS", options).split()
    assert command.pop(0) == "/usr/bin/virtmeter"
    with subprocess.Popen([*COMMAND, *command], stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        try:
            assert any("serving" in line for line in started.stderr)
        finally:
            started.terminate()
            started.communicate(timeout=30)
    assert started.returncode == 0


def is_restarted(returncode: int) -> bool:
    """Return whether systemd starts it again, as systemd.service(5) says in its table."""
    section = service()
    assert section["Restart"] == "on-failure"
    forced = section["RestartForceExitStatus"].split()
    if str(returncode) in section["RestartPreventExitStatus"].split():
        return False
    if returncode >= 0:
        return returncode != 0 or "0" in forced
    ended_by = signal.Signals(-returncode)
    clean = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)
    return ended_by not in clean or ended_by.name in forced


@pytest.mark.parametrize(
    "module", ["virtmeter", "virtmeter._native", "click", "virtmeter.cli.export.command", "bcrypt"]
)
def test_a_reload_that_comes_before_it_serves_is_no_end(module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HUNG_UP.format(module=module), "export", "--uri", TEST],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.stderr == ""
    assert is_restarted(ended.returncode)


def test_it_is_stopped_by_sigterm_and_not_by_sighup() -> None:
    with Exporter(TEST) as exporter:
        exporter.hang_up()
        assert exporter.process.poll() is None
        exporter.process.send_signal(signal.SIGTERM)
        assert not is_restarted(exporter.process.wait(30))


def test_what_may_pass_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        command = (*COMMAND, "export", "--uri", TEST, "--listen", listen)
        ended = subprocess.run(command, stderr=subprocess.DEVNULL, timeout=30, check=False)
    assert is_restarted(ended.returncode)
    with Exporter(TEST, ends_with=-signal.SIGKILL) as exporter:
        exporter.process.kill()
        assert is_restarted(exporter.process.wait(30))


def test_wrong_options_are_not_tried_again() -> None:
    command = [*COMMAND, "export", "--uri", TEST, "--deadline", "soon"]
    ended = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert not is_restarted(ended.returncode)
    # Libvirt may come back, and a port may be free again.
    assert is_restarted(1)
    assert is_restarted(3)
