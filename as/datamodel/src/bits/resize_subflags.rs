//! Subflags of a resize: how a blob is resized.

/// Bytes are added and removed at the front.
pub const FROM_FRONT: u64 = 1;
pub const GROW_ONLY: u64 = 2;
pub const SHRINK_ONLY: u64 = 4;
pub(super) const ALL: u64 = FROM_FRONT | GROW_ONLY | SHRINK_ONLY;
