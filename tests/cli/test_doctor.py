"""``virtmeter doctor``: each finding, provoked."""

from __future__ import annotations

import grp
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.cli.exporter import COMMAND
from tests.cli.test_export import of_nova
from tests.support import cli, sample
from tests.support.libvirtd import Never
from tests.support.procedures import (
    VIR_DOMAIN_PAUSED,
    VIR_ERR_INTERNAL_ERROR,
    VIR_FROM_QEMU,
    Error,
)
from tests.support.users import as_nobody
from tests.support.xapi import PASSWORD, synthetic

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.libvirtd import Daemon
    from tests.support.qemu import Libvirtd

TEST = "test:///default"
POOL = "xenserver://monitor@host/?password_file=/nowhere"
VCENTER = "vsphere://monitor@host/?password_file=/nowhere"
# /dev/null over the library: the dynamic linker cannot load it, nor find another.
HIDE = (
    "mount --bind /dev/null \"$(realpath \"$(ldconfig -p | sed -n 's/.*libvirt.so.0.*=> //p' "
    '| head -n 1)")" && exec "$@"'
)
# What is imported later, nobody might not be allowed to read.
AS_NOBODY = """
import os, sys
import virtmeter.cli.main, virtmeter.cli.doctor.command
list(virtmeter.cli.doctor.command.agent([]))
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
virtmeter.cli.main.main()
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "doctor", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Report:
    """What it has found, for tests to look for words in it."""

    def __init__(self, completed: subprocess.CompletedProcess[str], status: int) -> None:
        assert completed.returncode == status, completed.stdout + completed.stderr
        assert completed.stderr == ""
        self.findings = json.loads(completed.stdout)["findings"]

    def has(self, level: str, *words: str) -> bool:
        """Whether one finding of this level has all these words."""
        return any(
            each["level"] == level and all(word in f"{each}" for word in words)
            for each in self.findings
        )

    def levels(self) -> set[str]:
        return {each["level"] for each in self.findings}


def report(*arguments: str, status: int = 0, **environment: str) -> Report:
    return Report(run(*arguments, "--format", "json", **environment), status)


def test_a_host_that_is_well(daemon: Daemon) -> None:
    daemon.add(of_nova(sample.domain()))
    found = report("--uri", daemon.uri)
    assert found.levels() == {"ok"}
    for words in (
        "virtmeter ",
        "libvirt's client library ",
        "libvirt's daemon 9.0.0",
        "hypervisor QEMU 7.2.0",
        "1 VM(s), 1 of them running",
        "no VM hangs",
        "inspect_disk_info: median",
        "block_info",
        "all VMs report their memory",
        "all VMs are OpenStack Nova's",
        "reads libvirt through virtmeter",
    ):
        assert found.has("ok", words), words


def test_in_words(daemon: Daemon) -> None:
    odd = sample.domain()
    odd.name, odd.memory = "red\x1b[31m", {}
    daemon.add(odd)
    completed = run("--uri", daemon.uri)
    assert completed.returncode == 0
    assert completed.stderr == ""
    assert completed.stdout.startswith("ok       virtmeter ")
    assert "warning  memory in use is unknown" in completed.stdout
    assert "\n         -> " in completed.stdout
    assert completed.stdout.endswith("\n0 problem(s), 1 warning(s)\n")
    assert "\x1b" not in completed.stdout


def test_real_guests(rig: Libvirtd) -> None:
    guests = rig.guests
    found = report("--uri", rig.uri)
    assert found.has("ok", "libvirtd, the monolithic daemon")
    assert found.has("warning", "without a balloon", guests["no-balloon"].name)
    assert found.has("warning", "balloon reports nothing", guests["disks"].name, "dommemstat")
    assert not found.has("warning", guests["booted"].name)
    with guests["disks"].sigstopped():
        found = report("--uri", rig.uri, "--timeout", "1", status=1)
    assert found.has("problem", f"{guests['disks'].name} hangs", "QEMU process")
    assert not found.has("problem", guests["nics"].name)


def test_a_vm_that_is_not_novas_among_those_that_are(daemon: Daemon) -> None:
    daemon.add(of_nova(sample.domain(1)), sample.domain(2))
    found = report("--uri", daemon.uri)
    assert found.has("warning", "without OpenStack Nova's metadata", "sample-2")
    assert not found.has("warning", "sample-1")


def test_memory_of_long_ago(daemon: Daemon) -> None:
    """A guest that is paused cannot tell anything, which is no fault of its balloon."""
    crashed, paused, well = (sample.domain(number) for number in (1, 2, 3))
    now = int(time.time())
    crashed.memory[9] = paused.memory[9] = now - 7200
    well.memory[9] = now
    paused.state = VIR_DOMAIN_PAUSED
    daemon.add(crashed, paused, well)
    found = report("--uri", daemon.uri)
    [warning] = [each for each in found.findings if each["level"] == "warning"]
    assert "memory in use is outdated for VMs: sample-1 (2h00m)" in warning["what"]
    assert "sample-2" not in warning["what"]
    assert "sample-3" not in warning["what"]
    assert "dommemstat VM --period 10 --live" in warning["advice"]
    assert "<stats period='10'/>" in warning["advice"]
    assert not found.has("ok", "all VMs report their memory")


def test_incomplete_metadata(daemon: Daemon) -> None:
    domain = of_nova(sample.domain(1))
    domain.xml = domain.xml.replace(" arch='x86_64'", "")
    daemon.add(domain)
    found = report("--uri", daemon.uri)
    assert found.has("warning", "metadata of sample-1 is incomplete", "an architecture")
    assert not found.has("warning", "without OpenStack Nova's metadata")


def test_a_slow_daemon(daemon: Daemon) -> None:
    daemon.add(sample.domain())
    daemon.latency["DOMAIN_GET_BLOCK_INFO"] = 0.5
    found = report("--uri", daemon.uri)
    assert found.has("warning", "inspect_disk_info: median", "overloaded")


def test_a_reading_that_is_refused(daemon: Daemon) -> None:
    daemon.add(sample.domain())
    refused = Error(VIR_ERR_INTERNAL_ERROR, VIR_FROM_QEMU, "no such luck")
    daemon.on("DOMAIN_GET_XML_DESC", refused, repeat=True)
    assert report("--uri", daemon.uri).has("warning", "sample-1: inspect_vnics", "no such luck")


def test_a_device_that_is_refused(daemon: Daemon) -> None:
    domain = sample.domain()
    domain.interfaces = {}
    daemon.add(domain)
    found = report("--uri", daemon.uri)
    assert found.has("warning", "sample-1: ", "tap1", "is left out", "virsh domifstat")


def test_no_vms_at_all(daemon: Daemon) -> None:
    found = report("--uri", daemon.uri)
    assert found.levels() == {"ok"}
    assert found.has("ok", "0 VM(s), 0 of them running")


def test_no_socket() -> None:
    found = report("--uri", "qemu+unix:///system?socket=/nowhere", status=1)
    assert found.has("problem", "there is no socket /nowhere", "systemctl start")


def test_too_few_descriptors() -> None:
    script = 'ulimit -n 40; exec "$@"'
    done = cli.shell(script, "doctor", "--format", "json", "--uri", TEST)
    assert Report(done, 1).has("problem", "with 4 workers", "only 40 are allowed", "ulimit -n")


def test_just_enough_descriptors_are_enough_while_vms_hang(daemon: Daemon) -> None:
    """libvirt's library would end the process: it has two inspectors, and each has its VMs."""
    domains = [sample.domain(number, bulk=True) for number in range(1, 61)]
    daemon.add(*domains)
    for domain in domains[:30]:
        domain.hung = True
    options = ("--workers", "1", "--timeout", "0.3", "--sample", "60", "--format", "json")
    command = ("doctor", "--uri", daemon.uri, *options)
    done = cli.shell('ulimit -n 40; exec "$@"', *command)
    needed = re.search(r"(\d+) file descriptors are needed, and only 40 are allowed", done.stdout)
    assert needed
    done = cli.shell(f'ulimit -n {needed[1]}; exec "$@"', *command)
    assert Report(done, 1).has("problem", "sample-1 hangs")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("qemu+tcp://[::1/system", "cannot open the URI"),
        ("qemu+tcp://\u2100/system", "cannot open the URI"),
        ("qemu:///system?socket=%00", "there is no socket"),
        (f"qemu:///system?socket=/{'x' * 300}", "there is no socket"),
        ("qemu:///system?socket=/dev/null%0a", "there is no socket"),
    ],
)
def test_a_uri_that_is_none(uri: str, words: str) -> None:
    assert report("--uri", uri, status=1).has("problem", words)
    assert report("--uri", TEST, LIBVIRT_DEFAULT_URI=uri)


def test_a_socket_whose_path_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 110)
    path.touch()
    found = report("--uri", f"qemu:///system?socket={quote(str(path))}", status=1)
    assert found.has("problem", "cannot be used: AF_UNIX path too long")
    assert not found.has("problem", "restart it")


def test_a_socket_that_nobody_listens_at(daemon: Daemon) -> None:
    daemon.stop(keep_socket_file=True)
    found = report("--uri", daemon.uri, status=1)
    assert found.has("problem", f"nothing listens on libvirt's socket {daemon.socket_path}")


def test_a_daemon_that_says_nothing(daemon: Daemon) -> None:
    daemon.on("CONNECT_OPEN", Never(), repeat=True)
    found = report("--uri", daemon.uri, "--timeout", "0.5", status=1)
    assert found.has("ok", "libvirt's client library ")
    assert found.has("ok", "the socket", "is open to")
    assert found.has("problem", "did not answer within 0.5 s")


@as_nobody
@pytest.mark.parametrize(
    ("mode", "directory", "words"),
    [
        (0o660, 0o755, "usermod -aG daemon "),
        (0o600, 0o755, "unix_sock_ro_perms"),
        (0o666, 0o750, "usermod -aG daemon "),
    ],
)
def test_a_socket_that_is_forbidden(daemon: Daemon, mode: int, directory: int, words: str) -> None:
    group = grp.getgrnam("daemon").gr_gid
    for path, bits in ((daemon.socket_path, mode), (daemon.socket_path.parent, directory)):
        os.chown(path, 0, group)
        path.chmod(bits)
    command = [sys.executable, "-c", AS_NOBODY, "doctor", "--uri", daemon.uri, "--format", "json"]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = Report(completed, 1)
    assert found.has("problem", "nobody may not use libvirt's", words)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide the library in a namespace")
def test_no_libvirt_library() -> None:
    command = [*COMMAND, "doctor", "--uri", TEST, "--format", "json"]
    completed = subprocess.run(
        ["unshare", "--mount", "sh", "-c", HIDE, "sh", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = Report(completed, 1)
    assert found.has("problem", "needs the system's libvirt client library", "libvirt0")


@pytest.mark.parametrize(
    ("configured", "level", "words"),
    [
        ("[virtmeter]\nenabled = false\n", "warning", "[virtmeter] enabled is false"),
        ("[virtmeter]\nenabled = perhaps\n", "warning", "enabled: 'perhaps' is not true or false"),
        ("[virtmeter]\ntimeout = 0\n", "warning", "timeout: '0' is not a number from 0.01 to"),
        ("[virtmeter\n", "warning", "cannot be read: ConfigFileParseError at "),
        ("[DEFAULT]\ns3cret\n", "warning", "ceilometer.conf:2"),
        ("[DEFAULT]\n s3cret\n", "warning", "ceilometer.conf:2"),
        ("[DEFAULT]\nhypervisor_inspector = $s3cret\n", "warning", "cannot be read: "),
        ("", "ok", "reads libvirt through virtmeter"),
        (f"[virtmeter]\nuri = {POOL}\n", "ok", "reads XenServer through virtmeter"),
        (
            f"[virtmeter]\nuri = {VCENTER}\n",
            "ok",
            "'virtmeter doctor --uri' with the URI in [virtmeter] checks that",
        ),
        ("[virtmeter]\nuri = vsphere://monitor:s3cret@host/\n", "warning", "has a password in it"),
        (
            "[virtmeter]\nenabled = no\nuri = vsphere://monitor:s3cret@host/\n",
            "warning",
            "[virtmeter] enabled is false",
        ),
    ],
)
def test_ceilometers_configuration(tmp_path: Path, configured: str, level: str, words: str) -> None:
    directory = tmp_path / ".ceilometer"
    directory.mkdir()
    (directory / "ceilometer.conf").write_text(configured)
    found = report("--uri", TEST, HOME=str(tmp_path))
    assert found.has(level, "Ceilometer", words)
    assert "s3cret" not in str(found.findings)


@pytest.mark.parametrize(
    "line",
    ["hypervisor_inspector = vsphere", "hypervisor_inspector = virtmeter", "libvirt_type = x"],
)
def test_a_value_with_which_the_agent_does_not_start(tmp_path: Path, line: str) -> None:
    """Releases before 24 knew more inspectors."""
    directory = tmp_path / ".ceilometer"
    directory.mkdir()
    configured = f"[DEFAULT]\n{line}\n[virtmeter]\nuri = {VCENTER}\n"
    (directory / "ceilometer.conf").write_text(configured)
    found = report("--uri", TEST, status=1, HOME=str(tmp_path))
    assert found.has(
        "problem", "Ceilometer 27", f"does not start: its configuration has a {line[:12]}"
    )


def test_the_agents_own_configuration_goes_before_that_of_all_ceilometer(tmp_path: Path) -> None:
    directory = tmp_path / ".ceilometer"
    directory.mkdir()
    (directory / "ceilometer.conf").write_text("[virtmeter]\nenabled = true\n")
    (directory / "ceilometer-polling.conf").write_text("[virtmeter]\nenabled = false\n")
    found = report("--uri", TEST, HOME=str(tmp_path))
    assert found.has("warning", "Ceilometer", "[virtmeter] enabled is false")


HOST = socket.gethostname()


@pytest.mark.parametrize(
    ("ceilometer", "nova", "level", "words"),
    [
        ("", "", "ok", f"Ceilometer and Nova both call this host {HOST}"),
        ("host = a\n", "host = a\n", "ok", "Ceilometer and Nova both call this host a"),
        (
            "",
            "host = a.example\n",
            "warning",
            f"Ceilometer calls this host {HOST}, Nova calls it a",
        ),
        ("host = a\n", "", "warning", f"Ceilometer calls this host a, Nova calls it {HOST}"),
        ("host = a\n", "host = b\n", "warning", "set 'host = b' in [DEFAULT] of ceilometer.conf"),
        ("", "host = $my_ip\n", "warning", "cannot be compared"),
        ("", "s3cret\n", "warning", "cannot be compared: ConfigFileParseError at "),
    ],
)
def test_the_host_of_ceilometer_is_novas(
    tmp_path: Path, ceilometer: str, nova: str, level: str, words: str
) -> None:
    for project, host in (("ceilometer", ceilometer), ("nova", nova)):
        directory = tmp_path / f".{project}"
        directory.mkdir()
        (directory / f"{project}.conf").write_text(f"[DEFAULT]\n{host}")
    found = report("--uri", TEST, HOME=str(tmp_path))
    assert found.has(level, words), found.findings
    assert "s3cret" not in str(found.findings)
    if "cannot" in words:
        return
    # What is said of nova-compute alone comes after what is said of all of Nova.
    (tmp_path / ".nova/nova-compute.conf").write_text("[DEFAULT]\nhost = c\n")
    assert report("--uri", TEST, HOME=str(tmp_path)).has("warning", "Nova calls it c:")


def test_where_nova_is_not_configured_no_host_is_compared(tmp_path: Path) -> None:
    (tmp_path / ".ceilometer").mkdir()
    (tmp_path / ".ceilometer/ceilometer.conf").write_text("[DEFAULT]\nhost = a\n")
    found = report("--uri", TEST, HOME=str(tmp_path))
    assert not any("Nova" in each["what"] for each in found.findings if "host" in each["what"])


def test_nothing_is_left_of_one_that_is_ended_while_a_daemon_hangs(tmp_path: Path) -> None:
    """The process that asks for versions waits for a daemon by itself."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path := tmp_path / "sock"))
        listener.listen()
        file = tmp_path / "targets.toml"
        file.write_text(f'[targets.kvm]\nuri = "qemu+unix:///system?socket={path}"\n')
        command = [*COMMAND, "doctor", "--targets", str(file), "--timeout", "5"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            listener.settimeout(30)
            client, _ = listener.accept()
            process.terminate()
        assert process.returncode == 128 + signal.SIGTERM
    with client:
        client.settimeout(30)
        while client.recv(4096):
            pass  # what it asks; its end is that of the process


def test_ctrl_c(daemon: Daemon) -> None:
    daemon.add(sample.domain())
    daemon.on("DOMAIN_GET_BLOCK_INFO", Never(), repeat=True)
    completed = cli.interrupted(
        *("doctor", "--uri", daemon.uri, "--timeout", "60"),
        when=lambda: bool(daemon.calls["DOMAIN_GET_BLOCK_INFO"]),
    )
    assert (completed.returncode, completed.stderr.strip()) == (130, "")


def test_many_targets(daemon: Daemon, tmp_path: Path) -> None:
    """Each finding is of its target; version and agent are looked at once."""
    daemon.add(sample.domain(1))
    file = tmp_path / "targets.toml"
    well = f'[targets.well]\nuri = "{daemon.uri}"\n'
    away = '[targets.away]\nuri = "qemu+unix:///system?socket=/nonexistent/sock"\n'
    file.write_text(away + well)
    found = report("--targets", str(file), status=1)
    assert [each for each in found.findings if "target" not in each] == []
    of = {
        target: [each["what"] for each in found.findings if each["target"] == target]
        for target in (None, "away", "well")
    }
    assert [what.split()[0] for what in of[None]] == ["virtmeter", "Ceilometer"]
    assert found.has("problem", "'target': 'away'", "/nonexistent/sock")
    assert found.has("ok", "'target': 'well'", "libvirt answers: 1 VM(s)")
    assert not any(
        each["level"] == "problem" for each in found.findings if each["target"] == "well"
    )
    assert any("virtmeter" in each["what"] for each in report("--uri", TEST).findings)
    assert not any("target" in each for each in report("--uri", TEST).findings)
    done = run("--targets", str(file))
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert [line for line in lines if line in ("away", "well")] == ["away", "well"]
    assert lines[-1].endswith(" warning(s); problems with away")
    done = run("--targets", str(file), "--uri", TEST)
    assert done.returncode == 2
    file.write_text(well)
    assert run("--targets", str(file)).returncode == 0


@pytest.mark.parametrize("many", [False, True], ids=["--uri", "--targets"])
def test_ctrl_c_leaves_no_session_behind(tmp_path: Path, many: bool) -> None:
    with synthetic(hosts=1, vms=1, delay=0.0) as pool:
        password = tmp_path / "password"
        password.touch(mode=0o600)
        password.write_text(PASSWORD)
        uri = f"{pool.uri()}&password_file={password}"
        file = tmp_path / "targets.toml"
        file.write_text(f'[targets.pool]\nuri = "{uri}"\n')
        what = ("--targets", str(file)) if many else ("--uri", uri)
        completed = cli.interrupted(
            *("doctor", *what, "--check-rows", "500"),
            when=lambda: pool.count("GET /rrd_updates") > 1,
        )
        assert (completed.returncode, completed.stderr.strip()) == (130, "")
        assert pool.count("session.logout") == pool.count("session.login_with_password")
