//! The figures of info commands in the text format of Prometheus, under the names and labels that the official exporter
//! gives them: `aerospike_namespace_client_read_success{cluster_name="…",ns="test",service="…"}`.
//!
//! Only numbers, true and false are exported. Samples of one name are consecutive, because the format
//! requires it.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::info::{is_counter, value_of};
use crate::node::Node;

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const TICKS: &str = "aerospike_node_ticks";
const STORAGE_ENGINE: &str = "storage-engine";

/// Samples by the name of their metric.
struct Families {
    /// Labels that all samples have.
    common: String,
    samples: BTreeMap<String, Family>,
}

struct Family {
    is_counter: bool,
    text: String,
}

/// All metrics. `ticks` is the number of this answer.
pub(super) fn metrics(node: &Node, ticks: u64) -> String {
    let ask = |line: &str| value_of(node, line);
    let (cluster, service) = (ask("cluster-name"), ask("service-clear-std"));
    let common = format!("{},{}", label("cluster_name", &cluster), label("service", &service));
    let mut families = Families { common, samples: BTreeMap::new() };
    let labels = [label("build", &ask("build")), label("node_id", &ask("node"))].join(",");
    families.add("aerospike_node_up", &labels, 1.0, false);
    for source in ["get-config:context=service", "statistics"] {
        families.add_pairs("node_stats", &ask(source), ';', "");
    }
    add_log_levels(&mut families, node);
    let mut latencies = vec!["latencies:".to_owned()];
    for namespace in node.namespaces.iter() {
        let answer = ask(&format!("namespace/{}", namespace.name()));
        add_namespace(&mut families, namespace.name(), &answer);
        latencies.extend(measured_on_demand(namespace.name(), &answer));
    }
    for set in ask("sets").split(';').filter(|set| !set.is_empty()) {
        let name_of = |key| pairs(set, ':').find(|(name, _)| *name == key).map_or("", |(_, value)| value);
        let labels = [label("ns", name_of("ns")), label("set", name_of("set"))].join(",");
        families.add_pairs("sets", set, ':', &labels);
    }
    for index in ask("sindex-list:").split(';').filter(|index| !index.is_empty()) {
        let named = |key| pairs(index, ':').find(|(name, _)| *name == key).map_or("", |(_, value)| value);
        let (namespace, name) = (named("ns"), named("indexname"));
        let labels = [label("ns", namespace), label("sindex", name)].join(",");
        let figures = ask(&format!("sindex-stat:namespace={namespace};indexname={name}"));
        families.add_pairs("sindex", &figures, ';', &labels);
    }
    for request in latencies {
        ask(&request).split(';').for_each(|histogram| add_latency(&mut families, histogram));
    }
    // The official exporter counts its own answers, so this counter has no labels of a server.
    format!("# TYPE {TICKS} counter\n{TICKS} {ticks}\n{}", families.finish())
}

/// Requests for the latencies of the namespace that are measured only on demand, if its configuration, in
/// `answer`, enables them.
fn measured_on_demand(namespace: &str, answer: &str) -> impl Iterator<Item = String> {
    pairs(answer, ';').filter(|(_, value)| *value == "true").filter_map(move |(key, _)| {
        let name = key.strip_prefix("enable-")?;
        let name = name.strip_prefix("hist-").or_else(|| name.starts_with("benchmarks-").then_some(name))?;
        Some(format!("latencies:hist={{{namespace}}}-{name}"))
    })
}

impl Families {
    /// Adds one sample, with `labels` beside the common ones.
    fn add(&mut self, name: &str, labels: &str, value: f64, is_counter: bool) {
        let name = name.replace(['.', '-', ' '], "_");
        let labels = [self.common.as_str(), labels].join(if labels.is_empty() { "" } else { "," });
        let line = format!("{name}{{{labels}}} {value}\n");
        self.samples
            .entry(name)
            .or_insert_with(|| Family { is_counter, text: String::new() })
            .text
            .push_str(&line);
    }

    /// Adds all figures among the pairs of an info answer.
    fn add_pairs(&mut self, context: &str, answer: &str, separator: char, labels: &str) {
        for (key, value) in pairs(answer, separator) {
            if let Some(number) = number(value) {
                self.add(&format!("aerospike_{context}_{key}"), labels, number, is_counter(key));
            }
        }
    }

    fn finish(self) -> String {
        let mut out = String::new();
        for (name, Family { is_counter, text }) in self.samples {
            let kind = if is_counter { "counter" } else { "gauge" };
            let _ = write!(out, "# TYPE {name} {kind}\n{text}");
        }
        out
    }
}

/// Adds whether a sink logs at a level that costs performance.
fn add_log_levels(families: &mut Families, node: &Node) {
    let sinks: Vec<String> = value_of(node, "logs")
        .split(';')
        .filter_map(|sink| sink.split_once(':'))
        .map(|(id, _)| value_of(node, &format!("log/{id}")))
        .collect();
    for (level, name) in [(":DEBUG", "pseudo_log_debug"), (":DETAIL", "pseudo_log_detail")] {
        let is_on = sinks.iter().any(|sink| sink.contains(level));
        families.add(&format!("aerospike_node_stats_{name}"), "", f64::from(u8::from(is_on)), false);
    }
}

fn add_namespace(families: &mut Families, namespace: &str, answer: &str) {
    let named: BTreeMap<&str, &str> = pairs(answer, ';').collect();
    let ns = label("ns", namespace);
    let typed = |key: &str, name: &str| match named.get(key) {
        Some(value) => format!("{ns},{}", label(name, value)),
        None => ns.clone(),
    };
    for (key, value) in pairs(answer, ';') {
        let Some(number) = number(value) else { continue };
        let (name, labels) = if let Some((place, figure)) = of_device(key) {
            let (kind, index) = place.trim_end_matches(']').split_once('[').unwrap_or((place, ""));
            let path = named.get(format!("{STORAGE_ENGINE}.{place}").as_str()).copied().unwrap_or_default();
            let engine = typed(STORAGE_ENGINE, "storage_engine");
            let labels = [engine, label(&format!("{kind}_index"), index), label(kind, path)].join(",");
            (format!("{STORAGE_ENGINE}_{kind}_{figure}"), labels)
        } else if key.starts_with("index-type") {
            (key.to_owned(), typed("index-type", "index"))
        } else if key.starts_with("sindex-type") {
            (key.to_owned(), typed("sindex-type", "sindex"))
        } else {
            (key.to_owned(), typed(STORAGE_ENGINE, "storage_engine"))
        };
        let figure = of_device(key).map_or(key, |(_, figure)| figure);
        families.add(&format!("aerospike_namespace_{name}"), &labels, number, is_counter(figure));
    }
}

/// Splits `storage-engine.file[0].used_bytes` into `file[0]` and `used_bytes`.
fn of_device(key: &str) -> Option<(&str, &str)> {
    let (place, figure) = key.strip_prefix(STORAGE_ENGINE)?.strip_prefix('.')?.split_once("].")?;
    Some((&key[STORAGE_ENGINE.len() + 1..=STORAGE_ENGINE.len() + 1 + place.len()], figure))
}

/// Adds `{test}-read:msec,rate,percentages over 1, 2, 4 …` as cumulative buckets.
fn add_latency(families: &mut Families, histogram: &str) {
    let Some((name, values)) = histogram.split_once(':') else { return };
    let (labels, operation) = match name.strip_prefix('{').and_then(|name| name.split_once("}-")) {
        Some((namespace, operation)) => (format!(",{}", label("ns", namespace)), operation),
        None => (String::new(), name),
    };
    let mut values = values.split(',');
    let Some(unit) = values.next().and_then(|unit| unit.strip_suffix("ec")) else { return };
    let mut values = values.filter_map(|value| value.parse::<f64>().ok());
    let Some(rate) = values.next() else { return };
    let metric = format!("aerospike_latencies_{operation}_{unit}");
    families.add(&format!("{metric}_count"), labels.trim_start_matches(','), rate, false);
    families.add(&format!("{metric}_bucket"), &format!("{}{labels}", label("le", "+Inf")), rate, false);
    for (exponent, over_pct) in values.enumerate() {
        let labels = format!("{}{labels}", label("le", &(1u64 << exponent).to_string()));
        families.add(&format!("{metric}_bucket"), &labels, rate - over_pct * rate / 100.0, false);
    }
}

fn pairs(answer: &str, separator: char) -> impl Iterator<Item = (&str, &str)> {
    answer.split(separator).filter_map(|pair| pair.split_once('='))
}

/// The value of a figure.
fn number(value: &str) -> Option<f64> {
    match value {
        "true" => Some(1.0),
        "false" => Some(0.0),
        _ => value.parse().ok().filter(|number: &f64| number.is_finite()),
    }
}

fn label(name: &str, value: &str) -> String {
    let name = name.replace('-', "_");
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> Families {
        Families { common: label("cluster_name", "c"), samples: BTreeMap::new() }
    }

    #[test]
    fn figures_of_devices_have_the_device_as_label() {
        let mut families = families();
        let answer = "objects=3;storage-engine=device;storage-engine.file[1]=/a.dat;\
                      storage-engine.file[1].used_bytes=7;storage-engine.filesize=9;stop_writes=false;node=BB9";
        add_namespace(&mut families, "test", answer);
        let text = families.finish();
        let engine = "cluster_name=\"c\",ns=\"test\",storage_engine=\"device\"";
        for line in [
            format!("aerospike_namespace_objects{{{engine}}} 3"),
            format!("aerospike_namespace_storage_engine_filesize{{{engine}}} 9"),
            format!("aerospike_namespace_stop_writes{{{engine}}} 0"),
            format!(
                "aerospike_namespace_storage_engine_file_used_bytes{{{engine},file_index=\"1\",file=\"/a.dat\"}} 7"
            ),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(!text.contains("node") && !text.contains("file[1]"), "{text}");
    }

    #[test]
    fn percentages_over_become_counts_up_to() {
        let mut families = families();
        add_latency(&mut families, "{test}-read:msec,200.0,10.00,5.00");
        add_latency(&mut families, "batch-index:");
        let text = families.finish();
        for (le, count) in [("+Inf", 200), ("1", 180), ("2", 190)] {
            let line = format!(
                "aerospike_latencies_read_ms_bucket{{cluster_name=\"c\",le=\"{le}\",ns=\"test\"}} {count}"
            );
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(text.contains("aerospike_latencies_read_ms_count{cluster_name=\"c\",ns=\"test\"} 200"));
        assert!(!text.contains("batch"), "{text}");
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(label("a-b", "x\"\\\n"), "a_b=\"x\\\"\\\\\\n\"");
    }
}
