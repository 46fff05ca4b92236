//! What the domains' XML says of their devices, shared by all questions for as long as a reading
//! may be old. Fetching it is cheap for libvirt, formatting and parsing it is not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::domain_xml::Devices;
use crate::recent::Recent;

/// For so long they are kept at the least; any sensible `max_age` is far below this.
const KEPT: Duration = Duration::from_secs(60);

/// The devices of the domains that were read of late, and when they were asked for.
#[derive(Debug)]
pub(super) struct Descriptions(Mutex<Recent<Uuid, (Instant, Arc<Devices>)>>);

impl Descriptions {
    /// What was asked for less than `max_age` before `now`.
    pub(super) fn find(
        &self,
        domain: Uuid,
        now: Instant,
        max_age: Duration,
    ) -> Option<Arc<Devices>> {
        let known = self.lock();
        let (asked, devices) = known.peek(&domain)?;
        (now.saturating_duration_since(*asked) < max_age).then(|| Arc::clone(devices))
    }

    /// Keeps what was asked for at `asked`.
    pub(super) fn keep(&self, domain: Uuid, asked: Instant, devices: &Arc<Devices>) {
        self.lock().insert(domain, (asked, Arc::clone(devices)), asked);
    }

    /// Drops all.
    pub(super) fn forget(&self) {
        *self.lock() = Recent::new(KEPT);
    }

    fn lock(&self) -> MutexGuard<'_, Recent<Uuid, (Instant, Arc<Devices>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Descriptions {
    fn default() -> Self {
        Self(Mutex::new(Recent::new(KEPT)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_old_is_not_found() {
        let descriptions = Descriptions::default();
        let devices = super::super::domain_xml::devices("<domain/>").map(Arc::new).unwrap();
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        descriptions.keep(Uuid::nil(), now, &devices);
        assert!(descriptions.find(Uuid::nil(), now + second / 2, second).is_some());
        assert!(descriptions.find(Uuid::nil(), now + second, second).is_none());
        assert!(descriptions.find(Uuid::nil(), now, Duration::ZERO).is_none());
        assert!(descriptions.find(Uuid::max(), now, second).is_none());
    }
}
