//! What is given up, and who is to blame: the guest, its call, or the hypervisor.

use std::time::Instant;

use uuid::Uuid;

use super::super::{Key, NO_INSTANCE};
use super::{Fate, Lane, Request, Running, Scheduler, Slot, Task};
use crate::error::{Error, Failure, NO_THREAD};
use crate::hypervisor::{Parts, Reach};
use crate::limits::Limits;

impl<R> Scheduler<R> {
    /// What can be said at once: there is no connection, or the guest hangs.
    pub(super) fn answer_without_reading(
        &mut self,
        request: &Request,
        now: Instant,
    ) -> Option<Error> {
        let uuid = request.key.uuid;
        if self.threads_left(now) <= usize::from(self.may_hang(uuid)) && self.is_silent_still(now) {
            self.begin_silence(now);
        }
        if let Some(outage) = &self.outage {
            return Some(Error::ConnectionLost {
                uri: self.uri.clone(),
                instance: (request.key.uuid != NO_INSTANCE).then(|| request.instance.clone()),
                failure: outage.failure.clone(),
            });
        }
        let needs_guest = !request.key.kind.knows_hung();
        let why = if self.is_locked(uuid, now) {
            "libvirt is waiting for it and reports nothing about it until then. Check its process: it \
             may be about to be killed, or its storage may not answer"
        } else if needs_guest && self.quarantine.has(uuid) {
            "its guest hangs. It is read again once it answers; check its process and storage"
        } else if needs_guest && self.too_many_hang(uuid) {
            "so many guests hang that no thread is left to wait for another"
        } else if self.threads_left(now) <= usize::from(self.may_hang(uuid)) {
            "so many calls hang that no thread is left to make another"
        } else {
            return None;
        };
        Some(self.timeout(request, why))
    }

    /// Whether even what waits for no guest may hang, of this instance: as it does of some, and this
    /// one's guest hangs. Then the last thread is not for it.
    pub(super) fn may_hang(&self, uuid: Uuid) -> bool {
        self.is_hung_aside(uuid)
            || (self.quarantine.has(uuid) && self.hangs_aside().next().is_some())
    }

    /// Whether nothing was answered since the last of the calls that wait was begun. That is no matter of guests: the
    /// hypervisor is silent, and connections were closed when that was found out.
    pub(super) fn is_silent_still(&self, now: Instant) -> bool {
        let calls = self.running.values().filter(|call| call.hangs()).map(|call| call.started);
        let last = calls.chain(self.connecting_in_vain(now)).max();
        self.outage.is_none() && !self.lacks_prober && last > self.heard
    }

    /// How many threads are left to make a call.
    pub(super) fn threads_left(&self, now: Instant) -> usize {
        self.most_threads().saturating_sub(self.hanging() + self.connecting_in_vain(now).count())
    }

    /// How many threads there may be. Once even a call hangs that waits for no guest, a few more find out
    /// whether the hypervisor is starved, and then make the calls that it answers even so.
    pub(super) fn most_threads(&self) -> usize {
        let more = if self.hangs_aside().next().is_some() { Limits::STARVED } else { 0 };
        self.limits.threads() + more
    }

    pub(super) fn timeout(&self, request: &Request, why: &str) -> Error {
        let timeout = self.limits.timeout;
        if request.key.uuid == NO_INSTANCE {
            let locked = self.locked().cloned().collect();
            return Error::ListHangs { uri: self.uri.clone(), timeout, locked };
        }
        Error::Timeout { instance: request.instance.clone(), timeout, why: why.to_owned() }
    }

    /// The same for what was waited for in vain. If no thread was there to ask, nobody is to blame.
    pub(super) fn unanswered(&self, request: &Request, why: &str, now: Instant) -> Error {
        let uuid = request.key.uuid;
        let is_about_it = |slot: Slot| slot.uuid == uuid && slot.lane != Lane::HostCpus;
        let is_out = self.running.values().any(|call| is_about_it(call.slot));
        if is_out || !self.has_no_reader(now) {
            return self.timeout(request, why);
        }
        if uuid == NO_INSTANCE {
            return Error::NoList { uri: self.uri.clone(), failure: Failure::of(NO_THREAD) };
        }
        self.timeout(request, NO_THREAD)
    }

    /// Whether nothing is to be asked that has to wait for this instance's guest.
    pub(super) fn must_not_wait_for_guest(&self, uuid: Uuid) -> bool {
        self.quarantine.has(uuid) || self.too_many_hang(uuid)
    }

    /// Whether this question is one for a guest that is not to be asked.
    pub(super) fn must_not_ask(&self, Key { kind, uuid }: Key) -> bool {
        kind.needs_guest() && self.must_not_wait_for_guest(uuid)
    }

    /// Whether so many guests hang that this one is not to be asked whether it hangs as well: that could
    /// cost one more thread here, and one more of the hypervisor's workers. One that has answered when
    /// it was asked last is asked on for longer.
    pub(super) fn too_many_hang(&self, uuid: Uuid) -> bool {
        let stuck = self.running.values().filter(|call| call.waits_for_guest() && call.hangs());
        let most = self.limits.waiting_for_guests();
        let most =
            if self.habits.is_trusted(uuid) { most } else { most.min(self.limits.unknown()) };
        stuck.count() >= most
    }

    /// Whether all that the hypervisor has for ordinary calls seems to be taken by those that hang: not
    /// even those come back that wait for no guest.
    pub(super) fn is_starved(&self) -> bool {
        let mut hang = self.hangs_aside().filter(|uuid| !self.locked.contains_key(uuid));
        hang.next().is_some_and(|first| hang.any(|other| other != first))
    }

    /// The instances that have calls hanging which wait for no guest, and not only for being starved.
    pub(super) fn hangs_aside(&self) -> impl Iterator<Item = Uuid> {
        let aside = |call: &&Running| call.hangs() && call.slot.lane == Lane::Aside;
        let all = self.running.values().filter(aside);
        all.filter(|call| call.reach != Reach::Priority).map(|call| call.slot.uuid)
    }

    /// Whether a call about this instance is among them.
    pub(super) fn is_hung_aside(&self, uuid: Uuid) -> bool {
        self.hangs_aside().any(|hung| hung == uuid)
    }

    /// Since when a list has been asked for that does not come, although the hypervisor can be reached.
    pub(super) fn list_hangs_since(&self, now: Instant) -> Option<Instant> {
        let lists = self.running.values().filter(|call| call.slot.lane.is_list());
        let first = lists.map(|call| call.started).min()?;
        let long = now.saturating_duration_since(first) >= self.limits.held_up();
        (long && self.outage.is_none()).then_some(first)
    }

    /// Gives up what nobody waits for: readings that are taken ahead, and calls that are out for
    /// somebody who has left. If nothing is heard of the hypervisor, then perhaps because nobody has
    /// asked: that is for those to find out who wait for something, unless nobody can be sent to ask.
    /// Nor does anybody notice where nobody waits that this process was stopped, and that answers are about to
    /// be taken: so it is given up only if it was overdue a moment ago as well.
    pub(super) fn give_up_unclaimed(&mut self, now: Instant) {
        // In an outage, what was asked before may just be late.
        if self.outage.is_some() || !(self.is_heard(now) || self.lacks_prober) {
            return;
        }
        self.cut_off(now);
        let moment = self.limits.held_up();
        if self.looked[0].is_none_or(|last| now.saturating_duration_since(last) >= moment) {
            self.looked = [Some(now), self.looked[0]];
        }
        let Some(before) = self.looked[1] else { return };
        let long = |since: Instant| before.saturating_duration_since(since) >= self.limits.timeout;
        let over = |task: &Task| task.started.is_some_and(long) && task.claimed == Parts::NONE;
        let over: Vec<Slot> =
            self.tasks.iter().filter(|(_, task)| over(task)).map(|(slot, _)| *slot).collect();
        // What an outage has cut off has its time after that.
        let since = |running: &Running| self.reachable_since.max(Some(running.started));
        let unjudged = |running: &Running| {
            let nobody_knows = !running.hangs() || self.hangs_unjudged(running);
            running.given_up() && nobody_knows && since(running).is_some_and(long)
        };
        let left: Vec<u64> =
            self.running.iter().filter(|(_, r)| unjudged(r)).map(|(id, _)| *id).collect();
        for slot in over {
            self.give_up(slot, now);
        }
        for id in left {
            self.blame(id);
        }
        for hung in self.quarantine.overdue(now, 2 * self.limits.timeout) {
            let after = now.saturating_duration_since(hung.since).as_secs();
            let instance = hung.instance;
            let line = format!(
                "instance {instance} is tried again, {after} s after it hung: libvirt does not say \
                 whether it answers"
            );
            self.tell(log::Level::Warn, line);
        }
    }

    /// Whether a call hangs in a guest that is not blamed for it: an outage was.
    pub(super) fn hangs_unjudged(&self, call: &Running) -> bool {
        call.hangs() && call.occupies_guest() && !self.quarantine.has(call.slot.uuid)
    }

    /// Gives up a task, and finds out who is to blame: the hypervisor, if nobody has heard anything
    /// from it of late, or else the guest.
    pub(super) fn give_up(&mut self, slot: Slot, now: Instant) {
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        self.health.timeouts += u64::from(task.claimed != Parts::NONE || slot.uuid != NO_INSTANCE);
        let Some(started) = task.started else {
            self.tasks.remove(&slot);
            if self.is_silent(now) {
                self.begin_silence(now);
            }
            return;
        };
        // It had to wait for its turn, and has hardly begun: nobody is to blame yet.
        if now.saturating_duration_since(started) < self.limits.timeout / 2 {
            task.claimed = Parts::NONE;
            return;
        }
        if self.is_silent(now) {
            return self.begin_silence(now);
        }
        self.abandon(slot);
        if slot.lane == Lane::Guest {
            // Those that have taken long by now are judged with it, or they would hold up their
            // callers one after the other.
            let long = |task: &Task| {
                let since = |started| now.saturating_duration_since(started);
                task.started.is_some_and(|started| since(started) >= self.limits.timeout / 2)
            };
            let others =
                self.tasks.iter().filter(|(slot, task)| slot.lane == Lane::Guest && long(task));
            for slot in others.map(|(slot, _)| *slot).collect::<Vec<_>>() {
                self.abandon(slot);
            }
        }
    }

    /// An outage, in which every call hangs.
    pub(super) fn begin_silence(&mut self, now: Instant) {
        self.running.values_mut().for_each(|running| running.becomes(Fate::Hangs));
        let long = self.limits.timeout / 2;
        let message = format!("libvirt has not answered for {long:?}");
        self.begin_outage(timed_out(message), now);
    }

    /// Leaves a task that is in flight to its thread, and its guest in quarantine.
    pub(super) fn abandon(&mut self, slot: Slot) {
        if let Some(task) = self.drop_task(slot) {
            self.blame(task.id);
        }
    }

    /// A call hangs; if it waits for a guest, that one goes into quarantine.
    fn blame(&mut self, id: u64) {
        let Some(running) = self.running.get_mut(&id) else { return };
        running.becomes(Fate::Hangs);
        if !running.waits_for_guest() {
            return;
        }
        let uuid = running.slot.uuid;
        self.habits.guest_answers(uuid, false, running.started);
        if self.quarantine.enter(&running.instance, id, running.started) {
            let (instance, timeout) = (&running.instance, self.limits.timeout);
            let line = format!(
                "instance {instance} hangs: it has not answered within {timeout:?}. Its state, CPU \
                 and NICs are still reported, its memory and disks once it answers again"
            );
            self.tell(log::Level::Warn, line);
        }
        // One that was taken for lost is out as well.
        let lost = |(_, call): &(&u64, &Running)| call.slot.uuid == uuid && call.fate == Fate::Lost;
        for (id, call) in self.running.iter().filter(lost) {
            self.quarantine.enter(&call.instance, *id, call.started);
        }
        // Nothing else is asked of it.
        let slot = Slot { lane: Lane::Guest, uuid };
        if self.tasks.get(&slot).is_some_and(|task| task.started.is_none()) {
            self.tasks.remove(&slot);
        }
    }

    /// Whether calls hang that do not even need the guest's process. One more is tried after a while,
    /// which is twice as long with each that is out, and while there are threads to lose.
    pub(super) fn is_stuck(&self, slot: Slot, now: Instant) -> bool {
        let alike = |call: &&Running| {
            let same = call.slot == slot || (call.slot.lane.is_list() && slot.lane.is_list());
            // What goes less far may be answered even so.
            let goes_less_far = slot.lane == Lane::Aside && call.reach != Reach::Priority;
            call.hangs() && !call.waits_for_guest() && same && !goes_less_far
        };
        let out = self.running.values().filter(alike);
        let Some(last) = out.clone().map(|running| running.started).max() else { return false };
        let others = out.count().saturating_sub(1);
        let again = 4 * self.limits.timeout * (1 << others.min(6));
        now.saturating_duration_since(last) < again || self.hanging() >= self.limits.max_stuck
    }

    /// Whether the hypervisor has answered anything of late.
    pub(in crate::collector) fn is_heard(&self, now: Instant) -> bool {
        let lately = self.limits.timeout / 2;
        self.heard.is_some_and(|heard| now.saturating_duration_since(heard) <= lately)
    }

    /// Whether it has answered nothing of late, although it was asked something, for long or, as
    /// opening a connection should take no time, just for a while.
    fn is_silent(&self, now: Instant) -> bool {
        // A guest may be the reason; nobody knows where nobody can ask for no guest.
        let asked = self.running.values().filter(|call| !call.hangs() && !self.lacks_prober);
        let asked = asked.map(|call| call.started);
        let long = |since| now.saturating_duration_since(since) >= self.limits.timeout / 2;
        let asked = asked.chain(self.probing).any(long) || self.connecting_slowly(now) > 0;
        asked && !self.is_heard(now)
    }
}

/// A failure in libvirt's terms, of an answer that has not come.
fn timed_out(message: String) -> Failure {
    // VIR_ERR_OPERATION_TIMEOUT, of VIR_FROM_NONE
    Failure::of_libvirt(68, 0, message)
}
