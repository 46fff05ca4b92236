//! Exact counters of a VM: those since its start, and what shows whether its rows are right.

use std::collections::HashSet;

use super::super::check::Evidence;
use super::super::counted::Anchor;
use super::super::names::{Counter, Named, PLUGINS, named};
use super::super::quirks::Quirks;
use super::super::rrd::{Exact, SourceKind, VmRrd};
use super::{ExactFrom, Gap, PAUSES, SECOND, Slot, State, Vm};
use crate::samples::NANOS;

/// Two exact readings are compared that are so far apart.
const COMPARED_AFTER: i64 = 60 * SECOND;
/// Growth of rows and of exact counters may differ by a hundredth.
const TOLERANCE: i128 = 100;
/// Growth by less than this says nothing: in 10^-9 s, and in 10^-9 bytes.
const LEAST_TIME: i128 = NANOS / 10;
const LEAST_BYTES: i128 = 10_000 * NANOS;
/// No domain has more.
const MOST_VCPUS: u16 = 1024;

#[derive(Debug)]
pub(super) struct Next {
    pub(super) at: i64,
    /// By the places of the counters.
    pub(super) anchors: Vec<(usize, Anchor)>,
}

impl Vm {
    /// Whether exact values that were read then are those of this domain.
    pub(in crate::xenserver) fn takes_exact_at(&self, at: i64) -> bool {
        let ExactFrom::At(from) = self.exact else { return false };
        self.state != State::Gone && at >= from
    }

    /// Whether something has no exact value yet that may have one, or lacks rows since.
    pub(in crate::xenserver) fn lacks_exact(&self) -> bool {
        let is_due = |gap: &Gap| gap.is_open && self.mark.is_some_and(|mark| mark.0 >= gap.due);
        self.tries > 0 || self.gap.as_ref().is_some_and(is_due)
    }

    /// Whether exact values that are read then can be compared with its rows later. Those of a pause tell
    /// its growth only in all.
    pub(in crate::xenserver) fn can_be_compared_at(&self, at: i64) -> bool {
        self.state == State::Running && self.still.is_none() && self.takes_exact_at(at)
    }

    /// Takes exact values, which were read then, in 10^-9 s.
    pub(in crate::xenserver) fn enter_exact(
        &mut self,
        rrd: &VmRrd<'_>,
        at: i64,
        is_compared: bool,
        rows_lie: bool,
        quirks: Quirks,
    ) {
        // Rows of a pause tell its growth only in all.
        let is_compared = is_compared && self.still.is_none();
        let any_has_run = self.count_offline_cpus(rrd);
        let (mut next, mut covered, mut seen) = (Vec::new(), 0, HashSet::new());
        let mut was_reset = false;
        let mark = self.mark.map_or(i64::MIN, |mark| mark.0.saturating_mul(SECOND));
        // The RRD of one that is paused, or was until just now, may stand still, for longer than it is known:
        // nothing was counted since.
        let paused = self.still.as_ref().and_then(|still| still.covered);
        let paused_to = paused.map_or(mark, |(_, to)| to.saturating_mul(SECOND));
        let may_stand_still = self.state == State::Paused || self.still.is_some();
        let at = if may_stand_still { at.max(paused_to) } else { at };
        // Rows of later were taken while this was read: the sum at its time is not known any more.
        let is_outdated = !quirks.last_update_has_too_few_digits()
            && !rows_lie
            && at.saturating_add(SECOND) < mark;
        if is_outdated {
            self.tries = self.tries.saturating_sub(1);
            if self.tries == 0 && !self.has_all_exact() {
                // Its host is slow, and is asked less often from now on.
                self.open_gap();
            }
            self.ask_later(at);
            return;
        }
        for source in rrd.sources.iter().filter(|source| source.kind == SourceKind::Derive) {
            let Some(place) = named(&source.name).and_then(|name| self.place(name)) else {
                continue;
            };
            // Of two sources of one counter, the first.
            if !seen.insert(place) {
                continue;
            }
            let is_online_cpu = self.counters[place].is_online_cpu();
            let Slot { counter, counted, last, is_known, .. } = &mut self.counters[place];
            // Rows lack the first growth of a source, before one of them is known.
            let may_lack_rows = !*is_known && last.is_some_and(f32::is_nan);
            let Some(Exact { nanos: exact, resolution }) =
                source.last.filter(|last| last.nanos >= 0)
            else {
                continue;
            };
            // What is not known is printed as 0.0: where its plugin is gone, or xcp-rrdd was started anew. That no vCPU
            // has run yet is sure only of a domain that was started since it is known here.
            let is_float = resolution < NANOS;
            let may_be_0 = any_has_run || counted.is_born();
            if exact == 0 && is_float && (counter.is_bytes() || counted.has_grown() || !may_be_0) {
                continue;
            }
            let reading = counted.reading(exact, at);
            if !counter.is_bytes() && quirks.floats_have_five_digits() {
                // Good enough to begin with, and where rows lack more than its last digit.
                let lacks_more = || {
                    let told = counted.since_start().filter(|_| counted.lacks_rows(mark));
                    is_compared && told.is_some_and(|told| told + resolution < exact)
                };
                let begins = || counted.anchor().is_none() && !may_lack_rows;
                if begins() || lacks_more() {
                    counted.set(reading);
                }
                continue;
            }
            match counted.anchor() {
                None if may_lack_rows => {}
                _ if rows_lie => {
                    let more = counted.catch_up(exact, at);
                    covered += if is_online_cpu { more } else { 0 };
                }
                None => counted.set(reading),
                Some(anchor) if exact < anchor.exact && at >= anchor.at => {
                    counted.set_after_reset(reading);
                    was_reset = true;
                }
                // The clock was.
                Some(anchor) if at < anchor.at => counted.set(reading),
                Some(anchor)
                    if is_compared
                        && at >= mark
                        && (at - anchor.at >= COMPARED_AFTER || counted.lacks_rows(mark))
                        && anchor.at <= mark =>
                {
                    next.push((place, reading));
                }
                Some(_) => {}
            }
        }
        if was_reset {
            // Those that wait to be compared may be of before.
            self.next = None;
        }
        self.cover_cpus(covered);
        self.tries = if self.has_all_exact() { 0 } else { self.tries.saturating_sub(1) };
        // A source may have been away just now, as its rows were before.
        let is_left = |(place, slot): (usize, &Slot)| {
            slot.is_there
                && (slot.counter.is_bytes() || !quirks.floats_have_five_digits())
                && slot.counted.lacks_rows(mark)
                && !next.iter().any(|(read, _)| *read == place)
        };
        let is_left = is_compared && self.counters.iter().enumerate().any(is_left);
        // A plugin may be away still, say: it is asked less often from now on.
        let lacks_known = self.tries == 0 && self.lacks_known();
        if lacks_known {
            self.open_gap();
        }
        self.ask_later(at);
        if let Some(gap) = self.gap.as_mut().filter(|gap| gap.is_open) {
            // Those that wait to be compared may be older than the gap; in a pause, none are compared.
            gap.is_open = self.next.is_some() || self.still.is_some() || is_left || lacks_known;
        }
        if !next.is_empty() && self.next.is_none() {
            self.next = Some(Box::new(Next { at, anchors: next }));
        }
    }

    /// While a gap is open, exact values are read again some time after these.
    fn ask_later(&mut self, at: i64) {
        if let Some(gap) = self.gap.as_mut().filter(|gap| gap.is_open) {
            gap.due = (at / SECOND).saturating_add(gap.pause);
            gap.pause = (gap.pause * 2).min(PAUSES[1]);
        }
    }

    /// Whether none is known of something of which there are rows.
    pub(super) fn lacks_known(&self) -> bool {
        self.counters.iter().any(|slot| slot.is_known && slot.lacks_exact())
    }

    /// Whether an exact value is known of all that may have one.
    pub(super) fn has_all_exact(&self) -> bool {
        !self.counters.iter().any(Slot::lacks_exact)
    }

    /// What vCPUs did that are offline is part of the domain's CPU time, also of those that were never seen
    /// online. Answers whether any vCPU has run.
    fn count_offline_cpus(&mut self, rrd: &VmRrd<'_>) -> bool {
        let mut any_has_run = false;
        for source in rrd.sources.iter().filter(|source| source.kind == SourceKind::Derive) {
            let Some(Named::Numbered(Counter::Cpu, vcpu @ 0..MOST_VCPUS)) = named(&source.name)
            else {
                continue;
            };
            // One that the domain does not have is told as 0.
            if source.last.is_some_and(|last| last.nanos > 0) {
                self.insert_offline_cpu(vcpu);
                any_has_run = true;
            }
        }
        any_has_run
    }

    /// Compares the growth by rows with that by exact values once all rows have come: how many counters
    /// of each plugin were compared, and how many differed.
    pub(in crate::xenserver) fn compare(&mut self) -> Option<Evidence> {
        let mark = self.mark?.0.saturating_mul(SECOND);
        if self.next.as_ref().is_none_or(|next| next.at > mark) {
            return None;
        }
        let next = self.next.take()?;
        let (mut found, mut covered) = ([[0; 2]; PLUGINS], 0);
        let anchors = || {
            next.anchors.iter().filter_map(|(place, next)| {
                let slot = self.counters.get(*place)?;
                Some((*place, slot.counter, slot.counted.anchor()?, *next))
            })
        };
        for (place, counter, last, next) in anchors().collect::<Vec<_>>() {
            let (exact, rows) = (last.grown_to(&next), last.rows_to(&next));
            let most = exact.max(rows);
            let least = if counter.is_bytes() { LEAST_BYTES } else { LEAST_TIME };
            // What was not told is not wrong: the host, or the plugin, was away, say.
            let is_gap = last.lacks_rows(&next.sum, next.at);
            let is_off = (exact - rows).abs() > most / TOLERANCE + last.edge + next.edge;
            if !is_gap && most >= least {
                let [compared, differed] = &mut found[counter.plugin()];
                *compared += 1;
                *differed += u32::from(is_off);
            }
            let is_online_cpu = self.counters[place].is_online_cpu();
            let counted = &mut self.counters[place].counted;
            if is_gap || is_off {
                let more = counted.correct(next);
                covered += if is_online_cpu { more } else { 0 };
            } else {
                counted.set(next);
            }
        }
        self.cover_cpus(covered);
        Some(found)
    }

    /// Does not compare what was to be.
    pub(in crate::xenserver) fn forget_next(&mut self) {
        self.next = None;
    }
}
