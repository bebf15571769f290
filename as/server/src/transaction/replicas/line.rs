//! Writers of one record that wait for each other: while a write of it is on its way to replicas, and until those have had their
//! turn who came first.
//!
//! When a write has ended, the first who waits gets the [turn](RecordTurn): nobody else begins a write of the record until
//! that one has begun its own, or is done without. So no thread waits, and nobody is overtaken.
//!
//! # Locks
//! That of the record's shard.

use std::collections::VecDeque;
use std::sync::Arc;

use super::in_flight::ReplicaWrites;
use crate::transaction::OwnedRequest;
use crate::transaction::wait::RecordKey;

/// Who waits for a record.
#[derive(Default)]
pub(super) struct Line {
    waiting: VecDeque<OwnedRequest>,
    /// Whose turn it is, by number, as long as that is neither begun nor given up.
    pub(super) turn: Option<u32>,
}

/// The right to the next write of a record, given up with this.
pub(crate) struct RecordTurn {
    pub(super) writes: Arc<ReplicaWrites>,
    pub(super) key: RecordKey,
    pub(super) number: u32,
}

impl Drop for RecordTurn {
    fn drop(&mut self) {
        self.writes.give_up(self);
    }
}

impl Line {
    /// Puts a request at the end, unless more than `limit` are there; 0 = no limit.
    pub(super) fn join(&mut self, request: OwnedRequest, limit: u32) -> Result<(), OwnedRequest> {
        if limit != 0 && self.waiting.len() > limit as usize {
            return Err(request);
        }
        self.waiting.push_back(request);
        Ok(())
    }

    /// Whose turn is next.
    pub(super) fn next(&mut self) -> Option<OwnedRequest> {
        self.waiting.pop_front()
    }

    /// How many wait.
    pub(super) fn count(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits and nobody has the turn.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.turn.is_none()
    }
}
