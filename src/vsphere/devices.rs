//! The NICs and disks of a VM, and what its disks take on storage.
//!
//! Pure. Asked only when the configuration of the VM is another than before.

use std::collections::{HashMap, HashSet};

use roxmltree::Node;

use super::objects::{Object, Properties, flag, short};
use super::soap::{child, children, kind, text};

/// What Nova calls a NIC's number once the NIC is gone.
const NOVA_FREE: &str = "free";
/// The keys of NICs as vSphere gives them begin here.
const FIRST_NIC: i32 = 4000;

/// The devices of a VM.
#[derive(Debug, PartialEq)]
pub(super) struct Devices {
    pub(super) moref: Box<str>,
    pub(super) nics: Vec<Nic>,
    pub(super) disks: Vec<Disk>,
    /// For example `ubuntu64Guest`: what its user has said that it runs.
    pub(super) guest_id: Option<Box<str>>,
}

/// A virtual NIC.
#[derive(Debug, PartialEq)]
pub(super) struct Nic {
    /// What its samples are named by.
    pub(super) key: i32,
    pub(super) mac: Option<Box<str>>,
    /// For example `vmxnet3`.
    pub(super) card: Box<str>,
    /// The port's id that whoever manages the network knows it by, as Neutron does.
    pub(super) interface_id: Option<Box<str>>,
    pub(super) network: Option<Network>,
}

/// What a NIC is plugged into.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Network {
    /// The network of a standard switch, by its name.
    Named(Box<str>),
    /// The port group of a distributed switch, by its key.
    PortGroup(Box<str>),
    /// One of NSX, by its id.
    Opaque(Box<str>),
}

impl Network {
    /// Its name, key or id.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Named(name) | Self::PortGroup(name) | Self::Opaque(name) => name,
        }
    }
}

/// A virtual disk.
#[derive(Debug, PartialEq)]
pub(super) struct Disk {
    pub(super) key: i32,
    /// What its samples are named by, as `scsi0:0`; none if it is not known where it is plugged in.
    pub(super) name: Option<Box<str>>,
    /// In bytes.
    pub(super) capacity: Option<u64>,
    /// For example `[datastore1] web/web.vmdk`.
    pub(super) file: Option<Box<str>>,
    pub(super) uuid: Option<Box<str>>,
    /// Whether it is a LUN of its own.
    pub(super) is_raw: bool,
}

impl Devices {
    /// What is asked of each.
    pub(super) const PATHS: [&str; 3] =
        ["config.hardware.device", "config.extraConfig", "config.guestId"];
}

impl Object for Devices {
    fn read(kind: &str, moref: Box<str>, properties: &Properties<'_, '_>) -> Option<Self> {
        if kind != "VirtualMachine" {
            return None;
        }
        // Each VM has some; without its configuration (its files cannot be read, for example), none is told.
        properties.get("config.hardware.device")?;
        let devices = || properties.array("config.hardware.device");
        let mut controllers = HashMap::new();
        for device in devices() {
            if let (Some(key), Some(prefix), Some(bus)) =
                (number(device, "key"), bus_prefix(device), number::<u32>(device, "busNumber"))
            {
                controllers.insert(key, (prefix, bus));
            }
        }
        let mut nics: Vec<Nic> = devices().filter_map(nic).collect();
        name_by_nova(&mut nics, properties);
        Some(Self {
            moref,
            nics,
            disks: devices().filter_map(|device| disk(device, &controllers)).collect(),
            guest_id: properties.name("config.guestId"),
        })
    }
}

/// What the names of the disks of a controller begin with.
fn bus_prefix(device: Node<'_, '_>) -> Option<&'static str> {
    match kind(device)? {
        "VirtualIDEController" => Some("ide"),
        "VirtualAHCIController" | "VirtualSATAController" => Some("sata"),
        "VirtualNVMEController" => Some("nvme"),
        // There are many of these, and each has a number on its own bus.
        _ => child(device, "scsiCtlrUnitNumber").or(child(device, "sharedBus")).map(|_| "scsi"),
    }
}

/// A device that has a MAC address, of whatever type: new cards come.
fn nic(device: Node<'_, '_>) -> Option<Nic> {
    let mac = child(device, "macAddress")?;
    let kind = kind(device).unwrap_or_default();
    let card = kind.strip_prefix("Virtual").unwrap_or(kind).to_ascii_lowercase();
    Some(Nic {
        key: number(device, "key")?,
        mac: text(mac).map(str::trim).and_then(short),
        card: short(card.strip_suffix("ethernetcard").unwrap_or(&card)).unwrap_or_default(),
        interface_id: named(device, "externalId"),
        network: child(device, "backing").and_then(network),
    })
}

fn network(backing: Node<'_, '_>) -> Option<Network> {
    if let Some(port) = child(backing, "port") {
        return named(port, "portgroupKey").map(Network::PortGroup);
    }
    let opaque = named(backing, "opaqueNetworkId").map(Network::Opaque);
    opaque.or_else(|| named(backing, "deviceName").map(Network::Named))
}

/// Nova counts the NICs of an instance, and notes the port of each by its number: the first that is
/// free, as vSphere does for the keys.
fn name_by_nova(nics: &mut [Nic], properties: &Properties<'_, '_>) {
    let mut ports = HashMap::new();
    for option in properties.array("config.extraConfig") {
        let key = child(option, "key").and_then(text).unwrap_or_default();
        let Some(number) = key.strip_prefix("nvp.iface-id.") else { continue };
        let port = named(option, "value").filter(|port| &**port != NOVA_FREE);
        if let (Ok(number), Some(port)) = (number.parse::<i32>(), port) {
            ports.entry(number).or_insert(port);
        }
    }
    for nic in nics.iter_mut().filter(|nic| nic.interface_id.is_none()) {
        let number = nic.key.checked_sub(FIRST_NIC);
        nic.interface_id = number.and_then(|number| ports.remove(&number));
    }
}

fn disk(device: Node<'_, '_>, controllers: &HashMap<i32, (&str, u32)>) -> Option<Disk> {
    if kind(device) != Some("VirtualDisk") {
        return None;
    }
    let controller = number(device, "controllerKey").and_then(|key: i32| controllers.get(&key));
    let unit = number::<u32>(device, "unitNumber");
    let name = controller.zip(unit).map(|((prefix, bus), unit)| format!("{prefix}{bus}:{unit}"));
    let in_kib = || number::<u64>(device, "capacityInKB").and_then(|kib| kib.checked_mul(1024));
    let backing = child(device, "backing");
    let of = |name| backing.and_then(|backing| named(backing, name));
    Some(Disk {
        key: number(device, "key")?,
        name: name.map(Into::into),
        capacity: number(device, "capacityInBytes").or_else(in_kib),
        file: of("fileName").or_else(|| of("descriptorFileName")),
        uuid: of("uuid"),
        is_raw: backing.and_then(kind).is_some_and(|kind| kind.contains("RawDisk")),
    })
}

/// What the disks of a VM take on storage, as of when its host has last looked.
#[derive(Debug, PartialEq)]
pub(super) struct Sizes {
    pub(super) moref: Box<str>,
    /// Each disk of which the size of every file is known.
    pub(super) disks: Vec<DiskSize>,
}

/// In bytes, with all snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DiskSize {
    /// The disk's.
    pub(super) key: i32,
    pub(super) size: u64,
}

impl Sizes {
    /// What is asked of each.
    pub(super) const PATHS: [&str; 2] = ["layoutEx.disk", "layoutEx.file"];
}

impl Object for Sizes {
    fn read(kind: &str, moref: Box<str>, properties: &Properties<'_, '_>) -> Option<Self> {
        if kind != "VirtualMachine" {
            return None;
        }
        let mut files = HashMap::new();
        for file in properties.array("layoutEx.file") {
            let is_known = child(file, "accessible").and_then(flag) != Some(false);
            let size = number::<u64>(file, "size").filter(|_| is_known);
            if let (Some(key), Some(size)) = (number::<i32>(file, "key"), size) {
                files.insert(key, size);
            }
        }
        let size = |disk| {
            let keys = children(disk, "chain").flat_map(|link| children(link, "fileKey"));
            let keys: Option<HashSet<i32>> = keys.map(|key| parsed(key)).collect();
            let keys = keys.filter(|keys| !keys.is_empty())?;
            let add = |sum: u64, key| sum.checked_add(*files.get(&key)?);
            let size = keys.into_iter().try_fold(0, add)?;
            Some(DiskSize { key: number(disk, "key")?, size })
        };
        let disks = properties.array("layoutEx.disk").filter_map(size).collect();
        Some(Self { moref, disks })
    }
}

fn parsed<T: std::str::FromStr>(node: Node<'_, '_>) -> Option<T> {
    text(node)?.trim().parse().ok()
}

fn number<T: std::str::FromStr>(node: Node<'_, '_>, name: &'static str) -> Option<T> {
    child(node, name).and_then(parsed)
}

fn named(node: Node<'_, '_>, name: &'static str) -> Option<Box<str>> {
    child(node, name).and_then(text).map(str::trim).and_then(short)
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
