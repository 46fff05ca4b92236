//! Which VMs are asked about together. Pure.
//!
//! Those of one host stand together, so that a host that holds up its call holds up few others; and one
//! that has done so is asked by itself until it answers again.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

/// So many VMs are asked about in one call: a fraction of what vCenter takes, and small enough for a few
/// to be under way at a time.
pub(super) const MOST: usize = 100;
/// A server that did not take so many is asked about as many again after that: it may have been busy, or be
/// configured otherwise by now.
const FEWER: Duration = Duration::from_secs(3600);

/// What is to be asked of VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// Samples: they run.
    Running,
    /// What they are alone: they are off or suspended.
    Still,
    /// Nothing: their host is away.
    Away,
}

/// A VM, and with whom it may be asked about. In the order in which they are grouped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Member {
    pub(super) kind: Kind,
    pub(super) host: Option<Arc<str>>,
    pub(super) vm: Uuid,
}

/// VMs that are asked about together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Of exactly these VMs: with others it is another one, and not read yet.
    pub(super) id: Uuid,
    /// By which their samples are asked for: the same, but where all are of one host it is the host's, whoever
    /// runs there. That it holds up its call is known, then, also when a VM has left it.
    pub(super) sampled_by: Uuid,
    pub(super) kind: Kind,
    /// Each of their hosts once.
    pub(super) hosts: Vec<Arc<str>>,
    pub(super) vms: Vec<Uuid>,
}

/// All VMs, in groups.
pub(super) struct Groups {
    all: Vec<Group>,
    of: HashMap<Uuid, usize>,
    by_id: HashMap<Uuid, usize>,
    /// The hosts that have held up a call,
    alone: HashSet<Arc<str>>,
    /// and the groups of those that were read since, by what their samples are asked for.
    well: HashSet<Uuid>,
    /// The VMs of groups that were parted since the last inventory, by what their samples were asked for.
    parted: HashMap<Uuid, Vec<Uuid>>,
    /// How many VMs the server takes, and when it last did not take more.
    most: usize,
    fewer_since: Option<Instant>,
}

impl Default for Groups {
    fn default() -> Self {
        let (of, by_id) = (HashMap::new(), HashMap::new());
        let (alone, well, parted) = (HashSet::new(), HashSet::new(), HashMap::new());
        Self { all: Vec::new(), of, by_id, alone, well, parted, most: MOST, fewer_since: None }
    }
}

impl Groups {
    /// Groups these VMs.
    pub(super) fn arrange(&mut self, mut members: Vec<Member>) {
        members.sort_unstable();
        self.all.clear();
        let is_alone = |member: &Member| {
            member.kind != Kind::Still
                && member
                    .host
                    .as_ref()
                    .is_some_and(|host| member.kind == Kind::Away || self.alone.contains(host))
        };
        // Those that are asked alone come last: the others are packed closely.
        let (alone, together): (Vec<_>, Vec<_>) = members.into_iter().partition(is_alone);
        let mut parts: HashMap<(Kind, Arc<str>), usize> = HashMap::new();
        for (members, by_host) in [(together, false), (alone, true)] {
            let mut begin = 0;
            for end in 1..=members.len() {
                let (first, next) = (&members[begin], members.get(end));
                let goes_on = next.is_some_and(|next| {
                    next.kind == first.kind
                        && end - begin < self.most
                        && (!by_host || next.host == first.host)
                });
                if !goes_on {
                    let mut group = group(&members[begin..end]);
                    if let ([host], true) = (&group.hosts[..], group.kind != Kind::Still) {
                        let of = (group.kind, Arc::clone(host));
                        let part = parts.entry(of.clone()).or_default();
                        group.sampled_by = made_of(&(of, *part));
                        *part += 1;
                    }
                    self.all.push(group);
                    begin = end;
                }
            }
        }
        let each = self.all.iter().enumerate();
        self.of = each
            .clone()
            .flat_map(|(place, group)| group.vms.iter().map(move |vm| (*vm, place)))
            .collect();
        self.by_id = each
            .flat_map(|(place, group)| [(group.id, place), (group.sampled_by, place)])
            .collect();
    }

    pub(super) fn of(&self, vm: Uuid) -> Option<&Group> {
        self.of.get(&vm).map(|place| &self.all[*place])
    }

    pub(super) fn get(&self, id: Uuid) -> Option<&Group> {
        self.by_id.get(&id).map(|place| &self.all[*place])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.all.iter()
    }

    /// A call about a group was held up: each of its hosts is asked by itself, once they are arranged anew, as they may
    /// have been since, where another group was held up. Returns whether that makes a difference.
    pub(super) fn part(&mut self, group: &Group) -> bool {
        self.well.remove(&group.sampled_by);
        let is_shared = group.hosts.len() > 1;
        if is_shared {
            self.alone.extend(group.hosts.iter().cloned());
            self.parted.insert(group.sampled_by, group.vms.clone());
        }
        is_shared
    }

    /// By what the VMs of a group are asked for that was parted, each once.
    pub(super) fn in_place_of(&self, id: Uuid) -> HashSet<Uuid> {
        let vms = self.parted.get(&id).into_iter().flatten();
        vms.filter_map(|vm| self.of(*vm)).map(|group| group.sampled_by).collect()
    }

    /// A group was read: where that is a single host, and all of its VMs that run were read by now, it need not be
    /// alone any longer, once they are arranged anew.
    pub(super) fn answered(&mut self, id: Uuid) {
        let Some(group) = self.get(id) else { return };
        let ([host], sampled_by) = (&group.hosts[..], group.sampled_by) else { return };
        if !self.alone.contains(host) {
            return;
        }
        let host = Arc::clone(host);
        self.well.insert(sampled_by);
        let is_its = |group: &&Group| group.kind == Kind::Running && group.hosts.contains(&host);
        let its: Vec<Uuid> = self.all.iter().filter(is_its).map(|group| group.sampled_by).collect();
        if its.iter().all(|id| self.well.contains(id)) {
            self.alone.remove(&host);
            self.well.retain(|id| !its.contains(id));
        }
    }

    /// The server does not take so many VMs at once.
    pub(super) fn take_fewer(&mut self, than: usize, now: Instant) {
        self.most = self.most.min((than / 2).max(1));
        self.fewer_since = Some(now);
    }

    /// Has as many asked about as at first, from the next arrangement on, if it was long ago that the server did
    /// not take them.
    pub(super) fn take_more(&mut self, now: Instant) {
        if self.fewer_since.is_some_and(|since| now.saturating_duration_since(since) >= FEWER) {
            (self.most, self.fewer_since) = (MOST, None);
        }
    }

    /// Forgets hosts that are gone.
    pub(super) fn keep_hosts(&mut self, is_there: impl Fn(&str) -> bool) {
        self.alone.retain(|host| is_there(host));
        let Self { well, by_id, .. } = self;
        well.retain(|id| by_id.contains_key(id));
        self.parted.clear();
    }
}

fn group(members: &[Member]) -> Group {
    let mut hosts: Vec<Arc<str>> =
        members.iter().filter_map(|member| member.host.clone()).collect();
    hosts.dedup();
    let id = made_of(members);
    Group {
        id,
        sampled_by: id,
        kind: members[0].kind,
        hosts,
        vms: members.iter().map(|member| member.vm).collect(),
    }
}

/// A UUID for what has none: the same for the same.
pub(super) fn made_of(what: &(impl Hash + ?Sized)) -> Uuid {
    let half = |half: u8| {
        let mut hasher = DefaultHasher::new();
        half.hash(&mut hasher);
        what.hash(&mut hasher);
        hasher.finish()
    };
    Uuid::from_u64_pair(half(0), half(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(vm: u128, host: &str, kind: Kind) -> Member {
        Member { kind, host: Some(host.into()), vm: Uuid::from_u128(vm) }
    }

    fn sizes(groups: &Groups) -> Vec<usize> {
        groups.iter().map(|group| group.vms.len()).collect()
    }

    #[test]
    fn small_hosts_share_a_call_and_one_that_holds_it_up_is_asked_alone() {
        let hosts = ["a", "b", "c"];
        let members = || -> Vec<Member> {
            (0..30).map(|vm| member(vm, hosts[(vm % 3) as usize], Kind::Running)).collect()
        };
        let mut groups = Groups::default();
        groups.arrange(members());
        assert_eq!(sizes(&groups), [30]);
        let id = groups.of(Uuid::from_u128(0)).unwrap().id;
        let all = groups.get(id).unwrap().clone();
        assert!(groups.part(&all));
        groups.arrange(members());
        assert_eq!(sizes(&groups), [10, 10, 10]);
        assert!(groups.get(id).is_none());
        assert_eq!(groups.in_place_of(id), groups.iter().map(|group| group.sampled_by).collect());
        let alone: Vec<Uuid> = groups.iter().map(|group| group.id).collect();
        let one = groups.get(alone[1]).unwrap().clone();
        assert!(!groups.part(&one), "there is nobody to part it from");
        // Two of them answer, and are asked together again.
        groups.answered(alone[0]);
        groups.answered(alone[2]);
        groups.arrange(members());
        assert_eq!(sizes(&groups), [20, 10]);
        groups.keep_hosts(|_| false);
        groups.arrange(members());
        assert_eq!(groups.of(Uuid::from_u128(0)).unwrap().id, id, "as at first");
    }

    #[test]
    fn groups_that_are_held_up_at_once_are_all_parted() {
        let members = || -> Vec<Member> {
            (0..300).map(|vm| member(vm, &format!("{:02}", vm / 30), Kind::Running)).collect()
        };
        let mut groups = Groups::default();
        groups.arrange(members());
        let held_up: Vec<Group> = groups.iter().cloned().collect();
        assert_eq!(held_up.len(), 3);
        for group in &held_up {
            assert!(groups.part(group));
            groups.arrange(members());
        }
        assert_eq!(sizes(&groups), [30; 10]);
        let apart = |group: &Group| groups.in_place_of(group.id).len();
        assert_eq!(held_up.iter().map(apart).collect::<Vec<_>>(), [4, 4, 4]);
    }

    #[test]
    fn a_host_by_itself_stays_the_same_whoever_runs_there() {
        let ids = |groups: &Groups| groups.iter().map(|group| group.sampled_by).collect::<Vec<_>>();
        for kind in [Kind::Running, Kind::Away] {
            let members = |vms: std::ops::Range<u128>| -> Vec<Member> {
                let on_each = |vm| [member(2 * vm, "a", kind), member(2 * vm + 1, "b", kind)];
                vms.flat_map(on_each).collect()
            };
            let alone = ["a", "b"].map(Arc::from).into();
            let mut groups = Groups { alone, ..Groups::default() };
            groups.arrange(members(0..150));
            assert_eq!(sizes(&groups), [100, 50, 100, 50]);
            let (before, vm) = (ids(&groups), Uuid::from_u128(20));
            let with_others = groups.of(vm).unwrap().id;
            groups.arrange(members(7..160));
            assert_eq!(ids(&groups), before);
            assert_eq!(before.iter().collect::<HashSet<_>>().len(), 4);
            assert_ne!(groups.of(vm).unwrap().id, with_others, "what its VMs are was not read yet");
        }
    }

    #[test]
    fn a_large_host_stays_alone_until_all_of_it_was_read() {
        let mut groups = Groups::default();
        let members = || -> Vec<Member> {
            let large = (0..150).map(|vm| member(vm, "large", Kind::Running));
            large.chain((150..170).map(|vm| member(vm, "small", Kind::Running))).collect()
        };
        let group = |groups: &Groups, vm| groups.of(Uuid::from_u128(vm)).unwrap().clone();
        let of = |groups: &Groups, vm| group(groups, vm).id;
        groups.arrange(members());
        assert_eq!(sizes(&groups), [100, 70]);
        assert!(groups.part(&group(&groups, 149)));
        for _ in 0..3 {
            groups.arrange(members());
            for vm in [0, 160] {
                groups.answered(of(&groups, vm));
            }
            assert!(!groups.part(&group(&groups, 149)), "there is nobody to part it from");
        }
        groups.answered(of(&groups, 149));
        groups.arrange(members());
        assert_eq!(sizes(&groups), [100, 70]);
        assert!(groups.well.is_empty());
    }

    #[test]
    fn hosts_that_are_away_are_apart_and_what_is_off_is_in_calls_of_its_own() {
        let mut groups = Groups::default();
        groups.arrange(vec![
            member(1, "a", Kind::Running),
            member(2, "a", Kind::Still),
            member(3, "b", Kind::Away),
            member(4, "c", Kind::Away),
        ]);
        assert_eq!(sizes(&groups), [1, 1, 1, 1]);
    }

    #[test]
    fn a_server_that_takes_fewer_is_asked_about_fewer() {
        let mut groups = Groups::default();
        let members: Vec<Member> = (0..100).map(|vm| member(vm, "a", Kind::Running)).collect();
        let now = Instant::now();
        groups.arrange(members.clone());
        groups.take_fewer(100, now);
        groups.take_fewer(90, now);
        groups.arrange(members);
        assert_eq!(sizes(&groups), [45, 45, 10]);
        (0..10).for_each(|_| groups.take_fewer(1, now));
        groups.arrange(vec![member(1, "a", Kind::Running)]);
        assert_eq!(sizes(&groups), [1]);
    }

    #[test]
    fn a_server_that_took_fewer_is_asked_about_as_many_as_before_once_an_hour() {
        let mut groups = Groups::default();
        let (mut now, later) = (Instant::now(), Duration::from_secs(1));
        let at = |groups: &mut Groups, now| {
            groups.take_more(now);
            groups.arrange((0..100).map(|vm| member(vm, "a", Kind::Running)).collect());
            sizes(groups)
        };
        for _ in 0..2 {
            assert_eq!(at(&mut groups, now), [100]);
            groups.take_fewer(100, now);
            assert_eq!(at(&mut groups, now), [50, 50]);
            groups.take_fewer(50, now + later);
            now += FEWER;
            assert_eq!(at(&mut groups, now), [25; 4]);
            now += later;
        }
        assert_eq!(at(&mut groups, now), [100]);
    }

    proptest! {
        #[test]
        fn each_vm_is_in_one_group(
            all in prop::collection::btree_map(any::<u128>(), (0_usize..9, 0_usize..3), 0..400),
            sick in prop::collection::vec(0_usize..9, 0..4),
        ) {
            let hosts: Vec<String> = (0..9).map(|number| format!("host-{number}")).collect();
            let kinds = [Kind::Running, Kind::Still, Kind::Away];
            let members: Vec<Member> =
                all.iter().map(|(vm, (host, kind))| member(*vm, &hosts[*host], kinds[*kind])).collect();
            let alone = sick.iter().map(|host| hosts[*host].as_str().into()).collect();
            let mut groups = Groups { alone, ..Groups::default() };
            groups.arrange(members.clone());
            let mut told: Vec<Uuid> = groups.iter().flat_map(|group| group.vms.clone()).collect();
            told.sort_unstable();
            let expected: Vec<Uuid> = all.keys().map(|vm| Uuid::from_u128(*vm)).collect();
            prop_assert_eq!(told, expected);
            for group in groups.iter() {
                prop_assert!((1..=MOST).contains(&group.vms.len()));
                let is_alone = group.kind == Kind::Away
                    || group.hosts.iter().any(|host| groups.alone.contains(host));
                prop_assert!(group.kind == Kind::Still || !is_alone || group.hosts.len() == 1);
                for vm in &group.vms {
                    let (host, kind) = all[&vm.as_u128()];
                    prop_assert_eq!(kinds[kind], group.kind);
                    prop_assert!(group.hosts.iter().any(|known| **known == *hosts[host]));
                    prop_assert_eq!(groups.of(*vm).unwrap(), group);
                }
                prop_assert_eq!(groups.get(group.id).unwrap(), group);
                prop_assert_eq!(groups.get(group.sampled_by).unwrap(), group);
            }
            // As few calls as can be, but for the hosts that are alone.
            let running = members.iter().filter(|member| member.kind == Kind::Running);
            let together = running.filter(|member| {
                !groups.alone.contains(member.host.as_ref().unwrap())
            });
            let calls = groups.iter().filter(|group| {
                group.kind == Kind::Running && group.hosts.iter().all(|host| !groups.alone.contains(host))
            });
            prop_assert_eq!(calls.count(), together.count().div_ceil(MOST));
        }
    }
}
