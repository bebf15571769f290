//! Panics in the threads of a cluster: connections between nodes are made again, migrations end, and the
//! nodes stay one cluster. A panic in the cluster thread or the metadata thread ends the process, and other
//! nodes take over.

use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::client::PATIENCE;
use ferrospike_tests::nodes::Nodes;
use ferrospike_tests::wire::{Message, result};

use super::{SIGABRT, can_inject};

/// A namespace whose records have two copies, and one whose records move.
const NAMESPACES: &str = "
namespace test {
    replication-factor 2
    storage-engine memory {
        data-size 512M
    }
}
namespace bar {
    replication-factor 1
    storage-engine memory {
        data-size 512M
    }
}
";
const RECORDS: usize = 400;
/// Number of connections between two nodes, 12 from each.
const CONNECTIONS: u64 = 24;
/// Time between checks whether a node has passed a point.
const PAUSE: Duration = Duration::from_millis(10);

fn record(namespace: &str, number: usize) -> Message {
    Message::on_record(namespace, "rig", &format!("key {number}"))
}

fn put(namespace: &str, number: usize) -> Message {
    let Message { info2, operations, .. } = Message::put("any", vec![7; 100]);
    Message { info2, operations, ..record(namespace, number) }
}

fn get(namespace: &str, number: usize) -> Message {
    let Message { info1, .. } = Message::get("any");
    Message { info1, ..record(namespace, number) }
}

/// Asks until the result is OK. The first one is, unless connections between the nodes are broken.
fn ask(nodes: &Nodes, number: usize, request: &Message) {
    let (began, mut client) = (Instant::now(), nodes.servers[number].connect());
    loop {
        let answer = client.ask(request).expect("an answer");
        if answer.result == result::OK {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "result {}", answer.result);
        thread::sleep(PAUSE);
    }
}

fn all_are_there(nodes: &Nodes) {
    for number in 0..RECORDS {
        ask(nodes, number % 2, &get("test", number));
        ask(nodes, number % 2, &get("bar", number));
    }
}

/// Waits until a figure of a node has this value.
fn await_figure(nodes: &Nodes, number: usize, (name, figure): (&str, &str), expected: u64) {
    let (began, mut client) = (Instant::now(), nodes.servers[number].connect());
    loop {
        let now = client.figure(name, figure).expect("a figure");
        if now == expected {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{figure} of node {number} is {now}, not {expected}");
        thread::sleep(PAUSE);
    }
}

/// Makes node 0 panic at `point`, which it passes when records are written. With `breaker`, it passes the
/// point when a connection breaks: node 1 then panics at `breaker`, which breaks the connection.
fn panic_at(nodes: &mut Nodes, point: &str, breaker: Option<&str>) {
    nodes.servers[0].inject_fault(point);
    let mut number = 0;
    while nodes.servers[0].has_fault(point) {
        if let Some(breaker) = breaker {
            nodes.servers[1].inject_fault(breaker);
        }
        ask(nodes, 1, &put("test", number % RECORDS));
        assert!(number < 3000, "{point} is never passed");
        number += 1;
        thread::sleep(PAUSE);
    }
}

#[test]
fn a_cluster_goes_on() {
    if !can_inject() {
        return;
    }
    let mut nodes = Nodes::start_some(2, 0, NAMESPACES);
    nodes.start_next_with_faults();
    nodes.await_cluster(&[0]);
    for number in 0..RECORDS {
        ask(&nodes, 0, &put("test", number));
        ask(&nodes, 0, &put("bar", number));
    }
    // Each panic happens while partitions migrate to the second node.
    let moving = [(0, "emigration"), (0, "hand-over"), (0, "tree-removal"), (1, "immigration")];
    for point in ["emigration", "hand-over", "tree-removal"] {
        nodes.servers[0].inject_fault(point);
    }
    nodes.start_next_with_faults();
    nodes.servers[1].inject_fault("immigration");
    nodes.servers.iter_mut().for_each(|server| _ = server.allow("an internal error"));
    nodes.await_cluster(&[0, 1]);
    moving.iter().for_each(|(number, point)| nodes.servers[*number].await_fault(point));
    all_are_there(&nodes);
    let own = nodes.servers[1].connect().figure("namespace/bar", "objects").expect("a figure");
    await_figure(&nodes, 0, ("namespace/bar", "objects"), RECORDS as u64 - own);

    // Each point must be passed twice, because a thread that has ended passes no point.
    for _ in 0..2 {
        for point in ["fabric-event", "fabric-message", "fabric-send", "replica-resend"] {
            panic_at(&mut nodes, point, None);
        }
        for point in ["fabric-accept", "fabric-adopt", "fabric-dial"] {
            panic_at(&mut nodes, point, Some("fabric-event"));
        }
        for number in 0..2 {
            await_figure(&nodes, number, ("statistics", "fabric_connections"), CONNECTIONS);
        }
        for point in ["heartbeat-tick", "heartbeat-pulse", "heartbeat-event"] {
            panic_at(&mut nodes, point, None);
        }
        for point in ["heartbeat-accept", "heartbeat-connect"] {
            panic_at(&mut nodes, point, Some("heartbeat-event"));
        }
        nodes.servers[0].inject_fault("heartbeat-dns");
        assert_eq!(nodes.info(0, "tip:host=localhost;port=1"), "ok");
        nodes.servers[0].await_fault("heartbeat-dns");
    }
    nodes.await_cluster(&[0, 1]);
    all_are_there(&nodes);

    for (number, point) in [(1, "metadata"), (0, "cluster")] {
        let server = &mut nodes.servers[number];
        server.inject_fault(point);
        assert_eq!(server.await_abort(), Some(SIGABRT), "{point}");
        server.check_log();
        if number == 1 {
            nodes.await_cluster(&[0]);
        }
    }
}
