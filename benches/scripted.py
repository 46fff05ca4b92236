"""The scripted daemon with the latencies of a big idle host, and up to a thousand domains."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median

from benches import report, rounds
from benches.agent import ASKED, OURS, STOCK, Agent, Cycle
from benches.idle_host import IdleHost, Used
from benches.report import Part, Point, Target, milliseconds, times

# As many of the domains as the stock inspector is asked about: more of them take it long.
SAMPLE = 300
WORKERS = 4  # the inspector's default
KINDS = (STOCK, OURS, ASKED)
CONNECTIONS = {STOCK: 1, OURS: WORKERS, ASKED: WORKERS}
# Domains and rounds.
SIZES = {100: 9, 1_000: 5}
MOST_CPU = 0.00025  # seconds a VM


def part() -> Part:
    """Measure it at all sizes."""
    part = Part(
        "A big idle host",
        "The scripted daemon takes 1 ms for a call that would talk to QEMU, 3 ms for all "
        "statistics at once and 0.1 ms for any other call. A VM's share of one cycle; the "
        "latencies alone are what is left with a client and a daemon that take no time, for "
        f"virtmeter over {WORKERS} connections.",
        (
            *("VMs", "", "wall clock", "times faster", "latencies alone", "CPU of the agent"),
            *("CPU of the daemon", "round trips"),
        ),
    )
    for count, number in SIZES.items():
        found = _measure(part, count, number)
        stock, ours = (rounds.wall(found[kind]) for kind in (STOCK, OURS))
        part.points.append(Point("scripted daemon", count, stock, ours))
    cpu = rounds.cpu(found[OURS])
    part.targets += [
        report.faster("scripted daemon, 1,000 VMs: wall clock", 20, stock, ours),
        Target(
            "scripted daemon, 1,000 VMs: CPU of the agent",
            f"at most {MOST_CPU * 1e3:g} ms a VM",
            milliseconds(cpu),
            cpu <= MOST_CPU,
        ),
    ]
    part.notes.append(
        f"The stock inspector was asked about the first {SAMPLE} VMs where there are more of them; "
        "it goes through them one after the other, so that the rest takes as long. The daemon is "
        "written in Python, of which only one thread runs at a time: no cycle can be faster than "
        "the daemon's CPU time, and each call takes a little longer than its latency, for all."
    )
    return part


def _measure(part: Part, count: int, number: int) -> dict[str, list[Cycle]]:
    """Add a row for each kind of agent, and return its cycles."""
    used: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in KINDS}

    with ExitStack() as stack:
        host = stack.enter_context(IdleHost(count))

        def cycle(agent: Agent) -> Cycle:
            host.used()
            done = agent.cycle(SAMPLE if agent.kind == STOCK else None)
            used[agent.kind].append(tuple(value / done.instances for value in host.used()))
            return done

        agents = {kind: stack.enter_context(Agent(kind, host.uri, host.uuids)) for kind in KINDS}
        rounds.warm_up(agents.values())
        found = rounds.cycles(agents, number, cycle)
    for kind in KINDS:
        of_host = Used(*map(median, zip(*used[kind])))
        wall, cpu = rounds.wall(found[kind]), rounds.cpu(found[kind])
        seconds = (of_host.waits / CONNECTIONS[kind], cpu, of_host.cpu)
        part.rows.append(
            (
                *(f"{count:,}", kind, milliseconds(wall)),
                times(rounds.wall(found[STOCK]) / wall),
                *map(milliseconds, seconds),
                times(of_host.calls),
            )
        )
    return found
