//! What vSphere answers: SOAP 1.1, the types of `urn:vim25`
//! (<https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/>).
//!
//! Pure: bytes in, values out. Elements and types are told by their namespaces, never by a prefix:
//! each server has prefixes of its own.

use std::borrow::Cow;

use roxmltree::Node;

use super::faults::Fault;
use super::time;
use crate::printable::{Printable, cut};
use crate::xml::{self, Bounds};

/// What an answer may have at the most, in bytes.
pub(super) const MAX_ANSWER: usize = 64 << 20;
/// What samples of 100 VMs take is a twentieth of it, as is the devices of as many.
const MAX_NODES: usize = 500_000;
/// A long answer is read in pieces of about so many bytes, of which the parser makes five times as much.
const PIECE: usize = 16 << 10;
/// A chain of snapshots and linked clones is told as backings in one another.
const MAX_DEPTH: usize = 256;
const BOUNDS: Bounds = Bounds {
    bytes: MAX_ANSWER,
    // A node has two tags, and an attribute or two.
    markup: 4 * MAX_NODES,
    nodes: MAX_NODES,
    // Counted for each byte: that of a server has five namespaces and 300 bytes of their names.
    compared: 1_000_000_000,
    depth: MAX_DEPTH,
};
/// A longer reference or name of a type is none; other texts that are kept are cut.
pub(super) const MAX_NAME: usize = 255;

pub(super) const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";
pub(super) const VIM: &str = "urn:vim25";
pub(super) const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// The objects of a server that are asked, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refs {
    pub(super) root_folder: Box<str>,
    pub(super) property_collector: Box<str>,
    pub(super) view_manager: Box<str>,
    pub(super) perf_manager: Box<str>,
    pub(super) session_manager: Box<str>,
    /// What the server says that it is, for example `VMware vCenter Server 6.5.0 build-5973321`.
    pub(super) full_name: Box<str>,
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SoapError {
    #[error(transparent)]
    Fault(Fault),
    #[error("the answer cannot be used: {}", Printable(.0))]
    Unusable(String),
    #[error(
        "the answer is a web page or other XML, not SOAP; check that the address is that of a vCenter \
         or an ESXi host, with no proxy before it"
    )]
    NotSoap,
    #[error("the answer is SOAP, but no answer to this call: {0}")]
    Unexpected(&'static str),
}

pub(super) type Result<T> = std::result::Result<T, SoapError>;

/// The references of a server.
pub(super) fn refs(body: &[u8]) -> Result<Refs> {
    answer(body, "RetrieveServiceContentResponse", |response| {
        let content = returned(response).ok_or(SoapError::Unexpected("it has no content"))?;
        let reference = |name| child(content, name).and_then(reference);
        let needed =
            |name| reference(name).ok_or(SoapError::Unexpected("a reference is missing in it"));
        let full_name = child(content, "about").and_then(|about| child(about, "fullName"));
        Ok(Refs {
            root_folder: needed("rootFolder")?,
            property_collector: needed("propertyCollector")?,
            view_manager: needed("viewManager")?,
            perf_manager: needed("perfManager")?,
            session_manager: needed("sessionManager")?,
            full_name: cut(full_name.and_then(text).unwrap_or_default(), MAX_NAME).into(),
        })
    })
}

/// Whether a login was accepted. What the server says of one may quote it, and is left out.
pub(super) fn login(body: &[u8]) -> Result<()> {
    answer(body, "LoginResponse", |_| Ok(())).map_err(|error| match error {
        SoapError::Fault(Fault { kind, .. }) => {
            SoapError::Fault(Fault { kind, text: Box::default() })
        }
        error => error,
    })
}

/// Whether a call of this name was carried out that has no result.
pub(super) fn nothing(body: &[u8], method: &str) -> Result<()> {
    answer(body, &format!("{method}Response"), |_| Ok(()))
}

/// The server's time, in seconds since the epoch.
pub(super) fn current_time(body: &[u8]) -> Result<i64> {
    answer(body, "CurrentTimeResponse", |response| {
        let time = returned(response).and_then(text).and_then(time::seconds);
        time.ok_or(SoapError::Unexpected("it has no time"))
    })
}

/// The reference of a view.
pub(super) fn view(body: &[u8]) -> Result<Box<str>> {
    answer(body, "CreateContainerViewResponse", |response| {
        let view = returned(response).and_then(reference);
        view.ok_or(SoapError::Unexpected("it has no view"))
    })
}

/// What `take` makes of the element of this name that an answer consists of.
pub(super) fn answer<T>(
    body: &[u8],
    name: &str,
    take: impl FnOnce(Node<'_, '_>) -> Result<T>,
) -> Result<T> {
    answer_within(body, name, &BOUNDS, take)
}

fn answer_within<T>(
    body: &[u8],
    name: &str,
    bounds: &Bounds,
    take: impl FnOnce(Node<'_, '_>) -> Result<T>,
) -> Result<T> {
    if body.len() > MAX_ANSWER {
        return Err(SoapError::Unusable(format!("it is longer than {MAX_ANSWER} bytes")));
    }
    // A name with a broken character costs that character.
    let said = match std::str::from_utf8(body) {
        Ok(said) => Cow::Borrowed(said),
        Err(_) => String::from_utf8_lossy(body),
    };
    let document = xml::parse(&said, bounds).map_err(|reason| unusable(&said, reason))?;
    let envelope = document.root_element();
    if !is(envelope, SOAP, "Envelope") {
        return Err(SoapError::NotSoap);
    }
    let body = elements(envelope).find(|child| is(*child, SOAP, "Body"));
    let said = body.and_then(|body| elements(body).next());
    let said = said.ok_or(SoapError::Unexpected("its body is empty"))?;
    if is(said, SOAP, "Fault") {
        return Err(SoapError::Fault(Fault::read(said)));
    }
    if !is(said, VIM, name) {
        return Err(SoapError::Unexpected("it answers another one"));
    }
    take(said)
}

/// The same for an answer that is a long row of elements of one name: it is read in pieces, each an answer
/// with some of them. What the parser makes of a text is several times as large, and the C library keeps for
/// each thread what it has needed once.
pub(super) fn answer_in_pieces(
    body: &[u8],
    name: &str,
    row_of: &str,
    mut take: impl FnMut(Node<'_, '_>) -> Result<()>,
) -> Result<()> {
    let (begin, end) = (format!("<{row_of}"), format!("</{row_of}>"));
    let Some((head, mut row, tail)) = row(body, &begin, &end) else {
        return answer(body, name, take);
    };
    let between = end.clone() + &begin;
    let mut piece = String::new();
    // All pieces together cost no more than an answer may.
    let compared_for_each_byte = BOUNDS.compared / body.len();
    while !row.is_empty() {
        let mut ends = row.match_indices(&between).map(|(at, _)| at + end.len());
        let (some, rest) = row.split_at(ends.find(|end| *end >= PIECE).unwrap_or(row.len()));
        row = rest;
        piece.clear();
        piece.extend([head, some, tail]);
        let bounds = Bounds { compared: compared_for_each_byte * piece.len(), ..BOUNDS };
        answer_within(piece.as_bytes(), name, &bounds, &mut take)?;
    }
    Ok(())
}

/// What comes before a row of elements, the row, and what comes after it. None in a text that is short or
/// beyond bounds, nor where markup may be something else (comments and the like), nor where what is around the
/// row, which is read with each piece, is long.
fn row<'a>(body: &'a [u8], begin: &str, end: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let text = std::str::from_utf8(body).ok().filter(|text| text.len() > 2 * PIECE)?;
    let inside = text.strip_prefix("<?").unwrap_or(text);
    if inside.contains("<!") || inside.contains("<?") || text.matches('<').count() > MAX_NODES {
        return None;
    }
    let (head, rest) = text.split_at(text.find(begin)?);
    let (row, tail) = rest.split_at(rest.rfind(end)? + end.len());
    (head.len() + tail.len() <= PIECE).then_some((head, row, tail))
}

/// Most that cannot be read is not meant to be SOAP.
fn unusable(said: &str, reason: String) -> SoapError {
    let begin: String = said.trim_start().chars().take(1000).collect();
    let is_page = ["<html", "<!doctype"].iter().any(|tag| begin.to_ascii_lowercase().contains(tag));
    if is_page { SoapError::NotSoap } else { SoapError::Unusable(reason) }
}

/// What a call returns, if it is one thing.
pub(super) fn returned<'a, 'i>(response: Node<'a, 'i>) -> Option<Node<'a, 'i>> {
    child(response, "returnval")
}

/// The child elements of this name that are vSphere's.
pub(super) fn children<'a, 'i>(
    node: Node<'a, 'i>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'i>> {
    elements(node).filter(move |child| is(*child, VIM, name))
}

/// The first of these.
pub(super) fn child<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> Option<Node<'a, 'i>> {
    children(node, name).next()
}

/// The child elements.
pub(super) fn elements<'a, 'i>(node: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(Node::is_element)
}

/// The text of an element, up to its first child element.
pub(super) fn text<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    node.text()
}

/// The type of a value (`xsi:type`), without its prefix.
pub(super) fn kind<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    let kind = node.attribute((XSI, "type"))?.trim();
    Some(kind.rsplit(':').next().unwrap_or(kind))
}

/// The reference to an object that an element holds.
pub(super) fn reference(node: Node<'_, '_>) -> Option<Box<str>> {
    let is_one = |text: &&str| !text.is_empty() && text.len() <= MAX_NAME;
    text(node).map(str::trim).filter(is_one).map(Into::into)
}

pub(super) fn is(node: Node<'_, '_>, namespace: &str, name: &str) -> bool {
    // The name first: it mostly is another.
    let tag = node.tag_name();
    tag.name() == name && tag.namespace() == Some(namespace)
}

#[cfg(test)]
#[path = "soap_tests.rs"]
mod tests;
