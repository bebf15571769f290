//! A node that has nobody to talk to is a cluster of its own: it owns every partition from the first moment.
//!
//! The partitions themselves are in their [`Namespace`]s; here is what is one for all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Instant;

use cf::sys::block::BlockError;

use crate::namespace::Namespace;

/// Milliseconds of the clock that a cluster key is made from are kept in 48 bits.
const CLUSTER_KEY_MASK: u64 = (1 << 48) - 1;
/// Before partitions were dealt out for the first time.
const PARTITION_GENERATION_NONE: i64 = -1;

/// Who belongs to the cluster, and what follows from it.
pub(crate) struct Cluster {
    pub(crate) node_id: u64,
    /// Random, never 0; the same on all nodes of a cluster, new with every change of it.
    pub(crate) key: u64,
    /// When the partitions were last dealt out.
    pub(crate) rebalanced: Instant,
    partition_generation: AtomicI64,
}

impl Cluster {
    /// The cluster of node `node_id` alone.
    pub(crate) fn alone(node_id: u64) -> Self {
        let now = cf::clock::StoredMillis::now().unix_nanos();
        let key = cf::wyhash::hash64(&[now.to_le_bytes(), node_id.to_le_bytes()].concat()) & CLUSTER_KEY_MASK;
        Cluster {
            node_id,
            key: key.max(1),
            rebalanced: Instant::now(),
            partition_generation: AtomicI64::new(PARTITION_GENERATION_NONE),
        }
    }

    /// Deals the partitions of `namespaces` out among the nodes: all of them to this one.
    ///
    /// # Errors
    /// When the versions cannot be written to the devices of a namespace.
    pub(crate) fn rebalance(&self, namespaces: &[Arc<Namespace>]) -> Result<(), BlockError> {
        namespaces.iter().try_for_each(|namespace| namespace.deal_alone(self.key))?;
        self.partition_generation.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Number of nodes.
    pub(crate) fn size(&self) -> usize {
        1
    }

    /// Changes when clients must ask for the owners of partitions again; -1 until they have been dealt out.
    pub(crate) fn partition_generation(&self) -> i64 {
        self.partition_generation.load(Relaxed)
    }

    /// Whether partitions have been dealt out.
    pub(crate) fn is_balanced(&self) -> bool {
        self.partition_generation() != PARTITION_GENERATION_NONE
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
