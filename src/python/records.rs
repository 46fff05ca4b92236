//! Turns the core's records into the named tuples of `virtmeter.records`, field by field in the
//! order in which those classes declare them.

use std::time::Duration;

use pyo3::IntoPyObjectExt;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyDict, PyList, PyTuple, PyType};

use crate::details::{
    DirtyRate, DiskDetails, InstanceDetails, IoThreadStats, JobStats, Manager, NicDetails,
    VcpuStats,
};
use crate::health::Health;
use crate::hypervisor::Host;
use crate::records::{
    DiskInfo, DiskRateStats, DiskStats, Flavor, Instance, InstanceId, InstanceStats,
    InterfaceRateStats, InterfaceStats, Parameters, Server, VmUsage,
};

/// A record that Python has a named tuple for.
pub(crate) trait Record {
    /// The named tuple.
    fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>>;

    /// Its fields.
    fn fields(self, py: Python<'_>) -> PyResult<Bound<'_, PyTuple>>;

    /// The record as Python sees it.
    fn into_named_tuple(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>>
    where
        Self: Sized,
    {
        // Not `__new__` of a named tuple, which is Python code: while the interpreter ends, it ends each
        // thread that is in such, and with frames of Rust's around it the process would abort.
        let new = py.get_type::<PyTuple>().getattr(intern!(py, "__new__"))?;
        new.call1((Self::class(py)?, self.fields(py)?))
    }
}

macro_rules! named_tuple {
    ($name:ident { $($field:expr),* $(,)? } from $record:ident in $py:ident) => {
        impl Record for $name {
            fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
                static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
                CLASS.import(py, "virtmeter.records", stringify!($name))
            }

            fn fields(self, $py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
                let $record = self;
                PyTuple::new($py, [$($field.into_bound_py_any($py)?),*])
            }
        }
    };
}

/// Looks all classes up, as nothing can be imported any more while the interpreter ends.
pub(crate) fn look_up_classes(py: Python<'_>) -> PyResult<()> {
    Instance::class(py)?;
    Server::class(py)?;
    InstanceStats::class(py)?;
    InterfaceStats::class(py)?;
    DiskStats::class(py)?;
    DiskInfo::class(py)?;
    InterfaceRateStats::class(py)?;
    DiskRateStats::class(py)?;
    VmUsage::class(py)?;
    Health::class(py)?;
    InstanceDetails::class(py)?;
    VcpuStats::class(py)?;
    DiskDetails::class(py)?;
    NicDetails::class(py)?;
    JobStats::class(py)?;
    IoThreadStats::class(py)?;
    DirtyRate::class(py)?;
    Host::class(py)?;
    Ok(())
}

named_tuple!(Instance {
    r.id.to_string(),
    r.name,
    r.state,
} from r in py);

named_tuple!(Server {
    r.instance.id.to_string(),
    r.instance.name,
    r.instance.state,
    r.description.os_type,
    r.description.architecture,
    r.description.nova.name,
    r.description.nova.user_id,
    r.description.nova.project_id,
    flavor(r.description.nova.flavor, py)?,
    r.description.nova.image_id,
    r.description.nova.image_meta.map(|meta| meta.into_py_dict(py)).transpose()?,
    r.description.missing,
} from r in py);

/// By the names of Nova's API.
fn flavor(flavor: Flavor, py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("id", flavor.id)?;
    dict.set_item("name", flavor.name)?;
    dict.set_item("vcpus", flavor.vcpus)?;
    dict.set_item("ram", flavor.ram)?;
    dict.set_item("disk", flavor.disk)?;
    dict.set_item("ephemeral", flavor.ephemeral)?;
    dict.set_item("swap", flavor.swap)?;
    if let Some(specs) = flavor.extra_specs {
        dict.set_item("extra_specs", specs.into_py_dict(py)?)?;
    }
    Ok(dict)
}

named_tuple!(InstanceStats {
    r.power_state,
    r.cpu_number,
    r.cpu_time,
    r.memory_actual,
    r.memory_available,
    r.memory_usage,
    r.memory_resident,
    r.memory_swap_in,
    r.memory_swap_out,
    r.cpu_cycles,
    r.instructions,
    r.cache_references,
    r.cache_misses,
    r.vcpu_wait,
    r.vcpu_delay,
    r.memory_major_faults,
    r.memory_minor_faults,
    r.memory_disk_caches,
    r.memory_hugetlb_allocations,
    r.memory_hugetlb_failures,
    r.memory_active,
    r.memory_updated,
    r.vcpu_time,
    r.start,
} from r in py);

named_tuple!(InterfaceStats {
    r.name,
    r.mac,
    r.fref,
    parameters(&r.parameters, py)?,
    r.counters.rx_bytes,
    r.counters.tx_bytes,
    r.counters.rx_packets,
    r.counters.tx_packets,
    r.counters.rx_drop,
    r.counters.tx_drop,
    r.counters.rx_errors,
    r.counters.tx_errors,
    r.rx_bytes_delta,
    r.tx_bytes_delta,
    r.start,
} from r in py);

fn parameters<'py>(parameters: &Parameters, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in parameters.iter() {
        dict.set_item(name, value)?;
    }
    Ok(dict)
}

named_tuple!(DiskStats {
    r.device,
    r.counters.read_bytes,
    r.counters.read_requests,
    r.counters.write_bytes,
    r.counters.write_requests,
    r.counters.errors,
    r.counters.wr_total_times,
    r.counters.rd_total_times,
    r.counters.flush_requests,
    r.counters.flush_total_times,
    r.start,
} from r in py);

named_tuple!(DiskInfo {
    r.device,
    r.capacity,
    r.allocation,
    r.physical,
    r.occupied,
} from r in py);

named_tuple!(InterfaceRateStats {
    r.name,
    r.mac,
    r.fref,
    parameters(&r.parameters, py)?,
    r.rx_bytes_rate,
    r.tx_bytes_rate,
} from r in py);

named_tuple!(DiskRateStats {
    r.device,
    r.read_bytes_rate,
    r.read_requests_rate,
    r.write_bytes_rate,
    r.write_requests_rate,
} from r in py);

named_tuple!(VmUsage {
    r.instance.uuid.to_string(),
    r.instance.name,
    r.cpu_number,
    r.cpu_utilization,
    r.host_cpu_utilization,
    r.interval.map(|interval| interval.as_secs_f64()),
    r.network_read_kib,
    r.network_write_kib,
    r.disk_read_requests,
    r.disk_write_requests,
    r.disk_read_kib,
    r.disk_write_kib,
    r.memory.total,
    r.memory.used,
    r.memory.free,
    r.memory.target,
    r.cpu_wait,
    r.cpu_steal,
    r.network_interval.map(|interval| interval.as_secs_f64()),
    r.disk_interval.map(|interval| interval.as_secs_f64()),
    r.cpu_interval.map(|interval| interval.as_secs_f64()),
    r.memory.updated,
    r.disk_requests_interval.map(|interval| interval.as_secs_f64()),
} from r in py);

named_tuple!(InstanceDetails {
    r.state,
    r.reason,
    r.title,
    r.machine,
    r.memory_maximum,
    r.memory_configured,
    r.vcpus_maximum,
    r.vcpus_configured,
    r.manager.as_ref().map(|manager| manager.name),
    r.manager.as_ref().and_then(|manager| manager.instance.clone()),
    r.manager.as_ref().and_then(|manager| manager.project.clone()),
    r.manager.and_then(|Manager { user, .. }| user),
    list(py, r.vcpus)?,
    list(py, r.disks)?,
    list(py, r.nics)?,
    r.start,
} from r in py);

named_tuple!(VcpuStats {
    r.number,
    r.state,
    r.time,
    r.wait,
    r.delay,
} from r in py);

named_tuple!(DiskDetails {
    r.device,
    r.kind,
    r.bus,
    r.serial,
    r.source,
    r.format,
    r.cache,
    r.limits.into_py_dict(py)?,
} from r in py);

named_tuple!(NicDetails {
    r.name,
    r.mac,
    r.kind,
    r.model,
    r.source,
    r.port_id,
    r.mtu,
} from r in py);

named_tuple!(JobStats {
    r.operation,
    r.elapsed_ms.map(|elapsed| Duration::from_millis(elapsed).as_secs_f64()),
    r.left_ms.map(|left| Duration::from_millis(left).as_secs_f64()),
    r.data[0],
    r.data[1],
    r.data[2],
    r.memory[0],
    r.memory[1],
    r.memory[2],
    r.disk[0],
    r.disk[1],
    r.disk[2],
} from r in py);

named_tuple!(IoThreadStats {
    r.number,
    r.poll_max,
    r.poll_grow,
    r.poll_shrink,
} from r in py);

named_tuple!(DirtyRate {
    r.mebibytes_per_second,
    r.period,
} from r in py);

named_tuple!(Host {
    r.id.to_string(),
    r.name,
    r.address,
    r.live,
    r.product,
    r.build,
    r.cpus,
    r.instances,
    r.quirks,
    r.newest,
    r.lag,
    r.compared[0],
    r.compared[1],
    r.exact,
} from r in py);

named_tuple!(Health {
    r.connections,
    r.opened,
    r.broken,
    r.threads,
    r.stuck,
    r.handed_out,
    r.read_ahead,
    r.wasted,
    r.timeouts,
    r.late,
    r.age_sum.as_secs_f64(),
    r.age_max.as_secs_f64(),
    r.calls.into_py_dict(py)?,
    hung(r.hung).into_py_dict(py)?,
    r.busy.into_iter().map(|(id, why)| named(id, why)).collect::<Vec<_>>().into_py_dict(py)?,
    r.list_hangs.map(|since| since.as_secs_f64()),
    r.locked.into_iter().map(|id| (id.uuid.to_string(), id.name)).collect::<Vec<_>>().into_py_dict(py)?,
    r.outage.map(|(failure, since)| (failure.to_string(), since.as_secs_f64())),
    r.sizes.reckoned,
    r.sizes.asked,
    r.sizes.differed,
    r.refused.into_iter().map(|(id, lines)| (id.to_string(), lines)).collect::<Vec<_>>().into_py_dict(py)?,
    r.away
        .into_iter()
        .map(|(host, failure, since)| (host, (failure.to_string(), since.as_secs_f64())))
        .collect::<Vec<_>>()
        .into_py_dict(py)?,
} from r in py);

/// Records as Python sees them.
pub(crate) fn list<R: Record>(
    py: Python<'_>,
    records: impl IntoIterator<Item = R>,
) -> PyResult<Bound<'_, PyList>> {
    let records: Vec<_> =
        records.into_iter().map(|record| record.into_named_tuple(py)).collect::<PyResult<_>>()?;
    PyList::new(py, records)
}

/// By UUID, the name and for how many seconds the instance has not answered.
fn hung(hung: Vec<(InstanceId, Duration)>) -> Vec<(String, (Option<String>, f64))> {
    hung.into_iter().map(|(id, since)| named(id, since.as_secs_f64())).collect()
}

/// By UUID, the name and something else.
fn named<T>(id: InstanceId, what: T) -> (String, (Option<String>, T)) {
    (id.uuid.to_string(), (id.name, what))
}
