"""VMs that the user of vCenter may not ask about."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest

from tests.support.remote import eventually
from tests.support.vcsim import VCenter
from tests.vsphere.wellness import ALL, count, is_well, soap_fault, usages
from virtmeter import NoDataException

if TYPE_CHECKING:
    from tests.support.vcsim.truth import VM
    from tests.vsphere.conftest import Opens


def running(vcenter: VCenter) -> list[VM]:
    return [vm for vm in vcenter.vms() if vm.state == "poweredOn" and not vm.template]


@pytest.mark.parametrize("forbidden", [1, 5, ALL])
def test_a_vm_that_may_not_be_asked_about_leaves_the_call_and_nobody_else(
    opens: Opens, vcenter: VCenter, forbidden: int
) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    vms = running(vcenter)
    for vm in vms[:forbidden]:
        vcenter.forbid(vm.ref)
    vcenter.step(20)
    vcenter.forget_calls()
    told = usages(inspector)
    assert vcenter.calls()["QueryPerf"] <= 2 * forbidden + 1
    left = {vm.uuid for vm in vms[forbidden:]}
    assert {uuid for uuid in left if told[uuid].cpu_interval == 20} == left
    if forbidden == ALL:
        with pytest.raises(NoDataException, match=r"does not permit that \(System.View\)"):
            inspector.usage(vms[0].uuid)
    else:
        assert inspector.health().away == {}
    for vm in vms[:forbidden]:
        vcenter.forbid(vm.ref, forbidden=False)
    vcenter.step(20)
    eventually(lambda: is_well(inspector))


@pytest.mark.parametrize("kind", ["SystemError", "InvalidState", "NotSupported", "RuntimeFault"])
def test_a_fault_of_any_type_about_one_vm_costs_nobody_else(
    opens: Opens, vcenter: VCenter, kind: str
) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    sick = running(vcenter)[3]
    fault = soap_fault(kind)
    vcenter.fail("QueryPerf", times=1000, about=f"{sick.ref}<", status=500, body=fault)
    for reading in range(3):
        vcenter.step(20)
        vcenter.forget_calls()
        told = usages(inspector)
        assert vcenter.calls()["QueryPerf"] <= (2 if reading else 12)
        assert set(told) == {vm.uuid for vm in running(vcenter)} - {sick.uuid}
        assert all(usage.cpu_interval == 20 for usage in told.values())
        assert inspector.health().away == {}
    with pytest.raises(NoDataException, match=kind):
        inspector.usage(sick.uuid)
    vcenter.fail("QueryPerf", times=0)
    vcenter.step(20)
    eventually(lambda: is_well(inspector))


@pytest.mark.parametrize("vms", [1, 2])
def test_few_vms_that_may_not_be_asked_about_are_told_why(opens: Opens, vms: int) -> None:
    with VCenter(vms=vms) as vcenter:
        for vm in vcenter.vms():
            vcenter.forbid(vm.ref)
        inspector = opens(vcenter)
        for vm in vcenter.vms():
            with pytest.raises(NoDataException, match=r"does not permit that \(System.View\)"):
                inspector.usage(vm.uuid)


@pytest.mark.parametrize("forbidden", [1, 4, 7])
@pytest.mark.parametrize("since_start", [False, True])
def test_vms_among_others_that_may_not_be_asked_about_are_told_why(
    opens: Opens, vcenter: VCenter, forbidden: int, since_start: bool
) -> None:
    inspector = opens(vcenter)
    vms = running(vcenter)
    if not since_start:
        assert count(inspector) == ALL
    for vm in vms[:forbidden]:
        vcenter.forbid(vm.ref)
    for _ in range(2):
        vcenter.step(20)
        # What it used until then is not told as if it were new.
        assert set(usages(inspector)) == {vm.uuid for vm in vms[forbidden:]}
        for vm in vms[:forbidden]:
            for ask in (inspector.usage, inspector.inspect_instance, inspector.inspect_vnics):
                with pytest.raises(NoDataException, match=r"does not permit that \(System.View\)"):
                    ask(vm.uuid)
            assert list(inspector.inspect_disk_info(vm.uuid))
    assert inspector.health().away == {}
    for vm in vms[:forbidden]:
        vcenter.forbid(vm.ref, forbidden=False)
    vcenter.step(20)
    told = usages(inspector)
    assert len(told) == ALL
    if not since_start:
        # Nothing of the time between is lost.
        assert {told[vm.uuid].cpu_interval for vm in vms[:forbidden]} == {60}


def test_many_vms_that_may_not_be_asked_about_cost_no_other_one(opens: Opens) -> None:
    with VCenter(hosts=1, vms=60) as vcenter:
        vms = sorted(vcenter.vms(), key=lambda vm: vm.uuid)
        for vm in vms[:40]:
            vcenter.forbid(vm.ref)
        inspector = opens(vcenter)
        left = {vm.uuid for vm in vms[40:]}
        eventually(lambda: set(usages(inspector)) == left and not inspector.health().away)
        with pytest.raises(NoDataException, match=r"does not permit that \(System.View\)"):
            inspector.usage(vms[0].uuid)


def test_vms_that_stay_refused_cost_few_calls_and_each_has_its_turn(opens: Opens) -> None:
    with VCenter(hosts=1, vms=24) as vcenter:
        vms = running(vcenter)
        refused, left = vms[:20], {vm.uuid for vm in vms[20:]}
        inspector = opens(vcenter)
        assert count(inspector) == len(vms)
        for vm in refused:
            vcenter.forbid(vm.ref)
        vcenter.step(20)
        eventually(lambda: set(usages(inspector)) == left)
        for allowed in reversed(refused):
            vcenter.forbid(allowed.ref, forbidden=False)
            left.add(allowed.uuid)
            for _ in range(len(refused)):
                vcenter.step(20)
                vcenter.forget_calls()
                told = set(usages(inspector))
                assert vcenter.calls()["QueryPerf"] <= 8
                if allowed.uuid in told:
                    break
            assert told == left


def test_a_fault_of_all_leaves_no_vm_behind_those_that_stay_refused(opens: Opens) -> None:
    with VCenter(hosts=1, vms=64) as vcenter:
        vms = running(vcenter)
        left = {vm.uuid for vm in vms[4:]}
        inspector = opens(vcenter)
        assert count(inspector) == len(vms)
        for vm in vms[:4]:
            vcenter.forbid(vm.ref)
        vcenter.step(20)
        eventually(lambda: set(usages(inspector)) == left)
        # Each reading tries a few by themselves, which stay noted as refused.
        vcenter.fail("QueryPerf", times=1000, status=500, body=soap_fault("SystemError"))
        vcenter.forget_calls()
        eventually(lambda: not usages(inspector) and vcenter.calls().get("QueryPerf", 0) >= 16)
        vcenter.fail("QueryPerf", times=0)
        vcenter.step(20)
        eventually(lambda: len(usages(inspector)) > 0)
        vcenter.step(20)
        assert set(usages(inspector)) == left


def test_refused_vms_that_hang_hold_up_nobody(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    vms = running(vcenter)
    for vm in vms[1:]:
        vcenter.migrate(vm.ref, 0)
    vcenter.migrate(vms[0].ref, 1)
    vcenter.forbid(vms[0].ref)
    left = {vm.uuid for vm in vms[1:]}
    vcenter.step(20)
    eventually(lambda: set(usages(inspector)) == left)
    vcenter.sick(1, 600)
    for _ in range(2):
        vcenter.step(20)
        told = usages(inspector)
        assert {uuid for uuid, usage in told.items() if usage.cpu_interval == 20} == left
    # They are asked about by themselves from then on.
    eventually(lambda: list(inspector.health().away) == ["DC0_C0_H1"])


def test_a_host_all_of_whose_vms_are_refused_does_not_stay_alone(
    opens: Opens, vcenter: VCenter
) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    vms = running(vcenter)
    refused = {vm.uuid for vm in vms if vm.host == 1}
    vcenter.fail("QueryPerf", status=500, body=soap_fault("HostCommunication"))
    vcenter.step(20)
    for vm in vms:
        vcenter.forbid(vm.ref, forbidden=vm.uuid in refused)
    # It held up a call, and was asked by itself; now it answers.
    left = {vm.uuid for vm in vms} - refused
    eventually(lambda: set(usages(inspector)) == left and not inspector.health().away)


def test_notes_that_cannot_be_read_cost_no_other_vm(
    opens: Opens, caplog: pytest.LogCaptureFixture
) -> None:
    with VCenter(hosts=1, vms=20) as vcenter:
        vms = running(vcenter)
        broken, left = vms[7], {vm.uuid for vm in vms if vm is not vms[7]}
        vcenter.reconfigure(broken.ref, annotation="=" * 2_000_000)
        inspector = opens(vcenter)
        assert set(usages(inspector)) == left
        assert inspector.health().away == {}
        for ask in (inspector.inspect_vnics, inspector.inspect_disk_info, inspector.usage):
            with pytest.raises(NoDataException, match="cannot be read: the answer cannot be used"):
                ask(broken.uuid)
        lines = [line for line in caplog.messages if "configuration of VM" in line]
        assert [line.partition(":")[0] for line in lines] == [
            f"the configuration of VM {unquote(broken.name)} cannot be read"
        ]
        # It is remembered, and asked about by itself when it is written anew.
        vcenter.step(20)
        for length, asked in ((None, 0), (2_000_001, 1), (None, 0)):
            if length is not None:
                vcenter.reconfigure(broken.ref, annotation="=" * length)
            vcenter.forget_calls()
            assert set(usages(inspector)) == left
            assert vcenter.calls() == {"RetrievePropertiesEx": 1 + asked, "QueryPerf": 1}
        assert lines == [line for line in caplog.messages if "configuration of VM" in line]
        vcenter.reconfigure(broken.ref, annotation="short")
        vcenter.step(20)
        assert set(usages(inspector)) == left | {broken.uuid}
        assert list(inspector.inspect_vnics(broken.uuid))


def test_a_vm_whose_new_notes_cannot_be_read_goes_on(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    vms = running(vcenter)
    nics = [nic.name for nic in inspector.inspect_vnics(vms[0].uuid)]
    for vm in vms[:2]:
        vcenter.reconfigure(vm.ref, annotation="=" * 1_500_000)
    vcenter.step(20)
    told = usages(inspector)
    assert {usage.disk_interval for usage in told.values()} == {20}
    assert len(told) == ALL
    assert inspector.health().away == {}
    # Either can be read without the other.
    assert [nic.name for nic in inspector.inspect_vnics(vms[0].uuid)] == nics
    vcenter.reconfigure(vms[0].ref, annotation="=" * 2_000_000)
    nic = vcenter.add_nic(vms[1].ref)
    vcenter.step(20)
    assert len(usages(inspector)) == ALL
    assert [nic.name for nic in inspector.inspect_vnics(vms[0].uuid)] == nics
    assert nic in {nic.name for nic in inspector.inspect_vnics(vms[1].uuid)}


def test_many_vms_whose_notes_cannot_be_read_are_found_in_several_readings(opens: Opens) -> None:
    with VCenter(hosts=1, vms=16) as vcenter:
        vms = sorted(running(vcenter), key=lambda vm: vm.uuid)
        for vm in vms[:10]:
            vcenter.reconfigure(vm.ref, annotation="=" * 2_000_000)
        inspector = opens(vcenter)
        left = {vm.uuid for vm in vms[10:]}
        eventually(lambda: set(usages(inspector)) == left)
        assert inspector.health().away == {}
        vcenter.forget_calls()
        assert set(usages(inspector)) == left
        assert vcenter.calls()["RetrievePropertiesEx"] <= 1 + 3
