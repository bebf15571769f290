//! One device: its write blocks, the block being filled, and the medium behind them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use datamodel::flat::FlatRecord;
use datamodel::wblock_scan::{Piece, WblockScan};
use parking_lot::Mutex;

use super::buffer::WriteBuffer;
use super::disk::{Disk, DiskStats, wblock_offset};
use super::engine::StorageError;
use super::salvage::Unreadable;
use super::stripe::Stripe;
use super::wblock::{AfterFree, Reuse, WblockId, WblockTable};
use super::{RBLOCK_SIZE, RBLOCKS_PER_WBLOCK, ReadBuffer, WBLOCK_SIZE};
use crate::index::Location;

/// Who appends; each fills a write block of its own, so that records of like lifetime stay together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stream {
    Write = 0,
    Defrag = 1,
}
pub(super) const STREAM_COUNT: usize = 2;
/// Blocks kept for defrag on a memory stripe: what it empties is less than one.
const MEMORY_RESERVE: usize = 1;
/// Blocks that defrag empties for want of room without there being more of it. Of blocks that are worth it, of which a
/// twentieth is garbage at least, fewer make a free one.
const VAIN_BLOCKS_MAX: u32 = 32;

/// The block being filled, how far it is, and on a disk its buffer.
#[derive(Clone)]
struct Current {
    id: WblockId,
    position: u32,
    buffer: Option<Arc<WriteBuffer>>,
}

/// What is behind the write blocks.
pub(super) enum Medium {
    Memory(Stripe),
    Disk(Box<Disk>),
}

/// Figures of a device for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceStats {
    pub(crate) used_bytes: u64,
    pub(crate) free_wblocks: usize,
    pub(crate) total_bytes: u64,
    pub(crate) defrag_queue: usize,
    pub(crate) defrag_reads: u64,
    pub(crate) defrag_writes: u64,
    pub(crate) writes: u64,
    /// What only disks have.
    pub(crate) disk: Option<DiskStats>,
}

/// What came of emptying blocks for want of room. Records so large that few fit into a block leave a part of it unused
/// wherever they are moved.
#[derive(Default)]
struct Gain {
    /// Blocks emptied since there was one.
    vain_blocks: u32,
    /// Most free blocks seen since the last news.
    free_blocks: usize,
    /// News are blocks that writers filled since, and records of a block's size that went.
    filled: u64,
    live_bytes: u64,
}

pub(super) struct Device {
    number: u8,
    pub(super) wblocks: WblockTable,
    streams: [Mutex<Option<Current>>; STREAM_COUNT],
    pub(super) medium: Medium,
    filled: [AtomicU64; STREAM_COUNT],
    defrag_reads: AtomicU64,
    gain: Mutex<Gain>,
}

impl Device {
    /// Memory stripe number `number` with `wblock_count` blocks, or `None` without the address space for it.
    pub(super) fn memory(number: u8, wblock_count: u32) -> Option<Self> {
        let stripe = Stripe::new(wblock_count)?;
        Some(Self::new(
            number,
            WblockTable::new(wblock_count, MEMORY_RESERVE, Reuse::Newest),
            Medium::Memory(stripe),
        ))
    }

    /// Device number `number`, on a disk.
    pub(super) fn disk(number: u8, wblocks: WblockTable, disk: Disk) -> Self {
        Self::new(number, wblocks, Medium::Disk(Box::new(disk)))
    }

    fn new(number: u8, wblocks: WblockTable, medium: Medium) -> Self {
        Device {
            number,
            wblocks,
            streams: [const { Mutex::new(None) }; STREAM_COUNT],
            medium,
            filled: [const { AtomicU64::new(0) }; STREAM_COUNT],
            defrag_reads: AtomicU64::new(0),
            gain: Mutex::default(),
        }
    }

    pub(super) fn number(&self) -> u8 {
        self.number
    }

    /// The disk, if it is one.
    pub(super) fn as_disk(&self) -> Option<&Disk> {
        match &self.medium {
            Medium::Memory(_) => None,
            Medium::Disk(disk) => Some(disk),
        }
    }

    /// Appends a flat record. The second value says what became of a block that was full.
    ///
    /// # Errors
    /// When no block can be taken, or the disk has failed.
    pub(super) fn append(
        &self,
        stream: Stream,
        record: &[u8],
        low_water_bytes: u32,
    ) -> (Result<Location, StorageError>, AfterFree) {
        let size = record.len() as u32;
        debug_assert!(size.is_multiple_of(RBLOCK_SIZE) && size <= WBLOCK_SIZE);
        if self.as_disk().is_some_and(Disk::has_failed) {
            return (Err(StorageError::Failed), AfterFree::Kept);
        }
        let mut current = self.streams[stream as usize].lock();
        let mut closed = AfterFree::Kept;
        if let Some(full) = current.take_if(|current| current.position + size > WBLOCK_SIZE) {
            self.filled[stream as usize].fetch_add(1, Relaxed);
            closed = self.close(&full, low_water_bytes);
        }
        if current.is_none() {
            match self.open(stream, low_water_bytes) {
                Ok(opened) => *current = Some(opened),
                Err(error) => return (Err(error), closed),
            }
        }
        let Some(open) = &mut *current else { return (Err(StorageError::OutOfSpace), closed) };
        let Current { id, position, buffer } = open.clone();
        open.position += size;
        self.wblocks.begin_write(id, size);
        if let Some(buffer) = &buffer {
            buffer.set_filled(open.position);
        }
        drop(current);
        let rblock = u64::from(id.0) * RBLOCKS_PER_WBLOCK + u64::from(position / RBLOCK_SIZE);
        let location = Location::new(self.number, rblock, size / RBLOCK_SIZE);
        match (&self.medium, &buffer) {
            (Medium::Memory(stripe), _) => stripe.write(location, record),
            (Medium::Disk(_), Some(buffer)) => buffer.write(position, record),
            (Medium::Disk(_), None) => unreachable!("an open block of a disk has a buffer"),
        }
        self.wblocks.end_write(id);
        (Ok(location), closed)
    }

    fn open(&self, stream: Stream, low_water_bytes: u32) -> Result<Current, StorageError> {
        let id = self.wblocks.take(stream == Stream::Defrag).ok_or(StorageError::OutOfSpace)?;
        let Some(disk) = self.as_disk() else { return Ok(Current { id, position: 0, buffer: None }) };
        match self.open_buffer(disk, id, stream) {
            Ok(buffer) => Ok(Current { id, position: 0, buffer: Some(buffer) }),
            Err(error) => {
                self.wblocks.close(id, low_water_bytes);
                Err(error)
            }
        }
    }

    fn open_buffer(
        &self,
        disk: &Disk,
        id: WblockId,
        stream: Stream,
    ) -> Result<Arc<WriteBuffer>, StorageError> {
        if disk.stripe().is_some() && disk.has_buffer(id) {
            // The memory holds what is still to be written.
            disk.flush_all(&self.wblocks).map_err(|error| {
                disk.fail(&error);
                StorageError::Failed
            })?;
        }
        disk.open_buffer(id, stream).ok_or(StorageError::OutOfSpace)
    }

    fn close(&self, full: &Current, low_water_bytes: u32) -> AfterFree {
        if let (Some(disk), Some(buffer)) = (self.as_disk(), &full.buffer) {
            disk.close_buffer(buffer);
        }
        self.wblocks.close(full.id, low_water_bytes)
    }

    /// The record at `location`, whose guard the caller holds: in place, or read into `scratch`.
    #[inline]
    pub(super) fn record<'g>(
        &'g self,
        location: Location,
        scratch: &'g mut ReadBuffer,
    ) -> Result<&'g [u8], StorageError> {
        match &self.medium {
            Medium::Memory(stripe) => Ok(stripe.record(location)),
            Medium::Disk(disk) => match disk.stripe() {
                Some(stripe) => Ok(stripe.record(location)),
                None => disk.read(location, scratch).map_err(|error| {
                    cf::warning_limited!(Storage, "{error}");
                    StorageError::Failed
                }),
            },
        }
    }

    /// The whole block `id`, which defrag has taken; zeros where it cannot be read, and why.
    pub(super) fn wblock<'s>(
        &'s self,
        id: WblockId,
        scratch: &'s mut ReadBuffer,
    ) -> (&'s [u8], Option<Unreadable>) {
        match &self.medium {
            Medium::Memory(stripe) => (stripe.wblock(id), None),
            Medium::Disk(disk) => match disk.stripe() {
                Some(stripe) => (stripe.wblock(id), None),
                None => disk.read_wblock(id, scratch),
            },
        }
    }

    /// Defrag is done with block `id`, of which it could not read what `unreadable` says.
    pub(super) fn emptied(&self, id: WblockId, unreadable: Option<&Unreadable>) {
        if self.wblocks.is_empty(id) {
            self.discard(id);
        }
        let kept_bytes = self.wblocks.emptied(id);
        if kept_bytes == 0 {
            return;
        }
        let path = self.as_disk().map_or(Path::new("memory"), |disk| disk.media.main.path());
        let reason: &dyn fmt::Display = match unreadable {
            Some(unreadable) => &unreadable.error,
            None => &"they are damaged",
        };
        cf::warning_limited!(
            Storage,
            "{}: at offset {}: the write block is kept, as {kept_bytes} bytes of records in it cannot be read: {reason}; \
             they are answered with an error until they are replaced or deleted",
            path.display(),
            wblock_offset(id)
        );
    }

    /// Gives the memory of block `id` back, if nobody needs what is in it.
    fn discard(&self, id: WblockId) {
        match &self.medium {
            Medium::Memory(stripe) => stripe.discard(id),
            Medium::Disk(disk) => {
                if let Some(stripe) = disk.stripe()
                    && !disk.has_buffer(id)
                {
                    stripe.discard(id);
                }
            }
        }
    }

    /// At start: gives the memory of free blocks back.
    pub(super) fn discard_free(&self) {
        self.wblocks.freed().into_iter().for_each(|id| self.discard(id));
    }

    /// Hints that the record at `location` will be read soon.
    #[inline]
    pub(super) fn prefetch(&self, location: Location) {
        match &self.medium {
            Medium::Memory(stripe) => stripe.prefetch(location),
            Medium::Disk(disk) => match disk.stripe() {
                Some(stripe) => stripe.prefetch(location),
                None => disk.prefetch(location),
            },
        }
    }

    /// Writes `record` over the one at `location`, of the same size. Refused when defrag is about to move it.
    pub(super) fn rewrite(&self, location: Location, record: &[u8]) -> bool {
        // What is on a disk, or about to be, is never changed: a crash could tear it.
        let Medium::Memory(stripe) = &self.medium else { return false };
        let id = wblock_of(location);
        if !self.wblocks.begin_rewrite(id) {
            return false;
        }
        stripe.write(location, record);
        self.wblocks.end_write(id);
        true
    }

    /// The record at `location` is garbage from now on.
    pub(super) fn free(&self, location: Location, low_water_bytes: u32) -> AfterFree {
        self.wblocks.free_bytes(wblock_of(location), location.rblock_count() * RBLOCK_SIZE, low_water_bytes)
    }

    /// The record at `location` is garbage once what replaces it, on another device, is on disk.
    pub(super) fn await_free(&self, location: Location) {
        self.wblocks.await_free(wblock_of(location), location.rblock_count() * RBLOCK_SIZE);
    }

    /// What replaces the record at `location` is on disk.
    pub(super) fn free_awaited(&self, location: Location, low_water_bytes: u32) -> AfterFree {
        self.wblocks.free_awaited(wblock_of(location), location.rblock_count() * RBLOCK_SIZE, low_water_bytes)
    }

    /// Percentage of free blocks.
    pub(super) fn available_pct(&self) -> u32 {
        (self.wblocks.free_count() as u64 * u64::from(WBLOCK_SIZE) * 100 / self.wblocks.size()) as u32
    }

    /// Whether emptying another block for want of room may be of use; counts it.
    pub(super) fn may_force_defrag(&self) -> bool {
        let (filled, live_bytes) =
            (self.filled[Stream::Write as usize].load(Relaxed), self.wblocks.live_bytes());
        let free_blocks = self.wblocks.free_count();
        let mut gain = self.gain.lock();
        let is_news = filled != gain.filled || live_bytes + u64::from(WBLOCK_SIZE) <= gain.live_bytes;
        if is_news || free_blocks > gain.free_blocks {
            *gain = Gain { vain_blocks: 0, free_blocks, filled, live_bytes };
        }
        gain.vain_blocks += 1;
        gain.vain_blocks <= VAIN_BLOCKS_MAX
    }

    pub(super) fn count_defrag_read(&self) {
        self.defrag_reads.fetch_add(1, Relaxed);
    }

    pub(super) fn stats(&self) -> DeviceStats {
        DeviceStats {
            used_bytes: self.wblocks.live_bytes(),
            free_wblocks: self.wblocks.free_count(),
            total_bytes: self.wblocks.size(),
            defrag_queue: self.wblocks.defrag_queue_size(),
            defrag_reads: self.defrag_reads.load(Relaxed),
            defrag_writes: self.filled[Stream::Defrag as usize].load(Relaxed),
            writes: self.filled[Stream::Write as usize].load(Relaxed),
            disk: self.as_disk().map(Disk::stats),
        }
    }
}

/// The block that holds `location`.
pub(super) fn wblock_of(location: Location) -> WblockId {
    WblockId((location.rblock() / RBLOCKS_PER_WBLOCK) as u32)
}

/// Shows `visit` the records of block `id` of `device` with their places.
pub(super) fn visit_records(
    device: &Device,
    id: WblockId,
    block: &[u8],
    visit: &mut impl FnMut(Location, &FlatRecord<'_>),
) {
    for piece in WblockScan::new(block) {
        if let Piece::Record { offset, record } = piece {
            let rblock = u64::from(id.0) * RBLOCKS_PER_WBLOCK + (offset / RBLOCK_SIZE as usize) as u64;
            visit(Location::new(device.number(), rblock, record.size as u32 / RBLOCK_SIZE), &record);
        }
    }
}
