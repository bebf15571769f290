//! Requests that met the lock of their record's sprig, in a line for each record, and the threads that sleep for them.
//!
//! The first request in line goes to one of these threads and sleeps there until the lock is free. The requests
//! behind it wait here for their [turn](LockTurn), without a thread. So a record in high demand, or one that is
//! locked for long, takes one thread.
//!
//! # Locks
//! One mutex for each shard, taken alone.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{HeldTurn, OwnedRequest, RecordKey};
use crate::workers::Workers;

const SHARD_COUNT: usize = 16;

/// The lines of a server. A line does not contain its first request, which has the turn.
pub(in crate::transaction) struct LockLines {
    shards: [Mutex<HashMap<RecordKey, VecDeque<OwnedRequest>>>; SHARD_COUNT],
    /// Threads for the requests that have their turn.
    pub(in crate::transaction) workers: Workers<OwnedRequest>,
}

/// The turn of a request; dropping it gives it to the next in line.
struct LockTurn {
    lines: Weak<LockLines>,
    key: RecordKey,
}

impl LockLines {
    /// Without threads yet.
    pub(in crate::transaction) fn new() -> Arc<Self> {
        let shards = std::array::from_fn(|_| Mutex::default());
        Arc::new(LockLines { shards, workers: Workers::new("lock-turn") })
    }

    fn shard(&self, key: &RecordKey) -> &Mutex<HashMap<RecordKey, VecDeque<OwnedRequest>>> {
        &self.shards[key.shard(SHARD_COUNT)]
    }

    /// Runs `request` in its turn, on a thread that sleeps until its record's lock is free.
    pub(in crate::transaction) fn join(self: &Arc<Self>, key: RecordKey, request: OwnedRequest) {
        match self.shard(&key).lock().entry(key) {
            Entry::Occupied(mut line) => return line.get_mut().push_back(request),
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
            }
        }
        self.run_in_turn(key, request);
    }

    /// Takes the next request in line. An empty line is removed.
    fn next(&self, key: &RecordKey) -> Option<OwnedRequest> {
        let mut lines = self.shard(key).lock();
        let next = lines.get_mut(key)?.pop_front();
        if next.is_none() {
            lines.remove(key);
        }
        next
    }

    fn run_in_turn(self: &Arc<Self>, key: RecordKey, request: OwnedRequest) {
        let turn = LockTurn { lines: Arc::downgrade(self), key };
        self.workers.submit(request.in_turn(Box::new(turn)));
    }
}

impl HeldTurn for LockTurn {
    fn is_for_lock(&self) -> bool {
        true
    }
}

impl Drop for LockTurn {
    fn drop(&mut self) {
        let Some(lines) = self.lines.upgrade() else { return };
        if let Some(next) = lines.next(&self.key) {
            lines.run_in_turn(self.key, next);
        }
    }
}
