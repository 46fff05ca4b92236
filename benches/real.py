"""Real guests: a libvirtd of its own with QEMU guests of two disks and a NIC each."""

from __future__ import annotations

import os
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING

from benches import rounds
from benches.agent import OURS, STOCK, Agent, Cycle
from benches.idle_host import IdleHost
from benches.processes import cpu_of
from benches.report import Part, Point, Target, milliseconds, times
from tests.support import qemu

if TYPE_CHECKING:
    from collections.abc import Sequence

WARM_UP = 3
ROUNDS = 9
CORES = os.cpu_count() or 1


class Costs:
    """What each process has used in a cycle of one inspector's, a guest and in seconds."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.cycles: list[Cycle] = []
        self.libvirtd: list[float] = []
        self.qemu: list[float] = []


def part(count: int) -> Part:
    """Measure it with so many guests."""
    part = Part(
        "Real guests",
        f"{count} guests with 2 disks and 1 NIC, one cycle of all four methods, method by method "
        "over all guests, as Ceilometer asks; a guest's share of it. The guests run, halted, over "
        "qcow2 images that have been written to; or they are paused, over raw ones that nobody has "
        "written to.",
        ("", "stock", "virtmeter", "ratio"),
    )
    if reason := qemu.unavailable():
        part.notes.append(f"Not measured: {reason}")
        return part
    stock_calls = _calls_of_stock()
    with qemu.Libvirtd() as rig:
        for running, state in ((True, "running"), (False, "paused")):
            with rig.bulk(count, running=running) as guests:
                stock, ours = _measure(rig, guests)
            found = {
                "wall clock": (rounds.wall(stock.cycles), rounds.wall(ours.cycles)),
                "CPU of the agent": (rounds.cpu(stock.cycles), rounds.cpu(ours.cycles)),
                "CPU of libvirtd": (median(stock.libvirtd), median(ours.libvirtd)),
                "CPU of QEMU": (median(stock.qemu), median(ours.qemu)),
            }
            used = [sum(each[1:]) / CORES for each in zip(*found.values())]
            found["CPU of all three, over the cores"] = used[0], used[1]
            for what, (theirs, our) in found.items():
                row = (f"{what}, {state}", milliseconds(theirs), milliseconds(our))
                part.rows.append((*row, times(theirs / our) if our else ""))
            of_all = (rounds.spread(costs.cycles) for costs in (stock, ours))
            ranges = (" to ".join(map(milliseconds, ends)) for ends in of_all)
            part.rows.append((f"wall clock, shortest to longest, {state}", *ranges, ""))
            calls = rounds.calls(ours.cycles)
            part.rows.append(
                (
                    f"round trips, {state}",
                    f"{stock_calls:.1f}",
                    f"{calls:.1f}",
                    times(stock_calls / calls),
                )
            )
            part.targets += _targets(state, found, calls)
            part.points.append(Point(f"real guests, {state}", count, *found["wall clock"]))
    part.notes.append(
        "The agent, libvirtd and QEMU share the machine's cores, so that no cycle can be faster "
        "than what all three use of them. Where the shortest and the longest cycle are far apart, "
        "the machine had something else to do, and the ratios mean little. The stock inspector's "
        "round trips are counted by the scripted daemon."
    )
    part.notes.append(
        "The CPU of virtmeter's agent is mostly libvirt's client and the kernel's: four round "
        "trips of about 40 µs each, for which threads are switched, and the making of Python's "
        "tuples. virtmeter's own code is about a sixth of it (perf)."
    )
    return part


def _measure(rig: qemu.Libvirtd, guests: Sequence[qemu.Guest]) -> tuple[Costs, Costs]:
    """Return what the stock inspector has used, and what ours has."""
    emulators = [pid for pid, line in rig.processes().items() if "guest=" in line]
    costs = {STOCK: Costs(), OURS: Costs()}
    uuids = [guest.uuid for guest in guests]

    def cycle(agent: Agent) -> Cycle:
        libvirtd, emulated = cpu_of([rig.pid]), cpu_of(emulators)
        done = agent.cycle()
        costs[agent.kind].libvirtd.append((cpu_of([rig.pid]) - libvirtd) / len(uuids))
        costs[agent.kind].qemu.append((cpu_of(emulators) - emulated) / len(uuids))
        return done

    with ExitStack() as stack:
        agents = {kind: stack.enter_context(Agent(kind, rig.uri, uuids)) for kind in costs}
        rounds.cycles(agents, WARM_UP)
        found = rounds.cycles(agents, ROUNDS, cycle)
    for kind in costs:
        costs[kind].cycles = found[kind]
    return costs[STOCK], costs[OURS]


def _calls_of_stock() -> float:
    """Return the stock inspector's round trips for one of the guests."""
    with IdleHost(10, latency=False) as host, Agent(STOCK, host.uri, host.uuids) as agent:
        agent.cycle()
        host.used()
        agent.cycle()
        return host.used().calls / 10


def _targets(state: str, found: dict[str, tuple[float, float]], calls: float) -> list[Target]:
    faster, agent, libvirtd = (
        stock / ours if ours else float("inf")
        for stock, ours in (
            found[what] for what in ("wall clock", "CPU of the agent", "CPU of libvirtd")
        )
    )
    return [
        Target(
            f"real guests, {state}: wall clock",
            "at least 5 times faster",
            f"{faster:.1f} times",
            faster >= 5,
        ),
        Target(
            f"real guests, {state}: CPU of the agent",
            "at most 1/8 of stock's",
            f"1/{agent:.1f}",
            agent >= 8,
        ),
        Target(
            f"real guests, {state}: CPU of libvirtd",
            "at most 1/2 of stock's",
            f"1/{libvirtd:.1f}",
            libvirtd >= 2,
        ),
        Target(
            f"real guests, {state}: round trips a VM and cycle",
            "at most 8",
            f"{calls:.1f}",
            calls <= 8,
        ),
    ]
