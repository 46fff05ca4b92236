"""Without ``--uri``: whatever goes wrong names the URI that was tried, and where it comes from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import virtmeter
from tests.support import cli
from tests.support.libvirtd import Daemon, Never
from virtmeter.cli import connection, default_uri
from virtmeter.cli.doctor import versions

CONFIGURATION = Path("/etc/libvirt/libvirt.conf")
COMMANDS = (
    ("stats",),
    ("watch",),
    ("export", "--once"),
    ("doctor",),
    ("doctor", "--format", "json"),
)
SECRET = "qemu+tcp://user:secret@127.0.0.1:1/system"


def unquoted(done: subprocess.CompletedProcess[str]) -> str:
    """Return what was said, without what JSON makes of it."""
    return (done.stdout + done.stderr).replace('\\"', '"').replace("\\\\", "\\")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("x://[", 'cannot open the URI "x://["'),
        ("nothing\x1b[2J:///", "nothing\\x1b[2J:///"),
        (SECRET, "no connection to qemu+tcp://user:***@127.0.0.1:1/system"),
    ],
    ids=["none", "escape", "password"],
)
def test_of_the_environment(command: tuple[str, ...], uri: str, words: str) -> None:
    done = cli.run(*command, LIBVIRT_DEFAULT_URI=uri, COLUMNS="1000")
    said = unquoted(done)
    assert words in said
    assert "the URI comes from LIBVIRT_DEFAULT_URI" in said
    assert "secret" not in said
    assert done.returncode == (1 if command[0] == "doctor" or uri != SECRET else 3)


def test_of_the_environment_when_the_list_hangs(daemon: Daemon) -> None:
    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", Never(), repeat=True)
    done = cli.run("stats", "--timeout", "0.5", LIBVIRT_DEFAULT_URI=daemon.uri)
    assert done.stderr.startswith(f"virtmeter: listing the instances of {daemon.uri} hangs: ")
    assert done.stderr.endswith("; the URI comes from LIBVIRT_DEFAULT_URI\n")


def test_one_that_is_given_needs_no_explanation() -> None:
    done = cli.run("stats", "--uri", "x://[", LIBVIRT_DEFAULT_URI="test:///default")
    assert 'cannot open the URI "x://["' in done.stderr
    assert "comes from" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process its own /etc")
@pytest.mark.skipif(not CONFIGURATION.exists(), reason="libvirt's configuration is not installed")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("uri", ["x://[", SECRET], ids=["none", "password"])
def test_of_libvirts_configuration(tmp_path: Path, command: tuple[str, ...], uri: str) -> None:
    file = tmp_path / "libvirt.conf"
    file.write_text(f'#uri_default = "a:///"\nuri_default = "{uri}"\nuri_default = "b:///"\n')
    script = f"mount --bind '{file}' {CONFIGURATION} && exec \"$@\""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *cli.COMMAND, *command],
        capture_output=True,
        text=True,
        check=False,
        env=cli.environment(COLUMNS="1000"),
    )
    said = unquoted(done)
    assert uri.replace("secret", "***") in said
    assert f"; the URI comes from {CONFIGURATION}" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("content", "uri"),
    [
        ('uri_default = "qemu:///system"', "qemu:///system"),
        ("  uri_default='qemu:///session' # why", "qemu:///session"),
        ('a = 1\nuri_default="x"\nuri_default="y"', "x"),
        ('# uri_default = "x"', None),
        ('my_uri_default = "x"', None),
        ('uri_default = ""', None),
        ("uri_default = \udcff", None),
        ("", None),
    ],
)
def test_libvirts_configuration_of_a_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, uri: str | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_uri.configured() is None
    file = tmp_path / "libvirt/libvirt.conf"
    file.parent.mkdir()
    file.write_text(content, errors="surrogateescape")
    assert default_uri.configured() == (uri and (uri, file))


def test_a_user_without_a_home_has_no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as a user whom it does not know."""
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert default_uri.configured() is None


def test_a_command_that_has_failed_does_not_go_on_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_uri, "configured", lambda: None)
    message = "no connection to libvirt's default URI for instance x: y"
    with (
        pytest.raises(virtmeter.ConnectionLost, match=f"^{message}$"),
        connection.inspector("", 1, 1),
    ):
        raise virtmeter.ConnectionLost(f"{message}; virtmeter keeps trying", instance_id="x")


def test_no_uri_is_an_argument_that_others_can_see(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        assert not any("secret" in each for each in command)
        return subprocess.CompletedProcess(command, 0, b'["virtmeter", "1"]\n')

    monkeypatch.setattr(subprocess, "run", run)
    assert [each.what for each in versions.versions(SECRET, 1)] == ["virtmeter 1"]
