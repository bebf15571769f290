//! Writes the state of the cluster thread to the log, when an administrator asks for it.

use std::sync::Arc;

use cluster::migration::PartitionId as MemberPartition;
use cluster::node::Node;
use proto::peer::NodeId;

use crate::heartbeat::Heartbeat;
use crate::index::PARTITION_COUNT;
use crate::namespace::Namespace;

/// Largest number of partitions that are listed one by one.
const PARTITIONS_MAX: usize = 200;

/// The parts of the server that a dump describes besides the node.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) namespaces: &'a [Arc<Namespace>],
    pub(super) heartbeat: &'a Heartbeat,
}

/// The part of the state to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dump {
    Cluster,
    Heartbeat,
    Clock,
    Skew,
    /// Migrations; also lists partitions one by one, if asked for.
    Migrations {
        is_verbose: bool,
    },
}

/// Writes a part of the state to the log.
pub(super) fn write(dump: Dump, node: &Node, around: Around<'_>, monotonic_ms: u64) {
    match dump {
        Dump::Cluster => write_cluster(node),
        Dump::Heartbeat => write_heartbeat(node, around, monotonic_ms),
        Dump::Clock => {
            cf::info!(Hlc, "HLC: {:x} ({} ms since 1970)", node.clock(), node.clock() >> 16);
        }
        Dump::Skew => write_skew(node),
        Dump::Migrations { is_verbose } => write_migrations(node, around, is_verbose),
    }
}

fn list(nodes: impl IntoIterator<Item = NodeId>) -> String {
    let nodes: Vec<String> = nodes.into_iter().map(|node| format!("{:x}", node.0)).collect();
    nodes.join(" ")
}

fn write_cluster(node: &Node) {
    let clustering = node.clustering();
    let state = if clustering.is_orphan() {
        "orphan"
    } else if clustering.is_principal() {
        "principal"
    } else {
        "non-principal"
    };
    let succession = clustering.succession();
    cf::info!(
        Clustering,
        "CL: node {:x} is {state}, integrity {}, cluster key {:x}, size {}, principal {:x}, succession list {}",
        node.id().0,
        clustering.has_integrity(),
        clustering.cluster_key().0,
        succession.len(),
        succession.first().map_or(0, |first| first.0),
        list(succession.iter().copied())
    );
    for other in node.heartbeat().alive() {
        if let Some(state) = clustering.state_of(other, node.heartbeat()) {
            cf::info!(
                Clustering,
                "CL: node {:x} says: cluster key {:x}, succession list {}",
                other.0,
                state.cluster_key.0,
                list(state.succession.iter().copied())
            );
        }
    }
    let is_balanced = node.balanced_key() == clustering.cluster_key() && !node.balanced_key().is_none();
    cf::info!(
        Exchange,
        "EXG: {}, partitions are those of cluster key {:x}",
        if is_balanced { "at rest" } else { "exchanging" },
        node.balanced_key().0
    );
}

fn write_heartbeat(node: &Node, around: Around<'_>, monotonic_ms: u64) {
    let timing = node.timing();
    let seeds = around.heartbeat.seeds().list();
    let seeds: Vec<String> = seeds.iter().map(|seed| format!("{}:{}", seed.host, seed.port)).collect();
    cf::info!(
        Hb,
        "HB: node {:x} interval {} timeout {} adjacency list {} seeds {}",
        node.id().0,
        timing.interval_ms,
        timing.timeout_intervals,
        list(node.heartbeat().alive()),
        seeds.join(" ")
    );
    for other in node.heartbeat().alive() {
        if let Some(peer) = node.heartbeat().peer(other) {
            cf::info!(
                Hb,
                "HB: node {:x} heard {} ms ago, adjacency list {}, endpoints {:?}, fabric {:?}",
                other.0,
                monotonic_ms.saturating_sub(peer.received_ms),
                list(peer.adjacency.iter().copied()),
                peer.endpoints,
                peer.fabric_endpoints
            );
        }
    }
}

fn write_skew(node: &Node) {
    for other in node.heartbeat().alive() {
        if let Some(peer) = node.heartbeat().peer(other) {
            cf::info!(Skew, "SKEW: node {:x}: {} ms ahead of this one", other.0, peer.clock_skew_ms);
        }
    }
}

fn write_migrations(node: &Node, around: Around<'_>, is_verbose: bool) {
    for (at, namespace) in around.namespaces.iter().enumerate() {
        let (load, figures) = (node.migration_load(at), namespace.partitions.figures());
        cf::info!(
            Migrate,
            "{{{}}} migrations: emigrations {} of which active {} remaining {} immigrations {} of which active {} \
             remaining {} signals {} of which active {}",
            namespace.name(),
            load.emigrations_known,
            load.emigrations,
            figures.pending_emigrations,
            load.immigrations_known,
            load.immigrations,
            figures.pending_immigrations,
            load.signals_remaining,
            load.signals
        );
        if !is_verbose {
            continue;
        }
        let partitions = 0..PARTITION_COUNT as u16;
        let partitions = partitions.map(|partition| MemberPartition { namespace: at, partition });
        let is_migrating = |id: &MemberPartition| {
            let partition = node.partition(*id);
            partition.pending_emigrations != 0 || partition.pending_immigrations != 0
        };
        for id in partitions.filter(is_migrating).take(PARTITIONS_MAX) {
            let partition = node.partition(id);
            cf::info!(
                Migrate,
                "{{{}}} partition {}: version {} to be {}, emigrations {}, immigrations {}, replicas {}, acting \
                 master {:x}, duplicates {}",
                namespace.name(),
                id.partition,
                partition.version,
                partition.final_version,
                partition.pending_emigrations,
                partition.pending_immigrations,
                list(partition.replicas.iter().copied()),
                partition.working_master.0,
                list(partition.duplicates.iter().copied())
            );
        }
    }
}
