//! The objects of a server, as much of each as is told, and how they are read from an answer about
//! their properties, page by page.
//!
//! Pure. A property that is missing or wrong is unknown, and costs nothing else: one that is not set
//! is left out by the server, as all of `config` is of a VM that is being cloned.

use std::borrow::Cow;

use roxmltree::Node;
use uuid::Uuid;

use super::faults::{Fault, FaultKind};
use super::soap::{
    self, MAX_NAME, Result, SoapError, answer_in_pieces, child, children, reference, text,
};
use super::time;
use crate::printable;

/// One page of objects.
#[derive(Debug)]
pub(super) struct Page<T> {
    pub(super) objects: Vec<T>,
    /// What the next page is asked for by.
    pub(super) token: Option<Box<str>>,
    pub(super) missing: Missing,
}

/// The properties that the server did not tell, and said why.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// As the role does not permit it.
    pub(super) no_permission: usize,
    /// As the session has ended.
    pub(super) not_authenticated: usize,
}

/// An object that is read from some of its properties.
pub(super) trait Object: Sized {
    /// `None` for one of another type, or of which too little is told.
    fn read(kind: &str, moref: Box<str>, properties: &Properties<'_, '_>) -> Option<Self>;
}

/// The properties of one object.
pub(super) struct Properties<'a, 'i>(Vec<(&'a str, Node<'a, 'i>)>);

impl<'a, 'i> Properties<'a, 'i> {
    /// The value of one.
    pub(super) fn get(&self, path: &str) -> Option<Node<'a, 'i>> {
        self.0.iter().find(|(name, _)| *name == path).map(|(_, value)| *value)
    }

    /// The elements of an array.
    pub(super) fn array(&self, path: &str) -> impl Iterator<Item = Node<'a, 'i>> + use<'a, 'i> {
        self.get(path).into_iter().flat_map(soap::elements)
    }

    pub(super) fn text(&self, path: &str) -> Option<&'a str> {
        self.get(path).and_then(text).map(str::trim)
    }

    pub(super) fn number<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    pub(super) fn flag(&self, path: &str) -> Option<bool> {
        self.get(path).and_then(flag)
    }

    pub(super) fn name(&self, path: &str) -> Option<Box<str>> {
        self.text(path).and_then(short)
    }
}

impl<T> Page<T> {
    /// The page, if the session has not ended while it was made.
    pub(super) fn in_session(self) -> Result<Self> {
        if self.missing.not_authenticated == 0 {
            return Ok(self);
        }
        let kind = FaultKind::NotAuthenticated;
        Err(SoapError::Fault(Fault { kind, text: Box::default() }))
    }
}

/// Reads a page; whatever method of the two it answers.
pub(super) fn page<T: Object>(body: &[u8], method: &str) -> Result<Page<T>> {
    let mut page = Page { objects: Vec::new(), token: None, missing: Missing::default() };
    answer_in_pieces(body, &format!("{method}Response"), "objects", |response| {
        // Where there is nothing, not even a page is returned.
        let Some(result) = soap::returned(response) else { return Ok(()) };
        page.token = child(result, "token").and_then(reference);
        let mut properties = Properties(Vec::new());
        for object in children(result, "objects") {
            let Some(obj) = child(object, "obj") else { continue };
            let Some(moref) = reference(obj) else { continue };
            for missing in children(object, "missingSet") {
                page.missing.add(missing);
            }
            let named = |property| Some((text(child(property, "name")?)?, child(property, "val")?));
            properties.0.clear();
            properties.0.extend(children(object, "propSet").filter_map(named));
            let kind = obj.attribute("type").unwrap_or_default();
            page.objects.extend(T::read(kind, moref, &properties));
        }
        Ok(())
    })?;
    Ok(page)
}

impl<T> Page<T> {
    /// Adds the page after it.
    pub(super) fn extend(&mut self, next: Self) {
        let Self { objects, token, missing: Missing { no_permission, not_authenticated } } = next;
        self.objects.extend(objects);
        self.token = token;
        self.missing.no_permission += no_permission;
        self.missing.not_authenticated += not_authenticated;
    }
}

impl Missing {
    fn add(&mut self, missing: Node<'_, '_>) {
        // The fault, and a message beside it, are in another element of this name.
        let fault = child(missing, "fault").and_then(|fault| child(fault, "fault"));
        match fault.map(FaultKind::read) {
            Some(FaultKind::NotAuthenticated) => self.not_authenticated += 1,
            Some(FaultKind::NoPermission { .. }) => self.no_permission += 1,
            Some(FaultKind::Other(kind)) if &*kind == "SecurityError" => self.no_permission += 1,
            _ => {}
        }
    }
}

/// A virtual machine or a host, as each sweep reads them.
#[derive(Debug, PartialEq)]
pub(super) enum Swept {
    Vm(Box<Vm>),
    Host(Box<Host>),
}

impl Object for Swept {
    fn read(kind: &str, moref: Box<str>, properties: &Properties<'_, '_>) -> Option<Self> {
        match kind {
            "VirtualMachine" => Some(Self::Vm(Box::new(Vm::read(moref, properties)))),
            "HostSystem" => Some(Self::Host(Box::new(Host::read(moref, properties)))),
            _ => None,
        }
    }
}

/// What a host or a VM is to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionState {
    Connected,
    /// Somebody has disconnected the host.
    Disconnected,
    /// Of a host: the server does not hear of it.
    NotResponding,
    /// Of a VM: its host does not know it, or not where its files are, or what they say.
    Unusable,
}

impl ConnectionState {
    fn read(text: &str) -> Option<Self> {
        match text {
            "connected" => Some(Self::Connected),
            "disconnected" => Some(Self::Disconnected),
            "notResponding" => Some(Self::NotResponding),
            "orphaned" | "inaccessible" | "invalid" => Some(Self::Unusable),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PowerState {
    On,
    Off,
    Suspended,
}

impl PowerState {
    fn read(text: &str) -> Option<Self> {
        match text {
            "poweredOn" => Some(Self::On),
            "poweredOff" => Some(Self::Off),
            "suspended" => Some(Self::Suspended),
            _ => None,
        }
    }
}

/// A virtual machine, or a template of one.
#[derive(Debug, PartialEq)]
pub(super) struct Vm {
    pub(super) moref: Box<str>,
    /// As people read it.
    pub(super) name: Option<Box<str>>,
    /// Its own in all of the vCenter; Nova's UUID of the instance.
    pub(super) instance_uuid: Option<Uuid>,
    pub(super) is_template: Option<bool>,
    /// Another one whenever its configuration is another.
    pub(super) change_version: Option<Box<str>>,
    pub(super) vcpus: Option<u32>,
    pub(super) memory_mib: Option<u64>,
    pub(super) power_state: Option<PowerState>,
    pub(super) host: Option<Box<str>>,
    pub(super) connection_state: Option<ConnectionState>,
    /// When it was powered on, in seconds since the epoch.
    pub(super) boot_time: Option<i64>,
}

impl Vm {
    /// What is asked of each.
    pub(super) const PATHS: [&str; 10] = [
        "name",
        "config.instanceUuid",
        "config.template",
        "config.changeVersion",
        "config.hardware.numCPU",
        "config.hardware.memoryMB",
        "runtime.powerState",
        "runtime.host",
        "runtime.connectionState",
        "runtime.bootTime",
    ];

    fn read(moref: Box<str>, properties: &Properties<'_, '_>) -> Self {
        Self {
            moref,
            name: label(properties),
            instance_uuid: properties
                .text("config.instanceUuid")
                .and_then(|uuid| Uuid::try_parse(uuid).ok()),
            is_template: properties.flag("config.template"),
            change_version: properties.name("config.changeVersion"),
            vcpus: properties.number("config.hardware.numCPU"),
            memory_mib: properties.number("config.hardware.memoryMB"),
            power_state: properties.text("runtime.powerState").and_then(PowerState::read),
            host: properties.get("runtime.host").and_then(reference),
            connection_state: properties
                .text("runtime.connectionState")
                .and_then(ConnectionState::read),
            boot_time: properties.text("runtime.bootTime").and_then(time::seconds),
        }
    }
}

/// An ESXi host.
#[derive(Debug, PartialEq)]
pub(super) struct Host {
    pub(super) moref: Box<str>,
    pub(super) name: Option<Box<str>>,
    pub(super) uuid: Option<Uuid>,
    /// Hardware threads.
    pub(super) threads: Option<u32>,
    pub(super) connection_state: Option<ConnectionState>,
    /// For example `VMware ESXi 7.0.3 build-21930508`.
    pub(super) product: Option<Box<str>>,
}

impl Host {
    /// What is asked of each.
    pub(super) const PATHS: [&str; 5] = [
        "name",
        "summary.hardware.uuid",
        "summary.hardware.numCpuThreads",
        "summary.config.product.fullName",
        "runtime.connectionState",
    ];

    fn read(moref: Box<str>, properties: &Properties<'_, '_>) -> Self {
        Self {
            moref,
            name: label(properties),
            uuid: properties
                .text("summary.hardware.uuid")
                .and_then(|uuid| Uuid::try_parse(uuid).ok()),
            threads: properties.number("summary.hardware.numCpuThreads"),
            connection_state: properties
                .text("runtime.connectionState")
                .and_then(ConnectionState::read),
            product: properties.name("summary.config.product.fullName"),
        }
    }
}

fn label(properties: &Properties<'_, '_>) -> Option<Box<str>> {
    let name = properties.get("name").and_then(text)?;
    Some(printable::cut(&decoded(name), printable::MAX_SHOWN).into())
}

/// A name without the escapes that vSphere has in all names of the inventory, for `/`, `\` and `%`.
fn decoded(name: &str) -> Cow<'_, str> {
    let mut parts = name.split('%');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    if decoded.len() == name.len() {
        return Cow::Borrowed(name);
    }
    for part in parts {
        let escape = part.get(..2).unwrap_or_default().to_ascii_lowercase();
        let (c, rest) = match escape.as_str() {
            "2f" => ('/', &part[2..]),
            "5c" => ('\\', &part[2..]),
            "25" => ('%', &part[2..]),
            _ => ('%', part),
        };
        decoded.push(c);
        decoded += rest;
    }
    Cow::Owned(decoded)
}

/// The truth of an element.
pub(super) fn flag(node: Node<'_, '_>) -> Option<bool> {
    match text(node)?.trim() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// A text that is there and short.
pub(super) fn short(text: &str) -> Option<Box<str>> {
    (!text.is_empty() && text.len() <= MAX_NAME).then(|| text.into())
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
