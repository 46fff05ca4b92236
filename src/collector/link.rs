//! A thread's connection: opened, looked after, and closed by that thread alone.

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::closing;
use super::shared::{Shared, State, nobody};
use crate::error::{Error, Result, may_be_remote};
use crate::hypervisor::{Connection, Hypervisor};

/// A thread that has had nothing to do for so long ends, and closes its connection.
pub(super) const IDLE: Duration = Duration::from_secs(10);

/// A connection over a network is not kept without use for longer: a firewall, or whatever else is in between, may have
/// forgotten it by the next call, which would never return, and whose guest would be blamed. More than most intervals of
/// scrapes.
const QUIET: Duration = Duration::from_secs(120);

/// What is known of a connection that is open.
#[derive(Clone, Copy)]
pub(super) struct Open {
    /// How often all had been closed, and how often there was an alarm, when it was opened or looked at.
    pub(super) closings: u64,
    /// How often another inspector had gone on.
    owners: u64,
    alarms: u64,
    pub(super) in_use: bool,
    /// Whether readings are taken over it; else it is the prober's.
    pub(super) serves: bool,
}

/// A thread's connection, or the place for one.
pub(super) struct Link<H: Hypervisor> {
    pub(super) shared: Arc<Shared<H>>,
    pub(super) number: u64,
    connection: Option<H::Connection>,
    /// When it was last opened, or a question was asked over it.
    used: Instant,
    /// Whether readings are taken over it.
    serves: bool,
}

impl<H: Hypervisor> Link<H> {
    pub(super) fn new(shared: Arc<Shared<H>>, number: u64, serves: bool) -> Self {
        Self { shared, number, connection: None, used: Instant::now(), serves }
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    /// Whether the connection is open and nothing speaks against it.
    pub(super) fn is_good(&self, state: &State) -> bool {
        let looked_at = |open: &Open| open.alarms == state.alarms;
        self.connection.as_ref().is_some_and(Connection::is_alive)
            && state.open.get(&self.number).is_some_and(looked_at)
    }

    /// Whether whatever is in between may forget it, as it has not been used for so long.
    pub(super) fn may_be_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) >= QUIET
            && may_be_remote(self.shared.hypervisor.load().uri())
    }

    /// Whether it was opened for the inspector that there is now, by its options.
    pub(super) fn is_its(&self, state: &State) -> bool {
        state.open.get(&self.number).is_some_and(|open| open.owners == state.owners)
    }

    /// Whether it is to be closed: all were, or nobody needs one any more.
    pub(super) fn is_over(&self, state: &State) -> bool {
        let open = state.open.get(&self.number);
        // The prober stays for as long as something hangs.
        let ended = state.ended && (self.serves || !state.has_calls_out());
        ended || open.is_some_and(|open| open.closings < state.closings)
    }

    /// Looks whether the connection serves, or opens one if there is none; false if it was broken.
    pub(super) fn make_good(&mut self) -> Result<bool> {
        let alarms = self.shared.lock().alarms;
        match &self.connection {
            None => {
                self.open()?;
                return Ok(true);
            }
            Some(connection) if !connection.is_alive() => self.broken(),
            Some(_) => {
                // Whatever it says, unless the connection breaks.
                let _ = self.ask(|connection| connection.is_free(&nobody()));
            }
        }
        if let Some(open) = self.shared.lock().open.get_mut(&self.number) {
            open.alarms = alarms;
        }
        Ok(self.connection.is_some())
    }

    /// Asks a question, over a new connection if there is none.
    pub(super) fn ask<T>(
        &mut self,
        question: impl FnOnce(&mut H::Connection) -> Result<T>,
    ) -> Result<T> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.open()?,
        };
        let answer = question(connection);
        self.used = Instant::now();
        if let Err(error @ Error::ConnectionLost { .. }) = &answer {
            let line = format!("a connection was lost: {error}");
            self.shared.lock().scheduler.tell(log::Level::Debug, line);
            self.broken();
        }
        answer
    }

    fn open(&mut self) -> Result<&mut H::Connection> {
        // What comes meanwhile, a closing or an alarm, is for this connection as well.
        let mut state = self.shared.lock();
        let (closings, owners, alarms) = (state.closings, state.owners, state.alarms);
        let hypervisor = self.shared.hypervisor.load_full();
        state.opening.insert(self.number, Instant::now());
        drop(state);
        let opened = match closing::too_many(hypervisor.uri()) {
            Some(failure) => {
                let uri = hypervisor.uri().to_owned();
                Err(Error::ConnectionLost { uri, instance: None, failure })
            }
            None => hypervisor.connect(),
        };
        let mut state = self.shared.lock();
        state.opening.remove(&self.number);
        if let Err(Error::ConnectionLost { failure, .. }) = &opened {
            self.shared.refused(&mut state, failure);
        }
        let connection = opened?;
        let (serves, in_use) = (self.serves, !self.serves);
        state.open.insert(self.number, Open { closings, owners, alarms, in_use, serves });
        let serving = state.serving();
        state.scheduler.opened(serving, Instant::now());
        drop(state);
        self.used = Instant::now();
        Ok(self.connection.insert(connection))
    }

    fn broken(&mut self) {
        self.shared.lock().scheduler.broke(Instant::now());
        self.hang_up();
    }

    fn hang_up(&mut self) {
        if let Some(connection) = self.connection.take() {
            let hypervisor = self.shared.hypervisor.load_full();
            let (is_alive, since) = (connection.is_alive(), closing::begin(hypervisor.uri()));
            drop(connection);
            closing::end(hypervisor.uri(), since, is_alive);
            self.shared.lock().open.remove(&self.number);
            self.shared.closed.notify_all();
        }
    }

    /// Hangs up as the last thing that a thread does. If too many are at that already, because a
    /// daemon does not answer it, the connection is left open: threads are bounded.
    pub(super) fn leave(mut self, mut state: MutexGuard<'_, State>) {
        if state.leaving >= state.scheduler.limits().threads() {
            state.open.remove(&self.number);
            if let Some(connection) = self.connection.take() {
                closing::begin(self.shared.hypervisor.load().uri());
                std::mem::forget(connection);
            }
            return;
        }
        state.leaving += 1;
        drop(state);
        self.hang_up();
        self.shared.lock().leaving -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::Libvirt;
    use crate::limits::Limits;

    #[test]
    fn only_what_is_in_between_may_forget_a_connection() {
        for (uri, may_forget) in [
            ("qemu+tls://host/system", true),
            ("qemu://host/system", true),
            ("qemu+ssh://host/system", true),
            // An alias of libvirt's, or its own choice.
            ("an-alias", true),
            ("", true),
            ("qemu:///system", false),
            ("qemu+unix:///system?socket=/s", false),
        ] {
            let shared = Shared::new(Arc::new(Libvirt::new(uri, false)), Limits::default());
            let link = Link::new(Arc::new(shared), 1, true);
            for (seconds, is_long) in [(0, false), (119, false), (120, true), (3600, true)] {
                let now = link.used + Duration::from_secs(seconds);
                assert_eq!(link.may_be_forgotten(now), is_long && may_forget, "{uri} {seconds}");
            }
        }
    }
}
