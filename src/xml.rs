//! Reads XML that others have shaped: nothing is expanded, and the cost of it is bounded beforehand.

use std::collections::HashSet;

use roxmltree::{Document, NS_XML_URI, Node, ParsingOptions};

/// What a text may have, so that reading it costs little.
pub(crate) struct Bounds {
    pub(crate) bytes: usize,
    /// All of `<` and `=`. The parser makes room for a node at each `<` and for an attribute at each
    /// `=`, about 70 bytes.
    pub(crate) markup: usize,
    /// Elements, texts and the like.
    pub(crate) nodes: usize,
    /// Bytes of names and namespace URIs that the parser compares: 10^9 in a second.
    pub(crate) compared: usize,
    /// Elements in one another.
    pub(crate) depth: usize,
}

/// So much of the parser's words is shown, which may quote names as long as the text.
const SHOWN: usize = 200;
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Why a text cannot be used, as the end of a sentence.
pub(crate) type Unusable = String;

/// Reads a text without a DTD.
///
/// # Errors
///
/// It is no XML, or exceeds one of the bounds.
pub(crate) fn parse<'a>(xml: &'a str, bounds: &Bounds) -> Result<Document<'a>, Unusable> {
    within(bounds.bytes, "its length in bytes", xml.len())?;
    let markup = xml.bytes().filter(|byte| matches!(byte, b'<' | b'=')).count();
    within(bounds.markup, "the number of its tags and attributes", markup)?;
    within(bounds.compared, "the work to resolve its namespaces and attributes", compared(xml))?;
    let nodes_limit = u32::try_from(bounds.nodes).unwrap_or(u32::MAX);
    let options = ParsingOptions { allow_dtd: false, nodes_limit, ..Default::default() };
    let document = Document::parse_with_options(xml, options)
        .map_err(|error| error.to_string().chars().take(SHOWN).collect::<String>())?;
    // Deep trees cost a reader nothing, but what is so deep is not what was asked for.
    let depth = bounds.depth;
    if is_deeper(&document, depth) {
        return Err(format!("its elements are nested more than {depth} deep"));
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

/// How many bytes of names and namespace URIs the parser compares with each other, or more. All else
/// that it does takes a time that grows with the length of the text.
fn compared(xml: &str) -> usize {
    // A prefix that is declared again hides the other: no more than these are in scope anywhere.
    let (mut in_scope, mut in_scope_bytes, mut seen) = (0_usize, 0, HashSet::new());
    // To declare the same once more, as some servers do at each element, costs no more than that.
    let (mut distinct, mut longest_uri) = (HashSet::new(), NS_XML_URI.len());
    let (mut work, mut pairs_of_uris) = (0_usize, 0_usize);
    // No tag goes on beyond the next `<`.
    for tag in xml.split('<').skip(1).filter(|tag| !tag.starts_with(['!', '?', '/'])) {
        let (mut adds_any, mut has_default) = (false, false);
        let (mut names, mut bytes, mut with_prefix) = (0_usize, 0, 0_usize);
        for (name, value) in attributes(tag) {
            let (prefix, local) = name.split_once(':').unwrap_or(("", name));
            // To the parser, the latter is the default namespace, whatever its prefix.
            if prefix == "xmlns" || local == "xmlns" {
                let declared = if prefix == "xmlns" { local } else { "" };
                // Nor does it mind an element that declares that twice.
                let again = declared.is_empty() && std::mem::replace(&mut has_default, true);
                if seen.insert(declared) || again {
                    in_scope += 1;
                    in_scope_bytes += declared.len();
                }
                // It keeps all of them sorted, and makes room for this one.
                if distinct.insert((declared, value)) {
                    work = work.saturating_add(distinct.len());
                }
                adds_any = true;
                longest_uri = longest_uri.max(value.len());
            } else {
                names += 1;
                bytes += local.len();
                with_prefix += usize::from(!prefix.is_empty());
            }
        }
        // Each attribute with all others of its element.
        work = work.saturating_add(names.saturating_mul(names + bytes));
        pairs_of_uris = pairs_of_uris.saturating_add(with_prefix.saturating_mul(with_prefix));
        if adds_any {
            // Those of the element with each other, and all around it with them.
            let with_each = in_scope.saturating_mul(in_scope + in_scope_bytes);
            work = work.saturating_add(with_each.saturating_mul(2));
        }
    }
    // The prefix of each name with all in scope.
    work.saturating_add(in_scope.saturating_mul(xml.len()))
        .saturating_add(pairs_of_uris.saturating_mul(longest_uri))
}

/// The attributes of the tag that this text begins with, names and values, as far as the parser
/// would come with it.
fn attributes(mut tag: &str) -> impl Iterator<Item = (&str, &str)> {
    std::iter::from_fn(move || {
        let at = tag.find(['>', '"', '\''])?;
        let (before, quoted) = tag.split_at(at);
        let quote = quoted.chars().next().filter(|quote| *quote != '>')?;
        let (value, after) = quoted.get(1..)?.split_once(quote).unwrap_or((quoted, ""));
        tag = after;
        let name = before.trim_end_matches([' ', '\t', '\r', '\n', '=']);
        Some((name.rsplit([' ', '\t', '\r', '\n']).next()?, value))
    })
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    const MAX_BYTES: usize = 4 * 1024 * 1024;

    fn parse(xml: &str) -> Result<Document<'_>, Unusable> {
        let compared = 100_000_000;
        let bounds =
            Bounds { bytes: MAX_BYTES, markup: 500_000, nodes: 1_000_000, compared, depth: 256 };
        super::parse(xml, &bounds)
    }

    fn declared(count: usize) -> String {
        (0..count).map(|number| format!(" xmlns:n{number}='u'")).collect::<Vec<_>>().concat()
    }

    fn prefixed(count: usize) -> String {
        (0..count).map(|number| format!(" n0:a{number}=''")).collect::<Vec<_>>().concat()
    }

    fn nested(depth: usize, prefix: &str) -> String {
        let open = |number| format!("<a xmlns:{prefix}{number:03}='u'>");
        let open = (0..depth).map(open).collect::<Vec<_>>().concat();
        open + &"</a>".repeat(depth)
    }

    fn attributed(count: usize) -> String {
        (0..count).map(|number| format!(" a{number}=''")).collect::<Vec<_>>().concat()
    }

    #[test]
    fn what_would_take_the_parser_long_is_refused_before() {
        let some = declared(2000);
        let long = "x".repeat(1000);
        let long = |number| format!(" {long}{number}=''");
        let many = format!("<b{}/>", prefixed(10)).repeat(2000);
        let declaring = (0..40_000).map(|number| format!("<a xmlns:n='{number}'/>"));
        for xml in [
            format!("<domain{some}>{}</domain>", "<a/>".repeat(100_000)),
            format!("<domain{some}>{}</domain>", "<a xmlns:x=''/>".repeat(10_000)),
            format!("<domain{}/>", attributed(100_000)),
            format!("<domain{}/>", (0..3000).map(long).collect::<String>()),
            format!("<a xmlns:n0='{}'><b{}/></a>", "u".repeat(100_000), prefixed(500)),
            format!("<a xmlns:n0='{}'>{}</a>", "&#117;".repeat(9_000), many),
            nested(1000, "n"),
            nested(100, &"n".repeat(1_000)),
            format!("<a>{}</a>", declaring.collect::<String>()),
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
    fn what_other_tools_write_is_read() {
        let uri = |name: &str| format!("http://{name}.example.org/{}", "xmlns/libvirt/".repeat(6));
        let space = |n| format!(" xmlns:n{n}='{}'", uri("x"));
        let spaces: String = (0..20).map(space).collect();
        let os = "<libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>\
                  <libosinfo:os id='http://debian.org/debian/12'/></libosinfo:libosinfo>";
        let nova = "<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>\
                    <nova:flavor name='m1' id='42'><nova:memory>512</nova:memory></nova:flavor>\
                    <nova:owner><nova:user uuid='u'>x</nova:user></nova:owner></nova:instance>";
        let ovirt = format!(
            "<ovirt-tune:qos xmlns:ovirt-tune='http://ovirt.org/vm/tune/1.0'/>\
             <ovirt-vm:vm xmlns:ovirt-vm='http://ovirt.org/vm/1.0'>{}</ovirt-vm:vm>",
            "<ovirt-vm:device devtype='disk' name='vda'><ovirt-vm:poolID type='str'>1</ovirt-vm:poolID>\
             </ovirt-vm:device>".repeat(100)
        );
        let attribute = |n| format!(" n{n}:a{n}='some value'");
        let attributes: String = (0..20).map(attribute).collect();
        let rich = format!("<n1:a{attributes}><n2:b n3:c='d' xml:lang='en'>e</n2:b></n1:a>");
        // One with all of its namespaces at each element, as some libraries write them.
        let each = |n| format!("<a xmlns='{}' xmlns:y='{}' y:b='{n}'/>", uri("x"), uri("y"));
        let each: String = (0..1000).map(each).collect();
        let metadata = os.to_owned() + nova + &ovirt + &rich.repeat(100) + &each;
        let xml = format!(
            "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'{spaces}>\
             <metadata>{metadata}</metadata><name>{}</name></domain>",
            "x".repeat(MAX_BYTES / 8)
        );
        assert_eq!(parse(&xml).err(), None);
        // One and the same at each of many elements, as vcsim does.
        let alike = "<a xmlns:y='u' y:b=''/>".repeat(100_000);
        assert_eq!(parse(&format!("<a>{alike}</a>")).err(), None);
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

    /// Elements in one another that declare many namespaces, by prefixes and with URIs of some length,
    /// and have many attributes in them.
    fn crowded() -> impl Strategy<Value = String> {
        let tag = (
            prop::collection::btree_map("[n-p]|n{90}[a-f]", "(u{0,9}|u{400})[a-z]{2}", 0..4),
            prop::collection::btree_set("([n-p]:)?[a-z]{1,2}", 0..30),
            0_usize..3,
        );
        prop::collection::vec(tag, 1..8).prop_map(|tags| {
            let (mut xml, mut known) = (String::new(), BTreeSet::new());
            let depth = tags.len();
            for (declared, attributes, defaults) in tags {
                xml += "<a";
                xml += &" xmlns='d'".repeat(defaults);
                for (prefix, uri) in declared {
                    xml.extend([" xmlns:", &prefix, " = '", &uri, "'"]);
                    known.insert(prefix);
                }
                for name in attributes {
                    if name.split_once(':').is_none_or(|(prefix, _)| known.contains(prefix)) {
                        xml.extend(["\n", &name, "=\"\""]);
                    }
                }
                xml += ">";
            }
            xml + &"</a>".repeat(depth)
        })
    }

    /// How many bytes the parser compares for an element.
    fn compares(element: Node<'_, '_>) -> usize {
        let (attributes, namespaces) = (element.attributes(), element.namespaces());
        let names: usize = attributes.clone().map(|attribute| attribute.name().len()).sum();
        // Of two URIs, as many as the shorter one has: longest first, each with all before it.
        let mut uris: Vec<_> =
            attributes.clone().filter_map(|a| Some(a.namespace()?.len())).collect();
        uris.sort_unstable_by(|one, other| other.cmp(one));
        let uris: usize = uris.into_iter().enumerate().map(|(before, uri)| before * uri).sum();
        let outer = element.parent_element().map(|parent| parent.namespaces());
        let outer = outer.filter(|outer| !outer.clone().eq(namespaces.clone()));
        let prefixes = outer.into_iter().flatten().map(|outer| outer.name().map_or(1, str::len));
        attributes.len() * names / 2
            + uris
            + namespaces.len() * (element.tag_name().name().len() + names)
            + namespaces.len() * prefixes.sum::<usize>()
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
        fn no_less_is_counted_than_the_parser_compares(
            inside in markup(), around in 2_usize..6, crowded in crowded(),
        ) {
            for xml in [format!("<a{}>{inside}</a>", declared(around)), crowded] {
                let Ok(document) = Document::parse(&xml) else { continue };
                let elements = document.descendants().filter(Node::is_element);
                let (compares, counted) = (elements.map(compares).sum::<usize>(), compared(&xml));
                prop_assert!(compares <= counted, "{} of {}: {}", compares, counted, xml);
            }
        }
    }
}
