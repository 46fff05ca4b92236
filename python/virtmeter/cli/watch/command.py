"""The command itself: its options, and its way through the parts beside it."""

from __future__ import annotations

import sys

import click
from rich.console import Console

from virtmeter.cli import connection, kinds
from virtmeter.cli.watch import formats, lines, screen
from virtmeter.cli.watch.model import BY_NAME, Model

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
@connection.connects
def watch(
    wanted: tuple[str, ...],
    interval: float | None,
    count: int | None,
    form: str,
    uri: str,
    timeout: float,
    workers: int,
) -> int:
    """Show live what every running VM uses. Press ? for the keys, q to quit.

    INSTANCE is a UUID, a name or a name pattern; by default, all VMs are shown.
    If standard output is not a terminal, and in the formats for programs, there is one line per VM
    and reading.

    \b
    Examples:
      virtmeter watch
      virtmeter watch 'db-*' --interval 5
      virtmeter watch --interval 60 >> usage.log
      virtmeter watch --format jsonl | jq -c '{time, name, cpu_utilization}'
    """
    if interval is None:
        interval = max(INTERVAL, kinds.new_after(uri))
    console = Console(highlight=False)
    model = Model(wanted)
    with connection.inspector(uri, timeout, workers, quiet=True) as inspector:
        if form == "table" and sys.stdout.isatty() and not console.is_dumb_terminal:
            return screen.show(console, inspector, model, interval=interval, count=count)
        model.order = BY_NAME
        return lines.show(inspector, model, form=form, interval=interval, count=count)
