//! Migration: the order in which partitions are sent, and which are accepted. The caller sends and stores the
//! records themselves.
//!
//! An *emigration* sends *start* until the receiver answers ok or fail. The answer *again later* puts it back
//! into the queue. After ok the caller sends all records ([`MigrationAction::SendRecords`]) and reports when
//! all are acknowledged. An acting master then gives up its mastership ([`MigrationAction::HandOver`]): no
//! further write begins there, and when those under way have ended, *done* is sent until acknowledged. A
//! cluster of such nodes therefore never has two masters of a partition. A C server stays master until it has
//! the acknowledgement. A *signal* tells a witness that all copies of a partition are complete.
//!
//! An *immigration* is admitted while there are fewer than `migrate-max-num-incoming`. Messages are repeated,
//! so the receiver remembers finished immigrations for a while and answers again.
//!
//! A cluster has thousands of *small* partitions, and to migrate one takes messages back and forth and little
//! else. So these have limits of their own, unless the administrator's limits are 0. A node that has such a
//! limit for immigrations says so in the exchange. C servers and nodes of earlier versions do not: what they
//! receive is within `migrate-threads` of the sender, as from a C server. The sender decides which partitions are
//! small, because only it knows their sizes, and says so in the start; the receiver counts those accordingly. A
//! receiver that is busy with one kind may still have room for the other, so the sender waits for each separately.
//!
//! Any change of the cluster ends all migrations. Only the memory of finished immigrations outlives the
//! cluster key.

mod emigration;
mod immigration;

pub use emigration::Emigrations;
pub use immigration::{Immigrations, StartAnswer};

use proto::peer::NodeId;

use crate::balance::Emigration;

/// Time after which an unanswered message is sent again.
pub const RESEND_MS: u64 = 1000;

/// Largest number of records of a small partition, together with its remembered removals, which are sent too.
pub const SMALL_COUNT_MAX: u64 = 32;
/// Largest number of emigrations of small partitions at a time, beside others.
const SMALL_EMIGRATIONS_MAX: usize = 16;
/// Largest number of immigrations of small partitions at a time, beside others.
const SMALL_IMMIGRATIONS_MAX: usize = 256;

/// The settings of an administrator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MigrationSettings {
    /// `migrate-threads`: emigrations at a time.
    pub threads: usize,
    /// `migrate-max-num-incoming`: immigrations at a time.
    pub incoming_max: usize,
    /// `migrate-fill-delay`: how long after a rebalance emigrations to nodes without data wait.
    pub fill_delay_ms: u64,
}

impl Default for MigrationSettings {
    fn default() -> Self {
        MigrationSettings { threads: 1, incoming_max: 4, fill_delay_ms: 0 }
    }
}

/// A partition of a namespace; the namespace is an index into the configuration of this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PartitionId {
    pub namespace: usize,
    pub partition: u16,
}

/// What is sent of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PartitionSize {
    pub records: u64,
    /// Removed records of which nodes are told, so that older copies are ignored.
    pub removals: u64,
}

impl PartitionSize {
    /// Whether the partition is small. The size of the records determines `record_count_max`.
    #[must_use]
    pub fn is_small(&self, record_count_max: u64) -> bool {
        self.records <= record_count_max && self.records.saturating_add(self.removals) <= SMALL_COUNT_MAX
    }
}

/// A transfer or signal to one node about one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Task {
    pub partition: PartitionId,
    pub kind: TaskKind,
    /// `migrate-order` of the namespace: lower values first.
    pub order: u32,
    /// Smaller partitions first.
    pub record_count: u64,
    /// Whether the partition is small.
    pub is_small: bool,
}

/// The kind of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskKind {
    /// All records.
    Transfer(Emigration),
    /// A signal that all copies are complete.
    Signal { destination: NodeId },
}

impl Task {
    /// The receiver.
    #[must_use]
    pub fn destination(&self) -> NodeId {
        match self.kind {
            TaskKind::Transfer(emigration) => emigration.destination,
            TaskKind::Signal { destination } => destination,
        }
    }
}

/// The migrations of a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MigrationLoad {
    /// Partitions being sent.
    pub emigrations: usize,
    /// Partitions being received.
    pub immigrations: usize,
    /// Signals without an acknowledgement.
    pub signals: usize,
    /// Signals without an acknowledgement, including those not sent yet.
    pub signals_remaining: usize,
    /// All emigrations, active or queued.
    pub emigrations_known: usize,
    /// All immigrations, including finished ones still remembered.
    pub immigrations_known: usize,
}

/// A message to a receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Saying {
    Start,
    Done,
    AllDone,
}

/// An output of migration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MigrationAction {
    Say {
        to: NodeId,
        emigration_id: u32,
        saying: Saying,
        partition: PartitionId,
        record_count: u64,
        /// Whether it is sent beside others as a small partition.
        is_small: bool,
    },
    /// Send all records of the partition, and report when the receiver has acknowledged all.
    SendRecords { to: NodeId, emigration_id: u32, partition: PartitionId },
    /// Stop sending.
    StopRecords { emigration_id: u32 },
    /// Begin no further write of the partition here, and report when those under way have ended.
    HandOver { emigration_id: u32, partition: PartitionId },
    /// The receiver has all records.
    Transferred { partition: PartitionId, emigration: Emigration },
    /// The receiver expects nothing: the two sides disagree, and the next rebalance resolves this.
    Refused { partition: PartitionId, destination: NodeId },
    /// A witness has acknowledged the signal.
    Signalled { partition: PartitionId },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_count_when_a_partition_is_called_small() {
        let is_small = |records, removals| PartitionSize { records, removals }.is_small(10);
        assert!(is_small(0, 0) && is_small(10, 22) && is_small(0, SMALL_COUNT_MAX));
        assert!(!is_small(11, 0), "its records are large");
        assert!(!is_small(10, 23) && !is_small(0, SMALL_COUNT_MAX + 1) && !is_small(1, u64::MAX));
    }
}
