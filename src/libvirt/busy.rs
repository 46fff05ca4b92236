//! What may keep a domain's job for long: then its guest's process is busy, and does not hang. Pure.
//!
//! While libvirt has an asynchronous job under way that allows no other, what needs the domain's job
//! waits for 30 s in vain. Neither that job nor how long it takes can be asked for; but the domain is
//! paused for it, with a reason.

use virt_sys as c;

/// What a domain in this state (`virDomainState`, and the reason of its kind) is busy with.
pub(super) fn reason(state: Option<u32>, reason: Option<u32>) -> Option<&'static str> {
    /// libvirt keeps the job until the migration is recovered or given up.
    const FAILED: &str = "in a migration whose last part has failed";
    const PAUSED: [(c::virDomainPausedReason, &str); 9] = [
        (c::VIR_DOMAIN_PAUSED_MIGRATION, "paused for migration"),
        (c::VIR_DOMAIN_PAUSED_SAVE, "paused to be saved"),
        (c::VIR_DOMAIN_PAUSED_DUMP, "paused for a core dump"),
        (c::VIR_DOMAIN_PAUSED_FROM_SNAPSHOT, "paused to be restored from a snapshot"),
        (c::VIR_DOMAIN_PAUSED_SHUTTING_DOWN, "shutting down"),
        (c::VIR_DOMAIN_PAUSED_SNAPSHOT, "paused for a snapshot"),
        (c::VIR_DOMAIN_PAUSED_STARTING_UP, "starting up"),
        (c::VIR_DOMAIN_PAUSED_POSTCOPY, "paused for the last part of a migration"),
        (c::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED, FAILED),
    ];
    const RUNNING: [(c::virDomainRunningReason, &str); 2] = [
        (c::VIR_DOMAIN_RUNNING_POSTCOPY, "in the last part of a migration"),
        (c::VIR_DOMAIN_RUNNING_POSTCOPY_FAILED, FAILED),
    ];
    let known: &[_] = match state? {
        c::VIR_DOMAIN_PAUSED => &PAUSED,
        c::VIR_DOMAIN_RUNNING => &RUNNING,
        _ => return None,
    };
    let reason = reason?;
    known.iter().find(|(code, _)| *code == reason).map(|(_, words)| *words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_paused_for_something_is_busy() {
        let (running, paused, shut_off) = (Some(1), Some(3), Some(5));
        assert_eq!(reason(paused, Some(2)), Some("paused for migration"));
        assert_eq!(reason(paused, Some(11)), Some("starting up"));
        assert_eq!(reason(paused, Some(1)), None, "by its user");
        assert_eq!(reason(paused, Some(5)), None, "an I/O error holds no job");
        assert_eq!(reason(running, Some(2)), None, "migrated");
        assert_eq!(reason(running, Some(10)), Some("in the last part of a migration"));
        for (state, failed) in [(running, Some(11)), (paused, Some(13))] {
            assert_eq!(reason(state, failed), Some("in a migration whose last part has failed"));
        }
        assert_eq!(reason(shut_off, Some(3)), None);
        assert_eq!(reason(paused, None), None);
        assert_eq!(reason(None, Some(2)), None);
    }
}
