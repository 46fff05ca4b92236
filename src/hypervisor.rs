//! The few questions that every driver answers.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::records::{
    Disk, DiskInfo, Instance, InstanceId, InstanceStats, Interface, ServerDescription, VmCounters,
};

/// When the values of a reading were measured. A call may wait for long before it measures them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Right before the hypervisor was first asked: no value is older. How fresh a reading is goes by
    /// this.
    pub earliest: Instant,
    /// Right after the call that brought the values: none is younger. Intervals go by this.
    pub latest: Instant,
}

/// What there is to know of a reading beside its values.
#[derive(Debug, Default)]
pub struct Notes {
    /// What the log is to say once it is handed out: a disk that was refused, say.
    pub lines: Vec<String>,
    /// When its values were measured; `None` for whoever takes the reading to say.
    pub moment: Option<Moment>,
}

impl Notes {
    /// Takes down that a call which was begun then has brought values just now.
    pub fn measured_since(&mut self, begun: Instant) {
        let earliest = self.moment.map_or(begun, |moment| moment.earliest.min(begun));
        self.moment = Some(Moment { earliest, latest: Instant::now() });
    }

    /// No value is older than this.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.moment.map(|moment| moment.earliest)
    }
}

/// A hypervisor that readings come from, and how to reach it.
pub trait Hypervisor: Send + Sync + 'static {
    /// A connection; it stays in the thread that has opened it.
    type Connection: Connection;

    /// Where the driver connects to.
    fn uri(&self) -> &str;

    /// Opens a connection; may block for as long as the hypervisor does. One call to the hypervisor
    /// may serve several questions about an instance, each of them once, for up to `max_age`.
    ///
    /// # Errors
    /// [`ConnectionLost`](crate::Error::ConnectionLost) or [`InvalidUri`](crate::Error::InvalidUri).
    fn connect(&self, max_age: Duration) -> Result<Self::Connection>;

    /// Drops what connections share.
    fn forget(&self);

    /// The round trips that all connections have made, by the names of the calls.
    fn calls(&self) -> Vec<(&'static str, u64)>;

    /// When the last round trip has ended, of whichever connection; `None` where that is not known.
    fn answered(&self) -> Option<Instant>;
}

/// A connection to a hypervisor. Every question may block for as long as the hypervisor does. Where
/// the connection breaks, the answer is
/// [`ConnectionLost`](crate::Error::ConnectionLost).
pub trait Connection {
    /// Whether the connection is open as far as is known here; never blocks.
    fn is_alive(&self) -> bool;

    /// Every instance that the hypervisor knows, running or not.
    ///
    /// # Errors
    /// [`ConnectionLost`](crate::Error::ConnectionLost) or [`NoList`](crate::Error::NoList).
    fn instances(&mut self) -> Result<Vec<Instance>>;

    /// What OpenStack Nova says of an instance; `None` for one that is not Nova's.
    ///
    /// # Errors
    /// Any [`Error`](crate::Error).
    fn server(&mut self, instance: &InstanceId) -> Result<Option<ServerDescription>>;

    /// CPU, memory and performance counters.
    ///
    /// # Errors
    /// Any [`Error`](crate::Error); an instance that is shut off has counters only where the driver
    /// was told to report stopped ones.
    fn instance_stats(&mut self, instance: &InstanceId, notes: &mut Notes)
    -> Result<InstanceStats>;

    /// What is known of an instance without asking its guest's process, which may hang: this never
    /// waits for it.
    ///
    /// # Errors
    /// As [`instance_stats`](Self::instance_stats).
    fn stats_of_hung(&mut self, instance: &InstanceId) -> Result<InstanceStats>;

    /// Every NIC that is plugged in, with its counters where the hypervisor gives them. Never waits
    /// for the guest's process.
    ///
    /// # Errors
    /// Any [`Error`](crate::Error).
    fn interfaces(&mut self, instance: &InstanceId, notes: &mut Notes) -> Result<Vec<Interface>>;

    /// Every disk that is there, with its counters where the hypervisor gives them.
    ///
    /// # Errors
    /// Any [`Error`](crate::Error).
    fn disk_stats(&mut self, instance: &InstanceId, notes: &mut Notes) -> Result<Vec<Disk>>;

    /// Every disk whose size the hypervisor gives.
    ///
    /// # Errors
    /// Any [`Error`](crate::Error).
    fn disk_info(&mut self, instance: &InstanceId, notes: &mut Notes) -> Result<Vec<DiskInfo>>;

    /// Everything that the usage of an instance is reckoned from, as of one moment.
    ///
    /// # Errors
    /// Any [`Error`](crate::Error).
    fn counters(&mut self, instance: &InstanceId, notes: &mut Notes) -> Result<VmCounters>;

    /// As [`counters`](Self::counters), with what is known without asking its guest's process, which
    /// may hang: this never waits for it.
    ///
    /// # Errors
    /// Any [`Error`](crate::Error).
    fn counters_of_hung(&mut self, instance: &InstanceId, notes: &mut Notes) -> Result<VmCounters>;

    /// How many CPUs the host has; `None`, and a note, where the hypervisor does not tell.
    ///
    /// # Errors
    /// [`ConnectionLost`](crate::Error::ConnectionLost).
    fn host_cpus(&mut self, notes: &mut Notes) -> Result<Option<u32>>;

    /// Whether nobody waits for the instance's guest now; `None` where the hypervisor cannot tell.
    /// Never waits for it itself.
    ///
    /// # Errors
    /// Any [`Error`](crate::Error).
    fn is_free(&mut self, instance: &InstanceId) -> Result<Option<bool>>;
}
