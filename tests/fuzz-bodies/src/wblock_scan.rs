//! Write blocks with records that are overwritten, truncated or damaged. A scan must find every intact
//! record, or report the damage that hides it, because bytes within damage may belong to a value. It must
//! find no record that is not intact, and none after an end mark.
//!
//! The input fills the block as a server does, use after use: records of many sizes one after another from
//! the start, over the rest of the earlier use; the last record may be truncated. In between, bytes are
//! changed anywhere.

use std::collections::BTreeSet;

use cf::Digest;
use datamodel::flat::{FlatRecord, NewRecord, RBLOCK_SIZE};
use datamodel::wblock_scan::{EndMark, Piece, WblockScan};
use datamodel::{Bins, BytesType, Particle};

const BLOCK_SIZE: usize = 64 << 10;
const RECORDS_MAX: usize = 100;
const MARK: EndMark = EndMark::new(5, 1);

/// A record with bytes derived from `number`.
fn record(number: u8, size: usize) -> Vec<u8> {
    let mut bins = Bins::new();
    bins.set(b"bin", Particle::Bytes(BytesType::Blob, vec![number; size].into()));
    let record = NewRecord {
        digest: Digest([number; 20]),
        last_update_time: u64::from(number) + 1,
        generation: 1,
        void_time: 0,
        tree_id: 0,
        set_name: b"set",
        key: None,
        leaves_tombstone: size.is_multiple_of(5),
    };
    let mut flat = Vec::new();
    record.encode(&bins, record.size(&bins), &mut flat);
    flat
}

/// Runs one input as described at the top of this file.
pub fn run(input: &[u8]) {
    let mut block = vec![0; BLOCK_SIZE];
    let (mut at, mut number) = (0, 0u8);
    // The places of intact records.
    let mut whole: BTreeSet<(usize, usize)> = BTreeSet::new();
    let mut commands = input.chunks_exact(4);
    for command in commands.by_ref().take(RECORDS_MAX) {
        let argument = usize::from(u16::from_le_bytes([command[1], command[2]]));
        match command[0] % 8 {
            0 => at = 0,
            1 => {
                let flat = record(number, argument);
                let size = flat.len().min(BLOCK_SIZE - at);
                let arrived = usize::from(command[3]) * size / 256;
                block[at..at + arrived].copy_from_slice(&flat[..arrived]);
                whole.retain(|(start, end)| *end <= at || *start >= at + arrived);
                number = number.wrapping_add(1);
                at = 0;
            }
            2 => {
                let place = (at + argument) % BLOCK_SIZE;
                if block[place] != command[3] {
                    block[place] = command[3];
                    whole.retain(|(start, end)| *end <= place || *start > place);
                }
            }
            3 if at + RBLOCK_SIZE <= BLOCK_SIZE => {
                block[at..at + RBLOCK_SIZE].copy_from_slice(&MARK.at(at));
                whole.retain(|(start, end)| *end <= at || *start >= at + RBLOCK_SIZE);
            }
            _ => {
                let flat = record(number, argument % 3000);
                if at + flat.len() <= BLOCK_SIZE {
                    block[at..at + flat.len()].copy_from_slice(&flat);
                    let end = at + flat.len();
                    whole.retain(|(start, other_end)| *other_end <= at || *start >= end);
                    whole.insert((at, end));
                    number = number.wrapping_add(1);
                    at = end % BLOCK_SIZE;
                }
            }
        }
    }
    let mut next = 0;
    for piece in WblockScan::new(&block, MARK) {
        let (offset, size) = match piece {
            Piece::Record { offset, record } => {
                assert_eq!(FlatRecord::parse(&block[offset..]), Ok(record));
                assert_eq!(record.verify(), Ok(()));
                whole.remove(&(offset, offset + record.size));
                (offset, record.size)
            }
            Piece::Damage { offset, size, .. }
            | Piece::Gap { offset, size }
            | Piece::Stale { offset, size } => {
                whole.retain(|(start, end)| *start < offset || *end > offset + size);
                (offset, size)
            }
        };
        assert!(offset >= next && size > 0 && offset % RBLOCK_SIZE == 0 && size % RBLOCK_SIZE == 0);
        next = offset + size;
    }
    assert!(next <= BLOCK_SIZE);
    assert!(whole.is_empty(), "not found: {whole:?}");
}
