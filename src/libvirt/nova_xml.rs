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
    let os_type =
        child(domain, "os").and_then(|os| child(os, "type")).ok_or("it has no os type")?;
    let architecture = attribute(os_type, "arch").ok_or("its os type has no arch")?;
    Ok(Some(ServerDescription { os_type: text(os_type), architecture, nova: metadata(instance)? }))
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

fn metadata(instance: Node<'_, '_>) -> Result<NovaMetadata, Unusable> {
    let owner = |kind| {
        let owner = part(instance, "owner").and_then(|owner| part(owner, kind));
        owner
            .and_then(|owner| attribute(owner, "uuid"))
            .ok_or_else(|| format!("Nova's metadata has no owner's {kind} with a uuid"))
    };
    let name = part(instance, "name").ok_or("Nova's metadata has no name")?;
    let flavor = part(instance, "flavor").ok_or("Nova's metadata has no flavor")?;
    let is_image = |root: &Node<'_, '_>| attribute(*root, "type").as_deref() == Some("image");
    let image_id = match parts(instance, "root").find(is_image) {
        None => None,
        Some(root) => Some(attribute(root, "uuid").ok_or("its root image has no uuid")?),
    };
    let image_meta = part(instance, "image").map(image_meta);
    Ok(NovaMetadata {
        name: text(name),
        user_id: owner("user")?,
        project_id: owner("project")?,
        flavor: self::flavor(flavor)?,
        image_id,
        image_meta,
    })
}

fn flavor(flavor: Node<'_, '_>) -> Result<Flavor, Unusable> {
    let size = |name| match part(flavor, name) {
        None => Ok(0),
        Some(size) => text(size)
            .and_then(|size| size.trim().parse().ok())
            .ok_or_else(|| format!("its flavor's {name} is no number")),
    };
    Ok(Flavor {
        id: attribute(flavor, "id").filter(|id| !id.is_empty()),
        name: attribute(flavor, "name").ok_or("its flavor has no name")?,
        vcpus: size("vcpus")?,
        ram: size("memory")?,
        disk: size("disk")?,
        ephemeral: size("ephemeral")?,
        swap: size("swap")?,
        extra_specs: part(flavor, "extraSpecs").map(|specs| named(specs, "extraSpec")),
    })
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
        let ServerDescription { os_type, architecture, nova } = server(&xml).unwrap().unwrap();
        assert_eq!((os_type.as_deref(), architecture.as_str()), (Some("hvm"), "x86_64"));
        assert_eq!((nova.name.as_deref(), nova.image_id.as_deref()), (Some("web"), Some("i")));
        assert_eq!((nova.user_id.as_str(), nova.project_id.as_str()), ("u", "p"));
        assert_eq!((nova.flavor.id.as_deref(), nova.flavor.vcpus), (Some("42"), 2));
        assert_eq!((nova.flavor.ram, nova.flavor.disk), (512, 0));
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
    fn a_malformed_instance_says_what_is_wrong() {
        for (inside, reason) in [
            ("", "no name"),
            ("<nova:name/>", "no flavor"),
            ("<nova:name/><nova:flavor/>", "owner"),
            (&format!("<nova:name/>{OWNER}<nova:flavor/>"), "flavor has no name"),
            (
                &format!("<nova:name/>{OWNER}<nova:flavor name='f'><nova:swap/></nova:flavor>"),
                "swap is no number",
            ),
        ] {
            let found = server(&domain(inside));
            assert!(found.as_ref().is_err_and(|e| e.contains(reason)), "{inside}: {found:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(inside in "[<>/&;'\"=! a-z#0-9:-]*") {
            let _ = server(&domain(&inside));
        }
    }
}
