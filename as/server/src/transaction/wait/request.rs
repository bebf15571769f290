//! A request that waits, with all that it needs to run again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cf::Digest;

use crate::metrics::Origin;
use crate::transaction::sink::ReplySink;

/// The turn of a request. Dropping it tells the line that gave it that the turn has ended.
pub(in crate::transaction) trait HeldTurn: Send + Sync {
    /// Whether it is the turn for the lock of the record's sprig: the request is short, as far as is known, and goes
    /// to a thread that may sleep until the lock is free. Otherwise it is the turn for the next write of the record.
    fn is_for_lock(&self) -> bool;
}

/// A call's place in its module's share of the threads: the name of the module.
pub(in crate::transaction) struct ModuleShare(pub(in crate::transaction) Box<[u8]>);

/// A waiting request, with its own copy of the client's message.
pub(crate) struct OwnedRequest {
    /// The body of its message.
    pub(in crate::transaction) body: Box<[u8]>,
    /// When it was received; its deadline counts from then.
    pub(in crate::transaction) received: Instant,
    /// The destination of its reply.
    pub(in crate::transaction) sink: Arc<dyn ReplySink>,
    /// Time spent waiting for its device or for room.
    pub(in crate::transaction) waited: Duration,
    /// Whether it may wait for its device again.
    pub(in crate::transaction) may_wait: bool,
    pub(in crate::transaction) origin: Origin,
    /// The record's digest if the message does not hold it: for rows of batches.
    pub(in crate::transaction) digest: Option<Digest>,
    /// Its turn, for which it has waited.
    turn: Option<Box<dyn HeldTurn>>,
    /// Whether it has lost to other writers of its record.
    pub(in crate::transaction) has_lost: bool,
    /// Its place in its module's share of the threads.
    pub(in crate::transaction) share: Option<ModuleShare>,
}

impl OwnedRequest {
    pub(crate) fn new(body: &[u8], received: Instant, sink: Arc<dyn ReplySink>) -> Self {
        OwnedRequest {
            body: body.into(),
            received,
            sink,
            waited: Duration::ZERO,
            may_wait: true,
            origin: Origin::Client,
            digest: None,
            turn: None,
            has_lost: false,
            share: None,
        }
    }

    /// The same, with a turn.
    pub(in crate::transaction) fn in_turn(self, turn: Box<dyn HeldTurn>) -> Self {
        OwnedRequest { turn: Some(turn), ..self }
    }

    /// Whether it has the turn for the next write of its record.
    pub(in crate::transaction) fn has_turn(&self) -> bool {
        self.turn.as_ref().is_some_and(|turn| !turn.is_for_lock())
    }

    /// Whether it has the turn for the lock of its record's sprig. A request with the turn for the next write does
    /// not need it: it runs on a thread that may sleep for locks.
    pub(in crate::transaction) fn has_lock_turn(&self) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.is_for_lock())
    }

    /// Ends its turn for the lock of its record's sprig, if it has one.
    pub(in crate::transaction) fn end_lock_turn(&mut self) {
        drop(self.turn.take_if(|turn| turn.is_for_lock()));
    }

    /// The same for a request that does not come directly from a client.
    pub(in crate::transaction) fn of(self, origin: Origin, digest: Option<Digest>) -> Self {
        OwnedRequest { origin, digest, ..self }
    }
}
