//! The calls that vSphere is asked: `POST /sdk`, SOAP 1.1 with the types of `urn:vim25`.
//!
//! Pure: values in, bytes out. Every text is escaped, and no password is in any `Debug`.

use std::fmt::{self, Write};

use super::soap::{Refs, SOAP, VIM, XSI};
use crate::target::Secret;

/// What goes into the header of each call. The release is the oldest that is supported: newer servers
/// answer as it did.
pub(super) const ACTION: &str = "\"urn:vim25/6.5\"";
/// The type of a body.
pub(super) const CONTENT_TYPE: &str = "text/xml; charset=\"utf-8\"";
/// Samples are taken this often on the host, in seconds: the only feed of them.
pub(super) const INTERVAL: u32 = 20;

/// The samples that are asked for of one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Query<'a> {
    pub(super) vm: &'a str,
    /// The newest so many.
    pub(super) samples: u32,
}

/// A call as it is sent.
pub(super) struct Request {
    /// For example `QueryPerf`.
    pub(super) method: &'static str,
    /// The body of the POST. It may hold a password.
    pub(super) body: Vec<u8>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("method", &self.method).finish_non_exhaustive()
    }
}

impl Request {
    /// Answered with [`refs`](super::soap::refs), without a session as well.
    pub(super) fn service_content() -> Self {
        Self::new("RetrieveServiceContent", ("ServiceInstance", "ServiceInstance"), |_| ())
    }

    /// Answered with [`login`](super::soap::login), and a cookie. `None` if the name or the password has a character that
    /// XML cannot hold: such a login does not exist.
    pub(super) fn login(refs: &Refs, user: &str, password: &Secret) -> Option<Self> {
        let can_be_sent = |text: &str| text.chars().all(is_xml);
        if !can_be_sent(user) || !can_be_sent(password.expose()) {
            return None;
        }
        Some(Self::new("Login", ("SessionManager", &refs.session_manager), |body| {
            body.text("userName", user);
            body.text("password", password.expose());
            body.text("locale", "en_US");
        }))
    }

    /// Answered with [`nothing`](super::soap::nothing).
    pub(super) fn logout(refs: &Refs) -> Self {
        Self::new("Logout", ("SessionManager", &refs.session_manager), |_| ())
    }

    /// Answered with [`current_time`](super::soap::current_time).
    pub(super) fn current_time() -> Self {
        Self::new("CurrentTime", ("ServiceInstance", "ServiceInstance"), |_| ())
    }

    /// A view of all objects of these types, answered with [`view`](super::soap::view). It ends with the session.
    pub(super) fn create_view(refs: &Refs, types: &[&str]) -> Self {
        Self::new("CreateContainerView", ("ViewManager", &refs.view_manager), |body| {
            body.object("container", "Folder", &refs.root_folder);
            for kind in types {
                body.text("type", kind);
            }
            body.text("recursive", "true");
        })
    }

    /// All counters that the server has, answered with [`Counters`](super::perf::Counters).
    pub(super) fn perf_counters(refs: &Refs) -> Self {
        Self::properties(refs, &[("PerformanceManager", &["perfCounter"])], None, |body| {
            body.within("objectSet", |body| {
                body.object("obj", "PerformanceManager", &refs.perf_manager);
            });
        })
    }

    /// Properties of all objects in a view, by their types, so many objects in a page at the most;
    /// answered with a [`Page`](super::objects::Page). A page of more than 64 MiB or 500,000 nodes
    /// is not read; an object with 15 plain properties has 80 nodes.
    pub(super) fn view_properties(
        refs: &Refs,
        view: &str,
        wanted: &[(&str, &[&str])],
        max_objects: u32,
    ) -> Self {
        Self::properties(refs, wanted, Some(max_objects), |body| {
            body.within("objectSet", |body| {
                body.object("obj", "ContainerView", view);
                body.text("skip", "true");
                body.within_typed("selectSet", "TraversalSpec", |body| {
                    body.text("name", "view");
                    body.text("type", "ContainerView");
                    body.text("path", "view");
                    body.text("skip", "false");
                });
            });
        })
    }

    /// Properties of these VMs, likewise. One that is gone is left out of the answer.
    pub(super) fn vm_properties(refs: &Refs, vms: &[&str], paths: &[&str]) -> Self {
        Self::properties(refs, &[("VirtualMachine", paths)], None, |body| {
            for vm in vms {
                body.within("objectSet", |body| body.object("obj", "VirtualMachine", vm));
            }
            body.text("reportMissingObjectsInResults", "true");
        })
    }

    /// The page after the one that had this token; likewise.
    pub(super) fn continue_properties(refs: &Refs, token: &str) -> Self {
        let collector = ("PropertyCollector", &*refs.property_collector);
        Self::new("ContinueRetrievePropertiesEx", collector, |body| body.text("token", token))
    }

    /// Samples of these VMs and these counters, each with an instance (`*` for all, an empty one for
    /// the whole VM); answered with [`samples`](super::perf::samples).
    pub(super) fn query_perf(refs: &Refs, queries: &[Query<'_>], counters: &[(u32, &str)]) -> Self {
        Self::new("QueryPerf", ("PerformanceManager", &refs.perf_manager), |body| {
            let mut metrics = Body(String::new());
            for (id, instance) in counters {
                metrics.within("metricId", |metric| {
                    metric.number("counterId", *id);
                    metric.text("instance", instance);
                });
            }
            for query in queries {
                // In this order: the schema wants it so.
                body.within("querySpec", |spec| {
                    spec.object("entity", "VirtualMachine", query.vm);
                    spec.number("maxSample", query.samples);
                    spec.0 += &metrics.0;
                    spec.number("intervalId", INTERVAL);
                    spec.text("format", "csv");
                });
            }
        })
    }

    fn properties(
        refs: &Refs,
        wanted: &[(&str, &[&str])],
        max_objects: Option<u32>,
        objects: impl FnOnce(&mut Body),
    ) -> Self {
        let collector = ("PropertyCollector", &*refs.property_collector);
        Self::new("RetrievePropertiesEx", collector, |body| {
            body.within("specSet", |body| {
                for (kind, paths) in wanted {
                    body.within("propSet", |body| {
                        body.text("type", kind);
                        for path in *paths {
                            body.text("pathSet", path);
                        }
                    });
                }
                objects(body);
            });
            body.within("options", |body| {
                if let Some(max_objects) = max_objects {
                    body.number("maxObjects", max_objects);
                }
            });
        })
    }

    fn new(method: &'static str, this: (&str, &str), arguments: impl FnOnce(&mut Body)) -> Self {
        let mut body = Body(format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><soapenv:Envelope xmlns:soapenv=\"{SOAP}\" \
             xmlns:xsi=\"{XSI}\"><soapenv:Body><{method} xmlns=\"{VIM}\">"
        ));
        body.object("_this", this.0, this.1);
        arguments(&mut body);
        body.0 += "</";
        body.0 += method;
        body.0 += "></soapenv:Body></soapenv:Envelope>";
        Self { method, body: body.0.into_bytes() }
    }
}

/// Elements as they are written.
pub(super) struct Body(pub(super) String);

impl Body {
    fn text(&mut self, name: &str, text: &str) {
        self.within(name, |body| escape(&mut body.0, text));
    }

    fn number(&mut self, name: &str, number: u32) {
        self.within(name, |body| _ = write!(body.0, "{number}"));
    }

    /// A reference to an object.
    pub(super) fn object(&mut self, name: &str, kind: &str, value: &str) {
        self.element(name, ("type", kind), |body| escape(&mut body.0, value));
    }

    fn within_typed(&mut self, name: &str, kind: &str, inside: impl FnOnce(&mut Self)) {
        self.element(name, ("xsi:type", kind), inside);
    }

    fn within(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.element(name, ("", ""), inside);
    }

    fn element(&mut self, name: &str, attribute: (&str, &str), inside: impl FnOnce(&mut Self)) {
        self.0 += "<";
        self.0 += name;
        if !attribute.0.is_empty() {
            self.0.extend([" ", attribute.0, "=\""]);
            escape(&mut self.0, attribute.1);
            self.0 += "\"";
        }
        self.0 += ">";
        inside(self);
        self.0.extend(["</", name, ">"]);
    }
}

/// Adds a text so that a parser reads it as it is. What XML has no way to hold is replaced.
fn escape(to: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => to.push_str("&amp;"),
            '<' => to.push_str("&lt;"),
            '>' => to.push_str("&gt;"),
            '"' => to.push_str("&quot;"),
            '\'' => to.push_str("&apos;"),
            // As they are, a parser makes others of them.
            '\t' | '\n' | '\r' => _ = write!(to, "&#{};", u32::from(c)),
            c if is_xml(c) => to.push(c),
            _ => to.push(char::REPLACEMENT_CHARACTER),
        }
    }
}

/// Whether XML 1.0 can hold it.
pub(super) fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}
