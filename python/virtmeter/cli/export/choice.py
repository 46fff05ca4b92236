"""Which VMs a pass reads and what of them: what is not wanted is not asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from virtmeter.cli.selection import is_wanted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from virtmeter import Instance, InstanceStats


class Part(NamedTuple):
    """Something to be read of each VM."""

    method: str
    """The inspector's method that reads it; several parts may have the same."""
    by_default: bool = True


PARTS = {
    "cpu": Part("inspect_instance"),
    "memory": Part("inspect_instance"),
    "nics": Part("inspect_vnics"),
    "disks": Part("inspect_disks"),
    "disk-sizes": Part("inspect_disk_info"),
    "metadata": Part("list_servers"),
    "details": Part("inspect_details"),
    "vcpus": Part("inspect_details", by_default=False),
    "jobs": Part("inspect_job", by_default=False),
    "io-threads": Part("inspect_io_threads", by_default=False),
    "dirty-rate": Part("inspect_dirty_rate", by_default=False),
}
"""By the names that ``--collect`` and ``--no-collect`` take, in the order of reading."""

BY_DEFAULT = frozenset(name for name, part in PARTS.items() if part.by_default)


class Choice(NamedTuple):
    """What the command line asks for."""

    parts: frozenset[str] = BY_DEFAULT
    vms: tuple[str, ...] = ()
    """UUIDs, names and patterns of names; nothing is all."""

    def methods(self) -> list[str]:
        """Return what to call of the inspector, in order."""
        return list(dict.fromkeys(PARTS[each].method for each in PARTS if each in self.parts))

    def wants(self, instance: Instance) -> bool:
        """Return whether it is one of these VMs, running or not."""
        return is_wanted(instance, self.vms, stopped=True)

    def missing(self, instances: Iterable[Instance]) -> set[str]:
        """Return what names no VM."""
        listed = list(instances)
        return {
            each
            for each in self.vms
            if not any(is_wanted(instance, (each,), stopped=True) for instance in listed)
        }

    def records(self, method: str, answer: Any) -> list[Any]:  # noqa: ANN401 - a method's own
        """Return the records of an answer that are wanted."""
        if answer is None:  # no job, no rate that was measured
            return []
        if method == "inspect_details":
            details = [answer] if "details" in self.parts else []
            return [*details, *(answer.vcpus if "vcpus" in self.parts else ())]
        if method == "inspect_instance":
            return [self.narrowed(answer)]
        return [answer] if isinstance(answer, tuple) else list(answer)

    def narrowed(self, stats: InstanceStats) -> InstanceStats:
        """Return what one method reads of two parts, without the part that is not wanted."""
        if self.parts >= {"cpu", "memory"}:
            return stats
        unwanted = (
            field
            for field in stats._fields[1:]  # the first is the state
            if ("memory" if field.startswith("memory_") else "cpu") not in self.parts
        )
        return stats._replace(**dict.fromkeys(unwanted))
