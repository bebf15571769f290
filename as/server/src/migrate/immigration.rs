//! Records of other nodes that come in, and are stored if they are newer than what is here.

use std::collections::HashMap;
use std::sync::Arc;

use cf::Digest;
use parking_lot::RwLock;
use proto::ResultCode;
use proto::peer::{NodeId, PeerError};

use super::{Namespace, PartitionId};
use crate::metrics::NamespaceCounter;
use crate::transaction::{take_copy, take_removal};

/// An immigration: the sender, and the number that it has for it.
type Key = (NodeId, u32);

/// What comes in of a record.
pub(super) enum Incoming<'a> {
    /// A copy; and, where that is known, when an earlier record of its digest was removed.
    Record { record: &'a [u8], removed_at: Option<u64> },
    /// It was removed.
    Removal { digest: Digest, removed_at: u64 },
}

struct Immigration {
    namespace: Arc<Namespace>,
    partition: PartitionId,
}

/// The partitions that are coming in.
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

    /// Takes a record in, or removes one. Calls `acknowledge` when what came is here, on disk if it must be, or something newer, so
    /// that the sender need not send it again.
    ///
    /// # Errors
    /// When it is none, or of another partition.
    pub(super) fn store(
        &self,
        key: Key,
        incoming: &Incoming<'_>,
        acknowledge: impl FnOnce() + Send + 'static,
    ) -> Result<(), PeerError> {
        const DONE: [ResultCode; 4] =
            [ResultCode::Ok, ResultCode::RecordExists, ResultCode::Generation, ResultCode::NotFound];
        let known = self.0.read();
        // What came in before the cluster changed, or after its end: nobody waits for an answer.
        let Some(Immigration { namespace, partition }) = known.get(&key) else { return Ok(()) };
        namespace.metrics.add(NamespaceCounter::MigrateRecordReceives, 1);
        if namespace.storage.is_overloaded() {
            return Ok(());
        }
        let stored = match *incoming {
            Incoming::Record { record, removed_at } => take_copy(namespace, *partition, record, removed_at)?,
            Incoming::Removal { digest, removed_at } => {
                take_removal(namespace, *partition, &digest, removed_at)?
            }
        };
        stored.when_safe(namespace, move |result| {
            if DONE.contains(&result) {
                acknowledge();
            }
        });
        Ok(())
    }
}
