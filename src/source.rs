//! What an inspector stands on: whoever takes the readings, in whichever way.
//!
//! Two engines do: `collector` asks a hypervisor instance by instance (libvirt), and `sweeps` asks one
//! that answers for many at a time (XenServer, vSphere). Neither knows who asks.

use std::time::Instant;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::health::Health;
use crate::hypervisor::{Content, Examined, Host, Parts, Stamp};
use crate::limits::Limits;
use crate::records::{Instance, InstanceId};

/// The readings of all instances of one place. No call waits longer than its limits say.
pub(crate) trait Source: Send + Sync {
    /// Where that is, without any secret.
    fn uri(&self) -> &str;

    fn limits(&self) -> Limits;

    /// Whether records say what Ceilometer's own inspector says where that one errs.
    fn has_parity(&self) -> bool;

    /// The part of a reading that rates of NICs or disks come from, where that is asked for.
    fn rates_from(&self, part: Parts) -> Parts;

    /// Every instance that there is, running or not, and since when that was asked for.
    fn list(&self) -> Result<(Vec<Instance>, Instant)>;

    /// Whether who knows of all instances answers, asked since then.
    fn answers_since(&self, _: Instant) -> Result<()> {
        Ok(())
    }

    /// The same list if it was asked for since, for housekeeping: nobody waits for it.
    fn what_exists(&self, since: Instant) -> Option<(Vec<Instance>, Instant)>;

    /// Of how many instances something is remembered.
    fn remembered(&self) -> usize;

    /// The UUID of the instance that is meant, where it was asked for by one of its manager's; takes no
    /// reading.
    fn own_uuid(&self, instance: Uuid) -> Uuid {
        instance
    }

    /// How many CPUs the host of an instance has, as far as that is known.
    fn host_cpus(&self, instance: Uuid) -> Option<u32>;

    /// The caller is about to ask for a part of all these instances, one after the other.
    fn expect(&self, part: Parts, instances: &[InstanceId]);

    /// A part of a reading of an instance, and when its values were measured.
    fn ask(&self, part: Parts, instance: &InstanceId) -> Result<(Option<Content>, Stamp)>;

    /// The same in a pass over many instances, which was begun then: where one reading serves many of them,
    /// what was read for the pass does for all of it, however long it takes.
    fn ask_in_pass(
        &self,
        part: Parts,
        instance: &InstanceId,
        _begun: Instant,
    ) -> Result<(Option<Content>, Stamp)> {
        self.ask(part, instance)
    }

    /// Every host, once the instances of all of them were read.
    fn hosts(&self) -> Result<Vec<Host>>;

    /// What a server tells of itself, and of the newest samples of these instances, for whoever looks for
    /// what is wrong.
    fn examine(&self, _: &[Uuid], _samples: u32) -> Result<Examined> {
        Err(Error::Unsupported { hypervisor: "libvirt", what: "samples, as it has counters" })
    }

    /// What was done and is done; takes no reading.
    fn health(&self) -> Health;

    /// Whether a connection is open, as far as is known here.
    fn is_connected(&self) -> bool;

    /// Closes all connections; the next call opens new ones.
    fn close(&self);
}
