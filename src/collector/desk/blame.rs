//! What is given up, and who is to blame: the guest, its call, or the hypervisor.

use std::time::{Duration, Instant};

use super::super::Key;
use super::{Desk, Flight, Running, Ticket};
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
            return Error::ConnectionLost {
                uri: self.uri.clone(),
                instance: None,
                failure: silence(self.limits.timeout),
            };
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
        let stuck = self.running.values().filter(|running| running.guest && running.hangs);
        stuck.count() >= self.limits.waiting_for_guests()
    }

    /// Gives up what nobody waits for. If nothing is heard of the hypervisor, then perhaps because
    /// nobody has asked: that is for those to find out who wait for something.
    pub(super) fn give_up_unclaimed(&mut self, now: Instant) {
        let over = |flight: &Flight<R>| {
            let started = flight.started.filter(|_| !flight.claimed && flight.outcome.is_none());
            started.is_some_and(|s| {
                now.saturating_duration_since(s) >= self.limits.timeout && self.is_heard(now)
            })
        };
        let over: Vec<Key> =
            self.flights.iter().filter(|(_, flight)| over(flight)).map(|(key, _)| *key).collect();
        for key in over {
            self.give_up(key, now);
        }
    }

    /// Gives up a flight, and finds out who is to blame: the hypervisor, if nobody has heard
    /// anything from it of late, or else the guest.
    pub(super) fn give_up(&mut self, key: Key, now: Instant) {
        let Some(flight) = self.flights.get_mut(&key) else { return };
        self.health.timeouts += 1;
        let Some(started) = flight.started else {
            self.flights.remove(&key);
            if !self.is_heard(now) {
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
        if !self.is_heard(now) {
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
        self.running.values_mut().for_each(|running| running.hangs = true);
        self.begin_outage(silence(self.limits.timeout), now);
    }

    /// Leaves a running flight to its thread, and its guest in quarantine.
    pub(super) fn abandon(&mut self, key: Key) {
        let Some(flight) = self.drop_flight(key) else { return };
        let Some(running) = self.running.get_mut(&flight.id) else { return };
        running.hangs = true;
        if !running.guest {
            return;
        }
        if self.quarantine.enter(&flight.instance, flight.id, running.started) {
            let (instance, timeout) = (&flight.instance, self.limits.timeout);
            let line = format!(
                "instance {instance} hangs: it has not answered within {timeout:?}. Its state, CPU \
                 and NICs are still reported; memory and disks when it answers again"
            );
            self.tell(log::Level::Warn, line);
        }
        // Nothing else is asked of it.
        let uuid = key.uuid;
        self.flights.retain(|key, flight| {
            key.uuid != uuid || !key.kind.needs_guest() || flight.started.is_some()
        });
    }

    /// Whether calls hang that do not even need the guest's process. One more is tried after a while,
    /// and that is all, or one instance would take all threads.
    pub(super) fn is_stuck(&self, key: Key, now: Instant) -> bool {
        let alike = |running: &&Running| running.hangs && !running.guest && running.key == key;
        let stuck = self.running.values().filter(alike);
        let last = stuck.clone().map(|running| running.started).max();
        let again = 4 * self.limits.timeout;
        stuck.count() > 1 || last.is_some_and(|s| now.saturating_duration_since(s) < again)
    }

    /// Whether the hypervisor has answered anything of late.
    pub(in crate::collector) fn is_heard(&self, now: Instant) -> bool {
        let lately = self.limits.timeout / 2;
        self.heard.is_some_and(|heard| now.saturating_duration_since(heard) <= lately)
    }
}

/// The failure of a hypervisor that says nothing.
fn silence(timeout: Duration) -> Failure {
    Failure {
        // VIR_ERR_OPERATION_TIMEOUT, of VIR_FROM_NONE
        code: 68,
        domain: 0,
        message: format!("libvirt has not answered anything within {timeout:?}"),
    }
}
