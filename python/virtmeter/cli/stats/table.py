"""Readings for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

from rich.console import Group
from rich.text import Text

import virtmeter
from virtmeter.cli import balloon, kinds, states, tables, units
from virtmeter.cli.stats.formats import total
from virtmeter.cli.text import counted, printable, shown_uri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from virtmeter.cli.stats.readings import Reading
    from virtmeter.cli.targets import Target

Column = tables.Column["Reading"]

SINCE_NOW = (
    "vSphere knows an hour: CPU time, NICs and disks of VMs that were started before are 0 here.\n"
    "What VMs use is shown by 'virtmeter stats --interval 25' and 'virtmeter watch'."
)


def shown(
    readings: Sequence[Reading], targets: Sequence[Target], read: int, width: int | None
) -> RenderableType:
    """Return a line about the targets, and the table as wide as this, or as it has to be.

    :param read: how many of the targets could be read.
    """
    what = states.told([(reading.state, reading.hung) for reading in readings])
    title = Text(f"{what} at {place(targets, read)}", style="dim")
    if not readings:
        return title
    # Why a VM does not run matters where there is one.
    columns = [column for column in COLUMNS if column is not WHY or any(map(_why, readings))]
    if targets[0].name:
        columns.insert(0, TARGET)
    table = tables.table(tables.fitting(columns, readings, width), readings)
    is_old = any(balloon.is_old(reading.stats.memory_updated) for reading in readings)
    legend = [Text(balloon.LEGEND, style="dim")] if is_old else []
    if any(target.kind == kinds.VSPHERE for target in targets):
        legend.append(Text(SINCE_NOW, style="dim"))
    return Group(title, Text(), table, *legend)


def place(targets: Sequence[Target], read: int) -> str:
    """Return what was read: a URI, or how many targets."""
    if not targets[0].name:
        return shown_uri(targets[0].uri)
    if read < len(targets):
        return f"{read} of {counted(len(targets), 'target')}"
    return counted(read, "target")


def _mebibytes(field: str) -> Callable[[Reading], str]:
    def cell(reading: Reading) -> str:
        value = getattr(reading.stats, field)
        return units.size(None if value is None else value * units.MIB)

    return cell


def _told_by_guest(field: str) -> Callable[[Reading], str]:
    size = _mebibytes(field)
    return lambda reading: balloon.marked(size(reading), reading.stats.memory_updated)


def _sum(
    devices: str, field: str, unit: Callable[[float | None], str] = units.size
) -> Callable[[Reading], str]:
    """Return what tells of one value of all NICs, disks, or sizes of disks."""
    return lambda reading: unit(total(reading, devices, field))


def _cpu_time(reading: Reading) -> str:
    nanoseconds = reading.stats.cpu_time
    return units.duration(None if nanoseconds is None else nanoseconds / 1e9)


def _memory_of(reading: Reading) -> str:
    """Return what its kernel sees, a part of which is used, or else what it was given.

    XenServer does not tell the former: what is used there is a part of what was given.
    """
    if reading.stats.memory_usage is not None and reading.stats.memory_available is not None:
        return _told_by_guest("memory_available")(reading)
    given = reading.stats.memory_actual
    if given is None and reading.details:
        given = reading.details.memory_configured
    return units.size(None if given is None else given * units.MIB)


def _why(reading: Reading) -> str:
    """Return why it is in its state, unless it runs."""
    reason = reading.details and reading.details.reason
    return "" if reading.state == virtmeter.PowerState.RUNNING else reason or ""


def _state(reading: Reading) -> Text:
    return states.cell(reading.state, hung=reading.hung, busy=reading.busy)


TARGET = Column("\ntarget", lambda reading: reading.target, left=True, is_name=True)
WHY = Column("\nwhy", _why, left=True, spare=1)

COLUMNS = (
    Column("\nVM", lambda reading: printable(reading.instance.name), left=True, is_name=True),
    Column("\nstate", _state, left=True, width=7),
    WHY,
    Column("\nvCPUs", lambda reading: units.number(reading.stats.cpu_number), spare=3),
    Column("CPU\ntime", _cpu_time, width=6),
    Column("memory\nused", _told_by_guest("memory_usage")),
    Column("\nof", _memory_of, spare=2),
    Column("on host\nresident", _mebibytes("memory_resident"), spare=6),
    Column("NICs\nin", _sum("nics", "rx_bytes"), spare=1),
    Column("\nout", _sum("nics", "tx_bytes"), spare=1),
    Column("disks\nread", _sum("disks", "read_bytes")),
    Column("\nwrite", _sum("disks", "write_bytes")),
    Column("\nreads", _sum("disks", "read_requests", units.number), spare=5),
    Column("\nwrites", _sum("disks", "write_requests", units.number), spare=5),
    Column("\nsize", _sum("sizes", "capacity"), spare=4),
    Column("\nused", _sum("sizes", "occupied"), spare=4),
)
