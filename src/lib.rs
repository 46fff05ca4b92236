//! virtmeter reads what every virtual machine on a host uses: CPU, memory, NICs, disks.
//!
//! ```
//! use virtmeter::{Inspector, InstanceId, Libvirt};
//!
//! let inspector = Inspector::new(Libvirt::new("test:///default", false));
//! for instance in inspector.instances()? {
//!     let stats = inspector.instance(&InstanceId::from(instance.id))?;
//!     println!("{}: {:?} MiB", instance.name, stats.memory_usage);
//! }
//! # Ok::<(), virtmeter::Error>(())
//! ```
//!
//! [`Inspector::open`] takes a URI: libvirt's, or that of a `XenServer` pool.
//!
//! A call passes through [`Inspector`] (what a caller can ask), the engine behind it (when and how a reading is taken, within
//! which [`Limits`]), [`Hypervisor`] (the questions that a driver answers) and [`Libvirt`] (a driver); the answers are
//! [records](InstanceStats). The `python` feature adds the Python face on top.
//! The page `docs/architecture.md` in the sources tells why it is so.

mod callers;
mod cancellation;
mod collector;
mod continued;
mod deltas;
mod details;
mod error;
mod health;
mod hypervisor;
mod inspector;
mod libvirt;
mod limits;
mod locks;
mod logs;
mod open;
mod per_process;
mod printable;
mod rates;
mod recent;
mod records;
mod rollback;
mod source;
mod threads;
mod usage;
mod xml;

#[cfg(feature = "https")]
mod https;
#[cfg(feature = "python")]
mod python;
#[cfg(feature = "https")]
mod samples;
#[cfg(feature = "https")]
mod sweeps;
#[cfg(feature = "https")]
mod target;
#[cfg(feature = "https")]
mod vsphere;
#[cfg(feature = "https")]
mod xenserver;

pub use details::{
    DirtyRate, DiskDetails, InstanceDetails, IoThreadStats, JobStats, Manager, NicDetails,
    VcpuStats,
};
pub use error::{Error, Failure, Reason, Result};
pub use health::Health;
pub use hypervisor::{
    Connection, Content, Host, Hypervisor, Moment, Notes, Outcome, Parts, Reach, Reading,
    SizesRead, Warning,
};
pub use inspector::Inspector;
pub use libvirt::{Libvirt, LibvirtConnection, quiet_opens};
pub use limits::{InvalidLimit, Limits};
pub use open::{Opening, PasswordSource};
pub use records::{
    CpuTimes, Disk, DiskCounters, DiskInfo, DiskRateStats, DiskStats, Flavor, Instance, InstanceId,
    InstanceStats, Interface, InterfaceCounters, InterfaceRateStats, InterfaceStats, Memory,
    NovaMetadata, Parameters, Server, ServerDescription, VcpuTimes, VmCounters, VmUsage,
};
#[cfg(feature = "https")]
pub use sweeps::close_sessions;

/// The Python module's table of contents.
#[cfg(feature = "python")]
#[pyo3::pymodule]
// Python's name for it.
#[allow(non_upper_case_globals)]
mod _native {
    #[pymodule_export]
    use crate::python::inspector::{AnyInspector, LibvirtInspector};

    #[pymodule_export]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        crate::python::log_and_quiet(module.py())
    }
}
