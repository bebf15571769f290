//! Statistics: one table of rows for each scope, in the order in which they are printed.
//!
//! A row is a counter, a figure with the function that reads it, or a list of `Idle` names. Idle names belong
//! to parts that this server does not have. Tools look for them, and zero is their true value.

mod namespace;
mod server;
mod set;
mod value;

use super::request::{Arguments, InfoError, InfoResult, Joined, VALUE_SIZE_MAX};
use crate::metrics::{NamespaceCounter, Operation, Origin, Outcome, ServerCounter};
use crate::node::Node;

pub(super) use namespace::{AGE_UNKNOWN, write_namespace};
pub(super) use set::{write_set, write_sets};
use value::Value;

/// Figures of devices and memory that only grow.
const DEVICE_COUNTERS: &[&str] = &[
    "writes",
    "partial_writes",
    "defrag_reads",
    "defrag_writes",
    "defrag_partial_writes",
    "read_errors",
    "defrag_above_lwm",
    "room_waits",
    "index_given_back_bytes",
    "data_given_back_bytes",
];

/// Prefixes of further counters, which belong to parts that do nothing yet.
const IDLE_COUNTERS: &[&str] = &[
    "appeals_records_exonerated",
    "batch_index_created_buffers",
    "batch_index_delay",
    "batch_index_destroyed_buffers",
    "batch_index_huge_buffers",
    "batch_index_timeout",
    "cluster_generation",
    "dup_res_",
    "early_tsvc_from_proxy_",
    "fabric_connections_",
    "fail_client_lost_conflict",
    "fail_xdr_",
    "heartbeat_connections_",
    "heartbeat_received_",
    "migrate_record",
    "nsup_xdr_key_busy",
    "pi_query_",
    "re_repl_",
    "read_touch_",
    "retransmit_",
    "si_query_",
    "sindex_gc_cleaned",
    "stat_gc_recs",
];

/// Counters that the official exporter calls gauges.
const CALLED_GAUGES: &[&str] =
    &["geo_region_query_falsepos", "geo_region_query_points", "migrate_tx_partitions_imbalance"];

/// Whether the figure called `name` is a counter, which only grows while the server runs.
pub(crate) fn is_counter(name: &str) -> bool {
    if CALLED_GAUGES.contains(&name) {
        return false;
    }
    NamespaceCounter::ALL.iter().any(|counter| counter.name() == name)
        || ServerCounter::ALL.iter().any(|counter| counter.name() == name)
        || DEVICE_COUNTERS.contains(&name)
        || IDLE_COUNTERS.iter().any(|start| name.starts_with(start))
        || counts_transactions(name)
}

/// Whether `name` consists of an origin, an operation and an outcome.
fn counts_transactions(name: &str) -> bool {
    let after = |text: &str, part: &str| {
        text.strip_prefix(part).and_then(|rest| rest.strip_prefix('_')).map(str::to_owned)
    };
    Origin::ALL.iter().filter_map(|origin| after(name, origin.name())).any(|rest| {
        Operation::ALL.iter().any(|operation| {
            after(&rest, operation.name())
                .is_some_and(|outcome| Outcome::ALL.iter().any(|known| known.name_for(*operation) == outcome))
        })
    })
}

/// `statistics`: the figures of the server.
pub(super) fn server(node: &Node, out: &mut String) -> InfoResult {
    server::write_server(node, &mut Joined::new(out, ';'));
    Ok(())
}

/// `get-stats`: the figures of a context. In the protocol only the context `xdr` has figures; this server has
/// none for it.
pub(super) fn of_context(_: &Node, arguments: Arguments<'_>, _: &mut String) -> InfoResult {
    match arguments.required("context", VALUE_SIZE_MAX)? {
        "xdr" => Ok(()),
        _ => Err(InfoError::parameter("unknown context")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_distinguished_from_gauges() {
        for name in
            ["client_read_success", "batch_sub_udf_complete", "expired_objects", "reaped_fds", "writes"]
        {
            assert!(is_counter(name), "{name}");
        }
        for name in ["objects", "client_connections", "client_read_nothing", "data_used_pct", "client"] {
            assert!(!is_counter(name), "{name}");
        }
    }
}
