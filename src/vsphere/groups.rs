//! Which VMs are asked about together. Pure.
//!
//! Those of one host stand together, so that a host that holds up its call holds up few others; and one
//! that has done so is asked by itself until it answers again.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use uuid::Uuid;

/// So many VMs are asked about in one call: a fraction of what vCenter takes, and small enough for a few
/// to be under way at a time.
pub(super) const MOST: usize = 100;

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
    pub(super) kind: Kind,
    /// Each of their hosts once.
    pub(super) hosts: Vec<Arc<str>>,
    pub(super) vms: Vec<Uuid>,
}

/// All VMs, in groups.
pub(super) struct Groups {
    groups: Vec<Group>,
    of: HashMap<Uuid, usize>,
    by_id: HashMap<Uuid, usize>,
    /// The hosts that have held up a call.
    alone: HashSet<Arc<str>>,
    /// How many VMs the server takes.
    most: usize,
}

impl Default for Groups {
    fn default() -> Self {
        let (of, by_id) = (HashMap::new(), HashMap::new());
        Self { groups: Vec::new(), of, by_id, alone: HashSet::new(), most: MOST }
    }
}

impl Groups {
    /// Groups these VMs.
    pub(super) fn arrange(&mut self, mut members: Vec<Member>) {
        members.sort_unstable();
        self.groups.clear();
        let is_alone = |member: &Member| {
            member.kind != Kind::Still
                && member
                    .host
                    .as_ref()
                    .is_some_and(|host| member.kind == Kind::Away || self.alone.contains(host))
        };
        // Those that are asked alone come last: the others are packed closely.
        let (alone, together): (Vec<_>, Vec<_>) = members.into_iter().partition(is_alone);
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
                    self.groups.push(group(&members[begin..end]));
                    begin = end;
                }
            }
        }
        let all = self.groups.iter().enumerate();
        self.of = all
            .clone()
            .flat_map(|(place, group)| group.vms.iter().map(move |vm| (*vm, place)))
            .collect();
        self.by_id = all.map(|(place, group)| (group.id, place)).collect();
    }

    pub(super) fn of(&self, vm: Uuid) -> Option<&Group> {
        self.of.get(&vm).map(|place| &self.groups[*place])
    }

    pub(super) fn get(&self, id: Uuid) -> Option<&Group> {
        self.by_id.get(&id).map(|place| &self.groups[*place])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter()
    }

    /// A call about a group was held up: each of its hosts is asked by itself, once they are arranged anew.
    /// Returns whether that makes a difference.
    pub(super) fn part(&mut self, id: Uuid) -> bool {
        let Some(group) = self.get(id).filter(|group| group.hosts.len() > 1) else { return false };
        let hosts = group.hosts.clone();
        self.alone.extend(hosts);
        true
    }

    /// A group was read: where that is a single host, it need not be alone any longer, once they are arranged
    /// anew.
    pub(super) fn answered(&mut self, id: Uuid) {
        let Some(group) = self.get(id) else { return };
        if let [host] = &group.hosts[..] {
            let host = Arc::clone(host);
            self.alone.remove(&host);
        }
    }

    /// The server does not take so many VMs at once.
    pub(super) fn take_fewer(&mut self, than: usize) {
        self.most = self.most.min((than / 2).max(1));
    }

    /// Forgets hosts that are gone.
    pub(super) fn keep_hosts(&mut self, is_there: impl Fn(&str) -> bool) {
        self.alone.retain(|host| is_there(host));
    }
}

fn group(members: &[Member]) -> Group {
    let mut hosts: Vec<Arc<str>> =
        members.iter().filter_map(|member| member.host.clone()).collect();
    hosts.dedup();
    Group {
        id: made_of(members),
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
