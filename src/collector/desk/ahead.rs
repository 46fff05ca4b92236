//! What is read before anybody asks for it: the next in a steady order, and, once somebody is held
//! up, the instances behind.

use std::collections::HashSet;
use std::time::Instant;

use uuid::Uuid;

use super::super::{Key, Kind};
use super::{Desk, Ready};
use crate::records::InstanceId;

impl<R> Desk<R> {
    /// Orders the readings that are expected after `key`, so many at the most: once half of them are
    /// used up, as each order wakes threads.
    pub(super) fn top_up(&mut self, key: Key, most: usize, now: Instant) {
        let (mut last, enough) = (key, most.div_ceil(2));
        for _ in 0..enough {
            match self.order.after(last) {
                Some((next, _)) if self.is_coming(*next, now) => last = *next,
                _ => return self.read_ahead(key, most, now, |_| true),
            }
        }
    }

    /// Whether a reading is there, and young enough, or under way.
    fn is_coming(&self, key: Key, now: Instant) -> bool {
        self.flights.contains_key(&key)
            || self.ready.get(&key).is_some_and(|ready| !self.is_too_old(ready, now))
    }

    /// Orders what is expected after `key`, up to so many readings.
    pub(super) fn read_ahead(
        &mut self,
        key: Key,
        width: usize,
        now: Instant,
        mut wanted: impl FnMut(Key) -> bool,
    ) {
        let mut seen = HashSet::from([key]);
        let mut last = key;
        while seen.len() <= width && self.outage.is_none() {
            let Some((next, _)) = self.order.after(last) else { return };
            let (before, next) = (last, *next);
            if !seen.insert(next) {
                return;
            }
            last = next;
            let hangs = self.must_not_wait_for_guest(next);
            if !wanted(next) || self.is_stuck(next, now) || (hangs && !next.kind.knows_hung()) {
                continue;
            }
            if self.ready.get(&next).is_some_and(|ready| self.is_too_old(ready, now)) {
                self.ready.remove(&next);
                self.health.wasted += 1;
            }
            if !self.ready.contains_key(&next) && !self.flights.contains_key(&next) {
                let Some((_, instance)) = self.order.after(before) else { return };
                let id = self.new_flight(next, instance.clone(), false);
                self.ahead.push_back((next, id));
            }
        }
    }

    pub(super) fn is_too_old(&self, ready: &Ready<R>, now: Instant) -> bool {
        now.saturating_duration_since(ready.taken) >= self.limits.max_age
    }

    /// Looks at the instances behind one that holds up its caller, so that whatever else hangs does
    /// not hold it up in its turn.
    pub(super) fn look_behind(&mut self, key: Key, now: Instant) {
        let again = 2 * self.limits.timeout;
        if self.swept.is_some_and(|then| now.saturating_duration_since(then) < again) {
            return;
        }
        self.swept = Some(now);
        self.sweeping = true;
        // What was read before does not say who hangs now.
        self.ready.clear();
        self.forget = true;
        // One reading of each is enough.
        let mut looked_at = HashSet::from([key.uuid]);
        let guests = |next: Key| next.kind.needs_guest() && looked_at.insert(next.uuid);
        self.read_ahead(key, usize::MAX, now, guests);
        // Where no order is known yet, those that were listed.
        for instance in std::mem::take(&mut self.listed) {
            let next = Key { kind: key.kind, uuid: instance.uuid };
            let known = self.flights.contains_key(&next) || self.must_not_wait_for_guest(next);
            if next.kind.needs_guest() && looked_at.insert(next.uuid) && !known {
                let id = self.new_flight(next, instance.clone(), false);
                self.ahead.push_back((next, id));
            }
            self.listed.push(instance);
        }
    }

    /// Orders something for housekeeping, which no caller waits for.
    pub(in crate::collector) fn keep_house(&mut self, kind: Kind, now: Instant) {
        let key = Key { kind, uuid: Uuid::nil() };
        let away = self.outage.is_some() || self.is_stuck(key, now);
        if !away && !self.flights.contains_key(&key) {
            let id = self.new_flight(key, key.uuid.into(), false);
            // It takes its turn, as it is rare, and callers who outnumber the threads never end.
            self.asked.push_back((key, id));
        }
    }

    /// Those that exist, by a list that was asked for then: others are forgotten.
    pub(in crate::collector) fn listed(&mut self, instances: Vec<InstanceId>, asked: Instant) {
        let existing = instances.iter().map(|instance| instance.uuid).collect();
        self.order.forget_all_but(&existing, asked);
        self.listed = instances;
    }

    /// Nobody is held up any more: what was to be looked at behind is not worth it.
    pub(super) fn end_sweep(&mut self) {
        self.sweeping = false;
        for (key, id) in std::mem::take(&mut self.ahead) {
            if self.is_pending((key, id)) && self.flights.get(&key).is_some_and(|f| !f.claimed) {
                self.flights.remove(&key);
            }
        }
    }

    /// Drops what nobody has asked for in time, once there is much of it.
    pub(super) fn clear_ready(&mut self, now: Instant) {
        if self.ready.len() > 2 * self.limits.read_ahead {
            let before = self.ready.len();
            self.ready.retain(|_, ready| {
                now.saturating_duration_since(ready.taken) < self.limits.max_age
            });
            self.health.wasted += u64::try_from(before - self.ready.len()).unwrap_or(0);
        }
    }
}
