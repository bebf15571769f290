//! Subflags of integer operations: signedness and overflow.

pub const SIGNED: u64 = 1;
/// An overflow gives the maximum or minimum value.
pub const SATURATE: u64 = 2;
/// An overflow drops the highest bit.
pub const WRAP: u64 = 4;
pub(super) const ALL: u64 = SIGNED | SATURATE | WRAP;
