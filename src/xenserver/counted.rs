//! One counter of a VM: what rows add up to, and what it counted since the VM was started, where its
//! exact value was read once.

use crate::samples::Sum;

/// A counter that lacks so much was not told for a while, in 10^-9 s.
pub(super) const GAP: u64 = 1_000_000_000;

/// What rows of an answer add to a counter before its exact value was read.
#[derive(Debug)]
pub(super) struct Before {
    /// When that was, in 10^-9 s.
    read_at: i64,
    sum: Sum,
    /// What the row grew in which it was read, and those of which a part was taken.
    edge: i128,
}

/// The exact value of a counter, when that was read, and what the sum of its rows was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Anchor {
    /// In 10^-9.
    pub(super) exact: i128,
    /// By the host's clock, in 10^-9 s.
    pub(super) at: i64,
    /// While the rows up to then have not come yet: that of those which have.
    pub(super) sum: Sum,
    /// What grew in the row in which it was read, and in longer ones of which a part was taken since, so
    /// that the sum is not exactly known.
    pub(super) edge: i128,
}

/// A counter. There are thousands, of which most are read by rows alone: they are kept small.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    /// Never falls, whatever happens to the VM.
    pub(super) sum: Sum,
    anchor: Option<Box<Anchor>>,
    past: Option<Box<Past>>,
}

/// What was before the anchor was set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Past {
    /// What was told of its value since the VM was started when the anchor was set: not to fall.
    floor: i128,
    /// What was told too much before exact values took over: so much of their growth is not told.
    debt: i128,
    /// What the sum was when the counter began at 0, until its exact value is read for the first time.
    born: Option<i128>,
    /// What is told of its value since the VM was started is so much more than its exact one, as that was reset.
    reset: i128,
}

impl Before {
    pub(super) fn new(read_at: i64) -> Self {
        Self { read_at, sum: Sum::default(), edge: 0 }
    }

    /// Adds what is to be taken of a row, which ends then: how much of it, and how long it is, in 10^-9 s,
    /// and its mean per second.
    pub(super) fn add(&mut self, end: i64, length: i64, step: i64, covered: u64, mean: f64) {
        let before = self.read_at.saturating_sub(end - length).clamp(0, length);
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
        let grown = |time: i64| (mean * time as f64).round() as i128;
        let nanos = grown(before);
        // No more is covered than by the whole row.
        let covered = u64::try_from(before).unwrap_or(0).min(covered);
        self.sum.add(Sum { nanos, covered });
        // The mean of all of it says little about a part.
        if length < step || (1..length).contains(&before) {
            self.edge = self.edge.saturating_add(grown(step));
        }
    }
}

impl Anchor {
    /// Rows have come that are, in part, from before it was read.
    pub(super) fn add(&mut self, before: &Before) {
        self.sum.add(before.sum);
        self.edge = self.edge.saturating_add(before.edge);
    }

    /// What was added to the counter since, by exact values.
    pub(super) fn grown_to(&self, next: &Self) -> i128 {
        next.exact - self.exact
    }

    /// Of the two, by rows.
    pub(super) fn rows_to(&self, next: &Self) -> i128 {
        next.sum.nanos - self.sum.nanos
    }

    /// Whether some time between it and then is in no row, where the sum was this by then.
    pub(super) fn lacks_rows(&self, sum: &Sum, then: i64) -> bool {
        let told = sum.covered.saturating_sub(self.sum.covered);
        u64::try_from(then.saturating_sub(self.at)).is_ok_and(|elapsed| told + GAP < elapsed)
    }
}

impl Counted {
    /// The counter of something new. Its time goes on from the latest of the VM's: what may have had its place is not
    /// later.
    pub(super) fn after(covered: u64) -> Self {
        Self { sum: Sum { nanos: 0, covered }, ..Self::default() }
    }

    /// Another device in the place of one that was unplugged: it begins at 0, and what was told of both goes on.
    pub(super) fn go_on_with_another(&mut self, covered: u64) {
        *self = Self { sum: Sum { covered, ..self.sum }, ..Self::default() };
    }

    /// The time that it covers, in ns.
    pub(super) fn covered(&self) -> u64 {
        self.sum.covered
    }

    /// The last exact value that was read.
    pub(super) fn anchor(&self) -> Option<Anchor> {
        self.anchor.as_deref().copied()
    }

    /// Whether it is above 0, as far as is known: it was once, or rows have told of growth since it began.
    pub(super) fn has_grown(&self) -> bool {
        let began = self.past().born.unwrap_or(0);
        self.anchor().map_or(self.sum.nanos > began, |anchor| {
            anchor.exact > 0 || self.sum.nanos > anchor.sum.nanos
        })
    }

    /// Whether it began at 0 while it was known here, and no exact value was read since.
    pub(super) fn is_born(&self) -> bool {
        self.past().born.is_some()
    }

    /// Whether some time since the last exact value is in no row, of those up to then.
    pub(super) fn lacks_rows(&self, mark: i64) -> bool {
        self.anchor().is_some_and(|anchor| anchor.lacks_rows(&self.sum, mark))
    }

    /// Forgets the last exact value: how much was counted since is not known. What is told since the start does not fall
    /// once it is read again.
    pub(super) fn forget_anchor(&mut self) {
        self.keep_floor();
        self.anchor = None;
    }

    /// The counter begins at 0: of a domain that was started just now.
    pub(super) fn begin(&mut self) {
        self.anchor = None;
        self.enter(Past { born: Some(self.sum.nanos), ..Past::default() });
    }

    /// Adds rows, and the part of them from before the anchor.
    pub(super) fn add(&mut self, rows: Sum, before: Option<&Before>) {
        self.sum.add(rows);
        if let Some((anchor, before)) = self.anchor.as_mut().zip(before) {
            anchor.add(before);
        }
    }

    /// So many 10^-9 s without growth.
    pub(super) fn stand_still(&mut self, covered: u64) {
        self.sum.covered = self.sum.covered.saturating_add(covered);
    }

    /// The exact value, as a new anchor.
    pub(super) fn reading(&self, exact: i128, at: i64) -> Anchor {
        Anchor { exact, at, sum: self.sum, edge: 0 }
    }

    /// Sets the anchor; what is told since the start does not fall by that.
    pub(super) fn set(&mut self, anchor: Anchor) {
        self.keep_floor();
        self.anchor = Some(Box::new(anchor));
    }

    /// Sets the anchor where the counter began anew within a start of the VM: what was told goes on, by rows.
    pub(super) fn set_after_reset(&mut self, anchor: Anchor) {
        self.keep_floor();
        self.go_on_from(anchor.exact);
        self.anchor = Some(Box::new(anchor));
    }

    /// What was told since the start belongs to this exact value.
    fn go_on_from(&mut self, exact: i128) {
        let past = self.past();
        self.enter(Past { reset: past.floor - exact, ..past });
    }

    /// Takes an exact value whose rows have come, where those since the last one were wrong, or missing:
    /// the sum has grown by what the exact values have. Answers how many 10^-9 s more are covered.
    pub(super) fn correct(&mut self, next: Anchor) -> u64 {
        let Some(last) = self.anchor() else { return 0 };
        self.keep_floor();
        let missing = last.grown_to(&next) - last.rows_to(&next);
        let elapsed = u64::try_from(next.at - last.at).unwrap_or(0);
        let more = elapsed.saturating_sub(next.sum.covered.saturating_sub(last.sum.covered));
        self.sum.nanos += missing.max(0);
        self.sum.covered += more;
        let past = self.past();
        self.enter(Past { debt: past.debt + (-missing).max(0), ..past });
        let sum = Sum {
            nanos: next.sum.nanos + missing.max(0),
            covered: next.sum.covered.saturating_add(more),
        };
        self.anchor = Some(Box::new(Anchor { sum, ..next }));
        more
    }

    /// Goes on by exact values alone: since the anchor, the sum has grown by what those have, whatever
    /// rows said. Answers how many 10^-9 s more are covered.
    pub(super) fn catch_up(&mut self, exact: i128, at: i64) -> u64 {
        let reading = |sum| Anchor { exact, at, sum, edge: 0 };
        let past = self.past();
        let (told, covered) = match (self.anchor(), past.born) {
            // The first one: it was 0 at the birth. Rows have told the seconds, and of the domain before.
            (None, Some(born)) => (self.sum.nanos.max(born + exact), self.sum.covered),
            (None, None) => (self.sum.nanos, self.sum.covered),
            // The counter, or the clock, was reset: nothing is known of the time since.
            (Some(last), _) if exact < last.exact || at < last.at => {
                (self.sum.nanos, self.sum.covered)
            }
            (Some(last), _) => {
                let elapsed = u64::try_from(at - last.at).unwrap_or(0);
                let told = last.sum.nanos + (exact - last.exact) - past.debt;
                (told, last.sum.covered.saturating_add(elapsed))
            }
        };
        let floor = self.since_start().unwrap_or(past.floor);
        let was_reset = self.anchor().is_some_and(|last| exact < last.exact && at >= last.at);
        self.enter(Past { floor, debt: (self.sum.nanos - told).max(0), born: None, ..past });
        if was_reset {
            self.go_on_from(exact);
        }
        self.sum.nanos = self.sum.nanos.max(told);
        let more = covered.saturating_sub(self.sum.covered);
        self.sum.covered += more;
        self.anchor = Some(Box::new(reading(self.sum)));
        more
    }

    /// What it counted since the VM was started, in 10^-9; never falls while the VM runs.
    pub(super) fn since_start(&self) -> Option<i128> {
        let anchor = self.anchor()?;
        let past = self.past();
        let told = anchor.exact + past.reset + self.sum.nanos - anchor.sum.nanos;
        Some(past.floor.max(told))
    }

    fn past(&self) -> Past {
        self.past.as_deref().copied().unwrap_or_default()
    }

    fn enter(&mut self, past: Past) {
        self.past = (past != Past::default()).then(|| Box::new(past));
    }

    /// What is told since the start does not fall with the next anchor.
    fn keep_floor(&mut self) {
        let past = self.past();
        let floor = self.since_start().unwrap_or(past.floor);
        self.enter(Past { floor, born: None, ..past });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(nanos: i128) -> Sum {
        Sum { nanos, covered: 5_000_000_000 }
    }

    #[test]
    fn a_counter_that_is_reset_within_a_start_goes_on_from_what_was_told() {
        for by_exact_values_alone in [false, true] {
            let mut counted = Counted::default();
            counted.set(counted.reading(1000, 0));
            if by_exact_values_alone {
                counted.catch_up(1050, 5);
                counted.catch_up(10, 10);
                assert_eq!(counted.since_start(), Some(1050));
                counted.catch_up(15, 15);
            } else {
                counted.add(rows(50), None);
                counted.set_after_reset(counted.reading(10, 5));
                assert_eq!(counted.since_start(), Some(1050));
                counted.add(rows(5), None);
                assert_eq!(counted.since_start(), Some(1055));
                counted.set(counted.reading(15, 15));
            }
            assert_eq!(counted.since_start(), Some(1055));
            counted.begin();
            counted.set(counted.reading(7, 20));
            assert_eq!(counted.since_start(), Some(7), "of another domain");
        }
    }
}
