"""What was told of the use of VMs, beside the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median

QUANTITIES = ("CPU", "network", "disks")


@dataclass
class Used:
    """What a VM uses, as a peer tells it."""

    cpu: float = 0.0  # percent of its vCPUs
    network: float = 0.0  # KiB/s, both directions
    disk: float = 0.0  # KiB/s, both directions

    def each(self) -> tuple[float, float, float]:
        """Return all of it, by the order of QUANTITIES."""
        return self.cpu, self.network, self.disk

    def over(self, seconds: float) -> Used:
        """Return what that makes in a time."""
        return Used(*(value * seconds for value in self.each()))


@dataclass
class Errors:
    """What was told of one quantity, beside the truth, for each VM and time between readings."""

    pairs: list[tuple[float, float]] = field(default_factory=list)
    least: float = 0.0

    def each(self) -> list[float]:
        """Return by which part of the truth each is wrong."""
        return [abs(told / true - 1) for told, true in self.pairs if true >= self.least]

    def median(self) -> float:
        """Return the error of one in two."""
        return median(self.each())

    def worst(self) -> float:
        """Return the error that one in twenty exceeds."""
        errors = sorted(self.each())
        return errors[math.ceil(len(errors) * 0.95) - 1]

    def sum(self) -> float:
        """Return by which part all together is wrong."""
        return sum(told for told, _ in self.pairs) / sum(true for _, true in self.pairs) - 1

    def cell(self) -> str:
        """Return all three as a page shows them."""
        return f"{self.median():.2%} / {self.worst():.2%} / {self.sum():+.2%}"
