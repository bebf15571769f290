//! A node leaves its cluster: it makes other nodes take over its partitions, forwards requests that clients
//! still send to it, and stops when the clients have noticed. For clients a clean stop is therefore a change
//! of routes instead of a failure.
//!
//! The cluster thread does the first part (`cluster::node`, `hand_over`); this file waits for that, for a
//! bounded time.

use std::time::{Duration, Instant};

use cluster::node::HandOver;

use crate::fabric::DriverEvent;
use crate::metrics::{Operation, Origin, Outcome};
use crate::node::Node;

/// Longest wait for other nodes to take the partitions. A node with the only copy of records may need longer
/// to send them, and stops all the same.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);
/// Clients read the partition map about once a second. When no request came for this time, they have read it.
const CLIENTS_QUIET: Duration = Duration::from_millis(1200);
/// Longest wait for clients. Clients that send requests to random nodes would never stop.
const CLIENTS_MAX: Duration = Duration::from_millis(2500);
const POLL: Duration = Duration::from_millis(10);
/// Longest wait of a stop for the threads that serve clients: longer than any function may run.
const STOP_TIME_MAX: Duration = Duration::from_secs(15);
/// The wait for the threads of one kind, if those of other kinds have used up the whole time.
const STOP_TIME_MIN: Duration = Duration::from_millis(500);
/// Maximum number of threads that are listed by name.
const NAMED_MAX: usize = 8;

/// Bounds how long a stop waits for the threads that serve clients: a function or an operation that does not
/// end must not keep acknowledged writes from the disk.
pub(crate) struct StopPatience(Instant);

impl StopPatience {
    pub(crate) fn start() -> Self {
        StopPatience(Instant::now() + STOP_TIME_MAX)
    }

    /// The end of the wait for the next threads.
    pub(crate) fn deadline(&self) -> Instant {
        self.0.max(Instant::now() + STOP_TIME_MIN)
    }
}

/// Ends the threads that serve clients, except the info threads. Returns the names of those that still run.
pub(crate) fn end_work(node: &Node, patience: &StopPatience) -> Vec<String> {
    let service = &node.service;
    let mut running = service.pool.stop_until(patience.deadline());
    running.extend(service.batches.workers.stop_until(patience.deadline()));
    running.extend(service.transactions.pool.stop_until(patience.deadline()));
    running.extend(service.compression.workers.stop_until(patience.deadline()));
    running.extend(service.queries.stop_until(patience.deadline()));
    running
}

/// A sentence about threads that have not ended, and about the next start if there `are_devices`. No device
/// is then marked as stopped cleanly, because such a thread may still write.
pub(crate) fn still_at_work(running: &[String], are_devices: bool) -> String {
    let (named, others) = running.split_at(running.len().min(NAMED_MAX));
    let mut what = format!("threads were still at work ({}", named.join(", "));
    if !others.is_empty() {
        what.push_str(&format!(" and {} more", others.len()));
    }
    what.push(')');
    if are_devices {
        what.push_str("; all writes are on disk, and the next start checks the devices as after a crash");
    }
    what
}

/// Makes other nodes take over the partitions that this node serves, for a bounded time. A single node does
/// not wait.
pub(crate) fn leave_others(node: &Node) {
    let Some(membership) = node.membership.get().filter(|_| node.cluster.size() > 1) else { return };
    if !membership.tell(DriverEvent::Leave) {
        return;
    }
    let began = Instant::now();
    let state = loop {
        let state = node.cluster.state().hand_over;
        // At first the cluster thread may not have received the request.
        let is_over = matches!(state, HandOver::Impossible | HandOver::Done);
        if is_over || began.elapsed() > HAND_OVER_MAX {
            break state;
        }
        std::thread::sleep(POLL);
    };
    match state {
        HandOver::Impossible => {
            return cf::info!(Partition, "no other node can take the partitions over");
        }
        HandOver::Done => {
            cf::info!(Partition, "other nodes have the partitions after {} ms", began.elapsed().as_millis());
        }
        HandOver::None | HandOver::UnderWay => {
            cf::info!(
                Partition,
                "stopping although other nodes do not have all partitions: {} are missing there",
                served(node)
            );
        }
    }
    await_clients(node);
}

/// Waits until clients have noticed that other nodes serve the partitions.
fn await_clients(node: &Node) {
    let began = Instant::now();
    let (mut last_count, mut last_request) = (passed_on(node), began);
    while node.service.connection_count.get() != 0
        && last_request.elapsed() < CLIENTS_QUIET
        && began.elapsed() < CLIENTS_MAX
        // If the nodes that took the partitions over have left too, this node will soon be master again,
        // without their writes.
        && node.cluster.state().hand_over != HandOver::Impossible
    {
        std::thread::sleep(POLL);
        let count = passed_on(node);
        if count != last_count || node.service.transactions.passed_on.count() != 0 {
            (last_count, last_request) = (count, Instant::now());
        }
    }
}

/// Partitions that this node still serves.
fn served(node: &Node) -> usize {
    let mut count = 0;
    for namespace in node.namespaces.iter() {
        namespace.partitions.visit(|_, row| count += usize::from(row.working_master == node.cluster.node_id));
    }
    count
}

/// Requests of clients that other nodes have carried out.
fn passed_on(node: &Node) -> u64 {
    let mut sum = 0;
    for namespace in node.namespaces.iter() {
        for origin in [Origin::Client, Origin::BatchSub] {
            let count = |outcome| namespace.metrics.transactions(origin, Operation::Proxy, outcome);
            sum += Outcome::ALL.iter().copied().map(count).sum::<u64>();
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_have_not_ended_are_named() {
        let threads = |count: usize| -> Vec<String> { (0..count).map(|n| format!("batch-{n}")).collect() };
        assert_eq!(still_at_work(&threads(2), false), "threads were still at work (batch-0, batch-1)");
        let many = still_at_work(&threads(NAMED_MAX + 3), true);
        assert!(many.contains("batch-7 and 3 more)") && many.ends_with("as after a crash"), "{many}");
    }
}
