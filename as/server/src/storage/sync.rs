//! What survives a power failure on a medium that does not make each write durable, as a plain file does not.
//!
//! The system writes a file's pages back when it likes and in any order. So the medium is synced once in `flush-max-ms`, and
//! a power failure costs what was written since. It must not cost more: a block that became free is written again only when
//! everything that replaced its records is durable. Blocks are numbered as they are taken. What replaced the records of a
//! free block is in blocks up to the number that was taken last when it became free, and the flush thread writes in that order
//! (`flush`). So before it writes a block again it asks whether the blocks up to that number were synced since, and syncs if
//! not: one sync does for all blocks that were freed before.
//!
//! # Threads and locks
//! One thread for each such disk syncs in turns, without a lock. The flush thread syncs, with the `flush` lock, when it
//! must.

use std::sync::atomic::Ordering::*;
use std::time::{Duration, Instant};

use cf::sys::block::{BlockError, BlockMedium};

use super::disk::Disk;

/// Between syncs when `flush-max-ms` asks for none, and looks whether the server stops.
const IDLE_PERIOD: Duration = Duration::from_secs(1);

impl Disk {
    /// Notes a write to the media.
    pub(super) fn note_written(&self) {
        self.durability.is_dirty.store(true, Release);
    }

    /// All that was in blocks up to `number` when the block behind it was taken is written.
    pub(super) fn note_written_through(&self, number: u64) {
        self.durability.written.fetch_max(number, AcqRel);
    }

    /// Makes sure that a block may be written again that was freed after block `number` was taken; blocks up to that one are
    /// written.
    pub(super) fn sync_through(&self, number: u64) -> Result<(), BlockError> {
        if !self.media.is_volatile || number <= self.durability.synced.load(Acquire) {
            return Ok(());
        }
        self.sync_media()
    }

    /// Makes all completed writes durable, if they are not by themselves.
    pub(super) fn sync_if_volatile(&self) -> Result<(), BlockError> {
        let is_due = self.media.is_volatile && self.durability.is_dirty.load(Acquire);
        if is_due { self.sync_media() } else { Ok(()) }
    }

    /// Whether the last sync failed.
    pub(super) fn has_sync_failed(&self) -> bool {
        self.durability.has_failed.load(Relaxed)
    }

    fn sync_media(&self) -> Result<(), BlockError> {
        let durability = &self.durability;
        let through = durability.written.load(Acquire);
        durability.is_dirty.store(false, Release);
        let result = self.media.written().try_for_each(BlockMedium::sync);
        durability.has_failed.store(result.is_err(), Relaxed);
        match &result {
            Ok(()) => {
                durability.synced.fetch_max(through, AcqRel);
                durability.syncs.fetch_add(1, Relaxed);
            }
            Err(_) => durability.is_dirty.store(true, Release),
        }
        result
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
