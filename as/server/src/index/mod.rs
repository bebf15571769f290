//! The primary index: it maps a digest to the location and metadata of a record.
//!
//! A partition has a number of sprigs; a sprig has a lock and a tree of elements. The holder of a sprig's lock may read
//! its elements and the records that they point to; the holder of the exclusive lock may change them. Guards are the
//! only way to reach them. There is no lock above the sprigs. Code that works on many records walks with a cursor,
//! which returns digests, and takes the guard of one record at a time.

mod cursor;
mod element;
mod entry_tree;
mod held;
mod sprig;
mod tree;

pub(crate) use cursor::{Cursor, SeenRecord};
pub(crate) use element::{Element, Location, RecordMeta, SetId};
pub(crate) use entry_tree::{EntryTree, IndexEntry, LiveElements, LooseEntries, RangeStart, Stub};
pub(crate) use held::{NoSleep, assert_no_lock_held};
pub(crate) use tree::{
    CreateOutcome, ElementHandle, Index, IndexFull, IndexGeometry, LockWait, NotLocked, ReadGuard, WriteGuard,
};

use cf::Digest;

/// Bytes of memory that a record takes in the index.
pub(crate) const ELEMENT_SIZE: u64 = size_of::<Element>() as u64;
/// Number of partitions of a namespace.
pub(crate) const PARTITION_COUNT: usize = 4096;

/// One of the 4096 partitions of all digests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct PartitionId(u16);

impl PartitionId {
    /// The partition of a digest: the low 12 bits of its first four bytes, little-endian.
    #[inline]
    pub(crate) const fn of(digest: &Digest) -> Self {
        PartitionId((digest.le_u32_at(0) & 0xFFF) as u16)
    }

    /// Partition number `number`, if there is one.
    pub(crate) fn new(number: usize) -> Option<Self> {
        (number < PARTITION_COUNT).then_some(PartitionId(number as u16))
    }

    /// All partitions, ascending.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..PARTITION_COUNT as u16).map(PartitionId)
    }

    #[inline]
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}
