//! Reads what a reading needs from a domain's XML (<https://libvirt.org/formatdomain.html>).
//!
//! Pure: text in, devices out. A tenant shapes parts of this text, so nothing is expanded, and
//! size and depth are bounded.

use roxmltree::{Document, ExpandedName, Node, ParsingOptions};

/// libvirt's own wire protocol carries no longer strings than this.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// As deep as the oracle's parser, libxml2, goes.
const MAX_DEPTH: usize = 256;
const MAX_NODES: u32 = 500_000;

/// A NIC as the XML describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nic {
    pub(super) name: String,
    pub(super) mac: Option<String>,
    pub(super) fref: Option<String>,
    pub(super) parameters: Vec<(String, Option<String>)>,
}

/// Why a text is no usable domain XML, as the end of a sentence.
type Unusable = String;

/// The NICs that have a target device and a MAC address element, in the order of the XML.
pub(super) fn nics(xml: &str) -> Result<Vec<Nic>, Unusable> {
    let document = parse(xml)?;
    Ok(devices(&document, "interface").filter_map(nic).collect())
}

/// The target names of the disks that have a source, in the order of the XML.
pub(super) fn disks(xml: &str) -> Result<Vec<String>, Unusable> {
    let document = parse(xml)?;
    Ok(devices(&document, "disk")
        .filter(|disk| child(*disk, "source").is_some())
        .flat_map(|disk| children(disk, "target"))
        .filter_map(|target| attribute(target, "dev"))
        .filter(|name| !name.is_empty())
        .collect())
}

fn parse(xml: &str) -> Result<Document<'_>, Unusable> {
    if xml.len() > MAX_BYTES {
        return Err(format!("it is {} bytes long, and {MAX_BYTES} is the limit", xml.len()));
    }
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..Default::default() };
    let document = Document::parse_with_options(xml, options).map_err(|error| error.to_string())?;
    // Deep trees cost this reader nothing, but what is so deep is no domain.
    let too_deep = |node: Node<'_, '_>| node.ancestors().nth(MAX_DEPTH + 1).is_some();
    if document.descendants().any(too_deep) {
        return Err(format!("its elements are nested more than {MAX_DEPTH} deep"));
    }
    Ok(document)
}

/// Every `<devices><kind>` of the domain.
fn devices<'a>(
    document: &'a Document<'_>,
    kind: &'static str,
) -> impl Iterator<Item = Node<'a, 'a>> {
    children(document.root_element(), "devices").flat_map(move |devices| children(devices, kind))
}

fn nic(interface: Node<'_, '_>) -> Option<Nic> {
    let name = attribute(child(interface, "target")?, "dev")?;
    let mac = attribute(child(interface, "mac")?, "address");
    let fref = child(interface, "filterref").and_then(|fref| attribute(fref, "filter"));
    let mut parameters = Vec::new();
    for parameter in children(interface, "filterref").flat_map(|fref| children(fref, "parameter")) {
        if let Some(name) = attribute(parameter, "name") {
            set(&mut parameters, &name.to_lowercase(), attribute(parameter, "value"));
        }
    }
    let interfaceid = child(interface, "virtualport")
        .and_then(|port| child(port, "parameters"))
        .and_then(|parameters| attribute(parameters, "interfaceid"));
    let bridge = child(interface, "source").and_then(|source| attribute(source, "bridge"));
    set(&mut parameters, "interfaceid", interfaceid);
    set(&mut parameters, "bridge", bridge);
    Some(Nic { name, mac, fref, parameters })
}

/// A parameter keeps the place where its name came first and the value that came last.
fn set(parameters: &mut Vec<(String, Option<String>)>, name: &str, value: Option<String>) {
    match parameters.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => *known = value,
        None => parameters.push((name.to_owned(), value)),
    }
}

fn children<'a>(node: Node<'a, 'a>, name: &'static str) -> impl Iterator<Item = Node<'a, 'a>> {
    // Elements of a namespace are somebody else's, whatever they are called.
    node.children()
        .filter(move |child| child.is_element() && child.tag_name() == ExpandedName::from(name))
}

fn child<'a>(node: Node<'a, 'a>, name: &'static str) -> Option<Node<'a, 'a>> {
    children(node, name).next()
}

fn attribute(node: Node<'_, '_>, name: &str) -> Option<String> {
    let found = node.attributes().find(|a| a.namespace().is_none() && a.name() == name);
    found.map(|attribute| attribute.value().to_owned())
}
