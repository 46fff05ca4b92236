"""A picture of what one VM costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

if TYPE_CHECKING:
    from pathlib import Path

    from benches.report import Point

STOCK, OURS = "#999999", "#1f6fb4"


def draw(points: list[Point], path: Path) -> None:
    """Draw bars of the time of one VM, of the stock inspector and of ours, into an SVG file."""
    mpl.use("svg")
    # Text stays text, and the same numbers make the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "virtmeter"})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.75 * len(points)), layout="constrained")
    places = range(len(points))
    for shift, label, colour, times in (
        (-0.18, "stock inspector", STOCK, [point.stock * 1e3 for point in points]),
        (0.18, "virtmeter", OURS, [point.ours * 1e3 for point in points]),
    ):
        bars = axes.barh(
            [place + shift for place in places], times, 0.34, label=label, color=colour
        )
        axes.bar_label(bars, fmt="%.1f ms", padding=3)
    labels = [f"{point.where}\n{point.instances:,} VMs" for point in points]
    axes.set_yticks(list(places), labels)
    axes.invert_yaxis()
    axes.set_xlabel("time for one VM in a cycle of all four methods, milliseconds")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, metadata={"Date": None})
