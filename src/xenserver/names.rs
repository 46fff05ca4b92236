//! Names of a VM's data sources that are of use: `rrdp_cpu.ml`, `rrdp_netdev.ml`, `rrdp_iostat.ml` and
//! `rrdp_squeezed.ml` in ocaml/xcp-rrdd of xapi-project/xen-api. Others are left out: `cpu_usage` is no
//! vCPU, and `io_throughput_*` says again what the bytes say.

/// Something that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Counter {
    /// Seconds that a vCPU ran.
    Cpu,
    /// Bytes, from the guest's side.
    NicReceived,
    NicSent,
    /// Bytes.
    DiskRead,
    /// Requests.
    DiskReads,
    DiskWritten,
    DiskWrites,
    /// Seconds that the domain was in a state, of [`RUN_STATES`].
    RunState,
}

/// The states of a domain of which XAPI may tell the time. Off unless somebody has turned them on.
pub(crate) const RUN_STATES: [&str; 8] = [
    "runstate_fullrun",
    "runstate_full_contention",
    "runstate_concurrency_hazard",
    "runstate_blocked",
    "runstate_partial_run",
    "runstate_partial_contention",
    "runnable_any",
    "runnable_vcpus",
];

/// The latest value of something that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Bytes that the domain has.
    Memory,
    /// Bytes that it shall have.
    MemoryTarget,
    /// KiB that the guest says are free.
    MemoryInternalFree,
}

/// What a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named<'a> {
    /// By the number of the vCPU, the device of the VIF, or the place in [`RUN_STATES`].
    Numbered(Counter, u16),
    /// By the device of the VBD.
    Disk(Counter, &'a str),
    Measured(Measure),
}

/// How many plugins of `xcp-rrdd` counters come from.
pub(crate) const PLUGINS: usize = 3;

impl Counter {
    /// Which plugin of `xcp-rrdd` reads it: each does so at a time of its own.
    pub(crate) fn plugin(self) -> usize {
        match self {
            Self::Cpu | Self::RunState => 0,
            Self::NicReceived | Self::NicSent => 1,
            Self::DiskRead | Self::DiskReads | Self::DiskWritten | Self::DiskWrites => 2,
        }
    }

    /// The other direction of the same device, which has one time with it.
    pub(crate) fn other_direction(self) -> Option<Self> {
        match self {
            Self::NicReceived => Some(Self::NicSent),
            Self::NicSent => Some(Self::NicReceived),
            Self::DiskRead => Some(Self::DiskWritten),
            Self::DiskWritten => Some(Self::DiskRead),
            Self::DiskReads => Some(Self::DiskWrites),
            Self::DiskWrites => Some(Self::DiskReads),
            Self::Cpu | Self::RunState => None,
        }
    }

    /// The bytes of the same device and direction, for requests.
    pub(crate) fn bytes(self) -> Option<Self> {
        match self {
            Self::DiskReads => Some(Self::DiskRead),
            Self::DiskWrites => Some(Self::DiskWritten),
            _ => None,
        }
    }

    /// Whether it is counted by the requests since the last reading.
    pub(crate) fn is_requests(self) -> bool {
        matches!(self, Self::DiskReads | Self::DiskWrites)
    }

    /// Whether its raw counter is a whole number; else it is a float of seconds. That of requests is
    /// none at all.
    pub(crate) fn is_bytes(self) -> bool {
        matches!(self, Self::NicReceived | Self::NicSent | Self::DiskRead | Self::DiskWritten)
    }
}

/// What is of use of a source by its name.
pub(crate) fn named(name: &str) -> Option<Named<'_>> {
    if let Some(vcpu) = name.strip_prefix("cpu") {
        return Some(Named::Numbered(Counter::Cpu, number(vcpu)?));
    }
    if let Some(nic) = name.strip_prefix("vif_") {
        let (device, counter) = nic.split_once('_')?;
        let counter = match counter {
            "rx" => Counter::NicReceived,
            "tx" => Counter::NicSent,
            _ => return None,
        };
        return Some(Named::Numbered(counter, number(device)?));
    }
    if let Some(disk) = name.strip_prefix("vbd_") {
        let (device, counter) = disk.split_once('_')?;
        let counter = match counter {
            "read" => Counter::DiskRead,
            "write" => Counter::DiskWritten,
            "iops_read" => Counter::DiskReads,
            "iops_write" => Counter::DiskWrites,
            _ => return None,
        };
        return Some(Named::Disk(counter, device));
    }
    let measure = match name {
        "memory" => Measure::Memory,
        "memory_target" => Measure::MemoryTarget,
        "memory_internal_free" => Measure::MemoryInternalFree,
        _ => {
            let state = RUN_STATES.iter().position(|state| *state == name)?;
            return Some(Named::Numbered(Counter::RunState, u16::try_from(state).ok()?));
        }
    };
    Some(Named::Measured(measure))
}

/// Digits alone.
fn number(text: &str) -> Option<u16> {
    text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_use_are_known() {
        use Counter::{Cpu, DiskRead, DiskReads, DiskWrites, DiskWritten, NicReceived, NicSent};
        for (name, what) in [
            ("cpu0", Some(Named::Numbered(Cpu, 0))),
            ("cpu127", Some(Named::Numbered(Cpu, 127))),
            ("cpu_usage", None),
            ("cpu", None),
            ("cpu+1", None),
            ("cpu99999", None),
            ("vif_2_rx", Some(Named::Numbered(NicReceived, 2))),
            ("vif_2_tx", Some(Named::Numbered(NicSent, 2))),
            ("vif_2_rx_errors", None),
            ("vbd_xvdaa_read", Some(Named::Disk(DiskRead, "xvdaa"))),
            ("vbd_hda_write", Some(Named::Disk(DiskWritten, "hda"))),
            ("vbd_hda_iops_read", Some(Named::Disk(DiskReads, "hda"))),
            ("vbd_hda_iops_write", Some(Named::Disk(DiskWrites, "hda"))),
            ("vbd_hda_iops_total", None),
            ("vbd_hda_io_throughput_read", None),
            ("vbd_hda_read_latency", None),
            ("memory", Some(Named::Measured(Measure::Memory))),
            ("memory_target", Some(Named::Measured(Measure::MemoryTarget))),
            ("memory_internal_free", Some(Named::Measured(Measure::MemoryInternalFree))),
            ("runstate_blocked", Some(Named::Numbered(Counter::RunState, 3))),
            ("runnable_vcpus", Some(Named::Numbered(Counter::RunState, 7))),
            ("numa_0", None),
            ("", None),
        ] {
            assert_eq!(named(name), what, "{name}");
        }
    }
}
