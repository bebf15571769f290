//! Nodes that use TLS with each other form a cluster. No other node can join it.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::nodes::{CLUSTER_NAME, IN_MEMORY, Nodes};
use ferrospike_tests::server::Server;
use ferrospike_tests::tls::{Authority, Identity, Wish, connect, ends_within};
use ferrospike_tests::wire::{Message, result};
use nix::sys::signal::Signal;

/// The nodes of a cluster that an intruder tries to join.
const MEMBERS: [usize; 3] = [0, 1, 2];
const INTRUDER: usize = 3;
/// The time during which an intruder tries.
const TRIAL: Duration = Duration::from_secs(4);

/// Writes 60 keys through each of these nodes. At least one write of each key must succeed.
fn write_everywhere(nodes: &Nodes, numbers: &[usize], value: u8) {
    let mut clients: Vec<_> = numbers.iter().map(|number| nodes.servers[*number].connect()).collect();
    for key in 0..60 {
        let request = Message::put(&format!("key{key}"), vec![value]);
        let results: Vec<u8> =
            clients.iter_mut().map(|client| client.ask(&request).unwrap().result).collect();
        assert!(results.contains(&result::OK), "key {key}: {results:?}");
    }
}

#[test]
fn nodes_with_tls_form_a_cluster_lose_one_and_get_it_back() {
    let authority = Authority::new("nodes");
    let mut nodes = Nodes::start_with_tls(3, IN_MEMORY, &authority);
    let first = nodes.await_cluster(&[0, 1, 2]);
    for number in 0..3 {
        let endpoints = nodes.info(number, "endpoints");
        let [heartbeat, fabric] = nodes.ports(number);
        for pair in [
            "heartbeat.port=0".to_owned(),
            format!("heartbeat.tls-port={heartbeat}"),
            "fabric.port=0".to_owned(),
            format!("fabric.tls-port={fabric}"),
        ] {
            assert!(endpoints.split(';').any(|one| one == pair), "{pair}: {endpoints}");
        }
        let other = &nodes.servers[(number + 1) % 3];
        nodes.await_info(number, "peers-clear-std", &other.address().to_string());
    }
    // A write is answered when both replicas have it.
    write_everywhere(&nodes, &[0, 1, 2], 1);

    nodes.servers[2].kill9();
    let second = nodes.await_members(&[0, 1]);
    assert_ne!(first, second);
    nodes.servers[2].restart();
    assert_ne!(nodes.await_members(&[0, 1, 2]), second);
    nodes.servers[0].stop();
    nodes.await_members(&[1, 2]);
}

/// The files of an intruder.
fn intruder_files(authority: &Authority, wish: Wish<'_>, trusted: &Authority) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    authority.write_files(folder.path(), &authority.issue(wish));
    // The intruder would accept the nodes' certificates.
    fs::write(folder.path().join("ca.pem"), &trusted.pem).unwrap();
    folder
}

fn try_to_join(nodes: &Nodes, what: &str, files: Option<&Path>) {
    let key = nodes.await_cluster(&MEMBERS);
    let config = nodes.config_with(INTRUDER, files);
    let mut intruder = Server::start(&config);
    for text in [
        "a cluster is not ready",
        "closing the connection",
        "closing a connection",
        "too large",
        "expired",
        "seeds that cannot be reached",
    ] {
        intruder.allow(text);
    }
    let began = Instant::now();
    while began.elapsed() < TRIAL {
        for server in &nodes.servers {
            let statistics = server.connect().info_value("statistics").unwrap();
            assert!(statistics.contains("cluster_size=3;"), "{what} got in: {statistics}");
        }
        thread::sleep(Duration::from_millis(200));
    }
    let alone = intruder.connect().info_value("statistics").unwrap();
    assert!(alone.contains("cluster_size=1;") || alone.contains("cluster_size=0;"), "{what}: {alone}");
    assert_eq!(nodes.await_cluster(&MEMBERS), key, "{what} disturbs");
}

#[test]
fn a_node_without_a_valid_certificate_never_gets_in() {
    let (authority, stranger) = (Authority::new("nodes"), Authority::new("stranger"));
    let mut nodes = Nodes::start_with_tls(MEMBERS.len(), IN_MEMORY, &authority);
    for server in &mut nodes.servers {
        server
            .allow("closing the connection")
            .allow("closing a connection")
            .allow("does not begin with a hello");
    }
    try_to_join(&nodes, "one without TLS", None);
    let forged = intruder_files(&stranger, Wish::named(CLUSTER_NAME), &authority);
    try_to_join(&nodes, "one whom another authority vouches for", Some(forged.path()));
    let misnamed = intruder_files(&authority, Wish::named("as_cluster_east"), &authority);
    try_to_join(&nodes, "one of another name", Some(misnamed.path()));
    let expired =
        intruder_files(&authority, Wish { is_expired: true, ..Wish::named(CLUSTER_NAME) }, &authority);
    try_to_join(&nodes, "one whose certificate has expired", Some(expired.path()));

    // Connections that send nothing or wrong bytes do no harm, and are closed.
    for port in nodes.ports(0) {
        let mut silent: Vec<TcpStream> = Vec::new();
        for number in 0..200 {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let bytes: &[u8] = match number % 4 {
                0 => &[],
                1 => &[22, 3, 1, 2, 0, 1],
                2 => b"GET / HTTP/1.1\r\n\r\n",
                _ => &[0xff; 300],
            };
            // The node may have closed the connection already.
            let _ = socket.write_all(bytes);
            silent.push(socket);
        }
        for socket in &silent {
            assert!(ends_within(socket, Duration::from_secs(20)), "a handshake never ends");
        }
    }
    nodes.await_cluster(&MEMBERS);
    write_everywhere(&nodes, &MEMBERS, 2);
}

/// Connects to `port` again and again, sends `bytes` each time, and waits until the node closes the connection.
fn knock(port: u16, bytes: &[u8]) {
    for _ in 0..30 {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        // The node may have closed the connection already.
        let _ = socket.write_all(bytes);
        assert!(ends_within(&socket, Duration::from_secs(20)), "it stays open");
    }
}

#[test]
fn a_node_that_uses_tls_on_the_wrong_port_gets_one_line_with_the_likely_mistake() {
    const HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    let count = |server: &Server, text: &str| server.log().matches(text).count();
    let mut clear = Nodes::start(1, IN_MEMORY);
    let [port, fabric] = clear.ports(0);
    let told =
        format!("it uses TLS, and port {port} has none: name that port there by mesh-seed-address-port");
    clear.servers[0].allow(&told).allow("it uses TLS, and this port has none");
    knock(port, HELLO);
    assert_eq!(count(&clear.servers[0], &told), 1);
    knock(fabric, HELLO);
    assert!((1..=7).contains(&count(&clear.servers[0], "it uses TLS, and this port has none")));

    let mut with_tls = Nodes::start_with_tls(1, IN_MEMORY, &Authority::new("nodes"));
    let [port, _] = with_tls.ports(0);
    let told =
        format!("it does not use TLS, and port {port} requires it: name that port there by tls-mesh-seed");
    with_tls.servers[0].allow(&told);
    knock(port, &[0, 0, 0, 100, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(count(&with_tls.servers[0], &told), 1);
}

#[test]
fn a_fabric_with_tls_beside_one_without_is_told_on_both_nodes() {
    let mut nodes = Nodes::start_with_tls(2, IN_MEMORY, &Authority::new("nodes"));
    nodes.await_cluster(&[0, 1]);
    let clear = [0, 1].map(|number| nodes.config_with(number, None));
    let with_tls = nodes.config(1);
    let context = with_tls.split_once("network {").unwrap().1.split_once("heartbeat {").unwrap().0;
    let [before, fabric] = clear[1].split_once("fabric {").map(|(before, fabric)| [before, fabric]).unwrap();
    let fabric = fabric.replacen("address", "tls-address", 1).replacen(
        "port",
        &format!("tls-name {CLUSTER_NAME}\n        tls-port"),
        1,
    );
    let only_tls =
        [&before.replacen("network {", &format!("network {{{context}"), 1), "fabric {", &fabric].concat();
    for (server, config) in nodes.servers.iter_mut().zip([clear[0].as_str(), only_tls.as_str()]) {
        server.allow("cannot connect to node");
        server.configure(config);
        server.stop();
    }
    nodes.servers.iter_mut().for_each(Server::restart);
    let told = [
        "cannot connect to node A1, whose heartbeats arrive here: its fabric has only TLS",
        "cannot connect to node A0, whose heartbeats arrive here: its fabric has no TLS",
    ];
    let began = Instant::now();
    while !nodes.servers.iter().zip(told).all(|(server, told)| server.log().contains(told)) {
        assert!(began.elapsed() < Duration::from_secs(20), "not told: {}", nodes.servers[1].log());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the heartbeat and the fabric of the first node accept a peer that has this certificate and trusts
/// `trusted`.
fn takes(nodes: &Nodes, trusted: &Authority, identity: Option<&Identity>) -> [bool; 2] {
    let config = trusted.client(identity);
    nodes
        .ports(0)
        .map(|port| connect(&config, SocketAddr::from(([127, 0, 0, 1], port)), CLUSTER_NAME).is_ok())
}

/// Makes the first `count` nodes read their files again. They have done so `before` times.
fn reload(nodes: &Nodes, count: usize, before: usize) {
    for server in &nodes.servers[..count] {
        server.signal(Signal::SIGHUP);
        let began = Instant::now();
        // Heartbeat and fabric log a line each.
        while server.log().matches("certificates were read again").count() < 2 * (before + 1) {
            assert!(began.elapsed() < Duration::from_secs(20), "not read: {}", server.log());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn certificates_of_nodes_are_reloaded_and_no_connection_is_lost() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let [of_old, of_new] = [&old, &new].map(|authority| authority.issue(Wish::named(CLUSTER_NAME)));
    let mut nodes = Nodes::start_with_tls(2, IN_MEMORY, &old);
    for server in &mut nodes.servers {
        server
            .allow("closing the connection")
            .allow("closing a connection")
            .allow("does not begin with a hello");
    }
    let key = nodes.await_cluster(&[0, 1]);
    assert_eq!(takes(&nodes, &old, Some(&of_old)), [true; 2]);
    assert_eq!(takes(&nodes, &old, Some(&of_new)), [false; 2]);
    assert_eq!(takes(&nodes, &old, None), [false; 2], "no certificate at all");

    // Nodes present certificates of another authority, and accept those of both authorities.
    new.write_files(nodes.tls_folder(), &new.issue(Wish::named(CLUSTER_NAME)));
    fs::write(nodes.tls_folder().join("ca.pem"), [&old.pem[..], &new.pem].concat()).unwrap();
    reload(&nodes, 2, 0);
    assert_eq!(takes(&nodes, &new, Some(&of_old)), [true; 2]);
    assert_eq!(takes(&nodes, &new, Some(&of_new)), [true; 2]);
    assert_eq!(takes(&nodes, &old, Some(&of_old)), [false; 2], "it shows the old certificate");
    assert_eq!(nodes.await_cluster(&[0, 1]), key, "a connection was lost");
    nodes.servers[1].kill9();
    nodes.servers[1].restart();
    assert_ne!(nodes.await_members(&[0, 1]), key, "it is a cluster of before");

    // The old authority is removed.
    fs::write(nodes.tls_folder().join("ca.pem"), &new.pem).unwrap();
    reload(&nodes, 1, 1);
    assert_eq!(takes(&nodes, &new, Some(&of_new)), [true; 2]);
    assert_eq!(takes(&nodes, &new, Some(&of_old)), [false; 2]);
    nodes.await_cluster(&[0, 1]);
    write_everywhere(&nodes, &[0, 1], 4);
}

#[test]
fn nodes_change_to_tls_one_after_another() {
    let authority = Authority::new("nodes");
    let mut nodes = Nodes::start_with_tls(2, IN_MEMORY, &authority);
    nodes.await_cluster(&[0, 1]);
    // One node accepts connections with and without TLS. The others prefer TLS.
    let [heartbeat, fabric] = nodes.ports(2);
    let both = {
        nodes
            .config(0)
            .replacen(
                "mode mesh",
                &format!("mode mesh\n        address 127.0.0.1\n        port {heartbeat}"),
                1,
            )
            .replacen("fabric {", &format!("fabric {{\n        address 127.0.0.1\n        port {fabric}"), 1)
    };
    nodes.servers[0].configure(&both);
    nodes.servers[0].stop();
    nodes.servers[0].restart();
    nodes.await_cluster(&[0, 1]);
    // The other node does not use TLS. The nodes still connect, although one tries TLS at a port without it.
    for server in &mut nodes.servers {
        server
            .allow("closing the connection")
            .allow("closing a connection")
            .allow("does not begin with a hello");
    }
    let clear = nodes.config_with(1, None);
    nodes.servers[1].configure(&clear);
    nodes.servers[1].stop();
    nodes.servers[1].restart();
    nodes.await_cluster(&[0, 1]);
    write_everywhere(&nodes, &[0, 1], 3);
}
