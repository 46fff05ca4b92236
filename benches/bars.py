"""A picture of how long a reading of all VMs takes, and how wrong it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

from benches.exactness import QUANTITIES
from benches.plot import OURS, STOCK

if TYPE_CHECKING:
    from pathlib import Path

# Ours first.
COLOURS = (OURS, STOCK, "#cccccc")
# Of a percentage, on a scale that has no 0.
LEAST = 1e-3


def draw(
    title: str,
    walls: dict[str, float],
    errors: dict[tuple[str, str], list[float]],
    path: Path,
) -> None:
    """Draw seconds of each kind, and errors by data set and kind, into an SVG file."""
    mpl.use("svg")
    # Text stays text, and the same numbers make the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "virtmeter"})
    from matplotlib import pyplot as plt

    sets = list(dict.fromkeys(data for data, _ in errors))
    figure, (time, *others) = plt.subplots(
        1 + len(sets), 1, figsize=(8, 2 + 1.9 * len(sets)), layout="constrained"
    )
    for place, ((kind, seconds), colour) in enumerate(zip(walls.items(), COLOURS)):
        bars = time.barh(place, seconds, 0.7, color=colour, label=kind)
        time.bar_label(bars, fmt="%.1f s", padding=3)
    time.set_yticks(range(len(walls)), list(walls))
    time.set_title(f"{title}, seconds", fontsize=10)
    for axes, data in zip(others, sets):
        for place, (kind, colour) in enumerate(zip(walls, COLOURS)):
            wrong = [max(error * 100, LEAST) for error in errors[data, kind]]
            shift = (place - 1) * 0.27
            places = [number + shift for number in range(len(wrong))]
            bars = axes.barh(places, wrong, 0.25, left=0, color=colour)
            axes.bar_label(bars, [f"{error:.2%}" for error in errors[data, kind]], padding=3)
        axes.set_yticks(range(len(QUANTITIES)), list(QUANTITIES))
        axes.set_xscale("log")
        axes.set_xlim(LEAST, 1000)
        title = f"{data}: median error of a VM's use between two readings, percent"
        axes.set_title(title, fontsize=10)
    for axes in (time, *others):
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    time.margins(x=0.15)
    figure.legend(loc="outside upper center", ncols=len(walls), frameon=False)
    figure.savefig(path, metadata={"Date": None})
