//! Info commands, compared with the recorded answers of the C server.
//!
//! `corpora/info.txt` has one line for each request, in the order in which the requests were sent to a fresh
//! server with the configuration below and 100 records in each namespace: the request, a tab, the answer.
//! This server's answers must be equal, except for the entries of [`DIFFERENCES`], each with a reason.
//!
//! `corpora/info_forms.txt` has the same form. It holds every command with each of its parameters, under each
//! of their names, missing, empty, unknown, too long, wrong and given twice. The answers are those of a fresh
//! server without records.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use ferrospike_tests::client::Client;
use ferrospike_tests::ports::free_port;
use ferrospike_tests::server::Server;
use ferrospike_tests::wire::{self, Message, Operation, info2, operation};

const RECORDED: &str = include_str!("../corpora/info.txt");
const FORMS: &str = include_str!("../corpora/info_forms.txt");
/// Ports in the recorded answers: that of clients, and those at `PLACES`.
const RECORDED_PORTS: [u16; 4] = [4800, 4801, 4802, 4803];
/// The places of ports in the configuration.
const PLACES: [&str; 3] = ["{fabric-port}", "{heartbeat-port}", "{info-port}"];
const RECORDS: i64 = 100;

const CONFIG: &str = "
service {
    cluster-name ref
    node-id a1
    service-threads 4
    batch-index-threads 2
    proto-fd-max 15000
    work-directory {dir}
}
mod-lua {
    user-path {dir}
}
logging {
    console {
        context any info
    }
}
network {
    service {
        address 127.0.0.1
        port 0
        access-address 127.0.0.1
    }
    fabric {
        address 127.0.0.1
        port {fabric-port}
    }
    heartbeat {
        mode mesh
        address 127.0.0.1
        port {heartbeat-port}
        interval 150
        timeout 10
    }
    info {
        address 127.0.0.1
        port {info-port}
    }
}
namespace test {
    replication-factor 1
    nsup-period 1
    allow-ttl-without-nsup true
    set limited {
        stop-writes-count 1000000
    }
    storage-engine memory {
        data-size 1G
    }
}
namespace bar {
    replication-factor 1
    storage-engine memory {
        data-size 512M
    }
}
";

/// How an answer may differ.
enum Difference {
    /// The same keys in the same order, and the same values except for these keys.
    Values(&'static [&'static str]),
    /// Another answer.
    Answer(&'static str),
    /// The same answer, or an answer with this prefix.
    Begins(&'static str),
}
use Difference::{Answer, Begins, Values};

/// Requests whose answers differ, how they differ, and why.
static DIFFERENCES: &[(&[&str], Difference, &str)] = &[
    (
        &["statistics"],
        Values(&[
            "failed_best_practices",
            "cluster_key",
            "uptime",
            "system_total_cpu_pct",
            "system_user_cpu_pct",
            "system_kernel_cpu_pct",
            "system_free_mem_kbytes",
            "system_free_mem_pct",
            "system_thp_mem_kbytes",
            "process_cpu_pct",
            "threads_joinable",
            "threads_detached",
            "threads_pool_total",
            "threads_pool_active",
            "heap_allocated_kbytes",
            "heap_active_kbytes",
            "heap_mapped_kbytes",
            "heap_efficiency_pct",
            "client_connections",
            "client_connections_opened",
            "client_connections_closed",
            "info_complete",
            "time_since_rebalance",
        ]),
        "of the machine, the moment, the process and the test's own connections",
    ),
    (&["namespace/test"], Values(&["current_time"]), "the moment"),
    (
        &["namespace/bar"],
        Values(&["current_time", "non_expirable_objects", "migrate_fresh_partitions", "pending_quiesce"]),
        "the moment; counted here without nsup too; there partitions were dealt out again by then, as recluster asks, and nobody is quiesced",
    ),
    (&["best-practices"], Values(&["failed_best_practices"]), "of the machine"),
    (
        &["config-get", "get-config:"],
        Values(&["heartbeat.mtu", "tls-refresh-period"]),
        "of the machine; there nothing is refreshed",
    ),
    (&["get-config:context=network"], Values(&["heartbeat.mtu"]), "of the machine"),
    (&["get-config:context=service"], Values(&["tls-refresh-period"]), "as above"),
    (&["alumni-tls-std", "peers-tls-alt", "peers-tls-std"], Begins("0,3000,[]"), "there is TLS here"),
    (&["quiesce", "quiesce:", "quiesce-undo:"], Answer("ok"), "quiescing is for everyone here"),
    (&["rack-ids"], Answer("test:0;bar:0"), "racks are for everyone here"),
    (&["racks:"], Answer("ns=test:rack_0=A1;ns=bar:rack_0=A1"), "racks are for everyone here"),
    (&["service-tls-alt", "service-tls-std"], Answer(""), "there is TLS here, if a port is configured"),
    (
        &["endpoints"],
        Values(&["service.tls-access-addresses"]),
        "what does not listen has no address; there no TLS port has the addresses of the clear one",
    ),
    (
        &[
            "cluster-stable:",
            "cluster-stable:size=1",
            "cluster-stable:ignore-migrations=true",
            "cluster-stable:ns=",
            "cluster-stable:size=01",
            "cluster-stable:size=1;namespace=test",
        ],
        Values(&[""]),
        "the cluster key is random",
    ),
    (
        &["smd-info"],
        Values(&["smd:n_pending_sets", "evict:committed_key", "truncate:committed_key"]),
        "the cluster key is random",
    ),
    (
        &["smd-show:module=truncate"],
        Begins("test|nope="),
        "recorded on another server than the `truncate` before it",
    ),
    (&["latencies", "latencies:"], Begins("batch-index:"), "told once the ticker has turned twice"),
    (
        &[
            "histogram:namespace=test;type=object-size",
            "histogram:namespace=test;type=object-size-linear",
            "histogram:namespace=test;type=ttl",
            "histogram:namespace=test;type=ttl;set=demo",
            "histogram:namespace=test;type=object-size;set=demo",
            "histogram:namespace=test;type=object-size-linear;set=demo",
        ],
        Begins("units="),
        "made a second after the start here, and after an hour there",
    ),
    (
        &["mcast"],
        Answer("ERROR:4:heartbeat is in mesh mode"),
        "the recorded text has the modes the wrong way round",
    ),
];

fn start() -> Server {
    start_on(PLACES.map(|_| free_port()))
}

/// Starts a server with these ports at `PLACES`.
fn start_on(ports: [u16; 3]) -> Server {
    let set = |config: String, (place, port): (&str, u16)| config.replace(place, &port.to_string());
    let mut server = Server::start(&PLACES.into_iter().zip(ports).fold(CONFIG.to_owned(), set));
    server.allow("not yet in effect").allow("' answered with ERROR:").allow("' refused: ");
    server
}

fn write_records(client: &mut Client) {
    for namespace in ["test", "bar"] {
        for number in 0..RECORDS {
            let write =
                Message { info2: info2::WRITE, ..Message::on_record(namespace, "demo", &number.to_string()) };
            let write = write.with_operation(Operation::integer(operation::WRITE, "a", number));
            assert_eq!(client.ask(&write).unwrap().result, wire::result::OK);
        }
    }
}

/// The answer with the recorded ports and folder.
fn as_recorded(answer: &str, server: &Server, [fabric, heartbeat, info]: [u16; 3]) -> String {
    let mut text = answer.replace(server.folder().to_str().unwrap(), "{dir}");
    let ports = [server.address().port(), fabric, heartbeat, info];
    for (port, recorded) in ports.iter().zip(RECORDED_PORTS) {
        for before in [":", "="] {
            text = text.replace(&format!("{before}{port}"), &format!("{before}{recorded}"));
        }
    }
    // In the configuration, the system chooses the port.
    text.replace("service.port=0", "service.port=4800")
}

/// Statistics that the C server lacks: it has no limit for replies that clients do not read, and does not
/// count handshakes.
const ADDED: &[&str] = &[
    "unread_reply_bytes",
    "unread_replies_put_off",
    "unread_connections_closed",
    "tls_handshakes",
    "tls_handshakes_failed",
    "tls_handshakes_timed_out",
];
/// Statistics of a namespace that the C server lacks: its writers do not wait for defrag, which does not work
/// above its threshold.
const ADDED_TO_NAMESPACE: &[&str] =
    &["defrag_above_lwm", "room_waits", "index_given_back_bytes", "data_given_back_bytes"];

/// The pairs of an answer, in order. A part without `=` has an empty key.
fn pairs(answer: &str) -> Vec<(&str, &str)> {
    answer.split(';').map(|part| part.split_once('=').unwrap_or(("", part))).collect()
}

fn compare(request: &str, recorded: &str, ours: &str) -> Result<(), String> {
    let differ = || Err(format!("{request}\n  recorded {recorded}\n  ours     {ours}"));
    match DIFFERENCES.iter().find(|(requests, ..)| requests.contains(&request)) {
        None if recorded == ours => Ok(()),
        None => differ(),
        Some((_, Values(_), _)) if recorded == ours => Ok(()),
        Some((_, Answer(expected), _)) if ours == *expected => Ok(()),
        Some((_, Begins(_), _)) if recorded == ours => Ok(()),
        Some((_, Begins(start), _)) if ours.starts_with(start) => Ok(()),
        Some((_, Answer(_) | Begins(_), _)) => differ(),
        Some((_, Values(free), _)) => {
            let (recorded, mut ours) = (pairs(recorded), pairs(ours));
            let expected = match request.split_once('/') {
                None if request == "statistics" => ADDED,
                Some(("namespace", _)) => ADDED_TO_NAMESPACE,
                _ => &[],
            };
            let added: Vec<_> = ours.extract_if(.., |(key, _)| expected.contains(key)).collect();
            assert_eq!(added.len(), expected.len(), "{added:?} of {expected:?}");
            let same = recorded.len() == ours.len()
                && recorded.iter().zip(&ours).all(|((key, value), (our_key, our_value))| {
                    key == our_key && (value == our_value || free.contains(key))
                });
            if same { Ok(()) } else { differ() }
        }
    }
}

#[test]
fn every_command_answers_as_recorded() {
    let ports = PLACES.map(|_| free_port());
    let server = start_on(ports);
    let mut client = server.connect();
    write_records(&mut client);
    let mut failures = Vec::new();
    for line in RECORDED.lines() {
        let (request, recorded) = line.split_once('\t').unwrap();
        let ours = as_recorded(&client.info_value(request).unwrap(), &server, ports);
        failures.extend(compare(request, recorded, &ours).err());
    }
    assert!(failures.is_empty(), "{} answers differ:\n{}", failures.len(), failures.join("\n"));
}

/// Commands to which the C server gives two answers if a valid index name is missing: that error, and the
/// result for an empty name.
const ANSWERED_TWICE: &[&str] = &["sindex-delete", "sindex-exists", "sindex-stat"];

#[test]
fn every_form_of_parameters_is_answered_as_recorded() {
    let server = start();
    let mut client = server.connect();
    let mut failures = Vec::new();
    for line in FORMS.lines() {
        let (request, recorded) = line.split_once('\t').unwrap();
        let ours = client.info_value(request).unwrap();
        let name = request.split([':', '/', ';']).next().unwrap();
        let first = "ERROR:4:";
        let is_first_of_two = ANSWERED_TWICE.contains(&name)
            && ours.starts_with(first)
            && recorded.starts_with(&ours)
            && ours.contains("'indexname'");
        // TLS is available in every edition of this server.
        let is_of_tls =
            name.contains("-tls-") && recorded == "ERROR:25:enterprise only" && ours == "0,3000,[]";
        // Racks are available too.
        let is_of_racks = ["rack-ids", "racks"].contains(&name)
            && recorded == "ERROR:25:enterprise only"
            && ours != "ERROR:4:unrecognized command";
        if ours != recorded && !is_first_of_two && !is_of_tls && !is_of_racks {
            failures.push(format!("{request}\n  recorded {recorded}\n  ours     {ours}"));
        }
    }
    assert!(failures.is_empty(), "{} answers differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn no_difference_is_listed_without_need() {
    let recorded: BTreeMap<&str, &str> =
        RECORDED.lines().map(|line| line.split_once('\t').unwrap()).collect();
    for (requests, difference, why) in DIFFERENCES {
        for request in *requests {
            let answer =
                recorded.get(request).unwrap_or_else(|| panic!("{request} was not recorded ({why})"));
            if let Values(keys) = difference {
                let known: Vec<&str> = pairs(answer).into_iter().map(|(key, _)| key).collect();
                let unknown: Vec<_> = keys.iter().filter(|key| !known.contains(key)).collect();
                assert!(unknown.is_empty(), "{request} has no {unknown:?}");
            }
        }
    }
}

#[test]
fn the_empty_request_is_answered_with_the_summary() {
    let server = start();
    let answer = server.connect().info("").unwrap();
    let names: Vec<&str> = answer.lines().map(|line| line.split_once('\t').unwrap().0).collect();
    let expected = [
        "features",
        "node",
        "compatibility-id",
        "edition",
        "build_ee_sha",
        "build_sha",
        "build_arch",
        "build_time",
        "build_os",
        "build",
        "version",
        "statistics",
        "services-alumni",
        "services",
        "partition-generation",
    ];
    assert_eq!(names, expected);
}

#[test]
fn partition_info_has_a_row_for_each_partition() {
    let server = start();
    let mut client = server.connect();
    write_records(&mut client);
    let info = client.info_value("partition-info").unwrap();
    let mut rows = info.split(';').map(|row| row.split(':').collect::<Vec<_>>());
    let head = rows.next().unwrap();
    assert_eq!(
        head.join(":"),
        "namespace:partition:state:n_replicas:replica:n_dupl:working_master:proxy_dst:emigrates:lead_emigrates:\
         immigrates:records:tombstones:regime:version:final_version"
    );
    let column = |name: &str| head.iter().position(|head| *head == name).unwrap();
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows.len(), 2 * 4096);
    assert!(rows.iter().all(|row| row.len() == head.len() && row[column("working_master")] == "A1"));
    let records: i64 = rows.iter().map(|row| row[column("records")].parse::<i64>().unwrap()).sum();
    assert_eq!(records, 2 * RECORDS);
    assert!(rows[0][column("version")].ends_with(".0.mp-"));
}
