//! A node that has nobody to talk to is a cluster of its own: it owns every partition from the first moment.

use std::time::Instant;

/// Milliseconds of the clock that a cluster key is made from are kept in 48 bits.
const CLUSTER_KEY_MASK: u64 = (1 << 48) - 1;

/// Who belongs to the cluster, and what follows from it.
pub(crate) struct Cluster {
    pub(crate) node_id: u64,
    /// Random, never 0; the same on all nodes of a cluster, new with every change of it.
    pub(crate) key: u64,
    /// When the partitions were last dealt out.
    pub(crate) rebalanced: Instant,
}

impl Cluster {
    /// The cluster of node `node_id` alone.
    pub(crate) fn alone(node_id: u64) -> Self {
        let now = cf::clock::StoredMillis::now().unix_nanos();
        let key = cf::wyhash::hash64(&[now.to_le_bytes(), node_id.to_le_bytes()].concat()) & CLUSTER_KEY_MASK;
        Cluster { node_id, key: key.max(1), rebalanced: Instant::now() }
    }

    /// Number of nodes.
    pub(crate) fn size(&self) -> usize {
        1
    }

    /// Changes when clients must ask for the owners of partitions again.
    pub(crate) fn partition_generation(&self) -> u64 {
        0
    }

    /// Counts the times that partitions were dealt out.
    pub(crate) fn rebalance_generation(&self) -> u64 {
        1
    }

    /// Changes when clients must ask for the other nodes again.
    pub(crate) fn peers_generation(&self) -> u64 {
        0
    }
}
