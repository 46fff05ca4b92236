//! How the core starts its threads.

use std::cell::Cell;
use std::io;
use std::thread;

use crate::libvirt::SignalMask;

thread_local! {
    /// The mask of the program's own thread, in one that the core has started for it.
    static OUTSIDE: Cell<Option<SignalMask>> = const { Cell::new(None) };
}

/// Starts a thread to which no signal is delivered. One that ends a program, Ctrl-C for example, has to
/// interrupt a call of the program's own, and another thread may take it while the machine is busy.
pub(crate) fn start(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    let before = SignalMask::block_all();
    let outside = OUTSIDE.get().unwrap_or(before);
    #[allow(clippy::disallowed_methods)]
    let started = thread.spawn(move || {
        OUTSIDE.set(Some(outside));
        work();
    });
    before.set();
    started.map(drop)
}

/// Starts a thread that is not the core's, with the signals of the program's own: it may start a process,
/// which has them as well.
#[cfg(feature = "python")]
pub(crate) fn as_outside<T>(start: impl FnOnce() -> T) -> T {
    let own = OUTSIDE.get().map(SignalMask::set);
    let started = start();
    own.map(SignalMask::set);
    started
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;

    use super::*;

    /// The signals that are blocked in this thread, a bit for each.
    fn blocked() -> u64 {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }

    #[test]
    fn a_thread_takes_no_signals_but_those_that_are_about_itself() {
        let bit = |signal: libc::c_int| 1_u64 << (signal - 1);
        let before = blocked();
        let (tell, told) = mpsc::channel();
        start("a thread", move || tell.send(blocked()).unwrap()).unwrap();
        let there = told.recv().unwrap();
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGALRM, libc::SIGCHLD] {
            assert_ne!(there & bit(signal), 0, "{signal}");
        }
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGPROF] {
            assert_eq!(there & bit(signal), 0, "{signal}");
        }
        assert_eq!(blocked(), before, "whoever starts it goes on as before");
    }
}
