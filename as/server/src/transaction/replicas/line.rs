//! Writers of one record in a line. They wait while a write of the record is on its way to replicas, and until the
//! writers before them have had their turn.
//!
//! When a write has ended, the first request in line gets the turn: no other request begins a write of the record
//! until that one has begun its own, or ends without one. So no thread waits, and no request is overtaken.
//!
//! # Locks
//! The lock of the record's shard.

use std::collections::VecDeque;

use crate::transaction::wait::OwnedRequest;

/// The waiting requests of a record.
#[derive(Default)]
pub(super) struct Line {
    waiting: VecDeque<OwnedRequest>,
    /// Number of the turn that is neither used nor given up.
    pub(super) turn: Option<u32>,
}

impl Line {
    /// Adds a request at the end, unless `limit` are there already; 0 = no limit.
    pub(super) fn join(&mut self, request: OwnedRequest, limit: u32) -> Result<(), OwnedRequest> {
        if limit != 0 && self.waiting.len() > limit as usize {
            return Err(request);
        }
        self.waiting.push_back(request);
        Ok(())
    }

    /// Takes the request with the next turn.
    pub(super) fn next(&mut self) -> Option<OwnedRequest> {
        self.waiting.pop_front()
    }

    /// Number of waiting requests.
    pub(super) fn count(&self) -> usize {
        self.waiting.len()
    }

    /// Whether there are neither waiting requests nor a turn.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.turn.is_none()
    }
}
