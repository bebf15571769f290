//! A walk over the records of a partition that holds no lock while its caller works on a record.
//!
//! The order is that in which queries resume: sprigs from last to first, inside a sprig by falling digest. A cursor
//! collects digests in portions of bounded size; it holds each sprig's lock, shared, for a bounded time. Then the
//! caller locks one record after the other with [`Index::get`] or [`Index::get_exclusive`]. A record may be gone or
//! changed by then, so the caller checks again whether it exists and is wanted.
//!
//! A record that exists during the whole walk is found exactly once. A record that comes or goes meanwhile is found
//! once or not at all; so is a record that is removed and created again, because it has the same digest.

use std::cmp::Reverse;

use cf::Digest;

use super::PartitionId;
use super::element::{Element, RecordMeta};
use super::sprig::STEP_COUNT;
use super::tree::{Index, LockWait};

/// A portion is complete with this many records. It has less than twice as many.
const PORTION_SIZE: usize = 512;
/// Maximum number of elements visited in one sprig while it is locked.
const VISITS_MAX: usize = 512;
/// Maximum number of sprigs and elements visited for a portion, whether or not they contributed records.
const EFFORT_MAX: usize = 4096;
/// How many sprigs ahead of the walk elements are prefetched.
const PREFETCH_DISTANCE: usize = 8;

const _: () = assert!(VISITS_MAX > STEP_COUNT, "a visit gets further than the one before");

/// A record found by a walk, with its state at that moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeenRecord {
    pub(crate) digest: Digest,
    /// The location is a hint only: stored bytes may be freed while no lock of the record is held.
    pub(crate) meta: RecordMeta,
}

impl SeenRecord {
    /// The digest and metadata of `element`.
    #[inline]
    pub(crate) fn of(element: &Element) -> Self {
        SeenRecord { digest: *element.digest(), meta: **element }
    }
}

/// A walk over the records of a partition.
pub(crate) struct Cursor<'a> {
    index: &'a Index,
    partition: PartitionId,
    /// Number of sprigs that are not done; they are the first ones, and the last of them is next.
    sprigs_left: usize,
    /// The part of the next sprig that is left: digests up to this one; `None` = all.
    bound: Option<Digest>,
    portion: Vec<SeenRecord>,
    wait: LockWait,
}

impl Index {
    /// A walk over the records of `partition`, after the digest `after` if one is given.
    pub(crate) fn cursor(&self, partition: PartitionId, after: Option<&Digest>) -> Cursor<'_> {
        Cursor::new(self, partition, after)
    }
}

impl<'a> Cursor<'a> {
    /// A walk over `partition` in `index`, after the digest `after` if one is given.
    pub(super) fn new(index: &'a Index, partition: PartitionId, after: Option<&Digest>) -> Self {
        let bound = after.map(before);
        let sprigs_left = match (after, &bound) {
            (Some(after), Some(Some(_))) => index.sprig_position(after) + 1,
            // No digest comes after the lowest one.
            (_, Some(None)) => 0,
            _ => index.sprigs_of(partition).len(),
        };
        let bound = bound.flatten();
        Cursor { index, partition, sprigs_left, bound, portion: Vec::new(), wait: LockWait::Sleep }
    }

    /// The same, waiting for locks as `wait` says. With `Spin` a portion ends where a lock is not free.
    pub(crate) fn within(self, wait: LockWait) -> Self {
        Cursor { wait, ..self }
    }

    /// The next records that are `wanted`, in order; `None` after the last. A portion may be empty with more to follow:
    /// it ends after bounded work, so that the caller can do other things.
    ///
    /// `wanted` runs under the lock of the element's sprig, shared: it must be short, not wait and take no lock.
    pub(crate) fn next_portion(&mut self, mut wanted: impl FnMut(&Element) -> bool) -> Option<&[SeenRecord]> {
        if self.sprigs_left == 0 {
            return None;
        }
        let (index, sprigs) = (self.index, self.index.sprigs_of(self.partition));
        self.portion.clear();
        let mut effort = 0;
        while self.sprigs_left > 0 && self.portion.len() < PORTION_SIZE && effort < EFFORT_MAX {
            let at = self.sprigs_left - 1;
            if let Some(ahead) = at.checked_sub(PREFETCH_DISTANCE) {
                index.prefetch_root(&sprigs[ahead]);
            }
            let start = self.portion.len();
            let portion = &mut self.portion;
            let place = (&sprigs[at], self.wait);
            let visited = index.visit_falling(place, self.bound.as_ref(), VISITS_MAX, |element| {
                effort += 1;
                if wanted(element) {
                    portion.push(SeenRecord::of(element));
                }
            });
            let Ok(rest) = visited else { break };
            portion[start..].sort_unstable_by_key(|found| Reverse(found.digest));
            match rest {
                None => self.sprigs_left = at,
                // Elements up to that digest will be visited again.
                Some(rest) => {
                    let count = portion[start..].partition_point(|found| found.digest > rest);
                    portion.truncate(start + count);
                }
            }
            self.bound = rest;
            effort += 1;
        }
        Some(&self.portion)
    }
}

/// The digest before `digest`, if there is one.
fn before(digest: &Digest) -> Option<Digest> {
    let mut before = *digest;
    for byte in before.0.iter_mut().rev() {
        let borrows = *byte == 0;
        *byte = byte.wrapping_sub(1);
        if !borrows {
            return Some(before);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use proptest::prelude::*;

    use super::super::tree::IndexGeometry;
    use super::*;

    fn small_index() -> Index {
        Index::new(IndexGeometry { sprigs_per_partition: 256, stage_size: 128 << 20 })
    }

    /// Digest number `number` of partition 0: in one sprig if it is `crowded`, else spread over all.
    fn digest(number: u32, crowded: bool) -> Digest {
        let mut digest = Digest([0; 20]);
        let scattered = number.wrapping_mul(0x9E37_79B1).to_be_bytes();
        if !crowded {
            (digest.0[1], digest.0[2]) = (scattered[0] & 0xF0, scattered[1] & 0xF0);
        }
        digest.0[3..7].copy_from_slice(&scattered);
        // Some digests share long paths.
        digest.0[16..].copy_from_slice(&(number / 3).to_be_bytes());
        digest
    }

    fn put(index: &Index, digest: &Digest, generation: u16) {
        let (mut guard, _) = index.get_or_create(digest).expect("room");
        guard.meta_mut().generation = generation;
    }

    /// The order in which a walk must find records.
    fn place(digest: &Digest) -> (u8, u8, Digest) {
        (digest.0[1] >> 4, digest.0[2] >> 4, *digest)
    }

    fn walk(index: &Index, after: Option<&Digest>, wanted: impl Fn(&Element) -> bool) -> Vec<Digest> {
        let mut seen = Vec::new();
        let mut cursor = index.cursor(PartitionId::of(&Digest::default()), after);
        while let Some(portion) = cursor.next_portion(&wanted) {
            assert!(portion.len() < 2 * PORTION_SIZE);
            seen.extend(portion.iter().map(|found| found.digest));
        }
        assert!(cursor.next_portion(&wanted).is_none());
        seen
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_cursor_returns_the_digests_of_a_map_in_order(
            crowded in any::<bool>(), count in 0u32..4_000, removed in prop::collection::vec(0u32..4_000, 0..300),
            after in 0u32..4_000, divisor in 1u16..9,
        ) {
            let index = small_index();
            let mut model = BTreeMap::new();
            for number in 0..count {
                let (digest, generation) = (digest(number, crowded), (number % 1_000) as u16 + 1);
                put(&index, &digest, generation);
                model.insert(place(&digest), generation);
            }
            for number in removed {
                let digest = digest(number, crowded);
                if let Some(guard) = index.get_exclusive(&digest) {
                    guard.remove();
                }
                model.remove(&place(&digest));
            }
            let wanted = |generation: &u16| generation.is_multiple_of(divisor);
            let expected = |after: Option<Digest>| -> Vec<Digest> {
                let rest = model.iter().rev().filter(|(at, _)| after.is_none_or(|after| **at < place(&after)));
                rest.filter(|(_, generation)| wanted(generation)).map(|(at, _)| at.2).collect()
            };
            prop_assert_eq!(walk(&index, None, |element| wanted(&element.generation)), expected(None));
            let after = digest(after, crowded);
            prop_assert_eq!(walk(&index, Some(&after), |element| wanted(&element.generation)), expected(Some(after)));
            let lowest = Digest::default();
            prop_assert!(walk(&index, Some(&lowest), |_| true).is_empty());
        }
    }

    /// A record that exists throughout is found once however the sprigs change, one that comes or goes at most once.
    #[test]
    fn a_walk_during_writes_misses_and_repeats_nothing() {
        const COUNT: u32 = 6_000;
        for crowded in [true, false] {
            let index = small_index();
            // Every third stays, the others come and go.
            (0..COUNT)
                .filter(|number| number % 3 == 0)
                .for_each(|number| put(&index, &digest(number, crowded), 1));
            let staying: HashSet<Digest> =
                (0..COUNT).filter(|number| number % 3 == 0).map(|number| digest(number, crowded)).collect();
            let is_done = AtomicBool::new(false);
            cf::sync::scope(|scope| {
                for thread in 1..3 {
                    let (index, is_done) = (&index, &is_done);
                    scope.spawn(move || {
                        let mut number = thread;
                        while !is_done.load(Relaxed) {
                            number = (number * 7 + 3) % (COUNT / 3);
                            let digest = digest(number * 3 + thread, crowded);
                            match index.get_exclusive(&digest) {
                                Some(guard) => guard.remove(),
                                None => put(index, &digest, 1),
                            }
                        }
                    });
                }
                for _ in 0..40 {
                    let found = walk(&index, None, |_| true);
                    let once: HashSet<Digest> = found.iter().copied().collect();
                    assert_eq!(once.len(), found.len(), "a record is found twice");
                    assert!(staying.is_subset(&once), "a record that is there is not found");
                    assert!(found.is_sorted_by_key(|digest| Reverse(place(digest))));
                }
                is_done.store(true, Relaxed);
            });
        }
    }

    #[test]
    fn a_walk_that_does_not_sleep_continues_where_a_lock_was_not_free() {
        let index = small_index();
        (0..2_000).for_each(|number| put(&index, &digest(number, false), 1));
        let all = walk(&index, None, |_| true);
        let guard = index.get_exclusive(&all[all.len() / 2]).expect("it is there");
        let mut cursor = index.cursor(PartitionId::of(&Digest::default()), None).within(LockWait::Spin);
        let mut found = Vec::new();
        while let Some(portion) = cursor.next_portion(|_| true).filter(|portion| !portion.is_empty()) {
            found.extend(portion.iter().map(|found| found.digest));
        }
        assert!(found.len() > all.len() / 4 && found.len() <= all.len() / 2, "{} records", found.len());
        drop(guard);
        while let Some(portion) = cursor.next_portion(|_| true) {
            found.extend(portion.iter().map(|found| found.digest));
        }
        assert_eq!(found, all);
    }

    #[test]
    fn a_portion_takes_bounded_work_where_nothing_is_wanted() {
        let index = small_index();
        (0..50_000).for_each(|number| put(&index, &digest(number, true), 1));
        let mut cursor = index.cursor(PartitionId::of(&Digest::default()), None);
        let (mut portions, mut looks) = (0, 0);
        while cursor
            .next_portion(|_| {
                looks += 1;
                false
            })
            .is_some_and(<[SeenRecord]>::is_empty)
        {
            portions += 1;
        }
        assert!(portions >= 50_000 / (EFFORT_MAX + VISITS_MAX), "{portions} portions");
        // Few elements are visited again.
        assert!((50_000..60_000).contains(&looks), "{looks} looks");
    }
}
