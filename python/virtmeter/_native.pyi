"""The compiled core of virtmeter."""

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, final
from uuid import UUID

from virtmeter.records import (
    DiskInfo,
    DiskStats,
    Instance,
    InstanceStats,
    InterfaceStats,
    Server,
)

__all__ = ["LibvirtInspector", "__version__"]

__version__: str

class _HasId(Protocol):
    """Nova's servers, Ceilometer's instances, virtmeter's own ``Instance``.

    An attribute ``OS-EXT-SRV-ATTR:instance_name`` is used in messages, where there is one.
    """

    @property
    def id(self) -> str | UUID: ...

@final
class LibvirtInspector:
    """Reads what libvirt's virtual machines use.

    Each call is one reading, taken while the call lasts and without the GIL. Any number of threads
    may share an inspector. A forked child may go on using its parent's, and gets a connection of
    its own; but see docs/architecture.md about a fork while other threads are inside libvirt.

    The connection is read-only, is opened at the first call, and is opened again when it broke.

    Every ``inspect_`` method takes ``instance``, a UUID string, a ``uuid.UUID`` or an object with
    such an ``id``, and ``duration``, which Ceilometer passes and nobody needs. They raise

    - ``InstanceNotFoundException`` where libvirt does not know the instance,
    - ``InstanceShutOffException`` where it is shut off (but see ``report_stopped``),
    - ``NoDataException`` where libvirt refuses to read it,
    - ``ConnectionLost`` where libvirt cannot be reached, after one try to reconnect,
    - ``TypeError`` or ``ValueError`` where ``instance`` is not an instance, or the URI names no
      hypervisor.
    """

    def __new__(
        cls, uri: str = "qemu:///system", *, report_stopped: bool = False
    ) -> LibvirtInspector:
        """Connect to nothing yet.

        :param uri: a libvirt connection URI (https://libvirt.org/uri.html); ``""`` leaves the
            choice to libvirt.
        :param report_stopped: let ``inspect_instance`` and ``inspect_disk_info`` answer for
            instances that are shut off too.
        """

    def inspect_instance(
        self, instance: str | UUID | _HasId, duration: object = None
    ) -> InstanceStats:
        """CPU, memory and performance counters.

        From ``virDomainGetInfo``, ``virDomainMemoryStats`` and ``virDomainListGetStats``.
        """

    def inspect_vnics(
        self, instance: str | UUID | _HasId, duration: object = None
    ) -> Iterator[InterfaceStats]:
        """Counters of every NIC that has a target device and a MAC, in the order of the domain XML.

        From ``virDomainInterfaceStats``. A NIC that libvirt refuses is logged and left out.
        """

    def inspect_disks(
        self, instance: str | UUID | _HasId, duration: object = None
    ) -> Iterator[DiskStats]:
        """Counters of every disk that has a source, in the order of the domain XML.

        From ``virDomainBlockStats`` and ``virDomainBlockStatsFlags``. A disk that libvirt refuses
        is logged and left out.
        """

    def inspect_disk_info(
        self, instance: str | UUID | _HasId, duration: object = None
    ) -> Iterator[DiskInfo]:
        """Sizes of every disk that has a source, in the order of the domain XML.

        From ``virDomainGetBlockInfo``. A disk that libvirt refuses is logged and left out.
        """

    def list_instances(self) -> list[Instance]:
        """Every instance that libvirt knows, running or not, in libvirt's order.

        From ``virConnectGetAllDomainStats``, one round trip.
        """

    def list_servers(self) -> list[Server]:
        """Every instance that is OpenStack Nova's, running or not, with what Nova says of it.

        From the list and ``virDomainGetXMLDesc``, one round trip each. An instance whose metadata
        cannot be read is logged and left out; a domain that is not Nova's is left out.
        """

    @property
    def uri(self) -> str:
        """The connection's URI, as it was given."""

    @property
    def connected(self) -> bool:
        """Whether a connection is open now; looking connects to nothing."""

    def close(self) -> None:
        """Close the connection. The inspector stays usable: its next call opens a new one."""

    def __enter__(self) -> LibvirtInspector: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
