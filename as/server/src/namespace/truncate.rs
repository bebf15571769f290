//! Truncation: removal of all records of a set, or of the namespace, that were last updated before a moment.
//!
//! The moment is a threshold of the set or namespace, in milliseconds since 2010-01-01. As soon as it is set, readers
//! find none of these records, and writers create them anew. A thread for each namespace then removes them from the
//! index, on up to `truncate-threads` threads, in one walk for all new thresholds. Undoing a threshold restores the
//! records that no walk has reached. Thresholds come from the system metadata, at start before records are loaded:
//! records that they hide stay hidden after a start.
//!
//! Tombstones are no records: they stay, and keep older copies of their records from coming back.
//!
//! # Cost
//! An access to a record compares its last-update-time with the latest of all thresholds. Only if it is older, the
//! threshold of its set is checked.
//!
//! # Locks
//! `changes` is held while thresholds change. A walk takes one sprig lock at a time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::Duration;

use cf::Digest;
use cf::clock::StoredMillis;

use super::commit::Cause;
use super::nsup::spread;
use super::thresholds::{RemovalThresholds, Threshold};
use super::{Namespace, Set, Sets};
use crate::index::{Element, PartitionId, RecordMeta, SetId};
use crate::storage::ReadBuffer;

/// A threshold further than this ahead of this node's clock is logged as a warning.
const CLOCK_SKEW_WARNING_MS: u64 = 5_000;
/// Pause before a failed removal is retried.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// The task of a walk: the new thresholds, as they were when it began.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Walk {
    of_namespace: Option<u64>,
    of_sets: Vec<(SetId, u64)>,
}

/// Number of records that a walk removed, and that it could not remove.
#[derive(Default)]
struct Removed {
    of_namespace: u64,
    of_sets: HashMap<SetId, u64>,
    failed: u64,
}

impl Namespace {
    /// Whether a threshold hides the record of `meta`.
    #[inline]
    pub(crate) fn is_truncated(&self, meta: &RecordMeta) -> bool {
        meta.last_update_time() < self.truncation.latest.load(Acquire) && self.is_below_threshold(meta)
    }

    /// Whether clients find no record at `now_seconds` (since 2010-01-01) for the metadata `meta`: it has expired, is
    /// truncated, or is a tombstone.
    #[inline]
    pub(crate) fn is_gone(&self, meta: &RecordMeta, now_seconds: u32) -> bool {
        meta.is_tombstone() || meta.is_expired(now_seconds) || self.is_truncated(meta)
    }

    #[cold]
    fn is_below_threshold(&self, meta: &RecordMeta) -> bool {
        meta.exists() && !meta.is_tombstone() && meta.last_update_time() < self.truncate_lut(meta.set_id)
    }

    /// The later of the thresholds of the namespace and of set `set_id`.
    pub(crate) fn truncate_lut(&self, set_id: SetId) -> u64 {
        let of_set = self.sets.get(set_id).map_or(0, |set| set.truncation.last_update_time());
        self.truncation.of_namespace.last_update_time().max(of_set)
    }

    /// Whether a record created in set `set_id` now would be truncated, because another node's clock is ahead of this
    /// one's.
    pub(crate) fn truncates_new_records(&self, set_id: SetId, now: StoredMillis) -> bool {
        // `now` may be the time of a request that came long ago.
        now.0 < self.truncation.latest.load(Acquire) && StoredMillis::now().0 < self.truncate_lut(set_id)
    }

    /// Truncates the records last updated before `last_update_time`: those of set `set_name`, or all. A threshold that
    /// is not later than the present one, or for a set that does not exist, has no effect.
    pub(crate) fn truncate(&self, set_name: Option<&str>, last_update_time: u64) {
        let changes = self.truncation.changes.lock();
        let Some((label, threshold)) = self.threshold_of(set_name, "truncate for") else { return };
        let ahead = last_update_time.saturating_sub(StoredMillis::now().0);
        if ahead > CLOCK_SKEW_WARNING_MS {
            cf::warning!(
                Truncate,
                "{label} lut is {ahead} ms in the future - clock skew? Until then records are hidden and new ones refused, \
                 unless truncate-undo or truncate-namespace-undo is sent"
            );
        }
        let present = threshold.last_update_time();
        if last_update_time <= present {
            cf::info!(Truncate, "{label} truncate lut {last_update_time} <= present lut {present}");
            return;
        }
        let thread_count = self.config().params.truncate_threads.get();
        cf::info!(Truncate, "{label} truncating to {last_update_time} on {thread_count} threads");
        threshold.last_update_time.store(last_update_time, Release);
        threshold.is_removing.store(true, Release);
        self.truncation.latest.fetch_max(last_update_time, AcqRel);
        drop(changes);
        if let Some(remover) = &*self.truncation.remover.lock() {
            remover.unpark();
        }
    }

    /// Undoes the threshold of set `set_name`, or of the namespace.
    pub(crate) fn undo_truncate(&self, set_name: Option<&str>) {
        let _changes = self.truncation.changes.lock();
        let Some((label, threshold)) = self.threshold_of(set_name, "undo truncate for") else { return };
        cf::info!(Truncate, "{label} undoing truncate - was to {}", threshold.last_update_time());
        threshold.last_update_time.store(0, Release);
        threshold.is_removing.store(false, Release);
        let of_sets = self.sets.iter().map(|set| set.truncation.last_update_time());
        let latest = of_sets.max().unwrap_or(0).max(self.truncation.of_namespace.last_update_time());
        self.truncation.latest.store(latest, Release);
    }

    /// The threshold of set `set_name`, or of the namespace, with its name for the log; a missing set is logged.
    fn threshold_of(&self, set_name: Option<&str>, what: &str) -> Option<(String, &Threshold)> {
        let name = self.name();
        let Some(set_name) = set_name else {
            return Some((format!("{{{name}}}"), &self.truncation.of_namespace));
        };
        let set = self.sets.find(set_name.as_bytes());
        if set.is_none() {
            cf::info!(Truncate, "{{{name}|{set_name}}} {what} nonexistent set");
        }
        set.map(|set| (set_label(name, set), &set.truncation))
    }

    /// Body of the thread that removes truncated records; ends once `stopping` is set and the thread is unparked.
    pub(crate) fn run_truncation(&self, stopping: &AtomicBool) {
        *self.truncation.remover.lock() = Some(std::thread::current());
        while !stopping.load(Acquire) {
            match self.next_walk() {
                None => std::thread::park(),
                Some(walk) => {
                    cf::fault_point!("truncate");
                    let removed = self.carry_out(&walk, &|| stopping.load(Acquire));
                    if stopping.load(Acquire) {
                        return;
                    }
                    if removed.failed > 0 {
                        std::thread::park_timeout(RETRY_PERIOD);
                    } else {
                        self.finish_walk(&walk, &removed);
                    }
                }
            }
        }
    }

    /// The new thresholds, if there are any.
    fn next_walk(&self) -> Option<Walk> {
        let open = |set: &Set| set.truncation.open().map(|last_update_time| (set.id, last_update_time));
        let of_sets: Vec<_> = self.sets.iter().filter_map(open).collect();
        let walk = Walk { of_namespace: self.truncation.of_namespace.open(), of_sets };
        (walk.of_namespace.is_some() || !walk.of_sets.is_empty()).then_some(walk)
    }

    /// Removes the records of `walk`. If there are no records, it does not search.
    fn carry_out(&self, walk: &Walk, is_stopping: &(dyn Fn() -> bool + Sync)) -> Removed {
        let mut sets = walk.of_sets.iter().filter_map(|(set_id, _)| self.sets.get(*set_id));
        let is_empty = walk.of_namespace.is_none() && sets.all(|set| set.objects.load(Relaxed) == 0);
        if is_empty || self.object_count() == 0 {
            return Removed::default();
        }
        let threads = self.config().params.truncate_threads.get() as usize;
        let partitions: Vec<PartitionId> = PartitionId::all().collect();
        // If only one set is concerned, the walk uses that set's index.
        let set_id = match (&walk.of_namespace, &walk.of_sets[..]) {
            (None, [(set_id, _)]) => *set_id,
            _ => SetId::NONE,
        };
        self.remove_truncated(set_id, &partitions, threads, is_stopping)
    }

    /// Notes and logs the result of `walk`. A threshold that changed meanwhile is left to the next walk.
    fn finish_walk(&self, walk: &Walk, removed: &Removed) {
        let name = self.name();
        let _changes = self.truncation.changes.lock();
        if let Some(last_update_time) = walk.of_namespace {
            let label = format!("{{{name}}}");
            finish(&label, &self.truncation.of_namespace, last_update_time, removed.of_namespace);
        }
        for (set_id, last_update_time) in &walk.of_sets {
            if let Some(set) = self.sets.get(*set_id) {
                let count = removed.of_sets.get(set_id).copied().unwrap_or(0);
                finish(&set_label(name, set), &set.truncation, *last_update_time, count);
            }
        }
    }

    /// Removes the truncated records of a set, or of all for [`SetId::NONE`], in `partitions` on up to `thread_count`
    /// threads, until `is_stopping`.
    fn remove_truncated(
        &self,
        set_id: SetId,
        partitions: &[PartitionId],
        thread_count: usize,
        is_stopping: &(dyn Fn() -> bool + Sync),
    ) -> Removed {
        let parts = spread(thread_count, partitions, Removed::default, |removed: &mut Removed, partition| {
            let (mut walk, mut scratch) = (self.walk(partition, set_id, None), ReadBuffer::new());
            while let Some(portion) = walk.next_portion(|element| self.is_truncated(element)) {
                if is_stopping() {
                    return;
                }
                for found in portion {
                    self.remove_if_truncated(&found.digest, removed, &mut scratch);
                }
            }
        });
        let mut all = Removed::default();
        for part in parts {
            all.of_namespace += part.of_namespace;
            all.failed += part.failed;
            for (set_id, count) in part.of_sets {
                *all.of_sets.entry(set_id).or_default() += count;
            }
        }
        all
    }

    /// Removes the record of `digest`, if it still exists and is truncated.
    fn remove_if_truncated(&self, digest: &Digest, removed: &mut Removed, scratch: &mut ReadBuffer) {
        let cause_for = |element: &Element| self.is_truncated(element).then_some(Cause::Truncate);
        match self.sweep_out(digest, scratch, cause_for) {
            None => {}
            Some((_, _, Err(_))) => removed.failed += 1,
            Some((before, _, Ok(_)))
                if before.last_update_time() < self.truncation.of_namespace.last_update_time() =>
            {
                removed.of_namespace += 1;
            }
            Some((before, _, Ok(_))) => *removed.of_sets.entry(before.set_id).or_default() += 1,
        }
    }

    /// Takes over the thresholds from before the start, for existing sets.
    pub(super) fn resume_truncation(&self, thresholds: &RemovalThresholds) {
        let of_sets = thresholds.set_truncate_luts.iter();
        for (name, last_update_time) in of_sets {
            if let Some(set) = self.sets.find(name.as_bytes()) {
                set.truncation.last_update_time.store(*last_update_time, Release);
                self.truncation.latest.fetch_max(*last_update_time, AcqRel);
            }
        }
        self.truncation.of_namespace.last_update_time.store(thresholds.truncate_lut, Release);
        self.truncation.latest.fetch_max(thresholds.truncate_lut, AcqRel);
    }

    /// After a load: removes the records of `partitions` that were truncated before the start.
    pub(super) fn remove_loaded_truncated(&self, partitions: &[PartitionId]) {
        if partitions.is_empty() {
            return;
        }
        let removed = self.remove_truncated(SetId::NONE, partitions, cf::threads::cpu_count(), &|| false);
        cf::info!(
            Truncate,
            "{{{}}} cold start dropped {} truncated records",
            self.name(),
            removed.of_namespace + removed.of_sets.values().sum::<u64>()
        );
    }
}

/// Notes and logs that all records below `last_update_time` are removed, if that is still the threshold.
fn finish(label: &str, threshold: &Threshold, last_update_time: u64, count: u64) {
    let present = threshold.last_update_time();
    if present == last_update_time {
        threshold.is_removing.store(false, Release);
        cf::info!(Truncate, "{label} done truncate to {last_update_time} deleted {count}");
    } else {
        cf::info!(
            Truncate,
            "{label} abandoned truncate to {last_update_time} deleted {count} - truncate-lut is now {present}"
        );
    }
}

fn set_label(namespace: &str, set: &Set) -> String {
    format!("{{{namespace}|{}}}", set.display_name())
}

/// Tells during a load which records are truncated.
pub(super) struct LoadedTruncation<'a> {
    thresholds: &'a RemovalThresholds,
    sets: &'a Sets,
    latest: u64,
}

impl<'a> LoadedTruncation<'a> {
    pub(super) fn new(thresholds: &'a RemovalThresholds, sets: &'a Sets) -> Self {
        let of_sets = thresholds.set_truncate_luts.values().copied();
        let latest = of_sets.max().unwrap_or(0).max(thresholds.truncate_lut);
        LoadedTruncation { thresholds, sets, latest }
    }

    /// Whether a threshold hides the record of `meta`.
    #[inline]
    pub(super) fn contains(&self, meta: &RecordMeta) -> bool {
        meta.last_update_time() < self.latest && self.is_below_threshold(meta)
    }

    #[cold]
    fn is_below_threshold(&self, meta: &RecordMeta) -> bool {
        let last_update_time = meta.last_update_time();
        let of_set = || {
            let name = std::str::from_utf8(&self.sets.get(meta.set_id)?.name).ok()?;
            self.thresholds.set_truncate_luts.get(name)
        };
        !meta.is_tombstone()
            && (last_update_time < self.thresholds.truncate_lut
                || of_set().is_some_and(|of_set| last_update_time < *of_set))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datamodel::{Bins, Particle};

    use super::*;
    use crate::config;

    const CONFIG: &str = "service {\n cluster-name tests\n}\nnetwork {\n service {\n port 3000\n }\n}\n\
                          namespace test {\n storage-engine memory {\n data-size 512M\n }\n}\n";

    fn namespace() -> Namespace {
        let (config, _) = config::parse(CONFIG, "test").expect("it parses");
        Namespace::new(&Arc::new(config), 0, 1, 1).unwrap_or_else(|error| panic!("{error}"))
    }

    fn digest(key: u64) -> Digest {
        Digest::of_key(b"", 1, &key.to_be_bytes())
    }

    /// Writes a record that was last updated at `last_update_time`.
    fn put(namespace: &Namespace, set: &str, key: u64, last_update_time: u64) {
        let digest = digest(key);
        let mut bins = Bins::new();
        bins.set(b"b", Particle::Integer(1));
        let (guard, _) = namespace.index.get_or_create(&digest).expect("room in the index");
        let mut meta = RecordMeta::new(namespace.set_for_creation(set.as_bytes()).expect("room for a set"));
        meta.generation = 1;
        meta.set_last_update_time(last_update_time);
        let written = namespace.write_for_tests(guard, meta, (set.as_bytes(), &bins));
        written.expect("room in the storage");
    }

    fn is_seen(namespace: &Namespace, key: u64) -> bool {
        namespace.index.get(&digest(key)).is_some_and(|guard| !namespace.is_gone(&guard, 1))
    }

    /// Runs all open walks; returns the number of remaining records.
    fn walk(namespace: &Namespace) -> u64 {
        while let Some(walk) = namespace.next_walk() {
            let removed = namespace.carry_out(&walk, &|| false);
            assert_eq!(removed.failed, 0);
            namespace.finish_walk(&walk, &removed);
        }
        namespace.object_count()
    }

    #[test]
    fn a_threshold_hides_older_records_and_can_be_undone_until_the_walk() {
        let namespace = namespace();
        for (key, set, last_update_time) in [(1, "s", 100), (2, "s", 200), (3, "t", 100), (4, "", 100)] {
            put(&namespace, set, key, last_update_time);
        }
        let seen = || [1, 2, 3, 4].map(|key| is_seen(&namespace, key));
        namespace.truncate(Some("s"), 200);
        assert_eq!(seen(), [false, true, true, true]);
        namespace.undo_truncate(Some("s"));
        assert_eq!(seen(), [true; 4]);
        assert_eq!(walk(&namespace), 4);
        namespace.truncate(Some("s"), 201);
        namespace.truncate(Some("s"), 150);
        namespace.truncate(Some("nope"), 300);
        assert_eq!(seen(), [false, false, true, true]);
        namespace.truncate(None, 101);
        assert_eq!(seen(), [false; 4]);
        // The latest threshold is that of the set, which stays.
        namespace.undo_truncate(None);
        assert_eq!(seen(), [false, false, true, true]);
        assert_eq!(walk(&namespace), 2);
        namespace.undo_truncate(Some("s"));
        assert_eq!(seen(), [false, false, true, true]);
        assert_eq!(namespace.truncation.latest.load(Relaxed), 0);
    }

    #[test]
    fn a_threshold_that_changes_during_a_walk_gets_another() {
        let namespace = namespace();
        (0..100).for_each(|key| put(&namespace, "s", key, 100 + key));
        namespace.truncate(Some("s"), 110);
        let first = namespace.next_walk().expect("there is something to do");
        let removed = namespace.carry_out(&first, &|| false);
        namespace.truncate(Some("s"), 150);
        namespace.finish_walk(&first, &removed);
        let set = namespace.sets.find(b"s").expect("it is there");
        assert!(set.truncation.is_removing() && namespace.object_count() == 90);
        assert_eq!(walk(&namespace), 50);
        assert!(!set.truncation.is_removing());
    }

    #[test]
    fn created_records_are_never_truncated() {
        let namespace = namespace();
        put(&namespace, "s", 1, 100);
        let set_id = namespace.sets.find(b"s").expect("it is there").id;
        let now = StoredMillis::now();
        namespace.truncate(Some("s"), now.0);
        // The request came before the truncation.
        assert!(!namespace.truncates_new_records(set_id, StoredMillis(now.0 - 10)));
        assert_eq!(namespace.creation_time(&digest(1), set_id, now.0 - 10), now.0);
        assert_eq!(namespace.creation_time(&digest(1), SetId::NONE, now.0 - 10), now.0 - 10);
        // The clock of the truncating node is ahead.
        namespace.truncate(None, now.0 + 3_000);
        assert!(namespace.truncates_new_records(SetId::NONE, now));
        assert!(!namespace.truncates_new_records(SetId::NONE, StoredMillis(now.0 + 3_000)));
    }

    #[test]
    fn tombstones_and_loaded_records_are_judged_alike() {
        let namespace = namespace();
        put(&namespace, "s", 1, 100);
        let set_id = namespace.sets.find(b"s").expect("it is there").id;
        let thresholds = RemovalThresholds {
            truncate_lut: 50,
            set_truncate_luts: [("s".to_owned(), 200), ("nope".to_owned(), 900)].into(),
            evict_void_time: 0,
        };
        namespace.resume_truncation(&thresholds);
        let loaded = LoadedTruncation::new(&thresholds, &namespace.sets);
        for set_id in [set_id, SetId::NONE] {
            for last_update_time in [49, 50, 199, 200, 899, 900] {
                for is_tombstone in [false, true] {
                    let mut meta = RecordMeta::new(set_id);
                    meta.generation = 1;
                    meta.set_last_update_time(last_update_time);
                    meta.set_tombstone(is_tombstone);
                    let limit = if set_id == SetId::NONE { 50 } else { 200 };
                    let expected = last_update_time < limit && !is_tombstone;
                    assert_eq!(namespace.is_truncated(&meta), expected);
                    assert_eq!(loaded.contains(&meta), expected);
                }
            }
        }
        assert!(namespace.next_walk().is_none(), "what was on disk went at the start");
    }
}
