//! The prober: asks after what does not answer, over a connection of its own. When it is stuck itself,
//! another one takes over.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::NO_INSTANCE;
use super::link::{IDLE, Link};
use super::scheduler::{MOST_CUT_OFF, Probe};
use super::shared::{Shared, State, nobody};
use crate::hypervisor::{Connection, Hypervisor};
use crate::records::InstanceId;
use crate::threads;

/// Probers that may be stuck with guests at a time, and those that may be stuck at all: the more there
/// are, the longer the next one waits.
const PROBERS: usize = 3;
const MOST_PROBERS: usize = 16;

/// Wakes the prober, or starts one if there is none that serves.
pub(super) fn send_for<H: Hypervisor>(shared: &Arc<Shared<H>>, state: &mut State, now: Instant) {
    cut_off(state, now);
    // Asking after a guest should take no time, and reaching the hypervisor not much.
    let (guest, nobody) = (shared.limits.timeout / 4, 2 * shared.limits.timeout);
    let connects = state.probing.as_ref().is_some_and(|(since, about)| {
        about.uuid == NO_INSTANCE && now.saturating_duration_since(*since) >= guest
    });
    if connects && !state.scheduler.is_heard(now) {
        // That may hang where nothing else does: the others look whether theirs serve.
        shared.alarm(state);
    }
    let stuck = state.probing.clone().filter(|(since, about)| {
        let more = state.probers.len().saturating_sub(PROBERS - 1).min(MOST_PROBERS);
        let long = if about.uuid == NO_INSTANCE { nobody * (1 << more) } else { guest };
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

/// Counts no more on threads that an outage has cut off: others take their places.
fn cut_off(state: &mut State, now: Instant) {
    let Some(before) = state.scheduler.cut_off_before(now) else { return };
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
        // The last connection that can be had is for those who read.
        let gives_way = state.serving() == 0 && state.scheduler.is_crowded(now);
        // Another one has taken over while this one was stuck.
        if link.is_over(&state) || state.prober != Some(number) || (gives_way && link.is_open()) {
            break;
        }
        // This one must come back, as not many more there can be.
        let careful = state.probers.len() >= PROBERS;
        let about = match state.scheduler.probe(now, careful, gives_way) {
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
        state.scheduler.hear(shared.hypervisor.answered());
        if was_open && link.is_open() {
            state.scheduler.has_outlived_outage(now);
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
