"""What VMs use within an interval: two readings of the watch, and its columns."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from virtmeter.cli import states, tables
from virtmeter.cli.text import shown_uri
from virtmeter.cli.watch.columns import CURVE, needed
from virtmeter.cli.watch.model import BY_NAME, Model, Row
from virtmeter.cli.watch.readings import sleep, take

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from virtmeter import Inspector


def over(inspector: Inspector, wanted: Sequence[str], interval: float) -> list[Row]:
    """Return the VMs that were asked for, by name, with what they use within so many seconds.

    :raises virtmeter.InspectorException: the hypervisor cannot be reached, or lists no VMs.
    """
    model = Model(wanted)
    model.order = BY_NAME
    for wait in (interval, 0.0):
        snapshot = take(inspector, wanted)
        if snapshot.error:
            raise snapshot.error
        model.update(snapshot)
        sleep(time.monotonic(), wait)  # after a reading that a VM that hangs may have held up
    return model.shown()


def shown(rows: Sequence[Row], uri: str, interval: float, width: int | None) -> RenderableType:
    """Return a line about the host, and the table as wide as this, or as wide as it has to be."""
    what = states.told([(row.state, row.hung) for row in rows])
    title = Text(f"{what} at {shown_uri(uri)}, within {interval:g} s", style="dim")
    if not rows:
        return title
    columns = [column for column in needed(rows) if column.title != CURVE]
    return Group(title, Text(), tables.table(tables.fitting(columns, rows, width), rows))
