//! Work ends with its budget: one long operation of each family runs with a budget that is too small.
//!
//! The time of the work is measured too, so that the price of a step stays close to its stated time. Times
//! are processor times of this thread, the shortest of several runs, and limits are many times those of an
//! idle machine.

use std::time::{Duration, Instant};

use cf::clock::thread_cpu_nanos;
use cf::msgpack::{TEXT, put_integer, put_list_header, put_map_header, put_raw_header};
use datamodel::exp::{BinSource, Filter, Medium, Metadata, Record};
use datamodel::flat::{FlatRecord, NewRecord};
use datamodel::particle::BytesType;
use datamodel::{Bins, Budget, Particle, bits, cdt, geojson, hll};
use proto::ResultCode;

/// The steps of a request on a service thread.
const STEPS: u64 = 200_000;
/// Longest time for work of that many steps.
const TIME_MAX: Duration = Duration::from_millis(10);
/// Largest average number of nanoseconds for a step of an operation.
const STEP_NANOS_MAX: u64 = 20;
const RUNS: u32 = 3;

fn cpu_time_since(start: u64) -> Duration {
    Duration::from_nanos(thread_cpu_nanos() - start)
}

/// Checks that `work` exceeds [`STEPS`], ends when they are used up, and has the right price.
fn check<T>(what: &str, work: impl Fn(&Budget<'_>) -> Result<T, ResultCode>) {
    check_ends(what, &work);
    check_price(what, work);
}

/// Checks that `work` exceeds [`STEPS`] and ends when they are used up.
fn check_ends<T>(what: &str, work: impl Fn(&Budget<'_>) -> Result<T, ResultCode>) {
    let mut shortest = Duration::MAX;
    for _ in 0..RUNS {
        let budget = Budget::new(STEPS);
        let start = thread_cpu_nanos();
        let result = work(&budget);
        shortest = shortest.min(cpu_time_since(start));
        assert_eq!(result.err(), Some(ResultCode::Timeout), "{what}");
        assert!(budget.is_exhausted(), "{what}");
    }
    assert!(shortest < TIME_MAX, "{what} ends {shortest:?} after its budget of {STEPS} steps began");
}

/// Checks that `work` succeeds with an unlimited budget and draws according to its time.
fn check_price<T>(what: &str, work: impl Fn(&Budget<'_>) -> Result<T, ResultCode>) {
    let mut shortest = Duration::MAX;
    let mut drawn = 0;
    for _ in 0..RUNS {
        let budget = Budget::unlimited();
        let start = thread_cpu_nanos();
        assert!(work(&budget).is_ok(), "{what}");
        shortest = shortest.min(cpu_time_since(start));
        drawn = budget.drawn();
    }
    let nanos = shortest.as_nanos() as u64;
    assert!(nanos < drawn * STEP_NANOS_MAX, "{what} takes {nanos} ns for {drawn} steps");
}

/// Different numbers in no particular order.
fn shuffled(count: u32) -> impl Iterator<Item = i64> {
    (0..count).map(move |n| i64::from(n.wrapping_mul(2_654_435_761) % (1 << 30)))
}

fn integers(count: u32) -> Vec<u8> {
    let mut list = Vec::new();
    put_list_header(&mut list, count);
    shuffled(count).for_each(|value| put_integer(&mut list, value));
    list
}

fn texts(count: u32, size: u32) -> Vec<u8> {
    let mut list = Vec::new();
    put_list_header(&mut list, count);
    for value in shuffled(count) {
        put_raw_header(&mut list, size + 21);
        list.push(TEXT);
        list.resize(list.len() + size as usize, b'x');
        list.extend_from_slice(format!("{value:020}").as_bytes());
    }
    list
}

fn map(count: u32) -> Vec<u8> {
    let mut map = Vec::new();
    put_map_header(&mut map, count);
    for (key, value) in (0..count).zip(shuffled(count)) {
        put_integer(&mut map, i64::from(key) * 7);
        put_integer(&mut map, value);
    }
    map
}

fn list_bin(bytes: Vec<u8>) -> Particle<'static> {
    Particle::owned(BytesType::List, bytes)
}

fn map_bin(bytes: Vec<u8>) -> Particle<'static> {
    Particle::owned(BytesType::Map, bytes)
}

fn blob(size: usize) -> Particle<'static> {
    Particle::owned(BytesType::Blob, vec![0x55; size])
}

/// A call with integer arguments, followed by packed arguments.
fn call(code: i64, numbers: &[i64], packed: &[&[u8]]) -> Vec<u8> {
    let mut call = Vec::new();
    put_list_header(&mut call, (1 + numbers.len() + packed.len()) as u32);
    put_integer(&mut call, code);
    numbers.iter().for_each(|number| put_integer(&mut call, *number));
    packed.iter().for_each(|argument| call.extend_from_slice(argument));
    call
}

#[test]
fn list_operations_end() {
    let list = list_bin(integers(1_000_000));
    let long_texts = list_bin(texts(2_000, 4_000));
    let sort = call(13, &[0], &[]);
    check("sort a million", |budget| cdt::modify(Some(&list), &sort, budget));
    check("sort long texts", |budget| cdt::modify(Some(&long_texts), &sort, budget));
    check("order a million", |budget| cdt::modify(Some(&list), &call(0, &[1], &[]), budget));
    check("element by index", |budget| cdt::read(Some(&list), &call(17, &[900_000], &[]), budget));
    check("element by rank", |budget| cdt::read(Some(&list), &call(21, &[7, 500_000], &[]), budget));
    check("ranks", |budget| cdt::read(Some(&list), &call(24, &[3, 0, 1000], &[]), budget));
    check("element by value", |budget| cdt::read(Some(&list), &call(22, &[7, 5], &[]), budget));
    check("insert", |budget| cdt::modify(Some(&list), &call(3, &[0, 5], &[]), budget));
    check("remove", |budget| cdt::modify(Some(&list), &call(34, &[0, 10], &[]), budget));
    let items = integers(50_000);
    check("by list of values", |budget| cdt::read(Some(&list), &call(23, &[7], &[&items]), budget));
    check("append to ordered", |budget| {
        cdt::modify(Some(&list_bin(vec![0x91, 0xc7, 0, 1])), &call(2, &[], &[&items]), budget)
    });
    let append_unique = [&call(2, &[], &[&items])[..], &[0, 1 | 4 | 8]].concat();
    let append_unique = [&[0x94], &append_unique[1..]].concat();
    check("append unique", |budget| cdt::modify(Some(&list), &append_unique, budget));
}

#[test]
fn map_operations_end() {
    let map = map_bin(map(200_000));
    check("pair by rank", |budget| cdt::read(Some(&map), &call(100, &[7, 100_000], &[]), budget));
    check("pair by index", |budget| cdt::read(Some(&map), &call(98, &[7, 100_000], &[]), budget));
    check("pair by key", |budget| cdt::read(Some(&map), &call(97, &[7, 1_300_000], &[]), budget));
    check("rank of key", |budget| cdt::read(Some(&map), &call(97, &[3, 1], &[]), budget));
    check("pairs by value", |budget| cdt::read(Some(&map), &call(102, &[8, 1], &[]), budget));
    let items = self::map(100_000);
    check("put pairs", |budget| cdt::modify(Some(&map), &call(68, &[], &[&items]), budget));
    check("order by value", |budget| cdt::modify(Some(&map), &call(64, &[0x13], &[]), budget));
    let keys = integers(50_000);
    check("by list of keys", |budget| cdt::read(Some(&map), &call(107, &[7], &[&keys]), budget));
}

#[test]
fn written_values_are_checked_within_the_budget() {
    let mut unsorted = Vec::new();
    put_map_header(&mut unsorted, 200_000);
    for key in shuffled(200_000) {
        put_integer(&mut unsorted, key);
        unsorted.push(1);
    }
    check("a map out of order", |budget| Particle::from_wire(19, &unsorted, budget).map(drop));
    let list = integers(1_000_000);
    check("a long list", |budget| Particle::from_wire(20, &list, budget).map(drop));
}

#[test]
fn deep_containers_are_entered_within_the_budget() {
    // Nested lists, each ordered, with a long text beside the inner one.
    let mut value = vec![0x92, 0xc7, 0, 1, 7];
    for _ in 0..500 {
        let mut outer = vec![0x93, 0xc7, 0, 1];
        put_raw_header(&mut outer, 2_001);
        outer.push(TEXT);
        outer.resize(outer.len() + 2_000, b'x');
        outer.extend_from_slice(&value);
        value = outer;
    }
    let mut context = Vec::new();
    put_list_header(&mut context, 1000);
    (0..500).for_each(|_| context.extend_from_slice(&[0x10, 1]));
    let nested = [&[0x93, 0xcc, 0xff][..], &context, &[0x92, 1, 5]].concat();
    check("append in the depth", |budget| cdt::modify(Some(&list_bin(value.clone())), &nested, budget));
}

#[test]
fn bit_operations_end() {
    let bin = blob(8 << 20);
    check("bit or", |budget| bits::modify(Some(&bin), &call(9, &[0, 8 << 23, 3], &[]), budget));
    check("bit count", |budget| bits::read(Some(&bin), &call(51, &[0, 8 << 23], &[]), budget));
    check("resize", |budget| bits::modify(Some(&bin), &call(0, &[64 << 20], &[]), budget));
}

#[test]
fn sketches_end() {
    let create = [0x94, 0, 16, 20, 0];
    let modified = hll::modify(None, &create, &Budget::unlimited()).unwrap();
    let datamodel::Change::Set(sketch) = modified.bin else { panic!("no sketch") };
    let Particle::Bytes(_, bytes) = &sketch else { panic!("no bytes") };
    let mut operand = Vec::new();
    put_raw_header(&mut operand, bytes.len() as u32 + 1);
    operand.push(BytesType::Hll as u8);
    operand.extend_from_slice(bytes);
    let union = [&[0x92, 51, 0x92][..], &operand, &operand].concat();
    check("union", |budget| hll::read(Some(&sketch), &union, budget));
    let elements = integers(50_000);
    let add = [&[0x92, 1][..], &elements].concat();
    check("add", |budget| hll::modify(Some(&sketch), &add, budget));
}

/// An expression that compares the text bin `t` with a pattern.
fn pattern(flags: i64, pattern: &[u8]) -> Vec<u8> {
    let mut expression = vec![0x94, 7];
    put_integer(&mut expression, flags);
    put_raw_header(&mut expression, pattern.len() as u32);
    expression.extend_from_slice(pattern);
    expression.extend_from_slice(&[0x93, 81, 3, 0xa1, b't']);
    expression
}

/// Whether the record with these bins matches a filter.
fn matches(filter: &[u8], bins: &dyn BinSource, budget: &Budget<'_>) -> Result<bool, ResultCode> {
    let metadata = Metadata {
        digest: cf::Digest([7; 20]),
        last_update_time: 900_000,
        void_time: 0,
        set_name: b"",
        is_key_stored: false,
        is_tombstone: false,
        stored_size: 16,
        medium: Medium::Memory,
        now_ms: 1_000_000,
    };
    let filter = Filter::compile(filter, &Budget::unlimited()).expect("a filter");
    let matches = filter.matches(&Record { metadata: &metadata, key: None, bins }, budget);
    budget.check(Ok(matches))
}

fn text_bin(text: Vec<u8>) -> Bins<'static> {
    let mut bins = Bins::new();
    bins.set(b"t", Particle::owned(BytesType::String, text));
    bins
}

#[test]
fn regular_expressions_end() {
    let exploding = pattern(1, b"(a{0,100}){0,100}b");
    for size in [10_000, 8 << 20] {
        let bins = text_bin(vec![b'a'; size]);
        check_ends("an exploding pattern", |budget| matches(&exploding, &bins, budget));
    }
    let bins = text_bin(vec![b'a'; 300]);
    check("an exploding pattern on a short text", |budget| matches(&exploding, &bins, budget));
    let bins = text_bin(vec![b'a'; 4 << 20]);
    check("a plain pattern on a long text", |budget| matches(&pattern(1, b"a+bc"), &bins, budget));
    // The automaton gets as many states as there are sets of places with an x.
    let mixed: Vec<u8> = {
        let bit = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_mul(n) >> 60 & 1 == 0;
        (0..20_000).map(|n| if bit(n) { b'x' } else { b'y' }).collect()
    };
    check("a pattern of many states", |budget| {
        matches(&pattern(1, b"x.{60}z"), &text_bin(mixed.clone()), budget)
    });
}

#[test]
fn back_references_end() {
    let text = [vec![b'a'; 1 << 20], b"c".to_vec()].concat();
    let bins = text_bin(text);
    check("a long repetition", |budget| matches(&pattern(0, b"\\(a*\\)\\1c"), &bins, budget));
    let bins = text_bin(vec![b'a'; 2_000]);
    check("many ways", |budget| matches(&pattern(1, b"^(a|a|a)*(b)\\2$"), &bins, budget));
}

#[test]
fn expressions_end() {
    // The filter compares a long text with itself again and again.
    let equal = [&[0x93, 1][..], &[0x93, 81, 3, 0xa1, b't'], &[0x93, 81, 3, 0xa1, b't']].concat();
    let mut all = vec![0xdc, 0x03, 0xe9, 16];
    (0..1000).for_each(|_| all.extend_from_slice(&equal));
    let bins = text_bin(vec![b'a'; 100_000]);
    check("comparisons", |budget| matches(&all, &bins, budget));
    // The filter sorts the same list again and again, each time as a part of a value.
    let mut sorted = vec![0x93, 81, 4, 0xa1, b't'];
    for _ in 0..20 {
        sorted = [&[0x95, 127, 4, 0x40, 0x92, 13, 0][..], &sorted].concat();
    }
    let size = [&[0x95, 127, 2, 0, 0x91, 16][..], &sorted].concat();
    let is_long = [&[0x93, 3][..], &size, &[5]].concat();
    let mut bins = Bins::new();
    bins.set(b"t", list_bin(integers(20_000)));
    check("sorted again and again", |budget| matches(&is_long, &bins, budget));
}

#[test]
fn bins_are_looked_up_in_a_table() {
    let names: Vec<String> = (0..32_000).map(|n| format!("bin {n}")).collect();
    let mut bins = Bins::new();
    for name in &names {
        bins.set(name.as_bytes(), Particle::Integer(1));
    }
    let new = NewRecord {
        digest: cf::Digest([7; 20]),
        last_update_time: 1,
        generation: 1,
        void_time: 0,
        tree_id: 0,
        set_name: b"",
        key: None,
        leaves_tombstone: false,
    };
    let mut flat = Vec::new();
    new.encode(&bins, new.size(&bins), &mut flat);
    let record = FlatRecord::parse(&flat).expect("a record");
    // The filter checks that each of 10,000 bins is 1.
    let mut all = vec![0xdc, 0x27, 0x11, 16];
    for name in names.iter().rev().take(10_000) {
        all.extend_from_slice(&[0x93, 1, 0x93, 81, 2]);
        put_raw_header(&mut all, name.len() as u32);
        all.extend_from_slice(name.as_bytes());
        all.push(1);
    }
    let budget = Budget::unlimited();
    let start = Instant::now();
    assert_eq!(matches(&all, &record, &budget), Ok(true));
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert!(budget.drawn() < 10_000_000, "{budget:?}");
}

/// A polygon with many corners around a point, as the text of bin `t`.
fn polygon(corners: u32) -> String {
    let corner = |n: u32| {
        let angle = f64::from(n % corners) / f64::from(corners) * std::f64::consts::TAU;
        let radius = if n.is_multiple_of(2) { 1.0 } else { 1.3 };
        format!("[{},{}]", 13.0 + radius * angle.cos(), 52.0 + radius * angle.sin())
    };
    let corners: Vec<String> = (0..=corners).map(corner).collect();
    format!(r#"{{"type":"Polygon","coordinates":[[{}]]}}"#, corners.join(","))
}

/// Many small triangles. None is within another.
fn triangles(count: u32) -> String {
    let triangle = |n: u32| {
        let (x, y) = (f64::from(n % 300) / 10.0, f64::from(n / 300) / 10.0);
        format!("[[{x},{y}],[{},{y}],[{x},{}],[{x},{y}]]", x + 0.05, y + 0.05)
    };
    let triangles: Vec<String> = (0..count).map(triangle).collect();
    format!(r#"{{"type":"Polygon","coordinates":[{}]}}"#, triangles.join(","))
}

#[test]
fn regions_end() {
    let large = polygon(20_000);
    check("cells of many corners", |budget| geojson::from_json(large.as_bytes(), budget));
    let many = triangles(10_000);
    check("many outlines", |budget| geojson::from_json(many.as_bytes(), budget));
    let stored = geojson::from_json(polygon(200).as_bytes(), &Budget::unlimited()).expect("a polygon");
    let point = br#"{"type":"Point","coordinates":[13.01,52.01]}"#;
    let mut within = vec![0x93, 8];
    put_raw_header(&mut within, point.len() as u32 + 1);
    within.push(BytesType::GeoJson as u8);
    within.extend_from_slice(point);
    within.extend_from_slice(&[0x93, 81, 8, 0xa1, b't']);
    let mut all = vec![0xdc, 0x03, 0xe9, 16];
    (0..1000).for_each(|_| all.extend_from_slice(&within));
    let mut bins = Bins::new();
    bins.set(b"t", Particle::owned(BytesType::GeoJson, stored));
    check("a point in a polygon", |budget| matches(&all, &bins, budget));
}

#[test]
fn a_filter_is_compiled_within_the_budget() {
    let one = pattern(1, b"(abc|def){50}[x-z]{200}");
    let mut all = vec![0xdc, 0, 201, 17];
    (0..200).for_each(|_| all.extend_from_slice(&one));
    check("patterns", |budget| Filter::compile(&all, budget).map(drop));
}
