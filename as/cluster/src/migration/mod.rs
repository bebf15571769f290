//! Migration: the order in which partitions are sent, and which are accepted. The caller sends and stores the records
//! themselves.
//!
//! An *emigration* asks (*start*) until the receiver answers ok or fail; *again later* puts it back into the queue.
//! Then the caller sends all records ([`MigrationAction::SendRecords`]) and reports when all are acknowledged. An
//! acting master then gives up its mastership ([`MigrationAction::HandOver`]): no write begins there any more, and when
//! those under way have ended, *done* is sent until acknowledged. So a cluster of such nodes never has two masters of a
//! partition; a C server stays master until it has the acknowledgement. A *signal* tells a witness that all copies of a
//! partition are complete.
//!
//! An *immigration* is admitted while there are fewer than `migrate-max-num-incoming`. Messages are repeated, so the
//! receiver remembers finished immigrations for a while and answers again.
//!
//! Any change of the cluster ends all migrations: only the memory of finished ones outlives the cluster key.

mod emigration;
mod immigration;

pub use emigration::Emigrations;
pub use immigration::{Immigrations, StartAnswer};

use proto::peer::NodeId;

use crate::balance::Emigration;

/// Time after which an unanswered message is sent again.
pub const RESEND_MS: u64 = 1000;

/// The settings of an administrator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MigrationSettings {
    /// `migrate-threads`: emigrations at a time.
    pub threads: usize,
    /// `migrate-max-num-incoming`: immigrations at a time.
    pub incoming_max: usize,
    /// `migrate-fill-delay`: how long after a rebalance copies for nodes without data wait.
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

/// A transfer or signal to one node about one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Task {
    pub partition: PartitionId,
    pub kind: TaskKind,
    /// `migrate-order` of the namespace: lower first.
    pub order: u32,
    /// Smaller partitions first.
    pub record_count: u64,
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
    /// Signals without an acknowledgement, or not sent yet.
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
    },
    /// Send all records of the partition, and report when the receiver has acknowledged all.
    SendRecords {
        to: NodeId,
        emigration_id: u32,
        partition: PartitionId,
    },
    /// Stop sending.
    StopRecords {
        emigration_id: u32,
    },
    /// Begin no write of the partition here any more, and report when those under way have ended.
    HandOver {
        emigration_id: u32,
        partition: PartitionId,
    },
    /// The receiver has all records.
    Transferred {
        partition: PartitionId,
        emigration: Emigration,
    },
    /// The receiver expects nothing: the two sides disagree, which the next rebalance resolves.
    Refused {
        partition: PartitionId,
        destination: NodeId,
    },
    /// A witness has acknowledged.
    Signalled {
        partition: PartitionId,
    },
}
