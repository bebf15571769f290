//! Requests that met the lock of their record's sprig, in a line for each record.
//!
//! The first in line goes to the pool's threads for such requests, where it sleeps until the lock is free; those behind it wait
//! here, without a thread, for their [turn](LockTurn). So a record in high demand, or one that is locked for long, takes one of
//! these threads.
//!
//! # Locks
//! One mutex for each shard, taken alone.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{OwnedRequest, RecordKey};
use crate::transaction::TransactionContext;

const SHARD_COUNT: usize = 16;

/// The lines of a server. The first in line is not in it, but has the turn.
#[derive(Default)]
pub(in crate::transaction) struct LockLines([Mutex<HashMap<RecordKey, VecDeque<OwnedRequest>>>; SHARD_COUNT]);

/// The turn of a request; dropping it gives it to the next in line.
pub(in crate::transaction) struct LockTurn {
    context: Weak<TransactionContext>,
    key: RecordKey,
}

impl LockLines {
    fn shard(&self, key: &RecordKey) -> &Mutex<HashMap<RecordKey, VecDeque<OwnedRequest>>> {
        &self.0[key.shard(SHARD_COUNT)]
    }

    /// Puts `request` at the end of the line; returns it if it is the first.
    fn join(&self, key: RecordKey, request: OwnedRequest) -> Option<OwnedRequest> {
        match self.shard(&key).lock().entry(key) {
            Entry::Occupied(mut line) => {
                line.get_mut().push_back(request);
                None
            }
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
                Some(request)
            }
        }
    }

    /// Takes the next in line; without one the line is gone.
    fn next(&self, key: &RecordKey) -> Option<OwnedRequest> {
        let mut lines = self.shard(key).lock();
        let next = lines.get_mut(key)?.pop_front();
        if next.is_none() {
            lines.remove(key);
        }
        next
    }
}

impl TransactionContext {
    /// Runs `request` in its turn, on a thread that sleeps until its record's lock is free.
    pub(in crate::transaction) fn wait_for_lock(self: &Arc<Self>, key: RecordKey, request: OwnedRequest) {
        if let Some(first) = self.lock_lines.join(key, request) {
            self.run_in_turn(key, first);
        }
    }

    fn run_in_turn(self: &Arc<Self>, key: RecordKey, mut request: OwnedRequest) {
        let turn = LockTurn { context: Arc::downgrade(self), key };
        request.lock_turn = Some(Box::new(turn));
        self.submit_to_pool(request);
    }
}

impl Drop for LockTurn {
    fn drop(&mut self) {
        let Some(context) = self.context.upgrade() else { return };
        if let Some(next) = context.lock_lines.next(&self.key) {
            context.run_in_turn(self.key, next);
        }
    }
}
