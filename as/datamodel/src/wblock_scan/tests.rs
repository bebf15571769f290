//! Tests of the scan of a write block: whole blocks, damage, end marks.

use std::borrow::Cow;

use cf::Digest;
use proptest::prelude::*;

use super::*;
use crate::flat::NewRecord;
use crate::{Bins, BytesType, Particle};

const SIZE: usize = 8192;

fn record(key: u8, size: usize) -> Vec<u8> {
    record_with(key, &vec![key; size])
}

fn record_with(key: u8, value: &[u8]) -> Vec<u8> {
    let mut bins = Bins::new();
    bins.push(crate::Bin { name: b"bin", particle: Particle::Bytes(BytesType::Blob, Cow::Borrowed(value)) });
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
fn damage_costs_one_record_and_is_reported() {
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
        // The value contains a magic, which is not a record.
        if damaged == 1 {
            block[offset + 128..offset + 132].copy_from_slice(&MAGIC.to_le_bytes());
        }
        let expected: Vec<u8> = (1..4).filter(|key| usize::from(*key) != damaged + 1).collect();
        assert_eq!(keys(&block), expected);
        let damage: Vec<_> = scan(&block).filter(|piece| !matches!(piece, Piece::Record { .. })).collect();
        assert!(matches!(damage[..], [Piece::Damage { offset: at, .. }] if at == offset), "{damage:?}");
    }
}

#[test]
fn a_damaged_size_does_not_reach_over_other_records() {
    // All records have the same size, 64 units of 16 bytes. With one more bit set in its size, the first
    // record ends where the third begins, or in the zeros.
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

/// A block that once had a value, and whose beginning was written again.
fn filled_again(value: &[u8], new: &[u8], end: &[u8]) -> Vec<u8> {
    let mut block = block(&[record_with(7, value)]);
    block[..new.len()].copy_from_slice(new);
    block[new.len()..new.len() + end.len()].copy_from_slice(end);
    block
}

#[test]
fn bytes_after_the_end_mark_are_never_a_record() {
    let (new, forged) = (record(4, 64), record(9, 20));
    for shift in 0..16 {
        let mut value = vec![0xEE; shift];
        (0..40).for_each(|_| value.extend_from_slice(&forged));
        let block = filled_again(&value, &new, &MARK.at(new.len()));
        assert_eq!(keys(&block), [4], "shift {shift}");
        let stale = scan(&block).nth(1);
        assert!(matches!(stale, Some(Piece::Stale { offset, .. }) if offset == new.len() + RBLOCK_SIZE));
    }
    // A mark of another offset or block is not accepted, nor is a mark in a value.
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
        // The bytes that follow are not a record.
        block[behind..behind + 300].fill(0xEE);
        assert_eq!(scan(&block, key)[1..], [Piece::Stale { offset: behind, size: 304 }], "key {key}");
        // The records that follow were served by the other server.
        block[behind..behind + 300].fill(0);
        block[behind..behind + former.len()].copy_from_slice(&former);
        let pieces = scan(&block, key);
        assert!(pieces.len() == 2 && !pieces.iter().any(is_damage), "key {key}: {pieces:?}");
        // Only the damaged record before the mark is reported.
        block[30] ^= 0xFF;
        let first = scan(&block, key)[0];
        let is_all = matches!(first, Piece::Damage { offset: 0, size, .. } if size == new.len());
        assert!(is_all, "key {key}: {first:?}");
    }
}

#[test]
fn records_after_a_hole_are_found_and_the_hole_is_reported() {
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
        // The damage is in the metadata of the record, and in its end mark.
        for at in [8, 20, 30, records[1].len() - 12] {
            let mut block = block(&records);
            block[records[0].len() + at] ^= 0xFF;
            assert_eq!(keys(&block), [1, 3], "byte {at}");
        }
    }
}

#[test]
fn visit_everything_visits_records_of_earlier_uses() {
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
    let age = |last_update_time, generation, void_time| CopyAge { last_update_time, generation, void_time };
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
