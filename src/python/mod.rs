//! The Python face: the only place that knows Python. Arguments in, the GIL released once, records
//! out.

mod arguments;
mod errors;
pub(crate) mod inspector;
mod records;

use pyo3::prelude::*;
use pyo3_log::{Caching, Logger};

/// What happens once, at import: the core's log lines go to Python's `logging`, below the logger
/// `virtmeter`, and libvirt is kept from printing our failures on stderr.
pub(crate) fn log_and_quiet(py: Python<'_>) -> PyResult<()> {
    // Levels are not cached: an operator may change them while we run.
    let logger = Logger::new(py, Caching::Loggers)?;
    // Fails only where this module was initialised before, and its logger serves on.
    let _ = logger.install();
    // Where libvirt-python is at work, its user may have set a handler of errors, which nobody can
    // ask libvirt for: then libvirt goes on printing, as it did before we came.
    let modules = py.import("sys")?.getattr("modules")?;
    if !modules.contains("libvirtmod")? {
        crate::quiet_opens();
    }
    Ok(())
}
