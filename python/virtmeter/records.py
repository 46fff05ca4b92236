"""The named tuples that readings consist of.

Field names, order and units are those of Ceilometer 27's ``ceilometer.compute.virt.inspector``;
what virtmeter adds comes after them.
Counters are exact integers and count from the start of the guest (or from the plugging in of the
device); memory is in MiB. ``None`` stands for a value that the hypervisor does not give, and -1 for
a counter of a NIC or a disk that it does not have.
"""

from __future__ import annotations

import enum
from typing import Any, NamedTuple


class PowerState(enum.IntEnum):
    """Names for libvirt's domain states, as ``power_state`` and ``Instance.state`` number them.

    The numbers are those of ``virDomainState``. A newer libvirt may know more of them, so the
    records hold plain integers: ``PowerState(stats.power_state).name``.
    """

    NOSTATE = 0
    RUNNING = 1
    BLOCKED = 2
    PAUSED = 3
    SHUTDOWN = 4
    SHUTOFF = 5
    CRASHED = 6
    PMSUSPENDED = 7


class Instance(NamedTuple):
    """One virtual machine that the hypervisor knows, running or not."""

    id: str
    """The domain's UUID, in lower case and with hyphens."""
    name: str
    """The domain's name, for example ``instance-0000002a``."""
    state: int
    """The domain's state, a number of :class:`PowerState`."""


class Server(NamedTuple):
    """One instance of OpenStack Nova's, as the metadata of its domain tells of it."""

    id: str
    """The domain's UUID, which is Nova's id."""
    domain_name: str
    """The domain's name, for example ``instance-0000002a``."""
    state: int
    """The domain's state, a number of :class:`PowerState`."""
    os_type: str | None
    """``<os><type>``, for example ``hvm``."""
    architecture: str | None
    """``<os><type arch>``, for example ``x86_64``; None where it is missing."""
    name: str | None
    """The name that the user gave."""
    user_id: str | None
    """The owner's user id; None where it is missing."""
    project_id: str | None
    """The owner's project id; None where it is missing."""
    flavor: dict[str, Any]
    """``id`` (None before Nova 2025.2), ``name``, ``vcpus``, ``ram`` (MiB), ``disk`` (GiB),
    ``ephemeral`` (GiB), ``swap`` (MiB) and, from Nova 2025.2 on, a dictionary ``extra_specs``.
    Sizes that are missing are 0, those that are no number None; where there is no flavor, all
    are None."""
    image_id: str | None
    """The id of the image that the root disk was made from."""
    image_meta: dict[str, str | None] | None
    """What Nova says of the image, by the names of its API; None before Nova 2025.2."""
    missing: list[str]
    """What Ceilometer's discovery needs and is not there, or no number: a few words for each. It
    leaves such an instance out."""


class InstanceStats(NamedTuple):
    """CPU, memory and performance counters of one instance."""

    power_state: int | None = None
    """The domain's state, a number of :class:`PowerState` (``virDomainGetInfo``)."""
    cpu_number: int | None = None
    """vCPUs plugged in (``vcpu.current``); of a stopped instance, those it will have."""
    cpu_time: int | None = None
    """CPU time used since the start, nanoseconds: time and wait of all vCPUs, those that were
    unplugged too, or else what ``cpu.time`` has grown by meanwhile. It never falls until the next
    start, as far as this inspector has read it (in Ceilometer's agent: their sum now, or else
    ``cpu.time``)."""
    memory_actual: float | None = None
    """Memory that the balloon leaves to the guest, MiB (``actual``); of a stopped instance, the
    most it may have."""
    memory_available: float | None = None
    """Memory that the guest's kernel sees, MiB (``available``)."""
    memory_usage: float | None = None
    """Memory in use in the guest, MiB (``available`` less ``usable``, or else ``unused``)."""
    memory_resident: float | None = None
    """Resident memory of the guest's process on the host, MiB (``rss``), as the kernel counts it:
    the huge pages of a guest with ``<hugepages>`` are not in it."""
    memory_swap_in: float | None = None
    """Memory read from the guest's swap since the start, MiB (``swap_in``)."""
    memory_swap_out: float | None = None
    """Memory written to the guest's swap since the start, MiB (``swap_out``)."""
    cpu_cycles: int | None = None
    """CPU cycles (``perf.cpu_cycles``, where that event is enabled)."""
    instructions: int | None = None
    """Instructions (``perf.instructions``, where that event is enabled)."""
    cache_references: int | None = None
    """Cache references (``perf.cache_references``, where that event is enabled)."""
    cache_misses: int | None = None
    """Cache misses (``perf.cache_misses``, where that event is enabled)."""
    vcpu_wait: int | None = None
    """Time that the vCPUs have waited for a CPU of the host since the start, nanoseconds
    (``vcpu.N.wait``); None unless all of them have it. It is the kernel's ``wait_sum``, the time on
    the run queue, which ``vcpu_delay`` has by another counter: not waiting for I/O, whatever
    libvirt's manual says. 0 unless the host has ``kernel.sched_schedstats = 1``. With vSphere,
    ``cpu.wait`` less ``cpu.idle``: blocked by disks or by VMkernel's swap."""
    vcpu_delay: int | None = None
    """Time that the vCPUs could have run but had no host CPU, since the start, nanoseconds: what
    the guest calls steal (``vcpu.N.delay``); None unless all vCPUs have it. With vSphere,
    ``cpu.ready`` and ``cpu.costop``."""
    memory_major_faults: int | None = None
    """Page faults in the guest since its start that had to read a disk (``major_fault``)."""
    memory_minor_faults: int | None = None
    """Page faults in the guest since its start that did not (``minor_fault``)."""
    memory_disk_caches: float | None = None
    """The guest's caches that it could give up without writing, MiB (``disk_caches``)."""
    memory_hugetlb_allocations: int | None = None
    """Huge pages that the guest has allocated since its start (``hugetlb_pgalloc``)."""
    memory_hugetlb_failures: int | None = None
    """Huge pages that the guest has failed to allocate since its start (``hugetlb_pgfail``)."""
    memory_active: float | None = None
    """Memory that the hypervisor believes the guest to have used of late, MiB: an estimate by
    samples of pages (vSphere's ``mem.active``); None with libvirt and XenServer."""
    memory_updated: int | None = None
    """When the guest last told its memory, seconds since the epoch by the host's clock
    (``last-update``); None where it never has. All of its memory but ``memory_actual`` and
    ``memory_resident`` is of then, however long ago that is."""
    vcpu_time: int | None = None
    """Time that the vCPUs have run since the start, without any waiting, nanoseconds
    (``vcpu.N.time``); None unless all of them have it."""
    start: int | None = None
    """The number of the start since which all counters but those of ``memory_`` count (these are
    the guest's own, and go on where it is migrated, or restored): the domain's id, which is another
    one at each start. It may be the same again if libvirtd was restarted while the instance was
    shut off. None where it is not known."""


class InterfaceStats(NamedTuple):
    """Counters of one virtual NIC (``virDomainInterfaceStats``); -1: not counted."""

    name: str
    """The host's side of the NIC (``<target dev>``), for example ``tap1f0c``, or its MAC address
    where it has none."""
    mac: str | None
    """The MAC address."""
    fref: str | None
    """The name of the network filter, if there is one."""
    parameters: dict[str, str | None]
    """The filter's parameters, names in lower case, and ``interfaceid`` and ``bridge``."""
    rx_bytes: int
    """Bytes that the guest received."""
    tx_bytes: int
    """Bytes that the guest sent."""
    rx_packets: int
    """Packets that the guest received."""
    tx_packets: int
    """Packets that the guest sent."""
    rx_drop: int
    """Incoming packets that were dropped."""
    tx_drop: int
    """Outgoing packets that were dropped."""
    rx_errors: int
    """Errors in receiving."""
    tx_errors: int
    """Errors in sending."""
    rx_bytes_delta: int
    """Bytes received since this inspector's last reading of this NIC; 0 at the first, but all of
    them where the instance was started since its last reading (not in Ceilometer's agent)."""
    tx_bytes_delta: int
    """Bytes sent since then, likewise."""
    start: int | None = None
    """The number of the instance's start since which this NIC counts, if it was not plugged in
    later; None where it may have counted before, as a device that libvirt does not make, or where
    that is not known."""


class DiskStats(NamedTuple):
    """Counters of one disk (``virDomainBlockStats``, ``…BlockStatsFlags``); -1: not counted.

    XenServer counts no requests.
    """

    device: str
    """The disk's target name, for example ``vda``."""
    read_bytes: int
    """Bytes read."""
    read_requests: int
    """Read operations."""
    write_bytes: int
    """Bytes written."""
    write_requests: int
    """Write operations."""
    errors: int
    """I/O errors; -1 where the hypervisor does not count them, as QEMU does not."""
    wr_total_times: int | None
    """Time spent in writing, nanoseconds."""
    rd_total_times: int | None
    """Time spent in reading, nanoseconds."""
    flush_requests: int | None = None
    """Flushes (``flush_operations``)."""
    flush_total_times: int | None = None
    """Time spent in flushing, nanoseconds (``flush_total_times``)."""
    start: int | None = None
    """The number of the instance's start since which this disk counts, if it was not plugged in
    later; None where that is not known."""


class DiskInfo(NamedTuple):
    """Sizes of one disk, bytes (``virDomainGetBlockInfo``)."""

    device: str
    """The disk's target name, for example ``vda``."""
    capacity: int
    """The size that the guest sees, or the physical size where that is larger."""
    allocation: int
    """What libvirt calls so: what a qcow2 file occupies; of any other image, the highest offset
    that was written since the start, or what it occupies before the first write."""
    physical: int
    """What libvirt calls so: the length of the image's file or device, or what a raw image that was
    written to occupies."""
    occupied: int | None = None
    """What the image's file occupies on the host, as ``du`` says (``block.N.physical``); None where
    that is not known: of block devices and network storage, for one."""


class InterfaceRateStats(NamedTuple):
    """What went through one virtual NIC in a second, on average since the last reading."""

    name: str
    """The host's side of the NIC (``<target dev>``), for example ``tap1f0c``."""
    mac: str | None
    """The MAC address."""
    fref: str | None
    """The name of the network filter, if there is one."""
    parameters: dict[str, str | None]
    """The filter's parameters, names in lower case, and ``interfaceid`` and ``bridge``."""
    rx_bytes_rate: float
    """Bytes per second that the guest received."""
    tx_bytes_rate: float
    """Bytes per second that the guest sent."""


class DiskRateStats(NamedTuple):
    """What one disk did in a second, on average since the last reading.

    A disk whose bytes are not known is left out.
    """

    device: str
    """The disk's target name, for example ``vda``."""
    read_bytes_rate: float
    """Bytes read per second."""
    read_requests_rate: float | None
    """Read operations per second; None where they are not known."""
    write_bytes_rate: float
    """Bytes written per second."""
    write_requests_rate: float | None
    """Write operations per second; None where they are not known."""


class VmUsage(NamedTuple):
    """What one instance has used since the last reading, as CloudStack's KVM agent reckons it.

    The values over the interval are None at the first reading. Those of the CPU are also None when
    the counter of its time went back, as after a migration, or XenServer tells nothing new of a
    vCPU. They cannot pass 100 %, whatever the counter says: the interval is of a clock that is
    never set, and what is beyond all the time there was is cut off. NICs and disks count when they
    were there at both readings. At a new start of the instance all counters begin at 0: all that
    they say was used since the last reading.

    What is not known is None and not zero: memory and disks, and perhaps the CPU, of a guest that
    hangs; what all NICs have received and sent when libvirt refuses one of them or does not count,
    when XenServer or vSphere tells nothing new of one alone, or when the counters of one went back;
    and likewise what all disks have done. It is told with the first reading that knows all of it,
    over the time since the last one that did: nothing is lost but what the one whose counters went
    back did around that, and what XenServer or vSphere itself never tells (see their pages). A
    device of which nothing was told for an hour is no part of the sum. So CPU, network and disks
    have intervals of their own.
    """

    id: str
    """The domain's UUID, in lower case and with hyphens."""
    name: str | None
    """The domain's name; of ``usage``, that of the instance that was handed in, if it has one."""
    cpu_number: int | None
    """vCPUs plugged in (``vcpu.current``)."""
    cpu_utilization: float | None
    """How much of the time of its vCPUs they have run, percent from 0 to 100 (``vcpu.N.time``, or
    ``cpu.time`` where libvirt does not tell it of all of them)."""
    host_cpu_utilization: float | None
    """How much of the time of all CPUs of the host it has used, with what the hypervisor does for
    it, percent from 0 to 100 (``cpu.time``, ``virNodeGetInfo``)."""
    interval: float | None
    """Seconds since the last reading."""
    network_read_kib: float | None
    """KiB that the guest received within ``network_interval``."""
    network_write_kib: float | None
    """KiB that the guest sent within ``network_interval``."""
    disk_read_requests: int | None
    """Read operations within ``disk_requests_interval``."""
    disk_write_requests: int | None
    """Write operations within ``disk_requests_interval``."""
    disk_read_kib: float | None
    """KiB read from disks within ``disk_interval``."""
    disk_write_kib: float | None
    """KiB written to disks within ``disk_interval``."""
    memory_total: int | None
    """The most memory that the instance may have, KiB (``balloon.maximum``)."""
    memory_used: int | None
    """Memory in use in the guest, KiB: ``available`` less what is free."""
    memory_free: int | None
    """Memory that the guest could use without swapping, KiB (``usable``, or else ``unused``)."""
    memory_target: int | None
    """Memory that the balloon is to leave to the guest, KiB (``balloon.current``)."""
    cpu_wait: float | None
    """How much of the time of its vCPUs they have waited for a CPU of the host (not for I/O),
    percent from 0 to 100 (``vcpu.N.wait``); 0 unless the host has ``kernel.sched_schedstats = 1``,
    and then about ``cpu_steal``. With vSphere, they were blocked by disks or by VMkernel's swap."""
    cpu_steal: float | None
    """How much of the time of its vCPUs they could have run but had no host CPU, percent from 0 to
    100 (``vcpu.N.delay``)."""
    network_interval: float | None
    """Seconds that the network's values are over: ``interval``, or more where those of readings
    before were not known. Where NICs have different ones, as one was measured late or started anew,
    their mean, weighted by the bytes per second, both ways: so all bytes over this are the sum of
    the NICs' rates."""
    disk_interval: float | None
    """Seconds that the KiB of the disks are over, likewise."""
    cpu_interval: float | None
    """Seconds that ``cpu_utilization`` is over, likewise."""
    memory_updated: int | None
    """When the guest told ``memory_used`` and ``memory_free``, seconds since the epoch by the
    host's clock (``last-update``); None where it never has."""
    disk_requests_interval: float | None
    """Seconds that the requests of the disks are over, likewise; it differs from
    ``disk_interval`` where the hypervisor tells only one of the two."""

    def per_second(self, field: str) -> float | None:
        """Return the average in a second of what went through the NICs or the disks.

        :param field: one of those over ``network_interval``, ``disk_interval`` or
            ``disk_requests_interval``.
        :raises ValueError: it is none of them.

        >>> usage.per_second("disk_read_requests")  # doctest: +SKIP
        12.5
        """
        if field not in _INTERVALS:
            raise ValueError(f"{field!r} has no average; these have: {', '.join(_INTERVALS)}")
        amount, interval = getattr(self, field), getattr(self, _INTERVALS[field])
        return None if amount is None or interval is None else amount / interval


_INTERVALS = {
    "network_read_kib": "network_interval",
    "network_write_kib": "network_interval",
    "disk_read_requests": "disk_requests_interval",
    "disk_write_requests": "disk_requests_interval",
    "disk_read_kib": "disk_interval",
    "disk_write_kib": "disk_interval",
}


class VcpuStats(NamedTuple):
    """One vCPU: times in nanoseconds since the start (``virDomainListGetStats``)."""

    number: int
    """Its number in the guest."""
    state: int | None
    """``virVcpuState``: 0 offline, 1 running, 2 blocked."""
    time: int | None
    """Time that it has run (``vcpu.N.time``)."""
    wait: int | None
    """Time that it was on the host's run queue (``vcpu.N.wait``)."""
    delay: int | None
    """Time that it could have run but had no host CPU (``vcpu.N.delay``)."""


class DiskDetails(NamedTuple):
    """What a disk is, by the domain XML."""

    device: str
    """The disk's target name, for example ``vda``."""
    kind: str | None
    """``disk``, ``cdrom``, ``floppy`` or ``lun`` (``<disk device>``)."""
    bus: str | None
    """The bus that it is on, for example ``virtio`` (``<target bus>``)."""
    serial: str | None
    """Its serial number (``<serial>``): with Nova, the id of the Cinder volume."""
    source: str | None
    """What its bytes lie on: a path, or ``protocol:name`` of a disk of the network, or
    ``pool/volume``, or a PCI device (NVMe) by its address; None for a drive without a medium."""
    format: str | None
    """The format of its image, for example ``qcow2`` (``<driver type>``)."""
    cache: str | None
    """How the host caches it (``<driver cache>``)."""
    limits: dict[str, int]
    """The limits that it is under (``<iotune>``), in bytes or operations a second, by libvirt's
    names: ``total_iops_sec``."""


class NicDetails(NamedTuple):
    """What a NIC is, by the domain XML."""

    name: str
    """The host's side of the NIC (``<target dev>``), or its MAC address where it has none, as a
    device of the host that is handed through."""
    mac: str | None
    """The MAC address."""
    kind: str | None
    """How it is plugged in (``<interface type>``), for example ``bridge`` or ``hostdev``."""
    model: str | None
    """What it is to its guest, for example ``virtio`` (``<model type>``)."""
    source: str | None
    """The bridge, network or device of the host; a PCI device by its address."""
    port_id: str | None
    """The id of its port (``<virtualport>``): with Nova, Neutron's."""
    mtu: int | None
    """The largest packet, bytes (``<mtu size>``)."""


class InstanceDetails(NamedTuple):
    """What an instance is, beside what it uses; running or not."""

    state: int
    """The domain's state, a number of :class:`PowerState`."""
    reason: str | None
    """Why it is in that state, in the words of ``virsh domstate --reason``: ``booted``,
    ``I/O error``, ``shutdown`` (``state.reason``)."""
    title: str | None
    """The title that people gave it (``<title>``)."""
    machine: str | None
    """The machine that it is to its guest, for example ``pc-q35-7.2`` (``<os><type machine>``)."""
    memory_maximum: float | None
    """Memory that it has when its balloon takes none, MiB (``<memory>``)."""
    memory_configured: float | None
    """Memory that it is to have now, MiB (``<currentMemory>``)."""
    vcpus_maximum: int | None
    """The most vCPUs that can be plugged in (``<vcpu>``)."""
    vcpus_configured: int | None
    """vCPUs that are plugged in, or will be when it is started (``<vcpu current>``)."""
    manager: str | None
    """What manages it: ``nova``, ``ovirt``, ``kubevirt``, ``cloudstack``."""
    managed_name: str | None
    """What that calls it."""
    project: str | None
    """The project's name of Nova, the namespace of KubeVirt, the account's number of CloudStack."""
    user: str | None
    """The name of Nova's user."""
    vcpus: list[VcpuStats]
    """Each vCPU of a running domain, as far as libvirt tells."""
    disks: list[DiskDetails]
    """Each disk, also a drive without a medium, in the order of the domain XML."""
    nics: list[NicDetails]
    """Each NIC that has a target or a MAC address, in the order of the domain XML."""
    start: int | None = None
    """The number of the instance's start since which ``vcpus`` count, those that were not plugged
    in later; None where that is not known, or it does not run."""


class JobStats(NamedTuple):
    """The job that is under way in an instance: sizes in bytes (``virDomainGetJobStats``)."""

    operation: str | None
    """What it does: ``migration out``, ``backup``, ``save``, ``dump``; None where libvirt does not
    tell."""
    elapsed: float | None
    """For how many seconds it has been at it."""
    left: float | None
    """How many seconds it expects to need still."""
    data_total: int | None
    """All there is to transfer, of memory and disks."""
    data_processed: int | None
    """What is transferred of it."""
    data_remaining: int | None
    """What is left."""
    memory_total: int | None
    """All memory that there is to transfer."""
    memory_processed: int | None
    """What is transferred of it."""
    memory_remaining: int | None
    """What is left."""
    disk_total: int | None
    """All that there is to transfer of disks."""
    disk_processed: int | None
    """What is transferred of it."""
    disk_remaining: int | None
    """What is left."""


class IoThreadStats(NamedTuple):
    """One thread of the hypervisor's that does I/O for an instance (``iothread.N``)."""

    number: int
    """Its number."""
    poll_max: int | None
    """The longest that it polls before it sleeps, nanoseconds (``poll-max-ns``)."""
    poll_grow: int | None
    """By which factor it polls longer, 0 for QEMU's own (``poll-grow``)."""
    poll_shrink: int | None
    """By which divisor it polls shorter (``poll-shrink``)."""


class DirtyRate(NamedTuple):
    """How fast an instance writes to its memory, as ``virsh domdirtyrate-calc`` has measured it."""

    mebibytes_per_second: int
    """MiB per second (``dirtyrate.megabytes_per_second``)."""
    period: int | None
    """For how many seconds it was measured (``dirtyrate.calc_period``)."""


class Host(NamedTuple):
    """A host of a pool or vCenter, and how its readings are, for whoever looks for a fault."""

    id: str
    """Its UUID."""
    name: str
    """What people call it (``name_label``; with vSphere, ``name``), with its UUID where several
    hosts of a pool are called the same."""
    address: str | None
    """Where it is asked."""
    live: bool | None
    """Whether the rest of the pool hears of it (``host_metrics.live``), or vCenter does."""
    product: str | None
    """Its product and version, for example ``XCP-ng 8.3.0``."""
    build: str | None
    """The release that decides what its answers mean (``xapi_build``)."""
    cpus: int | None
    """Its CPUs (``cpu_info["cpu_count"]``); with vSphere, their threads."""
    instances: int
    """The instances that run on it."""
    quirks: list[str]
    """What is known to be wrong with its release, a few words each."""
    newest: int | None
    """The end of the newest row or sample that was read, seconds since the epoch by the host's
    clock."""
    lag: float | None
    """How old that was when it came, seconds, by the clock of this machine."""
    compared: int
    """How many counters were lately compared with exact ones."""
    differed: int
    """How many of these differed by more than 1 %."""
    exact: bool
    """Whether its rows were found wrong, so that each instance is read by itself."""


class Health(NamedTuple):
    """What an inspector does, and has done since it was made (in this process)."""

    connections: int
    """Connections that are open."""
    opened: int
    """Connections that were ever opened."""
    broken: int
    """Connections that broke while they were used; the next reading opens another."""
    threads: int
    """Threads that take readings, stuck ones and all."""
    stuck: int
    """Threads that are stuck in a call that was given up."""
    handed_out: int
    """Readings that were handed out."""
    read_ahead: int
    """Those of them that were there or under way before they were asked for."""
    wasted: int
    """Readings that were taken ahead and were too old when they were asked for."""
    timeouts: int
    """Readings that were given up."""
    late: int
    """Readings that came after they had been given up, and were dropped."""
    age_sum: float
    """The ages of all readings at the moment they were handed out, summed up, seconds."""
    age_max: float
    """The greatest of these ages, seconds."""
    calls: dict[str, int]
    """Round trips to libvirt, by the name of the call: ``stats``, ``xml``, ``block_info``, …"""
    hung: dict[str, tuple[str | None, float]]
    """The instances that do not answer: by UUID, the name and for how many seconds."""
    busy: dict[str, tuple[str | None, str]]
    """The instances whose guests cannot be asked as they are busy, with a migration for one, which
    is no fault: by UUID, the name and with what."""
    list_hangs: float | None
    """For how many seconds a list of the instances has not come; the last one serves meanwhile."""
    locked: dict[str, str | None]
    """The instances that libvirt itself waits for, so that it tells nothing of them, and does not
    list any: by UUID, their names."""
    outage: tuple[str, float] | None
    """Why libvirt cannot be reached, and for how many seconds."""
    sizes_reckoned: int
    """Sizes of disks that were reckoned from what had been asked for anyway."""
    sizes_asked: int
    """Sizes of disks that were asked for by ``virDomainGetBlockInfo``."""
    sizes_differed: int
    """How often the two differed for a disk, which is asked from then on."""
    refused: dict[str, list[str]]
    """The NICs and disks that libvirt refuses to tell of, and which are left out: by the instance's
    UUID, a sentence for each."""
    away: dict[str, tuple[str, float]]
    """The hosts that do not answer while the rest of their pool does: by name, why, and for how
    many seconds. Their instances are left out."""
