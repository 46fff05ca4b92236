//! `virtmeter.Inspector` and `LibvirtInspector`: their documentation for users is in `_native.pyi`.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList, PyTuple};

use super::arguments::{self, InstanceArgument, class_name, type_name, unless_refused};
use super::errors::exception;
use super::password::{self, Function};
use super::records::{Record, list};
use super::{put_back, raised_meanwhile};
use crate::error;
use crate::inspector::Inspector;
use crate::libvirt::Libvirt;
use crate::limits::{InvalidLimit, Limits};
use crate::open::Opening;
use crate::printable::Uri;
use crate::records::InstanceId;
use crate::rollback::Rollback;

/// Reads what virtual machines use.
#[pyclass(frozen, weakref, subclass, name = "Inspector", module = "virtmeter")]
pub(crate) struct AnyInspector {
    inspector: Inspector,
    report_stopped: bool,
    password: Arc<Function>,
}

/// The one of libvirt's, whatever the URI.
#[pyclass(frozen, extends = AnyInspector, module = "virtmeter")]
pub(crate) struct LibvirtInspector;

#[pymethods]
impl LibvirtInspector {
    // Python's keywords.
    #[allow(clippy::too_many_arguments, clippy::fn_params_excessive_bools)]
    #[new]
    #[pyo3(signature = (
        uri = "qemu:///system",
        *,
        report_stopped = false,
        timeout = 5.0,
        max_age = 1.0,
        workers = 4,
        read_ahead = 16,
        max_stuck = 12,
        reckon_sizes = true,
        parity = false,
        all_vnics = true,
    ))]
    fn new(
        uri: &str,
        report_stopped: bool,
        #[pyo3(from_py_with = real)] timeout: f64,
        #[pyo3(from_py_with = real)] max_age: f64,
        #[pyo3(from_py_with = whole)] workers: i64,
        #[pyo3(from_py_with = whole)] read_ahead: i64,
        #[pyo3(from_py_with = whole)] max_stuck: i64,
        reckon_sizes: bool,
        parity: bool,
        all_vnics: bool,
    ) -> PyResult<PyClassInitializer<Self>> {
        let limits = limits(timeout, Some(max_age), (workers, read_ahead, max_stuck))?;
        let libvirt = libvirt(uri, report_stopped)?
            .with_reckoned_sizes(reckon_sizes)
            .with_parity(parity)
            .with_all_nics(all_vnics);
        let inspector = Inspector::with_limits(libvirt, limits);
        let base = AnyInspector { inspector, report_stopped, password: Arc::default() };
        Ok(PyClassInitializer::from(base).add_subclass(Self))
    }
}

// PyO3 hands the instance over by value; `duration` is Ceilometer's, and nobody needs it.
#[allow(clippy::needless_pass_by_value, unused_variables)]
#[pymethods]
impl AnyInspector {
    // Python's keywords.
    #[allow(clippy::too_many_arguments)]
    #[new]
    #[pyo3(signature = (
        uri = "qemu:///system",
        *,
        report_stopped = false,
        timeout = 5.0,
        max_age = None,
        workers = 4,
        read_ahead = 16,
        max_stuck = 12,
        password = None,
    ))]
    fn new(
        py: Python<'_>,
        uri: &str,
        report_stopped: bool,
        #[pyo3(from_py_with = real)] timeout: f64,
        #[pyo3(from_py_with = real_or_none)] max_age: Option<f64>,
        #[pyo3(from_py_with = whole)] workers: i64,
        #[pyo3(from_py_with = whole)] read_ahead: i64,
        #[pyo3(from_py_with = whole)] max_stuck: i64,
        password: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        if uri.contains('\0') {
            return Err(has_nul(uri));
        }
        let limits = limits(timeout, max_age, (workers, read_ahead, max_stuck))?;
        if let Some(given) = password.as_ref().map(|given| given.bind(py)) {
            if !given.is_callable() {
                return Err(PyTypeError::new_err(format!(
                    "password must be a function that returns it, not {}",
                    type_name(given)?
                )));
            }
        }
        let is_given = password.is_some();
        let function = Arc::new(Function::new(password));
        let password = is_given.then(|| password::source(Arc::clone(&function), limits.timeout()));
        let opened = Inspector::open(uri, Opening { report_stopped, limits, password });
        let inspector = opened.map_err(|error| exception(py, &error))?;
        Ok(Self { inspector, report_stopped, password: function })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.password.traverse(&visit)
    }

    fn __clear__(&self) {
        drop(self.password.take());
    }

    #[pyo3(signature = (instance, duration = None))]
    fn inspect_instance<'py>(
        &self,
        py: Python<'py>,
        instance: InstanceArgument,
        duration: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.read(py, |inspector| inspector.instance(&instance.0))?.into_named_tuple(py)
    }

    #[pyo3(signature = (instance, duration = None))]
    fn inspect_vnics<'py>(
        &self,
        py: Python<'py>,
        instance: InstanceArgument,
        duration: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyIterator>> {
        self.tell(
            py,
            |inspector| inspector.tell_vnics(&instance.0),
            |all| list(py, all)?.try_iter(),
        )
    }

    #[pyo3(signature = (instance, duration = None))]
    fn inspect_disks<'py>(
        &self,
        py: Python<'py>,
        instance: InstanceArgument,
        duration: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyIterator>> {
        list(py, self.read(py, |inspector| inspector.disks(&instance.0))?)?.try_iter()
    }

    #[pyo3(signature = (instance, duration = None))]
    fn inspect_disk_info<'py>(
        &self,
        py: Python<'py>,
        instance: InstanceArgument,
        duration: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyIterator>> {
        list(py, self.read(py, |inspector| inspector.disk_info(&instance.0))?)?.try_iter()
    }

    #[pyo3(signature = (instance, duration = None, *, caller = ""))]
    fn inspect_vnic_rates<'py>(
        &self,
        py: Python<'py>,
        instance: InstanceArgument,
        duration: Option<&Bound<'py, PyAny>>,
        caller: &str,
    ) -> PyResult<Bound<'py, PyIterator>> {
        let question = |inspector| Inspector::tell_vnic_rates(inspector, &instance.0, caller);
        self.tell(py, question, |rates| list(py, rates)?.try_iter())
    }

    #[pyo3(signature = (instance, duration = None, *, caller = ""))]
    fn inspect_disk_rates<'py>(
        &self,
        py: Python<'py>,
        instance: InstanceArgument,
        duration: Option<&Bound<'py, PyAny>>,
        caller: &str,
    ) -> PyResult<Bound<'py, PyIterator>> {
        let question = |inspector| Inspector::tell_disk_rates(inspector, &instance.0, caller);
        self.tell(py, question, |rates| list(py, rates)?.try_iter())
    }

    #[pyo3(signature = (instance, *, caller = ""))]
    fn usage<'py>(
        &self,
        py: Python<'py>,
        instance: InstanceArgument,
        caller: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let question = |inspector| Inspector::tell_usage(inspector, &instance.0, caller);
        self.tell(py, question, |usage| usage.into_named_tuple(py))
    }

    #[pyo3(signature = (*, caller = ""))]
    fn usage_all<'py>(&self, py: Python<'py>, caller: &str) -> PyResult<Bound<'py, PyList>> {
        let question = |inspector| Inspector::tell_usage_all(inspector, caller);
        self.tell(py, question, |all| list(py, all.into_iter().flatten()))
    }

    fn inspect_details<'py>(
        &self,
        py: Python<'py>,
        instance: InstanceArgument,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.read(py, |inspector| inspector.details(&instance.0))?.into_named_tuple(py)
    }

    fn inspect_job<'py>(
        &self,
        py: Python<'py>,
        instance: InstanceArgument,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let job = self.read(py, |inspector| inspector.job(&instance.0))?;
        job.map(|job| job.into_named_tuple(py)).transpose()
    }

    fn inspect_io_threads<'py>(
        &self,
        py: Python<'py>,
        instance: InstanceArgument,
    ) -> PyResult<Bound<'py, PyList>> {
        list(py, self.read(py, |inspector| inspector.io_threads(&instance.0))?)
    }

    fn inspect_dirty_rate<'py>(
        &self,
        py: Python<'py>,
        instance: InstanceArgument,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let rate = self.read(py, |inspector| inspector.dirty_rate(&instance.0))?;
        rate.map(|rate| rate.into_named_tuple(py)).transpose()
    }

    fn list_instances<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        list(py, self.read(py, Inspector::instances)?)
    }

    #[pyo3(signature = (instances = None))]
    fn list_servers<'py>(
        &self,
        py: Python<'py>,
        instances: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let wanted = instances.map(arguments::instances).transpose()?;
        list(py, self.read(py, |inspector| inspector.servers(wanted.as_deref()))?)
    }

    fn list_hosts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        list(py, self.read(py, Inspector::hosts)?)
    }

    /// What `virtmeter doctor` says of a vCenter: see `doctor/vsphere.py`.
    fn _examine<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = arguments::instances)] instances: Vec<InstanceId>,
        samples: u32,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let instances: Vec<_> = instances.iter().map(|instance| instance.uuid).collect();
        let found = self.read(py, |inspector| inspector.examine(&instances, samples))?;
        let of_each: Vec<_> = found
            .sampled
            .into_iter()
            .map(|of| (of.instance.to_string(), of.comes_in_order, of.times, of.series))
            .collect();
        (
            found.server,
            found.clock,
            found.lacking,
            found.refused,
            found.left_out,
            found.unknown,
            of_each,
        )
            .into_pyobject(py)
    }

    fn health<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        without_gil(py, || self.inspector.health())?.into_named_tuple(py)
    }

    #[getter]
    fn uri(&self) -> &str {
        self.inspector.uri()
    }

    #[getter]
    fn connected(&self) -> bool {
        self.inspector.is_connected()
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        without_gil(py, || self.inspector.close())
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let class = class_name(&slf.get_type())?;
        let this = slf.get();
        let report_stopped = if this.report_stopped { ", report_stopped=True" } else { "" };
        let connected = if this.connected() { "connected" } else { "not connected" };
        let uri = if this.uri().is_empty() { String::new() } else { Uri(this.uri()).to_string() };
        Ok(format!("<virtmeter.{class}(\"{uri}\"{report_stopped}), {connected}>"))
    }
}

impl AnyInspector {
    /// Takes a reading that counts as told, unless its caller is interrupted while it waits for the GIL with it, or
    /// until it is a record.
    fn tell<'a, T: Send, R>(
        &'a self,
        py: Python<'_>,
        question: impl FnOnce(&'a Inspector) -> error::Result<(T, Rollback<'a>)> + Send,
        record: impl FnOnce(T) -> PyResult<R>,
    ) -> PyResult<R> {
        let (answer, rollback) = self.read(py, question)?;
        let record = record(answer)?;
        py.check_signals()?;
        rollback.commit();
        Ok(record)
    }

    /// Takes a reading without the GIL.
    fn read<'a, T: Send>(
        &'a self,
        py: Python<'_>,
        question: impl FnOnce(&'a Inspector) -> error::Result<T> + Send,
    ) -> PyResult<T> {
        let answer = without_gil(py, || question(&self.inspector))?;
        answer.map_err(|error| exception(py, &error))
    }
}

/// Calls the core, which may wait and log. What a signal or a log handler has raised meanwhile is
/// this call's to raise, and no other's.
fn without_gil<T: Send>(py: Python<'_>, call: impl FnOnce() -> T + Send) -> PyResult<T> {
    // This call may be one of a log handler's, within another.
    let outer = raised_meanwhile();
    let answer = py.detach(call);
    put_back(outer).map_or(Ok(answer), Err)
}

/// The libvirt driver.
fn libvirt(uri: &str, report_stopped: bool) -> PyResult<Libvirt> {
    if uri.contains('\0') {
        return Err(has_nul(uri));
    }
    Ok(Libvirt::new(uri, report_stopped))
}

fn has_nul(uri: &str) -> PyErr {
    let uri = Uri(uri);
    PyValueError::new_err(format!("the URI \"{uri}\" contains a NUL; use one like qemu:///system"))
}

/// What was given of the timeout, the greatest age, and the workers, what they read ahead, and how many
/// may be stuck.
fn limits(
    timeout: f64,
    max_age: Option<f64>,
    (workers, read_ahead, max_stuck): (i64, i64, i64),
) -> PyResult<Limits> {
    let mut limits = checked(Limits::default().with_timeout(seconds(timeout)), timeout)?;
    if let Some(max_age) = max_age {
        limits = checked(limits.with_max_age(seconds(max_age)), max_age)?;
    }
    let limits = checked(limits.with_workers(number(workers)), workers)?;
    let limits = checked(limits.with_read_ahead(number(read_ahead)), read_ahead)?;
    checked(limits.with_max_stuck(number(max_stuck)), max_stuck)
}

/// A number, however large.
fn real(given: &Bound<'_, PyAny>) -> PyResult<f64> {
    unless_too_large(given, given.extract(), f64::NEG_INFINITY, f64::INFINITY)
}

/// The same, or None.
fn real_or_none(given: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
    if given.is_none() { Ok(None) } else { real(given).map(Some) }
}

/// A whole number, however large.
fn whole(given: &Bound<'_, PyAny>) -> PyResult<i64> {
    unless_too_large(given, given.extract(), i64::MIN, i64::MAX)
}

/// What Python has no room for is out of every range anyway.
fn unless_too_large<T>(
    given: &Bound<'_, PyAny>,
    number: PyResult<T>,
    least: T,
    most: T,
) -> PyResult<T> {
    match number {
        Err(error) if error.is_instance_of::<PyOverflowError>(given.py()) => {
            let is_negative = unless_refused(given.py(), given.lt(0), false)?;
            Ok(if is_negative { least } else { most })
        }
        number => number,
    }
}

/// A time that somebody has given; what is none is longer than any limit may be.
fn seconds(given: f64) -> Duration {
    Duration::try_from_secs_f64(given).unwrap_or(Duration::MAX)
}

/// A number that somebody has given; a negative one is more than any limit may be.
fn number(given: i64) -> usize {
    usize::try_from(given).unwrap_or(usize::MAX)
}

fn checked(limits: Result<Limits, InvalidLimit>, given: impl Display) -> PyResult<Limits> {
    limits.map_err(|invalid| PyValueError::new_err(format!("{invalid}, not {given}")))
}
