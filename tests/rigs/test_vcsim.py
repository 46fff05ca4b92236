"""The simulated vCenter, as VMware's own client reads it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyVmomi import vim, vmodl

from tests.support.vcsim import COUNTERS, LUN, START, UPLINK, VCenter, unavailable
from tests.support.vcsim.build import SOURCE, go
from tests.support.vcsim.client import Client, moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.vcsim import VM
    from tests.support.vcsim.client import Series

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")
ROOT = Path(__file__).parents[2]
RUN = "cpu.run.summation"
RECEIVED = "net.received.average"
READ = "virtualDisk.read.average"


@pytest.fixture
def vcenter() -> Iterator[VCenter]:
    with VCenter(off=1, suspended=1, templates=1) as vcenter:
        yield vcenter


@pytest.fixture
def client(vcenter: VCenter) -> Iterator[Client]:
    with Client(vcenter) as client:
        yield client


def test_its_program_is_formatted_and_vetted() -> None:
    told = subprocess.run(["gofmt", "-l", SOURCE], check=True, capture_output=True, text=True)
    assert told.stdout == ""
    assert go("vet", ".") == ""


def truth(vm: VM, times: list[int], counters: tuple[str, ...] = COUNTERS) -> Series:
    return {
        (counter, name): {t: vm.value(counter, name, t) for t in times}
        for counter in counters
        for name in vm.names(counter)
    }


@pytest.mark.parametrize("form", ["csv", "normal"])
def test_samples_are_the_truth(vcenter: VCenter, client: Client, form: str) -> None:
    vms = vcenter.vms()
    told = client.samples([vm.ref for vm in vms], format=form)
    running = [vm for vm in vms if vm.state == "poweredOn"]
    assert list(told) == [vm.ref for vm in running]
    assert len(vms) == len(running) + 3
    times = list(range(int(START) - 3580, int(START) + 1, 20))
    for vm in running:
        assert vm.times(START) == times
        assert told[vm.ref] == truth(vm, times)
        assert all(list(series) == times for series in told[vm.ref].values())


def test_types_may_have_the_prefix_of_vcenter(vcenter: VCenter, client: Client) -> None:
    refs = [vm.ref for vm in vcenter.vms()]
    told = client.samples(refs, maxSample=1, format="normal")
    devices = client.properties(vim.VirtualMachine, "config.hardware.device")
    vcenter.style(xsi=True)
    assert client.samples(refs, maxSample=1, format="normal") == told
    assert str(client.properties(vim.VirtualMachine, "config.hardware.device")) == str(devices)


def test_what_is_available_is_told_by_vm(vcenter: VCenter, client: Client) -> None:
    names = {key: name for name, key in client.ids.items()}
    for vm in vcenter.vms():
        told = client.content.perfManager.QueryAvailablePerfMetric(client.vm(vm.ref), intervalId=20)
        found = {(names[metric.counterId], metric.instance) for metric in told}
        known = {(counter, name) for counter in COUNTERS for name in vm.names(counter)}
        assert found == (known if vm.state == "poweredOn" else set())
        if vm.name == "vm-0000":
            series = client.samples([vm.ref], [], maxSample=1)[vm.ref]
            assert set(series) == known


def test_samples_agree_with_each_other(vcenter: VCenter, client: Client) -> None:
    vms = [vm for vm in vcenter.vms() if vm.state == "poweredOn"]
    assert {vm.cpus for vm in vms} == {1, 2, 3, 4}
    told = client.samples([vm.ref for vm in vms], maxSample=30)
    for vm in vms:
        series = told[vm.ref]
        assert (("disk.read.average", LUN) in series) == vm.block
        for t in series[RUN, ""]:
            of = {
                name: series[f"cpu.{name}.summation", ""][t]
                for name in ("run", "ready", "costop", "wait", "idle", "swapwait")
            }
            total = of["run"] + of["ready"] + of["costop"] + of["wait"]
            assert total == 20000 * vm.cpus
            assert of["idle"] + of["swapwait"] <= of["wait"]
            cpus = [str(n) for n in range(vm.cpus)]
            assert of["run"] == sum(series[RUN, n][t] for n in cpus)
            keys = [nic["key"] for nic in vm.nics]
            received = sum(series[RECEIVED, key][t] for key in keys)
            assert series[RECEIVED, ""][t] == series[RECEIVED, UPLINK][t] == received
            assert (READ, "") not in series
            if vm.block:
                read = sum(series[READ, disk["name"]][t] for disk in vm.disks)
                assert series["disk.read.average", LUN][t] == read
            uptime = series["sys.uptime.latest", ""][t]
            assert uptime == t - vm.boot


def test_what_a_call_may_ask_of_time(vcenter: VCenter, client: Client) -> None:
    ref = vcenter.vm("vm-0000").ref

    def times(**asked: Any) -> list[int]:
        series = client.samples([ref], [RUN], "", **asked).get(ref, {})
        return list(series.get((RUN, ""), {}))

    assert client.time == START
    vcenter.step(7)
    assert client.time == START + 7
    now = int(START)
    assert len(times()) == 180
    assert times(maxSample=3) == [now - 40, now - 20, now]
    start, end = moment(now - 100), moment(now - 40)
    assert times(startTime=start, endTime=end) == [now - 80, now - 60, now - 40]
    assert times(startTime=start, endTime=end, maxSample=1) == [now - 40]
    assert times(startTime=moment(now)) == []
    assert times(intervalId=300) == []
    vcenter.step(13)
    assert times(startTime=moment(now)) == [now + 20]


def test_missing_samples_are_filled_in_and_late_ones_come(vcenter: VCenter, client: Client) -> None:
    vcenter.step(60)
    times = [START + 20, START + 40]
    vcenter.missing("vm-0002", RECEIVED, "4000", times, until=START + 100)
    vcenter.missing("vm-0002", "mem.active.average", times=[START + 60])
    vcenter.fix("vm-0002", 77, "net.packetsRx.summation")
    vm = vcenter.vm("vm-0002")

    def told(*counters: str) -> Series:
        return client.samples([vm.ref], counters, maxSample=3)[vm.ref]

    counters = RECEIVED, "mem.active.average"
    series, true = told(*counters), truth(vm, [int(START) + n for n in (20, 40, 60)], counters)
    assert list(series[RECEIVED, "4000"].values())[:2] == [-1, -1]
    assert -1 not in list(series[RECEIVED, "4000"].values())[2:]
    assert series[RECEIVED, ""] == true[RECEIVED, ""]
    assert list(series["mem.active.average", ""].values()).index(-1) == 2
    assert set(told("net.packetsRx.summation")["net.packetsRx.summation", "4000"].values()) == {77}
    vcenter.step(40)
    series = told(RECEIVED)
    assert series == truth(vm, [int(START) + n for n in (60, 80, 100)], (RECEIVED,))
    vcenter.late("vm-0002", 25)
    assert list(told(RUN)[RUN, ""]) == [START + n for n in (20, 40, 60)]
    vcenter.late("vm-0002", 0)
    vcenter.gap("vm-0002", [START + 80], until=START + 110)
    assert list(told(RUN)[RUN, ""]) == [START + n for n in (40, 60, 100)]
    vcenter.step(10)
    assert list(told(RUN)[RUN, ""]) == [START + n for n in (60, 80, 100)]
    vcenter.short("vm-0002")
    (answer,) = client.content.perfManager.QueryPerf(client.specs([vm.ref], [RUN], "", maxSample=3))
    assert answer.sampleInfoCSV.count(",") == 5
    assert answer.value[0].value.count(",") == 1
    vcenter.heal("vm-0002")
    vcenter.silent("vm-0002", instance="4000")
    vcenter.silent("vm-0002", RUN)
    assert set(told(RUN, RECEIVED)) == {(RECEIVED, ""), (RECEIVED, UPLINK)}
    vcenter.heal("vm-0002")
    assert told(RUN) == truth(vm, [int(START) + n for n in (60, 80, 100)], (RUN,))


def test_power_cycles_begin_anew_and_a_resume_goes_on(vcenter: VCenter, client: Client) -> None:
    uptime = "sys.uptime.latest"
    refs = [vcenter.vm(name).ref for name in ("vm-0000", "vm-0002")]
    vcenter.step(10)
    vcenter.power_off("vm-0000")
    vcenter.suspend("vm-0002")
    runtime = client.properties(vim.VirtualMachine, "runtime.powerState", "runtime.bootTime")
    assert runtime[refs[0]] == {"runtime.powerState": "poweredOff"}
    assert runtime[refs[1]] == {"runtime.powerState": "suspended"}
    assert client.samples(refs) == {}
    vcenter.limits(tell_off=True)
    assert client.samples(refs) == {ref: {} for ref in refs}
    booted = vcenter.vm("vm-0002").boot
    now = vcenter.step(100)
    vcenter.power_on("vm-0000")
    vcenter.power_on("vm-0002")
    assert client.samples(refs) == {ref: {} for ref in refs}
    vcenter.step(45)
    told = client.samples(refs, [uptime])
    assert told[refs[0]] == {(uptime, ""): {START + 120: 10, START + 140: 30}}
    paused = START + 120 - booted - 100
    assert told[refs[1]] == {(uptime, ""): {START + 120: paused, START + 140: paused + 20}}
    runtime = client.properties(vim.VirtualMachine, "runtime.powerState", "runtime.bootTime")
    assert runtime[refs[0]] == {
        "runtime.powerState": "poweredOn",
        "runtime.bootTime": moment(now),
    }


def test_a_vm_that_moves_has_samples_since_its_arrival(vcenter: VCenter, client: Client) -> None:
    before, hosts = vcenter.vm("vm-0000"), vcenter.hosts()
    vcenter.step(30)
    vcenter.migrate("vm-0000", 1)
    found = client.properties(vim.HostSystem, "vm")
    runs = {host: [vm._moId for vm in of["vm"]] for host, of in found.items()}
    assert before.ref in runs[hosts[1]["ref"]]
    assert before.ref not in runs[hosts[0]["ref"]]
    runtime = client.properties(vim.VirtualMachine, "runtime.host")
    assert runtime[before.ref]["runtime.host"]._moId == hosts[1]["ref"]
    assert client.samples([before.ref]) == {}
    vcenter.step(30)
    vm = vcenter.vm("vm-0000")
    assert (vm.boot, vm.since, vm.host) == (before.boot, START + 30, 1)
    assert client.samples([vm.ref])[vm.ref] == truth(vm, [int(START) + 40, int(START) + 60])
    vcenter.clock_off(1, -47)
    vm = vcenter.vm("vm-0000")
    times = vm.times(START + 60)
    assert times == [START]
    assert client.samples([vm.ref])[vm.ref] == truth(vm, times)


def test_what_is_plugged_by_a_client_has_series(vcenter: VCenter, client: Client) -> None:
    before = vcenter.vm("vm-0002")
    assert (len(before.nics), len(before.disks)) == (1, 1)
    vcenter.step(30)
    change = vim.vm.device.VirtualDeviceSpec
    network = vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName="VM Network")
    nic = vim.vm.device.VirtualE1000(key=-1, backing=network)
    disk = vim.vm.device.VirtualDisk(
        key=-2,
        controllerKey=1000,
        unitNumber=3,
        capacityInKB=1 << 20,
        backing=vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName="[LocalDS_0]", diskMode="persistent", thinProvisioned=True
        ),
    )
    task = client.vm(before.ref).ReconfigVM_Task(
        vim.vm.ConfigSpec(
            deviceChange=[
                change(operation="add", device=nic),
                change(operation="add", device=disk, fileOperation="create"),
            ]
        )
    )
    assert task.info.state == "success"
    vm = vcenter.vm("vm-0002")
    assert vm.change_version != before.change_version
    paths = "config.changeVersion", "config.hardware.device", "layoutEx"
    told = client.properties(vim.VirtualMachine, *paths)[vm.ref]
    assert told["config.changeVersion"] == vm.change_version
    labels = {device.key: device.deviceInfo.label for device in told["config.hardware.device"]}
    assert (labels[4001], labels[2001]) == ("Network adapter 2", "Hard disk 2")
    sizes = {file.key: file.size for file in told["layoutEx"].file}
    allocated = {
        disk.key: sum(sizes[key] for unit in disk.chain for key in unit.fileKey)
        for disk in told["layoutEx"].disk
    }
    assert allocated == {disk["key"]: disk["allocated"] for disk in vm.disks}
    assert all(0 < disk["allocated"] < disk["capacity"] for disk in vm.disks)

    vcenter.step(30)
    series = client.samples([vm.ref], maxSample=3)[vm.ref]
    assert series == truth(vm, [int(START) + n for n in (20, 40, 60)])
    assert next(iter(series[RECEIVED, "4001"].values())) == -1
    assert next(iter(series[READ, "scsi0:3"].values())) == -1
    assert -1 not in list(series[RECEIVED, "4001"].values())[1:]

    vcenter.remove("vm-0002", "4000")
    removed = vcenter.vm("vm-0002").change_version
    vcenter.remove("vm-0002", "scsi0:3")
    assert vcenter.vm("vm-0002").change_version != removed  # though no time has passed
    assert vcenter.add_disk("vm-0002") == "scsi0:1"
    assert vcenter.add_nic("vm-0002") == "4000"
    vcenter.step(20)
    after = vcenter.vm("vm-0002")
    assert after.change_version != vm.change_version
    times = [int(START) + n for n in (40, 60, 80)]
    series = client.samples([vm.ref], maxSample=3)[vm.ref]
    assert series == truth(after, times)
    assert {name for counter, name in series if counter == RECEIVED} == {"", "4000", "4001", UPLINK}
    assert {name for counter, name in series if counter == READ} == {"scsi0:0", "scsi0:1"}
    received = {t: truth(vm, times)[RECEIVED, ""][t] for t in times[:2]}
    assert {t: series[RECEIVED, ""][t] for t in times[:2]} == received


def test_more_cpus_and_another_annotation(vcenter: VCenter, client: Client) -> None:
    vcenter.step(30)
    version = vcenter.vm("vm-0000").change_version
    vcenter.reconfigure("vm-0000", cpus=2, mib=1024, annotation="none")
    vm = vcenter.vm("vm-0000")
    assert vm.change_version != version
    vcenter.step(30)
    paths = "config.hardware.numCPU", "config.hardware.memoryMB", "config.annotation"
    told = client.properties(vim.VirtualMachine, *paths)[vm.ref]
    assert list(told.values()) == [2, 1024, "none"]
    series = client.samples([vm.ref], maxSample=3)[vm.ref]
    assert series == truth(vm, [int(START) + n for n in (20, 40, 60)])
    assert next(iter(series[RUN, "1"].values())) == -1


def test_deleted_vms_and_what_is_wrong_in_a_call(vcenter: VCenter, client: Client) -> None:
    refs = [vm.ref for vm in vcenter.vms()][:3]
    specs = client.specs(refs, maxSample=1)
    vcenter.delete(refs[1])
    with pytest.raises(vmodl.fault.ManagedObjectNotFound) as gone:
        client.query(specs)
    assert gone.value.obj._moId == refs[1]
    assert refs[1] not in client.properties(vim.VirtualMachine, "name")
    vcenter.limits(omit_deleted=True)
    assert list(client.query(specs)) == [refs[0], refs[2]]
    fresh = vcenter.create(host=1, name="fresh")
    assert fresh not in refs
    assert client.properties(vim.VirtualMachine, "name")[fresh] == {"name": "fresh"}
    for wrong, where in (
        ({"intervalId": 7}, "querySpec.interval"),
        ({"format": "json"}, "querySpec.format"),
        (
            {"metricId": [vim.PerformanceManager.MetricId(counterId=99999, instance="")]},
            "querySpec.metricId",
        ),
    ):
        with pytest.raises(vmodl.fault.InvalidArgument) as refused:
            client.samples([refs[0]], [RUN], **wrong)
        assert refused.value.invalidProperty == where
    ids = dict(client.ids)
    vcenter.limits(counter_offset=1000)
    with pytest.raises(vmodl.fault.InvalidArgument):
        client.samples([refs[0]], [RUN])
    with Client(vcenter) as other:
        assert other.ids == {name: key + 1000 for name, key in ids.items()}
        assert (RUN, "") in other.samples([refs[0]], [RUN])[refs[0]]


def test_calls_that_are_too_large_are_refused(vcenter: VCenter, client: Client) -> None:
    refs = [vm.ref for vm in vcenter.vms()][:4]
    vcenter.limits(entities=2)
    assert len(client.samples(refs[:2])) == 2
    with pytest.raises(vim.fault.RestrictedByAdministrator):
        client.samples(refs[:3])
    vcenter.limits(entities=0, metrics=3)
    assert len(client.samples(refs[:3], [RUN])) == 3
    with pytest.raises(vim.fault.RestrictedByAdministrator):
        client.samples(refs, [RUN])
    vcenter.limits(metrics=0, elements=100)
    with pytest.raises(vmodl.fault.InvalidRequest, match="exceeds configured maximum 100"):
        client.samples(refs)
    vcenter.limits(elements=0)
    assert len(client.samples(refs)) == 4


def test_a_sick_host_hangs_those_who_ask_for_its_vms(vcenter: VCenter, client: Client) -> None:
    vms = vcenter.vms()
    sick, well = vms[0], vms[1]
    assert (sick.host, well.host) == (0, 1)
    vcenter.sick(0, 600)
    told: list[dict[str, Series]] = []
    with Client(vcenter) as other:
        asking = threading.Thread(
            target=lambda: told.append(other.samples([well.ref, sick.ref], [RUN]))
        )
        asking.start()
        while vcenter.calls().get("QueryPerf", 0) < 1:
            time.sleep(0.01)
        assert list(client.samples([well.ref], [RUN])) == [well.ref]
        assert told == []
        assert vcenter.most_in_flight() >= 2
        vcenter.sick(0, 0)
        asking.join(60)
    asked = vcenter.queries()
    assert sorted(query["entities"] for query in asked) == [1, 2]
    assert sorted(len(query["hosts"]) for query in asked) == [1, 2]
    assert list(told[0]) == [well.ref, sick.ref]
    vcenter.connection(0, "notResponding")
    assert list(client.samples([well.ref, sick.ref], [RUN])) == [well.ref]
    states = client.properties(vim.VirtualMachine, "runtime.connectionState")
    assert states[sick.ref] == {"runtime.connectionState": "disconnected"}
    assert states[well.ref] == {"runtime.connectionState": "connected"}
    hosts = client.properties(vim.HostSystem, "runtime.connectionState")
    assert [h["runtime.connectionState"] for h in hosts.values()] == ["notResponding", "connected"]
    vcenter.connection(0, "connected")
    assert list(client.samples([well.ref, sick.ref], [RUN])) == [well.ref, sick.ref]


def test_properties_come_in_pages(vcenter: VCenter, client: Client) -> None:
    whole = client.properties(vim.VirtualMachine, "name", "runtime.powerState")
    assert len(whole) == 11
    pages = client.pages(vim.VirtualMachine, ["name", "runtime.powerState"], 4)
    assert [len(page) for page in pages] == [4, 4, 3]
    vcenter.page(5)
    assert [len(p) for p in client.pages(vim.VirtualMachine, ["name"], 100)] == [5, 5, 1]
    vcenter.page(2)
    paged = client.pages(vim.VirtualMachine, ["name", "runtime.powerState"])
    assert [len(page) for page in paged] == [2, 2, 2, 2, 2, 1]
    assert {ref: found for page in paged for ref, found in page.items()} == whole
    collector = client.content.propertyCollector
    options = vmodl.query.PropertyCollector.RetrieveOptions()
    token = collector.RetrievePropertiesEx(
        [client.spec(vim.VirtualMachine, ["name"])], options
    ).token
    with Client(vcenter) as other, pytest.raises(vmodl.fault.InvalidArgument):
        other.content.propertyCollector.ContinueRetrievePropertiesEx(token)
    assert len(collector.ContinueRetrievePropertiesEx(token).objects) == 2
    with pytest.raises(vmodl.fault.InvalidArgument):
        collector.ContinueRetrievePropertiesEx(token)


def test_properties_of_vms_and_hosts(vcenter: VCenter, client: Client) -> None:
    paths = (
        *("name", "config.instanceUuid", "config.template", "config.annotation"),
        *("config.hardware.numCPU", "config.hardware.memoryMB", "config.changeVersion"),
        *("runtime.powerState", "runtime.host", "runtime.connectionState"),
        *("config.hardware.device", "config.extraConfig", 'config.extraConfig["nvp.vm-uuid"]'),
    )
    told = client.properties(vim.VirtualMachine, *paths)
    hosts, vms = vcenter.hosts(), vcenter.vms()
    assert list(told) == [vm.ref for vm in vms]
    for vm in vms:
        found = told[vm.ref]
        assert found["name"] == vm.name
        assert found["config.instanceUuid"] == vm.uuid
        assert found["config.hardware.numCPU"] == vm.cpus
        assert found["config.hardware.memoryMB"] == vm.mib
        assert found["config.template"] == vm.template
        assert found["runtime.powerState"] == vm.state
        assert found["runtime.host"]._moId == hosts[vm.host]["ref"]
        assert found.get("config.annotation", "") == vm.annotation
        extra = {option.key: option.value for option in found["config.extraConfig"]}
        assert extra == vm.extra
        option = found.get('config.extraConfig["nvp.vm-uuid"]')
        assert (option.value if option else None) == extra.get("nvp.vm-uuid")
        devices = {device.key: device for device in found["config.hardware.device"]}
        cards = [d for d in devices.values() if isinstance(d, vim.vm.device.VirtualEthernetCard)]
        assert [(str(c.key), c.macAddress) for c in cards] == [
            (nic["key"], nic["mac"]) for nic in vm.nics
        ]
        disks = [d for d in devices.values() if isinstance(d, vim.vm.device.VirtualDisk)]
        assert [(d.key, d.capacityInBytes) for d in disks] == [
            (disk["key"], disk["capacity"]) for disk in vm.disks
        ]
        for disk, known in zip(disks, vm.disks):
            controller = devices[disk.controllerKey]
            assert known["name"].endswith(f"{controller.busNumber}:{disk.unitNumber}")
    buses = {disk["name"].rstrip("01:") for vm in vms for disk in vm.disks}
    assert buses == {"scsi", "nvme", "sata", "ide"}
    assert [vms[1].name, vms[3].name] == ['web%2f1 "ü" <&>', "50%25 of C:%5c"]
    assert [vm.state for vm in vms[8:]] == ["poweredOff", "suspended", "poweredOff"]
    assert [vm.template for vm in vms[8:]] == [False, False, True]
    nova = [vm for vm in vms if vm.annotation]
    assert [vm.name for vm in nova] == ["vm-0000", "vm-0002", "vm-0004", "vm-0006"]
    assert f"flavor:memory_mb:{nova[0].mib}\n" in nova[0].annotation
    assert nova[0].extra["nvp.vm-uuid"] == nova[0].uuid
    assert nova[0].nics[0]["external_id"] == nova[0].extra["nvp.iface-id.0"]

    found = client.properties(
        vim.HostSystem, "name", "hardware.systemInfo.uuid", "hardware.cpuInfo.numCpuThreads"
    )
    assert {ref: list(host.values()) for ref, host in found.items()} == {
        h["ref"]: [h["name"], h["uuid"], h["threads"]] for h in hosts
    }
    assert len({h["uuid"] for h in hosts}) == len({h["threads"] for h in hosts}) == 2
    with pytest.raises(vmodl.query.InvalidProperty):
        client.properties(vim.VirtualMachine, "config.hardware.nothing")
    half = vcenter.half_clone()
    assert set(client.properties(vim.VirtualMachine, "name", "config.template")[half]) == {"name"}


def test_changes_are_told_to_who_waits_for_them(vcenter: VCenter, client: Client) -> None:
    collector = client.content.propertyCollector
    paths = ["runtime.powerState", "config.changeVersion", "runtime.host"]
    collector.CreateFilter(client.spec(vim.VirtualMachine, paths), partialUpdates=False)
    options = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=0)
    first = collector.WaitForUpdatesEx("", options)
    assert len(first.filterSet[0].objectSet) == 11
    vcenter.power_off("vm-0000")
    vcenter.add_nic("vm-0002")
    vcenter.migrate("vm-0004", 1)
    second = collector.WaitForUpdatesEx(first.version, options)
    changed = {
        (update.obj._moId, change.name)
        for found in second.filterSet
        for update in found.objectSet
        for change in update.changeSet
    }
    assert changed == {
        (vcenter.vm(name).ref, path)
        for name, path in (
            ("vm-0000", "runtime.powerState"),
            ("vm-0002", "config.changeVersion"),
            ("vm-0004", "runtime.host"),
        )
    }


def test_an_esxi_host_by_itself() -> None:
    with VCenter(vms=3, esxi=True) as vcenter, Client(vcenter) as client:
        assert client.content.about.apiType == "HostAgent"
        vms = vcenter.vms()
        told = client.samples([vm.ref for vm in vms], maxSample=2)
        times = [int(START) - 20, int(START)]
        assert told == {vm.ref: truth(vm, times) for vm in vms}
        assert len(client.properties(vim.HostSystem, "name")) == 1


def test_a_thousand_vms_on_forty_hosts() -> None:
    with VCenter(hosts=40, vms=1000) as vcenter, Client(vcenter) as client:
        vms = vcenter.vms()
        assert len(vms) == len({vm.uuid for vm in vms}) == 1000
        assert len({nic["mac"] for vm in vms for nic in vm.nics}) == sum(len(v.nics) for v in vms)
        assert {vm.host for vm in vms} == set(range(40))
        assert len({host["uuid"] for host in vcenter.hosts()}) == 40
        told = client.samples([vm.ref for vm in vms], [RUN], "", maxSample=1)
        assert told == {
            vm.ref: {(RUN, ""): {int(START): vm.value(RUN, "", int(START))}} for vm in vms
        }


def test_one_runs_in_real_time_until_its_input_ends() -> None:
    command = [sys.executable, "-m", "tests.support.vcsim", "--hosts=1", "--vms=2"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            told = json.loads(process.stdout.readline())
            assert Path(told["password_file"]).read_text() == told["password"]
            assert told["uri"].startswith("vsphere://monitor@127.0.0.1:")
            assert told["uri"].endswith(f"&password_file={told['password_file']}")
        finally:
            process.stdin.close()
            assert process.wait(60) == 0
    assert not Path(told["password_file"]).exists()
    with VCenter(vms=1, now=None) as vcenter, Client(vcenter) as client:
        (vm,) = vcenter.vms()
        before = vcenter.now
        newest = max(client.samples([vm.ref], [RUN])[vm.ref][RUN, ""])
        assert newest % 20 == 0
        assert before - 20 < newest <= vcenter.now
