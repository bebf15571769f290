//! Streams of replies that other threads make for a connection, with back-pressure.
//!
//! The maker posts frames to the connection's service thread and counts them as unsent. The service thread
//! reports when the socket has taken them. A maker with too many unsent bytes either waits, or leaves a
//! callback that is called when the socket has taken enough.
//!
//! # Locking
//! The mutex of the stream's [progress](super::stream_progress).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::compressor::ReplyCompressor;
use super::delivery::{ConnectionToken, Delivery};
use super::mailbox::Mailbox;
use super::reply_budget::{Charge, ReplyBudget};
use super::stream_progress::StreamProgress;
use crate::transaction::{GoOn, GoOnWithRoom, ReplySink, SinkClosed, StalledSenders};

/// How often a waiting maker checks whether its thread is needed.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// How long a client may read nothing when the thread that waits for it is needed, whatever the client's own
/// timeout is.
const PATIENCE: Duration = Duration::from_secs(10);
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
    /// Set when the last frames were sent, or the stream was [cancelled](Self::cancel).
    is_finished: AtomicBool,
}

impl ReplyStream {
    /// Makes a stream to connection `token` of the thread with `mailbox`, and the connection's end of it.
    /// `timeout` is how long the client may leave replies unread.
    pub(super) fn new(
        mailbox: Arc<Mailbox>,
        token: ConnectionToken,
        timeout: Option<Duration>,
        budget: &Arc<ReplyBudget>,
        stalled: Arc<StalledSenders>,
    ) -> (Self, Arc<StreamProgress>) {
        let state = StreamProgress::new(budget);
        let is_finished = AtomicBool::new(false);
        let (compressor, shared) = (OnceLock::new(), Arc::clone(&state));
        (ReplyStream { mailbox, token, timeout, stalled, state: shared, compressor, is_finished }, state)
    }

    /// Keeps the reserved room of the reply until the connection has it.
    pub(super) fn keep_room(&self, room: Charge) {
        self.state.progress.lock().room = Some(room);
    }

    /// Makes the stream close when the client has closed its sending side and gets nothing for a while. For a
    /// client that only waits.
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

    /// Cancels the stream, because the connection is not parked for it after all.
    pub(super) fn cancel(&self) {
        self.is_finished.store(true, Ordering::Relaxed);
    }
}

impl Drop for ReplyStream {
    fn drop(&mut self) {
        if !*self.is_finished.get_mut() {
            self.mailbox.deliver(self.token, Delivery::Abandoned);
        }
    }
}

impl ReplySink for ReplyStream {
    fn send(&self, frames: Vec<u8>) -> Result<(), SinkClosed> {
        let frames = self.compressed(frames);
        self.state.progress.lock().add(frames.len());
        self.mailbox.deliver(self.token, Delivery::Part(frames));
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
        self.mailbox.deliver(self.token, Delivery::Part(frames));
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
        self.mailbox.deliver(self.token, Delivery::Reply(frames));
    }
}
