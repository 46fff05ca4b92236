//! A thread that reads one batch after the other.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::driver::{Batch, HostWide};
use super::shared::Shared;
use crate::threads;

/// A thread that has had nothing to do for so long ends: a process may read a thousand pools.
const IDLE: Duration = Duration::from_secs(1);
/// Logging out is not waited for any longer.
const CLOSING: Duration = Duration::from_secs(5);

pub(super) fn spawn<H: HostWide>(shared: &Arc<Shared<H>>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    threads::start("virtmeter-sweep", move || run(&shared))
}

fn run<H: HostWide>(shared: &Arc<Shared<H>>) {
    let mut state = shared.lock();
    while !state.ended {
        if state.threads > shared.most_threads(&state, Instant::now()).max(1) && !state.is_urgent()
        {
            break;
        }
        if let Some(batch) = state.take_from_queue() {
            let for_nobody = state.is_for_nobody(batch);
            let (begun, closed) = (Instant::now(), state.closed());
            state.batches.begins(batch, begun);
            drop(state);
            let before = shared.driver.sessions();
            let deadline = begun + shared.limits.timeout();
            let answer = if for_nobody {
                shared.driver.read_for_nobody(batch, deadline)
            } else {
                Some(shared.driver.read(batch, deadline))
            };
            let Some(answer) = answer else {
                state = shared.lock();
                state.batches.is_not_ordered(batch);
                state.ends(batch);
                shared.read.notify_all();
                continue;
            };
            let afterwards = match answer {
                Ok(_) => shared.driver.afterwards(batch),
                Err(_) => Vec::new(),
            };
            let in_place = shared.driver.in_place_of(batch);
            let now = Instant::now();
            let after = shared.driver.sessions();
            // What takes longer than it may, without a login, was stopped with this process.
            let is_overdue = now.saturating_duration_since(deadline) > shared.limits.stopped()
                && before.is_open
                && after == before;
            // Only a login has more time, and none fails because its session is closed.
            let is_unanswered = !before.is_open && after.failed != before.failed
                || now + shared.limits.slow() >= deadline
                    && (before.is_open || after.opened != before.opened);
            state = shared.lock();
            let was_stopped = state.wakes(begun, &shared.limits, now) || is_overdue;
            match answer {
                Ok(lines) => {
                    for line in lines {
                        state.say(log::Level::Warn, line);
                    }
                    if batch == Batch::Inventory {
                        let is_there = |host| shared.driver.host_name(host).is_some();
                        state.batches.join(is_there);
                    }
                    let ended = state.batches.was_read(batch, begun);
                    if ended.is_some_and(|failed| failed.is_told) {
                        shared.tell(&mut state, batch, None);
                    }
                }
                // Its session was closed meanwhile, or this process was stopped, which is no failure: whoever
                // wants it has it read again. But nobody waits again and again for what does not answer,
                // however often they close.
                Err(_) if was_stopped || state.was_closed_since(closed) && !is_unanswered => {
                    state.batches.is_not_ordered(batch);
                }
                Err(error) => {
                    let is_replaced = !in_place.is_empty() && !in_place.contains(&batch);
                    if state.batches.has_not_been_read(batch, error.clone(), is_replaced, now) {
                        shared.tell(&mut state, batch, Some(&error));
                    }
                }
            }
            state.ends(batch);
            shared.read.notify_all();
            // It would log in again, for nobody.
            if !state.ended && !state.was_closed_since(closed) {
                // All at once: whoever goes over all instances would wait for one after the other.
                shared.expect_batches(&mut state, in_place.into_iter().map(|one| vec![one]), begun);
                state.order_for_nobody(afterwards);
            }
            if state.was_closed_since(closed) && !state.needs_session() {
                drop(state);
                // What takes several calls has logged in again, for nobody.
                if shared.driver.sessions().is_open {
                    let _ = shared.close(Instant::now() + CLOSING);
                }
                state = shared.lock();
            }
            continue;
        }
        state.idle += 1;
        let waited;
        (state, waited) =
            shared.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
        if waited.timed_out() && state.queue.is_empty() {
            break;
        }
    }
    state.threads -= 1;
    let is_last = state.ended && state.threads == 0;
    drop(state);
    if is_last {
        // It ends by itself where that does not get through.
        let _ = shared.driver.close(Instant::now() + CLOSING);
    }
}
