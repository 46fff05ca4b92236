"""The command itself: its options, and its way through the parts beside it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Callable

import click
from rich.console import Console

from virtmeter.cli import connection, fleet, kinds
from virtmeter.cli.selection import check
from virtmeter.cli.stats import formats, table, usage
from virtmeter.cli.stats.readings import read_all
from virtmeter.cli.text import natural, say
from virtmeter.cli.watch import formats as formats_of_usage

if TYPE_CHECKING:
    from rich.console import RenderableType

    from virtmeter.cli.targets import Target

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
@fleet.reads
def stats(
    wanted: tuple[str, ...],
    stopped: bool,
    form: str,
    interval: float | None,
    targets: list[Target],
) -> int:
    """Show what every running VM has used, since it was started or within an interval.

    INSTANCE is a UUID, a name or a name pattern; by default, all VMs are shown.

    \b
    Examples:
      virtmeter stats
      virtmeter stats web-1 'db-*'
      virtmeter stats --interval 10
      virtmeter stats --all --uri qemu:///system
      virtmeter stats --targets /etc/virtmeter/targets.toml
      virtmeter stats --format json | jq '.[] | {name, memory_usage}'
    """
    if interval is not None:
        if stopped:
            raise click.UsageError(
                "VMs that are shut off use nothing: leave out --all or --interval"
            )
        slowest = max(targets, key=lambda target: kinds.new_after(target.uri)).uri
        if interval < (least := kinds.new_after(slowest)):
            raise click.UsageError(
                f"{kinds.name(slowest)} has new values every "
                f"{kinds.NEW_EVERY[kinds.kind(slowest)]} s: give --interval {least:g} or more"
            )
        return _usage(wanted, form, interval, targets)
    with fleet.opened(targets, report_stopped=True, tells_vms=True) as sources:
        came, failed = fleet.ask(sources, lambda source: read_all(source, wanted, stopped=stopped))
    try:
        check([instance for listed, _ in came for instance in listed], wanted)
    except click.UsageError as error:
        if not failed:
            raise
        say(error.message)  # one that could not be read may have it
    readings = [reading for _, some in came for reading in some]
    readings.sort(
        key=lambda each: (natural(each.target), natural(each.instance.name), each.instance.id)
    )
    if form == "table" and came:
        _print_table(lambda width: table.shown(readings, targets, len(came), width))
    elif came and (text := FORMATS[form](readings, bool(targets[0].name))):
        click.echo(text)
    fleet.tell(failed)
    status = fleet.status(failed, len(targets))
    timeouts = {target.name: target.timeout for target in targets}
    for reading in readings:
        name = fleet.named(reading.target, reading.instance.name)
        if reading.hung:
            say(_hangs(name, timeouts[reading.target]))
        elif reading.problem:
            say(f"{name}: {reading.problem}")
        else:
            continue
        status = status or 1
    return status


def _usage(wanted: tuple[str, ...], form: str, interval: float, targets: list[Target]) -> int:
    """Show what is used within an interval; the core has said which VM could not be read."""
    with fleet.opened(targets) as sources:
        rows, is_missing, failed = usage.over(sources, wanted, interval)
    read = len(targets) - len(failed)
    if form == "table" and read:
        _print_table(lambda width: usage.shown(rows, targets, read, interval, width))
    elif read and (
        text := formats_of_usage.ONCE[form](
            rows, formats_of_usage.when(time.time()), bool(targets[0].name)
        )
    ):
        click.echo(text)
    fleet.tell(failed)
    status = fleet.status(failed, len(targets))
    timeouts = {target.name: target.timeout for target in targets}
    for row in rows:
        if row.hung:
            say(_hangs(fleet.named(row.target, row.name), timeouts[row.target]))
    return status or int(is_missing)


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
