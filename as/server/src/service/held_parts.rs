//! Replies that are held together until their records are safe.

use std::net::TcpStream;
use std::sync::Arc;

use super::connection::send_some;
use super::outbox::Outbox;
use super::reply_budget::Charge;
use crate::transaction::HeldTransactions;

/// Replies that were held together, of connections of one thread.
pub(crate) struct HeldParts {
    pub(super) outbox: Outbox,
    pub(super) transactions: HeldTransactions,
    /// Room for a large reply among them.
    pub(super) room: Option<Charge>,
    /// The socket of the only connection that they are for, if no other bytes wait to be sent to it: then the releasing
    /// thread sends the replies.
    pub(super) socket: Option<Arc<TcpStream>>,
    /// Sent bytes of the first part.
    pub(super) sent: usize,
}

impl HeldParts {
    /// Sends the replies of the only connection, as far as its socket takes them. A thread other than the connection's
    /// may do this: while its replies are held, nobody else sends to it. This saves a single client the wake-up of the
    /// connection's thread; with many clients, that thread sends while this one writes to the disk again.
    pub(super) fn send_directly(&mut self) {
        if let Some(socket) = self.socket.take() {
            // The connection's own thread notices a broken connection.
            self.sent = send_some(&socket, &self.outbox.replies).unwrap_or(0);
        }
    }
}
