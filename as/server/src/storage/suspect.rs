//! Suspects: findings of a load that are either damage or the trace of a write that a crash cut short.
//!
//! A crash may leave a torn record after the last whole one of a block that was being written, and another
//! server may leave zeros there. The records concerned were not acknowledged, or are stored elsewhere, so
//! these findings must not raise an alarm. Damage looks the same, but in a used block live records follow it.
//! These findings are therefore kept until everything is loaded, and their blocks are read again (`judge`).
//! Damage in the last record of a block is recognized by the bytes after it: there records end as they
//! should, and the bytes that a write left out are not zeros.

use std::path::Path;

use datamodel::flat::{FlatError, FlatRecord};

use super::wblock::WblockId;

/// Largest number of findings kept for one disk. A crash leaves few.
pub(super) const SUSPECTS_MAX: usize = 1000;

/// Bytes of a block that are not a valid record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspect {
    pub(super) block: WblockId,
    pub(super) offset: usize,
    pub(super) size: usize,
    /// The error in the bytes; `None` if they begin with zeros.
    pub(super) reason: Option<FlatError>,
}

/// Logs that a record at offset `place` of the medium at `path` is loaded although the header of the list or map in its
/// bin `bin` is wrong.
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
