//! A node that did not run for longer than its heartbeats allow serves no client before it has seen the
//! changes of that time. The answers to writes follow the clients' options for commit level and deadline.

use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::nodes::{IN_MEMORY, Nodes};
use ferrospike_tests::server::Server;
use ferrospike_tests::wire::{Message, result};
use nix::sys::signal::Signal;

const UNAVAILABLE: u8 = 11;
/// Time from the signal until all threads of a process have stopped.
const STOPPED: Duration = Duration::from_millis(200);
const COMMIT_LEVEL_MASTER: u8 = 2;

fn patient(request: Message) -> Message {
    Message { transaction_ttl: 20_000, ..request }
}

#[test]
fn a_node_that_was_frozen_serves_no_old_data() {
    const KEYS: usize = 100;
    let nodes = Nodes::start(3, IN_MEMORY);
    nodes.await_cluster(&[0, 1, 2]);
    let key = |number: usize| format!("frozen-{number}");
    let mut first = nodes.servers[0].connect();
    for number in 0..KEYS {
        assert_eq!(first.ask(&patient(Message::put(&key(number), vec![1]))).unwrap().result, result::OK);
    }
    nodes.servers[2].signal(Signal::SIGSTOP);
    std::thread::sleep(STOPPED);
    // Meanwhile, requests of clients wait in the node's sockets.
    let asked: Vec<(usize, Client)> = (0..KEYS)
        .map(|number| {
            let mut client = nodes.servers[2].connect();
            let request = if number % 2 == 0 {
                Message::get(&key(number))
            } else {
                Message::put(&key(number), vec![9])
            };
            client.send(&request.encode()).unwrap();
            (number, client)
        })
        .collect();
    nodes.await_members(&[0, 1]);
    for number in 0..KEYS {
        for value in [2, 3] {
            let put = patient(Message::put(&key(number), vec![value]));
            assert_eq!(first.ask(&put).unwrap().result, result::OK);
        }
    }
    nodes.servers[2].signal(Signal::SIGCONT);
    for (number, mut client) in asked {
        let answer = client.receive_message().unwrap();
        match answer.result {
            // The node had joined again or forwarded the request.
            result::OK if number % 2 == 0 => assert_eq!(answer.bin("b"), Some(&[3][..]), "key {number}"),
            result::OK | result::TIMEOUT | UNAVAILABLE => {}
            other => panic!("key {number}: result {other}"),
        }
    }
    nodes.await_cluster(&[0, 1, 2]);
    // No acknowledged write is lost: each key has its last value or a later one.
    let mut clients: Vec<Client> = nodes.servers.iter().map(Server::connect).collect();
    for number in 0..KEYS {
        let answer = clients[number % 3].ask(&patient(Message::get(&key(number)))).unwrap();
        let value = answer.bin("b").unwrap();
        let expected: &[u8] = if number % 2 == 0 { &[3] } else { &[3, 9] };
        assert!(expected.contains(&value[0]), "key {number} has {value:?}");
    }
}

#[test]
fn clients_choose_how_long_and_for_which_replicas_a_write_waits() {
    let nodes = Nodes::start(2, IN_MEMORY);
    nodes.await_cluster(&[0, 1]);
    let mut first = nodes.servers[0].connect();
    // Keys whose master is node 0, so that it does not forward requests for them.
    let mut own = Vec::new();
    for number in 0.. {
        let before = first.figure("namespace/test", "client_proxy_complete").unwrap();
        let key = format!("own-{number}");
        // A delete is used, because the replica would answer a read too.
        first.ask(&Message::delete(&key)).unwrap();
        if first.figure("namespace/test", "client_proxy_complete").unwrap() == before {
            own.push(key);
        }
        if own.len() == 3 {
            break;
        }
    }
    nodes.servers[1].signal(Signal::SIGSTOP);
    std::thread::sleep(STOPPED);
    let mut timed = |request: Message| {
        let asked = Instant::now();
        let answer = first.ask(&request).unwrap();
        (answer.result, asked.elapsed())
    };
    let short = timed(Message { transaction_ttl: 250, ..Message::put(&own[0], vec![1]) });
    let by_master =
        timed(Message { info3: COMMIT_LEVEL_MASTER, transaction_ttl: 900, ..Message::put(&own[1], vec![1]) });
    nodes.servers[1].signal(Signal::SIGCONT);
    assert_eq!(short.0, result::TIMEOUT);
    assert!(short.1 >= Duration::from_millis(240) && short.1 < Duration::from_millis(900), "{short:?}");
    assert_eq!(by_master.0, result::OK);
    assert!(by_master.1 < Duration::from_millis(200), "{by_master:?}");
    nodes.await_members(&[0, 1]);
    // The write has reached the replica all the same.
    let mut second = nodes.servers[1].connect();
    let began = Instant::now();
    while second.figure("namespace/test", "objects").unwrap() < 2 {
        assert!(began.elapsed() < Duration::from_secs(20), "the replica has not got it");
        std::thread::sleep(Duration::from_millis(20));
    }
    // The namespace's setting overrides all requests.
    let set = |client: &mut Client, level: &str| {
        let command = format!("set-config:context=namespace;id=test;write-commit-level-override={level}");
        assert_eq!(client.info_value(&command).unwrap(), "ok");
    };
    set(&mut first, "master");
    nodes.servers[1].signal(Signal::SIGSTOP);
    std::thread::sleep(STOPPED);
    let asked = Instant::now();
    let answer = first.ask(&Message { transaction_ttl: 900, ..Message::put(&own[2], vec![1]) }).unwrap();
    let took = asked.elapsed();
    nodes.servers[1].signal(Signal::SIGCONT);
    assert_eq!(answer.result, result::OK);
    assert!(took < Duration::from_millis(200), "{took:?}");
    set(&mut first, "all");
}
