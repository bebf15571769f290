//! What a load finds that is either damage or the trace of a write that a crash cut short.
//!
//! A crash may leave a torn record behind the last whole one of a block that was being written, and another server may
//! leave zeros there. Neither was acknowledged, or it is stored elsewhere, so nobody is to be alarmed. Damage looks the same
//! where it is, but in a block in use there are live records behind it. So these finds are kept until everything is
//! loaded, and their blocks are read again (`judge`). Damage in the last record of a block is told apart by what is behind it:
//! there the records end as they should, and what a write left out is not zeros.

use std::path::Path;

use datamodel::flat::{FlatError, FlatRecord};

use super::wblock::WblockId;

/// Finds that are kept of one disk. A crash leaves few.
pub(super) const SUSPECTS_MAX: usize = 1000;

/// Bytes of a block that are no record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspect {
    pub(super) block: WblockId,
    pub(super) offset: usize,
    pub(super) size: usize,
    /// What is wrong with them; `None`: they begin with zeros.
    pub(super) reason: Option<FlatError>,
}

/// Says that a record at offset `place` of the medium at `path` is loaded though the header of the list or map in its bin
/// `bin` cannot be right.
pub(super) fn report_lying(path: &Path, place: u64, record: &FlatRecord<'_>, bin: &[u8]) {
    cf::warning_limited!(
        Storage,
        "{}: at offset {place}: record {} of set '{}' is damaged: the list or map in its bin '{}' announces more elements \
         than there are; operations on it fail; write it again or restore it from a backup",
        path.display(),
        record.digest,
        String::from_utf8_lossy(record.set_name),
        String::from_utf8_lossy(bin)
    );
}
