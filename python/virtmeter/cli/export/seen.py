"""Counters of XenServer's, since this exporter has seen them. Pure.

XenServer's are told as its exact counters, read once, and what its averages add up to after that.
An exporter that is started anew reads the exact ones again, and these may be a little less than
what it said last: the averages have but a few digits. Prometheus would take that for a new start,
and the whole counter for what was used in a moment. So what a counter said first is taken from it,
unless it was seen to begin: Prometheus sees it begin at 0 each time, which costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from virtmeter import DiskStats, InstanceStats, InterfaceStats
from virtmeter.cli.export.tables import TABLES, device

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from virtmeter.cli.export.created import Key

KINDS = (InstanceStats, InterfaceStats, DiskStats)
FIELDS = {kind: tuple(field.field for field in TABLES[kind][0] if field.begins) for kind in KINDS}


class First(NamedTuple):
    """What the counters of a record said first, since that start."""

    start: int | None
    values: tuple[int | None, ...]
    """By the fields, in order; None of those that were not told yet."""


class Seen:
    """What counters said first, by the VMs that are there."""

    def __init__(self) -> None:
        """Begin without any."""
        self._vms: dict[str, dict[Key, First]] = {}

    def keep(self, ids: Collection[str]) -> None:
        """Forget those that are not running any more."""
        self._vms = {id_: said for id_, said in self._vms.items() if id_ in ids}

    def since(self, uuid: str, records: Sequence[Any], begun: Collection[Key]) -> list[Any]:
        """Return the records with what was counted since they were first seen.

        :param begun: of which counters it was seen that they began.
        """
        return [
            self._since(uuid, record, begun) if isinstance(record, KINDS) else record
            for record in records
        ]

    def _since(self, uuid: str, record: Any, begun: Collection[Key]) -> Any:  # noqa: ANN401
        key = (uuid, type(record), device(record))
        if key in begun:
            return record
        vm, fields = self._vms.setdefault(uuid, {}), FIELDS[type(record)]
        first = vm.get(key)
        if first is None or first.start != record.start:
            first = First(record.start, (None,) * len(fields))
        values, told = [*first.values], {}
        for n, field in enumerate(fields):
            value = getattr(record, field)
            if value is not None and value >= 0:
                before = values[n]
                # It is less than that where a device was plugged in again.
                values[n] = value if before is None else min(value, before)
                told[field] = value - values[n]
        if key not in vm or tuple(values) != first.values:
            vm[key] = First(record.start, tuple(values))
        return record._replace(**told)
