//! Turns what libvirt's calls return into records. Pure: numbers in, numbers out.

use virt_sys as c;

use super::sys::{DomainInfo, Parameters};
use crate::records::{DiskInfo, DiskStats, InstanceStats, InterfaceCounters};

/// The vCPUs' share of an instance's statistics
/// (<https://libvirt.org/html/libvirt-libvirt-domain.html#VIR_DOMAIN_STATS_VCPU>).
pub(super) struct Vcpus {
    current: Option<i128>,
    time: i128,
    complete: bool,
}

/// Sums time and wait of all vCPUs below `vcpu.maximum`; the numbering may have holes.
pub(super) fn vcpus(parameters: &Parameters) -> Vcpus {
    let current = parameters.get("vcpu.current").copied();
    let maximum = parameters.get("vcpu.maximum").copied().unwrap_or(0);
    let times: Vec<i128> = parameters
        .iter()
        .filter_map(|(name, time)| {
            let number = name.strip_prefix("vcpu.")?.strip_suffix(".time")?;
            let wait = parameters.get(&format!("vcpu.{number}.wait"))?;
            (number.parse::<i128>().ok()? < maximum).then_some(time + wait)
        })
        .collect();
    let counted = i128::try_from(times.len()).ok();
    Vcpus { current, time: times.iter().sum(), complete: current.is_none() || current == counted }
}

impl Vcpus {
    /// Whether every vCPU that is plugged in was counted; else only `cpu.time` tells the time.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }
}

/// The record of an instance that runs. `cpu_time` is for when the vCPUs' times are incomplete.
pub(super) fn instance_stats(
    info: DomainInfo,
    memory: &[(u32, u64)],
    parameters: &Parameters,
    vcpus: &Vcpus,
    cpu_time: Option<i128>,
) -> InstanceStats {
    let kib = |tag| memory.iter().rev().find(|(known, _)| *known == tag).map(|(_, kib)| *kib);
    let swap_in = kib(c::VIR_DOMAIN_MEMORY_STAT_SWAP_IN);
    let swap_out = kib(c::VIR_DOMAIN_MEMORY_STAT_SWAP_OUT);
    let available = kib(c::VIR_DOMAIN_MEMORY_STAT_AVAILABLE);
    let free = kib(c::VIR_DOMAIN_MEMORY_STAT_USABLE).or(kib(c::VIR_DOMAIN_MEMORY_STAT_UNUSED));
    let used =
        available.zip(free).map(|(available, free)| i128::from(available) - i128::from(free));
    let perf = |name: &str| parameters.get(name).copied();
    InstanceStats {
        power_state: Some(info.state),
        cpu_number: vcpus.current,
        cpu_time: if vcpus.complete { Some(vcpus.time) } else { cpu_time },
        memory_actual: kib(c::VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON).map(mib),
        memory_available: available.map(mib),
        memory_usage: used.map(mib),
        memory_resident: kib(c::VIR_DOMAIN_MEMORY_STAT_RSS).map(mib),
        // One without the other says nothing.
        memory_swap_in: swap_out.and(swap_in).map(mib),
        memory_swap_out: swap_in.and(swap_out).map(mib),
        cpu_cycles: perf("perf.cpu_cycles"),
        instructions: perf("perf.instructions"),
        cache_references: perf("perf.cache_references"),
        cache_misses: perf("perf.cache_misses"),
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

/// The record of one disk's counters.
pub(super) fn disk_stats(device: String, stats: [i64; 5], flags: &Parameters) -> DiskStats {
    let [read_requests, read_bytes, write_requests, write_bytes, errors] = stats;
    DiskStats {
        device,
        read_bytes,
        read_requests,
        write_bytes,
        write_requests,
        errors,
        wr_total_times: flags.get("wr_total_times").copied(),
        rd_total_times: flags.get("rd_total_times").copied(),
    }
}

/// The record of one disk's sizes. libvirt rounds a CD-ROM's capacity down to whole blocks, below
/// the physical size of its medium.
pub(super) fn disk_info(device: String, [capacity, allocation, physical]: [u64; 3]) -> DiskInfo {
    DiskInfo { device, capacity: capacity.max(physical), allocation, physical }
}

/// KiB in MiB. libvirt's numbers stay far below 2^53, where a float is exact.
#[allow(clippy::cast_precision_loss)]
fn mib(kib: impl Into<i128>) -> f64 {
    kib.into() as f64 / 1024.0
}
