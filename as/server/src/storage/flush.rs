//! Flushing: blocks are filled in memory and written to disk in an order that survives a crash at any moment.
//!
//! # Crash safety
//! A block is freed when its last live record was replaced. The replacements may still be in memory, so
//! overwriting the block on disk at once could lose both. The order of writes prevents this. Buffers are
//! numbered in the order in which their blocks were taken, and *before a buffer is written, every buffer with
//! a lower number is written, as far as it is filled*. A replacement is in a buffer that was taken before the
//! old block was freed, and thus before that block was taken again. A replacement on another disk, which
//! happens after disks were added, is outside of this order. In this case the old place is freed only when
//! the new one is on its disk.
//!
//! A flush ends at the highest number that exists when it begins: the replacements on which a block with a
//! higher number depends may be in a buffer that the flush has already passed.
//!
//! # Failure of a disk
//! Writes are refused and reads continue. Unwritten data stays in memory and is written again each second, so
//! that a disk that was full or unreachable for a moment continues where it stopped. After a failed sync it
//! does not continue: see `sync`.
//!
//! # Threads and locks
//! One flush thread for each disk. With commit-to-device it takes up all present
//! [waits](super::disk::DurableWait), and one flush serves them all; meanwhile the next ones gather. Threads
//! that may wait, such as those of batches and queries, flush themselves. `flush` admits one thread at a
//! time. Order: `flush`, then `dirty`, then a slot or `waits`. Stream locks are taken before these and never
//! inside them.

use std::ops::Bound::{Excluded, Included};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::time::{Duration, Instant};

use cf::aligned::AlignedBuf;
use cf::sys::block::{BlockError, BlockMedium};
use datamodel::flat::{FlatRecord, MAGIC};

use super::benchmarks::Transfer;
use super::buffer::WriteBuffer;
use super::disk::{DeferredFree, Dirty, Disk, DurableWait, FlushState};
use super::reservation::Stream;
use super::wblock::{WblockTable, wblock_offset};
use super::{RBLOCK_SIZE, WBLOCK_SIZE};
use crate::index::Location;

/// Time between attempts to write to a failed disk, and between checks of an idle one.
const IDLE_PERIOD: Duration = Duration::from_secs(1);
/// How often the log repeats that a disk has failed.
const FAILURE_LOG_PERIOD: Duration = Duration::from_secs(10);

impl Disk {
    /// Waits until the record at `location` is on disk. Flushes if no other thread does.
    pub(super) fn settle(&self, location: Location, wblocks: &WblockTable) -> Result<(), BlockError> {
        if self.is_durable(location) {
            return Ok(());
        }
        let mut state = self.flush.lock();
        match self.buffer_of(location) {
            // If the block was taken again, the record's replacement has a lower number.
            Some(buffer) if !self.is_durable(location) => {
                self.flush_to(&mut state, buffer.sequence(), wblocks)
            }
            _ => Ok(()),
        }
    }

    /// Makes the flush thread write the records of `wait` next.
    pub(super) fn when_durable(&self, wait: DurableWait) {
        self.waits.lock().push(wait);
        // The flush thread checks for waits under this lock before it sleeps.
        drop(self.dirty.lock());
        self.work.notify_all();
    }

    /// Writes out everything, to the last record.
    pub(super) fn flush_all(&self, wblocks: &WblockTable) -> Result<(), BlockError> {
        let mut state = self.flush.lock();
        self.flush_to(&mut state, u64::MAX, wblocks)
    }

    /// Writes out all full blocks. `free` gets the places that become garbage then.
    pub(super) fn flush_full(
        &self,
        wblocks: &WblockTable,
        free: impl Fn(Location),
    ) -> Result<(), BlockError> {
        self.flush_closed(wblocks)?;
        self.free_deferred(free);
        Ok(())
    }

    /// Body of the flush thread. `free` gets the places that become garbage by its writes. `recovered` is
    /// called when the disk can be written again.
    pub(super) fn run_flush(&self, wblocks: &WblockTable, free: impl Fn(Location), recovered: impl Fn()) {
        let mut last_full_flush = Instant::now();
        while !self.is_stopping.load(Acquire) {
            cf::fault_point!("flush");
            let flush_max = self.settings.flush_max();
            let period = flush_max.unwrap_or(IDLE_PERIOD);
            self.await_work(period.saturating_sub(last_full_flush.elapsed()).min(IDLE_PERIOD));
            let is_due = flush_max.is_some() && last_full_flush.elapsed() >= period;
            let waits = std::mem::take(&mut *self.waits.lock());
            let result = if is_due || self.has_failed() {
                last_full_flush = Instant::now();
                self.flush_all(wblocks)
            } else {
                self.flush_for(&waits, wblocks)
            };
            if let Err(error) = &result {
                self.fail(error);
            }
            self.end_waits(waits);
            let is_there = || self.media.written().try_for_each(BlockMedium::check);
            // After a failed sync the disk does not recover, whatever works now.
            match result.and_then(|()| is_there()).and_then(|()| self.check_syncs()) {
                Ok(()) => {
                    if self.recover() {
                        recovered();
                    }
                }
                Err(error) => {
                    self.fail(&error);
                    self.await_retry();
                }
            }
            self.free_deferred(&free);
        }
        // Threads that are still at work at a stop may add further waits. Their results are reported to no
        // one.
        let waits = std::mem::take(&mut *self.waits.lock());
        if let Err(error) = self.flush_for(&waits, wblocks) {
            self.fail(&error);
        }
        self.end_waits(waits);
    }

    /// Reports the results to the waits, after a flush for them.
    fn end_waits(&self, waits: Vec<DurableWait>) {
        for DurableWait { locations, done } in waits {
            let is_lost = |at: &usize| !self.is_durable(locations[*at]);
            let lost: Vec<usize> = (0..locations.len()).filter(is_lost).collect();
            done(&lost);
        }
    }

    /// Waits for a full block or for a wait, for at most `longest`.
    fn await_work(&self, longest: Duration) {
        let mut dirty = self.dirty.lock();
        let is_idle = self.closed_count.load(Relaxed) == 0 && self.waits.lock().is_empty();
        if is_idle && !longest.is_zero() && !self.is_stopping.load(Acquire) {
            self.work.wait_for(&mut dirty, longest);
        }
    }

    fn await_retry(&self) {
        let (mut dirty, started) = (self.dirty.lock(), Instant::now());
        while started.elapsed() < IDLE_PERIOD
            && self.waits.lock().is_empty()
            && !self.is_stopping.load(Acquire)
        {
            self.work.wait_for(&mut dirty, IDLE_PERIOD);
        }
    }

    /// Ends [`run_flush`](Self::run_flush).
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Release);
        let _dirty = self.dirty.lock();
        self.work.notify_all();
    }

    /// Notes that writing failed: reads continue, and writes are refused. The log repeats this while it
    /// lasts.
    pub(super) fn fail(&self, error: &BlockError) {
        let mut told = self.failure_told.lock();
        if self.failed.swap(true, Relaxed) && told.is_some_and(|told| told.elapsed() < FAILURE_LOG_PERIOD) {
            return;
        }
        *told = Some(Instant::now());
        let bytes: u64 =
            self.dirty.lock().values().map(|entry| u64::from(entry.buffer.unwritten_bytes())).sum();
        if self.has_sync_failed() {
            cf::critical!(
                Storage,
                "{error}: writes are refused until the server is restarted, because writes since the last good sync of \
                 the disk may be lost; look for its fault in the system's log, replace it if it is broken, and restart the \
                 server, which loads what is there; {bytes} bytes of records are in memory only"
            );
        } else {
            cf::critical!(
                Storage,
                "{error}: writes are refused until it can be written to again; {bytes} bytes of records are in memory only"
            );
        }
    }

    /// Number of records in memory that are not on the disk, and their bytes. Other threads may write them meanwhile.
    pub(super) fn unwritten(&self, wblocks: &WblockTable) -> (u64, u64) {
        let dirty = self.dirty.lock();
        let buffers: Vec<_> = dirty.values().map(|entry| Arc::clone(&entry.buffer)).collect();
        drop(dirty);
        let (mut records, mut bytes) = (0, 0);
        for buffer in buffers {
            let complete = buffer.complete(wblocks);
            let mut rest = complete.get(buffer.flushed() as usize..).unwrap_or_default();
            bytes += rest.len() as u64;
            while let Some(size) = FlatRecord::stated_size(rest).filter(|size| *size <= rest.len()) {
                (records, rest) = (records + 1, &rest[size..]);
            }
        }
        (records, bytes)
    }

    /// Notes that writing succeeded. Returns whether it had failed before.
    fn recover(&self) -> bool {
        // `fail` takes this lock too, so that a sync that fails right now is not missed.
        let _told = self.failure_told.lock();
        let had_failed = !self.has_sync_failed() && self.failed.swap(false, Relaxed);
        if had_failed {
            cf::warning!(Storage, "{}: can be written to again", self.media.main.path().display());
        }
        had_failed
    }

    /// Frees `garbage`, on another device, once `replacement` is on disk.
    pub(super) fn defer_free(&self, replacement: Location, garbage: Location) {
        self.deferred.lock().push(DeferredFree { replacement, garbage });
    }

    fn free_deferred(&self, free: impl Fn(Location)) {
        let mut deferred = self.deferred.lock();
        if deferred.is_empty() {
            return;
        }
        let due: Vec<DeferredFree> =
            deferred.extract_if(.., |entry| self.is_durable(entry.replacement)).collect();
        drop(deferred);
        if !due.is_empty()
            && let Err(error) = self.sync_if_volatile()
        {
            self.fail(&error);
            return self.deferred.lock().extend(due);
        }
        due.into_iter().for_each(|entry| free(entry.garbage));
    }

    fn flush_closed(&self, wblocks: &WblockTable) -> Result<(), BlockError> {
        self.flush_for(&[], wblocks)
    }

    /// Writes out all full blocks, and the records of `waits`.
    fn flush_for(&self, waits: &[DurableWait], wblocks: &WblockTable) -> Result<(), BlockError> {
        let mut state = self.flush.lock();
        let closed =
            self.dirty.lock().iter().rev().find(|(_, entry)| entry.is_closed).map(|(sequence, _)| *sequence);
        // If a block was taken again, the record's replacement has a lower number.
        let awaited = waits.iter().flat_map(|wait| &wait.locations).filter(|place| !self.is_durable(**place));
        let awaited =
            awaited.filter_map(|place| self.buffer_of(*place)).map(|buffer| buffer.sequence()).max();
        match closed.max(awaited) {
            Some(sequence) => self.flush_to(&mut state, sequence, wblocks),
            None => Ok(()),
        }
    }

    /// Writes out the buffers up to number `last`, as far as they are filled, lower numbers first. It passes
    /// over them only once, because writers that fill them meanwhile would keep it busy for ever.
    fn flush_to(&self, state: &mut FlushState, last: u64, wblocks: &WblockTable) -> Result<(), BlockError> {
        // A block taken from now on may have been freed by a record in a buffer that this pass has already
        // passed.
        let newest = self.dirty.lock().last_key_value().map_or(0, |(sequence, _)| *sequence);
        let last = last.min(newest);
        let mut done = 0;
        while done < last {
            let next = {
                let dirty = self.dirty.lock();
                let pending = |entry: &&Dirty| entry.is_closed || entry.buffer.has_news();
                dirty
                    .range((Excluded(done), Included(last)))
                    .map(|(_, entry)| entry)
                    .find(pending)
                    .map(|entry| (Arc::clone(&entry.buffer), entry.is_closed, entry.stream))
            };
            let Some((buffer, is_closed, stream)) = next else { break };
            assert!(buffer.sequence() > done, "buffers are written out in their order");
            done = buffer.sequence();
            cf::fault_point!("write-block");
            self.note_written_through(done - 1);
            self.write_out(state, &buffer, wblocks, is_closed)?;
            if is_closed {
                self.dirty.lock().remove(&buffer.sequence());
                self.closed_count.fetch_sub(1, Relaxed);
                self.retire(state, buffer, stream == Stream::Write);
            } else {
                self.partial_writes[stream as usize].fetch_add(1, Relaxed);
            }
        }
        // Records that were added to the last buffer while it was written may be missing.
        self.note_written_through(last.saturating_sub(1));
        Ok(())
    }

    /// Writes the complete part of `buffer` that is not on disk. A full block is written to its end, with
    /// zeros after the records. Otherwise whole units are written, with the block's end mark after the
    /// records, so that stale bytes of the block's former life are not read as records.
    ///
    /// The unit that holds the previous end mark is written last, so that the new records become valid all at
    /// once. A block that begins a new life first gets an end mark at its start. With `commit-to-device` a
    /// record waits for each write, so there is only one: a crash may cut it short and leave a torn record.
    fn write_out(
        &self,
        state: &mut FlushState,
        buffer: &WriteBuffer,
        wblocks: &WblockTable,
        is_closed: bool,
    ) -> Result<(), BlockError> {
        let io_size = self.io_size();
        let content = buffer.complete(wblocks);
        let end = content.len() as u32;
        assert_begins_with_record(content, buffer);
        // The rest of a unit that was written before is written again, with the same bytes.
        let from = buffer.flushed() / io_size * io_size;
        let to = if is_closed { WBLOCK_SIZE } else { (end + RBLOCK_SIZE).next_multiple_of(io_size) };
        let (to, second) = (to.min(WBLOCK_SIZE), from + io_size);
        if buffer.flushed() == 0 {
            self.sync_through(buffer.freed_after())?;
        }
        if self.settings.commits() || second >= to {
            self.write_range(state, buffer, content, from..to)?;
        } else {
            if buffer.flushed() == 0 {
                self.write_range(state, buffer, &[], 0..io_size)?;
            }
            self.write_range(state, buffer, content, second..to)?;
            self.write_range(state, buffer, content, from..second)?;
        }
        buffer.set_flushed(end);
        Ok(())
    }

    /// Writes bytes `range` of the block of `buffer`, which holds `content`, then the end mark and zeros.
    fn write_range(
        &self,
        state: &mut FlushState,
        buffer: &WriteBuffer,
        content: &[u8],
        range: Range<u32>,
    ) -> Result<(), BlockError> {
        let flush_size = self.settings.flush_size();
        if state.piece.len() < flush_size {
            state.piece = AlignedBuf::zeroed(flush_size);
        }
        let (block_start, end) = (wblock_offset(buffer.id()), content.len());
        let mut at = range.start;
        while at < range.end {
            let size = (flush_size as u32).min(range.end - at);
            let rest = content.get(at as usize..).unwrap_or_default();
            let alive = rest.len().min(size as usize);
            let piece = &mut state.piece;
            piece[..alive].copy_from_slice(&rest[..alive]);
            piece[alive..size as usize].fill(0);
            if let Some(mark_at) = end.checked_sub(at as usize).filter(|mark_at| *mark_at < size as usize) {
                piece[mark_at..mark_at + RBLOCK_SIZE as usize]
                    .copy_from_slice(&self.end_mark(buffer.id()).at(end));
            }
            let offset = block_start + u64::from(at);
            for (medium, transfer) in self.media.written().zip([Transfer::Write, Transfer::ShadowWrite]) {
                assert_inside_records(medium, offset, size);
                let started = self.benchmarks.start();
                medium.write_at(offset, piece, 0..size as usize)?;
                self.benchmarks.end(transfer, started);
            }
            self.note_written();
            at += size;
        }
        Ok(())
    }

    /// Retires a buffer whose block is on disk: it is cached for reads, in place of the oldest cached one, or
    /// its memory is given back.
    fn retire(&self, state: &mut FlushState, buffer: Arc<WriteBuffer>, keep: bool) {
        let capacity = self.settings.cache_blocks();
        if keep && capacity > 0 && self.stripe().is_none() {
            state.cached.push_back(buffer);
        } else {
            self.empty_slot(&buffer);
        }
        while state.cached.len() > capacity {
            if let Some(oldest) = state.cached.pop_front() {
                self.empty_slot(&oldest);
            }
        }
    }
}

/// Asserts that data for the disk consists of whole units, and begins with a record.
fn assert_begins_with_record(content: &[u8], buffer: &WriteBuffer) {
    let unit = RBLOCK_SIZE as usize;
    assert!(
        content.len().is_multiple_of(unit) && content.len() <= WBLOCK_SIZE as usize,
        "a block of whole units"
    );
    if let Some(magic) = content.first_chunk::<4>() {
        assert_eq!(*magic, MAGIC.to_le_bytes(), "write block {} begins with a record", buffer.id().0);
    }
    debug_assert!(holds_only_records(content), "write block {} has whole records to its end", buffer.id().0);
}

/// Asserts that a write is inside the blocks of records of the medium, not in the header or beyond the end.
fn assert_inside_records(medium: &dyn BlockMedium, offset: u64, size: u32) {
    assert!(offset >= u64::from(WBLOCK_SIZE), "the first block belongs to the header");
    assert!(offset + u64::from(size) <= medium.size(), "a write ends inside the medium");
}

/// Whether `content` is a sequence of records, each with its end mark.
fn holds_only_records(mut content: &[u8]) -> bool {
    while !content.is_empty() {
        match FlatRecord::parse(content) {
            Ok(record) if record.verify().is_ok() => content = &content[record.size..],
            _ => return false,
        }
    }
    true
}
