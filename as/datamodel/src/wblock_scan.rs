//! What a write block holds, read from its bytes alone: records, damaged records, and bytes that are neither.
//!
//! Records stand one behind the other from the block's start, each on a multiple of 16. A block that was filled before
//! and is being filled again holds, behind its last new record, what is left of its former life: zeros up to the end of
//! what was transferred, stale bytes of a record that was partly written over, and after it whole records, older copies
//! of what is elsewhere. So the scan goes on behind what is no record, and it is for the reader to let the newest copy win.
//!
//! A damaged record costs itself only: its size is believed if a record, zeros or the block's end stand where it says
//! it ends, and no whole record stands before that; otherwise the damage reaches to the next whole record or the next
//! zeros. A magic alone is not believed there: values may contain it.
//!
//! Where a record must begin (at the block's start, and right behind a whole one) and no magic stands, its start is
//! damaged. If nothing but the magic is, the end mark proves what the rest says of its size.

use crate::flat::{FlatError, FlatRecord, MAGIC, RBLOCK_SIZE};

/// A piece of a write block. Offsets and sizes are in bytes, multiples of 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A record whose every part was checked.
    Record { offset: usize, record: FlatRecord<'a> },
    /// What must be a record, by its magic or its place, but is none that can be read.
    Damage { offset: usize, size: usize, reason: FlatError },
    /// What stands behind zeros, without a record's magic: left from former use.
    Stale { offset: usize, size: usize },
}

/// Iterator over the pieces of a write block, in order.
#[derive(Clone, Debug)]
pub struct WblockScan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> WblockScan<'a> {
    /// The pieces of the write block `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        WblockScan { bytes, at: 0 }
    }

    fn after(&self, offset: usize) -> &'a [u8] {
        self.bytes.get(offset..).unwrap_or_default()
    }

    /// Goes to where the next record or damage begins, or to the end, if no magic stands here.
    fn skip(&mut self) -> Option<Piece<'a>> {
        let start = self.at;
        if !is_zero_unit(self.after(start)) {
            return Some(self.take_headless());
        }
        let rest = self.after(start);
        let zeros = rest.chunks(RBLOCK_SIZE).take_while(|unit| is_zero(unit)).map(<[u8]>::len).sum();
        let former = rest.get(zeros..).unwrap_or_default();
        let magic = former.chunks(RBLOCK_SIZE).position(starts_with_record);
        let size = magic.map_or(former.len(), |units| units * RBLOCK_SIZE);
        self.at = start + zeros + size;
        (size > 0).then_some(Piece::Stale { offset: start + zeros, size })
    }

    /// The damage where a record must begin and no magic stands.
    fn take_headless(&mut self) -> Piece<'a> {
        let offset = self.at;
        let record = FlatRecord::parse_whatever_magic(self.after(offset));
        let whole = record.ok().filter(|record| record.verify().is_ok());
        self.at = whole.map_or_else(|| self.damage_end(offset), |record| offset + record.size);
        Piece::Damage { offset, size: self.at - offset, reason: FlatError::Magic }
    }

    /// Where damage of unknown size that begins at `offset` ends: at the next whole record, or the next zeros.
    fn damage_end(&self, offset: usize) -> usize {
        let units = self.after(offset).chunks(RBLOCK_SIZE).skip(1);
        let end =
            offset + RBLOCK_SIZE + units.take_while(|unit| !is_zero(unit)).map(<[u8]>::len).sum::<usize>();
        let end = end.min(self.bytes.len());
        self.whole_record_between(offset + RBLOCK_SIZE, end).unwrap_or(end)
    }

    /// The record or damage at the magic that stands here.
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
        self.at = match stated_end {
            Some(end) => self.whole_record_between(offset + RBLOCK_SIZE, end).unwrap_or(end),
            None => self.damage_end(offset),
        };
        Piece::Damage { offset, size: self.at - offset, reason }
    }

    /// Where the first whole record begins from `start` on and before `end`.
    fn whole_record_between(&self, start: usize, end: usize) -> Option<usize> {
        (start..end).step_by(RBLOCK_SIZE).find(|offset| {
            let bytes = self.after(*offset);
            starts_with_record(bytes) && FlatRecord::parse(bytes).is_ok_and(|record| record.verify().is_ok())
        })
    }

    /// Whether what stands at `offset` is what may follow a record.
    fn could_end_at(&self, offset: usize) -> bool {
        let Some(rest) = self.bytes.get(offset..) else { return false };
        starts_with_record(rest) || is_zero_unit(rest)
    }
}

impl<'a> Iterator for WblockScan<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.at < self.bytes.len()
            && !starts_with_record(self.after(self.at))
            && let Some(piece) = self.skip()
        {
            return Some(piece);
        }
        (self.at < self.bytes.len()).then(|| self.take_record())
    }
}

/// Whether `bytes` begin with a record's magic. A write block in use does.
#[inline]
#[must_use]
pub fn starts_with_record(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC.to_le_bytes())
}

/// Whether the unit at the start of `bytes` is zero, as far as it is there.
fn is_zero_unit(bytes: &[u8]) -> bool {
    is_zero(bytes.get(..RBLOCK_SIZE).unwrap_or(bytes))
}

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<RBLOCK_SIZE>();
    words.iter().all(|word| u128::from_le_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// What decides which of two stored copies of a record is the newer.
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

    /// Whether this copy takes the place of `known`: updated later; or at the same time with a later generation, in
    /// the circle of 16 bits; or that too alike, living longer. Of equal copies, as defrag leaves them, the known stays.
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

    fn keys(block: &[u8]) -> Vec<u8> {
        let key = |piece| match piece {
            Piece::Record { record, .. } => Some(record.digest.0[0]),
            _ => None,
        };
        WblockScan::new(block).filter_map(key).collect()
    }

    #[test]
    fn records_are_found_in_order() {
        let block = block(&[record(1, 10), record(2, 300), record(3, 0)]);
        assert_eq!(keys(&block), [1, 2, 3]);
        assert_eq!(WblockScan::new(&block).count(), 3);
        assert_eq!(WblockScan::new(&[0; SIZE]).count(), 0);
        assert_eq!(WblockScan::new(&[]).count(), 0);
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
                assert!(WblockScan::new(&block).any(is_told), "byte {at} is lost in silence");
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
            let damage = WblockScan::new(&block).nth(damaged);
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
            // In the value, and not a record.
            if damaged == 1 {
                block[offset + 128..offset + 132].copy_from_slice(&MAGIC.to_le_bytes());
            }
            let expected: Vec<u8> = (1..4).filter(|key| usize::from(*key) != damaged + 1).collect();
            assert_eq!(keys(&block), expected);
            let damage: Vec<_> =
                WblockScan::new(&block).filter(|piece| !matches!(piece, Piece::Record { .. })).collect();
            assert!(matches!(damage[..], [Piece::Damage { offset: at, .. }] if at == offset), "{damage:?}");
        }
    }

    #[test]
    fn a_damaged_size_does_not_reach_over_other_records() {
        // All of one size, 64 units of 16 bytes: one bit more, and the first ends where the third begins, or in the zeros.
        let records: Vec<_> = (1..5).map(|key| record(key, 1024 - 60)).collect();
        assert!(records.iter().all(|record| record.len() == 1024));
        for bit in [6, 7] {
            let mut block = block(&records);
            block[4] ^= 1 << bit;
            assert_eq!(keys(&block), [2, 3, 4], "bit {bit}");
            let first = WblockScan::new(&block).next();
            assert!(matches!(first, Some(Piece::Damage { offset: 0, .. })), "{first:?}");
        }
    }

    #[test]
    fn older_life_behind_new_records_is_read() {
        let mut block = block(&[record(1, 500), record(2, 100), record(3, 100)]);
        let new = record(4, 64);
        block[..new.len()].copy_from_slice(&new);
        block[new.len()..256].fill(0);
        assert_eq!(keys(&block), [4, 2, 3]);
        let stale = WblockScan::new(&block).nth(1);
        let expected = record(1, 500).len() - 256;
        assert_eq!(stale, Some(Piece::Stale { offset: 256, size: expected }));
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
            for piece in WblockScan::new(&bytes) {
                let (offset, size) = match piece {
                    Piece::Record { offset, record } => (offset, record.size),
                    Piece::Damage { offset, size, .. } | Piece::Stale { offset, size } => (offset, size),
                };
                prop_assert!(offset >= end && size > 0 && offset % RBLOCK_SIZE == 0);
                end = offset + size;
            }
            prop_assert!(end <= bytes.len());
        }
    }
}
