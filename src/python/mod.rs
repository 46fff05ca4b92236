//! The Python face: the only place that knows Python. Arguments in, the GIL released once, records
//! out.

mod arguments;
mod errors;
pub(crate) mod inspector;
mod logger;
mod password;
mod records;

use std::cell::RefCell;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};

/// The end does not wait any longer for connections that are being opened, and may be in a handler of errors.
const HANDLERS: Duration = Duration::from_millis(200);

/// What happens once, at import: the core's log lines go to Python's `logging`, below the logger
/// `virtmeter`, signals are seen to while a call waits, libvirt is kept from printing our failures on
/// stderr, and the classes of what is handed out are looked up.
pub(crate) fn log_and_quiet(py: Python<'_>) -> PyResult<()> {
    arguments::look_up_classes(py)?;
    errors::look_up_classes(py)?;
    records::look_up_classes(py)?;
    password::look_up(py)?;
    logger::install(py)?;
    end_handlers_at_exit(py)?;
    // Before the logger's step, as the last that is registered is the first to be done.
    #[cfg(feature = "https")]
    close_sessions_at_exit(py)?;
    crate::cancellation::ask_while_waiting(nothing_was_raised);
    // Where libvirt-python is at work, its user may have set a handler of errors, which nobody can
    // ask libvirt for: then libvirt goes on printing, as it did before we came.
    let modules = py.import("sys")?.getattr("modules")?;
    if !modules.contains("libvirtmod")? {
        crate::quiet_opens();
    }
    Ok(())
}

/// A handler of libvirt-python's is called in whichever thread has an error, also in ours, which open
/// connections until the end; and Python ends every thread that it then finds in Python code, with frames of
/// Rust's around it.
fn end_handlers_at_exit(py: Python<'_>) -> PyResult<()> {
    let end = |arguments: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| -> PyResult<()> {
        let py = arguments.py();
        if py.import("sys")?.getattr("modules")?.contains("libvirtmod")? {
            py.detach(|| crate::libvirt::end_handlers(HANDLERS));
        }
        Ok(())
    };
    let end = PyCFunction::new_closure(py, None, None, end)?;
    py.import("atexit")?.getattr("register")?.call1((end,)).map(drop)
}

#[cfg(feature = "https")]
fn close_sessions_at_exit(py: Python<'_>) -> PyResult<()> {
    let close = |arguments: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
        arguments.py().detach(crate::close_sessions);
    };
    let close = PyCFunction::new_closure(py, None, None, close)?;
    py.import("atexit")?.getattr("register")?.call1((close,)).map(drop)
}

thread_local! {
    static RAISED: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// What logging or a signal has raised in this thread since it was last asked.
pub(crate) fn raised_meanwhile() -> Option<PyErr> {
    RAISED.take()
}

/// What was raised since it was last asked, of a call within another one, to which this is put back.
pub(crate) fn put_back(outer: Option<PyErr>) -> Option<PyErr> {
    RAISED.replace(outer)
}

/// Keeps what was raised in this thread. Its call ends by that: nothing more is logged, nor waited for.
fn keep(raised: PyErr) {
    drop(RAISED.replace(Some(raised)));
}

/// Whether the caller of this thread still wants its answer: nothing was raised for it. Looks for
/// Ctrl-C and other signals, whose handlers Python runs in its main thread only.
fn nothing_was_raised() -> bool {
    let nothing = || RAISED.with_borrow(Option::is_none);
    if nothing() {
        Python::try_attach(|py| py.check_signals().map_err(keep));
    }
    nothing()
}
