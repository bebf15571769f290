//! Writers of one record in a line: they wait while a write of it is on its way to replicas, and until those before
//! them have had their turn.
//!
//! When a write has ended, the first in line gets the turn: nobody else begins a write of the record
//! until that request has begun its own, or ends without one. So no thread waits, and no request is overtaken.
//!
//! # Locks
//! That of the record's shard.

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
