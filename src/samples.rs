//! Adds up what a hypervisor tells in samples: means over rows of time, of which it keeps some and
//! tells them as often as it is asked. Pure. Times are those of whoever tells them, in seconds; no
//! clock of ours is compared with them.
//!
//! What is not covered by a sample is not invented: the seconds that were covered are counted beside
//! the sum, and a rate is the growth of the one by the growth of the other.

/// Parts of a second, a byte or a request that are added up. Whole ones would be wrong by a half for
/// each row; a float would lose small rows beside large sums.
pub(crate) const NANOS: i128 = 1_000_000_000;
/// More than this much in a second is no measurement: a disk does not read 10 TB/s.
const MOST: f64 = 1e13;

/// Numbers of starts that a VM has while it is known. One that is gone and comes back has others.
pub(crate) const STARTS: u32 = 1 << 16;

/// What was added up, and how much time that covers. Neither ever falls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    /// In 10^-9 of the unit.
    pub(crate) nanos: i128,
    /// In 10^-9 s.
    pub(crate) covered: u64,
}

/// Up to where rows were taken: no part of a row that ends before it is taken again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark(pub(crate) i64);

/// The start that is one for all of them, as for sums, which go on until the VM is gone.
pub(crate) fn first_start(start: u32) -> u32 {
    start - start % STARTS
}

impl Sum {
    /// What a mean per second over so many seconds adds up to; `None` for what is no measurement,
    /// which covers nothing.
    pub(crate) fn of(mean: f64, seconds: i64) -> Option<Self> {
        // A NaN is in no range.
        if !(0.0..=MOST).contains(&mean) {
            return None;
        }
        let covered = u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
        let nanos = (mean * covered as f64).round() as i128;
        Some(Self { nanos, covered })
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.nanos = self.nanos.saturating_add(other.nanos);
        self.covered = self.covered.saturating_add(other.covered);
    }

    /// In whole units, rounded to the nearest.
    pub(crate) fn whole(nanos: i128) -> i128 {
        (nanos + NANOS / 2).div_euclid(NANOS)
    }
}

impl Mark {
    /// How many seconds of the row that ends then were not taken yet. All rows of one answer, which do
    /// not overlap, are measured by the mark from before it.
    pub(crate) fn untaken(self, end: i64, step: i64) -> i64 {
        end.saturating_sub(self.0).clamp(0, step.max(0))
    }

    /// Takes down that all rows up to there were taken.
    pub(crate) fn advance(&mut self, end: i64) {
        self.0 = self.0.max(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STEP: i64 = 5;

    #[test]
    fn sums_go_on_over_a_start_and_begin_anew_with_a_vm_that_was_gone() {
        let starts = [0, 1, STARTS - 1, STARTS, STARTS + 1, u32::MAX];
        let firsts = [0, 0, 0, STARTS, STARTS, u32::MAX - STARTS + 1];
        assert_eq!(starts.map(first_start), firsts);
    }

    #[test]
    fn what_is_no_measurement_covers_nothing() {
        for mean in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1e-9, 1e14, f64::MAX] {
            assert_eq!(Sum::of(mean, 5), None, "{mean}");
        }
        assert_eq!(Sum::of(0.0, 5), Some(Sum { nanos: 0, covered: 5_000_000_000 }));
        assert_eq!(Sum::of(-0.0, 5), Some(Sum { nanos: 0, covered: 5_000_000_000 }));
        assert_eq!(Sum::of(1.0, -5), None);
    }

    #[test]
    fn small_rows_are_not_lost_beside_a_large_sum() {
        let mut sum = Sum::of(MOST, 5_000_000).unwrap();
        let before = sum.nanos;
        for _ in 0..1000 {
            sum.add(Sum::of(0.001, 5).unwrap());
        }
        assert_eq!(Sum::whole(sum.nanos - before), 5);
    }

    /// One answer: when it was asked for in rows, how many rows back it goes, by how many rows each of
    /// its own is made up, and whether it is told at all.
    fn polls() -> impl Strategy<Value = Vec<(i64, i64, i64, bool)>> {
        prop::collection::vec(
            (0_i64..10, 0_i64..40, prop::sample::select(vec![1, 12]), any::<bool>()),
            1..40,
        )
    }

    proptest! {
        #[test]
        fn each_row_is_told_once_or_not_at_all(
            rates in prop::collection::vec(prop_oneof![
                6 => (0_u32..1_000_000).prop_map(|rate| f64::from(rate) / 8.0),
                1 => Just(f64::NAN), 1 => Just(-1.0), 1 => Just(f64::INFINITY),
            ], 260),
            polls in polls(),
        ) {
            let (mut sum, mut mark, mut now) = (Sum::default(), Mark(0), 0);
            // By row: whether it was told.
            let mut told = vec![false; rates.len()];
            for (later, back, by, is_told) in polls {
                now += later;
                if !is_told {
                    continue;
                }
                let before = sum;
                let newest = now / by * by;
                // From new to old, as a host answers.
                let mut end = newest;
                while end - by >= 0 && end > now - back {
                    let rows = usize::try_from(end - by).unwrap()..usize::try_from(end).unwrap();
                    // A longer row is the mean of its rows, which are alike here.
                    let mean = rates[rows.start];
                    let untaken = mark.untaken(end * STEP, by * STEP);
                    prop_assert!((0..=by * STEP).contains(&untaken));
                    if let Some(part) = Sum::of(mean, untaken) {
                        sum.add(part);
                        let first = rows.end - usize::try_from(untaken / STEP).unwrap();
                        for told in &mut told[first..rows.end] {
                            prop_assert!(!std::mem::replace(told, true), "a row was told twice");
                        }
                    }
                    end -= by;
                }
                mark.advance(newest * STEP);
                prop_assert!(sum.nanos >= before.nanos && sum.covered >= before.covered);
            }
            let rows = told.iter().filter(|told| **told).count() as u64;
            prop_assert_eq!(sum.covered, rows * 5_000_000_000);
        }

        #[test]
        fn the_sum_of_what_is_told_is_that_of_what_was_covered(
            rates in prop::collection::vec(prop_oneof![
                6 => (0_u32..1_000_000).prop_map(|rate| f64::from(rate) / 8.0),
                1 => Just(f64::NAN), 1 => Just(-1.0), 1 => Just(f64::INFINITY),
            ], 260),
            polls in polls(),
        ) {
            let (mut sum, mut mark, mut now) = (Sum::default(), Mark(0), 0);
            let mut told = vec![false; rates.len()];
            for (later, back, _, is_told) in polls {
                now += later;
                for end in (1..=now).rev().take_while(|end| is_told && *end > now - back) {
                    let row = usize::try_from(end - 1).unwrap();
                    if let Some(part) = Sum::of(rates[row], mark.untaken(end * STEP, STEP)) {
                        sum.add(part);
                        told[row] |= part.covered > 0;
                    }
                }
                if is_told {
                    mark.advance(now * STEP);
                }
            }
            let rates = rates.iter().zip(&told).filter(|(_, told)| **told).map(|(rate, _)| rate);
            // Eighths of a unit: the sum of floats is exact.
            let whole: f64 = rates.map(|rate| rate * 5.0 * 8.0).sum();
            #[allow(clippy::cast_possible_truncation)]
            let eighths = whole as i128;
            prop_assert_eq!(sum.nanos, eighths * (NANOS / 8));
        }
    }
}
