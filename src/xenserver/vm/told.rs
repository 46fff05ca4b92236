//! What a VM has used, as it is handed out.

use std::time::Duration;

use super::super::counted::Counted;
use super::super::names::Counter;
use super::super::totals::{Told, VmTotals};
use super::{Slot, Vm};
use crate::samples::Sum;

impl Vm {
    /// How much memory it takes, in bytes, where no exact values were read.
    #[cfg(test)]
    pub(in crate::xenserver) fn bytes(&self) -> usize {
        let disks: usize = self.disks.iter().map(|disk| disk.len() + size_of::<Box<str>>()).sum();
        size_of::<Self>() + disks + self.counters.capacity() * size_of::<Slot>()
    }

    fn cpus(&self) -> impl Iterator<Item = &Slot> {
        self.counters.iter().filter(|slot| slot.counter == Counter::Cpu)
    }

    /// For how long something at least is known of it.
    pub(in crate::xenserver) fn time(&self) -> Duration {
        Duration::from_nanos(self.covered)
    }

    /// What it has used.
    pub(in crate::xenserver) fn totals(&self) -> VmTotals {
        let told = |counter, device: usize| {
            let place = u16::try_from(device).ok().and_then(|device| self.slot(counter, device));
            place.map_or_else(Told::default, |place| self.counters[place].told())
        };
        let there = || self.counters.iter().filter(|slot| slot.is_there);
        let each = |counter| there().filter(move |slot| slot.counter == counter);
        let of_domain = self.cpus().filter(|slot| slot.is_of_domain);
        let since_start = of_domain.map(|slot| slot.counted.since_start());
        let cpu = Told {
            sum: self.cpus().map(|slot| slot.counted.sum.nanos).sum(),
            covered: Duration::from_nanos(self.cpu_covered),
            since_start: since_start.sum::<Option<_>>().filter(|_| self.vcpus > 0),
            in_newest_row: self.cpus().any(|slot| slot.in_newest_row),
        };
        let disks = each(Counter::DiskRead).filter_map(|slot| {
            let place = usize::from(slot.device);
            let bytes = [Counter::DiskRead, Counter::DiskWritten];
            let requests = [Counter::DiskReads, Counter::DiskWrites];
            let both = |pair: [Counter; 2]| pair.map(|counter| told(counter, place));
            Some((self.disks.get(place)?.clone(), [bytes, requests].map(both)))
        });
        let nics = each(Counter::NicReceived).map(|slot| {
            let counters = [Counter::NicReceived, Counter::NicSent];
            (slot.device, counters.map(|counter| told(counter, usize::from(slot.device))))
        });
        VmTotals {
            newest: self.mark.map(|mark| mark.0),
            covered: self.time(),
            start: self.starts,
            cpu,
            vcpus: (0..usize::from(self.vcpus)).map(|vcpu| told(Counter::Cpu, vcpu)).collect(),
            nics: nics.collect(),
            disks: disks.collect(),
            run_states: each(Counter::RunState).map(|slot| (slot.device, slot.told())).collect(),
            memory: self.memory,
            memory_target: self.memory_target,
            memory_internal_free: self.memory_internal_free,
        }
    }
}

impl Slot {
    /// In ns, or whole bytes or requests.
    fn told(&self) -> Told {
        let whole = |nanos| match self.counter {
            Counter::Cpu | Counter::RunState => nanos,
            _ => Sum::whole(nanos),
        };
        let Counted { sum, .. } = &self.counted;
        Told {
            sum: whole(sum.nanos),
            covered: Duration::from_nanos(sum.covered),
            since_start: self.counted.since_start().map(whole),
            in_newest_row: self.in_newest_row,
        }
    }
}
