//! The NICs and disks that libvirt refuses to tell of, for all connections to one libvirt.
//!
//! Of some it always does: of NICs of the kinds `user`, `mcast`, `vhostuser` and `vdpa`, say. So what is
//! refused three times in a row is not asked for again at once, and what libvirt says of it is said once, or
//! anew in other words. Both begin anew with another kind of error, with each start of the domain, and when the
//! device's description changes.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use uuid::Uuid;
use virt_sys as c;

use crate::error::Failure;
use crate::hypervisor::{Parts, Warning};
use crate::locks::lock;
use crate::recent::Recent;

/// What was refused so often in a row was not refused for once.
const TRIES: u8 = 3;

/// For so long, it is not asked for again.
const LEFT_ALONE: Duration = Duration::from_secs(300);

/// What is known of a domain is kept for so long after its last reading.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// A part of a reading of one device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a, D> {
    pub(super) domain: Uuid,
    /// The domain's number, another at each start; `None` where it is not known.
    pub(super) number: Option<u32>,
    pub(super) part: Parts,
    pub(super) device: &'a str,
    /// What the domain's XML says of the device.
    pub(super) described: &'a D,
}

/// What is refused, by the domains.
#[derive(Debug)]
pub(super) struct Refused {
    hashes: RandomState,
    domains: Mutex<Recent<Uuid, Devices>>,
}

/// The refusals of a domain, of each part, by the devices: there may be thousands.
type Devices = HashMap<Box<str>, Vec<Refusal>>;

#[derive(Debug)]
struct Refusal {
    part: Parts,
    /// The domain's number and the device's description when it was refused.
    when: u64,
    failure: Failure,
    line: Arc<Warning>,
    /// How often in a row, and when last.
    times: u8,
    last: Instant,
}

impl Default for Refused {
    fn default() -> Self {
        Self { hashes: RandomState::new(), domains: Mutex::new(Recent::new(KEPT)) }
    }
}

impl Refused {
    /// What to say where this need not be asked for, as it would be refused once more.
    pub(super) fn expects<D: Hash>(
        &self,
        question: &Question<'_, D>,
        now: Instant,
    ) -> Option<Arc<Warning>> {
        let (when, mut domains) = (self.when(question), self.lock());
        let known = find(domains.get_mut(&question.domain, now)?, question, when)?;
        let since = now.saturating_duration_since(known.last);
        let left_alone = known.times >= TRIES && since < LEFT_ALONE;
        left_alone.then(|| Arc::clone(&known.line))
    }

    /// Takes down that it was refused; returns what is to be said of that.
    pub(super) fn refused<D: Hash>(
        &self,
        question: &Question<'_, D>,
        failure: Failure,
        now: Instant,
        text: String,
    ) -> Arc<Warning> {
        // Nothing of the device's own: libvirt has waited for somebody else.
        if failure.is(c::VIR_ERR_OPERATION_TIMEOUT) || failure.is(c::VIR_ERR_AGENT_UNRESPONSIVE) {
            return Warning::new(text);
        }
        let (when, mut domains) = (self.when(question), self.lock());
        let domain = domains.get_or_default(question.domain, now);
        if let Some(known) = find(domain, question, when) {
            // libvirt's words may be others each time.
            let is_alike = failure.libvirt.is_some() && known.failure.libvirt == failure.libvirt;
            if is_alike || known.failure == failure {
                known.times = known.times.saturating_add(1);
                known.last = now;
                if known.failure != failure {
                    (known.failure, known.line) = (failure, Warning::new(text));
                }
                return Arc::clone(&known.line);
            }
        }
        let (part, line) = (question.part, Warning::new(text));
        let refusal = Refusal { part, when, failure, line: Arc::clone(&line), times: 1, last: now };
        let device = domain.entry(question.device.into()).or_default();
        device.retain(|known| known.part != part || known.when != when);
        device.push(refusal);
        line
    }

    /// Takes down that it was told.
    pub(super) fn told<D: Hash>(&self, question: &Question<'_, D>) {
        let (when, mut domains) = (self.when(question), self.lock());
        let Some(domain) = domains.get_mut(&question.domain, Instant::now()) else { return };
        if let Some(device) = domain.get_mut(question.device) {
            device.retain(|known| known.part != question.part || known.when != when);
            if device.is_empty() {
                domain.remove(question.device);
            }
        }
    }

    /// Forgets a domain that is gone.
    pub(super) fn forget_all_devices_of(&self, domain: Uuid) {
        self.lock().remove(&domain);
    }

    /// Forgets the devices that are not there any more, or not as they were; returns whether one of the
    /// domain's is refused. There may be several of one name.
    pub(super) fn forget_all_devices_but<'a, D: Hash + 'a>(
        &self,
        domain: Uuid,
        number: Option<u32>,
        part: Parts,
        there: impl Iterator<Item = (&'a str, &'a D)>,
    ) -> bool {
        let mut domains = self.lock();
        let Some(known) = domains.get_mut(&domain, Instant::now()) else { return false };
        if !known.is_empty() {
            let when = |described: &D| self.hashes.hash_one((number, described));
            let there: HashSet<_> = there.map(|(name, device)| (name, when(device))).collect();
            known.retain(|device, refusals| {
                let is_there = |known: &Refusal| there.contains(&(&**device, known.when));
                refusals.retain(|known| known.part != part || is_there(known));
                !refusals.is_empty()
            });
        }
        !known.is_empty()
    }

    /// Drops the domains that do not exist, by a list that was asked for then.
    pub(super) fn forget_all_but(&self, existing: &HashSet<Uuid>, asked: Instant) {
        self.lock().forget_all_but(asked, |domain| existing.contains(domain));
    }

    /// Forgets the devices of domains that are shut off, by a list that was asked for then, but for this
    /// part.
    pub(super) fn forget_shut_off(
        &self,
        shut_off: impl Iterator<Item = Uuid>,
        but: Parts,
        asked: Instant,
    ) {
        let mut domains = self.lock();
        for domain in shut_off {
            let Some(known) = domains.peek_mut(&domain) else { continue };
            known.retain(|_, refusals| {
                // It may have been started since.
                refusals.retain(|known| known.part == but || known.last >= asked);
                !refusals.is_empty()
            });
        }
    }

    /// Drops everything: the libvirt that comes back may be another one.
    pub(super) fn forget_everything(&self) {
        *self.lock() = Recent::new(KEPT);
    }

    /// What is said of what is refused now, by the domains.
    pub(super) fn all(&self) -> Vec<(Uuid, Vec<String>)> {
        let texts = |known: &Devices| {
            let all = known.values().flatten().map(|refusal| refusal.line.text().to_owned());
            let mut all: Vec<_> = all.collect();
            all.sort_unstable();
            all
        };
        let domains = self.lock();
        let all = domains.iter().map(|(domain, known)| (*domain, texts(known)));
        all.filter(|(_, texts)| !texts.is_empty()).collect()
    }

    fn when<D: Hash>(&self, question: &Question<'_, D>) -> u64 {
        self.hashes.hash_one((question.number, question.described))
    }

    fn lock(&self) -> MutexGuard<'_, Recent<Uuid, Devices>> {
        lock(&self.domains)
    }
}

fn find<'a, D>(
    known: &'a mut Devices,
    question: &Question<'_, D>,
    when: u64,
) -> Option<&'a mut Refusal> {
    let mut known = known.get_mut(question.device)?.iter_mut();
    known.find(|refusal| refusal.part == question.part && refusal.when == when)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: Uuid = Uuid::nil();
    const NIC: Question<'_, &str> = Question {
        domain: VM,
        number: Some(1),
        part: Parts::NICS,
        device: "tap0",
        described: &"a",
    };

    fn failure(code: u32) -> Failure {
        Failure::of_libvirt(code.try_into().unwrap(), 10, "no".to_owned())
    }

    /// Refuses it, and returns whether there is something new to say.
    fn refuse(refused: &Refused, question: &Question<'_, &str>, code: u32, now: Instant) -> bool {
        refused.refused(question, failure(code), now, "no".to_owned()).say().is_some()
    }

    #[test]
    fn what_is_refused_thrice_is_left_alone_for_a_while_and_said_once() {
        let (refused, now) = (Refused::default(), Instant::now());
        assert!(refuse(&refused, &NIC, 8, now));
        assert!(!refuse(&refused, &NIC, 8, now));
        assert!(refused.expects(&NIC, now).is_none(), "it may have been for once");
        assert!(!refuse(&refused, &NIC, 8, now));
        assert!(refused.expects(&NIC, now).is_some_and(|line| line.say().is_none()));
        assert!(refused.expects(&NIC, now + LEFT_ALONE).is_none());
        assert!(!refuse(&refused, &NIC, 8, now + LEFT_ALONE));
        assert!(refuse(&refused, &NIC, 9, now + LEFT_ALONE), "for another reason");
        assert_eq!(refused.all(), [(VM, vec!["no".to_owned()])]);
    }

    #[test]
    fn what_is_refused_in_other_words_each_time_is_left_alone_as_well() {
        let (refused, now) = (Refused::default(), Instant::now());
        for (number, is_left_alone) in [false, false, true].into_iter().enumerate() {
            let words = format!("no, for the {number}th time");
            let failure = Failure::of_libvirt(8, 10, words.clone());
            let line = refused.refused(&NIC, failure, now, words.clone());
            assert_eq!(line.say().map(str::to_owned), Some(words));
            assert_eq!(refused.expects(&NIC, now).is_some(), is_left_alone);
        }
    }

    #[test]
    fn another_start_another_description_and_an_answer_begin_anew() {
        for other in [Question { number: Some(2), ..NIC }, Question { described: &"b", ..NIC }] {
            let (refused, now) = (Refused::default(), Instant::now());
            for first in [true, false, false] {
                assert_eq!(refuse(&refused, &NIC, 8, now), first);
            }
            assert!(refused.expects(&NIC, now).is_some());
            assert!(refused.expects(&other, now).is_none());
            assert!(refuse(&refused, &other, 8, now));
            refused.told(&other);
            assert!(refuse(&refused, &other, 8, now));
        }
    }

    #[test]
    fn two_of_one_name_are_two() {
        let (refused, now) = (Refused::default(), Instant::now());
        let other = Question { described: &"b", ..NIC };
        for first in [true, false, false] {
            assert_eq!(refuse(&refused, &NIC, 8, now), first);
            assert_eq!(refuse(&refused, &other, 8, now), first);
        }
        assert!(refused.expects(&NIC, now).is_some());
        refused.told(&NIC);
        assert!(refused.expects(&NIC, now).is_none());
        assert!(refused.expects(&other, now).is_some());
    }

    #[test]
    fn a_wait_in_vain_is_not_the_devices() {
        let (refused, now) = (Refused::default(), Instant::now());
        for _ in 0..3 {
            assert!(refuse(&refused, &NIC, c::VIR_ERR_OPERATION_TIMEOUT, now));
            assert!(refused.expects(&NIC, now).is_none());
        }
    }

    #[test]
    fn devices_and_domains_that_are_gone_are_forgotten() {
        let (refused, now) = (Refused::default(), Instant::now());
        refuse(&refused, &NIC, 8, now);
        let some_left = |number, part, there: &[(&str, &&str)]| {
            let there = there.iter().copied();
            refused.forget_all_devices_but(VM, number, part, there)
        };
        assert!(some_left(Some(1), Parts::DISKS, &[]));
        assert!(some_left(Some(1), Parts::NICS, &[("tap0", &"b"), ("tap0", &"a")]));
        assert_eq!(refused.all().len(), 1);
        for (number, there) in [(1, ("tap1", &"a")), (1, ("tap0", &"b")), (2, ("tap0", &"a"))] {
            refuse(&refused, &NIC, 8, now);
            assert!(!some_left(Some(number), Parts::NICS, &[there]));
            assert_eq!(refused.all(), []);
        }
        refuse(&refused, &NIC, 8, now);
        refused.forget_all_but(&HashSet::new(), now + KEPT);
        assert_eq!(refused.all(), []);
    }
}
