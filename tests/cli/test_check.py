"""``virtmeter check``: equal values are found equal, others are named, and nothing holds it up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from tests.cli.exporter import COMMAND
from tests.support import cli, sample
from tests.support.libvirtd import Never
from tests.support.qemu import wait_for
from virtmeter.cli.check import child, documented
from virtmeter.cli.check.differences import agrees

if TYPE_CHECKING:
    from tests.support.libvirtd import Daemon
    from tests.support.qemu import Libvirtd

ROOT = Path(__file__).parents[2]
TEST = "test:///default"

WRONG = """
from ceilometer.compute.virt.libvirt import inspector

inspect_disk_info = inspector.LibvirtInspector.inspect_disk_info

def wrong(self, instance, duration):
    for info in inspect_disk_info(self, instance, duration):
        yield info._replace(capacity=info.capacity + 1)

inspector.LibvirtInspector.inspect_disk_info = wrong
"""
NO_CEILOMETER = """
import sys
sys.modules["ceilometer"] = None
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "check", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def report(*arguments: str, status: int = 0, **environment: str) -> dict[str, Any]:
    completed = run(*arguments, "--format", "json", **environment)
    assert completed.returncode == status, completed.stdout + completed.stderr
    assert completed.stdout, completed.stderr
    found: dict[str, Any] = json.loads(completed.stdout)
    return found


def test_real_guests_are_equal(rig: Libvirtd) -> None:
    found = report("--uri", rig.uri)
    assert (found["differences"], found["no_answer"]) == ([], [])
    assert found["vms"] == len(rig.guests)
    assert found["values"] > 100
    assert set(found["seconds"]) == {
        *("inspect_instance", "inspect_vnics", "inspect_disks", "inspect_disk_info")
    }
    assert all(took[who] > 0 for took in found["seconds"].values() for who in took)


def test_those_that_were_asked_for(rig: Libvirtd) -> None:
    completed = run("--uri", rig.uri, "*-disks", rig.guests["nics"].uuid)
    assert completed.returncode == 0
    assert "values of 2 VM(s) compared: no difference(s)" in completed.stdout
    assert run("--uri", rig.uri, "nobody").returncode == 2


def test_a_guest_that_hangs_is_named_and_the_others_are_compared(rig: Libvirtd) -> None:
    guest = rig.guests["perf"]
    with guest.sigstopped():
        found = report("--uri", rig.uri, "--timeout", "2", status=1)
    assert found["no_answer"] == [{"id": guest.uuid, "name": guest.name}]
    assert found["differences"] == []
    assert found["values"] > 100


def test_a_wrong_value_is_named(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WRONG)
    daemon.add(sample.domain())
    completed = run("--uri", daemon.uri, PYTHONPATH=str(tmp_path))
    assert completed.returncode == 1
    what = f"inspect_disk_info vda capacity: stock {(1 << 30) + 1}, virtmeter {1 << 30}"
    assert what in completed.stdout
    assert "1 difference(s)" in completed.stdout
    [difference] = report("--uri", daemon.uri, status=1, PYTHONPATH=str(tmp_path))["differences"]
    assert difference["field"] == "capacity"
    assert difference["documented"] is None


def test_what_is_documented_is_no_failure(daemon: Daemon) -> None:
    domain = sample.domain()
    domain.disks["vda"].flags.clear()
    domain.name = "red\x1b[31m"
    daemon.add(domain)
    completed = run("--uri", daemon.uri)
    assert completed.returncode == 0
    assert f"differs as documented: {documented.TOTAL_TIMES}" in completed.stdout
    assert "no difference(s), and 1 as documented" in completed.stdout
    assert "\x1b" not in completed.stdout
    assert r"red\x1b[31m" in completed.stdout


def test_the_rows_are_those_of_the_page() -> None:
    page = (ROOT / "docs/parity.md").read_text()
    rows = [row for name, row in vars(documented).items() if name.isupper() and row]
    assert len(rows) == 6
    assert [row for row in rows if f"| {row} |" not in page] == []


def test_no_vms_at_all(daemon: Daemon) -> None:
    completed = run("--uri", daemon.uri)
    assert completed.returncode == 0
    assert "0 values of 0 VM(s) compared" in completed.stdout


def test_what_is_missing_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_CEILOMETER)
    completed = run("--uri", TEST, PYTHONPATH=str(tmp_path))
    assert completed.returncode == 1
    assert completed.stdout == ""
    assert len(completed.stderr.splitlines()) == 1
    assert "check needs Ceilometer and libvirt-python" in completed.stderr


def test_a_process_that_cannot_be_started_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "COMMAND", ("/nowhere/python",))
    line = r"the stock inspector does not start: .*/nowhere/python"
    with pytest.raises(click.ClickException, match=line):
        child.Stock("test:///default", 1.0).__enter__()


def test_libvirt_away() -> None:
    completed = run("--uri", "qemu+unix:///system?socket=/nowhere")
    assert completed.returncode == 3
    assert completed.stdout == ""
    assert "Traceback" not in completed.stderr


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_while_the_stock_inspector_hangs(
    daemon: Daemon, number: signal.Signals, status: int
) -> None:
    daemon.add(sample.domain())
    # virtmeter has its answers to what only the stock inspector asks for.
    daemon.on("DOMAIN_GET_INFO", Never(), repeat=True)
    completed = cli.interrupted(
        *("check", "--uri", daemon.uri, "--timeout", "60"),
        when=lambda: bool(daemon.calls["DOMAIN_GET_INFO"]),
        number=number,
    )
    assert (completed.returncode, completed.stderr.strip()) == (status, "")
    wait_for(lambda: daemon.open_connections == 0, "its child is gone too")


@pytest.mark.parametrize(
    ("field", "first", "stock", "last", "right"),
    [
        ("read_bytes", 1, 2, 3, True),
        ("read_bytes", 1, 1, 3, True),
        ("read_bytes", 1, 4, 3, False),
        ("read_bytes", 3, 2, 1, False),
        ("read_bytes", 1, 2.0, 3, False),
        ("read_bytes", 1, None, 3, False),
        ("memory_usage", 3.0, 2.0, 1.0, True),
        ("memory_usage", None, None, 1.0, True),
        ("memory_usage", 1.0, 3.0, 2.0, False),
        ("name", "tap1", "tap2", "tap1", False),
        ("parameters", {"ip": None}, {"ip": None}, {}, True),
        ("vcpu_wait", "(missing)", 1, "(missing)", False),
    ],
)
def test_a_value_must_lie_between(
    field: str, first: Any, stock: Any, last: Any, right: bool
) -> None:
    assert agrees(field, first, stock, last) is right
