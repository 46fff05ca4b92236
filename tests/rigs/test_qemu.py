"""Is the rig of real guests what the parity tests rely on, and does it leave nothing behind?"""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from tests.support import guests, qemu
from tests.support.qemu import Guest, Libvirtd, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

REASON = qemu.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

PAUSED = {"disks", "nics", "no-balloon", "many-vcpus", "perf"}


@pytest.fixture
def conn(rig: Libvirtd) -> Iterator[libvirt.virConnect]:
    with closing(libvirt.openReadOnly(rig.uri)) as conn:
        yield conn


def stats(conn: libvirt.virConnect, rig: Libvirtd, what: str) -> dict[str, Any]:
    [(_, found)] = conn.domainListGetStats([rig.guests[what].domain(conn)])
    assert isinstance(found, dict)
    return found


def test_guests_are_in_their_states(rig: Libvirtd, conn: libvirt.virConnect) -> None:
    states = {what: guest.domain(conn).state()[0] for what, guest in rig.guests.items()}
    assert states == {
        "booted": libvirt.VIR_DOMAIN_RUNNING,
        "shutoff": libvirt.VIR_DOMAIN_SHUTOFF,
        **dict.fromkeys(PAUSED, libvirt.VIR_DOMAIN_PAUSED),
    }
    for guest in rig.guests.values():
        assert guest.domain(conn).name() == guest.name


def test_uri_is_read_only(rig: Libvirtd) -> None:
    with closing(libvirt.open(rig.uri)) as conn, pytest.raises(libvirt.libvirtError):
        rig.guests["booted"].domain(conn).suspend()


def test_booted_guest_has_counted(rig: Libvirtd, conn: libvirt.virConnect) -> None:
    found = stats(conn, rig, "booted")
    assert (found["vcpu.current"], found["vcpu.maximum"]) == (2, 4)
    assert (found["block.count"], found["net.count"]) == (2, 1)
    for index in (0, 1):
        for key in ("rd.reqs", "rd.bytes", "rd.times", "wr.reqs", "wr.bytes", "wr.times"):
            assert found[f"block.{index}.{key}"] > 0
        assert found[f"vcpu.{index}.time"] > 0
    for key in ("rx.bytes", "rx.pkts", "tx.bytes", "tx.pkts"):
        assert found[f"net.0.{key}"] > 0
    for key in ("available", "unused", "usable", "last-update", "rss"):
        assert found[f"balloon.{key}"] > 0
    assert found["cpu.time"] > 0


def test_suspended_guest_is_quiet(rig: Libvirtd, conn: libvirt.virConnect) -> None:
    def counters() -> dict[str, Any]:
        found = stats(conn, rig, "booted")
        return {key: found[key] for key in found if key.startswith(("block.", "net."))}

    with rig.guests["booted"].suspended():
        before = counters()
        rig.broadcast()
        # One more packet for its NIC, and nothing else.
        before["net.0.rx.pkts"] += 1
        before["net.0.rx.bytes"] += 42
        wait_for(lambda: counters() == before, "the packet is counted")
    wait_for(lambda: counters() != before, "the guest goes on")


def test_disks(rig: Libvirtd, conn: libvirt.virConnect) -> None:
    domain = rig.guests["disks"].domain(conn)
    found = stats(conn, rig, "disks")
    names = [found[f"block.{index}.name"] for index in range(found["block.count"])]
    assert sorted(names) == ["hda", "hdb", "sda", "vda", "vdb", "vdc"]
    assert domain.blockInfo("vdc")[0] == 16 * guests.MIB
    capacity, _, physical = domain.blockInfo("hda")
    assert physical % 512 != 0
    assert capacity > physical
    with pytest.raises(libvirt.libvirtError):
        domain.blockInfo("hdb")


def test_nics(rig: Libvirtd, conn: libvirt.virConnect) -> None:
    xml = rig.guests["nics"].domain(conn).XMLDesc(0)
    assert xml.count("<target dev='vnet") == xml.count("<interface ") - 1
    for expected in ("name='projMask'", "name='DHCPServer'", "interfaceid=", "type='user'"):
        assert expected in xml


def test_no_balloon(rig: Libvirtd, conn: libvirt.virConnect) -> None:
    assert set(rig.guests["no-balloon"].domain(conn).memoryStats()) <= {"actual", "rss"}


def test_many_vcpus_have_holes(rig: Libvirtd, conn: libvirt.virConnect) -> None:
    found = stats(conn, rig, "many-vcpus")
    present = [index for index in range(8) if f"vcpu.{index}.state" in found]
    assert (found["vcpu.current"], found["vcpu.maximum"], present) == (3, 8, [0, 2, 5])


def test_perf(rig: Libvirtd, conn: libvirt.virConnect) -> None:
    found = stats(conn, rig, "perf")
    assert found["perf.cpu_clock"] > 0
    for name in guests.HARDWARE_EVENTS:
        assert (f"perf.{name}" in found) == rig.hardware_events


@pytest.mark.parametrize(
    ("what", "device"), [("disks", "sda"), ("booted", "vdb"), ("booted", guests.GUEST_MAC)]
)
def test_devices_are_unplugged_for_a_while(
    rig: Libvirtd, conn: libvirt.virConnect, what: str, device: str
) -> None:
    guest = rig.guests[what]
    assert device in guest.domain(conn).XMLDesc(0)
    with guest.unplugged(device):
        assert device not in guest.domain(conn).XMLDesc(0)
    assert device in guest.domain(conn).XMLDesc(0)
    if what == "booted":
        guest.wait_until_busy()


def test_sigstop(rig: Libvirtd) -> None:
    guest = rig.guests["no-balloon"]

    def state() -> str:
        return Path(f"/proc/{guest.pid}/stat").read_text().rpartition(")")[2].split()[0]

    with guest.sigstopped():
        wait_for(lambda: state() == "T", "QEMU stops")
    wait_for(lambda: state() != "T", "QEMU continues")


def test_bulk(rig: Libvirtd, conn: libvirt.virConnect) -> None:
    before = conn.numOfDomains()
    with rig.bulk(3) as bulk:
        assert conn.numOfDomains() == before + 3
        for guest in bulk:
            assert guest.domain(conn).state()[0] == libvirt.VIR_DOMAIN_PAUSED
            assert guest.domain(conn).blockInfo("vdb")[0] == guests.MIB
        pids = [guest.pid for guest in bulk]
    assert conn.numOfDomains() == before
    assert not rig.processes().keys() & set(pids)


def test_bulk_that_runs(rig: Libvirtd, conn: libvirt.virConnect) -> None:
    with rig.bulk(2, running=True) as bulk:
        for guest in bulk:
            domain = guest.domain(conn)
            assert domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING
            [(_, found)] = conn.domainListGetStats([domain])
            for index in (0, 1):
                assert found[f"block.{index}.allocation"] > 0


@pytest.mark.parametrize("kill", [True, False])
def test_guests_outlive_the_daemon(rig: Libvirtd, kill: bool) -> None:
    pids = {what: guest.pid for what, guest in rig.guests.items() if what != "shutoff"}
    daemon = rig.pid
    if kill:
        rig.kill()
        assert daemon not in rig.processes()
        with pytest.raises(libvirt.libvirtError):
            libvirt.openReadOnly(rig.uri)
    rig.restart()
    assert rig.pid != daemon
    assert pids == {what: guest.pid for what, guest in rig.guests.items() if what != "shutoff"}
    with closing(libvirt.openReadOnly(rig.uri)) as conn:
        assert conn.numOfDomains() == len(pids)
        wait_for(lambda: "block.1.wr.bytes" in stats(conn, rig, "booted"), "the monitor is back")


def left_behind(directory: Path, inside: list[int]) -> set[str]:
    """What still exists of a rig: its directory, its processes, whoever else names it."""
    left = {str(path) for path in (directory, *(Path(f"/proc/{pid}") for pid in inside))}
    left = {path for path in left if Path(path).exists()}
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(directory).encode() in cmdline.read_bytes():
                left.add(str(cmdline.parent))
    return left


def test_nothing_is_left_behind() -> None:
    with Libvirtd() as rig:
        guest = Guest(rig, "left", guests.domain_xml("left", kvm=rig.kvm))
        guest.start()
        directory, inside = rig.directory, list(rig.processes())
        assert {rig.pid, guest.pid} < set(inside)
        assert len(left_behind(directory, inside)) > len(inside)
        guest.sigstop()
        rig.stop()
        assert not left_behind(directory, inside)


RIG_THAT_STAYS = """
import sys
from tests.support.qemu import Libvirtd
rig = Libvirtd()
rig.start()
with rig.bulk(1):
    print(rig.directory, *rig.processes(), flush=True)
    sys.stdin.read()
"""


def test_nothing_is_left_behind_by_a_killed_test_run() -> None:
    command = [sys.executable, "-c", RIG_THAT_STAYS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        name, *pids = run.stdout.readline().decode().split()
        run.kill()
    directory, inside = Path(name), [int(pid) for pid in pids]
    wait_for(lambda: not left_behind(directory, inside), "all of the rig is gone")
