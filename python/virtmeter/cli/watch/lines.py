"""The watch without a terminal: one line for each VM and interval."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from virtmeter.cli import balloon, states, units
from virtmeter.cli.text import printable, say
from virtmeter.cli.watch.readings import pause, take

if TYPE_CHECKING:
    from virtmeter import LibvirtInspector
    from virtmeter.cli.watch.model import Model, Row

AWAKE = 0.1
LAYOUT = "{:<19}  {:<8}" + " {:>6}" * 7 + " {:>7}" * 3 + " {:>8}  {}"
HEADER = LAYOUT.format(
    *("time", "state", "CPU%", "wait%", "steal%", "memory", "of"),
    *("in/s", "out/s", "read/s", "write/s", "reads/s", "writes/s", "VM"),
)


def show(inspector: LibvirtInspector, model: Model, *, interval: float, count: int | None) -> int:
    """Print until there were so many readings, or for ever; return the exit status."""
    while True:
        begun = time.monotonic()
        first, outage = model.taken is None, model.outage
        model.update(take(inspector))
        if first:
            click.echo(HEADER)
        if not model.outage:
            now = time.strftime("%Y-%m-%dT%H:%M:%S")
            for row in model.shown():
                click.echo(line(now, row))
        elif not outage:
            say(model.outage)
        if count is not None and (count := count - 1) <= 0:
            return 0
        # Python may oversleep a Ctrl-C that comes just when it begins to sleep.
        while (left := pause(begun, interval)) > 0:
            time.sleep(min(left, AWAKE))


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
