//! The samples of one VM, as they were told.

use super::Device;
use crate::vsphere::counters::{Counter, Of};

/// A larger value is no measurement.
const MOST: i64 = 1 << 42;

/// What was told of one VM.
#[derive(Debug, Clone, Copy)]
pub(in crate::vsphere) struct Answer<'a> {
    /// When each sample ends, from old to new, none of them twice.
    pub(in crate::vsphere) times: &'a [i64],
    /// How long each of them is.
    pub(in crate::vsphere) seconds: &'a [u32],
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

impl Answer<'_> {
    /// How long its newest sample is.
    pub(super) fn step(&self) -> i64 {
        self.seconds.last().map_or(20, |seconds| i64::from(*seconds))
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
