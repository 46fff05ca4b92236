//! What whoever logs in has to heed: a password that was refused is not sent again, and a login that
//! takes its time holds up nobody for longer than they may wait.

use std::sync::{Mutex, MutexGuard, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Password, PasswordSource, Secret, Target, Trust};
use crate::error::{Error, Failure, Result};
use crate::printable::Printable;

/// Until it is looked again whether a login is over.
const MOMENT: Duration = Duration::from_millis(10);

/// Whoever comes at the last moment has that long, too.
const SHORTEST: Duration = Duration::from_millis(100);

/// The passwords of a target, as they were taken to it.
#[derive(Default)]
pub(crate) struct Passwords {
    /// The one that was refused, and in which words.
    refused: Option<(Secret, Failure)>,
    warned: bool,
}

impl Passwords {
    /// The password to log in with now, unless that one was refused; and, the first time, what the log is
    /// to say of how it is kept.
    pub(crate) fn next(
        &mut self,
        target: &Target,
        source: &PasswordSource,
    ) -> Result<(Secret, Vec<String>)> {
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

    /// Notes that a password was refused, and returns what callers are told.
    pub(crate) fn refuse(&mut self, target: &Target, secret: Secret, message: &str) -> Error {
        let failure = Failure::of(message);
        self.refused = Some((secret, failure.clone()));
        Error::LoginRefused { uri: target.place(), failure }
    }
}

/// How long the server of a login may take to be reached: somewhat less than is left, so that those who wait
/// for that long learn why it was not. What it answers may take longer.
pub(crate) fn time_to_reach(deadline: Instant) -> Duration {
    (deadline.saturating_duration_since(Instant::now()) / 10 * 9).max(SHORTEST)
}

/// The lock that is held while somebody logs in, if it can be had by then.
pub(crate) fn lock_until<T>(login: &Mutex<T>, deadline: Instant) -> Option<MutexGuard<'_, T>> {
    loop {
        match login.try_lock() {
            Ok(login) => return Some(login),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(MOMENT),
            Err(TryLockError::WouldBlock) => return None,
        }
    }
}
