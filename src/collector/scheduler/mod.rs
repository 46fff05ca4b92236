//! What is asked for, in flight, and ready: every decision of the engine. Pure: it is told of what
//! happens, with the time, and has neither threads nor connections of its own.

mod ahead;
mod away;
mod deadlines;
mod order;
mod reachability;
mod starting;
mod task;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use uuid::Uuid;

use away::Suspended;
use reachability::{CutOff, Locked};
pub(super) use reachability::{MOST_CUT_OFF, Probe};
use task::{Fate, Ready, Running, Task};
pub(super) use task::{Finished, Job, Lane, Slot};

use super::habits::Habits;
use super::outage::Outage;
use super::quarantine::Quarantine;
use super::{Key, Kind, NO_INSTANCE};
use crate::error::Error;
use crate::health::Health;
use crate::hypervisor::{Outcome, Parts};
use crate::limits::Limits;
use crate::logs::add;
use crate::printable::Uri;
use crate::records::InstanceId;

/// What a guest is busy with is not told for longer than that after it was seen.
const BUSY: Duration = MINUTE;

const MINUTE: Duration = Duration::from_secs(60);

/// What a caller asks for, until it has its answer.
pub(super) struct Request {
    /// A greater one for each later request.
    id: u64,
    pub(super) caller: ThreadId,
    pub(super) key: Key,
    pub(super) instance: InstanceId,
    pub(super) asked: Instant,
    /// The task that this caller waits for.
    claimed: Option<(Slot, u64)>,
    /// Whether it is asked for once more, as its guest hangs, and has its time again.
    again: bool,
    /// Whether what it asks for was held up by a guest, which it need not wait for.
    aside: bool,
    /// How often it was asked anew as this process was stopped, and whether its time began anew as its caller was away.
    sleeps: u8,
    resumed: bool,
}

/// What a caller does next.
pub(super) enum Turn<R> {
    Answer(Outcome<R>),
    /// Come again when something has happened, and at this time at the latest.
    Wait(Instant),
}

pub(super) struct Scheduler<R> {
    limits: Limits,
    uri: String,
    habits: Habits,
    /// What callers wait for, and after that what is read ahead: those not begun.
    asked: VecDeque<(Slot, u64)>,
    ahead: VecDeque<(Slot, u64)>,
    tasks: HashMap<Slot, Task>,
    running: HashMap<u64, Running>,
    /// What has not come back from before an outage, or was lost, and when it was begun: readings, and threads that open
    /// a connection.
    cut_off: HashMap<CutOff, Instant>,
    /// What was read for callers who wait for it, by which task, and for those who will come.
    answers: HashMap<Key, (u64, Ready<R>)>,
    // Boxed, as a map has room for more than it holds.
    ready: HashMap<Key, Box<Ready<R>>>,
    quarantine: Quarantine,
    /// The guests that are busy with something that nobody can wait for, with what, and when that was
    /// seen.
    busy: HashMap<Uuid, (InstanceId, &'static str, Instant)>,
    /// The instances that libvirt does not even tell anything of by itself.
    locked: HashMap<Uuid, Locked>,
    outage: Option<Outage>,
    /// When the hypervisor has answered anything for the last time, when a connection broke, and when
    /// an outage was over.
    heard: Option<Instant>,
    broken: Option<Instant>,
    reachable_since: Option<Instant>,
    /// When the last outage began, unless a call of before was answered after that: then it has cut off
    /// none.
    may_have_cut_off: Option<Instant>,
    /// When the outage before that was over, unless a call of before it was answered since.
    may_have_cut_off_before: Option<Instant>,
    /// Since when the probing thread waits for an answer about nobody.
    probing: Option<Instant>,
    /// When a caller who waits, or the prober, was last awake.
    awake: Option<Instant>,
    /// When what nobody waits for was looked at last, and a moment before that.
    looked: [Option<Instant>; 2],
    /// How far ahead it is worth to read, and hits since that grew.
    width: usize,
    hits: u32,
    /// When the instances behind one that held up its caller were looked at.
    swept: Option<Instant>,
    /// Whether that is still going on, and which instances were listed last.
    sweeping: bool,
    listed: Vec<InstanceId>,
    /// When each of those was last asked after, as their list hung.
    searched: Option<Instant>,
    to_probe: VecDeque<InstanceId>,
    next_probe: Option<Instant>,
    tasks_ever: u64,
    requests_ever: u64,
    /// Those that wait as another one is to have the next reading, and the callers that are away.
    waiting: HashMap<Key, BTreeSet<u64>>,
    suspended: Vec<Suspended>,
    /// How much was ready when what was too old was dropped.
    cleared_to: usize,
    pub(super) threads: usize,
    pub(super) idle: usize,
    /// The threads that open a connection or look whether theirs is good, and since when.
    connecting: HashMap<u64, Instant>,
    /// Whether the last thread that was wanted could not be started.
    pub(super) short_of_threads: bool,
    /// Whether nobody asks after what does not answer: no thread could be started for that, or it was
    /// refused a connection.
    lacks_prober: bool,
    /// Since when threads are short, and when that was last told.
    short_since: Option<Instant>,
    told_of_threads: Option<Instant>,
    /// When a connection was refused while others were good, unless one was opened since to read, or beside
    /// one that serves.
    crowded: Option<Instant>,
    /// When one more thread may try to connect, as the last one could not; and when one could.
    connect_again: Option<Instant>,
    opened: Option<Instant>,
    pub(super) health: Health,
    /// What is to be logged, by the next caller.
    pub(super) log: Vec<(log::Level, String)>,
}

impl<R> Scheduler<R> {
    pub(super) fn new(uri: &str, limits: Limits) -> Self {
        Self {
            limits,
            uri: uri.to_owned(),
            habits: Habits::new(limits.max_age()),
            asked: VecDeque::new(),
            ahead: VecDeque::new(),
            tasks: HashMap::new(),
            running: HashMap::new(),
            cut_off: HashMap::new(),
            answers: HashMap::new(),
            ready: HashMap::new(),
            quarantine: Quarantine::default(),
            busy: HashMap::new(),
            locked: HashMap::new(),
            outage: None,
            heard: None,
            broken: None,
            reachable_since: None,
            may_have_cut_off: None,
            may_have_cut_off_before: None,
            probing: None,
            awake: None,
            looked: [None; 2],
            width: limits.read_ahead,
            hits: 0,
            swept: None,
            sweeping: false,
            listed: Vec::new(),
            searched: None,
            to_probe: VecDeque::new(),
            next_probe: None,
            tasks_ever: 0,
            requests_ever: 0,
            waiting: HashMap::new(),
            suspended: Vec::new(),
            cleared_to: 0,
            threads: 0,
            idle: 0,
            connecting: HashMap::new(),
            short_of_threads: false,
            lacks_prober: false,
            short_since: None,
            told_of_threads: None,
            crowded: None,
            connect_again: None,
            opened: None,
            health: Health::default(),
            log: Vec::new(),
        }
    }

    /// Those of the inspector that goes on here now.
    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// A caller asks. What it will ask next is read ahead, if that is known.
    pub(super) fn ask(
        &mut self,
        caller: ThreadId,
        key: Key,
        instance: &InstanceId,
        now: Instant,
    ) -> Request {
        // A list is asked for to learn of what is new: it is never an old one.
        if key.kind != Kind::List {
            let (streak, first) = self.habits.asks(caller, (key.kind.part(), instance), now);
            // Twice the expected might be chance.
            let ahead = streak >= 2 && !self.limits.max_age().is_zero();
            let width = if ahead { self.width.min(1 << streak.min(16)) } else { 0 };
            let kind = Kind::of(first).unwrap_or(key.kind);
            self.top_up(Key { kind, ..key }, width, now);
        }
        self.requests_ever += 1;
        Request {
            id: self.requests_ever,
            caller,
            key,
            instance: instance.clone(),
            asked: now,
            claimed: None,
            again: false,
            aside: false,
            sleeps: 0,
            resumed: false,
        }
    }

    /// A caller is about to ask about all these instances, one after the other.
    pub(super) fn expect(&mut self, caller: ThreadId, instances: &[InstanceId], now: Instant) {
        self.habits.expect(caller, instances, now);
    }

    /// What a caller does now.
    pub(super) fn turn(&mut self, request: &mut Request, now: Instant) -> Turn<R> {
        self.give_up_unclaimed(now);
        loop {
            if let Some(claimed) = request.claimed {
                match self.wait_for(request, claimed, now) {
                    Some(turn) => return turn,
                    None => continue,
                }
            }
            if let Some(answer) = self.answer_without_reading(request, now) {
                return self.hand_out(request, answer.into(), None, now);
            }
            if let Some(claimed) = self.take_over(request, now) {
                request.claimed = Some(claimed);
                continue;
            }
            let in_time = request.asked + self.limits.timeout;
            if self.is_behind(request, now) {
                if now < in_time {
                    return self.wait_in_turn(request, in_time, now);
                }
                match self.start_again(request, "other callers are waiting for it", now) {
                    Some(turn) => return turn,
                    None => continue,
                }
            }
            match self.ready.remove(&request.key) {
                Some(ready) if !self.is_too_old(&ready, now) => {
                    self.health.read_ahead += 1;
                    return self.hand_out(request, ready.outcome, Some(ready.taken), now);
                }
                Some(ready) => self.has_wasted(ready.ahead),
                None => {}
            }
            let slot = self.slot(request.key, request.aside, now);
            if self.is_stuck(slot, now) {
                if self.is_silent_still(now) {
                    self.begin_silence(now);
                    continue;
                }
                let answer = self.timeout(request, "an earlier call has not returned");
                return self.hand_out(request, answer.into(), None, now);
            }
            let part = request.key.kind.part();
            if slot.lane == Lane::Aside {
                self.take_aside(slot.uuid, part);
            }
            // One reading is handed to one caller: the next one has its own, after this.
            let mut another = self.answers.contains_key(&request.key);
            if let Some(task) = self.tasks.get_mut(&slot).filter(|task| !task.can_serve(part)) {
                task.awaited = true;
                another = true;
            }
            if another && now < in_time {
                return self.wait_in_turn(request, in_time, now);
            }
            if another {
                match self.start_again(request, "another caller is waiting for it", now) {
                    Some(turn) => return turn,
                    None => continue,
                }
            }
            let new = !self.tasks.contains_key(&slot);
            if new {
                self.new_task(slot, request.key, request.instance.clone(), now);
            }
            let Some(task) = self.tasks.get_mut(&slot) else { continue };
            task.parts = task.parts.and(part);
            task.claimed = task.claimed.and(part);
            if new {
                task.ahead = Parts::NONE;
            } else if task.started.is_some() {
                task.ahead = task.ahead.and(part);
            }
            let id = task.id;
            request.claimed = Some((slot, id));
            self.end_waiting(request);
            if self.is_pending((slot, id)) {
                self.asked.push_back((slot, id));
            }
        }
    }

    /// A caller does not want its answer any more.
    pub(super) fn leave(&mut self, request: &Request) {
        self.end_waiting(request);
        if let Some(claimed) = request.claimed {
            self.take_answer(request.key, claimed.1);
            self.unclaim(claimed, request.key.kind.part());
        }
    }

    fn unclaim(&mut self, (slot, id): (Slot, u64), part: Parts) {
        if let Some(task) = self.tasks.get_mut(&slot).filter(|task| task.id == id) {
            task.claimed = task.claimed.without(part);
            task.ahead = task.ahead.and(part);
        }
    }

    /// What a task has read for this caller.
    fn take_answer(&mut self, key: Key, id: u64) -> Option<Ready<R>> {
        self.answers.get(&key).filter(|(of, _)| *of == id)?;
        self.answers.remove(&key).map(|(_, ready)| ready)
    }

    /// Where something is read: aside of the guest if it must not wait for that. No two tasks have the
    /// same part of an instance.
    fn slot(&self, Key { kind, uuid }: Key, aside: bool, now: Instant) -> Slot {
        let part = kind.part();
        let task = |lane| self.tasks.get(&Slot { lane, uuid });
        let beside = task(Lane::Aside).is_some_and(|task| task.parts.has(part));
        let must_not_wait = || self.must_not_wait_for_guest(uuid);
        let lane = match kind {
            Kind::List => Lane::List,
            Kind::Existing => Lane::Existing,
            Kind::HostCpus => Lane::HostCpus,
            _ if beside => Lane::Aside,
            _ if kind.needs_guest() => {
                let in_flight = |task: &Task| task.parts.has(part) && task.started.is_some();
                let waits = task(Lane::Guest).is_some_and(in_flight) || !must_not_wait();
                if waits { Lane::Guest } else { Lane::Aside }
            }
            _ if task(Lane::Guest).is_some_and(|task| task.claimed.has(part)) => Lane::Guest,
            _ if aside || must_not_wait() || self.is_slow_to_answer(uuid, now) => Lane::Aside,
            _ if task(Lane::Guest).is_some_and(|task| task.can_serve(part)) => Lane::Guest,
            _ if self.habits.wanted(uuid, part, now).need_guest() => Lane::Guest,
            _ => Lane::Aside,
        };
        Slot { lane, uuid }
    }

    /// Has a part no longer read together with what waits for the guest's process.
    fn take_aside(&mut self, uuid: Uuid, part: Parts) {
        let slot = Slot { lane: Lane::Guest, uuid };
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        task.parts = task.parts.without(part).and(task.claimed);
        if task.parts == Parts::NONE && task.started.is_none() {
            self.tasks.remove(&slot);
        }
    }

    /// A reading has come to its end. Returns whether a caller is to be told.
    pub(super) fn finish(&mut self, job: &Job, finished: Finished<R>, now: Instant) -> bool {
        let broken = matches!(finished.answer, Err(Error::ConnectionLost { .. }));
        let Some(running) = self.running.remove(&job.id) else {
            self.is_back(CutOff::Reading(job.id), !broken);
            return false;
        };
        if !broken {
            self.is_there(now);
            self.has_outlived_outage(running.started);
        }
        if let Some(locked) = self.locked.get_mut(&job.slot.uuid) {
            // A refusal comes from the hypervisor, too.
            locked.answers |= !broken;
        }
        if running.given_up() {
            self.health.late += u64::from(finished.answer.is_ok());
            self.quarantine.returned(job.slot.uuid, job.id);
            return false;
        }
        match finished.answer {
            Ok(_) if job.slot.uuid != NO_INSTANCE => self.has_answered(job, finished.busy, now),
            Err(ref error @ (Error::InstanceNotFound { .. } | Error::InstanceShutOff { .. })) => {
                self.busy.remove(&job.slot.uuid);
                if matches!(error, Error::InstanceNotFound { gone: true, .. }) {
                    self.habits.forget(job.slot.uuid);
                }
            }
            _ => {}
        }
        let Some(task) = self.tasks.get_mut(&job.slot).filter(|task| task.id == job.id) else {
            return false;
        };
        // The connection may have been broken before: once more, over another.
        if broken && task.claimed != Parts::NONE && !task.again {
            task.again = true;
            task.started = None;
            task.parts = task.claimed;
            self.asked.push_front((job.slot, job.id));
            return false;
        }
        let Some(task) = self.tasks.remove(&job.slot) else { return false };
        let parts = match finished.answer {
            Ok(parts) => parts,
            Err(error) => task.claimed.each().map(|part| (part, error.clone().into())).collect(),
        };
        for (part, outcome) in parts {
            let taken = outcome.notes.earliest().unwrap_or(running.started);
            let ready = Ready { taken, ahead: task.ahead.has(part), outcome };
            let kind = job.slot.lane.kind(part).filter(|_| task.parts.has(part));
            let Some(kind) = kind else { continue };
            let key = Key { kind, uuid: job.slot.uuid };
            if task.claimed.has(part) {
                self.answers.insert(key, (job.id, ready));
            } else if ready.outcome.answer.is_ok() && key.uuid != NO_INSTANCE {
                // A failure may be over by the time that somebody asks.
                self.ready.insert(key, Box::new(ready));
            }
        }
        self.clear_ready(now);
        task.claimed != Parts::NONE || task.awaited
    }

    /// An instance has answered, itself or by the hypervisor alone.
    fn has_answered(&mut self, job: &Job, busy: Option<&'static str>, now: Instant) {
        let uuid = job.slot.uuid;
        if job.slot.lane == Lane::Guest {
            self.habits.guest_answers(uuid, busy.is_none(), now);
            self.busy.remove(&uuid);
            if busy.is_none() {
                self.cut_off_lost(uuid, now);
            }
        }
        if let Some(why) = busy {
            self.busy.insert(uuid, (job.instance.clone(), why, now));
        }
    }

    /// All connections were closed: the next caller gets nothing that was read or found out before.
    pub(super) fn begin_anew(&mut self) {
        if self.outage.take().is_some() {
            let line =
                format!("trying {} again, because its connections were closed", self.place());
            self.tell(log::Level::Info, line);
        }
        self.connect_again = None;
        self.ahead.clear();
        self.drop_readings(|task| task.claimed == Parts::NONE);
    }

    /// Another inspector goes on after the last one is gone: it knows what hangs, and nothing else.
    pub(in crate::collector) fn goes_on(&mut self, limits: Limits, now: Instant) {
        self.begin_anew();
        self.health = Health::default();
        // What hangs for the one need not for the other, who waits for longer.
        let hangs_not = |call: &Running| {
            call.fate == Fate::Hangs && now.saturating_duration_since(call.started) < limits.timeout
        };
        for (id, call) in self.running.iter_mut().filter(|(_, call)| hangs_not(call)) {
            call.fate = Fate::Left;
            self.quarantine.takes_back(call.slot.uuid, *id);
        }
        (self.limits, self.habits) = (limits, Habits::new(limits.max_age()));
        (self.width, self.hits) = (limits.read_ahead, 0);
    }

    /// Drops what was read, and of what is in flight or waiting, this.
    fn drop_readings(&mut self, which: impl Fn(&Task) -> bool) {
        self.ready.clear();
        let dropped = self.tasks.iter().filter(|(_, task)| which(task));
        for slot in dropped.map(|(slot, _)| *slot).collect::<Vec<_>>() {
            self.drop_task(slot);
        }
        // What was ordered with something that somebody waits for was begun before as well.
        for task in self.tasks.values_mut() {
            task.parts = task.claimed;
        }
    }

    /// Where the connections lead.
    fn place(&self) -> Uri<'_> {
        Uri(&self.uri)
    }

    /// Of how many instances something is remembered.
    pub(in crate::collector) fn remembered(&self) -> usize {
        self.habits.remembered()
    }

    /// What goes on here.
    pub(super) fn health(&self, now: Instant) -> Health {
        let mut health = self.health.clone();
        health.threads = self.threads + self.cut_off.len();
        health.stuck = self.stuck();
        let since = |then: Instant| now.saturating_duration_since(then);
        // Who was asked about by a UUID alone may be known by a name from a list.
        let named = |instance: &InstanceId| {
            let listed = || self.listed.iter().find(|listed| listed.uuid == instance.uuid);
            if instance.name.is_none() { listed().unwrap_or(instance) } else { instance }.clone()
        };
        health.hung = self.quarantine.all().map(|h| (named(&h.instance), since(h.since))).collect();
        health.hung.sort_by_key(|(instance, _)| instance.uuid);
        let seen = self.busy.values().filter(|(_, _, seen)| since(*seen) < BUSY);
        health.busy = seen.map(|(instance, why, _)| (named(instance), *why)).collect();
        health.busy.sort_by_key(|(instance, _)| instance.uuid);
        health.locked = self.locked().map(named).collect();
        health.locked.sort_by_key(|instance| instance.uuid);
        health.list_hangs = self.list_hangs_since(now).map(since);
        health.outage = self.outage.as_ref().map(|o| (o.failure.clone(), since(o.since)));
        health
    }

    /// Whether a call has not come back yet, or never will.
    pub(super) fn has_calls_out(&self) -> bool {
        !self.running.is_empty() || !self.cut_off.is_empty() || !self.connecting.is_empty()
    }

    pub(super) fn stuck(&self) -> usize {
        let cut_off = self.cut_off.keys().filter(|out| matches!(out, CutOff::Reading(_)));
        self.hanging() + cut_off.count()
    }

    /// How many of those may return.
    fn hanging(&self) -> usize {
        self.running.values().filter(|running| running.hangs()).count()
    }

    /// Waits for the task that a caller has claimed; `None` if it was given up, so that the caller
    /// takes what there is without it.
    fn wait_for(
        &mut self,
        request: &mut Request,
        (slot, id): (Slot, u64),
        now: Instant,
    ) -> Option<Turn<R>> {
        let part = request.key.kind.part();
        if let Some(ready) = self.take_answer(request.key, id) {
            // It was in flight for too long already when it was asked for; a list at all.
            let most = self.limits.max_age();
            let most = if request.key.kind == Kind::List { Duration::ZERO } else { most };
            let early = request.asked.saturating_duration_since(ready.taken) >= most;
            if ready.ahead && early {
                self.health.wasted += 1;
                request.claimed = None;
                return None;
            }
            self.health.read_ahead += u64::from(ready.ahead);
            return Some(self.hand_out(request, ready.outcome, Some(ready.taken), now));
        }
        let Some(task) = self.tasks.get(&slot).filter(|task| task.id == id) else {
            // Dropped. Unless its guest is to blame, it is asked for anew in the same time, however often: outages may
            // be over before the caller looks.
            let is_blamed = slot.lane == Lane::Guest && self.must_not_ask(request.key);
            if !is_blamed && now < request.asked + self.limits.timeout {
                request.claimed = None;
                return None;
            }
            return self.start_again(request, "there was no answer", now);
        };
        let started = task.started;
        let held_up = now.saturating_duration_since(started.unwrap_or(request.asked));
        let not_to_be_asked = started.is_none() && self.must_not_wait_for_guest(slot.uuid);
        let need_not_wait = !request.key.kind.needs_guest() && held_up >= self.limits.slow();
        if slot.lane == Lane::Guest && (not_to_be_asked || need_not_wait) {
            self.unclaim((slot, id), part);
            self.take_aside(slot.uuid, part);
            request.claimed = None;
            request.aside = true;
            return None;
        }
        // If it was begun before it was asked for, and nothing is heard of the hypervisor, then
        // perhaps because nobody was there to ask: that is found out first.
        let begun = started.filter(|_| self.is_heard(now)).unwrap_or(request.asked);
        // Nor may anybody have been there to notice that this process was stopped.
        let until = begun.min(request.asked) + self.limits.timeout;
        let until = until.max(request.asked + self.limits.held_up());
        if now >= until {
            self.give_up(slot, now);
            return self.start_again(request, "there was no answer", now);
        }
        let waits = slot.lane == Lane::Guest;
        if waits && now.saturating_duration_since(request.asked) >= self.limits.held_up() {
            self.look_behind(request.key, now);
        }
        Some(Turn::Wait(until.min(now + self.limits.slow())))
    }

    fn start_again(&mut self, request: &mut Request, why: &str, now: Instant) -> Option<Turn<R>> {
        // What a guest that hangs leaves to be said is asked for once more, and no more.
        let key = request.key;
        let hangs = self.must_not_ask(key) || self.is_hung_aside(key.uuid);
        let is_left = key.kind.knows_hung() && hangs;
        if is_left && !request.again {
            request.again = true;
            request.claimed = None;
            request.asked = now;
            return None;
        }
        let answer = self
            .answer_without_reading(request, now)
            .unwrap_or_else(|| self.unanswered(request, why, now));
        Some(self.hand_out(request, answer.into(), None, now))
    }

    fn hand_out(
        &mut self,
        request: &Request,
        outcome: Outcome<R>,
        taken: Option<Instant>,
        now: Instant,
    ) -> Turn<R> {
        self.end_waiting(request);
        self.habits.answered(request.caller, now);
        if self.sweeping {
            self.end_sweep();
        }
        self.hits = self.hits.wrapping_add(1);
        if self.hits % 8 == 0 {
            self.width = (self.width + 1).min(self.limits.read_ahead);
        }
        if let Some(taken) = taken {
            let Key { kind, uuid } = request.key;
            if uuid != NO_INSTANCE {
                self.habits.handed_out(uuid, kind.part(), taken, now);
            }
            let age = now.saturating_duration_since(taken);
            self.health.handed_out += 1;
            self.health.age_sum += age;
            self.health.age_max = self.health.age_max.max(age);
        }
        Turn::Answer(outcome)
    }

    /// A task for a part, and for what is expected to be asked for with it.
    fn new_task(&mut self, slot: Slot, key: Key, instance: InstanceId, now: Instant) -> u64 {
        self.tasks_ever += 1;
        let id = self.tasks_ever;
        let part = key.kind.part();
        let wanted = match slot.lane {
            Lane::Guest => self.habits.wanted(slot.uuid, part, now),
            Lane::Aside if part.need_guest() => {
                self.habits.wanted(slot.uuid, part, now).known_of_hung()
            }
            _ => part,
        };
        let beside = self.tasks.get(&Slot { lane: Lane::Aside, ..slot }).map(|task| task.parts);
        let there = |part: &Parts| {
            beside.is_some_and(|parts| parts.has(*part))
                || Kind::of(*part)
                    .is_some_and(|kind| self.is_ready(Key { kind, uuid: slot.uuid }, now))
        };
        let parts = wanted.each().filter(|other| *other == part || !there(other));
        let parts = parts.fold(Parts::NONE, Parts::and);
        let task = Task {
            id,
            instance,
            parts,
            claimed: Parts::NONE,
            ahead: part,
            started: None,
            again: false,
            awaited: false,
        };
        self.tasks.insert(slot, task);
        id
    }

    /// Whether a guest's process keeps those waiting that have asked it for something.
    fn is_slow_to_answer(&self, instance: Uuid, now: Instant) -> bool {
        self.running.values().any(|call| {
            call.occupies_guest()
                && call.slot.uuid == instance
                && (call.given_up() || self.is_slow_since(call.started, now))
        })
    }

    /// Takes a task away; its thread, if it has one, comes back in vain.
    fn drop_task(&mut self, slot: Slot) -> Option<Task> {
        let task = self.tasks.remove(&slot)?;
        if let Some(running) = self.running.get_mut(&task.id) {
            running.becomes(Fate::Left);
        }
        Some(task)
    }

    /// Has something logged by the next caller.
    pub(super) fn tell(&mut self, level: log::Level, line: String) {
        add(&mut self.log, level, line);
    }
}

#[cfg(test)]
mod tests;
