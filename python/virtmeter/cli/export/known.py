"""What is kept of each VM from pass to pass. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from virtmeter.cli.export.tables import DESCRIBED

if TYPE_CHECKING:
    from virtmeter import InstanceDetails


class Known(NamedTuple):
    """What a VM was when it last told its details, as far as it matters later."""

    described: tuple[str | None, ...] = (None,) * len(DESCRIBED)
    """The values of the labels DESCRIBED."""
    nics: tuple[str, ...] = ()
    """The names of those that are plugged in, as of what follows."""
    disks: tuple[str, ...] = ()
    vcpus: tuple[str, ...] = ()
    """None of them while the guest hangs."""

    @classmethod
    def of(cls, details: InstanceDetails) -> Known:
        """Return what is kept of these details."""
        return cls(
            (details.title, details.machine, details.manager, details.project, details.user),
            tuple(nic.name for nic in details.nics),
            tuple(disk.device for disk in details.disks),
            tuple(str(vcpu.number) for vcpu in details.vcpus),
        )
