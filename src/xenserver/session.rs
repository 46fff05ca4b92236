//! Calls of a pool's hosts, and how it is logged in to and out of: one session is good for all hosts.
//!
//! The master is trusted as the URI says. Every other host is trusted by its certificate, which the
//! master tells (`host.get_server_certificate`): those are self-signed as a rule, for names that nobody
//! resolves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::rpc::{self, Call, RpcError, Session};
use crate::error::{Error, Result};
use crate::https::{Client, HttpError, Request, Response, Until, Why, fingerprint_of_pem};
use crate::locks::lock;
use crate::printable::Printable;
use crate::target::{
    Fingerprint, NotLoggedIn, Over, PasswordSource, Secret, Server, Target, Trust,
};

/// XAPI waits 5 s before it answers a wrong password.
const WRONG: Duration = Duration::from_secs(7);
/// A directory that is asked whether a password is right may take its time; whoever gives up before that
/// does not learn of it, and would try it again.
const LOGIN: Duration = Duration::from_secs(120);
/// A session that nobody wants any more is closed within that.
const CLOSING: Duration = Duration::from_secs(1);
/// An answer of XAPI about a whole pool.
const LONGEST_RPC: usize = rpc::MAX_ANSWER;
/// Of a master that is asked for another one's certificate.
const MASTER: &str = "sha-256:master";
/// What is wrong with a host that takes no session.
const REFUSED: &str = "it does not accept the session, which is valid: can it reach its master?";
const WRONG_PASSWORD: &str =
    "wrong user name or password; it is not tried again until the password changes";
const THUMBPRINT_REQUEST: &str = "x-xenapi-request-host-certificate-thumbprint";
const THUMBPRINT: &str = "x-xenapi-response-host-certificate-thumbprint";

/// A pool.
pub(super) struct Pool {
    pub(super) server: Server<LoggedIn>,
    /// Where the last login was.
    master: Mutex<Option<Master>>,
    /// A session that was given up as its master was not reached, where it may be open.
    given_up: Mutex<Option<Arc<LoggedIn>>>,
    /// Whether the master that a member has named was reached, and did not answer.
    is_doubted: AtomicBool,
    members: Mutex<HashMap<String, Member>>,
}

/// How a host is trusted, once that is known. Whoever finds that out locks it.
type Member = Arc<Mutex<Option<Arc<Client>>>>;

/// A session, and how often its pool was closed by then.
pub(super) type Opened = (Arc<LoggedIn>, u64);

/// A session, at which master, and its number.
pub(super) struct LoggedIn {
    session: Session,
    master: Master,
    pub(super) number: u64,
}

impl std::ops::Deref for LoggedIn {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

/// Where the master is, and how it is known.
#[derive(Clone)]
struct Master {
    host: String,
    client: Arc<Client>,
}

/// A host of a pool.
pub(super) struct Place {
    pub(super) address: String,
    pub(super) reference: String,
    pub(super) is_master: bool,
}

/// What came of a call.
enum Trouble {
    /// Nobody was asked: there is no connection, or the wrong one at its other end.
    Unreached(String),
    /// No answer, or none that could be read.
    Http(String),
    Rpc(RpcError),
}

impl Pool {
    pub(super) fn new(target: Target, password: PasswordSource) -> Self {
        let server = Server::new(target, password);
        let (master, given_up, is_doubted) =
            (Mutex::default(), Mutex::default(), AtomicBool::default());
        Self { server, master, given_up, is_doubted, members: Mutex::default() }
    }

    /// Whether dom0 and other control domains are VMs like others.
    pub(super) fn control_domains(&self) -> bool {
        self.server.target.control_domains
    }

    /// For how much longer an answer may take while it logs in.
    pub(super) fn patience(&self) -> Duration {
        if self.server.sessions().is_open { Duration::ZERO } else { WRONG }
    }

    /// A call of the master's with what its answer says. Where the session is over, or another host has
    /// become the master, there is one more login.
    pub(super) fn call<T>(
        &self,
        call: impl Fn(&LoggedIn) -> Call,
        mut read: impl FnMut(&[u8]) -> std::result::Result<T, RpcError>,
        deadline: Instant,
    ) -> Result<T> {
        let closed = self.server.closed();
        let left = || deadline.saturating_duration_since(Instant::now());
        let at_first = left();
        let session = self.session(deadline)?;
        // A login may have taken most of the time: then a master that is not reached need not be away.
        let has_time = left() > at_first / 2;
        let is_named = session.master.host != self.server.target.host;
        let was_doubted = self.is_doubted.swap(false, Ordering::Relaxed);
        let answer = if was_doubted && is_named {
            self.look_for_another(&session, deadline)
        } else {
            Ok(())
        };
        let answer =
            answer.and_then(|()| self.post(&session.master, &call(&session), &mut read, deadline));
        // After one that was, a master that is merely slow has all the time.
        if is_named && !was_doubted && matches!(answer, Err(Trouble::Http(_))) {
            self.is_doubted.store(true, Ordering::Relaxed);
        }
        let is_over = match &answer {
            // Whoever has closed it wants no other one.
            Err(Trouble::Rpc(RpcError::SessionInvalid)) => self.server.closed() == closed,
            Err(Trouble::Rpc(RpcError::HostIsSlave { .. })) => true,
            // A member has named it, and may name another one by now, or another certificate.
            Err(Trouble::Unreached(_)) => has_time && is_named,
            _ => false,
        };
        let over = if is_over { self.server.forget(&session, deadline)? } else { Over::Kept };
        match (over, &answer) {
            (Over::Kept, _) => return answer.map_err(|trouble| self.lost(&trouble.to_string())),
            (Over::Replaced, _) | (_, Err(Trouble::Rpc(RpcError::SessionInvalid))) => {}
            (Over::Forgotten, _) => {
                // The next login finds it.
                *lock(&self.master) = None;
                if let Err(Trouble::Unreached(_)) = answer {
                    *lock(&self.given_up) = Some(session);
                }
            }
        }
        let session = self.session(deadline)?;
        let answer = self.post(&session.master, &call(&session), &mut read, deadline);
        if let Err(Trouble::Rpc(RpcError::SessionInvalid)) = answer {
            self.server.was_renewed_in_vain(deadline)?;
        }
        answer.map_err(|trouble| self.lost(&trouble.to_string()))
    }

    /// Asks the host of the URI, which needs no password for that, whether another host is the master by
    /// now than the one that it has named: that one may go on hanging, or answering badly, for ever. Fails as a
    /// call of a former master does.
    fn look_for_another(
        &self,
        session: &LoggedIn,
        deadline: Instant,
    ) -> std::result::Result<(), Trouble> {
        let Target { host, trust, .. } = &self.server.target;
        let Ok(client) = Client::new(trust) else { return Ok(()) };
        let named_by = Master { host: host.clone(), client: Arc::new(client) };
        let now = Instant::now();
        let until = now + (deadline.saturating_duration_since(now) / 2).min(CLOSING);
        let master = match self.post(&named_by, &Call::pools(session), &mut rpc::nothing, until) {
            Err(Trouble::Rpc(RpcError::HostIsSlave { master })) => master,
            // It is the master itself.
            Ok(()) | Err(Trouble::Rpc(RpcError::SessionInvalid)) => host.clone(),
            Err(_) => return Ok(()),
        };
        if master == session.master.host {
            return Ok(());
        }
        Err(Trouble::Rpc(RpcError::HostIsSlave { master }))
    }

    /// The session, if there is one, and how often it was closed by then.
    pub(super) fn open_session(&self, deadline: Instant) -> Option<Opened> {
        let closed = self.server.closed();
        Some((self.server.open_session(deadline)?, closed))
    }

    /// The same; logs in where there is none.
    pub(super) fn any_session(&self, deadline: Instant) -> Result<Opened> {
        let closed = self.server.closed();
        Ok((self.session(deadline)?, closed))
    }

    /// What a host answers to a GET, read up to a marker if there is one.
    pub(super) fn get(
        &self,
        (session, closed): Opened,
        what: &'static str,
        place: &Place,
        path: &str,
        until: Option<&'static [u8]>,
        deadline: Instant,
    ) -> Result<Response> {
        let mut answer = self.get_once(what, place, path, until, &session, deadline)?;
        if answer.status == 401 && self.server.closed() == closed {
            if let Some(session) = self.renewed(&session, deadline)? {
                answer = self.get_once(what, place, path, until, &session, deadline)?;
            }
        }
        let why = match answer.status {
            200 => return Ok(answer),
            401 => REFUSED.into(),
            403 => {
                "the role of this user does not permit it; read-only is enough for virtmeter".into()
            }
            404 => "its xcp-rrdd does not answer; look whether that service runs".into(),
            302 | 301 => "the VM is on another host by now".into(),
            status => format!("it answered with HTTP status {status}"),
        };
        Err(self.lost(&why))
    }

    /// Logs out, if there is a session.
    pub(super) fn close(&self, deadline: Instant) -> Result<()> {
        let given_up = lock(&self.given_up).take();
        let session = self.server.close(deadline)?;
        let closed = session.map_or(Ok(()), |session| self.log_out(&session, deadline));
        if let Some(session) = given_up {
            let _ = self.log_out(&session, deadline);
        }
        closed.map_err(|trouble| self.lost(&trouble.to_string()))
    }

    fn log_out(&self, session: &LoggedIn, deadline: Instant) -> std::result::Result<(), Trouble> {
        self.post(&session.master, &Call::logout(session), &mut rpc::nothing, deadline)
    }

    fn get_once(
        &self,
        what: &'static str,
        place: &Place,
        path: &str,
        until: Option<&'static [u8]>,
        session: &LoggedIn,
        deadline: Instant,
    ) -> Result<Response> {
        let cookie = format!("session_id={}", session.cookie());
        let send = |host: &str, client: &Client| {
            let mut request = Request::get(host, self.server.target.port, path)
                // From 23.17 on, */* means JSON.
                .header("Accept", "text/xml")
                .header("Cookie", &cookie);
            if let Some(marker) = until {
                request = request.until(marker);
            }
            self.server.count(what);
            client.send(&request, deadline)
        };
        if place.is_master {
            let answer = send(&session.master.host, &session.master.client);
            return answer.map_err(|error| self.lost(&error.to_string()));
        }
        let mut answer = send(&place.address, &*self.member(place, deadline)?);
        if is_wrong_pin(&answer) {
            // It may have been renewed, which the master tells.
            lock(&self.members).remove(&place.address);
            answer = send(&place.address, &*self.member(place, deadline)?);
        }
        answer.map_err(|error| match error.why {
            Why::WrongPin { expected, presented } => self.lost(&format!(
                "{} has not the certificate that the pool's master knows: its SHA-256 is {presented}, \
                 not {expected}; see that nothing else answers in its place",
                Printable(&place.address)
            )),
            _ => self.lost(&error.to_string()),
        })
    }

    /// A client that trusts a host of the pool which is not the master.
    fn member(&self, place: &Place, deadline: Instant) -> Result<Arc<Client>> {
        let member = Arc::clone(lock(&self.members).entry(place.address.clone()).or_default());
        let mut known = lock(&member);
        if let Some(client) = &*known {
            return Ok(Arc::clone(client));
        }
        let trust = if self.server.target.trust == Trust::Anything {
            Trust::Anything
        } else {
            let certificate = fingerprint_of_pem(&self.certificate(place, deadline)?)
                .ok_or_else(|| self.lost("the master tells no certificate of this host"))?;
            Trust::Pin(certificate)
        };
        let client = Client::new(&trust);
        let client = Arc::new(client.map_err(|error| self.lost(&error.to_string()))?);
        *known = Some(Arc::clone(&client));
        Ok(client)
    }

    /// The certificate of a host, which the master asks it for.
    fn certificate(&self, place: &Place, deadline: Instant) -> Result<String> {
        let closed = self.server.closed();
        let session = self.session(deadline)?;
        let ask = |session: &LoggedIn| {
            let call = Call::server_certificate(session, &place.reference);
            self.post(&session.master, &call, &mut rpc::certificate, deadline)
        };
        let mut answer = ask(&session);
        let may_be_over = matches!(answer, Err(Trouble::Rpc(_) | Trouble::Unreached(_)));
        if may_be_over && self.server.closed() == closed {
            if let Some(session) = self.renewed(&session, deadline)? {
                answer = ask(&session);
            }
        }
        answer.map_err(|trouble| match trouble {
            Trouble::Rpc(RpcError::SessionInvalid) => self.lost(REFUSED),
            trouble => self.lost(&trouble.to_string()),
        })
    }

    /// The session in place of one that a host does not accept, if that is over. The master says so: a host
    /// that cannot ask the master accepts none, and would have another one logged in to each time.
    fn renewed(&self, refused: &Arc<LoggedIn>, deadline: Instant) -> Result<Option<Arc<LoggedIn>>> {
        self.call(|session| Call::pools(session), rpc::nothing, deadline)?;
        let session = self.session(deadline)?;
        Ok((!Arc::ptr_eq(&session, refused)).then_some(session))
    }

    /// The session; logs in where there is none.
    fn session(&self, deadline: Instant) -> Result<Arc<LoggedIn>> {
        let session = self.server.session(
            deadline,
            |secret, time| self.log_in(secret, time),
            |session| _ = self.log_out(session, Instant::now() + CLOSING),
        )?;
        let given_up = lock(&self.given_up).take();
        if let Some(last) = given_up {
            // Its master may have been away for a moment only.
            let (call, until) = (Call::logout(&last), Instant::now() + CLOSING);
            let _ = self.post(&session.master, &call, &mut rpc::nothing, until);
        }
        Ok(session)
    }

    /// Logs in to the last master, or to the host in the URI, or to the master that either names.
    fn log_in(
        &self,
        secret: &Secret,
        time: Duration,
    ) -> std::result::Result<LoggedIn, NotLoggedIn> {
        let lost = |why: &str| NotLoggedIn::Failed(self.lost(why));
        let known = lock(&self.master).clone();
        let mut master = match known {
            Some(master) => master,
            None => Master {
                host: self.server.target.host.clone(),
                client: Arc::new(
                    Client::new(&self.server.target.trust)
                        .map_err(|error| lost(&error.to_string()))?,
                ),
            },
        };
        let mut answer = self.log_in_once(&master, secret, time);
        if let Err((Trouble::Rpc(RpcError::HostIsSlave { master: address }), thumbprint)) = answer {
            master = self.redirected(&master, &address, thumbprint).map_err(NotLoggedIn::Failed)?;
            answer = self.log_in_once(&master, secret, time);
        }
        match answer {
            Ok(session) => {
                *lock(&self.master) = Some(master.clone());
                let number = self.server.sessions().opened + 1;
                Ok(LoggedIn { session, master, number })
            }
            Err((Trouble::Rpc(RpcError::AuthenticationFailed), _)) => {
                Err(NotLoggedIn::Refused(WRONG_PASSWORD))
            }
            Err((trouble, _)) => {
                *lock(&self.master) = None;
                Err(lost(&trouble.to_string()))
            }
        }
    }

    /// One login, and what a host that is not the master says of the master's certificate. It is given up
    /// after that time if it cannot be reached.
    fn log_in_once(
        &self,
        master: &Master,
        secret: &Secret,
        time: Duration,
    ) -> std::result::Result<Session, (Trouble, Option<Fingerprint>)> {
        let now = Instant::now();
        let until = Until { reached: now + time, answered: now + LOGIN.max(time) };
        let call = Call::login(&self.server.target.user, secret.expose());
        let response = self.send(master, &call, until).map_err(|trouble| (trouble, None))?;
        let thumbprint = response.header(THUMBPRINT).and_then(|text| {
            let digits = text.rsplit_once(' ').map_or(text, |(_, digits)| digits);
            digits.rsplit_once("sha-256:").map_or(digits, |(_, digits)| digits).parse().ok()
        });
        rpc::session(&response.body).map_err(|error| (Trouble::Rpc(error), thumbprint))
    }

    /// The master that a member has named, where that can be trusted.
    fn redirected(
        &self,
        member: &Master,
        address: &str,
        thumbprint: Option<Fingerprint>,
    ) -> Result<Master> {
        let client = match (&self.server.target.trust, thumbprint) {
            (Trust::Pin(_), Some(thumbprint)) => {
                let trust = Trust::Pin(thumbprint);
                Arc::new(Client::new(&trust).map_err(|error| self.lost(&error.to_string()))?)
            }
            (Trust::Pin(_), None) => {
                return Err(self.lost(&format!(
                    "this host is not the master of its pool, {} is, and nothing here tells which \
                     certificate that has; put the master and its sha256= into the URI",
                    Printable(address)
                )));
            }
            _ => Arc::clone(&member.client),
        };
        Ok(Master { host: address.to_owned(), client })
    }

    fn post<T>(
        &self,
        master: &Master,
        call: &Call,
        read: &mut impl FnMut(&[u8]) -> std::result::Result<T, RpcError>,
        deadline: Instant,
    ) -> std::result::Result<T, Trouble> {
        let response = self.send(master, call, deadline)?;
        read(&response.body).map_err(Trouble::Rpc)
    }

    fn send(
        &self,
        master: &Master,
        call: &Call,
        until: impl Into<Until>,
    ) -> std::result::Result<Response, Trouble> {
        let request = Request::post(&master.host, self.server.target.port, "/jsonrpc", &call.body)
            .header("Content-Type", "application/json")
            .header("Accept", "application/json")
            .header(THUMBPRINT_REQUEST, MASTER)
            .longest(LONGEST_RPC);
        self.server.count(call.method);
        let response = master.client.send(&request, until);
        let response = response.map_err(|error| {
            let is_reached = !error.why.is_before_request();
            let why = match &error.why {
                // What the URI says of certificates is about the member that has named it.
                Why::WrongPin { presented, .. }
                | Why::UnknownCa { presented }
                | Why::NotTrusted { presented, .. }
                | Why::WrongName { presented }
                    if master.host != self.server.target.host =>
                {
                    format!(
                        "this host is not the master of its pool, {} is, and its certificate is not \
                         one that is trusted by way of this host; put the master into the URI, and \
                         sha256={presented} after checking that it is the SHA-256 of its \
                         certificate",
                        Printable(&master.host)
                    )
                }
                _ => error.to_string(),
            };
            if is_reached { Trouble::Http(why) } else { Trouble::Unreached(why) }
        })?;
        match response.status {
            200 => Ok(response),
            404 => Err(Trouble::Http("there is no XAPI at /jsonrpc; check host and port".into())),
            status => Err(Trouble::Http(format!("XAPI answered with HTTP status {status}"))),
        }
    }

    /// The pool, or a host of it, cannot be read, and why.
    pub(super) fn lost(&self, why: &str) -> Error {
        self.server.lost(why)
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreached(why) | Self::Http(why) => f.write_str(why),
            Self::Rpc(error) => error.fmt(f),
        }
    }
}

fn is_wrong_pin(answer: &std::result::Result<Response, HttpError>) -> bool {
    matches!(answer, Err(HttpError { why: Why::WrongPin { .. }, .. }))
}
