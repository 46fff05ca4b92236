//! The connections that this process is closing, by their URIs. A daemon may not confirm that: as it is
//! starved, say. Each such connection has its descriptors, and most have a thread.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Failure;
use crate::locks::lock;
use crate::per_process::PerProcess;

/// Closing is a round trip. A hypervisor that does not answer it is left behind after this.
pub(super) const LONGEST: Duration = Duration::from_secs(1);

/// While so many are unconfirmed, whichever inspectors have had them, no more are opened,
const MOST: usize = 256;
/// for so long after the last one, as a host that was reset confirms none of before.
const AGAIN: Duration = Duration::from_secs(3600);

/// Until it is looked again how many there are.
const MOMENT: Duration = Duration::from_millis(10);

static CLOSING: LazyLock<PerProcess<Mutex<Unconfirmed>>> = LazyLock::new(PerProcess::default);

/// When those were begun that are unconfirmed, by the URIs.
type Unconfirmed = HashMap<String, Vec<Instant>>;

fn with<T>(uri: &str, act: impl FnOnce(&mut Vec<Instant>) -> T) -> T {
    CLOSING.with(|all| {
        let mut all = lock(all);
        let begun = all.entry(uri.to_owned()).or_default();
        let told = act(begun);
        if begun.is_empty() {
            all.remove(uri);
        }
        told
    })
}

/// A connection is about to be closed, or is left open.
pub(super) fn begin(uri: &str) -> Instant {
    let now = Instant::now();
    with(uri, |begun| begun.push(now));
    now
}

/// It was closed. If the daemon has confirmed that, it answers, and what it has not confirmed before is lost.
pub(super) fn end(uri: &str, since: Instant, is_confirmed: bool) {
    with(uri, |begun| {
        begun.retain(|other| *other != since && !(is_confirmed && *other < since));
    });
}

/// Whether one should have been closed by now: somewhat earlier than who waits for it gives it up.
pub(super) fn is_overdue(uri: &str) -> bool {
    with(uri, |begun| begun.iter().any(|since| since.elapsed() >= LONGEST / 2))
}

/// Why no connection is to be opened, if too many are unconfirmed, and still are after a moment.
pub(super) fn too_many(uri: &str) -> Option<Failure> {
    let end = Instant::now() + LONGEST;
    while with(uri, |begun| are_too_many(begun, Instant::now())) {
        if Instant::now() >= end {
            return Some(Failure::of(format!(
                "libvirt has not confirmed that {MOST} connections of this process were closed; no more \
                 are opened until it does, or for an hour: restart libvirt if it goes on"
            )));
        }
        thread::sleep(MOMENT);
    }
    None
}

fn are_too_many(begun: &[Instant], now: Instant) -> bool {
    let lately = |last: &Instant| now.saturating_duration_since(*last) < AGAIN;
    begun.len() >= MOST && begun.last().is_some_and(lately)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_none_is_confirmed_more_are_opened_after_an_hour() {
        let now = Instant::now();
        assert!(!are_too_many(&[now; MOST - 1], now));
        assert!(are_too_many(&[now; MOST], now));
        assert!(!are_too_many(&[now; MOST], now + AGAIN));
    }

    #[test]
    fn one_that_is_confirmed_ends_the_wait_for_those_before() {
        let (uri, other) = ("test:///closing", "test:///closing?other");
        let now = begin(other);
        for later in 0..3 {
            with(uri, |begun| begun.push(now + later * LONGEST));
        }
        end(uri, now, false);
        assert_eq!(
            with(uri, |begun| begun.len()),
            2,
            "it was broken, and tells nothing of the others"
        );
        end(uri, now + LONGEST, true);
        assert_eq!(with(uri, |begun| begun.clone()), [now + 2 * LONGEST]);
        end(uri, now + 2 * LONGEST, true);
        assert_eq!(with(uri, |begun| begun.len()), 0);
        assert_eq!(with(other, |begun| begun.len()), 1);
    }
}
