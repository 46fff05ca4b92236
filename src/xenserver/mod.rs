//! The driver of XenServer and XCP-ng, by XAPI and the answers of its RRD daemon (docs/xenserver.md).
//!
//! A pool is asked for its inventory, and each host for the rows of all its VMs. What the rows add up to
//! is kept here; `totals` tells where exact counters are wanted as well, and of which VM.

mod check;
mod counted;
#[cfg(test)]
mod fixtures;
mod inventory;
mod json;
mod names;
mod objects;
mod quirks;
mod rpc;
mod rrd;
mod session;
mod tables;
mod told;
mod totals;
mod vm;

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::error::{Error, Failure, Result};
use crate::hypervisor::{self, Content, Parts, Stamp};
use crate::locks::lock;
use crate::printable::Printable;
use crate::records::{Instance, InstanceId};
use crate::sweeps::{Batch, HostWide};
use crate::target::{PasswordSource, Sessions, Target};
use inventory::{Entered, Inventory, Vm};
use objects::{PowerState, Ref};
use quirks::Quirks;
use rpc::{Call, RpcError};
use rrd::{Unreadable, VmRrd};
use session::{Opened, Place, Pool};
use told::Subject;
use totals::{Rows, Taken, Totals};
use vm::{Known, State as Running};

/// A pool of XenServer hosts.
pub(crate) struct XenServer {
    pool: Pool,
    /// Whether VMs that are shut off have statistics and sizes.
    report_stopped: bool,
    known: Mutex<State>,
}

#[derive(Default)]
struct State {
    inventory: Inventory,
    totals: Totals,
    vms: HashMap<Uuid, Counting>,
    hosts: HashSet<Uuid>,
    /// How old the newest rows of a host were when they came, by our clock.
    lags: HashMap<Uuid, f64>,
    /// When a host has last answered about its VMs.
    told: HashMap<Uuid, Instant>,
    /// Of which login the inventory is.
    login: u64,
    /// What the log was told of objects that cannot be read.
    said: HashSet<String>,
}

/// So many different sentences are told apart.
const MOST_SAID: usize = 256;

impl XenServer {
    /// A driver; connects to nothing yet.
    pub(crate) fn new(target: Target, password: PasswordSource, report_stopped: bool) -> Self {
        Self { pool: Pool::new(target, password), report_stopped, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.known)
    }

    /// Reads which hosts and VMs there are: all of them at first, then what has changed.
    fn read_inventory(&self, deadline: Instant) -> Result<Vec<String>> {
        // Once more where the changes do not add up to what XAPI has, or are lost. All there is has no such
        // excuse: what is known would be told as if it were read.
        for is_first in [true, false] {
            let entered = self.pool.call(
                |session| {
                    let mut state = self.lock();
                    if state.login != session.number {
                        // Another master may count its events otherwise.
                        state.login = session.number;
                        state.inventory.begin_anew();
                    }
                    Call::events(session, &inventory::classes(), state.inventory.token())
                },
                |body| {
                    let inventory = &mut self.lock().inventory;
                    let entered = inventory.enter(body);
                    // Nor is the first answer one without a host.
                    if entered.is_ok() && !inventory.has_host() {
                        inventory.begin_anew();
                        return Err(RpcError::Unexpected("it has no host"));
                    }
                    match entered {
                        Err(RpcError::EventsLost | RpcError::TokenRefused) if is_first => {
                            Ok(Entered::Incomplete)
                        }
                        entered => entered,
                    }
                },
                deadline,
            )?;
            if entered == Entered::Complete {
                break;
            }
        }
        let mut state = self.lock();
        state.follow(self.pool.control_domains());
        Ok(state.notes())
    }

    /// Reads the rows of all VMs of a host.
    fn read_host(&self, host: Uuid, deadline: Instant) -> Result<Vec<String>> {
        let (mut lines, mut last) = (Vec::new(), i64::MIN);
        loop {
            let taken = self.read_rows(host, &mut lines, deadline);
            let taken = taken.inspect_err(|_| self.pool.server.say(std::mem::take(&mut lines)))?;
            // Rows of long ago are long, and the newest of those may be an hour old: shorter ones come after it.
            if taken.step <= totals::SHORTEST_STEP || taken.newest <= last {
                return Ok(lines);
            }
            last = taken.newest;
        }
    }

    /// Reads those that are told with the oldest row that is wanted.
    fn read_rows(&self, host: Uuid, lines: &mut Vec<String>, deadline: Instant) -> Result<Taken> {
        let (place, start) = {
            let state = self.lock();
            let place = state.place(host).map_err(|why| self.pool.lost(why))?;
            if state.is_down(host) {
                return Err(self
                    .pool
                    .lost("the pool's master does not hear of it (host_metrics.live)"));
            }
            let told = state.told.get(&host).map_or(0, |told| told.elapsed().as_secs());
            (place, state.totals.start(&host, i64::try_from(told).unwrap_or(i64::MAX)))
        };
        let path = format!("/rrd_updates?start={start}&cf=AVERAGE&host=true");
        let session = self.pool.any_session(deadline)?;
        let answer = self.pool.get(session, "rrd_updates", &place, &path, None, deadline)?;
        let unreadable = |error: Unreadable| self.pool.lost(&error.to_string());
        let taken = {
            let rows = Rows::read(&answer.body).map_err(unreadable)?.since(start);
            let mut state = self.lock();
            let taken = state.totals.take_rows(host, &rows).map_err(unreadable)?;
            let lag = hypervisor::lag(taken.newest);
            state.lags.insert(host, lag);
            if taken.rows > 0 {
                state.told.insert(host, Instant::now());
                // Those that come right after longer ones are still to come.
                if taken.step <= totals::SHORTEST_STEP {
                    state.begin_anew(host, Instant::now());
                }
            }
            state.totals.enter_lag(host, taken.step, lag);
            taken
        };
        let name = || self.lock().host_name(host).unwrap_or_else(|| host.to_string());
        if taken.found_to_lie {
            lines.push(format!(
                "the rows of host {} differ from its counters by more than 1 %: its VMs are read one by \
                 one from now on",
                Printable(&name())
            ));
        }
        if taken.went_back {
            lines.push(format!(
                "the clock of host {} went back: what its VMs used until now is not known",
                Printable(&name())
            ));
        }
        Ok(taken)
    }

    /// Reads the exact counters of a VM.
    fn read_exact(&self, session: Opened, vm: Uuid, host: Uuid, deadline: Instant) -> Result<()> {
        let place = {
            let state = self.lock();
            let runs_on = state.inventory.vm(vm).and_then(|vm| vm.host);
            let runs_there = runs_on == Some(host);
            let place = if runs_there { state.place(host) } else { Err("the VM is not there now") };
            place.map_err(|why| self.pool.lost(why))?
        };
        let path = format!("/vm_rrd?uuid={vm}");
        let until = Some(rrd::ARCHIVES);
        let answer = self.pool.get(session, "vm_rrd", &place, &path, until, deadline)?;
        let read = VmRrd::read(&answer.body).map_err(|error| self.pool.lost(&error.to_string()))?;
        if self.lock().totals.enter_exact(&vm, host, &read) {
            return Ok(());
        }
        Err(self.pool.lost("the host has not read the VM since it was started"))
    }

    /// The VM, which runs or is paused unless `stopped` ones will do.
    fn find<'a>(
        &self,
        inventory: &'a Inventory,
        instance: &InstanceId,
        stopped: bool,
    ) -> Result<Vm<'a>> {
        let found = inventory.meant(instance.uuid);
        let found = found.filter(|vm| self.pool.control_domains() || !vm.record.is_control_domain);
        let vm = found.ok_or_else(|| Error::InstanceNotFound {
            instance: instance.clone(),
            gone: true,
            failure: Failure::of("the pool has no such VM"),
        })?;
        if !stopped && vm.power_state().as_libvirt() == PowerState::Halted.as_libvirt() {
            return Err(Error::InstanceShutOff { instance: instance.clone() });
        }
        Ok(vm)
    }

    /// Whether a part is told of VMs that are shut off.
    fn is_told_of_stopped(&self, part: Parts) -> bool {
        match part {
            Parts::DETAILS | Parts::SERVER => true,
            Parts::STATS | Parts::SIZES => self.report_stopped,
            _ => false,
        }
    }
}

/// What is known of a VM beside its counters.
struct Counting {
    /// When the time that its counters cover began, so that it goes with ours as long as nothing is missing.
    began: Instant,
    /// Where it stands still, or was started and none of its rows has come since: how much those of before cover, and
    /// when the last ones came.
    stood_still: Option<(Duration, Instant)>,
    runs: bool,
    host: Option<Uuid>,
    /// When it was found to be on another host than before.
    came: Option<Instant>,
    /// What is plugged in: another VIF or VBD may take the place of one within a cycle.
    devices: Devices,
}

#[derive(Default, PartialEq)]
struct Devices {
    nics: Box<[(u16, Ref)]>,
    disks: Box<[(Box<str>, Ref)]>,
}

impl Devices {
    fn of(vm: &Vm<'_>) -> Self {
        let nics = vm.nics().into_iter().filter(|nic| nic.attached);
        let nics =
            nics.filter_map(|nic| Some((nic.device.try_into().ok()?, nic.reference.clone())));
        let disks = vm.disks().into_iter().filter(|disk| disk.attached && !disk.empty);
        let disks = disks.filter_map(|disk| Some((disk.device?.into(), disk.reference.clone())));
        Self { nics: nics.collect(), disks: disks.collect() }
    }

    /// Those but for the ones that are in the place of another one, and whether these are all.
    fn in_place(&self, before: &Self) -> (Vec<u16>, Vec<&str>, bool) {
        let nics = self.nics.iter().filter(|(device, at)| is_same(&before.nics, device, at));
        let nics: Vec<u16> = nics.map(|(device, _)| *device).collect();
        let disks = self.disks.iter().filter(|(device, at)| is_same(&before.disks, device, at));
        let disks: Vec<&str> = disks.map(|(device, _)| &**device).collect();
        let are_all = nics.len() == self.nics.len() && disks.len() == self.disks.len();
        (nics, disks, are_all)
    }
}

/// Whether no other one had its place.
fn is_same<D: PartialEq>(before: &[(D, Ref)], device: &D, reference: &Ref) -> bool {
    before.iter().all(|(other, at)| other != device || at == reference)
}

impl State {
    /// Has the totals know what the inventory says, and forgets what is gone.
    fn follow(&mut self, control_domains: bool) {
        let Self { inventory, totals, vms, hosts, lags, told, .. } = self;
        let mut now = HashSet::new();
        for host in inventory.hosts() {
            now.insert(host.record.uuid);
            let build = host.record.xapi_build.as_deref().unwrap_or_default();
            totals.enter_host(host.record.uuid, Quirks::of(build));
        }
        hosts.difference(&now).for_each(|gone| totals.forget_host(gone));
        lags.retain(|host, _| now.contains(host));
        told.retain(|host, _| now.contains(host));
        *hosts = now;
        // In place: each reading is another thread's, and what all of them made anew would fragment the memory of each.
        for vm in inventory.vms(control_domains) {
            let devices = Devices::of(&vm);
            let nothing = Devices::default();
            let (nics, disks, _) = devices.in_place(&nothing);
            let known = Known {
                state: match vm.power_state() {
                    PowerState::Running => Running::Running,
                    PowerState::Paused => Running::Paused,
                    _ => Running::Gone,
                },
                domid: vm.record.domid.map_or(-1, Into::into),
                started: vm.started,
                host: vm.host,
                // Sources are there for all that it may have: those that are offline do not grow.
                vcpus: vm.vcpus.or(vm.vcpus_max).unwrap_or(0).try_into().unwrap_or(0),
                nics: &nics,
                disks: &disks,
            };
            let before = vms.get_mut(&vm.record.uuid);
            if let Some(before) = &before {
                let (nics, disks, are_all) = devices.in_place(&before.devices);
                if !are_all {
                    totals.enter(vm.record.uuid, &Known { nics: &nics, disks: &disks, ..known });
                }
            }
            totals.enter(vm.record.uuid, &known);
            let runs = known.state != Running::Gone;
            if let Some(known) = before {
                if known.host != vm.host {
                    known.came = vm.host.and(known.host).map(|_| Instant::now());
                }
                if known.runs && !runs {
                    let read = known.host.and_then(|host| told.get(&host)).copied();
                    let covered = totals.covered(&vm.record.uuid).unwrap_or_default();
                    // Of a host that has told no rows yet, when those of before should have ended.
                    let read = read.unwrap_or(known.began + covered);
                    known.stood_still.get_or_insert((covered, read));
                }
                (known.runs, known.host) = (runs, vm.host);
                if known.devices != devices {
                    known.devices = devices;
                }
            } else {
                let (began, host, came) = (Instant::now(), vm.host, None);
                let stood_still = (!runs).then_some((Duration::ZERO, began));
                let counting = Counting { began, stood_still, runs, host, came, devices };
                vms.insert(vm.record.uuid, counting);
            }
        }
        let is_there = |vm: Vm<'_>| control_domains || !vm.record.is_control_domain;
        vms.retain(|uuid, _| inventory.vm(*uuid).is_some_and(is_there));
        totals.forget_all_but(|vm| vms.contains_key(vm));
    }

    /// The time for which a VM stood still is nobody's: that of its counters goes on once there are rows since.
    fn begin_anew(&mut self, host: Uuid, now: Instant) {
        let Self { totals, vms, .. } = self;
        for (uuid, vm) in vms.iter_mut().filter(|(_, vm)| vm.host == Some(host)) {
            let Some((before, read)) = vm.stood_still else { continue };
            let covered = totals.covered(uuid).unwrap_or(before);
            if covered > before {
                vm.stood_still = None;
                vm.began += (now - read).saturating_sub(covered.saturating_sub(before));
            }
        }
    }

    /// What is new of what was wrong with the inventory.
    fn notes(&mut self) -> Vec<String> {
        let mut notes = self.inventory.take_notes();
        if self.said.len() > MOST_SAID {
            self.said.clear();
        }
        notes.retain(|note| self.said.insert(note.clone()));
        notes
    }

    fn host(&self, host: Uuid) -> Option<inventory::Host<'_>> {
        self.inventory.hosts().find(|known| known.record.uuid == host)
    }

    /// Where a host is, or why that is not known.
    fn place(&self, host: Uuid) -> std::result::Result<Place, &'static str> {
        let host = self.host(host).ok_or("the host has left the pool")?;
        let address = host.record.address.as_deref().filter(|address| !address.is_empty());
        // The master is known by the URI.
        let address = address.or(host.is_master.then_some(""));
        Ok(Place {
            address: address.ok_or("the pool knows no address of it")?.to_owned(),
            reference: host.reference.to_string(),
            is_master: host.is_master,
        })
    }

    /// What people call a host. Several may be called the same, or nothing, and are told apart by their UUIDs.
    fn host_name(&self, host: Uuid) -> Option<String> {
        let name = &self.host(host)?.record.name;
        let so_called = self.inventory.hosts().filter(|other| other.record.name == *name);
        Some(match so_called.count() {
            _ if name.is_empty() => host.to_string(),
            1 => name.to_string(),
            _ => format!("{name} ({host})"),
        })
    }

    fn is_down(&self, host: Uuid) -> bool {
        self.host(host).is_some_and(|host| host.live == Some(false))
    }

    /// Whether the exact counters of a VM are to be read for a part, once the rows of its host were.
    fn wants_exact(&self, part: Parts, vm: &Vm<'_>, host: Uuid) -> bool {
        if self.totals.do_rows_lie(&host) {
            return true;
        }
        let is_since_start = part.has(Parts::STATS.and(Parts::NICS).and(Parts::DISKS));
        is_since_start && self.totals.lacks_exact(&vm.record.uuid)
    }
}

impl HostWide for XenServer {
    fn patience(&self, batch: Batch) -> Duration {
        match batch {
            Batch::Inventory => self.pool.patience(),
            _ => Duration::ZERO,
        }
    }

    fn read(&self, batch: Batch, deadline: Instant) -> Result<Vec<String>> {
        let read = match batch {
            Batch::Inventory => self.read_inventory(deadline),
            Batch::Host(host) => self.read_host(host, deadline),
            // The inventory has that.
            Batch::About(_) => Ok(Vec::new()),
            Batch::Instance { host, uuid } => {
                let session = self.pool.any_session(deadline)?;
                self.read_exact(session, uuid, host, deadline).map(|()| Vec::new())
            }
        };
        let read = read?; // what is said of the login waits for one that is told
        let mut lines = self.pool.server.take_lines();
        lines.extend(read);
        Ok(lines)
    }

    fn read_for_nobody(&self, batch: Batch, deadline: Instant) -> Option<Result<Vec<String>>> {
        let session = self.pool.open_session(deadline)?;
        let Batch::Instance { host, uuid } = batch else { return Some(self.read(batch, deadline)) };
        Some(self.read_exact(session, uuid, host, deadline).map(|()| Vec::new()))
    }

    fn instances(&self) -> Vec<Instance> {
        let state = self.lock();
        let instance = |vm: Vm<'_>| Instance {
            id: vm.record.uuid,
            name: vm.record.name.to_string(),
            state: vm.power_state().as_libvirt(),
        };
        state.inventory.vms(self.pool.control_domains()).map(instance).collect()
    }

    fn after(&self, instance: Uuid, most: usize) -> Vec<InstanceId> {
        let state = self.lock();
        let vms = state.inventory.vms(self.pool.control_domains()).map(|vm| vm.record.uuid);
        vms.skip_while(|uuid| *uuid <= instance).take(most).map(Into::into).collect()
    }

    fn batches(&self, part: Parts, instance: &InstanceId) -> Result<Vec<Batch>> {
        let unsupported = |what| Err(Error::Unsupported { hypervisor: "XenServer", what });
        match part {
            Parts::JOB => return unsupported("the job of a VM"),
            Parts::IO_THREADS => return unsupported("the I/O threads of a VM"),
            Parts::DIRTY_RATE => return unsupported("how fast a VM writes to its memory"),
            _ => {}
        }
        let state = self.lock();
        let vm = self.find(&state.inventory, instance, self.is_told_of_stopped(part))?;
        let needs_host = !part.has(Parts::DETAILS.and(Parts::SERVER).and(Parts::SIZES));
        let Some(host) = vm.host.filter(|_| needs_host) else { return Ok(Vec::new()) };
        let mut batches = vec![Batch::Host(host)];
        if state.wants_exact(part, &vm, host) {
            batches.push(Batch::Instance { host, uuid: vm.record.uuid });
        }
        Ok(batches)
    }

    /// Of some VMs, the exact counters by which the rows of a host are checked. Where that fails, they are
    /// compared another time.
    fn afterwards(&self, read: Batch) -> Vec<Batch> {
        let Batch::Host(host) = read else { return Vec::new() };
        let due = self.lock().totals.due(&host);
        due.into_iter().map(|uuid| Batch::Instance { host, uuid }).collect()
    }

    fn tell(&self, part: Parts, instance: &InstanceId) -> Result<(Content, Stamp)> {
        let state = self.lock();
        let vm = self.find(&state.inventory, instance, self.is_told_of_stopped(part))?;
        let used = state.totals.vm(&vm.record.uuid);
        let began =
            state.vms.get(&vm.record.uuid).map_or_else(Instant::now, |counting| counting.began);
        let subject = Subject { vm: &vm, used, began };
        Ok((subject.tell(part), subject.stamp(part)))
    }

    fn missed(&self, instance: &InstanceId) -> Option<Instant> {
        let state = self.lock();
        let vm = state.inventory.meant(instance.uuid)?;
        let is_missed = state.totals.is_missed(&vm.record.uuid);
        state.told.get(&vm.host.filter(|_| is_missed)?).copied()
    }

    fn came(&self, instance: &InstanceId) -> Option<Instant> {
        let state = self.lock();
        state.vms.get(&state.inventory.meant(instance.uuid)?.record.uuid)?.came
    }

    fn own_uuid(&self, instance: Uuid) -> Uuid {
        self.lock().inventory.meant(instance).map_or(instance, |vm| vm.record.uuid)
    }

    fn host_cpus(&self, instance: Uuid) -> Option<u32> {
        let state = self.lock();
        let host = state.inventory.meant(instance)?.host?;
        state.host(host)?.record.cpu_count
    }

    fn host_name(&self, host: Uuid) -> Option<String> {
        self.lock().host_name(host)
    }

    fn everything(&self) -> Vec<Batch> {
        let state = self.lock();
        state.inventory.hosts().map(|host| Batch::Host(host.record.uuid)).collect()
    }

    fn hosts(&self) -> Vec<hypervisor::Host> {
        let state = self.lock();
        let host = |known: inventory::Host<'_>| {
            let record = known.record;
            let running = state.inventory.vms(self.pool.control_domains());
            let product = [&record.product_brand, &record.product_version];
            let product: Vec<&str> =
                product.into_iter().filter_map(|part| part.as_deref()).collect();
            let checked = state.totals.checked(&record.uuid);
            let lag = state.lags.get(&record.uuid).copied();
            hypervisor::Host {
                id: record.uuid,
                name: state.host_name(record.uuid).unwrap_or_default(),
                address: record.address.as_deref().map(str::to_owned),
                live: known.live,
                product: (!product.is_empty()).then(|| product.join(" ")),
                build: record.xapi_build.as_deref().map(str::to_owned),
                cpus: record.cpu_count,
                instances: running.filter(|vm| vm.host == Some(record.uuid)).count(),
                quirks: Quirks::of(record.xapi_build.as_deref().unwrap_or_default()).words(),
                newest: checked.newest,
                lag,
                compared: checked.compared,
                exact: checked.lies,
            }
        };
        state.inventory.hosts().map(host).collect()
    }

    fn calls(&self) -> Vec<(&'static str, u64)> {
        self.pool.server.calls()
    }

    fn sessions(&self) -> Sessions {
        self.pool.server.sessions()
    }

    fn close(&self, deadline: Instant) -> Result<()> {
        self.pool.close(deadline)
    }
}
