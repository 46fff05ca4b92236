//! Turns what libvirt's calls return into records. Pure: numbers in, numbers out.

use virt_sys as c;

use super::bulk::{Bulk, DiskTimes, Vcpu};
use super::sys::DomainInfo;
use crate::details::{JobStats, VcpuStats};
use crate::records::{DiskCounters, DiskInfo, InstanceStats, InterfaceCounters, Memory};

/// The vCPUs' share of an instance's statistics
/// (<https://libvirt.org/html/libvirt-libvirt-domain.html#VIR_DOMAIN_STATS_VCPU>).
pub(super) struct Vcpus {
    current: Option<i128>,
    /// Time and wait of those that tell both, and whether all do.
    time: i128,
    complete: bool,
    /// What all of them have run, waited and been delayed, nanoseconds; `None` unless all tell.
    pub(super) ran: Option<i128>,
    pub(super) wait: Option<i128>,
    pub(super) delay: Option<i128>,
}

/// Sums what all vCPUs have.
pub(super) fn vcpus(bulk: &Bulk) -> Vcpus {
    let current = bulk.vcpus;
    let sum = |of: fn(&Vcpu) -> Option<i128>| {
        let known = bulk.each_vcpu().filter_map(|(_, vcpu)| of(vcpu));
        known.fold((0, 0), |(sum, count): (i128, i128), value| (sum + value, count + 1))
    };
    let all = |of| {
        let (sum, count) = sum(of);
        (current == Some(count)).then_some(sum)
    };
    let (time, told) = sum(|vcpu| Some(vcpu.time? + vcpu.wait?));
    Vcpus {
        current,
        time,
        complete: current.is_none_or(|current| current == told),
        wait: all(|vcpu| vcpu.wait),
        delay: all(|vcpu| vcpu.delay),
        ran: all(|vcpu| vcpu.time),
    }
}

impl Vcpus {
    /// Whether every vCPU that is plugged in was counted; else only `cpu.time` tells the time.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }
}

/// The record of an instance that runs. `cpu_time` is for when the vCPUs' times are incomplete.
pub(super) fn instance_stats(
    state: u32,
    memory: &[(u32, u64)],
    bulk: &Bulk,
    vcpus: &Vcpus,
    cpu_time: Option<i128>,
) -> InstanceStats {
    // KiB, or a count of pages or faults.
    let stat = |tag| memory_stat(memory, tag);
    let swap_in = stat(c::VIR_DOMAIN_MEMORY_STAT_SWAP_IN);
    let swap_out = stat(c::VIR_DOMAIN_MEMORY_STAT_SWAP_OUT);
    let available = stat(c::VIR_DOMAIN_MEMORY_STAT_AVAILABLE);
    let used = available
        .zip(free_memory(memory))
        .map(|(available, free)| i128::from(available) - i128::from(free));
    let [cycles, instructions, cache_references, cache_misses] = bulk.perf;
    InstanceStats {
        power_state: Some(state),
        cpu_number: vcpus.current,
        cpu_time: if vcpus.complete { Some(vcpus.time) } else { cpu_time },
        memory_actual: stat(c::VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON).map(mib),
        memory_available: available.map(mib),
        memory_usage: used.map(mib),
        memory_resident: stat(c::VIR_DOMAIN_MEMORY_STAT_RSS).map(mib),
        // One without the other says nothing.
        memory_swap_in: swap_out.and(swap_in).map(mib),
        memory_swap_out: swap_in.and(swap_out).map(mib),
        cpu_cycles: cycles,
        instructions,
        cache_references,
        cache_misses,
        vcpu_wait: vcpus.wait,
        vcpu_delay: vcpus.delay,
        memory_major_faults: stat(c::VIR_DOMAIN_MEMORY_STAT_MAJOR_FAULT),
        memory_minor_faults: stat(c::VIR_DOMAIN_MEMORY_STAT_MINOR_FAULT),
        memory_disk_caches: stat(c::VIR_DOMAIN_MEMORY_STAT_DISK_CACHES).map(mib),
        memory_hugetlb_allocations: stat(c::VIR_DOMAIN_MEMORY_STAT_HUGETLB_PGALLOC),
        memory_hugetlb_failures: stat(c::VIR_DOMAIN_MEMORY_STAT_HUGETLB_PGFAIL),
        memory_active: None,
        memory_updated: updated(memory),
        vcpu_time: vcpus.ran,
        // Of the whole reading, which its caller knows.
        start: None,
    }
}

/// Leaves out what cannot be, and is what Ceilometer's inspector says: a guest has told two numbers
/// that contradict one another.
pub(super) fn leave_out_impossible(stats: &mut InstanceStats) {
    stats.memory_usage = stats.memory_usage.filter(|used| *used >= 0.0);
}

fn memory_stat(memory: &[(u32, u64)], tag: u32) -> Option<u64> {
    memory.iter().rev().find(|(known, _)| *known == tag).map(|(_, value)| *value)
}

/// When the guest last told its memory, seconds since the epoch; 0 is libvirt's word for never.
fn updated(memory: &[(u32, u64)]) -> Option<u64> {
    memory_stat(memory, c::VIR_DOMAIN_MEMORY_STAT_LAST_UPDATE).filter(|seconds| *seconds > 0)
}

/// What the guest could use without swapping, or else what it does not use at all, KiB.
fn free_memory(memory: &[(u32, u64)]) -> Option<u64> {
    memory_stat(memory, c::VIR_DOMAIN_MEMORY_STAT_USABLE)
        .or(memory_stat(memory, c::VIR_DOMAIN_MEMORY_STAT_UNUSED))
}

/// Each vCPU that is plugged in.
pub(super) fn each_vcpu(bulk: &Bulk) -> Vec<VcpuStats> {
    let of = |(number, vcpu): (u32, &Vcpu)| VcpuStats {
        number,
        state: vcpu.state.and_then(|state| u32::try_from(state).ok()),
        time: vcpu.time,
        wait: vcpu.wait,
        delay: vcpu.delay,
    };
    bulk.each_vcpu().map(of).collect()
}

/// The job that is under way, of its `virDomainJobType` and its parameters; `None` where there is none.
pub(super) fn job((kind, parameters): (u32, Vec<(String, i128)>)) -> Option<JobStats> {
    const OPERATIONS: [&str; 10] = [
        "start",
        "save",
        "restore",
        "migration in",
        "migration out",
        "snapshot",
        "snapshot revert",
        "dump",
        "backup",
        "snapshot delete",
    ];
    if !matches!(kind, c::VIR_DOMAIN_JOB_BOUNDED | c::VIR_DOMAIN_JOB_UNBOUNDED) {
        return None;
    }
    let find = |name: &str| parameters.iter().find(|(known, _)| known == name).map(|(_, v)| *v);
    let number = |name: &str| find(name).and_then(|value| u64::try_from(value).ok());
    let three =
        |of: &str| ["total", "processed", "remaining"].map(|w| number(&format!("{of}_{w}")));
    let operation = number("operation").and_then(|number| usize::try_from(number).ok());
    Some(JobStats {
        // 0 is unknown.
        operation: operation.and_then(|number| OPERATIONS.get(number.checked_sub(1)?)).copied(),
        elapsed_ms: number("time_elapsed"),
        left_ms: number("time_remaining"),
        data: three("data"),
        memory: three("memory"),
        disk: three("disk"),
    })
}

/// What `virDomainGetInfo` tells, and QEMU's bulk readings too.
pub(super) struct Sums {
    pub(super) vcpus: u32,
    pub(super) cpu_time: i128,
    max_memory_kib: u64,
    memory_kib: u64,
}

impl Sums {
    /// From a bulk reading; `None` where one of them is missing.
    pub(super) fn of(bulk: &Bulk) -> Option<Self> {
        let kib = |value: Option<i128>| u64::try_from(value?).ok();
        Some(Self {
            vcpus: u32::try_from(bulk.vcpus?).ok()?,
            cpu_time: bulk.cpu_time?,
            max_memory_kib: kib(bulk.max_memory)?,
            memory_kib: kib(bulk.current_memory())?,
        })
    }
}

impl From<DomainInfo> for Sums {
    fn from(info: DomainInfo) -> Self {
        Self {
            vcpus: info.vcpus.into(),
            cpu_time: info.cpu_time.into(),
            max_memory_kib: info.max_memory_kib,
            memory_kib: info.memory_kib,
        }
    }
}

/// The memory of an instance that runs.
pub(super) fn memory(sums: &Sums, memory: &[(u32, u64)]) -> Memory {
    let free = free_memory(memory);
    let available = memory_stat(memory, c::VIR_DOMAIN_MEMORY_STAT_AVAILABLE);
    Memory {
        total: Some(sums.max_memory_kib),
        used: available.zip(free).and_then(|(available, free)| available.checked_sub(free)),
        free,
        // LXC's sums have what is in use.
        target: memory_stat(memory, c::VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON)
            .or(Some(sums.memory_kib)),
        updated: updated(memory),
    }
}

/// The record of an instance that is shut off: what it will have when it is started.
pub(super) fn stopped_instance_stats(info: DomainInfo) -> InstanceStats {
    InstanceStats {
        power_state: Some(info.state),
        cpu_number: Some(i128::from(info.vcpus)),
        memory_actual: Some(mib(info.max_memory_kib)),
        ..InstanceStats::default()
    }
}

/// The counters of one NIC.
pub(super) fn interface_counters(stats: [i64; 8]) -> InterfaceCounters {
    let [rx_bytes, rx_packets, rx_errors, rx_drop, tx_bytes, tx_packets, tx_errors, tx_drop] =
        stats;
    InterfaceCounters {
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_drop,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_drop,
    }
}

/// The counters of one disk.
pub(super) fn disk_counters(stats: [i64; 5], DiskTimes(times): DiskTimes) -> DiskCounters {
    let [read_requests, read_bytes, write_requests, write_bytes, errors] = stats;
    let [rd_total_times, wr_total_times, flush_requests, flush_total_times] = times;
    DiskCounters {
        read_bytes,
        read_requests,
        write_bytes,
        write_requests,
        errors,
        wr_total_times,
        rd_total_times,
        flush_requests,
        flush_total_times,
    }
}

/// The record of one disk's sizes. libvirt rounds a CD-ROM's capacity down to whole blocks, below
/// the physical size of its medium.
pub(super) fn disk_info(
    device: String,
    [capacity, allocation, physical]: [u64; 3],
    occupied: Option<u64>,
) -> DiskInfo {
    DiskInfo { device, capacity: capacity.max(physical), allocation, physical, occupied }
}

/// KiB in MiB, rounded as Python rounds `kib / 1024`: dividing by a power of two is exact.
#[allow(clippy::cast_precision_loss)]
fn mib(kib: impl Into<i128>) -> f64 {
    kib.into() as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RUNNING: u32 = 1;

    fn bulk(pairs: &[(&str, i128)]) -> Bulk {
        let mut bulk = Bulk::new(1);
        for (name, value) in pairs {
            bulk.integer(name, *value);
        }
        bulk
    }

    fn cpu_time(pairs: &[(&str, i128)], fallback: Option<i128>) -> Option<i128> {
        let bulk = bulk(pairs);
        let vcpus = vcpus(&bulk);
        instance_stats(RUNNING, &[], &bulk, &vcpus, fallback).cpu_time
    }

    fn memory(stats: &[(u32, u64)]) -> InstanceStats {
        let bulk = Bulk::default();
        instance_stats(RUNNING, stats, &bulk, &vcpus(&bulk), None)
    }

    #[test]
    fn cpu_time_is_the_time_and_wait_of_all_vcpus_with_holes() {
        let pairs = [
            ("vcpu.current", 2),
            ("vcpu.maximum", 4),
            ("vcpu.0.time", 100),
            ("vcpu.0.wait", 10),
            ("vcpu.3.time", 1000),
            ("vcpu.3.wait", 1),
            ("vcpu.4.time", 1 << 60),
            ("vcpu.4.wait", 1 << 60),
        ];
        assert_eq!(cpu_time(&pairs, Some(7)), Some(1111));
    }

    #[test]
    fn cpu_time_falls_back_where_the_vcpus_do_not_add_up() {
        let no_wait = [("vcpu.current", 1), ("vcpu.maximum", 1), ("vcpu.0.time", 100)];
        assert_eq!(cpu_time(&no_wait, Some(7)), Some(7));
        assert_eq!(cpu_time(&no_wait, None), None);
        let too_many = [
            ("vcpu.current", 1),
            ("vcpu.maximum", 2),
            ("vcpu.0.time", 1),
            ("vcpu.0.wait", 1),
            ("vcpu.1.time", 1),
            ("vcpu.1.wait", 1),
        ];
        assert_eq!(cpu_time(&too_many, Some(7)), Some(7));
        assert_eq!(cpu_time(&[], Some(7)), Some(0), "no number of vCPUs: nothing is missing");
    }

    #[test]
    fn cpu_time_does_not_overflow() {
        let most = i128::from(u64::MAX);
        let pairs = [
            ("vcpu.current", 1),
            ("vcpu.maximum", 1),
            ("vcpu.0.time", most),
            ("vcpu.0.wait", most),
        ];
        assert_eq!(cpu_time(&pairs, None), Some(2 * most));
    }

    #[test]
    fn wait_and_delay_are_those_of_all_vcpus_or_none() {
        let of = |pairs: &[(&str, i128)]| {
            let bulk = bulk(pairs);
            let stats = instance_stats(RUNNING, &[], &bulk, &vcpus(&bulk), None);
            (stats.vcpu_wait, stats.vcpu_delay)
        };
        let most = i128::from(u64::MAX);
        let both = [
            ("vcpu.current", 2),
            ("vcpu.maximum", 4),
            ("vcpu.0.wait", 10),
            ("vcpu.0.delay", most),
            ("vcpu.3.wait", 1),
            ("vcpu.3.delay", most),
            ("vcpu.4.wait", 7),
            ("vcpu.4.delay", 7),
        ];
        assert_eq!(of(&both), (Some(11), Some(2 * most)));
        let one_lacks_its_delay: Vec<_> =
            both.into_iter().filter(|(name, _)| *name != "vcpu.3.delay").collect();
        assert_eq!(of(&one_lacks_its_delay), (Some(11), None));
        assert_eq!(of(&both[1..]), (None, None), "nobody knows how many there are");
        assert_eq!(of(&[]), (None, None));
    }

    #[test]
    fn the_balloon_tells_faults_caches_and_huge_pages() {
        let (major, minor, caches, allocated, failed) = (2, 3, 10, 11, 12);
        let most = u64::MAX;
        let stats =
            memory(&[(major, 1), (minor, most), (caches, 512), (allocated, 3), (failed, 0)]);
        assert_eq!((stats.memory_major_faults, stats.memory_minor_faults), (Some(1), Some(most)));
        assert_eq!(stats.memory_disk_caches, Some(0.5));
        assert_eq!(
            (stats.memory_hugetlb_allocations, stats.memory_hugetlb_failures),
            (Some(3), Some(0))
        );
        assert_eq!(memory(&[]).memory_hugetlb_failures, None);
    }

    #[test]
    fn the_balloon_tells_when_it_was_updated_unless_it_never_was() {
        let last_update = 9;
        assert_eq!(memory(&[(last_update, 1_764_000_000)]).memory_updated, Some(1_764_000_000));
        assert_eq!(memory(&[(last_update, 0)]).memory_updated, None);
        assert_eq!(memory(&[]).memory_updated, None);
    }

    #[test]
    fn flushes_are_told_where_they_are_counted() {
        let times = [("flush_operations", 2), ("flush_total_times", 30)].into_iter().collect();
        let disk = disk_counters([0; 5], times);
        assert_eq!((disk.flush_requests, disk.flush_total_times), (Some(2), Some(30)));
        let disk = disk_counters([0; 5], DiskTimes::default());
        assert_eq!((disk.flush_requests, disk.flush_total_times), (None, None));
    }

    #[test]
    fn the_size_of_the_balloon_is_not_what_is_in_use() {
        let sums = Sums { vcpus: 1, cpu_time: 0, max_memory_kib: 2048, memory_kib: 544 };
        let target = |stats: &[(u32, u64)]| super::memory(&sums, stats).target;
        assert_eq!(target(&[(c::VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON, 1024)]), Some(1024));
        assert_eq!(target(&[]), Some(544));
    }

    #[test]
    fn memory_in_use_goes_by_usable_before_unused() {
        let (available, unused, usable) = (5, 4, 8);
        let used = |stats: &[(u32, u64)]| memory(stats).memory_usage;
        assert_eq!(used(&[(available, 4096), (unused, 1024), (usable, 2048)]), Some(2.0));
        assert_eq!(used(&[(available, 4096), (unused, 1024)]), Some(3.0));
        assert_eq!(used(&[(available, 1024), (unused, 3072)]), Some(-2.0));
        assert_eq!(used(&[(available, 4096)]), None);
        assert_eq!(used(&[(unused, 1024), (usable, 2048)]), None);
    }

    #[test]
    fn swap_needs_both_directions() {
        let (swap_in, swap_out) = (0, 1);
        let both = memory(&[(swap_in, 1024), (swap_out, 512)]);
        assert_eq!((both.memory_swap_in, both.memory_swap_out), (Some(1.0), Some(0.5)));
        let one = memory(&[(swap_in, 1024)]);
        assert_eq!((one.memory_swap_in, one.memory_swap_out), (None, None));
    }

    #[test]
    fn capacity_is_never_below_the_physical_size() {
        assert_eq!(disk_info("sda".to_owned(), [4096, 1, 5000], None).capacity, 5000);
        assert_eq!(disk_info("vda".to_owned(), [4096, 1, 50], None).capacity, 4096);
    }

    proptest! {
        #[test]
        fn any_numbers_give_a_record(
            pairs in prop::collection::hash_map("vcpu\\.([0-9]{1,12}|current|maximum)(\\.time|\\.wait)?", any::<i64>(), 0..20),
            memory in prop::collection::vec((0_u32..14, any::<u64>()), 0..14),
        ) {
            let mut bulk = Bulk::new(1);
            for (name, value) in &pairs {
                bulk.integer(name, i128::from(*value));
            }
            let vcpus = vcpus(&bulk);
            let stats = instance_stats(RUNNING, &memory, &bulk, &vcpus, None);
            prop_assert_eq!(stats.cpu_time.is_some(), vcpus.is_complete());
        }
    }
}
