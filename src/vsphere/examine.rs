//! What a server tells of itself and of its samples, just as it tells it: for whoever looks for a fault,
//! and for what no simulator can answer.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::requests::{Query, Request};
use super::session::{Session, Trouble};
use super::{VSphere, perf, soap};
use crate::hypervisor::{Examined, Sampled};

/// No server has a VM of this name.
const NOBODY: &str = "vm-999999999";

impl VSphere {
    /// Asks for the newest samples of these VMs, of everything that has any. Each of its three calls may
    /// take as long as that.
    pub(super) fn look(
        &self,
        vms: &[Uuid],
        samples: u32,
        longest: Duration,
    ) -> std::result::Result<Examined, Trouble> {
        let deadline = || Instant::now() + longest;
        let mut found = self.vcenter.call(|_| Request::current_time(), about, deadline())?;
        let vms: Vec<(Box<str>, Uuid)> = {
            let state = self.lock();
            let missing = &state.missing;
            found.refused = missing.no_permission;
            found.left_out = state.inventory.left_out;
            let moref = |uuid: &Uuid| Some((state.inventory.vms.get(uuid)?.moref.clone(), *uuid));
            vms.iter().filter_map(moref).collect()
        };
        let Some((first, _)) = vms.first() else { return Ok(found) };
        let by_moref: HashMap<&str, Uuid> = vms.iter().map(|(moref, vm)| (&**moref, *vm)).collect();

        let queries: Vec<_> = vms.iter().map(|(vm, _)| Query { vm, samples }).collect();
        let request = |session: &Session| {
            Request::query_perf(&session.refs, &queries, &session.counters.asked_of_each())
        };
        let read = |session: &Session, body: &[u8]| {
            let mut told = Vec::new();
            perf::samples(body, &session.counters, |entity| {
                if let Some(vm) = by_moref.get(entity.moref) {
                    told.push(Sampled {
                        instance: *vm,
                        comes_in_order: entity.comes_in_order(),
                        times: entity.times().iter().map(|t| (t.end, t.seconds)).collect(),
                        series: entity
                            .series()
                            .map(|(counter, instance, values)| {
                                (counter.name(), instance.to_owned(), values.to_vec())
                            })
                            .collect(),
                    });
                }
            })?;
            Ok(told)
        };
        found.sampled = self.vcenter.call(request, read, deadline())?;

        let queries = [first, NOBODY].map(|vm| Query { vm, samples: 1 });
        let request = |session: &Session| {
            Request::query_perf(&session.refs, &queries, &session.counters.asked())
        };
        let read = |session: &Session, body: &[u8]| perf::samples(body, &session.counters, |_| ());
        found.unknown = match self.vcenter.call(request, read, deadline()) {
            Ok(()) => None,
            Err(Trouble::Fault(_, text)) => Some(text),
            Err(trouble) => return Err(trouble),
        };
        Ok(found)
    }
}

/// What the server is, from the answer to `CurrentTime`.
fn about(session: &Session, body: &[u8]) -> soap::Result<Examined> {
    Ok(Examined {
        server: session.refs.full_name.to_string(),
        clock: soap::current_time(body)?,
        lacking: session.counters.lacking().collect(),
        ..Examined::default()
    })
}
