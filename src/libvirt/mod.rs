//! The libvirt driver (<https://libvirt.org>): any hypervisor that libvirt reaches.

mod bulk;
mod busy;
mod calls;
mod connection;
mod described;
mod details_xml;
mod domain_xml;
mod failures;
mod nova_xml;
mod reading;
mod reasons;
mod refused;
mod sizes;
mod stats;
mod sys;
mod xml;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
#[cfg(feature = "python")]
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;
use virt_sys as c;

use crate::details::InstanceDetails;
use crate::error::{Error, Failure, Result};
use crate::hypervisor::{Hypervisor, Parts, SizesRead};
use crate::locks::lock;
use crate::per_process::PerProcess;
use crate::printable::without_password;
use crate::records::{Instance, InstanceId};
use calls::Calls;
pub use connection::LibvirtConnection;
use described::Described;
use domain_xml::Devices;
use refused::Refused;
use sizes::Sizes;
pub(crate) use sys::{SignalMask, generation};

/// Until it is looked again whether a handler has ended.
#[cfg(feature = "python")]
const MOMENT: Duration = Duration::from_millis(5);

/// How to reach a libvirt: read-only, by its connection URI.
pub struct Libvirt(Arc<Driver>);

/// What all connections to one libvirt share.
struct Driver {
    uri: String,
    options: Options,
    calls: PerProcess<Arc<Calls>>,
    devices: PerProcess<Described<Devices>>,
    details: PerProcess<Described<InstanceDetails>>,
    sizes: PerProcess<Sizes>,
    refused: PerProcess<Refused>,
    listed: PerProcess<Mutex<Listed>>,
    /// The shortest time that a bulk reading has taken, in nanoseconds.
    shortest: AtomicU64,
}

/// What is told, and how it is found out.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools)] // each has nothing to do with the others
struct Options {
    report_stopped: bool,
    reckons_sizes: bool,
    parity: bool,
    all_nics: bool,
}

/// The domains of the last list, and when it was asked for.
type Listed = Option<(Instant, Arc<HashSet<Uuid>>)>;

impl Libvirt {
    /// A driver for a connection URI (<https://libvirt.org/uri.html>); `""` leaves the choice to
    /// libvirt. With `report_stopped`, instances that are shut off have an
    /// [`InstanceStats`](crate::InstanceStats) and disk sizes too. Connects to nothing yet.
    #[must_use]
    pub fn new(uri: &str, report_stopped: bool) -> Self {
        let options =
            Options { report_stopped, reckons_sizes: true, parity: false, all_nics: true };
        Self(Arc::new(Driver::new(uri.to_owned(), options)))
    }

    /// Whether the sizes of disks are reckoned from the bulk reading where it was found that this
    /// tells the same as `virDomainGetBlockInfo` (the default), or asked for each time.
    #[must_use]
    pub fn with_reckoned_sizes(self, reckon: bool) -> Self {
        self.with(|options| options.reckons_sizes = reckon)
    }

    /// Whether an [`InstanceStats`](crate::InstanceStats) says what Ceilometer's own inspector says
    /// where that one errs, for Ceilometer: memory in use below zero, say. By default it does not.
    #[must_use]
    pub fn with_parity(self, parity: bool) -> Self {
        self.with(|options| options.parity = parity)
    }

    /// Whether NICs are told that libvirt has no name for (`<target dev>`), as SR-IOV's and vDPA's: by
    /// their MAC addresses, and with the counters that libvirt has of them, for each of which it is asked by
    /// itself. By default they are.
    #[must_use]
    pub fn with_all_nics(self, all: bool) -> Self {
        self.with(|options| options.all_nics = all)
    }

    /// The same with another option; nothing was read so far.
    fn with(self, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = self.0.options;
        change(&mut options);
        Self(Arc::new(Driver::new(self.0.uri.clone(), options)))
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

/// Ends the handlers of libvirt's errors, where they cannot be called any more: also those of the program, whose
/// calls fail as before. Waits for threads that are opening a connection, in which a handler may be called, but
/// no longer than that.
#[cfg(feature = "python")]
pub(crate) fn end_handlers(longest: Duration) {
    sys::silence();
    let end = Instant::now() + longest;
    while sys::is_opening() && Instant::now() < end {
        thread::sleep(MOMENT);
    }
}

/// Whether there are enough file descriptors for a connection, and for those that others open meanwhile:
/// a library below libvirt's own ends a process in which it lacks one.
fn look_for_descriptors() -> std::result::Result<(), Failure> {
    const ENOUGH: usize = 16;
    if sys::has_descriptors(ENOUGH) {
        return Ok(());
    }
    Err(Failure::of(format!(
        "fewer than {ENOUGH} file descriptors are left: check the limits (ulimit -n, LimitNOFILE)"
    )))
}

impl Hypervisor for Libvirt {
    type Connection = LibvirtConnection;

    fn uri(&self) -> &str {
        &self.0.uri
    }

    fn connect(&self) -> Result<LibvirtConnection> {
        let driver = &self.0;
        let open = || sys::Connection::open_read_only(&driver.uri, driver.calls.with(Arc::clone));
        let opened = look_for_descriptors().and_then(|()| open());
        let opened = opened.map_err(|failure| driver.unopened(failure))?;
        Ok(LibvirtConnection::new(Arc::clone(driver), opened))
    }

    fn has_parity(&self) -> bool {
        self.0.options.parity
    }

    fn sizes(&self) -> SizesRead {
        self.0.sizes.with(Sizes::counted)
    }

    fn refused(&self) -> Vec<(Uuid, Vec<String>)> {
        self.0.refused.with(Refused::all)
    }

    fn calls(&self) -> Vec<(&'static str, u64)> {
        self.0.calls.with(|calls| calls.made())
    }

    fn answered(&self) -> Option<Instant> {
        self.0.calls.with(|calls| calls.answered())
    }
}

impl Driver {
    fn new(uri: String, options: Options) -> Self {
        Self {
            uri,
            options,
            calls: PerProcess::default(),
            devices: PerProcess::default(),
            details: PerProcess::default(),
            sizes: PerProcess::default(),
            refused: PerProcess::default(),
            listed: PerProcess::default(),
            shortest: AtomicU64::new(u64::MAX),
        }
    }

    /// How much longer a bulk reading took than the shortest so far. Until there is one that cannot have waited for
    /// long, it may have waited all the time.
    fn waited(&self, took: Duration) -> Duration {
        let shortest = self.shortest.load(Ordering::Relaxed);
        if shortest != u64::MAX || took <= reading::WAITED {
            self.took(took);
        }
        let shortest = Duration::from_nanos(if shortest == u64::MAX { 0 } else { shortest });
        took.saturating_sub(shortest)
    }

    /// Notes how long a bulk reading took that has waited for nobody.
    fn took(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.shortest.fetch_min(nanos, Ordering::Relaxed);
    }

    /// Forgets what does not exist, by a list that was asked for then; each connection does so too,
    /// when it is next used. Also forgets what was refused of domains that have been shut off since.
    fn list(&self, asked: Instant, list: &[Instance]) {
        let existing: HashSet<_> = list.iter().map(|instance| instance.id).collect();
        let shut_off = list.iter().filter(|instance| instance.state == c::VIR_DOMAIN_SHUTOFF);
        let shut_off = shut_off.map(|instance| instance.id);
        // Of those, only the sizes of disks are told.
        let told = if self.options.report_stopped { Parts::SIZES } else { Parts::NONE };
        self.devices.with(|devices| devices.forget_all_but(&existing, asked));
        self.details.with(|details| details.forget_all_but(&existing, asked));
        self.sizes.with(|sizes| sizes.forget_all_but(&existing, asked));
        self.refused.with(|refused| {
            refused.forget_all_but(&existing, asked);
            refused.forget_shut_off(shut_off, told, asked);
        });
        let listed = Some((asked, Arc::new(existing)));
        self.listed.with(|last| *lock(last) = listed);
    }

    /// The last list, unless it was asked for no later than that.
    fn listed_since(&self, known: Option<Instant>) -> Listed {
        let listed = self.listed.with(|last| lock(last).clone());
        listed.filter(|(asked, _)| known.is_none_or(|known| *asked > known))
    }

    /// Forgets a domain that is gone.
    fn forget(&self, domain: Uuid) {
        self.devices.with(|devices| devices.forget(domain));
        self.details.with(|details| details.forget(domain));
        self.refused.with(|refused| refused.forget_all_devices_of(domain));
    }

    /// What a failure means: the connection broke, or else this error.
    fn failed(
        &self,
        instance: Option<&InstanceId>,
        failure: Failure,
        otherwise: impl FnOnce(Failure) -> Error,
    ) -> Error {
        if failure.is_disconnection() {
            // What answers next may be another libvirt.
            self.sizes.with(Sizes::forget);
            self.refused.with(Refused::forget_everything);
            Error::ConnectionLost { uri: self.uri.clone(), instance: instance.cloned(), failure }
        } else {
            otherwise(failure)
        }
    }

    fn unopened(&self, mut failure: Failure) -> Error {
        let uri = self.uri.clone();
        failure.message = without_password(&failure.message, &uri);
        if failures::is_refused_uri(&uri, &failure) {
            Error::InvalidUri { uri, failure }
        } else {
            Error::ConnectionLost { uri, instance: None, failure }
        }
    }
}
