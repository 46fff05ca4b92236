//! What a virtual machine has used since it was last looked at. Pure.

use std::time::Instant;

use uuid::Uuid;

use crate::rates::{Counters, Growth, Meter, percent};
use crate::records::{
    DiskRateStats, DiskStats, InstanceId, Interface, InterfaceRateStats, VmCounters, VmUsage,
};

/// The counters of CPU time, as if they were devices: each may start anew by itself.
const VCPUS: &str = "vcpus";
const ALL: &str = "all";
const WAIT: &str = "wait";
const DELAY: &str = "delay";

/// What callers have last read of each instance.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    cpus: Meter<1>,
    nics: Meter<2>,
    disks: Meter<4>,
}

impl Readings {
    /// Enters a reading of an instance's NICs, and answers with those that have rates.
    pub(crate) fn nic_rates(
        &mut self,
        caller: &str,
        instance: Uuid,
        at: Instant,
        interfaces: Vec<Interface>,
    ) -> Vec<InterfaceRateStats> {
        let growth = self.nics.enter(caller, instance, nics(at, &interfaces));
        let rates = |nic: Interface| {
            let [rx_bytes_rate, tx_bytes_rate] = growth.as_ref()?.rates_of(&nic.name)?;
            Some(InterfaceRateStats {
                name: nic.name,
                mac: nic.mac,
                fref: nic.fref,
                parameters: nic.parameters,
                rx_bytes_rate,
                tx_bytes_rate,
            })
        };
        interfaces.into_iter().filter_map(rates).collect()
    }

    /// Enters a reading of an instance's disks, and answers with those that have rates.
    pub(crate) fn disk_rates(
        &mut self,
        caller: &str,
        instance: Uuid,
        at: Instant,
        read: &[DiskStats],
    ) -> Vec<DiskRateStats> {
        let growth = self.disks.enter(caller, instance, disks(at, read));
        let rates = |disk: &DiskStats| {
            let rates = growth.as_ref()?.rates_of(&disk.device)?;
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

    /// Enters a reading of all that an instance uses.
    pub(crate) fn usage(
        &mut self,
        caller: &str,
        instance: &InstanceId,
        at: Instant,
        now: &VmCounters,
    ) -> VmUsage {
        let cpu_times = [
            (VCPUS, now.vcpu_time),
            (ALL, now.cpu_time),
            (WAIT, now.vcpu_wait),
            (DELAY, now.vcpu_delay),
        ];
        let cpu_times =
            cpu_times.into_iter().filter_map(|(name, time)| Some((name.to_owned(), [time?])));
        let cpus = self.cpus.enter(caller, instance.uuid, Counters::new(at, cpu_times));
        let nics = self.nics.enter(caller, instance.uuid, nics(at, &now.interfaces));
        let disks = match &now.disks {
            Some(read) => self.disks.enter(caller, instance.uuid, disks(at, read)),
            // What they do meanwhile would belong to no interval.
            None => self.disks.forget(caller, instance.uuid),
        };

        let utilization = |time: &str, cpus_there: Option<u32>| {
            let growth: &Growth<1> = cpus.as_ref()?;
            let [nanoseconds] = growth.of(time)?;
            percent(nanoseconds, cpus_there?, growth.interval())
        };
        let [received, sent] = split(nics.as_ref());
        let [bytes_read, reads, bytes_written, writes] = split(disks.as_ref());
        VmUsage {
            instance: instance.clone(),
            cpu_number: now.cpu_number,
            // Where the vCPUs do not tell, the whole domain's time is the next best.
            cpu_utilization: utilization(VCPUS, now.cpu_number)
                .or_else(|| utilization(ALL, now.cpu_number)),
            host_cpu_utilization: utilization(ALL, now.host_cpus),
            interval: cpus.as_ref().map(Growth::interval),
            network_read_kib: received.map(kib),
            network_write_kib: sent.map(kib),
            disk_read_requests: reads,
            disk_write_requests: writes,
            disk_read_kib: bytes_read.map(kib),
            disk_write_kib: bytes_written.map(kib),
            memory: now.memory,
            cpu_wait: utilization(WAIT, now.cpu_number),
            cpu_steal: utilization(DELAY, now.cpu_number),
        }
    }
}

fn nics(at: Instant, interfaces: &[Interface]) -> Counters<2> {
    let counters = |nic: &Interface| {
        let counters = nic.counters?;
        Some((nic.name.clone(), [counters.rx_bytes.into(), counters.tx_bytes.into()]))
    };
    Counters::new(at, interfaces.iter().filter_map(counters))
}

fn disks(at: Instant, disks: &[DiskStats]) -> Counters<4> {
    let counters = |disk: &DiskStats| {
        let counters = [disk.read_bytes, disk.read_requests, disk.write_bytes, disk.write_requests];
        (disk.device.clone(), counters.map(i128::from))
    };
    Counters::new(at, disks.iter().map(counters))
}

/// What was added to each counter of all devices, if there was an interval.
fn split<const N: usize>(growth: Option<&Growth<N>>) -> [Option<i128>; N] {
    growth.map_or([None; N], |growth| growth.total().map(Some))
}

/// Dividing by a power of two is exact, up to 2^53 bytes.
#[allow(clippy::cast_precision_loss)]
fn kib(bytes: i128) -> f64 {
    bytes as f64 / 1024.0
}
