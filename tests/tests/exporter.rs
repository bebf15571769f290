//! The port for Prometheus: figures under the official exporter's names and labels, health, and what is not a request.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ferrospike_tests::server::{Server, usual_config};
use ferrospike_tests::wire::{Message, result};

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn start() -> (Server, SocketAddr) {
    let port = free_port();
    let metrics =
        format!("network {{\n    metrics {{\n        address 127.0.0.1\n        port {port}\n    }}");
    let server = Server::start(&usual_config().replacen("network {", &metrics, 1));
    (server, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Sends `request` and gives all that comes back.
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

    // Every line is a type or a sample, each name has one type, and its samples stand together.
    let mut seen = std::collections::BTreeSet::new();
    let mut current = String::new();
    for line in metrics.lines() {
        if let Some(of) = line.strip_prefix("# TYPE ") {
            of.split(' ').next().expect("a name").clone_into(&mut current);
            assert!(seen.insert(current.clone()), "{current} twice");
        } else {
            let name = line.split('{').next().expect("a name");
            assert_eq!(name, current, "{line}");
            assert!(line.rsplit(' ').next().is_some_and(|value| value.parse::<f64>().is_ok()), "{line}");
        }
    }
    assert!(seen.len() > 400, "only {} metrics", seen.len());
}

#[test]
fn health_is_told_and_nonsense_is_refused() {
    let (server, address) = start();
    for path in ["/healthz", "/readyz", "/metrics?x=1"] {
        assert!(get(address, path).starts_with("HTTP/1.1 200 OK"), "{path}");
    }
    assert!(get(address, "/").starts_with("HTTP/1.1 404 "));
    assert!(exchange(address, b"POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(exchange(address, &[0x16, 3, 1, 0, 0]).starts_with("HTTP/1.1 400 "));
    assert!(exchange(address, &[b'a'; 20_000]).starts_with("HTTP/1.1 400 "));

    // Clients that say nothing hold no more than their share, for no longer than a client may take.
    let idle: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(address).expect("the port is open")).collect();
    let started = Instant::now();
    while !get(address, "/healthz").starts_with("HTTP/1.1 200 OK") {
        assert!(started.elapsed() < Duration::from_secs(60), "idle clients keep others out");
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(idle);
    server.connect().info_value("status").expect("the server goes on");
}
