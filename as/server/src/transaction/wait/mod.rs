//! What transactions wait for beside memory, and the requests that wait.
//!
//! A transaction that has to wait has changed nothing. Its request is copied, its connection is parked, and the request
//! runs again from its start when the wait is over.

mod table;

use std::sync::Arc;
use std::time::Instant;

use cf::clock::StoredMillis;

use super::ReplySink;
pub(super) use table::{RecordKey, RecordReservation, WaitTable};

/// What the transaction of a request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// A thread of the transaction pool: the request is too long for a service thread.
    Pool,
    /// A record that a thread of the pool has reserved for its change.
    Record(RecordKey),
}

/// A request that waits, with its own copy of what the client sent.
pub(crate) struct OwnedRequest {
    /// The body of its message.
    pub(super) body: Box<[u8]>,
    /// The time of the transaction.
    pub(super) now: StoredMillis,
    /// When it was received; its deadline counts from then.
    pub(super) received: Instant,
    /// Where its reply goes.
    pub(super) sink: Arc<dyn ReplySink>,
}

impl OwnedRequest {
    pub(crate) fn new(body: &[u8], now: StoredMillis, received: Instant, sink: Arc<dyn ReplySink>) -> Self {
        OwnedRequest { body: body.into(), now, received, sink }
    }
}
