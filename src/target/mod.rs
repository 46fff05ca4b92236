//! What names a hypervisor that is reached over HTTPS: one URI with all about it but the password.
//!
//! `xenserver://monitor@pool.example.org/?password_file=/etc/virtmeter/pool.pass&sha256=AB:CD:…`
//!
//! Whoever types it may get anything wrong, and put a password anywhere: so no error repeats what was
//! typed, but for the names of options.

mod account;
mod login;
pub(crate) mod password;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::net::Ipv6Addr;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub(crate) use login::{NotLoggedIn, Over, Server, Sessions};
pub(crate) use password::{Password, PasswordError, PasswordSource, Secret};

/// What speaks there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// A pool of XenServer or XCP-ng, or a single host.
    XenServer,
    /// A vCenter Server, or a single ESXi host.
    VSphere,
}

impl Scheme {
    const ALL: [Self; 2] = [Self::XenServer, Self::VSphere];

    /// That of a URI; `None` for one of libvirt's.
    pub(crate) fn of(uri: &str) -> Option<Self> {
        let scheme = uri.split_once(':')?.0;
        Self::ALL.into_iter().find(|each| scheme.eq_ignore_ascii_case(each.name()))
    }

    /// As the URI begins.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::XenServer => "xenserver",
            Self::VSphere => "vsphere",
        }
    }
}

/// The SHA-256 of a certificate, by which it can be told: `AB:CD:…`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(crate) [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let colon = if at == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = TargetError;

    /// 64 hexadecimal digits of either case; colons may stand between bytes, in all places or in none.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let pairs: Vec<&[u8]> = if text.contains(':') {
            text.as_bytes().split(|&byte| byte == b':').collect()
        } else {
            text.as_bytes().chunks(2).collect()
        };
        let bytes: Option<Vec<u8>> = pairs.into_iter().map(byte).collect();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(TargetError::BadPin)
    }
}

/// By what a server is told to be the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    /// By a certificate that a CA of the system has signed, for the host's name.
    System,
    /// The same with the CA certificates of a file, in PEM.
    Ca(PathBuf),
    /// By exactly this certificate, whatever name and dates are in it.
    Pin(Fingerprint),
    /// By nothing: anybody between here and there can read along, and answer in its place.
    Anything,
}

/// A hypervisor, or a pool of them, and how to log in there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) scheme: Scheme,
    /// As the hypervisor knows the user.
    pub(crate) user: String,
    /// A name in lower case or an IP address, an IPv6 one without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) trust: Trust,
    /// Whether the domains that do the host's own work are told, too.
    pub(crate) control_domains: bool,
}

/// Why a text is no URI of a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error(
        "the URI does not begin with xenserver:// or vsphere://; write it like \
         xenserver://USER@HOST/?password_file=FILE or vsphere://USER@HOST/?password_file=FILE"
    )]
    UnknownScheme,
    #[error(
        "the URI has a password in it, where others can see it; put the password into a file that \
         only its owner can read, and add password_file=FILE to the URI, or set VIRTMETER_PASSWORD"
    )]
    PasswordInside,
    #[error("the URI names no user; write it like SCHEME://USER@HOST/")]
    NoUser,
    #[error(
        "the user in the URI has characters that must be percent-encoded: write @ as %40, \\ as %5C"
    )]
    BadUser,
    #[error("the URI names no host; write it like SCHEME://USER@HOST/")]
    NoHost,
    #[error(
        "the host in the URI is neither a name nor an address; a name has letters, digits, dots and \
         hyphens, and an IPv6 address stands in brackets, like [::1]"
    )]
    BadHost,
    #[error("the port in the URI must be a number from 1 to 65535, or be left out for 443")]
    BadPort,
    #[error("the URI has a path after its host; options begin with /? there")]
    Path,
    #[error("the URI has a # in it; write it as %23")]
    Fragment,
    #[error("the URI has a % that does not begin an escape like %40; write a % itself as %25")]
    BadEscape,
    #[error(
        "the URI has an option{} that is not known; there are password_file=FILE, sha256=FINGERPRINT, \
         ca_file=FILE, insecure=1 and, for XenServer, control_domains=1",
        .0.as_ref().map_or_else(String::new, |name| format!(" {name}="))
    )]
    UnknownOption(Option<String>),
    #[error("the URI has the option {0}= more than once; give it once")]
    Repeated(&'static str),
    #[error("the option {0}= of the URI is empty; give it a value or leave it out")]
    Empty(&'static str),
    #[error(
        "sha256= in the URI must be the SHA-256 of the server's certificate: 64 hexadecimal digits, \
         with or without colons between bytes"
    )]
    BadPin,
    #[error("{0}= in the URI must be 1, or be left out")]
    BadFlag(&'static str),
    #[error("control_domains=1 in the URI is for XenServer, whose dom0 is a VM; leave it out")]
    ControlDomains,
    #[error("the URI has both {0}= and {1}=; keep the one by which the server is to be trusted")]
    TwoTrusts(&'static str, &'static str),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(uri: &str) -> Result<Self, TargetError> {
        let (scheme, rest) = uri.split_once("://").ok_or(TargetError::UnknownScheme)?;
        let scheme = Scheme::ALL
            .into_iter()
            .find(|known| known.name().eq_ignore_ascii_case(scheme))
            .ok_or(TargetError::UnknownScheme)?;
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, _)) if has_colon(user) => return Err(TargetError::PasswordInside),
            Some(both) => both,
            // A password that has a slash in it.
            None if has_colon(authority) && rest.contains('@') => {
                return Err(TargetError::PasswordInside);
            }
            None => return Err(TargetError::NoUser),
        };
        let user = parse_user(user)?;
        let (host, port) = parse_host(host)?;
        if rest.contains('#') {
            return Err(TargetError::Fragment);
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !matches!(path, "" | "/") {
            return Err(TargetError::Path);
        }
        let (password_file, trust, control_domains) = parse_options(query)?;
        if control_domains && scheme != Scheme::XenServer {
            return Err(TargetError::ControlDomains);
        }
        Ok(Self { scheme, user, host, port, password_file, trust, control_domains })
    }
}

/// The URI in the form in which it is the same for the same target. There is no secret in it.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { password_file, trust, control_domains, .. } = self;
        f.write_str(&self.place())?;
        let mut options = Vec::new();
        if let Some(file) = password_file {
            options.push(format!("password_file={}", encoded_path(file)));
        }
        match trust {
            Trust::System => {}
            Trust::Ca(file) => options.push(format!("ca_file={}", encoded_path(file))),
            Trust::Pin(pin) => options.push(format!("sha256={pin}")),
            Trust::Anything => options.push("insecure=1".to_owned()),
        }
        if *control_domains {
            options.push("control_domains=1".to_owned());
        }
        if !options.is_empty() {
            write!(f, "?{}", options.join("&"))?;
        }
        Ok(())
    }
}

impl Target {
    /// The URI without its options, for messages.
    pub(crate) fn place(&self) -> String {
        let user = encoded(self.user.as_bytes(), b"");
        format!("{}://{user}@{}/", self.scheme.name(), Authority(&self.host, self.port))
    }

    /// The password, read anew: from the password file, or else from `VIRTMETER_PASSWORD`.
    ///
    /// # Errors
    ///
    /// [`PasswordError`], if there is none that can be used.
    pub(crate) fn password(&self) -> Result<Password, PasswordError> {
        password::read(self.password_file.as_deref(), std::env::var_os(password::VARIABLE))
    }
}

/// The port of HTTPS, which goes without saying.
pub(crate) const HTTPS: u16 = 443;

/// A host and a port as a URI and the header `Host` have them.
pub(crate) struct Authority<'a>(pub(crate) &'a str, pub(crate) u16);

impl fmt::Display for Authority<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(host, port) = self;
        if host.contains(':') {
            write!(f, "[{host}]")?;
        } else {
            f.write_str(host)?;
        }
        if *port == HTTPS { Ok(()) } else { write!(f, ":{port}") }
    }
}

fn has_colon(login: &str) -> bool {
    login.contains(':') || login.to_ascii_lowercase().contains("%3a")
}

fn parse_user(text: &str) -> Result<String, TargetError> {
    let user = String::from_utf8(decoded(text)?).map_err(|_| TargetError::BadUser)?;
    if user.is_empty() {
        return Err(TargetError::NoUser);
    }
    if text.contains('@') || user.contains(char::is_control) {
        return Err(TargetError::BadUser);
    }
    Ok(user)
}

fn parse_host(text: &str) -> Result<(String, u16), TargetError> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(TargetError::BadHost)?;
        let address: Ipv6Addr = address.parse().map_err(|_| TargetError::BadHost)?;
        let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')) };
        (address.to_string(), port.map(|port| port.ok_or(TargetError::BadHost)).transpose()?)
    } else {
        let (host, port) =
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
        if host.is_empty() {
            return Err(TargetError::NoHost);
        }
        let of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        // The longest name of DNS.
        if host.len() > 253 || !host.chars().all(of_a_name) {
            return Err(TargetError::BadHost);
        }
        (host.to_ascii_lowercase(), port)
    };
    let port = match port {
        None => HTTPS,
        // `parse` would take a sign.
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|&port| port != 0).ok_or(TargetError::BadPort)?
        }
        // An IPv6 address without brackets, say.
        Some(text) if text.contains(':') => return Err(TargetError::BadHost),
        Some(_) => return Err(TargetError::BadPort),
    };
    Ok((host, port))
}

fn parse_options(query: &str) -> Result<(Option<PathBuf>, Trust, bool), TargetError> {
    const NAMES: [&str; 5] = ["password_file", "sha256", "ca_file", "insecure", "control_domains"];
    let mut values: [Option<Vec<u8>>; 5] = Default::default();
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').ok_or(TargetError::UnknownOption(None))?;
        if ["password", "passwd", "pass"].contains(&name) {
            return Err(TargetError::PasswordInside);
        }
        let known = NAMES.iter().zip(&mut values).find(|(known, _)| **known == name);
        let Some((name, place)) = known else {
            let is_a_name = name.len() <= 32
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            return Err(TargetError::UnknownOption(is_a_name.then(|| name.to_owned())));
        };
        let value = decoded(value)?;
        if value.is_empty() {
            return Err(TargetError::Empty(name));
        }
        if place.replace(value).is_some() {
            return Err(TargetError::Repeated(name));
        }
    }
    let [password_file, pin, ca, insecure, control_domains] = values;
    for (name, value) in [("insecure", &insecure), ("control_domains", &control_domains)] {
        if value.as_ref().is_some_and(|value| value != b"1") {
            return Err(TargetError::BadFlag(name));
        }
    }
    let trust = match (pin, ca, insecure) {
        (None, None, None) => Trust::System,
        (Some(pin), None, None) => {
            Trust::Pin(std::str::from_utf8(&pin).map_err(|_| TargetError::BadPin)?.parse()?)
        }
        (None, Some(file), None) => Trust::Ca(path(file)),
        (None, None, Some(_)) => Trust::Anything,
        (Some(_), Some(_), _) => return Err(TargetError::TwoTrusts("sha256", "ca_file")),
        (Some(_), None, Some(_)) => return Err(TargetError::TwoTrusts("sha256", "insecure")),
        (None, Some(_), Some(_)) => return Err(TargetError::TwoTrusts("ca_file", "insecure")),
    };
    Ok((password_file.map(path), trust, control_domains.is_some()))
}

fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

/// The byte that two hexadecimal digits are.
fn byte(digits: &[u8]) -> Option<u8> {
    let &[high, low] = digits else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

fn decoded(text: &str) -> Result<Vec<u8>, TargetError> {
    let mut rest = text.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some((&first, others)) = rest.split_first() {
        rest = others;
        if first == b'%' {
            let (digits, others) = others.split_at_checked(2).ok_or(TargetError::BadEscape)?;
            bytes.push(byte(digits).ok_or(TargetError::BadEscape)?);
            rest = others;
        } else {
            bytes.push(first);
        }
    }
    Ok(bytes)
}

fn encoded(bytes: &[u8], kept: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte) {
            text.push(char::from(byte));
        } else {
            // A String takes everything.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

fn encoded_path(path: &Path) -> String {
    encoded(path.as_os_str().as_encoded_bytes(), b"/")
}
