//! Rows and exact counters in, what each VM has used out. Pure: no I/O, no clock; all times are those of
//! the host that tells them, and those of two hosts are compared only where a VM moves between them.
//!
//! A row is taken once. Each VM has a mark of its own, up to which its rows were taken, since the rows of
//! a VM that was paused come later than those of others in older releases, and a VM may move to another
//! host. See `vm.rs` for a single VM.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use uuid::Uuid;

use super::check::Check;
use super::names::{Counter, Measure, Named, named};
use super::quirks::{Quirks, capped_share};
use super::rrd::{Consolidation, Head, Owner, Unreadable, Updates, VmRrd};
use super::vm::{Entry, Known, Last, MeasuredAt, Vm, Way};
use crate::samples::{Mark, STARTS, Sum};

/// What a host is asked for first: two or three rows, by the time of its last update.
const FIRST_START: i64 = -15;
/// Rows of 5 s are there for the last 600 s, the newest of which are some seconds old when they are told; those of longer ago
/// would make all rows those of 60 s.
const KEPT: i64 = 570;
/// So far back from a host's newest row are rows asked for again: less than they are kept, for what passes until they are told.
const MOST_AGAIN: i64 = 480;
/// The shortest rows that hosts have, in seconds.
pub(super) const SHORTEST_STEP: u32 = 5;
/// Less of a CPU is nothing to compare.
const LEAST_SHARE: f64 = 0.002;
/// Two hosts of a pool whose newest rows are no farther apart have the same time, as far as can be seen.
const SAME_TIME: i64 = 10;
/// Farther apart, nothing can be said of one's time by the other's.
const COMPARABLE: i64 = 300;

/// All hosts and VMs of a pool.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    hosts: HashMap<Uuid, Host>,
    /// Boxed, since a map has up to twice as many places.
    vms: HashMap<Uuid, Box<Vm>>,
    /// How many VMs have gone: one that comes back begins with another start.
    gone: u32,
}

#[derive(Debug, Default)]
struct Host {
    quirks: Quirks,
    /// Its newest row,
    mark: Option<Mark>,
    /// and how old that was when it came, by a clock that is one for all hosts, in seconds.
    lag: Option<f64>,
    /// Exact counters are used in place of its rows.
    lies: bool,
    check: Check,
    /// Its VMs that ran most in the newest rows, first those that ran more.
    busiest: Vec<Uuid>,
}

/// An answer to `/rrd_updates`, which may be long. Nobody waits for the totals while it is read.
pub(crate) struct Rows<'a> {
    head: Head<'a>,
    /// From new to old: when each ended, and its values.
    read: Vec<(i64, Vec<f64>)>,
    /// From when they were asked for.
    start: i64,
}

impl<'a> Rows<'a> {
    /// Reads all of an answer.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub(crate) fn read(answer: &'a [u8]) -> Result<Self, Unreadable> {
        let (head, mut updates) = Updates::read(answer)?;
        let mut rows = Vec::new();
        let mut values = Vec::with_capacity(head.columns.len());
        while let Some(t) = updates.next_row(&mut values)? {
            let room = Vec::with_capacity(head.columns.len());
            rows.push((t, std::mem::replace(&mut values, room)));
        }
        Ok(Self { head, read: rows, start: i64::MIN })
    }

    /// The same, where those before [`Totals::start`] were not asked for.
    pub(crate) fn since(self, start: i64) -> Self {
        Self { start, ..self }
    }
}

/// What came of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The end of the newest row, by the host's clock.
    pub(crate) newest: i64,
    /// How many rows were in it, taken or not.
    pub(crate) rows: usize,
    /// How long each was, in seconds.
    pub(crate) step: u32,
    /// The host's clock went back: nothing was taken.
    pub(crate) went_back: bool,
    /// The rows of the host were found wrong just now; worth a line for the log.
    pub(crate) found_to_lie: bool,
}

/// How the rows of a host are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Checked {
    /// The end of the newest, by the host's clock.
    pub(crate) newest: Option<i64>,
    /// How many counters were compared with exact ones lately, and how many of those differed.
    pub(crate) compared: [u32; 2],
    /// Exact counters are used in their place.
    pub(crate) lies: bool,
}

/// A counter as it is handed out, in ns, bytes, or requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Told {
    /// What was added up since the VM is known here. Never falls, also when the VM is started anew.
    pub(crate) sum: i128,
    /// The time that covers.
    pub(crate) covered: Duration,
    /// Since the VM was started (its domain was created), where its exact value is known.
    pub(crate) since_start: Option<i128>,
    /// Whether it was in the newest row that was taken.
    pub(crate) in_newest_row: bool,
}

/// What a VM has used.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct VmTotals {
    /// The newest row that was taken; `None` where there was none yet.
    pub(crate) newest: Option<i64>,
    /// The time for which something at least is known of it.
    pub(crate) covered: Duration,
    /// The number of its start, another for each of its domains: that of the counters since the start.
    pub(crate) start: u32,
    /// In ns, all vCPUs together, also those that are offline by now.
    pub(crate) cpu: Told,
    /// In ns, each vCPU that is online.
    pub(crate) vcpus: Vec<Told>,
    /// Bytes received and sent, by the device of each VIF that is plugged in.
    pub(crate) nics: Vec<(u16, [Told; 2])>,
    /// Bytes read and written, and requests likewise, by the device of each VBD that is plugged in.
    /// Requests have no counters since the start.
    pub(crate) disks: Vec<(Box<str>, [[Told; 2]; 2])>,
    /// In ns, the states of the domain that are recorded, by their places in `RUN_STATES`.
    pub(crate) run_states: Vec<(u16, Told)>,
    /// In bytes.
    pub(crate) memory: Option<MeasuredAt>,
    /// In bytes.
    pub(crate) memory_target: Option<MeasuredAt>,
    /// In KiB.
    pub(crate) memory_internal_free: Option<MeasuredAt>,
}

impl Totals {
    /// What the inventory says of a host. Its quirks may change, as it is updated.
    pub(crate) fn enter_host(&mut self, host: Uuid, quirks: Quirks) {
        self.hosts.entry(host).or_default().quirks = quirks;
    }

    /// How old the newest rows of a host were when they came, by a clock that is one for all hosts.
    /// Longer rows, as after a gap, say nothing of its clock: they may be as old as they are long.
    pub(crate) fn enter_lag(&mut self, host: Uuid, step: u32, seconds: f64) {
        if step <= SHORTEST_STEP {
            self.hosts.entry(host).or_default().lag = Some(seconds);
        }
    }

    /// Forgets a host that has left the pool.
    pub(crate) fn forget_host(&mut self, host: &Uuid) {
        self.hosts.remove(host);
    }

    /// What the inventory says of a VM now. To be told before the rows that were asked for after it.
    pub(crate) fn enter(&mut self, vm: Uuid, known: &Known<'_>) {
        let mark = |host: Option<Uuid>| self.hosts.get(&host?)?.mark;
        // By how much their clocks differ shows in what is newest, or, where one was not read for a
        // while, in how old that was.
        let apart = |there: Option<Uuid>, marks: [Mark; 2]| {
            let lag = |host: Option<Uuid>| self.hosts.get(&host?)?.lag;
            let by_rows = (marks[0].0 - marks[1].0).abs();
            #[allow(clippy::cast_possible_truncation)] // as far as there are numbers
            let by_lag =
                lag(there).zip(lag(known.host)).map(|(there, here)| (there - here).abs() as i64);
            by_lag.map_or(by_rows, |by_lag| by_lag.min(by_rows))
        };
        let quirks = |host: Option<Uuid>| Some(self.hosts.get(&host?)?.quirks);
        let is_five_fold = |host| quirks(host).map(Quirks::absolute_is_five_times_too_high);
        let here = mark(known.host);
        let before = self.vms.get(&vm);
        let is_back = before.is_some_and(|before| before.is_gone());
        // Up to where its rows were taken, and where. Its RRD goes with it to another host, which may not have been
        // read for a while. The clocks of hosts that were not read, and of those that are gone, are taken for the same.
        let begun = match before.and_then(|before| before.last_taken()) {
            None => here,
            Some((host, taken)) if is_back && Some(host) == known.host => taken.and(here),
            Some((host, taken)) if Some(host) == known.host => taken,
            Some((host, taken)) => match (taken, mark(Some(host)), here) {
                (Some(taken), Some(there), Some(here)) => {
                    let apart = apart(Some(host), [there, here]);
                    let goes_on = apart <= SAME_TIME && !is_back;
                    let begun = if goes_on { taken } else { taken.max(here) };
                    Some(begun).filter(|_| apart <= COMPARABLE)
                }
                (taken, _, None) if !is_back => taken,
                // What it did since its start, if that was not long ago.
                (Some(taken), _, None) => {
                    let newest = self.hosts.values().filter_map(|host| host.mark).max();
                    newest.map(|newest| taken.max(Mark(newest.0 - MOST_AGAIN)))
                }
                (Some(taken), None, Some(here)) if !is_back => {
                    Some(taken).filter(|taken| taken.0 <= here.0 + COMPARABLE)
                }
                _ => None,
            },
        };
        let is_new = here.is_some();
        // Its rows of before go with it as they were told there.
        let last = before.and_then(|before| before.last_taken()).map(|(host, _)| host);
        let of_both = is_five_fold(last).zip(is_five_fold(known.host));
        let counts_otherwise = of_both.is_some_and(|(there, here)| there != here);
        let quirks = quirks(known.host);
        let first = self.gone.wrapping_mul(STARTS);
        let vm = self.vms.entry(vm).or_insert_with(|| Box::new(Vm::new(first, is_new)));
        vm.enter(known, begun, quirks.unwrap_or_default());
        if counts_otherwise {
            vm.counts_otherwise();
        }
    }

    /// Whether its host tells nothing of a VM that runs, although it did until a short time ago.
    pub(crate) fn is_missed(&self, vm: &Uuid) -> bool {
        self.vms.get(vm).is_some_and(|vm| vm.is_missed())
    }

    /// Forgets VMs that are gone for good.
    pub(crate) fn forget_all_but(&mut self, is_there: impl Fn(&Uuid) -> bool) {
        let before = self.vms.len();
        self.vms.retain(|vm, _| is_there(vm));
        let gone = u32::try_from(before - self.vms.len()).unwrap_or(u32::MAX);
        self.gone = self.gone.wrapping_add(gone);
    }

    /// From when the next rows of a host are to be asked for (`start=` of `/rrd_updates`), whose last ones were told so
    /// many seconds ago.
    pub(crate) fn start(&self, host: &Uuid, told: i64) -> i64 {
        let residents = self.vms.values().filter(|vm| vm.host == Some(*host));
        let read = self.hosts.get(host).and_then(|host| host.mark).map(|mark| mark.0);
        // Of one that was never read, all that do not come from elsewhere begin with its newest row.
        let wanted = residents
            .filter_map(|vm| Some((read.is_none() || vm.is_coming(), vm.wants_rows_after()?.0)));
        let all_come = wanted.clone().all(|(is_coming, _)| is_coming);
        // Where all have come since it was last read, it need not be asked for what was before.
        let latest = wanted.clone().map(|(_, mark)| mark).max().filter(|_| all_come);
        let latest = latest.map(|mark| mark - SAME_TIME);
        let Some(newest) = read.max(latest) else { return FIRST_START };
        let oldest = wanted.map(|(_, mark)| mark).min();
        let again = KEPT.saturating_sub(told).clamp(0, MOST_AGAIN);
        oldest.unwrap_or(newest).clamp(newest - again, newest) + 1
    }

    /// Takes an answer to `/rrd_updates`: all of it, or nothing.
    ///
    /// # Errors
    /// [`Unreadable`], if it is another host's.
    pub(crate) fn take_rows(&mut self, host: Uuid, answer: &Rows<'_>) -> Result<Taken, Unreadable> {
        let Rows { head, read: rows, start } = answer;
        // As after another host has become the master, where that is asked for the last one's.
        let is_of_another = |owner| matches!(owner, Owner::Host(other) if other != host);
        if head.columns.iter().flatten().any(|column| is_of_another(column.owner)) {
            return Err(Unreadable::of("it is another host's"));
        }
        let known = self.hosts.entry(host).or_default();
        let went_back = known.mark.is_some_and(|mark| head.end < mark.0);
        let anew = went_back || known.mark.is_none();
        let quirks = known.quirks;
        if went_back {
            self.vms.values_mut().for_each(|vm| vm.clock_went_back(host, Mark(head.end)));
        }
        let step = i64::from(head.step);
        // The newest comes first.
        let newest = rows.first().map_or(head.end, |(t, _)| *t);
        let (mut groups, told) = self.groups(host, head);
        // Of one whose rows were taken elsewhere, on a host that was not read before, as far as that host's clock allows.
        let goes_on = |vm: &Vm| !went_back && vm.is_taken_before(Mark(newest + SAME_TIME));
        let begins = |vm: &Vm| anew && !goes_on(vm);
        for group in &mut groups {
            if self.vms.get(&group.vm).is_some_and(|vm| begins(vm)) {
                group.way = group.way.without_counters();
            }
        }
        for (t, values) in rows {
            for group in &mut groups {
                group.add_row(*t, step, values, quirks);
            }
        }
        // One that has come to this host since these were asked for: the next answer has all of its rows.
        let came = |vm: &Vm| {
            // From where the next answer could begin.
            let is_lacking = |mark: Mark| mark.0.max(newest - MOST_AGAIN) + 1 < *start;
            !begins(vm) && vm.wants_rows_after().is_some_and(is_lacking)
        };
        // Long rows end long before those that are told right after them.
        let is_short = head.step <= SHORTEST_STEP;
        // The VMs that have come to this host, and their own rows not yet.
        let mut are_before_their_rows = HashSet::new();
        let mut busiest = Vec::new();
        let lies = self.do_rows_lie(&host);
        for group in &mut groups {
            group.entries.iter_mut().for_each(Entry::follow_the_last);
            let vm = self.vms.get_mut(&group.vm).filter(|vm| !rows.is_empty() && !came(vm));
            if let Some(vm) = vm {
                if !begins(vm)
                    && vm.is_before_its_rows(group.last, group.known_from, newest, is_short)
                {
                    are_before_their_rows.insert(group.vm);
                    continue;
                }
                if group.way.is_measured() {
                    vm.measure(&group.measured);
                }
                vm.add(&group.entries, group.way, newest, lies);
            }
            busiest.push((group.busy.unwrap_or(0.0), group.vm));
        }
        let mut compared = Vec::new();
        let shifts: HashMap<_, _> = groups.iter().map(|group| (group.vm, group.shift)).collect();
        for (uuid, vm) in self.vms.iter_mut().filter(|(_, vm)| vm.host == Some(host)) {
            let begins = begins(vm);
            if rows.is_empty() && !begins || came(vm) || are_before_their_rows.contains(uuid) {
                continue;
            }
            let is_told = told.contains(uuid);
            if is_short {
                vm.note_whether_told(is_told, newest);
            }
            let is_moving = vm.is_missed() || vm.is_coming() || !is_short && vm.may_be_missed();
            if begins {
                vm.begin_at(Mark(newest));
            } else if is_told || !is_moving {
                if !shifts.contains_key(uuid) {
                    // It has no columns that are of use.
                    let way = vm.way(host, head.end);
                    vm.add(&[], way, newest, lies);
                }
                vm.pass(Mark(newest), shifts.get(uuid).copied().unwrap_or(0), is_short);
            }
            compared.extend(vm.compare().map(|found| (*uuid, found)));
        }
        let known = self.hosts.entry(host).or_default();
        match &mut known.mark {
            Some(mark) if !anew => mark.advance(newest),
            mark => *mark = Some(Mark(newest)),
        }
        if anew {
            known.check.begin_anew();
        }
        known.busiest = in_order(busiest);
        // Whatever differs, those of older releases are right.
        let mut found_to_lie = false;
        if known.quirks.rows_may_lie() {
            for (vm, found) in compared {
                known.check.enter(&vm, found);
            }
            found_to_lie = known.check.weigh() && !known.lies;
        }
        if found_to_lie {
            self.rows_lie(host);
        }
        Ok(Taken { newest, rows: rows.len(), step: head.step, went_back, found_to_lie })
    }

    /// From now on, exact counters are used in place of that host's rows.
    pub(crate) fn rows_lie(&mut self, host: Uuid) {
        self.hosts.entry(host).or_default().lies = true;
        for vm in self.vms.values_mut().filter(|vm| vm.host == Some(host)) {
            vm.forget_next();
        }
    }

    /// Whether that host's rows were found wrong.
    pub(crate) fn do_rows_lie(&self, host: &Uuid) -> bool {
        self.hosts.get(host).is_some_and(|host| host.lies)
    }

    /// How the rows of a host are.
    pub(crate) fn checked(&self, host: &Uuid) -> Checked {
        self.hosts.get(host).map_or_else(Checked::default, |host| Checked {
            newest: host.mark.map(|mark| mark.0),
            compared: host.check.compared(),
            lies: host.lies,
        })
    }

    /// Whether counters since the start of a VM are not known without reading its exact ones.
    pub(crate) fn lacks_exact(&self, vm: &Uuid) -> bool {
        self.vms.get(vm).is_some_and(|vm| vm.lacks_exact())
    }

    /// The VMs by which the rows of a host are to be checked now: a few, whatever callers ask for.
    pub(crate) fn due(&mut self, host: &Uuid) -> Vec<Uuid> {
        let Self { hosts, vms, .. } = self;
        let is_checked = |host: &&mut Host| {
            let quirks = host.quirks;
            quirks.rows_may_lie() && !quirks.last_update_has_too_few_digits() && !host.lies
        };
        let Some(known) = hosts.get_mut(host).filter(is_checked) else { return Vec::new() };
        let Some(Mark(now)) = known.mark else { return Vec::new() };
        let can_be_compared = |vm: &Uuid| {
            let vm = vms.get(vm).filter(|vm| vm.host == Some(*host));
            vm.is_some_and(|vm| vm.can_be_compared_at(now))
        };
        known.check.due(now, can_be_compared, &known.busiest)
    }

    /// Takes the exact counters of a VM, which that host has told; answers whether they are of use. They
    /// are not while the host may still have those of the domain before.
    pub(crate) fn enter_exact(&mut self, vm: &Uuid, host: Uuid, rrd: &VmRrd<'_>) -> bool {
        let Some(known) = self.hosts.get(&host) else { return false };
        let (Some(vm), Some(mark)) = (self.vms.get_mut(vm), known.mark) else { return false };
        let said = rrd.last_update.and_then(|time| i64::try_from(time.nanos).ok());
        // A whole second stands for all of it.
        let half = rrd.last_update.and_then(|time| i64::try_from(time.resolution / 2).ok());
        let at = said.zip(half).map(|(said, half)| said.saturating_add(half));
        let is_compared = at.is_some();
        let at = at.unwrap_or_else(|| mark.0.saturating_mul(1_000_000_000));
        if vm.host != Some(host) || !vm.takes_exact_at(at / 1_000_000_000) {
            return false;
        }
        vm.enter_exact(rrd, at, is_compared, known.lies, known.quirks);
        true
    }

    /// For how long something at least is known of a VM.
    pub(crate) fn covered(&self, vm: &Uuid) -> Option<Duration> {
        self.vms.get(vm).map(|vm| vm.time())
    }

    /// What a VM has used; `None` for one that is not known.
    pub(crate) fn vm(&self, vm: &Uuid) -> Option<VmTotals> {
        self.vms.get(vm).map(|vm| vm.totals())
    }

    /// The columns of use, by VM, and the VMs that have any columns. Hosts mostly tell those of a VM one after the other.
    fn groups(&mut self, host: Uuid, head: &Head<'_>) -> (Vec<Group>, HashSet<Uuid>) {
        for column in head.columns.iter().flatten().filter(|column| column.name.starts_with("run"))
        {
            let (Owner::Vm(vm), Some(Named::Numbered(Counter::RunState, state))) =
                (column.owner, named(&column.name))
            else {
                continue;
            };
            if let Some(vm) = self.vms.get_mut(&vm).filter(|vm| vm.host == Some(host)) {
                vm.record(state);
            }
        }
        let lies = self.do_rows_lie(&host);
        let mut groups: Vec<Group> = Vec::new();
        let mut places: HashMap<Uuid, usize> = HashMap::new();
        let mut current = None;
        for (column, what) in head.columns.iter().enumerate() {
            let Some(what) = what else { continue };
            let (Owner::Vm(uuid), Consolidation::Average) = (what.owner, what.consolidation) else {
                continue;
            };
            let Some(vm) = self.vms.get(&uuid) else { continue };
            let place = match current {
                Some((last, place)) if last == uuid => place,
                _ => *places.entry(uuid).or_insert_with(|| {
                    groups.push(Group::new(uuid, vm.way(host, head.end), vm.counters()));
                    groups.len() - 1
                }),
            };
            current = Some((uuid, place));
            let group = &mut groups[place];
            match named(&what.name) {
                Some(Named::Measured(measure)) => group.measures.push((column, measure)),
                Some(name) if group.way != Way::Not => {
                    group.entries.extend(vm.entry(column, name, lies));
                }
                _ => {}
            }
        }
        groups.retain(|group| group.way != Way::Not);
        for group in &mut groups {
            Entry::pair(&mut group.entries);
        }
        (groups, places.into_keys().collect())
    }
}

/// Those VMs that took CPUs, first those that took more.
fn in_order(mut busy: Vec<(f64, Uuid)>) -> Vec<Uuid> {
    busy.retain(|(cpus, _)| *cpus > 0.0);
    busy.sort_unstable_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
    busy.into_iter().map(|(_, vm)| vm).collect()
}

/// The columns of a VM in an answer.
struct Group {
    vm: Uuid,
    way: Way,
    /// By how much rows are labelled with later times than they were, in seconds.
    shift: i64,
    entries: Vec<Entry>,
    measures: Vec<(usize, Measure)>,
    /// How many CPUs it took in the newest row, taken or not.
    busy: Option<f64>,
    /// The newest value of each that is known.
    measured: Vec<(Measure, MeasuredAt)>,
    /// What it tells of the row up to which its rows were taken; `None` without that row.
    last: Option<Last>,
    /// The oldest row in which it did something.
    known_from: Option<i64>,
}

impl Group {
    /// With room for the columns of so many counters.
    fn new(vm: Uuid, way: Way, counters: usize) -> Self {
        let entries = Vec::with_capacity(if way == Way::Not { 0 } else { counters });
        Self {
            vm,
            way,
            shift: 0,
            entries,
            measures: Vec::new(),
            busy: None,
            measured: Vec::new(),
            last: None,
            known_from: None,
        }
    }

    /// Adds a row; they come from new to old.
    fn add_row(&mut self, t: i64, step: i64, values: &[f64], quirks: Quirks) {
        for (column, measure) in &self.measures {
            let value = values.get(*column).copied().filter(|value| value.is_finite());
            if let Some(value) = value {
                if !self.measured.iter().any(|(known, _)| known == measure) {
                    self.measured.push((*measure, MeasuredAt { value, t }));
                }
            }
        }
        self.busy.get_or_insert_with(|| {
            let cpus = self.entries.iter().filter(|entry| entry.counter == Counter::Cpu);
            let shares = cpus.filter_map(|entry| values.get(entry.column).copied());
            shares.map(capped_share).filter(|share| *share >= LEAST_SHARE).sum()
        });
        // Where its disks move with it, a domain waits for its memory: rows of that say 0, and are not its own.
        let has = |wanted: fn(&f64) -> bool| {
            self.entries.iter().any(|entry| values.get(entry.column).is_some_and(wanted))
        };
        let has_run = has(|value| value.is_finite() && *value > 0.0);
        let any_was = |grown| self.entries.iter().any(|entry| entry.has_grown() == Some(grown));
        let was_idle = || any_was(false) && !any_was(true);
        let is_other = |entry: &Entry| {
            let value = values.get(entry.column).filter(|value| value.is_finite());
            value.is_some_and(|value| entry.is_not_last(*value))
        };
        let is_mark = self.way.mark().is_some_and(|mark| mark.0 == t);
        let last = || match has_run {
            true if is_mark && self.entries.iter().any(is_other) => Last::Other,
            true if is_mark && any_was(true) => Last::Same,
            true => Last::Told,
            false if has(|value| value.is_finite()) && was_idle() => Last::Told,
            false => Last::Nothing,
        };
        self.known_from = if has_run { Some(t) } else { self.known_from };
        let Some((seconds, at_rest)) = self.way.untaken(t, step) else {
            if !self.entries.is_empty() {
                self.last = self.last.or_else(|| Some(last()));
            }
            return;
        };
        if let Way::Shifted { mark } = self.way {
            let mut known = self
                .entries
                .iter()
                .filter_map(|entry| entry.is_last(values.get(entry.column).copied()?));
            let were_none_taken = self.entries.iter().all(|entry| !entry.was_taken());
            if step > i64::from(SHORTEST_STEP) || were_none_taken {
                // By how much these are shifted does not show: they are read again after the pause.
                self.shift = self.shift.max(t - mark.0);
            } else if known.next() == Some(true) && known.all(|is_last| is_last) {
                // All of them, and there is one.
                self.shift = t - mark.0;
            }
        }
        if self.shift > 0 {
            return;
        }
        let is_known =
            |column| values.get(column).is_some_and(|value| Sum::of(*value, seconds).is_some());
        let is_five_fold = quirks.absolute_is_five_times_too_high();
        let scale = if is_five_fold { 0.2 } else { 1.0 };
        for entry in &mut self.entries {
            let Some(value) = values.get(entry.column).copied() else { continue };
            entry.see(value);
            let mean = match entry.counter {
                Counter::Cpu | Counter::RunState => capped_share(value),
                counter if counter.is_requests() => value * scale,
                _ => value,
            };
            let is_taken = entry.is_taken(is_known) && !entry.begins_anew(values, scale);
            match Sum::of(mean, seconds).filter(|_| is_taken) {
                Some(sum) => entry.add(t, step, (seconds, at_rest), mean, sum),
                None => entry.was_unknown(),
            }
        }
    }
}

#[cfg(test)]
#[path = "totals_tests.rs"]
mod tests;
