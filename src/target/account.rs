//! What a process knows of each account, whichever of its inspectors log in with it: a program may make one for each
//! question. A password is proven by one login at a time, and what was refused to one of them is not tried by the others
//! for a while, as accounts are locked after a few tries.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::{Secret, Target};
use crate::error::Failure;
use crate::locks::lock;
use crate::per_process::PerProcess;

/// For how long nobody else tries a password that was refused. Directories lock an account after five tries within
/// some minutes, or ten within half an hour. One that was accepted is remembered as long.
const KEPT: Duration = Duration::from_secs(600);

/// So many refused passwords of an account are remembered.
const MOST: usize = 8;

/// So many log in at a time with a password that was accepted, so that one of them may hang. If it has changed since,
/// so many are refused.
const AT_A_TIME: usize = 3;

/// Until it is looked again whether a login is over.
const MOMENT: Duration = Duration::from_millis(10);

pub(super) type Shared = Arc<Mutex<Account>>;

static ACCOUNTS: LazyLock<PerProcess<Mutex<HashMap<String, Shared>>>> =
    LazyLock::new(PerProcess::default);

#[derive(Default)]
pub(super) struct Account {
    /// The passwords that were refused, the latest last.
    refused: Vec<(Secret, Failure, Instant)>,
    accepted: Option<(Secret, Instant)>,
    /// How many log in just now.
    logging_in: usize,
}

/// Of who logs in.
pub(super) struct Login(Shared);

impl Drop for Login {
    fn drop(&mut self) {
        lock(&self.0).logging_in -= 1;
    }
}

impl Login {
    pub(super) fn was_accepted(&self, secret: Secret) {
        lock(&self.0).accepted = Some((secret, Instant::now()));
    }

    pub(super) fn was_refused(&self, secret: Secret, failure: Failure) {
        lock(&self.0).refuse(secret, failure, Instant::now());
    }
}

/// What this process knows of the account of a target.
pub(super) fn of(target: &Target) -> Shared {
    // Who is not known by the same means may be another one.
    let name = format!("{} {:?}", target.place(), target.trust);
    ACCOUNTS.with(|accounts| {
        let mut accounts = lock(accounts);
        accounts.retain(|_, one| Arc::strong_count(one) > 1 || lock(one).is_of_use(Instant::now()));
        Arc::clone(accounts.entry(name).or_default())
    })
}

/// Waits until a password may be tried: `None` if that is not by then, or else in which words it was refused just now.
pub(super) fn log_in(
    account: &Shared,
    secret: &Secret,
    deadline: Instant,
) -> Option<Result<Login, Failure>> {
    loop {
        let now = Instant::now();
        let mut known = lock(account);
        if let Some(failure) = known.refusal(secret, now) {
            return Some(Err(failure));
        }
        if known.may_log_in(secret) {
            known.logging_in += 1;
            return Some(Ok(Login(Arc::clone(account))));
        }
        drop(known);
        if now >= deadline {
            return None;
        }
        thread::sleep(MOMENT);
    }
}

impl Account {
    fn may_log_in(&self, secret: &Secret) -> bool {
        let is_proven = self.accepted.as_ref().is_some_and(|(accepted, _)| accepted == secret);
        self.logging_in < if is_proven { AT_A_TIME } else { 1 }
    }

    /// In which words a password was refused just now, if it was.
    fn refusal(&mut self, secret: &Secret, now: Instant) -> Option<Failure> {
        self.forget(now);
        let refused = self.refused.iter().find(|(refused, ..)| refused == secret);
        refused.map(|(_, failure, _)| failure.clone())
    }

    fn refuse(&mut self, secret: Secret, failure: Failure, now: Instant) {
        self.accepted.take_if(|(accepted, _)| *accepted == secret);
        self.refused.retain(|(refused, ..)| *refused != secret);
        if self.refused.len() == MOST {
            self.refused.remove(0);
        }
        self.refused.push((secret, failure, now));
    }

    /// Whether it is worth keeping where no inspector has it.
    fn is_of_use(&mut self, now: Instant) -> bool {
        self.forget(now);
        let is_recent = |at: Instant| now.saturating_duration_since(at) < KEPT;
        !self.refused.is_empty() || self.accepted.as_ref().is_some_and(|(_, at)| is_recent(*at))
    }

    fn forget(&mut self, now: Instant) {
        self.refused.retain(|(.., at)| now.saturating_duration_since(*at) < KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_told_for_a_while_and_bounded() {
        let (mut account, begun) = (Account::default(), Instant::now());
        let secret = |number: usize| Secret::new(number.to_string());
        for number in 0..=MOST {
            account.refuse(secret(number), Failure::of(format!("{number}!")), begun);
        }
        assert_eq!(account.refused.len(), MOST);
        assert_eq!(account.refusal(&secret(0), begun), None);
        let last = |account: &mut Account, now| account.refusal(&secret(MOST), now);
        assert_eq!(last(&mut account, begun), Some(Failure::of(format!("{MOST}!"))));
        assert_eq!(last(&mut account, begun + KEPT), None);
        assert!(!account.is_of_use(begun + KEPT));
    }

    #[test]
    fn an_account_is_kept_while_it_is_of_use() {
        let account = |user: &str| {
            let uri = format!("vsphere://{user}@account.example/?insecure=1");
            of(&uri.parse().unwrap())
        };
        let is_known = |one: &Shared| lock(one).is_of_use(Instant::now());
        let refused = account("refused");
        lock(&refused).refuse(Secret::new(String::new()), Failure::of("no"), Instant::now());
        drop(refused);
        let unused = Arc::downgrade(&account("unused"));
        assert!(is_known(&account("refused")) && !is_known(&account("another")));
        assert_eq!(unused.strong_count(), 0);
    }

    #[test]
    fn a_password_is_proven_by_one_login_at_a_time() {
        let target = "vsphere://proven@account.example/?insecure=1".parse().unwrap();
        let (account, secret) = (of(&target), |text: &str| Secret::new(text.to_owned()));
        let log_in = |text: &str| log_in(&account, &secret(text), Instant::now());
        let first = log_in("right").unwrap().ok().unwrap();
        assert!(log_in("right").is_none() && log_in("wrong").is_none());
        first.was_accepted(secret("right"));
        // More than one may log in with it from then on.
        let others: Vec<_> = (1..AT_A_TIME).map(|_| log_in("right").unwrap()).collect();
        assert!(log_in("right").is_none() && log_in("wrong").is_none());
        drop((first, others));
        let wrong = log_in("wrong").unwrap().ok().unwrap();
        wrong.was_refused(secret("wrong"), Failure::of("no"));
        assert_eq!(log_in("wrong").unwrap().err(), Some(Failure::of("no")));
    }
}
