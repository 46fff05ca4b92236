//! What was added to counters between two readings, and how much that is in a second. Pure
//! arithmetic: times come in with the readings.
//!
//! At a new start of the instance, all counters begin at 0: where both readings tell their start, what
//! is counted at the second one was added since the first. Within a start, or where it is not known, a
//! device starts anew when it was not there at the last reading, or when one of its counters went back
//! (it was reset, came from another host, or was plugged in again). One that is there without
//! counters, because libvirt refused them or does not count, keeps those it had: what is added
//! meanwhile is told with the next ones, over the longer time. One that was plugged in again and has
//! overtaken its old self cannot be told from one that went on; what is then taken for its growth is
//! less than what went through it meanwhile, and so never absurd.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hypervisor::Stamp;

/// Where a device has told nothing for so long, it is told no more, as after a move to a host that cannot.
const TOLD_NO_MORE: Duration = Duration::from_secs(3600);

/// Counters as they were at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample<C, const N: usize> {
    pub(crate) read: Stamp,
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
    /// Whether they may go on over a new start.
    pub(crate) outlive: bool,
}

/// What tells a device apart from the others of its instance, and how that is kept: a name, or the number of a vCPU.
pub(crate) trait Key: Ord + ToOwned<Owned: Into<Self::Kept>> {
    type Kept: Debug + Clone + Borrow<Self>;
}

impl Key for str {
    type Kept = Arc<str>;
}

impl Key for u32 {
    type Kept = Self;
}

/// The counters of all devices that are there; `None` where they are not known.
pub(crate) type Counters<'a, const N: usize, K = str> = BTreeMap<&'a K, Option<Measured<N>>>;

/// What was last known of the counters of some devices.
#[derive(Debug)]
pub(crate) struct Devices<const N: usize, K: Key + ?Sized = str> {
    /// When they were last read.
    read: Option<Stamp>,
    /// Sorted by what tells them apart. Shared with what it was before and after a reading, while that may be taken back.
    known: Arc<[(K::Kept, Sample<i64, N>)]>,
}

impl<const N: usize, K: Key + ?Sized> Default for Devices<N, K> {
    fn default() -> Self {
        Self { read: None, known: Arc::default() }
    }
}

// A derived one would want this of `str`.
impl<const N: usize, K: Key + ?Sized> Clone for Devices<N, K> {
    fn clone(&self) -> Self {
        Self { read: self.read, known: self.known.clone() }
    }
}

impl<C: Copy + Into<i128>, const N: usize> Sample<C, N> {
    /// What was added since an earlier one; `None` if it was not earlier, or a counter went back while
    /// the instance went on.
    pub(crate) fn since(&self, before: &Self) -> Option<Growth<N>> {
        let interval = since(self.read.at, before.read.at)?;
        let is_anew = self.read.is_of_another_start(before.read);
        let mut added = [0; N];
        for (added, (before, now)) in
            added.iter_mut().zip(before.counters.iter().zip(self.counters))
        {
            let before = if is_anew { 0 } else { (*before).into() };
            *added = now.into().checked_sub(before).filter(|added| *added >= 0 && before >= 0)?;
        }
        Some(Growth { interval, added })
    }
}

impl<C: Copy + Into<i128> + TryFrom<i128>, const N: usize> Sample<C, N> {
    /// What was added between two earlier ones was told to nobody: it is to be told with what comes next. Nothing was
    /// where a counter went back, and where it has since, it is not known any more.
    pub(crate) fn tell_again(&mut self, [before, after]: [&Self; 2]) {
        if self.read.is_of_another_start(after.read) {
            return;
        }
        let Some(told) = after.since(before) else { return };
        let less = |(now, added): (C, i128)| C::try_from(now.into() - added).ok();
        let mut counters = self.counters;
        for (counter, added) in counters.iter_mut().zip(told.added) {
            let Some(less) = less((*counter, added)).filter(|less| (*less).into() >= 0) else {
                return;
            };
            *counter = less;
        }
        let Some(at) = self.read.at.checked_sub(told.interval) else { return };
        (self.read.at, self.counters) = (at, counters);
    }
}

impl<const N: usize, K: Key + ?Sized> Devices<N, K> {
    /// Enters a reading, and answers what was added to the counters of each device since they were
    /// last known. A reading that was overtaken by a younger one is none: what it saw is in that one.
    pub(crate) fn enter<'a>(
        &mut self,
        read: Stamp,
        now: &Counters<'a, N, K>,
    ) -> BTreeMap<&'a K, Growth<N>> {
        let mut grown = BTreeMap::new();
        if self.has_seen(read) {
            return grown;
        }
        // What was not there before has counted from 0 as well since the instance was started.
        let last = self.read.filter(|last| read.is_of_another_start(*last));
        // Before that start, its counters are not known; nor what outlives the instance has added.
        let begun = last.map(|read| Sample { read, counters: [-1; N] });
        let mut known = Vec::with_capacity(now.len());
        for (device, counters) in now {
            let before = self.last(device).or(begun);
            let sample = counters
                .map(|counters| counters.sample(read))
                .filter(|now| before.is_none_or(|before| now.read.at > before.read.at));
            let growth = sample.zip(before).and_then(|(now, before)| now.since(&before));
            grown.extend(growth.map(|growth| (*device, growth)));
            known.extend(sample.or(before).map(|sample| (*device, sample)));
        }
        self.read = Some(read);
        self.set(&known);
        grown
    }

    /// Takes a reading back, before and after which it was so. Where another one was entered since, the next one tells
    /// what that would have told.
    pub(crate) fn take_back(&mut self, read: Stamp, [before, after]: [Self; 2]) {
        if self.read.is_some_and(|last| last.at == read.at) {
            *self = before;
            return;
        }
        for (device, sample) in Arc::make_mut(&mut self.known) {
            let Some(after) = after.last((*device).borrow()) else { continue };
            // What came with a start has counted since then.
            let start = before.read.filter(|before| after.read.is_of_another_start(*before));
            let start = start.map(|read| Sample { read, counters: [-1; N] });
            if let Some(before) = before.last((*device).borrow()).or(start) {
                sample.tell_again([&before, &after]);
            }
        }
    }

    /// Mostly these are the devices that there were, whose names are kept.
    fn set(&mut self, known: &[(&K, Sample<i64, N>)]) {
        let are_same = self
            .known
            .iter()
            .map(|(device, _)| device.borrow())
            .eq(known.iter().map(|(device, _)| *device));
        if !are_same {
            self.known = known
                .iter()
                .map(|(device, sample)| (K::to_owned(device).into(), *sample))
                .collect();
            return;
        }
        for ((_, before), (_, now)) in Arc::make_mut(&mut self.known).iter_mut().zip(known) {
            *before = *now;
        }
    }

    /// Enters a reading, and answers what was added to the counters of all devices together since
    /// the last one in which all were known. One in which they are not, or one was not measured anew, is none; and so
    /// is one in which a device starts anew, as nobody knows what that one did. The others lose nothing by it.
    /// Of those that were not there at both readings, nobody knows what they did in between.
    pub(crate) fn enter_together(
        &mut self,
        read: Stamp,
        now: &Counters<'_, N, K>,
    ) -> Option<Growth<N>> {
        let (grown, interval) = self.enter_whole(read, now)?;
        Some(together(grown.values()).unwrap_or(Growth { interval, added: [0; N] }))
    }

    /// The same, but of each by itself, with the time since the last reading.
    pub(crate) fn enter_whole<'a>(
        &mut self,
        read: Stamp,
        now: &Counters<'a, N, K>,
    ) -> Option<(BTreeMap<&'a K, Growth<N>>, Duration)> {
        if self.read.is_some_and(|last| since(read.at, last.at) > Some(TOLD_NO_MORE)) {
            self.give_up(read, now);
        }
        // Also in a reading that lacks a device: by the next one, another may have passed its old counters again.
        let some_start_anew = self.some_start_anew(read, now);
        let is_whole =
            now.iter().all(|(device, now)| now.is_some_and(|now| !self.lags(device, now)));
        if some_start_anew || !is_whole {
            return None;
        }
        let interval = self.read.and_then(|before| since(read.at, before.at));
        let had_none = self.known.is_empty();
        let grown = self.enter(read, now);
        let is_known = !grown.is_empty() || (had_none && now.is_empty());
        interval.filter(|_| is_known).map(|interval| (grown, interval))
    }

    /// Has each device start anew whose counters went back, and answers whether there is one.
    fn some_start_anew(&mut self, read: Stamp, now: &Counters<'_, N, K>) -> bool {
        if self.has_seen(read) {
            return false;
        }
        let anew = |(place, (device, before)): (usize, &(K::Kept, Sample<i64, N>))| {
            let measured = now.get::<K>(device.borrow()).copied().flatten();
            let went_back =
                |now: &Sample<_, N>| now.read.at > before.read.at && now.since(before).is_none();
            Some((place, measured.map(|now| now.sample(read)).filter(went_back)?))
        };
        let anew: Vec<_> = self.known.iter().enumerate().filter_map(anew).collect();
        if !anew.is_empty() {
            let known = Arc::make_mut(&mut self.known);
            for (place, now) in &anew {
                known[*place].1 = *now;
            }
        }
        !anew.is_empty()
    }

    /// Whether a device was not measured since it was last known, as a sample of it is missing. One that has
    /// never counted anything may be one that is never told.
    fn lags(&self, device: &K, now: Measured<N>) -> bool {
        let has_counted = |before: &Sample<_, N>| before.counters.iter().any(|count| *count > 0);
        let before = self.last(device).filter(has_counted);
        now.at.zip(before).is_some_and(|(at, before)| at <= before.read.at)
    }

    /// What devices that lag have counted is not known any more, if others go on.
    fn give_up(&mut self, read: Stamp, now: &Counters<'_, N, K>) {
        let goes_on = |(device, before): &(K::Kept, Sample<i64, N>)| {
            let now = now.get::<K>((*device).borrow()).copied().flatten();
            now.is_some_and(|now| now.sample(read).read.at > before.read.at)
        };
        let go_on: Vec<bool> = self.known.iter().map(goes_on).collect();
        if go_on.contains(&true) {
            for ((device, before), goes_on) in Arc::make_mut(&mut self.known).iter_mut().zip(go_on)
            {
                if !goes_on && now.get::<K>((*device).borrow()).is_some_and(Option::is_some) {
                    before.counters = [-1; N];
                }
            }
        }
    }

    /// Whether a reading that is not older was entered already.
    fn has_seen(&self, read: Stamp) -> bool {
        self.read.is_some_and(|last| last.at >= read.at)
    }

    /// Whether it knows of just these devices.
    pub(crate) fn are(&self, devices: &Counters<'_, N, K>) -> bool {
        self.known.len() == devices.len() && devices.keys().all(|device| self.has_known(device))
    }

    /// Whether the counters of a device that was there at the last reading were ever known.
    pub(crate) fn has_known(&self, device: &K) -> bool {
        self.last(device).is_some()
    }

    fn last(&self, device: &K) -> Option<Sample<i64, N>> {
        let found = self.known.binary_search_by(|(known, _)| known.borrow().cmp(device)).ok()?;
        self.known.get(found).map(|(_, sample)| *sample)
    }
}

impl<const N: usize> Measured<N> {
    /// With the time of the whole reading, if it was not measured by itself.
    fn sample(self, read: Stamp) -> Sample<i64, N> {
        let start = read.start.filter(|_| !self.outlive);
        Sample { read: Stamp { at: self.at.unwrap_or(read.at), start }, counters: self.counters }
    }

    /// Itself, if all of its counters are counted: libvirt has -1 for those that are not.
    pub(crate) fn counted(self) -> Option<Self> {
        self.counters.iter().all(|counter| *counter >= 0).then_some(self)
    }
}

impl<const N: usize> Growth<N> {
    /// What was added in a second, on average.
    pub(crate) fn per_second(&self) -> [f64; N] {
        self.added.map(|added| per_second(added, self.interval))
    }

    /// What of it, until now, was added after what was told before: as much as of its time.
    pub(crate) fn untold(self, now: Instant, told: Option<Instant>) -> Option<Self> {
        let Some(told) = told else { return Some(self) };
        let untold = since(now, told)?.min(self.interval);
        let [part, all] = [untold, self.interval].map(|time| i128::try_from(time.as_nanos()).ok());
        let (part, all) = part.zip(all)?;
        let added = self.added.map(|added| added / all * part + added % all * part / all);
        Some(Self { interval: untold, added })
    }
}

/// What was added to all of them; `None` if there is none.
pub(crate) fn together<'a, const N: usize>(
    grown: impl Iterator<Item = &'a Growth<N>> + Clone,
) -> Option<Growth<N>> {
    let interval = common(grown.clone())?;
    let mut total = [0; N];
    for growth in grown {
        for (sum, added) in total.iter_mut().zip(growth.added) {
            *sum += added;
        }
    }
    Some(Growth { interval, added: total })
}

/// The interval of what was added within different ones, as one device may have been measured late: the
/// mean, in which each weighs as much as its rate. So all that was added, over this, is the sum of
/// the rates; were all of them to weigh the same, those that are idle would hide how long a busy one
/// took. Both counters of a device weigh together.
fn common<'a, const N: usize>(
    grown: impl Iterator<Item = &'a Growth<N>> + Clone,
) -> Option<Duration> {
    let intervals = grown.clone().map(|growth| growth.interval);
    let (least, most) = (intervals.clone().min()?, intervals.clone().max()?);
    let rates = grown.map(|growth| per_second(growth.added.iter().sum(), growth.interval));
    let is_idle = rates.clone().all(|rate| rate <= 0.0);
    let weights = rates.map(|rate| if is_idle { 1.0 } else { rate });
    let seconds = intervals.map(|interval| interval.as_secs_f64());
    let weighted: f64 = weights.clone().zip(seconds).map(|(weight, time)| weight * time).sum();
    let mean = Duration::try_from_secs_f64(weighted / weights.sum::<f64>()).unwrap_or(most);
    // It is rounded.
    Some(mean.clamp(least, most))
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
        Counters::from([("tap0", with(counters).counted())])
    }

    /// Counters that were measured with the whole reading.
    fn with<const N: usize>(counters: [i64; N]) -> Measured<N> {
        Measured { counters, at: None, outlive: false }
    }

    fn read(devices: &mut Devices<2>, at: Instant, counters: [i64; 2]) -> Option<[i128; 2]> {
        devices.enter(at.into(), &one(counters)).get("tap0").map(|growth| growth.added)
    }

    #[test]
    fn a_series_that_can_be_reckoned_by_hand() {
        let (mut devices, start) = (Devices::default(), noon());
        let mut rates = |seconds: u32, counters| {
            let grown = devices.enter((start + seconds * SECOND).into(), &one(counters));
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
            let grown = each.enter(at.into(), &now);
            let rate = |name| grown.get(name).map(|growth| growth.per_second()[0]);
            let total = together.enter_together(at.into(), &now);
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
            let growth = devices.enter_together((start + seconds * SECOND).into(), &now)?;
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
            let own = |seconds| Measured { at: Some(at(seconds)), ..with(count(seconds)) };
            let now = Counters::from([("vda", Some(with(count(vda)))), ("vdb", Some(own(vdb)))]);
            assert_eq!(read, vda);
            let grown = each.enter(at(read).into(), &now);
            let rate = |name| grown.get(name).map(|growth| growth.per_second()[0]);
            let rates = (rate("vda"), rate("vdb"));
            let total = together.enter_together(at(read).into(), &now);
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
    fn a_total_is_over_the_time_of_those_that_were_busy() {
        let (mut devices, start) = (Devices::default(), noon());
        let mut total = |seconds: u32, late: u32, count| {
            let at = Some(start + (seconds + late) * SECOND);
            let busy = Some(Measured { at, ..with([count]) });
            let now =
                Counters::from([("vda", Some(with([7]))), ("vdb", busy), ("vdc", Some(with([8])))]);
            let growth = devices.enter_together((start + seconds * SECOND).into(), &now)?;
            Some((growth.added[0], growth.interval.as_secs_f64(), growth.per_second()[0]))
        };
        assert_eq!(total(0, 0, 0), None);
        assert_eq!(total(1, 0, 1000), Some((1000, 1.0, 1000.0)));
        assert_eq!(
            total(2, 5, 7000),
            Some((6000, 6.0, 1000.0)),
            "it waited, and the others did nothing"
        );
        assert_eq!(total(9, 0, 9000), Some((2000, 2.0, 1000.0)));
        assert_eq!(total(10, 3, 9000), Some((0, 2.0, 0.0)), "of nothing, the mean");
    }

    #[test]
    fn a_total_is_unknown_while_one_starts_anew_and_the_others_lose_nothing() {
        let (mut devices, start) = (Devices::default(), noon());
        let mut total = |seconds: u32, vda, vdb| {
            let now = Counters::from([("vda", Some(with([vda]))), ("vdb", Some(with([vdb])))]);
            let growth = devices.enter_together((start + seconds * SECOND).into(), &now)?;
            Some((growth.added[0], growth.interval.as_secs_f64(), growth.per_second()[0]))
        };
        assert_eq!(total(0, 500, 1000), None);
        assert_eq!(total(1, 501, 1010), Some((11, 1.0, 11.0)));
        assert_eq!(total(2, 9, 1020), None, "vda went back");
        assert_eq!(total(3, 19, 1030), Some((30, 1.5, 20.0)), "10 in 1 s, and 20 in 2 s");
        assert_eq!(total(4, 4, 1040), None);
        assert_eq!(total(5, 3, 1050), None, "and again");
        assert_eq!(total(6, 3, 1060), Some((30, 3.0, 10.0)));
        assert_eq!(total(7, 4, 1060), Some((1, 1.0, 1.0)));
    }

    #[test]
    fn one_that_starts_anew_while_another_is_refused_goes_on_from_there() {
        let (mut devices, start) = (Devices::default(), noon());
        let mut total = |seconds: u32, vda, vdb: Option<i64>| {
            let vdb = vdb.map(|count| with([count]));
            let now = Counters::from([("vda", Some(with([vda]))), ("vdb", vdb)]);
            let growth = devices.enter_together((start + seconds * SECOND).into(), &now)?;
            Some((growth.added[0], growth.interval.as_secs_f64(), growth.per_second()[0]))
        };
        assert_eq!(total(0, 500, Some(1000)), None);
        assert_eq!(total(1, 9, None), None, "vda went back");
        assert_eq!(total(2, 609, Some(1000)), Some((600, 1.0, 600.0)), "since it did");
    }

    #[test]
    fn all_that_is_counted_at_a_new_start_is_new() {
        let (mut each, mut together, start) = (Devices::default(), Devices::default(), noon());
        let mut told = |seconds: u32, number, devices: &[(&'static str, Option<i64>)]| {
            let read = Stamp { at: start + seconds * SECOND, start: number };
            let counters =
                devices.iter().map(|(name, count)| (*name, count.map(|count| with([count]))));
            let now = counters.collect();
            let grown = each.enter(read, &now);
            let of = |growth: &Growth<1>| (growth.added[0], growth.interval.as_secs());
            let each: Vec<_> = grown.iter().map(|(name, growth)| (*name, of(growth))).collect();
            (each, together.enter_together(read, &now).as_ref().map(of))
        };
        let vda = |count| [("vda", Some(count))];
        assert_eq!(told(0, Some(12), &vda(150)), (vec![], None));
        assert_eq!(told(1, Some(13), &vda(400)), (vec![("vda", (400, 1))], Some((400, 1))));
        assert_eq!(told(2, Some(13), &vda(410)), (vec![("vda", (10, 1))], Some((10, 1))));
        // It is not known, at the first reading of a start.
        assert_eq!(told(3, Some(14), &[("vda", None)]), (vec![], None));
        assert_eq!(told(5, Some(14), &vda(500)), (vec![("vda", (500, 3))], Some((500, 3))));
        // Nobody says which start it is: what went on may have been another.
        assert_eq!(told(6, None, &vda(600)), (vec![("vda", (100, 1))], Some((100, 1))));
        assert_eq!(told(7, Some(15), &vda(650)), (vec![("vda", (50, 1))], Some((50, 1))));
        // Others have come with a start, and one only afterwards.
        let others = [("vdb", Some(7)), ("vdc", Some(8))];
        let both = vec![("vdb", (7, 2)), ("vdc", (8, 2))];
        assert_eq!(told(9, Some(16), &others), (both, Some((15, 2))));
        let later = [("vdc", Some(9)), ("vdd", Some(1000))];
        assert_eq!(told(10, Some(16), &later), (vec![("vdc", (1, 1))], Some((1, 1))));
    }

    #[test]
    fn what_came_with_a_start_and_is_refused_at_first_has_counted_since_then() {
        let (mut devices, start) = (Devices::default(), noon());
        let mut told = |seconds: u32, number, outlive, device: (&'static str, Option<i64>)| {
            let read = Stamp { at: start + seconds * SECOND, start: number };
            let measured = device.1.map(|count| Measured { outlive, ..with([count]) });
            let grown = devices.enter(read, &Counters::from([(device.0, measured)]));
            grown.get(device.0).map(|growth| (growth.added[0], growth.interval.as_secs()))
        };
        assert_eq!(told(0, Some(1), false, ("tap0", Some(1000))), None);
        assert_eq!(told(1, Some(2), false, ("tap1", None)), None);
        assert_eq!(told(2, Some(2), false, ("tap1", None)), None);
        assert_eq!(told(4, Some(2), false, ("tap1", Some(400))), Some((400, 4)));
        assert_eq!(told(5, Some(3), false, ("tap2", None)), None);
        assert_eq!(told(6, Some(4), false, ("tap2", Some(7))), Some((7, 2)), "again, meanwhile");
        assert_eq!(told(7, Some(5), true, ("vf0", None)), None);
        assert_eq!(told(8, Some(5), true, ("vf0", Some(1 << 40))), None, "it may be older");
        assert_eq!(told(9, Some(5), true, ("vf0", Some((1 << 40) + 5))), Some((5, 1)));
    }

    #[test]
    fn what_outlives_the_instance_is_not_new_at_its_start() {
        let (mut devices, start) = (Devices::default(), noon());
        let mut rate = |seconds: u32, number, name, count| {
            let read = Stamp { at: start + seconds * SECOND, start: Some(number) };
            let device = Measured { outlive: true, ..with([count]) };
            let grown = devices.enter(read, &Counters::from([(name, Some(device))]));
            grown.get(name).map(|growth| growth.added[0])
        };
        assert_eq!(rate(0, 1, "tap0", 1 << 40), None);
        assert_eq!(rate(1, 2, "tap0", (1 << 40) + 5), Some(5));
        assert_eq!(rate(2, 3, "tap1", 1 << 40), None, "it may have been there for long");
    }

    #[test]
    fn a_total_waits_for_a_device_of_which_a_sample_is_missing() {
        let (mut devices, start) = (Devices::default(), noon());
        let mut told = |read: u32, vda: u32, vdb: u32| {
            let own = |seconds: u32| {
                let (at, count) = (start + seconds * SECOND, [i64::from(seconds) * 1000]);
                Some(Measured { at: Some(at), ..with(count) })
            };
            let idle = Measured { at: Some(start), ..with([0]) };
            let now = [("vda", own(vda)), ("vdb", own(vdb)), ("vdc", Some(idle))];
            let growth =
                devices.enter_together((start + read * SECOND).into(), &Counters::from(now))?;
            Some((growth.added[0], growth.interval.as_secs()))
        };
        assert_eq!(told(20, 20, 20), None);
        assert_eq!(told(40, 40, 40), Some((40_000, 20)), "one that has never counted is no part");
        assert_eq!(told(60, 60, 40), None, "nobody knows what it did: that is not 0");
        assert_eq!(told(80, 80, 40), None);
        assert_eq!(
            told(100, 100, 60),
            Some((80_000, 40)),
            "over its own time, as much of it is known"
        );
        assert_eq!(told(120, 120, 120), Some((80_000, 40)), "what is filled in later");
        assert_eq!(told(140, 140, 140), Some((40_000, 20)));
        // It is told no more: that does not cost the others for good, nor are they told of it twice.
        assert_eq!(told(3600, 3600, 140), None);
        assert_eq!(told(3780, 3780, 140), Some((3_640_000, 3640)));
        assert_eq!(told(3800, 3800, 140), Some((20_000, 20)));
        assert_eq!(told(3820, 3820, 160), None, "it begins anew, by its own time");
        assert_eq!(told(3840, 3840, 180), Some((60_000, 30)));
        assert_eq!(told(3860, 3860, 200), Some((40_000, 20)));
        assert_eq!(told(3880, 3880, 200), None);
        // Where nothing is told of any of them, there are no others.
        assert_eq!(told(7600, 3860, 200), None);
        assert_eq!(told(7620, 7620, 220), Some((3_780_000, 1890)));
    }

    #[test]
    fn devices_come_and_go() {
        let (mut devices, start) = (Devices::default(), noon());
        let mut total = |seconds: u32, now: &[(&'static str, i64)]| {
            let now = now.iter().map(|(name, count)| (*name, Some(with([*count])))).collect();
            devices
                .enter_together((start + seconds * SECOND).into(), &now)
                .map(|growth| growth.added[0])
        };
        assert_eq!(total(0, &[("vda", 100)]), None);
        assert_eq!(total(1, &[("vda", 101), ("vdb", 5000)]), Some(1));
        assert_eq!(total(2, &[("vda", 103), ("vdb", 5010)]), Some(12));
        assert_eq!(total(3, &[("vdb", 5011)]), Some(1));
        assert_eq!(total(4, &[("vda", 9999), ("vdb", 5011)]), Some(0), "plugged in again");
        assert_eq!(total(5, &[]), None, "nobody knows what it did before it went");
        assert_eq!(total(6, &[]), Some(0));
        assert_eq!(total(7, &[("vda", 9999)]), None);
        assert_eq!(total(8, &[("vda", 9999)]), Some(0));
        assert_eq!(total(9, &[("vdb", 5011)]), None, "another in its place");
    }

    #[test]
    fn a_reading_that_another_one_overtook_changes_nothing() {
        let (mut devices, start) = (Devices::default(), noon());
        read(&mut devices, start, [100, 100]);
        assert_eq!(read(&mut devices, start + 2 * SECOND, [200, 200]), Some([100, 100]));
        assert_eq!(read(&mut devices, start + SECOND, [150, 150]), None);
        assert_eq!(read(&mut devices, start + 2 * SECOND, [210, 210]), None, "no time has passed");
        assert_eq!(devices.enter_together((start + SECOND).into(), &one([300, 300])), None);
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
                for (disk, growth) in each.enter(at.into(), now) {
                    let (added, time) = told.entry(disk).or_insert((0, Duration::ZERO));
                    (*added, *time) = (*added + growth.added[0], *time + growth.interval);
                }
                if let Some(growth) = together.enter_together(at.into(), now) {
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
        fn nothing_that_was_done_since_a_start_is_lost(
            steps in prop::collection::vec(
                (1_u32..5, 0_u32..3, [any::<u16>(), any::<u16>()], any::<[bool; 2]>()), 1..30),
        ) {
            let (mut each, mut together, start) = (Devices::default(), Devices::default(), noon());
            let (mut seconds, mut number, mut now) = (0, 1, [1000; 2]);
            let (mut told, mut done) = ([0; 2], [None; 2]);
            let mut all_done = None;
            for (at, (pause, starts, used, known)) in steps.into_iter().enumerate() {
                let known = if at == 0 { [true; 2] } else { known };
                seconds += pause;
                number += starts;
                let mut said = Counters::new();
                for device in 0..2 {
                    let used = i64::from(used[device]);
                    // Nobody knows what it did before the start.
                    now[device] = if starts > 0 { used } else { now[device] + used };
                    said.insert(NAMES[device], known[device].then_some(with([now[device]])));
                }
                let read = Stamp { at: start + seconds * SECOND, start: Some(number) };
                let grown = each.enter(read, &said);
                for device in 0..2 {
                    told[device] += grown.get(NAMES[device]).map_or(0, |growth| growth.added[0]);
                    if known[device] {
                        let (before, last, sum) = done[device].unwrap_or((number, now[device], 0));
                        let since = if before == number { last } else { 0 };
                        done[device] = Some((number, now[device], sum + now[device] - since));
                    }
                    let done = done[device].map_or(0, |(_, _, sum)| sum);
                    prop_assert_eq!(told[device], i128::from(done));
                }
                let growth = together.enter_together(read, &said);
                if known == [true; 2] {
                    let sum = now[0] + now[1];
                    let (before, last) = all_done.unwrap_or((number, sum));
                    let since = if before == number { last } else { 0 };
                    prop_assert_eq!(growth.map(|growth| growth.added[0]),
                        all_done.map(|_| i128::from(sum - since)));
                    all_done = Some((number, sum));
                }
            }
        }

        #[test]
        fn no_more_is_told_than_was_done(script in script(whatever)) {
            let ((readings, done), start) = (play(script), noon());
            let (mut each, mut together) = (Devices::default(), Devices::default());
            let (mut told, mut total) = ([0; 3], 0);
            for (seconds, now) in &readings {
                let at = start + *seconds * SECOND;
                let grown = each.enter(at.into(), now);
                for (told, disk) in told.iter_mut().zip(NAMES) {
                    *told += grown.get(disk).map_or(0, |growth| growth.added[0]);
                }
                total += together.enter_together(at.into(), now).map_or(0, |growth| growth.added[0]);
            }
            prop_assert!(told.iter().zip(done).all(|(told, done)| (0..=done).contains(told)));
            prop_assert!((0..=done.iter().sum()).contains(&total));
        }

        #[test]
        fn what_one_does_is_told_though_another_starts_anew(
            steps in prop::collection::vec((1_u32..5, any::<u32>(), any::<bool>()), 1..30),
        ) {
            let (mut devices, start) = (Devices::default(), noon());
            let (mut seconds, mut steady, mut other) = (0, 0, 1_i64 << 40);
            let (mut first, mut total, mut expected) = (None, 0, 0);
            for (pause, added, goes_back) in steps {
                seconds += pause;
                steady += i64::from(added);
                other -= i64::from(goes_back);
                let now = [("vda", Some(with([steady]))), ("vdb", Some(with([other])))];
                let at = start + seconds * SECOND;
                let told = devices.enter_together(at.into(), &Counters::from(now));
                let first = *first.get_or_insert((seconds, steady));
                prop_assert_eq!(told.is_some(), first.0 < seconds && !goes_back);
                if let Some(growth) = told {
                    total += growth.added[0];
                    expected = i128::from(steady - first.1);
                }
            }
            prop_assert_eq!(total, expected);
        }

        #[test]
        fn a_total_has_the_rate_that_all_have_together(
            devices in prop::collection::vec((1..i64::MAX, 1_u32..1_000_000_000), 1..20),
        ) {
            let (mut together, start) = (Devices::default(), noon());
            let names: Vec<_> = (0..devices.len()).map(|number| number.to_string()).collect();
            let mut total = |at, count: fn(i64) -> i64, time: fn(u32) -> u32| {
                let measured = devices.iter().map(|(added, nanoseconds)| {
                    let own = start + Duration::from_nanos(time(*nanoseconds).into());
                    Some(Measured { at: Some(own), ..with([count(*added)]) })
                });
                let now = names.iter().map(String::as_str).zip(measured).collect();
                together.enter_together((start + at * SECOND).into(), &now)
            };
            prop_assert_eq!(total(0, |_| 0, |_| 0), None);
            let told = total(1, |added| added, |nanoseconds| nanoseconds).unwrap();
            let interval = |nanoseconds: &u32| Duration::from_nanos((*nanoseconds).into());
            let all = devices.iter().map(|(added, own)| per_second((*added).into(), interval(own)));
            let own = devices.iter().map(|(_, own)| interval(own));
            // To the nanosecond.
            let rounded = 1e-9 / told.interval.as_secs_f64() + 1e-9;
            prop_assert!((told.per_second()[0] / all.sum::<f64>() - 1.0).abs() <= rounded);
            prop_assert!(own.clone().min() <= Some(told.interval) && Some(told.interval) <= own.max());
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
                let grown = each.enter(at.into(), &now).into_values();
                for growth in grown.chain(together.enter_together(at.into(), &now)) {
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
            let sample = |at: Instant, counters| Sample { read: at.into(), counters };
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
