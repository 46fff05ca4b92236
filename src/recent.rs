//! A map of what is still in use: what nobody has asked for in a while goes by itself.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Below this many entries, none goes.
const FEW: usize = 64;

/// Entries that are kept for at least `keep` after their last use.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    keep: Duration,
    entries: HashMap<K, (Instant, V)>,
    /// How many were left when the unused ones went.
    cleared_to: usize,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    pub(crate) fn new(keep: Duration) -> Self {
        Self { keep, entries: HashMap::new(), cleared_to: 0 }
    }

    /// The entry, without using it.
    pub(crate) fn peek(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// As above, to be changed.
    pub(crate) fn peek_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|(_, value)| value)
    }

    /// The entry, which is used now.
    pub(crate) fn get_mut(&mut self, key: &K, now: Instant) -> Option<&mut V> {
        let (used, value) = self.entries.get_mut(key)?;
        *used = now;
        Some(value)
    }

    /// The entry, which is used now; a new one if there is none.
    pub(crate) fn get_or_default(&mut self, key: K, now: Instant) -> &mut V
    where
        V: Default,
    {
        self.make_room(now);
        let (used, value) = self.entries.entry(key).or_insert_with(|| (now, V::default()));
        *used = now;
        value
    }

    /// Puts an entry in the place of any other, and returns it.
    pub(crate) fn insert(&mut self, key: K, value: V, now: Instant) -> &mut V {
        self.make_room(now);
        &mut self.entries.entry(key).insert_entry((now, value)).into_mut().1
    }

    fn make_room(&mut self, now: Instant) {
        if self.entries.len() >= FEW.max(2 * self.cleared_to) {
            let keep = self.keep;
            self.retain(|_, used| now.saturating_duration_since(used) < keep);
        }
    }

    /// Keeps the entries for which this is true, by their keys and their last use.
    pub(crate) fn retain(&mut self, keep: impl Fn(&K, Instant) -> bool) {
        self.entries.retain(|key, (used, _)| keep(key, *used));
        self.cleared_to = self.entries.len();
        self.entries.shrink_to(2 * self.cleared_to);
    }

    /// Drops what does not exist, by a list that was asked for then; what was used since may be newer.
    pub(crate) fn forget_all_but(&mut self, asked: Instant, exists: impl Fn(&K) -> bool) {
        self.retain(|key, used| used >= asked || exists(key));
    }

    /// All entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (_, value))| (key, value))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unused_goes_and_what_is_used_stays() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut recent = Recent::new(10 * second);
        for number in 0..1000 {
            let now = start + second * number;
            recent.insert(number, (), now);
            assert!(recent.get_mut(&0, now).is_some());
        }
        assert!(recent.entries.len() <= 2 * FEW, "{} entries", recent.entries.len());
        assert!(recent.peek(&999).is_some());
        assert!(recent.remove(&999).is_some());
        assert!(recent.peek(&999).is_none());
        recent.forget_all_but(start + 995 * second, |number| *number == 990);
        assert!(recent.peek(&989).is_none(), "it does not exist");
        assert!(recent.peek(&990).is_some(), "it exists");
        assert!(recent.peek(&995).is_some(), "it may have come after that was known");
    }
}
