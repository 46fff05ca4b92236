"""Which metric each field of a record becomes: names and units follow Prometheus' conventions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import virtmeter

if TYPE_CHECKING:
    from collections.abc import Callable


class Field(NamedTuple):
    """A field of a record, and the metric that it becomes."""

    field: str
    metric: str
    help: str
    convert: Callable[[Any], float] = float

    @property
    def begins(self) -> bool:
        """Whether it is a counter that begins when a VM is started, or a device plugged in.

        Those of the guest's own memory go on where that is migrated, or restored.
        """
        return self.metric.endswith("_total") and not self.metric.startswith("memory_")


def _seconds(nanoseconds: int) -> float:
    return nanoseconds / 10**9


def _bytes(mebibytes: float) -> float:
    return mebibytes * 2**20


# What is said of every running VM; the name and the unit follow Prometheus' conventions.
INSTANCE = (
    Field("cpu_number", "vcpus", "vCPUs plugged in."),
    Field(
        "cpu_time",
        "cpu_seconds_total",
        "CPU time used, with the vCPUs' waiting for a host CPU: Ceilometer's cpu.",
        _seconds,
    ),
    Field("vcpu_time", "vcpu_seconds_total", "Time that vCPUs ran, without waiting.", _seconds),
    Field(
        "vcpu_wait",
        "vcpu_wait_seconds_total",
        "Time that vCPUs waited for a host CPU, by the scheduler's statistics (0 without them); "
        "not for I/O. vSphere: for I/O, and for memory that the host swaps in.",
        _seconds,
    ),
    Field(
        "vcpu_delay",
        "vcpu_delay_seconds_total",
        "Time that vCPUs could have run but had no host CPU: the guest's steal.",
        _seconds,
    ),
    Field("memory_actual", "memory_actual_bytes", "Memory that the balloon leaves it.", _bytes),
    Field("memory_available", "memory_available_bytes", "Memory its kernel sees.", _bytes),
    Field("memory_usage", "memory_usage_bytes", "Memory in use in the guest.", _bytes),
    Field(
        "memory_resident",
        "memory_resident_bytes",
        "Its resident memory on the host, without its huge pages (hugetlbfs); vSphere: consumed.",
        _bytes,
    ),
    Field(
        "memory_active",
        "memory_active_bytes",
        "Memory used of late, as the hypervisor estimates by samples of pages (vSphere).",
        _bytes,
    ),
    Field("memory_disk_caches", "memory_disk_caches_bytes", "Caches it could give up.", _bytes),
    Field("memory_swap_in", "memory_swap_in_bytes_total", "Read from the guest's swap.", _bytes),
    Field("memory_swap_out", "memory_swap_out_bytes_total", "Written to its swap.", _bytes),
    Field("memory_major_faults", "memory_major_faults_total", "Page faults that read a disk."),
    Field("memory_minor_faults", "memory_minor_faults_total", "Page faults that did not."),
    Field(
        "memory_hugetlb_allocations",
        "memory_hugetlb_allocations_total",
        "Huge pages that the guest allocated.",
    ),
    Field(
        "memory_hugetlb_failures",
        "memory_hugetlb_failures_total",
        "Huge pages that the guest failed to allocate.",
    ),
    Field(
        "memory_updated",
        "memory_updated_timestamp_seconds",
        "When the guest last told its memory; all of it but actual and resident is of then.",
    ),
    Field("cpu_cycles", "cpu_cycles_total", "CPU cycles."),
    Field("instructions", "instructions_total", "CPU instructions."),
    Field("cache_references", "cache_references_total", "References to the CPU's caches."),
    Field("cache_misses", "cache_misses_total", "Misses of the CPU's caches."),
)

NIC = (
    Field("rx_bytes", "nic_receive_bytes_total", "Bytes that the guest received."),
    Field("rx_packets", "nic_receive_packets_total", "Packets that the guest received."),
    Field("rx_drop", "nic_receive_dropped_total", "Incoming packets that were dropped."),
    Field("rx_errors", "nic_receive_errors_total", "Errors in receiving."),
    Field("tx_bytes", "nic_transmit_bytes_total", "Bytes that the guest sent."),
    Field("tx_packets", "nic_transmit_packets_total", "Packets that the guest sent."),
    Field("tx_drop", "nic_transmit_dropped_total", "Outgoing packets that were dropped."),
    Field("tx_errors", "nic_transmit_errors_total", "Errors in sending."),
)

DISK = (
    Field("read_bytes", "disk_read_bytes_total", "Bytes read."),
    Field("read_requests", "disk_read_requests_total", "Read operations."),
    Field("rd_total_times", "disk_read_seconds_total", "Time spent in reading.", _seconds),
    Field("write_bytes", "disk_write_bytes_total", "Bytes written."),
    Field("write_requests", "disk_write_requests_total", "Write operations."),
    Field("wr_total_times", "disk_write_seconds_total", "Time spent in writing.", _seconds),
    Field("flush_requests", "disk_flush_requests_total", "Flushes."),
    Field("flush_total_times", "disk_flush_seconds_total", "Time spent in flushing.", _seconds),
    Field("errors", "disk_errors_total", "Errors; not all hypervisors count them."),
)

DISK_INFO = (
    Field("capacity", "disk_capacity_bytes", "Size that the guest sees."),
    Field(
        "allocation",
        "disk_allocation_bytes",
        "libvirt's allocation: what a qcow2 file occupies, or else the highest offset written; "
        "XenServer, vSphere: what it takes up in its storage.",
    ),
    Field(
        "physical",
        "disk_physical_bytes",
        "libvirt's physical: the length of the file or device, or what a raw image occupies; "
        "XenServer, vSphere: as allocation.",
    ),
    Field(
        "occupied",
        "disk_occupied_bytes",
        "What the image's file occupies on the host, as du says; XenServer, vSphere: as "
        "allocation.",
    ),
)

DETAILS = (
    Field("memory_maximum", "memory_maximum_bytes", "Memory it has without a balloon.", _bytes),
    Field("memory_configured", "memory_configured_bytes", "Memory it is to have now.", _bytes),
    Field("vcpus_maximum", "vcpus_maximum", "The most vCPUs that can be plugged in."),
    Field("vcpus_configured", "vcpus_configured", "vCPUs plugged in, or that a start will bring."),
)

VCPU = (
    Field("state", "each_vcpu_state", "State of a vCPU: 0 offline, 1 running, 2 blocked."),
    Field("time", "each_vcpu_seconds_total", "Time that a vCPU has run.", _seconds),
    Field("wait", "each_vcpu_wait_seconds_total", "Time it was on the run queue.", _seconds),
    Field("delay", "each_vcpu_delay_seconds_total", "Time it lacked a host CPU.", _seconds),
)

JOB = (
    Field("elapsed", "job_elapsed_seconds", "For how long the job has been under way."),
    Field("left", "job_left_seconds", "How long it expects to need still."),
    *(
        Field(f"{of}_{field}", f"job_{of}_{metric}_bytes", f"{what}, of {words}.")
        for of, words in (("data", "all"), ("memory", "the memory"), ("disk", "the disks"))
        for field, metric, what in (
            ("total", "size", "What the job has to transfer"),
            ("processed", "processed", "What it has transferred"),
            ("remaining", "remaining", "What is left to it"),
        )
    ),
)

IO_THREAD = (
    Field("poll_max", "io_thread_poll_max_seconds", "The longest that it polls.", _seconds),
    Field("poll_grow", "io_thread_poll_grow_ratio", "By which it polls longer; 0: QEMU's own."),
    Field("poll_shrink", "io_thread_poll_shrink_ratio", "By which it polls shorter."),
)

DIRTY_RATE = (
    Field(
        "mebibytes_per_second",
        "memory_dirty_bytes_per_second",
        "How fast it writes to its memory, as `virsh domdirtyrate-calc` measured it.",
        _bytes,
    ),
)

DOMAIN = ("uuid", "domain")

TABLES: dict[type, tuple[tuple[Field, ...], tuple[str, ...]]] = {
    virtmeter.InstanceStats: (INSTANCE, DOMAIN),
    virtmeter.InterfaceStats: (NIC, (*DOMAIN, "nic", "mac")),
    virtmeter.DiskStats: (DISK, (*DOMAIN, "disk")),
    virtmeter.DiskInfo: (DISK_INFO, (*DOMAIN, "disk")),
    virtmeter.InstanceDetails: (DETAILS, DOMAIN),
    virtmeter.VcpuStats: (VCPU, (*DOMAIN, "vcpu")),
    virtmeter.JobStats: (JOB, (*DOMAIN, "operation")),
    virtmeter.IoThreadStats: (IO_THREAD, (*DOMAIN, "io_thread")),
    virtmeter.DirtyRate: (DIRTY_RATE, DOMAIN),
}
"""By the type of a record: what its fields become, and the labels."""


def device(record: object) -> tuple[str, ...]:
    """Return the values of the labels that a record has beside its VM's."""
    if isinstance(record, virtmeter.InterfaceStats):
        return (record.name, record.mac or "")
    if isinstance(record, (virtmeter.DiskStats, virtmeter.DiskInfo)):
        return (record.device,)
    if isinstance(record, (virtmeter.VcpuStats, virtmeter.IoThreadStats)):
        return (str(record.number),)
    if isinstance(record, virtmeter.JobStats):
        return (record.operation or "",)
    return ()


NOVA = (*("server_name", "project_id", "user_id", "flavor", "image_id", "os_type", "architecture"),)
"""What Nova says of an instance, as labels; empty for domains that are not Nova's."""

DESCRIBED = ("title", "machine", "manager", "project_name", "user_name")
"""What its XML says of it, as further labels; empty where it does not say."""

DISK_DETAILS = ("device", "bus", "serial", "source", "format", "cache")
NIC_DETAILS = ("nic", "mac", "type", "model", "source", "port_id", "mtu")
"""What disks and NICs are, as labels."""

LABELS = frozenset(
    (
        *(name for _, names in TABLES.values() for name in names),
        *(*NOVA, *DESCRIBED, *DISK_DETAILS, *NIC_DETAILS),
        *("hypervisor", "reason", "limit", "host", "call", "version"),
    )
)
"""All that series have: whoever adds one of these in Prometheus would have two."""

STATES = ", ".join(f"{state.value} {state.name.lower()}" for state in virtmeter.PowerState)
