//! The progress of a stream of replies, shared by the thread that makes them and the connection that sends
//! them.
//!
//! # Locking
//! One mutex per stream, taken alone; no callback runs under it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::presence::DONE_PATIENCE;
use super::reply_budget::{Charge, ReplyBudget};
use crate::transaction::GoOn;

/// Number of bytes that may wait for the client before the maker has to wait.
const UNSENT_SIZE_MAX: usize = 1 << 20;

/// State of a stream.
pub(super) struct Progress {
    pub(super) unsent: usize,
    /// When the socket last took bytes.
    pub(super) moved: Instant,
    /// When the client closed its sending side, if that ends the stream after [`DONE_PATIENCE`].
    pub(super) peer_done: Option<Instant>,
    /// Whether the stream ends when the client closes its sending side.
    pub(super) ends_with_peer: bool,
    /// Whether the connection is gone, or was given up.
    pub(super) is_closed: bool,
    /// Callbacks of makers that wait for room.
    pub(super) waiting: VecDeque<GoOn>,
    /// Room reserved for the last reply before it is made, until the connection has it.
    pub(super) room: Option<Charge>,
    /// Unsent bytes in the budget of all replies.
    pub(super) charge: Charge,
}

impl Progress {
    pub(super) fn is_behind(&self) -> bool {
        let is_much = self.unsent > UNSENT_SIZE_MAX || self.unsent > 0 && self.charge.budget().is_used_up();
        is_much && !self.is_closed
    }

    /// Whether the client has closed its sending side and got no reply for so long that it must be gone.
    pub(super) fn is_peer_gone(&self) -> bool {
        let is_over = |done: Instant| self.moved.max(done).elapsed() >= DONE_PATIENCE;
        self.ends_with_peer && self.unsent == 0 && self.peer_done.is_some_and(is_over)
    }

    pub(super) fn add(&mut self, size: usize) {
        self.unsent += size;
        self.charge.set(self.unsent);
    }

    /// Takes the next maker that may continue.
    fn next(&mut self) -> Option<GoOn> {
        if self.is_behind() { None } else { self.waiting.pop_front() }
    }
}

/// The progress of a stream; shared by its maker and the connection.
pub(super) struct StreamProgress {
    pub(super) progress: Mutex<Progress>,
    pub(super) changed: Condvar,
}

impl StreamProgress {
    /// Makes the progress of a stream that begins. Its unsent bytes count in `budget`.
    pub(super) fn new(budget: &Arc<ReplyBudget>) -> Arc<Self> {
        Arc::new(StreamProgress {
            progress: Mutex::new(Progress {
                unsent: 0,
                moved: Instant::now(),
                peer_done: None,
                ends_with_peer: false,
                is_closed: false,
                waiting: VecDeque::new(),
                room: None,
                charge: Charge::new(budget),
            }),
            changed: Condvar::new(),
        })
    }

    /// Notes that the socket has taken `size` more bytes, some of which may be of replies before the stream.
    pub(super) fn sent(&self, size: usize) {
        if size == 0 {
            return;
        }
        let mut progress = self.progress.lock();
        progress.unsent = progress.unsent.saturating_sub(size);
        let unsent = progress.unsent;
        progress.charge.set(unsent);
        progress.moved = Instant::now();
        let next = progress.next();
        drop(progress);
        self.changed.notify_all();
        if let Some(go_on) = next {
            go_on();
        }
    }

    /// Notes that the last frames have arrived; the connection counts the unsent rest.
    pub(super) fn end(&self) {
        self.progress.lock().charge.set(0);
    }

    /// Notes that the client sends nothing more.
    pub(super) fn peer_is_done(&self) {
        self.progress.lock().peer_done.get_or_insert_with(Instant::now);
    }

    /// Notes that the connection is gone.
    pub(super) fn close(&self) {
        let mut progress = self.progress.lock();
        progress.is_closed = true;
        progress.charge.set(0);
        let waiting = std::mem::take(&mut progress.waiting);
        drop(progress);
        self.changed.notify_all();
        waiting.into_iter().for_each(|go_on| go_on());
    }
}
