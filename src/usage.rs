//! What a virtual machine has used since it was last looked at. Pure.

use std::time::{Duration, Instant};

use crate::hypervisor::Stamp;
use crate::rates::{Counters, Devices, Growth, Measured, Sample, percent, since, together};
use crate::records::{
    Disk, DiskCounters, DiskRateStats, InstanceId, Interface, InterfaceRateStats, VmCounters,
    VmUsage,
};

/// What was last read for the rates of its devices, of each by itself.
#[derive(Debug, Default, Clone)]
pub(crate) struct Rates {
    pub(crate) nics: Devices<2>,
    pub(crate) disks: Disks,
}

/// What was last read of its disks: bytes and requests each by themselves, as one of them may be known
/// without the other.
#[derive(Debug, Default, Clone)]
pub(crate) struct Disks {
    bytes: Devices<2>,
    requests: Devices<2>,
}

/// What was last read for its usage.
#[derive(Debug, Default, Clone)]
pub(crate) struct Usage {
    read: Option<Instant>,
    /// The time for which the vCPUs ran, and which the whole instance used: what may still be told of
    /// the instance's own CPUs is what was added to one of them since then.
    cpu: [Option<CpuTime>; 2],
    /// Until when that was told.
    cpu_told: Option<Instant>,
    /// The time which the whole instance used, and for which the vCPUs waited and were delayed: each
    /// as it was last known.
    cpus: [Option<CpuTime>; 3],
    /// The vCPUs, where each is known by itself.
    each_cpu: Devices<1, u32>,
    nics: Devices<2>,
    disks: Disks,
}

type CpuTime = Sample<i128, 1>;

/// What was used, as far as it is known.
#[derive(Default)]
struct Used {
    interval: Option<Duration>,
    cpu: Option<Growth<1>>,
    cpus: [Option<Growth<1>>; 3],
    nics: Option<Growth<2>>,
    bytes: Option<Growth<2>>,
    requests: Option<Growth<2>>,
}

impl Disks {
    /// As [`Devices::take_back`].
    pub(crate) fn take_back(&mut self, read: Stamp, [before, after]: [Self; 2]) {
        self.bytes.take_back(read, [before.bytes, after.bytes]);
        self.requests.take_back(read, [before.requests, after.requests]);
    }
}

impl Rates {
    /// Enters a reading of an instance's NICs, and answers with those that have rates.
    pub(crate) fn nic_rates(
        &mut self,
        read: Stamp,
        interfaces: Vec<Interface>,
    ) -> Vec<InterfaceRateStats> {
        let grown = self.nics.enter(read, &nics(&interfaces));
        let rates = |nic: &Interface| {
            counted(nic)?;
            grown.get(nic.key()).map(Growth::per_second)
        };
        let rates: Vec<_> = interfaces.iter().map(rates).collect();
        let record = |(nic, rates): (Interface, Option<[f64; 2]>)| {
            let [rx_bytes_rate, tx_bytes_rate] = rates?;
            Some(InterfaceRateStats {
                name: nic.name,
                mac: nic.mac,
                fref: nic.fref,
                parameters: nic.parameters,
                rx_bytes_rate,
                tx_bytes_rate,
            })
        };
        interfaces.into_iter().zip(rates).filter_map(record).collect()
    }

    /// Enters a reading of an instance's disks, and answers with those that have rates.
    pub(crate) fn disk_rates(&mut self, read: Stamp, all: &[Disk]) -> Vec<DiskRateStats> {
        let bytes = self.disks.bytes.enter(read, &bytes(all));
        let requests = self.disks.requests.enter(read, &requests(all));
        let rates = |disk: &Disk| {
            let device = disk.device.as_str();
            let [read_bytes_rate, write_bytes_rate] = bytes.get(device)?.per_second();
            let requests = requests.get(device).map(Growth::per_second);
            let [read_requests_rate, write_requests_rate] = each(requests);
            Some(DiskRateStats {
                device: disk.device.clone(),
                read_bytes_rate,
                read_requests_rate,
                write_bytes_rate,
                write_requests_rate,
            })
        };
        all.iter().filter_map(rates).collect()
    }
}

impl Usage {
    /// Enters a reading of all that an instance uses.
    pub(crate) fn usage(
        &mut self,
        instance: &InstanceId,
        read: Stamp,
        now: &VmCounters,
        host_cpus: Option<u32>,
    ) -> VmUsage {
        let used = self.enter(read, now);
        let [all, wait, delay] = used.cpus;
        let share = |time: Option<Growth<1>>, cpus: Option<u32>| percent(time?, cpus?);
        let [received, sent] = split(used.nics);
        let [bytes_read, bytes_written] = split(used.bytes);
        let [reads, writes] = split(used.requests);
        VmUsage {
            instance: instance.clone(),
            cpu_number: now.cpu_number,
            cpu_utilization: share(used.cpu, now.cpu_number),
            host_cpu_utilization: share(all, host_cpus),
            interval: used.interval,
            network_read_kib: received.map(kib),
            network_write_kib: sent.map(kib),
            disk_read_requests: reads,
            disk_write_requests: writes,
            disk_read_kib: bytes_read.map(kib),
            disk_write_kib: bytes_written.map(kib),
            memory: now.memory,
            cpu_wait: share(wait, now.cpu_number),
            cpu_steal: share(delay, now.cpu_number),
            network_interval: used.nics.map(|growth| growth.interval),
            disk_interval: used.bytes.map(|growth| growth.interval),
            cpu_interval: used.cpu.map(|growth| growth.interval),
            disk_requests_interval: used.requests.map(|growth| growth.interval),
        }
    }

    /// As [`Devices::take_back`].
    pub(crate) fn take_back(&mut self, read: Stamp, [before, after]: [Self; 2]) {
        if self.read == Some(read.at) {
            *self = before;
            return;
        }
        self.cpu_told = match (before.cpu_told, after.cpu_told) {
            (Some(before), Some(after)) => {
                let told = after.saturating_duration_since(before);
                self.cpu_told.and_then(|now| now.checked_sub(told))
            }
            // All that it told was the first.
            (None, Some(_)) => None,
            (_, None) => self.cpu_told,
        };
        let times = self.cpu.iter_mut().chain(&mut self.cpus);
        let befores = before.cpu.iter().chain(&before.cpus);
        let afters = after.cpu.iter().chain(&after.cpus);
        for ((now, before), after) in times.zip(befores).zip(afters) {
            if let (Some(now), Some(before), Some(after)) = (now, before, after) {
                now.tell_again([before, after]);
            }
        }
        self.each_cpu.take_back(read, [before.each_cpu, after.each_cpu]);
        self.nics.take_back(read, [before.nics, after.nics]);
        self.disks.take_back(read, [before.disks, after.disks]);
    }

    fn enter(&mut self, read: Stamp, now: &VmCounters) -> Used {
        let interval = self.read.and_then(|last| since(read.at, last));
        if self.read.is_some() && interval.is_none() {
            // A younger one has overtaken it, and saw all of this.
            return Used::default();
        }
        self.read = Some(read.at);
        let sample = |time: Option<i128>, measured: Option<Instant>| {
            let time = time.filter(|time| *time >= 0)?;
            let read = Stamp { at: measured.unwrap_or(read.at), ..read };
            Some(Sample { read, counters: [time] })
        };
        let of_vcpus = |time| sample(time, now.vcpus_measured);
        // Measured by a call of its own, it may be older than the last one, and then is none.
        let is_later = |now: &CpuTime| self.cpus[0].is_none_or(|last| now.read.at > last.read.at);
        let whole = sample(now.cpu_time, now.cpu_measured).filter(is_later);
        // Where the vCPUs do not tell, the whole domain's time is the next best.
        let mut cpu = self.first_growth([of_vcpus(now.vcpu_time), whole]);
        let times = [whole, of_vcpus(now.vcpu_wait), of_vcpus(now.vcpu_delay)];
        let mut times = times.into_iter();
        let mut cpus = self.cpus.each_mut().map(|last| {
            let now = times.next().flatten()?;
            now.since(&last.replace(now)?)
        });
        if let Some(each) = &now.each_cpu {
            let each = each_cpu(each);
            let are_same = self.each_cpu.are(&each);
            let grown = if are_same {
                self.each_cpu.enter_whole(read, &each).map(|(grown, _)| grown).unwrap_or_default()
            } else {
                self.each_cpu.enter(read, &each)
            };
            // Utilization is that of those that are there now: not what others did before they were unplugged.
            let number = now.cpu_number.unwrap_or(u32::MAX);
            let there = grown.range::<&u32, _>(..&number).map(|(_, growth)| growth);
            if are_same {
                (cpu, cpus[0]) = (together(there), together(grown.values()));
            } else if u32::try_from(there.clone().count()) == Ok(number) {
                cpu = together(there);
            }
            // Else one was just plugged in, or lags: what all did since the last reading is the next best.
        }
        let mut nics = nics(&now.interfaces);
        // Of most that are handed through, nothing is ever known: they are no part of the total until it is.
        let handed_through = now.interfaces.iter().filter(|nic| nic.is_handed_through());
        for name in handed_through.map(Interface::key) {
            if nics.get(name).is_some_and(Option::is_none) && !self.nics.has_known(name) {
                nics.remove(name);
            }
        }
        // A total of none of those that are there is not 0.
        let is_known = !nics.is_empty() || now.interfaces.is_empty();
        let nics = is_known.then(|| self.nics.enter_together(read, &nics)).flatten();
        let disks = now.disks.as_deref();
        let bytes = disks.and_then(|disks| self.disks.bytes.enter_together(read, &bytes(disks)));
        let requests =
            disks.and_then(|disks| self.disks.requests.enter_together(read, &requests(disks)));
        Used { interval, cpu, cpus, nics, bytes, requests }
    }

    /// Enters counters that tell the same, and answers what was added to the first that knows it. No
    /// other tells it once more: what was counted before that was told is none.
    fn first_growth(&mut self, now: [Option<CpuTime>; 2]) -> Option<Growth<1>> {
        let growth = |(last, now): (&Option<CpuTime>, &Option<CpuTime>)| {
            let now = (*now)?;
            let growth = now.since(last.as_ref()?)?;
            Some((growth.untold(now.read.at, self.cpu_told)?, now.read.at))
        };
        let told = self.cpu.iter().zip(&now).find_map(growth);
        self.cpu_told = told.map(|(_, until)| until).or(self.cpu_told);
        for (last, now) in self.cpu.iter_mut().zip(now) {
            *last = if told.is_some() { now } else { now.or(*last) };
        }
        told.map(|(growth, _)| growth)
    }
}

fn each_cpu(each: &[(u32, i64, Instant)]) -> Counters<'_, 1, u32> {
    let counters = each.iter().map(|(number, time, at)| {
        // From 1 on, as what has never counted may be what is never told.
        let counters = [time.saturating_add(1)];
        (number, Some(Measured { counters, at: Some(*at), outlive: false }))
    });
    counters.collect()
}

fn nics(interfaces: &[Interface]) -> Counters<'_, 2> {
    let mut all = Counters::new();
    for nic in interfaces {
        // Of two virtual functions with one MAC address, libvirt tells one.
        let known = counted(nic).or(all.get(nic.key()).copied().flatten());
        all.insert(nic.key(), known);
    }
    all
}

fn counted(nic: &Interface) -> Option<Measured<2>> {
    let c = nic.counters?;
    let counters = [c.rx_bytes, c.tx_bytes];
    Measured { counters, at: nic.measured, outlive: nic.outlives }.counted()
}

fn bytes(disks: &[Disk]) -> Counters<'_, 2> {
    of_disks(disks, |disk| disk.measured, |c| [c.read_bytes, c.write_bytes])
}

fn requests(disks: &[Disk]) -> Counters<'_, 2> {
    of_disks(disks, |disk| disk.requests_measured, |c| [c.read_requests, c.write_requests])
}

fn of_disks(
    disks: &[Disk],
    measured: impl Fn(&Disk) -> Option<Instant>,
    count: impl Fn(DiskCounters) -> [i64; 2],
) -> Counters<'_, 2> {
    let counters = |disk: &Disk| {
        let counters = count(disk.counters?);
        Measured { counters, at: measured(disk), outlive: false }.counted()
    };
    disks.iter().map(|disk| (disk.device.as_str(), counters(disk))).collect()
}

/// What was added to each counter, if that is known.
fn split<const N: usize>(growth: Option<Growth<N>>) -> [Option<i128>; N] {
    each(growth.map(|growth| growth.added))
}

fn each<T: Copy, const N: usize>(all: Option<[T; N]>) -> [Option<T>; N] {
    all.map_or([None; N], |all| all.map(Some))
}

/// Dividing by a power of two is exact, up to 2^53 bytes.
#[allow(clippy::cast_precision_loss)]
fn kib(bytes: i128) -> f64 {
    bytes as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{InterfaceCounters, Parameters};
    use proptest::prelude::*;

    /// A reading: seconds since the one before, what was used meanwhile, and what of it is known.
    #[derive(Debug, Clone)]
    struct Step {
        seconds: u32,
        used: u16,
        cpus: bool,
        nics: bool,
        /// Whether there is a list of disks, and bytes in it.
        disks: Option<bool>,
        requests: bool,
    }

    fn step() -> impl Strategy<Value = Step> {
        let known = (any::<bool>(), any::<bool>(), any::<Option<bool>>(), any::<bool>());
        (1_u32..5, any::<u16>(), known).prop_map(|(seconds, used, known)| {
            let (cpus, nics, disks, requests) = known;
            Step { seconds, used, cpus, nics, disks, requests }
        })
    }

    fn counters(count: i64, step: &Step) -> VmCounters {
        let time = step.cpus.then_some(i128::from(count));
        let bytes = InterfaceCounters { rx_bytes: count, ..InterfaceCounters::default() };
        let nic = Interface {
            name: "tap0".to_owned(),
            mac: None,
            fref: None,
            parameters: Parameters::default(),
            counters: step.nics.then_some(bytes),
            measured: None,
            outlives: false,
            known_by: None,
        };
        let counters = DiskCounters {
            read_bytes: if step.disks == Some(true) { count } else { -1 },
            read_requests: if step.requests { count } else { -1 },
            ..DiskCounters::default()
        };
        let is_known = step.disks == Some(true) || step.requests;
        let disk = Disk {
            device: "vda".to_owned(),
            counters: is_known.then_some(counters),
            measured: None,
            requests_measured: None,
        };
        VmCounters {
            vcpu_time: time,
            cpu_time: time,
            interfaces: vec![nic],
            disks: step.disks.map(|_| vec![disk]),
            ..VmCounters::default()
        }
    }

    /// What was told all in all: how much, and over how many seconds.
    #[derive(Debug, Default, PartialEq)]
    struct Told(i128, u64);

    impl Told {
        fn more<const N: usize>(&mut self, growth: Option<Growth<N>>) {
            if let Some(growth) = growth {
                *self = Self(self.0 + growth.added[0], self.1 + growth.interval.as_secs());
            }
        }

        /// From the first time that it was known to the last.
        fn of(known: impl Iterator<Item = (u64, i64)> + Clone) -> Self {
            let ends = known.clone().next().zip(known.last());
            ends.map_or(Self::default(), |((from, first), (to, last))| {
                Self(i128::from(last - first), to - from)
            })
        }
    }

    #[test]
    fn the_vcpus_tell_again_after_the_whole_domain_has_told_by_a_later_call() {
        let (start, mut usage) = (Instant::now(), Usage::default());
        let mut tell = |second: u64, vcpus: Option<i128>, whole: i128| {
            let at = start + Duration::from_secs(second);
            let now = VmCounters {
                vcpu_time: vcpus,
                cpu_time: Some(whole),
                cpu_measured: Some(at + Duration::from_millis(1)),
                ..VmCounters::default()
            };
            usage.enter(at.into(), &now).cpu.map(|growth| growth.added[0])
        };
        assert_eq!(tell(0, Some(0), 0), None);
        assert_eq!(tell(1, None, 60_000), Some(60_000));
        assert_eq!(tell(2, Some(20_000), 120_000), Some(60_000), "the vCPUs were not known before");
        assert_eq!(tell(3, Some(30_000), 180_000), Some(9_990), "a millisecond was told");
        assert_eq!(tell(4, Some(40_000), 240_000), Some(10_000));
    }

    proptest! {
        #[test]
        fn all_is_told_once_whatever_hangs_or_is_refused(
            steps in prop::collection::vec(step(), 1..30),
        ) {
            let (start, mut usage) = (Instant::now(), Usage::default());
            let (mut seconds, mut count, mut readings) = (0, 0, Vec::new());
            let (mut cpus, mut nics, mut time) = (Told::default(), Told::default(), 0);
            let (mut bytes, mut requests) = (Told::default(), Told::default());
            for step in steps {
                seconds += u64::from(step.seconds);
                count += i64::from(step.used);
                let at = start + Duration::from_secs(seconds);
                let used = usage.enter(at.into(), &counters(count, &step));
                prop_assert_eq!(used.cpu, used.cpus[0]);
                cpus.more(used.cpu);
                nics.more(used.nics);
                bytes.more(used.bytes);
                requests.more(used.requests);
                time += used.interval.map_or(0, |interval| interval.as_secs());
                readings.push((seconds, count, step));
            }
            let when = |known: fn(&Step) -> bool| {
                let told = readings.iter().filter(move |(_, _, step)| known(step));
                Told::of(told.map(|(seconds, count, _)| (*seconds, *count)))
            };
            prop_assert_eq!(cpus, when(|step| step.cpus));
            prop_assert_eq!(nics, when(|step| step.nics));
            prop_assert_eq!(bytes, when(|step| step.disks == Some(true)));
            prop_assert_eq!(requests, when(|step| step.disks.is_some() && step.requests));
            prop_assert_eq!(time, when(|_| true).1);
        }

        #[test]
        fn no_time_of_the_cpus_is_told_twice_whichever_source_tells_it(
            steps in prop::collection::vec((1_u32..5, any::<u16>(), any::<[bool; 2]>()), 1..30),
        ) {
            let (start, mut usage) = (Instant::now(), Usage::default());
            let (mut seconds, mut count, mut told_until) = (0, 0, None);
            let (mut all, mut readings) = (Told::default(), Vec::<(u64, i64, [bool; 2])>::new());
            for (pause, used, known) in steps {
                seconds += u64::from(pause);
                count += i64::from(used);
                // They tell the same, from different beginnings.
                let now = VmCounters {
                    vcpu_time: known[0].then_some(count.into()),
                    cpu_time: known[1].then_some(i128::from(count) + 1_000_000),
                    ..VmCounters::default()
                };
                let told = usage.enter((start + Duration::from_secs(seconds)).into(), &now);
                all.more(told.cpus[0]);
                let since = told.cpu.map(|growth| seconds - growth.interval.as_secs());
                if let Some((since, growth)) = since.zip(told.cpu) {
                    prop_assert!(told_until.is_none_or(|told| told <= since), "told twice");
                    let from = readings.iter().find(|(at, _, _)| *at == since);
                    let (_, before, then) = from.expect("it is since a reading");
                    prop_assert_eq!(growth.added, [i128::from(count - before)]);
                    prop_assert!((0..2).any(|source| known[source] && then[source]));
                    told_until = Some(seconds);
                }
                if let Some((last, _, then)) = readings.last() {
                    let tells = (0..2).any(|source| known[source] && then[source]);
                    prop_assert!(!tells || since.is_some_and(|since| since <= *last), "lost");
                }
                readings.push((seconds, count, known));
            }
            let whole = readings.iter().filter(|(_, _, known)| known[1]);
            let whole = Told::of(whole.map(|(seconds, count, _)| (*seconds, *count)));
            prop_assert_eq!(all, whole, "the host's share is its own");
        }

        #[test]
        fn a_time_that_was_measured_late_is_over_its_own_interval(
            steps in prop::collection::vec(
                (1_u64..5, any::<Option<u8>>(), any::<[bool; 2]>()), 1..30),
        ) {
            let (start, mut usage, mut seconds) = (Instant::now(), Usage::default(), 0);
            let (mut known, mut told, mut all) = (Vec::new(), Vec::new(), Told::default());
            for (pause, late, tell) in steps {
                seconds += pause;
                let late = late.map(|late| seconds + u64::from(late % 8));
                // Each uses all of a CPU.
                let count = |at: u64| 1000 * i128::from(at);
                let measured = late.unwrap_or(seconds);
                let now = VmCounters {
                    vcpu_time: tell[0].then_some(count(seconds)),
                    cpu_time: tell[1].then_some(count(measured)),
                    cpu_measured: late.map(|late| start + Duration::from_secs(late)),
                    ..VmCounters::default()
                };
                let at = start + Duration::from_secs(seconds);
                let used = usage.enter(at.into(), &now);
                for growth in [used.cpu, used.cpus[0]].into_iter().flatten() {
                    prop_assert_eq!(growth.added, [count(growth.interval.as_secs())]);
                }
                all.more(used.cpus[0]);
                known.extend(tell[1].then_some(measured));
                let ends = [tell[0].then_some(seconds), tell[1].then_some(measured)];
                told.extend(used.cpu.map(|growth| (growth.interval.as_secs(), ends)));
            }
            let until = known.iter().copied().max();
            let span = known.first().zip(until).map_or(0, |(first, last)| last - first);
            prop_assert_eq!(all.1, span, "all of it, and each once");
            // Where each may have ended, there is an order in which none begins before the last ended.
            let mut last = 0;
            for (interval, ends) in told {
                let fits = |end: &u64| *end >= last + interval;
                let end = ends.into_iter().flatten().filter(fits).min();
                prop_assert!(end.is_some(), "told twice");
                last = end.unwrap_or(last);
            }
        }
    }
}
