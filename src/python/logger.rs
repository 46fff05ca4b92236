//! The core's log lines go to Python's `logging`, in the thread of the caller whose they are.
//!
//! While the interpreter ends, it ends every thread that is in Python code, and with frames of Rust's
//! around that code the process would abort. So it waits for lines that are under way, and from then on
//! no thread logs but the one that ends it.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};
use pyo3_log::{Caching, Logger};

use super::keep;
use crate::locks::lock;
use crate::per_process::PerProcess;

/// The end does not wait any longer for a handler.
const LONGEST: Duration = Duration::from_secs(5);
/// So long a thread whose line was waited for has to return to Python from the core, before Python ends.
const RETURN: Duration = Duration::from_millis(50);

/// Has the core's lines logged from now on.
pub(super) fn install(py: Python<'_>) -> PyResult<()> {
    // Levels are not cached: an operator may change them while we run.
    let logger = Logger::new(py, Caching::Loggers)?;
    let lines = Arc::new(PerProcess::<Arc<Lines>>::default());
    let of_end = Arc::clone(&lines);
    // Fails only where this module was initialised before, and its logger serves on.
    if log::set_boxed_logger(Box::new(WhilePythonRuns { logger, lines })).is_err() {
        return Ok(());
    }
    log::set_max_level(log::LevelFilter::Debug);
    let end = move |arguments: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
        let lines = of_end.with(Arc::clone);
        arguments.py().detach(|| lines.end());
    };
    let end = PyCFunction::new_closure(py, None, None, end)?;
    py.import("atexit")?.getattr("register")?.call1((end,)).map(drop)
}

/// The lines that are being logged.
#[derive(Default)]
struct Lines {
    state: Mutex<State>,
    fewer: Condvar,
}

#[derive(Default)]
struct State {
    under_way: usize,
    /// Who ends the interpreter.
    ending: Option<ThreadId>,
}

impl Lines {
    /// Notes that a line is begun, unless it is too late for that.
    fn begin(&self) -> bool {
        let mut state = lock(&self.state);
        let may = state.ending.is_none_or(|ending| ending == thread::current().id());
        state.under_way += usize::from(may);
        may
    }

    fn is_logged(&self) {
        lock(&self.state).under_way -= 1;
        self.fewer.notify_all();
    }

    /// Lets no other thread begin a line any more, and waits for those that are under way.
    fn end(&self) {
        let mut state = lock(&self.state);
        state.ending = Some(thread::current().id());
        let are_left = |state: &mut State| state.under_way > 0;
        let is_waited_for = are_left(&mut state);
        drop(self.fewer.wait_timeout_while(state, LONGEST, are_left));
        if is_waited_for {
            thread::sleep(RETURN);
        }
    }
}

struct WhilePythonRuns {
    logger: Logger,
    lines: Arc<PerProcess<Arc<Lines>>>,
}

impl WhilePythonRuns {
    /// Does something with Python's logging, if there is time for that.
    fn attach<T>(&self, act: impl FnOnce(Python<'_>) -> T) -> Option<T> {
        let lines = self.lines.with(Arc::clone);
        if !lines.begin() {
            return None;
        }
        let done = Python::try_attach(act);
        lines.is_logged();
        done
    }
}

impl log::Log for WhilePythonRuns {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.attach(|_| self.logger.enabled(metadata)).unwrap_or(false)
    }

    fn log(&self, record: &log::Record<'_>) {
        self.attach(|py| {
            self.logger.log(record);
            // A handler has raised, or Ctrl-C came just then. That is kept for the
            // Python caller of this thread, as if the line had been logged in Python.
            if let Some(raised) = PyErr::take(py) {
                keep(raised);
            }
        });
    }

    fn flush(&self) {}
}
