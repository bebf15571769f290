//! Frees blocks, without writing, after a load that found very few free ones.
//!
//! Defrag leaves equal copies of the moved records in the blocks that it freed. A load cannot tell which of
//! them was alive when the server ended, and takes the first that it finds. Therefore blocks that were free
//! may have a few live bytes each after it, in the worst case all of them, but defrag itself needs free
//! blocks to write to. This module reads the blocks twice more: first to find how many bytes of each block
//! are copies that could be alive, then to choose, of equal copies, the one in the block that has most of
//! them.
//!
//! # Threads
//! Runs alone, before anything else uses the devices.

use datamodel::flat::FlatRecord;
use datamodel::wblock_scan::CopyAge;

use super::device::{Device, visit_records};
use super::load::age_of;
use super::read_buffer::DiskBuffer;
use super::wblock::WblockId;
use super::{DISK_RESERVE_MAX, RBLOCK_SIZE};
use crate::index::{Element, Index, Location};

/// A device with fewer free blocks than this is worth reading again.
const FREE_BLOCKS_ENOUGH: usize = 2 * DISK_RESERVE_MAX;

/// Frees blocks of `device` if very few are free. `pristine` is the first block that was never used.
pub(super) fn reclaim_at_start(device: &Device, pristine: u32, index: &Index) {
    let used = (1..pristine).filter(|id| !device.wblocks.is_empty(WblockId(*id))).count();
    if device.wblocks.count() as usize - used > FREE_BLOCKS_ENOUGH {
        return;
    }
    let mut candidate_bytes = vec![0u32; pristine as usize];
    visit(device, pristine, |place, record| {
        if index.get(&record.digest).is_some_and(|element| is_equal(&element, record)) {
            candidate_bytes[WblockId::of(place).0 as usize] += place.rblock_count() * RBLOCK_SIZE;
        }
    });
    visit(device, pristine, |place, record| {
        let Some(mut guard) = index.get_exclusive(&record.digest) else { return };
        let (from, to) = (guard.location, place.with_key_stored(guard.location.key_stored()));
        let bytes_around = |place: Location| candidate_bytes[WblockId::of(place).0 as usize];
        let is_alike = from.device() == to.device() && from.rblock_count() == to.rblock_count();
        if is_alike && bytes_around(to) > bytes_around(from) && is_equal(&guard, record) {
            for (place, is_alive) in [(from, false), (to, true)] {
                let size = place.rblock_count() * RBLOCK_SIZE;
                device.wblocks.load_bytes(WblockId::of(place), size, is_alive);
            }
            guard.meta_mut().location = to;
        }
    });
}

/// Calls `found` with all records on `device`, newest or not, except those that the load could not read and
/// has reported.
fn visit(device: &Device, pristine: u32, mut found: impl FnMut(Location, &FlatRecord<'_>)) {
    let Some(disk) = device.as_disk() else { return };
    let mut scratch = DiskBuffer::new();
    for id in (1..pristine).map(WblockId) {
        if let Ok(block) = disk.on_disk(id, &mut scratch) {
            visit_records(device, id, block, &mut found);
        }
    }
}

/// Whether `record` is a copy of the record that `element` points to.
fn is_equal(element: &Element, record: &FlatRecord<'_>) -> bool {
    CopyAge::of(record) == age_of(element)
}
