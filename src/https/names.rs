//! Addresses of host names, within a deadline.
//!
//! `getaddrinfo` has no deadline: with a DNS server that does not answer it takes half a minute, or
//! longer. So a helper thread calls it, and its callers leave when their time is over; the thread ends
//! when its call does. There is one for a name, however many ask, and a bound for all. What they find is
//! remembered for a minute, so that hosts can be read on while DNS is slow.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::{Phase, Why};
use crate::locks::lock;
use crate::threads;

const REMEMBERED: Duration = Duration::from_secs(60);

/// The most names that are looked up at a time, each by a thread: so many may hang before others have to wait.
const AT_A_TIME: usize = 512;

/// The most addresses of a name that are of use.
const ADDRESSES: usize = 16;

enum Entry {
    InFlight,
    Found(Vec<IpAddr>, Instant),
    /// For those that were waiting for it; whoever comes later has it looked up anew.
    Failed(String, Instant),
}

type Lookup = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// The names that are in use.
pub(super) struct Names {
    entries: Mutex<HashMap<String, Entry>>,
    changed: Condvar,
    lookup: Box<Lookup>,
    at_a_time: usize,
}

impl Names {
    /// As the system knows them.
    pub(super) fn of_the_system() -> Self {
        Self::new(|host| {
            Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).take(ADDRESSES).collect())
        })
    }

    /// As something else tells them.
    pub(super) fn new(
        lookup: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Self {
        let (entries, changed, lookup) = (Mutex::default(), Condvar::new(), Box::new(lookup));
        Self { entries, changed, lookup, at_a_time: AT_A_TIME }
    }

    /// The addresses of a name, the preferred one first.
    pub(super) fn addresses(
        self: &Arc<Self>,
        host: &str,
        deadline: Instant,
    ) -> Result<Vec<IpAddr>, Why> {
        let begun = Instant::now();
        let mut entries = self.entries();
        loop {
            match entries.get(host) {
                Some(Entry::Found(addresses, at)) if at.elapsed() < REMEMBERED => {
                    return Ok(addresses.clone());
                }
                Some(Entry::Failed(reason, at)) if *at >= begun => {
                    return Err(Why::Unresolved(reason.clone()));
                }
                Some(Entry::InFlight) => {}
                Some(_) | None => self.begin(&mut entries, host)?,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Why::TimedOut(Phase::Resolving));
            }
            let waited = self.changed.wait_timeout(entries, left);
            entries = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Forgets the addresses of a name, as nobody answers there.
    pub(super) fn forget(&self, host: &str) {
        let mut entries = self.entries();
        if matches!(entries.get(host), Some(Entry::Found(..))) {
            entries.remove(host);
        }
    }

    /// Has a name looked up, if there are not too many already: then one of those comes first.
    fn begin(
        self: &Arc<Self>,
        entries: &mut HashMap<String, Entry>,
        host: &str,
    ) -> Result<(), Why> {
        entries.retain(|_, entry| match entry {
            Entry::InFlight => true,
            Entry::Found(_, at) | Entry::Failed(_, at) => at.elapsed() < REMEMBERED,
        });
        let in_flight = entries.values().filter(|entry| matches!(entry, Entry::InFlight)).count();
        if in_flight >= self.at_a_time {
            return Ok(());
        }
        let (names, name) = (Arc::clone(self), host.to_owned());
        let started = threads::start("virtmeter-names", move || names.look_up(name));
        started.map_err(|error| Why::Unresolved(error.to_string()))?;
        entries.insert(host.to_owned(), Entry::InFlight);
        Ok(())
    }

    fn look_up(&self, host: String) {
        let found = (self.lookup)(&host);
        let now = Instant::now();
        let entry = match found {
            Ok(addresses) if addresses.is_empty() => {
                Entry::Failed("it has no address".to_owned(), now)
            }
            Ok(addresses) => Entry::Found(addresses, now),
            Err(error) => Entry::Failed(error.to_string(), now),
        };
        self.entries().insert(host, entry);
        self.changed.notify_all();
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        lock(&self.entries)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;
    use std::sync::mpsc;

    use super::*;

    const FEW: usize = 8;
    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn after(milliseconds: u64) -> Instant {
        Instant::now() + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_name_is_remembered_until_nobody_answers_there() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let names = Arc::new(Names::new(move |_| {
            counted.fetch_add(1, SeqCst);
            Ok(vec![ADDRESS])
        }));
        for _ in 0..3 {
            assert_eq!(names.addresses("a", after(30_000)), Ok(vec![ADDRESS]));
        }
        assert_eq!(count.load(SeqCst), 1);
        names.forget("a");
        assert_eq!(names.addresses("a", after(30_000)), Ok(vec![ADDRESS]));
        assert_eq!(count.load(SeqCst), 2);
    }

    #[test]
    fn a_failure_is_told_and_not_remembered() {
        let count = AtomicUsize::new(0);
        let names = Arc::new(Names::new(move |_| match count.fetch_add(1, SeqCst) {
            0 => Err(io::Error::other("no such name")),
            1 => Ok(vec![]),
            _ => Ok(vec![ADDRESS]),
        }));
        let unresolved = |reason: &str| Err(Why::Unresolved(reason.to_owned()));
        assert_eq!(names.addresses("a", after(30_000)), unresolved("no such name"));
        assert_eq!(names.addresses("a", after(30_000)), unresolved("it has no address"));
        assert_eq!(names.addresses("a", after(30_000)), Ok(vec![ADDRESS]));
    }

    #[test]
    fn nobody_waits_longer_than_it_may_and_threads_are_bounded() {
        let (answer, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let names = Names::new(move |_| {
            counted.fetch_add(1, SeqCst);
            let _ = wait.lock().unwrap().recv();
            Ok(vec![ADDRESS])
        });
        let names = Arc::new(Names { at_a_time: FEW, ..names });
        for _ in 0..2 {
            for name in 0..2 * FEW {
                let late = names.addresses(&name.to_string(), after(1));
                assert_eq!(late, Err(Why::TimedOut(Phase::Resolving)));
            }
        }
        // Threads that were begun may not have got as far as to count.
        let in_flight = names.entries().len();
        assert_eq!(in_flight, FEW);
        drop(answer);
        for name in 0..2 * FEW {
            assert_eq!(names.addresses(&name.to_string(), after(30_000)), Ok(vec![ADDRESS]));
        }
        assert_eq!(count.load(SeqCst), 2 * FEW);
    }

    #[test]
    fn the_system_knows_this_host() {
        let names = Arc::new(Names::of_the_system());
        let addresses = names.addresses("localhost", after(30_000)).unwrap();
        assert!(addresses.iter().all(IpAddr::is_loopback) && !addresses.is_empty());
    }
}
