//! Commands that show the configuration and change it while the server runs.
//!
//! [`crate::config`] defines what a parameter means and which values it may have; this module logs a change
//! and performs the immediate actions that it requires. Other parts of the server read a parameter's cell
//! each time that they need it.

use super::Arguments;
use super::request::{InfoResult, shown};
use crate::config::command::{get_config, set_config};
use crate::config::set::ParameterChange;
use crate::metrics::{Benchmark, ServerLatency};
use crate::namespace::Namespace;
use crate::node::Node;

pub(super) fn get(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    out.push_str(&get_config(&node.config, arguments.0));
    Ok(())
}

pub(super) fn set(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let outcome = set_config(&node.config, arguments.0, &|change| {
        cf::info!(Info, "set-config: {change}");
        act_on(node, change);
    });
    if outcome.answer == "ok" {
        // People and tools that read the C server's logs search for this line.
        cf::info!(Info, "config-set command completed: params {}", shown(arguments.0));
    }
    if let Some(refusal) = &outcome.refusal {
        cf::warning_limited!(Info, "'set-config:{}' refused: {refusal}", shown(arguments.0));
    }
    out.push_str(&outcome.answer);
    Ok(())
}

/// Performs the actions that the change of a parameter requires. The lock of the configuration is held, so
/// that actions follow the order of the changes.
fn act_on(node: &Node, change: &ParameterChange) {
    let namespace = change.namespace.as_deref().and_then(|name| node.namespace(name));
    match (change.context, change.name) {
        ("service", "info-threads") => {
            node.service.info.resize(node.config.service.info_threads.get() as usize);
        }
        ("service", "batch-index-threads") => {
            node.service.batches.workers.resize(node.config.service.batch_index_threads.get() as usize);
        }
        ("service", "migrate-threads") => {
            if let Some(membership) = node.membership.get() {
                membership.resize_migration();
            }
        }
        ("security.log", _) | ("security", "enable-quotas") => {
            if let Some(access) = &node.security {
                access.settings_changed();
            }
        }
        ("service", "query-max-done") => node.service.queries.limit_done(),
        ("service", "microsecond-histograms") => node.clear_latencies(),
        ("service", "enable-hist-info") => node.metrics.latency(ServerLatency::Info).clear(),
        ("namespace", name) => {
            if let (Some(namespace), Some(benchmark)) = (namespace, Benchmark::switched_by(name))
                && change.from != change.to
            {
                namespace.metrics.benchmarks.clear(benchmark);
            }
        }
        ("namespace.storage-engine", name) => {
            if let Some(namespace) = namespace {
                namespace.storage.settings_changed();
                if name == "enable-benchmarks-storage" && change.from != change.to {
                    namespace.storage.restart_benchmarks(node.latency_unit());
                }
            }
        }
        ("namespace.set", name) => {
            if let (Some(namespace), Some(set)) = (namespace, &change.set) {
                make_set(namespace, set);
                if let Some(set) = namespace.sets.find(set.as_bytes()).filter(|_| name == "enable-index") {
                    namespace.switch_set_index(set);
                }
            }
        }
        _ => {}
    }
}

/// Creates a set whose parameters are set, so that it exists even without records.
fn make_set(namespace: &Namespace, set: &str) {
    if let Err(error) = namespace.sets.find_or_create(set.as_bytes(), &namespace.config().sets) {
        cf::warning!(Info, "{{{}}} cannot make the set '{set}': {error:?}", namespace.name());
    }
}
