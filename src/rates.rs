//! What was added to counters between two readings, and how much that is in a second. Pure
//! arithmetic: times come in with the readings.
//!
//! A device starts anew when it was not there at the last reading, or when one of its counters went
//! back (it was reset, came from another host, or was plugged in again). One that is there without
//! counters, because libvirt refused them or does not count, keeps those it had: what is added
//! meanwhile is told with the next ones, over the longer time. One that was plugged in again and has
//! overtaken its old self cannot be told from one that went on; what is then taken for its growth is
//! less than what went through it meanwhile, and so never absurd.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Counters as they were at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample<C, const N: usize> {
    pub(crate) at: Instant,
    pub(crate) counters: [C; N],
}

/// What was added to counters within an interval, which is never of no length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Growth<const N: usize> {
    pub(crate) interval: Duration,
    pub(crate) added: [i128; N],
}

/// The counters of a device, and when they were measured if that was by a call of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measured<const N: usize> {
    pub(crate) counters: [i64; N],
    pub(crate) at: Option<Instant>,
}

/// The counters of all devices that are there, by their names; `None` where they are not known.
pub(crate) type Counters<'a, const N: usize> = BTreeMap<&'a str, Option<Measured<N>>>;

/// What was last known of the counters of some devices.
#[derive(Debug, Default)]
pub(crate) struct Devices<const N: usize> {
    /// When they were last read.
    read: Option<Instant>,
    /// By their names, which it is sorted by.
    known: Box<[(Box<str>, Sample<i64, N>)]>,
}

impl<C: Copy + Into<i128>, const N: usize> Sample<C, N> {
    /// What was added since an earlier one; `None` if it was not earlier, or a counter went back.
    pub(crate) fn since(&self, before: &Self) -> Option<Growth<N>> {
        let interval = since(self.at, before.at)?;
        let mut added = [0; N];
        for (added, (before, now)) in
            added.iter_mut().zip(before.counters.iter().zip(self.counters))
        {
            let before = (*before).into();
            *added = now.into().checked_sub(before).filter(|added| *added >= 0 && before >= 0)?;
        }
        Some(Growth { interval, added })
    }
}

impl<const N: usize> Devices<N> {
    /// Enters a reading, and answers what was added to the counters of each device since they were
    /// last known. A reading that was overtaken by a younger one is none: what it saw is in that one.
    pub(crate) fn enter<'a>(
        &mut self,
        at: Instant,
        now: &Counters<'a, N>,
    ) -> BTreeMap<&'a str, Growth<N>> {
        let mut grown = BTreeMap::new();
        if self.read.is_some_and(|read| read >= at) {
            return grown;
        }
        let mut known = Vec::with_capacity(now.len());
        for (device, counters) in now {
            let before = self.last(device);
            let sample = counters
                .map(|Measured { counters, at: own }| Sample { at: own.unwrap_or(at), counters })
                .filter(|now| before.is_none_or(|before| now.at > before.at));
            let growth = sample.zip(before).and_then(|(now, before)| now.since(&before));
            grown.extend(growth.map(|growth| (*device, growth)));
            known.extend(sample.or(before).map(|sample| ((*device).into(), sample)));
        }
        *self = Self { read: Some(at), known: known.into() };
        grown
    }

    /// Enters a reading, and answers what was added to the counters of all devices together since
    /// the last one in which all were known. One in which they are not is none.
    pub(crate) fn enter_together(
        &mut self,
        at: Instant,
        now: &Counters<'_, N>,
    ) -> Option<Growth<N>> {
        if now.values().any(Option::is_none) {
            return None;
        }
        let interval = self.read.and_then(|before| since(at, before));
        let grown = self.enter(at, now);
        let interval = interval?;
        let mut total = [0; N];
        for growth in grown.values() {
            for (sum, added) in total.iter_mut().zip(growth.added) {
                *sum += added;
            }
        }
        // Of those that were measured by themselves, one may have waited for long.
        let intervals: Duration = grown.values().map(|growth| growth.interval).sum();
        let mean = u32::try_from(grown.len()).ok().and_then(|count| intervals.checked_div(count));
        Some(Growth { interval: mean.unwrap_or(interval), added: total })
    }

    fn last(&self, device: &str) -> Option<Sample<i64, N>> {
        let found = self.known.binary_search_by(|(name, _)| (**name).cmp(device)).ok()?;
        self.known.get(found).map(|(_, sample)| *sample)
    }
}

impl<const N: usize> Growth<N> {
    /// What was added in a second, on average.
    pub(crate) fn per_second(&self) -> [f64; N] {
        self.added.map(|added| per_second(added, self.interval))
    }
}

/// Counters, if all of them are counted: libvirt has -1 for those that are not.
pub(crate) fn counted<const N: usize>(
    counters: [i64; N],
    at: Option<Instant>,
) -> Option<Measured<N>> {
    counters.iter().all(|counter| *counter >= 0).then_some(Measured { counters, at })
}

/// How much of the time of so many CPUs was used, in percent: never more than all of it, whatever
/// the counter says. `None` without a CPU.
pub(crate) fn percent(used: Growth<1>, cpus: u32) -> Option<f64> {
    let all = f64::from(cpus) * 1e9;
    let [nanoseconds] = used.per_second();
    (cpus > 0).then(|| (nanoseconds / all * 100.0).clamp(0.0, 100.0))
}

/// The time since an earlier one; `None` if none has passed.
pub(crate) fn since(at: Instant, before: Instant) -> Option<Duration> {
    at.checked_duration_since(before).filter(|time| !time.is_zero())
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

    const SECOND: Duration = Duration::from_secs(1);
    const NAMES: [&str; 3] = ["vda", "vdb", "vdc"];

    /// A time that others can be before.
    fn noon() -> Instant {
        Instant::now() + 12 * 3600 * SECOND
    }

    fn one<const N: usize>(counters: [i64; N]) -> Counters<'static, N> {
        Counters::from([("tap0", counted(counters, None))])
    }

    /// Counters that were measured with the whole reading.
    fn with<const N: usize>(counters: [i64; N]) -> Measured<N> {
        Measured { counters, at: None }
    }

    fn read(devices: &mut Devices<2>, at: Instant, counters: [i64; 2]) -> Option<[i128; 2]> {
        devices.enter(at, &one(counters)).get("tap0").map(|growth| growth.added)
    }

    #[test]
    fn a_series_that_can_be_reckoned_by_hand() {
        let (mut devices, start) = (Devices::default(), noon());
        let mut rates = |seconds: u32, counters| {
            let grown = devices.enter(start + seconds * SECOND, &one(counters));
            grown.get("tap0").map(Growth::per_second)
        };
        assert_eq!(rates(0, [1000, 7]), None, "the first reading");
        assert_eq!(rates(10, [1500, 7]), Some([50.0, 0.0]));
        assert_eq!(rates(14, [1510, 9]), Some([2.5, 0.5]));
        assert_eq!(rates(15, [3, 9]), None, "it went back");
        assert_eq!(rates(19, [11, 9]), Some([2.0, 0.0]), "and started anew");
        assert_eq!(rates(20, [-1, 9]), None, "not counted");
        assert_eq!(rates(21, [50, -1]), None);
        assert_eq!(
            rates(29, [51, 9]),
            Some([4.0, 0.0]),
            "over the 10 seconds that it was not known"
        );
        assert_eq!(rates(30, [52, 9]), Some([1.0, 0.0]));
    }

    #[test]
    fn one_that_is_refused_has_its_own_interval_and_all_together_theirs() {
        let (mut each, mut together, start) = (Devices::default(), Devices::default(), noon());
        let mut told = |seconds: u32, devices: [Option<i64>; 2]| {
            let counters = devices.map(|counter| counter.map(|counter| with([counter])));
            let now = NAMES.into_iter().zip(counters).collect();
            let at = start + seconds * SECOND;
            let grown = each.enter(at, &now);
            let rate = |name| grown.get(name).map(|growth| growth.per_second()[0]);
            let total = together.enter_together(at, &now);
            let total = total.map(|growth| (growth.added[0], growth.interval.as_secs()));
            (rate("vda"), rate("vdb"), total)
        };
        assert_eq!(told(0, [Some(0), Some(50)]), (None, None, None));
        assert_eq!(told(1, [Some(1000), Some(50)]), (Some(1000.0), Some(0.0), Some((1000, 1))));
        assert_eq!(told(2, [None, Some(51)]), (None, Some(1.0), None));
        assert_eq!(told(3, [None, Some(52)]), (None, Some(1.0), None));
        assert_eq!(told(4, [Some(4000), Some(53)]), (Some(1000.0), Some(1.0), Some((3003, 3))));
    }

    #[test]
    fn what_was_never_known_is_no_part_of_a_total() {
        let (mut devices, start) = (Devices::default(), noon());
        let mut total = |seconds: u32, now: Counters<'_, 1>| {
            let growth = devices.enter_together(start + seconds * SECOND, &now)?;
            Some((growth.added[0], growth.interval.as_secs()))
        };
        assert_eq!(total(0, Counters::from([("vda", Some(with([0]))), ("vdb", None)])), None);
        assert_eq!(total(1, Counters::from([("vda", Some(with([1]))), ("vdb", None)])), None);
        assert_eq!(
            total(2, Counters::from([("vda", Some(with([2]))), ("vdb", Some(with([9])))])),
            None
        );
        assert_eq!(
            total(4, Counters::from([("vda", Some(with([3]))), ("vdb", Some(with([9])))])),
            Some((1, 2))
        );
    }

    #[test]
    fn one_that_was_measured_by_itself_has_its_own_time() {
        let (mut each, mut together, start) = (Devices::default(), Devices::default(), noon());
        let mut told = |read: u32, vda: u32, vdb: u32| {
            let at = |seconds: u32| start + seconds * SECOND;
            let count = |seconds: u32| [i64::from(seconds) * 1000];
            let own = |seconds| Measured { counters: count(seconds), at: Some(at(seconds)) };
            let now = Counters::from([("vda", Some(with(count(vda)))), ("vdb", Some(own(vdb)))]);
            assert_eq!(read, vda);
            let grown = each.enter(at(read), &now);
            let rate = |name| grown.get(name).map(|growth| growth.per_second()[0]);
            let rates = (rate("vda"), rate("vdb"));
            let total = together.enter_together(at(read), &now);
            (rates, total.map(|growth| (growth.added[0], growth.per_second()[0])))
        };
        let each = (Some(1000.0), Some(1000.0));
        assert_eq!(told(0, 0, 1), ((None, None), None));
        assert_eq!(told(2, 2, 7), (each, Some((8000, 2000.0))), "vdb has waited for long");
        assert_eq!(told(8, 8, 8), (each, Some((7000, 2000.0))));
        assert_eq!(told(9, 9, 7).0, (Some(1000.0), None), "what is older is none");
        assert_eq!(told(10, 10, 10).0, each);
    }

    #[test]
    fn devices_come_and_go() {
        let (mut devices, start) = (Devices::default(), noon());
        let mut total = |seconds: u32, now: &[(&'static str, i64)]| {
            let now = now.iter().map(|(name, count)| (*name, Some(with([*count])))).collect();
            devices.enter_together(start + seconds * SECOND, &now).map(|growth| growth.added[0])
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
        let (mut devices, start) = (Devices::default(), noon());
        read(&mut devices, start, [100, 100]);
        assert_eq!(read(&mut devices, start + 2 * SECOND, [200, 200]), Some([100, 100]));
        assert_eq!(read(&mut devices, start + SECOND, [150, 150]), None);
        assert_eq!(read(&mut devices, start + 2 * SECOND, [210, 210]), None, "no time has passed");
        assert_eq!(devices.enter_together(start + SECOND, &one([300, 300])), None);
        assert_eq!(read(&mut devices, start + 3 * SECOND, [220, 200]), Some([20, 0]));
    }

    #[test]
    fn no_more_than_all_of_the_time_is_used() {
        let used = |added| Growth { interval: 2 * SECOND, added: [added] };
        assert_eq!(percent(used(1_000_000_000), 2), Some(25.0));
        assert_eq!(percent(used(5_000_000_000), 2), Some(100.0));
        assert_eq!(percent(used(1), 0), None);
    }

    /// What becomes of a device until the next reading, and what that one says of it.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Grows(u32),
        IsRefused(u32),
        IsNotCounted(u32),
        GoesBack,
        IsGone,
    }

    /// The same, but for what makes a device start anew.
    fn goes_on() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => any::<u32>().prop_map(Step::Grows),
            1 => any::<u32>().prop_map(Step::IsRefused),
            1 => any::<u32>().prop_map(Step::IsNotCounted),
        ]
    }

    fn whatever() -> impl Strategy<Value = Step> {
        prop_oneof![6 => goes_on(), 1 => Just(Step::GoesBack), 1 => Just(Step::IsGone)]
    }

    type Script = Vec<(u32, [Step; 3])>;

    /// Readings of three disks: the seconds since the one before, and what becomes of each disk.
    fn script<S: Strategy<Value = Step>>(step: fn() -> S) -> impl Strategy<Value = Script> {
        prop::collection::vec((1_u32..5, [step(), step(), step()]), 1..30)
    }

    /// What each reading says, how many seconds after the first, and what the disks have done.
    fn play(script: Script) -> (Vec<(u32, Counters<'static, 1>)>, [i128; 3]) {
        let (mut seconds, mut now, mut done) = (0, [1_i64 << 40; 3], [0; 3]);
        let mut readings = Vec::new();
        for (pause, steps) in script {
            let mut said = Counters::new();
            for (disk, step) in steps.into_iter().enumerate() {
                let (added, known) = match step {
                    Step::Grows(added) => (added, true),
                    Step::IsRefused(added) | Step::IsNotCounted(added) => (added, false),
                    Step::GoesBack | Step::IsGone => (0, true),
                };
                done[disk] += i128::from(added);
                now[disk] += i64::from(added);
                if matches!(step, Step::GoesBack) {
                    now[disk] /= 2;
                }
                if !matches!(step, Step::IsGone) {
                    said.insert(NAMES[disk], known.then_some(with([now[disk]])));
                }
            }
            seconds += pause;
            readings.push((seconds, said));
        }
        (readings, done)
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_counted_twice(script in script(goes_on)) {
            let ((readings, _), start) = (play(script), noon());
            let (mut each, mut together) = (Devices::default(), Devices::default());
            let (mut told, mut total) = (BTreeMap::new(), (0, Duration::ZERO));
            for (seconds, now) in &readings {
                let at = start + *seconds * SECOND;
                for (disk, growth) in each.enter(at, now) {
                    let (added, time) = told.entry(disk).or_insert((0, Duration::ZERO));
                    (*added, *time) = (*added + growth.added[0], *time + growth.interval);
                }
                if let Some(growth) = together.enter_together(at, now) {
                    total = (total.0 + growth.added[0], total.1 + growth.interval);
                }
            }
            // The first and the last time that it is known, there lies all of it between.
            let between = |known: Vec<(u32, i64)>| {
                let ends = known.first().zip(known.last());
                ends.map_or((0, Duration::ZERO), |((from, first), (to, last))| {
                    (i128::from(last - first), (to - from) * SECOND)
                })
            };
            for disk in NAMES {
                let known = readings.iter().filter_map(|(at, now)| Some((*at, now[disk]?.counters[0])));
                let told = told.get(disk).copied().unwrap_or_default();
                prop_assert_eq!(told, between(known.collect()));
            }
            let sum = |now: &Counters<'_, 1>| -> Option<i64> {
                now.values().map(|one| Some((*one)?.counters[0])).sum()
            };
            let known = readings.iter().filter_map(|(at, now)| Some((*at, sum(now)?)));
            prop_assert_eq!(total, between(known.collect()));
        }

        #[test]
        fn no_more_is_told_than_was_done(script in script(whatever)) {
            let ((readings, done), start) = (play(script), noon());
            let (mut each, mut together) = (Devices::default(), Devices::default());
            let (mut told, mut total) = ([0; 3], 0);
            for (seconds, now) in &readings {
                let at = start + *seconds * SECOND;
                let grown = each.enter(at, now);
                for (told, disk) in told.iter_mut().zip(NAMES) {
                    *told += grown.get(disk).map_or(0, |growth| growth.added[0]);
                }
                total += together.enter_together(at, now).map_or(0, |growth| growth.added[0]);
            }
            prop_assert!(told.iter().zip(done).all(|(told, done)| (0..=done).contains(told)));
            prop_assert!((0..=done.iter().sum()).contains(&total));
        }

        #[test]
        fn whatever_counters_and_clock_do_no_rate_is_negative_or_infinite(
            readings in prop::collection::vec((any::<[i64; 2]>(), -10_i64..10), 1..20),
        ) {
            let (mut each, mut together, mut at) = (Devices::default(), Devices::default(), noon());
            for (counters, seconds) in readings {
                let step = SECOND * u32::try_from(seconds.abs()).unwrap();
                at = if seconds < 0 { at.checked_sub(step).unwrap() } else { at + step };
                let now = one(counters);
                let grown = each.enter(at, &now).into_values();
                for growth in grown.chain(together.enter_together(at, &now)) {
                    prop_assert!(!growth.interval.is_zero());
                    let rates = growth.per_second();
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
            let sample = |at, counters| Sample { at, counters };
            let growth = sample(later, now).since(&sample(start, before));
            let went_on = before.iter().zip(&now).all(|(before, now)| (0..=*now).contains(before));
            let added = [0, 1].map(|at| i128::from(now[at]) - i128::from(before[at]));
            let expected = (steps > 0 && went_on).then_some(Growth { interval: step, added });
            prop_assert_eq!(growth, expected);
        }

        #[test]
        fn a_share_is_between_nothing_and_all(
            used: i128, cpus in 1_u32.., interval in 1_u64..,
        ) {
            let used = Growth { interval: Duration::from_nanos(interval), added: [used] };
            prop_assert!((0.0..=100.0).contains(&percent(used, cpus).unwrap()));
        }
    }
}
