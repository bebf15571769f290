//! Copies on replicas: they are on disk if that is requested, and compressed if that is configured. Writers
//! of one record wait for them without delaying others.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ferrospike_tests::client::Client;
use ferrospike_tests::nodes::{IN_MEMORY, Nodes};
use ferrospike_tests::server::Server;
use ferrospike_tests::wire::{Message, Operation, field, info2, operation, result};
use nix::sys::signal::Signal;

/// A namespace whose blocks the server does not flush by itself during a test.
const COMMITTED: &str = "
namespace test {
    replication-factor 2
    storage-engine device {
        file {dir}/test.dat
        filesize 256M
        commit-to-device true
        flush-max-ms 30000
    }
}
";
const COMPRESSED: &str = "
namespace test {
    replication-factor 2
    storage-engine device {
        file {dir}/test.dat
        filesize 256M
        compression lz4
    }
}
";
const KEY_BUSY: u8 = 14;
/// Time from the signal until all threads of a process have stopped.
const STOPPED: Duration = Duration::from_millis(100);
/// A node that sleeps for less than this does not count as gone.
const SLEEP_MAX: Duration = Duration::from_millis(1200);

fn patient(request: Message) -> Message {
    Message { transaction_ttl: 20_000, ..request }
}

#[test]
fn a_replica_acknowledges_a_write_after_it_is_on_disk() {
    const KEYS: usize = 60;
    let mut nodes = Nodes::start(2, COMMITTED);
    nodes.await_cluster(&[0, 1]);
    let key = |number: usize| format!("committed-{number}");
    let mut client = nodes.servers[0].connect();
    for number in 0..KEYS {
        let put = patient(Message::put(&key(number), vec![number as u8]));
        assert_eq!(client.ask(&put).unwrap().result, result::OK);
    }
    nodes.servers[1].kill9();
    nodes.servers[0].kill9();
    // Each node has all records, half of them as replica.
    for alone in 0..2 {
        nodes.servers[alone].restart();
        nodes.await_members(&[alone]);
        let mut client = nodes.servers[alone].connect();
        for number in 0..KEYS {
            let answer = client.ask(&patient(Message::get(&key(number)))).unwrap();
            assert_eq!(answer.bin("b"), Some(&[number as u8][..]), "key {number} at node {alone}");
        }
        nodes.servers[alone].kill9();
    }
}

#[test]
fn copies_of_other_nodes_are_compressed() {
    const KEYS: u64 = 200;
    const SIZE: usize = 10_000;
    let mut nodes = Nodes::start_some(3, 2, COMPRESSED);
    nodes.await_cluster(&[0, 1]);
    let mut client = nodes.servers[0].connect();
    for number in 0..KEYS {
        let put = patient(Message::put(&format!("packed-{number}"), vec![7; SIZE]));
        assert_eq!(client.ask(&put).unwrap().result, result::OK);
    }
    let check = |server: &Server| {
        let mut client = server.connect();
        let mut figure = |name: &str| client.figure("namespace/test", name).unwrap();
        let (objects, bytes) = (figure("objects"), figure("data_used_bytes"));
        assert!(objects > KEYS / 3 && bytes < objects * SIZE as u64 / 10, "{objects} records, {bytes} bytes");
    };
    nodes.servers.iter().for_each(check);
    // Migrated copies are compressed as well.
    nodes.start_next();
    nodes.await_cluster(&[0, 1, 2]);
    check(&nodes.servers[2]);
}

/// A key whose master is node 0.
fn own_key(client: &mut Client, prefix: &str) -> String {
    for number in 0.. {
        let before = client.figure("namespace/test", "client_proxy_complete").unwrap();
        let key = format!("{prefix}-{number}");
        // A delete is used, because the replica would answer a read too.
        client.ask(&Message::delete(&key)).unwrap();
        if client.figure("namespace/test", "client_proxy_complete").unwrap() == before {
            return key;
        }
    }
    unreachable!("half of all keys are")
}

/// Clients each of which has sent a request to node 0 and waits for the answer.
fn send_all(nodes: &Nodes, count: usize, request: &Message) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| nodes.servers[0].connect()).collect();
    clients.iter_mut().for_each(|client| client.send(&patient(request.clone()).encode()).unwrap());
    clients
}

#[test]
fn writers_of_a_hot_key_keep_no_thread() {
    const WRITERS: usize = 80;
    let nodes = Nodes::start(2, IN_MEMORY);
    nodes.await_cluster(&[0, 1]);
    let mut client = nodes.servers[0].connect();
    let set = "set-config:context=namespace;id=test;transaction-pending-limit=0";
    assert_eq!(client.info_value(set).unwrap(), "ok");
    let content = BASE64_STANDARD.encode("function get(r) return 5 end\n");
    let put = format!("udf-put:filename=m.lua;content-len={};content={content};", content.len());
    assert_eq!(client.info_value(&put).unwrap(), "ok");
    let (hot, other) = (own_key(&mut client, "hot"), own_key(&mut client, "other"));
    let add = Message::write(&hot).with_operation(Operation::integer(operation::INCR, "n", 1));
    // A function runs in the pool.
    let call = Message { info2: info2::WRITE, ..Message::on(&other) }
        .with_field(field::UDF_FILE, b"m")
        .with_field(field::UDF_FUNCTION, b"get")
        .with_field(field::UDF_ARGUMENTS, &[0x90]);
    nodes.servers[1].signal(Signal::SIGSTOP);
    std::thread::sleep(STOPPED);
    let mut writers = send_all(&nodes, WRITERS, &add);
    std::thread::sleep(STOPPED);
    // The first write ends. The others follow one after another until the replica sleeps again.
    nodes.servers[1].signal(Signal::SIGCONT);
    assert_eq!(writers[0].receive_message().unwrap().result, result::OK);
    nodes.servers[1].signal(Signal::SIGSTOP);
    std::thread::sleep(STOPPED);
    let asked = Instant::now();
    let answer = client.ask(&patient(call)).unwrap();
    let took = asked.elapsed();
    assert!(took < SLEEP_MAX / 2, "a function waited {took:?} for a pool");
    nodes.servers[1].signal(Signal::SIGCONT);
    assert_eq!(answer.bin("SUCCESS"), Some(&5_u64.to_be_bytes()[..]));
    for writer in &mut writers[1..] {
        assert_eq!(writer.receive_message().unwrap().result, result::OK);
    }
    let answer = client.ask(&patient(Message::get(&hot))).unwrap();
    assert_eq!(answer.bin("n"), Some(&(WRITERS as u64).to_be_bytes()[..]));
    assert_eq!(client.figure("statistics", "rw_in_progress").unwrap(), 0);
}

#[test]
fn the_number_of_waiting_writers_of_a_key_is_limited() {
    const WRITERS: usize = 12;
    const LIMIT: usize = 3;
    let nodes = Nodes::start(2, IN_MEMORY);
    nodes.await_cluster(&[0, 1]);
    let mut client = nodes.servers[0].connect();
    let set = format!("set-config:context=namespace;id=test;transaction-pending-limit={LIMIT}");
    assert_eq!(client.info_value(&set).unwrap(), "ok");
    let hot = own_key(&mut client, "hot");
    let add = Message::write(&hot).with_operation(Operation::integer(operation::INCR, "n", 1));
    nodes.servers[1].signal(Signal::SIGSTOP);
    std::thread::sleep(STOPPED);
    let mut writers = send_all(&nodes, WRITERS, &add);
    std::thread::sleep(STOPPED);
    nodes.servers[1].signal(Signal::SIGCONT);
    let results: Vec<u8> =
        writers.iter_mut().map(|writer| writer.receive_message().unwrap().result).collect();
    // One write is in progress, and one more than the limit waits, because the C server counts so.
    let done = results.iter().filter(|code| **code == result::OK).count();
    assert_eq!(
        (done, results.iter().filter(|code| **code == KEY_BUSY).count()),
        (LIMIT + 2, WRITERS - LIMIT - 2)
    );
    assert_eq!(client.figure("namespace/test", "fail_key_busy").unwrap(), (WRITERS - LIMIT - 2) as u64);
    let answer = client.ask(&patient(Message::get(&hot))).unwrap();
    assert_eq!(answer.bin("n"), Some(&(done as u64).to_be_bytes()[..]));
}

#[test]
fn operators_see_the_writes_that_wait_for_other_nodes() {
    let nodes = Nodes::start(2, IN_MEMORY);
    nodes.await_cluster(&[0, 1]);
    let mut client = nodes.servers[0].connect();
    for option in ["enable-hist-proxy=true", "transaction-pending-limit=0"] {
        let set = format!("set-config:context=namespace;id=test;{option}");
        assert_eq!(client.info_value(&set).unwrap(), "ok");
    }
    let set = "set-config:context=service;transaction-retry-ms=100";
    assert_eq!(client.info_value(set).unwrap(), "ok");
    let hot = own_key(&mut client, "hot");
    nodes.servers[1].signal(Signal::SIGSTOP);
    std::thread::sleep(STOPPED);
    let mut writers = send_all(&nodes, 3, &Message::put(&hot, vec![1]));
    std::thread::sleep(4 * STOPPED);
    let commands = ["dump-rw:", "dump-fabric:", "dump-hb:", "dump-cluster:", "dump-hlc:", "dump-skew:"];
    for command in commands.iter().chain(&["dump-migrates:verbose=true"]) {
        assert_eq!(client.info_value(command).unwrap(), "ok", "{command}");
    }
    nodes.servers[1].signal(Signal::SIGCONT);
    writers.iter_mut().for_each(|writer| assert_eq!(writer.receive_message().unwrap().result, result::OK));
    let server = &nodes.servers[0];
    for text in [
        "waits for a1, 2 writers wait for it",
        "node a1 alive, connections: rw ",
        "HB: node a0 interval",
        "HB: node a1 heard",
        "CL: node a0 is non-principal, integrity true",
        "HLC: ",
        "SKEW: node a1: ",
        "{test} migrations: emigrations 0",
    ] {
        server.await_log(text);
    }
    assert!(client.figure("namespace/test", "retransmit_all_write_repl_write").unwrap() > 0);
    assert_eq!(client.figure("namespace/test", "retransmit_all_delete_repl_write").unwrap(), 0);
    // Proxied requests are measured after the ticker has run twice.
    let began = Instant::now();
    let mut measured = String::new();
    while !measured.contains("}-proxy:msec,") && began.elapsed() < Duration::from_secs(30) {
        client.ask(&Message::delete("somewhere")).unwrap();
        client.ask(&Message::delete("elsewhere-2")).unwrap();
        client.ask(&Message::delete("elsewhere-3")).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        measured = client.info_value("latencies:hist={test}-proxy").unwrap();
    }
    assert!(measured.starts_with("{test}-proxy:msec,"), "{measured}");
}
