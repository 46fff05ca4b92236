//! What is told of a VM: the inventory's words and the totals of its counters in, records out. Pure.
//!
//! What XenServer does not know is `None`, or -1 in the counters of NICs and disks.

use std::time::{Duration, Instant};

use super::inventory::{Disk as Drive, Nic, Vm};
use super::names::RUN_STATES;
use super::objects::DiskKind;
use super::totals::{Told, VmTotals};
use crate::details::{DiskDetails, InstanceDetails, Manager, NicDetails};
use crate::hypervisor::{Content, Parts, Stamp};
use crate::records::{
    CpuTimes, Disk, DiskCounters, DiskInfo, InstanceStats, Interface, InterfaceCounters, Memory,
    VcpuTimes, VmCounters,
};
use crate::samples::first_start;

/// The time that all vCPUs of a domain wait for a CPU.
const CONTENTION: &str = "runstate_full_contention";
const MIB: f64 = 1_048_576.0;
const KIB: f64 = 1024.0;

/// Two counters that rows tell together: both directions of a NIC, or reads and writes.
type Pair = [Told; 2];

/// A VM, what it has used as far as that is known, and where time begins: what was covered since then is
/// the time of its counters.
pub(super) struct Subject<'a> {
    pub(super) vm: &'a Vm<'a>,
    pub(super) used: Option<VmTotals>,
    pub(super) began: Instant,
}

impl Subject<'_> {
    /// A part of a reading.
    pub(super) fn tell(&self, part: Parts) -> Content {
        match part {
            Parts::STATS => {
                let (stats, cpu) = self.stats();
                Content::Stats(Box::new(stats), cpu)
            }
            Parts::NICS => Content::Nics(self.nics(since_start, |_| None)),
            Parts::DISKS => Content::Disks(self.disks(|disk| disk.map(since_start), |_| None)),
            Parts::SIZES => Content::Sizes(self.sizes()),
            Parts::COUNTERS => Content::Counters(Box::new(self.counters())),
            Parts::DETAILS => Content::Details(Box::new(self.details())),
            _ => Content::Server(None),
        }
    }

    /// When the counters were measured, by the time that they cover, and of which start they are.
    pub(super) fn stamp(&self, part: Parts) -> Stamp {
        let covered = self.used.as_ref().map_or(Duration::ZERO, |used| used.covered);
        // Sums go on over a new start; counters since the start do not.
        let is_sum = part == Parts::COUNTERS;
        let of = |start| if is_sum { first_start(start) } else { start };
        let start = self.used.as_ref().map(|used| used.start).map(of);
        Stamp { at: self.began + covered, start }
    }

    fn stats(&self) -> (InstanceStats, CpuTimes) {
        let used = self.used.as_ref();
        let cpu = used.and_then(|used| used.cpu.since_start);
        let delay = self.delayed().and_then(|told| told.since_start);
        let times = |told: &Told| VcpuTimes { time: told.since_start, wait: None, delay };
        let vcpus = used.filter(|used| !used.vcpus.is_empty()).map(|used| {
            used.vcpus.iter().zip(0..).map(|(told, number)| (number, times(told))).collect()
        });
        let stats = InstanceStats {
            power_state: Some(self.vm.power_state().as_libvirt()),
            cpu_number: self.vm.vcpus.map(Into::into),
            cpu_time: cpu,
            memory_actual: self.memory_actual().map(|bytes| bytes / MIB),
            memory_usage: self.memory_used().map(|bytes| bytes / MIB),
            vcpu_time: cpu,
            vcpu_delay: delay,
            ..InstanceStats::default()
        };
        (stats, CpuTimes { vcpus, whole: cpu })
    }

    fn counters(&self) -> VmCounters {
        let used = self.used.as_ref();
        let cpu = used.filter(|used| used.newest.is_some()).map(|used| used.cpu);
        // Each has a time of its own: a plugin may have read nothing for a while.
        let at = |told: &Told| Some(self.began + told.covered);
        let of_both = |[one, other]: Pair| at(&one).max(at(&other));
        VmCounters {
            cpu_number: self.vm.vcpus,
            cpu_time: cpu.map(|cpu| cpu.sum),
            cpu_measured: cpu.as_ref().and_then(at),
            each_cpu: cpu.and(used).and_then(|used| self.each_cpu(used)),
            vcpu_delay: self.delayed().map(|told| told.sum),
            vcpus_measured: self.delayed().as_ref().and_then(at),
            memory: self.memory(),
            interfaces: self.nics(sums, of_both),
            disks: Some(self.disks(sums_of_disk, of_both)),
            ..VmCounters::default()
        }
    }

    /// A row lacks a vCPU now and then: before xapi 25.21 one that ran all the time, where that came to
    /// slightly more than all.
    fn each_cpu(&self, used: &VmTotals) -> Option<Vec<(u32, i64, Instant)>> {
        let cpus = (0..).zip(&used.vcpus);
        let each = cpus.map(|(number, told)| (number, whole(told.sum), self.began + told.covered));
        (!used.vcpus.is_empty()).then(|| each.collect())
    }

    /// For how long the vCPU could have run but had no CPU. The states that XAPI may record are of the
    /// domain as a whole, so that this is known where there is one vCPU alone.
    fn delayed(&self) -> Option<Told> {
        let used = self.used.as_ref().filter(|_| self.vm.vcpus == Some(1))?;
        let mut states = used.run_states.iter();
        let name = |state: u16| RUN_STATES.get(usize::from(state)).copied();
        states.find(|(state, _)| name(*state) == Some(CONTENTION)).map(|(_, told)| *told)
    }

    /// The NICs that are plugged in, with these of their counters, of that time.
    fn nics(
        &self,
        count: impl Fn(Pair) -> [Option<i128>; 2],
        at: impl Fn(Pair) -> Option<Instant>,
    ) -> Vec<Interface> {
        let used = |device| {
            let nics = &self.used.as_ref()?.nics;
            nics.iter().find(|(number, _)| u32::from(*number) == device).map(|(_, both)| *both)
        };
        let nic = |nic: Nic<'_>| {
            let both = used(nic.device);
            let [received, sent] = both.map_or([None; 2], &count);
            let counters = received.zip(sent).map(|(received, sent)| InterfaceCounters {
                rx_bytes: whole(received),
                tx_bytes: whole(sent),
                ..InterfaceCounters::NONE
            });
            let mut parameters = Vec::new();
            parameters
                .extend(nic.uuid.map(|uuid| ("interfaceid".to_owned(), Some(uuid.to_string()))));
            parameters
                .extend(nic.bridge.map(|bridge| ("bridge".to_owned(), Some(bridge.to_owned()))));
            Interface {
                name: self.nic_name(&nic),
                mac: nic.mac,
                fref: None,
                parameters: parameters.into(),
                counters,
                measured: both.and_then(&at),
                outlives: false,
                known_by: nic.uuid.map(|uuid| uuid.to_string()),
            }
        };
        self.vm.nics().into_iter().filter(|nic| nic.attached).map(nic).collect()
    }

    fn nic_name(&self, nic: &Nic<'_>) -> String {
        let domid = self.vm.record.domid;
        domid.map_or_else(|| format!("vif.{}", nic.device), |domid| nic.name(domid))
    }

    /// The disks that are plugged in, with these of their counters, of that time.
    fn disks(
        &self,
        count: impl Fn([Pair; 2]) -> [[Option<i128>; 2]; 2],
        at: impl Fn(Pair) -> Option<Instant>,
    ) -> Vec<Disk> {
        let used = |device: &str| {
            let disks = &self.used.as_ref()?.disks;
            disks.iter().find(|(name, _)| **name == *device).map(|(_, all)| *all)
        };
        let mut told = Vec::new();
        for disk in self.vm.disks() {
            let Some(device) = disk.device.filter(|_| disk.attached && !disk.empty) else {
                continue;
            };
            let all = used(device);
            let counts = all.map(&count);
            let is_known =
                |counts: &[[Option<i128>; 2]; 2]| counts.as_flattened().iter().any(Option::is_some);
            let counters = counts.filter(is_known).map(|counts| {
                let whole = |counts: [Option<i128>; 2]| counts.map(|count| count.map_or(-1, whole));
                let [[read_bytes, write_bytes], [read_requests, write_requests]] =
                    counts.map(whole);
                DiskCounters {
                    read_bytes,
                    read_requests,
                    write_bytes,
                    write_requests,
                    errors: -1,
                    ..DiskCounters::default()
                }
            });
            let [measured, requests_measured] = all.map_or([None; 2], |all| all.map(&at));
            told.push(Disk { device: device.to_owned(), counters, measured, requests_measured });
        }
        told
    }

    fn sizes(&self) -> Vec<DiskInfo> {
        let size = |disk: Drive<'_>| {
            let device = disk.device?.to_owned();
            let (capacity, allocation) = (disk.virtual_size?, disk.physical_utilisation?);
            let occupied = Some(allocation);
            Some(DiskInfo { device, capacity, allocation, physical: allocation, occupied })
        };
        let disks = self.vm.disks().into_iter();
        disks.filter(|disk| disk.kind == DiskKind::Disk && !disk.empty).filter_map(size).collect()
    }

    /// Bytes that the VM has.
    #[allow(clippy::cast_precision_loss)] // exact up to 2^53 bytes
    fn memory_actual(&self) -> Option<f64> {
        let measured = || self.used.as_ref()?.memory.map(|memory| memory.value);
        let actual = self.vm.memory_actual.map(|bytes| bytes as f64).or_else(measured);
        actual.filter(|bytes| *bytes > 0.0)
    }

    /// Bytes that its guest says are free: only while its agent lives, as a source that has gone reads 0.
    fn memory_free(&self) -> Option<f64> {
        let free = self.used.as_ref()?.memory_internal_free?.value * KIB;
        (self.vm.guest_is_live && free > 0.0).then_some(free)
    }

    fn memory_used(&self) -> Option<f64> {
        let used = self.memory_actual()? - self.memory_free()?;
        (used >= 0.0).then_some(used)
    }

    fn memory(&self) -> Memory {
        let target = self.used.as_ref().and_then(|used| used.memory_target);
        let target = target.map(|target| target.value).filter(|bytes| *bytes > 0.0);
        let configured = self.vm.record.memory_target;
        Memory {
            total: self.vm.record.memory_static_max.map(|bytes| bytes / 1024),
            used: self.memory_used().map(kib),
            free: self.memory_free().map(kib),
            target: target.map(kib).or(configured.map(|bytes| bytes / 1024)),
            updated: None,
        }
    }

    #[allow(clippy::cast_precision_loss)] // exact up to 2^53 bytes
    fn details(&self) -> InstanceDetails {
        let record = self.vm.record;
        let mib = |bytes: u64| bytes as f64 / MIB;
        let disk = |disk: Drive<'_>| {
            let kind = if disk.kind == DiskKind::Disk { "disk" } else { "cdrom" };
            Some(DiskDetails {
                device: disk.device?.to_owned(),
                kind: Some(kind.to_owned()),
                ..DiskDetails::default()
            })
        };
        let nic = |nic: Nic<'_>| NicDetails {
            name: self.nic_name(&nic),
            kind: Some("bridge".to_owned()),
            source: nic.bridge.map(str::to_owned),
            port_id: nic.uuid.map(|uuid| uuid.to_string()),
            mac: nic.mac,
            ..NicDetails::default()
        };
        InstanceDetails {
            state: self.vm.power_state().as_libvirt(),
            memory_maximum: record.memory_static_max.map(mib),
            memory_configured: record.memory_target.map(mib),
            vcpus_maximum: self.vm.vcpus_max,
            vcpus_configured: self.vm.vcpus,
            manager: manager(self.vm),
            disks: self.vm.disks().into_iter().filter_map(disk).collect(),
            nics: self.vm.nics().into_iter().map(nic).collect(),
            ..InstanceDetails::default()
        }
    }
}

fn manager(vm: &Vm<'_>) -> Option<Manager> {
    let nova = vm.record.nova_uuid.as_ref().map(|uuid| Manager {
        name: "nova",
        instance: Some(uuid.to_string()),
        ..Manager::default()
    });
    nova.or_else(|| Manager::by_name(&vm.record.name))
}

/// What was counted since the VM is known here. Of one that is not told while the other is, nobody knows whether
/// it stood still.
fn sums(pair: Pair) -> [Option<i128>; 2] {
    let is_known = pair[0].in_newest_row == pair[1].in_newest_row;
    pair.map(|told| is_known.then_some(told.sum))
}

/// The same of the bytes and the requests of a disk.
fn sums_of_disk([bytes, requests]: [Pair; 2]) -> [[Option<i128>; 2]; 2] {
    let in_newest_row = |pair: Pair| pair.iter().any(|told| told.in_newest_row);
    let is_lacking = |pair, other| !in_newest_row(pair) && in_newest_row(other);
    let of = |pair, other| if is_lacking(pair, other) { [None; 2] } else { sums(pair) };
    [of(bytes, requests), of(requests, bytes)]
}

fn since_start(pair: Pair) -> [Option<i128>; 2] {
    pair.map(|told| told.since_start)
}

fn whole(count: i128) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// KiB of not negative bytes.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn kib(bytes: f64) -> u64 {
    (bytes / KIB) as u64
}
