//! Outages, silences, and connections.

use super::*;

#[test]
fn a_prober_that_is_not_connected_asks_about_nobody_first() {
    let mut host = with_one_that_hangs(1);
    host.wait(2 * LIMITS.probe_pause());
    for (is_connected, about) in [(true, NO_INSTANCE), (false, NO_INSTANCE), (false, NO_INSTANCE)] {
        let next = host.scheduler.probe(host.now, false, false, is_connected);
        assert!(matches!(next, Probe::Ask(id) if id.uuid == about));
    }
    // As if it had connected by now.
    let next = host.scheduler.probe(host.now, false, false, true);
    assert!(matches!(next, Probe::Ask(id) if id.uuid == Uuid::from_u128(1)));
}

#[test]
fn one_who_begins_to_connect_is_no_sign_of_a_silence() {
    let mut host = Host::new(LIMITS);
    host.ask(0, list());
    host.start();
    host.wait(LIMITS.timeout / 2);
    host.probe(true, true);
    host.wait(LIMITS.timeout / 2);
    let hangs = |(_, answer): (Key, _)| matches!(answer, Err(Error::ListHangs { .. }));
    assert!(host.answers.pop().is_some_and(hangs));
    host.wait(LIMITS.timeout / 4);
    (host.scheduler.threads, host.scheduler.idle) = (2, 1);
    host.dial();
    host.wait(MOMENT);
    host.ask(0, list());
    assert!(host.answers.pop().is_some_and(hangs), "libvirt answers all else");
    assert!(host.scheduler.is_reachable());
}

#[test]
fn a_silence_that_connections_were_closed_in_is_one_still() {
    let mut host = Host::new(LIMITS);
    for _ in 0..=LIMITS.threads() {
        host.ask(0, list());
        host.start();
        host.wait(LIMITS.timeout);
        let (_, answer) = host.answers.pop().expect("an answer");
        assert!(matches!(answer, Err(Error::ConnectionLost { .. })), "{answer:?}");
        host.close();
    }
    // Hardly another call is made where one has not returned, and no guest is asked, or blamed.
    assert!(host.taking.len() <= 3, "{}", host.taking.len());
    host.ask(1, key(Kind::Disks, 1));
    host.start();
    host.wait(LIMITS.timeout);
    let (_, answer) = host.answers.pop().expect("an answer");
    assert!(matches!(answer, Err(Error::ConnectionLost { .. })), "{answer:?}");
    assert!(host.scheduler.quarantine.all().next().is_none());
    host.close();
    host.probe(true, true);
    host.finish_all();
    assert!(host.read(list()).is_ok());
}

#[test]
fn a_hypervisor_that_says_nothing_is_an_outage_and_no_guests_fault() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    host.wait(LIMITS.timeout);
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::ConnectionLost { .. })))));
    assert_eq!(host.scheduler.health(host.now).hung, []);
    host.ask(1, key(Kind::Nics, 9));
    assert!(matches!(host.answers.pop(), Some((_, Err(Error::ConnectionLost { .. })))), "at once");
    host.wait(SECOND);
    host.probe(true, true);
    host.read(key(Kind::Nics, 9)).unwrap();
}

#[test]
fn an_outage_ends_with_a_probe_that_succeeds() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Nics, 1));
    host.start();
    host.finish(0, Err(lost()));
    assert_eq!(host.answers.len(), 0, "it is asked once more");
    host.dial();
    host.dialed(false, 0);
    for _ in 0..3 {
        host.wait(4 * SECOND);
        host.probe(true, false);
        host.ask(0, key(Kind::Nics, 1));
    }
    assert_eq!(host.answers.len(), 4);
    assert!(host.answers.drain(..).all(|(_, answer)| answer.is_err()));
    host.wait(4 * SECOND);
    host.probe(true, true);
    host.read(key(Kind::Nics, 1)).unwrap();
    let levels: Vec<_> = host.scheduler.log.iter().map(|(level, _)| *level).collect();
    assert_eq!(levels, [log::Level::Warn, log::Level::Info], "one line each way");
}

#[test]
fn what_an_outage_has_cut_off_takes_no_threads_away() {
    have_outages_that_cut_off(false);
}

#[test]
fn nor_if_all_connections_are_closed_during_the_outage() {
    have_outages_that_cut_off(true);
}

fn have_outages_that_cut_off(closes: bool) {
    let mut host = Host::new(LIMITS);
    let mut cut_off = Vec::new();
    for _ in 0..10 {
        for (caller, kind) in [Kind::Nics, Kind::Nics, Kind::Disks].into_iter().enumerate() {
            host.ask(caller, key(kind, caller as u128));
        }
        host.start();
        host.dial();
        host.wait(LIMITS.timeout);
        assert!(!host.scheduler.is_reachable());
        if closes {
            host.close();
        }
        // The host is reset, and tells nobody who waits for it.
        cut_off.append(&mut host.taking);
        let dialing = std::mem::take(&mut host.dialing);
        host.wait(4 * SECOND);
        host.probe(true, true);
        host.answers_well();
        assert_eq!(host.scheduler.health(host.now).hung, []);
        for vm in 0..3 {
            for kind in KINDS {
                host.read(key(kind, vm)).unwrap();
            }
        }
        host.dialing.extend(dialing);
    }
    assert_eq!(host.scheduler.stuck(), cut_off.len());
    // They come back after all, where it was the network.
    host.taking = cut_off;
    host.finish_all();
    while !host.dialing.is_empty() {
        host.dialed(true, 0);
    }
    let health = host.scheduler.health(host.now);
    assert_eq!((health.stuck, health.threads), (0, host.scheduler.threads));
    assert_eq!(host.scheduler.idle, host.scheduler.threads);
}

/// Calls that a reset has cut off are not waited for, although a later outage was a mere silence.
#[test]
fn a_silence_soon_after_a_reset_takes_no_threads_away() {
    let mut host = Host::new(LIMITS);
    let mut cut_off = Vec::new();
    for _ in 0..10 {
        for vm in 0..3 {
            host.ask(vm, key(Kind::Nics, vm as u128));
        }
        host.start();
        host.wait(LIMITS.timeout);
        assert!(!host.scheduler.is_reachable());
        // The host is reset, and tells nobody who waits for it.
        cut_off.append(&mut host.taking);
        host.wait(4 * SECOND);
        host.probe(true, true);
        assert!(host.scheduler.is_reachable());
        // It is silent for a while, and goes on with what it was asked.
        host.ask(0, key(Kind::Nics, 3));
        host.start();
        host.wait(LIMITS.timeout);
        assert!(!host.scheduler.is_reachable());
        host.finish_all();
        host.wait(4 * SECOND);
        host.probe(true, true);
        host.answers_well();
        assert_eq!(host.scheduler.hanging(), 0);
        for vm in 0..4 {
            host.read(key(Kind::Nics, vm)).unwrap();
        }
    }
    assert_eq!(host.scheduler.stuck(), cut_off.len());
}

#[test]
fn what_hung_before_an_outage_that_has_cut_off_nothing_hangs_on() {
    let mut host = Host::new(LIMITS);
    // The list waits for the lock of some domain.
    host.ask(0, list());
    host.start();
    host.wait(LIMITS.timeout / 2);
    host.scheduler.hear(Some(host.now));
    host.ask(1, key(Kind::Nics, 1));
    host.start();
    host.wait(LIMITS.timeout / 2);
    assert_eq!(host.scheduler.stuck(), 1);
    host.wait(LIMITS.timeout / 2);
    assert!(!host.scheduler.is_reachable());
    // It was silent, and goes on with what it was asked.
    host.finish(1, Ok(()));
    host.wait(SECOND / 2);
    host.probe(true, true);
    for _ in 0..2 {
        host.wait(LIMITS.timeout);
        host.ask(1, key(Kind::Nics, 2));
        host.start();
        host.finish(1, Ok(()));
    }
    host.ask(0, list());
    host.start();
    assert_eq!(host.taking.len(), 1, "a second one would hang as well");
    assert_eq!(host.scheduler.stuck(), 1);
}

#[test]
fn what_was_out_in_a_silence_in_which_all_was_closed_has_its_time_after_it() {
    for is_finished in [false, true] {
        let mut host = Host::new(LIMITS);
        for vm in 0..2 {
            host.ask(vm, key(Kind::Disks, vm as u128));
        }
        host.start();
        host.wait(LIMITS.timeout);
        assert!(!host.scheduler.is_reachable());
        host.scheduler.begin_anew();
        host.wait(LIMITS.timeout);
        // It answers again.
        if is_finished {
            host.finish(1, Ok(()));
        } else {
            host.scheduler.hear(Some(host.now));
        }
        let hung = Uuid::from_u128(0);
        let another_answers = |host: &mut Host| {
            host.ask(2, key(Kind::Nics, 5));
            host.start();
            host.finish(host.taking.len() - 1, Ok(()));
        };
        let mut long = Duration::ZERO;
        while long < LIMITS.timeout {
            another_answers(&mut host);
            assert!(!host.scheduler.quarantine.has(hung), "after {long:?}");
            host.wait(SECOND / 4);
            long += SECOND / 4;
        }
        while long < LIMITS.timeout + 2 * LIMITS.held_up() {
            another_answers(&mut host);
            host.wait(SECOND / 4);
            long += SECOND / 4;
        }
        assert!(host.scheduler.quarantine.has(hung));
    }
}

#[test]
fn what_answers_late_after_a_silence_is_not_said_to_hang() {
    for is_probed_first in [false, true] {
        let mut host = Host::new(LIMITS);
        for vm in 0..3 {
            host.ask(vm, key(Kind::Disks, vm as u128));
        }
        host.start();
        host.wait(LIMITS.timeout);
        assert!(!host.scheduler.is_reachable());
        if is_probed_first {
            host.probe(true, true);
        }
        host.finish(0, Ok(()));
        host.ask(0, key(Kind::Nics, 0));
        host.wait(SECOND / 2);
        host.probe(true, true);
        assert!(host.scheduler.is_reachable());
        assert_eq!(host.scheduler.health(host.now).hung, []);
        // They have their time after that.
        host.wait(LIMITS.timeout / 2);
        host.ask(0, list());
        host.finish_all();
        assert_eq!(host.scheduler.health(host.now).hung, []);
    }
}

#[test]
fn a_host_that_has_answered_once_in_an_outage_may_be_reset_all_the_same() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Nics, 0));
    host.ask(1, key(Kind::Nics, 1));
    host.start();
    host.wait(LIMITS.timeout);
    assert!(!host.scheduler.is_reachable());
    host.finish(0, Ok(()));
    host.wait(SECOND / 2);
    host.probe(true, false);
    // It is reset, and tells nobody who waits for it.
    assert_eq!(std::mem::take(&mut host.taking).len(), 1);
    host.wait(4 * SECOND);
    host.probe(true, true);
    assert_eq!((host.scheduler.stuck(), host.scheduler.hanging()), (1, 1));
    for _ in 0..60 {
        host.ask(0, list());
        host.finish_all();
        host.wait(SECOND / 2);
    }
    assert_eq!((host.scheduler.stuck(), host.scheduler.hanging()), (1, 0));
}

/// Nobody asks anything else, so that only a question of its own shows that the hypervisor is there again.
#[test]
fn the_only_guest_that_is_asked_about_is_read_again_after_a_reset() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    host.wait(LIMITS.timeout);
    assert!(!host.scheduler.is_reachable());
    // The host is reset, and tells nobody who waits for it.
    assert_eq!(std::mem::take(&mut host.taking).len(), 1);
    host.wait(4 * SECOND);
    host.probe(true, true);
    for _ in 0..60 {
        host.ask(0, key(Kind::Disks, 1));
        host.finish_all();
        host.probe(true, true);
        host.wait(SECOND / 2);
    }
    host.read(key(Kind::Disks, 1)).unwrap();
}

#[test]
fn one_connection_too_many_is_no_outage() {
    let mut host = Host::new(LIMITS);
    host.ask(0, key(Kind::Disks, 1));
    host.start();
    host.ask(1, key(Kind::Disks, 2));
    assert!(host.scheduler.needs_thread(host.now));
    host.scheduler.refused(lost().failure().unwrap(), 1, 1, host.now);
    assert!(!host.scheduler.needs_thread(host.now), "not at once");
    host.finish(0, Ok(()));
    host.start();
    host.finish(0, Ok(()));
    assert_eq!(host.answers.len(), 2);
    host.ask(0, key(Kind::Disks, 1));
    host.ask(1, key(Kind::Disks, 2));
    host.start();
    assert_eq!(host.scheduler.threads, 1);
    host.wait(SECOND);
    host.start();
    assert_eq!(host.scheduler.threads, 2);
}

#[test]
fn an_open_that_hangs_hardly_delays_a_reading_and_no_guest_is_blamed() {
    let mut host = Host::new(LIMITS);
    host.read(key(Kind::Nics, 1)).unwrap();
    host.ask(0, key(Kind::Disks, 1));
    host.dial();
    host.ask(1, key(Kind::Disks, 2));
    host.start();
    assert_eq!(host.taking.len(), 1, "one reading is for the thread that dials");
    host.wait(LIMITS.slow());
    host.start();
    assert_eq!(host.taking.len(), 2, "by another");
    host.finish(0, Ok(()));
    host.finish(0, Ok(()));
    host.wait(2 * LIMITS.timeout);
    assert_eq!(host.scheduler.health(host.now).hung, []);
    assert_eq!(host.answers.len(), 2);
}
