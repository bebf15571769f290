//! Replies that are held together until their records are safe.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use super::connection::send_some;
use super::outbox::Outbox;
use super::release_watch::ReleaseWatch;
use super::reply_budget::Charge;
use crate::transaction::{HeldTransactions, TransactionContext};

/// Replies that were held together, of connections of one thread.
pub(crate) struct HeldParts {
    pub(super) outbox: Outbox,
    pub(super) transactions: HeldTransactions,
    /// Room for a large reply among them.
    pub(super) room: Option<Charge>,
    /// The socket of the connection, if the replies are for only one and no other bytes wait to be sent to
    /// it. The releasing thread then sends the replies.
    pub(super) socket: Option<Arc<TcpStream>>,
    /// Number of bytes of the first part that are sent.
    pub(super) sent: usize,
    /// Tells whether the connection's thread must be woken when the replies are sent. Without it, the thread
    /// must be woken.
    pub(super) watch: Option<Arc<ReleaseWatch>>,
}

impl HeldParts {
    /// Sends the replies of the only connection, as far as its socket takes them. A thread other than the
    /// connection's may do this, because no other thread sends to the connection while its replies are held.
    /// This saves a single client the wake-up of the connection's thread; with many clients, that thread
    /// sends while this one writes to the disk again. Returns the watch of the connection if all replies are
    /// sent.
    pub(super) fn send_directly(&mut self, context: &TransactionContext) -> Option<Arc<ReleaseWatch>> {
        if let Some(socket) = self.socket.take() {
            // The connection's own thread notices a broken connection.
            self.sent = send_some(&socket, &self.outbox.replies).unwrap_or(0);
        }
        if self.sent < self.outbox.replies.len() {
            return None;
        }
        self.transactions.end(context, Instant::now());
        self.watch.take()
    }
}
