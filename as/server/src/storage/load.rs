//! Cold start: builds the index from the records on the disks.
//!
//! Every used block is read, and every record in it is checked up to its end mark. After a row of blocks
//! without a record, where the used part of a disk would end, the first bytes of all further blocks are
//! checked, unless a clean stop has recorded the end. The newest of several copies of a record wins, by
//! [`CopyAge`]. Expired records take part, so that they win against older copies with more time to live, and
//! are removed at the end; tombstones take part too, and stay. A record newer than a tombstone leaves one
//! when it is removed. Damaged and unreadable records are skipped, counted and logged with their place; whole
//! records of the same block are loaded. Possible traces of a write that a crash cut short are judged at the
//! end (`suspect`).
//!
//! Records of partitions that the header does not list as present, or lists under another tree id, are
//! skipped without a log line, because they were dropped as a whole.
//!
//! # Threads
//! For each disk one thread reads blocks in order and decides where the used ones end, and some others parse
//! them. These take blocks in any order and in parallel with those of other disks, so the result for a record
//! must not depend on the order in which its copies are found. Therefore, of equal copies the one at the
//! lowest place wins, and whether the record leaves a tombstone follows from all of its copies. The index is
//! shared; each parser has its own counts.

mod context;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use cf::aligned::AlignedBuf;
use cf::sys::block::{BlockError, BlockMedium};
use crossbeam::channel::{self, Receiver, Sender};
use datamodel::device_header::PartitionEntry;
use datamodel::flat::{FlatError, FlatRecord};
use datamodel::lying::lying_container;
use datamodel::wblock_scan::{CopyAge, EndMark, Piece, WblockScan, is_zero, starts_with_record};
use parking_lot::Mutex;

use super::device::Device;
use super::disk::Disk;
use super::erase::{UNUSED_BLOCKS_MAX, erase_former_use};
use super::partial_read::{self, Unreadable};
use super::peek::{self, PEEK_SIZE};
use super::suspect::{SUSPECTS_MAX, Suspect, report_lying};
use super::wblock::{WblockId, wblock_offset};
use super::{RBLOCK_SIZE, WBLOCK_SIZE};
use crate::index::{CreateOutcome, Index, Location, PartitionId, RecordMeta, SetId};

pub(crate) use context::{LoadCommit, LoadContext, LoadStats};

/// A record that expires later than this from its last update, or from now, is rejected. Ten years, in seconds.
const VOID_TIME_AHEAD_MAX: u32 = 315_360_000;

/// A record updated later than this from now was updated while the clock was ahead. A minute, in seconds.
const CLOCK_AHEAD_MAX: u64 = 60;

/// Number of records brought into the index together, so that their sprigs and elements are loaded from
/// memory in parallel.
const GROUP_SIZE: usize = 24;
/// Number of blocks of a disk in memory besides those being parsed: one being read, and one waiting.
const BLOCKS_AHEAD: usize = 2;
/// Largest number of threads that parse the blocks of one disk.
const PARSER_COUNT_MAX: usize = 16;

/// Advice for records that are not loaded.
const ADVICE: &str = "restore what was there from a backup or write it again";

/// Stale bytes of former lives of write blocks on one disk.
#[derive(Default)]
struct StaleBytes {
    bytes: u64,
    count: u64,
    first: u64,
}

impl StaleBytes {
    /// Counts `size` bytes at `offset` of the disk.
    fn add(&mut self, offset: u64, size: usize) {
        if self.count == 0 {
            self.first = offset;
        }
        self.bytes += size as u64;
        self.count += 1;
    }

    fn merge(&mut self, other: &StaleBytes) {
        if other.count > 0 {
            self.first = if self.count == 0 { other.first } else { self.first.min(other.first) };
            self.bytes += other.bytes;
            self.count += other.count;
        }
    }

    fn report(&self, medium: &dyn BlockMedium) {
        let StaleBytes { bytes, count, first } = self;
        if *count > 0 {
            let path = medium.path().display();
            cf::info!(
                DrvSsd,
                "{path}: skipped {bytes} bytes of former records, in {count} places, the first at offset {first}"
            );
        }
    }
}

/// One disk being loaded.
pub(super) struct DiskLoad<'a> {
    pub(super) device: &'a Device,
    /// All devices, because an older copy may be on another one.
    pub(super) devices: &'a [Device],
    /// The medium to read.
    pub(super) source: &'a dyn BlockMedium,
    /// The medium that gets a copy of every block: the other one of a disk and its shadow, if it fell behind.
    pub(super) copy_to: Option<&'a dyn BlockMedium>,
    /// For each partition, whether this node has it, and its tree id.
    pub(super) partitions: &'a [PartitionEntry],
    /// Blocks below this one are in use, according to the header of a clean stop.
    pub(super) known_pristine: u32,
    /// Whether that clean stop was the last stop, so that no other blocks are in use.
    pub(super) was_clean: bool,
    /// Whether unused blocks were written in the order of their numbers, so that a crash leaves no empty
    /// block before a used one. The C server writes them in any order, and may leave some.
    pub(super) written_in_order: bool,
    /// Findings of this load, to be [judged](super::suspect) when everything is loaded.
    pub(super) suspects: Mutex<Vec<Suspect>>,
    /// Number of blocks read so far.
    pub(super) progress: &'a AtomicU32,
    pub(super) parser_count: usize,
    pub(super) context: &'a dyn LoadContext,
}

/// Number of parsers of each of `disk_count` disks.
pub(super) fn parser_count(disk_count: usize) -> usize {
    cf::threads::cpu_count().div_ceil(disk_count.max(1)).clamp(1, PARSER_COUNT_MAX)
}

/// A block that the reader passes to a parser.
struct Block {
    id: WblockId,
    bytes: AlignedBuf,
    unreadable: Option<Unreadable>,
    /// Whether it holds any part of a record.
    is_used: bool,
}

impl DiskLoad<'_> {
    /// Loads the disk. Returns the number of the first block never used, or the error if copying failed.
    pub(super) fn run(&self) -> Result<u32, BlockError> {
        let (filled, to_parse) = channel::unbounded();
        let (emptied, to_fill) = channel::unbounded();
        for _ in 0..self.parser_count + BLOCKS_AHEAD {
            // The receiver exists, so the send cannot fail.
            let _ = emptied.send(AlignedBuf::zeroed(WBLOCK_SIZE as usize));
        }
        let mut stale = StaleBytes::default();
        let pristine = std::thread::scope(|scope| {
            let parsers: Vec<_> = (0..self.parser_count)
                .map(|_| {
                    let (to_parse, emptied) = (to_parse.clone(), emptied.clone());
                    scope.spawn(move || self.parse_blocks(&to_parse, &emptied))
                })
                .collect();
            drop((to_parse, emptied));
            let pristine = self.read_blocks(&to_fill, &filled);
            drop(filled);
            for parser in parsers {
                stale.merge(&parser.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            pristine
        })?;
        self.progress.store(self.device.wblocks.count(), Relaxed);
        stale.report(self.source);
        Ok(pristine)
    }

    /// Reads the used blocks in order and passes them to the parsers.
    fn read_blocks(&self, to_fill: &Receiver<AlignedBuf>, filled: &Sender<Block>) -> Result<u32, BlockError> {
        let (mut empty_from, mut pristine) = (1, self.known_pristine.max(1));
        // Blocks below this one are read in any case.
        let mut read_to = self.known_pristine;
        let count = self.device.wblocks.count();
        for at in 1..count {
            self.progress.store(at, Relaxed);
            // Without a parser there is no buffer. The thread that joins the parsers gets the reason.
            let Ok(mut bytes) = to_fill.recv() else { break };
            self.context.index().prepare_ahead();
            let id = WblockId(at);
            let unreadable = partial_read::read_wblock(self.source, id, &mut bytes);
            if let Some(unreadable) = &unreadable {
                self.report_unreadable(unreadable);
                pristine = pristine.max(at + 1);
            }
            if let Some(copy) = self.copy_to {
                self.copy_wblock(copy, id, &bytes)?;
            }
            let is_used = self.is_used(id, &bytes);
            let is_known = is_used || unreadable.is_some();
            let _ = filled.send(Block { id, bytes, unreadable, is_used });
            // A block that begins with a record or a damaged one is in use, so it is not pristine.
            if is_known {
                self.report_empty(empty_from..at, true);
                (empty_from, pristine) = (at + 1, pristine.max(at + 1));
            } else if at + 1 - empty_from >= UNUSED_BLOCKS_MAX && at >= read_to {
                match self.next_used(at + 1, count)? {
                    Some(found) => read_to = found + 1,
                    None => {
                        self.copy_to.map_or(Ok(()), |copy| erase_former_use(copy, at + 1, count))?;
                        break;
                    }
                }
            }
        }
        self.report_empty(empty_from..count, false);
        Ok(pristine)
    }

    /// The first used block from `first` on. Called after many blocks without a record.
    fn next_used(&self, first: u32, count: u32) -> Result<Option<u32>, BlockError> {
        if self.was_clean { Ok(None) } else { peek::next_used(self.source, first, count) }
    }

    /// Reports blocks without records that were in use according to the header, or that have used blocks
    /// behind them.
    fn report_empty(&self, blocks: Range<u32>, is_before_used: bool) {
        let is_hole = is_before_used && (self.written_in_order || blocks.len() >= UNUSED_BLOCKS_MAX as usize);
        let end = if is_hole { blocks.end } else { blocks.end.min(self.known_pristine) };
        if blocks.start >= end {
            return;
        }
        let size = u64::from(end - blocks.start) * u64::from(WBLOCK_SIZE);
        self.context.stats().add_damage(size);
        cf::warning!(
            Storage,
            "{}: at offset {}: a hole: {size} bytes hold nothing, though they were in use; {ADVICE}",
            self.source.path().display(),
            wblock_offset(WblockId(blocks.start))
        );
    }

    /// Whether a block holds records, whole or damaged.
    fn is_used(&self, id: WblockId, block: &[u8]) -> bool {
        let mut starts_headless = false;
        starts_with_record(block)
            || self.scan(id, block).any(|piece| match piece {
                Piece::Damage { offset: 0, reason: FlatError::Magic, .. } => {
                    starts_headless = true;
                    false
                }
                Piece::Record { .. } | Piece::Damage { .. } | Piece::Gap { .. } => true,
                // The block has only an end mark and no records.
                Piece::Stale { offset, .. } => offset == RBLOCK_SIZE as usize,
            })
            // If no record follows, a server may never have used the block.
            || starts_headless && id.0 < self.known_pristine
    }

    pub(super) fn scan<'b>(&self, id: WblockId, block: &'b [u8]) -> WblockScan<'b> {
        let key = self.device.as_disk().map_or(0, Disk::end_mark_key);
        WblockScan::new(block, EndMark::new(key, id.0))
    }

    /// Loads blocks as they arrive. Returns the counts of stale bytes of their former lives.
    fn parse_blocks(&self, to_parse: &Receiver<Block>, emptied: &Sender<AlignedBuf>) -> StaleBytes {
        let mut parser = Parser::new(self);
        for block in to_parse {
            parser.load_block(&block);
            // The reader may already have ended.
            let _ = emptied.send(block.bytes);
        }
        parser.finish()
    }

    /// Copies a block. If it has no content, only the other medium's bytes are erased, because records that
    /// did not get to this medium before a crash would otherwise appear at a later start.
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

    /// Whether records are later read from the medium that is read now. A record with a partly unreadable
    /// value is then put in the index: it answers with an error, and hides its older copies.
    fn is_read_again(&self) -> bool {
        self.copy_to.is_none() && self.device.as_disk().is_some_and(|disk| disk.stripe().is_none())
    }

    /// Reports damage, or keeps it to be judged later.
    fn note_suspect(&self, block: &[u8], suspect: Suspect) {
        let is_certain = self.was_clean && suspect.reason.is_some();
        let mut suspects = self.suspects.lock();
        if is_certain || suspects.len() >= SUSPECTS_MAX {
            drop(suspects);
            self.report_suspect(block, &suspect);
        } else {
            suspects.push(suspect);
        }
    }

    /// Reports a suspect that is damage.
    pub(super) fn report_suspect(&self, block: &[u8], suspect: &Suspect) {
        let place = (suspect.offset, suspect.size);
        match suspect.reason {
            Some(reason) => self.report_damage(suspect.block, block, place, &reason),
            None => self.report_damage(suspect.block, block, place, &"a hole: zeros where records were"),
        }
    }

    /// Reports that `size` bytes at `offset` of block `id` are not loaded, with the record that they seem to be or begin
    /// with.
    fn report_damage(
        &self,
        id: WblockId,
        block: &[u8],
        (offset, size): (usize, usize),
        reason: &dyn fmt::Display,
    ) {
        self.context.stats().add_damage(size as u64);
        let (path, place) = (self.source.path().display(), wblock_offset(id) + offset as u64);
        let bytes = &block[offset..];
        match FlatRecord::parse_whatever_magic(bytes) {
            Ok(record) => cf::warning_limited!(
                Storage,
                "{path}: at offset {place}: record {} of set '{}'{}, {size} bytes, is damaged and left out: {reason}; \
                 {ADVICE}",
                record.digest,
                String::from_utf8_lossy(record.set_name),
                if record.size == size { "" } else { " and what follows it" }
            ),
            Err(_) if FlatRecord::stated_size(bytes) == Some(size) => cf::warning_limited!(
                Storage,
                "{path}: at offset {place}: a record of {size} bytes is damaged and left out: {reason}; {ADVICE}"
            ),
            Err(_) => cf::warning_limited!(
                Storage,
                "{path}: at offset {place}: {size} bytes, perhaps of several records, are damaged and left out: {reason}; \
                 {ADVICE}"
            ),
        }
    }

    /// Reports unreadable bytes.
    fn report_unreadable(&self, unreadable: &Unreadable) {
        for place in &unreadable.places {
            self.context.stats().add_damage(place.end - place.start);
            cf::warning_limited!(
                Storage,
                "{}: at offset {}: {} bytes and the records on them cannot be read: {}; {ADVICE}",
                self.source.path().display(),
                place.start,
                place.end - place.start,
                unreadable.error
            );
        }
    }

    /// Whether this node has the partition of `record`.
    fn is_here(&self, record: &FlatRecord<'_>) -> bool {
        let entry = self.partitions.get(PartitionId::of(&record.digest).index());
        entry.is_some_and(|entry| entry.version.has_data() && entry.tree_id == record.tree_id)
    }
}

/// Counts of one parser since its last report.
#[derive(Default)]
struct Counts {
    unique: u64,
    replaced: u64,
    older: u64,
    dropped: u64,
    ahead: u64,
    latest_update: u64,
}

/// A copy of a record, as it was found.
struct LoadedCopy<'b> {
    record: FlatRecord<'b>,
    location: Location,
    /// Whether all of it could be read.
    is_whole: bool,
}

/// Brings the records of blocks into the index.
struct Parser<'a> {
    load: &'a DiskLoad<'a>,
    index: &'a Index,
    committer: Box<dyn LoadCommit + 'a>,
    counts: Counts,
    stale: StaleBytes,
    /// The set of the previous record, which is most often that of the next one too.
    last_set: Option<(Vec<u8>, SetId)>,
}

impl<'a> Parser<'a> {
    fn new(load: &'a DiskLoad<'a>) -> Self {
        let (index, committer) = (load.context.index(), load.context.committer());
        Parser {
            load,
            index,
            committer,
            counts: Counts::default(),
            stale: StaleBytes::default(),
            last_set: None,
        }
    }

    fn finish(self) -> StaleBytes {
        self.committer.finish();
        self.stale
    }

    /// Loads the records of a block.
    fn load_block(&mut self, block: &Block) {
        let (load, id, bytes) = (self.load, block.id, &block.bytes[..]);
        let mut group = Vec::with_capacity(GROUP_SIZE);
        for piece in load.scan(id, bytes) {
            match piece {
                Piece::Record { offset, record } => {
                    let place = wblock_offset(id) + offset as u64;
                    let is_missing = |unreadable: &Unreadable| unreadable.concerns(place, record.size);
                    let is_whole = !block.unreadable.as_ref().is_some_and(is_missing);
                    if !load.is_read_again() && !is_whole {
                        load.report_damage(id, bytes, (offset, record.size), &"it cannot be read");
                        continue;
                    }
                    if let Some(bin) = lying_container(&record) {
                        report_lying(load.source.path(), place, &record, bin);
                    }
                    let rblock = place / u64::from(RBLOCK_SIZE);
                    let location =
                        Location::new(load.device.number(), rblock, record.size as u32 / RBLOCK_SIZE);
                    self.index.prefetch_sprig(&record.digest);
                    group.push(LoadedCopy { record, location, is_whole });
                    if group.len() == GROUP_SIZE {
                        self.load_group(id, &mut group);
                    }
                }
                Piece::Damage { offset: 0, reason: FlatError::Magic, .. } if !block.is_used => {}
                Piece::Damage { offset, size, reason } => {
                    load.note_suspect(bytes, Suspect { block: id, offset, size, reason: Some(reason) });
                }
                Piece::Gap { offset, size } => {
                    load.note_suspect(bytes, Suspect { block: id, offset, size, reason: None });
                }
                Piece::Stale { offset, size } => self.stale.add(wblock_offset(id) + offset as u64, size),
            }
        }
        self.load_group(id, &mut group);
        if block.is_used {
            load.device.load(id, bytes);
        }
        self.report_counts();
    }

    /// Loads records of block `id`. They count as alive before any of them is in the index, where another
    /// parser may find and replace it.
    fn load_group(&mut self, id: WblockId, group: &mut Vec<LoadedCopy<'_>>) {
        group.iter().for_each(|copy| self.index.prefetch_element(&copy.record.digest));
        let wblocks = &self.load.device.wblocks;
        let size = group.iter().map(|copy| copy.record.size as u32).sum();
        wblocks.load_bytes(id, size, true);
        let mut left_out = 0;
        for copy in group.drain(..) {
            if !self.load_copy(&copy) {
                left_out += copy.record.size as u32;
            }
        }
        wblocks.load_bytes(id, left_out, false);
    }

    /// Adds a block's counts to the common figures.
    fn report_counts(&mut self) {
        let Counts { unique, replaced, older, dropped, ahead, latest_update } =
            std::mem::take(&mut self.counts);
        let stats = self.load.context.stats();
        stats.latest_update.fetch_max(latest_update, Relaxed);
        for (total, count) in [
            (&stats.unique, unique),
            (&stats.replaced, replaced),
            (&stats.older, older),
            (&stats.dropped, dropped),
            (&stats.ahead, ahead),
        ] {
            if count > 0 {
                total.fetch_add(count, Relaxed);
            }
        }
    }

    /// Brings one copy of a record into the index, if it is the newest. Returns whether it is.
    fn load_copy(&mut self, copy: &LoadedCopy<'_>) -> bool {
        let &LoadedCopy { ref record, location, is_whole } = copy;
        if !self.load.is_here(record) {
            self.counts.dropped += 1;
            return false;
        }
        let has_plausible_void_time = is_plausible_void_time(record, self.load.context.now_seconds());
        let set_id = self.set_id(record.set_name);
        let (true, Some(set_id)) = (has_plausible_void_time, set_id) else {
            self.report_unbelieved(record, location);
            return false;
        };
        if record.last_update_time / 1000 > u64::from(self.load.context.now_seconds()) + CLOCK_AHEAD_MAX {
            self.counts.ahead += 1;
            self.counts.latest_update = self.counts.latest_update.max(record.last_update_time);
        }
        let Ok((guard, outcome)) = self.index.get_or_create(&record.digest) else {
            self.load.context.stats().add_damage(record.size as u64);
            cf::critical!(Storage, "the primary index is full: record {} is not loaded", record.digest);
            return false;
        };
        let (before, is_tombstone) = (**guard, record.bin_count == 0);
        let mut leaves_tombstone = record.leaves_tombstone;
        if outcome == CreateOutcome::Existed {
            let (new, known) = (CopyAge::of(record), age_of(&before));
            let is_newer = new.supersedes(known);
            if !is_newer {
                self.counts.older += 1;
                if known.supersedes(new) || !is_before(location, before.location) {
                    if (is_tombstone || leaves_tombstone) && !before.is_tombstone() {
                        let mut after = before;
                        after.set_leaves_tombstone(true);
                        self.committer.commit(guard, &after, None);
                    }
                    return false;
                }
            }
            self.counts.replaced += u64::from(is_newer);
            leaves_tombstone |= before.is_tombstone() || before.leaves_tombstone();
            self.count_replaced(before.location);
        } else {
            self.counts.unique += 1;
        }
        let mut after = RecordMeta::new(set_id);
        after.generation = record.generation;
        after.set_last_update_time(record.last_update_time);
        after.void_time = record.void_time;
        after.set_tombstone(is_tombstone);
        after.set_leaves_tombstone(leaves_tombstone && !is_tombstone);
        after.location = location.with_key_stored(record.key.is_some());
        self.committer.commit(guard, &after, is_whole.then_some(record));
        true
    }

    /// The number of the set called `name`.
    fn set_id(&mut self, name: &[u8]) -> Option<SetId> {
        if name.is_empty() {
            return Some(SetId::NONE);
        }
        if let Some((last, id)) = &self.last_set
            && *last == name
        {
            return Some(*id);
        }
        let id = self.load.context.set_id(name)?;
        self.last_set = Some((name.to_vec(), id));
        Some(id)
    }

    /// Counts the record at `location` of any device as garbage.
    fn count_replaced(&self, location: Location) {
        if let Some(device) = self.load.devices.get(usize::from(location.device())) {
            device.wblocks.load_bytes(WblockId::of(location), location.rblock_count() * RBLOCK_SIZE, false);
        }
    }

    #[cold]
    fn report_unbelieved(&self, record: &FlatRecord<'_>, location: Location) {
        self.load.context.stats().add_damage(record.size as u64);
        cf::warning_limited!(
            Storage,
            "{}: at offset {}: record {} of {} bytes is implausible and left out: it expires in more than ten \
             years, or there are too many sets; {ADVICE}",
            self.load.source.path().display(),
            location.rblock() * u64::from(RBLOCK_SIZE),
            record.digest,
            record.size
        );
    }
}

/// Whether a record may expire when it says. This node's clock may be behind the one that the record was written by, as
/// after a start without a battery; an older copy of the record must not win then.
fn is_plausible_void_time(record: &FlatRecord<'_>, now_seconds: u32) -> bool {
    let since = u64::from(now_seconds).max(record.last_update_time / 1000);
    u64::from(record.void_time) <= since + u64::from(VOID_TIME_AHEAD_MAX)
}

/// Whether `location` wins against `other` if the copies are equal.
fn is_before(location: Location, other: Location) -> bool {
    (location.device(), location.rblock()) < (other.device(), other.rblock())
}

/// The age of the copy described by `meta`.
pub(super) fn age_of(meta: &RecordMeta) -> CopyAge {
    CopyAge {
        last_update_time: meta.last_update_time(),
        generation: meta.generation,
        void_time: meta.void_time,
    }
}

#[cfg(test)]
mod tests;
