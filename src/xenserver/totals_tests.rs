//! Totals of an invented host, whose answers are those of XAPI's own library, against the truth.

// Times and counters of the data are far below 2^53.
#![allow(clippy::cast_precision_loss)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::samples::STARTS;
use crate::xenserver::fixtures::{SETS, answer, text};
use crate::xenserver::vm::State;

impl Totals {
    fn take(&mut self, host: Uuid, answer: &[u8]) -> Result<Taken, Unreadable> {
        self.take_rows(host, &Rows::read(answer)?)
    }
}

const T_END: i64 = 1_760_000_402;
const NANO: f64 = 1e9;

/// What happened, in seconds after 1,760,000,000.
const C_STARTS: i64 = -35;
const D_HALTS: i64 = 277;
const E_REBOOTS: i64 = 201;
const F_PAUSES: i64 = 102;
const F_RESUMES: i64 = 222;
const XVDE_PLUGGED: i64 = 312;
const VIF_1_UNPLUGGED: i64 = 162;

fn at(seconds: i64) -> i64 {
    1_760_000_000 + seconds
}

fn host() -> Uuid {
    "0f7c3c8e-5b0e-4c56-9f64-2f5d7c1f6a11".parse().unwrap()
}

/// Another one, which tells the same VMs.
fn other() -> Uuid {
    "0f7c3c8e-0000-4c56-9f64-2f5d7c1f6a11".parse().unwrap()
}

/// An answer as that one would give it.
fn as_other(answer: &[u8]) -> Vec<u8> {
    let answer = String::from_utf8(answer.to_vec()).unwrap();
    answer.replace(&host().to_string(), &other().to_string()).into_bytes()
}

fn uuid(vm: char) -> Uuid {
    let last = u32::from(vm) - u32::from('A') + 1;
    let head: String = if vm < 'G' {
        format!("{}{last}", vm.to_ascii_lowercase()).repeat(4)
    } else {
        format!("0{last}").repeat(4)
    };
    format!("{head}-000{last}-4c1e-8d1e-00000000000{last}").parse().unwrap()
}

const VMS: [char; 8] = ['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H'];

fn build(set: &str) -> &str {
    if set.contains("1.249") {
        "1.249.41"
    } else if set.contains("24.19") {
        "24.19.2"
    } else {
        "26.17.0"
    }
}

/// How old the newest row is at least, in the sets.
fn newest(set: &str, t: i64) -> i64 {
    let lag = if set.contains("26.17") { 4 } else { 1 };
    (t - lag) / 5 * 5
}

struct Truth(BTreeMap<(Uuid, String), BTreeMap<i64, f64>>);

fn truth() -> &'static Truth {
    static TRUTH: OnceLock<Truth> = OnceLock::new();
    TRUTH.get_or_init(Truth::read)
}

impl Truth {
    fn read() -> Self {
        let mut all = BTreeMap::new();
        for line in text("xapi-26.17_steady/truth.csv.gz").lines().skip(1) {
            let fields: Vec<_> = line.split(',').collect();
            let key = (fields[2].parse().unwrap(), fields[3].to_owned());
            let series: &mut BTreeMap<i64, f64> = all.entry(key).or_default();
            series.insert(fields[0].parse().unwrap(), fields[5].parse().unwrap());
        }
        Self(all)
    }

    /// What the counter was then, by a line between the ends of the rows; `None` where it was not there.
    fn counter(&self, vm: Uuid, name: &str, t: f64) -> Option<f64> {
        let series = self.0.get(&(vm, name.to_owned()))?;
        #[allow(clippy::cast_possible_truncation)]
        let row = (t / 5.0).floor() as i64 * 5;
        let before = *series.get(&row)?;
        let share = (t - row as f64) / 5.0;
        let after = series.get(&(row + 5)).copied().unwrap_or(before);
        // Through a reboot there is no line.
        Some(if after < before { before } else { before + (after - before) * share })
    }

    /// What was added to a counter between two ends of rows, at least and at most: what is counted
    /// between the last row and a reboot is not in the data.
    fn growth(&self, vm: Uuid, name: &str, from: i64, to: i64) -> Option<(f64, f64)> {
        let series = self.0.get(&(vm, name.to_owned()))?;
        let (mut least, mut unknown, mut previous) = (0.0, 0.0, None);
        let mut rate = 0.0;
        for (t, value) in series.range(from..=to) {
            match previous {
                None if *t > from => least += value,
                None => {}
                Some(before) if *value < before => {
                    unknown += rate;
                    least += value;
                }
                Some(before) => {
                    least += value - before;
                    rate = value - before;
                }
            }
            previous = Some(*value);
        }
        previous.map(|_| (least, least + unknown))
    }

    /// The names of a VM's counters that are told.
    fn names(&self, vm: Uuid) -> Vec<&str> {
        let names = self.0.keys().filter(|(owner, _)| *owner == vm).map(|(_, name)| name.as_str());
        names
            .filter(|name| matches!(named(name), Some(Named::Numbered(..) | Named::Disk(..))))
            .collect()
    }
}

/// What the inventory said at a time.
struct Inventory {
    state: State,
    domid: i64,
    vcpus: u16,
    nics: Vec<u16>,
    disks: Vec<&'static str>,
}

fn inventory(vm: char, t: i64) -> Inventory {
    let is = |from: i64, to: i64| (at(from)..at(to)).contains(&t);
    let state = match vm {
        'C' if t < at(C_STARTS) => State::Gone,
        'D' if t >= at(D_HALTS) => State::Gone,
        'F' if is(F_PAUSES, F_RESUMES) => State::Paused,
        _ => State::Running,
    };
    let number = i64::from(u32::from(vm) - u32::from('A') + 1);
    let domid = if vm == 'E' && t >= at(E_REBOOTS) { 20 } else { number };
    let vcpus = match vm {
        'A' => 4,
        'B' | 'E' | 'G' => 2,
        _ => 1,
    };
    let nics = match vm {
        'A' => vec![0, 2],
        'B' if t < at(VIF_1_UNPLUGGED) => vec![0, 1],
        'H' => vec![],
        _ => vec![0],
    };
    let disks = match vm {
        'A' if t >= at(XVDE_PLUGGED) => vec!["xvda", "xvdb", "xvdd", "xvde"],
        'A' => vec!["xvda", "xvdb", "xvdd"],
        'B' => vec!["hda"],
        _ => vec!["xvda"],
    };
    Inventory { state, domid, vcpus, nics, disks }
}

/// A client that follows the host.
struct Client {
    totals: Totals,
    /// By VM and name: the sum, and the counter since the start, at each reading.
    before: BTreeMap<(Uuid, String), (i128, Duration)>,
    since_start: BTreeMap<(Uuid, u32, String), i128>,
    first: Option<i64>,
    last: i64,
    found_to_lie: Option<i64>,
}

impl Client {
    fn new(set: &str) -> Self {
        let mut totals = Totals::default();
        totals.enter_host(host(), Quirks::of(build(set)));
        let (before, since_start) = (BTreeMap::new(), BTreeMap::new());
        Self { totals, before, since_start, first: None, last: 0, found_to_lie: None }
    }

    /// The VMs of which exact counters are read, if all that can be told is asked for.
    fn wanted(&mut self) -> Vec<Uuid> {
        let mut wanted = self.totals.due(&host());
        let lies = self.totals.do_rows_lie(&host());
        let is_wanted = |vm: &Uuid| lies || self.totals.lacks_exact(vm);
        wanted.extend(VMS.map(uuid).into_iter().filter(is_wanted));
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    fn enter(&mut self, t: i64) {
        for vm in VMS {
            let Inventory { state, domid, vcpus, nics, disks } = inventory(vm, t);
            let known = Known {
                state,
                domid,
                started: None,
                host: Some(host()),
                vcpus,
                nics: &nics,
                disks: &disks,
            };
            self.totals.enter(uuid(vm), &known);
        }
    }

    /// A cycle at that time.
    fn poll(&mut self, t: i64, answer: &[u8]) -> Taken {
        self.enter(t);
        let taken = self.totals.take(host(), answer).unwrap();
        if taken.found_to_lie {
            assert_eq!(self.found_to_lie.replace(t), None, "that is said once");
        }
        self.first.get_or_insert(taken.newest);
        self.last = taken.newest;
        self.see_that_nothing_falls();
        taken
    }

    fn see_that_nothing_falls(&mut self) {
        for vm in VMS {
            let Some(totals) = self.totals.vm(&uuid(vm)) else { continue };
            for (name, told) in counters(&totals) {
                let key = (uuid(vm), name.clone());
                let before = self.before.insert(key, (told.sum, told.covered)).unwrap_or_default();
                assert!(told.sum >= before.0 && told.covered >= before.1, "{vm} {name}");
                if let Some(since_start) = told.since_start {
                    let key = (uuid(vm), totals.start, name.clone());
                    let before = self.since_start.insert(key, since_start);
                    assert!(before.is_none_or(|before| since_start >= before), "{vm} {name}");
                }
            }
        }
    }

    fn told(&self, vm: char, name: &str) -> Option<Told> {
        let told = counters(&self.totals.vm(&uuid(vm)).unwrap());
        told.into_iter().find(|(known, _)| known == name).map(|(_, told)| told)
    }
}

/// All counters, by the names of their sources.
fn counters(totals: &VmTotals) -> Vec<(String, Told)> {
    let mut all = vec![("cpu".to_owned(), totals.cpu)];
    all.extend(totals.vcpus.iter().enumerate().map(|(n, told)| (format!("cpu{n}"), *told)));
    for (device, [rx, tx]) in &totals.nics {
        all.extend([(format!("vif_{device}_rx"), *rx), (format!("vif_{device}_tx"), *tx)]);
    }
    for (device, [bytes, requests]) in &totals.disks {
        let names = ["read", "write", "iops_read", "iops_write"];
        let told = bytes.iter().chain(requests);
        all.extend(
            names.iter().zip(told).map(|(name, told)| (format!("vbd_{device}_{name}"), *told)),
        );
    }
    all
}

/// Sums by VM and name.
type Sums = BTreeMap<(char, String), i128>;

/// The worst errors of a run, by kinds of counters, in thousandths.
#[derive(Debug, Default)]
struct Errors(BTreeMap<&'static str, (f64, String)>);

fn kind(name: &str) -> &'static str {
    if name.starts_with("cpu") {
        "cpu"
    } else if name.starts_with("vif") {
        "nic"
    } else if name.contains("iops") {
        "requests"
    } else {
        "disk"
    }
}

impl Errors {
    fn of(client: &Client, truth: &Truth, is_wanted: impl Fn(char, &str) -> bool) -> Self {
        let mut errors = Self::default();
        for vm in VMS.into_iter().filter(|vm| *vm != 'D') {
            for name in truth.names(uuid(vm)).into_iter().filter(|name| is_wanted(vm, name)) {
                let Some(told) = client.told(vm, name) else { continue };
                let from = client.first.unwrap();
                let Some((least, most)) = truth.growth(uuid(vm), name, from, client.last) else {
                    continue;
                };
                errors.enter(vm, name, told.sum, (least, most));
            }
        }
        errors
    }

    fn enter(&mut self, vm: char, name: &str, told: i128, (least, most): (f64, f64)) {
        let told = told as f64 / if kind(name) == "cpu" { NANO } else { 1.0 };
        // What is counted in sectors, or hardly at all, is not told more exactly.
        let slack = match kind(name) {
            "cpu" => 0.001,
            "nic" => 100.0,
            "disk" => 1024.0,
            _ => 2.0,
        };
        let error = (least - told).max(told - most).max(slack) - slack;
        let error = error / most.max(1e-9) * 1000.0;
        let worst = self.0.entry(kind(name)).or_default();
        if error >= worst.0 {
            *worst = (error, format!("{vm} {name} told {told} of {least}..{most}"));
        }
    }
}

/// All rows that the host has told in the last 600 s, as values by their ends.
struct Recorded<'a> {
    head: Head<'a>,
    rows: BTreeMap<i64, Vec<f64>>,
}

impl<'a> Recorded<'a> {
    fn read(answer: &'a [u8]) -> Self {
        let (head, mut updates) = Updates::read(answer).unwrap();
        let (mut rows, mut values) = (BTreeMap::new(), Vec::new());
        while let Some(t) = updates.next_row(&mut values).unwrap() {
            rows.insert(t, values.clone());
        }
        Self { head, rows }
    }

    /// What the host would have answered then to `start=`.
    fn answer(&self, set: &str, t: i64, start: i64) -> Vec<u8> {
        let end = newest(set, t);
        let start = if start < 0 { end + start } else { start };
        let mut xml = format!(
            "<xport><meta><start>{start}</start><step>5</step><end>{end}</end><rows>0</rows>\
             <columns>0</columns><legend>"
        );
        for column in self.head.columns.iter().flatten() {
            let (owner, uuid) = match column.owner {
                Owner::Vm(uuid) => ("vm", uuid),
                Owner::Host(uuid) => ("host", uuid),
                Owner::Storage(uuid) => ("sr", uuid),
            };
            write!(xml, "<entry>AVERAGE:{owner}:{uuid}:{}</entry>", column.name).unwrap();
        }
        xml += "</legend></meta><data>";
        for (row, values) in self
            .rows
            .range(start..)
            .take_while(|(row, _)| **row <= end)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
        {
            write!(xml, "<row><t>{row}</t>").unwrap();
            for (column, value) in values.iter().enumerate() {
                let value = self.standing_still(set, column, *row, end).unwrap_or(*value);
                // As the library does.
                let value = format!("{value:?}").replace("inf", "Infinity");
                write!(xml, "<v>{value}</v>").unwrap();
            }
            xml += "</row>";
        }
        (xml + "</data></xport>").into_bytes()
    }

    /// Old rows of the paused VM that the export labels with current times.
    fn standing_still(&self, set: &str, column: usize, row: i64, end: i64) -> Option<f64> {
        // The last turn of the host's loop was then or a little later, and has not read it.
        let is_paused = (at(F_PAUSES)..at(F_RESUMES)).contains(&end);
        let column_of = self.head.columns[column].as_ref()?;
        if set.contains("26.17") || !is_paused || column_of.owner != Owner::Vm(uuid('F')) {
            return None;
        }
        let last_turn = newest(set, at(F_PAUSES));
        Some(self.rows.get(&(row - (end - last_turn)))?[column])
    }
}

/// What `/vm_rrd` says at a time: the last reading was at most a turn ago.
fn vm_rrd(set: &str, truth: &Truth, vm: char, t: f64) -> Vec<u8> {
    let phase = if set.contains("steady") {
        3.2
    } else if set.contains("boundary") {
        0.001
    } else {
        1.4
    };
    let mut read = ((t - phase) / 5.0).floor() * 5.0 + phase;
    #[allow(clippy::cast_possible_truncation)]
    let is_paused = inventory(vm, read as i64).state == State::Paused && !set.contains("26.17");
    if is_paused {
        read = ((at(F_PAUSES) as f64 - phase) / 5.0).floor() * 5.0 + phase;
    }
    let mut xml = format!("<rrd><step>5</step><lastupdate>{}</lastupdate>", read.floor());
    for name in truth.names(uuid(vm)) {
        let Some(counter) = truth.counter(uuid(vm), name, read) else { continue };
        let kind = if name.contains("iops") { "ABSOLUTE" } else { "DERIVE" };
        let last = match kind {
            "ABSOLUTE" => "1".to_owned(),
            _ if !name.starts_with("cpu") => format!("{}", counter.round()),
            _ if set.contains("1.249") => format!("{counter:.4}"),
            _ if set.contains("24.19") => five_digits(counter),
            _ => format!("{counter:.9}"),
        };
        write!(xml, "<ds><name>{name}</name><type>{kind}</type><last_ds>{last}</last_ds></ds>")
            .unwrap();
    }
    (xml + "<rra>").into_bytes()
}

/// `%.5g`
fn five_digits(value: f64) -> String {
    let text = format!("{value:.4e}");
    let value: f64 = text.parse().unwrap();
    format!("{value}")
}

/// A client that polls at such times, and reads what exact counters are wanted.
fn follow(
    set: &str,
    truth: &Truth,
    polls: impl IntoIterator<Item = i64>,
    reads_exact: bool,
) -> Client {
    let recorded = answer(&format!("{set}/last600_5s"));
    let recorded = Recorded::read(&recorded);
    let mut client = Client::new(set);
    for t in polls {
        let start = client.totals.start(&host(), 0);
        client.poll(t, &recorded.answer(set, t, start));
        for uuid in if reads_exact { client.wanted() } else { Vec::new() } {
            let vm = VMS.into_iter().find(|vm| self::uuid(*vm) == uuid).unwrap();
            let rrd = vm_rrd(set, truth, vm, t as f64 + 0.5);
            let rrd = VmRrd::read(&rrd).unwrap();
            client.totals.enter_exact(&uuid, host(), &rrd);
            client.see_that_nothing_falls();
        }
    }
    client
}

/// Counters of which rows alone do not tell all: those that began while they were watched (the library
/// knows nothing of the first row or two), and after 24.40 those of a VM that was rebooted.
fn is_cut(set: &str, vm: char, name: &str) -> bool {
    vm == 'C' || name.contains("xvde") || vm == 'E' && set.contains("26.17")
}

impl Errors {
    /// All but requests, which the library counts by the second in which they are read.
    fn assert_within(&self, thousandths: f64, of: &str) {
        for (kind, (error, what)) in &self.0 {
            let limit = if *kind == "requests" { 30.0 } else { thousandths };
            assert!(*error <= limit, "{of}: {kind} {error:.3} > {limit}: {what}");
        }
        assert!(self.0.len() == 4, "something of each kind was compared: {self:?}");
    }
}

fn recorded_polls(set: &str, every: i64) -> Client {
    let mut client = Client::new(set);
    let (polls, begin) = if every == 60 { (11, T_END - 600) } else { (13, T_END - 120) };
    for poll in 0..polls {
        client.poll(begin + every * poll, &answer(&format!("{set}/every{every}_{poll:02}")));
    }
    client
}

const TRUE_SETS: [&str; 3] = ["xapi-1.249_8.2_drift", "xapi-24.19_drift", "xapi-26.17_steady"];
const BOUNDARY: &str = "xapi-26.17_boundary";

/// Before 25.22, what was counted around a pause is only told when all its rows are asked for again.
fn is_not_asked_again(set: &str, vm: char) -> bool {
    vm == 'F' && !set.contains("26.17")
}

#[test]
fn polls_as_recorded_add_up_to_the_truth() {
    let truth = truth();
    for set in TRUE_SETS {
        for every in [10, 60] {
            let client = recorded_polls(set, every);
            let is_wanted = |vm, name: &str| !is_cut(set, vm, name) && !is_not_asked_again(set, vm);
            let errors = Errors::of(&client, truth, is_wanted);
            errors.assert_within(1.0, &format!("{set} every {every} s"));
            assert_eq!(client.found_to_lie, None);
        }
    }
}

/// Times between two polls, of all kinds, and always the same.
fn at_random(seed: u64) -> Vec<i64> {
    let (mut t, mut state, mut times) = (T_END - 590, seed, Vec::new());
    while t <= T_END {
        times.push(t);
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = i64::try_from(state >> 40).unwrap();
        t += if random % 5 == 0 { 30 + random / 5 % 50 } else { random / 5 % 17 };
    }
    times
}

#[test]
fn polls_at_random_times_add_up_to_the_truth() {
    let truth = truth();
    for set in TRUE_SETS {
        for seed in 0..4 {
            let client = follow(set, truth, at_random(seed), seed % 2 == 0);
            let errors = Errors::of(&client, truth, |vm, name| !is_cut(set, vm, name));
            errors.assert_within(1.0, &format!("{set} at random {seed}"));
            assert_eq!(client.found_to_lie, None);
        }
    }
}

#[test]
fn regular_polls_that_follow_add_up_to_the_truth() {
    let truth = truth();
    for set in TRUE_SETS {
        for every in [10, 60, 150] {
            let polls = (0..=590 / every).map(|poll| T_END - 590 + every * poll);
            let client = follow(set, truth, polls.chain([T_END]), true);
            let errors = Errors::of(&client, truth, |vm, name| !is_cut(set, vm, name));
            errors.assert_within(1.0, &format!("{set} every {every} s"));
            assert_eq!(client.found_to_lie, None);
        }
    }
}

#[test]
fn what_began_meanwhile_lacks_ten_seconds_at_most() {
    let truth = truth();
    for set in TRUE_SETS {
        let client = follow(set, truth, at_random(3), false);
        for vm in ['A', 'C', 'E'] {
            for name in truth.names(uuid(vm)).into_iter().filter(|name| is_cut(set, vm, name)) {
                let Some(told) = client.told(vm, name) else { continue };
                let (from, to) = (client.first.unwrap(), client.last);
                let (least, most) = truth.growth(uuid(vm), name, from, to).unwrap();
                let scale = if kind(name) == "cpu" { NANO } else { 1.0 };
                let told = told.sum as f64 / scale;
                let series = &truth.0[&(uuid(vm), name.to_owned())];
                let values: Vec<_> = series.range(from..=to).map(|(_, value)| *value).collect();
                let grown = values.windows(2).map(|pair| pair[1] - pair[0]);
                let fastest = grown.fold(0.0, f64::max) / 5.0;
                assert!(told >= least - 10.0 * fastest - 1.0, "{set} {vm} {name} {told} {least}");
                assert!(told <= most + 5.0 * fastest + 1.0, "{set} {vm} {name} {told} {most}");
            }
        }
    }
}

/// Whoever asks for counters since the start is told the same use as others, also of a VM that has begun
/// meanwhile: what no row tells of its first seconds is not told as used in later ones.
#[test]
fn exact_counters_add_nothing_to_what_rows_tell() {
    // D has halted by the end of the recording, which has no columns of it: exact counters alone tell of it.
    let with_columns = || VMS.into_iter().filter(|vm| *vm != 'D');
    for set in TRUE_SETS {
        for seed in 0..3 {
            let told = [true, false].map(|reads_exact| {
                let client = follow(set, truth(), at_random(seed), reads_exact);
                let all =
                    with_columns().flat_map(|vm| counters(&client.totals.vm(&uuid(vm)).unwrap()));
                all.map(|(name, told)| (name, told.sum, told.covered)).collect::<Vec<_>>()
            });
            assert_eq!(told[0], told[1], "{set} {seed}");
        }
    }
}

#[test]
fn counters_since_the_start_are_those_of_the_domain() {
    let truth = truth();
    for set in TRUE_SETS {
        for seed in 0..2 {
            let client = follow(set, truth, at_random(seed), true);
            let mut errors = Errors::default();
            for vm in VMS.into_iter().filter(|vm| *vm != 'D') {
                for name in truth.names(uuid(vm)) {
                    let Some(told) = client.told(vm, name) else { continue };
                    let is_known = kind(name) != "requests";
                    assert_eq!(told.since_start.is_some(), is_known, "{set} {vm} {name}");
                    let Some(told) = told.since_start else { continue };
                    let counter = truth.counter(uuid(vm), name, client.last as f64).unwrap();
                    // That of a device is read when it was plugged in for a while.
                    errors.enter(vm, name, told, (counter, counter));
                }
            }
            for (kind, (error, what)) in &errors.0 {
                // A row's worth of error, once, which is much of a counter that has begun just now.
                assert!(*error <= 15.0, "{set} {kind} {error} {what}");
            }
        }
    }
}

/// As the driver does where only usage is asked for: of few VMs, exact counters are read.
#[test]
fn rows_of_cpus_alone_that_lie_are_found_out_by_few_vms() {
    let truth = truth();
    for set in [BOUNDARY, "xapi-26.17_steady"] {
        let recorded = answer(&format!("{set}/last600_5s"));
        let recorded = Recorded::read(&recorded);
        for (every, within) in [(5, 100), (10, 100), (35, 175), (60, 240)] {
            let (mut client, mut read) = (Client::new(set), 0);
            for t in (0..=590 / every).map(|poll| T_END - 590 + every * poll) {
                let start = client.totals.start(&host(), 0);
                client.poll(t, &recorded.answer(set, t, start));
                for uuid in client.totals.due(&host()) {
                    read += 1;
                    let vm = VMS.into_iter().find(|vm| self::uuid(*vm) == uuid).unwrap();
                    let rrd = vm_rrd(set, truth, vm, t as f64 + 0.5);
                    client.totals.enter_exact(&uuid, host(), &VmRrd::read(&rrd).unwrap());
                }
            }
            let found = client.found_to_lie.map(|t| t - T_END + 590);
            assert_eq!(found.is_some(), set == BOUNDARY, "{set} every {every} s");
            assert!(found.is_none_or(|after| after <= within), "every {every} s: {found:?}");
            assert_eq!(read, 4, "two VMs, at first and a minute later");
        }
    }
}

#[test]
fn rows_that_lie_are_found_out_and_exact_counters_tell_the_truth() {
    let truth = truth();
    let recorded = answer(&format!("{BOUNDARY}/last600_5s"));
    let recorded = Recorded::read(&recorded);
    for every in [10, 60, 35] {
        let mut client = Client::new(BOUNDARY);
        // What was told, and the truth of then, at the first reading by exact counters alone.
        let mut first: Option<(Sums, f64)> = None;
        let mut errors = Errors::default();
        for t in (0..=590 / every).map(|poll| T_END - 590 + every * poll) {
            let start = client.totals.start(&host(), 0);
            client.poll(t, &recorded.answer(BOUNDARY, t, start));
            let by_exact = client.totals.do_rows_lie(&host());
            for uuid in client.wanted() {
                let vm = VMS.into_iter().find(|vm| self::uuid(*vm) == uuid).unwrap();
                let rrd = vm_rrd(BOUNDARY, truth, vm, t as f64 + 0.5);
                client.totals.enter_exact(&uuid, host(), &VmRrd::read(&rrd).unwrap());
                client.see_that_nothing_falls();
            }
            if !by_exact {
                continue;
            }
            let read = (t as f64 + 0.499) / 5.0;
            let read = read.floor() * 5.0 + 0.001;
            let mut told = BTreeMap::new();
            for vm in ['A', 'B', 'F', 'G', 'H'] {
                for (name, now) in counters(&client.totals.vm(&uuid(vm)).unwrap()) {
                    told.insert((vm, name), now.sum);
                }
            }
            let Some((before, then)) = &first else {
                // What was told too much before is paid back first.
                first = (client.found_to_lie.unwrap() + 150 <= t).then_some((told, read));
                continue;
            };
            errors.0.clear();
            for ((vm, name), told) in told {
                let Some(before) = before.get(&(vm, name.clone())) else { continue };
                let is_rows =
                    matches!(kind(&name), "requests") || name == "cpu" || name.contains("xvde");
                let counter = |t| truth.counter(uuid(vm), &name, t);
                if let (false, Some(begin), Some(end)) = (is_rows, counter(*then), counter(read)) {
                    errors.enter(vm, &name, told - before, (end - begin, end - begin));
                }
            }
        }
        let found = client.found_to_lie.expect("the host's rows lie");
        assert!(found <= T_END - 590 + 240, "after {} s", found - T_END + 590);
        assert!(errors.0.len() >= 3);
        for (kind, (error, what)) in &errors.0 {
            assert!(*error <= 5.0, "every {every} {kind} {error:.3} {what}");
        }
    }
}

#[test]
fn since_the_first_reading_the_exact_counters_make_good_for_rows_that_lie() {
    let truth = truth();
    let polls = (0..=59).map(|poll| T_END - 590 + 10 * poll);
    let client = follow(BOUNDARY, truth, polls, true);
    // All since the first row, against the truth at the last exact reading.
    let read = f64::from(u32::try_from(T_END / 5 * 5).unwrap()) + 0.001;
    let mut errors = Errors::default();
    for vm in ['A', 'B', 'F', 'G', 'H'] {
        for name in truth.names(uuid(vm)) {
            let is_rows = kind(name) == "requests" || name.contains("xvde");
            let Some(told) = client.told(vm, name).filter(|_| !is_rows) else { continue };
            let counter = |t| truth.counter(uuid(vm), name, t).unwrap();
            let grown = counter(read) - counter(client.first.unwrap() as f64);
            errors.enter(vm, name, told.sum, (grown, grown));
        }
    }
    for (kind, (error, what)) in &errors.0 {
        // The first row is not covered by two exact readings.
        assert!(*error <= 15.0, "{kind} {error:.3} {what}");
    }
}

#[test]
fn a_paused_vm_adds_nothing_and_its_time_is_covered() {
    let truth = truth();
    for set in TRUE_SETS {
        let (mut before, mut covered) = (None, None);
        let recorded = answer(&format!("{set}/last600_5s"));
        let recorded = Recorded::read(&recorded);
        let mut client = Client::new(set);
        for t in (at(20)..at(F_RESUMES)).step_by(10) {
            let start = client.totals.start(&host(), 0);
            client.poll(t, &recorded.answer(set, t, start));
            // The rows of before the pause have all come.
            if t >= at(F_PAUSES) + 20 {
                let cpu = client.told('F', "cpu").unwrap();
                assert_eq!(cpu.sum, *before.get_or_insert(cpu.sum), "{set}");
                if let Some(covered) = covered.replace(cpu.covered) {
                    assert_eq!(cpu.covered, covered + Duration::from_secs(10), "{set}");
                }
                let told = cpu.sum as f64 / NANO;
                let (from, pause) = (client.first.unwrap(), at(F_PAUSES));
                let (least, most) = truth.growth(uuid('F'), "cpu0", from, pause + 10).unwrap();
                // Up to a row's worth comes when it runs again.
                assert!(told <= most * 1.001 && told >= least - 5.0, "{set} {told} {least}");
            }
        }
        assert!(before.is_some());
    }
}

#[test]
fn devices_come_and_go() {
    let truth = truth();
    for set in SETS {
        let client = follow(set, truth, at_random(1).into_iter().filter(|t| *t < at(300)), false);
        assert!(client.told('B', "vif_1_rx").is_none(), "it was unplugged");
        assert!(client.told('A', "vbd_xvde_read").is_none(), "it is not there yet");
        assert!(client.told('B', "cpu2").is_none(), "it is offline");
        let totals = client.totals.vm(&uuid('H')).unwrap();
        assert_eq!(totals.memory_internal_free, None, "its agent is gone");
        assert!(totals.nics.is_empty() && totals.memory.is_some());
        assert_eq!(
            client.totals.vm(&uuid('G')).unwrap().memory_internal_free,
            None,
            "it has no agent"
        );
        let free = client.totals.vm(&uuid('A')).unwrap().memory_internal_free.unwrap();
        assert_eq!(free.t, client.last);
        assert!(free.value > 1000.0);
    }
}

#[test]
fn the_first_zero_of_a_device_is_not_covered() {
    for set in TRUE_SETS {
        for every in [5, 10, 60] {
            let polls = (0..=60 / every).map(|poll| at(290) + every * poll);
            let client = follow(set, truth(), polls.clone(), false);
            // What the VM had covered when it was plugged in.
            let last = polls.filter(|t| *t < at(XVDE_PLUGGED)).max().unwrap();
            let before = newest(set, last) - newest(set, at(290));
            // The first row that tells something is that of 315 or 320.
            let first = if set.contains("26.17") { 315 } else { 320 };
            let covered = client.told('A', "vbd_xvde_read").unwrap().covered;
            let seconds = u64::try_from(before + client.last - at(first) + 5).unwrap();
            assert_eq!(covered, Duration::from_secs(seconds), "{set} every {every}");
        }
    }
}

#[test]
fn a_clock_that_goes_back_begins_anew() {
    let (early, late) =
        (answer("xapi-1.249_8.2_drift/every60_02"), answer("xapi-1.249_8.2_drift/every60_08"));
    let mut client = Client::new("xapi-1.249_8.2_drift");
    client.poll(at(0), &early);
    assert!(!client.poll(at(90), &late).went_back);
    let sum = client.told('A', "cpu").unwrap();
    assert!(sum.sum > 0);
    let back = client.poll(at(90), &early);
    assert!(back.went_back);
    assert_eq!(client.told('A', "cpu").unwrap(), sum);
    assert_eq!(client.totals.start(&host(), 0), back.newest + 1);
    // Nor does a future start tell anything.
    let mut client = Client::new("xapi-1.249_8.2_drift");
    client.poll(at(0), &early);
    let taken = client.poll(at(90), &answer("xapi-1.249_8.2_drift/future"));
    assert_eq!((taken.rows, taken.went_back), (0, false));
    assert_eq!(client.told('A', "cpu").unwrap().sum, 0);
}

/// The exact counter of the first of G's two vCPUs, in seconds; the other one does nothing.
fn read_cpu(client: &mut Client, seconds: i64, cpu: f64) -> bool {
    let source = |name: &str, cpu: f64| {
        format!("<ds><name>{name}</name><type>DERIVE</type><last_ds>{cpu}</last_ds></ds>")
    };
    let (t, both) = (at(seconds), source("cpu0", cpu) + &source("cpu1", 0.0));
    let rrd = format!("<rrd><step>5</step><lastupdate>{t}</lastupdate>{both}<rra>");
    client.totals.enter_exact(&uuid('G'), host(), &VmRrd::read(rrd.as_bytes()).unwrap())
}

#[test]
fn exact_counters_are_read_again_once_the_clock_went_back() {
    for lies in [false, true] {
        let mut client = Client::new("xapi-26.17_steady");
        let poll = |client: &mut Client, seconds: i64| {
            client.poll(at(seconds), two_rows('G', at(seconds), ["0.5", "0.5"]).as_bytes())
        };
        poll(&mut client, 7200);
        if lies {
            client.totals.rows_lie(host());
        }
        assert!(read_cpu(&mut client, 7203, 10.0));
        poll(&mut client, 7210);
        assert!(read_cpu(&mut client, 7213, 15.0));
        assert!(poll(&mut client, 100).went_back);
        assert!(client.totals.lacks_exact(&uuid('G')));
        assert!(read_cpu(&mut client, 103, 20.0));
        poll(&mut client, 110);
        assert!(read_cpu(&mut client, 113, 25.0));
        let told = client.told('G', "cpu0").unwrap();
        assert!((23_000_000_000..=25_000_000_000).contains(&told.since_start.unwrap()));
        // Rates are those of the time that is known.
        let share = told.sum as f64 / told.covered.as_nanos() as f64;
        assert!((0.4..0.6).contains(&share), "{lies}: {told:?}");
    }
}

#[test]
fn exact_counters_that_come_after_rows_of_later_are_not_taken() {
    let mut client = Client::new("xapi-26.17_steady");
    for seconds in (0..=300).step_by(10) {
        client.poll(at(seconds), two_rows('G', at(seconds), ["0.5", "0.5"]).as_bytes());
        if client.totals.due(&host()).contains(&uuid('G')) {
            // The first of them took long.
            let t = if seconds < 60 { seconds - 7 } else { seconds + 3 };
            assert!(read_cpu(&mut client, t, 100.0 + t as f64 / 2.0));
        }
        let since_start = client.told('G', "cpu0").unwrap().since_start;
        if let Some(told) = since_start.map(|told| told as f64 / NANO - seconds as f64 / 2.0) {
            assert!((99.0..=102.0).contains(&told), "{seconds}: {told}");
        }
    }
    assert!(client.told('G', "cpu0").unwrap().since_start.is_some());
    let checked = client.totals.checked(&host());
    assert!(checked.compared[0] > 0 && checked.compared[1] == 0, "{checked:?}");
}

#[test]
fn a_host_whose_exact_counters_come_late_is_asked_again_but_not_all_the_time() {
    let mut client = Client::new("xapi-26.17_steady");
    let mut asked = 0;
    for seconds in (0..=600).step_by(10) {
        client.poll(at(seconds), two_rows('G', at(seconds), ["0.5", "0.5"]).as_bytes());
        if client.totals.lacks_exact(&uuid('G')) {
            asked += 1;
            let t = if seconds < 300 { seconds - 7 } else { seconds + 3 };
            read_cpu(&mut client, t, 100.0 + t as f64 / 2.0);
        }
        let is_known = client.told('G', "cpu0").unwrap().since_start.is_some();
        assert!(!is_known || seconds >= 300, "{seconds}");
    }
    assert!((4..=12).contains(&asked), "{asked}");
    assert!(client.told('G', "cpu0").unwrap().since_start.is_some());
}

/// An answer of G's CPU and of what a NIC has received, in the newest row of 5 s and in the one before.
fn cpu_and_nic(end: i64, cpu: &str, bytes: &str) -> String {
    let legend = |name| format!("<entry>AVERAGE:vm:{}:{name}</entry>", uuid('G'));
    two_rows('G', at(end), [cpu, cpu])
        .replace(&legend("cpu0"), &(legend("cpu0") + &legend("vif_0_rx")))
        .replace("</v>", &format!("</v><v>{bytes}</v>"))
}

/// Reads the exact counters of that.
fn read_both(client: &mut Client, seconds: i64, cpu: &str, bytes: &str) -> bool {
    let source = |name: &str, last: &str| {
        format!("<ds><name>{name}</name><type>DERIVE</type><last_ds>{last}</last_ds></ds>")
    };
    let (t, both) = (at(seconds), source("cpu0", cpu) + &source("vif_0_rx", bytes));
    let rrd = format!("<rrd><step>5</step><lastupdate>{t}</lastupdate>{both}<rra>");
    client.totals.enter_exact(&uuid('G'), host(), &VmRrd::read(rrd.as_bytes()).unwrap())
}

#[test]
fn what_a_device_did_is_added_up_over_a_start_that_was_seen() {
    for is_seen_off in [false, true] {
        let mut client = Client::new("xapi-26.17_steady");
        let enter = |client: &mut Client, state, domid| {
            let is_off = state == State::Gone;
            let known = Known {
                state,
                domid,
                started: None,
                host: (!is_off).then_some(host()),
                vcpus: 1,
                nics: if is_off { &[] } else { &[0] },
                disks: &[],
            };
            client.totals.enter(uuid('G'), &known);
        };
        let take = |client: &mut Client, seconds| {
            let received = format!("<entry>AVERAGE:vm:{}:vif_0_rx</entry>", uuid('G'));
            let both = received.clone() + &received.replace("_rx", "_tx");
            let answer = cpu_and_nic(seconds, "0.5", "100</v><v>100").replace(&received, &both);
            client.totals.take(host(), answer.as_bytes()).unwrap();
        };
        enter(&mut client, State::Running, 7);
        take(&mut client, 0);
        take(&mut client, 10);
        assert_eq!(client.told('G', "vif_0_rx").unwrap().sum, 1000);
        if is_seen_off {
            enter(&mut client, State::Gone, -1);
        }
        enter(&mut client, State::Running, 9);
        take(&mut client, 20);
        let told = client.told('G', "vif_0_rx").unwrap();
        assert_eq!((told.sum, told.covered.as_secs()), (2000, 20), "{is_seen_off}");
        assert_eq!(told.since_start, None);
        assert!(!read_both(&mut client, 20, "6.0", "1100"), "it may be of before");
        take(&mut client, 30);
        assert!(read_both(&mut client, 30, "11.0", "2100"));
        assert_eq!(client.told('G', "vif_0_rx").unwrap().since_start, Some(2100));
    }
}

#[test]
fn an_exact_counter_that_is_not_known_is_not_0() {
    // The library prints 0.0 for that.
    for (lies, is_first) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut client = Client::new("xapi-26.17_steady");
        let poll = |client: &mut Client, seconds: i64, is_known: bool| {
            let [cpu, bytes] = if is_known { ["0.5", "1000.0"] } else { ["NaN"; 2] };
            client.poll(at(seconds), cpu_and_nic(seconds, cpu, bytes).as_bytes());
        };
        poll(&mut client, 0, true);
        if lies {
            client.totals.rows_lie(host());
        }
        if !is_first {
            assert!(read_both(&mut client, 3, "24000.5", "15000000000"));
        }
        for seconds in (10..=200).step_by(10) {
            poll(&mut client, seconds, is_first);
            assert!(read_both(&mut client, seconds + 3, "0.0", "0.0"));
        }
        for seconds in (210..=400).step_by(10) {
            poll(&mut client, seconds, true);
            let more = f64::from(i32::try_from(seconds).unwrap());
            let cpu = format!("{:.15}", 24_000.5 + more * 0.5);
            let bytes = format!("{}", 15_000_000_000_i64 + seconds * 1000);
            assert!(read_both(&mut client, seconds + 3, &cpu, &bytes));
        }
        poll(&mut client, 410, true);
        let case = format!("lies: {lies}, from the first reading: {is_first}");
        let [cpu, nic] = ["cpu0", "vif_0_rx"].map(|name| client.told('G', name).unwrap());
        assert!(cpu.sum < 210_000_000_000 && nic.sum < 420_000, "{case}: {cpu:?} {nic:?}");
        assert!(cpu.covered <= Duration::from_secs(414), "{case}: {cpu:?}");
        let expected = 15_000_400_000..=15_000_415_000;
        assert!(expected.contains(&nic.since_start.unwrap()), "{case}: {nic:?}");
        let expected = 24_200_000_000_000..=24_207_000_000_000;
        assert!(expected.contains(&cpu.since_start.unwrap()), "{case}: {cpu:?}");
    }
}

#[test]
fn exact_counters_of_what_was_away_at_first_are_read_once_it_is_there() {
    let mut client = Client::new("xapi-26.17_steady");
    let mut reads = 0;
    for seconds in (0..=300).step_by(10) {
        let is_there = seconds > 150;
        let bytes = if is_there { "1000.0" } else { "NaN" };
        client.poll(at(seconds), cpu_and_nic(seconds, "0.5", bytes).as_bytes());
        if client.totals.lacks_exact(&uuid('G')) {
            reads += 1;
            let counted = (50_000 + 1000 * (seconds + 3)).to_string();
            let counted = if is_there { &counted } else { "0.0" };
            read_both(&mut client, seconds + 3, "24000.5", counted);
        }
    }
    assert!(reads <= 6, "{reads}");
    let told = client.told('G', "vif_0_rx").unwrap().since_start.unwrap();
    assert!((349_000..=351_000).contains(&told), "{told}");
}

#[test]
fn rows_that_stay_unknown_are_made_good_for_now_and_then() {
    let mut client = Client::new("xapi-26.17_steady");
    let mut reads = Vec::new();
    // Nothing is known of the NIC for most of an hour, and of the CPU never.
    for seconds in (0..=4000).step_by(10) {
        let is_known = !(105..=3600).contains(&seconds);
        let bytes = if is_known { "1000.0" } else { "NaN" };
        client.poll(at(seconds), cpu_and_nic(seconds, "NaN", bytes).as_bytes());
        if client.totals.lacks_exact(&uuid('G')) {
            reads.push(seconds);
            let counted = 50_000 + 1000 * (seconds + 3);
            assert!(read_both(&mut client, seconds + 3, "0.0", &counted.to_string()));
        }
    }
    // Those at the beginning are of what has no exact value yet.
    let later: Vec<_> = reads.iter().filter(|seconds| **seconds > 100).collect();
    assert!((3..=12).contains(&later.len()), "{later:?}");
    let nic = client.told('G', "vif_0_rx").unwrap();
    assert!((4_049_000..=4_051_000).contains(&nic.since_start.unwrap()), "{nic:?} {later:?}");
    assert!((3_999_000..=4_001_000).contains(&nic.sum), "{nic:?} {later:?}");
    assert!(!client.totals.do_rows_lie(&host()));
}

#[test]
fn a_short_gap_in_the_rows_of_one_plugin_is_made_good_for() {
    // Its values are unknown, there is no column of them, or none of the VM.
    for (known, away) in [("1000000.0", "NaN"), ("vif_", "other_"), ("vm:", "sr:")] {
        for (begin, is_checked) in [(5, false), (35, false), (95, false), (35, true), (95, true)] {
            let mut client = Client::new("xapi-26.17_steady");
            for seconds in (0..=400).step_by(10) {
                let is_away = [begin, begin + 150].iter().any(|t| (*t..=t + 30).contains(&seconds));
                let mut answer = cpu_and_nic(seconds, "0.5", "1000000.0");
                if is_away {
                    answer = answer.replace(known, away);
                }
                client.poll(at(seconds), answer.as_bytes());
                if client.totals.lacks_exact(&uuid('G')) || is_checked && seconds % 70 == 0 {
                    let [cpu, counted] = [5000 + seconds * 500, 1_000_000 * (seconds + 3)];
                    let cpu = format!("{:.3}", cpu as f64 / 1000.0);
                    assert!(read_both(&mut client, seconds + 3, &cpu, &counted.to_string()));
                }
            }
            let nic = client.told('G', "vif_0_rx").unwrap();
            let expected = 399_000_000..=401_000_000;
            let case = format!("{away}, {begin}");
            assert!(expected.contains(&nic.since_start.unwrap()), "{case}: {nic:?}");
            assert!(!client.totals.do_rows_lie(&host()), "{case}: what is unknown is not wrong");
        }
    }
}

#[test]
fn a_gap_is_made_good_for_though_the_exact_counter_was_away_as_well() {
    let mut client = Client::new("xapi-26.17_steady");
    let mut reads = 0;
    for seconds in (0..=1000).step_by(10) {
        let is_away = (105..=115).contains(&seconds);
        let bytes = if is_away { "NaN" } else { "1000000.0" };
        client.poll(at(seconds), cpu_and_nic(seconds, "0.5", bytes).as_bytes());
        if client.totals.lacks_exact(&uuid('G')) {
            reads += i32::from(seconds > 100);
            let [cpu, counted] = [5000 + seconds * 500, 1_000_000 * (seconds + 3)];
            let cpu = format!("{:.3}", cpu as f64 / 1000.0);
            let counted = if is_away { "0.0".to_owned() } else { counted.to_string() };
            assert!(read_both(&mut client, seconds + 3, &cpu, &counted));
        }
    }
    let nic = client.told('G', "vif_0_rx").unwrap();
    assert!((999_000_000..=1_001_000_000).contains(&nic.since_start.unwrap()), "{nic:?}");
    assert_eq!(reads, 2);
}

/// An answer of G's two vCPUs, which had these shares.
fn two_cpus(end: i64, first: &str, second: &str) -> String {
    let legend = |name| format!("<entry>AVERAGE:vm:{}:{name}</entry>", uuid('G'));
    two_rows('G', at(end), [first, first])
        .replace(&legend("cpu0"), &(legend("cpu0") + &legend("cpu1")))
        .replace("</v>", &format!("</v><v>{second}</v>"))
}

/// Reads the exact counters of those, in seconds.
fn read_two_cpus(client: &mut Client, seconds: i64, first: f64, second: f64) -> bool {
    let source = |name: &str, cpu: f64| {
        format!("<ds><name>{name}</name><type>DERIVE</type><last_ds>{cpu:?}</last_ds></ds>")
    };
    let (t, both) = (at(seconds), source("cpu0", first) + &source("cpu1", second));
    let rrd = format!("<rrd><step>5</step><lastupdate>{t}</lastupdate>{both}<rra>");
    client.totals.enter_exact(&uuid('G'), host(), &VmRrd::read(rrd.as_bytes()).unwrap())
}

#[test]
fn rows_that_lack_a_busy_vcpu_are_made_good_for_by_five_digits() {
    let mut client = Client::new("xapi-24.19_drift");
    let mut reads = 0;
    enter_with(&mut client, State::Running, 7, 2);
    for seconds in (0..=7200).step_by(10) {
        // One row in two is above the limit of 1.0, and not a number.
        let mut rows = two_cpus(seconds, "1.0", "0.5");
        rows = rows.replacen("<v>1.0</v>", "<v>NaN</v>", 1);
        client.totals.take(host(), rows.as_bytes()).unwrap();
        if client.totals.lacks_exact(&uuid('G')) {
            reads += 1;
            let digits = |value: f64| five_digits(value).parse::<f64>().unwrap();
            let t = (seconds + 3) as f64;
            assert!(read_two_cpus(&mut client, seconds + 3, digits(9000.0 + t), digits(t / 2.0)));
        }
    }
    // The last reading may be ten minutes old.
    let told = client.told('G', "cpu0").unwrap().since_start.unwrap() as f64 / NANO;
    assert!((15_850.0..=16_205.0).contains(&told), "{told}");
    let told = client.told('G', "cpu1").unwrap().since_start.unwrap() as f64 / NANO;
    assert!((3_595.0..=3_605.0).contains(&told), "{told}");
    assert!(reads < 20, "{reads}");
}

#[test]
fn a_busy_vcpu_whose_newest_row_is_missing_has_a_counter_since_the_start() {
    let mut client = Client::new("xapi-24.19_drift");
    for seconds in (0..=120).step_by(10) {
        let (domid, rows) = (if seconds < 20 { 7 } else { 8 }, two_cpus(seconds, "1.0", "0.5"));
        enter_with(&mut client, State::Running, domid, 2);
        // One row in two is above the limit of 1.0, and not a number.
        client
            .totals
            .take(host(), rows.replacen("<v>1.0</v>", "<v>NaN</v>", 1).as_bytes())
            .unwrap();
        if client.totals.lacks_exact(&uuid('G')) {
            read_two_cpus(&mut client, seconds + 3, seconds as f64, seconds as f64 / 2.0);
        }
    }
    assert!(client.told('G', "cpu").unwrap().since_start.is_some());
}

/// G with that many vCPUs.
fn enter_with(client: &mut Client, state: State, domid: i64, vcpus: u16) {
    let known = Known {
        state,
        domid,
        started: None,
        host: Some(host()),
        vcpus,
        nics: &[0],
        disks: &["xvda"],
    };
    client.totals.enter(uuid('G'), &known);
}

#[test]
fn a_vcpu_that_was_offline_adds_no_time_when_it_comes_back() {
    for lies in [false, true] {
        let mut client = Client::new("xapi-26.17_steady");
        // The second one is offline for a while. It stops between two polls, in a row.
        let (stops, starts) = (1095, 2200);
        let second = |t: i64| (t.min(stops) + (t - starts).max(0)) as f64 / 2.0;
        let mut before = None;
        for seconds in (0..=3600).step_by(10) {
            let is_online = !(stops..starts).contains(&seconds);
            enter_with(&mut client, State::Running, 7, if is_online { 2 } else { 1 });
            let is_on = (seconds <= stops) || seconds > starts;
            let mut rows = two_cpus(seconds, "0.5", if is_on { "0.5" } else { "0.0" });
            if seconds == 1100 {
                rows = rows.replacen("<v>0.0</v></row></data>", "<v>0.5</v></row></data>", 1);
            }
            client.totals.take(host(), rows.as_bytes()).unwrap();
            if lies && seconds == 50 {
                client.totals.rows_lie(host());
            }
            let is_due = client.totals.due(&host()).contains(&uuid('G'));
            if lies || is_due || client.totals.lacks_exact(&uuid('G')) {
                let t = seconds + 3;
                assert!(read_two_cpus(&mut client, t, t as f64 / 2.0, second(t)));
            }
            let told = client.totals.vm(&uuid('G')).unwrap();
            if let Some(before) = before.replace(told.covered) {
                let seconds_more = told.covered.checked_sub(before).unwrap().as_secs_f64();
                assert!((4.9..=15.1).contains(&seconds_more), "{lies} {seconds}: {seconds_more}");
            }
            let expected = (seconds as f64 / 2.0 + second(seconds)) * NANO;
            let sum = told.cpu.sum as f64;
            assert!((sum - expected).abs() <= 5.0 * NANO, "{lies} {seconds}: {sum} of {expected}");
        }
        assert_eq!(client.totals.do_rows_lie(&host()), lies);
    }
}

#[test]
fn a_gap_is_as_long_as_it_was_while_a_vcpu_is_offline() {
    let mut client = Client::new("xapi-26.17_steady");
    let mut reads = 0;
    for seconds in (0..=1000).step_by(10) {
        enter_with(&mut client, State::Running, 7, if seconds < 100 { 2 } else { 1 });
        let [first, second] = match seconds {
            0..100 => ["0.5", "0.5"],
            205..=265 => ["NaN", "NaN"],
            _ => ["0.5", "0.0"],
        };
        client.totals.take(host(), two_cpus(seconds, first, second).as_bytes()).unwrap();
        if client.totals.lacks_exact(&uuid('G')) {
            reads += i32::from(seconds > 100);
            let t = (seconds + 3) as f64;
            assert!(read_two_cpus(&mut client, seconds + 3, t / 2.0, t.min(100.0) / 2.0));
        }
    }
    let told = client.totals.vm(&uuid('G')).unwrap();
    assert!((1..=3).contains(&reads), "{reads}");
    assert!((990..=1010).contains(&told.covered.as_secs()), "{told:?}");
    let seconds = told.cpu.sum / 1_000_000_000;
    assert!((540..=555).contains(&seconds), "{told:?}");
}

#[test]
fn cpu_time_is_known_of_a_vm_that_was_started_with_fewer_vcpus() {
    let mut client = Client::new("xapi-26.17_steady");
    for seconds in (0..=400).step_by(10) {
        let t = (seconds + 3) as f64;
        match seconds {
            0..100 => {
                enter_with(&mut client, State::Running, 7, 2);
                client.totals.take(host(), two_cpus(seconds, "0.5", "0.5").as_bytes()).unwrap();
                assert!(read_two_cpus(&mut client, seconds + 3, t / 2.0, t / 2.0));
            }
            100..200 => enter_with(&mut client, State::Gone, -1, 1),
            _ => {
                enter_with(&mut client, State::Running, 8, 1);
                let rows = two_rows('G', at(seconds), ["0.5", "0.5"]);
                client.totals.take(host(), rows.as_bytes()).unwrap();
                let source = format!(
                    "<ds><name>cpu0</name><type>DERIVE</type><last_ds>{:?}</last_ds></ds>",
                    t / 2.0 - 100.0
                );
                let t = at(seconds + 3);
                let rrd = format!("<rrd><step>5</step><lastupdate>{t}</lastupdate>{source}<rra>");
                let rrd = VmRrd::read(rrd.as_bytes()).unwrap();
                client.totals.enter_exact(&uuid('G'), host(), &rrd);
            }
        }
    }
    let told = client.totals.vm(&uuid('G')).unwrap().cpu;
    let seconds = told.since_start.expect("it is that of the one which it has") / 1_000_000_000;
    assert!((99..=101).contains(&seconds), "{told:?}");
}

#[test]
fn cpu_time_has_that_of_a_vcpu_which_was_offline_before_anybody_looked() {
    for lies in [false, true] {
        let mut client = Client::new("xapi-26.17_steady");
        let mut before = None;
        for seconds in (0..=400).step_by(10) {
            let is_online = seconds >= 200;
            enter_with(&mut client, State::Running, 7, if is_online { 2 } else { 1 });
            let rows = two_cpus(seconds, "0.5", if is_online { "0.5" } else { "0.0" });
            client.totals.take(host(), rows.as_bytes()).unwrap();
            if lies && seconds == 50 {
                client.totals.rows_lie(host());
            }
            // It ran for 1000 s once.
            let t = seconds as f64 + 3.0;
            let second = 1000.0 + (t - 195.0).max(0.0) / 2.0;
            if lies || client.totals.lacks_exact(&uuid('G')) {
                assert!(read_two_cpus(&mut client, seconds + 3, t / 2.0, second));
            }
            let cpu = client.told('G', "cpu").unwrap();
            let since_start = cpu.since_start.expect("it is known all the time") as f64 / NANO;
            assert!(
                (since_start - second - t / 2.0).abs() < 6.0,
                "{lies} {seconds}: {since_start}"
            );
            let grown = cpu.sum - before.replace(cpu.sum).unwrap_or(0);
            assert!(grown < 16_000_000_000, "{lies} {seconds}: {grown}");
        }
    }
}

/// Bytes that G's NIC has received, and sent: many in 30 seconds, and few else.
fn bytes_of_burst(begins: i64, t: i64) -> i64 {
    1000 * t + 999_000 * (t - begins).clamp(0, 30)
}

/// An answer of G's CPU and that NIC: the rows after `from`, of that step.
fn burst(begins: i64, from: i64, end: i64, step: i64) -> String {
    let row = |t: i64| {
        let grown = bytes_of_burst(begins, t) - bytes_of_burst(begins, t - step);
        let mean = grown as f64 / step as f64;
        format!("<row><t>{}</t><v>0.5</v><v>{mean}</v><v>{mean}</v></row>", at(t))
    };
    let rows: String = (0..).map(|n| end - n * step).take_while(|t| *t > from).map(row).collect();
    let entry = |name| format!("<entry>AVERAGE:vm:{}:{name}</entry>", uuid('G'));
    let legend = ["cpu0", "vif_0_rx", "vif_0_tx"].map(entry).concat();
    let (start, end) = (at(from + 1), at(end));
    format!(
        "<xport><meta><start>{start}</start><step>{step}</step><end>{end}</end>\
         <legend>{legend}</legend></meta><data>{rows}</data></xport>"
    )
}

#[test]
fn a_part_of_a_longer_row_is_no_lie() {
    // The host is away from 110 on, in the minute from 100 to 160, and has rows of a minute afterwards.
    for (set, begins) in TRUE_SETS.iter().flat_map(|set| [100, 130].map(|begins| (set, begins))) {
        let mut client = Client::new(set);
        let (mut from, mut before) = (-20, Told::default());
        for now in (0..=110).step_by(10).chain((1000..=1300).step_by(10)) {
            // Another NIC, which is plugged in later, has everything read again.
            let nics: &[u16] = if now < 1100 { &[0] } else { &[0, 1] };
            let (state, host_of) = (State::Running, Some(host()));
            let known =
                Known { state, domid: 7, started: None, host: host_of, vcpus: 1, nics, disks: &[] };
            client.totals.enter(uuid('G'), &known);
            let step = if now - from > 600 { 60 } else { 5 };
            client.totals.take(host(), burst(begins, from, now, step).as_bytes()).unwrap();
            from = now;
            let is_due = client.totals.due(&host()).contains(&uuid('G'));
            if is_due || client.totals.lacks_exact(&uuid('G')) {
                let source = |name, last: String| {
                    format!(
                        "<ds><name>{name}</name><type>DERIVE</type><last_ds>{last}</last_ds></ds>"
                    )
                };
                let t = now + 3;
                let bytes = bytes_of_burst(begins, t).to_string();
                let sources = [
                    source("cpu0", format!("{:?}", t as f64 / 2.0)),
                    source("vif_0_rx", bytes.clone()),
                    source("vif_0_tx", bytes),
                ];
                let (t, sources) = (at(t), sources.concat());
                let rrd = format!("<rrd><step>5</step><lastupdate>{t}</lastupdate>{sources}<rra>");
                client.totals.enter_exact(
                    &uuid('G'),
                    host(),
                    &VmRrd::read(rrd.as_bytes()).unwrap(),
                );
            }
            assert!(!client.totals.do_rows_lie(&host()), "{set}, {begins}: at {now}");
            let told = client.told('G', "vif_0_rx").unwrap();
            let seconds = told.covered.checked_sub(before.covered).unwrap().as_secs_f64();
            let rate = (told.sum - before.sum) as f64 / seconds;
            assert!(now < 1010 || rate <= 1001.0, "{set}, {begins}: {rate} B/s at {now}");
            before = told;
        }
        let cpu = client.told('G', "cpu").unwrap();
        assert_eq!(cpu.sum, 650_000_000_000, "{set}, {begins}");
    }
}

#[test]
fn exact_counters_of_a_vm_that_is_paused_are_those_of_now() {
    // It was paused long before anybody looked: its RRD stands still since then. They may be asked for later.
    for first in [0, 300, 500] {
        let mut client = Client::new("xapi-1.249_8.2_drift");
        let (paused, resumed) = (-1000, 495);
        for seconds in (0..=700).step_by(10) {
            let is_paused = seconds < resumed;
            let state = if is_paused { State::Paused } else { State::Running };
            enter_with(&mut client, state, 7, 1);
            // After so long, the first readings are unknown.
            let is_known = is_paused || seconds > 505;
            let [cpu, bytes] = if is_known { ["0.5", "1000.0"] } else { ["NaN"; 2] };
            client.totals.take(host(), cpu_and_nic(seconds, cpu, bytes).as_bytes()).unwrap();
            if seconds >= first && client.totals.lacks_exact(&uuid('G')) {
                // The host reads it again some seconds after it was resumed.
                let stands_still = seconds < resumed + 10;
                let ran = if stands_still { 0 } else { seconds + 3 - resumed };
                let read_at = if stands_still { paused } else { seconds + 3 };
                let cpu = format!("{:?}", 100.0 + ran as f64 / 2.0);
                read_both(&mut client, read_at, &cpu, &(50_000 + 1000 * ran).to_string());
            }
            for name in ["cpu", "vif_0_rx"] {
                let told = client.told('G', name).unwrap();
                assert!(
                    told.covered.as_secs_f64() < seconds as f64 + 6.0,
                    "{first}, {seconds}: {name} {told:?}"
                );
            }
        }
        let [cpu, nic] = ["cpu", "vif_0_rx"].map(|name| client.told('G', name).unwrap());
        assert!((195_000..=210_000).contains(&nic.sum), "{nic:?}");
        assert!((695..=705).contains(&cpu.covered.as_secs()), "{cpu:?}");
        assert!((251_000..=256_000).contains(&nic.since_start.unwrap()), "{nic:?}");
    }
}

#[test]
fn exact_counters_of_a_vm_none_of_whose_vcpus_has_run_are_not_known() {
    // xcp-rrdd was started anew while it was paused, and does not read it until it runs again.
    for set in TRUE_SETS {
        let mut client = Client::new(set);
        let resumed = 95;
        for seconds in (0..=400).step_by(10) {
            let state = if seconds < resumed { State::Paused } else { State::Running };
            enter_with(&mut client, state, 7, 1);
            let is_known = seconds > resumed + 15;
            let [cpu, bytes] = if is_known { ["0.5", "1000.0"] } else { ["NaN"; 2] };
            client.totals.take(host(), cpu_and_nic(seconds, cpu, bytes).as_bytes()).unwrap();
            let is_due = client.totals.due(&host()).contains(&uuid('G'));
            if is_due || client.totals.lacks_exact(&uuid('G')) {
                let ran = seconds + 3 - resumed;
                let cpu = format!("{:?}", 24_000.0 + ran as f64 / 2.0);
                let bytes = (15_000_000_000 + 1000 * ran).to_string();
                let [cpu, bytes] =
                    if ran > 5 { [cpu, bytes] } else { ["0.0".to_owned(), "0.0".to_owned()] };
                read_both(&mut client, seconds + 3, &cpu, &bytes);
            }
            let cpu = client.told('G', "cpu").unwrap();
            let ran = i128::from((seconds - resumed).max(0)) * 500_000_000;
            assert!(cpu.sum <= ran, "{set}, {seconds}: {cpu:?}");
            let since_start = cpu.since_start.unwrap_or(24_000_000_000_000);
            assert!(since_start >= 24_000_000_000_000, "{set}, {seconds}: {cpu:?}");
        }
        let cpu = client.told('G', "cpu").unwrap();
        assert!(cpu.since_start.is_some(), "{set}: {cpu:?}");
    }
}

#[test]
fn rows_of_a_minute_of_a_vm_that_was_paused_since_are_not_taken_twice() {
    // Nobody looks from 100 on. It is paused at 400, and its rows until then are told as if they were of now. It runs
    // again at 1100: what it did since 100 is in no row of 5 s, and told by its exact counter.
    let mut client = Client::new("xapi-1.249_8.2_drift");
    let share = |t: i64| 0.2 + (t * t % 97) as f64 / 200.0;
    let ran = |from: i64, to: i64| (from..to).map(share).sum::<f64>();
    let ran_until = |now: i64| ran(0, now.min(400)) + ran(1100, now.max(1100));
    let mut from = -20;
    for now in (0..=100).step_by(10).chain((1000..=1300).step_by(10)) {
        let is_paused = (401..=1100).contains(&now);
        enter_with(&mut client, if is_paused { State::Paused } else { State::Running }, 7, 1);
        let step = if now - from > 600 { 60 } else { 5 };
        let end = now / step * step;
        let shift = if is_paused { end - 400 / step * step } else { 0 };
        let row = |t: i64| {
            let mean = ran(t - shift - step, t - shift) / step as f64;
            // So long is the library without a reading.
            let is_known = is_paused || !(401..=1105).contains(&t);
            let mean = if is_known { mean.to_string() } else { "NaN".to_owned() };
            format!("<row><t>{}</t><v>{mean}</v></row>", at(t))
        };
        let rows: String =
            (0..).map(|n| end - n * step).take_while(|t| *t > from).map(row).collect();
        let entry = format!("<entry>AVERAGE:vm:{}:cpu0</entry>", uuid('G'));
        let answer = format!(
            "<xport><meta><start>{}</start><step>{step}</step><end>{}</end>\
             <legend>{entry}</legend></meta><data>{rows}</data></xport>",
            at(from + 1),
            at(end)
        );
        client.totals.take(host(), answer.as_bytes()).unwrap();
        from = now;
        if client.totals.lacks_exact(&uuid('G')) {
            read_cpu(&mut client, now, 1000.0 + ran_until(now));
        }
        let cpu = client.told('G', "cpu").unwrap();
        let ran = ran_until(now) * NANO;
        assert!(cpu.sum as f64 <= ran + 1.0, "{now}: {cpu:?}, {ran}");
        assert!(cpu.covered.as_secs() <= u64::try_from(now).unwrap(), "{now}: {cpu:?}");
    }
    // All of it, to a second.
    let (cpu, ran) = (client.told('G', "cpu").unwrap(), ran_until(1300) * NANO);
    assert!(cpu.sum as f64 > ran - NANO, "{cpu:?}, {ran}");
}

#[test]
fn a_column_that_stays_away_is_made_good_for_now_and_then() {
    for lies in [false, true] {
        let mut client = Client::new("xapi-26.17_steady");
        let mut reads = 0;
        for seconds in (0..=4000).step_by(10) {
            let is_away = (105..=3600).contains(&seconds);
            let name = if is_away { "other" } else { "vif_0_rx" };
            let answer = cpu_and_nic(seconds, "0.5", "1000.0").replace("vif_0_rx", name);
            client.poll(at(seconds), answer.as_bytes());
            if lies && seconds == 50 {
                client.totals.rows_lie(host());
            }
            if client.totals.lacks_exact(&uuid('G')) {
                reads += i32::from(seconds > 100);
                let [cpu, counted] = [5000 + seconds * 500, 50_000 + 1000 * (seconds + 3)];
                let cpu = format!("{:.3}", cpu as f64 / 1000.0);
                assert!(read_both(&mut client, seconds + 3, &cpu, &counted.to_string()));
            }
        }
        let nic = client.told('G', "vif_0_rx").unwrap();
        if lies {
            // Every reading has exact values then, whatever is lacking.
            assert_eq!(reads, 0);
        } else {
            assert!((3..=12).contains(&reads), "{reads}");
            assert!((4_049_000..=4_051_000).contains(&nic.since_start.unwrap()), "{nic:?}");
            assert!((3_999_000..=4_001_000).contains(&nic.sum), "{nic:?}");
        }
    }
}

#[test]
fn a_clock_that_goes_back_after_a_start_keeps_nobody_waiting() {
    let mut client = Client::new("xapi-26.17_steady");
    client.poll(at(7200), two_rows('G', at(7200), ["0.5", "0.5"]).as_bytes());
    let Inventory { state, vcpus, nics, disks, .. } = inventory('G', at(0));
    let known = Known {
        state,
        domid: 99,
        started: None,
        host: Some(host()),
        vcpus,
        nics: &nics,
        disks: &disks,
    };
    client.totals.enter(uuid('G'), &known);
    let take = |client: &mut Client, seconds: i64| {
        let answer = two_rows('G', at(seconds), ["0.5", "0.5"]);
        client.totals.take(host(), answer.as_bytes()).unwrap().went_back
    };
    assert!(!take(&mut client, 7210));
    assert!(!read_cpu(&mut client, 7213, 5.0), "it may be that of the domain before");
    assert!(take(&mut client, 100) && !take(&mut client, 110));
    assert!(read_cpu(&mut client, 113, 20.0));
    assert_eq!(client.told('G', "cpu").unwrap().since_start, Some(20_000_000_000));
}

#[test]
fn rows_of_another_host_are_not_taken() {
    let answers = ["every10_03", "every10_04"].map(|at| answer(&format!("xapi-24.19_drift/{at}")));
    let mut client = Client::new("xapi-24.19_drift");
    client.enter(T_END);
    client.totals.take(host(), &answers[0]).unwrap();
    let before = client.totals.vm(&uuid('A')).unwrap();
    let start = client.totals.start(&host(), 0);
    let error = client.totals.take(host(), &as_other(&answers[1])).unwrap_err();
    assert!(error.to_string().ends_with("it is another host's"));
    assert_eq!(client.totals.vm(&uuid('A')).unwrap(), before);
    assert_eq!(client.totals.start(&host(), 0), start);
}

#[test]
fn an_answer_that_is_cut_takes_nothing() {
    let (first, next) =
        (answer("xapi-24.19_drift/every10_03"), answer("xapi-24.19_drift/every10_04"));
    let mut client = Client::new("xapi-24.19_drift");
    client.enter(T_END);
    client.totals.take(host(), &first).unwrap();
    let before = client.totals.vm(&uuid('A')).unwrap();
    client.totals.take(host(), &next[..next.len() - 30]).unwrap_err();
    assert_eq!(client.totals.vm(&uuid('A')).unwrap(), before);
    client.totals.take(host(), &next).unwrap();
    let after = client.totals.vm(&uuid('A')).unwrap();
    assert_eq!(after.cpu.covered, Duration::from_secs(10));
    // A second time it adds nothing.
    client.totals.take(host(), &next).unwrap();
    assert_eq!(client.totals.vm(&uuid('A')).unwrap(), after);
}

#[test]
fn requests_are_divided_by_five_where_they_are_five_times_too_many() {
    let told = |build| {
        let mut client = Client::new("xapi-24.19_drift");
        client.totals.enter_host(host(), Quirks::of(build));
        client.poll(T_END - 60, &answer("xapi-24.19_drift/every60_09"));
        client.poll(T_END, &answer("xapi-24.19_drift/every60_10"));
        ["vbd_xvda_iops_read", "vbd_xvda_read"].map(|name| client.told('A', name).unwrap().sum)
    };
    let [requests, bytes] = told("25.1.0");
    let [fewer, same] = told("25.6.0-5.1.xcpng8.3");
    assert!(requests > 1000 && (requests - 5 * fewer).abs() <= 3, "{requests} {fewer}");
    assert_eq!(bytes, same);
}

#[test]
fn rows_of_a_minute_count_for_a_minute() {
    let truth = truth();
    for set in TRUE_SETS {
        let mut client = Client::new(set);
        client.poll(T_END - 600, &answer(&format!("{set}/every60_00")));
        let taken = client.poll(T_END, &answer(&format!("{set}/too_old_for_5s")));
        assert_eq!(taken.step, 60);
        let stable = |vm: char, name: &str| vm != 'E' && vm != 'F' && !is_cut(set, vm, name);
        let errors = Errors::of(&client, truth, stable);
        // So is the first minute: five seconds of it are new.
        errors.assert_within(10.0, set);
        let cpu = client.told('A', "cpu").unwrap();
        let seconds = u64::try_from(client.last - client.first.unwrap()).unwrap();
        assert_eq!(cpu.covered, Duration::from_secs(seconds));
    }
}

#[test]
fn a_vm_that_has_moved_goes_on() {
    let other = other();
    let truth = truth();
    let set = "xapi-1.249_8.2_drift";
    let mut client = Client::new(set);
    client.totals.enter_host(other, Quirks::of(build(set)));
    for poll in 0..=12 {
        let t = T_END - 120 + 10 * poll;
        let is_moved = poll >= 6;
        client.enter(t);
        let Inventory { state, domid, vcpus, nics, disks } = inventory('A', t);
        let (host_now, domid) = if is_moved { (other, 77) } else { (host(), domid) };
        let known = Known {
            state,
            domid,
            started: None,
            host: Some(host_now),
            vcpus,
            nics: &nics,
            disks: &disks,
        };
        client.totals.enter(uuid('A'), &known);
        // Both hosts tell of it.
        let answer = answer(&format!("{set}/every10_{poll:02}"));
        client.totals.take(host(), &answer).unwrap();
        let taken = client.totals.take(other, &as_other(&answer)).unwrap();
        client.first.get_or_insert(taken.newest);
        client.last = taken.newest;
    }
    let errors = Errors::of(&client, truth, |vm, name| vm == 'A' && !name.contains("xvde"));
    errors.assert_within(1.0, "moved");
}

/// Rows of G's only vCPU, which is half busy, by their ends.
fn half_busy(rows: std::ops::RangeInclusive<i64>) -> String {
    let (first, last) = (*rows.start(), *rows.end());
    let row = |t: i64| format!("<row><t>{}</t><v>0.5</v></row>", at(t));
    let values: String = rows.rev().filter(|t| t % 5 == 0).map(row).collect();
    format!(
        "<xport><meta><start>{}</start><step>5</step><end>{}</end>\
         <legend><entry>AVERAGE:vm:{}:cpu0</entry></legend></meta><data>{values}</data></xport>",
        at(first),
        at(last),
        uuid('G')
    )
}

/// Enters G on a host, or shut off.
fn enter_on(client: &mut Client, host: Option<Uuid>, domid: i64) {
    let state = if host.is_some() { State::Running } else { State::Gone };
    let known = Known { state, domid, started: None, host, vcpus: 1, nics: &[], disks: &[] };
    client.totals.enter(uuid('G'), &known);
}

/// G runs on a host; the clock of the other one is so many seconds ahead, about an hour.
fn beside_one_ahead(ahead: i64) -> Client {
    let mut client = Client::new("xapi-1.249_8.2_drift");
    client.totals.enter_host(other(), Quirks::of("1.249.41"));
    enter_on(&mut client, Some(host()), 7);
    client.totals.take(host(), half_busy(0..=0).as_bytes()).unwrap();
    client.totals.take(other(), half_busy(ahead..=ahead).as_bytes()).unwrap();
    client.totals.enter_lag(host(), 5, 1.0);
    client.totals.enter_lag(other(), 5, -3599.0);
    client
}

#[test]
fn a_vm_that_moves_while_it_is_read_keeps_its_rows() {
    let mut client = beside_one_ahead(0);
    let others = |rows| half_busy(rows).replace(&uuid('G').to_string(), &uuid('A').to_string());
    let sum = |client: &Client| client.told('G', "cpu").unwrap().sum;
    client.totals.take(host(), half_busy(1..=10).as_bytes()).unwrap();
    client.totals.take(other(), others(1..=10).as_bytes()).unwrap();
    // Its host tells of it no more, by a row of a minute first, and the other one is being asked when the inventory
    // says where it is.
    let long = others(40..=40).replace("<step>5<", "<step>60<");
    client.totals.take(host(), long.as_bytes()).unwrap();
    assert!(!client.totals.is_missed(&uuid('G')));
    client.totals.take(host(), others(41..=45).as_bytes()).unwrap();
    assert!(client.totals.is_missed(&uuid('G')));
    client.totals.take(other(), others(11..=40).as_bytes()).unwrap();
    let start = client.totals.start(&other(), 0);
    assert_eq!(start, at(41));
    enter_on(&mut client, Some(other()), 9);
    let answer = half_busy(41..=50);
    let rows = Rows::read(answer.as_bytes()).unwrap().since(start);
    client.totals.take_rows(other(), &rows).unwrap();
    assert_eq!(sum(&client), 5_000_000_000);
    // It is told from where it was.
    let start = client.totals.start(&other(), 0);
    assert_eq!(start, at(10), "and the row before, which shows that it came with it");
    // By then that may be longer ago than rows of 5 s are kept: all would be those of a minute.
    let [late, later] = [560, 600].map(|told| client.totals.start(&other(), told));
    assert!(late > start);
    assert_eq!(later - late, 10);
    let answer = half_busy(10..=60);
    let rows = Rows::read(answer.as_bytes()).unwrap().since(start);
    client.totals.take_rows(other(), &rows).unwrap();
    assert_eq!(sum(&client), 30_000_000_000);
    assert!(!client.totals.is_missed(&uuid('G')));
    // One that is not told for longer goes on without.
    for (rows, is_missed) in [(61..=70, true), (71..=80, true), (81..=140, false)] {
        client.totals.take(other(), others(rows).as_bytes()).unwrap();
        assert_eq!(client.totals.is_missed(&uuid('G')), is_missed);
    }
    assert_eq!(client.totals.start(&other(), 0), at(141));
}

#[test]
fn what_moves_on_from_a_host_that_was_not_read_is_not_taken_twice() {
    let third = Uuid::from_u128(3);
    let mut client = beside_one_ahead(0);
    client.totals.enter_host(third, Quirks::of("25.22.0"));
    let others = |rows| half_busy(rows).replace(&uuid('G').to_string(), &uuid('A').to_string());
    client.totals.take(third, others(0..=0).as_bytes()).unwrap();
    for host in [other(), third] {
        client.totals.enter_lag(host, 5, 1.0);
    }
    for end in [10, 20, 30, 40] {
        client.totals.take(host(), half_busy(end - 9..=end).as_bytes()).unwrap();
        client.totals.take(third, others(end - 9..=end).as_bytes()).unwrap();
    }
    // The other one was last read at the beginning.
    enter_on(&mut client, Some(other()), 9);
    enter_on(&mut client, Some(third), 10);
    client.totals.take(third, half_busy(1..=50).as_bytes()).unwrap();
    assert_eq!(client.told('G', "cpu").unwrap().sum, 25_000_000_000);
}

#[test]
fn what_moves_to_a_host_that_was_not_read_for_long_or_never_goes_on() {
    let third = Uuid::from_u128(3);
    for to in [other(), third] {
        let mut client = beside_one_ahead(0);
        client.totals.enter_lag(other(), 5, 1.0);
        client.totals.enter_host(third, Quirks::of("25.22.0"));
        for end in [400, 800, 1200] {
            client.totals.take(host(), half_busy(end - 399..=end).as_bytes()).unwrap();
        }
        enter_on(&mut client, Some(to), 9);
        let start = client.totals.start(&to, 0);
        assert_eq!(start, at(1190), "not as old as its last rows, which would be long ones");
        client.totals.take(to, half_busy(1190..=1240).as_bytes()).unwrap();
        assert_eq!(client.told('G', "cpu").unwrap().sum, 620_000_000_000);
        assert_eq!(client.totals.start(&to, 0), at(1241));
    }
}

#[test]
fn each_that_comes_to_a_host_that_was_never_read_goes_on_by_its_own_clock() {
    let third = Uuid::from_u128(3);
    for behind in [false, true] {
        let mut client = beside_one_ahead(3600);
        client.totals.enter_host(third, Quirks::of("25.22.0"));
        client.totals.take(host(), half_busy(1..=100).as_bytes()).unwrap();
        let known = Known {
            state: State::Running,
            domid: 4,
            started: None,
            host: Some(other()),
            vcpus: 1,
            nics: &[],
            disks: &[],
        };
        client.totals.enter(uuid('A'), &known);
        let of_both = |rows: std::ops::RangeInclusive<i64>| {
            let a = format!("</entry><entry>AVERAGE:vm:{}:cpu0</entry>", uuid('A'));
            half_busy(rows).replace("<v>0.5</v>", "<v>0.5</v><v>1</v>").replacen("</entry>", &a, 1)
        };
        let ahead = of_both(3601..=3700);
        client.totals.take(other(), ahead.as_bytes()).unwrap();
        // Both come to it; its clock is that of one of them.
        enter_on(&mut client, Some(third), 9);
        client.totals.enter(uuid('A'), &Known { host: Some(third), domid: 10, ..known });
        let begin = if behind { 101 } else { 3701 };
        let (before, rows) = (client.told('A', "cpu").unwrap().sum, begin..=begin + 59);
        client.totals.take(third, of_both(rows).as_bytes()).unwrap();
        let rows = begin + 60..=begin + 119;
        client.totals.take(third, of_both(rows).as_bytes()).unwrap();
        let told = client.told('A', "cpu").unwrap().sum - before;
        assert_eq!(told / 1_000_000_000, if behind { 60 } else { 120 });
        let told = client.told('G', "cpu").unwrap().sum / 1_000_000_000;
        assert!(if behind { told == 110 } else { told >= 110 }, "{told}");
    }
}

#[test]
fn what_was_seen_off_and_starts_on_a_host_that_was_never_read_loses_nothing() {
    let third = Uuid::from_u128(3);
    for off in [100, 10_000] {
        let mut client = beside_one_ahead(0);
        client.totals.enter_host(third, Quirks::of("25.22.0"));
        client.totals.take(host(), half_busy(1..=100).as_bytes()).unwrap();
        enter_on(&mut client, None, -1);
        let others = |rows| half_busy(rows).replace(&uuid('G').to_string(), &uuid('A').to_string());
        client.totals.take(host(), others(101 + off..=110 + off).as_bytes()).unwrap();
        enter_on(&mut client, Some(third), 9);
        // Rows of long ago would be long ones.
        let start = client.totals.start(&third, 0);
        let expected = if off == 100 { at(90) } else { at(110 + off - 480 - 10) };
        assert_eq!(start, expected);
        client.totals.take(third, half_busy(201 + off..=300 + off).as_bytes()).unwrap();
        assert_eq!(client.told('G', "cpu").unwrap().sum, 100_000_000_000);
        // With the last row that was taken, for a while.
        assert_eq!(client.totals.start(&third, 0), at(300 + off));
    }
}

/// A row of what G's disk has written, in bytes and requests, of 5 s each.
fn written(rows: &[(i64, &str, &str)]) -> String {
    let entry = |name| format!("<entry>AVERAGE:vm:{}:vbd_xvda_{name}</entry>", uuid('G'));
    let names = ["write", "iops_write", "read", "iops_read"];
    let row = |(t, bytes, requests): &(i64, &str, &str)| {
        format!("<row><t>{}</t><v>{bytes}</v><v>{requests}</v><v>0</v><v>0</v></row>", at(*t))
    };
    let (start, end) = (at(rows[0].0), at(rows[rows.len() - 1].0));
    format!(
        "<xport><meta><start>{start}</start><step>5</step><end>{end}</end>\
         <legend>{}</legend></meta><data>{}</data></xport>",
        names.map(entry).concat(),
        rows.iter().rev().map(row).collect::<String>(),
    )
}

#[test]
fn requests_since_a_disk_was_plugged_in_are_no_rate() {
    // The plugin was started anew: its first reading has those, and no bytes yet, or those of one row.
    for (bytes, is_taken) in [("NaN", false), ("0", false), ("4000", false), ("51200", true)] {
        let mut client = Client::new("xapi-26.17_steady");
        let known = Known {
            state: State::Running,
            domid: 7,
            started: None,
            host: Some(host()),
            vcpus: 1,
            nics: &[],
            disks: &["xvda"],
        };
        client.totals.enter(uuid('G'), &known);
        client.totals.take(host(), written(&[(0, "4000", "1")]).as_bytes()).unwrap();
        let requests = if is_taken { "99" } else { "900000" };
        let rows = [(5, "4000", "1"), (10, bytes, requests), (15, "4000", "1")];
        client.totals.take(host(), written(&rows).as_bytes()).unwrap();
        let told = client.told('G', "vbd_xvda_iops_write").unwrap();
        let expected = if is_taken { (10 + 495, 15) } else { (10, 10) };
        assert_eq!((told.sum, told.covered.as_secs()), expected, "{bytes}");
    }
}

#[test]
fn requests_of_a_vm_that_has_come_from_a_host_that_counts_otherwise_are_not_known_at_first() {
    for (from, to) in [("25.22.0", "26.1.0"), ("26.1.0", "25.22.0")] {
        let mut client = Client::new("xapi-26.17_steady");
        client.totals.enter_host(host(), Quirks::of(from));
        client.totals.enter_host(other(), Quirks::of(to));
        let enter = |client: &mut Client, host, domid| {
            let (state, host) = (State::Running, Some(host));
            let disks = &["xvda"][..];
            let known = Known { state, domid, started: None, host, vcpus: 1, nics: &[], disks };
            client.totals.enter(uuid('G'), &known);
        };
        enter(&mut client, host(), 7);
        for host in [host(), other()] {
            client.totals.take(host, written(&[(0, "4000", "10")]).as_bytes()).unwrap();
            client.totals.enter_lag(host, 5, 1.0);
        }
        let told = |client: &Client| {
            let told = client.told('G', "vbd_xvda_iops_write").unwrap();
            (told.sum, told.covered.as_secs())
        };
        let five_fold = |quirks: &str| Quirks::of(quirks).absolute_is_five_times_too_high();
        let once = |quirks: &str| if five_fold(quirks) { 10 } else { 50 };
        client.totals.take(host(), written(&[(5, "4000", "10")]).as_bytes()).unwrap();
        assert_eq!(told(&client), (once(from), 5));
        enter(&mut client, other(), 9);
        let rows = [(5, "4000", "10"), (10, "4000", "10"), (15, "4000", "10")];
        client.totals.take(other(), written(&rows).as_bytes()).unwrap();
        assert_eq!(told(&client), (once(from), 5));
        client.totals.take(other(), written(&[(20, "4000", "10")]).as_bytes()).unwrap();
        assert_eq!(told(&client), (once(from) + once(to), 10));
    }
}

#[test]
fn what_moves_as_its_host_is_taken_out_of_the_pool_goes_on() {
    let mut client = beside_one_ahead(0);
    client.totals.enter_lag(other(), 5, 1.0);
    let others = |rows| half_busy(rows).replace(&uuid('G').to_string(), &uuid('A').to_string());
    client.totals.take(host(), half_busy(1..=100).as_bytes()).unwrap();
    client.totals.take(other(), others(1..=200).as_bytes()).unwrap();
    client.totals.forget_host(&host());
    enter_on(&mut client, Some(other()), 9);
    client.totals.take(other(), half_busy(100..=300).as_bytes()).unwrap();
    assert_eq!(client.told('G', "cpu").unwrap().sum, 150_000_000_000);
}

#[test]
fn what_moves_to_a_host_that_was_never_read_begins_anew_where_its_clock_is_behind() {
    let third = Uuid::from_u128(3);
    let mut client = beside_one_ahead(0);
    client.totals.enter_host(third, Quirks::of("25.22.0"));
    client.totals.take(host(), half_busy(1..=100).as_bytes()).unwrap();
    enter_on(&mut client, Some(third), 9);
    let taken = client.totals.take(third, half_busy(30..=50).as_bytes()).unwrap();
    assert!(!taken.went_back, "nobody knows that");
    client.totals.take(third, half_busy(51..=70).as_bytes()).unwrap();
    assert_eq!(client.told('G', "cpu").unwrap().sum, 60_000_000_000);
}

#[test]
fn what_moves_while_its_rows_are_on_the_way_keeps_them() {
    let others = |rows| half_busy(rows).replace(&uuid('G').to_string(), &uuid('A').to_string());
    // Where its disks move with it, a domain waits for its memory, and does nothing.
    let begins_anew = |rows, from: i64, is_there_before: bool| {
        let before = |t: i64| format!("<t>{}</t><v>0.5</v>", at(t));
        let nothing = |t| before(t).replace("0.5", if is_there_before { "0" } else { "NaN" });
        (0..from).fold(half_busy(rows), |rows, t| rows.replace(&before(t), &nothing(t)))
    };
    let ways = [(false, true), (true, true), (true, false)];
    for ((is_told_anew, comes), is_there_before) in
        ways.into_iter().flat_map(|way| [false, true].map(|there| (way, there)))
    {
        let begins_anew = |rows, from| begins_anew(rows, from, is_there_before);
        let mut client = beside_one_ahead(0);
        for end in [10, 20] {
            client.totals.take(host(), half_busy(end - 9..=end).as_bytes()).unwrap();
            client.totals.take(other(), others(end - 9..=end).as_bytes()).unwrap();
        }
        let sum = |client: &Client| client.told('G', "cpu").unwrap().sum / 1_000_000_000;
        if is_told_anew {
            // The inventory says that it has come, and its new host does not have its rows yet, nor any at first.
            enter_on(&mut client, Some(other()), 9);
            client.totals.take(other(), others(20..=35).as_bytes()).unwrap();
            assert!(!client.totals.is_missed(&uuid('G')));
            client.totals.take(other(), begins_anew(20..=40, 38).as_bytes()).unwrap();
        } else {
            // Its rows have gone, and the inventory does not say so for two readings.
            client.totals.take(host(), others(21..=30).as_bytes()).unwrap();
            client.totals.take(host(), others(31..=40).as_bytes()).unwrap();
            enter_on(&mut client, Some(other()), 9);
        }
        assert_eq!(sum(&client), 10);
        assert_eq!(client.totals.start(&other(), 0), at(20));
        if comes {
            client.totals.take(other(), half_busy(20..=60).as_bytes()).unwrap();
            assert_eq!(sum(&client), 30);
        } else {
            client.totals.take(other(), begins_anew(20..=90, 38).as_bytes()).unwrap();
            assert_eq!(sum(&client), 10, "they may come yet");
            client.totals.take(other(), begins_anew(20..=110, 38).as_bytes()).unwrap();
            assert_eq!(sum(&client), 10 + 37, "of what is known");
        }
    }
}

#[test]
fn what_is_told_of_a_vm_that_came_from_a_far_clock_is_not_taken_twice() {
    // The clock of the other host is an hour ahead. It is read every minute, and not at once after the move.
    let (other, ahead) = (other(), 3600);
    let mut client = beside_one_ahead(ahead);
    client.totals.take(host(), half_busy(1..=55).as_bytes()).unwrap();
    // The inventory is read twice before its host is.
    enter_on(&mut client, Some(other), 7);
    enter_on(&mut client, Some(other), 7);
    client.totals.take(other, half_busy(ahead + 1..=ahead + 60).as_bytes()).unwrap();
    let before = client.told('G', "cpu").unwrap().sum;
    assert!(before <= 30_000_000_000, "{before} in 60 s");
    client.totals.take(other, half_busy(ahead + 61..=ahead + 120).as_bytes()).unwrap();
    assert_eq!(client.told('G', "cpu").unwrap().sum - before, 30_000_000_000);
}

#[test]
fn rows_of_a_vm_that_starts_on_a_host_that_nobody_read_are_not_taken_twice() {
    // As where each VM is asked for by itself, and the other host has none. The RRD goes with the VM.
    let other = other();
    for shut_off in [false, true] {
        let mut client = Client::new("xapi-1.249_8.2_drift");
        client.totals.enter_host(other, Quirks::of("1.249.41"));
        enter_on(&mut client, Some(host()), 7);
        client.totals.take(host(), half_busy(0..=0).as_bytes()).unwrap();
        client.totals.take(other, half_busy(0..=0).as_bytes()).unwrap();
        client.totals.enter_lag(host(), 5, 1.0);
        client.totals.enter_lag(other, 5, 1.0);
        client.totals.take(host(), half_busy(1..=300).as_bytes()).unwrap();
        if shut_off {
            enter_on(&mut client, None, -1);
            enter_on(&mut client, None, -1);
        }
        enter_on(&mut client, Some(other), 9);
        // Of what was shut off, they could be those of before.
        for end in [330, 400] {
            client.totals.take(other, half_busy(1..=end).as_bytes()).unwrap();
        }
        let told = client.told('G', "cpu").unwrap();
        assert_eq!(told.sum, 200_000_000_000, "{told:?} in 400 s");
    }
}

#[test]
fn what_is_told_of_a_vm_that_starts_on_a_host_with_a_far_clock_is_not_taken_twice() {
    // The clock of the other host is an hour ahead, and it was read a minute ago; or the VM moved there, and was
    // shut off before it was read.
    let (other, ahead) = (other(), 3600);
    for has_moved in [false, true] {
        let mut client = beside_one_ahead(ahead);
        client.totals.take(host(), half_busy(1..=300).as_bytes()).unwrap();
        let before = client.told('G', "cpu").unwrap().sum;
        if has_moved {
            enter_on(&mut client, Some(other), 7);
        }
        enter_on(&mut client, None, -1);
        enter_on(&mut client, Some(other), 9);
        client.totals.take(other, half_busy(ahead + 1..=ahead + 330).as_bytes()).unwrap();
        let told = client.told('G', "cpu").unwrap().sum;
        assert!(told - before <= 15_000_000_000, "{} in 30 s", told - before);
        client.totals.take(other, half_busy(ahead + 331..=ahead + 360).as_bytes()).unwrap();
        assert_eq!(client.told('G', "cpu").unwrap().sum - told, 15_000_000_000);
    }
}

#[test]
fn a_vm_that_was_shut_off_while_the_clock_was_set_back_is_counted_from_its_start() {
    for is_there in [true, false] {
        let there = if is_there { host() } else { other() };
        let mut client = Client::new("xapi-1.249_8.2_drift");
        client.totals.enter_host(other(), Quirks::of("1.249.41"));
        enter_on(&mut client, Some(host()), 7);
        for host in [host(), other()] {
            client.totals.take(host, half_busy(0..=0).as_bytes()).unwrap();
            client.totals.enter_lag(host, 5, 1.0);
        }
        client.totals.take(host(), half_busy(1..=300).as_bytes()).unwrap();
        enter_on(&mut client, None, -1);
        for host in [host(), other()] {
            client.totals.take(host, half_busy(-3600..=-3300).as_bytes()).unwrap();
        }
        let before = client.told('G', "cpu").unwrap().sum;
        enter_on(&mut client, Some(there), 9);
        client.totals.take(there, half_busy(-3299..=-3240).as_bytes()).unwrap();
        assert_eq!(client.told('G', "cpu").unwrap().sum - before, 30_000_000_000, "{is_there}");
    }
}

/// An answer with G's rows: for each its end, and how much of a CPU it took.
fn shares(rows: &[(i64, &str)]) -> String {
    let mut rows = rows.to_vec();
    rows.reverse();
    let row = |(t, share): &(i64, &str)| format!("<row><t>{}</t><v>{share}</v></row>", at(5 * t));
    let told: String = rows.iter().map(row).collect();
    let head = half_busy(0..=0);
    let (before, after) = (head.find("<data>").unwrap() + 6, head.find("</data>").unwrap());
    let end = |t| {
        head[..before]
            .replace(&format!("<end>{}</end>", at(0)), &format!("<end>{}</end>", at(5 * t)))
    };
    end(rows[0].0) + &told + &head[after..]
}

#[test]
fn rows_of_before_a_start_that_are_told_as_those_of_now_are_not_taken() {
    let sum = |client: &Client| client.told('G', "cpu").unwrap().sum / 1_000_000_000;
    for is_of_now in [false, true] {
        let mut client = beside_one_ahead(0);
        client.totals.take(host(), shares(&[(1, "0.2"), (2, "0.4")]).as_bytes()).unwrap();
        enter_on(&mut client, None, -1);
        client.totals.take(host(), shares(&[(3, "NaN"), (4, "NaN")]).as_bytes()).unwrap();
        enter_on(&mut client, Some(host()), 8);
        assert_eq!(client.totals.start(&host(), 0), at(20), "with the last row that was taken");
        if is_of_now {
            // It was read before it was given its RRD of before.
            client.totals.take(host(), shares(&[(4, "NaN"), (5, "0.6")]).as_bytes()).unwrap();
            assert_eq!(sum(&client), 6);
        }
        let taken = sum(&client);
        let before = [(4, "0.2"), (5, "0.2"), (6, "0.4")];
        client.totals.take(host(), shares(&before).as_bytes()).unwrap();
        assert_eq!(sum(&client), taken);
        let rows = [(4, "NaN"), (5, "NaN"), (6, "NaN"), (7, "0.8")];
        client.totals.take(host(), shares(&rows).as_bytes()).unwrap();
        assert_eq!(sum(&client), taken + 4);
        // Between two inventories, it may have stood still, or was rebooted.
        let mut client = beside_one_ahead(0);
        client.totals.take(host(), shares(&[(1, "0.2"), (2, "0.4")]).as_bytes()).unwrap();
        enter_on(&mut client, Some(host()), 8);
        let rows = if is_of_now { [(2, "0.4"), (3, "0.6")] } else { [(2, "0.2"), (3, "0.4")] };
        client.totals.take(host(), shares(&rows).as_bytes()).unwrap();
        assert_eq!(sum(&client), if is_of_now { 3 + 3 } else { 3 });
        // It goes on, and is not held up for good by what was filled in.
        let mut client = beside_one_ahead(0);
        client.totals.take(host(), shares(&[(1, "0.2")]).as_bytes()).unwrap();
        enter_on(&mut client, None, -1);
        enter_on(&mut client, Some(host()), 8);
        client.totals.take(host(), shares(&[(1, "0.2"), (2, "0.2")]).as_bytes()).unwrap();
        assert_eq!(sum(&client), 1);
        let rows: Vec<_> = (1..20).map(|t| (t, "0.2")).collect();
        client.totals.take(host(), shares(&rows).as_bytes()).unwrap();
        assert_eq!(sum(&client), 1 + 18);
    }
}

#[test]
fn rows_that_came_with_a_vm_and_are_told_late_are_not_taken() {
    let sum = |client: &Client| client.told('G', "cpu").unwrap().sum / 1_000_000_000;
    let mut client = beside_one_ahead(0);
    client.totals.take(host(), shares(&[(1, "0.2"), (2, "0.4")]).as_bytes()).unwrap();
    enter_on(&mut client, Some(other()), 8);
    let late = [(2, "0.2"), (3, "0.4"), (4, "1.0")];
    client.totals.take(other(), shares(&late).as_bytes()).unwrap();
    assert_eq!(sum(&client), 3);
    let rows = [(2, "0.40001"), (3, "1.0"), (4, "0.6")];
    client.totals.take(other(), shares(&rows).as_bytes()).unwrap();
    assert_eq!(sum(&client), 3 + 8);
}

#[test]
fn a_vm_that_its_host_starts_anew_with_the_same_number_has_another_start() {
    let mut client = beside_one_ahead(0);
    let mut start = |state, domid, started| {
        let host = (state == State::Running).then(host);
        let known = Known { state, domid, started, host, vcpus: 1, nics: &[], disks: &[] };
        client.totals.enter(uuid('G'), &known);
        client.totals.vm(&uuid('G')).unwrap().start
    };
    let first = start(State::Running, 7, Some(100));
    assert_eq!(start(State::Running, 7, Some(100)), first);
    assert_eq!(start(State::Running, 7, None), first, "it is not told");
    // Its host was, and it with that one.
    let second = start(State::Running, 7, Some(300));
    assert_eq!((second, start(State::Running, 7, Some(300))), (first + 1, second));
    // Another domain, whose time is told a moment later.
    let third = start(State::Running, 8, Some(300));
    assert_eq!((third, start(State::Running, 8, Some(500))), (second + 1, third));
    assert_eq!(start(State::Running, 8, Some(500)), third);
    let off = start(State::Gone, -1, None);
    let fourth = start(State::Running, 9, Some(500));
    assert_eq!(start(State::Running, 9, Some(700)), fourth);
    assert!(off <= fourth && third < fourth);
}

#[test]
fn a_vm_that_is_gone_and_comes_back_has_another_start() {
    let mut client = beside_one_ahead(0);
    let begun = |client: &Client| client.totals.vm(&uuid('G')).unwrap().start;
    let before = begun(&client);
    enter_on(&mut client, Some(host()), 8);
    let next = begun(&client);
    assert_ne!(next, before);
    client.totals.forget_all_but(|vm| *vm != uuid('G'));
    enter_on(&mut client, Some(host()), 8);
    // Its sums begin at 0 as well, which its next domain's do not.
    assert_ne!(begun(&client) / STARTS, next / STARTS);
    assert_eq!(before / STARTS, next / STARTS);
}

#[test]
fn exact_counters_of_the_domain_before_are_not_taken() {
    let truth = truth();
    let set = "xapi-1.249_8.2_drift";
    let mut client = Client::new(set);
    client.poll(at(-38), &answer(&format!("{set}/every60_06")));
    let enter = |client: &mut Client, t: f64| {
        let rrd = vm_rrd(set, truth, 'E', t);
        client.totals.enter_exact(&uuid('E'), host(), &VmRrd::read(&rrd).unwrap())
    };
    assert!(enter(&mut client, at(190) as f64));
    assert!(client.told('E', "cpu").unwrap().since_start.is_some());
    // The inventory tells of the reboot before the host has read anything of the new domain.
    client.enter(at(E_REBOOTS));
    assert!(!enter(&mut client, at(199) as f64));
    assert_eq!(client.told('E', "cpu").unwrap().since_start, None);
    client.poll(at(202), &answer(&format!("{set}/every60_10")));
    assert!(!enter(&mut client, at(199) as f64));
    let later = client.last as f64 + 20.0;
    assert!(enter(&mut client, later));
}

#[test]
fn a_vm_that_was_paused_all_the_time_adds_nothing() {
    for set in ["xapi-1.249_8.2_drift", "xapi-24.19_drift"] {
        let recorded = answer(&format!("{set}/last600_5s"));
        let recorded = Recorded::read(&recorded);
        let mut client = Client::new(set);
        for t in (at(F_PAUSES + 30)..at(F_RESUMES)).step_by(10) {
            let start = client.totals.start(&host(), 0);
            client.poll(t, &recorded.answer(set, t, start));
        }
        let cpu = client.told('F', "cpu").unwrap();
        assert_eq!((cpu.sum, cpu.covered), (0, Duration::from_secs(80)), "{set}");
    }
}

#[test]
fn columns_in_any_order_are_the_same() {
    let set = "xapi-24.19_drift";
    let mixed = |answer: Vec<u8>| {
        let mut recorded = Recorded::read(&answer);
        let columns = recorded.head.columns.len();
        // 7 and the number of columns have no common factor.
        let order: Vec<_> = (0..columns).map(|column| column * 7 % columns).collect();
        assert!(columns % 7 != 0);
        recorded.head.columns =
            order.iter().map(|column| recorded.head.columns[*column].clone()).collect();
        for values in recorded.rows.values_mut() {
            *values = order.iter().map(|column| values[*column]).collect();
        }
        recorded.answer(set, T_END, 0)
    };
    let told = |is_mixed: bool| {
        let mut client = Client::new(set);
        for poll in ["every60_08", "every60_09"] {
            let answer = answer(&format!("{set}/{poll}"));
            let taken = client.poll(T_END, &if is_mixed { mixed(answer) } else { answer });
            assert_eq!(taken.rows, 13);
        }
        VMS.map(|vm| client.totals.vm(&uuid(vm)).unwrap())
    };
    assert!(told(false)[0].cpu.sum > 0);
    assert_eq!(told(true).map(|vm| format!("{vm:?}")), told(false).map(|vm| format!("{vm:?}")));
}

#[test]
fn states_of_the_domain_are_added_up_where_they_are_recorded() {
    let mut client = Client::new("xapi-24.19_drift");
    for poll in ["every60_08", "every60_09"] {
        let answer = String::from_utf8(answer(&format!("xapi-24.19_drift/{poll}"))).unwrap();
        let answer = answer.replace(":vbd_xvda_iowait<", ":runstate_full_contention<");
        client.poll(T_END, answer.as_bytes());
    }
    let [(state, told)] = client.totals.vm(&uuid('A')).unwrap().run_states[..] else { panic!() };
    assert_eq!((state, told.covered), (1, Duration::from_secs(60)));
    assert!(told.sum > 0);
}

/// An answer with two rows of such vCPUs of one VM.
fn two_rows(vm: char, end: i64, shares: [&str; 2]) -> String {
    let legend = format!("<entry>AVERAGE:vm:{}:cpu0</entry>", uuid(vm));
    let row = |t: i64, share: &str| format!("<row><t>{t}</t><v>{share}</v></row>");
    let [newer, older] = shares;
    format!(
        "<xport><meta><start>0</start><step>5</step><end>{end}</end><legend>{legend}</legend></meta>\
         <data>{}{}</data></xport>",
        row(end, newer),
        row(end - 5, older)
    )
}

#[test]
fn a_vcpu_has_no_more_than_one_cpu_and_what_is_no_share_is_not_covered() {
    for (shares, seconds, covered) in [
        (["1.04", "1.0"], 10, 10),
        (["0.5", "37.5"], 7, 10),
        (["NaN", "0.8"], 4, 5),
        (["-0.5", "0.8"], 4, 5),
        (["0.8", "Infinity"], 4, 5),
        (["NaN", "NaN"], 0, 0),
    ] {
        let mut client = Client::new("xapi-26.17_steady");
        client.poll(T_END, two_rows('G', 1000, ["0.1", "0.1"]).as_bytes());
        client.poll(T_END, two_rows('G', 1010, shares).as_bytes());
        let told = client.told('G', "cpu0").unwrap();
        let seconds = (told.sum + 500_000_000) / 1_000_000_000 - seconds;
        assert!((0..=1).contains(&seconds), "{shares:?} {told:?}");
        assert_eq!(told.covered, Duration::from_secs(covered), "{shares:?}");
    }
}

#[test]
fn memory_that_no_machine_has_is_not_known() {
    for (bytes, is_known) in
        [("8589934592.0", true), ("1e308", false), ("inf", false), ("-1.0", false)]
    {
        let mut client = Client::new("xapi-26.17_steady");
        let answer = two_rows('G', at(0), [bytes, bytes]).replace("cpu0", "memory_target");
        client.poll(at(0), answer.as_bytes());
        let told = client.totals.vm(&uuid('G')).unwrap().memory_target;
        assert_eq!(told.is_some(), is_known, "{bytes}: {told:?}");
    }
}

#[test]
fn a_counter_that_is_told_twice_is_counted_once() {
    for (lies, again) in [(false, "cpu0"), (false, "cpu00"), (true, "cpu0")] {
        let mut client = Client::new("xapi-26.17_steady");
        let legend = |name| format!("<entry>AVERAGE:vm:{}:{name}</entry>", uuid('G'));
        for seconds in (0..=100).step_by(10) {
            let twice = two_rows('G', at(seconds), ["0.5", "0.5"])
                .replace(&legend("cpu0"), &(legend("cpu0") + &legend(again)))
                .replace("</v>", "</v><v>0.5</v>");
            client.poll(at(seconds), twice.as_bytes());
            if lies {
                client.totals.rows_lie(host());
                let source = |last: i64| {
                    format!(
                        "<ds><name>{again}</name><type>DERIVE</type><last_ds>{last}.5</last_ds></ds>"
                    )
                };
                let t = at(seconds + 3);
                let both = source(100 + seconds / 2) + &source(50);
                let rrd = format!("<rrd><step>5</step><lastupdate>{t}</lastupdate>{both}<rra>");
                let rrd = VmRrd::read(rrd.as_bytes()).unwrap();
                assert!(client.totals.enter_exact(&uuid('G'), host(), &rrd));
            }
        }
        let told = client.told('G', "cpu0").unwrap();
        assert_eq!((told.sum, told.covered.as_secs()), (50_000_000_000, 100), "{lies} {again}");
    }
}

#[test]
fn another_host_has_domains_of_its_own() {
    let other = other();
    let mut totals = Totals::default();
    let known = |host| Known {
        state: State::Running,
        domid: 5,
        started: None,
        host: Some(host),
        vcpus: 1,
        nics: &[],
        disks: &[],
    };
    totals.enter(uuid('G'), &known(host()));
    for end in [1000, 1010] {
        totals.take(host(), two_rows('G', end, ["0.2", "0.2"]).as_bytes()).unwrap();
        totals.take(other, two_rows('G', end, ["0.2", "0.2"]).as_bytes()).unwrap();
    }
    let before = totals.vm(&uuid('G')).unwrap();
    totals.enter(uuid('G'), &known(other));
    totals.take(other, two_rows('G', 1020, ["0.2", "0.2"]).as_bytes()).unwrap();
    totals.take(host(), two_rows('G', 1020, ["0.9", "0.9"]).as_bytes()).unwrap();
    let after = totals.vm(&uuid('G')).unwrap();
    assert_ne!(after.start, before.start);
    assert_eq!(before.cpu.sum, 2_000_000_000);
    assert_eq!(after.cpu.sum, 4_000_000_000);
    assert_eq!(after.cpu.covered, Duration::from_secs(20));
    // A host whose time is another is begun anew with.
    totals.take(host(), two_rows('G', 900_000, ["0.9", "0.9"]).as_bytes()).unwrap();
    totals.enter(uuid('G'), &known(host()));
    totals.take(host(), two_rows('G', 900_010, ["0.9", "0.9"]).as_bytes()).unwrap();
    assert_eq!(totals.vm(&uuid('G')).unwrap().cpu.sum, after.cpu.sum);
    totals.take(host(), two_rows('G', 900_020, ["0.1", "0.1"]).as_bytes()).unwrap();
    assert_eq!(totals.vm(&uuid('G')).unwrap().cpu.sum, after.cpu.sum + 1_000_000_000);
}

#[test]
fn a_vm_that_leaves_a_host_which_does_not_answer_loses_nothing() {
    let other = other();
    // Lags of the two hosts, and the seconds that are told after the move: of a host with another
    // clock, what it tells now and no more.
    for (lags, seconds) in [([3.0, 5.0], 70), ([3.0, 65.0], 10)] {
        let mut totals = Totals::default();
        let (state, nics, disks) = (State::Running, &[], &[]);
        let known = |host| Known {
            state,
            domid: 5,
            started: None,
            host: Some(host),
            vcpus: 1,
            nics,
            disks,
        };
        totals.enter(uuid('G'), &known(host()));
        for end in [1000, 1010] {
            totals.take(host(), two_rows('G', end, ["0.2", "0.2"]).as_bytes()).unwrap();
        }
        totals.take(other, two_rows('A', 1070, ["0.2", "0.2"]).as_bytes()).unwrap();
        totals.enter_lag(host(), 5, lags[0]);
        totals.enter_lag(other, 5, lags[1]);
        // A row of a minute is no later one.
        totals.enter_lag(host(), 60, lags[0] + 55.0);
        totals.enter(uuid('G'), &known(other));
        let older = |t: i64| format!("<row><t>{t}</t><v>0.2</v></row>");
        let older: String = (1..=14).map(|row| older(1075 - 5 * row)).collect();
        let rows = two_rows('G', 1080, ["0.2", "0.2"]).replace("</data>", &(older + "</data>"));
        totals.take(other, rows.as_bytes()).unwrap();
        let told = totals.vm(&uuid('G')).unwrap().cpu;
        assert_eq!(told.covered.as_secs(), 10 + seconds, "{lags:?}");
        assert_eq!(told.sum, i128::from(2 + seconds / 5) * 1_000_000_000, "{lags:?}");
    }
}

#[test]
fn counters_since_the_start_are_read_again_after_a_gap_in_the_rows() {
    for set in TRUE_SETS {
        let mut client = Client::new(set);
        let read = |client: &mut Client, seconds: i64, bytes: i64| {
            let rrd = format!(
                "<rrd><step>5</step><lastupdate>{}</lastupdate><ds><name>vif_0_rx</name>\
                 <type>DERIVE</type><last_ds>{bytes}</last_ds></ds><rra>",
                at(seconds)
            );
            let rrd = VmRrd::read(rrd.as_bytes()).unwrap();
            assert!(client.totals.enter_exact(&uuid('G'), host(), &rrd));
        };
        let poll = |client: &mut Client, seconds: i64| {
            let answer =
                two_rows('G', at(seconds), ["1000.0", "1000.0"]).replace("cpu0", "vif_0_rx");
            client.poll(at(seconds), answer.as_bytes());
        };
        poll(&mut client, 0);
        // It has vCPUs and disks that the host does not tell of.
        while client.totals.lacks_exact(&uuid('G')) {
            read(&mut client, 3, 50_000);
        }
        poll(&mut client, 10);
        assert!(!client.totals.lacks_exact(&uuid('G')), "{set}: nothing is missing");
        poll(&mut client, 10_000);
        assert!(client.totals.lacks_exact(&uuid('G')), "{set}");
        read(&mut client, 10_003, 8_000_000);
        poll(&mut client, 10_010);
        let told = client.told('G', "vif_0_rx").unwrap();
        assert_eq!(told.since_start, Some(8_006_500), "{set}: read in the middle of a second");
        assert_eq!(told.covered, Duration::from_secs(10_010), "{set}");
    }
}

fn op() -> impl Strategy<Value = (u8, usize, i64, char)> {
    (0_u8..8, 0_usize..11, 0_i64..400, prop::sample::select(VMS.to_vec()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_happens_nothing_falls(
        set in prop::sample::select(SETS.to_vec()), ops in prop::collection::vec(op(), 1..25),
    ) {
        let truth = truth();
        let mut client = Client::new(set);
        client.enter(T_END);
        for (what, poll, t, vm) in ops {
            let Inventory { vcpus, nics, disks, .. } = inventory(vm, at(t));
            let state = [State::Running, State::Paused, State::Gone][poll % 3];
            let host_of = |place: usize| if place % 2 == 0 { host() } else { other() };
            let known = Known {
                started: None,
                state, domid: t % 3, host: Some(host_of(poll)), vcpus, nics: &nics, disks: &disks,
            };
            let host = host_of(usize::from(what));
            match what {
                0 => client.totals.enter(uuid(vm), &known),
                1 => client.enter(at(t)),
                2 => {
                    let rrd = vm_rrd(set, truth, vm, at(t) as f64);
                    let rrd = VmRrd::read(&rrd).unwrap();
                    client.totals.enter_exact(&uuid(vm), host_of(poll), &rrd);
                }
                3 if t < 20 => client.totals.rows_lie(host),
                _ => {
                    let answer = answer(&format!("{set}/every60_{poll:02}"));
                    let answer = if host == other() { as_other(&answer) } else { answer };
                    client.totals.take(host, &answer).unwrap();
                }
            }
            for vm in VMS {
                let Some(totals) = client.totals.vm(&uuid(vm)) else { continue };
                let key = (uuid(vm), "cpu".to_owned());
                let now = (totals.cpu.sum, totals.cpu.covered);
                let before = client.before.insert(key, now).unwrap_or_default();
                prop_assert!(now.0 >= before.0 && now.1 >= before.1);
                // Of devices, time alone: others may have their names.
                let nics = totals.nics.iter().map(|(nic, told)| (nic.to_string(), &told[..]));
                let disks = totals.disks.iter().map(|(disk, told)| (disk.to_string(), told.as_flattened()));
                for (device, told) in nics.chain(disks) {
                    for (place, told) in told.iter().enumerate() {
                        let key = (uuid(vm), format!("{device} {place}"));
                        let now = (0, told.covered);
                        let before = client.before.insert(key, now).unwrap_or_default();
                        prop_assert!(now.1 >= before.1, "{device}: {:?} after {:?}", now.1, before.1);
                    }
                }
            }
            let _ = client.totals.start(&host, 0);
            let _ = client.totals.due(&host);
        }
    }
}

#[test]
fn a_vm_takes_little_memory() {
    let truth = truth();
    let client = follow(SETS[2], truth, [T_END - 60, T_END - 30, T_END], true);
    for vm in VMS {
        let bytes = client.totals.vms.get(&uuid(vm)).map(|vm| vm.bytes()).unwrap();
        // A has 70 data sources.
        assert!(bytes < if vm == 'A' { 2_500 } else { 1_000 }, "{vm} {bytes}");
    }
}
