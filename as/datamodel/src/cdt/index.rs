//! Writes the index of a container, from its contents or from its index before a change.

use std::cmp::Ordering;
use std::ops::Range;

use cf::msgpack::{Probe, compare_metered, end_of_metered};
use proto::ResultCode;

use super::container::{Container, Indexing, Offsets, Shape};
use super::layout::Layout;
use super::order::merge_sort;
use super::pair::value_of;
use crate::budget::Budget;

/// A change of a run of elements.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    /// The first element of the run.
    pub(crate) position: u32,
    /// Number of removed elements, and their bytes in the old contents.
    pub(crate) removed: u32,
    pub(crate) range: Range<usize>,
    /// Number of elements that replace them.
    pub(crate) inserted: u32,
}

impl Edit {
    /// The new position of an element outside the run; `None` for an element in the run.
    fn moved(&self, position: u32) -> Option<u32> {
        if position < self.position {
            Some(position)
        } else {
            (position - self.position)
                .checked_sub(self.removed)
                .map(|past| self.position + self.inserted + past)
        }
    }
}

/// Fills in the index of the container in `out`.
///
/// # Errors
/// `Parameter` if the contents do not have as many elements as the layout states.
pub(crate) fn fill(layout: &Layout, mut out: Vec<u8>, budget: &Budget<'_>) -> Result<Vec<u8>, ResultCode> {
    let indexing = layout.indexing();
    if indexing.len() == 0 {
        return Ok(out);
    }
    let parts = Parts::of(layout, &indexing, &mut out)?;
    budget.draw_for(layout.count as usize)?;
    let offsets = Offsets::scan(parts.contents, layout.count, layout.shape, budget);
    let offsets = offsets.ok_or(ResultCode::Parameter)?;
    if indexing.order != 0 {
        let order = order_by_value(parts.contents, &offsets, layout.count, budget)?;
        put_entries(parts.order, indexing.order_width, order.into_iter());
    }
    let starts = (1..indexing.offsets).map(|entry| offsets.start(entry * indexing.step) as u32);
    put_offsets(parts.offsets, &indexing, starts);
    Ok(out)
}

/// Fills in the index of the container in `out`, which was made from `old` by one change.
///
/// # Errors
/// `Parameter` if the contents do not have as many elements as the layout states.
pub(crate) fn refill(
    layout: &Layout,
    mut out: Vec<u8>,
    old: &Container<'_>,
    edit: &Edit,
) -> Result<Vec<u8>, ResultCode> {
    let indexing = layout.indexing();
    if indexing.len() == 0 {
        return Ok(out);
    }
    let budget = old.budget;
    let Some(stored) = old.stored_offsets() else { return fill(layout, out, budget) };
    let parts = Parts::of(layout, &indexing, &mut out)?;
    if indexing.step != 1 {
        // Entries before the change stay. The contents are walked from the last of these entries on.
        let (known, start) = stored.nearest(edit.position).ok_or(ResultCode::Parameter)?;
        let kept = known / indexing.step;
        let mut at = start;
        let later = (kept + 1..indexing.offsets).map(|_| {
            let end = end_of_metered(parts.contents, at, u64::from(indexing.step), budget);
            at = end.unwrap_or(parts.contents.len());
            at as u32
        });
        let kept = (1..=kept.min(indexing.offsets - 1)).map(|entry| stored.entry(entry).unwrap_or_default());
        put_offsets(parts.offsets, &indexing, kept.chain(later));
        return Ok(out);
    }
    budget.draw_for(indexing.len())?;
    if !stored.is_complete(old.count) {
        return fill(layout, out, budget);
    }
    let order = match indexing.order {
        0 => None,
        _ => match changed_order(&parts, old, edit)? {
            Some(order) => Some(order),
            None => return fill(layout, out, budget),
        },
    };
    let grown = (parts.contents.len() as u32).wrapping_sub(old.contents.len() as u32);
    let old_start = |position: u32| stored.start(position).unwrap_or_default() as u32;
    let mut at = edit.range.start;
    let inserted = (1..edit.inserted).map(|_| {
        let end = end_of_metered(parts.contents, at, layout.shape.values_per_element(), budget);
        at = end.unwrap_or(at);
        at as u32
    });
    // The element at the change, whether new or old, begins where the change begins.
    let before = (1..edit.position).map(old_start);
    let here = (edit.position != 0).then_some(edit.range.start as u32);
    let after =
        (edit.position + edit.removed..old.count).map(|position| old_start(position).wrapping_add(grown));
    let after = after.skip(usize::from(edit.inserted == 0));
    put_offsets(parts.offsets, &indexing, before.chain(here).chain(inserted).chain(after));
    if let Some(order) = order {
        put_entries(parts.order, indexing.order_width, order.into_iter());
    }
    Ok(out)
}

/// The order by value after a change that inserts at most one pair, made from the old order if that is filled
/// in.
fn changed_order(
    parts: &Parts<'_>,
    old: &Container<'_>,
    edit: &Edit,
) -> Result<Option<Vec<u32>>, ResultCode> {
    let Some(old_order) = old.stored_value_order().filter(|_| edit.inserted < 2) else { return Ok(None) };
    let mut order: Vec<u32> = Vec::with_capacity(old_order.len() + 1);
    let mut rank = old_order.len();
    if edit.inserted == 1 {
        let new_end =
            end_of_metered(parts.contents, edit.range.start, 2, old.budget).ok_or(ResultCode::Parameter)?;
        let pair = parts.contents.get(edit.range.start..new_end).ok_or(ResultCode::Parameter)?;
        let value = Probe::new(value_of(pair, old.budget)?);
        // Equal values are ordered by position.
        let is_below = |&position: &u32| {
            let other = old.element(position).and_then(|pair| value_of(pair, old.budget)).ok()?;
            let order = value.compare_metered(other, old.budget)?.then(edit.position.cmp(&position));
            Some(order == Ordering::Greater)
        };
        rank = old_order.partition_point(|position| is_below(position).unwrap_or(false));
    }
    for (&position, old_rank) in old_order.iter().zip(0..) {
        if old_rank == rank {
            order.push(edit.position);
        }
        order.extend(edit.moved(position));
    }
    if edit.inserted == 1 && rank == old_order.len() {
        order.push(edit.position);
    }
    Ok(Some(order))
}

/// The index and the contents in the bytes of a container.
struct Parts<'o> {
    offsets: &'o mut [u8],
    order: &'o mut [u8],
    contents: &'o [u8],
}

impl<'o> Parts<'o> {
    fn of(layout: &Layout, indexing: &Indexing, out: &'o mut [u8]) -> Result<Self, ResultCode> {
        let (head, contents) = out.split_at_mut_checked(layout.head_len()).ok_or(ResultCode::Parameter)?;
        let nil = usize::from(layout.shape == Shape::Map);
        let start = head.len().checked_sub(indexing.len() + nil).ok_or(ResultCode::Parameter)?;
        let index = head.get_mut(start..start + indexing.len()).ok_or(ResultCode::Parameter)?;
        let (offsets, order) = index.split_at_mut(indexing.offsets_len());
        Ok(Self { offsets, order, contents })
    }
}

/// Writes the offsets part: the number of entries, then the entries.
fn put_offsets(out: &mut [u8], indexing: &Indexing, starts: impl Iterator<Item = u32>) {
    put_entries(out, indexing.offset_width, std::iter::once(indexing.offsets).chain(starts));
}

fn put_entries(out: &mut [u8], width: usize, values: impl Iterator<Item = u32>) {
    match width {
        1 => put_entries_of::<1>(out, values),
        2 => put_entries_of::<2>(out, values),
        3 => put_entries_of::<3>(out, values),
        _ => put_entries_of::<4>(out, values),
    }
}

fn put_entries_of<const WIDTH: usize>(out: &mut [u8], mut values: impl Iterator<Item = u32>) {
    let (entries, _) = out.as_chunks_mut::<WIDTH>();
    let mut entries = entries.iter_mut();
    values.by_ref().for_each(|value| {
        if let (Some(entry), Some(bytes)) = (entries.next(), value.to_le_bytes().first_chunk()) {
            *entry = *bytes;
        }
    });
}

/// Positions of the pairs of a map, in the order of their values. Equal values keep their order.
pub(crate) fn order_by_value(
    contents: &[u8],
    offsets: &Offsets,
    count: u32,
    budget: &Budget<'_>,
) -> Result<Vec<u32>, ResultCode> {
    budget.draw_for(4 * count as usize)?;
    let mut values = Vec::with_capacity(count as usize);
    for position in 0..count {
        let pair = contents.get(offsets.range(position, 1)).ok_or(ResultCode::Parameter)?;
        values.push(value_of(pair, budget)?);
    }
    let mut order: Vec<u32> = (0..count).collect();
    merge_sort(&mut order, budget, |a, b| {
        compare_metered(values.get(a as usize)?, values.get(b as usize)?, budget)
    })?;
    Ok(order)
}

/// Positions of the pairs of a map, in the order of their values, from its index if the order is filled in
/// there.
pub(crate) fn value_order(map: &Container<'_>) -> Result<Vec<u32>, ResultCode> {
    match map.stored_value_order() {
        Some(order) => Ok(order),
        None => order_by_value(map.contents, map.offsets()?, map.count, map.budget),
    }
}
