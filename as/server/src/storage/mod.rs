//! Storage of records: one log-structured engine.
//!
//! A namespace has a number of devices, which are memory stripes if it is kept in memory. A device is a row
//! of 8 MiB write blocks, the first of which belongs to the device header. Records are appended to the
//! device's current write block. An index element points to its record; a record to which its element no
//! longer points is garbage. Blocks without live records are free again. Defrag empties blocks with few live
//! records, by appending these to another block.
//!
//! `storage` knows index elements and bytes, but no sockets or requests.
//!
//! # Locking
//! Callers hold the record's sprig lock, except while a record is read from a disk (`fetch.rs`). Inside it
//! locks are taken in this order: the mutex of a device's stream, `flush` (by a writer only where
//! `commit-to-device` waits, or no free block's memory is ready), the mutex of a running sync, `dirty`, a
//! block's slot, the mutex of the write block queues, that of spare buffers, that of the queue of waiting
//! requests. Defrag takes a sprig lock only while it holds none of them.

mod benchmarks;
mod block_state;
mod buffer;
mod callers;
mod check;
#[cfg(test)]
mod crash_harness;
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
mod fetch;
mod figures;
mod flush;
mod header;
mod headers;
#[cfg(test)]
mod headers_tests;
mod health;
mod huge_pages;
mod judge;
mod load;
mod media;
mod medium;
mod open;
mod partial_read;
mod peek;
mod read_buffer;
mod reclaim;
mod reservation;
mod room;
mod settings;
mod shadow;
mod stripe;
mod suspect;
mod sync;
#[cfg(test)]
mod sync_tests;
#[cfg(test)]
mod tests;
mod waiting;
mod wblock;

pub(crate) use callers::DiskCaller;
pub(crate) use check::{check_backings, shared_backings};
pub(crate) use device::DeviceStats;
pub(crate) use disk::{DiskStats, DurableWait};
pub(crate) use engine::{Room, Storage};
pub(crate) use error::{OpenError, StorageError};
pub(crate) use fetch::FETCHES_MAX;
pub(crate) use load::{LoadCommit, LoadContext, LoadStats};
pub(crate) use open::OpenSettings;
pub(crate) use read_buffer::{ReadBuffer, into_unpacked, unpacked};
pub(crate) use room::RoomWait;

/// Size of a write block.
pub(crate) const WBLOCK_SIZE: u32 = 8 << 20;
/// Unit of record places and sizes.
pub(crate) const RBLOCK_SIZE: u32 = datamodel::flat::RBLOCK_SIZE as u32;
/// Largest number of write blocks of a disk that only defrag may take, so that it can always make room. A
/// small disk reserves a share of its blocks, but never fewer than defrag needs.
const DISK_RESERVE_MAX: usize = 8;
const DISK_RESERVE_SHARE: usize = 16;
const DISK_RESERVE_MIN: usize = 2;
const RBLOCKS_PER_WBLOCK: u64 = (WBLOCK_SIZE / RBLOCK_SIZE) as u64;

/// Number of write blocks that only defrag may take, of a disk of `count`.
fn disk_reserve(count: u32) -> usize {
    (count as usize / DISK_RESERVE_SHARE).clamp(DISK_RESERVE_MIN, DISK_RESERVE_MAX)
}
