//! The parsed form of a regular expression.

use super::set::ByteSet;

/// A condition on a position; it takes no byte.
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

/// A parsed pattern.
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
    /// The text that the group of this number last matched.
    BackReference(u32),
    Repeat {
        node: Box<Node>,
        min: u32,
        max: Option<u32>,
    },
}

impl Node {
    /// Whether every match takes at least one byte, if that is easy to see.
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
