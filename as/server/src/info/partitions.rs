//! Owners of partitions, for clients and tools.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::request::InfoResult;
use super::request::Joined;
use super::{Arguments, InfoError};
use crate::index::PARTITION_COUNT;
use crate::namespace::Partitions;
use crate::node::Node;

pub(super) fn partitions(_: &Node, out: &mut String) -> InfoResult {
    let _ = write!(out, "{PARTITION_COUNT}");
    Ok(())
}

pub(super) fn partition_generation(node: &Node, out: &mut String) -> InfoResult {
    let _ = write!(out, "{}", node.cluster.partition_generation());
    Ok(())
}

pub(super) fn rebalance_generation(node: &Node, out: &mut String) -> InfoResult {
    let _ = write!(out, "{}", node.cluster.rebalance_generation());
    Ok(())
}

/// Columns of [`partition_info`].
const PARTITION_COLUMNS: &str = "namespace:partition:state:n_replicas:replica:n_dupl:working_master:proxy_dst:\
emigrates:lead_emigrates:immigrates:records:tombstones:regime:version:final_version";
/// Length limit (exclusive) of `max`: a partition has at most 256 replicas.
const REPLICAS_TEXT_MAX: usize = 4;
/// The replica number of a node that has no replica.
const REPLICA_NONE: i64 = -1;

/// A row for each partition of each namespace, under a row of column names.
pub(super) fn partition_info(node: &Node, out: &mut String) -> InfoResult {
    let mut rows = Joined::new(out, ';');
    rows.item(PARTITION_COLUMNS);
    for namespace in node.namespaces.iter() {
        let (name, partitions) = (namespace.name(), &namespace.partitions);
        let node = partitions.own_node();
        partitions.visit(|id, row| {
            let letter = row.letter(node);
            let replica = row.replica_index(node).map_or(REPLICA_NONE, |index| index as i64);
            let (replicas, duplicates) = (row.replicas.len(), row.duplicates.len());
            let (master, proxy) = (row.working_master, row.proxy_destination);
            let (emigrates, leads) = (row.pending_emigrations, row.pending_lead_emigrations);
            let (immigrates, records) = (row.pending_immigrations, namespace.index.partition_count(id));
            let (regime, version, final_version) = (row.regime, row.version, row.final_version);
            rows.item(format_args!(
                "{name}:{}:{letter}:{replicas}:{replica}:{duplicates}:{master:X}:{proxy:X}:{emigrates}:{leads}:\
                 {immigrates}:{records}:0:{regime}:{version}:{final_version}",
                id.index()
            ));
        });
    }
    Ok(())
}

/// `namespace:regime,replicas,bitmap…` for each namespace, with at most `max` bitmaps unless that is 0.
pub(super) fn replicas(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let max = match arguments.optional("max", REPLICAS_TEXT_MAX)? {
        Some(max) => max.parse().map_err(|_| InfoError::parameter("bad max"))?,
        None => 0,
    };
    each_namespace(node, out, |partitions| {
        format!("{},{}", partitions.figures().regime, counted_bitmaps(partitions, max))
    });
    Ok(())
}

/// As [`replicas`], but without the regime.
pub(super) fn replicas_all(node: &Node, out: &mut String) -> InfoResult {
    each_namespace(node, out, |partitions| counted_bitmaps(partitions, 0));
    Ok(())
}

/// `namespace:bitmap` of the partitions whose master is this node.
pub(super) fn replicas_master(node: &Node, out: &mut String) -> InfoResult {
    each_namespace(node, out, |partitions| bitmaps(partitions, 1));
    Ok(())
}

/// The number of replicas, or `max` if that is less and not 0, and a bitmap for each.
fn counted_bitmaps(partitions: &Partitions, max: u32) -> String {
    // Before the first rebalance there is one empty column.
    let count = partitions.figures().replication_factor.max(1);
    let count = if max == 0 { count } else { count.min(max) };
    format!("{count},{}", bitmaps(partitions, count as usize))
}

fn bitmaps(partitions: &Partitions, count: usize) -> String {
    let texts = partitions.bitmaps(count).into_iter().map(|bitmap| BASE64_STANDARD.encode(bitmap));
    texts.collect::<Vec<_>>().join(",")
}

fn each_namespace(node: &Node, out: &mut String, text: impl Fn(&Partitions) -> String) {
    let mut rows = Joined::new(out, ';');
    for namespace in node.namespaces.iter() {
        rows.item(format_args!("{}:{}", namespace.name(), text(&namespace.partitions)));
    }
}
