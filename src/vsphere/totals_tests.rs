//! A VM with a life that is known, and answers about it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::vsphere::perf::Time;

const STEP: i64 = 20;
const VM: Uuid = Uuid::from_u128(1);

/// What a host would tell: by time, the values of counters.
#[derive(Debug, Clone, Default)]
struct Feed {
    samples: BTreeMap<i64, Vec<(Counter, &'static str, i64)>>,
}

impl Feed {
    fn sample(&mut self, t: i64, values: &[(Counter, &'static str, i64)]) -> &mut Self {
        self.samples.insert(t, values.to_vec());
        self
    }

    /// The newest samples up to a time.
    fn tell<R>(&self, until: i64, most: usize, take: impl FnOnce(&Answer<'_>) -> R) -> R {
        let mut newest: Vec<_> = self.samples.range(..=until).rev().take(most).collect();
        newest.reverse();
        let times: Vec<Time> = newest.iter().map(|(t, _)| Time { end: **t, seconds: 20 }).collect();
        let mut names: Vec<(Counter, &str)> = Vec::new();
        for (counter, instance, _) in newest.iter().flat_map(|(_, values)| *values) {
            if !names.contains(&(*counter, *instance)) {
                names.push((*counter, *instance));
            }
        }
        let value = |(counter, instance), values: &[(Counter, &str, i64)]| {
            let mut values =
                values.iter().filter(|value| (value.0, value.1) == (counter, instance));
            values.next().map(|value| value.2).filter(|value| *value >= 0)
        };
        let values: Vec<Vec<Option<i64>>> = names
            .iter()
            .map(|name| newest.iter().map(|(_, values)| value(*name, values)).collect())
            .collect();
        let series: Vec<Series<'_>> = names
            .iter()
            .zip(&values)
            .map(|((counter, instance), values)| Series { counter: *counter, instance, values })
            .collect();
        take(&Answer { times: &times, series: &series })
    }
}

fn known(state: State, boot: Option<i64>) -> Known<'static> {
    Known { moref: "vm-1", state, boot }
}

fn host(name: &str) -> Arc<str> {
    name.into()
}

/// As the driver does it: once more with as many as are missing.
fn poll(totals: &mut Totals, name: &str, feed: &Feed, until: i64, most: usize) -> Taken {
    poll_as_needed(totals, name, feed, until, most).0
}

/// The same, and how many samples were asked for.
fn poll_as_needed(
    totals: &mut Totals,
    name: &str,
    feed: &Feed,
    until: i64,
    most: usize,
) -> (Taken, usize) {
    let mut take =
        |most, all| feed.tell(until, most, |answer| totals.take(&VM, &host(name), answer, all));
    match take(most, false) {
        Taken::TooShort { samples } => {
            let most = usize::try_from(samples).unwrap();
            (take(most, true), most)
        }
        taken => (taken, most),
    }
}

fn sums(totals: &Totals, device: &Device) -> [Option<i128>; 6] {
    totals.vm(&VM).unwrap().told(device).unwrap().sums
}

fn since_start(totals: &Totals) -> i128 {
    totals.vm(&VM).unwrap().cpu().unwrap().since_start[0].unwrap() / 1_000_000
}

use Counter::{
    CpuIdle, CpuRun, CpuUsed, CpuWait, DiskRead, DiskReadLatency, DiskReads, DiskWrites,
    DiskWritten, MemActive, NicDroppedReceived, NicPacketsReceived, NicReceived, NicSent, Uptime,
};

#[test]
fn a_sample_is_taken_once_and_only_since_somebody_looked() {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, None), true);
    for at in 1..10 {
        feed.sample(at * STEP, &[(CpuRun, "", 100), (Uptime, "", 100_000 + at * STEP)]);
    }
    assert_eq!(poll(&mut totals, "a", &feed, 100, 3), Taken::Whole);
    let told = totals.vm(&VM).unwrap().cpu().unwrap();
    assert_eq!((told.sums[0], told.covered), (Some(0), Duration::ZERO));
    for _ in 0..3 {
        poll(&mut totals, "a", &feed, 140, 4);
    }
    let told = totals.vm(&VM).unwrap().cpu().unwrap();
    assert_eq!((told.sums[0], told.covered), (Some(200_000_000), Duration::from_secs(40)));
    assert_eq!(told.sums[1], None, "what is not told is not 0");
}

#[test]
fn what_is_missing_is_not_covered_and_may_be_filled_in_later() {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, None), true);
    let values = |sent: i64| [(NicReceived, "4000", 7), (NicSent, "4000", sent)];
    feed.sample(20, &values(1)).sample(40, &values(1));
    poll(&mut totals, "a", &feed, 40, 3);
    // The two directions come with each other.
    feed.sample(60, &values(-1)).sample(80, &values(1));
    poll(&mut totals, "a", &feed, 80, 4);
    let nic = Device::Nic(4000);
    assert_eq!(sums(&totals, &nic)[..2], [Some(7 * 1024 * 20), Some(1024 * 20)]);
    feed.sample(60, &values(3)).sample(100, &values(1));
    poll(&mut totals, "a", &feed, 100, 4);
    assert_eq!(sums(&totals, &nic)[..2], [Some(3 * 7 * 1024 * 20), Some(5 * 1024 * 20)]);
    assert_eq!(totals.vm(&VM).unwrap().told(&nic).unwrap().covered, Duration::from_secs(60));
}

#[test]
fn there_are_no_more_devices_than_a_vm_can_have() {
    let mut totals = Totals::default();
    totals.enter(VM, &known(State::Running, None), true);
    let names: Vec<String> = (0..30_000).map(|number| number.to_string()).collect();
    for end in [20, 40] {
        let (times, values) = ([Time { end, seconds: 20 }], [Some(1)]);
        let series = |name| Series { counter: NicReceived, instance: name, values: &values };
        let series: Vec<Series<'_>> = names.iter().map(|name| series(name)).collect();
        totals.take(&VM, &host("a"), &Answer { times: &times, series: &series }, true);
    }
    assert_eq!(totals.vm(&VM).unwrap().devices().count(), ALL_DEVICES);
    assert_eq!(sums(&totals, &Device::Nic(7))[0], Some(20 * 1024));
}

#[test]
fn a_few_samples_do_not_show_that_a_counter_is_not_told() {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, None), true);
    let values = |sent: i64| [(NicReceived, "4000", 1), (NicSent, "4000", sent)];
    feed.sample(20, &values(1)).sample(40, &values(1)).sample(60, &values(-1));
    poll(&mut totals, "a", &feed, 40, 3);
    let nic = Device::Nic(4000);
    poll(&mut totals, "a", &feed, 60, 1);
    assert_eq!(sums(&totals, &nic)[0], Some(0));
    feed.sample(60, &values(1));
    // As it is open, it is asked for again.
    feed.sample(80, &values(1)).sample(100, &values(1)).sample(120, &values(1));
    poll(&mut totals, "a", &feed, 120, 3);
    assert_eq!(sums(&totals, &nic)[0], Some(4 * 20 * 1024));
    // A server that does not tell it any more does not stop the other one.
    for t in (140..=200).step_by(20) {
        feed.sample(t, &[(NicReceived, "4000", 1)]);
    }
    poll(&mut totals, "a", &feed, 200, 4);
    assert_eq!(sums(&totals, &nic)[..2], [Some(8 * 20 * 1024), None]);
}

#[test]
fn a_counter_that_is_told_no_more_does_not_stop_the_others() {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, None), true);
    let both = [(NicReceived, "4000", 1), (NicSent, "4000", 1)];
    let cpu = [(CpuRun, "", 9), (CpuWait, "", 7), (CpuIdle, "", 4)];
    let device = Device::Nic(4000);
    for t in (20..=100).step_by(20) {
        feed.sample(t, &[&both[..], &cpu].concat());
        poll(&mut totals, "a", &feed, t, 3);
    }
    assert_eq!(sums(&totals, &device)[..2], [Some(4 * 20 * 1024); 2]);
    assert_eq!(sums(&totals, &Device::Cpu)[4], Some(4 * 3_000_000));
    for t in (120..=400).step_by(20) {
        feed.sample(t, &[&both[..1], &cpu[..2]].concat());
        poll(&mut totals, "a", &feed, t, 3);
        // Nobody knows what it has sent: that is not 0.
        let [received, sent, ..] = sums(&totals, &device);
        assert_eq!(received == Some(4 * 20 * 1024), sent.is_some(), "{t}");
        let [run, .., wait, _] = sums(&totals, &Device::Cpu);
        assert_eq!(run == Some(4 * 9_000_000), wait.is_some(), "{t}");
    }
    let before = sums(&totals, &device)[0].unwrap();
    assert_eq!(before, 19 * 20 * 1024);
    assert_eq!(sums(&totals, &Device::Cpu)[0], Some(19 * 9_000_000));
    assert_eq!(sums(&totals, &device)[1], None);
    // It begins anew, so that nobody takes what is told then for all since it was last told.
    feed.sample(420, &[&both[..], &cpu].concat());
    poll(&mut totals, "a", &feed, 420, 3);
    assert_eq!(sums(&totals, &device)[..2], [Some(before + 20 * 1024), Some(20 * 1024)]);
    assert_eq!(sums(&totals, &Device::Cpu)[4], Some(3_000_000));
}

#[test]
fn a_whole_sample_that_comes_after_later_ones_is_no_new_start() {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, None), true);
    for t in [60, 80, 100, 140] {
        feed.sample(t, &[(CpuRun, "", 1), (Uptime, "", 9000 + t)]);
    }
    poll(&mut totals, "a", &feed, 80, 3);
    poll(&mut totals, "a", &feed, 140, 3);
    feed.sample(120, &[(CpuRun, "", 1), (Uptime, "", 9120)]);
    feed.sample(160, &[(CpuRun, "", 1), (Uptime, "", 9160)]);
    poll(&mut totals, "a", &feed, 160, 4);
    assert_eq!((totals.vm(&VM).unwrap().start(), since_start(&totals)), (0, 4));
}

#[test]
fn the_time_of_a_device_that_takes_anothers_place_goes_on() {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, None), true);
    let nic = Device::Nic(4001);
    let values = [(CpuRun, "", 1), (NicReceived, "4001", 1), (NicSent, "4001", 1)];
    for t in (20..=200).step_by(20) {
        feed.sample(t, &values);
    }
    poll(&mut totals, "a", &feed, 20, 3);
    poll(&mut totals, "a", &feed, 100, 3);
    let before = totals.vm(&VM).unwrap().told(&nic).unwrap();
    totals.keep_devices(&VM, |_| false);
    poll(&mut totals, "a", &feed, 120, 3);
    let after = totals.vm(&VM).unwrap().told(&nic).unwrap();
    assert!(after.sums[0] < before.sums[0]);
    assert_eq!(after.covered, before.covered + Duration::from_secs(20));
    assert_eq!(after.covered, totals.vm(&VM).unwrap().covered());
}

#[test]
fn a_device_of_many_that_takes_anothers_place_counts_none_of_its_samples() {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, None), true);
    let names = (0..MOST_DEVICES).map(|n| &*format!("scsi0:{n}").leak());
    let mut values: Vec<_> = names.map(|name| (DiskRead, name, 1)).collect();
    values.push((CpuRun, "", 1));
    for t in (20..=600).step_by(20) {
        feed.sample(t, &values);
    }
    let disk = Device::Disk("scsi0:0".into());
    poll(&mut totals, "a", &feed, 20, 3);
    poll(&mut totals, "a", &feed, 100, 3);
    assert_eq!(sums(&totals, &disk)[0], Some(4 * 20 * 1024));
    totals.keep_devices(&VM, |device| *device != disk);
    totals.keep_devices(&VM, |_| true);
    poll(&mut totals, "a", &feed, 120, 3);
    assert_eq!(sums(&totals, &disk)[0], Some(20 * 1024));
    // Of one that stays unplugged, nothing is kept for long.
    feed.samples.values_mut().for_each(|values| values.retain(|value| value.1 != "scsi0:0"));
    for until in (140..=600).step_by(20) {
        totals.keep_devices(&VM, |device| *device != disk);
        poll(&mut totals, "a", &feed, until, 3);
    }
    totals.keep_devices(&VM, |device| *device != disk);
    assert!(totals.vms[&VM].used.iter().all(|used| used.device != disk));
}

#[test]
fn memory_that_was_told_long_ago_or_before_the_start_is_not_known() {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, None), true);
    feed.sample(20, &[(CpuRun, "", 1), (Uptime, "", 9000), (MemActive, "", 7)]);
    let active = |totals: &Totals| totals.vm(&VM).unwrap().memory().active;
    poll(&mut totals, "a", &feed, 20, 3);
    assert_eq!(active(&totals), Some(7));
    for t in (40..=100).step_by(20) {
        feed.sample(t, &[(CpuRun, "", 1), (Uptime, "", 9000 + t), (MemActive, "", -1)]);
    }
    poll(&mut totals, "a", &feed, 60, 3);
    assert_eq!(active(&totals), Some(7));
    poll(&mut totals, "a", &feed, 100, 3);
    assert_eq!(active(&totals), None);
    feed.sample(120, &[(CpuRun, "", 1), (Uptime, "", 9120), (MemActive, "", 8)]);
    feed.sample(140, &[(CpuRun, "", 1), (Uptime, "", 5)]);
    poll(&mut totals, "a", &feed, 140, 3);
    assert_eq!(active(&totals), None);
}

#[test]
fn neither_the_sum_over_all_nics_nor_those_of_the_host_are_nics() {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, None), true);
    for t in [20, 40] {
        let nics = ["", "4000", "vmnic0"].map(|name| (NicReceived, name, 5));
        let more = [(NicPacketsReceived, "4000", 9), (NicDroppedReceived, "4000", 1)];
        feed.sample(t, &[&nics[..], &more, &[(NicSent, "4000", 0), (DiskRead, "", 5)]].concat());
    }
    poll(&mut totals, "a", &feed, 20, 3);
    poll(&mut totals, "a", &feed, 40, 3);
    let vm = totals.vm(&VM).unwrap();
    assert_eq!(vm.devices().collect::<Vec<_>>(), [&Device::Nic(4000)]);
    let told = sums(&totals, &Device::Nic(4000));
    assert_eq!(told, [Some(5 * 20 * 1024), Some(0), Some(9), None, Some(1), None]);
}

#[test]
fn a_disk_has_whole_requests_and_the_time_that_they_took() {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, None), true);
    let disk = |latency| {
        [
            (DiskRead, "scsi0:0", 3),
            (DiskWritten, "scsi0:0", 0),
            (DiskReads, "scsi0:0", 2),
            (DiskWrites, "scsi0:0", 0),
            (DiskReadLatency, "scsi0:0", latency),
        ]
    };
    feed.sample(20, &disk(5)).sample(40, &disk(5)).sample(60, &disk(-1));
    poll(&mut totals, "a", &feed, 20, 3);
    poll(&mut totals, "a", &feed, 60, 4);
    let told = sums(&totals, &Device::Disk("scsi0:0".into()));
    assert_eq!(told[..4], [Some(2 * 3 * 20 * 1024), Some(0), Some(2 * 2 * 20), Some(0)]);
    // 40 requests of 5 ms each.
    assert_eq!(told[4..], [Some(40 * 5_000_000), None]);
}

#[test]
fn a_new_start_begins_at_0_and_the_sum_goes_on() {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, None), true);
    let ups = [9000, 9020, 9040, 5, 25, 45];
    for (at, up) in (1..).zip(ups) {
        feed.sample(at * STEP, &[(CpuRun, "", 10 * at), (Uptime, "", up)]);
    }
    poll(&mut totals, "a", &feed, 20, 3);
    poll(&mut totals, "a", &feed, 120, 3);
    let sum = totals.vm(&VM).unwrap().cpu().unwrap().sums[0];
    assert_eq!(sum, Some((20 + 30 + 40 + 50 + 60) * 1_000_000));
    assert_eq!(since_start(&totals), 40 + 50 + 60);
    assert_eq!(totals.vm(&VM).unwrap().start(), 1);
}

#[test]
fn a_vm_that_was_off_is_started_anew_though_its_uptime_is_larger() {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, Some(0)), true);
    feed.sample(100, &[(CpuRun, "", 1), (Uptime, "", 10)]);
    feed.sample(120, &[(CpuRun, "", 1), (Uptime, "", 30)]);
    poll(&mut totals, "a", &feed, 120, 3);
    totals.enter(VM, &known(State::Off, None), false);
    totals.enter(VM, &known(State::Running, Some(880)), false);
    for t in (900..=1000).step_by(20) {
        feed.sample(t, &[(CpuRun, "", 5), (Uptime, "", t - 880)]);
    }
    poll(&mut totals, "a", &feed, 1000, 3);
    assert_eq!((totals.vm(&VM).unwrap().start(), since_start(&totals)), (1, 30));
}

fn is_sampled(totals: &Totals) -> bool {
    totals.vm(&VM).unwrap().is_sampled()
}

/// A VM that has run since 0 by its host's clock, with samples up to 100, though others say that it was
/// started at `boot`.
fn running(boot: Option<i64>) -> (Totals, Feed) {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, boot), true);
    for t in (20..=100).step_by(20) {
        feed.sample(t, &[(CpuRun, "", 1), (Uptime, "", t)]);
    }
    poll(&mut totals, "a", &feed, 100, 9);
    assert!(is_sampled(&totals));
    (totals, feed)
}

#[test]
fn a_vm_that_was_started_anew_has_no_sample_until_one_of_that_start_comes() {
    // Whether it was seen off, what boot times are told, and by which clock.
    let boots = [-5000, -30, 0, 30, 5000].map(Some);
    for (is_seen_off, clock) in [(true, None)]
        .into_iter()
        .chain(boots.into_iter().flat_map(|clock| [(true, clock), (false, clock)]))
    {
        let (mut totals, mut feed) = running(clock);
        if is_seen_off {
            totals.enter(VM, &known(State::Off, None), false);
        }
        let boot = clock.map(|clock| clock + 135);
        totals.enter(VM, &known(State::Running, boot), false);
        assert!(!is_sampled(&totals));
        // The last one of before, which comes late.
        feed.sample(120, &[(CpuRun, "", 1), (Uptime, "", 120)]);
        poll(&mut totals, "a", &feed, 120, 3);
        totals.enter(VM, &known(State::Running, boot), false);
        assert!(!is_sampled(&totals), "{is_seen_off} {clock:?}");
        feed.sample(140, &[(CpuRun, "", 7), (Uptime, "", 5)]);
        poll(&mut totals, "a", &feed, 140, 3);
        totals.enter(VM, &known(State::Running, boot), false);
        assert!(is_sampled(&totals), "{is_seen_off} {clock:?}");
        assert_eq!((totals.vm(&VM).unwrap().start(), since_start(&totals)), (1, 7));
    }
}

#[test]
fn what_is_missing_in_the_first_sample_of_a_start_is_counted_for_it() {
    for is_seen_off in [true, false] {
        let (mut totals, mut feed) = running(Some(0));
        if is_seen_off {
            totals.enter(VM, &known(State::Off, None), false);
        }
        totals.enter(VM, &known(State::Running, Some(135)), false);
        feed.sample(140, &[(CpuRun, "", -1), (Uptime, "", -1)]);
        poll(&mut totals, "a", &feed, 140, 3);
        // It says nothing of the start, of which nobody knows otherwise.
        assert_eq!(is_sampled(&totals), is_seen_off);
        feed.sample(140, &[(CpuRun, "", 3), (Uptime, "", -1)]);
        feed.sample(160, &[(CpuRun, "", 4), (Uptime, "", 25)]);
        poll(&mut totals, "a", &feed, 160, 3);
        assert!(is_sampled(&totals));
        assert_eq!((totals.vm(&VM).unwrap().start(), since_start(&totals)), (1, 7));
    }
}

#[test]
fn a_vm_whose_start_its_samples_tell_before_the_list_is_not_waited_for() {
    for clock in [-5000, 0, 5000] {
        let (mut totals, mut feed) = running(Some(clock));
        feed.sample(140, &[(CpuRun, "", 7), (Uptime, "", 5)]);
        poll(&mut totals, "a", &feed, 140, 3);
        totals.enter(VM, &known(State::Running, Some(clock + 135)), false);
        assert!(is_sampled(&totals), "{clock}");
    }
}

#[test]
fn samples_of_a_vm_that_sleeps_or_moves_or_whose_boot_time_is_another_go_on() {
    // Its boot time moves by how long it slept.
    let (mut totals, mut feed) = running(Some(0));
    totals.enter(VM, &known(State::Suspended, None), false);
    totals.enter(VM, &known(State::Running, Some(5000)), false);
    assert!(is_sampled(&totals));
    feed.sample(5120, &[(CpuRun, "", 1), (Uptime, "", 120)]);
    poll(&mut totals, "a", &feed, 5120, 3);
    assert!(is_sampled(&totals));
    assert_eq!(totals.vm(&VM).unwrap().start(), 0);
    // By another clock; it cannot have been started before its newest sample.
    for boot in [-5000, -60, 60, 95] {
        let (mut totals, _) = running(Some(0));
        totals.enter(VM, &known(State::Running, Some(boot)), false);
        assert!(is_sampled(&totals), "{boot}");
    }
    let (mut totals, _) = running(Some(0));
    let mut other = Feed::default();
    other.sample(720, &[(CpuRun, "", 1), (Uptime, "", 120)]);
    poll(&mut totals, "b", &other, 720, 3);
    assert!(is_sampled(&totals));
}

#[test]
fn a_boot_time_that_is_taken_back_hides_no_vm() {
    let (mut totals, _) = running(Some(0));
    totals.enter(VM, &known(State::Running, Some(500)), false);
    assert!(!is_sampled(&totals));
    totals.enter(VM, &known(State::Running, Some(0)), false);
    assert!(is_sampled(&totals));
}

#[test]
fn a_vm_whose_samples_go_on_is_not_waited_for_longer_than_late_ones() {
    for uptime in [true, false] {
        for is_seen_off in [true, false] {
            let (mut totals, mut feed) = running(Some(0));
            let state = if is_seen_off { State::Off } else { State::Running };
            // A start that was none.
            totals.enter(VM, &known(state, Some(1 << 40)), false);
            assert!(!is_sampled(&totals));
            for t in (120..=200).step_by(20) {
                let up = (Uptime, "", if uptime { t } else { -1 });
                feed.sample(t, &[(CpuRun, "", 1), up]);
                poll(&mut totals, "a", &feed, t, 3);
                totals.enter(VM, &known(State::Running, Some(1 << 40)), false);
            }
            assert!(is_sampled(&totals), "{uptime} {is_seen_off}");
        }
    }
}

#[test]
fn a_vm_that_slept_and_was_off_is_started_anew_though_its_uptime_is_larger() {
    let (mut totals, mut feed) = running(None);
    totals.enter(VM, &known(State::Suspended, None), false);
    totals.enter(VM, &known(State::Off, None), false);
    totals.enter(VM, &known(State::Running, None), false);
    feed.sample(1000, &[(CpuRun, "", 7), (Uptime, "", 120)]);
    poll(&mut totals, "a", &feed, 1000, 3);
    assert!(is_sampled(&totals));
    assert_eq!((totals.vm(&VM).unwrap().start(), since_start(&totals)), (1, 7));
}

#[test]
fn samples_that_come_between_the_two_calls_of_a_reading_push_none_out() {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, None), true);
    for t in (20..=700).step_by(20) {
        feed.sample(t, &[(CpuRun, "", 1), (Uptime, "", 5000 + t)]);
    }
    poll(&mut totals, "a", &feed, 100, 3);
    let mut take = |until, most, all| {
        feed.tell(until, most, |answer| totals.take(&VM, &host("a"), answer, all))
    };
    let Taken::TooShort { samples } = take(400, 3, false) else { panic!("it is whole") };
    assert_eq!(take(600, samples.try_into().unwrap(), true), Taken::Whole);
    assert_eq!(since_start(&totals), 25);
}

#[test]
fn a_young_vm_is_known_since_its_start() {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, None), true);
    for t in (20..=600).step_by(20) {
        let up = if t < 300 { t + 5000 } else { t - 290 };
        feed.sample(t, &[(CpuRun, "", 1), (Uptime, "", up), (MemActive, "", t)]);
    }
    let first = feed.tell(600, 3, |answer| totals.take(&VM, &host("a"), answer, false));
    assert!(matches!(first, Taken::TooShort { samples: 16.. }), "{first:?}");
    poll(&mut totals, "a", &feed, 600, 3);
    assert_eq!(since_start(&totals), 16);
    assert_eq!(totals.vm(&VM).unwrap().memory().active, Some(600));
}

#[test]
fn a_vm_that_was_started_right_at_the_time_of_a_sample_is_known_since_then() {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, None), false);
    for t in [20, 40, 60] {
        feed.sample(t, &[(CpuRun, "", 1), (Uptime, "", t)]);
    }
    poll(&mut totals, "a", &feed, 60, 3);
    assert_eq!(since_start(&totals), 3);
}

#[test]
fn a_vm_that_moves_or_sleeps_is_not_started_anew() {
    let (mut totals, mut a, mut b) = (Totals::default(), Feed::default(), Feed::default());
    totals.enter(VM, &known(State::Running, Some(7)), true);
    for t in (20..=100).step_by(20) {
        a.sample(t, &[(CpuRun, "", 1), (Uptime, "", 9000 + t)]);
    }
    poll(&mut totals, "a", &a, 40, 3);
    poll(&mut totals, "a", &a, 100, 3);
    assert_eq!(since_start(&totals), 3);
    // On another host, whose clock is ten minutes behind; its uptime begins anew.
    for (t, up) in [(-480, 15), (-460, 35)] {
        b.sample(t, &[(CpuRun, "", 1), (Uptime, "", up)]);
    }
    poll(&mut totals, "b", &b, 0, 3);
    assert_eq!((totals.vm(&VM).unwrap().start(), since_start(&totals)), (0, 5));
    // And back: what it did there before is not taken again.
    for t in [160, 180] {
        a.sample(t, &[(CpuRun, "", 1), (Uptime, "", t - 140)]);
    }
    poll(&mut totals, "a", &a, 180, 9);
    assert_eq!((totals.vm(&VM).unwrap().start(), since_start(&totals)), (0, 7));
    totals.enter(VM, &known(State::Suspended, Some(7)), false);
    totals.enter(VM, &known(State::Running, Some(7)), false);
    a.sample(400, &[(CpuRun, "", 1), (Uptime, "", 3)]);
    poll(&mut totals, "a", &a, 400, 9);
    assert_eq!((totals.vm(&VM).unwrap().start(), since_start(&totals)), (0, 8));
}

#[test]
fn an_uptime_that_is_told_late_is_no_start() {
    for late in [20, 40, 60] {
        let (mut totals, mut feed) = (Totals::default(), Feed::default());
        totals.enter(VM, &known(State::Running, None), true);
        for t in (20..=200).step_by(20) {
            let up = if t == 100 { t - late } else { t };
            feed.sample(t, &[(CpuRun, "", 1), (Uptime, "", 9000 + up)]);
            poll(&mut totals, "a", &feed, t, 3);
        }
        assert_eq!((totals.vm(&VM).unwrap().start(), since_start(&totals)), (0, 9), "{late}");
    }
}

#[test]
fn a_host_whose_clock_is_off_by_less_than_the_time_between_readings_loses_nothing() {
    for ahead in [-250, -45, -7, 0, 7, 300] {
        let (mut totals, mut a, mut b) = (Totals::default(), Feed::default(), Feed::default());
        totals.enter(VM, &known(State::Running, None), true);
        for t in (20..=100).step_by(20) {
            a.sample(t, &[(CpuRun, "", 1), (Uptime, "", 9000 + t)]);
        }
        poll(&mut totals, "a", &a, 40, 3);
        poll(&mut totals, "a", &a, 100, 3);
        for t in (120..=400).step_by(20) {
            b.sample(t + ahead, &[(CpuRun, "", 1), (Uptime, "", 9000 + t)]);
        }
        poll(&mut totals, "b", &b, 400 + ahead, 30);
        assert_eq!((totals.vm(&VM).unwrap().start(), since_start(&totals)), (0, 18), "{ahead}");
    }
}

#[test]
fn a_vm_that_is_started_on_another_host_begins_anew() {
    let (mut totals, mut a, mut b) = (Totals::default(), Feed::default(), Feed::default());
    totals.enter(VM, &known(State::Running, Some(-9000)), true);
    for t in (20..=100).step_by(20) {
        a.sample(t, &[(CpuRun, "", 1), (Uptime, "", 9000 + t)]);
    }
    poll(&mut totals, "a", &a, 100, 3);
    totals.enter(VM, &known(State::Running, Some(130)), false);
    b.sample(140, &[(CpuRun, "", 3), (Uptime, "", 10)]);
    poll(&mut totals, "b", &b, 140, 3);
    assert_eq!((totals.vm(&VM).unwrap().start(), since_start(&totals)), (1, 3));
}

#[test]
fn a_clock_that_went_back_loses_what_was_used_until_then() {
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, None), true);
    for t in (1000..=1100).step_by(20) {
        feed.sample(t, &[(CpuRun, "", 1), (CpuUsed, "", 1)]);
    }
    poll(&mut totals, "a", &feed, 1020, 3);
    poll(&mut totals, "a", &feed, 1100, 3);
    let mut later = Feed::default();
    for t in (500..=560).step_by(20) {
        later.sample(t, &[(CpuRun, "", 1), (CpuUsed, "", 1)]);
    }
    assert_eq!(poll(&mut totals, "a", &later, 520, 3), Taken::WentBack);
    poll(&mut totals, "a", &later, 560, 3);
    assert_eq!((totals.vm(&VM).unwrap().start(), since_start(&totals)), (0, 6));
}

#[test]
fn what_moves_after_its_host_was_read_and_before_its_samples_loses_nothing() {
    for behind in [30, 130, 600] {
        let (mut totals, mut a, mut b) = (Totals::default(), Feed::default(), Feed::default());
        totals.enter(VM, &known(State::Running, None), true);
        for t in (1000..=1100).step_by(20) {
            a.sample(t, &[(CpuRun, "", 1), (Uptime, "", 9000 + t)]);
        }
        poll(&mut totals, "a", &a, 1020, 3);
        poll(&mut totals, "a", &a, 1100, 3);
        for t in (1120..=1300).step_by(20) {
            b.sample(t - behind, &[(CpuRun, "", 1), (Uptime, "", 9000 + t)]);
        }
        assert_eq!(poll(&mut totals, "a", &b, 1160 - behind, 3), Taken::Whole, "{behind}");
        assert_eq!(since_start(&totals), 7, "{behind}");
        for now in [1200, 1300] {
            poll(&mut totals, "b", &b, now - behind, 5);
        }
        assert_eq!((totals.vm(&VM).unwrap().start(), since_start(&totals)), (0, 14), "{behind}");
        for t in (1320..=1400).step_by(20) {
            a.sample(t, &[(CpuRun, "", 1), (Uptime, "", 9000 + t)]);
        }
        poll(&mut totals, "a", &a, 1400, 7);
        assert_eq!((totals.vm(&VM).unwrap().start(), since_start(&totals)), (0, 19), "{behind}");
    }
}

#[test]
fn what_a_clock_that_is_set_back_tells_once_more_is_not_taken_twice() {
    // It labels what it had already as before, or goes back with all of it; or a time since the start was told late.
    for (back, goes_back, late) in [(40, false, 0), (40, true, 0), (600, true, 0), (0, false, 20)] {
        let (mut totals, mut feed) = (Totals::default(), Feed::default());
        totals.enter(VM, &known(State::Running, None), true);
        for t in (20..=1000).step_by(20) {
            let up = 9000 + t - if t == 1000 { late } else { 0 };
            feed.sample(t, &[(CpuRun, "", 1), (Uptime, "", up)]);
        }
        poll(&mut totals, "a", &feed, 20, 3);
        poll(&mut totals, "a", &feed, 1000, 52);
        assert_eq!(since_start(&totals), 49);
        let mut later = Feed::default();
        for t in (20..=1100).step_by(20) {
            let label = if goes_back || t > 1000 { t - back } else { t };
            later.sample(label, &[(CpuRun, "", 1), (Uptime, "", 9000 + t)]);
        }
        poll(&mut totals, "a", &later, 1040 - back, 5);
        poll(&mut totals, "a", &later, 1100 - back, 5);
        let told = since_start(&totals);
        // Labels that are told twice have one sample.
        let least = if goes_back || back == 0 { 54 } else { 52 };
        assert!((least..=54).contains(&told), "{told}: {back} {goes_back} {late}");
    }
}

#[test]
fn another_object_of_the_same_uuid_is_another_start_of_it() {
    // As where it was off, taken out of the inventory and registered again between two readings.
    let (mut totals, mut feed) = (Totals::default(), Feed::default());
    totals.enter(VM, &known(State::Running, Some(0)), true);
    for t in [20, 40, 60, 80] {
        feed.sample(t, &[(CpuRun, "", 1), (Uptime, "", if t > 40 { t - 50 } else { t })]);
    }
    poll(&mut totals, "a", &feed, 20, 3);
    poll(&mut totals, "a", &feed, 40, 3);
    let sum = |totals: &Totals| sums(totals, &Device::Cpu)[0].unwrap() / 1_000_000;
    assert_eq!((totals.vm(&VM).unwrap().start(), sum(&totals)), (0, 2));
    totals.enter(VM, &Known { moref: "vm-2", ..known(State::Running, Some(50)) }, false);
    assert!(!is_sampled(&totals));
    assert_eq!(sum(&totals), 2);
    poll(&mut totals, "a", &feed, 80, 3);
    assert_eq!(totals.vm(&VM).unwrap().start(), 1);
    assert_eq!((sum(&totals), since_start(&totals)), (4, 2));
    totals.keep(|_| false);
    assert!(totals.vm(&VM).is_none());
}

/// One sample of the life: what it counts, whether it is missing and for how many samples, whether the VM
/// is started anew before it.
fn life() -> impl Strategy<Value = Vec<(i64, i64, bool)>> {
    let missing = prop_oneof![8 => Just(0_i64), 1 => 1_i64..5, 1 => Just(1000)];
    prop::collection::vec((0_i64..1000, missing, prop::bool::weighted(0.03)), 80)
}

proptest! {
    /// Whatever the polling times and overlaps: the sum of what was there to be seen, none of it twice, and
    /// the time that this covers.
    #[test]
    fn the_sum_is_that_of_what_was_covered(
        life in life(),
        polls in prop::collection::vec((1_usize..12, 0_usize..6), 1..20),
    ) {
        let mut totals = Totals::default();
        totals.enter(VM, &known(State::Running, None), true);
        let (mut now, mut newest) = (3_usize, 0_usize);
        // By sample: whether it was seen whole.
        let mut seen = vec![false; life.len()];
        let mut first = None;
        // The time of the VM, from which that of its CPU goes on once anything is told of it.
        let mut before = Duration::ZERO;
        let starts: Vec<usize> = (0..life.len()).filter(|at| life[*at].2 && *at > 3).collect();
        for (later, overlap) in polls {
            now = (now + later).min(life.len() - 1);
            let mut feed = Feed::default();
            let start = |at: usize| starts.iter().rev().find(|start| **start <= at);
            for (at, (value, missing, _)) in life.iter().enumerate().take(now + 1) {
                let is_there = i64::try_from(now - at).unwrap() >= *missing;
                let value = if is_there { *value } else { -1 };
                let up = start(at).map_or(100_000, |start| 7 - i64::try_from(*start).unwrap() * STEP);
                let t = i64::try_from(at).unwrap() * STEP;
                feed.sample(t, &[(CpuRun, "", value), (Uptime, "", up + t)]);
            }
            let most = if first.is_none() { 3 } else { (now - newest + overlap).max(1) };
            let until = i64::try_from(now).unwrap() * STEP;
            let most = poll_as_needed(&mut totals, "a", &feed, until, most).1;
            // A VM that was started within what is told is known since then.
            let from = *first.get_or_insert_with(|| start(now).copied().unwrap_or(now + 1));
            // What comes late is taken of those that are open still.
            let oldest = (now + 1).saturating_sub(most).max((newest + 1).saturating_sub(OPEN));
            let oldest = if newest == 0 { from } else { oldest };
            for at in oldest.max(from)..=now {
                seen[at] |= i64::try_from(now - at).unwrap() >= life[at].1;
            }
            newest = now;
            let sum = |from: usize| -> i64 {
                (from..life.len()).filter(|at| seen[*at]).map(|at| life[at].0).sum()
            };
            let told = totals.vm(&VM).unwrap();
            if let Some(cpu) = told.cpu() {
                let covered = seen.iter().filter(|seen| **seen).count() as u64;
                prop_assert_eq!(cpu.sums[0].unwrap(), i128::from(sum(0)) * 1_000_000);
                prop_assert_eq!(cpu.covered, before + Duration::from_secs(20 * covered));
                let start = start(now).copied().unwrap_or(0);
                prop_assert_eq!(cpu.since_start[0].unwrap(), i128::from(sum(start)) * 1_000_000);
            } else {
                before = told.covered();
            }
        }
    }

    /// Whatever is told, nothing falls and nothing panics.
    #[test]
    fn nothing_falls(
        answers in prop::collection::vec(
            (
                0_usize..3,
                prop::collection::vec((any::<i64>(), any::<u32>()), 0..6),
                prop::collection::vec(prop::option::of(any::<i64>()), 0..8),
                any::<bool>(),
                0_usize..4,
                any::<Option<i64>>(),
            ),
            1..20,
        ),
    ) {
        let mut totals = Totals::default();
        let mut before = [0; 6];
        for (name, samples, values, all, state, boot) in answers {
            let state = [State::Running, State::Suspended, State::Off, State::Running][state];
            totals.enter(VM, &known(state, boot), false);
            let mut samples = samples;
            samples.sort_unstable();
            samples.dedup_by_key(|sample| sample.0);
            let time = |(end, seconds)| Time { end, seconds };
            let times: Vec<Time> = samples.into_iter().map(time).collect();
            let series = [CpuRun, CpuUsed, Uptime].map(|counter| Series { counter, instance: "", values: &values });
            let answer = Answer { times: &times, series: &series };
            totals.take(&VM, &host(["a", "b", "c"][name]), &answer, all);
            if let Some(cpu) = totals.vm(&VM).unwrap().cpu() {
                let now = cpu.sums.map(Option::unwrap_or_default);
                prop_assert!(now.iter().zip(&before).all(|(now, before)| now >= before));
                before = now;
            }
        }
    }
}
