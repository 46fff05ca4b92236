//! Reads XML that others have shaped: nothing is expanded, and the cost of it is bounded beforehand.

use roxmltree::{Document, Node, ParsingOptions};

/// libvirt's own wire protocol carries no longer strings than this.
pub(super) const MAX_BYTES: usize = 4 * 1024 * 1024;
/// As deep as the oracle's parser, libxml2, goes.
pub(super) const MAX_DEPTH: usize = 256;
/// What libvirt writes has one `<` or `=` in ten bytes or more. The parser makes room for a node at
/// each `<` and for an attribute at each `=`, about 70 bytes.
pub(super) const MAX_MARKUP: usize = 500_000;
/// What libvirt writes takes a few bytes for each of its own; this much takes less than 0.1 s.
const MAX_COMPARED: usize = 100_000_000;
/// So much of the parser's words is shown, which may quote names as long as the text.
const SHOWN: usize = 200;
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Why a text is no usable domain XML, as the end of a sentence.
pub(super) type Unusable = String;

pub(super) fn parse(xml: &str) -> Result<Document<'_>, Unusable> {
    within(MAX_BYTES, "its length in bytes", xml.len())?;
    let markup = xml.bytes().filter(|byte| matches!(byte, b'<' | b'=')).count();
    within(MAX_MARKUP, "the number of its tags and attributes", markup)?;
    within(MAX_COMPARED, "the work to resolve its namespaces and attributes", compared(xml))?;
    let options = ParsingOptions { allow_dtd: false, ..Default::default() };
    let document = Document::parse_with_options(xml, options)
        .map_err(|error| error.to_string().chars().take(SHOWN).collect::<String>())?;
    // Deep trees cost this reader nothing, but what is so deep is no domain.
    if is_deeper(&document, MAX_DEPTH) {
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

fn within(limit: usize, what: &str, found: usize) -> Result<(), Unusable> {
    let refusal = || format!("{what} is {found}, and {limit} is the limit");
    if found <= limit { Ok(()) } else { Err(refusal()) }
}

/// How many bytes of names the parser compares with each other, or more: each name with all
/// namespaces that are declared around it, those with each other at each element that declares more
/// of them, and each attribute with all others of its element.
fn compared(xml: &str) -> usize {
    let namespaces = xml.matches("xmlns").count();
    let many = namespaces.saturating_mul(namespaces).saturating_add(xml.len());
    let around = namespaces.saturating_mul(many);
    // No tag goes on beyond the next `<`.
    let inside = xml.split('<').skip(1).map(|tag| attributes(tag) * tag.len());
    inside.fold(around, usize::saturating_add)
}

/// How many attributes the tag has that this text begins with: as many as quoted strings.
fn attributes(tag: &str) -> usize {
    if tag.starts_with(['!', '?', '/']) {
        return 0;
    }
    let (mut quote, mut count) = (None, 0);
    for byte in tag.bytes() {
        match (quote, byte) {
            (None, b'>') => break,
            (None, b'\'' | b'"') => (quote, count) = (Some(byte), count + 1),
            (Some(opened), _) if opened == byte => quote = None,
            _ => {}
        }
    }
    count
}

fn is_deeper(document: &Document<'_>, most: usize) -> bool {
    let mut path: Vec<Node<'_, '_>> = Vec::new();
    // Every element comes after its parent, and after all that is in its elder sisters.
    document.descendants().filter(Node::is_element).any(|element| {
        let parent = element.parent_element();
        while path.last().is_some_and(|last| Some(*last) != parent) {
            path.pop();
        }
        path.push(element);
        path.len() > most
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn declared(count: usize) -> String {
        (0..count).map(|number| format!(" xmlns:n{number}='u'")).collect::<Vec<_>>().concat()
    }

    fn attributed(count: usize) -> String {
        (0..count).map(|number| format!(" a{number}=''")).collect::<Vec<_>>().concat()
    }

    #[test]
    fn what_would_take_the_parser_long_is_refused_before() {
        let some = declared(2000);
        let long = "x".repeat(1000);
        let long = |number| format!(" {long}{number}=''");
        for xml in [
            format!("<domain{some}>{}</domain>", "<a/>".repeat(100_000)),
            format!("<domain{some}>{}</domain>", "<a xmlns:x=''/>".repeat(10_000)),
            format!("<domain{}/>", attributed(100_000)),
            format!("<domain{}/>", (0..3000).map(long).collect::<String>()),
            format!("<domain>{}</domain>", "=".repeat(MAX_BYTES - 20)),
            format!("<domain>{}</domain>", "<!---->".repeat(MAX_BYTES / 8)),
        ] {
            assert!(parse(&xml).is_err_and(|reason| reason.ends_with("limit")), "{xml:.100}");
        }
    }

    #[test]
    fn the_longest_of_texts_come_back() {
        // Each would take hours, or all of the memory.
        let full = |begin: &str, part: &dyn Fn(usize) -> String, end: &str| {
            let mut xml = begin.to_owned();
            let mut number = 0;
            while xml.len() + part(number).len() + end.len() <= MAX_BYTES {
                xml += &part(number);
                number += 1;
            }
            xml + end
        };
        let half = declared(MAX_BYTES / 40);
        for xml in [
            full(&format!("<a{half}>"), &|_| "<a/>".to_owned(), "</a>"),
            full("<a", &|number| format!(" xmlns:n{number}='u'"), "/>"),
            full("<a", &|number| format!(" a{number}=''"), "/>"),
            full("<a>", &|_| format!("<a{}/>", attributed(1000)), "</a>"),
            full("<a>", &|number| format!("<a xmlns:n{number}='u'>"), ""),
        ] {
            assert!(parse(&xml).is_err_and(|reason| reason.ends_with("limit")), "{xml:.100}");
        }
        for xml in [
            full("<a>", &|_| "<![CDATA[<a b='c'>]]>&#60;12345".to_owned(), "</a>"),
            full(&format!("<a{}>", declared(9)), &|_| "<n8:a n8:b='12345'/>".to_owned(), "</a>"),
            full("<a><![CDATA[{", &|number| format!("\"{number}\": \"\", "), "}]]></a>"),
        ] {
            assert!(parse(&xml).is_ok(), "{xml:.100}");
        }
    }

    #[test]
    fn the_parsers_words_are_cut_off() {
        let name = "x".repeat(10_000);
        assert!(parse(&format!("<{name}></y>")).is_err_and(|reason| reason.len() <= SHOWN));
    }

    /// Tags of all kinds, and what looks like tags.
    fn markup() -> impl Strategy<Value = String> {
        let value = "(\"[uv>']{0,2}\"|'[uv>\"]{0,2}')";
        let attributes = format!("( (xmlns:n[4-9]|(n[0-3]:)?[a-z]) ?= ?{value}){{0,3}}");
        let part = format!(
            "<(n[0-3]:)?[ab]{attributes}/>|<a{attributes}>x?|</a>|<n1:b xmlns='v'{attributes}>y</n1:b>\
             |<!--[<ab='>]{{0,9}}-->|<!\\[CDATA\\[<a{attributes}>\\]\\]>|<\\?a[<'=\"]{{0,9}}\\?>\
             |[a='\"]{{0,3}}|[<>&]?"
        );
        prop::string::string_regex(&format!("({part}){{0,7}}")).unwrap()
    }

    proptest! {
        #[test]
        fn within_the_bounds_it_is_what_the_parser_says(inside in markup(), around in 2_usize..6) {
            let xml = format!("<a{}>{inside}</a>", declared(around));
            let options = ParsingOptions { allow_dtd: false, ..Default::default() };
            match Document::parse_with_options(&xml, options) {
                Ok(document) => {
                    let read = parse(&xml).map(|read| format!("{read:?}"));
                    prop_assert_eq!(read, Ok(format!("{document:?}")));
                }
                Err(error) => prop_assert_eq!(parse(&xml).err(), Some(error.to_string())),
            }
        }

        #[test]
        fn no_less_is_counted_than_the_parser_compares(inside in markup(), around in 2_usize..6) {
            let xml = format!("<a{}>{inside}</a>", declared(around));
            let Ok(document) = Document::parse(&xml) else { return Ok(()) };
            let mut compares = 0;
            for element in document.descendants().filter(Node::is_element) {
                let names = element.attributes().map(|a| a.name().len()).sum::<usize>();
                compares += element.attributes().len() * names;
                compares += element.namespaces().len() * (element.tag_name().name().len() + names);
            }
            prop_assert!(compares <= compared(&xml), "{} of {}", compares, compared(&xml));
        }
    }
}
