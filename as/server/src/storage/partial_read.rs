//! Reads write blocks that are partly unreadable.
//!
//! A block is read at once. If that fails, it is read in pieces, and a failing piece in units, so that a bad
//! sector costs only the records on it. Unreadable bytes are zeros in the buffer. Inside a value they cannot
//! be distinguished from written zeros, so a reader of records calls [`Unreadable::concerns`] for each
//! record.

use std::ops::Range;

use cf::aligned::AlignedBuf;
use cf::sys::block::{BlockError, BlockMedium, IO_SIZE_MAX};

use super::WBLOCK_SIZE;
use super::wblock::{WblockId, wblock_offset};

/// Size of the pieces of a block that cannot be read as a whole.
const PIECE_SIZE: usize = 128 << 10;
/// Size of the units of such a piece.
const UNIT_SIZE: usize = IO_SIZE_MAX as usize;
/// Number of failures after which the rest of a block is given up: each may take seconds on a dying disk.
const FAILURES_MAX: usize = 64;

const _: () =
    assert!((WBLOCK_SIZE as usize).is_multiple_of(PIECE_SIZE) && PIECE_SIZE.is_multiple_of(UNIT_SIZE));

/// The part of a block that could not be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    /// The first failure of a unit.
    pub(super) error: BlockError,
    /// Byte ranges on the medium, in order.
    pub(super) places: Vec<Range<u64>>,
}

impl Unreadable {
    /// Whether one of the `size` bytes at `offset` of the medium could not be read.
    pub(super) fn concerns(&self, offset: u64, size: usize) -> bool {
        self.places.iter().any(|place| place.start < offset + size as u64 && offset < place.end)
    }
}

/// Reads block `id` of `medium` into the first bytes of `block`; returns the bytes that could not be read.
pub(super) fn read_wblock(
    medium: &dyn BlockMedium,
    id: WblockId,
    block: &mut AlignedBuf,
) -> Option<Unreadable> {
    let (start, size) = (wblock_offset(id), WBLOCK_SIZE as usize);
    let mut read = |range: Range<usize>| medium.read_at(start + range.start as u64, block, range);
    let whole = read(0..size).err()?;
    let mut holes: Vec<Range<usize>> = Vec::new();
    let (mut first, mut failures) = (None, 0);
    for piece in (0..size).step_by(PIECE_SIZE) {
        if failures < FAILURES_MAX && read(piece..piece + PIECE_SIZE).is_ok() {
            continue;
        }
        for unit in (piece..piece + PIECE_SIZE).step_by(UNIT_SIZE) {
            if failures < FAILURES_MAX {
                let Err(error) = read(unit..unit + UNIT_SIZE) else { continue };
                first.get_or_insert(error);
                failures += 1;
            }
            match holes.last_mut().filter(|hole| hole.end == unit) {
                Some(hole) => hole.end += UNIT_SIZE,
                None => holes.push(unit..unit + UNIT_SIZE),
            }
        }
    }
    for hole in &holes {
        block[hole.clone()].fill(0);
    }
    if holes.is_empty() {
        // The error was transient.
        return None;
    }
    let places = holes.iter().map(|hole| start + hole.start as u64..start + hole.end as u64).collect();
    Some(Unreadable { error: first.unwrap_or(whole), places })
}

#[cfg(test)]
mod tests {
    use super::super::crash_medium::{CrashMedium, Faults};
    use super::*;

    #[test]
    fn only_unreadable_bytes_are_missing() {
        let medium = CrashMedium::from_image(vec![7; 3 * WBLOCK_SIZE as usize], true);
        let mut block = AlignedBuf::zeroed(WBLOCK_SIZE as usize);
        assert!(read_wblock(&medium, WblockId(1), &mut block).is_none());
        let bad = u64::from(WBLOCK_SIZE) + 200_000;
        medium.set_faults(Faults { unreadable: Some(bad..bad + 5_000), ..Faults::default() });
        let unreadable = read_wblock(&medium, WblockId(1), &mut block).expect("a hole");
        let hole = bad / 4096 * 4096..(bad + 5_000).next_multiple_of(4096);
        assert_eq!(unreadable.places, std::slice::from_ref(&hole));
        assert!(unreadable.concerns(hole.end - 16, 16) && unreadable.concerns(hole.start - 8, 16));
        assert!(!unreadable.concerns(hole.start - 16, 16) && !unreadable.concerns(hole.end, 1 << 20));
        assert_eq!(unreadable.error.place, Some(hole.start..hole.start + 4096));
        let start = u64::from(WBLOCK_SIZE);
        for (at, byte) in block.iter().enumerate() {
            let expected = if hole.contains(&(start + at as u64)) { 0 } else { 7 };
            assert_eq!(*byte, expected, "byte {at}");
        }
    }

    #[test]
    fn a_dead_disk_is_not_asked_for_ever() {
        let medium = CrashMedium::from_image(vec![7; 2 * WBLOCK_SIZE as usize], true);
        medium.set_faults(Faults { unreadable: Some(0..u64::MAX), ..Faults::default() });
        let mut block = AlignedBuf::zeroed(WBLOCK_SIZE as usize);
        let unreadable = read_wblock(&medium, WblockId(1), &mut block).expect("nothing but holes");
        let start = u64::from(WBLOCK_SIZE);
        assert_eq!(unreadable.places, std::slice::from_ref(&(start..2 * start)));
        assert!(block.iter().all(|byte| *byte == 0));
    }
}
