//! Immigration: records received from other nodes. They are stored if they are newer than the existing ones.

use std::collections::HashMap;
use std::sync::Arc;

use cf::Digest;
use parking_lot::RwLock;
use proto::ResultCode;
use proto::peer::{NodeId, PeerError};

use super::{Namespace, PartitionId};
use crate::metrics::NamespaceCounter;
use crate::transaction::{take_copy, take_removal};

/// Identifies an immigration: the sender and the sender's number for it.
type Key = (NodeId, u32);

/// The content of a message about a record.
pub(super) enum Incoming<'a> {
    /// A copy, and, if known, when an earlier record of its digest was removed.
    Record { record: &'a [u8], removed_at: Option<u64> },
    /// The record was removed.
    Removal { digest: Digest, removed_at: u64 },
}

struct Immigration {
    namespace: Arc<Namespace>,
    partition: PartitionId,
}

/// The partitions being received.
#[derive(Default)]
pub(super) struct Immigrations(RwLock<HashMap<Key, Immigration>>);

impl Immigrations {
    pub(super) fn add(&self, key: Key, namespace: Arc<Namespace>, partition: PartitionId) {
        self.0.write().insert(key, Immigration { namespace, partition });
    }

    pub(super) fn remove(&self, key: &Key) {
        self.0.write().remove(key);
    }

    pub(super) fn clear(&self) {
        self.0.write().clear();
    }

    /// Stores a record, or removes one. Calls `acknowledge` when the sender's state of the record, or a newer
    /// one, is here, and on disk if required, so that the sender need not send it again.
    ///
    /// # Errors
    /// When it is no valid record, or belongs to another partition.
    pub(super) fn store(
        &self,
        key: Key,
        incoming: &Incoming<'_>,
        acknowledge: impl FnOnce() + Send + 'static,
    ) -> Result<(), PeerError> {
        const DONE: [ResultCode; 4] =
            [ResultCode::Ok, ResultCode::RecordExists, ResultCode::Generation, ResultCode::NotFound];
        let known = self.0.read();
        // A message from before a change of the cluster, or after the end of the immigration, needs no answer.
        let Some(found) = known.get(&key) else { return Ok(()) };
        let (namespace, partition) = (Arc::clone(&found.namespace), found.partition);
        cf::fault_point!("immigration");
        namespace.metrics.add(NamespaceCounter::MigrateRecordReceives, 1);
        if namespace.storage.is_overloaded() {
            return Ok(());
        }
        // The reservation keeps the partition in place of the lock. A disk may be read now, for which the
        // cluster thread must not wait.
        let Some(_reservation) = namespace.partitions.reserve_data(partition) else { return Ok(()) };
        drop(known);
        let stored = match *incoming {
            Incoming::Record { record, removed_at } => take_copy(&namespace, partition, record, removed_at)?,
            Incoming::Removal { digest, removed_at } => {
                take_removal(&namespace, partition, &digest, removed_at)?
            }
        };
        stored.when_safe(&namespace, move |result| {
            if DONE.contains(&result) {
                acknowledge();
            }
        });
        Ok(())
    }
}
