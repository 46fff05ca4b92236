//! Whether a caller still wants its answer: Python's has pressed Ctrl-C, perhaps.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::limits::Limits;

/// Asked by a caller every now and then, while it waits, whether it is to go on.
static STILL_WANTED: OnceLock<fn() -> bool> = OnceLock::new();

/// Sets who is asked, once for the process: a caller who is told `false` gives up its question.
#[cfg(any(feature = "python", test))]
pub(crate) fn ask_while_waiting(wanted: fn() -> bool) {
    STILL_WANTED.get_or_init(|| wanted);
}

/// Looks every now and then whether a caller still wants an answer. It costs Python's GIL, so it is not
/// done for each part of a long one.
pub(crate) struct Cancellation {
    every: Duration,
    looked: Instant,
}

impl Cancellation {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { every: limits.slow(), looked: Instant::now() }
    }

    /// Whether it is time to look.
    pub(crate) fn is_due(&self) -> bool {
        self.looked.elapsed() >= self.every
    }

    /// Looks if it is time to.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the caller does not want the answer any more.
    pub(crate) fn check(&mut self) -> Result<()> {
        if !self.is_due() {
            return Ok(());
        }
        self.looked = Instant::now();
        Self::look()
    }

    /// Looks at once: what is entered as told is not told again, so that a caller who has left by now must not have
    /// it.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(crate) fn look() -> Result<()> {
        if STILL_WANTED.get().is_none_or(|wanted| wanted()) {
            Ok(())
        } else {
            Err(Error::Interrupted)
        }
    }
}
