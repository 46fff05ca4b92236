//! Which readings are begun, and when one more thread is worth it.

use std::time::Instant;

use uuid::Uuid;

use super::task::{Fate, Job, Lane, Running, Slot};
use super::{MINUTE, Scheduler};
use crate::error::no_thread_started;
use crate::hypervisor::{Parts, Reach};

impl<R> Scheduler<R> {
    /// The next reading to take, if there is one that may be begun now.
    pub(in crate::collector) fn start(&mut self, now: Instant) -> Option<Job> {
        let mut next = self.next_startable(true);
        if next.is_none() && self.may_read_ahead() {
            next = self.next_startable(false);
        }
        let (slot, id) = next?;
        let starved = self.is_starved() || self.is_hung_aside(slot.uuid);
        let task = self.tasks.get_mut(&slot).filter(|task| task.id == id)?;
        task.started = Some(now);
        let (instance, parts) = (task.instance.clone(), task.parts);
        let reach = match slot.lane {
            Lane::Aside if starved && !parts.has(Parts::SERVER) => Reach::Priority,
            Lane::Aside if parts.need_guest() => Reach::Hypervisor,
            _ => Reach::Guest,
        };
        let call =
            Running { slot, instance: instance.clone(), started: now, reach, fate: Fate::Wanted };
        self.running.insert(id, call);
        Some(Job { id, slot, instance, parts, reach })
    }

    /// Whether one more thread should take readings.
    pub(in crate::collector) fn needs_thread(&self, now: Instant) -> bool {
        let soon_idle = self.idle + self.connecting.len() - self.connecting_slowly(now);
        self.threads < self.most_threads()
            && self.threads < self.limits.workers + self.slow(now)
            && self.may_connect(now)
            && {
                // What is read ahead is not worth a thread in the place of one that may hang.
                let also_ahead = self.may_read_ahead() && (self.sweeping || self.slow(now) == 0);
                self.startable_of(also_ahead, soon_idle + 1) > soon_idle
            }
    }

    /// A thread was started, or not.
    pub(in crate::collector) fn started_thread(
        &mut self,
        problem: Option<&std::io::Error>,
        now: Instant,
    ) {
        self.tell_of_threads(problem, now);
        self.short_of_threads = problem.is_some();
    }

    /// So was one that asks after what does not answer.
    pub(in crate::collector) fn started_prober(
        &mut self,
        problem: Option<&std::io::Error>,
        now: Instant,
    ) {
        self.tell_of_threads(problem, now);
        self.lacks_prober = problem.is_some();
    }

    /// It has asked, or was refused the connection that it needs for that, as there may be too many of them.
    pub(in crate::collector) fn asked_by_prober(&mut self, is_connected: bool) {
        if !self.short_of_threads {
            self.short_since = None; // it has a thread
        }
        self.lacks_prober = !is_connected && self.outage.is_none();
    }

    fn tell_of_threads(&mut self, problem: Option<&std::io::Error>, now: Instant) {
        if !self.short_of_threads && !self.lacks_prober {
            self.short_since = None;
        }
        let Some(problem) = problem else { return };
        let since = *self.short_since.get_or_insert(now);
        // Threads that make room for each other start and fail in turn.
        let lately = |told: Instant| now.saturating_duration_since(told) < MINUTE;
        if !self.told_of_threads.is_some_and(|told| told >= since || lately(told)) {
            self.told_of_threads = Some(now);
            let line = no_thread_started(problem, self.threads);
            self.tell(log::Level::Warn, line);
        }
    }

    /// Whether a thread that has nothing to do ends, so that one can be started that asks after what does
    /// not answer.
    pub(in crate::collector) fn makes_room(&self, now: Instant) -> bool {
        self.lacks_prober && self.wants_probe(now) && (self.idle > 1 || self.outage.is_some())
    }

    /// Whether something is to be read, but all threads that read are stuck, and no other can be started
    /// beside them.
    pub(in crate::collector) fn lacks_reader(&self, now: Instant) -> bool {
        self.has_no_reader(now) && self.needs_thread(now)
    }

    /// Whether all threads that read are stuck, and no other one could be started.
    pub(super) fn has_no_reader(&self, now: Instant) -> bool {
        self.short_of_threads && self.threads <= self.hanging() + self.connecting_slowly(now)
    }

    /// Whether there are more threads than there is work for.
    pub(in crate::collector) fn has_thread_to_spare(&self, now: Instant) -> bool {
        self.threads > self.limits.workers + self.slow(now)
    }

    /// How many readings take so long that others should not wait for their threads.
    fn slow(&self, now: Instant) -> usize {
        let slow =
            |running: &&Running| running.given_up() || self.is_slow_since(running.started, now);
        self.running.values().filter(slow).count() + self.connecting_slowly(now)
    }

    /// The first reading in a queue that may be begun.
    fn next_startable(&mut self, asked: bool) -> Option<(Slot, u64)> {
        let mut queue = std::mem::take(if asked { &mut self.asked } else { &mut self.ahead });
        while queue.front().is_some_and(|entry| !self.is_pending(*entry)) {
            queue.pop_front();
        }
        let may_start = |entry: &(Slot, u64)| self.is_pending(*entry) && self.may_start(entry.0);
        let at = queue.iter().position(may_start);
        let found = at.and_then(|at| queue.remove(at));
        // What was given up behind one that cannot start.
        if queue.len() > 64 + 2 * self.tasks.len() {
            queue.retain(|entry| self.is_pending(*entry));
        }
        *(if asked { &mut self.asked } else { &mut self.ahead }) = queue;
        found
    }

    /// How many readings may be begun now; so many at the most are counted.
    pub(in crate::collector) fn startable(&self, most: usize) -> usize {
        self.startable_of(self.may_read_ahead(), most)
    }

    fn startable_of(&self, also_ahead: bool, most: usize) -> usize {
        let ahead = self.ahead.iter().filter(|_| also_ahead);
        let waiting = self.asked.iter().chain(ahead);
        waiting.filter(|e| self.is_pending(**e) && self.may_start(e.0)).take(most).count()
    }

    pub(super) fn is_pending(&self, (slot, id): (Slot, u64)) -> bool {
        self.tasks.get(&slot).is_some_and(|task| task.id == id && task.started.is_none())
    }

    /// Readings that need the guest's process are taken one at a time for each guest, as the
    /// hypervisor would do it anyway: so one that hangs has one thread hanging with it.
    fn may_start(&self, slot: Slot) -> bool {
        match slot.lane {
            Lane::Guest => {
                let waiting = self.running.values().filter(|running| running.waits_for_guest());
                waiting.count() < self.limits.waiting_for_guests()
                    && !self.must_not_wait_for_guest(slot.uuid)
                    && !self.is_waited_for(slot.uuid)
            }
            Lane::Aside | Lane::List => {
                // What callers have left may come back yet.
                let left = |call: &&Running| call.slot == slot && call.fate == Fate::Left;
                self.running.values().filter(left).count() < 2
                    && (!self.may_hang(slot.uuid) || self.leaves_a_thread())
            }
            Lane::Existing | Lane::HostCpus => self.leaves_a_thread(),
        }
    }

    /// Whether what may hang leaves a thread to others, unless there is just one.
    fn leaves_a_thread(&self) -> bool {
        self.running.len() + 1 < self.most_threads().max(2)
    }

    /// Whether a call is out that waits for this guest's process, whoever still wants its answer.
    pub(super) fn is_waited_for(&self, instance: Uuid) -> bool {
        self.running.values().any(|call| call.occupies_guest() && call.slot.uuid == instance)
    }
}
