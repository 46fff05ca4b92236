"""Real guests: a libvirtd of its own with QEMU guests of two disks and a NIC each."""

from __future__ import annotations

import os
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING

from benches import guests, report, rounds
from benches.agent import ASKED, FLOOR, FLOOR_ASKED, OURS, STOCK, Agent, Cycle
from benches.floor import THREADS
from benches.idle_host import IdleHost
from benches.processes import cpu_of
from benches.report import Part, Point, Target, milliseconds, times
from tests.support import qemu

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KINDS = (STOCK, OURS, ASKED, FLOOR, FLOOR_ASKED)
WARM_UP = 3
ROUNDS = 9
CORES = os.cpu_count() or 1
WALL, AGENT, LIBVIRTD, QEMU = "wall clock", "CPU of the agent", "CPU of libvirtd", "CPU of QEMU"


class Costs:
    """What each process has used in the cycles of one agent, a guest and in seconds."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.cycles: list[Cycle] = []
        self.libvirtd: list[float] = []
        self.qemu: list[float] = []

    def medians(self) -> dict[str, float]:
        """Return the median of each."""
        found = {
            WALL: rounds.wall(self.cycles),
            AGENT: rounds.cpu(self.cycles),
            LIBVIRTD: median(self.libvirtd),
            QEMU: median(self.qemu),
        }
        used = found[AGENT] + found[LIBVIRTD] + found[QEMU]
        return found | {"CPU of all three, over the cores": used / CORES}


def part(count: int) -> Part:
    """Measure it with so many guests."""
    part = Part(
        "Real guests",
        f"{count} guests with 2 disks and 1 NIC, one cycle of all four methods, method by method "
        "over all guests, as Ceilometer asks; a guest's share of it. virtmeter reckons the sizes "
        "of disks from the bulk reading, as is its default, or asks for them. libvirt.so alone is "
        f"the floor of this way of reading: the same calls, made by {THREADS} threads with a "
        "connection each that throw the answers away; all calls about a guest, one guest after the "
        "other.",
        (
            *("", "stock", "virtmeter", "ratio", "virtmeter, sizes asked", "ratio"),
            *("libvirt.so alone", "libvirt.so alone, sizes asked"),
        ),
    )
    if reason := qemu.unavailable():
        part.notes.append(f"Not measured: {reason}")
        return part
    stock_calls = _calls_of_stock()
    with qemu.Libvirtd() as rig:
        with guests.running(rig, count) as running:
            found = _measure(rig, running.uuids)
        _add(part, "running", found, stock_calls, count)
        part.targets += _targets_reckoned(found)
        with rig.bulk(count) as paused:
            found_paused = _measure(rig, [guest.uuid for guest in paused])
        _add(part, "paused", found_paused, stock_calls, count)
    for state, costs in (("running", found), ("paused", found_paused)):
        part.targets += _targets_asked(state, costs)
    part.notes += [
        f"The guests run, halted, over images that have been written to: {running.disks}. Or they "
        "are paused, over raw files that nobody has written to.",
        "The agent, libvirtd and QEMU share the machine's cores, so that no cycle can be faster "
        "than what all three use of them. Where the shortest and the longest cycle are far apart, "
        "the machine had something else to do, and the ratios mean little. The stock inspector's "
        "round trips are counted by the scripted daemon.",
        "Where sizes are reckoned, every 50th reading of a disk asks for them too, to compare: on "
        "average a cycle costs a fiftieth of the difference more than the table says, unless one "
        "of its rounds was such a reading.",
    ]
    return part


def _measure(rig: qemu.Libvirtd, uuids: Sequence[str]) -> dict[str, Costs]:
    """Return what each of the agents has used."""
    emulators = [pid for pid, line in rig.processes().items() if "guest=" in line]
    costs = {kind: Costs() for kind in KINDS}

    def cycle(agent: Agent) -> Cycle:
        libvirtd, emulated = cpu_of([rig.pid]), cpu_of(emulators)
        done = agent.cycle()
        costs[agent.kind].libvirtd.append((cpu_of([rig.pid]) - libvirtd) / len(uuids))
        costs[agent.kind].qemu.append((cpu_of(emulators) - emulated) / len(uuids))
        return done

    with ExitStack() as stack:
        agents = {kind: stack.enter_context(Agent(kind, rig.uri, uuids)) for kind in KINDS}
        rounds.cycles(agents, WARM_UP)
        for kind, cycles in rounds.cycles(agents, ROUNDS, cycle).items():
            costs[kind].cycles = cycles
    return costs


def _calls_of_stock() -> float:
    """Return the stock inspector's round trips for one of the guests."""
    with IdleHost(10, latency=False) as host, Agent(STOCK, host.uri, host.uuids) as agent:
        agent.cycle()
        host.used()
        agent.cycle()
        return host.used().calls / 10


def _add(part: Part, state: str, found: dict[str, Costs], stock_calls: float, count: int) -> None:
    """Add the rows and the points of guests in one state."""
    medians = {kind: costs.medians() for kind, costs in found.items()}
    for what in medians[STOCK]:
        _row(part, f"{what}, {state}", {kind: medians[kind][what] for kind in KINDS})
    ends = (rounds.spread(found[kind].cycles) for kind in KINDS)
    stock, ours, asked, *floors = (" to ".join(map(milliseconds, each)) for each in ends)
    name = f"wall clock, shortest to longest, {state}"
    part.rows.append((name, stock, ours, "", asked, "", *floors))
    calls = {kind: rounds.calls(costs.cycles) for kind, costs in found.items()}
    _row(part, f"round trips, {state}", calls | {STOCK: stock_calls}, times)
    switches = {kind: rounds.switches(costs.cycles) for kind, costs in found.items()}
    _row(part, f"context switches of the agent, {state}", switches, times)
    stock_wall = medians[STOCK][WALL]
    for kind, where in ((OURS, "sizes reckoned"), (ASKED, "sizes asked")):
        part.points.append(Point(f"{state}, {where}", count, stock_wall, medians[kind][WALL]))


def _row(
    part: Part,
    name: str,
    values: dict[str, float],
    shown: Callable[[float], str] = milliseconds,
) -> None:
    stock, ours, asked, *floors = (values[kind] for kind in KINDS)
    part.rows.append(
        (
            *(name, shown(stock)),
            *(shown(ours), times(stock / ours), shown(asked), times(stock / asked)),
            *map(shown, floors),
        )
    )


def _targets_reckoned(found: dict[str, Costs]) -> list[Target]:
    stock, ours = found[STOCK].medians(), found[OURS].medians()
    where = "real guests, sizes reckoned, running"
    return [
        report.faster(f"{where}: {WALL}", 8, stock[WALL], ours[WALL]),
        *(
            report.share(f"{where}: {what}", wanted, stock[what], ours[what])
            for what, wanted in ((AGENT, 9), (QEMU, 4), (LIBVIRTD, 5))
        ),
    ]


def _targets_asked(state: str, found: dict[str, Costs]) -> list[Target]:
    stock, ours = found[STOCK].medians(), found[ASKED].medians()
    where = f"real guests, sizes asked, {state}"
    return [
        report.faster(f"{where}: {WALL}", 5, stock[WALL], ours[WALL]),
        report.share(f"{where}: {AGENT}", 6.5, stock[AGENT], ours[AGENT]),
    ]
