//! A reading of one domain, from its first call to its last.
//!
//! What the bulk reading tells is taken from there, in one round trip; what it lacks, because the
//! driver is not QEMU's or the device was refused, is asked for by a call of its own.

mod devices;

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use virt_sys as c;

use super::bulk::Bulk;
use super::described::Described;
use super::domain_xml::{self, Devices};
use super::stats::{self, Sums};
use super::sys::{Connection as Open, Domain, DomainInfo};
use super::xml::Unusable;
use super::{Driver, busy, details_xml, nova_xml, reasons};
use crate::details::{DirtyRate, InstanceDetails, IoThreadStats, JobStats};
use crate::error::{Error, Failure, Reason, Result};
use crate::hypervisor::{Content, Moment, Notes, Outcome, Parts, Reach, Reading, Warning};
use crate::per_process::PerProcess;
use crate::records::{
    CpuTimes, Disk, InstanceId, InstanceStats, Interface, ServerDescription, VmCounters,
};

type Groups = c::virDomainStatsTypes;
const STATE: Groups = c::VIR_DOMAIN_STATS_STATE;
const CPU: Groups = c::VIR_DOMAIN_STATS_CPU_TOTAL;
const MEMORY: Groups = c::VIR_DOMAIN_STATS_BALLOON;
const VCPUS: Groups = c::VIR_DOMAIN_STATS_VCPU;
const NICS: Groups = c::VIR_DOMAIN_STATS_INTERFACE;
const DISKS: Groups = c::VIR_DOMAIN_STATS_BLOCK;
const PERF: Groups = c::VIR_DOMAIN_STATS_PERF;
const IO_THREADS: Groups = c::VIR_DOMAIN_STATS_IOTHREAD;
const DIRTY_RATE: Groups = c::VIR_DOMAIN_STATS_DIRTYRATE;

/// A bulk reading that takes so much longer than others has waited for the guest's process: that stands
/// still, say, while its storage does. By then, libvirt has counted the time of the domain, and where it
/// waits for disks, that of the vCPUs and the NICs.
pub(super) const WAITED: Duration = Duration::from_millis(100);

/// The statistics that answer these questions. Asking for every group loses the whole answer when
/// one group fails, and costs QEMU more.
fn groups(parts: Parts, reach: Reach) -> Groups {
    let asked = match reach {
        Reach::Guest => &[
            (Parts::STATS, VCPUS | MEMORY | PERF),
            (Parts::NICS, NICS),
            (Parts::DISKS.and(Parts::SIZES), DISKS),
            (Parts::COUNTERS, CPU | MEMORY | VCPUS | NICS | DISKS),
            (Parts::DETAILS, VCPUS),
            // The memory shows whether there are none, or they were left out: see `Bulk::lacks_job`.
            (Parts::IO_THREADS, IO_THREADS | MEMORY),
            (Parts::DIRTY_RATE, DIRTY_RATE | MEMORY),
        ][..],
        // The vCPUs only where that does not wait: see `ask_bulk`.
        _ => &[(Parts::STATS, PERF), (Parts::NICS, NICS), (Parts::COUNTERS, NICS)],
    };
    let chosen = asked.iter().filter(|(part, _)| parts.has(*part));
    chosen.fold(STATE, |groups, (_, more)| groups | more)
}

/// A domain that was looked up. It stays valid: libvirt finds the domain by its UUID.
pub(super) struct Known {
    domain: Domain,
    /// The domain's number, another at each start, and whether it has a balloon since then; `None`
    /// where its XML does not tell.
    balloon: Cell<Option<(u32, Option<bool>)>>,
}

impl Known {
    pub(super) fn new(domain: Domain) -> Self {
        Self { domain, balloon: Cell::default() }
    }

    pub(super) fn is_free(&self, at: &About<'_>) -> Result<Option<bool>> {
        match self.domain.is_free() {
            // Other drivers than QEMU's do not tell.
            Err(failure) if failure.is(c::VIR_ERR_NO_SUPPORT) => Ok(None),
            Err(failure) if failure.is(c::VIR_ERR_OPERATION_INVALID) => Err(at.shut_off()),
            answer => answer.map(Some).map_err(|failure| at.refused(failure)),
        }
    }

    /// Takes these parts of a reading.
    pub(super) fn read(&self, at: &About<'_>, parts: Parts, reach: Reach) -> Result<Reading> {
        let mut taking = Taking::new(at, self, parts, reach);
        if parts != Parts::SERVER {
            taking.bulk = of_a_part(taking.ask_bulk())?;
        }
        let mut reading = Reading { parts: Vec::new(), busy: taking.busy };
        for part in parts.each() {
            let answer = match part {
                Parts::STATS => {
                    taking.stats().map(|(stats, cpu)| Content::Stats(Box::new(stats), cpu))
                }
                Parts::NICS => taking.nics().map(Content::Nics),
                Parts::DISKS => taking.disks().map(Content::Disks),
                Parts::SIZES => taking.sizes().map(Content::Sizes),
                Parts::COUNTERS => taking.counters().map(Box::new).map(Content::Counters),
                Parts::DETAILS => taking.details().map(Box::new).map(Content::Details),
                Parts::JOB => taking.job().map(|job| Content::Job(job.map(Box::new))),
                Parts::IO_THREADS => taking.io_threads().map(Content::IoThreads),
                Parts::DIRTY_RATE => taking.dirty_rate().map(Content::DirtyRate),
                _ => taking.server().map(|server| Content::Server(server.map(Box::new))),
            };
            let answer = of_a_part(answer)?;
            let start = taking.bulk.as_ref().ok().and_then(Bulk::start);
            let notes = Notes { lines: taking.lines_of(part), moment: None, start };
            reading.parts.push((part, Outcome { answer, notes }));
        }
        for (_, outcome) in &mut reading.parts {
            outcome.notes.moment = taking.moment.get();
        }
        Ok(reading)
    }
}

/// What is asked, and what to say of it when it fails.
pub(super) struct About<'a> {
    pub(super) driver: &'a Driver,
    pub(super) open: &'a Open,
    pub(super) instance: &'a InstanceId,
    /// Whether libvirt's files are on this host.
    pub(super) is_local: bool,
    pub(super) counts_vfs: &'a OnceCell<bool>,
}

impl About<'_> {
    pub(super) fn refused(&self, failure: Failure) -> Error {
        self.driver
            .failed(Some(self.instance), failure, |failure| self.no_data(Reason::Refused(failure)))
    }

    fn unusable(&self, unusable: String) -> Error {
        self.no_data(Reason::Xml(unusable))
    }

    fn no_data(&self, reason: Reason) -> Error {
        Error::NoData { instance: self.instance.clone(), reason }
    }

    fn shut_off(&self) -> Error {
        Error::InstanceShutOff { instance: self.instance.clone() }
    }
}

/// A reading while it is taken. What several parts need is asked for once.
struct Taking<'a> {
    at: &'a About<'a>,
    known: &'a Known,
    parts: Parts,
    reach: Reach,
    bulk: Result<Bulk>,
    /// What keeps the guest's process from being asked.
    busy: Option<&'static str>,
    moment: Cell<Option<Moment>>,
    /// When the bulk reading told of the disks, where the rest of it is of a later one.
    disks_measured: Option<Instant>,
    info: OnceCell<Result<(DomainInfo, Instant)>>,
    state: OnceCell<Result<u32>>,
    xml: OnceCell<Result<String>>,
    devices: OnceCell<Result<Arc<Devices>>>,
    nics: OnceCell<Result<Vec<Interface>>>,
    disks: OnceCell<Result<Vec<Disk>>>,
    /// What is to be said of devices that were refused, and to whom.
    lines: RefCell<Vec<(Parts, Arc<Warning>)>>,
}

impl<'a> Taking<'a> {
    fn new(at: &'a About<'a>, known: &'a Known, parts: Parts, reach: Reach) -> Self {
        Self {
            at,
            known,
            parts,
            reach,
            bulk: Ok(Bulk::default()),
            busy: None,
            moment: Cell::default(),
            disks_measured: None,
            info: OnceCell::new(),
            state: OnceCell::new(),
            xml: OnceCell::new(),
            devices: OnceCell::new(),
            nics: OnceCell::new(),
            disks: OnceCell::new(),
            lines: RefCell::default(),
        }
    }

    /// Asks for a bulk reading: of what only the guest's process tells, too, unless that is not to be
    /// asked, or is busy.
    fn ask_bulk(&mut self) -> Result<Bulk> {
        let domain = &self.known.domain;
        let mut groups = groups(self.parts, self.reach);
        match self.reach {
            // libvirt tells these without the domain's job while somebody else holds it; with nobody
            // holding it, this call would take it, and hang as well.
            Reach::Hypervisor if matches!(domain.is_free(), Ok(false)) => {
                groups |= CPU | VCPUS;
            }
            Reach::Guest | Reach::Hypervisor => {}
            Reach::Priority => return Ok(Bulk::default()),
        }
        let mut begun = Instant::now();
        let mut found = domain.stats(groups, false);
        let mut waits = false;
        if self.reach == Reach::Guest {
            waits = match &found {
                // Somebody else holds the job: for as long as a migration takes, or for a moment.
                Ok(Some(bulk)) if bulk.lacks_job() => {
                    self.busy = busy::reason(bulk.state, bulk.reason);
                    self.busy.is_none()
                }
                // An old daemon cannot be asked without waiting.
                Err(failure) => failure.is(c::VIR_ERR_INVALID_ARG),
                Ok(_) => false,
            };
            if waits {
                begun = Instant::now();
                found = domain.stats(groups, true);
            }
        }
        if let Err(failure) = &found {
            // Of a domain that is shut off, all of this is told.
            let is_of_domain = !failure.is_disconnection()
                && !failure.is(c::VIR_ERR_NO_SUPPORT)
                && !failure.is(c::VIR_ERR_INVALID_ARG);
            if is_of_domain && self.has_stopped() {
                begun = Instant::now();
                found = domain.stats(groups, waits);
            }
        }
        let mut found = found.map_err(|failure| self.at.refused(failure))?;
        self.measured_since(begun);
        let waited = self.at.driver.waited(begun.elapsed());
        if let Some(bulk) = found.as_mut().filter(|_| waited > WAITED) {
            self.renew(bulk, groups, begun);
        }
        found.ok_or_else(|| self.at.no_data(Reason::Vanished))
    }

    /// Asks anew for what was counted before the guest's process was waited for, so that all is of one
    /// moment. This waits for nobody who holds the job; but newer libvirts ask the process for some of
    /// the vCPUs' statistics, and it may stand still once more.
    fn renew(&mut self, bulk: &mut Bulk, groups: Groups, begun: Instant) {
        let answered = Instant::now();
        let counted_first = groups & (CPU | VCPUS | NICS);
        if self.reach == Reach::Guest && counted_first != 0 {
            if let Ok(Some(later)) = self.known.domain.stats(STATE | counted_first, false) {
                self.at.driver.took(answered.elapsed());
                if bulk.renew(later) {
                    self.disks_measured = Some(answered);
                    self.measured_since(begun);
                }
            }
        }
    }

    fn measured_since(&self, begun: Instant) {
        self.moment.set(Some(Moment::measured_since(begun, self.moment.get())));
    }

    /// What a refusal means: if the domain is shut off by now, or deleted, the reading is out of date.
    fn refused(&self, failure: Failure) -> Error {
        let is_drivers = failure.is(c::VIR_ERR_NO_SUPPORT);
        let error = self.at.refused(failure);
        if is_drivers || is_of_all(&error) || !self.has_stopped() {
            return error;
        }
        self.at.no_data(Reason::Vanished)
    }

    /// Whether the domain was shut off, or deleted, and the state that was read does not say so.
    fn has_stopped(&self) -> bool {
        if matches!(self.state.get(), Some(Ok(c::VIR_DOMAIN_SHUTOFF))) {
            return false;
        }
        match self.known.domain.state() {
            Ok(state) => state == c::VIR_DOMAIN_SHUTOFF,
            Err(failure) => failure.is(c::VIR_ERR_NO_DOMAIN),
        }
    }

    /// Whether the guest's process is left alone.
    fn is_silent(&self) -> bool {
        self.reach != Reach::Guest || self.busy.is_some()
    }

    fn silent(&self) -> Error {
        match self.busy {
            Some(why) => Error::InstanceBusy { instance: self.at.instance.clone(), why },
            None => self.at.no_data(Reason::Unanswered),
        }
    }

    /// What the bulk reading tells; nothing where the driver has none, and is asked one by one.
    fn found(&self) -> Result<Option<&Bulk>> {
        match &self.bulk {
            Ok(bulk) => Ok(Some(bulk)),
            Err(error) if error.failure().is_some_and(|f| f.is(c::VIR_ERR_NO_SUPPORT)) => Ok(None),
            Err(error) => Err(error.clone()),
        }
    }

    /// `virDomainState`, from the bulk reading or else by a call.
    fn state(&self) -> Result<u32> {
        let ask = || match (self.found()?.and_then(|bulk| bulk.state), self.reach) {
            (Some(state), _) => Ok(state),
            (None, Reach::Priority) => {
                self.known.domain.state().map_err(|failure| self.at.refused(failure))
            }
            (None, _) => Ok(self.info()?.0.state),
        };
        self.state.get_or_init(ask).clone()
    }

    /// `virDomainGetInfo`, and when that was answered.
    fn info(&self) -> Result<(DomainInfo, Instant)> {
        let ask = || {
            let begun = Instant::now();
            let info = self.known.domain.info().map_err(|failure| self.at.refused(failure))?;
            // The time of the whole reading is that of its first call.
            if self.moment.get().is_none() {
                self.measured_since(begun);
            }
            Ok((info, Instant::now()))
        };
        self.info.get_or_init(ask).clone()
    }

    /// The bulk reading of a domain that must not be shut off.
    fn running(&self) -> Result<Option<&Bulk>> {
        if self.state()? == c::VIR_DOMAIN_SHUTOFF {
            return Err(self.at.shut_off());
        }
        self.found()
    }

    /// The bulk reading of a domain whose guest's process is asked, too.
    fn answering(&self) -> Result<Option<&Bulk>> {
        let bulk = self.running()?;
        if self.is_silent() { Err(self.silent()) } else { Ok(bulk) }
    }

    fn stats(&self) -> Result<(InstanceStats, CpuTimes)> {
        let (mut stats, cpu) = self.ask_stats()?;
        if !self.at.driver.options.parity {
            stats::leave_out_impossible(&mut stats);
        }
        Ok((stats, cpu))
    }

    fn ask_stats(&self) -> Result<(InstanceStats, CpuTimes)> {
        let single;
        let bulk = match self.found()? {
            Some(bulk) => bulk,
            // Ceilometer's inspector has nothing then.
            None if self.at.driver.options.parity => self.bulk.as_ref().map_err(Clone::clone)?,
            // As LXC's.
            None => {
                single = Bulk::of_info(&self.info()?.0);
                &single
            }
        };
        let state = self.state()?;
        if state == c::VIR_DOMAIN_SHUTOFF {
            if !self.at.driver.options.report_stopped {
                return Err(self.at.shut_off());
            }
            return Ok((stats::stopped_instance_stats(self.info()?.0), CpuTimes::default()));
        }
        let vcpus = stats::vcpus(bulk);
        // A driver without bulk readings may lack these as well.
        let memory =
            if self.bulk.is_ok() { self.memory(bulk)? } else { self.memory_if_told(bulk)? };
        let mut cpu = bulk.cpu_times();
        if self.is_silent() {
            let known = stats::instance_stats(state, &memory, bulk, &vcpus, None);
            // Without the vCPUs, nobody has counted their time.
            return Ok((InstanceStats { cpu_time: bulk.vcpus.and(known.cpu_time), ..known }, cpu));
        }
        // To Ceilometer's inspector, nothing is missing where libvirt tells of no vCPUs at all.
        let lacks_vcpus = bulk.vcpus.is_none() && !self.at.driver.options.parity;
        if (!vcpus.is_complete() || lacks_vcpus) && cpu.whole.is_none() {
            let total = self.known.domain.stats(CPU, true);
            let total = total.map_err(|failure| self.at.refused(failure))?;
            cpu.whole = total.ok_or_else(|| self.at.no_data(Reason::Vanished))?.cpu_time;
        }
        Ok((stats::instance_stats(state, &memory, bulk, &vcpus, cpu.whole), cpu))
    }

    fn counters(&self) -> Result<VmCounters> {
        let none = Bulk::default();
        let bulk = self.running()?.unwrap_or(&none);
        let vcpus = stats::vcpus(bulk);
        let counters = VmCounters {
            vcpus: bulk.cpu_times().vcpus,
            vcpu_time: vcpus.ran,
            cpu_time: bulk.cpu_time,
            vcpu_wait: vcpus.wait,
            vcpu_delay: vcpus.delay,
            interfaces: self.nics()?,
            ..VmCounters::default()
        };
        let (sums, measured) = match (Sums::of(bulk), self.reach) {
            (Some(sums), _) => (sums, None),
            (None, Reach::Priority) => return Ok(counters),
            (None, _) => {
                let (info, answered) = self.info()?;
                if self.reach == Reach::Hypervisor {
                    return Ok(VmCounters { cpu_number: Some(info.vcpus.into()), ..counters });
                }
                (info.into(), Some(answered))
            }
        };
        let disks = if self.is_silent() { None } else { Some(self.disks()?) };
        Ok(VmCounters {
            cpu_number: Some(sums.vcpus),
            // What the bulk reading has is of its moment.
            cpu_time: bulk.cpu_time.or(Some(sums.cpu_time)),
            cpu_measured: measured.filter(|_| bulk.cpu_time.is_none()),
            memory: stats::memory(&sums, &self.memory_if_told(bulk)?),
            disks,
            ..counters
        })
    }

    /// The memory statistics; where libvirt refuses them, none, as they are but a part of the answer.
    fn memory_if_told(&self, bulk: &Bulk) -> Result<Vec<(u32, u64)>> {
        match self.memory(bulk) {
            Err(error) if !is_of_all(&error) => Ok(Vec::new()),
            memory => memory,
        }
    }

    /// The memory statistics, from the bulk reading or else by a call.
    fn memory(&self, bulk: &Bulk) -> Result<Vec<(u32, u64)>> {
        match self.has_balloon(bulk)? {
            Some(balloon) => Ok(bulk.memory(balloon)),
            None if self.is_silent() => Ok(Vec::new()),
            None => {
                let memory = self.known.domain.memory_stats();
                memory.map_err(|failure| self.refused(failure))
            }
        }
    }

    /// Whether the domain has a balloon, which stays so while it runs; `None` where its XML does
    /// not tell, or the bulk reading has no memory.
    fn has_balloon(&self, bulk: &Bulk) -> Result<Option<bool>> {
        if !bulk.has_memory() {
            return Ok(None);
        }
        if let Some((then, balloon)) = self.known.balloon.get() {
            if then == bulk.number {
                return Ok(balloon);
            }
        }
        let balloon = match self.devices() {
            Ok(devices) => Some(devices.balloon),
            Err(Error::NoData { reason: Reason::Xml(_), .. }) => None,
            Err(error) => return Err(error),
        };
        self.known.balloon.set(Some((bulk.number, balloon)));
        Ok(balloon)
    }

    fn server(&self) -> Result<Option<ServerDescription>> {
        self.with_xml(nova_xml::server)
    }

    /// What it is, running or not, with each vCPU where that runs.
    fn details(&self) -> Result<InstanceDetails> {
        let state = self.state()?;
        let bulk = self.found()?;
        let details = self.described(&self.at.driver.details, details_xml::details)?;
        Ok(InstanceDetails {
            state,
            reason: bulk.and_then(|bulk| reasons::words(state, bulk.reason?)),
            vcpus: bulk.map(stats::each_vcpu).unwrap_or_default(),
            ..(*details).clone()
        })
    }

    fn job(&self) -> Result<Option<JobStats>> {
        let bulk = self.answering()?;
        match self.known.domain.job_stats() {
            // Drivers that know no jobs.
            Err(failure) if failure.is(c::VIR_ERR_NO_SUPPORT) => Ok(None),
            // Only the source host tells of a migration.
            Err(failure) if failure.is(c::VIR_ERR_OPERATION_UNSUPPORTED) => {
                match bulk.and_then(|bulk| busy::reason(bulk.state, bulk.reason)) {
                    Some(why) => {
                        Err(Error::InstanceBusy { instance: self.at.instance.clone(), why })
                    }
                    None => Err(self.refused(failure)),
                }
            }
            job => job.map(stats::job).map_err(|failure| self.refused(failure)),
        }
    }

    fn io_threads(&self) -> Result<Vec<IoThreadStats>> {
        let bulk = self.with_job()?;
        Ok(bulk.map(Bulk::io_threads).unwrap_or_default())
    }

    fn dirty_rate(&self) -> Result<Option<DirtyRate>> {
        let bulk = self.with_job()?;
        Ok(bulk.and_then(Bulk::dirty_rate))
    }

    /// The same, unless libvirt has waited for the domain's job in vain, and has left out what takes it.
    fn with_job(&self) -> Result<Option<&Bulk>> {
        let bulk = self.answering()?;
        if bulk.is_some_and(Bulk::lacks_job) { Err(self.silent()) } else { Ok(bulk) }
    }

    /// The devices, by the domain's XML, or by what it was last where that need not be asked for.
    fn devices(&self) -> Result<Arc<Devices>> {
        let ask = || {
            let names = Parts::STATS.and(Parts::DISKS).and(Parts::COUNTERS);
            if self.reach != Reach::Priority && self.parts.without(names) == Parts::NONE {
                let uuid = self.known.domain.uuid();
                let last = self.at.driver.devices.with(|devices| devices.last(uuid));
                if let Some(devices) = last.filter(|devices| self.are_just(devices)) {
                    return Ok(devices);
                }
            }
            self.described(&self.at.driver.devices, domain_xml::devices)
        };
        self.devices.get_or_init(ask).clone()
    }

    /// What the domain's XML describes, or has last described where it must not be asked for.
    fn described<T>(
        &self,
        described: &PerProcess<Described<T>>,
        parse: fn(&str) -> std::result::Result<T, Unusable>,
    ) -> Result<Arc<T>> {
        let uuid = self.known.domain.uuid();
        if self.reach == Reach::Priority {
            return described.with(|known| known.last(uuid)).ok_or_else(|| self.silent());
        }
        self.with_xml(|xml| described.with(|known| known.by(uuid, xml, parse)))
    }

    /// Whether an XML could tell no names that are not known already: the bulk reading has just these,
    /// and it was read since the domain was started.
    fn are_just(&self, devices: &Devices) -> bool {
        let Ok(bulk) = &self.bulk else { return false };
        let nics = devices.nics.iter().map(|nic| nic.name.as_str());
        let disks = devices.disks.iter().map(|disk| disk.name.as_str());
        self.known.balloon.get().is_some_and(|(number, _)| number == bulk.number)
            && bulk.disks_are(disks, &devices.empty)
            && devices.disks.iter().all(|disk| bulk.lies_on_its_source(disk))
            && (!self.parts.has(Parts::COUNTERS) || bulk.nics_are(nics, devices.nic_count))
    }

    /// What the domain's XML says.
    fn with_xml<T>(&self, read: impl FnOnce(&str) -> std::result::Result<T, String>) -> Result<T> {
        let ask = || {
            let xml = self.known.domain.xml().map_err(|failure| self.at.refused(failure))?;
            String::from_utf8(xml).map_err(|error| self.at.unusable(error.utf8_error().to_string()))
        };
        let xml = self.xml.get_or_init(ask).as_ref().map_err(Clone::clone)?;
        read(xml).map_err(|unusable| self.at.unusable(unusable))
    }

    /// The domain's number, another at each start, by the bulk reading, or else by its XML.
    fn number(&self) -> Option<u32> {
        match &self.bulk {
            Ok(bulk) if self.reach != Reach::Priority => Some(bulk.number),
            _ => self.devices().ok()?.number,
        }
    }

    /// What the log is to say of a part.
    fn lines_of(&self, part: Parts) -> Vec<Arc<Warning>> {
        let lines = self.lines.borrow();
        lines.iter().filter(|(of, _)| of.has(part)).map(|(_, line)| Arc::clone(line)).collect()
    }
}

/// An answer that is one part's own; else the whole reading has failed.
fn of_a_part<T>(answer: Result<T>) -> Result<Result<T>> {
    match answer {
        Err(error) if is_of_all(&error) => Err(error),
        answer => Ok(answer),
    }
}

/// Whether the connection broke, or the whole instance went away.
fn is_of_all(error: &Error) -> bool {
    matches!(error, Error::ConnectionLost { .. }) || has_vanished(error)
}

pub(super) fn has_vanished(error: &Error) -> bool {
    matches!(error, Error::NoData { reason: Reason::Vanished, .. })
        || error.failure().is_some_and(|failure| failure.is(c::VIR_ERR_NO_DOMAIN))
}
