//! Threads: those that cannot be started, and those that do not come back.

use super::*;

#[test]
fn a_hypervisor_that_no_thread_can_ask_is_not_said_to_be_silent() {
    let mut host = Host::new(LIMITS);
    let problem = std::io::ErrorKind::WouldBlock.into();
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    host.wait(LIMITS.timeout / 2);
    host.scheduler.started_prober(Some(&problem), host.now);
    host.wait(LIMITS.timeout / 2);
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))));
    assert!(host.scheduler.is_reachable());
    // Nor are other guests, or the list, said to hang: nobody has asked.
    host.scheduler.started_thread(Some(&problem), host.now);
    host.ask(0, key(Kind::Disks, 2));
    host.ask(1, list());
    host.wait(LIMITS.timeout);
    for (_, answer) in std::mem::take(&mut host.answers) {
        assert!(answer.unwrap_err().to_string().contains(NO_THREAD));
    }
    let told = host.scheduler.log.iter().filter(|(_, line)| line.contains("thread")).count();
    assert_eq!(told, 1);
    // Once its call has returned, it is tried again.
    host.finish(0, Ok(()));
    host.scheduler.hear(Some(host.now));
    host.wait(2 * LIMITS.timeout);
    host.read(key(Kind::Disks, 1)).unwrap();
}

#[test]
fn what_no_thread_could_ask_is_said_to_hang_only_for_a_reason_of_its_own() {
    let problem = std::io::ErrorKind::WouldBlock.into();
    let vm: InstanceId = Uuid::from_u128(2).into();
    for (locked, kind, vm_asked, no_thread) in [
        (false, Kind::Nics, Some(2), true),
        (true, Kind::Nics, Some(2), false),
        (false, Kind::List, None, true),
    ] {
        for opens in [false, true] {
            let mut host = Host::new(LIMITS);
            // The only thread is stuck with something else.
            host.scheduler.keep_house(Kind::HostCpus, host.now);
            if opens {
                host.scheduler.threads += 1;
                host.scheduler.idle += 1;
                host.dial();
            } else {
                host.start();
            }
            let wait = |host: &mut Host| {
                for _ in 0..5 {
                    host.scheduler.hear(Some(host.now));
                    host.wait(LIMITS.timeout / 5);
                }
            };
            wait(&mut host);
            host.scheduler.give_up_unclaimed(host.now);
            host.scheduler.started_thread(Some(&problem), host.now);
            if locked {
                host.scheduler.leave_unprobed(&vm, host.now);
            }
            host.ask(0, vm_asked.map_or_else(list, |vm| key(kind, vm)));
            wait(&mut host);
            let (_, answer) = host.answers.pop().expect("an answer");
            let error = answer.unwrap_err().to_string();
            assert_eq!(error.contains(NO_THREAD), no_thread, "{error}");
        }
    }
}

#[test]
fn each_shortage_of_threads_is_told_once_and_no_more_than_one_a_minute() {
    let mut host = Host::new(LIMITS);
    let problem: std::io::Error = std::io::ErrorKind::WouldBlock.into();
    let told = |host: &Host| {
        host.scheduler.log.iter().filter(|(_, line)| line.contains("another thread")).count()
    };
    for (shortage, seconds) in [10, 180, 180].into_iter().enumerate() {
        for _ in 0..seconds {
            host.scheduler.started_thread(Some(&problem), host.now);
            host.scheduler.started_prober(Some(&problem), host.now);
            host.wait(SECOND);
        }
        assert_eq!(told(&host), shortage + 1, "and a long one always");
        host.scheduler.started_thread(None, host.now);
        host.scheduler.started_prober(None, host.now);
    }
}

#[test]
fn what_no_thread_reads_is_worth_more_than_what_hangs() {
    let mut host = with_one_that_hangs(1);
    let problem = std::io::ErrorKind::WouldBlock.into();
    host.scheduler.started_thread(Some(&problem), host.now);
    assert!(!host.scheduler.lacks_reader(host.now), "nothing is asked for");
    host.ask(0, key(Kind::Disks, 2));
    assert!(host.scheduler.lacks_reader(host.now));
    host.scheduler.threads += 1;
    host.scheduler.idle += 1;
    assert!(!host.scheduler.lacks_reader(host.now), "there is one");
}

#[test]
fn a_thread_that_reads_makes_room_for_one_that_asks() {
    let mut host = with_one_that_hangs(1);
    let problem = std::io::ErrorKind::WouldBlock.into();
    host.scheduler.started_prober(Some(&problem), host.now);
    host.scheduler.idle = 1;
    assert!(!host.scheduler.makes_room(host.now), "the last one reads");
    host.scheduler.idle = 2;
    assert!(host.scheduler.makes_room(host.now));
    host.scheduler.started_prober(None, host.now);
    assert!(!host.scheduler.makes_room(host.now));
    host.scheduler.started_prober(Some(&problem), host.now);
    host.scheduler.idle = 1;
    host.scheduler.refused(lost().failure().unwrap(), 0, 0, host.now);
    assert!(host.scheduler.makes_room(host.now), "nothing is read before it is over");
}

#[test]
fn one_that_asks_and_comes_back_needs_no_room() {
    let mut host = with_one_that_hangs(1);
    let problem = std::io::ErrorKind::WouldBlock.into();
    host.scheduler.idle = 2;
    host.scheduler.started_prober(Some(&problem), host.now);
    host.scheduler.asked_by_prober(true);
    assert!(!host.scheduler.makes_room(host.now));
    host.scheduler.asked_by_prober(false);
    assert!(
        host.scheduler.makes_room(host.now),
        "it may be refused as there are too many connections"
    );
}

#[test]
fn answers_that_are_lost_one_by_one_take_no_threads_away() {
    let mut host = Host::new(LIMITS);
    for vm in 1..=66 {
        host.ask(0, key(Kind::Disks, vm));
        host.start();
        assert!(host.taking.iter().any(|(job, _)| job.slot.uuid == Uuid::from_u128(vm)), "{vm}");
        for _ in 0..20 {
            host.probe(true, true);
            host.wait(LIMITS.timeout / 4);
        }
        host.answers.clear();
        host.ask(0, key(Kind::Disks, vm));
        host.start();
        host.finish(host.taking.len() - 1, Ok(()));
        assert!(matches!(host.answers.pop(), Some((_, Ok(_)))), "{vm} is read again");
    }
    // Each has a thread: those are bounded.
    let health = host.scheduler.health(host.now);
    assert_eq!((health.stuck, health.threads), (66, 67));
}

#[test]
fn what_needs_no_guest_is_tried_again_ever_more_rarely_however_often_it_was_lost() {
    let mut host = Host::new(Limits { max_stuck: 6, ..LIMITS });
    let (mut tried, mut seconds) = (Vec::new(), 0);
    while tried.len() < 5 {
        host.ask(0, key(Kind::Nics, 1));
        host.start();
        if host.taking.len() > tried.len() {
            tried.push(host.now);
        }
        host.probe(true, true);
        host.wait(SECOND);
        seconds += 1;
        assert!(seconds < 3600, "it is not asked for any more");
    }
    let pauses: Vec<_> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.is_sorted_by(|a, b| 3 * *a < 2 * *b), "{pauses:?}");
    for _ in 0..600 {
        host.probe(true, true);
        host.wait(SECOND);
    }
    host.answers.clear();
    host.ask(0, key(Kind::Nics, 1));
    host.start();
    host.finish(host.taking.len() - 1, Ok(()));
    assert!(matches!(host.answers.pop(), Some((_, Ok(_)))));
}

#[test]
fn what_needs_no_guest_takes_no_thread_that_others_need() {
    let mut host = Host::new(LIMITS);
    for _ in 0..20_000 {
        host.scheduler.keep_house(Kind::HostCpus, host.now);
        host.scheduler.keep_house(Kind::Existing, host.now);
        host.ask(0, key(Kind::Nics, 1));
        host.ask(1, key(Kind::Nics, 2));
        host.start();
        host.probe(true, true);
        host.wait(SECOND);
    }
    host.answers.clear();
    host.ask(2, key(Kind::Disks, 3));
    host.start();
    let taking: Vec<_> = host.taking.iter().map(|(job, _)| job.slot).collect();
    host.finish(host.taking.len() - 1, Ok(()));
    let answer = host.answers.pop();
    assert!(matches!(answer, Some((_, Ok(_)))), "others are read as ever: {answer:?}, {taking:?}");
}

/// What a careful wrapper with an alarm of its own does, over one guest that hangs.
#[test]
fn who_is_interrupted_and_closes_again_and_again_leaves_one_thread_in_the_guest() {
    let mut host = Host::new(LIMITS);
    for round in 0..20 {
        host.ask(0, key(KINDS[round % 4], 1));
        host.start();
        for _ in 0..4 {
            host.probe(false, true);
            host.wait(SECOND / 2);
        }
        host.leave(0);
        host.close();
        // NICs, and what is known of a guest that hangs, are no calls in it.
        let others = |(job, _): &(Job, _)| leaves_guest(job);
        while let Some(which) = host.taking.iter().position(others) {
            host.finish(which, Ok(()));
        }
        assert_eq!(host.taking.len(), 1, "round {round}");
        host.answers.clear();
        host.ask(1, key(Kind::Disks, 2));
        host.start();
        host.finish(1, Ok(()));
        assert!(matches!(host.answers.pop(), Some((_, Ok(_)))), "others are read as ever");
    }
    let health = host.scheduler.health(host.now);
    assert_eq!((health.hung.len(), health.stuck), (1, 1));
    host.finish(0, Ok(()));
    host.wait(SECOND);
    host.probe(true, true);
    assert_eq!(host.scheduler.health(host.now).hung, []);
    host.read(key(Kind::Disks, 1)).unwrap();
}

#[test]
fn when_every_thread_is_stuck_everybody_is_told_at_once() {
    let mut host = Host::new(LIMITS);
    let most = LIMITS.threads() + Limits::STARVED;
    for vm in 1..=most as u128 {
        host.ask(0, key(Kind::Nics, vm));
        // Once more with what goes less far, while there is a thread.
        for _ in 0..22 {
            host.start();
            host.wait(SECOND / 2);
            host.probe(false, true);
        }
        assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))));
    }
    assert_eq!(host.scheduler.stuck(), most);
    assert!(host.taking.iter().any(|(job, _)| job.reach == Reach::Priority));
    host.ask(0, key(Kind::Nics, 99));
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::Timeout { .. })))), "at once");
    host.finish(0, Ok(()));
    host.read(key(Kind::Nics, 99)).unwrap();
}
