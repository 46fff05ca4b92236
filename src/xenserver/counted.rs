//! One counter of a VM: what rows add up to, and what it counted since the VM was started, where its
//! exact value was read once.

use crate::samples::Sum;

/// A counter that lacks so much was not told for a while, in 10^-9 s.
pub(super) const GAP: u64 = 1_000_000_000;

/// What rows of an answer add to a counter.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Grown {
    pub(super) sum: Sum,
    /// The part of that from before the counter's exact value was read, and that of the next one.
    pub(super) before: [Sum; 2],
    /// What the rows grew in which those were read.
    pub(super) edge: [i128; 2],
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
    /// What grew in the row in which it was read, so that its sum is not exactly known.
    pub(super) edge: i128,
}

/// A counter.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    /// Never falls, whatever happens to the VM.
    pub(super) sum: Sum,
    /// Of few counters: most VMs are read by rows alone.
    anchor: Option<Box<Anchor>>,
    /// What was told of its value since the VM was started when the anchor was set: not to fall.
    floor: i128,
    /// What was told too much before exact values took over: so much of their growth is not told.
    debt: i128,
    /// What the sum was when the counter began at 0, until its exact value is read for the first time.
    born: Option<Box<i128>>,
}

impl Anchor {
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
        u64::try_from(then - self.at).is_ok_and(|elapsed| told + GAP < elapsed)
    }
}

impl Counted {
    /// The last exact value that was read.
    pub(super) fn anchor(&self) -> Option<Anchor> {
        self.anchor.as_deref().copied()
    }

    /// Whether it is above 0, as far as is known: it was once, or rows have told of growth since it began.
    pub(super) fn has_grown(&self) -> bool {
        let began = self.born.as_deref().copied().unwrap_or(0);
        self.anchor().map_or(self.sum.nanos > began, |anchor| {
            anchor.exact > 0 || self.sum.nanos > anchor.sum.nanos
        })
    }

    /// Whether some time since the last exact value is in no row, of those up to then.
    pub(super) fn lacks_rows(&self, mark: i64) -> bool {
        self.anchor().is_some_and(|anchor| anchor.lacks_rows(&self.sum, mark))
    }

    /// Forgets the last exact value: how much was counted since is not known. What is told since the start does not fall
    /// once it is read again.
    pub(super) fn forget_anchor(&mut self) {
        self.floor = self.since_start().unwrap_or(self.floor);
        self.anchor = None;
        self.born = None;
    }

    /// The counter begins at 0: of a domain that was started just now.
    pub(super) fn begin(&mut self) {
        self.anchor = None;
        self.floor = 0;
        self.debt = 0;
        self.born = Some(Box::new(self.sum.nanos));
    }

    /// Adds rows; what they say of the next anchor is the caller's.
    pub(super) fn add(&mut self, grown: &Grown) {
        self.sum.add(grown.sum);
        if let Some(anchor) = &mut self.anchor {
            anchor.sum.add(grown.before[0]);
            anchor.edge = anchor.edge.saturating_add(grown.edge[0]);
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
        self.floor = self.since_start().unwrap_or(self.floor);
        self.anchor = Some(Box::new(anchor));
        self.born = None;
    }

    /// Takes an exact value whose rows have come, where those since the last one were wrong, or missing:
    /// the sum has grown by what the exact values have. Answers how many 10^-9 s more are covered.
    pub(super) fn correct(&mut self, next: Anchor) -> u64 {
        let Some(last) = self.anchor() else { return 0 };
        let since_start = self.since_start();
        let missing = last.grown_to(&next) - last.rows_to(&next);
        let elapsed = u64::try_from(next.at - last.at).unwrap_or(0);
        let more = elapsed.saturating_sub(next.sum.covered.saturating_sub(last.sum.covered));
        self.sum.nanos += missing.max(0);
        self.sum.covered += more;
        self.debt += (-missing).max(0);
        let sum = Sum {
            nanos: next.sum.nanos + missing.max(0),
            covered: next.sum.covered.saturating_add(more),
        };
        self.floor = since_start.unwrap_or(self.floor);
        self.anchor = Some(Box::new(Anchor { sum, ..next }));
        more
    }

    /// Goes on by exact values alone: since the anchor, the sum has grown by what those have, whatever
    /// rows said. Answers how many 10^-9 s more are covered.
    pub(super) fn catch_up(&mut self, exact: i128, at: i64) -> u64 {
        let reading = |sum| Anchor { exact, at, sum, edge: 0 };
        let (told, covered) = match (self.anchor(), self.born.take()) {
            // The first one: it was 0 at the birth. Rows have told the seconds, and of the domain before.
            (None, Some(born)) => (self.sum.nanos.max(*born + exact), self.sum.covered),
            (None, None) => (self.sum.nanos, self.sum.covered),
            // The counter, or the clock, was reset: nothing is known of the time since.
            (Some(last), _) if exact < last.exact || at < last.at => {
                (self.sum.nanos, self.sum.covered)
            }
            (Some(last), _) => {
                let elapsed = u64::try_from(at - last.at).unwrap_or(0);
                let told = last.sum.nanos + (exact - last.exact) - self.debt;
                (told, last.sum.covered.saturating_add(elapsed))
            }
        };
        let since_start = self.since_start();
        self.debt = (self.sum.nanos - told).max(0);
        self.sum.nanos = self.sum.nanos.max(told);
        let more = covered.saturating_sub(self.sum.covered);
        self.sum.covered += more;
        self.floor = since_start.unwrap_or(self.floor);
        self.anchor = Some(Box::new(reading(self.sum)));
        more
    }

    /// What it counted since the VM was started, in 10^-9; never falls while the VM runs.
    pub(super) fn since_start(&self) -> Option<i128> {
        let anchor = self.anchor()?;
        Some(self.floor.max(anchor.exact + self.sum.nanos - anchor.sum.nanos))
    }
}
