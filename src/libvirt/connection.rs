//! Which of libvirt's calls make up which reading.
//!
//! What a bulk reading tells is taken from there, in one round trip; what it lacks, because the
//! driver is not QEMU's or the device was refused, is asked for by a call of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;
use virt_sys as c;

use super::domain_xml::{self, Devices};
use super::last::{Last, Questions};
use super::parameters::Parameters;
use super::stats::{self, Sums};
use super::sys::{self, Connection as Open, Domain, DomainInfo, DomainStats};
use super::{Driver, bulk, nova_xml};
use crate::error::{Error, Failure, Reason, Result};
use crate::hypervisor::{Connection, Moment, Notes};
use crate::recent::Recent;
use crate::records::{
    Disk, DiskInfo, Instance, InstanceId, InstanceStats, Interface, Memory, ServerDescription,
    VmCounters,
};

type Groups = c::virDomainStatsTypes;
const STATE: Groups = c::VIR_DOMAIN_STATS_STATE;
const CPU: Groups = c::VIR_DOMAIN_STATS_CPU_TOTAL;
const MEMORY: Groups = c::VIR_DOMAIN_STATS_BALLOON;
const VCPUS: Groups = c::VIR_DOMAIN_STATS_VCPU;
const NICS: Groups = c::VIR_DOMAIN_STATS_INTERFACE;
const DISKS: Groups = c::VIR_DOMAIN_STATS_BLOCK;
const PERF: Groups = c::VIR_DOMAIN_STATS_PERF;
/// A bulk reading of one domain; none where libvirt has left it out, as it is gone.
type Bulk = std::result::Result<Option<DomainStats>, Failure>;
/// All that usage is reckoned from, to be read at one moment.
const USAGE: Groups = STATE | CPU | MEMORY | VCPUS | NICS | DISKS;

/// Domains that nobody has asked about for so long are looked up again when somebody does.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// An open connection to libvirt, and the domains that were looked up over it.
pub struct LibvirtConnection {
    driver: Arc<Driver>,
    max_age: Duration,
    // Before the connection: a domain holds it open.
    domains: Recent<Uuid, Known>,
    open: Open,
    /// The list by which domains that do not exist were dropped.
    swept: Option<Instant>,
}

/// A domain that was looked up. It stays valid: libvirt finds the domain by its UUID.
struct Known {
    domain: Domain,
    /// The domain's number, another at each start, and whether it has a balloon since then.
    balloon: Option<(u32, Option<bool>)>,
}

impl LibvirtConnection {
    pub(super) fn new(driver: Arc<Driver>, open: Open, max_age: Duration) -> Self {
        Self { driver, max_age, domains: Recent::new(FORGOTTEN), open, swept: None }
    }
}

impl Connection for LibvirtConnection {
    fn is_alive(&self) -> bool {
        self.open.is_alive()
    }

    fn instances(&mut self) -> Result<Vec<Instance>> {
        let asked = Instant::now();
        let list = match self.open.all_stats(STATE) {
            Ok(domains) => Ok(domains.iter().map(listed).collect()),
            // Drivers without bulk statistics (LXC, for one) are asked domain by domain.
            Err(failure) if failure.is(c::VIR_ERR_NO_SUPPORT) => list_one_by_one(&self.open),
            Err(failure) => Err(failure),
        };
        let uri = || self.driver.uri.clone();
        if let Ok(instances) = &list {
            let existing = |instances: &Vec<Instance>| instances.iter().map(|i| i.id).collect();
            self.driver.list(asked, existing(instances));
        }
        list.map_err(|failure| {
            lost(&self.driver, None, failure, |failure| Error::NoList { uri: uri(), failure })
        })
    }

    fn server(&mut self, instance: &InstanceId) -> Result<Option<ServerDescription>> {
        self.about(instance, &mut Notes::default(), |known, at, _| {
            let xml = at.xml(&known.domain)?;
            xml.and_then(|xml| nova_xml::server(&xml)).map_err(|unusable| at.unusable(unusable))
        })
    }

    fn instance_stats(
        &mut self,
        instance: &InstanceId,
        notes: &mut Notes,
    ) -> Result<InstanceStats> {
        self.about(instance, notes, |known, at, notes| {
            let found = at.stats(&known.domain, Questions::INSTANCE, notes)?;
            let state = at.state(&known.domain, &found)?;
            if state == c::VIR_DOMAIN_SHUTOFF {
                return at.stopped(&known.domain);
            }
            let memory = at.memory(known, &found)?;
            let vcpus = stats::vcpus(&found.parameters);
            let cpu_time = if vcpus.is_complete() {
                None
            } else {
                let total = at.present(known.domain.stats(CPU, true))?;
                total.parameters.get("cpu.time").copied()
            };
            Ok(stats::instance_stats(state, &memory, &found.parameters, &vcpus, cpu_time))
        })
    }

    fn stats_of_hung(&mut self, instance: &InstanceId) -> Result<InstanceStats> {
        self.about(instance, &mut Notes::default(), |known, at, _| {
            let (found, held) = without_guest(&known.domain, STATE | PERF, VCPUS);
            let found = at.present(found)?;
            let state = at.state(&known.domain, &found)?;
            if state == c::VIR_DOMAIN_SHUTOFF {
                return at.stopped(&known.domain);
            }
            let vcpus = stats::vcpus(&found.parameters);
            let known = stats::instance_stats(state, &[], &found.parameters, &vcpus, None);
            Ok(InstanceStats { cpu_time: known.cpu_time.filter(|_| held), ..known })
        })
    }

    fn interfaces(&mut self, instance: &InstanceId, notes: &mut Notes) -> Result<Vec<Interface>> {
        self.about(instance, notes, |known, at, notes| {
            let found =
                at.running(&known.domain, at.stats(&known.domain, Questions::NICS, notes))?;
            at.interfaces(&known.domain, &found, notes)
        })
    }

    fn disk_stats(&mut self, instance: &InstanceId, notes: &mut Notes) -> Result<Vec<Disk>> {
        self.about(instance, notes, |known, at, notes| {
            let found =
                at.running(&known.domain, at.stats(&known.domain, Questions::DISKS, notes))?;
            at.disks(&known.domain, &found, notes)
        })
    }

    fn disk_info(&mut self, instance: &InstanceId, notes: &mut Notes) -> Result<Vec<DiskInfo>> {
        self.about(instance, notes, |known, at, notes| {
            let (found, devices) = at.sized_devices(&known.domain, notes)?;
            let mut disks = Vec::with_capacity(devices.disks.len());
            for domain_xml::Disk { name, raw_file } in &devices.disks {
                let in_bulk = bulk::sizes(&found, name).filter(|_| *raw_file);
                let (sizes, _) =
                    at.measure(name, in_bulk, || known.domain.block_info(name), notes)?;
                disks.extend(sizes.map(|sizes| stats::disk_info(name.clone(), sizes)));
            }
            Ok(disks)
        })
    }

    fn counters(&mut self, instance: &InstanceId, notes: &mut Notes) -> Result<VmCounters> {
        self.about(instance, notes, |known, at, notes| {
            let begun = Instant::now();
            let found = at.present(known.domain.stats(USAGE, true)).map(Arc::new);
            notes.measured_since(begun);
            let found = at.running(&known.domain, found)?;
            let sums = if let Some(sums) = Sums::of(&found.parameters) {
                sums
            } else {
                let info = at.info(&known.domain)?;
                notes.measured_since(begun);
                info.into()
            };
            let vcpus = stats::vcpus(&found.parameters);
            Ok(VmCounters {
                cpu_number: Some(sums.vcpus),
                vcpu_time: vcpus.ran,
                cpu_time: Some(sums.cpu_time),
                vcpu_wait: vcpus.wait,
                vcpu_delay: vcpus.delay,
                memory: stats::memory(&sums, &at.memory(known, &found)?),
                interfaces: at.interfaces(&known.domain, &found, notes)?,
                disks: Some(at.disks(&known.domain, &found, notes)?),
            })
        })
    }

    fn counters_of_hung(&mut self, instance: &InstanceId, notes: &mut Notes) -> Result<VmCounters> {
        self.about(instance, notes, |known, at, notes| {
            let begun = Instant::now();
            let (found, _) = without_guest(&known.domain, STATE | NICS, CPU | VCPUS);
            notes.measured_since(begun);
            let found = at.running(&known.domain, at.present(found).map(Arc::new))?;
            let vcpus = stats::vcpus(&found.parameters);
            Ok(VmCounters {
                cpu_number: Some(at.info(&known.domain)?.vcpus.into()),
                vcpu_time: vcpus.ran,
                cpu_time: found.parameters.get("cpu.time").copied(),
                vcpu_wait: vcpus.wait,
                vcpu_delay: vcpus.delay,
                memory: Memory::default(),
                interfaces: at.interfaces(&known.domain, &found, notes)?,
                disks: None,
            })
        })
    }

    fn host_cpus(&mut self, notes: &mut Notes) -> Result<Option<u32>> {
        match self.open.host_cpus() {
            Ok(cpus) => Ok(Some(cpus)),
            Err(failure) if failure.is_disconnection() => {
                Err(Error::ConnectionLost { uri: self.driver.uri.clone(), instance: None, failure })
            }
            Err(failure) => {
                notes.lines.push(format!(
                    "libvirt does not tell how many CPUs the host has, so no usage of them is \
                     reported: {failure}"
                ));
                Ok(None)
            }
        }
    }

    fn is_free(&mut self, instance: &InstanceId) -> Result<Option<bool>> {
        self.about(instance, &mut Notes::default(), |known, at, _| match known.domain.is_free() {
            // Other drivers than QEMU's do not tell.
            Err(failure) if failure.is(c::VIR_ERR_NO_SUPPORT) => Ok(None),
            Err(failure) if failure.is(c::VIR_ERR_OPERATION_INVALID) => Err(at.shut_off()),
            answer => answer.map(Some).map_err(|failure| at.refused(failure)),
        })
    }
}

impl LibvirtConnection {
    /// Asks about a domain, and looks it up first unless that has been done.
    fn about<T>(
        &mut self,
        instance: &InstanceId,
        notes: &mut Notes,
        mut question: impl FnMut(&mut Known, &About<'_>, &mut Notes) -> Result<T>,
    ) -> Result<T> {
        let now = Instant::now();
        if let Some((asked, existing)) = self.driver.listed_since(self.swept) {
            self.domains.forget_all_but(asked, |domain| existing.contains(domain));
            self.swept = Some(asked);
        }
        let at = About { driver: &self.driver, instance, max_age: self.max_age };
        if let Some(known) = self.domains.get_mut(&instance.uuid, now) {
            let lines = notes.lines.len();
            match question(known, &at, notes) {
                // Look it up again: that tells whether it is gone.
                Err(error) if has_vanished(&error) => {
                    notes.lines.truncate(lines);
                    notes.moment = None;
                }
                answer => return answer,
            }
        }
        self.domains.remove(&instance.uuid);
        let domain = self.open.lookup(instance.uuid).map_err(|failure| {
            lost(&self.driver, Some(instance), failure, |failure| {
                let gone = failure.is(c::VIR_ERR_NO_DOMAIN);
                if gone {
                    self.driver.last.with(|last| last.forget_one(instance.uuid));
                }
                Error::InstanceNotFound { instance: instance.clone(), gone, failure }
            })
        })?;
        let known = Known { domain, balloon: None };
        question(self.domains.insert(instance.uuid, known, now), &at, notes)
    }
}

/// What is asked, and what to say of it when it fails.
struct About<'a> {
    driver: &'a Driver,
    instance: &'a InstanceId,
    max_age: Duration,
}

impl About<'_> {
    /// A bulk reading for a question: one that is left over, or a new one, made for other questions
    /// too where they came soon after the last one.
    fn stats(
        &self,
        domain: &Domain,
        question: Questions,
        notes: &mut Notes,
    ) -> Result<Arc<DomainStats>> {
        if let Some(found) = self.left_over(domain, question, notes) {
            return Ok(found);
        }
        // What may have to wait for the guest is not asked for by those who must not.
        let others = if question == Questions::NICS {
            Questions::NONE
        } else {
            self.last(|last| last.wanted(domain.uuid())).without(question)
        };
        let begun = Instant::now();
        let found = Arc::new(self.present(domain.stats(groups(question.and(others)), true))?);
        let taken = Moment { earliest: begun, latest: Instant::now() };
        notes.moment = Some(taken);
        self.last(|last| last.keep(domain.uuid(), (taken, Arc::clone(&found)), question, others));
        Ok(found)
    }

    fn left_over(
        &self,
        domain: &Domain,
        question: Questions,
        notes: &mut Notes,
    ) -> Option<Arc<DomainStats>> {
        let take = |last: &Last| last.take(domain.uuid(), question, Instant::now(), self.max_age);
        let (taken, found) = self.last(take)?;
        notes.moment = Some(taken);
        Some(found)
    }

    fn last<R>(&self, use_last: impl FnOnce(&Last) -> R) -> R {
        self.driver.last.with(use_last)
    }

    fn present(&self, answer: Bulk) -> Result<DomainStats> {
        let answer = answer.map_err(|failure| self.refused(failure))?;
        answer.ok_or_else(|| self.no_data(Reason::Vanished))
    }

    /// A bulk reading of a domain that must not be shut off; an empty one where the driver has none.
    fn running(
        &self,
        domain: &Domain,
        found: Result<Arc<DomainStats>>,
    ) -> Result<Arc<DomainStats>> {
        let found = match found {
            Err(error) if error.failure().is_some_and(|f| f.is(c::VIR_ERR_NO_SUPPORT)) => {
                Arc::default()
            }
            answer => answer?,
        };
        self.not_shut_off(domain, &found)?;
        Ok(found)
    }

    fn not_shut_off(&self, domain: &Domain, found: &DomainStats) -> Result<()> {
        if self.state(domain, found)? == c::VIR_DOMAIN_SHUTOFF {
            Err(self.shut_off())
        } else {
            Ok(())
        }
    }

    /// The memory statistics, from a bulk reading or else by a call.
    fn memory(&self, known: &mut Known, found: &DomainStats) -> Result<Vec<(u32, u64)>> {
        match self.has_balloon(known, found)? {
            Some(balloon) => Ok(bulk::memory(&found.parameters, balloon)),
            None => known.domain.memory_stats().map_err(|failure| self.refused(failure)),
        }
    }

    /// The NICs, from a bulk reading or else by a call for each.
    fn interfaces(
        &self,
        domain: &Domain,
        found: &DomainStats,
        notes: &mut Notes,
    ) -> Result<Vec<Interface>> {
        let devices = self.devices(domain, |devices| {
            let nics = devices.nics.iter().map(|nic| nic.name.as_str());
            bulk::names_are(found, "net", |name| devices.targets.contains(name), nics)
        })?;
        let mut interfaces = Vec::with_capacity(devices.nics.len());
        for nic in &devices.nics {
            let (name, in_bulk) = (&nic.name, bulk::interface(found, &nic.name));
            let (counters, measured) =
                self.measure(name, in_bulk, || domain.interface_stats(name), notes)?;
            interfaces.push(Interface {
                name: nic.name.clone(),
                mac: nic.mac.clone(),
                fref: nic.fref.clone(),
                parameters: nic.parameters.clone(),
                counters: counters.map(stats::interface_counters),
                measured,
            });
        }
        Ok(interfaces)
    }

    /// The disks, from a bulk reading or else by calls for each.
    fn disks(&self, domain: &Domain, found: &DomainStats, notes: &mut Notes) -> Result<Vec<Disk>> {
        let devices = self.disk_devices(domain, found)?;
        let mut disks = Vec::with_capacity(devices.disks.len());
        for domain_xml::Disk { name, .. } in &devices.disks {
            let one_by_one = || Ok((domain.block_stats(name)?, domain.block_stats_flags(name)?));
            let (counters, measured) =
                self.measure(name, bulk::disk(found, name), one_by_one, notes)?;
            disks.push(Disk {
                device: name.clone(),
                counters: counters.map(|(c, flags)| stats::disk_counters(c, &flags)),
                measured,
            });
        }
        Ok(disks)
    }

    /// The devices of a domain that must not be shut off (unless stopped ones are reported), and a
    /// bulk reading that may have their sizes.
    fn sized_devices(
        &self,
        domain: &Domain,
        notes: &mut Notes,
    ) -> Result<(Arc<DomainStats>, Arc<Devices>)> {
        let even_stopped = self.driver.report_stopped;
        if let Some(found) = self.left_over(domain, Questions::SIZES, notes) {
            if !even_stopped {
                self.not_shut_off(domain, &found)?;
            }
            let devices = self.disk_devices(domain, &found)?;
            return Ok((found, devices));
        }
        let found = Arc::default();
        if let Some(devices) = self.recent_devices(domain) {
            if !even_stopped {
                self.not_shut_off(domain, &self.present(domain.stats(STATE, true))?)?;
            }
            return Ok((found, devices));
        }
        let devices = self.fresh_devices(domain)?;
        // One with a number runs.
        if !even_stopped && !devices.active {
            self.not_shut_off(domain, &DomainStats::default())?;
        }
        Ok((found, devices))
    }

    /// The devices, read anew unless the disks that a bulk reading names are those known of late.
    fn disk_devices(&self, domain: &Domain, found: &DomainStats) -> Result<Arc<Devices>> {
        self.devices(domain, |devices| {
            let disks = devices.disks.iter().map(|disk| disk.name.as_str());
            bulk::names_are(found, "block", |name| devices.targets.contains(name), disks)
        })
    }

    /// What is reported of a domain that is shut off.
    fn stopped(&self, domain: &Domain) -> Result<InstanceStats> {
        if self.driver.report_stopped {
            Ok(stats::stopped_instance_stats(self.info(domain)?))
        } else {
            Err(self.shut_off())
        }
    }

    /// `virDomainState`, from a bulk reading or else by a call.
    fn state(&self, domain: &Domain, found: &DomainStats) -> Result<u32> {
        match state(&found.parameters) {
            Some(state) => Ok(state),
            None => Ok(self.info(domain)?.state),
        }
    }

    fn info(&self, domain: &Domain) -> Result<DomainInfo> {
        domain.info().map_err(|failure| self.refused(failure))
    }

    /// Whether the domain has a balloon, which stays so while it runs; `None` where its XML does
    /// not tell, or the bulk reading has no memory.
    fn has_balloon(&self, known: &mut Known, found: &DomainStats) -> Result<Option<bool>> {
        if !bulk::has_memory(&found.parameters) {
            return Ok(None);
        }
        let number = found.number;
        match known.balloon {
            Some((then, balloon)) if then == number => Ok(balloon),
            _ => {
                let read = match self.recent_devices(&known.domain) {
                    Some(devices) => Ok(devices),
                    None => self.fresh_devices(&known.domain),
                };
                let balloon = match read {
                    Ok(devices) => Some(devices.balloon),
                    Err(Error::NoData { reason: Reason::Xml(_), .. }) => None,
                    Err(error) => return Err(error),
                };
                known.balloon = Some((number, balloon));
                Ok(balloon)
            }
        }
    }

    /// The devices as they were read of late, or just now if `still` does not find them as they
    /// are.
    fn devices(
        &self,
        domain: &Domain,
        still: impl FnOnce(&Devices) -> bool,
    ) -> Result<Arc<Devices>> {
        match self.recent_devices(domain).filter(|devices| still(devices)) {
            Some(devices) => Ok(devices),
            None => self.fresh_devices(domain),
        }
    }

    fn recent_devices(&self, domain: &Domain) -> Option<Arc<Devices>> {
        let now = Instant::now();
        self.last(|last| last.devices(domain.uuid(), now, self.max_age))
    }

    fn fresh_devices(&self, domain: &Domain) -> Result<Arc<Devices>> {
        let asked = Instant::now();
        let read = self.xml(domain)?.and_then(|xml| domain_xml::devices(&xml));
        let devices = Arc::new(read.map_err(|unusable| self.unusable(unusable))?);
        self.last(|last| last.keep_devices(domain.uuid(), asked, &devices));
        Ok(devices)
    }

    /// The domain's XML, or why it cannot be used.
    fn xml(&self, domain: &Domain) -> Result<std::result::Result<String, String>> {
        let xml = domain.xml().map_err(|failure| self.refused(failure))?;
        Ok(String::from_utf8(xml).map_err(|error| error.utf8_error().to_string()))
    }

    /// What a bulk reading tells of a device, or else a call of its own, and when that call measured
    /// it; `None`, and a note, where libvirt refuses it.
    fn measure<T>(
        &self,
        device: &str,
        in_bulk: Option<T>,
        call: impl FnOnce() -> std::result::Result<T, Failure>,
        notes: &mut Notes,
    ) -> Result<(Option<T>, Option<Instant>)> {
        if in_bulk.is_some() {
            return Ok((in_bulk, None));
        }
        let begun = Instant::now();
        match call() {
            Ok(counters) => {
                // The time of the whole reading is that of its first call.
                if notes.moment.is_none() {
                    notes.measured_since(begun);
                }
                Ok((Some(counters), Some(Instant::now())))
            }
            // Not the device's fault: the connection broke, or the whole instance went away.
            Err(failure) if failure.is_disconnection() || failure.is(c::VIR_ERR_NO_DOMAIN) => {
                Err(self.refused(failure))
            }
            Err(failure) => {
                let instance = self.instance;
                notes.lines.push(format!(
                    "{device:?} of instance {instance} is left out of this reading: {failure}"
                ));
                Ok((None, None))
            }
        }
    }

    fn refused(&self, failure: Failure) -> Error {
        lost(self.driver, Some(self.instance), failure, |failure| {
            self.no_data(Reason::Refused(failure))
        })
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

/// The statistics that answer these questions. Asking for every group loses the whole answer when
/// one group fails, and costs QEMU more.
fn groups(questions: Questions) -> Groups {
    let asked = [
        (Questions::INSTANCE, VCPUS | MEMORY | PERF),
        (Questions::NICS, NICS),
        (Questions::DISKS, DISKS),
        (Questions::SIZES, DISKS),
    ];
    let chosen = asked.iter().filter(|(question, _)| questions.has(*question));
    chosen.fold(STATE, |groups, (_, more)| groups | more)
}

/// What a failure means: the connection broke, or else this error.
fn lost(
    driver: &Driver,
    instance: Option<&InstanceId>,
    failure: Failure,
    otherwise: impl FnOnce(Failure) -> Error,
) -> Error {
    if failure.is_disconnection() {
        Error::ConnectionLost { uri: driver.uri.clone(), instance: instance.cloned(), failure }
    } else {
        otherwise(failure)
    }
}

/// A bulk reading that does not wait for the domain's guest, and whether a call that hangs holds the
/// domain's job. In that case libvirt tells what usually needs the job without it; with nobody
/// holding it, this call would take it, and hang as well.
fn without_guest(domain: &Domain, groups: Groups, if_held: Groups) -> (Bulk, bool) {
    let held = matches!(domain.is_free(), Ok(false));
    let groups = if held { groups | if_held } else { groups };
    (domain.stats(groups, false), held)
}

fn has_vanished(error: &Error) -> bool {
    matches!(error, Error::NoData { reason: Reason::Vanished, .. })
        || error.failure().is_some_and(|failure| failure.is(c::VIR_ERR_NO_DOMAIN))
}

fn state(parameters: &Parameters) -> Option<u32> {
    parameters.get("state.state").and_then(|state| u32::try_from(*state).ok())
}

fn listed((domain, found): &(Domain, DomainStats)) -> Instance {
    // Without a state, it has VIR_DOMAIN_NOSTATE.
    with_state(domain, state(&found.parameters).unwrap_or_default())
}

fn with_state(domain: &Domain, state: u32) -> Instance {
    Instance { id: domain.uuid(), name: domain.name(), state }
}

/// A domain that goes away meanwhile is left out.
fn list_one_by_one(open: &sys::Connection) -> std::result::Result<Vec<Instance>, Failure> {
    let mut instances = Vec::new();
    for domain in open.domains()? {
        match domain.info() {
            Ok(info) => instances.push(with_state(&domain, info.state)),
            Err(failure) if failure.is(c::VIR_ERR_NO_DOMAIN) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(instances)
}
