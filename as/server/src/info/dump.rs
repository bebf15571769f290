//! Commands that write the state of a part of the server to the log.

use std::fmt::Write;

use cf::clock::StoredMillis;
use cf::sys::facts;
use tikv_jemalloc_ctl::stats_print::{Options, stats_print};

use super::request::InfoResult;
use super::request::{Joined, VALUE_SIZE_MAX};
use super::{Arguments, InfoError};
use crate::metrics::Heap;
use crate::node::Node;

/// All of them answer so.
fn done(out: &mut String) -> InfoResult {
    out.push_str("ok");
    Ok(())
}

pub(super) fn cluster(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    arguments.switch("verbose")?;
    let cluster = &node.cluster;
    let view = cluster.view();
    let (key, size, principal) = (view.key, view.succession.len(), cluster.principal());
    let nodes: Vec<String> = view.succession.iter().map(|node| format!("{node:x}")).collect();
    let nodes = nodes.join(" ");
    cf::info!(
        Clustering,
        "CL: cluster key {key:x} size {size} principal {principal:x} succession list {nodes}"
    );
    done(out)
}

pub(super) fn fabric(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    arguments.switch("verbose")?;
    let connections = node.membership.get().map_or(0, |membership| membership.fabric.connection_count());
    cf::info!(Fabric, "{connections} connections to other nodes");
    done(out)
}

pub(super) fn heartbeat(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    arguments.switch("verbose")?;
    match node.membership.get() {
        Some(membership) => {
            let seeds = membership.heartbeat.seeds().list();
            let seeds: Vec<String> =
                seeds.iter().map(|seed| format!("{}:{}", seed.host, seed.port)).collect();
            cf::info!(Hb, "HB: node {:x} seeds {}", node.cluster.node_id, seeds.join(" "));
        }
        None => cf::info!(Hb, "HB: node {:x} alone, no heartbeat sent or received", node.cluster.node_id),
    }
    done(out)
}

pub(super) fn clock(_: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    arguments.switch("verbose")?;
    cf::info!(Hlc, "clock {} ms since 2010-01-01 UTC", StoredMillis::now().0);
    done(out)
}

pub(super) fn migrations(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    arguments.switch("verbose")?;
    for namespace in node.namespaces.iter() {
        let (load, figures) = (*namespace.migration_load.lock(), namespace.partitions.figures());
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
    }
    done(out)
}

pub(super) fn rw_requests(_: &Node, out: &mut String) -> InfoResult {
    cf::info!(Rw, "no transaction waits for another node");
    done(out)
}

pub(super) fn skew(_: &Node, out: &mut String) -> InfoResult {
    cf::info!(Skew, "no clock of another node to compare with");
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

/// Statistics of the allocator. They go to the log only: a client does not choose files of the server.
pub(super) fn heap(_: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let mut given = [None; 3];
    for (value, name) in given.iter_mut().zip(["file", "options", "sites"]) {
        *value = arguments.optional(name, VALUE_SIZE_MAX)?.map(|_| name);
    }
    // Options are for a file, and change nothing without one.
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

/// The threads of the process and what the kernel says they do.
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
