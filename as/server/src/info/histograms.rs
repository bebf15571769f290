//! Histograms of record sizes, times to live and latencies. Latency histograms that this server never fills
//! are listed as empty.

use super::request::InfoResult;
use super::request::{Joined, VALUE_SIZE_MAX};
use super::{Arguments, InfoError};
use crate::index::SetId;
use crate::metrics::{Benchmark, Latency, ServerLatency};
use crate::namespace::{Namespace, RecordHistogram};
use crate::node::Node;

/// Histograms of the server, by the name that requests use.
static OF_SERVER: &[(&str, &[&str])] = &[(
    "benchmarks-fabric",
    &[
        "fabric-bulk-send-init",
        "fabric-bulk-send-fragment",
        "fabric-bulk-recv-fragment",
        "fabric-bulk-recv-cb",
        "fabric-ctrl-send-init",
        "fabric-ctrl-send-fragment",
        "fabric-ctrl-recv-fragment",
        "fabric-ctrl-recv-cb",
        "fabric-meta-send-init",
        "fabric-meta-send-fragment",
        "fabric-meta-recv-fragment",
        "fabric-meta-recv-cb",
        "fabric-rw-send-init",
        "fabric-rw-send-fragment",
        "fabric-rw-recv-fragment",
        "fabric-rw-recv-cb",
    ],
)];

/// Histograms of each namespace that are never filled.
static OF_NAMESPACE: &[&str] = &["re-repl"];

/// Length limit (exclusive) of the name in `histogram`.
const NAME_SIZE_MAX: usize = 128;
/// Length limit (exclusive) of a set name.
const SET_NAME_SIZE: usize = 64;

/// `name:` and the figures between the last two turns of the ticker, for each requested histogram. Histograms
/// of read-touches and of proxied requests are shown only when requested by name.
pub(super) fn latencies(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let mut names = Joined::new(out, ';');
    let Some(wanted) = arguments.optional("hist", VALUE_SIZE_MAX)? else {
        write_of_server(&mut names, node, ServerLatency::BatchIndex);
        for namespace in node.namespaces.iter() {
            let is_named = |latency: &&Latency| matches!(latency, Latency::ReadTouch | Latency::Proxy);
            let told = Latency::ALL.iter().filter(|latency| !is_named(latency));
            told.for_each(|latency| write_of_namespace(&mut names, namespace, *latency));
        }
        return Ok(());
    };
    if let Some(latency) = ServerLatency::ALL.iter().find(|latency| latency.name() == wanted) {
        write_of_server(&mut names, node, *latency);
        return Ok(());
    }
    if let Some((_, histograms)) = OF_SERVER.iter().find(|(name, _)| *name == wanted) {
        histograms.iter().for_each(|histogram| names.item(format_args!("{histogram}:")));
        return Ok(());
    }
    let (namespace, name) =
        in_namespace(node, wanted).ok_or_else(|| InfoError::parameter("bad hist name"))?;
    if let Some(benchmark) = Benchmark::ALL.iter().find(|benchmark| benchmark.name() == name) {
        for (step, text) in namespace.metrics.benchmarks.texts(*benchmark) {
            names.item(format_args!("{{{}}}-{step}:{text}", namespace.name()));
        }
    } else if OF_NAMESPACE.contains(&name) {
        names.item(format_args!("{{{}}}-{name}:", namespace.name()));
    } else if let Some(latency) = Latency::ALL.iter().find(|latency| latency.name() == name) {
        write_of_namespace(&mut names, namespace, *latency);
    } else {
        return Err(InfoError::parameter("bad hist name"));
    }
    Ok(())
}

/// Splits `{namespace}-name`.
fn in_namespace<'s, 'w>(node: &'s Node, wanted: &'w str) -> Option<(&'s Namespace, &'w str)> {
    let (namespace, name) = wanted.strip_prefix('{')?.split_once("}-")?;
    Some((node.namespace(namespace)?, name))
}

fn write_of_server(names: &mut Joined<'_>, node: &Node, latency: ServerLatency) {
    names.item(format_args!("{}:{}", latency.name(), node.metrics.latency(latency).text()));
}

fn write_of_namespace(names: &mut Joined<'_>, namespace: &Namespace, latency: Latency) {
    let text = namespace.metrics.latency(latency).text();
    names.item(format_args!("{{{}}}-{}:{text}", namespace.name(), latency.name()));
}

/// A histogram over the records of a namespace or set, from nsup's last run. If there was none, the answer is
/// empty for a namespace and `hist-unavailable` for a set.
pub(super) fn histogram(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let namespace = arguments.namespace(node, VALUE_SIZE_MAX)?;
    let kind = arguments.required("type", NAME_SIZE_MAX)?;
    let set = match arguments.optional("set", SET_NAME_SIZE)? {
        None => SetId::NONE,
        Some(set) => {
            let set = namespace.sets.find(set.as_bytes());
            set.ok_or_else(|| InfoError::parameter("unknown set name"))?.id
        }
    };
    let kind = RecordHistogram::named(kind).ok_or_else(|| InfoError::parameter("unknown hist name"))?;
    match namespace.record_histograms.text(kind, set) {
        Some(text) => out.push_str(&text),
        None if set != SetId::NONE => out.push_str("hist-unavailable"),
        None => {}
    }
    Ok(())
}
