//! Finds pairs of a map.
//!
//! In a map without an index, a key is found by a walk that reads each key once and ends early if the order
//! allows that. Only operations that need the offsets of all pairs compute them.

use std::cmp::Ordering;
use std::ops::Range;

use cf::msgpack::{Kind, Probe, Reader, Walk, compare_metered};
use proto::ResultCode;

use crate::budget::Budget;
use crate::cdt::container::{Container, Offsets};
use crate::cdt::index::value_order;
use crate::cdt::order::{Among, Ranked, Search, SearchResult};
use crate::cdt::pair::split;
use crate::cdt::window::Window;

/// The place of a key, or where to insert it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) is_found: bool,
    pub(crate) position: u32,
    /// Bytes of the pair in the contents; empty at an insertion point.
    pub(crate) pair: Range<usize>,
}

impl Place {
    const fn found(position: u32, pair: Range<usize>) -> Self {
        Self { is_found: true, position, pair }
    }

    const fn missing(position: u32, start: usize) -> Self {
        Self { is_found: false, position, pair: start..start }
    }
}

/// Finds `key`, or the place where it would be inserted: its place in the order if the pairs are in order
/// (flagged or not), otherwise the end.
///
/// # Errors
/// `Parameter` for a damaged map.
pub(crate) fn find_place(map: &Container<'_>, key: &[u8]) -> Result<Place, ResultCode> {
    if !map.is_ordered() {
        return walk_unordered(map, key).ok_or(ResultCode::Parameter);
    }
    if let Some(stored) = map.stored_offsets().filter(|stored| stored.is_complete(map.count)) {
        let probe = Probe::new(key);
        let found = Search::all(map.count, Among::Any).run(
            map.budget,
            |rank| rank,
            |position| probe.compare_metered(map.contents.get(stored.start(position)?..)?, map.budget),
        )?;
        return place_at(map, found);
    }
    if is_plain(key) {
        return walk_ordered(map, key).ok_or(ResultCode::Parameter);
    }
    find_by_offsets(map, key)
}

/// Finds `key` in a map. In an unordered map a missing key has no insertion point.
///
/// # Errors
/// `Parameter` for a damaged map.
pub(crate) fn find_key(map: &Container<'_>, key: &[u8]) -> Result<Place, ResultCode> {
    if map.is_ordered() { find_place(map, key) } else { walk_equal(map, key).ok_or(ResultCode::Parameter) }
}

/// Finds `key` in an ordered map by the offsets of all pairs, for searches of many keys.
pub(crate) fn find_by_offsets(map: &Container<'_>, key: &[u8]) -> Result<Place, ResultCode> {
    place_at(map, search_keys(map, key, 0, Among::Any)?)
}

/// Searches the keys of an ordered map.
pub(crate) fn search_keys(
    map: &Container<'_>,
    key: &[u8],
    from: u32,
    among: Among,
) -> Result<SearchResult, ResultCode> {
    let offsets = map.offsets()?;
    let probe = Probe::new(key);
    Search { from, total: map.count, among }.run(
        map.budget,
        |rank| rank,
        |position| probe.compare_metered(bytes_at(map, offsets, position)?, map.budget),
    )
}

fn place_at(map: &Container<'_>, found: SearchResult) -> Result<Place, ResultCode> {
    if found.is_equal {
        return Ok(Place::found(found.rank, map.range(found.rank, 1)?));
    }
    Ok(Place::missing(found.rank, map.start_of(found.rank)?))
}

/// Whether the order between a key and the keys of a map is unambiguous, so that every search has the same
/// result.
fn is_plain(key: &[u8]) -> bool {
    let kind = Reader::new(key).kind();
    kind.is_some_and(|kind| kind.is_integer() || matches!(kind, Kind::Text | Kind::Bytes))
}

/// Number of pairs that a walk over an ordered map skips at once.
const STRIDE: u32 = 32;

/// Walks over the pairs of an ordered map up to `key`. Most keys are skipped without being read.
fn walk_ordered(map: &Container<'_>, key: &[u8]) -> Option<Place> {
    let probe = Probe::new(key);
    let at = |start: usize| map.contents.get(start..);
    let mut walk = Walk::new(map.contents, 0, map.budget);
    let mut position = 0;
    // Start of the pairs that are compared one by one.
    let mut start = 0;
    while map.count - position > STRIDE {
        let ahead = walk.pass(2 * u64::from(STRIDE))?;
        if probe.compare_metered(at(ahead)?, map.budget)? == Ordering::Less {
            break;
        }
        start = ahead;
        position += STRIDE;
    }
    walk.finish()?;
    let mut walk = Walk::new(map.contents, start, map.budget);
    for position in position..map.count {
        let start = walk.position();
        let order = probe.compare_metered(at(start)?, map.budget)?;
        if order == Ordering::Less {
            return Some(Place::missing(position, start));
        }
        let end = walk.pass(2)?;
        if order == Ordering::Equal {
            return Some(Place::found(position, start..end));
        }
    }
    walk.finish()?;
    Some(Place::missing(map.count, map.contents.len()))
}

/// Walks over the pairs of an unordered map up to `key`. A missing key has no insertion point.
fn walk_equal(map: &Container<'_>, key: &[u8]) -> Option<Place> {
    let probe = Probe::new(key);
    let mut walk = Walk::new(map.contents, 0, map.budget);
    for position in 0..map.count {
        let start = walk.position();
        let end = walk.pass(2)?;
        if probe.compare_metered(map.contents.get(start..)?, map.budget)? == Ordering::Equal {
            walk.finish()?;
            return Some(Place::found(position, start..end));
        }
    }
    walk.finish()?;
    Some(Place::missing(map.count, map.contents.len()))
}

/// Walks over the pairs of an unordered map up to `key`. A missing key belongs before the first greater key,
/// if the keys before that ascend.
fn walk_unordered(map: &Container<'_>, key: &[u8]) -> Option<Place> {
    let probe = Probe::new(key);
    let mut walk = Walk::new(map.contents, 0, map.budget);
    let mut place = Place::missing(map.count, map.contents.len());
    for position in 0..map.count {
        let start = walk.position();
        let end = walk.pass(2)?;
        match probe.compare_metered(map.contents.get(start..)?, map.budget)? {
            Ordering::Equal => {
                walk.finish()?;
                return Some(Place::found(position, start..end));
            }
            Ordering::Less if place.position == map.count => place = Place::missing(position, start),
            _ => {}
        }
    }
    walk.finish()?;
    // The key before the place is less than the searched key, and therefore less than the key at the place.
    if !is_ascending(map, place.position)? {
        place = Place::missing(map.count, map.contents.len());
    }
    Some(place)
}

/// Whether the first `count` keys ascend.
fn is_ascending(map: &Container<'_>, count: u32) -> Option<bool> {
    let mut walk = Walk::new(map.contents, 0, map.budget);
    for _ in 1..count {
        let (start, end) = (walk.position(), walk.pass(2)?);
        let (key, next) = (map.contents.get(start..)?, map.contents.get(end..)?);
        if compare_metered(key, next, map.budget)? != Ordering::Less {
            return Some(false);
        }
    }
    walk.finish()?;
    Some(true)
}

/// The bytes from a pair to the end.
#[inline]
pub(crate) fn bytes_at<'a>(map: &Container<'a>, offsets: &Offsets, position: u32) -> Option<&'a [u8]> {
    map.contents.get(offsets.start(position)..)
}

/// The keys of all pairs, or the values of all pairs.
pub(crate) fn parts<'m, 'a>(
    map: &'m Container<'a>,
    are_keys: bool,
) -> Result<impl Iterator<Item = Result<&'a [u8], ResultCode>> + 'm, ResultCode> {
    let offsets = map.offsets()?;
    map.budget.draw_for(8 * map.count as usize)?;
    Ok((0..map.count).map(move |position| {
        let (key, value) = split(map.slice(offsets.range(position, 1))?, map.budget)?;
        Ok(if are_keys { key } else { value })
    }))
}

/// Compares pairs by value, then by key.
pub(crate) fn compare_by_value(left: &[u8], right: &[u8], budget: &Budget<'_>) -> Option<Ordering> {
    let ((left_key, left), (right_key, right)) = (split(left, budget).ok()?, split(right, budget).ok()?);
    let keys = compare_metered(left_key, right_key, budget)?;
    compare_metered(left, right, budget).map(|order| order.then(keys))
}

/// Compares pairs by key, then by value.
fn compare_by_key(left: &[u8], right: &[u8], budget: &Budget<'_>) -> Option<Ordering> {
    let ((left_key, left), (right_key, right)) = (split(left, budget).ok()?, split(right, budget).ok()?);
    match compare_metered(left_key, right_key, budget)? {
        Ordering::Equal => compare_metered(left, right, budget),
        order => Some(order),
    }
}

/// Positions of the window's pairs of an unordered map, in the order of their keys.
pub(crate) fn pick_by_key(map: &Container<'_>, window: Window) -> Result<Vec<u32>, ResultCode> {
    pick(map, window, compare_by_key)
}

/// Positions of the window's pairs, in the order of their values.
pub(crate) fn pick_by_value(map: &Container<'_>, window: Window) -> Result<Vec<u32>, ResultCode> {
    if map.has_value_order() {
        let mut order = value_order(map)?;
        order.truncate(window.end() as usize);
        return Ok(order.split_off((window.start as usize).min(order.len())));
    }
    pick(map, window, compare_by_value)
}

fn pick(
    map: &Container<'_>,
    window: Window,
    by: fn(&[u8], &[u8], &Budget<'_>) -> Option<Ordering>,
) -> Result<Vec<u32>, ResultCode> {
    let offsets = map.offsets()?;
    let ranked = Ranked::pick(window.start, window.count, map.count, map.budget, |a, b| {
        by(bytes_at(map, offsets, a)?, bytes_at(map, offsets, b)?, map.budget)
    })?;
    Ok(ranked.ascending())
}

/// The position of the pair whose place in the order of keys is `index`.
///
/// # Errors
/// `Parameter` for a damaged map.
pub(crate) fn position_by_index(map: &Container<'_>, index: u32) -> Result<u32, ResultCode> {
    if map.is_ordered() {
        return Ok(index);
    }
    pick_by_key(map, Window { start: index, count: 1 })?.first().copied().ok_or(ResultCode::Parameter)
}

/// The position of the pair whose place in the order of values is `rank`.
///
/// # Errors
/// `Parameter` for a damaged map.
pub(crate) fn position_by_rank(map: &Container<'_>, rank: u32) -> Result<u32, ResultCode> {
    pick_by_value(map, Window { start: rank, count: 1 })?.first().copied().ok_or(ResultCode::Parameter)
}

/// The position of a pair with `value`: the first one in the map, or the lowest one in the order of the
/// index.
///
/// # Errors
/// `Parameter` for a damaged map.
pub(crate) fn position_by_value(map: &Container<'_>, value: &[u8]) -> Result<Option<u32>, ResultCode> {
    if map.has_value_order() {
        let order = value_order(map)?;
        let found = search_values(map, &order, value, Among::First)?;
        return Ok(order.get(found.rank as usize).copied().filter(|_| found.is_equal));
    }
    crate::cdt::items::position_of(parts(map, false)?, value, map.budget)
}

/// Searches the values of a map in their order.
pub(crate) fn search_values(
    map: &Container<'_>,
    order: &[u32],
    value: &[u8],
    among: Among,
) -> Result<SearchResult, ResultCode> {
    let offsets = map.offsets()?;
    let probe = Probe::new(value);
    Search::all(map.count, among).run(
        map.budget,
        |rank| order.get(rank as usize).copied().unwrap_or_default(),
        |position| {
            let (_, other) = split(bytes_at(map, offsets, position)?, map.budget).ok()?;
            probe.compare_metered(other, map.budget)
        },
    )
}
