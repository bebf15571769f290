//! Compares the tables with recorded facts: every parameter of the C server exists, with its bounds and
//! default.

use super::*;
use crate::config::context::{CONTEXTS, ContextKind, default_table, default_text};
use crate::config::kind::{Kind, NumberRule, ValueError};
use crate::config::obsolete::{OBSOLETE, find as find_obsolete};
use crate::config::obsolete_words::LOG_CONTEXTS;
use crate::config::spec::{Spec, find, rows, variant};

/// One line of `parameters.tsv`.
struct Fact<'a> {
    context: &'a str,
    name: &'a str,
    kind: &'a str,
    min: &'a str,
    max: &'a str,
    default: &'a str,
    enterprise: bool,
    dynamic: bool,
}

fn facts() -> Vec<Fact<'static>> {
    let lines = include_str!("parameters.tsv").lines().skip(1);
    let facts: Vec<_> = lines
        .map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            let [context, name, kind, min, max, default, enterprise, dynamic] = columns[..] else {
                panic!("{line}")
            };
            let (enterprise, dynamic) = (enterprise == "y", dynamic == "y" || dynamic == "EE-only");
            Fact { context, name, kind, min, max, default, enterprise, dynamic }
        })
        .collect();
    assert_eq!(facts.len(), 410);
    facts
}

/// The context that a fact is about, and the bits of its variant.
fn place(context: &str) -> (ContextKind, u8) {
    match context {
        "(top)" => (ContextKind::Top, variant::ALL),
        "logging.console|logging.file" => (ContextKind::LogFile, variant::PLAIN_SINK),
        "logging.syslog" => (ContextKind::Syslog, variant::SYSLOG),
        "namespace.storage-engine memory" => (ContextKind::Storage, variant::MEMORY),
        "namespace.storage-engine pmem" => (ContextKind::Storage, variant::PMEM),
        "namespace.storage-engine device" => (ContextKind::Storage, variant::DEVICE),
        "namespace.index-type pmem" => (ContextKind::IndexType, variant::PMEM),
        "namespace.index-type flash" => (ContextKind::IndexType, variant::FLASH),
        "namespace.sindex-type pmem" => (ContextKind::SindexType, variant::PMEM),
        "namespace.sindex-type flash" => (ContextKind::SindexType, variant::FLASH),
        path => {
            let context = CONTEXTS.iter().find(|context| context.path == path);
            (context.unwrap_or_else(|| panic!("no context {path}")).kind, variant::ALL)
        }
    }
}

fn spec(fact: &Fact<'_>) -> &'static Spec {
    let (kind, bits) = place(fact.context);
    let found = kind.specs().iter().find(|spec| spec.name == fact.name && spec.known_to & bits != 0);
    found.unwrap_or_else(|| panic!("no parameter {} in {}", fact.name, fact.context))
}

#[test]
fn every_name_is_there() {
    let (mut parameters, mut contexts, mut obsolete) = (0, 0, 0);
    for fact in facts() {
        let (kind, _) = place(fact.context);
        if fact.kind.starts_with("context") && fact.name != "context" {
            assert!(kind.child(fact.name).is_some(), "context {} in {}", fact.name, fact.context);
            contexts += 1;
        } else if fact.kind == "(obsolete)" {
            assert!(find_obsolete(kind, fact.name).is_some(), "obsolete {} in {}", fact.name, fact.context);
            obsolete += 1;
        } else {
            spec(&fact);
            parameters += 1;
        }
    }
    assert_eq!((parameters, contexts, obsolete), (339, 24, 47));
}

#[test]
fn names_of_other_versions_are_unique_and_not_present_names() {
    let mut seen = std::collections::HashSet::new();
    for row in OBSOLETE {
        for name in row.names {
            let place = format!("{name} in {}", row.context.path());
            assert!(seen.insert((row.context, *name)), "{place} twice");
            assert!(!row.context.specs().iter().any(|spec| spec.name == *name), "{place} is a parameter");
            assert!(row.context.child(name).is_none(), "{place} is a context");
        }
    }
    for name in LOG_CONTEXTS.iter().flat_map(|(names, _)| names.iter()) {
        assert!(cf::log::Context::from_name(name).is_none(), "{name} is a log context");
    }
}

#[test]
fn every_parameter_is_unique_and_documented() {
    for context in CONTEXTS {
        for (index, spec) in context.specs.iter().enumerate() {
            let place = format!("{} in {}", spec.name, context.path);
            assert!(!context.specs[..index].iter().any(|other| other.name == spec.name), "{place} twice");
            assert!(spec.doc.trim().ends_with('.'), "{place}: {:?}", spec.doc);
            assert!(context.kind.child(spec.name).is_none(), "{place} is a context too");
        }
    }
}

#[test]
fn bounds_are_those_of_the_c_server() {
    for fact in facts() {
        if fact.kind.starts_with("context") || fact.kind == "(obsolete)" {
            continue;
        }
        let place = format!("{} in {}", fact.name, fact.context);
        let bound = |text: &str, or: u64| {
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            if digits.is_empty() { or } else { digits.parse::<u64>().expect("a number") }
        };
        // One table serves both media of an index; a separate rule checks the larger minimum of flash.
        let min =
            if place == "mounts-budget in namespace.index-type flash" { 1 << 30 } else { bound(fact.min, 0) };
        match spec(&fact).kind {
            Kind::Number { min: found_min, max: found_max, shape, .. } => {
                let max = match place.as_str() {
                    // The value is that of later versions of the C server.
                    "proto-fd-max in service" => i32::MAX as u64,
                    _ => bound(fact.max, u64::MAX),
                };
                assert_eq!((found_min, found_max), (min, max), "{place}");
                assert_eq!(shape == NumberRule::PowerOf2, fact.kind.contains("power of 2"), "{place}");
                assert_eq!(
                    matches!(shape, NumberRule::MultipleOf(_)),
                    fact.kind.contains("multiple"),
                    "{place}"
                );
            }
            Kind::Seconds { min: found_min, max: found_max, .. } => {
                assert_eq!(
                    (u64::from(found_min), u64::from(found_max)),
                    (min, bound(fact.max, 0)),
                    "{place}"
                );
                assert!(fact.kind.starts_with("seconds"), "{place}");
            }
            Kind::Port { .. } => {
                assert_eq!((fact.kind, fact.min, fact.max), ("port", "1024", "65535"), "{place}");
            }
            Kind::Bool { bare } => {
                assert_eq!(fact.kind, if bare { "bool (no value = true)" } else { "bool" }, "{place}");
            }
            Kind::Choice(names) if fact.name != "facility" => {
                assert_eq!(fact.kind, format!("enum {}", names.join("|")), "{place}");
            }
            Kind::Text { max } if fact.max.starts_with("len") => {
                assert_eq!(format!("len {max}"), fact.max, "{place}");
            }
            Kind::Texts { count_max, .. } | Kind::Backings { count_max } if fact.kind.contains(", max ") => {
                assert!(fact.kind.ends_with(&format!(", max {count_max})")), "{place}: {}", fact.kind);
            }
            _ => {}
        }
    }
}

#[test]
fn defaults_and_marks_are_those_of_the_c_server() {
    // Defaults that the facts lack or spell differently.
    const OTHER: [&str; 10] = [
        // The default is that of the Enterprise Edition.
        "service.tls-refresh-period",
        "service.cluster-name",
        "service.feature-key-file",
        "service.group",
        "service.user",
        "network.heartbeat.mode",
        "namespace.storage-engine memory.flush-size",
        "namespace.storage-engine device.flush-size",
        "namespace.storage-engine device.post-write-cache",
        "namespace.force-long-queries",
    ];
    for fact in facts() {
        if fact.kind.starts_with("context") || fact.kind == "(obsolete)" {
            continue;
        }
        let place = format!("{}.{}", fact.context, fact.name);
        let spec = spec(&fact);
        // One table serves all engines; pmem as a whole belongs to the Enterprise Edition.
        if !fact.context.ends_with("engine pmem") {
            assert_eq!(spec.enterprise, fact.enterprise, "{place}");
        }
        if !fact.context.starts_with("xdr") && !fact.context.starts_with("security") {
            assert_eq!(spec.dynamic, fact.dynamic, "{place}");
        }
        if OTHER.contains(&place.as_str()) || fact.default.starts_with("(EE") {
            continue;
        }
        let table = default_table(place_kind(&fact)).expect("a table");
        let (_, field) = find(&*table, fact.name).expect("a field");
        let found = spec.kind.text(field);
        let expected = fact.default.split([' ', ';']).next().unwrap_or_default();
        let expected = if expected == "unset" { "" } else { expected };
        assert_eq!(found, expected, "{place}");
    }
}

fn place_kind(fact: &Fact<'_>) -> ContextKind {
    place(fact.context).0
}

#[test]
fn the_engine_sets_its_own_defaults() {
    let (config, _) = parsed(include_str!("rich.conf"));
    let plain = "namespace n {\nstorage-engine device {\ndevice /dev/x\n}\n}";
    let (device, _) = parsed(&format!("{}{plain}", file("", "", "")));
    let params = &device.namespace("n").expect("namespace").storage.params;
    assert_eq!((params.flush_size.get(), params.post_write_cache.get()), (1 << 20, 256 << 20));
    assert_eq!(config.namespace("mem").expect("namespace").storage.params.flush_size.get(), 1 << 20);
    assert_eq!(device.namespace("test").expect("namespace").storage.params.flush_size.get(), 0);
}

/// Reads `words` as the value of a parameter and returns its text.
fn read(kind: ContextKind, spec: &Spec, words: &[&str]) -> Result<String, ValueError> {
    let table = default_table(kind).expect("a table");
    let (_, field) = find(&*table, spec.name).expect("a field");
    spec.kind.assign(field, words).map(|()| spec.kind.text(field))
}

#[test]
fn each_bound_is_enforced() {
    for context in CONTEXTS {
        for spec in context.specs {
            let place = format!("{} in {}", spec.name, context.path);
            let read = |word: String| read(context.kind, spec, &[&word]);
            let refused = |word: String| {
                let found = read(word.clone());
                assert!(
                    matches!(found, Err(ValueError::NotAllowed { .. })),
                    "{place} took {word}: {found:?}"
                );
            };
            let taken = |word: String, text: String| assert_eq!(read(word), Ok(text), "{place}");
            match spec.kind {
                Kind::Number { min, max, shape, .. } => {
                    let top =
                        if let NumberRule::MultipleOf(factor) = shape { max - max % factor } else { max };
                    taken(min.to_string(), min.to_string());
                    taken(top.to_string(), top.to_string());
                    if min > 0 {
                        refused((min - 1).to_string());
                    }
                    refused((u128::from(max) + 1).to_string());
                    if shape == NumberRule::PowerOf2 {
                        refused((min + 1).to_string());
                    }
                    for word in ["", "-1", "x", "1x", "K", "1.5", "99999999999999P"] {
                        refused(word.to_owned());
                    }
                }
                Kind::Seconds { min, max, never } => {
                    taken(min.to_string(), min.to_string());
                    taken(format!("{max}s"), max.to_string());
                    refused((u64::from(max) + 1).to_string());
                    if min > 0 {
                        refused((min - 1).to_string());
                    }
                    assert_eq!(read("-1".to_owned()).is_ok(), never, "{place}");
                    refused("1y".to_owned());
                }
                Kind::Port { or_any } => {
                    assert_eq!(read("0".to_owned()).is_ok(), or_any, "{place}");
                    taken("1024".to_owned(), "1024".to_owned());
                    taken("65535".to_owned(), "65535".to_owned());
                    refused("1023".to_owned());
                    refused("65536".to_owned());
                }
                Kind::PctOrOff => {
                    taken("100".to_owned(), "100".to_owned());
                    taken("-1".to_owned(), u32::MAX.to_string());
                    refused("101".to_owned());
                    refused("-2".to_owned());
                }
                Kind::Hex => {
                    taken("ffffffffffffffff".to_owned(), "F".repeat(16));
                    refused("0".to_owned());
                    refused("1ffffffffffffffff".to_owned());
                    refused("g".to_owned());
                }
                Kind::Choice(names) => {
                    for name in names {
                        taken((*name).to_owned(), (*name).to_owned());
                        refused(name.to_uppercase() + "x");
                    }
                }
                Kind::Bool { .. } => {
                    for (word, value) in [("true", true), ("FALSE", false), ("Yes", true), ("no", false)] {
                        taken(word.to_owned(), value.to_string());
                    }
                    refused("1".to_owned());
                }
                Kind::Text { max } | Kind::Texts { max, .. } if max < usize::MAX => {
                    taken("x".repeat(max), "x".repeat(max));
                    refused("x".repeat(max + 1));
                }
                _ => {}
            }
        }
    }
}

#[test]
fn lists_have_an_end_and_no_duplicates() {
    for context in CONTEXTS {
        for spec in context.specs.iter().filter(|spec| spec.kind.is_list()) {
            let (count_max, port) = match spec.kind {
                Kind::Texts { count_max, .. } | Kind::Backings { count_max } => (count_max, None),
                Kind::Endpoints { count_max, .. } => (count_max, Some("3000")),
                _ => continue,
            };
            let table = default_table(context.kind).expect("a table");
            let (_, field) = find(&*table, spec.name).expect("a field");
            let add = |word: &str| {
                let words: Vec<&str> = std::iter::once(word).chain(port).collect();
                spec.kind.assign(field, &words)
            };
            for index in 0..count_max {
                add(&format!("v{index}")).expect("room for one more");
            }
            assert_eq!(add("more"), Err(ValueError::TooMany(count_max)), "{}", spec.name);
            assert!(matches!(add("v0"), Err(ValueError::Duplicate(_))), "{}", spec.name);
        }
    }
}

#[test]
fn suffixes_multiply() {
    let seconds = &ContextKind::Namespace.specs().iter().find(|spec| spec.name == "nsup-period").expect("it");
    for (word, value) in [("7", "7"), ("7s", "7"), ("7M", "420"), ("2h", "7200"), ("3d", "259200")] {
        assert_eq!(read(ContextKind::Namespace, seconds, &[word]), Ok(value.to_owned()));
    }
    let size = ContextKind::Set.specs().iter().find(|spec| spec.name == "stop-writes-size").expect("it");
    for (word, shift) in [("3k", 10), ("3M", 20), ("3g", 30), ("3T", 40), ("3P", 50)] {
        assert_eq!(read(ContextKind::Set, size, &[word]), Ok((3_u64 << shift).to_string()));
    }
}

#[test]
fn missing_values_are_missed() {
    for context in CONTEXTS {
        for spec in context.specs {
            let found = read(context.kind, spec, &[]);
            if matches!(spec.kind, Kind::Bool { bare: true }) {
                assert_eq!(found, Ok("true".to_owned()));
            } else {
                assert_eq!(found, Err(ValueError::Missing), "{} in {}", spec.name, context.path);
            }
        }
    }
}

#[test]
fn the_reference_names_everything() {
    let reference = reference::markdown();
    for context in CONTEXTS {
        assert!(reference.contains(&format!("\n## {}", context.path)), "{}", context.path);
        if let Some(table) = default_table(context.kind) {
            for (spec, _) in rows(&*table).filter(|(spec, _)| spec.known_to & context.variant != 0) {
                assert!(reference.contains(&format!("| `{}` |", spec.name)), "{}", spec.name);
                assert!(default_text(context.kind, spec).is_none_or(|text| !text.contains('|')));
            }
        }
    }
}
