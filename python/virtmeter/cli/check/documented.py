"""The differences that are on purpose: the rows of docs/parity.md that can be recognised."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virtmeter.cli.check.differences import Difference

TOTAL_TIMES = "counters of a disk without total times (LXC)"
UNSIGNED = "unsigned 32-bit parameters from 2^31"
REFUSED_DISK = "sizes of disks when libvirt refuses one of them"
REFUSED = "libvirt refuses state or XML of an instance that it knows (NICs, disks, disk info)"
BAD_XML = "XML that cannot be read, or is beyond the bounds in docs/architecture.md"
FILTER = "a network filter's parameter without a name"


def row(difference: Difference) -> str | None:
    """Return the row that a difference is, if it is one."""
    stock, ours = difference.stock, difference.ours
    if difference.field:
        if isinstance(stock, int) and isinstance(ours, int) and ours - stock == 2**32:
            return UNSIGNED
        return None
    failures = {
        ("inspect_disks", "KeyError", "records"): TOTAL_TIMES,
        ("inspect_vnics", "AttributeError", "records"): FILTER,
        ("inspect_disk_info", "libvirtError", "records"): REFUSED_DISK,
        ("inspect_disk_info", "libvirtError", "no device"): REFUSED_DISK,
    }
    if found := failures.get((difference.method, str(stock), str(ours))):
        return found
    if ours == "NoDataException":
        return {"libvirtError": REFUSED, "XMLSyntaxError": BAD_XML}.get(str(stock))
    return None
