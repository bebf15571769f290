//! Records of other nodes that come in, and are stored if they are newer than what is here.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use proto::ResultCode;
use proto::peer::{NodeId, PeerError};

use super::{Namespace, PartitionId};
use crate::metrics::NamespaceCounter;
use crate::transaction::take_copy;

/// An immigration: the sender, and the number that it has for it.
type Key = (NodeId, u32);

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

    /// Takes a record in. Returns whether it is here, or something newer, so that the sender need not send it again.
    ///
    /// # Errors
    /// When it is none, or of another partition.
    pub(super) fn store(&self, key: Key, record: &[u8]) -> Result<bool, PeerError> {
        let known = self.0.read();
        // What came in before the cluster changed, or after its end: nobody waits for an answer.
        let Some(Immigration { namespace, partition }) = known.get(&key) else { return Ok(false) };
        namespace.metrics.add(NamespaceCounter::MigrateRecordReceives, 1);
        if namespace.storage.is_overloaded() {
            return Ok(false);
        }
        let result = take_copy(namespace, *partition, record)?;
        Ok(matches!(result, ResultCode::Ok | ResultCode::RecordExists | ResultCode::Generation))
    }
}
