//! Write buffers: write blocks of a disk that are in memory because they are being filled, wait to be
//! written, or are cached for reads.
//!
//! The bytes of a record are copied into a buffer once, at a place reserved for them, before any index
//! element points there, and never change afterwards. Therefore the holder of the record's guard may read
//! them, and the part up to the mark may be written out once the writers that were announced before are done.
//!
//! Memory of buffers that are no longer needed is reused, because the system would have to zero new memory
//! page by page.

use std::sync::Arc;

use cf::region::Region;
use parking_lot::Mutex;

use super::block_state::FillMark;
use super::reservation::place::{Pinned, ReservedPlace};
use super::stripe::{LentBlock, PREFETCH_SIZE_MAX};
use super::wblock::{Taken, WblockId, WblockTable};
use super::{RBLOCK_SIZE, RBLOCKS_PER_WBLOCK, WBLOCK_SIZE};

/// Largest number of buffers whose memory a disk keeps: one for each of its streams, and as many that were
/// just written out.
const SPARES_MAX: usize = 4;

/// Memory of unneeded buffers. Its lock is the innermost one.
#[derive(Default)]
pub(super) struct Spares(Mutex<Vec<Region>>);

impl Spares {
    /// Memory for a buffer, with arbitrary content; `None` if the system has none.
    pub(super) fn take(self: &Arc<Self>) -> Option<OwnMemory> {
        let spare = self.0.lock().pop();
        let region = spare.or_else(|| Region::new(WBLOCK_SIZE as usize))?;
        Some(OwnMemory { region: Some(region), spares: Arc::clone(self) })
    }
}

/// Memory for one buffer, which goes back to the spares.
pub(super) struct OwnMemory {
    /// Present until the buffer is dropped.
    region: Option<Region>,
    spares: Arc<Spares>,
}

impl OwnMemory {
    fn region(&self) -> &Region {
        self.region.as_ref().expect("it is given back on drop only")
    }
}

impl Drop for OwnMemory {
    fn drop(&mut self) {
        let mut spares = self.spares.0.lock();
        if spares.len() < SPARES_MAX {
            spares.extend(self.region.take());
        }
    }
}

/// The memory of a block.
pub(super) enum Memory {
    /// In a separate buffer.
    Own(OwnMemory),
    /// In the stripe that holds all blocks of the disk.
    Stripe(LentBlock),
}

pub(super) struct WriteBuffer {
    device: u8,
    id: WblockId,
    /// Position in the order in which blocks were taken; see `flush`.
    sequence: u64,
    /// Before the block is written, all blocks up to this number must be durable.
    freed_after: u64,
    memory: Memory,
    mark: FillMark,
}

impl WriteBuffer {
    /// Makes an empty buffer in `memory` for `block`.
    pub(super) fn new(block: &Taken, memory: Memory) -> Self {
        WriteBuffer {
            device: block.device(),
            id: block.id(),
            sequence: block.number(),
            freed_after: block.freed_after(),
            memory,
            mark: FillMark::default(),
        }
    }

    pub(super) fn id(&self) -> WblockId {
        self.id
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Number of the last block that may hold replacements of the former records of this one.
    pub(super) fn freed_after(&self) -> u64 {
        self.freed_after
    }

    /// Whether it was made for `block`.
    pub(super) fn is_for(&self, block: &Taken) -> bool {
        (self.device, self.id) == (block.device(), block.id())
    }

    /// Moves the mark to the end of `place`, which was just reserved.
    pub(super) fn follow(&self, place: &ReservedPlace<'_>) {
        self.check(place);
        self.mark.reserve(place.offset() + place.size());
    }

    fn check(&self, place: &ReservedPlace<'_>) {
        let is_here = (self.device, self.id) == (place.device(), place.id());
        assert!(is_here, "a place is written to in the buffer of its block");
    }

    /// Copies a record to the place reserved for it, in a buffer with separate memory.
    #[expect(unsafe_code, reason = "records are copied to places of their own")]
    pub(super) fn fill(&self, place: &mut ReservedPlace<'_>, record: &[u8]) {
        self.check(place);
        let (offset, size) = (place.offset() as usize, place.size() as usize);
        assert_eq!(record.len(), size, "a record fills its place");
        let Memory::Own(memory) = &self.memory else {
            unreachable!("the place is in a stripe, which fills it")
        };
        // SAFETY: no other thread writes to or reads a reserved place, and `&mut` keeps others from using the
        // reservation.
        unsafe { memory.region().write(offset, record) };
    }

    /// The bytes of a record in this block.
    #[expect(unsafe_code, reason = "a record that was written once does not change")]
    pub(super) fn record<'g>(&'g self, record: Pinned<'g>) -> &'g [u8] {
        let location = record.location();
        assert!(
            location.device() == self.device && WblockId::of(location) == self.id,
            "a record is read from the buffer of its block"
        );
        let offset = (location.rblock() % RBLOCKS_PER_WBLOCK) as usize * RBLOCK_SIZE as usize;
        let size = location.rblock_count() as usize * RBLOCK_SIZE as usize;
        match &self.memory {
            // SAFETY: an index element points to the record, so it is complete, and a complete record is not written to
            // again while the buffer lives.
            Memory::Own(memory) => unsafe { memory.region().slice(offset, size) },
            Memory::Stripe(lent) => lent.stripe().record(record),
        }
    }

    /// The bytes reserved so far, after waiting until they are written. `wblocks` are those of the buffer's
    /// disk.
    #[expect(unsafe_code, reason = "what is complete does not change")]
    pub(super) fn complete(&self, wblocks: &WblockTable) -> &[u8] {
        assert_eq!(wblocks.device(), self.device, "a block belongs to one table");
        let end = self.mark.complete(wblocks.block(self.id)) as usize;
        match &self.memory {
            // SAFETY: all bytes below the mark were reserved by writers that are done, and are not given out
            // again while the buffer lives.
            Memory::Own(memory) => unsafe { memory.region().slice(0, end) },
            // SAFETY: as above.
            Memory::Stripe(lent) => unsafe { lent.complete(end) },
        }
    }

    /// Hints that the record at `offset` will be read soon.
    #[inline]
    pub(super) fn prefetch(&self, offset: u32, size: usize) {
        if let Memory::Own(memory) = &self.memory {
            memory.region().prefetch(offset as usize, size.min(PREFETCH_SIZE_MAX));
        }
    }

    /// Whether any reserved bytes are not on disk.
    pub(super) fn has_news(&self) -> bool {
        self.mark.flushed() < self.mark.filled()
    }

    /// Bytes that were reserved and are not on disk.
    pub(super) fn unwritten_bytes(&self) -> u32 {
        self.mark.filled().saturating_sub(self.mark.flushed())
    }

    /// Bytes on disk so far.
    pub(super) fn flushed(&self) -> u32 {
        self.mark.flushed()
    }

    /// Notes that bytes up to `end` are on disk.
    pub(super) fn set_flushed(&self, end: u32) {
        assert!(
            self.mark.flushed() <= end && end <= self.mark.filled(),
            "what is on disk was reserved, and only grows"
        );
        self.mark.set_flushed(end);
    }
}

#[cfg(test)]
mod tests {
    use super::super::reservation::OpenBlock;
    use super::super::tests::{digest_of, small_index};
    use super::super::wblock::Reuse;
    use super::*;

    /// Small enough for Miri, which runs this test too.
    const RECORDS: u32 = if cfg!(miri) { 8 } else { 500 };
    const SIZE: u32 = 2 * RBLOCK_SIZE;

    fn content(key: u32) -> [u8; SIZE as usize] {
        [key as u8 | 1; SIZE as usize]
    }

    #[test]
    fn complete_records_are_read_while_others_are_written() {
        let table = WblockTable::new(0, 3, 0, Reuse::Oldest);
        let index = small_index();
        let taken = table.take(0, |_| true).expect("free");
        let memory = Memory::Own(Arc::<Spares>::default().take().expect("memory"));
        let buffer = Arc::new(WriteBuffer::new(&taken, memory));
        let open = Mutex::new(OpenBlock::buffered(taken, Arc::clone(&buffer)));
        std::thread::scope(|scope| {
            for writer in 0..2 {
                let (table, index, open, buffer) = (&table, &index, &open, &buffer);
                scope.spawn(move || {
                    for key in (0..RECORDS).filter(|key| key % 2 == writer) {
                        let mut place = open.lock().reserve(table, SIZE);
                        place.fill(None, &content(key));
                        let (mut guard, _) = index.get_or_create(&digest_of(key)).expect("room");
                        guard.meta_mut().location = place.location();
                        guard.meta_mut().generation = 1;
                        // SAFETY: the element points to the place where this test has stored its record.
                        #[expect(unsafe_code, reason = "a test of what is unsafe")]
                        let place = unsafe { Pinned::of(&guard) };
                        assert_eq!(buffer.record(place), content(key));
                    }
                });
            }
            while buffer.flushed() < RECORDS * SIZE {
                let complete = buffer.complete(&table);
                let is_record = |bytes: &[u8]| bytes[0] != 0 && bytes.iter().all(|byte| *byte == bytes[0]);
                assert!(complete.chunks(SIZE as usize).all(is_record));
                buffer.set_flushed(complete.len() as u32);
                std::thread::yield_now();
            }
        });
        assert!(!buffer.has_news());
    }

    #[test]
    fn memory_of_buffers_is_used_again() {
        let spares = Arc::<Spares>::default();
        let first = spares.take().expect("memory");
        drop(first);
        assert_eq!(spares.0.lock().len(), 1);
        let again = spares.take().expect("memory");
        assert_eq!((spares.0.lock().len(), again.region().size()), (0, WBLOCK_SIZE as usize));
        let many: Vec<OwnMemory> = (0..2 * SPARES_MAX).map(|_| spares.take().expect("memory")).collect();
        drop((again, many));
        assert_eq!(spares.0.lock().len(), SPARES_MAX);
    }

    #[test]
    #[should_panic(expected = "was reserved, and only grows")]
    fn more_than_was_reserved_is_never_on_disk() {
        let table = WblockTable::new(0, 2, 0, Reuse::Oldest);
        let taken = table.take(0, |_| true).expect("free");
        let memory = Memory::Own(Arc::<Spares>::default().take().expect("memory"));
        WriteBuffer::new(&taken, memory).set_flushed(RBLOCK_SIZE);
    }
}
