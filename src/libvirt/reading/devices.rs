//! The NICs and disks of a domain in a reading: from the bulk reading, or else by a call for each.

use std::ffi::c_ulong;
use std::hash::Hash;
use std::time::Instant;

use virt_sys as c;

use super::super::bulk::Bulk;
use super::super::domain_xml;
use super::super::refused::Question;
use super::super::{sizes, stats};
use super::{About, DISKS, Taking, is_of_all};
use crate::error::{Error, Failure, Result};
use crate::hypervisor::Parts;
use crate::records::{Disk, DiskInfo, Interface, InterfaceCounters};

/// From libvirt 6.9.0 on, `virDomainInterfaceStats` tells of SR-IOV's virtual functions, by their MAC
/// addresses.
const COUNTS_VFS: c_ulong = 6_009_000;

impl About<'_> {
    /// Whether libvirt counts what goes through virtual functions. Older ones are not asked: some look for
    /// the name that these have not.
    fn counts_vfs(&self) -> Result<bool> {
        if let Some(counts) = self.counts_vfs.get() {
            return Ok(*counts);
        }
        let counts = match self.open.lib_version() {
            Ok(version) => version >= COUNTS_VFS,
            Err(failure) if failure.is_disconnection() => return Err(self.refused(failure)),
            Err(_) => false,
        };
        Ok(*self.counts_vfs.get_or_init(|| counts))
    }
}

impl Taking<'_> {
    /// The NICs, from the bulk reading or else by a call for each.
    pub(super) fn nics(&self) -> Result<Vec<Interface>> {
        self.nics.get_or_init(|| self.ask_nics()).clone()
    }

    fn ask_nics(&self) -> Result<Vec<Interface>> {
        let bulk = self.running()?;
        let part = Parts::NICS.and(Parts::COUNTERS);
        let devices = self.devices()?;
        let all = self.at.driver.options.all_nics;
        let without_target = if all { &devices.without_target[..] } else { &[] };
        let there = devices.nics.iter().chain(without_target);
        let there = there.map(|nic| (nic.name.as_str(), nic));
        let some_refused = self.forget_all_devices_but(part, there);
        let ask = |nic: &domain_xml::Nic| {
            let known = bulk.and_then(|bulk| bulk.nic(&nic.name));
            let call = || self.known.domain.interface_stats(&nic.name);
            let device = (part, nic.name.as_str(), nic);
            let (counters, measured) = self.measure(device, some_refused, known, call)?;
            let counters = counters.map(stats::interface_counters);
            Ok(Interface { counters, measured, ..interface(nic) })
        };
        // They are told without counters, too.
        let ask_by_mac = |nic: &domain_xml::Nic| {
            let is_counted = nic.is_found_by_mac && self.at.counts_vfs()?;
            let told = if is_counted { ask(nic)? } else { interface(nic) };
            // The kernel has zeros where the driver of the NIC does not count.
            let counters = told.counters.filter(InterfaceCounters::has_any);
            Ok(Interface { counters: counters.or(Some(InterfaceCounters::NONE)), ..told })
        };
        let by_mac = without_target.iter().map(ask_by_mac);
        devices.nics.iter().map(ask).chain(by_mac).collect()
    }

    /// The disks, from the bulk reading or else by calls for each.
    pub(super) fn disks(&self) -> Result<Vec<Disk>> {
        self.disks.get_or_init(|| self.ask_disks()).clone()
    }

    fn ask_disks(&self) -> Result<Vec<Disk>> {
        let bulk = self.answering()?;
        let part = Parts::DISKS.and(Parts::COUNTERS);
        let domain = &self.known.domain;
        let devices = self.devices()?;
        let there = devices.disks.iter().map(|disk| (disk.name.as_str(), disk));
        let some_refused = self.forget_all_devices_but(part, there);
        let ask = |disk: &domain_xml::Disk| {
            let name = disk.name.as_str();
            let known = bulk.and_then(|bulk| bulk.disk(name));
            // The counters last: they are of the moment after both.
            let call = || {
                let times = domain.block_stats_flags(name)?;
                Ok((domain.block_stats(name)?, times))
            };
            let (counters, measured) =
                self.measure((part, name, disk), some_refused, known, call)?;
            let counters = counters.map(|(counters, times)| stats::disk_counters(counters, times));
            let measured = measured.or(self.disks_measured);
            Ok(Disk { device: name.to_owned(), counters, measured, requests_measured: measured })
        };
        devices.disks.iter().map(ask).collect()
    }

    pub(super) fn sizes(&self) -> Result<Vec<DiskInfo>> {
        let bulk = match self.running() {
            Err(Error::InstanceShutOff { .. }) if self.at.driver.options.report_stopped => None,
            running => running?,
        };
        if self.is_silent() {
            return Err(self.silent());
        }
        let devices = self.devices()?;
        let there = devices.disks.iter().map(|disk| (disk.name.as_str(), disk));
        let some_refused = self.forget_all_devices_but(Parts::SIZES, there);
        let mut disks = Vec::with_capacity(devices.disks.len());
        for disk in &devices.disks {
            let (name, size) = (&disk.name, || self.size(bulk, disk));
            let device = (Parts::SIZES, name.as_str(), disk);
            let (sizes, _) = self.measure(device, some_refused, None, size)?;
            let occupied = |sizes| self.occupied(bulk, disk, sizes);
            disks.extend(sizes.map(|sizes| stats::disk_info(name.clone(), sizes, occupied(sizes))));
        }
        Ok(disks)
    }

    /// What a disk's file occupies: by the bulk reading, or as libvirt says of one that is shut off.
    fn occupied(
        &self,
        bulk: Option<&Bulk>,
        disk: &domain_xml::Disk,
        [_, allocation, _]: [u64; 3],
    ) -> Option<u64> {
        match bulk {
            Some(bulk) => sizes::occupied(disk, bulk.sizes(disk)?, self.at.is_local),
            None if self.state() == Ok(c::VIR_DOMAIN_SHUTOFF) => {
                matches!(*disk.source, domain_xml::Source::File(_)).then_some(allocation)
            }
            None => None,
        }
    }

    /// The sizes of a disk: reckoned, or else by `virDomainGetBlockInfo`.
    fn size(
        &self,
        bulk: Option<&Bulk>,
        disk: &domain_xml::Disk,
    ) -> std::result::Result<[u64; 3], Failure> {
        let (driver, domain) = (self.at.driver, &self.known.domain);
        let told = bulk.and_then(|bulk| bulk.sizes(disk)).filter(|_| driver.options.reckons_sizes);
        let ask = || domain.block_info(&disk.name);
        let again = || domain.stats(DISKS, true).ok()??.sizes(disk);
        driver.sizes.with(|sizes| sizes.of(domain.uuid(), disk, told, self.at.is_local, ask, again))
    }

    /// What the bulk reading tells of a device, or else a call of its own, and when that call measured
    /// it; `None`, and a line for the log, where libvirt refuses it. What was refused is only looked up
    /// where some of the domain's devices were.
    fn measure<T, D: Hash>(
        &self,
        (part, device, described): (Parts, &str, &D),
        some_refused: bool,
        known: Option<T>,
        call: impl FnOnce() -> std::result::Result<T, Failure>,
    ) -> Result<(Option<T>, Option<Instant>)> {
        if known.is_some() && !some_refused {
            return Ok((known, None));
        }
        let (domain, number) = (self.known.domain.uuid(), self.number());
        let question = Question { domain, number, part, device, described };
        let begun = Instant::now();
        let refused = &self.at.driver.refused;
        if known.is_some() {
            refused.with(|refused| refused.told(&question));
            return Ok((known, None));
        }
        if some_refused {
            if let Some(line) = refused.with(|refused| refused.expects(&question, begun)) {
                self.lines.borrow_mut().push((part, line));
                return Ok((None, None));
            }
        }
        match call() {
            Ok(counters) => {
                if some_refused {
                    refused.with(|refused| refused.told(&question));
                }
                // The time of the whole reading is that of its first call.
                if self.moment.get().is_none() {
                    self.measured_since(begun);
                }
                Ok((Some(counters), Some(Instant::now())))
            }
            Err(failure) => {
                let error = self.refused(failure.clone());
                // Not the device's fault.
                if is_of_all(&error) {
                    return Err(error);
                }
                let instance = self.at.instance;
                let what = if part == Parts::SIZES { "the size of " } else { "" };
                // A NIC without a name on the host is told all the same.
                let without_target = &self.devices()?.without_target;
                let is_told = without_target.iter().any(|nic| nic.name == device);
                let then = if is_told { "has no counters" } else { "is left out" };
                let text = format!("{what}{device:?} of instance {instance} {then}: {failure}");
                let line = refused.with(|it| it.refused(&question, failure, begun, text));
                self.lines.borrow_mut().push((part, line));
                Ok((None, None))
            }
        }
    }

    /// Forgets what was refused of devices that are gone; returns whether one of the domain's is refused.
    fn forget_all_devices_but<'b, D: Hash + 'b>(
        &self,
        part: Parts,
        there: impl Iterator<Item = (&'b str, &'b D)>,
    ) -> bool {
        let (domain, number) = (self.known.domain.uuid(), self.number());
        let refused = &self.at.driver.refused;
        refused.with(|refused| refused.forget_all_devices_but(domain, number, part, there))
    }
}

/// A NIC before it is measured.
fn interface(nic: &domain_xml::Nic) -> Interface {
    Interface {
        name: nic.name.clone(),
        mac: nic.mac.clone(),
        fref: nic.fref.clone(),
        parameters: nic.parameters.clone(),
        counters: None,
        measured: None,
        outlives: nic.outlives,
        known_by: None,
    }
}
