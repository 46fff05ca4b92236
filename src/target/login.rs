//! One session for a server, shared by all: renewed once where it is over, and never tried again with a
//! password that was refused (accounts are locked). Nobody waits for a login for longer than they may.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::account;
use super::{Password, PasswordSource, Secret, Target, Trust};
use crate::error::{Error, Failure, Result};
use crate::locks::lock;
use crate::printable::Printable;

/// Until it is looked again whether a login is over.
const MOMENT: Duration = Duration::from_millis(10);

/// Whoever comes at the last moment has that long, too.
const SHORTEST: Duration = Duration::from_millis(100);

/// After a session that was over at once, there is no other one for that long.
const PAUSE: Duration = Duration::from_secs(10);

/// A server that is logged in to when that is needed.
pub(crate) struct Server<S> {
    pub(crate) target: Target,
    password: PasswordSource,
    /// Held while somebody logs in, which may take minutes.
    state: Mutex<State<S>>,
    account: account::Shared,
    opened: AtomicU64,
    failed: AtomicU64,
    is_open: AtomicBool,
    /// How often it was closed.
    closed: AtomicU64,
    /// What the log is to say.
    lines: Mutex<Vec<String>>,
    calls: Mutex<BTreeMap<&'static str, u64>>,
}

struct State<S> {
    session: Option<Arc<S>>,
    /// When one was last renewed in vain.
    renewed_in_vain: Option<Instant>,
    passwords: Passwords,
}

/// How its logins have gone so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sessions {
    /// How often it has logged in.
    pub(crate) opened: u64,
    /// How often it could not, for another reason than a wrong password.
    pub(crate) failed: u64,
    /// Whether it is logged in now.
    pub(crate) is_open: bool,
}

/// Why there is no session.
pub(crate) enum NotLoggedIn {
    /// User name or password are wrong, in these words.
    Refused(&'static str),
    Failed(Error),
}

/// What has become of a session that is over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// It was forgotten: the next who asks logs in.
    Forgotten,
    /// There is another by now, or is going to be.
    Replaced,
    /// It stays, as the last one was renewed in vain just now.
    Kept,
}

impl<S> Server<S> {
    pub(crate) fn new(target: Target, password: PasswordSource) -> Self {
        let passwords = Passwords::default();
        let account = account::of(&target);
        Self {
            target,
            password,
            account,
            state: Mutex::new(State { session: None, renewed_in_vain: None, passwords }),
            opened: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            is_open: AtomicBool::new(false),
            closed: AtomicU64::new(0),
            lines: Mutex::default(),
            calls: Mutex::default(),
        }
    }

    /// The URI for messages.
    pub(crate) fn uri(&self) -> String {
        self.target.place()
    }

    /// The server, or a host behind it, cannot be read, and why.
    pub(crate) fn lost(&self, why: &str) -> Error {
        let failure = Failure::of(why);
        Error::ConnectionLost { uri: self.uri(), instance: None, failure }
    }

    /// Counts a round trip.
    pub(crate) fn count(&self, call: &'static str) {
        *lock(&self.calls).entry(call).or_default() += 1;
    }

    /// Round trips, by the names of the calls.
    pub(crate) fn calls(&self) -> Vec<(&'static str, u64)> {
        lock(&self.calls).iter().map(|(name, count)| (*name, *count)).collect()
    }

    /// How its logins have gone so far.
    pub(crate) fn sessions(&self) -> Sessions {
        Sessions {
            opened: self.opened.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            is_open: self.is_open.load(Ordering::Relaxed),
        }
    }

    /// Keeps what the log is to say, as what was read with it is not told now.
    pub(crate) fn say(&self, lines: Vec<String>) {
        lock(&self.lines).extend(lines);
    }

    /// What the log is to say of logins.
    pub(crate) fn take_lines(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.lines))
    }

    /// How often it was closed: whoever has closed it wants no session but those that are asked for later.
    pub(crate) fn closed(&self) -> u64 {
        self.closed.load(Ordering::Relaxed)
    }

    /// The session; logs in where there is none, to a server that is to be reached within that time. Others
    /// wait meanwhile, as long as they may.
    ///
    /// # Errors
    ///
    /// [`Error::LoginRefused`], also where the same password was refused before, to this one or just now to another
    /// one of the same account; [`Error::ConnectionLost`].
    pub(crate) fn session(
        &self,
        deadline: Instant,
        log_in: impl FnOnce(&Secret, Duration) -> std::result::Result<S, NotLoggedIn>,
        log_out: impl FnOnce(&S),
    ) -> Result<Arc<S>> {
        let closed = self.closed();
        let mut state = self.login_until(deadline)?;
        if let Some(session) = &state.session {
            return Ok(Arc::clone(session));
        }
        let asked = Instant::now();
        let next = state.passwords.next(&self.target, &self.password);
        let (secret, said) = next?;
        // Whoever was to tell the password may have taken long, which is not the server's fault.
        let deadline = deadline + asked.elapsed();
        lock(&self.lines).extend(said);
        let refused = |failure| Error::LoginRefused { uri: self.uri(), failure };
        let turn = account::log_in(&self.account, &secret, deadline);
        let turn = self.within(turn)?.map_err(refused)?;
        let time = time_to_reach(deadline);
        let was_closed = || self.lost("it was closed while it was logged in to");
        if self.closed() != closed {
            return Err(was_closed());
        }
        match log_in(&secret, time) {
            Ok(session) if self.closed() != closed => {
                turn.was_accepted(secret);
                log_out(&session);
                Err(was_closed())
            }
            Ok(session) => {
                turn.was_accepted(secret);
                self.opened.fetch_add(1, Ordering::Relaxed);
                self.is_open.store(true, Ordering::Relaxed);
                Ok(Arc::clone(state.session.insert(Arc::new(session))))
            }
            Err(NotLoggedIn::Refused(why)) => {
                let failure = Failure::of(why);
                turn.was_refused(secret.clone(), failure.clone());
                state.passwords.refused = Some((secret, failure.clone()));
                Err(refused(failure))
            }
            Err(NotLoggedIn::Failed(error)) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// The session, if there is one.
    pub(crate) fn open_session(&self, deadline: Instant) -> Option<Arc<S>> {
        self.login_until(deadline).ok()?.session.clone()
    }

    /// Forgets a session that is over.
    pub(crate) fn forget(&self, over: &Arc<S>, deadline: Instant) -> Result<Over> {
        let mut state = self.login_until(deadline)?;
        if !state.session.as_ref().is_some_and(|session| Arc::ptr_eq(session, over)) {
            return Ok(Over::Replaced);
        }
        if state.renewed_in_vain.is_some_and(|last| last.elapsed() < PAUSE) {
            return Ok(Over::Kept);
        }
        state.session = None;
        self.is_open.store(false, Ordering::Relaxed);
        Ok(Over::Forgotten)
    }

    /// Notes that a new session was over at once.
    pub(crate) fn was_renewed_in_vain(&self, deadline: Instant) -> Result<()> {
        self.login_until(deadline)?.renewed_in_vain = Some(Instant::now());
        Ok(())
    }

    /// Takes the session, to be logged out.
    pub(crate) fn close(&self, deadline: Instant) -> Result<Option<Arc<S>>> {
        self.closed.fetch_add(1, Ordering::Relaxed);
        let mut state = self.login_until(deadline)?;
        self.is_open.store(false, Ordering::Relaxed);
        Ok(state.session.take())
    }

    /// Whoever logs in now is not waited for any longer than that.
    fn login_until(&self, deadline: Instant) -> Result<MutexGuard<'_, State<S>>> {
        self.within(lock_until(&self.state, deadline))
    }

    fn within<T>(&self, locked: Option<T>) -> Result<T> {
        locked.ok_or_else(|| self.lost("it is still being logged in to"))
    }
}

/// The passwords of a target, as they were taken to it.
#[derive(Default)]
struct Passwords {
    /// The one that was refused, and in which words.
    refused: Option<(Secret, Failure)>,
    warned: bool,
}

impl Passwords {
    /// The password to log in with now, unless that one was refused; and, the first time, what the log is
    /// to say of how it is kept.
    fn next(&mut self, target: &Target, source: &PasswordSource) -> Result<(Secret, Vec<String>)> {
        let lost = |why: String| Error::ConnectionLost {
            uri: target.place(),
            instance: None,
            failure: Failure::of(&why),
        };
        let Password { secret, warning } = source().map_err(lost)?;
        if let Some((_, failure)) = self.refused.as_ref().filter(|(refused, _)| *refused == secret)
        {
            return Err(Error::LoginRefused { uri: target.place(), failure: failure.clone() });
        }
        self.refused = None;
        let mut lines = Vec::new();
        if !std::mem::replace(&mut self.warned, true) {
            lines.extend(warning);
            if target.trust == Trust::Anything {
                lines.push(format!(
                    "insecure=1: anybody between here and {} can read the password; give sha256= or \
                     ca_file= instead",
                    Printable(&target.host)
                ));
            }
        }
        Ok((secret, lines))
    }
}

/// How long the server of a login may take to be reached: somewhat less than is left, so that those who wait
/// for that long learn why it was not. What it answers may take longer.
fn time_to_reach(deadline: Instant) -> Duration {
    (deadline.saturating_duration_since(Instant::now()) / 10 * 9).max(SHORTEST)
}

/// The lock that is held while somebody logs in, if it can be had by then.
fn lock_until<T>(login: &Mutex<T>, deadline: Instant) -> Option<MutexGuard<'_, T>> {
    loop {
        match login.try_lock() {
            Ok(login) => return Some(login),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(MOMENT),
            Err(TryLockError::WouldBlock) => return None,
        }
    }
}
