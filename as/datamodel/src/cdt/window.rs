//! Converts the indexes and counts of clients to positions.

/// A run of positions of `total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    pub(crate) start: u32,
    pub(crate) count: u32,
}

impl Window {
    /// `count` positions from `index`, which counts from the end if it is negative. The index of a single
    /// element must exist, otherwise the result is `None`. A range is cut to the existing positions.
    pub(crate) fn new(index: i64, count: u64, total: u32, is_multi: bool) -> Option<Self> {
        let size = i64::from(total);
        let start = if index < 0 { size.wrapping_add(index) } else { index };
        if !is_multi && !(0..size).contains(&start) {
            return None;
        }
        if start >= size {
            return Some(Self { start: total, count: 0 });
        }
        // Positions before the first element are counted, but have no elements.
        let missing = start.min(0).unsigned_abs();
        let start = start.max(0).unsigned_abs();
        let count = count.saturating_sub(missing).min(u64::from(total) - start);
        Some(Self { start: start as u32, count: count as u32 })
    }

    /// Converts an index and count relative to position `base` to absolute ones.
    pub(crate) const fn absolute(index: i64, count: u64, base: u32) -> (i64, u64) {
        let index = index.wrapping_add(base as i64);
        if index < 0 { (0, count.saturating_sub(index.unsigned_abs())) } else { (index, count) }
    }

    pub(crate) const fn end(self) -> u32 {
        self.start + self.count
    }

    /// The other positions of `total`, if they are one run.
    pub(crate) const fn complement(self, total: u32) -> Option<Self> {
        if self.count == 0 {
            Some(Self { start: 0, count: total })
        } else if self.start == 0 {
            Some(Self { start: self.count, count: total - self.count })
        } else if self.end() >= total {
            Some(Self { start: 0, count: self.start })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(index: i64, count: u64, total: u32, is_multi: bool) -> Option<(u32, u32)> {
        Window::new(index, count, total, is_multi).map(|window| (window.start, window.count))
    }

    #[test]
    fn ranges_are_cut_and_single_indexes_must_exist() {
        assert_eq!(window(1, 2, 5, true), Some((1, 2)));
        assert_eq!(window(-2, 9, 5, true), Some((3, 2)));
        assert_eq!(window(-7, 3, 5, true), Some((0, 1)));
        assert_eq!(window(-7, 2, 5, true), Some((0, 0)));
        assert_eq!(window(5, 2, 5, true), Some((5, 0)));
        assert_eq!(window(i64::MIN, u64::MAX, 5, true), Some((0, 5)));
        assert_eq!(window(i64::MAX, u64::MAX, 5, true), Some((5, 0)));
        assert_eq!(window(4, 1, 5, false), Some((4, 1)));
        assert_eq!(window(-5, 1, 5, false), Some((0, 1)));
        assert_eq!(window(5, 1, 5, false), None);
        assert_eq!(window(-6, 1, 5, false), None);
        assert_eq!(window(0, 1, 0, false), None);
        assert_eq!(window(0, 1, 0, true), Some((0, 0)));
    }

    #[test]
    fn relative_ranges_lose_positions_before_the_start() {
        assert_eq!(Window::absolute(-1, 3, 2), (1, 3));
        assert_eq!(Window::absolute(-3, 3, 2), (0, 2));
        assert_eq!(Window::absolute(-9, 3, 2), (0, 0));
        assert_eq!(Window::absolute(1, u64::MAX, 2), (3, u64::MAX));
    }

    #[test]
    fn the_complement_is_one_run_or_none() {
        let complement = |start, count, total| {
            Window { start, count }.complement(total).map(|window| (window.start, window.count))
        };
        assert_eq!(complement(3, 0, 5), Some((0, 5)));
        assert_eq!(complement(0, 2, 5), Some((2, 3)));
        assert_eq!(complement(3, 2, 5), Some((0, 3)));
        assert_eq!(complement(1, 2, 5), None);
        assert_eq!(complement(0, 5, 5), Some((5, 0)));
    }
}
