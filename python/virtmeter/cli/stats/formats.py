"""Readings for other programs: every value as the library has it, in JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from virtmeter import DiskInfo, DiskStats, InstanceStats, InterfaceStats, NicDetails
from virtmeter.cli.states import word
from virtmeter.cli.text import escaped

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from virtmeter import InstanceDetails
    from virtmeter.cli.stats.readings import Reading

# What a second reading would tell, and there is but one; and what is told of the VM itself.
UNTOLD = ("rx_bytes_delta", "tx_bytes_delta", "start")
NIC_COUNTERS = tuple(name for name in InterfaceStats._fields[4:] if name not in UNTOLD)
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a formula begins with; the last four are full-width forms of the others."""
TOLD = ("state", "reason", "start")
CONFIGURED = ("memory_maximum", "memory_configured", "vcpus_maximum")
"""Of the details, what a row has."""
DISK_STATS = tuple(name for name in DiskStats._fields[1:] if name not in UNTOLD)
DISK_COUNTERS = (*DISK_STATS, *DiskInfo._fields[1:])


def as_json(readings: Sequence[Reading], targets: bool) -> str:  # noqa: ARG001 - as the others
    """Return one list of all VMs."""
    return json.dumps([plain(reading) for reading in readings], indent=2)


def as_jsonl(readings: Sequence[Reading], targets: bool) -> str:  # noqa: ARG001
    """Return one line for each VM."""
    return "\n".join(json.dumps(plain(reading)) for reading in readings)


def as_csv(readings: Sequence[Reading], targets: bool) -> str:
    """Return one row for each VM, with sums over its NICs and its disks.

    :param targets: whether the first field is the VM's target.
    """
    stats = InstanceStats._fields
    header = [
        *(["target"] if targets else []),
        *("id", "name", "state", "reason", "hung", *stats, *CONFIGURED),
        *("nics", *(f"nic_{name}" for name in NIC_COUNTERS)),
        *("disks", *(f"disk_{name}" for name in DISK_COUNTERS)),
    ]
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(header)
    for reading in readings:
        one = plain(reading)
        nics, disks = one["nics"], one["disks"]
        name, hung = csv_name(one["name"]), str(one["hung"]).lower()
        details = one["details"] or {}
        rows.writerow(
            [
                *([reading.target] if targets else []),
                *(one["id"], name, one["state"], one["reason"], hung),
                *(one[field] for field in stats),
                *(details.get(field) for field in CONFIGURED),
                *(_count(nics), *(total(reading, "nics", field) for field in NIC_COUNTERS)),
                _count(disks),
                *(total(reading, "disks", field) for field in DISK_STATS),
                *(total(reading, "sizes", field) for field in DiskInfo._fields[1:]),
            ]
        )
    return file.getvalue().rstrip("\n")


def plain(reading: Reading) -> dict[str, Any]:
    """Return a reading as dictionaries, lists, strings, numbers and None."""
    return {
        **({"target": reading.target} if reading.target else {}),
        "id": reading.instance.id,
        "name": reading.instance.name,
        "state": word(reading.state),
        "reason": reading.details and reading.details.reason,
        "hung": reading.hung,
        **_known(reading.stats._asdict()),
        "start": reading.stats.start,
        "nics": _nics(reading.nics),
        "disks": _disks(reading.disks, reading.sizes),
        "details": _details(reading.details),
    }


def _details(details: InstanceDetails | None) -> dict[str, Any] | None:
    """Return what it is, but its state and its reason, which are told already."""
    if details is None:
        return None
    known = {name: value for name, value in details._asdict().items() if name not in TOLD}
    for devices in ("vcpus", "disks", "nics"):
        known[devices] = [each._asdict() for each in known[devices]]
    return known


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """Return them with None for -1, which stands for what is not counted."""
    told = ((name, value) for name, value in values.items() if name not in UNTOLD)
    return {name: None if value == -1 else value for name, value in told}


def total(reading: Reading, devices: str, field: str) -> int | None:
    """Return the sum of one value of all NICs, disks, or sizes of disks.

    None where it is not known of each: one is refused, or not counted (-1).
    NICs that are handed through and not counted are no part of it, as in usage.
    """
    told = [each for each in getattr(reading, devices) or () if not _is_uncounted(each)]
    values = [getattr(each, field) for each in told]
    if field == "occupied":  # only files take up any
        values = [value for value in values if value is not None]
    name = "name" if devices == "nics" else "device"
    missing = _described(reading, devices) - Counter(getattr(each, name) for each in told)
    return sum(values) if values and not missing and not {None, -1} & {*values} else None


def _described(reading: Reading, devices: str) -> Counter[str]:
    """Return the names of what the XML describes of what libvirt can tell of: no empty drives.

    Without the XML, nobody knows whether something is missing.
    """
    if reading.details is None:
        return Counter(["?"])
    if devices == "nics":
        nics = reading.details.nics
        return Counter(nic.name for nic in nics if nic.mac and not _is_handed_through(nic))
    return Counter(disk.device for disk in reading.details.disks if disk.source is not None)


def _is_uncounted(device: object) -> bool:
    """Return whether it is a NIC that is handed through, and nobody counts what it does."""
    counters = (device.rx_bytes, device.tx_bytes) if isinstance(device, InterfaceStats) else ()
    return _is_handed_through(device) and not any(value >= 0 for value in counters)


def _is_handed_through(device: object) -> bool:
    """Return whether it is a NIC that has its MAC address for a name, having none on the host."""
    return isinstance(device, (InterfaceStats, NicDetails)) and device.name == device.mac


def csv_name(name: str) -> str:
    """Return a name that no spreadsheet takes for a formula."""
    return f"'{escaped(name)}" if name.startswith(FORMULA) else escaped(name)


def _nics(nics: Iterable[InterfaceStats] | None) -> list[dict[str, Any]] | None:
    if nics is None:
        return None
    return [_known(nic._asdict()) for nic in nics]


def _disks(
    disks: list[DiskStats] | None, sizes: list[DiskInfo] | None
) -> list[dict[str, Any]] | None:
    """Return counters and sizes of each disk; of some there may be but one of the two."""
    if disks is None and sizes is None:
        return None
    merged: dict[tuple[str, int], dict[str, Any]] = {}
    for records in (disks or (), sizes or ()):
        seen: Counter[str] = Counter()  # two of one name stay two
        for disk in records:
            seen[disk.device] += 1
            nothing = {"device": disk.device, **dict.fromkeys(DISK_COUNTERS)}
            merged.setdefault((disk.device, seen[disk.device]), nothing).update(
                _known(disk._asdict())
            )
    return list(merged.values())


def _count(devices: list[dict[str, Any]] | None) -> int | None:
    return None if devices is None else len(devices)
