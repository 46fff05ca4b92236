//! The objects of a pool by reference, and what an event does to them.
//!
//! Pure. Events come in any order: what an object belongs to may come after it, or never.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;
use uuid::Uuid;

use super::json::{self, object};
use super::objects::{
    Fields, HostRecord, Live, NetworkRecord, PoolRecord, Record, Ref, VbdRecord, VdiRecord,
    VifRecord, VmMetricsRecord, VmRecord,
};
use crate::printable::Printable;

/// So many notes are kept until they are taken; further ones are counted.
pub(super) const MAX_NOTES: usize = 32;

/// What is asked for. `VM_metrics` is among them although it changes with a VM's memory: in return,
/// that and the number of online vCPUs are exact at each reading, with one call. Only guests whose
/// balloon moves have such changes; if all 1,024 VMs of a pool do, they are 0.5 MB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Pool,
    Host,
    HostMetrics,
    Vm,
    VmMetrics,
    GuestMetrics,
    Vif,
    Vbd,
    Vdi,
    Network,
}

impl Class {
    pub(super) const ALL: [Self; 10] = [
        Self::Pool,
        Self::Host,
        Self::HostMetrics,
        Self::Vm,
        Self::VmMetrics,
        Self::GuestMetrics,
        Self::Vif,
        Self::Vbd,
        Self::Vdi,
        Self::Network,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Host => "host",
            Self::HostMetrics => "host_metrics",
            Self::Vm => "VM",
            Self::VmMetrics => "VM_metrics",
            Self::GuestMetrics => "VM_guest_metrics",
            Self::Vif => "VIF",
            Self::Vbd => "VBD",
            Self::Vdi => "VDI",
            Self::Network => "network",
        }
    }

    /// Events name a class in lower case.
    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name().eq_ignore_ascii_case(name))
    }
}

/// Objects of one class. `None` is one that is not told: XAPI counts it.
pub(super) type Table<T> = BTreeMap<Ref, Option<T>>;

pub(super) fn known<'a, T>(table: &'a Table<T>, reference: &Ref) -> Option<&'a T> {
    table.get(reference).and_then(Option::as_ref)
}

/// Objects by what they belong to, or by what they are called.
pub(super) type Index<K> = BTreeSet<(K, Ref)>;

pub(super) fn same<'a, K: Ord + Clone>(
    index: &'a Index<K>,
    key: &K,
) -> impl Iterator<Item = &'a Ref> {
    let key = key.clone();
    let from = index.range((key.clone(), Ref::FIRST)..);
    from.take_while(move |(other, _)| *other == key).map(|(_, reference)| reference)
}

/// All objects of a pool, and which belong together.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) pools: Table<PoolRecord>,
    pub(super) hosts: Table<HostRecord>,
    pub(super) host_metrics: Table<Live>,
    pub(super) vms: Table<Box<VmRecord>>,
    pub(super) vm_metrics: Table<VmMetricsRecord>,
    pub(super) guest_metrics: Table<Live>,
    pub(super) vifs: Table<VifRecord>,
    pub(super) vbds: Table<VbdRecord>,
    pub(super) vdis: Table<VdiRecord>,
    pub(super) networks: Table<NetworkRecord>,
    pub(super) uuids: Index<Uuid>,
    pub(super) nova_uuids: Index<Uuid>,
    pub(super) nics: Index<Ref>,
    pub(super) disks: Index<Ref>,
}

impl Tables {
    /// Takes up one event, and adds the VM that it is about, if any, to those to be checked.
    pub(super) fn event(
        &mut self,
        event: &RawValue,
        touched: &mut BTreeSet<Ref>,
        notes: &mut Notes,
    ) {
        let event = object(event.get()).unwrap_or_default();
        let text = |name| event.get(name).copied().and_then(json::text);
        let class = text("class");
        let reference = text("ref").and_then(|text| Ref::parse(&text));
        let (Some(class), Some(reference)) = (class, reference) else {
            return notes.add("an event without a class or a reference is left out".to_owned());
        };
        let Some(class) = Class::of(&class) else { return };
        self.remove(class, &reference);
        if text("operation").as_deref() == Some("del") {
            return;
        }
        // There is no record if the object was gone before XAPI could read it.
        let record = event.get("snapshot").copied().filter(|record| record.get() != "null");
        if let Some(vm) = self.set(class, reference, Snapshot { class, record }, notes) {
            touched.insert(vm);
        }
    }

    fn set(
        &mut self,
        class: Class,
        reference: Ref,
        snapshot: Snapshot<'_>,
        notes: &mut Notes,
    ) -> Option<Ref> {
        let mut vm = None;
        match class {
            Class::Pool => put(&mut self.pools, reference, snapshot, notes),
            Class::Host => put(&mut self.hosts, reference, snapshot, notes),
            Class::HostMetrics => put(&mut self.host_metrics, reference, snapshot, notes),
            Class::VmMetrics => put(&mut self.vm_metrics, reference, snapshot, notes),
            Class::GuestMetrics => put(&mut self.guest_metrics, reference, snapshot, notes),
            Class::Vdi => put(&mut self.vdis, reference, snapshot, notes),
            Class::Network => put(&mut self.networks, reference, snapshot, notes),
            Class::Vm => {
                let record: Option<Box<VmRecord>> = snapshot.read(&reference, notes);
                if let Some(record) = &record {
                    self.uuids.insert((record.uuid, reference.clone()));
                    let nova = record.nova_uuid();
                    self.nova_uuids.extend(nova.map(|uuid| (uuid, reference.clone())));
                    vm = Some(reference.clone());
                }
                self.vms.insert(reference, record);
            }
            Class::Vif => {
                let record: Option<VifRecord> = snapshot.read(&reference, notes);
                if let Some(record) = &record {
                    self.nics.insert((record.vm.clone(), reference.clone()));
                    vm = Some(record.vm.clone());
                }
                self.vifs.insert(reference, record);
            }
            Class::Vbd => {
                let record: Option<VbdRecord> = snapshot.read(&reference, notes);
                if let Some(record) = &record {
                    self.disks.insert((record.vm.clone(), reference.clone()));
                    vm = Some(record.vm.clone());
                }
                self.vbds.insert(reference, record);
            }
        }
        vm
    }

    fn remove(&mut self, class: Class, reference: &Ref) {
        match class {
            Class::Pool => drop(self.pools.remove(reference)),
            Class::Host => drop(self.hosts.remove(reference)),
            Class::HostMetrics => drop(self.host_metrics.remove(reference)),
            Class::VmMetrics => drop(self.vm_metrics.remove(reference)),
            Class::GuestMetrics => drop(self.guest_metrics.remove(reference)),
            Class::Vdi => drop(self.vdis.remove(reference)),
            Class::Network => drop(self.networks.remove(reference)),
            Class::Vm => {
                if let Some(Some(record)) = self.vms.remove(reference) {
                    self.uuids.remove(&(record.uuid, reference.clone()));
                    if let Some(uuid) = record.nova_uuid() {
                        self.nova_uuids.remove(&(uuid, reference.clone()));
                    }
                }
            }
            Class::Vif => {
                if let Some(Some(record)) = self.vifs.remove(reference) {
                    self.nics.remove(&(record.vm, reference.clone()));
                }
            }
            Class::Vbd => {
                if let Some(Some(record)) = self.vbds.remove(reference) {
                    self.disks.remove(&(record.vm, reference.clone()));
                }
            }
        }
    }

    pub(super) fn count(&self, class: Class) -> usize {
        match class {
            Class::Pool => self.pools.len(),
            Class::Host => self.hosts.len(),
            Class::HostMetrics => self.host_metrics.len(),
            Class::Vm => self.vms.len(),
            Class::VmMetrics => self.vm_metrics.len(),
            Class::GuestMetrics => self.guest_metrics.len(),
            Class::Vif => self.vifs.len(),
            Class::Vbd => self.vbds.len(),
            Class::Vdi => self.vdis.len(),
            Class::Network => self.networks.len(),
        }
    }

    pub(super) fn len(&self) -> usize {
        Class::ALL.map(|class| self.count(class)).iter().sum()
    }

    /// Notes what of a VM cannot be told, once all objects of an answer are there.
    pub(super) fn check(&self, vm: &Ref, notes: &mut Notes) {
        let record = match self.vms.get(vm) {
            None => {
                return notes.add(about("VM", vm, "has NICs or disks, but is not there itself"));
            }
            // Templates and snapshots have devices too.
            Some(None) => return,
            Some(Some(record)) => record,
        };
        if same(&self.uuids, &record.uuid).nth(1).is_some() {
            notes.add(format!("VM {} is there twice; one of them is told", record.uuid));
        }
        let vifs = same(&self.nics, vm).filter_map(|vif| known(&self.vifs, vif));
        let vbds = same(&self.disks, vm).filter_map(|vbd| known(&self.vbds, vbd));
        if has_two(vifs.map(|vif| vif.device))
            || has_two(vbds.filter_map(|vbd| vbd.device.as_ref()))
        {
            notes.add(about("VM", vm, "has two NICs or disks of one name; one of them is told"));
        }
    }
}

fn has_two<T: Ord>(mut items: impl Iterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    !items.all(|item| seen.insert(item))
}

fn put<T: Record>(table: &mut Table<T>, reference: Ref, snapshot: Snapshot<'_>, notes: &mut Notes) {
    let record = snapshot.read(&reference, notes);
    table.insert(reference, record);
}

/// An object's record as it stands in an event.
struct Snapshot<'a> {
    class: Class,
    record: Option<&'a RawValue>,
}

impl Snapshot<'_> {
    fn read<T: Record>(self, reference: &Ref, notes: &mut Notes) -> Option<T> {
        let record = self.record?;
        let class = self.class.name();
        let Some(object) = object(record.get()) else {
            notes.add(about(class, reference, "is left out: its record is none"));
            return None;
        };
        let mut fields = Fields::new(object);
        match T::read(&mut fields) {
            Ok(record) => {
                if !fields.wrong.is_empty() {
                    let wrong = format!("has missing or wrong fields: {}", fields.wrong.join(", "));
                    notes.add(about(class, reference, &wrong));
                }
                record
            }
            Err(why) => {
                notes.add(about(class, reference, &format!("is left out: {why}")));
                None
            }
        }
    }
}

fn about(class: &str, reference: &Ref, what: &str) -> String {
    format!("{class} {} {what}", Printable(&reference.to_string()))
}

/// Sentences for whoever looks after the pool.
#[derive(Default)]
pub(super) struct Notes {
    kept: Vec<String>,
    more: usize,
}

impl Notes {
    pub(super) fn add(&mut self, note: String) {
        if self.kept.contains(&note) {
        } else if self.kept.len() < MAX_NOTES {
            self.kept.push(note);
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// All so far, and none the next time.
    pub(super) fn take(&mut self) -> Vec<String> {
        let Self { mut kept, more } = std::mem::take(self);
        if more > 0 {
            kept.push(format!("more objects are left out or wrong: {more}"));
        }
        kept
    }
}
