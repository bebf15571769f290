//! One device: its write blocks, the block being filled, and the medium behind them.
//!
//! # Few blocks
//! The stripes of a small namespace in memory have three blocks for records. On these, writers and defrag
//! fill the same block, and one block is always free or being freed. A writer that finds its block full
//! leaves the last free block to defrag, which moves the live records of another block there. Writers wait
//! until that other block is free, so that these records have room. Then all continue in the rest of the new
//! block.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use datamodel::flat::{FlatRecord, MAGIC};
use datamodel::wblock_scan::{Piece, WblockScan};
use parking_lot::{Mutex, MutexGuard};

use super::disk::{Disk, DiskStats};
use super::error::StorageError;
use super::huge_pages::HugePages;
use super::partial_read::Unreadable;
use super::read_buffer::{DiskBuffer, StoredPlace};
use super::reservation::place::Pinned;
use super::reservation::{OpenBlock, STREAM_COUNT, Stream};
use super::room::RoomQueue;
use super::settings::Settings;
use super::stripe::Stripe;
use super::wblock::{AfterFree, Emptying, Reuse, Taken, WblockId, WblockTable, wblock_offset};
use super::{RBLOCK_SIZE, RBLOCKS_PER_WBLOCK, WBLOCK_SIZE};
use crate::index::{Location, WriteGuard};

/// Number of blocks reserved for defrag on a memory stripe: the live records of a block that it empties take
/// less than one.
const MEMORY_RESERVE: usize = 1;
/// Largest number of blocks that defrag empties because of lack of room without gaining a free one. A block
/// that may be emptied contains at least a twentieth of garbage, so fewer blocks make a free one.
const VAIN_BLOCKS_MAX: u32 = 32;

/// The medium of the write blocks.
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
    /// Blocks emptied because of lack of room, although their live share was above `defrag-lwm-pct`.
    pub(crate) defrag_above_lwm: u64,
    pub(crate) writes: u64,
    /// Requests that waited for room.
    pub(crate) room_waits: u64,
    /// Bytes of memory of free blocks that were given back to the system.
    pub(crate) given_back_bytes: u64,
    /// Figures that only disks have.
    pub(crate) disk: Option<DiskStats>,
}

/// The effect of emptying blocks because of lack of room. Large records, of which few fit into a block, leave
/// a part of it unused wherever they are moved, so that emptying blocks may gain nothing.
#[derive(Default)]
struct Gain {
    /// Blocks emptied since the last gain.
    vain_blocks: u32,
    /// Number of free blocks at the last gain.
    free_blocks: usize,
    /// Number of blocks filled by writers, and live bytes, at the last gain. Another filled block, or the
    /// removal of as many bytes of records as a block has, counts as a gain.
    filled: u64,
    live_bytes: u64,
}

pub(super) struct Device {
    number: u8,
    pub(super) wblocks: WblockTable,
    /// The block that each stream fills. On a device of few blocks all streams fill that of the writers.
    streams: [Mutex<Option<OpenBlock>>; STREAM_COUNT],
    pub(super) medium: Medium,
    filled: [AtomicU64; STREAM_COUNT],
    defrag_reads: AtomicU64,
    defrag_above_lwm: AtomicU64,
    given_back_bytes: AtomicU64,
    huge_pages: HugePages,
    gain: Mutex<Gain>,
    /// Whether defrag is running and has not found that it gains no room.
    can_gain: AtomicBool,
    pub(super) room: RoomQueue,
}

impl Device {
    /// Makes memory stripe number `number` with `wblock_count` blocks; `None` without the address space for
    /// it.
    pub(super) fn memory(number: u8, wblock_count: u32) -> Option<Self> {
        let stripe = Stripe::new(number, wblock_count)?;
        Some(Self::new(
            number,
            WblockTable::new(number, wblock_count, MEMORY_RESERVE, Reuse::Newest),
            Medium::Memory(stripe),
        ))
    }

    /// Makes device number `number`, on a disk.
    pub(super) fn disk(number: u8, wblocks: WblockTable, disk: Disk) -> Self {
        Self::new(number, wblocks, Medium::Disk(Box::new(disk)))
    }

    fn new(number: u8, wblocks: WblockTable, medium: Medium) -> Self {
        assert_eq!(wblocks.device(), number, "the table is that of the device");
        Device {
            number,
            wblocks,
            streams: [const { Mutex::new(None) }; STREAM_COUNT],
            medium,
            filled: [const { AtomicU64::new(0) }; STREAM_COUNT],
            defrag_reads: AtomicU64::new(0),
            defrag_above_lwm: AtomicU64::new(0),
            given_back_bytes: AtomicU64::new(0),
            huge_pages: HugePages::default(),
            gain: Mutex::default(),
            can_gain: AtomicBool::new(false),
            room: RoomQueue::default(),
        }
    }

    pub(super) fn number(&self) -> u8 {
        self.number
    }

    /// The disk, if the device is one.
    pub(super) fn as_disk(&self) -> Option<&Disk> {
        match &self.medium {
            Medium::Memory(_) => None,
            Medium::Disk(disk) => Some(disk),
        }
    }

    /// Appends a flat record. The second value says whether defrag now has work.
    ///
    /// # Errors
    /// When no block can be taken, or the disk has failed.
    pub(super) fn append(
        &self,
        stream: Stream,
        record: &[u8],
        settings: &Settings,
    ) -> (Result<Location, StorageError>, bool) {
        assert_is_record(record);
        let size = record.len() as u32;
        if self.as_disk().is_some_and(Disk::has_failed) {
            return (Err(StorageError::Failed), false);
        }
        let mut current = self.open_block(stream).lock();
        if stream == Stream::Write && current.is_some() && self.has_lent_last_block() {
            return (Err(self.error_of_no_block(stream)), true);
        }
        let mut wants_defrag = false;
        if let Some(full) = current.take_if(|current| !current.has_room(size)) {
            self.filled[stream as usize].fetch_add(1, Relaxed);
            wants_defrag = self.close(full, settings.low_water_bytes()) == AfterFree::Queued;
        }
        if current.is_none() {
            let opened = self.open(stream, settings);
            wants_defrag |=
                stream == Stream::Write && self.wblocks.is_short(settings.stop_writes_avail_pct());
            match opened {
                Ok(opened) => *current = Some(opened),
                Err(error) => return (Err(error), wants_defrag),
            }
        }
        let Some(open) = &mut *current else { return (Err(StorageError::OutOfSpace), wants_defrag) };
        let mut place = open.reserve(&self.wblocks, size);
        drop(current);
        place.fill(self.stripe(), record);
        (Ok(place.location()), wants_defrag)
    }

    /// The block that `stream` fills.
    fn open_block(&self, stream: Stream) -> &Mutex<Option<OpenBlock>> {
        let filled = if self.wblocks.has_few_blocks() { Stream::Write } else { stream };
        &self.streams[filled as usize]
    }

    /// Whether defrag has taken the last free one of few blocks: it needs the room there to free another one.
    fn has_lent_last_block(&self) -> bool {
        self.wblocks.has_few_blocks() && self.wblocks.free_count() == 0
    }

    /// Makes writers that would close a block wait until the result is dropped. Only on a device of few
    /// blocks.
    pub(super) fn hold_open_block(&self) -> Option<MutexGuard<'_, Option<OpenBlock>>> {
        self.wblocks.has_few_blocks().then(|| self.open_block(Stream::Write).lock())
    }

    /// Number of free blocks that `stream` does not take.
    fn left_blocks(&self, stream: Stream, settings: &Settings) -> usize {
        match stream {
            Stream::Defrag => 0,
            Stream::Write if self.can_gain() => self.wblocks.writers_leave(settings.stop_writes_avail_pct()),
            Stream::Write => self.wblocks.reserved(),
        }
    }

    /// Whether defrag makes room if there is none.
    pub(super) fn can_gain(&self) -> bool {
        self.can_gain.load(Relaxed)
    }

    /// Notes whether defrag gains room.
    pub(super) fn set_can_gain(&self, can_gain: bool) {
        self.can_gain.store(can_gain, Relaxed);
    }

    /// Notes that defrag can empty a block, or is doing so. Only on a device of few blocks.
    pub(super) fn expect_gain(&self) {
        if self.wblocks.has_few_blocks() {
            self.set_can_gain(true);
        }
    }

    /// Whether so few blocks are free that writers are about to wait for defrag, or, on a device of few
    /// blocks, are waiting.
    pub(super) fn is_short(&self, settings: &Settings) -> bool {
        self.wblocks.is_short(settings.stop_writes_avail_pct())
            && (!self.wblocks.has_few_blocks()
                || self.has_lent_last_block()
                || self.open_block(Stream::Write).lock().is_none())
    }

    /// Whether a writer finds a block that it may take, or an open one with room.
    pub(super) fn has_block_for_writers(&self, settings: &Settings) -> bool {
        let has_room = |open: &OpenBlock| open.has_room(RBLOCK_SIZE);
        self.wblocks.free_count() > self.left_blocks(Stream::Write, settings)
            || self.wblocks.has_few_blocks()
                && !self.has_lent_last_block()
                && self.open_block(Stream::Write).lock().as_ref().is_some_and(has_room)
    }

    /// The error for a stream that finds no block that it may take.
    fn error_of_no_block(&self, stream: Stream) -> StorageError {
        if stream == Stream::Write && self.can_gain() {
            self.room.set_congested(true);
            return StorageError::Congested;
        }
        StorageError::OutOfSpace
    }

    /// Whether all blocks are in memory.
    pub(super) fn is_in_memory(&self) -> bool {
        self.stripe().is_some()
    }

    /// The stripe that holds all blocks, if they are in memory.
    #[inline]
    fn stripe(&self) -> Option<&Stripe> {
        match &self.medium {
            Medium::Memory(stripe) => Some(stripe),
            Medium::Disk(disk) => disk.stripe(),
        }
    }

    fn open(&self, stream: Stream, settings: &Settings) -> Result<OpenBlock, StorageError> {
        let left = self.left_blocks(stream, settings);
        let Some(disk) = self.as_disk() else {
            let taken = self.wblocks.take(left, |_| true);
            return taken.map(OpenBlock::in_memory).ok_or_else(|| self.error_of_no_block(stream));
        };
        let is_lent = |id| disk.stripe().is_some_and(|stripe| stripe.is_lent(id));
        let block = match self.wblocks.take(left, |id| !is_lent(id)) {
            Some(block) => block,
            None => self.take_after_flush(disk, stream, settings)?,
        };
        match disk.open_buffer(&block, stream) {
            Some(buffer) => Ok(OpenBlock::buffered(block, buffer)),
            None => {
                self.wblocks.close(block, settings.low_water_bytes());
                Err(StorageError::OutOfSpace)
            }
        }
    }

    /// Takes a free block whose memory still has to be written to disk, and waits until it is written. This
    /// is rare: the memory of all free blocks must have been filled and freed within one turn of the flush
    /// thread. While the server runs no caller waits here, because callers hold locks: the record is stored
    /// again later.
    #[cold]
    fn take_after_flush(
        &self,
        disk: &Disk,
        stream: Stream,
        settings: &Settings,
    ) -> Result<Taken, StorageError> {
        if self.can_gain() && self.wblocks.free_count() > self.left_blocks(stream, settings) {
            if stream == Stream::Write {
                self.room.set_congested(true);
            }
            return Err(StorageError::Congested);
        }
        let taken = self.wblocks.take(self.left_blocks(stream, settings), |_| true);
        let block = taken.ok_or_else(|| self.error_of_no_block(stream))?;
        if let Err(error) = disk.flush_all(&self.wblocks) {
            disk.fail(&error);
            self.wblocks.close(block, settings.low_water_bytes());
            return Err(StorageError::Failed);
        }
        // The last user of the old buffer is still copying from it.
        while disk.stripe().is_some_and(|stripe| stripe.is_lent(block.id())) {
            std::thread::yield_now();
        }
        Ok(block)
    }

    fn close(&self, full: OpenBlock, low_water_bytes: u32) -> AfterFree {
        if let (Some(disk), Some(buffer)) = (self.as_disk(), full.buffer()) {
            disk.close_buffer(buffer);
        }
        let after = self.wblocks.close(full.into_taken(), low_water_bytes);
        self.expect_gain();
        after
    }

    /// The bytes of `record`: in place, or in `scratch`. `NotInMemory` if they have to be [fetched](Disk::fetch) first.
    #[inline]
    pub(super) fn record<'g>(
        &'g self,
        record: Pinned<'g>,
        scratch: &'g mut DiskBuffer,
    ) -> Result<&'g [u8], StorageError> {
        let location = record.location();
        debug_assert!(
            self.wblocks.live_bytes_of(WblockId::of(location)) >= location.rblock_count() * RBLOCK_SIZE,
            "a record that can be read is alive in its block"
        );
        match &self.medium {
            Medium::Memory(stripe) => Ok(stripe.record(record)),
            Medium::Disk(disk) => match disk.stripe() {
                Some(stripe) => Ok(stripe.record(record)),
                None => disk.record_in_memory(record, self.wblocks.life_at(location), scratch),
            },
        }
    }

    /// The place of `record` if it may have to be fetched from a disk.
    pub(super) fn place_to_fetch(&self, record: Pinned<'_>) -> Option<StoredPlace> {
        let disk = self.as_disk().filter(|disk| disk.stripe().is_none())?;
        Some(disk.place(record, self.wblocks.life_at(record.location())))
    }

    /// The bytes of a whole block that defrag has. Unreadable bytes are zeros, and the second value describes
    /// them.
    pub(super) fn wblock<'s>(
        &'s self,
        block: &'s Emptying,
        scratch: &'s mut DiskBuffer,
    ) -> (&'s [u8], Option<Unreadable>) {
        match &self.medium {
            Medium::Memory(stripe) => (stripe.wblock(block), None),
            Medium::Disk(disk) => match disk.stripe() {
                Some(stripe) => (stripe.wblock(block), None),
                None => disk.read_wblock(block, &self.wblocks, scratch),
            },
        }
    }

    /// Ends defrag of `block`, whose bytes in `unreadable` could not be read.
    pub(super) fn emptied(&self, mut block: Emptying, unreadable: Option<&Unreadable>) {
        if let (Some(stripe), Some(unused)) = (self.stripe(), self.wblocks.unused(&mut block)) {
            stripe.discard(&unused);
        }
        let id = block.id();
        let kept_bytes = self.wblocks.emptied(block);
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

    /// Gives back the memory of at most `count` blocks that have been free for `idle`, so that deleted
    /// records take no memory. Blocks that are freed and taken again all the time keep theirs.
    pub(super) fn discard_idle(&self, idle: Duration, count: usize) {
        let Some(stripe) = self.stripe() else { return };
        for _ in 0..count {
            if !self.wblocks.discard_idle(idle, |unused| stripe.discard(unused)) {
                break;
            }
            self.given_back_bytes.fetch_add(WBLOCK_SIZE.into(), Relaxed);
        }
    }

    /// Backs the next block in memory that was never used with huge pages, if another one was taken since the last call;
    /// returns whether.
    pub(super) fn prepare_ahead(&self) -> bool {
        self.stripe().is_some_and(|stripe| self.huge_pages.prepare_ahead(stripe, &self.wblocks))
    }

    /// Turns small pages of a full block in memory into a huge page; returns whether there were some.
    pub(super) fn collapse_next(&self) -> bool {
        self.stripe().is_some_and(|stripe| self.huge_pages.collapse_next(stripe, &self.wblocks))
    }

    /// Gives the memory of free blocks back, at start.
    pub(super) fn discard_free(&mut self) {
        let stripe = match &self.medium {
            Medium::Memory(stripe) => stripe,
            Medium::Disk(disk) => match disk.stripe() {
                Some(stripe) => stripe,
                None => return,
            },
        };
        self.wblocks.visit_free(|unused| stripe.discard(&unused));
    }

    /// Keeps block `id` in memory if all blocks are there, at start.
    pub(super) fn load(&self, id: WblockId, bytes: &[u8]) {
        if let Some(stripe) = self.stripe() {
            stripe.load(&mut self.wblocks.take_to_load(id), bytes);
        }
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

    /// Writes `record` over that of `guard`, which has the same size. Refused when defrag is about to move
    /// that record.
    pub(super) fn rewrite(&self, guard: &mut WriteGuard<'_>, record: &[u8]) -> bool {
        // A record that is on a disk, or in a buffer for one, is never changed in place: a crash could tear it.
        let Medium::Memory(stripe) = &self.medium else { return false };
        assert_is_record(record);
        let Some(mut right) = self.wblocks.begin_rewrite(guard) else { return false };
        stripe.overwrite(&mut right, record);
        true
    }

    /// Counts the record at `location` as garbage.
    pub(super) fn free(&self, location: Location, low_water_bytes: u32) -> AfterFree {
        self.wblocks.free_bytes(
            WblockId::of(location),
            location.rblock_count() * RBLOCK_SIZE,
            low_water_bytes,
        )
    }

    /// Notes that the record at `location` becomes garbage when its replacement, on another device, is on
    /// disk.
    pub(super) fn await_free(&self, location: Location) {
        self.wblocks.await_free(WblockId::of(location), location.rblock_count() * RBLOCK_SIZE);
    }

    /// Frees the record at `location`, because its replacement is on disk.
    pub(super) fn free_awaited(&self, location: Location, low_water_bytes: u32) -> AfterFree {
        self.wblocks.free_awaited(
            WblockId::of(location),
            location.rblock_count() * RBLOCK_SIZE,
            low_water_bytes,
        )
    }

    /// Percentage of free blocks. If defrag has taken the last free one of few blocks, the block that it
    /// empties counts as free.
    pub(super) fn available_pct(&self) -> u32 {
        let free = match self.wblocks.free_count() {
            0 if self.wblocks.has_few_blocks() && self.wblocks.is_emptying() => 1,
            // The block may have become free since the first count.
            0 => self.wblocks.free_count(),
            free => free,
        };
        (free as u64 * u64::from(WBLOCK_SIZE) * 100 / self.wblocks.size()) as u32
    }

    /// Whether emptying another block because of lack of room may help. Counts the block.
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

    pub(super) fn count_defrag_above_lwm(&self) {
        self.defrag_above_lwm.fetch_add(1, Relaxed);
    }

    /// The name of the device in messages.
    pub(super) fn name(&self) -> String {
        match self.as_disk() {
            Some(disk) => disk.media.main.path().display().to_string(),
            None => format!("stripe {}", self.number),
        }
    }

    pub(super) fn stats(&self) -> DeviceStats {
        DeviceStats {
            used_bytes: self.wblocks.live_bytes(),
            free_wblocks: self.wblocks.free_count(),
            total_bytes: self.wblocks.size(),
            defrag_queue: self.wblocks.defrag_queue_size(),
            defrag_reads: self.defrag_reads.load(Relaxed),
            defrag_writes: self.filled[Stream::Defrag as usize].load(Relaxed),
            defrag_above_lwm: self.defrag_above_lwm.load(Relaxed),
            room_waits: self.room.wait_count(),
            given_back_bytes: self.given_back_bytes.load(Relaxed),
            writes: self.filled[Stream::Write as usize].load(Relaxed),
            disk: self.as_disk().map(Disk::stats),
        }
    }
}

/// Asserts that a record that is about to be stored has the size of whole units, and begins like a record of
/// this size.
#[inline]
fn assert_is_record(record: &[u8]) {
    let size = record.len();
    assert!(
        size.is_multiple_of(RBLOCK_SIZE as usize) && size <= WBLOCK_SIZE as usize,
        "a record of {size} bytes"
    );
    assert_eq!(record.first_chunk(), Some(&MAGIC.to_le_bytes()), "a record begins with its magic");
    assert_eq!(FlatRecord::stated_size(record), Some(size), "a record has the size that it states");
    debug_assert!(
        FlatRecord::parse(record).is_ok_and(|record| record.verify().is_ok()),
        "a record is whole, to its end mark"
    );
}

/// Calls `visit` with the records of block `id` of the disk `device` and their places.
pub(super) fn visit_records(
    device: &Device,
    id: WblockId,
    block: &[u8],
    visit: &mut impl FnMut(Location, &FlatRecord<'_>),
) {
    let Some(disk) = device.as_disk() else { return };
    for piece in WblockScan::new(block, disk.end_mark(id)) {
        if let Piece::Record { offset, record } = piece {
            visit(location_in(device, id, offset, record.size), &record);
        }
    }
}

/// The place of `size` bytes at `offset` of block `id` of `device`.
pub(super) fn location_in(device: &Device, id: WblockId, offset: usize, size: usize) -> Location {
    let rblock = u64::from(id.0) * RBLOCKS_PER_WBLOCK + (offset / RBLOCK_SIZE as usize) as u64;
    Location::new(device.number(), rblock, size as u32 / RBLOCK_SIZE)
}
