"""What a vCenter's samples add up to, in the plainest way: all that pyvmomi was ever told, in a
dictionary, and its sum at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.vcsim.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.vcsim import VCenter

STEP = 20
CPU = tuple(f"cpu.{name}.summation" for name in ("run", "used", "ready", "costop", "wait", "idle"))
NIC = ("net.received.average", "net.transmitted.average")
NIC_TOO = tuple(
    f"net.{name}.summation" for name in ("packetsRx", "packetsTx", "droppedRx", "droppedTx")
)
DISK = tuple(
    f"virtualDisk.{name}.average"
    for name in ("read", "write", "numberReadAveraged", "numberWriteAveraged")
)
DISK_TOO = tuple(
    f"virtualDisk.{name}.average" for name in ("totalReadLatency", "totalWriteLatency")
)
MEMORY = ("mem.consumed.average", "mem.active.average", "mem.vmmemctl.average")

# A sample of a VM: the counter, the instance, the host, and the time by that host's clock.
Key = tuple[str, str, int, int]


@dataclass
class Life:
    """What is known of a VM: its samples, and since when they count."""

    samples: dict[Key, int] = field(default_factory=dict)
    #: By host: no sample up to then counts.
    since: dict[int, float] = field(default_factory=dict)
    #: True time of the last power-on.
    start: float = float("-inf")
    #: Whether there was a sample since then, even a missing one.
    has_begun: bool = True
    newest: dict[str, int] = field(default_factory=dict)
    #: Instances of which there was a sample.
    seen: set[str] = field(default_factory=set)

    def complete(self, counters: tuple[str, ...], instance: str) -> Iterator[tuple[int, int]]:
        """Yield hosts and times of the samples of which all of these counters are there."""
        for counter, name, host, t in self.samples:
            if (counter, name) == (counters[0], instance) and all(
                self.samples.get((other, instance, host, t), -1) >= 0 for other in counters
            ):
                yield host, t


class Oracle:
    """Reads a vCenter whenever the inspector does."""

    def __init__(self, vcenter: VCenter) -> None:
        self.vcenter = vcenter
        self.client = Client(vcenter)
        self.lives: dict[str, Life] = {}
        self.ahead: dict[int, float] = {}

    def powered_on(self, ref: str) -> None:
        """A VM is powered on now."""
        self.lives[ref].start = self.vcenter.now
        self.lives[ref].has_begun = False

    def read(self) -> None:
        """Read all samples of the last hour, also those that were missing before."""
        vms = {vm.ref: vm for vm in self.vcenter.vms() if not vm.template}
        told = self.client.samples(list(vms))
        for ref, series in told.items():
            vm = vms[ref]
            is_first = ref not in self.lives
            life = self.lives.setdefault(ref, Life())
            times = sorted({t for values in series.values() for t in values})
            if not times:
                continue
            if is_first:
                up = series["sys.uptime.latest", ""][times[-1]]
                is_young = times[-1] - up >= times[0] - STEP
                life.since[vm.host] = times[-1] - up - 1 if is_young else times[-1]
            life.has_begun |= times[-1] - vm.ahead > life.start
            since = life.since.setdefault(vm.host, float("-inf"))
            for (counter, instance), values in series.items():
                if max(values.values(), default=-1) >= 0:
                    life.seen.add(instance)
                for t, value in values.items():
                    if t > since and value >= 0:
                        life.samples[counter, instance, vm.host, t] = value
                if counter in MEMORY:
                    there = [values[t] for t in times if values.get(t, -1) >= 0]
                    life.newest[counter] = there[-1] if there else life.newest.get(counter, -1)
            self.ahead[vm.host] = vm.ahead

    def total(
        self,
        ref: str,
        counter: str,
        instance: str,
        together: tuple[str, ...],
        *,
        ever: bool = False,
    ) -> int:
        """Add up the samples of a counter since the VM's start, or ever."""
        life = self.lives[ref]
        seconds = 1 if counter.endswith("summation") else STEP
        if counter in together:
            times = life.complete(together, instance)
        else:
            times = life.complete((counter,), instance)
        total = 0
        for host, t in times:
            if not ever and t - self.ahead[host] <= life.start:
                continue
            value = life.samples[counter, instance, host, t]
            if counter == "cpu.wait.summation":
                value -= life.samples["cpu.idle.summation", instance, host, t]
            if counter in DISK_TOO:
                count = DISK[2] if "Read" in counter else DISK[3]
                value *= life.samples.get((count, instance, host, t), 0)
            total += value * seconds
        return total

    def covered(self, ref: str, counters: tuple[str, ...], instance: str) -> int:
        """Return the seconds that are covered."""
        return STEP * len(list(self.lives[ref].complete(counters, instance)))

    def memory(self, ref: str, counter: str) -> float:
        """Return the last value, in MiB."""
        return self.lives[ref].newest[counter] / 1024

    def close(self) -> None:
        self.client.__exit__(None, None, None)

    def __enter__(self) -> Any:
        self.client.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
