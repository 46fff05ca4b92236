//! The scheduler by itself: invented times, callers that ask at random, threads that come back when they
//! like or never.

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

#[test]
fn a_prober_that_is_not_connected_asks_about_nobody_first() {
    let mut host = with_one_that_hangs(1);
    host.wait(2 * LIMITS.probe_pause());
    for (is_connected, about) in [(true, NO_INSTANCE), (false, NO_INSTANCE), (false, NO_INSTANCE)] {
        let next = host.scheduler.probe(host.now, false, false, is_connected);
        assert!(matches!(next, Probe::Ask(id) if id.uuid == about));
    }
    // As if it had connected by now.
    let next = host.scheduler.probe(host.now, false, false, true);
    assert!(matches!(next, Probe::Ask(id) if id.uuid == Uuid::from_u128(1)));
}

#[test]
fn who_goes_on_with_more_time_waits_for_what_was_given_up() {
    let mut host = Host::new(Limits { timeout: SECOND, ..LIMITS });
    let uuid = Uuid::from_u128(1);
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    host.wait(SECOND / 2);
    host.probe(true, true);
    host.wait(SECOND / 2);
    assert!(host.scheduler.quarantine.has(uuid));
    host.answers.clear();
    host.scheduler.goes_on(LIMITS, host.now);
    assert!(!host.scheduler.quarantine.has(uuid));
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    assert!(host.answers.is_empty(), "it is waited for");
    host.finish_all();
    assert!(matches!(host.answers.pop(), Some((_, Ok(_)))));
    // One that has hung for so long hangs for this one as well.
    let mut host = with_one_that_hangs(1);
    host.scheduler.goes_on(LIMITS, host.now);
    assert!(host.scheduler.quarantine.has(uuid));
}

#[test]
fn one_who_begins_to_connect_is_no_sign_of_a_silence() {
    let mut host = Host::new(LIMITS);
    host.ask(0, list());
    host.start();
    host.wait(LIMITS.timeout / 2);
    host.probe(true, true);
    host.wait(LIMITS.timeout / 2);
    let hangs = |(_, answer): (Key, _)| matches!(answer, Err(Error::ListHangs { .. }));
    assert!(host.answers.pop().is_some_and(hangs));
    host.wait(LIMITS.timeout / 4);
    (host.scheduler.threads, host.scheduler.idle) = (2, 1);
    host.dial();
    host.wait(MOMENT);
    host.ask(0, list());
    assert!(host.answers.pop().is_some_and(hangs), "libvirt answers all else");
    assert!(host.scheduler.is_reachable());
}

#[test]
fn a_silence_that_connections_were_closed_in_is_one_still() {
    let mut host = Host::new(LIMITS);
    for _ in 0..=LIMITS.threads() {
        host.ask(0, list());
        host.start();
        host.wait(LIMITS.timeout);
        let (_, answer) = host.answers.pop().expect("an answer");
        assert!(matches!(answer, Err(Error::ConnectionLost { .. })), "{answer:?}");
        host.close();
    }
    // Hardly another call is made where one has not returned, and no guest is asked, or blamed.
    assert!(host.taking.len() <= 3, "{}", host.taking.len());
    host.ask(1, key(Kind::Disks, 1));
    host.start();
    host.wait(LIMITS.timeout);
    let (_, answer) = host.answers.pop().expect("an answer");
    assert!(matches!(answer, Err(Error::ConnectionLost { .. })), "{answer:?}");
    assert!(host.scheduler.quarantine.all().next().is_none());
    host.close();
    host.probe(true, true);
    host.finish_all();
    assert!(host.read(list()).is_ok());
}

#[test]
fn what_was_begun_for_one_who_left_may_be_too_old_for_the_next() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    let (request, _) = host.asking.remove(&0).unwrap();
    host.scheduler.leave(&request);
    host.now += 2 * LIMITS.max_age();
    let asked = host.now;
    host.ask(1, key(Kind::Disks, 1));
    while let Some((job, began)) = host.taking.pop() {
        let answer = Ok(parts_of(&job, job.id, began));
        host.scheduler.idle += 1;
        host.scheduler.finish(&job, Finished { answer, busy: None }, host.now);
        host.look();
        host.start();
    }
    let (_, answer) = host.answers.pop().unwrap();
    assert!(answer.unwrap().begun >= asked);
}

#[test]
fn those_who_ask_the_same_are_served_in_turn() {
    let mut host = Host::new(LIMITS);
    let (mut served, mut order) = ([0; 3], Vec::new());
    (0..3).for_each(|caller| host.ask(caller, key(Kind::Disks, 1)));
    for _ in 0..30 {
        host.start();
        host.finish(0, Ok(()));
        for (caller, served) in served.iter_mut().enumerate() {
            if !host.asking.contains_key(&caller) {
                *served += 1;
                order.push(caller);
                // At once, before the others look.
                host.ask(caller, key(Kind::Disks, 1));
            }
        }
    }
    assert_eq!(served, [10; 3], "{order:?}");
    (0..3).for_each(|caller| host.leave(caller));
    assert!(host.scheduler.waiting.is_empty());
}

#[test]
fn a_handler_that_asks_what_its_interrupted_caller_waits_for_takes_its_place() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    let (mut outer, _) = host.asking.remove(&0).unwrap();
    host.scheduler.suspend(&outer, host.now);
    host.ask(0, key(Kind::Disks, 1));
    host.finish(0, Ok(()));
    let (_, inner) = host.answers.pop().expect("the handler has the reading");
    host.wait(SECOND);
    let resumed = host.now;
    host.scheduler.resume(&mut outer, host.now);
    host.asking.insert(0, (outer, host.now));
    host.look();
    host.start();
    host.finish(0, Ok(()));
    let (_, outer) = host.answers.pop().expect("the caller has another one");
    assert!(inner.unwrap().begun < outer.unwrap().begun);
    assert!(host.scheduler.suspended.is_empty());
    assert_eq!(resumed, host.now);
}

#[test]
fn a_caller_whose_handlers_take_its_place_again_and_again_gives_up_in_time_and_blames_nobody() {
    let mut host = Host::new(LIMITS);
    let began = host.now;
    host.ask(0, key(Kind::Disks, 1));
    while host.asking.contains_key(&0) {
        host.go_away(0);
        host.read(key(Kind::Disks, 1)).unwrap();
        host.now += SECOND;
        host.come_back(0);
        assert!(host.now - began <= 2 * LIMITS.timeout);
    }
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))));
    assert_eq!(host.scheduler.health(host.now).hung, []);
}

#[test]
fn a_caller_that_is_away_for_a_moment_keeps_its_place() {
    let mut host = Host::new(LIMITS);
    for caller in 0..3 {
        host.ask(caller, key(Kind::Disks, 1));
    }
    host.start();
    host.go_away(1);
    host.wait(LIMITS.held_up() / 4);
    host.finish(0, Ok(()));
    assert_eq!(host.answers.len(), 1, "the first one's");
    host.start();
    assert_eq!(host.taking.len(), 0, "the third one waits for it");
    host.wait(LIMITS.held_up() / 4);
    host.come_back(1);
    host.start();
    host.finish(0, Ok(()));
    assert!(host.asking.contains_key(&2) && !host.asking.contains_key(&1), "it is its turn");
}

#[test]
fn nobody_waits_for_a_caller_that_stays_away() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.ask(1, key(Kind::Disks, 1));
    host.start();
    host.go_away(0);
    host.finish(0, Ok(()));
    assert!(host.answers.is_empty());
    host.wait(LIMITS.slow());
    assert!(host.answers.is_empty(), "it may be back soon");
    host.wait(LIMITS.held_up());
    assert_eq!(host.answers.len(), 1, "it is handed to who waits");
    assert!(host.asking.is_empty());
}

#[test]
fn a_caller_that_was_away_goes_on_where_it_was() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.ask(1, key(Kind::Disks, 1));
    host.start();
    host.go_away(0);
    host.finish(0, Ok(()));
    assert!(host.answers.is_empty(), "the one that was read is not another caller's");
    host.come_back(0);
    assert_eq!(host.answers.len(), 1);
    assert!(host.asking.contains_key(&1));
}

#[test]
fn a_caller_that_was_away_for_long_takes_nothing_from_those_who_wait() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.ask(1, key(Kind::Disks, 2));
    host.start();
    let start = host.now;
    host.wait(SECOND / 10);
    host.go_away(0);
    for _ in 0..30 {
        host.wait(SECOND / 10);
    }
    assert_eq!(host.come_back(0), None, "one has been awake");
    host.finish_all();
    let begun: Vec<_> = host.answers.drain(..).map(|(_, answer)| answer.unwrap().begun).collect();
    assert_eq!(begun, [start; 2], "each has what was read for it");
}

#[test]
fn a_caller_that_was_away_has_its_time_after_that_once_and_its_reading_as_well() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    let began = host.now;
    for stopped in [Some(4 * SECOND), None] {
        host.go_away(0);
        host.now += 4 * SECOND;
        assert_eq!(host.come_back(0), stopped);
        assert_eq!(host.answers.len(), 0);
    }
    host.finish(0, Ok(()));
    assert_eq!(host.answers.pop().unwrap().1.unwrap().begun, began);
    assert_eq!(host.scheduler.health(host.now).hung, []);
}

#[test]
fn a_list_is_not_one_that_was_begun_before_it_was_asked_for() {
    let mut host = Host::new(LIMITS);
    host.ask(0, list());
    host.start();
    host.leave(0);
    host.wait(MOMENT);
    let asked = host.now;
    host.ask(1, list());
    host.finish(0, Ok(()));
    assert!(host.answers.is_empty());
    host.start();
    host.finish(0, Ok(()));
    let (_, answer) = host.answers.pop().unwrap();
    assert!(answer.unwrap().begun >= asked);
}

#[test]
fn what_does_not_exist_is_not_remembered() {
    let mut host = Host::new(LIMITS);
    host.read(key(Kind::Disks, 1)).unwrap();
    host.finish_all();
    assert!(host.scheduler.habits.is_trusted(Uuid::from_u128(1)));
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    let failure = Failure::of_libvirt(42, 10, "no domain".to_owned());
    let instance = Uuid::from_u128(1).into();
    host.finish(0, Err(Error::InstanceNotFound { instance, gone: true, failure }));
    assert!(!host.scheduler.habits.is_trusted(Uuid::from_u128(1)));
}

#[test]
fn what_a_guest_was_busy_with_is_not_told_for_long() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Stats, 1));
    host.start();
    let (job, begun) = host.taking.pop().unwrap();
    let (answer, busy) = (Ok(parts_of(&job, 1, begun)), Some("saving"));
    host.scheduler.finish(&job, Finished { answer, busy }, host.now);
    assert_eq!(host.scheduler.health(host.now + 59 * SECOND).busy.len(), 1);
    assert_eq!(host.scheduler.health(host.now + 60 * SECOND).busy, []);
}

#[test]
fn in_a_steady_order_the_next_readings_are_taken_ahead() {
    let mut host = Host::new(LIMITS);
    for vm in 1..=20 {
        host.read(key(Kind::Stats, vm)).unwrap();
    }
    assert_eq!(host.scheduler.health.read_ahead, 0, "nothing is known yet");
    host.wait(SECOND);
    host.cycle(20);
    let before = host.scheduler.health.read_ahead;
    host.cycle(20);
    let ahead = host.scheduler.health.read_ahead - before;
    assert!(ahead >= 77, "{ahead} of 80");
    // A caller gets what is there without a thread.
    host.wait(SECOND);
    for vm in 1..=4 {
        host.read(key(Kind::Stats, vm)).unwrap();
    }
    host.finish_all();
    host.ask(0, key(Kind::Stats, 5));
    assert!(host.asking.is_empty());
    host.ask(0, key(Kind::Sizes, 5));
    assert!(host.asking.is_empty(), "one reading serves all methods");
}

#[test]
fn who_says_what_it_will_ask_has_that_read_ahead_and_no_more() {
    let mut host = Host::new(LIMITS);
    let ids: Vec<InstanceId> = (1..=20).map(|vm| Uuid::from_u128(vm).into()).collect();
    for pass in 1..=2 {
        host.scheduler.expect(host.callers[0], &ids, host.now);
        for vm in 1..=20 {
            host.read(key(Kind::Counters, vm)).unwrap();
        }
        assert_eq!(host.scheduler.health.read_ahead, 19 * pass);
        host.finish_all();
        assert_eq!(host.readings, 20 * pass, "nothing for the next pass");
    }
}

#[test]
fn who_asks_about_one_instance_pays_for_that_one() {
    let mut host = Host::new(LIMITS);
    host.cycle(20);
    host.cycle(20);
    host.wait(10 * SECOND);
    let before = host.readings;
    for _ in 0..5 {
        host.read(key(Kind::Disks, 7)).unwrap();
        host.finish_all();
        host.wait(10 * SECOND);
    }
    assert_eq!(host.readings - before, 5);
}

#[test]
fn a_reading_that_is_too_old_is_not_handed_out() {
    let mut host = Host::new(LIMITS);
    host.cycle(5);
    host.cycle(5);
    host.finish_all();
    for vm in 1..=3 {
        host.read(key(Kind::Stats, vm)).unwrap();
    }
    host.finish_all();
    let taken = host.now;
    assert!(host.scheduler.ready.contains_key(&key(Kind::Stats, 4)));
    host.wait(LIMITS.max_age());
    let value = host.read(key(Kind::Stats, 4)).unwrap();
    assert!(value.begun > taken);
    assert!(host.scheduler.health.wasted > 0);
}

#[test]
fn a_guest_that_hangs_costs_one_timeout_and_comes_back() {
    let mut host = Host::new(LIMITS);
    host.read(key(Kind::Stats, 2)).unwrap();
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    host.wait(4 * SECOND);
    // The hypervisor answers others: it is the guest's fault.
    host.ask(1, key(Kind::Nics, 2));
    host.start();
    host.finish(1, Ok(()));
    host.wait(SECOND);
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))));
    host.ask(0, key(Kind::Sizes, 1));
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))), "at once");
    // What needs no answer of the guest is read while its thread is still stuck.
    host.answers.clear();
    host.ask(0, key(Kind::Nics, 1));
    host.ask(1, key(Kind::Stats, 1));
    host.start();
    let taking =
        |host: &Host| host.taking.iter().map(|(job, _)| (job.parts, job.reach)).collect::<Vec<_>>();
    let in_guest = (Parts::DISKS, Reach::Guest);
    let both = Parts::NICS.and(Parts::STATS);
    assert_eq!(taking(&host), [in_guest, (both, Reach::Hypervisor)], "both at once");
    host.finish(1, Ok(()));
    assert_eq!(host.answers.len(), 2);
    assert_eq!(host.scheduler.health(host.now).hung.len(), 1);
    host.probe(false, true);
    assert_eq!(host.scheduler.health(host.now).hung.len(), 1);
    host.finish(0, Ok(()));
    assert_eq!(host.scheduler.health.late, 1);
    host.wait(SECOND);
    host.probe(true, true);
    assert_eq!(host.scheduler.health(host.now).hung, []);
    host.read(key(Kind::Disks, 1)).unwrap();
}

#[test]
fn one_whose_uuid_is_nil_hangs_like_any_other() {
    let mut host = with_one_that_hangs(0);
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))));
    let vm: InstanceId = Uuid::nil().into();
    host.scheduler.leave_unprobed(&vm, host.now);
    assert_eq!(host.scheduler.health(host.now).locked, [vm]);
    host.ask(1, list());
    host.start();
    host.finish(1, Ok(()));
    assert!(matches!(host.answers.pop(), Some((_, Ok(_)))));
}

#[test]
fn a_hypervisor_that_no_thread_can_ask_is_not_said_to_be_silent() {
    let mut host = Host::new(LIMITS);
    let problem = std::io::ErrorKind::WouldBlock.into();
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    host.wait(LIMITS.timeout / 2);
    host.scheduler.started_prober(Some(&problem), host.now);
    host.wait(LIMITS.timeout / 2);
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))));
    assert!(host.scheduler.is_reachable());
    // Nor are other guests, or the list, said to hang: nobody has asked.
    host.scheduler.started_thread(Some(&problem), host.now);
    host.ask(0, key(Kind::Disks, 2));
    host.ask(1, list());
    host.wait(LIMITS.timeout);
    for (_, answer) in std::mem::take(&mut host.answers) {
        assert!(answer.unwrap_err().to_string().contains(NO_THREAD));
    }
    let told = host.scheduler.log.iter().filter(|(_, line)| line.contains("thread")).count();
    assert_eq!(told, 1);
    // Once its call has returned, it is tried again.
    host.finish(0, Ok(()));
    host.scheduler.hear(Some(host.now));
    host.wait(2 * LIMITS.timeout);
    host.read(key(Kind::Disks, 1)).unwrap();
}

#[test]
fn what_no_thread_could_ask_is_said_to_hang_only_for_a_reason_of_its_own() {
    let problem = std::io::ErrorKind::WouldBlock.into();
    let vm: InstanceId = Uuid::from_u128(2).into();
    for (locked, kind, vm_asked, no_thread) in [
        (false, Kind::Nics, Some(2), true),
        (true, Kind::Nics, Some(2), false),
        (false, Kind::List, None, true),
    ] {
        for opens in [false, true] {
            let mut host = Host::new(LIMITS);
            // The only thread is stuck with something else.
            host.scheduler.keep_house(Kind::HostCpus, host.now);
            if opens {
                host.scheduler.threads += 1;
                host.scheduler.idle += 1;
                host.dial();
            } else {
                host.start();
            }
            let wait = |host: &mut Host| {
                for _ in 0..5 {
                    host.scheduler.hear(Some(host.now));
                    host.wait(LIMITS.timeout / 5);
                }
            };
            wait(&mut host);
            host.scheduler.give_up_unclaimed(host.now);
            host.scheduler.started_thread(Some(&problem), host.now);
            if locked {
                host.scheduler.leave_unprobed(&vm, host.now);
            }
            host.ask(0, vm_asked.map_or_else(list, |vm| key(kind, vm)));
            wait(&mut host);
            let (_, answer) = host.answers.pop().expect("an answer");
            let error = answer.unwrap_err().to_string();
            assert_eq!(error.contains(NO_THREAD), no_thread, "{error}");
        }
    }
}

#[test]
fn each_shortage_of_threads_is_told_once_and_no_more_than_one_a_minute() {
    let mut host = Host::new(LIMITS);
    let problem: std::io::Error = std::io::ErrorKind::WouldBlock.into();
    let told = |host: &Host| {
        host.scheduler.log.iter().filter(|(_, line)| line.contains("another thread")).count()
    };
    for (shortage, seconds) in [10, 180, 180].into_iter().enumerate() {
        for _ in 0..seconds {
            host.scheduler.started_thread(Some(&problem), host.now);
            host.scheduler.started_prober(Some(&problem), host.now);
            host.wait(SECOND);
        }
        assert_eq!(told(&host), shortage + 1, "and a long one always");
        host.scheduler.started_thread(None, host.now);
        host.scheduler.started_prober(None, host.now);
    }
}

#[test]
fn what_no_thread_reads_is_worth_more_than_what_hangs() {
    let mut host = with_one_that_hangs(1);
    let problem = std::io::ErrorKind::WouldBlock.into();
    host.scheduler.started_thread(Some(&problem), host.now);
    assert!(!host.scheduler.lacks_reader(host.now), "nothing is asked for");
    host.ask(0, key(Kind::Disks, 2));
    assert!(host.scheduler.lacks_reader(host.now));
    host.scheduler.threads += 1;
    host.scheduler.idle += 1;
    assert!(!host.scheduler.lacks_reader(host.now), "there is one");
}

#[test]
fn a_thread_that_reads_makes_room_for_one_that_asks() {
    let mut host = with_one_that_hangs(1);
    let problem = std::io::ErrorKind::WouldBlock.into();
    host.scheduler.started_prober(Some(&problem), host.now);
    host.scheduler.idle = 1;
    assert!(!host.scheduler.makes_room(host.now), "the last one reads");
    host.scheduler.idle = 2;
    assert!(host.scheduler.makes_room(host.now));
    host.scheduler.started_prober(None, host.now);
    assert!(!host.scheduler.makes_room(host.now));
    host.scheduler.started_prober(Some(&problem), host.now);
    host.scheduler.idle = 1;
    host.scheduler.refused(lost().failure().unwrap(), 0, 0, host.now);
    assert!(host.scheduler.makes_room(host.now), "nothing is read before it is over");
}

#[test]
fn one_that_asks_and_comes_back_needs_no_room() {
    let mut host = with_one_that_hangs(1);
    let problem = std::io::ErrorKind::WouldBlock.into();
    host.scheduler.idle = 2;
    host.scheduler.started_prober(Some(&problem), host.now);
    host.scheduler.asked_by_prober(true);
    assert!(!host.scheduler.makes_room(host.now));
    host.scheduler.asked_by_prober(false);
    assert!(
        host.scheduler.makes_room(host.now),
        "it may be refused as there are too many connections"
    );
}

#[test]
fn a_question_that_is_out_for_long_locks_its_instance_for_no_longer() {
    let mut host = with_one_that_hangs(1);
    host.finish(0, Ok(()));
    let vm: InstanceId = Uuid::from_u128(1).into();
    let is_locked = |host: &Host| host.scheduler.is_locked(vm.uuid, host.now);
    for _ in 0..4 * 5 {
        // Nobody else can be sent meanwhile.
        host.scheduler.leave_unprobed(&vm, host.now);
        assert!(is_locked(&host));
        host.wait(LIMITS.timeout / 5);
    }
    host.scheduler.leave_unprobed(&vm, host.now);
    assert!(!is_locked(&host), "it is tried again");
    let told = host.scheduler.log.iter().filter(|(_, line)| line.contains("waiting for instance"));
    assert_eq!(told.count(), 1);
}

/// A VM that is being killed hangs as a guest, and hangs the list.
#[test]
fn one_that_hangs_and_is_locked_is_asked_after_once() {
    let mut host = with_one_that_hangs(1);
    let vms: Vec<InstanceId> = (1..=4).map(|vm| Uuid::from_u128(vm).into()).collect();
    host.scheduler.listed(vms.clone(), host.now);
    host.ask(1, list());
    host.start();
    // First whether the hypervisor answers at all, which takes a while.
    let nobody = host.scheduler.probe(host.now, false, false, true);
    assert!(matches!(nobody, Probe::Ask(instance) if instance.uuid == NO_INSTANCE));
    host.wait(LIMITS.held_up());
    host.scheduler.probed(&NO_INSTANCE.into(), &Ok(None), host.now);
    let mut asked = Vec::new();
    while let Probe::Ask(instance) = host.scheduler.probe(host.now, false, false, true) {
        asked.push(instance.clone());
        if instance == vms[0] {
            host.scheduler.leave_unprobed(&instance, host.now);
        } else {
            host.scheduler.probed(&instance, &Ok(Some(true)), host.now);
        }
    }
    asked.retain(|instance| instance.uuid != NO_INSTANCE);
    asked.sort_by_key(|instance| instance.uuid);
    assert_eq!(asked, vms);
}

#[test]
fn an_instance_is_not_locked_if_a_call_about_it_was_refused() {
    let uuid = Uuid::from_u128(1);
    for (answer, is_locked) in [(lost(), true), (refused_about(uuid), false)] {
        let mut host = Host::new(LIMITS);
        host.ask(0, key(Kind::Nics, 1));
        host.start();
        host.scheduler.leave_unprobed(&uuid.into(), host.now);
        host.finish(0, Err(answer));
        assert_eq!(host.scheduler.is_locked(uuid, host.now), is_locked);
        assert_eq!(host.scheduler.health(host.now).locked.len(), usize::from(is_locked));
    }
}

#[test]
fn those_that_hang_together_are_given_up_together() {
    let mut host = Host::new(LIMITS);
    host.cycle(6);
    host.cycle(6);
    host.wait(10 * SECOND);
    let stuck = [2, 4].map(Uuid::from_u128);
    let finish_others = |host: &mut Host| {
        for _ in 0..50 {
            host.start();
            let able = |(job, _): &(Job, _)| !stuck.contains(&job.slot.uuid) || leaves_guest(job);
            match host.taking.iter().position(able) {
                Some(which) => host.finish(which, Ok(())),
                None => break,
            }
        }
    };
    host.ask(0, key(Kind::Disks, 2));
    for _ in 0..11 {
        finish_others(&mut host);
        host.probe(false, true);
        host.wait(SECOND / 2);
    }
    assert_eq!(host.scheduler.health.timeouts, 1);
    let hung: Vec<_> =
        host.scheduler.health(host.now).hung.into_iter().map(|(id, _)| id.uuid).collect();
    assert_eq!(hung, stuck);
}

#[test]
fn what_was_read_just_before_is_no_sign_of_life() {
    let mut host = Host::new(LIMITS);
    host.cycle(6);
    host.cycle(6);
    let is_read = |host: &Host| {
        let slot = Slot { lane: Lane::Guest, uuid: Uuid::from_u128(4) };
        host.scheduler.tasks.get(&slot).is_some_and(|task| task.parts.has(Parts::STATS))
    };
    // Some are read ahead for the next pass.
    host.read(key(Kind::Stats, 1)).unwrap();
    host.read(key(Kind::Stats, 2)).unwrap();
    host.finish_all();
    assert!(host.scheduler.ready.contains_key(&key(Kind::Stats, 4)));
    host.scheduler.ready.remove(&key(Kind::Stats, 3));
    host.ask(0, key(Kind::Stats, 3));
    host.start();
    assert!(!is_read(&host));
    host.wait(LIMITS.held_up());
    assert!(is_read(&host), "it is asked again");
}

#[test]
fn who_wakes_up_far_too_late_blames_nobody_and_asks_anew_a_few_times() {
    let mut host = Host::new(LIMITS);
    let wakes = |host: &mut Host, caller: usize, wanted: Instant| {
        let request = &mut host.asking.get_mut(&caller).unwrap().0;
        host.scheduler.wakes(request, wanted, host.now)
    };
    host.ask(0, key(Kind::Disks, 1));
    host.ask(1, key(Kind::Disks, 2));
    host.start();
    let wanted = host.now + MOMENT;
    host.now += 60 * SECOND;
    assert_eq!(wakes(&mut host, 0, wanted), Some(Duration::from_millis(59_999)));
    assert_eq!(wakes(&mut host, 1, wanted), None, "the same stop");
    for (_, asked) in host.asking.values_mut() {
        *asked = host.now;
    }
    host.look();
    assert!(host.scheduler.is_reachable());
    // What was read before the stop is handed to nobody.
    let stopped = host.now;
    host.finish_all();
    let begun: Vec<_> = host.answers.drain(..).map(|(_, answer)| answer.unwrap().begun).collect();
    assert_eq!(begun, [stopped; 2]);
    assert_eq!(host.scheduler.health(host.now).hung, []);
    // Where there is no CPU at all, a caller still gives up in the end.
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    host.probe(true, true);
    for _ in 0..=MOST_SLEEPS {
        let wanted = host.now + MOMENT;
        host.now += LIMITS.timeout / 2;
        assert!(wakes(&mut host, 0, wanted).is_some());
    }
    host.wait(LIMITS.timeout / 2);
    assert!(host.answers.pop().unwrap().1.is_err());
    assert_eq!(host.scheduler.health(host.now).hung, []);
}

#[test]
fn a_stop_while_nobody_waits_blames_nobody() {
    // After it, one asks for something else, or for what is in flight still.
    for asked in [4, 3] {
        let mut host = Host::new(LIMITS);
        for vm in [1, 2, 3] {
            host.ask(0, key(Kind::Disks, vm));
            host.start();
            host.leave(0);
        }
        host.now += 6 * SECOND;
        // The first thread is back before any other.
        host.finish(0, Ok(()));
        host.ask(0, key(Kind::Disks, asked));
        assert_eq!(host.scheduler.health(host.now).hung, [], "{asked}");
        host.finish(1, Ok(()));
        host.start();
        host.finish(1, Ok(()));
        assert!(host.answers.pop().unwrap().1.is_ok());
        // One that is not back a moment later hangs.
        host.ask(0, key(Kind::Disks, 1));
        host.wait(LIMITS.slow());
        let hung = host.scheduler.health(host.now).hung;
        assert_eq!(hung.into_iter().map(|(id, _)| id.uuid.as_u128()).collect::<Vec<_>>(), [2]);
    }
}

#[test]
fn when_too_many_hang_nobody_waits_for_another_guest() {
    let mut host = Host::new(LIMITS);
    // With three workers and two more, four may wait for guests.
    for vm in 1..=4 {
        host.ask(0, key(Kind::Disks, vm));
        host.start();
        for _ in 0..11 {
            host.wait(SECOND / 2);
            host.probe(false, true);
        }
        assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))));
    }
    host.ask(0, key(Kind::Disks, 5));
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))), "at once");
    host.ask(0, key(Kind::Stats, 5));
    host.start();
    assert!(host.taking.last().is_some_and(|(job, _)| leaves_guest(job)), "without its guest");
    host.finish(4, Ok(()));
    host.read(key(Kind::Nics, 5)).unwrap();
    // One that comes back makes room.
    host.finish(0, Ok(()));
    host.read(key(Kind::Disks, 5)).unwrap();
}

#[test]
fn a_hypervisor_that_says_nothing_is_an_outage_and_no_guests_fault() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    host.wait(LIMITS.timeout);
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::ConnectionLost { .. })))));
    assert_eq!(host.scheduler.health(host.now).hung, []);
    host.ask(1, key(Kind::Nics, 9));
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::ConnectionLost { .. })))), "at once");
    host.wait(SECOND);
    host.probe(true, true);
    host.read(key(Kind::Nics, 9)).unwrap();
}

/// What a careful wrapper with an alarm of its own does, over one guest that hangs.
#[test]
fn who_is_interrupted_and_closes_again_and_again_leaves_one_thread_in_the_guest() {
    let mut host = Host::new(LIMITS);
    for round in 0..20 {
        host.ask(0, key(KINDS[round % 4], 1));
        host.start();
        for _ in 0..4 {
            host.probe(false, true);
            host.wait(SECOND / 2);
        }
        host.leave(0);
        host.close();
        // NICs, and what is known of a guest that hangs, are no calls in it.
        let others = |(job, _): &(Job, _)| leaves_guest(job);
        while let Some(which) = host.taking.iter().position(others) {
            host.finish(which, Ok(()));
        }
        assert_eq!(host.taking.len(), 1, "round {round}");
        host.answers.clear();
        host.ask(1, key(Kind::Disks, 2));
        host.start();
        host.finish(1, Ok(()));
        assert!(matches!(host.answers.pop(), Some((_, Ok(_)))), "others are read as ever");
    }
    let health = host.scheduler.health(host.now);
    assert_eq!((health.hung.len(), health.stuck), (1, 1));
    host.finish(0, Ok(()));
    host.wait(SECOND);
    host.probe(true, true);
    assert_eq!(host.scheduler.health(host.now).hung, []);
    host.read(key(Kind::Disks, 1)).unwrap();
}

#[test]
fn a_guest_that_is_said_to_be_free_and_never_answers_takes_two_calls_and_no_more() {
    let mut host = Host::new(LIMITS);
    for _ in 0..600 {
        host.ask(0, key(Kind::Disks, 1));
        host.start();
        host.probe(true, true);
        host.wait(SECOND / 2);
        let calls = host.taking.iter().filter(|(job, _)| !leaves_guest(job)).count();
        assert!(calls <= 2, "{calls} calls in one guest");
    }
    assert_eq!(host.scheduler.health(host.now).hung.len(), 1, "and that is known");
    host.answers.clear();
    host.ask(1, key(Kind::Disks, 2));
    host.start();
    host.finish(host.taking.len() - 1, Ok(()));
    assert!(matches!(host.answers.pop(), Some((_, Ok(_)))), "others are read as ever");
}

#[test]
fn answers_that_are_lost_one_by_one_take_no_threads_away() {
    let mut host = Host::new(LIMITS);
    for vm in 1..=66 {
        host.ask(0, key(Kind::Disks, vm));
        host.start();
        assert!(host.taking.iter().any(|(job, _)| job.slot.uuid == Uuid::from_u128(vm)), "{vm}");
        for _ in 0..20 {
            host.probe(true, true);
            host.wait(LIMITS.timeout / 4);
        }
        host.answers.clear();
        host.ask(0, key(Kind::Disks, vm));
        host.start();
        host.finish(host.taking.len() - 1, Ok(()));
        assert!(matches!(host.answers.pop(), Some((_, Ok(_)))), "{vm} is read again");
    }
    // Each has a thread: those are bounded.
    let health = host.scheduler.health(host.now);
    assert_eq!((health.stuck, health.threads), (66, 67));
}

#[test]
fn what_needs_no_guest_is_tried_again_ever_more_rarely_however_often_it_was_lost() {
    let mut host = Host::new(Limits { max_stuck: 6, ..LIMITS });
    let (mut tried, mut seconds) = (Vec::new(), 0);
    while tried.len() < 5 {
        host.ask(0, key(Kind::Nics, 1));
        host.start();
        if host.taking.len() > tried.len() {
            tried.push(host.now);
        }
        host.probe(true, true);
        host.wait(SECOND);
        seconds += 1;
        assert!(seconds < 3600, "it is not asked for any more");
    }
    let pauses: Vec<_> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.is_sorted_by(|a, b| 3 * *a < 2 * *b), "{pauses:?}");
    for _ in 0..600 {
        host.probe(true, true);
        host.wait(SECOND);
    }
    host.answers.clear();
    host.ask(0, key(Kind::Nics, 1));
    host.start();
    host.finish(host.taking.len() - 1, Ok(()));
    assert!(matches!(host.answers.pop(), Some((_, Ok(_)))));
}

#[test]
fn what_needs_no_guest_takes_no_thread_that_others_need() {
    let mut host = Host::new(LIMITS);
    for _ in 0..20_000 {
        host.scheduler.keep_house(Kind::HostCpus, host.now);
        host.scheduler.keep_house(Kind::Existing, host.now);
        host.ask(0, key(Kind::Nics, 1));
        host.ask(1, key(Kind::Nics, 2));
        host.start();
        host.probe(true, true);
        host.wait(SECOND);
    }
    host.answers.clear();
    host.ask(2, key(Kind::Disks, 3));
    host.start();
    let taking: Vec<_> = host.taking.iter().map(|(job, _)| job.slot).collect();
    host.finish(host.taking.len() - 1, Ok(()));
    let answer = host.answers.pop();
    assert!(matches!(answer, Some((_, Ok(_)))), "others are read as ever: {answer:?}, {taking:?}");
}

#[test]
fn a_guest_that_cannot_be_asked_after_takes_one_call() {
    let mut host = Host::new(LIMITS);
    for _ in 0..600 {
        host.ask(0, key(Kind::Disks, 1));
        host.start();
        host.probe_in_vain(true);
        host.wait(SECOND / 2);
        let calls = host.taking.iter().filter(|(job, _)| !leaves_guest(job)).count();
        assert!(calls <= 1, "{calls} calls in one guest");
    }
    assert_eq!(host.scheduler.health(host.now).hung.len(), 1, "and that is known");
}

#[test]
fn an_outage_ends_with_a_probe_that_succeeds() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Nics, 1));
    host.start();
    host.finish(0, Err(lost()));
    assert_eq!(host.answers.len(), 0, "it is asked once more");
    host.dial();
    host.dialed(false, 0);
    for _ in 0..3 {
        host.wait(4 * SECOND);
        host.probe(true, false);
        host.ask(0, key(Kind::Nics, 1));
    }
    assert_eq!(host.answers.len(), 4);
    assert!(host.answers.drain(..).all(|(_, answer)| answer.is_err()));
    host.wait(4 * SECOND);
    host.probe(true, true);
    host.read(key(Kind::Nics, 1)).unwrap();
    let levels: Vec<_> = host.scheduler.log.iter().map(|(level, _)| *level).collect();
    assert_eq!(levels, [log::Level::Warn, log::Level::Info], "one line each way");
}

#[test]
fn what_an_outage_has_cut_off_takes_no_threads_away() {
    have_outages_that_cut_off(false);
}

#[test]
fn nor_if_all_connections_are_closed_during_the_outage() {
    have_outages_that_cut_off(true);
}

fn have_outages_that_cut_off(closes: bool) {
    let mut host = Host::new(LIMITS);
    let mut cut_off = Vec::new();
    for _ in 0..10 {
        for (caller, kind) in [Kind::Nics, Kind::Nics, Kind::Disks].into_iter().enumerate() {
            host.ask(caller, key(kind, caller as u128));
        }
        host.start();
        host.dial();
        host.wait(LIMITS.timeout);
        assert!(!host.scheduler.is_reachable());
        if closes {
            host.close();
        }
        // The host is reset, and tells nobody who waits for it.
        cut_off.append(&mut host.taking);
        let dialing = std::mem::take(&mut host.dialing);
        host.wait(4 * SECOND);
        host.probe(true, true);
        host.answers_well();
        assert_eq!(host.scheduler.health(host.now).hung, []);
        for vm in 0..3 {
            for kind in KINDS {
                host.read(key(kind, vm)).unwrap();
            }
        }
        host.dialing.extend(dialing);
    }
    assert_eq!(host.scheduler.stuck(), cut_off.len());
    // They come back after all, where it was the network.
    host.taking = cut_off;
    host.finish_all();
    while !host.dialing.is_empty() {
        host.dialed(true, 0);
    }
    let health = host.scheduler.health(host.now);
    assert_eq!((health.stuck, health.threads), (0, host.scheduler.threads));
    assert_eq!(host.scheduler.idle, host.scheduler.threads);
}

/// Calls that a reset has cut off are not waited for, although a later outage was a mere silence.
#[test]
fn a_silence_soon_after_a_reset_takes_no_threads_away() {
    let mut host = Host::new(LIMITS);
    let mut cut_off = Vec::new();
    for _ in 0..10 {
        for vm in 0..3 {
            host.ask(vm, key(Kind::Nics, vm as u128));
        }
        host.start();
        host.wait(LIMITS.timeout);
        assert!(!host.scheduler.is_reachable());
        // The host is reset, and tells nobody who waits for it.
        cut_off.append(&mut host.taking);
        host.wait(4 * SECOND);
        host.probe(true, true);
        assert!(host.scheduler.is_reachable());
        // It is silent for a while, and goes on with what it was asked.
        host.ask(0, key(Kind::Nics, 3));
        host.start();
        host.wait(LIMITS.timeout);
        assert!(!host.scheduler.is_reachable());
        host.finish_all();
        host.wait(4 * SECOND);
        host.probe(true, true);
        host.answers_well();
        assert_eq!(host.scheduler.hanging(), 0);
        for vm in 0..4 {
            host.read(key(Kind::Nics, vm)).unwrap();
        }
    }
    assert_eq!(host.scheduler.stuck(), cut_off.len());
}

#[test]
fn what_hung_before_an_outage_that_has_cut_off_nothing_hangs_on() {
    let mut host = Host::new(LIMITS);
    // The list waits for the lock of some domain.
    host.ask(0, list());
    host.start();
    host.wait(LIMITS.timeout / 2);
    host.scheduler.hear(Some(host.now));
    host.ask(1, key(Kind::Nics, 1));
    host.start();
    host.wait(LIMITS.timeout / 2);
    assert_eq!(host.scheduler.stuck(), 1);
    host.wait(LIMITS.timeout / 2);
    assert!(!host.scheduler.is_reachable());
    // It was silent, and goes on with what it was asked.
    host.finish(1, Ok(()));
    host.wait(SECOND / 2);
    host.probe(true, true);
    for _ in 0..2 {
        host.wait(LIMITS.timeout);
        host.ask(1, key(Kind::Nics, 2));
        host.start();
        host.finish(1, Ok(()));
    }
    host.ask(0, list());
    host.start();
    assert_eq!(host.taking.len(), 1, "a second one would hang as well");
    assert_eq!(host.scheduler.stuck(), 1);
}

#[test]
fn all_who_wait_for_a_guest_that_begins_to_hang_are_told_what_is_known_of_it() {
    for kind in [Kind::Stats, Kind::Counters, Kind::Details] {
        let mut host = Host::new(LIMITS);
        // Its disks are wanted as well, so that the guest is waited for.
        host.ask(0, key(Kind::Disks, 0));
        host.finish_all();
        host.ask(0, key(kind, 0));
        host.start();
        host.wait(SECOND / 100);
        host.ask(1, key(kind, 0));
        host.ask(2, key(kind, 0));
        host.start();
        host.answers.clear();
        for _ in 0..8 {
            host.wait(LIMITS.timeout / 4);
            host.probe(false, true);
            host.start();
            let others = host.taking.iter().position(|(job, _)| leaves_guest(job));
            if let Some(which) = others {
                host.finish(which, Ok(()));
            }
        }
        assert!(host.asking.is_empty(), "{kind:?}");
        assert_eq!(host.answers.len(), 3);
        assert!(host.answers.iter().all(|(_, answer)| answer.is_ok()), "{:?}", host.answers);
    }
}

#[test]
fn what_was_out_in_a_silence_in_which_all_was_closed_has_its_time_after_it() {
    for is_finished in [false, true] {
        let mut host = Host::new(LIMITS);
        for vm in 0..2 {
            host.ask(vm, key(Kind::Disks, vm as u128));
        }
        host.start();
        host.wait(LIMITS.timeout);
        assert!(!host.scheduler.is_reachable());
        host.scheduler.begin_anew();
        host.wait(LIMITS.timeout);
        // It answers again.
        if is_finished {
            host.finish(1, Ok(()));
        } else {
            host.scheduler.hear(Some(host.now));
        }
        let hung = Uuid::from_u128(0);
        let another_answers = |host: &mut Host| {
            host.ask(2, key(Kind::Nics, 5));
            host.start();
            host.finish(host.taking.len() - 1, Ok(()));
        };
        let mut long = Duration::ZERO;
        while long < LIMITS.timeout {
            another_answers(&mut host);
            assert!(!host.scheduler.quarantine.has(hung), "after {long:?}");
            host.wait(SECOND / 4);
            long += SECOND / 4;
        }
        another_answers(&mut host);
        host.wait(SECOND / 4);
        another_answers(&mut host);
        assert!(host.scheduler.quarantine.has(hung));
    }
}

#[test]
fn what_answers_late_after_a_silence_is_not_said_to_hang() {
    for is_probed_first in [false, true] {
        let mut host = Host::new(LIMITS);
        for vm in 0..3 {
            host.ask(vm, key(Kind::Disks, vm as u128));
        }
        host.start();
        host.wait(LIMITS.timeout);
        assert!(!host.scheduler.is_reachable());
        if is_probed_first {
            host.probe(true, true);
        }
        host.finish(0, Ok(()));
        host.ask(0, key(Kind::Nics, 0));
        host.wait(SECOND / 2);
        host.probe(true, true);
        assert!(host.scheduler.is_reachable());
        assert_eq!(host.scheduler.health(host.now).hung, []);
        // They have their time after that.
        host.wait(LIMITS.timeout / 2);
        host.ask(0, list());
        host.finish_all();
        assert_eq!(host.scheduler.health(host.now).hung, []);
    }
}

#[test]
fn a_host_that_has_answered_once_in_an_outage_may_be_reset_all_the_same() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Nics, 0));
    host.ask(1, key(Kind::Nics, 1));
    host.start();
    host.wait(LIMITS.timeout);
    assert!(!host.scheduler.is_reachable());
    host.finish(0, Ok(()));
    host.wait(SECOND / 2);
    host.probe(true, false);
    // It is reset, and tells nobody who waits for it.
    assert_eq!(std::mem::take(&mut host.taking).len(), 1);
    host.wait(4 * SECOND);
    host.probe(true, true);
    assert_eq!((host.scheduler.stuck(), host.scheduler.hanging()), (1, 1));
    for _ in 0..60 {
        host.ask(0, list());
        host.finish_all();
        host.wait(SECOND / 2);
    }
    assert_eq!((host.scheduler.stuck(), host.scheduler.hanging()), (1, 0));
}

/// Nobody asks anything else, so that only a question of its own shows that the hypervisor is there again.
#[test]
fn the_only_guest_that_is_asked_about_is_read_again_after_a_reset() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    host.wait(LIMITS.timeout);
    assert!(!host.scheduler.is_reachable());
    // The host is reset, and tells nobody who waits for it.
    assert_eq!(std::mem::take(&mut host.taking).len(), 1);
    host.wait(4 * SECOND);
    host.probe(true, true);
    for _ in 0..60 {
        host.ask(0, key(Kind::Disks, 1));
        host.finish_all();
        host.probe(true, true);
        host.wait(SECOND / 2);
    }
    host.read(key(Kind::Disks, 1)).unwrap();
}

#[test]
fn a_guest_is_asked_after_again_once_the_question_was_lost_with_its_connection() {
    let mut host = with_one_that_hangs(1);
    assert_eq!(host.scheduler.health(host.now).hung.len(), 1);
    let vm: InstanceId = Uuid::from_u128(1).into();
    host.scheduler.leave_unprobed(&vm, host.now);
    host.scheduler.probed(&vm, &Err(lost()), host.now);
    // Its call is lost as well.
    for _ in 0..60 {
        host.probe(true, true);
        host.wait(SECOND / 2);
    }
    assert_eq!(host.scheduler.health(host.now).hung, []);
}

#[test]
fn a_guest_of_which_nothing_is_told_has_not_been_free_meanwhile() {
    let mut host = with_one_that_hangs(1);
    let hung = |host: &Host| host.scheduler.health(host.now).hung.len();
    host.probe_in_vain(true);
    assert_eq!(hung(&host), 1);
    host.wait(LIMITS.timeout / 2);
    host.probe(true, true);
    for number in 0..20 {
        host.probe_in_vain(number % 2 == 0);
        host.wait(LIMITS.timeout / 2);
    }
    // Its call is lost only once nobody has waited for it for twice the timeout.
    for _ in 0..4 {
        host.probe(true, true);
        assert_eq!(hung(&host), 1);
        host.wait(LIMITS.timeout / 2);
    }
    for _ in 0..4 {
        host.probe(true, true);
        host.wait(LIMITS.timeout / 2);
    }
    assert_eq!(hung(&host), 0);
}

#[test]
fn a_reading_whose_connection_broke_is_taken_once_more() {
    let mut host = Host::new(LIMITS);
    for answers in 0..2 {
        host.ask(0, key(Kind::Disks, 1));
        host.start();
        host.finish(0, Err(lost()));
        assert_eq!((host.answers.len(), host.taking.len()), (answers, 0));
        host.start();
        host.finish(0, if answers == 0 { Err(lost()) } else { Ok(()) });
    }
    assert!(matches!(host.answers.remove(0), (_, Err(Error::ConnectionLost { .. }))));
    assert!(host.answers.remove(0).1.is_ok());
    assert!(host.scheduler.is_reachable(), "others may serve");
}

#[test]
fn outages_that_are_over_before_a_caller_looks_do_not_make_its_guest_hang() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    for _ in 0..3 {
        host.start();
        host.blink();
        host.wait(MOMENT);
        assert_eq!(host.answers.len(), 0, "it has its time");
    }
    host.finish_all();
    assert!(matches!(host.answers.pop(), Some((_, Ok(_)))));
    host.ask(0, key(Kind::Disks, 1));
    for _ in 0..LIMITS.timeout.as_secs() {
        assert_eq!(host.answers.len(), 0);
        host.start();
        host.blink();
        host.wait(SECOND);
    }
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))), "and no more");
    assert_eq!(host.scheduler.health(host.now).hung, [], "nobody knows");
}

#[test]
fn one_connection_too_many_is_no_outage() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    host.ask(1, key(Kind::Disks, 2));
    assert!(host.scheduler.needs_thread(host.now));
    host.scheduler.refused(lost().failure().unwrap(), 1, 1, host.now);
    assert!(!host.scheduler.needs_thread(host.now), "not at once");
    host.finish(0, Ok(()));
    host.start();
    host.finish(0, Ok(()));
    assert_eq!(host.answers.len(), 2);
    host.ask(0, key(Kind::Disks, 1));
    host.ask(1, key(Kind::Disks, 2));
    host.start();
    assert_eq!(host.scheduler.threads, 1);
    host.wait(SECOND);
    host.start();
    assert_eq!(host.scheduler.threads, 2);
}

#[test]
fn an_open_that_hangs_hardly_delays_a_reading_and_no_guest_is_blamed() {
    let mut host = Host::new(LIMITS);
    host.read(key(Kind::Nics, 1)).unwrap();
    host.ask(0, key(Kind::Disks, 1));
    host.dial();
    host.ask(1, key(Kind::Disks, 2));
    host.start();
    assert_eq!(host.taking.len(), 1, "one reading is for the thread that dials");
    host.wait(LIMITS.slow());
    host.start();
    assert_eq!(host.taking.len(), 2, "by another");
    host.finish(0, Ok(()));
    host.finish(0, Ok(()));
    host.wait(2 * LIMITS.timeout);
    assert_eq!(host.scheduler.health(host.now).hung, []);
    assert_eq!(host.answers.len(), 2);
}

#[test]
fn when_every_thread_is_stuck_everybody_is_told_at_once() {
    let mut host = Host::new(LIMITS);
    let most = LIMITS.threads() + Limits::STARVED;
    for vm in 1..=most as u128 {
        host.ask(0, key(Kind::Nics, vm));
        // Once more with what goes less far, while there is a thread.
        for _ in 0..22 {
            host.start();
            host.wait(SECOND / 2);
            host.probe(false, true);
        }
        assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))));
    }
    assert_eq!(host.scheduler.stuck(), most);
    assert!(host.taking.iter().any(|(job, _)| job.reach == Reach::Priority));
    host.ask(0, key(Kind::Nics, 99));
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))), "at once");
    host.finish(0, Ok(()));
    host.read(key(Kind::Nics, 99)).unwrap();
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
                        host.wait(Duration::from_millis(200));
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
