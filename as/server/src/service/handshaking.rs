//! TLS handshakes of connections.
//!
//! A handshake takes up to a millisecond of CPU time, so handshakes wait in a separate queue, and a wake-up
//! spends a bounded time on them after all other connections have been served. A connection whose handshake
//! is not done in time is closed.

use std::io;
use std::time::{Duration, Instant};

use super::delivery::ConnectionToken;
use super::event_loop::{RECEIVE_SIZE, ServiceThread, Verdict};
use crate::metrics::ServerCounter;

/// Longest time of a handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// Longest time that a wake-up spends on handshakes. One that has begun its turn is finished.
const TURN_TIME_MAX: Duration = Duration::from_micros(500);

impl ServiceThread {
    /// Continues as many handshakes as there is time for.
    pub(super) fn go_on_with_handshakes(&mut self) {
        if !self.handshakes.has_waiting() {
            return;
        }
        let started = Instant::now();
        let mut buffer = std::mem::take(&mut self.receive_buffer);
        while let Some(token) = self.handshakes.waiting.pop_front() {
            self.guard(token, |thread, slot| {
                thread.go_on_with_handshake(slot, token, &mut buffer[..RECEIVE_SIZE])
            });
            if started.elapsed() > TURN_TIME_MAX {
                break;
            }
        }
        self.receive_buffer = buffer;
    }

    fn go_on_with_handshake(&mut self, slot: u32, token: ConnectionToken, buffer: &mut [u8]) -> Verdict {
        let Some(connection) = self.connections.get(slot) else { return Verdict::Keep };
        if !connection.is_handshaking || connection.is_blocked() || !connection.may_read {
            return Verdict::Keep;
        }
        cf::fault_point!("handshake");
        if let Err(error) = connection.go_on_with_handshake(buffer) {
            self.context.metrics.add(ServerCounter::TlsHandshakesFailed, 1);
            // A client that disconnects, or a port scan, is not worth a warning.
            if error.kind() == io::ErrorKind::InvalidData {
                cf::warning_limited!(Tls, "TLS handshake with {} failed: {error}", connection.peer);
            } else {
                cf::detail!(Tls, "TLS handshake with {} ended: {error}", connection.peer);
            }
            return Verdict::Close;
        }
        if !connection.is_handshaking {
            connection.last_active = self.woken;
            self.ready.push(slot);
            self.context.metrics.add(ServerCounter::TlsHandshakes, 1);
        } else if connection.may_read && !connection.is_blocked() {
            self.handshakes.wait(token);
        }
        Verdict::Keep
    }

    /// Closes connections that take too long for their handshake.
    pub(super) fn close_unfinished_handshakes(&mut self) {
        let mut begun = std::mem::take(&mut self.handshakes.begun);
        begun.retain(|(token, since)| {
            let Some(slot) = self.connections.slot_of(*token) else { return false };
            let Some(connection) = self.connections.get(slot) else { return false };
            if !connection.is_handshaking {
                return false;
            }
            let is_late = self.woken.saturating_duration_since(*since) > HANDSHAKE_TIME_MAX;
            if is_late {
                cf::warning_limited!(
                    Tls,
                    "TLS handshake with {} is not done after {HANDSHAKE_TIME_MAX:?}: closing it",
                    connection.peer
                );
                self.close(slot);
                self.context.metrics.add(ServerCounter::TlsHandshakesTimedOut, 1);
            }
            !is_late
        });
        self.handshakes.begun = begun;
    }
}
