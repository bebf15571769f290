//! The configuration as it is, and changing it while the server runs.
//!
//! What a parameter means and which values it may have is the business of [`crate::config`]; here a change is logged
//! and handed to the part of the server that keeps a copy of the parameter. Most parts do not: they read it each time.

use super::commands::Answer;
use super::{Arguments, shown};
use crate::config::command::{get_config, set_config};
use crate::config::set::Change;
use crate::metrics::{Benchmark, ServerLatency};
use crate::namespace::Namespace;
use crate::state::State;

pub(super) fn get(state: &State, arguments: Arguments<'_>, out: &mut String) -> Answer {
    out.push_str(&get_config(&state.config, arguments.0));
    Ok(())
}

pub(super) fn set(state: &State, arguments: Arguments<'_>, out: &mut String) -> Answer {
    let outcome = set_config(&state.config, arguments.0);
    for change in &outcome.changes {
        cf::info!(Info, "set-config: {change}");
        apply(state, change);
    }
    if outcome.answer == "ok" {
        // What those look for who read the logs of the C server.
        cf::info!(Info, "config-set command completed: params {}", shown(arguments.0));
    }
    if let Some(refusal) = &outcome.refusal {
        cf::warning_limited!(Info, "'set-config:{}' refused: {refusal}", shown(arguments.0));
    }
    out.push_str(&outcome.answer);
    Ok(())
}

/// Tells those who keep a copy of what was changed.
fn apply(state: &State, change: &Change) {
    let namespace = change.namespace.as_deref().and_then(|name| state.namespace(name));
    match (change.context, change.name) {
        ("service", "info-threads") => {
            state.service.info.resize(state.config.service.info_threads.get() as usize);
        }
        ("service", "batch-index-threads") => {
            state.service.batches.workers.resize(state.config.service.batch_index_threads.get() as usize);
        }
        ("service", "microsecond-histograms") => state.clear_latencies(),
        ("service", "enable-hist-info") => state.metrics.latency(ServerLatency::Info).clear(),
        ("namespace", name) => {
            if let (Some(namespace), Some(benchmark)) = (namespace, Benchmark::switched_by(name))
                && change.from != change.to
            {
                namespace.metrics.benchmarks.clear(benchmark);
            }
        }
        ("namespace.storage-engine", name) => {
            if let Some(namespace) = namespace {
                namespace.storage.follow(&namespace.config().storage.params);
                if name == "enable-benchmarks-storage" && change.from != change.to {
                    namespace.measure_storage(state.latency_unit());
                }
            }
        }
        ("namespace.set", _) => {
            if let (Some(namespace), Some(set)) = (namespace, &change.set) {
                make_set(namespace, set);
            }
        }
        _ => {}
    }
}

/// A set whose parameters are set exists, with or without records.
fn make_set(namespace: &Namespace, set: &str) {
    if let Err(error) = namespace.sets.find_or_create(set.as_bytes(), &namespace.config().sets) {
        cf::warning!(Info, "{{{}}} cannot make the set '{set}': {error:?}", namespace.name());
    }
}
