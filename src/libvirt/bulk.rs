//! What a bulk reading tells of one domain. Pure: typed parameters in, one by one.
//!
//! <https://libvirt.org/html/libvirt-libvirt-domain.html#virConnectGetAllDomainStats>

use std::collections::{BTreeMap, HashMap, HashSet};

use virt_sys as c;

use super::domain_xml::{Disk, Source};
use super::sizes::InBulk;
use super::sys::DomainInfo;
use crate::details::{DirtyRate, IoThreadStats};
use crate::records::{CpuTimes, VcpuTimes};

/// The number of a domain that does not run.
const NOT_RUNNING: u32 = u32::MAX;

/// What a bulk reading tells of one domain; `None` where it has left something out.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    /// The number of a running domain, another at each start.
    pub(super) number: u32,
    /// `virDomainState`, and why it is in it.
    pub(super) state: Option<u32>,
    pub(super) reason: Option<u32>,
    pub(super) cpu_time: Option<i128>,
    pub(super) vcpus: Option<i128>,
    max_vcpus: i128,
    each_vcpu: BTreeMap<u32, Vcpu>,
    balloon: [Option<i128>; BALLOON.len()],
    /// `balloon.maximum`, KiB.
    pub(super) max_memory: Option<i128>,
    /// Cycles, instructions, cache references, cache misses.
    pub(super) perf: [Option<i128>; PERF.len()],
    io_threads: BTreeMap<u32, IoThreadStats>,
    dirty_rate: [Option<i128>; DIRTY_RATE.len()],
    nics: Devices<8>,
    /// How many NICs there are, those among them that have no name on the host.
    nic_count: Option<i128>,
    disks: Devices<12>,
    /// What the disks lie on, by their numbers.
    paths: BTreeMap<u32, Box<str>>,
}

/// One vCPU, nanoseconds.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Vcpu {
    /// `virVcpuState`
    pub(super) state: Option<i128>,
    pub(super) time: Option<i128>,
    pub(super) wait: Option<i128>,
    pub(super) delay: Option<i128>,
}

/// A disk's times and flushes, in the order of [`DISK_TIMES`] (`virDomainBlockStatsFlags`).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct DiskTimes(pub(super) [Option<i128>; 4]);

const PERF: [&str; 4] = ["cpu_cycles", "instructions", "cache_references", "cache_misses"];

/// The parts of the group `dirtyrate` that are asked for.
const DIRTY_RATE: [&str; 3] = ["calc_status", "calc_period", "megabytes_per_second"];

/// The parts of the group `balloon`, and the tags that `virDomainMemoryStats` has for them.
const BALLOON: [(&str, u32); 13] = [
    ("current", c::VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON),
    ("rss", c::VIR_DOMAIN_MEMORY_STAT_RSS),
    ("swap_in", c::VIR_DOMAIN_MEMORY_STAT_SWAP_IN),
    ("swap_out", c::VIR_DOMAIN_MEMORY_STAT_SWAP_OUT),
    ("major_fault", c::VIR_DOMAIN_MEMORY_STAT_MAJOR_FAULT),
    ("minor_fault", c::VIR_DOMAIN_MEMORY_STAT_MINOR_FAULT),
    ("unused", c::VIR_DOMAIN_MEMORY_STAT_UNUSED),
    ("available", c::VIR_DOMAIN_MEMORY_STAT_AVAILABLE),
    ("usable", c::VIR_DOMAIN_MEMORY_STAT_USABLE),
    ("last-update", c::VIR_DOMAIN_MEMORY_STAT_LAST_UPDATE),
    ("disk_caches", c::VIR_DOMAIN_MEMORY_STAT_DISK_CACHES),
    ("hugetlb_pgalloc", c::VIR_DOMAIN_MEMORY_STAT_HUGETLB_PGALLOC),
    ("hugetlb_pgfail", c::VIR_DOMAIN_MEMORY_STAT_HUGETLB_PGFAIL),
];
const CURRENT: usize = 0;
const RSS: usize = 1;

/// The parts of a NIC, in the order of `virDomainInterfaceStats`.
const NIC: [&str; 8] =
    ["rx.bytes", "rx.pkts", "rx.errs", "rx.drop", "tx.bytes", "tx.pkts", "tx.errs", "tx.drop"];

/// The parts of a disk: those of `virDomainBlockStats`, of `virDomainBlockStatsFlags`, and sizes.
const DISK: [&str; 12] = [
    "rd.reqs",
    "rd.bytes",
    "wr.reqs",
    "wr.bytes",
    "errors", // counters
    "rd.times",
    "wr.times",
    "fl.reqs",
    "fl.times", // times
    "capacity",
    "allocation",
    "physical",
];
const DISK_COUNTERS: usize = 5;
const DISK_TIMES: [&str; 4] =
    ["rd_total_times", "wr_total_times", "flush_operations", "flush_total_times"];

impl Bulk {
    pub(super) fn new(number: u32) -> Self {
        Self { number, ..Self::default() }
    }

    /// What `virDomainGetInfo` tells, as if it were a bulk reading.
    pub(super) fn of_info(info: &DomainInfo) -> Self {
        Self {
            state: Some(info.state),
            cpu_time: Some(info.cpu_time.into()),
            vcpus: Some(info.vcpus.into()),
            ..Self::default()
        }
    }

    /// The number of this start of the domain; `None` if it does not run, or nothing was asked.
    pub(super) fn start(&self) -> Option<u32> {
        Some(self.number).filter(|number| !matches!(*number, 0 | NOT_RUNNING))
    }

    /// Takes a parameter that is a number; of two with one name, the last one counts.
    pub(super) fn integer(&mut self, name: &str, value: i128) {
        let Some((group, rest)) = name.split_once('.') else { return };
        match (group, rest) {
            ("state", "state") => self.state = u32::try_from(value).ok(),
            ("state", "reason") => self.reason = u32::try_from(value).ok(),
            ("cpu", "time") => self.cpu_time = Some(value),
            ("vcpu", "current") => self.vcpus = Some(value),
            ("vcpu", "maximum") => self.max_vcpus = value,
            ("balloon", "maximum") => self.max_memory = Some(value),
            ("balloon", _) => {
                set(&mut self.balloon, BALLOON.iter().position(|(part, _)| *part == rest), value);
            }
            ("dirtyrate", _) => set(&mut self.dirty_rate, place(&DIRTY_RATE, rest), value),
            ("net", "count") => self.nic_count = Some(value),
            ("perf", _) => set(&mut self.perf, place(&PERF, rest), value),
            _ => {
                let Some((number, part)) = numbered(rest) else { return };
                match group {
                    "vcpu" => self.vcpu(number, part, value),
                    "iothread" => self.io_thread(number, part, value),
                    "net" => self.nics.set(number, place(&NIC, part), value),
                    "block" => self.disks.set(number, place(&DISK, part), value),
                    _ => {}
                }
            }
        }
    }

    /// Takes a parameter that is a text.
    pub(super) fn text(&mut self, name: &str, value: String) {
        let Some((group, rest)) = name.split_once('.') else { return };
        let Some((number, part)) = numbered(rest) else { return };
        match (group, part) {
            ("net", "name") => {
                self.nics.by_name.entry(value).or_insert(number);
            }
            ("block", "name") => {
                self.disks.by_name.entry(value).or_insert(number);
            }
            ("block", "path") => {
                self.paths.insert(number, value.into());
            }
            _ => {}
        }
    }

    fn io_thread(&mut self, number: u32, part: &str, value: i128) {
        let thread = self.io_threads.entry(number).or_default();
        thread.number = number;
        let value = u64::try_from(value).ok();
        match part {
            "poll-max-ns" => thread.poll_max = value,
            "poll-grow" => thread.poll_grow = value,
            "poll-shrink" => thread.poll_shrink = value,
            _ => {}
        }
    }

    fn vcpu(&mut self, number: u32, part: &str, value: i128) {
        let vcpu = self.each_vcpu.entry(number).or_default();
        match part {
            "state" => vcpu.state = Some(value),
            "time" => vcpu.time = Some(value),
            "wait" => vcpu.wait = Some(value),
            "delay" => vcpu.delay = Some(value),
            _ => {}
        }
    }

    /// Every vCPU below `vcpu.maximum`, by its number; the numbering may have holes.
    pub(super) fn each_vcpu(&self) -> impl Iterator<Item = (u32, &Vcpu)> {
        self.each_vcpu
            .iter()
            .take_while(|(number, _)| i128::from(**number) < self.max_vcpus)
            .map(|(number, vcpu)| (*number, vcpu))
    }

    /// What the CPU times are summed up from.
    pub(super) fn cpu_times(&self) -> CpuTimes {
        let times = |vcpu: &Vcpu| VcpuTimes { time: vcpu.time, wait: vcpu.wait, delay: vcpu.delay };
        let vcpus: Vec<_> = self.each_vcpu().map(|(number, vcpu)| (number, times(vcpu))).collect();
        let are_all = i128::try_from(vcpus.len()).is_ok_and(|told| self.vcpus == Some(told));
        CpuTimes { vcpus: are_all.then_some(vcpus), whole: self.cpu_time }
    }

    /// Takes the time of CPUs and the NICs from a later reading, unless that lacks some of it, or is of another
    /// start; answers whether it did.
    pub(super) fn renew(&mut self, later: Self) -> bool {
        let lacks = |told: fn(&Self) -> bool| told(self) && !told(&later);
        if later.number != self.number
            || lacks(|bulk| bulk.cpu_time.is_some())
            || lacks(|bulk| bulk.cpu_times().vcpus.is_some())
            || lacks(|bulk| !bulk.nics.by_name.is_empty())
        {
            return false;
        }
        let Self { cpu_time, vcpus, max_vcpus, each_vcpu, nics, nic_count, .. } = later;
        let rest = std::mem::take(self);
        *self = Self { cpu_time, vcpus, max_vcpus, each_vcpu, nics, nic_count, ..rest };
        true
    }

    /// The threads that do its I/O.
    pub(super) fn io_threads(&self) -> Vec<IoThreadStats> {
        self.io_threads.values().copied().collect()
    }

    /// How fast it writes to its memory, if that was measured (`virDomainDirtyRateStatus`).
    pub(super) fn dirty_rate(&self) -> Option<DirtyRate> {
        let size = |value: Option<i128>| value.and_then(|value| u64::try_from(value).ok());
        let [status, period, rate] = self.dirty_rate;
        let measured = status == Some(c::VIR_DOMAIN_DIRTYRATE_MEASURED.into());
        let mebibytes_per_second = size(rate).filter(|_| measured)?;
        Some(DirtyRate { mebibytes_per_second, period: size(period) })
    }

    /// Whether it tells of memory at all.
    pub(super) fn has_memory(&self) -> bool {
        self.current_memory().is_some()
    }

    /// `balloon.current`, KiB.
    pub(super) fn current_memory(&self) -> Option<i128> {
        self.balloon[CURRENT]
    }

    /// Whether it tells of memory or of disks, and nothing of what takes the domain's job: somebody
    /// else holds that. (Of a domain that is shut off, nothing takes it, so that there is no reason to wait for it.)
    pub(super) fn lacks_job(&self) -> bool {
        let told =
            |disk: &[Option<i128>; DISK.len()]| disk[..DISK_COUNTERS].iter().any(Option::is_some);
        self.state != Some(c::VIR_DOMAIN_SHUTOFF)
            && (self.has_memory() || !self.disks.by_name.is_empty())
            && self.balloon[RSS].is_none()
            && !self.disks.values.values().any(told)
    }

    /// The memory statistics (`virDomainMemoryStats`). libvirt always tells what the balloon leaves to
    /// the guest, the call only with a `balloon`.
    pub(super) fn memory(&self, balloon: bool) -> Vec<(u32, u64)> {
        let all = BALLOON.iter().zip(&self.balloon).skip(usize::from(!balloon));
        all.filter_map(|((_, tag), value)| Some((*tag, u64::try_from((*value)?).ok()?))).collect()
    }

    /// The eight counters of a NIC (`virDomainInterfaceStats`), -1 for what is left out; `None` where
    /// there are none at all.
    pub(super) fn nic(&self, device: &str) -> Option<[i64; 8]> {
        counters(self.nics.find(device)?)
    }

    /// The counters of a disk (`virDomainBlockStats`), likewise, and its times.
    pub(super) fn disk(&self, device: &str) -> Option<([i64; 5], DiskTimes)> {
        let [told @ .., rd_times, wr_times, flushes, flush_times, _, _, _] =
            self.disks.find(device)?;
        let times = DiskTimes([*rd_times, *wr_times, *flushes, *flush_times]);
        Some((counters(told)?, times))
    }

    /// Whether its NICs are just these, so many with those that have no name on the host, and it has
    /// counters of each that has one.
    pub(super) fn nics_are<'a>(&self, names: impl Iterator<Item = &'a str>, count: usize) -> bool {
        let is_count = |told| i128::try_from(count).is_ok_and(|count| count == told);
        self.nic_count.is_none_or(is_count) && self.nics.are(names, |_, _| false, NIC.len())
    }

    /// Whether its disks are just these, and it has counters of each. What is in an empty drive is none.
    pub(super) fn disks_are<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
        empty: &[String],
    ) -> bool {
        let is_empty =
            |name: &String, number: &u32| empty.contains(name) && !self.paths.contains_key(number);
        self.disks.are(names, is_empty, DISK_COUNTERS)
    }

    /// Whether a disk still lies on what its XML said: a medium may have been changed or ejected.
    pub(super) fn lies_on_its_source(&self, disk: &Disk) -> bool {
        let path = match &*disk.source {
            Source::File(path) | Source::Block(path) => Some(path.as_str()),
            Source::Network(_) | Source::Other => None,
        };
        let number = self.disks.by_name.get(&disk.name);
        number.and_then(|number| self.paths.get(number)).map(AsRef::as_ref) == path
    }

    /// The sizes of a disk of a running domain, if the disk still has the source that its XML had.
    pub(super) fn sizes(&self, disk: &Disk) -> Option<InBulk> {
        let number = self.disks.by_name.get(&disk.name)?;
        // Of one that is shut off, libvirt tells what it finds in the file.
        if self.number == NOT_RUNNING || !self.lies_on_its_source(disk) {
            return None;
        }
        let [.., capacity, allocation, physical] = self.disks.values.get(number)?;
        let size = |size: &Option<i128>| u64::try_from((*size)?).ok();
        let sizes = [size(capacity)?, size(allocation)?, size(physical)?];
        Some(InBulk { number: self.number, sizes })
    }
}

impl<'a> FromIterator<(&'a str, i128)> for DiskTimes {
    fn from_iter<T: IntoIterator<Item = (&'a str, i128)>>(parameters: T) -> Self {
        let mut times = Self::default();
        for (name, value) in parameters {
            set(&mut times.0, place(&DISK_TIMES, name), value);
        }
        times
    }
}

/// The NICs or disks of a bulk reading, which numbers them, with so many values each.
#[derive(Debug)]
struct Devices<const N: usize> {
    values: BTreeMap<u32, [Option<i128>; N]>,
    by_name: HashMap<String, u32>,
}

impl<const N: usize> Default for Devices<N> {
    fn default() -> Self {
        Self { values: BTreeMap::new(), by_name: HashMap::new() }
    }
}

impl<const N: usize> Devices<N> {
    fn set(&mut self, number: u32, part: Option<usize>, value: i128) {
        if let Some(part) = part {
            self.values.entry(number).or_insert([None; N])[part] = Some(value);
        }
    }

    /// Whether those that are not left out have just these names, and each has any of the first so many
    /// values.
    fn are<'a>(
        &self,
        mut names: impl Iterator<Item = &'a str>,
        is_left_out: impl Fn(&String, &u32) -> bool,
        counters: usize,
    ) -> bool {
        let has = |values: &[Option<i128>; N]| values.iter().take(counters).any(Option::is_some);
        let mut seen = HashSet::new();
        let all = names.all(|name| seen.insert(name) && self.find(name).is_some_and(has));
        let is_known = |(name, number): (&String, &u32)| {
            seen.contains(name.as_str()) || is_left_out(name, number)
        };
        // Of two with one name, one has none here.
        let told = self.by_name.values().filter(|number| self.values.contains_key(number));
        all && self.by_name.iter().all(is_known) && told.count() == self.values.len()
    }

    /// Of two with one name, the first one counts.
    fn find(&self, name: &str) -> Option<&[Option<i128>; N]> {
        self.values.get(self.by_name.get(name)?)
    }
}

/// A number as libvirt writes it, a plain decimal without zeroes in front, and what follows it.
fn numbered(rest: &str) -> Option<(u32, &str)> {
    let (number, part) = rest.split_once('.')?;
    let plain = number.bytes().all(|digit| digit.is_ascii_digit())
        && (number == "0" || !number.starts_with('0'));
    Some((number.parse().ok().filter(|_| plain)?, part))
}

fn place(parts: &[&str], name: &str) -> Option<usize> {
    parts.iter().position(|part| *part == name)
}

fn set(values: &mut [Option<i128>], part: Option<usize>, value: i128) {
    if let Some(place) = part.and_then(|part| values.get_mut(part)) {
        *place = Some(value);
    }
}

fn counters<const N: usize>(values: &[Option<i128>]) -> Option<[i64; N]> {
    let value = |at: usize| values.get(at).copied().flatten();
    (0..N).any(|at| value(at).is_some()).then(|| {
        std::array::from_fn(|at| value(at).and_then(|v| i64::try_from(v).ok()).unwrap_or(-1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bulk(integers: &[(&str, i128)], texts: &[(&str, &str)]) -> Bulk {
        let mut bulk = Bulk::new(1);
        for (name, value) in texts {
            bulk.text(name, (*value).to_owned());
        }
        for (name, value) in integers {
            bulk.integer(name, *value);
        }
        bulk
    }

    #[test]
    fn a_device_is_found_by_its_name() {
        let names = [("net.0.name", "tap0"), ("block.0.name", "vda"), ("block.11.name", "vdb")];
        let values = [
            ("net.0.rx.bytes", 1),
            ("net.0.tx.drop", 2),
            ("block.0.rd.reqs", 3),
            ("block.11.fl.times", i128::from(u64::MAX)),
            ("block.11.errors", 5),
            ("block.12.errors", 6),
        ];
        let bulk = bulk(&values, &names);
        assert_eq!(bulk.nic("tap0"), Some([1, -1, -1, -1, -1, -1, -1, 2]));
        assert_eq!(bulk.nic("vda"), None);
        let no_times = DiskTimes::default();
        assert_eq!(bulk.disk("vda"), Some(([3, -1, -1, -1, -1], no_times)));
        let (counters, times) = bulk.disk("vdb").unwrap();
        assert_eq!(counters, [-1, -1, -1, -1, 5]);
        assert_eq!(times.0, [None, None, None, Some(u64::MAX.into())]);
        assert!(!bulk.lacks_job());
    }

    #[test]
    fn those_with_counters_are_known_by_their_names() {
        let names = [("block.0.name", "vda"), ("block.1.name", "sda"), ("block.2.name", "vdb")];
        // Nothing is in the drive sda.
        let values = [("block.0.rd.reqs", 1), ("block.1.capacity", 0), ("block.2.errors", 1)];
        let bulk = bulk(&values, &names);
        let empty = ["sda".to_owned()];
        let are = |names: &[&str]| bulk.disks_are(names.iter().copied(), &empty);
        assert!(are(&["vdb", "vda"]));
        assert!(!bulk.disks_are(["vda", "vdb"].into_iter(), &[]), "sda is new");
        for others in [&["vda"][..], &["vda", "sda", "vdb"], &["vda", "vdc"], &["vda", "vda"], &[]]
        {
            assert!(!are(others), "{others:?}");
        }
        assert!(bulk.nics_are([].into_iter(), 0));
        assert!(!bulk.nics_are(["tap0"].into_iter(), 1));
    }

    #[test]
    fn an_empty_drive_is_none_of_the_disks_until_something_is_in_it() {
        let names = [("block.0.name", "vda"), ("block.1.name", "hda")];
        // QEMU counts for an IDE drive.
        let values = [("block.0.rd.reqs", 1), ("block.1.rd.reqs", 0)];
        let is_vda = |bulk: &Bulk| bulk.disks_are(["vda"].into_iter(), &["hda".to_owned()]);
        assert!(is_vda(&bulk(&values, &names)));
        let [vda, hda] = names;
        assert!(!is_vda(&bulk(&values, &[vda, hda, ("block.1.path", "/medium")])));
    }

    #[test]
    fn of_two_with_one_name_the_first_counts() {
        let names = [("block.0.name", "vda"), ("block.1.name", "vda")];
        let bulk = bulk(&[("block.0.errors", 1), ("block.1.errors", 2)], &names);
        assert_eq!(bulk.disk("vda").unwrap().0[4], 1);
    }

    #[test]
    fn one_that_had_to_do_without_the_job_can_be_told() {
        let current = ("balloon.current", 1);
        assert!(bulk(&[current], &[]).lacks_job());
        assert!(!bulk(&[current, ("state.state", 5)], &[]).lacks_job(), "it is shut off");
        assert!(!bulk(&[current, ("balloon.rss", 1)], &[]).lacks_job());
        let disk = [("block.0.name", "vda")];
        assert!(bulk(&[("block.0.capacity", 1)], &disk).lacks_job());
        assert!(!bulk(&[("block.0.capacity", 1), ("block.0.rd.reqs", 0)], &disk).lacks_job());
        assert!(!bulk(&[("state.state", 1), ("vcpu.0.time", 1)], &[]).lacks_job(), "not asked for");
    }

    #[test]
    fn a_value_that_does_not_fit_is_unknown() {
        let names = [("net.0.name", "tap0")];
        let bulk = bulk(&[("net.0.rx.bytes", 1 << 70), ("state.state", -1)], &names);
        assert_eq!(bulk.nic("tap0"), Some([-1; 8]));
        assert_eq!(bulk.state, None);
    }

    #[test]
    fn numbers_are_plain_decimals() {
        for name in ["vcpu.01.time", "vcpu.+1.time", "vcpu.x.time", "vcpu.1.times", "vcpu..time"] {
            let bulk = bulk(&[("vcpu.maximum", 9), (name, 1)], &[]);
            assert!(bulk.each_vcpu().all(|(_, vcpu)| vcpu.time.is_none()), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_parameters_can_be_taken(
            parameters in prop::collection::vec(
                ("(net|block|vcpu|balloon|state)?\\.?[0-9]{0,11}\\.?(rx|rd|time|name|current)?.{0,5}", any::<i64>()), 0..40),
        ) {
            let mut bulk = Bulk::new(0);
            for (name, value) in &parameters {
                bulk.integer(name, (*value).into());
                bulk.text(name, value.to_string());
            }
            prop_assert!(bulk.memory(true).len() <= BALLOON.len());
        }
    }
}
