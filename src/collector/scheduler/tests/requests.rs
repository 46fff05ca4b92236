//! Who gets which reading, and how old it may be.

use super::*;

#[test]
fn what_was_begun_for_one_who_left_may_be_too_old_for_the_next() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    let (request, _) = host.asking.remove(&0).unwrap();
    host.scheduler.leave(&request);
    host.now += 2 * LIMITS.max_age();
    let asked = host.now;
    host.ask(1, key(Kind::Disks, 1));
    while let Some((job, began)) = host.taking.pop() {
        let answer = Ok(parts_of(&job, job.id, began));
        host.scheduler.idle += 1;
        host.scheduler.finish(&job, Finished { answer, busy: None }, host.now);
        host.look();
        host.start();
    }
    let (_, answer) = host.answers.pop().unwrap();
    assert!(answer.unwrap().begun >= asked);
}

#[test]
fn those_who_ask_the_same_are_served_in_turn() {
    let mut host = Host::new(LIMITS);
    let (mut served, mut order) = ([0; 3], Vec::new());
    (0..3).for_each(|caller| host.ask(caller, key(Kind::Disks, 1)));
    for _ in 0..30 {
        host.start();
        host.finish(0, Ok(()));
        for (caller, served) in served.iter_mut().enumerate() {
            if !host.asking.contains_key(&caller) {
                *served += 1;
                order.push(caller);
                // At once, before the others look.
                host.ask(caller, key(Kind::Disks, 1));
            }
        }
    }
    assert_eq!(served, [10; 3], "{order:?}");
    (0..3).for_each(|caller| host.leave(caller));
    assert!(host.scheduler.waiting.is_empty());
}

#[test]
fn a_list_is_not_one_that_was_begun_before_it_was_asked_for() {
    let mut host = Host::new(LIMITS);
    host.ask(0, list());
    host.start();
    host.leave(0);
    host.wait(MOMENT);
    let asked = host.now;
    host.ask(1, list());
    host.finish(0, Ok(()));
    assert!(host.answers.is_empty());
    host.start();
    host.finish(0, Ok(()));
    let (_, answer) = host.answers.pop().unwrap();
    assert!(answer.unwrap().begun >= asked);
}

#[test]
fn what_does_not_exist_is_not_remembered() {
    let mut host = Host::new(LIMITS);
    host.read(key(Kind::Disks, 1)).unwrap();
    host.finish_all();
    assert!(host.scheduler.habits.is_trusted(Uuid::from_u128(1)));
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    let failure = Failure::of_libvirt(42, 10, "no domain".to_owned());
    let instance = Uuid::from_u128(1).into();
    host.finish(0, Err(Error::InstanceNotFound { instance, gone: true, failure }));
    assert!(!host.scheduler.habits.is_trusted(Uuid::from_u128(1)));
}

#[test]
fn what_a_guest_was_busy_with_is_not_told_for_long() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Stats, 1));
    host.start();
    let (job, begun) = host.taking.pop().unwrap();
    let (answer, busy) = (Ok(parts_of(&job, 1, begun)), Some("saving"));
    host.scheduler.finish(&job, Finished { answer, busy }, host.now);
    assert_eq!(host.scheduler.health(host.now + 59 * SECOND).busy.len(), 1);
    assert_eq!(host.scheduler.health(host.now + 60 * SECOND).busy, []);
}

#[test]
fn a_reading_that_is_too_old_is_not_handed_out() {
    let mut host = Host::new(LIMITS);
    host.cycle(5);
    host.cycle(5);
    host.finish_all();
    for vm in 1..=3 {
        host.read(key(Kind::Stats, vm)).unwrap();
    }
    host.finish_all();
    let taken = host.now;
    assert!(host.scheduler.ready.contains_key(&key(Kind::Stats, 4)));
    host.wait(LIMITS.max_age());
    let value = host.read(key(Kind::Stats, 4)).unwrap();
    assert!(value.begun > taken);
    assert!(host.scheduler.health.wasted > 0);
}

#[test]
fn a_reading_whose_connection_broke_is_taken_once_more() {
    let mut host = Host::new(LIMITS);
    for answers in 0..2 {
        host.ask(0, key(Kind::Disks, 1));
        host.start();
        host.finish(0, Err(lost()));
        assert_eq!((host.answers.len(), host.taking.len()), (answers, 0));
        host.start();
        host.finish(0, if answers == 0 { Err(lost()) } else { Ok(()) });
    }
    assert!(matches!(host.answers.remove(0), (_, Err(Error::ConnectionLost { .. }))));
    assert!(host.answers.remove(0).1.is_ok());
    assert!(host.scheduler.is_reachable(), "others may serve");
}

#[test]
fn outages_that_are_over_before_a_caller_looks_do_not_make_its_guest_hang() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    for _ in 0..3 {
        host.start();
        host.blink();
        host.wait(MOMENT);
        assert_eq!(host.answers.len(), 0, "it has its time");
    }
    host.finish_all();
    assert!(matches!(host.answers.pop(), Some((_, Ok(_)))));
    host.ask(0, key(Kind::Disks, 1));
    for _ in 0..LIMITS.timeout.as_secs() {
        assert_eq!(host.answers.len(), 0);
        host.start();
        host.blink();
        host.wait(SECOND);
    }
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))), "and no more");
    assert_eq!(host.scheduler.health(host.now).hung, [], "nobody knows");
}
