//! One VM: which of its rows are taken, and what it has counted.
//!
//! Releases before 25.22 do not read the sources of a paused VM. What they export for it meanwhile are
//! old rows with current times, shifted further at each turn. The first reading after the pause tells
//! how much was counted since the last one before it, and the mean of that goes into all rows in between;
//! so those rows, read again after the pause, add up to the truth. Until then, the time of the pause is
//! covered, without growth.

use uuid::Uuid;

use super::counted::{Before, Counted, GAP};
use super::names::{Counter, Measure, Named};
use super::quirks::Quirks;
use crate::samples::{Mark, Sum};

mod exact;
mod told;

use exact::Next;

/// In 10^-9.
const SECOND: i64 = 1_000_000_000;
/// After a start, all plugins were read again this long after the first row that came after it.
const READ_ANEW: i64 = 10;
/// So often at most, exact values are read for those that lack.
const TRIES: u8 = 3;
/// While rows are missing, exact values are read again after so many seconds, and then after twice as long
/// each time, up to this; once there are rows, after the first.
const PAUSES: [i64; 2] = [60, 600];
/// More than there is in any machine, in bytes or KiB.
const MOST_MEMORY: f64 = 1e15;
/// For so many seconds at most, the rows of a VM that moves may be on neither host.
const MOVING: i64 = 60;
/// No request moves fewer bytes,
const SECTOR: f64 = 512.0;
/// but for those that move none, as a flush does: there may be so many a second.
const FEW_REQUESTS: f64 = 100.0;
/// Within so many seconds, a host reads all of its VMs.
const TURN: i64 = 10;
/// Numbers with as many digits as hosts print are the same up to that.
const SAME: f64 = 1e-3;
/// `minimal_heartbeat` of all sources.
const HEARTBEAT: i64 = 300;

/// As far as rows are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Paused,
    /// Halted or suspended.
    Gone,
}

/// What the inventory says of a VM.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) state: State,
    /// Another at each start, also after a migration,
    pub(crate) domid: i64,
    /// unless its host was started anew as well: then this one is, which may be told a moment later.
    pub(crate) started: Option<u64>,
    /// On which host it is (`resident_on`).
    pub(crate) host: Option<Uuid>,
    /// vCPUs that are online.
    pub(crate) vcpus: u16,
    /// The devices of its VIFs that are plugged in.
    pub(crate) nics: &'a [u16],
    /// The devices of its VBDs that are plugged in.
    pub(crate) disks: &'a [&'a str],
}

/// The latest value of something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MeasuredAt {
    pub(crate) value: f64,
    /// The end of its row, by the host's clock.
    pub(crate) t: i64,
}

/// What is to be done with the rows of a VM in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Not,
    /// Only what is measured is of use.
    Measures,
    /// All rows after the mark. The time of a pause, between those, was covered before.
    All {
        mark: Mark,
        covered: Option<(i64, i64)>,
        is_measured: bool,
    },
    /// The first rows after a pause has begun, which may be shifted: those that are newer than the one
    /// that was the last to be taken.
    Shifted {
        mark: Mark,
    },
}

/// A column of a counter in an answer, and what its rows add up to.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) column: usize,
    pub(crate) counter: Counter,
    device: u16,
    /// The column of the other direction, if there is one.
    other: Option<usize>,
    /// Of requests in both directions: their columns, and those of their bytes.
    requests: [Option<(usize, usize)>; 2],
    /// Where the VM has it.
    pub(super) index: usize,
    /// Its value in the newest row that was taken, and in that of this answer.
    last: Option<f32>,
    newest: Option<f32>,
    /// It was not in the newest row that was taken.
    follows_unknown: bool,
    sum: Sum,
    /// What of that is from before its exact value was read, and the next one, to be compared. Boxed, as
    /// most have none.
    before: [Option<Box<Before>>; 2],
    /// What was covered by the row after, where nothing grew in it, in 10^-9 s.
    zero: u64,
}

#[derive(Debug)]
pub(crate) struct Vm {
    pub(super) host: Option<Uuid>,
    mark: Option<Mark>,
    /// Of one that is on no host: where it was, and up to where its rows were taken there.
    left: Option<(Uuid, Option<Mark>)>,
    state: State,
    in_rows: InRows,
    given_back: Option<GivenBack>,
    /// Whether the last rows that were taken were the shortest ones.
    took_short: bool,
    /// The requests in its next rows may be of another host's kind.
    lacks_requests: bool,
    domid: Option<i64>,
    started: Option<u64>,
    /// How often its domain is another since it is known.
    starts: u32,
    vcpus: u16,
    /// Sorted by what they count, and of what.
    counters: Vec<Slot>,
    /// Names of disks; counters have their places here.
    disks: Vec<Box<str>>,
    /// For how long something at least was covered: whatever is not read any more, time goes on.
    covered: u64,
    /// Of all vCPUs: the mean of what was covered.
    cpu_covered: u64,
    /// In a pause, or after one, of a release whose rows stand still then.
    still: Option<Still>,
    exact: ExactFrom,
    /// How often exact values are still to be read, as something has none that may have one. A disk that
    /// the host does not tell of never has.
    tries: u8,
    gap: Option<Gap>,
    /// Exact values to compare with rows, once those have come.
    next: Option<Box<Next>>,
    memory: Option<MeasuredAt>,
    memory_target: Option<MeasuredAt>,
    memory_internal_free: Option<MeasuredAt>,
}

/// Whether the rows of its host tell of a VM. While it moves, neither host may: its rows go from one to the other a
/// moment before or after the inventory says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InRows {
    Told,
    /// It has come from another host, and they do not tell its last rows there: they are on their way. Since when, if
    /// that was seen.
    Coming(Option<i64>),
    /// They told of it until then.
    Missed(i64),
    Never,
}

/// Once a VM was started, its host is given back the RRD of before. Until it has read the VM again, it tells the last
/// rows of that one as if they were those of now.
#[derive(Debug, Clone, Copy, Default)]
struct GivenBack {
    /// Its first rows came then,
    since: Option<i64>,
    /// and some were taken.
    is_taken: bool,
}

/// What an answer tells of the row up to which the rows of a VM were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// That it did nothing, or nothing is known, though it did something.
    Nothing,
    /// Nothing that shows whether it is the same one.
    Told,
    /// What was taken.
    Same,
    /// Something else: rows are told with other times than theirs.
    Other,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // each of them may come with any other
struct Slot {
    counter: Counter,
    device: u16,
    is_there: bool,
    /// Whether it was there since the domain was started: others may be of one before, which had more vCPUs.
    is_of_domain: bool,
    in_newest_row: bool,
    /// Whether a row of it was ever known, since its domain was started or it was plugged in.
    is_known: bool,
    /// Its value in the newest row that was taken.
    last: Option<f32>,
    counted: Counted,
}

#[derive(Debug, Default)]
struct Still {
    /// The time that was covered without growth.
    covered: Option<(i64, i64)>,
    /// The newest row of the host when the VM was seen to run again.
    resumed: Option<i64>,
}

/// Rows are missing: what was counted meanwhile is in exact values alone.
#[derive(Debug)]
struct Gap {
    /// Those were not read since.
    is_open: bool,
    /// When they may be read, by the host's clock; and how much later again, if rows are missing still.
    due: i64,
    pause: i64,
}

/// From when exact values are of this domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExactFrom {
    /// Once its host has told rows.
    Unknown,
    At(i64),
}

impl GivenBack {
    /// Whether these are rows of before the start.
    fn is_before(&mut self, last: Option<Last>, is_other: bool, newest: i64) -> bool {
        let since = *self.since.get_or_insert(newest);
        let is_within = |seconds| (0..seconds).contains(&(newest - since));
        // When it was seen to stand still, it did nothing.
        let has_run = matches!(last, Some(Last::Same | Last::Other));
        if self.is_taken { is_other && is_within(MOVING) } else { has_run && is_within(TURN) }
    }
}

impl Way {
    /// The same where no counter is to be taken.
    pub(super) fn without_counters(self) -> Self {
        match self {
            Self::All { is_measured: true, .. } | Self::Measures => Self::Measures,
            _ => Self::Not,
        }
    }

    /// Up to which its rows were taken.
    pub(super) fn mark(self) -> Option<Mark> {
        match self {
            Self::All { mark, .. } | Self::Shifted { mark } => Some(mark),
            Self::Not | Self::Measures => None,
        }
    }

    pub(super) fn is_measured(self) -> bool {
        matches!(self, Self::Measures | Self::All { is_measured: true, .. })
    }

    /// How many seconds of a row are to be taken, and how many of them were covered before.
    pub(super) fn untaken(self, t: i64, step: i64) -> Option<(i64, i64)> {
        let (mark, covered) = match self {
            Self::All { mark, covered, .. } => (mark, covered),
            Self::Shifted { mark } => (mark, None),
            Self::Not | Self::Measures => return None,
        };
        let seconds = mark.untaken(t, step);
        let overlap = |(from, to): (i64, i64)| (to.min(t) - from.max(t - seconds)).max(0);
        (seconds > 0).then(|| (seconds, covered.map_or(0, overlap)))
    }
}

impl Entry {
    /// Whether a row of it was taken before, or it was not there then.
    pub(super) fn was_taken(&self) -> bool {
        self.last.is_some()
    }

    /// Whether the newest row that was taken told of growth; `None` where there was none.
    pub(super) fn has_grown(&self) -> Option<bool> {
        self.last.filter(|last| !last.is_nan()).map(|last| last > 0.0)
    }

    /// Whether a value is not that of the newest row that was taken, as far as both are known, and printed.
    pub(super) fn is_not_last(&self, value: f64) -> bool {
        let last = self.last.map(f64::from).filter(|last| !last.is_nan());
        last.is_some_and(|last| (value - last).abs() > SAME * value.abs().max(last.abs()))
    }

    /// Whether it has the value of the newest row that was taken; `None` where that says nothing.
    pub(super) fn is_last(&self, value: f64) -> Option<bool> {
        let last = self.last.filter(|last| *last > 0.0);
        last.map(|last| single(value).to_bits() == last.to_bits())
    }

    /// Sorts the columns of a VM, and has each know that of the other direction. Of two columns of one counter, the
    /// first: it is not counted twice.
    pub(super) fn pair(entries: &mut Vec<Self>) {
        entries.sort_by_key(|entry| entry.index);
        entries.dedup_by_key(|entry| entry.index);
        let key = |entry: &Self| (entry.counter, entry.device);
        for place in 0..entries.len() {
            let Self { counter, device, .. } = entries[place];
            let column = |counter: Option<Counter>| {
                let found = entries.binary_search_by_key(&(counter?, device), key).ok()?;
                Some(entries[found].column)
            };
            let with_bytes = |counter: Counter| column(Some(counter)).zip(column(counter.bytes()));
            let other = counter.other_direction();
            let requests = [Some(counter), other].map(|counter| counter.and_then(with_bytes));
            let other = column(other);
            (entries[place].other, entries[place].requests) = (other, requests);
        }
    }

    /// Whether a row is to be taken. A rate is over one time for both directions, and what the rows of one lack is
    /// made good by exact values alone.
    pub(super) fn is_taken(&self, is_known: impl Fn(usize) -> bool) -> bool {
        let has_exact = self.before[0].is_some();
        has_exact || self.counter.other_direction().is_none() || self.other.is_some_and(is_known)
    }

    /// Whether its plugin was started anew within a row. It tells all requests then since the disk was plugged in, which
    /// are more than twice the sectors that went through: both are rounded.
    pub(super) fn begins_anew(&self, values: &[f64], scale: f64) -> bool {
        let value = |column: usize| values.get(column).copied().unwrap_or(f64::NAN);
        self.requests.iter().flatten().any(|(requests, bytes)| {
            let requests = value(*requests) * scale;
            let has_sectors = 2.0 * value(*bytes) / SECTOR >= requests;
            requests > FEW_REQUESTS && !has_sectors
        })
    }

    /// The value of a row; the newest comes first.
    pub(super) fn see(&mut self, value: f64) {
        self.newest.get_or_insert(single(value));
    }

    /// A row is unknown. Where the one after it is 0, the source has begun there, and that says nothing.
    pub(super) fn was_unknown(&mut self) {
        self.sum.covered -= std::mem::take(&mut self.zero);
    }

    /// After the oldest row: the one before it was in an answer before.
    pub(super) fn follow_the_last(&mut self) {
        if self.follows_unknown {
            self.was_unknown();
        }
    }

    /// Adds so many seconds of a row, at its end; some of them were covered before.
    pub(super) fn add(
        &mut self,
        t: i64,
        step: i64,
        (seconds, at_rest): (i64, i64),
        mean: f64,
        sum: Sum,
    ) {
        let covered = u64::try_from((seconds - at_rest) * SECOND).unwrap_or(0);
        self.sum.add(Sum { covered, ..sum });
        self.zero = if mean > 0.0 { 0 } else { covered };
        for before in self.before.iter_mut().flatten() {
            before.add(t * SECOND, seconds * SECOND, step * SECOND, covered, mean);
        }
    }
}

impl Vm {
    /// One that was started since the host told rows, or whose start is not known; its starts are numbered from there.
    pub(super) fn new(starts: u32, is_started_now: bool) -> Self {
        Self {
            host: None,
            mark: None,
            left: None,
            state: State::Gone,
            in_rows: InRows::Never,
            given_back: None,
            took_short: false,
            lacks_requests: false,
            domid: is_started_now.then_some(-1),
            started: None,
            starts,
            vcpus: 0,
            counters: Vec::new(),
            disks: Vec::new(),
            covered: 0,
            cpu_covered: 0,
            still: None,
            exact: ExactFrom::At(i64::MIN),
            tries: TRIES,
            gap: None,
            next: None,
            memory: None,
            memory_target: None,
            memory_internal_free: None,
        }
    }

    /// Whether it was shut off by the last inventory.
    pub(super) fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    /// The host whose rows were taken last, and up to where.
    pub(super) fn last_taken(&self) -> Option<(Uuid, Option<Mark>)> {
        self.host.map(|host| (host, self.mark)).or(self.left)
    }

    /// What the inventory says now. Its rows are taken from after that mark.
    pub(super) fn enter(&mut self, known: &Known<'_>, begun: Option<Mark>, quirks: Quirks) {
        let is_back = self.is_gone() && known.state != State::Gone;
        let has_moved = self.host != known.host;
        let is_gone = known.state == State::Gone;
        // Whatever comes after one that is gone begins at 0.
        let domid = if is_gone { -1 } else { known.domid };
        // Numbers of domains are each host's own.
        let is_another = self.domid.is_some_and(|before| before != domid);
        // With another domain, that may be the one of before, and is known from the next inventory on.
        let was_started = known.started.filter(|now| !is_another || self.started != Some(*now));
        let is_known = self.exact != ExactFrom::Unknown;
        let starts = self.started.zip(was_started).filter(|_| is_known);
        let is_another = is_another || starts.is_some_and(|(before, now)| before != now);
        self.started = was_started.or(self.started.filter(|_| is_gone || !is_another));
        let begins = !is_gone && (is_another || has_moved && self.host.is_some());
        // Some may be ahead of the VM, where exact values have made good for a gap.
        let slots = self.counters.iter().map(|slot| slot.counted.covered());
        let latest = slots.fold(self.covered, u64::max);
        if begins {
            self.begin_domain();
        }
        if has_moved && self.in_rows != InRows::Never {
            // Its new host may not know it yet.
            let came = self.host.is_some() && known.host.is_some();
            self.in_rows = if came { InRows::Coming(None) } else { InRows::Told };
        }
        // Else its last rows are not those up to there.
        self.took_short &= self.last_taken().is_some_and(|(_, taken)| taken == begun);
        self.left = self.last_taken().filter(|_| known.host.is_none());
        self.mark = begun;
        if is_back || has_moved || is_gone {
            self.still = None;
        }
        if is_gone || begins {
            // It may have stood still between two inventories.
            let given_back = GivenBack { since: None, is_taken: !is_back };
            let is_here = is_back || !has_moved;
            self.given_back = Some(given_back).filter(|_| !is_gone && is_here);
        }
        self.domid = Some(domid);
        if known.state == State::Paused && quirks.rows_of_paused_stand_still() {
            self.still.get_or_insert_with(Still::default).resumed = None;
        }
        let resumes = self.state == State::Paused && known.state == State::Running;
        if resumes && !self.has_all_exact() {
            self.tries = TRIES;
        }
        (self.host, self.state, self.vcpus) = (known.host, known.state, known.vcpus);
        self.plug(known, begins, latest);
    }

    /// All counters of a domain begin at 0.
    fn begin_domain(&mut self) {
        for slot in &mut self.counters {
            slot.counted.begin();
            (slot.is_of_domain, slot.is_known) = (false, false);
        }
        self.starts = self.starts.wrapping_add(1);
        self.exact = ExactFrom::Unknown;
        self.tries = TRIES;
        self.gap = None;
        self.next = None;
    }

    /// Notes whether the last rows of its host have told of it.
    pub(super) fn note_whether_told(&mut self, is_told: bool, newest: i64) {
        let is_near = |since| (0..MOVING).contains(&(newest - since));
        self.in_rows = match self.in_rows {
            _ if is_told => InRows::Told,
            _ if self.state != State::Running => InRows::Never,
            InRows::Coming(None) => InRows::Coming(Some(newest)),
            InRows::Told => InRows::Missed(newest),
            InRows::Coming(Some(since)) | InRows::Missed(since) if is_near(since) => self.in_rows,
            _ => InRows::Never,
        }
    }

    /// Whether the rows of its host may have told of it until a short time ago.
    pub(super) fn may_be_missed(&self) -> bool {
        self.in_rows != InRows::Never && self.state == State::Running
    }

    /// Whether they did, and do not now: it may be on another host by now, and its rows as well.
    pub(super) fn is_missed(&self) -> bool {
        matches!(self.in_rows, InRows::Missed(_))
    }

    /// Whether it has come from another host, and its rows were not seen on this one.
    pub(super) fn is_coming(&self) -> bool {
        matches!(self.in_rows, InRows::Coming(_))
    }

    /// Whether its rows were taken somewhere, up to a time that is not later than this.
    pub(super) fn is_taken_before(&self, mark: Mark) -> bool {
        self.mark.is_some_and(|own| own.0 <= mark.0)
    }

    /// It has come from a host that counts requests otherwise: which of its next rows are of there is not known.
    pub(super) fn counts_otherwise(&mut self) {
        self.lacks_requests = true;
    }

    /// Whether a host to which it has come, or on which it was started, does not tell its own rows yet, as far as what
    /// it tells of the last one that was taken shows that. They may come, for a while after the first ones.
    pub(super) fn is_before_its_rows(
        &mut self,
        last: Option<Last>,
        known_from: Option<i64>,
        newest: i64,
        is_short: bool,
    ) -> bool {
        let is_near = |since| (0..MOVING).contains(&(newest - since));
        // Of longer rows, that is a mean.
        let is_other = last == Some(Last::Other) && self.took_short;
        if let Some(given_back) = &mut self.given_back {
            if is_short && given_back.is_before(last, is_other, newest) {
                return self.mark.is_some();
            }
            given_back.is_taken = true;
            self.given_back = self.given_back.filter(|back| is_near(back.since.unwrap_or(newest)));
        }
        let InRows::Coming(since) = self.in_rows else { return false };
        if !is_short {
            // Those that are told right after these show it better.
            return self.mark.is_some() && last == Some(Last::Nothing);
        }
        let since = since.unwrap_or(newest);
        self.in_rows = InRows::Coming(Some(since));
        let may_come = match last {
            Some(Last::Nothing) => is_near(known_from.unwrap_or(since).min(since)),
            _ => is_other && is_near(since),
        };
        self.mark.is_some() && may_come && self.state == State::Running
    }

    /// The clock of its host went back after it was shut off there.
    pub(super) fn clock_went_back(&mut self, host: Uuid, to: Mark) {
        if let Some((_, Some(mark))) = self.left.as_mut().filter(|(left, _)| *left == host) {
            *mark = (*mark).min(to);
        }
    }

    fn plug(&mut self, known: &Known<'_>, begins: bool, latest: u64) {
        let mut wanted = Vec::new();
        wanted.extend((0..known.vcpus).map(|vcpu| (Counter::Cpu, vcpu)));
        for nic in known.nics {
            wanted.extend([(Counter::NicReceived, *nic), (Counter::NicSent, *nic)]);
        }
        for disk in known.disks {
            let place = self.disks.iter().position(|known| known.as_ref() == *disk);
            let place = place.unwrap_or_else(|| {
                self.disks.push((*disk).into());
                self.disks.len() - 1
            });
            let Ok(place) = u16::try_from(place) else { continue };
            let counters =
                [Counter::DiskRead, Counter::DiskReads, Counter::DiskWritten, Counter::DiskWrites];
            wanted.extend(counters.map(|counter| (counter, place)));
        }
        wanted.sort_unstable();
        for slot in &mut self.counters {
            let is_there = wanted.binary_search(&(slot.counter, slot.device)).is_ok();
            // Another device, which begins at 0, in the place of one that was unplugged. A vCPU that
            // comes online again goes on.
            if is_there && !slot.is_there && slot.counter != Counter::Cpu {
                slot.counted.go_on_with_another(latest);
                if begins {
                    slot.counted.begin();
                }
                (slot.is_known, slot.in_newest_row) = (false, false);
                slot.last = self.mark.map(|_| f32::NAN);
                self.tries = TRIES;
                self.next = None;
            }
            slot.is_there = is_there || slot.counter == Counter::RunState;
            slot.is_of_domain |= slot.is_there;
        }
        for (counter, device) in wanted {
            let mut counted = Counted::after(latest);
            if begins {
                counted.begin();
            }
            self.insert(counter, device, counted);
        }
        self.counters.shrink_to_fit();
    }

    /// A state of the domain is recorded.
    pub(super) fn record(&mut self, state: u16) {
        self.insert(Counter::RunState, state, Counted::after(self.covered));
    }

    fn insert(&mut self, counter: Counter, device: u16, begun: Counted) {
        if let Err(place) = self.counters.binary_search_by_key(&(counter, device), Slot::key) {
            // Nothing is known of it before, where rows were taken.
            let last = self.mark.map(|_| f32::NAN);
            let slot = Slot {
                counter,
                device,
                is_there: true,
                is_of_domain: true,
                in_newest_row: false,
                is_known: false,
                last,
                counted: begun,
            };
            self.counters.insert(place, slot);
            self.tries = TRIES;
            // Places have changed.
            self.next = None;
        }
    }

    /// A vCPU that is offline has run in this domain.
    fn insert_offline_cpu(&mut self, vcpu: u16) {
        let place = self.counters.binary_search_by_key(&(Counter::Cpu, vcpu), Slot::key);
        let place = place.unwrap_or_else(|place| {
            let counted = Counted::after(self.covered);
            let slot = Slot {
                counter: Counter::Cpu,
                device: vcpu,
                is_there: false,
                is_of_domain: true,
                in_newest_row: false,
                is_known: false,
                last: None,
                counted,
            };
            self.counters.insert(place, slot);
            // Places have changed.
            self.next = None;
            place
        });
        self.counters[place].is_of_domain = true;
    }

    fn slot(&self, counter: Counter, device: u16) -> Option<usize> {
        let found = self.counters.binary_search_by_key(&(counter, device), Slot::key);
        found.ok().filter(|found| self.counters[*found].is_read())
    }

    /// The counter of that name, if it is there.
    fn place(&self, name: Named<'_>) -> Option<usize> {
        match name {
            Named::Numbered(counter, device) => self.slot(counter, device),
            Named::Disk(counter, disk) => {
                let place = self.disks.iter().position(|known| known.as_ref() == disk)?;
                self.slot(counter, u16::try_from(place).ok()?)
            }
            Named::Measured(_) => None,
        }
    }

    /// What is to be done with its rows in an answer of that host.
    pub(super) fn way(&self, host: Uuid, newest: i64) -> Way {
        if self.host != Some(host) || self.state == State::Gone {
            return Way::Not;
        }
        let is_measured = self.state == State::Running;
        match (self.mark, &self.still) {
            (None, _) => Way::Measures,
            (Some(mark), None) => Way::All { mark, covered: None, is_measured },
            // Its first reading after the pause is in rows that are newer than the one which was the
            // newest when it ran again: each turn of the host's loop reads all.
            (Some(mark), Some(Still { covered, resumed: Some(resumed) })) if newest > *resumed => {
                Way::All { mark, covered: *covered, is_measured }
            }
            (Some(mark), Some(Still { covered: None, resumed: None })) => Way::Shifted { mark },
            (Some(_), Some(_)) => Way::Not,
        }
    }

    /// After which its rows are wanted; `None` where none are for now.
    pub(super) fn wants_rows_after(&self) -> Option<Mark> {
        let is_still = self.still.as_ref().is_some_and(|still| still.resumed.is_none());
        let mark = self.mark.filter(|_| self.state != State::Gone && !is_still);
        // The last one that was taken as well: it shows whether its rows came with it.
        let is_checked = self.is_coming() || self.given_back.is_some();
        mark.map(|mark| if is_checked { Mark(mark.0 - 1) } else { mark })
    }

    /// How many it has, also those that are not there any more.
    pub(super) fn counters(&self) -> usize {
        self.counters.len()
    }

    /// A column of an answer whose rows are to be added up.
    pub(super) fn entry(&self, column: usize, name: Named<'_>, rows_lie: bool) -> Option<Entry> {
        let index = self.place(name)?;
        let slot = &self.counters[index];
        let anchor = slot.counted.anchor();
        let is_replaced = rows_lie && anchor.is_some();
        if is_replaced || self.lacks_requests && slot.counter.is_requests() {
            return None;
        }
        let read_at = [anchor.map(|anchor| anchor.at), self.next.as_ref().map(|next| next.at)];
        let before = read_at.map(|at| at.map(|at| Box::new(Before::new(at))));
        Some(Entry {
            column,
            counter: slot.counter,
            device: slot.device,
            other: None,
            requests: [None; 2],
            index,
            last: slot.last,
            newest: None,
            follows_unknown: slot.last.is_some() && !slot.in_newest_row,
            sum: Sum::default(),
            before,
            zero: 0,
        })
    }

    /// Takes what was measured last. Zero is what a source reads that has vanished, and beyond [`MOST_MEMORY`] is
    /// no memory.
    pub(super) fn measure(&mut self, measured: &[(Measure, MeasuredAt)]) {
        let latest = |measure| {
            let found = measured.iter().find(|(known, _)| *known == measure);
            found.map(|(_, at)| *at).filter(|at| at.value > 0.0 && at.value <= MOST_MEMORY)
        };
        self.memory = latest(Measure::Memory);
        self.memory_target = latest(Measure::MemoryTarget);
        self.memory_internal_free = latest(Measure::MemoryInternalFree);
    }

    /// Adds what rows have added up to: `entries` have those of all columns that there are, but for counters
    /// of which rows that lie are not taken.
    pub(super) fn add(&mut self, entries: &[Entry], way: Way, newest: i64, rows_lie: bool) {
        if !matches!(way, Way::All { .. } | Way::Shifted { .. }) {
            return;
        }
        let mut covered = 0;
        let longest = entries.iter().map(|entry| entry.sum.covered).max().unwrap_or(0);
        if let Way::All { mark, covered: None, .. } = way {
            let elapsed = u64::try_from((newest - mark.0).saturating_mul(SECOND)).unwrap_or(0);
            let lacks = |entry: &Entry| {
                let is_there = self.counters.get(entry.index).is_some_and(|slot| slot.is_there);
                is_there && entry.before[0].is_some() && entry.sum.covered + GAP < elapsed
            };
            let is_told = |place| entries.binary_search_by_key(&place, |entry| entry.index).is_ok();
            let has_no_column = |(place, slot): (usize, &Slot)| {
                slot.is_there && slot.counted.anchor().is_some() && !is_told(place)
            };
            let lacks_columns =
                || elapsed > GAP && self.counters.iter().enumerate().any(has_no_column);
            if entries.iter().any(|entry| entry.newest.is_some() && lacks(entry))
                || !rows_lie && lacks_columns()
            {
                self.open_gap();
            } else if longest > 0 {
                self.gap = self.gap.take().filter(|gap| gap.is_open);
                // What exact values lack by themselves does not come with rows.
                let lacks_rows_alone = self.gap.is_some() && !self.lacks_known();
                if let Some(gap) = self.gap.as_mut().filter(|_| lacks_rows_alone) {
                    gap.due = gap.due.min(newest + PAUSES[0]);
                }
            }
        }
        let is_newer = entries.iter().any(|entry| entry.newest.is_some());
        for slot in &mut self.counters {
            // Exact values take the place of rows that lie.
            let is_exact = rows_lie && slot.counted.anchor().is_some();
            slot.in_newest_row = is_exact || slot.in_newest_row && !is_newer;
        }
        for Entry { index, sum, before: [before, before_next], newest, .. } in entries {
            let Some(slot) = self.counters.get_mut(*index) else { continue };
            slot.last = newest.or(slot.last);
            slot.in_newest_row |= newest.is_some_and(|value| !value.is_nan());
            if !slot.is_known && (slot.in_newest_row || sum.covered > 0) {
                slot.is_known = true;
                // Its plugin may have been away when exact values were read.
                if slot.lacks_exact() {
                    self.tries = TRIES;
                }
            }
            slot.counted.add(*sum, before.as_deref());
            covered += if slot.is_online_cpu() { sum.covered } else { 0 };
            let next = self.next.as_mut().map(|next| next.anchors.iter_mut());
            for (_, anchor) in next.into_iter().flatten().filter(|(place, _)| place == index) {
                if let Some(before) = before_next {
                    anchor.add(before);
                }
            }
        }
        self.covered += longest;
        self.cover_cpus(covered);
    }

    fn open_gap(&mut self) {
        let begun = Gap { is_open: true, due: i64::MIN, pause: PAUSES[0] };
        self.gap.get_or_insert(begun).is_open = true;
    }

    /// So many 10^-9 s more are covered, of all vCPUs together.
    fn cover_cpus(&mut self, covered: u64) {
        self.cpu_covered += covered / u64::from(self.vcpus.max(1));
        self.covered = self.covered.max(self.cpu_covered);
    }

    /// Begins anew, as the host does: whatever was before that is not known, and exact values are to be
    /// read again.
    pub(super) fn begin_at(&mut self, mark: Mark) {
        (self.mark, self.lacks_requests, self.took_short) = (Some(mark), false, false);
        let is_paused = self.state == State::Paused;
        if let Some(still) = &mut self.still {
            let resumed = (!is_paused).then_some(mark.0);
            *still = Still { covered: Some((mark.0, mark.0)), resumed };
        }
        self.next = None;
        for slot in &mut self.counters {
            slot.counted.forget_anchor();
        }
        self.tries = TRIES;
        self.gap = None;
        if let ExactFrom::At(from) = &mut self.exact {
            *from = (*from).min(mark.0 + READ_ANEW);
        }
        self.pass_start(mark);
    }

    /// Goes on to the newest row of an answer, where the row that was last taken is labelled with a
    /// time that is so many seconds later than it was. Where its rows are long, the newest is no sign of what the
    /// host knows by now.
    pub(super) fn pass(&mut self, newest: Mark, shift: i64, is_short: bool) {
        self.lacks_requests = false;
        self.took_short = is_short && self.counters.iter().any(|slot| slot.in_newest_row);
        if is_short {
            self.pass_start(newest);
        }
        match &mut self.still {
            None => self.mark = Some(self.mark.map_or(newest, |mark| mark.max(newest))),
            Some(still) if self.state == State::Paused => {
                if still.covered.is_none() {
                    let last = Mark(newest.0 - shift);
                    self.mark = Some(self.mark.map_or(last, |mark| mark.max(last)));
                }
                let (from, to) = still.covered.unwrap_or((newest.0, newest.0));
                let seconds = (newest.0 - to).max(0);
                still.covered = Some((from, to.max(newest.0)));
                let covered = u64::try_from(seconds.saturating_mul(SECOND)).unwrap_or(0);
                for slot in self.counters.iter_mut().filter(|slot| slot.is_read()) {
                    slot.counted.stand_still(covered);
                }
                self.cpu_covered += covered;
                self.covered += covered;
            }
            Some(still) => match still.resumed {
                None => still.resumed = is_short.then_some(newest.0),
                Some(resumed) if newest.0 > resumed => {
                    // After so long, the library does not know what was counted.
                    if self.mark.is_some_and(|Mark(mark)| newest.0 - mark > HEARTBEAT) {
                        self.open_gap();
                    }
                    self.mark = Some(newest);
                    self.still = None;
                }
                Some(_) => {}
            },
        }
    }

    fn pass_start(&mut self, newest: Mark) {
        if self.exact == ExactFrom::Unknown && self.state != State::Gone {
            self.exact = ExactFrom::At(newest.0 + READ_ANEW);
        }
    }
}

/// Values are floats of 32 bits in the library.
#[allow(clippy::cast_possible_truncation)]
fn single(value: f64) -> f32 {
    value as f32
}

impl Slot {
    fn key(&self) -> (Counter, u16) {
        (self.counter, self.device)
    }

    /// Whether its host may tell its exact value.
    pub(super) fn may_have_exact(&self) -> bool {
        self.is_there && !self.counter.is_requests()
    }

    /// Whether that was not read yet.
    fn lacks_exact(&self) -> bool {
        self.may_have_exact() && self.counted.anchor().is_none()
    }

    /// Rows of a vCPU that is offline are taken as well: it may have run just before, and no time is
    /// missing when it comes back.
    fn is_read(&self) -> bool {
        self.is_there || self.counter == Counter::Cpu
    }

    /// Its time is part of that of all vCPUs.
    fn is_online_cpu(&self) -> bool {
        self.is_there && self.counter == Counter::Cpu
    }
}
