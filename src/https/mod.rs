//! The one place that speaks HTTPS: one request, one answer, one deadline for all of it.
//!
//! Blocking, for threads that have nothing else to do, and for many of them at once. Nothing stays open
//! between requests: the handlers for which this is here close each connection anyway, and a child that
//! is forked has nothing of its parent's to disturb. What makes the next handshake cheap, TLS's sessions,
//! is kept by each process.
//!
//! No redirect is followed, no proxy is asked, no cookie is kept; nothing of a request or an answer is
//! in any error or `Debug`.

mod answer;
mod body;
mod error;
mod names;
mod socket;
#[cfg(test)]
mod tests;
mod trust;

use std::fmt::{self, Write as _};
use std::io::{BufReader, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Instant;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::locks::lock;
use crate::per_process::PerProcess;
use crate::target::{Authority, Fingerprint, Trust};
use answer::{Bounds, Head, LONGEST_HEAD};
use body::Body;
pub(crate) use error::{HttpError, Phase, TrustError, Why};
use names::Names;
use socket::Socket;
pub(crate) use trust::fingerprint_of_pem;

/// The longest body that is read where a request does not say otherwise, in bytes.
pub(crate) const LONGEST_BODY: usize = 64 << 20;

/// How many TLS sessions are remembered: up to 8 for each of 128 servers, the hosts of some pools.
const SESSIONS: usize = 8 * 128;

const USER_AGENT: &str = concat!("virtmeter/", env!("CARGO_PKG_VERSION"));

/// What is asked of whom.
#[derive(Clone)]
pub(crate) struct Request<'a> {
    host: &'a str,
    port: u16,
    path: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    body: Option<&'a [u8]>,
    gzip: bool,
    until: Option<&'static [u8]>,
    longest: usize,
}

impl<'a> Request<'a> {
    /// A GET of a path with its query, percent-encoded. An IPv6 address has no brackets.
    pub(crate) fn get(host: &'a str, port: u16, path: &'a str) -> Self {
        let (headers, longest) = (Vec::new(), LONGEST_BODY);
        Self { host, port, path, headers, body: None, gzip: false, until: None, longest }
    }

    /// A POST of a body, whose Content-Type is a header.
    pub(crate) fn post(host: &'a str, port: u16, path: &'a str, body: &'a [u8]) -> Self {
        Self { body: Some(body), ..Self::get(host, port, path) }
    }

    /// Adds a header. `Host`, `User-Agent`, `Connection`, `Content-Length` and `Accept-Encoding` are there
    /// already.
    pub(crate) fn header(mut self, name: &'a str, value: &'a str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Lets the server compress its answer.
    pub(crate) fn gzip(mut self) -> Self {
        self.gzip = true;
        self
    }

    /// Reads the body only up to the end of a marker, if it comes, and closes the connection then.
    pub(crate) fn until(mut self, marker: &'static [u8]) -> Self {
        self.until = Some(marker);
        self
    }

    /// The longest body that is read, in bytes, also once it is inflated.
    pub(crate) fn longest(mut self, longest: usize) -> Self {
        self.longest = longest;
        self
    }

    /// The request as it is sent.
    fn bytes(&self) -> Result<Vec<u8>, Why> {
        if !self.path.starts_with('/') || !self.path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Why::BadRequest("the path"));
        }
        let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        // What comes from a server may become a header: a line break would begin another one.
        let of_a_value = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        let is_sound = |(name, value): &(&str, &str)| {
            !name.is_empty() && name.bytes().all(of_a_name) && value.bytes().all(of_a_value)
        };
        if !self.headers.iter().all(is_sound) {
            return Err(Why::BadRequest("a header"));
        }
        let method = if self.body.is_some() { "POST" } else { "GET" };
        let mut head = format!(
            "{method} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {USER_AGENT}\r\nConnection: close\r\n",
            self.path,
            Authority(self.host, self.port)
        );
        let length = self.body.map(|body| body.len().to_string());
        let encoding = if self.gzip { "gzip" } else { "identity" };
        let ours = length.iter().map(|length| ("Content-Length", length.as_str()));
        let ours = ours.chain([("Accept-Encoding", encoding)]);
        for (name, value) in ours.chain(self.headers.iter().copied()) {
            // A String takes everything.
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body.unwrap_or_default());
        Ok(bytes)
    }
}

/// Without path, headers and body: there may be a secret in each.
impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = if self.body.is_some() { "POST" } else { "GET" };
        write!(f, "Request({method} {:?})", Authority(self.host, self.port).to_string())
    }
}

/// How long a request may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Until {
    /// By when the server has to be reached, and to have shown who it is: it has received nothing of the
    /// request before that.
    pub(crate) reached: Instant,
    /// By when all of its answer has to be there.
    pub(crate) answered: Instant,
}

impl From<Instant> for Until {
    fn from(deadline: Instant) -> Self {
        Self { reached: deadline, answered: deadline }
    }
}

/// What a server answered, whatever its status.
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    /// Inflated, and up to the marker where one was asked for.
    pub(crate) body: Body,
    /// Whether the body was read to its end, as no marker came.
    #[allow(dead_code)] // asked by the tests
    pub(crate) complete: bool,
    /// The SHA-256 of the certificate with which the server answered.
    #[allow(dead_code)] // asked by the tests
    pub(crate) certificate: Fingerprint,
}

impl Response {
    /// The first value of a header, in whatever case the server writes it.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    /// All values of a header.
    pub(crate) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        let headers = self.headers.iter();
        headers
            .filter(move |(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Without headers and body: there may be a secret in each.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Response({}, {} bytes)", self.status, self.body.len())
    }
}

/// Whom to trust, and what was learned of those: for all threads of a process.
pub(crate) struct Client {
    trust: Trust,
    tls: PerProcess<Mutex<Tls>>,
    names: Arc<PerProcess<Arc<Names>>>,
}

/// One for all clients: a call of the system's that does not return is not made again by the next one.
static NAMES: LazyLock<Arc<PerProcess<Arc<Names>>>> =
    LazyLock::new(|| Arc::new(PerProcess::new(|| Arc::new(Names::of_the_system()))));

/// What TLS needs to know.
struct Tls {
    config: Arc<ClientConfig>,
    /// A server was not trusted: the CA certificates may be others by now.
    is_doubted: bool,
}

impl Client {
    /// A client that trusts some servers. Reads CA certificates, and reads them again after a server was not
    /// trusted by them.
    ///
    /// # Errors
    ///
    /// [`TrustError`], if there are none that can be used.
    pub(crate) fn new(trust: &Trust) -> Result<Self, TrustError> {
        Self::with_names(trust, Arc::clone(&NAMES))
    }

    fn with_names(trust: &Trust, names: Arc<PerProcess<Arc<Names>>>) -> Result<Self, TrustError> {
        let mut config = trust::config(trust)?;
        // The room for sessions, 14 kB, is that of the copies.
        config.resumption = Resumption::disabled();
        let sessions = sessions(trust);
        // Sessions are kept under a lock, which a forked child could find locked for ever.
        let tls = PerProcess::new(move || {
            let mut config = config.clone();
            config.resumption = Resumption::in_memory_sessions(sessions);
            Mutex::new(Tls { config: Arc::new(config), is_doubted: false })
        });
        Ok(Self { trust: trust.clone(), tls, names })
    }

    /// What TLS needs to know, by the CA certificates that there are now if those of before did not do.
    fn tls(&self) -> Arc<ClientConfig> {
        self.tls.with(|tls| {
            // Nobody waits for the files.
            if std::mem::take(&mut lock(tls).is_doubted) {
                // One that cannot be read is being replaced, perhaps.
                if let Ok(mut config) = trust::config(&self.trust) {
                    config.resumption = Resumption::in_memory_sessions(sessions(&self.trust));
                    lock(tls).config = Arc::new(config);
                }
            }
            Arc::clone(&lock(tls).config)
        })
    }

    /// Sends a request and reads its answer, all of it before the deadline.
    ///
    /// # Errors
    ///
    /// [`HttpError`], if there is no whole answer. A status like 401 or 500 is an answer.
    pub(crate) fn send(
        &self,
        request: &Request<'_>,
        until: impl Into<Until>,
    ) -> Result<Response, HttpError> {
        self.exchange(request, until.into()).map_err(|why| {
            if let Why::UnknownCa { .. } | Why::NotTrusted { .. } = why {
                self.tls.with(|tls| lock(tls).is_doubted = true);
            }
            HttpError { host: request.host.to_owned(), port: request.port, why }
        })
    }

    fn exchange(&self, request: &Request<'_>, until: Until) -> Result<Response, Why> {
        let deadline = until.answered;
        let name = ServerName::try_from(request.host.to_owned()).map_err(|_| Why::BadHost)?;
        let bytes = request.bytes()?;
        let mut socket = self.connect(request, until.reached.min(deadline))?;
        let mut tls = ClientConnection::new(self.tls(), name)
            .map_err(|error| Why::of_tls(&error, Phase::Handshake))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).map_err(|error| Why::of(&error, Phase::Handshake))?;
        }
        let leaf = tls.peer_certificates().and_then(|certificates| certificates.first());
        let certificate = leaf
            .map(trust::fingerprint)
            .ok_or_else(|| Why::Tls("it has no certificate".to_owned()))?;

        socket.extend(deadline);
        let mut stream = StreamOwned::new(tls, socket);
        stream
            .write_all(&bytes)
            .and_then(|()| stream.flush())
            .map_err(|error| Why::of(&error, Phase::Sending))?;

        let mut source = BufReader::with_capacity(LONGEST_HEAD, stream);
        let head = Head::read(&mut source)?;
        let bounds = Bounds { longest: request.longest, until: request.until, deadline };
        let (body, complete) = answer::read_body(&head, &mut source, &bounds)?;
        if complete {
            // So that the server does not log a broken connection. Nobody waits for that to arrive.
            let mut stream = source.into_inner();
            stream.sock.wait_no_more();
            stream.conn.send_close_notify();
            let _ = stream.conn.write_tls(&mut stream.sock);
        }
        Ok(Response { status: head.status, headers: head.headers, body, complete, certificate })
    }

    fn connect(&self, request: &Request<'_>, deadline: Instant) -> Result<Socket, Why> {
        let to = |address: IpAddr| SocketAddr::new(address, request.port);
        if let Ok(address) = request.host.parse() {
            return Socket::connect(&[to(address)], deadline);
        }
        let names = self.names.with(Arc::clone);
        let addresses = names.addresses(request.host, deadline)?;
        let addresses: Vec<SocketAddr> = addresses.into_iter().map(to).collect();
        let connected = Socket::connect(&addresses, deadline);
        if connected.is_err() {
            names.forget(request.host);
        }
        connected
    }
}

/// How many TLS sessions are remembered. A certificate is of one server, as a rule.
fn sessions(trust: &Trust) -> usize {
    if matches!(trust, Trust::Pin(_)) { 8 } else { SESSIONS }
}
