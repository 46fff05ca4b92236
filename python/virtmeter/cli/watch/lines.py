"""The watch without a screen: one line for each VM and interval, for people or for programs."""

from __future__ import annotations

import queue
import time
from typing import TYPE_CHECKING

import click

from virtmeter.cli import balloon, fleet, states, threads, units
from virtmeter.cli.text import printable, say
from virtmeter.cli.watch import formats
from virtmeter.cli.watch.model import NoneReadError, name_of
from virtmeter.cli.watch.readings import followed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtmeter.cli.fleet import Source
    from virtmeter.cli.watch.model import Model, Row
    from virtmeter.cli.watch.readings import Snapshot

LAYOUT = "{:<19}  {}{:<8}" + " {:>6}" * 7 + " {:>7}" * 3 + " {:>8}  {}"
TITLES = (
    *("state", "CPU%", "wait%", "steal%", "memory", "of"),
    *("in/s", "out/s", "read/s", "write/s", "reads/s", "writes/s", "VM"),
)


def show(sources: Sequence[Source], model: Model, *, form: str, count: int | None) -> int:
    """Print until there were so many readings, or for ever; return the exit status.

    :param form: ``table``, or one of ``formats.EACH``.
    """
    wide = max(map(len, ("target", *model.watched))) if model.has_names else 0
    headers = {
        "table": LAYOUT.format("time", _padded("target", wide), *TITLES),
        "csv": ",".join(formats.header(targets=model.has_names)),
    }
    header = headers.get(form)
    # Who cannot print any more reads no more.
    came: queue.Queue[Snapshot] = queue.Queue(maxsize=1)
    with followed(sources, model, came.put):
        while True:
            snapshot = threads.get(came)
            watched = model.watched[snapshot.target]
            outage = watched.outage
            try:
                model.update(snapshot)
            except NoneReadError as error:
                say(fleet.named(watched.name, watched.outage))
                return fleet.status(error.failed, len(sources))
            if header and not watched.error:
                click.echo(header)
                header = None
            if watched.told or not watched.error:
                rows = sorted(watched.told, key=name_of)
                if text := _text(rows, snapshot.time, form, wide):
                    click.echo(text)
            if watched.error and not outage:
                say(fleet.named(watched.name, watched.outage))
            if model.is_complete(count):
                return model.status


def _text(rows: Sequence[Row], at: float, form: str, wide: int) -> str:
    if form in formats.EACH:
        return formats.EACH[form](rows, formats.when(at), bool(wide))
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at))
    return "\n".join(line(now, row, wide) for row in rows)


def _padded(target: str, wide: int) -> str:
    return f"{target:<{wide}}  " if wide else ""


def line(now: str, row: Row, wide: int = 0) -> str:
    """Return a line about one VM.

    :param wide: how wide the column of targets is, if there is one.
    """

    def of(name: str) -> float | None:
        return row.usage and getattr(row.usage, name)

    def size(kib: float | None) -> str:
        return units.size(None if kib is None else kib * units.KIB)

    return LAYOUT.format(
        now,
        _padded(row.target, wide),
        states.cell(row.state, hung=row.hung, busy=row.busy).plain,
        *(units.percent(of(f"cpu_{name}")) for name in ("utilization", "wait", "steal")),
        balloon.marked(size(of("memory_used")), row.memory_updated),
        size(of("memory_total")),
        *(size(row.rate(f"network_{name}_kib")) for name in ("read", "write")),
        *(size(row.rate(f"disk_{name}_kib")) for name in ("read", "write")),
        *(units.number(row.rate(f"disk_{name}_requests")) for name in ("read", "write")),
        printable(row.name),
    )
