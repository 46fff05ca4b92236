//! What a caller can ask about an instance; knows no hypervisor.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::deltas::Deltas;
use crate::error::{Error, Result};
use crate::hypervisor::Hypervisor;
use crate::per_process::PerProcess;
use crate::records::{
    DiskInfo, DiskStats, Instance, InstanceId, InstanceStats, InterfaceStats, Server,
};

/// Answers Ceilometer's four questions about an instance, from any number of threads.
///
/// Each call is one reading, taken during the call. A forked child may go on using the inspector
/// of its parent: it gets connections and NIC deltas of its own. (libvirt's own locks may not
/// survive a fork while another thread is inside libvirt.)
pub struct Inspector<H> {
    hypervisor: H,
    deltas: PerProcess<Mutex<Deltas>>,
}

impl<H: Hypervisor> Inspector<H> {
    /// An inspector over a driver; connects to nothing yet.
    pub fn new(hypervisor: H) -> Self {
        Self { hypervisor, deltas: PerProcess::default() }
    }

    /// The driver below.
    pub fn hypervisor(&self) -> &H {
        &self.hypervisor
    }

    /// CPU, memory and performance counters of an instance.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn instance(&self, instance: &InstanceId) -> Result<InstanceStats> {
        self.hypervisor.instance_stats(instance)
    }

    /// The NICs of an instance with their counters, and what was added since their last reading.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn vnics(&self, instance: &InstanceId) -> Result<Vec<InterfaceStats>> {
        let started = self.with_deltas(|deltas| deltas.start());
        let interfaces = match self.hypervisor.interfaces(instance) {
            Err(error @ Error::InstanceNotFound { gone: true, .. }) => {
                self.with_deltas(|deltas| deltas.forget(instance.uuid));
                return Err(error);
            }
            answer => answer?,
        };
        let (vnics, crowded) = self.with_deltas(|deltas| {
            let vnics = deltas.enter(instance.uuid, started, interfaces);
            (vnics, deltas.is_crowded())
        });
        if crowded {
            if let Err(error) = self.instances() {
                log::debug!("instances that are gone stay remembered for now: {error}");
                self.with_deltas(|deltas| deltas.postpone_sweep());
            }
        }
        Ok(vnics)
    }

    /// The disks of an instance with their counters.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn disks(&self, instance: &InstanceId) -> Result<Vec<DiskStats>> {
        self.hypervisor.disk_stats(instance)
    }

    /// The disks of an instance with their sizes.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn disk_info(&self, instance: &InstanceId) -> Result<Vec<DiskInfo>> {
        self.hypervisor.disk_info(instance)
    }

    /// Every instance that the hypervisor knows, running or not.
    ///
    /// # Errors
    /// [`Error::ConnectionLost`], [`Error::InvalidUri`] or [`Error::NoList`].
    pub fn instances(&self) -> Result<Vec<Instance>> {
        let started = self.with_deltas(|deltas| deltas.start());
        let instances = self.hypervisor.instances()?;
        let existing = instances.iter().map(|instance| instance.id).collect();
        self.with_deltas(|deltas| deltas.sweep(&existing, started));
        Ok(instances)
    }

    /// Every instance that is OpenStack Nova's, with what Nova says of it.
    ///
    /// # Errors
    /// As [`instances`](Self::instances).
    pub fn servers(&self) -> Result<Vec<Server>> {
        self.hypervisor.servers()
    }

    fn with_deltas<R>(&self, use_deltas: impl FnOnce(&mut MutexGuard<'_, Deltas>) -> R) -> R {
        self.deltas
            .with(|deltas| use_deltas(&mut deltas.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}
