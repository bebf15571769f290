//! What a reply waits for: its record on a disk, or on replicas.

use super::replicas::ReplicaWrites;
use super::resent::SentFor;
use super::wait::{Hold, RecordKey};
use crate::index::Location;

/// A record that must be on disk before its reply is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unsettled {
    pub(super) namespace: usize,
    pub(super) awaited: Awaited,
    /// Offset of this record's result byte in the replies.
    pub(crate) result_at: usize,
}

/// The condition that a reply waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Awaited {
    Disk(Location),
    /// All replicas of the record have acknowledged the write with this number.
    Replicas(OnReplicas),
}

/// A write sent to the replicas of its record.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnReplicas {
    pub(super) key: RecordKey,
    pub(super) transaction_id: u32,
    /// Longest wait; 0 = the server's default.
    pub(super) time_max_ms: u32,
    pub(super) sent_for: SentFor,
}

impl OnReplicas {
    /// Makes `hold` wait for it.
    pub(super) fn hold(&self, replicas: &ReplicaWrites, hold: Hold) {
        replicas.hold((&self.key, self.transaction_id), self.sent_for, hold, self.time_max_ms);
    }
}

impl Unsettled {
    /// The same after the replies were moved from `from` to `to`.
    pub(crate) fn moved(&self, from: usize, to: usize) -> Self {
        Unsettled { result_at: self.result_at - from + to, ..*self }
    }
}
