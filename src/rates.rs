//! What was added to counters between two readings, and how much that is in a second. Pure
//! arithmetic: times come in with the readings.
//!
//! A device starts anew when it was not there at the last reading, when one of its counters went
//! back (it was reset, came from another host, or was plugged in again), or is not counted. One that
//! was plugged in again and has overtaken its old self cannot be told from one that went on; what is
//! then taken for its growth is less than what went through it meanwhile, and so never absurd.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::recent::Recent;

/// What nobody has asked for in a day may be forgotten.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The counters of some devices, all read at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counters<const N: usize> {
    at: Instant,
    devices: HashMap<String, [i128; N]>,
}

/// What was added to the counters of each device within an interval, which is never of no length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Growth<const N: usize> {
    interval: Duration,
    devices: HashMap<String, [i128; N]>,
}

/// The last counters, for each caller and instance.
#[derive(Debug)]
pub(crate) struct Meter<const N: usize>(Recent<(String, Uuid), Counters<N>>);

impl<const N: usize> Counters<N> {
    /// Counters as they were at some time; a negative one is not counted.
    pub(crate) fn new(at: Instant, devices: impl IntoIterator<Item = (String, [i128; N])>) -> Self {
        Self { at, devices: devices.into_iter().collect() }
    }

    /// What was added since an earlier reading; `None` if it was not earlier.
    pub(crate) fn since(&self, before: &Self) -> Option<Growth<N>> {
        let interval = self.at.checked_duration_since(before.at).filter(|time| !time.is_zero())?;
        let growth = |(device, now): (&String, &[i128; N])| {
            let before = before.devices.get(device)?;
            Some((device.clone(), added(before, now)?))
        };
        Some(Growth { interval, devices: self.devices.iter().filter_map(growth).collect() })
    }
}

impl<const N: usize> Growth<N> {
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// What was added to each counter of a device; `None` if it started anew.
    pub(crate) fn of(&self, device: &str) -> Option<[i128; N]> {
        self.devices.get(device).copied()
    }

    /// The same in a second.
    pub(crate) fn rates_of(&self, device: &str) -> Option<[f64; N]> {
        let added = self.of(device)?;
        Some(added.map(|added| per_second(added, self.interval)))
    }

    /// What was added to each counter of all devices together.
    pub(crate) fn total(&self) -> [i128; N] {
        let mut total = [0; N];
        for added in self.devices.values() {
            for (sum, added) in total.iter_mut().zip(added) {
                *sum += added;
            }
        }
        total
    }
}

impl<const N: usize> Meter<N> {
    /// Enters a reading, and answers what was added since this caller's last one of the instance.
    /// A reading that is overtaken by a younger one is none: what it saw is in that one.
    pub(crate) fn enter(
        &mut self,
        caller: &str,
        instance: Uuid,
        now: Counters<N>,
    ) -> Option<Growth<N>> {
        let (key, at) = ((caller.to_owned(), instance), now.at);
        let Some(last) = self.0.get_mut(&key, at) else {
            self.0.insert(key, now, at);
            return None;
        };
        let growth = now.since(last)?;
        *last = now;
        Some(growth)
    }

    /// Has this caller's next reading of the instance be the first one, as this one could not be
    /// taken: so there is no growth.
    pub(crate) fn forget(&mut self, caller: &str, instance: Uuid) -> Option<Growth<N>> {
        self.0.remove(&(caller.to_owned(), instance));
        None
    }
}

impl<const N: usize> Default for Meter<N> {
    fn default() -> Self {
        Self(Recent::new(KEPT))
    }
}

/// How much of the time of so many CPUs was used, in percent: never more than all of it, whatever
/// the counter says. `None` without a CPU.
pub(crate) fn percent(nanoseconds: i128, cpus: u32, interval: Duration) -> Option<f64> {
    let all = f64::from(cpus) * 1e9;
    (cpus > 0).then(|| (per_second(nanoseconds, interval) / all * 100.0).clamp(0.0, 100.0))
}

fn added<const N: usize>(before: &[i128; N], now: &[i128; N]) -> Option<[i128; N]> {
    let mut added = [0; N];
    for (added, (before, now)) in added.iter_mut().zip(before.iter().zip(now)) {
        *added = now.checked_sub(*before).filter(|added| *added >= 0 && *before >= 0)?;
    }
    Some(added)
}

// Exact up to 2^53, and beyond that to 16 digits.
#[allow(clippy::cast_precision_loss)]
fn per_second(added: i128, interval: Duration) -> f64 {
    added as f64 / interval.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VM: Uuid = Uuid::from_u128(1);
    const SECOND: Duration = Duration::from_secs(1);

    /// A time that others can be before.
    fn noon() -> Instant {
        Instant::now() + 12 * 3600 * SECOND
    }

    fn one(at: Instant, counters: [i128; 2]) -> Counters<2> {
        Counters::new(at, [("tap0".to_owned(), counters)])
    }

    fn read(meter: &mut Meter<2>, at: Instant, counters: [i128; 2]) -> Option<[i128; 2]> {
        meter.enter("", VM, one(at, counters))?.of("tap0")
    }

    #[test]
    fn a_series_that_can_be_reckoned_by_hand() {
        let (mut meter, start) = (Meter::default(), noon());
        let mut rates = |seconds: u32, counters| {
            let growth = meter.enter("", VM, one(start + seconds * SECOND, counters));
            growth.and_then(|growth| growth.rates_of("tap0"))
        };
        assert_eq!(rates(0, [1000, 7]), None, "the first reading");
        assert_eq!(rates(10, [1500, 7]), Some([50.0, 0.0]));
        assert_eq!(rates(14, [1510, 9]), Some([2.5, 0.5]));
        assert_eq!(rates(15, [3, 9]), None, "it went back");
        assert_eq!(rates(19, [11, 9]), Some([2.0, 0.0]), "and started anew");
        assert_eq!(rates(20, [-1, 9]), None, "not counted");
        assert_eq!(rates(21, [50, 9]), None, "counted again");
        assert_eq!(rates(22, [51, 9]), Some([1.0, 0.0]));
    }

    #[test]
    fn callers_and_instances_have_intervals_of_their_own() {
        let (mut meter, start, other) = (Meter::default(), noon(), Uuid::from_u128(2));
        for seconds in 0..10 {
            let at = start + seconds * SECOND;
            meter.enter("a", VM, one(at, [i128::from(seconds), 0]));
        }
        assert_eq!(meter.enter("b", VM, one(start + 10 * SECOND, [10, 0])), None);
        assert_eq!(meter.enter("a", other, one(start + 10 * SECOND, [10, 0])), None);
        let growth = meter.enter("b", VM, one(start + 20 * SECOND, [30, 0])).unwrap();
        assert_eq!(growth.interval(), 10 * SECOND);
        assert_eq!(growth.rates_of("tap0"), Some([2.0, 0.0]));
        let growth = meter.enter("a", VM, one(start + 20 * SECOND, [31, 0])).unwrap();
        assert_eq!(growth.rates_of("tap0"), Some([2.0, 0.0]), "over 11 seconds");
    }

    #[test]
    fn devices_come_and_go() {
        let (mut meter, start) = (Meter::default(), noon());
        let mut total = |seconds: u32, devices: &[(&str, i128)]| {
            let devices = devices.iter().map(|(name, count)| ((*name).to_owned(), [*count]));
            let growth = meter.enter("", VM, Counters::new(start + seconds * SECOND, devices));
            growth.map(|growth| growth.total()[0])
        };
        assert_eq!(total(0, &[("vda", 100)]), None);
        assert_eq!(total(1, &[("vda", 101), ("vdb", 5000)]), Some(1));
        assert_eq!(total(2, &[("vda", 103), ("vdb", 5010)]), Some(12));
        assert_eq!(total(3, &[("vdb", 5011)]), Some(1));
        assert_eq!(total(4, &[("vda", 9999), ("vdb", 5011)]), Some(0), "plugged in again");
        assert_eq!(total(5, &[]), Some(0));
    }

    #[test]
    fn a_reading_that_another_one_overtook_changes_nothing() {
        let (mut meter, start) = (Meter::default(), noon());
        read(&mut meter, start, [100, 100]);
        assert_eq!(read(&mut meter, start + 2 * SECOND, [200, 200]), Some([100, 100]));
        assert_eq!(read(&mut meter, start + SECOND, [150, 150]), None);
        assert_eq!(read(&mut meter, start + 2 * SECOND, [210, 210]), None, "no time has passed");
        assert_eq!(read(&mut meter, start + 3 * SECOND, [220, 200]), Some([20, 0]));
    }

    #[test]
    fn no_more_than_all_of_the_time_is_used() {
        assert_eq!(percent(1_000_000_000, 2, 2 * SECOND), Some(25.0));
        assert_eq!(percent(5_000_000_000, 2, 2 * SECOND), Some(100.0));
        assert_eq!(percent(1, 0, SECOND), None);
    }

    #[test]
    fn what_nobody_asks_for_goes() {
        let (mut meter, start) = (Meter::default(), noon());
        for vm in 0..1000 {
            let at = start + SECOND * 3600 * vm;
            meter.enter("", Uuid::from_u128(vm.into()), one(at, [0, 0]));
        }
        let remembered = |vm: u128| meter.0.peek(&(String::new(), Uuid::from_u128(vm))).is_some();
        assert!((0..1000).filter(|vm| remembered(*vm)).count() <= 128);
        assert!(remembered(999));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_counted_twice(
            first in 0_i128..1 << 64,
            steps in prop::collection::vec((0_i128..1 << 64, 0_u64..5), 1..50),
        ) {
            let (mut meter, mut at) = (Meter::default(), noon());
            let (mut counter, mut entered, mut sum) = (first, first, 0);
            read(&mut meter, at, [first, 0]);
            for (step, seconds) in steps {
                counter += step;
                at += Duration::from_secs(seconds);
                // What is read in no time is left to the next reading.
                if seconds > 0 {
                    entered = counter;
                }
                sum += read(&mut meter, at, [counter, 0]).map_or(0, |added| added[0]);
            }
            prop_assert_eq!(sum, entered - first);
        }

        #[test]
        fn whatever_counters_and_clock_do_no_rate_is_negative_or_infinite(
            readings in prop::collection::vec((any::<[i128; 2]>(), -10_i64..10), 1..20),
        ) {
            let (mut meter, mut at) = (Meter::default(), noon());
            for (counters, seconds) in readings {
                let step = SECOND * u32::try_from(seconds.abs()).unwrap();
                at = if seconds < 0 { at.checked_sub(step).unwrap() } else { at + step };
                let Some(growth) = meter.enter("", VM, one(at, counters)) else { continue };
                prop_assert!(!growth.interval().is_zero());
                if let Some(rates) = growth.rates_of("tap0") {
                    prop_assert!(rates.iter().all(|rate| rate.is_finite() && *rate >= 0.0));
                }
            }
        }

        #[test]
        fn growth_is_the_difference_or_nothing(
            before in any::<[i64; 2]>(), now in any::<[i64; 2]>(), steps in -3_i32..4,
        ) {
            let start = noon();
            let step = SECOND * steps.unsigned_abs();
            let later = if steps < 0 { start.checked_sub(step).unwrap() } else { start + step };
            let (before, now) = (before.map(i128::from), now.map(i128::from));
            let growth = one(later, now).since(&one(start, before));
            prop_assert_eq!(growth.is_some(), steps > 0);
            let went_on = before.iter().zip(&now).all(|(before, now)| (0..=*now).contains(before));
            let expected = went_on.then(|| [now[0] - before[0], now[1] - before[1]]);
            if let Some(growth) = growth {
                prop_assert_eq!(growth.of("tap0"), expected);
            }
        }

        #[test]
        fn a_counter_that_wraps_starts_anew(before in (1_u64 << 63)..=u64::MAX, added in 1_u64..) {
            prop_assume!(before.checked_add(added).is_none());
            let start = noon();
            let now = one(start + SECOND, [before.wrapping_add(added).into(), 0]);
            let growth = now.since(&one(start, [before.into(), 0])).unwrap();
            prop_assert_eq!(growth.of("tap0"), None);
        }

        #[test]
        fn a_share_is_between_nothing_and_all(
            used: i128, cpus in 1_u32.., interval in 1_u64..,
        ) {
            let percent = percent(used, cpus, Duration::from_nanos(interval)).unwrap();
            prop_assert!((0.0..=100.0).contains(&percent));
        }
    }
}
