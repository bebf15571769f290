//! The outbox: replies of several connections, made one after the other and sent together.

use std::ops::Range;

use super::KEEP_SIZE_MAX;
use super::delivery::ConnectionToken;

/// Replies and their connections.
#[derive(Default)]
pub(super) struct Outbox {
    /// Replies of all connections, one after the other.
    pub(super) replies: Vec<u8>,
    /// Connections and the ranges of their replies, in the order in which the replies were made.
    parts: Vec<(ConnectionToken, Range<usize>)>,
    /// End of the last replies that are assigned to a connection.
    addressed: usize,
}

impl Outbox {
    /// Assigns the replies added since the last call to connection `token`.
    pub(super) fn address(&mut self, token: ConnectionToken) {
        let end = self.replies.len();
        if self.addressed < end {
            self.parts.push((token, self.addressed..end));
            self.addressed = end;
        }
    }

    /// Number of parts, each the replies of one connection.
    pub(super) fn part_count(&self) -> usize {
        self.parts.len()
    }

    /// The connection of a part, and the range of its replies in `replies`.
    pub(super) fn part(&self, at: usize) -> (ConnectionToken, Range<usize>) {
        self.parts[at].clone()
    }

    /// The connections of the parts.
    pub(super) fn tokens(&self) -> impl Iterator<Item = ConnectionToken> {
        self.parts.iter().map(|(token, _)| *token)
    }

    /// Whether there are replies for connection `token`.
    pub(super) fn has_part_of(&self, token: ConnectionToken) -> bool {
        self.tokens().any(|other| other == token)
    }

    /// Moves the parts for which `is_moved` returns true to a separate outbox. `is_moved` gets each part with
    /// its old and its new range.
    pub(super) fn split_off(
        &mut self,
        mut is_moved: impl FnMut(ConnectionToken, &Range<usize>, usize) -> bool,
    ) -> Outbox {
        let mut moved = Outbox::default();
        self.parts.retain(|(token, range)| {
            let is_moved = is_moved(*token, range, moved.replies.len());
            if is_moved {
                moved.replies.extend_from_slice(&self.replies[range.clone()]);
                moved.address(*token);
            }
            !is_moved
        });
        moved
    }

    pub(super) fn clear(&mut self) {
        self.replies.clear();
        self.replies.shrink_to(KEEP_SIZE_MAX);
        self.parts.clear();
        self.addressed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_each_connection_its_own() {
        let mut outbox = Outbox::default();
        outbox.replies.extend_from_slice(b"ab");
        outbox.address(ConnectionToken(1));
        outbox.address(ConnectionToken(2));
        outbox.replies.extend_from_slice(b"cde");
        outbox.address(ConnectionToken(3));
        outbox.replies.extend_from_slice(b"f");
        outbox.address(ConnectionToken(1));
        let parts: Vec<_> = (0..outbox.part_count())
            .map(|at| outbox.part(at))
            .map(|(token, range)| (token, &outbox.replies[range]))
            .collect();
        assert_eq!(
            parts,
            [(ConnectionToken(1), &b"ab"[..]), (ConnectionToken(3), b"cde"), (ConnectionToken(1), b"f")]
        );
        let moved = outbox.split_off(|token, _, to| {
            assert!(to == 0 || to == 2);
            token == ConnectionToken(1)
        });
        assert_eq!((moved.replies.as_slice(), moved.part_count()), (&b"abf"[..], 2));
        assert_eq!((moved.part(1), outbox.part_count()), ((ConnectionToken(1), 2..3), 1));
        assert_eq!(outbox.part(0), (ConnectionToken(3), 2..5));
        outbox.clear();
        assert_eq!(outbox.part_count(), 0);
    }
}
