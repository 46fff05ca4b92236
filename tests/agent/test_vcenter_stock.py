"""What Ceilometer's own inspector of vSphere says, up to release 23, and what is right.

Both read the same simulated vCenter, whose samples are known. Each test is a row of docs/parity.md.
The stock inspector is that of release 22, which is that of 23: see vmware.py.
"""

from __future__ import annotations

import json
import subprocess
import sysconfig
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pytest

import virtmeter
from tests.agent.releases import HERE, python_of
from tests.support.vcsim import LUN, PASSWORD, VM, VCenter, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")

RUN, RECEIVED, READ = "cpu.run.summation", "net.received.average", "virtualDisk.read.average"


class Ask(Protocol):
    """A question to the stock inspector: its records, or the name of an exception."""

    def __call__(self, method: str, vm: VM, duration: float | None = None) -> Any: ...


@contextmanager
def stock_inspector(vcenter: VCenter) -> Iterator[Ask]:
    """Run Ceilometer's own inspector, in the environment of its release."""
    packages, root = sysconfig.get_path("purelib"), str(HERE.parents[1])
    place = [packages, root, vcenter.port, str(vcenter.certificate), PASSWORD]
    command = [python_of("22.0.0"), "-W", "ignore", str(HERE / "vmware.py"), json.dumps(place)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdin
        assert process.stdout
        questions, answers = process.stdin, process.stdout

        def read() -> Any:
            line = answers.readline()
            errors.seek(0)
            assert line, errors.read()
            return json.loads(line)

        def ask(method: str, vm: VM, duration: float | None = None) -> Any:
            questions.write(json.dumps([method, vm.uuid, duration]) + "\n")
            questions.flush()
            return read()

        assert read() == "ready"
        yield ask


@pytest.fixture
def vcenter() -> Iterator[VCenter]:
    with VCenter() as vcenter:
        yield vcenter


@pytest.fixture
def stock(vcenter: VCenter) -> Iterator[Ask]:
    with stock_inspector(vcenter) as ask:
        yield ask


@pytest.fixture
def ours(vcenter: VCenter) -> Iterator[virtmeter.Inspector]:
    with virtmeter.Inspector(vcenter.uri, password=lambda: PASSWORD, max_age=0.0) as inspector:
        yield inspector


def make(vcenter: VCenter, **shape: Any) -> VM:
    """Return a VM of Nova's with two disks and two NICs that has run for ten minutes."""
    ref = vcenter.create(**{"nova": True, "disks": 2, "nics": 2, "bus": "scsi", **shape})
    vcenter.step(610)
    return vcenter.vm(ref)


def total(vm: VM, counter: str, instance: str, times: list[int]) -> int:
    return sum(vm.value(counter, instance, time) for time in times)


def mean(vm: VM, counter: str, instance: str, times: list[int]) -> float:
    return total(vm, counter, instance, times) / len(times)


def test_disks_are_disks_and_not_luns(
    vcenter: VCenter, stock: Ask, ours: virtmeter.Inspector
) -> None:
    on_block, elsewhere = make(vcenter, block=True), make(vcenter, block=False)
    [told] = stock("inspect_disk_rates", on_block, 60)
    assert told["device"] == LUN
    times = on_block.times(vcenter.now)
    of_both = sum(mean(on_block, READ, disk, times[-3:]) for disk in ("scsi0:0", "scsi0:1"))
    assert told["read_bytes_rate"] == pytest.approx(1024 * of_both)
    assert stock("inspect_disk_rates", elsewhere, 60) == [], "on NFS or vSAN"
    for vm in (on_block, elsewhere):
        read = {disk.device: disk.read_bytes for disk in ours.inspect_disks(vm.uuid)}
        assert read == {
            disk: 20 * 1024 * total(vm, READ, disk, vm.times(vcenter.now))
            for disk in ("scsi0:0", "scsi0:1")
        }


def test_a_missing_sample_is_waited_for(
    vcenter: VCenter, stock: Ask, ours: virtmeter.Inspector
) -> None:
    vm = make(vcenter)
    before = {nic.name: nic.rx_bytes for nic in ours.inspect_vnics(vm.uuid)}
    since = vm.times(vcenter.now)[-1]
    vcenter.step(60)
    times = [since + 20, since + 40, since + 60]
    vcenter.missing(vm.ref, RECEIVED, "4000", times[1:], until=vcenter.now + 20)
    rates = {nic["name"]: nic["rx_bytes_rate"] for nic in stock("inspect_vnic_rates", vm, 60)}
    assert rates["4000"] == 1024 * vm.value(RECEIVED, "4000", times[0]), "a third counts as all"
    ours.inspect_vnics(vm.uuid)
    vcenter.step(20)
    times.append(since + 80)
    after = {nic.name: nic.rx_bytes for nic in ours.inspect_vnics(vm.uuid)}
    for nic in ("4000", "4001"):
        assert after[nic] - before[nic] == 20 * 1024 * total(vm, RECEIVED, nic, times)


def test_samples_that_are_all_missing_cost_only_themselves(
    vcenter: VCenter, stock: Ask, ours: virtmeter.Inspector
) -> None:
    vm = make(vcenter)
    vcenter.missing(vm.ref, RECEIVED, "4000")
    assert stock("inspect_vnic_rates", vm, 60) == "ZeroDivisionError"
    counted = {nic.name: nic.rx_bytes for nic in ours.inspect_vnics(vm.uuid)}
    times = vm.times(vcenter.now)
    assert counted == {"4000": -1, "4001": 20 * 1024 * total(vm, RECEIVED, "4001", times)}


@pytest.mark.parametrize("pause", [30, 50, 70])
def test_each_sample_counts_once_whenever_the_agent_polls(
    vcenter: VCenter, stock: Ask, ours: virtmeter.Inspector, pause: int
) -> None:
    vm, polled = make(vcenter), 0.0
    first, since = next(ours.inspect_vnics(vm.uuid)), vm.times(vcenter.now)[-1]
    for _ in range(4):
        vcenter.step(pause)
        [told, _] = stock("inspect_vnic_rates", vm, pause)
        polled += told["rx_bytes_rate"] * pause
        last = next(ours.inspect_vnics(vm.uuid))
    times = [time for time in vm.times(vcenter.now) if time > since]
    received = 20 * 1024 * total(vm, RECEIVED, "4000", times)
    assert last.rx_bytes - first.rx_bytes == received
    assert abs(polled - received) > received / 50


def test_cpu_is_time_that_was_run(vcenter: VCenter, stock: Ask, ours: virtmeter.Inspector) -> None:
    vm = make(vcenter, cpus=4)
    ours.usage(vm.uuid)
    vcenter.step(60)
    times = vm.times(vcenter.now)[-3:]
    [told] = stock("inspect_instance", vm, 60)
    assert told["cpu_util"] == pytest.approx(mean(vm, "cpu.usage.average", "", times) / 100)
    run = 100 * total(vm, RUN, "", times) / (60_000 * 4)
    assert ours.usage(vm.uuid).cpu_utilization == pytest.approx(run)
    assert told["cpu_util"] != pytest.approx(run)


def test_memory_that_the_host_gives_is_not_memory_in_use(
    vcenter: VCenter, stock: Ask, ours: virtmeter.Inspector
) -> None:
    vm = make(vcenter)
    consumed = vm.value("mem.consumed.average", "", vm.times(vcenter.now)[-1]) / 1024
    assert stock("inspect_instance", vm)[0]["memory_usage"] == consumed
    stats = ours.inspect_instance(vm.uuid)
    assert (stats.memory_usage, stats.memory_resident) == (None, consumed)


def test_a_suspended_vm_does_not_run(
    vcenter: VCenter, stock: Ask, ours: virtmeter.Inspector
) -> None:
    vm = make(vcenter)
    vcenter.suspend(vm.ref)
    vcenter.step(60)
    assert stock("inspect_instance", vm, 60) == [{"cpu_util": 0.0, "memory_usage": 0.0}]
    with pytest.raises(virtmeter.InstanceShutOffException):
        ours.inspect_instance(vm.uuid)


def test_a_vm_that_is_made_anew_is_found(
    vcenter: VCenter, stock: Ask, ours: virtmeter.Inspector
) -> None:
    old = make(vcenter, number=100)
    assert stock("inspect_instance", old, 60)[0]["memory_usage"] > 0
    ours.inspect_instance(old.uuid)
    vcenter.delete(old.ref)
    new = make(vcenter, number=100)
    assert (new.uuid, new.ref != old.ref) == (old.uuid, True)
    for _ in range(2):
        assert stock("inspect_instance", new, 60) == "vmodl.fault.ManagedObjectNotFound"
    run = 10**6 * total(new, RUN, "", new.times(vcenter.now))
    assert ours.inspect_instance(new.uuid).cpu_time == run


def test_no_sample_is_not_zero(vcenter: VCenter, stock: Ask, ours: virtmeter.Inspector) -> None:
    started_anew = make(vcenter)
    assert ours.inspect_instance(started_anew.uuid).cpu_time
    vcenter.power_off(started_anew.ref)
    vcenter.power_on(started_anew.ref)
    for vm in (vcenter.vm(vcenter.create(nova=True)), started_anew):
        assert stock("inspect_instance", vm, 60) == [{"cpu_util": 0.0, "memory_usage": 0.0}]
        with pytest.raises(virtmeter.NoDataException, match="no sample of this VM yet"):
            ours.inspect_instance(vm.uuid)


def test_a_series_that_is_not_told_is_not_zero(
    vcenter: VCenter, stock: Ask, ours: virtmeter.Inspector
) -> None:
    vm = make(vcenter)
    for counter, instance in (("cpu.usage.average", ""), (RUN, ""), (RECEIVED, "4000")):
        vcenter.silent(vm.ref, counter, instance)
    assert stock("inspect_instance", vm, 60)[0]["cpu_util"] == 0.0
    rates = {nic["name"]: nic["rx_bytes_rate"] for nic in stock("inspect_vnic_rates", vm, 60)}
    assert rates["4000"] == 0
    assert ours.inspect_instance(vm.uuid).cpu_time is None
    nics = {nic.name: (nic.rx_bytes, nic.tx_bytes) for nic in ours.inspect_vnics(vm.uuid)}
    sent = 20 * 1024 * total(vm, "net.transmitted.average", "4000", vm.times(vcenter.now))
    assert nics["4000"] == (-1, sent)
    assert nics["4001"][0] > 0


@pytest.mark.parametrize("method", ["inspect_vnics", "inspect_disks", "inspect_disk_info"])
def test_there_are_counters_and_sizes(
    vcenter: VCenter, stock: Ask, ours: virtmeter.Inspector, method: str
) -> None:
    vm = make(vcenter)
    assert stock(method, vm, 60) == "NotImplementedError"
    asked: Callable[[str], Iterator[Any]] = getattr(ours, method)
    assert len(list(asked(vm.uuid))) == 2


def test_calls_are_for_many_vms(vcenter: VCenter, stock: Ask) -> None:
    """The first cycle of ours, in which it logs in and asks what there is, too."""
    vms = [vm for vm in vcenter.vms() if vm.annotation]
    for vm in vms:  # it finds out what there is
        stock("inspect_instance", vm)
    vcenter.forget_calls()
    for vm in vms:
        for method in ("inspect_instance", "inspect_vnic_rates", "inspect_disk_rates"):
            stock(method, vm, 300)
    assert sum(vcenter.calls().values()) == 11 * len(vms)
    vcenter.forget_calls()
    with virtmeter.Inspector(vcenter.uri, password=lambda: PASSWORD) as ours:
        for vm in vms:
            for inspect in (ours.inspect_instance, ours.inspect_vnics, ours.inspect_disks):
                inspect(vm.uuid)
    assert sum(vcenter.calls().values()) <= 11
