"""The compiled core of virtmeter."""

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, final
from uuid import UUID

# typing has Self since Python 3.11 only: for older ones, it would be taken for Any.
from typing_extensions import Self, disjoint_base

from virtmeter.records import (
    DirtyRate,
    DiskInfo,
    DiskRateStats,
    DiskStats,
    Health,
    Host,
    Instance,
    InstanceDetails,
    InstanceStats,
    InterfaceRateStats,
    InterfaceStats,
    IoThreadStats,
    JobStats,
    Server,
    VmUsage,
)

__all__ = ["Inspector", "LibvirtInspector", "__version__"]

__version__: str

class _HasId(Protocol):
    """Nova's servers, Ceilometer's instances, virtmeter's own ``Instance``.

    An attribute ``OS-EXT-SRV-ATTR:instance_name`` is used in messages, where there is one.
    """

    @property
    def id(self) -> str | UUID: ...

@disjoint_base
class Inspector:
    """Reads what virtual machines use, wherever the URI says that they are.

    ``xenserver://user@host/?…`` is a XenServer or XCP-ng pool (docs/xenserver.md),
    ``vsphere://user@host/?…`` a vCenter or an ESXi host (docs/vsphere.md), and anything else a
    connection URI of libvirt's. What all of them have in common:

    Any number of threads may share an inspector, and no call waits for ever. Connections are
    read-only, opened when they are first needed, and again when they broke. While a hypervisor is
    away, calls fail at once, and the inspector goes on trying by itself. A forked child may go on
    using its parent's inspector, with threads and connections of its own.

    Keep an inspector for as long as you read: it knows the VMs, reads ahead, and has what each
    caller has read. The next one of the same libvirt in this process only knows which guests hang,
    as long as they do.

    Every ``inspect_`` method takes ``instance``, a UUID string, a ``uuid.UUID`` or an object with
    such an ``id``, and ``duration``, which Ceilometer passes and nobody needs. A VM of XenServer's
    is also found by the UUID that Nova gave it (``other_config:nova_uuid``); records have its own.
    They raise

    - ``InstanceNotFoundException`` where the hypervisor does not know the instance,
    - ``InstanceShutOffException`` where it is shut off (but see ``report_stopped``),
    - ``NoDataException`` where it cannot be read: libvirt refuses, or its host is away,
    - ``InspectionTimeout`` where the instance's guest does not answer in time,
    - ``InstanceBusyException`` where it is busy with a migration or the like,
    - ``ConnectionLost`` where the hypervisor cannot be reached, or refuses the login,
    - ``NotImplementedError`` where a hypervisor of this kind never tells that,
    - ``TypeError`` or ``ValueError`` where ``instance`` is not an instance, or the URI names no
      hypervisor.

    What else a hypervisor does not tell is None, or -1 in the counters of a NIC or a disk, or left
    out. The sources below are libvirt's; docs/xenserver.md and docs/vsphere.md have the others.
    """

    def __new__(
        cls,
        uri: str = "qemu:///system",
        *,
        report_stopped: bool = False,
        timeout: float = 5.0,
        max_age: float | None = None,
        workers: int = 4,
        read_ahead: int = 16,
        max_stuck: int = 12,
        password: Callable[[], str] | None = None,
    ) -> Self:
        """Connect to nothing yet.

        :param uri: where the virtual machines are. There is never a password in it.
        :param report_stopped: let ``inspect_instance`` and ``inspect_disk_info`` answer for
            instances that are shut off too.
        :param timeout: seconds after which a reading that has not been answered is given up.
        :param max_age: seconds for which a value may be handed out that was read before; by
            default 1; 5 with XenServer and 20 with vSphere, which have new values only as often.
        :param workers: for libvirt alone, see ``LibvirtInspector``.
        :param read_ahead: how many readings are taken ahead of a caller at the most; 0 for none.
        :param max_stuck: for libvirt alone, see ``LibvirtInspector``.
        :param password: returns the password of the URI's user whenever there is a login. Without
            it, the file is read that the URI names, or the environment's ``VIRTMETER_PASSWORD``.
            It is called in a thread of its own, and waited for no longer than ``timeout``; what it
            returns later is for the next login.
        :raises ValueError: a parameter is out of its range, or the URI cannot be used.
        """

    def inspect_instance(
        self, instance: str | UUID | _HasId, duration: object = None
    ) -> InstanceStats:
        """CPU, memory and performance counters, from ``virDomainListGetStats``.

        While the guest hangs: its state and, where libvirt tells them, the CPU counters; the
        memory's are None.
        """

    def inspect_vnics(
        self, instance: str | UUID | _HasId, duration: object = None
    ) -> Iterator[InterfaceStats]:
        """Counters of every NIC that has a target device and a MAC, in the order of the domain XML.

        After these come those that have no target (see ``all_vnics``). From
        ``virDomainInterfaceStats``. A NIC that libvirt refuses is logged and left out.
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

        What ``virDomainGetBlockInfo`` says, or what is reckoned to be the same (see
        ``reckon_sizes``). A disk that libvirt refuses is logged and left out.
        """

    def inspect_vnic_rates(
        self, instance: str | UUID | _HasId, duration: object = None, *, caller: str = ""
    ) -> Iterator[InterfaceRateStats]:
        """Bytes per second through every NIC, on average since the last call; none at the first.

        The times are those of the two readings, not of the calls. A NIC that has come meanwhile,
        or whose counters went back, is left out once, unless the instance was started in between:
        all that its counters say is new then. One that libvirt refuses is left out while it does,
        and has its average over all of that time after that.
        From the counters of ``inspect_vnics``, with an order and exceptions as there.

        :param caller: any name of 256 characters at the most. Each caller has intervals of its own,
            for each instance, so that none cuts short those of another; threads under one name
            share them. Those of this method, of ``inspect_disk_rates`` and of the usage are apart
            anyway. The 64 callers that have asked last are remembered, for a day; another one, and
            an instance that was gone, begin anew.
        :raises ValueError: the name is too long.
        """

    def inspect_disk_rates(
        self, instance: str | UUID | _HasId, duration: object = None, *, caller: str = ""
    ) -> Iterator[DiskRateStats]:
        """Bytes and operations per second of every disk, as ``inspect_vnic_rates`` tells of NICs.

        From the counters of ``inspect_disks``.
        """

    def usage(self, instance: str | UUID | _HasId, *, caller: str = "") -> VmUsage:
        """Return what an instance has used since this caller's last reading of its usage.

        All of it is read at one moment: on QEMU in one bulk reading, ``virDomainListGetStats``. The
        exceptions are those of the ``inspect_`` methods. While the guest hangs, only the CPU's and
        the NICs' are there (``health().hung`` names those that do). What is not known is None, and
        told with the next reading that knows it.

        :param caller: as for ``inspect_vnic_rates``.
        """

    def usage_all(self, *, caller: str = "") -> list[VmUsage]:
        """Return what every instance that runs has used, in one pass over the host.

        That is every one that is not shut off. An instance that cannot be read is left out, which
        is logged once, until it changes. The intervals are those of ``usage``. Where this raises,
        as a signal's handler may, nothing of the pass counts as read, and the next one tells it.

        :param caller: as for ``inspect_vnic_rates``.
        :raises ConnectionLost: libvirt cannot be reached.
        :raises NoDataException: libvirt refuses the list of its instances, or has not sent it
            within the timeout.
        """

    def inspect_details(self, instance: str | UUID | _HasId) -> InstanceDetails:
        """Return what an instance is, beside what it uses; also of one that is shut off.

        From ``virDomainListGetStats`` and ``virDomainGetXMLDesc``. While the guest hangs, without
        its vCPUs where libvirt does not tell them.
        """

    def inspect_job(self, instance: str | UUID | _HasId) -> JobStats | None:
        """Return the job that is under way, a migration or a backup; None where there is none.

        From ``virDomainGetJobStats``, a round trip of its own. Only the source host of a
        migration knows its progress; the destination raises ``InstanceBusyException``.
        """

    def inspect_io_threads(self, instance: str | UUID | _HasId) -> list[IoThreadStats]:
        """Return the threads that do I/O for an instance, in the order of their numbers.

        From ``virDomainListGetStats``; QEMU's monitor is asked once more for it.
        """

    def inspect_dirty_rate(self, instance: str | UUID | _HasId) -> DirtyRate | None:
        """Return how fast an instance writes to its memory; None where nobody had that measured.

        From ``virDomainListGetStats``; QEMU's monitor is asked once more for it.
        """

    def list_instances(self) -> list[Instance]:
        """Every instance that libvirt knows, running or not, in libvirt's order.

        From ``virConnectGetAllDomainStats``, one round trip.
        """

    def list_servers(self, instances: Sequence[str | UUID | _HasId] | None = None) -> list[Server]:
        """Every instance that is OpenStack Nova's, running or not, with what Nova says of it.

        From the list and ``virDomainGetXMLDesc``, one round trip each. An instance whose metadata
        cannot be read is logged and left out, and one whose metadata is incomplete is logged and
        has the rest: once, until it changes. A domain that is not Nova's is left out.

        :param instances: only these, as the ``inspect_`` methods take them: of others, nothing is
            asked but the list. One that does not exist is left out.
        """

    def list_hosts(self) -> list[Host]:
        """Every host of a pool or vCenter, and how its readings are; that reads all instances.

        :raises NotImplementedError: this is libvirt, which knows one host.
        """

    def _examine(self, instances: list[str], samples: int) -> tuple[Any, ...]: ...
    def health(self) -> Health:
        """Return what the inspector does and has done; this takes no reading and never blocks."""

    @property
    def uri(self) -> str:
        """The connection's URI, as it was given."""

    @property
    def connected(self) -> bool:
        """Whether a connection is open now; looking connects to nothing."""

    def close(self) -> None:
        """Close the connection. The inspector stays usable: its next call opens a new one."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class LibvirtInspector(Inspector):
    """Reads what libvirt's virtual machines use.

    Any number of threads may share an inspector, and no call waits for ever: a guest that does not
    answer within ``timeout`` is left alone until libvirt says that it answers again, and in the
    meantime only what libvirt knows without it is reported. Who asks in a steady order has the next
    readings taken ahead, by threads of the inspector's own; no value is handed out twice, nor when
    its reading was begun more than ``max_age`` before it was asked for. A forked child may go on
    using its parent's inspector, with threads and connections of its own; but see
    docs/architecture.md about a fork while other threads are inside libvirt.

    Connections are read-only, opened when they are first needed, and again when they broke. While
    libvirt is away, calls fail at once, and the inspector goes on trying by itself.
    """

    def __new__(
        cls,
        uri: str = "qemu:///system",
        *,
        report_stopped: bool = False,
        timeout: float = 5.0,
        max_age: float = 1.0,
        workers: int = 4,
        read_ahead: int = 16,
        max_stuck: int = 12,
        reckon_sizes: bool = True,
        parity: bool = False,
        all_vnics: bool = True,
    ) -> Self:
        """Connect to nothing yet.

        :param uri: a libvirt connection URI (https://libvirt.org/uri.html); ``""`` leaves the
            choice to libvirt.
        :param report_stopped: let ``inspect_instance`` and ``inspect_disk_info`` answer for
            instances that are shut off too.
        :param timeout: seconds after which a reading that has not been answered is given up.
        :param max_age: seconds for which a value may be handed out that was read ahead, or together
            with another one of the same instance; 0 for neither.
        :param workers: how many readings are taken at once, each over a connection of its own.
        :param read_ahead: how many readings are taken ahead of a caller at the most; 0 for none.
        :param max_stuck: how many threads more may be stuck in calls that do not return: so many
            guests may hang, and all others are read on. Each occupies one of libvirtd's workers too
            (``max_workers`` in libvirtd.conf, 20 by default).
        :param reckon_sizes: reckon the sizes of disks from what is read anyway, where libvirt was
            found to say the same of the disk when it is asked; False asks each time.
        :param parity: where Ceilometer's own inspector is known to err, say what that one says:
            memory in use below zero where the guest's numbers contradict one another, say.
        :param all_vnics: let ``inspect_vnics`` tell of NICs that libvirt has no name for as well,
            devices of the host that are handed through (SR-IOV, vDPA): by their MAC addresses, and
            with -1 for each counter that libvirt does not have. From 6.9 on, it counts the
            bytes and packets of SR-IOV's virtual functions, if the NIC's driver does. False leaves
            them out of rates and usage, too: the traffic of a VM that has no others is 0.
        :raises ValueError: a parameter is out of its range.
        """
