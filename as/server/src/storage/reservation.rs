//! Places in write blocks: those reserved for records that are being written, and those of records that are read.
//!
//! A block is opened with the proof that it was taken, and its places are given out one behind the other. So no two
//! [`Reservation`]s overlap, and nobody reads a place before its reservation ends: no index element points there, and a
//! flush waits for the block's writers.
//!
//! # Locking
//! An [`OpenBlock`] is inside its stream's lock; a reservation lives on outside of it.

use std::marker::PhantomData;
use std::sync::Arc;

use super::buffer::WriteBuffer;
use super::wblock::{Taken, WblockId, WblockTable};
use super::{RBLOCK_SIZE, RBLOCKS_PER_WBLOCK, WBLOCK_SIZE};
use crate::index::{Element, Location};

/// The place of a record that stays as it is, as a guard of its element is held.
#[derive(Clone, Copy)]
pub(super) struct Pinned<'g> {
    location: Location,
    element: PhantomData<&'g Element>,
}

impl<'g> Pinned<'g> {
    /// The place of the record of `element`, which is borrowed from its guard.
    #[inline]
    pub(super) fn of(element: &'g Element) -> Self {
        debug_assert!(element.location.is_stored());
        Pinned { location: element.location, element: PhantomData }
    }

    #[inline]
    pub(super) fn location(self) -> Location {
        self.location
    }
}

/// The block that a stream fills.
pub(super) struct OpenBlock {
    taken: Taken,
    /// Bytes given out so far.
    position: u32,
    /// On a disk.
    buffer: Option<Arc<WriteBuffer>>,
}

impl OpenBlock {
    /// A block that is memory itself.
    pub(super) fn in_memory(taken: Taken) -> Self {
        OpenBlock { taken, position: 0, buffer: None }
    }

    /// A block that goes to disk from `buffer`.
    pub(super) fn buffered(taken: Taken, buffer: Arc<WriteBuffer>) -> Self {
        assert!(buffer.is_for(&taken), "a buffer is for the block that was taken");
        OpenBlock { taken, position: 0, buffer: Some(buffer) }
    }

    /// Bytes given out so far, whose writers were announced.
    pub(super) fn position(&self) -> u32 {
        self.position
    }

    pub(super) fn buffer(&self) -> Option<&WriteBuffer> {
        self.buffer.as_deref()
    }

    /// Ends filling it.
    pub(super) fn into_taken(self) -> Taken {
        self.taken
    }

    /// Whether `size` more bytes fit.
    pub(super) fn has_room(&self, size: u32) -> bool {
        size <= WBLOCK_SIZE - self.position
    }

    /// The next `size` bytes, whose writer counts as busy until the reservation is dropped.
    pub(super) fn reserve<'d>(&mut self, wblocks: &'d WblockTable, size: u32) -> Reservation<'d> {
        assert!(
            size.is_multiple_of(RBLOCK_SIZE) && size > 0 && self.has_room(size),
            "a record fits its block"
        );
        assert_eq!(self.taken.device(), wblocks.device(), "a block belongs to one table");
        let (id, offset) = (self.taken.id(), self.position);
        // In this order: a flush that sees the new mark waits for the writer.
        wblocks.begin_write(id, size);
        self.position += size;
        WriteBuffer::follow(self);
        Reservation { wblocks, id, offset, size, buffer: self.buffer.clone() }
    }
}

/// A place that nobody else writes to or reads, until this is dropped.
pub(super) struct Reservation<'d> {
    wblocks: &'d WblockTable,
    id: WblockId,
    offset: u32,
    size: u32,
    buffer: Option<Arc<WriteBuffer>>,
}

impl Reservation<'_> {
    pub(super) fn device(&self) -> u8 {
        self.wblocks.device()
    }

    pub(super) fn id(&self) -> WblockId {
        self.id
    }

    /// Where the place begins in its block.
    pub(super) fn offset(&self) -> u32 {
        self.offset
    }

    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// The buffer that the place is in, on a disk.
    pub(super) fn buffer(&self) -> Option<&WriteBuffer> {
        self.buffer.as_deref()
    }

    pub(super) fn location(&self) -> Location {
        let rblock = u64::from(self.id.0) * RBLOCKS_PER_WBLOCK + u64::from(self.offset / RBLOCK_SIZE);
        Location::new(self.device(), rblock, self.size / RBLOCK_SIZE)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.wblocks.end_write(self.id);
    }
}
