//! The scheduler by itself: invented times, callers that ask at random, threads that come back when they
//! like or never.

mod ahead;
mod away;
mod hangs;
mod outages;
mod requests;
mod threads;

use std::collections::{HashMap, HashSet};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::error::{Failure, NO_THREAD};
use crate::hypervisor::{Moment, Notes, Reach};
use crate::records::InstanceId;

const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(5),
    max_age: None,
    workers: 3,
    read_ahead: 8,
    max_stuck: 2,
};
const KINDS: [Kind; 4] = [Kind::Stats, Kind::Nics, Kind::Disks, Kind::Sizes];

/// What a reading says here: of what, which one it is, and when it was begun.
#[derive(Debug, Clone, Copy)]
struct Value {
    key: Key,
    number: u64,
    begun: Instant,
}

/// A host with callers and threads, and a clock.
struct Host {
    scheduler: Scheduler<Value>,
    now: Instant,
    callers: Vec<ThreadId>,
    asking: HashMap<usize, (Request, Instant)>,
    /// Those that are away for a while, and since when; and for how long requests were, but for what began their time
    /// anew.
    away: HashMap<usize, (Request, Instant, Instant)>,
    were_away: HashMap<u64, Duration>,
    taking: Vec<(Job, Instant)>,
    dialing: Vec<u64>,
    /// What probers are stuck in, and since when.
    probing: Vec<(InstanceId, Instant)>,
    /// Whether none could take over for the last one of them.
    lacks_prober: bool,
    answers: Vec<(Key, std::result::Result<Value, Error>)>,
    handed_out: HashMap<Key, Value>,
    known_to_hang: HashSet<u64>,
    readings: u64,
}

fn lost() -> Error {
    let failure = Failure::of_libvirt(38, 7, "gone".to_owned());
    Error::ConnectionLost { uri: String::new(), instance: None, failure }
}

fn refused_about(uuid: Uuid) -> Error {
    let failure = Failure::of_libvirt(1, 10, "not for you".to_owned());
    Error::NoData { instance: uuid.into(), reason: crate::error::Reason::Refused(failure) }
}

/// All that was wanted of a reading.
fn parts_of(job: &Job, number: u64, begun: Instant) -> Vec<(Parts, Outcome<Value>)> {
    let part = |part: Parts| {
        let kind = Kind::of(part).unwrap_or(Kind::List);
        let value = Value { key: Key { kind, uuid: job.slot.uuid }, number, begun };
        let moment = Some(Moment { earliest: begun, latest: begun });
        (part, Outcome { answer: Ok(value), notes: Notes { moment, ..Notes::default() } })
    };
    job.parts.each().map(part).collect()
}

/// Whether it leaves the guest's process alone.
fn leaves_guest(job: &Job) -> bool {
    job.slot.lane != Lane::Guest
}

fn key(kind: Kind, vm: u128) -> Key {
    Key { kind, uuid: Uuid::from_u128(vm) }
}

fn list() -> Key {
    Key { kind: Kind::List, uuid: NO_INSTANCE }
}

impl Host {
    fn new(limits: Limits) -> Self {
        let id = |_| thread::spawn(|| thread::current().id()).join().unwrap();
        Self {
            scheduler: Scheduler::new("test:///", limits),
            now: Instant::now() + Duration::from_secs(3600),
            callers: (0..3).map(id).collect(),
            asking: HashMap::new(),
            away: HashMap::new(),
            were_away: HashMap::new(),
            taking: Vec::new(),
            dialing: Vec::new(),
            probing: Vec::new(),
            lacks_prober: false,
            answers: Vec::new(),
            handed_out: HashMap::new(),
            known_to_hang: HashSet::new(),
            readings: 0,
        }
    }

    fn ask(&mut self, caller: usize, key: Key) {
        if !self.asking.contains_key(&caller) {
            let request = self.scheduler.ask(self.callers[caller], key, &key.uuid.into(), self.now);
            self.asking.insert(caller, (request, self.now));
            self.look();
        }
    }

    /// Starts as many threads as the scheduler wants, and as many readings as there are threads.
    fn start(&mut self) {
        while self.scheduler.needs_thread(self.now) {
            self.scheduler.threads += 1;
            self.scheduler.idle += 1;
        }
        assert!(self.scheduler.threads <= self.scheduler.limits.threads() + Limits::STARVED);
        while self.scheduler.idle > 0 {
            let Some(job) = self.scheduler.start(self.now) else { break };
            self.scheduler.idle -= 1;
            self.taking.push((job, self.now));
        }
        let guests = self.scheduler.running.values().filter(|running| running.waits_for_guest());
        assert!(guests.clone().count() <= self.scheduler.limits.waiting_for_guests());
        // Whoever still wants it: only one that is lost for good does not count.
        let out: Vec<_> =
            guests.filter(|r| r.occupies_guest()).map(|running| running.slot.uuid).collect();
        let guests: HashSet<_> = out.iter().collect();
        assert_eq!(out.len(), guests.len(), "never two calls in one guest");
        for guest in &guests {
            let calls = self
                .scheduler
                .running
                .values()
                .filter(|r| r.waits_for_guest() && r.slot.uuid == **guest);
            let lost = self.scheduler.limits.max_stuck.max(1);
            assert!(calls.count() <= lost + 1, "those that are lost, and one more");
        }
    }

    /// A caller is interrupted.
    fn leave(&mut self, caller: usize) {
        if let Some((request, _)) = self.asking.remove(&caller) {
            self.scheduler.leave(&request);
        }
    }

    /// A caller goes to look for signals, and may have to wait for Python's lock, or a handler.
    fn go_away(&mut self, caller: usize) {
        if self.away.contains_key(&caller) {
            return;
        }
        if let Some((request, asked)) = self.asking.remove(&caller) {
            self.scheduler.suspend(&request, self.now);
            self.away.insert(caller, (request, asked, self.now));
        }
    }

    /// It is back, unless its handler asks for something. Returns for how long the process is taken to have been stopped.
    fn come_back(&mut self, caller: usize) -> Option<Duration> {
        if self.asking.contains_key(&caller) {
            return None;
        }
        let (mut request, asked, since) = self.away.remove(&caller)?;
        let had_resumed = request.resumed;
        let stopped = self.scheduler.resume(&mut request, self.now);
        let asked = if request.resumed == had_resumed {
            *self.were_away.entry(request.id).or_default() += self.now - since;
            asked
        } else {
            self.now
        };
        self.asking.insert(caller, (request, asked));
        self.look();
        stopped
    }

    /// The process is stopped.
    fn stop(&mut self, time: Duration) {
        let wanted = self.now;
        self.now += time;
        for (request, asked) in self.asking.values_mut() {
            let sleeps = request.sleeps;
            self.scheduler.wakes(request, wanted, self.now);
            if request.sleeps == sleeps {
                *self.were_away.entry(request.id).or_default() += time;
            } else {
                *asked = self.now;
            }
        }
        self.look();
    }

    fn close(&mut self) {
        self.scheduler.begin_anew();
        self.look();
    }

    /// A thread wants a connection.
    fn dial(&mut self) {
        if self.scheduler.idle > 0 {
            self.readings += 1;
            self.scheduler.connects(self.readings, self.now);
            self.dialing.push(self.readings);
        }
    }

    /// It has one, or cannot have it, while so many others serve.
    fn dialed(&mut self, has: bool, serving: usize) {
        let Some(thread) = self.dialing.pop() else { return };
        self.scheduler.has_connected(thread, has, self.now);
        if has {
            self.scheduler.opened(0, self.now);
        } else {
            self.scheduler.refused(lost().failure().unwrap(), serving, serving, self.now);
        }
        self.look();
    }

    /// An outage begins and is over before any caller looks.
    fn blink(&mut self) {
        self.scheduler.refused(lost().failure().unwrap(), 0, 0, self.now);
        self.scheduler.reached(Ok(()), self.now);
    }

    /// A thread comes back from its reading.
    fn finish(&mut self, which: usize, answer: std::result::Result<(), Error>) {
        if self.taking.is_empty() {
            return;
        }
        let (job, begun) = self.taking.remove(which % self.taking.len());
        self.readings += 1;
        let number = self.readings;
        let answer = answer.map(|()| parts_of(&job, number, begun));
        let has_answered = !matches!(answer, Err(Error::ConnectionLost { .. }))
            && self.scheduler.running.contains_key(&job.id);
        self.scheduler.idle += 1;
        self.scheduler.finish(&job, Finished { answer, busy: None }, self.now);
        assert!(!has_answered || !self.scheduler.is_locked(job.slot.uuid, self.now));
        self.look();
        if self.scheduler.has_thread_to_spare(self.now) {
            self.scheduler.threads -= 1;
            self.scheduler.idle -= 1;
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.look();
    }

    fn probe(&mut self, free: bool, reached: bool) {
        if self.lacks_prober {
            return;
        }
        let next = self.scheduler.probe(self.now, false, false, true);
        let asks = matches!(next, Probe::Reach | Probe::Ask(_));
        match next {
            Probe::Rest | Probe::Wait(_) => {}
            Probe::Reach if reached => self.scheduler.reached(Ok(()), self.now),
            Probe::Reach => self.scheduler.reached(Err(lost()), self.now),
            Probe::Ask(instance) if reached => {
                self.scheduler.probed(&instance, &Ok(Some(free)), self.now);
            }
            Probe::Ask(instance) => {
                self.scheduler.refused(lost().failure().unwrap(), 0, 0, self.now);
                self.scheduler.probed(&instance, &Err(lost()), self.now);
            }
        }
        if asks {
            self.scheduler.asked_by_prober(reached);
            assert!(!reached || !self.scheduler.makes_room(self.now), "there is a prober");
        }
        self.look();
    }

    /// A prober leaves the last connection to those who read.
    fn probe_without_connection(&mut self) {
        match self.scheduler.probe(self.now, false, true, true) {
            Probe::Reach => {
                assert!(!self.scheduler.is_reachable(), "it is tried whether one can be had");
            }
            Probe::Ask(_) => panic!("it needs a connection for that"),
            Probe::Rest | Probe::Wait(_) => {}
        }
        self.look();
    }

    /// A prober is stuck, and another one takes over.
    fn lose_prober(&mut self) {
        if self.lacks_prober {
            return;
        }
        match self.scheduler.probe(self.now, false, false, true) {
            Probe::Ask(instance) if instance.uuid != NO_INSTANCE => {
                let is_known = self.probing.iter().any(|(known, _)| *known == instance);
                assert!(!is_known, "two questions after one instance");
                self.scheduler.leave_unprobed(&instance, self.now);
                self.scheduler.started_prober(None, self.now);
                self.probing.push((instance, self.now));
            }
            Probe::Ask(instance) => self.scheduler.probed(&instance, &Ok(None), self.now),
            Probe::Rest | Probe::Wait(_) | Probe::Reach => {}
        }
        self.look();
    }

    /// None can take over for the last one.
    fn lack_prober(&mut self) {
        let Some((instance, since)) = self.probing.last() else { return };
        self.lacks_prober = true;
        self.scheduler.leave_unprobed(instance, self.now);
        self.scheduler.started_prober(Some(&std::io::ErrorKind::WouldBlock.into()), self.now);
        let hangs = |running: &Running| running.slot.uuid == instance.uuid && running.hangs();
        if self.now - *since >= 4 * self.scheduler.limits.timeout
            && !self.scheduler.running.values().any(hangs)
        {
            assert!(!self.scheduler.is_locked(instance.uuid, self.now), "it is tried again");
        }
        self.look();
    }

    /// That one comes back.
    fn find_prober(&mut self, answered: bool) {
        let Some((instance, since)) = self.probing.pop() else { return };
        if answered {
            self.scheduler.has_outlived_outage(since);
        }
        if std::mem::take(&mut self.lacks_prober) {
            self.scheduler.asked_by_prober(true);
            assert!(!self.scheduler.makes_room(self.now), "there is a prober");
        }
        let answer = if answered { Ok(Some(false)) } else { Err(lost()) };
        self.scheduler.probed(&instance, &answer, self.now);
        self.look();
    }

    fn probe_in_vain(&mut self, refused: bool) {
        if self.lacks_prober {
            return;
        }
        if let Probe::Ask(instance) = self.scheduler.probe(self.now, false, false, true) {
            let failure = Failure::of_libvirt(1, 10, "not for you".to_owned());
            let reason = crate::error::Reason::Refused(failure);
            let refusal = Error::NoData { instance: instance.clone(), reason };
            let answer = if refused { Err(refusal) } else { Ok(None) };
            self.scheduler.probed(&instance, &answer, self.now);
            self.look();
        }
    }

    /// Every caller looks whether its answer is there.
    fn look(&mut self) {
        for caller in 0..self.callers.len() {
            let Some((mut request, asked)) = self.asking.remove(&caller) else { continue };
            let reachable = self.scheduler.is_reachable();
            self.scheduler.wakes(&mut request, self.now, self.now);
            let turn = self.scheduler.turn(&mut request, self.now);
            if reachable && !self.scheduler.is_reachable() {
                let out =
                    self.taking.iter().filter(|(job, _)| !self.known_to_hang.contains(&job.id));
                let asked = out.count()
                    + self.dialing.len()
                    + usize::from(self.scheduler.probing.is_some());
                // What hung in a silence before was asked, and not answered since.
                let hang = self.scheduler.running.values().filter(|running| running.hangs());
                let last = hang.map(|running| running.started).max();
                let is_silent_still = last > self.scheduler.heard;
                assert!(asked > 0 || is_silent_still, "only who is asked is silent");
            }
            let hangs = self.scheduler.running.iter().filter(|(_, running)| running.hangs());
            self.known_to_hang.extend(hangs.map(|(id, _)| *id));
            match turn {
                Turn::Answer(outcome) => {
                    self.were_away.remove(&request.id);
                    if let Ok(value) = &outcome.answer {
                        self.check(request.key, *value);
                    }
                    if let Err(Error::Timeout { why, .. }) = &outcome.answer {
                        let waited = self.now - asked;
                        let has_waited = waited >= self.scheduler.limits.timeout;
                        // It may have been begun before it was asked for.
                        let about_it =
                            |call: &Running| call.slot.uuid == request.key.uuid && call.hangs();
                        let is_out = self.scheduler.running.values().any(about_it);
                        let is_right = has_waited || is_out || why != "there was no answer";
                        assert!(is_right, "after {waited:?}");
                    }
                    self.answers.push((request.key, outcome.answer));
                }
                Turn::Wait(until) => {
                    assert!(until > self.now);
                    let away = self.were_away.get(&request.id).copied().unwrap_or_default();
                    let longest = 2 * self.scheduler.limits.timeout + away;
                    assert!(self.now - asked < longest, "{:?} waits for too long", request.key);
                    self.asking.insert(caller, (request, asked));
                }
            }
        }
    }

    fn check(&mut self, key: Key, value: Value) {
        assert_eq!(value.key, key);
        if let Some(before) = self.handed_out.insert(key, value) {
            assert_ne!(before.number, value.number, "a reading was handed out twice");
            assert!(before.begun <= value.begun, "an older reading after a younger one");
        }
    }

    /// One caller asks this and gets an answer at once, with all threads willing.
    fn read(&mut self, key: Key) -> std::result::Result<Value, Error> {
        self.ask(0, key);
        for _ in 0..100 {
            if !self.asking.contains_key(&0) {
                break;
            }
            self.start();
            self.finish(0, Ok(()));
        }
        self.answers.pop().expect("an answer").1
    }

    /// As Ceilometer does it.
    fn cycle(&mut self, vms: u128) {
        for kind in KINDS {
            for vm in 1..=vms {
                let _ = self.read(key(kind, vm));
                self.wait(MOMENT);
            }
        }
        // What was read ahead for another cycle.
        self.finish_all();
    }

    /// Half a minute in which all that is asked is answered.
    fn answers_well(&mut self) {
        for _ in 0..60 {
            self.ask(0, list());
            self.finish_all();
            self.probe(true, true);
            self.wait(SECOND / 2);
        }
    }

    fn finish_all(&mut self) {
        self.start();
        while !self.taking.is_empty() {
            self.finish(0, Ok(()));
            self.start();
        }
    }
}

const MOMENT: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A host one of whose instances has hung for as long as the timeout.
fn with_one_that_hangs(number: u128) -> Host {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, number));
    host.start();
    host.wait(LIMITS.timeout / 2);
    host.probe(true, true);
    host.wait(LIMITS.timeout / 2);
    host
}

#[derive(Debug, Clone)]
enum Step {
    Ask(usize, Kind, u128),
    Start,
    Finish(usize, bool),
    Dial,
    Dialed(bool, usize),
    Wait(u64),
    Probe(bool, bool),
    Close,
    Leave(usize),
    GoAway(usize),
    ComeBack(usize),
    Stop(u64),
    KeepHouse(Kind),
    Hear(u64),
    Break,
    Blink,
    /// The hypervisor does not say whether a guest is free: it cannot tell, or refuses to.
    ProbeInVain(bool),
    Refuse(usize),
    LoseProber,
    LackProber,
    FindProber(bool),
    ProbeWithoutConnection,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3_usize, prop::sample::select(&KINDS[..]), 1..5_u128)
            .prop_map(|(caller, kind, vm)| Step::Ask(caller, kind, vm)),
        6 => Just(Step::Start),
        6 => (0..8_usize, prop::bool::weighted(0.97)).prop_map(|(which, ok)| Step::Finish(which, ok)),
        2 => Just(Step::Dial),
        2 => (prop::bool::weighted(0.8), 0..3_usize)
            .prop_map(|(has, serving)| Step::Dialed(has, serving)),
        4 => (0..6000_u64).prop_map(Step::Wait),
        3 => (any::<bool>(), prop::bool::weighted(0.9)).prop_map(|(free, ok)| Step::Probe(free, ok)),
        1 => Just(Step::Close),
        2 => (0..3_usize).prop_map(Step::Leave),
        2 => (0..3_usize).prop_map(Step::GoAway),
        4 => (0..3_usize).prop_map(Step::ComeBack),
        1 => (0..12_000_u64).prop_map(Step::Stop),
        2 => prop::sample::select(&[Kind::Existing, Kind::HostCpus][..]).prop_map(Step::KeepHouse),
        2 => (0..6000_u64).prop_map(Step::Hear),
        1 => Just(Step::Break),
        1 => Just(Step::Blink),
        2 => any::<bool>().prop_map(Step::ProbeInVain),
        1 => (0..8_usize).prop_map(Step::Refuse),
        3 => Just(Step::LoseProber),
        2 => Just(Step::LackProber),
        1 => any::<bool>().prop_map(Step::FindProber),
        1 => Just(Step::ProbeWithoutConnection),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// What must hold is asserted where it happens, above.
    #[test]
    fn whatever_happens(steps in prop::collection::vec(step(), 1..200)) {
        let mut host = Host::new(LIMITS);
        let vms = (1..5).map(|vm| Uuid::from_u128(vm).into()).collect();
        host.scheduler.listed(vms, host.now);
        for step in steps {
            match step {
                Step::Ask(caller, kind, vm) => host.ask(caller, key(kind, vm)),
                Step::Start => host.start(),
                Step::Finish(which, true) => host.finish(which, Ok(())),
                Step::Finish(which, false) => host.finish(which, Err(lost())),
                Step::Dial => host.dial(),
                Step::Dialed(has, serving) => host.dialed(has, serving),
                Step::Wait(time) => {
                    // Whoever waits comes again every now and then.
                    for _ in 0..time / 200 {
                        let since = host.now;
                        host.wait(Duration::from_millis(200));
                        host.scheduler.was_awake(since, host.now);
                    }
                }
                Step::Probe(free, reached) => host.probe(free, reached),
                Step::Close => host.close(),
                Step::Leave(caller) => host.leave(caller),
                Step::GoAway(caller) => host.go_away(caller),
                Step::ComeBack(caller) => {
                    host.come_back(caller);
                }
                Step::Stop(time) => host.stop(Duration::from_millis(time)),
                Step::KeepHouse(kind) => host.scheduler.keep_house(kind, host.now),
                Step::Hear(ago) => {
                    host.scheduler.hear(host.now.checked_sub(Duration::from_millis(ago)));
                    host.look();
                }
                Step::Break => host.scheduler.broke(host.now),
                Step::Blink => host.blink(),
                Step::ProbeInVain(refused) => host.probe_in_vain(refused),
                Step::Refuse(which) => host.finish(which, Err(refused_about(Uuid::nil()))),
                Step::LoseProber => host.lose_prober(),
                Step::LackProber => host.lack_prober(),
                Step::FindProber(answered) => host.find_prober(answered),
                Step::ProbeWithoutConnection => host.probe_without_connection(),
            }
        }
        // All comes to rest: nobody waits, nothing stays stuck, everything is answered.
        for caller in 0..3 {
            host.leave(caller);
            host.come_back(caller);
        }
        while !host.probing.is_empty() {
            host.find_prober(true);
        }
        for _ in 0..40 {
            host.dialed(true, 0);
            host.finish_all();
            host.probe(true, true);
            host.wait(SECOND);
        }
        prop_assert!(host.asking.is_empty());
        prop_assert_eq!(host.scheduler.stuck(), 0);
        prop_assert!(host.scheduler.running.is_empty());
        prop_assert_eq!(host.scheduler.health(host.now).hung, vec![]);
        for kind in KINDS {
            prop_assert!(host.read(key(kind, 1)).is_ok());
        }
        for (kind, lane) in
            [(Kind::Existing, Lane::Existing), (Kind::HostCpus, Lane::HostCpus)]
        {
            host.scheduler.keep_house(kind, host.now);
            host.start();
            prop_assert!(host.taking.iter().any(|(job, _)| job.slot.lane == lane));
            host.finish_all();
        }
    }

    /// A caller in a steady order with guests that take their time: no value is too old.
    #[test]
    fn nothing_read_ahead_is_too_old(pauses in prop::collection::vec(0..1500_u64, 60)) {
        let mut host = Host::new(LIMITS);
        for (number, pause) in pauses.into_iter().enumerate() {
            let asked = host.now;
            let value = host.read(key(KINDS[number / 5 % 4], (number % 5) as u128)).unwrap();
            prop_assert!(value.begun >= asked || host.now - value.begun < LIMITS.max_age());
            host.finish_all();
            host.wait(Duration::from_millis(pause));
        }
    }
}
