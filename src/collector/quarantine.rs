//! The instances that do not answer. Pure: told of what happens, with the time.
//!
//! An instance goes in when a reading that needs its guest's process has timed out. It comes out
//! when the hypervisor says that nobody waits for it any more and the call that was stuck has
//! returned; or, should that call be lost, when it has been free for long enough. Where the
//! hypervisor says nothing of it, it is tried again a while after its call has returned.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::records::InstanceId;

#[derive(Default)]
pub(super) struct Quarantine(HashMap<Uuid, Hung>);

/// An instance that does not answer.
pub(super) struct Hung {
    pub(super) instance: InstanceId,
    /// When the reading began that was not answered.
    pub(super) since: Instant,
    /// The readings that are stuck with it.
    pub(super) stuck: HashSet<u64>,
    /// When something was last heard of it.
    told: Instant,
    /// Since when nobody waits for it, as far as was seen.
    free_since: Option<Instant>,
    /// Whether it is not to be asked after, as that has not come back.
    unprobed: bool,
}

impl Quarantine {
    /// Puts an instance in, for a reading that began at `since`; false if it is in already.
    pub(super) fn enter(&mut self, instance: &InstanceId, reading: u64, since: Instant) -> bool {
        let mut new = false;
        let hung = self.0.entry(instance.uuid).or_insert_with(|| {
            new = true;
            Hung {
                instance: instance.clone(),
                since,
                stuck: HashSet::new(),
                told: since,
                free_since: None,
                unprobed: false,
            }
        });
        hung.stuck.insert(reading);
        hung.free_since = None;
        new
    }

    pub(super) fn has(&self, instance: Uuid) -> bool {
        self.0.contains_key(&instance)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Hung> {
        self.0.values()
    }

    /// Those that may be asked after.
    pub(super) fn probed(&self) -> impl Iterator<Item = &Hung> {
        self.0.values().filter(|hung| !hung.unprobed)
    }

    /// Notes that the question after it has not come back.
    pub(super) fn leave_unprobed(&mut self, instance: Uuid) {
        if let Some(hung) = self.0.get_mut(&instance) {
            hung.unprobed = true;
            hung.free_since = None;
        }
    }

    /// Notes that this question is out no more.
    pub(super) fn probe_again(&mut self, instance: Uuid) {
        if let Some(hung) = self.0.get_mut(&instance) {
            hung.unprobed = false;
        }
    }

    /// Notes that a reading that was stuck has returned.
    pub(super) fn returned(&mut self, instance: Uuid, reading: u64) {
        if let Some(hung) = self.0.get_mut(&instance) {
            hung.stuck.remove(&reading);
        }
    }

    /// Lets an instance out that is in for this reading alone.
    pub(super) fn takes_back(&mut self, instance: Uuid, reading: u64) {
        self.returned(instance, reading);
        if self.0.get(&instance).is_some_and(|hung| hung.stuck.is_empty()) {
            self.0.remove(&instance);
        }
    }

    /// Notes that somebody still waits for the instance.
    pub(super) fn busy(&mut self, instance: Uuid, now: Instant) {
        if let Some(hung) = self.0.get_mut(&instance) {
            hung.told = now;
            hung.free_since = None;
            hung.unprobed = false;
        }
    }

    /// Notes that nobody waits for it; returns it if it is let out. With a call still stuck, which must
    /// be lost then, that takes `patience`, and twice as long with each more. Each of them has a thread:
    /// after the first, there must be one more `to_lose`.
    pub(super) fn free(
        &mut self,
        instance: Uuid,
        now: Instant,
        patience: Duration,
        to_lose: bool,
    ) -> Option<Hung> {
        let hung = self.0.get_mut(&instance)?;
        hung.told = now;
        hung.unprobed = false;
        let since = *hung.free_since.get_or_insert(now);
        let over = match hung.stuck.len() {
            0 => true,
            stuck => {
                let patience = patience.saturating_mul(1 << (stuck - 1).min(16));
                (stuck == 1 || to_lose) && now.saturating_duration_since(since) >= patience
            }
        };
        if over { self.0.remove(&instance) } else { None }
    }

    /// Notes that the hypervisor does not tell whether anybody waits for it; returns it if it is let out, as
    /// its calls have returned. That says nothing of how long it has been free.
    pub(super) fn untold(&mut self, instance: Uuid, now: Instant) -> Option<Hung> {
        let hung = self.0.get_mut(&instance)?;
        hung.told = now;
        hung.free_since = None;
        hung.unprobed = false;
        if hung.stuck.is_empty() { self.0.remove(&instance) } else { None }
    }

    /// Lets those out of whom nothing was heard for `patience`, and whose calls have returned: what
    /// else hangs may keep the question after them from being asked.
    pub(super) fn overdue(&mut self, now: Instant, patience: Duration) -> Vec<Hung> {
        let overdue = |hung: &Hung| {
            hung.stuck.is_empty() && now.saturating_duration_since(hung.told) >= patience
        };
        let out: Vec<Uuid> =
            self.0.iter().filter(|(_, hung)| overdue(hung)).map(|(uuid, _)| *uuid).collect();
        out.into_iter().filter_map(|uuid| self.0.remove(&uuid)).collect()
    }

    /// Lets an instance out that is gone or shut off.
    pub(super) fn release(&mut self, instance: Uuid) -> Option<Hung> {
        self.0.remove(&instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn instance() -> InstanceId {
        Uuid::from_u128(1).into()
    }

    #[test]
    fn it_comes_out_when_it_is_free_and_its_reading_has_returned() {
        let (mut quarantine, now) = (Quarantine::default(), Instant::now());
        assert!(quarantine.enter(&instance(), 7, now));
        assert!(!quarantine.enter(&instance(), 7, now));
        assert!(quarantine.free(instance().uuid, now, 10 * SECOND, true).is_none(), "still stuck");
        quarantine.returned(instance().uuid, 7);
        assert!(quarantine.free(instance().uuid, now, 10 * SECOND, true).is_some());
        assert!(!quarantine.has(instance().uuid));
    }

    #[test]
    fn a_lost_reading_keeps_it_in_for_a_while_and_two_for_longer() {
        let (mut quarantine, now) = (Quarantine::default(), Instant::now());
        let free_if = |quarantine: &mut Quarantine, after: u32, to_lose| {
            quarantine.free(instance().uuid, now + after * SECOND, 10 * SECOND, to_lose).is_some()
        };
        let free = |quarantine: &mut Quarantine, after| free_if(quarantine, after, false);
        quarantine.enter(&instance(), 1, now);
        assert!(!free(&mut quarantine, 0));
        assert!(!free(&mut quarantine, 9));
        quarantine.busy(instance().uuid, now + 10 * SECOND);
        assert!(!free(&mut quarantine, 11));
        assert!(!free(&mut quarantine, 20));
        quarantine.enter(&instance(), 2, now);
        assert!(!free(&mut quarantine, 21));
        assert!(!free(&mut quarantine, 1000), "there is no thread to lose");
        let mut another = Quarantine::default();
        another.enter(&instance(), 1, now);
        another.enter(&instance(), 2, now);
        assert!(!free_if(&mut another, 0, true));
        assert!(!free_if(&mut another, 19, true));
        assert!(free_if(&mut another, 20, true));
        quarantine.returned(instance().uuid, 1);
        assert!(free(&mut quarantine, 1001));
    }

    #[test]
    fn one_that_nothing_is_said_of_comes_out_after_its_call() {
        let (mut quarantine, now) = (Quarantine::default(), Instant::now());
        let out = |quarantine: &mut Quarantine, after: u32| {
            quarantine.overdue(now + after * SECOND, 10 * SECOND).len()
        };
        quarantine.enter(&instance(), 1, now);
        assert_eq!(out(&mut quarantine, 60), 0, "never two calls in one guest");
        quarantine.returned(instance().uuid, 1);
        quarantine.busy(instance().uuid, now + 60 * SECOND);
        assert_eq!(out(&mut quarantine, 69), 0);
        assert_eq!(out(&mut quarantine, 70), 1);
        assert!(!quarantine.has(instance().uuid));
    }
}
