//! How often each of libvirt's calls was made, and when the last one came back. Each of them is a round
//! trip to the daemon.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The calls that take a round trip, by the names that [`Calls::made`] gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Open,
    List,
    Lookup,
    Info,
    Xml,
    Stats,
    MemoryStats,
    InterfaceStats,
    BlockStats,
    BlockStatsFlags,
    BlockInfo,
    ControlInfo,
    NodeInfo,
    LibVersion,
    State,
    JobStats,
}

const NAMES: [&str; 16] = [
    "open",
    "list",
    "lookup",
    "info",
    "xml",
    "stats",
    "memory_stats",
    "interface_stats",
    "block_stats",
    "block_stats_flags",
    "block_info",
    "control_info",
    "node_info",
    "lib_version",
    "state",
    "job_stats",
];

/// The calls of all connections of one driver.
#[derive(Debug)]
pub(super) struct Calls {
    made: [AtomicU64; NAMES.len()],
    /// The times are nanoseconds since then; 0 is none.
    start: Instant,
    answered: AtomicU64,
}

/// A call that is out. When this is dropped, it has come back.
#[derive(Debug)]
pub(super) struct Out<'a>(&'a Calls);

impl Out<'_> {
    /// There may be nobody at the other end.
    pub(super) fn was_not_answered(self) {
        std::mem::forget(self);
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        let since = u64::try_from(self.0.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.answered.fetch_max(since, Relaxed);
    }
}

impl Default for Calls {
    fn default() -> Self {
        let made = std::array::from_fn(|_| AtomicU64::new(0));
        Self { made, start: Instant::now(), answered: AtomicU64::new(0) }
    }
}

impl Calls {
    /// A call is about to be made.
    #[must_use]
    pub(super) fn begin(&self, call: Call) -> Out<'_> {
        self.made[call as usize].fetch_add(1, Relaxed);
        Out(self)
    }

    /// When the last one has come back.
    pub(super) fn answered(&self) -> Option<Instant> {
        let since = self.answered.load(Relaxed);
        (since > 0).then(|| self.start + Duration::from_nanos(since))
    }

    /// Each kind of call, and how often it was made.
    pub(super) fn made(&self) -> Vec<(&'static str, u64)> {
        NAMES.iter().zip(&self.made).map(|(name, calls)| (*name, calls.load(Relaxed))).collect()
    }
}
