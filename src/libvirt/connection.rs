//! A connection to libvirt, and the domains that were looked up over it.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;
use virt_sys as c;

use super::Driver;
use super::bulk::Bulk;
use super::reading::{self, About, Known};
use super::sizes;
use super::sys::{self, Connection as Open, Domain};
use crate::error::{Error, Failure, Result};
use crate::hypervisor::{Connection, Notes, Parts, Reach, Reading, Warning};
use crate::recent::Recent;
use crate::records::{Instance, InstanceId};

/// Domains that nobody has asked about for so long are looked up again when somebody does.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// An open connection to libvirt, and the domains that were looked up over it.
pub struct LibvirtConnection {
    driver: Arc<Driver>,
    // Before the connection: a domain holds it open.
    domains: Recent<Uuid, Known>,
    open: Open,
    /// Whether libvirt's files are on this host.
    is_local: bool,
    /// Whether libvirt counts what goes through virtual functions, once that was asked for.
    counts_vfs: OnceCell<bool>,
    /// The list by which domains that do not exist were dropped.
    swept: Option<Instant>,
}

impl LibvirtConnection {
    pub(super) fn new(driver: Arc<Driver>, open: Open) -> Self {
        let is_local = open.uri().is_some_and(|uri| sizes::is_local(&uri));
        let domains = Recent::new(FORGOTTEN);
        Self { driver, domains, open, is_local, counts_vfs: OnceCell::new(), swept: None }
    }

    /// Asks about a domain, and looks it up first unless that has been done.
    fn about<T>(
        &mut self,
        instance: &InstanceId,
        question: impl Fn(&Known, &About<'_>) -> Result<T>,
    ) -> Result<T> {
        let now = Instant::now();
        if let Some((asked, existing)) = self.driver.listed_since(self.swept) {
            self.domains.forget_all_but(asked, |domain| existing.contains(domain));
            self.swept = Some(asked);
        }
        let (driver, open, counts_vfs) = (&self.driver, &self.open, &self.counts_vfs);
        let at = About { driver, open, instance, is_local: self.is_local, counts_vfs };
        if let Some(known) = self.domains.get_mut(&instance.uuid, now) {
            match question(known, &at) {
                // Look it up again: that tells whether it is gone.
                Err(error) if reading::has_vanished(&error) => {}
                answer => return answer,
            }
        }
        self.domains.remove(&instance.uuid);
        let domain = self.lookup(instance)?;
        let answer = question(self.domains.insert(instance.uuid, Known::new(domain), now), &at);
        if !answer.as_ref().is_err_and(reading::has_vanished) {
            return answer;
        }
        // It may have been shut off since, or deleted.
        let domain = self.lookup(instance)?;
        question(self.domains.insert(instance.uuid, Known::new(domain), now), &at)
    }

    fn lookup(&self, instance: &InstanceId) -> Result<Domain> {
        self.open.lookup(instance.uuid).map_err(|failure| {
            self.driver.failed(Some(instance), failure, |failure| {
                let gone = failure.is(c::VIR_ERR_NO_DOMAIN);
                if gone {
                    self.driver.forget(instance.uuid);
                }
                Error::InstanceNotFound { instance: instance.clone(), gone, failure }
            })
        })
    }
}

impl Connection for LibvirtConnection {
    fn is_alive(&self) -> bool {
        self.open.is_alive()
    }

    fn instances(&mut self) -> Result<Vec<Instance>> {
        let asked = Instant::now();
        let list = match self.open.all_stats(c::VIR_DOMAIN_STATS_STATE, listed) {
            // Drivers without bulk statistics (LXC, for one) are asked domain by domain.
            Err(failure) if failure.is(c::VIR_ERR_NO_SUPPORT) => list_one_by_one(&self.open),
            list => list,
        };
        let list = list.map_err(|failure| {
            let uri = self.driver.uri.clone();
            self.driver.failed(None, failure, |failure| Error::NoList { uri, failure })
        })?;
        self.driver.list(asked, &list);
        Ok(list)
    }

    fn read(&mut self, instance: &InstanceId, parts: Parts, reach: Reach) -> Result<Reading> {
        self.about(instance, |known, at| known.read(at, parts, reach))
    }

    fn host_cpus(&mut self, notes: &mut Notes) -> Result<Option<u32>> {
        match self.open.host_cpus() {
            Ok(cpus) => Ok(Some(cpus)),
            Err(failure) if failure.is_disconnection() => {
                Err(Error::ConnectionLost { uri: self.driver.uri.clone(), instance: None, failure })
            }
            Err(failure) => {
                notes.lines.push(Warning::new(format!(
                    "libvirt does not tell how many CPUs the host has, so no usage of them is \
                     reported: {failure}"
                )));
                Ok(None)
            }
        }
    }

    fn is_free(&mut self, instance: &InstanceId) -> Result<Option<bool>> {
        self.about(instance, Known::is_free)
    }
}

fn listed(domain: &Domain, bulk: &Bulk) -> Instance {
    // Without a state, it has VIR_DOMAIN_NOSTATE.
    with_state(domain, bulk.state.unwrap_or_default())
}

fn with_state(domain: &Domain, state: u32) -> Instance {
    Instance { id: domain.uuid(), name: domain.name(), state }
}

/// A domain that goes away meanwhile is left out; one whose state libvirt refuses to tell has none,
/// unless that is so of all.
fn list_one_by_one(open: &sys::Connection) -> std::result::Result<Vec<Instance>, Failure> {
    let (mut instances, mut any_told, mut refused) = (Vec::new(), false, None);
    for domain in open.domains()? {
        match domain.info() {
            Ok(info) => {
                any_told = true;
                instances.push(with_state(&domain, info.state));
            }
            Err(failure) if failure.is(c::VIR_ERR_NO_DOMAIN) => {}
            Err(failure) if failure.is_disconnection() => return Err(failure),
            Err(failure) => {
                refused = Some(failure);
                instances.push(with_state(&domain, c::VIR_DOMAIN_NOSTATE));
            }
        }
    }
    refused.filter(|_| !any_told).map_or(Ok(instances), Err)
}
