//! Additions to ordered lists.

use std::cmp::Ordering;

use cf::msgpack::compare_metered;
use proto::ResultCode;

use super::modify::{AddFlags, Values, sorted};
use super::select::find;
use crate::cdt::container::Container;
use crate::cdt::index::Edit;
use crate::cdt::layout::Layout;
use crate::cdt::order::Among;
use crate::cdt::pick::splice;
use crate::cdt::{ContainerChange, Scope};

/// Inserts values at their places in the order. Returns the outcome and the new number of elements.
///
/// # Errors
/// `ElementExists` or `OpNotApplicable` for values that must be unique and are not.
pub(super) fn add(
    list: &Container<'_>,
    values: &Values<'_>,
    add: AddFlags,
    scope: Scope,
) -> Result<(ContainerChange, u32), ResultCode> {
    if values.is_one() {
        let found = find(list, values.contents(), 0, Among::Any)?;
        if found.is_equal && add.is_unique() {
            return Ok((add.exists()?, list.count));
        }
        let start = list.start_of(found.rank)?;
        let edit = Edit { position: found.rank, removed: 0, range: start..start, inserted: 1 };
        return Ok((splice(list, &edit, &[values.contents()], scope.is_top)?, list.count + 1));
    }
    if values.count == 0 {
        return Ok((ContainerChange::Touched, list.count));
    }
    let offsets = values.offsets()?;
    let mut order = sorted(values.contents(), &offsets, values.count, list.budget)?;
    let value = |position| values.contents().get(offsets.range(position, 1));
    if add.is_unique() {
        let given = order.len();
        let mut last = None;
        order.retain(|&position| {
            let before = last.replace(position);
            let pair = before.and_then(|before| value(before).zip(value(position)));
            pair.and_then(|(a, b)| compare_metered(a, b, list.budget)) != Some(Ordering::Equal)
        });
        if order.len() != given {
            if !add.is_no_fail() {
                return Err(ResultCode::OpNotApplicable);
            }
            if !add.is_partial() {
                return Ok((ContainerChange::Kept, list.count));
            }
        }
    }
    let mut placed = Vec::with_capacity(order.len());
    for position in order {
        let value = value(position).ok_or(ResultCode::Parameter)?;
        let found = find(list, value, 0, Among::Any)?;
        if !(add.is_unique() && found.is_equal) {
            placed.push((list.start_of(found.rank)?, value));
        } else if !add.is_partial() {
            return Ok((add.exists()?, list.count));
        }
    }
    merge(list, &placed, scope)
}

/// The list with values inserted at ascending offsets.
fn merge(
    list: &Container<'_>,
    placed: &[(usize, &[u8])],
    scope: Scope,
) -> Result<(ContainerChange, u32), ResultCode> {
    let count = list.count + placed.len() as u32;
    let layout = Layout {
        shape: list.shape,
        flags: list.flags,
        count,
        contents_len: list.contents.len() + placed.iter().map(|(_, value)| value.len()).sum::<usize>(),
        is_top: scope.is_top,
    };
    let mut out = layout.begin(list.budget)?;
    let mut copied = 0;
    for &(start, value) in placed {
        // Values without a defined order may ask for a place that has already been passed.
        let start = start.max(copied);
        out.extend_from_slice(list.slice(copied..start)?);
        out.extend_from_slice(value);
        copied = start;
    }
    out.extend_from_slice(list.slice(copied..list.contents.len())?);
    Ok((ContainerChange::Replaced(layout.seal(out, list.budget)?), count))
}

/// Replaces element `index` (or appends), then moves `value` to its place in the order.
///
/// # Errors
/// `OpNotApplicable` beyond the end; `ElementExists` for a value that must be unique and is not.
pub(super) fn replace(
    list: &Container<'_>,
    index: u32,
    value: &[u8],
    add: AddFlags,
    scope: Scope,
) -> Result<ContainerChange, ResultCode> {
    let found = find(list, value, 0, Among::First)?;
    if index > list.count {
        return Err(ResultCode::OpNotApplicable);
    }
    if add.is_unique() && found.is_equal {
        return if found.rank == index { Ok(ContainerChange::Kept) } else { add.exists() };
    }
    let place = list.start_of(found.rank)?;
    if index == list.count {
        let edit = Edit { position: found.rank, removed: 0, range: place..place, inserted: 1 };
        return splice(list, &edit, &[value], scope.is_top);
    }
    let replaced = list.range(index, 1)?;
    // The elements from the new place on, or up to it, are moved to make room.
    let edit = |position: u32, end: u32, range| Edit {
        position,
        removed: end - position,
        range,
        inserted: end - position,
    };
    if found.rank <= index {
        let moved = list.slice(place..replaced.start)?;
        splice(list, &edit(found.rank, index + 1, place..replaced.end), &[value, moved], scope.is_top)
    } else {
        let moved = list.slice(replaced.end..place)?;
        splice(list, &edit(index, found.rank, replaced.start..place), &[moved, value], scope.is_top)
    }
}
