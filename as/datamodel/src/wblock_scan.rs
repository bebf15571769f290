//! Scans a write block on a device: finds where each record, whole or damaged, begins and ends.
//!
//! A block is filled from its start, record after record, and may have been used before. The block's *end mark* follows
//! the last record, unless the block is full or zeros reach to its end. Bytes after an end mark are from the block's
//! earlier use; the scan ignores them, so that bytes of an old value never become a record. The mark is computed from a
//! key that only the device's header holds, the number of the block and the offset, so no client can store one. The C
//! server ignores the mark, which is no record, and writes none.
//!
//! A damaged record costs no other record. Its size is accepted if a record, a mark, zeros or the block's end are at
//! its stated end, and no chain of whole records from within leads there. Otherwise, and after zeros in the middle of a
//! block, the scan continues at the first whole record from which records lead to the end of the block, or which is the
//! first of several in a row. A magic alone or a single record is not enough there: values may contain both.
//!
//! Where a record must begin (at the block's start, and right after a whole one) without a magic, its start is damaged.
//! If only magic and size are damaged, its parts show its end, and the mark at its end proves that.

use crate::flat::{FlatError, FlatRecord, MAGIC, RBLOCK_SIZE};

/// This many whole records in a row are accepted as records anywhere.
const RUN_BELIEVED: usize = 4;
/// Most bins checked in the search for records after damage, in one block. Above it the rest of the block counts as
/// damage.
const SEARCH_BINS_MAX: usize = 4 << 20;
/// This many bytes of a checksum count as one bin.
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
    /// The mark of block number `block` on a device with this key; a key of 0 gives a mark that no bytes match.
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
    /// A record with every part checked.
    Record { offset: usize, record: FlatRecord<'a> },
    /// Bytes that must be a record by their magic or position, but cannot be read.
    Damage { offset: usize, size: usize, reason: FlatError },
    /// Zeros, and the bytes after them up to the next record: a hole, or another server's end of the block's records.
    Gap { offset: usize, size: usize },
    /// Bytes after the end of the block's records: left from earlier use.
    Stale { offset: usize, size: usize },
}

/// Iterator over the pieces of a write block, in order.
#[derive(Clone, Debug)]
pub struct WblockScan<'a> {
    bytes: &'a [u8],
    mark: EndMark,
    at: usize,
    /// The offset from which on all bytes are zero, once computed.
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

    /// Whether the block's records may end at `offset` and not earlier: a record never ends in nothing but zeros.
    fn is_first_end(&mut self, offset: usize) -> bool {
        self.is_end(offset) && (!is_zero_unit(self.after(offset)) || offset == self.zeros_from())
    }

    /// Takes a piece here that is neither a record nor damage with its magic; `None` at the end of the block.
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

    /// Takes the piece after an end mark whose key is lost. The server that erased the key, most likely another one,
    /// took the whole records after the mark for records, so they are records.
    fn take_former_mark(&mut self) -> Option<Piece<'a>> {
        let offset = self.at + RBLOCK_SIZE;
        self.at = self.next_record(offset).unwrap_or(self.bytes.len());
        let size = self.at.min(self.zeros_from()).saturating_sub(offset);
        if size > 0 { Some(Piece::Stale { offset, size }) } else { self.next() }
    }

    /// The damage where a record must begin without a magic.
    fn take_headless(&mut self) -> Piece<'a> {
        let offset = self.at;
        let end = FlatRecord::end_by_parts(self.after(offset));
        self.at = end.map_or_else(|| self.damage_end(offset), |size| offset + size);
        Piece::Damage { offset, size: self.at - offset, reason: FlatError::Magic }
    }

    /// The end of damage of unknown size that begins at `offset`: the next record, or the next zeros.
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
            // It extends into a hole, or its size is wrong.
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
        self.searched_bins += 1 + record.bin_count + FlatRecord::hashed_size(bytes) / HASHED_AS_BIN;
        record.verify_with_padding().is_ok().then_some(record)
    }

    /// The size of a possible damaged record at `offset`: from its parts, or as stated if the records continue or end
    /// there.
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

    /// The start of the first chain of whole records, from `start` on and before `end`, that leads exactly to `end` or
    /// to the end of the block.
    fn chain_to(&mut self, start: usize, end: usize) -> Option<usize> {
        // An offset passed once leads nowhere: none is checked twice.
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

    /// The offset, from `start` on, where the records continue.
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

/// Whether `bytes` begin with a record's magic, as a write block in use does.
#[inline]
#[must_use]
pub fn starts_with_record(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC.to_le_bytes())
}

/// Calls `visit` with every whole record at a multiple of 16 bytes of `block` and its offset, including those of the
/// block's earlier uses and apparent records inside of values.
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

/// Whether the unit at the start of `bytes` is zero, as far as it exists.
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
    /// Seconds since 2010-01-01; 0 = never.
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

    /// Whether this copy replaces `known`: a later update; at the same time a later generation, on the circle of 16
    /// bits; with the same generation a later void-time. Of equal copies, which defrag leaves, the known one stays.
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
mod tests {
    use std::borrow::Cow;

    use cf::Digest;
    use proptest::prelude::*;

    use super::*;
    use crate::flat::NewRecord;
    use crate::{Bins, BytesType, Particle};

    const SIZE: usize = 8192;

    fn record(key: u8, size: usize) -> Vec<u8> {
        let mut bins = Bins::new();
        bins.push(crate::Bin {
            name: b"bin",
            particle: Particle::Bytes(BytesType::Blob, Cow::Owned(vec![key; size])),
        });
        let record = NewRecord {
            digest: Digest([key; 20]),
            last_update_time: 9,
            generation: 1,
            void_time: 0,
            tree_id: 1,
            set_name: b"set",
            key: None,
            leaves_tombstone: false,
        };
        let mut flat = Vec::new();
        record.encode(&bins, record.size(&bins), &mut flat);
        flat
    }

    fn block(records: &[Vec<u8>]) -> Vec<u8> {
        let mut block = records.concat();
        block.resize(SIZE, 0);
        block
    }

    const MARK: EndMark = EndMark::new(77, 5);

    fn scan(block: &[u8]) -> WblockScan<'_> {
        WblockScan::new(block, MARK)
    }

    fn keys(block: &[u8]) -> Vec<u8> {
        let key = |piece| match piece {
            Piece::Record { record, .. } => Some(record.digest.0[0]),
            _ => None,
        };
        scan(block).filter_map(key).collect()
    }

    #[test]
    fn records_are_found_in_order() {
        let block = block(&[record(1, 10), record(2, 300), record(3, 0)]);
        assert_eq!(keys(&block), [1, 2, 3]);
        assert_eq!(scan(&block).count(), 3);
        assert_eq!(scan(&[0; SIZE]).count(), 0);
        assert_eq!(scan(&[]).count(), 0);
    }

    #[test]
    fn damage_costs_one_record_and_is_told() {
        let records = [record(1, 10), record(2, 300), record(3, 50)];
        let (second, third) = (records[0].len(), records[0].len() + records[1].len());
        let whole = block(&records);
        for at in second..third {
            let mut block = whole.clone();
            block[at] ^= 0x55;
            let found = keys(&block);
            assert!(found.starts_with(&[1]) && found.ends_with(&[3]), "byte {at}: {found:?}");
            if found.len() == 2 {
                let is_told = |piece| matches!(piece, Piece::Damage { offset, .. } if offset == second);
                assert!(scan(&block).any(is_told), "byte {at} is lost in silence");
            }
        }
    }

    #[test]
    fn a_record_without_its_magic_is_damage_of_its_size() {
        let inner = record(9, 300);
        let outer = {
            let mut outer = record(2, 4_000);
            let at = (outer.len() - inner.len()) / 2 / 16 * 16;
            outer[at..at + inner.len()].copy_from_slice(&inner);
            outer
        };
        let records = [record(1, 10), outer, record(3, 50)];
        for (damaged, found) in [(0, [2, 3]), (1, [1, 3]), (2, [1, 2])] {
            let mut block = block(&records);
            let offset = records[..damaged].iter().map(Vec::len).sum();
            block[offset] ^= 1;
            assert_eq!(keys(&block), found, "what is in a value is no record");
            let damage = scan(&block).nth(damaged);
            let (size, reason) = (records[damaged].len(), FlatError::Magic);
            assert_eq!(damage, Some(Piece::Damage { offset, size, reason }));
        }
    }

    #[test]
    fn damage_of_unknown_size_ends_at_the_next_whole_record() {
        let records = [record(1, 10), record(2, 300), record(3, 50)];
        for damaged in 0..3 {
            let mut block = block(&records);
            let offset = records[..damaged].iter().map(Vec::len).sum::<usize>();
            block[offset..offset + 48].fill(0xA5);
            // A magic in the value, which is no record.
            if damaged == 1 {
                block[offset + 128..offset + 132].copy_from_slice(&MAGIC.to_le_bytes());
            }
            let expected: Vec<u8> = (1..4).filter(|key| usize::from(*key) != damaged + 1).collect();
            assert_eq!(keys(&block), expected);
            let damage: Vec<_> =
                scan(&block).filter(|piece| !matches!(piece, Piece::Record { .. })).collect();
            assert!(matches!(damage[..], [Piece::Damage { offset: at, .. }] if at == offset), "{damage:?}");
        }
    }

    #[test]
    fn a_damaged_size_does_not_reach_over_other_records() {
        // All have the same size, 64 units of 16 bytes: with one more bit set, the first ends where the third begins,
        // or in the zeros.
        let records: Vec<_> = (1..5).map(|key| record(key, 1024 - 60)).collect();
        assert!(records.iter().all(|record| record.len() == 1024));
        for bit in [6, 7] {
            let mut block = block(&records);
            block[4] ^= 1 << bit;
            assert_eq!(keys(&block), [2, 3, 4], "bit {bit}");
            let first = scan(&block).next();
            assert!(matches!(first, Some(Piece::Damage { offset: 0, .. })), "{first:?}");
        }
    }

    /// A block that once held a value, and whose beginning was written anew.
    fn filled_again(value: &[u8], new: &[u8], end: &[u8]) -> Vec<u8> {
        let mut bins = Bins::new();
        bins.push(crate::Bin {
            name: b"bin",
            particle: Particle::Bytes(BytesType::Blob, Cow::Borrowed(value)),
        });
        let former = NewRecord {
            digest: Digest([7; 20]),
            last_update_time: 9,
            generation: 1,
            void_time: 0,
            tree_id: 1,
            set_name: b"set",
            key: None,
            leaves_tombstone: false,
        };
        let mut flat = Vec::new();
        former.encode(&bins, former.size(&bins), &mut flat);
        let mut block = block(&[flat]);
        block[..new.len()].copy_from_slice(new);
        block[new.len()..new.len() + end.len()].copy_from_slice(end);
        block
    }

    #[test]
    fn what_is_behind_the_end_mark_is_never_a_record() {
        let (new, forged) = (record(4, 64), record(9, 20));
        for shift in 0..16 {
            let mut value = vec![0xEE; shift];
            (0..40).for_each(|_| value.extend_from_slice(&forged));
            let block = filled_again(&value, &new, &MARK.at(new.len()));
            assert_eq!(keys(&block), [4], "shift {shift}");
            let stale = scan(&block).nth(1);
            assert!(matches!(stale, Some(Piece::Stale { offset, .. }) if offset == new.len() + RBLOCK_SIZE));
        }
        // The mark of another offset or block is not accepted, nor is one in a value.
        assert!(!MARK.is_at(&MARK.at(32), 48) && !EndMark::new(77, 6).is_at(&MARK.at(32), 32));
        assert!(!EndMark::new(0, 5).is_at(&EndMark::new(0, 5).at(32), 32), "without a key there is none");
        let value: Vec<u8> = (0..200).flat_map(|unit| MARK.at(unit * RBLOCK_SIZE)).collect();
        assert_eq!(keys(&filled_again(&value, &[], &[])), [7]);
    }

    #[test]
    fn a_mark_of_a_key_that_is_lost_is_no_damage() {
        let (new, former) = (record(4, 64), record(9, 20));
        let mark = EndMark::new(78, 5).at(new.len());
        let behind = new.len() + RBLOCK_SIZE;
        let is_damage = |piece: &Piece<'_>| matches!(piece, Piece::Damage { .. } | Piece::Gap { .. });
        fn scan(block: &[u8], key: u64) -> Vec<Piece<'_>> {
            WblockScan::new(block, EndMark::new(key, 5)).collect()
        }
        for key in [0, 77] {
            // Nothing follows the mark.
            let mut block = block(&[new.clone(), mark.to_vec()]);
            assert_eq!(scan(&block, key).len(), 1, "key {key}");
            // Bytes that are no record follow.
            block[behind..behind + 300].fill(0xEE);
            assert_eq!(scan(&block, key)[1..], [Piece::Stale { offset: behind, size: 304 }], "key {key}");
            // Records follow, which the other server has served.
            block[behind..behind + 300].fill(0);
            block[behind..behind + former.len()].copy_from_slice(&former);
            let pieces = scan(&block, key);
            assert!(pieces.len() == 2 && !pieces.iter().any(is_damage), "key {key}: {pieces:?}");
            // A damaged record before the mark is reported, and nothing else.
            block[30] ^= 0xFF;
            let first = scan(&block, key)[0];
            let is_all = matches!(first, Piece::Damage { offset: 0, size, .. } if size == new.len());
            assert!(is_all, "key {key}: {first:?}");
        }
    }

    #[test]
    fn records_behind_a_hole_are_found_and_the_hole_is_told() {
        let records: Vec<_> = (1..9).map(|key| record(key, 900)).collect();
        let size = records[0].len();
        let whole = block(&records);
        for hole in [0..512, 0..size, size..size + 512, size + 16..3 * size, size + 512..5 * size - 16] {
            let mut block = whole.clone();
            block[hole.clone()].fill(0);
            let intact: Vec<u8> = (1..9u8)
                .filter(|key| {
                    let start = usize::from(key - 1) * size;
                    start + size <= hole.start || hole.end <= start
                })
                .collect();
            assert_eq!(keys(&block), intact, "{hole:?}");
            let is_told = |piece| matches!(piece, Piece::Gap { .. } | Piece::Damage { .. });
            assert!(scan(&block).any(is_told), "{hole:?}");
        }
    }

    #[test]
    fn a_damaged_record_does_not_give_its_value_away() {
        let forged = record(9, 300);
        let outer = |copies: usize| {
            let mut outer = record(2, 4_000);
            let at = 64 * RBLOCK_SIZE;
            (0..copies).for_each(|n| {
                outer[at + n * forged.len()..at + (n + 1) * forged.len()].copy_from_slice(&forged);
            });
            outer
        };
        for copies in 1..6 {
            let records = [record(1, 10), outer(copies), record(3, 50)];
            // Damage in the record's metadata, and in its end mark.
            for at in [8, 20, 30, records[1].len() - 12] {
                let mut block = block(&records);
                block[records[0].len() + at] ^= 0xFF;
                assert_eq!(keys(&block), [1, 3], "byte {at}");
            }
        }
    }

    #[test]
    fn everything_is_visited_for_those_who_ask() {
        let former = record(9, 20);
        let block = filled_again(&former.repeat(3), &record(4, 64), &MARK.at(record(4, 64).len()));
        let mut found = Vec::new();
        let mut shifted = block.clone();
        shifted.rotate_left(0);
        visit_everything(&shifted, |_, record| found.push(record.digest.0[0]));
        assert_eq!(found[0], 4);
    }

    #[test]
    fn newest_copy_wins() {
        let age =
            |last_update_time, generation, void_time| CopyAge { last_update_time, generation, void_time };
        let ascending = [age(5, 9, 9), age(6, 65_535, 3), age(6, 1, 3), age(6, 1, 4), age(6, 1, 0)];
        for (n, old) in ascending.iter().enumerate() {
            assert!(!old.supersedes(*old));
            for new in &ascending[n + 1..] {
                assert!(new.supersedes(*old) && !old.supersedes(*new), "{new:?} {old:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_to_the_end(
            pieces in prop::collection::vec((prop::option::of(0u8..9), prop::collection::vec(any::<u8>(), 0..120)), 0..12),
            spoil in prop::collection::vec((0..SIZE, any::<u8>()), 0..30), cut in 0..=SIZE,
        ) {
            let mut bytes = Vec::new();
            for (key, noise) in pieces {
                match key {
                    Some(key) => bytes.extend(record(key, noise.len())),
                    None => {
                        bytes.extend(MAGIC.to_le_bytes());
                        bytes.extend(noise);
                        bytes.resize(bytes.len().next_multiple_of(16), 0);
                    }
                }
            }
            bytes.resize(SIZE, 0);
            for (at, byte) in spoil {
                bytes[at] = byte;
            }
            bytes.truncate(cut);
            let mut end = 0;
            for piece in scan(&bytes) {
                let (offset, size) = match piece {
                    Piece::Record { offset, record } => (offset, record.size),
                    Piece::Damage { offset, size, .. }
                    | Piece::Gap { offset, size }
                    | Piece::Stale { offset, size } => (offset, size),
                };
                prop_assert!(offset >= end && size > 0 && offset % RBLOCK_SIZE == 0);
                end = offset + size;
            }
            prop_assert!(end <= bytes.len());
        }
    }
}
