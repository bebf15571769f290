//! Durability on a medium that does not make each write durable, such as a plain file.
//!
//! The system writes a file's pages back at any time and in any order. The medium is therefore synced once in
//! `flush-max-ms`, and a power failure loses the writes since then. It must not lose more: a free block is
//! overwritten only after everything that replaced its records is durable. Blocks are numbered as they are
//! taken. The replacements of a free block's records are in blocks up to the number taken last when it became
//! free, and the flush thread writes in that order (`flush`). Before it overwrites a block it checks whether
//! the blocks up to that number were synced since, and syncs if not. One sync serves all blocks that were
//! freed before it.
//!
//! A sync covers the writes that had returned when it began, and itself counts only after it has returned. A
//! thread that needs a sync waits for the running one; if that began before the write in question, another
//! one follows.
//!
//! # Failure of a sync
//! The system then forgets the data that it could not write: the next sync succeeds, but data written since
//! the last good one may or may not be on the medium, and its buffers are gone. Such a disk therefore takes
//! no writes any more, nothing on it is freed or overwritten in exchange for data that may be lost, and the
//! header is not marked as cleanly stopped. Reads continue. A restart loads what is on the medium.
//!
//! # Threads and locks
//! One thread for each such disk syncs in turns. The flush thread syncs under the `flush` lock if necessary.
//! One sync runs at a time, under a lock of its own.

use std::sync::atomic::Ordering::*;
use std::time::{Duration, Instant};

use cf::sys::block::{BlockError, BlockMedium};

use super::disk::Disk;
use super::durability::{Durability, SyncFailure};

/// Time between syncs if `flush-max-ms` is 0, and between checks whether the server stops.
const IDLE_PERIOD: Duration = Duration::from_secs(1);

impl Disk {
    /// Notes that a write to the media has returned.
    pub(super) fn note_written(&self) {
        self.durability.writes.fetch_add(1, Release);
    }

    /// Notes that blocks up to `number` are written, with the content that they had when the next block was
    /// taken.
    pub(super) fn note_written_through(&self, number: u64) {
        self.durability.written.fetch_max(number, AcqRel);
    }

    /// Makes sure that a block that was freed after block `number` was taken may be overwritten. Blocks up to
    /// that one are written already.
    pub(super) fn sync_through(&self, number: u64) -> Result<(), BlockError> {
        if !self.media.is_volatile {
            return Ok(());
        }
        self.sync_unless(|durability| number <= durability.synced.load(Acquire))
    }

    /// Makes all returned writes durable, unless each is durable by itself.
    pub(super) fn sync_if_volatile(&self) -> Result<(), BlockError> {
        if !self.media.is_volatile {
            return Ok(());
        }
        let writes = self.durability.writes.load(Acquire);
        self.sync_unless(|durability| writes <= durability.synced_writes.load(Acquire))
    }

    /// Makes writes to the header on `medium`, one of the disk's media, durable.
    pub(super) fn sync_header(&self, medium: &dyn BlockMedium) -> Result<(), BlockError> {
        // The system reports a failure only once, to any caller.
        let _running = self.durability.running.lock();
        medium.sync().inspect_err(|error| self.note_sync_failure(error))
    }

    /// The result of the disk's syncs so far.
    ///
    /// # Errors
    /// The error of a failed sync: writes since the last good sync may be lost.
    pub(super) fn check_syncs(&self) -> Result<(), BlockError> {
        self.durability.failure.get().map_or(Ok(()), |failure| Err(failure.error()))
    }

    /// Whether a sync has failed: the disk takes no writes until a restart.
    pub(super) fn has_sync_failed(&self) -> bool {
        self.durability.failure.get().is_some()
    }

    fn note_sync_failure(&self, error: &BlockError) {
        // On media that make each write durable nothing is lost.
        if self.media.is_volatile {
            self.durability.failure.get_or_init(|| SyncFailure::of(error));
        }
    }

    /// Makes all returned writes durable, unless an earlier sync was enough, as `is_done` tells.
    fn sync_unless(&self, is_done: impl Fn(&Durability) -> bool) -> Result<(), BlockError> {
        let durability = &self.durability;
        if is_done(durability) {
            return Ok(());
        }
        let _running = durability.running.lock();
        // The sync for which this thread waited may have been enough.
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

    /// Number of syncs so far.
    #[cfg(test)]
    pub(super) fn sync_count(&self) -> u64 {
        self.durability.syncs.load(Relaxed)
    }
}
