//! Records that the indexes lack, because they could not be read while indexes were filled. They are read again,
//! after longer and longer pauses, until they can be read, are replaced, or are gone.
//!
//! # Locks
//! `records` is taken alone and briefly.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use cf::Digest;
use parking_lot::Mutex;

use super::index::SecondaryIndex;
use crate::index::SetId;

/// Failed reads after which a round ends: each may take long on a dying disk.
pub(super) const FAILURES_MAX: usize = 256;
/// The pause before the first round, and the longest one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// The unread records of one namespace. Each takes less memory than its element in the primary index.
#[derive(Default)]
pub(super) struct UnreadRecords {
    records: Mutex<BTreeMap<Digest, SetId>>,
}

impl UnreadRecords {
    pub(super) fn add(&self, records: impl IntoIterator<Item = (Digest, SetId)>) {
        self.records.lock().extend(records);
    }

    pub(super) fn remove(&self, digest: &Digest) {
        self.records.lock().remove(digest);
    }

    pub(super) fn count(&self) -> usize {
        self.records.lock().len()
    }

    /// Number of those that belong to `index`.
    pub(super) fn count_in(&self, index: &SecondaryIndex) -> u64 {
        self.records.lock().values().filter(|set_id| index.is_for(**set_id)).count() as u64
    }

    /// The record after `last`. The first record comes after the last one.
    pub(super) fn after(&self, last: Option<&Digest>) -> Option<Digest> {
        let records = self.records.lock();
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = records.range::<Digest, _>((after, Bound::Unbounded)).next();
        next.or_else(|| records.first_key_value()).map(|(digest, _)| *digest)
    }
}

/// When the unread records of all namespaces are read again.
pub(super) struct Rounds {
    due: Instant,
    pause: Duration,
    /// Number of unread records at the last check.
    count: usize,
}

impl Rounds {
    pub(super) fn new() -> Self {
        Rounds { due: Instant::now(), pause: PAUSE_MIN, count: 0 }
    }

    /// Whether a round is due at `now`, with `count` unread records. After a change of their number the pauses are short
    /// again.
    pub(super) fn is_due(&mut self, count: usize, now: Instant) -> bool {
        if count != self.count {
            (self.count, self.pause, self.due) = (count, PAUSE_MIN, now + PAUSE_MIN);
        }
        if count == 0 || now < self.due {
            return false;
        }
        self.pause = self.pause.saturating_mul(2).min(PAUSE_MAX);
        self.due = now + self.pause;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_in_a_circle() {
        let records = UnreadRecords::default();
        assert_eq!(records.after(None), None);
        let digest = |n| Digest([n; 20]);
        records.add([1, 2, 3].map(|n| (digest(n), SetId::NONE)));
        records.add([(digest(2), SetId::NONE)]);
        assert_eq!(records.count(), 3);
        assert_eq!(
            [None, Some(1), Some(2), Some(3)].map(|n| records.after(n.map(digest).as_ref())),
            [Some(digest(1)), Some(digest(2)), Some(digest(3)), Some(digest(1))]
        );
        records.remove(&digest(1));
        assert_eq!(records.after(Some(&digest(3))), Some(digest(2)));
    }

    #[test]
    fn rounds_come_at_longer_and_longer_intervals_until_something_changes() {
        let (mut rounds, start) = (Rounds::new(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!rounds.is_due(0, at(0)) && !rounds.is_due(5, at(0)));
        let due: Vec<u64> = (1..3_000).filter(|second| rounds.is_due(5, at(*second))).collect();
        assert_eq!(due, [1, 3, 7, 15, 31, 63, 127, 255, 511, 1_023, 1_623, 2_223, 2_823]);
        assert!(!rounds.is_due(4, at(3_000)) && rounds.is_due(4, at(3_001)) && !rounds.is_due(4, at(3_002)));
        assert!(!rounds.is_due(0, at(5_000)));
    }
}
