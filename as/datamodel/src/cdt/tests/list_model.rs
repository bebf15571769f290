//! A naive model of list operations, based on a vector.

use proto::ResultCode;

use super::value::{List, Random, Value, order};
use super::{CdtOperation, Expected};

const NONE: i64 = 0;
const INDEX: i64 = 1;
const REVERSE_INDEX: i64 = 2;
const RANK: i64 = 3;
const REVERSE_RANK: i64 = 4;
const COUNT: i64 = 5;
const VALUE: i64 = 7;
const EXISTS: i64 = 13;
const INVERTED: i64 = 0x1_0000;

/// Positions of `count` elements from `index`.
pub(super) fn window(index: i64, count: i64, total: usize) -> Vec<usize> {
    window_from(if index < 0 { total as i64 + index } else { index }, count, total)
}

/// Same as [`window`], with a start that does not count from the end.
pub(super) fn window_from(start: i64, count: i64, total: usize) -> Vec<usize> {
    (start.max(0)..(start + count).min(total as i64)).map(|position| position as usize).collect()
}

/// A random operation, applied to `list`.
pub(super) fn operation(random: &mut Random, list: &mut List) -> (CdtOperation, Expected) {
    match random.below(20) {
        0..=9 => select(random, list),
        10..=12 => by_position(random, list),
        _ => change(random, list),
    }
}

/// Elements from an index on, returned, popped or removed without a return type.
fn by_position(random: &mut Random, list: &mut List) -> (CdtOperation, Expected) {
    let (code, is_one) =
        *random.pick(&[(17, true), (18, false), (5, true), (6, false), (7, true), (8, false)]);
    let index = random.integer(-5, 6);
    let mut call = vec![Value::Int(code), Value::Int(index)];
    let count = if is_one { 1 } else { some_count(random, &mut call) };
    let picked = window(index, count, list.items.len());
    let modifies = code < 16;
    let operation = CdtOperation { call, modifies };
    if is_one && picked.is_empty() {
        return (operation, Err(ResultCode::OpNotApplicable));
    }
    let elements: Vec<Value> = picked.iter().map(|&position| list.items[position].clone()).collect();
    if modifies && !picked.is_empty() {
        list.items.drain(picked[0]..picked[0] + picked.len());
    }
    let answer = match code {
        7 | 8 => Value::Int(elements.len() as i64),
        _ if is_one => elements[0].clone(),
        _ => Value::list(elements),
    };
    (operation, Ok(answer))
}

/// The number of elements of a range, as an argument; all if it is left out.
pub(super) fn some_count(random: &mut Random, arguments: &mut Vec<Value>) -> i64 {
    if random.chance(25) {
        return i64::from(u32::MAX);
    }
    let count = random.integer(0, 5);
    arguments.push(Value::Int(count));
    count
}

/// A way of selecting elements: code to get, code to remove, and whether any number of elements may be
/// selected.
type Selector = (i64, i64, bool);

const BY_INDEX: Selector = (19, 32, false);
const BY_VALUE: Selector = (20, 33, false);
const BY_RANK: Selector = (21, 34, false);
const ALL_BY_VALUE: Selector = (22, 35, true);
const BY_VALUE_LIST: Selector = (23, 36, true);
const BY_INDEX_RANGE: Selector = (24, 37, true);
const BY_VALUE_INTERVAL: Selector = (25, 38, true);
const BY_RANK_RANGE: Selector = (26, 39, true);
const BY_RELATIVE_RANK_RANGE: Selector = (27, 40, true);

const SELECTORS: [Selector; 9] = [
    BY_INDEX,
    BY_VALUE,
    BY_RANK,
    ALL_BY_VALUE,
    BY_VALUE_LIST,
    BY_INDEX_RANGE,
    BY_VALUE_INTERVAL,
    BY_RANK_RANGE,
    BY_RELATIVE_RANK_RANGE,
];

/// The arguments after the return type, and the positions of the elements that they select.
fn selected(
    random: &mut Random,
    list: &List,
    by_rank: &[usize],
    selector: Selector,
) -> (Vec<Value>, Vec<usize>) {
    let total = list.items.len();
    let any_value = |random: &mut Random| {
        if total != 0 && random.chance(60) {
            random.pick(&list.items).clone()
        } else {
            Value::random(random, 1)
        }
    };
    let where_is = |test: &dyn Fn(&Value) -> bool| -> Vec<usize> {
        (0..total).filter(|&position| test(&list.items[position])).collect()
    };
    let index = random.integer(-5, 6);
    let index_argument = Value::Int(index);
    let of_ranks = |ranks: Vec<usize>| ranks.into_iter().map(|rank| by_rank[rank]).collect();
    match selector {
        BY_INDEX => (vec![index_argument], window(index, 1, total)),
        BY_RANK => (vec![index_argument], of_ranks(window(index, 1, total))),
        BY_INDEX_RANGE | BY_RANK_RANGE => {
            let mut arguments = vec![index_argument];
            let picked = window(index, some_count(random, &mut arguments), total);
            (arguments, if selector == BY_RANK_RANGE { of_ranks(picked) } else { picked })
        }
        BY_RELATIVE_RANK_RANGE => {
            let value = any_value(random);
            let base = where_is(&|item| order(item, &value).is_lt()).len() as i64;
            let mut arguments = vec![value, index_argument];
            let count = some_count(random, &mut arguments);
            (arguments, of_ranks(window_from(base + index, count, total)))
        }
        BY_VALUE | ALL_BY_VALUE => {
            let value = any_value(random);
            let mut picked = where_is(&|item| item.is(&value));
            if selector == BY_VALUE {
                picked.truncate(1);
            }
            (vec![value], picked)
        }
        BY_VALUE_INTERVAL => {
            let (begin, end) = (any_value(random), any_value(random));
            if random.chance(25) {
                let picked = where_is(&|item| order(item, &begin).is_ge());
                return (vec![begin], picked);
            }
            let picked = where_is(&|item| order(item, &begin).is_ge() && order(item, &end).is_lt());
            (vec![begin, end], picked)
        }
        _ => {
            let values = some_values(random, &any_value);
            let picked = where_is(&|item| values.iter().any(|value| value.is(item)));
            (vec![Value::list(values)], picked)
        }
    }
}

/// A few distinct values.
pub(super) fn some_values(random: &mut Random, any: &dyn Fn(&mut Random) -> Value) -> Vec<Value> {
    let mut values: Vec<Value> = Vec::new();
    for _ in 0..random.below(4) {
        let value = any(random);
        if !values.iter().any(|other| other.is(&value)) {
            values.push(value);
        }
    }
    values
}

fn select(random: &mut Random, list: &mut List) -> (CdtOperation, Expected) {
    let total = list.items.len();
    let mut by_rank: Vec<usize> = (0..total).collect();
    by_rank.sort_by(|&a, &b| order(&list.items[a], &list.items[b]));
    let has_equals = by_rank.windows(2).any(|pair| list.items[pair[0]].is(&list.items[pair[1]]));
    // If the list is not ordered, the algorithm determines the ranks of equal elements.
    let are_ranks_clear = list.is_ordered || !has_equals;
    let mut selector = *random.pick(&SELECTORS);
    if !are_ranks_clear && [BY_RANK, BY_RANK_RANGE, BY_RELATIVE_RANK_RANGE].contains(&selector) {
        selector = BY_INDEX_RANGE;
    }
    let (arguments, mut picked) = selected(random, list, &by_rank, selector);
    let is_inverted = selector.2 && random.chance(25);
    if is_inverted {
        picked = (0..total).filter(|position| !picked.contains(position)).collect();
    }
    let mut kinds = vec![NONE, INDEX, REVERSE_INDEX, COUNT, VALUE, VALUE];
    if !is_inverted {
        // Selectors differ in whether elements outside a selection count as existing.
        kinds.push(EXISTS);
    }
    if are_ranks_clear {
        kinds.extend([RANK, REVERSE_RANK]);
    }
    let kind = *random.pick(&kinds);
    let modifies = random.chance(40);
    let mut call = vec![Value::Int(if modifies { selector.1 } else { selector.0 })];
    call.push(Value::Int(kind + if is_inverted { INVERTED } else { 0 }));
    call.extend(arguments);
    let operation = CdtOperation { call, modifies };
    let must_be_there = [BY_INDEX, BY_RANK].contains(&selector);
    if must_be_there && picked.is_empty() {
        return (operation, Err(ResultCode::OpNotApplicable));
    }
    let rank_of = |position: usize| by_rank.iter().position(|&other| other == position).unwrap();
    let answer = answer(list, &picked, kind, selector.2, rank_of);
    if modifies {
        let mut position = 0;
        list.items.retain(|_| {
            position += 1;
            !picked.contains(&(position - 1))
        });
    }
    (operation, Ok(answer))
}

fn answer(
    list: &List,
    picked: &[usize],
    kind: i64,
    is_multi: bool,
    rank_of: impl Fn(usize) -> usize,
) -> Value {
    let total = list.items.len();
    let one = |position: usize| match kind {
        INDEX => Value::Int(position as i64),
        REVERSE_INDEX => Value::Int((total - 1 - position) as i64),
        RANK => Value::Int(rank_of(position) as i64),
        REVERSE_RANK => Value::Int((total - 1 - rank_of(position)) as i64),
        _ => list.items[position].clone(),
    };
    match kind {
        NONE => Value::Nil,
        COUNT => Value::Int(picked.len() as i64),
        EXISTS => Value::Bool(!picked.is_empty()),
        _ if is_multi => Value::list(picked.iter().map(|&position| one(position)).collect()),
        VALUE => picked.first().map_or(Value::Nil, |&position| one(position)),
        _ => picked.first().map_or(Value::Int(-1), |&position| one(position)),
    }
}

const UNIQUE: i64 = 1;
const BOUNDED: i64 = 2;
const NO_FAIL: i64 = 4;
const PARTIAL: i64 = 8;

fn change(random: &mut Random, list: &mut List) -> (CdtOperation, Expected) {
    let flags = [UNIQUE, BOUNDED, NO_FAIL, PARTIAL].iter().filter(|_| random.chance(30)).sum::<i64>();
    let mut value = Value::random(random, 1);
    value.restore_order();
    let mut items: Vec<Value> = (0..random.below(4)).map(|_| Value::random(random, 1)).collect();
    items.iter_mut().for_each(Value::restore_order);
    let index = random.integer(-4, 7);
    let (call, expected) = match random.below(10) {
        0 => (
            vec![Value::Int(1), value.clone(), Value::Int(0), Value::Int(flags)],
            append(list, &[value], false, flags),
        ),
        1 => {
            let call = vec![Value::Int(2), Value::list(items.clone()), Value::Int(1), Value::Int(flags)];
            (call, append(list, &items, true, flags))
        }
        2 => {
            let call = vec![Value::Int(3), Value::Int(index), value.clone(), Value::Int(flags)];
            (call, insert(list, index, &[value], false, flags))
        }
        3 => {
            let call = vec![Value::Int(4), Value::Int(index), Value::list(items.clone()), Value::Int(flags)];
            (call, insert(list, index, &items, true, flags))
        }
        4 => {
            let call = vec![Value::Int(9), Value::Int(index), value.clone(), Value::Int(flags)];
            (call, set(list, index, value, flags))
        }
        5 => {
            let delta = random.integer(-3, 3);
            let mut call =
                vec![Value::Int(12), Value::Int(index), Value::Int(delta), Value::Int(0), Value::Int(flags)];
            if random.chance(25) {
                call.truncate(2);
                (call, increment(list, index, 1, 0))
            } else {
                (call, increment(list, index, delta, flags))
            }
        }
        6 => {
            let sort_flags = random.integer(0, 2);
            (vec![Value::Int(13), Value::Int(sort_flags)], Ok(sort(list, sort_flags)))
        }
        7 => {
            let (order, index) = (random.integer(0, 1), *random.pick(&[0, 0x10]));
            list.is_ordered = order == 1;
            list.restore_order();
            (vec![Value::Int(0), Value::Int(order + index)], Ok(Value::Nil))
        }
        8 => {
            let (index, count) = (random.integer(-4, 4), random.integer(0, 4));
            let kept = window(index, count, list.items.len());
            let before = list.items.len();
            list.items = kept.iter().map(|&position| list.items[position].clone()).collect();
            let call = vec![Value::Int(10), Value::Int(index), Value::Int(count)];
            (call, Ok(Value::Int((before - list.items.len()) as i64)))
        }
        _ if random.chance(20) => {
            list.items.clear();
            (vec![Value::Int(11)], Ok(Value::Nil))
        }
        _ => {
            return (
                CdtOperation { call: vec![Value::Int(16)], modifies: false },
                Ok(Value::Int(list.items.len() as i64)),
            );
        }
    };
    (CdtOperation { call, modifies: true }, expected)
}

/// The values to be added; `None` if the operation ends without a change, and an error if it fails.
fn addable(
    list: &List,
    values: &[Value],
    are_items: bool,
    flags: i64,
) -> Result<Option<Vec<Value>>, ResultCode> {
    if flags & UNIQUE == 0 {
        return Ok(Some(values.to_vec()));
    }
    let (no_fail, partial) = (flags & NO_FAIL != 0, flags & (NO_FAIL | PARTIAL) == NO_FAIL | PARTIAL);
    let repeats = (0..values.len()).any(|i| values[..i].iter().any(|other| other.is(&values[i])));
    let exists = if no_fail { Ok(None) } else { Err(ResultCode::ElementExists) };
    if list.is_ordered && are_items && repeats && !partial {
        return if no_fail { Ok(None) } else { Err(ResultCode::OpNotApplicable) };
    }
    let mut added: Vec<Value> = Vec::new();
    for (position, value) in values.iter().enumerate() {
        if list.contains(value) {
            if !partial {
                return exists;
            }
        } else if values[..position].iter().any(|other| other.is(value)) {
            if !partial {
                return if no_fail { Ok(None) } else { Err(ResultCode::OpNotApplicable) };
            }
        } else {
            added.push(value.clone());
        }
    }
    Ok(Some(added))
}

fn append(list: &mut List, values: &[Value], are_items: bool, flags: i64) -> Expected {
    if let Some(added) = addable(list, values, are_items, flags)? {
        list.items.extend(added);
    }
    list.restore_order();
    Ok(Value::Int(list.items.len() as i64))
}

fn insert(list: &mut List, index: i64, values: &[Value], are_items: bool, flags: i64) -> Expected {
    if list.is_ordered {
        return Err(ResultCode::OpNotApplicable);
    }
    let total = list.items.len() as i64;
    if values.is_empty() {
        return Ok(Value::Int(total));
    }
    let index = if index < 0 { index + total } else { index };
    if index < 0 || (index > total && flags & BOUNDED != 0 && flags & NO_FAIL == 0) {
        return Err(ResultCode::OpNotApplicable);
    }
    if index > total && flags & BOUNDED != 0 {
        return Ok(Value::Int(total));
    }
    if let Some(added) = addable(list, values, are_items, flags)?.filter(|added| !added.is_empty()) {
        while (list.items.len() as i64) < index {
            list.items.push(Value::Nil);
        }
        list.items.splice(index as usize..index as usize, added);
    }
    Ok(Value::Int(list.items.len() as i64))
}

fn set(list: &mut List, index: i64, value: Value, flags: i64) -> Expected {
    if list.is_ordered {
        return Err(ResultCode::OpNotApplicable);
    }
    let total = list.items.len() as i64;
    if index >= total {
        return insert(list, index, &[value], false, flags).map(|_| Value::Nil);
    }
    let index = if index < 0 { index + total } else { index };
    if index < 0 {
        return Err(ResultCode::OpNotApplicable);
    }
    let is_elsewhere =
        list.items.iter().enumerate().any(|(position, item)| position as i64 != index && item.is(&value));
    if flags & UNIQUE != 0 && is_elsewhere {
        return if flags & NO_FAIL != 0 { Ok(Value::Nil) } else { Err(ResultCode::ElementExists) };
    }
    list.items[index as usize] = value;
    Ok(Value::Nil)
}

fn increment(list: &mut List, index: i64, delta: i64, flags: i64) -> Expected {
    let total = list.items.len() as i64;
    let place = if index < 0 { index + total } else { index };
    if place < 0 {
        return Err(ResultCode::OpNotApplicable);
    }
    let sum = match list.items.get(place as usize) {
        None => Value::Int(delta),
        Some(Value::Int(value)) => Value::Int(value.wrapping_add(delta)),
        Some(Value::Double(value)) => Value::Double(value + delta as f64),
        Some(_) => return Err(ResultCode::Parameter),
    };
    if !list.is_ordered {
        set(list, place, sum.clone(), flags)?;
        return Ok(sum);
    }
    if place > total {
        return Err(ResultCode::OpNotApplicable);
    }
    let first = list.items.iter().position(|item| item.is(&sum));
    if flags & UNIQUE != 0 && first.is_some() {
        let is_kept = first == Some(place as usize) || flags & NO_FAIL != 0;
        return if is_kept { Ok(sum) } else { Err(ResultCode::ElementExists) };
    }
    if place == total {
        list.items.push(sum.clone());
    } else {
        list.items[place as usize] = sum.clone();
    }
    list.restore_order();
    Ok(sum)
}

fn sort(list: &mut List, flags: i64) -> Value {
    if !list.is_ordered {
        list.items.sort_by(|a, b| if flags == 1 { order(b, a) } else { order(a, b) });
    }
    if flags == 2 {
        list.items.dedup_by(|a, b| a.is(b));
    }
    Value::Nil
}
