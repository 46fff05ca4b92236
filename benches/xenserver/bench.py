"""A simulated XenServer pool of 1,024 VMs: what a reading of all costs, and how exact it is."""

from __future__ import annotations

import os
import platform
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from statistics import median
from typing import TYPE_CHECKING

import virtmeter
from benches import bars, rounds
from benches.exactness import QUANTITIES
from benches.report import Part, Target, milliseconds, table, times
from benches.usage import OURS, Agent, Cycle
from benches.xenserver import errors, peers
from benches.xenserver.peers import CEILOMETER, CLOUDSTACK
from benches.xenserver.pool import SimulatedPool

if TYPE_CHECKING:
    from collections import Counter

HOSTS, VMS = 64, 16
ALL = HOSTS * VMS
DELAY = 0.5  # seconds that each answer to /rrd_updates takes
# From the beginning of a reading to that of the next: the rows of 10 s, as of most agents.
PERIOD = 10.0
ROUNDS = 7
# The others go through hosts and VMs one after the other: so many are enough to know one's share.
ASKED = {OURS: {}, CLOUDSTACK: {"hosts": 8}, CEILOMETER: {"hosts": 2}}
HANGING, HANGING_ROUNDS = 4, 4
FEW_HOSTS, MANY_VMS = 4, 2 * VMS
# What malloc keeps differs from one process to the next.
PROCESSES = 5
# For growth: short cycles of a small pool, as many as fit into three minutes. The caches that
# malloc keeps for each thread take hundreds of cycles to fill.
WARM_UP, LONG, SHORT_AGE = 1000, 1000, 0.05
DATA = ("xapi-24.19_drift", "xapi-26.17_steady", "xapi-26.17_boundary")
KIB = 1024
PICTURE = "benchmarks-xenserver.svg"

MOST_WALL = 2.0  # seconds
MOST_CPU = 0.0003  # seconds a VM
MOST_MEMORY = 10  # kB a VM
# Whatever a cycle might leave behind of each VM is larger; but memory is also reused with gaps.
A_READING = 8  # bytes


@dataclass
class Costs:
    """What the cycles of one agent were."""

    cycles: list[Cycle] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)

    def wall(self) -> float:
        """Return the median time of a VM, seconds."""
        return median(cycle.wall / cycle.vms for cycle in self.cycles)

    def cpu(self) -> float:
        """Return the median CPU time of a VM, seconds."""
        return median(cycle.cpu / cycle.vms for cycle in self.cycles)

    def count(self) -> float:
        """Return the median number of calls of a VM."""
        return median(calls / cycle.vms for calls, cycle in zip(self.calls, self.cycles))


def part() -> Part:
    """Measure it."""
    part = Part(
        "XenServer",
        f"A simulated pool and no real host: {HOSTS} hosts with {VMS} VMs each, {ALL:,} VMs with "
        "30 data sources, in a process of its own (`python -m tests.support.xapi`, written in "
        "Python) on the same machine. Each answer to `/rrd_updates` takes "
        f"{DELAY:g} s, XAPI's own calls only what the simulator needs for them. A reading is the "
        f"usage of VMs (CPU, network, disks, memory), one begins every {PERIOD:g} s. {_machine()}",
        (
            "",
            "VMs asked",
            "wall clock",
            f"for {ALL:,} VMs",
            "times ours",
            "CPU a VM",
            "calls a VM",
            "calls",
        ),
    )
    with SimulatedPool(HOSTS, VMS, DELAY) as pool:
        costs, first = _in_turn(pool)
        _hanging(part, pool)
    ours = costs[OURS]
    for kind, cost in costs.items():
        asked = cost.cycles[0].vms
        reckoned = cost.wall() * ALL
        part.rows.append(
            (
                kind,
                f"{asked:,}",
                f"{cost.wall() * asked:.2f} s",
                f"{reckoned:.2f} s",
                times(cost.wall() / ours.wall()),
                milliseconds(cost.cpu()),
                f"{cost.count():.2f}",
                f"{median(cost.calls):,.0f}",
            )
        )
    wall, cpu = ours.wall() * ALL, ours.cpu()
    few, all_, many = _grown(FEW_HOSTS, VMS), _grown(HOSTS, VMS), _grown(HOSTS, MANY_VMS)
    memory = (many - all_) / (HOSTS * (MANY_VMS - VMS)) / KIB
    a_host = (all_ - few) / (HOSTS - FEW_HOSTS) / KIB - VMS * memory
    leaked = _left_behind()
    calls = round(median(ours.calls))
    part.targets[:0] = [
        _target("one reading of all", f"within {MOST_WALL:g} s", f"{wall:.2f} s", wall < MOST_WALL),
        _target(
            "CPU of the agent",
            f"under {MOST_CPU * 1e3:g} ms a VM",
            milliseconds(cpu),
            cpu < MOST_CPU,
        ),
        _target("calls in a cycle", f"1 + {HOSTS}", f"{calls}", calls == 1 + HOSTS),
        _target("memory", f"under {MOST_MEMORY} kB a VM", f"{memory:.1f} kB", memory < MOST_MEMORY),
        _target(
            f"memory over {LONG:,} cycles",
            f"no growth (under {A_READING} bytes a VM and cycle)",
            f"{leaked:.1f} bytes",
            leaked < A_READING,
        ),
    ]
    part.notes = [
        f"The first reading, with login, inventory and the certificates of all hosts, took "
        f"{first.wall:.2f} s and {milliseconds(first.cpu / ALL)} of CPU a VM. CloudStack's way and "
        "Ceilometer's go through hosts and VMs one after the other, so that the rest takes as "
        "long: they were asked about fewer, and the time for all is reckoned. Both are written for "
        f"this benchmark over PyPI's `XenAPI` {metadata.version('XenAPI')}, with the questions and "
        "the arithmetic of CloudStack's `getVmStats` (apache/cloudstack @002e4782, "
        "CitrixResourceBase.java) and of the inspector that Ceilometer had "
        "(openstack/ceilometer @815274741, xenapi/inspector.py). Ceilometer asks for no rows, and "
        f"so never waits {DELAY:g} s.",
        "A cycle of virtmeter's is 1 call to the pool and 1 to each host. At once, after a minute, "
        "and then every ten, two VMs of a host are read by themselves as well, to see whether its "
        f"rows are right: the longest cycle had {max(ours.calls)} calls.",
        *part.notes,
        f"Memory, as the median of {PROCESSES} processes: one grows by {_mb(all_)} with the "
        f"inspector of {ALL:,} VMs. A VM takes "
        f"{memory:.1f} kB (twice as many VMs on as many hosts: {_mb(many)}), and a host "
        f"{a_host:.0f} kB beside its VMs, for its TLS sessions, its thread and its answer "
        f"({FEW_HOSTS} hosts with {VMS} VMs each: {_mb(few)}).",
        _exactness(part, {kind: cost.wall() * ALL for kind, cost in costs.items()}),
    ]
    return part


def _target(what: str, wanted: str, found: str, reached: bool) -> Target:
    return Target(f"XenServer, simulated, {ALL:,} VMs: {what}", wanted, found, reached)


def _mb(size: int) -> str:
    return f"{size / KIB / KIB:.1f} MB"


def _machine() -> str:
    return (
        f"Measured on {time.strftime('%-d %B %Y')} with {os.cpu_count()} cores, which the pool and "
        f"those who read it share: virtmeter {virtmeter.__version__}, Python "
        f"{platform.python_version()}."
    )


def _in_turn(pool: SimulatedPool) -> tuple[dict[str, Costs], Cycle]:
    """Return what all cost who take turns, and our first reading."""
    costs = {kind: Costs() for kind in ASKED}
    with ExitStack() as stack:
        agents = {
            kind: stack.enter_context(Agent(kind, pool.told, peers=peers.__name__))
            for kind in ASKED
        }
        first = agents[OURS].cycle()
        for kind, agent in agents.items():
            _paced(agent, time.monotonic() if kind == OURS else 0.0, ASKED[kind])
        began = dict.fromkeys(agents, time.monotonic())
        for kind in rounds.alternating(agents, ROUNDS):
            time.sleep(rounds.REST)
            pool.calls()
            begin = began[kind] if kind == OURS else 0.0
            cycle, began[kind] = _paced(agents[kind], begin, ASKED[kind])
            costs[kind].cycles.append(cycle)
            costs[kind].calls.append(_total(pool.calls()))
    return costs, first


def _paced(agent: Agent, began: float, asked: dict[str, int]) -> tuple[Cycle, float]:
    """Have it read, a period after it last began; return when that was."""
    time.sleep(max(0.0, began + PERIOD - time.monotonic()))
    begins = time.monotonic()
    return agent.cycle(**asked), begins


def _total(calls: Counter[str]) -> int:
    return sum(calls.values())


def _hanging(part: Part, pool: SimulatedPool) -> None:
    """Compare readings while some hosts hang with those while none does."""
    with Agent(OURS, pool.told) as agent:
        agent.cycle()
        began = time.monotonic()
        found: dict[bool, list[Cycle]] = {False: [], True: []}
        for hangs in found:
            if hangs:
                pool.hang(HANGING)
            for _ in range(HANGING_ROUNDS):
                cycle, began = _paced(agent, began, {})
                found[hangs].append(cycle)
        pool.heal()
    others = ALL - HANGING * VMS
    told = min(cycle.vms for cycle in found[True])
    walls = {hangs: [cycle.wall for cycle in cycles] for hangs, cycles in found.items()}
    without, after = median(walls[False]), median(walls[True][1:])
    part.notes.append(
        f"While {HANGING} hosts take requests for rows and never answer, the reading of the "
        f"others' {others} VMs takes {after:.2f} s (without them {without:.2f} s), but for the "
        f"first one, which waits for them until its timeout: {walls[True][0]:.2f} s."
    )
    part.targets.append(
        _target(
            f"{HANGING} hosts that hang",
            f"all {others} others told, in at most 1.2 times the time",
            f"{told} told, {after / without:.2f} times",
            told >= others and after <= 1.2 * without,
        )
    )


def _grown(hosts: int, vms: int) -> int:
    """Return how much memory an inspector of a pool needs after some cycles, bytes."""
    age = 0.5
    grown = []
    with SimulatedPool(hosts, vms, 0.0) as pool:
        for _ in range(PROCESSES):
            with Agent(OURS, pool.told, max_age=age) as agent:
                cycle = agent.cycle(times=5, pause=age + rounds.REST)
                grown.append(cycle.resident - agent.resident)
    return round(median(grown))


def _left_behind() -> float:
    """Return how much memory a reading of a VM leaves behind, bytes."""
    with (
        SimulatedPool(FEW_HOSTS, VMS, 0.0) as pool,
        Agent(OURS, pool.told, max_age=SHORT_AGE) as agent,
    ):
        before = agent.cycle(times=WARM_UP, pause=SHORT_AGE).resident
        after = agent.cycle(times=LONG, pause=SHORT_AGE)
        return (after.resident - before) / (LONG * after.vms)


def _exactness(part: Part, walls: dict[str, float]) -> str:
    """Return a paragraph and a table about errors, and have all of it drawn."""
    rows, drawn = [], {}
    for data in DATA:
        found = errors.measure(data)
        for kind in errors.KINDS:
            of_kind = [found[kind, quantity] for quantity in QUANTITIES]
            cells = (of.cell() for of in of_kind)
            rows.append((f"{data.removeprefix('xapi-').replace('_', ', ')}: {kind}", *cells))
            drawn[data, kind] = [of.median() for of in of_kind]
    part.pictures[PICTURE] = partial(
        bars.draw, f"one reading of all {ALL:,} VMs of a simulated pool", walls, drawn
    )
    header = ("XenServer's release: who reads", *QUANTITIES)
    return (
        "How exact that is, with answers that XenServer's own library gave about counters that are "
        "known (tests/data/xenserver), read once a minute for "
        f"{errors.MINUTES} minutes: by how much the use of a VM within a minute differs from the "
        "truth, in the median and at the 95th percentile, and by how much the sum of all VMs and "
        "minutes does. CloudStack tells the mean of the 18 minutes before, Ceilometer that of the "
        "last 5 seconds. Meanwhile VMs start, stop, are paused and rebooted, devices come and go: "
        "what virtmeter lacks is the first minute of each. At the boundary, the rows themselves "
        "are wrong, which virtmeter finds out by itself after some minutes.\n\n"
        + table(header, rows)
        + f"\n\n![Time and error]({PICTURE})"
    )
