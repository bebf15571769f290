//! Presence: whether the client of a connection is still there, for the threads that answer it.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long an answer is still made, and a query continues without a reply, after the client has closed its
/// sending side: the client may still read. A vanished client cannot be distinguished from such a client
/// until something is sent.
pub(super) const DONE_PATIENCE: Duration = Duration::from_secs(2);

/// State of a connection for the threads that answer it.
#[derive(Default)]
pub(super) struct Presence {
    /// When the client closed its sending side.
    peer_done: OnceLock<Instant>,
}

impl Presence {
    /// Notes that the client sends nothing more.
    pub(super) fn peer_is_done(&self) {
        self.peer_done.get_or_init(Instant::now);
    }

    /// Whether the client closed its sending side so long ago that it must be gone.
    pub(super) fn is_gone(&self) -> bool {
        self.peer_done.get().is_some_and(|at| at.elapsed() >= DONE_PATIENCE)
    }
}
