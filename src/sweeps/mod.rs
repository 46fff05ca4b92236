//! The engine over hypervisors that answer for many instances at once: what is read once serves all who
//! ask, until it is older than they allow.
//!
//! A call over HTTPS has a deadline of its own, so nothing hangs here for good, and what fails is a host
//! and never a guest: there is no quarantine. Callers do not call: they wait for a thread that does, as
//! long as their timeout says. A host that has failed is tried again behind their backs; until it
//! answers, they are told so at once.

mod at_exit;
mod batches;
mod driver;
mod shared;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::error::{Error, Reason, Result};
use crate::health::Health;
use crate::hypervisor::{Content, Examined, Host, Parts, Stamp};
use crate::libvirt::generation;
use crate::limits::Limits;
use crate::logs::{ENGINE, LogRecord, log, log_all, put_back};
use crate::per_process::PerProcess;
use crate::records::{Instance, InstanceId};
use crate::source::Source;
pub use at_exit::close_sessions;
pub(crate) use driver::{Batch, HostWide};
use shared::Shared;

/// Logging out is not waited for any longer.
const CLOSING: Duration = Duration::from_secs(1);

/// The engine over such a hypervisor; each process makes a driver of its own.
pub(crate) struct Sweeps<H: HostWide> {
    uri: String,
    limits: Limits,
    here: PerProcess<Arc<Shared<H>>>,
}

impl<H: HostWide> Sweeps<H> {
    /// An engine over what is at a URI, which is called `place` in messages; connects to nothing yet.
    pub(crate) fn new(
        uri: String,
        place: String,
        limits: Limits,
        make: impl Fn() -> H + Send + Sync + 'static,
    ) -> Self {
        let here = PerProcess::new(move || {
            let shared = Arc::new(Shared::new(make(), place.clone(), limits));
            at_exit::note(&shared);
            shared
        });
        Self { uri, limits, here }
    }

    /// Does something with what is here, and logs what has happened by then. A child that was forked
    /// meanwhile does it anew.
    fn with<R>(&self, act: impl Fn(&Arc<Shared<H>>) -> Result<R>) -> Result<R> {
        let (here, done) = loop {
            let (process, here) = (generation(), self.here.with(Arc::clone));
            let done = act(&here);
            if generation() == process {
                break (here, done);
            }
            // Its locks are the parent's.
            std::mem::forget(here);
        };
        // Whoever is interrupted already hears of that, and what a handler raises would take its place.
        if !matches!(done, Err(Error::Interrupted)) {
            self.log(here.take_log())?;
        }
        done
    }

    fn log(&self, lines: Vec<LogRecord>) -> Result<()> {
        // A handler may have forked: the child has a state of its own.
        let here = || self.here.with(Arc::clone);
        log_all(lines, |left| put_back(&mut here().lock().log, left))
    }
}

impl<H: HostWide> Source for Sweeps<H> {
    fn uri(&self) -> &str {
        &self.uri
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn has_parity(&self) -> bool {
        false
    }

    /// Requests have no counter since the start of an instance, but are known over every interval.
    fn rates_from(&self, _: Parts) -> Parts {
        Parts::COUNTERS
    }

    fn list(&self) -> Result<(Vec<Instance>, Instant)> {
        self.with(|here| {
            let asked = here.have(Batch::Inventory, Instant::now())?;
            here.try_again();
            Ok((here.driver.instances(), asked))
        })
    }

    fn answers_since(&self, since: Instant) -> Result<()> {
        self.with(|here| here.have_since(Batch::Inventory, Instant::now(), since).map(|_| ()))
    }

    fn what_exists(&self, since: Instant) -> Option<(Vec<Instance>, Instant)> {
        let here = self.here.with(Arc::clone);
        // Whoever asks has an inventory read anyway.
        let asked = here.read_since(Batch::Inventory, since)?;
        Some((here.driver.instances(), asked))
    }

    fn remembered(&self) -> usize {
        0
    }

    fn own_uuid(&self, instance: Uuid) -> Uuid {
        self.here.with(Arc::clone).driver.own_uuid(instance)
    }

    fn host_cpus(&self, instance: Uuid) -> Option<u32> {
        self.here.with(Arc::clone).driver.host_cpus(instance)
    }

    fn expect(&self, part: Parts, instances: &[InstanceId]) {
        self.here.with(Arc::clone).expect(part, instances, Instant::now());
    }

    fn ask(&self, part: Parts, instance: &InstanceId) -> Result<(Option<Content>, Stamp)> {
        self.ask_in_pass(part, instance, Instant::now())
    }

    fn ask_in_pass(
        &self,
        part: Parts,
        instance: &InstanceId,
        asked: Instant,
    ) -> Result<(Option<Content>, Stamp)> {
        self.with(|here| {
            here.have(Batch::Inventory, asked).map_err(|error| for_instance(error, instance))?;
            let mut batches = here.driver.batches(part, instance)?;
            for is_last in [false, false, true] {
                let answer = here.have_all(part, &batches, instance, asked)?;
                // What has held it up may be read apart from it by now, or it together with others.
                let before = std::mem::replace(&mut batches, here.driver.batches(part, instance)?);
                match answer {
                    Err((batch, error)) if is_last || batches.contains(&batch) => {
                        return Err(here.no_data(batch, instance, &error));
                    }
                    Ok(()) if batches == before => {
                        let missed = here.driver.missed(instance).filter(|_| !batches.is_empty());
                        let Some(missed) = missed else { break };
                        match here.have_since(Batch::Inventory, Instant::now(), missed) {
                            Err(error @ (Error::Interrupted | Error::LoginRefused { .. })) => {
                                return Err(error);
                            }
                            // What was read is told all the same.
                            Err(_) => break,
                            Ok(_) => {}
                        }
                        batches = here.driver.batches(part, instance)?;
                    }
                    _ => {}
                }
            }
            here.handed_out();
            here.driver.tell(part, instance).map(|(content, stamp)| (Some(content), stamp))
        })
    }

    fn hosts(&self) -> Result<Vec<Host>> {
        self.list()?;
        self.with(|here| {
            let (asked, everything) = (Instant::now(), here.driver.everything());
            // All at once, also those without instances.
            let each = everything.iter().map(|batch| vec![*batch]);
            here.expect_batches(&mut here.lock(), each, asked);
            for batch in everything {
                // What is known of one that fails is told all the same, and health says that it is away.
                let answer = here.have(batch, asked);
                if let Err(error @ (Error::Interrupted | Error::LoginRefused { .. })) = answer {
                    return Err(error);
                }
            }
            Ok(here.driver.hosts())
        })
    }

    fn examine(&self, instances: &[Uuid], samples: u32) -> Result<Examined> {
        self.list()?;
        self.with(|here| here.driver.examine(instances, samples, self.limits.timeout()))
    }

    fn health(&self) -> Health {
        let here = self.here.with(Arc::clone);
        let health = here.health();
        // Health is told all the same to who does not mind what a handler raises.
        drop(self.log(here.take_log()));
        health
    }

    fn is_connected(&self) -> bool {
        self.here.with(Arc::clone).driver.sessions().is_open
    }

    fn close(&self) {
        let closed = self.with(|here| {
            let longest = CLOSING.min(self.limits.timeout());
            Ok(here.close(Instant::now() + longest))
        });
        // What a log handler or Ctrl-C raises meanwhile is the caller's, and does not keep it from being closed.
        if let Ok(Err(error)) = closed {
            let line = format!("the session was not closed, and ends by itself: {error}");
            drop(log(ENGINE, log::Level::Debug, &line));
        }
    }
}

impl<H: HostWide> Drop for Sweeps<H> {
    /// The threads end by themselves, and the last thing that one of them does is to log out.
    fn drop(&mut self) {
        self.here.with(Arc::clone).end();
    }
}

impl<H: HostWide> Shared<H> {
    /// Waits for all that is wanted of an instance, and returns what is in the way, if anything is.
    fn have_all(
        self: &Arc<Self>,
        part: Parts,
        batches: &[Batch],
        instance: &InstanceId,
        asked: Instant,
    ) -> Result<std::result::Result<(), (Batch, Error)>> {
        let oldest = asked.checked_sub(self.limits.max_age()).unwrap_or(asked);
        let oldest = Some(oldest).max(self.driver.came(instance)).unwrap_or(oldest);
        for &batch in batches {
            if let Batch::Instance { host, uuid } = batch {
                if !self.is_waited_for(host, batch, asked) {
                    continue;
                }
                self.read_ahead(part, batch, uuid, asked);
            }
            let begun = Instant::now();
            match (self.have_since(batch, asked, oldest), batch) {
                (Ok(_), _) => {}
                (Err(error @ (Error::Interrupted | Error::LoginRefused { .. })), _) => {
                    return Err(error);
                }
                // Nothing else depends on it. Where it has not answered, the next one of its host hardly will.
                (Err(_), Batch::Instance { host, .. }) => {
                    if begun.elapsed() >= self.limits.timeout() / 2 {
                        self.lock().batches.was_in_vain(host, batch);
                    }
                }
                (Err(error), _) => return Ok(Err((batch, error))),
            }
        }
        Ok(Ok(()))
    }
}

/// The same error, of which an instance's question has come to know.
fn for_instance(error: Error, asked: &InstanceId) -> Error {
    match error {
        Error::ConnectionLost { uri, failure, .. } => {
            Error::ConnectionLost { uri, instance: Some(asked.clone()), failure }
        }
        Error::NoList { failure, .. } => {
            Error::NoData { instance: asked.clone(), reason: Reason::Refused(failure) }
        }
        error => error,
    }
}

#[cfg(test)]
mod tests;
