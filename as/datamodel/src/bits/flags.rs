//! Flags of operations that modify the bits of a blob.

/// The bin must not exist.
pub const CREATE_ONLY: u64 = 1;
/// The bin must exist.
pub const UPDATE_ONLY: u64 = 2;
/// An operation that fails changes nothing, and is not an error.
pub const NO_FAIL: u64 = 4;
/// An operation that reaches beyond the end of the blob applies up to the end.
pub const PARTIAL: u64 = 8;
