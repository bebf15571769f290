//! Messages of other threads to a service thread.

use std::io;
use std::sync::Arc;

use cf::doorbell::Doorbell;
use cf::sys::eventfd::EventFd;
use crossbeam::queue::SegQueue;

use super::connection::Connection;
use super::reply_budget::Charge;
use super::sending::HeldParts;

/// Names a connection of a service thread, for as long as that connection lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ConnectionToken(pub(super) u64);

/// One message.
pub(crate) enum Mail {
    /// A connection, just accepted or from another service thread.
    Connection(Box<Connection>),
    /// Some of the replies that a parked connection waits for.
    Part(ConnectionToken, Vec<u8>),
    /// The reply, or the last one, that a parked connection waits for. Lost if the connection is gone.
    Reply(ConnectionToken, Vec<u8>),
    /// The inflated request that a parked connection waits for, as a whole frame, and its room.
    Inflated(ConnectionToken, Vec<u8>, Charge),
    /// The reply that a parked connection waits for will not be made.
    Abandoned(ConnectionToken),
    /// Replies that were held may be sent.
    Released(Box<HeldParts>),
    /// Close everything and end.
    Stop,
}

/// The mailbox of one service thread.
pub(crate) struct Mailbox {
    queue: SegQueue<Mail>,
    pub(super) bell: Doorbell<EventFd>,
}

impl Mailbox {
    /// An empty mailbox.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Mailbox { queue: SegQueue::new(), bell: Doorbell::new(EventFd::new()?) }))
    }

    /// Adds `mail` and wakes the thread.
    pub(crate) fn post(&self, mail: Mail) {
        self.queue.push(mail);
        self.bell.ring();
    }

    /// Starts reading: later posts wake the thread again.
    pub(super) fn open(&self) {
        self.bell.silence();
    }

    pub(super) fn take(&self) -> Option<Mail> {
        self.queue.pop()
    }
}
