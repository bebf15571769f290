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
mod encryption;
mod engine;
mod flush;
mod header;
mod headers;
#[cfg(test)]
mod headers_tests;
mod health;
mod load;
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
mod wblock;

pub(crate) use check::check_backings;
pub(crate) use device::DeviceStats;
pub(crate) use disk::{DiskStats, DurableWait};
pub(crate) use engine::{Room, Storage, StorageError, unpacked};
pub(crate) use load::{LoadCommit, LoadContext, LoadStats};
pub(crate) use open::{OpenError, OpenSettings};
pub(crate) use room::RoomWait;

use cf::aligned::AlignedBuf;
use datamodel::packing::Unpacker;

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
    pub(crate) fn new() -> Self {
        ReadBuffer { stored: DiskBuffer::new(), unpacker: Unpacker::default() }
    }
}

/// Bytes read from a disk; grows to the most.
pub(crate) struct DiskBuffer(Option<AlignedBuf>);

impl DiskBuffer {
    fn new() -> Self {
        DiskBuffer(None)
    }

    /// The buffer, with room for `size` bytes at least.
    fn of_size(&mut self, size: usize) -> &mut AlignedBuf {
        if self.0.as_ref().is_some_and(|buffer| buffer.len() < size) {
            self.0 = None;
        }
        self.0.get_or_insert_with(|| AlignedBuf::zeroed(size.max(READ_BUFFER_SIZE).next_power_of_two()))
    }
}
