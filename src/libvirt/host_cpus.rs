//! How many CPUs the host has, for all connections: asked for again every now and then, as some hosts
//! can be given more while they run.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For so long an answer is good, a refusal too.
const KEPT: Duration = Duration::from_secs(60);

/// The last answer.
#[derive(Debug, Default)]
pub(super) struct HostCpus(Mutex<Option<Known>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    asked: Instant,
    /// How many there are; `None` where libvirt does not tell.
    pub(super) cpus: Option<u32>,
}

impl HostCpus {
    /// What is known at `now`; `None` if it is time to ask.
    pub(super) fn known(&self, now: Instant) -> Option<Known> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|known| now.saturating_duration_since(known.asked) < KEPT)
    }

    /// Keeps the answer to a question of `asked`. Returns whether it is the first refusal in a row.
    pub(super) fn keep(&self, asked: Instant, cpus: Option<u32>) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.replace(Known { asked, cpus });
        cpus.is_none() && before.is_none_or(|before| before.cpus.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_good_for_a_while_and_a_refusal_is_said_once() {
        let (host, start) = (HostCpus::default(), Instant::now());
        let known = |after| host.known(start + after * KEPT).map(|known| known.cpus);
        let keep = |after, cpus| host.keep(start + after * KEPT, cpus);
        assert_eq!(known(0), None);
        assert!(!keep(0, Some(4)));
        assert_eq!((known(0), known(1)), (Some(Some(4)), None));
        assert!(keep(1, None));
        assert_eq!(known(1), Some(None), "it is not asked for with every reading");
        assert!(!keep(2, None));
        assert!(!keep(3, Some(8)));
        assert_eq!(known(3), Some(Some(8)));
    }
}
