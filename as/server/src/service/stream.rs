//! Replies that other threads make for a connection, with back-pressure.
//!
//! The maker posts frames to the connection's service thread and counts them as unsent; the service thread says when the
//! socket has taken them. A maker with too much unsent waits.
//!
//! # Locking
//! One mutex per stream, taken alone.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::mailbox::{ConnectionToken, Mail, Mailbox};
use crate::transaction::{ReplySink, SinkClosed};

/// Bytes that may wait for the client before the maker does.
const UNSENT_SIZE_MAX: usize = 1 << 20;

struct Progress {
    unsent: usize,
    is_closed: bool,
}

/// How far a stream is; shared by its maker and the connection.
pub(super) struct StreamProgress {
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl StreamProgress {
    /// The socket has taken `size` more bytes, some of which may be of replies before the stream.
    pub(super) fn sent(&self, size: usize) {
        let mut progress = self.progress.lock();
        progress.unsent = progress.unsent.saturating_sub(size);
        drop(progress);
        self.changed.notify_one();
    }

    /// The connection is gone.
    pub(super) fn close(&self) {
        self.progress.lock().is_closed = true;
        self.changed.notify_one();
    }
}

/// The maker's end.
pub(crate) struct ReplyStream {
    mailbox: Arc<Mailbox>,
    token: ConnectionToken,
    timeout: Option<Duration>,
    state: Arc<StreamProgress>,
}

impl ReplyStream {
    /// A stream to connection `token` of the thread with `mailbox`, and the connection's end of it. `timeout` is how long
    /// the client may leave replies unread.
    pub(super) fn new(
        mailbox: Arc<Mailbox>,
        token: ConnectionToken,
        timeout: Option<Duration>,
    ) -> (Self, Arc<StreamProgress>) {
        let state = Arc::new(StreamProgress {
            progress: Mutex::new(Progress { unsent: 0, is_closed: false }),
            changed: Condvar::new(),
        });
        (ReplyStream { mailbox, token, timeout, state: Arc::clone(&state) }, state)
    }
}

impl ReplySink for ReplyStream {
    fn send(&self, frames: Vec<u8>) -> Result<(), SinkClosed> {
        self.state.progress.lock().unsent += frames.len();
        self.mailbox.post(Mail::Part(self.token, frames));
        let mut progress = self.state.progress.lock();
        while progress.unsent > UNSENT_SIZE_MAX && !progress.is_closed {
            let before = progress.unsent;
            match self.timeout {
                None => self.state.changed.wait(&mut progress),
                Some(timeout) => {
                    let timed_out = self.state.changed.wait_for(&mut progress, timeout).timed_out();
                    if timed_out && progress.unsent == before {
                        return Err(SinkClosed);
                    }
                }
            }
        }
        if progress.is_closed { Err(SinkClosed) } else { Ok(()) }
    }

    fn finish(&self, frames: Vec<u8>) {
        self.mailbox.post(Mail::Reply(self.token, frames));
    }
}
