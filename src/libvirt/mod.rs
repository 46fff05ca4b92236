//! The libvirt driver (<https://libvirt.org>): any hypervisor that libvirt reaches.

mod domain_xml;
mod nova_xml;
mod session;
mod stats;
mod sys;
mod xml;

use virt_sys as c;

use crate::error::{Error, Failure, Reason, Result};
use crate::hypervisor::Hypervisor;
use crate::records::{DiskInfo, DiskStats, Instance, InstanceId, InstanceStats, Interface, Server};
use session::{Session, Setback};
use sys::{Connection, Domain};

/// Only what an [`InstanceStats`] needs. Asking for every group loses the whole answer when one
/// group fails, and costs QEMU more.
const INSTANCE_GROUPS: c::virDomainStatsTypes = c::VIR_DOMAIN_STATS_VCPU | c::VIR_DOMAIN_STATS_PERF;

type Answer<T> = std::result::Result<T, Setback>;

/// A libvirt connection, opened read-only at the first question.
pub struct Libvirt {
    session: Session,
    report_stopped: bool,
}

impl Libvirt {
    /// A driver for a connection URI (<https://libvirt.org/uri.html>); `""` leaves the choice to
    /// libvirt. With `report_stopped`, instances that are shut off have an [`InstanceStats`] and
    /// disk sizes too. Connects to nothing yet.
    #[must_use]
    pub fn new(uri: &str, report_stopped: bool) -> Self {
        Self { session: Session::new(uri), report_stopped }
    }

    /// Whether instances that are shut off are reported.
    #[must_use]
    pub fn reports_stopped(&self) -> bool {
        self.report_stopped
    }
}

/// Keeps libvirt from printing on stderr when a connection cannot be opened.
///
/// Sets libvirt's process-wide error handler, which passes everybody else's errors on to libvirt's
/// default printer. Do not call it where another part of the process has set a handler before; one
/// that is set later simply takes over. Errors on open connections are never printed anyway.
pub fn quiet_opens() {
    sys::quiet_opens();
}

impl Hypervisor for Libvirt {
    fn uri(&self) -> &str {
        self.session.uri()
    }

    fn is_connected(&self) -> bool {
        self.session.is_connected()
    }

    fn close(&self) {
        self.session.close();
    }

    fn instances(&self) -> Result<Vec<Instance>> {
        self.session.ask(None, |connection| {
            Ok(self.list(connection)?.into_iter().map(|(_, instance)| instance).collect())
        })
    }

    fn servers(&self) -> Result<Vec<Server>> {
        self.session.ask(None, |connection| {
            let mut servers = Vec::new();
            for (domain, instance) in self.list(connection)? {
                servers.extend(read_server(&domain, instance)?);
            }
            Ok(servers)
        })
    }

    fn instance_stats(&self, instance: &InstanceId) -> Result<InstanceStats> {
        self.session.ask(Some(instance), |connection| {
            let domain = look_up(connection, instance)?;
            let info = domain.info().map_err(|failure| refused(instance, failure))?;
            if info.state == c::VIR_DOMAIN_SHUTOFF {
                return if self.report_stopped {
                    Ok(stats::stopped_instance_stats(info))
                } else {
                    Err(shut_off(instance))
                };
            }
            let memory = domain.memory_stats().map_err(|f| refused(instance, f))?;
            let parameters = read_stats(&domain, instance, INSTANCE_GROUPS)?;
            let vcpus = stats::vcpus(&parameters);
            let cpu_time = if vcpus.is_complete() {
                None
            } else {
                read_stats(&domain, instance, c::VIR_DOMAIN_STATS_CPU_TOTAL)?.remove("cpu.time")
            };
            Ok(stats::instance_stats(info, &memory, &parameters, &vcpus, cpu_time))
        })
    }

    fn interfaces(&self, instance: &InstanceId) -> Result<Vec<Interface>> {
        self.session.ask(Some(instance), |connection| {
            let domain = look_up_running(connection, instance)?;
            let nics = read_xml(&domain, instance, domain_xml::nics)?;
            nics.into_iter()
                .map(|nic| {
                    let counters =
                        unless_refused(instance, &nic.name, domain.interface_stats(&nic.name))?;
                    Ok(Interface {
                        name: nic.name,
                        mac: nic.mac,
                        fref: nic.fref,
                        parameters: nic.parameters,
                        counters: counters.map(stats::interface_counters),
                    })
                })
                .collect()
        })
    }

    fn disk_stats(&self, instance: &InstanceId) -> Result<Vec<DiskStats>> {
        self.each_disk(instance, false, |domain, disk| {
            let counters = domain.block_stats(disk)?;
            let flags = domain.block_stats_flags(disk)?;
            Ok(stats::disk_stats(disk.to_owned(), counters, &flags))
        })
    }

    fn disk_info(&self, instance: &InstanceId) -> Result<Vec<DiskInfo>> {
        self.each_disk(instance, self.report_stopped, |domain, disk| {
            Ok(stats::disk_info(disk.to_owned(), domain.block_info(disk)?))
        })
    }
}

impl Libvirt {
    /// Every instance, with its state, in one round trip where the driver can.
    fn list<'connection>(
        &self,
        connection: &'connection Connection,
    ) -> Answer<Vec<(Domain<'connection>, Instance)>> {
        let list = match connection.all_stats(c::VIR_DOMAIN_STATS_STATE) {
            Ok(domains) => Ok(domains.into_iter().map(listed).collect()),
            // Drivers without bulk statistics (LXC, for one) are asked domain by domain.
            Err(failure) if failure.is(c::VIR_ERR_NO_SUPPORT) => list_one_by_one(connection),
            Err(failure) => Err(failure),
        };
        list.map_err(|failure| {
            Setback::new(failure, |failure| Error::NoList { uri: self.uri().to_owned(), failure })
        })
    }

    /// Reads every disk of an instance that has a source; one that libvirt refuses is left out.
    fn each_disk<T>(
        &self,
        instance: &InstanceId,
        even_stopped: bool,
        read: impl Fn(&Domain<'_>, &str) -> std::result::Result<T, Failure>,
    ) -> Result<Vec<T>> {
        self.session.ask(Some(instance), |connection| {
            let domain = if even_stopped {
                look_up(connection, instance)?
            } else {
                look_up_running(connection, instance)?
            };
            let disks = read_xml(&domain, instance, domain_xml::disks)?;
            disks
                .iter()
                .filter_map(|disk| unless_refused(instance, disk, read(&domain, disk)).transpose())
                .collect()
        })
    }
}

/// What Nova says of an instance; `None`, and a line in the log, where that cannot be read, and
/// just `None` where it is not Nova's or has gone meanwhile.
fn read_server(domain: &Domain<'_>, instance: Instance) -> Answer<Option<Server>> {
    let id = InstanceId { uuid: instance.id, name: Some(instance.name.clone()) };
    match read_xml(domain, &id, nova_xml::server) {
        Ok(Some((os_type, architecture, nova))) => {
            Ok(Some(Server { instance, os_type, architecture, nova }))
        }
        Ok(None) => {
            log::debug!("instance {id} has no metadata of Nova's");
            Ok(None)
        }
        Err(Setback::Final(error)) => {
            if !error.failure().is_some_and(|failure| failure.is(c::VIR_ERR_NO_DOMAIN)) {
                log::error!("an instance is left out of discovery: {error}");
            }
            Ok(None)
        }
        Err(broken) => Err(broken),
    }
}

fn look_up<'connection>(
    connection: &'connection Connection,
    instance: &InstanceId,
) -> Answer<Domain<'connection>> {
    connection.lookup(instance.uuid).map_err(|failure| {
        Setback::new(failure, |failure| {
            let gone = failure.is(c::VIR_ERR_NO_DOMAIN);
            Error::InstanceNotFound { instance: instance.clone(), gone, failure }
        })
    })
}

/// Looks an instance up that must not be shut off.
fn look_up_running<'connection>(
    connection: &'connection Connection,
    instance: &InstanceId,
) -> Answer<Domain<'connection>> {
    let domain = look_up(connection, instance)?;
    let info = domain.info().map_err(|failure| refused(instance, failure))?;
    if info.state == c::VIR_DOMAIN_SHUTOFF { Err(shut_off(instance)) } else { Ok(domain) }
}

fn shut_off(instance: &InstanceId) -> Setback {
    Setback::Final(Error::InstanceShutOff { instance: instance.clone() })
}

fn read_stats(
    domain: &Domain<'_>,
    instance: &InstanceId,
    groups: c::virDomainStatsTypes,
) -> Answer<sys::Parameters> {
    let answer = domain.stats(groups).map_err(|failure| refused(instance, failure))?;
    answer.ok_or_else(|| Setback::Final(no_data(instance, Reason::Vanished)))
}

fn read_xml<T>(
    domain: &Domain<'_>,
    instance: &InstanceId,
    read: impl FnOnce(&str) -> std::result::Result<T, String>,
) -> Answer<T> {
    let xml = domain.xml().map_err(|failure| refused(instance, failure))?;
    std::str::from_utf8(&xml)
        .map_err(|error| error.to_string())
        .and_then(read)
        .map_err(|unusable| Setback::Final(no_data(instance, Reason::Xml(unusable))))
}

/// What a device's counters are, or `None`, and a line in the log, where libvirt refuses them.
fn unless_refused<T>(
    instance: &InstanceId,
    device: &str,
    answer: std::result::Result<T, Failure>,
) -> Answer<Option<T>> {
    match answer {
        Ok(counters) => Ok(Some(counters)),
        // Not the device's fault: the connection broke, or the whole instance went away.
        Err(failure) if failure.is_disconnection() || failure.is(c::VIR_ERR_NO_DOMAIN) => {
            Err(refused(instance, failure))
        }
        Err(failure) => {
            log::warn!("{device:?} of instance {instance} is left out of this reading: {failure}");
            Ok(None)
        }
    }
}

fn refused(instance: &InstanceId, failure: Failure) -> Setback {
    Setback::new(failure, |failure| no_data(instance, Reason::Refused(failure)))
}

fn no_data(instance: &InstanceId, reason: Reason) -> Error {
    Error::NoData { instance: instance.clone(), reason }
}

fn listed(found: sys::DomainStats<'_>) -> (Domain<'_>, Instance) {
    let state = found.parameters.get("state.state").and_then(|state| u32::try_from(*state).ok());
    // Without a state, it has VIR_DOMAIN_NOSTATE.
    with_state(found.domain, state.unwrap_or_default())
}

fn with_state(domain: Domain<'_>, state: u32) -> (Domain<'_>, Instance) {
    let instance = Instance { id: domain.uuid(), name: domain.name(), state };
    (domain, instance)
}

/// A domain that goes away meanwhile is left out.
fn list_one_by_one(
    connection: &Connection,
) -> std::result::Result<Vec<(Domain<'_>, Instance)>, Failure> {
    let mut instances = Vec::new();
    for domain in connection.domains()? {
        match domain.info() {
            Ok(info) => instances.push(with_state(domain, info.state)),
            Err(failure) if failure.is(c::VIR_ERR_NO_DOMAIN) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(instances)
}
