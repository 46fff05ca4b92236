//! The engine over a hypervisor that does what a test says, and counts how often it was asked.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;

use super::*;
use crate::error::Failure;
use crate::hypervisor::Stamp;
use crate::locks::lock;
use crate::records::{InstanceStats, ids};
use crate::target::Sessions;

const INSTANCES: u128 = 4;
const TOGETHER: u128 = 999;

/// What a batch does when it is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    Fail,
    /// Cannot be logged in to.
    FailToLogIn,
    /// Does not answer until it is told something else.
    Hang,
    /// Does not answer, and fails once somebody logs out.
    LoseSession,
    /// Does not answer until somebody logs out, and then logs in for the rest.
    LogInAgain,
}

#[derive(Default)]
struct World {
    reads: HashMap<Batch, usize>,
    does: HashMap<Batch, Does>,
    reading: usize,
    most: usize,
    /// Whether all instances are gone.
    is_empty: bool,
    /// Whether all hosts are read together, until that fails.
    together: bool,
    /// A host that has left.
    left: Option<u128>,
    closed: usize,
    is_logged_out: bool,
    /// How many logins have failed.
    failed: u64,
}

/// Hosts with four instances each, of which the last has to be read alone.
#[derive(Clone, Default)]
struct Scripted {
    hosts: u128,
    /// How many readings may be under way; 0 for any number.
    in_flight: usize,
    /// Whether each instance has to be read alone.
    alone: bool,
    /// What is read after a host, for nobody.
    afterwards: Vec<Batch>,
    read_ahead: Option<usize>,
    /// How long each reading takes, at least.
    takes: Duration,
    world: Arc<(Mutex<World>, Condvar)>,
}

impl Scripted {
    fn lock(&self) -> MutexGuard<'_, World> {
        lock(&self.world.0)
    }

    fn will(&self, batch: Batch, does: Option<Does>) {
        let mut world = self.lock();
        match does {
            Some(does) => _ = world.does.insert(batch, does),
            None => _ = world.does.remove(&batch),
        }
        self.world.1.notify_all();
    }

    fn all_will(&self, batches: &[Batch], does: Option<Does>) {
        for batch in batches {
            self.will(*batch, does);
        }
    }

    fn reads(&self, batch: Batch) -> usize {
        self.lock().reads.get(&batch).copied().unwrap_or_default()
    }
}

impl HostWide for Scripted {
    fn read(&self, batch: Batch, _: Instant) -> Result<Vec<String>> {
        let mut world = self.lock();
        *world.reads.entry(batch).or_default() += 1;
        world.reading += 1;
        world.most = world.most.max(world.reading);
        let closed = world.closed;
        if !self.takes.is_zero() {
            drop(world);
            thread::sleep(self.takes);
            world = self.lock();
        }
        // So that others come meanwhile.
        world = self.world.1.wait_timeout(world, Duration::from_millis(20)).unwrap().0;
        while world.does.get(&batch) == Some(&Does::Hang) {
            world = self.world.1.wait(world).unwrap();
        }
        let waits = [Some(&Does::LoseSession), Some(&Does::LogInAgain)];
        while waits.contains(&world.does.get(&batch)) && world.closed == closed {
            world = self.world.1.wait(world).unwrap();
        }
        world.reading -= 1;
        world.together &= batch != host(TOGETHER) || !world.does.contains_key(&batch);
        let does = world.does.get(&batch).copied();
        if does == Some(Does::LoseSession) {
            // Whoever logs in again has another one.
            world.does.remove(&batch);
        }
        match does {
            None | Some(Does::LogInAgain) => {
                world.is_logged_out = false;
                Ok(Vec::new())
            }
            Some(does) => {
                world.failed += u64::from(does == Does::FailToLogIn);
                Err(Error::ConnectionLost {
                    uri: "scripted://".to_owned(),
                    instance: None,
                    failure: Failure { libvirt: None, message: "refused".to_owned() },
                })
            }
        }
    }

    fn patience(&self, _: Batch) -> Duration {
        Duration::ZERO
    }

    fn after(&self, instance: Uuid, most: usize) -> Vec<InstanceId> {
        let numbers = instance.as_u128() + 1..self.hosts * INSTANCES;
        numbers.take(most).map(|number| Uuid::from_u128(number).into()).collect()
    }

    fn instances(&self) -> Vec<Instance> {
        let all = 0..if self.lock().is_empty { 0 } else { self.hosts * INSTANCES };
        let instance = |id| Instance { id: Uuid::from_u128(id), name: format!("vm{id}"), state: 1 };
        all.map(instance).collect()
    }

    fn batches(&self, _: Parts, instance: &InstanceId) -> Result<Vec<Batch>> {
        let number = instance.uuid.as_u128();
        let together = self.lock().together;
        let mut batches = vec![host(if together { TOGETHER } else { number / INSTANCES })];
        if self.alone || number % INSTANCES == INSTANCES - 1 {
            batches.push(alone(number));
        }
        Ok(batches)
    }

    fn in_place_of(&self, read: Batch) -> Vec<Batch> {
        let is_parted = read == host(TOGETHER) && !self.lock().together;
        (0..if is_parted { self.hosts } else { 0 }).map(host).collect()
    }

    fn afterwards(&self, read: Batch) -> Vec<Batch> {
        if matches!(read, Batch::Host(_)) { self.afterwards.clone() } else { Vec::new() }
    }

    fn tell(&self, _: Parts, _: &InstanceId) -> Result<(Content, Stamp)> {
        let stats = Content::Stats(Box::<InstanceStats>::default(), crate::CpuTimes::default());
        Ok((stats, Instant::now().into()))
    }

    fn own_uuid(&self, instance: Uuid) -> Uuid {
        instance
    }

    fn host_cpus(&self, _: Uuid) -> Option<u32> {
        None
    }

    fn host_name(&self, host: Uuid) -> Option<String> {
        let number = host.as_u128();
        (self.lock().left != Some(number)).then(|| format!("host{number}"))
    }

    fn in_flight(&self) -> usize {
        if self.in_flight > 0 { self.in_flight } else { shared::MOST_THREADS }
    }

    fn everything(&self) -> Vec<Batch> {
        (0..self.hosts).map(host).collect()
    }

    fn hosts(&self) -> Vec<Host> {
        let host = |number| Host { id: Uuid::from_u128(number), ..Host::default() };
        (0..self.hosts).map(host).collect()
    }

    fn calls(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    fn sessions(&self) -> Sessions {
        let world = self.lock();
        Sessions { opened: 1, failed: world.failed, is_open: !world.is_logged_out }
    }

    fn close(&self, _: Instant) -> Result<()> {
        let mut world = self.lock();
        world.closed += usize::from(!std::mem::replace(&mut world.is_logged_out, true));
        self.world.1.notify_all();
        Ok(())
    }
}

fn host(number: u128) -> Batch {
    Batch::Host(Uuid::from_u128(number))
}

fn alone(number: u128) -> Batch {
    let host = Uuid::from_u128(number / INSTANCES);
    Batch::Instance { host, uuid: Uuid::from_u128(number) }
}

fn engine(hosts: u128, timeout: Duration, max_age: Duration) -> (Scripted, Sweeps<Scripted>) {
    engine_over(Scripted { hosts, ..Scripted::default() }, timeout, max_age)
}

fn engine_over(
    driver: Scripted,
    timeout: Duration,
    max_age: Duration,
) -> (Scripted, Sweeps<Scripted>) {
    let read_ahead = driver.read_ahead.unwrap_or(Limits::default().read_ahead);
    let limits = Limits { timeout, max_age: Some(max_age), read_ahead, ..Limits::default() };
    let (made, uri) = (driver.clone(), "scripted://".to_owned());
    (driver, Sweeps::new(uri.clone(), uri, limits, move || made.clone()))
}

fn ask(engine: &Sweeps<Scripted>, number: u128) -> Result<()> {
    engine.ask(Parts::COUNTERS, &Uuid::from_u128(number).into()).map(|_| ())
}

fn is_away(answer: &Result<()>) -> bool {
    matches!(answer, Err(Error::NoData { reason: Reason::HostAway { .. }, .. }))
}

const LONG: Duration = Duration::from_secs(60);

fn until(holds: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "that has not come about");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_pass_reads_each_host_once_although_one_hangs() {
    let (driver, engine) = engine(8, Duration::from_millis(300), Duration::from_millis(30));
    driver.will(host(0), Some(Does::Hang));
    let begun = Instant::now();
    let all: Vec<InstanceId> = (0..8 * INSTANCES).map(|id| Uuid::from_u128(id).into()).collect();
    engine.list().unwrap();
    engine.expect(Parts::COUNTERS, &all);
    // The others are older than is allowed once the first is given up.
    let told = |id| engine.ask_in_pass(Parts::COUNTERS, id, begun).is_ok();
    assert_eq!(all.iter().filter(|id| told(id)).count(), 7 * usize::try_from(INSTANCES).unwrap());
    assert!((0..8).all(|number| driver.reads(host(number)) == 1));
    assert_eq!(driver.reads(Batch::Inventory), 1);
    driver.will(host(0), None);
}

#[test]
fn what_is_read_once_serves_all_who_ask() {
    let (driver, engine) = engine(2, LONG, LONG);
    thread::scope(|scope| {
        for number in 0..8 {
            let engine = &engine;
            scope.spawn(move || ask(engine, number).unwrap());
        }
    });
    assert_eq!([Batch::Inventory, host(0), host(1)].map(|batch| driver.reads(batch)), [1; 3]);
    assert_eq!(engine.list().unwrap().0.len(), 8);
    assert_eq!(driver.reads(Batch::Inventory), 1);
    assert_eq!(engine.health().handed_out, 8);
}

#[test]
fn what_is_too_old_is_read_anew() {
    let (driver, engine) = engine(1, LONG, Duration::ZERO);
    for times in 1..4 {
        ask(&engine, 0).unwrap();
        assert_eq!(driver.reads(host(0)), times);
    }
}

#[test]
fn hosts_are_asked_at_once_but_no_more_than_that_many() {
    let (driver, engine) = engine(100, LONG, LONG);
    let (instances, _) = engine.list().unwrap();
    engine.expect(Parts::COUNTERS, &ids(&instances));
    for number in 0..400 {
        ask(&engine, number).unwrap();
    }
    let world = driver.lock();
    assert!(world.most > 1);
    assert!(world.most <= shared::MOST_THREADS, "{}", world.most);
    assert!((0..100).all(|number| world.reads.get(&host(number)) == Some(&1)));
}

#[test]
fn who_goes_through_all_instances_has_their_hosts_read_at_once() {
    let age = Duration::from_millis(100);
    let (driver, engine) = engine(8, LONG, age);
    let ask_all = || (0..8).for_each(|number| ask(&engine, number * INSTANCES).unwrap());
    // What is read is too old after this, and nothing is being read any more.
    let rest = || {
        thread::sleep(age);
        let is_busy = |here: &Arc<Shared<Scripted>>| {
            let state = here.lock();
            !state.queue.is_empty() || state.idle < state.threads
        };
        while engine.here.with(is_busy) {
            thread::sleep(Duration::from_millis(1));
        }
    };
    ask_all();
    rest();
    ask_all();
    assert!(driver.lock().most > 4, "{}", driver.lock().most);
    // One whom nobody has asked for since it was read is not read again with the others.
    rest();
    ask(&engine, 0).unwrap();
    rest();
    let before = driver.reads(host(7));
    ask(&engine, 0).unwrap();
    rest();
    assert_eq!(driver.reads(host(7)), before);
}

#[test]
fn a_host_that_fails_costs_its_own_instances_and_is_tried_again() {
    let (driver, engine) = engine(2, LONG, Duration::ZERO);
    driver.will(host(1), Some(Does::Fail));
    let until = Instant::now() + LONG;
    for _ in 0..3 {
        ask(&engine, 0).unwrap();
        assert!(is_away(&ask(&engine, 4)));
        assert!(is_away(&ask(&engine, 5)));
    }
    assert!(driver.reads(host(1)) < 6, "it is not tried each time");
    let away = engine.health().away;
    assert_eq!(away.iter().map(|(host, _, _)| host.as_str()).collect::<Vec<_>>(), ["host1"]);
    driver.will(host(1), None);
    while ask(&engine, 4).is_err() {
        assert!(Instant::now() < until, "it is not tried again");
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(engine.health().away, []);
}

#[test]
fn a_host_that_hangs_is_waited_for_once() {
    let (driver, engine) = engine(2, Duration::from_millis(500), Duration::ZERO);
    driver.will(host(1), Some(Does::Hang));
    assert!(is_away(&ask(&engine, 4)));
    assert_eq!(driver.reads(host(1)), 1);
    ask(&engine, 0).unwrap();
    // It is still being read, and that is not waited for again.
    assert_eq!(engine.health().away.len(), 1);
    assert!(is_away(&ask(&engine, 5)));
    assert_eq!(engine.health().timeouts, 1);
    driver.will(host(1), Some(Does::Fail));
    until(|| driver.lock().reading == 0);
    driver.will(host(1), Some(Does::Hang));
    // Once it is tried again, nobody waits for what comes of that but for a moment.
    let until = Instant::now() + LONG;
    while driver.reads(host(1)) < 2 {
        assert!(is_away(&ask(&engine, 5)));
        assert!(Instant::now() < until, "it is not tried again");
    }
    let timeouts = engine.health().timeouts;
    for _ in 0..10 {
        assert!(is_away(&ask(&engine, 6)));
        ask(&engine, 1).unwrap();
    }
    assert_eq!(engine.health().timeouts, timeouts);
    assert_eq!(driver.reads(host(1)), 2, "there are never two calls to one host");
    driver.will(host(1), None);
}

#[test]
fn a_host_that_fails_is_tried_again_though_nobody_asks_for_its_instances() {
    let (driver, engine) = engine(2, LONG, Duration::ZERO);
    driver.will(host(1), Some(Does::Fail));
    assert!(is_away(&ask(&engine, 4)));
    driver.will(host(1), None);
    let until = Instant::now() + LONG;
    while !engine.health().away.is_empty() {
        assert!(Instant::now() < until, "it is not tried again");
        engine.list().unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    driver.will(host(1), Some(Does::Fail));
    assert!(is_away(&ask(&engine, 4)));
    driver.lock().left = Some(1);
    engine.list().unwrap();
    assert_eq!(engine.health().away, [], "it has left");
}

#[test]
fn nothing_is_told_of_a_host_that_has_left_while_it_was_read() {
    let (driver, engine) = engine(2, LONG, LONG);
    driver.will(host(1), Some(Does::Fail));
    driver.lock().left = Some(1);
    let here = engine.here.with(Arc::clone);
    assert!(here.have(host(1), Instant::now()).is_err());
    assert_eq!(here.take_log(), []);
    assert_eq!(engine.health().away, []);
}

#[test]
fn hosts_that_are_read_together_are_parted_where_one_holds_them_up() {
    let (driver, engine) = engine(3, LONG, LONG);
    driver.lock().together = true;
    ask(&engine, 0).unwrap();
    ask(&engine, 4).unwrap();
    assert_eq!((driver.reads(host(TOGETHER)), driver.reads(host(0))), (1, 0));
    let (driver, engine) = self::engine(3, LONG, LONG);
    driver.lock().together = true;
    driver.will(host(TOGETHER), Some(Does::Fail));
    driver.will(host(1), Some(Does::Fail));
    ask(&engine, 0).unwrap();
    let error = ask(&engine, 4).unwrap_err();
    assert!(matches!(&error, Error::NoData { reason: Reason::HostAway { .. }, .. }), "{error}");
    ask(&engine, 8).unwrap();
    assert_eq!(driver.reads(host(TOGETHER)), 1);
}

#[test]
fn hosts_that_are_read_together_again_are_waited_for() {
    let (driver, engine) = engine(3, LONG, Duration::ZERO);
    let together = |does| {
        driver.lock().together = true;
        driver.will(host(TOGETHER), does);
    };
    together(Some(Does::Fail));
    ask(&engine, 0).unwrap();
    assert_eq!((driver.reads(host(TOGETHER)), driver.reads(host(0))), (1, 1));
    // It takes longer than what has failed is waited for.
    together(Some(Does::Hang));
    thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&engine, 0));
        until(|| driver.reads(host(TOGETHER)) == 2);
        thread::sleep(Duration::from_millis(500));
        assert_eq!(engine.health().away, []);
        together(None);
        asking.join().unwrap().unwrap();
    });
    let here = engine.here.with(Arc::clone);
    assert_eq!(here.take_log(), [], "nothing was said of it, and nothing has ended");
}

#[test]
fn hosts_that_were_parted_and_joined_again_within_a_pass_are_read() {
    let (driver, engine) = engine(3, LONG, Duration::ZERO);
    let begun = Instant::now();
    driver.lock().together = true;
    driver.will(host(TOGETHER), Some(Does::Fail));
    ask(&engine, 0).unwrap();
    // Another caller's list joins them, and the pass comes to the others.
    driver.lock().together = true;
    driver.will(host(TOGETHER), None);
    engine.list().unwrap();
    let of_the_pass = Uuid::from_u128(INSTANCES).into();
    engine.ask_in_pass(Parts::COUNTERS, &of_the_pass, begun).unwrap();
    assert_eq!(driver.reads(host(TOGETHER)), 2);
}

#[test]
fn a_reading_that_is_too_old_is_waited_for_and_then_one_of_ones_own() {
    let timeout = Duration::from_secs(4);
    let driver = Scripted { hosts: 1, takes: timeout * 3 / 4, ..Scripted::default() };
    let (driver, engine) = engine_over(driver, timeout, Duration::ZERO);
    let here = engine.here.with(Arc::clone);
    let have = || here.have(host(0), Instant::now());
    thread::scope(|scope| {
        let first = scope.spawn(have);
        until(|| driver.lock().reading == 1);
        thread::sleep(timeout / 4);
        have().unwrap();
        first.join().unwrap().unwrap();
    });
    assert_eq!((driver.reads(host(0)), engine.health().timeouts), (2, 0));
}

#[test]
fn hosts_that_are_parted_are_all_read_at_once_whoever_waits_for_them() {
    let (driver, engine) = engine(3, LONG, LONG);
    driver.lock().together = true;
    driver.will(host(TOGETHER), Some(Does::Fail));
    engine.list().unwrap();
    engine.expect(Parts::COUNTERS, &[Uuid::from_u128(0).into()]);
    until(|| (0..3).all(|number| driver.reads(host(number)) == 1));
}

#[test]
fn few_are_read_at_a_time_and_what_hangs_is_not_one_of_them() {
    let driver = Scripted { hosts: 12, in_flight: 2, ..Scripted::default() };
    let (driver, engine) = engine_over(driver, Duration::from_secs(2), Duration::ZERO);
    let (instances, _) = engine.list().unwrap();
    engine.expect(Parts::COUNTERS, &ids(&instances));
    for number in 0..12 {
        ask(&engine, number * INSTANCES).unwrap();
    }
    // And the inventory, which nothing is to hold up.
    assert!(driver.lock().most <= 3);
    // Both threads are held up by hosts that hang: the others, and the inventory, are read all the same.
    driver.will(host(0), Some(Does::Hang));
    driver.will(host(1), Some(Does::Hang));
    engine.expect(Parts::COUNTERS, &ids(&instances));
    let until = Instant::now() + LONG;
    while (2..12).any(|number| ask(&engine, number * INSTANCES).is_err()) {
        assert!(Instant::now() < until);
    }
    driver.will(host(0), None);
    driver.will(host(1), None);
}

#[test]
fn however_many_hosts_hang_the_others_are_read() {
    let many = 2 * u128::try_from(shared::MOST_THREADS).unwrap();
    let (driver, engine) = engine(many, Duration::from_secs(3), Duration::ZERO);
    (1..many).for_each(|number| driver.will(host(number), Some(Does::Fail)));
    let (instances, _) = engine.list().unwrap();
    let everything = ids(&instances);
    let until = Instant::now() + LONG;
    engine.expect(Parts::COUNTERS, &everything);
    while engine.health().away.len() + 1 < usize::try_from(many).unwrap() {
        assert!(Instant::now() < until);
        thread::sleep(Duration::from_millis(10));
    }
    (1..many).for_each(|number| driver.will(host(number), Some(Does::Hang)));
    // All of them are due by now.
    thread::sleep(Duration::from_millis(600));
    for _ in 0..3 {
        engine.list().unwrap();
        engine.expect(Parts::COUNTERS, &everything);
        ask(&engine, 0).unwrap();
    }
    assert!(driver.lock().reading > 0, "none is tried again");
    (1..many).for_each(|number| driver.will(host(number), None));
}

#[test]
fn however_many_instances_are_read_alone_and_hang_hosts_are_read() {
    let (driver, engine) = engine(1, Duration::from_secs(5), Duration::ZERO);
    let here = engine.here.with(Arc::clone);
    here.have(host(0), Instant::now()).unwrap();
    let all: Vec<_> = (0..2 * shared::MOST_THREADS as u128).map(alone).collect();
    hang(&driver, &here, &all);
    until(|| driver.lock().reading >= shared::MOST_ALONE);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(driver.lock().reading, shared::MOST_ALONE);
    here.have(host(0), Instant::now()).unwrap();
    driver.all_will(&all, None);
    until(|| all.iter().all(|one| driver.reads(*one) == 1));
}

/// Has all of these read, and none of them answer.
fn hang(driver: &Scripted, here: &Arc<Shared<Scripted>>, all: &[Batch]) {
    driver.all_will(all, Some(Does::Hang));
    here.expect_batches(&mut here.lock(), all.iter().map(|one| vec![*one]), Instant::now());
}

#[test]
fn however_many_instances_of_a_host_hang_those_of_others_are_read() {
    let (driver, engine) = engine(2, LONG, LONG);
    let here = engine.here.with(Arc::clone);
    let numbers = 100..100 + 2 * shared::MOST_ALONE as u128;
    let of_one =
        |number| Batch::Instance { host: Uuid::from_u128(0), uuid: Uuid::from_u128(number) };
    let all: Vec<_> = numbers.map(of_one).collect();
    hang(&driver, &here, &all);
    until(|| driver.lock().reading >= shared::MOST_ALONE_OF_A_HOST);
    here.have(alone(INSTANCES), Instant::now()).unwrap();
    driver.all_will(&all, None);
    until(|| all.iter().all(|one| driver.reads(*one) == 1));
}

#[test]
fn who_waits_for_a_place_does_not_say_that_its_host_hangs() {
    let hosts = 2 + u128::try_from(shared::MOST_ALONE).unwrap() / INSTANCES;
    let driver = Scripted { hosts, alone: true, read_ahead: Some(0), ..Scripted::default() };
    let (driver, engine) = engine_over(driver, Duration::from_millis(500), Duration::ZERO);
    let here = engine.here.with(Arc::clone);
    let all: Vec<_> = (INSTANCES..hosts * INSTANCES).map(alone).collect();
    hang(&driver, &here, &all);
    until(|| driver.lock().reading == shared::MOST_ALONE);
    ask(&engine, 0).unwrap();
    assert_eq!((driver.reads(alone(0)), engine.health().timeouts), (0, 1));
    assert!(!here.lock().batches.is_in_vain(alone(0)));
    driver.all_will(&all, None);
    until(|| ask(&engine, 1).is_ok() && driver.reads(alone(1)) > 0);
}

#[test]
fn nobody_waits_for_what_is_read_afterwards() {
    let driver = Scripted { hosts: 1, afterwards: vec![alone(3)], ..Scripted::default() };
    let (driver, engine) = engine_over(driver, Duration::from_secs(2), Duration::ZERO);
    driver.will(alone(3), Some(Does::Hang));
    for times in 1..4 {
        ask(&engine, 0).unwrap();
        assert_eq!(driver.reads(host(0)), times);
        until(|| driver.reads(alone(3)) == 1);
    }
    assert_eq!(engine.health().timeouts, 0);
    // While nothing comes of such, one is tried: who asks does not wait for that either.
    ask(&engine, 3).unwrap();
    driver.will(alone(3), Some(Does::Fail));
    let here = engine.here.with(Arc::clone);
    until(|| !here.is_reading());
    assert!(here.lock().batches.is_in_vain(alone(3)));
    thread::sleep(Duration::from_secs(1));
    ask(&engine, 0).unwrap();
    until(|| driver.reads(alone(3)) == 2 && !here.is_reading());
    driver.will(alone(3), None);
    until(|| {
        ask(&engine, 0).unwrap();
        !here.lock().batches.is_in_vain(alone(3))
    });
    assert_eq!(engine.health().timeouts, 1);
}

#[test]
fn nobody_is_logged_in_for_what_is_read_afterwards() {
    let many: Vec<_> = (0..100).map(alone).collect();
    let driver = Scripted { hosts: 1, afterwards: many.clone(), ..Scripted::default() };
    let (driver, engine) = engine_over(driver, LONG, LONG);
    driver.will(alone(0), Some(Does::Hang));
    ask(&engine, 0).unwrap();
    until(|| driver.reads(alone(0)) == 1);
    // The session is over.
    driver.lock().is_logged_out = true;
    driver.will(alone(0), Some(Does::Fail));
    let here = engine.here.with(Arc::clone);
    until(|| !here.is_reading() && here.lock().queue.is_empty());
    assert!(many[1..].iter().all(|one| driver.reads(*one) == 0));
    // Whoever wants one of them has it read.
    ask(&engine, 3).unwrap();
    assert_eq!(driver.reads(alone(3)), 1);
}

#[test]
fn who_waits_for_an_instance_does_not_wait_for_what_is_read_afterwards() {
    let hosts = u128::try_from(shared::MOST_ALONE).unwrap();
    let many: Vec<_> = (INSTANCES..hosts * INSTANCES).map(alone).collect();
    let driver = Scripted { hosts, afterwards: many.clone(), ..Scripted::default() };
    let (driver, engine) = engine_over(driver, LONG, LONG);
    driver.all_will(&many, Some(Does::Hang));
    driver.will(alone(INSTANCES * 2 - 1), None);
    ask(&engine, 0).unwrap();
    let here = engine.here.with(Arc::clone);
    for host in 1..hosts {
        here.have(self::host(host), Instant::now()).unwrap();
    }
    until(|| driver.lock().reading >= shared::MOST_FOR_NOBODY);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(driver.lock().reading, shared::MOST_FOR_NOBODY);
    // One that was not to be read afterwards, and one that waits for that.
    here.have(alone(0), Instant::now()).unwrap();
    here.have(alone(INSTANCES * 2 - 1), Instant::now()).unwrap();
    driver.all_will(&many, None);
    until(|| many.iter().all(|one| driver.reads(*one) > 0));
}

#[test]
fn who_asks_after_close_has_an_instance_read_though_its_host_is_fresh() {
    let (driver, engine) = engine(1, LONG, LONG);
    ask(&engine, 0).unwrap();
    engine.close();
    assert!(!engine.is_connected());
    ask(&engine, 3).unwrap();
    assert_eq!((driver.reads(host(0)), driver.reads(alone(3))), (1, 1));
    assert!(engine.is_connected());
}

#[test]
fn nothing_is_read_afterwards_once_it_is_closed() {
    let many: Vec<_> = (0..100).map(alone).collect();
    let driver = Scripted { hosts: 1, afterwards: many.clone(), ..Scripted::default() };
    let (driver, engine) = engine_over(driver, LONG, LONG);
    driver.will(host(0), Some(Does::Hang));
    engine.list().unwrap();
    engine.expect(Parts::COUNTERS, &[Uuid::from_u128(0).into()]);
    until(|| driver.reads(host(0)) == 1);
    engine.close();
    driver.will(host(0), None);
    let here = engine.here.with(Arc::clone);
    until(|| !here.is_reading() && here.lock().queue.is_empty());
    assert!(many.iter().all(|one| driver.reads(*one) == 0));
    assert!(!engine.is_connected());
}

#[test]
fn all_hosts_are_read_at_once_whether_or_not_they_have_instances() {
    let (driver, engine) = engine(6, LONG, LONG);
    driver.lock().is_empty = true;
    (1..6).for_each(|number| driver.will(host(number), Some(Does::Fail)));
    assert_eq!(engine.hosts().unwrap().len(), 6);
    assert!((0..6).all(|number| driver.reads(host(number)) == 1));
    assert!(driver.lock().most > 1, "they are read one after the other");
}

#[test]
fn without_an_inventory_there_is_no_answer() {
    let (driver, engine) = engine(1, LONG, LONG);
    driver.will(Batch::Inventory, Some(Does::Fail));
    assert!(matches!(engine.list(), Err(Error::ConnectionLost { instance: None, .. })));
    assert!(matches!(ask(&engine, 0), Err(Error::ConnectionLost { instance: Some(_), .. })));
    assert!(engine.health().outage.is_some());
    assert_eq!(driver.reads(host(0)), 0);
}

#[test]
fn a_login_that_is_not_answered_is_told_once_and_so_is_its_end() {
    let (driver, engine) = engine(1, Duration::from_millis(200), LONG);
    driver.lock().is_logged_out = true;
    driver.will(Batch::Inventory, Some(Does::LogInAgain));
    let here = engine.here.with(Arc::clone);
    let told = || here.take_log().into_iter().map(|(_, line)| line).collect::<Vec<_>>();
    let have = || here.have(Batch::Inventory, Instant::now());
    until(|| have().is_err() && !here.lock().log.is_empty());
    have().unwrap_err();
    let lines = told();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("no answer within 200ms: it is still being logged in to"),
        "{lines:?}"
    );
    driver.will(Batch::Inventory, None);
    until(|| have().is_ok());
    assert_eq!(told(), ["scripted:// answers again"]);
}

#[test]
fn a_login_that_fails_is_an_outage_although_somebody_closes_meanwhile() {
    let (driver, engine) = engine(1, LONG, LONG);
    driver.lock().is_logged_out = true;
    driver.will(Batch::Inventory, Some(Does::Hang));
    thread::scope(|scope| {
        let asking = scope.spawn(|| engine.list().is_err());
        until(|| driver.lock().reading == 1);
        engine.close();
        driver.will(Batch::Inventory, Some(Does::FailToLogIn));
        assert!(asking.join().unwrap());
    });
    assert_eq!(driver.reads(Batch::Inventory), 1);
    assert!(engine.health().outage.is_some());
}

#[test]
fn what_is_read_of_one_instance_alone_may_fail() {
    let (driver, engine) = engine(1, LONG, LONG);
    driver.will(alone(3), Some(Does::Fail));
    ask(&engine, 3).unwrap();
    assert_eq!(driver.reads(alone(3)), 1);
}

#[test]
fn what_is_read_of_one_instance_alone_is_read_ahead_of_its_caller() {
    let (driver, engine) = engine(3, LONG, LONG);
    ask(&engine, 3).unwrap();
    ask(&engine, 7).unwrap();
    ask(&engine, 11).unwrap();
    assert_eq!([3, 7, 11].map(|number| driver.reads(alone(number))), [1; 3]);
    assert!(driver.lock().most > 1, "they are read one after the other");
}

#[test]
fn who_waits_in_vain_for_one_instance_alone_waits_for_no_other_of_its_host() {
    let driver = Scripted { hosts: 2, alone: true, read_ahead: Some(0), ..Scripted::default() };
    let (driver, engine) = engine_over(driver, Duration::from_secs(1), Duration::ZERO);
    let reads = || [0, 1, 2, 3].map(|number| driver.reads(alone(number)));
    let all = || (0..2 * INSTANCES).for_each(|number| ask(&engine, number).unwrap());
    (0..INSTANCES).for_each(|number| driver.will(alone(number), Some(Does::Hang)));
    all();
    assert_eq!(engine.health().timeouts, 1);
    // One is tried, and those of the other host are read as always.
    all();
    assert_eq!((engine.health().timeouts, reads()), (1, [1, 1, 0, 0]));
    assert!((INSTANCES..2 * INSTANCES).all(|number| driver.reads(alone(number)) == 2));
    (0..INSTANCES).for_each(|number| driver.will(alone(number), None));
    until(|| {
        all();
        reads().iter().all(|reads| *reads > 1)
    });
    assert_eq!(engine.health().timeouts, 1);
}

#[test]
fn one_that_was_read_before_does_not_say_that_its_host_answers() {
    let driver = Scripted { hosts: 1, alone: true, read_ahead: Some(0), ..Scripted::default() };
    let (driver, engine) = engine_over(driver, Duration::from_secs(1), LONG);
    ask(&engine, 0).unwrap();
    (0..INSTANCES).for_each(|number| driver.will(alone(number), Some(Does::Hang)));
    for number in [1, 0, 2, 0, 3] {
        ask(&engine, number).unwrap();
    }
    assert_eq!(engine.health().timeouts, 1);
    (0..INSTANCES).for_each(|number| driver.will(alone(number), None));
}

#[test]
fn what_fails_as_somebody_has_logged_out_is_read_again() {
    for lost in [Batch::Inventory, host(0)] {
        let (driver, engine) = engine(1, Duration::from_secs(60), Duration::ZERO);
        driver.will(lost, Some(Does::LoseSession));
        thread::scope(|scope| {
            let asked = scope.spawn(|| ask(&engine, 0));
            until(|| driver.reads(lost) > 0);
            engine.close();
            assert_eq!(asked.join().unwrap(), Ok(()));
        });
        assert_eq!(driver.reads(lost), 2);
        let health = engine.health();
        assert!(health.away.is_empty() && health.outage.is_none());
    }
}

#[test]
fn what_does_not_answer_has_failed_although_somebody_has_logged_out() {
    for hung in [Batch::Inventory, host(1)] {
        let (driver, engine) = engine(2, Duration::from_millis(500), Duration::ZERO);
        engine.list().unwrap();
        let reads = driver.reads(hung);
        driver.will(hung, Some(Does::Hang));
        let here = engine.here.with(Arc::clone);
        here.expect_batches(&mut here.lock(), [vec![hung]], Instant::now());
        until(|| driver.reads(hung) > reads);
        engine.close();
        thread::sleep(Duration::from_millis(500));
        driver.will(hung, Some(Does::Fail));
        until(|| !here.is_reading());
        let health = engine.health();
        assert_eq!(health.away.len() + usize::from(health.outage.is_some()), 1, "{hung:?}");
        driver.will(hung, None);
    }
}

#[test]
fn what_was_stopped_with_the_process_is_not_blamed_though_nobody_waits_for_it() {
    let (driver, engine) = engine(2, Duration::from_millis(50), Duration::ZERO);
    engine.list().unwrap();
    driver.will(host(1), Some(Does::Hang));
    engine.expect(Parts::COUNTERS, &[Uuid::from_u128(4).into()]);
    until(|| driver.reads(host(1)) == 1);
    // As if it had been stopped, it comes back long after its deadline.
    thread::sleep(Duration::from_secs(1));
    driver.will(host(1), Some(Does::Fail));
    let here = engine.here.with(Arc::clone);
    until(|| !here.is_reading());
    driver.will(host(1), None);
    let health = engine.health();
    assert!(health.away.is_empty() && health.outage.is_none());
}

#[test]
fn what_logs_in_again_for_nobody_logs_out() {
    let (driver, engine) = engine(1, LONG, LONG);
    engine.list().unwrap();
    driver.will(host(0), Some(Does::LogInAgain));
    engine.expect(Parts::COUNTERS, &[Uuid::from_u128(0).into()]);
    until(|| driver.reads(host(0)) == 1);
    engine.close();
    until(|| driver.lock().closed == 2);
    assert!(!engine.is_connected());
}

#[test]
fn who_is_dropped_logs_out() {
    let (driver, engine) = engine(1, LONG, LONG);
    ask(&engine, 0).unwrap();
    drop(engine);
    let mut world = driver.lock();
    while world.closed == 0 {
        let waited;
        (world, waited) = driver.world.1.wait_timeout(world, LONG).unwrap();
        assert!(!waited.timed_out());
    }
    assert_eq!(world.closed, 1);
}
