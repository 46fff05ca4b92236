//! Reads from a domain's XML what people want to know of it beside its counters
//! (<https://libvirt.org/formatdomain.html>).
//!
//! Pure: text in, details out.

use roxmltree::Node;

use super::domain_xml::target_name;
use super::nova_xml;
use super::xml::{Unusable, attribute, child, children, parse};
use crate::details::{DiskDetails, InstanceDetails, Manager, NicDetails};

/// All that the XML tells. Its state and its vCPUs' times are not in there.
pub(super) fn details(xml: &str) -> Result<InstanceDetails, Unusable> {
    let document = parse(xml)?;
    let domain = document.root_element();
    let number = |element, name| attribute(element, name).and_then(|text| text.parse().ok());
    let vcpu = child(domain, "vcpu");
    let maximum = vcpu.and_then(text).and_then(|text| text.parse().ok());
    let devices = |kind| children(domain, "devices").flat_map(move |all| children(all, kind));
    Ok(InstanceDetails {
        title: child(domain, "title").and_then(text),
        machine: child(domain, "os")
            .and_then(|os| child(os, "type"))
            .and_then(|os_type| attribute(os_type, "machine")),
        memory_maximum: child(domain, "memory").and_then(mib),
        memory_configured: child(domain, "currentMemory").and_then(mib),
        vcpus_maximum: maximum,
        vcpus_configured: vcpu.and_then(|vcpu| number(vcpu, "current")).or(maximum),
        manager: manager(domain),
        disks: devices("disk").filter_map(disk).collect(),
        nics: devices("interface").filter_map(nic).collect(),
        ..InstanceDetails::default()
    })
}

/// The text of an element, without the spaces around it; `None` where there is nothing else.
fn text(node: Node<'_, '_>) -> Option<String> {
    let text = node.text()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// A size of memory. libvirt itself always writes KiB.
#[allow(clippy::cast_precision_loss)] // exact up to 2^53 bytes
fn mib(node: Node<'_, '_>) -> Option<f64> {
    const UNITS: [(&str, f64); 12] = [
        ("b", 1.0),
        ("bytes", 1.0),
        ("KB", 1e3),
        ("k", 1024.0),
        ("KiB", 1024.0),
        ("MB", 1e6),
        ("M", 1_048_576.0),
        ("MiB", 1_048_576.0),
        ("GB", 1e9),
        ("G", 1_073_741_824.0),
        ("GiB", 1_073_741_824.0),
        ("TiB", 1_099_511_627_776.0),
    ];
    let unit = attribute(node, "unit");
    let unit = unit.as_deref().unwrap_or("KiB");
    let (_, bytes) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let size: u64 = text(node)?.parse().ok()?;
    Some(size as f64 * bytes / 1_048_576.0)
}

fn disk(disk: Node<'_, '_>) -> Option<DiskDetails> {
    let target = child(disk, "target")?;
    let driver = |name| attribute(child(disk, "driver")?, name);
    let limits = child(disk, "iotune").into_iter().flat_map(|limits| limits.children());
    let limit = |limit: Node<'_, '_>| {
        let value = text(limit)?.parse().ok()?;
        let name = limit.tag_name().name();
        // Beside these, it names a group, and says what counts as one operation and how long peaks last.
        let is_limit =
            (name.ends_with("_sec") || name.ends_with("_sec_max")) && name != "size_iops_sec";
        Some((name.to_owned(), value)).filter(|_| limit.is_element() && is_limit)
    };
    Some(DiskDetails {
        device: attribute(target, "dev").filter(|name| !name.is_empty())?,
        kind: Some(attribute(disk, "device").unwrap_or_else(|| "disk".to_owned())),
        bus: attribute(target, "bus"),
        serial: child(disk, "serial").and_then(text),
        source: child(disk, "source").and_then(disk_source),
        format: driver("type"),
        cache: driver("cache"),
        limits: limits.filter_map(limit).collect(),
    })
}

/// What a disk lies on, in one word. What may have a secret is left out: the query of a URL, options of
/// Ceph's after the image's name, QEMU's own descriptions.
fn disk_source(source: Node<'_, '_>) -> Option<String> {
    let given = |name| attribute(source, name).filter(|text| !text.starts_with("json:"));
    let image = given("name").map(|name| {
        let ends = if given("protocol").as_deref() == Some("rbd") { ['?', ':'] } else { ['?'; 2] };
        name.split(ends).next().unwrap_or_default().to_owned()
    });
    let of = |(first, second): (Option<String>, Option<String>), between| match (first, second) {
        (Some(first), Some(second)) => Some(format!("{first}{between}{second}")),
        (first, second) => first.or(second),
    };
    given("file")
        .or_else(|| given("dev"))
        .or_else(|| given("dir"))
        .or_else(|| of((given("pool"), given("volume")), "/"))
        .or_else(|| of((given("protocol"), image), ":"))
        .or_else(|| given("path"))
        // A disk of NVMe that is the host's PCI device.
        .or_else(|| child(source, "address").and_then(pci))
}

fn nic(nic: Node<'_, '_>) -> Option<NicDetails> {
    let mac = child(nic, "mac").and_then(|mac| attribute(mac, "address"));
    let mac = mac.filter(|mac| !mac.is_empty());
    let source = child(nic, "source");
    let given = |name| attribute(source?, name);
    let port = child(nic, "virtualport").and_then(|port| child(port, "parameters"));
    Some(NicDetails {
        name: target_name(nic).or_else(|| mac.clone())?,
        mac,
        kind: attribute(nic, "type"),
        model: child(nic, "model").and_then(|model| attribute(model, "type")),
        source: ["bridge", "network", "dev", "path"]
            .into_iter()
            .find_map(given)
            .or_else(|| source.and_then(|source| child(source, "address")).and_then(pci)),
        port_id: port.and_then(|port| attribute(port, "interfaceid")),
        mtu: child(nic, "mtu").and_then(|mtu| attribute(mtu, "size")?.parse().ok()),
    })
}

/// The address of a PCI device of the host, as `lspci` writes it.
fn pci(address: Node<'_, '_>) -> Option<String> {
    let number = |name| {
        let text = attribute(address, name)?;
        u32::from_str_radix(text.strip_prefix("0x").unwrap_or(&text), 16).ok()
    };
    let domain = number("domain").unwrap_or(0);
    let (bus, slot, function) = (number("bus")?, number("slot")?, number("function")?);
    Some(format!("{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"))
}

fn manager(domain: Node<'_, '_>) -> Option<Manager> {
    let metadata = child(domain, "metadata");
    let of = |namespace: &str| {
        metadata?.children().find(|found| found.tag_name().namespace() == Some(namespace))
    };
    let name = child(domain, "name").and_then(text);
    if let Some([instance, project, user]) = metadata.and_then(nova_xml::names) {
        return Some(Manager { name: "nova", instance, project, user });
    }
    if of("http://kubevirt.io").is_some() {
        // NAMESPACE_NAME, neither of which can have an underscore.
        let parts = name.as_deref().and_then(|name| name.split_once('_'));
        let (project, instance) = parts.unzip();
        let owned = |part: Option<&str>| part.map(str::to_owned);
        let (instance, project) = (owned(instance), owned(project));
        return Some(Manager { name: "kubevirt", instance, project, user: None });
    }
    if of("http://ovirt.org/vm/1.0").is_some() {
        return Some(Manager { name: "ovirt", instance: name, ..Manager::default() });
    }
    Manager::by_name(&name?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn domain(inside: &str) -> InstanceDetails {
        details(&format!("<domain type='kvm'>{inside}</domain>")).unwrap()
    }

    #[allow(clippy::unnecessary_wraps)] // for comparisons
    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_domain_with_everything() {
        let found = domain(
            "<name>x</name><title> The web </title><memory unit='KiB'>4194304</memory>\
             <currentMemory unit='KiB'>2097152</currentMemory><vcpu current='2'>8</vcpu>\
             <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>",
        );
        assert_eq!(found.title, some("The web"));
        assert_eq!(found.machine, some("pc-q35-7.2"));
        assert_eq!((found.memory_maximum, found.memory_configured), (Some(4096.0), Some(2048.0)));
        assert_eq!((found.vcpus_maximum, found.vcpus_configured), (Some(8), Some(2)));
        assert_eq!(found.manager, None);
    }

    #[test]
    fn a_domain_with_nothing() {
        assert_eq!(domain("<title/><memory>x</memory><vcpu/>"), InstanceDetails::default());
        assert_eq!(domain("<vcpu>3</vcpu>").vcpus_configured, Some(3));
        assert_eq!(domain("<memory unit='MiB'>3</memory>").memory_maximum, Some(3.0));
        assert_eq!(domain("<memory unit='x'>3</memory>").memory_maximum, None);
    }

    #[test]
    fn disks_and_what_they_lie_on() {
        let disks = domain(
            "<devices><disk type='network' device='disk'><driver type='raw' cache='writeback'/>\
             <source protocol='rbd' name='volumes/volume-1'><host name='ceph'/></source>\
             <target dev='vda' bus='virtio'/><serial>5af1</serial>\
             <iotune><total_iops_sec>500</total_iops_sec><group_name>42</group_name>\
             <size_iops_sec>4096</size_iops_sec><total_iops_sec_max_length>60\
             </total_iops_sec_max_length></iotune></disk>\
             <disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>\
             <disk type='volume'><source pool='p' volume='v'/><target dev='vdb'/></disk>\
             <disk type='block'><source dev='/dev/x'/><target dev='vdc'/></disk>\
             <disk type='vhostuser'><source type='unix' path='/run/s'/><target dev='vdd'/></disk>\
             <disk type='nvme'><source type='pci'><address domain='0x0000' bus='0x01' slot='0x00' \
             function='0x0'/></source><target dev='vde'/></disk>\
             <disk><source file='/f'/></disk></devices>",
        )
        .disks;
        assert_eq!(
            disks[0],
            DiskDetails {
                device: "vda".to_owned(),
                kind: some("disk"),
                bus: some("virtio"),
                serial: some("5af1"),
                source: some("rbd:volumes/volume-1"),
                format: some("raw"),
                cache: some("writeback"),
                limits: vec![("total_iops_sec".to_owned(), 500)],
            }
        );
        let sources: Vec<_> =
            disks.iter().map(|disk| (disk.device.as_str(), disk.source.as_deref())).collect();
        let others = [
            ("sda", None),
            ("vdb", Some("p/v")),
            ("vdc", Some("/dev/x")),
            ("vdd", Some("/run/s")),
            ("vde", Some("0000:01:00.0")),
        ];
        assert_eq!(sources[1..], others);
    }

    #[test]
    fn what_a_disk_lies_on_tells_no_secret() {
        let source = |source: &str| {
            let disk = format!("<disk><source {source}/><target dev='a'/></disk>");
            domain(&format!("<devices>{disk}</devices>")).disks[0].source.clone()
        };
        let url = "protocol='https' name='folder/web.vmdk?dcPath=x&amp;sig=S3CRET'";
        assert_eq!(source(url), some("https:folder/web.vmdk"));
        let image = "protocol='rbd' name='pool/image:id=admin:key=S3CRET'";
        assert_eq!(source(image), some("rbd:pool/image"));
        assert_eq!(source("file='json:{\"password\":\"S3CRET\"}'"), None);
    }

    #[test]
    fn nics_and_what_they_are_plugged_into() {
        let nics = domain(
            "<devices><interface type='bridge'><mac address='52:54:00:00:00:01'/>\
             <source bridge='br0'/><target dev='tap0'/><model type='virtio'/><mtu size='1450'/>\
             <virtualport><parameters interfaceid='port-1'/></virtualport></interface>\
             <interface type='hostdev'><mac address='52:54:00:00:00:02'/><source>\
             <address type='pci' domain='0x0000' bus='0x3b' slot='0x0a' function='0x1'/></source>\
             </interface><interface type='vdpa'><mac address='52:54:00:00:00:03'/>\
             <source dev='/dev/vhost-vdpa-0'/><target dev=''/></interface>\
             <interface type='user'><mac address=''/></interface></devices>",
        )
        .nics;
        assert_eq!(
            nics[0],
            NicDetails {
                name: "tap0".to_owned(),
                mac: some("52:54:00:00:00:01"),
                kind: some("bridge"),
                model: some("virtio"),
                source: some("br0"),
                port_id: some("port-1"),
                mtu: Some(1450),
            }
        );
        let others: Vec<_> =
            nics[1..].iter().map(|nic| (nic.name.as_str(), nic.source.as_deref())).collect();
        assert_eq!(
            others,
            [
                ("52:54:00:00:00:02", Some("0000:3b:0a.1")),
                ("52:54:00:00:00:03", Some("/dev/vhost-vdpa-0")),
            ]
        );
    }

    #[test]
    fn who_manages_it() {
        let manager = |xml: &str| domain(xml).manager;
        let nova = "<metadata><n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'>\
                    <n:name>web</n:name><n:owner><n:user uuid='u'>alice</n:user>\
                    <n:project uuid='p'>shop</n:project></n:owner></n:instance></metadata>";
        let (instance, project, user) = (some("web"), some("shop"), some("alice"));
        assert_eq!(manager(nova), Some(Manager { name: "nova", instance, project, user }));
        let kubevirt = "<name>shop_web-1</name><metadata><kubevirt xmlns='http://kubevirt.io'/>\
                        </metadata>";
        let found = manager(kubevirt).unwrap();
        assert_eq!(
            (found.name, found.instance, found.project),
            ("kubevirt", some("web-1"), some("shop"))
        );
        let ovirt = "<name>db</name><metadata><o:vm xmlns:o='http://ovirt.org/vm/1.0'/></metadata>";
        let found = manager(ovirt).unwrap();
        assert_eq!((found.name, found.instance), ("ovirt", some("db")));
        let found = manager("<name>i-2-34-VM</name>").unwrap();
        assert_eq!((found.name, found.project), ("cloudstack", some("2")));
        assert_eq!(manager("<name>r-4-VM</name>").unwrap().project, None);
        for name in ["i-2-x-VM", "i-2-VM", "web", "x-4-VM", "r--VM", "i-2-34-VM-1"] {
            assert_eq!(manager(&format!("<name>{name}</name>")), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(inside in "[<>/&;'\"=! a-z#0-9:-]*") {
            let _ = details(&format!("<domain>{inside}</domain>"));
            let _ = details(&format!("<domain><devices>{inside}</devices></domain>"));
        }
    }
}
