//! Reads what a reading needs from a domain's XML (<https://libvirt.org/formatdomain.html>).
//!
//! Pure: text in, devices out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use roxmltree::{Document, Node};

use super::xml::{Unusable, attribute, child, children, parse};
use crate::records;

/// A NIC as the XML describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Nic {
    pub(super) name: String,
    pub(super) mac: Option<String>,
    pub(super) fref: Option<String>,
    pub(super) parameters: records::Parameters,
    /// Whether libvirt can be asked for it by its MAC address: it is a device of the host (`<interface
    /// type='hostdev'>`), for SR-IOV a virtual function, and the first NIC that has the address. libvirt
    /// answers for that one, which in a team of two (`<teaming>`) often is a tap device.
    pub(super) is_found_by_mac: bool,
    /// Whether its device on the host, and so its counters, may outlive the domain's process: libvirt
    /// does not make it at each start.
    pub(super) outlives: bool,
}

/// A disk as the XML describes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Disk {
    /// Its target name.
    pub(super) name: String,
    /// What its bytes lie on. Many targets of one disk share it, and the format: texts have any length.
    pub(super) source: Arc<Source>,
    /// In which format (`raw`, `qcow2`), where the XML says so.
    pub(super) format: Option<Arc<str>>,
}

/// What the bytes of a disk lie on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// A file, by its path.
    File(String),
    /// A block device, by its path.
    Block(String),
    /// A server, spoken to in this protocol (`nbd`, `rbd`).
    Network(String),
    /// Whatever else there is, a volume of a pool, say.
    Other,
}

/// What a reading needs to know of a domain's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Devices {
    /// The NICs that have a target device and a MAC address element, in the order of the XML.
    pub(super) nics: Box<[Nic]>,
    /// Those that have no target, devices of the host that are handed through, by their MAC addresses.
    pub(super) without_target: Box<[Nic]>,
    /// How many NICs there are, whatever is known of them.
    pub(super) nic_count: usize,
    /// The disks that have a source, in the order of the XML.
    pub(super) disks: Box<[Disk]>,
    /// The target names of drives that are empty.
    pub(super) empty: Box<[String]>,
    /// Whether the guest has a memory balloon.
    pub(super) balloon: bool,
    /// The number of a domain that runs, another at each start.
    pub(super) number: Option<u32>,
}

/// The devices of a domain.
pub(super) fn devices(xml: &str) -> Result<Devices, Unusable> {
    let document = parse(xml)?;
    let has_source = |disk: &Node<'_, '_>| child(*disk, "source").is_some();
    let model = |balloon| attribute(balloon, "model");
    let mut macs = HashSet::new();
    let without_target = each(&document, "interface").filter_map(|interface| {
        let is_first = mac(interface).is_some_and(|mac| macs.insert(mac.to_lowercase()));
        nic_without_target(interface, is_first)
    });
    let without_target = without_target.collect();
    Ok(Devices {
        nics: each(&document, "interface").filter_map(nic).collect(),
        without_target,
        nic_count: each(&document, "interface").count(),
        disks: each(&document, "disk").filter(has_source).flat_map(disks).collect(),
        empty: each(&document, "disk").filter(|disk| !has_source(disk)).flat_map(targets).collect(),
        number: attribute(document.root_element(), "id").and_then(|id| id.parse().ok()),
        balloon: each(&document, "memballoon").any(|b| model(b).as_deref() != Some("none")),
    })
}

/// Every `<devices><kind>` of the domain.
fn each<'a>(document: &'a Document<'_>, kind: &'static str) -> impl Iterator<Item = Node<'a, 'a>> {
    children(document.root_element(), "devices").flat_map(move |devices| children(devices, kind))
}

/// A disk, or several of them where there are several targets.
fn disks<'a>(disk: Node<'a, 'a>) -> impl Iterator<Item = Disk> {
    let format = child(disk, "driver").and_then(|driver| attribute(driver, "type"));
    let format = format.map(Arc::<str>::from);
    let source = Arc::new(source(disk).unwrap_or(Source::Other));
    targets(disk).map(move |name| Disk {
        name,
        source: Arc::clone(&source),
        format: format.clone(),
    })
}

fn source(disk: Node<'_, '_>) -> Option<Source> {
    let given = |name| attribute(child(disk, "source")?, name);
    match attribute(disk, "type")?.as_str() {
        "file" => given("file").map(Source::File),
        "block" => given("dev").map(Source::Block),
        "network" => given("protocol").map(Source::Network),
        _ => None,
    }
}

fn targets<'a>(device: Node<'a, 'a>) -> impl Iterator<Item = String> {
    children(device, "target")
        .filter_map(|target| attribute(target, "dev"))
        .filter(|name| !name.is_empty())
}

fn nic(interface: Node<'_, '_>) -> Option<Nic> {
    let name = target_name(interface)?;
    child(interface, "mac")?;
    let kind = attribute(interface, "type");
    let is_made = matches!(kind.as_deref(), Some("bridge" | "network" | "direct" | "ethernet"));
    let managed = child(interface, "target").and_then(|target| attribute(target, "managed"));
    let outlives = !is_made || managed.as_deref() == Some("no");
    Some(Nic { name, mac: mac(interface), outlives, ..described(interface) })
}

/// A NIC that libvirt has no name for on the host: SR-IOV's and vDPA's.
fn nic_without_target(interface: Node<'_, '_>, is_first: bool) -> Option<Nic> {
    if target_name(interface).is_some() {
        return None;
    }
    let mac = mac(interface).filter(|mac| !mac.is_empty())?;
    let is_hostdev = attribute(interface, "type").as_deref() == Some("hostdev");
    let (name, is_found_by_mac) = (mac.clone(), is_hostdev && is_first);
    Some(Nic { name, mac: Some(mac), is_found_by_mac, outlives: true, ..described(interface) })
}

fn mac(interface: Node<'_, '_>) -> Option<String> {
    attribute(child(interface, "mac")?, "address")
}

/// What libvirt calls a NIC by on the host; an empty name is none.
pub(super) fn target_name(interface: Node<'_, '_>) -> Option<String> {
    attribute(child(interface, "target")?, "dev").filter(|name| !name.is_empty())
}

/// What there is to know of a NIC beside its name.
fn described(interface: Node<'_, '_>) -> Nic {
    let fref = child(interface, "filterref").and_then(|fref| attribute(fref, "filter"));
    let mut parameters = Parameters::default();
    for parameter in children(interface, "filterref").flat_map(|fref| children(fref, "parameter")) {
        if let Some(name) = attribute(parameter, "name") {
            parameters.set(name.to_lowercase(), attribute(parameter, "value"));
        }
    }
    let interfaceid = child(interface, "virtualport")
        .and_then(|port| child(port, "parameters"))
        .and_then(|parameters| attribute(parameters, "interfaceid"));
    let bridge = child(interface, "source").and_then(|source| attribute(source, "bridge"));
    parameters.set("interfaceid".to_owned(), interfaceid);
    parameters.set("bridge".to_owned(), bridge);
    Nic { fref, parameters: parameters.all.into(), ..Nic::default() }
}

/// A parameter keeps the place where its name came first and the value that came last.
#[derive(Default)]
struct Parameters {
    all: Vec<(String, Option<String>)>,
    places: HashMap<String, usize>,
}

impl Parameters {
    fn set(&mut self, name: String, value: Option<String>) {
        let place = *self.places.entry(name.clone()).or_insert(self.all.len());
        match self.all.get_mut(place) {
            Some((_, known)) => *known = value,
            None => self.all.push((name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::xml::{MAX_BYTES, MAX_DEPTH, MAX_MARKUP};
    use super::*;
    use proptest::prelude::*;

    fn nics(xml: &str) -> Result<Vec<Nic>, Unusable> {
        devices(xml).map(|devices| devices.nics.into_vec())
    }

    fn disks(xml: &str) -> Result<Vec<String>, Unusable> {
        devices(xml).map(|found| found.disks.into_iter().map(|disk| disk.name).collect())
    }

    fn domain(devices: &str) -> String {
        format!("<domain type='kvm'><name>x</name><devices>{devices}</devices></domain>")
    }

    #[test]
    fn a_nic_with_everything() {
        let xml = domain(
            "<interface type='bridge'><mac address='52:54:00:00:00:01'/>\
             <source bridge='br0'/><target dev='tap0'/>\
             <virtualport><parameters interfaceid='if-1'/></virtualport>\
             <filterref filter='clean'><parameter name='IP' value='10.0.0.1'/>\
             <parameter name='ip' value='10.0.0.2'/><parameter value='lost'/></filterref>\
             </interface>",
        );
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            nics(&xml),
            Ok(vec![Nic {
                name: "tap0".to_owned(),
                mac: some("52:54:00:00:00:01"),
                fref: some("clean"),
                parameters: [
                    ("ip".to_owned(), some("10.0.0.2")),
                    ("interfaceid".to_owned(), some("if-1")),
                    ("bridge".to_owned(), some("br0")),
                ]
                .into(),
                is_found_by_mac: false,
                outlives: false,
            }])
        );
    }

    #[test]
    fn a_nic_that_libvirt_does_not_make_outlives_the_domain() {
        let outlives = |kind: &str, target: &str| {
            let nic = format!("<mac/><target dev='tap0' {target}/>");
            nics(&domain(&format!("<interface type='{kind}'>{nic}</interface>"))).unwrap()[0]
                .outlives
        };
        for kind in ["bridge", "network", "direct", "ethernet"] {
            assert!(!outlives(kind, ""));
        }
        assert!(outlives("ethernet", "managed='no'"));
        assert!(!outlives("ethernet", "managed='yes'"));
        for kind in ["vhostuser", "hostdev", "vdpa", "user"] {
            assert!(outlives(kind, ""));
        }
    }

    #[test]
    fn a_nic_that_is_handed_through_is_known_by_its_mac() {
        let xml = domain(
            "<interface type='hostdev'><mac address='52:54:00:00:00:01'/>\
             <virtualport><parameters interfaceid='port-1'/></virtualport></interface>\
             <interface type='bridge'><mac address='2'/><target dev='tap0'/></interface>\
             <interface type='vdpa'><mac address='3'/><target/></interface>\
             <interface type='vdpa'><mac address='4'/><target dev=''/></interface>\
             <interface type='user'/><interface><mac address=''/></interface>",
        );
        let found = devices(&xml).unwrap();
        let names: Vec<_> = found.without_target.iter().map(|nic| nic.name.as_str()).collect();
        assert_eq!(names, ["52:54:00:00:00:01", "3", "4"]);
        let asked: Vec<_> = found.without_target.iter().map(|nic| nic.is_found_by_mac).collect();
        assert_eq!(asked, [true, false, false]);
        let port = ("interfaceid".to_owned(), Some("port-1".to_owned()));
        assert!(found.without_target[0].parameters.contains(&port));
        assert_eq!(found.nics.len(), 1);
    }

    #[test]
    fn only_the_first_that_has_a_mac_is_found_by_it() {
        let through = |mac| format!("<interface type='hostdev'><mac address='{mac}'/></interface>");
        let tap = "<interface type='bridge'><mac address='0a'/><target dev='tap0'/></interface>";
        let nics = [tap.to_owned(), through("0A"), through("0b"), through("0b")];
        let found = devices(&domain(&nics.concat())).unwrap();
        let asked: Vec<_> = found.without_target.iter().map(|nic| nic.is_found_by_mac).collect();
        assert_eq!(asked, [false, true, false]);
    }

    #[test]
    fn a_nic_needs_a_target_device_and_a_mac() {
        let xml = domain(
            "<interface><mac address='1'/></interface>\
             <interface><target dev='tap0'/></interface>\
             <interface><target/><mac address='1'/></interface>\
             <interface><target dev=''/><mac address='1'/></interface>\
             <interface><target dev='tap1'/><mac/></interface>",
        );
        let found = nics(&xml).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), &found[0].mac), ("tap1", &None));
    }

    #[test]
    fn a_disk_needs_a_named_target_and_a_source() {
        let xml = domain(
            "<disk device='cdrom'><target dev='sda'/></disk>\
             <disk><source file='/x'/><target dev='vda'/></disk>\
             <disk><source/><target dev=''/></disk><disk><source/><target/></disk>\
             <disk><target dev='vdb'/><source/></disk>",
        );
        assert_eq!(disks(&xml), Ok(vec!["vda".to_owned(), "vdb".to_owned()]));
    }

    #[test]
    fn a_domain_may_have_a_balloon() {
        let balloon = |xml: &str| devices(&domain(xml)).map(|found| found.balloon);
        assert_eq!(balloon("<memballoon model='virtio'/>"), Ok(true));
        assert_eq!(balloon("<memballoon model='none'/>"), Ok(false));
        assert_eq!(balloon(""), Ok(false));
    }

    #[test]
    fn a_disk_has_a_source_and_perhaps_a_format() {
        let xml = domain(
            "<disk type='file'><driver type='raw'/><source file='/f'/><target dev='a'/></disk>\
             <disk type='block'><driver/><source dev='/d'/><target dev='b'/></disk>\
             <disk type='network'><source protocol='nbd'><host/></source><target dev='c'/></disk>\
             <disk type='volume'><driver type='qcow2'/><source file='/v'/><target dev='d'/></disk>\
             <disk type='file'><source dev='/d'/><target dev='e'/></disk>\
             <disk><source file='/f'/><target dev='f'/></disk>",
        );
        let text = str::to_owned;
        let expected = [
            ("a", Source::File(text("/f")), Some("raw")),
            ("b", Source::Block(text("/d")), None),
            ("c", Source::Network(text("nbd")), None),
            ("d", Source::Other, Some("qcow2")),
            ("e", Source::Other, None),
            ("f", Source::Other, None),
        ];
        let expected = expected.map(|(name, source, format)| Disk {
            name: text(name),
            source: source.into(),
            format: format.map(Arc::from),
        });
        assert_eq!(*devices(&xml).unwrap().disks, expected);
    }

    #[test]
    fn what_many_targets_have_in_common_is_there_once() {
        let target = |number| format!("<target dev='{number}'/>");
        let targets: String = (0..1000).map(target).collect();
        let xml =
            format!("<disk type='file'><driver type='raw'/><source file='/f'/>{targets}</disk>");
        let disks = devices(&domain(&xml)).unwrap().disks;
        assert_eq!(disks.len(), 1000);
        let path = |disk: &Disk| match &*disk.source {
            Source::File(path) => path.as_ptr(),
            _ => panic!("no file"),
        };
        let format = |disk: &Disk| disk.format.as_deref().map(str::as_ptr);
        assert!(disks.iter().all(|disk| path(disk) == path(&disks[0])));
        assert!(disks.iter().all(|disk| format(disk) == format(&disks[0])));
    }

    #[test]
    fn elements_and_attributes_of_other_namespaces_are_not_libvirts() {
        let xml = "<domain xmlns:t='urn:tenant'><t:devices><disk><source/><target dev='a'/></disk>\
                   </t:devices><devices><t:disk><source/><target dev='b'/></t:disk>\
                   <disk><source/><target t:dev='c' dev='d'/></disk></devices></domain>";
        assert_eq!(disks(xml), Ok(vec!["d".to_owned()]));
    }

    #[test]
    fn entities_are_not_expanded() {
        let xml = "<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]>\
                   <domain><name>&b;</name></domain>";
        assert!(disks(xml).is_err_and(|reason| reason.contains("DTD")));
    }

    #[test]
    fn size_and_depth_are_bounded() {
        let long = domain(&format!("<!--{}-->", "x".repeat(MAX_BYTES)));
        assert!(disks(&long).is_err_and(|reason| reason.contains("limit")));
        // As deep as fits into the bounds: neither the parser nor its drop may use up the stack.
        let depth = MAX_MARKUP / 2;
        let deep = format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
        assert!(nics(&deep).is_err_and(|reason| reason.contains("nested")));
        let edge = |depth: usize| "<a>".repeat(depth) + &"</a>".repeat(depth);
        assert!(disks(&edge(MAX_DEPTH)).is_ok());
        assert!(disks(&edge(MAX_DEPTH).replace("<a></a>", "<a>x<!-- --></a>")).is_ok());
        assert!(disks(&edge(MAX_DEPTH + 1)).is_err_and(|reason| reason.contains("nested")));
    }

    #[test]
    fn what_is_no_xml_is_an_error() {
        for text in [
            "",
            "no",
            "<a>",
            "<domain><devices></domain>",
            "<a:b/>",
            "<a>&#0;</a>",
            "<a b='&#xd800;'/>",
        ] {
            assert!(nics(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn as_many_parameters_as_there_is_room_for() {
        let parameter = |number: usize| format!("<parameter name='{number}'/>");
        let count = MAX_BYTES / 32;
        let parameters: String = (0..count).chain(0..9).map(parameter).collect();
        let nic = format!("<target dev='tap0'/><mac/><filterref>{parameters}</filterref>");
        let found = nics(&domain(&format!("<interface>{nic}</interface>"))).unwrap();
        assert_eq!(found[0].parameters.len(), count + 2);
        assert_eq!(found[0].parameters[count - 1].0, (count - 1).to_string());
    }

    proptest! {
        #[test]
        fn a_parameter_has_its_first_place_and_its_last_value(
            given in prop::collection::vec(("[ab]{0,2}", any::<Option<u8>>()), 0..20),
        ) {
            let mut parameters = Parameters::default();
            for (name, value) in &given {
                parameters.set(name.clone(), value.map(|value| value.to_string()));
            }
            let last = |name| given.iter().rfind(|(other, _)| other == name).and_then(|(_, v)| *v);
            let is_first = |at: usize| given.iter().position(|(name, _)| *name == given[at].0) == Some(at);
            let names = (0..given.len()).filter(|at| is_first(*at)).map(|at| &given[at].0);
            let expected: Vec<_> =
                names.map(|name| (name.clone(), last(name).map(|value| value.to_string()))).collect();
            prop_assert_eq!(parameters.all, expected);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", devices in "[<>/&;'\"=! a-z#0-9\\[\\]-]*") {
            let _ = (nics(&text), disks(&text));
            let _ = (nics(&domain(&devices)), disks(&domain(&devices)));
        }
    }
}
