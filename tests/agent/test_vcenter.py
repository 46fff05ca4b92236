"""The compute pollsters of the oldest and the newest Ceilometer over a simulated vCenter.

No libvirt is configured. The agent's part is played by ``agent.py``, as in test_activation.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.agent.releases import ask
from tests.agent.test_activation import Polled
from tests.agent.test_pool import CONFIG, OURS, RATES, complaints, of, volumes
from tests.support.vcsim import PASSWORD, VM, VCenter, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Poll = Callable[..., Polled]

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")

# By meter: the counter that it is the sum of, and by what the samples are multiplied.
CPU = {"cpu": ("cpu.run.summation", 10**6)}
NICS = {
    "network.incoming.bytes": ("net.received.average", 20 * 1024),
    "network.outgoing.bytes": ("net.transmitted.average", 20 * 1024),
    "network.incoming.packets": ("net.packetsRx.summation", 1),
    "network.outgoing.packets": ("net.packetsTx.summation", 1),
    "network.incoming.packets.drop": ("net.droppedRx.summation", 1),
    "network.outgoing.packets.drop": ("net.droppedTx.summation", 1),
}
DISKS = {
    "disk.device.read.bytes": ("virtualDisk.read.average", 20 * 1024),
    "disk.device.write.bytes": ("virtualDisk.write.average", 20 * 1024),
    "disk.device.read.requests": ("virtualDisk.numberReadAveraged.average", 20),
    "disk.device.write.requests": ("virtualDisk.numberWriteAveraged.average", 20),
}
SIZES = {"disk.device.capacity", "disk.device.allocation", "disk.device.usage"}
METERS = {"memory.resident", "disk.device.read.latency", "disk.device.write.latency"}
METERS |= {*CPU, *NICS, *DISKS, *SIZES}
# What only some releases have pollsters for: deltas, the state, and what the flavor says.
OTHERS = {
    *("network.incoming.bytes.delta", "network.outgoing.bytes.delta"),
    "network.outgoing.packets.delta",  # of bytes, in fact
    *("power.state", "vcpus", "memory", "disk.root.size", "disk.ephemeral.size"),
}


@pytest.fixture(params=["19.0.0", "27.0.0"])
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "vcenter.pass"
    file.touch(mode=0o600)
    file.write_text(PASSWORD)
    return file


@pytest.fixture
def vcenter() -> Iterator[VCenter]:
    with VCenter(off=1, suspended=1) as vcenter:
        yield vcenter


@pytest.fixture
def young(vcenter: VCenter) -> VM:
    """A VM of Nova's that was started ten minutes ago."""
    ref = vcenter.create(cpus=4, nics=2, disks=2, nova=True, number=102)
    vcenter.step(607)
    return vcenter.vm(ref)


@pytest.fixture
def poll(tmp_path: Path, release: str, password: Path, vcenter: VCenter) -> Poll:
    def poll(
        *uuids: str,
        order: str = "first",
        without_libvirt: bool = True,
        steps: tuple[Callable[[], object], ...] = (),
        more: str = "",
        ours: str = "",
    ) -> Polled:
        config = tmp_path / "ceilometer.conf"
        uri = f"{vcenter.uri}&password_file={password}"
        config.write_text(CONFIG.format(uri=uri, more=more, ours=ours))
        question = [str(config), order, without_libvirt, uuids, 1 + len(steps)]
        return Polled(ask(release, "agent.py", question, steps=steps))

    return poll


def truth(vm: VM, counter: str, instance: str, times: list[int]) -> int:
    return sum(vm.value(counter, instance, time) for time in times)


def names(devices: list[dict[str, Any]], key: str) -> list[str]:
    return [str(device[key]) for device in devices]


def assert_true(polled: Polled, vm: VM, times: list[int]) -> None:
    """Every cumulative meter of a VM is the sum of its samples of these times."""
    nics, disks = names(vm.nics, "key"), names(vm.disks, "name")
    for meter, (counter, factor) in CPU.items():
        assert volumes(polled, meter)[vm.uuid] == factor * truth(vm, counter, "", times)
    for meter, (counter, factor) in NICS.items():
        assert volumes(polled, meter) == {
            f"None-{vm.uuid}-{nic}": factor * truth(vm, counter, nic, times) for nic in nics
        }
    for meter, (counter, factor) in DISKS.items():
        assert volumes(polled, meter) == {
            f"{vm.uuid}-{disk}": factor * truth(vm, counter, disk, times) for disk in disks
        }
    for meter, kind in (("read", "Read"), ("write", "Write")):
        latency, requests = (
            f"virtualDisk.{name.format(kind)}.average"
            for name in ("total{}Latency", "number{}Averaged")
        )
        assert volumes(polled, f"disk.device.{meter}.latency") == {
            f"{vm.uuid}-{disk}": sum(
                vm.value(latency, disk, t) * vm.value(requests, disk, t) * 20 * 10**6 for t in times
            )
            for disk in disks
        }


def test_an_instance_of_novas_has_the_standard_meters(
    poll: Poll, vcenter: VCenter, young: VM
) -> None:
    polled = poll(young.uuid)
    assert polled.inspectors == OURS
    assert METERS <= of(polled, young.uuid) <= METERS | OTHERS
    times = young.times(vcenter.now)
    assert len(times) == 30
    assert_true(polled, young, times)
    for meter, volume in (("vcpus", 4), ("power.state", 1)):
        assert volumes(polled, meter) in ({}, {young.uuid: volume})
    resident = young.value("mem.consumed.average", "", times[-1]) / 1024
    assert volumes(polled, "memory.resident") == {young.uuid: resident}
    for meter, key in zip(sorted(SIZES), ("allocated", "capacity", "allocated")):
        assert volumes(polled, meter) == {
            f"{young.uuid}-{disk['name']}": disk[key] for disk in young.disks
        }
    assert complaints(polled) == []


def test_counters_of_an_old_vm_go_on_from_the_first_polling(poll: Poll, vcenter: VCenter) -> None:
    vm = vcenter.vm("vm-0002")
    before = vcenter.now
    assert_true(poll(vm.uuid), vm, [])
    polled = poll(vm.uuid, steps=(lambda: vcenter.step(100),), ours="max_age = 0")
    times = [time for time in vm.times(vcenter.now) if time > before]
    assert len(times) == 5
    assert_true(polled, vm, times)
    for meter, counter in zip(RATES, ("net.received.average", "net.transmitted.average")):
        [rate] = volumes(polled, meter).values()
        assert rate == pytest.approx(truth(vm, counter, "4000", times) * 1024 / len(times))


def test_what_is_not_known_has_no_sample_and_no_line_in_the_log(
    poll: Poll, vcenter: VCenter, young: VM
) -> None:
    for counter in ("mem.consumed", "virtualDisk.totalReadLatency", "net.droppedRx"):
        vcenter.missing(young.ref, f"{counter}.{'summation' if 'drop' in counter else 'average'}")
    vcenter.missing(young.ref, "net.received.average", "4001")
    nic, disk = vcenter.add_nic(young.ref), vcenter.add_disk(young.ref)
    polled = poll(young.uuid, ours="additional_meters = true")
    assert not [sample for sample in polled.samples if sample[3] in (None, -1)]
    unknown = {"memory.resident", "disk.device.read.latency", "network.incoming.packets.drop"}
    known = of(polled, young.uuid)
    assert known >= METERS - unknown | {"cpu.delay", "cpu.wait"}
    assert known.isdisjoint(unknown | {"memory.usage", "memory.available", "memory.swap.in"})
    assert list(volumes(polled, "network.incoming.bytes")) == [f"None-{young.uuid}-4000"]
    of_new = [s[0] for s in polled.samples if s[4].endswith((f"-{nic}", f"-{disk}"))]
    assert set(of_new) == SIZES
    assert complaints(polled) == []
    [(level, message)] = polled.ours()
    assert level == "INFO"
    assert 'serves all compute pollsters and discovery: <virtmeter.Inspector("vsphere://' in message
    assert not any(PASSWORD in record[2] for record in polled.records)


def test_vms_that_do_not_run_or_are_gone_cost_nobody_anything(
    poll: Poll, vcenter: VCenter, young: VM
) -> None:
    off, suspended = (vm for vm in vcenter.vms() if vm.state != "poweredOn")
    deleted, new = vcenter.vm("vm-0004"), vcenter.vm(vcenter.create())
    vcenter.delete(deleted.ref)
    others = [vm.uuid for vm in (off, suspended, deleted, new)]
    polled = poll(*others, young.uuid)
    assert of(polled, young.uuid) >= METERS
    for uuid in others:
        assert of(polled, uuid).isdisjoint(METERS - SIZES)
    assert complaints(polled) == []


@pytest.mark.parametrize("release", ["27.0.0"], indirect=True)
def test_what_is_known_of_vms_that_do_not_run_is_told_where_that_is_wanted(
    poll: Poll, vcenter: VCenter
) -> None:
    off, suspended = (vm for vm in vcenter.vms() if vm.state != "poweredOn")
    more = "[compute]\nreport_stopped_instance_metrics = true"
    polled = poll(off.uuid, suspended.uuid, more=more)
    assert volumes(polled, "power.state") == {off.uuid: 5, suspended.uuid: 7}
    assert volumes(polled, "vcpus") == {vm.uuid: vm.cpus for vm in (off, suspended)}
    for vm in (off, suspended):
        assert of(polled, vm.uuid) >= SIZES
        assert of(polled, vm.uuid).isdisjoint(METERS - SIZES)
    assert complaints(polled) == []


@pytest.mark.parametrize("release", ["27.0.0"], indirect=True)
def test_a_single_esxi_host_is_read_likewise(tmp_path: Path, release: str, password: Path) -> None:
    with VCenter(vms=2, esxi=True) as esxi:
        config = tmp_path / "ceilometer.conf"
        uri = f"{esxi.uri}&password_file={password}"
        config.write_text(CONFIG.format(uri=uri, more="", ours=""))
        uuids = [vm.uuid for vm in esxi.vms()]
        polled = Polled(ask(release, "agent.py", [str(config), "first", True, uuids]))
    assert all(of(polled, uuid) >= METERS for uuid in uuids)
    assert complaints(polled) == []


@pytest.mark.parametrize("order", ["first", "last"])
def test_no_pollster_is_lost_where_there_is_no_libvirt(poll: Poll, young: VM, order: str) -> None:
    without = poll(young.uuid, order=order)
    with_it = poll(young.uuid, order=order, without_libvirt=False)
    assert with_it.inspectors == without.inspectors == OURS
    assert sorted(with_it.pollsters) == sorted(without.pollsters)
    assert with_it.samples == without.samples
    assert of(with_it, young.uuid) >= METERS


@pytest.mark.parametrize("release", ["19.0.0", "22.0.0"], indirect=True)
@pytest.mark.parametrize("order", ["first", "last"])
def test_it_takes_the_place_of_the_stock_vmware_inspector(
    poll: Poll, young: VM, order: str
) -> None:
    usual = poll(young.uuid)
    polled = poll(young.uuid, order=order, more="hypervisor_inspector = vsphere")
    assert polled.inspectors == OURS
    assert sorted(polled.pollsters) == sorted(usual.pollsters)
    assert polled.samples == usual.samples


def test_a_host_that_is_away_costs_its_own_instances_and_one_line(
    poll: Poll, vcenter: VCenter
) -> None:
    here, there = ([vm.uuid for vm in vcenter.vms()[:8] if vm.host == host] for host in (0, 1))
    vcenter.connection(1, "notResponding")
    polled = poll(*there, *here, steps=(lambda: None,))
    for uuid in here:
        assert of(polled, uuid) >= METERS
    for uuid in there:
        assert of(polled, uuid).isdisjoint(METERS - SIZES)
    [line] = complaints(polled)
    assert line[0].startswith("virtmeter")
    assert "and its instances are left out" in line[1]


def test_a_wrong_password_is_tried_once(poll: Poll, vcenter: VCenter, password: Path) -> None:
    password.write_text("wrong")
    uuids = [vm.uuid for vm in vcenter.vms()[:3]]
    polled = poll(*uuids, order="last", steps=(lambda: None, lambda: None))
    assert vcenter.logins() == 1
    assert of(polled, uuids[0]).isdisjoint(METERS)
    [line] = [line for line in complaints(polled) if line[0].startswith("virtmeter")]
    assert "wrong user name or password" in line[1]
    assert complaints(polled) == [line]
    assert not vcenter.sessions()


def test_one_session_serves_all_pollsters(poll: Poll, vcenter: VCenter) -> None:
    uuids = [vm.uuid for vm in vcenter.vms()[:8]]
    polled = poll(*uuids, order="last", steps=(lambda: vcenter.step(60),), ours="max_age = 0")
    assert all(of(polled, uuid) >= METERS for uuid in uuids)
    assert vcenter.logins() == 1
