//! Messages about obsolete names and values, and about names of later versions.

use super::*;
use crate::config::obsolete_words::OBSOLETE_VALUES;

#[test]
fn obsolete_names() {
    let (config, found) = parsed(&file(
        "scan-max-done 7\nnsup-period 90",
        "heartbeat {\nmcast-ttl 3\n}",
        "high-water-disk-pct 61\nsingle-scan-threads 9",
    ));
    assert_eq!(config.service.query_max_done.get(), 7);
    assert_eq!(config.network.heartbeat.multicast_ttl.get(), 3);
    let namespace = &config.namespaces[0];
    assert_eq!(namespace.params.nsup_period.get(), 90);
    assert_eq!(namespace.params.single_query_threads.get(), 9);
    assert_eq!(namespace.storage.params.evict_used_pct.get(), 61);
    let found: Vec<String> =
        lines(&found).into_iter().filter(|line| !line.contains("not yet in effect")).collect();
    assert_eq!(
        found,
        [
            "t.conf:3: 'scan-max-done' in service is obsolete, but accepted: write 'query-max-done' instead",
            "t.conf:4: 'nsup-period' in service is obsolete, but accepted: write 'nsup-period' in each namespace instead",
            "t.conf:11: 'mcast-ttl' in network.heartbeat is obsolete, but accepted: write 'multicast-ttl' instead",
            "t.conf:18: 'high-water-disk-pct' in namespace 'test' is obsolete, but accepted: write 'evict-used-pct' in \
             storage-engine instead",
            "t.conf:19: 'single-scan-threads' in namespace 'test' is obsolete, but accepted: write 'single-query-threads' instead",
        ]
    );
    assert_eq!(
        in_namespace("memory-size 4G"),
        "t.conf:15: 'memory-size' in namespace 'test' is obsolete: 'data-size' in storage-engine memory is the memory for \
         records, indexes take what they need; limits are 'indexes-memory-budget' and \
         'stop-writes-sys-memory-pct'"
    );
    assert!(
        said(&file("scan-max-done x", "", ""))
            .iter()
            .any(|line| line.contains("'query-max-done' in service cannot be 'x'"))
    );
    assert_eq!(
        said(&format!("security {{\nenable-security false\n}}\n{}", file("", "", ""))),
        [
            "t.conf:2: 'enable-security' in security is obsolete: the 'security' context alone enables access control; if the \
             value is 'false', remove the whole context, otherwise this line"
        ]
    );
    let bad = said(&file("", "", "high-water-disk-pct 101"));
    assert!(bad.iter().any(|line| line.contains("cannot be '101'")), "{bad:#?}");
}

#[test]
fn present_values_outweigh_obsolete_ones() {
    let text = file("nsup-period 90", "", "nsup-period 5\nhigh-water-disk-pct 61")
        .replace("data-size 1G", "data-size 1G\nevict-used-pct 40");
    let (config, _) = parsed(&text);
    assert_eq!(config.namespaces[0].params.nsup_period.get(), 5);
    assert_eq!(config.namespaces[0].storage.params.evict_used_pct.get(), 40);
}

#[test]
fn every_obsolete_name_is_answered() {
    for row in obsolete::OBSOLETE {
        for name in row.names {
            every_obsolete_name_is_told(row.context.path(), name);
        }
    }
}

fn every_obsolete_name_is_told(context: &str, name: &str) {
    let line = format!("{name} 1");
    let storage = |line: &str| file("", "", "").replace("data-size 1G", &format!("data-size 1G\n{line}"));
    let index = |word: &str| format!("{word} flash {{\nmount /m\n{line}\n}}");
    let before = |block: &str| format!("{block}\n{}", file("", "", ""));
    let text = match context {
        "the top of the file" => before(&line),
        "service" => file(&line, "", ""),
        "network.service" => file("", "", "").replace("port 3000", &format!("port 3000\n{line}")),
        "network.heartbeat" => file("", &format!("heartbeat {{\n{line}\n}}"), ""),
        "network.info" => file("", &format!("info {{\nport 3003\n{line}\n}}"), ""),
        "network.tls" => file("", &format!("tls t {{\n{line}\n}}"), ""),
        "logging.console" | "logging.file" => {
            let sink = if context == "logging.console" { "console" } else { "file /l" };
            before(&format!("logging {{\n{sink} {{\n{line}\n}}\n}}"))
        }
        "mod-lua" => before(&format!("mod-lua {{\n{line}\n}}")),
        "namespace" => file("", "", &line),
        "namespace.set" => file("", "", &format!("set s {{\n{name} true\n}}\nset t {{\n{line}\n}}")),
        "namespace.index-type" => file("", "", &index("index-type")),
        "namespace.sindex-type" => file("", "", &index("sindex-type")),
        "namespace.storage-engine" => storage(&line),
        "security" => before(&format!("security {{\n{line}\n}}")),
        "security.ldap" => before(&format!("security {{\nldap {{\n{line}\n}}\n}}")),
        "xdr" => before(&format!("xdr {{\n{line}\n}}")),
        "xdr.dc" => before(&format!("xdr {{\ndc d {{\n{line}\n}}\n}}")),
        "xdr.dc.namespace" => before(&format!("xdr {{\ndc d {{\nnamespace n {{\n{line}\n}}\n}}\n}}")),
        other => panic!("{other}"),
    };
    let said = said(&text);
    let expected = format!("'{name}' ");
    assert!(
        said.iter()
            .any(|line| line.contains(&expected)
                && (line.contains("is obsolete") || line.contains("is new in"))),
        "{name} in {context}: {said:#?}"
    );
}

#[test]
fn every_obsolete_value_is_answered() {
    for row in OBSOLETE_VALUES {
        for value in row.values {
            let line = format!("{} {value}", row.name);
            let text = match row.context.path() {
                "service" => file(&line, "", ""),
                "network.heartbeat" => file("", &format!("heartbeat {{\n{line}\n}}"), ""),
                "namespace" if row.name == "storage-engine" => {
                    file("", "", "").replace("storage-engine memory", &line)
                }
                "namespace" => file("", "", &line),
                "xdr.dc.namespace" => {
                    format!("xdr {{\ndc d {{\nnamespace n {{\n{line}\n}}\n}}\n}}\n{}", file("", "", ""))
                }
                other => panic!("{other}"),
            };
            let said = said(&text);
            let expected = format!("cannot be '{value}' any more: {}", row.advice);
            assert!(said.iter().any(|one| one.ends_with(&expected)), "{line}: {said:#?}");
        }
    }
}

#[test]
fn names_that_could_only_be_set_at_run_time_are_reported_too() {
    for (line, expected) in [
        (
            "udf-runtime-gmax-memory 1G",
            "the resources of a function are limited without a setting; leave the line out",
        ),
        ("proto-slow-netio-sleep-ms 1", "no thread waits for a client that reads slowly; leave the line out"),
        ("query-buf-size 2M", "queries need no such setting any more; leave the line out"),
    ] {
        assert!(in_service(line).ends_with(expected), "{line}");
    }
    assert!(in_namespace("si-gc-period 1000").contains("secondary indexes need no setting here"));
    let (config, found) =
        parsed(&file("", "", "").replace("namespace test {", "namespace test {\nrepl-factor 1"));
    assert_eq!(config.namespaces[0].params.replication_factor.get(), 1);
    assert!(lines(&found)[0].contains("but accepted: write 'replication-factor' instead"), "{found:#?}");
}

#[test]
fn names_of_later_versions_and_old_log_contexts_are_passed_over() {
    let text =
        file("cgroup-mem-tracking true\npaxos-single-replica-limit 1", "", "tomb-raider-unmark-threads 2");
    let sinks = "context any info\ncontext masking info\ncontext scan debug\ncontext ldt warning";
    let (config, found) = parsed(&format!("logging {{\nconsole {{\n{sinks}\n}}\n}}\n{text}"));
    let found = lines(&found);
    for (at, expected) in [
        "t.conf:4: the log context 'masking' in logging.console is new in 8.1 and has no effect here; leave it out",
        "t.conf:5: the log context 'scan' in logging.console is obsolete, but accepted: write 'query' instead",
        "t.conf:6: the log context 'ldt' in logging.console is obsolete and has no effect: no lines come from it; leave \
         it out",
    ]
    .iter()
    .enumerate()
    {
        assert_eq!(found[at], *expected, "{found:#?}");
    }
    assert!(
        found[3].contains("'paxos-single-replica-limit' in service is obsolete and has no effect"),
        "{found:#?}"
    );
    assert!(
        found[4].contains("'tomb-raider-unmark-threads' in namespace 'test' is new in 8.1"),
        "{found:#?}"
    );
    assert_eq!(found.len(), 5, "{found:#?}");
    assert_eq!(config.logging[0].params.context.len(), 2);
    assert!(config.service.cgroup_mem_tracking.get());
}
