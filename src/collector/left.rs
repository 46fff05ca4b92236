//! The engines that inspectors have left behind, with calls that have not come back. The next inspector of the same
//! libvirt takes one over and knows what hangs: else each of those that a program makes anew for a question would leave
//! threads of its own in the same guest, or with the same silent host.

use std::any::Any;
use std::sync::{Arc, LazyLock, Mutex, Weak};

use super::shared::Shared;
use crate::hypervisor::Hypervisor;
use crate::limits::Limits;
use crate::locks::lock;
use crate::per_process::PerProcess;

/// One that was left behind, for as long as a thread has it: whichever hypervisor it is for.
type Left = Weak<dyn Any + Send + Sync>;

static LEFT: LazyLock<PerProcess<Mutex<Vec<Left>>>> = LazyLock::new(PerProcess::default);

/// An inspector is gone. What its threads hang in is kept in mind for as long as one does.
pub(super) fn behind<H: Hypervisor>(shared: &Arc<Shared<H>>) {
    let has_calls_out = {
        let mut state = shared.begin_anew();
        state.ended = true;
        state.has_calls_out()
    };
    if has_calls_out {
        let shared: Weak<Shared<H>> = Arc::downgrade(shared);
        LEFT.with(|left| {
            let mut left = lock(left);
            left.retain(|other| other.strong_count() > 0);
            left.push(shared);
        });
    }
}

/// One that was left behind, of such an inspector, to go on with.
pub(super) fn taken_over<H: Hypervisor>(
    hypervisor: &Arc<H>,
    limits: Limits,
) -> Option<Arc<Shared<H>>> {
    LEFT.with(|left| {
        let mut left = lock(left);
        let goes_on = |(place, other): (usize, &Left)| {
            let shared = other.upgrade()?.downcast::<Shared<H>>().ok()?;
            shared.goes_on(hypervisor, limits).then_some((place, shared))
        };
        let (place, found) = left.iter().enumerate().find_map(goes_on)?;
        left.swap_remove(place);
        Some(found)
    })
}
