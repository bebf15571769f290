//! Requests that other kinds of threads answer: info commands, and those of the security protocol.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::reply_budget::Charge;
use super::reply_handle::ReplyHandle;
use crate::security::Session;
use crate::transaction::Access;

/// An info request, to be answered by an info thread.
pub(crate) struct InfoRequest {
    pub(crate) body: Box<[u8]>,
    pub(crate) received: Instant,
    /// The user's access; `None` without access control.
    pub(crate) access: Access,
    pub(crate) client: SocketAddr,
    pub(crate) reply: ReplyHandle,
    /// Number of bytes of the body that are answered, and the answers. An info thread continues with the rest
    /// in a later turn.
    pub(crate) answered: usize,
    pub(crate) answers: Vec<u8>,
    /// The answers' part of the reply budget.
    pub(super) charge: Charge,
}

impl InfoRequest {
    /// Counts the answers so far. Returns whether there is room for more.
    pub(crate) fn count_answers(&mut self) -> bool {
        self.charge.set(self.answers.len());
        !self.charge.is_budget_used_up()
    }
}

/// A request of the security protocol, to be answered by a security thread.
pub(crate) struct SecurityRequest {
    pub(crate) body: Box<[u8]>,
    /// The session that a login starts.
    pub(crate) session: Arc<Session>,
    /// The name in the client's verified certificate.
    pub(crate) certificate_name: Option<Arc<str>>,
    pub(crate) client: SocketAddr,
    pub(crate) reply: ReplyHandle,
}
