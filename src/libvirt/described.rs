//! What the XML of each domain has last described: its devices, or more of it. A text that is the same
//! describes the same, and need not be parsed again.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::xml::Unusable;
use crate::locks::lock;
use crate::recent::Recent;

/// What nobody has asked for in so long is parsed again.
const KEPT: Duration = Duration::from_secs(3600);

/// What was last described, by the domains.
#[derive(Debug)]
pub(super) struct Described<T> {
    hashes: RandomState,
    domains: Mutex<Domains<T>>,
}

/// What was described, and the hash of the text.
type Domains<T> = Recent<Uuid, (u64, Arc<T>)>;

impl<T> Default for Described<T> {
    fn default() -> Self {
        Self { hashes: RandomState::new(), domains: Mutex::new(Recent::new(KEPT)) }
    }
}

impl<T> Described<T> {
    /// What an XML describes, by the way it is parsed.
    pub(super) fn by(
        &self,
        domain: Uuid,
        xml: &str,
        parse: impl FnOnce(&str) -> Result<T, Unusable>,
    ) -> Result<Arc<T>, Unusable> {
        let (hash, now) = (self.hashes.hash_one(xml), Instant::now());
        if let Some((known, described)) = self.lock().get_mut(&domain, now) {
            if *known == hash {
                return Ok(Arc::clone(described));
            }
        }
        let described = Arc::new(parse(xml)?);
        self.lock().insert(domain, (hash, Arc::clone(&described)), now);
        Ok(described)
    }

    /// What was described when it was last asked for.
    pub(super) fn last(&self, domain: Uuid) -> Option<Arc<T>> {
        self.lock().peek(&domain).map(|(_, described)| Arc::clone(described))
    }

    /// Drops a domain that is gone.
    pub(super) fn forget(&self, domain: Uuid) {
        self.lock().remove(&domain);
    }

    /// Drops what does not exist, by a list that was asked for then.
    pub(super) fn forget_all_but(&self, existing: &HashSet<Uuid>, asked: Instant) {
        self.lock().forget_all_but(asked, |domain| existing.contains(domain));
    }

    fn lock(&self) -> MutexGuard<'_, Domains<T>> {
        lock(&self.domains)
    }
}

#[cfg(test)]
mod tests {
    use super::super::domain_xml::devices;
    use super::*;

    const VM: Uuid = Uuid::nil();

    fn with_disk(name: &str) -> String {
        format!("<domain><devices><disk><source/><target dev='{name}'/></disk></devices></domain>")
    }

    #[test]
    fn the_same_text_is_parsed_once_and_another_one_anew() {
        let described = Described::default();
        let first = described.by(VM, &with_disk("vda"), devices).unwrap();
        assert!(Arc::ptr_eq(&first, &described.by(VM, &with_disk("vda"), devices).unwrap()));
        let second = described.by(VM, &with_disk("vdb"), devices).unwrap();
        assert_eq!(second.disks[0].name, "vdb");
        assert!(Arc::ptr_eq(&second, &described.last(VM).unwrap()));
        assert!(described.by(VM, "<domain>", devices).is_err());
        assert!(described.last(VM).is_some(), "what was last described");
        described.forget_all_but(&HashSet::new(), Instant::now() + KEPT);
        assert!(described.last(VM).is_none());
    }
}
