//! Messages of other threads to a service thread.

use std::io;
use std::sync::Arc;

use cf::doorbell::Doorbell;
use cf::sys::eventfd::EventFd;
use crossbeam::queue::SegQueue;

use super::connection::Connection;
use super::delivery::{ConnectionToken, Delivery};
use super::held_parts::HeldParts;

/// One message.
pub(crate) enum Mail {
    /// A connection, just accepted or from another service thread.
    Connection(Box<Connection>),
    /// A delivery for a parked connection. It is dropped if the connection is gone.
    Delivery(ConnectionToken, Delivery),
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
    /// Makes an empty mailbox.
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

    /// Adds a delivery for connection `token` and wakes the thread.
    pub(super) fn deliver(&self, token: ConnectionToken, delivery: Delivery) {
        self.post(Mail::Delivery(token, delivery));
    }

    /// Adds `mail` without waking the thread, which takes it when it wakes up for another reason.
    pub(super) fn post_quietly(&self, mail: Mail) {
        self.queue.push(mail);
    }

    /// Begins to take mail. Later posts wake the thread again.
    pub(super) fn open(&self) {
        self.bell.silence();
    }

    pub(super) fn take(&self) -> Option<Mail> {
        // This check is cheaper than an attempt to pop, and the thread does it at each wake-up.
        if self.queue.is_empty() { None } else { self.queue.pop() }
    }
}
