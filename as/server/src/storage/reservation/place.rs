//! Proofs of a right to bytes of a write block: to read those of a record, or to write reserved ones.

use std::marker::PhantomData;

use super::super::wblock::{WblockId, WblockTable};
use super::super::{RBLOCK_SIZE, RBLOCKS_PER_WBLOCK};
use crate::index::{Element, Location};

/// The place of a record that does not change, because a guard of its element is held.
#[derive(Clone, Copy)]
pub(in crate::storage) struct Pinned<'g> {
    location: Location,
    element: PhantomData<&'g Element>,
}

impl<'g> Pinned<'g> {
    /// Takes the place of the record of `element`, which is borrowed from its guard.
    ///
    /// # Safety
    /// The location in the element is the place where this storage has stored the element's record. The last
    /// holder of the exclusive guard has set it. Or the record has been freed, and the guard is still held.
    #[inline]
    #[expect(unsafe_code, reason = "nothing in an element proves what its location says")]
    pub(in crate::storage) unsafe fn of(element: &'g Element) -> Self {
        debug_assert!(element.location.is_stored());
        Pinned { location: element.location, element: PhantomData }
    }

    #[inline]
    pub(in crate::storage) fn location(self) -> Location {
        self.location
    }
}

/// A place that no other thread writes to or reads, until this is dropped. Its writer counts as busy until
/// then.
pub(in crate::storage) struct ReservedPlace<'d> {
    wblocks: &'d WblockTable,
    id: WblockId,
    offset: u32,
    size: u32,
}

impl<'d> ReservedPlace<'d> {
    /// Makes the place of the `size` bytes at `offset` of block `id`, whose writer was announced. No other
    /// place has any of these bytes.
    pub(super) fn new(wblocks: &'d WblockTable, id: WblockId, offset: u32, size: u32) -> Self {
        ReservedPlace { wblocks, id, offset, size }
    }

    pub(in crate::storage) fn device(&self) -> u8 {
        self.wblocks.device()
    }

    pub(in crate::storage) fn id(&self) -> WblockId {
        self.id
    }

    /// The offset of the place in its block.
    pub(in crate::storage) fn offset(&self) -> u32 {
        self.offset
    }

    pub(in crate::storage) fn size(&self) -> u32 {
        self.size
    }

    pub(super) fn location(&self) -> Location {
        let rblock = u64::from(self.id.0) * RBLOCKS_PER_WBLOCK + u64::from(self.offset / RBLOCK_SIZE);
        Location::new(self.device(), rblock, self.size / RBLOCK_SIZE)
    }
}

impl Drop for ReservedPlace<'_> {
    fn drop(&mut self) {
        self.wblocks.end_write(self.id);
    }
}
