//! What other nodes say about records: replica writes, which are stored, and answers to our own; and questions for a copy.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire};
use std::time::Duration;

use cf::Digest;
use cf::clock::StoredMillis;
use cluster::conflict::{ConflictPolicy, CopyAge, DuplicateAnswer, answer_duplicate_request};
use datamodel::flat::{FlatError, FlatRecord, NewRecord};
use datamodel::packing::Unpacker;
use proto::ResultCode;
use proto::peer::hello::Channel;
use proto::peer::replication::{INFO_NO_ACK, OwnCopy, Replication, ReplicationBody, Subject};
use proto::peer::{ClusterKey, NodeId, PeerError};

use super::in_flight::REFUSED_PAUSE;
use crate::config::params::namespace::ConflictResolutionPolicy;
use crate::fabric::{Cluster, Fabric, Handler};
use crate::index::{PartitionId, RecordMeta};
use crate::namespace::{Cause, Change, Namespace, NewVersion, PartitionReservation, Removal};
use crate::storage::{ReadBuffer, unpacked};
use crate::transaction::TransactionContext;
use crate::transaction::wait::RecordKey;

/// How often the thread that sends again looks whether there is anything on its way.
const IDLE_PAUSE: Duration = Duration::from_millis(20);
/// What a node answers that is no replica, or does not know of the sender's cluster yet.
const REFUSED: u32 = ResultCode::ClusterKeyMismatch as u32;

/// Takes the messages about records.
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
        context.replicas.connect(&context.config, &fabric, &cluster);
        Arc::new(ReplicaTraffic { context, fabric, cluster })
    }

    /// Body of the thread that sends again.
    ///
    /// # Errors
    /// None; it ends when `is_stopping`.
    pub(crate) fn run_resend(&self, is_stopping: &AtomicBool) -> io::Result<()> {
        let mut generation = self.cluster.rebalance_generation();
        while !is_stopping.load(Acquire) {
            let replicas = &self.context.replicas;
            std::thread::park_timeout(if replicas.count() == 0 { IDLE_PAUSE } else { REFUSED_PAUSE });
            let has_changed =
                std::mem::replace(&mut generation, self.cluster.rebalance_generation()) != generation;
            if replicas.count() != 0 {
                for ended in replicas.resend(&self.context.namespaces, has_changed) {
                    ended.release(|request| self.context.pool.submit(request));
                }
            }
        }
        Ok(())
    }

    fn taken(&self, from: NodeId, message: &[u8]) -> Result<(), PeerError> {
        let Replication { namespace_index, transaction_id, body } = Replication::decode(message)?;
        let answer = match body {
            ReplicationBody::ReplicaWrite { namespace, info, cluster_key, subject } => {
                let (digest, result) = self.store(namespace, cluster_key, subject)?;
                if info.is_some_and(|info| info & INFO_NO_ACK != 0) {
                    return Ok(());
                }
                ReplicationBody::WriteAck { result, digest }
            }
            ReplicationBody::WriteAck { result, digest } => {
                let key = RecordKey { namespace: namespace_index as usize, digest };
                let ended = self.context.replicas.answered(&key, transaction_id, from, result == REFUSED);
                if let Some(ended) = ended {
                    ended.release(|request| self.context.pool.submit(request));
                }
                return Ok(());
            }
            ReplicationBody::DuplicateRequest { namespace, digest, own } => {
                return self.answer_duplicate(
                    from,
                    (namespace_index, transaction_id),
                    (namespace, digest, own),
                );
            }
            ReplicationBody::DuplicateAck { .. } => return Ok(()),
        };
        self.answer(from, namespace_index, transaction_id, answer);
        Ok(())
    }

    fn answer(&self, to: NodeId, namespace_index: u32, transaction_id: u32, body: ReplicationBody<'_>) {
        let mut bytes = Vec::new();
        Replication { namespace_index, transaction_id, body }.encode(&mut bytes);
        // Who gets no answer asks again.
        let _ = self.fabric.send(to, Channel::ReadWrite, &bytes);
    }

    fn namespace(&self, name: &[u8]) -> Option<&Arc<Namespace>> {
        self.context.namespaces.iter().find(|namespace| namespace.name().as_bytes() == name)
    }

    /// Stores a replica write; gives its digest and what to answer.
    fn store(
        &self,
        namespace: &[u8],
        cluster_key: Option<ClusterKey>,
        subject: Subject<'_>,
    ) -> Result<(Digest, u32), PeerError> {
        let mut padded = Vec::new();
        let (digest, record) = match subject {
            Subject::Digest(digest) => (digest, None),
            Subject::Record(bytes) => {
                let record = parse(bytes, &mut padded).map_err(|_| PeerError::Invalid(6))?;
                (record.digest, Some(record))
            }
        };
        let Some(namespace) = self.namespace(namespace) else {
            return Ok((digest, ResultCode::Namespace as u32));
        };
        let is_known = cluster_key.is_none_or(|key| key.0 == self.cluster.key());
        let reserved = namespace.partitions.reserve_as_replica(PartitionId::of(&digest));
        let Some(reservation) = reserved.filter(|_| is_known) else { return Ok((digest, REFUSED)) };
        let result = match record {
            Some(record) => store_copy(namespace, &record, &reservation, ConflictPolicy::LastUpdateTime)?,
            None => remove_copy(namespace, &digest),
        };
        Ok((digest, result as u32))
    }

    fn answer_duplicate(
        &self,
        from: NodeId,
        (namespace_index, transaction_id): (u32, u32),
        (namespace, digest, asking): (&[u8], Digest, Option<OwnCopy>),
    ) -> Result<(), PeerError> {
        let answer_result = |answer: DuplicateAnswer| ReplicationBody::DuplicateAck {
            result: answer.code(),
            subject: Subject::Digest(digest),
        };
        let reserved = self.namespace(namespace).and_then(|namespace| {
            Some((namespace, namespace.partitions.reserve_data(PartitionId::of(&digest))?))
        });
        let Some((namespace, _reservation)) = reserved else {
            self.answer(from, namespace_index, transaction_id, answer_result(DuplicateAnswer::NotFound));
            return Ok(());
        };
        let guard = namespace.index.get(&digest);
        let asking = asking.map(|copy| CopyAge {
            generation: copy.generation as u16,
            last_update_time: copy.last_update_time,
        });
        let own = guard.as_ref().map(|guard| age_of(guard));
        let answer = answer_duplicate_request(policy_of(namespace), own, asking);
        let mut scratch = ReadBuffer::new();
        let record = guard.as_ref().filter(|_| answer == DuplicateAnswer::Newer);
        let bytes = record.and_then(|guard| namespace.storage.record_bytes(guard, &mut scratch).ok());
        let mut unpacker = Unpacker::default();
        let plain = bytes.and_then(|stored| unpacked(stored, &mut unpacker).ok());
        let sent = plain.and_then(FlatRecord::without_end);
        let body = match sent.as_deref() {
            Some(bytes) => ReplicationBody::DuplicateAck { result: 0, subject: Subject::Record(bytes) },
            // What cannot be read counts as not there.
            None if answer == DuplicateAnswer::Newer => answer_result(DuplicateAnswer::NotFound),
            None => answer_result(answer),
        };
        self.answer(from, namespace_index, transaction_id, body);
        Ok(())
    }
}

/// The `conflict-resolution-policy` of a namespace.
fn policy_of(namespace: &Namespace) -> ConflictPolicy {
    match namespace.config().params.conflict_resolution_policy.get() {
        ConflictResolutionPolicy::Generation => ConflictPolicy::Generation,
        ConflictResolutionPolicy::LastUpdateTime => ConflictPolicy::LastUpdateTime,
    }
}

fn age_of(meta: &RecordMeta) -> CopyAge {
    CopyAge { generation: meta.generation, last_update_time: meta.last_update_time() }
}

/// Reads a record as nodes send it, without end mark and padding; `padded` gets it with room for these.
fn parse<'p>(bytes: &[u8], padded: &'p mut Vec<u8>) -> Result<FlatRecord<'p>, FlatError> {
    let size = FlatRecord::stated_size(bytes).ok_or(FlatError::Size)?;
    // The stated size is that of the bytes, an end mark and padding: no more than is there sizes anything.
    if size < bytes.len() || size - bytes.len() > 2 * datamodel::flat::RBLOCK_SIZE {
        return Err(FlatError::Size);
    }
    padded.extend_from_slice(bytes);
    padded.resize(size, 0);
    FlatRecord::parse(padded)
}

/// Stores a copy of a record that came from another node, if it is newer by `policy` than the one that is here.
///
/// # Errors
/// When its bins cannot be read.
fn store_copy(
    namespace: &Namespace,
    record: &FlatRecord<'_>,
    reservation: &PartitionReservation<'_>,
    policy: ConflictPolicy,
) -> Result<ResultCode, PeerError> {
    let bins = record.load_bins().map_err(|_| PeerError::Invalid(6))?;
    let Ok(set_id) = namespace.set_of_copy(record.set_name) else { return Ok(ResultCode::Parameter) };
    let own = NewRecord {
        digest: record.digest,
        last_update_time: record.last_update_time,
        generation: record.generation,
        void_time: record.void_time,
        tree_id: reservation.tree_id(),
        set_name: record.set_name,
        key: record.key,
        leaves_tombstone: record.leaves_tombstone,
    };
    let mut flat = Vec::new();
    own.encode(&bins, own.size(&bins), &mut flat);
    let Ok((guard, _)) = namespace.index.get_or_create(&record.digest) else {
        return Ok(ResultCode::OutOfSpace);
    };
    let mut meta = RecordMeta::new(set_id);
    meta.generation = record.generation;
    meta.set_last_update_time(record.last_update_time);
    meta.void_time = record.void_time;
    meta.set_tombstone(bins.is_empty());
    meta.set_leaves_tombstone(record.leaves_tombstone && !bins.is_empty());
    if guard.exists() {
        let (incoming, existing) = (age_of(&meta), age_of(&guard));
        if !policy.replaces(incoming, Some(existing)) {
            let is_same = incoming == existing;
            return Ok(if is_same { ResultCode::RecordExists } else { ResultCode::Generation });
        }
    }
    let version = NewVersion { flat: &flat, packed: None, meta, key_stored: record.key.is_some() };
    let change = if bins.is_empty() { Change::Tombstone(version) } else { Change::Record(version) };
    match namespace.commit(guard, &change, Cause::OtherNode) {
        Ok(_) => Ok(ResultCode::Ok),
        Err(error) => {
            cf::warning_limited!(Rw, "{{{}}} copy of a record not stored: {error:?}", namespace.name());
            Ok(ResultCode::OutOfSpace)
        }
    }
}

/// Removes a copy whose record its master has removed.
fn remove_copy(namespace: &Namespace, digest: &Digest) -> ResultCode {
    let Some(guard) = namespace.index.get_exclusive(digest).filter(|guard| !guard.is_tombstone()) else {
        return ResultCode::NotFound;
    };
    let removal = Removal::plain(Cause::OtherNode, StoredMillis::now());
    match namespace.remove(guard, &removal, &mut Vec::new()) {
        Ok(_) => ResultCode::Ok,
        Err(_) => ResultCode::OutOfSpace,
    }
}
