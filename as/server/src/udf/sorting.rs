//! Sorts keys of maps, which may be many, and may be long texts with a long common beginning. The time of the function is
//! looked at meanwhile.

use std::cmp::Ordering;

/// Bytes and elements that are sorted at once, without a look at the time.
const RUN_COUNT_MAX: usize = 1_024;
const RUN_BYTES_MAX: usize = 1 << 20;
/// Bytes that are compared at about the cost of an element.
const STEP_BYTES: usize = 64;
/// Steps of merging between two looks at the time.
const WATCHED_STEPS: usize = 16 << 10;

/// Sorts `items` by `order`. The comparison of an item costs at most its `size`. Returns whether it came to an end: it stops
/// when `is_over` does.
pub(super) fn sort<T: Copy>(
    items: &mut Vec<T>,
    size: impl Fn(&T) -> usize,
    order: impl Fn(&T, &T) -> Ordering,
    is_over: impl Fn() -> bool,
) -> bool {
    if items.is_sorted_by(|left, right| order(left, right).is_le()) {
        return true;
    }
    // Ends of the runs that are sorted.
    let mut ends = Vec::new();
    let mut start = 0;
    while start < items.len() {
        let (mut end, mut bytes) = (start, 0);
        while end < items.len() && end - start < RUN_COUNT_MAX && bytes <= RUN_BYTES_MAX {
            bytes += size(&items[end]);
            end += 1;
        }
        items[start..end].sort_unstable_by(&order);
        if is_over() {
            return false;
        }
        ends.push(end);
        start = end;
    }
    let (mut merged, mut steps) = (Vec::with_capacity(items.len()), 0);
    while ends.len() > 1 {
        let (mut start, mut merged_ends) = (0, Vec::with_capacity(ends.len().div_ceil(2)));
        for pair in ends.chunks(2) {
            let (middle, end) = (pair[0], pair[pair.len() - 1]);
            let (left, right) = (&items[start..middle], &items[middle..end]);
            if !merge(left, right, &mut merged, &mut steps, (&size, &order, &is_over)) {
                return false;
            }
            merged_ends.push(end);
            start = end;
        }
        std::mem::swap(items, &mut merged);
        merged.clear();
        ends = merged_ends;
    }
    true
}

/// Appends the sorted `left` and `right` to `out`, in order.
fn merge<T: Copy>(
    left: &[T],
    right: &[T],
    out: &mut Vec<T>,
    steps: &mut usize,
    (size, order, is_over): (&impl Fn(&T) -> usize, &impl Fn(&T, &T) -> Ordering, &impl Fn() -> bool),
) -> bool {
    let (mut from_left, mut from_right) = (0, 0);
    while let (Some(first), Some(second)) = (left.get(from_left), right.get(from_right)) {
        if order(first, second).is_le() {
            out.push(*first);
            from_left += 1;
        } else {
            out.push(*second);
            from_right += 1;
        }
        *steps += 1 + size(first).min(size(second)) / STEP_BYTES;
        if *steps >= WATCHED_STEPS {
            *steps = 0;
            if is_over() {
                return false;
            }
        }
    }
    out.extend_from_slice(&left[from_left..]);
    out.extend_from_slice(&right[from_right..]);
    true
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Numbers in no order, with repetitions.
    fn numbers(count: u64) -> Vec<u64> {
        (0..count).map(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (count / 2 + 1)).collect()
    }

    #[test]
    fn all_numbers_of_items_are_sorted() {
        for count in [0, 1, 2, 1_000, 1_024, 1_025, 2_048, 10_000, 100_003] {
            for size in [0, 10, RUN_BYTES_MAX / 3, RUN_BYTES_MAX * 2] {
                let (mut sorted, mut wanted) =
                    (numbers(count.min(if size > 10 { 2_048 } else { count })), Vec::new());
                wanted.clone_from(&sorted);
                wanted.sort_unstable();
                assert!(sort(&mut sorted, |_| size, u64::cmp, || false));
                assert_eq!(sorted, wanted, "{count} of {size} bytes");
            }
        }
    }

    #[test]
    fn a_sort_ends_when_its_time_is_over() {
        for wanted_looks in [1, 50, 100, 110, 130] {
            let looks = Cell::new(0);
            let is_over = || {
                looks.set(looks.get() + 1);
                looks.get() >= wanted_looks
            };
            assert!(!sort(&mut numbers(100_000), |_| 8, u64::cmp, is_over));
            assert_eq!(looks.get(), wanted_looks);
        }
    }
}
