//! Reads libvirt's XML, within bounds of its own.

use roxmltree::{Document, Node};

pub(super) use crate::xml::Unusable;
use crate::xml::{self, Bounds};

/// libvirt's own wire protocol carries no longer strings than this.
pub(super) const MAX_BYTES: usize = 4 * 1024 * 1024;
/// As deep as the oracle's parser, libxml2, goes.
pub(super) const MAX_DEPTH: usize = 256;
/// What libvirt writes has one `<` or `=` in ten bytes or more.
pub(super) const MAX_MARKUP: usize = 500_000;

pub(super) const BOUNDS: Bounds = Bounds {
    bytes: MAX_BYTES,
    markup: MAX_MARKUP,
    // There is one for each `<` at the most, and a text before it.
    nodes: 2 * MAX_MARKUP,
    // What libvirt writes takes a few bytes for each of its own; this much takes about 0.1 s.
    compared: 100_000_000,
    depth: MAX_DEPTH,
};

pub(super) fn parse(xml: &str) -> Result<Document<'_>, Unusable> {
    xml::parse(xml, &BOUNDS)
}

/// The children of this name that are libvirt's own.
pub(super) fn children<'a>(
    node: Node<'a, 'a>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'a>> {
    // Elements of a namespace are somebody else's, whatever they are called; xmlns='' is none.
    node.children().filter(move |child| {
        let tag = child.tag_name();
        child.is_element() && tag.name() == name && tag.namespace().unwrap_or("").is_empty()
    })
}

/// The first child of this name.
pub(super) fn child<'a>(node: Node<'a, 'a>, name: &'static str) -> Option<Node<'a, 'a>> {
    children(node, name).next()
}

/// An attribute that is libvirt's own.
pub(super) fn attribute(node: Node<'_, '_>, name: &str) -> Option<String> {
    let found = node.attributes().find(|a| a.namespace().is_none() && a.name() == name);
    found.map(|attribute| attribute.value().to_owned())
}
