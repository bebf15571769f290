//! A naive model of map operations, based on a vector of pairs.

use proto::ResultCode;

use super::list_model::{some_count, some_values, window, window_from};
use super::value::{Map, Random, Value, order};
use super::{CdtOperation, Expected};

const NONE: i64 = 0;
const INDEX: i64 = 1;
const REVERSE_INDEX: i64 = 2;
const RANK: i64 = 3;
const REVERSE_RANK: i64 = 4;
const COUNT: i64 = 5;
const KEY: i64 = 6;
const VALUE: i64 = 7;
const KEY_VALUE: i64 = 8;
const EXISTS: i64 = 13;
const UNORDERED_MAP: i64 = 16;
const ORDERED_MAP: i64 = 17;
const INVERTED: i64 = 0x1_0000;

/// A random operation, applied to `map`.
pub(super) fn operation(random: &mut Random, map: &mut Map) -> (CdtOperation, Expected) {
    if random.chance(60) { select(random, map) } else { change(random, map) }
}

/// A way of selecting pairs: code to get, code to remove, and whether any number of pairs may be selected.
type Selector = (i64, i64, bool);

const BY_KEY: Selector = (97, 76, false);
const BY_INDEX: Selector = (98, 77, false);
const BY_VALUE: Selector = (99, 78, false);
const BY_RANK: Selector = (100, 79, false);
const ALL_BY_VALUE: Selector = (102, 82, true);
const BY_KEY_INTERVAL: Selector = (103, 84, true);
const BY_INDEX_RANGE: Selector = (104, 85, true);
const BY_VALUE_INTERVAL: Selector = (105, 86, true);
const BY_RANK_RANGE: Selector = (106, 87, true);
const BY_KEY_LIST: Selector = (107, 81, true);
const BY_VALUE_LIST: Selector = (108, 83, true);
const BY_RELATIVE_INDEX_RANGE: Selector = (109, 88, true);
const BY_RELATIVE_RANK_RANGE: Selector = (110, 89, true);

const SELECTORS: [Selector; 13] = [
    BY_KEY,
    BY_INDEX,
    BY_VALUE,
    BY_RANK,
    ALL_BY_VALUE,
    BY_KEY_INTERVAL,
    BY_INDEX_RANGE,
    BY_VALUE_INTERVAL,
    BY_RANK_RANGE,
    BY_KEY_LIST,
    BY_VALUE_LIST,
    BY_RELATIVE_INDEX_RANGE,
    BY_RELATIVE_RANK_RANGE,
];

/// The arguments after the return type, and the positions of the pairs that they select.
fn selected(
    random: &mut Random,
    map: &Map,
    by_rank: &[usize],
    selector: Selector,
) -> (Vec<Value>, Vec<usize>) {
    let total = map.pairs.len();
    let any_key = |random: &mut Random| {
        if total != 0 && random.chance(70) {
            random.pick(&map.pairs).0.clone()
        } else {
            Value::random_key(random)
        }
    };
    let any_value = |random: &mut Random| {
        if total != 0 && random.chance(70) {
            random.pick(&map.pairs).1.clone()
        } else {
            Value::random(random, 1)
        }
    };
    let where_is = |test: &dyn Fn(&(Value, Value)) -> bool| -> Vec<usize> {
        (0..total).filter(|&position| test(&map.pairs[position])).collect()
    };
    let index = random.integer(-5, 6);
    let index_argument = Value::Int(index);
    let of_ranks = |ranks: Vec<usize>| ranks.into_iter().map(|rank| by_rank[rank]).collect();
    match selector {
        BY_KEY => {
            let key = any_key(random);
            let picked = map.position(&key).into_iter().collect();
            (vec![key], picked)
        }
        BY_INDEX => (vec![index_argument], window(index, 1, total)),
        BY_RANK => (vec![index_argument], of_ranks(window(index, 1, total))),
        BY_INDEX_RANGE | BY_RANK_RANGE => {
            let mut arguments = vec![index_argument];
            let picked = window(index, some_count(random, &mut arguments), total);
            (arguments, if selector == BY_RANK_RANGE { of_ranks(picked) } else { picked })
        }
        BY_VALUE | ALL_BY_VALUE => {
            let value = any_value(random);
            let mut picked = where_is(&|pair| pair.1.is(&value));
            if selector == BY_VALUE {
                picked.truncate(1);
            }
            (vec![value], picked)
        }
        BY_KEY_INTERVAL => {
            let (begin, end) = (any_key(random), any_key(random));
            if random.chance(25) {
                let picked = where_is(&|pair| order(&pair.0, &begin).is_ge());
                return (vec![begin], picked);
            }
            let picked = where_is(&|pair| order(&pair.0, &begin).is_ge() && order(&pair.0, &end).is_lt());
            (vec![begin, end], picked)
        }
        BY_VALUE_INTERVAL => {
            let (begin, end) = (any_value(random), any_value(random));
            if random.chance(25) {
                let picked = where_is(&|pair| order(&pair.1, &begin).is_ge());
                return (vec![begin], picked);
            }
            let picked = where_is(&|pair| order(&pair.1, &begin).is_ge() && order(&pair.1, &end).is_lt());
            (vec![begin, end], picked)
        }
        BY_KEY_LIST => {
            let keys = some_values(random, &any_key);
            let picked = where_is(&|pair| keys.iter().any(|key| key.is(&pair.0)));
            (vec![Value::list(keys)], picked)
        }
        BY_VALUE_LIST => {
            let values = some_values(random, &any_value);
            let picked = where_is(&|pair| values.iter().any(|value| value.is(&pair.1)));
            (vec![Value::list(values)], picked)
        }
        BY_RELATIVE_INDEX_RANGE => {
            let key = any_key(random);
            let base = where_is(&|pair| order(&pair.0, &key).is_lt()).len() as i64;
            let mut arguments = vec![key, index_argument];
            let count = some_count(random, &mut arguments);
            (arguments, window_from(base + index, count, total))
        }
        _ => {
            let value = any_value(random);
            let base = where_is(&|pair| order(&pair.1, &value).is_lt()).len() as i64;
            let mut arguments = vec![value, index_argument];
            let count = some_count(random, &mut arguments);
            (arguments, of_ranks(window_from(base + index, count, total)))
        }
    }
}

fn select(random: &mut Random, map: &mut Map) -> (CdtOperation, Expected) {
    let total = map.pairs.len();
    let mut by_rank: Vec<usize> = (0..total).collect();
    by_rank.sort_by(|&a, &b| order(&map.pairs[a].1, &map.pairs[b].1));
    let selector = *random.pick(&SELECTORS);
    let (arguments, mut picked) = selected(random, map, &by_rank, selector);
    let is_inverted = selector.2 && random.chance(25);
    if is_inverted {
        picked = (0..total).filter(|position| !picked.contains(position)).collect();
    }
    let kinds = match selector {
        BY_KEY_LIST => {
            vec![NONE, INDEX, REVERSE_INDEX, COUNT, KEY, VALUE, KEY_VALUE, UNORDERED_MAP, ORDERED_MAP]
        }
        BY_VALUE_LIST => vec![NONE, COUNT, KEY, VALUE, KEY_VALUE, UNORDERED_MAP, ORDERED_MAP],
        _ => vec![
            NONE,
            INDEX,
            REVERSE_INDEX,
            RANK,
            REVERSE_RANK,
            COUNT,
            KEY,
            VALUE,
            KEY_VALUE,
            UNORDERED_MAP,
            ORDERED_MAP,
        ],
    };
    let mut kind = *random.pick(&kinds);
    // Selectors differ in whether pairs outside a selection count as existing.
    if !is_inverted && random.chance(10) {
        kind = EXISTS;
    }
    let modifies = random.chance(40);
    let mut call = vec![Value::Int(if modifies { selector.1 } else { selector.0 })];
    call.push(Value::Int(kind + if is_inverted { INVERTED } else { 0 }));
    call.extend(arguments);
    let operation = CdtOperation { call, modifies };
    if [BY_INDEX, BY_RANK].contains(&selector) && picked.is_empty() {
        return (operation, Err(ResultCode::OpNotApplicable));
    }
    let rank_of = |position: usize| by_rank.iter().position(|&other| other == position).unwrap();
    let answer = answer(map, &picked, kind, selector.2, rank_of);
    if modifies {
        let mut position = 0;
        map.pairs.retain(|_| {
            position += 1;
            !picked.contains(&(position - 1))
        });
    }
    (operation, Ok(answer))
}

fn answer(map: &Map, picked: &[usize], kind: i64, is_multi: bool, rank_of: impl Fn(usize) -> usize) -> Value {
    let total = map.pairs.len();
    let one = |position: usize| match kind {
        INDEX => Value::Int(position as i64),
        REVERSE_INDEX => Value::Int((total - 1 - position) as i64),
        RANK => Value::Int(rank_of(position) as i64),
        REVERSE_RANK => Value::Int((total - 1 - rank_of(position)) as i64),
        KEY => map.pairs[position].0.clone(),
        _ => map.pairs[position].1.clone(),
    };
    let of_flags = |flags| {
        Value::Map(Map { flags, pairs: picked.iter().map(|&position| map.pairs[position].clone()).collect() })
    };
    match kind {
        NONE => Value::Nil,
        COUNT => Value::Int(picked.len() as i64),
        EXISTS => Value::Bool(!picked.is_empty()),
        KEY_VALUE => of_flags(8),
        UNORDERED_MAP => of_flags(0),
        ORDERED_MAP => of_flags(1),
        _ if is_multi => Value::list(picked.iter().map(|&position| one(position)).collect()),
        KEY | VALUE => picked.first().map_or(Value::Nil, |&position| one(position)),
        _ => picked.first().map_or(Value::Int(-1), |&position| one(position)),
    }
}

const NO_OVERWRITE: i64 = 1;
const NO_CREATE: i64 = 2;
const NO_FAIL: i64 = 4;
const PARTIAL: i64 = 8;

fn change(random: &mut Random, map: &mut Map) -> (CdtOperation, Expected) {
    let flags = [NO_OVERWRITE, NO_CREATE, NO_FAIL, PARTIAL].iter().filter(|_| random.chance(25)).sum::<i64>();
    let key = Value::random_key(random);
    let mut value = Value::random(random, 1);
    value.restore_order();
    let mut items = Map::default();
    for _ in 0..random.below(5) {
        let mut value = Value::random(random, 1);
        value.restore_order();
        items.put(Value::random_key(random), value);
    }
    let as_call = |code: i64, arguments: &[Value]| [&[Value::Int(code)], arguments].concat();
    let flag_arguments = [Value::Int(0), Value::Int(flags)];
    let pair = [(key.clone(), value.clone())];
    let (call, expected) = match random.below(10) {
        0 => (as_call(65, &[key, value]), put(map, &pair, NO_OVERWRITE)),
        1 => (as_call(69, &[key, value]), put(map, &pair, NO_CREATE)),
        2 | 3 => {
            let call = as_call(67, &[&[key, value], &flag_arguments[..]].concat());
            // Partial success makes no sense for a single pair.
            (call, put(map, &pair, flags & !PARTIAL))
        }
        4 => {
            let call = as_call(66, &[Value::Map(items.clone())]);
            (call, put(map, &items.pairs, NO_OVERWRITE))
        }
        5 => {
            let call = as_call(70, &[Value::Map(items.clone())]);
            (call, put(map, &items.pairs, NO_CREATE))
        }
        6 => {
            let call = as_call(68, &[&[Value::Map(items.clone())], &flag_arguments[..]].concat());
            (call, put_or_fill(map, &items, flags))
        }
        7 => {
            let (delta, is_decrement) = (random.integer(-3, 3), random.chance(50));
            let call = as_call(if is_decrement { 74 } else { 73 }, &[key.clone(), Value::Int(delta)]);
            (call, increment(map, &key, if is_decrement { -delta } else { delta }))
        }
        8 => {
            let (order, index) = (*random.pick(&[0, 1, 3]), *random.pick(&[0, 0x10]));
            map.flags = order;
            (as_call(64, &[Value::Int(i64::from(order + index))]), Ok(Value::Nil))
        }
        _ if random.chance(20) => {
            map.pairs.clear();
            (as_call(75, &[]), Ok(Value::Nil))
        }
        _ => {
            let size = Value::Int(map.pairs.len() as i64);
            return (CdtOperation { call: as_call(96, &[]), modifies: false }, Ok(size));
        }
    };
    (CdtOperation { call, modifies: true }, expected)
}

/// If failure is not an error and partial success is allowed, an empty map takes even pairs that must not be
/// created.
fn put_or_fill(map: &mut Map, items: &Map, flags: i64) -> Expected {
    let fills = NO_CREATE | NO_FAIL | PARTIAL;
    let flags = if map.pairs.is_empty() && flags & fills == fills { 0 } else { flags };
    put(map, &items.pairs, flags)
}

fn put(map: &mut Map, pairs: &[(Value, Value)], flags: i64) -> Expected {
    let mut changed = map.clone();
    for (key, value) in pairs {
        let refusal = match map.position(key) {
            Some(_) if flags & NO_OVERWRITE != 0 => Some(ResultCode::ElementExists),
            None if flags & NO_CREATE != 0 => Some(ResultCode::ElementNotFound),
            _ => None,
        };
        match refusal {
            None => changed.put(key.clone(), value.clone()),
            Some(code) if flags & NO_FAIL == 0 => return Err(code),
            Some(_) if flags & PARTIAL == 0 => return Ok(Value::Int(map.pairs.len() as i64)),
            Some(_) => {}
        }
    }
    *map = changed;
    Ok(Value::Int(map.pairs.len() as i64))
}

fn increment(map: &mut Map, key: &Value, delta: i64) -> Expected {
    let sum = match map.position(key).map(|position| &map.pairs[position].1) {
        None => Value::Int(delta),
        Some(Value::Int(value)) => Value::Int(value.wrapping_add(delta)),
        Some(Value::Double(value)) => Value::Double(value + delta as f64),
        Some(_) => return Err(ResultCode::Parameter),
    };
    map.put(key.clone(), sum.clone());
    Ok(sum)
}
