"""The command itself: its options, and its way through the parts beside it."""

from __future__ import annotations

import sys

import click
from rich.console import Console

from virtmeter.cli import connection
from virtmeter.cli.selection import select
from virtmeter.cli.stats import formats, table
from virtmeter.cli.stats.readings import Reading, read_all
from virtmeter.cli.text import natural, say

FORMATS = {"json": formats.as_json, "jsonl": formats.as_jsonl, "csv": formats.as_csv}

ENDLESS = 1 << 16


@click.command()
@click.argument("wanted", metavar="[INSTANCE]...", nargs=-1)
@click.option("--all", "stopped", is_flag=True, help="Show VMs that are shut off, too.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", *FORMATS]),
    default="table",
    show_default=True,
    help="What to print: for people, or for programs, with every value.",
)
@connection.connects
def stats(
    wanted: tuple[str, ...], stopped: bool, form: str, uri: str, timeout: float, workers: int
) -> int:
    """Show what every running VM has used, since it was started.

    INSTANCE is a UUID, a name or a pattern of names; without any, all are shown.

    \b
    Examples:
      virtmeter stats
      virtmeter stats web-1 'db-*'
      virtmeter stats --all --uri qemu:///system
      virtmeter stats --format json | jq '.[] | {name, memory_usage}'
    """
    with connection.inspector(uri, timeout, workers, report_stopped=True, quiet=True) as inspector:
        instances = select(inspector.list_instances(), wanted, stopped=stopped)
        readings = read_all(inspector, instances, workers)
    readings.sort(key=lambda reading: (natural(reading.instance.name), reading.instance.id))
    if form == "table":
        _print_table(readings, uri)
    elif text := FORMATS[form](readings):
        click.echo(text)
    troubled = [reading for reading in readings if reading.hung or reading.problem]
    for reading in troubled:
        say(_trouble(reading, timeout))
    return 1 if troubled else 0


def _print_table(readings: list[Reading], uri: str) -> None:
    """Print the table as wide as the terminal; without one, as wide as it is, and plain."""
    console = Console(highlight=False)
    room = console.width if sys.stdout.isatty() else None
    if room is None:
        console.width = ENDLESS
    console.print(table.shown(readings, uri, room))


def _trouble(reading: Reading, timeout: float) -> str:
    name = reading.instance.name
    if reading.hung:
        return (
            f"{name} hangs: it did not answer within {timeout:g} s, so nothing is known of its "
            "memory and disks; look at its QEMU process and storage"
        )
    return f"{name}: {reading.problem}"
