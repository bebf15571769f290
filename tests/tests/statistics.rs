//! Every statistic is true. For each, `corpora/statistics.txt` names the test that changes it to a known
//! value, or its constant value with the reason. A statistic that is missing from that list fails here.
//!
//! The tests of statistics about the server itself, its process and its machine are in this file.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::figures::{await_figures, figures, take_answer, texts};
use ferrospike_tests::report;
use ferrospike_tests::server::{BASICS, NAMESPACES, Server, stored_config, stored_config_with, usual_config};
use ferrospike_tests::wire::{self, Message, info2, result};

/// `scope TAB key TAB proof` for each statistic; the proof is `file::function`, or `=value`, a TAB and the reason.
const LIST: &str = include_str!("../corpora/statistics.txt");
/// Namespaces with all kinds of storage, so that all statistics exist.
const ALL_KINDS: &str = "
namespace disk {
    replication-factor 1
    indexes-memory-budget 1G
    storage-engine device {
        file {dir}/disk.dat {dir}/shadow.dat
        filesize 128M
    }
}
namespace backed {
    replication-factor 1
    storage-engine memory {
        file {dir}/backed.dat
        filesize 128M
    }
}
";

/// The key without the number in brackets, because all devices have figures with the same names.
fn of_any_device(key: &str) -> String {
    match (key.find('['), key.find(']')) {
        (Some(open), Some(close)) => format!("{}[]{}", &key[..open], &key[close + 1..]),
        _ => key.to_owned(),
    }
}

/// All statistics of a server by scope and key, without the parameters listed among them.
fn all_statistics(client: &mut Client) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut all: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    let mut add = |scope: &str, figures: BTreeMap<String, String>, parameters: &BTreeSet<String>| {
        for (key, value) in figures.into_iter().filter(|(key, _)| !parameters.contains(key)) {
            all.entry((scope.to_owned(), of_any_device(&key))).or_default().insert(value);
        }
    };
    add("statistics", texts(client, "statistics"), &BTreeSet::new());
    for namespace in client.info_value("namespaces").unwrap().split(';') {
        let request = format!("get-config:context=namespace;namespace={namespace}");
        let parameters = texts(client, &request).into_keys().collect();
        add("namespace", texts(client, &format!("namespace/{namespace}")), &parameters);
    }
    // Parameters of a set have hyphens in their names; its figures have none.
    let of_set = texts(client, "sets/test/rig");
    let parameters = of_set.keys().filter(|key| key.contains('-')).cloned().collect();
    add("sets", of_set, &parameters);
    all
}

/// The body of function `name` in a file of this folder. The function is a test or belongs to one, because
/// every function here is used.
fn body(file: &str, name: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(format!("{file}.rs"));
    let source = fs::read_to_string(path).ok()?;
    let rest = source.split_once(&format!("\nfn {name}("))?.1;
    Some(rest.split_once("\n}\n")?.0.to_owned())
}

/// Whether `text` contains `name`, but not as a part of another name.
fn says(text: &str, name: &str) -> bool {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.match_indices(name)
        .any(|(at, _)| !text[..at].ends_with(is_part) && !text[at + name.len()..].starts_with(is_part))
}

#[test]
fn every_statistic_has_its_test_or_its_reason() {
    let server = Server::start(&[BASICS, NAMESPACES, ALL_KINDS].concat());
    let mut client = server.connect();
    assert_eq!(client.ask(&Message::put("a", vec![1])).unwrap().result, result::OK);
    let mut found = all_statistics(&mut client);
    let mut problems = Vec::new();
    for line in LIST.lines().filter(|line| !line.starts_with('#')) {
        let mut columns = line.split('\t');
        let [scope, key, proof] = [(); 3].map(|()| columns.next().unwrap_or_else(|| panic!("{line:?}")));
        let Some(values) = found.remove(&(scope.to_owned(), key.to_owned())) else {
            problems.push(format!("{scope} {key} is listed twice, or is no statistic"));
            continue;
        };
        if let Some(value) = proof.strip_prefix('=') {
            let reason = columns.next().unwrap_or_default();
            if values.iter().any(|found| found != value) || reason.is_empty() {
                problems
                    .push(format!("{scope} {key} is {values:?}, not {value} as listed because {reason:?}"));
            }
            continue;
        }
        let (file, name) = proof.split_once("::").unwrap_or_else(|| panic!("{line:?}"));
        let figure = key.rsplit('.').next().unwrap();
        match body(file, name) {
            None => problems.push(format!("{scope} {key}: there is no {proof}")),
            Some(body) if !says(&body, figure) => {
                problems.push(format!("{scope} {key} is not in {proof}"));
            }
            Some(_) => {}
        }
    }
    problems.extend(found.into_keys().map(|(scope, key)| format!("{scope} {key} is not listed")));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn a_single_node_is_a_cluster_alone() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    let node = client.info_value("node").unwrap();
    let compatibility = client.info_value("compatibility-id").unwrap();
    let key = client.info_value("cluster-stable:").unwrap();
    let now = texts(&mut client, "statistics");
    for (name, expected) in [
        ("cluster_principal", node.as_str()),
        ("paxos_principal", &node),
        ("cluster_min_compatibility_id", &compatibility),
        ("cluster_max_compatibility_id", &compatibility),
        ("cluster_key", &key),
        ("cluster_size", "1"),
        ("cluster_generation", "1"),
        ("cluster_integrity", "true"),
        ("cluster_is_member", "true"),
        ("migrate_allowed", "true"),
    ] {
        assert_eq!(now[name], expected, "{name}");
    }
    assert_eq!(client.info_value("get-sl").unwrap(), node);
    let failed = client.info_value("best-practices").unwrap() != "failed_best_practices=none";
    assert_eq!(now["failed_best_practices"], failed.to_string());
    let of_namespace = texts(&mut client, "namespace/test");
    for (name, expected) in [
        ("ns_cluster_size", "1"),
        ("effective_replication_factor", "1"),
        ("migrate_fresh_partitions", "4096"),
    ] {
        assert_eq!(of_namespace[name], expected, "{name}");
    }
}

/// The first number after `name` in a system file.
fn system_figure(path: &str, name: &str) -> i64 {
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("");
    line.trim_start_matches(':').split_whitespace().next().map_or(0, |number| number.parse().unwrap())
}

#[test]
fn times_count_from_the_start() {
    let before_start = Instant::now();
    let server = Server::start(&usual_config());
    let after_start = Instant::now();
    let mut client = server.connect();
    loop {
        let least = after_start.elapsed().as_secs() as i64;
        let now = figures(&mut client, "statistics");
        let most = before_start.elapsed().as_secs() as i64;
        for name in ["uptime", "time_since_rebalance"] {
            assert!((least..=most).contains(&now[name]), "{name}: {} of {least}..={most}", now[name]);
        }
        if least >= 1 {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn figures_of_process_and_machine_equal_those_of_the_system() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    let client = &mut client;
    let status = format!("/proc/{}/status", server.process_id().unwrap());
    await_figures(client, "statistics", |now| now["threads_joinable"] == system_figure(&status, "Threads"));
    // Other processes use the machine, so figures are only close, and only at times.
    let total = system_figure("/proc/meminfo", "MemTotal");
    let distance = |of_server: i64, name: &str| of_server - system_figure("/proc/meminfo", name);
    await_figures(client, "statistics", |now| {
        let (free, pct) = (now["system_free_mem_kbytes"], now["system_free_mem_pct"]);
        let is_near = distance(free, "MemAvailable").abs() < total / 50 && pct == free * 100 / total;
        // The memory of the process may be limited below that of the machine. The server then reports the
        // limit.
        let is_limited = distance(free, "MemAvailable") < total / 50 && pct > free * 100 / total;
        (is_near || is_limited) && distance(now["system_thp_mem_kbytes"], "AnonHugePages").abs() < total / 50
    });

    // An incomplete request is kept. Its memory is part of the heap.
    let before = figures(client, "statistics");
    let size = 64 << 20;
    let mut large = server.connect();
    large.send(&wire::frame_header(wire::kind::MESSAGE, size + 1)).unwrap();
    large.send(&vec![0; size as usize]).unwrap();
    let kilobytes = size as i64 / 1024;
    let now = await_figures(client, "statistics", |now| {
        now["heap_allocated_kbytes"] >= before["heap_allocated_kbytes"] + kilobytes * 9 / 10
    });
    assert!(now["heap_allocated_kbytes"] <= now["heap_active_kbytes"], "{now:?}");
    assert!(now["heap_active_kbytes"] <= now["heap_mapped_kbytes"], "{now:?}");
    let efficiency = now["heap_allocated_kbytes"] as f64 * 100.0 / now["heap_mapped_kbytes"] as f64;
    assert!((now["heap_efficiency_pct"] as f64 - efficiency).abs() < 1.0, "{efficiency} {now:?}");
}

#[test]
fn use_of_the_processors_is_reported() {
    let of_machine = fs::read_to_string("/proc/stat").unwrap();
    if of_machine.lines().next().unwrap().split(' ').skip(1).all(|time| matches!(time, "" | "0")) {
        return report("SKIPPED: this system does not tell how its processors are used");
    }
    // Each processor counts as a hundred.
    let most = 100 * (of_machine.lines().filter(|line| line.starts_with("cpu")).count() as i64 - 1);
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    let start = Instant::now();
    loop {
        // This is work for the server, and therefore for the machine.
        for _ in 0..1000 {
            assert_eq!(client.ask(&Message::get("none")).unwrap().result, result::NOT_FOUND);
        }
        let now = figures(&mut client, "statistics");
        let [total, user, kernel, process] =
            ["system_total_cpu_pct", "system_user_cpu_pct", "system_kernel_cpu_pct", "process_cpu_pct"]
                .map(|name| now[name]);
        assert!(total == user + kernel && (0..=most).contains(&total), "{user} and {kernel} is {total}");
        assert!(process >= 0);
        if user > 0 && kernel > 0 && process > 0 {
            return;
        }
        assert!(start.elapsed() < 2 * PATIENCE, "{total} {user} {kernel} {process}");
    }
}

#[test]
fn info_requests_that_wait_are_counted() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    let one = "set-config:context=service;info-threads=1";
    assert_eq!(client.info_value(one).unwrap(), "ok");
    let mut others: Vec<Client> = (0..50).map(|_| server.connect()).collect();
    let start = Instant::now();
    // While one request is answered, others wait. A request in the queue does not count itself.
    loop {
        others.iter_mut().for_each(|other| other.send(&wire::info_request("statistics")).unwrap());
        let answers = others.iter_mut().map(|other| other.receive().unwrap().body);
        let waiting: Vec<i64> = answers
            .map(|body| {
                let text = String::from_utf8(body).unwrap();
                let figure = text.split(';').find_map(|pair| pair.strip_prefix("info_queue=")).unwrap();
                figure.parse().unwrap()
            })
            .collect();
        assert!(waiting.iter().all(|waiting| (0..others.len() as i64).contains(waiting)), "{waiting:?}");
        if waiting.iter().any(|waiting| *waiting > 0) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "none ever waits");
    }
    assert_eq!(figures(&mut client, "statistics")["info_queue"], 0);
}

/// A batch that reads the record of key `a` this many times.
fn large_batch(rows: usize) -> Message {
    let keys = std::iter::repeat_n("a", rows);
    Message { transaction_ttl: 600_000, ..Message::get_all(keys) }
}

#[test]
fn batches_under_way_are_counted() {
    let config = usual_config().replacen("service {", "service {\n    batch-index-threads 3", 1);
    let server = Server::start(&config);
    let mut client = server.connect();
    let client = &mut client;
    let queues = |client: &mut Client| texts(client, "statistics")["batch_index_queue"].clone();
    assert_eq!(queues(client), "0:0,0:0,0:0");
    assert_eq!(client.ask(&Message::put("a", vec![1; 1_000_000])).unwrap().result, result::OK);
    // The client reads no replies, which exceed all buffers, so the batch stays in progress.
    let mut other = server.connect();
    other.send(&large_batch(300).encode()).unwrap();
    let start = Instant::now();
    while queues(client) != "1:0,0:0,0:0" {
        assert!(start.elapsed() < PATIENCE, "{}", queues(client));
    }
    assert_eq!(take_answer(&mut other), (300, result::OK));
    while queues(client) != "0:0,0:0,0:0" {
        assert!(start.elapsed() < 2 * PATIENCE, "{}", queues(client));
    }
}

#[test]
fn a_run_of_nsup_reports_what_it_removed() {
    let lines = ["nsup-period 100000"];
    let config = stored_config_with("test", &lines, "memory", &["data-size 256M"]);
    let server = Server::start(&config);
    let mut client = server.connect();
    for number in 0..16 {
        let ttl = if number < 4 { 1000 } else { u32::MAX };
        let put = Message { record_ttl: ttl, ..Message::put(&number.to_string(), vec![1]) };
        assert_eq!(client.ask(&put).unwrap().result, result::OK);
    }
    assert_eq!(texts(&mut client, "namespace/test")["nsup_cycle_deleted_pct"], "0.00");
    // nsup runs for this command, and not again.
    assert_eq!(client.info_value("eviction-reset:namespace=test;ttl=2000").unwrap(), "ok");
    let start = Instant::now();
    while texts(&mut client, "namespace/test")["nsup_cycle_deleted_pct"] != "25.00" {
        assert!(start.elapsed() < PATIENCE, "never told");
    }
    let now = figures(&mut client, "namespace/test");
    assert_eq!((now["evicted_objects"], now["objects"]), (4, 12));
}

#[test]
fn tombstones_and_shares_of_memory_are_counted() {
    let server = Server::start(&stored_config("test", "memory", &["data-size 256M"]));
    let mut client = server.connect();
    let client = &mut client;
    for number in 0..8 {
        assert_eq!(client.ask(&Message::put(&number.to_string(), vec![1; 5])).unwrap().result, result::OK);
    }
    for number in 0..3 {
        let delete = Message::delete(&number.to_string());
        let durable = Message { info2: delete.info2 | info2::DURABLE_DELETE, ..delete };
        assert_eq!(client.ask(&durable).unwrap().result, result::OK);
    }
    for scope in ["statistics", "namespace/test", "sets/test/rig"] {
        let now = figures(client, scope);
        assert_eq!((now["objects"], now["tombstones"]), (5, 3), "{scope}");
    }
    let now = figures(client, "namespace/test");
    assert_eq!((now["master_objects"], now["master_tombstones"]), (5, 3));
    // A record here takes 64 bytes, as on the C server, and a tombstone 48. An element of the index takes 64.
    assert_eq!(now["data_used_bytes"], 5 * 64 + 3 * 48);
    assert_eq!(figures(client, "sets/test/rig")["data_used_bytes"], 5 * 64 + 3 * 48);
    assert_eq!(now["index_used_bytes"], 8 * 64);
    let set = "set-config:context=namespace;id=test;indexes-memory-budget=2048";
    assert_eq!(client.info_value(set).unwrap(), "ok");
    assert_eq!(figures(client, "namespace/test")["indexes_memory_used_pct"], 25);
}

/// The records disappear at once. Soon the system has the memory back: pages of the index, and write blocks.
#[test]
fn memory_of_deleted_records_is_given_back() {
    const RECORDS: usize = 30_000;
    const VALUE_SIZE: usize = 3000;
    let server = Server::start(&stored_config("test", "memory", &["data-size 512M"]));
    let mut client = server.connect();
    let fill = |client: &mut Client| {
        for first in (0..RECORDS).step_by(500) {
            let keys = first..first + 500;
            let requests: Vec<u8> = keys
                .clone()
                .flat_map(|key| Message::put(&key.to_string(), vec![7; VALUE_SIZE]).encode())
                .collect();
            client.send(&requests).unwrap();
            for _ in keys {
                assert_eq!(client.receive_message().unwrap().result, result::OK);
            }
        }
    };
    let resident_at_first = server.resident_megabytes().unwrap();
    fill(&mut client);
    let resident_when_full = server.resident_megabytes().unwrap();
    let of_records = ((RECORDS * VALUE_SIZE) >> 20) as u64;
    assert!(resident_when_full >= resident_at_first + of_records, "{resident_at_first} {resident_when_full}");
    assert_eq!(client.info_value("truncate:namespace=test;set=rig").unwrap(), "ok");
    let now = await_figures(&mut client, "namespace/test", |now| {
        // A page stays while it has a record, and each stripe keeps the block that is being filled.
        now["index_given_back_bytes"] >= (RECORDS * 64 * 9 / 10) as i64
            && now["data_given_back_bytes"] >= (RECORDS * VALUE_SIZE / 4) as i64
    });
    assert_eq!(now["objects"], 0);
    let resident = server.resident_megabytes().unwrap();
    let given = (now["data_given_back_bytes"] + now["index_given_back_bytes"]) as u64 >> 20;
    assert!(
        resident + given * 9 / 10 <= resident_when_full,
        "{given} of {resident_when_full}, {resident} left"
    );
    // The memory is used again.
    fill(&mut client);
    let get = client.ask(&Message::get("29999")).unwrap();
    assert_eq!((get.result, get.bin("b").map(<[u8]>::len)), (result::OK, Some(VALUE_SIZE)));
    assert_eq!(figures(&mut client, "namespace/test")["objects"], RECORDS as i64);
}
