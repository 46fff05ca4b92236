"""One reading of many VMs, several at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, TypeVar

import virtmeter
from virtmeter import InstanceStats
from virtmeter.cli import kinds, session, threads
from virtmeter.cli.connection import is_away
from virtmeter.cli.selection import is_wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtmeter import (
        DiskInfo,
        DiskStats,
        Inspector,
        Instance,
        InstanceDetails,
        InterfaceStats,
    )
    from virtmeter.cli.export.choice import Choice
    from virtmeter.cli.fleet import Source

Value = TypeVar("Value")
NOTHING = InstanceStats()


@dataclass
class Reading:
    """What is known of one VM; None is what could not be read, or what a VM that is off has not."""

    instance: Instance
    stats: InstanceStats = NOTHING
    nics: list[InterfaceStats] | None = None
    disks: list[DiskStats] | None = None
    sizes: list[DiskInfo] | None = None
    details: InstanceDetails | None = None
    hung: bool = False
    busy: bool = False
    problem: str | None = None
    target: str = ""
    """The name of its hypervisor, where there are several."""

    @property
    def state(self) -> int:
        """The state when it was read, or else when it was listed; a number of ``PowerState``."""
        state = self.stats.power_state
        return self.instance.state if state is None else state


def read_all(
    source: Source, wanted: Sequence[str], *, stopped: bool
) -> tuple[list[Instance], list[Reading]]:
    """Return the VMs of a target, and readings of those that are wanted, as ``is_wanted`` tells.

    Those that have gone away meanwhile are left out.

    The inspector can read ahead of a caller only from its second round on, in an order that it
    knows by then. Here is but one round, so there are as many callers as it has workers.
    """
    target, inspector = source.target, source.inspector
    listed = [each for each in inspector.list_instances() if target.choice.wants(each)]
    session.tell(target.uri, listed)
    instances = [each for each in listed if is_wanted(each, wanted, stopped=stopped)]
    if not (wanted or target.choice.vms or kinds.is_libvirt(target.uri)):
        inspector.list_hosts()  # all of them at once, and what is told of VMs comes from that
    came = threads.call_each(
        lambda each: _read(inspector, each, target.choice), instances, target.workers
    )
    readings = [reading for reading in came if reading is not None]
    health = inspector.health()
    for reading in readings:
        reading.hung = reading.instance.id in health.hung
        reading.busy = reading.instance.id in health.busy
        reading.target = target.name
    return listed, readings


def _read(inspector: Inspector, instance: Instance, choice: Choice) -> Reading | None:
    """Read one VM, as far as it can be read; None where there is none any more."""
    reading = Reading(instance)
    asked = choice.methods()

    def what(answer: Callable[[], Value]) -> Value | None:
        try:
            return answer()
        except virtmeter.InstanceShutOffException:
            return None
        except virtmeter.InstanceBusyException:
            return None
        except virtmeter.InstanceNotFoundException:
            raise
        except virtmeter.InspectorException as error:
            if is_away(inspector, error):
                raise
            reading.problem = reading.problem or str(error)
            return None

    try:
        # Always: which devices a sum is over, it tells.
        reading.details = what(lambda: inspector.inspect_details(instance))
        if "inspect_instance" in asked:
            stats = what(lambda: inspector.inspect_instance(instance))
            reading.stats = choice.narrowed(stats or NOTHING)
        if "inspect_vnics" in asked:
            reading.nics = what(lambda: list(inspector.inspect_vnics(instance)))
        if "inspect_disks" in asked:
            reading.disks = what(lambda: list(inspector.inspect_disks(instance)))
        if "inspect_disk_info" in asked:
            reading.sizes = what(lambda: list(inspector.inspect_disk_info(instance)))
    except virtmeter.InstanceNotFoundException:
        return None
    return reading
