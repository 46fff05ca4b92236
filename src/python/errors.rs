//! Turns the core's errors into the exceptions of `virtmeter.exceptions`.

use pyo3::exceptions::{PyNotImplementedError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyType};

use crate::error::{Error, Reason};

/// The exception that tells a Python caller of this error.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    build(py, error).unwrap_or_else(|problem| problem)
}

fn build(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let class = match error {
        Error::InstanceNotFound { .. } => not_found(py)?,
        Error::InstanceShutOff { .. } => shut_off(py)?,
        // Of an interruption, Python hears what the signal's handler has raised.
        Error::Timeout { .. }
        | Error::Interrupted
        | Error::NoData { reason: Reason::Unanswered, .. } => timeout(py)?,
        Error::NoData { .. } | Error::NoList { .. } | Error::ListHangs { .. } => no_data(py)?,
        Error::InstanceBusy { .. } => busy(py)?,
        Error::ConnectionLost { .. } | Error::LoginRefused { .. } => connection_lost(py)?,
        Error::Unsupported { .. } => {
            return Ok(PyNotImplementedError::new_err(error.to_string()));
        }
        Error::InvalidUri { .. } | Error::InvalidTarget { .. } | Error::InvalidCaller { .. } => {
            return Ok(PyValueError::new_err(error.to_string()));
        }
    };
    let (code, domain) = error.failure().and_then(|failure| failure.libvirt).unzip();
    let details = [
        ("instance_id", error.instance().map(|i| i.uuid.to_string()).into_pyobject(py)?),
        ("error_code", code.into_pyobject(py)?),
        ("error_domain", domain.into_pyobject(py)?),
    ];
    let exception = class.call((error.to_string(),), Some(&details.into_py_dict(py)?))?;
    Ok(PyErr::from_value(exception))
}

/// Looks all classes up, as nothing can be imported any more while the interpreter ends.
pub(crate) fn look_up_classes(py: Python<'_>) -> PyResult<()> {
    not_found(py)?;
    shut_off(py)?;
    no_data(py)?;
    busy(py)?;
    timeout(py)?;
    connection_lost(py)?;
    Ok(())
}

macro_rules! exception_class {
    ($function:ident, $name:literal) => {
        fn $function(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
            static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
            CLASS.import(py, "virtmeter.exceptions", $name)
        }
    };
}

exception_class!(not_found, "InstanceNotFoundException");
exception_class!(shut_off, "InstanceShutOffException");
exception_class!(no_data, "NoDataException");
exception_class!(busy, "InstanceBusyException");
exception_class!(timeout, "InspectionTimeout");
exception_class!(connection_lost, "ConnectionLost");
