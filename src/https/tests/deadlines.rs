//! Servers that take their time: in each phase of a request, saying nothing or little at a time.

use super::*;

/// How often a server sends a little, and after what time each: for longer than a request may take.
const TIMES: usize = 1200;
const PAUSE: Duration = Duration::from_millis(100);

/// A request is given up in this phase, if there is time enough for the ones before, and its connection
/// is closed: the server of each try tells so.
fn is_given_up(phase: Phase, request: &Request<'_>, serve: impl Fn(Sender<()>) -> u16) {
    let mut last = None;
    for within in [500, 2000, 10_000, 60_000] {
        let (told, closed) = channel();
        let request = Request { port: serve(told), ..request.clone() };
        last = send(&CLIENT, &request, Duration::from_millis(within)).err();
        if last == Some(Why::TimedOut(phase)) {
            return closed.recv_timeout(LONG).unwrap();
        }
    }
    panic!("{last:?} instead of {phase:?}");
}

fn any() -> Request<'static> {
    Request::get(HOST, 0, "/x")
}

#[test]
fn the_deadline_holds_while_nothing_comes() {
    is_given_up(Phase::Handshake, &any(), |told| {
        listen(1, move |mut stream| {
            wait_for_close(&mut stream);
            told.send(()).unwrap();
        })
    });
    for (begin, phase) in [
        ("", Phase::Head),
        ("HTTP/1.1 200 OK\r\n", Phase::Head),
        ("HTTP/1.1 200 OK\r\n\r\n", Phase::Body),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na", Phase::Body),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", Phase::Body),
        ("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f", Phase::Body),
    ] {
        is_given_up(phase, &any(), |told| {
            listen_tls(usual(HERE), 1, move |_, tls| {
                tls.write_all(begin.as_bytes()).unwrap();
                wait_for_close(tls);
                told.send(()).unwrap();
            })
        });
    }
}

#[test]
fn the_deadline_holds_while_little_comes_at_a_time() {
    for (begin, drip, phase) in [
        ("HTTP/1.1 200 OK\r\nA: ", "a", Phase::Head),
        ("", "HTTP/1.1 100 Continue\r\n\r\n", Phase::Head),
        ("HTTP/1.1 200 OK\r\n\r\n", "a", Phase::Body),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", "a", Phase::Body),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n", Phase::Body),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "a:b\r\n", Phase::Body),
    ] {
        is_given_up(phase, &any(), |told| {
            listen_tls(usual(HERE), 1, move |_, tls| {
                tls.write_all(begin.as_bytes()).unwrap();
                for _ in 0..TIMES {
                    if tls.write_all(drip.as_bytes()).and_then(|()| tls.flush()).is_err() {
                        return told.send(()).unwrap();
                    }
                    thread::sleep(PAUSE);
                }
            })
        });
    }
}

#[test]
fn the_deadline_holds_in_the_handshake_and_while_sending() {
    is_given_up(Phase::Handshake, &any(), |told| {
        listen(1, move |mut stream| {
            // The beginning of a record, and one byte of it after the other.
            stream.write_all(&[22, 3, 3, 0x40, 0]).unwrap();
            for _ in 0..TIMES {
                if stream.write_all(&[2]).is_err() {
                    return told.send(()).unwrap();
                }
                thread::sleep(PAUSE);
            }
        })
    });
    // More than the buffers of both ends hold.
    let body = vec![b'a'; 32 << 20];
    let long = Request { body: Some(&body), ..any() };
    is_given_up(Phase::Sending, &long, |told| {
        listen(1, move |mut stream| {
            let mut tls = ServerConnection::new(usual(HERE)).unwrap();
            while tls.is_handshaking() && tls.complete_io(&mut stream).is_ok() {}
            // Reads no more, and sees the connection reset.
            for _ in 0..TIMES {
                if stream.take_error().unwrap().is_some() {
                    return told.send(()).unwrap();
                }
                thread::sleep(PAUSE);
            }
        })
    });
}

#[test]
fn a_deadline_that_has_passed_costs_nothing() {
    let port = TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap().port();
    assert_eq!(get(port, Duration::ZERO).err(), Some(Why::TimedOut(Phase::Connecting)));
}

#[test]
fn a_server_that_is_not_reached_is_given_up_before_its_answer_is_due() {
    let port = listen(1, |mut stream| wait_for_close(&mut stream));
    let now = Instant::now();
    // Later, the server is the one that gives up.
    let until = Until { reached: now + PAUSE, answered: now + 2 * LONG };
    let why = CLIENT.send(&Request { port, ..any() }, until).err().map(|error| error.why);
    assert_eq!(why, Some(Why::TimedOut(Phase::Handshake)));
}

#[test]
fn a_server_that_was_reached_in_time_may_answer_later() {
    let reached = Instant::now() + Duration::from_secs(2);
    let port = listen_tls(usual(HERE), 1, move |_, tls| {
        thread::sleep(reached.saturating_duration_since(Instant::now()) + PAUSE);
        tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        close(tls);
    });
    let until = Until { reached, answered: reached + LONG };
    let answer = CLIENT.send(&Request { port, ..any() }, until);
    assert_eq!(answer.map(|answer| answer.status).map_err(|error| error.why), Ok(200));
}
