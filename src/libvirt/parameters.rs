//! What libvirt calls typed parameters: names and values, integers only. Pure.
//!
//! A bulk reading of one domain has dozens of them, and those of a thousand domains may be kept for
//! the questions that come right after. So they are packed, and domains that have the same ones share
//! their names: a map would need six times the room.

use std::cell::RefCell;
use std::sync::Arc;

/// A map from names to integers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    names: Arc<Names>,
    values: Box<[i128]>,
}

/// Names, sorted, one after the other, and where each of them ends.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    all: Box<str>,
    ends: Box<[u32]>,
}

thread_local! {
    /// The names that this thread has met last: most domains of a host have the same ones.
    static LAST: RefCell<Arc<Names>> = RefCell::default();
}

impl Parameters {
    pub(super) fn get(&self, name: &str) -> Option<&i128> {
        let (mut low, mut high) = (0, self.values.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.names.get(middle).cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return self.values.get(middle),
            }
        }
        None
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All of them, in the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &i128)> {
        self.values.iter().enumerate().map(|(at, value)| (self.names.get(at), value))
    }
}

impl Names {
    fn get(&self, at: usize) -> &str {
        let end = |at: usize| self.ends.get(at).map_or(0, |end| *end as usize);
        let start = at.checked_sub(1).map_or(0, end);
        self.all.get(start..end(at)).unwrap_or_default()
    }

    /// The same, as they were met last if they were.
    fn shared(self) -> Arc<Self> {
        LAST.with_borrow_mut(|last| {
            if **last != self {
                *last = Arc::new(self);
            }
            Arc::clone(last)
        })
    }
}

/// Of two with the same name, the last one counts.
impl FromIterator<(String, i128)> for Parameters {
    fn from_iter<T: IntoIterator<Item = (String, i128)>>(pairs: T) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.reverse();
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        pairs.dedup_by(|(a, _), (b, _)| a == b);
        let mut all = String::with_capacity(pairs.iter().map(|(name, _)| name.len()).sum());
        let mut ends = Vec::with_capacity(pairs.len());
        for (name, _) in &pairs {
            all.push_str(name);
            ends.push(u32::try_from(all.len()).unwrap_or(u32::MAX));
        }
        let names = Names { all: all.into(), ends: ends.into() }.shared();
        let values = pairs.into_iter().map(|(_, value)| value).collect();
        Self { names, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn they_are_a_map(
            pairs in prop::collection::vec(("[a-c.é]{0,3}", any::<i64>()), 0..40),
            other in "[a-c.é]{0,3}",
        ) {
            let pairs: Vec<(String, i128)> =
                pairs.into_iter().map(|(name, value)| (name, value.into())).collect();
            let map: BTreeMap<String, i128> = pairs.iter().cloned().collect();
            let packed: Parameters = pairs.iter().cloned().collect();
            for name in pairs.iter().map(|(name, _)| name).chain([&other]) {
                prop_assert_eq!(packed.get(name), map.get(name));
                prop_assert_eq!(packed.contains(name), map.contains_key(name));
            }
            let all: Vec<_> = packed.iter().map(|(name, value)| (name.to_owned(), *value)).collect();
            prop_assert_eq!(all, map.into_iter().collect::<Vec<_>>());
            let others: Parameters = pairs.iter().map(|(name, _)| (name.clone(), 1)).collect();
            prop_assert!(Arc::ptr_eq(&packed.names, &others.names));
        }
    }
}
