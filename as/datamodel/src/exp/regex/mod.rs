//! POSIX regular expressions, basic and extended, as the C library of GNU systems understands them in the C locale:
//! bytes are characters, and `\+ \? \| \w \W \s \S \b \B \< \> \` \'` and back-references work in both dialects.
//!
//! [`parse`] reads a pattern. A pattern without back-references becomes an [`automaton`]. Its time is linear
//! in the text, with at most the number of the pattern's states for each byte. A pattern with back-references
//! is matched by [`backtrack`]ing, with a limited number of steps. Both draw on a budget.

mod automaton;
mod backtrack;
pub(super) mod flags;
mod node;
mod parse;
mod set;

pub(super) use self::flags::Flags;

use self::automaton::Automaton;
use self::backtrack::Backtracker;
use self::node::{Assertion, Node};
use crate::budget::Budget;

/// A compiled regular expression.
#[derive(Clone, Debug)]
pub(super) struct Regex(Matcher);

#[derive(Clone, Debug)]
enum Matcher {
    Automaton(Box<Automaton>),
    Backtracker(Box<Backtracker>),
}

impl Regex {
    /// Compiles `pattern`, which ends at its first zero byte. `None` if it is invalid or too large, or if the
    /// budget is exhausted.
    pub(super) fn new(pattern: &[u8], flag_bits: u64, budget: &Budget<'_>) -> Option<Self> {
        let flags = Flags::from_bits(flag_bits);
        let (node, has_back_references) = parse::parse(before_zero(pattern), flags)?;
        Some(Regex(if has_back_references {
            Matcher::Backtracker(Box::new(Backtracker::new(&node, flags)?))
        } else {
            Matcher::Automaton(Box::new(Automaton::new(&node, budget)?))
        }))
    }

    /// Whether a part of `text`, which ends at its first zero byte, matches. `None` if that took too long.
    pub(super) fn is_match(&self, text: &[u8], budget: &Budget<'_>) -> Option<bool> {
        budget.draw_for(text.len()).ok()?;
        let text = before_zero(text);
        match &self.0 {
            Matcher::Automaton(automaton) => automaton.is_match(text, budget),
            Matcher::Backtracker(backtracker) => backtracker.is_match(text, budget),
        }
    }

    /// Approximate size in bytes.
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

#[cfg(test)]
mod tests;
