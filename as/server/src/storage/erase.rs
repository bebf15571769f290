//! Erases stale records of a former use from a medium, so that no later start loads them.

use cf::aligned::AlignedBuf;
use cf::sys::block::{BlockError, BlockMedium};
use datamodel::wblock_scan::{is_zero, starts_with_record};

use super::WBLOCK_SIZE;
use super::peek::PEEK_SIZE;
use super::wblock::{WblockId, wblock_offset};

/// The used part of a medium ends where this many blocks in a row have no record at their start.
pub(super) const UNUSED_BLOCKS_MAX: u32 = 10;

/// Erases blocks of a former use from block `first` on, so that no later start loads them. A fresh medium may
/// hold such blocks, because only its header was erased. So may a medium that gets a copy, behind the copied
/// blocks.
pub(super) fn erase_former_use(medium: &dyn BlockMedium, first: u32, count: u32) -> Result<(), BlockError> {
    let zeros = AlignedBuf::zeroed(WBLOCK_SIZE as usize);
    let (mut peek, mut unused_in_a_row, mut erased) = (AlignedBuf::zeroed(PEEK_SIZE), 0, 0);
    for id in (first..count).map(WblockId) {
        medium.read_at(wblock_offset(id), &mut peek, 0..PEEK_SIZE)?;
        if starts_with_record(&peek) {
            medium.write_at(wblock_offset(id), &zeros, 0..WBLOCK_SIZE as usize)?;
            (unused_in_a_row, erased) = (0, erased + 1);
        } else {
            unused_in_a_row += 1;
            if unused_in_a_row == UNUSED_BLOCKS_MAX && is_zero(&peek) {
                break;
            }
        }
    }
    if erased > 0 {
        let path = medium.path().display();
        cf::warning!(DrvSsd, "{path}: {erased} write blocks of a former use were erased");
    }
    Ok(())
}
