//! Queries by primary and secondary index, background queries, and queries with functions. A whole server
//! with some records and indexes processes them.
//!
//! Input: two bytes of flags, the number of operations, then fields, each with its type as an index into
//! [`FIELDS`], a size of one byte, and its bytes. Without fields that name partitions, the query is for the
//! partitions with records.

use std::cell::RefCell;

use crate::server::{Client, udf_put};

/// Types of the fields that queries may have, and one type that they may not have.
const FIELDS: [u8; 19] = [1, 7, 9, 10, 11, 12, 13, 15, 21, 22, 23, 26, 30, 31, 32, 33, 40, 43, 2];
const PARTITIONS: u8 = 11;
const DIGESTS: u8 = 12;
const READ: u8 = 1;
const WRITE: u8 = 1;
const RELAX_LONG_QUERY: u8 = 0x40;

const MODULE: &str = "
function count(s) return s : map(function(r) return 1 end) : reduce(function(a, b) return a + b end) end
function same(s, ...) local t = {...} return s : filter(function(r) return r.n ~= t[1] end) : map(function(r) return r.l end) end
function touch(r, v) r.n = v aerospike:update(r) end
";
const INDEXES: [&str; 5] = [
    "indexname=query_n;indexdata=n,numeric",
    "indexname=query_s;indexdata=s,string",
    "indexname=query_b;indexdata=b,blob",
    "indexname=query_l;indexdata=l,numeric;indextype=list",
    "indexname=query_g;indexdata=g,geo2dsphere",
];
const RECORDS: u8 = 24;

thread_local! {
    static CLIENT: RefCell<Option<Client>> = const { RefCell::new(None) };
}

/// Runs one input as described at the top of this file.
pub fn run(input: &[u8]) {
    CLIENT.with_borrow_mut(|client| {
        let client = client.get_or_insert_with(filled);
        if let Some(query) = query(input) {
            client.message(&query);
            // The record is restored for the next query, because operations and functions may have changed
            // it.
            client.message(&record(query.len() as u8 % RECORDS));
        }
    });
}

/// A client of a server with records, indexes and a module.
fn filled() -> Client {
    let mut client = Client::default();
    client.prepare(&udf_put("fuzzquery.lua", MODULE));
    for index in INDEXES {
        client.prepare(format!("sindex-create:namespace=test;set=s;{index}\n").as_bytes());
    }
    for number in 0..RECORDS {
        client.message(&record(number));
    }
    client
}

fn digest(number: u8) -> [u8; 20] {
    [number.wrapping_mul(11); 20]
}

/// The numbers of the partitions that have records.
fn partitions() -> Vec<u8> {
    (0..RECORDS).flat_map(|number| [digest(number)[0], digest(number)[1] & 0x0f]).collect()
}

/// A write of a record with a bin for each index.
fn record(number: u8) -> Vec<u8> {
    let point = format!(r#"{{"type":"Point","coordinates":[{number}.5,{number}.25]}}"#);
    let mut geojson = vec![0, 0, 0];
    geojson.extend(point.as_bytes());
    let bins: [(&[u8], u8, Vec<u8>); 5] = [
        (b"n", 1, i64::from(number).to_be_bytes().to_vec()),
        (b"s", 3, vec![b'a' + number % 5; 3]),
        (b"b", 4, vec![number % 7; 4]),
        (b"l", 20, vec![0x92, number, 100 - number]),
        (b"g", 23, geojson),
    ];
    let mut body = header(0, WRITE, 3, bins.len() as u16);
    field(&mut body, 0, b"test");
    field(&mut body, 1, b"s");
    field(&mut body, 4, &digest(number));
    for (name, particle, value) in bins {
        operation(&mut body, 2, particle, name, &value);
    }
    body
}

/// The query that `input` describes.
fn query(input: &[u8]) -> Option<Vec<u8>> {
    let (&[flags, more, operation_count], mut rest) = input.split_first_chunk::<3>()?;
    let mut fields: Vec<(u8, &[u8])> = vec![(0, b"test")];
    while let Some((&[at, size], after)) = rest.split_first_chunk::<2>() {
        let (value, after) = after.split_at(after.len().min(usize::from(size)));
        fields.push((FIELDS[usize::from(at) % FIELDS.len()], value));
        rest = after;
    }
    let partitions = partitions();
    if !fields.iter().any(|(number, _)| matches!(*number, PARTITIONS | DIGESTS)) {
        fields.push((PARTITIONS, &partitions));
    }
    let operation_count = operation_count % 4;
    let info2 = more & (WRITE | RELAX_LONG_QUERY);
    let mut body = header(flags, info2, fields.len() as u16, u16::from(operation_count));
    // The answer marks the end of each partition, as clients request it.
    body[3] = 4;
    for (number, value) in fields {
        field(&mut body, number, value);
    }
    for at in 0..operation_count {
        let (code, particle, value): (u8, u8, &[u8]) = match (more & WRITE, at) {
            (0, _) => (READ, 0, &[]),
            (_, 0) => (5, 1, &[0, 0, 0, 0, 0, 0, 0, 1]),
            (_, _) => (2, 3, b"x"),
        };
        operation(&mut body, code, particle, &[b"nsbl"[usize::from(at)]], value);
    }
    Some(body)
}

fn header(info1: u8, info2: u8, field_count: u16, operation_count: u16) -> Vec<u8> {
    let mut body = vec![22, info1, info2, 0];
    body.extend([0; 10]);
    body.extend(1_000u32.to_be_bytes());
    body.extend(field_count.to_be_bytes());
    body.extend(operation_count.to_be_bytes());
    body
}

fn field(body: &mut Vec<u8>, number: u8, value: &[u8]) {
    body.extend((value.len() as u32 + 1).to_be_bytes());
    body.push(number);
    body.extend(value);
}

fn operation(body: &mut Vec<u8>, code: u8, particle: u8, name: &[u8], value: &[u8]) {
    body.extend((4 + name.len() as u32 + value.len() as u32).to_be_bytes());
    body.extend([code, particle, 0, name.len() as u8]);
    body.extend(name);
    body.extend(value);
}
