//! Deleted records stay deleted, and rewritten records keep their new values, despite older copies of other
//! nodes: on the disk of a node that comes back, and in late messages.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::io::Write;

use ferrospike_tests::client::Client;
use ferrospike_tests::nodes::{IN_MEMORY, Nodes};
use ferrospike_tests::peer::{connect, next_message, number, peer_message};
use ferrospike_tests::wire::{Message, digest, result};

const FILE: &str = "
namespace test {
    replication-factor 2
    storage-engine device {
        file {dir}/test.dat
        filesize 256M
        flush-max-ms 10
    }
}
";
/// Number of rounds after which a rewritten record has a lower generation.
const ROUNDS: u8 = 4;
const KEYS: usize = 900;

fn key(number: usize) -> String {
    format!("key-{number}")
}

/// Asks any node. Nodes that do not serve the record forward the request.
fn ask(client: &mut Client, request: Message) -> Message {
    client.ask(&Message { transaction_ttl: 20_000, ..request }).unwrap()
}

/// Checks that a third of the keys is deleted, a third is deleted and written again, and the rest is
/// unchanged.
fn check(nodes: &Nodes, numbers: &[usize]) {
    for number in numbers {
        let mut client = nodes.servers[*number].connect();
        let mut wrong = Vec::new();
        for number in 0..KEYS {
            let expected = [None, Some([100]), Some([ROUNDS - 1])][number % 3];
            let answer = ask(&mut client, Message::get(&key(number)));
            if answer.bin("b") != expected.as_ref().map(|value| &value[..]) {
                wrong.push((number, answer.result, answer.bin("b").map(<[u8]>::to_vec)));
            }
        }
        assert!(
            wrong.is_empty(),
            "{} keys at node {number}: {:?}",
            wrong.len(),
            &wrong[..wrong.len().min(9)]
        );
    }
}

#[test]
fn records_deleted_while_a_node_was_away_do_not_return_with_it() {
    let mut nodes = Nodes::start(3, FILE);
    nodes.await_cluster(&[0, 1, 2]);
    let mut client = nodes.servers[0].connect();
    for round in 0..ROUNDS {
        for number in 0..KEYS {
            assert_eq!(ask(&mut client, Message::put(&key(number), vec![round])).result, result::OK);
        }
    }
    nodes.servers[1].kill9();
    nodes.await_members(&[0, 2]);
    let mut client = nodes.servers[0].connect();
    for number in (0..KEYS).filter(|number| number % 3 != 2) {
        assert_eq!(ask(&mut client, Message::delete(&key(number))).result, result::OK);
        if number % 3 == 1 {
            assert_eq!(ask(&mut client, Message::put(&key(number), vec![100])).result, result::OK);
        }
    }
    // By then no migration is in progress that would remember the deletes.
    nodes.await_cluster(&[0, 2]);
    nodes.servers[1].restart();
    nodes.await_cluster(&[0, 1, 2]);
    check(&nodes, &[0, 1, 2]);
    // The node that came back has the right records too.
    nodes.servers[2].kill9();
    nodes.await_members(&[0, 1]);
    check(&nodes, &[0, 1]);
}

const REPLICATION: u16 = 7;
/// Milliseconds from 1970 to 2010.
const EPOCH_MS: u64 = 1_262_304_000_000;

#[test]
fn a_late_removal_does_not_remove_newer_records() {
    let mut nodes = Nodes::start(1, IN_MEMORY);
    nodes.servers[0].allow("cluster");
    nodes.await_cluster(&[0]);
    let mut stream = connect(nodes.ports(0)[1], 0x77);
    // A removal as masters send it. C servers send no time.
    let mut remove = |removed_at: Option<u64>| {
        let mut fields = vec![(0, 1, number(8)), (3, 1, number(0)), (10, 1, number(1))];
        fields.extend(removed_at.map(|time| (16, 3, time.to_be_bytes().to_vec())));
        fields.extend([(2, 6, b"test".to_vec()), (5, 6, digest("rig", "late").to_vec())]);
        stream.write_all(&peer_message(REPLICATION, &fields)).unwrap();
        let answer = next_message(&mut stream, REPLICATION);
        assert_eq!(answer[..10], [0, 0, 1, 0, 0, 0, 2, 0, 1, 1]);
        answer[13]
    };
    let mut client = nodes.servers[0].connect();
    let put = |client: &mut Client, value: u8| {
        assert_eq!(ask(client, Message::put("late", vec![value])).result, result::OK);
    };
    let value = |client: &mut Client| ask(client, Message::get("late")).bin("b").map(<[u8]>::to_vec);
    put(&mut client, 1);
    let now_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64 - EPOCH_MS;
    assert_eq!(remove(Some(now_ms - 1000)), result::GENERATION);
    assert_eq!(value(&mut client), Some(vec![1]));
    assert_eq!(remove(None), result::OK);
    assert_eq!((value(&mut client), remove(None)), (None, result::NOT_FOUND));
    put(&mut client, 2);
    // The sender's clock is ahead.
    let ahead_ms = now_ms + 20_000;
    assert_eq!((remove(Some(ahead_ms)), value(&mut client)), (result::OK, None));
    // The removal does not apply to a later write, although this node's clock is behind.
    put(&mut client, 3);
    assert_eq!((remove(Some(ahead_ms)), value(&mut client)), (result::GENERATION, Some(vec![3])));
}
