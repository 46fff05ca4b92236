//! A password that a Python function returns.
//!
//! The function runs in a thread of Python's (`virtmeter._password` tells why), and the core waits for it
//! no longer than for anything else. It is never called while an earlier call is still under way.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyo3::exceptions::PyBaseException;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyDict, PyString, PyTuple};

use super::arguments::class_name;
use crate::locks::lock;
use crate::open::PasswordSource;
use crate::per_process::PerProcess;
use crate::threads;

type Answer = Result<String, String>;

/// A function of Python's, or none. It may be a method of who has the inspector: the garbage collector
/// looks at it, and takes it from an inspector that nobody has any more.
#[derive(Default)]
pub(super) struct Function(Mutex<Option<Py<PyAny>>>);

impl Function {
    pub(super) fn new(function: Option<Py<PyAny>>) -> Self {
        Self(Mutex::new(function))
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Whoever has the lock has just looked, or takes it away.
        self.0.try_lock().map_or(Ok(()), |function| visit.call(&*function))
    }

    pub(super) fn take(&self) -> Option<Py<PyAny>> {
        lock(&self.0).take()
    }

    fn get(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        lock(&self.0).as_ref().map(|function| function.clone_ref(py))
    }
}

/// What a function returns as a password, for which nobody waits any longer than that. What it raises may
/// hold the password, and is not shown.
pub(super) fn source(function: Arc<Function>, longest: Duration) -> PasswordSource {
    let under_way = PerProcess::<Mutex<Option<Receiver<Answer>>>>::default();
    Arc::new(move || {
        under_way.with(|under_way| {
            let mut under_way = lock(under_way);
            let call = match under_way.take() {
                Some(call) => call,
                None => begin(&function)?,
            };
            match call.recv_timeout(longest) {
                Ok(answer) => answer,
                Err(RecvTimeoutError::Timeout) => {
                    *under_way = Some(call);
                    Err(format!(
                        "the function that returns the password has not returned within {longest:?}"
                    ))
                }
                Err(RecvTimeoutError::Disconnected) => Err("Python ends".to_owned()),
            }
        })
    })
}

/// Calls a function, and returns where its answer comes.
fn begin(function: &Function) -> Result<Receiver<Answer>, String> {
    let begun = Python::try_attach(|py| {
        let function = function.get(py).ok_or("nobody has the inspector any more")?;
        let (tell, answer) = channel();
        let started = start(py, function, move |told| {
            // Nobody waits for it where the inspector is gone.
            let _ = tell.send(read(told));
        });
        started.map_err(|error| format!("no thread was started for the password: {error}"))?;
        Ok(answer)
    });
    begun.unwrap_or_else(|| Err("Python ends".to_owned()))
}

/// Starts a thread of Python's. Nothing is interpreted in this one for that.
fn start(
    py: Python<'_>,
    function: Py<PyAny>,
    tell: impl Fn(&Bound<'_, PyAny>) + Send + Sync + 'static,
) -> PyResult<()> {
    let told = move |told: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| -> PyResult<()> {
        tell(&told.get_item(0)?);
        Ok(())
    };
    let tell = PyCFunction::new_closure(py, None, None, told)?;
    let (start, call) = (start_new_thread(py)?, call(py)?);
    threads::as_outside(|| start.call1((call, (function, tell))).map(drop))
}

/// What a function has returned, or raised.
fn read(told: &Bound<'_, PyAny>) -> Answer {
    told.extract().map_err(|_: PyErr| {
        let name = class_name(&told.get_type()).unwrap_or_default();
        let what = if told.is_instance_of::<PyBaseException>() {
            format!("raised {name}")
        } else if told.is_instance_of::<PyString>() {
            "returned text that cannot be encoded as UTF-8".to_owned()
        } else {
            format!("returned {name}, not str")
        };
        format!("the function that returns the password has {what}")
    })
}

/// Looks up what is called, as nothing can be imported any more while the interpreter ends.
pub(super) fn look_up(py: Python<'_>) -> PyResult<()> {
    start_new_thread(py)?;
    call(py).map(drop)
}

fn start_new_thread(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static FUNCTION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    FUNCTION.import(py, "_thread", "start_new_thread")
}

fn call(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static FUNCTION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    FUNCTION.import(py, "virtmeter._password", "call")
}
