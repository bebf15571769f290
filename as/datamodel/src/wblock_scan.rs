//! Scans a write block on a device: finds the beginning and the end of each record, whether whole or damaged.
//!
//! A block is filled from its start, record after record, and may have been used before. The block's *end
//! mark* follows the last record, unless the block is full or zeros reach to its end. Bytes after an end mark
//! are left from the block's earlier use. The scan ignores them, so that bytes of an old value never become a
//! record. The mark is computed from a key that only the device's header holds, the number of the block and
//! the offset, so no client can store one. The C server ignores the mark, because it is not a record, and
//! writes none.
//!
//! A damaged record does not affect other records. Its size is accepted if a record, a mark, zeros or the
//! block's end are at its stated end, and no chain of whole records from within leads there. Otherwise, and
//! after zeros in the middle of a block, the scan continues at the first whole record from which records lead
//! to the end of the block, or which is the first of several in a row. A magic alone or a single record is
//! not enough there, because values may contain both.
//!
//! If there is no magic at a place where a record must begin (at the block's start, and directly after a
//! whole record), the start of the record is damaged. If only magic and size are damaged, the end of the
//! record follows from its parts, and the mark at its end proves that.

use crate::flat::{FlatError, FlatRecord, MAGIC, RBLOCK_SIZE};

/// Number of consecutive whole records that are accepted as records at any place.
const RUN_BELIEVED: usize = 4;
/// Maximum number of bins that are checked in one block in the search for records after damage. Above it the
/// rest of the block counts as damage.
const SEARCH_BINS_MAX: usize = 4 << 20;
/// Number of bytes of a checksum that count as one bin.
const HASHED_AS_BIN: usize = 256;
/// First bytes of an end mark.
const END_MARK_MAGIC: [u8; 8] = *b"ENDBLOCK";

/// The mark after the last record of a write block that is not full.
///
/// ```text
/// offset  size  content
///      0     8  "ENDBLOCK"
///      8     8  wyhash of key u64, block u32 and offset in the block u32, little-endian
/// ```
#[derive(Clone, Copy, Debug)]
pub struct EndMark {
    key: u64,
    block: u32,
}

impl EndMark {
    /// The mark of block number `block` on a device with this key. If the key is 0, no bytes match the mark.
    #[must_use]
    pub const fn new(key: u64, block: u32) -> Self {
        EndMark { key, block }
    }

    /// The mark's bytes at `offset` of its block.
    #[must_use]
    pub fn at(self, offset: usize) -> [u8; RBLOCK_SIZE] {
        let mut hashed = [0; 16];
        hashed[..8].copy_from_slice(&self.key.to_le_bytes());
        hashed[8..12].copy_from_slice(&self.block.to_le_bytes());
        hashed[12..].copy_from_slice(&(offset as u32).to_le_bytes());
        let mut mark = [0; RBLOCK_SIZE];
        mark[..8].copy_from_slice(&END_MARK_MAGIC);
        mark[8..].copy_from_slice(&cf::wyhash::hash64(&hashed).to_le_bytes());
        mark
    }

    /// Whether the mark is at the start of `bytes`, which begin at `offset` of the block.
    #[must_use]
    pub fn is_at(self, bytes: &[u8], offset: usize) -> bool {
        self.key != 0 && bytes.starts_with(&END_MARK_MAGIC) && bytes.starts_with(&self.at(offset))
    }
}

/// A piece of a write block. Offsets and sizes are in bytes, multiples of 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A record of which every part has been checked.
    Record { offset: usize, record: FlatRecord<'a> },
    /// Bytes that must be a record by their magic or position, but cannot be read.
    Damage { offset: usize, size: usize, reason: FlatError },
    /// Zeros, and the bytes after them up to the next record: a hole, or the end of the block's records as
    /// another server left it.
    Gap { offset: usize, size: usize },
    /// Bytes after the end of the block's records, left from earlier use.
    Stale { offset: usize, size: usize },
}

/// Iterator over the pieces of a write block, in order.
#[derive(Clone, Debug)]
pub struct WblockScan<'a> {
    bytes: &'a [u8],
    mark: EndMark,
    at: usize,
    /// The offset from which on all bytes are zero, if it has been computed.
    zeros_from: Option<usize>,
    searched_bins: usize,
}

impl<'a> WblockScan<'a> {
    /// The pieces of the write block `bytes`, whose end mark is `mark`.
    #[must_use]
    pub fn new(bytes: &'a [u8], mark: EndMark) -> Self {
        WblockScan { bytes, mark, at: 0, zeros_from: None, searched_bins: 0 }
    }

    fn after(&self, offset: usize) -> &'a [u8] {
        self.bytes.get(offset..).unwrap_or_default()
    }

    /// The offset from which on all bytes are zero.
    fn zeros_from(&mut self) -> usize {
        let bytes = self.bytes;
        *self.zeros_from.get_or_insert_with(|| {
            let (units, rest) = bytes.as_chunks::<RBLOCK_SIZE>();
            let last = units.iter().rposition(|unit| u128::from_le_bytes(*unit) != 0);
            if is_zero(rest) { last.map_or(0, |unit| (unit + 1) * RBLOCK_SIZE) } else { bytes.len() }
        })
    }

    /// Whether the block's records may end at `offset` for good.
    #[must_use]
    pub fn is_end(&mut self, offset: usize) -> bool {
        offset >= self.bytes.len()
            || self.mark.is_at(self.after(offset), offset)
            || is_zero_unit(self.after(offset)) && offset >= self.zeros_from()
    }

    /// Whether the block's records may end at `offset` and not earlier. A record never ends with only zeros.
    fn is_first_end(&mut self, offset: usize) -> bool {
        self.is_end(offset) && (!is_zero_unit(self.after(offset)) || offset == self.zeros_from())
    }

    /// Takes a piece at the current offset that is neither a record nor damage with a magic; `None` at the
    /// end of the block.
    fn take_other(&mut self) -> Option<Piece<'a>> {
        let start = self.at;
        if self.is_end(start) {
            self.at = self.bytes.len();
            let offset = start + RBLOCK_SIZE;
            let size = self.zeros_from().saturating_sub(offset);
            return (size > 0).then_some(Piece::Stale { offset, size });
        }
        if self.after(start).starts_with(&END_MARK_MAGIC) {
            return self.take_former_mark();
        }
        if !is_zero_unit(self.after(start)) {
            return Some(self.take_headless());
        }
        let zeros =
            self.after(start).chunks(RBLOCK_SIZE).take_while(|unit| is_zero(unit)).count() * RBLOCK_SIZE;
        match self.next_record(start + zeros) {
            Some(offset) => {
                self.at = offset;
                Some(Piece::Gap { offset: start, size: offset - start })
            }
            None => {
                self.at = self.bytes.len();
                let offset = start + zeros;
                Some(Piece::Stale { offset, size: self.zeros_from() - offset })
            }
        }
    }

    /// Takes the piece after an end mark whose key is lost. The server that erased the key, most likely
    /// another server, accepted the whole records after the mark, so they are records.
    fn take_former_mark(&mut self) -> Option<Piece<'a>> {
        let offset = self.at + RBLOCK_SIZE;
        self.at = self.next_record(offset).unwrap_or(self.bytes.len());
        let size = self.at.min(self.zeros_from()).saturating_sub(offset);
        if size > 0 { Some(Piece::Stale { offset, size }) } else { self.next() }
    }

    /// The damage at a place where a record must begin but has no magic.
    fn take_headless(&mut self) -> Piece<'a> {
        let offset = self.at;
        let end = FlatRecord::end_by_parts(self.after(offset));
        self.at = end.map_or_else(|| self.damage_end(offset), |size| offset + size);
        Piece::Damage { offset, size: self.at - offset, reason: FlatError::Magic }
    }

    /// The end of damage of unknown size that begins at `offset`: the next record or the next zeros.
    fn damage_end(&mut self, offset: usize) -> usize {
        let start = offset + RBLOCK_SIZE;
        if let Some(record) = self.next_record(start) {
            return record;
        }
        let units = self.after(start).chunks(RBLOCK_SIZE);
        let end = start + units.take_while(|unit| !is_zero(unit)).map(<[u8]>::len).sum::<usize>();
        end.min(self.bytes.len())
    }

    /// The record or damage at the magic here.
    fn take_record(&mut self) -> Piece<'a> {
        let offset = self.at;
        let parsed = FlatRecord::parse(self.after(offset));
        let (reason, stated_size) = match parsed {
            Ok(record) => match record.verify() {
                Ok(()) => {
                    self.at += record.size;
                    return Piece::Record { offset, record };
                }
                Err(FlatError::Size) => (FlatError::Size, None),
                Err(reason) => (reason, Some(record.size)),
            },
            Err(reason) => (reason, FlatRecord::stated_size(self.after(offset))),
        };
        let stated_end = stated_size.map(|size| offset + size).filter(|end| self.could_end_at(*end));
        let end_by_parts = FlatRecord::end_by_parts(self.after(offset)).map(|size| offset + size);
        self.at = match end_by_parts.or(stated_end) {
            Some(end) if end_by_parts.is_some() => end,
            Some(end) if starts_with_record(self.after(end)) || self.is_first_end(end) => {
                self.chain_to(offset + RBLOCK_SIZE, end).unwrap_or(end)
            }
            // The record extends into a hole, or its size is wrong.
            Some(end) => self.next_record(offset + RBLOCK_SIZE).filter(|next| *next < end).unwrap_or(end),
            None => self.damage_end(offset),
        };
        Piece::Damage { offset, size: self.at - offset, reason }
    }

    /// Whether the bytes at `offset` may follow a record.
    fn could_end_at(&mut self, offset: usize) -> bool {
        let Some(rest) = self.bytes.get(offset..) else { return false };
        starts_with_record(rest)
            || is_zero_unit(rest)
            || rest.starts_with(&END_MARK_MAGIC)
            || self.is_end(offset)
    }

    /// The whole record at `offset`, if there is one with only zeros after its end mark.
    fn whole_record(&mut self, offset: usize) -> Option<FlatRecord<'a>> {
        let bytes = self.after(offset);
        if !starts_with_record(bytes) || self.searched_bins > SEARCH_BINS_MAX {
            return None;
        }
        let record = FlatRecord::parse(bytes).ok()?;
        self.searched_bins += 1 + record.bin_count as usize + FlatRecord::hashed_size(bytes) / HASHED_AS_BIN;
        record.verify_with_padding().is_ok().then_some(record)
    }

    /// The size of a possible damaged record at `offset`: as computed from its parts, or as stated if the
    /// records continue or end there.
    fn damaged_record(&mut self, offset: usize) -> Option<usize> {
        let bytes = self.after(offset);
        if self.searched_bins > SEARCH_BINS_MAX {
            return None;
        }
        self.searched_bins += 1 + FlatRecord::hashed_size(bytes) / HASHED_AS_BIN;
        FlatRecord::end_by_parts(bytes).or_else(|| {
            let size = FlatRecord::stated_size(bytes).filter(|_| starts_with_record(bytes))?;
            let end = offset + size;
            (starts_with_record(self.after(end)) || self.is_first_end(end)).then_some(size)
        })
    }

    /// The start of the first chain of whole records, at or after `start` and before `end`, that leads
    /// exactly to `end` or to the end of the block.
    fn chain_to(&mut self, start: usize, end: usize) -> Option<usize> {
        // An offset that was passed once leads nowhere, so no offset is checked twice.
        let mut passed = vec![false; 0];
        for offset in (start..end).step_by(RBLOCK_SIZE) {
            if !starts_with_record(self.after(offset)) {
                continue;
            }
            passed.resize(self.bytes.len() / RBLOCK_SIZE + 1, false);
            let mut at = offset;
            while !std::mem::replace(&mut passed[at / RBLOCK_SIZE], true) {
                let Some(record) = self.whole_record(at) else { break };
                at += record.size;
                if at == end || self.is_end(at) {
                    return Some(offset);
                }
            }
        }
        None
    }

    /// The offset, at or after `start`, at which the records continue.
    fn next_record(&mut self, start: usize) -> Option<usize> {
        let mut first = None;
        for offset in (start..self.bytes.len()).step_by(RBLOCK_SIZE) {
            let (mut at, mut run) = (offset, 0);
            while run < RUN_BELIEVED {
                if let Some(record) = self.whole_record(at) {
                    (at, run) = (at + record.size, run + 1);
                } else if let Some(size) = self.damaged_record(at).filter(|_| run > 0) {
                    at += size;
                } else {
                    break;
                }
            }
            if run == RUN_BELIEVED || run > 0 && self.is_end(at) {
                return Some(offset);
            }
            if run > 0 && first.is_none() {
                first = Some(offset);
            }
        }
        first
    }
}

impl<'a> Iterator for WblockScan<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.at >= self.bytes.len() {
            return None;
        }
        if starts_with_record(self.after(self.at)) { Some(self.take_record()) } else { self.take_other() }
    }
}

/// Whether `bytes` begin with the magic of a record, as a write block in use does.
#[inline]
#[must_use]
pub fn starts_with_record(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC.to_le_bytes())
}

/// Calls `visit` with every whole record at a multiple of 16 bytes of `block`, and its offset. These include
/// records of the block's earlier uses, and apparent records inside values.
pub fn visit_everything<'a>(block: &'a [u8], mut visit: impl FnMut(usize, FlatRecord<'a>)) {
    for offset in (0..block.len()).step_by(RBLOCK_SIZE) {
        let bytes = &block[offset..];
        if starts_with_record(bytes)
            && let Ok(record) = FlatRecord::parse(bytes)
            && record.verify().is_ok()
        {
            visit(offset, record);
        }
    }
}

/// Whether the unit at the start of `bytes` is zero. The bytes may be shorter than a unit.
fn is_zero_unit(bytes: &[u8]) -> bool {
    is_zero(bytes.get(..RBLOCK_SIZE).unwrap_or(bytes))
}

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<RBLOCK_SIZE>();
    words.iter().all(|word| u128::from_le_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// The order of two stored copies of a record: the newer one is greater.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyAge {
    /// Milliseconds since 2010-01-01.
    pub last_update_time: u64,
    pub generation: u16,
    /// Seconds since 2010-01-01; 0 means never.
    pub void_time: u32,
}

impl CopyAge {
    /// The age of `record`.
    #[must_use]
    pub fn of(record: &FlatRecord<'_>) -> Self {
        CopyAge {
            last_update_time: record.last_update_time,
            generation: record.generation,
            void_time: record.void_time,
        }
    }

    /// Whether this copy replaces `known`. The later update wins; at the same time the later generation,
    /// which wraps at 16 bits; with the same generation the later void-time. Of equal copies, which defrag
    /// leaves, the known one stays.
    #[must_use]
    pub fn supersedes(self, known: CopyAge) -> bool {
        if self.last_update_time != known.last_update_time {
            return self.last_update_time > known.last_update_time;
        }
        if self.generation != known.generation {
            return self.generation.wrapping_sub(known.generation) < 1 << 15;
        }
        match (self.void_time, known.void_time) {
            (_, 0) => false,
            (0, _) => true,
            (new, old) => new > old,
        }
    }
}

#[cfg(test)]
mod tests;
