//! What the VMs of a vCenter have used: samples in, sums out. Pure; times are those of whoever tells
//! samples, in seconds.
//!
//! Each sample is the average or the sum over its own 20 s. It is taken once, whenever it comes: one
//! that is missing (-1) may be filled in later, and stays open for a while. What no sample covers is not
//! invented: the time that was covered is counted beside.

mod answer;
mod used;

#[cfg(test)]
#[path = "totals_tests.rs"]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::perf::Counter;
use crate::samples::STARTS;
pub(super) use answer::{Answer, Series};
use used::Used;

/// So many of the newest samples stay open for what is missing in them.
const OPEN: usize = 8;
/// No time of a sample, nor of a start, is further from 1970 than that.
const FAR: i64 = 1 << 42;
/// So many samples are asked for once more, in case that one was late or missing.
pub(super) const OVERLAP: u8 = 2;
/// So many more than are missing are asked for in the second call of a reading: those that come until it is
/// answered, in more than four minutes, would push older ones out of the answer.
const MEANWHILE: i64 = 15;
/// A clock that is off by no more than this is one whose newest samples are late.
pub(super) const LATE: i64 = 60;
/// By so much the time of a VM's start may seem to move without being another one.
const JITTER: i64 = 10;
/// A host keeps the samples of an hour.
pub(super) const MOST_SAMPLES: i64 = 180;
/// Beyond so many, devices that are not plugged in any more are forgotten, once no sample of theirs is
/// among the newest.
const MOST_DEVICES: usize = 32;
/// No VM has more: 10 NICs, and up to 256 disks of each kind of controller.
const ALL_DEVICES: usize = 1000;
/// A clock is behind another one by more than that, as far as a VM's uptime tells: one that is told late is off by 20 s.
const BEHIND: i64 = 25;
/// Of so many hosts where a VM was before it is known up to where their samples were taken.
const MOST_HOSTS: usize = 4;

/// As far as samples are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Running,
    Suspended,
    Off,
}

/// What the inventory says of a VM.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    /// Its managed object. Another one was started since, unless it was registered anew while it ran.
    pub(super) moref: &'a str,
    pub(super) state: State,
    /// When it was powered on (`runtime.bootTime`), by its host's clock.
    pub(super) boot: Option<i64>,
}

/// What came of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// All that there was in it.
    Whole,
    /// It was not, as samples are missing between what was taken before and its oldest one: so many have
    /// to be asked for.
    TooShort { samples: i64 },
    /// The host's clock went back, and the VM's uptime does not tell by how much: what was used until now is not known.
    WentBack,
}

/// All VMs.
#[derive(Default)]
pub(super) struct Totals {
    /// Boxed, as the map has room for twice as many.
    vms: HashMap<Uuid, Box<Vm>>,
    /// How many have gone: one that comes back begins with another start.
    gone: u32,
}

/// A VM: which of its samples are taken, and what they add up to.
#[allow(clippy::struct_excessive_bools)] // each of them may come with any other
struct Vm {
    moref: Box<str>,
    /// Of whom its last samples were.
    host: Option<Arc<str>>,
    /// Where it was before: up to where samples of that host were taken.
    left: Vec<(Arc<str>, i64)>,
    /// No sample up to then is taken any more; `None` before the first answer.
    from: Option<i64>,
    /// The newest samples that were taken, from old to new: at most [`OPEN`].
    times: Vec<i64>,
    used: Vec<Used>,
    /// Seconds of all samples that came, whatever is missing in them.
    covered: u64,
    /// The number of its start, and the first time of that.
    starts: u32,
    started: i64,
    /// The newest time since its start that was told, and when.
    uptime: Option<(i64, i64)>,
    boot: Option<i64>,
    /// Since its last sample, it was off,
    was_off: bool,
    /// or was started at another time, as far as its host knows that: then, by the clock of its samples,
    other_boot: Option<i64>,
    /// or has come from another host,
    has_moved: bool,
    /// or has moved or slept, so that its uptime may begin anew.
    may_begin_anew: bool,
    /// After a new start: no sample of the start before ends later, however late it comes. `None` before the
    /// first answer since.
    last_before: Option<i64>,
    /// It was there before anybody looked: what it used until then is not known.
    is_old: bool,
    memory: [Option<(i64, i64)>; 3],
}

/// The latest values of a VM's memory, KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct MemoryTold {
    pub(super) consumed: Option<i64>,
    pub(super) active: Option<i64>,
    pub(super) balloon: Option<i64>,
}

/// Whether two times are those of the same start.
pub(super) fn is_one_start(one: i64, other: i64) -> bool {
    one.abs_diff(other) <= JITTER.unsigned_abs()
}

/// What the samples of a device, or of all vCPUs, add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    /// By the places of [`Counter::place`]; `None` for what the host does not tell.
    pub(super) sums: [Option<i128>; 6],
    /// The same since the VM was started, as far as that was seen.
    pub(super) since_start: [Option<i128>; 6],
    /// How much time that covers.
    pub(super) covered: Duration,
}

/// What is known of a VM by its samples.
pub(super) struct VmTotals<'a> {
    vm: &'a Vm,
}

impl Totals {
    /// Enters what the inventory says of a VM. `is_first` is the first inventory: its VMs were there before.
    pub(super) fn enter(&mut self, uuid: Uuid, known: &Known<'_>, is_first: bool) {
        let first = self.gone.wrapping_mul(STARTS);
        let vm = self.vms.entry(uuid).or_insert_with(|| Box::new(Vm::new(known, first, is_first)));
        let is_another = *vm.moref != *known.moref;
        if is_another {
            vm.moref = known.moref.into();
        }
        match known.state {
            State::Running if !is_another => {}
            State::Suspended if !is_another => vm.may_begin_anew = true,
            _ => (vm.was_off, vm.is_old, vm.last_before) = (true, false, None),
        }
        if let Some(boot) = known.boot {
            let before = vm.boot.replace(boot);
            let start = vm.uptime.map(|(t, up)| t.saturating_sub(up));
            let is_same = |other: Option<i64>| other.is_some_and(|other| is_one_start(other, boot));
            if is_same(start) {
                // That was taken back.
                vm.other_boot = None;
            }
            if let Some(before) = before.filter(|_| !is_same(before) && !is_same(start)) {
                if vm.other_boot.is_none() {
                    vm.last_before = None;
                }
                // Whoever tells that may have another clock.
                let start = vm.other_boot.or(start).unwrap_or(before);
                let later = boot.saturating_sub(before);
                vm.other_boot = Some(start.saturating_add(later));
            }
        }
    }

    /// Notes that a VM has another managed object.
    pub(super) fn register_anew(&mut self, uuid: &Uuid, moref: &str) {
        if let Some(vm) = self.vms.get_mut(uuid) {
            vm.moref = moref.into();
        }
    }

    /// Forgets what is gone.
    pub(super) fn keep(&mut self, is_there: impl Fn(&Uuid) -> bool) {
        let before = self.vms.len();
        self.vms.retain(|uuid, _| is_there(uuid));
        let gone = u32::try_from(before - self.vms.len()).unwrap_or(u32::MAX);
        self.gone = self.gone.wrapping_add(gone);
        if self.vms.capacity() > 4 * self.vms.len() + 64 {
            self.vms.shrink_to_fit();
        }
    }

    /// Forgets the devices of a VM that are not plugged in any more.
    pub(super) fn keep_devices(&mut self, uuid: &Uuid, is_there: impl Fn(&Device) -> bool) {
        let Some(vm) = self.vms.get_mut(uuid) else { return };
        let Vm { used, times, .. } = &mut **vm;
        for used in used.iter_mut() {
            if used.device == Device::Cpu || is_there(&used.device) {
                used.unplugged = None;
            } else {
                used.unplug(times.last().copied());
            }
        }
        if used.len() > MOST_DEVICES {
            // Samples that are told once more would be taken once more by what takes its place.
            let is_told_again = |last: i64| times.first().is_some_and(|oldest| last >= *oldest);
            used.retain(|used| used.unplugged.is_none_or(is_told_again));
        }
    }

    /// The newest sample of a VM; `None` if it has none, or what was there is of another start.
    pub(super) fn newest(&self, uuid: &Uuid) -> Option<i64> {
        self.vms.get(uuid)?.newest()
    }

    /// Whether the last samples of a VM were of that host.
    pub(super) fn is_of(&self, uuid: &Uuid, host: &Arc<str>) -> bool {
        self.vms.get(uuid).is_some_and(|vm| vm.host.as_ref() == Some(host))
    }

    /// Takes the samples of a VM that were told for its host. Where they do not go back to those that were
    /// taken last, they have to be asked for again, unless they are `all` that there are.
    pub(super) fn take(
        &mut self,
        uuid: &Uuid,
        host: &Arc<str>,
        answer: &Answer<'_>,
        all: bool,
    ) -> Taken {
        self.vms.get_mut(uuid).map_or(Taken::Whole, |vm| vm.take(host, answer, all))
    }

    pub(super) fn vm(&self, uuid: &Uuid) -> Option<VmTotals<'_>> {
        self.vms.get(uuid).map(|vm| VmTotals { vm })
    }
}

/// What samples are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Device {
    /// All vCPUs together.
    Cpu,
    /// A NIC, by the key of its device.
    Nic(i32),
    /// A disk, for example `scsi0:0`.
    Disk(Box<str>),
}

impl Vm {
    fn new(known: &Known<'_>, starts: u32, is_old: bool) -> Self {
        Self {
            moref: known.moref.into(),
            host: None,
            left: Vec::new(),
            from: None,
            times: Vec::new(),
            used: Vec::new(),
            covered: 0,
            starts,
            started: i64::MIN,
            uptime: None,
            boot: known.boot,
            was_off: false,
            other_boot: None,
            has_moved: false,
            may_begin_anew: false,
            last_before: None,
            is_old,
            memory: [None; 3],
        }
    }

    /// The first of the newest samples in which something is missing that may come yet.
    fn first_open(&self) -> Option<i64> {
        let newest =
            self.times.iter().enumerate().skip(self.times.len().saturating_sub(OVERLAP.into()));
        let mut open =
            newest.filter(|(place, _)| self.used.iter().any(|used| used.is_open(*place)));
        open.next().map(|(_, t)| *t)
    }

    fn newest(&self) -> Option<i64> {
        self.times.last().copied().or(self.from)
    }

    /// Whether there is a sample of its last start. A VM that has moved or slept goes on.
    fn is_sampled(&self) -> bool {
        let Some(newest) = self.newest() else { return false };
        let told = self.uptime.map_or(newest, |(t, _)| t);
        let is_before = self.other_boot.is_some_and(|boot| told <= boot);
        !self.was_off && (!is_before || self.may_begin_anew)
    }

    fn take(&mut self, host: &Arc<str>, answer: &Answer<'_>, all: bool) -> Taken {
        let (Some(oldest), Some(newest)) = (answer.times.first(), answer.times.last()) else {
            return Taken::Whole;
        };
        let (oldest, newest) = (oldest.end, newest.end);
        if oldest < -FAR || newest > FAR {
            return Taken::Whole;
        }
        if self.host.as_ref().is_some_and(|before| before != host) {
            self.move_to(host, answer);
        } else if let Some(from) = self.set_back_to(answer) {
            // It has moved since its host was read, or that one's clock was set back.
            self.leave(host);
            self.has_moved = true;
            self.forget_times(from);
            self.started = i64::MIN;
        }
        let too_short = match self.newest() {
            None => self.begin(answer, all),
            Some(last) if newest < last.saturating_sub(LATE) => {
                self.host = Some(Arc::clone(host));
                self.forget_times(newest);
                // Whatever is told from now on is later than that, and may be of another start.
                self.uptime = self.uptime.map(|(_, was)| (newest, was));
                return Taken::WentBack;
            }
            Some(last) => {
                let step = answer.step();
                let next = self.first_open().unwrap_or(last.saturating_add(step));
                let missing = newest.saturating_sub(next.min(last)) / step.max(1) + MEANWHILE;
                (!all && oldest > next).then_some(missing)
            }
        };
        if let Some(samples) = too_short {
            return Taken::TooShort { samples: samples.clamp(1, MOST_SAMPLES) };
        }
        self.host = Some(Arc::clone(host));
        self.find_start(answer);
        self.add(answer);
        Taken::Whole
    }

    /// Its samples come from another host now, which may have another clock, and has only those since it
    /// came there. What was taken is not taken again.
    fn move_to(&mut self, host: &Arc<str>, answer: &Answer<'_>) {
        let Some(last) = self.newest() else { return };
        let known = self.left.iter().position(|(left, _)| left == host);
        let before = known.map(|place| self.left.remove(place).1);
        if let Some(old) = self.host.take() {
            self.leave(&old);
        }
        (self.has_moved, self.may_begin_anew) = (true, true);
        let from = match self.place_of_last(answer, before) {
            Some(place) => before.map_or(place, |before| before.max(place)),
            None if answer.end(answer.times.len() - 1) < last - LATE => before.unwrap_or(i64::MIN),
            None => before.map_or(last, |before| before.max(last)),
        };
        self.forget_times(from);
        self.started = i64::MIN;
    }

    /// Remembers up to where samples of that host were taken.
    fn leave(&mut self, host: &Arc<str>) {
        let Some(last) = self.newest() else { return };
        let known = self.left.iter().position(|(left, _)| left == host);
        let known = known.map(|place| self.left.remove(place).1);
        self.left.push((Arc::clone(host), known.map_or(last, |known| known.max(last))));
        if self.left.len() > MOST_HOSTS {
            self.left.remove(0);
        }
    }

    /// When its last sample ended, if these are by a clock that is behind the one of those before: its uptime began earlier
    /// then, which no new start can do. Samples of a lower uptime were taken.
    fn set_back_to(&self, answer: &Answer<'_>) -> Option<i64> {
        let (last, was) = self.uptime?;
        let mut told = (0..answer.times.len())
            .rev()
            .filter_map(|at| Some((answer.end(at), answer.value(Counter::Uptime, at)?)));
        let (t, up) = told.next()?;
        let [began, before] = [t.saturating_sub(up), last.saturating_sub(was)];
        let is_behind = up > was && began < before.saturating_sub(BEHIND);
        let taken = told.filter(|(_, up)| *up <= was).map(|(t, _)| t).max();
        // Some may have been taken after that which told the uptime.
        let since = self.newest().map_or(0, |newest| newest.saturating_sub(last).max(0));
        let ended = t.saturating_sub(up.saturating_sub(was)).saturating_add(since).min(t);
        is_behind.then(|| taken.map_or(ended, |taken| taken.max(ended)))
    }

    /// When its last sample ended by the clock of another host, as far as the VM's uptime tells that; `before`
    /// that there are only samples of another time on the same host.
    fn place_of_last(&self, answer: &Answer<'_>, before: Option<i64>) -> Option<i64> {
        let (last, was) = self.uptime?;
        let mut told = (0..answer.times.len())
            .filter_map(|at| Some((answer.end(at), answer.value(Counter::Uptime, at)?)))
            .filter(|(t, _)| before.is_none_or(|before| *t > before));
        let (_, oldest) = told.next()?;
        let (t, up) = told.next_back().unwrap_or((answer.end(0), oldest));
        let is_same_clock = (t - up).abs_diff(last - was) <= JITTER.unsigned_abs();
        if oldest < was && !is_same_clock {
            // It began anew with the move: all that this host tells is later.
            return Some(t - up - 1);
        }
        Some(t - (up - was).max(0))
    }

    /// No sample up to then is taken any more, and all later ones are.
    fn forget_times(&mut self, from: i64) {
        (self.from, self.last_before) = (Some(from), None);
        self.times.clear();
        self.used.iter_mut().for_each(Used::close);
    }

    /// The first answer: what was used since the start of a VM is known if all samples since then are. How
    /// many it takes where there are more than were told.
    fn begin(&mut self, answer: &Answer<'_>, all: bool) -> Option<i64> {
        let (oldest, newest) = (answer.end(0), answer.end(answer.times.len() - 1));
        let told = (0..answer.times.len())
            .rev()
            .find_map(|at| Some((answer.end(at), answer.value(Counter::Uptime, at)?)));
        let (start, step) = (told.map(|(t, up)| t - up), answer.step().max(1));
        if let Some(start) = start.filter(|start| !all && *start <= oldest - step) {
            let since = (newest - start) / step + 2;
            if since <= MOST_SAMPLES {
                return Some(since);
            }
        }
        match start {
            Some(start) if start >= oldest - step => self.from = Some(start - 1),
            None if !self.is_old => self.from = Some(i64::MIN),
            _ => (self.from, self.uptime) = (Some(newest), told),
        }
        self.was_off = false;
        None
    }

    /// Finds whether the VM was started anew in the new samples, and when.
    fn find_start(&mut self, answer: &Answer<'_>) {
        let new: Vec<usize> =
            (0..answer.times.len()).filter(|at| self.is_new(answer.end(*at))).collect();
        let (Some(&first), Some(&last)) = (new.first(), new.last()) else { return };
        let newest = answer.end(last);
        let has_moved_or_slept = self.may_begin_anew;
        let mut before = self.uptime;
        let mut began = None;
        let mut is_told = false;
        for at in new {
            let (t, Some(up)) = (answer.end(at), answer.value(Counter::Uptime, at)) else {
                continue;
            };
            is_told = true;
            if let Some((last, was)) = before {
                if t <= last && !self.has_moved {
                    // It came late.
                    continue;
                }
                let has_other_boot = self.other_boot.is_some();
                let is_hinted = self.was_off || has_other_boot;
                // One that ran when it was last told was started since then, or else this is told late.
                let is_late = up <= was && up > t - last + JITTER;
                if is_late && !(is_hinted || self.may_begin_anew || self.has_moved) {
                    continue;
                }
                let fell = up <= was && (is_hinted || !self.may_begin_anew);
                let leapt = (self.was_off || has_other_boot && !self.may_begin_anew)
                    && (t - up) - (last - was) > JITTER;
                if fell || leapt {
                    // Samples since then may be missing still.
                    began = Some(t - up + 1);
                    (self.was_off, self.other_boot) = (false, None);
                    // What was told until now is when the start before was.
                    self.boot = self.boot.filter(|_| is_hinted);
                }
            }
            self.may_begin_anew = false;
            before = Some((t, up));
        }
        // Where nothing tells when it was started, that was since the last sample; unless these are only
        // the last ones of before.
        if self.was_off && (!is_told || self.uptime.is_none() || self.has_moved) {
            began = Some(answer.end(first));
            (self.was_off, self.other_boot) = (false, None);
            // It is not found once more when that is told.
            before = before.filter(|_| is_told);
        }
        if let (Some((told, _)), true) = (before, is_told) {
            self.other_boot = self.other_boot.filter(|boot| told <= *boot && !has_moved_or_slept);
        }
        // Where it goes on as if nothing had been, nothing was.
        if newest > *self.last_before.get_or_insert(newest.saturating_add(LATE)) {
            (self.was_off, self.other_boot) = (false, None);
        }
        (self.uptime, self.has_moved) = (before, false);
        if let Some(began) = began {
            self.starts = self.starts.wrapping_add(1);
            self.started = began;
            self.used.iter_mut().for_each(Used::start);
        }
    }

    /// Whether a sample was not there in any answer before.
    fn is_new(&self, t: i64) -> bool {
        self.from.is_none_or(|from| t > from) && !self.times.contains(&t)
    }
}
