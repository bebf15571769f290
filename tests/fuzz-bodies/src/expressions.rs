//! Expressions as filters and operations, on a record with bins of every type.
//!
//! Input: the kind of use, length of an operation (two bytes), an operation for the bin that the expression
//! made, the expression followed by the flags.

use std::cell::OnceCell;

use datamodel::exp::{self, Filter, Medium, Metadata, Record, Truth};
use datamodel::{Bins, Budget, Change, Particle, bits, cdt, hll};

const TYPES: [(u8, &[u8], &[u8]); 9] = [
    (1, b"i", &[0, 0, 0, 0, 0, 0, 0, 5]),
    (2, b"f", &[0x3f, 0xf8, 0, 0, 0, 0, 0, 0]),
    (17, b"t", &[1]),
    (3, b"s", b"abcabc"),
    (4, b"b", &[0xf0, 0x0f, 0x55]),
    (20, b"l", &[0x95, 3, 1, 2, 0xa2, 3, b'a', 0x91, 7]),
    (19, b"m", &[0x83, 1, 2, 0xa2, 3, b'a', 0x81, 1, 1, 0xa2, 3, b'b', 0x91, 5]),
    (23, b"g", br#"   {"type":"Point","coordinates":[13.4,52.5]}"#),
    (18, b"h", &[]),
];

/// A new HyperLogLog value of 2^8 registers.
const HLL_INIT: [u8; 4] = [0x93, 0, 8, 0xff];

/// Runs one input as described at the top of this file.
pub fn run(bytes: &[u8]) {
    thread_local! {
        static BINS: OnceCell<Bins<'static>> = const { OnceCell::new() };
    }
    let Some((&[what, high, low], rest)) = bytes.split_first_chunk() else { return };
    let size = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
    let (operation, expression) = rest.split_at(size);
    BINS.with(|bins| {
        let metadata = Metadata {
            digest: cf::Digest([7; 20]),
            last_update_time: 900_000,
            void_time: 1_060,
            set_name: b"people",
            is_key_stored: true,
            is_tombstone: false,
            stored_size: 112,
            medium: Medium::Memory,
            now_ms: 1_000_000,
        };
        let bins = bins.get_or_init(bins_of_every_type);
        let record = Record { metadata: &metadata, key: Some(b"\x03me"), bins };
        match what % 3 {
            0 => filter(&record, expression),
            1 => {
                if let Ok(Some(value)) = exp::read(&record, expression, &Budget::unlimited()) {
                    wire(&value);
                }
            }
            _ => {
                if let Ok(Change::Set(made)) = exp::modify(&record, true, expression, &Budget::unlimited()) {
                    check(&made, operation);
                }
            }
        }
    });
}

fn bins_of_every_type() -> Bins<'static> {
    let mut bins = Bins::new();
    for (number, name, value) in TYPES {
        if let Ok(particle) = Particle::from_wire(number, value, &Budget::unlimited()) {
            bins.set(name, particle);
        }
    }
    if let Ok(Change::Set(sketch)) =
        hll::modify(None, &HLL_INIT, &Budget::unlimited()).map(|modified| modified.bin)
    {
        bins.set(b"h", sketch);
    }
    bins
}

/// If a filter has a result without the bins, the result with the bins is the same.
fn filter(record: &Record<'_>, expression: &[u8]) {
    let Ok(filter) = Filter::compile(expression, &Budget::unlimited()) else { return };
    let matches = filter.matches(record, &Budget::unlimited());
    match filter.matches_metadata(record.metadata, &Budget::unlimited()) {
        Truth::Unknown => {}
        known => assert_eq!(known == Truth::True, matches),
    }
    assert_eq!(filter.into_owned().matches(record, &Budget::unlimited()), matches);
}

/// Checks that a value that becomes a bin can be stored and read back, and that operations on it end.
fn check(particle: &Particle<'_>, operation: &[u8]) {
    let mut flat = Vec::new();
    particle.write_flat(&mut flat);
    assert_eq!(flat.len(), particle.flat_size());
    let (stored, rest) = Particle::split_flat(&flat).expect("what was just written");
    assert!(rest.is_empty());
    assert_eq!(wire(&stored), wire(particle));
    for read in [cdt::read, bits::read, hll::read] {
        let _ = read(Some(&stored), operation, &Budget::unlimited());
    }
    for modify in [cdt::modify, bits::modify, hll::modify] {
        let _ = modify(Some(&stored), operation, &Budget::unlimited());
    }
}

fn wire(particle: &Particle<'_>) -> Vec<u8> {
    let mut wire = Vec::new();
    particle.write_wire(&mut wire);
    wire
}
