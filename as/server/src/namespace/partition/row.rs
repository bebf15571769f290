//! The state of a partition on this node, and sums over all partitions.

use std::sync::Arc;

use datamodel::partition_version::PartitionVersion;

use super::word::PartitionWord;

/// A replica of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Replica {
    pub(crate) node: u64,
    /// Whether it waits for data; the working master serves the partition meanwhile.
    pub(crate) is_immigrating: bool,
}

/// State of a partition. Fields that a single node does not use (duplicates, migrations) are empty or 0.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct PartitionRow {
    pub(crate) version: PartitionVersion,
    /// The version after all migrations.
    pub(crate) final_version: PartitionVersion,
    /// Marks the records of this life of the partition on devices: records with another id belong to a life that has
    /// ended. Absent partitions keep the id of their last life.
    pub(crate) tree_id: u8,
    /// For strong consistency.
    pub(crate) regime: u32,
    /// In the order of succession; empty while the partition is unavailable.
    pub(crate) replicas: Vec<Replica>,
    /// The working master if it is this node or the final master; 0 otherwise.
    pub(crate) working_master: u64,
    /// The node to which this node passes on requests that it does not serve.
    pub(crate) proxy_destination: u64,
    pub(crate) duplicates: Vec<u64>,
    /// Whether this node gives up its mastership: no write begins here any more.
    pub(crate) is_handing_over: bool,
    /// Whether writes may not begin now, even though this node is master.
    pub(crate) holds_writes: bool,
    /// Milliseconds since 2010: records written later need no duplicate resolution.
    pub(crate) duplicate_resolution_cutoff_ms: u64,
    pub(crate) pending_emigrations: u32,
    pub(crate) pending_lead_emigrations: u32,
    pub(crate) pending_immigrations: u32,
}

impl PartitionRow {
    /// The position of `node` among the replicas.
    pub(crate) fn replica_index(&self, node: u64) -> Option<usize> {
        self.replicas.iter().position(|replica| replica.node == node)
    }

    /// Whether writes may begin on `node`, the owner of this row.
    pub(super) fn serves_writes(&self, node: u64) -> bool {
        self.working_master == node && node != 0 && !self.is_handing_over && !self.holds_writes
    }

    /// Whether `node`, the owner of this row, answers reads: as the working master, or as a replica with all records.
    pub(super) fn serves_reads(&self, node: u64) -> bool {
        if self.working_master != 0 {
            return self.working_master == node;
        }
        self.replica_index(node) > Some(0) && self.pending_immigrations == 0
    }

    /// Whether clients should ask `node`, the owner of this row, for replica number `column` of a partition with
    /// `replication_factor` replicas.
    pub(super) fn is_served_by(&self, node: u64, column: usize, replication_factor: u32) -> bool {
        let place = self.replica_index(node);
        if self.working_master == node {
            let is_immigrating = self.replicas.get(column).is_some_and(|replica| replica.is_immigrating);
            return column == 0 || place == Some(column) || is_immigrating;
        }
        column > 0
            && place == Some(column)
            && self.pending_immigrations == 0
            && column < replication_factor as usize
    }

    /// Whether `node`, the owner of this row, is known to have all records of the partition.
    pub(super) fn is_full(&self, node: u64) -> bool {
        let is_acting_master = self.working_master == node && self.duplicates.is_empty();
        self.pending_immigrations == 0 && (self.replica_index(node).is_some() || is_acting_master)
    }

    /// One letter for this node's state: `S`ynchronous or `D`esynchronous replica, else `A`bsent, data (`Z`), or
    /// something else (`X`).
    pub(crate) fn letter(&self, own_node: u64) -> char {
        match self.replica_index(own_node) {
            Some(_) if self.pending_immigrations == 0 => 'S',
            Some(_) => 'D',
            None if self.version.is_null() => 'A',
            None if self.version.has_data() => 'Z',
            None => 'X',
        }
    }
}

/// The replicas of a partition, as commits see them.
pub(super) struct PublishedReplicas {
    pub(super) working_master: u64,
    pub(super) nodes: Box<[u64]>,
}

impl PublishedReplicas {
    /// The replicas of `row`, if nodes other than `own` are among them.
    pub(super) fn of(row: &PartitionRow, own: u64) -> Option<Arc<Self>> {
        let nodes: Box<[u64]> = row.replicas.iter().map(|replica| replica.node).collect();
        let has_others = nodes.iter().any(|node| *node != own);
        has_others.then(|| Arc::new(PublishedReplicas { working_master: row.working_master, nodes }))
    }
}

/// Sums over the partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct PartitionFigures {
    /// Number of replicas of each partition; 0 before the first rebalance.
    pub(crate) replication_factor: u32,
    /// For strong consistency.
    pub(crate) regime: u32,
    /// Partitions that started empty with the last rebalance.
    pub(crate) fresh: usize,
    pub(crate) unavailable: usize,
    pub(crate) pending_emigrations: u64,
    pub(crate) pending_lead_emigrations: u64,
    pub(crate) pending_immigrations: u64,
    /// Migrations pending after the last rebalance.
    pub(crate) initial_emigrations: u64,
    pub(crate) initial_immigrations: u64,
}

impl PartitionFigures {
    pub(super) fn add(&mut self, row: &PartitionRow) {
        self.unavailable += usize::from(row.replicas.is_empty());
        self.pending_emigrations += u64::from(row.pending_emigrations);
        self.pending_lead_emigrations += u64::from(row.pending_lead_emigrations);
        self.pending_immigrations += u64::from(row.pending_immigrations);
    }

    pub(super) fn subtract(&mut self, row: &PartitionRow) {
        self.unavailable -= usize::from(row.replicas.is_empty());
        self.pending_emigrations -= u64::from(row.pending_emigrations);
        self.pending_lead_emigrations -= u64::from(row.pending_lead_emigrations);
        self.pending_immigrations -= u64::from(row.pending_immigrations);
    }

    /// Migrations left to be sent and received by this node.
    pub(crate) fn pending_migrations(&self) -> u64 {
        self.pending_emigrations + self.pending_immigrations
    }

    /// Whether every partition is served and no migration is pending.
    pub(crate) fn is_stable(&self) -> bool {
        self.unavailable == 0 && self.pending_migrations() == 0
    }
}

impl PartitionWord {
    /// The word of a row, without reservations.
    pub(super) fn of(row: &PartitionRow, own_node: u64) -> Self {
        let facts = [
            (Self::WRITES, row.serves_writes(own_node)),
            (Self::READS, row.serves_reads(own_node)),
            (Self::REPLICA, row.replica_index(own_node).is_some()),
            (Self::OTHERS, row.replicas.iter().any(|replica| replica.node != own_node)),
            (Self::DUPLICATES, !row.duplicates.is_empty()),
            (Self::MASTER, row.working_master == own_node),
            (Self::FULL, row.is_full(own_node)),
            (Self::DATA, row.version.has_data()),
        ];
        let flags = facts.iter().filter(|(_, is_true)| *is_true).fold(0, |flags, (flag, _)| flags | flag);
        PartitionWord(u64::from(row.tree_id) << Self::TREE_ID_SHIFT | flags)
    }
}
