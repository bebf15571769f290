//! Reads the first bytes of write blocks, to find used ones without reading the whole device.

use cf::aligned::AlignedBuf;
use cf::sys::block::{BlockError, BlockMedium};
use datamodel::wblock_scan::starts_with_record;

use super::WBLOCK_SIZE;
use super::wblock::{WblockId, wblock_offset};

/// Number of bytes read to find out whether a block was ever used.
pub(super) const PEEK_SIZE: usize = 4096;
/// Number of blocks at the start of a device without a header that are all checked.
const FIRST_BLOCKS: u32 = 64;
/// Number of blocks that are checked in the rest of such a device.
const SAMPLES: u32 = 1024;

/// Whether the first bytes of a block show that it was used.
pub(super) type IsUsed = fn(&[u8]) -> bool;

/// The first block from `first` on and before `count` that begins with a record. Blocks that are holes in a
/// file are skipped.
pub(super) fn next_used(medium: &dyn BlockMedium, first: u32, count: u32) -> Result<Option<u32>, BlockError> {
    next(medium, first, count, starts_with_record)
}

fn next(
    medium: &dyn BlockMedium,
    first: u32,
    count: u32,
    is_used: IsUsed,
) -> Result<Option<u32>, BlockError> {
    let (mut peek, mut at) = (AlignedBuf::zeroed(PEEK_SIZE), first);
    while at < count {
        let Some(data_at) = medium.next_data(wblock_offset(WblockId(at))) else { return Ok(None) };
        at = at.max((data_at / u64::from(WBLOCK_SIZE)) as u32);
        if at < count && is_used(peek_at(medium, at, &mut peek)?) {
            return Ok(Some(at));
        }
        at += 1;
    }
    Ok(None)
}

/// A used block of a device of `count` blocks, if there is one at the places where a used device has some. A
/// large device is not read completely.
pub(super) fn sign_of_use(
    medium: &dyn BlockMedium,
    count: u32,
    is_used: IsUsed,
) -> Result<Option<u32>, BlockError> {
    if let Some(found) = next(medium, 1, count.min(FIRST_BLOCKS), is_used)? {
        return Ok(Some(found));
    }
    let (mut peek, step) = (AlignedBuf::zeroed(PEEK_SIZE), (count / SAMPLES).max(1));
    for at in (FIRST_BLOCKS..count).step_by(step as usize) {
        if is_used(peek_at(medium, at, &mut peek)?) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn peek_at<'p>(medium: &dyn BlockMedium, at: u32, peek: &'p mut AlignedBuf) -> Result<&'p [u8], BlockError> {
    medium.read_at(wblock_offset(WblockId(at)), peek, 0..PEEK_SIZE)?;
    Ok(peek)
}
