//! What is read before anybody asks for it.

use super::*;

#[test]
fn in_a_steady_order_the_next_readings_are_taken_ahead() {
    let mut host = Host::new(LIMITS);
    for vm in 1..=20 {
        host.read(key(Kind::Stats, vm)).unwrap();
    }
    assert_eq!(host.scheduler.health.read_ahead, 0, "nothing is known yet");
    host.wait(SECOND);
    host.cycle(20);
    let before = host.scheduler.health.read_ahead;
    host.cycle(20);
    let ahead = host.scheduler.health.read_ahead - before;
    assert!(ahead >= 77, "{ahead} of 80");
    // A caller gets what is there without a thread.
    host.wait(SECOND);
    for vm in 1..=4 {
        host.read(key(Kind::Stats, vm)).unwrap();
    }
    host.finish_all();
    host.ask(0, key(Kind::Stats, 5));
    assert!(host.asking.is_empty());
    host.ask(0, key(Kind::Sizes, 5));
    assert!(host.asking.is_empty(), "one reading serves all methods");
}

#[test]
fn who_says_what_it_will_ask_has_that_read_ahead_and_no_more() {
    let mut host = Host::new(LIMITS);
    let ids: Vec<InstanceId> = (1..=20).map(|vm| Uuid::from_u128(vm).into()).collect();
    for pass in 1..=2 {
        host.scheduler.expect(host.callers[0], &ids, host.now);
        for vm in 1..=20 {
            host.read(key(Kind::Counters, vm)).unwrap();
        }
        assert_eq!(host.scheduler.health.read_ahead, 19 * pass);
        host.finish_all();
        assert_eq!(host.readings, 20 * pass, "nothing for the next pass");
    }
}

#[test]
fn who_asks_about_one_instance_pays_for_that_one() {
    let mut host = Host::new(LIMITS);
    host.cycle(20);
    host.cycle(20);
    host.wait(10 * SECOND);
    let before = host.readings;
    for _ in 0..5 {
        host.read(key(Kind::Disks, 7)).unwrap();
        host.finish_all();
        host.wait(10 * SECOND);
    }
    assert_eq!(host.readings - before, 5);
}

#[test]
fn what_was_read_just_before_is_no_sign_of_life() {
    let mut host = Host::new(LIMITS);
    host.cycle(6);
    host.cycle(6);
    let is_read = |host: &Host| {
        let slot = Slot { lane: Lane::Guest, uuid: Uuid::from_u128(4) };
        host.scheduler.tasks.get(&slot).is_some_and(|task| task.parts.has(Parts::STATS))
    };
    // Some are read ahead for the next pass.
    host.read(key(Kind::Stats, 1)).unwrap();
    host.read(key(Kind::Stats, 2)).unwrap();
    host.finish_all();
    assert!(host.scheduler.ready.contains_key(&key(Kind::Stats, 4)));
    host.scheduler.ready.remove(&key(Kind::Stats, 3));
    host.ask(0, key(Kind::Stats, 3));
    host.start();
    assert!(!is_read(&host));
    host.wait(LIMITS.held_up());
    assert!(is_read(&host), "it is asked again");
}
