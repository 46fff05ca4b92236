//! The few questions that every driver answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;
#[cfg(feature = "https")]
use std::time::SystemTime;

use uuid::Uuid;

use crate::details::{DirtyRate, InstanceDetails, IoThreadStats, JobStats};
use crate::error::{Error, Result};
use crate::records::{
    CpuTimes, Disk, DiskInfo, Instance, InstanceId, InstanceStats, Interface, ServerDescription,
    VmCounters,
};

/// When the values of a reading were measured. A call may wait for long before it measures them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Right before the hypervisor was first asked: no value is older. How fresh a reading is goes by
    /// this.
    pub earliest: Instant,
    /// Right after the call that brought the values: none is younger. Intervals go by this.
    pub latest: Instant,
}

impl Moment {
    /// That of values which a call that was begun then has brought just now, and of those before.
    pub(crate) fn measured_since(begun: Instant, before: Option<Self>) -> Self {
        let earliest = before.map_or(begun, |moment| moment.earliest.min(begun));
        Self { earliest, latest: Instant::now() }
    }
}

/// When the values of a reading were measured, and at which start of the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) at: Instant,
    /// Its number; `None` where that is not known.
    pub(crate) start: Option<u32>,
}

impl Stamp {
    /// Whether the instance was started since an earlier reading, so that all its counters were 0 in
    /// between; false where that is not known.
    pub(crate) fn is_of_another_start(self, before: Self) -> bool {
        self.start.zip(before.start).is_some_and(|(now, before)| now != before)
    }
}

impl From<Instant> for Stamp {
    fn from(at: Instant) -> Self {
        Self { at, start: None }
    }
}

/// What there is to know of a reading beside its values.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    /// What the log is to say once it is handed out: a disk that was refused, say.
    pub lines: Vec<Arc<Warning>>,
    /// When its values were measured; `None` for whoever takes the reading to say.
    pub moment: Option<Moment>,
    /// The number of the running instance, another at each start, when all its counters begin at 0;
    /// `None` where that is not known.
    pub start: Option<u32>,
}

impl Notes {
    /// Takes down that a call which was begun then has brought values just now.
    pub fn measured_since(&mut self, begun: Instant) {
        self.moment = Some(Moment::measured_since(begun, self.moment));
    }

    /// No value is older than this.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.moment.map(|moment| moment.earliest)
    }
}

/// A line for the log that is said once, whichever of the readings that bring it is handed out first.
#[derive(Debug)]
pub struct Warning {
    text: String,
    said: AtomicBool,
}

impl Warning {
    /// One that is not said yet.
    #[must_use]
    pub fn new(text: String) -> Arc<Self> {
        Arc::new(Self { text, said: AtomicBool::new(false) })
    }

    /// What it says.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What is to be said, the first time.
    pub fn say(&self) -> Option<&str> {
        (!self.said.swap(true, Relaxed)).then_some(self.text.as_str())
    }
}

/// Where the sizes of disks came from, since the driver was made (in this process).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SizesRead {
    /// Sizes that were reckoned from what had been asked for anyway.
    pub reckoned: u64,
    /// Sizes that were asked for by a call of their own.
    pub asked: u64,
    /// How often the two differed for a disk, which is asked from then on.
    pub differed: u64,
}

/// The parts that a reading of one instance may have, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Parts(u16);

impl Parts {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// CPU, memory and performance counters.
    pub const STATS: Self = Self(1);
    /// Every NIC that is plugged in, with its counters where the hypervisor gives them.
    pub const NICS: Self = Self(2);
    /// Every disk that is there, with its counters where the hypervisor gives them.
    pub const DISKS: Self = Self(4);
    /// Every disk whose size the hypervisor gives.
    pub const SIZES: Self = Self(8);
    /// Everything that the usage of an instance is reckoned from.
    pub const COUNTERS: Self = Self(16);
    /// What OpenStack Nova says of it.
    pub const SERVER: Self = Self(32);
    /// What it is, beside what it uses.
    pub const DETAILS: Self = Self(64);
    /// The job that is under way.
    pub const JOB: Self = Self(128);
    /// The threads that do its I/O.
    pub const IO_THREADS: Self = Self(256);
    /// How fast it writes to its memory.
    pub const DIRTY_RATE: Self = Self(512);
    /// The whole of what has no parts: a list, for one.
    pub(crate) const WHOLE: Self = Self(1024);

    const EACH: [Self; 11] = [
        Self::STATS,
        Self::NICS,
        Self::DISKS,
        Self::SIZES,
        Self::COUNTERS,
        Self::SERVER,
        Self::DETAILS,
        Self::JOB,
        Self::IO_THREADS,
        Self::DIRTY_RATE,
        Self::WHOLE,
    ];

    /// All that are in one of the two.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// All that are not in the other.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Whether one of those is in it.
    #[must_use]
    pub fn has(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }

    /// Each of them by itself.
    pub fn each(self) -> impl Iterator<Item = Self> {
        Self::EACH.into_iter().filter(move |part| self.has(*part))
    }

    /// Whether one of them has to wait for the guest's process.
    pub(crate) fn need_guest(self) -> bool {
        self.without(Self(Self::NICS.0 | Self::SERVER.0 | Self::WHOLE.0)) != Self::NONE
    }

    /// Those of which there is something to tell while the guest's process does not answer.
    pub(crate) fn known_of_hung(self) -> Self {
        let of_the_guest = Self::DISKS.and(Self::SIZES).and(Self::JOB);
        self.without(of_the_guest.and(Self::IO_THREADS).and(Self::DIRTY_RATE))
    }
}

/// What a part of a reading says.
#[derive(Debug, Clone)]
pub enum Content {
    /// Of [`Parts::STATS`], and what its CPU times were summed up from.
    Stats(Box<InstanceStats>, CpuTimes),
    /// Of [`Parts::NICS`].
    Nics(Vec<Interface>),
    /// Of [`Parts::DISKS`].
    Disks(Vec<Disk>),
    /// Of [`Parts::SIZES`].
    Sizes(Vec<DiskInfo>),
    /// Of [`Parts::COUNTERS`].
    Counters(Box<VmCounters>),
    /// Of [`Parts::SERVER`]; `None` for an instance that is not Nova's.
    Server(Option<Box<ServerDescription>>),
    /// Of [`Parts::DETAILS`].
    Details(Box<InstanceDetails>),
    /// Of [`Parts::JOB`]; `None` where there is none.
    Job(Option<Box<JobStats>>),
    /// Of [`Parts::IO_THREADS`].
    IoThreads(Vec<IoThreadStats>),
    /// Of [`Parts::DIRTY_RATE`]; `None` where it was not measured.
    DirtyRate(Option<DirtyRate>),
}

/// What came of a part: one that failed takes no other with it.
#[derive(Debug)]
pub struct Outcome<T> {
    /// What it says.
    pub answer: Result<T>,
    /// What there is to know beside that.
    pub notes: Notes,
}

impl<T> From<Error> for Outcome<T> {
    fn from(error: Error) -> Self {
        Self { answer: Err(error), notes: Notes::default() }
    }
}

/// A reading of one instance.
#[derive(Debug, Default)]
pub struct Reading {
    /// Each part that was wanted.
    pub parts: Vec<(Parts, Outcome<Content>)>,
    /// What keeps the guest's process from being asked, if anything does: `paused for migration`, say.
    pub busy: Option<&'static str>,
}

/// How far a reading may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// To the guest's process, and wait for it.
    Guest,
    /// To what the hypervisor knows without it: never waits for the guest's process, which may hang.
    /// Disks and sizes are not asked for, usage lacks memory and disks, and statistics lack memory.
    Hypervisor,
    /// To what it tells even while all else in it hangs.
    Priority,
}

/// A hypervisor that readings come from, and how to reach it.
pub trait Hypervisor: Send + Sync + 'static {
    /// A connection; it stays in the thread that has opened it.
    type Connection: Connection;

    /// Where the driver connects to.
    fn uri(&self) -> &str;

    /// Opens a connection; may block for as long as the hypervisor does.
    ///
    /// # Errors
    /// [`ConnectionLost`](crate::Error::ConnectionLost) or [`InvalidUri`](crate::Error::InvalidUri).
    fn connect(&self) -> Result<Self::Connection>;

    /// Whether records say what Ceilometer's own inspector says where that one errs; by default not.
    fn has_parity(&self) -> bool {
        false
    }

    /// Where the sizes of disks came from, by the default nowhere.
    fn sizes(&self) -> SizesRead {
        SizesRead::default()
    }

    /// The NICs and disks that the hypervisor refuses to tell of now, by their instances, and what it
    /// says; by the default none.
    fn refused(&self) -> Vec<(Uuid, Vec<String>)> {
        Vec::new()
    }

    /// The round trips that all connections have made, by the names of the calls.
    fn calls(&self) -> Vec<(&'static str, u64)>;

    /// When the last round trip has ended, of whichever connection; `None` where that is not known.
    fn answered(&self) -> Option<Instant>;
}

/// A connection to a hypervisor. Every question may block for as long as the hypervisor does. Where
/// the connection breaks, the answer is
/// [`ConnectionLost`](crate::Error::ConnectionLost).
pub trait Connection {
    /// Whether the connection is open as far as is known here; never blocks.
    fn is_alive(&self) -> bool;

    /// Every instance that the hypervisor knows, running or not.
    ///
    /// # Errors
    /// [`ConnectionLost`](crate::Error::ConnectionLost) or [`NoList`](crate::Error::NoList).
    fn instances(&mut self) -> Result<Vec<Instance>>;

    /// These parts of an instance, with counters of one moment as far as the hypervisor tells them at
    /// once. NICs and Nova's words alone never wait for the guest's process.
    ///
    /// # Errors
    /// Any [`Error`](crate::Error) that is none of a single part's. A part of an instance that is shut
    /// off has statistics and sizes only where the driver was told to report stopped ones.
    fn read(&mut self, instance: &InstanceId, parts: Parts, reach: Reach) -> Result<Reading>;

    /// How many CPUs the host has; `None`, and a note, where the hypervisor does not tell.
    ///
    /// # Errors
    /// [`ConnectionLost`](crate::Error::ConnectionLost).
    fn host_cpus(&mut self, notes: &mut Notes) -> Result<Option<u32>>;

    /// Whether nobody waits for the instance's guest now; `None` where the hypervisor cannot tell.
    /// Never waits for it itself.
    ///
    /// # Errors
    /// Any [`Error`](crate::Error).
    fn is_free(&mut self, instance: &InstanceId) -> Result<Option<bool>>;
}

/// How long ago a time since the epoch was, seconds, by our clock: it decides nothing.
#[cfg(feature = "https")]
#[allow(clippy::cast_precision_loss)] // of seconds since 1970
pub(crate) fn lag(newest: i64) -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_secs_f64() - newest as f64
}

/// A host of a pool, and how its readings are: for whoever looks for what is wrong.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Host {
    /// Its UUID.
    pub id: Uuid,
    /// What people call it, with its UUID where several hosts of a pool are called the same.
    pub name: String,
    /// Where it is asked.
    pub address: Option<String>,
    /// Whether the rest of the pool hears of it; `None` where that is not told.
    pub live: Option<bool>,
    /// Its product and version, for example `XCP-ng 8.3.0`.
    pub product: Option<String>,
    /// The release that decides what its answers mean: `XenServer`'s `xapi_build`.
    pub build: Option<String>,
    /// Its CPUs.
    pub cpus: Option<u32>,
    /// The instances that run on it.
    pub instances: usize,
    /// What is known to be wrong with its release, a few words each.
    pub quirks: Vec<&'static str>,
    /// The end of the newest values that were read, seconds since the epoch by the host's clock.
    pub newest: Option<i64>,
    /// How old those were when they came, seconds, by the clock of this machine: that and the host's
    /// may differ.
    pub lag: Option<f64>,
    /// How many counters were compared with exact ones, and how many of those differed by more than 1 %.
    pub compared: [u32; 2],
    /// Whether its values were found wrong, so that each instance is read by itself.
    pub exact: bool,
}

/// What a server tells of itself and of its samples, just as it tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Examined {
    /// Its product, version and build.
    pub server: String,
    /// Its clock, in seconds since the epoch.
    pub clock: i64,
    /// The counters that are of use, and that it does not have.
    pub lacking: Vec<&'static str>,
    /// How many properties of the inventory the user may not see.
    pub refused: usize,
    /// How many instances cannot be told.
    pub left_out: usize,
    /// With which fault a call was answered that was also about an instance that does not exist; `None`
    /// where that one was just left out.
    pub unknown: Option<String>,
    /// The newest samples of instances that have any.
    pub sampled: Vec<Sampled>,
}

/// The samples of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sampled {
    /// Of which one.
    pub instance: Uuid,
    /// Whether they came from old to new.
    pub comes_in_order: bool,
    /// From old to new: the end of each by the host's clock, in seconds since the epoch, and how long it is.
    pub times: Vec<(i64, u32)>,
    /// Counter, device (empty for the whole instance), and a value for each of the times; `None` where it is
    /// missing.
    pub series: Vec<(&'static str, String, Vec<Option<i64>>)>,
}
