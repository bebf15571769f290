//! Flags of a regular expression. Bits without meaning are ignored, and so is one that asks for no positions of matches.

const EXTENDED: u64 = 1;
const IGNORE_CASE: u64 = 2;
const NEWLINE: u64 = 4;

/// Flags, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super::super) struct Flags {
    /// The extended dialect.
    pub(in super::super::super) extended: bool,
    /// Letters of either case match each other.
    pub(in super::super::super) ignore_case: bool,
    /// Lines are matched: anchors match at their ends, and neither `.` nor a list of what is not wanted matches a
    /// newline.
    pub(in super::super::super) by_line: bool,
}

impl Flags {
    pub(in super::super::super) const fn from_bits(bits: u64) -> Self {
        Self {
            extended: bits & EXTENDED != 0,
            ignore_case: bits & IGNORE_CASE != 0,
            by_line: bits & NEWLINE != 0,
        }
    }
}
