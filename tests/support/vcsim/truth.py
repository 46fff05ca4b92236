"""What samples are: the pure function of server/values.go once more, to be compared with."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL = 20
#: Seconds that a host remembers.
MEMORY = 3600
MHZ = 2294
#: The host's own NIC, and the LUN of VMs on block storage: both have what the aggregate has.
UPLINK, LUN = "vmnic0", "naa.6000c29f00000001"
WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Instance:
    """A vCPU, NIC or disk: there after `since`, up to `until` (None: it still is)."""

    group: str
    name: str
    since: float
    until: float | None

    def has(self, time: float) -> bool:
        return self.since < time and (self.until is None or time <= self.until)


@dataclass(frozen=True)
class VM:
    """What the server knows of a VM at one time. Times are in Unix seconds."""

    seed: str
    ref: str
    name: str
    uuid: str
    host: int
    state: str
    cpus: int
    mib: int
    template: bool
    #: sys.uptime counts from here; samples are there from `since` on.
    boot: float
    since: float
    #: Whether it has counters of the group disk.
    block: bool
    #: By how many seconds its host's clock is fast.
    ahead: float
    change_version: str
    annotation: str
    extra: dict[str, str]
    nics: list[dict[str, Any]]
    disks: list[dict[str, Any]]
    instances: tuple[Instance, ...]

    @classmethod
    def of(cls, seed: str, told: dict[str, Any]) -> VM:
        instances = tuple(
            Instance(i["group"], i["name"], i["since"], i["until"] or None)
            for i in told["instances"]
        )
        return cls(seed=seed, **{**told, "instances": instances})

    def times(self, now: float) -> list[int]:
        """Return the times of the samples that can be read, if nothing is wrong with its host."""
        if self.state != "poweredOn":
            return []
        after = max(now - MEMORY, self.since) + self.ahead
        first = int(after // INTERVAL) * INTERVAL + INTERVAL
        return list(range(first, int(now + self.ahead) + 1, INTERVAL))

    def names(self, counter: str, *, disk_aggregate: bool = False) -> list[str]:
        """Return the instances that there are of a counter."""
        group, _, _ = counter.partition(".")
        if counter in MEMORY_COUNTERS or counter in ("sys.uptime.latest", "cpu.usage.average"):
            return [""]
        if counter not in ADDITIVE or (group == "disk" and not self.block):
            return []
        if group == "disk":
            return ["", LUN]
        aggregate = [""] if group != "virtualDisk" or disk_aggregate else []
        named = [i.name for i in self.instances if i.group == group and i.until is None]
        return aggregate + named + ([UPLINK] if group == "net" else [])

    def value(self, counter: str, instance: str, time: int) -> int:
        """Return a sample; -1 of an instance that was not there."""
        if counter == "sys.uptime.latest":
            return int(time - self.ahead - self.boot)
        if counter in MEMORY_COUNTERS:
            return MEMORY_COUNTERS[counter](self, time)
        there = [i for i in self.instances if i.has(time - self.ahead)]
        if counter == "cpu.usage.average":
            used = [_used(self, i.name, time) for i in there if i.group == "cpu"]
            return 10000 * sum(used) // (20000 * len(used)) if used else -1
        group, _, _ = counter.partition(".")
        values = {
            i.name: ADDITIVE[counter](self, i.name, time)
            for i in there
            if i.group == ("virtualDisk" if group == "disk" else group)
        }
        if instance in ("", UPLINK, LUN):
            return sum(values.values())
        return values.get(instance, -1)

    def draw(self, what: str, instance: str, time: int) -> int:
        """Return 32 bits that belong to the arguments, and to the seed and the VM."""
        h = zlib.crc32(f"{self.seed}|{self.ref}|{what}|{instance}|{time}".encode())
        h ^= h >> 16
        h = h * 0x85EBCA6B & WORD
        h ^= h >> 13
        h = h * 0xC2B2AE35 & WORD
        return h ^ h >> 16


def _drawn(what: str, below: int) -> Callable[[VM, str, int], int]:
    return lambda vm, instance, time: vm.draw(what, instance, time) % below


def _seldom(what: str, below: int) -> Callable[[VM, str, int], int]:
    def value(vm: VM, instance: str, time: int) -> int:
        h = vm.draw(what, instance, time)
        return h // 4 % below if h % 4 == 0 else 0

    return value


_run, _ready, _costop = _drawn("run", 12000), _drawn("ready", 2000), _drawn("costop", 500)
_blocked, _system, _overlap = _drawn("blocked", 1500), _drawn("system", 300), _drawn("overlap", 200)
_received, _transmitted = _drawn("received", 5000), _drawn("transmitted", 3000)


def _wait(vm: VM, i: str, t: int) -> int:
    return 20000 - _run(vm, i, t) - _ready(vm, i, t) - _costop(vm, i, t)


def _used(vm: VM, i: str, t: int) -> int:
    return max(0, _run(vm, i, t) + _system(vm, i, t) - _overlap(vm, i, t))


def _consumed(vm: VM, t: int) -> int:
    return vm.mib * 256 + vm.draw("consumed", "", t) % (vm.mib * 512)


def _shared(vm: VM, t: int) -> int:
    return vm.draw("shared", "", t) % (vm.mib * 256)


#: Counters whose aggregate is the sum of their instances.
ADDITIVE: dict[str, Callable[[VM, str, int], int]] = {
    "cpu.run.summation": _run,
    "cpu.ready.summation": _ready,
    "cpu.costop.summation": _costop,
    "cpu.wait.summation": _wait,
    "cpu.idle.summation": lambda vm, i, t: _wait(vm, i, t) - _blocked(vm, i, t),
    "cpu.swapwait.summation": lambda vm, i, t: _blocked(vm, i, t) // 4,
    "cpu.maxlimited.summation": lambda vm, i, t: _ready(vm, i, t) // 10,
    "cpu.system.summation": _system,
    "cpu.overlap.summation": _overlap,
    "cpu.used.summation": _used,
    "cpu.usagemhz.average": lambda vm, i, t: _used(vm, i, t) * MHZ // 20000,
    "net.received.average": _received,
    "net.transmitted.average": _transmitted,
    "net.usage.average": lambda vm, i, t: _received(vm, i, t) + _transmitted(vm, i, t),
    "net.packetsRx.summation": _drawn("packetsRx", 200000),
    "net.packetsTx.summation": _drawn("packetsTx", 100000),
    "net.droppedRx.summation": _seldom("droppedRx", 50),
    "net.droppedTx.summation": _seldom("droppedTx", 20),
    **{
        f"{group}.{name}.average": value
        for group in ("virtualDisk", "disk")
        for name, value in {
            "read": _drawn("read", 20000),
            "write": _drawn("write", 8000),
            "numberReadAveraged": _drawn("numberRead", 500),
            "numberWriteAveraged": _drawn("numberWrite", 300),
        }.items()
    },
    "disk.numberRead.summation": lambda vm, i, t: vm.draw("numberRead", i, t) % 500 * INTERVAL,
    "disk.numberWrite.summation": lambda vm, i, t: vm.draw("numberWrite", i, t) % 300 * INTERVAL,
    "virtualDisk.totalReadLatency.average": _drawn("readLatency", 30),
    "virtualDisk.totalWriteLatency.average": _drawn("writeLatency", 40),
}

MEMORY_COUNTERS: dict[str, Callable[[VM, int], int]] = {
    "mem.consumed.average": _consumed,
    "mem.usage.average": lambda vm, t: 10000 * _consumed(vm, t) // (vm.mib * 1024),
    "mem.shared.average": _shared,
    "mem.granted.average": lambda vm, t: _consumed(vm, t) + _shared(vm, t),
    "mem.active.average": lambda vm, t: vm.draw("active", "", t) % (vm.mib * 256),
    "mem.overhead.average": lambda vm, t: 30000 + vm.draw("overhead", "", t) % 1000,
    "mem.vmmemctl.average": lambda vm, t: _seldom("vmmemctl", vm.mib * 128)(vm, "", t),
    "mem.swapin.average": lambda vm, t: vm.draw("swapin", "", t) % 4096,
    "mem.swapout.average": lambda vm, t: vm.draw("swapout", "", t) % 4096,
    "mem.swapped.average": lambda vm, t: vm.draw("swapped", "", t) % 4096,
}
COUNTERS = (*ADDITIVE, *MEMORY_COUNTERS, "cpu.usage.average", "sys.uptime.latest")
