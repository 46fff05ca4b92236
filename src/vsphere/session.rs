//! One login for a vCenter, shared by all: renewed once where it is over, never tried again with a
//! password that was refused (accounts are locked), and logged out at the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::faults::FaultKind;
use super::perf::Counters;
use super::requests::{ACTION, CONTENT_TYPE, Request};
use super::soap::{self, Refs, SoapError};
use crate::error::{Error, Failure, Result};
use crate::https::{self, Client, Response, Until};
use crate::target::{PasswordSource, Passwords, Secret, Target, lock_until, time_to_reach};

/// A directory that is asked whether a password is right may take its time; whoever gives up before that
/// does not learn of it, and would try it again. It takes five tries within three minutes to lock an account.
const LOGIN: Duration = Duration::from_secs(120);
/// All that comes before and after it.
const AROUND_LOGIN: Duration = Duration::from_secs(20);
/// After a session that was over at once, there is no other one for that long.
const PAUSE: Duration = Duration::from_secs(10);
/// A session of which no use can be made is closed within that.
const CLOSING: Duration = Duration::from_secs(1);
const COOKIE: &str = "vmware_soap_session";
/// What is in the view of a session.
const TYPES: [&str; 2] = ["VirtualMachine", "HostSystem"];

/// A vCenter, or a single ESXi host, that is logged in to when that is needed.
pub(super) struct Vcenter {
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
    calls: Mutex<BTreeMap<&'static str, u64>>,
}

#[derive(Default)]
struct Login {
    client: Option<Arc<Client>>,
    session: Option<Arc<Session>>,
    /// When one was last renewed in vain.
    renewed_in_vain: Option<Instant>,
    passwords: Passwords,
}

/// A session, and what is the same for all of it.
pub(super) struct Session {
    client: Arc<Client>,
    cookie: String,
    pub(super) refs: Refs,
    /// All VMs and hosts; it ends with the session.
    pub(super) view: Box<str>,
    pub(super) counters: Counters,
}

impl Session {
    /// Whether an answer says that the session has ended, or its view is gone.
    fn is_over<T>(&self, answer: &std::result::Result<T, Trouble>) -> bool {
        match answer {
            Err(Trouble::Fault(FaultKind::NotAuthenticated, _)) => true,
            Err(Trouble::Fault(FaultKind::ManagedObjectNotFound(Some(object)), _)) => {
                *object == self.view
            }
            _ => false,
        }
    }
}

/// Why a call has no answer.
pub(super) enum Trouble {
    /// None came, or none that could be read; or nothing could be asked.
    Lost(Error),
    /// The server has refused it.
    Fault(FaultKind, String),
    /// None came in time.
    TimedOut(Error),
}

impl Trouble {
    /// Whether the other hosts of a call may be well.
    pub(super) fn is_about_a_host(&self) -> bool {
        match self {
            Self::TimedOut(_) => true,
            Self::Fault(kind, _) => kind.is_about_a_host(),
            Self::Lost(_) => false,
        }
    }
}

impl Vcenter {
    pub(super) fn new(target: Target, password: PasswordSource) -> Self {
        Self {
            target,
            password,
            login: Mutex::default(),
            opened: AtomicU64::new(0),
            is_open: AtomicBool::new(false),
            closed: AtomicU64::new(0),
            lines: Mutex::default(),
            calls: Mutex::default(),
        }
    }

    /// The URI for messages.
    pub(super) fn uri(&self) -> String {
        self.target.place()
    }

    /// Round trips, by the names of the calls.
    pub(super) fn calls(&self) -> Vec<(&'static str, u64)> {
        lock(&self.calls).iter().map(|(name, count)| (*name, *count)).collect()
    }

    /// How often it has logged in, and whether it is logged in.
    pub(super) fn sessions(&self) -> (u64, bool) {
        (self.opened.load(Ordering::Relaxed), self.is_open.load(Ordering::Relaxed))
    }

    /// What the log is to say of logins.
    pub(super) fn take_lines(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.lines))
    }

    /// What a call is answered. Where the session is over, there is one more login and one more call.
    pub(super) fn call<T>(
        &self,
        request: impl Fn(&Session) -> Request,
        read: impl Fn(&Session, &[u8]) -> soap::Result<T>,
        deadline: Instant,
    ) -> std::result::Result<T, Trouble> {
        let once = |session: &Session| {
            let cookie = format!("{COOKIE}={}", session.cookie);
            let request = request(session);
            self.send(&session.client, &request, Some(&cookie), deadline, |answer| {
                read(session, &answer.body)
            })
        };
        let closed = self.closed.load(Ordering::Relaxed);
        let session = self.session(deadline).map_err(Trouble::Lost)?;
        let answer = once(&session);
        if !session.is_over(&answer) {
            return answer;
        }
        if self.was_closed_since(closed) {
            // Whoever has closed it wants no other one.
            return answer;
        }
        if !self.forget(&session, deadline)? {
            return answer;
        }
        let session = self.session(deadline).map_err(Trouble::Lost)?;
        let answer = once(&session);
        if session.is_over(&answer) {
            let mut login = self.login_until(deadline).map_err(Trouble::Lost)?;
            login.renewed_in_vain = Some(Instant::now());
        }
        answer
    }

    /// Logs out, if there is a session.
    pub(super) fn close(&self, deadline: Instant) -> Result<()> {
        self.closed.fetch_add(1, Ordering::Relaxed);
        let session = {
            let mut login = self.login_until(deadline)?;
            self.is_open.store(false, Ordering::Relaxed);
            login.session.take()
        };
        let Some(session) = session else { return Ok(()) };
        self.log_out(&session.client, &session.refs, &session.cookie, deadline)
            .map_err(|trouble| self.error(trouble))
    }

    fn was_closed_since(&self, closed: u64) -> bool {
        self.closed.load(Ordering::Relaxed) != closed
    }

    /// The session; logs in where there is none. Others wait meanwhile, as long as they may. What is wrong with
    /// a login is told as such: no VM has to do with it.
    fn session(&self, deadline: Instant) -> Result<Arc<Session>> {
        let closed = self.closed.load(Ordering::Relaxed);
        let mut login = self.login_until(deadline)?;
        if let Some(session) = &login.session {
            return Ok(Arc::clone(session));
        }
        let time = time_to_reach(deadline);
        let next = login.passwords.next(&self.target, &self.password);
        let (secret, said) = next?;
        lock(&self.lines).extend(said);
        let client = if let Some(client) = &login.client {
            Arc::clone(client)
        } else {
            let client = Client::new(&self.target.trust);
            let client = client.map_err(|error| self.lost(&error.to_string()))?;
            Arc::clone(login.client.insert(Arc::new(client)))
        };
        let was_closed = || self.lost("it was closed while it was logged in to");
        // Whoever was to tell the password may have taken long.
        if self.was_closed_since(closed) {
            return Err(was_closed());
        }
        match self.log_in(client, &secret, time, deadline) {
            Ok(session) if self.was_closed_since(closed) => {
                let deadline = Instant::now() + CLOSING;
                let _ = self.log_out(&session.client, &session.refs, &session.cookie, deadline);
                Err(was_closed())
            }
            Ok(session) => {
                self.opened.fetch_add(1, Ordering::Relaxed);
                self.is_open.store(true, Ordering::Relaxed);
                Ok(Arc::clone(login.session.insert(Arc::new(session))))
            }
            Err(Trouble::Fault(FaultKind::InvalidLogin, _)) => {
                let message = "wrong user name or password; it is not tried again until the password \
                               changes, as accounts are locked after a few tries";
                Err(login.passwords.refuse(&self.target, secret, message))
            }
            Err(trouble) => Err(self.error(trouble)),
        }
    }

    /// One login, and what belongs to a session. It is given up after that time if vCenter cannot be reached,
    /// and is a fault only where the login itself is refused.
    fn log_in(
        &self,
        client: Arc<Client>,
        secret: &Secret,
        time: Duration,
        deadline: Instant,
    ) -> std::result::Result<Session, Trouble> {
        let within = |longest| deadline.max(Instant::now() + longest);
        let until = |longest| Until { reached: Instant::now() + time, answered: within(longest) };
        let content = Request::service_content();
        let refs = self
            .send(&client, &content, None, until(AROUND_LOGIN), |answer| soap::refs(&answer.body));
        let refs = refs.map_err(|trouble| Trouble::Lost(self.error(trouble)))?;
        let login = Request::login(&refs, &self.target.user, secret).ok_or_else(|| {
            let kind = FaultKind::InvalidLogin;
            Trouble::Fault(kind, "the password has characters that XML cannot hold".to_owned())
        })?;
        let cookie = self.send(&client, &login, None, until(LOGIN), |answer| {
            soap::login(&answer.body)?;
            cookie(answer).ok_or(SoapError::Unexpected("it has no cookie of a session"))
        })?;
        let deadline = within(AROUND_LOGIN);
        let call = |request: &Request, header: &str| {
            self.send(&client, request, Some(header), deadline, |answer| Ok(answer.body.clone()))
        };
        let header = format!("{COOKIE}={cookie}");
        let more = || {
            let view = call(&Request::create_view(&refs, &TYPES), &header)?;
            let view = soap::view(&view).map_err(|error| self.trouble(error))?;
            let counters = call(&Request::perf_counters(&refs), &header)?;
            let counters = Counters::read(&counters).map_err(|error| self.trouble(error))?;
            Ok((view, counters))
        };
        match more() {
            Ok((view, counters)) => Ok(Session { client, cookie, refs, view, counters }),
            Err(trouble) => {
                // No session is left behind, also where what followed the login took all the time.
                let until = deadline.max(Instant::now() + CLOSING);
                let _ = self.log_out(&client, &refs, &cookie, until);
                Err(Trouble::Lost(self.error(trouble)))
            }
        }
    }

    fn log_out(
        &self,
        client: &Client,
        refs: &Refs,
        cookie: &str,
        deadline: Instant,
    ) -> std::result::Result<(), Trouble> {
        let (request, cookie) = (Request::logout(refs), format!("{COOKIE}={cookie}"));
        self.send(client, &request, Some(&cookie), deadline, |answer| {
            soap::nothing(&answer.body, "Logout")
        })
    }

    /// Whoever logs in now is not waited for any longer than that.
    fn login_until(&self, deadline: Instant) -> Result<MutexGuard<'_, Login>> {
        lock_until(&self.login, deadline).ok_or_else(|| self.lost("it is still being logged in"))
    }

    fn send<T>(
        &self,
        client: &Client,
        request: &Request,
        cookie: Option<&str>,
        until: impl Into<Until>,
        read: impl FnOnce(&Response) -> soap::Result<T>,
    ) -> std::result::Result<T, Trouble> {
        let mut post =
            https::Request::post(&self.target.host, self.target.port, "/sdk", &request.body)
                .header("Content-Type", CONTENT_TYPE)
                .header("SOAPAction", ACTION)
                .longest(soap::MAX_ANSWER)
                .gzip();
        if let Some(cookie) = cookie {
            post = post.header("Cookie", cookie);
        }
        *lock(&self.calls).entry(request.method).or_default() += 1;
        let answer = client.send(&post, until).map_err(|error| {
            let lost = self.lost(&error.to_string());
            let is_late = error.why.is_timeout() && !error.why.is_before_request();
            if is_late { Trouble::TimedOut(lost) } else { Trouble::Lost(lost) }
        })?;
        let why = match answer.status {
            // Faults come as 500.
            200 | 500 => return read(&answer).map_err(|error| self.trouble(error)),
            401 => {
                let why = "the session is over".to_owned();
                return Err(Trouble::Fault(FaultKind::NotAuthenticated, why));
            }
            503 => {
                "vSphere is starting, or has no room for another session (HTTP status 503)".into()
            }
            404 => "there is no vSphere API at /sdk; check host and port".into(),
            status => format!("vSphere answered with HTTP status {status}"),
        };
        Err(Trouble::Lost(self.lost(&why)))
    }

    fn trouble(&self, error: SoapError) -> Trouble {
        match error {
            SoapError::Fault(fault) => {
                let text = fault.to_string();
                Trouble::Fault(fault.kind, text)
            }
            error => Trouble::Lost(self.lost(&error.to_string())),
        }
    }

    /// What a caller is told of it.
    pub(super) fn error(&self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Lost(error) | Trouble::TimedOut(error) => error,
            Trouble::Fault(_, text) => self.lost(&text),
        }
    }

    /// Forgets a session that is over, unless there is another by now, or is going to be. Returns whether
    /// there may be another one.
    fn forget(&self, over: &Arc<Session>, deadline: Instant) -> std::result::Result<bool, Trouble> {
        let mut login = self.login_until(deadline).map_err(Trouble::Lost)?;
        if !login.session.as_ref().is_some_and(|session| Arc::ptr_eq(session, over)) {
            return Ok(true);
        }
        if login.renewed_in_vain.is_some_and(|last| last.elapsed() < PAUSE) {
            return Ok(false);
        }
        login.session = None;
        self.is_open.store(false, Ordering::Relaxed);
        drop(login);
        // It may be only its view that is gone.
        let until = deadline.min(Instant::now() + CLOSING);
        let _ = self.log_out(&over.client, &over.refs, &over.cookie, until);
        Ok(true)
    }

    /// vSphere, or a host of it, cannot be read, and why.
    pub(super) fn lost(&self, why: &str) -> Error {
        let failure = Failure::of(why);
        Error::ConnectionLost { uri: self.uri(), instance: None, failure }
    }
}

/// The session's name, as the answer to a login sets it.
fn cookie(answer: &Response) -> Option<String> {
    let set = answer.headers("set-cookie").find_map(|set| {
        let (name, value) = set.split(';').next()?.trim().split_once('=')?;
        (name.trim() == COOKIE).then(|| value.trim().to_owned())
    });
    set.filter(|value| !value.is_empty())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
