//! The memory medium: a device that is a stretch of memory, read in place.
//!
//! Bytes of a record are written once, before its index element points to them (or in place, under the record's
//! exclusive guard), and read only by holders of the record's guard. That is what makes the two accessors sound.

use cf::region::Region;

use super::{RBLOCK_SIZE, WBLOCK_SIZE};
use crate::index::Location;
use crate::storage::wblock::WblockId;

/// Of larger records only the beginning is loaded ahead; the processor sees the pattern and loads the rest.
pub(super) const PREFETCH_SIZE_MAX: usize = 256;

pub(super) struct Stripe(Region);

impl Stripe {
    /// `wblock_count` zeroed write blocks, or `None` when the system has no such address space.
    pub(super) fn new(wblock_count: u32) -> Option<Self> {
        Region::new(wblock_count as usize * WBLOCK_SIZE as usize).map(Stripe)
    }

    /// The stored bytes at `location`, which the caller read from an element whose guard it holds while the slice lives.
    #[inline]
    #[expect(unsafe_code, reason = "records are read in place")]
    pub(super) fn record(&self, location: Location) -> &[u8] {
        let (offset, size) = place(location);
        // SAFETY: these bytes belong to the record of the element that the caller's guard protects; nobody writes to
        // them without that guard held exclusively.
        unsafe { self.0.slice(offset, size) }
    }

    /// Hints that the record at `location` will be read soon.
    #[inline]
    pub(super) fn prefetch(&self, location: Location) {
        let (offset, size) = place(location);
        self.0.prefetch(offset, size.min(PREFETCH_SIZE_MAX));
    }

    /// Stores `bytes` at `location`, which either was just reserved for them or holds the record whose exclusive guard the
    /// caller has.
    #[inline]
    #[expect(unsafe_code, reason = "records are written in place")]
    pub(super) fn write(&self, location: Location, bytes: &[u8]) {
        let (offset, size) = place(location);
        assert_eq!(bytes.len(), size, "a record fills its place");
        // SAFETY: as the caller promises, no other thread reads or writes this place meanwhile.
        unsafe { self.0.write(offset, bytes) };
    }

    /// The whole block `id`, which defrag has taken: no writer is in it and none will come.
    #[expect(unsafe_code, reason = "defrag walks a block in place")]
    pub(super) fn wblock(&self, id: WblockId) -> &[u8] {
        // SAFETY: writers leave a block before defrag gets it (`WblockTable::next_to_defrag`) and in-place writers stay
        // out afterwards (`begin_rewrite`), so nobody writes to it until it is freed.
        unsafe { self.0.slice(id.0 as usize * WBLOCK_SIZE as usize, WBLOCK_SIZE as usize) }
    }

    /// A part of block `id`: a record whose guard the caller holds, or bytes that were complete before and stay.
    #[expect(unsafe_code, reason = "what was written once does not change")]
    pub(super) fn wblock_part(&self, id: WblockId, offset: u32, size: usize) -> &[u8] {
        assert!(offset as usize + size <= WBLOCK_SIZE as usize, "a part of one block");
        // SAFETY: as the caller promises, nobody writes to this part any more.
        unsafe { self.0.slice(id.0 as usize * WBLOCK_SIZE as usize + offset as usize, size) }
    }

    /// Copies `bytes` to `offset` of block `id`: the place was reserved for them, or the server does not run yet.
    #[expect(unsafe_code, reason = "records are copied to places of their own")]
    pub(super) fn write_to_wblock(&self, id: WblockId, offset: u32, bytes: &[u8]) {
        assert!(offset as usize + bytes.len() <= WBLOCK_SIZE as usize, "a record is inside one block");
        // SAFETY: as the caller promises, no other thread reads or writes this place meanwhile.
        unsafe { self.0.write(id.0 as usize * WBLOCK_SIZE as usize + offset as usize, bytes) };
    }

    /// Gives the memory of block `id`, which is free, back to the system until it is written again.
    #[expect(unsafe_code, reason = "memory of free blocks is returned")]
    pub(super) fn discard(&self, id: WblockId) {
        // SAFETY: the caller just emptied the block and has not announced it as free yet.
        unsafe { self.0.discard(id.0 as usize * WBLOCK_SIZE as usize, WBLOCK_SIZE as usize) };
    }
}

#[inline]
fn place(location: Location) -> (usize, usize) {
    let rblock_size = RBLOCK_SIZE as usize;
    (location.rblock() as usize * rblock_size, location.rblock_count() as usize * rblock_size)
}
