//! The time in which the hypervisor cannot be reached. Pure: told of what happens, with the time.

use std::time::{Duration, Instant};

use crate::error::Failure;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// While this lasts, everyone is told so at once, and one probe at a time tries to connect.
pub(super) struct Outage {
    pub(super) failure: Failure,
    pub(super) since: Instant,
    /// When to try next, and how long to pause after that.
    pub(super) next_try: Instant,
    pause: Duration,
}

impl Outage {
    pub(super) fn new(failure: Failure, now: Instant) -> Self {
        let pause = FIRST_PAUSE;
        Self { failure, since: now, next_try: now + pause, pause }
    }

    /// Notes that a try has failed.
    pub(super) fn goes_on(&mut self, failure: Failure, now: Instant) {
        self.failure = failure;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.next_try = now + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_few_seconds() {
        let failure = Failure::of_libvirt(38, 7, String::new());
        let now = Instant::now();
        let mut outage = Outage::new(failure.clone(), now);
        let mut pauses = vec![outage.next_try - now];
        for _ in 0..10 {
            outage.goes_on(failure.clone(), now);
            pauses.push(outage.next_try - now);
        }
        assert!(pauses.is_sorted());
        assert_eq!((pauses[0], pauses[10]), (FIRST_PAUSE, LONGEST_PAUSE));
    }
}
