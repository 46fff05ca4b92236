//! Requests to servers of these tests, on this machine. They speak TLS as rustls does it; their
//! certificates are those of `certificates/`.

mod deadlines;
mod trusted;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use rustls::crypto::ring::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, SupportedProtocolVersion};

use super::*;

const HOST: &str = "127.0.0.1";

const HERE: &[u8] = include_bytes!("../certificates/here.pem");
const ELSEWHERE: &[u8] = include_bytes!("../certificates/elsewhere.pem");
const EXPIRED: &[u8] = include_bytes!("../certificates/expired.pem");
const SELF_SIGNED: &[u8] = include_bytes!("../certificates/selfsigned.pem");
const VERSION_1: &[u8] = include_bytes!("../certificates/version1.pem");
const KEY: &[u8] = include_bytes!("../certificates/server.key");

/// As long as nothing ever takes, on any machine: it keeps a broken test from hanging.
const LONG: Duration = Duration::from_secs(60);

type Tls = StreamOwned<ServerConnection, TcpStream>;

fn certificate(pem: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem).unwrap()
}

fn pin(pem: &[u8]) -> Fingerprint {
    trust::fingerprint(&certificate(pem))
}

fn certificate_file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src/https/certificates")).join(name)
}

fn ca() -> Trust {
    Trust::Ca(certificate_file("ca.pem"))
}

fn server_config(
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
    pem: &[u8],
) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(versions).unwrap().with_no_client_auth();
    let key = PrivateKeyDer::from_pem_slice(KEY).unwrap();
    Arc::new(builder.with_single_cert(vec![certificate(pem)], key).unwrap())
}

fn usual(pem: &[u8]) -> Arc<ServerConfig> {
    server_config(default_provider(), &[&TLS13, &TLS12], pem)
}

/// Takes some connections on a port that it tells, one thread each, and no more.
fn listen(connections: usize, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind((HOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for _ in 0..connections {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            stream.set_write_timeout(Some(LONG)).unwrap();
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    port
}

/// The same with TLS, after the request was read: it is handed on.
fn listen_tls(
    config: Arc<ServerConfig>,
    connections: usize,
    answer: impl Fn(String, &mut Tls) + Send + Sync + 'static,
) -> u16 {
    listen(connections, move |stream| {
        let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
        // Clients that do not trust it are gone by now.
        if let Some(request) = read_request(&mut tls) {
            answer(request, &mut tls);
        }
    })
}

fn read_request(source: &mut impl Read) -> Option<String> {
    let mut source = BufReader::new(source);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        if source.read_line(&mut request).ok()? == 0 {
            return None;
        }
    }
    let length = request.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    source.read_exact(&mut body).ok()?;
    Some(request + std::str::from_utf8(&body).unwrap())
}

/// Ends a connection as TLS has it.
fn close(tls: &mut Tls) {
    tls.conn.send_close_notify();
    let _ = tls.flush();
    let _ = tls.sock.shutdown(Shutdown::Write);
}

/// Reads until the client has closed its end.
fn wait_for_close(stream: &mut impl Read) {
    let _ = std::io::copy(stream, &mut std::io::sink());
}

/// A server that gives the same answer to each of its connections.
fn answering(connections: usize, answer: impl Into<Vec<u8>>) -> u16 {
    let answer = answer.into();
    listen_tls(usual(HERE), connections, move |_, tls| {
        // A client may have seen enough.
        let _ = tls.write_all(&answer);
        close(tls);
    })
}

fn client(trust: &Trust) -> Client {
    Client::new(trust).unwrap()
}

/// Trusts the servers of these tests.
static CLIENT: LazyLock<Client> = LazyLock::new(|| client(&Trust::Pin(pin(HERE))));

fn get(port: u16, within: Duration) -> Result<Response, Why> {
    send(&CLIENT, &Request::get(HOST, port, "/x"), within)
}

fn send(client: &Client, request: &Request<'_>, within: Duration) -> Result<Response, Why> {
    client.send(request, Instant::now() + within).map_err(|error| error.why)
}

fn with_trust(trust: &Trust, port: u16) -> Result<Response, Why> {
    send(&client(trust), &Request::get(HOST, port, "/"), LONG)
}

const HELLO: &str = "HTTP/1.1 200 OK\r\nX-Some: thing\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn a_request_has_what_it_needs_and_an_answer_is_told_as_it_came() {
    let (told, requests) = channel();
    let port = listen_tls(usual(HERE), 2, move |request, tls| {
        told.send(request).unwrap();
        tls.write_all(HELLO.as_bytes()).unwrap();
        wait_for_close(tls);
    });
    let request = Request::get("localhost", port, "/rrd_updates?start=-15&cf=AVERAGE")
        .header("Accept", "text/xml")
        .header("Cookie", "session_id=OpaqueRef:1");
    let answer = send(&CLIENT, &request, LONG).unwrap();
    assert_eq!((answer.status, &*answer.body), (200, b"hello".as_slice()));
    assert_eq!((answer.header("x-SOME"), answer.header("x-other")), (Some("thing"), None));
    assert_eq!((answer.complete, answer.certificate), (true, pin(HERE)));
    assert_eq!(
        requests.recv().unwrap(),
        format!(
            "GET /rrd_updates?start=-15&cf=AVERAGE HTTP/1.1\r\nHost: localhost:{port}\r\n\
             User-Agent: virtmeter/{}\r\nConnection: close\r\nAccept-Encoding: identity\r\n\
             Accept: text/xml\r\nCookie: session_id=OpaqueRef:1\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        )
    );
    let request = Request::post(HOST, port, "/jsonrpc", b"{}").header("Content-Type", "text/json");
    send(&CLIENT, &request, LONG).unwrap();
    let request = requests.recv().unwrap();
    assert!(request.starts_with("POST /jsonrpc HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nContent-Length: 2\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{}"), "{request}");
}

#[test]
fn every_status_is_an_answer_and_none_is_followed() {
    for (status, header) in [
        ("401 Unauthorized", "WWW-Authenticate: Basic"),
        ("302 Found", "Location: https://127.0.0.1:1/"),
        ("500 Internal Server Error", "Set-Cookie: a=b"),
    ] {
        let port =
            answering(1, format!("HTTP/1.1 {status}\r\n{header}\r\nContent-Length: 2\r\n\r\nno"));
        let answer = get(port, LONG).unwrap();
        assert_eq!(answer.status.to_string(), status[..3]);
        assert_eq!(*answer.body, *b"no");
        let (name, value) = header.split_once(": ").unwrap();
        assert_eq!(answer.header(name), Some(value));
    }
}

#[test]
fn bodies_of_all_kinds_come_over() {
    let big = vec![b'a'; 3 << 20];
    let mut zipped = GzEncoder::new(Vec::new(), Compression::default());
    zipped.write_all(&big).unwrap();
    let zipped = zipped.finish().unwrap();
    for (head, body, expected) in [
        ("HTTP/1.0 200 OK\r\n\r\n", b"hello".as_slice(), b"hello".as_slice()),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"5\r\nhello\r\n0\r\n\r\n",
            b"hello",
        ),
        (&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", big.len()), &big, &big),
        ("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", &zipped, &big),
    ] {
        let port = answering(1, [head.as_bytes(), body].concat());
        let answer = send(&CLIENT, &Request::get(HOST, port, "/").gzip(), LONG).unwrap();
        assert!(*answer.body == *expected && answer.complete, "{head}");
    }
}

#[test]
fn a_marker_ends_the_reading_and_the_connection() {
    let (told, closed) = channel();
    let port = listen_tls(usual(HERE), 1, move |_, tls| {
        tls.write_all(b"HTTP/1.0 200 OK\r\n\r\n<ds>1</ds><rra>").unwrap();
        // For ever, until the client is gone.
        while tls.write_all(b"<row>2</row>").is_ok() {}
        told.send(()).unwrap();
    });
    let request = Request::get(HOST, port, "/vm_rrd").until(b"<rra>");
    let answer = send(&CLIENT, &request, LONG).unwrap();
    assert_eq!((&*answer.body, answer.complete), (b"<ds>1</ds><rra>".as_slice(), false));
    closed.recv_timeout(LONG).unwrap();
}

#[test]
fn what_is_too_long_or_cut_short_is_no_answer() {
    let too_long = |answer: &str, why| {
        let port = answering(1, answer);
        let request = Request::get(HOST, port, "/").longest(1000);
        assert_eq!(send(&CLIENT, &request, LONG).err(), Some(why), "{answer:.60}");
    };
    let endless = "a".repeat(100_000);
    too_long(&format!("HTTP/1.1 200 OK\r\nA: {endless}"), Why::HeadTooLong(16 << 10));
    too_long(&format!("HTTP/1.1 200 OK\r\n\r\n{endless}"), Why::BodyTooLong(1000));
    too_long("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", Why::BodyTooLong(1000));
    too_long("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", Why::CutShort);
    too_long("HTTP/1.1 200 OK\r\nContent-Le", Why::Closed(Phase::Head));
    too_long("", Why::Closed(Phase::Head));
    too_long("SSH-2.0-OpenSSH_9.2\r\n", Why::NotHttp("its head does not begin with HTTP/1."));
}

#[test]
fn an_end_that_tls_does_not_tell_is_none() {
    // Somebody in between can close the connection, but cannot tell so in TLS.
    let port = listen_tls(usual(HERE), 1, |_, tls| {
        tls.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello").unwrap();
        let _ = tls.sock.shutdown(Shutdown::Write);
        wait_for_close(&mut tls.sock);
    });
    assert_eq!(get(port, LONG).err(), Some(Why::CutShort));
}

#[test]
fn a_gzip_bomb_does_not_go_off() {
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![0; LONGEST_BODY + 1]).unwrap();
    let head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n";
    let port = answering(1, [head.as_slice(), &bomb.finish().unwrap()].concat());
    let answer = send(&CLIENT, &Request::get(HOST, port, "/").gzip(), LONG);
    assert_eq!(answer.err(), Some(Why::BodyTooLong(LONGEST_BODY)));
}

#[test]
fn where_nobody_listens_or_speaks_tls_it_is_told() {
    let port = TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap().port();
    let error = CLIENT.send(&Request::get(HOST, port, "/"), Instant::now() + LONG).unwrap_err();
    assert_eq!((error.host.as_str(), error.port, error.why), (HOST, port, Why::Refused));
    let plain = listen(1, |mut stream| {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        wait_for_close(&mut stream);
    });
    assert_eq!(get(plain, LONG).err(), Some(Why::NotTls));
    let gone = listen(1, |mut stream| {
        // All of the hello, so that the connection is closed and not reset.
        stream.read_exact(&mut [0; 5]).unwrap();
    });
    assert_eq!(get(gone, LONG).err(), Some(Why::Closed(Phase::Handshake)));
}

/// A client for which one name has some addresses, each time that it is looked up.
fn with_addresses(
    lookup: impl Fn() -> std::io::Result<Vec<IpAddr>> + Send + Sync + 'static,
) -> Client {
    let names = Arc::new(Names::new(move |_| lookup()));
    let names = Arc::new(PerProcess::new(move || Arc::clone(&names)));
    Client::with_names(&Trust::Pin(pin(HERE)), names).unwrap()
}

#[test]
fn a_name_is_resolved_and_each_of_its_addresses_tried() {
    let port = answering(2, HELLO);
    let request = Request::get("host.example", port, "/");
    let here: IpAddr = HOST.parse().unwrap();
    // Nobody listens at the first.
    let two = with_addresses(move || Ok(vec!["127.0.0.77".parse().unwrap(), here]));
    assert_eq!(send(&two, &request, LONG).unwrap().body.to_vec(), b"hello");
    let (told, lookups) = channel();
    let moved = with_addresses(move || {
        told.send(()).unwrap();
        Ok(vec!["127.0.0.77".parse().unwrap()])
    });
    for _ in 0..2 {
        assert_eq!(send(&moved, &request, LONG).err(), Some(Why::Refused));
        lookups.try_recv().unwrap();
    }
    let unknown = with_addresses(|| Err(std::io::Error::other("no such name")));
    let why = Why::Unresolved("no such name".to_owned());
    assert_eq!(send(&unknown, &request, LONG).err(), Some(why));
    let (_keep, hang) = channel::<()>();
    let hang = std::sync::Mutex::new(hang);
    let hangs = with_addresses(move || {
        let _ = hang.lock().unwrap().recv_timeout(LONG);
        Ok(vec![])
    });
    let late = Why::TimedOut(Phase::Resolving);
    assert_eq!(send(&hangs, &request, Duration::from_millis(50)).err(), Some(late));
}

#[test]
fn many_threads_use_one_client() {
    const THREADS: usize = 16;
    const EACH: usize = 4;
    let port = listen_tls(usual(HERE), THREADS * EACH, |request, tls| {
        let path = request.split(' ').nth(1).unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
        tls.write_all(answer.as_bytes()).unwrap();
    });
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for each in 0..EACH {
                    let path = format!("/{thread}/{each}");
                    let request = Request::get("localhost", port, &path);
                    let answer = send(&CLIENT, &request, LONG).unwrap();
                    assert_eq!(*answer.body, *path.as_bytes());
                }
            });
        }
    });
}

#[test]
fn a_request_cannot_be_made_into_two() {
    let port = 1;
    for path in ["x", "", "/a b", "/a\r\nb", "/é"] {
        let answer = send(&CLIENT, &Request::get(HOST, port, path), LONG);
        assert_eq!(answer.err(), Some(Why::BadRequest("the path")), "{path}");
    }
    for (name, value) in [("Cookie", "a\r\nb: c"), ("Cookie", "a\0"), ("a:", "b"), ("", "b")] {
        let answer = send(&CLIENT, &Request::get(HOST, port, "/").header(name, value), LONG);
        assert_eq!(answer.err(), Some(Why::BadRequest("a header")), "{name}");
    }
    for host in ["a b", "a\r\nb", "", "[::1]", "a/b"] {
        let answer = send(&CLIENT, &Request::get(host, port, "/"), LONG);
        assert_eq!(answer.err(), Some(Why::BadHost), "{host}");
    }
}

#[test]
fn nothing_secret_is_shown() {
    let port = answering(1, "HTTP/1.1 500 s3cret\r\nA: s3cret\r\nContent-Length: 6\r\n\r\ns3cret");
    let request =
        Request::post(HOST, port, "/?s3cret", b"s3cret").header("Cookie", "session_id=s3cret");
    let answer = send(&CLIENT, &request, LONG).unwrap();
    let cut = answering(1, "HTTP/1.1 200 s3cret\r\nA: s3cret\r\nContent-Length: 7\r\n\r\ns3cret");
    let cut = Request { port: cut, ..request.clone() };
    let error = CLIENT.send(&cut, Instant::now() + LONG).unwrap_err();
    let shown = format!("{request:?} {answer:?} {error} {error:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(shown.contains(HOST) && shown.contains("500, 6 bytes"), "{shown}");
}

#[test]
fn an_ipv6_address_is_a_host_too() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else { return };
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut tls = StreamOwned::new(ServerConnection::new(usual(HERE)).unwrap(), stream);
        let request = read_request(&mut tls).unwrap();
        tls.write_all(HELLO.as_bytes()).unwrap();
        request
    });
    let answer = send(&client(&ca()), &Request::get("::1", port, "/"), LONG).unwrap();
    assert_eq!(*answer.body, *b"hello");
    assert!(server.join().unwrap().contains(&format!("\r\nHost: [::1]:{port}\r\n")));
}
