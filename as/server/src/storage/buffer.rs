//! Write blocks of a disk that are in memory: being filled, waiting to be written, or kept for reading.
//!
//! Bytes of a record are copied into a buffer once, at a place reserved for them, before any index element points there,
//! and never changed afterwards. So whoever has the record's guard may read them, and the part below
//! [`filled`](WriteBuffer::filled) may be written out once no copying is under way.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};

use cf::region::Region;

use super::WBLOCK_SIZE;
use super::stripe::Stripe;
use super::wblock::WblockId;

/// Where the bytes of a block are while they are in memory.
enum Memory {
    /// In a buffer of its own.
    Own(Region),
    /// In the stripe that holds all blocks of the disk. Only one buffer for a block is alive at a time then.
    Stripe(Arc<Stripe>),
}

pub(super) struct WriteBuffer {
    pub(super) id: WblockId,
    /// Place in the order in which blocks were taken; see `disk`.
    pub(super) taken: u64,
    memory: Memory,
    /// Bytes reserved so far.
    filled: AtomicU32,
    /// Bytes on disk so far.
    flushed: AtomicU32,
}

impl WriteBuffer {
    /// An empty buffer for block `id`, in `stripe` or else in memory of its own; `None` without memory for it.
    pub(super) fn new(id: WblockId, taken: u64, stripe: Option<&Arc<Stripe>>) -> Option<Self> {
        let memory = match stripe {
            Some(stripe) => Memory::Stripe(Arc::clone(stripe)),
            None => Memory::Own(Region::new(WBLOCK_SIZE as usize)?),
        };
        Some(WriteBuffer { id, taken, memory, filled: AtomicU32::new(0), flushed: AtomicU32::new(0) })
    }

    /// Copies a record to the place at `offset` that was reserved for it.
    #[expect(unsafe_code, reason = "records are copied to places of their own")]
    pub(super) fn write(&self, offset: u32, record: &[u8]) {
        match &self.memory {
            // SAFETY: the place was reserved for this record under the stream's lock, so nobody else writes to it, and
            // nobody reads it before it is filled and counted as written.
            Memory::Own(region) => unsafe { region.write(offset as usize, record) },
            Memory::Stripe(stripe) => stripe.write_to_wblock(self.id, offset, record),
        }
    }

    /// The `size` bytes at `offset`: a record whose guard the caller holds, or a part below the filled mark with nobody
    /// copying.
    #[expect(unsafe_code, reason = "what was written once does not change")]
    pub(super) fn bytes(&self, offset: u32, size: usize) -> &[u8] {
        match &self.memory {
            // SAFETY: bytes of a complete record are never written again while the buffer lives.
            Memory::Own(region) => unsafe { region.slice(offset as usize, size) },
            Memory::Stripe(stripe) => stripe.wblock_part(self.id, offset, size),
        }
    }

    /// Hints that the record at `offset` will be read soon.
    #[inline]
    pub(super) fn prefetch(&self, offset: u32, size: usize) {
        if let Memory::Own(region) = &self.memory {
            region.prefetch(offset as usize, size.min(super::stripe::PREFETCH_SIZE_MAX));
        }
    }

    pub(super) fn filled(&self) -> u32 {
        self.filled.load(Acquire)
    }

    pub(super) fn set_filled(&self, size: u32) {
        self.filled.store(size, Release);
    }

    pub(super) fn flushed(&self) -> u32 {
        self.flushed.load(Acquire)
    }

    pub(super) fn set_flushed(&self, size: u32) {
        self.flushed.store(size, Release);
    }
}
