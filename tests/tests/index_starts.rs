//! Secondary indexes after a start, which fills them while it reads the records: they match the newest copies of these, whatever
//! else is on the disk, and follow later changes.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use ferrospike_tests::client::Client;
use ferrospike_tests::figures::figures;
use ferrospike_tests::server::{Server, stored_config};
use ferrospike_tests::wire::{Message, Operation, field, info2, integer_range, operation, result};

const LIST: u8 = 1;
const LIST_PARTICLE: u8 = 20;
const KEYS: u32 = 1_500;

/// A write of the number `n`, and of a list of it and its successor.
fn put(key: u32, n: u8) -> Message {
    Message::write(&key.to_string())
        .with_operation(Operation::integer(operation::WRITE, "n", n.into()))
        .with_operation(Operation::string(operation::WRITE, "pad", &"text ".repeat(20)))
        .with_operation(Operation {
            particle: LIST_PARTICLE,
            value: vec![0x92, n, n + 1],
            ..Operation::bare(operation::WRITE, "l")
        })
}

fn send(client: &mut Client, requests: &[Message]) {
    for some in requests.chunks(200) {
        client.send(&some.iter().flat_map(Message::encode).collect::<Vec<_>>()).unwrap();
        for _ in some {
            assert_eq!(client.receive_message().unwrap().result, result::OK);
        }
    }
}

/// The digests of the rows of a query.
fn rows(client: &mut Client, bin: &str, low: i64, high: i64) -> BTreeSet<Vec<u8>> {
    let query = Message::scan("test")
        .with_field(field::SET, b"rig")
        .with_field(field::INDEX_RANGE, &integer_range(bin, low, high));
    let query = if bin == "l" { query.with_field(field::INDEX_TYPE, &[LIST]) } else { query };
    client.send(&query.encode()).unwrap();
    let mut rows = BTreeSet::new();
    loop {
        for message in client.receive().unwrap().messages().unwrap() {
            assert_eq!(message.result, result::OK);
            if message.is_last() {
                return rows;
            }
            rows.insert(message.field(field::DIGEST).unwrap().to_vec());
        }
    }
}

/// Compares the indexes with what a scan finds.
fn check(client: &mut Client) -> u64 {
    let (mut numbers, mut expected) = (Vec::new(), BTreeSet::new());
    for row in client.scan("test").unwrap() {
        let n = i64::from_be_bytes(*row.bin("n").unwrap().last_chunk().unwrap());
        numbers.push((n, row.field(field::DIGEST).unwrap().to_vec()));
    }
    for low in [0, 10, 100] {
        let (high, digest) = (low + 9, |row: &(i64, Vec<u8>)| row.1.clone());
        expected.clear();
        expected.extend(numbers.iter().filter(|(n, _)| (low..=high).contains(n)).map(digest));
        assert_eq!(rows(client, "n", low, high), expected, "from {low}");
        expected.clear();
        expected.extend(numbers.iter().filter(|(n, _)| (low - 1..=high).contains(n)).map(digest));
        assert_eq!(rows(client, "l", low, high), expected, "from {low} in lists");
    }
    let count = numbers.len() as u64;
    let mut entries =
        |name| figures(client, &format!("sindex-stat:namespace=test;indexname={name}"))["entries"] as u64;
    assert_eq!((entries("n"), entries("l")), (count, 2 * count));
    count
}

fn starts(engine: &str, lines: &[&str]) {
    let lines = [&["file {dir}/test.dat", "filesize 128M"], lines].concat();
    let mut server = Server::start(&stored_config("test", engine, &lines));
    let mut client = server.connect();
    for create in
        ["set=rig;indexname=n;indexdata=n,numeric", "indexname=l;indextype=list;indexdata=l,numeric"]
    {
        assert_eq!(client.info_value(&format!("sindex-create:namespace=test;{create}")).unwrap(), "ok");
    }
    let client_of = |server: &mut Server| {
        server.restart();
        server.await_log("index n ready");
        server.await_log(", with the load of the records");
        server.connect()
    };
    send(&mut client, &(0..KEYS).map(|key| put(key, key as u8 % 20)).collect::<Vec<_>>());
    // Further copies on the disk, with other values, or with the first one again.
    send(&mut client, &(0..500).map(|key| put(key, 100 + key as u8 % 10)).collect::<Vec<_>>());
    send(&mut client, &(0..250).map(|key| put(key, key as u8 % 20)).collect::<Vec<_>>());
    let durable = |key: u32| {
        let delete = Message::delete(&key.to_string());
        Message { info2: delete.info2 | info2::DURABLE_DELETE, ..delete }
    };
    send(&mut client, &(500..600).map(durable).collect::<Vec<_>>());
    let expiring = |key: u32| Message { record_ttl: 1, ..put(key, 5) };
    send(&mut client, &(600..700).map(expiring).collect::<Vec<_>>());
    server.stop();
    thread::sleep(Duration::from_millis(2_100));
    client = client_of(&mut server);
    assert_eq!(check(&mut client), u64::from(KEYS) - 200);
    // Changes find the entries that the start has made.
    send(&mut client, &(100..900).step_by(2).map(|key| put(key, 101)).collect::<Vec<_>>());
    send(&mut client, &(900..1_000).map(durable).collect::<Vec<_>>());
    let count = check(&mut client);
    server.kill9();
    client = client_of(&mut server);
    assert!(check(&mut client) >= count - 400);
}

#[test]
fn on_a_device() {
    starts("device", &[]);
}

#[test]
fn in_memory_with_compressed_records() {
    starts("memory", &["compression lz4"]);
}
