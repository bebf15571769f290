//! Selects pairs of a map by lists of keys or values.

use cf::msgpack::holds_search_value;
use proto::ResultCode;

use super::answer::{indexes, of_mask, ranks};
use super::find::{find_by_offsets, parts, search_keys};
use super::select::{all, find_run};
use crate::budget::Budget;
use crate::cdt::container::Container;
use crate::cdt::index::value_order;
use crate::cdt::items::{Items, selected_count};
use crate::cdt::order::Among;
use crate::cdt::pick::{Mask, Picked, Selection};
use crate::cdt::result::{Integers, Want, not_found};
use crate::cdt::window::Window;

/// Selects the pairs with the keys of a list.
///
/// # Errors
/// `Parameter` for an argument that is not a list; `OpNotApplicable` for ranks.
pub(super) fn by_key_list(map: &Container<'_>, keys: &[u8], want: Want) -> Result<Selection, ResultCode> {
    let keys = Items::parse(keys, map.budget)?;
    if keys.count == 0 {
        if want.is_rank() {
            return Err(ResultCode::OpNotApplicable);
        }
        return by_empty_list(map, want);
    }
    if !map.is_ordered() {
        let matches = keys.matches(parts(map, true)?, map.count)?;
        let answer = if want.is_index() { matches.ranks(want) } else { None };
        let mask = matches.mask.inverted_if(want.is_inverted);
        let answer = if want.is_index() { answer } else { of_mask(map, &mask, want)? };
        return Ok(Selection::new(Picked::Mask(mask), answer));
    }
    let mut windows = Windows::new(map.count, map.budget);
    for key in keys.iter() {
        windows.push(run_of_key(map, key)?, None)?;
    }
    let (mask, positions) = windows.finish(want);
    let answer = if !want.is_index() {
        of_mask(map, &mask, want)?
    } else if want.is_inverted {
        mask.positions(want)
    } else {
        positions
    };
    Ok(Selection::new(Picked::Mask(mask), answer))
}

/// The run of keys that are equal to `key`. It has at most one key, unless `key` contains a wildcard.
fn run_of_key(map: &Container<'_>, key: &[u8]) -> Result<Window, ResultCode> {
    if !holds_search_value(key) {
        let place = find_by_offsets(map, key)?;
        return Ok(Window { start: place.position, count: u32::from(place.is_found) });
    }
    let first = search_keys(map, key, 0, Among::First)?;
    if !first.is_equal {
        return Ok(Window { start: first.rank, count: 0 });
    }
    let past_last = search_keys(map, key, first.rank, Among::PastLast)?;
    Ok(Window { start: first.rank, count: past_last.rank.saturating_sub(first.rank) })
}

/// Selects the pairs with the values of a list.
///
/// # Errors
/// `Parameter` for an argument that is not a list; `OpNotApplicable` for ranges.
pub(super) fn by_value_list(map: &Container<'_>, values: &[u8], want: Want) -> Result<Selection, ResultCode> {
    let values = Items::parse(values, map.budget)?;
    if values.count == 0 {
        return by_empty_list(map, want);
    }
    if map.has_value_order() || map.count < 2 {
        return by_value_list_indexed(map, &values, want);
    }
    let matches = values.matches(parts(map, false)?, map.count)?;
    let answer = if want.is_rank() { matches.ranks(want) } else { None };
    let mask = matches.mask.inverted_if(want.is_inverted);
    let answer = if want.is_rank() {
        answer
    } else if want.is_index() {
        indexes(map, mask.iter(), want)?
    } else {
        of_mask(map, &mask, want)?
    };
    Ok(Selection::new(Picked::Mask(mask), answer))
}

/// Indexes and ranks are in the order of the list's values, by the index's order of values, with repetitions.
fn by_value_list_indexed(
    map: &Container<'_>,
    values: &Items<'_>,
    want: Want,
) -> Result<Selection, ResultCode> {
    let order = if map.count < 2 { (0..map.count).collect() } else { value_order(map)? };
    let mut windows = Windows::new(map.count, map.budget);
    for value in values.iter() {
        windows.push(find_run(map, &order, value, true)?, Some(&order))?;
    }
    let order_by_position = want.is_index().then_some(order.as_slice());
    let (mask, positions) = windows.finish_through(want, order_by_position);
    let answer = match want {
        _ if want.is_index() && want.is_inverted => indexes(map, mask.iter(), want)?,
        _ if want.is_rank() && want.is_inverted => ranks(map, mask.iter(), want)?,
        _ if want.is_index() || want.is_rank() => positions,
        _ => of_mask(map, &mask, want)?,
    };
    Ok(Selection::new(Picked::Mask(mask), answer))
}

/// An empty list selects nothing; if inverted, it selects everything.
fn by_empty_list(map: &Container<'_>, want: Want) -> Result<Selection, ResultCode> {
    if want.is_index_range() || want.is_rank_range() {
        return Err(ResultCode::OpNotApplicable);
    }
    if want.is_inverted {
        return all(map, want.upright());
    }
    // An unknown return type is not an error here.
    Ok(Selection::nothing(not_found(want, 0).unwrap_or_default()))
}

/// Runs that the items of a list select.
struct Windows<'b> {
    budget: &'b Budget<'b>,
    runs: Vec<Window>,
    selected: u32,
    mask: Mask,
    total: u32,
}

impl<'b> Windows<'b> {
    fn new(total: u32, budget: &'b Budget<'b>) -> Self {
        Self { budget, runs: Vec::new(), selected: 0, mask: Mask::new(total), total }
    }

    /// Adds a run, of positions or of ranks in an order.
    fn push(&mut self, run: Window, order: Option<&[u32]>) -> Result<(), ResultCode> {
        self.selected = selected_count(self.selected, run.count, self.budget)?;
        for rank in run.start..run.end() {
            let position = order.map_or(Some(rank), |order| order.get(rank as usize).copied());
            self.mask.set(position.unwrap_or(rank));
        }
        self.runs.push(run);
        Ok(())
    }

    /// The selected positions, and, as the answer, the runs one after another.
    fn finish(self, want: Want) -> (Mask, Option<crate::particle::Particle<'static>>) {
        self.finish_through(want, None)
    }

    /// Same as [`finish`](Self::finish), with the entries of `order` at the ranks of the runs.
    fn finish_through(
        self,
        want: Want,
        order: Option<&[u32]>,
    ) -> (Mask, Option<crate::particle::Particle<'static>>) {
        let mut answer = Integers::with_count(self.selected);
        for run in &self.runs {
            match order {
                None => answer.push_range(run.start, run.count, self.total, want.is_reverse()),
                Some(order) => {
                    for &position in order.get(run.start as usize..run.end() as usize).unwrap_or_default() {
                        answer.push(want.directed(position, self.total));
                    }
                }
            }
        }
        (self.mask.inverted_if(want.is_inverted), answer.finish())
    }
}
