"""Meters of libvirt's that Ceilometer does not have, as pollsters of the running release.

They share the readings of the stock pollsters in each cycle, so that they cost no call of libvirt,
and their resources and metadata. An instance or a disk for which libvirt has no value has no
sample; the stock pollsters would log a warning for each of them in each cycle.
"""

from __future__ import annotations

from typing import Any

from ceilometer import sample
from ceilometer.compute.pollsters import GenericComputePollster, disk, instance_stats

from virtmeter.ceilometer import options

NONE = (None, -1)


class AdditionalPollster(GenericComputePollster):  # type: ignore[misc]  # it has no types
    """A pollster that is there only where the operator wants it."""

    sample_type = sample.TYPE_CUMULATIVE

    def setup_environment(self) -> None:
        """Set up, unless the option is off.

        :raises RuntimeError: it is, or an option has a wrong value; the agent goes on without this
            pollster.
        """
        if not options.additional_meters(self.conf):
            message = "[virtmeter] additional_meters is false"
            raise RuntimeError(message)
        super().setup_environment()

    @classmethod
    def aggregate_method(cls, stats: list[Any]) -> list[Any]:
        """Return the records that have a value.

        Those of the stock inspector have none, and -1 is libvirt's word for none.
        """
        return [each for each in stats if getattr(each, cls.sample_stats_key, None) not in NONE]


class OfInstance(AdditionalPollster, instance_stats.InstanceStatsPollster):  # type: ignore[misc]
    """One sample for each instance."""


class OfDisk(AdditionalPollster, disk.PerDeviceDiskPollster):  # type: ignore[misc]
    """One sample for each disk of each instance."""


class CPUWait(OfInstance):
    """Time that the vCPUs have waited for a host CPU, by the scheduler's count; not for I/O."""

    sample_name = "cpu.wait"
    sample_unit = "ns"
    sample_stats_key = "vcpu_wait"


class CPUDelay(OfInstance):
    """Time that the vCPUs could have run but had no host CPU: steal."""

    sample_name = "cpu.delay"
    sample_unit = "ns"
    sample_stats_key = "vcpu_delay"


class MajorFaults(OfInstance):
    """Page faults in the guest that had to read a disk."""

    sample_name = "memory.fault.major"
    sample_unit = "fault"
    sample_stats_key = "memory_major_faults"


class MinorFaults(OfInstance):
    """Page faults in the guest that did not."""

    sample_name = "memory.fault.minor"
    sample_unit = "fault"
    sample_stats_key = "memory_minor_faults"


class DiskCaches(OfInstance):
    """The guest's caches that it could give up without writing."""

    sample_name = "memory.disk.caches"
    sample_type = sample.TYPE_GAUGE
    # MB in older releases, MiB in newer ones, and the same number.
    sample_unit = instance_stats.MemoryUsagePollster.sample_unit
    sample_stats_key = "memory_disk_caches"


class HugetlbAllocations(OfInstance):
    """Huge pages that the guest has allocated."""

    sample_name = "memory.hugetlb.allocations"
    sample_unit = "page"
    sample_stats_key = "memory_hugetlb_allocations"


class HugetlbFailures(OfInstance):
    """Huge pages that the guest has failed to allocate."""

    sample_name = "memory.hugetlb.failures"
    sample_unit = "page"
    sample_stats_key = "memory_hugetlb_failures"


class FlushRequests(OfDisk):
    """Flushes of a disk."""

    sample_name = "disk.device.flush.requests"
    sample_unit = "request"
    sample_stats_key = "flush_requests"


class FlushLatency(OfDisk):
    """Time spent in flushing a disk."""

    sample_name = "disk.device.flush.latency"
    sample_unit = "ns"
    sample_stats_key = "flush_total_times"
