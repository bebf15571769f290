//! POSIX regular expressions, basic and extended, as the C library of GNU systems understands them in the C locale:
//! bytes are characters, and `\+ \? \| \w \W \s \S \b \B \< \> \` \'` and back-references work in both dialects.
//!
//! [`parse`] reads a pattern. Without back-references it becomes an [`automaton`], which takes time linear in the text,
//! for each byte up to as much as the pattern has states. With them it is matched by [`backtrack`]ing, with a limit to
//! the steps. Both draw on a budget.

mod automaton;
mod backtrack;
mod parse;
mod set;

pub(super) use self::flags::Flags;

use self::automaton::Automaton;
use self::backtrack::Backtracker;
use crate::budget::Budget;

/// Flags of a regular expression. Bits without meaning are ignored, and so is one that asks for no positions of matches.
pub(super) mod flags {
    const EXTENDED: u64 = 1;
    const IGNORE_CASE: u64 = 2;
    const NEWLINE: u64 = 4;

    /// Flags, taken apart.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(in super::super) struct Flags {
        /// The extended dialect.
        pub(in super::super) extended: bool,
        /// Letters of either case match each other.
        pub(in super::super) ignore_case: bool,
        /// Lines are matched: anchors match at their ends, and neither `.` nor a list of what is not wanted matches a
        /// newline.
        pub(in super::super) by_line: bool,
    }

    impl Flags {
        pub(in super::super) const fn from_bits(bits: u64) -> Self {
            Self {
                extended: bits & EXTENDED != 0,
                ignore_case: bits & IGNORE_CASE != 0,
                by_line: bits & NEWLINE != 0,
            }
        }
    }
}

/// A compiled regular expression.
#[derive(Clone, Debug)]
pub(super) struct Regex(Matcher);

#[derive(Clone, Debug)]
enum Matcher {
    Automaton(Box<Automaton>),
    Backtracker(Box<Backtracker>),
}

impl Regex {
    /// Compiles `pattern`, which ends before its first zero byte. `None` if it is invalid or too large, or if the budget
    /// is exhausted.
    pub(super) fn new(pattern: &[u8], flag_bits: u64, budget: &Budget<'_>) -> Option<Self> {
        let flags = Flags::from_bits(flag_bits);
        let (node, has_back_references) = parse::parse(before_zero(pattern), flags)?;
        Some(Regex(if has_back_references {
            Matcher::Backtracker(Box::new(Backtracker::new(&node, flags)?))
        } else {
            Matcher::Automaton(Box::new(Automaton::new(&node, budget)?))
        }))
    }

    /// Whether part of `text`, which ends before its first zero byte, matches. `None` if that took too long to find out.
    pub(super) fn is_match(&self, text: &[u8], budget: &Budget<'_>) -> Option<bool> {
        budget.draw_for(text.len()).ok()?;
        let text = before_zero(text);
        match &self.0 {
            Matcher::Automaton(automaton) => automaton.is_match(text, budget),
            Matcher::Backtracker(backtracker) => backtracker.is_match(text, budget),
        }
    }

    /// Bytes that it takes, about.
    pub(super) fn memory_size(&self) -> usize {
        match &self.0 {
            Matcher::Automaton(automaton) => automaton.memory_size(),
            Matcher::Backtracker(backtracker) => backtracker.memory_size(),
        }
    }
}

fn before_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A position that is asked for rather than a byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Assertion {
    TextStart,
    TextEnd,
    LineStart,
    LineEnd,
    WordStart,
    WordEnd,
    WordBoundary,
    NoWordBoundary,
}

/// A pattern, parsed.
#[derive(Clone, PartialEq, Debug)]
enum Node {
    Empty,
    /// One byte of these.
    Set(set::ByteSet),
    Assertion(Assertion),
    Concat(Vec<Node>),
    Alternate(Vec<Node>),
    /// Number, from 0, and contents.
    Group(u32, Box<Node>),
    /// What the group of this number matched last.
    BackReference(u32),
    Repeat {
        node: Box<Node>,
        min: u32,
        max: Option<u32>,
    },
}

impl Node {
    /// Whether whatever it matches has a byte at least, as far as that is easily seen.
    fn takes_a_byte(&self) -> bool {
        match self {
            Node::Set(_) => true,
            Node::Empty | Node::Assertion(_) | Node::BackReference(_) => false,
            Node::Concat(nodes) => nodes.iter().any(Node::takes_a_byte),
            Node::Alternate(nodes) => nodes.iter().all(Node::takes_a_byte),
            Node::Group(_, node) => node.takes_a_byte(),
            Node::Repeat { node, min, .. } => *min != 0 && node.takes_a_byte(),
        }
    }
}

#[cfg(test)]
mod tests;
