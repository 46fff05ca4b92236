"""The command itself: its options, and its way through the parts beside it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Callable

import click
from rich.console import Console

from virtmeter.cli import connection, kinds, session
from virtmeter.cli.selection import select
from virtmeter.cli.stats import formats, table, usage
from virtmeter.cli.stats.readings import read_all
from virtmeter.cli.text import natural, say
from virtmeter.cli.watch import formats as formats_of_usage

if TYPE_CHECKING:
    from rich.console import RenderableType

FORMATS = {"json": formats.as_json, "jsonl": formats.as_jsonl, "csv": formats.as_csv}

ENDLESS = 1 << 16


@click.command()
@click.argument("wanted", metavar="[INSTANCE]...", nargs=-1)
@click.option("--all", "stopped", is_flag=True, help="Also show VMs that are shut off.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", *FORMATS]),
    default="table",
    show_default=True,
    help="Output format: a table for people, or every value for programs.",
)
@click.option(
    "--interval",
    type=connection.Seconds(0.1),
    metavar="SECONDS",
    help="Show usage over this many seconds from now instead.",
)
@connection.connects
def stats(
    wanted: tuple[str, ...],
    stopped: bool,
    form: str,
    interval: float | None,
    uri: str,
    timeout: float,
    workers: int,
) -> int:
    """Show what every running VM has used, since it was started or within an interval.

    INSTANCE is a UUID, a name or a name pattern; by default, all VMs are shown.

    \b
    Examples:
      virtmeter stats
      virtmeter stats web-1 'db-*'
      virtmeter stats --interval 10
      virtmeter stats --all --uri qemu:///system
      virtmeter stats --format json | jq '.[] | {name, memory_usage}'
    """
    if interval is not None:
        if stopped:
            raise click.UsageError(
                "VMs that are shut off use nothing: leave out --all or --interval"
            )
        if interval < (least := kinds.new_after(uri)):
            raise click.UsageError(
                f"{kinds.name(uri)} has new values every {kinds.NEW_EVERY[kinds.kind(uri)]} s: "
                f"give --interval {least:g} or more"
            )
        return _usage(wanted, form, interval, uri, timeout, workers)
    with connection.inspector(
        uri, timeout, workers, report_stopped=True, quiet=True, tells_vms=True
    ) as inspector:
        listed = inspector.list_instances()
        session.tell(uri, listed)
        instances = select(listed, wanted, stopped=stopped)
        if not wanted and not kinds.is_libvirt(uri):
            inspector.list_hosts()  # all of them at once, and what is told of VMs comes from that
        readings = read_all(inspector, instances, workers)
    readings.sort(key=lambda reading: (natural(reading.instance.name), reading.instance.id))
    if form == "table":
        _print_table(lambda width: table.shown(readings, uri, width))
    elif text := FORMATS[form](readings):
        click.echo(text)
    troubled = [reading for reading in readings if reading.hung or reading.problem]
    for reading in troubled:
        name = reading.instance.name
        say(_hangs(name, timeout) if reading.hung else f"{name}: {reading.problem}")
    return 1 if troubled else 0


def _usage(
    wanted: tuple[str, ...], form: str, interval: float, uri: str, timeout: float, workers: int
) -> int:
    """Show what is used within an interval; the core has said which VM could not be read."""
    with connection.inspector(uri, timeout, workers, quiet=True) as inspector:
        rows = usage.over(inspector, wanted, interval)
    if form == "table":
        _print_table(lambda width: usage.shown(rows, uri, interval, width))
    elif text := formats_of_usage.ONCE[form](rows, formats_of_usage.now()):
        click.echo(text)
    for row in rows:
        if row.hung:
            say(_hangs(row.name, timeout))
    return int(any(row.hung or (row.usage is None and not row.busy) for row in rows))


def _print_table(shown: Callable[[int | None], RenderableType]) -> None:
    """Print the table as wide as the terminal; without one, as wide as it is, and plain."""
    console = Console(highlight=False)
    room = console.width if sys.stdout.isatty() else None
    if room is None:
        console.width = ENDLESS
    console.print(shown(room))


def _hangs(name: str, timeout: float) -> str:
    return (
        f"{name} hangs: it did not answer within {timeout:g} s, so its memory and disks are "
        "unknown; check its QEMU process and storage"
    )
