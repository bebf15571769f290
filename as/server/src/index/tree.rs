//! Sprigs with their locks, and the guards through which records are reached.
//!
//! # Locking
//! A sprig's lock guards its root, its elements, and the stored bytes that its elements point to. A thread holds at
//! most one sprig lock at a time. Under it the arena's and the storage engine's locks may be taken, never the other way
//! round.
//!
//! A service thread does not [sleep](LockWait) until a lock is free, because others may hold it while they copy a
//! large record.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use cf::Digest;
use cf::arena::{Arena, AtomicHandle, Handle};
use cf::huge_pages::{self, HUGE_PAGE_SIZE};
use cf::sync::RwWord;
use cf::zeroed::{self, Zeroable};

use super::element::{Element, RecordMeta};
use super::held::{HeldLock, assert_may_sleep};
use super::sprig::{Found, SprigTree, first_step};
use super::{PARTITION_COUNT, PartitionId};

/// Maximum number of bits for the sprigs of a partition.
const SPRIG_BITS_MAX: u32 = 28;
/// The table of sprigs is collapsed to huge pages when it has at most this many sprigs per element. Nearly all of its small
/// pages are in use then, so that it takes no more memory.
const SPRIGS_PER_ELEMENT_COLLAPSED: usize = 32;
/// Number of high bits of the second digest byte that choose sprigs; the low ones choose the partition.
const SPRIG_BITS_IN_BYTE_1: u32 = 4;

/// Eight bytes for each sprig.
#[repr(C)]
pub(super) struct Sprig {
    lock: RwWord,
    /// Changed only under `lock`, read without it only for hints.
    root: AtomicHandle,
}

impl Sprig {
    /// Locks it shared. Returns whether it is locked; only `Spin` can fail.
    #[inline]
    fn lock_shared(&self, wait: LockWait) -> bool {
        wait.check();
        self.lock.try_lock_shared() || self.wait_shared(wait)
    }

    #[cold]
    fn wait_shared(&self, wait: LockWait) -> bool {
        match wait {
            LockWait::Spin => self.lock.lock_shared_soon(),
            LockWait::Sleep => {
                self.lock.lock_shared();
                true
            }
        }
    }

    /// Locks it exclusively. Returns whether it is locked; only `Spin` can fail.
    #[inline]
    fn lock_exclusive(&self, wait: LockWait) -> bool {
        wait.check();
        self.lock.try_lock_exclusive() || self.wait_exclusive(wait)
    }

    #[cold]
    fn wait_exclusive(&self, wait: LockWait) -> bool {
        match wait {
            LockWait::Spin => self.lock.lock_exclusive_soon(),
            LockWait::Sleep => {
                self.lock.lock_exclusive();
                true
            }
        }
    }
}

// SAFETY: zeros are an unlocked lock and a null root.
#[expect(unsafe_code, reason = "sprigs come zeroed from the system")]
unsafe impl Zeroable for Sprig {}

/// Sizes fixed at start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexGeometry {
    /// `partition-tree-sprigs`, a power of two.
    pub(crate) sprigs_per_partition: u32,
    /// `index-stage-size` in bytes, a power of two.
    pub(crate) stage_size: u64,
}

/// The index of one namespace.
pub(crate) struct Index {
    arena: Arena<Element>,
    sprigs: Box<[Sprig]>,
    /// Parts of `sprigs`, from the first one on, that are huge pages; more than there are if no part is left.
    collapsed_parts: AtomicUsize,
    sprig_bits: u32,
    /// The first step of a path in a sprig.
    first_step: u32,
    counts: Box<[AtomicU64]>,
}

/// A record's place in the index. Code that stores it must observe commits, to learn when the record leaves the index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub(crate) struct ElementHandle(Handle);

/// The index has no room for another element.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct IndexFull;

/// How a thread waits for a sprig's lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LockWait {
    /// For a few microseconds, then it gives up: a service thread.
    Spin,
    /// Until the lock is free.
    Sleep,
}

impl LockWait {
    /// Checks, in builds with debug assertions, that the calling thread may wait like this, even if the lock is free now.
    #[inline]
    fn check(self) {
        if self == LockWait::Sleep {
            assert_may_sleep();
        }
    }
}

/// The lock of the record's sprig did not become free within a few microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LockBusy;

/// The reason why there is no guard for writing to a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotLocked {
    Busy,
    Full,
}

/// Whether the record that is written existed before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CreateOutcome {
    Existed,
    Created,
}

impl Index {
    pub(crate) fn new(geometry: IndexGeometry) -> Self {
        let sprigs_per_partition = geometry.sprigs_per_partition as usize;
        assert!(sprigs_per_partition.is_power_of_two() && sprigs_per_partition <= 1 << SPRIG_BITS_MAX);
        let sprig_bits = sprigs_per_partition.trailing_zeros();
        let common_bits = match sprig_bits {
            // The low bits of byte 1 choose the partition; they are the last of the byte.
            0..SPRIG_BITS_IN_BYTE_1 => u8::BITS + sprig_bits,
            _ => 2 * u8::BITS + (sprig_bits - SPRIG_BITS_IN_BYTE_1),
        };
        Index {
            arena: Arena::new(geometry.stage_size),
            sprigs: zeroed::boxed_slice(PARTITION_COUNT * sprigs_per_partition),
            collapsed_parts: AtomicUsize::new(0),
            sprig_bits,
            first_step: first_step(common_bits),
            counts: (0..PARTITION_COUNT).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The sprig of a digest: the partition, then up to 28 bits from the high half of byte 1 and bytes 2 to 4.
    #[inline]
    fn sprig_of(&self, digest: &Digest) -> &Sprig {
        let bits = digest.0;
        let path = u32::from(bits[1] >> 4) << 24
            | u32::from(bits[2]) << 16
            | u32::from(bits[3]) << 8
            | u32::from(bits[4]);
        let sprig = (path >> (SPRIG_BITS_MAX - self.sprig_bits)) as usize;
        &self.sprigs[PartitionId::of(digest).index() << self.sprig_bits | sprig]
    }

    /// The record of `digest`, for reading.
    #[inline]
    pub(crate) fn get(&self, digest: &Digest) -> Option<ReadGuard<'_>> {
        self.get_within(digest, LockWait::Sleep).unwrap_or_else(|busy| never(busy))
    }

    /// The record of `digest`, for reading.
    ///
    /// # Errors
    /// [`LockBusy`] if its lock is not free, and `wait` is not to sleep for it.
    #[inline]
    pub(crate) fn get_within(
        &self,
        digest: &Digest,
        wait: LockWait,
    ) -> Result<Option<ReadGuard<'_>>, LockBusy> {
        let sprig = self.sprig_of(digest);
        if !sprig.lock_shared(wait) {
            return Err(LockBusy);
        }
        let tree = self.tree_of(sprig);
        match tree.find(digest) {
            Found::Element(handle) => Ok(Some(self.read_guard(sprig, handle))),
            Found::Absent { .. } => {
                sprig.lock.unlock_shared();
                Ok(None)
            }
        }
    }

    /// As [`get`](Self::get), but does not wait: also returns `None` if another thread changes a record of the sprig or
    /// waits to do so. Meant for hints.
    #[inline]
    pub(crate) fn try_get(&self, digest: &Digest) -> Option<ReadGuard<'_>> {
        let sprig = self.sprig_of(digest);
        if !sprig.lock.try_lock_shared() {
            return None;
        }
        match self.tree_of(sprig).find(digest) {
            Found::Element(handle) => Some(self.read_guard(sprig, handle)),
            Found::Absent { .. } => {
                sprig.lock.unlock_shared();
                None
            }
        }
    }

    /// The record of `digest`, for changing.
    #[inline]
    pub(crate) fn get_exclusive(&self, digest: &Digest) -> Option<WriteGuard<'_>> {
        self.get_exclusive_within(digest, LockWait::Sleep).unwrap_or_else(|busy| never(busy))
    }

    /// The record of `digest`, for changing.
    ///
    /// # Errors
    /// As [`get_within`](Self::get_within).
    #[inline]
    pub(crate) fn get_exclusive_within(
        &self,
        digest: &Digest,
        wait: LockWait,
    ) -> Result<Option<WriteGuard<'_>>, LockBusy> {
        let sprig = self.sprig_of(digest);
        if !sprig.lock_exclusive(wait) {
            return Err(LockBusy);
        }
        match self.tree_of(sprig).find(digest) {
            Found::Element(handle) => Ok(Some(self.write_guard(sprig, handle))),
            Found::Absent { .. } => {
                sprig.lock.unlock_exclusive();
                Ok(None)
            }
        }
    }

    /// The record of `digest`, for changing; it is created if it does not exist. A created element disappears again if
    /// its guard is dropped while its generation is 0.
    ///
    /// # Errors
    /// [`IndexFull`] if it does not exist and there is no room.
    #[inline]
    pub(crate) fn get_or_create(
        &self,
        digest: &Digest,
    ) -> Result<(WriteGuard<'_>, CreateOutcome), IndexFull> {
        self.get_or_create_within(digest, LockWait::Sleep).map_err(|not_locked| match not_locked {
            NotLocked::Full => IndexFull,
            NotLocked::Busy => never(LockBusy),
        })
    }

    /// As [`get_or_create`](Self::get_or_create).
    ///
    /// # Errors
    /// `Full` if the record does not exist and there is no room; `Busy` if its lock is not free, and `wait` is not to
    /// sleep for it.
    #[inline]
    pub(crate) fn get_or_create_within(
        &self,
        digest: &Digest,
        wait: LockWait,
    ) -> Result<(WriteGuard<'_>, CreateOutcome), NotLocked> {
        let sprig = self.sprig_of(digest);
        if !sprig.lock_exclusive(wait) {
            return Err(NotLocked::Busy);
        }
        let mut tree = self.tree_of(sprig);
        let (handle, outcome) = match tree.find(digest) {
            Found::Element(handle) => (handle, CreateOutcome::Existed),
            Found::Absent { parent, branch } => {
                let partition = PartitionId::of(digest);
                let Ok(handle) = self.arena.allocate(partition.index()) else {
                    sprig.lock.unlock_exclusive();
                    return Err(NotLocked::Full);
                };
                tree.insert((parent, branch), handle, digest);
                Self::store_root(sprig, tree.root);
                self.counts[partition.index()].fetch_add(1, Relaxed);
                (handle, CreateOutcome::Created)
            }
        };
        Ok((self.write_guard(sprig, handle), outcome))
    }

    /// A guard of the element of `handle`, which the caller has found in the tree of `sprig` and locked shared.
    #[inline]
    #[expect(unsafe_code, reason = "elements are reached through the arena")]
    fn read_guard<'a>(&'a self, sprig: &'a Sprig, handle: Handle) -> ReadGuard<'a> {
        // SAFETY: the handle is in the tree, so the arena gave it before the lock was taken.
        let element = unsafe { self.arena.resolve(handle) };
        ReadGuard { sprig, handle, element, _held: HeldLock::new() }
    }

    /// A guard of the element of `handle`, which the caller has found in or inserted into the tree of `sprig` and locked
    /// exclusively.
    #[inline]
    #[expect(unsafe_code, reason = "elements are reached through the arena")]
    fn write_guard<'a>(&'a self, sprig: &'a Sprig, handle: Handle) -> WriteGuard<'a> {
        // SAFETY: the handle is in the tree, so the arena gave it before the lock was taken, or to this thread.
        let element = unsafe { self.arena.resolve(handle) };
        WriteGuard { index: self, sprig, handle, element, _held: HeldLock::new() }
    }

    /// The digest of the record at `handle`. If the record has left the index, this may be any digest.
    ///
    /// # Safety
    /// The handle was taken from a guard of this index.
    #[inline]
    #[expect(unsafe_code, reason = "elements are reached through the arena")]
    pub(crate) unsafe fn digest_at(&self, handle: ElementHandle) -> Digest {
        // SAFETY: the handle is from a guard (caller), which has it from the arena. Stages stay as long as the arena.
        unsafe { Element::digest_at(self.arena.resolve(handle.0)) }
    }

    /// The digest now at `handle`, which was taken from a guard earlier. This may be any digest if the element is
    /// free by now, or belongs to another record and is half written.
    #[expect(unsafe_code, reason = "elements are reached through the arena")]
    pub(crate) fn digest_seen_at(&self, handle: ElementHandle) -> Option<Digest> {
        let element = self.arena.find(handle.0)?;
        // SAFETY: `find` returns memory of an element.
        Some(unsafe { Element::digest_at(element) })
    }

    /// Whether the record of `digest` exists and is at `handle`; `None` if another thread changes a record of its
    /// sprig.
    pub(crate) fn is_at(&self, digest: &Digest, handle: ElementHandle) -> Option<bool> {
        let sprig = self.sprig_of(digest);
        sprig.lock.try_lock_shared().then(|| {
            let _lock = SharedLock::taken(&sprig.lock);
            matches!(self.tree_of(sprig).find(digest), Found::Element(found) if found == handle.0)
        })
    }

    /// Hints that the element at `handle` will be used soon. A handle of any origin does no harm.
    #[inline]
    pub(crate) fn prefetch_handle(&self, handle: ElementHandle) {
        self.arena.prefetch(handle.0);
    }

    /// Calls `visit` for every element of `partition`, in no particular order.
    ///
    /// `visit` runs under the lock of the element's sprig, shared: it must be short, not wait and take no sprig's lock.
    /// Longer work needs a [`cursor`](Self::cursor).
    pub(crate) fn for_each(&self, partition: PartitionId, mut visit: impl FnMut(&Element)) {
        for sprig in self.sprigs_of(partition) {
            let _lock = SharedLock::new(sprig);
            self.tree_of(sprig).for_each(|_, element| visit(element));
        }
    }

    /// The sprigs of `partition`, first to last.
    pub(super) fn sprigs_of(&self, partition: PartitionId) -> &[Sprig] {
        let first = partition.index() << self.sprig_bits;
        &self.sprigs[first..first + (1 << self.sprig_bits)]
    }

    /// The place of the sprig of `digest` among those of its partition.
    pub(super) fn sprig_position(&self, digest: &Digest) -> usize {
        let base: *const Sprig = self.sprigs.as_ptr();
        let at: *const Sprig = self.sprig_of(digest);
        (at.addr() - base.addr()) / size_of::<Sprig>() % (1 << self.sprig_bits)
    }

    /// Locks a sprig shared and calls `visit` as [`SprigTree::visit_falling`] does. An empty sprig is not locked.
    ///
    /// # Errors
    /// As [`get_within`](Self::get_within); then nothing was visited.
    pub(super) fn visit_falling(
        &self,
        (sprig, wait): (&Sprig, LockWait),
        bound: Option<&Digest>,
        visits_max: usize,
        visit: impl FnMut(&Element),
    ) -> Result<Option<Digest>, LockBusy> {
        // Every record that existed before the walk began is visible to this load.
        if sprig.root.load(Relaxed).is_null() {
            return Ok(None);
        }
        if !sprig.lock_shared(wait) {
            return Err(LockBusy);
        }
        let _lock = SharedLock::taken(&sprig.lock);
        Ok(self.tree_of(sprig).visit_falling(bound, visits_max, visit))
    }

    /// Hints that the elements of `sprig` will be used soon.
    #[inline]
    pub(super) fn prefetch_root(&self, sprig: &Sprig) {
        self.arena.prefetch(sprig.root.load(Relaxed));
    }

    /// Waits until every change in progress in each sprig has ended. Later changes see what the caller did before; the
    /// caller sees the earlier changes.
    pub(crate) fn wait_for_writers(&self) {
        LockWait::Sleep.check();
        self.sprigs.iter().for_each(|sprig| sprig.lock.wait_for_writer());
    }

    /// Number of elements, including those being created.
    pub(crate) fn element_count(&self) -> u64 {
        self.arena.used()
    }

    /// Gives memory that holds no element any more back to the system, at most about `bytes_max`. Called by one thread,
    /// now and then.
    pub(crate) fn give_back(&self, bytes_max: usize) {
        self.arena.give_back(bytes_max);
    }

    /// Backs the elements that come next with huge pages, if some were taken since the last call, and a part of a well
    /// used table of sprigs. Returns whether there may be more to do soon: then it is called again after a few
    /// milliseconds.
    pub(crate) fn prepare_ahead(&self) -> bool {
        self.arena.prepare_ahead() | self.collapse_sprigs()
    }

    /// Turns the next part of the sprigs into a huge page, once so many elements exist that all small pages are in use.
    /// Returns whether there was a part left.
    fn collapse_sprigs(&self) -> bool {
        if self.element_count() < (self.sprigs.len() / SPRIGS_PER_ELEMENT_COLLAPSED) as u64 {
            return false;
        }
        let base = self.sprigs.as_ptr().cast::<u8>();
        let part = self.collapsed_parts.fetch_add(1, Relaxed);
        let offset = part.saturating_mul(HUGE_PAGE_SIZE).saturating_add(base.align_offset(HUGE_PAGE_SIZE));
        if offset.saturating_add(HUGE_PAGE_SIZE) > size_of_val(&*self.sprigs)
            || huge_pages::collapse(base.wrapping_add(offset)).is_err()
        {
            // No part, or no huge page, is left.
            self.collapsed_parts.store(usize::MAX / 2, Relaxed);
            return false;
        }
        true
    }

    /// Bytes of memory given back since the start.
    pub(crate) fn given_back_bytes(&self) -> u64 {
        self.arena.given_back_bytes()
    }

    /// Number of elements of one partition.
    pub(crate) fn partition_count(&self, partition: PartitionId) -> u64 {
        self.counts[partition.index()].load(Relaxed)
    }

    /// The tree of a sprig that the caller has locked.
    #[inline]
    fn tree_of(&self, sprig: &Sprig) -> SprigTree<'_> {
        SprigTree { arena: &self.arena, root: sprig.root.load(Relaxed), first_step: self.first_step }
    }

    /// Stores the root of a tree that the caller changed under its sprig's exclusive lock.
    #[inline]
    fn store_root(sprig: &Sprig, root: Handle) {
        sprig.root.store(root, Relaxed);
    }

    /// First of two hints, some time before a record is needed: prefetches its sprig.
    #[inline]
    pub(crate) fn prefetch_sprig(&self, digest: &Digest) {
        cf::prefetch::line(self.sprig_of(digest));
    }

    /// Second hint, once the sprig is loaded: prefetches the element where the search begins.
    #[inline]
    pub(crate) fn prefetch_element(&self, digest: &Digest) {
        self.prefetch_root(self.sprig_of(digest));
    }
}

/// A thread that sleeps until a lock is free gets it.
#[cold]
fn never(busy: LockBusy) -> ! {
    unreachable!("{busy:?} after sleeping until the lock was free");
}

/// A shared lock, held until it is dropped.
struct SharedLock<'a> {
    lock: &'a RwWord,
    _held: HeldLock,
}

impl<'a> SharedLock<'a> {
    fn new(sprig: &'a Sprig) -> Self {
        sprig.lock_shared(LockWait::Sleep);
        Self::taken(&sprig.lock)
    }

    /// The caller has taken the lock.
    fn taken(lock: &'a RwWord) -> Self {
        SharedLock { lock, _held: HeldLock::new() }
    }
}

impl Drop for SharedLock<'_> {
    fn drop(&mut self) {
        self.lock.unlock_shared();
    }
}

/// A record that other threads may read but no thread changes while the guard exists.
pub(crate) struct ReadGuard<'a> {
    sprig: &'a Sprig,
    handle: Handle,
    /// The element at `handle`.
    element: NonNull<Element>,
    _held: HeldLock,
}

impl ReadGuard<'_> {
    /// The record's place in the index.
    #[inline]
    pub(crate) fn handle(&self) -> ElementHandle {
        ElementHandle(self.handle)
    }
}

impl Deref for ReadGuard<'_> {
    type Target = Element;

    #[inline]
    #[expect(unsafe_code, reason = "elements are reached through the arena")]
    fn deref(&self) -> &Element {
        // SAFETY: this guard holds the sprig's lock shared, under which the element was found in the sprig's tree. So
        // the element lives, and nobody changes it.
        unsafe { self.element.as_ref() }
    }
}

impl Drop for ReadGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.sprig.lock.unlock_shared();
    }
}

/// A record that no other thread reads or changes while the guard exists. A guard that is dropped while the
/// generation is 0 removes the element.
pub(crate) struct WriteGuard<'a> {
    index: &'a Index,
    sprig: &'a Sprig,
    handle: Handle,
    /// The element at `handle`.
    element: NonNull<Element>,
    _held: HeldLock,
}

impl WriteGuard<'_> {
    /// The record's metadata in the index, to change it.
    #[inline]
    #[expect(unsafe_code, reason = "elements are reached through the arena")]
    pub(crate) fn meta_mut(&mut self) -> &mut RecordMeta {
        // SAFETY: as for `deref`, and `&mut self` excludes other borrows through this guard. Only the metadata is
        // borrowed, because other threads may read the digest.
        unsafe { &mut (*self.element.as_ptr()).meta }
    }

    /// The record's place in the index.
    #[inline]
    pub(crate) fn handle(&self) -> ElementHandle {
        ElementHandle(self.handle)
    }

    /// Removes only the element from the index; `Namespace::commit` removes records.
    #[cfg(test)]
    pub(crate) fn remove(mut self) {
        // An element with generation 0 is removed when its guard is dropped.
        self.meta_mut().generation = 0;
    }

    #[cold]
    fn unlink(&mut self) {
        let digest = *self.digest();
        let mut tree = self.index.tree_of(self.sprig);
        let unlinked = tree.unlink(&digest);
        cf::invariant!(
            unlinked == Some(self.handle),
            "the element of {digest}, which is locked, is not in its tree"
        );
        Index::store_root(self.sprig, tree.root);
        let partition = PartitionId::of(&digest);
        self.index.arena.release(self.handle, partition.index());
        self.index.counts[partition.index()].fetch_sub(1, Relaxed);
    }
}

impl Deref for WriteGuard<'_> {
    type Target = Element;

    #[inline]
    #[expect(unsafe_code, reason = "elements are reached through the arena")]
    fn deref(&self) -> &Element {
        // SAFETY: this guard holds the sprig's lock exclusively, under which the element was found in the sprig's
        // tree or put there. So the element lives, and only this guard, which is borrowed, changes it.
        unsafe { self.element.as_ref() }
    }
}

impl Drop for WriteGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.generation == 0 {
            self.unlink();
        }
        self.sprig.lock.unlock_exclusive();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn small_index() -> Index {
        Index::new(IndexGeometry { sprigs_per_partition: 256, stage_size: 128 << 20 })
    }

    /// Digests that fall into few sprigs and share long paths.
    fn crowded_digest(seed: u16) -> Digest {
        let mut digest = Digest([0; 20]);
        digest.0[4] = (seed & 1) as u8;
        digest.0[5] = (seed >> 1 & 3) as u8 * 0x55;
        digest.0[18] = (seed >> 3) as u8 & 0x0F;
        digest.0[19] = (seed >> 7) as u8;
        digest
    }

    fn all_of(index: &Index, partition: PartitionId, after: Option<&Digest>) -> Vec<(Digest, u16)> {
        let mut seen = Vec::new();
        let mut cursor = index.cursor(partition, after);
        while let Some(portion) = cursor.next_portion(|_| true) {
            for found in portion {
                let guard = index.get(&found.digest).expect("nobody removes it");
                seen.push((found.digest, guard.generation));
            }
        }
        seen
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0u16..600, 0u8..4, 1u16..), 1..400)) {
            let index = small_index();
            let partition = PartitionId::of(&crowded_digest(0));
            let mut model = BTreeMap::new();
            for (seed, what, generation) in steps {
                let digest = crowded_digest(seed);
                match what {
                    0 | 1 => {
                        let (mut guard, outcome) = index.get_or_create(&digest).expect("room");
                        let existed = model.insert(digest, generation).is_some();
                        prop_assert_eq!(outcome == CreateOutcome::Existed, existed);
                        guard.meta_mut().generation = generation;
                    }
                    2 => {
                        let guard = index.get_exclusive(&digest);
                        prop_assert_eq!(guard.is_some(), model.remove(&digest).is_some());
                        if let Some(guard) = guard {
                            guard.remove();
                        }
                    }
                    _ => {
                        // Created and abandoned: nothing remains.
                        drop(index.get_or_create(&digest).expect("room"));
                    }
                }
                prop_assert_eq!(index.get(&digest).map(|guard| guard.generation), model.get(&digest).copied());
            }
            let falling: Vec<(Digest, u16)> = model.iter().rev().map(|(digest, generation)| (*digest, *generation)).collect();
            prop_assert_eq!(index.element_count(), falling.len() as u64);
            prop_assert_eq!(index.partition_count(partition), falling.len() as u64);
            prop_assert_eq!(all_of(&index, partition, None), falling.clone());
            for (at, (digest, _)) in falling.iter().enumerate().step_by(5) {
                prop_assert_eq!(all_of(&index, partition, Some(digest)), falling[at + 1..].to_vec());
            }
        }
    }

    #[test]
    fn a_thread_that_does_not_sleep_gets_no_guard_of_a_locked_sprig() {
        let index = small_index();
        // Both are in one sprig.
        let (digest, absent) = (crowded_digest(0), crowded_digest(8));
        let (mut guard, _) = index.get_or_create(&digest).expect("room");
        guard.meta_mut().generation = 1;
        for digest in [&digest, &absent] {
            assert_eq!(index.get_within(digest, LockWait::Spin).err(), Some(LockBusy));
            assert_eq!(index.get_exclusive_within(digest, LockWait::Spin).err(), Some(LockBusy));
            assert_eq!(index.get_or_create_within(digest, LockWait::Spin).err(), Some(NotLocked::Busy));
        }
        drop(guard);
        let guard = index.get_within(&digest, LockWait::Spin).expect("it is free").expect("it is there");
        assert!(index.get_within(&digest, LockWait::Spin).is_ok_and(|found| found.is_some()));
        assert_eq!(index.get_exclusive_within(&digest, LockWait::Spin).err(), Some(LockBusy));
        drop(guard);
        let _no_sleep = super::super::NoSleep::for_this_thread();
        assert!(index.get_exclusive_within(&absent, LockWait::Spin).is_ok_and(|found| found.is_none()));
        drop(index.get_or_create_within(&absent, LockWait::Spin).expect("room"));
        assert_eq!(index.element_count(), 1);
    }

    #[test]
    fn threads_on_the_same_sprigs_keep_the_tree_whole() {
        let index = small_index();
        cf::sync::scope(|scope| {
            for thread in 0..4u16 {
                let index = &index;
                scope.spawn(move || {
                    for round in 0..5_000u16 {
                        let digest = crowded_digest(round.wrapping_mul(31) % 500);
                        if (round + thread).is_multiple_of(3) {
                            if let Some(guard) = index.get_exclusive(&digest) {
                                guard.remove();
                            }
                        } else {
                            let (mut guard, _) = index.get_or_create(&digest).expect("room");
                            guard.meta_mut().generation = guard.generation.wrapping_add(1).max(1);
                        }
                    }
                });
            }
        });
        let listed = all_of(&index, PartitionId::of(&crowded_digest(0)), None);
        assert_eq!(listed.len() as u64, index.element_count());
    }
}
