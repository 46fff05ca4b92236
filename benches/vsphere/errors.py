"""How far what is told is from the truth, over half an hour of a simulated vCenter."""

from __future__ import annotations

from contextlib import nullcontext
from random import Random

import virtmeter
from benches.exactness import QUANTITIES, Errors, Used
from benches.usage import OURS
from benches.vsphere.exporter import NAME, Exporter, unavailable
from benches.vsphere.peers import CEILOMETER, NICS, Ceilometer
from tests.support.vcsim.truth import INTERVAL, VM
from tests.support.vcsim.vcenter import START, VCenter

HOSTS, VMS = 6, 48
POLLS, SHORTEST, LONGEST = 15, 25.0, 215.0
# Of the samples of a VM, so many are never there.
LOST = 0.01
MOVED = 4
DISKS = ("virtualDisk.read.average", "virtualDisk.write.average")


class _Truth:
    """What each VM used until when, and what each of those who read was told to add to that."""

    def __init__(self, vcenter: VCenter) -> None:
        self.vcenter = vcenter
        self.before = vcenter.now

    def vms(self) -> list[tuple[VM, Used, Used]]:
        """Return what each used since this was last asked: by cpu.run, and by cpu.usage."""
        begin, self.before = self.before, self.vcenter.now
        times = range(_sample(begin) + INTERVAL, _sample(self.before) + INTERVAL, INTERVAL)
        return [(vm, *_used(vm, times)) for vm in self.vcenter.vms()]


def measure() -> dict[tuple[str, str], Errors]:
    """Return the errors of all kinds and quantities, in units times seconds."""
    random = Random(14)
    kinds = [OURS, CEILOMETER] + ([] if unavailable() else [NAME])
    found = {(kind, quantity): Errors(least=1.0) for kind in kinds for quantity in QUANTITIES}
    with VCenter(hosts=HOSTS, vms=VMS) as vcenter:
        told = vcenter.told()
        ceilometer = Ceilometer(told)
        exporter = Exporter(told) if NAME in kinds else None
        with (
            virtmeter.Inspector(
                vcenter.uri, password=lambda: vcenter.password, max_age=0.0
            ) as inspector,
            exporter or nullcontext(),
        ):
            inspector.usage_all()
            truth = _Truth(vcenter)
            _lose(vcenter, random)
            for poll in range(POLLS):
                if poll == POLLS // 2:
                    for vm in vcenter.vms()[:MOVED]:
                        vcenter.migrate(vm.ref, host=(vm.host + 1) % HOSTS)
                seconds = random.uniform(SHORTEST, LONGEST)
                vcenter.step(seconds)
                ours = {usage.id: _ours(usage) for usage in inspector.usage_all()}
                means = ceilometer.read(seconds=seconds)
                gauges = exporter.read() if exporter else {}
                for vm, ran, used in truth.vms():
                    readings = {
                        OURS: (ours.get(vm.uuid, Used()), ran),
                        CEILOMETER: (means[vm.uuid].over(seconds), used),
                        NAME: (gauges.get(vm.name, Used()).over(seconds), used),
                    }
                    for kind in kinds:
                        reading, true = readings[kind]
                        for quantity, told_of, is_so in zip(
                            QUANTITIES, reading.each(), true.each()
                        ):
                            found[kind, quantity].pairs.append((told_of, is_so))
        ceilometer.close()
    return found


def _lose(vcenter: VCenter, random: Random) -> None:
    """Have samples be missing, all of a VM or those of its devices."""
    end = int(START + POLLS * LONGEST)
    for vm in vcenter.vms():
        for time in range(int(START), end, INTERVAL):
            if random.random() < LOST:
                vcenter.missing(vm.ref, random.choice(["", "", *NICS, *DISKS]), times=[time])


def _sample(time: float) -> int:
    """Return the end of the newest sample at a time."""
    return int(time) // INTERVAL * INTERVAL


def _used(vm: VM, times: range) -> tuple[Used, Used]:
    def total(*counters: str) -> float:
        return float(sum(vm.value(counter, "", time) for counter in counters for time in times))

    network, disk = total(*NICS) * INTERVAL, total(*DISKS) * INTERVAL
    ran = total("cpu.run.summation") / vm.cpus / 10
    return Used(ran, network, disk), Used(
        total("cpu.usage.average") / 100 * INTERVAL, network, disk
    )


def _ours(usage: virtmeter.VmUsage) -> Used:
    """Return what is told of the time that samples cover."""
    return Used(
        (usage.cpu_utilization or 0.0) * (usage.interval or 0.0),
        (usage.network_read_kib or 0.0) + (usage.network_write_kib or 0.0),
        (usage.disk_read_kib or 0.0) + (usage.disk_write_kib or 0.0),
    )
