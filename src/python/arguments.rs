//! What Python callers may hand in, and what they are told when it is something else.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyString, PyTuple, PyType};
use uuid::Uuid;

use crate::records::InstanceId;

/// So much of a caller's text is shown in messages.
const SHOWN: usize = 64;

/// An instance: a UUID string, a `uuid.UUID`, or an object with such an `id` (as Nova's servers
/// and Ceilometer's instances are) and perhaps a name.
pub(crate) struct InstanceArgument(pub(crate) InstanceId);

impl<'py> FromPyObject<'_, 'py> for InstanceArgument {
    type Error = PyErr;

    fn extract(instance: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let py = instance.py();
        if let Some(uuid) = uuid(&instance)? {
            return Ok(Self(uuid.into()));
        }
        let Some(id) = instance.getattr_opt(intern!(py, "id"))? else {
            return Err(PyTypeError::new_err(format!(
                "an instance is a UUID string, a uuid.UUID or an object with an `id`, not {}",
                type_name(&instance)?
            )));
        };
        let Some(uuid) = uuid(&id)? else {
            return Err(PyTypeError::new_err(format!(
                "an instance's `id` is a UUID string or a uuid.UUID, not {}",
                type_name(&id)?
            )));
        };
        let name = instance
            .getattr_opt(intern!(py, "OS-EXT-SRV-ATTR:instance_name"))?
            .and_then(|name| name.extract::<String>().ok())
            .map(|name| name.chars().take(SHOWN).collect());
        Ok(Self(InstanceId { uuid, name }))
    }
}

/// Several of them. Memory is allocated for those that there are, and not for the length that the sequence
/// claims, which may be more than there is.
pub(crate) fn instances(given: &Bound<'_, PyAny>) -> PyResult<Vec<InstanceId>> {
    // PyO3 itself, asked whether this is a sequence or how long it may be, loses what a signal's handler raises
    // meanwhile. For what mostly comes, no Python code is run.
    let is_usual = given.is_instance_of::<PyList>() || given.is_instance_of::<PyTuple>();
    let is_sequence = is_usual || given.is_instance(sequence_class(given.py())?)?;
    if given.is_instance_of::<PyString>() || !is_sequence {
        return Err(PyTypeError::new_err(format!(
            "instances are a sequence of instances, a list for example, not {}",
            type_name(given)?
        )));
    }
    let mut instances = Vec::new();
    for each in given.try_iter()? {
        instances.push(each?.extract::<InstanceArgument>()?.0);
    }
    Ok(instances)
}

/// The UUID that a string or a `uuid.UUID` stands for; `None` for anything else.
fn uuid(value: &Bound<'_, PyAny>) -> PyResult<Option<Uuid>> {
    let text = if value.is_instance_of::<PyString>() {
        value.clone()
    } else if value.is_instance(uuid_class(value.py())?)? {
        value.str()?.into_any()
    } else {
        return Ok(None);
    };
    // A surrogate cannot be part of a UUID, so a lossy copy loses nothing.
    let text = text.cast::<PyString>()?.to_string_lossy().into_owned();
    // With hyphens or without, as libvirt has them; not in braces, nor as a URN.
    let uuid = Uuid::parse_str(&text).ok().filter(|_| matches!(text.len(), 32 | 36));
    uuid.map(Some).ok_or_else(|| {
        let shown: String = text.chars().take(SHOWN).collect();
        PyValueError::new_err(format!(
            "{shown:?} is not an instance's UUID; list_instances() shows them"
        ))
    })
}

/// Looks all classes up, as nothing can be imported any more while the interpreter ends.
pub(crate) fn look_up_classes(py: Python<'_>) -> PyResult<()> {
    sequence_class(py)?;
    uuid_class(py).map(drop)
}

fn sequence_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "collections.abc", "Sequence")
}

fn uuid_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "uuid", "UUID")
}

pub(super) fn type_name(value: &Bound<'_, PyAny>) -> PyResult<String> {
    unless_refused(value.py(), class_name(&value.get_type()), "something else".to_owned())
}

/// What was found of a value, or `otherwise` if the value does not let itself be looked at like that. What
/// else its methods raise, Ctrl-C for example, is its caller's to hear of.
pub(super) fn unless_refused<T>(py: Python<'_>, found: PyResult<T>, otherwise: T) -> PyResult<T> {
    let is_refusal = |error: &PyErr| {
        error.is_instance_of::<PyTypeError>(py)
            || error.is_instance_of::<PyValueError>(py)
            || error.is_instance_of::<PyOverflowError>(py)
    };
    match found {
        Err(error) if is_refusal(&error) => Ok(otherwise),
        found => found,
    }
}

/// The name of a class; not by `Display`, as Python sees to signals meanwhile, and what their handlers
/// raise would be lost.
pub(super) fn class_name(class: &Bound<'_, PyType>) -> PyResult<String> {
    class.name().map(|name| name.to_string_lossy().into_owned())
}
