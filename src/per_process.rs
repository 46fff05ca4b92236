//! State that a forked child must not share with its parent.
//!
//! A libvirt connection does not survive `fork`, and a lock that another thread held at the fork
//! stays locked for ever in the child. So the child gets a fresh state at its first use, reached
//! without a lock.

use std::process;
use std::sync::Arc;

use arc_swap::ArcSwap;

struct Owned<T> {
    pid: u32,
    state: T,
}

/// A `T` of the current process; another one, made by `Default`, in each forked child.
pub(crate) struct PerProcess<T>(ArcSwap<Owned<T>>);

impl<T: Default> PerProcess<T> {
    /// The state of this process.
    pub(crate) fn with<R>(&self, use_state: impl FnOnce(&T) -> R) -> R {
        let mut owned = self.0.load_full();
        if owned.pid != process::id() {
            // Threads of the child may race for this: all but one find a winner's state in place.
            self.0.compare_and_swap(&owned, Arc::new(Owned::default()));
            owned = self.0.load_full();
        }
        use_state(&owned.state)
    }
}

impl<T: Default> Default for Owned<T> {
    fn default() -> Self {
        Self { pid: process::id(), state: T::default() }
    }
}

impl<T: Default> Default for PerProcess<T> {
    fn default() -> Self {
        Self(ArcSwap::from_pointee(Owned::default()))
    }
}
