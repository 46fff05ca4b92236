//! Callers that are away for a while, and a process that was stopped.

use std::thread::ThreadId;
use std::time::{Duration, Instant};

use super::super::Key;
use super::{Request, Scheduler, Slot, Task};
use crate::hypervisor::Parts;

/// So often at most is a question asked anew as this process was stopped: where there is no CPU at all, its caller gives
/// up in the end.
pub(super) const MOST_SLEEPS: u8 = 3;

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

    /// Whether the caller of the first is away, so that the other one need not wait for it.
    pub(super) fn gives_way(&self, id: u64, other: &Request, now: Instant) -> bool {
        let away = self.suspended.iter().find(|away| away.request == id);
        away.is_some_and(|away| away.gives_way(other, self.limits.held_up(), now))
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

    /// A caller that waits wakes up, which it wanted to do at that time at the latest. If it is late by far,
    /// this process was stopped, or had no CPU: nobody could be heard, and values that come now may
    /// be as old as that. So no call is to blame, and the caller asks anew. Returns for how long that was, if others do
    /// not know of it yet.
    pub(in crate::collector) fn wakes(
        &mut self,
        request: &mut Request,
        wanted: Instant,
        now: Instant,
    ) -> Option<Duration> {
        let is_late = now.saturating_duration_since(wanted) >= self.limits.stopped();
        if !is_late {
            self.awake = Some(now);
            return None;
        }
        if request.sleeps < MOST_SLEEPS {
            self.leave(request);
            (request.claimed, request.asked) = (None, now);
            request.sleeps += 1;
        }
        self.was_stopped(wanted, now, |_| true)
    }

    /// A thread that needs no caller has waited since then, or was in a call. If that did not take long, this process was
    /// not stopped meanwhile, though all who wait may be away; of what was before, it says nothing.
    pub(in crate::collector) fn was_awake(&mut self, since: Instant, now: Instant) {
        let long = |since: Instant, now: Instant| {
            now.saturating_duration_since(since) >= self.limits.stopped()
        };
        if !long(since, now) && self.awake.is_some_and(|awake| !long(awake, since)) {
            self.awake = self.awake.max(Some(now));
        }
    }

    /// Nobody who waits was awake since then, or since one of them last was: was this process stopped? Then this is
    /// read anew, and the time of whatever else is out begins anew. Returns for how long it was.
    pub(super) fn was_stopped(
        &mut self,
        since: Instant,
        now: Instant,
        read_anew: impl Fn(&Task) -> bool,
    ) -> Option<Duration> {
        let since = self.awake.replace(now).map_or(since, |awake| awake.max(since));
        let stopped = now.saturating_duration_since(since);
        if stopped < self.limits.stopped() {
            return None;
        }
        self.drop_readings(read_anew);
        let begun = self.tasks.values_mut().filter_map(|task| task.started.as_mut());
        let calls = self.running.values_mut().filter(|call| !call.hangs());
        let begun = begun.chain(calls.map(|call| &mut call.started));
        let begun = begun.chain(self.connecting.values_mut()).chain(&mut self.probing);
        begun.for_each(|since| *since = now);
        // Nor could anything be heard.
        self.heard = self.heard.map(|heard| (heard + stopped).min(now));
        Some(stopped)
    }
}
