//! The devices of each domain, as its XML has last described them. A text that is the same describes
//! the same devices, and need not be parsed again.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::domain_xml::{self, Devices};
use super::xml::Unusable;
use crate::recent::Recent;

/// What nobody has asked for in so long is parsed again.
const KEPT: Duration = Duration::from_secs(3600);

/// What was last described, by the domains.
#[derive(Debug)]
pub(super) struct Described {
    hashes: RandomState,
    domains: Mutex<Recent<Uuid, (u64, Arc<Devices>)>>,
}

impl Default for Described {
    fn default() -> Self {
        Self { hashes: RandomState::new(), domains: Mutex::new(Recent::new(KEPT)) }
    }
}

impl Described {
    /// The devices that an XML describes.
    pub(super) fn devices_in(&self, domain: Uuid, xml: &str) -> Result<Arc<Devices>, Unusable> {
        let (hash, now) = (self.hashes.hash_one(xml), Instant::now());
        if let Some((known, devices)) = self.lock().get_mut(&domain, now) {
            if *known == hash {
                return Ok(Arc::clone(devices));
            }
        }
        let devices = Arc::new(domain_xml::devices(xml)?);
        self.lock().insert(domain, (hash, Arc::clone(&devices)), now);
        Ok(devices)
    }

    /// Those that it had when they were last asked for.
    pub(super) fn devices_of(&self, domain: Uuid) -> Option<Arc<Devices>> {
        self.lock().peek(&domain).map(|(_, devices)| Arc::clone(devices))
    }

    /// Drops a domain that is gone.
    pub(super) fn forget(&self, domain: Uuid) {
        self.lock().remove(&domain);
    }

    /// Drops what does not exist, by a list that was asked for then.
    pub(super) fn forget_all_but(&self, existing: &HashSet<Uuid>, asked: Instant) {
        self.lock().forget_all_but(asked, |domain| existing.contains(domain));
    }

    fn lock(&self) -> MutexGuard<'_, Recent<Uuid, (u64, Arc<Devices>)>> {
        self.domains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: Uuid = Uuid::nil();

    fn with_disk(name: &str) -> String {
        format!("<domain><devices><disk><source/><target dev='{name}'/></disk></devices></domain>")
    }

    #[test]
    fn the_same_text_is_parsed_once_and_another_one_anew() {
        let described = Described::default();
        let first = described.devices_in(VM, &with_disk("vda")).unwrap();
        assert!(Arc::ptr_eq(&first, &described.devices_in(VM, &with_disk("vda")).unwrap()));
        let second = described.devices_in(VM, &with_disk("vdb")).unwrap();
        assert_eq!(second.disks[0].name, "vdb");
        assert!(Arc::ptr_eq(&second, &described.devices_of(VM).unwrap()));
        assert!(described.devices_in(VM, "<domain>").is_err());
        assert!(described.devices_of(VM).is_some(), "what was last described");
        described.forget_all_but(&HashSet::new(), Instant::now() + KEPT);
        assert!(described.devices_of(VM).is_none());
    }
}
