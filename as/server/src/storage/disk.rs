//! A disk: the file or device of a device's write blocks, and those of its blocks that are in memory.
//!
//! A record is read from its block's buffer under its guard, if the block has a buffer. Otherwise it is read
//! from the disk without the guard, so that no thread that needs the lock waits for a disk. A namespace in
//! memory with files or devices behind it also has a stripe, which holds every block; its disks are only
//! written.
//!
//! `flush` defines how and in which order blocks are written, `sync` when written data survives a power
//! failure.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use cf::aligned::AlignedBuf;
use cf::sys::block::BlockError;
use datamodel::wblock_scan::EndMark;
use parking_lot::{Condvar, Mutex, RwLock};

use super::benchmarks::{DiskBenchmarks, Transfer};
use super::buffer::{Memory, Spares, WriteBuffer};
use super::callers::DiskCallers;
use super::durability::Durability;
use super::error::StorageError;
use super::health::ReadHealth;
use super::media::Media;
use super::partial_read::{self, Unreadable};
use super::read_buffer::{DiskBuffer, StoredPlace};
use super::reservation::place::Pinned;
use super::reservation::{STREAM_COUNT, Stream};
use super::room::RoomQueue;
use super::settings::Settings;
use super::stripe::Stripe;
use super::wblock::{Emptying, Taken, WblockId, WblockTable, wblock_offset, wblock_place};
use super::{RBLOCK_SIZE, WBLOCK_SIZE};
use crate::index::{self, Location};

/// A buffer that is not on disk yet.
pub(super) struct Dirty {
    pub(super) buffer: Arc<WriteBuffer>,
    /// Whether writers have finished filling the buffer.
    pub(super) is_closed: bool,
    pub(super) stream: Stream,
}

/// Figures of a disk for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskStats {
    /// Full blocks that wait to be written.
    pub(crate) write_queue: usize,
    pub(crate) read_errors: u64,
    /// Whether the disk cannot be written at present.
    pub(crate) has_failed: bool,
    /// Blocks written before they were full, because of `flush-max-ms`.
    pub(crate) partial_writes: u64,
    pub(crate) defrag_partial_writes: u64,
}

/// Number of records read since the last sample, from buffers and from the disk.
#[derive(Default)]
struct Reads {
    from_buffers: AtomicU64,
    from_disk: AtomicU64,
}

/// State of a flush.
pub(super) struct FlushState {
    pub(super) piece: AlignedBuf,
    /// Blocks kept in memory after they were written, oldest first.
    pub(super) cached: VecDeque<Arc<WriteBuffer>>,
}

/// A place on another device that becomes garbage once `replacement` is on this disk.
pub(super) struct DeferredFree {
    pub(super) replacement: Location,
    pub(super) garbage: Location,
}

/// Called with the positions of the records that did not get to their disk.
type WhenDurable = Box<dyn FnOnce(&[usize]) + Send>;

/// Records of one disk whose durability is awaited, by `commit-to-device`, without a blocked thread.
pub(crate) struct DurableWait {
    pub(crate) locations: Vec<Location>,
    /// Called once, by the flush thread, with the positions in `locations` of records that did not get to
    /// disk.
    pub(crate) done: WhenDurable,
}

pub(super) struct Disk {
    pub(super) media: Media,
    io_size: u32,
    /// All blocks in memory, if the namespace is kept there.
    stripe: Option<Arc<Stripe>>,
    /// The buffer of each block that has one.
    slots: Box<[RwLock<Option<Arc<WriteBuffer>>>]>,
    /// Buffers that are not on disk, by their sequence numbers.
    pub(super) dirty: Mutex<BTreeMap<u64, Dirty>>,
    pub(super) work: Condvar,
    spares: Arc<Spares>,
    /// The key of the marks behind the last record of a block.
    end_mark_key: u64,
    pub(super) durability: Durability,
    pub(super) closed_count: AtomicUsize,
    pub(super) flush: Mutex<FlushState>,
    pub(super) deferred: Mutex<Vec<DeferredFree>>,
    /// Waits for records to be on disk that the flush thread has not taken up yet.
    pub(super) waits: Mutex<Vec<DurableWait>>,
    pub(super) settings: Settings,
    pub(super) is_stopping: AtomicBool,
    /// Set when the last write failed, and nothing is accepted until one succeeds, or when a sync failed, and
    /// nothing is accepted any more.
    pub(super) failed: AtomicBool,
    /// When the failure was last logged.
    pub(super) failure_told: Mutex<Option<Instant>>,
    read_errors: AtomicU64,
    /// Number of blocks of each stream that were written before they were full.
    pub(super) partial_writes: [AtomicU64; STREAM_COUNT],
    reads: Reads,
    pub(super) benchmarks: DiskBenchmarks,
    pub(super) health: ReadHealth,
    pub(super) callers: DiskCallers,
    /// Requests that wait until the disk answers.
    pub(super) unread: RoomQueue,
}

impl Disk {
    /// Makes a disk of `wblock_count` blocks, all of which are in `stripe` too if there is one.
    pub(super) fn new(
        media: Media,
        wblock_count: u32,
        stripe: Option<Arc<Stripe>>,
        end_mark_key: u64,
        settings: Settings,
        benchmarks: DiskBenchmarks,
    ) -> Self {
        let piece = AlignedBuf::zeroed(settings.flush_size());
        Disk {
            io_size: media.io_size(),
            media,
            stripe,
            slots: (0..wblock_count).map(|_| RwLock::new(None)).collect(),
            dirty: Mutex::new(BTreeMap::new()),
            work: Condvar::new(),
            spares: Arc::default(),
            end_mark_key,
            durability: Durability::default(),
            closed_count: AtomicUsize::new(0),
            flush: Mutex::new(FlushState { piece, cached: VecDeque::new() }),
            deferred: Mutex::new(Vec::new()),
            waits: Mutex::new(Vec::new()),
            settings,
            is_stopping: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            failure_told: Mutex::new(None),
            read_errors: AtomicU64::new(0),
            partial_writes: [const { AtomicU64::new(0) }; STREAM_COUNT],
            reads: Reads::default(),
            benchmarks,
            health: ReadHealth::default(),
            callers: DiskCallers::new(),
            unread: RoomQueue::default(),
        }
    }

    pub(super) fn io_size(&self) -> u32 {
        self.io_size
    }

    pub(super) fn end_mark_key(&self) -> u64 {
        self.end_mark_key
    }

    /// The end mark of block `id` while it is not full.
    pub(super) fn end_mark(&self, id: WblockId) -> EndMark {
        EndMark::new(self.end_mark_key, id.0)
    }

    /// All blocks in memory, if the namespace is kept there.
    #[inline]
    pub(super) fn stripe(&self) -> Option<&Stripe> {
        self.stripe.as_deref()
    }

    /// Whether a write failed and none has succeeded since, or a sync failed.
    #[inline]
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// Number of full blocks that wait to be written.
    pub(super) fn queued_blocks(&self) -> usize {
        self.closed_count.load(Relaxed)
    }

    /// Whether so many full blocks wait to be written that defrag must not add more: twice as many as make
    /// clients wait.
    pub(super) fn is_backlogged(&self) -> bool {
        self.queued_blocks() > self.settings.queue_blocks().saturating_mul(2)
    }

    pub(super) fn stats(&self) -> DiskStats {
        let partial_writes = |stream: Stream| self.partial_writes[stream as usize].load(Relaxed);
        DiskStats {
            write_queue: self.queued_blocks(),
            read_errors: self.read_errors.load(Relaxed),
            has_failed: self.has_failed(),
            partial_writes: partial_writes(Stream::Write),
            defrag_partial_writes: partial_writes(Stream::Defrag),
        }
    }

    /// Records read from buffers and from disk since the last call.
    pub(super) fn take_reads(&self) -> (u64, u64) {
        (self.reads.from_buffers.swap(0, Relaxed), self.reads.from_disk.swap(0, Relaxed))
    }

    /// Makes a buffer for `block`, which was just taken for `stream` and is not lent; `None` without memory
    /// for it.
    pub(super) fn open_buffer(&self, block: &Taken, stream: Stream) -> Option<Arc<WriteBuffer>> {
        let memory = match &self.stripe {
            Some(stripe) => Memory::Stripe(stripe.lend(block)?),
            None => Memory::Own(self.spares.take()?),
        };
        let buffer = Arc::new(WriteBuffer::new(block, memory));
        let entry = Dirty { buffer: Arc::clone(&buffer), is_closed: false, stream };
        self.dirty.lock().insert(buffer.sequence(), entry);
        *self.slots[block.id().0 as usize].write() = Some(Arc::clone(&buffer));
        Some(buffer)
    }

    /// Notes that the buffer will not be filled further.
    pub(super) fn close_buffer(&self, buffer: &WriteBuffer) {
        let mut dirty = self.dirty.lock();
        if let Some(entry) = dirty.get_mut(&buffer.sequence()) {
            entry.is_closed = true;
            self.closed_count.fetch_add(1, Relaxed);
        }
        self.work.notify_all();
    }

    /// The bytes of `record`, either in a buffer, or in `scratch`, if it was [fetched](Self::fetch) in the
    /// current life of its block. The caller has the guard of the record, so this does not wait for the disk.
    ///
    /// # Errors
    /// The reason why the record could not be fetched. `NotInMemory` if it was not fetched; `scratch` then
    /// notes that it is wanted.
    pub(super) fn record_in_memory<'s>(
        &self,
        record: Pinned<'_>,
        block_life: u16,
        scratch: &'s mut DiskBuffer,
    ) -> Result<&'s [u8], StorageError> {
        let location = record.location();
        let place = self.place(record, block_life);
        if !scratch.has(place) {
            let buffer = self.slots[wblock_place(location).0.0 as usize].read().clone();
            let Some(buffer) = buffer else {
                scratch.want(place);
                return Err(StorageError::NotInMemory);
            };
            let size = (location.rblock_count() * RBLOCK_SIZE) as usize;
            scratch.of_size(size)[..size].copy_from_slice(buffer.record(record));
            self.reads.from_buffers.fetch_add(1, Relaxed);
            scratch.keep(place, Ok(0..size));
        }
        scratch.kept()
    }

    /// Reads the record at `place` from the disk into `scratch`, or notes there why that fails. The caller
    /// does not have the record's guard, so the record may be removed and its block overwritten meanwhile.
    /// The bytes are valid only if the record is found at the same place again, in the same life of the
    /// block. Returns whether the caller should look for the record again; it should not if its thread may
    /// not wait for the disk.
    pub(super) fn fetch(&self, place: StoredPlace, scratch: &mut DiskBuffer) -> bool {
        index::assert_no_lock_held();
        if self.callers.must_wait(scratch.caller) {
            scratch.stuck = Some(place.location.device());
            return false;
        }
        let outcome = self.read(place.location, scratch);
        scratch.keep(place, outcome);
        true
    }

    /// Reads the record at `location` into `scratch`. Returns its range there.
    fn read(&self, location: Location, scratch: &mut DiskBuffer) -> Result<Range<usize>, StorageError> {
        let size = (location.rblock_count() * RBLOCK_SIZE) as usize;
        let _call = self.callers.begin(scratch.caller, &mut scratch.slot_hint);
        cf::fault_point!("read-record");
        let io_size = u64::from(self.io_size);
        let start = location.rblock() * u64::from(RBLOCK_SIZE);
        assert!(start >= u64::from(WBLOCK_SIZE), "the first block belongs to the header");
        let aligned_start = start / io_size * io_size;
        let lead = (start - aligned_start) as usize;
        let aligned_size = (lead + size).next_multiple_of(io_size as usize);
        let read = scratch.of_size(aligned_size);
        let medium = match &self.media.cached {
            Some(cached) if self.settings.read_page_cache() => cached,
            _ => &self.media.main,
        };
        let (started, sampled) = (self.benchmarks.start(), self.health.start());
        medium.read_for(aligned_start, read, 0..aligned_size, lead..lead + size).map_err(|error| {
            self.read_errors.fetch_add(1, Relaxed);
            cf::warning_limited!(Storage, "{error}");
            StorageError::Failed
        })?;
        self.benchmarks.end(Transfer::Read, started);
        self.health.end(sampled);
        self.benchmarks.note_read(aligned_size);
        self.reads.from_disk.fetch_add(1, Relaxed);
        Ok(lead..lead + size)
    }

    /// The place of `record`, whose block is in life `block_life`.
    pub(super) fn place(&self, record: Pinned<'_>, block_life: u16) -> StoredPlace {
        let location = record.location().with_key_stored(false);
        StoredPlace { disk: std::ptr::from_ref(self).addr(), location, block_life }
    }

    /// Hints that the record at `location` will be read soon. This helps if it is in a buffer.
    #[inline]
    pub(super) fn prefetch(&self, location: Location) {
        let (id, offset) = wblock_place(location);
        if let Some(slot) = self.slots[id.0 as usize].try_read()
            && let Some(buffer) = &*slot
        {
            buffer.prefetch(offset, (location.rblock_count() * RBLOCK_SIZE) as usize);
        }
    }

    /// The bytes of a whole block that defrag has. Unreadable bytes are zeros, and the second value describes
    /// them.
    pub(super) fn read_wblock<'s>(
        &self,
        block: &Emptying,
        wblocks: &WblockTable,
        scratch: &'s mut DiskBuffer,
    ) -> (&'s [u8], Option<Unreadable>) {
        let id = block.id();
        let buffer = self.slots[id.0 as usize].read().clone();
        if let Some(buffer) = buffer {
            return (copy_to(buffer.complete(wblocks), scratch), None);
        }
        index::assert_no_lock_held();
        let block = scratch.of_size(WBLOCK_SIZE as usize);
        let started = self.benchmarks.start();
        let unreadable = partial_read::read_wblock(&*self.media.main, id, block);
        self.benchmarks.end(Transfer::LargeBlockRead, started);
        if unreadable.is_some() {
            self.read_errors.fetch_add(1, Relaxed);
        }
        (&block[..WBLOCK_SIZE as usize], unreadable)
    }

    /// The bytes of block `id` in memory, if there are any.
    pub(super) fn buffered<'s>(
        &self,
        id: WblockId,
        wblocks: &WblockTable,
        scratch: &'s mut DiskBuffer,
    ) -> Option<&'s [u8]> {
        let buffer = self.slots[id.0 as usize].read().clone()?;
        Some(copy_to(buffer.complete(wblocks), scratch))
    }

    /// The bytes of block `id` on disk.
    pub(super) fn on_disk<'s>(
        &self,
        id: WblockId,
        scratch: &'s mut DiskBuffer,
    ) -> Result<&'s [u8], BlockError> {
        index::assert_no_lock_held();
        let block = scratch.of_size(WBLOCK_SIZE as usize);
        self.media.main.read_at(wblock_offset(id), block, 0..WBLOCK_SIZE as usize)?;
        Ok(&block[..WBLOCK_SIZE as usize])
    }

    /// Whether the record at `location` is on disk. The answer may lag behind.
    pub(super) fn is_durable(&self, location: Location) -> bool {
        let (id, offset) = wblock_place(location);
        let end = offset + location.rblock_count() * RBLOCK_SIZE;
        self.slots[id.0 as usize].read().as_ref().is_none_or(|buffer| buffer.flushed() >= end)
    }

    /// The buffer of the block that holds `location`, while it has one.
    pub(super) fn buffer_of(&self, location: Location) -> Option<Arc<WriteBuffer>> {
        self.slots[wblock_place(location).0.0 as usize].read().clone()
    }

    /// Empties the slot of `buffer`, whose block is on disk and not cached. Reads go to disk from now on.
    pub(super) fn empty_slot(&self, buffer: &Arc<WriteBuffer>) {
        let mut slot = self.slots[buffer.id().0 as usize].write();
        // The block may have been freed and taken again since.
        if slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, buffer)) {
            *slot = None;
        }
    }
}

/// Makes a block in `scratch` that begins with `bytes`, followed by zeros.
fn copy_to<'s>(bytes: &[u8], scratch: &'s mut DiskBuffer) -> &'s [u8] {
    let block = &mut scratch.of_size(WBLOCK_SIZE as usize)[..WBLOCK_SIZE as usize];
    block[..bytes.len()].copy_from_slice(bytes);
    block[bytes.len()..].fill(0);
    block
}
