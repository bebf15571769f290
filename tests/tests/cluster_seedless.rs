//! Nodes without seeds: they listen for others, and serve alone at once, unless they have ever been in a
//! cluster with others.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use ferrospike_tests::nodes::{IN_MEMORY, Nodes};
use ferrospike_tests::ports::free_port;
use ferrospike_tests::server::{Server, usual_config};
use ferrospike_tests::wire::{Message, result};
use nix::sys::signal::Signal;

/// A namespace on a file, with two copies of each record.
const ON_FILE: &str = "
namespace test {
    replication-factor 2
    storage-engine device {
        file {dir}/test.dat
        filesize 128M
        commit-to-device true
    }
}
";
const KEYS: usize = 100;
/// A part of the log line at the start of a node that has been in a cluster with others.
const WAITS: &str = "it waits for those that it knew";

fn key(number: usize) -> String {
    format!("key-{number}")
}

fn patient(request: Message) -> Message {
    Message { transaction_ttl: 20_000, ..request }
}

/// Writes all keys. No request may wait for a cluster.
fn write_all(nodes: &Nodes, number: usize, value: u8) {
    let mut client = nodes.servers[number].connect();
    for key in (0..KEYS).map(key) {
        assert_eq!(client.ask(&Message::put(&key, vec![value])).unwrap().result, result::OK, "{key}");
    }
}

/// Reads all keys.
fn read_all(nodes: &Nodes, number: usize, value: u8) {
    let mut client = nodes.servers[number].connect();
    for key in (0..KEYS).map(key) {
        let answer = client.ask(&patient(Message::get(&key))).unwrap();
        assert_eq!((answer.result, answer.bin("b")), (result::OK, Some(&[value][..])), "{key}");
    }
}

/// The text of the log after its first `length` bytes.
fn said_since(nodes: &Nodes, number: usize, length: usize) -> String {
    nodes.servers[number].log().split_off(length)
}

#[test]
fn a_node_without_seeds_listens_and_serves_at_once() {
    let nodes = Nodes::start_seedless(1, IN_MEMORY);
    write_all(&nodes, 0, 1);
    assert_eq!(nodes.info(0, "partition-generation"), "0");
    let [heartbeat, fabric] = nodes.ports(0);
    assert_eq!(nodes.info(0, "mesh"), format!("127.0.0.1:{heartbeat}"));
    let endpoints = nodes.info(0, "endpoints");
    for (kind, port) in [("heartbeat", heartbeat), ("fabric", fabric)] {
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        let pairs = format!(";{kind}.port={port};{kind}.addresses=127.0.0.1;{kind}.tls-port=0;");
        assert!(endpoints.contains(&pairs), "{endpoints}");
    }
    let network = nodes.info(0, "get-config:context=network");
    assert!(network.contains(&format!(";heartbeat.port={heartbeat};")), "{network}");
    assert!(!network.contains("heartbeat.mtu=0;"), "{network}");
    let statistics = nodes.info(0, "statistics");
    for pair in ["cluster_size=1", "cluster_principal=A0", "cluster_integrity=true", "cluster_is_member=true"]
    {
        assert!(statistics.split(';').any(|one| one == pair), "{pair} in {statistics}");
    }
    let figures = nodes.info(0, "namespace/test");
    assert!(figures.contains("effective_replication_factor=1;"), "{figures}");
    let log = nodes.servers[0].log();
    assert!(log.contains("no seed names another node: it serves alone"), "{log}");
    // The node is balanced before it accepts clients.
    assert!(log.find("rebalanced: expected").unwrap() < log.find("service ready").unwrap(), "{log}");
}

#[test]
fn a_pause_of_a_node_that_is_alone_does_no_harm() {
    let nodes = Nodes::start_seedless(1, IN_MEMORY);
    write_all(&nodes, 0, 1);
    let length = nodes.servers[0].log().len();
    nodes.servers[0].signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(2_500));
    nodes.servers[0].signal(Signal::SIGCONT);
    write_all(&nodes, 0, 2);
    let said = said_since(&nodes, 0, length);
    assert!(!said.contains("did not run for") && !said.contains("cluster changed"), "{said}");
}

#[test]
fn nodes_without_seeds_become_one_cluster_by_a_tip() {
    let nodes = Nodes::start_seedless(2, IN_MEMORY);
    write_all(&nodes, 0, 1);
    let nobody = free_port();
    assert_eq!(nodes.info(0, &format!("tip:host=127.0.0.1;port={nobody}")), "ok");
    nodes.bring_together_from(1, 0);
    nodes.await_cluster(&[0, 1]);
    (0..2).for_each(|number| read_all(&nodes, number, 1));
    // The log names a seed at which no node listens, but not each time that it is tried.
    let unreached = format!("seeds that cannot be reached: 127.0.0.1:{nobody}");
    nodes.servers[0].await_log(&unreached);
    let length = nodes.servers[0].log().len();
    std::thread::sleep(Duration::from_secs(2));
    assert!(said_since(&nodes, 0, length).matches(&unreached).count() <= 1);
    assert!(!nodes.servers[1].log().contains("cannot be reached"));
    assert_eq!(nodes.info(0, &format!("tip-clear:host-port-list=127.0.0.1:{nobody}")), "ok");
}

#[test]
fn a_node_alone_with_records_on_a_file_serves_at_once_after_a_restart() {
    let mut nodes = Nodes::start_seedless(1, ON_FILE);
    write_all(&nodes, 0, 1);
    for is_killed in [false, true] {
        if is_killed {
            nodes.servers[0].kill9();
        } else {
            nodes.servers[0].stop();
        }
        let length = nodes.servers[0].log().len();
        nodes.servers[0].restart();
        assert_eq!(nodes.info(0, "partition-generation"), "0");
        let mut client = nodes.servers[0].connect();
        let answer = client.ask(&Message::get(&key(0))).unwrap();
        assert_eq!((answer.result, answer.bin("b")), (result::OK, Some(&[1][..])));
        read_all(&nodes, 0, 1);
        let said = said_since(&nodes, 0, length);
        assert!(said.contains("found 0 absent, 4096 stored"), "{said}");
        assert!(said.contains("fresh-partitions 0") && said.contains("it serves alone"), "{said}");
    }
}

/// After a restart, a node that was in a cluster with others has old records or none: it must not accept
/// writes before it has found the others.
#[test]
fn a_node_that_was_in_a_cluster_waits_for_the_others_after_a_restart() {
    for namespaces in [IN_MEMORY, ON_FILE] {
        let mut nodes = Nodes::start_around_first(2, namespaces);
        nodes.await_cluster(&[0, 1]);
        let mut client = nodes.servers[1].connect();
        for key in (0..KEYS).map(key) {
            let put = patient(Message::put(&key, vec![1]));
            assert_eq!(client.ask(&put).unwrap().result, result::OK, "{key}");
        }
        nodes.servers[0].kill9();
        let length = nodes.servers[0].log().len();
        nodes.servers[0].restart();
        let said = said_since(&nodes, 0, length);
        assert!(said.contains(WAITS), "{said}");
        nodes.await_cluster(&[0, 1]);
        (0..2).for_each(|number| read_all(&nodes, number, 1));
        let said = said_since(&nodes, 0, length);
        assert!(!said.contains("cluster changed: size 1"), "{said}");
        // The other node may have been alone later, so this node waits even if it was alone at the end.
        nodes.servers[1].kill9();
        nodes.await_members(&[0]);
        nodes.servers[0].kill9();
        nodes.servers[1].restart();
        nodes.await_cluster(&[1]);
        let mut client = nodes.servers[1].connect();
        for key in (0..KEYS).map(key) {
            let put = patient(Message::put(&key, vec![2]));
            assert_eq!(client.ask(&put).unwrap().result, result::OK, "{key}");
        }
        let length = nodes.servers[0].log().len();
        nodes.servers[0].restart();
        nodes.await_cluster(&[0, 1]);
        (0..2).for_each(|number| read_all(&nodes, number, 2));
        let said = said_since(&nodes, 0, length);
        assert!(said.contains(WAITS) && !said.contains("cluster changed: size 1"), "{said}");
        // An operator who knows that it stays alone makes it start alone.
        nodes.servers[1].kill9();
        nodes.await_members(&[0]);
        nodes.servers[0].stop();
        fs::remove_file(nodes.servers[0].folder().join("in-cluster")).unwrap();
        nodes.servers[0].restart();
        write_all(&nodes, 0, 3);
    }
}

#[test]
fn company_is_noted_before_the_first_cluster_with_others() {
    let mut nodes = Nodes::start_seedless(2, IN_MEMORY);
    nodes.servers[0].stop();
    // The work directory is created for the note.
    let config = nodes.config(0).replacen("work-directory {dir}", "work-directory {dir}/not/there", 1);
    nodes.servers[0].configure(&config);
    nodes.servers[0].restart();
    assert!(!nodes.servers[0].folder().join("not").exists());
    nodes.bring_together_from(1, 0);
    nodes.await_members(&[0, 1]);
    let log = nodes.servers[0].log();
    let noted = log.find("/not/there/in-cluster that there are other nodes").unwrap();
    assert!(noted < log.find("cluster changed: size 2").unwrap(), "{log}");
    nodes.servers[0].stop();
    let length = nodes.servers[0].log().len();
    nodes.servers[0].restart();
    let said = said_since(&nodes, 0, length);
    assert!(said.contains(WAITS), "{said}");
}

#[test]
fn a_node_whose_seeds_were_removed_waits_for_the_others_too() {
    let mut nodes = Nodes::start_around_first(2, IN_MEMORY);
    nodes.await_members(&[0, 1]);
    let config = nodes.config(1);
    let lines = config.lines().filter(|line| !line.contains("mesh-seed-address-port"));
    nodes.servers[1].configure(&lines.collect::<Vec<_>>().join("\n"));
    nodes.servers[1].stop();
    let length = nodes.servers[1].log().len();
    nodes.servers[1].restart();
    let said = said_since(&nodes, 1, length);
    assert!(said.contains(WAITS), "{said}");
}

#[test]
fn company_that_cannot_be_noted_is_warned_of() {
    let mut nodes = Nodes::start_seedless(2, IN_MEMORY);
    let warning = "cannot note in the work directory that there are other nodes";
    nodes.servers[0].allow(warning);
    std::os::unix::fs::symlink("no/where", nodes.servers[0].folder().join("in-cluster")).unwrap();
    nodes.bring_together_from(1, 0);
    nodes.await_members(&[0, 1]);
    assert!(nodes.servers[0].log().contains(warning));
}

#[test]
fn seeds_are_not_warned_of_while_heartbeats_are_switched_off() {
    let nodes = Nodes::start_seedless(1, IN_MEMORY);
    let protocol = |name| nodes.info(0, &format!("set-config:context=network;heartbeat.protocol={name}"));
    assert_eq!(protocol("none"), "ok");
    assert_eq!(nodes.info(0, &format!("tip:host=127.0.0.1;port={}", free_port())), "ok");
    std::thread::sleep(Duration::from_secs(4));
    assert!(!nodes.servers[0].log().contains("cannot be reached"));
    assert_eq!(protocol("v3"), "ok");
    nodes.servers[0].await_log("seeds that cannot be reached");
}

#[test]
fn a_node_that_needs_others_does_not_say_that_it_serves_alone() {
    let mut nodes = Nodes::start_seedless(2, IN_MEMORY);
    nodes.servers[0].stop();
    let config = nodes.config(0).replacen("service {", "service {\n    min-cluster-size 2", 1);
    nodes.servers[0].configure(&config);
    let length = nodes.servers[0].log().len();
    nodes.servers[0].restart();
    let said = said_since(&nodes, 0, length);
    assert!(said.contains("it waits until there are as many as min-cluster-size, and others may connect"));
    assert!(!said.contains("serves alone"), "{said}");
    nodes.bring_together_from(1, 0);
    nodes.await_members(&[0, 1]);
}

#[test]
fn a_node_without_a_fabric_port_opens_no_ports_for_others() {
    let heartbeat = free_port();
    let network = format!("network {{\nheartbeat {{\nmode mesh\naddress 127.0.0.1\nport {heartbeat}\n}}\n");
    let mut server = Server::start(&usual_config().replacen("network {", &network, 1));
    server.allow("other nodes cannot connect: there is no port in network.fabric");
    server.allow("' answered with ERROR:");
    assert!(server.log().contains("other nodes cannot connect"));
    assert!(TcpStream::connect(("127.0.0.1", heartbeat)).is_err());
    let mut client = server.connect();
    assert_eq!(client.ask(&Message::put("key", vec![1])).unwrap().result, result::OK);
    let refusal = "ERROR:16:this node was started without ports for others";
    assert!(client.info_value("tip:host=127.0.0.1;port=3002").unwrap().starts_with(refusal));
    assert_eq!(client.info_value("recluster:").unwrap(), "ok");
}
