"""Alternating rounds: whatever else the machine does meanwhile happens to all that are compared."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

from benches.agent import STOCK, Agent, Cycle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


# Longer than what was read ahead may be used: so long an agent waits between its cycles.
PAUSE = 1.2
# So long the machine rests between two agents.
REST = 0.2
WARM_UP = 12


def pause() -> None:
    """Wait as agents do between their cycles."""
    time.sleep(PAUSE)


def alternating(kinds: Iterable[str], rounds: int) -> Iterator[str]:
    """Tell whose turn it is; each goes first in turn."""
    kinds = list(kinds)
    for number in range(rounds):
        first = number % len(kinds)
        yield from kinds[first:] + kinds[:first]


def warm_up(agents: Iterable[Agent]) -> None:
    """Have ours look up its instances: until each connection knows most of them, calls are more."""
    for agent in agents:
        if agent.kind != STOCK:
            agent.cycle(times=WARM_UP)


def cycles(
    agents: dict[str, Agent], rounds: int, cycle: Callable[[Agent], Cycle] = Agent.cycle
) -> dict[str, list[Cycle]]:
    """Have the agents go through cycles, in turn and with pauses."""
    found: dict[str, list[Cycle]] = {kind: [] for kind in agents}
    ended = dict.fromkeys(agents, time.monotonic())
    for kind in alternating(agents, rounds):
        time.sleep(max(REST, ended[kind] + PAUSE - time.monotonic()))
        found[kind].append(cycle(agents[kind]))
        ended[kind] = time.monotonic()
    return found


def wall(cycles: list[Cycle]) -> float:
    """Return the median time of an instance, seconds."""
    return median(cycle.wall / cycle.instances for cycle in cycles)


def spread(cycles: list[Cycle]) -> tuple[float, float]:
    """Return the shortest and the longest time of an instance, seconds."""
    each = [cycle.wall / cycle.instances for cycle in cycles]
    return min(each), max(each)


def cpu(cycles: list[Cycle]) -> float:
    """Return the median CPU time of an instance, seconds."""
    return median(cycle.cpu / cycle.instances for cycle in cycles)


def switches(cycles: list[Cycle]) -> float:
    """Return the median of the context switches of an instance."""
    return median(cycle.switches / cycle.instances for cycle in cycles)


def calls(cycles: list[Cycle]) -> float:
    """Return the median of the round trips of an instance."""
    return median(cycle.calls / cycle.instances for cycle in cycles)
