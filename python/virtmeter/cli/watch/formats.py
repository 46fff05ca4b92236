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


def now() -> str:
    """Return the time of day as RFC 3339 has it, in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def plain(row: Row, time: str) -> dict[str, Any]:
    """Return what is known of a VM, by ``FIELDS``; None is what is not."""
    values = row.usage[2:] if row.usage else (None,) * len(USAGE)
    return dict(zip(FIELDS, (time, row.id, row.name, word(row.state), row.hung, *values)))


def as_json(rows: Sequence[Row], time: str) -> str:
    """Return one list of all VMs."""
    return json.dumps([plain(row, time) for row in rows], indent=2)


def as_jsonl(rows: Sequence[Row], time: str) -> str:
    """Return one line for each VM."""
    return "\n".join(json.dumps(plain(row, time)) for row in rows)


def as_csv(rows: Sequence[Row], time: str) -> str:
    """Return one row for each VM, below a header."""
    return _csv([FIELDS, *(_cells(row, time) for row in rows)])


def csv_rows(rows: Sequence[Row], time: str) -> str:
    """Return one row for each VM."""
    return _csv(_cells(row, time) for row in rows)


def _cells(row: Row, time: str) -> list[Any]:
    cells = plain(row, time) | {"name": csv_name(row.name), "hung": str(row.hung).lower()}
    return list(cells.values())


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue().rstrip("\n")


ONCE: dict[str, Callable[[Sequence[Row], str], str]] = {
    "json": as_json,
    "jsonl": as_jsonl,
    "csv": as_csv,
}
"""For what is written once."""
EACH: dict[str, Callable[[Sequence[Row], str], str]] = {"jsonl": as_jsonl, "csv": csv_rows}
"""For what is written again and again."""
