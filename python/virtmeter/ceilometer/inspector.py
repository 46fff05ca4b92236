"""The inspectors as Ceilometer's compute agent wants them, over the native ones.

They take their options from the agent's configuration, and answer with the records and exceptions
of the Ceilometer release that they run in.
"""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ceilometer.compute.virt import inspector as virt_inspector
from ceilometer.compute.virt.libvirt import inspector as stock

import virtmeter
from virtmeter.ceilometer import options
from virtmeter.ceilometer.once import Once
from virtmeter.ceilometer.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
            return configured(conf)
    return stock.LibvirtInspector(conf)


def configured(conf: cfg.ConfigOpts) -> Inspector:
    """Return the inspector of what the agent's configuration names; it connects to nothing yet.

    :raises ValueError: an option has a wrong value.
    """
    options.check(conf)
    return PoolInspector(conf) if conf.virtmeter.uri else LibvirtInspector(conf)


class InstanceStats(virt_inspector.InstanceStats):  # type: ignore[misc]  # it has no types
    """The release's record, and what virtmeter has beyond it."""

    fields = sorted({*virt_inspector.InstanceStats.fields, *virtmeter.InstanceStats._fields})


class Inspector(virt_inspector.Inspector):  # type: ignore[misc]  # it has no types
    """Ceilometer's ``Inspector`` over a native one, whatever that reads.

    Making one connects to nothing: an agent that starts before its hypervisor finds it later. What
    fails is told by exceptions that the pollsters of every release catch:
    ``InstanceNotFoundException``, ``InstanceShutOffException`` or ``NoDataException``.
    """

    native: virtmeter.Inspector

    # virtmeter itself says in one line when this begins, and in one when it is over; that an
    # instance is busy is nothing to warn of.
    silent: tuple[type[virtmeter.InspectorException], ...] = (
        virtmeter.ConnectionLost,
        virtmeter.InspectionTimeout,
        virtmeter.InstanceBusyException,
    )

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Have said nothing yet."""
        super().__init__(conf)
        self._once = Once()
        self._single_flight = SingleFlight()

    def inspect_instance(self, instance: Any, duration: Any = None) -> Any:
        """Return the release's own ``InstanceStats``, with the fields of ours.

        Pollsters take whatever can be iterated over for a list of records, so that a tuple will
        not do. Fields of older releases that libvirt no longer gives are None.
        """
        with self._ceilometers_exceptions():
            stats = self.native.inspect_instance(instance, duration)
        return InstanceStats(**stats._asdict())

    def inspect_vnics(
        self,
        instance: Any,
        duration: Any = None,
    ) -> Iterator[virtmeter.InterfaceStats]:
        """Return the NICs' counters."""
        with self._ceilometers_exceptions():
            return self.native.inspect_vnics(instance, duration)

    def inspect_disks(
        self,
        instance: Any,
        duration: Any = None,
    ) -> Iterator[virtmeter.DiskStats]:
        """Return the disks' counters."""
        with self._ceilometers_exceptions():
            return self.native.inspect_disks(instance, duration)

    def inspect_vnic_rates(
        self,
        instance: Any,
        duration: Any = None,
    ) -> Iterator[virtmeter.InterfaceRateStats]:
        """Return the NICs' bytes per second since the last polling, of which the first has none."""
        with self._ceilometers_exceptions():
            return self._rates(self.native.inspect_vnic_rates, instance, duration)

    def inspect_disk_rates(
        self,
        instance: Any,
        duration: Any = None,
    ) -> Iterator[virtmeter.DiskRateStats]:
        """Return the same of the disks, for which Ceilometer has no pollster any more."""
        with self._ceilometers_exceptions():
            return self._rates(self.native.inspect_disk_rates, instance, duration)

    def inspect_disk_info(
        self,
        instance: Any,
        duration: Any = None,
    ) -> Iterator[virtmeter.DiskInfo]:
        """Return the disks' sizes."""
        with self._ceilometers_exceptions():
            return self.native.inspect_disk_info(instance, duration)

    def _rates(self, method: Any, instance: Any, duration: Any) -> Iterator[Any]:
        question = method.__name__, getattr(instance, "id", instance)
        return iter(self._single_flight.ask(question, lambda: method(instance, duration)))

    @contextmanager
    def _ceilometers_exceptions(self) -> Iterator[None]:
        """Turn virtmeter's exceptions into those of the running Ceilometer, with their words."""
        try:
            yield
        except virtmeter.InstanceNotFoundException as error:
            raise virt_inspector.InstanceNotFoundException(str(error)) from error
        except virtmeter.InstanceShutOffException as error:
            raise virt_inspector.InstanceShutOffException(str(error)) from error
        except self.silent as error:
            # Of this exception a pollster says nothing, of NoDataException a line for each
            # instance and meter, in each cycle.
            raise virt_inspector.InstanceNotFoundException(str(error)) from error
        except (virtmeter.InspectorException, ValueError, TypeError) as error:
            # A URI that libvirt cannot open and an id that is no UUID are nothing to stop for
            # either.
            is_new = self._once.is_new(fault(error))
            told = "NoDataException" if is_new else "InstanceNotFoundException"
            raise getattr(virt_inspector, told)(str(error)) from error


def fault(error: Exception) -> str:
    """Return what is the same each time of an error.

    A number in libvirt's words, of a process or a request, may be a new one. A part of a UUID has
    no digit now and then.
    """
    if not isinstance(error, virtmeter.InspectorException):
        return str(error)
    words = re.sub(r"\w*\d\w*|\b[0-9A-Fa-f]+\b", "", str(error))
    return f"{error.instance_id} {error.error_code} {words}"


class LibvirtInspector(Inspector):
    """The one of libvirt, with the values of the stock one."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Read ``libvirt_uri``, ``libvirt_type``, ``report_stopped_instance_metrics``, and ours."""
        super().__init__(conf)
        self.native = virtmeter.LibvirtInspector(
            connection_uri(conf),
            report_stopped=report_stopped(conf),
            parity=True,
            **options.limits(conf),
        )


class PoolInspector(Inspector):
    """The one of a XenServer pool or a vCenter, which do not count everything that libvirt does."""

    # The log has a line about a host that is away, and none about each of its instances.
    silent = (virtmeter.NoDataException,)

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Read ``[virtmeter] uri``, ``report_stopped_instance_metrics``, and ours.

        :raises ValueError: the URI is wrong.
        """
        super().__init__(conf)
        self.native = virtmeter.Inspector(
            conf.virtmeter.uri,
            report_stopped=report_stopped(conf),
            **options.limits(conf),
        )

    def inspect_instance(self, instance: Any, duration: Any = None) -> Any:
        """Return what is known of the instance."""
        return Known(super().inspect_instance(instance, duration))

    def inspect_vnics(self, instance: Any, duration: Any = None) -> Any:
        """Return what is known of the NICs."""
        return known(super().inspect_vnics(instance, duration))

    def inspect_disks(self, instance: Any, duration: Any = None) -> Any:
        """Return what is known of the disks."""
        return known(super().inspect_disks(instance, duration))


class Known:
    """A record for a pollster, which has no sample of what is not known, and logs nothing of that.

    It would have a warning for each None, in each cycle, and a sample for each -1. Of this
    exception it says nothing.
    """

    # Words about a device, which may be missing.
    WORDS = ("mac", "fref")

    def __init__(self, record: Any) -> None:
        """Keep the record."""
        self._record = record

    def __getattr__(self, name: str) -> Any:
        """Return a field.

        :raises InstanceNotFoundException: it is not known.
        """
        value = getattr(self._record, name)
        if value in UNKNOWN and name not in self.WORDS:
            message = f"{name} is not known"
            raise virt_inspector.InstanceNotFoundException(message)
        return value


UNKNOWN = (None, -1)


def known(devices: Iterable[Any]) -> list[Known]:
    """Return the devices of an instance, those of which least is known last.

    A pollster goes no further than to the first that it cannot have.
    """
    last = sorted(devices, key=lambda device: sum(value in UNKNOWN for value in device))
    return [Known(device) for device in last]


def report_stopped(conf: cfg.ConfigOpts) -> bool:
    """Return whether instances that are shut off have samples too."""
    # Older releases, 2025.1 among them, do not have the option.
    return getattr(conf.compute, "report_stopped_instance_metrics", False)
