"""The inspector as Ceilometer's compute agent wants it, over the native one.

It takes its options from the agent's configuration, and answers with the records and exceptions of
the Ceilometer release that it runs in.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ceilometer.compute.virt import inspector as virt_inspector
from ceilometer.compute.virt.libvirt import inspector as stock

import virtmeter
from virtmeter.ceilometer import options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oslo_config import cfg

# What each libvirt_type of any supported release connects to; all others to QEMU.
URIS = {
    "lxc": "lxc:///",
    "parallels": "parallels:///system",
    "uml": "uml:///system",
    "xen": "xen:///",
}
DEFAULT_URI = "qemu:///system"


def connection_uri(conf: cfg.ConfigOpts) -> str:
    """Return the URI that the stock inspector would connect to."""
    uri: str = conf.libvirt_uri or URIS.get(conf.libvirt_type, DEFAULT_URI)
    return uri


def driver(conf: cfg.ConfigOpts) -> virt_inspector.Inspector:
    """Return what ``hypervisor_inspector = virtmeter`` stands for.

    That is ours, or the stock one where ours is disabled or cannot serve, as the activation tells.
    """
    options.register(conf)
    # Whatever it is, a mistyped option say: the activation tells it, and the agent goes on.
    with suppress(Exception):
        if conf.virtmeter.enabled:
            return LibvirtInspector(conf)
    return stock.LibvirtInspector(conf)


class InstanceStats(virt_inspector.InstanceStats):  # type: ignore[misc]  # it has no types
    """The release's record, and what virtmeter has beyond it."""

    fields = sorted({*virt_inspector.InstanceStats.fields, *virtmeter.InstanceStats._fields})


class LibvirtInspector(virt_inspector.Inspector):  # type: ignore[misc]  # it has no types
    """Ceilometer's ``Inspector`` for libvirt, with the values of the stock one.

    Making one connects to nothing: an agent that starts before libvirtd finds it later. What
    fails is told by exceptions that the pollsters of every release catch:
    ``InstanceNotFoundException``, ``InstanceShutOffException`` or ``NoDataException``.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Read ``libvirt_uri``, ``libvirt_type``, ``report_stopped_instance_metrics``, and ours."""
        super().__init__(conf)
        # Older releases, 2025.1 among them, do not have the option.
        report_stopped = getattr(conf.compute, "report_stopped_instance_metrics", False)
        self.native = virtmeter.LibvirtInspector(
            connection_uri(conf),
            report_stopped=report_stopped,
            parity=True,
            **options.limits(conf),
        )

    def inspect_instance(self, instance: Any, duration: Any = None) -> Any:
        """Return the release's own ``InstanceStats``, with the fields of ours.

        Pollsters take whatever can be iterated over for a list of records, so that a tuple will
        not do. Fields of older releases that libvirt no longer gives are None.
        """
        with ceilometers_exceptions():
            stats = self.native.inspect_instance(instance, duration)
        return InstanceStats(**stats._asdict())

    def inspect_vnics(
        self,
        instance: Any,
        duration: Any = None,
    ) -> Iterator[virtmeter.InterfaceStats]:
        """Return the NICs' counters."""
        with ceilometers_exceptions():
            return self.native.inspect_vnics(instance, duration)

    def inspect_disks(
        self,
        instance: Any,
        duration: Any = None,
    ) -> Iterator[virtmeter.DiskStats]:
        """Return the disks' counters."""
        with ceilometers_exceptions():
            return self.native.inspect_disks(instance, duration)

    def inspect_vnic_rates(
        self,
        instance: Any,
        duration: Any = None,
    ) -> Iterator[virtmeter.InterfaceRateStats]:
        """Return the NICs' bytes per second since the last polling, of which the first has none."""
        with ceilometers_exceptions():
            return self.native.inspect_vnic_rates(instance, duration)

    def inspect_disk_rates(
        self,
        instance: Any,
        duration: Any = None,
    ) -> Iterator[virtmeter.DiskRateStats]:
        """Return the same of the disks, for which Ceilometer has no pollster any more."""
        with ceilometers_exceptions():
            return self.native.inspect_disk_rates(instance, duration)

    def inspect_disk_info(
        self,
        instance: Any,
        duration: Any = None,
    ) -> Iterator[virtmeter.DiskInfo]:
        """Return the disks' sizes."""
        with ceilometers_exceptions():
            return self.native.inspect_disk_info(instance, duration)


@contextmanager
def ceilometers_exceptions() -> Iterator[None]:
    """Turn virtmeter's exceptions into those of the running Ceilometer, with their words."""
    try:
        yield
    except virtmeter.InstanceNotFoundException as error:
        raise virt_inspector.InstanceNotFoundException(str(error)) from error
    except virtmeter.InstanceShutOffException as error:
        raise virt_inspector.InstanceShutOffException(str(error)) from error
    except (
        virtmeter.ConnectionLost,
        virtmeter.InspectionTimeout,
        virtmeter.InstanceBusyException,
    ) as error:
        # virtmeter itself says in one line when this begins, and in one when it is over; that an
        # instance is busy is nothing to warn of. Of this
        # exception a pollster says nothing, of the next one a line for each instance and meter.
        raise virt_inspector.InstanceNotFoundException(str(error)) from error
    except (virtmeter.InspectorException, ValueError, TypeError) as error:
        # A URI that libvirt cannot open and an id that is no UUID are nothing to stop for either.
        raise virt_inspector.NoDataException(str(error)) from error
