//! The counters that are read, by the names that are the same everywhere; their numbers are each
//! vCenter's own.

/// A counter of the performance manager's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Counter {
    CpuRun,
    CpuUsed,
    CpuReady,
    CpuCostop,
    CpuWait,
    CpuIdle,
    MemoryConsumed,
    MemoryActive,
    MemoryBalloon,
    Uptime,
    NetReceived,
    NetSent,
    NetPacketsReceived,
    NetPacketsSent,
    NetDroppedReceived,
    NetDroppedSent,
    DiskRead,
    DiskWritten,
    DiskReads,
    DiskWrites,
    DiskReadLatency,
    DiskWriteLatency,
}

/// What a counter counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Vm,
    Cpu,
    Nic,
    Disk,
}

impl Counter {
    pub(super) const ALL: [Self; 22] = [
        Self::CpuRun,
        Self::CpuUsed,
        Self::CpuReady,
        Self::CpuCostop,
        Self::CpuWait,
        Self::CpuIdle,
        Self::MemoryConsumed,
        Self::MemoryActive,
        Self::MemoryBalloon,
        Self::Uptime,
        Self::NetReceived,
        Self::NetSent,
        Self::NetPacketsReceived,
        Self::NetPacketsSent,
        Self::NetDroppedReceived,
        Self::NetDroppedSent,
        Self::DiskRead,
        Self::DiskWritten,
        Self::DiskReads,
        Self::DiskWrites,
        Self::DiskReadLatency,
        Self::DiskWriteLatency,
    ];

    /// `group.name.rollup`, as `PerfCounterInfo` has them.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CpuRun => "cpu.run.summation",
            Self::CpuUsed => "cpu.used.summation",
            Self::CpuReady => "cpu.ready.summation",
            Self::CpuCostop => "cpu.costop.summation",
            Self::CpuWait => "cpu.wait.summation",
            Self::CpuIdle => "cpu.idle.summation",
            Self::MemoryConsumed => "mem.consumed.average",
            Self::MemoryActive => "mem.active.average",
            Self::MemoryBalloon => "mem.vmmemctl.average",
            Self::Uptime => "sys.uptime.latest",
            Self::NetReceived => "net.received.average",
            Self::NetSent => "net.transmitted.average",
            Self::NetPacketsReceived => "net.packetsRx.summation",
            Self::NetPacketsSent => "net.packetsTx.summation",
            Self::NetDroppedReceived => "net.droppedRx.summation",
            Self::NetDroppedSent => "net.droppedTx.summation",
            Self::DiskRead => "virtualDisk.read.average",
            Self::DiskWritten => "virtualDisk.write.average",
            Self::DiskReads => "virtualDisk.numberReadAveraged.average",
            Self::DiskWrites => "virtualDisk.numberWriteAveraged.average",
            Self::DiskReadLatency => "virtualDisk.totalReadLatency.average",
            Self::DiskWriteLatency => "virtualDisk.totalWriteLatency.average",
        }
    }

    /// What it counts for, and its place among those that count for the same.
    pub(super) fn of(self) -> (Of, usize) {
        match self {
            Self::MemoryConsumed => (Of::Vm, 0),
            Self::MemoryActive => (Of::Vm, 1),
            Self::MemoryBalloon => (Of::Vm, 2),
            Self::Uptime => (Of::Vm, 3),
            Self::CpuRun => (Of::Cpu, 0),
            Self::CpuUsed => (Of::Cpu, 1),
            Self::CpuReady => (Of::Cpu, 2),
            Self::CpuCostop => (Of::Cpu, 3),
            Self::CpuWait => (Of::Cpu, 4),
            Self::CpuIdle => (Of::Cpu, 5),
            Self::NetReceived => (Of::Nic, 0),
            Self::NetSent => (Of::Nic, 1),
            Self::NetPacketsReceived => (Of::Nic, 2),
            Self::NetPacketsSent => (Of::Nic, 3),
            Self::NetDroppedReceived => (Of::Nic, 4),
            Self::NetDroppedSent => (Of::Nic, 5),
            Self::DiskRead => (Of::Disk, 0),
            Self::DiskWritten => (Of::Disk, 1),
            Self::DiskReads => (Of::Disk, 2),
            Self::DiskWrites => (Of::Disk, 3),
            Self::DiskReadLatency => (Of::Disk, 4),
            Self::DiskWriteLatency => (Of::Disk, 5),
        }
    }

    /// The instances of it that are asked for: the VM as a whole, or each device.
    pub(super) fn instances(self) -> &'static str {
        match self.of().0 {
            Of::Vm | Of::Cpu => "",
            Of::Nic | Of::Disk => "*",
        }
    }
}
