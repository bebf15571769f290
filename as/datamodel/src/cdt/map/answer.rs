//! Answers about pairs of a map.

use std::cmp::Ordering;

use cf::msgpack::{compare_metered, put_list_header};
use proto::ResultCode;

use super::find::{bytes_at, compare_by_value, parts};
use crate::budget::Budget;
use crate::cdt::container::{Container, Offsets, Shape, flags};
use crate::cdt::index::value_order;
use crate::cdt::items::count_below;
use crate::cdt::layout::Layout;
use crate::cdt::order::merge_sort;
use crate::cdt::pair::split;
use crate::cdt::pick::Mask;
use crate::cdt::result::{Integers, ResultValue, ReturnType, Want, element, integer, not_found};
use crate::particle::{BytesType, Particle};

/// Keys, values or pairs, in the given order. If the result is a map that must be ordered, it is sorted by
/// key.
///
/// # Errors
/// `Parameter` for a damaged map; `Unknown` for a value that no bin can hold.
pub(super) fn pairs(
    map: &Container<'_>,
    positions: impl Iterator<Item = u32>,
    want: Want,
) -> Result<ResultValue, ResultCode> {
    let offsets = map.offsets()?;
    let pairs: Result<Vec<&[u8]>, ResultCode> =
        positions.map(|position| map.slice(offsets.range(position, 1))).collect();
    of_pairs(&pairs?, want, map.is_ordered(), map.budget)
}

/// Keys, values or pairs from the bytes of `pairs`.
pub(super) fn of_pairs(
    pairs: &[&[u8]],
    want: Want,
    are_in_order: bool,
    budget: &Budget<'_>,
) -> Result<ResultValue, ResultCode> {
    budget.draw_for(10 * pairs.len())?;
    budget.draw_for_copy(pairs.iter().map(|pair| pair.len()).sum())?;
    if want.is_map() {
        return map_of(pairs, want, are_in_order, budget).map(Some);
    }
    let part = |pair: &'_ [u8]| {
        let (key, value) = split(pair, budget)?;
        let range =
            if want.kind == ReturnType::Key { 0..key.len() } else { key.len()..key.len() + value.len() };
        Ok::<_, ResultCode>(range)
    };
    if !want.is_multi {
        return match pairs.first() {
            Some(pair) => element(pair.get(part(pair)?).unwrap_or_default(), budget),
            None => Ok(None),
        };
    }
    let mut bytes = Vec::with_capacity(5 + pairs.iter().map(|pair| pair.len()).sum::<usize>());
    put_list_header(&mut bytes, pairs.len() as u32);
    for pair in pairs {
        bytes.extend_from_slice(pair.get(part(pair)?).unwrap_or_default());
    }
    Ok(Some(Particle::owned(BytesType::List, bytes)))
}

fn map_of(
    pairs: &[&[u8]],
    want: Want,
    are_in_order: bool,
    budget: &Budget<'_>,
) -> Result<Particle<'static>, ResultCode> {
    let layout = Layout {
        shape: Shape::Map,
        flags: want.map_flags(),
        count: pairs.len() as u32,
        contents_len: pairs.iter().map(|pair| pair.len()).sum(),
        is_top: false,
    };
    let mut out = layout.begin(budget)?;
    if layout.flags == flags::KEY_ORDERED && !are_in_order {
        let pair = |position: u32| pairs.get(position as usize).copied();
        let mut order: Vec<u32> = (0..layout.count).collect();
        merge_sort(&mut order, budget, |a, b| {
            let (a, b) = (split(pair(a)?, budget).ok()?, split(pair(b)?, budget).ok()?);
            let order = compare_metered(a.0, b.0, budget)?;
            if order == Ordering::Equal { compare_metered(a.1, b.1, budget) } else { Some(order) }
        })?;
        order.iter().filter_map(|&position| pair(position)).for_each(|pair| out.extend_from_slice(pair));
    } else {
        pairs.iter().for_each(|pair| out.extend_from_slice(pair));
    }
    Ok(Particle::owned(BytesType::Map, out))
}

/// The ranks of pairs by value.
pub(super) fn ranks(
    map: &Container<'_>,
    positions: impl Iterator<Item = u32>,
    want: Want,
) -> Result<ResultValue, ResultCode> {
    let mut positions = positions;
    if !want.is_multi {
        let rank = rank_of(map, positions.next().unwrap_or_default())?;
        return Ok(integer(want.directed(rank, map.count)));
    }
    map.budget.draw_for(8 * map.count as usize)?;
    let ranks = inverse(&value_order(map)?);
    let rank = |position: u32| ranks.get(position as usize).copied().unwrap_or_default();
    Ok(Integers::of(positions.map(|position| want.directed(rank(position), map.count))))
}

/// The number of pairs that are below a pair by value, then by key.
fn rank_of(map: &Container<'_>, position: u32) -> Result<u32, ResultCode> {
    if map.has_value_order() {
        let order = value_order(map)?;
        return Ok(order.iter().position(|&other| other == position).unwrap_or_default() as u32);
    }
    let offsets = map.offsets()?;
    rank_of_pair(map, map.slice(offsets.range(position, 1))?)
}

/// The number of pairs of a map that are below `pair` by value, then by key.
pub(super) fn rank_of_pair(map: &Container<'_>, pair: &[u8]) -> Result<u32, ResultCode> {
    let offsets = map.offsets()?;
    map.budget.draw_for(10 * map.count as usize)?;
    let mut below = 0;
    for position in 0..map.count {
        let order =
            bytes_at(map, offsets, position).and_then(|other| compare_by_value(other, pair, map.budget));
        below += u32::from(order.ok_or(ResultCode::Parameter)? == Ordering::Less);
    }
    Ok(below)
}

/// The indexes of pairs by key.
pub(super) fn indexes(
    map: &Container<'_>,
    positions: impl Iterator<Item = u32>,
    want: Want,
) -> Result<ResultValue, ResultCode> {
    // The price covers a number for each pair, and the inverse order of keys.
    map.budget.draw_for(if want.is_multi { 8 * map.count as usize } else { 1 })?;
    let mut positions = positions.peekable();
    let Some(&first) = positions.peek() else {
        return not_found(want, -1);
    };
    if !want.is_multi {
        let index = if map.is_ordered() { first } else { index_of(map, first)? };
        return Ok(integer(want.directed(index, map.count)));
    }
    if map.is_ordered() {
        return Ok(Integers::of(positions.map(|position| want.directed(position, map.count))));
    }
    let indexes = inverse(&order_by_key(map, map.offsets()?)?);
    let index = |position: u32| indexes.get(position as usize).copied().unwrap_or_default();
    Ok(Integers::of(positions.map(|position| want.directed(index(position), map.count))))
}

/// The number of keys of an unordered map that are below the key of a pair.
pub(super) fn index_of(map: &Container<'_>, position: u32) -> Result<u32, ResultCode> {
    let (key, _) = split(map.element(position)?, map.budget)?;
    count_below(parts(map, true)?, key, map.budget)
}

fn order_by_key(map: &Container<'_>, offsets: &Offsets) -> Result<Vec<u32>, ResultCode> {
    let mut order: Vec<u32> = (0..map.count).collect();
    merge_sort(&mut order, map.budget, |a, b| {
        compare_metered(bytes_at(map, offsets, a)?, bytes_at(map, offsets, b)?, map.budget)
    })?;
    Ok(order)
}

/// Converts positions by rank to ranks by position.
fn inverse(order: &[u32]) -> Vec<u32> {
    let mut ranks = vec![0; order.len()];
    for (&position, rank) in order.iter().zip(0..) {
        if let Some(place) = ranks.get_mut(position as usize) {
            *place = rank;
        }
    }
    ranks
}

/// Answers that need only the set of selected pairs.
///
/// # Errors
/// `OpNotApplicable` for return types that need more than the set.
pub(super) fn of_mask(map: &Container<'_>, mask: &Mask, want: Want) -> Result<ResultValue, ResultCode> {
    match want.kind {
        ReturnType::None => Ok(None),
        ReturnType::Count => Ok(integer(mask.count())),
        ReturnType::Exists => Ok(Some(Particle::Bool(mask.count() != 0))),
        _ if want.is_elements() => pairs(map, mask.iter(), want),
        _ => Err(ResultCode::OpNotApplicable),
    }
}
