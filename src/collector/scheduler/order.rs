//! Who is next of those who ask the same, as a reading is handed to one caller alone.

use std::thread::ThreadId;
use std::time::{Duration, Instant};

use super::super::Key;
use super::{Request, Scheduler, Slot, Turn};
use crate::hypervisor::Parts;

/// A request whose caller is away: it runs a signal's handler, say, which may ask the same.
pub(super) struct Suspended {
    request: u64,
    caller: ThreadId,
    key: Key,
    claimed: Option<(Slot, u64)>,
    since: Instant,
    /// Whether another request has taken its place.
    taken: bool,
}

impl Suspended {
    /// Whether another request need not wait for it: one of the same caller cannot go on before that, and others do not
    /// wait for long for a caller that stays away.
    fn gives_way(&self, request: &Request, long: Duration, now: Instant) -> bool {
        self.caller == request.caller || now.saturating_duration_since(self.since) >= long
    }
}

impl<R> Scheduler<R> {
    /// Has a caller wait until it is its turn, and looks again after a while.
    pub(super) fn wait_in_turn(
        &mut self,
        request: &Request,
        until: Instant,
        now: Instant,
    ) -> Turn<R> {
        self.waiting.entry(request.key).or_default().insert(request.id);
        Turn::Wait(until.min(now + self.limits.slow()))
    }

    /// Whether others wait for the same who have asked before, also if they are away just now.
    pub(super) fn is_behind(&self, request: &Request, now: Instant) -> bool {
        let gives_way = |id: &u64| {
            let away = self.suspended.iter().find(|away| away.request == *id);
            away.is_some_and(|away| away.gives_way(request, self.limits.held_up(), now))
        };
        let waiting = self.waiting.get(&request.key).into_iter().flatten();
        waiting.take_while(|id| **id < request.id).any(|id| !gives_way(id))
    }

    /// It does not wait any more: it has its reading, or what there is instead of one.
    pub(super) fn end_waiting(&mut self, request: &Request) {
        if let Some(waiting) = self.waiting.get_mut(&request.key) {
            waiting.remove(&request.id);
            if waiting.is_empty() {
                self.waiting.remove(&request.key);
            }
        }
    }

    /// The caller goes away for a while.
    pub(in crate::collector) fn suspend(&mut self, request: &Request, now: Instant) {
        let Request { id, caller, key, claimed, .. } = *request;
        let suspended = Suspended { request: id, caller, key, claimed, since: now, taken: false };
        self.suspended.push(suspended);
    }

    /// The caller is back. If another request has taken its place, it asks anew. If so, or if it was away for long, its
    /// time begins anew, once: its signal's handler, or whoever had Python's lock, has taken that, or this process was
    /// stopped. Returns for how long, if nobody else was awake.
    pub(in crate::collector) fn resume(
        &mut self,
        request: &mut Request,
        now: Instant,
    ) -> Option<Duration> {
        let away = self.suspended.iter().position(|suspended| suspended.request == request.id)?;
        let Suspended { since, taken, .. } = self.suspended.swap_remove(away);
        let is_late = now.saturating_duration_since(since) >= self.limits.stopped();
        if taken {
            request.claimed = None;
        }
        if !(taken || is_late) || request.resumed {
            return None;
        }
        (request.asked, request.resumed) = (now, true);
        // What is on its way to somebody is as good as it was.
        self.was_stopped(since, now, |task| task.claimed == Parts::NONE)
    }

    /// What a suspended request has claimed: it has it now.
    pub(super) fn take_over(&mut self, request: &Request, now: Instant) -> Option<(Slot, u64)> {
        let long = self.limits.held_up();
        let gives_way = |away: &&mut Suspended| {
            away.key == request.key && !away.taken && away.gives_way(request, long, now)
        };
        let away = self.suspended.iter_mut().find(gives_way)?;
        away.taken = true;
        away.claimed
    }
}
