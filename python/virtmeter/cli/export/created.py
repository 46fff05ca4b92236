"""When counters began, as far as passes have seen it: OpenMetrics' created timestamps. Pure.

Prometheus takes a counter for 0 at that time, so that nothing is lost of one that began anew. For
that, the time must lie after the last scrape that was told the counter before, and ahead of the
first one that is told this; else something would count twice. So it is between the pass that first
reads the new counter and the pass before, however long ago the old one was last read. For the same
reason it is told no more once the VM has another name, and the counter another series.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from virtmeter import (
    DiskStats,
    InstanceDetails,
    InstanceStats,
    InterfaceStats,
    PowerState,
    VcpuStats,
)
from virtmeter.cli.export import tables

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from virtmeter import Instance
    from virtmeter.cli.export.known import Known

Device = tuple[str, ...]
"""The labels of a device beside those of its VM, its name at first; none for the VM itself."""
Key = tuple[str, type, Device]
"""What counters are of: a VM by its UUID, a type of record, and a device."""

COUNTED = {
    "inspect_instance": InstanceStats,
    "inspect_vnics": InterfaceStats,
    "inspect_disks": DiskStats,
    "inspect_details": VcpuStats,
}
"""The records with counters, by the methods that read them."""


class Count(NamedTuple):
    """The counters of a device at their last reading."""

    start: int | None
    """The number of its VM's start; None where it is not known that they began at one."""
    created: float | None
    """When they began, seconds since the epoch; None where that was not seen."""
    is_told: bool = True
    """False while the hypervisor refuses to tell of a device that is there."""


Counts = tuple[tuple[Device, Count], ...]
"""The counters of all devices, as of the last reading."""


class Vm:
    """What is known of a VM since it was first listed as running."""

    __slots__ = ("began", "counts", "name", "start")

    def __init__(self, name: str, began: float | None) -> None:
        """Begin without a reading.

        :param name: as it was last listed.
        :param began: when it was started, or came to this host; None where that was not seen.
        """
        self.name = name
        self.start: int | None = None
        """The number of its start."""
        self.began = began
        self.counts: dict[type, Counts] = {}
        """By the types of records."""

    def rename(self, name: str) -> None:
        """Take another name: what was told under the old one does not begin with that."""
        self.name = name
        if self.counts:  # what was told before may no longer be known
            self.began = None
        for kind, counts in self.counts.items():
            self.counts[kind] = tuple(
                (device, count._replace(created=None)) for device, count in counts
            )


class Created:
    """What the passes have seen of all VMs."""

    def __init__(self) -> None:
        """Begin before the first pass."""
        self._vms: dict[str, Vm] | None = None
        self._alike: dict[Counts, Counts] = {}
        """Those of this pass that are new: most VMs have the same."""

    def list(self, listed: Iterable[Instance], between: float | None) -> None:
        """Take the list of all VMs, wanted or not.

        :param between: a time after the pass before this one, and before this one; None if this is
            the first, which sees nothing begin.
        """
        known, began = self._vms or {}, None if self._vms is None else between
        running = {each.id: each.name for each in listed if each.state != PowerState.SHUTOFF}
        # What is the same stays where it is in memory, between much that comes and goes.
        self._vms = {uuid: vm for uuid, vm in known.items() if uuid in running}
        for uuid, vm in self._vms.items():
            if vm.name != running[uuid]:
                vm.rename(running[uuid])
        new = running.keys() - known.keys()
        self._vms.update((uuid, Vm(running[uuid], began)) for uuid in new)
        self._alike = {}

    def read(
        self,
        instance: Instance,
        method: str,
        answer: Any,  # noqa: ANN401 - a method's own
        records: Sequence[Any],
        between: float | None,
        known: Known | None,
    ) -> Iterator[tuple[Key, float]]:
        """Take a reading of a VM, and yield when its counters began, of those that are known.

        :param records: those of the answer that are wanted.
        :param between: as above.
        :param known: what was told of the VM before this.
        """
        vm = (self._vms or {}).get(instance.id)
        kind = COUNTED.get(method)
        if isinstance(answer, InstanceDetails):
            records = [each for each in records if isinstance(each, VcpuStats)]
            if not records:
                return  # the vCPUs are not wanted, or not told
        if vm is None or kind is None:
            return
        counts = vm.counts.get(kind)
        last = None if counts is None else dict(counts)
        now: dict[Device, Count] = {}
        for record in records:
            device = tables.device(record)
            start = answer.start if kind is VcpuStats else record.start
            now.setdefault(device, _count(vm, last, (kind, device), start, between, known))
        for device, count in now.items():
            if count.created is not None:
                yield (instance.id, kind, device), count.created
        for device, count in (last or {}).items():
            if device not in now and device and device[0] in (_plugged(kind, known) or ()):
                now[device] = count._replace(is_told=False)
        told = tuple(now.items())
        if told != counts:
            vm.counts[kind] = self._alike.setdefault(told, told)


def _count(
    vm: Vm,
    last: Mapping[Device, Count] | None,
    counted: tuple[type, Device],
    start: int | None,
    between: float | None,
    known: Known | None,
) -> Count:
    if start is None:
        return Count(None, None)
    if start != vm.start:
        vm.began = vm.began if vm.start is None else between
        vm.start = start
    kind, device = counted
    before = None if last is None else last.get(device)
    if before is not None and before.is_told:
        return _next(before, start, between)
    plugged = _plugged(kind, known)
    if plugged is not None and device[0] not in plugged:
        return Count(start, between)
    if before is not None:
        return _next(before, start, between)
    if last is None or plugged is not None:
        return Count(start, vm.began)  # it was there, but never told
    is_anew = any(count.start not in (start, None) for count in last.values())
    return Count(start, between if is_anew else None)


def _next(before: Count, start: int, between: float | None) -> Count:
    if before.start == start and before.is_told:
        return before
    return Count(start, before.created if before.start in (start, None) else between)


def _plugged(kind: type, known: Known | None) -> Collection[str] | None:
    """Return the names of the devices that are plugged in; None where there is no telling."""
    if known is None:
        return None
    if kind is InterfaceStats:
        return known.nics
    if kind is DiskStats:
        return known.disks
    if kind is VcpuStats:
        return known.vcpus or None
    return None
