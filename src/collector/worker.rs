//! A worker: takes readings, one after the other, over a connection of its own.

use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use super::Answer;
use super::link::{IDLE, Link};
use super::scheduler::{Finished, Job, Lane};
use super::shared::{Shared, State};
use crate::error::Error;
use crate::hypervisor::{Connection, Content, Hypervisor, Notes, Outcome, Parts};
use crate::threads;

pub(super) fn spawn<H: Hypervisor>(shared: &Arc<Shared<H>>, number: u64) -> io::Result<()> {
    let shared = Arc::clone(shared);
    threads::start("virtmeter-read", move || {
        Worker { link: Link::new(shared, number, true) }.run();
    })
}

struct Worker<H: Hypervisor> {
    link: Link<H>,
}

impl<H: Hypervisor> Worker<H> {
    fn run(mut self) {
        let shared = Arc::clone(&self.link.shared);
        let mut state = shared.lock();
        // Hanging up may take for ever: it is the last thing that a thread does.
        while !self.link.is_over(&state) {
            if self.link.is_good(&state) {
                if let Some(job) = state.scheduler.start(Instant::now()) {
                    state = self.read(&shared, &job, state);
                    // Not at any other time: one that was woken for a reading must take it.
                    if state.scheduler.has_thread_to_spare(Instant::now()) {
                        break;
                    }
                    continue;
                }
            } else if self.link.is_open() || state.scheduler.is_worth_connecting(Instant::now()) {
                let goes_on;
                (state, goes_on) = self.prepare(&shared, state);
                if !goes_on {
                    break;
                }
                continue;
            } else if state.scheduler.startable(1) > 0 && state.scheduler.is_reachable() {
                // It was woken for a reading that only one with a connection can take.
                break;
            }
            if state.scheduler.makes_room(Instant::now()) {
                break;
            }
            let (now, waited) =
                shared.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = now;
            // The last one stays, but not over a network that may forget its connection.
            let is_spare = state.scheduler.idle > 1 || self.link.may_be_forgotten(Instant::now());
            if waited.timed_out() && is_spare && state.scheduler.startable(1) == 0 {
                break;
            }
        }
        state.scheduler.threads -= 1;
        state.scheduler.idle -= 1;
        // Where its connection was closed, others go on.
        shared.send_for_threads(&mut state, Instant::now());
        self.link.leave(state);
    }

    /// Has a good connection made before any reading is begun, so that one that cannot be had delays
    /// none; false if the thread is not to go on without one.
    fn prepare<'a>(
        &mut self,
        shared: &'a Shared<H>,
        mut state: MutexGuard<'a, State>,
    ) -> (MutexGuard<'a, State>, bool) {
        state.scheduler.connects(self.link.number, Instant::now());
        // What it was woken for need not wait for that.
        shared.wake(&state);
        drop(state);
        let good = self.link.make_good();
        state = shared.lock();
        let connected = matches!(good, Ok(true));
        state.scheduler.has_connected(self.link.number, connected, Instant::now());
        let mut goes_on = true;
        match good {
            // It was opened for this reading, even if all were closed meanwhile.
            Ok(true) if self.link.is_its(&state) => {
                if let Some(job) = state.scheduler.start(Instant::now()) {
                    state = self.read(shared, &job, state);
                }
            }
            Ok(_) => {}
            // Others serve, and there may be too many of them.
            Err(Error::ConnectionLost { .. }) => goes_on = !state.scheduler.is_reachable(),
            Err(error) => {
                if let Some(job) = state.scheduler.start(Instant::now()) {
                    state.scheduler.finish(&job, error.into(), Instant::now());
                }
            }
        }
        shared.answered.notify_all();
        (state, goes_on)
    }

    /// Has one reading taken.
    fn read<'a>(
        &mut self,
        shared: &'a Shared<H>,
        job: &Job,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        state.scheduler.idle -= 1;
        state.use_connection(self.link.number, true);
        drop(state);
        let mut finished = self.take(job);
        state = shared.lock();
        state.use_connection(self.link.number, false);
        state.scheduler.idle += 1;
        let housekeeping = matches!(job.slot.lane, Lane::Existing | Lane::HostCpus);
        if housekeeping {
            state.keep(&mut finished);
        } else if matches!(finished.answer, Err(Error::ConnectionLost { .. })) {
            // So may the others be: this reading is not to break twice by that.
            state.alarms += 1;
        }
        if state.scheduler.finish(job, finished, Instant::now()) || housekeeping {
            shared.answered.notify_all();
        }
        // One is for this thread; more may wait for what it has just finished.
        if state.scheduler.startable(2) > 1 {
            shared.wake(&state);
        }
        state
    }

    /// Takes a reading.
    fn take(&mut self, job: &Job) -> Finished<Answer> {
        let mut busy = None;
        let answer = self.link.ask(|connection| {
            let (begun, mut notes) = (Instant::now(), Notes::default());
            let answer = match job.slot.lane {
                Lane::List | Lane::Existing => Answer::List(connection.instances()?),
                Lane::HostCpus => Answer::HostCpus(connection.host_cpus(&mut notes)?),
                Lane::Guest | Lane::Aside => {
                    let reading = connection.read(&job.instance, job.parts, job.reach)?;
                    busy = reading.busy;
                    return Ok(reading
                        .parts
                        .into_iter()
                        .map(|part| answered(part, begun))
                        .collect());
                }
            };
            notes.measured_since(begun);
            Ok(vec![(Parts::WHOLE, Outcome { answer: Ok(answer), notes })])
        });
        Finished { answer, busy }
    }
}

/// A part that was read; it was measured since `begun` unless the driver says when.
fn answered(
    (part, outcome): (Parts, Outcome<Content>),
    begun: Instant,
) -> (Parts, Outcome<Answer>) {
    let Outcome { answer, mut notes } = outcome;
    if notes.moment.is_none() {
        notes.measured_since(begun);
    }
    (part, Outcome { answer: answer.map(Answer::Part), notes })
}
