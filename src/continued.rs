//! CPU times that never fall while an instance runs. Pure: times come in with the readings.
//!
//! libvirt tells the times of the vCPUs that are plugged in now, each since it was plugged in. Their sum
//! falls when some are unplugged. And where not all of them tell their times, the time of the whole
//! instance stands in, which is another number. So only growth is added up: of each vCPU since it was
//! last told, and of one source that two readings know.
//!
//! Once the kernel is told to keep scheduler statistics (`kernel.sched_schedstats`), a wait leaps by all
//! the time since the host was booted. No wait is longer than the time since the vCPU last ran, so that
//! is left out.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::hypervisor::Stamp;
use crate::recent::Recent;
use crate::records::{CpuTimes, VcpuTimes};

/// What nobody has asked for in a day may be forgotten.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// By how much two times of readings may be off: a call takes its time.
const INEXACT: Duration = Duration::from_secs(60);

/// The CPU times of each instance, as they were last told.
#[derive(Debug)]
pub(crate) struct Continued(Recent<Uuid, Box<Times>>);

/// What was used since the start, nanoseconds; `None` where a reading does not know it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// Time and wait of all vCPUs, or else of the whole instance.
    pub(crate) cpu: Option<i128>,
    /// What all vCPUs have run, waited and been delayed.
    pub(crate) ran: Option<i128>,
    pub(crate) wait: Option<i128>,
    pub(crate) delay: Option<i128>,
    /// Whether it is what a younger reading knew, and so not of this one's moment.
    pub(crate) is_younger: bool,
}

#[derive(Debug, Default)]
struct Times {
    read: Option<Stamp>,
    /// The vCPUs that are plugged in, as they were last told, in the order of their numbers.
    vcpus: Box<[(u32, Vcpu)]>,
    /// Time, wait and delay of all that were ever plugged in.
    sums: [i128; 3],
    /// The CPU time.
    cpu: Option<i128>,
    /// What it was when each of its sources was last told: time and wait of the vCPUs, and the whole.
    sources: [Option<Source>; 2],
}

/// A vCPU as it was last told.
#[derive(Debug, Clone, Copy, Default)]
struct Vcpu {
    times: VcpuTimes,
    at: Option<Instant>,
    /// It has run after that, so no wait that was not told yet began before.
    ran_after: Option<Instant>,
}

/// What a source said, and what the CPU time was then.
#[derive(Debug, Clone, Copy)]
struct Source {
    at: Instant,
    said: i128,
    cpu: i128,
}

impl Continued {
    /// Enters a reading, and answers what was used since the start. One that was overtaken by a younger
    /// one is told what that one was.
    pub(crate) fn enter(&mut self, instance: Uuid, read: Stamp, now: &CpuTimes) -> Used {
        if *now == CpuTimes::default() {
            return Used::default();
        }
        self.0.get_or_default(instance, read.at).enter(read, now)
    }

    /// How many instances are remembered.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets an instance that is gone, or does not run.
    pub(crate) fn forget(&mut self, instance: Uuid) {
        self.0.remove(&instance);
    }

    /// Forgets every instance that is not among those that exist, by a list that was asked for then.
    pub(crate) fn sweep(&mut self, existing: &HashSet<Uuid>, asked: Instant) {
        self.0.forget_all_but(asked, |instance| existing.contains(instance));
    }
}

impl Default for Continued {
    fn default() -> Self {
        Self(Recent::new(KEPT))
    }
}

impl Times {
    fn enter(&mut self, read: Stamp, now: &CpuTimes) -> Used {
        if let Some(last) = self.read {
            let is_another_start = read.is_of_another_start(last);
            if read.at <= last.at {
                let is_younger = read.at < last.at;
                let used = Used { is_younger, ..self.used(now, self.cpu) };
                return if is_another_start { Used::default() } else { used };
            }
            if is_another_start {
                *self = Self::default();
            }
        }
        let start = read.start.or(self.read.and_then(|last| last.start));
        self.read = Some(Stamp { start, ..read });
        if let Some(vcpus) = &now.vcpus {
            self.add(read.at, vcpus);
        }
        let cpu = self.cpu(read.at, now);
        self.used(now, cpu)
    }

    /// Adds what each vCPU has used since it was last told. One that was not there has all its times
    /// since then; and so has one whose time went back, as it was unplugged and plugged in again.
    fn add(&mut self, at: Instant, now: &[(u32, VcpuTimes)]) {
        let mut vcpus = Vec::with_capacity(now.len());
        for (number, times) in now {
            let last = self.vcpus.binary_search_by_key(number, |(number, _)| *number);
            let last = last.ok().and_then(|place| self.vcpus.get(place)).map(|(_, vcpu)| *vcpu);
            let last =
                last.filter(|last| !is_less(times.time, last.times.time)).unwrap_or_default();
            let mut now = *times;
            if last.cannot_have_waited(at, now.wait) {
                now.wait = None;
            }
            for (sum, of) in self.sums.iter_mut().zip(EACH) {
                let (before, now) = (of(&last.times).unwrap_or(0), of(&now));
                let grown = |now| if now < before { now } else { now - before };
                *sum = sum.saturating_add(now.map_or(0, grown));
            }
            let has_run = is_less(last.times.time, times.time);
            let vcpu = Vcpu {
                times: VcpuTimes {
                    time: times.time.or(last.times.time),
                    wait: times.wait.or(last.times.wait),
                    delay: times.delay.or(last.times.delay),
                },
                at: Some(at),
                ran_after: if has_run { last.at } else { last.ran_after },
            };
            vcpus.push((*number, vcpu));
        }
        vcpus.sort_unstable_by_key(|(number, _)| *number);
        self.vcpus = vcpus.into();
    }

    /// The CPU time: what it was, and the growth of a source that was told then, too. `None` where there
    /// is none.
    fn cpu(&mut self, at: Instant, now: &CpuTimes) -> Option<i128> {
        let [time, wait, _] = self.sums;
        let both = |vcpu: &VcpuTimes| vcpu.time.and(vcpu.wait);
        let said = [now.all(both).then_some(time.saturating_add(wait)), now.whole];
        let known =
            || self.sources.iter().zip(said).filter_map(|(last, now)| Some((*last)?).zip(now));
        // The latest; of two, the vCPUs.
        let latest = known().rev().max_by_key(|(last, _)| last.at);
        let grown = |(last, now): (Source, i128)| {
            let grown = if now < last.said { now } else { now - last.said };
            last.cpu.saturating_add(grown)
        };
        let cpu = match (latest, self.cpu) {
            (Some(latest), before) => Some(grown(latest).max(before.unwrap_or(0))),
            (None, None) => said.into_iter().flatten().next(),
            (None, Some(_)) => None,
        };
        self.cpu = cpu.or(self.cpu);
        if let Some(cpu) = self.cpu {
            for (last, said) in self.sources.iter_mut().zip(said) {
                *last = said.map(|said| Source { at, said, cpu }).or(*last);
            }
        }
        cpu
    }

    /// What a reading knows of what was used.
    fn used(&self, now: &CpuTimes, cpu: Option<i128>) -> Used {
        let sums = self.sums.into_iter().zip(EACH);
        let mut told = sums.map(|(sum, of)| now.all(of).then_some(sum));
        let mut next = || told.next().flatten();
        Used { cpu, ran: next(), wait: next(), delay: next(), is_younger: false }
    }
}

/// Time, wait and delay of a vCPU.
const EACH: [fn(&VcpuTimes) -> Option<i128>; 3] =
    [|vcpu| vcpu.time, |vcpu| vcpu.wait, |vcpu| vcpu.delay];

impl CpuTimes {
    /// Whether all vCPUs tell this of themselves.
    fn all(&self, of: impl Fn(&VcpuTimes) -> Option<i128>) -> bool {
        let vcpus = self.vcpus.as_ref();
        vcpus.is_some_and(|vcpus| vcpus.iter().all(|(_, times)| of(times).is_some()))
    }
}

impl Vcpu {
    /// Whether its wait has grown by more than the time since it last ran.
    fn cannot_have_waited(&self, at: Instant, wait: Option<i128>) -> bool {
        let most = self.ran_after.map(|then| at.saturating_duration_since(then) + INEXACT);
        let most = most.and_then(|most| i128::try_from(most.as_nanos()).ok());
        let grown = wait.zip(self.times.wait).map(|(now, before)| now.saturating_sub(before));
        grown.zip(most).is_some_and(|(grown, most)| grown > most)
    }
}

fn is_less(one: Option<i128>, other: Option<i128>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one < other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VM: Uuid = Uuid::from_u128(1);
    const SECOND: Duration = Duration::from_secs(1);

    /// Readings of one instance, a second apart.
    struct Readings {
        continued: Continued,
        at: Instant,
        start: Option<u32>,
    }

    impl Readings {
        fn new() -> Self {
            Self { continued: Continued::default(), at: Instant::now(), start: Some(1) }
        }

        fn next(&mut self, now: &CpuTimes) -> Used {
            self.at += SECOND;
            self.continued.enter(VM, Stamp { at: self.at, start: self.start }, now)
        }

        fn cpu(&mut self, now: &CpuTimes) -> Option<i128> {
            self.next(now).cpu
        }
    }

    fn vcpu(time: i128) -> VcpuTimes {
        VcpuTimes { time: Some(time), wait: Some(0), delay: Some(0) }
    }

    fn vcpus(times: &[(u32, i128)], whole: Option<i128>) -> CpuTimes {
        let vcpus = times.iter().map(|(number, time)| (*number, vcpu(*time))).collect();
        CpuTimes { vcpus: Some(vcpus), whole }
    }

    fn whole(whole: i128) -> CpuTimes {
        CpuTimes { vcpus: None, whole: Some(whole) }
    }

    #[test]
    fn half_of_the_vcpus_are_unplugged() {
        let mut readings = Readings::new();
        let eight: Vec<_> = (0..8).map(|number| (number, 100)).collect();
        let four: Vec<_> = (0..4).map(|number| (number, 101)).collect();
        assert_eq!(readings.cpu(&vcpus(&eight, Some(900))), Some(800));
        assert_eq!(readings.cpu(&vcpus(&four, Some(904))), Some(804));
        // One of them is plugged in again, and has a time of its own; then it has overtaken its old self.
        let mut five = four.clone();
        five.push((7, 3));
        assert_eq!(readings.cpu(&vcpus(&five, None)), Some(807));
        five[4].1 = 5;
        assert_eq!(readings.cpu(&vcpus(&five, None)), Some(809));
        five[4].1 = 4;
        assert_eq!(readings.cpu(&vcpus(&five, None)), Some(813), "again, between two readings");
    }

    #[test]
    fn another_source_goes_on_where_both_were_told() {
        let mut readings = Readings::new();
        assert_eq!(readings.cpu(&vcpus(&[(0, 100)], Some(900))), Some(100));
        assert_eq!(readings.cpu(&whole(910)), Some(110));
        assert_eq!(readings.cpu(&vcpus(&[(0, 108)], Some(912))), Some(112), "what both were told");
        assert_eq!(readings.cpu(&vcpus(&[(0, 109)], None)), Some(113));
        assert_eq!(readings.cpu(&CpuTimes::default()), None);
        assert_eq!(readings.cpu(&vcpus(&[(0, 111)], None)), Some(115));
        assert_eq!(readings.cpu(&whole(914)), Some(115), "no less than before");
        assert_eq!(readings.cpu(&whole(916)), Some(117));

        let mut readings = Readings::new();
        assert_eq!(readings.cpu(&whole(900)), Some(900), "there is no other");
        assert_eq!(readings.cpu(&vcpus(&[(0, 100)], None)), None, "nobody knows how much more");
        assert_eq!(readings.cpu(&vcpus(&[(0, 101)], None)), Some(901));
    }

    #[test]
    fn at_a_new_start_all_begin_anew() {
        let mut readings = Readings::new();
        readings.next(&vcpus(&[(0, 100), (1, 100)], Some(300)));
        readings.start = Some(2);
        assert_eq!(readings.next(&vcpus(&[(0, 150)], Some(160))).ran, Some(150));
        readings.start = None;
        assert_eq!(readings.cpu(&vcpus(&[(0, 151)], Some(161))), Some(151));
        readings.start = Some(3);
        assert_eq!(readings.cpu(&whole(5)), Some(5));
    }

    #[test]
    fn what_one_vcpu_does_not_tell_is_unknown_and_told_later() {
        let mut readings = Readings::new();
        let told = |wait: Option<i128>| {
            let other = VcpuTimes { wait, ..vcpu(10) };
            CpuTimes { vcpus: Some(vec![(0, vcpu(10)), (1, other)]), whole: None }
        };
        let both =
            Used { cpu: Some(25), ran: Some(20), wait: Some(5), delay: Some(0), ..Used::default() };
        assert_eq!(readings.next(&told(Some(5))), both);
        assert_eq!(readings.next(&told(None)), Used { cpu: None, wait: None, ..both });
        assert_eq!(readings.next(&told(Some(7))), Used { cpu: Some(27), wait: Some(7), ..both });
    }

    #[test]
    fn a_wait_that_leaps_is_none() {
        let mut readings = Readings::new();
        let mut told = |time, wait| {
            let vcpu = VcpuTimes { wait: Some(wait), ..vcpu(time) };
            let used = readings.next(&CpuTimes { vcpus: Some(vec![(0, vcpu)]), whole: None });
            [used.cpu, used.ran, used.wait].map(Option::unwrap)
        };
        let (leap, second) = (10_i128.pow(15), 10_i128.pow(9));
        assert_eq!(told(100, 0), [100, 100, 0]);
        assert_eq!(told(101, 0), [101, 101, 0]);
        assert_eq!(told(102, leap), [102, 102, 0], "since the host was booted");
        assert_eq!(told(102, leap + 5), [107, 102, 5]);
        // For a while it does not run, and all that it has waited is told in the end.
        for _ in 0..600 {
            told(102, leap + 5);
        }
        let waited = 600 * second;
        assert_eq!(told(103, leap + 5 + waited), [108 + waited, 103, 5 + waited]);
    }

    #[test]
    fn a_reading_that_another_one_overtook_makes_nothing_fall() {
        let mut readings = Readings::new();
        readings.next(&vcpus(&[(0, 100)], None));
        let slow = Stamp { at: readings.at + SECOND / 2, start: Some(1) };
        assert_eq!(readings.cpu(&vcpus(&[(0, 200)], None)), Some(200));
        let late = readings.continued.enter(VM, slow, &vcpus(&[(0, 150)], None));
        assert_eq!((late.cpu, late.ran), (Some(200), Some(200)));
        assert_eq!(readings.cpu(&vcpus(&[(0, 201)], None)), Some(201));
        let before = Stamp { start: Some(7), ..slow };
        assert_eq!(readings.continued.enter(VM, before, &whole(9)), Used::default());
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let (mut continued, now) = (Continued::default(), Instant::now());
        for vm in 0..10 {
            continued.enter(Uuid::from_u128(vm), now.into(), &whole(5));
        }
        continued.enter(Uuid::from_u128(99), (now + 2 * SECOND).into(), &whole(5));
        continued.forget(Uuid::from_u128(0));
        let existing = (0..5).map(Uuid::from_u128).collect();
        continued.sweep(&existing, now + SECOND);
        assert_eq!(continued.len(), 5, "those that exist, and one newer than the list");
    }

    /// What happens to four vCPUs until a reading, and what of that it is told.
    #[derive(Debug, Clone)]
    struct Step {
        used: [u16; 4],
        plugged: [bool; 4],
        told: [bool; 2],
    }

    fn step() -> impl Strategy<Value = Step> {
        (any::<[u16; 4]>(), any::<[bool; 4]>(), any::<[bool; 2]>())
            .prop_map(|(used, plugged, told)| Step { used, plugged, told })
    }

    /// Takes the steps, one after the other. Answers, of each, what was told, all that was used since
    /// the first one, and what that one began with.
    fn play(steps: &[Step]) -> Vec<(Option<i128>, i128)> {
        let mut readings = Readings::new();
        let (mut times, mut plugged) = ([None; 4], [true; 4]);
        let (mut all, mut told) = (0, Vec::new());
        for step in steps {
            for vcpu in 0..4 {
                // It is unplugged and plugged in between two readings, and does nothing before that.
                times[vcpu] = plugged[vcpu].then(|| times[vcpu].unwrap_or(0));
                if let Some(time) = &mut times[vcpu] {
                    *time += i128::from(step.used[vcpu]);
                    all += i128::from(step.used[vcpu]);
                }
            }
            let each = (0..).zip(times).filter_map(|(number, time)| Some((number, vcpu(time?))));
            let now = CpuTimes {
                vcpus: step.told[0].then(|| each.collect()),
                whole: step.told[1].then_some(all + 1_000_000),
            };
            told.push((readings.cpu(&now), all));
            plugged = step.plugged;
        }
        told
    }

    fn never_falls(told: &[(Option<i128>, i128)]) -> bool {
        told.iter().filter_map(|(cpu, _)| *cpu).is_sorted()
    }

    proptest! {
        #[test]
        fn whichever_vcpus_come_and_go_the_sum_is_all_that_they_ran(
            mut steps in prop::collection::vec(step(), 1..30),
        ) {
            for step in &mut steps {
                step.told[0] = true;
            }
            let told = play(&steps);
            prop_assert!(never_falls(&told));
            prop_assert!(told.iter().all(|(cpu, all)| *cpu == Some(*all)));
        }

        #[test]
        fn whichever_source_is_refused_the_sum_is_all_that_was_used(
            mut steps in prop::collection::vec(step(), 1..30),
        ) {
            for step in &mut steps {
                step.plugged = [true; 4];
            }
            let told = play(&steps);
            prop_assert!(never_falls(&told));
            let known = |(cpu, all): &(Option<i128>, i128)| Some(((*cpu)?, *all));
            let mut known = told.iter().filter_map(known);
            if let Some((first, all_then)) = known.next() {
                let one_is_common = steps.iter().all(|step| step.told[0])
                    || steps.iter().all(|step| step.told[1]);
                for (cpu, all) in known {
                    let (grown, used) = (cpu - first, all - all_then);
                    // Where no source is told twice, nobody knows what was used in between.
                    prop_assert!(grown == used || (grown < used && !one_is_common));
                }
            }
        }

        #[test]
        fn the_sum_never_falls_and_is_never_more_than_was_used(
            steps in prop::collection::vec(step(), 1..30),
        ) {
            let told = play(&steps);
            prop_assert!(never_falls(&told));
            let mut known = told.iter().filter_map(|(cpu, all)| Some(((*cpu)?, *all)));
            if let Some((first, all_then)) = known.next() {
                prop_assert!(known.all(|(cpu, all)| cpu - first <= all - all_then));
            }
        }

        #[test]
        fn any_numbers_are_taken_and_nothing_falls(
            readings in prop::collection::vec(
                (prop::collection::vec((0_u32..3, any::<[Option<u64>; 3]>()), 0..4),
                 any::<Option<u64>>(), -2_i64..5, any::<Option<bool>>()), 1..20),
        ) {
            let (mut continued, mut at) = (Continued::default(), Instant::now() + 100 * SECOND);
            let mut last: Option<Used> = None;
            for (vcpus, whole, seconds, vcpus_told) in readings {
                let step = SECOND * u32::try_from(seconds.unsigned_abs()).unwrap();
                at = if seconds < 0 { at.checked_sub(step).unwrap() } else { at + step };
                let vcpus = vcpus.into_iter().map(|(number, times)| {
                    let [time, wait, delay] = times.map(|time| time.map(i128::from));
                    (number, VcpuTimes { time, wait, delay })
                });
                let vcpus = vcpus_told.map(|_| vcpus.collect());
                let now = CpuTimes { vcpus, whole: whole.map(i128::from) };
                let used = continued.enter(VM, at.into(), &now);
                let each = |used: Used| [used.cpu, used.ran, used.wait, used.delay];
                let last = last.get_or_insert_default();
                for (now, before) in each(used).into_iter().zip(each(*last)) {
                    prop_assert!(now.is_none() || now >= before);
                }
                let keep = |now: Option<i128>, before: Option<i128>| now.or(before);
                *last = Used {
                    cpu: keep(used.cpu, last.cpu),
                    ran: keep(used.ran, last.ran),
                    wait: keep(used.wait, last.wait),
                    delay: keep(used.delay, last.delay),
                    ..Used::default()
                };
            }
        }
    }
}
