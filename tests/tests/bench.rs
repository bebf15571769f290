//! `asd-bench` with a real server: its tables of latency, of hostile neighbours, of queries and of the cost
//! of protection are complete. The amounts are tiny, and no figure is judged.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::process::Command;

use ferrospike_tests::programs::{binary, built};
use ferrospike_tests::server::{BASICS, Server};

/// A server with a namespace for records as large as hostile clients need.
fn server() -> Server {
    let namespace = "namespace test {\n    replication-factor 1\n    max-record-size 8M\n    storage-engine memory {\n        \
                     data-size 512M\n    }\n}\n";
    Server::start(&[BASICS, namespace].concat())
}

/// The output of `asd-bench` for two servers.
fn asd_bench(servers: [&Server; 2], arguments: &str) -> String {
    let [port, other_port] = servers.map(|server| server.address().port().to_string());
    let output = Command::new(built("asd-bench").unwrap())
        .args(arguments.split_ascii_whitespace())
        .args(["--port", &port, "--other-port", &other_port])
        .output()
        .unwrap();
    let (text, progress) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{progress}");
    text.into_owned()
}

/// The cells of the row `name`.
fn cells(table: &str, name: &str) -> Vec<f64> {
    let row = table.lines().find(|line| line.starts_with(&format!("| {name} |")));
    let row = row.unwrap_or_else(|| panic!("no row {name}\n{table}"));
    row.split('|').skip(2).filter_map(|cell| cell.trim().parse().ok()).collect()
}

#[test]
fn latency_by_number_of_clients_is_a_table() {
    let servers = [server(), server()];
    let table = asd_bench(
        [&servers[0], &servers[1]],
        "latency --keys 500 --clients 1,3 --pause-us 200 --rounds 2 --seconds 0.05",
    );
    for clients in ["1 client", "3 clients"] {
        for pauses in ["without pauses", "with pauses of 200 µs"] {
            let figures = cells(&table, &format!("{clients} {pauses}: p50, µs"));
            assert!(figures.len() == 3 && figures.iter().all(|figure| *figure > 0.0), "{figures:?}\n{table}");
        }
    }
    assert!(table.contains("Bar, p50 and p99 not above those of C server: held in "), "{table}");
}

#[test]
fn every_hostile_neighbour_has_its_rows() {
    let servers = [server(), server()];
    let table = asd_bench(
        [&servers[0], &servers[1]],
        "neighbour --keys 500 --clients 4 --rounds 1 --seconds 0.3 --scale 0.01",
    );
    let hostile = ["list operations", "wide record", "regex", "gone batch", "slow reader", "scan", "churn"];
    for name in hostile {
        let figures = cells(&table, &format!("beside {name}: p99.9, ms"));
        assert!(figures.len() == 3 && figures.iter().all(|figure| *figure > 0.0), "{figures:?}\n{table}");
        assert!(table.contains(&format!("- beside {name}: p99.9 grows by ")), "{table}");
        assert!(!table.contains(&format!("{name}: no request")), "{table}");
    }
    for fault in ["answered with result", "connection lost"] {
        assert!(!table.contains(fault), "{table}");
    }
    assert_eq!(cells(&table, "alone: p50, ms").len(), 3, "{table}");
    // The control has figures, but no bar.
    assert_eq!(cells(&table, "beside busy processors: p99.9, ms").len(), 3, "{table}");
    assert!(!table.contains("- beside busy processors: p99.9 grows by "), "{table}");
    assert!(cells(&table, "unread batch: memory grows by, MiB").len() >= 2, "{table}");
}

#[test]
fn queries_indexes_and_functions_have_their_rows() {
    let servers = [server(), server()];
    let table = asd_bench([&servers[0], &servers[1]], "query --keys 3000 --rounds 1");
    for name in [
        "query with bins: time, ms",
        "query without bins: time, ms",
        "index build: time, ms",
        "index: bytes per entry",
        "query of a range of a tenth: time, ms",
        "write of a record in three indexes: per second",
        "call of a small function: per second",
    ] {
        let figures = cells(&table, name);
        assert!(figures.len() >= 2 && figures.iter().all(|figure| *figure >= 0.0), "{figures:?}\n{table}");
    }
}

#[test]
fn the_cost_of_protection_is_a_table() {
    let output = Command::new(built("asd-bench").unwrap())
        .args("protection --keys 500 --connections 2 --rounds 2 --seconds 0.2 --server".split(' '))
        .arg(binary())
        .output()
        .unwrap();
    let (table, progress) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{progress}");
    for protection in
        ["access control", "tls 1.2", "tls 1.3", "encrypted device, aes-128", "encrypted device, aes-256"]
    {
        for load in ["read", "write"] {
            let records =
                if protection.starts_with("encrypted") { "records of a file" } else { "records in memory" };
            let figures =
                cells(&table, &format!("{protection}: {load} of {records}: server CPU per request, µs"));
            assert!(figures.len() == 3 && figures.iter().all(|figure| *figure > 0.0), "{figures:?}\n{table}");
        }
    }
}

#[test]
fn asbench_measures_queries() {
    let server = server();
    let address = server.address().to_string();
    let asbench = |arguments: &str| {
        let output = Command::new(built("asbench").unwrap())
            .args(["--no-config-file", "--quiet", "-h", &address, "-k", "500", "-o", "I2"])
            .args(arguments.split_ascii_whitespace())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let (is_done, _, errors) = asbench("-w I");
    assert!(is_done, "{errors}");
    let mut client = server.connect();
    let (is_done, _, errors) = asbench("-w QI --requests 20");
    assert!(!is_done && errors.contains("a query got result 201"), "{errors}");
    let index = "namespace=test;set=testset;indexname=first;indexdata=testbin,numeric";
    assert_eq!(client.info_value(&format!("sindex-create:{index}")).unwrap(), "ok");
    while client.info_value("sindex-list").unwrap().contains("state=WO") {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    for workload in ["Q,4096", "QI,100"] {
        let (is_done, text, errors) = asbench(&format!("-w {workload} --requests 20"));
        assert!(is_done, "{errors}");
        let line = text.lines().find(|line| line.starts_with("query ")).unwrap_or_else(|| panic!("{text}"));
        assert!(line.starts_with("query      20 (") && line.contains("hits 20, misses 0"), "{line}");
    }
    // One partition may have no records.
    let (is_done, text, errors) = asbench("-w Q --requests 20 --pipeline 3");
    assert!(is_done && text.contains("query      20 ("), "{text}{errors}");
}
