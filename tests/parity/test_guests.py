"""Parity on real QEMU guests under a real libvirtd: every field of all four methods."""

from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import virtmeter
from tests.support import sample
from tests.support.oracle import METHODS, Outcome, Pair, outcome, shared_fields, values
from tests.support.qemu import wait_for

if TYPE_CHECKING:
    from tests.support.qemu import Guest, Libvirtd

PAUSED = ["disks", "nics", "no-balloon", "many-vcpus", "perf"]


def assert_equal(pair: Pair, guest: Guest) -> dict[str, Outcome]:
    """Compare all methods; ours is taken between two of the oracle's that agree.

    A guest whose vCPUs stand still may still be charged some CPU time, or lose a page.
    """
    outcomes = {}
    for method in METHODS:
        for _ in range(50):
            before, ours, after = (
                outcome(inspector, method, guest.uuid)
                for inspector in (pair.stock, pair.ours, pair.stock)
            )
            if before == after:
                break
        assert before == after, f"{method}: {guest.name} does not stand still"
        assert ours == before, f"{method}: virtmeter says {ours}, the oracle {before}"
        outcomes[method] = ours
    return outcomes


@pytest.mark.parametrize("what", PAUSED)
@pytest.mark.parametrize("report_stopped", [False, True])
def test_paused_guests(rig: Libvirtd, what: str, report_stopped: bool) -> None:
    outcomes = assert_equal(Pair(rig.uri, report_stopped=report_stopped), rig.guests[what])
    assert values(outcomes["inspect_instance"], "power_state") == [virtmeter.PowerState.PAUSED]


def test_all_kinds_of_disks(rig: Libvirtd) -> None:
    outcomes = assert_equal(Pair(rig.uri), rig.guests["disks"])
    # Raw, qcow2, qcow2 with a backing file, NBD, and a CD-ROM with a medium; not the empty one.
    devices = values(outcomes["inspect_disks"], "device")
    assert len(devices) == 5
    assert "hdb" not in devices
    assert values(outcomes["inspect_disk_info"], "device") == devices
    assert set(values(outcomes["inspect_disks"], "errors")) == {-1}


def test_all_kinds_of_nics(rig: Libvirtd) -> None:
    outcomes = assert_equal(Pair(rig.uri), rig.guests["nics"])
    nics = values(outcomes["inspect_vnics"], "parameters")
    parameters = [{name: value for name, (_, value) in found} for found in nics]
    assert len(parameters) == 4
    assert "virtmeter-test-filter" in values(outcomes["inspect_vnics"], "fref")
    names = {name for found in parameters for name in found}
    assert names > {"interfaceid", "bridge"}
    assert all(name == name.lower() for name in names)
    assert any(found["interfaceid"] for found in parameters)


def test_vcpus_with_holes_and_no_balloon(rig: Libvirtd) -> None:
    pair = Pair(rig.uri)
    vcpus = assert_equal(pair, rig.guests["many-vcpus"])["inspect_instance"]
    assert values(vcpus, "cpu_number") == [3]
    no_balloon = assert_equal(pair, rig.guests["no-balloon"])["inspect_instance"]
    assert values(no_balloon, "memory_actual") == [None]


@pytest.mark.parametrize("report_stopped", [False, True])
def test_a_guest_that_is_shut_off(rig: Libvirtd, report_stopped: bool) -> None:
    outcomes = assert_equal(Pair(rig.uri, report_stopped=report_stopped), rig.guests["shutoff"])
    shut_off = "InstanceShutOffException"
    assert (outcomes["inspect_vnics"], outcomes["inspect_disks"]) == (shut_off, shut_off)
    reported = outcomes["inspect_instance"] != shut_off, outcomes["inspect_disk_info"] != shut_off
    assert reported == (report_stopped, report_stopped)


def test_a_guest_that_has_booted_and_is_suspended(rig: Libvirtd) -> None:
    guest = rig.guests["booted"]
    with guest.suspended():
        outcomes = assert_equal(Pair(rig.uri), guest)
    instance = outcomes["inspect_instance"]
    for name in ("cpu_time", "memory_actual", "memory_available", "memory_usage"):
        assert values(instance, name)[0] > 0, name
    for name in ("read_bytes", "write_bytes", "read_requests", "write_requests", "wr_total_times"):
        assert all(value > 0 for value in values(outcomes["inspect_disks"], name)), name
    for name in ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets"):
        assert all(value > 0 for value in values(outcomes["inspect_vnics"], name)), name


def test_a_guest_that_runs(rig: Libvirtd) -> None:
    pair, guest = Pair(rig.uri), rig.guests["booted"]
    instance = SimpleNamespace(id=guest.uuid)
    moving = ("cpu_time", "rx_", "tx_", "read_", "write_", "rd_", "wr_")
    for method in METHODS:
        # In this order: the oracle's generators read only when they are asked for their records.
        before, ours, after = (
            [answer] if method == "inspect_instance" else list(answer)
            for answer in (
                getattr(inspector, method)(instance, None)
                for inspector in (pair.stock, pair.ours, pair.stock)
            )
        )
        assert len(before) == len(ours) == len(after)
        for earlier, reading, later in zip(before, ours, after):
            for name in shared_fields(reading):
                low, value, high = (getattr(r, name) for r in (earlier, reading, later))
                if name.startswith(moving) and not name.endswith("_delta"):
                    assert low <= value <= high, name
                elif not name.endswith(("_delta", "_usage", "_resident", "allocation", "physical")):
                    assert low == value == high, name


def test_what_the_stock_inspector_does_not_read(rig: Libvirtd) -> None:
    guest, inspector = rig.guests["booted"], virtmeter.LibvirtInspector(rig.uri)
    with guest.suspended(), closing(rig.connect()) as conn:
        domain = guest.domain(conn)
        # What the guest's balloon has sent just before may still be on its way.
        for _ in range(50):
            memory = domain.memoryStats()
            stats = inspector.inspect_instance(guest.uuid)
            if memory == domain.memoryStats():
                break
        [(_, groups)] = conn.domainListGetStats([domain])
        disks = list(inspector.inspect_disks(guest.uuid))
        flags = [domain.blockStatsFlags(disk.device) for disk in disks]
    assert stats.memory_major_faults == memory["major_fault"]
    assert stats.memory_minor_faults == memory["minor_fault"] > 0
    assert stats.memory_disk_caches == memory["disk_caches"] / 1024 > 0
    # A guest's kernel without huge pages tells of none.
    assert stats.memory_hugetlb_allocations == memory.get("hugetlb_pgalloc")
    assert stats.memory_hugetlb_failures == memory.get("hugetlb_pgfail")
    assert stats.memory_updated == memory["last_update"] > 0
    times = {"time": stats.vcpu_time, "wait": stats.vcpu_wait, "delay": stats.vcpu_delay}
    for name, ours in times.items():
        assert type(ours) is int, name
        # The threads of vCPUs that stand still may still wait for a CPU.
        assert 0 <= ours <= sum(groups[f"vcpu.{number}.{name}"] for number in (0, 1))
    for disk, counters in zip(disks, flags):
        assert disk.flush_requests == counters["flush_operations"] > 0
        assert disk.flush_total_times == counters["flush_total_times"] > 0


def test_deltas_of_a_known_packet(rig: Libvirtd) -> None:
    guest, pair = rig.guests["booted"], Pair(rig.uri)
    other = virtmeter.LibvirtInspector(rig.uri)
    with guest.suspended():
        [before] = other.inspect_vnics(guest.uuid)
        pair.assert_equal(guest.uuid, "inspect_vnics")
        rig.broadcast()
        wait_for(
            lambda: next(other.inspect_vnics(guest.uuid)).rx_packets > before.rx_packets,
            "the packet is counted",
        )
        for expected in (42, 0):
            outcomes = pair.assert_equal(guest.uuid, "inspect_vnics")
            assert values(outcomes["inspect_vnics"], "rx_bytes_delta") == [expected]
            assert values(outcomes["inspect_vnics"], "tx_bytes_delta") == [0]


def test_a_guest_that_nobody_knows(rig: Libvirtd) -> None:
    outcomes = Pair(rig.uri).assert_equal("11111111-2222-3333-4444-555555555555")
    assert set(outcomes.values()) == {"InstanceNotFoundException"}


def test_list_instances(rig: Libvirtd) -> None:
    listed = {i.id: i for i in virtmeter.LibvirtInspector(rig.uri).list_instances()}
    assert {i.name for i in listed.values()} == {guest.name for guest in rig.guests.values()}
    states = {what: listed[guest.uuid].state for what, guest in rig.guests.items()}
    assert states == {"booted": 1, "shutoff": 5, **dict.fromkeys(PAUSED, 3)}


def test_a_device_that_is_unplugged_and_plugged_in_again(rig: Libvirtd) -> None:
    pair, guest = Pair(rig.uri), rig.guests["disks"]
    with_it = pair.assert_equal(guest.uuid, "inspect_disks", "inspect_disk_info")
    with guest.unplugged("sda"):
        without = pair.assert_equal(guest.uuid, "inspect_disks", "inspect_disk_info")
        for outcome_ in without.values():
            assert "sda" not in values(outcome_, "device")
    again = pair.assert_equal(guest.uuid, "inspect_disks", "inspect_disk_info")
    for outcomes in (with_it, again):
        for outcome_ in outcomes.values():
            assert "sda" in values(outcome_, "device")


def test_a_libvirtd_that_is_killed_and_comes_back(rig: Libvirtd) -> None:
    inspector, guest = virtmeter.LibvirtInspector(rig.uri), rig.guests["nics"]
    before = [list(method(guest.uuid)) for method in lists(inspector)]
    rig.kill()
    try:
        for method in (inspector.inspect_instance, *lists(inspector)):
            with pytest.raises(virtmeter.ConnectionLost):
                method(guest.uuid)
    finally:
        rig.restart()
    sample.read_again(inspector, "inspect_vnics", guest.uuid)
    assert [list(method(guest.uuid)) for method in lists(inspector)] == before


def lists(inspector: virtmeter.LibvirtInspector) -> list[Any]:
    return [inspector.inspect_vnics, inspector.inspect_disks, inspector.inspect_disk_info]


def test_guests_that_are_destroyed_and_started_again(rig: Libvirtd) -> None:
    pair, guest = Pair(rig.uri, report_stopped=True), rig.guests["no-balloon"]
    guest.destroy()
    try:
        assert_equal(pair, guest)
        guest.undefine()
        gone = pair.assert_equal(guest.uuid)
        assert set(gone.values()) == {"InstanceNotFoundException"}
    finally:
        guest.start()
    assert values(assert_equal(pair, guest)["inspect_instance"], "power_state") == [3]


def test_all_that_a_guest_has_received_since_its_start_is_new(rig: Libvirtd) -> None:
    guest = rig.guests["nics"]

    def received() -> int:
        return sum(max(nic.rx_bytes, 0) for nic in inspector.inspect_vnics(guest.uuid))

    with virtmeter.LibvirtInspector(rig.uri, max_age=0) as inspector:
        rig.broadcast()
        wait_for(lambda: received() > 0, "a packet")
        inspector.usage(guest.uuid)
        guest.destroy()
        guest.start()
        rig.broadcast()
        wait_for(lambda: received() > 0, "a packet")
        least, usage, most = received(), inspector.usage(guest.uuid), received()
    assert usage.network_read_kib is not None
    assert least <= usage.network_read_kib * 1024 <= most
    assert usage.disk_read_requests == 0
    assert usage.network_interval
    assert usage.interval
    assert usage.network_interval <= usage.interval


def test_usage_is_reckoned_from_the_same_counters(rig: Libvirtd) -> None:
    """On real guests: counters before, between and after two readings of the usage enclose it."""
    inspector = virtmeter.LibvirtInspector(rig.uri, max_age=0)

    def counters(uuid: str) -> tuple[float, float]:
        received = sum(max(nic.rx_bytes, 0) for nic in inspector.inspect_vnics(uuid))
        return received / 1024, sum(disk.read_requests for disk in inspector.inspect_disks(uuid))

    with closing(inspector):
        running = [usage.name for usage in inspector.usage_all(caller="all")]
        assert rig.guests["shutoff"].name not in running
        for what in ("booted", *PAUSED):
            uuid = rig.guests[what].uuid
            least, first, most = counters(uuid), inspector.usage(uuid), counters(uuid)
            then, usage, now = counters(uuid), inspector.usage(uuid), counters(uuid)
            assert first.interval is None
            assert usage.interval
            stats = inspector.inspect_instance(uuid)
            assert usage.cpu_number == stats.cpu_number
            assert usage.cpu_utilization is not None
            assert 0 <= usage.cpu_utilization <= 100
            assert usage.host_cpu_utilization is not None
            assert 0 <= usage.host_cpu_utilization <= 100
            assert usage.memory_total
            assert usage.memory_target
            assert usage.memory_total >= usage.memory_target
            used = usage.network_read_kib, usage.disk_read_requests
            for value, low, after, before, high in zip(used, least, most, then, now):
                assert value is not None
                assert before - after <= value <= high - low
