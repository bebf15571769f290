//! Nodes that find each other and form a cluster: they form it, leave and return, answer clients, and keep
//! replicas.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use ferrospike_tests::client::Client;
use ferrospike_tests::nodes::{IN_MEMORY, Nodes};
use ferrospike_tests::server::Server;
use ferrospike_tests::wire::{Message, Operation, operation, result};

/// The nodes' reports about partitions: the columns of `partition-info` of each node, for each partition
/// number.
fn partitions(nodes: &Nodes, numbers: &[usize]) -> BTreeMap<String, Vec<Vec<String>>> {
    let mut partitions = BTreeMap::<String, Vec<Vec<String>>>::new();
    for number in numbers {
        for row in nodes.info(*number, "partition-info").split(';').skip(1) {
            let columns: Vec<String> = row.split(':').map(str::to_owned).collect();
            partitions.entry(columns[1].clone()).or_default().push(columns);
        }
    }
    partitions
}

/// Checks that every partition has one master and `replicas` copies, and that all nodes agree.
fn check_partitions(nodes: &Nodes, numbers: &[usize], replicas: usize) {
    let all = partitions(nodes, numbers);
    assert_eq!(all.len(), 4096);
    for (number, rows) in all {
        let places: BTreeSet<&str> =
            rows.iter().map(|row| row[4].as_str()).filter(|place| *place != "-1").collect();
        assert_eq!(places.len(), replicas, "replicas of partition {number}: {rows:?}");
        let masters: BTreeSet<&str> =
            rows.iter().map(|row| row[6].as_str()).filter(|node| *node != "0").collect();
        assert_eq!(masters.len(), 1, "masters of partition {number}: {rows:?}");
        let finals: BTreeSet<&str> =
            rows.iter().filter(|row| row[4] != "-1").map(|row| &row[15][..14]).collect();
        assert_eq!(finals.len(), 1, "versions of partition {number}: {rows:?}");
    }
}

#[test]
fn nodes_become_one_cluster_and_stay_one() {
    let mut nodes = Nodes::start(3, IN_MEMORY);
    let key = nodes.await_cluster(&[0, 1, 2]);
    for number in 0..3 {
        assert_eq!(nodes.info(number, "get-sl"), "A2,A1,A0");
        let mut client = nodes.servers[number].connect();
        let statistics = client.info_value("statistics").unwrap();
        for pair in
            ["cluster_size=3", "cluster_principal=A2", "cluster_integrity=true", "cluster_is_member=true"]
        {
            assert!(statistics.split(';').any(|one| one == pair), "{pair} in {statistics}");
        }
        assert!(statistics.contains(&format!("cluster_key={key};")));
        for counter in [
            "heartbeat_connections",
            "heartbeat_connections_opened",
            "heartbeat_received_foreign",
            "fabric_connections",
            "fabric_connections_opened",
        ] {
            assert_ne!(client.figure("statistics", counter).unwrap(), 0, "{counter}");
        }
        assert_eq!(client.info_value("partition-generation").unwrap(), "0");
        for other in (0..3).filter(|other| *other != number) {
            let entry = format!("[A{other},,[{}]]", nodes.servers[other].address());
            nodes.await_info(number, "peers-clear-std", &entry);
        }
    }
    check_partitions(&nodes, &[0, 1, 2], 2);

    // One node is killed. The others continue without it.
    nodes.servers[2].kill9();
    let second = nodes.await_cluster(&[0, 1]);
    assert_ne!(second, key);
    check_partitions(&nodes, &[0, 1], 2);
    let peers = nodes.info(0, "peers-clear-std");
    assert!(peers.contains("[A1,,[") && !peers.contains("[A2,,["), "{peers}");
    assert!(nodes.info(0, "peers-clear-std:generation=2").contains("[A2,,]"));

    // The node comes back.
    nodes.servers[2].restart();
    let third = nodes.await_cluster(&[0, 1, 2]);
    assert_ne!(third, second);
    check_partitions(&nodes, &[0, 1, 2], 2);
    nodes.await_info(0, "peers-clear-std", "[A2,,[");

    // A node that stops leaves the cluster.
    nodes.servers[0].stop();
    nodes.await_cluster(&[1, 2]);
    check_partitions(&nodes, &[1, 2], 2);
}

#[test]
fn a_node_that_finds_no_other_is_a_cluster_alone() {
    let nodes = Nodes::start(1, IN_MEMORY);
    nodes.await_cluster(&[0]);
    assert_eq!(nodes.info(0, "replicas:max=1").split(',').next(), Some("test:0"));
    check_partitions(&nodes, &[0], 1);
}

#[test]
fn seeds_are_named_and_forgotten_while_it_runs() {
    let nodes = Nodes::start(1, IN_MEMORY);
    nodes.await_cluster(&[0]);
    assert_eq!(nodes.info(0, "tip:host=127.0.0.1;port=1"), "ok");
    assert_eq!(nodes.info(0, "tip-clear:host-port-list=127.0.0.1:1"), "ok");
    assert!(
        nodes.servers[0]
            .connect()
            .info_value("tip-clear:host-port-list=127.0.0.1:1")
            .is_ok_and(|answer| answer.starts_with("ERROR"))
    );
}

#[test]
fn bytes_of_strangers_do_no_harm() {
    let mut nodes = Nodes::start(2, IN_MEMORY);
    let key = nodes.await_cluster(&[0, 1]);
    for text in ["does not begin with a hello", "closing a connection", "dropped:"] {
        nodes.servers.iter_mut().for_each(|server| _ = server.allow(text));
    }
    let ports: Vec<u16> = ["heartbeat.port=", "fabric.port="]
        .iter()
        .map(|name| {
            let endpoints = nodes.info(0, "endpoints");
            let pair = endpoints.split(';').find_map(|pair| pair.strip_prefix(name)).unwrap();
            pair.parse().unwrap()
        })
        .collect();
    let hello = [0, 0, 0, 18, 0, 0, 0, 5, 1, 0, 0, 0, 1, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0x77];
    let mut state = 1_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    for round in 0..200 {
        for port in &ports {
            let mut stream = TcpStream::connect(("127.0.0.1", *port)).unwrap();
            let mut bytes: Vec<u8> = if round % 2 == 0 { hello.to_vec() } else { Vec::new() };
            // The header has some type and fits the bytes that follow.
            if round % 4 < 2 {
                bytes.extend([0, 0, 0, 50, 0, random() % 16]);
            }
            bytes.extend((0..50).map(|_| random()));
            // The node may have closed the connection already.
            let _ = stream.write_all(&bytes);
        }
    }
    assert_eq!(nodes.await_cluster(&[0, 1]), key);
}

/// The result of a node that does not serve the partition of a record.
const UNAVAILABLE: u8 = 11;

/// Asks one node after another until one serves the record.
fn ask(clients: &mut [Client], request: &Message) -> Message {
    for _ in 0..200 {
        for client in &mut *clients {
            let answer = client.ask(request).unwrap();
            if answer.result != UNAVAILABLE {
                return answer;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("nobody serves the record");
}

#[test]
fn acknowledged_writes_are_on_two_nodes() {
    const KEYS: usize = 400;
    let mut nodes = Nodes::start(3, IN_MEMORY);
    nodes.await_cluster(&[0, 1, 2]);
    let mut clients: Vec<Client> = nodes.servers.iter().map(Server::connect).collect();
    let key = |number: usize| format!("key-{number}");
    for number in 0..KEYS {
        for round in 0..3 {
            let put = Message::put(&key(number), vec![round, number as u8]);
            assert_eq!(ask(&mut clients, &put).result, result::OK);
        }
        if number % 10 == 0 {
            assert_eq!(ask(&mut clients, &Message::delete(&key(number))).result, result::OK);
        }
        if number % 20 == 0 {
            let put = Message::put(&key(number), vec![9, number as u8]);
            assert_eq!(ask(&mut clients, &put).result, result::OK);
        }
    }
    let live = KEYS - KEYS / 10 + KEYS / 20;
    let objects: u64 =
        clients.iter_mut().map(|client| client.figure("namespace/test", "objects").unwrap()).sum();
    assert_eq!(objects, 2 * live as u64, "each record is on two nodes");

    nodes.servers[1].kill9();
    nodes.await_members(&[0, 2]);
    let mut clients: Vec<Client> = [0, 2].iter().map(|number| nodes.servers[*number].connect()).collect();
    for number in 0..KEYS {
        let answer = ask(&mut clients, &Message::get(&key(number)));
        if number % 10 == 0 && number % 20 != 0 {
            assert_eq!(answer.result, result::NOT_FOUND, "key {number} was deleted");
            continue;
        }
        let round = if number % 20 == 0 { 9 } else { 2 };
        assert_eq!(answer.result, result::OK, "key {number}");
        assert_eq!(answer.operations[0].value, [round, number as u8], "key {number}");
    }
    // Writes still succeed.
    for number in 0..KEYS {
        assert_eq!(ask(&mut clients, &Message::put(&key(number), vec![7])).result, result::OK);
    }
}

#[test]
fn writers_of_one_record_take_turns() {
    let nodes = Nodes::start(2, IN_MEMORY);
    nodes.await_cluster(&[0, 1]);
    let add = |number: u8| {
        Message::write("counter").with_operation(Operation::integer(operation::INCR, "n", number.into()))
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut clients: Vec<Client> = nodes.servers.iter().map(Server::connect).collect();
                for _ in 0..100 {
                    assert_eq!(ask(&mut clients, &add(1)).result, result::OK);
                }
            });
        }
    });
    let mut clients: Vec<Client> = nodes.servers.iter().map(Server::connect).collect();
    let answer = ask(&mut clients, &Message::get("counter"));
    assert_eq!(answer.bin("n"), Some(&400_u64.to_be_bytes()[..]));
    assert_eq!(answer.generation, 400);
    for client in &mut clients {
        assert_eq!(client.figure("namespace/test", "objects").unwrap(), 1);
        assert_eq!(client.figure("statistics", "rw_in_progress").unwrap(), 0);
    }
}
