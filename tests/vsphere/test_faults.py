"""What callers see of a vCenter in which something is wrong, and that it ends when that does."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from tests.support.remote import (
    each_asks_once,
    eventually,
    failure,
    interrupted_and_closed,
    is_told_although_it_is_closed,
    told_by_a_stopped_process,
    told_of_a_silent_server,
)
from tests.support.vcsim import PASSWORD, VCenter
from tests.vsphere.wellness import (
    ALL,
    ENVELOPE,
    count,
    is_well,
    soap_fault,
    untold,
    usages,
)
from virtmeter import ConnectionLost, InstanceNotFoundException, NoDataException

if TYPE_CHECKING:
    from pathlib import Path

    import virtmeter
    from tests.vsphere.conftest import Opens
    from virtmeter import Inspector

ALWAYS = 1_000_000
INVENTORY, SAMPLES = "RetrievePropertiesEx", "QueryPerf"

#: Bad answers to a call, and what is said of them.
ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "503": ({"status": 503, "body": "busy"}, "no room for another session"),
    "404": ({"status": 404, "body": ""}, "no vSphere API"),
    "302": ({"status": 302, "body": ""}, "another host|status 302"),
    "HTML": ({"status": 200, "body": "<html><body>Sorry</body></html>"}, "web page"),
    "nothing": ({"status": 200, "body": ""}, "cannot be used"),
    "no XML": ({"status": 200, "body": "\0<"}, "cannot be used"),
    "half": ({"cut": True}, "before its answer was complete|before it answered"),
    "reset": ({"reset": True}, "closed the connection"),
    "gzip bomb": ({"bomb": 80}, "longer answer than"),
    "nodes": ({"status": 200, "body": ENVELOPE.format("<a/>" * 600_000)}, "cannot be used"),
    "DTD": (
        {
            "status": 200,
            "body": '<!DOCTYPE a [<!ENTITY b "c">]>'
            + ENVELOPE.format("<a>&b;</a>").partition("?>")[2],
        },
        "not SOAP",
    ),
    "depth": (
        {"status": 200, "body": ENVELOPE.format("<a>" * 5000 + "</a>" * 5000)},
        "cannot be used",
    ),
    "another answer": (
        {"status": 200, "body": ENVELOPE.format('<LogoutResponse xmlns="urn:vim25"/>')},
        "no answer to this call",
    ),
    "a fault": (
        {"status": 500, "body": soap_fault("SystemError", "vpxd is tired")},
        "SystemError.*vpxd is tired",
    ),
    "no permission": (
        {
            "status": 500,
            "body": soap_fault("NoPermission", inside="<privilegeId>System.View</privilegeId>"),
        },
        r"role of this user does not permit that \(System.View\)",
    ),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_without_an_inventory_there_is_nothing(opens: Opens, vcenter: VCenter, answer: str) -> None:
    fault, said = ANSWERS[answer]
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    vm = vcenter.vms()[0]
    vcenter.fail(INVENTORY, times=ALWAYS, **fault)
    for _ in range(2):
        with pytest.raises(ConnectionLost, match=said):
            inspector.usage_all()
        with pytest.raises(ConnectionLost, match=said) as caught:
            inspector.inspect_vnics(vm.uuid)
        assert caught.value.instance_id == vm.uuid
    assert inspector.health().outage
    vcenter.fail(times=0)
    eventually(lambda: is_well(inspector))
    assert vcenter.logins() == 1


def test_an_outage_right_after_the_list_is_no_host_without_usage(
    opens: Opens, vcenter: VCenter
) -> None:
    inspector = opens(vcenter, max_age=1.0)
    assert count(inspector) == ALL
    time.sleep(1.1)
    assert len(inspector.list_instances()) == ALL + 2
    vcenter.fail(times=ALWAYS, status=503, body="busy")
    # The inventory is not asked for again yet.
    with pytest.raises(ConnectionLost, match="no room for another session"):
        inspector.usage_all()
    assert inspector.health().outage
    vcenter.fail(times=0)
    eventually(lambda: is_well(inspector))


@pytest.mark.parametrize("answer", ANSWERS)
def test_without_samples_there_is_what_the_inventory_knows(
    opens: Opens, vcenter: VCenter, answer: str
) -> None:
    fault, said = ANSWERS[answer]
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    vm = vcenter.vms()[0]
    vcenter.fail(SAMPLES, times=ALWAYS, **fault)
    vcenter.step(20)
    for _ in range(2):
        assert inspector.usage_all() == []
        for ask in (inspector.usage, inspector.inspect_instance, inspector.inspect_vnics):
            with pytest.raises(NoDataException, match=said):
                ask(vm.uuid)
        assert list(inspector.inspect_disk_info(vm.uuid))
        assert len(inspector.list_instances()) == ALL + 2
    ((why, _),) = inspector.health().away.values()
    assert failure(lambda: inspector.usage(vm.uuid)).count(why)
    vcenter.fail(times=0)
    eventually(lambda: is_well(inspector))
    assert vcenter.logins() == 1


@pytest.mark.parametrize("method", ["RetrieveServiceContent", "Login", "CreateContainerView"])
@pytest.mark.parametrize("answer", ["503", "HTML", "half", "reset", "a fault"])
def test_a_login_that_fails_is_tried_again(
    opens: Opens, vcenter: VCenter, method: str, answer: str
) -> None:
    fault, said = ANSWERS[answer]
    if method == "Login":
        # What the server says of a login may quote it.
        said = said.partition(".*")[0]
    vcenter.fail(method, times=1, **fault)
    inspector = opens(vcenter)
    with pytest.raises(ConnectionLost, match=said):
        inspector.usage_all()
    # One that was half done is not left.
    if method != "Login":
        assert vcenter.sessions() == []
    eventually(lambda: is_well(inspector))


def test_whoever_hangs_is_waited_for_once(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter, timeout=2.0)
    assert count(inspector) == ALL
    vcenter.fail(INVENTORY, times=ALWAYS, delay=60)
    for _ in range(10):
        with pytest.raises(ConnectionLost):
            inspector.usage_all()
    assert inspector.health().timeouts <= 1
    vcenter.fail(times=0)
    eventually(lambda: is_well(inspector))


def test_a_session_that_has_ended_costs_one_login(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    assert vcenter.expire_sessions() == 1
    assert count(inspector) == ALL
    assert vcenter.logins() == 2
    for n, method in enumerate([SAMPLES, INVENTORY, INVENTORY, SAMPLES], start=3):
        # It ends in the middle of a cycle.
        vcenter.fail(method, expire=True)
        vcenter.step(20)
        assert count(inspector) == ALL
        assert vcenter.logins() == n
    vcenter.fail(SAMPLES, status=401, body="")
    assert count(inspector) == ALL
    assert inspector.health().away == {}
    assert inspector.health().opened == vcenter.logins() == 7


def test_a_session_that_ends_between_pages_costs_one_login(opens: Opens, vcenter: VCenter) -> None:
    vcenter.page(3)
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    instances = inspector.list_instances()
    vcenter.fail("ContinueRetrievePropertiesEx", expire=True)
    assert inspector.list_instances() == instances
    assert vcenter.logins() == 2
    assert inspector.health().outage is None


def test_a_page_that_says_that_the_session_has_ended_is_not_taken(
    opens: Opens, vcenter: VCenter
) -> None:
    vcenter.page(3)
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    instances = inspector.list_instances()
    body = ENVELOPE.format(
        '<ContinueRetrievePropertiesExResponse xmlns="urn:vim25"><returnval><objects>'
        f'<obj type="VirtualMachine">{vcenter.vms()[3].ref}</obj><missingSet>'
        '<path>name</path><fault><fault xsi:type="NotAuthenticated"/></fault>'
        "</missingSet></objects></returnval></ContinueRetrievePropertiesExResponse>"
    )
    vcenter.fail("ContinueRetrievePropertiesEx", status=200, body=body)
    assert inspector.list_instances() == instances


def test_an_inventory_without_an_object_forgets_nothing(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    vcenter.step(20)
    nothing = ENVELOPE.format('<RetrievePropertiesExResponse xmlns="urn:vim25"/>')
    vcenter.fail(INVENTORY, status=200, body=nothing)
    with pytest.raises(ConnectionLost, match="no host and no VM any more"):
        inspector.usage_all()
    eventually(lambda: is_well(inspector))
    vcenter.step(20)
    assert all(usage.cpu_interval for usage in inspector.usage_all())


def test_a_server_that_is_silent_from_the_start_is_told_to_who_closes_each_time() -> None:
    is_told_although_it_is_closed("vsphere")


def test_an_inspector_for_each_question_tries_a_wrong_password_once(
    opens: Opens, vcenter: VCenter
) -> None:
    for said in each_asks_once(vcenter.uri, "wrong horse", 5, timeout=10.0):
        assert "wrong user name or password" in said
    assert vcenter.logins() == 1
    # It is about that password only.
    assert count(opens(vcenter)) == ALL


def test_a_session_that_is_idle_for_too_long(opens: Opens, vcenter: VCenter) -> None:
    vcenter.idle(100)
    inspector = opens(vcenter)
    for step in (90, 90, 110):
        assert count(inspector) == ALL
        assert vcenter.logins() == 1
        vcenter.step(step)
    assert count(inspector) == ALL
    assert vcenter.logins() == 2


def test_a_wrong_password_is_tried_once_until_it_is_another(
    opens: Opens, vcenter: VCenter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "password"
    file.write_text("wrong horse\n")
    file.chmod(0o600)
    vcenter.fail("Login", times=2, delay=1.5)
    uri = f"{vcenter.uri}&password_file={file}"
    inspector = opens(vcenter, uri=uri, password=None, timeout=0.5)
    vm = vcenter.vms()[0]

    def is_refused() -> bool:
        return "wrong user name or password" in failure(inspector.usage_all)

    # The first does not wait until it is known.
    eventually(is_refused)
    for _ in range(20):
        with pytest.raises(ConnectionLost, match="wrong user name or password"):
            inspector.usage_all()
        with pytest.raises(ConnectionLost, match="wrong user name or password"):
            inspector.usage(vm.uuid)
        with pytest.raises(ConnectionLost, match="wrong user name or password"):
            inspector.list_hosts()
    assert vcenter.logins() == 1
    # Whatever is due by then is not tried.
    time.sleep(1.5)
    with pytest.raises(ConnectionLost):
        inspector.usage_all()
    assert vcenter.logins() == 1
    file.write_text("another wrong horse")
    eventually(lambda: vcenter.logins() == 2 or count(inspector))
    eventually(is_refused)
    assert vcenter.logins() == 2
    file.write_text(PASSWORD + "\n")
    eventually(lambda: is_well(inspector))
    assert vcenter.logins() == 3
    assert "horse" not in caplog.text


def test_a_user_without_rights_sees_nothing_and_is_told_nothing_else(
    opens: Opens, vcenter: VCenter
) -> None:
    inspector = opens(vcenter, uri=vcenter.uri_of("nobody"))
    assert inspector.usage_all() == []
    assert inspector.list_instances() == []
    assert inspector.list_hosts() == []
    assert inspector.list_servers() == []
    vm = vcenter.vms()[0]
    with pytest.raises(InstanceNotFoundException, match="this user may not see it"):
        inspector.usage(vm.uuid)
    health = inspector.health()
    assert (health.outage, health.away) == (None, {})


def test_a_vcenter_that_restarts(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    vcenter.restart()
    vcenter.step(20)
    assert count(inspector) == ALL
    assert vcenter.logins() == 2
    restarting = threading.Thread(target=vcenter.restart, args=(1.0,))
    restarting.start()
    eventually(lambda: "refuses connections" in failure(inspector.usage_all))
    restarting.join(60)
    assert not restarting.is_alive()
    eventually(lambda: is_well(inspector))
    assert vcenter.logins() == 3


def test_another_certificate(opens: Opens, vcenter: VCenter, tmp_path: Path) -> None:
    inspector = opens(vcenter)
    any_one = opens(vcenter, uri=vcenter.uri.partition("?")[0] + "?insecure=1")
    signed = tmp_path / "ca.pem"
    signed.write_bytes(vcenter.certificate.read_bytes())
    by_file = opens(vcenter, uri=vcenter.uri.partition("?")[0] + f"?ca_file={signed}")
    for each in (inspector, any_one):
        assert count(each) == ALL
    vcenter.restart(other_certificate=True)
    vcenter.forget_calls()
    with pytest.raises(ConnectionLost, match="has not the certificate that was expected"):
        inspector.usage_all()
    with pytest.raises(ConnectionLost, match="certificate"):
        by_file.usage_all()
    assert vcenter.calls() == {}
    assert count(any_one) == ALL
    assert count(opens(vcenter)) == ALL


def test_counters_have_other_ids_after_an_upgrade(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    vcenter.limits(counter_offset=1000)
    vcenter.restart()
    vcenter.step(40)
    told = usages(inspector)
    assert len(told) == ALL
    for usage in told.values():
        assert usage.cpu_interval == 40
        assert usage.network_read_kib is not None


@pytest.mark.parametrize("limit", [{"entities": 3}, {"metrics": 60}, {"elements": 250}])
def test_a_server_that_takes_fewer_at_once_is_asked_for_fewer(
    opens: Opens, vcenter: VCenter, limit: dict[str, int]
) -> None:
    vcenter.limits(**limit)
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    for _ in range(2):
        count(inspector)
        vcenter.forget_calls()
        vcenter.step(20)
        told = usages(inspector)
        assert len(told) == ALL
        assert all(usage.cpu_interval == 20 for usage in told.values())
        # It has been learnt: no call is refused.
        entities = [query["entities"] for query in vcenter.queries()]
        assert sum(entities) == ALL
        assert max(entities) < ALL
    assert inspector.health().away == {}


def test_a_server_that_takes_less_than_one_vm(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    vcenter.limits(metrics=1)
    vcenter.forget_calls()
    vcenter.step(20)
    assert inspector.usage_all() == []
    # It is found out without asking about each of them.
    assert vcenter.calls()["QueryPerf"] < 2 * ALL - 1
    ((failure, _),) = inspector.health().away.values()
    assert "refuses" in str(failure)
    vcenter.limits(metrics=0)
    vcenter.step(20)
    told: list[virtmeter.VmUsage] = []

    def is_read() -> bool:
        told.extend(inspector.usage_all())
        return bool(told)

    eventually(is_read)
    assert {usage.cpu_interval for usage in told} == {40}


@pytest.mark.parametrize("omitted", [False, True])
@pytest.mark.parametrize("gone", [1, 5])
def test_a_vm_that_is_deleted_leaves_the_call_and_nobody_else(
    opens: Opens, vcenter: VCenter, omitted: bool, gone: int
) -> None:
    vcenter.limits(omit_deleted=omitted)
    # An inventory that is a while old names VMs that are gone.
    inspector = opens(vcenter, max_age=1.0)
    assert count(inspector) == ALL
    time.sleep(1.1)
    vcenter.step(20)
    inspector.list_instances()
    vms = [vm for vm in vcenter.vms() if vm.state == "poweredOn" and not vm.template]
    for vm in vms[:gone]:
        vcenter.delete(vm.ref)
    told = usages(inspector)
    left = {vm.uuid for vm in vms[gone:]}
    assert left <= set(told)
    assert {told[uuid].cpu_interval for uuid in left} == {20}
    assert inspector.health().away == {}
    eventually(lambda: is_well(inspector, ALL - gone))
    for vm in vms[:gone]:
        with pytest.raises(InstanceNotFoundException):
            inspector.usage(vm.uuid)


def test_no_host_is_blamed_for_vms_that_are_deleted_all_at_once(
    opens: Opens, caplog: pytest.LogCaptureFixture
) -> None:
    with VCenter(hosts=1, vms=44) as vcenter:
        inspector = opens(vcenter, max_age=2.0)
        assert count(inspector) == 44
        vms, before = vcenter.vms(), vcenter.calls()["QueryPerf"]
        time.sleep(2.1)
        # They are deleted after they were listed.
        inspector.list_instances()
        for vm in vms[:40]:
            vcenter.delete(vm.ref)
        assert count(inspector) == 4
        assert vcenter.calls()["QueryPerf"] - before < 10
        assert inspector.health().away == {}
        assert "does not answer" not in caplog.text


@pytest.mark.parametrize("first", ["inspect_details", "inspect_instance"])
def test_a_vm_that_is_deleted_after_the_list_is_not_found(
    opens: Opens, vcenter: VCenter, first: str
) -> None:
    inspector = opens(vcenter, max_age=60.0)
    inspector.list_instances()
    gone, stays, *_ = (vm for vm in vcenter.vms() if vm.state == "poweredOn" and not vm.template)
    vcenter.delete(gone.ref)
    for method in (first, "inspect_details", "inspect_instance", "inspect_disks", "usage"):
        with pytest.raises(InstanceNotFoundException):
            getattr(inspector, method)(gone.uuid)
        getattr(inspector, method)(stays.uuid)


def test_a_vm_that_is_deleted_after_its_devices_were_read_is_not_found(
    opens: Opens, vcenter: VCenter
) -> None:
    vcenter.limits(omit_deleted=True)
    inspector = opens(vcenter, max_age=60.0)
    gone, stays, *_ = (vm for vm in vcenter.vms() if vm.state == "poweredOn" and not vm.template)
    for vm in (gone, stays):
        inspector.inspect_details(vm.uuid)
    vcenter.delete(gone.ref)
    for method in ("inspect_instance", "inspect_disks", "usage", "inspect_details"):
        with pytest.raises(InstanceNotFoundException):
            getattr(inspector, method)(gone.uuid)
        getattr(inspector, method)(stays.uuid)


def test_a_vm_that_is_deleted_before_its_devices_were_read(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter, max_age=2.0)
    inspector.list_instances()
    vms = [vm for vm in vcenter.vms() if vm.state == "poweredOn" and not vm.template]
    for vm in vms[:3]:
        vcenter.delete(vm.ref)
    left = {vm.uuid for vm in vms[3:]}
    assert left <= set(usages(inspector))
    assert inspector.health().away == {}
    for uuid in left:
        assert list(inspector.inspect_vnics(uuid))


@pytest.mark.parametrize("hosts", [2, 4])
def test_a_sick_host_holds_up_its_own_vms_once(opens: Opens, hosts: int) -> None:
    with VCenter(hosts=hosts, vms=8) as vcenter:
        inspector = opens(vcenter, timeout=3.0)
        assert count(inspector) == ALL
        sick = [vm for vm in vcenter.vms() if vm.host == 1]
        name, ref = (vcenter.hosts()[1][what] for what in ("name", "ref"))
        vcenter.sick(1, 600)
        vcenter.step(20)
        told = usages(inspector)
        # The others are delivered in the same pass.
        assert len(told) == ALL - len(sick)
        assert not {vm.uuid for vm in sick} & set(told)
        assert {usage.cpu_interval for usage in told.values()} == {20}
        waited = inspector.health().timeouts
        for _ in range(5):
            with pytest.raises(NoDataException, match=r"in time|no answer within"):
                inspector.usage(sick[0].uuid)
            assert len(usages(inspector)) == ALL - len(sick)
        assert inspector.health().timeouts == waited <= 1
        assert list(inspector.health().away) == [name]
        vcenter.sick(1, 0)
        eventually(lambda: is_well(inspector))

        def is_in_company() -> bool:
            vcenter.forget_calls()
            return is_well(inspector) and vcenter.queries()[0]["hosts"] != [ref]

        eventually(is_in_company)
        assert len(vcenter.queries()) == 1


def test_interrupted_and_closed_again_and_again_over_a_sick_host(
    opens: Opens, vcenter: VCenter
) -> None:
    inspector = opens(vcenter, timeout=3.0)
    assert count(inspector) == ALL
    vcenter.sick(1, 600)
    told = [interrupted_and_closed(inspector, 2.0) for _ in range(10)]
    assert ALL // 2 in told
    assert list(inspector.health().away) == [vcenter.hosts()[1]["name"]]
    vcenter.sick(1, 0)
    eventually(lambda: is_well(inspector))


@pytest.mark.parametrize("each", [2, 30])  # with 30, there are several calls
def test_many_sick_hosts_are_waited_for_at_once(opens: Opens, each: int) -> None:
    hosts = 10
    with VCenter(hosts=hosts, vms=each * hosts) as vcenter:
        inspector = opens(vcenter, timeout=2.0)
        assert count(inspector) == each * hosts
        for host in range(1, hosts):
            vcenter.sick(host, 600)
        vcenter.step(20)
        assert count(inspector) == each
        assert inspector.health().timeouts <= hosts // 2
        for host in range(1, hosts):
            vcenter.sick(host, 0)
        eventually(lambda: count(inspector) == each * hosts)


@pytest.mark.parametrize("fault", ["sick", "notResponding"])
def test_a_host_that_vms_leave_while_it_is_away_is_waited_for_and_told_of_once(
    opens: Opens, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    with VCenter(hosts=3, vms=12) as vcenter:
        inspector = opens(vcenter, timeout=3.0)
        assert count(inspector) == 12
        name = vcenter.hosts()[2]["name"]
        there = [vm for vm in vcenter.vms() if vm.host == 2]
        if fault == "sick":
            vcenter.sick(2, 600)
        else:
            vcenter.connection(2, fault)
        assert count(inspector) == 8
        eventually(lambda: count(inspector) == 8 and name in caplog.text)
        waited, since = inspector.health().timeouts, inspector.health().away[name][1]
        for vm in there[1:]:
            vcenter.delete(vm.ref)
            assert count(inspector) == 8
            health = inspector.health()
            assert health.timeouts == waited
            assert list(health.away) == [name]
            assert health.away[name][1] > since
        [line] = [line for line in caplog.messages if "does not answer" in line]
        assert name in line
        vcenter.sick(2, 0)
        vcenter.connection(2, "connected")
        eventually(lambda: count(inspector) == 9)


@pytest.mark.parametrize("kind", ["HostCommunication", "HostNotConnected", "HostNotReachable"])
def test_a_host_that_vcenter_cannot_ask_costs_its_own_vms(
    opens: Opens, vcenter: VCenter, kind: str
) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    there = [vm for vm in vcenter.vms() if vm.host == 1 and vm.state == "poweredOn"]
    there = [vm for vm in there if not vm.template]
    for vm in there:
        bad: dict[str, Any] = {"status": 500, "body": soap_fault(kind), "about": f">{vm.ref}<"}
        vcenter.fail(SAMPLES, times=ALWAYS, **bad)
    for _ in range(2):
        vcenter.step(20)
        told = usages(inspector)
        assert len(told) == ALL - len(there)
        assert {usage.cpu_interval for usage in told.values()} == {20}
        with pytest.raises(NoDataException, match=kind):
            inspector.usage(there[0].uuid)
    assert list(inspector.health().away) == [vcenter.hosts()[1]["name"]]
    vcenter.fail(times=0)
    eventually(lambda: is_well(inspector))


@pytest.mark.parametrize("state", ["disconnected", "notResponding"])
def test_a_host_that_vcenter_does_not_hear_of_is_not_asked(
    opens: Opens, vcenter: VCenter, state: str
) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    name, ref = (vcenter.hosts()[1][what] for what in ("name", "ref"))
    vcenter.connection(1, state)
    vcenter.step(20)
    vcenter.forget_calls()
    away = next(vm for vm in vcenter.vms() if vm.host == 1 and vm.state == "poweredOn")
    for _ in range(3):
        told = usages(inspector)
        assert len(told) == ALL // 2
        assert away.uuid not in told
        with pytest.raises(NoDataException, match="not connected"):
            inspector.inspect_instance(away.uuid)
    assert all(ref not in query["hosts"] for query in vcenter.queries())
    states = {instance.id: instance.state for instance in inspector.list_instances()}
    assert states[away.uuid] == 0
    assert list(inspector.health().away) == [name]
    live = {host.name: host.live for host in inspector.list_hosts()}
    assert [name for name, is_live in live.items() if not is_live] == [name]
    vcenter.connection(1, "connected")
    eventually(lambda: is_well(inspector))
    # What it did meanwhile is not lost.
    vcenter.step(20)
    assert usages(inspector)[away.uuid].cpu_interval == 20


def test_vms_that_cannot_be_told_cost_nobody_else(
    opens: Opens, vcenter: VCenter, caplog: pytest.LogCaptureFixture
) -> None:
    inspector = opens(vcenter)
    before = {instance.id for instance in inspector.list_instances()}
    vcenter.half_clone()
    first = vcenter.vms()[0]
    # A copy of the first with its UUID, which is on as well.
    vcenter.create(number=0, name="copy", host=1)
    assert {instance.id for instance in inspector.list_instances()} == before
    assert len(before) == ALL + 2
    for _ in range(3):
        assert is_well(inspector)
        vcenter.step(20)
    assert usages(inspector)[first.uuid].name == first.name
    said = [r.getMessage() for r in caplog.records if "cannot be told" in r.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("2 VM(s)")


def test_a_vm_whose_configuration_is_not_told_for_a_while_stays_the_same(
    opens: Opens, vcenter: VCenter
) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    before = inspector.list_instances()
    vm = vcenter.vms()[0]
    nics = {nic.name for nic in inspector.inspect_vnics(vm.uuid)}
    vcenter.hide(vm.ref)
    for _ in range(2):
        vcenter.step(20)
        usage = usages(inspector)[vm.uuid]
        assert (usage.cpu_interval, usage.cpu_number) == (20, vm.cpus)
        assert {nic.name for nic in inspector.inspect_vnics(vm.uuid)} == nics
    assert inspector.list_instances() == before
    vcenter.hide(vm.ref, hidden=False)
    vcenter.step(20)
    assert usages(inspector)[vm.uuid].cpu_interval == 20
    assert inspector.list_instances() == before


def test_devices_that_are_not_told_are_unknown_and_not_gone(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    known, new = untold(inspector, vcenter)
    vcenter.step(20)
    usage = usages(inspector)
    assert usage[known.uuid].network_interval == usage[known.uuid].disk_interval == 20
    assert list(inspector.inspect_vnics(known.uuid))
    assert list(inspector.inspect_disk_info(known.uuid))
    assert new.uuid not in usage
    asks = (
        *(inspector.usage, inspector.inspect_vnics, inspector.inspect_disks),
        *(inspector.inspect_disk_info, inspector.inspect_details),
    )
    for ask in asks:
        with pytest.raises(NoDataException, match="does not tell the configuration"):
            ask(new.uuid)
    for vm in (known, new):
        vcenter.hide(vm.ref, hidden=False)
    vcenter.step(20)
    assert usages(inspector)[known.uuid].network_interval == 20
    for vm in (known, new):
        assert list(inspector.inspect_vnics(vm.uuid))
        assert list(inspector.inspect_disk_info(vm.uuid))


def test_names_are_decoded_and_templates_left_out(opens: Opens, vcenter: VCenter) -> None:
    vms = vcenter.vms()
    names = {instance.name for instance in opens(vcenter).list_instances()}
    assert names == {unquote(vm.name) for vm in vms if not vm.template}
    assert {'web/1 "ü" <&>', "50% of C:\\"} <= names
    assert any("%" in vm.name for vm in vms)


def test_one_esxi_host(opens: Opens) -> None:
    with VCenter(vms=3, off=1, esxi=True) as esxi:
        inspector = opens(esxi)
        assert count(inspector) == 3
        assert len(inspector.list_instances()) == 4
        (host,) = inspector.list_hosts()
        assert (host.live, host.instances) == (True, 3)
        esxi.expire_sessions()
        esxi.step(40)
        assert {usage.cpu_interval for usage in inspector.usage_all()} == {40}
        assert esxi.logins() == 2


def test_a_call_that_fails_for_good_leaves_the_others(opens: Opens, vcenter: VCenter) -> None:
    def asks(inspector: Inspector) -> None:
        assert inspector.usage_all() == []

    vcenter.fail(SAMPLES, times=ALWAYS, status=500, body=soap_fault("RuntimeFault"))
    inspector = opens(vcenter)
    asks(inspector)
    assert len(inspector.list_hosts()) == 2
    assert list(inspector.inspect_disk_info(vcenter.vms()[0].uuid))


def test_a_process_that_was_stopped_blames_nobody(vcenter: VCenter) -> None:
    vcenter.sick(1, 60)  # until it is stopped
    before = vcenter.calls().get(SAMPLES, 0)
    told = told_by_a_stopped_process(
        vcenter.uri,
        PASSWORD,
        lambda: vcenter.calls().get(SAMPLES, 0) > before,
        lambda: vcenter.sick(1, 0),
    )
    assert told == f"{ALL} {{}} None\n"


def test_a_vcenter_that_is_not_reached_is_told_as_such_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    why = "did not complete the TLS handshake in time"
    assert why in told_of_a_silent_server("vsphere")
    assert why in caplog.text
