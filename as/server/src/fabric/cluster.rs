//! The state of the cluster for info answers and transactions. The cluster thread changes it; on a single
//! node it never changes.
//!
//! The partitions are in their [`Namespace`]s. This module holds the state common to all namespaces.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::*};
use std::time::Instant;

use arc_swap::ArcSwap;
use cf::sys::block::BlockError;
use cluster::node::{HandOver, Placement};

use crate::namespace::Namespace;

/// A cluster key has 48 bits, as in partition versions.
const CLUSTER_KEY_MASK: u64 = (1 << 48) - 1;
/// Value before the first rebalance.
const PARTITION_GENERATION_NONE: i64 = -1;

/// The members of the cluster, as of the last rebalance.
#[derive(Clone, Debug)]
pub(crate) struct ClusterView {
    /// Random, the same on all nodes of a cluster, and new with every change of the cluster. 0 before the
    /// first cluster.
    pub(crate) key: u64,
    /// The members, the principal first.
    pub(crate) succession: Vec<u64>,
    /// Time of the last rebalance.
    pub(crate) rebalanced: Instant,
}

/// The current state of clustering.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClusterState {
    /// Whether the node is in a cluster.
    pub(crate) is_member: bool,
    /// Whether all nodes that this one hears agree on one cluster.
    pub(crate) has_integrity: bool,
    /// Whether migrations may run.
    pub(crate) allows_migrations: bool,
    /// Largest difference between another node's wall clock and ours.
    pub(crate) clock_skew_ms: u64,
    /// By how much the principal's wall clock is ahead of ours, if it tells; 0 for this node.
    pub(crate) principal_skew_ms: i64,
    /// The progress of a node that is leaving.
    pub(crate) hand_over: HandOver,
}

/// The cluster of this node.
pub(crate) struct Cluster {
    pub(crate) node_id: u64,
    /// The key of the node's own cluster, made when the node starts.
    own_key: u64,
    view: ArcSwap<ClusterView>,
    state: ArcSwap<ClusterState>,
    partition_generation: AtomicI64,
    rebalance_generation: AtomicU64,
    /// Placement of replicas by namespace, as of the last rebalance; empty on a single node.
    placements: ArcSwap<Vec<Placement>>,
    /// Whether the node is to be quiesced at the next rebalance.
    pub(crate) is_quiesce_pending: AtomicBool,
    /// The list of other nodes for clients.
    pub(crate) peers: super::services::PeerList,
}

impl Cluster {
    fn new(node_id: u64, succession: Vec<u64>, is_alone: bool) -> Self {
        let now = cf::clock::StoredMillis::now().unix_nanos();
        let key = cf::wyhash::hash64(&[now.to_le_bytes(), node_id.to_le_bytes()].concat()) & CLUSTER_KEY_MASK;
        let own_key = key.max(1);
        let view =
            ClusterView { key: if is_alone { own_key } else { 0 }, succession, rebalanced: Instant::now() };
        let state = ClusterState {
            is_member: is_alone,
            has_integrity: is_alone,
            allows_migrations: is_alone,
            clock_skew_ms: 0,
            principal_skew_ms: 0,
            hand_over: HandOver::None,
        };
        Cluster {
            node_id,
            own_key,
            view: ArcSwap::from_pointee(view),
            state: ArcSwap::from_pointee(state),
            partition_generation: AtomicI64::new(PARTITION_GENERATION_NONE),
            rebalance_generation: AtomicU64::new(0),
            placements: ArcSwap::default(),
            is_quiesce_pending: AtomicBool::new(false),
            peers: super::services::PeerList::default(),
        }
    }

    /// The cluster of node `node_id` alone.
    pub(crate) fn alone(node_id: u64) -> Self {
        Cluster::new(node_id, vec![node_id], true)
    }

    /// The state of a node that looks for others. It is in no cluster until the cluster thread reports one.
    pub(crate) fn looking_for_others(node_id: u64) -> Self {
        Cluster::new(node_id, Vec::new(), false)
    }

    /// Assigns the partitions of `namespaces` to this single node.
    ///
    /// # Errors
    /// When the versions cannot be written to the devices of a namespace.
    pub(crate) fn deal_alone(&self, namespaces: &[Arc<Namespace>]) -> Result<(), BlockError> {
        namespaces.iter().try_for_each(|namespace| namespace.deal_alone(self.own_key))?;
        self.map_changed();
        self.rebalance_generation.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Notes a rebalance of this cluster.
    pub(super) fn rebalanced(&self, key: u64, succession: Vec<u64>) {
        self.view.store(Arc::new(ClusterView { key, succession, rebalanced: Instant::now() }));
        self.rebalance_generation.fetch_add(1, Relaxed);
    }

    pub(super) fn set_placements(&self, placements: Vec<Placement>) {
        self.placements.store(Arc::new(placements));
    }

    /// Placement of replicas of the namespace with index `position`.
    pub(crate) fn placement(&self, position: usize) -> Placement {
        self.placements.load().get(position).cloned().unwrap_or_default()
    }

    /// Notes that clients must ask for the owners of partitions again.
    pub(super) fn map_changed(&self) {
        self.partition_generation.fetch_add(1, Relaxed);
    }

    pub(super) fn set_state(&self, state: ClusterState) {
        self.state.store(Arc::new(state));
    }

    /// The members of the cluster.
    pub(crate) fn view(&self) -> Arc<ClusterView> {
        self.view.load_full()
    }

    /// The state of clustering.
    pub(crate) fn state(&self) -> ClusterState {
        **self.state.load()
    }

    /// The key of the cluster.
    pub(crate) fn key(&self) -> u64 {
        self.view.load().key
    }

    /// The key under which metadata is changed.
    pub(crate) fn own_key(&self) -> u64 {
        self.own_key
    }

    /// The principal; 0 before the first cluster.
    pub(crate) fn principal(&self) -> u64 {
        self.view.load().succession.first().copied().unwrap_or(0)
    }

    /// Number of nodes; 0 before the first cluster.
    pub(crate) fn size(&self) -> usize {
        self.view.load().succession.len()
    }

    /// A number that changes when clients must ask for the owners of partitions again; -1 before the first
    /// rebalance.
    pub(crate) fn partition_generation(&self) -> i64 {
        self.partition_generation.load(Relaxed)
    }

    /// Whether there has been a rebalance.
    pub(crate) fn is_balanced(&self) -> bool {
        self.rebalance_generation() != 0
    }

    /// Number of rebalances.
    pub(crate) fn rebalance_generation(&self) -> u64 {
        self.rebalance_generation.load(Relaxed)
    }
}
