//! Decides which rows a query by an index sends for a record with several entries in its ranges, such as a list with
//! several elements there.
//!
//! A basic query sends the same rows as the C server, because clients count rows, and `sample-max` counts them too.
//! The C server takes a hundred entries of a range at a time, and sends each of their records once. So a record comes
//! again with the next hundred entries, with the next range (a region has several), and on the next page, where the
//! hundreds begin anew.
//!
//! Background queries and aggregations take each record once.

use std::collections::HashSet;

use cf::Digest;
use datamodel::sindex::Key;

use super::condition::Condition;
use super::request::{Query, QueryKind};
use crate::index::{ElementHandle, IndexEntry};

/// Entries among which a record is sent once.
const BURST_SIZE: usize = 100;

/// State of the decision about the rows of a partition.
pub(super) enum Repeats {
    /// Each record has one entry.
    Unlikely,
    /// A record is taken once; these are taken already.
    Never(HashSet<Digest>),
    /// A record is taken once of each burst of entries.
    ByBurst(Burst<ElementHandle>),
}

/// The entries that were passed since the last hundred, or since the beginning of a range.
pub(super) struct Burst<R> {
    /// Position of the range.
    range: usize,
    passed: usize,
    /// Their records.
    records: Vec<R>,
}

impl Repeats {
    /// For the rows of a partition that `query` selects by `condition`.
    pub(super) fn of(query: &Query, condition: &Condition) -> Self {
        match query.kind {
            _ if !condition.may_repeat() => Repeats::Unlikely,
            QueryKind::Basic(_) => Repeats::ByBurst(Burst::new()),
            QueryKind::Operations(_) | QueryKind::Aggregation(_) => Repeats::Never(HashSet::new()),
        }
    }

    /// Prepares for entries that come in several portions, collected at different moments: a record may change its
    /// key between two of them, and so come again. Called before the first entry.
    pub(super) fn expect_portions(&mut self) {
        if let Repeats::Unlikely = self {
            *self = Repeats::Never(HashSet::new());
        }
    }

    /// Whether the record of `entry` is to be taken. Called for each entry, in order; `ranges` are those of the
    /// condition.
    #[inline]
    pub(super) fn is_due(&mut self, entry: &IndexEntry<Key>, ranges: &[(Key, Key)]) -> bool {
        match self {
            Repeats::Unlikely => true,
            Repeats::Never(taken) => !taken.contains(&entry.digest),
            Repeats::ByBurst(burst) => burst.is_first(entry.key, entry.handle, ranges),
        }
    }

    /// Notes that the record of `digest` was taken.
    #[inline]
    pub(super) fn note_taken(&mut self, digest: &Digest) {
        if let Repeats::Never(taken) = self {
            taken.insert(*digest);
        }
    }
}

impl<R: PartialEq> Burst<R> {
    const fn new() -> Self {
        Burst { range: 0, passed: 0, records: Vec::new() }
    }

    /// Whether the entry of `key` is the first one of its record in the burst.
    fn is_first(&mut self, key: Key, record: R, ranges: &[(Key, Key)]) -> bool {
        let is_behind = |range: usize| ranges.get(range).is_some_and(|(_, high)| key > *high);
        if self.passed == BURST_SIZE || is_behind(self.range) {
            (self.passed, self.range) = (0, (self.range..).find(|range| !is_behind(*range)).unwrap_or(0));
            self.records.clear();
        }
        self.passed += 1;
        let is_first = !self.records.contains(&record);
        if is_first {
            self.records.push(record);
        }
        is_first
    }
}

#[cfg(test)]
mod tests {
    use datamodel::sindex::KeyType;

    use super::*;

    fn key(key: i64) -> Key {
        Key::from_bval(key, KeyType::Numeric)
    }

    /// How often records are taken whose entries have these keys, in order.
    fn taken(entries: impl Iterator<Item = (i64, u8)>, ranges: &[(Key, Key)]) -> Vec<(i64, u8)> {
        let mut burst = Burst::new();
        entries.filter(|(value, record)| burst.is_first(key(*value), *record, ranges)).collect()
    }

    #[test]
    fn a_record_is_taken_once_of_each_hundred_entries() {
        let all = [(key(0), key(1_000))];
        let alternating = |count: i64| (0..count).map(|value| (value, (value % 2) as u8));
        assert_eq!(taken(alternating(100), &all), [(0, 0), (1, 1)]);
        assert_eq!(taken(alternating(101), &all), [(0, 0), (1, 1), (100, 0)]);
        assert_eq!(taken(alternating(300), &all).len(), 6);
    }

    #[test]
    fn the_hundreds_start_again_with_each_range() {
        let ranges = [(key(0), key(9)), (key(10), key(19)), (key(20), key(29)), (key(30), key(500))];
        // Nothing is in the third range, and 80 entries are in the fourth.
        let entries = [(0, 1), (9, 1), (10, 1), (15, 1)].into_iter().chain((30..110).map(|value| (value, 1)));
        assert_eq!(taken(entries, &ranges), [(0, 1), (10, 1), (30, 1)]);
        let entries = (30..230).map(|value| (value, 1));
        assert_eq!(taken(entries, &ranges), [(30, 1), (130, 1)]);
    }
}
