"""What VMs use within an interval: two readings of the watch, and its columns."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from virtmeter.cli import fleet, states, tables
from virtmeter.cli.stats.table import place
from virtmeter.cli.watch.columns import CURVE, needed
from virtmeter.cli.watch.model import BY_NAME, Model, NoneReadError, Row, Watched
from virtmeter.cli.watch.readings import sleep, take

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from virtmeter.cli.fleet import Source
    from virtmeter.cli.targets import Target


def over(
    sources: Sequence[Source], wanted: Sequence[str], interval: float
) -> tuple[list[Row], bool, dict[str, Exception]]:
    """Return the VMs that were asked for, by name, with what they use within so many seconds.

    And whether that is missing of one that was there all the time; and the targets that could not
    be read, by name, with why.

    :raises virtmeter.InspectorException: that of ``--uri`` cannot be reached, or lists no VMs.
    """
    model = Model(wanted, [Watched(each.target.name, each.target.uri) for each in sources])
    model.order = BY_NAME
    failed: dict[str, Exception] = {}
    for wait in (interval, 0.0):
        before = {(row.target, row.id) for row in model.rows}
        snapshots, _ = fleet.ask(sources, lambda source: take(source, wanted))
        for snapshot in snapshots:
            if snapshot.error and not snapshot.target:
                raise snapshot.error
            if snapshot.error:
                failed.setdefault(snapshot.target, snapshot.error)
            try:
                model.update(snapshot)
            except NoneReadError:
                return [], False, failed
        sleep(time.monotonic(), wait)  # after a reading that a VM that hangs may have held up
    rows = [row for row in model.shown() if row.target not in failed]
    is_missing = any(
        row.hung or (row.usage is None and not row.busy and (row.target, row.id) in before)
        for row in rows
    )
    return rows, is_missing, failed


def shown(
    rows: Sequence[Row],
    targets: Sequence[Target],
    read: int,
    interval: float,
    width: int | None,
) -> RenderableType:
    """Return a line about the targets, and the table as wide as this, or as it has to be."""
    what = states.told([(row.state, row.hung) for row in rows])
    title = Text(f"{what} at {place(targets, read)}, within {interval:g} s", style="dim")
    if not rows:
        return title
    columns = [column for column in needed(rows) if column.title != CURVE]
    return Group(title, Text(), tables.table(tables.fitting(columns, rows, width), rows))
