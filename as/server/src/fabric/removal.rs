//! Removes records of partitions that this node no longer keeps, on a thread of its own, once no transaction
//! uses them. After a panic the thread starts again with the same partition, and removes the records that are
//! left.
//!
//! # Locks
//! One mutex for the list of partitions. No thread waits for a removal: a partition that gets data again
//! meanwhile is published after it.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use cf::threads::{self, Handle};
use cluster::migration::PartitionId as MemberPartition;
use parking_lot::{Condvar, Mutex};

use crate::index::PartitionId;
use crate::namespace::{Namespace, Partitions};

#[derive(Default)]
struct State {
    waiting: BTreeSet<MemberPartition>,
    is_stopping: bool,
}

/// The partitions whose records are being removed.
#[derive(Clone)]
pub(super) struct Removals {
    namespaces: Arc<[Arc<Namespace>]>,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Removals {
    pub(super) fn new(namespaces: Arc<[Arc<Namespace>]>) -> Self {
        Removals { namespaces, shared: Arc::default() }
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// When the system refuses it.
    pub(super) fn start(&self) -> io::Result<Handle> {
        let removals = self.clone();
        threads::spawn_restarting("tree-removal", move || {
            removals.run();
            Ok(())
        })
    }

    /// Queues the removal of the records of a partition that is out of service.
    pub(super) fn add(&self, partition: MemberPartition) {
        let (state, changed) = &*self.shared;
        state.lock().waiting.insert(partition);
        changed.notify_all();
    }

    /// Whether records of an earlier life of a partition still exist.
    pub(super) fn is_pending(&self, partition: MemberPartition) -> bool {
        self.shared.0.lock().waiting.contains(&partition)
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        let (state, changed) = &*self.shared;
        state.lock().is_stopping = true;
        changed.notify_all();
    }

    fn run(&self) {
        let (state, changed) = &*self.shared;
        loop {
            let mut locked = state.lock();
            while locked.waiting.is_empty() && !locked.is_stopping {
                changed.wait(&mut locked);
            }
            if locked.is_stopping {
                return;
            }
            let Some(partition) = locked.waiting.first().copied() else { continue };
            drop(locked);
            cf::fault_point!("tree-removal");
            if self.remove(partition) {
                state.lock().waiting.remove(&partition);
            }
        }
    }

    /// Removes the records of a partition; returns false if transactions still use them.
    fn remove(&self, partition: MemberPartition) -> bool {
        let Some(namespace) = self.namespaces.get(partition.namespace) else { return true };
        let Some(id) = PartitionId::new(partition.partition.into()) else { return true };
        if !namespace.partitions.await_left(id, Instant::now() + Partitions::LEAVING_TIME_MAX) {
            cf::warning!(Partition, "{{{}}} partition {} is still in use", namespace.name(), id.index());
            return false;
        }
        let count = namespace.remove_partition(id);
        cf::detail!(Partition, "{{{}}} partition {}: {count} records removed", namespace.name(), id.index());
        true
    }
}
