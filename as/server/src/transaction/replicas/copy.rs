//! Copies of records that come from other nodes: which of two copies counts, and how one is stored.

use cf::Digest;
use cf::clock::StoredMillis;
use cluster::conflict::{ConflictPolicy, CopyAge};
use datamodel::flat::{FlatError, FlatRecord, NewRecord};
use proto::ResultCode;
use proto::peer::PeerError;

use crate::config::params::namespace::ConflictResolutionPolicy;
use crate::index::{PartitionId, RecordMeta};
use crate::namespace::{Cause, Change, Namespace, NewVersion, PartitionReservation, Removal};

/// Field of a message with a record.
const RECORD_FIELD: u16 = 6;

/// Stores a copy of a record of `partition` as nodes send it, if it is newer by `conflict-resolution-policy` than the one that
/// is here. Gives [`ResultCode::Ok`] if it did, `RecordExists` if it is here already, `Generation` if what is here is newer.
///
/// # Errors
/// When it is none, or of another partition.
pub(crate) fn take_copy(
    namespace: &Namespace,
    partition: PartitionId,
    bytes: &[u8],
) -> Result<ResultCode, PeerError> {
    let mut padded = Vec::new();
    let record = parse(bytes, &mut padded).map_err(|_| PeerError::Invalid(RECORD_FIELD))?;
    if PartitionId::of(&record.digest) != partition {
        return Err(PeerError::Invalid(RECORD_FIELD));
    }
    let Some(reservation) = namespace.partitions.reserve_data(partition) else {
        return Ok(ResultCode::Unavailable);
    };
    store_copy(namespace, &record, &reservation, Via::Migration)
}

/// The `conflict-resolution-policy` of a namespace.
pub(in crate::transaction) fn policy_of(namespace: &Namespace) -> ConflictPolicy {
    match namespace.config().params.conflict_resolution_policy.get() {
        ConflictResolutionPolicy::Generation => ConflictPolicy::Generation,
        ConflictResolutionPolicy::LastUpdateTime => ConflictPolicy::LastUpdateTime,
    }
}

/// What is compared of a copy as nodes send it.
///
/// # Errors
/// When it is none.
pub(in crate::transaction) fn age_of_copy(bytes: &[u8]) -> Result<CopyAge, PeerError> {
    let mut padded = Vec::new();
    let record = parse(bytes, &mut padded).map_err(|_| PeerError::Invalid(RECORD_FIELD))?;
    Ok(CopyAge { generation: record.generation, last_update_time: record.last_update_time })
}

pub(super) fn age_of(meta: &RecordMeta) -> CopyAge {
    CopyAge { generation: meta.generation, last_update_time: meta.last_update_time() }
}

/// Reads a record as nodes send it, without end mark and padding; `padded` gets it with room for these.
pub(super) fn parse<'p>(bytes: &[u8], padded: &'p mut Vec<u8>) -> Result<FlatRecord<'p>, FlatError> {
    let size = FlatRecord::stated_size(bytes).ok_or(FlatError::Size)?;
    // The stated size is that of the bytes, an end mark and padding: no more than is there sizes anything.
    if size < bytes.len() || size - bytes.len() > 2 * datamodel::flat::RBLOCK_SIZE {
        return Err(FlatError::Size);
    }
    padded.extend_from_slice(bytes);
    padded.resize(size, 0);
    FlatRecord::parse(padded)
}

/// How a copy of a record has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Via {
    /// The master has written it.
    ReplicaWrite,
    /// Another node had it from before: by migration, or as an answer to a question for duplicates.
    Migration,
}

impl Via {
    fn policy(self, namespace: &Namespace) -> ConflictPolicy {
        match self {
            Via::ReplicaWrite => ConflictPolicy::LastUpdateTime,
            Via::Migration => policy_of(namespace),
        }
    }
}

/// Stores a copy of a record that came from another node, if it is newer than the one that is here.
///
/// # Errors
/// When its bins cannot be read.
pub(super) fn store_copy(
    namespace: &Namespace,
    record: &FlatRecord<'_>,
    reservation: &PartitionReservation<'_>,
    via: Via,
) -> Result<ResultCode, PeerError> {
    let bins = record.load_bins().map_err(|_| PeerError::Invalid(RECORD_FIELD))?;
    let Ok(set_id) = namespace.set_of_copy(record.set_name) else { return Ok(ResultCode::Parameter) };
    let Ok((guard, _)) = namespace.index.get_or_create(&record.digest) else {
        return Ok(ResultCode::OutOfSpace);
    };
    let mut meta = RecordMeta::new(set_id);
    meta.generation = record.generation;
    meta.set_last_update_time(record.last_update_time);
    meta.void_time = record.void_time;
    meta.set_tombstone(bins.is_empty());
    let leaves_tombstone =
        record.leaves_tombstone || namespace.copy_must_leave_tombstone(&guard, record.void_time);
    meta.set_leaves_tombstone(leaves_tombstone && !bins.is_empty());
    if namespace.is_truncated(&meta) {
        return Ok(ResultCode::Ok);
    }
    if via == Via::Migration && namespace.partitions.is_late_copy(&record.digest, record.last_update_time) {
        return Ok(ResultCode::Generation);
    }
    let policy = via.policy(namespace);
    if guard.exists() {
        let (incoming, existing) = (age_of(&meta), age_of(&guard));
        if !policy.replaces(incoming, Some(existing)) {
            let is_same = incoming == existing;
            return Ok(if is_same { ResultCode::RecordExists } else { ResultCode::Generation });
        }
    }
    let own = NewRecord {
        digest: record.digest,
        last_update_time: record.last_update_time,
        generation: record.generation,
        void_time: record.void_time,
        tree_id: reservation.tree_id(),
        set_name: record.set_name,
        key: record.key,
        leaves_tombstone,
    };
    let mut flat = Vec::new();
    own.encode(&bins, own.size(&bins), &mut flat);
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
pub(super) fn remove_copy(namespace: &Namespace, digest: &Digest) -> ResultCode {
    let partitions = &namespace.partitions;
    let found = if partitions.awaits_copies(PartitionId::of(digest)) {
        // A copy of it may be on its way.
        namespace.index.get_or_create(digest).ok().map(|(guard, _)| guard)
    } else {
        namespace.index.get_exclusive(digest)
    };
    let Some(guard) = found.filter(|guard| !guard.is_tombstone()) else { return ResultCode::NotFound };
    if !guard.exists() {
        partitions.note_removal(digest, StoredMillis::now().0);
        return ResultCode::NotFound;
    }
    let removal = Removal::plain(Cause::OtherNode, StoredMillis::now());
    match namespace.remove(guard, &removal, &mut Vec::new()) {
        Ok(_) => ResultCode::Ok,
        Err(_) => ResultCode::OutOfSpace,
    }
}
