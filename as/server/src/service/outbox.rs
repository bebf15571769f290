//! Replies of several connections, made one after the other and sent together.

use std::ops::Range;

use super::KEEP_SIZE_MAX;
use super::mailbox::ConnectionToken;

/// Replies, and to whom they go.
#[derive(Default)]
pub(super) struct Outbox {
    /// Those of all connections, one behind the other.
    pub(super) replies: Vec<u8>,
    /// Connections and where their replies end.
    parts: Vec<(ConnectionToken, usize)>,
}

impl Outbox {
    /// What has been added since the last call is for connection `token`.
    pub(super) fn address(&mut self, token: ConnectionToken) {
        let end = self.replies.len();
        if self.parts.last().map_or(0, |(_, end)| *end) < end {
            self.parts.push((token, end));
        }
    }

    /// Number of parts, each the replies of one connection, in the order in which they were made.
    pub(super) fn part_count(&self) -> usize {
        self.parts.len()
    }

    /// The connection of a part, and where in `replies` its replies are.
    pub(super) fn part(&self, at: usize) -> (ConnectionToken, Range<usize>) {
        let start = at.checked_sub(1).map_or(0, |before| self.parts[before].1);
        let (token, end) = self.parts[at];
        (token, start..end)
    }

    /// Whether there are replies for connection `token`.
    pub(super) fn has_part_of(&self, token: ConnectionToken) -> bool {
        self.parts.iter().any(|(other, _)| *other == token)
    }

    pub(super) fn clear(&mut self) {
        self.replies.clear();
        self.replies.shrink_to(KEEP_SIZE_MAX);
        self.parts.clear();
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
        outbox.clear();
        assert_eq!(outbox.part_count(), 0);
    }
}
