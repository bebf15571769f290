//! The port for Prometheus: figures with the names and labels of the official exporter, health, and invalid
//! requests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::ports::free_port;
use ferrospike_tests::server::{Server, usual_config};
use ferrospike_tests::wire::{Message, Operation, operation, result};

fn start() -> (Server, SocketAddr) {
    let port = free_port();
    let metrics =
        format!("network {{\n    metrics {{\n        address 127.0.0.1\n        port {port}\n    }}");
    let server = Server::start(&usual_config().replacen("network {", &metrics, 1));
    (server, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Sends `request` and returns the whole answer.
fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("the port is open");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.write_all(request).expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer to its end");
    answer
}

fn get(address: SocketAddr, path: &str) -> String {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())
}

/// Whether the server reports that it is healthy. A rejected client may still be sending, and then gets no
/// answer.
fn is_healthy(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 OK"))
}

/// The value of the sample that starts with `name` and has all of `labels`.
fn sample(metrics: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let line = metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')))
        .find(|line| labels.iter().all(|label| line.contains(label)))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn figures_are_served_under_the_exporters_names() {
    let (server, address) = start();
    let mut client = server.connect();
    for key in ["a", "b", "c"] {
        assert_eq!(client.ask(&Message::put(key, vec![1; 20])).expect("an answer").result, result::OK);
    }
    let answer = get(address, "/metrics");
    let (head, metrics) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
    let value = |name: &str, labels: &[&str]| {
        sample(metrics, name, labels).unwrap_or_else(|| panic!("no {name} {labels:?} in\n{metrics}"))
    };
    assert!((value("aerospike_node_up", &["build=", "node_id=", "service="]) - 1.0).abs() < 0.1);
    let of_test = ["ns=\"test\"", "storage_engine=\"memory\""];
    assert!((value("aerospike_namespace_objects", &of_test) - 3.0).abs() < 0.1);
    assert!((value("aerospike_namespace_client_write_success", &of_test) - 3.0).abs() < 0.1);
    assert!(value("aerospike_node_stats_uptime", &[]) >= 0.0);
    assert!(value("aerospike_node_stats_client_connections", &[]) >= 1.0);
    assert!(value("aerospike_namespace_storage_engine_stripe_free_wblocks", &["stripe_index=\"7\""]) > 0.0);
    let sets = metrics.lines().filter(|line| line.starts_with("aerospike_sets_objects{")).count();
    assert_eq!(sets, 1, "{metrics}");
    assert!(metrics.contains("# TYPE aerospike_namespace_client_write_success counter"));
    assert!(metrics.contains("# TYPE aerospike_namespace_objects gauge"));

    // Every line is a type or a sample. Each name has one type and consecutive samples.
    let mut seen = std::collections::BTreeSet::new();
    let mut current = String::new();
    for line in metrics.lines() {
        if let Some(of) = line.strip_prefix("# TYPE ") {
            of.split(' ').next().expect("a name").clone_into(&mut current);
            assert!(seen.insert(current.clone()), "{current} twice");
        } else {
            let name = line.split(['{', ' ']).next().expect("a name");
            assert_eq!(name, current, "{line}");
            assert!(line.rsplit(' ').next().is_some_and(|value| value.parse::<f64>().is_ok()), "{line}");
        }
    }
    assert!(seen.len() > 400, "only {} metrics", seen.len());

    let ticks = |metrics: &str| -> Option<u64> {
        metrics
            .lines()
            .find_map(|line| line.strip_prefix("aerospike_node_ticks "))
            .and_then(|n| n.parse().ok())
    };
    assert_eq!(ticks(metrics), Some(1));
    assert_eq!(ticks(&get(address, "/metrics")), Some(2));
}

/// A server with a namespace on a file and namespaces in memory, whose ticker runs every second.
fn start_with_all_kinds_of_storage() -> (Server, SocketAddr) {
    let port = free_port();
    let metrics =
        format!("network {{\n    metrics {{\n        address 127.0.0.1\n        port {port}\n    }}");
    let on_file = "namespace disk {\n    replication-factor 1\n    storage-engine device {\n        \
                   file {dir}/disk.dat\n        filesize 128M\n    }\n}\n";
    let config = usual_config().replacen("network {", &metrics, 1) + on_file;
    let server = Server::start(&config.replacen("service {", "service {\n    ticker-interval 1", 1));
    (server, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// `name type label,label` for each metric.
fn described(metrics: &str) -> Vec<String> {
    let mut kinds = std::collections::BTreeMap::new();
    let mut found = std::collections::BTreeSet::new();
    for line in metrics.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            kinds.insert(name.to_owned(), kind.to_owned());
        } else if let Some((name, rest)) = line.split_once('{') {
            let labels = rest.rsplit_once('}').expect("the end of the labels").0;
            let labels: Vec<&str> =
                labels.split("\",").map(|label| label.split('=').next().expect("a label")).collect();
            found.insert(format!("{name} {} {}", kinds[name], labels.join(",")));
        } else if let Some((name, _)) = line.split_once(' ') {
            found.insert(format!("{name} {}", kinds[name]));
        }
    }
    found.into_iter().collect()
}

/// Each secondary index has its figures, with its name as a label as in the exporter.
#[test]
fn figures_of_indexes_have_the_index_as_label() {
    let (server, address) = start();
    let mut client = server.connect();
    for index in ["indexname=number;indexdata=n,numeric", "set=demo;indexname=text;indexdata=s,string"] {
        let request = format!("sindex-create:namespace=test;{index}");
        assert_eq!(client.info_value(&request).expect("an answer"), "ok");
    }
    for (key, number) in [("a", 1), ("b", 1), ("c", 2)] {
        let put = Message::write(key).with_operation(Operation::integer(operation::WRITE, "n", number));
        assert_eq!(client.ask(&put).expect("an answer").result, result::OK);
    }
    let answer = get(address, "/metrics");
    let entries = |index: &str| sample(&answer, "aerospike_sindex_entries", &["ns=\"test\"", index]);
    assert_eq!(entries("sindex=\"number\"").map(|count| count as u64), Some(3), "{answer}");
    assert_eq!(entries("sindex=\"text\"").map(|count| count as u64), Some(0), "{answer}");
    let used = sample(&answer, "aerospike_sindex_used_bytes", &["sindex=\"number\""]);
    assert!(used.is_some_and(|bytes| bytes > 0.0), "{answer}");
    assert_eq!(client.info_value("sindex-delete:ns=test;indexname=number").expect("an answer"), "ok");
    assert!(!get(address, "/metrics").contains("sindex=\"number\""));
}

/// Dashboards and alerts use the metrics by the names, types and labels of the official exporter.
/// `DIFFERENCES.md` lists metrics that are a gauge here and a counter there.
#[test]
fn names_types_and_labels_are_those_agreed_upon() {
    let (server, address) = start_with_all_kinds_of_storage();
    let mut client = server.connect();
    let request = "set-config:context=namespace;id=test;enable-benchmarks-read=true";
    assert_eq!(client.info_value(request).expect("an answer"), "ok");
    let request = "sindex-create:ns=test;indexname=of-numbers;indexdata=n,numeric";
    assert_eq!(client.info_value(request).expect("an answer"), "ok");
    let started = Instant::now();
    // Figures that are measured on demand exist after two runs of the ticker.
    let metrics = loop {
        assert_eq!(client.ask(&Message::put("a", vec![1; 20])).expect("an answer").result, result::OK);
        assert_eq!(client.ask(&Message::get("a")).expect("an answer").result, result::OK);
        let metrics = get(address, "/metrics").split_once("\r\n\r\n").expect("a head").1.to_owned();
        let is_there = |name: &str| sample(&metrics, name, &["ns=\"test\""]).is_some();
        if is_there("aerospike_latencies_read_local_ms_count")
            && is_there("aerospike_latencies_write_ms_bucket")
        {
            break metrics;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "latencies are never told");
        thread::sleep(Duration::from_millis(50));
    };
    let agreed: Vec<&str> = include_str!("../corpora/metrics.txt").lines().collect();
    let found = described(&metrics);
    // The other latencies depend on the requests.
    let found: Vec<&str> = found
        .iter()
        .map(String::as_str)
        .filter(|line| !line.starts_with("aerospike_latencies_") || agreed.contains(line))
        .collect();
    let missing: Vec<_> = agreed.iter().filter(|line| !found.contains(line)).collect();
    let unknown: Vec<_> = found.iter().filter(|line| !agreed.contains(line)).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:#?}, not agreed upon {unknown:#?}");
}

#[test]
fn health_is_reported_and_invalid_requests_are_refused() {
    let (server, address) = start();
    for path in ["/healthz", "/readyz", "/metrics?x=1"] {
        assert!(get(address, path).starts_with("HTTP/1.1 200 OK"), "{path}");
    }
    assert!(get(address, "/").starts_with("HTTP/1.1 404 "));
    for (path, status) in [("/metrics", "200 OK"), ("/healthz", "200 OK"), ("/", "404 Not Found")] {
        let answer = exchange(address, format!("HEAD {path} HTTP/1.1\r\n\r\n").as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        assert!(!answer.contains("Content-Length: 0\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n") && answer.matches("\r\n\r\n").count() == 1, "{answer}");
    }
    assert!(exchange(address, b"POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(exchange(address, &[0x16, 3, 1, 0, 0]).starts_with("HTTP/1.1 400 "));
    assert!(exchange(address, &[b'a'; 20_000]).starts_with("HTTP/1.1 400 "));

    // Silent clients hold only their share of connections, and only for the time that a client may take.
    let idle: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(address).expect("the port is open")).collect();
    let started = Instant::now();
    while !is_healthy(address) {
        assert!(started.elapsed() < Duration::from_secs(60), "idle clients keep others out");
        thread::sleep(Duration::from_millis(200));
    }
    drop(idle);
    server.connect().info_value("status").expect("the server goes on");
}

/// A client that sends its request byte by byte is finally disconnected, so that a few such clients do not
/// keep others out.
#[test]
fn slow_clients_do_not_keep_others_out() {
    let (_server, address) = start();
    let is_served = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut stream = TcpStream::connect(address).expect("the port is open");
                while !is_served.load(Relaxed) && stream.write_all(b"G").is_ok() {
                    thread::sleep(Duration::from_millis(50));
                }
            });
        }
        let started = Instant::now();
        thread::sleep(Duration::from_millis(500));
        while !is_healthy(address) {
            if started.elapsed() > Duration::from_secs(60) {
                is_served.store(true, Relaxed);
                panic!("slow clients keep others out");
            }
            thread::sleep(Duration::from_millis(200));
        }
        is_served.store(true, Relaxed);
    });
}
