"""VMs of a pool that Nova has made, by the UUIDs of their instances there."""

from __future__ import annotations

from shutil import which
from typing import TYPE_CHECKING

import pytest

import virtmeter
from tests.support.xapi import PASSWORD, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(which("openssl") is None, reason="there is no openssl")

NOVA = "0f0f0f0f-1111-4222-8333-444444444444"


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool() as pool:
        pool.vm("A").set(other_config={"nova_uuid": NOVA})
        pool.now += 60
        yield pool


@pytest.fixture
def inspector(pool: Pool) -> Iterator[virtmeter.Inspector]:
    with virtmeter.Inspector(pool.uri(), max_age=0.0, password=lambda: PASSWORD) as inspector:
        yield inspector


def test_records_and_intervals_are_the_vms_own(pool: Pool, inspector: virtmeter.Inspector) -> None:
    vm = pool.vm("A").uuid
    assert inspector.usage(NOVA).id == vm
    assert list(inspector.inspect_vnic_rates(NOVA)) == []
    listed = {instance.id for instance in inspector.list_instances()}
    assert vm in listed
    assert NOVA not in listed
    pool.now += 20
    assert inspector.usage(vm).interval == 20, "since it was read by the other"
    assert len(list(inspector.inspect_vnic_rates(NOVA))) == 2
    pool.now += 20
    assert inspector.usage(NOVA).host_cpu_utilization is not None
    assert inspector.inspect_instance(NOVA) == inspector.inspect_instance(vm)
    assert list(inspector.inspect_disks(NOVA)) == list(inspector.inspect_disks(vm))
    assert list(inspector.inspect_disk_info(NOVA)) == list(inspector.inspect_disk_info(vm))


def test_of_a_vm_and_its_copy_the_one_that_runs_is_meant(
    pool: Pool, inspector: virtmeter.Inspector
) -> None:
    vm = pool.vm("A")
    copy = vm.clone("a copy")
    assert inspector.usage(NOVA).id == vm.uuid
    vm.stop()
    copy.start()
    pool.now += 20
    assert inspector.usage(NOVA).id == copy.uuid
    copy.stop()
    with pytest.raises(virtmeter.InstanceShutOffException, match=NOVA) as shut_off:
        inspector.usage(NOVA)
    assert shut_off.value.instance_id == NOVA
    for each in (vm, copy):
        each.set(other_config={"nova_uuid": ""})
    with pytest.raises(virtmeter.InstanceNotFoundException, match=NOVA):
        inspector.usage(NOVA)
