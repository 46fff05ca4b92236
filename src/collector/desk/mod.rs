//! What is asked for, under way, and ready: every decision of the engine. Pure: it is told of what
//! happens, with the time, and has neither threads nor connections of its own.

mod ahead;
mod blame;
mod reach;

use std::collections::{HashMap, VecDeque};
use std::thread::ThreadId;
use std::time::Instant;

use uuid::Uuid;

pub(super) use reach::Probe;

use super::health::Health;
use super::limits::Limits;
use super::order::Order;
use super::outage::Outage;
use super::quarantine::Quarantine;
use super::{Key, Kind};
use crate::error::{Error, Result};
use crate::hypervisor::Notes;
use crate::printable::Printable;
use crate::records::InstanceId;

/// What came of a reading.
pub(super) struct Outcome<R> {
    pub(super) answer: Result<R>,
    pub(super) notes: Notes,
}

impl<R> From<Error> for Outcome<R> {
    fn from(error: Error) -> Self {
        Self { answer: Err(error), notes: Notes::default() }
    }
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

/// A reading from its request to its hand-out.
struct Flight<R> {
    id: u64,
    instance: InstanceId,
    /// Whether a caller waits for it; else it is read ahead.
    claimed: bool,
    ahead: bool,
    started: Option<Instant>,
    /// Whether it is taken for the second time, as the connection broke at the first.
    again: bool,
    outcome: Option<Outcome<R>>,
}

struct Ready<R> {
    taken: Instant,
    outcome: Outcome<R>,
}

/// A reading that a thread is in.
struct Running {
    key: Key,
    instance: InstanceId,
    started: Instant,
    /// Whether it needs the guest's process.
    guest: bool,
    fate: Fate,
}

/// What has become of it; each of these is worse than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Somebody may want it.
    Wanted,
    /// Nobody wants it any more: its caller has left, say, or all connections were closed.
    Left,
    /// It was given up because it hung.
    Hangs,
    /// It hung, and its guest is free again without its having returned, which it may never do.
    Lost,
}

impl Running {
    fn given_up(&self) -> bool {
        self.fate >= Fate::Left
    }

    fn hangs(&self) -> bool {
        self.fate >= Fate::Hangs
    }

    /// Whether it is in its guest, and a second one there would be one too many.
    fn occupies_guest(&self) -> bool {
        self.guest && self.fate != Fate::Lost
    }

    fn becomes(&mut self, fate: Fate) {
        self.fate = self.fate.max(fate);
    }
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
    quarantine: Quarantine,
    outage: Option<Outage>,
    /// When the hypervisor has answered anything for the last time, when a connection broke, and when
    /// an outage was over.
    heard: Option<Instant>,
    broken: Option<Instant>,
    reachable_since: Option<Instant>,
    /// Since when the probing thread waits for an answer about nobody.
    probing: Option<Instant>,
    /// How far ahead it is worth to read, and hits since that grew.
    reach: usize,
    hits: u32,
    /// When the instances behind one that held up its caller were looked at.
    swept: Option<Instant>,
    /// Whether that is still going on, and which instances were listed last.
    sweeping: bool,
    listed: Vec<InstanceId>,
    /// Whether connections are to drop what they share.
    pub(super) forget: bool,
    to_probe: VecDeque<InstanceId>,
    next_probe: Option<Instant>,
    flown: u64,
    pub(super) threads: usize,
    pub(super) idle: usize,
    /// The threads that open a connection or look whether theirs is good, and since when.
    dialing: HashMap<u64, Instant>,
    /// Whether the last thread that was wanted could not be started.
    short_of_threads: bool,
    /// When one more thread may try to connect, as the last one could not; and when one could.
    dial_again: Option<Instant>,
    opened: Option<Instant>,
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
            quarantine: Quarantine::default(),
            outage: None,
            heard: None,
            broken: None,
            reachable_since: None,
            probing: None,
            reach: limits.read_ahead,
            hits: 0,
            swept: None,
            sweeping: false,
            listed: Vec::new(),
            forget: false,
            to_probe: VecDeque::new(),
            next_probe: None,
            flown: 0,
            threads: 0,
            idle: 0,
            dialing: HashMap::new(),
            short_of_threads: false,
            dial_again: None,
            opened: None,
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
        self.top_up(key, width, now);
        Ticket { caller, key, instance: instance.clone(), asked: now, claimed: None, again: false }
    }

    /// A caller is about to ask this of all these instances, one after the other.
    pub(super) fn expect(
        &mut self,
        caller: ThreadId,
        kind: Kind,
        instances: &[InstanceId],
        now: Instant,
    ) {
        let key = |instance: &InstanceId| Key { kind, uuid: instance.uuid };
        let all = instances.iter().map(|instance| (key(instance), instance.clone()));
        self.order.expect(caller, all, now);
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
            if let Some(answer) = self.answer_without_reading(ticket, now) {
                return self.hand_out(ticket, answer.into(), None, now);
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
                let answer = self.timeout(ticket, "an earlier call has not come back");
                return self.hand_out(ticket, answer.into(), None, now);
            }
            match self.flights.get_mut(&ticket.key) {
                // One reading is handed to one caller: the next one has its own, after this.
                Some(flight) if flight.claimed => {
                    let until = ticket.asked + self.limits.timeout;
                    if now < until {
                        return Turn::Wait(until.min(now + self.limits.slow()));
                    }
                    let answer = self.timeout(ticket, "another caller waits for it");
                    return self.hand_out(ticket, answer.into(), None, now);
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
            flight.ahead = true;
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
        let running = Running {
            key,
            instance: instance.clone(),
            started: now,
            guest: key.kind.needs_guest() && !hung,
            fate: Fate::Wanted,
        };
        self.running.insert(id, running);
        Some(Job { id, key, instance, hung })
    }

    /// A reading has come to its end. Returns whether a caller is to be told.
    pub(super) fn finish(&mut self, job: &Job, outcome: Outcome<R>, now: Instant) -> bool {
        let Some(running) = self.running.remove(&job.id) else { return false };
        let broken = matches!(outcome.answer, Err(Error::ConnectionLost { .. }));
        if !broken {
            self.heard = Some(now);
        }
        if running.given_up() {
            self.health.late += u64::from(outcome.answer.is_ok());
            self.quarantine.returned(job.key.uuid, job.id);
            return false;
        }
        match self.flights.get_mut(&job.key) {
            // The connection may have been broken before: once more, over another.
            Some(flight) if flight.id == job.id && flight.claimed && broken && !flight.again => {
                flight.again = true;
                flight.started = None;
                self.asked.push_front((job.key, job.id));
            }
            Some(flight) if flight.id == job.id && flight.claimed => {
                flight.outcome = Some(outcome);
                return true;
            }
            Some(flight) if flight.id == job.id => {
                self.flights.remove(&job.key);
                if outcome.answer.is_ok() && !job.key.kind.is_housekeeping() {
                    // A failure may be over by the time that somebody asks.
                    let taken = outcome.notes.earliest().unwrap_or(running.started);
                    self.ready.insert(job.key, Ready { taken, outcome });
                    self.clear_ready(now);
                }
            }
            _ => {}
        }
        false
    }

    /// Whether one more thread should take readings.
    pub(super) fn needs_thread(&self, now: Instant) -> bool {
        let soon_idle = self.idle + self.dialing.len() - self.dialing_slowly(now);
        self.threads < self.limits.threads()
            && self.threads < self.limits.workers + self.slow(now)
            && self.startable(soon_idle + 1) > soon_idle
            && self.may_dial(now)
    }

    /// A thread was started, or not.
    pub(super) fn started_thread(&mut self, problem: Option<&std::io::Error>) {
        if let Some(problem) = problem.filter(|_| !self.short_of_threads) {
            let line = format!(
                "no further thread can be started: {problem}; readings wait for the {} that there \
                 are. Look at the limits of this process (ulimit -u, TasksMax)",
                self.threads
            );
            self.tell(log::Level::Warn, line);
        }
        self.short_of_threads = problem.is_some();
    }

    /// Whether there are more threads than there is work for.
    pub(super) fn has_thread_to_spare(&self, now: Instant) -> bool {
        self.threads > self.limits.workers + self.slow(now)
    }

    /// How many readings take so long that others should not wait for their threads.
    fn slow(&self, now: Instant) -> usize {
        let slow =
            |running: &&Running| running.given_up() || self.is_slow_since(running.started, now);
        self.running.values().filter(slow).count() + self.dialing_slowly(now)
    }

    /// All connections were closed: the next caller gets nothing that was read or found out before.
    pub(super) fn begin_anew(&mut self) {
        if self.outage.take().is_some() {
            let line = format!("{} is tried anew, as its connections were closed", self.place());
            self.tell(log::Level::Info, line);
        }
        self.dial_again = None;
        self.ahead.clear();
        self.drop_readings(|flight| !flight.claimed);
    }

    /// Drops what was read, and of what is under way or waiting, this.
    fn drop_readings(&mut self, which: impl Fn(&Flight<R>) -> bool) {
        self.ready.clear();
        let dropped = self.flights.iter().filter(|(_, flight)| which(flight));
        for key in dropped.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.drop_flight(key);
        }
    }

    /// Where the connections lead.
    fn place(&self) -> Printable<'_> {
        Printable(if self.uri.is_empty() { "libvirt's default URI" } else { &self.uri })
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
        self.running.values().filter(|running| running.hangs()).count()
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
            let taken = outcome.notes.earliest().or(started);
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
        let answer = self
            .answer_without_reading(ticket, now)
            .unwrap_or_else(|| self.timeout(ticket, "it has not been answered"));
        Some(self.hand_out(ticket, answer.into(), None, now))
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
        let flight = Flight {
            id,
            instance,
            claimed,
            ahead: !claimed,
            started: None,
            again: false,
            outcome: None,
        };
        self.flights.insert(key, flight);
        id
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
        if key.kind.is_housekeeping() {
            // It may hang, and must not take the last thread.
            return self.running.len() + 1 < self.limits.threads();
        }
        if !key.kind.needs_guest() {
            // What callers have left may come back yet.
            let left = |call: &&Running| call.key == key && call.fate == Fate::Left;
            return self.running.values().filter(left).count() < 2;
        }
        let waiting = self.running.values().filter(|running| running.guest).count();
        waiting < self.limits.waiting_for_guests() && !self.is_waited_for(key.uuid)
    }

    /// Whether a call is out that waits for this guest's process, whoever still wants its answer.
    fn is_waited_for(&self, instance: Uuid) -> bool {
        self.running.values().any(|call| call.occupies_guest() && call.key.uuid == instance)
    }

    /// Takes a flight away; its thread, if it has one, comes back in vain.
    fn drop_flight(&mut self, key: Key) -> Option<Flight<R>> {
        let flight = self.flights.remove(&key)?;
        if let Some(running) = self.running.get_mut(&flight.id) {
            running.becomes(Fate::Left);
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
}

#[cfg(test)]
mod tests;
