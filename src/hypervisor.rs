//! The few questions that every driver answers.

use crate::error::Result;
use crate::records::{DiskInfo, DiskStats, Instance, InstanceId, InstanceStats, Interface, Server};

/// A source of readings. Every call may block for as long as the hypervisor does, may come from
/// any thread, and reads anew: a driver keeps connections, never values.
pub trait Hypervisor: Send + Sync {
    /// Where the driver connects to.
    fn uri(&self) -> &str;

    /// Whether a connection is open now; never connects and never blocks.
    fn is_connected(&self) -> bool;

    /// Drops the connection; the next call opens a new one.
    fn close(&self);

    /// Every instance that the hypervisor knows, running or not.
    ///
    /// # Errors
    /// [`ConnectionLost`](crate::Error::ConnectionLost), [`InvalidUri`](crate::Error::InvalidUri)
    /// or [`NoList`](crate::Error::NoList).
    fn instances(&self) -> Result<Vec<Instance>>;

    /// Every instance that is OpenStack Nova's, with what Nova says of it. One that cannot be read
    /// is logged and left out.
    ///
    /// # Errors
    /// As [`instances`](Self::instances).
    fn servers(&self) -> Result<Vec<Server>>;

    /// CPU, memory and performance counters.
    ///
    /// # Errors
    /// Any [`Error`](crate::Error); an instance that is shut off has counters only where the driver
    /// was told to report stopped ones.
    fn instance_stats(&self, instance: &InstanceId) -> Result<InstanceStats>;

    /// Every NIC that is plugged in, with its counters where the hypervisor gives them.
    ///
    /// # Errors
    /// Any [`Error`](crate::Error).
    fn interfaces(&self, instance: &InstanceId) -> Result<Vec<Interface>>;

    /// Every disk whose counters the hypervisor gives.
    ///
    /// # Errors
    /// Any [`Error`](crate::Error).
    fn disk_stats(&self, instance: &InstanceId) -> Result<Vec<DiskStats>>;

    /// Every disk whose size the hypervisor gives.
    ///
    /// # Errors
    /// Any [`Error`](crate::Error).
    fn disk_info(&self, instance: &InstanceId) -> Result<Vec<DiskInfo>>;
}
