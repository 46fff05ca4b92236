//! How often each of libvirt's calls was made. Each of them is a round trip to the daemon.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
}

const NAMES: [&str; 13] = [
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
];

/// The calls of all connections of one driver.
#[derive(Debug, Default)]
pub(super) struct Calls([AtomicU64; NAMES.len()]);

impl Calls {
    pub(super) fn count(&self, call: Call) {
        self.0[call as usize].fetch_add(1, Relaxed);
    }

    /// Each kind of call, and how often it was made.
    pub(super) fn made(&self) -> Vec<(&'static str, u64)> {
        NAMES.iter().zip(&self.0).map(|(name, calls)| (*name, calls.load(Relaxed))).collect()
    }
}
