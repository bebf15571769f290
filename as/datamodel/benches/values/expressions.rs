//! Benchmarks of filters: compilation, and evaluation against metadata alone and against the whole record.

use cf::msgpack::{put_integer, put_list_header, put_raw_header};
use datamodel::Budget;
use datamodel::exp::{Filter, Medium, Metadata, Record};
use datamodel::{Bins, Particle, geojson};
use divan::{Bencher, black_box};

use super::{list, text};

const EQUAL: i64 = 1;
const GREATER: i64 = 3;
const REGEX: i64 = 7;
const WITHIN: i64 = 8;
const AND: i64 = 16;
const TTL: i64 = 69;
const BIN: i64 = 81;
const CALL: i64 = 127;
const OF_INTEGERS: i64 = 2;
const OF_TEXTS: i64 = 3;
const OF_LISTS: i64 = 4;
const OF_GEOJSON: i64 = 8;
const LIST_SIZE: i64 = 16;

const POINT: &[u8] = br#"{"type":"Point","coordinates":[13.4,52.5]}"#;
const CIRCLE: &[u8] = br#"{"type":"AeroCircle","coordinates":[[13.4,52.5],1000]}"#;

/// An operator with packed elements.
fn operator(code: i64, elements: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    put_list_header(&mut out, elements.len() as u32 + 1);
    put_integer(&mut out, code);
    elements.iter().for_each(|element| out.extend_from_slice(element));
    out
}

fn integer(value: i64) -> Vec<u8> {
    let mut out = Vec::new();
    put_integer(&mut out, value);
    out
}

/// Text or bytes without a type byte.
fn name(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_raw_header(&mut out, name.len() as u32);
    out.extend_from_slice(name.as_bytes());
    out
}

fn bin(kind: i64, bin: &str) -> Vec<u8> {
    operator(BIN, &[integer(kind), name(bin)])
}

/// The filters, by name.
fn filter(what: &str) -> Vec<u8> {
    let alive = operator(GREATER, &[operator(TTL, &[]), integer(7)]);
    let number = operator(GREATER, &[bin(OF_INTEGERS, "number"), integer(7)]);
    let mut same = Vec::new();
    text(&mut same, "between");
    let word = operator(EQUAL, &[bin(OF_TEXTS, "text"), same]);
    match what {
        "metadata" => alive,
        "bins" => operator(AND, &[number, word]),
        "both" => operator(AND, &[alive, number, word]),
        "regex" => operator(REGEX, &[integer(1), name("^b.*(tw|w)een$"), bin(OF_TEXTS, "text")]),
        "geo" => {
            let mut circle = Vec::new();
            put_raw_header(&mut circle, CIRCLE.len() as u32 + 1);
            circle.push(cf::msgpack::GEOJSON);
            circle.extend_from_slice(CIRCLE);
            operator(WITHIN, &[bin(OF_GEOJSON, "place"), circle])
        }
        _ => {
            let size = operator(LIST_SIZE, &[]);
            let call = operator(CALL, &[integer(OF_INTEGERS), integer(0), size, bin(OF_LISTS, "list")]);
            operator(EQUAL, &[call, integer(100)])
        }
    }
}

const FILTERS: [&str; 6] = ["metadata", "bins", "both", "regex", "geo", "call"];

fn metadata() -> Metadata<'static> {
    Metadata {
        digest: cf::Digest([7; 20]),
        last_update_time: 900_000,
        void_time: 1_060,
        set_name: b"people",
        is_key_stored: true,
        is_tombstone: false,
        stored_size: 112,
        medium: Medium::Memory,
        now_ms: 1_000_000,
    }
}

#[divan::bench(args = FILTERS)]
fn compile(bencher: Bencher<'_, '_>, what: &str) {
    let filter = filter(what);
    bencher.bench(|| Filter::compile(black_box(&filter), &Budget::unlimited()));
}

#[divan::bench(args = FILTERS)]
fn ask_before_reading(bencher: Bencher<'_, '_>, what: &str) {
    let filter = filter(what);
    let filter = Filter::compile(&filter, &Budget::unlimited()).expect("a filter");
    let metadata = metadata();
    bencher.bench_local(|| filter.matches_metadata(black_box(&metadata), &Budget::unlimited()));
}

#[divan::bench(args = FILTERS)]
fn ask_of_bins(bencher: Bencher<'_, '_>, what: &str) {
    let filter = filter(what);
    let filter = Filter::compile(&filter, &Budget::unlimited()).expect("a filter");
    let metadata = metadata();
    let (point, numbers) =
        (geojson::from_json(POINT, &Budget::unlimited()).expect("a point"), list(&[], 100));
    let mut bins = Bins::new();
    bins.set(b"number", Particle::Integer(42));
    bins.set(b"text", Particle::from_wire(3, b"between", &Budget::unlimited()).expect("text"));
    bins.set(b"place", Particle::owned(datamodel::BytesType::GeoJson, point));
    bins.set(b"list", Particle::from_wire(20, &numbers, &Budget::unlimited()).expect("a list"));
    let record = Record { metadata: &metadata, key: None, bins: &bins };
    assert!(filter.matches(&record, &Budget::unlimited()), "{what}");
    bencher.bench_local(|| filter.matches(black_box(&record), &Budget::unlimited()));
}
