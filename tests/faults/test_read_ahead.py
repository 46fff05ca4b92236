"""What is read ahead: used once, never too old, and only for those who ask in an order."""

from __future__ import annotations

import itertools
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest

import virtmeter
from tests.support import sample
from tests.support.libvirtd import HangUp
from tests.support.oracle import METHODS
from tests.support.polling import ask, cycle
from tests.support.procedures import VIR_FROM_QEMU, Disk, Error

if TYPE_CHECKING:
    from tests.support.libvirtd import Daemon

STATS = "CONNECT_GET_ALL_DOMAIN_STATS"
SERIALS = itertools.count(1)


class Clock(Disk):
    """A disk that counts its readings, and has read as many bytes as the clock shows nanoseconds.

    ``slow`` seconds pass after that until the daemon tells it.
    """

    slow = 0.0
    readings = 0

    @property
    def stats(self) -> tuple[int, int, int, int, int]:
        self.readings += 1
        stamp, serial = time.monotonic_ns(), next(SERIALS)
        time.sleep(self.slow)
        return (1, stamp, 3, serial, -1)

    @stats.setter
    def stats(self, _: tuple[int, int, int, int, int]) -> None:
        pass


class Reading(NamedTuple):
    uuid: str
    asked: int
    answered: int
    stamp: int
    serial: int


def add_clocks(daemon: Daemon, count: int) -> dict[str, Clock]:
    """Add so many domains, each with a clock for its disk."""
    clocks = {}
    for number in range(1, count + 1):
        daemon.add(domain := sample.domain(number, bulk=True))
        domain.disks["vda"] = clocks[domain.uuid] = Clock()
    return clocks


def read(inspector: virtmeter.LibvirtInspector, uuid: str) -> Reading:
    asked = time.monotonic_ns()
    [disk] = inspector.inspect_disks(uuid)
    return Reading(uuid, asked, time.monotonic_ns(), disk.read_bytes, disk.write_bytes)


@pytest.mark.parametrize("callers", [1, 8])
@pytest.mark.parametrize("max_age", [0.05, 1.0])
def test_no_value_is_given_twice_or_after_a_newer_one_or_too_old(
    daemon: Daemon, callers: int, max_age: float
) -> None:
    uuids = list(add_clocks(daemon, 12))
    inspector = virtmeter.LibvirtInspector(daemon.uri, max_age=max_age)
    pause = threading.Event()

    def poll(caller: int) -> list[Reading]:
        order = uuids[caller:] + uuids[:caller]
        readings = []
        for round_, uuid in itertools.product(range(10), order):
            readings.append(read(inspector, uuid))
            # Now and then, what was read ahead of this caller grows old.
            pause.wait(0.04 if round_ % 2 else 0)
        return readings

    with ThreadPoolExecutor(callers) as pool:
        readings = list(itertools.chain(*pool.map(poll, range(callers))))
    assert len({reading.serial for reading in readings}) == len(readings)
    for uuid in uuids:
        of_it = [reading for reading in readings if reading.uuid == uuid]
        for earlier, later in itertools.permutations(of_it, 2):
            if earlier.answered < later.asked:
                assert earlier.serial < later.serial
    oldest = max(reading.asked - reading.stamp for reading in readings)
    assert oldest < max_age * 1e9
    assert inspector.health().read_ahead > 0


def test_a_reading_that_was_begun_too_early_is_taken_again(daemon: Daemon) -> None:
    clocks = add_clocks(daemon, 6)
    *others, last = clocks
    inspector = virtmeter.LibvirtInspector(daemon.uri, max_age=0.2)
    for _ in range(3):
        cycle(inspector, list(clocks), ["inspect_disks"])
    clocks[last].slow = 1.0
    for uuid in others:
        read(inspector, uuid)
    # The last one is under way, and when it is asked for, has been for longer than a value may be
    # old.
    threading.Event().wait(0.4)
    reading = read(inspector, last)
    assert reading.asked - reading.stamp < 0.2e9


@pytest.mark.parametrize("method", METHODS)
def test_each_reading_costs_one_call_and_hardly_any_are_for_nothing(
    daemon: Daemon, method: str
) -> None:
    uuids = list(add_clocks(daemon, 20))
    # Nothing gets too old, however slow this machine is.
    inspector = virtmeter.LibvirtInspector(daemon.uri, max_age=60, read_ahead=16)
    cycle(inspector, uuids)
    before, calls = inspector.health(), daemon.calls["DOMAIN_GET_BLOCK_INFO"] + daemon.calls[STATS]
    for _ in range(20):
        cycle(inspector, uuids, [method])
    after = inspector.health()
    calls = daemon.calls["DOMAIN_GET_BLOCK_INFO"] + daemon.calls[STATS] - calls
    if method == "inspect_disk_info":
        calls //= 2  # the state, and the disk
    assert after.handed_out - before.handed_out == 20 * 20
    assert calls - 20 * 20 <= 4 * 16, "a few windows while a new order is learned"
    assert after.read_ahead - before.read_ahead > 300


def test_who_asks_about_one_instance_pays_for_no_other(daemon: Daemon) -> None:
    clocks = add_clocks(daemon, 10)
    one, *others = clocks
    inspector = virtmeter.LibvirtInspector(daemon.uri)
    for _ in range(5):
        cycle(inspector, list(clocks))
    # With all connections closed, nothing is under way any more.
    inspector.close()
    assert daemon.wait_until(lambda daemon: daemon.open_connections == 0)
    readings = {uuid: clock.readings for uuid, clock in clocks.items()}
    # A new caller, as Ceilometer's next source is.
    with ThreadPoolExecutor(1) as pool:
        for _ in range(20):
            for method in METHODS:
                assert isinstance(pool.submit(ask, inspector, method, one).result(), list)
    inspector.close()
    assert daemon.wait_until(lambda daemon: daemon.open_connections == 0)
    assert all(clocks[uuid].readings == readings[uuid] for uuid in others)


def test_no_order_no_read_ahead_no_loss(daemon: Daemon) -> None:
    uuids = list(add_clocks(daemon, 30))
    inspector = virtmeter.LibvirtInspector(daemon.uri, max_age=60)
    chance = random.Random(4)
    for _ in range(30):
        chance.shuffle(uuids)
        for uuid in uuids:
            read(inspector, uuid)
    assert inspector.health().handed_out == 30 * 30
    assert daemon.calls[STATS] <= 1.05 * 30 * 30


def test_without_read_ahead_there_is_none(daemon: Daemon) -> None:
    uuids = list(add_clocks(daemon, 10))
    for arguments in ({"read_ahead": 0}, {"max_age": 0.0}):
        inspector = virtmeter.LibvirtInspector(daemon.uri, **cast("Any", arguments))
        before = daemon.calls[STATS]
        for _ in range(5):
            cycle(inspector, uuids, ["inspect_disks"])
        assert daemon.calls[STATS] - before == 5 * 10
        assert inspector.health().read_ahead == 0


def test_a_failure_that_is_over_is_told_to_nobody(daemon: Daemon) -> None:
    uuids = list(add_clocks(daemon, 20))
    # With one worker, one reading is over when the next one begins.
    inspector = virtmeter.LibvirtInspector(daemon.uri, max_age=60, workers=1, timeout=30)
    for _ in range(3):
        cycle(inspector, uuids, ["inspect_disks"])
    inspector.close()
    before = daemon.calls[STATS]
    daemon.on(STATS, Error(1, VIR_FROM_QEMU, "not now"), uuid=uuids[5])
    read(inspector, uuids[0])
    assert daemon.wait_until(lambda daemon: daemon.calls[STATS] >= before + 17, timeout=30)
    for uuid in uuids[1:]:
        read(inspector, uuid)


def test_a_connection_that_breaks_ahead_of_the_caller_goes_unnoticed(daemon: Daemon) -> None:
    uuids = list(add_clocks(daemon, 20))
    inspector = virtmeter.LibvirtInspector(daemon.uri)
    for _ in range(3):
        cycle(inspector, uuids, ["inspect_disks"])
    inspector.close()
    for uuid in uuids[5:10]:
        daemon.on(STATS, HangUp(), uuid=uuid)
    for uuid in uuids:
        read(inspector, uuid)
    health = inspector.health()
    assert (health.broken, health.outage) == (5, None)


def test_connections_are_not_kept_by_threads_that_do_nothing(daemon: Daemon) -> None:
    daemon.add(*(domains := [sample.domain(number) for number in range(1, 21)]))
    uuids = [domain.uuid for domain in domains]
    with virtmeter.LibvirtInspector(daemon.uri) as inspector:
        cycle(inspector, uuids)
        cycle(inspector, uuids)
        assert inspector.health().connections > 1
        assert daemon.wait_until(lambda daemon: daemon.open_connections == 1, timeout=60)
        assert inspector.health().threads == 1
        before = inspector.health().opened
        cycle(inspector, uuids)
        assert inspector.health().opened > before, "there are more again when there is work"
