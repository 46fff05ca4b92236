"""Alternating rounds: whatever else the machine does meanwhile happens to both inspectors."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

from benches.agent import OURS, STOCK, Agent, Cycle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def pause() -> None:
    """Wait for longer than what was read ahead may be used, as agents do between their cycles."""
    time.sleep(1.2)


def alternating(rounds: int) -> Iterator[str]:
    """Tell whose turn it is; each goes first in turn."""
    for number in range(rounds):
        yield from (STOCK, OURS) if number % 2 else (OURS, STOCK)


def cycles(
    agents: dict[str, Agent], rounds: int, cycle: Callable[[Agent], Cycle] = Agent.cycle
) -> dict[str, list[Cycle]]:
    """Have the agents go through cycles, in turn and with pauses."""
    found: dict[str, list[Cycle]] = {kind: [] for kind in agents}
    for kind in alternating(rounds):
        pause()
        found[kind].append(cycle(agents[kind]))
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


def calls(cycles: list[Cycle]) -> float:
    """Return the median of the round trips of an instance."""
    return median(cycle.calls / cycle.instances for cycle in cycles)
