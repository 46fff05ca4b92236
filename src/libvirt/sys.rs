//! The one `unsafe` room: C calls, libvirt's above all, with their memory and their errors put in
//! order.
//!
//! Each function is one libvirt call (<https://libvirt.org/html/libvirt-libvirt-domain.html>).
//! A failure is taken from libvirt's thread-local error right after the call, on the same thread.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulong, c_void};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, LazyLock, Once};

use uuid::Uuid;
use virt_sys as c;

use super::bulk::{Bulk, DiskTimes};
use super::calls::{Call, Calls};
use crate::error::Failure;
use crate::per_process::PerProcess;
use crate::printable::{MAX_SHOWN, cut};

/// The most block parameters that libvirt's wire protocol carries for one disk.
const BLOCK_PARAMETERS: usize = 16;

/// The most memory statistics that it carries for one domain. libvirt's client copies as many as the daemon sends,
/// whatever it was told, so there must be room for all of them.
const MEMORY_STATS: usize = 1024;

type Answer<T> = Result<T, Failure>;

thread_local! {
    /// Whether this thread is opening a connection, so that a failure is ours to report.
    static OPENING: Cell<bool> = const { Cell::new(false) };
}

/// How many threads are opening a connection.
static OPENS: LazyLock<PerProcess<AtomicUsize>> = LazyLock::new(Default::default);

/// Keeps libvirt from printing the failure of our own opens on stderr.
///
/// There is no connection yet that could have a handler of its own, so this takes the process-wide
/// handler, passes everybody else's errors on to libvirt's default one, and yields to any handler
/// that is set later. libvirt does not tell whether one was set before, so that is for the caller
/// to know.
pub(super) fn quiet_opens() {
    static ONCE: Once = Once::new();
    // SAFETY: the handler is a plain function that lives as long as the process.
    ONCE.call_once(|| unsafe { c::virSetErrorFunc(ptr::null_mut(), Some(print_unless_opening)) });
}

extern "C" fn print_unless_opening(_: *mut c_void, error: c::virErrorPtr) {
    if !OPENING.get() {
        // SAFETY: libvirt hands over its own error, for the length of this call.
        unsafe { c::virDefaultErrorFunc(error) };
    }
}

/// Whether this process may open so many more files. None is opened to find out: others may need it just then.
pub(super) fn has_descriptors(enough: usize) -> bool {
    let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: it is as large as what the kernel writes.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) } != 0 {
        return true;
    }
    // SAFETY: all zeros are valid, and it was filled in.
    let most = unsafe { limit.assume_init() }.rlim_cur;
    let most = c_int::try_from(most).unwrap_or(c_int::MAX);
    // From above, where they are free in most processes.
    let descriptors = (0..most).rev();
    // SAFETY: it changes nothing.
    let is_free = |fd: &c_int| unsafe { libc::fcntl(*fd, libc::F_GETFD) } == -1;
    descriptors.filter(is_free).take(enough).count() == enough
}

/// Has libvirt tell no handler of errors any more, whoever has set one. What fails still says so.
#[cfg(feature = "python")]
pub(super) fn silence() {
    // SAFETY: the handler does nothing, and lives as long as the process.
    unsafe { c::virSetErrorFunc(ptr::null_mut(), Some(ignore_error)) };
}

/// Whether any thread is opening a connection, and may be in a handler of errors.
#[cfg(feature = "python")]
pub(super) fn is_opening() -> bool {
    OPENS.with(|opens| opens.load(SeqCst) > 0)
}

/// Is asked for what libvirt's auth.conf does not tell of a login: there is nobody to answer.
extern "C" fn no_credentials(_: c::virConnectCredentialPtr, _: c_uint, _: *mut c_void) -> c_int {
    -1
}

extern "C" fn ignore_error(_: *mut c_void, _: c::virErrorPtr) {}

static FORKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn forked() {
    FORKS.fetch_add(1, Relaxed);
}

/// How often this process, or one that it descends from, was forked since somebody first asked: what
/// was made in another generation is another process'.
pub(crate) fn generation() -> u64 {
    static ONCE: Once = Once::new();
    // SAFETY: the handler only counts, which is allowed in a child, and lives as long as the process.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(forked));
    });
    FORKS.load(Relaxed)
}

/// Which signals are not delivered to a thread.
#[derive(Clone, Copy)]
pub(crate) struct SignalMask(libc::sigset_t);

impl SignalMask {
    /// Blocks all signals in this thread but those by which it tells of a fault of its own, and a
    /// profiler's, and returns its mask until then. A thread that it starts inherits what is blocked.
    pub(crate) fn block_all() -> Self {
        const DELIVERED: [c_int; 8] = [
            libc::SIGABRT,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGPROF,
            libc::SIGSEGV,
            libc::SIGSYS,
            libc::SIGTRAP,
        ];
        let mut blocked = MaybeUninit::uninit();
        // SAFETY: the set is filled before anything is taken out of it.
        let blocked = unsafe {
            libc::sigfillset(blocked.as_mut_ptr());
            for signal in DELIVERED {
                libc::sigdelset(blocked.as_mut_ptr(), signal);
            }
            blocked.assume_init()
        };
        Self(blocked).apply(libc::SIG_BLOCK)
    }

    /// Makes it this thread's, and returns the one until then.
    pub(crate) fn set(self) -> Self {
        self.apply(libc::SIG_SETMASK)
    }

    fn apply(self, how: c_int) -> Self {
        let mut before = MaybeUninit::uninit();
        // SAFETY: the call fills the set; it only fails where it does not know `how`.
        unsafe {
            libc::pthread_sigmask(how, &raw const self.0, before.as_mut_ptr());
            Self(before.assume_init())
        }
    }
}

/// What libvirt says about the call that this thread made last.
fn last_failure() -> Failure {
    // SAFETY: the pointer is null or the thread's own error, which stays until the next call.
    match unsafe { c::virGetLastError().as_ref() } {
        Some(error) => Failure::of_libvirt(
            error.code,
            error.domain,
            // A daemon may send an error without words.
            text(error.message).unwrap_or_else(|| "libvirt gave no message".to_owned()),
        ),
        None => failure(c::VIR_ERR_INTERNAL_ERROR, "libvirt failed without saying why".to_owned()),
    }
}

/// A failure in libvirt's terms that libvirt itself did not tell of.
fn failure(code: c::virErrorNumber, message: String) -> Failure {
    let domain = c_int::try_from(c::VIR_FROM_NONE).unwrap_or_default();
    Failure::of_libvirt(c_int::try_from(code).unwrap_or_default(), domain, message)
}

/// A copy of a C string; `None` for a null pointer.
fn text(chars: *const c_char) -> Option<String> {
    // SAFETY: libvirt's strings end in NUL, and the callers' pointers are valid during the call.
    (!chars.is_null()).then(|| unsafe { CStr::from_ptr(chars) }.to_string_lossy().into_owned())
}

fn check(status: c_int) -> Answer<c_int> {
    if status < 0 { Err(last_failure()) } else { Ok(status) }
}

/// A string for C. Text from domain XML cannot hold a NUL, and a URI is checked where it comes in.
fn c_string(text: &str) -> Answer<CString> {
    CString::new(text)
        .map_err(|_| failure(c::VIR_ERR_INVALID_ARG, format!("{text:?} contains a NUL")))
}

/// An open, read-only connection; closed when dropped in the process that opened it, which is a
/// round trip of its own.
pub(super) struct Connection {
    ptr: NonNull<c::_virConnect>,
    generation: u64,
    calls: Arc<Calls>,
}

impl Connection {
    /// `virConnectOpenAuth`, read-only: where a login is wanted, libvirt takes it from its auth.conf.
    pub(super) fn open_read_only(uri: &str, calls: Arc<Calls>) -> Answer<Self> {
        let uri = c_string(uri)?;
        // libvirt looks into its auth.conf only for what a caller says that it could ask a user for.
        let mut kinds = [c::VIR_CRED_AUTHNAME, c::VIR_CRED_PASSPHRASE, c::VIR_CRED_REALM]
            .map(|kind| c_int::try_from(kind).unwrap_or_default());
        let mut auth = c::virConnectAuth {
            credtype: kinds.as_mut_ptr(),
            ncredtype: c_uint::try_from(kinds.len()).unwrap_or_default(),
            cb: Some(no_credentials),
            cbdata: ptr::null_mut(),
        };
        let out = calls.begin(Call::Open);
        OPENING.set(true);
        OPENS.with(|opens| opens.fetch_add(1, SeqCst));
        // SAFETY: the string and the kinds of credentials outlive the call, and so does the callback.
        let ptr = NonNull::new(unsafe {
            c::virConnectOpenAuth(uri.as_ptr(), &raw mut auth, c::VIR_CONNECT_RO)
        });
        OPENS.with(|opens| opens.fetch_sub(1, SeqCst));
        OPENING.set(false);
        let Some(ptr) = ptr else {
            out.was_not_answered();
            return Err(last_failure());
        };
        drop(out);
        // SAFETY: the connection is valid; the handler lives as long as the process.
        unsafe { c::virConnSetErrorFunc(ptr.as_ptr(), ptr::null_mut(), Some(ignore_error)) };
        Ok(Self { ptr, generation: generation(), calls })
    }

    /// `virConnectIsAlive`: a local flag, no round trip.
    pub(super) fn is_alive(&self) -> bool {
        // SAFETY: the connection is valid.
        unsafe { c::virConnectIsAlive(self.ptr.as_ptr()) == 1 }
    }

    /// `virConnectGetURI`: where this connection leads, known on our side of it.
    pub(super) fn uri(&self) -> Option<String> {
        // SAFETY: the connection is valid; what libvirt returns is null or ours.
        let uri = unsafe { c::virConnectGetURI(self.ptr.as_ptr()) };
        let known = text(uri);
        // SAFETY: libvirt allocated the string with malloc.
        unsafe { libc::free(uri.cast()) };
        known
    }

    /// `virDomainLookupByUUID`
    pub(super) fn lookup(&self, uuid: Uuid) -> Answer<Domain> {
        let _out = self.calls.begin(Call::Lookup);
        // SAFETY: the connection is valid, and a UUID is the 16 bytes that libvirt reads.
        let ptr = unsafe { c::virDomainLookupByUUID(self.ptr.as_ptr(), uuid.as_bytes().as_ptr()) };
        Domain::owned(ptr, &self.calls).ok_or_else(last_failure)
    }

    /// `virConnectListAllDomains`
    pub(super) fn domains(&self) -> Answer<Vec<Domain>> {
        let _out = self.calls.begin(Call::List);
        let mut list = ptr::null_mut();
        // SAFETY: the connection is valid; libvirt allocates the array.
        let count =
            check(unsafe { c::virConnectListAllDomains(self.ptr.as_ptr(), &raw mut list, 0) })?;
        let count = usize::try_from(count).unwrap_or_default();
        let domains = (0..count)
            // SAFETY: the array has `count` domains, each of which we own now.
            .filter_map(|i| Domain::owned(unsafe { *list.add(i) }, &self.calls))
            .collect();
        // SAFETY: libvirt allocated the array itself with malloc.
        unsafe { libc::free(list.cast()) };
        Ok(domains)
    }

    /// `virNodeGetInfo`: how many CPUs the host has.
    pub(super) fn host_cpus(&self) -> Answer<u32> {
        let _out = self.calls.begin(Call::NodeInfo);
        let mut info = MaybeUninit::<c::_virNodeInfo>::zeroed();
        // SAFETY: the connection is valid; libvirt fills the struct.
        check(unsafe { c::virNodeGetInfo(self.ptr.as_ptr(), info.as_mut_ptr()) })?;
        // SAFETY: zeroed integers are valid, and libvirt has filled them in.
        Ok(unsafe { info.assume_init() }.cpus)
    }

    /// `virConnectGetLibVersion`: which libvirt answers, 6009000 for 6.9.0, say.
    pub(super) fn lib_version(&self) -> Answer<c_ulong> {
        let _out = self.calls.begin(Call::LibVersion);
        let mut version = 0;
        // SAFETY: the connection is valid; libvirt fills in the number.
        check(unsafe { c::virConnectGetLibVersion(self.ptr.as_ptr(), &raw mut version) })?;
        Ok(version)
    }

    /// `virConnectGetAllDomainStats`: one group of every domain, in one round trip.
    pub(super) fn all_stats<T>(
        &self,
        group: c_uint,
        each: impl Fn(&Domain, &Bulk) -> T,
    ) -> Answer<Vec<T>> {
        let _out = self.calls.begin(Call::List);
        let mut records = ptr::null_mut();
        // SAFETY: the connection is valid; libvirt allocates the records.
        let count = check(unsafe {
            c::virConnectGetAllDomainStats(self.ptr.as_ptr(), group, &raw mut records, 0)
        })?;
        Ok(take_records(records, count, &self.calls, |domain, bulk| each(domain, &bulk)))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // In a forked child the socket is the parent's, who would lose it: leave it alone.
        if self.generation == generation() {
            // SAFETY: the connection is valid, and this is our last use of it.
            unsafe { c::virConnectClose(self.ptr.as_ptr()) };
        }
    }
}

/// A domain, which holds its connection open as long as it lives.
pub(super) struct Domain {
    ptr: NonNull<c::_virDomain>,
    calls: Arc<Calls>,
}

/// `virDomainInfo`
#[derive(Debug, Clone, Copy)]
pub(super) struct DomainInfo {
    pub(super) state: u32,
    pub(super) max_memory_kib: u64,
    pub(super) memory_kib: u64,
    pub(super) vcpus: u16,
    pub(super) cpu_time: u64,
}

impl Domain {
    fn owned(ptr: c::virDomainPtr, calls: &Arc<Calls>) -> Option<Self> {
        NonNull::new(ptr).map(|ptr| Self { ptr, calls: Arc::clone(calls) })
    }

    /// `virDomainGetUUID`: known since the look-up, no round trip.
    pub(super) fn uuid(&self) -> Uuid {
        let mut bytes = [0_u8; 16];
        // SAFETY: the domain is valid; libvirt writes the 16 bytes of a UUID.
        unsafe { c::virDomainGetUUID(self.ptr.as_ptr(), bytes.as_mut_ptr()) };
        Uuid::from_bytes(bytes)
    }

    /// `virDomainGetName`: known since the look-up, no round trip.
    pub(super) fn name(&self) -> String {
        // SAFETY: the domain is valid; the name belongs to it.
        let name = text(unsafe { c::virDomainGetName(self.ptr.as_ptr()) }).unwrap_or_default();
        // QEMU's fit in the names of files, but a daemon may say anything.
        cut(&name, MAX_SHOWN).to_owned()
    }

    /// `virDomainGetInfo`
    pub(super) fn info(&self) -> Answer<DomainInfo> {
        let _out = self.calls.begin(Call::Info);
        let mut info = MaybeUninit::<c::_virDomainInfo>::zeroed();
        // SAFETY: the domain is valid; libvirt fills the struct.
        check(unsafe { c::virDomainGetInfo(self.ptr.as_ptr(), info.as_mut_ptr()) })?;
        // SAFETY: zeroed integers are valid, and libvirt has filled them in.
        let info = unsafe { info.assume_init() };
        Ok(DomainInfo {
            state: u32::from(info.state),
            max_memory_kib: info.maxMem,
            memory_kib: info.memory,
            vcpus: info.nrVirtCpu,
            cpu_time: info.cpuTime,
        })
    }

    /// `virDomainGetXMLDesc`: what should be UTF-8.
    pub(super) fn xml(&self) -> Answer<Vec<u8>> {
        let _out = self.calls.begin(Call::Xml);
        // SAFETY: the domain is valid.
        let chars = unsafe { c::virDomainGetXMLDesc(self.ptr.as_ptr(), 0) };
        if chars.is_null() {
            return Err(last_failure());
        }
        // SAFETY: libvirt's strings end in NUL; this one is ours.
        let xml = unsafe { CStr::from_ptr(chars) }.to_bytes().to_vec();
        // SAFETY: the string is ours and is not used again.
        unsafe { libc::free(chars.cast()) };
        Ok(xml)
    }

    /// `virDomainInterfaceStats`: the eight counters in libvirt's order.
    pub(super) fn interface_stats(&self, device: &str) -> Answer<[i64; 8]> {
        let _out = self.calls.begin(Call::InterfaceStats);
        let device = c_string(device)?;
        let mut stats = MaybeUninit::<c::_virDomainInterfaceStats>::zeroed();
        // SAFETY: the domain is valid; libvirt fills at most the size that it is told.
        check(unsafe {
            c::virDomainInterfaceStats(
                self.ptr.as_ptr(),
                device.as_ptr(),
                stats.as_mut_ptr(),
                size_of::<c::_virDomainInterfaceStats>(),
            )
        })?;
        // SAFETY: zeroed integers are valid, and libvirt has filled them in.
        let s = unsafe { stats.assume_init() };
        Ok([
            s.rx_bytes,
            s.rx_packets,
            s.rx_errs,
            s.rx_drop,
            s.tx_bytes,
            s.tx_packets,
            s.tx_errs,
            s.tx_drop,
        ])
    }

    /// `virDomainBlockStats`: read operations and bytes, write operations and bytes, errors.
    pub(super) fn block_stats(&self, device: &str) -> Answer<[i64; 5]> {
        let _out = self.calls.begin(Call::BlockStats);
        let device = c_string(device)?;
        let mut stats = MaybeUninit::<c::_virDomainBlockStats>::zeroed();
        // SAFETY: the domain is valid; libvirt fills at most the size that it is told.
        check(unsafe {
            c::virDomainBlockStats(
                self.ptr.as_ptr(),
                device.as_ptr(),
                stats.as_mut_ptr(),
                size_of::<c::_virDomainBlockStats>(),
            )
        })?;
        // SAFETY: zeroed integers are valid, and libvirt has filled them in.
        let s = unsafe { stats.assume_init() };
        Ok([s.rd_req, s.rd_bytes, s.wr_req, s.wr_bytes, s.errs])
    }

    /// `virDomainBlockStatsFlags`
    pub(super) fn block_stats_flags(&self, device: &str) -> Answer<DiskTimes> {
        let _out = self.calls.begin(Call::BlockStatsFlags);
        let device = c_string(device)?;
        // SAFETY: a typed parameter is plain old data, for which zeroes are valid.
        let mut parameters: [c::_virTypedParameter; BLOCK_PARAMETERS] =
            unsafe { MaybeUninit::zeroed().assume_init() };
        let capacity = c_int::try_from(BLOCK_PARAMETERS).unwrap_or_default();
        let mut count = capacity;
        // SAFETY: the domain is valid; libvirt fills at most `count` parameters and says how many.
        check(unsafe {
            c::virDomainBlockStatsFlags(
                self.ptr.as_ptr(),
                device.as_ptr(),
                parameters.as_mut_ptr(),
                &raw mut count,
                0,
            )
        })?;
        let count = count.clamp(0, capacity);
        let filled = usize::try_from(count).unwrap_or_default();
        let times = parameters[..filled].iter().filter_map(integer).collect();
        // SAFETY: clears the strings that libvirt may have allocated within our array.
        unsafe { c::virTypedParamsClear(parameters.as_mut_ptr(), count) };
        Ok(times)
    }

    /// `virDomainGetBlockInfo`: capacity, allocation, physical.
    pub(super) fn block_info(&self, device: &str) -> Answer<[u64; 3]> {
        let _out = self.calls.begin(Call::BlockInfo);
        let device = c_string(device)?;
        let mut info = MaybeUninit::<c::_virDomainBlockInfo>::zeroed();
        // SAFETY: the domain is valid; libvirt fills the struct.
        check(unsafe {
            c::virDomainGetBlockInfo(self.ptr.as_ptr(), device.as_ptr(), info.as_mut_ptr(), 0)
        })?;
        // SAFETY: zeroed integers are valid, and libvirt has filled them in.
        let info = unsafe { info.assume_init() };
        Ok([info.capacity, info.allocation, info.physical])
    }

    /// `virDomainMemoryStats`: pairs of tag and value.
    pub(super) fn memory_stats(&self) -> Answer<Vec<(c_uint, u64)>> {
        let _out = self.calls.begin(Call::MemoryStats);
        let mut stats = [c::_virDomainMemoryStat { tag: 0, val: 0 }; MEMORY_STATS];
        // SAFETY: the domain is valid; there is room for as many pairs as can come.
        let filled = check(unsafe {
            c::virDomainMemoryStats(
                self.ptr.as_ptr(),
                stats.as_mut_ptr(),
                c::VIR_DOMAIN_MEMORY_STAT_NR,
                0,
            )
        })?;
        let filled = usize::try_from(filled).unwrap_or_default().min(MEMORY_STATS);
        Ok(stats[..filled]
            .iter()
            .filter_map(|stat| Some((c_uint::try_from(stat.tag).ok()?, stat.val)))
            .collect())
    }

    /// `virDomainListGetStats` for this domain alone; `None` when it has gone meanwhile. Without
    /// `may_wait`, what takes a job is left out where another call holds it.
    pub(super) fn stats(&self, groups: c_uint, may_wait: bool) -> Answer<Option<Bulk>> {
        let _out = self.calls.begin(Call::Stats);
        let flags = if may_wait { 0 } else { c::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT };
        let mut list = [self.ptr.as_ptr(), ptr::null_mut()];
        let mut records = ptr::null_mut();
        // SAFETY: the list ends in null, as libvirt wants it; libvirt allocates the records.
        let count = check(unsafe {
            c::virDomainListGetStats(list.as_mut_ptr(), groups, &raw mut records, flags)
        })?;
        let uuid = self.uuid();
        let taken = take_records(records, count, &self.calls, |domain, bulk| {
            (domain.uuid() == uuid).then_some(bulk)
        });
        Ok(taken.into_iter().flatten().next())
    }

    /// `virDomainGetState`: `virDomainState` alone. It takes no job, and a priority worker serves it.
    pub(super) fn state(&self) -> Answer<u32> {
        let _out = self.calls.begin(Call::State);
        let mut state = 0;
        // SAFETY: the domain is valid; libvirt writes the state, and no reason where there is no room.
        check(unsafe {
            c::virDomainGetState(self.ptr.as_ptr(), &raw mut state, ptr::null_mut(), 0)
        })?;
        Ok(u32::try_from(state).unwrap_or_default())
    }

    /// `virDomainGetJobStats`: the `virDomainJobType` of the job that is under way, and its parameters
    /// that are numbers.
    pub(super) fn job_stats(&self) -> Answer<(c_uint, Vec<(String, i128)>)> {
        let _out = self.calls.begin(Call::JobStats);
        let (mut kind, mut parameters, mut count) = (0, ptr::null_mut(), 0);
        // SAFETY: the domain is valid; libvirt allocates the parameters.
        check(unsafe {
            c::virDomainGetJobStats(
                self.ptr.as_ptr(),
                &raw mut kind,
                &raw mut parameters,
                &raw mut count,
                0,
            )
        })?;
        let filled = usize::try_from(count).unwrap_or_default();
        // SAFETY: there are `count` parameters.
        let found = (0..filled).map(|i| unsafe { &*parameters.add(i) }).filter_map(integer);
        let found = found.map(|(name, value)| (name.to_owned(), value)).collect();
        // SAFETY: the parameters are ours, come from libvirt, and are not used again.
        unsafe { c::virTypedParamsFree(parameters, count) };
        Ok((c_uint::try_from(kind).unwrap_or_default(), found))
    }

    /// `virDomainGetControlInfo`: whether nobody waits for the domain's QEMU. It takes no job.
    pub(super) fn is_free(&self) -> Answer<bool> {
        let _out = self.calls.begin(Call::ControlInfo);
        let mut info = MaybeUninit::<c::_virDomainControlInfo>::zeroed();
        // SAFETY: the domain is valid; libvirt fills the struct.
        check(unsafe { c::virDomainGetControlInfo(self.ptr.as_ptr(), info.as_mut_ptr(), 0) })?;
        // SAFETY: zeroed integers are valid, and libvirt has filled them in.
        Ok(unsafe { info.assume_init() }.state == c::VIR_DOMAIN_CONTROL_OK)
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: the domain is valid, and this is its last use.
        unsafe { c::virDomainFree(self.ptr.as_ptr()) };
    }
}

/// Takes what is wanted of the records of a bulk reading, and frees them.
fn take_records<T>(
    records: *mut c::virDomainStatsRecordPtr,
    count: c_int,
    calls: &Arc<Calls>,
    mut each: impl FnMut(&Domain, Bulk) -> T,
) -> Vec<T> {
    let count = usize::try_from(count).unwrap_or_default();
    let taken = (0..count)
        .filter_map(|i| {
            // SAFETY: the array has `count` records.
            let record = unsafe { (*records.add(i)).as_ref() }?;
            let filled = usize::try_from(record.nparams).unwrap_or_default();
            // SAFETY: the domain is valid.
            let mut bulk = Bulk::new(unsafe { c::virDomainGetID(record.dom) });
            // SAFETY: the record has `nparams` parameters.
            for parameter in (0..filled).map(|i| unsafe { &*record.params.add(i) }) {
                if let Some((name, value)) = integer(parameter) {
                    bulk.integer(name, value);
                } else if let Some((name, value)) = string(parameter) {
                    bulk.text(name, value);
                }
            }
            // SAFETY: the domain is valid; the record's own reference goes with the record.
            let referred = unsafe { c::virDomainRef(record.dom) } == 0;
            let domain = referred.then(|| Domain::owned(record.dom, calls)).flatten()?;
            Some(each(&domain, bulk))
        })
        .collect();
    // SAFETY: the records are ours, come from libvirt, and are not used again.
    unsafe { c::virDomainStatsRecordListFree(records) };
    taken
}

/// The name and value of a parameter that is an integer of any of libvirt's types.
fn integer(parameter: &c::_virTypedParameter) -> Option<(&str, i128)> {
    let value = &parameter.value;
    let value = match c_uint::try_from(parameter.type_).ok()? {
        // SAFETY: here and below, `type_` says which member of the union libvirt has set.
        c::VIR_TYPED_PARAM_INT => i128::from(unsafe { value.i }),
        // SAFETY: as above.
        c::VIR_TYPED_PARAM_UINT => i128::from(unsafe { value.ui }),
        // SAFETY: as above.
        c::VIR_TYPED_PARAM_LLONG => i128::from(unsafe { value.l }),
        // SAFETY: as above.
        c::VIR_TYPED_PARAM_ULLONG => i128::from(unsafe { value.ul }),
        _ => return None,
    };
    Some((field(parameter)?, value))
}

/// The name and value of a parameter that is a text.
fn string(parameter: &c::_virTypedParameter) -> Option<(&str, String)> {
    if c_uint::try_from(parameter.type_) != Ok(c::VIR_TYPED_PARAM_STRING) {
        return None;
    }
    // SAFETY: `type_` says that libvirt has set this member of the union.
    Some((field(parameter)?, text(unsafe { parameter.value.s })?))
}

fn field(parameter: &c::_virTypedParameter) -> Option<&str> {
    // SAFETY: the field is an array of 80 bytes, which libvirt ends with a NUL.
    unsafe { CStr::from_ptr(parameter.field.as_ptr()) }.to_str().ok()
}

/// What `stat` says of a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct File {
    pub(super) inode: u64,
    /// Major and minor number of the device that the file is on.
    pub(super) device: (u32, u32),
    /// Bytes.
    pub(super) length: u64,
    /// Of 512 bytes each.
    pub(super) blocks: u64,
}

/// What the file at a path is now, as far as this process sees it; `None` where there is no regular
/// file. Asks no server: of a file system of the network, this is what the kernel knows. Nor does it
/// mount anything.
pub(super) fn file(path: &str) -> Option<File> {
    const FLAGS: c_int = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    const WANTED: c_uint =
        libc::STATX_TYPE | libc::STATX_INO | libc::STATX_SIZE | libc::STATX_BLOCKS;
    let path = CString::new(path).ok()?;
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the string outlives the call, which fills the struct.
    let status =
        unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), FLAGS, WANTED, found.as_mut_ptr()) };
    // SAFETY: zeroed integers are valid, and the kernel has filled them in.
    let found = (status == 0).then(|| unsafe { found.assume_init() })?;
    let is_regular = u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFREG;
    (is_regular && found.stx_mask & WANTED == WANTED).then_some(File {
        inode: found.stx_ino,
        device: (found.stx_dev_major, found.stx_dev_minor),
        length: found.stx_size,
        blocks: found.stx_blocks,
    })
}
