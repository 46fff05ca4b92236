"""What a part has found, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Target:
    """What was promised, and what came of it."""

    what: str
    wanted: str
    found: str
    reached: bool


@dataclass(frozen=True)
class Point:
    """A time for the plot, per instance and in seconds."""

    where: str
    instances: int
    stock: float
    ours: float


@dataclass
class Part:
    """A table, and what must be said about it."""

    title: str
    what: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    #: Beside the page, by the names of their files.
    pictures: dict[str, Callable[[Path], None]] = field(default_factory=dict)

    def markdown(self) -> str:
        """Return all of it as a chapter."""
        chapter = [f"## {self.title}", self.what]
        if self.rows:
            chapter.append(table(self.header, self.rows))
        return "\n\n".join([*chapter, *self.notes])


def faster(what: str, wanted: float, stock: float, ours: float) -> Target:
    """Return the target to be so many times faster than the stock inspector."""
    ratio = stock / ours
    return Target(what, f"at least {wanted:g} times faster", f"{ratio:.1f} times", ratio >= wanted)


def share(what: str, wanted: float, stock: float, ours: float) -> Target:
    """Return the target to use at most one of so many parts of what the stock inspector does."""
    ratio = stock / ours if ours else float("inf")
    return Target(what, f"at most 1/{wanted:g} of stock's", f"1/{ratio:.1f}", ratio >= wanted)


def targets(parts: list[Part]) -> str:
    """Return the table of all targets; nothing where there is none."""
    rows = [
        (target.what, target.wanted, target.found, "yes" if target.reached else "**no**")
        for part in parts
        for target in part.targets
    ]
    return table(("what", "must reach", "measured", "reached"), rows) if rows else ""


def updated(page: str, parts: list[Part]) -> str:
    """Return a page with the chapters and the targets of some parts replaced, or added."""
    head, *chapters = page.rstrip("\n").split("\n\n## ")
    known = {chapter.partition("\n")[0]: chapter for chapter in chapters}
    for part in parts:
        known[part.title] = part.markdown().removeprefix("## ")
    new = targets(parts).split("\n")[2:]
    replaced = {row.split("|")[1] for row in new}
    rows = known["Targets"].split("\n")
    kept = [row for row in rows if not row.startswith("|") or row.split("|")[1] not in replaced]
    known["Targets"] = "\n".join([*kept, *new])
    return "\n\n## ".join([head, *known.values()]) + "\n"


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table; all but its first column are numbers or short."""
    lines = [header, ("---", *["---:"] * (len(header) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def milliseconds(seconds: float) -> str:
    """Return a time as people read it."""
    return f"{seconds * 1e3:,.2f} ms"


def times(ratio: float) -> str:
    """Return a ratio as people read it."""
    return f"{ratio:,.1f}"
