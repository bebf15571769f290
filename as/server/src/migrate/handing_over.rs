//! The end of a mastership: waits until the last writes have ended in a partition in which no further write
//! may begin.

use std::time::{Duration, Instant};

use super::emigration::Emigration;
use crate::namespace::Partitions;
use crate::transaction::ReplicaWrites;

/// Time between checks whether the last write has ended.
const POLL_PERIOD: Duration = Duration::from_millis(1);

/// Waits until all writes of the partition of `emigration` are committed and on all replicas, so that the next master
/// has them. Returns false if it was stopped before.
pub(super) fn await_writes(emigration: &Emigration, writes: &ReplicaWrites) -> bool {
    let (namespace, partition) = (&emigration.namespace, emigration.partition);
    cf::fault_point!("hand-over");
    // Waits for transactions that found the partition in service here.
    while !namespace.partitions.await_left(partition, Instant::now() + Partitions::LEAVING_TIME_MAX) {
        if emigration.is_stopped() {
            return false;
        }
        cf::warning_limited!(
            Migrate,
            "{{{}}} writes of partition {} do not end",
            namespace.name(),
            partition.index()
        );
    }
    while writes.has_any_of(namespace.position(), partition) {
        if emigration.is_stopped() {
            return false;
        }
        std::thread::sleep(POLL_PERIOD);
    }
    !emigration.is_stopped()
}
