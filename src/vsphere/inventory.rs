//! Which VMs and hosts there are, and what they are, by the last inventory. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::devices::{Devices, Disk, Nic, Sizes};
use super::groups::{Kind, Member, made_of};
use super::nova;
use super::objects::{self, ConnectionState, Object, PowerState, Properties};
use super::soap;
use super::totals::{Device, is_one_start};
use crate::records::ServerDescription;

/// A configuration that was not told is asked for again after that, or when the list tells it again, or a new version
/// of it.
const UNTOLD: Duration = Duration::from_secs(60);

/// A VM.
#[allow(clippy::struct_excessive_bools)] // each of them may come with any other
pub(super) struct Vm {
    pub(super) moref: Box<str>,
    pub(super) name: Box<str>,
    pub(super) host: Option<Arc<str>>,
    /// When it was found to be on another host than before.
    pub(super) came: Option<Instant>,
    pub(super) power: Option<PowerState>,
    pub(super) is_connected: bool,
    pub(super) vcpus: Option<u32>,
    pub(super) memory_mib: Option<u64>,
    /// Another whenever it is configured otherwise.
    pub(super) version: Arc<str>,
    /// When it was powered on.
    pub(super) boot: Option<i64>,
    pub(super) about: Option<Box<About>>,
    /// If that was not told when it was last asked for.
    pub(super) untold: Option<Untold>,
    /// Whether the last list told of its configuration.
    is_described: bool,
    /// When the time that its counters cover began, so that it goes with ours as long as nothing is missing.
    pub(super) began: Instant,
    /// When a new sample of it last came.
    pub(super) sampled: Instant,
    /// When the first answer without a new one since then came, and the last one.
    pub(super) silent: Option<[Instant; 2]>,
    /// If the server refused the last call about its samples: when, and why.
    pub(super) refusal: Option<(Instant, Box<str>)>,
    /// Whether the last answer about samples left it out.
    pub(super) is_left_out: bool,
    /// It was started after it stood still, and no sample of it has come since.
    pub(super) stood_still: Option<StoodStill>,
    /// It has another reference than in the inventory before.
    pub(super) has_other_moref: bool,
}

/// A VM that stood still.
#[derive(Clone, Copy)]
pub(super) struct StoodStill {
    /// When its last sample before that came,
    pub(super) since: Instant,
    /// and when that ended by the clock of its host: long ago, where it has another host now. `None` until it is told.
    pub(super) newest: Option<i64>,
}

impl StoodStill {
    fn since(since: Instant) -> Self {
        Self { since, newest: None }
    }
}

/// A configuration that was not told.
pub(super) struct Untold {
    pub(super) asked: Instant,
    /// Of the VM then.
    pub(super) version: Arc<str>,
    /// If the answer could not be used: why. Then the VM is asked about by itself.
    pub(super) unusable: Option<Box<str>>,
}

/// What is asked about a VM only when it was configured otherwise.
pub(super) struct About {
    /// Of the VM then.
    pub(super) version: Arc<str>,
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
    devices: Devices,
    sizes: Sizes,
    server: Option<Box<ServerDescription>>,
}

/// A host.
pub(super) struct Host {
    /// Its hardware's, if no other has the same, or else one that is made of its reference.
    pub(super) uuid: Uuid,
    /// Its hardware's.
    told: Option<Uuid>,
    pub(super) name: Box<str>,
    pub(super) threads: Option<u32>,
    pub(super) is_connected: bool,
    pub(super) product: Option<Box<str>>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Inventory {
    pub(super) vms: BTreeMap<Uuid, Vm>,
    /// Those that vSphere did not find since the last inventory, and that it lacks.
    not_found: BTreeMap<Uuid, Vm>,
    pub(super) hosts: HashMap<Arc<str>, Host>,
    /// How many there were.
    pub(super) read: u64,
    /// VMs that cannot be told as they have no UUID, or another's.
    pub(super) left_out: usize,
}

impl Vm {
    fn new(vm: objects::Vm, host: Option<Arc<str>>, now: Instant) -> Self {
        let is_described = vm.change_version.is_some();
        Self {
            name: vm.name.unwrap_or_else(|| vm.moref.clone()),
            host,
            came: None,
            power: vm.power_state,
            is_connected: is_connected(vm.connection_state),
            vcpus: vm.vcpus,
            memory_mib: vm.memory_mib,
            version: vm.change_version.unwrap_or_default().into(),
            boot: vm.boot_time,
            about: None,
            untold: None,
            is_described,
            began: now,
            sampled: now,
            silent: None,
            refusal: None,
            is_left_out: false,
            stood_still: (vm.power_state == Some(PowerState::On)).then(|| StoodStill::since(now)),
            has_other_moref: false,
            moref: vm.moref,
        }
    }

    /// Takes what another inventory says of it. What that does not tell of its configuration is as before.
    fn enter(&mut self, vm: objects::Vm, host: Option<Arc<str>>, now: Instant) {
        if let Some(name) = vm.name.filter(|name| *name != self.name) {
            self.name = name;
        }
        if self.host != host {
            self.came = host.is_some().then_some(now);
            self.host = host;
        }
        let was_described = std::mem::replace(&mut self.is_described, vm.change_version.is_some());
        if self.is_described && !was_described {
            self.untold = self.untold.take().filter(|untold| untold.unusable.is_some());
        }
        if let Some(version) = vm.change_version.filter(|version| **version != *self.version) {
            self.version = version.into();
        }
        self.vcpus = vm.vcpus.or(self.vcpus);
        self.memory_mib = vm.memory_mib.or(self.memory_mib);
        self.is_connected = is_connected(vm.connection_state);
        if self.moref != vm.moref {
            (self.moref, self.has_other_moref) = (vm.moref, true);
            (self.refusal, self.untold, self.is_left_out) = (None, None, false);
        }
        // Of one whose host is not connected, it may not be told.
        self.boot = vm.boot_time.or(self.boot.filter(|_| !self.is_connected));
        if !self.runs() && vm.power_state == Some(PowerState::On) {
            self.stood_still = self.stood_still.or(Some(StoodStill::since(self.sampled)));
            self.silent = None;
        }
        self.power = vm.power_state;
    }

    /// An answer about its samples has come, to a call that was begun then.
    pub(super) fn was_asked(&mut self, begun: Instant, now: Instant) {
        if self.sampled < begun {
            let first = self.silent.map_or(now, |[first, _]| first);
            self.silent = Some([first, now]);
        }
    }

    /// Whether another inventory means this one. One that runs on since the same time was registered anew, as its
    /// host was removed and added again, or vCenter itself was rebuilt.
    fn is_meant(&self, vm: &objects::Vm) -> bool {
        let runs_on = || {
            let boots = self.boot.zip(vm.boot_time).filter(|_| self.runs());
            boots.is_some_and(|(before, now)| is_one_start(before, now))
                && vm.power_state == Some(PowerState::On)
        };
        self.moref == vm.moref || runs_on()
    }

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

    /// Whether that would be in vain, as it was a moment ago.
    pub(super) fn is_untold(&self, now: Instant) -> bool {
        self.untold.as_ref().is_some_and(|Untold { asked, version, .. }| {
            *version == self.version && now.saturating_duration_since(*asked) < UNTOLD
        })
    }

    /// Why the answer about its configuration could not be used.
    pub(super) fn unusable(&self) -> Option<&str> {
        self.untold.as_ref()?.unusable.as_deref()
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
        let sizes = Sizes::read(kind, moref, properties)?;
        let notes = properties.get(ANNOTATION).and_then(soap::text);
        let server = notes.and_then(|notes| nova::server(notes, devices.guest_id.as_deref()));
        Some(Self { devices, sizes, server: server.map(Box::new) })
    }
}

impl About {
    pub(super) fn new(read: AboutRead, version: Arc<str>, now: Instant) -> Self {
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
    /// Takes another inventory for the last one. What is as before stays where it is in memory: the next
    /// one is read by another thread, for which glibc keeps memory of its own.
    #[allow(clippy::vec_box)] // as they were read
    pub(super) fn enter(
        &mut self,
        mut vms: Vec<Box<objects::Vm>>,
        hosts: Vec<objects::Host>,
        now: Instant,
    ) {
        self.read += 1;
        self.enter_hosts(hosts);
        // Those that are there after all go on.
        let not_found: HashSet<Uuid> = self.not_found.keys().copied().collect();
        self.vms.append(&mut self.not_found);
        // What a VM is called while its host or its datastore does not tell its configuration.
        let uuids: HashMap<&str, Uuid> = if vms.iter().any(|vm| vm.instance_uuid.is_none()) {
            self.vms.iter().map(|(uuid, vm)| (&*vm.moref, *uuid)).collect()
        } else {
            HashMap::new()
        };
        vms.retain_mut(|vm| {
            vm.instance_uuid = vm.instance_uuid.or_else(|| uuids.get(&*vm.moref).copied());
            vm.is_template != Some(true)
        });
        let all = vms.len();
        vms.retain(|vm| vm.instance_uuid.is_some());
        // Of a VM and a copy that has not got a UUID of its own yet, the one that runs, or else that was
        // there before.
        let rank = |vm: &objects::Vm| {
            let known = vm.instance_uuid.and_then(|uuid| self.vms.get(&uuid));
            (vm.power_state != Some(PowerState::On), known.is_none_or(|old| old.moref != vm.moref))
        };
        vms.sort_unstable_by(|one, other| {
            let by_uuid = one.instance_uuid.cmp(&other.instance_uuid);
            by_uuid.then_with(|| (rank(one), &one.moref).cmp(&(rank(other), &other.moref)))
        });
        vms.dedup_by_key(|vm| vm.instance_uuid);
        self.left_out = all - vms.len();
        let is_there = |uuid| vms.binary_search_by_key(&Some(uuid), |vm| vm.instance_uuid).is_ok();
        let gone: Vec<Uuid> = self.vms.keys().copied().filter(|uuid| !is_there(*uuid)).collect();
        for (uuid, vm) in gone.iter().filter_map(|uuid| self.vms.remove_entry(uuid)) {
            // A list may lack one, as when its host is added again.
            if !not_found.contains(&uuid) {
                self.not_found.insert(uuid, vm);
            }
        }
        for mut vm in vms {
            let Some(uuid) = vm.instance_uuid else { continue };
            let host = vm.host.take().map(|host| match self.hosts.get_key_value(&*host) {
                Some((known, _)) => Arc::clone(known),
                None => host.into(),
            });
            match self.vms.get_mut(&uuid) {
                Some(known) if known.is_meant(&vm) => known.enter(*vm, host, now),
                // The time that its counters cover goes on.
                Some(known) => {
                    let (began, sampled) = (known.began, known.sampled);
                    let new = Vm::new(*vm, host, now);
                    let still = new.stood_still.map(|_| StoodStill::since(sampled));
                    let stood_still = known.stood_still.or(still);
                    *known = Vm { began, sampled, stood_still, ..new };
                }
                None => _ = self.vms.insert(uuid, Vm::new(*vm, host, now)),
            }
        }
    }

    /// Whether a VM is there, or may be by the next list.
    pub(super) fn knows(&self, uuid: &Uuid) -> bool {
        self.vms.contains_key(uuid) || self.not_found.contains_key(uuid)
    }

    /// Takes out a VM that vSphere knows no more, until a list has it again.
    pub(super) fn forget(&mut self, uuid: &Uuid, moref: &str) {
        if self.vms.get(uuid).is_some_and(|vm| *vm.moref == *moref) {
            self.not_found.extend(self.vms.remove_entry(uuid));
        }
    }

    /// What is not told of a host is as before: vCenter may not have it of one that is not connected.
    fn enter_hosts(&mut self, mut hosts: Vec<objects::Host>) {
        let before = std::mem::take(&mut self.hosts);
        for host in &mut hosts {
            let Some(known) = before.get(&*host.moref) else { continue };
            host.uuid = host.uuid.or(known.told);
            host.name = host.name.take().or_else(|| Some(known.name.clone()));
            host.threads = host.threads.or(known.threads);
            host.product = host.product.take().or_else(|| known.product.clone());
        }
        let mut uuids: HashMap<Uuid, usize> = HashMap::new();
        for uuid in hosts.iter().filter_map(|host| host.uuid) {
            *uuids.entry(uuid).or_default() += 1;
        }
        for host in hosts {
            let is_only = |uuid: &Uuid| uuids.get(uuid) == Some(&1);
            let known = Host {
                uuid: host.uuid.filter(is_only).unwrap_or_else(|| made_of(&host.moref)),
                told: host.uuid,
                name: host.name.unwrap_or_else(|| host.moref.clone()),
                threads: host.threads,
                is_connected: is_connected(host.connection_state),
                product: host.product,
            };
            let moref = match before.get_key_value(&*host.moref) {
                Some((moref, _)) => Arc::clone(moref),
                None => host.moref.into(),
            };
            self.hosts.insert(moref, known);
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
