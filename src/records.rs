//! Plain data that a reading consists of. The ground floor: used by everyone, uses nobody.
//!
//! Names and order of the fields are those of Ceilometer 27's `ceilometer.compute.virt.inspector`;
//! what virtmeter adds comes after them.
//! Counters that libvirt hands out as typed parameters are `i128`: wide enough to be exact for
//! every integer type that libvirt has, and for the sum over all vCPUs.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::printable::Printable;

/// Which virtual machine is meant: libvirt's domain UUID, and a name for messages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InstanceId {
    /// The domain's UUID, by which it is looked up.
    pub uuid: Uuid,
    /// What people call it (Nova: `instance-0000002a`); only ever shown, with escapes in place of
    /// what is not printable.
    pub name: Option<String>,
}

impl From<Uuid> for InstanceId {
    fn from(uuid: Uuid) -> Self {
        Self { uuid, name: None }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} ({})", Printable(name), self.uuid),
            None => write!(f, "{}", self.uuid),
        }
    }
}

/// One virtual machine that the hypervisor knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The domain's UUID.
    pub id: Uuid,
    /// The domain's name.
    pub name: String,
    /// libvirt's `virDomainState`: 1 running, 3 paused, 5 shut off, …
    pub state: u32,
}

/// What to ask these by.
pub(crate) fn ids(instances: &[Instance]) -> Vec<InstanceId> {
    let id =
        |instance: &Instance| InstanceId { uuid: instance.id, name: Some(instance.name.clone()) };
    instances.iter().map(id).collect()
}

/// One instance, and what OpenStack Nova says of it in the domain's metadata
/// (`http://openstack.org/xmlns/libvirt/nova/1.1`, or 1.0).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The instance as libvirt knows it.
    pub instance: Instance,
    /// What its XML says of it.
    pub description: ServerDescription,
}

/// What the XML of a domain of Nova's says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerDescription {
    /// `<os><type>`: `hvm`, or what another hypervisor has.
    pub os_type: Option<String>,
    /// `<os><type arch>`, for example `x86_64`; `None` where it is missing.
    pub architecture: Option<String>,
    /// What Nova says of it.
    pub nova: NovaMetadata,
    /// What Ceilometer's discovery needs and is not there, or no number: a few words for each. It
    /// leaves such an instance out.
    pub missing: Vec<String>,
}

/// What OpenStack Nova writes into the metadata of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NovaMetadata {
    /// The name that the user gave.
    pub name: Option<String>,
    /// The owner's user id.
    pub user_id: Option<String>,
    /// The owner's project id.
    pub project_id: Option<String>,
    /// What the instance was made after.
    pub flavor: Flavor,
    /// The id of the image that the root disk was made from.
    pub image_id: Option<String>,
    /// What Nova says of the image, by the names of its own API; `None` before 2025.2.
    pub image_meta: Option<Vec<(String, Option<String>)>>,
}

/// What an instance was made after; sizes are 0 where Nova does not tell them, and `None` where what it
/// tells is no number, or there is no flavor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Flavor {
    /// Its id; `None` before 2025.2.
    pub id: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Number of vCPUs.
    pub vcpus: Option<i64>,
    /// Memory, MiB.
    pub ram: Option<i64>,
    /// Root disk, GiB.
    pub disk: Option<i64>,
    /// Ephemeral disk, GiB.
    pub ephemeral: Option<i64>,
    /// Swap disk, MiB.
    pub swap: Option<i64>,
    /// Its extra specs; `None` before 2025.2.
    pub extra_specs: Option<Vec<(String, Option<String>)>>,
}

/// CPU, memory and performance counters of one instance; `None` where the hypervisor has no value.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InstanceStats {
    /// libvirt's `virDomainState`: 1 running, 3 paused, 5 shut off, …
    pub power_state: Option<u32>,
    /// Number of vCPUs that are plugged in now (`vcpu.current`).
    pub cpu_number: Option<i128>,
    /// CPU time used since boot, nanoseconds: time and wait summed over the vCPUs, or else `cpu.time`.
    /// [`Inspector::instance`](crate::Inspector::instance) has it go on where vCPUs are unplugged or the
    /// source changes, and leaves out leaps of the wait, but with parity.
    pub cpu_time: Option<i128>,
    /// Memory that the balloon leaves to the guest, MiB (`actual`).
    pub memory_actual: Option<f64>,
    /// Memory that the guest's kernel sees, MiB (`available`).
    pub memory_available: Option<f64>,
    /// Memory in use inside the guest, MiB (`available` less `usable`, or else less `unused`).
    pub memory_usage: Option<f64>,
    /// Resident memory of the guest's process on the host, MiB (`rss`), as the kernel counts it: the
    /// huge pages of a guest with `<hugepages>` are not in it.
    pub memory_resident: Option<f64>,
    /// Memory read back from the guest's swap since boot, MiB.
    pub memory_swap_in: Option<f64>,
    /// Memory written to the guest's swap since boot, MiB.
    pub memory_swap_out: Option<f64>,
    /// CPU cycles (`perf.cpu_cycles`).
    pub cpu_cycles: Option<i128>,
    /// Instructions (`perf.instructions`).
    pub instructions: Option<i128>,
    /// Cache references (`perf.cache_references`).
    pub cache_references: Option<i128>,
    /// Cache misses (`perf.cache_misses`).
    pub cache_misses: Option<i128>,
    /// Time that the vCPUs have waited for a CPU of the host since boot, nanoseconds (`vcpu.N.wait`,
    /// all vCPUs or none). It is the kernel's `wait_sum`, the time on the run queue, which
    /// `vcpu_delay` has by another counter: not waiting for I/O, whatever libvirt's manual says. 0
    /// unless the host has `kernel.sched_schedstats = 1`. With vSphere, `cpu.wait` less `cpu.idle`: blocked
    /// by disks or by `VMkernel`'s swap.
    pub vcpu_wait: Option<i128>,
    /// Time that the vCPUs could have run but had no host CPU, nanoseconds: what the guest calls
    /// steal (`vcpu.N.delay`, all vCPUs or none). With vSphere, `cpu.ready` and `cpu.costop`.
    pub vcpu_delay: Option<i128>,
    /// Page faults in the guest since boot that had to read from a disk (`major_fault`).
    pub memory_major_faults: Option<u64>,
    /// Page faults in the guest since boot that did not (`minor_fault`).
    pub memory_minor_faults: Option<u64>,
    /// Memory of the guest's caches that it could give back without writing, MiB (`disk_caches`).
    pub memory_disk_caches: Option<f64>,
    /// Huge pages that the guest has allocated since boot (`hugetlb_pgalloc`).
    pub memory_hugetlb_allocations: Option<u64>,
    /// Huge pages that the guest has failed to allocate since boot (`hugetlb_pgfail`).
    pub memory_hugetlb_failures: Option<u64>,
    /// Memory that the hypervisor believes the guest to have used of late, MiB: an estimate by samples
    /// of pages (vSphere's `mem.active`; `None` elsewhere).
    pub memory_active: Option<f64>,
    /// When the guest last told its memory, seconds since the epoch by the host's clock
    /// (`last-update`); `None` where it never has. All of its memory but `memory_actual` and
    /// `memory_resident` is of then.
    pub memory_updated: Option<u64>,
    /// Time that the vCPUs have run since boot, without any waiting, nanoseconds (`vcpu.N.time`, all
    /// vCPUs or none).
    pub vcpu_time: Option<i128>,
    /// The number of the start since which the counters count, but those of the guest's own memory;
    /// another one at each. `None` where it is not known.
    pub start: Option<u32>,
}

/// The counters of one virtual NIC since it was plugged in, as `virDomainInterfaceStats` has them
/// (-1 where the hypervisor does not count).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InterfaceCounters {
    /// Bytes received by the guest.
    pub rx_bytes: i64,
    /// Packets received by the guest.
    pub rx_packets: i64,
    /// Receive errors.
    pub rx_errors: i64,
    /// Received packets dropped.
    pub rx_drop: i64,
    /// Bytes sent by the guest.
    pub tx_bytes: i64,
    /// Packets sent by the guest.
    pub tx_packets: i64,
    /// Send errors.
    pub tx_errors: i64,
    /// Sent packets dropped.
    pub tx_drop: i64,
}

impl InterfaceCounters {
    /// Where the hypervisor does not count at all.
    pub(crate) const NONE: Self = Self {
        rx_bytes: -1,
        rx_packets: -1,
        rx_errors: -1,
        rx_drop: -1,
        tx_bytes: -1,
        tx_packets: -1,
        tx_errors: -1,
        tx_drop: -1,
    };

    /// Whether anything was counted so far.
    pub(crate) fn has_any(&self) -> bool {
        [self.rx_bytes, self.rx_packets, self.tx_bytes, self.tx_packets].iter().any(|one| *one > 0)
    }
}

/// Names and values. All readings of a NIC share those that its description has.
pub type Parameters = Arc<[(String, Option<String>)]>;

/// One virtual NIC: where it is plugged in and what went through it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The host's side of the NIC (`<target dev>`), for example `tap1f0c`, or its MAC address where it
    /// has none.
    pub name: String,
    /// The MAC address (`<mac address>`).
    pub mac: Option<String>,
    /// The network filter (`<filterref filter>`).
    pub fref: Option<String>,
    /// The filter's parameters with lower-cased names, then `interfaceid` and `bridge`.
    pub parameters: Parameters,
    /// The counters; `None` where the hypervisor refused them.
    pub counters: Option<InterfaceCounters>,
    /// When they were measured, by a call of their own; `None` if with the whole reading.
    pub measured: Option<Instant>,
    /// Whether they may go on over a new start of the instance, as its hypervisor does not make the
    /// host's side of the NIC.
    pub outlives: bool,
    /// What it is known by, where its name is another at each start of the instance.
    pub known_by: Option<String>,
}

impl Interface {
    /// What it is known by from one reading to the next.
    pub(crate) fn key(&self) -> &str {
        self.known_by.as_ref().unwrap_or(&self.name)
    }

    /// Whether it is a device of the host that the guest has for itself, and so has no name there but its
    /// MAC address.
    pub(crate) fn is_handed_through(&self) -> bool {
        self.mac.as_ref() == Some(&self.name)
    }
}

/// One virtual NIC with its counters and what was added since the last reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceStats {
    /// The host's side of the NIC.
    pub name: String,
    /// The MAC address.
    pub mac: Option<String>,
    /// The network filter.
    pub fref: Option<String>,
    /// The filter's parameters with lower-cased names, then `interfaceid` and `bridge`.
    pub parameters: Parameters,
    /// The counters since the NIC was plugged in.
    pub counters: InterfaceCounters,
    /// Bytes received since the last reading of this NIC; 0 at the first, but all of them where the
    /// instance was started since its last reading (not with parity).
    pub rx_bytes_delta: i128,
    /// Bytes sent since then, likewise.
    pub tx_bytes_delta: i128,
    /// The number of the instance's start since which they count, or a later plugging in; `None` where
    /// they may be older, or that is not known.
    pub start: Option<u32>,
}

/// The counters of one disk since the guest was started (-1 where the hypervisor does not count).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskCounters {
    /// Bytes read.
    pub read_bytes: i64,
    /// Read operations.
    pub read_requests: i64,
    /// Bytes written.
    pub write_bytes: i64,
    /// Write operations.
    pub write_requests: i64,
    /// I/O errors.
    pub errors: i64,
    /// Time that writes took, nanoseconds (`wr_total_times`).
    pub wr_total_times: Option<i128>,
    /// Time that reads took, nanoseconds (`rd_total_times`).
    pub rd_total_times: Option<i128>,
    /// Flushes (`flush_operations`).
    pub flush_requests: Option<i128>,
    /// Time that flushes took, nanoseconds (`flush_total_times`).
    pub flush_total_times: Option<i128>,
}

/// One disk that is there, and what went through it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The disk's name in the guest (`<target dev>`), for example `vda`.
    pub device: String,
    /// The counters; `None` where the hypervisor refused them.
    pub counters: Option<DiskCounters>,
    /// When its bytes were measured, by a call of their own; `None` if with the whole reading.
    pub measured: Option<Instant>,
    /// When its requests were measured, likewise.
    pub requests_measured: Option<Instant>,
}

/// One disk with its counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskStats {
    /// The disk's name in the guest (`<target dev>`), for example `vda`.
    pub device: String,
    /// The counters since the guest was started.
    pub counters: DiskCounters,
    /// The number of the instance's start since which they count, or a later plugging in; `None` where
    /// that is not known.
    pub start: Option<u32>,
}

/// The times of one vCPU since it was plugged in, nanoseconds; `None` where the hypervisor has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VcpuTimes {
    /// For which it has run.
    pub time: Option<i128>,
    /// For which it has waited.
    pub wait: Option<i128>,
    /// For which it could have run but had no CPU of the host.
    pub delay: Option<i128>,
}

/// What the CPU times of an instance are summed up from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuTimes {
    /// The vCPUs that are plugged in now, by their numbers; `None` where not all of them are told.
    pub vcpus: Option<Vec<(u32, VcpuTimes)>>,
    /// CPU time of the whole instance since boot, nanoseconds.
    pub whole: Option<i128>,
}

/// What the usage of an instance is reckoned from: counters and sizes of one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VmCounters {
    /// Number of vCPUs that are plugged in now.
    pub cpu_number: Option<u32>,
    /// Each of them; where it is told, the sums over the vCPUs count those that were unplugged, too.
    pub vcpus: Option<Vec<(u32, VcpuTimes)>>,
    /// Time for which the vCPUs have run since boot, nanoseconds.
    pub vcpu_time: Option<i128>,
    /// When the vCPUs' times were measured; `None` if with the whole reading.
    pub vcpus_measured: Option<Instant>,
    /// CPU time of the whole instance since boot, with what its hypervisor does for it, nanoseconds.
    pub cpu_time: Option<i128>,
    /// When that was measured, if by itself; `None` if with the whole reading.
    pub cpu_measured: Option<Instant>,
    /// What each vCPU that is plugged in has used of that, and when it was measured, where one may be known without the
    /// others.
    pub each_cpu: Option<Vec<(u32, i64, Instant)>>,
    /// Time for which the vCPUs have waited for a CPU of the host since boot, nanoseconds.
    pub vcpu_wait: Option<i128>,
    /// Time for which the vCPUs could have run but had no CPU of the host, nanoseconds.
    pub vcpu_delay: Option<i128>,
    /// Its memory now.
    pub memory: Memory,
    /// Every NIC that is there, also one without counters.
    pub interfaces: Vec<Interface>,
    /// Every disk that is there, also one without counters; `None` where its guest was not to be
    /// asked.
    pub disks: Option<Vec<Disk>>,
}

/// The memory of one instance, KiB, and when it was told; `None` where the hypervisor has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// The most that the instance may have.
    pub total: Option<u64>,
    /// What is in use inside the guest: what its kernel sees, less what is free.
    pub used: Option<u64>,
    /// What the guest could use without swapping, or else what it does not use at all.
    pub free: Option<u64>,
    /// What the balloon is to leave to the guest.
    pub target: Option<u64>,
    /// When the guest told `used` and `free`, seconds since the epoch by the host's clock.
    pub updated: Option<u64>,
}

/// What one virtual machine has used since the last reading of its usage.
///
/// What is not known is `None`: all that is over an interval at a caller's first reading; what all
/// NICs (or all disks) have done together, while a part of it is not known: the hypervisor refuses
/// one, or its counters went back; CPU times when their counter went back, or nothing new is told of a
/// vCPU. What was used in the meantime is told with the next reading that knows it, over the longer
/// time. NICs and disks count
/// where they were there at both ends of that time; what one did around its counters' going back is
/// lost, and nothing of the others. At a new start of the instance all counters begin at 0: all that
/// they say was used since the last reading.
#[derive(Debug, Clone, PartialEq)]
pub struct VmUsage {
    /// The instance.
    pub instance: InstanceId,
    /// Number of vCPUs that are plugged in now.
    pub cpu_number: Option<u32>,
    /// How much of the time of its own vCPUs they have run, percent from 0 to 100.
    pub cpu_utilization: Option<f64>,
    /// How much of the time of all CPUs of the host it has used, with what its hypervisor does for
    /// it, percent from 0 to 100.
    pub host_cpu_utilization: Option<f64>,
    /// The time since the last reading.
    pub interval: Option<Duration>,
    /// KiB received by the guest within `network_interval`.
    pub network_read_kib: Option<f64>,
    /// KiB sent by the guest within `network_interval`.
    pub network_write_kib: Option<f64>,
    /// Read operations within `disk_requests_interval`.
    pub disk_read_requests: Option<i128>,
    /// Write operations within `disk_requests_interval`.
    pub disk_write_requests: Option<i128>,
    /// KiB read from disks within `disk_interval`.
    pub disk_read_kib: Option<f64>,
    /// KiB written to disks within `disk_interval`.
    pub disk_write_kib: Option<f64>,
    /// Its memory now.
    pub memory: Memory,
    /// How much of the time of its own vCPUs they have waited for a CPU of the host (not for I/O),
    /// percent from 0 to 100; 0 unless the host has `kernel.sched_schedstats = 1`.
    pub cpu_wait: Option<f64>,
    /// How much of the time of its own vCPUs they could have run but had no CPU of the host, percent
    /// from 0 to 100.
    pub cpu_steal: Option<f64>,
    /// The time that the network's values are over: `interval`, or longer where those of readings
    /// before were not known. Where NICs have different ones, as one was measured late or started
    /// anew, their mean, weighted by the bytes in a second, both ways: so all bytes over this are the
    /// sum of the NICs' rates.
    pub network_interval: Option<Duration>,
    /// The time that the KiB of the disks are over, likewise.
    pub disk_interval: Option<Duration>,
    /// The time that `cpu_utilization` is over, likewise.
    pub cpu_interval: Option<Duration>,
    /// The time that the requests of the disks are over, likewise; it differs from `disk_interval`
    /// where the hypervisor tells only one of the two.
    pub disk_requests_interval: Option<Duration>,
}

impl VmUsage {
    /// The average in a second of something that went through the NICs.
    #[must_use]
    pub fn network_per_second(&self, amount: f64) -> Option<f64> {
        self.network_interval.map(|interval| amount / interval.as_secs_f64())
    }

    /// The average in a second of something that was read from the disks or written to them.
    #[must_use]
    pub fn disk_per_second(&self, amount: f64) -> Option<f64> {
        self.disk_interval.map(|interval| amount / interval.as_secs_f64())
    }

    /// The average in a second of requests of the disks.
    #[must_use]
    pub fn disk_requests_per_second(&self, amount: f64) -> Option<f64> {
        self.disk_requests_interval.map(|interval| amount / interval.as_secs_f64())
    }
}

/// What went through one virtual NIC in a second, on average since the last reading.
#[derive(Debug, Clone, PartialEq)]
pub struct InterfaceRateStats {
    /// The host's side of the NIC.
    pub name: String,
    /// The MAC address.
    pub mac: Option<String>,
    /// The network filter.
    pub fref: Option<String>,
    /// The filter's parameters with lower-cased names, then `interfaceid` and `bridge`.
    pub parameters: Parameters,
    /// Bytes per second that the guest received.
    pub rx_bytes_rate: f64,
    /// Bytes per second that the guest sent.
    pub tx_bytes_rate: f64,
}

/// What one disk did in a second, on average since the last reading. One whose bytes are not known is
/// left out.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskRateStats {
    /// The disk's name in the guest.
    pub device: String,
    /// Bytes read per second.
    pub read_bytes_rate: f64,
    /// Read operations per second; `None` where they are not known.
    pub read_requests_rate: Option<f64>,
    /// Bytes written per second.
    pub write_bytes_rate: f64,
    /// Write operations per second; `None` where they are not known.
    pub write_requests_rate: Option<f64>,
}

/// The size of one disk, bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskInfo {
    /// The disk's name in the guest (`<target dev>`).
    pub device: String,
    /// What the guest sees, or the image's physical size where that is larger.
    pub capacity: u64,
    /// What libvirt calls so: what a qcow2 file occupies; of any other image, the highest offset that
    /// was written since the start, or what it occupies before the first write.
    pub allocation: u64,
    /// What libvirt calls so: the length of the image's file or device, or what a raw image that was
    /// written to occupies.
    pub physical: u64,
    /// What the image's file occupies on the host, as `du` says; `None` where that is not known: of
    /// block devices and network storage, for one.
    pub occupied: Option<u64>,
}
