//! Flags of a regular expression. Bits without a meaning are ignored, and so is the flag that requests no
//! positions of matches.

const EXTENDED: u64 = 1;
const IGNORE_CASE: u64 = 2;
const NEWLINE: u64 = 4;

/// The parsed flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super::super) struct Flags {
    /// Whether the dialect is the extended one.
    pub(in super::super::super) extended: bool,
    /// Whether letters of either case match each other.
    pub(in super::super::super) ignore_case: bool,
    /// Whether lines are matched. Anchors then match at the ends of lines, and neither `.` nor a negated list
    /// matches a newline.
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
