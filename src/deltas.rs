//! What went through each NIC since it was last read. Pure bookkeeping: no I/O, no clock.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::records::{Interface, InterfaceStats};

/// Below this many remembered instances, nobody asks which of them are gone.
const FEW: usize = 64;

/// The last counters of every NIC, by instance and device.
#[derive(Debug, Default)]
pub(crate) struct Deltas {
    instances: HashMap<Uuid, HashMap<String, Last>>,
    /// How many instances were left after the last sweep.
    swept_to: usize,
    /// Counts the readings entered so far; orders readings that overlap.
    entered: u64,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    rx_bytes: i64,
    tx_bytes: i64,
    entered: u64,
}

/// A point in the order of readings, taken before the counters are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Started(u64);

impl Deltas {
    /// To be called before the hypervisor is asked.
    pub(crate) fn start(&self) -> Started {
        Started(self.entered)
    }

    /// Enters one reading of all NICs of an instance. NICs whose counters were refused are left out,
    /// but remembered; NICs that are no longer there are forgotten.
    pub(crate) fn enter(
        &mut self,
        instance: Uuid,
        started: Started,
        interfaces: Vec<Interface>,
    ) -> Vec<InterfaceStats> {
        self.entered += 1;
        let last = self.instances.entry(instance).or_default();
        let present: HashSet<&str> = interfaces.iter().map(|nic| nic.name.as_str()).collect();
        last.retain(|name, _| present.contains(name.as_str()));
        interfaces
            .into_iter()
            .filter_map(|nic| with_deltas(last, self.entered, started, nic))
            .collect()
    }

    /// Forgets an instance that is gone.
    pub(crate) fn forget(&mut self, instance: Uuid) {
        self.instances.remove(&instance);
    }

    /// Whether so much is remembered that it is time to ask which instances still exist.
    pub(crate) fn is_crowded(&self) -> bool {
        self.instances.len() >= FEW.max(2 * self.swept_to)
    }

    /// Forgets every instance that is not among those that exist.
    pub(crate) fn sweep(&mut self, existing: &HashSet<Uuid>) {
        self.instances.retain(|instance, _| existing.contains(instance));
        self.swept_to = self.instances.len();
    }
}

fn with_deltas(
    last: &mut HashMap<String, Last>,
    entered: u64,
    started: Started,
    nic: Interface,
) -> Option<InterfaceStats> {
    let counters = nic.counters?;
    let (rx_bytes, tx_bytes) = (counters.rx_bytes, counters.tx_bytes);
    let previous = last.get(&nic.name).copied();
    let went_back = previous.is_some_and(|p| rx_bytes < p.rx_bytes || tx_bytes < p.tx_bytes);
    // Two threads read at once and the older reading is entered last: not a reset. What it saw
    // has been accounted for already.
    let late = went_back && previous.is_some_and(|p| p.entered > started.0);
    let delta = |now: i64, before: fn(Last) -> i64| match previous {
        None => 0,
        Some(_) if late => 0,
        Some(p) if now < before(p) => i128::from(now),
        Some(p) => i128::from(now) - i128::from(before(p)),
    };
    let (rx_bytes_delta, tx_bytes_delta) =
        (delta(rx_bytes, |p| p.rx_bytes), delta(tx_bytes, |p| p.tx_bytes));
    if !late {
        last.insert(nic.name.clone(), Last { rx_bytes, tx_bytes, entered });
    }
    Some(InterfaceStats {
        name: nic.name,
        mac: nic.mac,
        fref: nic.fref,
        parameters: nic.parameters,
        counters,
        rx_bytes_delta,
        tx_bytes_delta,
    })
}
