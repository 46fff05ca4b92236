//! What an instance is, beside what it uses: its state, its memory and vCPUs, its disks and NICs, and
//! who manages it. Plain data, as in [`records`](crate::records).

/// What the hypervisor tells of an instance that is no counter, running or not. `None` where it does
/// not tell.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InstanceDetails {
    /// libvirt's `virDomainState`.
    pub state: u32,
    /// Why it is in that state, in the words of `virsh domstate --reason`: `booted`, `I/O error`.
    pub reason: Option<&'static str>,
    /// The title that people gave it (`<title>`).
    pub title: Option<String>,
    /// The machine that it is to its guest (`<os><type machine>`), for example `pc-q35-7.2`.
    pub machine: Option<String>,
    /// The memory that it has when its balloon takes none, MiB (`<memory>`).
    pub memory_maximum: Option<f64>,
    /// The memory that it is to have now, MiB (`<currentMemory>`).
    pub memory_configured: Option<f64>,
    /// The most vCPUs that can be plugged in (`<vcpu>`).
    pub vcpus_maximum: Option<u32>,
    /// The vCPUs that are plugged in, or will be when it is started (`<vcpu current>`).
    pub vcpus_configured: Option<u32>,
    /// What manages it.
    pub manager: Option<Manager>,
    /// Each vCPU that runs, in the order of their numbers.
    pub vcpus: Vec<VcpuStats>,
    /// Each disk that has a target, also a drive without a medium.
    pub disks: Vec<DiskDetails>,
    /// Each NIC that has a target or a MAC address.
    pub nics: Vec<NicDetails>,
    /// The number of the start since which its vCPUs count; `None` where that is not known.
    pub start: Option<u32>,
}

/// What manages an instance, as far as its metadata or its name tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manager {
    /// `nova`, `ovirt`, `kubevirt` or `cloudstack`.
    pub name: &'static str,
    /// What it calls the instance.
    pub instance: Option<String>,
    /// The name of the project, namespace or account that it belongs to, or its number.
    pub project: Option<String>,
    /// The name of the user it belongs to.
    pub user: Option<String>,
}

impl Manager {
    /// The manager of an instance whose name only `CloudStack` gives: `i-ACCOUNT-NUMBER-VM`, and of its own
    /// `r-NUMBER-VM` (routers), `s-` and `v-`, which belong to no account.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let parts: Vec<_> = name.split('-').collect();
        let project = match parts[..] {
            ["i", account, number, "VM"] if is_number(account) && is_number(number) => {
                Some(account.to_owned())
            }
            ["r" | "s" | "v", number, "VM"] if is_number(number) => None,
            _ => return None,
        };
        Some(Self { name: "cloudstack", instance: Some(name.to_owned()), project, user: None })
    }
}

/// One vCPU, nanoseconds since the start (<https://libvirt.org/html/libvirt-libvirt-domain.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VcpuStats {
    /// Its number in the guest.
    pub number: u32,
    /// `virVcpuState`: 0 offline, 1 running, 2 blocked.
    pub state: Option<u32>,
    /// Time that it has run (`vcpu.N.time`).
    pub time: Option<i128>,
    /// Time that it was on the host's run queue (`vcpu.N.wait`).
    pub wait: Option<i128>,
    /// Time that it could have run but had no host CPU (`vcpu.N.delay`).
    pub delay: Option<i128>,
}

/// The job that is under way in an instance: a migration, a backup, a save
/// (<https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainGetJobStats>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobStats {
    /// What it does: `migration out`, `backup`; `None` where the hypervisor does not tell.
    pub operation: Option<&'static str>,
    /// For how long it has been at it, milliseconds (`time_elapsed`).
    pub elapsed_ms: Option<u64>,
    /// How long it expects to need still, milliseconds (`time_remaining`).
    pub left_ms: Option<u64>,
    /// Bytes of memory and disks together: all, those done, those left (`data_total`, …).
    pub data: [Option<u64>; 3],
    /// Bytes of memory, likewise (`memory_total`, …).
    pub memory: [Option<u64>; 3],
    /// Bytes of disks, likewise (`disk_total`, …).
    pub disk: [Option<u64>; 3],
}

/// One thread of the hypervisor's that does I/O for an instance (`iothread.N.*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoThreadStats {
    /// Its number.
    pub number: u32,
    /// The longest that it polls before it sleeps, nanoseconds (`poll-max-ns`).
    pub poll_max: Option<u64>,
    /// By how much it polls longer, and shorter (`poll-grow`, `poll-shrink`).
    pub poll_grow: Option<u64>,
    /// See [`poll_grow`](Self::poll_grow).
    pub poll_shrink: Option<u64>,
}

/// How fast an instance writes to its memory, as it was measured last (`dirtyrate.*`, which
/// `virsh domdirtyrate-calc` measures).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DirtyRate {
    /// MiB a second (`megabytes_per_second`).
    pub mebibytes_per_second: u64,
    /// For how long it was measured, seconds (`calc_period`).
    pub period: Option<u64>,
}

/// What a disk is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskDetails {
    /// Its name in the guest (`<target dev>`), for example `vda`.
    pub device: String,
    /// `disk`, `cdrom`, `floppy` or `lun`.
    pub kind: Option<String>,
    /// The bus that it is on (`<target bus>`), for example `virtio`.
    pub bus: Option<String>,
    /// Its serial number: with Nova, the id of the Cinder volume.
    pub serial: Option<String>,
    /// What its bytes lie on: a path, or for a disk of the network `protocol:name`, or for a volume
    /// `pool/volume`; a device of the host by its PCI address.
    pub source: Option<String>,
    /// The format of its image (`<driver type>`).
    pub format: Option<String>,
    /// How the host caches it (`<driver cache>`).
    pub cache: Option<String>,
    /// The limits that it is under (`<iotune>`), by libvirt's names: `total_bytes_sec`, in bytes or
    /// operations a second.
    pub limits: Vec<(String, u64)>,
}

/// What a NIC is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NicDetails {
    /// The host's side of it (`<target dev>`), or its MAC address where it has none.
    pub name: String,
    /// Its MAC address.
    pub mac: Option<String>,
    /// How it is plugged in: `bridge`, `network`, `hostdev`, `vdpa`.
    pub kind: Option<String>,
    /// What it is to its guest (`<model type>`), for example `virtio`.
    pub model: Option<String>,
    /// The bridge, network or device of the host that it is plugged into; a PCI device by its address.
    pub source: Option<String>,
    /// The id of its port (`<virtualport><parameters interfaceid>`): with Nova, Neutron's.
    pub port_id: Option<String>,
    /// The largest packet, bytes (`<mtu size>`).
    pub mtu: Option<u32>,
}
