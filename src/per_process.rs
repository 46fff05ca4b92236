//! State that a forked child must not share with its parent.
//!
//! A libvirt connection does not survive `fork`, nor does a thread, and a lock that another thread
//! held at the fork stays locked for ever in the child. So the child gets a fresh state at its first
//! use, reached without a lock.

//! (A child is told by a count of forks. Its pid may be its parent's, where both are the first of
//! their pid namespace.)

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::libvirt::generation;

struct Owned<T> {
    generation: u64,
    state: T,
}

/// A `T` of the current process; another one is made in each forked child.
pub(crate) struct PerProcess<T> {
    owned: ArcSwap<Owned<T>>,
    make: Box<dyn Fn() -> T + Send + Sync>,
}

impl<T> PerProcess<T> {
    /// A state for this process, and how to make one for the next.
    pub(crate) fn new(make: impl Fn() -> T + Send + Sync + 'static) -> Self {
        let owned = Owned { generation: generation(), state: make() };
        Self { owned: ArcSwap::from_pointee(owned), make: Box::new(make) }
    }

    /// The state of this process.
    pub(crate) fn with<R>(&self, use_state: impl FnOnce(&T) -> R) -> R {
        let mut owned = self.owned.load_full();
        if owned.generation != generation() {
            // Threads of the child may race for this: all but one find a winner's state in place.
            let fresh = Owned { generation: generation(), state: (self.make)() };
            self.owned.compare_and_swap(&owned, Arc::new(fresh));
            owned = self.owned.load_full();
        }
        use_state(&owned.state)
    }
}

impl<T: Default + 'static> Default for PerProcess<T> {
    fn default() -> Self {
        Self::new(T::default)
    }
}
