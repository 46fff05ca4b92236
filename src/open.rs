//! Finds the driver for a URI.

use std::sync::Arc;
#[cfg(feature = "https")]
use std::time::Duration;

use crate::error::Result;
use crate::inspector::Inspector;
use crate::libvirt::Libvirt;
use crate::limits::Limits;
#[cfg(feature = "https")]
use crate::{
    error::Error,
    sweeps::Sweeps,
    target::{self, Password, Scheme, Secret, Target, TargetError},
    vsphere::VSphere,
    xenserver::XenServer,
};

/// Returns a password whenever there is a login, or a sentence why it cannot.
pub type PasswordSource = Arc<dyn Fn() -> std::result::Result<String, String> + Send + Sync>;

/// How an inspector is to work, whatever its URI.
#[derive(Clone, Default)]
pub struct Opening {
    /// Whether instances that are shut off have statistics and sizes too.
    pub report_stopped: bool,
    /// The bounds of its work.
    pub limits: Limits,
    /// Where the password of the URI's user comes from; by default the file that the URI names, or the
    /// environment's `VIRTMETER_PASSWORD`. Not for libvirt, which asks for its own.
    pub password: Option<PasswordSource>,
}

impl Inspector {
    /// An inspector over what a URI names: `xenserver://user@host/?…` is a pool of `XenServer` or XCP-ng,
    /// `vsphere://user@host/?…` a vCenter or an ESXi host, anything else a connection URI of libvirt's.
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// [`Error::InvalidTarget`](crate::Error::InvalidTarget); what libvirt does not take, it says later.
    pub fn open(uri: &str, with: Opening) -> Result<Self> {
        let Opening { report_stopped, limits, password } = with;
        #[cfg(feature = "https")]
        if let Some(scheme) = Scheme::of(uri) {
            let max_age = limits.max_age.or(Some(new_every(scheme)));
            let limits = Limits { max_age, ..limits };
            return https(uri, report_stopped, limits, password);
        }
        let _ = password;
        Ok(Self::with_limits(Libvirt::new(uri, report_stopped), limits))
    }
}

/// How often there are new values.
#[cfg(feature = "https")]
fn new_every(scheme: Scheme) -> Duration {
    match scheme {
        Scheme::XenServer => Duration::from_secs(5),
        Scheme::VSphere => Duration::from_secs(20),
    }
}

#[cfg(feature = "https")]
fn https(
    uri: &str,
    report_stopped: bool,
    limits: Limits,
    password: Option<PasswordSource>,
) -> Result<Inspector> {
    let target: Target = uri
        .parse()
        .map_err(|error: TargetError| Error::InvalidTarget { why: error.to_string() })?;
    let (shown, place, scheme) = (target.to_string(), target.place(), target.scheme);
    let login = move || {
        let (target, password, from) = (target.clone(), password.clone(), target.clone());
        let source: target::PasswordSource = Box::new(move || match &password {
            Some(source) => {
                source().map(|text| Password { secret: Secret::new(text), warning: None })
            }
            None => from.password().map_err(|error| error.to_string()),
        });
        (target, source)
    };
    Ok(match scheme {
        Scheme::XenServer => Inspector::over(Sweeps::new(shown, place, limits, move || {
            let (target, password) = login();
            XenServer::new(target, password, report_stopped)
        })),
        Scheme::VSphere => Inspector::over(Sweeps::new(shown, place, limits, move || {
            let (target, password) = login();
            VSphere::new(target, password, report_stopped)
        })),
    })
}
