"""Real guests: a libvirtd of its own with QEMU guests of two disks and a NIC each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benches import costs, guests, report, rounds
from benches.agent import ASKED, OURS, STOCK, Agent
from benches.costs import AGENT, KINDS, LIBVIRTD, QEMU, WALL, Costs
from benches.floor import THREADS
from benches.idle_host import IdleHost
from benches.report import Part, Point, Target, milliseconds, times
from tests.support import qemu

if TYPE_CHECKING:
    from collections.abc import Callable


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
            found = costs.measure(rig, running.uuids)
        _add(part, "running", found, stock_calls, count)
        part.targets += _targets_reckoned(found)
        with rig.bulk(count) as paused:
            found_paused = costs.measure(rig, [guest.uuid for guest in paused])
        _add(part, "paused", found_paused, stock_calls, count)
    for state, cost in (("running", found), ("paused", found_paused)):
        part.targets += _targets_asked(state, cost)
    part.notes += [
        "The guests run, halted, over images that have been written to; their disks are "
        f"{running.disks}. Or they are paused, over raw files that nobody has written to.",
        "The agent, libvirtd and QEMU share the machine's cores, so that no cycle can be faster "
        "than what all three use of them. Where the shortest and the longest cycle are far apart, "
        "the machine had something else to do, and the ratios mean little. The stock inspector's "
        "round trips are counted by the scripted daemon.",
        "Where sizes are reckoned, every 50th reading of a disk asks for them too, to compare. "
        "That is not the same cycle for all disks, and so it is in the numbers.",
    ]
    return part


def _calls_of_stock() -> float:
    """Return the stock inspector's round trips for one of the guests."""
    with IdleHost(10, latency=False) as host, Agent(STOCK, host.uri, host.uuids) as agent:
        agent.cycle()
        host.used()
        agent.cycle()
        return host.used().calls / 10


def _add(part: Part, state: str, found: dict[str, Costs], stock_calls: float, count: int) -> None:
    """Add the rows and the points of guests in one state."""
    medians = {kind: cost.medians() for kind, cost in found.items()}
    for what in medians[STOCK]:
        _row(part, f"{what}, {state}", {kind: medians[kind][what] for kind in KINDS})
    ends = (rounds.spread(found[kind].cycles) for kind in KINDS)
    stock, ours, asked, *floors = (" to ".join(map(milliseconds, each)) for each in ends)
    name = f"wall clock, shortest to longest, {state}"
    part.rows.append((name, stock, ours, "", asked, "", *floors))
    calls = {kind: rounds.calls(cost.cycles) for kind, cost in found.items()}
    _row(part, f"round trips, {state}", calls | {STOCK: stock_calls}, times)
    switches = {kind: rounds.switches(cost.cycles) for kind, cost in found.items()}
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
