//! What is asked of a vCenter: which VMs there are, what they are, and what they use.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::faults::FaultKind;
use super::groups::Kind;
use super::inventory::{About, AboutRead, Untold, Vm};
use super::objects::{self, Object, Page, Properties, Swept};
use super::perf;
use super::requests::{Query, Request};
use super::session::{Session, Trouble};
use super::totals::{Answer, Series, Taken};
use super::{Gone, State, VSphere, Wanted};
use crate::error::Result;
use crate::printable::Printable;

/// So many objects are asked for in a page, whose text takes 2 kB for each: as much as its thread keeps.
const PAGE: u32 = 600;
/// Sizes are not asked for more often: the server itself looks at files only now and then.
const SIZES: Duration = Duration::from_secs(300);
/// That there is nothing any more is believed after that, if it was said so often and nothing else between.
const ALL_GONE: Duration = Duration::from_secs(600);
const GONE_TIMES: u32 = 3;
/// So many VMs that are gone, or not to be seen, are taken out of a call one after the other; then it is
/// halved.
const MOST_GONE: usize = 3;
/// If more VMs than that are refused before one is answered for, it is not about VMs. If there are more of
/// which the configuration cannot be read, they are found in several readings.
const MOST_REFUSED: usize = 3;

/// What came of the calls about a group so far.
#[derive(Default)]
struct Asked {
    answered: usize,
    /// The VMs about which alone there is no answer, and why there is none about the last of them.
    refused: usize,
    refusal: Option<Trouble>,
    /// The VMs that an answer leaves out for the first time.
    left_out: Vec<Wanted>,
    /// What the log is to say.
    lines: Vec<String>,
}

impl VSphere {
    /// Reads which hosts and VMs there are.
    pub(super) fn read_inventory(&self, deadline: Instant) -> Result<Vec<String>> {
        let wanted: [(&str, &[&str]); 2] =
            [("VirtualMachine", &objects::Vm::PATHS), ("HostSystem", &objects::Host::PATHS)];
        let first = |session: &Session| {
            Request::view_properties(&session.refs, &session.view, &wanted, PAGE)
        };
        let Page { objects, missing, .. } = self.pages(first, deadline)?;
        // Room for all at once: what grows holds up to three times as much while it does. The VMs stay where they are,
        // as the C library keeps for each thread what it has needed once.
        let (mut vms, mut hosts) = (Vec::with_capacity(objects.len()), Vec::new());
        for object in objects {
            match object {
                Swept::Vm(vm) => vms.push(vm),
                Swept::Host(host) => hosts.push(*host),
            }
        }
        let mut state = self.lock();
        let now = Instant::now();
        let known = &state.inventory;
        // The last VM of a user who may see no host may go.
        let was_much = !known.hosts.is_empty() || known.vms.len() > 1;
        let all_is_gone = vms.is_empty() && hosts.is_empty() && was_much;
        let long = |since: Instant| now.saturating_duration_since(since);
        let mut gone = state.all_gone.filter(|_| all_is_gone).unwrap_or(Gone::since(now));
        // Not of answers that come right after one another.
        if long(gone.last) >= ALL_GONE / 10 {
            (gone.last, gone.times) = (now, gone.times + 1);
        }
        state.all_gone = all_is_gone.then_some(gone);
        let is_sure = long(gone.since) >= ALL_GONE && gone.times >= GONE_TIMES;
        if all_is_gone && !is_sure {
            // Whoever may see nothing from the start is told so; but nothing goes all at once.
            return Err(self.vcenter.lost(
                "it shows no host and no VM any more; check the role of this user, which has to be given for the \
                 whole inventory, and what vCenter's own client shows",
            ));
        }
        state.missing = missing;
        state.inventory.enter(vms, hosts, now);
        state.follow();
        Ok(state.notes())
    }

    /// Reads what the VMs of a group are, beside what they use: of those that were configured otherwise
    /// since, and their sizes where these are too old. An answer that cannot be used, as somebody has
    /// written such notes, costs nothing but the VM that it is about.
    pub(super) fn read_about(&self, group: Uuid, sizes: bool, deadline: Instant) -> Result<()> {
        let now = Instant::now();
        let (together, apart) = self.lock().undescribed(group, sizes, now);
        let (mut left, mut unusable) = (vec![together], 0);
        while let Some(mut vms) = left.pop() {
            match (self.describe(&vms, now, deadline), &vms[..]) {
                (Ok(()), _) => {}
                (Err(Trouble::Unusable(why)), [only]) => {
                    self.lock().note_unusable(only, &why, now);
                    unusable += 1;
                    if unusable > MOST_REFUSED {
                        // The next reading goes on.
                        break;
                    }
                }
                (Err(Trouble::Unusable(_)), _) => {
                    let half = vms.split_off(vms.len() / 2);
                    left.extend([half, vms]);
                }
                (Err(trouble), _) => return Err(self.vcenter.error(trouble)),
            }
        }
        for vm in apart.into_iter().take(MOST_GONE) {
            match self.describe(std::slice::from_ref(&vm), now, deadline) {
                Ok(()) => {}
                Err(Trouble::Unusable(why)) => self.lock().note_unusable(&vm, &why, now),
                Err(trouble) => return Err(self.vcenter.error(trouble)),
            }
        }
        Ok(())
    }

    /// The same of these VMs, with one answer.
    fn describe(
        &self,
        vms: &[Undescribed],
        now: Instant,
        deadline: Instant,
    ) -> std::result::Result<(), Trouble> {
        if vms.is_empty() {
            return Ok(());
        }
        let morefs: Vec<&str> = vms.iter().map(|vm| &*vm.moref).collect();
        let first =
            |session: &Session| Request::vm_properties(&session.refs, &morefs, &AboutRead::PATHS);
        let found = self.pages_of_one_session::<Found>(&first, deadline)?.objects;
        let mut state = self.lock();
        let State { inventory, totals, .. } = &mut *state;
        let is_there: HashSet<&str> = found.iter().map(|found| &*found.moref).collect();
        for Undescribed { vm, moref, .. } in vms {
            if !is_there.contains(&**moref) {
                inventory.forget(vm, moref);
            }
        }
        for Found { moref, about } in found {
            let asked = vms.iter().find(|asked| asked.moref == moref);
            let Some(Undescribed { vm: uuid, version, .. }) = asked else { continue };
            let vm = inventory.vms.get_mut(uuid).filter(|vm| vm.moref == moref);
            let Some(vm) = vm else { continue };
            vm.untold = about.is_none().then(|| Untold {
                asked: now,
                version: version.clone(),
                unusable: None,
            });
            let Some(read) = about else { continue };
            let about = About::new(read, version.clone(), now);
            totals.keep_devices(uuid, |device| about.has(device));
            vm.about = Some(Box::new(about));
        }
        Ok(())
    }

    /// Properties of objects, page by page, as if it were one.
    fn pages<T: Object>(
        &self,
        first: impl Fn(&Session) -> Request,
        deadline: Instant,
    ) -> Result<Page<T>> {
        self.pages_of_one_session(&first, deadline).map_err(|trouble| self.vcenter.error(trouble))
    }

    fn pages_of_one_session<T: Object>(
        &self,
        first: &impl Fn(&Session) -> Request,
        deadline: Instant,
    ) -> std::result::Result<Page<T>, Trouble> {
        let mut is_again = false;
        'anew: loop {
            let read = |_: &Session, body: &[u8]| {
                objects::page(body, "RetrievePropertiesEx")?.in_session()
            };
            let mut all: Page<T> = self.vcenter.call(first, read, deadline)?;
            while let Some(token) = all.token.take() {
                let next = |session: &Session| Request::continue_properties(&session.refs, &token);
                let read = |_: &Session, body: &[u8]| {
                    objects::page(body, "ContinueRetrievePropertiesEx")?.in_session()
                };
                match self.vcenter.call(next, read, deadline) {
                    // Where the session ends between two pages, they are asked for anew, once.
                    Err(Trouble::Fault(..)) if !std::mem::replace(&mut is_again, true) => {
                        continue 'anew;
                    }
                    page => all.extend(page?),
                }
            }
            return Ok(all);
        }
    }

    /// Reads what all VMs of a group use.
    pub(super) fn read_group(&self, id: Uuid, deadline: Instant) -> Result<Vec<String>> {
        let Some(group) = self.lock().groups.get(id).cloned() else { return Ok(Vec::new()) };
        if group.kind == Kind::Away {
            return Err(self
                .vcenter
                .lost("vCenter does not hear of it: the host, or the VM on it, is not connected"));
        }
        self.read_about(id, false, deadline)?;
        if group.kind == Kind::Still {
            return Ok(Vec::new());
        }
        let (wanted, refused) = self.lock().wanted(&group);
        let early = |now: Instant| now + deadline.saturating_duration_since(now) / 2;
        // Whoever is held up by one host of several is to learn of it while there is time to ask the others.
        let until = if group.hosts.len() > 1 { early(Instant::now()) } else { deadline };
        let (mut so_far, mut is_held_up) = (Asked::default(), false);
        let mut done = self.query(wanted, until, &mut so_far);
        if done.is_ok() {
            let again = self.query_again(refused, early(Instant::now()), &mut so_far);
            if so_far.answered == 0 {
                done = again;
            } else if again.is_err_and(|trouble| trouble.is_about_a_host()) {
                // Why nothing is told of those is known: the others need not wait for that each time.
                is_held_up = true;
            }
        }
        if so_far.answered == 0 {
            done = done.and(so_far.refusal.take().map_or(Ok(()), Err));
        }
        match done {
            Ok(()) => {
                if is_held_up {
                    self.lock().part(&group);
                } else {
                    self.lock().groups.answered(id);
                    self.look_for(so_far.left_out, early(Instant::now()));
                }
                Ok(so_far.lines)
            }
            Err(trouble) => {
                self.lock().lines.append(&mut so_far.lines);
                if trouble.is_about_a_host() {
                    self.lock().part(&group);
                } else if matches!(&trouble, Trouble::Fault(kind, _) if is_about_a_vm(kind)) {
                    // None of its VMs is told, but nothing was held up.
                    self.lock().groups.answered(id);
                }
                Err(self.vcenter.error(trouble))
            }
        }
    }

    /// Asks for samples, and takes them. Where the server takes no call about so many VMs, or about one of
    /// them, that costs the others nothing.
    fn query(
        &self,
        mut wanted: Vec<Wanted>,
        deadline: Instant,
        so_far: &mut Asked,
    ) -> std::result::Result<(), Trouble> {
        let (mut gone, mut was_looked_for, mut were_tried) = (0, false, false);
        while !wanted.is_empty() {
            let (kind, text) = match self.query_once(&wanted, deadline, so_far) {
                // What has more samples than were asked for.
                Ok(again) => {
                    wanted = again;
                    continue;
                }
                Err(Trouble::Fault(kind, text)) if is_about_a_vm(&kind) => (kind, text),
                Err(trouble) => return Err(trouble),
            };
            let named = wanted.iter().position(|wanted| kind.object() == Some(&wanted.moref));
            if let Some(place) = named.filter(|_| gone < MOST_GONE) {
                gone += 1;
                self.leave_out(&wanted.remove(place), kind, text, so_far);
            } else if matches!(kind, FaultKind::ManagedObjectNotFound(_)) && !was_looked_for {
                // As many were deleted at once: each would cost a call.
                wanted = self.look_for(wanted, deadline);
                was_looked_for = true;
            } else if let [only] = &wanted[..] {
                // Nothing is known of this one; if it is so of each, it is not about them.
                match named {
                    Some(_) => self.leave_out(only, kind, text, so_far),
                    None => self.refuse(only.vm, kind, text, so_far),
                }
                let is_of_each = so_far.answered == 0 && so_far.refused > MOST_REFUSED;
                return if is_of_each { so_far.refusal.take().map_or(Ok(()), Err) } else { Ok(()) };
            } else if matches!(kind, FaultKind::Other(_))
                && so_far.answered == 0
                && wanted.len() > MOST_REFUSED
                && !std::mem::replace(&mut were_tried, true)
            {
                // If it is so of each, three of them tell.
                let some = [wanted.remove(wanted.len() / 2), wanted.remove(0)];
                for one in some.into_iter().chain(wanted.pop()) {
                    self.query(vec![one], deadline, so_far)?;
                }
                if so_far.answered == 0 {
                    return Err(Trouble::Fault(kind, text));
                }
            } else {
                let (all, refused) = (wanted.len(), so_far.refused);
                let half = wanted.split_off(all / 2);
                self.query(wanted, deadline, so_far)?;
                self.query(half, deadline, so_far)?;
                let is_too_much = matches!(
                    kind,
                    FaultKind::RestrictedByAdministrator | FaultKind::TooManyElements
                );
                if is_too_much && so_far.refused == refused {
                    self.lock().groups.take_fewer(all, Instant::now());
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// Asks for samples of VMs that were refused before: of all at once, without those that are named as
    /// refused again, and then of a few by themselves, so that each has its turn; of the others only where one of these is
    /// answered. The list begins with those that have waited longest.
    fn query_again(
        &self,
        mut refused: Vec<Wanted>,
        deadline: Instant,
        so_far: &mut Asked,
    ) -> std::result::Result<(), Trouble> {
        for _ in 0..MOST_GONE {
            if refused.is_empty() {
                break;
            }
            let (kind, text) = match self.query_once(&refused, deadline, so_far) {
                Ok(again) => return self.query(again, deadline, so_far),
                Err(Trouble::Fault(kind, text)) if is_about_a_vm(&kind) => (kind, text),
                Err(trouble) => return Err(trouble),
            };
            let named = refused.iter().position(|wanted| kind.object() == Some(&wanted.moref));
            if let (None, [only]) = (named, &refused[..]) {
                self.refuse(only.vm, kind, text, so_far);
                return Ok(());
            }
            let Some(place) = named else { break };
            self.leave_out(&refused.remove(place), kind, text, so_far);
        }
        let mut rest = refused.split_off(refused.len().min(MOST_GONE));
        let answered = so_far.answered;
        for wanted in refused {
            self.query(vec![wanted], deadline, so_far)?;
        }
        // Where one is answered, most may be, as after a fault of all: more and more at once, as long as they are.
        let (mut is_answered, mut more) = (so_far.answered > answered, 2 * MOST_GONE);
        while is_answered && !rest.is_empty() {
            let later = rest.split_off(rest.len().min(more));
            is_answered = match self.query_once(&rest, deadline, so_far) {
                Ok(again) => {
                    self.query(again, deadline, so_far)?;
                    true
                }
                Err(Trouble::Fault(kind, _)) if is_about_a_vm(&kind) => false,
                Err(trouble) => return Err(trouble),
            };
            (rest, more) = (later, 2 * more);
        }
        Ok(())
    }

    /// Looks whether VMs that an answer leaves out are there at all. Where nobody looks, or that fails, the next list
    /// tells.
    /// Returns those that may be.
    fn look_for(&self, mut vms: Vec<Wanted>, deadline: Instant) -> Vec<Wanted> {
        if vms.is_empty() {
            return vms;
        }
        let morefs: Vec<&str> = vms.iter().map(|wanted| &*wanted.moref).collect();
        let first = |session: &Session| Request::vm_properties(&session.refs, &morefs, &["name"]);
        let Ok(found) = self.pages_of_one_session::<Found>(&first, deadline) else { return vms };
        let is_there: HashSet<&str> = found.objects.iter().map(|found| &*found.moref).collect();
        let mut state = self.lock();
        vms.retain(|wanted| {
            let is_there = is_there.contains(&*wanted.moref);
            if !is_there {
                state.inventory.forget(&wanted.vm, &wanted.moref);
            }
            is_there
        });
        vms
    }

    /// Notes why nothing is told of a VM that a fault has named.
    fn leave_out(&self, wanted: &Wanted, kind: FaultKind, text: String, so_far: &mut Asked) {
        match kind {
            FaultKind::NoPermission { .. } => self.refuse(wanted.vm, kind, text, so_far),
            FaultKind::ManagedObjectNotFound(_) => {
                self.lock().inventory.forget(&wanted.vm, &wanted.moref);
            }
            _ => {}
        }
    }

    /// Notes why nothing is told of a VM.
    fn refuse(&self, vm: Uuid, kind: FaultKind, text: String, so_far: &mut Asked) {
        if let Some(vm) = self.lock().inventory.vms.get_mut(&vm) {
            vm.refusal = Some((Instant::now(), text.as_str().into()));
        }
        so_far.refused += 1;
        so_far.refusal = Some(Trouble::Fault(kind, text));
    }

    /// The same with one call. Returns what has to be asked for again, as there are more samples.
    fn query_once(
        &self,
        wanted: &[Wanted],
        deadline: Instant,
        so_far: &mut Asked,
    ) -> std::result::Result<Vec<Wanted>, Trouble> {
        let queries: Vec<Query<'_>> = wanted
            .iter()
            .map(|wanted| Query {
                vm: &wanted.moref,
                samples: wanted.samples.try_into().unwrap_or(1),
            })
            .collect();
        let request = |session: &Session| {
            Request::query_perf(&session.refs, &queries, &session.counters.asked())
        };
        let by_moref: HashMap<&str, &Wanted> =
            wanted.iter().map(|wanted| (&*wanted.moref, wanted)).collect();
        let read = |session: &Session, body: &[u8]| {
            let (mut again, mut went_back, mut told) = (Vec::new(), Vec::new(), HashSet::new());
            let came = Instant::now();
            perf::samples(body, &session.counters, |entity| {
                let Some(wanted) = by_moref.get(entity.moref) else { return };
                told.insert(wanted.vm);
                let answer = Answer { times: entity.times(), series: &Series::of(entity) };
                match self.lock().take(wanted, &answer, came) {
                    Taken::TooShort { samples } => {
                        again.push(Wanted { samples, is_again: true, ..(*wanted).clone() });
                    }
                    Taken::WentBack => went_back.push(Arc::clone(&wanted.host)),
                    Taken::Whole => {}
                }
            })?;
            Ok((again, went_back, told))
        };
        let begun = Instant::now();
        let (again, mut went_back, told) = self.vcenter.call(request, read, deadline)?;
        so_far.answered += 1;
        went_back.sort_unstable();
        went_back.dedup();
        let mut state = self.lock();
        for wanted in wanted {
            if let Some(vm) = state.inventory.vms.get_mut(&wanted.vm) {
                vm.refusal = None;
                vm.was_asked(begun, Instant::now());
                let is_left_out = !told.contains(&wanted.vm);
                let was_left_out = std::mem::replace(&mut vm.is_left_out, is_left_out);
                if is_left_out && !was_left_out {
                    so_far.left_out.push(wanted.clone());
                }
            }
        }
        so_far.lines.extend(went_back.iter().map(|host| {
            format!(
                "the clock of host {} went back: what its VMs used until now is not known",
                Printable(state.host_label(host))
            )
        }));
        Ok(again)
    }
}

impl State {
    /// The VMs of a group whose configuration is to be read; by themselves, first the one that has waited
    /// longest, those of which the last answer could not be used.
    fn undescribed(
        &self,
        group: Uuid,
        sizes: bool,
        now: Instant,
    ) -> (Vec<Undescribed>, Vec<Undescribed>) {
        let is_old =
            |vm: &Vm| vm.about.as_ref().is_some_and(|about| now.duration_since(about.read) > SIZES);
        let vms = self.groups.get(group).into_iter().flat_map(|group| &group.vms);
        let vms = vms.filter_map(|uuid| Some((uuid, self.inventory.vms.get(uuid)?)));
        let wanted =
            vms.filter(|(_, vm)| !vm.is_untold(now) && (vm.is_changed() || sizes && is_old(vm)));
        let (mut apart, together): (Vec<_>, Vec<_>) =
            wanted.partition(|(_, vm)| vm.unusable().is_some());
        apart.sort_by_key(|(_, vm)| vm.untold.as_ref().map(|untold| untold.asked));
        let undescribed = |(uuid, vm): (&Uuid, &Vm)| Undescribed {
            vm: *uuid,
            moref: vm.moref.clone(),
            version: vm.version.clone(),
        };
        let [together, apart] =
            [together, apart].map(|vms| vms.into_iter().map(undescribed).collect());
        (together, apart)
    }

    /// Notes that the answer about the configuration of a VM alone could not be used.
    fn note_unusable(&mut self, of: &Undescribed, why: &str, now: Instant) {
        let vm = self.inventory.vms.get_mut(&of.vm).filter(|vm| vm.moref == of.moref);
        let Some(vm) = vm else { return };
        if vm.unusable().is_none() {
            let name = Printable(&vm.name);
            self.lines.push(format!("the configuration of VM {name} cannot be read: {why}"));
        }
        let (version, unusable) = (of.version.clone(), Some(why.into()));
        vm.untold = Some(Untold { asked: now, version, unusable });
    }
}

/// A VM whose configuration is to be read.
struct Undescribed {
    vm: Uuid,
    moref: Box<str>,
    version: Arc<str>,
}

/// A VM that is there, and what it is unless that is not told.
struct Found {
    moref: Box<str>,
    about: Option<AboutRead>,
}

impl Object for Found {
    fn read(kind: &str, moref: Box<str>, properties: &Properties<'_, '_>) -> Option<Self> {
        let about = AboutRead::read(kind, moref.clone(), properties);
        (kind == "VirtualMachine").then_some(Self { moref, about })
    }
}

/// Whether a call without one of its VMs, or with fewer, may be answered: of whatever type a server chooses to say what
/// is wrong with one (`SystemError`, `InvalidState`), that costs the others nothing.
fn is_about_a_vm(fault: &FaultKind) -> bool {
    !matches!(
        fault,
        FaultKind::InvalidLogin | FaultKind::NotAuthenticated | FaultKind::InvalidProperty(_)
    ) && !fault.is_about_a_host()
}
