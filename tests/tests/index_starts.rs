//! Secondary indexes after a start, which fills them while it reads the records. They match the newest copies
//! of the records, whatever else is on disk, and follow later changes.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use ferrospike_tests::client::Client;
use ferrospike_tests::damage::DataFile;
use ferrospike_tests::device_file::{RECORD_MAGIC, WBLOCK_SIZE};
use ferrospike_tests::figures::{await_figures, figures};
use ferrospike_tests::server::{Server, stored_config};
use ferrospike_tests::wire::{
    Message, Operation, digest, field, info2, info3, integer_range, operation, result,
};

const LIST: u8 = 1;
const LIST_PARTICLE: u8 = 20;
const KEYS: u32 = 1_500;

/// A write of the number `n`, and of a list of `n` and its successor.
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

/// The digests of the rows that a query returns.
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

/// Compares the indexes with the result of a scan.
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
    // These are further copies on the disk, with other values, or with the first value again.
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
    // Changes find the entries that were made at the start.
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

/// The place in the middle of the record of `key`. `file` has one copy of it.
fn middle_of(file: &DataFile, key: &str) -> Range<u64> {
    let (bytes, digest) = (file.bytes(), digest("rig", key));
    let is_head = |at: &usize| {
        bytes[*at..].starts_with(&RECORD_MAGIC.to_le_bytes()) && bytes[at + 8..].starts_with(&digest)
    };
    let start = (WBLOCK_SIZE..bytes.len()).step_by(16).find(is_head).unwrap();
    let flags = u32::from_le_bytes(*bytes[start + 4..].first_chunk().unwrap());
    let size = ((flags & 0x7_ffff) as usize + 1) * 16;
    let middle = (start + size / 2) as u64;
    middle..middle + 8
}

/// A record that cannot be read when an index is made is counted and read again. Queries find it as soon as
/// it can be read, or when it is replaced.
#[test]
fn records_that_cannot_be_read_are_added_later() {
    let lines =
        ["file {dir}/test.dat", "filesize 128M", "compression lz4", "post-write-cache 0", "defrag-lwm-pct 1"];
    let mut server = Server::start(&stored_config("test", "device", &lines));
    server.allow("damaged").allow("checksum").allow("records that cannot be read");
    let mut client = server.connect();
    let create = |client: &mut Client, name: &str| {
        let command =
            format!("sindex-create:namespace=test;set=rig;indexname={name};indexdata={name},numeric");
        assert_eq!(client.info_value(&command).unwrap(), "ok");
    };
    let put = |key: u32| {
        let pad: String = (0..300).map(|n| format!("the value of {} ", n * 7 + key)).collect();
        Message::write(&key.to_string())
            .with_operation(Operation::integer(operation::WRITE, "n", key.into()))
            .with_operation(Operation::integer(operation::WRITE, "m", key.into()))
            .with_operation(Operation::string(operation::WRITE, "pad", &pad))
    };
    send(&mut client, &(0..100).map(put).collect::<Vec<_>>());
    drop(client);
    server.stop();
    let file = DataFile::of(&server, "test.dat");
    let places = ["3", "7", "50"].map(|key| middle_of(&file, key));
    server.restart();
    let mut client = server.connect();
    for (key, place) in ["3", "7", "50"].iter().zip(&places) {
        file.flip(place.clone());
        assert_eq!(client.ask(&Message::get(key)).unwrap().result, result::UNKNOWN, "{key} is damaged");
    }
    create(&mut client, "n");
    create(&mut client, "m");
    let stat = |name: &str| format!("sindex-stat:namespace=test;indexname={name}");
    for name in ["n", "m"] {
        await_figures(&mut client, &stat(name), |now| now["load_pct"] == 100 && now["entries"] == 97);
        assert_eq!(figures(&mut client, &stat(name))["unread_recs"], 3);
        server.await_log(&format!("index {name} may lack 3 records"));
        assert_eq!(rows(&mut client, name, 0, 9).len(), 8);
    }
    send(&mut client, &[Message { info3: info3::CREATE_OR_REPLACE, ..put(50) }]);
    file.flip(places[0].clone());
    for name in ["n", "m"] {
        await_figures(&mut client, &stat(name), |now| now["entries"] == 99 && now["unread_recs"] == 1);
        assert_eq!(rows(&mut client, name, 0, 9).len(), 9);
    }
    file.flip(places[1].clone());
    for name in ["n", "m"] {
        await_figures(&mut client, &stat(name), |now| {
            now["entries"] == 100 && !now.contains_key("unread_recs")
        });
        server.await_log(&format!("index {name} is complete: all records"));
        assert_eq!(rows(&mut client, name, 0, 99).len(), 100);
    }
}
