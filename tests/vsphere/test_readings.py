"""What is told of the VMs of a vCenter, whatever happens to them."""

from __future__ import annotations

import signal
import time
import uuid as uuids
from typing import TYPE_CHECKING, Any

import pytest

import virtmeter
from tests.support.remote import eventually
from tests.support.vcsim import VCenter
from tests.vsphere.wellness import ALL, count, usages
from virtmeter import InstanceNotFoundException, InstanceShutOffException, NoDataException

if TYPE_CHECKING:
    from types import FrameType

    from tests.support.vcsim import VM
    from tests.vsphere.conftest import Opens
    from virtmeter import Inspector

NIC, DISK = "4000", "scsi0:0"
MS = 10**6


def truth(vm: VM, counter: str, instance: str, times: tuple[float, float], factor: int = 20) -> int:
    """Add up the samples after one time, up to another."""
    first, last = (int(time + vm.ahead) for time in times)
    grid = range(first - first % 20 + 20, last + 1, 20)
    values = [vm.value(counter, instance, time) for time in grid]
    return factor * sum(value for value in values if value >= 0)


def a_vm(vcenter: VCenter, host: int | None = None) -> VM:
    """Return the first VM that is on, with a disk at `scsi0:0`."""
    return next(
        vm
        for vm in vcenter.vms()
        if vm.state == "poweredOn"
        and vm.host in (host, vm.host if host is None else host)
        and any(each.name == DISK for each in vm.instances)
    )


def running(vcenter: VCenter) -> list[VM]:
    return [vm for vm in vcenter.vms() if vm.state == "poweredOn" and not vm.template]


def nic_of(inspector: Inspector, vm: VM, name: str = NIC) -> virtmeter.InterfaceStats:
    (nic,) = (nic for nic in inspector.inspect_vnics(vm.uuid) if nic.name == name)
    return nic


def test_vms_that_do_not_run(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    reporting = opens(vcenter, report_stopped=True)
    vms = {vm.state: vm for vm in vcenter.vms() if not vm.template}
    states = {instance.id: instance.state for instance in inspector.list_instances()}
    for state, number in (("poweredOff", 5), ("suspended", 7)):
        uuid = vms[state].uuid
        assert states[uuid] == number
        for ask in (
            inspector.usage,
            inspector.inspect_instance,
            inspector.inspect_vnics,
            inspector.inspect_disks,
            inspector.inspect_disk_info,
            inspector.inspect_vnic_rates,
            inspector.inspect_disk_rates,
            reporting.usage,
            reporting.inspect_vnics,
            reporting.inspect_disks,
        ):
            with pytest.raises(InstanceShutOffException, match=uuid):
                ask(uuid)
        assert inspector.inspect_details(uuid).state == number
        assert uuid not in usages(inspector)
        stats = reporting.inspect_instance(uuid)
        assert (stats.power_state, stats.cpu_number) == (number, vms[state].cpus)
        assert len(list(reporting.inspect_disk_info(uuid))) == len(vms[state].disks)
    assert {server.id for server in inspector.list_servers()} <= set(states)
    (template,) = (vm for vm in vcenter.vms() if vm.template)
    assert template.uuid not in states
    with pytest.raises(InstanceNotFoundException):
        inspector.inspect_details(template.uuid)


@pytest.mark.parametrize("stop", ["power_off", "suspend"])
def test_what_a_vm_used_before_it_was_stopped_is_not_told_as_if_it_ran(
    opens: Opens, vcenter: VCenter, stop: str
) -> None:
    inspector = opens(vcenter, report_stopped=True)
    vm = a_vm(vcenter)
    count(inspector)
    vcenter.step(60)
    before = inspector.inspect_instance(vm.uuid)
    assert before.cpu_time
    assert before.memory_resident
    getattr(vcenter, stop)(vm.ref)
    stats = inspector.inspect_instance(vm.uuid)
    assert (stats.cpu_number, stats.cpu_time, stats.vcpu_time) == (vm.cpus, None, None)
    assert (stats.memory_resident, stats.memory_active) == (None, None)


def test_counters_begin_anew_at_a_start_and_go_on_after_a_suspension(
    opens: Opens, vcenter: VCenter
) -> None:
    inspector = opens(vcenter)
    vm = a_vm(vcenter)
    nic_of(inspector, vm)
    begin = vcenter.now
    vcenter.step(100)
    before = nic_of(inspector, vm).rx_bytes
    assert before == truth(vm, "net.received.average", NIC, (begin, vcenter.now)) * 1024
    vcenter.suspend(vm.ref)
    vcenter.step(300)
    assert vm.uuid not in usages(inspector)
    vcenter.power_on(vm.ref)
    resumed = vcenter.now
    vcenter.step(100)
    after = nic_of(inspector, vm).rx_bytes
    assert after == before + truth(vm, "net.received.average", NIC, (resumed, vcenter.now)) * 1024
    vcenter.power_off(vm.ref)
    vcenter.step(100)
    assert vm.uuid not in usages(inspector)
    vcenter.power_on(vm.ref)
    started = vcenter.now
    vcenter.step(100)
    after = nic_of(inspector, vm).rx_bytes
    assert after == truth(vm, "net.received.average", NIC, (started, vcenter.now)) * 1024
    cpu = inspector.inspect_instance(vm.uuid).cpu_time
    assert cpu == truth(vm, "cpu.run.summation", "", (started, vcenter.now), 1) * 10**6


@pytest.mark.parametrize("ahead", [0, 300, -600])
@pytest.mark.parametrize("is_seen_off", [True, False])
def test_a_vm_that_was_started_anew_has_no_sample_yet_and_loses_none(
    opens: Opens, vcenter: VCenter, ahead: int, is_seen_off: bool
) -> None:
    vcenter.clock_off(0, ahead)
    vm = a_vm(vcenter, host=0)
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    begin = vcenter.now
    vcenter.step(67)
    told = [usages(inspector)[vm.uuid].network_read_kib]
    start = nic_of(inspector, vm).start
    vcenter.power_off(vm.ref)
    vcenter.step(20)
    if is_seen_off:
        assert count(inspector) == ALL - 1
    vcenter.power_on(vm.ref)
    started = vcenter.now
    asks = (inspector.usage, inspector.inspect_instance, inspector.inspect_vnics)
    for ask in (*asks, inspector.inspect_disks, inspector.inspect_vnic_rates):
        with pytest.raises(NoDataException, match="no sample of this VM yet"):
            ask(vm.uuid)
    assert count(inspector) == ALL - 1
    assert inspector.health().away == {}
    assert inspector.inspect_details(vm.uuid).state == 1
    for _ in range(5):
        vcenter.step(20)
        nic = nic_of(inspector, vm)
        assert nic.start != start
        received = truth(vm, "net.received.average", NIC, (started, vcenter.now))
        assert nic.rx_bytes == received * 1024
        told.append(usages(inspector)[vm.uuid].network_read_kib)
    stopped = started - 20
    before = truth(vm, "net.received.average", NIC, (begin, stopped))
    assert sum(kib for kib in told if kib is not None) == before + received


@pytest.mark.parametrize("stop", ["power_off", "suspend"])
@pytest.mark.parametrize("age", [600, 7200])
def test_time_for_which_a_vm_stood_still_has_passed_however_young_it_was(
    opens: Opens, vcenter: VCenter, age: int, stop: str
) -> None:
    ref = vcenter.create()
    uuid = vcenter.vm(ref).uuid
    vcenter.step(age)
    inspector = opens(vcenter)
    assert uuid in usages(inspector)
    getattr(vcenter, stop)(ref)
    assert uuid not in usages(inspector)
    vcenter.power_on(ref)
    # Our own clock goes on.
    inspector.list_instances()
    vcenter.step(40)
    usage = usages(inspector)[uuid]
    assert usage.cpu_interval is not None
    # The time of the server is made up: hardly any of ours has passed.
    assert 40 <= usage.cpu_interval < 60
    assert usage.network_interval == usage.cpu_interval


def test_another_vm_with_the_uuid_of_one_that_was_young(opens: Opens, vcenter: VCenter) -> None:
    ref = vcenter.create(number=1000)
    uuid = vcenter.vm(ref).uuid
    vcenter.step(3000)
    inspector = opens(vcenter)
    usages(inspector)
    before = inspector.inspect_instance(uuid).cpu_time
    vcenter.delete(ref)
    vm = vcenter.vm(vcenter.create(number=1000))
    assert vm.uuid == uuid
    begin = vcenter.now
    vcenter.step(60)
    usages(inspector)
    vcenter.step(60)
    usage = usages(inspector)[uuid]
    run = truth(vm, "cpu.run.summation", "", (begin + 60, vcenter.now), 1)
    assert usage.cpu_interval == 60
    assert usage.cpu_utilization == pytest.approx(run / (600 * vm.cpus))
    assert inspector.inspect_instance(uuid).cpu_time != before


@pytest.mark.parametrize("is_missed", [False, True])
def test_a_vm_that_is_registered_anew_and_started_has_another_start(
    opens: Opens, vcenter: VCenter, *, is_missed: bool
) -> None:
    ref = vcenter.create(number=1000, nics=1, host=0)
    uuid = vcenter.vm(ref).uuid
    inspector = opens(vcenter)
    vcenter.step(67)
    usages(inspector)
    vcenter.step(40)
    told = usages(inspector)[uuid].network_read_kib
    before = nic_of(inspector, vcenter.vm(ref))
    assert told
    assert before.rx_bytes
    vcenter.power_off(ref)
    vcenter.delete(ref)
    if is_missed:
        assert uuid not in usages(inspector)
        with pytest.raises(InstanceNotFoundException):
            inspector.inspect_vnics(uuid)
    vm = vcenter.vm(vcenter.create(number=1000, nics=1, host=0))
    assert vm.uuid == uuid
    began = vcenter.now
    vcenter.step(100)
    nic = nic_of(inspector, vm)
    received = truth(vm, "net.received.average", NIC, (began, vcenter.now))
    assert nic.start != before.start
    assert nic.rx_bytes == received * 1024
    usage = usages(inspector)[uuid]
    if is_missed:  # it was forgotten
        assert (nic.rx_bytes_delta, usage.network_read_kib) == (0, None)
    else:
        assert (nic.rx_bytes_delta, usage.network_read_kib) == (nic.rx_bytes, received)
        assert usage.network_interval == 100


def test_a_restart_that_nobody_has_seen(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    vm = a_vm(vcenter)
    count(inspector)
    vcenter.step(100)
    count(inspector)
    begin = vcenter.now
    vcenter.step(40)
    off = vcenter.now
    vcenter.power_off(vm.ref)
    vcenter.step(40)
    vcenter.power_on(vm.ref)
    on = vcenter.now
    vcenter.step(60)
    usage = usages(inspector)[vm.uuid]
    nic = nic_of(inspector, vm)
    received = "net.received.average"
    assert nic.rx_bytes == truth(vm, received, NIC, (on, vcenter.now)) * 1024
    # Of the time before, only what its host still tells.
    names = [each.name for each in vm.instances if each.group == "net"]
    least = sum(truth(vm, received, name, (on, vcenter.now)) for name in names)
    most = least + sum(truth(vm, received, name, (begin, off)) for name in names)
    assert usage.network_read_kib is not None
    assert least <= usage.network_read_kib <= most


def test_a_restart_after_a_clock_was_set_back(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    vm = a_vm(vcenter)
    count(inspector)
    vcenter.step(200)
    before = inspector.inspect_instance(vm.uuid)
    vcenter.clock_off(vm.host, -1200)
    for _ in range(2):
        vcenter.step(60)
        assert inspector.inspect_instance(vm.uuid).start == before.start
    vcenter.power_off(vm.ref)
    assert vm.uuid not in usages(inspector)
    vcenter.power_on(vm.ref)
    begin = vcenter.now
    vcenter.step(60)
    after = inspector.inspect_instance(vm.uuid)
    assert after.start != before.start
    vm = vcenter.vm(vm.ref)
    assert after.cpu_time == truth(vm, "cpu.run.summation", "", (begin, vcenter.now), MS)


@pytest.mark.parametrize("ahead", [0, 90, 600])
def test_a_migration_loses_nothing_that_hosts_tell(
    opens: Opens, vcenter: VCenter, ahead: int
) -> None:
    vcenter.clock_off(1, ahead)
    inspector = opens(vcenter)
    vm = a_vm(vcenter, host=0)
    received = "net.received.average"
    nic_of(inspector, vm)
    begin = vcenter.now
    expected = 0
    for host in (1, 0, 1):
        vcenter.step(60)
        expected += truth(vcenter.vm(vm.ref), received, NIC, (begin, vcenter.now)) * 1024
        assert nic_of(inspector, vm).rx_bytes == expected
        vcenter.migrate(vm.ref, host=host)
        begin = vcenter.now
        # It has no sample on its new host yet, and what is known goes on.
        assert nic_of(inspector, vm).rx_bytes == expected
    assert {usage.id for usage in inspector.usage_all()} >= {vm.uuid}


def test_a_vm_that_has_moved_is_not_told_as_it_was_before(opens: Opens) -> None:
    """Its new host was read before anybody knew that it was there, and not too long ago."""
    with VCenter(hosts=2, vms=240) as vcenter:
        vcenter.step(100)
        # The hosts' last, which have calls of their own.
        first, second = sorted(
            {vm.host for vm in running(vcenter)}, key=lambda host: vcenter.hosts()[host]["ref"]
        )
        moving, staying = (
            max((vm for vm in running(vcenter) if vm.host == host), key=lambda vm: vm.uuid)
            for host in (first, second)
        )
        inspector = opens(vcenter, max_age=3.0)
        before = inspector.inspect_instance(moving.uuid).cpu_time or 0
        time.sleep(3)
        vcenter.fail("RetrievePropertiesEx", times=10**6, delay=2.0)
        asked = time.monotonic()
        inspector.inspect_instance(staying.uuid)
        vcenter.migrate(moving.ref, host=second)
        vcenter.step(100)
        # The list of VMs is too old by now, and what was read after it is not.
        time.sleep(max(0, asked + 4 - time.monotonic()))
        assert (inspector.inspect_instance(moving.uuid).cpu_time or 0) > before


def test_what_is_plugged_and_unplugged(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    vm = a_vm(vcenter)
    nics = {nic.name for nic in inspector.inspect_vnics(vm.uuid)}
    disks = {disk.device for disk in inspector.inspect_disks(vm.uuid)}
    begin = vcenter.now
    nic, disk = vcenter.add_nic(vm.ref), vcenter.add_disk(vm.ref)
    # There is no sample of them yet.
    assert {each.name for each in inspector.inspect_vnics(vm.uuid)} == nics
    assert {each.port_id for each in inspector.inspect_details(vm.uuid).nics}
    assert nic in {each.name for each in inspector.inspect_details(vm.uuid).nics}
    vcenter.step(60)
    assert {each.name for each in inspector.inspect_vnics(vm.uuid)} == nics | {nic}
    assert {each.device for each in inspector.inspect_disks(vm.uuid)} == disks | {disk}
    plugged = vcenter.vm(vm.ref)
    expected = truth(plugged, "net.received.average", nic, (begin, vcenter.now)) * 1024
    assert nic_of(inspector, vm, nic).rx_bytes == expected > 0
    vcenter.remove(vm.ref, nic)
    vcenter.remove(vm.ref, disk)
    vcenter.step(60)
    assert {each.name for each in inspector.inspect_vnics(vm.uuid)} == nics
    assert {each.device for each in inspector.inspect_disks(vm.uuid)} == disks
    assert disk not in {each.device for each in inspector.inspect_disk_info(vm.uuid)}


def test_a_device_that_is_unplugged_and_plugged_again_between_readings(
    opens: Opens, vcenter: VCenter
) -> None:
    inspector = opens(vcenter)
    vm = a_vm(vcenter)
    nic, disk = vcenter.add_nic(vm.ref), vcenter.add_disk(vm.ref)
    count(inspector)
    vcenter.step(100)
    before = nic_of(inspector, vm, nic)
    vcenter.remove(vm.ref, nic)
    vcenter.remove(vm.ref, disk)
    assert (vcenter.add_nic(vm.ref), vcenter.add_disk(vm.ref)) == (nic, disk)
    begin = vcenter.now
    for _ in range(3):
        vcenter.step(40)
        usage = usages(inspector)[vm.uuid]
        assert (usage.network_read_kib or 0) >= 0
        told = nic_of(inspector, vm, nic)
        assert told.rx_bytes_delta >= 0
        new = truth(vcenter.vm(vm.ref), "net.received.average", nic, (begin, vcenter.now)) * 1024
        # Its counter begins anew, or goes on as that of the one before it.
        assert told.rx_bytes in (new, before.rx_bytes + new)


def test_deltas_add_up_to_the_counters(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    vm = a_vm(vcenter)
    added: dict[str, int] = {}
    first: dict[str, int] = {}
    for _ in range(6):
        vcenter.step(33)
        for nic in inspector.inspect_vnics(vm.uuid):
            first.setdefault(nic.name, nic.rx_bytes - nic.rx_bytes_delta)
            added[nic.name] = added.get(nic.name, 0) + nic.rx_bytes_delta
            assert nic.rx_bytes == first[nic.name] + added[nic.name]
    assert added
    assert all(value > 0 for value in added.values())


def test_rates_are_those_of_the_time_that_samples_cover(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    vm = a_vm(vcenter)
    assert not list(inspector.inspect_vnic_rates(vm.uuid))
    assert not list(inspector.inspect_disk_rates(vm.uuid))
    usages(inspector)
    begin = vcenter.now
    # A sample of the five is missing.
    vcenter.missing(vm.ref, times=[begin - begin % 20 + 40])
    vcenter.step(100)
    times = (begin, vcenter.now)
    nics = {nic.name: nic for nic in inspector.inspect_vnic_rates(vm.uuid)}
    disks = {disk.device: disk for disk in inspector.inspect_disk_rates(vm.uuid)}
    assert NIC in nics
    assert DISK in disks

    def rate(counter: str, instance: str) -> float:
        gone = 20 * vm.value(counter, instance, int(begin - begin % 20 + 40 + vm.ahead))
        return (truth(vm, counter, instance, times) - gone) / 80

    for name, nic in nics.items():
        assert nic.rx_bytes_rate == pytest.approx(rate("net.received.average", name) * 1024)
        assert nic.tx_bytes_rate == pytest.approx(rate("net.transmitted.average", name) * 1024)
    for name, disk in disks.items():
        group = "virtualDisk"
        assert disk.read_bytes_rate == pytest.approx(rate(f"{group}.read.average", name) * 1024)
        reads = rate(f"{group}.numberReadAveraged.average", name)
        assert disk.read_requests_rate == pytest.approx(reads)
    usage = usages(inspector)[vm.uuid]
    assert usage.cpu_interval == usage.network_interval == usage.disk_interval == 80


def test_a_reading_without_a_new_sample_changes_nothing(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    vm = a_vm(vcenter)
    count(inspector)
    vcenter.step(20)
    nic_of(inspector, vm)
    received = 0.0
    begin = vcenter.now
    count(inspector)
    for _ in range(12):
        vcenter.step(5)
        usage = usages(inspector)[vm.uuid]
        received += usage.network_read_kib or 0
        assert usage.cpu_interval in (None, 20)
    names = [each.name for each in vm.instances if each.group == "net"]
    times = (begin, vcenter.now)
    assert received == sum(truth(vm, "net.received.average", name, times) for name in names)


def test_details_and_sizes(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    for vm in (vm for vm in vcenter.vms() if vm.state == "poweredOn" and not vm.template):
        details = inspector.inspect_details(vm.uuid)
        assert (details.vcpus_configured, details.memory_configured) == (vm.cpus, vm.mib)
        assert {nic.name: nic.mac for nic in details.nics} == {
            str(nic["key"]): nic["mac"] for nic in vm.nics
        }
        sizes = {disk.device: disk for disk in inspector.inspect_disk_info(vm.uuid)}
        names = {each.name for each in vm.instances if each.group == "virtualDisk"}
        assert set(sizes) == names == {disk.device for disk in details.disks}
        for disk in sizes.values():
            assert 0 < disk.physical == disk.allocation == disk.occupied
            assert disk.capacity > 0


def test_servers_are_those_that_nova_has_described(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    vms = {vm.uuid: vm for vm in vcenter.vms() if not vm.template}
    servers = {server.id: server for server in inspector.list_servers()}
    of_nova = {uuid for uuid, vm in vms.items() if "flavor:" in vm.annotation}
    assert 0 < len(of_nova) < len(vms)
    assert {uuid for uuid, server in servers.items() if server.project_id} == of_nova
    for uuid in of_nova:
        lines = dict(line.split(":", 1) for line in vms[uuid].annotation.splitlines())
        server = servers[uuid]
        assert (server.user_id, server.project_id) == (lines["userid"], lines["projectid"])
        assert server.image_id == lines["imageid"]
        assert server.flavor["name"] == "m1.small"
    # It is described otherwise.
    vm = vms[min(of_nova)]
    vcenter.reconfigure(vm.ref, annotation=vm.annotation.replace("demo", "prod"))
    assert {s.id: s for s in inspector.list_servers()}[vm.uuid].project_id


def test_a_vm_that_is_configured_otherwise(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    vm = a_vm(vcenter)
    count(inspector)
    vcenter.reconfigure(vm.ref, cpus=6, mib=6144, name="a/b")
    vcenter.step(20)
    usage = usages(inspector)[vm.uuid]
    assert (usage.name, usage.cpu_number, usage.memory_total) == ("a/b", 6, 6144 * 1024)
    assert inspector.inspect_details(vm.uuid).vcpus_configured == 6


def test_what_vsphere_does_not_tell(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    vm = a_vm(vcenter)
    for ask in (inspector.inspect_job, inspector.inspect_io_threads, inspector.inspect_dirty_rate):
        with pytest.raises(NotImplementedError, match="vSphere does not tell"):
            ask(vm.uuid)
    unknown = str(uuids.uuid4())
    for method in (inspector.usage, inspector.inspect_instance, inspector.inspect_disk_info):
        with pytest.raises(InstanceNotFoundException, match=unknown):
            method(unknown)
    count(inspector)
    vcenter.step(20)
    stats = inspector.inspect_instance(vm.uuid)
    known = {
        *("power_state", "cpu_number", "cpu_time", "vcpu_time", "vcpu_wait", "vcpu_delay"),
        *("memory_actual", "memory_resident", "memory_active"),
    }
    told = {name for name, value in stats._asdict().items() if value is not None}
    assert told - {"start"} == known
    usage = usages(inspector)[vm.uuid]
    assert (usage.memory_used, usage.memory_free, usage.memory_updated) == (None, None, None)
    for nic in inspector.inspect_vnics(vm.uuid):
        assert (nic.rx_errors, nic.tx_errors) == (-1, -1)
    for disk in inspector.inspect_disks(vm.uuid):
        assert (disk.errors, disk.flush_requests, disk.flush_total_times) == (-1, None, None)


@pytest.mark.parametrize("group", ["cpu", "net", "virtualDisk", "mem"])
def test_series_that_a_host_does_not_tell_cost_their_own_values(
    opens: Opens, vcenter: VCenter, group: str
) -> None:
    counters = {
        "cpu": ["run", "used", "ready", "costop", "wait", "idle"],
        "net": ["received", "transmitted", "packetsRx", "packetsTx", "droppedRx", "droppedTx"],
        "virtualDisk": [
            *("read", "write", "numberReadAveraged", "numberWriteAveraged"),
            *("totalReadLatency", "totalWriteLatency"),
        ],
        "mem": ["consumed", "active", "vmmemctl"],
    }
    vm = a_vm(vcenter)
    for name in counters[group]:
        for kind in ("summation", "average"):
            vcenter.silent(vm.ref, f"{group}.{name}.{kind}")
    inspector = opens(vcenter)
    count(inspector)
    vcenter.step(40)
    usage = usages(inspector)[vm.uuid]
    values = {
        "cpu": usage.cpu_utilization,
        "net": usage.network_read_kib,
        "virtualDisk": usage.disk_read_kib,
        "mem": usage.memory_target,
    }
    assert {name for name, value in values.items() if value is None} == {group}
    stats = inspector.inspect_instance(vm.uuid)
    assert (stats.cpu_time is None) == (group == "cpu")
    assert (stats.memory_resident is None) == (group == "mem")
    nics, disks = list(inspector.inspect_vnics(vm.uuid)), list(inspector.inspect_disks(vm.uuid))
    assert bool(nics) == (group != "net")
    assert bool(disks) == (group != "virtualDisk")


def test_one_cpu_time_does_not_stand_in_for_another(opens: Opens, vcenter: VCenter) -> None:
    """Their difference would be a peak."""
    vm = a_vm(vcenter)
    vcenter.step(1000)
    inspector = opens(vcenter)
    count(inspector)
    vcenter.step(20)
    before = usages(inspector)[vm.uuid].host_cpu_utilization
    assert before
    vcenter.silent(vm.ref, "cpu.used.summation")
    for _ in range(5):
        vcenter.step(20)
        usage = usages(inspector)[vm.uuid]
        assert usage.host_cpu_utilization is None or usage.host_cpu_utilization < 3 * before
    assert usage.host_cpu_utilization is None
    assert usage.cpu_utilization


@pytest.mark.parametrize("values", ["missing", "not told"])
def test_a_total_is_unknown_while_one_device_is(
    opens: Opens, vcenter: VCenter, values: str
) -> None:
    vm = a_vm(vcenter)
    nic = vcenter.add_nic(vm.ref)
    vcenter.step(100)
    inspector = opens(vcenter)
    count(inspector)
    vcenter.step(20)
    assert usages(inspector)[vm.uuid].network_read_kib is not None
    if values == "missing":
        vcenter.missing(vm.ref, instance=nic)
    else:
        vcenter.silent(vm.ref, instance=nic)
    for _ in range(2):
        vcenter.step(20)
        usage = usages(inspector)[vm.uuid]
        assert usage.network_read_kib is usage.network_write_kib is None
        assert usage.disk_read_kib is not None
    vcenter.heal(vm.ref)
    vcenter.step(20)
    assert usages(inspector)[vm.uuid].network_interval == 60


def test_how_long_requests_took_is_not_known_without_their_number(
    opens: Opens, vcenter: VCenter
) -> None:
    vm = a_vm(vcenter)
    vcenter.silent(vm.ref, "virtualDisk.numberReadAveraged.average")
    inspector = opens(vcenter)
    count(inspector)
    inspector.usage(vm.uuid)
    assert not list(inspector.inspect_disk_rates(vm.uuid))
    vcenter.step(40)
    usage = inspector.usage(vm.uuid)
    assert usage.disk_read_kib
    assert usage.disk_interval == 40
    assert usage.disk_read_requests is usage.disk_requests_interval is None
    [rates, *_] = inspector.inspect_disk_rates(vm.uuid)
    assert rates.read_bytes_rate > 0
    assert rates.read_requests_rate is None
    disk = next(iter(inspector.inspect_disks(vm.uuid)))
    assert disk.read_requests == -1
    assert disk.rd_total_times is None
    assert disk.read_bytes > 0
    assert disk.wr_total_times


def test_a_vm_without_any_sample_yet(opens: Opens, vcenter: VCenter) -> None:
    vcenter.step(7)
    inspector = opens(vcenter)
    count(inspector)
    ref = vcenter.create(name="young")
    vm = vcenter.vm(ref)
    for ask in (inspector.usage, inspector.inspect_instance, inspector.inspect_vnics):
        with pytest.raises(NoDataException, match="no sample of this VM yet"):
            ask(vm.uuid)
    assert count(inspector) == ALL
    assert inspector.health().away == {}
    begin = vcenter.now
    vcenter.step(60)
    assert count(inspector) == ALL + 1
    name = next(each.name for each in vm.instances if each.group == "net")
    expected = truth(vm, "net.received.average", name, (begin, vcenter.now)) * 1024
    assert nic_of(inspector, vm, name).rx_bytes == expected > 0


class AlarmError(Exception):
    """What the handler of a caller's alarm raises."""


def test_a_call_that_is_interrupted(opens: Opens, vcenter: VCenter) -> None:
    def ring(_: int, __: FrameType | None) -> None:
        raise AlarmError

    inspector = opens(vcenter)
    assert count(inspector) == ALL
    vcenter.fail("QueryPerf", times=1, delay=600)
    before: Any = signal.signal(signal.SIGALRM, ring)
    try:
        vcenter.step(20)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(AlarmError):
            inspector.usage_all()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    vcenter.fail(times=0)
    eventually(lambda: count(inspector) == ALL)
