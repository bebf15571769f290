//! Sends committed changes to replicas.

use std::sync::Arc;

use datamodel::flat::FlatRecord;
use proto::peer::ClusterKey;
use proto::peer::replication::{Replication, ReplicationBody, Subject};

use super::in_flight::ReplicaWrites;
use crate::index::PartitionId;
use crate::namespace::{AfterCommit, Cause, Change, CommitObserver, Namespace, Observed, Transition};
use crate::transaction::wait::RecordKey;

/// Follows the commits of a namespace.
pub(crate) struct ReplicaObserver {
    writes: Arc<ReplicaWrites>,
    /// The position of the namespace.
    position: usize,
}

impl ReplicaObserver {
    /// For the namespace at `position`.
    pub(crate) fn new(writes: &Arc<ReplicaWrites>, position: usize) -> Box<Self> {
        Box::new(ReplicaObserver { writes: Arc::clone(writes), position })
    }
}

/// Whether a change with this cause is sent to replicas. They find expired and truncated records by themselves.
fn is_replicated(cause: Cause) -> bool {
    matches!(cause, Cause::Write | Cause::ReadTouch | Cause::Delete)
}

impl CommitObserver for ReplicaObserver {
    fn observe<'a>(&'a self, namespace: &Namespace, transition: &Transition<'_>) -> Observed<'a> {
        let digest = *transition.before.digest();
        let id = PartitionId::of(&digest);
        let mut observed = Observed { is_indexed: false, act: None };
        if !namespace.partitions.has_other_replicas(id) || !is_replicated(transition.cause) {
            return observed;
        }
        let Some(links) = self.writes.links() else { return observed };
        let nodes = namespace.partitions.other_replicas(id, links.cluster.node_id);
        let record = match transition.change {
            Change::Record(version) | Change::Tombstone(version) => FlatRecord::without_end(version.flat),
            Change::Gone => None,
        };
        let subject = record.as_deref().map_or(Subject::Digest(digest), Subject::Record);
        let transaction_id = self.writes.new_id();
        let message = Replication {
            namespace_index: self.position as u32,
            transaction_id,
            body: ReplicationBody::ReplicaWrite {
                namespace: namespace.name().as_bytes(),
                info: None,
                cluster_key: Some(ClusterKey(links.cluster.key())),
                subject,
                removed_at: matches!(subject, Subject::Digest(_)).then_some(transition.removed_at),
            },
        };
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let key = RecordKey { namespace: self.position, digest };
        let act: AfterCommit<'a> = Box::new(move |_, _| {
            self.writes.begin(key, (transaction_id, bytes), &nodes);
        });
        observed.act = Some(act);
        observed
    }
}
