//! What a caller can ask about an instance; knows no hypervisor.

mod since;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use log::Level;
use uuid::Uuid;

use crate::callers::Callers;
use crate::cancellation::Cancellation;
use crate::collector::Collector;
use crate::continued::Continued;
use crate::deltas::Deltas;
use crate::details::{DirtyRate, InstanceDetails, IoThreadStats, JobStats};
use crate::error::{Error, Result};
use crate::health::Health;
use crate::hypervisor::{Content, Examined, Host, Hypervisor, Parts, Stamp};
use crate::limits::Limits;
use crate::locks::lock;
use crate::logs;
use crate::per_process::PerProcess;
use crate::records::{Disk, DiskInfo, DiskStats, Instance, InstanceId, InstanceStats, Server, ids};
use crate::source::Source;
use crate::usage::{Rates, Usage};

/// Every so many questions, it is looked whether much is remembered.
const HOUSEKEEPING: usize = 16;
/// libvirt's `VIR_DOMAIN_SHUTOFF`.
const SHUT_OFF: u32 = 5;

/// Answers Ceilometer's four questions about an instance, from any number of threads.
///
/// Every question about one instance is answered within [`Limits::timeout`] (one that finds out just
/// then that a guest hangs may take as long again), whatever hangs. A caller that asks in a steady order has its next
/// answers read ahead; no reading was begun more than [`Limits::max_age`] before it was asked for, and
/// none is handed out twice. A forked child may go on using the inspector of its parent: it gets threads,
/// connections and NIC deltas of its own. (libvirt's own locks may not survive a fork while another
/// thread is inside libvirt.)
pub struct Inspector {
    source: Box<dyn Source>,
    deltas: PerProcess<Mutex<Deltas>>,
    continued: PerProcess<Mutex<Continued>>,
    /// For rates and for usage: neither disturbs the intervals of the other.
    rates: PerProcess<Mutex<Callers<Rates>>>,
    usage: PerProcess<Mutex<Callers<Usage>>>,
    /// How many questions were asked: housekeeping looks every now and then, as that costs locks.
    asked: AtomicUsize,
    /// Why instances were last left out of the usage, and what was said of their descriptions.
    said: PerProcess<Mutex<HashMap<(Parts, Uuid), Fault>>>,
}

impl Inspector {
    /// An inspector over a driver, with the default limits; connects to nothing yet.
    pub fn new(hypervisor: impl Hypervisor) -> Self {
        Self::with_limits(hypervisor, Limits::default())
    }

    /// An inspector over a driver; connects to nothing yet.
    pub fn with_limits(hypervisor: impl Hypervisor, limits: Limits) -> Self {
        Self::over(Collector::new(hypervisor, limits))
    }

    /// An inspector over whoever takes the readings.
    pub(crate) fn over(source: impl Source + 'static) -> Self {
        let parity = source.has_parity();
        Self {
            source: Box::new(source),
            deltas: PerProcess::new(move || Mutex::new(Deltas::new(parity))),
            continued: PerProcess::default(),
            rates: PerProcess::default(),
            usage: PerProcess::default(),
            asked: AtomicUsize::new(0),
            said: PerProcess::default(),
        }
    }

    /// Where the instances are: the URI, without any secret.
    pub fn uri(&self) -> &str {
        self.source.uri()
    }

    /// The bounds of its work.
    pub fn limits(&self) -> Limits {
        self.source.limits()
    }

    /// What it does and has done; takes no reading.
    pub fn health(&self) -> Health {
        self.source.health()
    }

    /// Whether a connection is open, as far as is known here; never blocks.
    pub fn is_connected(&self) -> bool {
        self.source.is_connected()
    }

    /// Closes all connections; the next call opens new ones.
    pub fn close(&self) {
        self.source.close();
    }

    /// CPU, memory and performance counters of an instance. While its guest hangs, only what the
    /// hypervisor knows without it. CPU times go on where vCPUs are unplugged.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn instance(&self, instance: &InstanceId) -> Result<InstanceStats> {
        let (Some(Content::Stats(mut stats, cpu)), read) = self.ask(Parts::STATS, instance)? else {
            return Ok(InstanceStats::default());
        };
        let own = self.source.own_uuid(instance.uuid);
        if stats.power_state == Some(SHUT_OFF) {
            self.continued.with(|continued| lock(continued).forget(own));
            return Ok(*stats);
        }
        let used = self.continued.with(|known| lock(known).enter(own, read, &cpu));
        if !self.source.has_parity() {
            stats.cpu_time = used.cpu;
        }
        if cpu.vcpus.is_some() {
            (stats.vcpu_time, stats.vcpu_wait, stats.vcpu_delay) =
                (used.ran, used.wait, used.delay);
        }
        stats.start = read.start;
        Ok(*stats)
    }

    /// The disks of an instance with their counters.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Timeout`] at once while its guest hangs.
    pub fn disks(&self, instance: &InstanceId) -> Result<Vec<DiskStats>> {
        let (Some(Content::Disks(disks)), read) = self.ask(Parts::DISKS, instance)? else {
            return Ok(Vec::new());
        };
        Ok(disks.into_iter().filter_map(|disk| with_counters(disk, read)).collect())
    }

    /// What an instance is, beside what it uses, running or not. While its guest hangs, without its
    /// vCPUs where they are not known.
    ///
    /// # Errors
    /// Any [`Error`] but [`Error::InstanceShutOff`].
    pub fn details(&self, instance: &InstanceId) -> Result<InstanceDetails> {
        match self.ask(Parts::DETAILS, instance)? {
            (Some(Content::Details(details)), read) => {
                Ok(InstanceDetails { start: read.start, ..*details })
            }
            _ => Ok(InstanceDetails::default()),
        }
    }

    /// The job that is under way in an instance, by a call of its own; `None` where there is none.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Timeout`] at once while its guest hangs.
    pub fn job(&self, instance: &InstanceId) -> Result<Option<JobStats>> {
        match self.ask(Parts::JOB, instance)?.0 {
            Some(Content::Job(job)) => Ok(job.map(|job| *job)),
            _ => Ok(None),
        }
    }

    /// The threads that do the I/O of an instance, for which its process is asked once more.
    ///
    /// # Errors
    /// As [`job`](Self::job).
    pub fn io_threads(&self, instance: &InstanceId) -> Result<Vec<IoThreadStats>> {
        match self.ask(Parts::IO_THREADS, instance)?.0 {
            Some(Content::IoThreads(threads)) => Ok(threads),
            _ => Ok(Vec::new()),
        }
    }

    /// How fast an instance writes to its memory, for which its process is asked once more; `None` where
    /// nobody has had that measured.
    ///
    /// # Errors
    /// As [`job`](Self::job).
    pub fn dirty_rate(&self, instance: &InstanceId) -> Result<Option<DirtyRate>> {
        match self.ask(Parts::DIRTY_RATE, instance)?.0 {
            Some(Content::DirtyRate(rate)) => Ok(rate),
            _ => Ok(None),
        }
    }

    /// The disks of an instance with their sizes.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Timeout`] at once while its guest hangs.
    pub fn disk_info(&self, instance: &InstanceId) -> Result<Vec<DiskInfo>> {
        match self.ask(Parts::SIZES, instance)?.0 {
            Some(Content::Sizes(disks)) => Ok(disks),
            _ => Ok(Vec::new()),
        }
    }

    /// Every instance that the hypervisor knows, running or not.
    ///
    /// # Errors
    /// [`Error::ConnectionLost`], [`Error::InvalidUri`], or [`Error::NoList`], also where the list alone
    /// does not come.
    pub fn instances(&self) -> Result<Vec<Instance>> {
        let (instances, asked) = self.source.list()?;
        self.forget_all_but(&instances, asked);
        Ok(instances)
    }

    /// Every host of a pool, and how its readings are; all instances are read for that.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with libvirt, and else as [`instances`](Self::instances).
    pub fn hosts(&self) -> Result<Vec<Host>> {
        self.source.hosts()
    }

    /// What a server tells of itself, and of the newest samples of these instances.
    ///
    /// # Errors
    /// [`Error::Unsupported`] except with vSphere, and else as [`instances`](Self::instances).
    pub fn examine(&self, instances: &[Uuid], samples: u32) -> Result<Examined> {
        self.source.examine(instances, samples)
    }

    /// The answer to a question about an instance, and when its values were measured; if the
    /// instance is gone, nothing of it is remembered.
    fn ask(&self, part: Parts, instance: &InstanceId) -> Result<(Option<Content>, Stamp)> {
        self.ask_in_pass(part, instance, Instant::now())
    }

    /// The same in a pass over many instances that was begun then.
    fn ask_in_pass(
        &self,
        part: Parts,
        instance: &InstanceId,
        begun: Instant,
    ) -> Result<(Option<Content>, Stamp)> {
        if self.asked.fetch_add(1, Relaxed) % HOUSEKEEPING == 0 {
            self.keep_house();
        }
        let answer = self.source.ask_in_pass(part, instance, begun);
        if let Err(Error::InstanceNotFound { gone: true, .. } | Error::InstanceShutOff { .. }) =
            answer
        {
            let own = self.source.own_uuid(instance.uuid);
            self.continued.with(|continued| lock(continued).forget(own));
            if let Err(Error::InstanceNotFound { .. }) = answer {
                self.with_deltas(|deltas| deltas.forget(own));
                self.rates.with(|rates| lock(rates).forget(own));
                self.usage.with(|usage| lock(usage).forget(own));
            }
        }
        answer
    }

    /// Has a list read behind the caller's back once much is remembered, and forgets what it lacks.
    fn keep_house(&self) {
        let rates = self.rates.with(|rates| lock(rates).most());
        let continued = self.continued.with(|continued| lock(continued).len());
        let usage = self.usage.with(|usage| lock(usage).most());
        let others = self.source.remembered().max(usage).max(rates).max(continued);
        let awaited = self.with_deltas(|deltas| deltas.awaits_list(others, Instant::now()));
        if let Some(since) = awaited {
            if let Some((instances, asked)) = self.source.what_exists(since) {
                self.forget_all_but(&instances, asked);
            }
        }
    }

    /// Forgets instances that are gone, by a list that was asked for then.
    fn forget_all_but(&self, existing: &[Instance], asked: Instant) {
        let existing: HashSet<_> = existing.iter().map(|instance| instance.id).collect();
        self.with_deltas(|deltas| deltas.sweep(&existing, asked));
        self.rates.with(|rates| lock(rates).sweep(&existing, asked));
        self.usage.with(|usage| lock(usage).sweep(&existing, asked));
        self.continued.with(|continued| lock(continued).sweep(&existing, asked));
        self.said.with(|said| lock(said).retain(|(_, known), _| existing.contains(known)));
    }

    /// Every instance that is OpenStack Nova's, or every one of these, with what Nova says of it. One that
    /// cannot be read is logged and left out; one of which something is missing has the rest. Either is
    /// logged once, until it changes.
    ///
    /// # Errors
    /// As [`instances`](Self::instances).
    pub fn servers(&self, wanted: Option<&[InstanceId]>) -> Result<Vec<Server>> {
        let mut servers = Vec::new();
        let mut instances = self.instances()?;
        if let Some(wanted) = wanted {
            let own = |instance: &InstanceId| self.source.own_uuid(instance.uuid);
            let wanted: HashSet<_> = wanted.iter().map(own).collect();
            instances.retain(|instance| wanted.contains(&instance.id));
        }
        let ids = ids(&instances);
        let (mut cancellation, mut others) = (Cancellation::new(self.limits()), 0);
        self.source.expect(Parts::SERVER, &ids);
        for (instance, id) in instances.into_iter().zip(ids) {
            cancellation.check()?;
            match self.ask(Parts::SERVER, &id) {
                Ok((Some(Content::Server(Some(description))), _)) => {
                    let missing = description.missing.join(", ");
                    let fault = (!missing.is_empty()).then(|| Fault::new(None, &missing));
                    if self.is_new(Parts::SERVER, &id, fault) {
                        let line = format!(
                            "Nova's metadata of instance {id} lacks {missing}: it has the rest, but \
                             Ceilometer's discovery leaves it out"
                        );
                        log(Level::Error, &line)?;
                    }
                    servers.push(Server { instance, description: *description });
                }
                Ok(_) => others += 1,
                Err(Error::InstanceNotFound { gone: true, .. }) => {}
                Err(
                    error @ (Error::Interrupted
                    | Error::ConnectionLost { .. }
                    | Error::LoginRefused { .. }
                    | Error::InvalidUri { .. }),
                ) => return Err(error),
                // The engine says once that it hangs.
                Err(error @ Error::Timeout { .. }) => {
                    log(Level::Debug, &format!("no description: {error}"))?;
                }
                Err(error) => {
                    if self.is_new(Parts::SERVER, &id, Some(Fault::of(&error))) {
                        let line = format!("an instance is left out of discovery: {error}");
                        log(Level::Error, &line)?;
                    }
                }
            }
        }
        if others > 0 {
            log(Level::Debug, &format!("instances without metadata of Nova's: {others}"))?;
        }
        Ok(servers)
    }

    /// Whether something is to be said of this part of an instance, and was not said last.
    fn is_new(&self, part: Parts, instance: &InstanceId, fault: Option<Fault>) -> bool {
        self.said.with(|said| {
            let mut said = lock(said);
            let before = said.remove(&(part, instance.uuid));
            let is_new = fault.is_some() && fault != before;
            if let Some(fault) = fault {
                said.insert((part, instance.uuid), fault);
            }
            is_new
        })
    }

    fn with_deltas<R>(&self, use_deltas: impl FnOnce(&mut MutexGuard<'_, Deltas>) -> R) -> R {
        self.deltas.with(|deltas| use_deltas(&mut lock(deltas)))
    }
}

/// What was said of an instance: libvirt's numbers of the error, and its words without others, as that of a
/// process or a request is a new one each time.
#[derive(PartialEq)]
struct Fault {
    libvirt: Option<(i32, i32)>,
    words: String,
}

impl Fault {
    fn of(error: &Error) -> Self {
        Self::new(error.failure().and_then(|failure| failure.libvirt), &error.to_string())
    }

    fn new(libvirt: Option<(i32, i32)>, text: &str) -> Self {
        let words = text.split(|c: char| !c.is_alphanumeric());
        // Nor those that may be a part of a UUID, which has no digit now and then.
        let is_number = |word: &&str| {
            word.contains(|c: char| c.is_ascii_digit())
                || word.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let words = words.filter(|word| !is_number(word));
        Self { libvirt, words: words.collect::<Vec<_>>().join(" ") }
    }
}

/// Logs; see [`logs::log`].
fn log(level: Level, line: &str) -> Result<()> {
    logs::log("virtmeter::inspector", level, line)
}

/// The record of a disk; none of one whose counters the hypervisor refused.
fn with_counters(Disk { device, counters, .. }: Disk, read: Stamp) -> Option<DiskStats> {
    counters.map(|counters| DiskStats { device, counters, start: read.start })
}

#[cfg(test)]
#[path = "inspector_tests.rs"]
mod tests;
