//! What is given up, and who is to blame: the guest, its call, or the hypervisor.

use std::time::Instant;

use super::super::Key;
use super::{Desk, Fate, Flight, Running, Ticket};
use crate::error::{Error, Failure};

impl<R> Desk<R> {
    /// What can be said at once: there is no connection, or the guest hangs.
    pub(super) fn answer_without_reading(&self, ticket: &Ticket, now: Instant) -> Option<Error> {
        if let Some(outage) = &self.outage {
            return Some(Error::ConnectionLost {
                uri: self.uri.clone(),
                instance: (!ticket.key.uuid.is_nil()).then(|| ticket.instance.clone()),
                failure: outage.failure.clone(),
            });
        }
        let needs_guest = !ticket.key.kind.knows_hung();
        let why = if needs_guest && self.quarantine.has(ticket.key.uuid) {
            "its guest hangs. It is asked again as soon as it answers; look at its process and \
             storage"
        } else if needs_guest && self.too_many_hang() {
            "so many guests hang that no thread is left to wait for more"
        } else if self.stuck() + self.dialing_in_vain(now) >= self.limits.threads() {
            "so many calls hang that no thread is left to make more"
        } else {
            return None;
        };
        Some(self.timeout(ticket, why))
    }

    pub(super) fn timeout(&self, ticket: &Ticket, why: &str) -> Error {
        if ticket.key.uuid.is_nil() {
            let message = format!("it was not read within {:?}: {why}", self.limits.timeout);
            return Error::NoList { uri: self.uri.clone(), failure: timed_out(message) };
        }
        Error::Timeout {
            instance: ticket.instance.clone(),
            timeout: self.limits.timeout,
            why: why.to_owned(),
        }
    }

    /// Whether the question is one for the guest, and the guest is not to be asked.
    pub(super) fn must_not_wait_for_guest(&self, key: Key) -> bool {
        key.kind.needs_guest() && (self.quarantine.has(key.uuid) || self.too_many_hang())
    }

    /// Whether every thread that may wait for a guest does so in vain. Then nobody is asked any more
    /// whether he hangs as well: finding out would cost each caller the whole timeout.
    pub(super) fn too_many_hang(&self) -> bool {
        let stuck = self.running.values().filter(|running| running.guest && running.hangs());
        stuck.count() >= self.limits.waiting_for_guests()
    }

    /// Gives up what nobody waits for: readings that are taken ahead, and calls that are out for
    /// somebody who has left. If nothing is heard of the hypervisor, then perhaps because nobody has
    /// asked: that is for those to find out who wait for something.
    pub(super) fn give_up_unclaimed(&mut self, now: Instant) {
        if !self.is_heard(now) {
            return;
        }
        let long = |since: Instant| now.saturating_duration_since(since) >= self.limits.timeout;
        let over = |flight: &Flight<R>| {
            flight.started.is_some_and(long) && !flight.claimed && flight.outcome.is_none()
        };
        let over: Vec<Key> =
            self.flights.iter().filter(|(_, flight)| over(flight)).map(|(key, _)| *key).collect();
        // What an outage has cut off has its time after that.
        let since = |running: &Running| self.reachable_since.max(Some(running.started));
        let unjudged = |running: &Running| {
            let free = running.occupies_guest() && !self.quarantine.has(running.key.uuid);
            running.given_up() && (!running.hangs() || free) && since(running).is_some_and(long)
        };
        let left: Vec<u64> =
            self.running.iter().filter(|(_, r)| unjudged(r)).map(|(id, _)| *id).collect();
        for key in over {
            self.give_up(key, now);
        }
        for id in left {
            self.blame(id);
        }
        for hung in self.quarantine.overdue(now, 2 * self.limits.timeout) {
            let after = now.saturating_duration_since(hung.since).as_secs();
            let instance = hung.instance;
            let line = format!(
                "instance {instance} is tried again, {after} s after it hung: nothing says whether \
                 it answers"
            );
            self.tell(log::Level::Warn, line);
        }
    }

    /// Gives up a flight, and finds out who is to blame: the hypervisor, if nobody has heard
    /// anything from it of late, or else the guest.
    pub(super) fn give_up(&mut self, key: Key, now: Instant) {
        let Some(flight) = self.flights.get_mut(&key) else { return };
        self.health.timeouts += 1;
        let Some(started) = flight.started else {
            self.flights.remove(&key);
            if self.is_silent(now) {
                self.begin_silence(now);
            }
            return;
        };
        // It had to wait for its turn, and has hardly begun: nobody is to blame yet.
        if now.saturating_duration_since(started) < self.limits.timeout / 2 {
            flight.claimed = false;
            flight.ahead = true;
            return;
        }
        if self.is_silent(now) {
            self.begin_silence(now);
        } else if key.kind.needs_guest() {
            self.abandon(key);
            // Those that have taken long by now are judged with it, or they would hold up their
            // callers one after the other.
            let long = |flight: &Flight<R>| {
                let started = flight.started.filter(|_| flight.outcome.is_none());
                started.is_some_and(|s| now.saturating_duration_since(s) >= self.limits.timeout / 2)
            };
            let others: Vec<Key> = self
                .flights
                .iter()
                .filter(|(key, flight)| key.kind.needs_guest() && long(flight))
                .map(|(key, _)| *key)
                .collect();
            for key in others {
                self.abandon(key);
            }
        } else {
            self.abandon(key);
        }
    }

    /// An outage, in which every call hangs.
    fn begin_silence(&mut self, now: Instant) {
        self.running.values_mut().for_each(|running| running.becomes(Fate::Hangs));
        let long = self.limits.timeout / 2;
        let message = format!("libvirt has answered nothing for {long:?}");
        self.begin_outage(timed_out(message), now);
    }

    /// Leaves a running flight to its thread, and its guest in quarantine.
    pub(super) fn abandon(&mut self, key: Key) {
        if let Some(flight) = self.drop_flight(key) {
            self.blame(flight.id);
        }
    }

    /// A call hangs; if it waits for a guest, that one goes into quarantine.
    fn blame(&mut self, id: u64) {
        let Some(running) = self.running.get_mut(&id) else { return };
        running.becomes(Fate::Hangs);
        if !running.guest {
            return;
        }
        let uuid = running.key.uuid;
        if self.quarantine.enter(&running.instance, id, running.started) {
            let (instance, timeout) = (&running.instance, self.limits.timeout);
            let line = format!(
                "instance {instance} hangs: it has not answered within {timeout:?}. Its state, CPU \
                 and NICs are still reported; memory and disks when it answers again"
            );
            self.tell(log::Level::Warn, line);
        }
        // One that was taken for lost is out as well.
        let lost = |(_, call): &(&u64, &Running)| call.key.uuid == uuid && call.fate == Fate::Lost;
        for (id, call) in self.running.iter().filter(lost) {
            self.quarantine.enter(&call.instance, *id, call.started);
        }
        // Nothing else is asked of it.
        self.flights.retain(|key, flight| {
            key.uuid != uuid || !key.kind.needs_guest() || flight.started.is_some()
        });
    }

    /// Whether calls hang that do not even need the guest's process. One more is tried after a while,
    /// which is twice as long with each that is out, and while there are threads to lose.
    pub(super) fn is_stuck(&self, key: Key, now: Instant) -> bool {
        let alike = |running: &&Running| running.hangs() && !running.guest && running.key == key;
        let out = self.running.values().filter(alike);
        let Some(last) = out.clone().map(|running| running.started).max() else { return false };
        let others = out.count().saturating_sub(1).min(6);
        let again = 4 * self.limits.timeout.saturating_mul(1 << others);
        now.saturating_duration_since(last) < again || self.stuck() >= self.limits.max_stuck
    }

    /// Whether the hypervisor has answered anything of late.
    pub(in crate::collector) fn is_heard(&self, now: Instant) -> bool {
        let lately = self.limits.timeout / 2;
        self.heard.is_some_and(|heard| now.saturating_duration_since(heard) <= lately)
    }

    /// Whether it has answered nothing of late, although it was asked something, for long or, as
    /// opening a connection should take no time, just for a while.
    fn is_silent(&self, now: Instant) -> bool {
        let asked = self.running.values().filter(|running| !running.hangs()).map(|r| r.started);
        let long = |since| now.saturating_duration_since(since) >= self.limits.timeout / 2;
        let asked = asked.chain(self.probing).any(long) || self.dialing_slowly(now) > 0;
        asked && !self.is_heard(now)
    }
}

/// A failure in libvirt's terms, of an answer that has not come.
fn timed_out(message: String) -> Failure {
    // VIR_ERR_OPERATION_TIMEOUT, of VIR_FROM_NONE
    Failure { code: 68, domain: 0, message }
}
