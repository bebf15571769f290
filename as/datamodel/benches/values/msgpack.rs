//! The walk over msgpack, and the conversion of client values to the stored form.

use cf::msgpack::{Reader, compare, end_of};
use datamodel::Budget;
use datamodel::cdt::{list_from_wire, map_from_wire};
use divan::{Bencher, black_box};

use super::{COUNTS, list, map};

#[divan::bench(args = COUNTS)]
fn walk(bencher: Bencher<'_, '_>, count: u32) {
    let value = map(&[], count);
    bencher.bench(|| end_of(black_box(&value), 0, 1));
}

#[divan::bench(args = COUNTS)]
fn read_heads(bencher: Bencher<'_, '_>, count: u32) {
    let value = list(&[], count);
    bencher.bench(|| {
        let mut reader = Reader::new(black_box(&value));
        std::iter::from_fn(|| reader.head()).count()
    });
}

#[divan::bench(args = COUNTS)]
fn compare_equal(bencher: Bencher<'_, '_>, count: u32) {
    let value = map(&[], count);
    let other = value.clone();
    bencher.bench(|| compare(black_box(&value), black_box(&other)));
}

#[divan::bench(args = COUNTS)]
fn store_list(bencher: Bencher<'_, '_>, count: u32) {
    let value = list(&[], count);
    bencher.bench(|| list_from_wire(black_box(&value), &Budget::unlimited()));
}

/// The pairs are in order, but the map is not flagged as ordered.
#[divan::bench(args = COUNTS)]
fn store_map(bencher: Bencher<'_, '_>, count: u32) {
    let value = map(&[], count);
    bencher.bench(|| map_from_wire(black_box(&value), &Budget::unlimited()));
}

/// The index is made when the map is stored.
#[divan::bench(args = COUNTS)]
fn store_indexed_map(bencher: Bencher<'_, '_>, count: u32) {
    let value = map(&[0xc7, 0, 0x13, 0xc0], count);
    bencher.bench(|| map_from_wire(black_box(&value), &Budget::unlimited()));
}
