//! The commit of a record: the only way in which a record changes.
//!
//! A write, touch, delete, copy of another node, expiry, eviction, truncation, lost partition, and the removal of a
//! tombstone all end in [`Namespace::commit`]. Each record that a load finds ends in [`commit_loaded`], which leaves
//! out the steps that a stored record does not need.
//! The caller holds the record's guard and has made the new flat record. The commit then takes these steps, in this
//! order:
//!
//! 1. Observers analyse the change while the old record can still be read. The caller has read the record from its
//!    disk before it took the guard ([`find_to_change`](Namespace::find_to_change)). A caller that computed the
//!    change from a copy of the record lets observers [prepare](Namespace::prepare) it without the guard.
//! 2. Storage gets the new flat record. This is the only step that can fail; then nothing has changed.
//! 3. The index element gets the new metadata.
//! 4. The figures of set, expiry, tombstones and removals are updated.
//! 5. Storage frees the place of the old record.
//! 6. The indexes of sets are updated, then observers act on what they saw.
//! 7. The guard is dropped. An element without a record leaves the index then.
//!
//! Nothing has to be undone: a guard that is dropped before step 3 leaves the record unchanged, and removes a created
//! element from the index again.
//!
//! # Locks
//! The sprig lock is held from before step 1 to step 7. Observers take no sprig lock.

use std::any::Any;
use std::sync::atomic::Ordering::Relaxed;

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::Budget;
use smallvec::SmallVec;

use super::Namespace;
use super::sets::SetChange;
use crate::index::{Element, ElementHandle, Location, RecordMeta, SetId, WriteGuard};
use crate::storage::{RBLOCK_SIZE, ReadBuffer, Room, StorageError};

/// A record or tombstone to be stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewVersion<'a> {
    /// Its flat form, not packed.
    pub(crate) flat: &'a [u8],
    /// The form to be stored, if it differs from `flat`.
    pub(crate) packed: Option<&'a [u8]>,
    /// Its metadata for the index. The commit fills in the location.
    pub(crate) meta: RecordMeta,
    pub(crate) key_stored: bool,
}

/// The record after the commit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change<'a> {
    /// It is created or gets a new version.
    Record(NewVersion<'a>),
    /// A tombstone takes its place.
    Tombstone(NewVersion<'a>),
    /// It is removed, and nothing takes its place.
    Gone,
}

/// The reason why a record changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    Write,
    /// A read renewed its time to live.
    ReadTouch,
    Delete,
    Expiry,
    Eviction,
    /// It was last updated before the threshold of a truncation.
    Truncate,
    /// A copy came from another node, or the master has removed the record.
    OtherNode,
    /// This node no longer keeps its partition.
    PartitionLeft,
    /// The tomb raider removes a tombstone that is no longer needed.
    TombRaid,
}

/// Input of a commit's caller for observers.
#[derive(Clone, Copy, Default)]
pub(crate) struct ForObservers<'a> {
    /// Time of the removal in milliseconds since 2010, if another node has given it; `None` = now.
    pub(crate) removed_at: Option<u64>,
    /// The old record's flat form, not packed, if the caller has read it.
    pub(crate) old: Option<&'a [u8]>,
    /// Budget of the observers' work before the change; `None` if it is not limited.
    pub(crate) budget: Option<&'a Budget<'a>>,
    /// The results of observers about this change of this version of the record, computed ahead.
    pub(crate) prepared: Option<&'a PreparedChange>,
}

/// A change that observers prepare without the record's guard.
pub(crate) struct Preparation<'a> {
    pub(crate) digest: &'a Digest,
    /// Metadata of the old record.
    pub(crate) before: &'a RecordMeta,
    /// The old record's flat form, not packed; empty if there is none.
    pub(crate) old: &'a [u8],
    pub(crate) budget: &'a Budget<'a>,
    pub(crate) change: &'a Change<'a>,
}

/// The results of the observers computed ahead of a change, in the order of the observers.
#[derive(Default)]
pub(crate) struct PreparedChange(SmallVec<[Option<Box<dyn Any>>; 2]>);

/// A change as its observers see it, before it happens.
#[derive(Clone, Copy)]
pub(crate) struct Transition<'a> {
    /// The old record, in its guard. Generation 0: there is none.
    pub(crate) before: &'a Element,
    /// Its flat form, not packed, if it has been read.
    pub(crate) old: Option<&'a [u8]>,
    /// Budget for the analysis of the change.
    pub(crate) budget: &'a Budget<'a>,
    /// The record's place in the index.
    pub(crate) handle: ElementHandle,
    pub(crate) change: &'a Change<'a>,
    pub(crate) cause: Cause,
    /// The result of this observer, computed ahead.
    pub(crate) prepared: Option<&'a dyn Any>,
    /// Time of the removal, if the record is removed.
    pub(crate) removed_at: u64,
}

/// The answer of an observer to a change.
#[derive(Default)]
pub(crate) struct Observed<'a> {
    /// Whether a secondary index will have entries of the record.
    pub(crate) is_indexed: bool,
    /// Called after the commit; dropped if the commit fails.
    pub(crate) act: Option<AfterCommit<'a>>,
}

/// A record after the commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Committed {
    pub(crate) location: Location,
    pub(crate) generation: u16,
    pub(crate) last_update_time: u64,
}

/// Work of an observer after the commit of the change that it saw.
pub(crate) type AfterCommit<'a> = Box<dyn FnOnce(&Namespace, &Committed) + 'a>;

/// A part of the server that follows every change of a namespace's records, such as secondary indexes and replicas.
pub(crate) trait CommitObserver: Send + Sync {
    /// Analyses a change ahead, if that saves time under the record's lock. [`observe`](Self::observe) gets the
    /// result if the record still has that version. The result is ignored if the budget is exhausted.
    fn prepare(&self, _: &Preparation<'_>) -> Option<Box<dyn Any>> {
        None
    }

    /// Analyses a change before it happens. The storage still holds the old record. The result is ignored if the
    /// budget is exhausted.
    fn observe<'a>(&'a self, namespace: &Namespace, transition: &Transition<'_>) -> Observed<'a>;

    /// Whether it reads the old record, whose metadata is `before`, when it observes a change.
    fn reads_old(&self, _before: &RecordMeta) -> bool {
        false
    }

    /// Whether it reads the old records of some changes at present.
    fn may_read_old(&self) -> bool {
        false
    }
}

impl Namespace {
    /// Commits `change` to the record of `guard`, made for `cause`.
    ///
    /// # Errors
    /// When the new version cannot be stored; nothing has changed then.
    pub(crate) fn commit(
        &self,
        guard: WriteGuard<'_>,
        change: &Change<'_>,
        cause: Cause,
    ) -> Result<Committed, StorageError> {
        self.commit_with(guard, change, cause, ForObservers::default())
    }

    /// As [`commit`](Self::commit), with input for observers.
    ///
    /// # Errors
    /// As [`commit`](Self::commit), and `Refused` if the budget of observers is exhausted.
    pub(crate) fn commit_with(
        &self,
        mut guard: WriteGuard<'_>,
        change: &Change<'_>,
        cause: Cause,
        ForObservers { removed_at, old, budget, prepared }: ForObservers<'_>,
    ) -> Result<Committed, StorageError> {
        let (handle, digest, before) = (guard.handle(), *guard.digest(), **guard);
        let unlimited = Budget::unlimited();
        let budget = budget.unwrap_or(&unlimited);
        let removed_at = match change {
            Change::Gone => removed_at.unwrap_or_else(|| self.removal_time(&before)),
            Change::Record(_) | Change::Tombstone(_) => 0,
        };
        let transition =
            Transition { before: &guard, old, budget, handle, change, cause, removed_at, prepared: None };
        let (is_indexed, acts) = self.observe(&transition, prepared);
        if budget.is_exhausted() {
            return Err(StorageError::Refused);
        }
        let mut after = match change {
            Change::Record(version) => self.place(&mut guard, version, Room::Writes)?,
            Change::Tombstone(version) => self.place(&mut guard, version, Room::Tombstones)?,
            Change::Gone => RecordMeta::default(),
        };
        after.set_in_sindex(is_indexed);
        *guard.meta_mut() = after;
        account(&mut RunningFigures { namespace: self, cause, removed_at }, &digest, &before, &after);
        self.storage.free_replaced(before.location, after.location);
        self.update_set_indexes(handle, &digest, &before, &after);
        let committed = Committed {
            location: after.location,
            generation: after.generation,
            last_update_time: after.last_update_time(),
        };
        acts.into_iter().for_each(|act| act(self, &committed));
        Ok(committed)
    }

    /// Whether the record of `element`, borrowed from its guard, can be changed now: observers do not read it, or it is in
    /// memory or in `scratch`, or is known to be unreadable. If not, it must be [fetched](Storage::fetch) first.
    #[inline]
    pub(crate) fn is_ready_to_change(&self, element: &Element, scratch: &mut ReadBuffer) -> bool {
        !self.storage.reads_disks()
            || !self.is_old_read(element)
            || self.storage.is_readable(element, scratch)
    }

    /// Whether observers read the old records of some changes at present.
    pub(super) fn may_read_old(&self) -> bool {
        self.observers.iter().any(|observer| observer.may_read_old())
    }

    #[inline]
    pub(super) fn is_old_read(&self, before: &RecordMeta) -> bool {
        self.observers.iter().any(|observer| observer.reads_old(before))
    }

    /// The record that `find` returns, made [ready to change](Self::is_ready_to_change).
    /// [`old_record`](Self::old_record) returns what was read of it. A record that cannot be made ready is returned
    /// too; observers then treat it as damaged.
    ///
    /// # Errors
    /// Those of `find`.
    pub(crate) fn find_to_change<'g, E>(
        &self,
        find: impl Fn() -> Result<WriteGuard<'g>, E>,
        scratch: &mut ReadBuffer,
    ) -> Result<WriteGuard<'g>, E> {
        self.storage.find_readable(find, |element| self.is_old_read(element), scratch)
    }

    /// The record of `digest`, if there is one, as [`find_to_change`](Self::find_to_change) returns it.
    pub(crate) fn get_to_change(&self, digest: &Digest, scratch: &mut ReadBuffer) -> Option<WriteGuard<'_>> {
        self.find_to_change(|| self.index.get_exclusive(digest).ok_or(()), scratch).ok()
    }

    /// The flat form of the record of `element`, borrowed from its guard, for observers, if it was read from a disk into
    /// `scratch`. If observers want it and it cannot be read, that is logged.
    pub(crate) fn old_record<'s>(&self, element: &Element, scratch: &'s mut ReadBuffer) -> Option<&'s [u8]> {
        let read = self.storage.bytes_read(element, scratch)?;
        read.inspect_err(|error| {
            if self.is_old_read(element) {
                self.report_damage(element, error);
            }
        })
        .ok()
    }

    /// Lets observers prepare a change; the result is for [`ForObservers`]. Callers that computed the change from a
    /// copy of the record call this before they take the guard.
    pub(crate) fn prepare(&self, preparation: &Preparation<'_>) -> PreparedChange {
        PreparedChange(self.observers.iter().map(|observer| observer.prepare(preparation)).collect())
    }

    /// The time of removing the record of `before`, in milliseconds since 2010: later than its last update, and not
    /// later than the first update of a record created in its place.
    fn removal_time(&self, before: &RecordMeta) -> u64 {
        self.partitions.update_time(StoredMillis::now().0).max(before.last_update_time() + 1)
    }

    /// Whether secondary indexes will have entries of the record, and the observers' work after the commit.
    fn observe<'a>(
        &'a self,
        transition: &Transition<'_>,
        prepared: Option<&PreparedChange>,
    ) -> (bool, Vec<AfterCommit<'a>>) {
        let (mut is_indexed, mut acts) = (false, Vec::new());
        for (at, observer) in self.observers.iter().enumerate() {
            let prepared = prepared.and_then(|prepared| prepared.0.get(at)?.as_deref());
            let observed = observer.observe(self, &Transition { prepared, ..*transition });
            is_indexed |= observed.is_indexed;
            acts.extend(observed.act);
        }
        (is_indexed, acts)
    }

    /// Adds an observer of all further changes.
    pub(crate) fn add_observer(&mut self, observer: Box<dyn CommitObserver>) {
        self.observers.push(observer);
    }

    /// Stores `version` in place of the record of `guard`, whose bytes are not freed yet. Returns the new metadata
    /// for the index.
    fn place(
        &self,
        guard: &mut WriteGuard<'_>,
        version: &NewVersion<'_>,
        room: Room,
    ) -> Result<RecordMeta, StorageError> {
        assert!(version.meta.exists(), "a version of a record has a generation");
        let place = self.storage.put(guard, version.packed.unwrap_or(version.flat), room)?;
        let mut after = version.meta;
        after.location = place.with_key_stored(version.key_stored);
        Ok(after)
    }
}

/// Commits a record that a load found on its device: `after` describes the newest copy so far of the record of
/// `guard`. Nothing is stored, and observers of commits are not called: their data is built by an observer of the
/// load, or from the index when all records are loaded. The other steps are those of [`Namespace::commit`].
#[inline]
pub(super) fn commit_loaded(mut guard: WriteGuard<'_>, after: &RecordMeta, figures: &mut impl RecordFigures) {
    let before = std::mem::replace(guard.meta_mut(), *after);
    account(figures, guard.digest(), &before, after);
}

/// Figures about records: those of a running namespace, or those of one thread of a load.
pub(super) trait RecordFigures {
    /// The void-time of the record of `digest` changed from `before` to `after`; 0 for none.
    fn change_void_time(&mut self, digest: &Digest, before: u32, after: u32);

    fn change_tombstones(&mut self, change: i64);

    fn change_set(&mut self, id: SetId, change: SetChange);

    /// The record of `digest`, last updated at that time, left the index.
    fn note_removal(&mut self, digest: &Digest, last_update_time: u64);
}

/// Updates `figures` for a change from `before` to `after`: the only place that defines which figures a record affects.
#[inline]
fn account(figures: &mut impl RecordFigures, digest: &Digest, before: &RecordMeta, after: &RecordMeta) {
    let (size_before, size_after) = (stored_size(before), stored_size(after));
    figures.change_void_time(digest, before.void_time, after.void_time);
    if before.exists() && !after.exists() {
        figures.note_removal(digest, before.last_update_time());
    }
    if before.exists()
        && after.exists()
        && before.set_id == after.set_id
        && before.is_tombstone() == after.is_tombstone()
    {
        if size_before != size_after && after.set_id != SetId::NONE {
            let data_used_bytes = size_after.cast_signed() - size_before.cast_signed();
            figures.change_set(after.set_id, SetChange { data_used_bytes, ..SetChange::default() });
        }
        return;
    }
    count(figures, before, -1);
    count(figures, after, 1);
}

/// Adds a record to the figures of its set and of tombstones, or subtracts it with a `sign` of -1.
fn count(figures: &mut impl RecordFigures, meta: &RecordMeta, sign: i64) {
    if !meta.exists() {
        return;
    }
    let tombstones = if meta.is_tombstone() { sign } else { 0 };
    if tombstones != 0 {
        figures.change_tombstones(tombstones);
    }
    if meta.set_id != SetId::NONE {
        let data_used_bytes = sign * stored_size(meta).cast_signed();
        figures
            .change_set(meta.set_id, SetChange { objects: sign - tombstones, tombstones, data_used_bytes });
    }
}

/// The figures of a running namespace.
struct RunningFigures<'a> {
    namespace: &'a Namespace,
    cause: Cause,
    removed_at: u64,
}

impl RecordFigures for RunningFigures<'_> {
    #[inline]
    fn change_void_time(&mut self, digest: &Digest, before: u32, after: u32) {
        let expiry = &self.namespace.expiry;
        match self.cause {
            // The sweep that found the record has already left it out of the partition's figures.
            Cause::Expiry | Cause::Eviction if before != 0 => expiry.note_removed(digest),
            _ => expiry.note(digest, before, after),
        }
    }

    fn change_tombstones(&mut self, change: i64) {
        // Wrapping: the change may be negative.
        self.namespace.tombstones.fetch_add(change.cast_unsigned(), Relaxed);
    }

    fn change_set(&mut self, id: SetId, change: SetChange) {
        if let Some(set) = self.namespace.sets.get(id) {
            set.change(change);
        }
    }

    fn note_removal(&mut self, digest: &Digest, last_update_time: u64) {
        self.namespace.removals.note(digest, last_update_time);
        if matches!(self.cause, Cause::Write | Cause::Delete | Cause::OtherNode) {
            self.namespace.partitions.note_removal(digest, self.removed_at);
        }
    }
}

/// Bytes of a record in storage.
#[inline]
pub(crate) fn stored_size(meta: &RecordMeta) -> u64 {
    if meta.location.is_stored() { u64::from(meta.location.rblock_count() * RBLOCK_SIZE) } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datamodel::{Bins, Particle};
    use parking_lot::Mutex;

    use super::*;
    use crate::config;
    use crate::namespace::Removal;

    /// Generation and value before a change, its cause, and what was committed.
    type Note = (u16, Option<i64>, Cause, Option<Committed>);

    #[derive(Default)]
    struct Notes(Mutex<Vec<Note>>);

    struct Observer(Arc<Notes>);

    impl CommitObserver for Observer {
        fn observe<'a>(&'a self, namespace: &Namespace, transition: &Transition<'_>) -> Observed<'a> {
            let before = transition.before;
            let guarded = namespace.index.element_count() > 0;
            assert!(guarded && *before.digest() != Digest::default());
            let has_new_version = !matches!(transition.change, Change::Gone);
            let mut scratch = ReadBuffer::new();
            let value = before.location.is_stored().then(|| {
                let bytes = namespace.storage.record_bytes(before, &mut scratch).expect("they are there");
                value_of(bytes)
            });
            let mut notes = self.0.0.lock();
            let at = notes.len();
            notes.push((before.generation, value.flatten(), transition.cause, None));
            let act: AfterCommit<'a> = Box::new(move |_, committed| {
                assert_eq!(committed.location.is_stored(), has_new_version);
                self.0.0.lock()[at].3 = Some(*committed);
            });
            Observed { is_indexed: false, act: Some(act) }
        }
    }

    fn value_of(flat: &[u8]) -> Option<i64> {
        let record = datamodel::flat::FlatRecord::parse(flat).expect("a record");
        match record.bin(b"b").expect("a whole record") {
            Some(Particle::Integer(value)) => Some(value),
            _ => None,
        }
    }

    fn namespace(data_size: &str) -> Namespace {
        let text = format!("namespace test {{\n storage-engine memory {{\n data-size {data_size}\n }}\n}}\n");
        Namespace::new(&config::for_tests(&text), 0, 1, 0).unwrap_or_else(|error| panic!("{error}"))
    }

    fn digest_of(key: u64) -> Digest {
        Digest::of_key(b"set", 1, &key.to_be_bytes())
    }

    /// Writes `value` to the record of `key` in `set`, with `padding` more bytes.
    fn put(
        namespace: &Namespace,
        set: &[u8],
        key: u64,
        value: i64,
        padding: usize,
    ) -> Result<Committed, StorageError> {
        let (guard, _) = namespace.index.get_or_create(&digest_of(key)).expect("room");
        let mut meta = if guard.exists() && !guard.is_tombstone() {
            **guard
        } else {
            namespace.meta_of_created(&guard, namespace.set_for_creation(set).expect("room"))
        };
        meta.generation = meta.next_generation();
        let padding = vec![1; padding];
        let mut bins = Bins::new();
        bins.set(b"b", Particle::Integer(value));
        bins.set(b"p", Particle::Bytes(datamodel::BytesType::Blob, padding.as_slice().into()));
        namespace.write_for_tests(guard, meta, (set, &bins))
    }

    fn delete(namespace: &Namespace, key: u64, is_durable: bool) -> Committed {
        let guard = namespace.index.get_exclusive(&digest_of(key)).expect("it is there");
        let removal = Removal { is_durable, ..Removal::plain(Cause::Delete, StoredMillis::now()) };
        namespace.remove(guard, &removal, &mut Vec::new()).expect("room")
    }

    /// Objects, tombstones and bytes of a set.
    fn figures(namespace: &Namespace, set: &[u8]) -> (u64, u64, u64) {
        let set = namespace.sets.find(set).expect("it exists");
        (set.objects.load(Relaxed), set.tombstones.load(Relaxed), set.data_used_bytes.load(Relaxed))
    }

    #[test]
    fn observers_see_the_old_record_before_it_is_overwritten() {
        let mut namespace = namespace("512M");
        let notes = Arc::new(Notes::default());
        namespace.add_observer(Box::new(Observer(Arc::clone(&notes))));
        let first = put(&namespace, b"s", 1, 10, 0).expect("room");
        // The record has the same size, so memory is overwritten in place.
        let second = put(&namespace, b"s", 1, 20, 0).expect("room");
        assert_eq!(first.location, second.location);
        let third = put(&namespace, b"s", 1, 30, 500).expect("room");
        let tombstone = delete(&namespace, 1, true);
        let again = put(&namespace, b"s", 1, 40, 0).expect("room");
        let gone = delete(&namespace, 1, false);
        assert_eq!(
            *notes.0.lock(),
            [
                (0, None, Cause::Write, Some(first)),
                (1, Some(10), Cause::Write, Some(second)),
                (2, Some(20), Cause::Write, Some(third)),
                (3, Some(30), Cause::Delete, Some(tombstone)),
                (4, None, Cause::Write, Some(again)),
                (1, Some(40), Cause::Delete, Some(gone)),
            ]
        );
        assert!(!gone.location.is_stored() && again.last_update_time > tombstone.last_update_time);
    }

    #[test]
    fn figures_follow_every_change() {
        let namespace = namespace("512M");
        put(&namespace, b"s", 1, 1, 0).expect("room");
        put(&namespace, b"s", 2, 1, 100).expect("room");
        let (objects, tombstones, bytes) = figures(&namespace, b"s");
        assert_eq!((objects, tombstones, bytes), (2, 0, namespace.storage.used_bytes()));
        put(&namespace, b"s", 2, 2, 1000).expect("room");
        assert_eq!(figures(&namespace, b"s"), (2, 0, namespace.storage.used_bytes()));
        delete(&namespace, 2, true);
        assert_eq!(figures(&namespace, b"s"), (1, 1, namespace.storage.used_bytes()));
        assert_eq!((namespace.object_count(), namespace.tombstone_count()), (1, 1));
        // A record created over a tombstone may be in another set.
        put(&namespace, b"t", 2, 3, 0).expect("room");
        assert_eq!((figures(&namespace, b"s").0, figures(&namespace, b"s").1), (1, 0));
        assert_eq!((figures(&namespace, b"t").0, namespace.tombstone_count()), (1, 0));
        delete(&namespace, 1, false);
        delete(&namespace, 2, false);
        assert_eq!((figures(&namespace, b"s"), figures(&namespace, b"t")), ((0, 0, 0), (0, 0, 0)));
        assert_eq!((namespace.object_count(), namespace.storage.used_bytes()), (0, 0));
    }

    #[test]
    fn a_commit_that_fails_changes_nothing() {
        let mut namespace = namespace("512M");
        let notes = Arc::new(Notes::default());
        // The data exceeds the storage, so that no stripe has room left.
        let fitted = (0..400).filter(|key| put(&namespace, b"s", *key, 1, 4 << 20).is_ok()).count();
        let key = 400;
        assert!((1..300).contains(&fitted));
        let (before, elements) = (figures(&namespace, b"s"), namespace.index.element_count());
        namespace.add_observer(Box::new(Observer(Arc::clone(&notes))));
        // A record that cannot be created leaves no element; one that cannot grow stays unchanged.
        assert_eq!(put(&namespace, b"s", key, 1, 4 << 20), Err(StorageError::OutOfSpace));
        assert!(namespace.index.get(&digest_of(key)).is_none());
        let stays = digest_of(0);
        let meta = **namespace.index.get(&stays).expect("it is there");
        assert_eq!(put(&namespace, b"s", 0, 2, 5 << 20), Err(StorageError::OutOfSpace));
        assert_eq!(**namespace.index.get(&stays).expect("it is there"), meta);
        assert_eq!((figures(&namespace, b"s"), namespace.index.element_count()), (before, elements));
        assert!(notes.0.lock().iter().all(|(.., committed)| committed.is_none()));
    }
}
