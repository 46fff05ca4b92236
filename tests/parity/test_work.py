"""Rates and usage beside another way of measuring: a guest that knows what it does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

import virtmeter
from tests.support.guests import BLOCK, PACKET
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
        assert done / ours <= rate <= done / seconds
    assert (disk.read_bytes_rate, disk.read_requests_rate) == (0.0, 0.0)
    assert nic.rx_bytes_rate >= packets * PACKET / ours


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
