"""The command itself: its options, and its way through the parts beside it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from rich.console import Console

from virtmeter.cli import connection, fleet, kinds
from virtmeter.cli.watch import formats, lines, screen
from virtmeter.cli.watch.model import Model, NoneReadError, Watched

if TYPE_CHECKING:
    from virtmeter.cli.targets import Target

INTERVAL = 2.0
"""Seconds, where the hypervisor has something new by then."""


@click.command()
@click.argument("wanted", metavar="[INSTANCE]...", nargs=-1)
@click.option(
    "--interval",
    type=connection.Seconds(0.1),
    metavar="SECONDS",
    help=f"Time between two readings.  [default: {INTERVAL:g}; "
    + ", ".join(f"with {kinds.NAMES[kind]} {after:g}" for kind, after in kinds.NEW_AFTER.items())
    + ", as there are no new values before]",
)
@click.option(
    "--count", type=click.IntRange(min=1), metavar="N", help="Quit after this many readings."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", *formats.EACH]),
    default="table",
    show_default=True,
    help="Output format: a table for people, or every value for programs.",
)
@fleet.reads
def watch(
    wanted: tuple[str, ...],
    interval: float | None,
    count: int | None,
    form: str,
    targets: list[Target],
) -> int:
    """Show live what every running VM uses. Press ? for the keys, q to quit.

    INSTANCE is a UUID, a name or a name pattern; by default, all VMs are shown.
    If standard output is not a terminal, and in the formats for programs, there is one line per VM
    and reading.

    \b
    Examples:
      virtmeter watch
      virtmeter watch 'db-*' --interval 5
      virtmeter watch --targets /etc/virtmeter/targets.toml
      virtmeter watch --interval 60 >> usage.log
      virtmeter watch --format jsonl | jq -c '{time, name, cpu_utilization}'
    """
    console = Console(highlight=False)
    model = Model(
        wanted, [Watched(each.name, each.uri, interval_of(each, interval)) for each in targets]
    )
    try:
        with fleet.opened(targets) as sources:
            if form == "table" and sys.stdout.isatty() and not console.is_dumb_terminal:
                return screen.show(console, sources, model, count=count)
            return lines.show(sources, model, form=form, count=count)
    except NoneReadError as error:
        fleet.tell(error.failed)
        return fleet.status(error.failed, len(targets))


def interval_of(target: Target, wanted: float | None) -> float:
    """Return the seconds between two readings of a target.

    If there are several, none of them is read again before it has new values.
    """
    if wanted is None or target.name:
        return max(wanted or INTERVAL, kinds.new_after(target.uri))
    return wanted
