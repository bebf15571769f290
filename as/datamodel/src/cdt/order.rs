//! Sorting, searching and picking by order.
//!
//! The order of values is not always total: a NaN equals every double, and a wildcard equals everything.
//! Results then depend on which values are compared and in which order, and clients can see that. Therefore
//! the three algorithms here are fixed: a top-down merge sort, a binary search with a rule for runs of equal
//! values, and a binary heap. Each of them ends and stays within its bounds, whatever the comparisons return.

use std::cmp::Ordering;

use proto::ResultCode;

use crate::budget::Budget;

/// Base price of a comparison; larger values than small integers and short texts cost more.
const COMPARISON_STEPS: usize = 8;

/// Sorts positions stably.
///
/// # Errors
/// `Parameter` when two positions cannot be compared.
pub(crate) fn merge_sort(
    positions: &mut [u32],
    budget: &Budget<'_>,
    mut compare: impl FnMut(u32, u32) -> Option<Ordering>,
) -> Result<(), ResultCode> {
    let mut spare = vec![0; positions.len()];
    sort_part(positions, &mut spare, budget, &mut compare).ok_or(ResultCode::Parameter)
}

/// The recursion depth is the logarithm of the number of positions.
fn sort_part(
    positions: &mut [u32],
    spare: &mut [u32],
    budget: &Budget<'_>,
    compare: &mut impl FnMut(u32, u32) -> Option<Ordering>,
) -> Option<()> {
    if positions.len() < 2 {
        return Some(());
    }
    let middle = positions.len() / 2;
    let (left, right) = positions.split_at_mut(middle);
    let (left_spare, right_spare) = spare.split_at_mut(middle);
    sort_part(left, left_spare, budget, compare)?;
    sort_part(right, right_spare, budget, compare)?;
    budget.draw_for(positions.len() * COMPARISON_STEPS).ok()?;
    let (left, right) = positions.split_at_mut(middle);
    let (mut left, mut right) = (&*left, &*right);
    let mut merged = spare.iter_mut();
    while let (&[a, ref left_rest @ ..], &[b, ref right_rest @ ..]) = (left, right) {
        let place = merged.next()?;
        if compare(a, b)? == Ordering::Greater {
            (*place, right) = (b, right_rest);
        } else {
            (*place, left) = (a, left_rest);
        }
    }
    for (place, &rest) in merged.zip(left.iter().chain(right)) {
        *place = rest;
    }
    positions.copy_from_slice(spare);
    Some(())
}

/// The place among equal values at which a search ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Among {
    /// The first of them.
    First,
    /// The place after the last of them.
    PastLast,
    /// The first one that the search meets.
    Any,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SearchResult {
    /// Whether an equal value was met.
    pub(crate) is_equal: bool,
    /// The rank of the value found, or the rank it would have.
    pub(crate) rank: u32,
}

/// A binary search over ranks `from..total`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    pub(crate) from: u32,
    pub(crate) total: u32,
    pub(crate) among: Among,
}

impl Search {
    /// Searches all of `total` ranks.
    pub(crate) const fn all(total: u32, among: Among) -> Self {
        Self { from: 0, total, among }
    }

    /// Runs the search. `position_at` returns the position at a rank. `compare` compares the searched value
    /// with the value at a position.
    ///
    /// # Errors
    /// `Parameter` when they cannot be compared.
    pub(crate) fn run(
        self,
        budget: &Budget<'_>,
        position_at: impl Fn(u32) -> u32,
        mut compare: impl FnMut(u32) -> Option<Ordering>,
    ) -> Result<SearchResult, ResultCode> {
        if self.from >= self.total {
            return Ok(SearchResult { is_equal: false, rank: self.total });
        }
        budget.draw_for(self.total.ilog2() as usize * COMPARISON_STEPS)?;
        let mut is_equal = false;
        let (mut lower, mut upper) = (self.from, self.total);
        let mut rank = self.from + (self.total - self.from) / 2;
        loop {
            let position = position_at(rank);
            let mut order = compare(position).ok_or(ResultCode::Parameter)?;
            if order == Ordering::Equal {
                is_equal = true;
                let target = match self.among {
                    Among::Any => break,
                    Among::First => 0,
                    Among::PastLast => self.total,
                };
                order = target.cmp(&position);
            }
            match order {
                Ordering::Equal => break,
                Ordering::Greater => {
                    if rank + 1 >= upper {
                        rank += 1;
                        break;
                    }
                    lower = rank + u32::from(!is_equal);
                    rank = u32::midpoint(rank, upper);
                }
                Ordering::Less => {
                    if rank == lower {
                        break;
                    }
                    upper = rank;
                    rank = u32::midpoint(rank, lower);
                }
            }
        }
        Ok(SearchResult { is_equal, rank })
    }
}

/// The positions with ranks `start..start + count` of `total`, found with a heap. If at least as many ranks
/// are above them as below, they are in descending order, otherwise in ascending order.
#[derive(Debug)]
pub(crate) struct Ranked {
    pub(crate) positions: Vec<u32>,
    pub(crate) is_descending: bool,
}

impl Ranked {
    /// Picks the positions. `start + count` must be at most `total`.
    ///
    /// # Errors
    /// `Parameter` when two positions cannot be compared.
    pub(crate) fn pick(
        start: u32,
        count: u32,
        total: u32,
        budget: &Budget<'_>,
        mut compare: impl FnMut(u32, u32) -> Option<Ordering>,
    ) -> Result<Self, ResultCode> {
        let behind = total - start - count;
        budget.draw_for(total as usize)?;
        let is_descending = start <= behind;
        let (top, discard) =
            if is_descending { (Ordering::Less, start) } else { (Ordering::Greater, behind) };
        let mut heap = Heap { positions: (0..total).collect(), filled: total as usize, top };
        heap.arrange(budget, &mut compare, (count + discard) as usize).ok_or(ResultCode::Parameter)?;
        // Elements that were taken off the top are after the heap, the last one first.
        let mut positions = heap.positions.split_off(heap.filled);
        positions.truncate(count as usize);
        Ok(Self { positions, is_descending })
    }

    /// The positions from the lowest rank to the highest.
    pub(crate) fn ascending(mut self) -> Vec<u32> {
        if self.is_descending {
            self.positions.reverse();
        }
        self.positions
    }
}

struct Heap {
    positions: Vec<u32>,
    filled: usize,
    /// The order in which an upper entry of the heap compares with a lower one.
    top: Ordering,
}

impl Heap {
    /// Builds the heap and moves its top to the end `count` times.
    fn arrange(
        &mut self,
        budget: &Budget<'_>,
        compare: &mut impl FnMut(u32, u32) -> Option<Ordering>,
        count: usize,
    ) -> Option<()> {
        budget.draw_for(2 * self.filled * COMPARISON_STEPS).ok()?;
        for place in (0..self.filled / 2).rev() {
            self.sink(place, compare)?;
        }
        for _ in 0..count {
            // Each level takes two comparisons.
            let depth = self.filled.checked_ilog2().unwrap_or(0) as usize;
            budget.draw_for(2 * depth * COMPARISON_STEPS).ok()?;
            let last = self.filled.checked_sub(1)?;
            self.filled = last;
            self.positions.swap(0, last);
            self.sink(0, compare)?;
        }
        Some(())
    }

    fn sink(
        &mut self,
        mut place: usize,
        compare: &mut impl FnMut(u32, u32) -> Option<Ordering>,
    ) -> Option<()> {
        loop {
            let (first, second) = (2 * place + 1, 2 * place + 2);
            if first >= self.filled {
                return Some(());
            }
            let mut child = first;
            if second < self.filled {
                let order = compare(*self.positions.get(first)?, *self.positions.get(second)?)?;
                if order != self.top && order != Ordering::Equal {
                    child = second;
                }
            }
            if compare(*self.positions.get(child)?, *self.positions.get(place)?)? != self.top {
                return Some(());
            }
            self.positions.swap(place, child);
            place = child;
        }
    }
}
