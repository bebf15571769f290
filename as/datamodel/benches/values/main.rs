//! Micro-benchmarks of operations on values, `cargo bench -p datamodel`: the walk over msgpack, list and map operations,
//! expressions.
//!
//! Arguments are element counts. `cargo bench -p datamodel -- map` runs the benchmarks with `map` in their
//! names. `cargo test` runs each benchmark once.

mod containers;
mod expressions;
mod msgpack;

fn main() {
    divan::main();
}

/// Element counts: a few, as many as a small record holds, and as many as fill a large one.
const COUNTS: [u32; 3] = [10, 1_000, 50_000];

/// A list of the integers below `count`, in order, with this description.
fn list(description: &[u8], count: u32) -> Vec<u8> {
    let mut out = Vec::new();
    cf::msgpack::put_list_header(&mut out, count + u32::from(!description.is_empty()));
    out.extend_from_slice(description);
    (0..count).for_each(|value| cf::msgpack::put_integer(&mut out, i64::from(value)));
    out
}

/// A map of the integers below `count`, in order, to short texts, with this description.
fn map(description: &[u8], count: u32) -> Vec<u8> {
    let mut out = Vec::new();
    cf::msgpack::put_map_header(&mut out, count + u32::from(!description.is_empty()));
    out.extend_from_slice(description);
    for key in 0..count {
        cf::msgpack::put_integer(&mut out, i64::from(key));
        text(&mut out, &format!("value {key}"));
    }
    out
}

/// Appends a text as an element.
fn text(out: &mut Vec<u8>, text: &str) {
    cf::msgpack::put_raw_header(out, text.len() as u32 + 1);
    out.push(cf::msgpack::TEXT);
    out.extend_from_slice(text.as_bytes());
}
