"""The watch without a screen: one line for each VM and interval, for people or for programs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from virtmeter.cli import balloon, states, units
from virtmeter.cli.text import printable, say
from virtmeter.cli.watch import formats
from virtmeter.cli.watch.readings import sleep, take

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtmeter import Inspector
    from virtmeter.cli.watch.model import Model, Row

LAYOUT = "{:<19}  {:<8}" + " {:>6}" * 7 + " {:>7}" * 3 + " {:>8}  {}"
HEADER = LAYOUT.format(
    *("time", "state", "CPU%", "wait%", "steal%", "memory", "of"),
    *("in/s", "out/s", "read/s", "write/s", "reads/s", "writes/s", "VM"),
)

HEADERS = {"table": HEADER, "csv": ",".join(formats.FIELDS)}


def show(
    inspector: Inspector, model: Model, *, form: str, interval: float, count: int | None
) -> int:
    """Print until there were so many readings, or for ever; return the exit status.

    :param form: ``table``, or one of ``formats.EACH``.
    """
    while True:
        begun = time.monotonic()
        first, outage = model.taken is None, model.outage
        model.update(take(inspector, model.wanted))
        if first and (header := HEADERS.get(form)):
            click.echo(header)
        if not model.outage:
            write = formats.EACH.get(form, _lines)
            now = time.strftime("%Y-%m-%dT%H:%M:%S") if form == "table" else formats.now()
            if text := write(model.shown(), now):
                click.echo(text)
        elif not outage:
            say(model.outage)
        if count is not None and (count := count - 1) <= 0:
            return 0
        sleep(begun, interval)


def _lines(rows: Sequence[Row], now: str) -> str:
    return "\n".join(line(now, row) for row in rows)


def line(now: str, row: Row) -> str:
    """Return a line about one VM."""

    def of(name: str) -> float | None:
        return row.usage and getattr(row.usage, name)

    def size(kib: float | None) -> str:
        return units.size(None if kib is None else kib * units.KIB)

    return LAYOUT.format(
        now,
        states.cell(row.state, hung=row.hung, busy=row.busy).plain,
        *(units.percent(of(f"cpu_{name}")) for name in ("utilization", "wait", "steal")),
        balloon.marked(size(of("memory_used")), row.memory_updated),
        size(of("memory_total")),
        *(size(row.rate(f"network_{name}_kib")) for name in ("read", "write")),
        *(size(row.rate(f"disk_{name}_kib")) for name in ("read", "write")),
        *(units.number(row.rate(f"disk_{name}_requests")) for name in ("read", "write")),
        printable(row.name),
    )
