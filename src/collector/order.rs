//! In which order a caller asks. Pure bookkeeping: no clock, no threads of its own.
//!
//! Ceilometer asks method by method and instance by instance, in the same order in each cycle. So
//! what was asked after something is what will be asked after it again, most of the time.

use std::collections::{HashMap, HashSet};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Key, Kind};
use crate::recent::Recent;
use crate::records::InstanceId;

/// What nobody has asked for in so long is not expected any more.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// More callers than this at a time are not told apart.
const CALLERS: usize = 64;
/// The streak of one who has said what it will ask.
const CERTAIN: u32 = 16;

/// What is asked after what, and where each caller is.
pub(super) struct Order {
    next: Recent<Key, (Key, InstanceId)>,
    callers: HashMap<ThreadId, Caller>,
}

struct Caller {
    last: Key,
    answered: Instant,
    /// How many times in a row the expected was asked.
    streak: u32,
}

impl Order {
    pub(super) fn new() -> Self {
        Self { next: Recent::new(FORGOTTEN), callers: HashMap::new() }
    }

    /// Notes what a caller asks, and returns how many times in a row it was the expected. Whoever
    /// has paused for `pause` begins anew.
    pub(super) fn ask(
        &mut self,
        caller: ThreadId,
        (key, instance): (Key, &InstanceId),
        now: Instant,
        pause: Duration,
    ) -> u32 {
        if self.callers.len() >= CALLERS && !self.callers.contains_key(&caller) {
            self.callers.retain(|_, c| now.saturating_duration_since(c.answered) < pause);
        }
        if self.callers.len() >= CALLERS && !self.callers.contains_key(&caller) {
            return 0;
        }
        let known =
            self.callers.entry(caller).or_insert(Caller { last: key, answered: now, streak: 0 });
        let follows = known.last != key && now.saturating_duration_since(known.answered) < pause;
        if !follows {
            known.streak = 0;
        } else if self.next.get_mut(&known.last, now).is_some_and(|(expected, _)| *expected == key)
        {
            known.streak += 1;
        } else {
            self.next.insert(known.last, (key, instance.clone()), now);
            known.streak = 0;
        }
        known.last = key;
        known.answered = now;
        known.streak
    }

    /// A caller is about to ask all of these, one after the other, and nothing after the last.
    pub(super) fn expect(
        &mut self,
        caller: ThreadId,
        all: impl IntoIterator<Item = (Key, InstanceId)>,
        now: Instant,
    ) {
        let start = Key { kind: Kind::List, uuid: Uuid::nil() };
        let mut last = start;
        for (key, instance) in all {
            self.next.insert(last, (key, instance), now);
            last = key;
        }
        self.next.remove(&last);
        if self.callers.len() < CALLERS || self.callers.contains_key(&caller) {
            self.callers.insert(caller, Caller { last: start, answered: now, streak: CERTAIN });
        }
    }

    /// Notes that a caller has its answer.
    pub(super) fn answered(&mut self, caller: ThreadId, now: Instant) {
        if let Some(known) = self.callers.get_mut(&caller) {
            known.answered = now;
        }
    }

    /// Forgets instances that do not exist, by a list that was asked for then.
    pub(super) fn forget_all_but(&mut self, existing: &HashSet<Uuid>, asked: Instant) {
        let exists = |key: &Key| key.uuid.is_nil() || existing.contains(&key.uuid);
        self.next.forget_all_but(asked, exists);
    }

    /// What is expected to be asked after this.
    pub(super) fn after(&self, key: Key) -> Option<&(Key, InstanceId)> {
        self.next.peek(&key)
    }
}
