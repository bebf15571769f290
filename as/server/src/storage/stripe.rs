//! The memory medium: a device that is a range of memory, read in place.
//!
//! Bytes of a record are written once, before its index element points to them (or in place, under the
//! record's exclusive guard), and read only by holders of the record's guard. Each access takes a proof of
//! its right: [`Pinned`], [`ReservedPlace`], [`Rewrite`], [`Taken`], [`Emptying`] or [`Unused`]. The proof
//! names its device, which is checked.
//!
//! With files or devices behind it, a block is *lent* to its write buffer from when it is taken until all of
//! it is on disk. At most one buffer stands for a block at a time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};

use cf::huge_pages::HUGE_PAGE_SIZE;
use cf::region::Region;

use super::reservation::place::{Pinned, ReservedPlace};
use super::wblock::{Emptying, Rewrite, Taken, Unused, WblockId};
use super::{RBLOCK_SIZE, WBLOCK_SIZE};
use crate::index::Location;

/// Only this many bytes of larger records are prefetched; the processor detects the pattern and loads the
/// rest.
pub(super) const PREFETCH_SIZE_MAX: usize = 256;

pub(super) struct Stripe {
    /// Number of the device.
    device: u8,
    region: Region,
    /// For each block, whether a write buffer stands for it.
    lent: Box<[AtomicBool]>,
}

impl Stripe {
    /// Makes `wblock_count` zeroed write blocks of device number `device`; `None` if the system lacks the
    /// address space.
    pub(super) fn new(device: u8, wblock_count: u32) -> Option<Self> {
        let region = Region::new(wblock_count as usize * WBLOCK_SIZE as usize)?;
        let lent = (0..wblock_count).map(|_| AtomicBool::new(false)).collect();
        Some(Stripe { device, region, lent })
    }

    /// The stored bytes of a record.
    #[inline]
    #[expect(unsafe_code, reason = "records are read in place")]
    pub(super) fn record<'g>(&'g self, record: Pinned<'g>) -> &'g [u8] {
        let location = record.location();
        self.check(location.device());
        let (offset, size) = place(location);
        // SAFETY: these bytes belong to the record of the element whose guard `record` borrows; no thread
        // writes to them without that guard held exclusively.
        unsafe { self.region.slice(offset, size) }
    }

    /// Hints that the record at `location` will be read soon.
    #[inline]
    pub(super) fn prefetch(&self, location: Location) {
        let (offset, size) = place(location);
        self.region.prefetch(offset, size.min(PREFETCH_SIZE_MAX));
    }

    /// Stores `record` at the place reserved for it.
    #[inline]
    #[expect(unsafe_code, reason = "records are copied to places of their own")]
    pub(super) fn fill(&self, place: &mut ReservedPlace<'_>, record: &[u8]) {
        self.check(place.device());
        assert_eq!(record.len(), place.size() as usize, "a record fills its place");
        // SAFETY: no other thread writes to or reads a reserved place, and `&mut` keeps others from using the
        // reservation.
        unsafe { self.region.write(start_of(place.id()) + place.offset() as usize, record) };
    }

    /// Overwrites a record with `record`.
    #[inline]
    #[expect(unsafe_code, reason = "records are written in place")]
    pub(super) fn overwrite(&self, right: &mut Rewrite<'_>, record: &[u8]) {
        self.check(right.location().device());
        let (offset, size) = place(right.location());
        assert_eq!(record.len(), size, "a record fills its place");
        // SAFETY: the right to rewrite borrows the exclusive guard of the record's element, and keeps defrag
        // away from the block.
        unsafe { self.region.write(offset, record) };
    }

    /// Backs block `id` with huge pages, in time before it is used. Its content stays.
    pub(super) fn prepare(&self, id: WblockId) {
        self.region.prepare(start_of(id), WBLOCK_SIZE as usize);
    }

    /// Turns huge page number `page` of the stripe, whose small pages are in use, into a real one. Its content stays.
    ///
    /// # Errors
    /// When the system cannot do this, or has no huge page left.
    pub(super) fn collapse(&self, page: u32) -> io::Result<()> {
        self.region.collapse(page as usize * HUGE_PAGE_SIZE)
    }

    /// Fills a block that was just taken with its bytes on disk.
    #[expect(unsafe_code, reason = "a block is loaded in place")]
    pub(super) fn load(&self, block: &mut Taken, bytes: &[u8]) {
        self.check(block.device());
        assert_eq!(bytes.len(), WBLOCK_SIZE as usize, "a block is loaded as a whole");
        self.prepare(block.id());
        // SAFETY: no other thread adds to the block, because it was taken, and nothing in it has been given
        // out or is read yet.
        unsafe { self.region.write(start_of(block.id()), bytes) };
    }

    /// A whole block that defrag has.
    #[expect(unsafe_code, reason = "defrag walks a block in place")]
    pub(super) fn wblock<'e>(&'e self, block: &'e Emptying) -> &'e [u8] {
        self.check(block.device());
        // SAFETY: writers leave a block before defrag gets it and stay out afterwards
        // (`BlockState::begin_emptying`), and it is neither freed nor discarded while `block` is borrowed.
        unsafe { self.region.slice(start_of(block.id()), WBLOCK_SIZE as usize) }
    }

    /// The first `size` bytes of block `id`.
    ///
    /// # Safety
    /// No thread writes to these bytes while the slice lives.
    #[expect(unsafe_code, reason = "the caller knows what is complete")]
    unsafe fn start_of_wblock(&self, id: WblockId, size: usize) -> &[u8] {
        assert!(size <= WBLOCK_SIZE as usize, "a part of one block");
        // SAFETY: the caller promises that no thread writes to these bytes.
        unsafe { self.region.slice(start_of(id), size) }
    }

    /// Gives the memory of a block back to the system until it is written again, unless it is still to be
    /// written to disk.
    #[expect(unsafe_code, reason = "memory of free blocks is returned")]
    pub(super) fn discard(&self, block: &Unused<'_>) {
        self.check(block.device());
        if self.is_lent(block.id()) {
            return;
        }
        // SAFETY: nothing in the block is alive, so no thread reads it, and no thread takes it while `block`
        // lives. Defrag has no slice of it, because `block` borrows its right to the block exclusively.
        unsafe { self.region.discard(start_of(block.id()), WBLOCK_SIZE as usize) };
    }

    /// Whether a write buffer stands for block `id`.
    pub(super) fn is_lent(&self, id: WblockId) -> bool {
        self.lent[id.0 as usize].load(Acquire)
    }

    /// Lends `block` to a write buffer, unless one stands for it.
    pub(super) fn lend(self: &Arc<Self>, block: &Taken) -> Option<LentBlock> {
        self.check(block.device());
        let was_lent = self.lent[block.id().0 as usize].swap(true, Acquire);
        (!was_lent).then(|| LentBlock { stripe: Arc::clone(self), id: block.id() })
    }

    #[inline]
    fn check(&self, device: u8) {
        assert_eq!(device, self.device, "a place is used on its own device");
    }
}

/// A block of a stripe that a write buffer stands for, until this is dropped.
pub(super) struct LentBlock {
    stripe: Arc<Stripe>,
    id: WblockId,
}

impl LentBlock {
    pub(super) fn stripe(&self) -> &Stripe {
        &self.stripe
    }

    /// The first `size` bytes of the block.
    ///
    /// # Safety
    /// The bytes are complete: the writers of their records are done.
    #[expect(unsafe_code, reason = "the caller knows what is complete")]
    pub(super) unsafe fn complete(&self, size: usize) -> &[u8] {
        // SAFETY: the caller promises that the bytes are complete. They are written again only after the
        // block was taken again, and a buffer has to borrow it first for that.
        unsafe { self.stripe.start_of_wblock(self.id, size) }
    }
}

impl Drop for LentBlock {
    fn drop(&mut self) {
        self.stripe.lent[self.id.0 as usize].store(false, Release);
    }
}

/// Offset of block `id`.
fn start_of(id: WblockId) -> usize {
    id.0 as usize * WBLOCK_SIZE as usize
}

#[inline]
fn place(location: Location) -> (usize, usize) {
    let rblock_size = RBLOCK_SIZE as usize;
    (location.rblock() as usize * rblock_size, location.rblock_count() as usize * rblock_size)
}

#[cfg(test)]
mod tests {
    use super::super::block_state::AfterFree;
    use super::super::reservation::OpenBlock;
    use super::super::tests::{digest_of, small_index};
    use super::super::wblock::{Reuse, WblockTable};
    use super::*;
    use crate::index::Element;

    /// Small enough for Miri, which runs this test too.
    const RECORDS: u32 = if cfg!(miri) { 8 } else { 200 };
    const SIZE: u32 = 4 * RBLOCK_SIZE;

    #[expect(unsafe_code, reason = "a test of what is unsafe")]
    fn pinned(element: &Element) -> Pinned<'_> {
        // SAFETY: the elements of this test point to the places where it has stored their records.
        unsafe { Pinned::of(element) }
    }

    fn content(key: u32, version: u8) -> [u8; SIZE as usize] {
        [key as u8 ^ version; SIZE as usize]
    }

    #[test]
    fn records_are_written_by_several_threads_read_rewritten_and_given_back() {
        let (stripe, table) = (Stripe::new(0, 3).expect("memory"), WblockTable::new(0, 3, 0, Reuse::Newest));
        let index = small_index();
        let open = parking_lot::Mutex::new(OpenBlock::in_memory(table.take(0, |_| true).expect("free")));
        std::thread::scope(|scope| {
            for writer in 0..2 {
                let (stripe, table, index, open) = (&stripe, &table, &index, &open);
                scope.spawn(move || {
                    for key in (0..RECORDS).filter(|key| key % 2 == writer) {
                        let mut place = open.lock().reserve(table, SIZE);
                        place.fill(Some(stripe), &content(key, 0));
                        let (mut guard, _) = index.get_or_create(&digest_of(key)).expect("room");
                        guard.meta_mut().location = place.location();
                        guard.meta_mut().generation = 1;
                        drop(guard);
                        drop(place);
                        let guard = index.get(&digest_of(key)).expect("it was created");
                        assert_eq!(stripe.record(pinned(&guard)), content(key, 0));
                    }
                });
            }
        });
        for key in 0..RECORDS {
            let mut guard = index.get_exclusive(&digest_of(key)).expect("it was created");
            let mut right = table.begin_rewrite(&mut guard).expect("defrag has no block");
            stripe.overwrite(&mut right, &content(key, 9));
            drop(right);
            assert_eq!(stripe.record(pinned(&guard)), content(key, 9));
        }
        assert_eq!(table.close(open.into_inner().into_taken(), WBLOCK_SIZE), AfterFree::Queued);
        let mut emptying = table.next_to_defrag(0).expect("it is queued");
        assert!(stripe.wblock(&emptying)[..(RECORDS * SIZE) as usize].iter().any(|byte| *byte != 0));
        for key in 0..RECORDS {
            assert!(table.unused(&mut emptying).is_none());
            let mut guard = index.get_exclusive(&digest_of(key)).expect("it was created");
            assert!(table.begin_rewrite(&mut guard).is_none(), "defrag has the block");
            table.free_bytes(WblockId::of(guard.location), SIZE, 0);
        }
        stripe.discard(&table.unused(&mut emptying).expect("nothing is alive"));
        assert!(stripe.wblock(&emptying)[..(RECORDS * SIZE) as usize].iter().all(|byte| *byte == 0));
        table.emptied(emptying);
        table.check();
    }

    #[test]
    fn a_block_is_lent_to_one_buffer_at_a_time() {
        let stripe = Arc::new(Stripe::new(0, 2).expect("memory"));
        let table = WblockTable::new(0, 2, 0, Reuse::Oldest);
        let taken = table.take(0, |_| true).expect("free");
        let lent = stripe.lend(&taken).expect("nobody has it");
        assert!(stripe.is_lent(taken.id()) && stripe.lend(&taken).is_none());
        drop(lent);
        assert!(stripe.lend(&taken).is_some());
    }

    #[test]
    #[should_panic(expected = "on its own device")]
    fn a_place_of_another_device_is_refused() {
        let (stripe, table) = (Stripe::new(1, 2).expect("memory"), WblockTable::new(0, 2, 0, Reuse::Newest));
        stripe.load(&mut table.take(0, |_| true).expect("free"), &[]);
    }
}
