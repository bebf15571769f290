//! Partition balance: which nodes keep a partition, who is its master, who has older copies, and what has to migrate. A pure
//! function of the members of the cluster and the versions of their data, so that every node comes to the same answer.
//!
//! Terms:
//! - *Succession list*: the members in descending order of ids; the first is the principal.
//! - *Sequence* of a partition: the members in an order of its own, by hash. The first `n_replicas` of it are the *replicas*,
//!   the very first is the *eventual* (final) *master*.
//! - *Working master*: who carries out writes now. Until the eventual master has all data that is another node, the *acting
//!   master*.
//! - *Version* of a partition on a node: cluster key and family of the data, and whether it was master (`master`), may lack
//!   records (`subset`), or should not be preferred (`evade`).
//! - *Duplicate*: a node whose copy may have records that are newer than the working master's. Writes ask it first.
//! - *Emigration*, *immigration*: records of a partition leaving for, arriving from another node. First the acting master
//!   and duplicates send to the eventual master, then that sends to the other replicas.
//! - *Witness*: a node that is told when all migrations of a partition are done, so that it may drop what is superfluous.
//!
//! `sequence` makes the sequences, `rows` adjusts them (racks, uniform balance, quiesced nodes), `plan` decides about one
//! partition, `partition` is what a node keeps of it and how migrations change that.

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

/// Partitions of a namespace.
pub const PARTITIONS: usize = 4096;
/// Records written later than this after a rebalance need no duplicate resolution, milliseconds. It covers the time between
/// the rebalances of two nodes, and clock skew.
pub const DUPLICATE_RESOLUTION_MARGIN_MS: u64 = 3000;

/// What a member of the cluster has said about a namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub node: NodeId,
    /// 0 for none.
    pub rack: RackId,
    /// Wants to be master of nothing.
    pub is_quiesced: bool,
    /// By partition.
    pub versions: Vec<PartitionVersion>,
}

/// A namespace in a cluster: all that its balance follows from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamespaceView {
    pub cluster_key: ClusterKey,
    /// Those that have the namespace, in the order of the succession list.
    pub members: Vec<Member>,
    /// The smallest that is configured on any member.
    pub replication_factor: usize,
    /// All members prefer a uniform balance.
    pub is_uniform: bool,
    /// The rack of all masters, if all members agree on one.
    pub active_rack: RackId,
}

impl NamespaceView {
    /// How many copies of each partition there are: not more than there are nodes to keep them.
    #[must_use]
    pub fn effective_replication_factor(&self) -> usize {
        self.replication_factor.min(Adjustments::of(self).active_size()).max(1)
    }

    /// The sequences of all partitions, adjusted.
    #[must_use]
    pub fn rows(&self, partition_count: usize) -> Vec<Row> {
        let nodes: Vec<NodeId> = self.members.iter().map(|member| member.node).collect();
        let mut rows = Sequences::new(&nodes).rows(partition_count);
        Adjustments::of(self).apply(&mut rows, self.effective_replication_factor());
        rows
    }

    /// The plan for one partition, whose sequence is `row`.
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
