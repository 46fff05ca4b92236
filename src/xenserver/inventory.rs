//! Which hosts, VMs, NICs and disks a pool has, kept up with `event.from`: all objects at first,
//! then what has changed (<https://xapi-project.github.io/new-docs/xen-api/classes/event/>).
//!
//! Pure: answers in, views of hosts and VMs out. An object that cannot be read is left out with a
//! note, and whatever refers to it does without.

use std::collections::BTreeSet;
use std::fmt;
use std::mem;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::json::{self, Object, array, integer, object};
use super::objects::{DiskKind, HostRecord, PowerState, Ref, VbdRecord, VifRecord, VmRecord};
use super::rpc::{self, RpcError};
use super::tables::{Class, Index, Notes, Tables, known, same};

/// More vCPUs are none: Xen has no room for them.
const MOST_VCPUS: u32 = 8192;
const MAX_TOKEN: usize = 255;
/// With more, all are asked for anew: the longest answer has no more.
const MAX_OBJECTS: usize = if cfg!(test) { 2000 } else { 1_000_000 };

/// The classes that `event.from` is to be asked for.
pub(super) fn classes() -> [&'static str; 10] {
    Class::ALL.map(Class::name)
}

/// Whether an inventory is complete after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entered {
    Complete,
    /// XAPI has another number of objects, or we have too many: what is known stays, and the token
    /// is empty, so that the next call asks for all of them.
    Incomplete,
}

/// A pool's objects.
#[derive(Default)]
pub(super) struct Inventory {
    token: String,
    tables: Tables,
    /// By how many objects of each class XAPI's number exceeds ours since all were asked for: it
    /// counts those that it cannot read itself.
    unreadable: [i64; 10],
    notes: Notes,
}

impl Inventory {
    /// What is to be given to the next `event.from`: empty when all objects are asked for.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Asks for all objects with the next call. To be called when another master answers than
    /// before, as its events may have other numbers; what is known stays until the answer.
    pub(super) fn begin_anew(&mut self) {
        self.token.clear();
    }

    /// Takes up the answer to `event.from` with [`token`](Self::token). After an error nothing has
    /// changed, but for the token where XAPI does not know it any more.
    pub(super) fn enter(&mut self, body: &[u8]) -> Result<Entered, RpcError> {
        let entered =
            rpc::answer(body, |result| self.enter_result(result)).and_then(|entered| entered);
        if matches!(entered, Err(RpcError::EventsLost | RpcError::TokenRefused)) {
            self.begin_anew();
        }
        entered
    }

    fn enter_result(&mut self, result: &RawValue) -> Result<Entered, RpcError> {
        let result = object(result.get()).ok_or(RpcError::Unexpected("it has no events"))?;
        let token = result.get("token").copied().and_then(json::text);
        let token = token.filter(|token| !token.is_empty() && token.len() <= MAX_TOKEN);
        let token = token.ok_or(RpcError::Unexpected("it has no token"))?.into_owned();
        let events = result.get("events").copied().and_then(array);
        let events = events.ok_or(RpcError::Unexpected("it has no events"))?;

        let is_whole = self.token.is_empty();
        let before =
            is_whole.then(|| (mem::take(&mut self.tables), mem::take(&mut self.unreadable)));
        let mut touched = BTreeSet::new();
        for event in events {
            self.tables.event(event, &mut touched, &mut self.notes);
        }
        for vm in &touched {
            self.tables.check(vm, &mut self.notes);
        }
        // Each pool has a host: what is known is not forgotten over an answer without one.
        if let Some((tables, unreadable)) =
            before.filter(|(before, _)| self.tables.hosts.is_empty() && !before.hosts.is_empty())
        {
            (self.tables, self.unreadable) = (tables, unreadable);
            return Err(RpcError::Unexpected("it has no host"));
        }
        self.token = token;
        let counts = result.get("valid_ref_counts").and_then(|counts| object(counts.get()));
        let is_bounded = is_whole || self.tables.len() <= MAX_OBJECTS;
        if self.is_complete(&counts.unwrap_or_default(), is_whole) && is_bounded {
            return Ok(Entered::Complete);
        }
        self.begin_anew();
        Ok(Entered::Incomplete)
    }

    /// Compares our numbers of objects with XAPI's. Where they differ although all were asked for
    /// just now, asking again would help nobody.
    fn is_complete(&mut self, counts: &Object<'_>, is_whole: bool) -> bool {
        let mut is_complete = true;
        for (class, unreadable) in Class::ALL.into_iter().zip(&mut self.unreadable) {
            let name = class.name().to_ascii_lowercase();
            let Some(count) = counts.get(name.as_str()).copied().and_then(integer) else {
                continue;
            };
            let known = self.tables.count(class);
            let more = count.saturating_sub(i64::try_from(known).unwrap_or(i64::MAX));
            if is_whole && more != 0 {
                let name = class.name();
                self.notes.add(format!("XAPI counts {count} objects {name}, and lists {known}"));
            }
            is_complete &= is_whole || more == 0 || more == *unreadable;
            *unreadable = more;
        }
        is_complete
    }

    /// What was wrong with answers so far, a sentence each; each is told once.
    pub(super) fn take_notes(&mut self) -> Vec<String> {
        self.notes.take()
    }

    /// Whether there is any host, if only one that cannot be read.
    pub(super) fn has_host(&self) -> bool {
        !self.tables.hosts.is_empty()
    }

    /// All hosts, in a fixed order.
    pub(super) fn hosts(&self) -> impl Iterator<Item = Host<'_>> {
        let master = self.master_reference();
        self.tables.hosts.iter().filter_map(move |(reference, record)| {
            let record = record.as_ref()?;
            let metrics =
                record.metrics.as_ref().and_then(|at| known(&self.tables.host_metrics, at));
            let is_master = master == Some(reference);
            Some(Host { reference, record, live: metrics.and_then(|live| live.0), is_master })
        })
    }

    fn master_reference(&self) -> Option<&Ref> {
        self.tables.pools.values().flatten().find_map(|pool| pool.master.as_ref())
    }

    /// All VMs by UUID; no templates, no snapshots, and control domains only on request. Of two
    /// with one UUID there is one.
    pub(super) fn vms(&self, control_domains: bool) -> impl Iterator<Item = Vm<'_>> {
        let mut last = None;
        let first = move |(uuid, _): &&(Uuid, Ref)| last.replace(*uuid) != Some(*uuid);
        let uuids = self.tables.uuids.iter().filter(first);
        uuids
            .filter_map(|(uuid, _)| self.vm(*uuid))
            .filter(move |vm| control_domains || !vm.record.is_control_domain)
    }

    /// The VM, or control domain, of this UUID: of two, one that runs.
    pub(super) fn vm(&self, uuid: Uuid) -> Option<Vm<'_>> {
        self.one_of(&self.tables.uuids, uuid)
    }

    /// The same, or else that of the instance that Nova gave this UUID: of several, one that runs.
    /// Copies of a VM have its `nova_uuid` too.
    pub(super) fn meant(&self, uuid: Uuid) -> Option<Vm<'_>> {
        self.vm(uuid).or_else(|| self.one_of(&self.tables.nova_uuids, uuid))
    }

    fn one_of<'a>(&'a self, index: &'a Index<Uuid>, uuid: Uuid) -> Option<Vm<'a>> {
        let named = same(index, &uuid);
        let vms =
            named.filter_map(|reference| Some((reference, known(&self.tables.vms, reference)?)));
        let (reference, record) = vms.min_by_key(|(_, record)| record.domid.is_none())?;
        Some(self.tables.view(reference, record))
    }
}

/// A host of the pool.
#[derive(Debug)]
pub(super) struct Host<'a> {
    pub(super) reference: &'a Ref,
    pub(super) record: &'a HostRecord,
    /// Whether the master hears of it; `None` if that is not known.
    pub(super) live: Option<bool>,
    pub(super) is_master: bool,
}

/// A VM, and what other objects say of it.
pub(super) struct Vm<'a> {
    pub(super) reference: &'a Ref,
    pub(super) record: &'a VmRecord,
    /// The host that it runs on.
    pub(super) host: Option<Uuid>,
    /// vCPUs that are online, or that it will start with.
    pub(super) vcpus: Option<u32>,
    /// vCPUs that it may have.
    pub(super) vcpus_max: Option<u32>,
    /// The memory that it has, in bytes; `None` while it does not run.
    pub(super) memory_actual: Option<u64>,
    /// Another number after each start, if it is told.
    pub(super) started: Option<u64>,
    /// Whether an agent in the guest reports: only then its free memory means anything.
    pub(super) guest_is_live: bool,
    tables: &'a Tables,
}

impl<'a> Vm<'a> {
    pub(super) fn power_state(&self) -> PowerState {
        self.record.power_state
    }

    /// Its NICs by device number, unplugged ones as well; of two with one number there is one.
    pub(super) fn nics(&self) -> Vec<Nic<'a>> {
        let vifs = same(&self.tables.nics, self.reference);
        let nic = |vif| Some(self.tables.nic(vif, known(&self.tables.vifs, vif)?));
        let mut nics: Vec<Nic<'a>> = vifs.filter_map(nic).collect();
        nics.sort_by_key(|nic| (nic.device, !nic.attached));
        nics.dedup_by_key(|nic| nic.device);
        nics
    }

    /// Its disks and drives by device name, empty and detached ones as well; of two with one name
    /// there is one.
    pub(super) fn disks(&self) -> Vec<Disk<'a>> {
        let vbds = same(&self.tables.disks, self.reference);
        let disk = |vbd| Some(self.tables.disk(vbd, known(&self.tables.vbds, vbd)?));
        let mut disks: Vec<Disk<'a>> = vbds.filter_map(disk).collect();
        disks.sort_by_key(|disk| (disk.device, !disk.attached, disk.userdevice));
        disks.dedup_by(|second, first| second.device.is_some() && second.device == first.device);
        disks
    }
}

impl fmt::Debug for Vm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm")
            .field("reference", self.reference)
            .field("record", self.record)
            .field("host", &self.host)
            .field("vcpus", &self.vcpus)
            .field("memory_actual", &self.memory_actual)
            .field("guest_is_live", &self.guest_is_live)
            .field("nics", &self.nics())
            .field("disks", &self.disks())
            .finish()
    }
}

/// A NIC of a VM.
#[derive(Debug)]
pub(super) struct Nic<'a> {
    pub(super) reference: &'a Ref,
    pub(super) uuid: Option<Uuid>,
    /// The number in its RRD's `vif_N_rx`.
    pub(super) device: u32,
    pub(super) mac: Option<String>,
    pub(super) bridge: Option<&'a str>,
    pub(super) attached: bool,
}

impl Nic<'_> {
    /// The host's end of it, in the host's dom0.
    pub(super) fn name(&self, domid: u32) -> String {
        format!("vif{domid}.{}", self.device)
    }
}

/// A disk or drive of a VM.
#[derive(Debug)]
pub(super) struct Disk<'a> {
    pub(super) reference: &'a Ref,
    /// The name in its RRD's `vbd_DEV_read`.
    pub(super) device: Option<&'a str>,
    pub(super) userdevice: Option<u16>,
    pub(super) kind: DiskKind,
    pub(super) empty: bool,
    pub(super) attached: bool,
    /// In bytes.
    pub(super) virtual_size: Option<u64>,
    /// In bytes.
    pub(super) physical_utilisation: Option<u64>,
}

/// What other objects say of one.
impl Tables {
    fn view<'a>(&'a self, reference: &'a Ref, record: &'a VmRecord) -> Vm<'a> {
        let host = record.resident_on.as_ref().and_then(|host| known(&self.hosts, host));
        // What they say of a VM that does not run may be old.
        let running = record.domid.map(|_| record);
        let metrics = running.and_then(|vm| known(&self.vm_metrics, vm.metrics.as_ref()?));
        let guest = running.and_then(|vm| known(&self.guest_metrics, vm.guest_metrics.as_ref()?));
        let vcpus = |count: Option<u32>| count.filter(|count| (1..=MOST_VCPUS).contains(count));
        let online = vcpus(metrics.and_then(|metrics| metrics.vcpus_number));
        let memory = metrics.and_then(|metrics| metrics.memory_actual);
        Vm {
            reference,
            record,
            host: host.map(|host| host.uuid),
            vcpus: online.or(vcpus(record.vcpus_at_startup)),
            vcpus_max: vcpus(record.vcpus_max),
            memory_actual: memory.filter(|&bytes| bytes > 0),
            started: metrics.and_then(|metrics| metrics.started),
            guest_is_live: guest.and_then(|live| live.0) == Some(true),
            tables: self,
        }
    }

    fn nic<'a>(&'a self, reference: &'a Ref, record: &VifRecord) -> Nic<'a> {
        let network = record.network.as_ref().and_then(|at| known(&self.networks, at));
        Nic {
            reference,
            uuid: record.uuid,
            device: record.device,
            mac: record.mac.map(|[a, b, c, d, e, f]| {
                format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
            }),
            bridge: network.and_then(|network| network.bridge.as_deref()),
            attached: record.currently_attached,
        }
    }

    fn disk<'a>(&'a self, reference: &'a Ref, record: &'a VbdRecord) -> Disk<'a> {
        let vdi = record.vdi.as_ref().and_then(|at| known(&self.vdis, at));
        Disk {
            reference,
            device: record.device.as_deref(),
            userdevice: record.userdevice,
            kind: record.kind,
            empty: record.empty,
            attached: record.currently_attached,
            virtual_size: vdi.and_then(|vdi| vdi.virtual_size),
            physical_utilisation: vdi.and_then(|vdi| vdi.physical_utilisation),
        }
    }
}

#[cfg(test)]
#[path = "inventory_tests.rs"]
mod tests;
