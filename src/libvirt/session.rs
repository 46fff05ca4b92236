//! One connection to libvirt: opened at the first use, shared by all threads, opened again when it
//! is dead.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virt_sys as c;

use super::sys::Connection;
use crate::error::{Error, Failure, Result};
use crate::per_process::PerProcess;
use crate::records::InstanceId;

/// The schemes of libvirt's drivers. One that is not here is tried all the same.
const SCHEMES: [&str; 19] = [
    "bhyve",
    "ch",
    "esx",
    "gsx",
    "hyperv",
    "lxc",
    "openvz",
    "parallels",
    "phyp",
    "qemu",
    "remote",
    "test",
    "vbox",
    "vmwarefusion",
    "vmwareplayer",
    "vmwarews",
    "vpx",
    "vz",
    "xen",
];

/// Why a question asked over a connection has no answer.
pub(super) enum Setback {
    /// The connection broke; a new one may answer.
    Disconnected(Failure),
    /// The hypervisor has answered, and this is the answer.
    Final(Error),
}

impl Setback {
    /// What a failure of libvirt's means: the connection broke, or else this error.
    pub(super) fn new(failure: Failure, answer: impl FnOnce(Failure) -> Error) -> Self {
        if failure.is_disconnection() {
            Self::Disconnected(failure)
        } else {
            Self::Final(answer(failure))
        }
    }
}

/// The connection and how it is shared.
pub(super) struct Session {
    uri: String,
    here: PerProcess<Here>,
}

/// What belongs to one process and does not survive a fork.
#[derive(Default)]
struct Here {
    /// Held for moments only, never across a call to libvirt that can block, as the last drop of
    /// a connection is.
    slot: Mutex<Slot>,
    /// Held by the one thread that opens a connection; the others wait for it and share it.
    opening: Mutex<()>,
}

#[derive(Default, Clone)]
struct Slot {
    connection: Option<Arc<Connection>>,
    /// How often the session was closed: an open that a close overtook is not kept.
    closed: u64,
    /// How many opens have failed, and how the last one did.
    failures: u64,
    failure: Option<Failure>,
}

impl Session {
    pub(super) fn new(uri: &str) -> Self {
        Self { uri: uri.to_owned(), here: PerProcess::default() }
    }

    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    /// Whether a connection is open now; a local flag.
    pub(super) fn is_connected(&self) -> bool {
        // No copy of the connection here: dropping the last one may block.
        self.here.with(|here| lock(&here.slot).connection.as_ref().is_some_and(|c| c.is_alive()))
    }

    /// Asks a question, and once more over a new connection if the first breaks.
    pub(super) fn ask<T>(
        &self,
        about: Option<&InstanceId>,
        question: impl Fn(&Connection) -> std::result::Result<T, Setback>,
    ) -> Result<T> {
        let mut last_chance = false;
        loop {
            let connection = self.connection().map_err(|failure| self.unopened(about, failure))?;
            match question(&connection) {
                Ok(answer) => return Ok(answer),
                Err(Setback::Final(error)) => return Err(error),
                Err(Setback::Disconnected(failure)) => {
                    log::debug!("the connection to {} broke: {failure}", self.uri);
                    self.discard(&connection);
                    if last_chance {
                        return Err(self.lost(about, failure));
                    }
                    last_chance = true;
                }
            }
        }
    }

    /// Drops the connection, if there is one. Questions that are under way finish with it.
    pub(super) fn close(&self) {
        // What comes out is dropped after the lock, as that may wait.
        self.here.with(|here| {
            let mut slot = lock(&here.slot);
            slot.closed += 1;
            slot.connection.take()
        });
    }

    /// The open connection, or a new one.
    fn connection(&self) -> std::result::Result<Arc<Connection>, Failure> {
        self.here.with(|here| {
            if let Some(connection) = here.current() {
                return Ok(connection);
            }
            let failures = lock(&here.slot).failures;
            let turn = lock(&here.opening);
            if let Some(connection) = here.current() {
                return Ok(connection);
            }
            let Slot { closed, failures: now, failure, .. } = lock(&here.slot).clone();
            match failure {
                // Whoever waited for an open that failed has its answer, and does not try in turn.
                Some(failure) if now != failures => return Err(failure),
                _ => {}
            }
            let opened = Connection::open_read_only(&self.uri).map(Arc::new);
            let mut slot = lock(&here.slot);
            let mut dead = None;
            match &opened {
                Ok(connection) if slot.closed == closed => {
                    dead = slot.connection.replace(Arc::clone(connection));
                }
                Ok(_) => {}
                Err(failure) => {
                    slot.failures += 1;
                    slot.failure = Some(failure.clone());
                }
            }
            drop((slot, turn));
            drop(dead);
            opened
        })
    }

    /// Takes a broken connection out of use, unless another thread has done so.
    fn discard(&self, broken: &Arc<Connection>) {
        // As above, dropped after the lock.
        self.here
            .with(|here| lock(&here.slot).connection.take_if(|stored| Arc::ptr_eq(stored, broken)));
    }

    fn unopened(&self, about: Option<&InstanceId>, failure: Failure) -> Error {
        if is_refused_uri(&self.uri, &failure) {
            Error::InvalidUri { uri: self.uri.clone(), failure }
        } else {
            self.lost(about, failure)
        }
    }

    fn lost(&self, about: Option<&InstanceId>, failure: Failure) -> Error {
        Error::ConnectionLost { uri: self.uri.clone(), instance: about.cloned(), failure }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}

impl Here {
    fn current(&self) -> Option<Arc<Connection>> {
        lock(&self.slot).connection.as_ref().filter(|c| c.is_alive()).map(Arc::clone)
    }
}

impl Failure {
    /// Whether the connection broke, rather than the call being refused.
    pub(super) fn is_disconnection(&self) -> bool {
        const EPIPE: u32 = 32;
        let (Ok(code), Ok(domain)) = (u32::try_from(self.code), u32::try_from(self.domain)) else {
            return false;
        };
        match domain {
            c::VIR_FROM_RPC if code == EPIPE => true,
            c::VIR_FROM_RPC | c::VIR_FROM_REMOTE => {
                matches!(code, c::VIR_ERR_SYSTEM_ERROR | c::VIR_ERR_INTERNAL_ERROR)
            }
            _ => false,
        }
    }

    /// Whether libvirt refused with this `virErrorNumber`.
    pub(super) fn is(&self, code: c::virErrorNumber) -> bool {
        u32::try_from(self.code) == Ok(code)
    }
}

/// Whether opening failed because of what the URI says, which no later try will mend.
fn is_refused_uri(uri: &str, failure: &Failure) -> bool {
    // qemu+tls://host/system is driver and transport. Without a colon it is an alias of libvirt's
    // configuration, or empty and libvirt's own choice.
    let driver = uri.split_once(':').map(|(scheme, _)| {
        scheme.split_once('+').map_or(scheme, |(driver, _)| driver).to_lowercase()
    });
    driver.is_some_and(|driver| !SCHEMES.contains(&driver.as_str()))
        || failure.is(c::VIR_ERR_INVALID_ARG)
        || failure.is(c::VIR_ERR_CONFIG_UNSUPPORTED)
        // The test hypervisor is a file that the URI names.
        || matches!(u32::try_from(failure.domain), Ok(c::VIR_FROM_URI | c::VIR_FROM_TEST))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: u32, domain: u32) -> Failure {
        Failure {
            code: code.try_into().unwrap(),
            domain: domain.try_into().unwrap(),
            message: String::new(),
        }
    }

    #[test]
    fn a_disconnection_is_what_the_stock_inspector_takes_for_one() {
        for (code, domain, expected) in [
            (c::VIR_ERR_SYSTEM_ERROR, c::VIR_FROM_REMOTE, true),
            (c::VIR_ERR_SYSTEM_ERROR, c::VIR_FROM_RPC, true),
            (c::VIR_ERR_INTERNAL_ERROR, c::VIR_FROM_REMOTE, true),
            (c::VIR_ERR_INTERNAL_ERROR, c::VIR_FROM_RPC, true),
            (32, c::VIR_FROM_RPC, true),
            (32, c::VIR_FROM_REMOTE, false),
            (c::VIR_ERR_SYSTEM_ERROR, c::VIR_FROM_QEMU, false),
            (c::VIR_ERR_RPC, c::VIR_FROM_RPC, false),
            (c::VIR_ERR_NO_DOMAIN, c::VIR_FROM_QEMU, false),
        ] {
            assert_eq!(failure(code, domain).is_disconnection(), expected, "{code} of {domain}");
        }
    }

    #[test]
    fn a_uri_is_blamed_only_for_its_own_faults() {
        let down = failure(c::VIR_ERR_SYSTEM_ERROR, c::VIR_FROM_RPC);
        for uri in ["qemu:///system", "QEMU+tls://host/system", "remote:///", "", "an-alias"] {
            assert!(!is_refused_uri(uri, &down), "{uri}");
        }
        for uri in ["foo:///system", "foo+unix:///system", ":"] {
            assert!(is_refused_uri(uri, &down), "{uri}");
        }
        let unsupported = failure(c::VIR_ERR_CONFIG_UNSUPPORTED, c::VIR_FROM_NONE);
        assert!(is_refused_uri("xen:///system", &unsupported));
        // A libvirtd without its QEMU driver is the host's fault, and may get one.
        let no_driver = failure(c::VIR_ERR_NO_CONNECT, c::VIR_FROM_NONE);
        assert!(!is_refused_uri("qemu:///system", &no_driver));
    }

    #[test]
    fn a_closed_session_opens_again() {
        let session = Session::new("test:///default");
        assert!(!session.is_connected());
        for _ in 0..2 {
            let alive = session.ask(None, |connection| Ok(connection.is_alive()));
            assert_eq!(alive, Ok(true));
            assert!(session.is_connected());
            session.close();
            assert!(!session.is_connected());
        }
    }

    #[test]
    fn a_question_is_asked_twice_over_a_breaking_connection_and_no_more() {
        let session = Session::new("test:///default");
        let asked = std::sync::atomic::AtomicU32::new(0);
        let answer = session.ask(None, |_| {
            asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Err::<(), _>(Setback::Disconnected(failure(38, 7)))
        });
        assert!(matches!(answer, Err(Error::ConnectionLost { .. })), "{answer:?}");
        assert_eq!(asked.into_inner(), 2);
    }
}
