//! The right to answer the one request for which a connection is parked. If it is dropped without an answer,
//! the connection is closed.

use std::sync::{Arc, Weak};

use super::delivery::{ConnectionToken, Delivery};
use super::mailbox::Mailbox;
use super::presence::Presence;
use super::reply_budget::Charge;

/// Answers the one request for which a connection is parked.
pub(crate) struct ReplyHandle {
    mailbox: Arc<Mailbox>,
    token: ConnectionToken,
    presence: Weak<Presence>,
    is_answered: bool,
}

impl ReplyHandle {
    /// Makes the handle for connection `token` of the thread with `mailbox`.
    pub(super) fn new(mailbox: &Arc<Mailbox>, token: ConnectionToken, presence: Weak<Presence>) -> Self {
        ReplyHandle { mailbox: Arc::clone(mailbox), token, presence, is_answered: false }
    }

    /// Whether the client is gone.
    pub(crate) fn is_client_gone(&self) -> bool {
        self.presence.upgrade().is_none_or(|presence| presence.is_gone())
    }

    /// Sends the reply, which must consist of whole frames. The connection then takes its next request.
    pub(crate) fn send(mut self, reply: Vec<u8>) {
        self.is_answered = true;
        self.mailbox.deliver(self.token, Delivery::Reply(reply));
    }

    /// Replaces the compressed request for which the connection is parked by `frame`, whose buffer is counted
    /// in `room`.
    pub(super) fn send_inflated(mut self, frame: Vec<u8>, room: Charge) {
        self.is_answered = true;
        self.mailbox.deliver(self.token, Delivery::Inflated(frame, room));
    }
}

impl Drop for ReplyHandle {
    fn drop(&mut self) {
        if !self.is_answered {
            self.mailbox.deliver(self.token, Delivery::Abandoned);
        }
    }
}
