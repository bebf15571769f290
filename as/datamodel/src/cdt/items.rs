//! Lists of values to search for.

use std::cmp::Ordering;

use cf::msgpack::{Probe, Reader, compare_metered};
use proto::ResultCode;

use super::container::{Offsets, Shape};
use super::order::{Among, Search, merge_sort};
use super::pick::Mask;
use super::result::{Integers, ResultValue, Want};
use crate::budget::Budget;

/// Largest number of values in one list.
const COUNT_MAX: u32 = 1 << 20;
/// Maximum number of elements that a list of values selects. An element that several values select counts for
/// each.
const SELECTED_MAX: u32 = 1 << 24;

/// The number of selected elements after a further value of a list. The value selects `count` elements in
/// addition to the `selected` ones.
///
/// # Errors
/// `Parameter` when the total is too large to be returned.
pub(crate) fn selected_count(selected: u32, count: u32, budget: &Budget<'_>) -> Result<u32, ResultCode> {
    budget.draw_for(4 * count as usize)?;
    selected.checked_add(count).filter(|&count| count <= SELECTED_MAX).ok_or(ResultCode::Parameter)
}

/// The values of a list argument. A description of the list counts as a value.
#[derive(Debug)]
pub(crate) struct Items<'a> {
    pub(crate) count: u32,
    contents: &'a [u8],
    offsets: Offsets,
    budget: &'a Budget<'a>,
}

impl<'a> Items<'a> {
    /// # Errors
    /// `Parameter` for an argument that is not a list, or for a list that is too long.
    pub(crate) fn parse(argument: &'a [u8], budget: &'a Budget<'a>) -> Result<Self, ResultCode> {
        let mut reader = Reader::new(argument);
        let count = reader.list_header().filter(|&count| count <= COUNT_MAX).ok_or(ResultCode::Parameter)?;
        let contents = reader.rest();
        let offsets = Offsets::scan(contents, count, Shape::List, budget).ok_or(ResultCode::Parameter)?;
        Ok(Self { count, contents, offsets, budget })
    }

    /// Item `position`; empty if there is none.
    pub(crate) fn get(&self, position: u32) -> &'a [u8] {
        self.contents.get(self.offsets.range(position, 1)).unwrap_or_default()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        (0..self.count).map(|position| self.get(position))
    }

    /// Positions of the items in order. Equal items keep their order.
    fn sorted(&self) -> Result<Vec<u32>, ResultCode> {
        let mut order: Vec<u32> = (0..self.count).collect();
        let compare = |a, b| compare_metered(self.get(a), self.get(b), self.budget);
        merge_sort(&mut order, self.budget, compare)?;
        Ok(order)
    }

    /// Finds which of the `total` `values` are among the items.
    ///
    /// # Errors
    /// `Parameter` when two values cannot be compared.
    pub(crate) fn matches<'v>(
        &self,
        values: impl Iterator<Item = Result<&'v [u8], ResultCode>>,
        total: u32,
    ) -> Result<Matches, ResultCode> {
        let order = self.sorted()?;
        let mut matches =
            Matches { mask: Mask::new(total), spans: vec![(0, 0); self.count as usize], order, total };
        for (value, position) in values.zip(0..) {
            let probe = Probe::new(value?);
            let search = Search::all(self.count, Among::PastLast);
            // The search is over positions, so that it can end after the last of equal items.
            let found = search.run(
                self.budget,
                |rank| matches.order.get(rank as usize).copied().unwrap_or_default(),
                |item| probe.compare_metered(self.get(item), self.budget),
            )?;
            matches.account(found.is_equal, found.rank, position);
        }
        matches.spread();
        Ok(matches)
    }
}

/// The values that matched, and, for each item, the run of ranks of the values equal to it.
#[derive(Debug)]
pub(crate) struct Matches {
    /// Positions of the values that are equal to some item.
    pub(crate) mask: Mask,
    /// For each item, the rank of the first value equal to it, and the number of equal values. Of equal items
    /// only the last one has them.
    spans: Vec<(u32, u32)>,
    /// Positions of the items in order.
    order: Vec<u32>,
    total: u32,
}

impl Matches {
    fn account(&mut self, is_equal: bool, rank: u32, position: u32) {
        if is_equal {
            self.mask.set(position);
            if let Some(span) = self.span_at(rank.wrapping_sub(1)) {
                span.1 += 1;
            }
        }
        // Counts the values below the item at `rank` that are not below the item before it.
        if let Some(span) = self.span_at(rank) {
            span.0 += 1;
        }
    }

    fn span_at(&mut self, rank: u32) -> Option<&mut (u32, u32)> {
        let item = *self.order.get(rank as usize)?;
        self.spans.get_mut(item as usize)
    }

    /// Turns counts of values between two items into counts of values below an item.
    fn spread(&mut self) {
        let mut below = 0;
        for rank in 0..self.order.len() as u32 {
            if let Some(span) = self.span_at(rank) {
                below += span.0;
                span.0 = below;
            }
        }
    }

    /// The ranks of the matching values, item by item in the given order. If inverted, the other ranks in
    /// ascending order.
    pub(crate) fn ranks(&self, want: Want) -> ResultValue {
        if !want.is_inverted {
            let ranks = self.spans.iter().flat_map(|&(start, count)| start..start + count);
            return Integers::of(ranks.map(|rank| want.directed(rank, self.total)));
        }
        let mut runs = Vec::new();
        let mut from = 0;
        let spans = self.order.iter().filter_map(|&item| self.spans.get(item as usize));
        for &(start, count) in spans.filter(|(_, count)| *count != 0) {
            runs.push((from, start));
            from = start + count;
        }
        runs.push((from, self.total));
        Integers::of(runs.into_iter().flat_map(|(start, end)| {
            // Each run ascends, even if its ranks count from the end.
            let end = end.max(start);
            let (start, end) =
                if want.is_reverse() { (self.total - end, self.total - start) } else { (start, end) };
            (start..end).map(i64::from)
        }))
    }
}

/// The number of `values` that are below `value`.
///
/// # Errors
/// `Parameter` when two values cannot be compared.
pub(crate) fn count_below<'v>(
    values: impl Iterator<Item = Result<&'v [u8], ResultCode>>,
    value: &[u8],
    budget: &Budget<'_>,
) -> Result<u32, ResultCode> {
    let probe = Probe::new(value);
    let mut below = 0;
    for other in values {
        let order = probe.compare_metered(other?, budget).ok_or(ResultCode::Parameter)?;
        below += u32::from(order == Ordering::Greater);
    }
    Ok(below)
}

/// The position of the first of `values` that is equal to `value`.
///
/// # Errors
/// `Parameter` when two values cannot be compared.
pub(crate) fn position_of<'v>(
    values: impl Iterator<Item = Result<&'v [u8], ResultCode>>,
    value: &[u8],
    budget: &Budget<'_>,
) -> Result<Option<u32>, ResultCode> {
    let probe = Probe::new(value);
    for (other, position) in values.zip(0..) {
        if probe.compare_metered(other?, budget).ok_or(ResultCode::Parameter)? == Ordering::Equal {
            return Ok(Some(position));
        }
    }
    Ok(None)
}
