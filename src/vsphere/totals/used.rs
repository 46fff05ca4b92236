//! What the samples of one device add up to.

use std::time::Duration;

use super::answer::{Answer, Of, Series};
use super::{ALL_DEVICES, Device, LATE, MemoryTold, OPEN, OVERLAP, Told, Vm, VmTotals};
use crate::vsphere::perf::Counter;

/// Of a device, or of all vCPUs together.
pub(super) struct Used {
    pub(super) device: Device,
    /// By the places of the VM's newest times: the samples that were not taken yet.
    open: u8,
    /// In seconds.
    covered: u64,
    counts: [Count; 6],
    /// The VM's newest sample when it was found to be unplugged.
    pub(super) unplugged: Option<i64>,
}

/// One counter, in whole units of its samples times seconds: ms, KiB, packets, requests.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    /// Never falls while it is told.
    sum: i64,
    /// What it was when the VM was started.
    base: i64,
    /// As of the device, where it is not taken together with the others.
    open: u8,
    /// Whether the host tells it at all.
    is_told: bool,
}

/// What an answer has of a device, by the places of counters.
type Rows<'a> = [Option<&'a Series<'a>>; 6];

/// Where each sample of an answer stands.
#[derive(Clone, Copy)]
enum Place {
    /// It was taken, or is too old.
    Taken,
    /// Among the newest times of the VM, there.
    Known(usize),
    New,
}

/// A time that stays among the newest of the VM: where it was, and where it is in the answer.
struct Kept {
    time: i64,
    before: Option<usize>,
    told: Option<usize>,
}

/// The samples of an answer, seen from a VM.
struct Window<'a> {
    answer: &'a Answer<'a>,
    places: Vec<Place>,
    kept: Vec<Kept>,
    /// When the last start of the VM was.
    started: i64,
}

impl Vm {
    /// Adds what is new in an answer.
    pub(super) fn add(&mut self, answer: &Answer<'_>) {
        let window = self.window(answer);
        for series in answer.series {
            if let Some(device) = series.device().filter(|_| series.has_values()) {
                let has_room = self.used.len() < ALL_DEVICES;
                if has_room && !self.used.iter().any(|used| used.device == device) {
                    // Few, and for good: no room for more.
                    self.used.reserve_exact(1);
                    self.used.push(Used::new(device));
                }
            }
        }
        for used in &mut self.used {
            used.add(&window, self.covered);
        }
        self.covered += window.new_seconds();
        for series in answer.series {
            let (Of::Vm, place @ 0..3) = series.counter.of() else { continue };
            let mut values = (0..answer.times.len()).rev();
            let newest = values.find_map(|at| Some((answer.end(at), series.value(at)?)));
            if let (Some(newest), true) = (newest, series.instance.is_empty()) {
                self.memory[place] = Some(newest);
            }
        }
        let from = window.kept.first().map(|kept| kept.time);
        let dropped = answer.times.iter().map(|time| time.end).chain(self.times.iter().copied());
        let dropped = dropped.filter(|t| from.is_some_and(|from| *t < from)).max();
        self.from = self.from.max(dropped);
        // In place: whichever thread takes the next ones has memory of its own.
        self.times.clear();
        self.times.extend(window.kept.iter().map(|kept| kept.time));
    }

    fn window<'a>(&self, answer: &'a Answer<'a>) -> Window<'a> {
        let place = |t: i64| match self.times.iter().position(|known| *known == t) {
            Some(place) => Place::Known(place),
            None if self.is_new(t) => Place::New,
            None => Place::Taken,
        };
        let places: Vec<Place> = answer.times.iter().map(|time| place(time.end)).collect();
        let old = self.times.iter().enumerate().map(|(before, &time)| Kept {
            time,
            before: Some(before),
            told: answer.times.iter().position(|told| told.end == time),
        });
        let new = answer.times.iter().enumerate().zip(&places);
        let new = new
            .filter(|(_, place)| matches!(place, Place::New))
            .map(|((told, time), _)| Kept { time: time.end, before: None, told: Some(told) });
        let mut kept: Vec<Kept> = old.chain(new).collect();
        kept.sort_unstable_by_key(|kept| kept.time);
        kept.drain(..kept.len().saturating_sub(OPEN));
        Window { answer, places, kept, started: self.started }
    }
}

impl Window<'_> {
    /// For how long those samples are that did not come before.
    fn new_seconds(&self) -> u64 {
        let new = self.answer.times.iter().zip(&self.places);
        let new = new.filter(|(_, place)| matches!(place, Place::New));
        new.map(|(time, _)| u64::from(time.seconds)).sum()
    }

    /// Whether a sample can be taken that was open by this.
    fn is_open(&self, open: u8, at: usize) -> bool {
        match self.places[at] {
            Place::Taken => false,
            Place::Known(place) => open >> place & 1 == 1,
            Place::New => true,
        }
    }

    /// What stays open.
    fn still_open(&self, open: u8, taken: &[bool]) -> u8 {
        self.kept.iter().enumerate().fold(0, |mask, (place, kept)| {
            let was_open = kept.before.is_none_or(|before| open >> before & 1 == 1);
            let is_taken = kept.told.is_some_and(|told| taken[told]);
            mask | u8::from(was_open && !is_taken) << place
        })
    }
}

impl Used {
    fn new(device: Device) -> Self {
        let count = Count { open: u8::MAX, ..Count::default() };
        Self { device, open: u8::MAX, covered: 0, counts: [count; 6], unplugged: None }
    }

    /// Whether something is missing in one of the newest samples.
    pub(super) fn is_open(&self, place: usize) -> bool {
        let apart = self.counts[self.together()..].iter().filter(|count| count.is_told);
        let open = apart.fold(self.open, |open, count| open | count.open);
        open >> place & 1 == 1
    }

    /// No sample that is missing is filled in any more.
    pub(super) fn close(&mut self) {
        self.open = 0;
        self.counts.iter_mut().for_each(|count| count.open = 0);
    }

    /// The device is not plugged in any more. One that takes its place counts from 0, and only samples that
    /// have not come yet.
    pub(super) fn unplug(&mut self, newest: Option<i64>) {
        self.unplugged = self.unplugged.or(newest);
        self.close();
        self.counts = [Count::default(); 6];
    }

    fn is_told(&self) -> bool {
        self.counts.iter().any(|count| count.is_told)
    }

    /// The VM is started anew.
    pub(super) fn start(&mut self) {
        self.counts.iter_mut().for_each(|count| count.base = count.sum);
    }

    /// Those that are taken together or not at all: rates divide by the time that they cover.
    fn together(&self) -> usize {
        match self.device {
            Device::Cpu => 6,
            Device::Nic(_) => 2,
            Device::Disk(_) => 4,
        }
    }

    fn add(&mut self, window: &Window<'_>, covered: u64) {
        if !self.is_told() {
            // The time of a new device goes on from that of the VM: it is no older one.
            self.covered = self.covered.max(covered);
        }
        let mut rows: Rows<'_> = [None; 6];
        for series in window.answer.series.iter().filter(|series| series.is_of(&self.device)) {
            if series.has_values() {
                let place = series.counter.of().1;
                rows[place].get_or_insert(series);
                self.counts[place].is_told = true;
            }
        }
        let together = self.together();
        let samples = window.answer.times.len();
        let mut taken = vec![false; samples];
        let first: Vec<&Series<'_>> = rows[..together].iter().copied().flatten().collect();
        let mut lacks = [false; 6];
        for (place, lacks) in lacks.iter_mut().enumerate().take(together) {
            *lacks = !first.is_empty() && rows[place].is_none() && self.counts[place].is_told;
        }
        let lacks_some = lacks.contains(&true);
        // A few samples do not show that. It is not waited for in more than are asked for again, as those of the others
        // would be lost.
        let is_gone = lacks_some && samples > usize::from(OVERLAP);
        if is_gone {
            self.forget(lacks);
        }
        if !first.is_empty() && (is_gone || !lacks_some) {
            for (at, taken) in taken.iter_mut().enumerate() {
                let is_whole = first.iter().all(|series| series.value(at).is_some());
                *taken = is_whole && window.is_open(self.open, at);
                if *taken {
                    self.covered += u64::from(window.answer.times[at].seconds);
                    for series in &first {
                        self.counts[series.counter.of().1].take(series, &rows, window, at);
                    }
                }
            }
        }
        self.open = window.still_open(self.open, &taken);
        for (place, count) in self.counts.iter_mut().enumerate().skip(together) {
            taken.fill(false);
            if let Some(series) = rows[place] {
                for (at, taken) in taken.iter_mut().enumerate() {
                    *taken =
                        window.is_open(count.open, at) && count.take(series, &rows, window, at);
                }
            }
            count.open = window.still_open(count.open, &taken);
        }
    }

    /// These counters are told no more: they are unknown, and begin at 0 if they are told again.
    fn forget(&mut self, gone: [bool; 6]) {
        for place in 0..gone.len() {
            if gone[place] || self.needs(place).is_some_and(|needed| gone[needed]) {
                self.counts[place] = Count::default();
            }
        }
    }

    fn told(&self) -> Told {
        let told = |value: fn(&Count) -> i64| {
            let mut place = 0;
            self.counts.map(|count| {
                let (unit, is_known) = (self.unit(place), self.is_known(place));
                place += 1;
                is_known.then(|| i128::from(value(&count)) * unit)
            })
        };
        Told {
            sums: told(|count| count.sum),
            since_start: told(|count| count.sum - count.base),
            covered: Duration::from_secs(self.covered),
        }
    }

    fn is_known(&self, place: usize) -> bool {
        let is_told = |place: usize| self.counts[place].is_told;
        is_told(place) && self.needs(place).is_none_or(is_told)
    }

    /// The counter without which this one says nothing: how long requests took is their mean times their
    /// number, and waiting is also what an idle vCPU does.
    fn needs(&self, place: usize) -> Option<usize> {
        match (&self.device, place) {
            (Device::Disk(_), 4..) => Some(place - 2),
            (Device::Cpu, 4) => Some(5),
            _ => None,
        }
    }

    /// How many ns, bytes, packets or requests are one of what is counted.
    fn unit(&self, place: usize) -> i128 {
        match (&self.device, place) {
            (Device::Cpu, _) | (Device::Disk(_), 4..) => 1_000_000,
            (_, 0 | 1) => 1024,
            _ => 1,
        }
    }
}

impl Count {
    /// Adds a sample, if it is there.
    fn take(
        &mut self,
        series: &Series<'_>,
        rows: &Rows<'_>,
        window: &Window<'_>,
        at: usize,
    ) -> bool {
        let seconds = i64::from(window.answer.times[at].seconds);
        let of_requests = |place: usize| Some(rows[place]?.value(at)?.saturating_mul(seconds));
        let Some(value) = series.value(at) else { return false };
        let factor = match series.counter {
            Counter::NicReceived
            | Counter::NicSent
            | Counter::DiskRead
            | Counter::DiskWritten
            | Counter::DiskReads
            | Counter::DiskWrites => Some(seconds),
            // The mean of each request.
            Counter::DiskReadLatency => of_requests(2),
            Counter::DiskWriteLatency => of_requests(3),
            _ => Some(1),
        };
        let Some(factor) = factor else { return false };
        let idle = match series.counter {
            // Waiting is also what a vCPU does that has nothing to do.
            Counter::CpuWait => rows[5].and_then(|idle| idle.value(at)).unwrap_or(value),
            _ => 0,
        };
        let amount = value.saturating_sub(idle).max(0).saturating_mul(factor);
        self.sum = self.sum.saturating_add(amount);
        if window.answer.end(at) < window.started {
            self.base = self.base.saturating_add(amount);
        }
        true
    }
}

impl VmTotals<'_> {
    /// Another number at each start.
    pub(in crate::vsphere) fn start(&self) -> u32 {
        self.vm.starts
    }

    /// Whether there is a sample of its last start.
    pub(in crate::vsphere) fn is_sampled(&self) -> bool {
        self.vm.is_sampled()
    }

    /// How much time its samples cover, whatever is missing in them.
    pub(in crate::vsphere) fn covered(&self) -> Duration {
        Duration::from_secs(self.vm.covered)
    }

    /// What its vCPUs did: `None` if nothing was told of it yet.
    pub(in crate::vsphere) fn cpu(&self) -> Option<Told> {
        self.told(&Device::Cpu)
    }

    /// What a device did, which is `None` if the host tells nothing of it.
    pub(in crate::vsphere) fn told(&self, device: &Device) -> Option<Told> {
        self.vm.used.iter().find(|used| used.device == *device && used.is_told()).map(Used::told)
    }

    /// Every device of which something was told.
    #[cfg(test)]
    pub(in crate::vsphere) fn devices(&self) -> impl Iterator<Item = &Device> {
        self.vm.used.iter().filter(|used| used.is_told()).map(|used| &used.device)
    }

    pub(in crate::vsphere) fn memory(&self) -> MemoryTold {
        // What was told long before the newest sample, or of another start, is not known any more.
        let oldest = self.vm.started.max(self.vm.newest().unwrap_or(i64::MIN).saturating_sub(LATE));
        let told = |told: Option<(i64, i64)>| told.filter(|(t, _)| *t >= oldest);
        let [consumed, active, balloon] =
            self.vm.memory.map(|memory| told(memory).map(|(_, value)| value));
        MemoryTold { consumed, active, balloon }
    }
}
