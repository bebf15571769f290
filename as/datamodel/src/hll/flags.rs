//! Flags of operations that modify a sketch.

/// The bin must not exist.
pub const CREATE_ONLY: u64 = 1;
/// The bin must exist.
pub const UPDATE_ONLY: u64 = 2;
/// An operation that the two flags above forbid changes nothing, and is not an error.
pub const NO_FAIL: u64 = 4;
/// A union may make the bin's sketch smaller.
pub const ALLOW_FOLD: u64 = 8;
