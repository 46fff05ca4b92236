//! The prober: asks after what does not answer, over a connection of its own. When it is stuck itself,
//! another one takes over.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::link::{IDLE, Link};
use super::scheduler::Probe;
use super::shared::{Shared, State, nobody};
use crate::hypervisor::{Connection, Hypervisor};
use crate::threads;

/// Probers that may be stuck with guests at a time, and those that may be stuck at all: the more there
/// are, the longer the next one waits.
const PROBERS: usize = 3;
const MOST_PROBERS: usize = 16;

/// Wakes the prober, or starts one if there is none that serves.
pub(super) fn send_for<H: Hypervisor>(shared: &Arc<Shared<H>>, state: &mut State, now: Instant) {
    // Asking after a guest should take no time, and reaching the hypervisor not much.
    let (guest, nobody) = (shared.limits.timeout / 4, 2 * shared.limits.timeout);
    let connects = state.probing.as_ref().is_some_and(|(since, about)| {
        about.uuid.is_nil() && now.saturating_duration_since(*since) >= guest
    });
    if connects && !state.scheduler.is_heard(now) {
        // That may hang where nothing else does: the others look whether theirs serve.
        shared.alarm(state);
    }
    let stuck = state.probing.clone().filter(|(since, about)| {
        let more = state.probers.saturating_sub(PROBERS - 1).min(MOST_PROBERS);
        let long = if about.uuid.is_nil() { nobody * (1 << more) } else { guest };
        now.saturating_duration_since(*since) >= long
    });
    if (state.prober.is_none() || stuck.is_some()) && state.probers < MOST_PROBERS {
        if let Some((_, instance)) = stuck {
            state.scheduler.leave_unprobed(&instance);
        }
        let number = state.next_thread();
        let shared = Arc::clone(shared);
        let work = move || probe(Link::new(shared, number, false));
        if threads::start("virtmeter-probe", work).is_ok() {
            state.prober = Some(number);
            state.probing = None;
            state.probers += 1;
        }
    }
    shared.probe.notify_all();
}

fn probe<H: Hypervisor>(mut link: Link<H>) {
    let (shared, number) = (Arc::clone(&link.shared), link.number);
    let mut state = shared.lock();
    let mut rested = false;
    loop {
        // Another one has taken over while this one was stuck.
        if link.is_over(&state) || state.prober != Some(number) {
            break;
        }
        let now = Instant::now();
        // This one must come back, as not many more there can be.
        let careful = state.probers >= PROBERS;
        let about = match state.scheduler.probe(now, careful) {
            Probe::Rest if rested => break,
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
        drop(state);
        let answer = link.ask(|connection| connection.is_free(&instance));
        state = shared.lock();
        state.scheduler.hear(shared.hypervisor.answered());
        if state.prober == Some(number) {
            state.probing = None;
        }
        match about {
            Some(instance) => state.scheduler.probed(&instance, &answer, Instant::now()),
            None => state.scheduler.reached(answer.map(|_| ()), Instant::now()),
        }
        shared.answered.notify_all();
    }
    state.probers -= 1;
    if state.prober == Some(number) {
        state.prober = None;
    }
    shared.send_for_threads(&mut state, Instant::now());
    link.leave(state);
}
