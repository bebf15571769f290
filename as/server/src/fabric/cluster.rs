//! The cluster as info answers and transactions see it. The cluster thread changes it; for a node alone it never changes.
//!
//! The partitions themselves are in their [`Namespace`]s; here is what is one for all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::*};
use std::time::Instant;

use arc_swap::ArcSwap;
use cf::sys::block::BlockError;
use cluster::node::Placement;

use crate::namespace::Namespace;

/// Milliseconds of the clock that a cluster key is made from are kept in 48 bits.
const CLUSTER_KEY_MASK: u64 = (1 << 48) - 1;
/// Before partitions were dealt out for the first time.
const PARTITION_GENERATION_NONE: i64 = -1;

/// Who belongs to the cluster, as of the last rebalance.
#[derive(Clone, Debug)]
pub(crate) struct ClusterView {
    /// Random; the same on all nodes of a cluster, new with every change of it. 0 before the first cluster.
    pub(crate) key: u64,
    /// The nodes, the principal first.
    pub(crate) succession: Vec<u64>,
    /// When the partitions were last dealt out.
    pub(crate) rebalanced: Instant,
}

/// What clustering says at the moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClusterState {
    /// The node is in a cluster.
    pub(crate) is_member: bool,
    /// All that it hears from agree on one cluster.
    pub(crate) has_integrity: bool,
    /// Migrations may run.
    pub(crate) allows_migrations: bool,
    /// Largest difference of another node's wall clock to ours.
    pub(crate) clock_skew_ms: u64,
}

/// The cluster of this node.
pub(crate) struct Cluster {
    pub(crate) node_id: u64,
    /// Made at the start: the key of a node that is alone.
    own_key: u64,
    view: ArcSwap<ClusterView>,
    state: ArcSwap<ClusterState>,
    partition_generation: AtomicI64,
    rebalance_generation: AtomicU64,
    /// Where replicas are placed, by namespace, as of the last rebalance; empty for a node alone.
    placements: ArcSwap<Vec<Placement>>,
    /// The node is to be quiesced with the next rebalance.
    pub(crate) is_quiesce_pending: AtomicBool,
    /// Changes with the other nodes that clients are told of.
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

    /// That of a node which looks for others, and is in no cluster until the cluster thread says so.
    pub(crate) fn looking_for_others(node_id: u64) -> Self {
        Cluster::new(node_id, Vec::new(), false)
    }

    /// Deals the partitions of `namespaces` out to this node, which is alone.
    ///
    /// # Errors
    /// When the versions cannot be written to the devices of a namespace.
    pub(crate) fn deal_alone(&self, namespaces: &[Arc<Namespace>]) -> Result<(), BlockError> {
        namespaces.iter().try_for_each(|namespace| namespace.deal_alone(self.own_key))?;
        self.map_changed();
        self.rebalance_generation.fetch_add(1, Relaxed);
        Ok(())
    }

    /// The partitions were dealt out for this cluster.
    pub(super) fn rebalanced(&self, key: u64, succession: Vec<u64>) {
        self.view.store(Arc::new(ClusterView { key, succession, rebalanced: Instant::now() }));
        self.rebalance_generation.fetch_add(1, Relaxed);
    }

    pub(super) fn set_placements(&self, placements: Vec<Placement>) {
        self.placements.store(Arc::new(placements));
    }

    /// Where replicas of the namespace at `position` are placed.
    pub(crate) fn placement(&self, position: usize) -> Placement {
        self.placements.load().get(position).cloned().unwrap_or_default()
    }

    /// Clients must ask for the owners of partitions again.
    pub(super) fn map_changed(&self) {
        self.partition_generation.fetch_add(1, Relaxed);
    }

    pub(super) fn set_state(&self, state: ClusterState) {
        self.state.store(Arc::new(state));
    }

    /// Who belongs to it.
    pub(crate) fn view(&self) -> Arc<ClusterView> {
        self.view.load_full()
    }

    /// What clustering says.
    pub(crate) fn state(&self) -> ClusterState {
        **self.state.load()
    }

    /// The key of the cluster.
    pub(crate) fn key(&self) -> u64 {
        self.view.load().key
    }

    /// What changes of metadata are made under.
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

    /// Changes when clients must ask for the owners of partitions again; -1 until they have been dealt out.
    pub(crate) fn partition_generation(&self) -> i64 {
        self.partition_generation.load(Relaxed)
    }

    /// Whether partitions have been dealt out.
    pub(crate) fn is_balanced(&self) -> bool {
        self.rebalance_generation() != 0
    }

    /// Counts the times that partitions were dealt out.
    pub(crate) fn rebalance_generation(&self) -> u64 {
        self.rebalance_generation.load(Relaxed)
    }
}
