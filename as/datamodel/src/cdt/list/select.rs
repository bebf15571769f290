//! Selects elements of a list, to return or remove them.

use std::cmp::Ordering;

use cf::msgpack::{Probe, compare_metered};
use proto::ResultCode;

use crate::cdt::call::Selector;
use crate::cdt::container::{Container, Offsets};
use crate::cdt::items::{Items, count_below, selected_count};
use crate::cdt::order::{Among, Ranked, Search, SearchResult, merge_sort};
use crate::cdt::pick::{Mask, Picked, Selection};
use crate::cdt::result::{
    Integers, ResultValue, ReturnType, Want, element, integer, list as list_of, not_found, run,
};
use crate::cdt::window::Window;
use crate::particle::Particle;

/// If more ranks than this must be found, the list is sorted once, instead of being walked for each rank.
const WALKS_MAX: u32 = 8;

/// Selects elements and builds the answer.
///
/// # Errors
/// `OpNotApplicable` for a missing index and for return types that the selector does not support; `Parameter`
/// for bad values.
pub(super) fn select(
    list: &Container<'_>,
    selector: Selector<'_>,
    want: Want,
) -> Result<Selection, ResultCode> {
    match selector {
        Selector::Indexes { index, count } => by_indexes(list, index, count, want),
        Selector::Ranks { rank, count } => by_ranks(list, rank, count, want),
        Selector::Value(value) => by_values(list, value, End::OfSame, want),
        Selector::Values { begin, end } => by_values(list, begin, end.map_or(End::Open, End::Before), want),
        Selector::ValueList(items) => by_value_list(list, items, want),
        Selector::RanksFromValue { value, rank, count } => {
            let base = if list.is_ordered() {
                find(list, value, 0, Among::First)?.rank
            } else {
                count_below(elements(list)?, value, list.budget)?
            };
            let (rank, count) = Window::absolute(rank, count, base);
            by_ranks(list, rank, count, want)
        }
        Selector::Key(_) | Selector::Keys { .. } | Selector::KeyList(_) | Selector::IndexesFromKey { .. } => {
            Err(ResultCode::Parameter)
        }
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

/// The bytes of each element in order.
pub(crate) fn elements<'l, 'a>(
    list: &'l Container<'a>,
) -> Result<impl Iterator<Item = Result<&'a [u8], ResultCode>> + 'l, ResultCode> {
    let offsets = list.offsets()?;
    list.budget.draw_for(4 * list.count as usize)?;
    Ok((0..list.count).map(move |position| list.slice(offsets.range(position, 1))))
}

fn bytes_at<'a>(list: &Container<'a>, offsets: &Offsets, position: u32) -> Option<&'a [u8]> {
    list.contents.get(offsets.start(position)..)
}

/// Searches an ordered list.
pub(crate) fn find(
    list: &Container<'_>,
    value: &[u8],
    from: u32,
    among: Among,
) -> Result<SearchResult, ResultCode> {
    let offsets = list.offsets()?;
    let probe = Probe::new(value);
    Search { from, total: list.count, among }.run(
        list.budget,
        |rank| rank,
        |position| probe.compare_metered(bytes_at(list, offsets, position)?, list.budget),
    )
}

/// The run of elements of an ordered list that are equal to `value`.
fn find_run(list: &Container<'_>, value: &[u8], is_multi: bool) -> Result<Window, ResultCode> {
    let first = find(list, value, 0, Among::First)?;
    let mut window = Window { start: first.rank, count: u32::from(first.is_equal) };
    if first.is_equal && is_multi {
        let past_last = find(list, value, first.rank + 1, Among::PastLast)?;
        if past_last.is_equal {
            window.count = past_last.rank - first.rank;
        }
    }
    Ok(window)
}

/// The answer if nothing is selected. A list has neither keys nor pairs.
fn nothing(want: Want, position: impl Into<i64>) -> Result<Selection, ResultCode> {
    if want.kind == ReturnType::Key || want.is_map() {
        return Err(ResultCode::OpNotApplicable);
    }
    not_found(want, position.into()).map(Selection::nothing)
}

fn by_indexes(list: &Container<'_>, index: i64, count: u64, want: Want) -> Result<Selection, ResultCode> {
    let mut window =
        Window::new(index, count, list.count, want.is_multi).ok_or(ResultCode::OpNotApplicable)?;
    if want.is_inverted {
        if !want.is_multi || want.is_index_range() || want.is_rank_range() {
            return Err(ResultCode::OpNotApplicable);
        }
        match window.complement(list.count) {
            Some(complement) => window = complement,
            None => return outside(list, window, want.upright()),
        }
    }
    by_window(list, window, want.upright())
}

/// Selects a run of elements.
fn by_window(list: &Container<'_>, window: Window, want: Want) -> Result<Selection, ResultCode> {
    let Window { start, count } = window;
    if count == 0 {
        return nothing(want, start);
    }
    // The answer has at most the elements, or a number for each element.
    list.budget.draw_for(if want.is_multi { count as usize } else { 1 })?;
    let answer = match want.kind {
        ReturnType::Rank | ReturnType::ReverseRank if count == list.count => run(want, 0, count, list.count)?,
        ReturnType::Rank | ReturnType::ReverseRank if !list.is_ordered() => {
            unordered_ranks(list, &[window], want)?
        }
        ReturnType::Value if want.is_multi => {
            let contents = list.slice(list.range(start, count)?)?;
            list.budget.draw_for_copy(contents.len())?;
            list_of(count, contents)
        }
        ReturnType::Value => element(list.element(start)?, list.budget)?,
        ReturnType::RankRange | ReturnType::ReverseRankRange if !list.is_ordered() => {
            return Err(ResultCode::OpNotApplicable);
        }
        _ => run(want, start, count, list.count)?,
    };
    Ok(Selection::new(Picked::Range { start, count }, answer))
}

/// Selects all elements except a run that has elements on both sides.
fn outside(list: &Container<'_>, window: Window, want: Want) -> Result<Selection, ResultCode> {
    let total = list.count;
    let head = Window { start: 0, count: window.start };
    let tail = Window { start: window.end(), count: total - window.end() };
    let answer = match want.kind {
        ReturnType::Rank | ReturnType::ReverseRank if !list.is_ordered() => {
            unordered_ranks(list, &[head, tail], want)?
        }
        ReturnType::Value => {
            let kept = list.range(window.start, window.count)?;
            list.budget.draw_for_copy(list.contents.len())?;
            let parts = [list.slice(0..kept.start)?, list.slice(kept.end..list.contents.len())?];
            list_of(total - window.count, &parts.concat())
        }
        ReturnType::Exists => Some(Particle::Bool(true)),
        _ => run(want.inverted(), window.start, window.count, total)?,
    };
    let mut mask = Mask::new(total);
    mask.set_all((0..head.count).chain(tail.start..total));
    Ok(Selection::new(Picked::Mask(mask), answer))
}

/// The ranks of the elements in some runs of an unordered list.
fn unordered_ranks(list: &Container<'_>, runs: &[Window], want: Want) -> Result<ResultValue, ResultCode> {
    let positions = || runs.iter().flat_map(|window| window.start..window.end());
    let offsets = list.offsets()?;
    let rank_of =
        |position| count_below(elements(list)?, list.slice(offsets.range(position, 1))?, list.budget);
    if !want.is_multi {
        let rank = rank_of(positions().next().unwrap_or_default())?;
        return Ok(integer(want.directed(rank, list.count)));
    }
    let count: u32 = runs.iter().map(|window| window.count).sum();
    let mut answer = Integers::with_count(count);
    if count <= WALKS_MAX {
        for position in positions() {
            answer.push(want.directed(rank_of(position)?, list.count));
        }
    } else {
        let ranks = ranks_by_position(list, offsets)?;
        for position in positions() {
            let rank = ranks.get(position as usize).copied().unwrap_or_default();
            answer.push(want.directed(rank, list.count));
        }
    }
    Ok(answer.finish())
}

/// For each element, the number of elements below it.
fn ranks_by_position(list: &Container<'_>, offsets: &Offsets) -> Result<Vec<u32>, ResultCode> {
    let at = |position| bytes_at(list, offsets, position);
    let mut order: Vec<u32> = (0..list.count).collect();
    merge_sort(&mut order, list.budget, |a, b| compare_metered(at(a)?, at(b)?, list.budget))?;
    let mut ranks = vec![0; order.len()];
    let mut first: Option<(u32, u32)> = None;
    for (&position, rank) in order.iter().zip(0..) {
        let is_equal =
            |before| Some(compare_metered(at(before)?, at(position)?, list.budget)? == Ordering::Equal);
        let rank = match first {
            Some((before, rank)) if is_equal(before).ok_or(ResultCode::Parameter)? => rank,
            _ => rank,
        };
        first = Some((position, rank));
        if let Some(place) = ranks.get_mut(position as usize) {
            *place = rank;
        }
    }
    Ok(ranks)
}

fn by_values(list: &Container<'_>, begin: &[u8], end: End<'_>, want: Want) -> Result<Selection, ResultCode> {
    if want.is_inverted && !want.is_multi {
        return Err(ResultCode::OpNotApplicable);
    }
    if !list.is_ordered() {
        return by_values_unordered(list, begin, end, want);
    }
    let window = match end {
        End::OfSame => find_run(list, begin, want.is_multi)?,
        End::Open => {
            let start = find(list, begin, 0, Among::First)?.rank;
            Window { start, count: list.count - start }
        }
        End::Before(end) => {
            let start = find(list, begin, 0, Among::First)?.rank;
            let count = match compare_metered(begin, end, list.budget).ok_or(ResultCode::Parameter)? {
                Ordering::Less => find(list, end, start, Among::First)?.rank - start,
                _ => 0,
            };
            Window { start, count }
        }
    };
    if window.count == 0 && !want.is_multi {
        return nothing(want, 0);
    }
    by_indexes(list, i64::from(window.start), u64::from(window.count), want)
}

fn by_values_unordered(
    list: &Container<'_>,
    begin: &[u8],
    end: End<'_>,
    want: Want,
) -> Result<Selection, ResultCode> {
    let mut rank = 0;
    let mut mask = Mask::new(list.count);
    let mut first = None;
    let probe = Probe::new(begin);
    for (element, position) in elements(list)?.zip(0..) {
        let element = element?;
        let order = probe.compare_metered(element, list.budget).ok_or(ResultCode::Parameter)?;
        rank += u32::from(order == Ordering::Greater);
        let is_inside = match end {
            End::OfSame => order == Ordering::Equal,
            _ if order == Ordering::Greater => false,
            End::Open => true,
            End::Before(end) => {
                compare_metered(element, end, list.budget).ok_or(ResultCode::Parameter)? == Ordering::Less
            }
        };
        if is_inside && (want.is_multi || first.is_none()) {
            first = first.or(Some(position));
            mask.set(position);
        }
    }
    let inside = mask.count();
    let mask = mask.inverted_if(want.is_inverted);
    let answer = match want.kind {
        ReturnType::Index | ReturnType::ReverseIndex if want.is_multi => mask.positions(want),
        ReturnType::Index | ReturnType::ReverseIndex => {
            run(want, first.unwrap_or_default(), inside, list.count)?
        }
        ReturnType::Value if want.is_multi => values_at(list, mask.iter(), mask.count())?,
        ReturnType::Value => match first {
            Some(position) => element(list.element(position)?, list.budget)?,
            None => None,
        },
        ReturnType::IndexRange | ReturnType::ReverseIndexRange => return Err(ResultCode::OpNotApplicable),
        _ => run(want, rank, inside, list.count)?,
    };
    Ok(Selection::new(Picked::Mask(mask), answer))
}

/// A list of the elements at `count` positions.
fn values_at(
    list: &Container<'_>,
    positions: impl Iterator<Item = u32>,
    count: u32,
) -> Result<ResultValue, ResultCode> {
    let offsets = list.offsets()?;
    let mut contents = Vec::new();
    for position in positions {
        let element = list.slice(offsets.range(position, 1))?;
        list.budget.draw_for_copy(element.len())?;
        contents.extend_from_slice(element);
    }
    Ok(list_of(count, &contents))
}

fn by_ranks(list: &Container<'_>, rank: i64, count: u64, want: Want) -> Result<Selection, ResultCode> {
    if want.is_inverted && !want.is_multi {
        return Err(ResultCode::OpNotApplicable);
    }
    if list.is_ordered() {
        return by_indexes(list, rank, count, want);
    }
    let window = Window::new(rank, count, list.count, want.is_multi).ok_or(ResultCode::OpNotApplicable)?;
    let picked_count = if want.is_inverted { list.count - window.count } else { window.count };
    if picked_count == 0 {
        return nothing(want, window.start);
    }
    if want.is_inverted && want.is_rank_range() {
        return Err(ResultCode::OpNotApplicable);
    }
    let ranked = pick_ranks(list, window)?;
    let mut mask = Mask::new(list.count);
    mask.set_all(ranked.positions.iter().copied());
    let mask = mask.inverted_if(want.is_inverted);
    let answer = match want.kind {
        ReturnType::Index | ReturnType::ReverseIndex if want.is_multi => mask.positions(want),
        ReturnType::Index | ReturnType::ReverseIndex => {
            integer(want.directed(mask.iter().next().unwrap_or_default(), list.count))
        }
        ReturnType::Value if want.is_inverted => values_at(list, mask.iter(), picked_count)?,
        ReturnType::Value if want.is_multi => values_at(list, ranked.positions.into_iter(), picked_count)?,
        ReturnType::Value => element(list.element(mask.iter().next().unwrap_or_default())?, list.budget)?,
        ReturnType::IndexRange | ReturnType::ReverseIndexRange => return Err(ResultCode::OpNotApplicable),
        _ => run(want, window.start, window.count, list.count)?,
    };
    Ok(Selection { picked: Picked::Mask(mask), answer, keeps_flags: true })
}

/// The elements of an unordered list whose ranks are in the window.
pub(crate) fn pick_ranks(list: &Container<'_>, window: Window) -> Result<Ranked, ResultCode> {
    let offsets = list.offsets()?;
    Ranked::pick(window.start, window.count, list.count, list.budget, |a, b| {
        compare_metered(bytes_at(list, offsets, a)?, bytes_at(list, offsets, b)?, list.budget)
    })
}

fn by_value_list(list: &Container<'_>, items: &[u8], want: Want) -> Result<Selection, ResultCode> {
    if want.is_rank_range() || want.is_index_range() {
        return Err(ResultCode::OpNotApplicable);
    }
    let items = Items::parse(items, list.budget)?;
    if items.count == 0 {
        if !want.is_inverted {
            return nothing(want, 0);
        }
        return by_indexes(list, 0, u64::from(list.count), want.upright());
    }
    if list.is_ordered() {
        return by_value_list_ordered(list, &items, want);
    }
    let matches = items.matches(elements(list)?, list.count)?;
    let answer = if want.is_rank() { matches.ranks(want) } else { None };
    let mask = matches.mask.inverted_if(want.is_inverted);
    let answer = match want.kind {
        ReturnType::Rank | ReturnType::ReverseRank => answer,
        _ => of_mask(list, &mask, want)?,
    };
    Ok(Selection::new(Picked::Mask(mask), answer))
}

/// The answer about a set of elements.
fn of_mask(list: &Container<'_>, mask: &Mask, want: Want) -> Result<ResultValue, ResultCode> {
    Ok(match want.kind {
        ReturnType::None => None,
        ReturnType::Count => integer(mask.count()),
        ReturnType::Exists => Some(Particle::Bool(mask.count() != 0)),
        ReturnType::Index | ReturnType::ReverseIndex | ReturnType::Rank | ReturnType::ReverseRank => {
            mask.positions(want)
        }
        ReturnType::Value => values_at(list, mask.iter(), mask.count())?,
        _ => return Err(ResultCode::OpNotApplicable),
    })
}

/// Each item selects a run of an ordered list. The result has the runs in the order of the items, with repetitions.
fn by_value_list_ordered(
    list: &Container<'_>,
    items: &Items<'_>,
    want: Want,
) -> Result<Selection, ResultCode> {
    let mut windows = Vec::with_capacity(items.count as usize);
    let mut mask = Mask::new(list.count);
    let mut count = 0;
    for item in items.iter() {
        let window = find_run(list, item, true)?;
        count = selected_count(count, window.count, list.budget)?;
        mask.set_all(window.start..window.end());
        windows.push(window);
    }
    let mask = mask.inverted_if(want.is_inverted);
    let answer = match want.kind {
        _ if want.is_inverted => of_mask(list, &mask, want)?,
        ReturnType::Index | ReturnType::ReverseIndex | ReturnType::Rank | ReturnType::ReverseRank => {
            let mut answer = Integers::with_count(count);
            for window in &windows {
                answer.push_range(window.start, window.count, list.count, want.is_reverse());
            }
            answer.finish()
        }
        ReturnType::Value => {
            let positions = windows.iter().flat_map(|window| window.start..window.end());
            values_at(list, positions, count)?
        }
        _ => of_mask(list, &mask, want)?,
    };
    Ok(Selection::new(Picked::Mask(mask), answer))
}
