//! The sizes of disks without `virDomainGetBlockInfo`, which costs libvirt and QEMU about as much as
//! the bulk reading itself.
//!
//! libvirt's QEMU driver fills both from one answer of QEMU's, in different ways
//! (`qemuDomainGetBlockInfo` and `qemuDomainGetStatsOneBlock` in `src/qemu/qemu_driver.c`). So what
//! the call would say can be reckoned from what the bulk reading says, and from the image's length,
//! which the bulk reading lacks and a `stat` tells. Nothing of this is trusted: the first reading of
//! each disk asks both ways, and so does every fiftieth after it. Where they differ, the disk is asked
//! from then on; and whatever does not fit together is asked.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::domain_xml::{Disk, Source};
use super::sys::{self, File};
use crate::error::Failure;
use crate::hypervisor::SizesRead;
use crate::locks::lock;
use crate::recent::Recent;

/// So many readings of a disk have one among them that asks both ways.
const CHECKED: u8 = 50;

/// What was found about a domain is kept for so long after its last reading.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// QEMU counts the bytes of a raw image in whole sectors, and Linux the blocks of a file likewise.
const SECTOR: u64 = 512;

/// Capacity, allocation and physical, bytes.
pub(super) type Numbers = [u64; 3];

/// What a bulk reading says of a disk of a running domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InBulk {
    /// The domain's number, another at each start.
    pub(super) number: u32,
    pub(super) sizes: Numbers,
}

/// How sizes were reckoned. Each way is checked by itself: that one holds for a disk says nothing
/// about another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Way {
    /// Whether the disk was written to since the start.
    is_written: bool,
    /// Whether that is up to as much as the image occupies.
    is_full: bool,
    /// Inode and device of the file that was looked at, and whether it occupies nothing.
    file: Option<(u64, (u32, u32), bool)>,
}

/// What `virDomainGetBlockInfo` would say; `None` where it must be asked. Pure but for `stat`.
///
/// QEMU tells libvirt a disk's capacity C, the offset W up to which it was written to since the start
/// (or 0), and how many bytes the image occupies, A; of what cannot have holes, A is C. Both calls
/// hand on C. For the others, with S the length of the file or device, where libvirt can get at it:
///
/// | | bulk reading | the call |
/// |---|---|---|
/// | allocation | W | W; A if that is 0, and always of qcow2 in a file |
/// | physical | A; S if that is 0 | A; S if that is 0, or the same as allocation, or W is 0 |
///
/// A block device occupies nothing, as `stat` has it. Of a network's image there is no S (but Gluster's,
/// which libvirt asks); A is C. So only a file's length is missing, unless W and A are there and differ.
fn reckon(
    disk: &Disk,
    [capacity, written, physical]: Numbers,
    stat: impl FnOnce(&str) -> Option<File>,
) -> Option<(Numbers, Way)> {
    let format = disk.format.as_deref()?;
    let way = Way { is_written: written != 0, is_full: written == physical, file: None };
    let differ = way.is_written && !way.is_full;
    match &*disk.source {
        Source::File(path) if format == "qcow2" || !differ => {
            let file = stat(path)?;
            // It must be the file that QEMU has open, as it was when libvirt asked: it occupies what
            // QEMU says, and a raw one is as long as the disk.
            let occupied = match file.blocks.checked_mul(SECTOR)? {
                0 if physical == file.length => 0,
                occupied if occupied == physical => occupied,
                _ => return None,
            };
            let rounded = file.length.checked_next_multiple_of(SECTOR);
            if format == "raw" && rounded != Some(capacity) {
                return None;
            }
            let allocation = if format == "qcow2" || written == 0 { occupied } else { written };
            let way = Way { file: Some((file.inode, file.device, occupied == 0)), ..way };
            Some(([capacity, allocation, file.length], way))
        }
        Source::Network(protocol) if !differ => {
            (protocol != "gluster").then_some(([capacity, physical, physical], way))
        }
        Source::File(_) | Source::Block(_) | Source::Network(_) => {
            Some(([capacity, written, physical], way))
        }
        // A volume, whose kind the XML does not tell, or what libvirt has no sizes of.
        Source::Other => None,
    }
}

/// What the file of a running domain's disk occupies; `None` where nobody tells. Pure but for `stat`.
///
/// That is A of the table above. Where it is 0, the bulk reading has the length instead, which may be
/// so of a raw image alone: of any other one, there is at least its header.
pub(super) fn occupied(disk: &Disk, bulk: InBulk, is_local: bool) -> Option<u64> {
    occupied_by(disk, bulk.sizes, |path| if is_local { sys::file(path) } else { None })
}

fn occupied_by(
    disk: &Disk,
    [capacity, _, physical]: Numbers,
    stat: impl FnOnce(&str) -> Option<File>,
) -> Option<u64> {
    let Source::File(path) = &*disk.source else { return None };
    if disk.format.as_deref().is_some_and(|format| format != "raw") {
        return Some(physical);
    }
    let file = stat(path);
    let by_file = file.as_ref().and_then(|file| file.blocks.checked_mul(SECTOR));
    let may_be_length = physical.checked_next_multiple_of(SECTOR) == Some(capacity)
        || file.is_some_and(|file| file.length == physical);
    match by_file {
        Some(occupied) if occupied == physical => Some(physical),
        Some(0) if may_be_length => Some(0),
        _ => (!may_be_length).then_some(physical),
    }
}

/// What was found when a disk was asked both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// It was the same; so many readings need not ask.
    Same { left: u8 },
    /// It was not.
    Different,
}

/// Where the sizes of a disk that can be reckoned are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Reckon,
    Ask,
    AskBothWays,
}

impl Found {
    /// What this reading does, which is counted.
    fn decide(&mut self) -> Decision {
        match self {
            Found::Same { left: 0 } => Decision::AskBothWays,
            Found::Same { left } => {
                *left -= 1;
                Decision::Reckon
            }
            Found::Different => Decision::Ask,
        }
    }
}

/// Whether what was reckoned before agrees with what was asked for then, and reckoned again `after`.
/// A guest may write meanwhile: then the answer is in between. `None` where that tells nothing.
fn agrees(
    before: Numbers,
    asked: Numbers,
    after: impl FnOnce() -> Option<Numbers>,
) -> Option<bool> {
    if asked == before {
        return Some(true);
    }
    let after = after()?;
    let is_between = |((before, asked), after): ((u64, u64), u64)| {
        (before.min(after)..=before.max(after)).contains(&asked)
    };
    if before.into_iter().zip(asked).zip(after).all(is_between) {
        Some(true)
    } else {
        (before == after).then_some(false)
    }
}

/// What was found about each disk, for all connections to one libvirt.
#[derive(Debug)]
pub(super) struct Sizes {
    domains: Mutex<Recent<Uuid, Domain>>,
    hash: RandomState,
    reckoned: AtomicU64,
    asked: AtomicU64,
    differed: AtomicU64,
}

/// The disks of a domain, of which much was found since it was started.
#[derive(Debug, Default)]
struct Domain {
    number: u32,
    disks: Vec<Checked>,
}

/// What was found about a disk. Names and paths are long, and nobody reads them: these are hashes.
#[derive(Debug, Clone, Copy)]
struct Checked {
    name: u64,
    /// Of its source, its format, and the way in which it was reckoned.
    by: u64,
    found: Found,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            domains: Mutex::new(Recent::new(KEPT)),
            hash: RandomState::new(),
            reckoned: AtomicU64::default(),
            asked: AtomicU64::default(),
            differed: AtomicU64::default(),
        }
    }
}

impl Sizes {
    /// The sizes of a disk as `virDomainGetBlockInfo` would say them: reckoned, or else by that call,
    /// which is `ask`.
    ///
    /// `bulk` is what a bulk reading has just said of it, if it did and may be used. `again` asks for
    /// another one, where the two ways differ. `is_local` says that libvirt's files are on this host.
    pub(super) fn of(
        &self,
        domain: Uuid,
        disk: &Disk,
        bulk: Option<InBulk>,
        is_local: bool,
        ask: impl FnOnce() -> Result<Numbers, Failure>,
        again: impl FnOnce() -> Option<InBulk>,
    ) -> Result<Numbers, Failure> {
        let ask = || {
            self.asked.fetch_add(1, Relaxed);
            ask()
        };
        // The bulk reading has just been answered, and QEMU has made the same `stat` for it: where
        // storage is dead, this is not reached. Where it dies in between, this thread hangs as it
        // would in libvirt's call, and is given up and replaced like any that does. What `stat` says
        // without asking a server may be old; then it does not fit, and libvirt is asked.
        let stat = |path: &str| if is_local { sys::file(path) } else { None };
        let reckoned = bulk.and_then(|bulk| Some((bulk.number, reckon(disk, bulk.sizes, stat)?)));
        let Some((number, (sizes, way))) = reckoned else { return ask() };
        let checked = Checked {
            name: self.hash.hash_one(&disk.name),
            by: self.hash.hash_one((&disk.source, &disk.format, way)),
            found: Found::Different,
        };
        match self.decide(domain, number, checked) {
            Decision::Reckon => {
                self.reckoned.fetch_add(1, Relaxed);
                Ok(sizes)
            }
            Decision::Ask => ask(),
            Decision::AskBothWays => {
                let answer = ask()?;
                let after = || {
                    let bulk = again().filter(|bulk| bulk.number == number)?;
                    let (sizes, by_now) = reckon(disk, bulk.sizes, stat)?;
                    (by_now == way).then_some(sizes)
                };
                if let Some(same) = agrees(sizes, answer, after) {
                    self.settle(domain, number, checked, same);
                }
                Ok(answer)
            }
        }
    }

    /// Drops the domains that do not exist, by a list that was asked for then.
    pub(super) fn forget_all_but(&self, existing: &HashSet<Uuid>, asked: Instant) {
        self.lock().forget_all_but(asked, |domain| existing.contains(domain));
    }

    /// Drops all that was found: the libvirt that comes back may be another one.
    pub(super) fn forget(&self) {
        *self.lock() = Recent::new(KEPT);
    }

    /// How many sizes were reckoned, asked for, and found to differ.
    pub(super) fn counted(&self) -> SizesRead {
        SizesRead {
            reckoned: self.reckoned.load(Relaxed),
            asked: self.asked.load(Relaxed),
            differed: self.differed.load(Relaxed),
        }
    }

    fn decide(&self, domain: Uuid, number: u32, disk: Checked) -> Decision {
        let mut domains = self.lock();
        let known = domains.get_mut(&domain, Instant::now()).filter(|known| known.number == number);
        let found = known.and_then(|known| known.disk(disk.name)).filter(|it| it.by == disk.by);
        found.map_or(Decision::AskBothWays, |checked| checked.found.decide())
    }

    fn settle(&self, domain: Uuid, number: u32, disk: Checked, same: bool) {
        let mut domains = self.lock();
        let known = domains.get_or_default(domain, Instant::now());
        if known.number != number {
            *known = Domain { number, disks: Vec::new() };
        }
        let earlier = known.disk(disk.name);
        let found = if !same {
            self.differed.fetch_add(1, Relaxed);
            Found::Different
        } else if earlier.as_ref().is_some_and(|earlier| earlier.by == disk.by) {
            Found::Same { left: CHECKED - 1 }
        } else {
            // Those that were first read together are not all asked together again.
            let spread = self.hash.hash_one((domain, disk.name)) % u64::from(CHECKED - 1);
            Found::Same { left: 1 + u8::try_from(spread).unwrap_or_default() }
        };
        let checked = Checked { found, ..disk };
        match earlier {
            Some(earlier) => *earlier = checked,
            None => known.disks.push(checked),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Recent<Uuid, Domain>> {
        lock(&self.domains)
    }
}

impl Domain {
    fn disk(&mut self, name: u64) -> Option<&mut Checked> {
        self.disks.iter_mut().find(|disk| disk.name == name)
    }
}

/// Whether the daemon that a connection leads to has this host's files, by its URI
/// (<https://libvirt.org/uri.html>). In a container they may still be others.
pub(super) fn is_local(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once("://") else { return false };
    let transport = scheme.split_once('+').map_or("unix", |(_, transport)| transport);
    transport == "unix" && rest.starts_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VM: Uuid = Uuid::nil();
    const PATH: &str = "/images/a";

    fn disk(source: Source, format: &str) -> Disk {
        Disk { name: "vda".to_owned(), source: source.into(), format: Some(format.into()) }
    }

    fn in_file(format: &str) -> Disk {
        disk(Source::File(PATH.to_owned()), format)
    }

    fn file(length: u64, blocks: u64) -> File {
        File { inode: 7, device: (8, 1), length, blocks }
    }

    fn numbers(disk: &Disk, bulk: Numbers, file: Option<File>) -> Option<Numbers> {
        reckon(disk, bulk, |_| file).map(|(numbers, _)| numbers)
    }

    /// What libvirt says in both ways of what QEMU says: a disk's capacity, up to where it was
    /// written to since the start (if it tells), what the image occupies (0 if it does not tell); and
    /// of what libvirt finds itself, the length of the file or device.
    fn libvirt(
        disk: &Disk,
        capacity: u64,
        written: Option<u64>,
        occupied: u64,
        length: Option<u64>,
    ) -> (Option<Numbers>, Numbers) {
        let or = |number, other| if number == 0 { other } else { number };
        let physical = if occupied == 0 { length } else { Some(occupied) };
        let bulk = physical.map(|physical| [capacity, written.unwrap_or(0), physical]);
        let is_qcow2 = disk.format.as_deref() == Some("qcow2");
        let allocation = match written {
            Some(written) if !(is_qcow2 && matches!(*disk.source, Source::File(_))) => written,
            _ => occupied,
        };
        let is_sparse = occupied == 0 || allocation == 0 || allocation == occupied;
        let physical = length.filter(|_| is_sparse).unwrap_or(occupied);
        (bulk, [capacity, or(allocation, occupied), physical])
    }

    #[test]
    fn what_a_file_occupies_is_not_taken_for_its_length() {
        const LENGTH: u64 = 1 << 30;
        let of = |disk: &Disk, physical, file: Option<File>| {
            occupied_by(disk, [LENGTH, 7, physical], |_| file)
        };
        let raw = in_file("raw");
        assert_eq!(of(&raw, 65536, Some(file(LENGTH, 128))), Some(65536));
        assert_eq!(of(&raw, 65536, Some(file(LENGTH, 136))), Some(65536), "it grows");
        assert_eq!(of(&raw, 65536, None), Some(65536), "on another host");
        assert_eq!(of(&raw, LENGTH, Some(file(LENGTH, LENGTH / 512))), Some(LENGTH));
        assert_eq!(of(&raw, LENGTH, Some(file(LENGTH, 0))), Some(0), "it is empty");
        assert_eq!(of(&raw, LENGTH, Some(file(LENGTH, 8))), None, "it was empty just now");
        assert_eq!(of(&raw, LENGTH, None), None, "empty or full");
        assert_eq!(of(&in_file("qcow2"), 196_608, None), Some(196_608));
        assert_eq!(of(&disk(Source::Block(PATH.to_owned()), "raw"), LENGTH, None), None);
        assert_eq!(of(&disk(Source::Network("rbd".to_owned()), "raw"), LENGTH, None), None);
    }

    /// Numbers that are the same or zero more often than chance would have it.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(512), Just(1024), Just(4096), 0..10_000_u64, any::<u64>()]
    }

    proptest! {
        #[test]
        fn what_is_reckoned_of_a_file_is_what_libvirt_says(
            format in "raw|qcow2|vmdk",
            (capacity, written) in (number(), prop::option::of(number())),
            (length, blocks) in (number(), 0..100_u64),
        ) {
            let disk = in_file(&format);
            let (bulk, asked) = libvirt(&disk, capacity, written, blocks * 512, Some(length));
            let reckoned = numbers(&disk, bulk.unwrap(), Some(file(length, blocks)));
            prop_assert!(reckoned.is_none_or(|reckoned| reckoned == asked));
            // Only of raw ones is known how long they must be.
            let fits = format != "raw" || length.checked_next_multiple_of(512) == Some(capacity);
            prop_assert!(reckoned.is_some() || !fits);
        }

        #[test]
        fn what_is_reckoned_of_a_device_or_a_server_is_what_libvirt_says(
            format in "raw|qcow2",
            (capacity, written) in (number(), prop::option::of(number())),
            (occupied, length) in (number(), number()),
        ) {
            let device = disk(Source::Block(PATH.to_owned()), &format);
            let (bulk, asked) = libvirt(&device, capacity, written, 0, Some(length));
            prop_assert_eq!(numbers(&device, bulk.unwrap(), None), Some(asked));
            let nbd = disk(Source::Network("nbd".to_owned()), &format);
            if let (Some(bulk), asked) = libvirt(&nbd, capacity, written, occupied, None) {
                prop_assert_eq!(numbers(&nbd, bulk, None), Some(asked));
            }
            let gluster = disk(Source::Network("gluster".to_owned()), &format);
            let (bulk, asked) = libvirt(&gluster, capacity, written, occupied, Some(length));
            let reckoned = numbers(&gluster, bulk.unwrap(), None);
            prop_assert!(reckoned.is_none_or(|reckoned| reckoned == asked));
        }

        #[test]
        fn a_file_that_occupies_something_else_is_not_the_one(
            format in "raw|qcow2",
            (length, blocks, occupied) in (number(), 0..100_u64, 1..100_u64),
        ) {
            prop_assume!(blocks != occupied && (blocks != 0 || length != occupied * 512));
            let bulk = [length, 0, occupied * 512];
            prop_assert_eq!(numbers(&in_file(&format), bulk, Some(file(length, blocks))), None);
        }
    }

    #[test]
    fn what_was_tried_on_libvirt_9() {
        let (raw, qcow2) = (in_file("raw"), in_file("qcow2"));
        let device = disk(Source::Block(PATH.to_owned()), "raw");
        let nbd = disk(Source::Network("nbd".to_owned()), "raw");
        let mib = |number: u64| number << 20;
        for (what, disk, bulk, file, asked) in [
            ("sparse", &raw, [mib(16), 0, mib(16)], Some(file(mib(16), 0)), [mib(16), 0, mib(16)]),
            ("written", &raw, [mib(16), 589_824, 65_536], None, [mib(16), 589_824, 65_536]),
            ("full", &raw, [mib(4), 0, mib(4)], Some(file(mib(4), 8192)), [mib(4); 3]),
            ("odd", &raw, [6656, 0, 8192], Some(file(6145, 16)), [6656, 8192, 6145]),
            ("discarded", &raw, [mib(16); 3], Some(file(mib(16), 0)), [mib(16); 3]),
            (
                "qcow2",
                &qcow2,
                [mib(16), 393_216, 331_776],
                Some(file(393_216, 648)),
                [mib(16), 331_776, 393_216],
            ),
            ("unwritten", &device, [mib(8), 0, mib(8)], None, [mib(8), 0, mib(8)]),
            ("device", &device, [mib(8), 589_824, mib(8)], None, [mib(8), 589_824, mib(8)]),
            ("unwritten NBD", &nbd, [mib(16), 0, mib(16)], None, [mib(16); 3]),
            ("NBD", &nbd, [mib(16), 589_824, mib(16)], None, [mib(16), 589_824, mib(16)]),
        ] {
            assert_eq!(numbers(disk, bulk, file), Some(asked), "{what}");
        }
    }

    #[test]
    fn what_is_not_known_is_asked() {
        let no_format = Disk { format: None, ..in_file("raw") };
        assert_eq!(numbers(&no_format, [512; 3], Some(file(512, 1))), None);
        assert_eq!(numbers(&disk(Source::Other, "raw"), [512; 3], Some(file(512, 1))), None);
        assert_eq!(numbers(&in_file("raw"), [512, 0, 512], None), None, "no such file here");
        let longer = Some(file(1024, 1));
        assert_eq!(numbers(&in_file("raw"), [512, 0, 512], longer), None, "it has another length");
    }

    #[test]
    fn an_answer_agrees_that_lies_between_two_readings() {
        let not_again = || unreachable!("it agrees at once");
        assert_eq!(agrees([3, 2, 1], [3, 2, 1], not_again), Some(true));
        assert_eq!(agrees([3, 2, 1], [3, 4, 1], || Some([3, 5, 1])), Some(true));
        assert_eq!(agrees([3, 5, 1], [3, 4, 1], || Some([3, 2, 1])), Some(true), "it shrinks");
        assert_eq!(agrees([3, 2, 1], [3, 4, 1], || Some([3, 2, 1])), Some(false));
        assert_eq!(agrees([3, 2, 1], [3, 4, 2], || Some([3, 5, 1])), None, "one moves, one is off");
        assert_eq!(agrees([3, 2, 1], [3, 4, 1], || None), None);
    }

    #[test]
    fn a_disk_is_asked_after_so_many_readings() {
        let mut found = Found::Same { left: 2 };
        let decisions: Vec<_> = (0..4).map(|_| found.decide()).collect();
        let (reckon, both) = (Decision::Reckon, Decision::AskBothWays);
        assert_eq!(decisions, [reckon, reckon, both, both]);
        assert_eq!(Found::Different.decide(), Decision::Ask);
    }

    /// A disk that is read, and what comes of it.
    #[derive(Default)]
    struct Rig {
        sizes: Sizes,
        number: u32,
        /// What the bulk reading says, of the device and of the way there.
        bulk: Numbers,
    }

    impl Rig {
        fn read(&self, disk: &Disk, asked: Numbers) -> Numbers {
            let bulk = InBulk { number: self.number, sizes: self.bulk };
            let again = || Some(bulk);
            self.sizes.of(VM, disk, Some(bulk), true, || Ok(asked), again).unwrap()
        }

        fn counted(&self) -> [u64; 3] {
            let SizesRead { reckoned, asked, differed } = self.sizes.counted();
            [reckoned, asked, differed]
        }
    }

    const SAID: Numbers = [4, 3, 2];
    const OTHER: Numbers = [4, 3, 3];

    fn device() -> Disk {
        disk(Source::Block(PATH.to_owned()), "raw")
    }

    #[test]
    fn one_reading_in_fifty_asks() {
        let rig = Rig { bulk: SAID, ..Rig::default() };
        for _ in 0..(50 * 20) {
            assert_eq!(rig.read(&device(), SAID), SAID);
        }
        let [reckoned, asked, differed] = rig.counted();
        assert_eq!((reckoned + asked, differed), (1000, 0));
        assert!((20..=21).contains(&asked), "{asked} and the first");
    }

    #[test]
    fn disks_that_were_first_read_together_are_not_asked_together() {
        let rig = Rig { bulk: SAID, ..Rig::default() };
        let disks: Vec<_> =
            (0..1000).map(|name: u32| Disk { name: name.to_string(), ..device() }).collect();
        let mut before = 0;
        for cycle in 0..200 {
            for disk in &disks {
                rig.read(disk, SAID);
            }
            let [_, asked, _] = rig.counted();
            // 20 on average, with a standard deviation below 5.
            assert!(cycle == 0 || asked - before < 60, "{} in cycle {cycle}", asked - before);
            before = asked;
        }
    }

    #[test]
    fn a_disk_that_differs_once_is_asked_from_then_on() {
        let rig = Rig { bulk: SAID, ..Rig::default() };
        assert_eq!(rig.read(&device(), SAID), SAID);
        // It is handed out as long as nobody asks; then never again.
        let reads: Vec<_> = (0..200).map(|_| rig.read(&device(), OTHER)).collect();
        let first = reads.iter().position(|read| *read == OTHER).unwrap();
        assert!(first < 50);
        assert!(reads[first..].iter().all(|read| *read == OTHER));
        assert_eq!(rig.counted()[2], 1);
    }

    #[test]
    fn a_disk_whose_source_format_way_or_start_is_another_begins_anew() {
        let mut rig = Rig { bulk: SAID, ..Rig::default() };
        let asks = |rig: &Rig, disk: &Disk| {
            let [_, before, _] = rig.counted();
            rig.read(disk, rig.bulk);
            rig.counted()[1] > before
        };
        let settled = |rig: &Rig, disk: &Disk| !asks(rig, disk) || !asks(rig, disk);
        assert!(asks(&rig, &device()));
        assert!(settled(&rig, &device()));
        let other = disk(Source::Block("/images/b".to_owned()), "raw");
        assert!(asks(&rig, &other));
        assert!(settled(&rig, &other));
        let other = Disk { format: Some("qcow2".into()), ..other };
        assert!(asks(&rig, &other));
        assert!(settled(&rig, &other));
        for bulk in [[4, 0, 2], [4, 2, 2], SAID] {
            rig.bulk = bulk;
            assert!(asks(&rig, &other), "{bulk:?}");
            assert!(settled(&rig, &other));
        }
        rig.number += 1;
        assert!(asks(&rig, &other));
        assert!(settled(&rig, &other));
        rig.sizes.forget();
        assert!(asks(&rig, &other));
        assert!(settled(&rig, &other));
        rig.sizes.forget_all_but(&HashSet::from([VM]), Instant::now());
        assert!(settled(&rig, &other));
        rig.sizes.forget_all_but(&HashSet::new(), Instant::now());
        assert!(asks(&rig, &other));
    }

    #[test]
    fn files_are_looked_at_only_where_libvirt_is_on_this_host() {
        let sizes = Sizes::default();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let File { length, blocks, .. } = sys::file(path).unwrap();
        let disk = disk(Source::File(path.to_owned()), "qcow2");
        let bulk = InBulk { number: 1, sizes: [1, 0, blocks * 512] };
        let answer = [1, blocks * 512, length];
        for _ in 0..100 {
            let read = sizes.of(VM, &disk, Some(bulk), false, || Ok(answer), || None);
            assert_eq!(read, Ok(answer));
        }
        assert_eq!(sizes.counted().reckoned, 0);
        for _ in 0..100 {
            let read = sizes.of(VM, &disk, Some(bulk), true, || Ok(answer), || None);
            assert_eq!(read, Ok(answer));
        }
        assert!(sizes.counted().reckoned > 90);
    }

    #[test]
    fn what_is_no_regular_file_is_none() {
        assert_eq!(sys::file("/dev/null"), None);
        assert_eq!(sys::file("/"), None);
        assert_eq!(sys::file("/nowhere/at/all"), None);
        assert_eq!(sys::file("/\0"), None);
    }

    #[test]
    fn a_uri_leads_to_this_host_or_elsewhere() {
        for uri in [
            "qemu:///system",
            "qemu:///session",
            "qemu+unix:///system?socket=/run/libvirt/sock",
            "lxc:///",
        ] {
            assert!(is_local(uri), "{uri}");
        }
        for uri in [
            "",
            "alias",
            "qemu:system",
            "qemu+ssh://root@host/system",
            "qemu+ssh:///system",
            "qemu+tcp://localhost/system",
            "qemu+tls://host/system",
            "qemu+ext:///system?command=x",
            "qemu://host/system",
        ] {
            assert!(!is_local(uri), "{uri}");
        }
    }

    #[test]
    fn a_disk_takes_little_room() {
        assert_eq!(size_of::<Checked>(), 24);
    }
}
