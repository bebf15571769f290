//! A regular expression, parsed.

use super::set::ByteSet;

/// A position that is asked for rather than a byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Assertion {
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
pub(super) enum Node {
    Empty,
    /// One byte of these.
    Set(ByteSet),
    Assertion(Assertion),
    Concat(Vec<Node>),
    Alternate(Vec<Node>),
    /// Number, from 0, and contents.
    Group(u32, Box<Node>),
    /// The text that the group of this number matched last.
    BackReference(u32),
    Repeat {
        node: Box<Node>,
        min: u32,
        max: Option<u32>,
    },
}

impl Node {
    /// Whether whatever it matches has a byte at least, as far as that is easily seen.
    pub(super) fn takes_a_byte(&self) -> bool {
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
