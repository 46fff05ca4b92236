//! What is taken, where and for whom: a task while it waits or is in flight, and the call that its
//! thread is in, which may outlive it.

use std::time::Instant;

use uuid::Uuid;

use super::super::Kind;
use crate::error::{Error, Result};
use crate::hypervisor::{Outcome, Parts, Reach};
use crate::records::InstanceId;

/// Where a reading is taken: there is one task at a time for each lane of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::collector) struct Slot {
    pub(in crate::collector) lane: Lane,
    pub(in crate::collector) uuid: Uuid,
}

/// What has to wait for one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::collector) enum Lane {
    /// What waits for the guest's process, and whatever is asked for together with that.
    Guest,
    /// What does not, and must not wait for what does.
    Aside,
    /// The lists of all instances.
    List,
    Existing,
    HostCpus,
}

impl Lane {
    /// What is asked for by whom it is read here.
    pub(super) fn kind(self, part: Parts) -> Option<Kind> {
        match self {
            Self::Guest | Self::Aside => Kind::of(part),
            Self::List => Some(Kind::List),
            Self::Existing => Some(Kind::Existing),
            Self::HostCpus => Some(Kind::HostCpus),
        }
    }

    pub(super) fn is_list(self) -> bool {
        matches!(self, Self::List | Self::Existing)
    }
}

/// A reading that a worker should take.
pub(in crate::collector) struct Job {
    pub(in crate::collector) id: u64,
    pub(in crate::collector) slot: Slot,
    pub(in crate::collector) instance: InstanceId,
    pub(in crate::collector) parts: Parts,
    pub(in crate::collector) reach: Reach,
}

/// What came of it.
pub(in crate::collector) struct Finished<R> {
    /// Each of the parts, or why there is none.
    pub(in crate::collector) answer: Result<Vec<(Parts, Outcome<R>)>>,
    /// What the guest is busy with.
    pub(in crate::collector) busy: Option<&'static str>,
}

impl<R> From<Error> for Finished<R> {
    fn from(error: Error) -> Self {
        Self { answer: Err(error), busy: None }
    }
}

/// A reading that is waiting to be taken, or in flight.
pub(super) struct Task {
    pub(super) id: u64,
    pub(super) instance: InstanceId,
    pub(super) parts: Parts,
    /// The parts that callers wait for; the others are read ahead.
    pub(super) claimed: Parts,
    /// The parts that were ordered or begun before anybody asked for them.
    pub(super) ahead: Parts,
    pub(super) started: Option<Instant>,
    /// Whether it is taken for the second time, as the connection broke at the first.
    pub(super) again: bool,
    /// Whether a caller waits for its end, to be served after it.
    pub(super) awaited: bool,
}

impl Task {
    /// Whether this can be had of it by one more caller.
    pub(super) fn can_serve(&self, part: Parts) -> bool {
        !self.claimed.has(part) && (self.started.is_none() || self.parts.has(part))
    }
}

/// A part that was read, for a caller who waits for it or for one who will come.
pub(super) struct Ready<R> {
    pub(super) taken: Instant,
    pub(super) outcome: Outcome<R>,
    pub(super) ahead: bool,
}

/// A call that a thread is in.
pub(super) struct Running {
    pub(super) slot: Slot,
    pub(super) instance: InstanceId,
    pub(super) started: Instant,
    pub(super) reach: Reach,
    pub(super) fate: Fate,
}

/// What has become of it; each of these is worse than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// Somebody may want it.
    Wanted,
    /// Nobody wants it any more: its caller has left, say, or all connections were closed.
    Left,
    /// It was given up because it hung.
    Hangs,
    /// It hung, and its guest is free again without its having returned, which it may never do.
    Lost,
}

impl Running {
    pub(super) fn given_up(&self) -> bool {
        self.fate >= Fate::Left
    }

    pub(super) fn hangs(&self) -> bool {
        self.fate >= Fate::Hangs
    }

    /// Whether it waits for its guest's process.
    pub(super) fn waits_for_guest(&self) -> bool {
        self.slot.lane == Lane::Guest
    }

    /// Whether it is in its guest, and a second one there would be one too many.
    pub(super) fn occupies_guest(&self) -> bool {
        self.waits_for_guest() && self.fate != Fate::Lost
    }

    pub(super) fn becomes(&mut self, fate: Fate) {
        self.fate = self.fate.max(fate);
    }
}
