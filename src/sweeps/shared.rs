//! What callers and threads share, under one lock, and how a caller waits.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::at_exit;
use super::batches::{Batches, Next, Turn};
use super::driver::{Batch, HostWide};
use super::worker;
use crate::cancellation::Cancellation;
use crate::error::{Error, Failure, NO_THREAD, Reason, Result, no_thread_started};
use crate::health::Health;
use crate::hypervisor::Parts;
use crate::libvirt::generation;
use crate::limits::Limits;
use crate::locks::lock;
use crate::logs::{LogRecord, add};
use crate::printable::Printable;
use crate::records::InstanceId;

/// So many hosts are asked at once: the largest pool's 64 in two turns, also while some of them hang.
pub(super) const MOST_THREADS: usize = 40;
/// So many instances are read by themselves at a time, as all of them may be of hosts that hang: the other
/// threads are for hosts.
pub(super) const MOST_ALONE: usize = MOST_THREADS / 4 * 3;
/// So many of them of one host: the other places are for those of hosts that answer.
pub(super) const MOST_ALONE_OF_A_HOST: usize = MOST_ALONE / 2;
/// So many of them for nobody: whoever waits for one does not wait for those as well.
pub(super) const MOST_FOR_NOBODY: usize = MOST_ALONE / 3;

pub(super) struct Shared<H> {
    pub(super) driver: H,
    uri: String,
    pub(super) limits: Limits,
    state: Mutex<State>,
    /// Told when something was read, or was not.
    pub(super) read: Condvar,
    /// Told when there is something to read.
    pub(super) work: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) batches: Batches,
    /// What waits for a thread.
    pub(super) queue: VecDeque<Batch>,
    pub(super) threads: usize,
    pub(super) idle: usize,
    /// What of that is to be read for nobody.
    for_nobody: HashSet<Batch>,
    /// The instances that are being read by themselves.
    alone: Vec<Alone>,
    pub(super) ended: bool,
    /// Whether the last thread that was wanted could not be started.
    short_of_threads: bool,
    /// How many are logging out, how many have, and when one last began to.
    closing: usize,
    closed: u64,
    close_begun: Option<Instant>,
    /// When a caller last asked for anything.
    asked: Option<Instant>,
    /// How many callers wait, and when one of them, or a thread, was last awake.
    waiting: usize,
    awake: Option<Instant>,
    /// When this process was last found to go on after it was stopped.
    woken: Option<Instant>,
    pub(super) log: Vec<LogRecord>,
    handed_out: u64,
    pub(super) timeouts: u64,
}

/// An instance that is being read by itself.
struct Alone {
    batch: Batch,
    host: Uuid,
    /// Whether nobody waits for it.
    for_nobody: bool,
}

impl State {
    /// Whether what waits first is what everybody waits for.
    pub(super) fn is_urgent(&self) -> bool {
        self.queue.front() == Some(&Batch::Inventory)
    }

    /// Has it wait for a thread, if one may still read it.
    fn enters_queue(&mut self, batch: Batch, now: Instant) -> bool {
        if at_exit::is_too_late() {
            return false;
        }
        self.batches.ordered(batch, now);
        // Everybody waits for the inventory.
        match batch {
            Batch::Inventory => self.queue.push_front(batch),
            _ => self.queue.push_back(batch),
        }
        true
    }

    /// Orders what is to be read for nobody: behind all else, and one at a time of a host that does not answer
    /// about such, to see whether it does again. No other thread is found for it than the one that asks for that.
    pub(super) fn order_for_nobody(&mut self, batches: Vec<Batch>) {
        let now = Instant::now();
        for batch in batches {
            let turn = match batch {
                Batch::Instance { host, .. } => self.batches.turn(host, batch),
                _ => Turn::Wait,
            };
            let next = self.batches.next(batch, (now, now), Duration::ZERO, now);
            if turn != Turn::Skip && next.is_to_be_ordered() && self.enters_queue(batch, now) {
                self.for_nobody.insert(batch);
            }
        }
    }

    /// What a thread is to read next.
    pub(super) fn take_from_queue(&mut self) -> Option<Batch> {
        let place = self.queue.iter().position(|batch| self.may_be_read(*batch))?;
        let batch = self.queue.remove(place)?;
        let for_nobody = self.for_nobody.remove(&batch);
        if let Batch::Instance { host, .. } = batch {
            self.alone.push(Alone { batch, host, for_nobody });
        }
        Some(batch)
    }

    /// Whether there is a place for it.
    fn may_be_read(&self, batch: Batch) -> bool {
        let Batch::Instance { host, .. } = batch else { return true };
        let count =
            |is_such: &dyn Fn(&Alone) -> bool| self.alone.iter().filter(|one| is_such(one)).count();
        self.alone.len() < MOST_ALONE
            && count(&|one| one.host == host) < MOST_ALONE_OF_A_HOST
            && (!self.for_nobody.contains(&batch) || count(&|one| one.for_nobody) < MOST_FOR_NOBODY)
    }

    /// Whether it is being read for nobody.
    pub(super) fn is_for_nobody(&self, batch: Batch) -> bool {
        self.alone.iter().any(|one| one.batch == batch && one.for_nobody)
    }

    /// Notes that a thread has read that, or has failed to.
    pub(super) fn ends(&mut self, batch: Batch) {
        self.alone.retain(|one| one.batch != batch);
    }

    /// Somebody waits for this: it comes before what is read for nobody yet.
    fn comes_first(&mut self, batch: Batch) {
        self.for_nobody.remove(&batch);
        for one in self.alone.iter_mut().filter(|one| one.batch == batch) {
            one.for_nobody = false;
        }
        if let Some(place) = self.queue.iter().position(|queued| *queued == batch) {
            self.queue.remove(place);
            self.queue.insert(usize::from(self.is_urgent()), batch);
        }
    }

    /// Has something logged by the next caller.
    pub(super) fn say(&mut self, level: log::Level, line: String) {
        add(&mut self.log, level, line);
    }

    /// How often the session was closed: what begins now may fail if that comes to be more.
    pub(super) fn closed(&self) -> u64 {
        self.closed
    }

    /// Whether a session was closed that something may have used that began then.
    pub(super) fn was_closed_since(&self, closed: u64) -> bool {
        self.closing > 0 || self.closed != closed
    }

    /// A caller or a thread wakes up, and learns whether this process was stopped (Ctrl-Z, a paused
    /// container), or had no CPU, at some time since then: deadlines have passed that nobody had the time to
    /// meet. It shows where callers wait, and none of them was awake for longer than they sleep; a signal's handler
    /// that takes long looks the same.
    pub(super) fn wakes(&mut self, since: Instant, limits: &Limits, now: Instant) -> bool {
        let longest = limits.slow() + limits.stopped();
        let is_late = |awake: Instant| now.saturating_duration_since(awake) > longest;
        if self.waiting > 0 && self.awake.is_some_and(is_late) {
            self.woken = Some(now);
        }
        self.awake = Some(now);
        self.woken.is_some_and(|woken| woken >= since)
    }

    /// Whether a thread is in the middle of a batch.
    pub(super) fn is_reading(&self) -> bool {
        self.threads > self.idle
    }

    /// Whether a caller waits for anything, or has asked since the session was last closed.
    pub(super) fn needs_session(&self) -> bool {
        self.waiting > 0 || self.asked > self.close_begun
    }

    fn begins_to_wait(&mut self, now: Instant) {
        if self.waiting == 0 {
            self.awake = Some(now);
        }
        self.waiting += 1;
    }
}

impl<H: HostWide> Shared<H> {
    pub(super) fn new(driver: H, uri: String, limits: Limits) -> Self {
        let (read, work) = (Condvar::new(), Condvar::new());
        Self { driver, uri, limits, state: Mutex::default(), read, work }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Waits until this was read no longer than `max_age` before it was asked for, and returns when that
    /// was begun.
    pub(super) fn have(self: &Arc<Self>, batch: Batch, asked: Instant) -> Result<Instant> {
        let oldest = asked.checked_sub(self.limits.max_age()).unwrap_or(asked);
        self.have_since(batch, asked, oldest)
    }

    /// The same for what was begun no earlier than `oldest`.
    pub(super) fn have_since(
        self: &Arc<Self>,
        batch: Batch,
        asked: Instant,
        oldest: Instant,
    ) -> Result<Instant> {
        let begun = Instant::now();
        let too_old = asked.checked_sub(self.limits.max_age()).unwrap_or(asked);
        let mut cancellation = Cancellation::new(self.limits);
        let mut state = self.lock();
        state.asked = Some(begun);
        let longest = self.limits.timeout() + self.driver.patience(batch);
        let (mut until, mut was_stopped) = (begun + longest, false);
        let (mut has_come_first, mut is_its) = (false, false);
        loop {
            let now = Instant::now();
            // One that was begun before may have to end first, and then there is one of its own.
            let since = state.batches.begun(batch).filter(|since| *since > begun && !is_its);
            if let Some(since) = since {
                (until, is_its) = (until.max(since + longest), true);
            }
            match state.batches.next(batch, (asked, oldest), self.limits.slow(), now) {
                Next::Read(read) => return Ok(read),
                Next::Failed { error, order } => {
                    if order {
                        self.order(&mut state, batch, now);
                    } else if !state.queue.is_empty() {
                        // It may be there still as no thread could be started for it.
                        self.find_thread(&mut state, now);
                    }
                    return Err(error);
                }
                Next::Wait { order } => {
                    if order {
                        self.order(&mut state, batch, now);
                        if matches!(batch, Batch::Host(_)) {
                            for other in state.batches.in_use(oldest.min(too_old)) {
                                self.order(&mut state, other, now);
                            }
                        }
                    }
                    // Another thread may order it for nobody while this caller sleeps.
                    let is_first = !std::mem::replace(&mut has_come_first, true);
                    if is_first || state.for_nobody.contains(&batch) {
                        state.comes_first(batch);
                        self.work.notify_one();
                    }
                    if now >= until {
                        state.timeouts += 1;
                        // A login may take far longer, and fails by itself only after that.
                        let is_logging_in = batch == Batch::Inventory
                            && state.batches.begun(batch).is_some()
                            && !self.driver.sessions().is_open;
                        let error = self.too_late(&state, longest, is_logging_in);
                        if state.batches.is_late(batch, &error, is_logging_in, now) {
                            self.tell(&mut state, batch, Some(&error));
                        }
                        return Err(error);
                    }
                    let left = until - now;
                    state.begins_to_wait(now);
                    state = self
                        .read
                        .wait_timeout(state, left.min(self.limits.slow()))
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                    if !state.queue.is_empty() {
                        self.find_thread(&mut state, Instant::now());
                    }
                    let mut goes_on = Ok(());
                    if cancellation.is_due() {
                        drop(state);
                        let before = generation();
                        goes_on = cancellation.check();
                        if generation() != before {
                            // A signal's handler has forked, and this is the child: nobody reads here.
                            return Err(Error::Interrupted);
                        }
                        state = self.lock();
                    }
                    let now = Instant::now();
                    // Once: where there is no CPU at all, a caller gives up in the end.
                    if state.wakes(begun, &self.limits, now) && !was_stopped {
                        (until, was_stopped) = (now + longest, true);
                    }
                    state.waiting -= 1;
                    goes_on?;
                }
            }
        }
    }

    /// Where an instance has to be read by itself, those that come after it are read at the same time.
    pub(super) fn read_ahead(
        self: &Arc<Self>,
        part: Parts,
        batch: Batch,
        instance: Uuid,
        asked: Instant,
    ) {
        let oldest = asked.checked_sub(self.limits.max_age()).unwrap_or(asked);
        if self.lock().batches.read_since(batch, oldest).is_none() {
            let next = self.driver.after(instance, self.limits.read_ahead());
            self.expect(part, &next, asked);
        }
    }

    /// Whether an instance of a host is to be read by itself, and waited for.
    pub(super) fn is_waited_for(
        self: &Arc<Self>,
        host: Uuid,
        batch: Batch,
        asked: Instant,
    ) -> bool {
        let now = Instant::now();
        let oldest = asked.checked_sub(self.limits.max_age()).unwrap_or(asked);
        let mut state = self.lock();
        let next = state.batches.next(batch, (asked, oldest), Duration::ZERO, now);
        if let Next::Read(_) = next {
            // Which says nothing of how its host answers now.
            return true;
        }
        let turn = state.batches.turn(host, batch);
        if turn == Turn::Try && next.is_to_be_ordered() {
            self.order(&mut state, batch, now);
        }
        turn == Turn::Wait
    }

    /// Has everything read that is wanted of these instances, and waits for none of it. What is read after
    /// something else is not ordered before that is there.
    pub(super) fn expect(self: &Arc<Self>, part: Parts, instances: &[InstanceId], asked: Instant) {
        let wanted = instances.iter().map(|each| self.driver.batches(part, each));
        let wanted: Vec<_> = wanted.filter_map(Result::ok).collect();
        self.expect_batches(&mut self.lock(), wanted, asked);
    }

    /// The same for batches of which each is wanted after the one before it in its list.
    pub(super) fn expect_batches(
        self: &Arc<Self>,
        state: &mut State,
        wanted: impl IntoIterator<Item = Vec<Batch>>,
        asked: Instant,
    ) {
        let now = Instant::now();
        let oldest = asked.checked_sub(self.limits.max_age()).unwrap_or(asked);
        for batches in wanted {
            for batch in batches {
                if state.batches.is_in_vain(batch) {
                    break;
                }
                let next = state.batches.next(batch, (asked, oldest), Duration::ZERO, now);
                if next.is_to_be_ordered() {
                    self.order(state, batch, now);
                }
                if !matches!(next, Next::Read(_)) {
                    break;
                }
            }
        }
    }

    /// Has hosts that failed tried again, and forgets those that have left. Nobody else may ask for one
    /// from which all instances were moved away.
    pub(super) fn try_again(self: &Arc<Self>) {
        let now = Instant::now();
        let mut state = self.lock();
        state.batches.forget_hosts(|host| self.driver.host_name(host).is_some());
        for batch in state.batches.due(now) {
            self.order(&mut state, batch, now);
        }
    }

    /// Finds a thread that reads it; at the end of the program, whoever waits for it runs out of time.
    fn order(self: &Arc<Self>, state: &mut State, batch: Batch, now: Instant) {
        if state.enters_queue(batch, now) {
            self.find_thread(state, now);
        }
    }

    /// Finds a thread for what waits for one, if there are not enough.
    fn find_thread(self: &Arc<Self>, state: &mut State, now: Instant) {
        self.work.notify_one();
        if state.queue.len() - state.for_nobody.len() <= state.idle {
            return;
        }
        let most = self.most_threads(state, now) + usize::from(state.is_urgent());
        if state.threads < most {
            let started = worker::spawn(self);
            let was_short = std::mem::replace(&mut state.short_of_threads, started.is_err());
            match started {
                Ok(()) => state.threads += 1,
                // Those that there are must do; without any, the caller's time runs out.
                Err(problem) if !was_short => {
                    let line = no_thread_started(&problem, state.threads);
                    state.say(log::Level::Warn, line);
                }
                Err(_) => {}
            }
        }
    }

    /// Logs out. What waits for a thread is forgotten, as it would log in again: whoever still wants it
    /// orders it anew.
    pub(super) fn close(&self, deadline: Instant) -> Result<()> {
        let mut state = self.lock();
        for batch in std::mem::take(&mut state.queue) {
            state.batches.is_not_ordered(batch);
        }
        state.for_nobody.clear();
        state.closing += 1;
        state.close_begun = Some(Instant::now());
        drop(state);
        let answer = self.driver.close(deadline);
        let mut state = self.lock();
        state.closing -= 1;
        state.closed += 1;
        answer
    }

    /// Whether a thread is in the middle of a batch.
    pub(super) fn is_reading(&self) -> bool {
        self.lock().is_reading()
    }

    /// How many threads there may be: as many as the driver wants, and those that what does not answer holds
    /// up.
    pub(super) fn most_threads(&self, state: &State, now: Instant) -> usize {
        let held_up = state.batches.held_up(self.limits.timeout() / 2, now);
        MOST_THREADS.min(self.driver.in_flight() + state.batches.retried() + held_up)
    }

    pub(super) fn read_since(&self, batch: Batch, since: Instant) -> Option<Instant> {
        self.lock().batches.read_since(batch, since)
    }

    pub(super) fn handed_out(&self) {
        self.lock().handed_out += 1;
    }

    /// What an instance's question is answered whose batch was not read.
    pub(super) fn no_data(&self, batch: Batch, instance: &InstanceId, error: &Error) -> Error {
        let failure = Failure::from(error);
        let instance = instance.clone();
        let reason = match batch {
            Batch::Host(host) | Batch::About(host) => {
                Reason::HostAway { host: self.name(host), failure }
            }
            Batch::Inventory | Batch::Instance { .. } => Reason::Refused(failure),
        };
        Error::NoData { instance, reason }
    }

    /// What the log is to say of what was read or was not.
    pub(super) fn tell(&self, state: &mut State, batch: Batch, error: Option<&Error>) {
        let what = match batch {
            Batch::Inventory => None,
            Batch::Host(host) => match self.driver.host_name(host) {
                // It has left meanwhile, or they are asked apart from now on, and each is told of by itself.
                None => return,
                name => name,
            },
            Batch::About(_) | Batch::Instance { .. } => return,
        };
        let (level, line) = match (what, error) {
            (None, Some(error)) => (log::Level::Warn, error.to_string()),
            (None, None) => (log::Level::Info, format!("{} answers again", self.uri)),
            (Some(host), Some(error)) => {
                let line = format!(
                    "host {} does not answer, and its instances are left out: {}; virtmeter goes on \
                     trying",
                    Printable(&host),
                    Failure::from(error),
                );
                (log::Level::Warn, line)
            }
            (Some(host), None) => {
                (log::Level::Info, format!("host {} answers again", Printable(&host)))
            }
        };
        state.say(level, line);
    }

    fn name(&self, host: Uuid) -> String {
        self.driver.host_name(host).unwrap_or_else(|| host.to_string())
    }

    pub(super) fn take_log(&self) -> Vec<LogRecord> {
        std::mem::take(&mut self.lock().log)
    }

    pub(super) fn health(&self) -> Health {
        let sessions = self.driver.sessions();
        let calls = self.driver.calls();
        let state = self.lock();
        let now = Instant::now();
        let mut health = Health {
            connections: sessions.is_open.into(),
            opened: sessions.opened,
            threads: state.threads,
            handed_out: state.handed_out,
            timeouts: state.timeouts,
            calls,
            ..Health::default()
        };
        for (batch, failed) in state.batches.failing() {
            let since = now.saturating_duration_since(failed.since);
            let failure = Failure::from(&failed.error);
            match batch {
                Batch::Inventory => health.outage = Some((failure, since)),
                Batch::Host(host) => {
                    let name = self.driver.host_name(host);
                    health.away.extend(name.map(|name| (name, failure, since)));
                }
                Batch::About(_) | Batch::Instance { .. } => {}
            }
        }
        health.away.sort_by(|one, other| one.0.cmp(&other.0));
        health
    }

    /// Has all threads end.
    pub(super) fn end(self: &Arc<Self>) {
        let mut state = self.lock();
        state.ended = true;
        state.queue.clear();
        state.for_nobody.clear();
        if state.threads == 0 && self.driver.sessions().is_open && worker::spawn(self).is_ok() {
            state.threads += 1;
        }
        drop(state);
        self.work.notify_all();
    }

    /// What a caller is told whose time is over while something is still being read.
    fn too_late(&self, state: &State, longest: Duration, is_logging_in: bool) -> Error {
        let still = if is_logging_in { ": it is still being logged in to" } else { "" };
        let failure = if state.threads == 0 && state.short_of_threads {
            Failure::of(NO_THREAD)
        } else {
            Failure::of(format!("no answer within {longest:?}{still}"))
        };
        Error::ConnectionLost { uri: self.uri.clone(), instance: None, failure }
    }
}
