//! Commands that write the state of a part of the server to the log.

use std::fmt::Write;

use cf::clock::StoredMillis;
use cf::sys::facts;
use tikv_jemalloc_ctl::stats_print::{Options, stats_print};

use super::request::InfoResult;
use super::request::{Joined, VALUE_SIZE_MAX};
use super::{Arguments, InfoError};
use crate::fabric::{ChannelFigures, DriverEvent, Dump};
use crate::metrics::Heap;
use crate::node::Node;

/// The answer of all these commands.
fn done(out: &mut String) -> InfoResult {
    out.push_str("ok");
    Ok(())
}

/// Makes the cluster thread write its state to the log. A node without seeds and multicast groups has no such thread.
fn ask_cluster_thread(node: &Node, dump: Dump) -> bool {
    node.membership.get().is_some_and(|membership| membership.tell(DriverEvent::Dump(dump)))
}

pub(super) fn cluster(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    arguments.switch("verbose")?;
    if !ask_cluster_thread(node, Dump::Cluster) {
        let view = node.cluster.view();
        cf::info!(
            Clustering,
            "CL: node {:x} is alone, cluster key {:x}, size 1",
            node.cluster.node_id,
            view.key
        );
    }
    done(out)
}

pub(super) fn fabric(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    arguments.switch("verbose")?;
    let Some(membership) = node.membership.get() else {
        cf::info!(Fabric, "FB: no connections to other nodes");
        return done(out);
    };
    cf::info!(Fabric, "FB: {} connections to other nodes", membership.fabric.connection_count());
    for peer in membership.fabric.peers() {
        let channels: Vec<String> = peer
            .channels
            .iter()
            .map(|channel| {
                let ChannelFigures { name, connections, waiting_bytes } = channel;
                format!("{name} {connections} ({waiting_bytes} bytes wait)")
            })
            .collect();
        let alive = if peer.is_alive { "alive" } else { "departed" };
        cf::info!(Fabric, "FB: node {:x} {alive}, connections: {}", peer.node.0, channels.join(", "));
    }
    done(out)
}

pub(super) fn heartbeat(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    arguments.switch("verbose")?;
    if !ask_cluster_thread(node, Dump::Heartbeat) {
        cf::info!(Hb, "HB: node {:x} alone, no heartbeat sent or received", node.cluster.node_id);
    }
    done(out)
}

pub(super) fn clock(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    arguments.switch("verbose")?;
    cf::info!(Hlc, "clock {} ms since 2010-01-01 UTC", StoredMillis::now().0);
    ask_cluster_thread(node, Dump::Clock);
    done(out)
}

pub(super) fn migrations(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let is_verbose = arguments.switch("verbose")?;
    if !ask_cluster_thread(node, Dump::Migrations { is_verbose }) {
        cf::info!(Migrate, "no other node to migrate to");
    }
    done(out)
}

pub(super) fn rw_requests(node: &Node, out: &mut String) -> InfoResult {
    let transactions = &node.service.transactions;
    let (writes, questions) = (transactions.replicas.count(), transactions.duplicates.count());
    cf::info!(
        Rw,
        "RW: {writes} replica writes or records with writers that wait, {questions} questions for newer copies, {} \
         requests passed on",
        transactions.passed_on.count()
    );
    transactions.replicas.describe().iter().for_each(|line| cf::info!(Rw, "RW: {line}"));
    done(out)
}

pub(super) fn skew(node: &Node, out: &mut String) -> InfoResult {
    if !ask_cluster_thread(node, Dump::Skew) {
        cf::info!(Skew, "no clock of another node to compare with");
    }
    done(out)
}

/// Write blocks of each device of a namespace.
pub(super) fn write_blocks(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let namespace = arguments.namespace_or_ns(node)?;
    for (at, device) in namespace.storage.device_stats().enumerate() {
        cf::info!(
            Storage,
            "WB: {{{}}} device {at}: total-bytes {} used-bytes {} free-wblocks {} defrag-q {} writes {} \
             defrag-reads {} defrag-writes {}",
            namespace.name(),
            device.total_bytes,
            device.used_bytes,
            device.free_wblocks,
            device.defrag_queue,
            device.writes,
            device.defrag_reads,
            device.defrag_writes
        );
    }
    done(out)
}

/// Writes the allocator's statistics to the log only: a client must not choose files of the server.
pub(super) fn heap(_: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let mut given = [None; 3];
    for (value, name) in given.iter_mut().zip(["file", "options", "sites"]) {
        *value = arguments.optional(name, VALUE_SIZE_MAX)?.map(|_| name);
    }
    // The options are about a file and have no effect without one.
    if let [Some(name), ..] | [_, _, Some(name)] = given {
        return Err(InfoError::unsupported(format!("no '{name}': the statistics go to the log")));
    }
    let heap = Heap::now();
    cf::info!(Alloc, "heap: allocated {} active {} mapped {}", heap.allocated, heap.active, heap.mapped);
    let mut options = Options::default();
    (options.skip_per_arena, options.skip_mutex_statistics) = (true, true);
    (options.skip_bin_size_classes, options.skip_large_size_classes) = (true, true);
    let mut text = Vec::new();
    if stats_print(&mut text, options).is_ok() {
        String::from_utf8_lossy(&text).lines().for_each(|line| cf::info!(Alloc, "{line}"));
    }
    done(out)
}

/// The threads of the process, with their state according to the kernel.
pub(super) fn threads(_: &Node, out: &mut String) -> InfoResult {
    let mut rows = Joined::new(out, ';');
    for thread in facts::threads() {
        let mut row = String::new();
        let _ = write!(row, "---------- {} ({}) ----------;state {}", thread.id, thread.name, thread.state);
        if !thread.waits_in.is_empty() {
            let _ = write!(row, " in {}", thread.waits_in);
        }
        rows.item(row);
    }
    Ok(())
}
