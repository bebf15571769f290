//! What the cluster thread asks of those who move records between nodes.

use std::sync::Arc;

use proto::peer::NodeId;

use crate::index::PartitionId;
use crate::namespace::Namespace;

/// Something to do with the records of a partition.
pub(crate) enum MoveOrder {
    /// Send all, and tell the cluster thread when the receiver has acknowledged them.
    Send {
        to: NodeId,
        emigration_id: u32,
        namespace: Arc<Namespace>,
        partition: PartitionId,
        /// The receiver understands what is told of removed records.
        tells_removals: bool,
    },
    /// Send no more, and wait for nothing more.
    Stop { emigration_id: u32 },
    /// No write begins in the partition any more: tell the cluster thread when those under way have ended.
    HandOver { emigration_id: u32, namespace: Arc<Namespace>, partition: PartitionId },
    /// Take those in that come from a node under its number for them.
    Receive { from: NodeId, emigration_id: u32, namespace: Arc<Namespace>, partition: PartitionId },
    /// No more come under that number.
    Received { from: NodeId, emigration_id: u32 },
    /// Take none in any more.
    StopReceiving,
}

/// What the cluster thread is told.
pub(crate) enum MoveReport {
    /// All records of an emigration are sent and acknowledged.
    Sent { emigration_id: u32 },
    /// No write is under way in a partition that is handed over.
    HandedOver { emigration_id: u32 },
    /// A message about partitions has come.
    Message { from: NodeId, bytes: Vec<u8> },
}

/// Tells the cluster thread; returns false if it is too far behind.
pub(crate) type MoveReports = Box<dyn Fn(MoveReport) -> bool + Send + Sync>;

/// Moves records, in threads of its own.
pub(crate) trait RecordMover: Send + Sync {
    /// Reports go to `reports`. Called once, before the first order.
    fn report_to(&self, reports: MoveReports);

    /// Takes an order of the cluster thread, which does not wait for it to be carried out.
    fn take_order(&self, order: MoveOrder);

    /// There are to be as many threads as the configuration says now.
    fn resize(&self);

    /// Ends the threads.
    fn stop(&self);
}
