//! Replies of several connections, made one after the other and sent together.

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

    /// Connections and their replies, in the order in which they were made.
    pub(super) fn parts(&self) -> impl Iterator<Item = (ConnectionToken, &[u8])> {
        let mut start = 0;
        self.parts.iter().map(move |(token, end)| {
            let replies = &self.replies[start..*end];
            start = *end;
            (*token, replies)
        })
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
        let parts: Vec<_> = outbox.parts().collect();
        assert_eq!(
            parts,
            [(ConnectionToken(1), &b"ab"[..]), (ConnectionToken(3), b"cde"), (ConnectionToken(1), b"f")]
        );
        outbox.clear();
        assert_eq!(outbox.parts().count(), 0);
    }
}
