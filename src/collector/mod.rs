//! When and how a reading is taken: ahead of its caller, with a deadline, and around what hangs.
//!
//! Callers and threads meet at the [`Scheduler`](scheduler::Scheduler), which decides everything and
//! knows neither. Workers, each with a connection of its own, take the readings; a prober asks after
//! what does not answer, and only exists once something has not.

mod closing;
mod habits;
mod left;
mod link;
mod outage;
mod prober;
mod quarantine;
mod scheduler;
mod shared;
mod worker;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{mem, thread};

use uuid::Uuid;

use crate::error::{Error, Failure, Result};
use crate::health::Health;
use crate::hypervisor::{Content, Host, Hypervisor, Moment, Notes, Parts, Stamp, Warning};
use crate::limits::Limits;
use crate::locks::lock;
use crate::logs::{LogRecord, log_all, put_back};
use crate::per_process::PerProcess;
use crate::records::{Instance, InstanceId};
use crate::source::Source;
use shared::Shared;

/// Some hosts can be given more CPUs while they run.
const HOST_CPUS_KEPT: Duration = Duration::from_secs(60);

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    List,
    /// For housekeeping, which nobody waits for: the list, and how many CPUs the host has.
    Existing,
    HostCpus,
    Stats,
    Nics,
    Disks,
    Sizes,
    Counters,
    Server,
    Details,
    Job,
    IoThreads,
    DirtyRate,
}

impl Kind {
    const OF_AN_INSTANCE: [Self; 10] = [
        Self::Stats,
        Self::Nics,
        Self::Disks,
        Self::Sizes,
        Self::Counters,
        Self::Server,
        Self::Details,
        Self::Job,
        Self::IoThreads,
        Self::DirtyRate,
    ];

    /// The part of a reading that it asks for.
    fn part(self) -> Parts {
        match self {
            Self::List | Self::Existing | Self::HostCpus => Parts::WHOLE,
            Self::Stats => Parts::STATS,
            Self::Nics => Parts::NICS,
            Self::Disks => Parts::DISKS,
            Self::Sizes => Parts::SIZES,
            Self::Counters => Parts::COUNTERS,
            Self::Server => Parts::SERVER,
            Self::Details => Parts::DETAILS,
            Self::Job => Parts::JOB,
            Self::IoThreads => Parts::IO_THREADS,
            Self::DirtyRate => Parts::DIRTY_RATE,
        }
    }

    /// What asks for this part of an instance.
    fn of(part: Parts) -> Option<Self> {
        Self::OF_AN_INSTANCE.into_iter().find(|kind| kind.part() == part)
    }

    /// Whether it has to wait for the guest's process.
    fn needs_guest(self) -> bool {
        self.part().need_guest()
    }

    /// Whether there is something to tell of a guest that hangs.
    fn knows_hung(self) -> bool {
        self.part().known_of_hung() == self.part()
    }
}

/// Stands for no instance. Drawn at random, so that no instance has it: the nil UUID is Domain-0's on Xen.
const NO_INSTANCE: Uuid = Uuid::from_u128(0xa68f_19b1_52d3_452d_b893_19a7_b2be_f3d8);

/// What is asked about which instance, or about none with [`NO_INSTANCE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    uuid: Uuid,
}

/// The answer to a question.
#[derive(Debug)]
enum Answer {
    List(Vec<Instance>),
    HostCpus(Option<u32>),
    /// A part of a reading of an instance.
    Part(Content),
}

/// The engine over a hypervisor.
pub(crate) struct Collector<H: Hypervisor> {
    hypervisor: Arc<H>,
    limits: Limits,
    here: PerProcess<Arc<Shared<H>>>,
}

impl<H: Hypervisor> Collector<H> {
    pub(crate) fn new(hypervisor: H, limits: Limits) -> Self {
        let hypervisor = Arc::new(hypervisor);
        let below = Arc::clone(&hypervisor);
        // For this process alone: in a forked child, nobody has left anything.
        let left_behind = Mutex::new(left::taken_over(&hypervisor, limits));
        let here = PerProcess::new(move || {
            let new = || Arc::new(Shared::new(Arc::clone(&below), limits));
            lock(&left_behind).take().unwrap_or_else(new)
        });
        Self { hypervisor, limits, here }
    }

    fn log(&self, lines: Vec<LogRecord>) -> Result<()> {
        // A handler may have forked: the child has a state of its own.
        let here = || self.here.with(Arc::clone);
        log_all(lines, |left| put_back(&mut here().lock().scheduler.log, left))
    }

    fn ask_noting(
        &self,
        kind: Kind,
        instance: &InstanceId,
    ) -> Result<(Answer, Moment, Option<u32>)> {
        let key = Key { kind, uuid: instance.uuid };
        let (outcome, mut log) = loop {
            if let Some(told) = self.here.with(Arc::clone).wait_for(key, instance) {
                break told;
            }
        };
        let Notes { lines, moment, start } = outcome.notes;
        let said = |line: &Arc<Warning>| Some((log::Level::Warn, line.say()?.to_owned()));
        log.extend(lines.iter().filter_map(said));
        // What is handed out now counts as read; whoever has raised something does not get it.
        self.log(log)?;
        let now = Instant::now();
        let moment = moment.unwrap_or(Moment { earliest: now, latest: now });
        outcome.answer.map(|answer| (answer, moment, start))
    }
}

impl<H: Hypervisor> Source for Collector<H> {
    fn uri(&self) -> &str {
        self.hypervisor.uri()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn has_parity(&self) -> bool {
        self.hypervisor.has_parity()
    }

    fn rates_from(&self, part: Parts) -> Parts {
        part
    }

    fn remembered(&self) -> usize {
        self.here.with(Arc::clone).lock().scheduler.remembered()
    }

    /// Every instance that the hypervisor knows, and since when that was asked for. While a list hangs,
    /// it is the last one that has come.
    fn list(&self) -> Result<(Vec<Instance>, Instant)> {
        let answer = self.ask_noting(Kind::List, &NO_INSTANCE.into());
        let here = self.here.with(Arc::clone);
        let mut state = here.lock();
        match answer {
            Ok((Answer::List(instances), moment, _)) => {
                state.keep_list(moment.earliest, instances.clone());
                Ok((instances, moment.earliest))
            }
            Ok((_, moment, _)) => Ok((Vec::new(), moment.earliest)),
            // It hangs, or no thread can be started that would ask for it.
            Err(
                error @ (Error::ListHangs { .. }
                | Error::NoList { failure: Failure { libvirt: None, .. }, .. }),
            ) => state.listed.clone().map(|(asked, instances)| (instances, asked)).ok_or(error),
            Err(error) => Err(error),
        }
    }

    /// A list of the instances that exist, if one was asked for since, and when. Else one is ordered,
    /// and nobody waits for it.
    fn what_exists(&self, since: Instant) -> Option<(Vec<Instance>, Instant)> {
        let here = self.here.with(Arc::clone);
        let mut state = here.lock();
        match &state.listed {
            Some((asked, instances)) if *asked >= since => Some((instances.clone(), *asked)),
            _ => {
                here.keep_house(&mut state, Kind::Existing);
                None
            }
        }
    }

    /// How many CPUs the host has, as far as that is known. Only the first answer is waited for, and
    /// just for a moment.
    fn host_cpus(&self, _: Uuid) -> Option<u32> {
        let here = self.here.with(Arc::clone);
        let (mut state, now) = (here.lock(), Instant::now());
        let age = |then: Instant| now.saturating_duration_since(then);
        if state.host_cpus.is_none_or(|(asked, _)| age(asked) >= HOST_CPUS_KEPT) {
            here.keep_house(&mut state, Kind::HostCpus);
        }
        let ordered = *state.host_cpus_ordered.get_or_insert(now);
        let moment = self.limits.slow().saturating_sub(age(ordered));
        let waited =
            here.answered.wait_timeout_while(state, moment, |state| state.host_cpus.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.host_cpus.and_then(|(_, cpus)| cpus)
    }

    /// The caller is about to ask about all these instances, one after the other: that much is read
    /// ahead, and nothing for its next time.
    fn expect(&self, _: Parts, instances: &[InstanceId]) {
        let caller = thread::current().id();
        self.here.with(Arc::clone).lock().scheduler.expect(caller, instances, Instant::now());
    }

    /// The answer to a question about an instance, within the timeout (or twice that, where the
    /// first answer is that it hangs), and when its values were measured at the latest.
    fn ask(&self, part: Parts, instance: &InstanceId) -> Result<(Option<Content>, Stamp)> {
        let Some(kind) = Kind::of(part) else {
            return Ok((None, Instant::now().into()));
        };
        let (answer, moment, start) = self.ask_noting(kind, instance)?;
        let content = if let Answer::Part(content) = answer { Some(content) } else { None };
        Ok((content, Stamp { at: moment.latest, start }))
    }

    fn hosts(&self) -> Result<Vec<Host>> {
        Err(Error::Unsupported { hypervisor: "libvirt", what: "of which hosts a pool consists" })
    }

    fn health(&self) -> Health {
        // The driver first: while the state is locked, everybody waits.
        let (calls, sizes, refused) =
            (self.hypervisor.calls(), self.hypervisor.sizes(), self.hypervisor.refused());
        let here = self.here.with(Arc::clone);
        let mut state = here.lock();
        let mut health = Health { calls, sizes, refused, ..state.scheduler.health(Instant::now()) };
        health.connections = state.open.len();
        let given_up = |since: &&Instant| since.elapsed() >= self.limits.timeout;
        health.stuck += state.opening.values().filter(given_up).count();
        let lines = mem::take(&mut state.scheduler.log);
        drop(state);
        // Health is told all the same to who does not mind what a handler raises.
        drop(self.log(lines));
        health
    }

    /// Whether a connection is open, as far as is known here.
    fn is_connected(&self) -> bool {
        let here = self.here.with(Arc::clone);
        let state = here.lock();
        let current = |open: &link::Open| open.closings == state.closings;
        state.scheduler.is_reachable() && state.open.values().any(current)
    }

    /// Closes all connections, those in use when they are not any more.
    fn close(&self) {
        self.here.with(Arc::clone).close();
    }
}

impl<H: Hypervisor> Drop for Collector<H> {
    /// The threads end by themselves, as soon as they are not in a call. While one is, it is asked whether what it
    /// waits for answers.
    fn drop(&mut self) {
        self.here.with(left::behind);
    }
}
