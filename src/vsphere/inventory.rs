//! Which VMs and hosts there are, and what they are, by the last inventory. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::devices::{Devices, Disk, Nic, Sizes};
use super::groups::{Kind, Member, made_of};
use super::nova;
use super::objects::{self, ConnectionState, Object, PowerState, Properties};
use super::soap;
use super::totals::Device;
use crate::records::ServerDescription;

/// A VM.
pub(super) struct Vm {
    pub(super) moref: Box<str>,
    pub(super) name: Box<str>,
    pub(super) host: Option<Arc<str>>,
    pub(super) power: Option<PowerState>,
    pub(super) is_connected: bool,
    pub(super) vcpus: Option<u32>,
    pub(super) memory_mib: Option<u64>,
    /// Another whenever it is configured otherwise.
    pub(super) version: Box<str>,
    /// When it was powered on.
    pub(super) boot: Option<i64>,
    pub(super) about: Option<Box<About>>,
    /// When the time that its counters cover began, so that it goes with ours as long as nothing is missing.
    pub(super) began: Instant,
    /// When a new sample of it last came, or it was found to run.
    pub(super) sampled: Instant,
    /// It runs, and did not by the inventory before.
    pub(super) has_begun: bool,
}

/// What is asked about a VM only when it was configured otherwise.
pub(super) struct About {
    /// Of the VM then.
    pub(super) version: Box<str>,
    /// Its sizes are of then.
    pub(super) read: Instant,
    pub(super) nics: Box<[Nic]>,
    pub(super) disks: Box<[Disk]>,
    /// Bytes that the files of a disk take, by the key of its device.
    pub(super) sizes: Box<[(i32, u64)]>,
    pub(super) server: Option<Box<ServerDescription>>,
}

/// The same as it was read.
pub(super) struct AboutRead {
    pub(super) moref: Box<str>,
    devices: Devices,
    sizes: Sizes,
    server: Option<Box<ServerDescription>>,
}

/// A host.
pub(super) struct Host {
    /// Its hardware's, if no other has the same, or else one that is made of its reference.
    pub(super) uuid: Uuid,
    pub(super) name: Box<str>,
    pub(super) threads: Option<u32>,
    pub(super) is_connected: bool,
    pub(super) product: Option<Box<str>>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Inventory {
    pub(super) vms: BTreeMap<Uuid, Vm>,
    pub(super) hosts: HashMap<Arc<str>, Host>,
    /// How many there were.
    pub(super) read: u64,
    /// VMs that cannot be told as they have no UUID, or another's.
    pub(super) left_out: usize,
}

impl Vm {
    /// libvirt's `virDomainState`.
    pub(super) fn state(&self) -> u32 {
        match (self.is_connected, self.power) {
            (false, _) | (_, None) => 0,
            (_, Some(PowerState::On)) => 1,
            (_, Some(PowerState::Off)) => 5,
            (_, Some(PowerState::Suspended)) => 7,
        }
    }

    /// Whether samples are to be had of it.
    pub(super) fn runs(&self) -> bool {
        self.power == Some(PowerState::On)
    }

    /// Whether what is asked once has to be asked anew.
    pub(super) fn is_changed(&self) -> bool {
        self.about.as_ref().is_none_or(|about| about.version != self.version)
    }
}

impl AboutRead {
    /// What is asked of each.
    pub(super) const PATHS: [&'static str; 6] = [
        Devices::PATHS[0],
        Devices::PATHS[1],
        Devices::PATHS[2],
        Sizes::PATHS[0],
        Sizes::PATHS[1],
        ANNOTATION,
    ];
}

const ANNOTATION: &str = "config.annotation";

impl Object for AboutRead {
    fn read(kind: &str, moref: Box<str>, properties: &Properties<'_, '_>) -> Option<Self> {
        let devices = Devices::read(kind, moref.clone(), properties)?;
        let sizes = Sizes::read(kind, moref.clone(), properties)?;
        let notes = properties.get(ANNOTATION).and_then(soap::text);
        let server = notes.and_then(|notes| nova::server(notes, devices.guest_id.as_deref()));
        Some(Self { moref, devices, sizes, server: server.map(Box::new) })
    }
}

impl About {
    pub(super) fn new(read: AboutRead, version: Box<str>, now: Instant) -> Self {
        let AboutRead { devices, sizes, server, .. } = read;
        let (nics, disks) = (devices.nics.into(), devices.disks.into());
        let sizes = sizes.disks.iter().map(|disk| (disk.key, disk.size)).collect();
        Self { version, read: now, nics, disks, sizes, server }
    }

    /// Whether a device is plugged in.
    pub(super) fn has(&self, device: &Device) -> bool {
        match device {
            Device::Cpu => true,
            Device::Nic(key) => self.nics.iter().any(|nic| nic.key == *key),
            Device::Disk(name) => self.disks.iter().any(|disk| disk.name.as_ref() == Some(name)),
        }
    }
}

impl Inventory {
    /// Takes another inventory for the last one.
    pub(super) fn enter(&mut self, vms: Vec<objects::Vm>, hosts: Vec<objects::Host>, now: Instant) {
        self.read += 1;
        self.hosts.clear();
        let mut uuids: HashMap<Uuid, usize> = HashMap::new();
        for uuid in hosts.iter().filter_map(|host| host.uuid) {
            *uuids.entry(uuid).or_default() += 1;
        }
        for host in hosts {
            let is_only = |uuid: &Uuid| uuids.get(uuid) == Some(&1);
            let known = Host {
                uuid: host.uuid.filter(is_only).unwrap_or_else(|| made_of(&host.moref)),
                name: host.name.unwrap_or_else(|| host.moref.clone()),
                threads: host.threads,
                is_connected: is_connected(host.connection_state),
                product: host.product,
            };
            self.hosts.insert(host.moref.into(), known);
        }
        let mut before = std::mem::take(&mut self.vms);
        // What a VM is called while its host or its datastore does not tell its configuration.
        let uuids: HashMap<Box<str>, Uuid> = if vms.iter().any(|vm| vm.instance_uuid.is_none()) {
            before.iter().map(|(uuid, vm)| (vm.moref.clone(), *uuid)).collect()
        } else {
            HashMap::new()
        };
        self.left_out = 0;
        for vm in vms.into_iter().filter(|vm| vm.is_template != Some(true)) {
            let known = || uuids.get(&vm.moref).copied();
            let Some(uuid) = vm.instance_uuid.or_else(known) else {
                self.left_out += 1;
                continue;
            };
            // A copy that has not got a UUID of its own yet.
            if self
                .vms
                .get(&uuid)
                .is_some_and(|other| other.runs() || vm.power_state != Some(PowerState::On))
            {
                self.left_out += 1;
                continue;
            }
            let old = before.remove(&uuid).filter(|old| old.moref == vm.moref);
            let host = vm.host.map(|host| match self.hosts.get_key_value(&*host) {
                Some((known, _)) => Arc::clone(known),
                None => host.into(),
            });
            let (began, ran) = old.as_ref().map_or((now, false), |old| (old.began, old.runs()));
            let last = old.as_ref();
            let has_begun = !ran && vm.power_state == Some(PowerState::On);
            let sampled = last.map(|old| old.sampled).filter(|_| !has_begun).unwrap_or(now);
            let version = vm.change_version.or_else(|| last.map(|old| old.version.clone()));
            let known = Vm {
                name: vm.name.unwrap_or_else(|| vm.moref.clone()),
                host,
                power: vm.power_state,
                is_connected: is_connected(vm.connection_state),
                vcpus: vm.vcpus.or_else(|| last?.vcpus),
                memory_mib: vm.memory_mib.or_else(|| last?.memory_mib),
                version: version.unwrap_or_default(),
                boot: vm.boot_time,
                about: old.and_then(|old| old.about),
                began,
                sampled,
                has_begun,
                moref: vm.moref,
            };
            self.vms.insert(uuid, known);
        }
    }

    /// With whom each VM may be asked about.
    pub(super) fn members(&self) -> Vec<Member> {
        let member = |(uuid, vm): (&Uuid, &Vm)| {
            let host = vm.host.as_ref().and_then(|host| self.hosts.get(host));
            let is_away = !vm.is_connected || host.is_some_and(|host| !host.is_connected);
            let kind = match vm.power {
                _ if is_away => Kind::Away,
                Some(PowerState::On) => Kind::Running,
                _ => Kind::Still,
            };
            Member { kind, host: vm.host.clone(), vm: *uuid }
        };
        self.vms.iter().map(member).collect()
    }
}

fn is_connected(state: Option<ConnectionState>) -> bool {
    state.is_none_or(|state| state == ConnectionState::Connected)
}
