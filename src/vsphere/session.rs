//! Calls of a vCenter's, and how it is logged in to and out of.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::faults::FaultKind;
use super::perf::Counters;
use super::requests::{ACTION, CONTENT_TYPE, Request};
use super::soap::{self, Refs, SoapError};
use crate::error::{Error, Result};
use crate::https::{self, Client, Response, Until, Why};
use crate::locks::lock;
use crate::target::{NotLoggedIn, Over, PasswordSource, Secret, Server, Target};

/// A directory that is asked whether a password is right may take its time; whoever gives up before that
/// does not learn of it, and would try it again. It takes five tries within three minutes to lock an account.
const LOGIN: Duration = Duration::from_secs(120);
/// All that comes before and after it.
const AROUND_LOGIN: Duration = Duration::from_secs(20);
/// A session of which no use can be made is closed within that.
const CLOSING: Duration = Duration::from_secs(1);
const WRONG_PASSWORD: &str = "wrong user name or password; it is not tried again until the password changes, as \
                     accounts are locked after a few tries";
const COOKIE: &str = "vmware_soap_session";
/// What is in the view of a session.
const TYPES: [&str; 2] = ["VirtualMachine", "HostSystem"];

/// A vCenter, or a single ESXi host.
pub(super) struct Vcenter {
    pub(super) server: Server<Session>,
    /// Made at the first login, as it reads certificates.
    client: Mutex<Option<Arc<Client>>>,
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
    /// What came is beyond bounds, or broken: what it is about may have such a text in it.
    Unusable(String),
}

impl Trouble {
    /// Whether the other hosts of a call may be well.
    pub(super) fn is_about_a_host(&self) -> bool {
        match self {
            Self::TimedOut(_) => true,
            Self::Fault(kind, _) => kind.is_about_a_host(),
            Self::Lost(_) | Self::Unusable(_) => false,
        }
    }
}

impl Vcenter {
    pub(super) fn new(target: Target, password: PasswordSource) -> Self {
        Self { server: Server::new(target, password), client: Mutex::default() }
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
        let closed = self.server.closed();
        let session = self.session(deadline).map_err(Trouble::Lost)?;
        let answer = once(&session);
        // Whoever has closed it wants no other one.
        if !session.is_over(&answer) || self.server.closed() != closed {
            return answer;
        }
        match self.server.forget(&session, deadline).map_err(Trouble::Lost)? {
            Over::Kept => return answer,
            Over::Replaced => {}
            Over::Forgotten => {
                // It may be only its view that is gone.
                let _ = self.log_out(&session, deadline.min(Instant::now() + CLOSING));
            }
        }
        let session = self.session(deadline).map_err(Trouble::Lost)?;
        let answer = once(&session);
        if session.is_over(&answer) {
            self.server.was_renewed_in_vain(deadline).map_err(Trouble::Lost)?;
        }
        answer
    }

    /// Logs out, if there is a session.
    pub(super) fn close(&self, deadline: Instant) -> Result<()> {
        let Some(session) = self.server.close(deadline)? else { return Ok(()) };
        self.log_out(&session, deadline).map_err(|trouble| self.error(trouble))
    }

    /// The session. What is wrong with a login is told as such: no VM has to do with it.
    fn session(&self, deadline: Instant) -> Result<Arc<Session>> {
        self.server.session(
            deadline,
            |secret, time| {
                self.log_in(secret, time, deadline).map_err(|trouble| match trouble {
                    Trouble::Fault(FaultKind::InvalidLogin, _) => {
                        NotLoggedIn::Refused(WRONG_PASSWORD)
                    }
                    trouble => NotLoggedIn::Failed(self.error(trouble)),
                })
            },
            |session| _ = self.log_out(session, Instant::now() + CLOSING),
        )
    }

    fn client(&self) -> Result<Arc<Client>> {
        let mut known = lock(&self.client);
        if let Some(client) = &*known {
            return Ok(Arc::clone(client));
        }
        let client = Client::new(&self.server.target.trust);
        let client = client.map_err(|error| self.lost(&error.to_string()))?;
        Ok(Arc::clone(known.insert(Arc::new(client))))
    }

    /// One login, and what belongs to a session. It is given up after that time if vCenter cannot be reached,
    /// and is a fault only where the login itself is refused.
    fn log_in(
        &self,
        secret: &Secret,
        time: Duration,
        deadline: Instant,
    ) -> std::result::Result<Session, Trouble> {
        let within = |longest| deadline.max(Instant::now() + longest);
        let until = |longest| Until { reached: Instant::now() + time, answered: within(longest) };
        let client = self.client().map_err(Trouble::Lost)?;
        let content = Request::service_content();
        let refs = self
            .send(&client, &content, None, until(AROUND_LOGIN), |answer| soap::refs(&answer.body));
        let refs = refs.map_err(|trouble| Trouble::Lost(self.error(trouble)))?;
        let login = Request::login(&refs, &self.server.target.user, secret).ok_or_else(|| {
            let kind = FaultKind::InvalidLogin;
            Trouble::Fault(kind, "the password has characters that XML cannot hold".to_owned())
        })?;
        let cookie = self.send(&client, &login, None, until(LOGIN), |answer| {
            soap::login(&answer.body)?;
            cookie(answer).ok_or(SoapError::Unexpected("it has no cookie of a session"))
        })?;
        let deadline = within(AROUND_LOGIN);
        let call = |request: &Request, header: &str| {
            self.send(&client, request, Some(header), deadline, |answer| Ok(answer.body.to_vec()))
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
                let _ = self.log_out_of(&client, &refs, &cookie, until);
                Err(Trouble::Lost(self.error(trouble)))
            }
        }
    }

    fn log_out(&self, session: &Session, deadline: Instant) -> std::result::Result<(), Trouble> {
        self.log_out_of(&session.client, &session.refs, &session.cookie, deadline)
    }

    fn log_out_of(
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

    fn send<T>(
        &self,
        client: &Client,
        request: &Request,
        cookie: Option<&str>,
        until: impl Into<Until>,
        read: impl FnOnce(&Response) -> soap::Result<T>,
    ) -> std::result::Result<T, Trouble> {
        let target = &self.server.target;
        let mut post = https::Request::post(&target.host, target.port, "/sdk", &request.body)
            .header("Content-Type", CONTENT_TYPE)
            .header("SOAPAction", ACTION)
            .longest(soap::MAX_ANSWER)
            .gzip();
        if let Some(cookie) = cookie {
            post = post.header("Cookie", cookie);
        }
        self.server.count(request.method);
        let answer = client.send(&post, until).map_err(|error| {
            if let Why::BodyTooLong(_) = error.why {
                return Trouble::Unusable(error.to_string());
            }
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
            SoapError::Unusable(_) => Trouble::Unusable(error.to_string()),
            error => Trouble::Lost(self.lost(&error.to_string())),
        }
    }

    /// What a caller is told of it.
    pub(super) fn error(&self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Lost(error) | Trouble::TimedOut(error) => error,
            Trouble::Fault(_, text) | Trouble::Unusable(text) => self.lost(&text),
        }
    }

    /// vSphere, or a host of it, cannot be read, and why.
    pub(super) fn lost(&self, why: &str) -> Error {
        self.server.lost(why)
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
