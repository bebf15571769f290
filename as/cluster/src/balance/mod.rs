//! Partition balance: computes the nodes that keep a partition, its master, the duplicates, and the necessary
//! migrations. It is a pure function of the cluster's members and their partition versions, so every node
//! computes the same result.
//!
//! Terms:
//! - *Succession list*: the members in descending order of ids; the first is the principal.
//! - *Sequence* of a partition: the members in an order by hash that is specific to the partition. The first
//!   `n_replicas` of it are the *replicas*, and the very first is the *eventual* (final) *master*.
//! - *Working master*: the node that applies writes now. Until the eventual master has all data, another
//!   node, the *acting master*, is working master.
//! - *Version* of a partition on a node: the cluster key and the family of the data, and flags: the node was
//!   master (`master`), may lack records (`subset`), or should not be preferred (`evade`).
//! - *Duplicate*: a node whose copy may have newer records than the working master's. A write asks it first.
//! - *Emigration*, *immigration*: the transfer of a partition's records to, or from, another node. The acting
//!   master and the duplicates send to the eventual master first, which then sends to the other replicas.
//! - *Witness*: a node that is signalled when all migrations of a partition are done, so that it may drop a
//!   superfluous copy.
//!
//! `sequence` computes the sequences, `rows` adjusts them (racks, uniform balance, quiesced nodes), `plan`
//! decides about one partition, and `partition` holds a node's state of it and applies the effects of
//! migrations.

mod partition;
mod plan;
mod rows;
mod sequence;

pub use partition::{
    ClientColumns, Emigration, MigrationDone, Partition, PartitionState, Route, Signal, StartRefused, Tree,
};
pub use plan::{Plan, Superfluous};
pub use rows::{Adjustments, RackId};
pub use sequence::{MEMBERS_MAX, Row, Sequences};

use datamodel::partition_version::PartitionVersion;
use proto::peer::{ClusterKey, NodeId};

/// Number of partitions of a namespace.
pub const PARTITIONS: usize = 4096;
/// Records written later than this many milliseconds after a rebalance need no duplicate resolution. The
/// margin covers the time between the rebalances of two nodes, and clock skew.
pub const DUPLICATE_RESOLUTION_MARGIN_MS: u64 = 3000;

/// A member's data about a namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub node: NodeId,
    /// 0 means none.
    pub rack: RackId,
    /// The node does not want to be master of any partition.
    pub is_quiesced: bool,
    /// Indexed by partition.
    pub versions: Vec<PartitionVersion>,
}

/// A namespace in a cluster: the input of its balance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamespaceView {
    pub cluster_key: ClusterKey,
    /// The members that have the namespace, in the order of the succession list.
    pub members: Vec<Member>,
    /// The smallest replication factor that any member has configured.
    pub replication_factor: usize,
    /// Whether all members prefer a uniform balance.
    pub is_uniform: bool,
    /// The rack for all masters, if all members agree on one.
    pub active_rack: RackId,
}

impl NamespaceView {
    /// Number of copies of each partition: at most the number of nodes that may keep one.
    #[must_use]
    pub fn effective_replication_factor(&self) -> usize {
        self.replication_factor.min(Adjustments::of(self).active_size()).max(1)
    }

    /// The adjusted sequences of all partitions.
    #[must_use]
    pub fn rows(&self, partition_count: usize) -> Vec<Row> {
        let nodes: Vec<NodeId> = self.members.iter().map(|member| member.node).collect();
        let mut rows = Sequences::new(&nodes).rows(partition_count);
        Adjustments::of(self).apply(&mut rows, self.effective_replication_factor());
        rows
    }

    /// The plan for the partition with the sequence `row`.
    #[must_use]
    pub fn plan(&self, partition: usize, row: &Row) -> Plan {
        let of_partition = |index: &u8| {
            let member = &self.members[usize::from(*index)];
            (member.node, member.versions.get(partition).copied().unwrap_or_default())
        };
        let (nodes, versions) = row.iter().map(of_partition).unzip();
        Plan::new(nodes, versions, self.effective_replication_factor(), self.cluster_key)
    }
}
