"""A simulated vCenter of up to 10,000 VMs: what a reading of all costs, and how exact it is."""

from __future__ import annotations

import os
import platform
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from statistics import median
from typing import Any

import virtmeter
from benches import bars, rounds
from benches.exactness import QUANTITIES
from benches.processes import cpu_of
from benches.report import Part, Target, milliseconds, table, times
from benches.usage import OURS, Agent, Cycle
from benches.vsphere import errors, exporter, peers
from benches.vsphere.peers import BARE, CEILOMETER
from tests.support.vcsim import unavailable
from tests.support.vcsim.vcenter import VCenter

HOSTS, VMS, ROUNDS = 100, 1_000, 5
MANY_HOSTS, MANY_VMS, MANY_ROUNDS = 320, 10_000, 4
# It goes through VMs one after the other: so many are enough to know one's share.
ASKED = {CEILOMETER: {"vms": 20}}
# The simulated time between readings: what is new is one sample. And how old what is read again
# is at least, in real time.
STEP, AGE = 20.0, 0.5
MOST_CALLS = 12
MOST_CPU = 0.0002  # seconds a VM
MOST_MEMORY = 8  # kB a VM
KIB = 1024
PICTURE = "benchmarks-vsphere.svg"


@dataclass
class Costs:
    """What the readings of one agent were, and what they cost the simulator."""

    cycles: list[Cycle] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    simulator: list[float] = field(default_factory=list)  # CPU time
    grown: int = 0  # bytes, since before anything was read

    def wall(self) -> float:
        """Return the median time of a VM, seconds."""
        return median(cycle.wall / cycle.vms for cycle in self.cycles)

    def cpu(self) -> float:
        """Return the median CPU time of a VM, seconds."""
        return median(cycle.cpu / cycle.vms for cycle in self.cycles)

    def of_simulator(self) -> float:
        """Return the median CPU time of the simulator for a VM, seconds."""
        return median(cpu / cycle.vms for cpu, cycle in zip(self.simulator, self.cycles))

    def row(self, kind: str, all_: int, ours: Costs) -> tuple[str, ...]:
        """Return all of it, for so many VMs and beside ours."""
        asked, calls = self.cycles[0].vms, median(self.calls)
        return (
            f"{all_:,}",
            kind,
            f"{asked:,}",
            f"{self.wall() * asked:.2f} s",
            f"{self.wall() * all_:.2f} s",
            times(self.wall() / ours.wall()),
            milliseconds(self.cpu()),
            milliseconds(self.of_simulator()),
            f"{calls / asked * all_:,.0f}",
        )


def part() -> Part:
    """Measure it."""
    part = Part(
        "vSphere",
        "A simulated vCenter and no real one: govmomi's simulator with samples that are known "
        "(`python -m tests.support.vcsim`, written in Go), in a process of its own on the same "
        "machine. A reading is the usage of VMs (CPU, network, disks, memory); between two of "
        f"them, {STEP:g} s pass by the simulator's clock. {_machine()}",
        (
            "VMs",
            "",
            "VMs asked",
            "wall clock",
            "for all VMs",
            "times ours",
            "CPU a VM",
            "CPU of the simulator a VM",
            "calls for all VMs",
        ),
    )
    if reason := unavailable():
        part.notes.append(f"Not measured: {reason}")
        return part
    with VCenter(hosts=HOSTS, vms=VMS) as vcenter:
        others = [] if exporter.unavailable() else [exporter.NAME]
        some, _ = _in_turn(vcenter, [OURS, BARE, CEILOMETER, *others], ROUNDS)
    with VCenter(hosts=MANY_HOSTS, vms=MANY_VMS) as vcenter:
        many, first = _in_turn(vcenter, [OURS, BARE], MANY_ROUNDS)
    for costs, count in ((some, VMS), (many, MANY_VMS)):
        part.rows += [cost.row(kind, count, costs[OURS]) for kind, cost in costs.items()]
    calls, cpu = max(some[OURS].calls), many[OURS].cpu()
    memory = many[OURS].grown / MANY_VMS / KIB
    part.targets += [
        _target(VMS, "calls in a cycle", f"at most {MOST_CALLS}", f"{calls}", calls <= MOST_CALLS),
        _target(
            MANY_VMS,
            "CPU of the agent",
            f"under {MOST_CPU * 1e3:g} ms a VM",
            milliseconds(cpu),
            cpu < MOST_CPU,
        ),
        _target(
            MANY_VMS,
            "memory",
            f"under {MOST_MEMORY} kB a VM",
            f"{memory:.1f} kB",
            memory < MOST_MEMORY,
        ),
    ]
    part.notes = [*_notes(many, first), _exactness(part, some)]
    return part


def _target(vms: int, what: str, wanted: str, found: str, reached: bool) -> Target:
    return Target(f"vSphere, simulated, {vms:,} VMs: {what}", wanted, found, reached)


def _machine() -> str:
    return (
        f"Measured on {time.strftime('%-d %B %Y')} with {os.cpu_count()} cores, which the "
        f"simulator and those who read it share: virtmeter {virtmeter.__version__}, Python "
        f"{platform.python_version()}."
    )


def _in_turn(vcenter: VCenter, kinds: list[str], number: int) -> tuple[dict[str, Costs], Cycle]:
    """Return what all cost who take turns, and our first reading."""
    costs = {kind: Costs() for kind in kinds}
    with ExitStack() as stack:
        readers = {kind: _reader(stack, vcenter, kind) for kind in kinds}
        agent, first = readers[OURS], readers[OURS].cycle()
        for kind in [*kinds, OURS]:
            time.sleep(AGE + rounds.REST)
            vcenter.step(STEP)
            readers[kind].cycle(**ASKED.get(kind, {}))
        for kind in rounds.alternating(kinds, number):
            time.sleep(AGE + rounds.REST)
            if kind == OURS:
                vcenter.step(STEP)
            vcenter.forget_calls()
            before = cpu_of([vcenter.pid])
            costs[kind].cycles.append(readers[kind].cycle(**ASKED.get(kind, {})))
            costs[kind].simulator.append(cpu_of([vcenter.pid]) - before)
            costs[kind].calls.append(sum(vcenter.calls().values()))
        costs[OURS].grown = costs[OURS].cycles[-1].resident - agent.resident
    return costs, first


def _reader(stack: ExitStack, vcenter: VCenter, kind: str) -> Any:
    if kind == exporter.NAME:
        return stack.enter_context(exporter.Exporter(vcenter.told()))
    options = {"max_age": AGE} if kind == OURS else {}
    return stack.enter_context(Agent(kind, vcenter.told(), peers=peers.__name__, **options))


def _notes(many: dict[str, Costs], first: Cycle) -> list[str]:
    """Return paragraphs about what the numbers are."""
    ours, bare = many[OURS], many[BARE]
    missing = exporter.unavailable()
    return [
        f"A cycle of virtmeter's is a sweep over properties, in pages of {peers.IN_A_PAGE:,} "
        f"objects, and one call for the samples of {peers.IN_A_CALL} VMs, {peers.IN_FLIGHT} of "
        "these at a time. The calls alone are the same, made ready before, whose answers are "
        f"thrown away: what they take is the simulator's time. For {MANY_VMS:,} VMs, that is "
        f"{bare.wall() * MANY_VMS:.2f} s, and virtmeter's reading takes "
        f"{ours.wall() * MANY_VMS:.2f} s. The first reading, with login, inventory and the devices "
        f"of all VMs, took {first.wall:.2f} s and {milliseconds(first.cpu / MANY_VMS)} of CPU a "
        f"VM. The process grows by {ours.grown / KIB / KIB:.1f} MB with the inspector of "
        f"{MANY_VMS:,} VMs.",
        "Ceilometer's way goes through VMs one after the other, so that the rest takes as long: it "
        "was asked about fewer, and the time for all is reckoned. It is written for this benchmark "
        f"over PyPI's `pyvmomi` {metadata.version('pyvmomi')}, with the questions and the "
        "arithmetic of the inspector that Ceilometer had until release 23 (openstack/ceilometer, "
        "ceilometer/compute/virt/vmware). "
        + (
            f"PyPI's `vmware-exporter` was not measured: {missing}."
            if missing
            else "PyPI's `vmware-exporter` 0.18.4, told to export nothing but VMs, needs a Twisted "
            "of its time (22.10). Its answer has neither requests of disks, nor anything of a "
            "single NIC or disk."
        ),
    ]


def _exactness(part: Part, some: dict[str, Costs]) -> str:
    """Return a paragraph and a table about errors, and have all of it drawn."""
    found = errors.measure()
    kinds = list(dict.fromkeys(kind for kind, _ in found))
    rows = [(kind, *(found[kind, quantity].cell() for quantity in QUANTITIES)) for kind in kinds]
    data = f"{errors.VMS} VMs"
    drawn = {
        (data, kind): [found[kind, quantity].median() for quantity in QUANTITIES] for kind in kinds
    }
    walls = {kind: some[kind].wall() * VMS for kind in kinds}
    title = f"one reading of all {VMS:,} VMs of a simulated vCenter"
    part.pictures[PICTURE] = partial(bars.draw, title, walls, drawn)
    return (
        f"How exact that is: {errors.VMS} VMs, read {errors.POLLS} times at random distances of "
        f"{errors.SHORTEST:g} to {errors.LONGEST:g} s, while {errors.LOST:.0%} of their samples "
        f"are missing (-1) for good and {errors.MOVED} VMs move to another host. By how much the "
        "use of a VM between two readings differs from the truth, in the median and at the 95th "
        "percentile, and by how much the sum of all VMs and readings does; for the CPU, the truth "
        "is that of the counter which each of them reads. What virtmeter lacks are the samples "
        "that are missing, which it says (`interval` is the time that is covered). The others tell "
        "rates, here times the time since the last reading: Ceilometer's of as many samples as fit "
        "into that, vmware-exporter's of the last one, -1 included. Both read `disk.*`, which VMs "
        "on NFS or vSAN do not have: here, that is every second VM.\n\n"
        + table(("who reads", *QUANTITIES), rows)
        + f"\n\n![Time and error]({PICTURE})"
    )
