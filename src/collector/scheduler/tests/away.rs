//! Callers that are away, and a process that is stopped.

use super::super::away::MOST_SLEEPS;
use super::*;

#[test]
fn a_handler_that_asks_what_its_interrupted_caller_waits_for_takes_its_place() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    let (mut outer, _) = host.asking.remove(&0).unwrap();
    host.scheduler.suspend(&outer, host.now);
    host.ask(0, key(Kind::Disks, 1));
    host.finish(0, Ok(()));
    let (_, inner) = host.answers.pop().expect("the handler has the reading");
    host.wait(SECOND);
    let resumed = host.now;
    host.scheduler.resume(&mut outer, host.now);
    host.asking.insert(0, (outer, host.now));
    host.look();
    host.start();
    host.finish(0, Ok(()));
    let (_, outer) = host.answers.pop().expect("the caller has another one");
    assert!(inner.unwrap().begun < outer.unwrap().begun);
    assert!(host.scheduler.suspended.is_empty());
    assert_eq!(resumed, host.now);
}

#[test]
fn a_caller_whose_handlers_take_its_place_again_and_again_gives_up_in_time_and_blames_nobody() {
    let mut host = Host::new(LIMITS);
    let began = host.now;
    host.ask(0, key(Kind::Disks, 1));
    while host.asking.contains_key(&0) {
        host.go_away(0);
        host.read(key(Kind::Disks, 1)).unwrap();
        host.now += SECOND;
        host.come_back(0);
        assert!(host.now - began <= 2 * LIMITS.timeout);
    }
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))));
    assert_eq!(host.scheduler.health(host.now).hung, []);
}

#[test]
fn a_caller_that_is_away_for_a_moment_keeps_its_place() {
    let mut host = Host::new(LIMITS);
    for caller in 0..3 {
        host.ask(caller, key(Kind::Disks, 1));
    }
    host.start();
    host.go_away(1);
    host.wait(LIMITS.held_up() / 4);
    host.finish(0, Ok(()));
    assert_eq!(host.answers.len(), 1, "the first one's");
    host.start();
    assert_eq!(host.taking.len(), 0, "the third one waits for it");
    host.wait(LIMITS.held_up() / 4);
    host.come_back(1);
    host.start();
    host.finish(0, Ok(()));
    assert!(host.asking.contains_key(&2) && !host.asking.contains_key(&1), "it is its turn");
}

#[test]
fn nobody_waits_for_a_caller_that_stays_away() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.ask(1, key(Kind::Disks, 1));
    host.start();
    host.go_away(0);
    host.finish(0, Ok(()));
    assert!(host.answers.is_empty());
    host.wait(LIMITS.slow());
    assert!(host.answers.is_empty(), "it may be back soon");
    host.wait(LIMITS.held_up());
    assert_eq!(host.answers.len(), 1, "it is handed to who waits");
    assert!(host.asking.is_empty());
}

#[test]
fn a_caller_that_was_away_goes_on_where_it_was() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.ask(1, key(Kind::Disks, 1));
    host.start();
    host.go_away(0);
    host.finish(0, Ok(()));
    assert!(host.answers.is_empty(), "the one that was read is not another caller's");
    host.come_back(0);
    assert_eq!(host.answers.len(), 1);
    assert!(host.asking.contains_key(&1));
}

#[test]
fn a_caller_that_was_away_for_long_takes_nothing_from_those_who_wait() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.ask(1, key(Kind::Disks, 2));
    host.start();
    let start = host.now;
    host.wait(SECOND / 10);
    host.go_away(0);
    for _ in 0..30 {
        host.wait(SECOND / 10);
    }
    assert_eq!(host.come_back(0), None, "one has been awake");
    host.finish_all();
    let begun: Vec<_> = host.answers.drain(..).map(|(_, answer)| answer.unwrap().begun).collect();
    assert_eq!(begun, [start; 2], "each has what was read for it");
}

#[test]
fn a_caller_that_was_away_has_its_time_after_that_once_and_its_reading_as_well() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    let began = host.now;
    for stopped in [Some(4 * SECOND), None] {
        host.go_away(0);
        host.now += 4 * SECOND;
        assert_eq!(host.come_back(0), stopped);
        assert_eq!(host.answers.len(), 0);
    }
    host.finish(0, Ok(()));
    assert_eq!(host.answers.pop().unwrap().1.unwrap().begun, began);
    assert_eq!(host.scheduler.health(host.now).hung, []);
}

#[test]
fn who_wakes_up_far_too_late_blames_nobody_and_asks_anew_a_few_times() {
    let mut host = Host::new(LIMITS);
    let wakes = |host: &mut Host, caller: usize, wanted: Instant| {
        let request = &mut host.asking.get_mut(&caller).unwrap().0;
        host.scheduler.wakes(request, wanted, host.now)
    };
    host.ask(0, key(Kind::Disks, 1));
    host.ask(1, key(Kind::Disks, 2));
    host.start();
    let wanted = host.now + MOMENT;
    host.now += 60 * SECOND;
    assert_eq!(wakes(&mut host, 0, wanted), Some(Duration::from_millis(59_999)));
    assert_eq!(wakes(&mut host, 1, wanted), None, "the same stop");
    for (_, asked) in host.asking.values_mut() {
        *asked = host.now;
    }
    host.look();
    assert!(host.scheduler.is_reachable());
    // What was read before the stop is handed to nobody.
    let stopped = host.now;
    host.finish_all();
    let begun: Vec<_> = host.answers.drain(..).map(|(_, answer)| answer.unwrap().begun).collect();
    assert_eq!(begun, [stopped; 2]);
    assert_eq!(host.scheduler.health(host.now).hung, []);
    // Where there is no CPU at all, a caller still gives up in the end.
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    host.probe(true, true);
    for _ in 0..=MOST_SLEEPS {
        let wanted = host.now + MOMENT;
        host.now += LIMITS.timeout / 2;
        assert!(wakes(&mut host, 0, wanted).is_some());
    }
    host.wait(LIMITS.timeout / 2);
    assert!(host.answers.pop().unwrap().1.is_err());
    assert_eq!(host.scheduler.health(host.now).hung, []);
}

/// As where another thread has Python's lock again and again, while the prober goes on.
#[test]
fn a_guest_that_hangs_is_found_though_all_callers_are_away_again_and_again() {
    let mut host = Host::new(LIMITS);
    let away = LIMITS.stopped();
    for pause in 0..40 {
        // Each time it is another request.
        host.ask(0, key(Kind::Disks, 1));
        host.start();
        host.go_away(0);
        for _ in 0..2 {
            let since = host.now;
            host.now += away / 2;
            host.scheduler.was_awake(since, host.now);
        }
        host.probe(false, true);
        assert_eq!(host.come_back(0), None);
        if host.scheduler.quarantine.has(Uuid::from_u128(1)) {
            assert!(pause * away < 3 * LIMITS.timeout);
            return;
        }
        host.leave(0);
    }
    panic!("it is never found");
}

#[test]
fn who_was_awake_after_a_stop_hides_none() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    host.wait(MOMENT);
    let begun = host.now;
    host.now += 6 * SECOND;
    // Whoever waits at the stop, and goes on after it.
    host.scheduler.was_awake(begun, host.now);
    let after = host.now;
    host.now += MOMENT;
    host.scheduler.was_awake(after, host.now);
    let (request, _) = host.asking.get_mut(&0).unwrap();
    let stopped = host.scheduler.wakes(request, begun, host.now);
    assert_eq!(stopped, Some(6 * SECOND + MOMENT));
}

#[test]
fn a_stop_while_nobody_waits_blames_nobody() {
    // After it, one asks for something else, or for what is in flight still.
    for asked in [4, 3] {
        let mut host = Host::new(LIMITS);
        for vm in [1, 2, 3] {
            host.ask(0, key(Kind::Disks, vm));
            host.start();
            host.leave(0);
        }
        host.now += 6 * SECOND;
        // The first thread is back before any other.
        host.finish(0, Ok(()));
        host.ask(0, key(Kind::Disks, asked));
        assert_eq!(host.scheduler.health(host.now).hung, [], "{asked}");
        host.finish(1, Ok(()));
        host.start();
        host.finish(1, Ok(()));
        assert!(host.answers.pop().unwrap().1.is_ok());
        // One that is not back a moment later hangs.
        host.ask(0, key(Kind::Disks, 1));
        host.wait(LIMITS.held_up());
        let hung = host.scheduler.health(host.now).hung;
        assert_eq!(hung.into_iter().map(|(id, _)| id.uuid.as_u128()).collect::<Vec<_>>(), [2]);
    }
}
