//! The queue of TLS connections whose handshake is in progress.

use std::collections::VecDeque;
use std::time::Instant;

use super::delivery::ConnectionToken;

/// The handshakes of a service thread.
#[derive(Default)]
pub(super) struct Handshakes {
    /// Connections with received bytes.
    pub(super) waiting: VecDeque<ConnectionToken>,
    /// Handshakes in progress with their start, oldest first. Finished ones are removed at the next tick.
    pub(super) begun: VecDeque<(ConnectionToken, Instant)>,
}

impl Handshakes {
    /// Notes that a handshake begins.
    pub(super) fn begin(&mut self, token: ConnectionToken, now: Instant) {
        self.begun.push_back((token, now));
    }

    /// Notes that a connection has received bytes.
    pub(super) fn wait(&mut self, token: ConnectionToken) {
        self.waiting.push_back(token);
    }

    /// Whether a handshake can continue.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}
