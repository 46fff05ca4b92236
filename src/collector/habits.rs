//! In which order a caller asks, and what for. Pure bookkeeping: no clock, no threads of its own.
//!
//! Ceilometer asks method by method and instance by instance, in the same order in each cycle. So
//! what was asked after something is what will be asked after it again, most of the time.

use std::collections::{HashMap, HashSet};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::hypervisor::Parts;
use crate::recent::Recent;
use crate::records::InstanceId;

/// What nobody has asked for in so long is not expected any more.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// More callers than this at a time are not told apart.
const CALLERS: usize = 64;
/// The streak of one who has said what it will ask.
const CERTAIN: u32 = 16;

/// What is asked after what, and where each caller is.
pub(super) struct Habits {
    /// Whoever has paused for so long begins anew.
    pause: Duration,
    guests: Recent<Uuid, Guest>,
    callers: HashMap<ThreadId, Caller>,
}

/// What is known of one instance.
#[derive(Default)]
struct Guest {
    /// The instance that comes after it.
    next: Option<InstanceId>,
    /// Whether its guest has answered when it was asked last.
    answered: bool,
    round: Option<Round>,
    /// What was asked in the last round that began with each of the parts.
    rounds: Vec<(Parts, Parts)>,
}

/// What is asked of an instance within the time for which one reading can serve.
#[derive(Clone, Copy)]
struct Round {
    /// The first part that was asked for, and when the reading of it was taken.
    first: Parts,
    taken: Instant,
    asked: Parts,
}

struct Caller {
    /// The last instance, and what was asked of it first; no instance for one who has just said what
    /// it will ask.
    last: Option<(Uuid, Parts)>,
    answered: Instant,
    /// How many times in a row the expected instance was asked about.
    streak: u32,
}

impl Habits {
    pub(super) fn new(pause: Duration) -> Self {
        Self { pause, guests: Recent::new(FORGOTTEN), callers: HashMap::new() }
    }

    /// Of how many instances something is remembered.
    pub(super) fn remembered(&self) -> usize {
        self.guests.len()
    }

    /// Notes that a caller asks for a part of an instance. Returns how many times in a row it was about
    /// the expected one, and what it will ask for first of the next one.
    pub(super) fn asks(
        &mut self,
        caller: ThreadId,
        (part, instance): (Parts, &InstanceId),
        now: Instant,
    ) -> (u32, Parts) {
        self.guests.get_or_default(instance.uuid, now).ask(part, now, self.pause);
        let pause = self.pause;
        if self.callers.len() >= CALLERS && !self.callers.contains_key(&caller) {
            self.callers.retain(|_, c| now.saturating_duration_since(c.answered) < pause);
        }
        if self.callers.len() >= CALLERS && !self.callers.contains_key(&caller) {
            return (0, part);
        }
        let new = Caller { last: Some((instance.uuid, part)), answered: now, streak: 0 };
        let known = self.callers.entry(caller).or_insert(new);
        let Some((last, first_part)) = known.last else {
            known.last = Some((instance.uuid, part));
            known.answered = now;
            return (known.streak, part);
        };
        if now.saturating_duration_since(known.answered) >= pause {
            known.streak = 0;
        } else if last == instance.uuid {
            // Somebody who asks for the same again and again goes nowhere.
            known.streak = if part == first_part { 0 } else { known.streak };
        } else if part == first_part {
            let expected = self.guests.get_or_default(last, now);
            if expected.next.as_ref().is_some_and(|next| next.uuid == instance.uuid) {
                known.streak += 1;
            } else {
                expected.next = Some(instance.clone());
                known.streak = 0;
            }
        }
        // Else the next pass over the same instances begins, for another part.
        let first_part = if last == instance.uuid { first_part } else { part };
        known.last = Some((instance.uuid, first_part));
        known.answered = now;
        (known.streak, first_part)
    }

    /// A caller is about to ask about all of these, one after the other, and nothing after the last.
    pub(super) fn expect(&mut self, caller: ThreadId, instances: &[InstanceId], now: Instant) {
        for pair in instances.windows(2) {
            if let [instance, next] = pair {
                self.guests.get_or_default(instance.uuid, now).next = Some(next.clone());
            }
        }
        if let Some(last) = instances.last() {
            self.guests.get_or_default(last.uuid, now).next = None;
        }
        if self.callers.len() < CALLERS || self.callers.contains_key(&caller) {
            self.callers.insert(caller, Caller { last: None, answered: now, streak: CERTAIN });
        }
    }

    /// Notes that a caller has its answer.
    pub(super) fn answered(&mut self, caller: ThreadId, now: Instant) {
        if let Some(known) = self.callers.get_mut(&caller) {
            known.answered = now;
        }
    }

    /// Notes when the reading was taken that a part was handed out of.
    pub(super) fn handed_out(&mut self, instance: Uuid, part: Parts, taken: Instant, now: Instant) {
        let round = self.guests.get_mut(&instance, now).and_then(|guest| guest.round.as_mut());
        if let Some(round) = round.filter(|round| round.first == part) {
            round.taken = taken;
        }
    }

    /// The parts that a reading for this one is to have: those that will be asked for, as far as is
    /// known, while it is young enough.
    pub(super) fn wanted(&self, instance: Uuid, part: Parts, now: Instant) -> Parts {
        let Some(guest) = self.guests.peek(&instance) else { return part };
        match guest.round.filter(|round| round.goes_on(now, self.pause)) {
            // It has begun with another one.
            Some(round) if round.first != part => {
                part.and(guest.expected(round.first).without(round.asked))
            }
            _ => part.and(guest.expected(part)),
        }
    }

    /// Notes whether the guest of an instance has answered.
    pub(super) fn guest_answers(&mut self, instance: Uuid, answers: bool, now: Instant) {
        if let Some(guest) = self.guests.get_mut(&instance, now) {
            guest.answered = answers;
        }
    }

    /// Whether it has when it was asked last.
    pub(super) fn is_trusted(&self, instance: Uuid) -> bool {
        self.guests.peek(&instance).is_some_and(|guest| guest.answered)
    }

    /// The instance that is expected to be asked about after this one.
    pub(super) fn after(&self, instance: Uuid) -> Option<&InstanceId> {
        self.guests.peek(&instance)?.next.as_ref()
    }

    /// Forgets an instance that does not exist.
    pub(super) fn forget(&mut self, instance: Uuid) {
        self.guests.remove(&instance);
    }

    /// Forgets instances that do not exist, by a list that was asked for then.
    pub(super) fn forget_all_but(&mut self, existing: &HashSet<Uuid>, asked: Instant) {
        self.guests.forget_all_but(asked, |uuid| existing.contains(uuid));
    }
}

impl Guest {
    fn ask(&mut self, part: Parts, now: Instant, pause: Duration) {
        match &mut self.round {
            Some(round) if round.goes_on(now, pause) && !round.asked.has(part) => {
                round.asked = round.asked.and(part);
            }
            other => {
                let last = other.replace(Round { first: part, taken: now, asked: part });
                if let Some(Round { first, asked, .. }) = last {
                    self.rounds.retain(|(known, _)| *known != first);
                    self.rounds.push((first, asked));
                }
            }
        }
    }

    /// What was asked in the last round that began with this part.
    fn expected(&self, first: Parts) -> Parts {
        let round = self.rounds.iter().find(|(known, _)| *known == first);
        round.map_or(Parts::NONE, |(_, asked)| *asked)
    }
}

impl Round {
    fn goes_on(&self, now: Instant, max_age: Duration) -> bool {
        now.saturating_duration_since(self.taken) < max_age
    }
}
