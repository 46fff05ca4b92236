//! The samples of one VM, as they were told.

use super::Device;
use crate::vsphere::perf::{Counter, Entity, Time};

/// A larger value is no measurement.
const MOST: i64 = 1 << 42;

/// What was told of one VM.
#[derive(Debug, Clone, Copy)]
pub(in crate::vsphere) struct Answer<'a> {
    /// Each sample, from old to new, none of them twice.
    pub(in crate::vsphere) times: &'a [Time],
    pub(in crate::vsphere) series: &'a [Series<'a>],
}

/// The values of a counter, one for each time.
#[derive(Debug, Clone, Copy)]
pub(in crate::vsphere) struct Series<'a> {
    pub(in crate::vsphere) counter: Counter,
    pub(in crate::vsphere) instance: &'a str,
    /// `None` where there was no sample.
    pub(in crate::vsphere) values: &'a [Option<i64>],
}

/// What a counter counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Vm,
    Cpu,
    Nic,
    Disk,
}

impl Counter {
    /// What it counts for, and its place among those that count for the same.
    pub(super) fn of(self) -> (Of, usize) {
        match self {
            Self::MemConsumed => (Of::Vm, 0),
            Self::MemActive => (Of::Vm, 1),
            Self::MemBalloon => (Of::Vm, 2),
            Self::Uptime => (Of::Vm, 3),
            Self::CpuRun => (Of::Cpu, 0),
            Self::CpuUsed => (Of::Cpu, 1),
            Self::CpuReady => (Of::Cpu, 2),
            Self::CpuCostop => (Of::Cpu, 3),
            Self::CpuWait => (Of::Cpu, 4),
            Self::CpuIdle => (Of::Cpu, 5),
            Self::NicReceived => (Of::Nic, 0),
            Self::NicSent => (Of::Nic, 1),
            Self::NicPacketsReceived => (Of::Nic, 2),
            Self::NicPacketsSent => (Of::Nic, 3),
            Self::NicDroppedReceived => (Of::Nic, 4),
            Self::NicDroppedSent => (Of::Nic, 5),
            Self::DiskRead => (Of::Disk, 0),
            Self::DiskWritten => (Of::Disk, 1),
            Self::DiskReads => (Of::Disk, 2),
            Self::DiskWrites => (Of::Disk, 3),
            Self::DiskReadLatency => (Of::Disk, 4),
            Self::DiskWriteLatency => (Of::Disk, 5),
        }
    }
}

impl<'a> Series<'a> {
    /// Every series of a VM.
    pub(in crate::vsphere) fn of(entity: &'a Entity<'a>) -> Vec<Self> {
        let series = entity.series();
        series.map(|(counter, instance, values)| Self { counter, instance, values }).collect()
    }
}

impl Answer<'_> {
    /// When a sample ends.
    pub(super) fn end(&self, at: usize) -> i64 {
        self.times[at].end
    }

    /// How long its newest sample is.
    pub(super) fn step(&self) -> i64 {
        self.times.last().map_or(20, |time| i64::from(time.seconds))
    }

    /// The value that a counter of the VM as a whole has in a sample.
    pub(super) fn value(&self, counter: Counter, place: usize) -> Option<i64> {
        let mut series = self.series.iter();
        series.find(|series| series.counter == counter && series.instance.is_empty())?.value(place)
    }
}

impl Series<'_> {
    pub(super) fn value(&self, place: usize) -> Option<i64> {
        self.values.get(place).copied().flatten().filter(|value| (0..=MOST).contains(value))
    }

    pub(super) fn has_values(&self) -> bool {
        self.values.iter().flatten().any(|value| (0..=MOST).contains(value))
    }

    /// Whether it is about a device.
    pub(super) fn is_of(&self, device: &Device) -> bool {
        match (self.counter.of().0, device) {
            (Of::Cpu, Device::Cpu) => self.instance.is_empty(),
            (Of::Nic, Device::Nic(key)) => self.instance.parse() == Ok(*key),
            (Of::Disk, Device::Disk(name)) => *self.instance == **name,
            _ => false,
        }
    }

    /// The device that it is about: not the sum over all NICs, which has no name, nor the host's own NICs,
    /// which are told beside those of the VM.
    pub(super) fn device(&self) -> Option<Device> {
        match self.counter.of().0 {
            Of::Vm => None,
            Of::Cpu => self.instance.is_empty().then_some(Device::Cpu),
            Of::Nic => self.instance.parse().ok().map(Device::Nic),
            Of::Disk => (!self.instance.is_empty()).then(|| Device::Disk(self.instance.into())),
        }
    }
}
