//! What went through each NIC since it was last read. Pure bookkeeping: no I/O, no clock.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use uuid::Uuid;

use crate::hypervisor::Stamp;
use crate::records::{Interface, InterfaceStats};

/// Below this many remembered instances, nobody asks which of them are gone.
const FEW: usize = 64;

/// The last counters of every NIC, by instance and device.
#[derive(Debug, Default)]
pub(crate) struct Deltas {
    /// Whether a new start of an instance is none to them, as to Ceilometer's own inspector.
    ignore_starts: bool,
    instances: HashMap<Uuid, Nics>,
    /// How many instances there were, or were left, at the last sweep.
    swept_to: usize,
    /// Since when a list of the existing ones is awaited.
    awaited: Option<Instant>,
}

/// The NICs of an instance, in the order of their names, and when they were last read.
#[derive(Debug, Default, Clone)]
pub(crate) struct Nics {
    read: Option<Stamp>,
    known: Vec<(Box<str>, Last)>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    /// Received and sent, as far as they were ever counted.
    bytes: [Option<i64>; 2],
    read: Stamp,
}

impl Deltas {
    /// With parity, they are those of Ceilometer's own inspector.
    pub(crate) fn new(parity: bool) -> Self {
        Self { ignore_starts: parity, ..Self::default() }
    }

    /// Enters one reading of all NICs of an instance. NICs whose counters were refused are left out,
    /// but remembered, and so is a counter that is not counted (-1); NICs that are no longer there are
    /// forgotten. All begin at 0 at a new start of the instance.
    pub(crate) fn enter(
        &mut self,
        instance: Uuid,
        read: Stamp,
        interfaces: Vec<Interface>,
    ) -> Vec<InterfaceStats> {
        let began = read.start;
        let read = Stamp { start: began.filter(|_| !self.ignore_starts), ..read };
        let nics = self.instances.entry(instance).or_default();
        let present: HashSet<&str> = interfaces.iter().map(|nic| nic.name.as_str()).collect();
        // Another thread may have read a NIC that was plugged in only after this reading.
        nics.known.retain(|(name, nic)| present.contains(&**name) || nic.read.at > read.at);
        let is_latest = nics.read.is_none_or(|last| last.at < read.at);
        let before = if is_latest { nics.read.replace(read) } else { None };
        // What was not there before has counted from 0 as well since the instance was started.
        let at_start = before.filter(|before| read.is_of_another_start(*before));
        let at_start = at_start.map(|read| Last { bytes: [None; 2], read });
        let with_deltas = |nic| with_deltas(&mut nics.known, at_start, (read, began), nic);
        let told = interfaces.into_iter().filter_map(with_deltas).collect();
        nics.known.shrink_to_fit();
        told
    }

    /// What was last read of an instance.
    pub(crate) fn of(&self, instance: Uuid) -> Nics {
        self.instances.get(&instance).cloned().unwrap_or_default()
    }

    /// Takes a reading of an instance back, before and after which it was so. Where another one was entered since, the
    /// next one tells what that would have told.
    pub(crate) fn take_back(&mut self, instance: Uuid, read: Stamp, [before, after]: [Nics; 2]) {
        let Some(nics) = self.instances.get_mut(&instance) else { return };
        if nics.read.is_some_and(|last| last.at == read.at) {
            *nics = before;
            return;
        }
        for (name, last) in &mut nics.known {
            let Some(after) = after.last(name) else { continue };
            // What came with a start has counted since then.
            let start = before.read.filter(|before| after.read.is_of_another_start(*before));
            let start = start.map(|read| Last { bytes: [None; 2], read });
            if let Some(before) = before.last(name).copied().or(start) {
                last.tell_again([&before, after]);
            }
        }
    }

    /// Forgets an instance that is gone.
    pub(crate) fn forget(&mut self, instance: Uuid) {
        self.instances.remove(&instance);
    }

    /// Since when a list of the instances that exist is awaited, as so much is remembered; others
    /// remember so many. One that was asked for earlier will not do.
    pub(crate) fn awaits_list(&mut self, others: usize, now: Instant) -> Option<Instant> {
        let remembered = self.instances.len().max(others);
        if remembered >= FEW.max(2 * self.swept_to) {
            self.awaited.get_or_insert(now);
        }
        self.awaited
    }

    /// Forgets every instance that is not among those that exist, by a list that was asked for
    /// then; an instance that was read since may be newer than the list.
    pub(crate) fn sweep(&mut self, existing: &HashSet<Uuid>, asked: Instant) {
        self.instances.retain(|instance, nics| {
            existing.contains(instance) || nics.read.is_some_and(|read| read.at > asked)
        });
        self.swept_to = self.instances.len().max(existing.len());
        self.awaited = None;
    }
}

impl Nics {
    fn last(&self, name: &str) -> Option<&Last> {
        let place = self.known.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        self.known.get(place).map(|(_, last)| last)
    }
}

impl Last {
    /// What was added between two earlier ones was told to nobody: it is to be told with what comes next.
    fn tell_again(&mut self, [before, after]: [&Self; 2]) {
        if self.read.is_of_another_start(after.read) {
            return;
        }
        let is_anew = after.read.is_of_another_start(before.read);
        for ((now, before), after) in self.bytes.iter_mut().zip(before.bytes).zip(after.bytes) {
            let before = if is_anew { Some(0) } else { before };
            if let (Some(now), Some((before, after))) = (now, before.zip(after)) {
                // As it was told.
                *now -= if after < before { after } else { after - before };
            }
        }
    }
}

fn with_deltas(
    known: &mut Vec<(Box<str>, Last)>,
    at_start: Option<Last>,
    (read, began): (Stamp, Option<u32>),
    nic: Interface,
) -> Option<InterfaceStats> {
    let place = known.binary_search_by(|(name, _)| (**name).cmp(&nic.name));
    let Some(counters) = nic.counters else {
        // What it has counted since the start is in its first delta.
        if let (Err(place), Some(last)) = (place, at_start) {
            known.insert(place, (nic.name.as_str().into(), last));
        }
        return None;
    };
    let start = read.start.filter(|_| !nic.outlives);
    let read = Stamp { at: nic.measured.unwrap_or(read.at), start };
    let previous = place.ok().map(|place| known[place].1).or(at_start);
    let is_anew = previous.is_some_and(|previous| read.is_of_another_start(previous.read));
    let before = match previous {
        Some(_) if is_anew => [Some(0); 2],
        previous => previous.map_or([None; 2], |previous| previous.bytes),
    };
    let now = [counters.rx_bytes, counters.tx_bytes].map(|bytes| (bytes >= 0).then_some(bytes));
    let bytes = [(now[0], before[0]), (now[1], before[1])];
    // Two threads read at once and the older reading is entered last: not a reset. What it saw
    // has been accounted for already.
    let late = previous.is_some_and(|previous| previous.read.at > read.at);
    let added = |(now, before): (Option<i64>, Option<i64>)| match now.zip(before) {
        None => 0,
        Some((now, before)) if now < before => i128::from(now),
        Some((now, before)) => i128::from(now) - i128::from(before),
    };
    let [rx_bytes_delta, tx_bytes_delta] = if late { [0; 2] } else { bytes.map(added) };
    if !late {
        let bytes = bytes.map(|(now, before)| now.or(before));
        let last = Last { bytes, read };
        match place {
            Ok(place) => known[place].1 = last,
            Err(place) => known.insert(place, (nic.name.as_str().into(), last)),
        }
    }
    Some(InterfaceStats {
        name: nic.name,
        mac: nic.mac,
        fref: nic.fref,
        parameters: nic.parameters,
        counters,
        rx_bytes_delta,
        tx_bytes_delta,
        start: began.filter(|_| !nic.outlives),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{InterfaceCounters, Parameters};
    use proptest::prelude::*;

    const VM: Uuid = Uuid::from_u128(1);

    fn nic(name: &str, counters: Option<(i64, i64)>) -> Interface {
        Interface {
            name: name.to_owned(),
            mac: None,
            fref: None,
            parameters: Parameters::default(),
            counters: counters.map(|(rx_bytes, tx_bytes)| InterfaceCounters {
                rx_bytes,
                tx_bytes,
                ..InterfaceCounters::default()
            }),
            measured: None,
            outlives: false,
            known_by: None,
        }
    }

    fn read(deltas: &mut Deltas, vm: Uuid, counters: (i64, i64)) -> (i128, i128) {
        enter(deltas, vm, now(), counters)
    }

    /// A time after that of any reading before.
    fn now() -> Stamp {
        thread_local! {
            static LAST: std::cell::Cell<Instant> = std::cell::Cell::new(Instant::now());
        }
        LAST.set(LAST.get() + std::time::Duration::from_secs(1));
        LAST.get().into()
    }

    fn enter(deltas: &mut Deltas, vm: Uuid, at: Stamp, counters: (i64, i64)) -> (i128, i128) {
        let stats = deltas.enter(vm, at, vec![nic("tap0", Some(counters))]);
        (stats[0].rx_bytes_delta, stats[0].tx_bytes_delta)
    }

    #[test]
    fn deltas_start_at_zero_and_count_on() {
        let mut deltas = Deltas::default();
        assert_eq!(read(&mut deltas, VM, (10, 100)), (0, 0));
        assert_eq!(read(&mut deltas, VM, (15, 100)), (5, 0));
    }

    #[test]
    fn a_counter_that_went_back_gives_its_new_value() {
        let mut deltas = Deltas::default();
        read(&mut deltas, VM, (1000, 7));
        assert_eq!(read(&mut deltas, VM, (30, 9)), (30, 2));
        assert_eq!(read(&mut deltas, VM, (31, 9)), (1, 0));
    }

    #[test]
    fn all_bytes_of_a_new_start_are_new() {
        let mut deltas = Deltas::default();
        let mut received = |start, nics: &[(&str, i64, bool)]| {
            let nics = nics.iter().map(|(name, bytes, outlives)| Interface {
                outlives: *outlives,
                known_by: None,
                ..nic(name, Some((*bytes, 0)))
            });
            let stats = deltas.enter(VM, Stamp { start, ..now() }, nics.collect());
            stats.iter().map(|nic| nic.rx_bytes_delta).collect::<Vec<_>>()
        };
        let tap = |name, bytes| (name, bytes, false);
        let outlives = |name, bytes| (name, bytes, true);
        assert_eq!(received(Some(12), &[tap("tap0", 150), outlives("vf0", 150)]), [0, 0]);
        assert_eq!(received(Some(13), &[tap("tap0", 400), outlives("vf0", 400)]), [400, 250]);
        assert_eq!(received(Some(13), &[tap("tap0", 410), tap("tap1", 9)]), [10, 0]);
        assert_eq!(received(Some(14), &[tap("tap2", 7), outlives("vf1", 1 << 40)]), [7, 0]);
        assert_eq!(received(None, &[tap("tap2", 8)]), [1], "it is not known");
        assert_eq!(received(Some(15), &[tap("tap2", 9)]), [1]);
    }

    #[test]
    fn what_is_taken_back_is_told_after_whatever_another_thread_was_told() {
        for (start, name, before, lost) in [
            (1, "tap0", 100, 150),
            (2, "tap0", 100, 250),
            (2, "tap0", 1000, 250),
            (2, "tap1", 1000, 250),
        ] {
            let mut deltas = Deltas::default();
            let enter = |deltas: &mut Deltas, start, name, bytes| {
                let (stamp, before) = (Stamp { start: Some(start), ..now() }, deltas.of(VM));
                let told = deltas.enter(VM, stamp, vec![nic(name, Some((bytes, 0)))]);
                (stamp, [before, deltas.of(VM)], told[0].rx_bytes_delta)
            };
            enter(&mut deltas, 1, "tap0", before);
            let (stamp, known, told) = enter(&mut deltas, start, name, 250);
            assert_eq!(told, lost);
            assert_eq!(enter(&mut deltas, start, name, 300).2, 50);
            deltas.take_back(VM, stamp, known);
            assert_eq!(enter(&mut deltas, start, name, 310).2, lost + 10);
        }
        // What was read around a guest that hangs may not say which start that is.
        for starts in [[Some(1), Some(1), None], [Some(1), None, Some(1)], [None, Some(1), None]] {
            let mut deltas = Deltas::default();
            let enter = |deltas: &mut Deltas, start, bytes| {
                let (stamp, before) = (Stamp { start, ..now() }, deltas.of(VM));
                let told = deltas.enter(VM, stamp, vec![nic("tap0", Some((bytes, 0)))]);
                (stamp, [before, deltas.of(VM)], told[0].rx_bytes_delta)
            };
            enter(&mut deltas, starts[0], 100);
            let (stamp, known, _) = enter(&mut deltas, starts[1], 250);
            assert_eq!(enter(&mut deltas, starts[2], 300).2, 50);
            deltas.take_back(VM, stamp, known);
            assert_eq!(enter(&mut deltas, Some(1), 310).2, 160, "{starts:?}");
        }
    }

    #[test]
    fn what_came_with_a_start_and_is_refused_at_first_has_counted_since_then() {
        let mut deltas = Deltas::default();
        let mut received = |start, name, bytes: Option<i64>, outlives| {
            let nic = Interface { outlives, ..nic(name, bytes.map(|bytes| (bytes, 0))) };
            let stats = deltas.enter(VM, Stamp { start: Some(start), ..now() }, vec![nic]);
            stats.first().map(|nic| nic.rx_bytes_delta)
        };
        assert_eq!(received(1, "tap0", Some(1000), false), Some(0));
        assert_eq!(received(2, "tap1", None, false), None);
        assert_eq!(received(2, "tap1", None, false), None);
        assert_eq!(received(2, "tap1", Some(400), false), Some(400));
        assert_eq!(received(3, "tap2", None, false), None);
        assert_eq!(received(4, "tap2", Some(7), false), Some(7), "again, meanwhile");
        assert_eq!(received(5, "vf0", None, true), None);
        assert_eq!(received(5, "vf0", Some(1 << 40), true), Some(0), "it may be older");
        assert_eq!(received(5, "vf0", Some((1 << 40) + 5), true), Some(5));
    }

    #[test]
    fn a_late_reading_of_the_start_before_is_not_told() {
        let mut deltas = Deltas::default();
        let mut received = |read, bytes| enter(&mut deltas, VM, read, (bytes, 0)).0;
        let [first, slow, fast, next] =
            [12, 12, 13, 13].map(|start| Stamp { start: Some(start), ..now() });
        assert_eq!(received(first, 100), 0);
        assert_eq!(received(fast, 150), 150);
        assert_eq!(received(slow, 120), 0);
        assert_eq!(received(next, 160), 10);
    }

    #[test]
    fn deltas_belong_to_instance_and_device() {
        let mut deltas = Deltas::default();
        let other = Uuid::from_u128(2);
        read(&mut deltas, VM, (1000, 1000));
        assert_eq!(read(&mut deltas, other, (5, 5)), (0, 0));
        assert_eq!(read(&mut deltas, VM, (1001, 1000)), (1, 0));
    }

    #[test]
    fn a_device_that_goes_is_forgotten_and_one_that_is_refused_is_not() {
        let mut deltas = Deltas::default();
        read(&mut deltas, VM, (1000, 1000));
        assert!(deltas.enter(VM, now(), vec![nic("tap0", None)]).is_empty());
        assert_eq!(read(&mut deltas, VM, (1003, 1000)), (3, 0));
        deltas.enter(VM, now(), vec![nic("tap1", Some((1, 1)))]);
        assert_eq!(read(&mut deltas, VM, (1010, 1000)), (0, 0));
    }

    #[test]
    fn what_is_not_counted_for_a_while_is_in_the_next_delta() {
        let mut deltas = Deltas::default();
        assert_eq!(read(&mut deltas, VM, (-1, 7)), (0, 0));
        assert_eq!(read(&mut deltas, VM, (1000, 8)), (0, 1), "unknown before: the first of it");
        assert_eq!(read(&mut deltas, VM, (-1, 10)), (0, 2));
        assert_eq!(read(&mut deltas, VM, (1005, -1)), (5, 0));
        assert_eq!(read(&mut deltas, VM, (1005, 11)), (0, 1));
    }

    #[test]
    fn a_nic_that_came_while_a_reading_was_under_way_is_not_forgotten_by_it() {
        let mut deltas = Deltas::default();
        let slow = now();
        read(&mut deltas, VM, (1000, 1000));
        assert!(deltas.enter(VM, slow, Vec::new()).is_empty());
        assert_eq!(read(&mut deltas, VM, (5000, 1000)), (4000, 0));
    }

    #[test]
    fn a_nic_twice_in_one_reading_is_read_twice() {
        let mut deltas = Deltas::default();
        let twice = vec![nic("tap0", Some((90, 0))), nic("tap0", Some((50, 0)))];
        let stats = deltas.enter(VM, now(), twice);
        assert_eq!(stats[1].rx_bytes_delta, 50);
    }

    #[test]
    fn a_reading_that_another_one_overtook_is_no_reset() {
        let mut deltas = Deltas::default();
        read(&mut deltas, VM, (100, 100));
        let slow = now();
        assert_eq!(read(&mut deltas, VM, (200, 200)), (100, 100));
        assert_eq!(enter(&mut deltas, VM, slow, (150, 150)), (0, 0));
        assert_eq!(read(&mut deltas, VM, (210, 200)), (10, 0));
    }

    #[test]
    fn instances_that_are_gone_are_swept_once_it_is_crowded() {
        let mut deltas = Deltas::default();
        for vm in 0..FEW as u128 - 1 {
            read(&mut deltas, Uuid::from_u128(vm), (1, 1));
        }
        assert!(deltas.awaits_list(0, Instant::now()).is_none());
        read(&mut deltas, Uuid::from_u128(9999), (1, 1));
        assert!(deltas.awaits_list(0, Instant::now()).is_some());
        let existing: HashSet<_> = (0..50).map(Uuid::from_u128).collect();
        let listed = now().at;
        read(&mut deltas, Uuid::from_u128(5555), (1, 1));
        deltas.sweep(&existing, listed);
        assert_eq!(deltas.instances.len(), 51, "those that exist, and one newer than the list");
        assert!(deltas.awaits_list(0, Instant::now()).is_none());
    }

    #[test]
    fn a_list_is_awaited_since_it_was_first_wanted() {
        let (mut deltas, now) = (Deltas::default(), Instant::now());
        let later = now + std::time::Duration::from_secs(1);
        assert!(deltas.awaits_list(FEW - 1, now).is_none());
        assert_eq!(deltas.awaits_list(FEW, now), Some(now));
        assert_eq!(deltas.awaits_list(0, later), Some(now));
        let existing = (0..100).map(Uuid::from_u128).collect();
        deltas.sweep(&existing, now);
        assert!(deltas.awaits_list(199, later).is_none(), "twice as many as there are");
        assert!(deltas.awaits_list(200, later).is_some());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_counted_twice(steps in prop::collection::vec(0_i64..1 << 40, 1..50)) {
            let mut deltas = Deltas::default();
            let mut counter = 0;
            let mut sum = 0;
            for step in &steps {
                counter += step;
                sum += read(&mut deltas, VM, (counter, 0)).0;
            }
            prop_assert_eq!(sum, i128::from(counter - steps[0]));
        }

        #[test]
        fn all_since_a_start_is_told_whatever_is_refused_and_however_nics_are_called(
            steps in prop::collection::vec(
                (0_u32..3, [any::<u16>(), any::<u16>()], any::<[bool; 2]>(), any::<bool>()), 1..30),
        ) {
            let (mut deltas, mut number, mut now, mut named) = (Deltas::default(), 1, [1000; 2], 0);
            // What is to be told of each, once it is known: nobody knows what it did before a start.
            let (mut due, mut told) = ([0; 2], [0; 2]);
            for (at, (starts, used, known, renamed)) in steps.into_iter().enumerate() {
                let (starts, known) = if at == 0 { (0, [true; 2]) } else { (starts, known) };
                number += starts;
                named += u32::from(starts > 0 && renamed) * 2;
                let mut said = Vec::new();
                for one in 0..2 {
                    let used = i64::from(used[one]);
                    if starts > 0 {
                        now[one] = 0;
                        due[one] = told[one];
                    }
                    now[one] += used;
                    due[one] += i128::from(if at == 0 { 0 } else { used });
                    let name = format!("tap{}", named + u32::try_from(one).unwrap());
                    said.push(nic(&name, known[one].then_some((now[one], 0))));
                }
                let mut stats = deltas.enter(VM, Stamp { start: Some(number), ..super::tests::now() }, said)
                    .into_iter();
                for one in 0..2 {
                    if known[one] {
                        told[one] += stats.next().unwrap().rx_bytes_delta;
                        prop_assert_eq!(told[one], due[one]);
                    }
                }
            }
        }

        #[test]
        fn any_counters_give_some_delta(counters in prop::collection::vec(any::<(i64, i64)>(), 1..9)) {
            let mut deltas = Deltas::default();
            let mut last = None;
            for now in counters {
                let (rx, _) = read(&mut deltas, VM, now);
                let counted = Some(now.0).filter(|now| *now >= 0);
                match (counted, last) {
                    (Some(now), Some(before)) if now >= before => {
                        prop_assert_eq!(rx, i128::from(now) - i128::from(before));
                    }
                    (Some(now), Some(_)) => prop_assert_eq!(rx, i128::from(now)),
                    _ => prop_assert_eq!(rx, 0),
                }
                last = counted.or(last);
            }
        }
    }
}
