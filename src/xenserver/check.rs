//! Whether the rows of a host are right: now and then, the exact counters of a few of its VMs are compared
//! with them. Pure; all times are the host's.

use uuid::Uuid;

use super::names::PLUGINS;

/// So many VMs of a host are read for that: chosen once, and kept while they are there and do something.
const VMS: usize = 2;
/// From one reading of them to the next, in seconds: until they were compared, and later.
const AFTER: [i64; 2] = [60, 600];
/// So many of the compared counters of a plugin, and one in so many, have to differ.
const DIFFER: [u32; 2] = [2, 5];
/// Older evidence counts half after so many comparisons.
const FORGET_AFTER: u32 = 200;

/// How many counters of each plugin were compared, and how many of them differed: the rows of one plugin
/// may be wrong while those of others are right.
pub(super) type Evidence = [[u32; 2]; PLUGINS];

#[derive(Debug, Default)]
pub(super) struct Check {
    /// The VMs, and whether each was compared.
    vms: Vec<(Uuid, bool)>,
    /// When they were last read.
    read_at: Option<i64>,
    evidence: Evidence,
}

impl Check {
    /// The VMs to read now. Those that cannot be compared any more are replaced by the busiest.
    pub(super) fn due(
        &mut self,
        now: i64,
        can_be_compared: impl Fn(&Uuid) -> bool,
        busiest: &[Uuid],
    ) -> Vec<Uuid> {
        self.vms.retain(|(vm, _)| can_be_compared(vm));
        // Where something differed, more is to be known soon.
        let is_suspect = self.evidence.iter().any(|[_, differed]| *differed > 0);
        let after = AFTER[usize::from(!is_suspect && self.vms.iter().all(|(_, was)| *was))];
        let is_begun = !self.vms.is_empty();
        if is_begun && self.read_at.is_some_and(|at| now - at < after) {
            return Vec::new();
        }
        for vm in busiest {
            let is_known = self.vms.iter().any(|(known, _)| known == vm);
            if self.vms.len() < VMS && !is_known && can_be_compared(vm) {
                self.vms.push((*vm, false));
            }
        }
        self.read_at = Some(now);
        self.vms.iter().map(|(vm, _)| *vm).collect()
    }

    /// The host's clock went back.
    pub(super) fn begin_anew(&mut self) {
        self.read_at = None;
    }

    /// What came of a comparison. A VM of which there was nothing to compare tells nothing.
    pub(super) fn enter(&mut self, vm: &Uuid, found: Evidence) {
        let tells = found.iter().any(|[compared, _]| *compared > 0);
        self.vms.retain(|(known, _)| tells || known != vm);
        for (_, was_compared) in self.vms.iter_mut().filter(|(known, _)| known == vm) {
            *was_compared = true;
        }
        for (sum, more) in self.evidence.iter_mut().flatten().zip(found.into_iter().flatten()) {
            *sum += more;
        }
    }

    /// Whether what was compared until now says that the rows are wrong.
    pub(super) fn weigh(&mut self) -> bool {
        let [at_least, one_in] = DIFFER;
        let is_wrong = |[compared, differed]: &[u32; 2]| {
            *differed >= at_least && differed * one_in >= *compared
        };
        let any = self.evidence.iter().any(is_wrong);
        for both in self.evidence.iter_mut().filter(|both| both[0] >= FORGET_AFTER) {
            *both = both.map(|count| count / 2);
        }
        any
    }

    /// How many counters were compared lately, and how many of those differed.
    pub(super) fn compared(&self) -> [u32; 2] {
        [0, 1].map(|which| self.evidence.iter().map(|both| both[which]).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the plugin of CPUs.
    fn cpus(compared: u32, differed: u32) -> Evidence {
        [[compared, differed], [0, 0], [0, 0]]
    }

    fn all() -> [Uuid; 4] {
        [1, 2, 3, 4].map(Uuid::from_u128)
    }

    #[test]
    fn the_same_vms_are_read_whoever_gets_busier() {
        let ([a, b, c, d], mut check) = (all(), Check::default());
        assert!(check.due(10, |_| true, &[]).is_empty(), "nobody does anything");
        assert_eq!(check.due(20, |_| true, &[a, b, c]), [a, b]);
        assert!(check.due(79, |_| true, &[c, d, a]).is_empty());
        assert_eq!(check.due(80, |_| true, &[c, d, a]), [a, b]);
        check.enter(&a, cpus(4, 0));
        check.enter(&b, cpus(1, 0));
        assert!(check.due(140, |_| true, &[c, d]).is_empty());
        assert_eq!(check.due(680, |_| true, &[c, d]), [a, b]);
        assert_eq!(check.compared(), [5, 0]);
    }

    #[test]
    fn one_that_leaves_or_tells_nothing_is_replaced_by_the_busiest() {
        let ([a, b, c, d], mut check) = (all(), Check::default());
        assert_eq!(check.due(0, |_| true, &[a, b]), [a, b]);
        check.enter(&a, cpus(0, 0));
        check.enter(&b, cpus(4, 0));
        assert_eq!(check.due(600, |_| true, &[c, d]), [b, c]);
        assert_eq!(check.due(660, |vm| *vm != b, &[b, d, a]), [c, d]);
        // At once, if nobody is left.
        assert_eq!(check.due(670, |vm| *vm == a, &[c, a]), [a]);
    }

    #[test]
    fn who_is_suspect_is_read_again_soon_and_twice_is_a_lie() {
        let ([a, ..], mut check) = (all(), Check::default());
        assert_eq!(check.due(0, |_| true, &[a]), [a]);
        check.enter(&a, cpus(2, 1));
        assert!(!check.weigh());
        assert_eq!(check.due(60, |_| true, &[a]), [a]);
        check.enter(&a, cpus(2, 1));
        assert!(check.weigh());
    }

    #[test]
    fn a_clock_that_goes_back_keeps_nobody_waiting() {
        let ([a, ..], mut check) = (all(), Check::default());
        assert_eq!(check.due(1_000_000, |_| true, &[a]), [a]);
        check.begin_anew();
        assert_eq!(check.due(1000, |_| true, &[a]), [a]);
    }
}
