//! Where records are kept: one log-structured engine.
//!
//! A namespace has a number of devices (memory stripes when it is kept in memory). A device is a row of 8 MiB write
//! blocks, of which the first belongs to the device header. Records are appended to the device's current write block;
//! an index element says where its record is; a record whose element no longer points to it is garbage. Blocks without
//! live records are free again; blocks with few are emptied by defrag, which appends what lives elsewhere.
//!
//! `storage` knows index elements and bytes, never sockets or requests.
//!
//! # Locking
//! Callers hold the record's sprig lock. Inside it, in this order: the mutex of a device's stream, `flush` (by a writer only
//! where `commit-to-device` waits, or no free block's memory is ready), `dirty`, a block's slot, the mutex of the write block
//! queues, the one of spare buffers, the one of those who wait for room. Defrag takes a sprig lock only while it holds none of them.

mod benchmarks;
mod block_state;
mod buffer;
mod callers;
mod check;
#[cfg(test)]
mod crash_medium;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
mod defrag;
mod device;
mod disk;
mod durability;
mod encryption;
mod engine;
mod erase;
mod error;
mod figures;
mod flush;
mod header;
mod headers;
#[cfg(test)]
mod headers_tests;
mod health;
mod judge;
mod load;
mod media;
mod medium;
mod open;
mod partial_read;
mod peek;
mod reclaim;
mod reservation;
mod room;
mod settings;
mod shadow;
mod stripe;
mod suspect;
mod sync;
#[cfg(test)]
mod tests;
mod waiting;
mod wblock;

pub(crate) use callers::DiskCaller;
pub(crate) use check::check_backings;
pub(crate) use device::DeviceStats;
pub(crate) use disk::{DiskStats, DurableWait};
pub(crate) use engine::{Room, Storage, unpacked};
pub(crate) use error::{OpenError, StorageError};
pub(crate) use load::{LoadCommit, LoadContext, LoadStats};
pub(crate) use open::OpenSettings;
pub(crate) use room::RoomWait;

use std::ops::Range;

use cf::aligned::AlignedBuf;
use datamodel::packing::Unpacker;

use crate::index::Location;

/// First size of a [`ReadBuffer`].
const READ_BUFFER_SIZE: usize = 16 << 10;
/// Size of a write block.
pub(crate) const WBLOCK_SIZE: u32 = 8 << 20;
/// Unit of record places and sizes.
pub(crate) const RBLOCK_SIZE: u32 = datamodel::flat::RBLOCK_SIZE as u32;
/// Write blocks of a disk that only defrag may take, so that it can always make room: at most these, on a small disk one of
/// so many, and never fewer than it needs.
const DISK_RESERVE_MAX: usize = 8;
const DISK_RESERVE_SHARE: usize = 16;
const DISK_RESERVE_MIN: usize = 2;
const RBLOCKS_PER_WBLOCK: u64 = (WBLOCK_SIZE / RBLOCK_SIZE) as u64;

/// Write blocks that only defrag may take, of a disk of `count`.
fn disk_reserve(count: u32) -> usize {
    (count as usize / DISK_RESERVE_SHARE).clamp(DISK_RESERVE_MIN, DISK_RESERVE_MAX)
}

/// A thread's buffers for records that are not read in place: from a disk, and unpacked. They take no memory before the first.
pub(crate) struct ReadBuffer {
    pub(crate) stored: DiskBuffer,
    pub(crate) unpacker: Unpacker,
}

impl ReadBuffer {
    /// Those of a thread that waits for disks itself.
    pub(crate) fn new() -> Self {
        Self::of(DiskCaller::Other)
    }

    /// Those of a thread of `caller`.
    pub(crate) fn of(caller: DiskCaller) -> Self {
        ReadBuffer { stored: DiskBuffer::of(caller), unpacker: Unpacker::default() }
    }

    /// Whether a record was not read since the last [`take_stuck`](Self::take_stuck), as its disk is stuck.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stored.stuck.is_some()
    }

    /// The device of the last record that was not read, as its disk is stuck, if there was one since the last call.
    pub(crate) fn take_stuck(&mut self) -> Option<u8> {
        self.stored.stuck.take()
    }

    /// Forgets which record it has.
    #[inline]
    pub(crate) fn forget(&mut self) {
        self.stored.record = None;
    }

    /// The record of `location`, not packed, if it was read from a disk since all was [forgotten](Self::forget): for the
    /// holder of a guard who has forgotten what was read before it had that.
    pub(crate) fn reread(&mut self, location: Location) -> Option<&[u8]> {
        let (_, range) = self.stored.record.as_ref().filter(|(own, _)| own.same_place(location))?;
        let bytes = self.stored.bytes.as_deref()?.get(range.clone())?;
        unpacked(bytes, &mut self.unpacker).ok()
    }
}

/// Bytes read from a disk; grows to the most.
pub(crate) struct DiskBuffer {
    bytes: Option<AlignedBuf>,
    /// The record that was read last, if it was one, and where in the buffer it is.
    record: Option<(Location, Range<usize>)>,
    caller: DiskCaller,
    /// Where calls are noted that are under way.
    slot_hint: usize,
    /// The device that was not read, as its disk is stuck.
    stuck: Option<u8>,
}

impl DiskBuffer {
    fn new() -> Self {
        Self::of(DiskCaller::Other)
    }

    fn of(caller: DiskCaller) -> Self {
        DiskBuffer { bytes: None, record: None, caller, slot_hint: 0, stuck: None }
    }

    /// The bytes at `range`, which are the record of `location`.
    fn keep_record(&mut self, location: Location, range: Range<usize>) -> &[u8] {
        self.record = Some((location, range.clone()));
        self.bytes.as_deref().and_then(|bytes| bytes.get(range)).unwrap_or_default()
    }

    /// The buffer, with room for `size` bytes at least.
    fn of_size(&mut self, size: usize) -> &mut AlignedBuf {
        self.record = None;
        if self.bytes.as_ref().is_some_and(|buffer| buffer.len() < size) {
            self.bytes = None;
        }
        self.bytes.get_or_insert_with(|| AlignedBuf::zeroed(size.max(READ_BUFFER_SIZE).next_power_of_two()))
    }
}
