//! XAPI's objects, as much of each as is told, and how it is read from the record in an event
//! (<https://xapi-project.github.io/new-docs/xen-api/classes/>).
//!
//! Pure. A field that is missing or wrong is unknown, and only what nothing can be told without
//! makes a record useless.

use std::fmt;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::json::{self, Object};
use crate::printable::{MAX_SHOWN, cut};

/// A longer reference, address or name of a device is none.
const MAX_NAME: usize = 255;
const PREFIX: &str = "OpaqueRef:";

/// A reference to an object, small: nearly all are `OpaqueRef:` and a UUID.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ref {
    Uuid(Uuid),
    Other(Box<str>),
}

impl Ref {
    /// The first in the order of references.
    pub(super) const FIRST: Self = Self::Uuid(Uuid::nil());

    pub(super) fn parse(text: &str) -> Option<Self> {
        // XAPI has to get back what it gave: a UUID as it is written for it here.
        let is_plain = |uuid: &&str| uuid.len() == 36 && !uuid.contains(char::is_uppercase);
        let uuid = text.strip_prefix(PREFIX).filter(is_plain);
        match uuid.and_then(|uuid| Uuid::try_parse(uuid).ok()) {
            Some(uuid) => Some(Self::Uuid(uuid)),
            None if text.is_empty() || text.len() > MAX_NAME => None,
            None => Some(Self::Other(text.into())),
        }
    }
}

impl fmt::Display for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => write!(f, "{PREFIX}{uuid}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// An object that can be read from its record: `None` for one that is never told, an error for one
/// that cannot be.
pub(super) trait Record: Sized {
    fn read(fields: &mut Fields<'_>) -> Result<Option<Self>, &'static str>;
}

/// The fields of a record, and which of those that were wanted are missing or of a wrong type.
pub(super) struct Fields<'a> {
    object: Object<'a>,
    pub(super) wrong: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(object: Object<'a>) -> Self {
        Self { object, wrong: Vec::new() }
    }

    fn get<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a RawValue) -> Option<T>,
    ) -> Option<T> {
        let value = self.object.get(name).copied().and_then(read);
        if value.is_none() {
            self.wrong.push(name);
        }
        value
    }

    fn uuid(&mut self, name: &'static str) -> Option<Uuid> {
        self.get(name, |value| Uuid::try_parse(&json::text(value)?).ok())
    }

    fn flag(&mut self, name: &'static str) -> Option<bool> {
        self.get(name, json::flag)
    }

    /// A number that XAPI has none of where it is negative.
    fn number<T: TryFrom<i64>>(&mut self, name: &'static str) -> Option<T> {
        self.get(name, json::integer).and_then(|number| T::try_from(number).ok())
    }

    fn name(&mut self, name: &'static str) -> Option<Box<str>> {
        self.get(name, short)
    }

    fn label(&mut self, name: &'static str) -> Box<str> {
        let label = self.get(name, json::text).unwrap_or_default();
        let shown = cut(&label, MAX_SHOWN);
        if shown.len() < label.len() {
            self.wrong.push(name);
        }
        shown.into()
    }

    fn reference(&mut self, name: &'static str) -> Option<Ref> {
        let reference = self.get(name, |value| match &*json::text(value)? {
            "" | "OpaqueRef:NULL" => Some(None),
            text => Ref::parse(text).map(Some),
        });
        reference.flatten()
    }

    fn map(&mut self, name: &'static str) -> Object<'a> {
        self.get(name, |value| json::object(value.get())).unwrap_or_default()
    }
}

fn short(value: &RawValue) -> Option<Box<str>> {
    json::text(value).filter(|text| text.len() <= MAX_NAME).map(Into::into)
}

fn entry(map: &Object<'_>, name: &str) -> Option<Box<str>> {
    map.get(name).copied().and_then(short).filter(|text| !text.is_empty())
}

#[derive(Debug)]
pub(super) struct PoolRecord {
    pub(super) master: Option<Ref>,
}

impl Record for PoolRecord {
    fn read(fields: &mut Fields<'_>) -> Result<Option<Self>, &'static str> {
        Ok(Some(Self { master: fields.reference("master") }))
    }
}

#[derive(Debug)]
pub(super) struct HostRecord {
    pub(super) uuid: Uuid,
    pub(super) name: Box<str>,
    /// An IPv4 or bare IPv6 address of its management interface.
    pub(super) address: Option<Box<str>>,
    pub(super) metrics: Option<Ref>,
    /// CPUs as Xen counts them: hardware threads.
    pub(super) cpu_count: Option<u32>,
    /// The release of xapi itself, for example `24.19.2`.
    pub(super) xapi_build: Option<Box<str>>,
    /// For example `XCP-ng`.
    pub(super) product_brand: Option<Box<str>>,
    pub(super) product_version: Option<Box<str>>,
}

impl Record for HostRecord {
    fn read(fields: &mut Fields<'_>) -> Result<Option<Self>, &'static str> {
        let uuid = fields.uuid("uuid").ok_or("its uuid is missing or wrong")?;
        let software = fields.map("software_version");
        let cpu_info = fields.map("cpu_info");
        Ok(Some(Self {
            uuid,
            name: fields.label("name_label"),
            address: fields.name("address").filter(|address| !address.is_empty()),
            metrics: fields.reference("metrics"),
            cpu_count: (cpu_info.get("cpu_count").copied().and_then(json::integer))
                .and_then(|count| u32::try_from(count).ok()),
            xapi_build: entry(&software, "xapi_build"),
            product_brand: entry(&software, "product_brand"),
            product_version: entry(&software, "product_version"),
        }))
    }
}

/// `host_metrics` or `VM_guest_metrics`, of which one field counts.
#[derive(Debug)]
pub(super) struct Live(pub(super) Option<bool>);

impl Record for Live {
    fn read(fields: &mut Fields<'_>) -> Result<Option<Self>, &'static str> {
        Ok(Some(Self(fields.flag("live"))))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PowerState {
    Running,
    Paused,
    Halted,
    Suspended,
    /// XAPI says nothing, or what it has never said so far.
    Unknown,
}

impl PowerState {
    /// libvirt's `virDomainState`. What is suspended stands on disk, as what is shut off does.
    pub(super) fn as_libvirt(self) -> u32 {
        match self {
            Self::Unknown => 0,
            Self::Running => 1,
            Self::Paused => 3,
            Self::Halted | Self::Suspended => 5,
        }
    }
}

/// A virtual machine; boxed, as templates and snapshots are known by their references alone.
#[derive(Debug)]
pub(super) struct VmRecord {
    pub(super) uuid: Uuid,
    pub(super) name: Box<str>,
    pub(super) power_state: PowerState,
    /// Whether it is a host's dom0.
    pub(super) is_control_domain: bool,
    /// Xen's number for it while it runs or is paused; another number means new counters.
    pub(super) domid: Option<u32>,
    pub(super) resident_on: Option<Ref>,
    pub(super) metrics: Option<Ref>,
    pub(super) guest_metrics: Option<Ref>,
    pub(super) vcpus_at_startup: Option<u32>,
    pub(super) vcpus_max: Option<u32>,
    /// In bytes.
    pub(super) memory_static_max: Option<u64>,
    /// What the balloon driver is to reach, in bytes.
    pub(super) memory_target: Option<u64>,
    /// The instance's UUID where Nova has made the VM.
    pub(super) nova_uuid: Option<Box<str>>,
}

impl VmRecord {
    /// The same, where it is one.
    pub(super) fn nova_uuid(&self) -> Option<Uuid> {
        self.nova_uuid.as_deref().and_then(|text| Uuid::try_parse(text).ok())
    }
}

impl Record for Box<VmRecord> {
    fn read(fields: &mut Fields<'_>) -> Result<Option<Self>, &'static str> {
        let hidden = [fields.flag("is_a_template"), fields.flag("is_a_snapshot")];
        if hidden.contains(&Some(true)) {
            return Ok(None);
        }
        let uuid = fields.uuid("uuid").ok_or("its uuid is missing or wrong")?;
        let power_state = fields.get("power_state", |value| match &*json::text(value)? {
            "Running" => Some(PowerState::Running),
            "Paused" => Some(PowerState::Paused),
            "Halted" => Some(PowerState::Halted),
            "Suspended" => Some(PowerState::Suspended),
            _ => None,
        });
        Ok(Some(Self::new(VmRecord {
            uuid,
            name: fields.label("name_label"),
            power_state: power_state.unwrap_or(PowerState::Unknown),
            is_control_domain: fields.flag("is_control_domain").unwrap_or(false),
            domid: fields.number("domid"),
            resident_on: fields.reference("resident_on"),
            metrics: fields.reference("metrics"),
            guest_metrics: fields.reference("guest_metrics"),
            vcpus_at_startup: fields.number("VCPUs_at_startup"),
            vcpus_max: fields.number("VCPUs_max"),
            memory_static_max: fields.number("memory_static_max"),
            memory_target: fields.number("memory_target"),
            nova_uuid: entry(&fields.map("other_config"), "nova_uuid"),
        })))
    }
}

#[derive(Debug)]
pub(super) struct VmMetricsRecord {
    /// vCPUs that are online; 0 while it does not run.
    pub(super) vcpus_number: Option<u32>,
    /// In bytes; 0 while it does not run.
    pub(super) memory_actual: Option<u64>,
    /// The digits of the time at which it was started, which is another after each start.
    pub(super) started: Option<u64>,
}

impl Record for VmMetricsRecord {
    fn read(fields: &mut Fields<'_>) -> Result<Option<Self>, &'static str> {
        let started =
            fields.object.get("start_time").and_then(|time| json::text(time)).map(|time| {
                let digits = time.chars().filter_map(|c| c.to_digit(10)).take(14);
                digits.fold(0, |number, digit| number * 10 + u64::from(digit))
            });
        Ok(Some(Self {
            vcpus_number: fields.number("VCPUs_number"),
            memory_actual: fields.number("memory_actual"),
            // That of one that was never started is 1970's.
            started: started.filter(|started| *started >= 19_710_101_000_000),
        }))
    }
}

/// A NIC of a VM.
#[derive(Debug)]
pub(super) struct VifRecord {
    pub(super) vm: Ref,
    pub(super) device: u32,
    pub(super) uuid: Option<Uuid>,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) network: Option<Ref>,
    pub(super) currently_attached: bool,
}

impl Record for VifRecord {
    fn read(fields: &mut Fields<'_>) -> Result<Option<Self>, &'static str> {
        Ok(Some(Self {
            vm: fields.reference("VM").ok_or("it belongs to no VM")?,
            device: fields.number("device").ok_or("its device number is missing or wrong")?,
            uuid: fields.uuid("uuid"),
            mac: fields.get("MAC", |value| mac(&json::text(value)?)),
            network: fields.reference("network"),
            currently_attached: fields.flag("currently_attached").unwrap_or(false),
        }))
    }
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let is_hex = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
        let part = parts.next().filter(|part| part.len() == 2).filter(is_hex)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskKind {
    Disk,
    Cd,
    Floppy,
    Unknown,
}

/// A disk or CD drive of a VM.
#[derive(Debug)]
pub(super) struct VbdRecord {
    pub(super) vm: Ref,
    pub(super) vdi: Option<Ref>,
    /// The guest's name for it, for example `xvda`; none until it was attached once.
    pub(super) device: Option<Box<str>>,
    /// Its number as the user chose it.
    pub(super) userdevice: Option<u16>,
    pub(super) kind: DiskKind,
    pub(super) empty: bool,
    pub(super) currently_attached: bool,
}

impl Record for VbdRecord {
    fn read(fields: &mut Fields<'_>) -> Result<Option<Self>, &'static str> {
        let kind = fields.get("type", |value| match &*json::text(value)? {
            "Disk" => Some(DiskKind::Disk),
            "CD" => Some(DiskKind::Cd),
            "Floppy" => Some(DiskKind::Floppy),
            _ => None,
        });
        Ok(Some(Self {
            vm: fields.reference("VM").ok_or("it belongs to no VM")?,
            vdi: fields.reference("VDI"),
            device: fields.name("device").filter(|device| !device.is_empty()),
            userdevice: fields.number("userdevice"),
            kind: kind.unwrap_or(DiskKind::Unknown),
            empty: fields.flag("empty").unwrap_or(false),
            currently_attached: fields.flag("currently_attached").unwrap_or(false),
        }))
    }
}

/// What a disk is stored in; sizes in bytes, as of the storage's last scan.
#[derive(Debug)]
pub(super) struct VdiRecord {
    pub(super) virtual_size: Option<u64>,
    pub(super) physical_utilisation: Option<u64>,
}

impl Record for VdiRecord {
    fn read(fields: &mut Fields<'_>) -> Result<Option<Self>, &'static str> {
        let virtual_size = fields.number("virtual_size");
        let physical_utilisation = fields.number("physical_utilisation");
        Ok(Some(Self { virtual_size, physical_utilisation }))
    }
}

#[derive(Debug)]
pub(super) struct NetworkRecord {
    pub(super) bridge: Option<Box<str>>,
}

impl Record for NetworkRecord {
    fn read(fields: &mut Fields<'_>) -> Result<Option<Self>, &'static str> {
        Ok(Some(Self { bridge: fields.name("bridge").filter(|bridge| !bridge.is_empty()) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_given_back_as_it_came() {
        let uuid = "0f7c3c8e-5b0e-4c56-9f64-2f5d7c1f6a11";
        for (text, is_small) in [
            (format!("OpaqueRef:{uuid}"), true),
            (format!("OpaqueRef:{}", uuid.to_uppercase()), false),
            (format!("OpaqueRef:{}", uuid.replace('-', "")), false),
            (format!("OpaqueRef:{{{}}}", &uuid[2..]), false),
            ("OpaqueRef:5event01-7b62-f571-d38b-754341a973e5".to_owned(), false),
            ("ü".to_owned(), false),
        ] {
            let reference = Ref::parse(&text).unwrap();
            assert_eq!(reference.to_string(), text);
            assert_eq!(matches!(reference, Ref::Uuid(_)), is_small, "{text}");
            assert!(Ref::FIRST < reference);
        }
        assert_eq!(Ref::parse(""), None);
        assert_eq!(Ref::parse(&"x".repeat(256)), None);
    }

    #[test]
    fn a_mac_address_is_six_bytes() {
        assert_eq!(mac("AA:bb:00:01:02:ff"), Some([0xaa, 0xbb, 0, 1, 2, 0xff]));
        for wrong in
            ["", "aa:bb:00:01:02", "aa:bb:00:01:02:ff:00", "a:b:c:d:e:f", "+a:bb:00:01:02:ff"]
        {
            assert_eq!(mac(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_power_state_is_libvirts() {
        use PowerState::{Halted, Paused, Running, Suspended, Unknown};
        let states = [Running, Paused, Halted, Suspended, Unknown].map(PowerState::as_libvirt);
        assert_eq!(states, [1, 3, 5, 5, 0]);
    }

    #[test]
    fn a_record_is_small() {
        let vm = size_of::<VmRecord>() + size_of::<(Ref, Option<Box<VmRecord>>)>();
        let vif = size_of::<(Ref, Option<VifRecord>)>();
        let disk = size_of::<(Ref, Option<VbdRecord>)>() + size_of::<(Ref, Option<VdiRecord>)>();
        assert!(vm <= 224 && vif <= 104 && disk <= 160, "{:?}", (vm, vif, disk));
    }
}
