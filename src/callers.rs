//! What each caller has last read of each instance. A caller is a name that anybody chooses freely, so
//! there are bounds: names are of some length at the most, and only so many are remembered. Pure: it is told what
//! time it is, which need not be that of a reading: that of a pool's or a vCenter's is the time that its values cover.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::recent::Recent;

/// The most characters of a name.
const LONGEST: usize = 256;
/// The most callers that are remembered. The one that has not asked for the longest time goes first.
const MOST: usize = 64;
/// What nobody has asked for in a day may be forgotten.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// What callers have last read, a `T` of each instance.
#[derive(Debug)]
pub(crate) struct Callers<T>(HashMap<Box<str>, Caller<T>>);

#[derive(Debug)]
struct Caller<T> {
    asked: Instant,
    // Apart, as a map has room for more than it holds; and shared with what may be taken back.
    instances: Recent<Uuid, Arc<T>>,
}

/// Refuses a name that is too long to be remembered.
pub(crate) fn check(caller: &str) -> Result<()> {
    let length = caller.chars().count();
    if length <= LONGEST { Ok(()) } else { Err(Error::InvalidCaller { length, longest: LONGEST }) }
}

impl<T: Default> Callers<T> {
    /// What a caller has last read of an instance, of which it has another reading now.
    pub(crate) fn of(&mut self, caller: &str, instance: Uuid, now: Instant) -> &mut Arc<T> {
        if !self.0.contains_key(caller) && self.0.len() >= MOST {
            let last = self.0.iter().min_by_key(|(_, caller)| caller.asked);
            if let Some(name) = last.map(|(name, _)| name.clone()) {
                self.0.remove(&name);
            }
        }
        let new = || Caller { asked: now, instances: Recent::new(KEPT) };
        let caller = self.0.entry(caller.into()).or_insert_with(new);
        caller.asked = caller.asked.max(now);
        caller.instances.get_or_default(instance, now)
    }

    /// The same, if both are still remembered.
    pub(crate) fn known(&mut self, caller: &str, instance: Uuid) -> Option<&mut Arc<T>> {
        self.0.get_mut(caller)?.instances.peek_mut(&instance)
    }

    /// How many instances are remembered, of the caller that has most.
    pub(crate) fn most(&self) -> usize {
        self.0.values().map(|caller| caller.instances.len()).max().unwrap_or(0)
    }

    /// Forgets an instance that is gone.
    pub(crate) fn forget(&mut self, instance: Uuid) {
        for caller in self.0.values_mut() {
            caller.instances.remove(&instance);
        }
    }

    /// Forgets every instance that is not among those that exist, by a list that was asked for then;
    /// one that was read since may be newer than the list. Forgets who has not asked for long, too.
    pub(crate) fn sweep(&mut self, existing: &HashSet<Uuid>, asked: Instant) {
        self.0.retain(|_, caller| asked.saturating_duration_since(caller.asked) < KEPT);
        for caller in self.0.values_mut() {
            let keep = |instance: &Uuid, read| existing.contains(instance) || read > asked;
            caller.instances.retain(keep);
        }
    }
}

impl<T> Default for Callers<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: Uuid = Uuid::from_u128(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_has_what_it_has_read_of_each_instance() {
        let (mut callers, now) = (Callers::default(), Instant::now());
        for (caller, vm) in [("a", 1), ("b", 1), ("a", 2)] {
            *callers.of(caller, Uuid::from_u128(vm), now) = (caller, vm).into();
        }
        assert_eq!(**callers.of("a", VM, now), ("a", 1));
        assert_eq!(**callers.of("b", VM, now), ("b", 1));
        assert_eq!(**callers.of("a", Uuid::from_u128(2), now), ("a", 2));
        assert_eq!(**callers.of("b", Uuid::from_u128(2), now), ("", 0));
    }

    #[test]
    fn who_has_not_asked_for_the_longest_time_goes_first() {
        let (mut callers, mut now) = (Callers::default(), Instant::now());
        *callers.of("steady", VM, now) = true.into();
        for number in 0..10 * MOST {
            now += SECOND;
            *callers.of(&number.to_string(), VM, now) = true.into();
            assert!(**callers.of("steady", VM, now));
        }
        assert_eq!(callers.0.len(), MOST);
        assert!(**callers.of(&(10 * MOST - 1).to_string(), VM, now));
        assert!(!**callers.of("0", VM, now));
    }

    #[test]
    fn what_nobody_asks_for_goes() {
        let (mut callers, start) = (Callers::<()>::default(), Instant::now());
        for vm in 0..1000 {
            callers.of("", Uuid::from_u128(vm.into()), start + 3600 * SECOND * vm);
        }
        let remembered = |vm: &u128| callers.0[""].instances.peek(&Uuid::from_u128(*vm)).is_some();
        assert!((0..1000).filter(remembered).count() <= 128);
        assert!(remembered(&999));
    }

    #[test]
    fn instances_that_are_gone_go_unless_they_are_newer_than_the_list() {
        let (mut callers, start) = (Callers::default(), Instant::now());
        let asked = start + SECOND;
        for (vm, read) in [(1, start), (2, start), (3, asked + SECOND)] {
            for caller in ["a", "b"] {
                *callers.of(caller, Uuid::from_u128(vm), read) = true.into();
            }
        }
        assert_eq!(callers.most(), 3);
        callers.sweep(&HashSet::from([VM]), asked);
        for caller in ["a", "b"] {
            let kept = [1, 2, 3].map(|vm| **callers.of(caller, Uuid::from_u128(vm), asked));
            assert_eq!(kept, [true, false, true]);
        }
        callers.forget(VM);
        assert!(!**callers.of("a", VM, asked));
        let tomorrow = asked + KEPT + SECOND;
        callers.of("c", VM, tomorrow);
        callers.sweep(&HashSet::from([VM]), tomorrow);
        assert_eq!(callers.0.len(), 1, "who has not asked for a day");
    }

    #[test]
    fn a_name_has_an_end() {
        assert_eq!(check(&"é".repeat(LONGEST)), Ok(()));
        let refused = check(&"e".repeat(LONGEST + 1)).unwrap_err();
        assert_eq!(refused, Error::InvalidCaller { length: LONGEST + 1, longest: LONGEST });
    }
}
