//! Why a domain is in its state, in the words of `virsh domstate --reason`. Pure.

use virt_sys as c;

/// The words for a reason of this `virDomainState`, which has numbers of its own; `None` for one that
/// libvirt did not know when this was written, and for `unknown`.
pub(super) fn words(state: u32, reason: u32) -> Option<&'static str> {
    const RUNNING: [&str; 11] = [
        "booted",
        "migrated",
        "restored",
        "from snapshot",
        "unpaused",
        "migration canceled",
        "save canceled",
        "event wakeup",
        "crashed",
        "post-copy",
        "post-copy failed",
    ];
    const PAUSED: [&str; 14] = [
        "user",
        "migrating",
        "saving",
        "dumping",
        "I/O error",
        "watchdog",
        "from snapshot",
        "shutting down",
        "creating snapshot",
        "crashed",
        "starting up",
        "post-copy",
        "post-copy failed",
        "api error",
    ];
    const SHUT_OFF: [&str; 8] = [
        "shutdown",
        "destroyed",
        "crashed",
        "migrated",
        "saved",
        "failed",
        "from snapshot",
        "daemon",
    ];
    let known: &[_] = match state {
        c::VIR_DOMAIN_RUNNING => &RUNNING,
        c::VIR_DOMAIN_PAUSED => &PAUSED,
        c::VIR_DOMAIN_SHUTDOWN => &["user"],
        c::VIR_DOMAIN_SHUTOFF => &SHUT_OFF,
        c::VIR_DOMAIN_CRASHED => &["panicked"],
        _ => &[],
    };
    // 0 is unknown.
    known.get(usize::try_from(reason).ok()?.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_reasons_of_its_own() {
        for (state, reason, expected) in [
            (c::VIR_DOMAIN_RUNNING, c::VIR_DOMAIN_RUNNING_BOOTED, Some("booted")),
            (c::VIR_DOMAIN_RUNNING, c::VIR_DOMAIN_RUNNING_WAKEUP, Some("event wakeup")),
            (
                c::VIR_DOMAIN_RUNNING,
                c::VIR_DOMAIN_RUNNING_POSTCOPY_FAILED,
                Some("post-copy failed"),
            ),
            (c::VIR_DOMAIN_PAUSED, c::VIR_DOMAIN_PAUSED_USER, Some("user")),
            (c::VIR_DOMAIN_PAUSED, c::VIR_DOMAIN_PAUSED_IOERROR, Some("I/O error")),
            (c::VIR_DOMAIN_PAUSED, c::VIR_DOMAIN_PAUSED_SNAPSHOT, Some("creating snapshot")),
            (c::VIR_DOMAIN_PAUSED, c::VIR_DOMAIN_PAUSED_API_ERROR, Some("api error")),
            (c::VIR_DOMAIN_SHUTOFF, c::VIR_DOMAIN_SHUTOFF_CRASHED, Some("crashed")),
            (c::VIR_DOMAIN_SHUTOFF, c::VIR_DOMAIN_SHUTOFF_DAEMON, Some("daemon")),
            (c::VIR_DOMAIN_CRASHED, c::VIR_DOMAIN_CRASHED_PANICKED, Some("panicked")),
            (c::VIR_DOMAIN_SHUTOFF, c::VIR_DOMAIN_SHUTOFF_UNKNOWN, None),
            (c::VIR_DOMAIN_SHUTOFF, 9, None),
            (99, 1, None),
        ] {
            assert_eq!(words(state, reason), expected, "{state}, {reason}");
        }
    }
}
