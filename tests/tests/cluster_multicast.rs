//! Nodes that find each other by multicast, on the loopback interface.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::nodes::{IN_MEMORY, Nodes};
use ferrospike_tests::server::Server;
use ferrospike_tests::wire::{Message, result};

/// Sends datagrams to the nodes' group that no node has sent.
fn disturb(group: (Ipv4Addr, u16)) {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let socket = socket2::Socket::from(socket);
    socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
    let socket = UdpSocket::from(socket);
    for size in [0, 1, 5, 6, 100, 1400] {
        socket.send_to(&vec![0xA5; size], group).unwrap();
    }
    // The header announces a message that is larger than the datagram.
    socket.send_to(&[0x7F, 0xFF, 0xFF, 0xFF, 0, 5, 0, 6, 6], group).unwrap();
}

#[test]
fn nodes_find_each_other_by_multicast() {
    let mut nodes = Nodes::start_by_multicast(3, 3, IN_MEMORY);
    let key = nodes.await_cluster(&[0, 1, 2]);
    let group = nodes.multicast_group();
    assert_eq!(nodes.info(0, "mcast"), format!("{}:{}", group.0, group.1));
    for number in 0..3 {
        assert_eq!(nodes.info(number, "get-sl"), "A2,A1,A0");
        let mut client = nodes.servers[number].connect();
        for counter in ["heartbeat_received_self", "heartbeat_received_foreign"] {
            assert_ne!(client.figure("statistics", counter).unwrap(), 0, "{counter}");
        }
        assert!(client.info_value("tip:host=127.0.0.1;port=1").unwrap().starts_with("ERROR"));
    }
    disturb(group);
    let mut clients: Vec<_> = nodes.servers.iter().map(Server::connect).collect();
    for number in 0..20_usize {
        let (name, value) = (format!("by-multicast-{number}"), vec![number as u8; 100]);
        let put = clients[number % 3].ask(&Message::put(&name, value.clone())).unwrap();
        assert_eq!(put.result, result::OK, "{name}");
        let found = clients[(number + 1) % 3].ask(&Message::get(&name)).unwrap();
        assert_eq!(found.bin("b"), Some(&value[..]), "{name}");
    }
    assert_eq!(nodes.await_cluster(&[0, 1, 2]), key, "datagrams of strangers change nothing");

    // One node is killed and comes back.
    nodes.servers[2].kill9();
    assert_ne!(nodes.await_members(&[0, 1]), key);
    nodes.servers[2].restart();
    nodes.await_members(&[0, 1, 2]);
}

#[test]
fn clusters_with_different_names_share_a_group() {
    let mut nodes = Nodes::start_by_multicast(2, 1, IN_MEMORY);
    let other = nodes.config(1).replace("cluster-name tests", "cluster-name others");
    nodes.servers.push(Server::start(&other));
    for number in 0..2 {
        nodes.servers[number].allow("unstable cluster");
        nodes.await_cluster(&[number]);
    }
    for number in 0..2 {
        let before =
            nodes.servers[number].connect().figure("statistics", "heartbeat_received_foreign").unwrap();
        let began = Instant::now();
        while nodes.servers[number].connect().figure("statistics", "heartbeat_received_foreign").unwrap()
            < before + 5
        {
            assert!(began.elapsed() < Duration::from_secs(30), "no pulse of the other cluster came");
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(nodes.servers[number].connect().figure("statistics", "cluster_size").unwrap(), 1);
    }
}
