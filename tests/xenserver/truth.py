"""What the VMs of a recording really used, between the ends of rows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from tests.support.xapi.recording import recording

if TYPE_CHECKING:
    from tests.support.xapi import Pool
    from virtmeter import VmUsage

# Of the sources of a VM, those that add up to what is told of it.
PARTS = {
    "cpu": r"cpu\d+",
    "received": r"vif_\d+_rx",
    "sent": r"vif_\d+_tx",
    "read": r"vbd_[a-z]+_read",
    "written": r"vbd_[a-z]+_write",
}


class Used(NamedTuple):
    """CPU in seconds, and bytes."""

    cpu: float = 0.0
    received: float = 0.0
    sent: float = 0.0
    read: float = 0.0
    written: float = 0.0

    def plus(self, other: Used) -> Used:
        return Used(*(one + more for one, more in zip(self, other)))

    def errors(self, truth: Used) -> dict[str, float]:
        """Return by how much each differs from the truth, where something was used at all."""
        both = zip(self._fields, self, truth)
        return {name: told / true - 1 for name, told, true in both if true > 1e-3}


def used(usage: VmUsage) -> Used:
    """Return what a usage says."""
    cpu = 0.0
    if usage.cpu_utilization is not None:
        assert usage.cpu_number is not None
        assert usage.cpu_interval is not None
        cpu = usage.cpu_utilization / 100 * usage.cpu_number * usage.cpu_interval
    kib = (
        usage.network_read_kib,
        usage.network_write_kib,
        usage.disk_read_kib,
        usage.disk_write_kib,
    )
    return Used(cpu, *((value or 0.0) * 1024 for value in kib))


def grown(pool: Pool, letter: str, begin: int, end: int) -> Used:
    """Return what a VM used between the ends of two rows; a counter that has begun anew counts."""
    recorded = recording(pool.name)
    sums = dict.fromkeys(PARTS, 0.0)
    for (uuid, name), truth in recorded.truths.items():
        part = next((part for part, names in PARTS.items() if re.fullmatch(names, name)), None)
        if uuid != recorded.vms[letter] or part is None:
            continue
        before = 0.0
        for time, value in zip(truth.times, truth.values):
            if begin < time <= end:
                sums[part] += value - before if value >= before else value
            if time <= end:
                before = value
    return Used(**sums)
