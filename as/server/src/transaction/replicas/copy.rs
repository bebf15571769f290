//! Copies of records from other nodes: the choice between two copies, and the storing of a copy.

use cf::Digest;
use cf::clock::StoredMillis;
use cluster::conflict::{ConflictPolicy, CopyAge};
use datamodel::Bins;
use datamodel::flat::{FlatError, FlatRecord, NewRecord};
use proto::ResultCode;
use proto::peer::PeerError;

use crate::config::params::namespace::ConflictResolutionPolicy;
use crate::index::{IndexFull, Location, PartitionId, RecordMeta, WriteGuard};
use crate::namespace::{
    Cause, Change, ForObservers, LOOKS_MAX, Namespace, NewVersion, PartitionReservation, Removal,
};
use crate::storage::{DurableWait, ReadBuffer};
use crate::transaction::flat_buffer::FlatBuffer;

/// Field of a message with a record.
const RECORD_FIELD: u16 = 6;

/// Stores a copy of a record of `partition` in the form that nodes send, if the copy is newer than the present record
/// by `conflict-resolution-policy`, or if the present record was last updated before `removed_at`. Returns
/// [`ResultCode::Ok`] if it is stored, `RecordExists` if this version exists already, `Generation` if the present
/// record is newer or the copy is from before a removal.
///
/// # Errors
/// When it is no valid record, or belongs to another partition.
pub(crate) fn take_copy(
    namespace: &Namespace,
    partition: PartitionId,
    bytes: &[u8],
    removed_at: Option<u64>,
) -> Result<StoredCopy, PeerError> {
    let mut padded = Vec::new();
    let record = parse(bytes, &mut padded).map_err(|_| PeerError::Invalid(RECORD_FIELD))?;
    if PartitionId::of(&record.digest) != partition {
        return Err(PeerError::Invalid(RECORD_FIELD));
    }
    let Some(reservation) = namespace.partitions.reserve_data(partition) else {
        return Ok(ResultCode::Unavailable.into());
    };
    store_copy(namespace, &record, &reservation, Via::Migration { removed_at })
}

/// Applies a removal of a record of `partition` at `removed_at`, reported by another node: a copy here that is older
/// is removed.
///
/// # Errors
/// When the record belongs to another partition.
pub(crate) fn take_removal(
    namespace: &Namespace,
    partition: PartitionId,
    digest: &Digest,
    removed_at: u64,
) -> Result<StoredCopy, PeerError> {
    if PartitionId::of(digest) != partition {
        return Err(PeerError::Invalid(RECORD_FIELD));
    }
    match namespace.partitions.reserve_data(partition) {
        Some(_reservation) => Ok(remove_copy(namespace, digest, Some(removed_at))),
        None => Ok(ResultCode::Unavailable.into()),
    }
}

/// The `conflict-resolution-policy` of a namespace.
pub(in crate::transaction) fn policy_of(namespace: &Namespace) -> ConflictPolicy {
    match namespace.config().params.conflict_resolution_policy.get() {
        ConflictResolutionPolicy::Generation => ConflictPolicy::Generation,
        ConflictResolutionPolicy::LastUpdateTime => ConflictPolicy::LastUpdateTime,
    }
}

/// The values by which a copy in the form that nodes send is compared.
///
/// # Errors
/// When it is no valid record.
pub(in crate::transaction) fn age_of_copy(bytes: &[u8]) -> Result<CopyAge, PeerError> {
    let mut padded = Vec::new();
    let record = parse(bytes, &mut padded).map_err(|_| PeerError::Invalid(RECORD_FIELD))?;
    Ok(CopyAge { generation: record.generation, last_update_time: record.last_update_time })
}

pub(super) fn age_of(meta: &RecordMeta) -> CopyAge {
    CopyAge { generation: meta.generation, last_update_time: meta.last_update_time() }
}

/// Parses a record in the form that nodes send, without end mark and padding; `padded` gets it with room for these.
pub(super) fn parse<'p>(bytes: &[u8], padded: &'p mut Vec<u8>) -> Result<FlatRecord<'p>, FlatError> {
    let size = FlatRecord::stated_size(bytes).ok_or(FlatError::Size)?;
    // The stated size includes an end mark and padding. It must not exceed the received bytes by more than these, so
    // that a wrong size cannot reserve memory.
    if size < bytes.len() || size - bytes.len() > 2 * datamodel::flat::RBLOCK_SIZE {
        return Err(FlatError::Size);
    }
    padded.extend_from_slice(bytes);
    padded.resize(size, 0);
    FlatRecord::parse(padded)
}

/// The result of storing or removing a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) struct StoredCopy {
    pub(crate) result: ResultCode,
    /// The location that must be on disk before the result is reported, if `commit-to-device` is on.
    location: Option<Location>,
}

impl From<ResultCode> for StoredCopy {
    fn from(result: ResultCode) -> Self {
        StoredCopy { result, location: None }
    }
}

impl StoredCopy {
    /// Calls `done` with the result, at once or when the record is on disk: then on the disk's flush thread, with
    /// `Unknown` if that failed. `done` must not wait.
    pub(crate) fn when_safe(self, namespace: &Namespace, done: impl FnOnce(ResultCode) + Send + 'static) {
        let StoredCopy { result, location } = self;
        let Some(location) = location.filter(|location| namespace.storage.is_change_unsettled(*location))
        else {
            return done(result);
        };
        let settled = move |lost: &[usize]| {
            done(if lost.is_empty() { result } else { ResultCode::Unknown });
        };
        let wait = DurableWait { locations: vec![location], done: Box::new(settled) };
        namespace.storage.when_durable(location.device(), wait);
    }
}

/// The way a copy of a record came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Via {
    /// The master has written it.
    ReplicaWrite,
    /// A C server has written it as the master. A C server does not ensure that a write after a removal has a later
    /// time.
    ReplicaWriteOfCServer,
    /// Another node had an earlier copy: sent by migration, or as an answer to a question for duplicates. It may know
    /// when an earlier record was removed, in milliseconds since 2010.
    Migration { removed_at: Option<u64> },
}

impl Via {
    fn policy(self, namespace: &Namespace) -> ConflictPolicy {
        match self {
            Via::ReplicaWrite | Via::ReplicaWriteOfCServer => ConflictPolicy::LastUpdateTime,
            Via::Migration { .. } => policy_of(namespace),
        }
    }
}

/// Stores a copy from another node, if it is newer than the present one.
///
/// # Errors
/// When its bins are not valid.
pub(super) fn store_copy(
    namespace: &Namespace,
    record: &FlatRecord<'_>,
    reservation: &PartitionReservation<'_>,
    via: Via,
) -> Result<StoredCopy, PeerError> {
    let bins = record.load_bins().map_err(|_| PeerError::Invalid(RECORD_FIELD))?;
    let Ok(set_id) = namespace.set_of_copy(record.set_name) else { return Ok(ResultCode::Parameter.into()) };
    let mut meta = RecordMeta::new(set_id);
    meta.generation = record.generation;
    meta.set_last_update_time(record.last_update_time);
    meta.void_time = record.void_time;
    meta.set_tombstone(bins.is_empty());
    let mut copy = Copy {
        namespace,
        record,
        bins: &bins,
        tree_id: reservation.tree_id(),
        meta,
        flat: FlatBuffer::default(),
        leaves_tombstone: None,
    };
    let mut scratch = ReadBuffer::new();
    for look in 1.. {
        // The slow part is done before the lock is taken, with the record as it is now.
        let seen = namespace.see(&record.digest, 0, &mut scratch);
        let may_count = loses_to(namespace, &record.digest, &seen.meta, age_of(&meta), via).is_none();
        let ahead = may_count.then(|| {
            copy.make(&seen.meta);
            namespace.look_ahead(&record.digest, seen, &copy.change())
        });
        let Ok(guard) = find_or_create(namespace, &record.digest, &mut scratch) else {
            return Ok(ResultCode::OutOfSpace.into());
        };
        if namespace.is_truncated(&meta) {
            return Ok(ResultCode::Ok.into());
        }
        note_removal(namespace, &record.digest, via);
        if let Some(result) = loses_to(namespace, &record.digest, &guard, age_of(&meta), via) {
            // The present record may not be on disk yet.
            return Ok(StoredCopy { result, location: Some(guard.location) });
        }
        let for_observers = ahead.as_ref().and_then(|ahead| ahead.for_observers(&guard));
        if for_observers.is_none() && look < LOOKS_MAX {
            continue;
        }
        let for_observers = for_observers.unwrap_or_else(|| {
            copy.make(&guard);
            ForObservers { old: namespace.old_record(&guard, &mut scratch), ..ForObservers::default() }
        });
        return Ok(match namespace.commit_with(guard, &copy.change(), Cause::OtherNode, for_observers) {
            Ok(committed) => StoredCopy { result: ResultCode::Ok, location: Some(committed.location) },
            Err(error) => {
                cf::warning_limited!(Rw, "{{{}}} copy of a record not stored: {error:?}", namespace.name());
                ResultCode::OutOfSpace.into()
            }
        });
    }
    unreachable!("the last look is one with a lock")
}

/// A copy of a record that is to be stored.
struct Copy<'c, 'r> {
    namespace: &'c Namespace,
    record: &'c FlatRecord<'r>,
    bins: &'c Bins<'r>,
    tree_id: u8,
    meta: RecordMeta,
    /// Its flat form as it is stored here.
    flat: FlatBuffer,
    /// The flat form's marks about tombstones, once it is made.
    leaves_tombstone: Option<bool>,
}

impl Copy<'_, '_> {
    /// Makes its flat form, in the place of the record that is `here`.
    fn make(&mut self, here: &RecordMeta) {
        let Copy { namespace, record, bins, .. } = *self;
        let leaves_tombstone =
            record.leaves_tombstone || namespace.copy_must_leave_tombstone(here, record.void_time);
        if self.leaves_tombstone == Some(leaves_tombstone) {
            return;
        }
        self.leaves_tombstone = Some(leaves_tombstone);
        self.meta.set_leaves_tombstone(leaves_tombstone && !bins.is_empty());
        let own = NewRecord {
            digest: record.digest,
            last_update_time: record.last_update_time,
            generation: record.generation,
            void_time: record.void_time,
            tree_id: self.tree_id,
            set_name: record.set_name,
            key: record.key,
            leaves_tombstone,
        };
        let settings = namespace.storage.pack_settings().filter(|_| !bins.is_empty());
        let figures = &namespace.metrics.data_compression;
        self.flat.encode(&own, (bins, own.size(bins)), settings.as_ref(), figures);
    }

    /// The change that stores this copy.
    fn change(&self) -> Change<'_> {
        let (flat, packed) = (self.flat.plain(), self.flat.packed());
        let version = NewVersion { flat, packed, meta: self.meta, key_stored: self.record.key.is_some() };
        if self.bins.is_empty() { Change::Tombstone(version) } else { Change::Record(version) }
    }
}

/// The element of `digest`, created if there is none, [ready to change](Namespace::find_to_change).
fn find_or_create<'n>(
    namespace: &'n Namespace,
    digest: &Digest,
    scratch: &mut ReadBuffer,
) -> Result<WriteGuard<'n>, IndexFull> {
    namespace.find_to_change(|| namespace.index.get_or_create(digest).map(|(guard, _)| guard), scratch)
}

/// Notes the removal that the sender of a copy knows of. The caller holds the record's sprig lock.
fn note_removal(namespace: &Namespace, digest: &Digest, via: Via) {
    if let Via::Migration { removed_at: Some(removed_at) } = via {
        namespace.partitions.note_removal(digest, removed_at);
    }
}

/// The reason why a copy of the record of `digest` is not stored: `RecordExists` if `here`, the present one,
/// is this version, `Generation` if the present one is newer, or if the copy is from before a removal. `None`
/// if it is to be stored.
fn loses_to(
    namespace: &Namespace,
    digest: &Digest,
    here: &RecordMeta,
    incoming: CopyAge,
    via: Via,
) -> Option<ResultCode> {
    let told = match via {
        Via::Migration { removed_at } => removed_at,
        Via::ReplicaWrite | Via::ReplicaWriteOfCServer => None,
    };
    let known = namespace.partitions.removed_at(digest).filter(|_| via != Via::ReplicaWriteOfCServer);
    let removed_at = known.max(told);
    let is_late = |age: CopyAge| removed_at.is_some_and(|removed_at| age.last_update_time < removed_at);
    if is_late(incoming) {
        return Some(ResultCode::Generation);
    }
    // The present record may be from before a removal that only other nodes know.
    let existing = here.exists().then(|| age_of(here)).filter(|existing| !is_late(*existing))?;
    if via.policy(namespace).replaces(incoming, Some(existing)) {
        return None;
    }
    Some(if incoming == existing { ResultCode::RecordExists } else { ResultCode::Generation })
}

/// Removes a copy whose record was removed elsewhere at `removed_at`, in milliseconds since 2010, which is later than
/// the last update of the removed record; `None` removes any copy. Returns `Generation` if the present record is newer.
pub(super) fn remove_copy(namespace: &Namespace, digest: &Digest, removed_at: Option<u64>) -> StoredCopy {
    let mut scratch = ReadBuffer::new();
    for look in 1.. {
        let seen = namespace.see(digest, 0, &mut scratch);
        let ahead = namespace.look_ahead(digest, seen, &Change::Gone);
        // An element is created if there is none: a copy of the record may be on its way.
        let Ok(guard) = find_or_create(namespace, digest, &mut scratch) else {
            return ResultCode::OutOfSpace.into();
        };
        let is_newer = guard.exists() && removed_at.is_some_and(|time| guard.last_update_time() >= time);
        if is_newer || !guard.exists() || guard.is_tombstone() {
            namespace.partitions.note_removal(digest, removed_at.unwrap_or_else(|| StoredMillis::now().0));
            return if is_newer { ResultCode::Generation.into() } else { ResultCode::NotFound.into() };
        }
        let for_observers = ahead.for_observers(&guard);
        if for_observers.is_none() && look < LOOKS_MAX {
            continue;
        }
        let for_observers = for_observers.unwrap_or_else(|| ForObservers {
            old: namespace.old_record(&guard, &mut scratch),
            ..ForObservers::default()
        });
        let for_observers = ForObservers { removed_at, ..for_observers };
        let removal = Removal { for_observers, ..Removal::plain(Cause::OtherNode, StoredMillis::now()) };
        return match namespace.remove(guard, &removal, &mut Vec::new()) {
            Ok(committed) => StoredCopy { result: ResultCode::Ok, location: Some(committed.location) },
            Err(_) => ResultCode::OutOfSpace.into(),
        };
    }
    unreachable!("the last look is one with a lock")
}

#[cfg(test)]
mod tests {
    use datamodel::{Bins, Particle};

    use super::*;

    const DIGEST: Digest = Digest([7; 20]);

    /// A record in the form that nodes send.
    fn copy(generation: u16, last_update_time: u64) -> Vec<u8> {
        let record = NewRecord {
            digest: DIGEST,
            last_update_time,
            generation,
            void_time: 0,
            tree_id: 0,
            set_name: b"set",
            key: None,
            leaves_tombstone: false,
        };
        let mut bins = Bins::new();
        bins.set(b"n", Particle::Integer(last_update_time.cast_signed()));
        let mut flat = Vec::new();
        record.encode(&bins, record.size(&bins), &mut flat);
        FlatRecord::without_end(&flat).expect("a whole record").to_vec()
    }

    /// A namespace of a node that is in a cluster with others.
    fn namespace() -> std::sync::Arc<Namespace> {
        let text = "namespace test {\n storage-engine memory {\n data-size 512M\n }\n}\n";
        let (_, namespace) = Namespace::for_tests(text);
        namespace.partitions.serve_until(u64::MAX - 1);
        namespace
    }

    /// The result for such a copy from a migration whose sender knows a removal time, or does not.
    fn take(namespace: &Namespace, generation: u16, time: u64, removed_at: Option<u64>) -> ResultCode {
        let bytes = copy(generation, time);
        take_copy(namespace, PartitionId::of(&DIGEST), &bytes, removed_at).expect("a record").result
    }

    fn remove(namespace: &Namespace, removed_at: u64) -> ResultCode {
        take_removal(namespace, PartitionId::of(&DIGEST), &DIGEST, removed_at).expect("its partition").result
    }

    fn age_here(namespace: &Namespace) -> Option<(u16, u64)> {
        let guard = namespace.index.get(&DIGEST)?;
        Some((guard.generation, guard.last_update_time()))
    }

    #[test]
    fn copies_of_before_a_removal_do_not_count() {
        let namespace = namespace();
        assert_eq!(take(&namespace, 5, 1000, None), ResultCode::Ok);
        assert_eq!((remove(&namespace, 2000), age_here(&namespace)), (ResultCode::Ok, None));
        // A higher generation does not help.
        assert_eq!((take(&namespace, 9, 1999, None), age_here(&namespace)), (ResultCode::Generation, None));
        assert_eq!(take(&namespace, 1, 2000, None), ResultCode::Ok);
        assert_eq!(remove(&namespace, 2000), ResultCode::Generation);
        assert_eq!(take(&namespace, 9, 1500, None), ResultCode::Generation);
        assert_eq!(age_here(&namespace), Some((1, 2000)));
    }

    #[test]
    fn a_recreated_record_replaces_an_older_one_with_more_generations() {
        let namespace = namespace();
        assert_eq!(take(&namespace, 9, 1000, None), ResultCode::Ok);
        assert_eq!(take(&namespace, 1, 3000, None), ResultCode::Generation);
        assert_eq!(take(&namespace, 1, 3000, Some(2500)), ResultCode::Ok);
        assert_eq!(age_here(&namespace), Some((1, 3000)));
        // A removal before both changes nothing.
        assert_eq!(take(&namespace, 2, 3000, Some(2600)), ResultCode::Ok);
        assert_eq!(take(&namespace, 1, 4000, Some(2600)), ResultCode::Generation);
    }

    #[test]
    fn a_replica_write_that_was_overtaken_by_a_removal_is_refused() {
        let namespace = namespace();
        let bytes = copy(3, 1000);
        let mut padded = Vec::new();
        let record = parse(&bytes, &mut padded).expect("a record");
        let reservation = namespace.partitions.reserve_data(PartitionId::of(&DIGEST)).expect("it has data");
        let store = |via| store_copy(&namespace, &record, &reservation, via).expect("a record").result;
        // The removal came first: there was nothing to remove yet.
        assert_eq!(remove_copy(&namespace, &DIGEST, Some(1001)).result, ResultCode::NotFound);
        assert_eq!((store(Via::ReplicaWrite), age_here(&namespace)), (ResultCode::Generation, None));
        // A write of a C server after a removal may have an earlier time.
        assert_eq!(store(Via::ReplicaWriteOfCServer), ResultCode::Ok);
    }
}
