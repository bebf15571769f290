//! Benchmarks of list and map operations on existing values.

use cf::msgpack::{put_integer, put_list_header};
use datamodel::Budget;
use datamodel::{BytesType, Particle, cdt};
use divan::{Bencher, black_box};

use super::{COUNTS, list, map};

const ORDERED: &[u8] = &[0xc7, 0, 1];
const KEY_ORDERED: &[u8] = &[0xc7, 0, 1, 0xc0];
const INDEXED: &[u8] = &[0xc7, 0, 0x11, 0xc0];

const LIST_APPEND: i64 = 1;
const LIST_INSERT: i64 = 3;
const LIST_SORT: i64 = 13;
const LIST_GET: i64 = 17;
const LIST_BY_VALUE: i64 = 22;
const LIST_BY_RANK_RANGE: i64 = 26;
const MAP_PUT: i64 = 67;
const MAP_BY_KEY: i64 = 97;
const MAP_BY_RANK_RANGE: i64 = 106;
const RETURN_INDEX: i64 = 1;
const RETURN_VALUE: i64 = 7;
const ADD_UNIQUE: i64 = 1;

fn stored_list(description: &[u8], count: u32) -> Particle<'static> {
    let wire = list(description, count);
    Particle::owned(
        BytesType::List,
        cdt::list_from_wire(&wire, &Budget::unlimited()).expect("a list").into_owned(),
    )
}

fn stored_map(description: &[u8], count: u32) -> Particle<'static> {
    let wire = map(description, count);
    Particle::owned(
        BytesType::Map,
        cdt::map_from_wire(&wire, &Budget::unlimited()).expect("a map").into_owned(),
    )
}

/// An operation: its code and arguments.
fn call(elements: &[i64]) -> Vec<u8> {
    let mut out = Vec::new();
    put_list_header(&mut out, elements.len() as u32);
    elements.iter().for_each(|element| put_integer(&mut out, *element));
    out
}

fn read(bencher: Bencher<'_, '_>, bin: &Particle<'_>, call: &[u8]) {
    assert!(
        matches!(cdt::read(Some(bin), call, &Budget::unlimited()), Ok(Some(_))),
        "an operation that answers"
    );
    bencher.bench(|| cdt::read(Some(black_box(bin)), black_box(call), &Budget::unlimited()));
}

fn modify(bencher: Bencher<'_, '_>, bin: &Particle<'_>, call: &[u8]) {
    assert!(cdt::modify(Some(bin), call, &Budget::unlimited()).is_ok(), "an operation that works");
    bencher.bench(|| cdt::modify(Some(black_box(bin)), black_box(call), &Budget::unlimited()));
}

#[divan::bench(args = COUNTS)]
fn list_append(bencher: Bencher<'_, '_>, count: u32) {
    modify(bencher, &stored_list(&[], count), &call(&[LIST_APPEND, 7]));
}

#[divan::bench(args = COUNTS)]
fn list_append_unique(bencher: Bencher<'_, '_>, count: u32) {
    let new = i64::from(count);
    modify(bencher, &stored_list(&[], count), &call(&[LIST_APPEND, new, 0, ADD_UNIQUE]));
}

#[divan::bench(args = COUNTS)]
fn list_append_ordered(bencher: Bencher<'_, '_>, count: u32) {
    modify(bencher, &stored_list(ORDERED, count), &call(&[LIST_APPEND, i64::from(count / 2)]));
}

#[divan::bench(args = COUNTS)]
fn list_insert_in_the_middle(bencher: Bencher<'_, '_>, count: u32) {
    modify(bencher, &stored_list(&[], count), &call(&[LIST_INSERT, i64::from(count / 2), 7]));
}

#[divan::bench(args = COUNTS)]
fn list_sort(bencher: Bencher<'_, '_>, count: u32) {
    modify(bencher, &stored_list(&[], count), &call(&[LIST_SORT, 1]));
}

#[divan::bench(args = COUNTS)]
fn list_get(bencher: Bencher<'_, '_>, count: u32) {
    read(bencher, &stored_list(&[], count), &call(&[LIST_GET, i64::from(count / 2)]));
}

#[divan::bench(args = COUNTS)]
fn list_by_value(bencher: Bencher<'_, '_>, count: u32) {
    let last = i64::from(count - 1);
    read(bencher, &stored_list(&[], count), &call(&[LIST_BY_VALUE, RETURN_INDEX, last]));
}

#[divan::bench(args = COUNTS)]
fn list_top_ten(bencher: Bencher<'_, '_>, count: u32) {
    read(bencher, &stored_list(&[], count), &call(&[LIST_BY_RANK_RANGE, RETURN_VALUE, -10, 10]));
}

#[divan::bench(args = COUNTS)]
fn map_put(bencher: Bencher<'_, '_>, count: u32) {
    modify(bencher, &stored_map(KEY_ORDERED, count), &call(&[MAP_PUT, i64::from(count / 2), 7, 1]));
}

#[divan::bench(args = COUNTS)]
fn map_put_indexed(bencher: Bencher<'_, '_>, count: u32) {
    modify(bencher, &stored_map(INDEXED, count), &call(&[MAP_PUT, i64::from(count / 2), 7, 1]));
}

#[divan::bench(args = COUNTS)]
fn map_by_key(bencher: Bencher<'_, '_>, count: u32) {
    let middle = i64::from(count / 2);
    read(bencher, &stored_map(KEY_ORDERED, count), &call(&[MAP_BY_KEY, RETURN_VALUE, middle]));
}

#[divan::bench(args = COUNTS)]
fn map_by_key_indexed(bencher: Bencher<'_, '_>, count: u32) {
    let middle = i64::from(count / 2);
    read(bencher, &stored_map(INDEXED, count), &call(&[MAP_BY_KEY, RETURN_VALUE, middle]));
}

#[divan::bench(args = COUNTS)]
fn map_top_ten(bencher: Bencher<'_, '_>, count: u32) {
    read(bencher, &stored_map(KEY_ORDERED, count), &call(&[MAP_BY_RANK_RANGE, RETURN_VALUE, -10, 10]));
}
