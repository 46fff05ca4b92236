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
    """The greater, the sooner it is left out, with all others of this number; 0: at last."""
    left: bool = False
    width: int = 5
    """What it has at least, so that it stands still while its numbers change."""
    is_name: bool = False
    """Whether it may be cut: a number that is cut is another one."""

    def text(self, row: Row) -> Text:
        """Return the cell; a string is shown as it is, whatever brackets are in it."""
        cell = self.cell(row)
        return Text(cell) if isinstance(cell, str) else cell

    def room(self, rows: Sequence[Row]) -> int:
        """Return how wide it must be."""
        lines = [*self.title.split("\n"), *(self.text(row).plain for row in rows)]
        return max(self.width, *map(cell_len, lines))


def fitting(
    columns: Sequence[Column[Row]],
    rows: Sequence[Row],
    width: int | None,
    seen: Sequence[Row] | None = None,
) -> dict[Column[Row], int]:
    """Return the columns that there is room for, with their widths; all of them without a width.

    What is still too wide then is at the cost of the names, of the last columns after that, and in
    the end of the names again.

    :param seen: the rows that are shown, if not all are: the numbers of others need no room.
    """
    kept = {
        column: column.room(rows if column.is_name or seen is None else seen) for column in columns
    }
    if width is None:
        return kept
    whole = {column: max(SHORTEST_NAME, room) for column, room in kept.items() if column.is_name}
    kept.update((name, min(room, LONGEST_NAME)) for name, room in whole.items())
    while total(kept) > width and (least := max(column.spare for column in kept)):
        kept = {column: room for column, room in kept.items() if column.spare < least}
    if total(kept) > width:
        kept.update(dict.fromkeys(whole, SHORTEST_NAME))
    while total(kept) > width and len(kept) > 1:
        kept.popitem()
    for name in [column for column in whole if column in kept]:
        kept[name] = max(1, min(whole[name], kept[name] + width - total(kept)))
    return kept


def total(columns: dict[Column[Row], int]) -> int:
    """Return how wide they are together."""
    return sum(columns.values()) + GAP * (len(columns) - 1)


def table(columns: dict[Column[Row], int], rows: Sequence[Row]) -> Table:
    """Return the rows under their titles, each on one line; what is too long has an ellipsis."""
    # Gaps are columns too: rich before 14.3 counts a padding after the last column, finds the table
    # too wide, and cuts what would fit.
    made = Table(box=None, padding=0, header_style="bold")
    for column, width in columns.items():
        if made.columns:
            made.add_column(Text(), width=GAP)
        made.add_column(
            Text(column.title),
            justify="left" if column.left else "right",
            width=width,
            no_wrap=True,
        )
    for row in rows:
        # Not "", in which rich would look for markup and emojis.
        _, *cells = (each for column in columns for each in (Text(), column.text(row)))
        made.add_row(*cells)
    return made
