"""Real guests that hang, go away or change while they are polled, and a libvirtd that dies."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

import virtmeter
from tests.support import sample
from tests.support.guests import BRIDGE
from tests.support.oracle import METHODS, Outcome, outcome, stock_inspector
from tests.support.polling import cycle
from tests.support.qemu import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.polling import Answer, Answers
    from tests.support.qemu import Guest, Libvirtd

TIMEOUT = 4.0
# Guests that stand still may still be charged some CPU time, wait for it, or lose a page.
MOVING = ("cpu_time", "vcpu_time", "vcpu_wait", "vcpu_delay", "memory_resident")


@pytest.fixture(scope="module")
def guests(rig: Libvirtd) -> Iterator[list[Guest]]:
    with rig.bulk(20) as guests:
        yield guests


@pytest.fixture
def stock(rig: Libvirtd) -> Any:
    return stock_inspector(rig.uri)


@pytest.fixture
def inspector(rig: Libvirtd) -> Iterator[virtmeter.LibvirtInspector]:
    with virtmeter.LibvirtInspector(rig.uri, timeout=TIMEOUT) as inspector:
        yield inspector


def standing(records: Outcome) -> Outcome:
    """Return what does not move."""
    if isinstance(records, str):
        return records
    return [{k: v for k, v in record.items() if k not in MOVING} for record in records]


def assert_equal(stock: Any, inspector: Any, guests: Sequence[Guest]) -> None:
    """Compare with the stock inspector, as soon as nothing that was read before is left."""
    for method in METHODS:
        for guest in guests:
            theirs, ours = (outcome(which, method, guest.uuid) for which in (stock, inspector))
            assert standing(ours) == standing(theirs), (method, guest.name)


def assert_complete(answers: Answers, guests: Sequence[Guest], before: Answers) -> None:
    """Compare with what a cycle said before."""
    for guest in guests:
        for method in METHODS:
            now, then = answers[method, guest.uuid], before[method, guest.uuid]
            assert still(now) == still(then), (method, guest.name)


def still(answer: Answer) -> Any:
    """Return what does not move, of our own records."""
    if isinstance(answer, virtmeter.InspectorException):
        return answer
    nothing: dict[str, Any] = dict.fromkeys(MOVING)
    return [
        record._replace(**nothing) if isinstance(record, virtmeter.InstanceStats) else record
        for record in answer
    ]


def assert_hung(answers: Answers, guests: Sequence[Guest], before: Answers) -> None:
    """A guest that hangs keeps its state, CPU time and NICs, and nothing else."""
    for guest in guests:
        stats, then = (
            instance_stats(of["inspect_instance", guest.uuid]) for of in (answers, before)
        )
        assert stats.power_state == then.power_state
        assert stats.cpu_time is not None
        assert then.cpu_time is not None
        assert stats.cpu_time >= then.cpu_time
        memory = [getattr(stats, name) for name in stats._fields if name.startswith("memory_")]
        assert set(memory) == {None}
        assert answers["inspect_vnics", guest.uuid] == before["inspect_vnics", guest.uuid]
        for method in ("inspect_disks", "inspect_disk_info"):
            assert isinstance(answers[method, guest.uuid], virtmeter.InspectionTimeout)


def instance_stats(answer: Answer) -> virtmeter.InstanceStats:
    assert isinstance(answer, list)
    [stats] = answer
    assert isinstance(stats, virtmeter.InstanceStats)
    return stats


def lines(caplog: pytest.LogCaptureFixture, words: str, guest: Guest) -> int:
    """Return how many lines say this of a guest."""
    return sum(words in line and guest.uuid in line for line in caplog.messages)


@pytest.mark.parametrize("count", [1, 6, 12])
@pytest.mark.parametrize("when", ["before a cycle", "in the middle of one"])
def test_hung_guests_keep_what_needs_no_answer_and_hold_up_nobody(
    guests: list[Guest],
    stock: Any,
    inspector: virtmeter.LibvirtInspector,
    caplog: pytest.LogCaptureFixture,
    count: int,
    when: str,
) -> None:
    # Some of them one after the other.
    hung = guests[3 : 3 + count // 2] + guests[15 - count // 2 - count % 2 : 15]
    well = [guest for guest in guests if guest not in hung]
    uuids = [guest.uuid for guest in guests]
    cycle(inspector, uuids)
    before = cycle(inspector, uuids)
    assert_equal(stock, inspector, guests)
    with ExitStack() as stopped:

        def stop() -> None:
            for guest in hung:
                stopped.enter_context(guest.sigstopped())

        if when == "before a cycle":
            stop()
        else:
            # All of one that is done within a second was read at its beginning.
            assert_complete(cycle(inspector, uuids, halfway=stop), well, before)
        began = time.monotonic()
        first = cycle(inspector, uuids)
        assert time.monotonic() - began < 2 * TIMEOUT + 1
        assert_complete(first, well, before)
        timeouts = inspector.health().timeouts
        assert timeouts > 0
        for _ in range(5):
            began = time.monotonic()
            answers = cycle(inspector, uuids)
            assert time.monotonic() - began < TIMEOUT
            assert_complete(answers, well, before)
            assert_hung(answers, hung, before)
        health = inspector.health()
        assert health.timeouts == timeouts
        assert set(health.hung) == {guest.uuid for guest in hung}
        assert {lines(caplog, "hangs", guest) for guest in hung} == {1}
    wait_for(lambda: not inspector.health().hung, "all answer again", timeout=10)
    answers = cycle(inspector, uuids)
    assert_complete(answers, guests, before)
    assert_equal(stock, inspector, guests)
    assert {lines(caplog, "hangs", guest) for guest in hung} == {1}
    assert {lines(caplog, "is read again", guest) for guest in hung} == {1}
    assert len(caplog.messages) == 2 * len(hung)


def test_the_usage_of_a_guest_that_hangs(
    guests: list[Guest], inspector: virtmeter.LibvirtInspector
) -> None:
    hung, ids = guests[7], {guest.uuid for guest in guests}

    def usages() -> dict[str, virtmeter.VmUsage]:
        return {usage.id: usage for usage in inspector.usage_all() if usage.id in ids}

    usages()
    before = usages()
    with hung.sigstopped():
        assert set(usages()) == ids  # with what may have been read just before
        for _ in range(3):
            now = usages()
            assert set(now) == ids
            usage = now[hung.uuid]
            assert usage.cpu_number == before[hung.uuid].cpu_number
            assert usage.interval
            assert (usage.network_read_kib, usage.network_write_kib) == (0.0, 0.0)
            memory_and_disks = {
                name: value
                for name, value in usage._asdict().items()
                if name.startswith(("memory_", "disk_"))
            }
            assert set(memory_and_disks.values()) == {None}
            assert all(now[uuid].memory_total for uuid in ids - {hung.uuid})
        # Only a call that hangs makes libvirt tell the times of the vCPUs, and there is one.
        assert usage.cpu_utilization is not None
        assert usage.cpu_steal is not None
        assert set(inspector.health().hung) == {hung.uuid}
    wait_for(lambda: not inspector.health().hung, "it answers again", timeout=10)
    first, second = usages()[hung.uuid], usages()[hung.uuid]
    assert first.memory_total == before[hung.uuid].memory_total
    assert (first.disk_read_kib, second.disk_read_kib) == (0.0, 0.0), "over all that time"
    assert first.interval
    assert first.disk_interval
    assert first.disk_interval > first.interval
    assert second.disk_interval == second.interval


def test_a_libvirtd_that_is_killed_in_the_middle_of_a_cycle(
    rig: Libvirtd,
    guests: list[Guest],
    inspector: virtmeter.LibvirtInspector,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="virtmeter")
    uuids = [guest.uuid for guest in guests]

    def kill() -> None:
        rig.kill()
        time.sleep(1.0)  # what was read before is too old then

    for _ in range(2):
        cycle(inspector, uuids)
    for _ in range(2):
        caplog.clear()
        try:
            answers = cycle(inspector, uuids, halfway=kill)
            lost = [answer for answer in answers.values() if not isinstance(answer, list)]
            assert {type(answer) for answer in lost} == {virtmeter.ConnectionLost}
            began = time.monotonic()
            cycle(inspector, uuids)
            assert time.monotonic() - began < TIMEOUT, "nobody waits for what is not there"
        finally:
            rig.restart()
        for uuid in uuids:
            sample.read_again(inspector, "inspect_instance", uuid)
        # A new one, as the old one would sleep before it connects again.
        assert_equal(stock_inspector(rig.uri), inspector, guests)
        assert sum("no connection" in line for line in caplog.messages) == 1
        assert sum("connected to" in line for line in caplog.messages) == 1


def test_a_libvirtd_that_is_restarted_twenty_times_in_a_row(
    rig: Libvirtd, guests: list[Guest], inspector: virtmeter.LibvirtInspector
) -> None:
    uuids = [guest.uuid for guest in guests]
    done = threading.Event()

    def poll() -> set[type]:
        kinds = set()
        while not done.is_set():
            kinds |= {type(answer) for answer in cycle(inspector, uuids).values()}
        return kinds

    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(poll)
        try:
            for _ in range(20):
                rig.restart()
        finally:
            done.set()
        # A libvirtd that has just begun may not have found all its guests again.
        refused = {virtmeter.ConnectionLost, virtmeter.NoDataException}
        assert polling.result() <= {list, *refused}
    wait_for(lambda: set(map(type, cycle(inspector, uuids).values())) == {list}, "all is well")
    assert_equal(stock_inspector(rig.uri), inspector, guests)
    health = inspector.health()
    assert (health.hung, health.outage, health.stuck) == ({}, None, 0)
    assert health.threads <= 6


def destroy(guest: Guest) -> None:
    guest.destroy()


def migrate_away(guest: Guest) -> None:
    guest.destroy()
    guest.undefine()


def reset(guest: Guest) -> None:
    with closing(guest.rig.connect()) as conn:
        guest.domain(conn).reset()


@pytest.mark.parametrize("change", [destroy, migrate_away, reset])
def test_a_guest_that_goes_away_and_comes_back_in_the_middle_of_a_cycle(
    guests: list[Guest],
    stock: Any,
    inspector: virtmeter.LibvirtInspector,
    change: Callable[[Guest], None],
) -> None:
    uuids, guest = [guest.uuid for guest in guests], guests[12]
    for _ in range(3):
        before = cycle(inspector, uuids)
    known = {}

    def go() -> None:
        change(guest)
        known["gone"] = time.monotonic()

    try:
        # Half of a cycle is two methods: its disks are asked for next.
        answers = cycle(inspector, uuids, halfway=go)
        others = [other for other in guests if other is not guest]
        assert_complete(answers, others, before)
        for method in ("inspect_disks", "inspect_disk_info"):
            assert still(answers[method, guest.uuid]) == before[method, guest.uuid] or type(
                answers[method, guest.uuid]
            ).__name__ == outcome(stock, method, guest.uuid)
        end = known["gone"] + 1.0
        wait_for(lambda: time.monotonic() > end, "what was read before is too old")
        assert_equal(stock, inspector, guests)
    finally:
        if change is not reset:
            guest.start()
    # No failure from before it came back.
    assert_equal(stock, inspector, [guest])
    assert_equal(stock, inspector, guests)


HALVES = ("inspect_instance", "inspect_disk_info", "inspect_disks", "inspect_vnics")
NIC = """
<interface type='bridge'>
  <mac address='52:54:02:00:00:01'/><source bridge='{bridge}'/><model type='virtio'/>
</interface>
"""


def devices(answer: Answer) -> list[str]:
    assert isinstance(answer, list)
    return [record[0] for record in answer]


def test_a_disk_that_is_plugged_out_and_in_between_two_calls(
    rig: Libvirtd, guests: list[Guest], stock: Any, inspector: virtmeter.LibvirtInspector
) -> None:
    guest = rig.guests["disks"]
    polled = [*guests, guest]
    uuids = [guest.uuid for guest in polled]
    for _ in range(3):
        before = cycle(inspector, uuids, HALVES)
    with ExitStack() as out:
        # Its disks are asked for next, and may have been read just before.
        answers = cycle(
            inspector, uuids, HALVES, halfway=lambda: out.enter_context(guest.unplugged("sda"))
        )
        assert_complete(answers, guests, before)
        then = devices(before["inspect_disks", guest.uuid])
        now = [device for device in then if device != "sda"]
        assert devices(answers["inspect_disks", guest.uuid]) in (now, then)
        end = time.monotonic() + 1.0
        wait_for(lambda: time.monotonic() > end, "what was read before is too old")
        assert devices(cycle(inspector, uuids)["inspect_disks", guest.uuid]) == now
        assert_equal(stock, inspector, polled)
    end = time.monotonic() + 1.0
    wait_for(lambda: time.monotonic() > end, "what was read before is too old")
    assert "sda" in devices(cycle(inspector, uuids)["inspect_disks", guest.uuid])
    assert_equal(stock, inspector, polled)


def test_a_nic_that_is_plugged_in_between_two_calls(
    rig: Libvirtd, guests: list[Guest], stock: Any, inspector: virtmeter.LibvirtInspector
) -> None:
    guest, uuids = guests[5], [guest.uuid for guest in guests]
    nic = NIC.format(bridge=BRIDGE)

    def plug() -> None:
        with closing(rig.connect()) as conn:
            guest.domain(conn).attachDeviceFlags(nic, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    for _ in range(3):
        before = cycle(inspector, uuids, HALVES)
    try:
        answers = cycle(inspector, uuids, HALVES, halfway=plug)
        assert_complete(answers, [other for other in guests if other is not guest], before)
        assert len(devices(answers["inspect_vnics", guest.uuid])) in (1, 2)
        end = time.monotonic() + 1.0
        wait_for(lambda: time.monotonic() > end, "what was read before is too old")
        assert len(devices(cycle(inspector, uuids)["inspect_vnics", guest.uuid])) == 2
        assert_equal(stock, inspector, guests)
    finally:
        guest.destroy()
        guest.start()
    inspector.close()  # nothing that was read before
    assert_equal(stock, inspector, [guest])
