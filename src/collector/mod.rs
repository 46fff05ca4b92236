//! When and how a reading is taken: ahead of its caller, with a deadline, and around what hangs.
//!
//! Callers and threads meet at the [`Desk`], which decides everything and knows neither. Here are
//! the threads: workers, each with a connection of its own, take the readings; one more asks after
//! what does not answer, and only exists once something has not.

mod desk;
mod health;
mod limits;
mod order;
mod outage;
mod quarantine;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::error::{Error, Failure, Result};
use crate::hypervisor::{Connection, Hypervisor, Moment, Notes};
use crate::per_process::PerProcess;
use crate::records::{
    Disk, DiskInfo, Instance, InstanceId, InstanceStats, Interface, ServerDescription, VmCounters,
};
use desk::{Desk, Job, Outcome, Probe, Turn};
pub use health::Health;
pub use limits::{InvalidLimit, Limits};

/// Asked by a caller every now and then, while it waits, whether it is to go on.
static STILL_WANTED: OnceLock<fn() -> bool> = OnceLock::new();

/// Sets who is asked, once for the process: a caller who is told `false` gives up its question.
#[cfg(any(feature = "python", test))]
pub(crate) fn ask_while_waiting(wanted: fn() -> bool) {
    STILL_WANTED.get_or_init(|| wanted);
}

/// Looks every now and then whether a caller still wants an answer. It costs Python's GIL, so it is not
/// done for each part of a long one.
pub(crate) struct Cancellation {
    every: Duration,
    looked: Instant,
}

impl Cancellation {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { every: limits.slow(), looked: Instant::now() }
    }

    /// Whether it is time to look.
    fn is_due(&self) -> bool {
        self.looked.elapsed() >= self.every
    }

    /// Looks if it is time to.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the caller does not want the answer any more.
    pub(crate) fn check(&mut self) -> Result<()> {
        if !self.is_due() {
            return Ok(());
        }
        self.looked = Instant::now();
        if STILL_WANTED.get().is_none_or(|wanted| wanted()) {
            Ok(())
        } else {
            Err(Error::Interrupted)
        }
    }
}

/// What is read for housekeeping is ordered no more often than that.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// Some hosts can be given more CPUs while they run.
const HOST_CPUS_KEPT: Duration = Duration::from_secs(60);
/// Closing is a round trip. A hypervisor that does not answer it is left behind after this.
const CLOSING: Duration = Duration::from_secs(1);
/// Probing threads that may be stuck with guests at a time, and those that may be stuck at all: the
/// more there are, the longer the next one waits.
const PROBERS: usize = 3;
const MOST_PROBERS: usize = 16;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    List,
    /// For housekeeping, which nobody waits for: the list, and how many CPUs the host has.
    Existing,
    HostCpus,
    Server,
    Instance,
    Nics,
    Disks,
    DiskInfo,
    Usage,
}

impl Kind {
    /// Whether it has to wait for the guest's process.
    fn needs_guest(self) -> bool {
        matches!(self, Self::Instance | Self::Disks | Self::DiskInfo | Self::Usage)
    }

    /// Whether no caller asks it.
    fn is_housekeeping(self) -> bool {
        matches!(self, Self::Existing | Self::HostCpus)
    }

    /// Whether there is something to tell of a guest that hangs.
    fn knows_hung(self) -> bool {
        !matches!(self, Self::Disks | Self::DiskInfo)
    }
}

/// What is asked about which instance; about none with the nil UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    uuid: Uuid,
}

/// The answer to a question of each kind.
pub(crate) enum Reading {
    List(Vec<Instance>),
    Server(Option<ServerDescription>),
    Instance(InstanceStats),
    Nics(Vec<Interface>),
    Disks(Vec<Disk>),
    DiskInfo(Vec<DiskInfo>),
    Usage(VmCounters),
    HostCpus(Option<u32>),
}

/// The engine over a hypervisor.
pub(crate) struct Collector<H: Hypervisor> {
    hypervisor: Arc<H>,
    limits: Limits,
    here: PerProcess<Arc<Room<H>>>,
}

/// Where callers and threads meet.
struct Room<H> {
    hypervisor: Arc<H>,
    limits: Limits,
    state: Mutex<State>,
    /// Told when a caller may have its answer, when there may be work, when there may be something
    /// to probe, and when a thread has closed its connection.
    answered: Condvar,
    work: Condvar,
    probe: Condvar,
    closed: Condvar,
}

struct State {
    desk: Desk<Reading>,
    /// The open connections by the number of their thread.
    open: HashMap<u64, Open>,
    /// How often all connections were closed: older ones are closed when they are not in use.
    closings: u64,
    /// What was read for housekeeping, and when.
    existing: Option<(Instant, Vec<Instance>)>,
    host_cpus: Option<(Instant, Option<u32>)>,
    /// When each of them was last ordered, and the latter for the first time.
    ordered: HashMap<Kind, Instant>,
    host_cpus_ordered: Option<Instant>,
    /// How often a connection could not be opened: others are looked after then.
    doubts: u64,
    threads_ever: u64,
    /// The probing thread that serves, and since when it is in a call.
    prober: Option<u64>,
    probing: Option<(Instant, Uuid)>,
    probers: usize,
    /// The threads that close their connections, which may take for ever.
    leaving: usize,
    ended: bool,
}

impl State {
    /// Keeps what was read for housekeeping.
    fn keep(&mut self, outcome: &mut Outcome<Reading>) {
        let asked = outcome.notes.earliest().unwrap_or_else(Instant::now);
        match &mut outcome.answer {
            Ok(Reading::List(instances)) => {
                self.existing = Some((asked, std::mem::take(instances)));
            }
            Ok(Reading::HostCpus(cpus)) => {
                let before = self.host_cpus.replace((asked, *cpus));
                // A refusal is said once, and not every time.
                if before.is_none_or(|(_, before)| before.is_some()) {
                    for line in outcome.notes.lines.drain(..) {
                        self.desk.tell(log::Level::Warn, line);
                    }
                }
            }
            _ => {}
        }
    }

    fn use_connection(&mut self, thread: u64, in_use: bool) {
        if let Some(open) = self.open.get_mut(&thread) {
            open.in_use = in_use;
        }
    }
}

#[derive(Clone, Copy)]
struct Open {
    closings: u64,
    doubts: u64,
    in_use: bool,
    /// Whether readings are taken over it; else it is the probing thread's.
    serves: bool,
}

impl<H: Hypervisor> Collector<H> {
    pub(crate) fn new(hypervisor: H, limits: Limits) -> Self {
        let hypervisor = Arc::new(hypervisor);
        let shared = Arc::clone(&hypervisor);
        let here = PerProcess::new(move || Arc::new(Room::new(Arc::clone(&shared), limits)));
        Self { hypervisor, limits, here }
    }

    pub(crate) fn hypervisor(&self) -> &H {
        &self.hypervisor
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Every instance that the hypervisor knows, and since when that was asked for.
    pub(crate) fn list(&self) -> Result<(Vec<Instance>, Instant)> {
        let (list, moment) = self.ask_at(Kind::List, &Uuid::nil().into())?;
        let Reading::List(instances) = list else { return Ok((Vec::new(), moment.earliest)) };
        let room = self.here.with(Arc::clone);
        room.lock().desk.listed(ids(&instances), moment.earliest);
        Ok((instances, moment.earliest))
    }

    /// A list of the instances that exist, if one was asked for since, and when. Else one is ordered,
    /// and nobody waits for it.
    pub(crate) fn what_exists(&self, since: Instant) -> Option<(Vec<Instance>, Instant)> {
        let room = self.here.with(Arc::clone);
        let mut state = room.lock();
        let Some((asked, instances)) = state.existing.take().filter(|(asked, _)| *asked >= since)
        else {
            room.keep_house(&mut state, Kind::Existing);
            return None;
        };
        state.desk.listed(ids(&instances), asked);
        Some((instances, asked))
    }

    /// How many CPUs the host has, as far as that is known. Only the first answer is waited for, and
    /// just for a moment.
    pub(crate) fn host_cpus(&self) -> Option<u32> {
        let room = self.here.with(Arc::clone);
        let (mut state, now) = (room.lock(), Instant::now());
        let age = |then: Instant| now.saturating_duration_since(then);
        if state.host_cpus.is_none_or(|(asked, _)| age(asked) >= HOST_CPUS_KEPT) {
            room.keep_house(&mut state, Kind::HostCpus);
        }
        let ordered = *state.host_cpus_ordered.get_or_insert(now);
        let moment = self.limits.slow().saturating_sub(age(ordered));
        let unknown = |state: &mut State| state.host_cpus.is_none();
        let waited = room.answered.wait_timeout_while(state, moment, unknown);
        waited.unwrap_or_else(PoisonError::into_inner).0.host_cpus.and_then(|(_, cpus)| cpus)
    }

    /// The caller is about to ask this of all these instances, one after the other: that much is
    /// read ahead, and nothing for its next time.
    pub(crate) fn expect(&self, kind: Kind, instances: &[InstanceId]) {
        let room = self.here.with(Arc::clone);
        let caller = thread::current().id();
        room.lock().desk.expect(caller, kind, instances, Instant::now());
    }

    /// The answer to a question about an instance, within the timeout (or twice that, where the
    /// first answer is that it hangs), and when its values were measured at the latest.
    pub(crate) fn ask(&self, kind: Kind, instance: &InstanceId) -> Result<(Reading, Instant)> {
        self.ask_at(kind, instance).map(|(reading, moment)| (reading, moment.latest))
    }

    fn ask_at(&self, kind: Kind, instance: &InstanceId) -> Result<(Reading, Moment)> {
        let room = self.here.with(Arc::clone);
        let outcome = room.wait_for(Key { kind, uuid: instance.uuid }, instance);
        let Notes { lines, moment } = outcome.notes;
        log_all(lines.into_iter().map(|line| (log::Level::Warn, line)));
        let now = Instant::now();
        let moment = moment.unwrap_or(Moment { earliest: now, latest: now });
        outcome.answer.map(|reading| (reading, moment))
    }

    pub(crate) fn health(&self) -> Health {
        let room = self.here.with(Arc::clone);
        let state = room.lock();
        let mut health = state.desk.health(Instant::now());
        health.connections = state.open.len();
        health.calls = self.hypervisor.calls();
        unlock_and_log(state);
        health
    }

    /// Whether a connection is open, as far as is known here.
    pub(crate) fn is_connected(&self) -> bool {
        let room = self.here.with(Arc::clone);
        let state = room.lock();
        state.desk.is_reachable() && state.open.values().any(|open| open.closings == state.closings)
    }

    /// Closes all connections, those in use when they are not any more.
    pub(crate) fn close(&self) {
        self.here.with(Arc::clone).close();
    }
}

impl<H: Hypervisor> Drop for Collector<H> {
    /// The threads end by themselves, as soon as they are not in a call.
    fn drop(&mut self) {
        let room = self.here.with(Arc::clone);
        room.lock().ended = true;
        drop(room.begin_anew());
    }
}

impl<H: Hypervisor> Room<H> {
    fn new(hypervisor: Arc<H>, limits: Limits) -> Self {
        let state = State {
            desk: Desk::new(hypervisor.uri(), limits),
            open: HashMap::new(),
            closings: 0,
            existing: None,
            host_cpus: None,
            ordered: HashMap::new(),
            host_cpus_ordered: None,
            doubts: 0,
            threads_ever: 0,
            prober: None,
            probing: None,
            probers: 0,
            leaving: 0,
            ended: false,
        };
        Self {
            hypervisor,
            limits,
            state: Mutex::new(state),
            answered: Condvar::new(),
            work: Condvar::new(),
            probe: Condvar::new(),
            closed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A caller's way through the room.
    fn wait_for(self: &Arc<Self>, key: Key, instance: &InstanceId) -> Outcome<Reading> {
        let mut state = self.lock();
        let mut cancellation = Cancellation::new(self.limits);
        let mut ticket = state.desk.ask(thread::current().id(), key, instance, Instant::now());
        loop {
            let now = Instant::now();
            state.desk.hear(self.hypervisor.answered());
            match state.desk.turn(&mut ticket, now) {
                Turn::Answer(outcome) => {
                    self.send_for_threads(&mut state, now);
                    // Others may have been given up together with this one.
                    self.answered.notify_all();
                    unlock_and_log(state);
                    return outcome;
                }
                Turn::Wait(until) => {
                    if std::mem::take(&mut state.desk.forget) {
                        self.hypervisor.forget();
                    }
                    self.send_for_threads(&mut state, now);
                    let waited = self.answered.wait_timeout(state, until.duration_since(now));
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    // However often it is woken meanwhile, by the answers of others.
                    if cancellation.is_due() {
                        drop(state);
                        let goes_on = cancellation.check();
                        state = self.lock();
                        if let Err(interrupted) = goes_on {
                            state.desk.leave(&ticket);
                            return interrupted.into();
                        }
                    }
                }
            }
        }
    }

    /// Orders something for housekeeping; now and then, as it may fail each time.
    fn keep_house(self: &Arc<Self>, state: &mut State, kind: Kind) {
        let now = Instant::now();
        let age = |then: &Instant| now.saturating_duration_since(*then);
        if state.ordered.get(&kind).is_none_or(|then| age(then) >= HOUSEKEEPING) {
            state.ordered.insert(kind, now);
            state.desk.keep_house(kind, now);
            self.send_for_threads(state, now);
        }
    }

    /// Wakes or starts as many threads as there is work for.
    fn send_for_threads(self: &Arc<Self>, state: &mut State, now: Instant) {
        self.wake(state);
        while state.desk.needs_thread(now) && !state.ended {
            state.threads_ever += 1;
            let number = state.threads_ever;
            let room = Arc::clone(self);
            let thread = thread::Builder::new().name("virtmeter-read".to_owned());
            let started = thread.spawn(move || room.work(number));
            state.desk.started_thread(started.as_ref().err());
            if started.is_err() {
                // Those that there are must do; without any, the caller's time runs out.
                return;
            }
            state.desk.threads += 1;
            state.desk.idle += 1;
        }
        if state.desk.wants_probe(now) && !state.ended {
            // Asking after a guest should take no time, and reaching the hypervisor not much.
            let (guest, nobody) = (self.limits.timeout / 4, 2 * self.limits.timeout);
            let connects = state.probing.is_some_and(|(since, about)| {
                about.is_nil() && now.saturating_duration_since(since) >= guest
            });
            if connects && !state.desk.is_heard(now) {
                // That may hang where nothing else does: the others look whether theirs serve.
                state.doubts += 1;
                self.work.notify_all();
            }
            let stuck = state.probing.filter(|(since, about)| {
                let more = state.probers.saturating_sub(PROBERS - 1).min(MOST_PROBERS);
                let long = if about.is_nil() { nobody * (1 << more) } else { guest };
                now.saturating_duration_since(*since) >= long
            });
            if (state.prober.is_none() || stuck.is_some()) && state.probers < MOST_PROBERS {
                if let Some((_, instance)) = stuck {
                    state.desk.leave_unprobed(instance);
                }
                state.threads_ever += 1;
                let number = state.threads_ever;
                let room = Arc::clone(self);
                let thread = thread::Builder::new().name("virtmeter-probe".to_owned());
                if thread.spawn(move || room.probe(number)).is_ok() {
                    state.prober = Some(number);
                    state.probing = None;
                    state.probers += 1;
                }
            }
            self.probe.notify_all();
        }
    }

    /// Wakes as many threads as there are readings to begin.
    fn wake(&self, state: &State) {
        for _ in 0..state.desk.startable(state.desk.idle) {
            self.work.notify_one();
        }
    }

    /// A worker: takes readings, one after the other, over its own connection.
    fn work(self: Arc<Self>, number: u64) {
        let mut line = Line { room: Arc::clone(&self), number, connection: None, serves: true };
        let mut state = self.lock();
        // Hanging up may take for ever: it is the last thing that a thread does.
        while !line.is_over(&state) {
            if line.is_good(&state) {
                if let Some(job) = state.desk.start(Instant::now()) {
                    state = self.read(&mut line, &job, state);
                    // Not at any other time: one that was woken for a reading must take it.
                    if state.desk.has_thread_to_spare(Instant::now()) {
                        break;
                    }
                    continue;
                }
            } else if line.connection.is_some() || state.desk.is_worth_dialing(Instant::now()) {
                let goes_on;
                (state, goes_on) = self.prepare(&mut line, state);
                if !goes_on {
                    break;
                }
                continue;
            } else if state.desk.startable(1) > 0 && state.desk.is_reachable() {
                // It was woken for a reading that only one with a connection can take.
                break;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.desk.threads -= 1;
        state.desk.idle -= 1;
        // Where its connection was closed, others go on.
        self.send_for_threads(&mut state, Instant::now());
        line.leave(state);
    }

    /// Has a good connection made before any reading is begun, so that one that cannot be had delays
    /// none; false if the thread is not to go on without one.
    fn prepare<'a>(
        &'a self,
        line: &mut Line<H>,
        mut state: MutexGuard<'a, State>,
    ) -> (MutexGuard<'a, State>, bool) {
        state.desk.dial(line.number, Instant::now());
        // What it was woken for need not wait for that.
        self.wake(&state);
        drop(state);
        let good = line.make_good();
        state = self.lock();
        state.desk.dialed(line.number, matches!(good, Ok(true)), Instant::now());
        let mut goes_on = true;
        match good {
            // It was opened for this reading, even if all were closed meanwhile.
            Ok(true) => {
                if let Some(job) = state.desk.start(Instant::now()) {
                    state = self.read(line, &job, state);
                }
            }
            Ok(false) => {}
            // Others serve, and there may be too many of them.
            Err(Error::ConnectionLost { .. }) => goes_on = !state.desk.is_reachable(),
            Err(error) => {
                if let Some(job) = state.desk.start(Instant::now()) {
                    state.desk.finish(&job, error.into(), Instant::now());
                }
            }
        }
        self.answered.notify_all();
        (state, goes_on)
    }

    /// Has one reading taken.
    fn read<'a>(
        &'a self,
        line: &mut Line<H>,
        job: &Job,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        state.desk.idle -= 1;
        state.use_connection(line.number, true);
        drop(state);
        let mut outcome = line.take(job);
        state = self.lock();
        state.use_connection(line.number, false);
        state.desk.idle += 1;
        if job.key.kind.is_housekeeping() {
            state.keep(&mut outcome);
        }
        if state.desk.finish(job, outcome, Instant::now()) || job.key.kind.is_housekeeping() {
            self.answered.notify_all();
        }
        // One is for this thread; more may wait for what it has just finished.
        if state.desk.startable(2) > 1 {
            self.wake(&state);
        }
        state
    }

    /// The probing thread: asks after what does not answer.
    fn probe(self: Arc<Self>, number: u64) {
        let mut line = Line { room: Arc::clone(&self), number, connection: None, serves: false };
        let mut state = self.lock();
        loop {
            // Another one has taken over while this one was stuck.
            if line.is_over(&state) || state.prober != Some(number) {
                break;
            }
            let now = Instant::now();
            // This one must come back, as not many more there can be.
            let careful = state.probers >= PROBERS;
            let question = match state.desk.probe(now, careful) {
                Probe::Rest => {
                    state = self.probe.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                Probe::Wait(until) => {
                    let waited = self.probe.wait_timeout(state, until.duration_since(now));
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
                Probe::Ask(instance) => Some(instance),
                Probe::Reach => None,
            };
            let anyone = InstanceId::from(Uuid::nil());
            let about = question.as_ref().unwrap_or(&anyone);
            state.probing = Some((now, about.uuid));
            drop(state);
            let answer = line.ask(|connection| connection.is_free(about));
            state = self.lock();
            state.desk.hear(self.hypervisor.answered());
            if state.prober == Some(number) {
                state.probing = None;
            }
            match question {
                Some(instance) => state.desk.probed(&instance, &answer, Instant::now()),
                None => state.desk.reached(answer.map(|_| ()), Instant::now()),
            }
            self.answered.notify_all();
        }
        state.probers -= 1;
        if state.prober == Some(number) {
            state.prober = None;
        }
        self.send_for_threads(&mut state, Instant::now());
        line.leave(state);
    }

    /// A connection could not be opened: the others are to be looked after, too.
    fn refused(&self, state: &mut State, failure: &Failure) {
        state.doubts += 1;
        let open = state.open.values().filter(|open| open.serves).count();
        // Not those that a call hangs in.
        let serving = open.saturating_sub(state.desk.stuck());
        state.desk.refused(failure, serving, Instant::now());
        self.work.notify_all();
    }

    /// Has all connections closed, those in use when they are not any more.
    fn begin_anew(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.closings += 1;
        state.desk.begin_anew();
        self.hypervisor.forget();
        self.work.notify_all();
        self.probe.notify_all();
        state
    }

    /// As above, and waits a while for those that are not in use. Once a hypervisor has used up that
    /// time, the next ones get little of it: an interpreter may end with many inspectors.
    fn close(&self) {
        static ANSWERED: AtomicBool = AtomicBool::new(true);
        let patience = if ANSWERED.load(Relaxed) { CLOSING } else { CLOSING / 20 };
        let unused = |state: &mut State| {
            let closings = state.closings;
            state.open.values().any(|open| open.closings < closings && !open.in_use)
        };
        let waited = self.closed.wait_timeout_while(self.begin_anew(), patience, unused);
        let answered = !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out();
        ANSWERED.store(answered, Relaxed);
        if !answered {
            let line =
                format!("libvirt did not confirm within {patience:?} that a connection is closed");
            log_all([(log::Level::Warn, line)]);
        }
    }
}

/// What to ask these by.
pub(crate) fn ids(instances: &[Instance]) -> Vec<InstanceId> {
    let id =
        |instance: &Instance| InstanceId { uuid: instance.id, name: Some(instance.name.clone()) };
    instances.iter().map(id).collect()
}

/// Unlocks, and logs what has happened.
fn unlock_and_log(mut state: MutexGuard<'_, State>) {
    let news = std::mem::take(&mut state.desk.news);
    drop(state);
    log_all(news);
}

/// Logs, which is for callers alone: a log line may reach a slow handler, which no other caller is to
/// wait for, or an interpreter that ends, and takes a thread of ours, which it does not know, with it.
#[allow(clippy::disallowed_macros)]
fn log_all(lines: impl IntoIterator<Item = (log::Level, String)>) {
    for (level, line) in lines {
        log::log!(level, "{line}");
    }
}

/// A thread's connection.
struct Line<H: Hypervisor> {
    room: Arc<Room<H>>,
    number: u64,
    connection: Option<H::Connection>,
    /// Whether readings are taken over it.
    serves: bool,
}

impl<H: Hypervisor> Line<H> {
    /// Whether the connection is open and nothing speaks against it.
    fn is_good(&self, state: &State) -> bool {
        let trusted = |open: &Open| open.doubts == state.doubts;
        self.connection.as_ref().is_some_and(Connection::is_alive)
            && state.open.get(&self.number).is_some_and(trusted)
    }

    /// Looks whether the connection serves, or opens one if there is none; false if it was broken.
    fn make_good(&mut self) -> Result<bool> {
        let doubts = self.room.lock().doubts;
        match &self.connection {
            None => return self.dial().map(|_| true),
            Some(connection) if !connection.is_alive() => self.broken(),
            Some(_) => {
                let nobody = InstanceId::from(Uuid::nil());
                // Whatever it says, unless the connection breaks.
                let _ = self.ask(|connection| connection.is_free(&nobody));
            }
        }
        if let Some(open) = self.room.lock().open.get_mut(&self.number) {
            open.doubts = doubts;
        }
        Ok(self.connection.is_some())
    }

    /// Takes a reading.
    fn take(&mut self, job: &Job) -> Outcome<Reading> {
        let mut notes = Notes::default();
        let about = &job.instance;
        let answer = self.ask(|connection| {
            let begun = Instant::now();
            notes = Notes::default();
            let reading = match job.key.kind {
                Kind::List | Kind::Existing => Reading::List(connection.instances()?),
                Kind::Server => Reading::Server(connection.server(about)?),
                Kind::Instance if job.hung => Reading::Instance(connection.stats_of_hung(about)?),
                Kind::Instance => Reading::Instance(connection.instance_stats(about, &mut notes)?),
                Kind::Nics => Reading::Nics(connection.interfaces(about, &mut notes)?),
                Kind::Disks => Reading::Disks(connection.disk_stats(about, &mut notes)?),
                Kind::DiskInfo => Reading::DiskInfo(connection.disk_info(about, &mut notes)?),
                Kind::Usage if job.hung => {
                    Reading::Usage(connection.counters_of_hung(about, &mut notes)?)
                }
                Kind::Usage => Reading::Usage(connection.counters(about, &mut notes)?),
                Kind::HostCpus => Reading::HostCpus(connection.host_cpus(&mut notes)?),
            };
            if notes.moment.is_none() {
                notes.measured_since(begun);
            }
            Ok(reading)
        });
        if matches!(answer, Err(Error::ConnectionLost { .. })) && !job.key.kind.is_housekeeping() {
            // So may the others be: this reading is not to break twice by that.
            self.room.lock().doubts += 1;
        }
        Outcome { answer, notes }
    }

    /// Asks a question, over a new connection if there is none.
    fn ask<T>(&mut self, question: impl FnOnce(&mut H::Connection) -> Result<T>) -> Result<T> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.dial()?,
        };
        let answer = question(connection);
        if let Err(error @ Error::ConnectionLost { .. }) = &answer {
            let line = format!("a connection broke: {error}");
            self.room.lock().desk.tell(log::Level::Debug, line);
            self.broken();
        }
        answer
    }

    fn dial(&mut self) -> Result<&mut H::Connection> {
        // A closing that comes meanwhile is for this connection as well, and so is a doubt.
        let state = self.room.lock();
        let (closings, doubts) = (state.closings, state.doubts);
        drop(state);
        let opened = self.room.hypervisor.connect(self.room.limits.max_age);
        let mut state = self.room.lock();
        if let Err(Error::ConnectionLost { failure, .. }) = &opened {
            self.room.refused(&mut state, failure);
        }
        let connection = opened?;
        let (serves, in_use) = (self.serves, !self.serves);
        state.open.insert(self.number, Open { closings, doubts, in_use, serves });
        state.desk.opened(Instant::now());
        drop(state);
        Ok(self.connection.insert(connection))
    }

    fn broken(&mut self) {
        self.room.lock().desk.broke(Instant::now());
        self.hang_up();
    }

    fn hang_up(&mut self) {
        if self.connection.take().is_some() {
            self.room.lock().open.remove(&self.number);
            self.room.closed.notify_all();
        }
    }

    /// Hangs up as the last thing that a thread does. If too many are at that already, because a
    /// daemon does not answer it, the connection is left open: threads are bounded.
    fn leave(mut self, mut state: MutexGuard<'_, State>) {
        if state.leaving >= self.room.limits.threads() {
            state.open.remove(&self.number);
            std::mem::forget(self.connection.take());
            return;
        }
        state.leaving += 1;
        drop(state);
        self.hang_up();
        self.room.lock().leaving -= 1;
    }

    /// Whether it is to be closed: all were, or nobody needs one any more.
    fn is_over(&self, state: &State) -> bool {
        let open = state.open.get(&self.number);
        state.ended || open.is_some_and(|open| open.closings < state.closings)
    }
}
