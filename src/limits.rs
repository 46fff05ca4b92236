//! How far the engine goes.

use std::time::Duration;

/// The longest time that can be set.
const DAY: Duration = Duration::from_secs(24 * 3600);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
/// The most of all that is counted.
const MOST: usize = 1000;

/// The bounds of an [`Inspector`](crate::Inspector)'s work; the defaults suit a host with 10 to 500
/// instances.
///
/// ```
/// use std::time::Duration;
/// use virtmeter::Limits;
///
/// let limits = Limits::default().with_timeout(Duration::from_secs(2))?.with_workers(12)?;
/// assert_eq!(limits.timeout(), Duration::from_secs(2));
/// assert!(limits.with_workers(0).is_err());
/// # Ok::<(), virtmeter::InvalidLimit>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub(crate) timeout: Duration,
    /// Its driver's own, unless it was set.
    pub(crate) max_age: Option<Duration>,
    pub(crate) workers: usize,
    pub(crate) read_ahead: usize,
    pub(crate) max_stuck: usize,
}

/// How many threads there may be by some limits, and how many of them may be stuck.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    threads: usize,
    stuck: usize,
}

impl Capacity {
    /// The larger of each.
    pub(crate) fn max(self, other: Self) -> Self {
        Self { threads: self.threads.max(other.threads), stuck: self.stuck.max(other.stuck) }
    }
}

/// A limit that nobody could keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{name} must be {allowed}")]
pub struct InvalidLimit {
    /// Which one.
    pub name: &'static str,
    /// What it may be, for example `from 1 to 1000`.
    pub allowed: &'static str,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            max_age: None,
            workers: 4,
            read_ahead: 16,
            max_stuck: 12,
        }
    }
}

impl Limits {
    /// A reading that takes longer than this is given up. 5 s by default.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A value that was read ahead is handed out only while it is younger than this. With zero,
    /// nothing is read ahead and nothing shared. By default 1 s with libvirt, 5 s with `XenServer` and
    /// 20 s with vSphere, which have new values only as often.
    #[must_use]
    pub fn max_age(&self) -> Duration {
        self.max_age.unwrap_or(Duration::from_secs(1))
    }

    /// How many readings are taken at once, each in a thread and over a connection of its own. 4 by
    /// default: more are hardly faster, and make everybody else wait who asks the same daemon.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// How many readings are taken ahead of a caller at the most; 0 for none. 16 by default.
    #[must_use]
    pub fn read_ahead(&self) -> usize {
        self.read_ahead
    }

    /// How many threads more may be stuck in calls that do not return: so many guests may hang, and all
    /// others are read on. Each of them occupies one of the daemon's workers as well (`max_workers` in
    /// libvirtd.conf, 20 by default). 12 by default. One that libvirt itself waits for may take two.
    #[must_use]
    pub fn max_stuck(&self) -> usize {
        self.max_stuck
    }

    /// The same with another [`timeout`](Self::timeout).
    ///
    /// # Errors
    /// [`InvalidLimit`] unless it is from 10 ms to a day.
    pub fn with_timeout(self, timeout: Duration) -> Result<Self, InvalidLimit> {
        let valid = (SHORTEST_TIMEOUT..=DAY).contains(&timeout);
        Self { timeout, ..self }.if_valid(valid, "timeout", "from 0.01 to 86400 seconds")
    }

    /// The same with another [`max_age`](Self::max_age).
    ///
    /// # Errors
    /// [`InvalidLimit`] if it is longer than a day.
    pub fn with_max_age(self, max_age: Duration) -> Result<Self, InvalidLimit> {
        Self { max_age: Some(max_age), ..self }.if_valid(
            max_age <= DAY,
            "max_age",
            "from 0 to 86400 seconds",
        )
    }

    /// The same with another number of [`workers`](Self::workers).
    ///
    /// # Errors
    /// [`InvalidLimit`] unless it is from 1 to 1000.
    pub fn with_workers(self, workers: usize) -> Result<Self, InvalidLimit> {
        let valid = (1..=MOST).contains(&workers);
        Self { workers, ..self }.if_valid(valid, "workers", "from 1 to 1000")
    }

    /// The same with another bound on [`read_ahead`](Self::read_ahead).
    ///
    /// # Errors
    /// [`InvalidLimit`] if it is over 1000.
    pub fn with_read_ahead(self, read_ahead: usize) -> Result<Self, InvalidLimit> {
        Self { read_ahead, ..self }.if_valid(read_ahead <= MOST, "read_ahead", "from 0 to 1000")
    }

    /// The same with another bound on [`max_stuck`](Self::max_stuck).
    ///
    /// # Errors
    /// [`InvalidLimit`] if it is over 1000.
    pub fn with_max_stuck(self, max_stuck: usize) -> Result<Self, InvalidLimit> {
        Self { max_stuck, ..self }.if_valid(max_stuck <= MOST, "max_stuck", "from 0 to 1000")
    }

    fn if_valid(
        self,
        valid: bool,
        name: &'static str,
        allowed: &'static str,
    ) -> Result<Self, InvalidLimit> {
        if valid { Ok(self) } else { Err(InvalidLimit { name, allowed }) }
    }

    /// The most threads that take readings, stuck ones and all. One worker alone would be in the last
    /// guest that may hang, and leave nobody for what waits for none.
    pub(crate) fn threads(&self) -> usize {
        self.workers.max(2) + self.max_stuck
    }

    /// The same with no fewer threads than that, and as many that may be stuck.
    pub(crate) fn with_capacity(self, capacity: Capacity) -> Self {
        let stuck = capacity.stuck.max(capacity.threads.saturating_sub(self.workers.max(2)));
        Self { max_stuck: self.max_stuck.max(stuck), ..self }
    }

    pub(crate) fn capacity(&self) -> Capacity {
        Capacity { threads: self.threads(), stuck: self.max_stuck }
    }

    /// How many readings that need the guest's process may be under way: one thread is always left
    /// for those that do not.
    pub(crate) fn waiting_for_guests(&self) -> usize {
        self.threads() - 1
    }

    /// How many threads more there may be while even calls hang that wait for no guest: one for the second
    /// of them, one that may hang in a lock, and one that is left.
    pub(crate) const STARVED: usize = 3;

    /// How many guests may hang while others are still asked that may hang as well.
    pub(crate) fn unknown(&self) -> usize {
        self.max_stuck + 1
    }

    /// A reading that takes longer than this does not count as one of the workers' any more.
    pub(crate) fn slow(&self) -> Duration {
        (self.timeout / 20).min(Duration::from_millis(250))
    }

    /// While a caller is held up for so long, the instances behind it are looked at as well.
    pub(crate) fn held_up(&self) -> Duration {
        self.timeout / 5
    }

    /// A thread that wakes up so late was stopped with its process, or had no CPU.
    pub(crate) fn stopped(&self) -> Duration {
        (self.timeout / 4).max(Duration::from_millis(250))
    }

    /// Between two looks at instances that do not answer.
    pub(crate) fn probe_pause(&self) -> Duration {
        (self.timeout / 5).clamp(Duration::from_millis(100), Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capacity_of_what_others_have_left_does_not_grow() {
        let sizes = [(4, 12), (8, 12), (14, 2), (1, 0)];
        let sizes =
            sizes.map(|(workers, max_stuck)| Limits { workers, max_stuck, ..Limits::default() });
        let mut capacity = sizes[0].capacity();
        for own in sizes.iter().cycle().take(100) {
            capacity = capacity.max(own.capacity());
            let limits = own.with_capacity(capacity);
            assert!(limits.threads() >= capacity.threads && limits.max_stuck >= capacity.stuck);
            assert!(limits.threads() <= 14 + 20, "{limits:?}");
            assert_eq!(limits.workers, own.workers);
        }
    }

    #[test]
    fn each_is_checked_by_itself() {
        let (limits, second) = (Limits::default(), Duration::from_secs(1));
        let name = |result: Result<Limits, InvalidLimit>| result.err().map(|error| error.name);
        for (timeout, refused) in [
            (Duration::ZERO, true),
            (Duration::from_micros(9999), true),
            (Duration::from_millis(10), false),
            (86400 * second, false),
            (86401 * second, true),
            (Duration::MAX, true),
        ] {
            assert_eq!(name(limits.with_timeout(timeout)).is_some(), refused, "{timeout:?}");
        }
        assert_eq!(name(limits.with_timeout(Duration::MAX)), Some("timeout"));
        assert_eq!(limits.with_max_age(Duration::ZERO).unwrap().max_age(), Duration::ZERO);
        assert_eq!(name(limits.with_max_age(Duration::MAX)), Some("max_age"));
        assert_eq!(limits.with_workers(1000).unwrap().workers(), 1000);
        assert_eq!(name(limits.with_workers(0)), Some("workers"));
        assert_eq!(name(limits.with_workers(1001)), Some("workers"));
        assert_eq!(limits.with_read_ahead(0).unwrap().read_ahead(), 0);
        assert_eq!(name(limits.with_read_ahead(usize::MAX)), Some("read_ahead"));
        assert_eq!(limits.with_max_stuck(0).unwrap().max_stuck(), 0);
        assert_eq!(name(limits.with_max_stuck(usize::MAX)), Some("max_stuck"));
        let error = limits.with_timeout(Duration::ZERO).unwrap_err();
        assert_eq!(error.to_string(), "timeout must be from 0.01 to 86400 seconds");
    }
}
