//! Replies that other threads make for a connection, with back-pressure.
//!
//! The maker posts frames to the connection's service thread and counts them as unsent; the service thread reports when
//! the socket has taken them. A maker with too much unsent either waits, or leaves a callback that is called when the
//! socket has taken enough.
//!
//! # Locking
//! One mutex per stream, taken alone; no callback runs under it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::compression::ReplyCompressor;
use super::mailbox::{ConnectionToken, Mail, Mailbox};
use super::reply_budget::{Charge, ReplyBudget};
use crate::transaction::{GoOn, GoOnWithRoom, ReplySink, SinkClosed, StalledSenders};

/// Bytes that may wait for the client before the maker does.
const UNSENT_SIZE_MAX: usize = 1 << 20;

/// How often a waiting maker checks whether its thread is needed.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// How long a client may read nothing when the thread that waits for it is needed, whatever the client's own timeout.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer is still made, and a query goes on without a reply, after the client has closed its sending side:
/// it may still read. A vanished client cannot be distinguished from it until something is sent.
pub(super) const DONE_PATIENCE: Duration = Duration::from_secs(2);

struct Progress {
    unsent: usize,
    /// When the socket last took bytes.
    moved: Instant,
    /// When the client closed its sending side, if that ends the stream after [`DONE_PATIENCE`].
    peer_done: Option<Instant>,
    /// Whether the closing ends the stream.
    ends_with_peer: bool,
    /// Whether the connection is gone, or was given up.
    is_closed: bool,
    /// Callbacks of makers that wait for room.
    waiting: VecDeque<GoOn>,
    /// Room reserved for the last reply before it is made, until the connection has it.
    room: Option<Charge>,
    /// Unsent bytes in the budget of all replies.
    charge: Charge,
}

impl Progress {
    fn is_behind(&self) -> bool {
        let is_much = self.unsent > UNSENT_SIZE_MAX || self.unsent > 0 && self.charge.budget().is_used_up();
        is_much && !self.is_closed
    }

    /// Whether the client has closed its sending side and got no reply for so long that it must be gone.
    fn is_peer_gone(&self) -> bool {
        let is_over = |done: Instant| self.moved.max(done).elapsed() >= DONE_PATIENCE;
        self.ends_with_peer && self.unsent == 0 && self.peer_done.is_some_and(is_over)
    }

    fn add(&mut self, size: usize) {
        self.unsent += size;
        self.charge.set(self.unsent);
    }

    /// The next maker that may go on.
    fn next(&mut self) -> Option<GoOn> {
        if self.is_behind() { None } else { self.waiting.pop_front() }
    }
}

/// The progress of a stream; shared by its maker and the connection.
pub(super) struct StreamProgress {
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl StreamProgress {
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

    /// Notes that the last frames have come: the connection counts the unsent rest.
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

/// The end of a stream for the thread that makes its replies.
pub(crate) struct ReplyStream {
    mailbox: Arc<Mailbox>,
    token: ConnectionToken,
    timeout: Option<Duration>,
    /// Counts the waiting makers.
    stalled: Arc<StalledSenders>,
    state: Arc<StreamProgress>,
    /// Set if the client asked for compressed replies.
    compressor: OnceLock<ReplyCompressor>,
    /// The last frames were sent, or the stream was [cancelled](Self::cancel).
    is_finished: AtomicBool,
}

impl ReplyStream {
    /// A stream to connection `token` of the thread with `mailbox`, and the connection's end of it. `timeout` is how long
    /// the client may leave replies unread.
    pub(super) fn new(
        mailbox: Arc<Mailbox>,
        token: ConnectionToken,
        timeout: Option<Duration>,
        budget: &Arc<ReplyBudget>,
        stalled: Arc<StalledSenders>,
    ) -> (Self, Arc<StreamProgress>) {
        let state = Arc::new(StreamProgress {
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
        });
        let is_finished = AtomicBool::new(false);
        let (compressor, shared) = (OnceLock::new(), Arc::clone(&state));
        (ReplyStream { mailbox, token, timeout, stalled, state: shared, compressor, is_finished }, state)
    }

    /// Keeps the reserved room of the reply until the connection has it.
    pub(super) fn keep_room(&self, room: Charge) {
        self.state.progress.lock().room = Some(room);
    }

    /// Closes the stream when the client has closed its sending side and gets nothing for a while: for a client that
    /// only waits.
    pub(super) fn end_with_peer(&self) {
        self.state.progress.lock().ends_with_peer = true;
    }

    /// Compresses all replies from now on.
    pub(super) fn compress_by(&self, compressor: ReplyCompressor) {
        let _ = self.compressor.set(compressor);
    }

    /// `frames` in the form that the client asked for.
    fn compressed(&self, frames: Vec<u8>) -> Vec<u8> {
        let Some(compressor) = self.compressor.get() else { return frames };
        let mut out = Vec::with_capacity(frames.len() / 2);
        compressor.compress(&frames, &mut out);
        out
    }

    /// Cancels the stream: the connection is not parked for it after all.
    pub(super) fn cancel(&self) {
        self.is_finished.store(true, Ordering::Relaxed);
    }
}

impl Drop for ReplyStream {
    fn drop(&mut self) {
        if !*self.is_finished.get_mut() {
            self.mailbox.post(Mail::Abandoned(self.token));
        }
    }
}

impl ReplySink for ReplyStream {
    fn send(&self, frames: Vec<u8>) -> Result<(), SinkClosed> {
        let frames = self.compressed(frames);
        self.state.progress.lock().add(frames.len());
        self.mailbox.post(Mail::Part(self.token, frames));
        let mut progress = self.state.progress.lock();
        if progress.is_behind() {
            let stalled = self.stalled.enter();
            let (mut since, mut before) = (Instant::now(), progress.unsent);
            while progress.is_behind() {
                let longest = self.timeout.map_or(LOOK_PERIOD, |timeout| timeout.min(LOOK_PERIOD));
                self.state.changed.wait_for(&mut progress, longest);
                if progress.unsent != before {
                    (since, before) = (Instant::now(), progress.unsent);
                }
                let elapsed = since.elapsed();
                let is_late = self.timeout.is_some_and(|timeout| elapsed >= timeout);
                if is_late || elapsed >= PATIENCE && stalled.must_give_up() {
                    return Err(SinkClosed);
                }
            }
        }
        if progress.is_closed { Err(SinkClosed) } else { Ok(()) }
    }

    fn post(&self, frames: Vec<u8>) {
        let frames = self.compressed(frames);
        let mut progress = self.state.progress.lock();
        if progress.is_closed {
            return;
        }
        progress.add(frames.len());
        drop(progress);
        self.mailbox.post(Mail::Part(self.token, frames));
    }

    fn is_behind(&self) -> bool {
        self.state.progress.lock().is_behind()
    }

    fn when_read(&self, go_on: GoOn) {
        let mut progress = self.state.progress.lock();
        if progress.is_behind() {
            return progress.waiting.push_back(go_on);
        }
        drop(progress);
        go_on();
    }

    fn is_closed(&self) -> bool {
        let progress = self.state.progress.lock();
        progress.is_closed || progress.is_peer_gone()
    }

    fn is_stalled(&self) -> bool {
        let progress = self.state.progress.lock();
        !progress.waiting.is_empty()
            && self.timeout.is_some_and(|timeout| progress.moved.elapsed() >= timeout)
    }

    fn take_room(&self, size: usize) -> bool {
        let mut progress = self.state.progress.lock();
        if progress.room.as_ref().is_some_and(|room| room.size() >= size) {
            return true;
        }
        progress.room = None;
        progress.room = Charge::reserve(progress.charge.budget(), size);
        progress.room.is_some()
    }

    fn when_room(&self, size: usize, deadline: Instant, go_on: GoOnWithRoom) {
        let budget = Arc::clone(self.state.progress.lock().charge.budget());
        budget.when_room(size, deadline, go_on);
    }

    fn give_up(&self) {
        self.state.close();
    }

    fn finish(&self, frames: Vec<u8>) {
        let frames = self.compressed(frames);
        self.is_finished.store(true, Ordering::Relaxed);
        self.mailbox.post(Mail::Reply(self.token, frames));
    }
}
