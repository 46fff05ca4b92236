//! The driver of vSphere: a vCenter Server or a single ESXi host, by its SOAP API (docs/vsphere.md).
//!
//! A sweep over properties tells which VMs there are; samples are asked for of a hundred VMs at a time.
//! What the samples add up to is kept here.

mod calls;
mod devices;
mod examine;
mod faults;
#[cfg(test)]
mod fixtures;
mod groups;
mod inventory;
mod nova;
mod objects;
mod perf;
mod requests;
mod session;
mod soap;
mod time;
mod told;
mod totals;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::error::{Error, Failure, Reason, Result};
use crate::hypervisor::{self, Content, Examined, Parts, Stamp};
use crate::locks::lock;
use crate::records::{Instance, InstanceId};
use crate::sweeps::{Batch, HostWide};
use crate::target::{PasswordSource, Sessions, Target};
use groups::{Group, Groups, Kind};
use inventory::{Inventory, Vm};
use objects::{Missing, PowerState};
use session::Vcenter;
use told::Subject;
use totals::{Answer, Known, LATE, MOST_SAMPLES, OVERLAP, State as Running, Taken, Totals};

/// How many calls are under way at a time, beside those to what does not answer: more of them only make
/// others wait for the server.
const IN_FLIGHT: usize = 4;
const STEP: i64 = 20;
/// A VM of which an answer has had no new sample for so long is told no old ones.
const SILENT: Duration = Duration::from_secs(180);
/// A vCenter, or a single ESXi host.
pub(crate) struct VSphere {
    vcenter: Vcenter,
    /// Whether VMs that are shut off have statistics and sizes.
    report_stopped: bool,
    known: Mutex<State>,
}

#[derive(Default)]
struct State {
    inventory: Inventory,
    groups: Groups,
    totals: Totals,
    feeds: HashMap<Arc<str>, Feed>,
    /// How many VMs were left out when the log was told of that.
    left_out: usize,
    /// What the last inventory was not told.
    missing: Missing,
    /// Where it would be empty, though there was something before.
    all_gone: Option<Gone>,
    /// What the log is to say of configurations that cannot be read.
    lines: Vec<String>,
}

/// That there is nothing any more: since when that is said, and how often, and when it was last counted.
#[derive(Clone, Copy)]
struct Gone {
    since: Instant,
    last: Instant,
    times: u32,
}

impl Gone {
    fn since(now: Instant) -> Self {
        Self { since: now, last: now, times: 1 }
    }
}

/// The newest sample of a host's VMs.
struct Feed {
    newest: i64,
    came: Instant,
    /// How old it was then, by our clock, which decides nothing.
    lag: f64,
}

/// The samples that are wanted of a VM.
#[derive(Debug, Clone)]
struct Wanted {
    vm: Uuid,
    moref: Box<str>,
    host: Arc<str>,
    samples: i64,
    /// Whatever is told then is all that there is.
    is_again: bool,
}

impl VSphere {
    /// A driver; connects to nothing yet.
    pub(crate) fn new(target: Target, password: PasswordSource, report_stopped: bool) -> Self {
        Self { vcenter: Vcenter::new(target, password), report_stopped, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.known)
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

impl State {
    /// Has groups and totals know what the inventory says.
    fn follow(&mut self) {
        let Self { inventory, groups, totals, feeds, .. } = self;
        let is_first = inventory.read == 1;
        for (uuid, vm) in &mut inventory.vms {
            if std::mem::take(&mut vm.has_other_moref) {
                totals.register_anew(uuid, &vm.moref);
            }
            let known = Known {
                moref: &vm.moref,
                state: match vm.power {
                    Some(PowerState::Suspended) => Running::Suspended,
                    Some(PowerState::Off) => Running::Off,
                    _ => Running::Running,
                },
                boot: vm.boot,
            };
            totals.enter(*uuid, &known, is_first);
        }
        totals.keep(|uuid| inventory.knows(uuid));
        feeds.retain(|host, _| inventory.hosts.contains_key(host));
        groups.keep_hosts(|host| inventory.hosts.contains_key(host));
        groups.take_more(Instant::now());
        groups.arrange(inventory.members());
    }

    /// A call about a group was held up by one of its hosts.
    fn part(&mut self, group: &Group) {
        if self.groups.part(group) {
            self.groups.arrange(self.inventory.members());
        }
    }

    /// The VM, which runs unless `stopped` ones will do.
    fn find(&self, instance: &InstanceId, stopped: bool) -> Result<&Vm> {
        let vm = self.inventory.vms.get(&instance.uuid).ok_or_else(|| Error::InstanceNotFound {
            instance: instance.clone(),
            gone: true,
            failure: Failure::of("vSphere has no such VM, or this user may not see it"),
        })?;
        if !stopped && !vm.runs() {
            return Err(Error::InstanceShutOff { instance: instance.clone() });
        }
        Ok(vm)
    }

    /// What is new of what was wrong with the inventory.
    fn notes(&mut self) -> Vec<String> {
        let left_out = self.inventory.left_out;
        let before = std::mem::replace(&mut self.left_out, left_out);
        if left_out <= before {
            return Vec::new();
        }
        vec![format!(
            "{left_out} VM(s) cannot be told: they have no UUID (config.instanceUuid), or that of another VM"
        )]
    }

    /// The samples that are wanted of a group's VMs: those since the last one, and a few before that. VMs about
    /// which the server refused to answer are by themselves.
    fn wanted(&self, group: &Group) -> (Vec<Wanted>, Vec<Wanted>) {
        let wanted = |uuid: &Uuid| {
            let vm = self.inventory.vms.get(uuid)?;
            let host = vm.host.as_ref()?;
            // By its host's clock, as far as it is known: that of its newest sample, which goes on with ours.
            let now = self.feeds.get(host).map(|feed| {
                let since = feed.came.elapsed().as_secs().try_into().unwrap_or(i64::MAX);
                feed.newest.saturating_add(since)
            });
            let since = now.zip(self.totals.newest(uuid)).map(|(now, t)| now.saturating_sub(t));
            let samples = since.map_or(1, |since| since.max(0) / STEP + 1) + i64::from(OVERLAP);
            Some(Wanted {
                vm: *uuid,
                moref: vm.moref.clone(),
                host: Arc::clone(host),
                samples: samples.clamp(1, MOST_SAMPLES),
                is_again: false,
            })
        };
        let mut wanted: Vec<_> = group.vms.iter().filter_map(wanted).collect();
        let refused =
            |wanted: &Wanted| Some(self.inventory.vms.get(&wanted.vm)?.refusal.as_ref()?.0);
        wanted.sort_by_cached_key(refused);
        let refused = wanted.split_off(wanted.partition_point(|wanted| refused(wanted).is_none()));
        (wanted, refused)
    }

    fn take(&mut self, wanted: &Wanted, answer: &Answer<'_>, came: Instant) -> Taken {
        if let Some(newest) = answer.times.last().map(|time| time.end) {
            let known = self.feeds.get(&wanted.host).map(|feed| feed.newest);
            // Some VM's samples may be late; a clock that was set back stays so.
            if known.is_none_or(|known| newest > known || newest < known - LATE) {
                let feed = Feed { newest, came, lag: hypervisor::lag(newest) };
                self.feeds.insert(Arc::clone(&wanted.host), feed);
            }
        }
        let told = i64::try_from(answer.times.len()).unwrap_or(i64::MAX);
        let all = wanted.is_again || told < wanted.samples;
        let covers =
            |totals: &Totals| totals.vm(&wanted.vm).map_or(Duration::ZERO, |used| used.covered());
        let (before, covered_before) = (self.totals.newest(&wanted.vm), covers(&self.totals));
        let was_here = self.totals.is_of(&wanted.vm, &wanted.host);
        let taken = self.totals.take(&wanted.vm, &wanted.host, answer, all);
        let newest = self.totals.newest(&wanted.vm);
        if newest != before {
            let covered = covers(&self.totals);
            if let Some(vm) = self.inventory.vms.get_mut(&wanted.vm) {
                (vm.sampled, vm.silent) = (came, None);
                if before.is_none() {
                    // What it used before anybody looked did not take time that is still to come.
                    vm.began = came.checked_sub(covered).unwrap_or(vm.began);
                    vm.stood_still = None;
                } else if let Some(mut still) = vm.stood_still {
                    // The time for which it stood still is nobody's: by its host's clock, or by ours where that is
                    // another host's, or was set.
                    let began = *still
                        .newest
                        .get_or_insert(before.filter(|_| was_here).unwrap_or(i64::MIN));
                    vm.stood_still = Some(still).filter(|_| covered == covered_before);
                    if vm.stood_still.is_none() {
                        let ours = came - still.since;
                        let theirs = newest.and_then(|newest| newest.checked_sub(began));
                        let theirs = theirs.and_then(|seconds| seconds.try_into().ok());
                        let theirs = theirs.map(Duration::from_secs);
                        let theirs = theirs.filter(|theirs| theirs.abs_diff(ours) < SILENT);
                        vm.began += theirs
                            .unwrap_or(ours)
                            .saturating_sub(covered.saturating_sub(covered_before));
                    }
                }
            }
        }
        taken
    }

    /// What people call a host.
    fn host_label<'a>(&'a self, moref: &'a str) -> &'a str {
        self.inventory.hosts.get(moref).map_or(moref, |host| &host.name)
    }
}

impl HostWide for VSphere {
    fn patience(&self, _: Batch) -> Duration {
        Duration::ZERO
    }

    fn read(&self, batch: Batch, deadline: Instant) -> Result<Vec<String>> {
        let read = match batch {
            Batch::Inventory => self.read_inventory(deadline),
            Batch::Host(group) => self.read_group(group, deadline),
            Batch::About(group) => self.read_about(group, true, deadline).map(|()| Vec::new()),
            // No VM has to be read by itself.
            Batch::Instance { .. } => Ok(Vec::new()),
        };
        let read = read?; // what is said of the login waits for one that is told
        let mut lines = self.vcenter.server.take_lines();
        lines.extend(read);
        lines.append(&mut self.lock().lines);
        Ok(lines)
    }

    fn instances(&self) -> Vec<Instance> {
        let state = self.lock();
        let instance = |(uuid, vm): (&Uuid, &Vm)| Instance {
            id: *uuid,
            name: vm.name.to_string(),
            state: vm.state(),
        };
        state.inventory.vms.iter().map(instance).collect()
    }

    fn after(&self, instance: Uuid, most: usize) -> Vec<InstanceId> {
        let state = self.lock();
        let after = (std::ops::Bound::Excluded(instance), std::ops::Bound::Unbounded);
        state.inventory.vms.range(after).take(most).map(|(uuid, _)| (*uuid).into()).collect()
    }

    fn batches(&self, part: Parts, instance: &InstanceId) -> Result<Vec<Batch>> {
        let unsupported = |what| Err(Error::Unsupported { hypervisor: "vSphere", what });
        match part {
            Parts::JOB => return unsupported("the job of a VM"),
            Parts::IO_THREADS => return unsupported("the I/O threads of a VM"),
            Parts::DIRTY_RATE => return unsupported("how fast a VM writes to its memory"),
            _ => {}
        }
        let state = self.lock();
        state.find(instance, self.is_told_of_stopped(part))?;
        let is_about = part.has(Parts::DETAILS.and(Parts::SERVER).and(Parts::SIZES));
        let batch = |group: &Group| {
            if is_about { Batch::About(group.id) } else { Batch::Host(group.sampled_by) }
        };
        Ok(state.groups.of(instance.uuid).map(batch).into_iter().collect())
    }

    fn tell(&self, part: Parts, instance: &InstanceId) -> Result<(Content, Stamp)> {
        let state = self.lock();
        let vm = state.find(instance, self.is_told_of_stopped(part))?;
        let subject = Subject { vm, used: state.totals.vm(&instance.uuid) };
        let no_data = |why: &str| {
            let reason = Reason::Refused(Failure::of(why));
            Err(Error::NoData { instance: instance.clone(), reason })
        };
        let needs_samples =
            part.has(Parts::STATS.and(Parts::NICS).and(Parts::DISKS).and(Parts::COUNTERS));
        let why = if let Some((_, why)) = &vm.refusal {
            Some(&**why)
        } else if !subject.is_sampled() {
            Some("vSphere has no sample of this VM yet; it takes one every 20 s")
        } else if vm.silent.is_some_and(|[first, last]| last - first > SILENT) {
            Some("vSphere has told no new sample of this VM for minutes, though it runs")
        } else {
            None
        };
        if let Some(why) = why.filter(|_| needs_samples && vm.runs()) {
            return no_data(why);
        }
        if part != Parts::STATS && vm.about.is_none() {
            return match vm.unusable() {
                Some(why) => {
                    no_data(&format!("the configuration of this VM cannot be read: {why}"))
                }
                None => no_data("vSphere does not tell the configuration of this VM"),
            };
        }
        Ok((subject.tell(part), subject.stamp(part)))
    }

    fn came(&self, instance: &InstanceId) -> Option<Instant> {
        self.lock().inventory.vms.get(&instance.uuid)?.came
    }

    fn own_uuid(&self, instance: Uuid) -> Uuid {
        instance
    }

    fn host_cpus(&self, instance: Uuid) -> Option<u32> {
        let state = self.lock();
        let host = state.inventory.vms.get(&instance)?.host.as_ref()?;
        state.inventory.hosts.get(host)?.threads
    }

    fn host_name(&self, group: Uuid) -> Option<String> {
        let state = self.lock();
        let Group { hosts, kind, .. } = state.groups.get(group)?;
        let first = hosts.first().map(|host| state.host_label(host));
        let is_well =
            |host: &Arc<str>| state.inventory.hosts.get(host).is_some_and(|host| host.is_connected);
        Some(match (first, hosts.len()) {
            // The others on it are read.
            (Some(first), _) if *kind == Kind::Away && hosts.first().is_some_and(is_well) => {
                format!("{first} (VMs that are not connected)")
            }
            (Some(first), 1) => first.to_owned(),
            (Some(first), all) => format!("{first} (or another of the {all} asked together)"),
            (None, _) => "(none)".to_owned(),
        })
    }

    fn everything(&self) -> Vec<Batch> {
        self.lock().groups.iter().map(|group| Batch::Host(group.sampled_by)).collect()
    }

    fn in_place_of(&self, batch: Batch) -> Vec<Batch> {
        let Batch::Host(group) = batch else { return Vec::new() };
        self.lock().groups.in_place_of(group).into_iter().map(Batch::Host).collect()
    }

    fn in_flight(&self) -> usize {
        IN_FLIGHT
    }

    fn hosts(&self) -> Vec<hypervisor::Host> {
        let state = self.lock();
        let mut instances: HashMap<&str, usize> = HashMap::new();
        for vm in state.inventory.vms.values().filter(|vm| vm.runs()) {
            *instances.entry(vm.host.as_deref().unwrap_or_default()).or_default() += 1;
        }
        let host = |(moref, known): (&Arc<str>, &inventory::Host)| {
            let feed = state.feeds.get(moref);
            hypervisor::Host {
                id: known.uuid,
                name: known.name.to_string(),
                live: Some(known.is_connected),
                product: known.product.as_deref().map(str::to_owned),
                cpus: known.threads,
                instances: instances.get(&**moref).copied().unwrap_or_default(),
                newest: feed.map(|feed| feed.newest),
                lag: feed.map(|feed| feed.lag),
                ..hypervisor::Host::default()
            }
        };
        let mut hosts: Vec<_> = state.inventory.hosts.iter().map(host).collect();
        hosts.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        hosts
    }

    fn examine(&self, vms: &[Uuid], samples: u32, longest: Duration) -> Result<Examined> {
        self.look(vms, samples, longest).map_err(|trouble| self.vcenter.error(trouble))
    }

    fn calls(&self) -> Vec<(&'static str, u64)> {
        self.vcenter.server.calls()
    }

    fn sessions(&self) -> Sessions {
        self.vcenter.server.sessions()
    }

    fn close(&self, deadline: Instant) -> Result<()> {
        self.vcenter.close(deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::vec_box)]
    fn boxed(vms: Vec<objects::Vm>) -> Vec<Box<objects::Vm>> {
        vms.into_iter().map(Box::new).collect()
    }

    fn vm(name: &str, host: &str, connection: objects::ConnectionState) -> objects::Vm {
        objects::Vm {
            moref: name.into(),
            name: Some(name.into()),
            instance_uuid: Some(groups::made_of(name)),
            is_template: Some(false),
            change_version: None,
            vcpus: Some(1),
            memory_mib: Some(1),
            power_state: Some(PowerState::On),
            host: Some(host.into()),
            connection_state: Some(connection),
            boot_time: None,
        }
    }

    fn host(name: &str, connection: objects::ConnectionState) -> objects::Host {
        objects::Host {
            moref: name.into(),
            name: Some(name.into()),
            uuid: None,
            threads: None,
            connection_state: Some(connection),
            product: None,
        }
    }

    #[test]
    fn a_copy_of_a_vm_that_is_told_before_it_costs_it_nothing() {
        use objects::ConnectionState::Connected;
        let mut inventory = Inventory::default();
        let original = || vm("a", "well", Connected);
        let copy = || {
            let (moref, power_state) = ("b".into(), Some(PowerState::Off));
            objects::Vm { moref, power_state, ..original() }
        };
        let uuid = groups::made_of("a");
        inventory.enter(boxed(vec![copy()]), Vec::new(), Instant::now());
        inventory.enter(boxed(vec![copy(), original()]), Vec::new(), Instant::now());
        let began = inventory.vms[&uuid].began;
        for vms in [vec![copy(), original()], vec![original(), copy()]] {
            inventory.enter(boxed(vms), Vec::new(), Instant::now());
            let vm = &inventory.vms[&uuid];
            assert_eq!((&*vm.moref, vm.began, inventory.left_out), ("a", began, 1));
        }
        inventory.enter(boxed(vec![copy()]), Vec::new(), Instant::now());
        assert_eq!((&*inventory.vms[&uuid].moref, inventory.left_out), ("b", 0));
    }

    #[test]
    fn a_vm_that_one_list_lacks_goes_on_and_one_that_two_lack_does_not() {
        use objects::ConnectionState::Connected;
        let uuid = groups::made_of("vm");
        for lacking in [1, 2] {
            let mut state = State::default();
            let mut list = |is_there: bool| {
                let vms = is_there.then(|| vm("vm", "host-1", Connected)).into_iter().collect();
                state.inventory.enter(boxed(vms), vec![host("host-1", Connected)], Instant::now());
                state.follow();
                let began = state.inventory.vms.get(&uuid).map(|vm| vm.began);
                (began, state.totals.vm(&uuid).map(|used| used.start()))
            };
            let (began, start) = list(true);
            for _ in 0..lacking {
                assert_eq!(list(false).0, None);
            }
            let (later, another) = list(true);
            assert_eq!(later == began, lacking == 1);
            assert_eq!(another == start, lacking == 1);
        }
    }

    #[test]
    fn what_is_not_told_of_a_host_or_a_vm_is_as_before() {
        use objects::ConnectionState::{Connected, NotResponding};
        let hosts = |state| {
            let told = |number: u128| objects::Host {
                name: Some(format!("esx{number}").into()),
                // Two boards have the same.
                uuid: Some(Uuid::from_u128(number.min(2))),
                threads: Some(16),
                product: Some("ESXi".into()),
                ..host(&format!("host-{number}"), state)
            };
            [1, 2, 3].map(told)
        };
        let told = |inventory: &Inventory| {
            let mut all: Vec<_> = inventory
                .hosts
                .iter()
                .map(|(moref, host)| {
                    (
                        moref.clone(),
                        host.uuid,
                        host.name.clone(),
                        host.threads,
                        host.product.clone(),
                    )
                })
                .collect();
            all.sort_unstable();
            (all, inventory.vms[&groups::made_of("vm-1")].name.clone())
        };
        let vms =
            || vec![objects::Vm { name: Some("web".into()), ..vm("vm-1", "host-1", Connected) }];
        let mut inventory = Inventory::default();
        inventory.enter(boxed(vms()), hosts(Connected).into(), Instant::now());
        let before = told(&inventory);
        assert_eq!(before.0[0].1, Uuid::from_u128(1));
        let without = |host: objects::Host| objects::Host {
            name: None,
            uuid: None,
            threads: None,
            product: None,
            ..host
        };
        let hidden = vec![objects::Vm { name: None, ..vm("vm-1", "host-1", Connected) }];
        inventory.enter(boxed(hidden), hosts(NotResponding).map(without).into(), Instant::now());
        assert_eq!(told(&inventory), before);
        let [first, second, third] = hosts(Connected);
        inventory.enter(boxed(vms()), vec![first, second, without(third)], Instant::now());
        assert_eq!(told(&inventory), before, "the second one's twin is away");
        inventory.enter(boxed(vms()), hosts(Connected).into(), Instant::now());
        assert_eq!(told(&inventory), before);
    }

    #[test]
    fn a_vm_that_is_registered_anew_while_it_runs_goes_on() {
        use objects::ConnectionState::Connected;
        let mut state = State::default();
        let uuid = groups::made_of("vm");
        let list = |state: &mut State, moref: &str, on: &str, boot: Option<i64>| {
            let vm =
                objects::Vm { moref: moref.into(), boot_time: boot, ..vm("vm", on, Connected) };
            state.inventory.enter(boxed(vec![vm]), vec![host(on, Connected)], Instant::now());
            state.follow();
        };
        // Started at 1000, it runs all the time, and its samples end at the given ones.
        let take = |state: &mut State, ends: std::ops::RangeInclusive<i64>, start: i64| {
            let vm = &state.inventory.vms[&uuid];
            let wanted = Wanted {
                vm: uuid,
                moref: vm.moref.clone(),
                host: vm.host.clone().unwrap(),
                samples: 10,
                is_again: false,
            };
            let times: Vec<_> =
                ends.step_by(20).map(|end| perf::Time { end, seconds: 20 }).collect();
            let ups: Vec<_> = times.iter().map(|time| Some(time.end - start)).collect();
            let runs = vec![Some(20_000); times.len()];
            let all = [(perf::Counter::Uptime, &ups), (perf::Counter::CpuRun, &runs)];
            let series =
                all.map(|(counter, values)| totals::Series { counter, instance: "", values });
            state.take(&wanted, &Answer { times: &times, series: &series }, Instant::now());
            let vm = &state.inventory.vms[&uuid];
            let subject = Subject { vm, used: state.totals.vm(&uuid) };
            let Content::Stats(told, _) = subject.tell(Parts::STATS) else { panic!() };
            (subject.stamp(Parts::COUNTERS).at, told.cpu_time.unwrap() / 1_000_000_000)
        };
        list(&mut state, "vm-1", "host-1", Some(1000));
        assert_eq!(take(&mut state, 1020..=1040, 1000).1, 40);
        let (before, _) = take(&mut state, 1020..=1060, 1000);
        list(&mut state, "vm-2", "host-2", Some(1001));
        let (at, run) = take(&mut state, 1020..=1100, 1000);
        assert_eq!((at - before, run), (Duration::from_secs(40), 100));
        // Another one, with the same UUID: it was started since.
        list(&mut state, "vm-3", "host-2", Some(1110));
        assert!(!state.totals.vm(&uuid).unwrap().is_sampled());
        let (later, run) = take(&mut state, 1120..=1140, 1110);
        assert_eq!((later - at, run), (Duration::from_secs(40), 40));
        list(&mut state, "vm-4", "host-2", None);
        assert!(!state.totals.vm(&uuid).unwrap().is_sampled());
    }

    #[test]
    fn time_for_which_a_vm_stood_still_has_passed_when_its_first_samples_since_come() {
        use objects::ConnectionState::Connected;
        // On the same host, or on another one, or registered anew meanwhile; of all, too few samples are told first.
        for (there, moref) in [("host-1", "vm"), ("host-2", "vm"), ("host-1", "other")] {
            let mut state = State::default();
            let (uuid, begun) = (groups::made_of("vm"), Instant::now());
            let list = |state: &mut State, on: &str, power, seconds: u64| {
                let vm = objects::Vm { power_state: Some(power), ..vm("vm", on, Connected) };
                let hosts = vec![host("host-1", Connected), host("host-2", Connected)];
                let now = begun + Duration::from_secs(seconds);
                state.inventory.enter(boxed(vec![vm]), hosts, now);
                state.follow();
            };
            let take = |state: &mut State,
                        ends: std::ops::RangeInclusive<i64>,
                        start,
                        seconds,
                        is_again| {
                let vm = &state.inventory.vms[&uuid];
                let (moref, host) = (vm.moref.clone(), vm.host.clone().unwrap());
                let wanted = Wanted { vm: uuid, moref, host, samples: 3, is_again };
                let time = |end| perf::Time { end, seconds: 20 };
                let times: Vec<_> = ends.step_by(20).map(time).collect();
                let ups: Vec<_> = times.iter().map(|time| Some(time.end - start)).collect();
                let runs = vec![Some(20_000); times.len()];
                let all = [(perf::Counter::Uptime, &ups), (perf::Counter::CpuRun, &runs)];
                let series =
                    all.map(|(counter, values)| totals::Series { counter, instance: "", values });
                let answer = Answer { times: &times, series: &series };
                state.take(&wanted, &answer, begun + Duration::from_secs(seconds));
                let vm = &state.inventory.vms[&uuid];
                let subject = Subject { vm, used: state.totals.vm(&uuid) };
                subject.stamp(Parts::COUNTERS).at
            };
            list(&mut state, "host-1", PowerState::On, 0);
            take(&mut state, 20..=60, -5000, 60, false);
            let before = take(&mut state, 20..=100, -5000, 100, false);
            // Samples that are missing for good covered nothing.
            let before = before + Duration::from_secs(20);
            assert_eq!(take(&mut state, 200..=200, -5000, 200, true), before);
            list(&mut state, "host-1", PowerState::Off, 240);
            let off = objects::Vm {
                moref: moref.into(),
                power_state: Some(PowerState::Off),
                ..vm("vm", "host-1", Connected)
            };
            let hosts = vec![host("host-1", Connected), host("host-2", Connected)];
            state.inventory.enter(boxed(vec![off]), hosts, begun + Duration::from_secs(270));
            state.follow();
            // It was started at 300, and is read at 500.
            list(&mut state, there, PowerState::On, 500);
            take(&mut state, 460..=500, 300, 500, false);
            let at = take(&mut state, 320..=500, 300, 500, true);
            assert_eq!(at - before, Duration::from_secs(300), "{there} {moref}");
        }
    }

    #[test]
    fn a_vm_is_silent_where_an_answer_has_nothing_new_of_it_and_not_where_nobody_has_asked() {
        use objects::ConnectionState::Connected;
        let driver = VSphere::new(
            "vsphere://u@h/".parse().unwrap(),
            Box::new(|| Err("there is none".to_owned())),
            false,
        );
        let uuid = groups::made_of("vm");
        let vms = vec![vm("vm", "host-1", Connected)];
        let now = Instant::now();
        {
            let mut state = driver.lock();
            state.inventory.enter(boxed(vms), vec![host("host-1", Connected)], now);
            state.follow();
            let values = [Some(1)];
            let series =
                totals::Series { counter: perf::Counter::CpuRun, instance: "", values: &values };
            let times = [perf::Time { end: 20, seconds: 20 }];
            let answer = Answer { times: &times, series: &[series] };
            state.totals.take(&uuid, &"host-1".into(), &answer, true);
        }
        let told = |asked: Instant| {
            driver.lock().inventory.vms.get_mut(&uuid).unwrap().was_asked(asked, asked);
            driver.tell(Parts::STATS, &uuid.into()).map(drop)
        };
        assert_eq!(told(now), Ok(()), "its sample came with this");
        // Nobody has asked meanwhile.
        let later = now + 10 * SILENT;
        assert_eq!(told(later), Ok(()));
        assert_eq!(told(later + SILENT), Ok(()));
        let silent = told(later + SILENT + Duration::from_secs(1)).unwrap_err();
        assert!(silent.to_string().contains("no new sample of this VM for minutes"), "{silent}");
    }

    #[test]
    fn a_vm_that_is_not_connected_is_no_host_that_is_away() {
        use objects::ConnectionState::{Connected, NotResponding, Unusable};
        let driver = VSphere::new(
            "vsphere://u@h/".parse().unwrap(),
            Box::new(|| Err("there is none".to_owned())),
            false,
        );
        {
            let mut state = driver.lock();
            let vms = vec![
                vm("a", "well", Connected),
                vm("b", "well", Unusable),
                vm("c", "away", Connected),
            ];
            let hosts = vec![host("well", Connected), host("away", NotResponding)];
            state.inventory.enter(boxed(vms), hosts, Instant::now());
            state.follow();
        }
        let name_of = |vm: &str| {
            let id = driver.lock().groups.of(groups::made_of(vm)).unwrap().id;
            driver.host_name(id).unwrap()
        };
        assert_eq!(name_of("a"), "well");
        assert_eq!(name_of("b"), "well (VMs that are not connected)");
        assert_eq!(name_of("c"), "away");
    }
}
