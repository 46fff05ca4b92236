//! One login for all hosts of a pool: renewed once where it is over, never tried again with a password
//! that was refused, and logged out at the end.
//!
//! The master is trusted as the URI says. Every other host is trusted by its certificate, which the
//! master tells (`host.get_server_certificate`): those are self-signed as a rule, for names that nobody
//! resolves.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::rpc::{self, Call, RpcError, Session};
use crate::error::{Error, Failure, Result};
use crate::https::{Client, HttpError, Request, Response, Until, Why, fingerprint_of_pem};
use crate::printable::Printable;
use crate::target::{
    Fingerprint, PasswordSource, Passwords, Secret, Target, Trust, lock_until, time_to_reach,
};

/// XAPI waits 5 s before it answers a wrong password.
const WRONG: Duration = Duration::from_secs(7);
/// A directory that is asked whether a password is right may take its time; whoever gives up before that
/// does not learn of it, and would try it again.
const LOGIN: Duration = Duration::from_secs(120);
/// After a session that was over at once, there is no other one for that long.
const PAUSE: Duration = Duration::from_secs(10);
/// A session that nobody wants any more is closed within that.
const CLOSING: Duration = Duration::from_secs(1);
/// An answer of XAPI about a whole pool.
const LONGEST_RPC: usize = rpc::MAX_ANSWER;
/// Of a master that is asked for another one's certificate.
const MASTER: &str = "sha-256:master";
/// What is wrong with a host that takes no session.
const REFUSED: &str = "it does not accept the session, which is valid: can it reach its master?";
const THUMBPRINT_REQUEST: &str = "x-xenapi-request-host-certificate-thumbprint";
const THUMBPRINT: &str = "x-xenapi-response-host-certificate-thumbprint";

/// A pool that is logged in to when that is needed.
pub(super) struct Pool {
    target: Target,
    password: PasswordSource,
    /// Held while it logs in, which may take [`LOGIN`].
    login: Mutex<Login>,
    opened: AtomicU64,
    is_open: AtomicBool,
    /// How often it was closed.
    closed: AtomicU64,
    /// What the log is to say.
    lines: Mutex<Vec<String>>,
    members: Mutex<HashMap<String, Member>>,
    calls: Mutex<BTreeMap<&'static str, u64>>,
}

#[derive(Default)]
struct Login {
    session: Option<Arc<LoggedIn>>,
    master: Option<Master>,
    /// When one was last renewed in vain.
    renewed_in_vain: Option<Instant>,
    passwords: Passwords,
}

/// How a host is trusted, once that is known. Whoever finds that out locks it.
type Member = Arc<Mutex<Option<Arc<Client>>>>;

/// A session, and the how manieth that is.
pub(super) struct LoggedIn {
    session: Session,
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
        Self {
            target,
            password,
            login: Mutex::default(),
            opened: AtomicU64::new(0),
            is_open: AtomicBool::new(false),
            closed: AtomicU64::new(0),
            lines: Mutex::default(),
            members: Mutex::default(),
            calls: Mutex::default(),
        }
    }

    /// The URI for messages.
    pub(super) fn uri(&self) -> String {
        self.target.place()
    }

    /// Whether dom0 and other control domains are VMs like others.
    pub(super) fn control_domains(&self) -> bool {
        self.target.control_domains
    }

    /// Round trips, by the names of the calls.
    pub(super) fn calls(&self) -> Vec<(&'static str, u64)> {
        lock(&self.calls).iter().map(|(name, count)| (*name, *count)).collect()
    }

    /// How often it has logged in, and whether it is logged in.
    pub(super) fn sessions(&self) -> (u64, bool) {
        (self.opened.load(Ordering::Relaxed), self.is_open.load(Ordering::Relaxed))
    }

    /// For how much longer an answer may take while it logs in.
    pub(super) fn patience(&self) -> Duration {
        if self.sessions().1 { Duration::ZERO } else { WRONG }
    }

    /// What the log is to say of logins.
    pub(super) fn take_lines(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.lines))
    }

    /// A call of the master's with what its answer says. Where the session is over, or another host has
    /// become the master, there is one more login.
    pub(super) fn call<T>(
        &self,
        call: impl Fn(&LoggedIn) -> Call,
        mut read: impl FnMut(&[u8]) -> std::result::Result<T, RpcError>,
        deadline: Instant,
    ) -> Result<T> {
        let closed = self.closed.load(Ordering::Relaxed);
        let (session, master) = self.session(deadline)?;
        let answer = self.post(&master, &call(&session), &mut read, deadline);
        let may_repeat = match answer {
            // Whoever has closed it wants no other one.
            Err(Trouble::Rpc(RpcError::SessionInvalid)) if !self.was_closed_since(closed) => {
                self.forget(&session, deadline)?
            }
            Err(Trouble::Rpc(RpcError::HostIsSlave { .. })) => {
                self.forget_master(&session, deadline)?
            }
            // A member has named it, and may name another one by now, or another certificate.
            Err(Trouble::Unreached(_)) if master.host != self.target.host => {
                self.forget_master(&session, deadline)?
            }
            _ => false,
        };
        if !may_repeat {
            return answer.map_err(|trouble| self.lost(&trouble.to_string()));
        }
        let (session, master) = self.session(deadline)?;
        let answer = self.post(&master, &call(&session), &mut read, deadline);
        if let Err(Trouble::Rpc(RpcError::SessionInvalid)) = answer {
            self.login_until(deadline)?.renewed_in_vain = Some(Instant::now());
        }
        answer.map_err(|trouble| self.lost(&trouble.to_string()))
    }

    /// What a host answers to a GET, read up to a marker if there is one.
    pub(super) fn get(
        &self,
        what: &'static str,
        place: &Place,
        path: &str,
        until: Option<&'static [u8]>,
        deadline: Instant,
    ) -> Result<Response> {
        let closed = self.closed.load(Ordering::Relaxed);
        let (session, master) = self.session(deadline)?;
        let mut answer = self.get_once(what, place, path, until, (&session, &master), deadline)?;
        if answer.status == 401 && !self.was_closed_since(closed) {
            if let Some((session, master)) = self.renewed(&session, deadline)? {
                answer = self.get_once(what, place, path, until, (&session, &master), deadline)?;
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
        self.closed.fetch_add(1, Ordering::Relaxed);
        let mut login = self.login_until(deadline)?;
        let (session, master) = (login.session.take(), login.master.clone());
        self.is_open.store(false, Ordering::Relaxed);
        drop(login);
        let Some((session, master)) = session.zip(master) else { return Ok(()) };
        let answer = self.post(&master, &Call::logout(&session), &mut rpc::nothing, deadline);
        answer.map_err(|trouble| self.lost(&trouble.to_string()))
    }

    fn was_closed_since(&self, closed: u64) -> bool {
        self.closed.load(Ordering::Relaxed) != closed
    }

    /// Whoever logs in now is not waited for any longer than that.
    fn login_until(&self, deadline: Instant) -> Result<MutexGuard<'_, Login>> {
        lock_until(&self.login, deadline).ok_or_else(|| self.lost("it is still being logged in"))
    }

    fn get_once(
        &self,
        what: &'static str,
        place: &Place,
        path: &str,
        until: Option<&'static [u8]>,
        (session, master): (&Session, &Master),
        deadline: Instant,
    ) -> Result<Response> {
        let cookie = format!("session_id={}", session.cookie());
        let send = |host: &str, client: &Client| {
            let mut request = Request::get(host, self.target.port, path)
                // From 23.17 on, */* means JSON.
                .header("Accept", "text/xml")
                .header("Cookie", &cookie);
            if let Some(marker) = until {
                request = request.until(marker);
            }
            self.count(what);
            client.send(&request, deadline)
        };
        if place.is_master {
            let answer = send(&master.host, &master.client);
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
        let trust = if self.target.trust == Trust::Anything {
            Trust::Anything
        } else {
            let certificate = fingerprint_of_pem(&self.certificate(place, deadline)?)
                .ok_or_else(|| self.lost("the master tells no certificate of this host"))?;
            Trust::Pin(certificate)
        };
        let (_, master) = self.session(deadline)?;
        let client =
            master.client.trusting(&trust).map_err(|error| self.lost(&error.to_string()))?;
        let client = Arc::new(client);
        *known = Some(Arc::clone(&client));
        Ok(client)
    }

    /// The certificate of a host, which the master asks it for.
    fn certificate(&self, place: &Place, deadline: Instant) -> Result<String> {
        let closed = self.closed.load(Ordering::Relaxed);
        let (session, master) = self.session(deadline)?;
        let ask = |session: &LoggedIn, master: &Master| {
            let call = Call::server_certificate(session, &place.reference);
            self.post(master, &call, &mut rpc::certificate, deadline)
        };
        let mut answer = ask(&session, &master);
        let may_be_over = matches!(answer, Err(Trouble::Rpc(_) | Trouble::Unreached(_)));
        if may_be_over && !self.was_closed_since(closed) {
            if let Some((session, master)) = self.renewed(&session, deadline)? {
                answer = ask(&session, &master);
            }
        }
        answer.map_err(|trouble| match trouble {
            Trouble::Rpc(RpcError::SessionInvalid) => self.lost(REFUSED),
            trouble => self.lost(&trouble.to_string()),
        })
    }

    /// The session in place of one that a host does not accept, if that is over. The master says so: a host
    /// that cannot ask the master accepts none, and would have another one logged in to each time.
    fn renewed(
        &self,
        refused: &LoggedIn,
        deadline: Instant,
    ) -> Result<Option<(Arc<LoggedIn>, Master)>> {
        self.call(|session| Call::pools(session), rpc::nothing, deadline)?;
        let (session, master) = self.session(deadline)?;
        Ok((session.number != refused.number).then_some((session, master)))
    }

    /// The session, and who the master is; logs in where there is none. Others wait meanwhile, as long as
    /// they may.
    fn session(&self, deadline: Instant) -> Result<(Arc<LoggedIn>, Master)> {
        let closed = self.closed.load(Ordering::Relaxed);
        let mut login = self.login_until(deadline)?;
        if let (Some(session), Some(master)) = (&login.session, &login.master) {
            return Ok((Arc::clone(session), master.clone()));
        }
        let time = time_to_reach(deadline);
        let next = login.passwords.next(&self.target, &self.password);
        let (secret, said) = next?;
        lock(&self.lines).extend(said);
        let mut master = match &login.master {
            Some(master) => master.clone(),
            None => Master {
                host: self.target.host.clone(),
                client: Arc::new(
                    Client::new(&self.target.trust)
                        .map_err(|error| self.lost(&error.to_string()))?,
                ),
            },
        };
        let was_closed = || self.lost("it was closed while it was logged in to");
        // Whoever was to tell the password may have taken long.
        if self.was_closed_since(closed) {
            return Err(was_closed());
        }
        let mut answer = self.log_in(&master, &secret, time);
        if let Err((Trouble::Rpc(RpcError::HostIsSlave { master: address }), thumbprint)) = answer {
            master = self.redirected(&master, &address, thumbprint)?;
            answer = self.log_in(&master, &secret, time);
        }
        match answer {
            Ok(session) if self.was_closed_since(closed) => {
                let (logout, deadline) = (Call::logout(&session), Instant::now() + CLOSING);
                let _ = self.post(&master, &logout, &mut rpc::nothing, deadline);
                Err(was_closed())
            }
            Ok(session) => {
                let number = self.opened.fetch_add(1, Ordering::Relaxed) + 1;
                let session = Arc::new(LoggedIn { session, number });
                login.session = Some(Arc::clone(&session));
                self.is_open.store(true, Ordering::Relaxed);
                login.master = Some(master.clone());
                Ok((session, master))
            }
            Err((Trouble::Rpc(RpcError::AuthenticationFailed), _)) => {
                let message = "wrong user name or password; it is not tried again until the password \
                               changes";
                Err(login.passwords.refuse(&self.target, secret, message))
            }
            Err((trouble, _)) => {
                login.master = None;
                Err(self.lost(&trouble.to_string()))
            }
        }
    }

    /// One login, and what a host that is not the master says of the master's certificate. It is given up
    /// after that time if it cannot be reached.
    fn log_in(
        &self,
        master: &Master,
        secret: &Secret,
        time: Duration,
    ) -> std::result::Result<Session, (Trouble, Option<Fingerprint>)> {
        let now = Instant::now();
        let until = Until { reached: now + time, answered: now + LOGIN.max(time) };
        let call = Call::login(&self.target.user, secret.expose());
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
        let client = match (&self.target.trust, thumbprint) {
            (Trust::Pin(_), Some(thumbprint)) => {
                let trust = Trust::Pin(thumbprint);
                let made = member.client.trusting(&trust);
                Arc::new(made.map_err(|error| self.lost(&error.to_string()))?)
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
        let request = Request::post(&master.host, self.target.port, "/jsonrpc", &call.body)
            .header("Content-Type", "application/json")
            .header("Accept", "application/json")
            .header(THUMBPRINT_REQUEST, MASTER)
            .longest(LONGEST_RPC);
        self.count(call.method);
        let response = master.client.send(&request, until);
        let response = response.map_err(|error| {
            let is_reached = !error.why.is_before_request();
            let why = match &error.why {
                // What the URI says of certificates is about the member that has named it.
                Why::WrongPin { presented, .. }
                | Why::UnknownCa { presented }
                | Why::NotTrusted { presented, .. }
                | Why::WrongName { presented }
                    if master.host != self.target.host =>
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

    /// Forgets a session that is over, unless there is another by now. Returns whether there may be another
    /// one.
    fn forget(&self, over: &Arc<LoggedIn>, deadline: Instant) -> Result<bool> {
        self.forget_login(over, deadline, |login| {
            login.renewed_in_vain.is_none_or(|last| last.elapsed() >= PAUSE)
        })
    }

    /// The same of one with a host that is not the master any more: the next login finds that.
    fn forget_master(&self, over: &Arc<LoggedIn>, deadline: Instant) -> Result<bool> {
        self.forget_login(over, deadline, |login| {
            login.master = None;
            true
        })
    }

    fn forget_login(
        &self,
        over: &Arc<LoggedIn>,
        deadline: Instant,
        may_be: impl FnOnce(&mut Login) -> bool,
    ) -> Result<bool> {
        let mut login = self.login_until(deadline)?;
        if !login.session.as_ref().is_some_and(|session| Arc::ptr_eq(session, over)) {
            return Ok(true);
        }
        let is_forgotten = may_be(&mut login);
        if is_forgotten {
            login.session = None;
            self.is_open.store(false, Ordering::Relaxed);
        }
        Ok(is_forgotten)
    }

    fn count(&self, call: &'static str) {
        *lock(&self.calls).entry(call).or_default() += 1;
    }

    /// The pool, or a host of it, cannot be read, and why.
    pub(super) fn lost(&self, why: &str) -> Error {
        let failure = Failure::of(why);
        Error::ConnectionLost { uri: self.uri(), instance: None, failure }
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
