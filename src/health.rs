//! What the engine does, seen from outside.

use std::time::Duration;

use uuid::Uuid;

use crate::error::Failure;
use crate::hypervisor::SizesRead;
use crate::records::InstanceId;

/// Counters of an [`Inspector`](crate::Inspector)'s work since it was made (in this process), and
/// its state now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Health {
    /// Connections that are open.
    pub connections: usize,
    /// Connections that were ever opened.
    pub opened: u64,
    /// Connections that broke while they were used, and were replaced if that was possible.
    pub broken: u64,
    /// Threads that take readings, stuck ones and all.
    pub threads: usize,
    /// Threads that are stuck in a call that was given up.
    pub stuck: usize,
    /// Readings that were handed out.
    pub handed_out: u64,
    /// Those of them that were there or under way before they were asked for.
    pub read_ahead: u64,
    /// Readings that were taken ahead and were too old when they were asked for.
    pub wasted: u64,
    /// Readings that were given up.
    pub timeouts: u64,
    /// Readings that came after they had been given up, and were dropped.
    pub late: u64,
    /// The ages of all readings at the moment they were handed out, summed up.
    pub age_sum: Duration,
    /// The greatest of these ages.
    pub age_max: Duration,
    /// Round trips to the hypervisor, by the name of the call.
    pub calls: Vec<(&'static str, u64)>,
    /// Sizes of disks: reckoned, asked for, found to differ.
    pub sizes: SizesRead,
    /// The instances that do not answer, and for how long they have not.
    pub hung: Vec<(InstanceId, Duration)>,
    /// The instances whose guests are busy with something that keeps them from answering, a migration
    /// for one, and with what: that is no fault, and nobody waits for them.
    pub busy: Vec<(InstanceId, &'static str)>,
    /// For how long a list of the instances has not come, although the hypervisor answers: the last one
    /// serves meanwhile.
    pub list_hangs: Option<Duration>,
    /// The instances that the hypervisor itself waits for, so that it tells nothing of them, and does not
    /// list any.
    pub locked: Vec<InstanceId>,
    /// Why the hypervisor cannot be reached, and since when.
    pub outage: Option<(Failure, Duration)>,
    /// The hosts that do not answer while others do, why, and since when.
    pub away: Vec<(String, Failure, Duration)>,
    /// The NICs and disks that the hypervisor refuses to tell of, by their instances: a sentence for
    /// each.
    pub refused: Vec<(Uuid, Vec<String>)>,
}
