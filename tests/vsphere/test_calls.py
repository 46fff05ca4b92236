"""How many calls a cycle costs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.support.vcsim import VCenter
from tests.vsphere.wellness import ALL, count, untold

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.vsphere.conftest import Opens
    from virtmeter import Inspector

#: Longer than a cycle takes, however busy the machine is.
AGE = 3600.0

LOGIN = {
    "RetrieveServiceContent": 1,
    "Login": 1,
    "CreateContainerView": 1,
    "RetrievePropertiesEx": 1,  # the counters' ids
}


def everything(inspector: Inspector) -> None:
    """Ask all that there is to ask of each VM, one after the other."""
    inspector.usage_all()
    for instance in inspector.list_instances():
        if instance.state == 1:
            inspector.inspect_instance(instance.id)
            for ask in (
                inspector.inspect_vnics,
                inspector.inspect_disks,
                inspector.inspect_disk_info,
                inspector.inspect_vnic_rates,
                inspector.inspect_disk_rates,
            ):
                list(ask(instance.id))
        inspector.inspect_details(instance.id)
    inspector.list_servers()


def of_a_cycle(vcenter: VCenter, act: Callable[[], object]) -> dict[str, int]:
    """Return the calls that something costs."""
    vcenter.step(20)
    vcenter.forget_calls()
    act()
    return vcenter.calls()


def test_a_hundred_vms_are_one_call(opens: Opens) -> None:
    with VCenter(hosts=4, vms=100) as vcenter:
        inspector = opens(vcenter)
        assert count(inspector) == 100
        # The devices of all, once.
        assert vcenter.calls() == {**LOGIN, "RetrievePropertiesEx": 3, "QueryPerf": 1}
        for _ in range(3):
            calls = of_a_cycle(vcenter, lambda: count(inspector) == 100)
            assert calls == {"RetrievePropertiesEx": 1, "QueryPerf": 1}
            (query,) = vcenter.queries()
            assert query["entities"] == 100


def test_whoever_asks_for_everything_costs_no_more(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter, max_age=AGE)
    everything(inspector)
    first = vcenter.calls()
    # The devices of those that are on, and of the others.
    assert first == {**LOGIN, "RetrievePropertiesEx": 4, "QueryPerf": 1}
    everything(inspector)
    assert vcenter.calls() == first
    assert inspector.health().calls == first


def test_a_new_cycle_begins_when_its_readings_are_too_old(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter, max_age=2.0)
    everything(inspector)
    for _ in range(2):
        time.sleep(2.1)
        calls = of_a_cycle(vcenter, lambda: count(inspector))
        assert calls == {"RetrievePropertiesEx": 1, "QueryPerf": 1}


def test_devices_are_asked_for_when_they_have_changed(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    vm = vcenter.vms()[0]
    for change in (
        lambda: vcenter.add_nic(vm.ref),
        lambda: vcenter.reconfigure(vm.ref, annotation="new"),
        lambda: vcenter.remove(vm.ref, str(vm.nics[0]["key"])),
    ):
        change()
        calls = of_a_cycle(vcenter, lambda: count(inspector))
        assert calls == {"RetrievePropertiesEx": 2, "QueryPerf": 1}
        calls = of_a_cycle(vcenter, lambda: count(inspector))
        assert calls == {"RetrievePropertiesEx": 1, "QueryPerf": 1}


def test_sizes_are_asked_for_seldom(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    vm = vcenter.vms()[0]
    for _ in range(3):
        calls = of_a_cycle(vcenter, lambda: list(inspector.inspect_disk_info(vm.uuid)))
        assert calls == {"RetrievePropertiesEx": 1}, "the inventory"


def test_a_configuration_that_is_not_told_is_asked_for_seldom(
    opens: Opens, vcenter: VCenter
) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    untold(inspector, vcenter)
    calls = of_a_cycle(vcenter, lambda: count(inspector))
    assert calls == {"RetrievePropertiesEx": 2, "QueryPerf": 1}
    for _ in range(3):
        calls = of_a_cycle(vcenter, lambda: count(inspector))
        assert calls == {"RetrievePropertiesEx": 1, "QueryPerf": 1}


def test_a_vm_without_samples_is_looked_for_once(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    vcenter.create(host=0)
    # Its devices, and whether it is there.
    vcenter.forget_calls()
    assert count(inspector) == ALL
    assert vcenter.calls() == {"RetrievePropertiesEx": 3, "QueryPerf": 1}
    vcenter.forget_calls()
    assert count(inspector) == ALL
    assert vcenter.calls() == {"RetrievePropertiesEx": 1, "QueryPerf": 1}


def test_the_inventory_comes_in_pages(opens: Opens, vcenter: VCenter) -> None:
    vcenter.page(5)
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    calls = of_a_cycle(vcenter, lambda: count(inspector))
    # Eleven VMs and two hosts.
    assert calls == {"RetrievePropertiesEx": 1, "ContinueRetrievePropertiesEx": 2, "QueryPerf": 1}


def test_only_the_samples_since_the_last_ones_are_asked_for(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    count(inspector)
    for seconds in (20, 20, 300):
        vcenter.step(seconds)
        vcenter.forget_calls()
        told = inspector.usage_all()
        assert {usage.cpu_interval for usage in told} == {seconds}
        asked = [query["max_sample"] for query in vcenter.queries()]
        # By its own clock no time has passed: it learns of it by what it is told.
        # More may come until it asks a second time.
        assert max(asked) <= seconds // 20 + 15


def test_few_calls_are_under_way_at_once(opens: Opens) -> None:
    with VCenter(hosts=10, vms=1000) as vcenter:
        inspector = opens(vcenter)
        # Each takes a moment.
        vcenter.fail("QueryPerf", times=1000, delay=0.1)
        assert count(inspector) == 1000
        vcenter.forget_calls()
        assert count(inspector) == 1000
        assert vcenter.calls()["QueryPerf"] == 10
        assert sum(vcenter.calls().values()) <= 12
        assert vcenter.most_in_flight() == 4
