//! Which counters are read, and how their samples are read from the answer to `QueryPerf`: comma
//! separated or not, as a server likes it.
//!
//! Pure. A sample is known by its time alone. Where it is not clear which value is of which time, or
//! which of two values it is, there is none.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use roxmltree::Node;

use super::soap::{self, MAX_NAME, Result, SoapError, answer_in_pieces, child, children, text};
use super::time;

/// A counter that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Counter {
    /// Milliseconds of all vCPUs.
    CpuRun,
    CpuUsed,
    CpuReady,
    CpuCostop,
    CpuWait,
    CpuIdle,
    /// KiB.
    MemConsumed,
    MemActive,
    MemBalloon,
    /// Seconds since it was powered on.
    Uptime,
    /// KiB a second, by the key of the NIC.
    NicReceived,
    NicSent,
    /// How many, likewise.
    NicPacketsReceived,
    NicPacketsSent,
    NicDroppedReceived,
    NicDroppedSent,
    /// KiB a second, by the name of the disk.
    DiskRead,
    DiskWritten,
    /// How many a second, likewise.
    DiskReads,
    DiskWrites,
    /// Milliseconds that one takes, likewise.
    DiskReadLatency,
    DiskWriteLatency,
}

impl Counter {
    /// Group, name and rollup.
    pub(super) fn name(self) -> &'static str {
        TABLE.iter().find(|(counter, ..)| *counter == self).map_or("", |(_, name, ..)| *name)
    }
}

const COUNTERS: usize = 22;

/// All of a VM.
const WHOLE: &str = "";
/// Each of its devices.
const EACH: &str = "*";

/// Group, name and rollup of each, its unit, and the instances that are asked for.
const TABLE: [(Counter, &str, &str, &str); COUNTERS] = [
    (Counter::CpuRun, "cpu.run.summation", "millisecond", WHOLE),
    (Counter::CpuUsed, "cpu.used.summation", "millisecond", WHOLE),
    (Counter::CpuReady, "cpu.ready.summation", "millisecond", WHOLE),
    (Counter::CpuCostop, "cpu.costop.summation", "millisecond", WHOLE),
    (Counter::CpuWait, "cpu.wait.summation", "millisecond", WHOLE),
    (Counter::CpuIdle, "cpu.idle.summation", "millisecond", WHOLE),
    (Counter::MemConsumed, "mem.consumed.average", "kiloBytes", WHOLE),
    (Counter::MemActive, "mem.active.average", "kiloBytes", WHOLE),
    (Counter::MemBalloon, "mem.vmmemctl.average", "kiloBytes", WHOLE),
    (Counter::Uptime, "sys.uptime.latest", "second", WHOLE),
    (Counter::NicReceived, "net.received.average", "kiloBytesPerSecond", EACH),
    (Counter::NicSent, "net.transmitted.average", "kiloBytesPerSecond", EACH),
    (Counter::NicPacketsReceived, "net.packetsRx.summation", "number", EACH),
    (Counter::NicPacketsSent, "net.packetsTx.summation", "number", EACH),
    (Counter::NicDroppedReceived, "net.droppedRx.summation", "number", EACH),
    (Counter::NicDroppedSent, "net.droppedTx.summation", "number", EACH),
    (Counter::DiskRead, "virtualDisk.read.average", "kiloBytesPerSecond", EACH),
    (Counter::DiskWritten, "virtualDisk.write.average", "kiloBytesPerSecond", EACH),
    (Counter::DiskReads, "virtualDisk.numberReadAveraged.average", "number", EACH),
    (Counter::DiskWrites, "virtualDisk.numberWriteAveraged.average", "number", EACH),
    (Counter::DiskReadLatency, "virtualDisk.totalReadLatency.average", "millisecond", EACH),
    (Counter::DiskWriteLatency, "virtualDisk.totalWriteLatency.average", "millisecond", EACH),
];

/// The numbers that one server has for the counters: each has others, and other ones after an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counters(HashMap<u32, Counter>);

impl Counters {
    /// From the answer to [`Request::perf_counters`](super::requests::Request::perf_counters).
    pub(super) fn read(body: &[u8]) -> Result<Self> {
        let (mut counters, mut seen) = (HashMap::new(), HashSet::new());
        answer_in_pieces(body, "RetrievePropertiesExResponse", "PerfCounterInfo", |response| {
            let infos = soap::returned(response)
                .into_iter()
                .flat_map(|result| children(result, "objects"))
                .flat_map(|object| children(object, "propSet"))
                .filter_map(|property| child(property, "val"))
                .flat_map(soap::elements);
            for (key, counter) in infos.filter_map(info) {
                if seen.insert(counter) {
                    counters.insert(key, counter);
                }
            }
            Ok(())
        })?;
        if counters.is_empty() {
            return Err(SoapError::Unexpected("it has none of the counters that are needed"));
        }
        Ok(Self(counters))
    }

    /// What is asked for: numbers and instances.
    pub(super) fn asked(&self) -> Vec<(u32, &'static str)> {
        let id = |counter| self.0.iter().find(|(_, other)| **other == counter).map(|(id, _)| *id);
        TABLE
            .iter()
            .filter_map(|(counter, _, _, instance)| Some((id(*counter)?, *instance)))
            .collect()
    }

    /// The same of all instances, where there are some beside the whole VM.
    pub(super) fn asked_of_each(&self) -> Vec<(u32, &'static str)> {
        self.asked().into_iter().map(|(id, _)| (id, EACH)).collect()
    }

    /// The names of those that the server does not have, or has in another unit.
    pub(super) fn lacking(&self) -> impl Iterator<Item = &'static str> {
        let has = |counter| self.0.values().any(|other| *other == counter);
        TABLE.iter().filter(move |(counter, ..)| !has(*counter)).map(|(_, name, ..)| *name)
    }
}

/// The number of a counter that is of use.
fn info(info: Node<'_, '_>) -> Option<(u32, Counter)> {
    let key_of = |name| child(info, name).and_then(|part| child(part, "key")).and_then(text);
    let (group, name, unit) = (key_of("groupInfo")?, key_of("nameInfo")?, key_of("unitInfo")?);
    let rollup = child(info, "rollupType").and_then(text)?;
    let is_it = |full: &str| {
        let rest = full.strip_prefix(group).and_then(|rest| rest.strip_prefix('.'));
        let rest = rest.and_then(|rest| rest.strip_prefix(name)?.strip_prefix('.'));
        rest == Some(rollup)
    };
    let found = TABLE.iter().find(|(_, full, ..)| is_it(full));
    let (counter, ..) = found.filter(|(_, _, expected, _)| *expected == unit)?;
    Some((child(info, "key").and_then(text)?.trim().parse().ok()?, *counter))
}

/// What a sample covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time {
    /// Its timestamp by the host's clock, in seconds since the epoch.
    pub(super) end: i64,
    /// How long it is, in seconds.
    pub(super) seconds: u32,
}

/// The samples of one VM.
#[derive(Debug)]
pub(super) struct Entity<'a> {
    pub(super) moref: &'a str,
    /// From old to new, each once.
    times: Vec<Time>,
    series: Vec<(Counter, &'a str, Range<usize>)>,
    values: Vec<Option<i64>>,
    comes_in_order: bool,
}

impl<'a> Entity<'a> {
    /// Whether its samples came from old to new, too, each time once.
    pub(super) fn comes_in_order(&self) -> bool {
        self.comes_in_order
    }

    /// When its samples were taken: from old to new, each time once.
    pub(super) fn times(&self) -> &[Time] {
        &self.times
    }

    /// Each series: its counter, its instance, and a value for each of the times, `None` where it is
    /// missing. None of them comes twice.
    pub(super) fn series(&self) -> impl Iterator<Item = (Counter, &'a str, &[Option<i64>])> {
        let values = |range: &Range<usize>| self.values.get(range.clone()).unwrap_or_default();
        self.series
            .iter()
            .map(move |(counter, instance, range)| (*counter, *instance, values(range)))
    }
}

/// Shows the samples of each VM in turn, from the answer to
/// [`Request::query_perf`](super::requests::Request::query_perf). A VM that is off, or about which the
/// server says nothing, is not among them, or has none.
pub(super) fn samples(
    body: &[u8],
    counters: &Counters,
    mut visit: impl FnMut(&Entity<'_>),
) -> Result<()> {
    answer_in_pieces(body, "QueryPerfResponse", "returnval", |response| {
        let mut entity = Entity {
            moref: "",
            times: Vec::new(),
            series: Vec::new(),
            values: Vec::new(),
            comes_in_order: true,
        };
        let (mut plan, mut seen, mut told) = (Plan::default(), HashSet::new(), Vec::new());
        for metric in children(response, "returnval") {
            let moref = child(metric, "entity").and_then(text).map(str::trim);
            let Some(moref) = moref.filter(|moref| is_name(moref)) else { continue };
            entity.moref = moref;
            entity.series.clear();
            entity.values.clear();
            seen.clear();
            plan.read(metric, &mut entity.times);
            entity.comes_in_order = plan.order.is_empty();
            for series in children(metric, "value") {
                // Of a counter that was not asked for, or of what has no possible name.
                let Some((counter, instance)) = identity(series, counters) else { continue };
                // With fewer or more values than there are times, it is not known whose they are.
                if values(series, plan.len(), &mut told) && seen.insert((counter, instance)) {
                    let begin = entity.values.len();
                    plan.arrange(&told, &mut entity.values);
                    entity.series.push((counter, instance, begin..entity.values.len()));
                }
            }
            visit(&entity);
        }
        Ok(())
    })
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME
}

fn identity<'a>(series: Node<'a, '_>, counters: &Counters) -> Option<(Counter, &'a str)> {
    let id = child(series, "id")?;
    let counter = child(id, "counterId").and_then(text)?.trim().parse().ok()?;
    let instance = child(id, "instance").and_then(text).unwrap_or_default().trim();
    let counter = counters.0.get(&counter)?;
    (instance.len() <= MAX_NAME).then_some((*counter, instance))
}

/// Reads the values of a series; whether there are so many as there should be.
fn values(series: Node<'_, '_>, expected: usize, to: &mut Vec<Option<i64>>) -> bool {
    to.clear();
    // One element for each, or one for all.
    let texts = children(series, "value").filter_map(text);
    for value in texts.flat_map(|text| text.split(',')) {
        if to.len() == expected {
            return false;
        }
        // -1 says that it is missing; none of these counters falls below 0.
        to.push(value.trim().parse().ok().filter(|value| *value >= 0));
    }
    to.len() == expected
}

/// How the values of a series, in the order in which they come, are arranged by their times.
#[derive(Default)]
struct Plan {
    /// The times in the order in which they come; `None` for one that cannot be read.
    told: Vec<Option<Time>>,
    /// The places of those that can, by their times; empty if they come in that order.
    order: Vec<usize>,
}

impl Plan {
    fn len(&self) -> usize {
        self.told.len()
    }

    /// Reads the times of an entity, and which there are.
    fn read(&mut self, metric: Node<'_, '_>, times: &mut Vec<Time>) {
        self.told.clear();
        self.order.clear();
        times.clear();
        if let Some(csv) = child(metric, "sampleInfoCSV") {
            // An interval and a timestamp for each.
            let mut parts =
                text(csv).filter(|text| !text.trim().is_empty()).map(|text| text.split(','));
            while let Some(seconds) = parts.as_mut().and_then(Iterator::next) {
                let end = parts.as_mut().and_then(Iterator::next);
                self.told.push(time(seconds, end.unwrap_or_default()));
            }
        } else {
            let of = |sample, name| child(sample, name).and_then(text).unwrap_or_default();
            let samples = children(metric, "sampleInfo");
            self.told.extend(samples.map(|s| time(of(s, "interval"), of(s, "timestamp"))));
        }
        times.extend(self.told.iter().flatten());
        let is_in_order = times.windows(2).all(|pair| matches!(pair, [a, b] if a.end < b.end));
        if !is_in_order || times.len() < self.told.len() {
            self.order.extend((0..self.told.len()).filter(|place| self.told[*place].is_some()));
            self.order.sort_by_key(|place| self.told[*place]);
            times.sort_unstable();
            times.dedup_by_key(|time| time.end);
        }
    }

    /// Adds a value for each time.
    fn arrange(&self, values: &[Option<i64>], to: &mut Vec<Option<i64>>) {
        if self.order.is_empty() && self.told.iter().all(Option::is_some) {
            to.extend(values);
            return;
        }
        let end = |place: &usize| self.told[*place].map(|time| time.end);
        to.extend(self.order.chunk_by(|a, b| end(a) == end(b)).map(|same| {
            let known = same.iter().filter_map(|place| values[*place]);
            let length = |place: usize| self.told[place].map(|time| time.seconds);
            let is_one = same.windows(2).all(|pair| length(pair[0]) == length(pair[1]));
            // Of two values for one time, who knows.
            let value = known.clone().next().filter(|first| known.clone().all(|v| v == *first));
            value.filter(|_| is_one)
        }));
    }
}

fn time(seconds: &str, end: &str) -> Option<Time> {
    let seconds = seconds.trim().parse().ok().filter(|seconds| *seconds > 0)?;
    Some(Time { end: time::seconds(end)?, seconds })
}

#[cfg(test)]
#[path = "perf_tests.rs"]
mod tests;
