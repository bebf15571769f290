//! Publishing: the cluster thread tells transactions, clients, operators and the log about its state.

use std::collections::BTreeSet;
use std::time::Instant;

use cf::sys::block::BlockError;
use cluster::balance::Partition;
use cluster::migration::{MigrationLoad, PartitionId as MemberPartition};
use cluster::node::Placement;
use proto::peer::NodeId;
use proto::peer::migrate::{Migrate, MigrateBody};

use super::{Driver, now};
use crate::fabric::cluster::ClusterState;
use crate::fabric::{partition_size, small_count_max};
use crate::index::PartitionId;
use crate::namespace::{Namespace, PartitionRow, Partitions, Replica};
use crate::storage::Storage;

/// The published row of a partition.
fn row_of(partition: &Partition) -> PartitionRow {
    let immigrates = |place: usize| partition.immigrators.get(place).copied().unwrap_or(false);
    let replica =
        |(place, node): (usize, &NodeId)| Replica { node: node.0, is_immigrating: immigrates(place) };
    PartitionRow {
        version: partition.version,
        final_version: partition.final_version,
        replicas: partition.replicas.iter().enumerate().map(replica).collect(),
        working_master: partition.working_master.0,
        proxy_destination: partition.proxy_destination.0,
        duplicates: partition.duplicates.iter().map(|node| node.0).collect(),
        is_handing_over: partition.is_handing_over,
        holds_writes: partition.holds_writes,
        duplicate_resolution_cutoff_ms: partition.duplicate_resolution_cutoff_ms,
        pending_emigrations: partition.pending_emigrations.into(),
        pending_lead_emigrations: partition.pending_lead_emigrations.into(),
        pending_immigrations: partition.pending_immigrations.into(),
        ..PartitionRow::default()
    }
}

impl Driver {
    /// Publishes the state of clustering.
    pub(super) fn show_state(&self) {
        let clustering = self.node.clustering();
        let skew_ms = |node| self.node.heartbeat().peer(node).map_or(0, |peer| peer.clock_skew_ms);
        let principal = NodeId(self.around.cluster.principal());
        self.around.cluster.set_state(ClusterState {
            is_member: !clustering.is_orphan(),
            has_integrity: clustering.has_integrity(),
            allows_migrations: self.node.balanced_key() == clustering.cluster_key()
                && !clustering.is_orphan(),
            clock_skew_ms: self
                .node
                .heartbeat()
                .alive()
                .map(|node| skew_ms(node).unsigned_abs())
                .max()
                .unwrap_or(0),
            principal_skew_ms: skew_ms(principal),
            hand_over: self.node.hand_over(),
        });
    }

    /// Writes changed partitions to the device headers.
    pub(super) fn store_versions(&self) {
        self.store_by(Partitions::store_versions);
    }

    /// As [`store_versions`](Self::store_versions), if the last write was some time ago.
    pub(super) fn store_versions_if_due(&self) {
        self.store_by(|partitions, storage| partitions.store_versions_if_due(storage, Instant::now()));
    }

    fn store_by(&self, store: impl Fn(&Partitions, &Storage) -> Result<(), BlockError>) {
        for namespace in self.around.namespaces.iter() {
            if let Err(error) = store(&namespace.partitions, &namespace.storage) {
                versions_not_stored(namespace, &error);
            }
        }
    }

    /// Publishes a lower bound for the times of new records, so that they are later than writes of other
    /// nodes that this one has heard of.
    pub(super) fn show_clock(&mut self) {
        let floor_ms = self.node.update_time_ms(now());
        self.around.namespaces.iter().for_each(|namespace| namespace.partitions.write_not_before(floor_ms));
    }

    /// Publishes the migrations under way.
    pub(super) fn show_migrations(&self) {
        for (at, namespace) in self.around.namespaces.iter().enumerate() {
            let mut shown = namespace.migration_load.lock();
            let is_quiet = self.node.emigrations_remaining() == 0
                && namespace.partitions.figures().pending_migrations() == 0
                && *shown == MigrationLoad::default();
            if !is_quiet {
                *shown = self.node.migration_load(at);
            }
        }
    }

    /// Counts the records of the partition whose immigration ends with this message of node `from`, if it does. The
    /// partition may now be sent on, and has grown since the rebalance.
    pub(super) fn count_received(&mut self, from: NodeId, message: &[u8]) {
        let Ok(Migrate { emigration_id, body: MigrateBody::Done }) = Migrate::decode(message) else { return };
        let Some(partition) = self.node.immigration(from, emigration_id) else { return };
        let size = self.partition(partition).map(|(namespace, id)| partition_size(namespace, id));
        if let Some(size) = size {
            self.node.set_partition_size(partition, size);
        }
    }

    /// Passes the sizes of partitions to the node's logic, so that small ones migrate first.
    pub(super) fn count_records(&mut self) {
        for (at, namespace) in self.around.namespaces.iter().enumerate() {
            let sizes = PartitionId::all().map(|id| partition_size(namespace, id));
            self.node.set_partition_sizes(at, sizes.collect(), small_count_max(namespace));
        }
    }

    pub(super) fn rebalanced(&mut self, cluster_key: u64, succession: &[NodeId]) {
        let namespaces = 0..self.around.namespaces.len();
        self.show_clock();
        self.factors = Some(namespaces.map(|at| self.node.replication_factor(at) as u32).collect());
        self.show_partitions();
        self.factors = None;
        let nodes: Vec<u64> = succession.iter().map(|node| node.0).collect();
        let list: Vec<String> = nodes.iter().map(|node| format!("{node:x}")).collect();
        cf::info!(Exchange, "data exchange completed with cluster key {cluster_key:x}");
        cf::info!(Clustering, "cluster changed: size {} succession {}", nodes.len(), list.join(" "));
        for (at, namespace) in self.around.namespaces.iter().enumerate() {
            let figures = namespace.partitions.figures();
            cf::info!(
                Partition,
                "{{{}}} rebalanced: expected-migrations ({},{},{}) fresh-partitions {}",
                namespace.name(),
                figures.pending_emigrations,
                figures.pending_immigrations,
                self.node.migration_load(at).signals_remaining,
                figures.fresh
            );
        }
        self.show_state();
        self.show_placements();
        self.around.cluster.rebalanced(cluster_key, nodes);
        self.metadata.cluster_changed(cluster_key, succession);
        let others: Vec<NodeId> = succession.iter().copied().filter(|node| *node != self.node.id()).collect();
        self.around.cluster.peers.set_members(&others);
    }

    fn show_placements(&self) {
        let placements = (0..self.around.namespaces.len()).map(|at| self.node.placement(at).cloned());
        let placements: Vec<Placement> = placements.map(Option::unwrap_or_default).collect();
        for (namespace, placement) in self.around.namespaces.iter().zip(&placements) {
            if !placement.quiesced.is_empty() {
                cf::info!(
                    Partition,
                    "{{{}}} {} nodes are quiesced",
                    namespace.name(),
                    placement.quiesced.len()
                );
            }
        }
        self.around.cluster.set_placements(placements);
    }

    /// Publishes changes to transactions and clients, after writing them to the device headers.
    pub(super) fn show_partitions(&mut self) {
        let is_done = |partition: &MemberPartition| !self.removals.is_pending(*partition);
        self.delayed.extract_if(.., is_done).for_each(|partition| _ = self.changed.insert(partition));
        let changed: BTreeSet<MemberPartition> = self.changed.difference(&self.delayed).copied().collect();
        self.changed.clear();
        if changed.is_empty() && self.factors.is_none() {
            return;
        }
        for (at, namespace) in self.around.namespaces.iter().enumerate() {
            let of_namespace = changed.iter().filter(|id| id.namespace == at);
            let row = |id: &MemberPartition| -> Option<(PartitionId, PartitionRow)> {
                Some((PartitionId::new(id.partition.into())?, row_of(self.node.partition(*id))))
            };
            let rows: Vec<_> = of_namespace.filter_map(row).collect();
            let factor = self.factors.as_ref().map(|factors| factors[at]);
            if rows.is_empty() && factor.is_none() {
                continue;
            }
            if let Err(error) = namespace.partitions.take_over(&namespace.storage, rows, factor) {
                versions_not_stored(namespace, &error);
            }
        }
        self.dropped.drain(..).for_each(|partition| self.removals.add(partition));
    }
}

fn versions_not_stored(namespace: &Namespace, error: &BlockError) -> ! {
    cf::fatal!("{{{}}} versions of partitions cannot be written to the devices: {error}", namespace.name());
}
