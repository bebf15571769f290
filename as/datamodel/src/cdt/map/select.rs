//! Selects pairs of a map, to return or remove them.

use std::cmp::Ordering;

use cf::msgpack::{Probe, compare_metered};
use proto::ResultCode;

use super::answer::{index_of, indexes, of_pairs, pairs, rank_of_pair, ranks};
use super::find::{find_key, parts, pick_by_key, pick_by_value, search_values};
use super::select_list::{by_key_list, by_value_list};
use crate::cdt::call::Selector;
use crate::cdt::container::Container;
use crate::cdt::index::value_order;
use crate::cdt::items::count_below;
use crate::cdt::order::Among;
use crate::cdt::pick::{Mask, Picked, Selection};
use crate::cdt::result::{Integers, ResultValue, ReturnType, Want, integer, not_found, run};
use crate::cdt::window::Window;
use crate::particle::Particle;

/// Selects pairs and builds the answer.
///
/// # Errors
/// `OpNotApplicable` for a missing index and for return types that the selector does not support; `Parameter` for bad
/// values.
pub(super) fn select(
    map: &Container<'_>,
    selector: Selector<'_>,
    want: Want,
) -> Result<Selection, ResultCode> {
    match selector {
        Selector::Key(key) => by_key(map, key, want),
        Selector::Keys { begin, end } => by_keys(map, begin, end, want),
        Selector::KeyList(keys) => by_key_list(map, keys, want),
        Selector::IndexesFromKey { key, index, count } => {
            let base = if map.is_ordered() {
                find_key(map, key)?.position
            } else {
                count_below(parts(map, true)?, key, map.budget)?
            };
            let (index, count) = Window::absolute(index, count, base);
            by_indexes(map, index, count, want)
        }
        Selector::Indexes { index, count } => by_indexes(map, index, count, want),
        Selector::Value(value) => by_values(map, value, End::OfSame, want),
        Selector::Values { begin, end } => by_values(map, begin, end.map_or(End::Open, End::Before), want),
        Selector::ValueList(values) => by_value_list(map, values, want),
        Selector::RanksFromValue { value, rank, count } => {
            let base = if map.has_value_order() {
                search_values(map, &value_order(map)?, value, Among::First)?.rank
            } else {
                count_below(parts(map, false)?, value, map.budget)?
            };
            let (rank, count) = Window::absolute(rank, count, base);
            by_ranks(map, rank, count, want)
        }
        Selector::Ranks { rank, count } => by_ranks(map, rank, count, want),
    }
}

/// The end of an interval of values.
#[derive(Clone, Copy)]
enum End<'a> {
    /// The interval has the values that are equal to its start.
    OfSame,
    Open,
    Before(&'a [u8]),
}

fn nothing(want: Want, position: impl Into<i64>) -> Result<Selection, ResultCode> {
    not_found(want, position.into()).map(Selection::nothing)
}

fn by_key(map: &Container<'_>, key: &[u8], want: Want) -> Result<Selection, ResultCode> {
    if want.is_rank_range() {
        return Err(ResultCode::OpNotApplicable);
    }
    if want.is_inverted && !map.is_ordered() {
        return Err(ResultCode::OpNotApplicable);
    }
    let place = find_key(map, key)?;
    if !place.is_found {
        return nothing(want, -1);
    }
    if want.is_inverted {
        return Err(ResultCode::OpNotApplicable);
    }
    let index = || if map.is_ordered() { Ok(place.position) } else { index_of(map, place.position) };
    let pair = map.slice(place.pair.clone())?;
    let answer = match want.kind {
        ReturnType::None => None,
        ReturnType::Index | ReturnType::ReverseIndex => integer(want.directed(index()?, map.count)),
        ReturnType::IndexRange | ReturnType::ReverseIndexRange => {
            Integers::two(want.directed(index()?, map.count), 1)
        }
        ReturnType::Rank | ReturnType::ReverseRank => {
            let rank = if map.count == 1 { 0 } else { rank_of_pair(map, pair)? };
            integer(want.directed(rank, map.count))
        }
        ReturnType::Count => integer(1),
        ReturnType::Exists => Some(Particle::Bool(true)),
        _ if want.is_elements() => of_pairs(&[pair], want, true, map.budget)?,
        _ => return Err(ResultCode::OpNotApplicable),
    };
    Ok(Selection::new(Picked::One { position: place.position, range: place.pair }, answer))
}

fn by_keys(
    map: &Container<'_>,
    begin: &[u8],
    end: Option<&[u8]>,
    want: Want,
) -> Result<Selection, ResultCode> {
    if want.is_rank_range() {
        return Err(ResultCode::OpNotApplicable);
    }
    if map.is_ordered() {
        let start = find_key(map, begin)?.position;
        let end = end.map_or(Ok(map.count), |end| find_key(map, end).map(|place| place.position))?;
        let count = end.saturating_sub(start);
        return by_indexes(map, i64::from(start), u64::from(count), want);
    }
    let mut index = 0;
    let mut mask = Mask::new(map.count);
    let probe = Probe::new(begin);
    for (key, position) in parts(map, true)?.zip(0..) {
        let key = key?;
        if probe.compare_metered(key, map.budget).ok_or(ResultCode::Parameter)? == Ordering::Greater {
            index += 1;
        } else if end.map_or(Some(Ordering::Less), |end| compare_metered(key, end, map.budget))
            == Some(Ordering::Less)
        {
            mask.set(position);
        }
    }
    let count = mask.count();
    let mask = mask.inverted_if(want.is_inverted);
    let answer = if want.is_elements() {
        pairs(map, mask.iter(), want)?
    } else if want.is_rank() {
        ranks(map, mask.iter(), want)?
    } else {
        run(want, index, count, map.count)?
    };
    Ok(Selection::new(Picked::Mask(mask), answer))
}

fn by_indexes(map: &Container<'_>, index: i64, count: u64, want: Want) -> Result<Selection, ResultCode> {
    let mut window =
        Window::new(index, count, map.count, want.is_multi).ok_or(ResultCode::OpNotApplicable)?;
    let mut want = want;
    if want.is_rank_range() || (want.is_inverted && !want.is_multi) {
        return Err(ResultCode::OpNotApplicable);
    }
    if want.is_inverted {
        match window.complement(map.count) {
            Some(complement) => (window, want) = (complement, want.upright()),
            None if map.is_ordered() => return outside(map, window, want.upright()),
            None => {}
        }
    }
    let Window { start, count } = window;
    if count == 0 {
        return nothing(want, start);
    }
    map.budget.draw_for(2 * count as usize)?;
    if count == map.count {
        return all(map, want);
    }
    if !map.is_ordered() {
        return by_indexes_unordered(map, window, want);
    }
    let answer = if want.is_elements() {
        of_run(map, window, want)?
    } else if want.is_rank() {
        ranks(map, start..window.end(), want)?
    } else {
        run(want, start, count, map.count)?
    };
    Ok(Selection::new(Picked::Range { start, count }, answer))
}

/// Keys, values or pairs of a run.
fn of_run(map: &Container<'_>, window: Window, want: Want) -> Result<ResultValue, ResultCode> {
    if window.count == 1 {
        return of_pairs(&[map.element(window.start)?], want, true, map.budget);
    }
    pairs(map, window.start..window.end(), want)
}

fn by_indexes_unordered(map: &Container<'_>, window: Window, want: Want) -> Result<Selection, ResultCode> {
    let positions = pick_by_key(map, window)?;
    let mut mask = Mask::new(map.count);
    mask.set_all(positions.iter().copied());
    let mask = mask.inverted_if(want.is_inverted);
    let answer = match want {
        _ if want.is_rank() && want.is_inverted => ranks(map, mask.iter(), want)?,
        _ if want.is_rank() => ranks(map, positions.into_iter(), want)?,
        _ if want.is_elements() && want.is_inverted => pairs(map, mask.iter(), want)?,
        _ if want.is_elements() => pairs(map, positions.into_iter(), want)?,
        _ => run(want, window.start, window.count, map.count)?,
    };
    Ok(Selection::new(Picked::Mask(mask), answer))
}

/// Selects all pairs of an ordered map except a run that has pairs on both sides.
fn outside(map: &Container<'_>, window: Window, want: Want) -> Result<Selection, ResultCode> {
    let positions = || (0..window.start).chain(window.end()..map.count);
    let answer = match want.kind {
        ReturnType::Exists => Some(Particle::Bool(true)),
        ReturnType::IndexRange | ReturnType::ReverseIndexRange => return Err(ResultCode::OpNotApplicable),
        _ if want.is_rank() => ranks(map, positions(), want)?,
        _ if want.is_elements() => pairs(map, positions(), want)?,
        _ => run(want.inverted(), window.start, window.count, map.count)?,
    };
    let mut mask = Mask::new(map.count);
    mask.set_all(positions());
    Ok(Selection::new(Picked::Mask(mask), answer))
}

/// Selects all pairs.
pub(super) fn all(map: &Container<'_>, want: Want) -> Result<Selection, ResultCode> {
    let total = map.count;
    map.budget.draw_for(2 * total as usize)?;
    let answer = match want.kind {
        ReturnType::None => None,
        ReturnType::Index | ReturnType::ReverseIndex | ReturnType::Rank | ReturnType::ReverseRank
            if !want.is_multi =>
        {
            integer(0)
        }
        ReturnType::Index | ReturnType::ReverseIndex | ReturnType::Rank | ReturnType::ReverseRank => {
            Integers::of((0..total).map(i64::from))
        }
        ReturnType::Count => integer(total),
        ReturnType::Exists => Some(Particle::Bool(total != 0)),
        _ if want.is_elements() => pairs(map, 0..total, want)?,
        _ if want.is_index_range() || want.is_rank_range() => Integers::two(0, i64::from(total)),
        _ => return Err(ResultCode::OpNotApplicable),
    };
    Ok(Selection::new(Picked::Range { start: 0, count: total }, answer))
}

fn by_values(map: &Container<'_>, begin: &[u8], end: End<'_>, want: Want) -> Result<Selection, ResultCode> {
    if want.is_index_range() || (want.is_inverted && !want.is_multi) {
        return Err(ResultCode::OpNotApplicable);
    }
    if map.count == 0 {
        return nothing(want, -1);
    }
    if map.has_value_order() {
        return by_values_indexed(map, begin, end, want);
    }
    let mut rank = 0;
    let mut mask = Mask::new(map.count);
    let mut is_found = false;
    let probe = Probe::new(begin);
    for (value, position) in parts(map, false)?.zip(0..) {
        let value = value?;
        let order = probe.compare_metered(value, map.budget).ok_or(ResultCode::Parameter)?;
        rank += u32::from(order == Ordering::Greater);
        let is_inside = match end {
            End::OfSame => order == Ordering::Equal,
            _ if order == Ordering::Greater => false,
            End::Open => true,
            End::Before(end) => {
                compare_metered(value, end, map.budget).ok_or(ResultCode::Parameter)? == Ordering::Less
            }
        };
        if is_inside && (want.is_multi || !is_found) {
            is_found = true;
            mask.set(position);
        }
    }
    if !is_found {
        return if want.is_inverted { all(map, want.upright()) } else { nothing(want, rank) };
    }
    let count = mask.count();
    let mask = mask.inverted_if(want.is_inverted);
    let answer = if want.is_elements() {
        pairs(map, mask.iter(), want)?
    } else if want.is_index() {
        indexes(map, mask.iter(), want)?
    } else {
        run(want, rank, count, map.count)?
    };
    Ok(Selection::new(Picked::Mask(mask), answer))
}

/// The ranks of the pairs with a value. `order` is the order of values.
pub(super) fn find_run(
    map: &Container<'_>,
    order: &[u32],
    value: &[u8],
    is_multi: bool,
) -> Result<Window, ResultCode> {
    let first = search_values(map, order, value, Among::First)?;
    let mut window = Window { start: first.rank, count: u32::from(first.is_equal) };
    if first.is_equal && is_multi {
        let past_last = search_values(map, order, value, Among::PastLast)?;
        window.count = past_last.rank.saturating_sub(first.rank);
    }
    Ok(window)
}

/// Answers in the order of values, which the index has.
fn by_values_indexed(
    map: &Container<'_>,
    begin: &[u8],
    end: End<'_>,
    want: Want,
) -> Result<Selection, ResultCode> {
    let order = value_order(map)?;
    let first = |value| search_values(map, &order, value, Among::First).map(|found| found.rank);
    let window = match end {
        End::OfSame => find_run(map, &order, begin, want.is_multi)?,
        End::Open => {
            let start = first(begin)?;
            Window { start, count: map.count - start }
        }
        End::Before(end) => {
            let start = first(begin)?;
            Window { start, count: first(end)?.saturating_sub(start) }
        }
    };
    by_positions(map, order.get(window.start as usize..window.end() as usize), window, want)
}

/// Selects the pairs at `positions`, which are in the order of values and have the ranks of `window`.
fn by_positions(
    map: &Container<'_>,
    positions: Option<&[u32]>,
    window: Window,
    want: Want,
) -> Result<Selection, ResultCode> {
    let positions = || positions.unwrap_or_default().iter().copied();
    let mut mask = Mask::new(map.count);
    mask.set_all(positions());
    let mask = mask.inverted_if(want.is_inverted);
    let answer = if want.is_elements() {
        if want.is_inverted || want.kind == ReturnType::OrderedMap {
            pairs(map, mask.iter(), want)?
        } else {
            pairs(map, positions(), want)?
        }
    } else if want.is_index() {
        if want.is_inverted { indexes(map, mask.iter(), want)? } else { indexes(map, positions(), want)? }
    } else {
        run(want, window.start, window.count, map.count)?
    };
    Ok(Selection::new(Picked::Mask(mask), answer))
}

fn by_ranks(map: &Container<'_>, rank: i64, count: u64, want: Want) -> Result<Selection, ResultCode> {
    let mut window = Window::new(rank, count, map.count, want.is_multi).ok_or(ResultCode::OpNotApplicable)?;
    let mut want = want;
    if want.is_index_range() || (want.is_inverted && !want.is_multi) {
        return Err(ResultCode::OpNotApplicable);
    }
    if let Some(complement) = window.complement(map.count).filter(|_| want.is_inverted) {
        (window, want) = (complement, want.upright());
    }
    if window.count == 0 {
        return nothing(want, window.start);
    }
    let positions = pick_by_value(map, window)?;
    by_positions(map, Some(&positions), window, want)
}
