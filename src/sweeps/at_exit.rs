//! The end of a program leaves no session behind on servers that answer in time.

use std::sync::{Arc, LazyLock, Mutex, OnceLock, Weak, mpsc};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::driver::HostWide;
use super::shared::{MOST_THREADS, Shared};
use crate::locks::lock;
use crate::per_process::PerProcess;
use crate::threads;

/// The end is not held up any longer.
const LONGEST: Duration = Duration::from_secs(1);
/// Until it is looked again whether a thread has ended.
const MOMENT: Duration = Duration::from_millis(10);

/// A forked child has no session of its parent's.
static HERE: LazyLock<PerProcess<AtExit>> = LazyLock::new(Default::default);

#[derive(Default)]
struct AtExit {
    /// Whoever may have a session.
    all: Mutex<Vec<Weak<dyn HasSession>>>,
    /// Who ends the program.
    ending: OnceLock<ThreadId>,
}

trait HasSession: Send + Sync {
    /// Whether logging out may take long: something is still being read, or did not answer the last time.
    fn may_hang(&self) -> bool;
    fn log_out(self: Arc<Self>, deadline: Instant);
}

impl<H: HostWide> HasSession for Shared<H> {
    fn may_hang(&self) -> bool {
        let state = self.lock();
        state.is_reading() || state.batches.failing().next().is_some()
    }

    fn log_out(self: Arc<Self>, deadline: Instant) {
        if !self.lock().ended {
            // Also where somebody logs in just now.
            let _ = self.close(deadline);
            // What is being read needs more calls, perhaps, and would log in again for them.
            while self.is_reading() && Instant::now() < deadline {
                thread::sleep(MOMENT);
            }
            if self.driver.sessions().is_open {
                let _ = self.close(deadline);
            }
            return;
        }
        // The last of its threads would do that, and may hang in what nobody waits for.
        let _ = self.driver.close(deadline);
        let threads = Arc::downgrade(&self);
        drop(self);
        while threads.strong_count() > 0 && Instant::now() < deadline {
            thread::sleep(MOMENT);
        }
    }
}

pub(super) fn note<H: HostWide>(shared: &Arc<Shared<H>>) {
    let shared: Weak<Shared<H>> = Arc::downgrade(shared);
    HERE.with(|here| {
        let mut all = lock(&here.all);
        if all.len() == all.capacity() {
            all.retain(|one| one.strong_count() > 0);
        }
        all.push(shared);
    });
}

/// Whether the program ends, and this is another thread, such as one that polls for ever: it would log in
/// again.
pub(super) fn is_too_late() -> bool {
    HERE.with(|here| here.ending.get().is_some_and(|ending| *ending != thread::current().id()))
}

/// Closes the sessions that this process still has on servers that are read over HTTPS: for the end of a
/// program, where nobody reads any more. It takes at most a second; a session that is not closed by then is
/// left to its server, which ends it by itself. From then on, nothing is read for any other thread.
pub fn close_sessions() {
    let all = HERE.with(|here| {
        let _ = here.ending.set(thread::current().id());
        std::mem::take(&mut *lock(&here.all))
    });
    let mut all: Vec<_> = all.iter().filter_map(Weak::upgrade).collect();
    // However many hang, those come first that answer.
    all.sort_by_cached_key(|one| one.may_hang());
    let deadline = Instant::now() + LONGEST;
    let (sender, ended) = mpsc::channel::<()>();
    let threads = MOST_THREADS.min(all.len());
    let all = Arc::new(Mutex::new(all.into_iter()));
    for _ in 0..threads {
        let (sender, all) = (sender.clone(), Arc::clone(&all));
        let next = move || lock(&all).next();
        let log_out = move || {
            while let Some(one) = next() {
                one.log_out(deadline);
            }
            drop(sender);
        };
        let _ = threads::start("virtmeter-exit", log_out);
    }
    drop(sender);
    // Nothing is sent: it ends with the last of the threads.
    let _ = ended.recv_timeout(LONGEST);
}
