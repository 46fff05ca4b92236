"""A libvirtd that wants a login by SASL: libvirt's auth.conf has it, or a sentence says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support import cli, sample, xdr
from tests.support.libvirtd import Reply
from tests.support.procedures import AUTH_SASL

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.support.libvirtd import Answer, Daemon

AUTH_CONF = """\
[credentials-ours]
authname={}
password={}
[auth-libvirt-default]
credentials=ours
"""
ADVICE = "add authname and password to libvirt's auth.conf"


@pytest.fixture
def guarded(daemon: Daemon) -> Daemon:
    daemon.add(sample.domain())
    daemon.on("AUTH_LIST", Reply(xdr.array([xdr.pack("i", AUTH_SASL)])), repeat=True)
    return daemon


def run(
    daemon: Daemon, tmp_path: Path, *login: str, command: str = "stats"
) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "auth.conf"
    file.write_text(AUTH_CONF.format(*login) if login else "")
    return cli.run(command, "--uri", daemon.uri, LIBVIRT_AUTH_FILE=str(file))


def test_the_login_of_auth_conf_is_used_and_all_stays_read_only(
    guarded: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = set()
    arrived = guarded.arrived

    def noted(call: Any) -> Answer | None:
        if call.name == "CONNECT_OPEN":
            flags.add(call.args[1])
        return arrived(call)

    monkeypatch.setattr(guarded, "arrived", noted)
    done = run(guarded, tmp_path, "reader", "s3cret")
    assert (done.returncode, done.stderr) == (0, "")
    assert "sample-1" in done.stdout
    assert guarded.calls["AUTH_SASL_START"] > 0
    assert flags == {1}, "VIR_CONNECT_RO"


def test_doctor_logs_in_too(guarded: Daemon, tmp_path: Path) -> None:
    done = run(guarded, tmp_path, "reader", "s3cret", command="doctor")
    assert "libvirt's daemon 9.0.0" in done.stdout


def test_a_wrong_login_is_told_and_not_shown(guarded: Daemon, tmp_path: Path) -> None:
    done = run(guarded, tmp_path, "reader", "wr0ng")
    [line] = done.stderr.splitlines()
    assert "authentication failed" in line
    assert ADVICE in line
    assert "wr0ng" not in line
    assert done.returncode == 3


def test_without_a_login_it_is_said_what_is_missing(guarded: Daemon, tmp_path: Path) -> None:
    done = run(guarded, tmp_path)
    [line] = done.stderr.splitlines()
    assert ADVICE in line
    assert "group" not in line
    assert (done.returncode, done.stdout) == (3, "")
    assert guarded.calls["AUTH_SASL_START"] == 0


@pytest.mark.parametrize("command", ["stats", "watch"])
def test_nobody_is_asked_on_a_terminal(guarded: Daemon, command: str) -> None:
    with cli.terminal(command, "--uri", guarded.uri, columns=1000) as child:
        assert ADVICE in cli.everything(child)
    assert child.exitstatus == 3
