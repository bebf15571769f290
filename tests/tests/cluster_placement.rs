//! Placement of replicas in a cluster: racks, a rack with all masters, uniform balance, quiesced nodes; and a
//! cluster of sixteen nodes.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::nodes::{IN_MEMORY, Nodes};
use ferrospike_tests::server::Server;
use ferrospike_tests::wire::{Message, result};

fn ask(nodes: &Nodes, number: usize, command: &str) {
    assert_eq!(nodes.info(number, command), "ok", "{command} at node {number}");
}

fn set(nodes: &Nodes, number: usize, parameter: &str) {
    ask(nodes, number, &format!("set-config:context=namespace;id=test;{parameter}"));
}

fn figure(nodes: &Nodes, number: usize, name: &str) -> String {
    let all = nodes.info(number, "namespace/test");
    all.split(';').find_map(|pair| pair.strip_prefix(&format!("{name}="))).unwrap().to_owned()
}

/// Reclusters until `is_in_effect` holds for all nodes. A rebalance in progress may have begun before the
/// settings changed.
fn recluster_until(nodes: &Nodes, numbers: &[usize], is_in_effect: impl Fn(usize) -> bool) {
    let began = Instant::now();
    recluster(nodes, numbers);
    while !numbers.iter().all(|number| is_in_effect(*number)) {
        assert!(began.elapsed() < Duration::from_secs(60), "the settings are not in effect");
        recluster(nodes, numbers);
    }
}

/// Makes the principal, the last node, recluster, and waits until that is done.
fn recluster(nodes: &Nodes, numbers: &[usize]) {
    let generation = |number: &usize| nodes.info(*number, "rebalance-generation").parse::<u64>().unwrap();
    let before: Vec<u64> = numbers.iter().map(generation).collect();
    let began = Instant::now();
    while numbers.iter().map(generation).zip(&before).any(|(now, before)| now <= *before) {
        assert!(began.elapsed() < Duration::from_secs(60), "no rebalance");
        // The command is ignored until heartbeats show that all nodes have the same cluster.
        ask(nodes, *numbers.last().unwrap(), "recluster:");
        std::thread::sleep(Duration::from_millis(500));
    }
    nodes.await_cluster(numbers);
}

/// The nodes with the replicas of each partition, the master first.
fn replicas(nodes: &Nodes, numbers: &[usize]) -> BTreeMap<usize, BTreeMap<usize, usize>> {
    let mut replicas = BTreeMap::<usize, BTreeMap<usize, usize>>::new();
    for number in numbers {
        for row in nodes.info(*number, "partition-info").split(';').skip(1) {
            let columns: Vec<&str> = row.split(':').collect();
            if let Ok(place) = columns[4].parse::<usize>() {
                replicas.entry(columns[1].parse().unwrap()).or_default().insert(place, *number);
            }
        }
    }
    assert!(replicas.len() == 4096 && replicas.values().all(|nodes| nodes.len() == 2));
    replicas
}

#[test]
fn racks_have_a_copy_each() {
    let all = [0, 1, 2, 3];
    let nodes = Nodes::start(4, IN_MEMORY);
    nodes.await_cluster(&all);
    assert_eq!(nodes.info(0, "racks:"), "ns=test:rack_0=A3,A2,A1,A0");
    assert_eq!(nodes.info(0, "recluster:"), "ignored-by-non-principal");
    let rack = |number: usize| number / 2 + 1;
    for number in all {
        set(&nodes, number, &format!("rack-id={}", rack(number)));
    }
    // The settings have no effect before the cluster is formed again.
    assert_eq!(nodes.info(0, "rack-ids"), "test:0");
    recluster_until(&nodes, &all, |number| {
        nodes.info(number, "rack-ids") == format!("test:{}", rack(number))
    });
    for number in all {
        assert_eq!(nodes.info(number, "racks:namespace=test"), "rack_1=A1,A0:rack_2=A3,A2");
    }
    let placed = replicas(&nodes, &all);
    assert!(placed.values().all(|nodes| rack(nodes[&0]) != rack(nodes[&1])), "a copy on each rack");

    all.iter().for_each(|number| set(&nodes, *number, "prefer-uniform-balance=true"));
    recluster_until(&nodes, &all, |number| {
        figure(&nodes, number, "effective_prefer_uniform_balance") == "true"
    });
    let placed = replicas(&nodes, &all);
    assert!(placed.values().all(|nodes| rack(nodes[&0]) != rack(nodes[&1])));

    all.iter().for_each(|number| set(&nodes, *number, "active-rack=2"));
    recluster_until(&nodes, &all, |number| figure(&nodes, number, "effective_active_rack") == "2");
    let placed = replicas(&nodes, &all);
    assert!(placed.values().all(|nodes| rack(nodes[&0]) == 2 && rack(nodes[&1]) == 1));
}

#[test]
fn a_quiesced_node_hands_its_partitions_over() {
    let all = [0, 1, 2];
    let nodes = Nodes::start(3, IN_MEMORY);
    nodes.await_cluster(&all);
    let before = replicas(&nodes, &all);
    ask(&nodes, 1, "quiesce:");
    let state = |number: usize| {
        ["pending_quiesce", "effective_is_quiesced", "nodes_quiesced"]
            .map(|name| figure(&nodes, number, name))
    };
    assert_eq!(state(1), ["true", "false", "0"]);
    recluster(&nodes, &all);
    assert_eq!(state(1), ["true", "true", "1"]);
    assert_eq!(state(0), ["false", "false", "1"]);
    let placed = replicas(&nodes, &[0, 2]);
    assert!(placed.values().flat_map(BTreeMap::values).all(|node| *node != 1));
    // The node still answers, by forwarding requests.
    let mut client = nodes.servers[1].connect();
    assert_eq!(client.ask(&Message::get("quiesced")).unwrap().result, result::NOT_FOUND);
    assert_eq!(client.figure("namespace/test", "client_proxy_complete").unwrap(), 1);
    ask(&nodes, 1, "quiesce-undo:");
    recluster(&nodes, &all);
    assert_eq!(state(1), ["false", "false", "0"]);
    assert_eq!(replicas(&nodes, &all), before);
}

#[test]
fn sixteen_nodes_form_one_cluster_and_lose_five() {
    let all: Vec<usize> = (0..16).collect();
    let mut nodes = Nodes::start(16, IN_MEMORY);
    nodes.await_cluster(&all);
    let key = |number: usize| format!("many-{number}");
    let write_and_read = |nodes: &Nodes, alive: &[usize], round: u8| {
        let mut clients: Vec<Client> = alive.iter().map(|number| nodes.servers[*number].connect()).collect();
        let count = clients.len();
        for number in 0..200 {
            let patient = |request| Message { transaction_ttl: 20_000, ..request };
            let put = patient(Message::put(&key(number), vec![round]));
            assert_eq!(clients[number % count].ask(&put).unwrap().result, result::OK);
            let found = clients[(number + 1) % count].ask(&patient(Message::get(&key(number)))).unwrap();
            assert_eq!(found.bin("b"), Some(&[round][..]));
        }
    };
    write_and_read(&nodes, &all, 0);
    let mut alive = all.clone();
    for round in 1..=5 {
        let lost = alive.remove(3);
        nodes.servers[lost].kill9();
        nodes.await_members(&alive);
        write_and_read(&nodes, &alive, round);
    }
    for lost in all.iter().filter(|number| !alive.contains(number)) {
        nodes.servers[*lost].restart();
    }
    nodes.await_members(&all);
    let connected: Vec<Client> = nodes.servers.iter().map(Server::connect).collect();
    assert_eq!(connected.len(), 16);
    write_and_read(&nodes, &all, 6);
}
