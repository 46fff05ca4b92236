//! Rates and usage through the whole engine, over a hypervisor that says when each reading was begun.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::*;
use crate::hypervisor::{Connection, Moment, Notes, Outcome, Parts, Reach, Reading};
use crate::records::{
    DiskCounters, Interface, InterfaceCounters, Memory, VcpuTimes, VmCounters, VmUsage,
};
use crate::rollback::{Rollback, committed};

const NOT_ASKED_FOR: &str = "nobody asks for this here";
const SECOND: Duration = Duration::from_secs(1);
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(60),
    // Each question has a reading of its own.
    max_age: Some(Duration::ZERO),
    workers: 1,
    read_ahead: 0,
    // For housekeeping.
    max_stuck: 1,
};

/// When it was begun, at which start of the instance, and what it says.
type Readings = VecDeque<(Instant, Option<u32>, Result<VmCounters>)>;

/// What each reading says, one after the other, whichever method it is for.
#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Readings>>);

impl Scripted {
    fn next(&self) -> (Notes, Result<VmCounters>) {
        let (begun, start, answer) = lock(&self.0).pop_front().unwrap();
        let moment = Some(Moment { earliest: begun, latest: begun });
        (Notes { moment, start, ..Notes::default() }, answer)
    }
}

impl Hypervisor for Scripted {
    type Connection = Self;

    fn uri(&self) -> &'static str {
        "scripted:///"
    }

    fn connect(&self) -> Result<Self> {
        Ok(self.clone())
    }

    fn calls(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    fn answered(&self) -> Option<Instant> {
        None
    }
}

impl Connection for Scripted {
    fn is_alive(&self) -> bool {
        true
    }

    fn instances(&mut self) -> Result<Vec<Instance>> {
        let running = |id| Instance { id: Uuid::from_u128(id), name: format!("vm{id}"), state: 1 };
        let stopped = Instance { state: SHUT_OFF, ..running(9) };
        Ok(vec![running(1), stopped, running(2)])
    }

    fn read(&mut self, _: &InstanceId, parts: Parts, _: Reach) -> Result<Reading> {
        let (notes, answer) = self.next();
        let said = answer?;
        let part = |part: Parts| {
            let content = match part {
                Parts::NICS => Content::Nics(said.interfaces.clone()),
                Parts::DISKS => Content::Disks(said.disks.clone().unwrap_or_default()),
                Parts::COUNTERS => Content::Counters(Box::new(said.clone())),
                _ => unimplemented!("{NOT_ASKED_FOR}"),
            };
            (part, Outcome { answer: Ok(content), notes: notes.clone() })
        };
        Ok(Reading { parts: parts.each().map(part).collect(), busy: None })
    }

    fn host_cpus(&mut self, _: &mut Notes) -> Result<Option<u32>> {
        Ok(Some(8))
    }

    fn is_free(&mut self, _: &InstanceId) -> Result<Option<bool>> {
        Ok(Some(true))
    }
}

/// An inspector, what it will read, and the time from which seconds count.
struct Host {
    inspector: Inspector,
    script: Scripted,
    start: Instant,
}

impl Host {
    fn new() -> Self {
        let script = Scripted::default();
        let inspector = Inspector::with_limits(script.clone(), LIMITS);
        Self { inspector, script, start: Instant::now() }
    }

    fn will_say(&self, seconds: u32, answer: Result<VmCounters>) {
        lock(&self.script.0).push_back((self.start + seconds * SECOND, None, answer));
    }

    fn will_say_of(&self, start: u32, seconds: u32, counters: VmCounters) {
        let at = self.start + seconds * SECOND;
        lock(&self.script.0).push_back((at, Some(start), Ok(counters)));
    }

    fn usage(&self, caller: &str, seconds: u32, counters: VmCounters) -> VmUsage {
        self.will_say(seconds, Ok(counters));
        self.inspector.usage(&vm(), caller).unwrap()
    }
}

#[test]
fn a_caller_is_remembered_by_when_it_asks() {
    // As of a vCenter that was away for a day: the time of its readings is that which they cover.
    let mut host = Host::new();
    host.start = host.start.checked_sub(30 * 3600 * SECOND).unwrap();
    host.usage("", 0, counters(0, 0));
    host.inspector.instances().unwrap();
    assert_eq!(host.usage("", 10, counters(5, 5)).interval, Some(10 * SECOND));
}

fn vm() -> InstanceId {
    Uuid::from_u128(1).into()
}

fn nic(name: &str, rx_bytes: i64, tx_bytes: i64) -> Interface {
    let counters = InterfaceCounters { rx_bytes, tx_bytes, ..InterfaceCounters::default() };
    Interface {
        name: name.to_owned(),
        mac: Some("52:54:00:00:00:01".to_owned()),
        fref: None,
        parameters: [("bridge".to_owned(), Some("br0".to_owned()))].into(),
        counters: Some(counters),
        measured: None,
        outlives: false,
        known_by: None,
    }
}

fn disk(device: &str, [read_bytes, read_requests, write_bytes, write_requests]: [i64; 4]) -> Disk {
    let counters = DiskCounters {
        read_bytes,
        read_requests,
        write_bytes,
        write_requests,
        errors: -1,
        ..DiskCounters::default()
    };
    Disk {
        device: device.to_owned(),
        counters: Some(counters),
        measured: None,
        requests_measured: None,
    }
}

fn counters(vcpu_seconds: i128, cpu_seconds: i128) -> VmCounters {
    VmCounters {
        cpu_number: Some(2),
        vcpu_time: Some(vcpu_seconds * 1_000_000_000),
        cpu_time: Some(cpu_seconds * 1_000_000_000),
        memory: Memory {
            total: Some(4),
            used: Some(1),
            free: Some(2),
            target: Some(3),
            updated: None,
        },
        ..VmCounters::default()
    }
}

fn lost() -> Error {
    let failure = crate::Failure::of_libvirt(38, 7, "gone".to_owned());
    Error::ConnectionLost { uri: String::new(), instance: None, failure }
}

#[test]
fn a_reading_that_was_overtaken_tells_no_cpu_time_of_the_younger_one() {
    // One of two vCPUs runs, waits and is delayed all the time.
    let reading = |seconds: i128, whole: bool| {
        let time = Some(seconds * 1_000_000_000);
        let vcpus = Some(vec![(0, VcpuTimes { time, wait: time, delay: time })]);
        let cpu_time = time.filter(|_| whole);
        VmCounters { vcpus, cpu_time, ..counters(seconds, seconds) }
    };
    for (whole, told) in [(true, Some(50.0)), (false, None)] {
        let host = Host::new();
        let shares = |caller, seconds: u32| {
            let usage = host.usage(caller, seconds, reading(seconds.into(), whole));
            [usage.cpu_utilization, usage.cpu_wait, usage.cpu_steal]
        };
        assert_eq!(shares("slow", 1), [None; 3]);
        assert_eq!(shares("quick", 20), [None; 3]);
        assert_eq!(shares("slow", 10), [told, None, None]);
        assert_eq!(shares("slow", 30), [Some(50.0); 3]);
        assert_eq!(shares("quick", 40), [Some(50.0); 3]);
    }
}

#[test]
fn what_is_used_while_a_guest_hangs_is_told_after_that() {
    let host = Host::new();
    let disks = |bytes| Some(vec![disk("vda", [bytes, bytes, bytes, bytes])]);
    let reading = |seconds, bytes| VmCounters { disks: disks(bytes), ..counters(seconds, seconds) };
    let hung = || VmCounters {
        vcpu_time: None,
        cpu_time: None,
        disks: None,
        memory: Memory::default(),
        interfaces: vec![nic("tap0", 0, 0)],
        ..counters(0, 0)
    };
    host.usage("", 0, reading(10, 0));
    assert_eq!(host.usage("", 10, reading(11, 1024)).disk_read_kib, Some(1.0));
    for seconds in [100, 200] {
        let usage = host.usage("", seconds, hung());
        assert_eq!((usage.disk_read_kib, usage.disk_interval), (None, None));
        assert_eq!((usage.cpu_utilization, usage.host_cpu_utilization), (None, None));
        assert_eq!(usage.disk_per_second(1.0), None);
        assert!(usage.interval.is_some_and(|interval| interval >= 90 * SECOND));
    }
    let usage = host.usage("", 210, reading(51, 1024 * 2001));
    assert_eq!((usage.interval, usage.disk_interval), (Some(10 * SECOND), Some(200 * SECOND)));
    assert_eq!(usage.disk_read_kib, Some(2000.0));
    assert_eq!(usage.disk_per_second(2000.0), Some(10.0));
    assert_eq!(usage.cpu_utilization, Some(10.0), "40 of 400 seconds");
    let usage = host.usage("", 211, reading(51, 1024 * 2001));
    assert_eq!((usage.disk_read_kib, usage.disk_interval), (Some(0.0), usage.interval));
}

#[test]
fn what_a_refused_device_did_is_told_with_its_next_counters() {
    let host = Host::new();
    let refused = |mut nic: Interface| {
        nic.counters = None;
        nic
    };
    let (mut at, mut told) = (0, Vec::new());
    for (bytes, is_refused) in
        [(0, false), (1000, false), (2000, false), (3000, true), (4000, true), (5000, false)]
    {
        let tap0 = nic("tap0", 1024 * bytes, 0);
        let tap0 = if is_refused { refused(tap0) } else { tap0 };
        let reading = VmCounters { interfaces: vec![tap0, nic("tap1", 7, 7)], ..counters(0, 0) };
        let usage = host.usage("", at, reading);
        assert_eq!(usage.network_interval.is_some(), usage.network_read_kib.is_some());
        told.push((
            usage.network_read_kib,
            usage.network_read_kib.and_then(|kib| usage.network_per_second(kib)),
        ));
        at += 1;
    }
    let steady = (Some(1000.0), Some(1000.0));
    let all =
        [(None, None), steady, steady, (None, None), (None, None), (Some(3000.0), Some(1000.0))];
    assert_eq!(told, all);
}

#[test]
fn a_refused_disk_is_left_out_and_has_rates_over_its_own_time() {
    let host = Host::new();
    let rates = |seconds, bytes, refused| {
        let mut disks = vec![disk("vda", [bytes, 0, 0, 0]), disk("vdb", [10 * bytes, 0, 0, 0])];
        if refused {
            disks[0].counters = None;
        }
        for _ in 0..2 {
            host.will_say(seconds, Ok(VmCounters { disks: Some(disks.clone()), ..counters(0, 0) }));
        }
        let read = host.inspector.disks(&vm()).unwrap();
        assert_eq!(read.len(), if refused { 1 } else { 2 });
        let rates = host.inspector.disk_rates(&vm(), "").unwrap().into_iter();
        rates.map(|rates| (rates.device, rates.read_bytes_rate)).collect::<Vec<_>>()
    };
    let told = |device: &str, rate| (device.to_owned(), rate);
    assert_eq!(rates(0, 0, false), []);
    assert_eq!(rates(1, 10, true), [told("vdb", 100.0)]);
    assert_eq!(rates(2, 20, true), [told("vdb", 100.0)]);
    assert_eq!(rates(4, 80, false), [told("vda", 20.0), told("vdb", 300.0)]);
}

#[test]
fn usage_that_can_be_reckoned_by_hand() {
    let host = Host::new();
    let with = |now: VmCounters, bytes: i64, more: Option<Interface>| VmCounters {
        interfaces: [nic("tap0", bytes, 2 * bytes)].into_iter().chain(more).collect(),
        disks: Some(vec![disk("vda", [bytes, 3, 4 * bytes, 5]), disk("vdb", [bytes, bytes, 0, 0])]),
        ..now
    };
    let first = host.usage("", 0, with(counters(100, 110), 1000, None));
    assert_eq!((first.interval, first.cpu_utilization, first.network_read_kib), (None, None, None));
    assert_eq!((first.disk_read_requests, first.disk_read_kib), (None, None));
    assert_eq!((first.cpu_number, first.memory.target), (Some(2), Some(3)));

    // A NIC that is plugged in meanwhile counts from the next reading on.
    let usage = host.usage("", 10, with(counters(105, 118), 3048, Some(nic("tap1", 1 << 40, 0))));
    assert_eq!(usage.interval, Some(10 * SECOND));
    assert_eq!(usage.cpu_utilization, Some(25.0), "5 of 20 seconds");
    assert_eq!(usage.host_cpu_utilization, Some(10.0), "8 of 80 seconds");
    assert_eq!((usage.network_read_kib, usage.network_write_kib), (Some(2.0), Some(4.0)));
    assert_eq!((usage.disk_read_requests, usage.disk_write_requests), (Some(2048), Some(0)));
    assert_eq!((usage.disk_read_kib, usage.disk_write_kib), (Some(4.0), Some(8.0)));
    assert_eq!((usage.network_interval, usage.disk_interval), (usage.interval, usage.interval));
    assert_eq!(usage.network_per_second(2048.0), Some(204.8));
    assert_eq!(usage.disk_per_second(2048.0), Some(204.8));
    assert_eq!((first.network_per_second(2048.0), first.disk_per_second(2048.0)), (None, None));
}

#[test]
fn no_more_than_all_of_the_cpus_is_ever_used() {
    let host = Host::new();
    host.usage("", 0, counters(100, 100));
    let usage = host.usage("", 1, counters(500, 500));
    assert_eq!((usage.cpu_utilization, usage.host_cpu_utilization), (Some(100.0), Some(100.0)));
    let migrated = host.usage("", 2, counters(1, 1));
    assert_eq!((migrated.cpu_utilization, migrated.host_cpu_utilization), (None, None));
    assert_eq!(migrated.interval, Some(SECOND));
    assert_eq!(host.usage("", 3, counters(2, 1)).cpu_utilization, Some(50.0));
}

#[test]
fn what_the_hypervisor_does_not_tell_is_none() {
    let host = Host::new();
    let told = || VmCounters { cpu_time: None, vcpu_time: None, ..counters(0, 0) };
    host.usage("", 0, told());
    let usage = host.usage("", 1, told());
    assert_eq!((usage.cpu_utilization, usage.host_cpu_utilization), (None, None));
    assert_eq!(usage.interval, Some(SECOND));
}

#[test]
fn where_the_vcpus_do_not_tell_the_whole_domain_does() {
    let host = Host::new();
    host.usage("", 0, counters(100, 1000));
    let untold = VmCounters { vcpu_time: None, ..counters(0, 1001) };
    assert_eq!(host.usage("", 1, untold).cpu_utilization, Some(50.0));
    assert_eq!(host.usage("", 2, counters(200, 1001)).cpu_utilization, Some(0.0));
    assert_eq!(host.usage("", 3, counters(201, 1003)).cpu_utilization, Some(50.0));
}

#[test]
fn two_callers_have_intervals_of_their_own() {
    let host = Host::new();
    host.usage("billing", 0, counters(0, 0));
    for second in 1..10 {
        host.usage("screen", second, counters(second.into(), 0));
    }
    let usage = host.usage("billing", 10, counters(10, 0));
    assert_eq!((usage.interval, usage.cpu_utilization), (Some(10 * SECOND), Some(50.0)));
    let usage = host.usage("screen", 10, counters(10, 0));
    assert_eq!(usage.interval, Some(SECOND));
}

#[test]
fn rates_have_intervals_apart_from_usage_and_from_deltas() {
    let host = Host::new();
    let reading = |bytes: i64| VmCounters {
        interfaces: vec![nic("tap0", bytes, 0)],
        disks: Some(vec![disk("vda", [2 * bytes, 30, bytes, 40])]),
        ..counters(0, 0)
    };
    let rates = |seconds, bytes| {
        host.will_say(seconds, Ok(reading(bytes)));
        host.will_say(seconds, Ok(reading(bytes)));
        let nics = host.inspector.vnic_rates(&vm(), "").unwrap();
        (nics, host.inspector.disk_rates(&vm(), "").unwrap())
    };
    let deltas = |seconds, bytes| {
        host.will_say(seconds, Ok(reading(bytes)));
        host.inspector.vnics(&vm()).unwrap()[0].rx_bytes_delta
    };
    assert_eq!(rates(0, 100), (Vec::new(), Vec::new()));
    assert_eq!(deltas(1, 300), 0);
    host.usage("", 2, reading(500));
    let (nics, disks) = rates(4, 1100);
    assert_eq!((nics[0].rx_bytes_rate, nics[0].tx_bytes_rate), (250.0, 0.0));
    assert_eq!((nics[0].name.as_str(), nics[0].parameters.len()), ("tap0", 1));
    assert_eq!((disks[0].read_bytes_rate, disks[0].read_requests_rate), (500.0, Some(0.0)));
    assert_eq!((disks[0].write_bytes_rate, disks[0].write_requests_rate), (250.0, Some(0.0)));
    assert_eq!(deltas(5, 1200), 900);
    assert_eq!(host.usage("", 6, reading(1524)).network_read_kib, Some(1.0));
    assert_eq!(rates(8, 3), (Vec::new(), Vec::new()), "they were reset");
    let (nics, _) = rates(10, 5);
    assert_eq!((nics[0].rx_bytes_rate, nics[0].tx_bytes_rate), (1.0, 0.0));
}

#[test]
fn at_a_new_start_all_counters_begin_at_0() {
    let host = Host::new();
    let reading = |count: i64| VmCounters {
        interfaces: vec![nic("tap0", 1024 * count, 0)],
        disks: Some(vec![disk("vda", [1024 * count, count, 0, 0])]),
        vcpu_wait: Some(i128::from(count) * 1_000_000),
        ..counters(i128::from(count) / 100, i128::from(count) / 50)
    };
    let usage = |start, seconds, count| {
        host.will_say_of(start, seconds, reading(count));
        host.inspector.usage(&vm(), "").unwrap()
    };
    usage(12, 0, 150);
    let new = usage(13, 10, 400);
    assert_eq!((new.disk_read_requests, new.disk_read_kib), (Some(400), Some(400.0)));
    assert_eq!(new.network_read_kib, Some(400.0));
    assert_eq!((new.disk_interval, new.network_interval), (Some(10 * SECOND), Some(10 * SECOND)));
    assert_eq!(new.cpu_utilization, Some(20.0), "4 of 20 seconds");
    assert_eq!(new.host_cpu_utilization, Some(10.0), "8 of 80 seconds");
    assert_eq!(new.cpu_wait, Some(2.0), "0.4 of 20 seconds");
    assert_eq!(usage(13, 20, 500).disk_read_requests, Some(100));
    assert_eq!(usage(14, 30, 5).disk_read_requests, Some(5), "less than before");

    let rates = |start, seconds, count| {
        host.will_say_of(start, seconds, reading(count));
        host.will_say_of(start, seconds, reading(count));
        host.will_say_of(start, seconds, reading(count));
        let nics = host.inspector.vnic_rates(&vm(), "").unwrap();
        let disks = host.inspector.disk_rates(&vm(), "").unwrap();
        let deltas = host.inspector.vnics(&vm()).unwrap();
        (
            nics.first().map(|nic| nic.rx_bytes_rate / 1024.0),
            disks.first().and_then(|disk| disk.read_requests_rate),
            deltas[0].rx_bytes_delta / 1024,
        )
    };
    assert_eq!(rates(14, 40, 150), (None, None, 0));
    assert_eq!(rates(15, 50, 400), (Some(40.0), Some(40.0), 400));
}

#[test]
fn one_pass_over_the_host() {
    let host = Host::new();
    host.will_say(0, Ok(counters(0, 0)));
    host.will_say(0, Ok(counters(0, 0)));
    assert_eq!(host.inspector.usage_all("").unwrap().len(), 2);
    let refused =
        Error::NoData { instance: vm(), reason: crate::Reason::Xml("it is none".to_owned()) };
    host.will_say(10, Err(refused));
    host.will_say(10, Ok(counters(5, 0)));
    let [usage] = &host.inspector.usage_all("").unwrap()[..] else { panic!("not one") };
    assert_eq!(usage.instance.name.as_deref(), Some("vm2"));
    assert_eq!(usage.cpu_utilization, Some(25.0));
}

#[test]
fn a_pass_in_which_libvirt_is_away_is_an_error() {
    let host = Host::new();
    // Each is asked once more over a new connection.
    for _ in 0..4 {
        host.will_say(0, Err(lost()));
    }
    assert!(matches!(host.inspector.usage_all(""), Err(Error::ConnectionLost { .. })));
}

thread_local! {
    /// How often this caller was asked, and what it says.
    static ASKED: Cell<u32> = const { Cell::new(0) };
    static STILL_WANTED: Cell<bool> = const { Cell::new(true) };
}

fn ask_the_caller() {
    crate::cancellation::ask_while_waiting(|| {
        ASKED.set(ASKED.get() + 1);
        STILL_WANTED.get()
    });
}

#[test]
fn a_pass_that_is_interrupted_leaves_all_it_has_read_to_the_next() {
    ask_the_caller();
    let host = Host::new();
    let pass = |seconds, bytes: i64, second: Option<Error>| {
        let reading =
            VmCounters { interfaces: vec![nic("tap0", 1024 * bytes, 0)], ..counters(0, 0) };
        host.will_say(seconds, Ok(reading.clone()));
        host.will_say(seconds, second.map_or(Ok(reading), Err));
        let usages = host.inspector.usage_all("")?.into_iter();
        Ok::<_, Error>(
            usages.map(|usage| (usage.network_read_kib, usage.interval)).collect::<Vec<_>>(),
        )
    };
    assert_eq!(pass(0, 0, None), Ok(vec![(None, None); 2]));
    assert_eq!(pass(10, 1000, Some(Error::Interrupted)), Err(Error::Interrupted));
    STILL_WANTED.set(false);
    assert_eq!(pass(20, 2000, None), Err(Error::Interrupted), "after the last one was read");
    STILL_WANTED.set(true);
    assert_eq!(pass(30, 3000, None), Ok(vec![(Some(3000.0), Some(30 * SECOND)); 2]));
}

/// What a question tells in KiB, or in KiB a second, of the one instance.
type Tell = for<'a> fn(&'a Inspector) -> Result<(Option<f64>, Rollback<'a>)>;

#[allow(clippy::cast_precision_loss)]
const TELL: [Tell; 5] = [
    |inspector| {
        let (usage, rollback) = inspector.tell_usage(&vm(), "me")?;
        assert_eq!(usage.network_read_kib, usage.disk_read_kib);
        Ok((usage.network_read_kib, rollback))
    },
    |inspector| {
        let (all, rollback) = inspector.tell_usage_all("me")?;
        Ok((all[0][0].network_read_kib, rollback))
    },
    |inspector| {
        let (nics, rollback) = inspector.tell_vnics(&vm())?;
        Ok((Some(nics[0].rx_bytes_delta as f64 / 1024.0), rollback))
    },
    |inspector| {
        let (rates, rollback) = inspector.tell_vnic_rates(&vm(), "me")?;
        Ok((rates.first().map(|nic| nic.rx_bytes_rate / 1024.0), rollback))
    },
    |inspector| {
        let (rates, rollback) = inspector.tell_disk_rates(&vm(), "me")?;
        Ok((rates.first().map(|disk| disk.read_bytes_rate / 1024.0), rollback))
    },
];

#[test]
fn what_does_not_reach_its_caller_is_told_by_the_next() {
    for (number, tell) in TELL.into_iter().enumerate() {
        let host = Host::new();
        let will_say = |seconds, kib: i64| {
            let reading = VmCounters {
                interfaces: vec![nic("tap0", 1024 * kib, 0)],
                disks: Some(vec![disk("vda", [1024 * kib; 4])]),
                ..counters(0, 0)
            };
            host.will_say(seconds, Ok(reading.clone()));
            if number == 1 {
                host.will_say(seconds, Ok(reading));
            }
        };
        let told = |seconds, kib| {
            will_say(seconds, kib);
            tell(&host.inspector).unwrap()
        };
        // Deltas begin at 0, and all else with nothing.
        let none = (number == 2).then_some(0.0);
        // Not even that it was there.
        drop(told(0, 500));
        assert_eq!(committed(told(10, 1000)), none, "of {number}");
        drop(told(20, 2000));
        drop(told(30, 4000));
        let each = |kib: f64, seconds: f64| Some(if number < 3 { kib } else { kib / seconds });
        assert_eq!(committed(told(40, 4000)), each(3000.0, 30.0), "of {number}");
        // Nor where another thread has asked meanwhile: that one's is not taken back, and the next has both.
        let late = told(50, 5000);
        assert_eq!(committed(told(60, 6000)), each(1000.0, 10.0), "of {number}");
        drop(late);
        assert_eq!(committed(told(70, 8000)), each(3000.0, 20.0), "of {number}");
        assert_eq!(committed(told(80, 8500)), each(500.0, 10.0), "of {number}");
    }
}

#[test]
fn what_another_thread_was_told_after_is_told_by_the_next_also_at_first_and_after_a_start() {
    for is_started_anew in [false, true] {
        let host = Host::new();
        let told = |start, seconds, cpu, kib: i64| {
            // Another name at each start, as libvirt gives them.
            let interfaces = vec![nic(&format!("tap{start}"), 1024 * kib, 0)];
            let reading = VmCounters { interfaces, ..counters(cpu, 0) };
            host.will_say_of(start, seconds, reading);
            host.inspector.tell_usage(&vm(), "me").unwrap()
        };
        let used = |usage: VmUsage| (usage.cpu_utilization, usage.network_read_kib);
        let start = if is_started_anew { 2 } else { 1 };
        let before = if is_started_anew { (7, 7000) } else { (0, 0) };
        committed(told(1, 0, before.0, before.1));
        let late = told(start, 10, 10, 1000);
        assert_eq!(used(committed(told(start, 20, 10, 1500))), (Some(0.0), Some(500.0)));
        drop(late);
        let next = committed(told(start, 30, 10, 1500));
        assert_eq!(used(next), (Some(25.0), Some(1000.0)), "anew: {is_started_anew}");
        let next = committed(told(start, 40, 20, 1600));
        assert_eq!(used(next), (Some(50.0), Some(100.0)), "anew: {is_started_anew}");
    }
}

#[test]
fn what_is_taken_back_is_told_also_where_a_start_is_not_known() {
    // As of what is read around a guest that hangs.
    for unknown in 0..4 {
        let host = Host::new();
        let told = |number, seconds: u32, kib: i64| {
            let reading = VmCounters {
                interfaces: vec![nic("tap0", 1024 * kib, 0)],
                disks: Some(vec![disk("vda", [1024 * kib; 4])]),
                ..counters(seconds.into(), 0)
            };
            if number == unknown {
                host.will_say(seconds, Ok(reading));
            } else {
                host.will_say_of(1, seconds, reading);
            }
            host.inspector.tell_usage(&vm(), "me").unwrap()
        };
        let used =
            |usage: VmUsage| (usage.cpu_utilization, usage.network_read_kib, usage.disk_read_kib);
        committed(told(0, 0, 0));
        let late = told(1, 10, 1000);
        let all = |kib| (Some(50.0), Some(kib), Some(kib));
        assert_eq!(used(committed(told(2, 20, 1500))), all(500.0), "{unknown}");
        drop(late);
        assert_eq!(used(committed(told(3, 30, 1600))), all(1100.0), "{unknown}");
    }
}

#[test]
fn what_is_read_before_the_connection_is_lost_is_told() {
    let host = Host::new();
    for seconds in [0, 10] {
        host.will_say(seconds, Ok(counters(seconds.into(), 0)));
        // It is asked once more over a new connection.
        host.will_say(seconds, Err(lost()));
        host.will_say(seconds, Err(lost()));
        let [usage] = &host.inspector.usage_all("").unwrap()[..] else { panic!("not one") };
        assert_eq!(usage.cpu_utilization, (seconds > 0).then_some(50.0));
    }
}

#[test]
fn a_pass_asks_its_caller_now_and_then_and_not_for_each_instance() {
    ask_the_caller();
    let host = Host::new();
    for seconds in 0..20 {
        host.will_say(seconds, Ok(counters(0, 0)));
        host.will_say(seconds, Ok(counters(0, 0)));
        assert_eq!(host.inspector.usage_all("").unwrap().len(), 2);
    }
    assert!(ASKED.get() < 40, "{} times in 20 passes of 2 readings", ASKED.get());
}

#[test]
fn instances_that_are_gone_are_forgotten_whichever_method_is_asked() {
    let asks: [fn(&Inspector, &InstanceId); 3] = [
        |inspector, vm| drop(inspector.vnics(vm)),
        |inspector, vm| drop(inspector.disks(vm)),
        |inspector, vm| drop(inspector.disk_rates(vm, "")),
    ];
    for ask in asks {
        let host = Host::new();
        let until = Instant::now() + 30 * SECOND;
        // None of them is in the list, which is read in the background.
        let mut most = 0;
        for number in 100.. {
            let known = host.inspector.source.remembered();
            if known < most {
                break;
            }
            assert!(Instant::now() < until, "{known} are remembered");
            most = known;
            host.will_say(0, Ok(VmCounters { disks: Some(Vec::new()), ..VmCounters::default() }));
            ask(&host.inspector, &Uuid::from_u128(number).into());
            if most >= 64 {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
