"""The columns of the watch, and the curve of the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

from rich.text import Text

from virtmeter.cli import balloon, states, tables, units
from virtmeter.cli.text import printable
from virtmeter.cli.watch.model import Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from virtmeter import VmUsage

Column = tables.Column[Row]
BARS = " ▁▂▃▄▅▆▇█"
UNKNOWN = "·"
CURVE = "\nlast minutes"
CURVE_AT_LEAST, CURVE_AT_MOST = 12, 48


def fitting(rows: Sequence[Row], width: int, seen: Sequence[Row]) -> dict[Column, int]:
    """Return the columns that there is room for; the curve takes what is left over.

    :param seen: those of the rows that are shown.
    """
    kept = tables.fitting(needed(rows), rows, width, seen)
    long = min(CURVE_AT_LEAST + width - tables.total(kept), CURVE_AT_MOST)
    return dict(
        (_curve(long), long) if column.title == CURVE else (column, room)
        for column, room in kept.items()
    )


def needed(rows: Sequence[Row]) -> list[Column]:
    """Return the columns; why a VM does not run is one where there is such a VM."""
    columns = [column for column in COLUMNS if column is not WHY or any(row.reason for row in rows)]
    return [TARGET, *columns] if any(row.target for row in rows) else columns


def share(percent: float | None) -> Text:
    """Return a percentage, in a colour that warns of high ones."""
    style = "" if percent is None or percent < 60 else "yellow" if percent < 90 else "red"
    return Text(units.percent(percent), style=style if percent else "dim")


def curve(values: Iterable[float | None], width: int) -> str:
    """Return the last of these percentages as bars, from 0 to 100, the youngest on the right.

    What is not known is a dot: nothing at all would look like a VM that does nothing.
    """
    return "".join(map(_bar, list(values)[-width:])).rjust(width)


def _bar(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return BARS[max(value > 0, round(value / 100 * (len(BARS) - 1)))]


def _curve(width: int) -> Column:
    return tables.Column(
        CURVE,
        lambda row: Text(curve(row.history.values, width), style="cyan"),
        left=True,  # on the right, rich would take empty steps at the end for padding
        spare=4,
        width=CURVE_AT_LEAST,
    )


def _share(name: str) -> Callable[[Row], Text]:
    return lambda row: share(_of(row.usage, name))


def _kib(name: str) -> Callable[[Row], Text]:
    return lambda row: _quiet(units.size(_bytes(_of(row.usage, name))))


def _memory_used(row: Row) -> Text:
    used = _kib("memory_used")(row)
    used.plain = balloon.marked(used.plain, row.memory_updated)
    return used


def _kib_rate(name: str) -> Callable[[Row], Text]:
    return lambda row: _quiet(units.size(_bytes(row.rate(name))))


def _rate(name: str) -> Callable[[Row], Text]:
    return lambda row: _quiet(units.number(row.rate(name)))


def _of(usage: VmUsage | None, name: str) -> float | None:
    return usage and getattr(usage, name)


def _bytes(kib: float | None) -> float | None:
    return None if kib is None else kib * units.KIB


def _quiet(number: str) -> Text:
    """Return a number; nothing and none of it do not catch the eye."""
    return Text(number, style="dim" if number in (units.NOTHING, "0", "0B") else "")


def _name(row: Row) -> Text:
    return Text(printable(row.name), style="red" if row.hung or row.away else "bold")


def _state(row: Row) -> Text:
    return states.cell(row.state, hung=row.hung, busy=row.busy, away=row.away)


TARGET = Column("\ntarget", lambda row: row.target, left=True, is_name=True)
WHY = Column("\nwhy", lambda row: row.reason, left=True, spare=1)

COLUMNS = (
    Column("\nVM", _name, left=True, is_name=True),
    Column("\nstate", _state, left=True, width=7),
    WHY,
    Column("CPU\n%", _share("cpu_utilization")),
    _curve(CURVE_AT_LEAST),
    Column("\nwait", _share("cpu_wait"), spare=3),
    Column("\nsteal", _share("cpu_steal"), spare=3),
    Column("memory\nused", _memory_used),
    Column("\nof", _kib("memory_total"), spare=2),
    Column("NICs\nin/s", _kib_rate("network_read_kib"), spare=1),
    Column("\nout/s", _kib_rate("network_write_kib"), spare=1),
    Column("disks\nread/s", _kib_rate("disk_read_kib")),
    Column("\nwrite/s", _kib_rate("disk_write_kib")),
    Column("\nreads", _rate("disk_read_requests"), spare=5),
    Column("\nwrites", _rate("disk_write_requests"), spare=5),
)
