//! Why a request over HTTPS has no answer: a sentence each, which says what to do. None has a query, a
//! header or a body in it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use rustls::{AlertDescription, CertificateError};

use crate::printable::Printable;
use crate::target::{Authority, Fingerprint};

/// Why it is not known whom to trust.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TrustError {
    #[error(
        "the CA file {} cannot be used: {}",
        Printable(&file.to_string_lossy()),
        Printable(reason)
    )]
    CaFile {
        /// As the URI names it.
        file: PathBuf,
        /// Why not.
        reason: String,
    },
    #[error(
        "this system has no CA certificates{}; install its package ca-certificates, or add sha256= or \
         ca_file= to the URI",
        Printable(.0)
    )]
    NoSystemRoots(String),
    #[error("TLS cannot be used here: {0}")]
    Tls(String),
}

/// Why there is no answer, and from whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpError {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) why: Why,
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = Authority(&self.host, self.port).to_string();
        write!(f, "{} {}", Printable(&peer), self.why)
    }
}

impl std::error::Error for HttpError {}

/// What a request was waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Resolving,
    Connecting,
    Handshake,
    Sending,
    Head,
    Body,
}

/// Why there is no answer. Each goes on from the name of the server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Why {
    #[error("is neither a name nor an address of a host; check how it is written")]
    BadHost,
    #[error("was not asked: {0} of the request has characters that HTTP does not allow")]
    BadRequest(&'static str),
    #[error("cannot be resolved: {}; check the name, and DNS on this machine", Printable(.0))]
    Unresolved(String),
    #[error("refuses connections; check host and port, and that its service runs")]
    Refused,
    #[error("cannot be reached: {}; check host, port and the network", Printable(.0))]
    Unreachable(String),
    #[error("{}", too_late(*.0))]
    TimedOut(Phase),
    #[error("does not speak TLS there; check the port")]
    NotTls,
    #[error(
        "and virtmeter cannot agree on TLS: {}; virtmeter speaks TLS 1.2 and 1.3, with forward secrecy",
        Printable(.0)
    )]
    Tls(String),
    #[error(
        "has a certificate that no CA that is trusted here has signed. If it is the right one, let \
         ca_file= in the URI name the certificate of the CA that signed it, or put sha256={presented} \
         in place of ca_file= after checking that it is the SHA-256 of the server's own certificate"
    )]
    UnknownCa { presented: Fingerprint },
    #[error(
        "has a certificate that is not trusted: {}. As it is, no CA makes it trusted, only \
         sha256={presented} in the URI, in place of ca_file=, after checking that it is the SHA-256 of \
         the server's own certificate",
        Printable(reason)
    )]
    NotTrusted { reason: String, presented: Fingerprint },
    #[error(
        "has a certificate for other names than this; use a name that is in it, or add \
         sha256={presented} to the URI after checking that it is the SHA-256 of the server's own \
         certificate"
    )]
    WrongName { presented: Fingerprint },
    #[error(
        "has not the certificate that was expected: its SHA-256 is {presented}, not {expected}. If it \
         was renewed, change sha256= in the URI; if not, something else answers in its place"
    )]
    WrongPin { expected: Fingerprint, presented: Fingerprint },
    #[error(
        "does not show in a way that can be verified that it has the key of its certificate \
         {presented}: {reason}. Renew the certificate there, as X.509 version 3 with an RSA key of 2048 \
         bits or more; if it is like that, something else answers in its place"
    )]
    Unverifiable { reason: &'static str, presented: Fingerprint },
    #[error("closed the connection {}; look at its log", before(*.0))]
    Closed(Phase),
    #[error("broke the connection: {}", Printable(.0))]
    Broken(String),
    #[error("does not answer in HTTP/1.1: {0}; check host and port")]
    NotHttp(&'static str),
    #[error("sends a longer head before its answer than {0} bytes; check host and port")]
    HeadTooLong(usize),
    #[error("sends a longer answer than {0} bytes, which is more than virtmeter takes")]
    BodyTooLong(usize),
    #[error("closed the connection before its answer was complete; look at its log")]
    CutShort,
    #[error("sends a compressed answer that cannot be inflated")]
    Damaged,
}

fn too_late(phase: Phase) -> &'static str {
    match phase {
        Phase::Resolving => "was not resolved in time; check DNS on this machine",
        Phase::Connecting => {
            "did not take the connection in time; check that it runs, and firewalls on the way"
        }
        Phase::Handshake => "did not complete the TLS handshake in time; check host and port",
        Phase::Sending => "did not take the request in time; look at its load",
        Phase::Head => "did not answer in time; look at its load",
        Phase::Body => "did not send all of its answer in time; look at its load and the network",
    }
}

fn before(phase: Phase) -> &'static str {
    match phase {
        Phase::Resolving | Phase::Connecting | Phase::Handshake => {
            "before the TLS handshake was complete"
        }
        Phase::Sending | Phase::Head | Phase::Body => "before it answered",
    }
}

impl Why {
    /// Whether it only took too long.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut(_))
    }

    /// Whether nothing of the request can have come to whom it was meant for.
    pub(crate) fn is_before_request(&self) -> bool {
        match self {
            Self::TimedOut(phase) | Self::Closed(phase) => {
                matches!(phase, Phase::Resolving | Phase::Connecting | Phase::Handshake)
            }
            Self::Broken(_)
            | Self::NotHttp(_)
            | Self::HeadTooLong(_)
            | Self::BodyTooLong(_)
            | Self::CutShort
            | Self::Damaged => false,
            _ => true,
        }
    }

    /// What a failed read or write of the given phase means.
    pub(super) fn of(error: &io::Error, phase: Phase) -> Self {
        let inner = error.get_ref();
        if let Some(why) = inner.and_then(|inner| inner.downcast_ref::<Self>()) {
            return why.clone();
        }
        if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::of_tls(error, phase);
        }
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::TimedOut(phase),
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe => {
                if phase == Phase::Body {
                    Self::CutShort
                } else {
                    Self::Closed(phase)
                }
            }
            // What flate2 says of data that is no gzip.
            ErrorKind::InvalidInput | ErrorKind::InvalidData if phase == Phase::Body => {
                Self::Damaged
            }
            _ => Self::Broken(error.to_string()),
        }
    }

    pub(super) fn of_tls(error: &rustls::Error, phase: Phase) -> Self {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<Self>() {
                    Some(why) => why.clone(),
                    None => Self::Tls(error.to_string()),
                }
            }
            rustls::Error::InvalidMessage(_) if phase == Phase::Handshake => Self::NotTls,
            rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => {
                Self::Tls("it found no cipher suite in common".to_owned())
            }
            _ => Self::Tls(error.to_string()),
        }
    }
}

impl From<Why> for io::Error {
    fn from(why: Why) -> Self {
        Self::new(ErrorKind::InvalidData, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_steers_a_terminal_or_breaks_a_line() {
        let evil = || "a\x1b[2J\nb".to_owned();
        let presented = Fingerprint([0xab; 32]);
        for why in [
            Why::Unresolved(evil()),
            Why::Unreachable(evil()),
            Why::Tls(evil()),
            Why::NotTrusted { reason: evil(), presented },
            Why::Broken(evil()),
        ] {
            let text = HttpError { host: evil(), port: 1, why }.to_string();
            assert_eq!(text.matches(r"a\x1b[2J\nb").count(), 2, "{text}");
        }
        let file = TrustError::CaFile { file: evil().into(), reason: String::new() }.to_string();
        assert!(file.contains(r"a\x1b[2J\nb"), "{file}");
    }

    #[test]
    fn a_server_is_named_as_in_a_uri() {
        for (host, port, shown) in [
            ("pool.example.org", 443, "pool.example.org refuses connections"),
            ("pool.example.org", 444, "pool.example.org:444 refuses connections"),
            ("::1", 444, "[::1]:444 refuses connections"),
        ] {
            let error = HttpError { host: host.to_owned(), port, why: Why::Refused };
            assert!(error.to_string().starts_with(shown), "{error}");
        }
    }
}
