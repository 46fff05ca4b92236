//! Finds the driver for a URI.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::inspector::Inspector;
use crate::libvirt::Libvirt;
use crate::limits::Limits;

/// Returns a password whenever there is a login, or a sentence why it cannot.
pub type PasswordSource = Arc<dyn Fn() -> std::result::Result<String, String> + Send + Sync>;

/// How an inspector is to work, whatever its URI.
#[derive(Clone, Default)]
pub struct Opening {
    /// Whether instances that are shut off have statistics and sizes too.
    pub report_stopped: bool,
    /// The bounds of its work.
    pub limits: Limits,
    /// The age up to which a value is handed out, where it is not the driver's own: 1 s with libvirt,
    /// and 5 s with `XenServer`, which has new values only as often.
    pub max_age: Option<Duration>,
    /// Where the password of the URI's user comes from; by default the file that the URI names, or the
    /// environment's `VIRTMETER_PASSWORD`. Not for libvirt, which asks for its own.
    pub password: Option<PasswordSource>,
}

impl Inspector {
    /// An inspector over what a URI names: `xenserver://user@host/?…` is a pool of `XenServer` or XCP-ng,
    /// anything else a connection URI of libvirt's. Connects to nothing yet.
    ///
    /// # Errors
    /// [`Error::InvalidTarget`](crate::Error::InvalidTarget); what libvirt does not take, it says later.
    pub fn open(uri: &str, with: Opening) -> Result<Self> {
        let Opening { report_stopped, mut limits, max_age, password } = with;
        #[cfg(feature = "https")]
        if is_https(uri) {
            limits.max_age = max_age.unwrap_or(XENSERVER_ROW);
            return https(uri, report_stopped, limits, password);
        }
        let _ = password;
        limits.max_age = max_age.unwrap_or(limits.max_age);
        Ok(Self::with_limits(Libvirt::new(uri, report_stopped), limits))
    }
}

/// How often `XenServer` has new values.
#[cfg(feature = "https")]
const XENSERVER_ROW: Duration = Duration::from_secs(5);

#[cfg(feature = "https")]
fn is_https(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("xenserver"))
}

#[cfg(feature = "https")]
fn https(
    uri: &str,
    report_stopped: bool,
    limits: Limits,
    password: Option<PasswordSource>,
) -> Result<Inspector> {
    use crate::error::Error;
    use crate::sweeps::Sweeps;
    use crate::target::{Password, Secret, Target, TargetError};
    use crate::xenserver::{Options, XenServer};

    let target: Target = uri
        .parse()
        .map_err(|error: TargetError| Error::InvalidTarget { why: error.to_string() })?;
    let (shown, place) = (target.to_string(), target.place());
    let make = move || {
        let (target, password, from) = (target.clone(), password.clone(), target.clone());
        let source = move || match &password {
            Some(source) => {
                source().map(|text| Password { secret: Secret::new(text), warning: None })
            }
            None => from.password().map_err(|error| error.to_string()),
        };
        XenServer::new(target, Box::new(source), Options { report_stopped })
    };
    Ok(Inspector::over(Sweeps::new(shown, place, limits, make)))
}
