//! What was last read of each domain, for the questions that come right after.
//!
//! One bulk reading can answer several questions, and costs libvirt and QEMU little more than one of
//! them. So whoever makes one asks for what the other questions will want too, if they came soon
//! enough the last time. What is left over is handed to each question once, and not when it is older
//! than a reading may be. The devices in the XML are no counters, and may be used more than once.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::domain_xml::Devices;
use super::sys::DomainStats;
use crate::hypervisor::Moment;
use crate::recent::Recent;

/// For so long it is remembered what came soon; any sensible `max_age` is far below this.
const KEPT: Duration = Duration::from_secs(3600);

/// The questions that a bulk reading can answer, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Questions(u8);

impl Questions {
    pub(super) const NONE: Self = Self(0);
    pub(super) const INSTANCE: Self = Self(1);
    pub(super) const NICS: Self = Self(2);
    pub(super) const DISKS: Self = Self(4);
    pub(super) const SIZES: Self = Self(8);

    pub(super) fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub(super) fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    pub(super) fn has(self, one: Self) -> bool {
        self.0 & one.0 != 0
    }
}

/// A bulk reading, and when it was taken.
pub(super) type Taken = (Moment, Arc<DomainStats>);

/// What was last read of the domains.
#[derive(Debug)]
pub(super) struct Last(Mutex<Known>);

#[derive(Debug)]
struct Known {
    domains: Recent<Uuid, Domain>,
    /// What was asked for before this must not come back.
    forgotten: Option<Instant>,
}

#[derive(Debug, Default)]
struct Domain {
    devices: Option<(Instant, Arc<Devices>)>,
    /// When the last bulk reading was taken, and what is left of it for which questions.
    taken: Option<Moment>,
    stats: Option<Arc<DomainStats>>,
    left: Questions,
    /// The questions that a bulk reading should be made for, as they came soon after the last one.
    wanted: Questions,
}

impl Last {
    /// The devices that were asked for less than `max_age` before `now`.
    pub(super) fn devices(
        &self,
        domain: Uuid,
        now: Instant,
        max_age: Duration,
    ) -> Option<Arc<Devices>> {
        let known = self.lock();
        let (asked, devices) = known.domains.peek(&domain)?.devices.as_ref()?;
        (now.saturating_duration_since(*asked) < max_age).then(|| Arc::clone(devices))
    }

    /// Keeps devices that were asked for at `asked`.
    pub(super) fn keep_devices(&self, domain: Uuid, asked: Instant, devices: &Arc<Devices>) {
        if let Some(last) = self.lock().entry(domain, asked) {
            last.devices = Some((asked, Arc::clone(devices)));
        }
    }

    /// The bulk reading that is left for a question, if it is young enough.
    pub(super) fn take(
        &self,
        domain: Uuid,
        question: Questions,
        now: Instant,
        max_age: Duration,
    ) -> Option<Taken> {
        let mut known = self.lock();
        let last = known.domains.get_mut(&domain, now)?;
        let taken = last.taken?;
        if now.saturating_duration_since(taken.earliest) >= max_age {
            last.stats = None;
            return None;
        }
        // Next time there will be one for it.
        last.wanted = last.wanted.and(question);
        if !last.left.has(question) {
            return None;
        }
        last.left = last.left.without(question);
        // It is large, and not kept for longer than it is of use.
        let stats =
            if last.left == Questions::NONE { last.stats.take() } else { last.stats.clone() };
        Some((taken, stats?))
    }

    /// What a bulk reading should be made for.
    pub(super) fn wanted(&self, domain: Uuid) -> Questions {
        self.lock().domains.peek(&domain).map(|last| last.wanted).unwrap_or_default()
    }

    /// Keeps a bulk reading that was made for one question, for others.
    pub(super) fn keep(
        &self,
        domain: Uuid,
        (taken, stats): Taken,
        made_for: Questions,
        left: Questions,
    ) {
        let mut known = self.lock();
        let Some(last) = known.entry(domain, taken.earliest) else { return };
        // Whoever has this one must not get an older one after it.
        last.left = last.left.without(made_for);
        // Two were under way at once, and the older one has come later.
        if last.taken.is_some_and(|other| other.earliest > taken.earliest) {
            return;
        }
        // What nobody has come for, nobody will come for.
        last.wanted = last.wanted.without(last.left);
        last.left = left;
        last.taken = Some(taken);
        last.stats = (left != Questions::NONE).then_some(stats);
    }

    /// Drops a domain that is gone.
    pub(super) fn forget_one(&self, domain: Uuid) {
        self.lock().domains.remove(&domain);
    }

    /// Drops what does not exist, by a list that was asked for then.
    pub(super) fn forget_all_but(&self, existing: &HashSet<Uuid>, asked: Instant) {
        self.lock().domains.forget_all_but(asked, |domain| existing.contains(domain));
    }

    /// Drops all, and what is still under way with it.
    pub(super) fn forget(&self) {
        *self.lock() = Known { domains: Recent::new(KEPT), forgotten: Some(Instant::now()) };
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Where to keep what was asked for at `asked`; nowhere if all was forgotten meanwhile.
    fn entry(&mut self, domain: Uuid, asked: Instant) -> Option<&mut Domain> {
        if self.forgotten.is_some_and(|forgotten| asked <= forgotten) {
            return None;
        }
        let last = self.domains.remove(&domain).unwrap_or_default();
        Some(self.domains.insert(domain, last, asked))
    }
}

impl Default for Last {
    fn default() -> Self {
        Self(Mutex::new(Known { domains: Recent::new(KEPT), forgotten: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const VM: Uuid = Uuid::nil();

    fn taken(at: Instant) -> Taken {
        (Moment { earliest: at, latest: at }, Arc::default())
    }

    #[test]
    fn devices_that_are_too_old_are_not_found() {
        let last = Last::default();
        let devices = super::super::domain_xml::devices("<domain/>").map(Arc::new).unwrap();
        let now = Instant::now();
        last.keep_devices(VM, now, &devices);
        assert!(last.devices(VM, now + SECOND / 2, SECOND).is_some());
        assert!(last.devices(VM, now + SECOND, SECOND).is_none());
        assert!(last.devices(VM, now, Duration::ZERO).is_none());
        assert!(last.devices(Uuid::max(), now, SECOND).is_none());
    }

    #[test]
    fn a_reading_is_made_for_those_who_came_soon_and_handed_to_each_once() {
        let (last, now) = (Last::default(), Instant::now());
        let stats = || taken(now);
        last.keep(VM, stats(), Questions::INSTANCE, Questions::NONE);
        assert!(last.take(VM, Questions::NICS, now, SECOND).is_none());
        assert!(last.take(VM, Questions::DISKS, now + SECOND, SECOND).is_none());
        assert_eq!(last.wanted(VM), Questions::NICS, "the other one came too late");
        last.keep(VM, stats(), Questions::INSTANCE, last.wanted(VM));
        assert!(last.take(VM, Questions::NICS, now, SECOND).is_some());
        assert!(last.take(VM, Questions::NICS, now, SECOND).is_none());
    }

    #[test]
    fn what_was_under_way_while_all_was_forgotten_does_not_come_back() {
        let (last, asked) = (Last::default(), Instant::now());
        let devices = super::super::domain_xml::devices("<domain/>").map(Arc::new).unwrap();
        last.forget();
        last.keep_devices(VM, asked, &devices);
        last.keep(VM, taken(asked), Questions::INSTANCE, Questions::DISKS);
        assert!(last.devices(VM, asked, SECOND).is_none());
        assert!(last.take(VM, Questions::DISKS, asked, SECOND).is_none());
        let asked = Instant::now() + SECOND;
        last.keep_devices(VM, asked, &devices);
        assert!(last.devices(VM, asked, SECOND).is_some());
    }

    #[test]
    fn a_reading_that_was_overtaken_is_not_left_over() {
        let (last, now) = (Last::default(), Instant::now());
        last.keep(VM, taken(now + SECOND), Questions::INSTANCE, Questions::NONE);
        last.keep(VM, taken(now), Questions::INSTANCE, Questions::DISKS);
        assert!(last.take(VM, Questions::DISKS, now, SECOND).is_none());
    }

    #[test]
    fn who_has_a_reading_of_his_own_gets_no_older_one_after_it() {
        let (last, now) = (Last::default(), Instant::now());
        last.keep(VM, taken(now + SECOND), Questions::INSTANCE, Questions::NICS);
        // A reading of NICs that was begun before has come only now.
        last.keep(VM, taken(now), Questions::NICS, Questions::NONE);
        assert!(last.take(VM, Questions::NICS, now + SECOND, SECOND).is_none());
    }

    #[test]
    fn what_nobody_came_for_is_not_asked_for_again() {
        let (last, now) = (Last::default(), Instant::now());
        last.keep(VM, taken(now), Questions::INSTANCE, Questions::NONE);
        last.take(VM, Questions::DISKS, now, SECOND);
        last.keep(VM, taken(now), Questions::INSTANCE, Questions::DISKS);
        last.keep(VM, taken(now + SECOND), Questions::INSTANCE, Questions::DISKS);
        assert_eq!(last.wanted(VM), Questions::NONE);
    }

    #[test]
    fn a_reading_that_is_too_old_is_left_alone() {
        let (last, now) = (Last::default(), Instant::now());
        last.keep(VM, taken(now), Questions::INSTANCE, Questions::DISKS);
        assert!(last.take(VM, Questions::DISKS, now + SECOND, SECOND).is_none());
    }
}
