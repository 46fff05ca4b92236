//! Reads what OpenStack Nova writes into a domain's metadata
//! (<https://docs.openstack.org/nova/latest/reference/libvirt-metadata.html>).
//!
//! Pure: text in, metadata out.

use roxmltree::Node;

use super::xml::{Unusable, attribute, child, parse};
use crate::records::{Flavor, NovaMetadata, ServerDescription};

/// Newest first.
const NAMESPACES: [&str; 2] =
    ["http://openstack.org/xmlns/libvirt/nova/1.1", "http://openstack.org/xmlns/libvirt/nova/1.0"];

/// What the XML of a domain of Nova's says; `None` for a domain that is not Nova's.
pub(super) fn server(xml: &str) -> Result<Option<ServerDescription>, Unusable> {
    let document = parse(xml)?;
    let domain = document.root_element();
    let Some(instance) = child(domain, "metadata").and_then(nova) else { return Ok(None) };
    let mut missing = Missing::default();
    let os_type =
        missing.unless(child(domain, "os").and_then(|os| child(os, "type")), "an os type");
    let architecture = os_type.and_then(|os_type| attribute(os_type, "arch"));
    Ok(Some(ServerDescription {
        os_type: os_type.and_then(text),
        architecture: missing.unless(architecture, "an architecture"),
        nova: metadata(instance, &mut missing),
        missing: missing.0,
    }))
}

/// What Ceilometer's discovery does not do without, and is not there.
#[derive(Default)]
struct Missing(Vec<String>);

impl Missing {
    fn unless<T>(&mut self, there: Option<T>, what: &str) -> Option<T> {
        if there.is_none() {
            self.0.push(what.to_owned());
        }
        there
    }
}

/// The names of the instance, its project and its user, as far as Nova's metadata has them; `None` for a
/// domain that is not Nova's.
pub(super) fn names(metadata: Node<'_, '_>) -> Option<[Option<String>; 3]> {
    let instance = nova(metadata)?;
    let owner = |kind| part(part(instance, "owner")?, kind).and_then(text);
    Some([part(instance, "name").and_then(text), owner("project"), owner("user")])
}

/// The element that Nova has put there.
fn nova<'a>(metadata: Node<'a, 'a>) -> Option<Node<'a, 'a>> {
    NAMESPACES.iter().find_map(|namespace| {
        metadata.children().find(|child| child.tag_name().namespace() == Some(namespace))
    })
}

fn metadata(instance: Node<'_, '_>, missing: &mut Missing) -> NovaMetadata {
    let owner = |kind| {
        let owner = part(instance, "owner").and_then(|owner| part(owner, kind));
        owner.and_then(|owner| attribute(owner, "uuid"))
    };
    let name = missing.unless(part(instance, "name"), "Nova's name");
    let flavor = missing.unless(part(instance, "flavor"), "Nova's flavor");
    let is_image = |root: &Node<'_, '_>| attribute(*root, "type").as_deref() == Some("image");
    let root = parts(instance, "root").find(is_image);
    NovaMetadata {
        name: name.and_then(text),
        user_id: missing.unless(owner("user"), "the owner's user id"),
        project_id: missing.unless(owner("project"), "the owner's project id"),
        flavor: flavor.map(|flavor| self::flavor(flavor, missing)).unwrap_or_default(),
        image_id: root
            .and_then(|root| missing.unless(attribute(root, "uuid"), "the root image's uuid")),
        image_meta: part(instance, "image").map(image_meta),
    }
}

fn flavor(flavor: Node<'_, '_>, missing: &mut Missing) -> Flavor {
    let name = missing.unless(attribute(flavor, "name"), "the flavor's name");
    let mut size = |name| match part(flavor, name) {
        None => Some(0),
        Some(size) => {
            let number = text(size).and_then(|size| size.trim().parse().ok());
            missing.unless(number, &format!("a number as the flavor's {name}"))
        }
    };
    Flavor {
        id: attribute(flavor, "id").filter(|id| !id.is_empty()),
        name,
        vcpus: size("vcpus"),
        ram: size("memory"),
        disk: size("disk"),
        ephemeral: size("ephemeral"),
        swap: size("swap"),
        extra_specs: part(flavor, "extraSpecs").map(|specs| named(specs, "extraSpec")),
    }
}

fn image_meta(image: Node<'_, '_>) -> Vec<(String, Option<String>)> {
    const PARTS: [(&str, &str); 4] = [
        ("containerFormat", "container_format"),
        ("diskFormat", "disk_format"),
        ("minDisk", "min_disk"),
        ("minRam", "min_ram"),
    ];
    let base = attribute(image, "uuid").map(|uuid| ("base_image_ref".to_owned(), Some(uuid)));
    let fixed = PARTS.iter().filter_map(|(element, name)| {
        part(image, element).map(|found| ((*name).to_owned(), text(found)))
    });
    let mut meta: Vec<_> = base.into_iter().chain(fixed).collect();
    if let Some(properties) = part(image, "properties") {
        meta.extend(named(properties, "property"));
    }
    meta
}

/// Name and text of each of these elements that has a name.
fn named(parent: Node<'_, '_>, element: &str) -> Vec<(String, Option<String>)> {
    let name_and_text = |found| Some((attribute(found, "name")?, text(found)));
    parts(parent, element).filter_map(name_and_text).collect()
}

/// The children of this name that are Nova's, or nobody's.
fn parts<'a>(parent: Node<'a, 'a>, name: &str) -> impl Iterator<Item = Node<'a, 'a>> {
    parent.children().filter(move |child| {
        let tag = child.tag_name();
        let namespace = tag.namespace().unwrap_or("");
        tag.name() == name && (namespace.is_empty() || NAMESPACES.contains(&namespace))
    })
}

fn part<'a>(parent: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
    parts(parent, name).next()
}

/// The text before the first child element.
fn text(node: Node<'_, '_>) -> Option<String> {
    node.text().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOVA: &str = "xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'";
    const OWNER: &str = "<nova:owner><nova:user uuid='u'/><nova:project uuid='p'/></nova:owner>";

    fn domain(inside: &str) -> String {
        format!(
            "<domain><metadata><x:other xmlns:x='urn:x'/><nova:instance {NOVA}>{inside}\
             </nova:instance></metadata><os><type arch='x86_64'>hvm</type></os></domain>"
        )
    }

    #[test]
    fn an_instance_of_nova() {
        let xml = domain(&format!(
            "<nova:name>web</nova:name>{OWNER}<nova:flavor name='m1' id='42'>\
             <nova:vcpus> 2 </nova:vcpus><nova:memory>512</nova:memory><nova:extraSpecs>\
             <nova:extraSpec name='hw:x'>y</nova:extraSpec></nova:extraSpecs></nova:flavor>\
             <nova:root type='image' uuid='i'/><nova:image uuid='b'><nova:minRam>0</nova:minRam>\
             <nova:properties><nova:property name='os'/></nova:properties></nova:image>"
        ));
        let ServerDescription { os_type, architecture, nova, missing } =
            server(&xml).unwrap().unwrap();
        assert_eq!(missing, [""; 0]);
        assert_eq!((os_type.as_deref(), architecture.as_deref()), (Some("hvm"), Some("x86_64")));
        assert_eq!((nova.name.as_deref(), nova.image_id.as_deref()), (Some("web"), Some("i")));
        assert_eq!((nova.user_id.as_deref(), nova.project_id.as_deref()), (Some("u"), Some("p")));
        assert_eq!((nova.flavor.id.as_deref(), nova.flavor.vcpus), (Some("42"), Some(2)));
        assert_eq!((nova.flavor.ram, nova.flavor.disk), (Some(512), Some(0)));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(nova.flavor.extra_specs, Some(vec![("hw:x".to_owned(), some("y"))]));
        let meta = [("base_image_ref", some("b")), ("min_ram", some("0")), ("os", None)];
        let meta = meta.map(|(name, value)| (name.to_owned(), value)).to_vec();
        assert_eq!(nova.image_meta, Some(meta));
    }

    #[test]
    fn a_domain_that_is_not_novas() {
        for xml in ["<domain/>", "<domain><metadata><instance/></metadata></domain>"] {
            assert_eq!(server(xml), Ok(None));
        }
    }

    #[test]
    fn an_incomplete_instance_has_what_is_there_and_says_what_is_not() {
        let flavor = "<nova:flavor name='f'/>";
        for (inside, missing) in [
            (
                String::new(),
                "Nova's name, Nova's flavor, the owner's user id, the owner's project id",
            ),
            (
                format!("<nova:name>x</nova:name>{flavor}"),
                "the owner's user id, the owner's project id",
            ),
            (format!("<nova:name/>{OWNER}<nova:flavor/>"), "the flavor's name"),
            (
                format!("<nova:name/>{OWNER}<nova:flavor name='f'><nova:swap/></nova:flavor>"),
                "a number as the flavor's swap",
            ),
            (
                format!("<nova:name/>{OWNER}{flavor}<nova:root type='image'/>"),
                "the root image's uuid",
            ),
        ] {
            let found = server(&domain(&inside)).unwrap().unwrap();
            assert_eq!(found.missing.join(", "), missing);
            assert_eq!(found.architecture.as_deref(), Some("x86_64"));
            let known = inside.contains("name='f'").then_some("f");
            assert_eq!(found.nova.flavor.name.as_deref(), known);
            assert_eq!(found.nova.user_id.is_some(), inside.contains(OWNER));
        }
        let xml = domain(&format!("<nova:name>x</nova:name>{OWNER}{flavor}"));
        let found = server(&xml.replace(" arch='x86_64'", "")).unwrap().unwrap();
        assert_eq!((found.missing, found.architecture), (vec!["an architecture".to_owned()], None));
        assert_eq!(found.os_type.as_deref(), Some("hvm"));
        let found = server(&xml.replace("<os><type arch='x86_64'>hvm</type></os>", ""));
        assert_eq!(found.unwrap().unwrap().missing.join(", "), "an os type, an architecture");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(inside in "[<>/&;'\"=! a-z#0-9:-]*") {
            let _ = server(&domain(&inside));
        }
    }
}
