//! What a process knows of each account, whichever of its inspectors log in with it: a program may make one for each
//! question. There is one login at a time, and a password that was refused to one of them is not tried by the others
//! for a while, as accounts are locked after a few tries.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use super::{Secret, Target};
use crate::error::Failure;
use crate::locks::lock;
use crate::per_process::PerProcess;

/// For how long nobody else tries a password that was refused. Directories lock an account after five tries within
/// some minutes, or ten within half an hour.
const REFUSED: Duration = Duration::from_secs(600);

/// So many refused passwords of an account are remembered.
const MOST: usize = 8;

/// Held by whoever logs in, which may take minutes.
pub(super) type Shared = Arc<Mutex<Account>>;

static ACCOUNTS: LazyLock<PerProcess<Mutex<HashMap<String, Shared>>>> =
    LazyLock::new(PerProcess::default);

/// The passwords that were refused, the latest last.
#[derive(Default)]
pub(super) struct Account {
    refused: Vec<(Secret, Failure, Instant)>,
}

impl Account {
    /// What this process knows of the account of a target.
    pub(super) fn of(target: &Target) -> Shared {
        ACCOUNTS.with(|accounts| {
            let mut accounts = lock(accounts);
            // Nobody else has those: their locks are free.
            accounts.retain(|_, one| {
                Arc::strong_count(one) > 1 || lock(one).has_refused(Instant::now())
            });
            Arc::clone(accounts.entry(target.place()).or_default())
        })
    }

    /// In which words a password was refused just now, if it was.
    pub(super) fn refusal(&mut self, secret: &Secret, now: Instant) -> Option<Failure> {
        self.forget(now);
        let refused = self.refused.iter().find(|(refused, ..)| refused == secret);
        refused.map(|(_, failure, _)| failure.clone())
    }

    /// Notes that a password was refused.
    pub(super) fn refuse(&mut self, secret: Secret, failure: Failure, now: Instant) {
        if self.refused.len() == MOST {
            self.refused.remove(0);
        }
        self.refused.push((secret, failure, now));
    }

    fn has_refused(&mut self, now: Instant) -> bool {
        self.forget(now);
        !self.refused.is_empty()
    }

    fn forget(&mut self, now: Instant) {
        self.refused.retain(|(.., at)| now.saturating_duration_since(*at) < REFUSED);
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
        assert_eq!(last(&mut account, begun + REFUSED), None);
        assert!(!account.has_refused(begun + REFUSED));
    }

    #[test]
    fn an_account_is_kept_while_it_is_of_use() {
        let of = |user: &str| {
            let uri = format!("vsphere://{user}@account.example/?insecure=1");
            Account::of(&uri.parse().unwrap())
        };
        let is_known = |one: &Shared| lock(one).has_refused(Instant::now());
        let refused = of("refused");
        lock(&refused).refuse(Secret::new(String::new()), Failure::of("no"), Instant::now());
        drop(refused);
        let unused = Arc::downgrade(&of("unused"));
        assert!(is_known(&of("refused")) && !is_known(&of("another")));
        assert_eq!(unused.strong_count(), 0);
    }
}
