//! What a virtual machine has used since it was last looked at. Pure.

use std::time::{Duration, Instant};

use crate::rates::{Counters, Devices, Growth, Sample, counted, percent, since};
use crate::records::{
    Disk, DiskRateStats, InstanceId, Interface, InterfaceRateStats, VmCounters, VmUsage,
};

/// What was last read for the rates of its devices, of each by itself.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    nics: Devices<2>,
    disks: Devices<4>,
}

/// What was last read for its usage.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    read: Option<Instant>,
    /// The time for which the vCPUs ran, which the whole instance used, for which they waited and
    /// were delayed: each as it was last known.
    cpus: [Option<Sample<i128, 1>>; 4],
    nics: Devices<2>,
    disks: Devices<4>,
}

/// What was used, as far as it is known.
#[derive(Default)]
struct Used {
    interval: Option<Duration>,
    cpus: [Option<Growth<1>>; 4],
    nics: Option<Growth<2>>,
    disks: Option<Growth<4>>,
}

impl Rates {
    /// Enters a reading of an instance's NICs, and answers with those that have rates.
    pub(crate) fn nic_rates(
        &mut self,
        at: Instant,
        interfaces: Vec<Interface>,
    ) -> Vec<InterfaceRateStats> {
        let grown = self.nics.enter(at, &nics(&interfaces));
        let rates = |nic: &Interface| grown.get(nic.name.as_str()).map(Growth::per_second);
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
    pub(crate) fn disk_rates(&mut self, at: Instant, read: &[Disk]) -> Vec<DiskRateStats> {
        let grown = self.disks.enter(at, &disks(read));
        let rates = |disk: &Disk| {
            let rates = grown.get(disk.device.as_str())?.per_second();
            let [read_bytes_rate, read_requests_rate, write_bytes_rate, write_requests_rate] =
                rates;
            Some(DiskRateStats {
                device: disk.device.clone(),
                read_bytes_rate,
                read_requests_rate,
                write_bytes_rate,
                write_requests_rate,
            })
        };
        read.iter().filter_map(rates).collect()
    }
}

impl Usage {
    /// Enters a reading of all that an instance uses.
    pub(crate) fn usage(
        &mut self,
        instance: &InstanceId,
        at: Instant,
        now: &VmCounters,
        host_cpus: Option<u32>,
    ) -> VmUsage {
        let used = self.enter(at, now);
        let [vcpus, all, wait, delay] = used.cpus;
        let share = |time: Option<Growth<1>>, cpus: Option<u32>| percent(time?, cpus?);
        let [received, sent] = split(used.nics);
        let [bytes_read, reads, bytes_written, writes] = split(used.disks);
        VmUsage {
            instance: instance.clone(),
            cpu_number: now.cpu_number,
            // Where the vCPUs do not tell, the whole domain's time is the next best.
            cpu_utilization: share(vcpus.or(all), now.cpu_number),
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
            disk_interval: used.disks.map(|growth| growth.interval),
            cpu_interval: vcpus.or(all).map(|growth| growth.interval),
        }
    }

    fn enter(&mut self, at: Instant, now: &VmCounters) -> Used {
        let interval = self.read.and_then(|read| since(at, read));
        if self.read.is_some() && interval.is_none() {
            // A younger one has overtaken it, and saw all of this.
            return Used::default();
        }
        self.read = Some(at);
        let mut cpus = [now.vcpu_time, now.cpu_time, now.vcpu_wait, now.vcpu_delay].into_iter();
        let cpus = self.cpus.each_mut().map(|last| {
            let time = cpus.next().flatten().filter(|time| *time >= 0)?;
            let now = Sample { at, counters: [time] };
            let before = last.replace(now)?;
            now.since(&before)
        });
        if now.vcpu_time.is_none() && cpus[1].is_some() {
            // What the vCPUs have run is told as a part of that, and must not be once more.
            self.cpus[0] = None;
        }
        let nics = self.nics.enter_together(at, &nics(&now.interfaces));
        let disks = now.disks.as_ref().and_then(|now| self.disks.enter_together(at, &disks(now)));
        Used { interval, cpus, nics, disks }
    }
}

fn nics(interfaces: &[Interface]) -> Counters<'_, 2> {
    let counters = |nic: &Interface| {
        let c = nic.counters?;
        counted([c.rx_bytes, c.tx_bytes], nic.measured)
    };
    interfaces.iter().map(|nic| (nic.name.as_str(), counters(nic))).collect()
}

fn disks(disks: &[Disk]) -> Counters<'_, 4> {
    let counters = |disk: &Disk| {
        let c = disk.counters?;
        let counters = [c.read_bytes, c.read_requests, c.write_bytes, c.write_requests];
        counted(counters, disk.measured)
    };
    disks.iter().map(|disk| (disk.device.as_str(), counters(disk))).collect()
}

/// What was added to each counter, if that is known.
fn split<const N: usize>(growth: Option<Growth<N>>) -> [Option<i128>; N] {
    growth.map_or([None; N], |growth| growth.added.map(Some))
}

/// Dividing by a power of two is exact, up to 2^53 bytes.
#[allow(clippy::cast_precision_loss)]
fn kib(bytes: i128) -> f64 {
    bytes as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{DiskCounters, InterfaceCounters};
    use proptest::prelude::*;

    /// A reading: seconds since the one before, what was used meanwhile, and what of it is known.
    #[derive(Debug, Clone)]
    struct Step {
        seconds: u32,
        used: u16,
        cpus: bool,
        nics: bool,
        /// Whether there is a list of disks, and counters in it.
        disks: Option<bool>,
    }

    fn step() -> impl Strategy<Value = Step> {
        let known = (any::<bool>(), any::<bool>(), any::<Option<bool>>());
        (1_u32..5, any::<u16>(), known).prop_map(|(seconds, used, (cpus, nics, disks))| Step {
            seconds,
            used,
            cpus,
            nics,
            disks,
        })
    }

    fn counters(count: i64, step: &Step) -> VmCounters {
        let time = step.cpus.then_some(i128::from(count));
        let bytes = InterfaceCounters { rx_bytes: count, ..InterfaceCounters::default() };
        let nic = Interface {
            name: "tap0".to_owned(),
            mac: None,
            fref: None,
            parameters: Vec::new(),
            counters: step.nics.then_some(bytes),
            measured: None,
        };
        let bytes = DiskCounters { read_bytes: count, ..DiskCounters::default() };
        let disk = |known: bool| Disk {
            device: "vda".to_owned(),
            counters: known.then_some(bytes),
            measured: None,
        };
        VmCounters {
            vcpu_time: time,
            cpu_time: time,
            interfaces: vec![nic],
            disks: step.disks.map(|known| vec![disk(known)]),
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

    proptest! {
        #[test]
        fn all_is_told_once_whatever_hangs_or_is_refused(
            steps in prop::collection::vec(step(), 1..30),
        ) {
            let (start, mut usage) = (Instant::now(), Usage::default());
            let (mut seconds, mut count, mut readings) = (0, 0, Vec::new());
            let (mut cpus, mut nics, mut disks, mut time) =
                (Told::default(), Told::default(), Told::default(), 0);
            for step in steps {
                seconds += u64::from(step.seconds);
                count += i64::from(step.used);
                let at = start + Duration::from_secs(seconds);
                let used = usage.enter(at, &counters(count, &step));
                prop_assert_eq!(used.cpus[0], used.cpus[1]);
                cpus.more(used.cpus[0]);
                nics.more(used.nics);
                disks.more(used.disks);
                time += used.interval.map_or(0, |interval| interval.as_secs());
                readings.push((seconds, count, step));
            }
            let when = |known: fn(&Step) -> bool| {
                let told = readings.iter().filter(move |(_, _, step)| known(step));
                Told::of(told.map(|(seconds, count, _)| (*seconds, *count)))
            };
            prop_assert_eq!(cpus, when(|step| step.cpus));
            prop_assert_eq!(nics, when(|step| step.nics));
            prop_assert_eq!(disks, when(|step| step.disks == Some(true)));
            prop_assert_eq!(time, when(|_| true).1);
        }
    }
}
