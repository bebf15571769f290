//! Loads other than single plain records: batches, operations on large lists and maps, filters.

use std::sync::Arc;

use cf::msgpack::{
    put_double, put_extension_header, put_integer, put_list_header, put_map_header, put_nil, put_raw_header,
};

use crate::load::random::Random;
use crate::load::{Kind, Outcome, Protocol, Reply};
use crate::record::keys::Keys;
use crate::record::particle_type;
use crate::record::reply;
use crate::record::request::{Header, Target, Template, info};

const OP_WRITE: u8 = 2;
const OP_CDT_READ: u8 = 3;
const OP_CDT_MODIFY: u8 = 4;

const LIST_APPEND: u8 = 1;
const MAP_PUT: u8 = 67;
const MAP_GET_BY_KEY: u8 = 97;
const RETURN_VALUE: u8 = 7;
const KEY_ORDERED: u8 = 1;

const BATCH_READ_ROWS: usize = 100;
const BATCH_WRITE_ROWS: usize = 50;
const SMALL_CONTAINER: u64 = 1000;
const LARGE_CONTAINER: u64 = 10_000;
/// Number of different requests in a scenario whose requests differ in more than the record.
const VARIANTS: u64 = 256;
/// Name of the bin with the list or map.
const BIN: &str = "b";
const VARIANTS_SEED: u64 = 0xC3;

/// A load. Its name is that of its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scenario {
    BatchRead,
    BatchWrite,
    ListAppend,
    MapPut,
    MapGet,
    Filter,
}

impl Scenario {
    pub(super) fn name(self) -> &'static str {
        match self {
            Scenario::BatchRead => "batch read of 100 records",
            Scenario::BatchWrite => "batch write of 50 records",
            Scenario::ListAppend => "append to a list of 1,000",
            Scenario::MapPut => "put into a map of 1,000",
            Scenario::MapGet => "get by key from a map of 10,000",
            Scenario::Filter => "filtered read over 3 bins",
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Scenario::BatchRead | Scenario::MapGet | Scenario::Filter => Kind::Read,
            Scenario::BatchWrite | Scenario::ListAppend | Scenario::MapPut => Kind::Write,
        }
    }

    /// Number of the scenario's own records; 0 if it uses the records that all phases share.
    pub(super) fn own_records(self) -> u64 {
        match self {
            Scenario::BatchRead | Scenario::BatchWrite => 0,
            Scenario::ListAppend | Scenario::MapPut => 2000,
            Scenario::MapGet => 200,
            Scenario::Filter => 10_000,
        }
    }

    /// The bins of its records.
    fn bins(self) -> Vec<(&'static str, u8, Vec<u8>)> {
        match self {
            Scenario::BatchRead | Scenario::BatchWrite => Vec::new(),
            Scenario::ListAppend => vec![(BIN, particle_type::LIST, list(SMALL_CONTAINER))],
            Scenario::MapPut => vec![(BIN, particle_type::MAP, map(SMALL_CONTAINER))],
            Scenario::MapGet => vec![(BIN, particle_type::MAP, map(LARGE_CONTAINER))],
            Scenario::Filter => vec![
                ("number", particle_type::INTEGER, 42u64.to_be_bytes().to_vec()),
                ("text", particle_type::STRING, b"between".to_vec()),
                ("float", particle_type::FLOAT, 1.5f64.to_be_bytes().to_vec()),
            ],
        }
    }

    fn requests(self, target: Target<'_>, value_size: u32) -> Vec<Template> {
        let read = Header { info1: info::INFO1_READ, ..Header::default() };
        let read_all = Header { info1: info::INFO1_READ | info::INFO1_GET_ALL, ..Header::default() };
        let write = Header { info2: info::INFO2_WRITE, ..Header::default() };
        let mut random = Random::new(VARIANTS_SEED);
        let mut variants = |header, op, count, payload: &dyn Fn(i64) -> Vec<u8>| {
            let template = |_| {
                let payload = payload(random.below(count).cast_signed());
                Template::new(header, target).with_op(op, particle_type::BLOB, BIN, &payload)
            };
            (0..VARIANTS).map(template).collect()
        };
        match self {
            Scenario::BatchRead => {
                vec![Template::batch(&Template::new(read_all, target), BATCH_READ_ROWS)]
            }
            Scenario::BatchWrite => {
                let value = vec![0xA5; value_size as usize];
                let row =
                    Template::new(write, target).with_op(OP_WRITE, particle_type::BLOB, "testbin", &value);
                vec![Template::batch(&row, BATCH_WRITE_ROWS)]
            }
            Scenario::ListAppend => {
                variants(write, OP_CDT_MODIFY, SMALL_CONTAINER, &|n| packed(&[LIST_APPEND], &[n]))
            }
            Scenario::MapPut => variants(write, OP_CDT_MODIFY, SMALL_CONTAINER, &|n| {
                packed(&[MAP_PUT], &[n, n + 1, i64::from(KEY_ORDERED)])
            }),
            Scenario::MapGet => variants(read, OP_CDT_READ, LARGE_CONTAINER, &|n| {
                packed(&[MAP_GET_BY_KEY, RETURN_VALUE], &[n])
            }),
            Scenario::Filter => vec![Template::new(read_all, target).with_filter(&filter())],
        }
    }
}

/// A list of the integers below `count`.
fn list(count: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_list_header(&mut out, count as u32);
    (0..count.cast_signed()).for_each(|value| put_integer(&mut out, value));
    out
}

/// A map, ordered by key, from each integer below `count` to another integer.
fn map(count: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_map_header(&mut out, count as u32 + 1);
    put_extension_header(&mut out, 0, KEY_ORDERED);
    put_nil(&mut out);
    for key in 0..count.cast_signed() {
        put_integer(&mut out, key);
        put_integer(&mut out, key + 1);
    }
    out
}

/// An operation in MessagePack: a list of its code, optionally its return type, and its arguments.
fn packed(codes: &[u8], arguments: &[i64]) -> Vec<u8> {
    let mut out = Vec::new();
    put_list_header(&mut out, (codes.len() + arguments.len()) as u32);
    codes.iter().for_each(|code| put_integer(&mut out, i64::from(*code)));
    arguments.iter().for_each(|argument| put_integer(&mut out, *argument));
    out
}

/// The filter: number >= 10 and text = "between" and float < 2.5
fn filter() -> Vec<u8> {
    const AND: u8 = 16;
    const EQ: u8 = 1;
    const GE: u8 = 4;
    const LT: u8 = 5;
    const BIN_OF_TYPE: u8 = 81;
    let mut out = vec![0x94, AND];
    let mut compare = |comparison: u8, bin_type: u8, name: &str, value: &dyn Fn(&mut Vec<u8>)| {
        out.extend_from_slice(&[0x93, comparison, 0x93, BIN_OF_TYPE, bin_type]);
        put_raw_header(&mut out, name.len() as u32);
        out.extend_from_slice(name.as_bytes());
        value(&mut out);
    };
    compare(GE, 2, "number", &|out| put_integer(out, 10));
    compare(EQ, 3, "text", &|out| {
        put_raw_header(out, 8);
        out.extend_from_slice(b"\x03between");
    });
    compare(LT, 7, "float", &|out| put_double(out, 2.5));
    out
}

/// State that all threads of a run share.
#[derive(Debug)]
struct Shared {
    scenario: Scenario,
    keys: Keys,
    requests: Vec<Template>,
}

/// The requests of one thread. They write the records of a scenario, or are its measured load.
#[derive(Debug)]
pub(super) struct ScenarioLoad {
    shared: Arc<Shared>,
    random: Random,
    /// Records that are still to be written, if that is the purpose.
    left: Option<std::ops::Range<u64>>,
    first_fault: Option<String>,
}

impl ScenarioLoad {
    /// The load that writes the records of `scenario`. `set` is the set that all phases share.
    pub(super) fn preparing(scenario: Scenario, namespace: &str, set: &str) -> Self {
        let set = own_set(scenario, set);
        let target = Target { namespace, set: &set, send_key: false };
        let header = Header { info2: info::INFO2_WRITE, ..Header::default() };
        let request =
            scenario.bins().iter().fold(Template::new(header, target), |request, (name, kind, value)| {
                request.with_op(OP_WRITE, *kind, name, value)
            });
        let keys = Keys::new(&set, 0, scenario.own_records());
        let left = Some(0..keys.count());
        let shared = Arc::new(Shared { scenario, keys, requests: vec![request] });
        ScenarioLoad { shared, random: Random::new(0), left, first_fault: None }
    }

    /// The measured loads of `scenario`, one for each of `threads`.
    pub(super) fn measuring(
        scenario: Scenario,
        (namespace, set): (&str, &str),
        (shared_records, value_size): (u64, u32),
        threads: usize,
        seed: u64,
    ) -> Vec<Self> {
        let (set, count) = match scenario.own_records() {
            0 => (set.to_owned(), shared_records),
            count => (own_set(scenario, set), count),
        };
        let target = Target { namespace, set: &set, send_key: false };
        let requests = scenario.requests(target, value_size);
        let keys = Keys::new(&set, 0, count).with_table();
        let shared = Arc::new(Shared { scenario, keys, requests });
        let load = |thread: u64| ScenarioLoad {
            shared: Arc::clone(&shared),
            random: Random::new(seed ^ (thread + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            left: None,
            first_fault: None,
        };
        (0..threads as u64).map(load).collect()
    }
}

fn own_set(scenario: Scenario, set: &str) -> String {
    format!("{set}-{scenario:?}")
}

impl Protocol for ScenarioLoad {
    fn next_request(&mut self, out: &mut Vec<u8>) -> Option<Kind> {
        let Shared { scenario, keys, requests } = &*self.shared;
        if let Some(left) = &mut self.left {
            let index = left.next()?;
            requests[0].append(&keys.digest(index), keys.key(index), out);
            return Some(Kind::Write);
        }
        let random = &mut self.random;
        let request = &requests[random.below(requests.len() as u64) as usize];
        request.append_each(out, || keys.digest(random.below(keys.count())));
        Some(scenario.kind())
    }

    fn reply(&mut self, kind: Kind, bytes: &[u8]) -> Result<Option<Reply>, String> {
        let is_batch = matches!(self.shared.scenario, Scenario::BatchRead | Scenario::BatchWrite);
        let (size, code, op_count) = if is_batch {
            let Some(reply) = reply::parse_batch(bytes)? else { return Ok(None) };
            (reply.size, reply.code, reply.op_count)
        } else {
            let Some(reply) = reply::parse(bytes)? else { return Ok(None) };
            (reply.size, reply.code, reply.op_count)
        };
        let outcome = match (code, kind) {
            (0, Kind::Read) if op_count == 0 => Outcome::Wrong,
            (0, _) => Outcome::Hit,
            (2, _) => Outcome::Miss,
            _ => Outcome::Error,
        };
        if matches!(outcome, Outcome::Wrong | Outcome::Error) {
            let text = reply::result_text(code);
            self.first_fault.get_or_insert_with(|| format!("result {code}, {text}, with {op_count} bins"));
        }
        Ok(Some(Reply { size, code, outcome }))
    }

    fn first_fault(&self) -> Option<String> {
        self.first_fault.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_written_once_and_then_asked_for() {
        for scenario in [Scenario::ListAppend, Scenario::MapPut, Scenario::MapGet, Scenario::Filter] {
            let mut load = ScenarioLoad::preparing(scenario, "test", "s");
            let mut out = Vec::new();
            let written = std::iter::from_fn(|| {
                out.clear();
                load.next_request(&mut out)
            });
            assert_eq!(written.count() as u64, scenario.own_records());
        }
        for scenario in [Scenario::BatchRead, Scenario::BatchWrite] {
            let mut loads = ScenarioLoad::measuring(scenario, ("test", "s"), (1000, 100), 2, 1);
            let mut out = [Vec::new(), Vec::new()];
            for (load, out) in loads.iter_mut().zip(&mut out) {
                assert_eq!(load.next_request(out), Some(scenario.kind()));
            }
            assert_ne!(out[0], out[1], "threads ask for records of their own");
        }
    }

    #[test]
    fn containers_have_their_stated_sizes() {
        let mut list = cf::msgpack::Reader::new(&list(SMALL_CONTAINER)).list_header();
        assert_eq!(list.take(), Some(1000));
        assert!(
            datamodel::Particle::from_wire(
                particle_type::MAP,
                &map(LARGE_CONTAINER),
                &datamodel::Budget::unlimited()
            )
            .is_ok()
        );
        assert!(datamodel::exp::Filter::compile(&filter(), &datamodel::Budget::unlimited()).is_ok());
    }
}
