//! Records of a host, and the writes under way at their master: duplicate resolution, local write, replicas,
//! answer. The store applies the rules of the crate as the server's transactions do.

use std::collections::{BTreeMap, BTreeSet};

use cluster::balance::{Partition, Route, Tree};
use cluster::conflict::{ConflictPolicy, CopyAge, DuplicateAnswer, answer_duplicate_request};
use cluster::migration::PartitionId;
use proto::peer::{ClusterKey, NodeId};

/// The key of a record.
pub(crate) type Key = u16;
/// The value that a client appends to a record.
pub(crate) type Token = u32;

/// A record: all tokens appended to it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Record {
    pub(crate) age: CopyAge,
    pub(crate) tokens: Vec<Token>,
}

/// Messages about records.
#[derive(Clone, Debug)]
pub(crate) enum RecordMessage {
    ReplicaWrite { transaction: u32, key: Key, record: Record, cluster_key: Option<ClusterKey> },
    WriteAck { transaction: u32, is_refused: bool },
    DuplicateRequest { transaction: u32, key: Key, own: Option<CopyAge> },
    DuplicateAck { transaction: u32, record: Option<Record> },
    Insert { emigration_id: u32, key: Key, record: Record },
    InsertAck { emigration_id: u32, key: Key },
    Request { client: usize, token: Token, key: Key },
    Reply { client: usize, token: Token, answer: Answer },
}

/// The answer to a client.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Answer {
    Done,
    /// Another node is master.
    Elsewhere(NodeId),
    Unavailable,
    /// The write may have been done.
    InDoubt,
}

/// A write at the master.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) client: usize,
    pub(crate) client_place: usize,
    pub(crate) token: Token,
    pub(crate) key: Key,
    pub(crate) stage: Stage,
    pub(crate) deadline_ms: u64,
    pub(crate) resend_at_ms: u64,
}

/// The progress of a write.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// The write waits because writes are held, or because another write has the record.
    Waiting,
    Resolving {
        cluster_key: ClusterKey,
        asked: BTreeSet<NodeId>,
        best: Option<Record>,
    },
    /// The last check is done, so the write is applied whatever happens meanwhile.
    Applying,
    Replicating {
        cluster_key: ClusterKey,
        asked: BTreeSet<NodeId>,
    },
}

/// An emigration's records.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    pub(crate) to: NodeId,
    pub(crate) partition: PartitionId,
    pub(crate) left: BTreeSet<Key>,
    pub(crate) resend_at_ms: u64,
}

/// The records of a host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    /// Indexed by partition.
    pub(crate) trees: BTreeMap<u16, BTreeMap<Key, Record>>,
    pub(crate) transactions: BTreeMap<u32, Transaction>,
    pub(crate) sending: BTreeMap<u32, Sending>,
    /// Partitions being handed over, by emigration.
    pub(crate) draining: BTreeMap<u32, u16>,
    /// Set while the node waits, for this cluster, until no write is left to be applied.
    pub(crate) awaiting: Option<ClusterKey>,
    pub(crate) next_transaction: u32,
}

impl Store {
    pub(crate) fn record(&self, partition: u16, key: Key) -> Option<&Record> {
        self.trees.get(&partition)?.get(&key)
    }

    pub(crate) fn tree_action(&mut self, partition: u16, tree: Tree) {
        match tree {
            Tree::Create => drop(self.trees.insert(partition, BTreeMap::new())),
            Tree::Drop => drop(self.trees.remove(&partition)),
            Tree::Keep => {}
        }
    }

    /// Stores a copy from another node if it is newer.
    pub(crate) fn merge(&mut self, policy: ConflictPolicy, partition: u16, key: Key, record: &Record) {
        if let Some(tree) = self.trees.get_mut(&partition) {
            let existing = tree.get(&key).map(|record| record.age);
            if policy.replaces(record.age, existing) {
                tree.insert(key, record.clone());
            }
        }
    }

    /// The answer to another node that asks for a newer copy.
    pub(crate) fn duplicate_ack(&self, partition: u16, key: Key, asking: Option<CopyAge>) -> Option<Record> {
        let own = self.record(partition, key);
        let answer =
            answer_duplicate_request(ConflictPolicy::Generation, own.map(|record| record.age), asking);
        own.filter(|_| answer == DuplicateAnswer::Newer).cloned()
    }

    /// Whether another write of the record is under way.
    pub(crate) fn is_busy(&self, key: Key, transaction: u32) -> bool {
        self.transactions.iter().any(|(id, other)| {
            *id != transaction && other.key == key && !matches!(other.stage, Stage::Waiting)
        })
    }

    /// Whether a partition has writes that are not applied yet, or not on all replicas.
    pub(crate) fn is_writing(&self, partition: u16, partition_of: impl Fn(Key) -> u16) -> bool {
        self.transactions.values().any(|transaction| {
            partition_of(transaction.key) == partition
                && matches!(transaction.stage, Stage::Applying | Stage::Replicating { .. })
        })
    }
}

/// The nodes that a write must ask for newer copies first.
pub(crate) fn duplicates_to_ask(partition: &Partition, local: Option<&Record>) -> BTreeSet<NodeId> {
    let is_recent =
        local.is_some_and(|record| record.age.last_update_time > partition.duplicate_resolution_cutoff_ms);
    if is_recent { BTreeSet::new() } else { partition.duplicates.iter().copied().collect() }
}

/// The destination of a write.
pub(crate) fn route(partition: &Partition, self_node: NodeId) -> Result<(), Answer> {
    match partition.route(self_node, false) {
        Route::Here => Ok(()),
        Route::Proxy(node) => Err(Answer::Elsewhere(node)),
        Route::Unavailable => Err(Answer::Unavailable),
    }
}
