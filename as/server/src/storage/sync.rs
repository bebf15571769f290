//! What survives a power failure on a medium that does not make each write durable, as a plain file does not.
//!
//! The system writes a file's pages back when it likes and in any order. So the medium is synced once in `flush-max-ms`, and
//! a power failure costs what was written since. It must not cost more: a block that became free is written again only when
//! everything that replaced its records is durable. Blocks are numbered as they are taken. What replaced the records of a
//! free block is in blocks up to the number that was taken last when it became free, and the flush thread writes in that order
//! (`flush`). So before it writes a block again it asks whether the blocks up to that number were synced since, and syncs if
//! not: one sync does for all blocks that were freed before.
//!
//! A sync covers the writes that had returned when it began, and counts when it has returned itself. Who needs a sync waits for
//! the one that runs; if that began before the write in question, another one follows.
//!
//! # When a sync fails
//! The system forgets then what it could not write: the next sync says that all is well, and what was written since the last
//! good one may be on the medium or not. Its buffers are gone. So such a disk takes no writes any more, nothing on it is
//! freed or written over for what may be lost, and the header does not say that the server was stopped cleanly. Reads go on.
//! A restart loads what is on the medium.
//!
//! # Threads and locks
//! One thread for each such disk syncs in turns. The flush thread syncs, with the `flush` lock, when it must. One sync runs at
//! a time, under a lock of its own.

use std::sync::atomic::Ordering::*;
use std::time::{Duration, Instant};

use cf::sys::block::{BlockError, BlockMedium};

use super::disk::Disk;
use super::durability::{Durability, SyncFailure};

/// Between syncs when `flush-max-ms` asks for none, and looks whether the server stops.
const IDLE_PERIOD: Duration = Duration::from_secs(1);

impl Disk {
    /// Notes a write to the media that has returned.
    pub(super) fn note_written(&self) {
        self.durability.writes.fetch_add(1, Release);
    }

    /// All that was in blocks up to `number` when the block behind it was taken is written.
    pub(super) fn note_written_through(&self, number: u64) {
        self.durability.written.fetch_max(number, AcqRel);
    }

    /// Makes sure that a block may be written again that was freed after block `number` was taken; blocks up to that one are
    /// written.
    pub(super) fn sync_through(&self, number: u64) -> Result<(), BlockError> {
        if !self.media.is_volatile {
            return Ok(());
        }
        self.sync_unless(|durability| number <= durability.synced.load(Acquire))
    }

    /// Makes all writes durable that have returned, if they are not by themselves.
    pub(super) fn sync_if_volatile(&self) -> Result<(), BlockError> {
        if !self.media.is_volatile {
            return Ok(());
        }
        let writes = self.durability.writes.load(Acquire);
        self.sync_unless(|durability| writes <= durability.synced_writes.load(Acquire))
    }

    /// Makes durable what was written to the header on `medium`, one of its media.
    pub(super) fn sync_header(&self, medium: &dyn BlockMedium) -> Result<(), BlockError> {
        // The system tells a failure once, whoever asks.
        let _running = self.durability.running.lock();
        medium.sync().inspect_err(|error| self.note_sync_failure(error))
    }

    /// What came of its syncs so far.
    ///
    /// # Errors
    /// When one has failed: then what was written since the last good one may be lost.
    pub(super) fn check_syncs(&self) -> Result<(), BlockError> {
        self.durability.failure.get().map_or(Ok(()), |failure| Err(failure.error()))
    }

    /// Whether a sync has failed: the disk takes no writes until a restart.
    pub(super) fn has_sync_failed(&self) -> bool {
        self.durability.failure.get().is_some()
    }

    fn note_sync_failure(&self, error: &BlockError) {
        // Of media that make each write durable nothing is lost.
        if self.media.is_volatile {
            self.durability.failure.get_or_init(|| SyncFailure::of(error));
        }
    }

    /// Makes all writes durable that have returned, unless a sync that has ended did enough, as `is_done` says.
    fn sync_unless(&self, is_done: impl Fn(&Durability) -> bool) -> Result<(), BlockError> {
        let durability = &self.durability;
        if is_done(durability) {
            return Ok(());
        }
        let _running = durability.running.lock();
        // The sync that was waited for may have done it.
        if is_done(durability) {
            return Ok(());
        }
        self.check_syncs()?;
        let (writes, through) = (durability.writes.load(Acquire), durability.written.load(Acquire));
        self.media
            .written()
            .try_for_each(BlockMedium::sync)
            .inspect_err(|error| self.note_sync_failure(error))?;
        durability.synced_writes.fetch_max(writes, AcqRel);
        durability.synced.fetch_max(through, AcqRel);
        durability.syncs.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Body of the sync thread.
    pub(super) fn run_sync(&self) {
        let mut last = Instant::now();
        while !self.is_stopping.load(Acquire) {
            let period = self.settings.flush_max().unwrap_or(IDLE_PERIOD);
            std::thread::park_timeout(period.saturating_sub(last.elapsed()).min(IDLE_PERIOD));
            if last.elapsed() < period {
                continue;
            }
            cf::fault_point!("sync");
            if let Err(error) = self.sync_if_volatile() {
                self.fail(&error);
            }
            last = Instant::now();
        }
    }

    /// Syncs done so far.
    #[cfg(test)]
    pub(super) fn sync_count(&self) -> u64 {
        self.durability.syncs.load(Relaxed)
    }
}
