//! Reads XML that others have shaped: nothing is expanded, and size and depth are bounded.

use roxmltree::{Document, Node, ParsingOptions};

/// libvirt's own wire protocol carries no longer strings than this.
pub(super) const MAX_BYTES: usize = 4 * 1024 * 1024;
/// As deep as the oracle's parser, libxml2, goes.
pub(super) const MAX_DEPTH: usize = 256;
const MAX_NODES: u32 = 500_000;
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Why a text is no usable domain XML, as the end of a sentence.
pub(super) type Unusable = String;

pub(super) fn parse(xml: &str) -> Result<Document<'_>, Unusable> {
    if xml.len() > MAX_BYTES {
        return Err(format!("it is {} bytes long, and {MAX_BYTES} is the limit", xml.len()));
    }
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..Default::default() };
    let document = Document::parse_with_options(xml, options).map_err(|error| error.to_string())?;
    // Deep trees cost this reader nothing, but what is so deep is no domain.
    let too_deep = |node: Node<'_, '_>| node.ancestors().nth(MAX_DEPTH + 1).is_some();
    if document.descendants().filter(Node::is_element).any(too_deep) {
        return Err(format!("its elements are nested more than {MAX_DEPTH} deep"));
    }
    // The parser takes a reference to what is no character for this one. As a device's name it
    // would be another device's.
    let replaced = |node: Node<'_, '_>| node.attributes().any(|a| a.value().contains(REPLACEMENT));
    if !xml.contains(REPLACEMENT) && document.descendants().any(replaced) {
        return Err("it refers to a character that does not exist".to_owned());
    }
    Ok(document)
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
