//! What is told of a VM: the inventory's words and the sums of its samples in, records out. Pure.
//!
//! What vSphere does not know is `None`, or -1 in the counters of NICs and disks.

use std::time::Duration;

use super::devices::{Disk as Drive, Network, Nic};
use super::inventory::{About, Vm};
use super::totals::{Device, Told, VmTotals};
use crate::details::{DiskDetails, InstanceDetails, Manager, NicDetails};
use crate::hypervisor::{Content, Parts, Stamp};
use crate::records::{
    CpuTimes, Disk, DiskCounters, DiskInfo, InstanceStats, Interface, InterfaceCounters, Memory,
    VmCounters,
};
use crate::samples::first_start;

const MIB_IN_KIB: u64 = 1024;

/// A VM, and what it has used as far as that is known.
pub(super) struct Subject<'a> {
    pub(super) vm: &'a Vm,
    pub(super) used: Option<VmTotals<'a>>,
}

/// The counters of a device: the sums, or what they have grown by since the start.
type Counts = fn(&Told) -> [Option<i128>; 6];

const SUMS: Counts = |told| told.sums;
const SINCE_START: Counts = |told| told.since_start;

impl Subject<'_> {
    /// A part of a reading.
    pub(super) fn tell(&self, part: Parts) -> Content {
        match part {
            Parts::STATS => {
                let stats = self.stats();
                // It goes on by itself where vCPUs are unplugged.
                let cpu = CpuTimes { vcpus: None, whole: stats.cpu_time };
                Content::Stats(Box::new(stats), cpu)
            }
            Parts::NICS => Content::Nics(self.nics(SINCE_START)),
            Parts::DISKS => Content::Disks(self.disks(SINCE_START)),
            Parts::SIZES => Content::Sizes(self.sizes()),
            Parts::COUNTERS => Content::Counters(Box::new(self.counters())),
            Parts::DETAILS => Content::Details(Box::new(self.details())),
            _ => Content::Server(self.about().and_then(|about| about.server.clone())),
        }
    }

    /// Whether anything is known of what it has used since it was started.
    pub(super) fn is_sampled(&self) -> bool {
        self.used.as_ref().is_some_and(VmTotals::is_sampled)
    }

    /// When the counters were measured, by the time that they cover, and of which start they are.
    pub(super) fn stamp(&self, part: Parts) -> Stamp {
        let covered = self.used.as_ref().map_or(Duration::ZERO, VmTotals::covered);
        // Sums go on over a new start; counters since the start do not.
        let is_sum = part == Parts::COUNTERS;
        let of = |start| if is_sum { first_start(start) } else { start };
        let start = self.used.as_ref().map(VmTotals::start).map(of);
        Stamp { at: self.vm.began + covered, start }
    }

    fn about(&self) -> Option<&About> {
        self.vm.about.as_deref()
    }

    fn cpu(&self) -> Option<Told> {
        self.used.as_ref()?.cpu()
    }

    fn stats(&self) -> InstanceStats {
        let known = InstanceStats {
            power_state: Some(self.vm.state()),
            cpu_number: self.vm.vcpus.map(Into::into),
            ..InstanceStats::default()
        };
        if !self.vm.runs() {
            // What it used before it was stopped is not what it uses now.
            return InstanceStats { memory_actual: self.most_memory(), ..known };
        }
        let cpu = self.cpu().map(|told| told.since_start);
        let [run, _, ready, costop, wait, _] = cpu.unwrap_or_default();
        let memory = self.used.as_ref().map(VmTotals::memory).unwrap_or_default();
        InstanceStats {
            cpu_time: run,
            vcpu_time: run,
            vcpu_delay: delayed(ready, costop),
            vcpu_wait: wait,
            memory_actual: self.target().and_then(|kib| kib.try_into().ok().map(mib)),
            memory_resident: memory.consumed.map(mib),
            memory_active: memory.active.map(mib),
            ..known
        }
    }

    /// MiB that it may have.
    fn most_memory(&self) -> Option<f64> {
        self.vm.memory_mib.and_then(|mib| u32::try_from(mib).ok()).map(f64::from)
    }

    fn counters(&self) -> VmCounters {
        let cpu = self.cpu();
        let [run, used, ready, costop, wait, _] = cpu.map(|told| told.sums).unwrap_or_default();
        let measured = cpu.map(|told| self.vm.began + told.covered);
        VmCounters {
            cpu_number: self.vm.vcpus,
            vcpu_time: run,
            cpu_time: used,
            vcpus_measured: measured,
            cpu_measured: measured,
            vcpu_wait: wait,
            vcpu_delay: delayed(ready, costop),
            memory: self.memory(),
            interfaces: self.nics(SUMS),
            disks: Some(self.disks(SUMS)),
            ..VmCounters::default()
        }
    }

    /// KiB that the balloon leaves to the VM.
    fn target(&self) -> Option<u64> {
        let balloon = self.used.as_ref()?.memory().balloon?;
        let total = self.vm.memory_mib?.checked_mul(MIB_IN_KIB)?;
        Some(total.saturating_sub(balloon.try_into().ok()?))
    }

    fn memory(&self) -> Memory {
        // The host does not see what the guest's kernel does with its memory.
        Memory {
            total: self.vm.memory_mib.and_then(|mib| mib.checked_mul(MIB_IN_KIB)),
            target: self.target(),
            ..Memory::default()
        }
    }

    /// The NICs that are plugged in.
    fn nics(&self, counts: Counts) -> Vec<Interface> {
        let nic = |nic: &Nic| {
            let told = self.used.as_ref().and_then(|used| used.told(&Device::Nic(nic.key)));
            let counters = told.as_ref().map(|told| {
                let [rx_bytes, tx_bytes, rx_packets, tx_packets, rx_drop, tx_drop] =
                    counts(told).map(whole);
                InterfaceCounters {
                    rx_bytes,
                    rx_packets,
                    rx_errors: -1,
                    rx_drop,
                    tx_bytes,
                    tx_packets,
                    tx_errors: -1,
                    tx_drop,
                }
            });
            let mut parameters = Vec::new();
            let mut parameter = |name: &str, value: Option<String>| {
                parameters.extend(value.map(|value| (name.to_owned(), Some(value))));
            };
            parameter("interfaceid", port(nic));
            parameter("bridge", network(nic));
            Interface {
                name: nic.key.to_string(),
                mac: nic.mac.as_deref().map(str::to_owned),
                fref: None,
                parameters: parameters.into(),
                counters,
                measured: told.map(|told| self.vm.began + told.covered),
                outlives: false,
                known_by: None,
            }
        };
        self.about().map(|about| about.nics.iter().map(nic).collect()).unwrap_or_default()
    }

    /// The disks that are plugged in.
    fn disks(&self, counts: Counts) -> Vec<Disk> {
        let disk = |disk: &Drive| {
            let name = disk.name.clone()?;
            let device = Device::Disk(name);
            let told = self.used.as_ref().and_then(|used| used.told(&device));
            let counters = told.as_ref().map(|told| {
                let counts = counts(told);
                let [read_bytes, write_bytes, read_requests, write_requests, ..] =
                    counts.map(whole);
                DiskCounters {
                    read_bytes,
                    read_requests,
                    write_bytes,
                    write_requests,
                    errors: -1,
                    rd_total_times: counts[4],
                    wr_total_times: counts[5],
                    ..DiskCounters::default()
                }
            });
            let measured = told.map(|told| self.vm.began + told.covered);
            Some(Disk {
                device: disk.name.as_deref()?.to_owned(),
                counters,
                measured,
                requests_measured: measured,
            })
        };
        self.about().map(|about| about.disks.iter().filter_map(disk).collect()).unwrap_or_default()
    }

    fn sizes(&self) -> Vec<DiskInfo> {
        let Some(about) = self.about() else { return Vec::new() };
        let size = |disk: &Drive| {
            let occupied = about.sizes.iter().find(|(key, _)| *key == disk.key)?.1;
            Some(DiskInfo {
                device: disk.name.as_deref()?.to_owned(),
                capacity: disk.capacity?,
                allocation: occupied,
                physical: occupied,
                occupied: Some(occupied),
            })
        };
        about.disks.iter().filter_map(size).collect()
    }

    fn details(&self) -> InstanceDetails {
        let about = self.about();
        let memory = self.most_memory();
        let disk = |disk: &Drive| {
            let name = disk.name.as_deref()?;
            let bus = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == ':');
            Some(DiskDetails {
                device: name.to_owned(),
                kind: Some(if disk.is_raw { "lun" } else { "disk" }.to_owned()),
                bus: Some(bus.to_owned()),
                serial: disk.uuid.as_deref().map(str::to_owned),
                source: disk.file.as_deref().map(str::to_owned),
                format: (!disk.is_raw).then(|| "vmdk".to_owned()),
                ..DiskDetails::default()
            })
        };
        let nic = |nic: &Nic| NicDetails {
            name: nic.key.to_string(),
            mac: nic.mac.as_deref().map(str::to_owned),
            kind: Some("network".to_owned()),
            model: Some(nic.card.to_string()).filter(|card| !card.is_empty()),
            source: network(nic),
            port_id: port(nic),
            ..NicDetails::default()
        };
        InstanceDetails {
            state: self.vm.state(),
            memory_maximum: memory,
            memory_configured: memory,
            vcpus_maximum: self.vm.vcpus,
            vcpus_configured: self.vm.vcpus,
            manager: self.manager(),
            disks: about
                .map(|about| about.disks.iter().filter_map(disk).collect())
                .unwrap_or_default(),
            nics: about.map(|about| about.nics.iter().map(nic).collect()).unwrap_or_default(),
            ..InstanceDetails::default()
        }
    }

    fn manager(&self) -> Option<Manager> {
        let server = self.about().and_then(|about| about.server.as_deref());
        let nova = server.map(|server| Manager {
            name: "nova",
            instance: server.nova.name.clone(),
            project: server.nova.project_id.clone(),
            user: server.nova.user_id.clone(),
        });
        nova.or_else(|| Manager::by_name(&self.vm.name))
    }
}

/// The id of the port that it is plugged into: with Nova, Neutron's.
fn port(nic: &Nic) -> Option<String> {
    nic.interface_id.as_deref().map(str::to_owned)
}

fn network(nic: &Nic) -> Option<String> {
    nic.network.as_ref().map(Network::name).map(str::to_owned)
}

/// For how long vCPUs could have run but had no CPU of the host, or waited for one another to have one.
fn delayed(ready: Option<i128>, costop: Option<i128>) -> Option<i128> {
    Some(ready? + costop?)
}

fn whole(count: Option<i128>) -> i64 {
    count.map_or(-1, |count| i64::try_from(count).unwrap_or(i64::MAX))
}

#[allow(clippy::cast_precision_loss)] // exact up to 2^53 KiB
fn mib(kib: i64) -> f64 {
    kib as f64 / 1024.0
}
