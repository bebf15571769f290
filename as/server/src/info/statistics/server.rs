//! Statistics of the server.

use cf::sys::facts::{self, CpuUsage, Memory};
use proto::peer::hello::Channel;

use super::Value::{self, Fixed, Flag, Hex, Null, Number, Text};
use crate::info::identity::COMPATIBILITY_ID;
use crate::info::request::Joined;
use crate::metrics::{Heap, ServerCounter};
use crate::node::Node;
use crate::peer_traffic::{FabricFigures, HeartbeatFigures};

/// Values for the rows, read once so that related figures agree.
struct View<'a> {
    node: &'a Node,
    memory: Memory,
    heap: Heap,
    cpu: CpuUsage,
    connections_opened: u64,
    connections_closed: u64,
    heartbeat: HeartbeatFigures,
    fabric: FabricFigures,
}

impl<'a> View<'a> {
    fn new(node: &'a Node) -> Self {
        // Closed connections are read before opened ones, so that no connection counts as closed but not as
        // opened.
        let connections_closed = node.metrics.get(ServerCounter::ClientConnectionsClosed);
        let (heartbeat, fabric) = node.peer_figures();
        View {
            node,
            heartbeat,
            fabric,
            memory: Memory::now(),
            heap: Heap::now(),
            cpu: node.usage.get(),
            connections_opened: node.metrics.get(ServerCounter::ClientConnectionsOpened),
            connections_closed,
        }
    }
}

/// One or several lines of the table.
enum Row {
    One(&'static str, fn(&View<'_>) -> Value),
    Counter(ServerCounter),
    /// Figures of parts that this server does not have, or that do nothing on a single node.
    Idle(&'static [&'static str]),
}

use Row::{Counter, Idle, One};

static ROWS: &[Row] = &[
    One("failed_best_practices", |view| Flag(!view.node.failed_best_practices.is_empty())),
    One("cluster_size", |view| Number(view.node.cluster.size() as u64)),
    One("cluster_key", |view| Hex(view.node.cluster.key())),
    One("cluster_generation", |view| Number(view.node.cluster.rebalance_generation())),
    One("cluster_principal", |view| Hex(view.node.cluster.principal())),
    One("cluster_min_compatibility_id", |_| Number(COMPATIBILITY_ID.into())),
    One("cluster_max_compatibility_id", |_| Number(COMPATIBILITY_ID.into())),
    One("cluster_integrity", |view| Flag(view.node.cluster.state().has_integrity)),
    One("cluster_is_member", |view| Flag(view.node.cluster.state().is_member)),
    One("cluster_duplicate_nodes", |_| Null),
    Idle(&["cluster_clock_skew_stop_writes_sec"]),
    One("cluster_clock_skew_ms", |view| Number(view.node.cluster.state().clock_skew_ms)),
    One("cluster_clock_skew_outliers", |_| Null),
    One("uptime", |view| Number(view.node.started.elapsed().as_secs())),
    One("system_total_cpu_pct", |view| Number(view.cpu.system_user_pct + view.cpu.system_kernel_pct)),
    One("system_user_cpu_pct", |view| Number(view.cpu.system_user_pct)),
    One("system_kernel_cpu_pct", |view| Number(view.cpu.system_kernel_pct)),
    One("system_free_mem_kbytes", |view| Number(view.memory.available / 1024)),
    One("system_free_mem_pct", |view| Number(view.memory.available_pct())),
    One("system_thp_mem_kbytes", |view| Number(view.memory.huge_pages / 1024)),
    One("process_cpu_pct", |view| Number(view.cpu.process_pct)),
    // Every thread that is started is joined at the end.
    One("threads_joinable", |_| Number(facts::thread_count())),
    Idle(&["threads_detached", "threads_pool_total", "threads_pool_active"]),
    One("heap_allocated_kbytes", |view| Number(view.heap.allocated as u64 / 1024)),
    One("heap_active_kbytes", |view| Number(view.heap.active as u64 / 1024)),
    One("heap_mapped_kbytes", |view| Number(view.heap.mapped as u64 / 1024)),
    One("heap_efficiency_pct", |view| Fixed(view.heap.efficiency_pct(), 0)),
    Idle(&["heap_site_count"]),
    One("objects", |view| Number(view.node.object_count())),
    One("tombstones", |view| Number(view.node.tombstone_count())),
    One("info_queue", |view| Number(view.node.service.info.queued_count() as u64)),
    One("rw_in_progress", |view| Number(view.node.awaiting_count() as u64)),
    One("proxy_in_progress", |view| Number(view.node.service.transactions.passed_on.count() as u64)),
    Idle(&["tree_gc_queue"]),
    One("client_connections", |view| Number(view.connections_opened.saturating_sub(view.connections_closed))),
    One("client_connections_opened", |view| Number(view.connections_opened)),
    One("client_connections_closed", |view| Number(view.connections_closed)),
    One("heartbeat_connections", |view| Number(view.heartbeat.connections.open())),
    One("heartbeat_connections_opened", |view| Number(view.heartbeat.connections.opened)),
    One("heartbeat_connections_closed", |view| Number(view.heartbeat.connections.closed)),
    One("fabric_connections", |view| Number(view.fabric.connections.open())),
    One("fabric_connections_opened", |view| Number(view.fabric.connections.opened)),
    One("fabric_connections_closed", |view| Number(view.fabric.connections.closed)),
    One("heartbeat_received_self", |view| Number(view.heartbeat.received_self)),
    One("heartbeat_received_foreign", |view| Number(view.heartbeat.received_foreign)),
    Counter(ServerCounter::ReapedFds),
    One("unread_reply_bytes", |view| Number(view.node.service.replies.unsent_size() as u64)),
    Counter(ServerCounter::RepliesPutOff),
    Counter(ServerCounter::UnreadConnectionsClosed),
    Counter(ServerCounter::TlsHandshakes),
    Counter(ServerCounter::TlsHandshakesFailed),
    Counter(ServerCounter::TlsHandshakesTimedOut),
    Counter(ServerCounter::InfoComplete),
    Counter(ServerCounter::InfoTimeout),
    Counter(ServerCounter::DemarshalError),
    Counter(ServerCounter::EarlyTsvcClientError),
    Counter(ServerCounter::EarlyTsvcFromProxyError),
    Counter(ServerCounter::EarlyTsvcFromProxyBatchSubError),
    One("long_queries_active", |view| Number(view.node.service.queries.long_count() as u64)),
    Counter(ServerCounter::BatchIndexInitiate),
    One("batch_index_queue", |view| Text(batch_queues(view.node))),
    Counter(ServerCounter::BatchIndexComplete),
    Counter(ServerCounter::BatchIndexError),
    Counter(ServerCounter::BatchIndexTimeout),
    Counter(ServerCounter::BatchIndexDelay),
    Idle(&[
        "batch_index_unused_buffers",
        "batch_index_huge_buffers",
        "batch_index_created_buffers",
        "batch_index_destroyed_buffers",
    ]),
    One("batch_index_proto_uncompressed_pct", |view| {
        Fixed(view.node.metrics.batch_compression.uncompressed_pct(), 3)
    }),
    One("batch_index_proto_compression_ratio", |view| Fixed(view.node.metrics.batch_compression.ratio(), 3)),
    One("paxos_principal", |view| Hex(view.node.cluster.principal())),
    One("time_since_rebalance", |view| Number(view.node.cluster.view().rebalanced.elapsed().as_secs())),
    One("migrate_allowed", |view| Flag(view.node.cluster.state().allows_migrations)),
    One("migrate_partitions_remaining", |view| {
        let namespaces = view.node.namespaces.iter();
        Number(namespaces.map(|namespace| namespace.partitions.figures().pending_migrations()).sum())
    }),
    One("fabric_bulk_send_rate", |view| Number(view.fabric.rate(Channel::Bulk).sent)),
    One("fabric_bulk_recv_rate", |view| Number(view.fabric.rate(Channel::Bulk).received)),
    One("fabric_ctrl_send_rate", |view| Number(view.fabric.rate(Channel::Control).sent)),
    One("fabric_ctrl_recv_rate", |view| Number(view.fabric.rate(Channel::Control).received)),
    One("fabric_meta_send_rate", |view| Number(view.fabric.rate(Channel::Metadata).sent)),
    One("fabric_meta_recv_rate", |view| Number(view.fabric.rate(Channel::Metadata).received)),
    One("fabric_rw_send_rate", |view| Number(view.fabric.rate(Channel::ReadWrite).sent)),
    One("fabric_rw_recv_rate", |view| Number(view.fabric.rate(Channel::ReadWrite).received)),
];

/// `batches:buffers` of each batch thread. The threads share one queue, so the first figure is that of all;
/// no buffer waits in it.
fn batch_queues(node: &Node) -> String {
    let batches = node.service.batches.under_way_count();
    let others = (node.config.service.batch_index_threads.get() as usize).saturating_sub(1);
    format!("{batches}:0{}", ",0:0".repeat(others))
}

/// Writes all rows.
pub(super) fn write_server(node: &Node, out: &mut Joined<'_>) {
    let view = View::new(node);
    for row in ROWS {
        match row {
            One(key, value) => out.pair(key, value(&view)),
            Counter(counter) => out.pair(counter.name(), node.metrics.get(*counter)),
            Idle(keys) => keys.iter().for_each(|key| out.pair(key, 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_row() {
        // Counters of connections are left out: they are figures of the view, because they must agree.
        let shown = |counter: &ServerCounter| {
            ROWS.iter().any(|row| match row {
                Counter(shown) => shown == counter,
                One(key, _) => *key == counter.name(),
                Idle(_) => false,
            })
        };
        let hidden: Vec<_> = ServerCounter::ALL.iter().filter(|counter| !shown(counter)).collect();
        assert!(hidden.is_empty(), "{hidden:?}");
    }
}
