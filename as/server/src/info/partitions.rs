//! Who owns which partition: this node, all of them.

use std::fmt::Write;

use super::commands::Answer;
use super::request::Joined;
use super::{Arguments, InfoError};
use crate::index::{PARTITION_COUNT, PartitionId};
use crate::state::State;

/// Base64 of a bitmap with a bit for each partition, all set: 512 bytes of ones.
fn all_partitions() -> String {
    // 510 of the 512 bytes are 170 groups of three, each four slashes; the last two bytes end in "//8=".
    let mut text = "/".repeat(PARTITION_COUNT / 8 / 3 * 4);
    text.push_str("//8=");
    text
}

pub(super) fn partitions(_: &State, out: &mut String) -> Answer {
    let _ = write!(out, "{PARTITION_COUNT}");
    Ok(())
}

pub(super) fn partition_generation(state: &State, out: &mut String) -> Answer {
    let _ = write!(out, "{}", state.cluster.partition_generation());
    Ok(())
}

pub(super) fn rebalance_generation(state: &State, out: &mut String) -> Answer {
    let _ = write!(out, "{}", state.cluster.rebalance_generation());
    Ok(())
}

/// Columns of [`partition_info`].
const PARTITION_COLUMNS: &str = "namespace:partition:state:n_replicas:replica:n_dupl:working_master:proxy_dst:\
emigrates:lead_emigrates:immigrates:records:tombstones:regime:version:final_version";
/// Bound of `max`: a partition has at most 256 replicas.
const REPLICAS_TEXT_MAX: usize = 4;

/// A row for each partition of each namespace, under a row of column names.
pub(super) fn partition_info(state: &State, out: &mut String) -> Answer {
    let (node, key) = (state.cluster.node_id, state.cluster.key);
    let mut rows = Joined::new(out, ';');
    rows.item(PARTITION_COLUMNS);
    for namespace in state.namespaces.iter() {
        for partition in PartitionId::all() {
            let (name, number) = (namespace.name(), partition.index());
            let records = namespace.index.partition_count(partition);
            rows.item(format_args!(
                "{name}:{number}:S:1:0:0:{node:X}:{node:X}:0:0:0:{records}:0:0:{key:x}.0.mp-:{key:x}.0.mp-"
            ));
        }
    }
    Ok(())
}

/// `namespace:regime,replicas,bitmap` for each namespace, with at most `max` bitmaps unless that is 0.
pub(super) fn replicas(state: &State, arguments: Arguments<'_>, out: &mut String) -> Answer {
    // There is one replica, so any bound is kept.
    if let Some(max) = arguments.optional("max", REPLICAS_TEXT_MAX)? {
        max.parse::<u32>().map_err(|_| InfoError::parameter("bad max"))?;
    }
    each_namespace(state, out, "0,1,");
    Ok(())
}

/// As [`replicas`], without the regime.
pub(super) fn replicas_all(state: &State, out: &mut String) -> Answer {
    each_namespace(state, out, "1,");
    Ok(())
}

/// `namespace:bitmap` of the partitions this node is master of.
pub(super) fn replicas_master(state: &State, out: &mut String) -> Answer {
    each_namespace(state, out, "");
    Ok(())
}

fn each_namespace(state: &State, out: &mut String, before_bitmap: &str) {
    let bitmap = all_partitions();
    let mut rows = Joined::new(out, ';');
    for namespace in state.namespaces.iter() {
        rows.item(format_args!("{}:{before_bitmap}{bitmap}", namespace.name()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_bitmap_has_684_characters() {
        assert_eq!(all_partitions().len(), 684);
    }
}
