//! What vSphere says instead of an answer, and what follows from it.

use std::fmt;

use roxmltree::Node;

use super::soap::{MAX_NAME, child, elements, kind, text};
use crate::printable::Printable;
use crate::printable::cut;

/// What kind of fault a server answers with, as far as something follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// The user name or the password is wrong, or the password has expired.
    InvalidLogin,
    /// There is no session, or it has ended.
    NotAuthenticated,
    /// The role does not permit it: this privilege is missing, on this object.
    NoPermission {
        privilege: Option<Box<str>>,
        object: Option<Box<str>>,
    },
    /// This object does not exist any more.
    ManagedObjectNotFound(Option<Box<str>>),
    /// This argument, for example `querySpec.interval`.
    InvalidArgument(Option<Box<str>>),
    RestrictedByAdministrator,
    /// The request is too long for the server.
    TooManyElements,
    /// Objects of this type have no property of this name.
    InvalidProperty(Option<Box<str>>),
    /// Another, by its type.
    Other(Box<str>),
}

impl FaultKind {
    /// The kind of a fault, from the element that has its details.
    pub(super) fn read(detail: Node<'_, '_>) -> Self {
        let named =
            |name| child(detail, name).and_then(text).map(|text| cut(text, MAX_NAME).into());
        let element = detail.tag_name().name();
        let kind = kind(detail).unwrap_or(element.strip_suffix("Fault").unwrap_or(element));
        match kind {
            "InvalidLogin" | "PasswordExpired" => Self::InvalidLogin,
            "NotAuthenticated" => Self::NotAuthenticated,
            "NoPermission" => {
                Self::NoPermission { privilege: named("privilegeId"), object: named("object") }
            }
            "ManagedObjectNotFound" => Self::ManagedObjectNotFound(named("obj")),
            "InvalidArgument" => Self::InvalidArgument(named("invalidProperty")),
            "RestrictedByAdministrator" => Self::RestrictedByAdministrator,
            "InvalidProperty" => Self::InvalidProperty(named("name")),
            other => Self::Other(cut(other, MAX_NAME).into()),
        }
    }
}

impl FaultKind {
    /// The object of a call without which the call may be answered.
    pub(super) fn object(&self) -> Option<&str> {
        match self {
            Self::NoPermission { object, .. } | Self::ManagedObjectNotFound(object) => {
                object.as_deref()
            }
            _ => None,
        }
    }

    /// Whether a call without the VMs of one of its hosts may be answered.
    pub(super) fn is_about_a_host(&self) -> bool {
        let Self::Other(kind) = self else { return false };
        matches!(&**kind, "HostCommunication" | "HostNotConnected" | "HostNotReachable")
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |what: &Option<Box<str>>| match what {
            Some(what) => format!(" ({})", Printable(what)),
            None => String::new(),
        };
        match self {
            Self::InvalidLogin => f.write_str(
                "vSphere refuses the user name or the password; correct them, nothing is tried before",
            ),
            Self::NotAuthenticated => {
                f.write_str("the session is not valid any more; a new login is needed")
            }
            Self::NoPermission { privilege, .. } => write!(
                f,
                "the role of this user does not permit that{}; give it the role Read-only, from the \
                 root of the inventory down",
                named(privilege)
            ),
            Self::ManagedObjectNotFound(object) => {
                write!(f, "an object that was asked for does not exist any more{}", named(object))
            }
            Self::InvalidArgument(argument) => {
                write!(f, "vSphere does not accept an argument of the call{}", named(argument))
            }
            Self::RestrictedByAdministrator => f.write_str(
                "vSphere refuses so large a query; raise config.vpxd.stats.maxQueryMetrics on the \
                 vCenter",
            ),
            Self::TooManyElements => f.write_str("the request is too long for vSphere"),
            Self::InvalidProperty(property) => {
                write!(f, "vSphere does not know a property{}; update it to 6.5 or later", named(property))
            }
            Self::Other(kind) => write!(f, "vSphere refused the call: {}", Printable(kind)),
        }
    }
}

/// What a server says instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}{}", after_colon(text))]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// In its own words; may be empty.
    pub(super) text: Box<str>,
}

impl Fault {
    /// From the element of that name.
    pub(super) fn read(fault: Node<'_, '_>) -> Self {
        // These two have no namespace in SOAP 1.1.
        let of = |name| elements(fault).find(|child| child.tag_name().name() == name);
        let said = of("faultstring").and_then(text).unwrap_or_default().trim();
        let detail = of("detail").and_then(|detail| elements(detail).next());
        let kind = if said.contains("element count exceeds configured maximum") {
            FaultKind::TooManyElements
        } else {
            detail.map_or_else(|| FaultKind::Other("Fault".into()), FaultKind::read)
        };
        Self { kind, text: cut(said, MAX_NAME).into() }
    }
}

fn after_colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {}", Printable(text)) }
}
