//! What other threads hand to a service thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cf::sys::eventfd::EventFd;
use crossbeam::queue::SegQueue;

use super::connection::Connection;

/// Names a connection of a service thread, for as long as that connection lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ConnectionToken(pub(super) u64);

/// One thing handed over.
pub(crate) enum Mail {
    /// A connection, just accepted or from another service thread.
    Connection(Box<Connection>),
    /// Some of the replies that a parked connection waits for.
    Part(ConnectionToken, Vec<u8>),
    /// The reply, or the last one, that a parked connection waits for. Lost if the connection is gone.
    Reply(ConnectionToken, Vec<u8>),
    /// Nobody will make the reply that a parked connection waits for.
    Abandoned(ConnectionToken),
    /// Close everything and end.
    Stop,
}

/// The mailbox of one service thread.
pub(crate) struct Mailbox {
    queue: SegQueue<Mail>,
    /// The thread has been woken and has not opened the mailbox yet.
    signalled: AtomicBool,
    pub(super) wake: EventFd,
}

impl Mailbox {
    /// An empty mailbox.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let wake = EventFd::new()?;
        Ok(Arc::new(Mailbox { queue: SegQueue::new(), signalled: AtomicBool::new(false), wake }))
    }

    /// Hands `mail` over and wakes the thread.
    pub(crate) fn post(&self, mail: Mail) {
        self.queue.push(mail);
        if !self.signalled.swap(true, Ordering::AcqRel) {
            self.wake.signal();
        }
    }

    /// Begins to read: whatever is posted from now on wakes the thread again.
    pub(super) fn open(&self) {
        self.wake.clear();
        // Acquire as well as release: mail whose sender found the flag set, and so did not signal, is seen by `take`.
        self.signalled.swap(false, Ordering::AcqRel);
    }

    pub(super) fn take(&self) -> Option<Mail> {
        self.queue.pop()
    }
}
