//! The calls that XAPI is asked, and what it answers: JSON-RPC 2.0, `POST /jsonrpc`
//! (<https://xapi-project.github.io/new-docs/xen-api/wire-protocol/>).
//!
//! Pure: values in, bytes out, and back. No password and no session is in any `Debug` or error.

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::json::{array, integer, object, text, with_bare_words_quoted};
use crate::printable::Printable;

/// What an answer may have at the most, in bytes: a pool of 2,000 VMs has some 30 MB.
pub(super) const MAX_ANSWER: usize = 64 << 20;

/// Each call is alone on its connection, so that one number does for all.
const ID: i64 = 0;

/// What sessions are listed under in the pool, and counted by.
const ORIGINATOR: &str = "virtmeter";

/// A call as it is sent.
pub(super) struct Call {
    /// For example `event.from`.
    pub(super) method: &'static str,
    /// The body of the POST. It may hold a password or a session.
    pub(super) body: Vec<u8>,
}

impl Call {
    /// Answered with a [`session`].
    pub(super) fn login(user: &str, password: &str) -> Self {
        Self::new("session.login_with_password", &json!([user, password, "1.0", ORIGINATOR]))
    }

    /// Answered with [`nothing`].
    pub(super) fn logout(session: &Session) -> Self {
        Self::new("session.logout", &json!([session.0]))
    }

    /// What has changed in these classes since the token, or all there is for an empty one; XAPI
    /// does not wait for changes.
    pub(super) fn events(session: &Session, classes: &[&str], token: &str) -> Self {
        // A timeout without a point would be of the wrong type.
        Self::new("event.from", &json!([session.0, classes, token, 0.0]))
    }

    /// The pool, which the master knows by itself.
    pub(super) fn pools(session: &Session) -> Self {
        Self::new("pool.get_all", &json!([session.0]))
    }

    /// The certificate of a host's web server, answered with [`certificate`]. The master asks the host for
    /// it, and passes on what that refuses.
    pub(super) fn server_certificate(session: &Session, host: &str) -> Self {
        Self::new("host.get_server_certificate", &json!([session.0, host]))
    }

    fn new(method: &'static str, params: &Value) -> Self {
        let call = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": ID });
        Self { method, body: call.to_string().into_bytes() }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("method", &self.method).finish_non_exhaustive()
    }
}

/// A session's reference: whoever has it is logged in.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Session(String);

impl Session {
    /// The value of the cookie `session_id`. It has no character that would end it.
    pub(super) fn cookie(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(***)")
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RpcError {
    #[error("the session is not valid any more; a new login is needed")]
    SessionInvalid,
    #[error("XAPI refuses the user name or the password; correct them, nothing is tried before")]
    AuthenticationFailed,
    #[error("this host is not the pool's master, {} is", Printable(master))]
    HostIsSlave {
        /// An IPv4 or bare IPv6 address, or a name.
        master: String,
    },
    #[error(
        "the role of this user does not permit {}; read-only is enough for virtmeter",
        Printable(permission)
    )]
    PermissionDenied { permission: String },
    #[error("the {} that was asked for does not exist any more", Printable(class))]
    HandleInvalid { class: String },
    #[error("XAPI has forgotten some events; the inventory is read anew")]
    EventsLost,
    #[error("XAPI does not understand the token of the last events; the inventory is read anew")]
    TokenRefused,
    #[error("the host is still booting; it is asked again later")]
    StillBooting,
    #[error("this release of XAPI has no {}; update the host", Printable(method))]
    MethodUnknown { method: String },
    #[error("XAPI refused the call: {}{}", Printable(code), in_brackets(details))]
    Refused {
        /// One of XAPI's error codes, for example `INTERNAL_ERROR`.
        code: String,
        /// Its parameters, without references.
        details: String,
    },
    #[error("the answer is longer than {MAX_ANSWER} bytes")]
    TooLong,
    #[error(
        "the answer is a web page or other XML, not JSON; check that the address is XAPI's, with \
         no proxy before it"
    )]
    Markup,
    #[error("the answer is XML-RPC, not JSON-RPC; XenServer 6.1 and older are not supported")]
    XmlRpc,
    #[error("the answer is no JSON, or was cut off")]
    NotJson,
    #[error("the answer is JSON, but no answer to this call: {0}")]
    Unexpected(&'static str),
}

fn in_brackets(details: &str) -> String {
    if details.is_empty() { String::new() } else { format!(" ({})", Printable(details)) }
}

/// The session that a login is answered with.
pub(super) fn session(body: &[u8]) -> Result<Session, RpcError> {
    let read = answer(body, |result| {
        // It stands in a header later.
        let is_safe = |c: char| c.is_ascii_graphic() && !matches!(c, ';' | ',' | '"' | '\\');
        let session = text(result)
            .filter(|text| !text.is_empty() && text.len() <= 255 && text.chars().all(is_safe));
        session.map(|text| Session(text.into_owned()))
    });
    match read {
        Ok(session) => session.ok_or(RpcError::Unexpected("it has no session")),
        // Whatever else XAPI says of a login may quote it.
        Err(RpcError::Refused { code, .. }) => {
            Err(RpcError::Refused { code, details: String::new() })
        }
        Err(error) => Err(error),
    }
}

/// The PEM text of a certificate.
pub(super) fn certificate(body: &[u8]) -> Result<String, RpcError> {
    let pem = answer(body, |result| text(result).map(Cow::into_owned))?;
    pem.ok_or(RpcError::Unexpected("it has no certificate"))
}

/// Whether a call was carried out that has no result.
pub(super) fn nothing(body: &[u8]) -> Result<(), RpcError> {
    answer(body, |_| ())
}

/// What `take` makes of the result of an answer.
pub(super) fn answer<T>(body: &[u8], take: impl FnOnce(&RawValue) -> T) -> Result<T, RpcError> {
    if body.len() > MAX_ANSWER {
        return Err(RpcError::TooLong);
    }
    // A name with a broken character costs that character.
    let said = String::from_utf8_lossy(body);
    if let Some(error) = other_language(&said) {
        return Err(error);
    }
    let said = with_bare_words_quoted(said);
    let fields = object(&said).ok_or(RpcError::NotJson)?;
    // An error may have none: XAPI has not read the call then.
    let id = fields.get("id").filter(|id| id.get() != "null");
    if id.is_some_and(|id| integer(id) != Some(ID)) {
        return Err(RpcError::Unexpected("its id is another one"));
    }
    if let Some(error) = fields.get("error").filter(|error| error.get() != "null") {
        return Err(refused(error));
    }
    let result = *fields.get("result").ok_or(RpcError::Unexpected("it has no result"))?;
    // Before 2.0, the result says itself what it is.
    let status = if fields.contains_key("jsonrpc") { None } else { object(result.get()) };
    match status.as_ref().and_then(|status| status.get("Status")) {
        None => Ok(take(result)),
        Some(said) if text(said).as_deref() == Some("Success") => {
            let value = status.as_ref().and_then(|status| status.get("Value"));
            Ok(take(value.ok_or(RpcError::Unexpected("it has no value"))?))
        }
        Some(_) => Err(refused(result)),
    }
}

/// What an answer is that is not even meant to be JSON.
fn other_language(said: &str) -> Option<RpcError> {
    let said = said.trim_start();
    match said.chars().next() {
        Some('{') => None,
        Some('<') => {
            let head: String = said.chars().take(200).collect();
            let is_rpc = head.contains("<methodResponse");
            Some(if is_rpc { RpcError::XmlRpc } else { RpcError::Markup })
        }
        _ => Some(RpcError::NotJson),
    }
}

/// An error in one of its three shapes: `{"message":CODE,"data":[..]}`,
/// `{"ErrorDescription":[CODE,..]}`, `[CODE,..]`.
fn refused(error: &RawValue) -> RpcError {
    let fields = object(error.get()).unwrap_or_default();
    let list = fields.get("ErrorDescription").or_else(|| fields.get("data")).copied();
    let list = list.unwrap_or(error);
    let mut said = array(list).unwrap_or_default().into_iter().filter_map(short);
    let code = match fields.get("message").copied() {
        Some(message) => short(message),
        None => said.next(),
    };
    let Some(code) = code else { return RpcError::Unexpected("it is an error without a code") };
    let mut first = || said.next().unwrap_or_default();
    match code.as_str() {
        "SESSION_INVALID" => RpcError::SessionInvalid,
        "SESSION_AUTHENTICATION_FAILED" => RpcError::AuthenticationFailed,
        "HOST_IS_SLAVE" => match Some(first()).filter(|master| is_address(master)) {
            Some(master) => RpcError::HostIsSlave { master },
            None => RpcError::Unexpected("it names no master"),
        },
        "RBAC_PERMISSION_DENIED" => RpcError::PermissionDenied { permission: first() },
        "HANDLE_INVALID" => RpcError::HandleInvalid { class: first() },
        "EVENTS_LOST" => RpcError::EventsLost,
        "EVENT_FROM_TOKEN_PARSE_FAILURE" => RpcError::TokenRefused,
        "HOST_STILL_BOOTING" => RpcError::StillBooting,
        "MESSAGE_METHOD_UNKNOWN" => RpcError::MethodUnknown { method: first() },
        _ => {
            // A reference may be a session's.
            let details: Vec<String> =
                said.filter(|detail| !detail.contains("OpaqueRef")).take(8).collect();
            RpcError::Refused { code, details: details.join(", ") }
        }
    }
}

/// A text as far as a message has room for it.
fn short(value: &RawValue) -> Option<String> {
    text(value).map(|text| text.chars().take(255).collect())
}

fn is_address(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_');
    !text.is_empty() && text.len() <= 253 && text.chars().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xenserver::json::object;
    use proptest::prelude::*;

    const SECRET: &str = "s3cr\"et\\ü";

    fn replies() -> serde_json::Map<String, Value> {
        let file = include_str!("../../tests/data/xenserver/xapi_replies.json");
        serde_json::from_str(file).unwrap()
    }

    fn error(body: &str) -> RpcError {
        let login = session(body.as_bytes()).unwrap_err();
        let other = nothing(body.as_bytes()).unwrap_err();
        match (&login, &other) {
            (RpcError::Refused { code, .. }, RpcError::Refused { code: same, .. }) => {
                assert_eq!(code, same);
            }
            _ => assert_eq!(login, other),
        }
        assert!(!other.to_string().contains('\n'));
        other
    }

    /// An error in each of the shapes that XAPI has.
    fn shapes(code: &str, data: &[&str]) -> [String; 3] {
        let list: Vec<&str> = [code].iter().chain(data).copied().collect();
        [
            json!({ "jsonrpc": "2.0", "error": { "code": 1, "message": code, "data": data }, "id": 0 }),
            json!({ "result": { "Status": "Failure", "ErrorDescription": list }, "id": 0 }),
            json!({ "result": null, "error": list, "id": 0 }),
        ]
        .map(|shape| shape.to_string())
    }

    #[test]
    fn a_call_is_what_xapi_expects() {
        let session = Session("OpaqueRef:s".to_owned());
        for (call, method, params) in [
            (
                Call::login("root", SECRET),
                "session.login_with_password",
                json!(["root", SECRET, "1.0", "virtmeter"]),
            ),
            (Call::logout(&session), "session.logout", json!(["OpaqueRef:s"])),
            (
                Call::events(&session, &["VM", "VIF"], "1,2"),
                "event.from",
                json!(["OpaqueRef:s", ["VM", "VIF"], "1,2", 0.0]),
            ),
            (Call::pools(&session), "pool.get_all", json!(["OpaqueRef:s"])),
            (
                Call::server_certificate(&session, "OpaqueRef:h"),
                "host.get_server_certificate",
                json!(["OpaqueRef:s", "OpaqueRef:h"]),
            ),
        ] {
            let sent: Value = serde_json::from_slice(&call.body).unwrap();
            let expected = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 0 });
            assert_eq!(sent, expected);
            assert_eq!(call.method, method);
        }
        let events = Call::events(&session, &[], "").body;
        assert!(String::from_utf8(events).unwrap().contains(",0.0]"), "XAPI wants a float");
    }

    #[test]
    fn no_secret_is_shown() {
        let session = Session("OpaqueRef:5e55".to_owned());
        assert_eq!(
            format!("{:?}", Call::login("root", SECRET)),
            "Call { method: \"session.login_with_password\", .. }"
        );
        assert_eq!(format!("{session:?}"), "Session(***)");
        for body in shapes("INTERNAL_ERROR", &[SECRET]) {
            let error = super::session(body.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), "XAPI refused the call: INTERNAL_ERROR");
        }
        for body in shapes("HANDLE_INVALID", &["session", "OpaqueRef:5e55"])
            .into_iter()
            .chain(shapes("SESSION_INVALID", &["OpaqueRef:5e55"]))
            .chain(shapes("OTHER", &["OpaqueRef:5e55"]))
        {
            let error = error(&body);
            assert!(!format!("{error} {error:?}").contains("5e55"), "{error}");
        }
    }

    #[test]
    fn the_replies_of_xapi_are_understood() {
        let replies = replies();
        let body = |name: &str| replies[name].to_string();
        let login = session(body("session.login_with_password").as_bytes()).unwrap();
        assert_eq!(login.cookie(), "OpaqueRef:5e551000-0000-4000-8000-000000000001");
        let master = "192.0.2.10".to_owned();
        assert_eq!(error(&body("login on a member")), RpcError::HostIsSlave { master });
        assert_eq!(error(&body("wrong password")), RpcError::AuthenticationFailed);
        assert_eq!(error(&body("expired session")), RpcError::SessionInvalid);
        let class = "VM".to_owned();
        assert_eq!(error(&body("gone object")), RpcError::HandleInvalid { class });
        let token = answer(body("event.from, nothing new").as_bytes(), |result| {
            let fields = object(result.get()).unwrap();
            text(fields["token"]).unwrap().into_owned()
        });
        assert_eq!(token.unwrap(), "00000000000000001234,00000000000000000000");
    }

    #[test]
    fn an_error_is_the_same_in_every_shape() {
        for (code, data, expected) in [
            ("SESSION_INVALID", ["x", ""], RpcError::SessionInvalid),
            ("SESSION_AUTHENTICATION_FAILED", ["x", ""], RpcError::AuthenticationFailed),
            ("HOST_IS_SLAVE", ["fd00::1", ""], RpcError::HostIsSlave { master: "fd00::1".into() }),
            ("HOST_IS_SLAVE", ["a/../b", ""], RpcError::Unexpected("it names no master")),
            (
                "RBAC_PERMISSION_DENIED",
                ["event.from", "no"],
                RpcError::PermissionDenied { permission: "event.from".into() },
            ),
            ("EVENTS_LOST", ["", ""], RpcError::EventsLost),
            ("EVENT_FROM_TOKEN_PARSE_FAILURE", ["x", ""], RpcError::TokenRefused),
            ("HOST_STILL_BOOTING", ["", ""], RpcError::StillBooting),
            (
                "MESSAGE_METHOD_UNKNOWN",
                ["event.from", ""],
                RpcError::MethodUnknown { method: "event.from".into() },
            ),
            (
                "INTERNAL_ERROR",
                ["a", "b"],
                RpcError::Refused { code: "INTERNAL_ERROR".into(), details: "a, b".into() },
            ),
        ] {
            for body in shapes(code, &data) {
                assert_eq!(error(&body), expected, "{body}");
            }
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error_that_says_what_it_is() {
        let xml_rpc = "<?xml version='1.0'?>\n<methodResponse><params/></methodResponse>";
        for (body, expected) in [
            ("", RpcError::NotJson),
            ("  <!DOCTYPE html><html>", RpcError::Markup),
            (xml_rpc, RpcError::XmlRpc),
            ("Service Unavailable", RpcError::NotJson),
            ("[]", RpcError::NotJson),
            ("{\"jsonrpc\":\"2.0\",\"result\":\"a", RpcError::NotJson),
            ("{\"jsonrpc\":\"2.0\",\"result\":\"a\",\"id\":0}{}", RpcError::NotJson),
            ("{\"jsonrpc\":\"2.0\",\"id\":0}", RpcError::Unexpected("it has no result")),
            ("{\"result\":\"a\",\"id\":1}", RpcError::Unexpected("its id is another one")),
            ("{\"error\":5}", RpcError::Unexpected("it is an error without a code")),
            ("{\"result\":{\"Status\":\"Success\"}}", RpcError::Unexpected("it has no value")),
        ] {
            assert_eq!(error(body), expected, "{body}");
        }
        assert_eq!(nothing(&vec![b' '; MAX_ANSWER + 1]), Err(RpcError::TooLong));
        for wrong in ["7", "\"\"", "\"a;b\"", "\"a\\r\\nb\"", "null"] {
            let body = format!("{{\"result\":{wrong},\"id\":0}}");
            let error = session(body.as_bytes()).unwrap_err();
            assert_eq!(error, RpcError::Unexpected("it has no session"), "{wrong}");
        }
    }

    #[test]
    fn a_result_is_taken_from_old_and_odd_answers() {
        for body in [
            "{\"result\":{\"Status\":\"Success\",\"Value\":\"pem\"},\"error\":null,\"id\":null}",
            "{\"jsonrpc\":\"2.0\",\"result\":\"pem\",\"error\":null,\"id\":\"0\"}",
            "{\"jsonrpc\":\"2.0\",\"result\":\"pem\",\"took\":Infinity,\"and\":[nan,-inf,1.]}",
        ] {
            assert_eq!(certificate(body.as_bytes()).as_deref(), Ok("pem"), "{body}");
        }
        let broken = [b"{\"result\":\"p\xffm\",\"id\":0}".as_slice()].concat();
        assert_eq!(certificate(&broken).as_deref(), Ok("p\u{fffd}m"));
        let deep = ["{\"result\":", &"[".repeat(100_000), &"]".repeat(100_000), "}"].concat();
        assert_eq!(
            certificate(deep.as_bytes()),
            Err(RpcError::Unexpected("it has no certificate"))
        );
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            text in "\\{(\"(jsonrpc|result|error|id|Status|data|message)\":|[\\[\\]{}\",:0-9nN\\\\a]){0,40}",
        ) {
            for body in [bytes, text.into_bytes()] {
                let _ = (session(&body), certificate(&body), nothing(&body));
            }
        }
    }
}
