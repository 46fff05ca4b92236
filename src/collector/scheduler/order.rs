//! Who is next of those who ask the same, as a reading is handed to one caller alone.

use std::time::Instant;

use super::{Request, Scheduler, Turn};

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
        let waiting = self.waiting.get(&request.key).into_iter().flatten();
        let before = waiting.take_while(|id| **id < request.id);
        before.copied().any(|id| !self.gives_way(id, request, now))
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
}
