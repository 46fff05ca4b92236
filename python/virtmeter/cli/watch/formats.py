"""The usage of VMs for other programs: every value as the library has it, in JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Callable

from virtmeter import VmUsage
from virtmeter.cli.states import word
from virtmeter.cli.stats.formats import csv_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from virtmeter.cli.watch.model import Row

USAGE = VmUsage._fields[2:]
FIELDS = ("time", "id", "name", "state", "hung", *USAGE)
"""Those of several targets have ``target`` after the time."""


def when(time: float) -> str:
    """Return seconds since the epoch as RFC 3339 has them, in UTC."""
    at = datetime.fromtimestamp(time, timezone.utc)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def header(*, targets: bool) -> tuple[str, ...]:
    """Return the fields."""
    return (FIELDS[0], "target", *FIELDS[1:]) if targets else FIELDS


def plain(row: Row, time: str) -> dict[str, Any]:
    """Return what is known of a VM, by its fields; None is what is not."""
    usage = row.usage[2:] if row.usage else (None,) * len(USAGE)
    target = (row.target,) if row.target else ()
    values = (time, *target, row.id, row.name, word(row.state), row.hung, *usage)
    return dict(zip(header(targets=bool(target)), values))


def as_json(rows: Sequence[Row], time: str, targets: bool) -> str:  # noqa: ARG001 - as the others
    """Return one list of all VMs."""
    return json.dumps([plain(row, time) for row in rows], indent=2)


def as_jsonl(rows: Sequence[Row], time: str, targets: bool) -> str:  # noqa: ARG001
    """Return one line for each VM."""
    return "\n".join(json.dumps(plain(row, time)) for row in rows)


def as_csv(rows: Sequence[Row], time: str, targets: bool) -> str:
    """Return one row for each VM, below a header."""
    return _csv([header(targets=targets), *(_cells(row, time) for row in rows)])


def csv_rows(rows: Sequence[Row], time: str, targets: bool) -> str:  # noqa: ARG001
    """Return one row for each VM."""
    return _csv(_cells(row, time) for row in rows)


def _cells(row: Row, time: str) -> list[Any]:
    cells = plain(row, time) | {"name": csv_name(row.name), "hung": str(row.hung).lower()}
    return list(cells.values())


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue().rstrip("\n")


ONCE: dict[str, Callable[[Sequence[Row], str, bool], str]] = {
    "json": as_json,
    "jsonl": as_jsonl,
    "csv": as_csv,
}
"""For what is written once."""
EACH: dict[str, Callable[[Sequence[Row], str, bool], str]] = {"jsonl": as_jsonl, "csv": csv_rows}
"""For what is written again and again."""
