//! Defrag: moves the live records out of a sparsely filled block, and frees the block.
//!
//! Records that cannot be read are not moved. Their block is kept and not emptied again until they are
//! replaced or deleted, or until their disk has recovered from a failure. Other blocks are emptied meanwhile.

use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

use cf::Digest;
use datamodel::flat::{FlatRecord, HEADER_SIZE};

use super::RBLOCK_SIZE;
use super::device::Device;
use super::disk::Disk;
use super::engine::Storage;
use super::error::StorageError;
use super::partial_read::Unreadable;
use super::read_buffer::DiskBuffer;
use super::settings::low_water_bytes;
use super::wblock::{Emptying, WblockId, wblock_offset};
use crate::index::{Index, Location};

/// How often an idle defrag thread looks for work; the second value applies while requests wait for room.
const IDLE_PERIOD: Duration = Duration::from_secs(1);
const WAITING_PERIOD: Duration = Duration::from_millis(10);
/// How long a block must be free before its memory is given back to the system, and the largest number of
/// such blocks in one turn.
const IDLE_MEMORY: Duration = Duration::from_secs(10);
const DISCARDED_BLOCKS: usize = 16;
/// A block with a larger live share than this, in percent, is never emptied.
const WORTHWHILE_PCT: u32 = 95;

impl Storage {
    /// Body of defrag thread number `thread`: empties queued blocks until [`stop`](Self::stop).
    pub(crate) fn run_defrag(&self, thread: usize, index: &Index) {
        let Some(wake) = self.wakes.get(thread) else { return };
        let mut scratch = DiskBuffer::new();
        let devices = || self.devices.iter().skip(thread).step_by(self.wakes.len());
        devices().for_each(|device| device.set_can_gain(true));
        while !self.stopping.load(Acquire) {
            cf::fault_point!("defrag");
            let (mut emptied, mut waiting) = (0, 0);
            for device in devices() {
                if defrag_one(self, device, index, &mut scratch) {
                    emptied += 1;
                    self.rest_from_defrag(device);
                }
                waiting += self.release_waiting(device);
            }
            if emptied == 0 {
                devices().for_each(|device| device.discard_idle(IDLE_MEMORY, DISCARDED_BLOCKS));
                wake.wait(if waiting == 0 { IDLE_PERIOD } else { WAITING_PERIOD });
            }
        }
        devices().for_each(|device| self.release_all(device));
    }

    /// Empties queued blocks until `minimum_pct` of each device is free or nothing is left to do. Called at
    /// the start of the server, before there are writers and flush threads.
    pub(crate) fn defrag_until_available(&self, minimum_pct: u32, index: &Index) {
        let mut scratch = DiskBuffer::new();
        for device in &self.devices {
            while device.available_pct() < minimum_pct
                && defrag_one(self, device, index, &mut scratch)
                && self.flush_full_blocks()
            {}
        }
    }
}

/// Empties one queued block of `device`, if more than `defrag-queue-min` wait. If very few blocks are free,
/// it may also empty one that is not queued: writing much is better than refusing writes, as long as it
/// helps. Returns whether it emptied a block.
pub(super) fn defrag_one(
    storage: &Storage,
    device: &Device,
    index: &Index,
    scratch: &mut DiskBuffer,
) -> bool {
    if device.as_disk().is_some_and(Disk::is_backlogged) {
        // Records that were moved now would only wait in memory.
        return false;
    }
    let queue_min = storage.settings.defrag_queue_min();
    let next = device.wblocks.next_to_defrag(queue_min).or_else(|| next_for_want_of_room(storage, device));
    let Some(emptying) = next else { return false };
    device.expect_gain();
    device.count_defrag_read();
    let (block, unreadable) = device.wblock(&emptying, scratch);
    match move_live_records(storage, device, index, (emptying.id(), block), unreadable.as_ref()) {
        Ok(()) => {
            device.emptied(emptying, unreadable.as_ref());
            true
        }
        // There is no room for the records, or their target disk has failed.
        Err(_) => {
            device.wblocks.put_back(emptying);
            false
        }
    }
}

/// The next block to empty if very few blocks are free: a queued block even if few wait, otherwise the
/// emptiest block, as long as that makes room. Writers wait for it meanwhile, and are refused if it does not
/// help.
fn next_for_want_of_room(storage: &Storage, device: &Device) -> Option<Emptying> {
    if !storage.is_short(device) {
        device.set_can_gain(true);
        return None;
    }
    let (next, is_above_mark) = look_for_room(device);
    if is_above_mark {
        device.count_defrag_above_lwm();
        cf::info_limited!(
            Storage,
            "{}: {} write blocks are free: defrag empties the emptiest ones, above defrag-lwm-pct too, and writers \
             wait for it",
            device.name(),
            device.wblocks.free_count()
        );
    }
    next
}

/// Takes the best block to empty, and tells the device whether there is one. The second value tells whether
/// the block's live share exceeds `defrag-lwm-pct`.
fn look_for_room(device: &Device) -> (Option<Emptying>, bool) {
    // A block that a writer closes after this check may make room, so writers must not close one before the
    // result is set.
    let _held = device.hold_open_block();
    let mut next = device.wblocks.next_to_defrag(0);
    let is_forced = next.is_none()
        && device.may_force_defrag()
        && device.wblocks.queue_emptiest(low_water_bytes(WORTHWHILE_PCT));
    if is_forced {
        next = device.wblocks.next_to_defrag(0);
    }
    device.set_can_gain(next.is_some());
    let is_above_mark = is_forced && next.is_some();
    (next, is_above_mark)
}

/// Records looked up together, so that their sprigs and elements are loaded from memory in parallel.
const LOOK_AHEAD: usize = 16;
/// Number of bytes of a block after which defrag sleeps, as `defrag-sleep` requires.
const PIECE_SIZE: usize = 1 << 20;

/// A record of the block being emptied.
struct Found<'a> {
    offset: usize,
    digest: Digest,
    bytes: &'a [u8],
}

/// Moves the records of `block`, which has number `id`, that can be read and whose element still points here.
fn move_live_records(
    storage: &Storage,
    device: &Device,
    index: &Index,
    (id, block): (WblockId, &[u8]),
    unreadable: Option<&Unreadable>,
) -> Result<(), StorageError> {
    let mut records = Records { block, offset: 0, may_be_damaged: device.as_disk().is_some() };
    let (mut group, mut next_rest) = (Vec::with_capacity(LOOK_AHEAD), PIECE_SIZE);
    loop {
        group.clear();
        group.extend(records.by_ref().take(LOOK_AHEAD));
        let Some(last) = group.last() else { return Ok(()) };
        if last.offset >= next_rest {
            next_rest += PIECE_SIZE;
            storage.rest_from_defrag(device);
        }
        group.iter().for_each(|found| index.prefetch_sprig(&found.digest));
        group.iter().for_each(|found| index.prefetch_element(&found.digest));
        for found in &group {
            let offset = wblock_offset(id) + found.offset as u64;
            if unreadable.is_some_and(|unreadable| unreadable.concerns(offset, found.bytes.len())) {
                continue;
            }
            let rblock = offset / u64::from(RBLOCK_SIZE);
            let place = Location::new(device.number(), rblock, found.bytes.len() as u32 / RBLOCK_SIZE);
            if let Some(mut guard) = index.get_exclusive(&found.digest) {
                storage.move_record(&mut guard, place, found.bytes)?;
            }
        }
    }
}

/// Iterates over the records of a block in order. Where no record begins, it searches in steps of 16 bytes,
/// because a block that was used before may hold old bytes between new records.
///
/// It must find every record that a start found. Therefore only whole records are accepted on a disk: one
/// whose write was cut short by a crash may extend over records of the block's former life, and some of these
/// may be alive. A record that was damaged later stays in place, and so does its block.
struct Records<'a> {
    block: &'a [u8],
    offset: usize,
    may_be_damaged: bool,
}

impl<'a> Iterator for Records<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        while self.offset + HEADER_SIZE <= self.block.len() {
            let offset = self.offset;
            match FlatRecord::parse(&self.block[offset..]) {
                Ok(record) if !self.may_be_damaged || record.verify().is_ok() => {
                    self.offset += record.size;
                    let bytes = &self.block[offset..offset + record.size];
                    return Some(Found { offset, digest: record.digest, bytes });
                }
                _ => self.offset += RBLOCK_SIZE as usize,
            }
        }
        None
    }
}
