//! The prober: asks after what does not answer, over a connection of its own. When it is stuck itself,
//! another one takes over.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::NO_INSTANCE;
use super::link::{IDLE, Link};
use super::scheduler::{MOST_CUT_OFF, Probe};
use super::shared::{Shared, State, nobody};
use crate::hypervisor::{Connection, Hypervisor};
use crate::records::InstanceId;
use crate::threads;

/// Probers that may be stuck with guests at a time, as each holds one of libvirtd's five priority workers; and those that
/// may be stuck at all.
const PROBERS: usize = 3;
const MOST_PROBERS: usize = 64;
/// The shortest pause between two tries.
const SHORTEST: Duration = Duration::from_millis(200);

/// Wakes the prober, or starts one if there is none that serves.
pub(super) fn send_for<H: Hypervisor>(shared: &Arc<Shared<H>>, state: &mut State, now: Instant) {
    cut_off(state, now);
    // Asking after a guest should take no time, and reaching the hypervisor not much.
    let timeout = state.scheduler.limits().timeout;
    let guest = timeout / 4;
    let connects = state.probing.as_ref().is_some_and(|(since, about)| {
        about.uuid == NO_INSTANCE && now.saturating_duration_since(*since) >= guest
    });
    if connects && !state.scheduler.is_heard(now) {
        // That may hang where nothing else does: the others look whether theirs serve.
        shared.alarm(state);
    }
    let stuck = state.probing.clone().filter(|(since, about)| {
        // Without an outage, it says nothing of the host that this one is not answered: no further connection may be
        // accepted.
        let is_reachable = state.scheduler.is_reachable();
        let silence = if is_reachable { asking(state, now) } else { silence(state, now) };
        let nobody = || patience(timeout, silence);
        let long = if about.uuid == NO_INSTANCE { nobody() } else { guest };
        now.saturating_duration_since(*since) >= long
    });
    if (state.prober.is_none() || stuck.is_some()) && state.probers.len() < MOST_PROBERS {
        if let Some((_, instance)) = stuck {
            state.scheduler.leave_unprobed(&instance, now);
        }
        let number = state.next_thread();
        let its = Arc::clone(shared);
        let work = move || probe(Link::new(its, number, false));
        let started = threads::start("virtmeter-probe", work);
        state.scheduler.started_prober(started.as_ref().err(), now);
        if started.is_err() {
            // One that has nothing to do may make room for it.
            shared.work.notify_one();
        } else {
            state.prober = Some(number);
            state.probing = None;
            state.probers.insert(number, (now, NO_INSTANCE.into()));
        }
    }
    shared.probe.notify_all();
}

/// Since when each of those that ask about nobody does so.
fn asked_about_nobody(state: &State) -> impl Iterator<Item = Instant> + '_ {
    let asked = state.probers.values().filter(|(_, about)| about.uuid == NO_INSTANCE);
    asked.map(|(since, _)| *since)
}

/// For how long those that ask about nobody have not come back, since the last one did.
fn asking(state: &State, now: Instant) -> Duration {
    let asked = asked_about_nobody(state).filter(|since| Some(*since) >= state.probed);
    asked.min().map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
}

/// For how long nothing was answered, while somebody has asked.
fn silence(state: &State, now: Instant) -> Duration {
    let since = asked_about_nobody(state).min().max(state.scheduler.heard());
    since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
}

/// How long one that asks about nobody may take before another one tries. A host that was reset never answers those of
/// before, so there must always be another one; but each has a thread. With a quarter of the silence, there are few in
/// months of it, and that it is over is found within a third of it.
fn patience(timeout: Duration, silence: Duration) -> Duration {
    (2 * timeout).max(SHORTEST).max(silence / 4)
}

/// Counts no more on threads that an outage has cut off: others take their places.
fn cut_off(state: &mut State, now: Instant) {
    // In an outage, those that have been stuck since before must leave one that finds out when it is over.
    let is_full = state.probers.len() >= MOST_PROBERS;
    let away = state.scheduler.away_since().filter(|_| is_full);
    let Some(before) = state.scheduler.cut_off_before(now).or(away) else { return };
    let room = MOST_CUT_OFF.saturating_sub(state.probers_cut_off);
    let out = state.probers.iter().filter(|(_, (begun, _))| *begun < before);
    for number in out.map(|(number, _)| *number).take(room).collect::<Vec<_>>() {
        if let Some((_, about)) = state.probers.remove(&number) {
            state.scheduler.probe_again(&about);
            state.probers_cut_off += 1;
        }
    }
}

/// One begins to ask, or has come back, from wherever it was.
fn is_back(state: &mut State, number: u64, about: &InstanceId) {
    let known = state.probers.insert(number, (Instant::now(), about.clone()));
    state.probers_cut_off -= usize::from(known.is_none());
}

fn probe<H: Hypervisor>(mut link: Link<H>) {
    let (shared, number) = (Arc::clone(&link.shared), link.number);
    let mut state = shared.lock();
    let mut rested = false;
    loop {
        let now = Instant::now();
        // Where no caller comes any more, nobody else does.
        state.scheduler.cut_off(now);
        // The last connection that can be had is for those who read.
        let gives_way = state.serving() == 0 && state.scheduler.is_crowded(now);
        // Another one has taken over while this one was stuck.
        if link.is_over(&state) || state.prober != Some(number) || (gives_way && link.is_open()) {
            break;
        }
        // Where others are stuck, this one must come back. One whose guest has answered since has just lost its own
        // answer.
        let others = state.probers.iter().filter(|(other, _)| **other != number);
        let stuck =
            others.filter(|(_, (_, about))| !state.scheduler.has_answered_since(about.uuid));
        let careful = stuck.count() >= PROBERS;
        let about = match state.scheduler.probe(now, careful, gives_way, link.is_open()) {
            // So long, or until a thread that reads cannot be started beside it.
            Probe::Rest if rested || state.scheduler.short_of_threads => break,
            // What is asked for is worth more than what hangs.
            Probe::Wait(_) if state.scheduler.lacks_reader(now) => break,
            Probe::Rest => {
                let waited = shared.probe.wait_timeout(state, IDLE);
                let (after, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                state = after;
                rested = timeout.timed_out();
                continue;
            }
            Probe::Wait(until) => {
                let waited = shared.probe.wait_timeout(state, until.duration_since(now));
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                state.scheduler.was_awake(now, Instant::now());
                continue;
            }
            Probe::Ask(instance) => Some(instance),
            Probe::Reach => None,
        };
        rested = false;
        let instance = about.clone().unwrap_or_else(nobody);
        state.probing = Some((now, instance.clone()));
        is_back(&mut state, number, &instance);
        drop(state);
        let was_open = link.is_open();
        let answer = link.ask(|connection| connection.is_free(&instance));
        state = shared.lock();
        is_back(&mut state, number, &nobody());
        state.probed = Some(Instant::now());
        state.scheduler.was_awake(now, Instant::now());
        state.scheduler.hear(shared.hypervisor.load().answered());
        if was_open && link.is_open() {
            state.scheduler.has_outlived_outage(now);
        }
        // Where a login takes long, another one has taken over, and has no connection yet: each would log in in vain.
        let lacks_connection = state.prober.is_some_and(|its| !state.open.contains_key(&its));
        if link.is_open() && lacks_connection && !link.is_over(&state) {
            state.prober = Some(number);
        }
        if state.prober == Some(number) {
            state.probing = None;
            // One that has just broken says nothing of others.
            state.scheduler.asked_by_prober(was_open || link.is_open());
        }
        match about {
            Some(instance) => state.scheduler.probed(&instance, &answer, Instant::now()),
            None => state.scheduler.reached(answer.map(|_| ()), Instant::now()),
        }
        shared.answered.notify_all();
    }
    is_back(&mut state, number, &nobody());
    state.probers.remove(&number);
    if state.prober == Some(number) {
        state.prober = None;
    }
    shared.send_for_threads(&mut state, Instant::now());
    link.leave(state);
}

#[cfg(test)]
mod tests {
    use super::super::{Key, Kind};
    use super::*;
    use crate::error::Failure;
    use crate::libvirt::Libvirt;
    use crate::limits::Limits;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// When each of those tries that never come back, in a silence of so long.
    fn tries(timeout: Duration, silence: Duration) -> Vec<Duration> {
        let mut begun = vec![Duration::ZERO];
        let mut now = Duration::ZERO;
        while now < silence && begun.len() < 1000 {
            let last = begun.last().copied().unwrap_or_default();
            if now.saturating_sub(last) >= patience(timeout, now) {
                begun.push(now);
            }
            now += (timeout / 4).max(now / 1000);
        }
        begun
    }

    #[test]
    fn an_outage_has_a_prober_whatever_has_been_stuck_since_before() {
        for stuck in [MOST_PROBERS - 1, MOST_PROBERS] {
            let shared = Shared::new(Arc::new(Libvirt::new("", false)), Limits::default());
            let mut state = shared.lock();
            let (began, now) = (Instant::now(), Instant::now() + DAY);
            state.probers = (0..).take(stuck).map(|number| (number, (began, nobody()))).collect();
            cut_off(&mut state, now);
            assert_eq!(state.probers.len(), stuck, "it is there, as far as is known");
            state.scheduler.refused(&Failure::of("it is away"), 0, 0, now);
            state.probers.insert(0, (now + DAY, nobody()));
            cut_off(&mut state, now + DAY);
            let left = if stuck == MOST_PROBERS { 1 } else { stuck };
            assert_eq!((state.probers.len(), state.probers_cut_off), (left, stuck - left));
            assert!(state.probers.len() < MOST_PROBERS);
        }
    }

    #[test]
    fn the_time_for_which_this_process_was_stopped_is_no_silence() {
        let shared = Shared::new(Arc::new(Libvirt::new("", false)), Limits::default());
        let mut state = shared.lock();
        let second = Duration::from_secs(1);
        let (began, wanted) = (Instant::now(), Instant::now() + second);
        state.probers = [(0, (began, nobody())), (1, (wanted + 9 * second, nobody()))].into();
        state.probed = Some(began);
        let caller = std::thread::current().id();
        let key = Key { kind: Kind::List, uuid: NO_INSTANCE };
        let mut request = state.scheduler.ask(caller, key, &nobody(), began);
        let woken = wanted + 10 * second;
        state.wakes(&mut request, wanted, woken);
        assert_eq!(state.probers[&0].0, began + 10 * second);
        assert_eq!(state.probers[&1].0, woken, "it began meanwhile");
        assert_eq!(asking(&state, woken), wanted - began);
        assert_eq!(silence(&state, woken), wanted - began);
    }

    #[test]
    fn a_silence_is_tried_again_in_bounded_time_and_by_bounded_threads() {
        for milliseconds in [10, 200, 1000, 5000, 60_000] {
            let timeout = Duration::from_millis(milliseconds);
            assert!(tries(timeout, 30 * DAY).len() < MOST_PROBERS, "{timeout:?}");
            let begun = tries(timeout, DAY);
            for pair in begun.windows(2) {
                // As long as its pause, and a third as long as it was silent before that.
                let longest =
                    (3 * timeout).max(SHORTEST).max(pair[0] / 3) + pair[1] / 100 + timeout;
                assert!(pair[1].saturating_sub(pair[0]) <= longest, "{timeout:?}: {pair:?}");
            }
        }
    }
}
