//! Guests that hang, and who is to blame.

use super::*;

#[test]
fn who_goes_on_with_more_time_waits_for_what_was_given_up() {
    let mut host = Host::new(Limits { timeout: SECOND, ..LIMITS });
    let uuid = Uuid::from_u128(1);
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    host.wait(SECOND / 2);
    host.probe(true, true);
    host.wait(SECOND / 2);
    assert!(host.scheduler.quarantine.has(uuid));
    host.answers.clear();
    host.scheduler.goes_on(LIMITS, host.now);
    assert!(!host.scheduler.quarantine.has(uuid));
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    assert!(host.answers.is_empty(), "it is waited for");
    host.finish_all();
    assert!(matches!(host.answers.pop(), Some((_, Ok(_)))));
    // One that has hung for so long hangs for this one as well.
    let mut host = with_one_that_hangs(1);
    host.scheduler.goes_on(LIMITS, host.now);
    assert!(host.scheduler.quarantine.has(uuid));
}

#[test]
fn a_guest_that_hangs_costs_one_timeout_and_comes_back() {
    let mut host = Host::new(LIMITS);
    host.read(key(Kind::Stats, 2)).unwrap();
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    host.wait(4 * SECOND);
    // The hypervisor answers others: it is the guest's fault.
    host.ask(1, key(Kind::Nics, 2));
    host.start();
    host.finish(1, Ok(()));
    host.wait(SECOND);
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))));
    host.ask(0, key(Kind::Sizes, 1));
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))), "at once");
    // What needs no answer of the guest is read while its thread is still stuck.
    host.answers.clear();
    host.ask(0, key(Kind::Nics, 1));
    host.ask(1, key(Kind::Stats, 1));
    host.start();
    let taking =
        |host: &Host| host.taking.iter().map(|(job, _)| (job.parts, job.reach)).collect::<Vec<_>>();
    let in_guest = (Parts::DISKS, Reach::Guest);
    let both = Parts::NICS.and(Parts::STATS);
    assert_eq!(taking(&host), [in_guest, (both, Reach::Hypervisor)], "both at once");
    host.finish(1, Ok(()));
    assert_eq!(host.answers.len(), 2);
    assert_eq!(host.scheduler.health(host.now).hung.len(), 1);
    host.probe(false, true);
    assert_eq!(host.scheduler.health(host.now).hung.len(), 1);
    host.finish(0, Ok(()));
    assert_eq!(host.scheduler.health.late, 1);
    host.wait(SECOND);
    host.probe(true, true);
    assert_eq!(host.scheduler.health(host.now).hung, []);
    host.read(key(Kind::Disks, 1)).unwrap();
}

#[test]
fn one_whose_uuid_is_nil_hangs_like_any_other() {
    let mut host = with_one_that_hangs(0);
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))));
    let vm: InstanceId = Uuid::nil().into();
    host.scheduler.leave_unprobed(&vm, host.now);
    assert_eq!(host.scheduler.health(host.now).locked, [vm]);
    host.ask(1, list());
    host.start();
    host.finish(1, Ok(()));
    assert!(matches!(host.answers.pop(), Some((_, Ok(_)))));
}

#[test]
fn a_question_that_is_out_for_long_locks_its_instance_for_no_longer() {
    let mut host = with_one_that_hangs(1);
    host.finish(0, Ok(()));
    let vm: InstanceId = Uuid::from_u128(1).into();
    let is_locked = |host: &Host| host.scheduler.is_locked(vm.uuid, host.now);
    for _ in 0..4 * 5 {
        // Nobody else can be sent meanwhile.
        host.scheduler.leave_unprobed(&vm, host.now);
        assert!(is_locked(&host));
        host.wait(LIMITS.timeout / 5);
    }
    host.scheduler.leave_unprobed(&vm, host.now);
    assert!(!is_locked(&host), "it is tried again");
    let told = host.scheduler.log.iter().filter(|(_, line)| line.contains("waiting for instance"));
    assert_eq!(told.count(), 1);
}

/// A VM that is being killed hangs as a guest, and hangs the list.
#[test]
fn one_that_hangs_and_is_locked_is_asked_after_once() {
    let mut host = with_one_that_hangs(1);
    let vms: Vec<InstanceId> = (1..=4).map(|vm| Uuid::from_u128(vm).into()).collect();
    host.scheduler.listed(vms.clone(), host.now);
    host.ask(1, list());
    host.start();
    // First whether the hypervisor answers at all, which takes a while.
    let nobody = host.scheduler.probe(host.now, false, false, true);
    assert!(matches!(nobody, Probe::Ask(instance) if instance.uuid == NO_INSTANCE));
    host.wait(LIMITS.held_up());
    host.scheduler.probed(&NO_INSTANCE.into(), &Ok(None), host.now);
    let mut asked = Vec::new();
    while let Probe::Ask(instance) = host.scheduler.probe(host.now, false, false, true) {
        asked.push(instance.clone());
        if instance == vms[0] {
            host.scheduler.leave_unprobed(&instance, host.now);
        } else {
            host.scheduler.probed(&instance, &Ok(Some(true)), host.now);
        }
    }
    asked.retain(|instance| instance.uuid != NO_INSTANCE);
    asked.sort_by_key(|instance| instance.uuid);
    assert_eq!(asked, vms);
}

#[test]
fn an_instance_is_not_locked_if_a_call_about_it_was_refused() {
    let uuid = Uuid::from_u128(1);
    for (answer, is_locked) in [(lost(), true), (refused_about(uuid), false)] {
        let mut host = Host::new(LIMITS);
        host.ask(0, key(Kind::Nics, 1));
        host.start();
        host.scheduler.leave_unprobed(&uuid.into(), host.now);
        host.finish(0, Err(answer));
        assert_eq!(host.scheduler.is_locked(uuid, host.now), is_locked);
        assert_eq!(host.scheduler.health(host.now).locked.len(), usize::from(is_locked));
    }
}

#[test]
fn those_that_hang_together_are_given_up_together() {
    let mut host = Host::new(LIMITS);
    host.cycle(6);
    host.cycle(6);
    host.wait(10 * SECOND);
    let stuck = [2, 4].map(Uuid::from_u128);
    let finish_others = |host: &mut Host| {
        for _ in 0..50 {
            host.start();
            let able = |(job, _): &(Job, _)| !stuck.contains(&job.slot.uuid) || leaves_guest(job);
            match host.taking.iter().position(able) {
                Some(which) => host.finish(which, Ok(())),
                None => break,
            }
        }
    };
    host.ask(0, key(Kind::Disks, 2));
    for _ in 0..11 {
        finish_others(&mut host);
        host.probe(false, true);
        host.wait(SECOND / 2);
    }
    assert_eq!(host.scheduler.health.timeouts, 1);
    let hung: Vec<_> =
        host.scheduler.health(host.now).hung.into_iter().map(|(id, _)| id.uuid).collect();
    assert_eq!(hung, stuck);
}

#[test]
fn when_too_many_hang_nobody_waits_for_another_guest() {
    let mut host = Host::new(LIMITS);
    // With three workers and two more, four may wait for guests.
    for vm in 1..=4 {
        host.ask(0, key(Kind::Disks, vm));
        host.start();
        for _ in 0..11 {
            host.wait(SECOND / 2);
            host.probe(false, true);
        }
        assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))));
    }
    host.ask(0, key(Kind::Disks, 5));
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))), "at once");
    host.ask(0, key(Kind::Stats, 5));
    host.start();
    assert!(host.taking.last().is_some_and(|(job, _)| leaves_guest(job)), "without its guest");
    host.finish(4, Ok(()));
    host.read(key(Kind::Nics, 5)).unwrap();
    // One that comes back makes room.
    host.finish(0, Ok(()));
    host.read(key(Kind::Disks, 5)).unwrap();
}

#[test]
fn a_guest_that_is_said_to_be_free_and_never_answers_takes_two_calls_and_no_more() {
    let mut host = Host::new(LIMITS);
    for _ in 0..600 {
        host.ask(0, key(Kind::Disks, 1));
        host.start();
        host.probe(true, true);
        host.wait(SECOND / 2);
        let calls = host.taking.iter().filter(|(job, _)| !leaves_guest(job)).count();
        assert!(calls <= 2, "{calls} calls in one guest");
    }
    assert_eq!(host.scheduler.health(host.now).hung.len(), 1, "and that is known");
    host.answers.clear();
    host.ask(1, key(Kind::Disks, 2));
    host.start();
    host.finish(host.taking.len() - 1, Ok(()));
    assert!(matches!(host.answers.pop(), Some((_, Ok(_)))), "others are read as ever");
}

#[test]
fn a_guest_that_cannot_be_asked_after_takes_one_call() {
    let mut host = Host::new(LIMITS);
    for _ in 0..600 {
        host.ask(0, key(Kind::Disks, 1));
        host.start();
        host.probe_in_vain(true);
        host.wait(SECOND / 2);
        let calls = host.taking.iter().filter(|(job, _)| !leaves_guest(job)).count();
        assert!(calls <= 1, "{calls} calls in one guest");
    }
    assert_eq!(host.scheduler.health(host.now).hung.len(), 1, "and that is known");
}

#[test]
fn all_who_wait_for_a_guest_that_begins_to_hang_are_told_what_is_known_of_it() {
    for kind in [Kind::Stats, Kind::Counters, Kind::Details] {
        let mut host = Host::new(LIMITS);
        // Its disks are wanted as well, so that the guest is waited for.
        host.ask(0, key(Kind::Disks, 0));
        host.finish_all();
        host.ask(0, key(kind, 0));
        host.start();
        host.wait(SECOND / 100);
        host.ask(1, key(kind, 0));
        host.ask(2, key(kind, 0));
        host.start();
        host.answers.clear();
        for _ in 0..8 {
            host.wait(LIMITS.timeout / 4);
            host.probe(false, true);
            host.start();
            let others = host.taking.iter().position(|(job, _)| leaves_guest(job));
            if let Some(which) = others {
                host.finish(which, Ok(()));
            }
        }
        assert!(host.asking.is_empty(), "{kind:?}");
        assert_eq!(host.answers.len(), 3);
        assert!(host.answers.iter().all(|(_, answer)| answer.is_ok()), "{:?}", host.answers);
    }
}

#[test]
fn a_guest_is_asked_after_again_once_the_question_was_lost_with_its_connection() {
    let mut host = with_one_that_hangs(1);
    assert_eq!(host.scheduler.health(host.now).hung.len(), 1);
    let vm: InstanceId = Uuid::from_u128(1).into();
    host.scheduler.leave_unprobed(&vm, host.now);
    host.scheduler.probed(&vm, &Err(lost()), host.now);
    // Its call is lost as well.
    for _ in 0..60 {
        host.probe(true, true);
        host.wait(SECOND / 2);
    }
    assert_eq!(host.scheduler.health(host.now).hung, []);
}

#[test]
fn a_guest_of_which_nothing_is_told_has_not_been_free_meanwhile() {
    let mut host = with_one_that_hangs(1);
    let hung = |host: &Host| host.scheduler.health(host.now).hung.len();
    host.probe_in_vain(true);
    assert_eq!(hung(&host), 1);
    host.wait(LIMITS.timeout / 2);
    host.probe(true, true);
    for number in 0..20 {
        host.probe_in_vain(number % 2 == 0);
        host.wait(LIMITS.timeout / 2);
    }
    // Its call is lost only once nobody has waited for it for twice the timeout.
    for _ in 0..4 {
        host.probe(true, true);
        assert_eq!(hung(&host), 1);
        host.wait(LIMITS.timeout / 2);
    }
    for _ in 0..4 {
        host.probe(true, true);
        host.wait(LIMITS.timeout / 2);
    }
    assert_eq!(hung(&host), 0);
}
