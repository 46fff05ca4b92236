"""The scripted daemon with the latencies of a big idle host, and up to thousands of domains."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median

from benches import rounds
from benches.agent import OURS, STOCK, Agent, Cycle
from benches.idle_host import IdleHost, Used
from benches.report import Part, Point, Target, milliseconds, times

# As many of the domains as the stock inspector is asked about: more of them take it minutes.
SAMPLE = 500
WORKERS = 6  # the inspector's default
# Domains and rounds. Until each connection has looked up most domains, calls are more.
SIZES = {100: 9, 1_000: 5, 10_000: 3}
WARM_UP = 4


def part() -> Part:
    """Measure it at all sizes."""
    part = Part(
        "A big idle host",
        "The scripted daemon takes 1 ms for a call that would talk to QEMU, 3 ms for all "
        "statistics at once and 0.1 ms for any other call. A VM's share of one cycle; "
        "the latencies alone are what is left with a client and a daemon that take no time.",
        (
            "VMs",
            "stock",
            "virtmeter",
            "ratio",
            "latencies alone, stock",
            f"latencies alone, virtmeter, over {WORKERS} connections",
            "CPU of the agent, stock",
            "CPU of the agent, virtmeter",
            "CPU of the daemon, stock",
            "CPU of the daemon, virtmeter",
            "round trips, stock",
            "round trips, virtmeter",
        ),
    )
    ours = {}
    for count, number in SIZES.items():
        stock, our = _measure(part, count, number)
        ours[count] = our
        part.points.append(Point("scripted daemon", count, stock, our))
        if count == 1_000:
            faster = stock / our
            found = f"{faster:.1f} times"
            part.targets.append(
                Target(
                    "scripted daemon, 1,000 VMs", "at least 12 times faster", found, faster >= 12
                )
            )
    spread = max(ours.values()) / min(ours.values()) - 1
    part.targets.append(
        Target(
            "scripted daemon: cost a VM from 100 to 10,000",
            "flat within 20 %",
            f"{spread:.0%} between the cheapest and the dearest",
            spread <= 0.2,
        )
    )
    part.notes.append(
        "A cycle over fewer VMs is done within the second for which a value may be handed out, so "
        "that one bulk reading of a VM serves all four methods. Where it takes longer, each method "
        "needs a reading of its own: that, and not anything that grows with the number of VMs, is "
        "why the last row is dearer."
    )
    part.notes.append(
        f"The stock inspector was asked about the first {SAMPLE} VMs where there are more of them; "
        "it goes through them one after the other, so that the rest takes as long. The daemon is "
        "written in Python, of which only one thread runs at a time: no cycle can be faster than "
        "the daemon's CPU time, and each call takes a little longer than its latency, for both."
    )
    return part


def _measure(part: Part, count: int, number: int) -> tuple[float, float]:
    """Add a row, and return what a VM costs with the stock inspector and with ours."""
    used: dict[str, list[tuple[float, ...]]] = {STOCK: [], OURS: []}

    with ExitStack() as stack:
        host = stack.enter_context(IdleHost(count))

        def cycle(agent: Agent) -> Cycle:
            host.used()
            done = agent.cycle(SAMPLE if agent.kind == STOCK else None)
            used[agent.kind].append(tuple(value / done.instances for value in host.used()))
            return done

        agents = {
            kind: stack.enter_context(Agent(kind, host.uri, host.uuids)) for kind in (STOCK, OURS)
        }
        for _ in range(WARM_UP):
            rounds.pause()
            agents[OURS].cycle()
        found = rounds.cycles(agents, number, cycle)
    stock, ours = (rounds.wall(found[kind]) for kind in (STOCK, OURS))
    middle = {kind: Used(*map(median, zip(*of))) for kind, of in used.items()}
    part.rows.append(
        (
            f"{count:,}",
            milliseconds(stock),
            milliseconds(ours),
            times(stock / ours),
            milliseconds(middle[STOCK].waits),
            milliseconds(middle[OURS].waits / WORKERS),
            *(milliseconds(rounds.cpu(found[kind])) for kind in (STOCK, OURS)),
            *(milliseconds(middle[kind].cpu) for kind in (STOCK, OURS)),
            *(f"{middle[kind].calls:.1f}" for kind in (STOCK, OURS)),
        )
    )
    return stock, ours
