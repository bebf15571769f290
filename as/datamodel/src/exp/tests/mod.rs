//! Black-box tests of expressions: filters and operations on records.

mod cases;
mod hostile;
mod model;
mod operations;
mod packed;

use cf::Digest;
use proto::ResultCode;

use super::{Filter, Medium, Metadata, Record, Truth};
use crate::bins::Bins;
use crate::budget::{Budget, unlimited};
use crate::change::Change;
use crate::geojson;
use crate::particle::{BytesType, Particle};

/// The operation, with and without a limit of its budget.
fn read(record: &Record<'_>, payload: &[u8]) -> Result<Option<Particle<'static>>, ResultCode> {
    unlimited(|budget| super::read(record, payload, budget))
}

/// The operation, with and without a limit of its budget.
fn modify(record: &Record<'_>, bin_exists: bool, payload: &[u8]) -> Result<Change, ResultCode> {
    unlimited(|budget| super::modify(record, bin_exists, payload, budget))
}

/// A thousand seconds after 2010-01-01.
const NOW_MS: u64 = 1_000_000;

fn metadata() -> Metadata<'static> {
    Metadata {
        digest: Digest([7; 20]),
        last_update_time: 900_000,
        void_time: 1_060,
        set_name: b"people",
        is_key_stored: true,
        is_tombstone: false,
        stored_size: 112,
        medium: Medium::Memory,
        now_ms: NOW_MS,
    }
}

fn text(value: &str) -> Particle<'static> {
    Particle::owned(BytesType::String, value.as_bytes().to_vec())
}

/// Bins of every type.
fn bins() -> Bins<'static> {
    let mut bins = Bins::new();
    bins.set(b"i", Particle::Integer(5));
    bins.set(b"f", Particle::Float(1.5));
    bins.set(b"t", Particle::Bool(true));
    bins.set(b"s", text("abc"));
    bins.set(b"b", Particle::owned(BytesType::Blob, vec![0xf0, 0x0f]));
    bins.set(b"l", Particle::owned(BytesType::List, vec![0x93, 1, 2, 3]));
    bins.set(b"m", Particle::owned(BytesType::Map, vec![0x82, 0xc7, 0, 1, 0xc0, 0xa2, 3, b'a', 1]));
    bins.set(
        b"g",
        Particle::owned(BytesType::GeoJson, geojson::from_json(POINT, &Budget::unlimited()).unwrap()),
    );
    bins.set(b"u", Particle::owned(BytesType::Map, vec![0x81, 1, 2]));
    bins
}

const POINT: &[u8] = br#"{"type":"Point","coordinates":[13.4,52.5]}"#;
const CIRCLE: &[u8] = br#"{"type":"AeroCircle","coordinates":[[13.4,52.5],1000]}"#;
const FAR_CIRCLE: &[u8] = br#"{"type":"AeroCircle","coordinates":[[-13.4,52.5],1000]}"#;
const KEY: &[u8] = b"\x03me";

fn record(bins: &Bins<'_>, check: impl FnOnce(&Record<'_>)) {
    check(&Record { metadata: &metadata(), key: Some(KEY), bins });
}

/// The results of a filter before and after the record is read; `None` if it is not a valid filter.
fn filter(expression: &[u8]) -> Option<(Truth, bool)> {
    let filter = Filter::compile(expression, &Budget::unlimited()).ok()?;
    let before = filter.matches_metadata(&metadata(), &Budget::unlimited());
    let mut after = false;
    record(&bins(), |record| after = filter.matches(record, &Budget::unlimited()));
    match before {
        Truth::Unknown => {}
        known => assert_eq!(known == Truth::True, after, "what is known stays so: {expression:x?}"),
    }
    Some((before, after))
}
