//! What is asked for, under way, and ready: every decision of the engine. Pure: it is told of what
//! happens, with the time, and has neither threads nor connections of its own.

use std::collections::{HashMap, HashSet, VecDeque};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::health::Health;
use super::limits::Limits;
use super::order::Order;
use super::outage::Outage;
use super::quarantine::{Patient, Quarantine};
use super::{Key, Kind};
use crate::error::{Error, Failure, Result};
use crate::hypervisor::Notes;
use crate::records::InstanceId;

/// What came of a reading.
pub(super) struct Outcome<R> {
    pub(super) answer: Result<R>,
    pub(super) notes: Notes,
}

/// A reading that somebody should take.
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) key: Key,
    pub(super) instance: InstanceId,
    /// Whether the guest's process must be left alone.
    pub(super) hung: bool,
}

/// A caller's request, from its beginning to its answer.
pub(super) struct Ticket {
    pub(super) caller: ThreadId,
    pub(super) key: Key,
    pub(super) instance: InstanceId,
    pub(super) asked: Instant,
    /// The flight that is this caller's.
    claimed: Option<u64>,
    /// Whether a flight of this caller's was given up.
    again: bool,
}

/// What a caller does next.
pub(super) enum Turn<R> {
    Answer(Outcome<R>),
    /// Come again when something has happened, and at this time at the latest.
    Wait(Instant),
}

/// What the probing thread does next.
pub(super) enum Probe {
    /// Nothing, until it is woken.
    Rest,
    /// Nothing, until then.
    Wait(Instant),
    /// Whether the hypervisor can be reached.
    Reach,
    /// Whether this instance's guest answers.
    Ask(InstanceId),
}

/// A reading from its request to its hand-out.
struct Flight<R> {
    id: u64,
    instance: InstanceId,
    /// Whether a caller waits for it; else it is read ahead.
    claimed: bool,
    ahead: bool,
    started: Option<Instant>,
    outcome: Option<Outcome<R>>,
}

struct Ready<R> {
    taken: Instant,
    outcome: Outcome<R>,
}

/// A reading that a thread is in.
struct Running {
    key: Key,
    started: Instant,
    /// Whether it needs the guest's process.
    guest: bool,
    given_up: bool,
    /// Whether it has hung without that need.
    stuck: bool,
}

pub(super) struct Desk<R> {
    limits: Limits,
    uri: String,
    order: Order,
    /// What callers wait for, and after that what is read ahead: those not begun.
    asked: VecDeque<(Key, u64)>,
    ahead: VecDeque<(Key, u64)>,
    flights: HashMap<Key, Flight<R>>,
    ready: HashMap<Key, Ready<R>>,
    running: HashMap<u64, Running>,
    /// The instances whose guest's process a reading waits for.
    waiting: HashSet<Uuid>,
    quarantine: Quarantine,
    outage: Option<Outage>,
    /// When the hypervisor has answered anything for the last time.
    heard: Option<Instant>,
    /// How far ahead it is worth to read, and hits since that grew.
    reach: usize,
    hits: u32,
    /// When the instances behind one that held up its caller were looked at.
    swept: Option<Instant>,
    /// Whether that is still going on, and which instances were listed last.
    sweeping: bool,
    listed: Vec<InstanceId>,
    to_probe: VecDeque<InstanceId>,
    next_probe: Option<Instant>,
    flown: u64,
    pub(super) threads: usize,
    pub(super) idle: usize,
    pub(super) health: Health,
    /// What is to be logged.
    pub(super) news: Vec<(log::Level, String)>,
}

impl<R> Desk<R> {
    pub(super) fn new(uri: &str, limits: Limits) -> Self {
        Self {
            limits,
            uri: uri.to_owned(),
            order: Order::new(),
            asked: VecDeque::new(),
            ahead: VecDeque::new(),
            flights: HashMap::new(),
            ready: HashMap::new(),
            running: HashMap::new(),
            waiting: HashSet::new(),
            quarantine: Quarantine::default(),
            outage: None,
            heard: None,
            reach: limits.read_ahead,
            hits: 0,
            swept: None,
            sweeping: false,
            listed: Vec::new(),
            to_probe: VecDeque::new(),
            next_probe: None,
            flown: 0,
            threads: 0,
            idle: 0,
            health: Health::default(),
            news: Vec::new(),
        }
    }

    /// A caller asks. What it will ask next is read ahead, if that is known.
    pub(super) fn ask(
        &mut self,
        caller: ThreadId,
        key: Key,
        instance: &InstanceId,
        now: Instant,
    ) -> Ticket {
        // A list is asked for to learn of what is new: it is never an old one.
        let streak = match key.kind {
            Kind::List => 0,
            _ => self.order.ask(caller, (key, instance), now, self.limits.max_age),
        };
        // Twice the expected might be chance.
        let width = if streak < 2 { 0 } else { self.reach.min(1 << streak.min(16)) };
        self.read_ahead(key, width, now, |_| true);
        Ticket { caller, key, instance: instance.clone(), asked: now, claimed: None, again: false }
    }

    /// What a caller does now.
    pub(super) fn turn(&mut self, ticket: &mut Ticket, now: Instant) -> Turn<R> {
        self.give_up_unclaimed(now);
        loop {
            if let Some(id) = ticket.claimed {
                match self.wait_for(ticket, id, now) {
                    Some(turn) => return turn,
                    None => continue,
                }
            }
            if let Some(answer) = self.answer_without_reading(ticket) {
                return self.hand_out(ticket, answer, None, now);
            }
            match self.ready.remove(&ticket.key) {
                Some(ready) if !self.is_too_old(&ready, now) => {
                    self.health.read_ahead += 1;
                    return self.hand_out(ticket, ready.outcome, Some(ready.taken), now);
                }
                Some(_) => {
                    self.health.wasted += 1;
                    self.reach /= 2;
                }
                None => {}
            }
            if self.is_stuck(ticket.key, now) {
                let answer = Err(self.timeout(ticket, "an earlier call has not come back"));
                return self.hand_out(
                    ticket,
                    Outcome { answer, notes: Notes::default() },
                    None,
                    now,
                );
            }
            match self.flights.get_mut(&ticket.key) {
                // One reading is handed to one caller: the next one has its own, after this.
                Some(flight) if flight.claimed => {
                    let until = ticket.asked + self.limits.timeout;
                    if now < until {
                        return Turn::Wait(until.min(now + self.limits.slow()));
                    }
                    let answer = Err(self.timeout(ticket, "another caller waits for it"));
                    return self.hand_out(
                        ticket,
                        Outcome { answer, notes: Notes::default() },
                        None,
                        now,
                    );
                }
                Some(flight) => {
                    flight.claimed = true;
                    ticket.claimed = Some(flight.id);
                    if flight.started.is_none() {
                        self.asked.push_back((ticket.key, flight.id));
                    }
                }
                None => {
                    let id = self.new_flight(ticket.key, ticket.instance.clone(), true);
                    ticket.claimed = Some(id);
                    self.asked.push_back((ticket.key, id));
                }
            }
        }
    }

    /// A caller does not want its answer any more.
    pub(super) fn leave(&mut self, ticket: &Ticket) {
        let claimed = |flight: &&mut Flight<R>| Some(flight.id) == ticket.claimed;
        if let Some(flight) = self.flights.get_mut(&ticket.key).filter(claimed) {
            flight.claimed = false;
            if flight.outcome.is_some() {
                self.flights.remove(&ticket.key);
            }
        }
    }

    /// The next reading to take, if there is one that may be begun now.
    pub(super) fn start(&mut self, now: Instant) -> Option<Job> {
        let (key, id) = self.next_startable(true).or_else(|| self.next_startable(false))?;
        let flight = self.flights.get_mut(&key).filter(|flight| flight.id == id)?;
        flight.started = Some(now);
        let instance = flight.instance.clone();
        let hung = self.must_not_wait_for_guest(key);
        let guest = key.kind.needs_guest() && !hung;
        if guest {
            self.waiting.insert(key.uuid);
        }
        self.running
            .insert(id, Running { key, started: now, guest, given_up: false, stuck: false });
        Some(Job { id, key, instance, hung })
    }

    /// Whether anybody still waits for what a thread is reading.
    pub(super) fn is_wanted(&self, job: &Job) -> bool {
        self.running.get(&job.id).is_some_and(|running| !running.given_up)
    }

    /// A reading has come to its end.
    pub(super) fn finish(&mut self, job: &Job, outcome: Outcome<R>, now: Instant) {
        let Some(running) = self.running.remove(&job.id) else { return };
        if running.guest && !running.given_up {
            self.waiting.remove(&job.key.uuid);
        }
        if !matches!(outcome.answer, Err(Error::ConnectionLost { .. })) {
            self.heard = Some(now);
        }
        if running.given_up {
            self.health.late += u64::from(outcome.answer.is_ok());
            self.quarantine.returned(job.key.uuid, job.id);
            return;
        }
        match self.flights.get_mut(&job.key) {
            Some(flight) if flight.id == job.id && flight.claimed => flight.outcome = Some(outcome),
            Some(flight) if flight.id == job.id => {
                self.flights.remove(&job.key);
                // A failure may be over by the time that somebody asks.
                if outcome.answer.is_ok() {
                    let taken = outcome.notes.begun.unwrap_or(running.started);
                    self.ready.insert(job.key, Ready { taken, outcome });
                    self.clear_ready(now);
                }
            }
            _ => {}
        }
    }

    /// Whether one more thread should take readings.
    pub(super) fn needs_thread(&self, now: Instant) -> bool {
        self.threads < self.limits.threads()
            && self.threads < self.limits.workers + self.slow(now)
            && self.startable(self.idle + 1) > self.idle
    }

    /// Whether there are more threads than there is work for.
    pub(super) fn has_thread_to_spare(&self, now: Instant) -> bool {
        self.threads > self.limits.workers + self.slow(now)
    }

    /// How many readings take so long that others should not wait for their threads.
    fn slow(&self, now: Instant) -> usize {
        let slow = |running: &&Running| {
            running.given_up || now.saturating_duration_since(running.started) >= self.limits.slow()
        };
        self.running.values().filter(slow).count()
    }

    /// What the probing thread does now.
    /// (One that is `careful` asks after no guest: that call may hang as well.)
    pub(super) fn probe(&mut self, now: Instant, careful: bool) -> Probe {
        if let Some(outage) = &self.outage {
            return if now < outage.next_try { Probe::Wait(outage.next_try) } else { Probe::Reach };
        }
        if careful {
            self.to_probe.retain(|instance| instance.uuid.is_nil());
        }
        if let Some(instance) = self.to_probe.pop_front() {
            return Probe::Ask(instance);
        }
        if !self.wants_probe(now) {
            self.next_probe = None;
            return Probe::Rest;
        }
        match self.next_probe {
            Some(next) if now < next => Probe::Wait(next),
            _ => {
                self.next_probe = Some(now + self.limits.probe_pause());
                // First whether the hypervisor answers at all: to a question about nobody, as one
                // about a guest may have to wait for whoever waits for it.
                self.to_probe = VecDeque::from([Uuid::nil().into()]);
                if !careful {
                    let guests = self.quarantine.probed().map(|hung| hung.instance.clone());
                    self.to_probe.extend(guests);
                }
                self.to_probe.pop_front().map_or(Probe::Rest, Probe::Ask)
            }
        }
    }

    /// A probing thread is stuck with this guest: no other one is to ask after it.
    pub(super) fn leave_unprobed(&mut self, instance: Uuid) {
        self.quarantine.leave_unprobed(instance);
    }

    /// Whether the probing thread has something to do.
    pub(super) fn wants_probe(&self, now: Instant) -> bool {
        self.outage.is_some() || self.quarantine.all().next().is_some() || self.is_slow(now)
    }

    /// A connection could not be opened. (One that breaks is no outage: the reading may be to blame.)
    pub(super) fn unreachable(&mut self, failure: &Failure, now: Instant) {
        self.begin_outage(failure.clone(), now);
    }

    /// The probe has reached the hypervisor, or not.
    pub(super) fn reached(&mut self, answer: Result<()>, now: Instant) {
        if let Err(Error::ConnectionLost { failure, .. }) = answer {
            if let Some(outage) = &mut self.outage {
                outage.goes_on(failure, now);
            }
        } else {
            self.heard = Some(now);
            self.end_outage(now);
        }
    }

    /// Somebody waits for the instance's guest, or nobody.
    pub(super) fn probed(
        &mut self,
        instance: &InstanceId,
        answer: &Result<Option<bool>>,
        now: Instant,
    ) {
        let mut what = "is read again";
        let out = match answer {
            Err(Error::ConnectionLost { .. }) => return,
            Ok(Some(false)) => {
                self.quarantine.busy(instance.uuid);
                None
            }
            Ok(Some(true)) => self.quarantine.free(instance.uuid, now, 2 * self.limits.timeout),
            // The hypervisor cannot tell: it is free when the call that was stuck has returned.
            Ok(None) => self.quarantine.free(instance.uuid, now, Duration::MAX),
            Err(_) => {
                what = "is gone or shut off";
                self.quarantine.release(instance.uuid)
            }
        };
        self.heard = Some(now);
        if let Some(Patient { instance, since, .. }) = out {
            let after = now.saturating_duration_since(since).as_secs();
            let line = format!("instance {instance} {what}, {after} s after it hung");
            // What was read around its guest is less than can be read now.
            for kind in [Kind::Instance, Kind::Usage] {
                let key = Key { kind, uuid: instance.uuid };
                self.ready.remove(&key);
                if self.flights.get(&key).is_some_and(|flight| !flight.claimed) {
                    self.drop_flight(key);
                }
            }
            self.tell(log::Level::Warn, line);
        }
    }

    pub(super) fn is_reachable(&self) -> bool {
        self.outage.is_none()
    }

    /// All connections were closed: the next caller gets nothing that was read or found out before.
    pub(super) fn begin_anew(&mut self) {
        self.outage = None;
        self.ready.clear();
        self.ahead.clear();
        let unclaimed = self.flights.iter().filter(|(_, flight)| !flight.claimed);
        for key in unclaimed.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.drop_flight(key);
        }
    }

    /// What goes on here.
    pub(super) fn health(&self, now: Instant) -> Health {
        let mut health = self.health.clone();
        health.threads = self.threads;
        health.stuck = self.stuck();
        let since = |then: Instant| now.saturating_duration_since(then);
        health.hung = self.quarantine.all().map(|p| (p.instance.clone(), since(p.since))).collect();
        health.hung.sort_by_key(|(instance, _)| instance.uuid);
        health.outage = self.outage.as_ref().map(|o| (o.failure.clone(), since(o.since)));
        health
    }

    pub(super) fn stuck(&self) -> usize {
        self.running.values().filter(|running| running.given_up).count()
    }

    /// Waits for the flight that a caller has claimed; `None` if it was given up, so that the caller
    /// takes what there is without it.
    fn wait_for(&mut self, ticket: &mut Ticket, id: u64, now: Instant) -> Option<Turn<R>> {
        let flight = self.flights.get_mut(&ticket.key).filter(|flight| flight.id == id);
        let Some(flight) = flight else {
            // Dropped, but not for its own fault: it is asked for anew, once, in the same time.
            if !self.must_not_wait_for_guest(ticket.key) && !ticket.again {
                ticket.again = true;
                ticket.claimed = None;
                return None;
            }
            return self.start_again(ticket, now);
        };
        let started = flight.started;
        if let Some(outcome) = flight.outcome.take() {
            let ahead = flight.ahead;
            self.flights.remove(&ticket.key);
            let taken = outcome.notes.begun.or(started);
            // It was under way for too long already when it was asked for.
            let early = taken.is_some_and(|taken| {
                ticket.asked.saturating_duration_since(taken) >= self.limits.max_age
            });
            if ahead && early {
                self.health.wasted += 1;
                ticket.claimed = None;
                return None;
            }
            self.health.read_ahead += u64::from(ahead);
            return Some(self.hand_out(ticket, outcome, taken, now));
        }
        // If it was begun before it was asked for, and nothing is heard of the hypervisor, then
        // perhaps because nobody was there to ask: that is found out first.
        let begun = started.filter(|_| self.is_heard(now)).unwrap_or(ticket.asked);
        let until = begun.min(ticket.asked) + self.limits.timeout;
        if now >= until {
            self.give_up(ticket.key, now);
            return self.start_again(ticket, now);
        }
        if now.saturating_duration_since(ticket.asked) >= self.limits.held_up() {
            self.look_behind(ticket.key, now);
        }
        Some(Turn::Wait(until.min(now + self.limits.slow())))
    }

    fn start_again(&mut self, ticket: &mut Ticket, now: Instant) -> Option<Turn<R>> {
        // What a guest that hangs leaves to be said is asked for once more, and no more.
        let hangs = ticket.key.kind.knows_hung() && self.must_not_wait_for_guest(ticket.key);
        if hangs && !ticket.again {
            ticket.again = true;
            ticket.claimed = None;
            ticket.asked = now;
            return None;
        }
        let answer = self.answer_without_reading(ticket).unwrap_or_else(|| {
            let answer = Err(self.timeout(ticket, "it has not been answered"));
            Outcome { answer, notes: Notes::default() }
        });
        Some(self.hand_out(ticket, answer, None, now))
    }

    /// What can be said at once: there is no connection, or the guest hangs.
    fn answer_without_reading(&self, ticket: &Ticket) -> Option<Outcome<R>> {
        let needs_guest = !ticket.key.kind.knows_hung();
        let answer = if let Some(outage) = &self.outage {
            Err(Error::ConnectionLost {
                uri: self.uri.clone(),
                instance: (!ticket.key.uuid.is_nil()).then(|| ticket.instance.clone()),
                failure: outage.failure.clone(),
            })
        } else if needs_guest && self.quarantine.has(ticket.key.uuid) {
            Err(self.timeout(ticket, "its guest hangs. It is asked again as soon as it answers; look at its process and storage"))
        } else if needs_guest && self.too_many_hang() {
            Err(self.timeout(ticket, "so many guests hang that no thread is left to wait for more"))
        } else {
            return None;
        };
        Some(Outcome { answer, notes: Notes::default() })
    }

    fn timeout(&self, ticket: &Ticket, why: &str) -> Error {
        if ticket.key.uuid.is_nil() {
            return Error::ConnectionLost {
                uri: self.uri.clone(),
                instance: None,
                failure: silence(self.limits.timeout),
            };
        }
        Error::Timeout {
            instance: ticket.instance.clone(),
            timeout: self.limits.timeout,
            why: why.to_owned(),
        }
    }

    fn hand_out(
        &mut self,
        ticket: &Ticket,
        outcome: Outcome<R>,
        taken: Option<Instant>,
        now: Instant,
    ) -> Turn<R> {
        self.order.answered(ticket.caller, now);
        if self.sweeping {
            self.end_sweep();
        }
        self.hits = self.hits.wrapping_add(1);
        if self.hits % 8 == 0 {
            self.reach = (self.reach + 1).min(self.limits.read_ahead);
        }
        if let Some(taken) = taken {
            let age = now.saturating_duration_since(taken);
            self.health.handed_out += 1;
            self.health.age_sum += age;
            self.health.age_max = self.health.age_max.max(age);
        }
        Turn::Answer(outcome)
    }

    fn new_flight(&mut self, key: Key, instance: InstanceId, claimed: bool) -> u64 {
        self.flown += 1;
        let id = self.flown;
        let flight =
            Flight { id, instance, claimed, ahead: !claimed, started: None, outcome: None };
        self.flights.insert(key, flight);
        id
    }

    /// Orders what is expected after `key`, up to so many readings.
    fn read_ahead(
        &mut self,
        key: Key,
        width: usize,
        now: Instant,
        mut wanted: impl FnMut(Key) -> bool,
    ) {
        let mut seen = HashSet::from([key]);
        let mut last = key;
        while seen.len() <= width && self.outage.is_none() {
            let Some((next, instance)) = self.order.after(last).cloned() else { return };
            if !seen.insert(next) {
                return;
            }
            last = next;
            let hangs = self.must_not_wait_for_guest(next);
            if !wanted(next) || self.is_stuck(next, now) || (hangs && !next.kind.knows_hung()) {
                continue;
            }
            if self.ready.get(&next).is_some_and(|ready| self.is_too_old(ready, now)) {
                self.ready.remove(&next);
                self.health.wasted += 1;
            }
            if !self.ready.contains_key(&next) && !self.flights.contains_key(&next) {
                let id = self.new_flight(next, instance, false);
                self.ahead.push_back((next, id));
            }
        }
    }

    fn is_too_old(&self, ready: &Ready<R>, now: Instant) -> bool {
        now.saturating_duration_since(ready.taken) >= self.limits.max_age
    }

    /// Looks at the instances behind one that holds up its caller, so that whatever else hangs does
    /// not hold it up in its turn.
    fn look_behind(&mut self, key: Key, now: Instant) {
        let again = 2 * self.limits.timeout;
        if self.swept.is_some_and(|then| now.saturating_duration_since(then) < again) {
            return;
        }
        self.swept = Some(now);
        self.sweeping = true;
        self.clear_ready(now);
        // One reading of each is enough.
        let mut looked_at = HashSet::from([key.uuid]);
        let guests = |next: Key| next.kind.needs_guest() && looked_at.insert(next.uuid);
        self.read_ahead(key, usize::MAX, now, guests);
        // Where no order is known yet, those that were listed.
        for instance in std::mem::take(&mut self.listed) {
            let next = Key { kind: key.kind, uuid: instance.uuid };
            let known = self.flights.contains_key(&next) || self.must_not_wait_for_guest(next);
            if next.kind.needs_guest() && looked_at.insert(next.uuid) && !known {
                let id = self.new_flight(next, instance.clone(), false);
                self.ahead.push_back((next, id));
            }
            self.listed.push(instance);
        }
    }

    /// Those that exist, as far as was told last.
    pub(super) fn listed(&mut self, instances: Vec<InstanceId>) {
        self.listed = instances;
    }

    /// Nobody is held up any more: what was to be looked at behind is not worth it.
    fn end_sweep(&mut self) {
        self.sweeping = false;
        for (key, id) in std::mem::take(&mut self.ahead) {
            if self.is_pending((key, id)) && self.flights.get(&key).is_some_and(|f| !f.claimed) {
                self.flights.remove(&key);
            }
        }
    }

    /// The first reading in a queue that may be begun.
    fn next_startable(&mut self, asked: bool) -> Option<(Key, u64)> {
        let mut queue = std::mem::take(if asked { &mut self.asked } else { &mut self.ahead });
        while queue.front().is_some_and(|entry| !self.is_pending(*entry)) {
            queue.pop_front();
        }
        let may_start = |entry: &(Key, u64)| self.is_pending(*entry) && self.may_start(*entry);
        let at = queue.iter().position(may_start);
        let found = at.and_then(|at| queue.remove(at));
        // What was given up behind one that cannot start.
        if queue.len() > 64 + 2 * self.flights.len() {
            queue.retain(|entry| self.is_pending(*entry));
        }
        *(if asked { &mut self.asked } else { &mut self.ahead }) = queue;
        found
    }

    /// How many readings may be begun now; so many at the most are counted.
    pub(super) fn startable(&self, most: usize) -> usize {
        let waiting = self.asked.iter().chain(&self.ahead);
        waiting.filter(|e| self.is_pending(**e) && self.may_start(**e)).take(most).count()
    }

    fn is_pending(&self, (key, id): (Key, u64)) -> bool {
        self.flights.get(&key).is_some_and(|flight| flight.id == id && flight.started.is_none())
    }

    /// Readings that need the guest's process are taken one at a time for each guest, as the
    /// hypervisor would do it anyway: so one that hangs has one thread hanging with it.
    fn may_start(&self, (key, _): (Key, u64)) -> bool {
        if self.must_not_wait_for_guest(key) {
            return key.kind.knows_hung();
        }
        if !key.kind.needs_guest() {
            return true;
        }
        let waiting = self.running.values().filter(|running| running.guest).count();
        waiting < self.limits.waiting_for_guests() && !self.waiting.contains(&key.uuid)
    }

    /// Whether the question is one for the guest, and the guest is not to be asked.
    fn must_not_wait_for_guest(&self, key: Key) -> bool {
        key.kind.needs_guest() && (self.quarantine.has(key.uuid) || self.too_many_hang())
    }

    /// Whether every thread that may wait for a guest does so in vain. Then nobody is asked any more
    /// whether he hangs as well: finding out would cost each caller the whole timeout.
    fn too_many_hang(&self) -> bool {
        let stuck = self.running.values().filter(|running| running.guest && running.given_up);
        stuck.count() >= self.limits.waiting_for_guests()
    }

    /// Whether somebody has waited for long.
    fn is_slow(&self, now: Instant) -> bool {
        self.running.values().any(|running| {
            !running.given_up
                && now.saturating_duration_since(running.started) >= self.limits.slow()
        })
    }

    /// Gives up what nobody waits for. If nothing is heard of the hypervisor, then perhaps because
    /// nobody has asked: that is for those to find out who wait for something.
    fn give_up_unclaimed(&mut self, now: Instant) {
        let over = |flight: &Flight<R>| {
            let started = flight.started.filter(|_| !flight.claimed && flight.outcome.is_none());
            started.is_some_and(|s| {
                now.saturating_duration_since(s) >= self.limits.timeout && self.is_heard(now)
            })
        };
        let over: Vec<Key> =
            self.flights.iter().filter(|(_, flight)| over(flight)).map(|(key, _)| *key).collect();
        for key in over {
            self.give_up(key, now);
        }
    }

    /// Gives up a flight, and finds out who is to blame: the hypervisor, if nobody has heard
    /// anything from it of late, or else the guest.
    fn give_up(&mut self, key: Key, now: Instant) {
        let Some(flight) = self.flights.get_mut(&key) else { return };
        self.health.timeouts += 1;
        let Some(started) = flight.started else {
            self.flights.remove(&key);
            return;
        };
        // It had to wait for its turn, and has hardly begun: nobody is to blame yet.
        if now.saturating_duration_since(started) < self.limits.timeout / 2 {
            flight.claimed = false;
            flight.ahead = true;
            return;
        }
        if !self.is_heard(now) {
            self.begin_outage(silence(self.limits.timeout), now);
        } else if key.kind.needs_guest() {
            self.abandon(key);
            // Those that have taken long by now are judged with it, or they would hold up their
            // callers one after the other.
            let long = |flight: &Flight<R>| {
                let started = flight.started.filter(|_| flight.outcome.is_none());
                started.is_some_and(|s| now.saturating_duration_since(s) >= self.limits.timeout / 2)
            };
            let others: Vec<Key> = self
                .flights
                .iter()
                .filter(|(key, flight)| key.kind.needs_guest() && long(flight))
                .map(|(key, _)| *key)
                .collect();
            for key in others {
                self.abandon(key);
            }
        } else {
            self.abandon(key);
        }
    }

    /// Whether calls hang that do not even need the guest's process. One more is tried after a while,
    /// and that is all, or one instance would take all threads.
    fn is_stuck(&self, key: Key, now: Instant) -> bool {
        let stuck = self.running.values().filter(|running| running.stuck && running.key == key);
        let last = stuck.clone().map(|running| running.started).max();
        let again = 4 * self.limits.timeout;
        stuck.count() > 1 || last.is_some_and(|s| now.saturating_duration_since(s) < again)
    }

    /// Whether the hypervisor has answered anything of late.
    fn is_heard(&self, now: Instant) -> bool {
        let lately = self.limits.timeout / 2;
        self.heard.is_some_and(|heard| now.saturating_duration_since(heard) <= lately)
    }

    /// Leaves a running flight to its thread, and its guest in quarantine.
    fn abandon(&mut self, key: Key) {
        let Some(flight) = self.drop_flight(key) else { return };
        let Some(running) = self.running.get_mut(&flight.id) else { return };
        if !running.guest {
            running.stuck = true;
            return;
        }
        if self.quarantine.enter(&flight.instance, flight.id, running.started) {
            let (instance, timeout) = (&flight.instance, self.limits.timeout);
            let line = format!(
                "instance {instance} hangs: it has not answered within {timeout:?}. Its state, CPU \
                 and NICs are still reported; memory and disks when it answers again"
            );
            self.tell(log::Level::Warn, line);
        }
        // Nothing else is asked of it.
        let uuid = key.uuid;
        self.flights.retain(|key, flight| {
            key.uuid != uuid || !key.kind.needs_guest() || flight.started.is_some()
        });
    }

    /// Takes a flight away; its thread, if it has one, comes back in vain.
    fn drop_flight(&mut self, key: Key) -> Option<Flight<R>> {
        let flight = self.flights.remove(&key)?;
        if let Some(running) = self.running.get_mut(&flight.id) {
            running.given_up = true;
            if running.guest {
                self.waiting.remove(&key.uuid);
            }
        }
        Some(flight)
    }

    /// Has something logged by the next caller.
    pub(super) fn tell(&mut self, level: log::Level, line: String) {
        const MOST: usize = 1000;
        if self.news.len() < MOST {
            self.news.push((level, line));
        }
    }

    fn begin_outage(&mut self, failure: Failure, now: Instant) {
        for key in self.flights.keys().copied().collect::<Vec<_>>() {
            self.drop_flight(key);
        }
        self.ready.clear();
        self.to_probe.clear();
        if self.outage.is_none() {
            let line = format!(
                "no connection to {}: {failure}; virtmeter goes on trying",
                if self.uri.is_empty() { "libvirt's default URI" } else { &self.uri }
            );
            self.tell(log::Level::Warn, line);
            self.outage = Some(Outage::new(failure, now));
        }
    }

    fn end_outage(&mut self, now: Instant) {
        if let Some(outage) = self.outage.take() {
            let after = now.saturating_duration_since(outage.since).as_secs();
            let uri = if self.uri.is_empty() { "libvirt's default URI" } else { &self.uri };
            self.tell(log::Level::Info, format!("connected to {uri} again, after {after} s"));
        }
    }

    /// Drops what nobody has asked for in time, once there is much of it.
    fn clear_ready(&mut self, now: Instant) {
        if self.ready.len() > 2 * self.limits.read_ahead {
            let before = self.ready.len();
            self.ready.retain(|_, ready| {
                now.saturating_duration_since(ready.taken) < self.limits.max_age
            });
            self.health.wasted += u64::try_from(before - self.ready.len()).unwrap_or(0);
        }
    }
}

/// The failure of a hypervisor that says nothing.
fn silence(timeout: Duration) -> Failure {
    Failure {
        // VIR_ERR_OPERATION_TIMEOUT, of VIR_FROM_NONE
        code: 68,
        domain: 0,
        message: format!("libvirt has not answered anything within {timeout:?}"),
    }
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
