//! Cold start: the index is made again from the records on the disks.
//!
//! Every block is read, every record in it checked to its end mark. Of several copies of a record the newest counts, as
//! [`CopyAge`] says. Expired records take part, so that they win against older copies that had longer to live, and are
//! removed at the end; so do tombstones, which stay. A record newer than a tombstone leaves one when it goes. What is
//! damaged or cannot be read is left out, counted and logged with its place; what is whole in its block is loaded.
//!
//! Left out without a word are records of partitions that the header does not list as here, or lists under another tree
//! id: they were dropped as a whole.
//!
//! # Threads
//! One for each disk; the index is shared, block counts are atomics.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use cf::aligned::AlignedBuf;
use cf::sys::block::{BlockError, BlockMedium};
use datamodel::device_header::PartitionEntry;
use datamodel::flat::{FlatError, FlatRecord};
use datamodel::wblock_scan::{CopyAge, Piece, WblockScan, is_zero, starts_with_record};

use super::device::Device;
use super::disk::wblock_offset;
use super::open::{PEEK_SIZE, erase_former_use};
use super::partial_read::{self, Unreadable};
use super::wblock::WblockId;
use super::{RBLOCK_SIZE, WBLOCK_SIZE};
use crate::index::{CreateOutcome, Element, Index, Location, PartitionId, SetId};

/// So many blocks in a row that do not start with a record are the end of what was ever written.
pub(super) const UNUSED_BLOCKS_MAX: u32 = 10;
/// A record that expires later than this from now is not believed: ten years, in seconds.
const VOID_TIME_AHEAD_MAX: u32 = 315_360_000;

/// What to do about what was left out.
const ADVICE: &str = "restore it from a backup or write it again";

/// What is left of the former lives of write blocks on one disk.
#[derive(Default)]
struct StaleBytes {
    bytes: u64,
    count: u64,
    first: u64,
}

impl StaleBytes {
    /// `size` bytes at `offset` of the disk.
    fn add(&mut self, offset: u64, size: usize) {
        if self.count == 0 {
            self.first = offset;
        }
        self.bytes += size as u64;
        self.count += 1;
    }

    fn report(&self, medium: &dyn BlockMedium) {
        let StaleBytes { bytes, count, first } = self;
        if *count > 0 {
            let path = medium.path().display();
            cf::info!(
                DrvSsd,
                "{path}: passed over {bytes} bytes that are left of former records, in {count} places, the first at \
                 offset {first}"
            );
        }
    }
}

/// What a load found so far.
#[derive(Default)]
pub(crate) struct LoadStats {
    /// Records of which a copy was found.
    pub(crate) unique: AtomicU64,
    /// Copies that took the place of older ones.
    pub(crate) replaced: AtomicU64,
    /// Copies that were older than what was known.
    pub(crate) older: AtomicU64,
    /// Stretches of bytes that hold damaged records, or ones that cannot be believed, or cannot be read.
    pub(crate) damaged: AtomicU64,
    /// Records of partitions that are not here any more.
    pub(crate) dropped: AtomicU64,
}

/// What loading needs from the namespace.
pub(crate) trait LoadContext: Sync {
    /// The number of the set called `name`, created if need be; `None` if there cannot be such a set.
    fn set_id(&self, name: &[u8]) -> Option<SetId>;
    fn index(&self) -> &Index;
    fn now_seconds(&self) -> u32;
    fn stats(&self) -> &LoadStats;
}

/// One disk that is loaded.
pub(super) struct DiskLoad<'a> {
    pub(super) device: &'a Device,
    /// All devices: an older copy may be on another one.
    pub(super) devices: &'a [Device],
    /// Where to read.
    pub(super) source: &'a dyn BlockMedium,
    /// What gets a copy of every block: the other of a disk and its shadow, if it fell behind.
    pub(super) copy_to: Option<&'a dyn BlockMedium>,
    /// By partition: whether it is here, and its tree id.
    pub(super) partitions: &'a [PartitionEntry],
    /// Blocks below this one are in use, as the header of a clean stop says.
    pub(super) known_pristine: u32,
    /// Blocks looked at so far.
    pub(super) progress: &'a AtomicU32,
    pub(super) context: &'a dyn LoadContext,
}

impl DiskLoad<'_> {
    /// Loads the disk; gives the number of the first block never used, or that the copy failed.
    pub(super) fn run(&self) -> Result<u32, BlockError> {
        let mut block = AlignedBuf::zeroed(WBLOCK_SIZE as usize);
        let (mut unused_in_a_row, mut pristine) = (0, self.known_pristine.max(1));
        let mut stale = StaleBytes::default();
        let count = self.device.wblocks.count();
        for at in 1..count {
            self.progress.store(at, Relaxed);
            let id = WblockId(at);
            let unreadable = partial_read::read_wblock(self.source, id, &mut block);
            if let Some(unreadable) = &unreadable {
                self.report_unreadable(unreadable);
                pristine = pristine.max(at + 1);
            }
            if let Some(copy) = self.copy_to {
                self.copy_wblock(copy, id, &block)?;
            }
            // Whether it begins with a record or its first one is damaged: what is used is not pristine.
            if self.load_wblock(id, &block, unreadable.as_ref(), &mut stale) {
                (unused_in_a_row, pristine) = (0, pristine.max(at + 1));
            } else {
                unused_in_a_row += 1;
                if unused_in_a_row >= UNUSED_BLOCKS_MAX && at >= self.known_pristine {
                    self.copy_to.map_or(Ok(()), |copy| erase_former_use(copy, at + 1, count))?;
                    break;
                }
            }
        }
        self.progress.store(count, Relaxed);
        stale.report(self.source);
        Ok(pristine)
    }

    /// Copies a block. Of one without content only what the other medium holds there is erased: records that did not get
    /// to this one before a crash, and would come to light at a later start.
    fn copy_wblock(
        &self,
        copy: &dyn BlockMedium,
        id: WblockId,
        block: &AlignedBuf,
    ) -> Result<(), BlockError> {
        let (offset, size) = (wblock_offset(id), WBLOCK_SIZE as usize);
        if is_zero(block) {
            let mut peek = AlignedBuf::zeroed(PEEK_SIZE);
            copy.read_at(offset, &mut peek, 0..PEEK_SIZE)?;
            if !starts_with_record(&peek) {
                return Ok(());
            }
        }
        copy.write_at(offset, block, 0..size)
    }

    /// Loads the records of a block; gives whether there were any, whole or damaged.
    fn load_wblock(
        &self,
        id: WblockId,
        block: &[u8],
        unreadable: Option<&Unreadable>,
        stale: &mut StaleBytes,
    ) -> bool {
        let (mut is_used, mut headless_start) = (false, None);
        for piece in WblockScan::new(block) {
            match piece {
                Piece::Record { offset, record } => {
                    is_used = true;
                    let place = wblock_offset(id) + offset as u64;
                    let is_missing = |unreadable: &Unreadable| unreadable.concerns(place, record.size);
                    if !self.is_read_again() && unreadable.is_some_and(is_missing) {
                        self.report_damage(id, block, (offset, record.size), &"it cannot be read");
                        continue;
                    }
                    let rblock = place / u64::from(RBLOCK_SIZE);
                    let location =
                        Location::new(self.device.number(), rblock, record.size as u32 / RBLOCK_SIZE);
                    self.load_record(&record, location);
                }
                // If there is no record behind it, the block was perhaps never used by a server.
                Piece::Damage { offset: 0, size, reason: FlatError::Magic } => headless_start = Some(size),
                Piece::Damage { offset, size, reason } => {
                    is_used = true;
                    self.report_damage(id, block, (offset, size), &reason);
                }
                Piece::Stale { offset, size } => stale.add(wblock_offset(id) + offset as u64, size),
            }
        }
        if let Some(size) = headless_start
            && (is_used || id.0 < self.known_pristine)
        {
            is_used = true;
            self.report_damage(id, block, (0, size), &FlatError::Magic);
        }
        if is_used {
            self.device.load(id, block);
        }
        is_used
    }

    /// Whether records are read later from where they are read now. Then one of which a part of the value cannot be read
    /// is in the index: it answers with an error, and hides its older copies.
    fn is_read_again(&self) -> bool {
        self.copy_to.is_none() && self.device.as_disk().is_some_and(|disk| disk.stripe().is_none())
    }

    /// Says that `size` bytes at `offset` of block `id` are not loaded, and what they are by their own account.
    fn report_damage(
        &self,
        id: WblockId,
        block: &[u8],
        (offset, size): (usize, usize),
        reason: &dyn fmt::Display,
    ) {
        self.context.stats().damaged.fetch_add(1, Relaxed);
        let (path, place) = (self.source.path().display(), wblock_offset(id) + offset as u64);
        match FlatRecord::parse_whatever_magic(&block[offset..]) {
            Ok(record) => cf::warning_limited!(
                Storage,
                "{path}: at offset {place}: record {} of set '{}', {size} bytes, is damaged and left out: {reason}; \
                 {ADVICE}",
                record.digest,
                String::from_utf8_lossy(record.set_name)
            ),
            Err(_) => cf::warning_limited!(
                Storage,
                "{path}: at offset {place}: a record of {size} bytes is damaged and left out: {reason}; {ADVICE}"
            ),
        }
    }

    /// Says which bytes cannot be read.
    fn report_unreadable(&self, unreadable: &Unreadable) {
        self.context.stats().damaged.fetch_add(unreadable.places.len() as u64, Relaxed);
        for place in &unreadable.places {
            cf::warning_limited!(
                Storage,
                "{}: at offset {}: {} bytes cannot be read, and no record that is on them: {}; {ADVICE}",
                self.source.path().display(),
                place.start,
                place.end - place.start,
                unreadable.error
            );
        }
    }

    /// Brings one copy of a record into the index, if it is the newest.
    fn load_record(&self, record: &FlatRecord<'_>, location: Location) {
        let stats = self.context.stats();
        let partition = PartitionId::of(&record.digest);
        let is_here = self
            .partitions
            .get(partition.index())
            .is_some_and(|entry| entry.version.has_data() && entry.tree_id == record.tree_id);
        if !is_here {
            stats.dropped.fetch_add(1, Relaxed);
            return;
        }
        let set_id =
            if record.set_name.is_empty() { Some(SetId::NONE) } else { self.context.set_id(record.set_name) };
        let is_believed = record.void_time <= self.context.now_seconds().saturating_add(VOID_TIME_AHEAD_MAX);
        let (true, Some(set_id)) = (is_believed, set_id) else {
            stats.damaged.fetch_add(1, Relaxed);
            cf::warning_limited!(
                Storage,
                "{}: at offset {}: record {} of {} bytes is not believed and left out: it expires in more than ten \
                 years, or there are too many sets; {ADVICE}",
                self.source.path().display(),
                location.rblock() * u64::from(RBLOCK_SIZE),
                record.digest,
                record.size
            );
            return;
        };
        let (is_tombstone, mut leaves_tombstone) = (record.bin_count == 0, record.leaves_tombstone);
        let Ok((mut guard, outcome)) = self.context.index().get_or_create(&record.digest) else {
            stats.damaged.fetch_add(1, Relaxed);
            cf::critical!(Storage, "the primary index is full: record {} is not loaded", record.digest);
            return;
        };
        if outcome == CreateOutcome::Existed {
            if !CopyAge::of(record).supersedes(age_of(&guard)) {
                stats.older.fetch_add(1, Relaxed);
                if is_tombstone && !guard.is_tombstone() {
                    guard.set_leaves_tombstone(true);
                }
                return;
            }
            stats.replaced.fetch_add(1, Relaxed);
            leaves_tombstone |= guard.is_tombstone() || guard.leaves_tombstone();
            self.count(guard.location, false);
        } else {
            stats.unique.fetch_add(1, Relaxed);
        }
        guard.generation = record.generation;
        guard.set_last_update_time(record.last_update_time);
        guard.void_time = record.void_time;
        guard.set_id = set_id;
        guard.set_tombstone(is_tombstone);
        guard.set_leaves_tombstone(leaves_tombstone && !is_tombstone);
        guard.location = location.with_key_stored(record.key.is_some());
        self.count(location, true);
    }

    fn count(&self, location: Location, is_alive: bool) {
        if let Some(device) = self.devices.get(usize::from(location.device())) {
            device.wblocks.load_bytes(
                WblockId::of(location),
                location.rblock_count() * RBLOCK_SIZE,
                is_alive,
            );
        }
    }
}

/// The age of the copy that `element` points to.
pub(super) fn age_of(element: &Element) -> CopyAge {
    CopyAge {
        last_update_time: element.last_update_time(),
        generation: element.generation,
        void_time: element.void_time,
    }
}
