//! How often queries return a record that has several index entries in their range, for instance elements of
//! a list. The numbers of rows are those of the C server.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::{Duration, Instant};

use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::server::Server;
use ferrospike_tests::wire::{
    Message, Operation, field, info1, info2, info3, integer_range, operation, result,
};

/// Fields that only queries use.
const JOB_ID: u8 = 7;
const DIGEST_ARRAY: u8 = 12;
const SAMPLE_MAX: u8 = 13;
const BVAL_ARRAY: u8 = 15;
const LIST: u8 = 1;
const LIST_PARTICLE: u8 = 20;
/// All records are in this partition.
const PARTITION: u16 = 16;
/// Number of records. Record `r` has a list of `VALUES` values: `r`, `r + RECORDS`, and so on.
const RECORDS: u8 = 3;
const VALUES: i64 = 70;

/// A value, and the record that it was sent with.
type Row = (i64, u8);

fn digest_of(record: u8) -> [u8; 20] {
    let mut digest = [7; 20];
    digest[..3].copy_from_slice(&[PARTITION as u8, 0, record]);
    digest
}

fn of_record(record: u8) -> Message {
    Message::default()
        .with_field(field::NAMESPACE, b"test")
        .with_field(field::SET, b"rig")
        .with_field(field::DIGEST, &digest_of(record))
}

fn start(server: &Server) -> Client {
    let mut client = server.connect();
    let create = "sindex-create:namespace=test;set=rig;indexname=l;indextype=list;indexdata=l,numeric";
    assert_eq!(client.info_value(create).unwrap(), "ok");
    let start = Instant::now();
    while client.info_value("sindex-list").unwrap().contains(":state=WO") {
        assert!(start.elapsed() < PATIENCE, "still being filled");
        std::thread::sleep(Duration::from_millis(5));
    }
    for record in 0..RECORDS {
        let mut list = vec![0xdc, 0, VALUES as u8];
        for value in (0..VALUES).map(|n| i64::from(record) + n * i64::from(RECORDS)) {
            list.extend([0xcc, value as u8]);
        }
        let write = Message { info2: info2::WRITE, ..of_record(record) }.with_operation(Operation {
            particle: LIST_PARTICLE,
            value: list,
            ..Operation::bare(operation::WRITE, "l")
        });
        assert_eq!(client.ask(&write).unwrap().result, result::OK);
    }
    client
}

/// A query for values from `low` to `high`, that continues after a row of an earlier page.
fn query(low: i64, high: i64, after: Option<Row>) -> Message {
    let head =
        Message { info1: info1::READ | info1::GET_ALL, info3: info3::PARTITION_DONE, ..Message::default() };
    let base = head
        .with_field(field::NAMESPACE, b"test")
        .with_field(field::SET, b"rig")
        .with_field(field::INDEX_RANGE, &integer_range("l", low, high))
        .with_field(field::INDEX_TYPE, &[LIST]);
    match after {
        None => base.with_field(field::PARTITION_ID_ARRAY, &PARTITION.to_le_bytes()),
        Some((value, record)) => {
            base.with_field(DIGEST_ARRAY, &digest_of(record)).with_field(BVAL_ARRAY, &value.to_le_bytes())
        }
    }
}

fn rows(client: &mut Client, request: &Message) -> Vec<Row> {
    client.send(&request.encode()).unwrap();
    let mut rows = Vec::new();
    loop {
        for message in client.receive().unwrap().messages().unwrap() {
            assert_eq!(message.result, result::OK);
            if message.is_last() {
                return rows;
            }
            let value = message.field(BVAL_ARRAY).unwrap().first_chunk().unwrap();
            rows.push((i64::from_le_bytes(*value), message.field(field::DIGEST).unwrap()[2]));
        }
    }
}

#[test]
fn a_record_is_sent_once_for_each_hundred_entries() {
    let server = Server::usual();
    let mut client = start(&server);
    let client = &mut client;
    // There are 210 entries: the first hundred, the second hundred, and the rest.
    let all = [(0, 0), (1, 1), (2, 2), (100, 1), (101, 2), (102, 0), (200, 2), (201, 0), (202, 1)];
    assert_eq!(rows(client, &query(0, 1_000, None)), all);
    assert_eq!(rows(client, &query(0, 99, None)), all[..3]);
    assert_eq!(rows(client, &query(0, 100, None)), all[..4]);
    assert_eq!(rows(client, &query(7, 7, None)), [(7, 1)]);
    // Each row is a sample.
    for max in 1..=10u64 {
        let sample = query(0, 1_000, None).with_field(SAMPLE_MAX, &max.to_be_bytes());
        assert_eq!(rows(client, &sample), all[..all.len().min(max as usize)], "{max}");
    }
    // On the next page the hundreds begin after the last row.
    let page = query(0, 1_000, Some((1, 1)));
    assert_eq!(
        rows(client, &page),
        [(2, 2), (3, 0), (4, 1), (102, 0), (103, 1), (104, 2), (202, 1), (203, 2), (204, 0)]
    );
}

#[test]
fn operations_in_the_background_change_a_record_once_whatever_its_entries() {
    let server = Server::usual();
    let mut client = start(&server);
    let client = &mut client;
    let mut add = Message { info1: 0, info2: info2::WRITE, info3: 0, ..query(0, 1_000, None) }
        .with_field(JOB_ID, &5u64.to_be_bytes())
        .with_operation(Operation::integer(operation::INCR, "sum", 1));
    add.fields.retain(|(kind, _)| *kind != field::PARTITION_ID_ARRAY);
    assert_eq!(client.ask(&add).unwrap().result, result::OK);
    let start = Instant::now();
    while !client.info_value("query-show:trid=5").unwrap().contains(":status=done(ok)") {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    for record in 0..RECORDS {
        let read = Message { info1: info1::READ | info1::GET_ALL, ..of_record(record) };
        let sum = client.ask(&read).unwrap().bin("sum").map(<[u8]>::to_vec);
        assert_eq!(sum, Some(1i64.to_be_bytes().to_vec()), "{record}");
    }
}
