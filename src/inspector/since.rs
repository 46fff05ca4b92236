//! What was done since its caller last asked: deltas, rates and usage.
//!
//! Each such answer enters what was read, for the next one to go on from. Python's callers may be interrupted before
//! they have it: they use what begins with `tell_`, which is taken back unless it is committed.

use std::sync::Arc;
use std::time::Instant;

use log::Level;
use uuid::Uuid;

use super::{Fault, Inspector, SHUT_OFF, log};
use crate::callers;
use crate::cancellation::Cancellation;
use crate::continued::Used;
use crate::error::{Error, Reason, Result};
use crate::hypervisor::{Content, Parts, Stamp};
use crate::locks::lock;
use crate::rates::Devices;
use crate::records::{
    CpuTimes, DiskRateStats, InstanceId, InterfaceRateStats, InterfaceStats, VmCounters, VmUsage,
    ids,
};
use crate::rollback::{Rollback, committed};
use crate::usage::{Disks, Rates};

/// So many usages are in one allocation: once glibc was given back one of several megabytes, it keeps as much free for
/// each thread.
const TOGETHER: usize = 1024;

impl Inspector {
    /// The NICs of an instance with their counters, and what was added since their last reading.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn vnics(&self, instance: &InstanceId) -> Result<Vec<InterfaceStats>> {
        self.tell_vnics(instance).map(committed)
    }

    /// The same, to be committed.
    pub(crate) fn tell_vnics(
        &self,
        instance: &InstanceId,
    ) -> Result<(Vec<InterfaceStats>, Rollback<'_>)> {
        let (interfaces, read) = match self.ask(Parts::NICS, instance)? {
            (Some(Content::Nics(interfaces)), read) => (interfaces, read),
            (_, read) => (Vec::new(), read),
        };
        let own = self.source.own_uuid(instance.uuid);
        Cancellation::look()?;
        let (known, told) = self.with_deltas(|deltas| {
            let before = deltas.of(own);
            let told = deltas.enter(own, read, interfaces);
            ([before, deltas.of(own)], told)
        });
        let take_back = move || self.with_deltas(|deltas| deltas.take_back(own, read, known));
        Ok((told, Rollback::new(take_back)))
    }

    /// What went through each NIC of an instance in a second, on average since this `caller` last
    /// asked this; nothing at its first time. A caller is a name, chosen freely: each has intervals
    /// of its own, for each instance, and threads under one name share them. A NIC that has come
    /// meanwhile, or whose counters went back, is left out this once; and so is one whose counters are
    /// not known, the next rates of which are over all the time since they were.
    ///
    /// A name has 256 characters at the most. The last 64 callers are remembered, for a day and as long
    /// as the instance exists.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn vnic_rates(
        &self,
        instance: &InstanceId,
        caller: &str,
    ) -> Result<Vec<InterfaceRateStats>> {
        self.tell_vnic_rates(instance, caller).map(committed)
    }

    /// The same, to be committed.
    pub(crate) fn tell_vnic_rates<'a>(
        &'a self,
        instance: &InstanceId,
        caller: &'a str,
    ) -> Result<(Vec<InterfaceRateStats>, Rollback<'a>)> {
        callers::check(caller)?;
        let (interfaces, read) = match self.ask(self.source.rates_from(Parts::NICS), instance)? {
            (Some(Content::Nics(interfaces)), read) => (interfaces, read),
            (Some(Content::Counters(counters)), read) => (counters.interfaces, read),
            _ => return Ok((Vec::new(), Rollback::none())),
        };
        let own = self.source.own_uuid(instance.uuid);
        Cancellation::look()?;
        let enter = |rates: &mut Rates| rates.nic_rates(read, interfaces);
        let take_back = move |part: &mut _, known| Devices::take_back(part, read, known);
        Ok(self.tell_rates((caller, own), |rates| &mut rates.nics, enter, take_back))
    }

    /// What each disk of an instance did in a second; as [`vnic_rates`](Self::vnic_rates).
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Timeout`] at once while its guest hangs.
    pub fn disk_rates(&self, instance: &InstanceId, caller: &str) -> Result<Vec<DiskRateStats>> {
        self.tell_disk_rates(instance, caller).map(committed)
    }

    /// The same, to be committed.
    pub(crate) fn tell_disk_rates<'a>(
        &'a self,
        instance: &InstanceId,
        caller: &'a str,
    ) -> Result<(Vec<DiskRateStats>, Rollback<'a>)> {
        callers::check(caller)?;
        let (disks, read) = match self.ask(self.source.rates_from(Parts::DISKS), instance)? {
            (Some(Content::Disks(disks)), read) => (disks, read),
            (Some(Content::Counters(counters)), read) => (counters.disks.unwrap_or_default(), read),
            _ => return Ok((Vec::new(), Rollback::none())),
        };
        let own = self.source.own_uuid(instance.uuid);
        Cancellation::look()?;
        let enter = |rates: &mut Rates| rates.disk_rates(read, &disks);
        let take_back = move |part: &mut _, known| Disks::take_back(part, read, known);
        Ok(self.tell_rates((caller, own), |rates| &mut rates.disks, enter, take_back))
    }

    /// What an instance has used since this `caller` last asked this or
    /// [`usage_all`](Self::usage_all), all read at one moment. A caller is a name, as for
    /// [`vnic_rates`](Self::vnic_rates). While the guest hangs, its memory and disks are not told; what
    /// the disks did meanwhile is told with the first reading after that.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn usage(&self, instance: &InstanceId, caller: &str) -> Result<VmUsage> {
        self.tell_usage(instance, caller).map(committed)
    }

    /// The same, to be committed.
    pub(crate) fn tell_usage<'a>(
        &'a self,
        instance: &InstanceId,
        caller: &'a str,
    ) -> Result<(VmUsage, Rollback<'a>)> {
        callers::check(caller)?;
        let (counters, read) = self.counters(instance, Instant::now())?;
        let uuid = self.source.own_uuid(instance.uuid);
        let own = InstanceId { uuid, name: instance.name.clone() };
        Cancellation::look()?;
        let mut rollback = Rollback::none();
        let told = self.enter(caller, &own, &counters, read, &mut rollback);
        Ok((told, rollback))
    }

    /// What every instance that runs has used, as [`usage`](Self::usage) tells it, in one pass over
    /// the host. One that cannot be read is left out, which is logged once, until it changes. Where the
    /// pass ends in an error, none of it counts as read: the next one tells it.
    ///
    /// # Errors
    /// As [`instances`](Self::instances), and [`Error::ConnectionLost`] where nothing could be read
    /// for that reason.
    pub fn usage_all(&self, caller: &str) -> Result<Vec<VmUsage>> {
        self.tell_usage_all(caller).map(committed).map(|told| told.into_iter().flatten().collect())
    }

    /// The same, to be committed, of so many instances together.
    pub(crate) fn tell_usage_all<'a>(
        &'a self,
        caller: &'a str,
    ) -> Result<(Vec<Vec<VmUsage>>, Rollback<'a>)> {
        callers::check(caller)?;
        let (mut lost, mut lost_count, mut away) = (None, 0, false);
        let begun = Instant::now();
        let mut instances = self.instances()?;
        instances.retain(|instance| instance.state != SHUT_OFF);
        let ids = ids(&instances);
        let mut told: Vec<Vec<VmUsage>> = Vec::new();
        // Allocated for all at once: what grows holds up to three times as much while it does.
        let mut rollback = Rollback::none();
        rollback.reserve(ids.len());
        let mut cancellation = Cancellation::new(self.limits());
        self.source.expect(Parts::COUNTERS, &ids);
        let room = TOGETHER.min(ids.len());
        for id in ids {
            cancellation.check()?;
            match self.counters(&id, begun) {
                Ok((counters, read)) => {
                    self.is_new(Parts::COUNTERS, &id, None);
                    let usage = self.enter(caller, &id, &counters, read, &mut rollback);
                    if told.last().is_none_or(|together| together.len() == TOGETHER) {
                        told.push(Vec::with_capacity(room));
                    }
                    if let Some(together) = told.last_mut() {
                        together.push(usage);
                    }
                }
                Err(Error::InstanceNotFound { gone: true, .. } | Error::InstanceShutOff { .. }) => {
                }
                Err(error @ Error::Interrupted) => return Err(error),
                Err(error @ (Error::ConnectionLost { .. } | Error::LoginRefused { .. })) => {
                    lost_count += 1;
                    lost = lost.or(Some(error));
                }
                // The engine says once that a guest hangs, or a host does not answer.
                Err(
                    error @ (Error::Timeout { .. }
                    | Error::NoData { reason: Reason::HostAway { .. }, .. }),
                ) => {
                    away |= matches!(error, Error::NoData { .. });
                    log(Level::Debug, &format!("no usage: {error}"))?;
                }
                Err(error) => {
                    if self.is_new(Parts::COUNTERS, &id, Some(Fault::of(&error))) {
                        log(
                            Level::Warn,
                            &format!("an instance is left out of the usage: {error}"),
                        )?;
                    }
                }
            }
        }
        if away && told.is_empty() {
            // What knows of all hosts may have gone since it was last asked, and is told of then.
            self.source.answers_since(begun)?;
        }
        match lost {
            Some(error) if told.is_empty() => return Err(error),
            Some(error) if lost_count == 1 => {
                log(Level::Warn, &format!("an instance is left out of the usage: {error}"))?;
            }
            Some(error) => {
                let line = format!("{lost_count} instances are left out of the usage: {error}");
                log(Level::Warn, &line)?;
            }
            None => {}
        }
        Cancellation::look()?;
        Ok((told, rollback))
    }

    /// Enters what was read of an instance for a caller, and answers with what was used since it was last told.
    fn enter<'a>(
        &'a self,
        caller: &'a str,
        instance: &InstanceId,
        counters: &VmCounters,
        read: Stamp,
        rollback: &mut Rollback<'a>,
    ) -> VmUsage {
        let uuid = instance.uuid;
        let host_cpus = self.source.host_cpus(uuid);
        let (told, known) = self.usage.with(|usage| {
            let mut usage = lock(usage);
            let usage = usage.of(caller, uuid, Instant::now());
            let before = Arc::clone(usage);
            let told = Arc::make_mut(usage).usage(instance, read, counters, host_cpus);
            (told, [before, Arc::clone(usage)])
        });
        rollback.add(move || {
            self.usage.with(|usage| {
                if let Some(usage) = lock(usage).known(caller, uuid) {
                    Arc::make_mut(usage).take_back(read, known.map(Arc::unwrap_or_clone));
                }
            });
        });
        told
    }

    /// The counters that the usage of an instance is reckoned from, and when they were measured, in a pass
    /// that was begun then.
    fn counters(&self, instance: &InstanceId, begun: Instant) -> Result<(VmCounters, Stamp)> {
        let (content, read) = self.ask_in_pass(Parts::COUNTERS, instance, begun)?;
        let Some(Content::Counters(mut counters)) = content else {
            return Ok((VmCounters::default(), read));
        };
        if let Some(vcpus) = counters.vcpus.take() {
            let cpu = CpuTimes { vcpus: Some(vcpus), whole: counters.cpu_time };
            let own = self.source.own_uuid(instance.uuid);
            let used = self.continued.with(|known| lock(known).enter(own, read, &cpu));
            // Over this reading's interval, what a younger one knew would be too much.
            let used = if used.is_younger { Used::default() } else { used };
            counters.vcpu_time = used.ran;
            (counters.vcpu_wait, counters.vcpu_delay) = (used.wait, used.delay);
        }
        Ok((*counters, read))
    }

    /// Enters a reading for a caller's rates, and how that is taken back in the part of them that it concerns: by what
    /// that was before and after.
    fn tell_rates<'a, K: Clone + Send + 'a, T>(
        &'a self,
        (caller, own): (&'a str, Uuid),
        part: fn(&mut Rates) -> &mut K,
        enter: impl FnOnce(&mut Rates) -> T,
        take_back: impl FnOnce(&mut K, [K; 2]) + Send + 'a,
    ) -> (T, Rollback<'a>) {
        let (known, told) = self.rates.with(|rates| {
            let mut rates = lock(rates);
            let rates = Arc::make_mut(rates.of(caller, own, Instant::now()));
            let before = part(rates).clone();
            let told = enter(rates);
            ([before, part(rates).clone()], told)
        });
        let take_back = move || {
            self.rates.with(|rates| {
                if let Some(rates) = lock(rates).known(caller, own) {
                    take_back(part(Arc::make_mut(rates)), known);
                }
            });
        };
        (told, Rollback::new(take_back))
    }
}
