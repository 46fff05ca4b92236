//! What was read when, what failed, and when that is tried again. Pure: it is told what time it is.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::driver::Batch;
use super::shared::MOST_THREADS;
use crate::error::Error;

/// What has failed is tried again after this, and then after twice as long each time.
const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// So many of what has failed are tried again at a time: the other threads are for what answers.
const MOST_RETRIED: usize = MOST_THREADS / 2;
/// What nobody has asked for in so long is forgotten.
const KEPT: Duration = Duration::from_secs(3600);
/// Below this many, nothing is.
const FEW: usize = 64;

/// Every batch that somebody has asked for.
#[derive(Default)]
pub(super) struct Batches {
    known: HashMap<Batch, Known>,
    swept_to: usize,
    /// Hosts of which an instance by itself was waited for in vain, and the one that shows whether the host
    /// answers about such again.
    in_vain: HashMap<Uuid, Batch>,
}

struct Known {
    /// When the reading was begun that it was last read by.
    read: Option<Instant>,
    failed: Option<Failed>,
    /// Since when it is waiting for a thread, or is being read.
    ordered: Option<Instant>,
    /// Since when a thread reads it.
    begun: Option<Instant>,
    used: Instant,
}

/// A failure that nothing was read after.
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) since: Instant,
    /// When it last failed, and how long is waited after that.
    last: Instant,
    pause: Duration,
    /// It is still being read, but somebody's time for that was over.
    is_late: bool,
    /// Whether the log says so.
    pub(super) is_told: bool,
    /// Others were to be read in its place: it says nothing of one that is the same again later on.
    is_replaced: bool,
}

/// What a caller is to do about an instance that is read by itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// To have it read.
    Wait,
    /// To order it, and to wait for nothing: it shows whether its host answers again.
    Try,
    /// To do without it: another one of its host is being tried.
    Skip,
}

/// What a caller is to do about a batch.
pub(super) enum Next {
    /// It was read at this time, which will do.
    Read(Instant),
    /// To wait for it; and whether a thread is to be found for it first.
    Wait { order: bool },
    /// To take this for an answer; and whether it is to be tried again, for those who come later.
    Failed { error: Error, order: bool },
}

impl Next {
    /// Whether a thread is to be found for it.
    pub(super) fn is_to_be_ordered(&self) -> bool {
        matches!(self, Self::Wait { order: true } | Self::Failed { order: true, .. })
    }
}

impl Batches {
    /// What to do for a caller that asks at `asked` for what is not older than `oldest`. What has failed
    /// and is tried again is waited for no longer than for this `moment`, by whoever asks.
    pub(super) fn next(
        &mut self,
        batch: Batch,
        (asked, oldest): (Instant, Instant),
        moment: Duration,
        now: Instant,
    ) -> Next {
        self.make_room(now);
        let fails = self.known.get(&batch).is_some_and(|known| known.failed.is_some());
        let may_retry = batch == Batch::Inventory || fails && self.retried() < MOST_RETRIED;
        let known = self.known.entry(batch).or_insert_with(|| Known {
            read: None,
            failed: None,
            ordered: None,
            begun: None,
            used: now,
        });
        known.used = now;
        known.failed.take_if(|failed| failed.is_replaced && failed.last < asked);
        if let Some(read) = known.read.filter(|read| *read >= oldest) {
            return Next::Read(read);
        }
        let Some(failed) = &known.failed else {
            return Next::Wait { order: known.ordered.is_none() };
        };
        // What has failed since it was asked for is the answer.
        let is_due = now >= failed.last + failed.pause && failed.last < asked && may_retry;
        let order = known.ordered.is_none() && is_due;
        let tried = if order { Some(now) } else { known.ordered };
        if tried.is_some_and(|tried| now < tried + moment) {
            return Next::Wait { order };
        }
        Next::Failed { error: failed.error.clone(), order }
    }

    /// Notes that it waits for a thread.
    pub(super) fn ordered(&mut self, batch: Batch, now: Instant) {
        if let Some(known) = self.known.get_mut(&batch) {
            known.ordered = Some(now);
        }
    }

    /// Notes that no thread is to read it any more: whoever still wants it orders it anew.
    pub(super) fn is_not_ordered(&mut self, batch: Batch) {
        if let Some(known) = self.known.get_mut(&batch) {
            (known.ordered, known.begun) = (None, None);
        }
    }

    /// Notes that a thread reads it now.
    pub(super) fn begins(&mut self, batch: Batch, now: Instant) {
        if let Some(known) = self.known.get_mut(&batch) {
            known.begun = Some(now);
        }
    }

    /// Since when a thread reads it, if one does.
    pub(super) fn begun(&self, batch: Batch) -> Option<Instant> {
        self.known.get(&batch)?.begun
    }

    /// How many have been read for longer than that.
    pub(super) fn held_up(&self, longest: Duration, now: Instant) -> usize {
        let is_held_up = |known: &&Known| {
            known.begun.is_some_and(|begun| now.saturating_duration_since(begun) > longest)
        };
        self.known.values().filter(is_held_up).count()
    }

    /// Notes that it was read by a reading that was begun then. Returns the failure that this ends.
    pub(super) fn was_read(&mut self, batch: Batch, begun: Instant) -> Option<Failed> {
        if let Batch::Instance { host, .. } = batch {
            // It answers about such again.
            self.in_vain.remove(&host);
        }
        let known = self.known.get_mut(&batch)?;
        (known.ordered, known.begun) = (None, None);
        known.read = Some(begun);
        known.failed.take()
    }

    /// Notes that somebody has waited for it in vain: whoever comes later does not, while it is being read. It
    /// is nobody's fault if no thread has begun it. Returns whether that is new, and is to be told.
    pub(super) fn is_late(
        &mut self,
        batch: Batch,
        error: &Error,
        is_told: bool,
        now: Instant,
    ) -> bool {
        let known = self.known.get_mut(&batch).filter(|known| known.begun.is_some());
        let Some(known) = known.filter(|known| known.failed.is_none()) else { return false };
        let (error, pause) = (error.clone(), SHORTEST);
        let (since, last, is_late, is_replaced) = (now, now, true, false);
        known.failed = Some(Failed { error, since, last, pause, is_late, is_told, is_replaced });
        is_told
    }

    /// Notes that somebody has waited in vain for an instance of a host that is read by itself. That says
    /// nothing of the host if no thread has begun it.
    pub(super) fn was_in_vain(&mut self, host: Uuid, instance: Batch) {
        if self.known.get(&instance).is_some_and(|known| known.failed.is_some()) {
            self.in_vain.entry(host).or_insert(instance);
        }
    }

    /// What to do about such an instance. Nobody waits for each of a host's, if that does not answer.
    pub(super) fn turn(&mut self, host: Uuid, instance: Batch) -> Turn {
        let Some(tried) = self.in_vain.get_mut(&host) else { return Turn::Wait };
        match self.known.get(tried) {
            Some(known) if known.failed.is_none() && known.ordered.is_some() => Turn::Skip,
            Some(known) if known.failed.is_none() => {
                self.in_vain.remove(&host);
                Turn::Wait
            }
            _ => {
                *tried = instance;
                Turn::Try
            }
        }
    }

    /// Whether it is an instance of a host of which none is to be read by itself, but for the one that is tried.
    pub(super) fn is_in_vain(&self, batch: Batch) -> bool {
        matches!(batch, Batch::Instance { host, .. } if self.in_vain.contains_key(&host))
    }

    /// Notes that it was not read, and whether others are to be read in its place. Returns whether that is new, and is
    /// to be told.
    pub(super) fn has_not_been_read(
        &mut self,
        batch: Batch,
        error: Error,
        is_replaced: bool,
        now: Instant,
    ) -> bool {
        let Some(known) = self.known.get_mut(&batch) else { return false };
        (known.ordered, known.begun) = (None, None);
        let before = known.failed.take();
        let is_new = before.as_ref().is_none_or(|before| before.is_late);
        let (since, pause) = before
            .map_or((now, SHORTEST), |before| (before.since, (before.pause * 2).min(LONGEST)));
        let (last, is_late, is_told) = (now, false, !is_replaced);
        known.failed = Some(Failed { error, since, last, pause, is_late, is_told, is_replaced });
        is_new && is_told
    }

    /// When it was last read, if that was begun since.
    pub(super) fn read_since(&self, batch: Batch, since: Instant) -> Option<Instant> {
        self.known.get(&batch)?.read.filter(|read| *read >= since)
    }

    /// Everything that fails, and why.
    pub(super) fn failing(&self) -> impl Iterator<Item = (Batch, &Failed)> {
        let failing =
            self.known.iter().filter_map(|(batch, known)| Some((*batch, known.failed.as_ref()?)));
        failing.filter(|(_, failed)| !failed.is_replaced)
    }

    /// Hosts that are too old, and were asked for since they were last read: whoever goes through all
    /// instances, one after the other, wants them soon.
    pub(super) fn in_use(&self, oldest: Instant) -> Vec<Batch> {
        let is_wanted = |known: &Known| {
            known.ordered.is_none()
                && known.failed.is_none()
                && known.read.is_some_and(|read| read < oldest && known.used > read)
        };
        let hosts = self.known.iter().filter(|(batch, _)| matches!(batch, Batch::Host(_)));
        hosts.filter(|(_, known)| is_wanted(known)).map(|(batch, _)| *batch).collect()
    }

    /// Hosts that failed and are to be tried again by now, whether or not somebody asks for them: first
    /// those that have waited longest.
    pub(super) fn due(&self, now: Instant) -> Vec<Batch> {
        let hosts = self.known.iter().filter(|(batch, _)| matches!(batch, Batch::Host(_)));
        let failed =
            hosts.filter(|(_, known)| known.ordered.is_none()).filter_map(|(batch, known)| {
                let failed = known.failed.as_ref().filter(|failed| !failed.is_replaced)?;
                (now >= failed.last + failed.pause).then_some((failed.last, *batch))
            });
        let mut due: Vec<_> = failed.collect();
        due.sort_unstable_by_key(|(last, _)| *last);
        due.truncate(MOST_RETRIED.saturating_sub(self.retried()));
        due.into_iter().map(|(_, batch)| batch).collect()
    }

    /// How many of what has failed are being read again, or still; but for single instances, which have
    /// places of their own.
    pub(super) fn retried(&self) -> usize {
        let has_failed =
            |known: &Known| known.failed.as_ref().is_some_and(|failed| !failed.is_late);
        let is_retried = |(batch, known): &(&Batch, &Known)| {
            !matches!(batch, Batch::Instance { .. }) && known.ordered.is_some() && has_failed(known)
        };
        self.known.iter().filter(is_retried).count()
    }

    /// Forgets what has failed of hosts that are not there any more.
    pub(super) fn forget_hosts(&mut self, is_there: impl Fn(Uuid) -> bool) {
        self.known.retain(|batch, known| match batch {
            Batch::Host(host) | Batch::About(host)
                if known.failed.is_some() && known.ordered.is_none() =>
            {
                is_there(*host)
            }
            _ => true,
        });
        self.in_vain.retain(|host, _| is_there(*host));
    }

    /// Forgets that others were read in place of what is read together again: a caller that asked before that would take it
    /// for an answer.
    pub(super) fn join(&mut self, is_there: impl Fn(Uuid) -> bool) {
        for (batch, known) in &mut self.known {
            if let Batch::Host(host) = batch {
                known.failed.take_if(|failed| failed.is_replaced && is_there(*host));
            }
        }
    }

    fn make_room(&mut self, now: Instant) {
        if self.known.len() >= FEW.max(2 * self.swept_to) {
            self.known.retain(|_, known| {
                known.ordered.is_some() || now.saturating_duration_since(known.used) < KEPT
            });
            self.swept_to = self.known.len();
        }
    }
}
