//! How far the engine goes.

use std::time::Duration;

/// The bounds of an [`Inspector`](crate::Inspector)'s work; the defaults suit a host with 10 to 500
/// instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A reading that takes longer than this is given up.
    pub timeout: Duration,
    /// A value that was read ahead is handed out only while it is younger than this. With zero,
    /// nothing is read ahead and nothing shared.
    pub max_age: Duration,
    /// How many readings are taken at once, each in a thread and over a connection of its own.
    pub workers: usize,
    /// How many readings are taken ahead of a caller at the most; 0 for none.
    pub read_ahead: usize,
    /// How many threads more may be stuck in calls that do not return. Each of them occupies one of
    /// the daemon's workers as well (`max_workers` in libvirtd.conf, 20 by default).
    pub max_stuck: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            max_age: Duration::from_secs(1),
            workers: 6,
            read_ahead: 16,
            max_stuck: 6,
        }
    }
}

impl Limits {
    /// The most threads that take readings, stuck ones and all.
    pub(super) fn threads(&self) -> usize {
        self.workers + self.max_stuck
    }

    /// How many readings that need the guest's process may be under way: one thread is always left
    /// for those that do not.
    pub(super) fn waiting_for_guests(&self) -> usize {
        (self.threads() - 1).max(1)
    }

    /// A reading that takes longer than this does not count as one of the workers' any more.
    pub(super) fn slow(&self) -> Duration {
        (self.timeout / 20).min(Duration::from_millis(250))
    }

    /// While a caller is held up for so long, the instances behind it are looked at as well.
    pub(super) fn held_up(&self) -> Duration {
        self.timeout / 5
    }

    /// Between two looks at instances that do not answer.
    pub(super) fn probe_pause(&self) -> Duration {
        (self.timeout / 5).min(Duration::from_secs(1))
    }
}
