//! Messages of other nodes about records: replica writes, which are stored; answers to our own; and questions for a
//! copy.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire};
use std::time::Duration;

use cf::Digest;
use cluster::conflict::{CopyAge, DuplicateAnswer, answer_duplicate_request};
use datamodel::flat::FlatRecord;
use datamodel::packing::Unpacker;
use proto::ResultCode;
use proto::peer::hello::Channel;
use proto::peer::replication::{INFO_NO_ACK, OwnCopy, Replication, ReplicationBody, Subject};
use proto::peer::{ClusterKey, NodeId, PeerError};

use super::copy::{Via, age_of, parse, policy_of, remove_copy, store_copy};
use super::in_flight::Acknowledgement;
use crate::fabric::{Cluster, Fabric, Handler};
use crate::index::PartitionId;
use crate::metrics::NamespaceCounter;
use crate::namespace::Namespace;
use crate::storage::{ReadBuffer, unpacked};
use crate::transaction::TransactionContext;
use crate::transaction::pending::REFUSED_PAUSE;
use crate::transaction::wait::RecordKey;

/// Interval at which the resend thread checks whether any message is unanswered.
const IDLE_PAUSE: Duration = Duration::from_millis(20);
/// Answer of a node that is no replica, or does not know the sender's cluster yet.
const REFUSED: u32 = ResultCode::ClusterKeyMismatch as u32;

/// The acknowledgement for a replica's result. The replica has the write if it stored it, had it already, or had
/// nothing left to remove.
fn acknowledgement_of(result: u32) -> Acknowledgement {
    const STORED: [ResultCode; 3] = [ResultCode::Ok, ResultCode::RecordExists, ResultCode::NotFound];
    if STORED.iter().any(|stored| *stored as u32 == result) {
        Acknowledgement::Stored
    } else if result == REFUSED {
        Acknowledgement::Refused
    } else {
        Acknowledgement::Failed
    }
}

/// Handles the messages about records.
pub(crate) struct ReplicaTraffic {
    context: Arc<TransactionContext>,
    fabric: Arc<Fabric>,
    cluster: Arc<Cluster>,
}

impl Handler for ReplicaTraffic {
    fn take(&self, from: NodeId, message: &[u8]) {
        if let Err(error) = self.taken(from, message) {
            cf::warning_limited!(Rw, "message of node {from} dropped: {error}");
        }
    }
}

impl ReplicaTraffic {
    pub(crate) fn new(
        context: &Arc<TransactionContext>,
        fabric: &Arc<Fabric>,
        cluster: &Arc<Cluster>,
    ) -> Arc<Self> {
        let (context, fabric, cluster) = (Arc::clone(context), Arc::clone(fabric), Arc::clone(cluster));
        context.replicas.connect(&context, &fabric, &cluster);
        context.duplicates.connect(&context, &fabric, &cluster);
        Arc::new(ReplicaTraffic { context, fabric, cluster })
    }

    /// Body of the resend thread: it sends unacknowledged replica writes again, and retries or answers requests that
    /// were passed on.
    ///
    /// # Errors
    /// None; it ends once `is_stopping` is set.
    pub(crate) fn run_resend(&self, is_stopping: &AtomicBool) -> io::Result<()> {
        // The first check assumes that the cluster has changed, because that is unknown after a panic.
        let mut generation = None;
        while !is_stopping.load(Acquire) {
            cf::fault_point!("replica-resend");
            let (replicas, passed_on) = (&self.context.replicas, &self.context.passed_on);
            let is_idle =
                replicas.count() == 0 && self.context.duplicates.count() == 0 && passed_on.count() == 0;
            std::thread::park_timeout(if is_idle { IDLE_PAUSE } else { REFUSED_PAUSE });
            passed_on.look_after(&self.context);
            let current = Some(self.cluster.rebalance_generation());
            let has_changed = std::mem::replace(&mut generation, current) != current;
            self.context.duplicates.resend(&self.context);
            if replicas.count() != 0 {
                for ended in replicas.resend(&self.context.namespaces, has_changed) {
                    ended.release(|request| self.context.submit_to_pool(request));
                }
            }
        }
        Ok(())
    }

    fn taken(&self, from: NodeId, message: &[u8]) -> Result<(), PeerError> {
        let Replication { namespace_index, transaction_id, body } = Replication::decode(message)?;
        match body {
            ReplicationBody::ReplicaWrite { namespace, info, cluster_key, subject, removed_at } => {
                let wants_answer = info.is_none_or(|info| info & INFO_NO_ACK == 0);
                let ids = (from, namespace_index, transaction_id);
                self.store(ids, (namespace, cluster_key, wants_answer), (subject, removed_at))
            }
            ReplicationBody::WriteAck { result, digest } => {
                let key = RecordKey { namespace: namespace_index as usize, digest };
                let answer = acknowledgement_of(result);
                let ended = self.context.replicas.answered(&key, transaction_id, from, answer);
                if let Some(ended) = ended {
                    ended.release(|request| self.context.submit_to_pool(request));
                }
                Ok(())
            }
            ReplicationBody::DuplicateRequest { namespace, digest, own } => {
                self.answer_duplicate(from, (namespace_index, transaction_id), (namespace, digest, own))
            }
            ReplicationBody::DuplicateAck { result, subject, removed_at } => {
                let (digest, copy) = match subject {
                    Subject::Digest(digest) => (digest, None),
                    Subject::Record(bytes) => {
                        let mut padded = Vec::new();
                        let record = parse(bytes, &mut padded).map_err(|_| PeerError::Invalid(6))?;
                        (record.digest, (result == ResultCode::Ok as u32).then_some(bytes))
                    }
                };
                let key = RecordKey { namespace: namespace_index as usize, digest };
                let duplicates = &self.context.duplicates;
                duplicates.answered(&self.context, (key, transaction_id), from, (copy, removed_at))
            }
        }
    }

    fn answer(&self, to: NodeId, namespace_index: u32, transaction_id: u32, body: ReplicationBody<'_>) {
        answer(&self.fabric, to, Replication { namespace_index, transaction_id, body });
    }

    fn namespace(&self, name: &[u8]) -> Option<&Arc<Namespace>> {
        self.context.namespaces.iter().find(|namespace| namespace.name().as_bytes() == name)
    }

    /// Stores a replica write, and answers; with `commit-to-device` after it is on disk.
    fn store(
        &self,
        (from, namespace_index, transaction_id): (NodeId, u32, u32),
        (namespace, cluster_key, wants_answer): (&[u8], Option<ClusterKey>, bool),
        (subject, removed_at): (Subject<'_>, Option<u64>),
    ) -> Result<(), PeerError> {
        let mut padded = Vec::new();
        let (digest, record) = match subject {
            Subject::Digest(digest) => (digest, None),
            Subject::Record(bytes) => {
                let record = parse(bytes, &mut padded).map_err(|_| PeerError::Invalid(6))?;
                (record.digest, Some(record))
            }
        };
        let fabric = Arc::clone(&self.fabric);
        let acknowledge = move |result: u32| {
            if wants_answer {
                let body = ReplicationBody::WriteAck { result, digest };
                answer(&fabric, from, Replication { namespace_index, transaction_id, body });
            }
        };
        let Some(namespace) = self.namespace(namespace) else {
            acknowledge(ResultCode::Namespace as u32);
            return Ok(());
        };
        let is_known = cluster_key.is_none_or(|key| key.0 == self.cluster.key());
        let reserved = namespace.partitions.reserve_as_replica(PartitionId::of(&digest));
        let Some(reservation) = reserved.filter(|_| is_known) else {
            acknowledge(REFUSED);
            return Ok(());
        };
        let via = if cluster_key.is_some() { Via::ReplicaWrite } else { Via::ReplicaWriteOfCServer };
        let stored = match record {
            Some(record) => store_copy(namespace, &record, &reservation, via)?,
            None => remove_copy(namespace, &digest, removed_at),
        };
        stored.when_safe(namespace, move |result| acknowledge(result as u32));
        Ok(())
    }

    fn answer_duplicate(
        &self,
        from: NodeId,
        (namespace_index, transaction_id): (u32, u32),
        (namespace, digest, asking): (&[u8], Digest, Option<OwnCopy>),
    ) -> Result<(), PeerError> {
        let answer_result = |answer: DuplicateAnswer, removed_at| ReplicationBody::DuplicateAck {
            result: answer.code(),
            subject: Subject::Digest(digest),
            removed_at,
        };
        let reserved = self.namespace(namespace).and_then(|namespace| {
            Some((namespace, namespace.partitions.reserve_data(PartitionId::of(&digest))?))
        });
        let Some((namespace, _reservation)) = reserved else {
            self.answer(
                from,
                namespace_index,
                transaction_id,
                answer_result(DuplicateAnswer::NotFound, None),
            );
            return Ok(());
        };
        let removed_at = namespace.partitions.removed_at(&digest);
        let asking = asking.map(|copy| CopyAge {
            generation: copy.generation as u16,
            last_update_time: copy.last_update_time,
        });
        // A copy from before a removal is ignored.
        let asking = asking.filter(|asking| removed_at.is_none_or(|time| asking.last_update_time >= time));
        let answer_of = |own: Option<CopyAge>| answer_duplicate_request(policy_of(namespace), own, asking);
        let mut scratch = ReadBuffer::new();
        let guard = namespace.storage.find_readable(
            || namespace.index.get(&digest).ok_or(()),
            |own| answer_of(Some(age_of(own))) == DuplicateAnswer::Newer,
            &mut scratch,
        );
        let answer = answer_of(guard.as_ref().ok().map(|guard| age_of(guard)));
        let counter = if answer == DuplicateAnswer::Newer {
            NamespaceCounter::DupResRespondRead
        } else {
            NamespaceCounter::DupResRespondNoRead
        };
        namespace.metrics.add(counter, 1);
        let record = guard.as_ref().ok().filter(|_| answer == DuplicateAnswer::Newer);
        let bytes = record.and_then(|guard| namespace.storage.record_bytes(guard, &mut scratch).ok());
        let mut unpacker = Unpacker::default();
        let plain = bytes.and_then(|stored| unpacked(stored, &mut unpacker).ok());
        let sent = plain.and_then(FlatRecord::without_end);
        let body = match sent.as_deref() {
            Some(bytes) => {
                ReplicationBody::DuplicateAck { result: 0, subject: Subject::Record(bytes), removed_at }
            }
            // A record that cannot be read counts as missing.
            None if answer == DuplicateAnswer::Newer => answer_result(DuplicateAnswer::NotFound, None),
            None => answer_result(answer, removed_at),
        };
        self.answer(from, namespace_index, transaction_id, body);
        Ok(())
    }
}

fn answer(fabric: &Fabric, to: NodeId, message: Replication<'_>) {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    // A node that gets no answer asks again.
    let _ = fabric.answer(to, Channel::ReadWrite, &bytes);
}
