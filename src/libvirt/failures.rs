//! What a failure of libvirt's means: the connection broke, the URI is wrong, or the call was refused.

use virt_sys as c;

use crate::error::Failure;

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

impl Failure {
    /// Whether the connection broke, rather than the call being refused.
    pub(super) fn is_disconnection(&self) -> bool {
        const EPIPE: u32 = 32;
        match self.domain() {
            Some(c::VIR_FROM_RPC) if self.is(EPIPE) => true,
            Some(c::VIR_FROM_RPC | c::VIR_FROM_REMOTE) => {
                self.is(c::VIR_ERR_SYSTEM_ERROR) || self.is(c::VIR_ERR_INTERNAL_ERROR)
            }
            _ => false,
        }
    }

    /// Whether libvirt refused with this `virErrorNumber`.
    pub(super) fn is(&self, code: c::virErrorNumber) -> bool {
        self.libvirt.is_some_and(|(said, _)| u32::try_from(said) == Ok(code))
    }

    /// The part of libvirt that refused, a `virErrorDomain`.
    fn domain(&self) -> Option<c::virErrorDomain> {
        self.libvirt.and_then(|(_, domain)| u32::try_from(domain).ok())
    }
}

/// Whether opening failed because of what the URI says, which no later try will mend.
pub(super) fn is_refused_uri(uri: &str, failure: &Failure) -> bool {
    // qemu+tls://host/system is driver and transport. Without a colon it is an alias of libvirt's
    // configuration, or empty and libvirt's own choice.
    let driver = uri.split_once(':').map(|(scheme, _)| {
        scheme.split_once('+').map_or(scheme, |(driver, _)| driver).to_lowercase()
    });
    // The test hypervisor is a file that the URI names, which libvirt 12 opens by a part of it that
    // names no domain.
    let is_file = failure.domain() == Some(c::VIR_FROM_TEST)
        || driver.as_deref() == Some("test") && failure.domain() == Some(c::VIR_FROM_NONE);
    // libvirt has looked for an alias, then. Its code is also that of a host without a driver.
    let is_no_uri = driver.is_none() && failure.message.contains("does not include a driver name");
    is_file
        || is_no_uri
        || driver.is_some_and(|driver| !SCHEMES.contains(&driver.as_str()))
        || failure.is(c::VIR_ERR_INVALID_ARG)
        || failure.is(c::VIR_ERR_CONFIG_UNSUPPORTED)
        || failure.domain() == Some(c::VIR_FROM_URI)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: u32, domain: u32) -> Failure {
        let (code, domain) = (code.try_into().unwrap(), domain.try_into().unwrap());
        Failure::of_libvirt(code, domain, String::new())
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
        // The file of libvirt's test hypervisor is missing, as libvirt 9 and 12 tell it.
        for domain in [c::VIR_FROM_TEST, c::VIR_FROM_NONE] {
            let missing = failure(c::VIR_ERR_SYSTEM_ERROR, domain);
            assert!(is_refused_uri("test:////nowhere.xml", &missing), "{domain}");
        }
        assert!(!is_refused_uri("test+unix:///default", &down));
        // A libvirtd without its QEMU driver is the host's fault, and may get one.
        let mut no_driver = failure(c::VIR_ERR_NO_CONNECT, c::VIR_FROM_NONE);
        for uri in ["qemu:///system", "an-alias"] {
            assert!(!is_refused_uri(uri, &no_driver), "{uri}");
        }
        no_driver.message = "URI 'no-alias' does not include a driver name".to_owned();
        assert!(is_refused_uri("no-alias", &no_driver));
    }
}
