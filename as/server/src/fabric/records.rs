//! Orders of the cluster thread to the part that moves records between nodes, and the reports of that part.

use std::sync::Arc;

use cluster::migration::{PartitionSize, SMALL_COUNT_MAX};
use proto::peer::NodeId;

use crate::index::PartitionId;
use crate::namespace::Namespace;

/// Largest size of the records of a small partition.
const SMALL_SIZE_MAX: u64 = 64 << 10;

/// Largest number of records of a small partition of `namespace`, if its records have the average size. To
/// send a small partition takes so little work that clients do not notice it.
pub(crate) fn small_count_max(namespace: &Namespace) -> u64 {
    let average = namespace.storage.used_bytes() / namespace.index.element_count().max(1);
    SMALL_COUNT_MAX.min(SMALL_SIZE_MAX / average.max(1))
}

/// What an emigration of a partition sends.
pub(crate) fn partition_size(namespace: &Namespace, partition: PartitionId) -> PartitionSize {
    PartitionSize {
        records: namespace.index.partition_count(partition),
        removals: namespace.partitions.removal_count_of(partition) as u64,
    }
}

/// An order about the records of a partition.
pub(crate) enum MoveOrder {
    /// Send all records, and report when the receiver has acknowledged them.
    Send {
        to: NodeId,
        emigration_id: u32,
        namespace: Arc<Namespace>,
        partition: PartitionId,
        /// Whether the receiver understands messages about removals.
        tells_removals: bool,
    },
    /// Stop sending records or waiting for writes.
    Stop { emigration_id: u32 },
    /// No further write may begin in the partition: report when those under way have ended.
    HandOver { emigration_id: u32, namespace: Arc<Namespace>, partition: PartitionId },
    /// Receive records from a node under the node's number for this emigration.
    Receive { from: NodeId, emigration_id: u32, namespace: Arc<Namespace>, partition: PartitionId },
    /// No more records arrive under that number.
    Received { from: NodeId, emigration_id: u32 },
    /// Stop receiving.
    StopReceiving,
}

/// A report to the cluster thread.
pub(crate) enum MoveReport {
    /// All records of an emigration are sent and acknowledged.
    Sent { emigration_id: u32 },
    /// All writes have ended in a partition that is handed over.
    HandedOver { emigration_id: u32 },
    /// A message about partitions has arrived.
    Message { from: NodeId, bytes: Vec<u8> },
}

/// Posts a report to the cluster thread; returns false if its inbox is full.
pub(crate) type MoveReports = Box<dyn Fn(MoveReport) -> bool + Send + Sync>;

/// Moves records on threads of its own.
pub(crate) trait RecordMover: Send + Sync {
    /// Sets the destination of reports. Called once, before the first order.
    fn report_to(&self, reports: MoveReports);

    /// Accepts an order of the cluster thread, without waiting for its completion.
    fn take_order(&self, order: MoveOrder);

    /// Applies the configured number of threads.
    fn resize(&self);

    /// Ends the threads.
    fn stop(&self);
}

#[cfg(test)]
mod tests {
    use cf::Digest;

    use super::*;

    #[test]
    fn the_removals_of_a_partition_are_a_part_of_its_size() {
        let text = "namespace test {\n storage-engine memory {\n data-size 512M\n }\n}\n";
        let (_, namespace) = Namespace::for_tests(text);
        // A node that is alone sends nothing, and notes no removals.
        namespace.partitions.serve_until(u64::MAX - 1);
        let digest = |number: u8| Digest([[1; 4].as_slice(), &[number; 16]].concat().try_into().expect("20"));
        let partition = PartitionId::of(&digest(0));
        assert_eq!(partition_size(&namespace, partition), PartitionSize::default());
        (0..40).for_each(|number| namespace.partitions.note_removal(&digest(number), 1000));
        let size = partition_size(&namespace, partition);
        assert_eq!(size, PartitionSize { records: 0, removals: 40 });
        assert!(!size.is_small(small_count_max(&namespace)));
    }
}
