//! What can come back instead of a reading: one sentence each, and libvirt's own words. Whatever
//! comes from outside is shown with escapes in place of what is not printable.

use std::fmt;
use std::time::Duration;

use crate::printable::{Printable, Uri, cut};
use crate::records::InstanceId;

/// The answer of every fallible call in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why there is no answer where nothing could be asked. The command line says the same of its own threads.
pub(crate) const NO_THREAD: &str = "cannot start a thread: check the limits (ulimit -u, TasksMax)";

/// A line for the log: a thread could not be started, beside so many that run.
pub(crate) fn no_thread_started(problem: &std::io::Error, threads: usize) -> String {
    let then = match threads {
        0 => "nothing is read until one can be started".to_owned(),
        threads => format!("virtmeter makes do with those that are running ({threads})"),
    };
    format!(
        "cannot start another thread: {problem}; {then}. Check the limits of this process (ulimit -u, TasksMax)"
    )
}

/// What was said when a call was refused, or why it could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// libvirt's `virErrorNumber` and `virErrorDomain`, for example 42 and 10
    /// (<https://libvirt.org/html/libvirt-virterror.html>); `None` where it was not libvirt.
    pub libvirt: Option<(i32, i32)>,
    /// In the words of who refused.
    pub message: String,
}

/// libvirt's have the end of QEMU's log now and then, and a daemon may say anything.
const MAX_MESSAGE: usize = 4096;

impl Failure {
    /// One of libvirt's: `virErrorNumber`, `virErrorDomain` and its own words.
    #[must_use]
    pub fn of_libvirt(code: i32, domain: i32, mut message: String) -> Self {
        message.truncate(cut(&message, MAX_MESSAGE).len());
        Self { libvirt: Some((code, domain)), message }
    }

    /// One that libvirt has not told, in words that say what to do.
    pub(crate) fn of(message: impl Into<String>) -> Self {
        Self { libvirt: None, message: message.into() }
    }

    /// What to do about a connection that was not opened.
    fn what_opens_it(&self, uri: &str) -> &'static str {
        /// `VIR_ERR_AUTH_FAILED`, `VIR_ERR_AUTH_CANCELLED`, `VIR_ERR_AUTH_UNAVAILABLE`
        const LOGIN: [i32; 3] = [45, 79, 94];
        match self.libvirt {
            // Who else refused has said it.
            None => "",
            // So libvirt says it of TLS: "authentication failed: Failed to verify peer's certificate".
            Some((45, _)) if self.message.contains("certificate") => {
                "check that the server's certificate is for the name of the host that the URI has, \
                 has not expired, and was issued by the CA in this host's cacert.pem \
                 (https://libvirt.org/kbase/tlscerts.html); "
            }
            Some((code, _)) if LOGIN.contains(&code) && !self.message.contains("polkit") => {
                "libvirt requires a login (SASL): add authname and password to libvirt's auth.conf \
                 (in ~/.config/libvirt or /etc/libvirt), and install SASL's modules \
                 (https://libvirt.org/auth.html); "
            }
            Some(_) if is_remote(uri) => {
                "check host and port, that libvirtd or virtproxyd is running there and accepts \
                 connections of this kind (TLS, TCP or SSH), and that this user has the certificates \
                 or keys for it; "
            }
            Some(_) => {
                "check that libvirtd or virtqemud is running and that this user may open its socket \
                 (group libvirt); "
            }
        }
    }
}

/// Whether libvirt's daemon is asked over the network, and not by a socket of this host.
fn is_remote(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once("://") else { return false };
    match scheme.split_once('+') {
        Some((_, transport)) => transport != "unix",
        None => !rest.starts_with('/'),
    }
}

/// The same, or it is not known: libvirt has a URI of its own, or an alias.
pub(crate) fn may_be_remote(uri: &str) -> bool {
    is_remote(uri) || !uri.contains("://")
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((code, domain)) = self.libvirt {
            write!(f, "[libvirt error {code}, domain {domain}] ")?;
        }
        Printable(&self.message).fmt(f)
    }
}

/// Why there is no data for an instance that exists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// libvirt refused one of the calls that the reading consists of.
    #[error("{0}")]
    Refused(Failure),
    /// The instance was there at the lookup, and gone when its statistics were asked for.
    #[error("it disappeared while it was being read; if it should still exist, try again")]
    Vanished,
    /// Its guest hangs, and the hypervisor does not even tell what it knows without it.
    #[error("neither its guest nor libvirt answers; check its process and storage")]
    Unanswered,
    /// Its host does not answer; those of other hosts do.
    #[error("its host {} does not answer: {failure}; virtmeter keeps trying", Printable(host))]
    HostAway {
        /// What people call the host.
        host: String,
        /// What was said, or what has not come.
        failure: Failure,
    },
    /// The domain's XML description cannot be read.
    #[error("invalid domain XML: {}; see `virsh dumpxml`", Printable(.0))]
    Xml(String),
}

/// Why a question about an instance has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The hypervisor does not know the instance.
    #[error("instance {instance} is not known to this hypervisor: {failure}")]
    InstanceNotFound {
        /// The instance that was asked for.
        instance: InstanceId,
        /// Whether there is no such instance, rather than no answer to the question.
        gone: bool,
        /// What libvirt said.
        failure: Failure,
    },
    /// The instance is shut off and so has no counters.
    #[error("instance {instance} is shut off and has no counters until it is started")]
    InstanceShutOff {
        /// The instance that was asked for.
        instance: InstanceId,
    },
    /// The instance exists, but could not be read.
    #[error("cannot read instance {instance}: {reason}")]
    NoData {
        /// The instance that was asked for.
        instance: InstanceId,
        /// Why not.
        reason: Reason,
    },
    /// The instance, or rather its guest, has not answered in time.
    #[error("instance {instance} was not read within {timeout:?}: {why}")]
    Timeout {
        /// The instance that was asked for.
        instance: InstanceId,
        /// How long was waited.
        timeout: Duration,
        /// What is known of the reason.
        why: String,
    },
    /// The instance's guest is busy with something that keeps it from being asked.
    #[error("instance {instance} is busy: {why}; it will be read again afterwards")]
    InstanceBusy {
        /// The instance that was asked for.
        instance: InstanceId,
        /// With what, as far as the hypervisor says.
        why: &'static str,
    },
    /// The caller was interrupted while it waited: by Ctrl-C, say, where Python is the caller.
    #[error("interrupted while waiting for an answer")]
    Interrupted,
    /// The instances cannot be listed: the hypervisor refuses that, or it could not be asked.
    #[error("cannot list the instances of {}: {failure}", Uri(uri))]
    NoList {
        /// The connection's URI.
        uri: String,
        /// What libvirt said, or why it could not be asked.
        failure: Failure,
    },
    /// The hypervisor answers, but its list of instances does not come, and none came before.
    #[error(
        "listing the instances of {} hangs: no answer within {timeout:?}{}",
        Uri(uri),
        who_is_locked(locked)
    )]
    ListHangs {
        /// The connection's URI.
        uri: String,
        /// How long was waited.
        timeout: Duration,
        /// The instances that the hypervisor waits for, as far as they are known.
        locked: Vec<InstanceId>,
    },
    /// The hypervisor cannot be reached; the next call tries anew.
    #[error(
        "no connection to {}{}: {failure}; {}virtmeter keeps trying",
        Uri(uri),
        for_instance(instance.as_ref()),
        failure.what_opens_it(uri)
    )]
    ConnectionLost {
        /// The connection's URI.
        uri: String,
        /// The instance that was asked for, where the call was about one.
        instance: Option<InstanceId>,
        /// What libvirt said.
        failure: Failure,
    },
    /// The hypervisor refuses the login. It is not asked again until the login is another.
    #[error("{} refuses the login: {failure}", Uri(uri))]
    LoginRefused {
        /// The target's URI.
        uri: String,
        /// What it said.
        failure: Failure,
    },
    /// This kind of hypervisor cannot tell that of any instance.
    #[error("{hypervisor} does not tell {what}")]
    Unsupported {
        /// Which kind.
        hypervisor: &'static str,
        /// What was asked for.
        what: &'static str,
    },
    /// The URI names no hypervisor that libvirt can open.
    #[error("libvirt cannot open {}: {failure}; use one like qemu:///system", the_uri(uri))]
    InvalidUri {
        /// The URI as it was given.
        uri: String,
        /// What libvirt said.
        failure: Failure,
    },
    /// The URI cannot be used.
    #[error("{why}")]
    InvalidTarget {
        /// A sentence that says what is wrong with it, and names nothing secret.
        why: String,
    },
    /// The name of a caller is too long to be remembered.
    #[error("a caller's name may have at most {longest} characters, not {length}")]
    InvalidCaller {
        /// Its characters.
        length: usize,
        /// The most that it may have.
        longest: usize,
    },
}

fn the_uri(uri: &str) -> String {
    if uri.is_empty() { Uri(uri).to_string() } else { format!("the URI \"{}\"", Uri(uri)) }
}

fn who_is_locked(locked: &[InstanceId]) -> String {
    let Some(first) = locked.first() else {
        return ". libvirt may be waiting for one of its virtual machines; look for one that is being \
                killed or whose storage does not answer"
            .to_owned();
    };
    let more = if locked.len() > 1 { " and others" } else { "" };
    format!(". libvirt is waiting for instance {first}{more}; check its process and storage")
}

fn for_instance(instance: Option<&InstanceId>) -> String {
    instance.map_or_else(String::new, |instance| format!(" for instance {instance}"))
}

impl Error {
    /// The instance that was asked for, where the call was about one.
    #[must_use]
    pub fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::InstanceNotFound { instance, .. }
            | Self::InstanceShutOff { instance }
            | Self::NoData { instance, .. }
            | Self::InstanceBusy { instance, .. }
            | Self::Timeout { instance, .. } => Some(instance),
            Self::ConnectionLost { instance, .. } => instance.as_ref(),
            Self::InvalidUri { .. }
            | Self::InvalidCaller { .. }
            | Self::InvalidTarget { .. }
            | Self::NoList { .. }
            | Self::ListHangs { .. }
            | Self::LoginRefused { .. }
            | Self::Unsupported { .. }
            | Self::Interrupted => None,
        }
    }

    /// What libvirt said, where libvirt said anything.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::InstanceNotFound { failure, .. }
            | Self::ConnectionLost { failure, .. }
            | Self::InvalidUri { failure, .. }
            | Self::NoList { failure, .. }
            | Self::LoginRefused { failure, .. }
            | Self::NoData {
                reason: Reason::Refused(failure) | Reason::HostAway { failure, .. },
                ..
            } => Some(failure),
            Self::NoData { .. }
            | Self::InstanceShutOff { .. }
            | Self::InstanceBusy { .. }
            | Self::ListHangs { .. }
            | Self::Timeout { .. }
            | Self::InvalidCaller { .. }
            | Self::InvalidTarget { .. }
            | Self::Unsupported { .. }
            | Self::Interrupted => None,
        }
    }
}

#[cfg(feature = "https")]
impl From<&Error> for Failure {
    /// What was said, or else the whole error in words.
    fn from(error: &Error) -> Self {
        error.failure().cloned().unwrap_or_else(|| Self::of(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const EVIL: &str = "a\x1b[2J\n\u{202e}b";
    const SHOWN: &str = r"a\x1b[2J\n\u202eb";

    #[test]
    fn what_to_check_is_where_the_daemon_is() {
        for (uri, expected) in [
            ("qemu:///system", "this user may open its socket"),
            (
                "qemu+unix:///system?socket=/run/libvirt/libvirt-sock-ro",
                "this user may open its socket",
            ),
            ("", "this user may open its socket"),
            ("an-alias", "this user may open its socket"),
            ("qemu+tls://kvm-1/system", "virtproxyd is running there"),
            ("qemu+ssh://me@kvm-1/system", "virtproxyd is running there"),
            ("qemu+tcp:///system", "virtproxyd is running there"),
            ("qemu://kvm-1:16514/system", "virtproxyd is running there"),
        ] {
            let failure = Failure::of_libvirt(38, 7, "Connection refused".to_owned());
            let error = Error::ConnectionLost { uri: uri.to_owned(), instance: None, failure };
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_certificate_that_is_not_accepted_is_no_missing_login() {
        for (message, expected) in [
            ("authentication failed: Failed to verify peer's certificate", "server's certificate"),
            ("authentication failed: authentication failed", "requires a login (SASL)"),
        ] {
            let uri = "qemu+tls://kvm-1/system".to_owned();
            let failure = Failure::of_libvirt(45, 7, message.to_owned());
            let error = Error::ConnectionLost { uri, instance: None, failure };
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn nothing_from_outside_steers_a_terminal_or_breaks_a_line() {
        let instance = InstanceId { uuid: Uuid::nil(), name: Some(EVIL.to_owned()) };
        let failure = Failure::of_libvirt(1, 10, EVIL.to_owned());
        let uri = EVIL.to_owned();
        let no_data = |reason| Error::NoData { instance: InstanceId::from(Uuid::nil()), reason };
        for (shown, error) in [
            (
                2,
                Error::InstanceNotFound {
                    instance: instance.clone(),
                    gone: true,
                    failure: failure.clone(),
                },
            ),
            (1, Error::InstanceShutOff { instance: instance.clone() }),
            (1, no_data(Reason::Refused(failure.clone()))),
            (1, no_data(Reason::Xml(EVIL.to_owned()))),
            (
                1,
                Error::Timeout {
                    instance: instance.clone(),
                    timeout: Duration::from_secs(1),
                    why: String::new(),
                },
            ),
            (2, Error::NoList { uri: uri.clone(), failure: failure.clone() }),
            (
                3,
                Error::ConnectionLost {
                    uri: uri.clone(),
                    instance: Some(instance),
                    failure: failure.clone(),
                },
            ),
            (2, Error::InvalidUri { uri, failure }),
        ] {
            let text = error.to_string();
            assert_eq!(text.matches(SHOWN).count(), shown, "{text}");
            assert!(!text.contains(['\x1b', '\n', '\u{202e}']), "{text}");
        }
    }

    #[test]
    fn who_must_log_in_is_told_of_that_and_not_of_a_group() {
        for (code, message, login) in [
            (45, "authentication failed", true),
            (94, "authentication unavailable: no polkit agent available", false),
            (38, "Failed to connect socket", false),
        ] {
            let failure = Failure::of_libvirt(code, 7, message.into());
            let lost = Error::ConnectionLost { uri: String::new(), instance: None, failure };
            assert_eq!(lost.to_string().contains("auth.conf"), login, "{lost}");
            assert_eq!(lost.to_string().contains("group libvirt"), !login, "{lost}");
        }
    }

    #[test]
    fn who_gave_no_uri_is_told_of_libvirts_own() {
        let (uri, failure) = (String::new(), Failure::of_libvirt(1, 10, "x".into()));
        for error in [
            Error::InvalidUri { uri: uri.clone(), failure: failure.clone() },
            Error::NoList { uri: uri.clone(), failure: failure.clone() },
            Error::ConnectionLost { uri: uri.clone(), instance: None, failure },
            Error::ListHangs { uri, timeout: Duration::from_secs(1), locked: vec![] },
        ] {
            assert!(error.to_string().contains("libvirt's default URI"), "{error}");
        }
    }
}
