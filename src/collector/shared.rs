//! What callers and threads share, under one lock, and how a caller waits.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::link::Open;
use super::scheduler::{Finished, Request, Scheduler, Turn};
use super::{Answer, Key, Kind, NO_INSTANCE, closing, prober, worker};
use crate::cancellation::Cancellation;
use crate::error::Failure;
use crate::hypervisor::{Hypervisor, Outcome};
use crate::libvirt::generation;
use crate::limits::{Capacity, Limits};
use crate::locks::lock;
use crate::logs::{ENGINE, LogRecord, log};
use crate::records::{Instance, InstanceId, ids};

/// What is read for housekeeping is ordered no more often than that.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// What callers and threads share.
pub(super) struct Shared<H> {
    /// That of the inspector that goes on here now.
    pub(super) hypervisor: ArcSwap<H>,
    state: Mutex<State>,
    /// Told when a caller may have its answer, when there may be work, when there may be something
    /// to probe, and when a thread has closed its connection.
    pub(super) answered: Condvar,
    pub(super) work: Condvar,
    pub(super) probe: Condvar,
    pub(super) closed: Condvar,
}

pub(super) struct State {
    pub(super) scheduler: Scheduler<Answer>,
    /// The open connections by the number of their thread.
    pub(super) open: HashMap<u64, Open>,
    /// Since when threads are opening theirs, likewise, which may take for ever.
    pub(super) opening: HashMap<u64, Instant>,
    /// How often all connections were closed: older ones are closed when they are not in use.
    pub(super) closings: u64,
    /// How often another inspector has gone on with this.
    pub(super) owners: u64,
    /// The room that they had for what hangs.
    capacity: Capacity,
    /// How often there was a reason to look whether the connections that are open still serve.
    pub(super) alarms: u64,
    /// The last list, and when it was asked for.
    pub(super) listed: Option<(Instant, Vec<Instance>)>,
    /// How many CPUs the host has, likewise, and when that was first ordered.
    pub(super) host_cpus: Option<(Instant, Option<u32>)>,
    pub(super) host_cpus_ordered: Option<Instant>,
    /// When something was last ordered for housekeeping.
    ordered: HashMap<Kind, Instant>,
    threads_ever: u64,
    /// The probing thread that serves, and since when it is in a call.
    pub(super) prober: Option<u64>,
    pub(super) probing: Option<(Instant, InstanceId)>,
    /// All of them: what each was last about, and when it has begun with that or come back.
    pub(super) probers: HashMap<u64, (Instant, InstanceId)>,
    /// When one of them has last come back.
    pub(super) probed: Option<Instant>,
    /// How many more there are, which an outage has cut off.
    pub(super) probers_cut_off: usize,
    /// The threads that close their connections, which may take for ever.
    pub(super) leaving: usize,
    pub(super) ended: bool,
}

impl State {
    /// Keeps a list that was asked for then.
    pub(super) fn keep_list(&mut self, asked: Instant, instances: Vec<Instance>) {
        if self.listed.as_ref().is_none_or(|(before, _)| *before <= asked) {
            self.scheduler.listed(ids(&instances), asked);
            self.listed = Some((asked, instances));
        }
    }

    /// Keeps what was read for housekeeping.
    pub(super) fn keep(&mut self, finished: &mut Finished<Answer>) {
        let Ok(parts) = &mut finished.answer else { return };
        for (_, Outcome { answer, notes }) in parts {
            let asked = notes.earliest().unwrap_or_else(Instant::now);
            match answer {
                Ok(Answer::List(instances)) => self.keep_list(asked, std::mem::take(instances)),
                Ok(Answer::HostCpus(cpus)) => {
                    let before = self.host_cpus.replace((asked, *cpus));
                    // A refusal is said once, and not every time.
                    if before.is_none_or(|(_, before)| before.is_some()) {
                        for line in notes.lines.drain(..) {
                            self.scheduler.tell(log::Level::Warn, line.text().to_owned());
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// A caller wakes up, which it wanted to do at that time at the latest.
    pub(super) fn wakes(&mut self, request: &mut Request, wanted: Instant, now: Instant) {
        let stopped = self.scheduler.wakes(request, wanted, now);
        self.was_stopped(stopped, now);
    }

    /// A caller is back.
    fn resume(&mut self, request: &mut Request, now: Instant) {
        let stopped = self.scheduler.resume(request, now);
        self.was_stopped(stopped, now);
    }

    /// This process was, for so long, in which nobody could be heard.
    fn was_stopped(&mut self, stopped: Option<Duration>, now: Instant) {
        let Some(stopped) = stopped else { return };
        self.probing.iter_mut().for_each(|(since, _)| *since = now);
        let probers = self.probers.values_mut().map(|(since, _)| since);
        for since in probers.chain(&mut self.probed) {
            *since = (*since + stopped).min(now);
        }
    }

    /// How many connections are open over which readings are taken, and that no call hangs in.
    pub(super) fn serving(&self) -> usize {
        let serves =
            |(thread, open): &(&u64, &Open)| open.serves && !self.scheduler.is_cut_off(**thread);
        self.open.iter().filter(serves).count().saturating_sub(self.scheduler.stuck())
    }

    /// Whether the prober has a connection over which it has not waited for so long.
    fn prober_is_connected(&self, long: Duration) -> bool {
        self.prober.is_some_and(|number| self.open.contains_key(&number))
            && self.probing.as_ref().is_none_or(|(since, _)| since.elapsed() < long)
    }

    pub(super) fn use_connection(&mut self, thread: u64, in_use: bool) {
        if let Some(open) = self.open.get_mut(&thread) {
            open.in_use = in_use;
        }
    }

    /// Whether a thread has not come back yet from a call, or never will.
    pub(super) fn has_calls_out(&self) -> bool {
        let serves = self.prober.is_some_and(|number| self.probers.contains_key(&number));
        let idle = usize::from(serves && self.probing.is_none());
        self.scheduler.has_calls_out() || !self.opening.is_empty() || self.probers.len() > idle
    }

    /// The number of one more thread.
    pub(super) fn next_thread(&mut self) -> u64 {
        self.threads_ever += 1;
        self.threads_ever
    }
}

impl<H: Hypervisor> Shared<H> {
    pub(super) fn new(hypervisor: Arc<H>, limits: Limits) -> Self {
        let state = State {
            scheduler: Scheduler::new(hypervisor.uri(), limits),
            open: HashMap::new(),
            opening: HashMap::new(),
            closings: 0,
            owners: 0,
            capacity: limits.capacity(),
            alarms: 0,
            listed: None,
            host_cpus: None,
            host_cpus_ordered: None,
            ordered: HashMap::new(),
            threads_ever: 0,
            prober: None,
            probing: None,
            probers: HashMap::new(),
            probed: None,
            probers_cut_off: 0,
            leaving: 0,
            ended: false,
        };
        Self {
            hypervisor: ArcSwap::new(hypervisor),
            state: Mutex::new(state),
            answered: Condvar::new(),
            work: Condvar::new(),
            probe: Condvar::new(),
            closed: Condvar::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A caller's way to its answer, and what is to be logged by then. `None` in a forked child that a
    /// signal's handler has made meanwhile: it asks anew, in a state of its own.
    pub(super) fn wait_for(
        self: &Arc<Self>,
        key: Key,
        instance: &InstanceId,
    ) -> Option<(Outcome<Answer>, Vec<LogRecord>)> {
        let mut state = self.lock();
        let mut cancellation = Cancellation::new(state.scheduler.limits());
        let caller = thread::current().id();
        let mut request = state.scheduler.ask(caller, key, instance, Instant::now());
        loop {
            let now = Instant::now();
            state.scheduler.hear(self.hypervisor.load().answered());
            match state.scheduler.turn(&mut request, now) {
                Turn::Answer(outcome) => {
                    self.send_for_threads(&mut state, now);
                    // Others may have been given up together with this one.
                    self.answered.notify_all();
                    return Some((outcome, std::mem::take(&mut state.scheduler.log)));
                }
                Turn::Wait(until) => {
                    self.send_for_threads(&mut state, now);
                    let waited = self.answered.wait_timeout(state, until.duration_since(now));
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    state.wakes(&mut request, until, Instant::now());
                    // However often it is woken meanwhile, by the answers of others.
                    if cancellation.is_due() {
                        // A signal's handler may ask the same, in this very thread.
                        state.scheduler.suspend(&request, Instant::now());
                        drop(state);
                        let process = generation();
                        let goes_on = cancellation.check();
                        if process != generation() {
                            // A thread of the parent may have held the lock for ever.
                            return goes_on.err().map(|error| (error.into(), Vec::new()));
                        }
                        state = self.lock();
                        state.resume(&mut request, Instant::now());
                        if let Err(interrupted) = goes_on {
                            state.scheduler.leave(&request);
                            // Another one may wait for what it leaves.
                            self.answered.notify_all();
                            return Some((interrupted.into(), Vec::new()));
                        }
                    }
                }
            }
        }
    }

    /// Orders something for housekeeping; now and then, as it may fail each time.
    pub(super) fn keep_house(self: &Arc<Self>, state: &mut State, kind: Kind) {
        let now = Instant::now();
        let age = |then: &Instant| now.saturating_duration_since(*then);
        if state.ordered.get(&kind).is_none_or(|then| age(then) >= HOUSEKEEPING) {
            state.ordered.insert(kind, now);
            state.scheduler.keep_house(kind, now);
            self.send_for_threads(state, now);
        }
    }

    /// Wakes or starts as many threads as there is work for.
    pub(super) fn send_for_threads(self: &Arc<Self>, state: &mut State, now: Instant) {
        self.wake(state);
        while !state.ended && state.scheduler.needs_thread(now) {
            let started = worker::spawn(self, state.next_thread());
            state.scheduler.started_thread(started.as_ref().err(), now);
            if started.is_err() {
                // Those that there are must do; without any, the caller's time runs out. One that asks
                // after nobody may make room.
                self.probe.notify_all();
                break;
            }
            state.scheduler.threads += 1;
            state.scheduler.idle += 1;
        }
        if state.scheduler.wants_probe(now) && (!state.ended || state.has_calls_out()) {
            prober::send_for(self, state, now);
        }
    }

    /// Wakes as many threads as there are readings to begin.
    pub(super) fn wake(&self, state: &State) {
        for _ in 0..state.scheduler.startable(state.scheduler.idle) {
            self.work.notify_one();
        }
    }

    /// Has every connection looked at that is open, before it is used again.
    pub(super) fn alarm(&self, state: &mut State) {
        state.alarms += 1;
        self.work.notify_all();
    }

    /// A connection could not be opened: the others are to be looked after, too.
    pub(super) fn refused(&self, state: &mut State, failure: &Failure) {
        let serving = state.serving();
        let slow = state.scheduler.limits().slow();
        let good = serving + usize::from(state.prober_is_connected(slow));
        state.scheduler.refused(failure, good, serving, Instant::now());
        self.alarm(state);
    }

    /// Has all connections closed, those in use when they are not any more.
    pub(super) fn begin_anew(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.closings += 1;
        state.scheduler.begin_anew();
        self.work.notify_all();
        self.probe.notify_all();
        state
    }

    /// Has another inspector go on, if this one's is gone, it was of the same libvirt, and calls are out.
    pub(super) fn goes_on(&self, hypervisor: &Arc<H>, limits: Limits) -> bool {
        let mut state = self.lock();
        let is_of_same = self.hypervisor.load().uri() == hypervisor.uri();
        let goes_on = is_of_same && state.ended && state.has_calls_out();
        if goes_on {
            state.ended = false;
            // What was opened meanwhile has other options.
            (state.closings, state.owners) = (state.closings + 1, state.owners + 1);
            // With fewer threads, or fewer that may hang, nobody might be left to read.
            let capacity = state.capacity.max(limits.capacity());
            state.capacity = capacity;
            state.scheduler.goes_on(limits.with_capacity(capacity), Instant::now());
            self.hypervisor.store(Arc::clone(hypervisor));
        }
        goes_on
    }

    /// As above, and waits a while for those that are not in use. Once a hypervisor has used up that
    /// time, it gets less of it: an interpreter may end with many inspectors.
    pub(super) fn close(&self) {
        let known = closing::is_overdue(self.hypervisor.load().uri());
        let longest = if known { closing::LONGEST / 5 } else { closing::LONGEST };
        let unused = |state: &mut State| {
            let closings = state.closings;
            state.open.iter().any(|(thread, open)| {
                let is_unused = open.closings < closings && !open.in_use;
                is_unused && !state.scheduler.is_cut_off(*thread)
            })
        };
        let waited = self.closed.wait_timeout_while(self.begin_anew(), longest, unused);
        if waited.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
            let line =
                format!("libvirt did not confirm within {longest:?} that a connection was closed");
            // Whatever that raises is the caller's, who has closed it all the same.
            drop(log(ENGINE, log::Level::Warn, &line));
        }
    }
}

/// An instance that is none, for questions about nobody.
pub(super) fn nobody() -> InstanceId {
    NO_INSTANCE.into()
}
