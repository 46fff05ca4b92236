//! What is read before anybody asks for it: the next in a steady order, and, once somebody is held
//! up, the instances behind.

use std::collections::HashSet;
use std::time::Instant;

use super::super::{Key, Kind, NO_INSTANCE};
use super::{Lane, Ready, Scheduler};
use crate::hypervisor::Parts;
use crate::records::InstanceId;

impl<R> Scheduler<R> {
    /// Orders the readings that are expected after `key`, so many at the most: once half of them are
    /// used up, as each order wakes threads.
    pub(super) fn top_up(&mut self, key: Key, most: usize, now: Instant) {
        let (mut last, enough) = (key.uuid, most.div_ceil(2));
        for _ in 0..enough {
            match self.habits.after(last) {
                Some(next) if self.is_coming(Key { uuid: next.uuid, ..key }, now) => {
                    last = next.uuid;
                }
                _ => return self.read_ahead(key, most, now),
            }
        }
    }

    /// Whether a part is there, and young enough, or on its way.
    fn is_coming(&self, key: Key, now: Instant) -> bool {
        let task = self.tasks.get(&self.slot(key, false, now));
        task.is_some_and(|task| task.parts.has(key.kind.part())) || self.is_ready(key, now)
    }

    pub(super) fn is_ready(&self, key: Key, now: Instant) -> bool {
        self.ready.get(&key).is_some_and(|ready| !self.is_too_old(ready, now))
    }

    /// Orders this part of the instances that are expected after `key`, up to so many.
    fn read_ahead(&mut self, key: Key, width: usize, now: Instant) {
        let mut seen = HashSet::from([key.uuid]);
        let mut last = key.uuid;
        while seen.len() <= width && self.outage.is_none() {
            let Some(next) = self.habits.after(last).cloned() else { return };
            last = next.uuid;
            if !seen.insert(last) {
                return;
            }
            self.order(key.kind, next, now);
        }
    }

    /// Whether threads are for what is read ahead, too: where even what waits for no guest hangs, they
    /// are for those who ask.
    pub(super) fn may_read_ahead(&self) -> bool {
        self.hangs_aside().next().is_none()
    }

    /// Orders a part of an instance, unless it is coming or cannot be had.
    fn order(&mut self, kind: Kind, instance: InstanceId, now: Instant) {
        let key = Key { kind, uuid: instance.uuid };
        let slot = self.slot(key, false, now);
        let hangs = kind.needs_guest() && slot.lane == Lane::Aside;
        if self.is_stuck(slot, now) || (hangs && !kind.knows_hung()) || self.is_ready(key, now) {
            return;
        }
        if let Some(old) = self.ready.remove(&key) {
            self.has_wasted(old.ahead);
        }
        if let Some(task) = self.tasks.get_mut(&slot) {
            if task.started.is_none() {
                task.parts = task.parts.and(key.kind.part());
            }
            return;
        }
        let id = self.new_task(slot, key, instance, now);
        self.ahead.push_back((slot, id));
    }

    pub(super) fn is_too_old(&self, ready: &Ready<R>, now: Instant) -> bool {
        now.saturating_duration_since(ready.taken) >= self.limits.max_age()
    }

    /// Something was read that nobody has asked for in time.
    pub(super) fn has_wasted(&mut self, ahead: bool) {
        self.health.wasted += 1;
        // What was read together with something else costs little.
        self.width >>= u32::from(ahead);
    }

    /// Looks at the instances behind one that holds up its caller, so that whatever else hangs does
    /// not hold it up in its turn.
    pub(super) fn look_behind(&mut self, key: Key, now: Instant) {
        let again = 2 * self.limits.timeout;
        let lately = |then| now.saturating_duration_since(then) < again;
        if !key.kind.needs_guest() || self.swept.is_some_and(lately) {
            return;
        }
        self.swept = Some(now);
        self.sweeping = true;
        // What was read before does not say who hangs now.
        self.ready.clear();
        self.read_ahead(key, usize::MAX, now);
        // Where no order is known yet, those that were listed.
        for instance in std::mem::take(&mut self.listed) {
            if instance.uuid != key.uuid && !self.must_not_wait_for_guest(instance.uuid) {
                self.order(key.kind, instance.clone(), now);
            }
            self.listed.push(instance);
        }
    }

    /// Orders something for housekeeping, which no caller waits for.
    pub(in crate::collector) fn keep_house(&mut self, kind: Kind, now: Instant) {
        let key = Key { kind, uuid: NO_INSTANCE };
        let slot = self.slot(key, false, now);
        let away = self.outage.is_some() || self.is_stuck(slot, now);
        if !away && !self.tasks.contains_key(&slot) {
            let id = self.new_task(slot, key, key.uuid.into(), now);
            // It takes its turn, as it is rare, and callers who outnumber the threads never end.
            self.asked.push_back((slot, id));
        }
    }

    /// Those that exist, by a list that was asked for then: others are forgotten.
    pub(in crate::collector) fn listed(&mut self, instances: Vec<InstanceId>, asked: Instant) {
        let existing = instances.iter().map(|instance| instance.uuid).collect();
        self.habits.forget_all_but(&existing, asked);
        self.busy.retain(|uuid, _| existing.contains(uuid));
        self.locked.retain(|uuid, _| existing.contains(uuid));
        self.listed = instances;
    }

    /// Nobody is held up any more: what was to be looked at behind is not worth it.
    pub(super) fn end_sweep(&mut self) {
        self.sweeping = false;
        for (slot, id) in std::mem::take(&mut self.ahead) {
            let unclaimed = |task: &super::Task| task.claimed == Parts::NONE;
            if self.is_pending((slot, id)) && self.tasks.get(&slot).is_some_and(unclaimed) {
                self.tasks.remove(&slot);
            }
        }
    }

    /// Drops what nobody has asked for in time, once there is much of it.
    pub(super) fn clear_ready(&mut self, now: Instant) {
        if self.ready.len() > self.cleared_to.max(2 * self.limits.read_ahead) {
            let before = self.ready.len();
            let max_age = self.limits.max_age();
            self.ready.retain(|_, ready| now.saturating_duration_since(ready.taken) < max_age);
            self.cleared_to = 2 * self.ready.len();
            self.health.wasted += u64::try_from(before - self.ready.len()).unwrap_or(0);
        }
    }
}
