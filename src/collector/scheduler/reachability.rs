//! Whether the hypervisor can be reached, and whether guests that hung answer again.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use uuid::Uuid;

use super::super::outage::Outage;
use super::super::quarantine::Hung;
use super::super::{Key, Kind, NO_INSTANCE};
use super::{Fate, Lane, MINUTE, Running, Scheduler, Slot};
use crate::error::{Error, Failure, Result};
use crate::hypervisor::Parts;
use crate::records::InstanceId;

/// What the probing thread does next.
pub(in crate::collector) enum Probe {
    /// Nothing, until it is woken.
    Rest,
    /// Nothing, until then.
    Wait(Instant),
    /// Whether the hypervisor can be reached.
    Reach,
    /// Whether this instance's guest answers.
    Ask(InstanceId),
}

/// An instance after which a probing thread has asked, and has not come back.
pub(super) struct Locked {
    instance: InstanceId,
    since: Instant,
    /// Whether a call about it has come back since.
    pub(super) answers: bool,
}

/// What an outage has cut off, or was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum CutOff {
    /// A reading, by the number of its task.
    Reading(u64),
    /// A connection that is opened, by the number of its thread.
    Opening(u64),
}

/// So much that was cut off is not counted any more: each has a thread, and threads are bounded.
pub(in crate::collector) const MOST_CUT_OFF: usize = 64;

impl<R> Scheduler<R> {
    /// What the probing thread does now.
    /// (One that is `careful` asks after no guest: that call may hang as well. One that `gives_way` uses no
    /// connection but to end an outage. One that is not connected asks about nobody first.)
    pub(in crate::collector) fn probe(
        &mut self,
        now: Instant,
        careful: bool,
        gives_way: bool,
        is_connected: bool,
    ) -> Probe {
        let mut next = self.next_probe(now, careful, gives_way);
        match next {
            // A connection that does not come says nothing of the instance.
            Probe::Ask(instance) if !is_connected && instance.uuid != NO_INSTANCE => {
                self.to_probe.push_front(instance);
                next = Probe::Ask(NO_INSTANCE.into());
            }
            _ => {}
        }
        if matches!(&next, Probe::Reach)
            || matches!(&next, Probe::Ask(id) if id.uuid == NO_INSTANCE)
        {
            self.probing.get_or_insert(now);
        }
        next
    }

    fn next_probe(&mut self, now: Instant, careful: bool, gives_way: bool) -> Probe {
        if let Some(outage) = &self.outage {
            return if now < outage.next_try { Probe::Wait(outage.next_try) } else { Probe::Reach };
        }
        if gives_way {
            self.asked_by_prober(false);
            let pause = self.limits.probe_pause();
            return if self.wants_probe(now) { Probe::Wait(now + pause) } else { Probe::Rest };
        }
        if careful {
            self.to_probe.retain(|instance| instance.uuid == NO_INSTANCE);
        }
        self.look_for_locks(now, careful);
        if let Some(instance) = self.to_probe.pop_front() {
            return Probe::Ask(instance);
        }
        if !self.wants_probe(now) {
            self.next_probe = None;
            return Probe::Rest;
        }
        match self.next_probe {
            Some(next) if now < next => Probe::Wait(next),
            _ => {
                self.next_probe = Some(now + self.limits.probe_pause());
                // First whether the hypervisor answers at all: to a question about nobody, as one
                // about a guest may have to wait for whoever waits for it.
                self.to_probe = VecDeque::from([NO_INSTANCE.into()]);
                if !careful {
                    let guests = self.quarantine.probed().map(|hung| &hung.instance);
                    let guests = guests.filter(|guest| !self.locked.contains_key(&guest.uuid));
                    self.to_probe.extend(guests.cloned());
                    let aside: HashSet<Uuid> = self
                        .hangs_aside()
                        .filter(|uuid| {
                            !self.quarantine.has(*uuid) && !self.locked.contains_key(uuid)
                        })
                        .collect();
                    self.to_probe.extend(aside.into_iter().map(InstanceId::from));
                }
                self.to_probe.pop_front().map_or(Probe::Rest, Probe::Ask)
            }
        }
    }

    /// Has every instance asked after once, while a list of them hangs: libvirt waits for the lock of one
    /// of them, and who asks about that one by itself waits as well.
    fn look_for_locks(&mut self, now: Instant, careful: bool) {
        let again = 2 * self.limits.timeout;
        let lately = |then: Instant| now.saturating_duration_since(then) < again;
        if careful || self.list_hangs_since(now).is_none() || self.searched.is_some_and(lately) {
            return;
        }
        self.searched = Some(now);
        let known = self.listed.iter().filter(|instance| !self.locked.contains_key(&instance.uuid));
        self.to_probe.extend([NO_INSTANCE.into()]);
        self.to_probe.extend(known.cloned());
    }

    /// A probing thread is stuck with this instance: no other one is to ask after it. The question needs
    /// nothing but libvirt's own lock of it.
    pub(in crate::collector) fn leave_unprobed(&mut self, instance: &InstanceId, now: Instant) {
        self.quarantine.leave_unprobed(instance.uuid);
        // Both its guest and the list may be a reason to ask.
        self.to_probe.retain(|other| other.uuid != instance.uuid);
        // Where no other thread can be started, this is said of the same question again and again.
        let is_known = self.locked.contains_key(&instance.uuid);
        if instance.uuid != NO_INSTANCE && !is_known {
            let locked = Locked { instance: instance.clone(), since: now, answers: false };
            self.locked.insert(instance.uuid, locked);
            let line = format!(
                "libvirt is waiting for instance {instance} and reports nothing about it until then: it \
                 may be about to be killed, or its storage may not answer"
            );
            self.tell(log::Level::Warn, line);
        }
    }

    /// The instances about which nothing has come back since.
    pub(super) fn locked(&self) -> impl Iterator<Item = &InstanceId> {
        self.locked.values().filter(|locked| !locked.answers).map(|locked| &locked.instance)
    }

    /// Whether a call about this instance has come back since a question after it has not.
    pub(in crate::collector) fn has_answered_since(&self, instance: Uuid) -> bool {
        self.locked.get(&instance).is_some_and(|locked| locked.answers)
    }

    /// Whether nothing is to be asked about an instance as libvirt waits for it. The question after it may be
    /// lost: so it is tried again after a while, unless another call about it is out.
    pub(super) fn is_locked(&self, instance: Uuid, now: Instant) -> bool {
        let Some(locked) = self.locked.get(&instance) else { return false };
        let hangs = |call: &Running| call.slot.uuid == instance && call.hangs();
        let lately = now.saturating_duration_since(locked.since) < 4 * self.limits.timeout;
        !locked.answers && (lately || self.running.values().any(hangs))
    }

    /// Whether the probing thread has something to do.
    pub(in crate::collector) fn wants_probe(&self, now: Instant) -> bool {
        self.outage.is_some()
            || self.quarantine.all().next().is_some()
            || self.hangs_aside().next().is_some()
            || self.running.values().any(|call| self.hangs_unjudged(call))
            || self.is_slow(now)
            || self.list_hangs_since(now).is_some()
    }

    /// Whether somebody has waited for long.
    pub(super) fn is_slow(&self, now: Instant) -> bool {
        let slow = |running: &Running| !running.hangs() && self.is_slow_since(running.started, now);
        self.running.values().any(slow) || self.connecting_slowly(now) > 0
    }

    /// Somebody waits for the instance's guest, or nobody.
    pub(in crate::collector) fn probed(
        &mut self,
        instance: &InstanceId,
        answer: &Result<Option<bool>>,
        now: Instant,
    ) {
        if matches!(answer, Err(Error::ConnectionLost { .. })) {
            if instance.uuid == NO_INSTANCE {
                self.to_probe.clear(); // until it is time again
            }
            return self.probe_again(instance);
        }
        if instance.uuid == NO_INSTANCE {
            self.probing = None;
        }
        self.locked.remove(&instance.uuid);
        let mut what = "is read again";
        let out = match answer {
            Ok(Some(false)) => {
                self.quarantine.busy(instance.uuid, now);
                None
            }
            Ok(Some(true)) => {
                let to_lose = self.hanging() < self.limits.max_stuck;
                self.quarantine.free(instance.uuid, now, 2 * self.limits.timeout, to_lose)
            }
            Err(Error::InstanceNotFound { gone: true, .. } | Error::InstanceShutOff { .. }) => {
                what = "is gone or shut off";
                self.quarantine.release(instance.uuid)
            }
            // The hypervisor does not tell: it is free when the call that was stuck has returned.
            Ok(None) | Err(_) => self.quarantine.untold(instance.uuid, now),
        };
        self.is_there(now);
        if let Some(Hung { instance, since, stuck, .. }) = out {
            for id in stuck {
                if let Some(lost) = self.running.get_mut(&id) {
                    lost.becomes(Fate::Lost);
                }
            }
            let after = now.saturating_duration_since(since).as_secs();
            let line = format!("instance {instance} {what}, {after} s after it hung");
            // What was read around its guest is less than can be read now.
            for kind in [Kind::Stats, Kind::Counters] {
                self.ready.remove(&Key { kind, uuid: instance.uuid });
            }
            let slot = Slot { lane: Lane::Aside, uuid: instance.uuid };
            if self.tasks.get(&slot).is_some_and(|task| task.claimed == Parts::NONE) {
                self.drop_task(slot);
            }
            self.tell(log::Level::Warn, line);
        }
    }

    /// A question after it was lost with its connection: another one may be asked.
    pub(in crate::collector) fn probe_again(&mut self, instance: &InstanceId) {
        if instance.uuid == NO_INSTANCE {
            self.probing = None;
        }
        self.locked.remove(&instance.uuid);
        self.quarantine.probe_again(instance.uuid);
    }

    /// A thread opens a connection, or looks whether its own is good.
    pub(in crate::collector) fn connects(&mut self, thread: u64, now: Instant) {
        self.idle -= 1;
        self.connecting.insert(thread, now);
    }

    /// It is done with that, with a good connection or without.
    pub(in crate::collector) fn has_connected(&mut self, thread: u64, good: bool, now: Instant) {
        self.idle += 1;
        if self.connecting.remove(&thread).is_none() {
            // One that connects late has found a host that was started meanwhile, perhaps.
            self.is_back(CutOff::Opening(thread), false);
        }
        if good {
            self.reached(Ok(()), now);
        }
    }

    /// A connection was opened, by whomever, so that so many serve.
    pub(in crate::collector) fn opened(&mut self, serving: usize, now: Instant) {
        self.health.opened += 1;
        self.opened = Some(now);
        if serving > 0 {
            self.crowded = None;
        }
    }

    /// A round trip has ended then, as a part of a reading maybe.
    pub(in crate::collector) fn hear(&mut self, at: Option<Instant>) {
        // One that has broken its connection was no answer.
        let answered = at.filter(|at| self.broken.is_none_or(|broken| *at > broken));
        if let Some(at) = answered {
            self.is_there(at);
        }
    }

    /// When the hypervisor has answered anything for the last time.
    pub(in crate::collector) fn heard(&self) -> Option<Instant> {
        self.heard
    }

    /// A connection broke: who counted on it may have to open another.
    pub(in crate::collector) fn broke(&mut self, now: Instant) {
        self.health.broken += 1;
        self.broken = Some(now);
        self.connect_again = None;
    }

    /// Whether a thread without a connection should open one.
    pub(in crate::collector) fn is_worth_connecting(&self, now: Instant) -> bool {
        self.startable(1) > 0 && self.may_connect(now)
    }

    /// Whether it makes sense to try: not while others have waited for long, or were refused.
    pub(super) fn may_connect(&self, now: Instant) -> bool {
        let waits = |since: Instant| {
            // Others that came later have one, or it is so long ago that it is lost.
            let lost = self.opened.is_some_and(|opened| since < opened)
                || now.saturating_duration_since(since) >= 2 * self.limits.timeout;
            self.is_slow_since(since, now) && !lost
        };
        self.connecting.values().filter(|since| waits(**since)).count() < 2
            && self.connect_again.is_none_or(|again| now >= again)
    }

    /// Since when threads wait for a connection that do so for so long that they may never have one.
    pub(super) fn connecting_in_vain(&self, now: Instant) -> impl Iterator<Item = Instant> {
        let timeout = self.limits.timeout;
        let long = move |since: &Instant| now.saturating_duration_since(*since) >= timeout;
        self.connecting.values().copied().filter(long)
    }

    pub(super) fn connecting_slowly(&self, now: Instant) -> usize {
        self.connecting.values().filter(|since| self.is_slow_since(**since, now)).count()
    }

    pub(super) fn is_slow_since(&self, since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) >= self.limits.slow()
    }

    /// A connection could not be opened while so many were good, and so many of them served. That is an
    /// outage if none serves; else there may just be too many. (One that breaks is no outage: the
    /// reading may be to blame.)
    pub(in crate::collector) fn refused(
        &mut self,
        failure: &Failure,
        good: usize,
        serving: usize,
        now: Instant,
    ) {
        if good > 0 {
            self.crowded = Some(now);
        }
        if serving == 0 {
            self.begin_outage(failure.clone(), now);
        } else {
            self.connect_again = Some(now + self.limits.probe_pause());
            self.tell(log::Level::Debug, format!("cannot open another connection: {failure}"));
        }
    }

    /// Whether there may be no more connections than there are: it is not long since one was refused.
    pub(in crate::collector) fn is_crowded(&self, now: Instant) -> bool {
        self.crowded.is_some_and(|then| now.saturating_duration_since(then) < MINUTE)
    }

    /// The probe has reached the hypervisor, or not.
    pub(in crate::collector) fn reached(&mut self, answer: Result<()>, now: Instant) {
        self.probing = None;
        if let Err(Error::ConnectionLost { failure, .. }) = answer {
            if let Some(outage) = &mut self.outage {
                outage.goes_on(failure, now);
                // Whatever it has answered in between.
                self.may_have_cut_off = Some(now);
            }
        } else {
            self.end_outage(now);
            self.is_there(now);
        }
    }

    /// It has answered something then.
    pub(super) fn is_there(&mut self, at: Instant) {
        self.heard = self.heard.max(Some(at));
        // An outage is also over where all connections were closed in it.
        let began = self.may_have_cut_off;
        if self.outage.is_none() && began > self.reachable_since && began <= Some(at) {
            self.reachable_since = Some(at);
        }
    }

    /// Calls that were begun before this do not come back: the hypervisor has been away since, and has been
    /// there again for a while, or no thread is left beside them. A host that was reset says nothing to those that
    /// waited.
    pub(in crate::collector) fn cut_off_before(&self, now: Instant) -> Option<Instant> {
        let back = self.reachable_since.filter(|_| self.outage.is_none())?;
        let long = now.saturating_duration_since(back) >= 2 * self.limits.timeout
            || (now.saturating_duration_since(back) >= self.limits.slow()
                && self.threads_left(now) == 0);
        let before = match self.may_have_cut_off {
            Some(began) => Some(back).filter(|back| *back > began),
            // The last outage was a mere silence; the one before may not have been.
            None => self.may_have_cut_off_before,
        };
        before.filter(|_| long)
    }

    /// A call was answered that was begun then, over a connection of before. If that was out when the
    /// outage began, the hypervisor was merely silent: whatever still hangs there does so for a reason of
    /// its own, and one more would hang as well.
    pub(in crate::collector) fn has_outlived_outage(&mut self, begun: Instant) {
        for outage in [&mut self.may_have_cut_off, &mut self.may_have_cut_off_before] {
            outage.take_if(|outage| begun < *outage);
        }
    }

    /// Counts no more on threads that do not come back: others take their places. Who is in a guest is
    /// there until that one is free.
    pub(in crate::collector) fn cut_off(&mut self, now: Instant) {
        let Some(before) = self.cut_off_before(now) else { return };
        let readings = self
            .running
            .iter()
            .filter(|(_, call)| call.hangs() && !call.occupies_guest() && call.started < before);
        let readings = readings.map(|(id, _)| CutOff::Reading(*id));
        let opening = self.connecting.iter().filter(|(_, since)| **since < before);
        let opening = opening.map(|(thread, _)| CutOff::Opening(*thread));
        self.count_no_more(readings.chain(opening).collect(), now);
    }

    /// A guest has answered: a call about it that was taken for lost is, and another thread takes the place of its own.
    pub(super) fn cut_off_lost(&mut self, instance: Uuid, now: Instant) {
        let is_lost = |call: &Running| call.slot.uuid == instance && call.fate == Fate::Lost;
        let lost = self.running.iter().filter(|(_, call)| is_lost(call));
        self.count_no_more(lost.map(|(id, _)| CutOff::Reading(*id)).collect(), now);
    }

    /// Counts no more on these.
    fn count_no_more(&mut self, all: Vec<CutOff>, now: Instant) {
        let room = MOST_CUT_OFF.saturating_sub(self.cut_off.len());
        for out in all.into_iter().take(room) {
            let started = match out {
                CutOff::Reading(id) => self.running.remove(&id).map(|call| {
                    self.quarantine.returned(call.slot.uuid, id);
                    call.started
                }),
                CutOff::Opening(thread) => self.connecting.remove(&thread),
            };
            self.cut_off.insert(out, started.unwrap_or(now));
            self.threads -= 1;
        }
    }

    /// Whether an outage has cut off a thread that looked whether its connection is good.
    pub(in crate::collector) fn is_cut_off(&self, thread: u64) -> bool {
        self.cut_off.contains_key(&CutOff::Opening(thread))
    }

    /// It has come back after all, with an answer maybe.
    pub(super) fn is_back(&mut self, out: CutOff, has_answered: bool) {
        let Some(started) = self.cut_off.remove(&out) else { return };
        self.threads += 1;
        if has_answered {
            self.has_outlived_outage(started);
        }
    }

    /// Since when there is an outage.
    pub(in crate::collector) fn away_since(&self) -> Option<Instant> {
        self.outage.as_ref().map(|outage| outage.since)
    }

    pub(in crate::collector) fn is_reachable(&self) -> bool {
        self.outage.is_none()
    }

    pub(super) fn begin_outage(&mut self, failure: Failure, now: Instant) {
        self.drop_readings(|_| true);
        self.to_probe.clear();
        if self.outage.is_none() {
            let line =
                format!("no connection to {}: {failure}; virtmeter keeps trying", self.place());
            self.tell(log::Level::Warn, line);
            self.outage = Some(Outage::new(failure, now));
            if let Some(last) = self.may_have_cut_off.replace(now) {
                let over = self.reachable_since.filter(|back| *back > last);
                self.may_have_cut_off_before = over.or(self.may_have_cut_off_before);
            }
        }
    }

    pub(super) fn end_outage(&mut self, now: Instant) {
        if let Some(outage) = self.outage.take() {
            let after = now.saturating_duration_since(outage.since).as_secs();
            let line = format!("reconnected to {} after {after} s", self.place());
            self.tell(log::Level::Info, line);
            self.reachable_since = Some(now);
        }
    }
}
