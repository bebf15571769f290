//! Migration: which partition is sent to whom and when, and what is taken in. The records themselves are sent and stored by
//! the caller; here is the order of things.
//!
//! An *emigration* asks (*start*) until the receiver says ok or fail; *again later* puts it back into the queue. Then the
//! caller sends all records ([`MigrationAction::SendRecords`]) and says when all are acknowledged. An acting master then gives up its
//! mastership ([`MigrationAction::HandOver`]): no write begins there any more, and when those under way have ended, *done* is sent
//! until acknowledged. So there are never two masters of a partition in a cluster of such nodes; a C server goes on as master
//! until it has the acknowledgement. A *signal* tells a witness that all copies of a partition are complete.
//!
//! An *immigration* is admitted while there are not more than `migrate-max-num-incoming`. Messages are repeated, so the
//! receiver remembers what is done for a while and answers again.
//!
//! Any change of the cluster ends all of it: nothing here outlives its cluster key but the memory of what is done.

mod emigration;
mod immigration;

pub use emigration::Emigrations;
pub use immigration::{Immigrations, StartAnswer};

use proto::peer::NodeId;

use crate::balance::Emigration;

/// A message that has no answer is sent again after this.
pub const RESEND_MS: u64 = 1000;

/// What an administrator can set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MigrationSettings {
    /// `migrate-threads`: emigrations at a time.
    pub threads: usize,
    /// `migrate-max-num-incoming`: immigrations at a time.
    pub incoming_max: usize,
    /// `migrate-fill-delay`: copies for nodes that had no data wait so long after a rebalance.
    pub fill_delay_ms: u64,
}

impl Default for MigrationSettings {
    fn default() -> Self {
        MigrationSettings { threads: 1, incoming_max: 4, fill_delay_ms: 0 }
    }
}

/// A partition of a namespace, by the namespace's place in the configuration of this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PartitionId {
    pub namespace: usize,
    pub partition: u16,
}

/// Something to send to one node about one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Task {
    pub partition: PartitionId,
    pub kind: TaskKind,
    /// `migrate-order` of the namespace: lower first.
    pub order: u32,
    /// Smaller partitions first.
    pub record_count: u64,
}

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskKind {
    /// All records.
    Transfer(Emigration),
    /// That all copies are complete.
    Signal { destination: NodeId },
}

impl Task {
    /// To whom.
    #[must_use]
    pub fn destination(&self) -> NodeId {
        match self.kind {
            TaskKind::Transfer(emigration) => emigration.destination,
            TaskKind::Signal { destination } => destination,
        }
    }
}

/// What of a namespace is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MigrationLoad {
    /// Partitions that are being sent.
    pub emigrations: usize,
    /// Partitions that are coming in.
    pub immigrations: usize,
    /// Signals that are not acknowledged.
    pub signals: usize,
    /// Signals that are not acknowledged or will be sent.
    pub signals_remaining: usize,
    /// All that is to be sent or is being sent.
    pub emigrations_known: usize,
    /// All that comes in, with what is done and still remembered.
    pub immigrations_known: usize,
}

/// What is said to a receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Saying {
    Start,
    Done,
    AllDone,
}

/// What migration wants done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MigrationAction {
    Say {
        to: NodeId,
        emigration_id: u32,
        saying: Saying,
        partition: PartitionId,
        record_count: u64,
    },
    /// Send all records of the partition, and say when the receiver has acknowledged all.
    SendRecords {
        to: NodeId,
        emigration_id: u32,
        partition: PartitionId,
    },
    /// Stop sending.
    StopRecords {
        emigration_id: u32,
    },
    /// Begin no write of the partition here any more, and say when those under way have ended.
    HandOver {
        emigration_id: u32,
        partition: PartitionId,
    },
    /// The receiver has all.
    Transferred {
        partition: PartitionId,
        emigration: Emigration,
    },
    /// The receiver expects nothing: both sides disagree, which the next rebalance mends.
    Refused {
        partition: PartitionId,
        destination: NodeId,
    },
    /// A witness knows.
    Signalled {
        partition: PartitionId,
    },
}
