"""Tables that fit: where a terminal is narrow, the columns that matter least are left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Generic, TypeVar

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

Row = TypeVar("Row")
GAP = 2
SHORTEST_NAME, LONGEST_NAME = 8, 40


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column: its title, on two lines, and what a row has in it."""

    title: str
    cell: Callable[[Row], Text | str]
    spare: int = 0
    """The greater, the sooner it is left out, with all others of this number; 0: never."""
    left: bool = False
    width: int = 5
    """What it has at least, so that it stands still while its numbers change."""

    def text(self, row: Row) -> Text:
        """Return the cell; a string is shown as it is, whatever brackets are in it."""
        cell = self.cell(row)
        return Text(cell) if isinstance(cell, str) else cell

    def room(self, rows: Sequence[Row]) -> int:
        """Return how wide it must be."""
        lines = [*self.title.split("\n"), *(self.text(row).plain for row in rows)]
        return max(self.width, *map(cell_len, lines))


def fitting(
    columns: Sequence[Column[Row]], rows: Sequence[Row], width: int | None
) -> dict[Column[Row], int]:
    """Return the columns that there is room for, with their widths; all of them without a width.

    What is still too wide is at the cost of the first column, which has the names.
    """
    kept = {column: column.room(rows) for column in columns}
    if width is None:
        return kept
    name = columns[0]
    kept[name] = min(kept[name], LONGEST_NAME)
    while total(kept) > width and (least := max(column.spare for column in kept)):
        kept = {column: room for column, room in kept.items() if column.spare < least}
    kept[name] = max(SHORTEST_NAME, kept[name] - max(0, total(kept) - width))
    return kept


def total(columns: dict[Column[Row], int]) -> int:
    """Return how wide they are together."""
    return sum(columns.values()) + GAP * (len(columns) - 1)


def table(columns: dict[Column[Row], int], rows: Sequence[Row], *, fold: bool = True) -> Table:
    """Return the rows under their titles; what is too long is folded, or else cut off."""
    made = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for column, width in columns.items():
        made.add_column(
            Text(column.title),
            justify="left" if column.left else "right",
            width=width,
            no_wrap=not fold,
            overflow="fold" if fold else "ellipsis",
        )
    for row in rows:
        made.add_row(*(column.text(row) for column in columns))
    return made
