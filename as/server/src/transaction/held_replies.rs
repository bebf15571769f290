//! Held replies of service and pool threads. The threads that make their records safe release them.

use smallvec::SmallVec;

use super::executor::Executor;
use super::unsettled::{Awaited, OnReplicas, Unsettled};
use super::wait::Hold;
use crate::index::Location;
use crate::storage::DurableWait;

/// Records on one disk that replies wait for.
struct OnDisk {
    namespace: usize,
    device: u8,
    locations: Vec<Location>,
    results_at: Vec<usize>,
}

impl Executor {
    /// Whether replies made so far must not be sent yet.
    #[inline]
    pub(crate) fn has_unsettled(&self) -> bool {
        !self.workspace.buffers.unsettled.is_empty()
    }

    /// Number of records that the replies made so far wait for.
    pub(crate) fn unsettled_count(&self) -> usize {
        self.workspace.buffers.unsettled.len()
    }

    /// Forgets all except the first `count` records: the replies of the others are dropped.
    pub(crate) fn forget_unsettled(&mut self, count: usize) {
        self.workspace.buffers.unsettled.truncate(count);
    }

    /// Takes the records that the replies made so far wait for, in their order. The caller then holds the replies.
    pub(crate) fn take_unsettled(&mut self) -> Vec<Unsettled> {
        std::mem::take(&mut self.workspace.buffers.unsettled)
    }

    /// Calls `release` with `replies` after all their waits have ended, on another thread or at once on this one. If a
    /// disk fails, the reply gets an error.
    pub(crate) fn hold(
        &self,
        replies: Vec<u8>,
        unsettled: &[Unsettled],
        release: impl FnOnce(Vec<u8>) + Send + 'static,
    ) {
        let mut disks = SmallVec::<[OnDisk; 2]>::new();
        let mut on_replicas = SmallVec::<[(OnReplicas, usize); 2]>::new();
        for &Unsettled { namespace, awaited, result_at } in unsettled {
            let location = match awaited {
                Awaited::Disk(location) => location,
                Awaited::Replicas(on) => {
                    on_replicas.push((on, result_at));
                    continue;
                }
            };
            let device = location.device();
            let known = disks.iter().position(|disk| (disk.namespace, disk.device) == (namespace, device));
            let at = known.unwrap_or_else(|| {
                disks.push(OnDisk { namespace, device, locations: Vec::new(), results_at: Vec::new() });
                disks.len() - 1
            });
            disks[at].locations.push(location);
            disks[at].results_at.push(result_at);
        }
        let first = Hold::on(replies, release);
        for (on, result_at) in on_replicas {
            on.hold(&self.context.replicas, first.about(vec![result_at]));
        }
        for OnDisk { namespace, device, locations, results_at } in disks {
            let hold = first.about(results_at);
            let wait = DurableWait { locations, done: Box::new(move |lost| hold.end(lost)) };
            self.context.namespaces[namespace].storage.when_durable(device, wait);
        }
    }
}
