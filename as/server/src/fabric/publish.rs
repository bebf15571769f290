//! Converts the state of partitions in the cluster thread to the rows that transactions see.

use cluster::balance::Partition;
use proto::peer::NodeId;

use crate::namespace::{PartitionRow, Replica};

/// The published row of a partition.
pub(super) fn row_of(partition: &Partition) -> PartitionRow {
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
