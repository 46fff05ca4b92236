//! The few questions that a driver answers whose hypervisor tells of many instances at once.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::shared::MOST_THREADS;
use crate::error::{Error, Result};
use crate::hypervisor::{Content, Examined, Host, Parts, Stamp};
use crate::records::{Instance, InstanceId};
use crate::target::Sessions;

/// What one call to a hypervisor that answers for many instances reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Batch {
    /// Which instances there are, and what they are.
    Inventory,
    /// What all instances of a host use, or of several that are read together.
    Host(Uuid),
    /// What those are beside that.
    About(Uuid),
    /// What is read of one instance of a host alone; nothing else depends on it.
    Instance { host: Uuid, uuid: Uuid },
}

/// A hypervisor that answers for many instances at once. It keeps what it has read, and tells it
/// without waiting.
pub(crate) trait HostWide: Send + Sync + 'static {
    /// For how much longer than for its timeout a caller may have to wait for what is being read: a login
    /// may take its time.
    fn patience(&self, batch: Batch) -> Duration;

    /// Reads this, within the deadline, and returns what the log is to say. No two calls are about the
    /// same batch at a time; calls about others may be.
    ///
    /// # Errors
    /// Any [`Error`] that is about no instance.
    fn read(&self, batch: Batch, deadline: Instant) -> Result<Vec<String>>;

    /// The same for what nobody waits for, which is no reason to log in: `None` where nobody is.
    fn read_for_nobody(&self, batch: Batch, deadline: Instant) -> Option<Result<Vec<String>>> {
        self.sessions().is_open.then(|| self.read(batch, deadline))
    }

    /// Every instance of the last inventory, running or not.
    fn instances(&self) -> Vec<Instance>;

    /// The next instances after one of them, in the order in which callers go through them as a rule.
    fn after(&self, instance: Uuid, most: usize) -> Vec<InstanceId>;

    /// What has to be read beside the inventory, and in this order, before a part of an instance can be
    /// told.
    ///
    /// # Errors
    /// [`Error::InstanceNotFound`], [`Error::InstanceShutOff`], [`Error::Unsupported`].
    fn batches(&self, part: Parts, instance: &InstanceId) -> Result<Vec<Batch>>;

    /// A part of an instance, of what was read last.
    ///
    /// # Errors
    /// As [`batches`](Self::batches), and [`Error::NoData`].
    fn tell(&self, part: Parts, instance: &InstanceId) -> Result<(Content, Stamp)>;

    /// When its host has answered without telling of an instance that it told of before: it may be on another one since
    /// the inventory was read.
    fn missed(&self, _: &InstanceId) -> Option<Instant> {
        None
    }

    /// When an instance was found on another host than before: what that one was asked before does not tell of it.
    fn came(&self, _: &InstanceId) -> Option<Instant> {
        None
    }

    /// The UUID of the instance that is meant, by the last inventory: it may be asked for by one that its
    /// manager has given it.
    fn own_uuid(&self, instance: Uuid) -> Uuid;

    /// How many CPUs the host of an instance has.
    fn host_cpus(&self, instance: Uuid) -> Option<u32>;

    /// What people call a host, or several that are read together, for messages; `None` if there are none
    /// such any more.
    fn host_name(&self, host: Uuid) -> Option<String>;

    /// Every host, or several that are read together, by which all instances are read.
    fn everything(&self) -> Vec<Batch>;

    /// What is read in place of a batch whose hosts were parted.
    fn in_place_of(&self, _: Batch) -> Vec<Batch> {
        Vec::new()
    }

    /// What is to be read after a batch that was read just now, for nobody.
    fn afterwards(&self, _: Batch) -> Vec<Batch> {
        Vec::new()
    }

    /// How many readings may be under way at a time, beside those of what has failed before.
    fn in_flight(&self) -> usize {
        MOST_THREADS
    }

    /// Every host of the last inventory, and how its readings are.
    fn hosts(&self) -> Vec<Host>;

    /// What the server tells of itself, and of the newest samples of these instances. Each call for that
    /// may take so long.
    ///
    /// # Errors
    /// [`Error::ConnectionLost`], [`Error::Unsupported`].
    fn examine(&self, _: &[Uuid], _samples: u32, _longest: Duration) -> Result<Examined> {
        Err(Error::Unsupported { hypervisor: "this hypervisor", what: "its samples as they are" })
    }

    /// The round trips so far, by the names of the calls.
    fn calls(&self) -> Vec<(&'static str, u64)>;

    /// How its logins have gone so far.
    fn sessions(&self) -> Sessions;

    /// Logs out, within the deadline.
    ///
    /// # Errors
    /// [`Error::ConnectionLost`].
    fn close(&self, deadline: Instant) -> Result<()>;
}
