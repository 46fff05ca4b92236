//! Finds in one bulk reading what separate calls would have told, in their shapes. Pure.
//!
//! <https://libvirt.org/html/libvirt-libvirt-domain.html#virConnectGetAllDomainStats>

use virt_sys as c;

use super::parameters::Parameters;
use super::sys::DomainStats;

/// Whether the driver has this group.
pub(super) fn has_memory(stats: &Parameters) -> bool {
    stats.contains("balloon.current")
}

/// The memory statistics (`virDomainMemoryStats`). libvirt always tells what the balloon leaves to
/// the guest, the call only with a `balloon`.
pub(super) fn memory(stats: &Parameters, balloon: bool) -> Vec<(u32, u64)> {
    const PARTS: [(&str, u32); 13] = [
        ("balloon.swap_in", c::VIR_DOMAIN_MEMORY_STAT_SWAP_IN),
        ("balloon.swap_out", c::VIR_DOMAIN_MEMORY_STAT_SWAP_OUT),
        ("balloon.major_fault", c::VIR_DOMAIN_MEMORY_STAT_MAJOR_FAULT),
        ("balloon.minor_fault", c::VIR_DOMAIN_MEMORY_STAT_MINOR_FAULT),
        ("balloon.unused", c::VIR_DOMAIN_MEMORY_STAT_UNUSED),
        ("balloon.available", c::VIR_DOMAIN_MEMORY_STAT_AVAILABLE),
        ("balloon.current", c::VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON),
        ("balloon.rss", c::VIR_DOMAIN_MEMORY_STAT_RSS),
        ("balloon.usable", c::VIR_DOMAIN_MEMORY_STAT_USABLE),
        ("balloon.last-update", c::VIR_DOMAIN_MEMORY_STAT_LAST_UPDATE),
        ("balloon.disk_caches", c::VIR_DOMAIN_MEMORY_STAT_DISK_CACHES),
        ("balloon.hugetlb_pgalloc", c::VIR_DOMAIN_MEMORY_STAT_HUGETLB_PGALLOC),
        ("balloon.hugetlb_pgfail", c::VIR_DOMAIN_MEMORY_STAT_HUGETLB_PGFAIL),
    ];
    let told = |(name, tag): &(&str, u32)| {
        let known = *tag != c::VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON || balloon;
        let value = stats.get(name).filter(|_| known)?;
        Some((*tag, u64::try_from(*value).ok()?))
    };
    PARTS.iter().filter_map(told).collect()
}

/// The eight counters of a NIC (`virDomainInterfaceStats`), -1 for what is left out; `None` where
/// there are none at all.
pub(super) fn interface(stats: &DomainStats, device: &str) -> Option<[i64; 8]> {
    const PARTS: [&str; 8] =
        ["rx.bytes", "rx.pkts", "rx.errs", "rx.drop", "tx.bytes", "tx.pkts", "tx.errs", "tx.drop"];
    counters(stats, stats.places.of("net", device)?, PARTS)
}

/// The counters of a disk (`virDomainBlockStats`), -1 for what is left out, and its times
/// (`virDomainBlockStatsFlags`); `None` where there are none at all.
pub(super) fn disk(stats: &DomainStats, device: &str) -> Option<([i64; 5], Parameters)> {
    const PARTS: [&str; 5] = ["rd.reqs", "rd.bytes", "wr.reqs", "wr.bytes", "errors"];
    const FLAGS: [(&str, &str); 4] = [
        ("rd.times", "rd_total_times"),
        ("wr.times", "wr_total_times"),
        ("fl.reqs", "flush_operations"),
        ("fl.times", "flush_total_times"),
    ];
    let place = stats.places.of("block", device)?;
    let counters = counters(stats, place, PARTS)?;
    let flag = |(part, flag): &(&str, &str)| {
        Some(((*flag).to_owned(), *stats.parameters.get(&format!("{place}.{part}"))?))
    };
    Some((counters, FLAGS.iter().filter_map(flag).collect()))
}

/// The sizes of a raw file (`virDomainGetBlockInfo`: capacity, allocation, physical), where that
/// call would tell the same numbers. libvirt asks QEMU alike for both, and hands on what QEMU says
/// of such a file, unless something is missing or equal: then the call looks at the file itself.
pub(super) fn sizes(stats: &DomainStats, device: &str) -> Option<[u64; 3]> {
    let place = stats.places.of("block", device)?;
    let part = |part| u64::try_from(*stats.parameters.get(&format!("{place}.{part}"))?).ok();
    let (capacity, allocation, physical) =
        (part("capacity")?, part("allocation")?, part("physical")?);
    let same = allocation != 0 && physical != 0 && allocation != physical;
    same.then_some([capacity, allocation, physical])
}

/// Whether a group names just these devices of the domain's, or does not name its devices.
pub(super) fn names_are<'a>(
    stats: &DomainStats,
    group: &str,
    known: impl Fn(&str) -> bool,
    expected: impl Iterator<Item = &'a str>,
) -> bool {
    if !stats.parameters.contains(&format!("{group}.count")) {
        return true;
    }
    let mut expected = expected;
    stats.places.devices(group).all(known)
        && expected.all(|device| stats.places.of(group, device).is_some())
}

fn counters<const N: usize>(
    stats: &DomainStats,
    place: &str,
    parts: [&str; N],
) -> Option<[i64; N]> {
    let values = parts.map(|part| stats.parameters.get(&format!("{place}.{part}")).copied());
    values.iter().any(Option::is_some).then(|| {
        values.map(|value| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(-1))
    })
}
