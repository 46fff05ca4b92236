"""Rates and usage beside another way of measuring: a guest that knows what it does."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

import virtmeter
from tests.support.guests import BLOCK, PACKET, spinning_definition
from tests.support.qemu import wait_for
from tests.support.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.qemu import Libvirtd

KIB = 1024


@pytest.fixture(scope="module")
def worker(rig: Libvirtd) -> Iterator[Worker]:
    with Worker(rig) as worker:
        yield worker


@pytest.fixture
def inspector(rig: Libvirtd) -> Iterator[virtmeter.LibvirtInspector]:
    # Nothing that was read before the work was done.
    with virtmeter.LibvirtInspector(rig.uri, timeout=60, max_age=0) as inspector:
        yield inspector


@pytest.mark.parametrize(("blocks", "packets"), [(64, 0), (0, 40), (32, 20), (0, 0)])
def test_usage_is_what_the_guest_has_done(
    worker: Worker, inspector: virtmeter.LibvirtInspector, blocks: int, packets: int
) -> None:
    inspector.usage(worker.uuid)
    seconds = worker.work(blocks, packets)
    usage = inspector.usage(worker.uuid)
    assert usage.interval
    assert usage.interval >= seconds
    assert usage.disk_write_kib == blocks * BLOCK / KIB
    assert usage.disk_write_requests == blocks
    assert (usage.disk_read_kib, usage.disk_read_requests) == (0.0, 0)
    assert usage.network_write_kib == packets * PACKET / KIB
    assert usage.network_read_kib is not None
    # Others on the bridge may call for somebody.
    assert usage.network_read_kib >= packets * PACKET / KIB


def test_rates_are_what_the_guest_has_done_in_its_time(
    worker: Worker, inspector: virtmeter.LibvirtInspector
) -> None:
    blocks, packets = 32, 20
    began = time.monotonic()
    assert list(inspector.inspect_disk_rates(worker.uuid)) == []
    assert list(inspector.inspect_vnic_rates(worker.uuid)) == []
    seconds = worker.work(blocks, packets)
    [disk] = inspector.inspect_disk_rates(worker.uuid)
    [nic] = inspector.inspect_vnic_rates(worker.uuid)
    ours = time.monotonic() - began
    # The readings lie around the work: no rate is higher than the guest's own, by its clock, nor
    # lower than what the time around the calls allows.
    for rate, done in [
        (disk.write_bytes_rate, blocks * BLOCK),
        (disk.write_requests_rate, blocks),
        (nic.tx_bytes_rate, packets * PACKET),
    ]:
        assert rate is not None
        assert done / ours <= rate <= done / seconds
    assert (disk.read_bytes_rate, disk.read_requests_rate) == (0.0, 0.0)
    assert nic.rx_bytes_rate >= packets * PACKET / ours


def test_the_cpu_time_of_a_guest_whose_monitor_answers_late(
    rig: Libvirtd, inspector: virtmeter.LibvirtInspector
) -> None:
    """It is that of the answer: what is used while a guest's storage hangs is not told later."""
    with (
        rig.bulk(1, define=spinning_definition) as [guest],
        closing(rig.connect()) as conn,
        ThreadPoolExecutor(1) as pool,
    ):
        guest.resume()

        def used() -> float:
            return float(guest.domain(conn).info()[4]) / 1e9

        inspector.usage(guest.uuid)
        before = used()
        with guest.main_thread_stopped():
            reading = pool.submit(inspector.usage, guest.uuid)
            wait_for(lambda: used() - before > 0.5, "it has used half a second")
            least = used() - before
        usage = reading.result()
        cpus = conn.getInfo()[2]
    assert usage.host_cpu_utilization is not None
    assert usage.interval is not None
    told = usage.host_cpu_utilization / 100 * cpus * usage.interval
    assert told >= least - 0.1, "a tenth of a second is no waiting"


def test_the_sum_of_what_is_told_is_all_that_was_done(
    worker: Worker, inspector: virtmeter.LibvirtInspector
) -> None:
    inspector.usage(worker.uuid, caller="ends")
    inspector.usage(worker.uuid)
    usages = []
    for blocks, packets in [(1, 2), (3, 0), (0, 5), (10, 1)]:
        worker.work(blocks, packets)
        usages.append(inspector.usage(worker.uuid))
    ends = inspector.usage(worker.uuid, caller="ends")
    assert sum(usage.disk_write_kib or 0 for usage in usages) == ends.disk_write_kib
    assert ends.disk_write_kib == 14 * BLOCK / KIB
    assert sum(usage.network_write_kib or 0 for usage in usages) == ends.network_write_kib
    assert ends.network_write_kib == 8 * PACKET / KIB
