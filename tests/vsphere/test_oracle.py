"""Every field of every record, against sums of what VMware's client reads of the same samples."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest

import virtmeter
from tests.support.vcsim import VCenter
from tests.vsphere.oracle import CPU, DISK, DISK_TOO, NIC, NIC_TOO, Oracle

if TYPE_CHECKING:
    from tests.support.vcsim import VM
    from tests.vsphere.conftest import Opens

MS = 10**6
SECONDS = 1800


class Check:
    """An inspector and an oracle that read at the same times."""

    def __init__(self, vcenter: VCenter, inspector: virtmeter.Inspector, oracle: Oracle) -> None:
        self.vcenter, self.inspector, self.oracle = vcenter, inspector, oracle
        # By VM: the covered seconds and totals at the last reading.
        self.before: dict[str, dict[tuple[str, str], tuple[int, int]]] = {}
        # By VM and kind of device: the same of each when all were last known.
        self.whole: dict[tuple[str, str], dict[str, list[tuple[int, int]]]] = {}
        self.compared = 0

    def everything(self) -> None:
        self.oracle.read()
        usages = {usage.id: usage for usage in self.inspector.usage_all()}
        vms = [vm for vm in self.vcenter.vms() if not vm.template]
        running = [vm for vm in vms if vm.state == "poweredOn"]
        listed = {each.id: each for each in self.inspector.list_instances()}
        assert sorted(listed) == sorted(vm.uuid for vm in vms)
        for vm in vms:
            state = {"poweredOn": 1, "poweredOff": 5, "suspended": 7}[vm.state]
            assert listed[vm.uuid].state == state
            assert listed[vm.uuid].name == unquote(vm.name)
        for vm in running:
            life = self.oracle.lives.get(vm.ref)
            if life is None or not life.has_begun:
                assert vm.uuid not in usages
                with pytest.raises(virtmeter.NoDataException, match="no sample of this VM yet"):
                    self.inspector.inspect_instance(vm.uuid, None)
                continue
            self.instance(vm)
            self.nics(vm)
            self.disks(vm)
            self.usage(vm, usages[vm.uuid])
        for vm in vms:
            if vm.state != "poweredOn":
                with pytest.raises(virtmeter.InstanceShutOffException):
                    self.inspector.inspect_instance(vm.uuid, None)
                self.before.pop(vm.ref, None)
                for group in ("net", "virtualDisk"):
                    self.whole.pop((vm.ref, group), None)

    def total(self, vm: VM, counter: str, instance: str, together: tuple[str, ...]) -> int:
        return self.oracle.total(vm.ref, counter, instance, together)

    def instance(self, vm: VM) -> None:
        stats = self.inspector.inspect_instance(vm.uuid, None)
        run, _, ready, costop, wait, _ = (self.total(vm, name, "", CPU) for name in CPU)
        balloon = self.oracle.memory(vm.ref, "mem.vmmemctl.average")
        expected = virtmeter.InstanceStats(
            power_state=1,
            cpu_number=vm.cpus,
            cpu_time=run * MS,
            memory_actual=vm.mib - balloon,
            memory_resident=self.oracle.memory(vm.ref, "mem.consumed.average"),
            vcpu_wait=wait * MS,
            vcpu_delay=(ready + costop) * MS,
            memory_active=self.oracle.memory(vm.ref, "mem.active.average"),
            vcpu_time=run * MS,
        )
        told = stats._replace(start=None) if hasattr(stats, "start") else stats
        assert told == expected, vm
        self.compared += len(expected)

    def plugged(self, vm: VM, group: str) -> list[str]:
        """Return the devices of a VM of which there was a sample."""
        seen = self.oracle.lives[vm.ref].seen
        there = [i.name for i in vm.instances if i.group == group and i.until is None]
        return [name for name in there if name in seen]

    def nics(self, vm: VM) -> None:
        nics = {nic.name: nic for nic in self.inspector.inspect_vnics(vm.uuid, None)}
        names = self.plugged(vm, "net")
        assert sorted(nics) == sorted(names), vm
        for name, nic in nics.items():
            received, sent = (self.total(vm, counter, name, NIC) * 1024 for counter in NIC)
            more = [self.total(vm, counter, name, NIC) for counter in NIC_TOO]
            assert [nic.rx_bytes, nic.tx_bytes] == [received, sent], (vm, nic)
            assert [nic.rx_packets, nic.tx_packets, nic.rx_drop, nic.tx_drop] == more, (vm, nic)
            assert (nic.rx_errors, nic.tx_errors) == (-1, -1)
            (mac,) = (each["mac"] for each in vm.nics if str(each["key"]) == name)
            assert nic.mac == mac
            self.compared += 9

    def disks(self, vm: VM) -> None:
        disks = {disk.device: disk for disk in self.inspector.inspect_disks(vm.uuid, None)}
        names = self.plugged(vm, "virtualDisk")
        assert sorted(disks) == sorted(names)
        for name, disk in disks.items():
            read, write, reads, writes = (self.total(vm, counter, name, DISK) for counter in DISK)
            read_time, write_time = (self.total(vm, counter, name, DISK) for counter in DISK_TOO)
            assert (disk.read_bytes, disk.write_bytes) == (read * 1024, write * 1024), (vm, disk)
            assert (disk.read_requests, disk.write_requests) == (reads, writes), (vm, disk)
            assert (disk.rd_total_times, disk.wr_total_times) == (read_time * MS, write_time * MS)
            assert (disk.errors, disk.flush_requests) == (-1, None)
            self.compared += 9

    def usage(self, vm: VM, usage: virtmeter.VmUsage) -> None:
        now: dict[tuple[str, str], tuple[int, int]] = {}
        groups = [("", CPU), *((name, NIC) for name in self.plugged(vm, "net"))]
        groups += [(name, DISK) for name in self.plugged(vm, "virtualDisk")]
        for name, counters in groups:
            covered = self.oracle.covered(vm.ref, counters, name)
            for counter in counters:
                total = self.oracle.total(vm.ref, counter, name, counters, ever=True)
                now[counter, name] = covered, total
        before = self.before.get(vm.ref)
        self.before[vm.ref] = now
        self.sums(vm, "net", NIC, now, (usage.network_read_kib, usage.network_write_kib))
        disk = usage.disk_read_kib, usage.disk_write_kib
        requests = usage.disk_read_requests, usage.disk_write_requests
        self.sums(vm, "virtualDisk", DISK, now, disk + requests)
        assert usage.cpu_number == vm.cpus
        assert (usage.memory_total, usage.memory_used) == (vm.mib * 1024, None)
        if before is None:
            return
        grown = {
            key: (value[0] - before[key][0], value[1] - before[key][1])
            for key, value in now.items()
            if key in before
        }
        covered, run = grown[CPU[0], ""]
        if covered == 0:
            assert usage.cpu_utilization is None or usage.cpu_interval is None
            return
        assert usage.cpu_interval == covered
        of_cpus = covered * 1000 * vm.cpus / 100
        assert usage.cpu_utilization == pytest.approx(min(100, run / of_cpus), rel=1e-12)
        steal = grown[CPU[2], ""][1] + grown[CPU[3], ""][1]
        assert usage.cpu_steal == pytest.approx(min(100, steal / of_cpus), rel=1e-12)
        assert usage.cpu_wait == pytest.approx(min(100, grown[CPU[4], ""][1] / of_cpus), rel=1e-12)
        self.compared += 5

    def sums(
        self,
        vm: VM,
        group: str,
        counters: tuple[str, ...],
        now: dict[tuple[str, str], tuple[int, int]],
        told: tuple[float | None, ...],
    ) -> None:
        """Compare what all NICs or disks did since all of it was last known."""
        there = [i.name for i in vm.instances if i.group == group and i.until is None]
        known = {
            name: [now[counter, name] for counter in counters]
            for name in there
            if (counters[0], name) in now
        }
        last = self.whole.get((vm.ref, group), {})

        def lags(name: str) -> bool:
            if name not in known:
                return True
            before = last.get(name, [])
            return any(total for _, total in before) and known[name][0][0] <= before[0][0]

        if not there or any(map(lags, there)):
            assert told == (None,) * len(counters), vm
            return
        self.whole[vm.ref, group] = known
        both = [(last[name], known[name]) for name in there if name in last]
        if any(after[0][0] > before[0][0] for before, after in both):
            grown = (
                sum(after[at][1] - before[at][1] for before, after in both)
                for at in range(len(counters))
            )
            assert told == tuple(grown), vm
            self.compared += len(counters)


def events(check: Check, chance: random.Random) -> None:
    """Have one or two things happen."""
    vcenter, oracle = check.vcenter, check.oracle
    vms = [vm for vm in vcenter.vms() if not vm.template]
    vm = chance.choice(vms)
    what = chance.choice(["power", "move", "plug", "missing", "missing", "delete", "late", "none"])
    now = vcenter.now
    if what == "power":
        to = chance.choice(["off", "suspend"]) if vm.state == "poweredOn" else "on"
        if to == "on":
            vcenter.power_on(vm.ref)
            if vm.state == "poweredOff" and vm.ref in oracle.lives:
                oracle.powered_on(vm.ref)
        else:
            (vcenter.power_off if to == "off" else vcenter.suspend)(vm.ref)
    elif what == "move" and vm.state == "poweredOn":
        vcenter.migrate(vm.ref, host=1 - vm.host)
    elif what == "plug":
        plugged = [i.name for i in vm.instances if i.until is None and i.group != "cpu"]
        if len(plugged) > 3:
            vcenter.remove(vm.ref, chance.choice(plugged))
        else:
            chance.choice([vcenter.add_nic, vcenter.add_disk])(vm.ref)
    elif what == "missing":
        first = now - now % 20
        times = [first + 20 * chance.randrange(1, 5) + vm.ahead]
        until = chance.choice([None, times[0] - vm.ahead + 20])
        counter = chance.choice(["", CPU[2], NIC[0], NIC_TOO[0], DISK[2], DISK_TOO[0]])
        group = counter.split(".")[0]
        devices = [each.name for each in vm.instances if each.group == group != "cpu"]
        # Of all of them, or of one alone.
        instance = [None, *devices][int(now) % (1 + len(devices))]
        vcenter.missing(vm.ref, counter, instance, times=times, until=until)
    elif what == "delete" and len(vms) > 6:
        vcenter.delete(vm.ref)
        vcenter.create()
    elif what == "late":
        vcenter.late(vm.ref, chance.choice([0, 15, 25]))


@pytest.mark.parametrize("seed", range(3))
def test_every_field_is_what_the_samples_add_up_to(opens: Opens, seed: int) -> None:
    chance = random.Random(seed)
    with VCenter(hosts=2, vms=8, off=1, suspended=1, templates=1, seed=str(seed)) as vcenter:
        vcenter.clock_off(1, [0, 300, -600][seed])
        with Oracle(vcenter) as oracle:
            check = Check(vcenter, opens(vcenter), oracle)
            check.everything()
            passed = 0
            while passed < SECONDS:
                events(check, chance)
                step = chance.choice([5, 13, 20, 31, 60, 97])
                vcenter.step(step)
                passed += step
                check.everything()
            assert check.compared > 5000
