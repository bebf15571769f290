//! Filling indexes from the records that are there already.
//!
//! # Beside writers
//! Commits update an index before the builder begins. The builder computes the keys of a record under the record's
//! shared lock; a record that is not in memory is read from its disk before that. It adds the entries under the
//! exclusive lock if the record still has that version; otherwise it begins with the record again. So no entry is
//! added for a key that the record no longer has. No entry is missing either: the builder adds those of each record
//! that exists when it passes, and commits add those of later records. Adding an entry twice does nothing. The entries of
//! small records in memory are gathered and added together, see `gathered.rs`.
//!
//! # Threads
//! One thread fills one index after the other, with `sindex-builder-threads` threads that share the partitions. At a start all
//! indexes of a namespace are filled together, in as many threads as there are processors.
//!
//! # Failures
//! If a thread panics, the index is filled again, after longer and longer pauses, until that succeeds or it is
//! dropped. A record that cannot be read is left out: its location is logged, the index counts it, and it is read
//! again, see `unread.rs`.
//!
//! # Memory
//! While clients are served, filling ends when a limit of memory that stops writes is breached. At a start it ends
//! when the limit of the system's memory is breached. The index has failed then: queries cannot use it, and it stays
//! so until it is dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::time::{Duration, Instant};

use cf::Digest;
use datamodel::flat::FlatRecord;
use datamodel::sindex::Keys;
use smallvec::SmallVec;

use super::cardinality;
use super::gathered::Gathered;
use super::index::{KeyChange, SecondaryIndex};
use super::loaded::{LoadOutcome, LoadedIndexes, remove_gone};
use super::memory_watch::MemoryWatch;
use super::observer::keys_of_record;
use super::of_namespace::NamespaceIndexes;
use super::registry::{PopulateJob, SecondaryIndexes};
use super::unread::{FAILURES_MAX, Rounds, UnreadRecords};
use crate::config::Config;
use crate::index::{Element, PARTITION_COUNT, PartitionId, ReadGuard, RecordMeta, SetId, WriteGuard};
use crate::namespace::{LOCKED_SIZE_MAX, Namespace, is_memory_breached, stored_size};
use crate::storage::ReadBuffer;

/// Attempts to compute the keys of a record that changes all the time, before they are computed under its exclusive
/// lock.
const LOOKS_MAX: u32 = 64;
/// Largest record whose keys are computed under its exclusive lock: mostly in a microsecond or two, and in some tens of
/// them if it is a list of small numbers. Cells of regions inside lists and maps take longer, and are not gathered.
const GATHERED_SIZE_MAX: u64 = 1 << 10;
/// How many records ahead of the current one stored bytes are prefetched.
const PREFETCH_DISTANCE: usize = 8;
/// Interval at which the builder checks whether the server stops.
const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// How much less weight builder threads have than service threads, see [`cf::threads::lower_own_priority`].
const NICENESS: i32 = 10;

/// Fills indexes as they are made, and reads unread records again, until `is_stopping`.
pub(crate) fn run_builder(
    namespaces: &[Arc<Namespace>],
    indexes: &SecondaryIndexes,
    config: &Config,
    is_stopping: &AtomicBool,
) {
    let mut rounds = Rounds::new();
    let mut last_read = vec![None; namespaces.len()];
    while !is_stopping.load(Acquire) {
        let unread_count = namespaces.iter().map(|namespace| indexes.of(namespace).unread.count()).sum();
        if rounds.is_due(unread_count, Instant::now()) {
            for (namespace, last) in namespaces.iter().zip(&mut last_read) {
                let is_wanted = || !is_stopping.load(Acquire) && indexes.queue.is_empty();
                read_again(namespace, indexes.of(namespace), last, &is_wanted);
            }
        }
        let job = match indexes.next_failed(Instant::now()) {
            Some(job) => job,
            None => match indexes.queue.recv_timeout(LOOK_PERIOD) {
                Ok(job) => job,
                Err(_) => continue,
            },
        };
        let thread_count = config.service.sindex_builder_threads.get() as usize;
        let own = std::slice::from_ref(&job.index);
        let unread = &indexes.of(&job.namespace).unread;
        let populating = Populating::new(&job.namespace, own, unread, is_stopping, NICENESS);
        if !populating.run(thread_count) {
            indexes.populate_again(job, Instant::now());
        }
    }
}

/// Fills all indexes of all namespaces at a start, except those that the load has [filled](super::loaded).
pub(crate) fn populate_all(namespaces: &[Arc<Namespace>], indexes: &SecondaryIndexes) {
    let never = AtomicBool::new(false);
    for namespace in namespaces {
        let of_namespace = indexes.of(namespace);
        let mut all = of_namespace.all();
        if let Some(loaded) = indexes.take_loaded(namespace) {
            let (filled, others) =
                all.into_iter().partition(|index| loaded.outcome_of(index) == LoadOutcome::Filled);
            all = others;
            finish_loaded(namespace, of_namespace, &loaded, filled);
            all.retain(|index| {
                let is_given_up = loaded.outcome_of(index) == LoadOutcome::OutOfMemory;
                if is_given_up {
                    give_up(namespace, index);
                }
                !is_given_up
            });
        }
        let populating = Populating::new(namespace, &all, &of_namespace.unread, &never, 0);
        if !all.is_empty() && !populating.run(cf::threads::cpu_count()) {
            // The builder fills them a little later.
            for index in all {
                indexes.populate_again(PopulateJob::new(namespace, index), Instant::now());
            }
        }
    }
}

/// Ends the filling of the indexes that a load has filled.
fn finish_loaded(
    namespace: &Arc<Namespace>,
    of_namespace: &NamespaceIndexes,
    loaded: &LoadedIndexes,
    filled: Vec<Arc<SecondaryIndex>>,
) {
    if filled.is_empty() {
        return;
    }
    filled.iter().for_each(|index| remove_gone(namespace, index));
    // A second read often succeeds where the first one failed.
    of_namespace.unread.add(loaded.take_unread());
    read_again(namespace, of_namespace, &mut None, &|| true);
    for index in filled {
        report_unread(namespace, &index, &of_namespace.unread);
        set_ready(
            namespace,
            &index,
            loaded.started(),
            ", with the load of the records",
            &AtomicBool::new(false),
        );
    }
}

/// Reads unread records again, beginning after `last`, and adds their entries to all indexes. Ends after
/// [`FAILURES_MAX`] failures, and when `is_wanted` returns false.
fn read_again(
    namespace: &Arc<Namespace>,
    of_namespace: &NamespaceIndexes,
    last: &mut Option<Digest>,
    is_wanted: &(dyn Fn() -> bool + Sync),
) {
    let (all, unread, never) = (of_namespace.all(), &of_namespace.unread, AtomicBool::new(false));
    let populating = Populating::new(namespace, &all, unread, &never, NICENESS);
    let read = || {
        let (mut scratch, mut failures) = (ReadBuffer::new(), 0);
        for _ in 0..unread.count() {
            let Some(digest) = unread.after(last.as_ref()).filter(|_| failures < FAILURES_MAX && is_wanted())
            else {
                break;
            };
            *last = Some(digest);
            match populating.put(&digest, &mut scratch) {
                Ok(()) => unread.remove(&digest),
                Err(Unread(set_id)) => {
                    unread.add([(digest, set_id)]);
                    failures += 1;
                }
            }
        }
    };
    if catch_unwind(AssertUnwindSafe(read)).is_err() {
        cf::critical!(Sindex, "{{{}}} reading records again failed on an internal error", namespace.name());
    }
    for index in all {
        let (count, before) = (unread.count_in(&index), index.unread_records.load(Relaxed));
        index.unread_records.store(count, Relaxed);
        if before > 0 && count == 0 {
            cf::info!(
                Sindex,
                "{{{}}} index {} is complete: all records that could not be read were added",
                namespace.name(),
                index.name()
            );
        }
    }
}

/// Counts and reports the records that the newly filled `index` lacks.
fn report_unread(namespace: &Namespace, index: &SecondaryIndex, unread: &UnreadRecords) {
    let count = unread.count_in(index);
    index.unread_records.store(count, Relaxed);
    if count > 0 {
        cf::warning!(
            Sindex,
            "{{{}}} index {} may lack {count} records that cannot be read: they are added when they can be read, and \
             when they are replaced",
            namespace.name(),
            index.name()
        );
    }
}

/// Lets queries read an index whose filling began at `started` and has ended; `how` is for the log.
fn set_ready(
    namespace: &Namespace,
    index: &SecondaryIndex,
    started: Instant,
    how: &str,
    is_stopping: &AtomicBool,
) {
    let elapsed_ms = started.elapsed().as_millis() as u64;
    index.load_time_ms.store(elapsed_ms, Relaxed);
    index.set_readable();
    cardinality::estimate(index, is_stopping);
    cf::info!(
        Sindex,
        "{{{}}} index {} ready: {} entries in {elapsed_ms} ms{how}",
        namespace.name(),
        index.name(),
        index.entry_count()
    );
}

fn give_up(namespace: &Namespace, index: &SecondaryIndex) {
    index.set_failed(namespace);
    cf::warning!(
        Sindex,
        "{{{}}} index {} is not filled, as a limit of memory is breached: drop it, and make it again when there is \
         memory",
        namespace.name(),
        index.name()
    );
}

/// A record of this set exists but cannot be read.
struct Unread(SetId);

struct Populating<'a> {
    namespace: &'a Namespace,
    indexes: &'a [Arc<SecondaryIndex>],
    /// Records that were left out.
    unread: &'a UnreadRecords,
    is_stopping: &'a AtomicBool,
    /// Above 0 while clients are served: threads have less weight then.
    niceness: i32,
    next_partition: AtomicUsize,
    partitions_done: AtomicUsize,
    /// A limit of memory was breached.
    is_out_of_memory: AtomicBool,
    started: Instant,
    memory: MemoryWatch,
}

impl<'a> Populating<'a> {
    fn new(
        namespace: &'a Namespace,
        indexes: &'a [Arc<SecondaryIndex>],
        unread: &'a UnreadRecords,
        is_stopping: &'a AtomicBool,
        niceness: i32,
    ) -> Self {
        let (next_partition, partitions_done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let is_out_of_memory = AtomicBool::new(false);
        Populating {
            namespace,
            indexes,
            unread,
            is_stopping,
            niceness,
            next_partition,
            partitions_done,
            is_out_of_memory,
            started: Instant::now(),
            memory: MemoryWatch::new(namespace.config().params.stop_writes_sys_memory_pct.get()),
        }
    }

    /// Fills the indexes. Returns false if a thread panicked; they must be filled again then.
    fn run(&self, thread_count: usize) -> bool {
        let run_thread = || {
            if self.niceness > 0 {
                cf::threads::lower_own_priority(self.niceness);
            }
            self.run_thread();
        };
        let panics = cf::sync::scope(|scope| {
            let threads: Vec<_> = (0..thread_count.max(1)).map(|_| scope.spawn(run_thread)).collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).filter(Result::is_err).count()
        });
        if panics > 0 {
            return false;
        }
        let is_complete = self.partitions_done.load(Acquire) == PARTITION_COUNT;
        if !is_complete && self.is_out_of_memory.load(Relaxed) {
            let indexes = self.indexes.iter().filter(|index| !index.is_dropped());
            indexes.for_each(|index| give_up(self.namespace, index));
        }
        for index in self.indexes.iter().filter(|index| is_complete && !index.is_dropped()) {
            report_unread(self.namespace, index, self.unread);
            set_ready(self.namespace, index, self.started, "", self.is_stopping);
        }
        true
    }

    fn must_end(&self) -> bool {
        self.is_stopping.load(Acquire)
            || self.must_give_up()
            || self.indexes.iter().all(|index| index.is_dropped())
    }

    /// Whether a limit of memory is breached, or was since this began.
    fn must_give_up(&self) -> bool {
        let is_breached = if self.niceness > 0 {
            // The breach may be over: the last index that was filled may have been given up, or another dropped.
            self.namespace.memory_breached.load(Relaxed) && is_memory_breached(self.namespace)
        } else {
            self.memory.is_short()
        };
        if is_breached {
            self.is_out_of_memory.store(true, Relaxed);
        }
        self.is_out_of_memory.load(Relaxed)
    }

    fn run_thread(&self) {
        let mut scratch = ReadBuffer::new();
        let mut gathered = Gathered::new(self.indexes);
        while !self.must_end() {
            cf::fault_point!("sindex-build");
            let Some(partition) = PartitionId::new(self.next_partition.fetch_add(1, Relaxed)) else { return };
            let mut walk = self.namespace.walk(partition, self.set_id(), None);
            gathered.begin(partition);
            while let Some(portion) = walk.next_portion(|element| self.is_wanted(element)) {
                for (at, found) in portion.iter().enumerate() {
                    if let Some(ahead) = portion.get(at + PREFETCH_DISTANCE) {
                        self.namespace.storage.prefetch(ahead.meta.location);
                    }
                    let gathering = self.gather(&found.digest, &mut gathered, &mut scratch);
                    self.note(&found.digest, gathering);
                }
                if self.must_end() {
                    return;
                }
                if gathered.is_full() {
                    self.add_gathered(&mut gathered, partition, &mut scratch);
                    gathered.begin(partition);
                }
            }
            self.add_gathered(&mut gathered, partition, &mut scratch);
            let done = self.partitions_done.fetch_add(1, AcqRel) + 1;
            for index in self.indexes {
                index.load_pct.fetch_max((done * 100 / PARTITION_COUNT) as u32, Relaxed);
            }
        }
    }

    /// Gathers the entries of the record of `digest`, if there is one. Those of a large record, or one that is not in
    /// memory, are added at once.
    ///
    /// # Errors
    /// When it cannot be read.
    fn gather(
        &self,
        digest: &Digest,
        gathered: &mut Gathered<'_>,
        scratch: &mut ReadBuffer,
    ) -> Result<(), Unread> {
        let Namespace { index, storage, .. } = self.namespace;
        if storage.reads_disks() || self.indexes.iter().any(|index| index.definition.covers_regions()) {
            return self.put(digest, scratch);
        }
        let guard = index.get_exclusive(digest).filter(|guard| self.is_wanted(guard));
        let Some(mut guard) = guard else { return Ok(()) };
        if stored_size(&guard) <= GATHERED_SIZE_MAX
            // A compressed record may be large.
            && let Ok(record) = storage.record_within(&guard, scratch, |_| false)
            && let Some(has_entries) = gathered.gather(&record, guard.set_id, guard.handle())
        {
            if has_entries {
                guard.meta_mut().set_in_sindex(true);
            }
            return Ok(());
        }
        drop(guard);
        self.put(digest, scratch)
    }

    /// Adds what was gathered to the indexes.
    fn add_gathered(&self, gathered: &mut Gathered<'_>, partition: PartitionId, scratch: &mut ReadBuffer) {
        for digest in gathered.add(self.namespace, partition) {
            self.note(digest, self.put(digest, scratch));
        }
    }

    /// Notes that the record of `digest` was left out, if it was.
    fn note(&self, digest: &Digest, put: Result<(), Unread>) {
        if let Err(Unread(set_id)) = put {
            self.unread.add([(*digest, set_id)]);
        }
    }

    /// The set that all indexes are for, if there is one.
    fn set_id(&self) -> SetId {
        match self.indexes {
            [index] => index.set_id,
            _ => SetId::NONE,
        }
    }

    fn is_wanted(&self, meta: &RecordMeta) -> bool {
        meta.exists() && !meta.is_tombstone() && self.indexes.iter().any(|index| index.is_for(meta.set_id))
    }

    /// Adds the entries of the record of `digest`, if there is one.
    ///
    /// # Errors
    /// When it cannot be read.
    fn put(&self, digest: &Digest, scratch: &mut ReadBuffer) -> Result<(), Unread> {
        let Namespace { index, storage, .. } = self.namespace;
        for _ in 0..LOOKS_MAX {
            let find = || index.get(digest).filter(|guard| self.is_wanted(guard)).ok_or(());
            let Ok(guard) = storage.find_readable(find, |_| true, scratch) else { return Ok(()) };
            let version = **guard;
            let keys = self.keys_of_found(guard, scratch)?;
            if keys.iter().all(SmallVec::is_empty) {
                return Ok(());
            }
            let Some(guard) = index.get_exclusive(digest) else { return Ok(()) };
            if guard.is_version_of(&version) {
                self.add(guard, keys);
                return Ok(());
            }
        }
        let find = || index.get_exclusive(digest).filter(|guard| self.is_wanted(guard)).ok_or(());
        if let Ok(guard) = storage.find_readable(find, |_| true, scratch) {
            let keys = self.keys(&guard, scratch)?;
            self.add(guard, keys);
        }
        Ok(())
    }

    /// The keys of a record in each index. Those of a large record are computed from a copy, without its lock,
    /// because that may take long.
    fn keys_of_found(
        &self,
        guard: ReadGuard<'_>,
        scratch: &mut ReadBuffer,
    ) -> Result<SmallVec<[Keys; 2]>, Unread> {
        if stored_size(&guard) <= LOCKED_SIZE_MAX {
            return self.keys(&guard, scratch);
        }
        let (digest, set_id) = (*guard.digest(), guard.set_id);
        let copy = self.namespace.copy_of(guard, scratch).map_err(|_| Unread(set_id))?;
        let record = FlatRecord::parse(&copy).ok().filter(|record| record.digest == digest);
        record.and_then(|record| self.keys_of_record(&record, set_id)).ok_or(Unread(set_id))
    }

    /// The keys of a record in each index.
    fn keys(&self, element: &Element, scratch: &mut ReadBuffer) -> Result<SmallVec<[Keys; 2]>, Unread> {
        let unread = |_| Unread(element.set_id);
        let record = self.namespace.record(element, scratch).map_err(unread)?;
        self.keys_of_record(&record, element.set_id).ok_or(Unread(element.set_id))
    }

    fn keys_of_record(&self, record: &FlatRecord<'_>, set_id: SetId) -> Option<SmallVec<[Keys; 2]>> {
        self.indexes.iter().map(|index| keys_of_record(index, record, set_id)).collect()
    }

    fn add(&self, mut guard: WriteGuard<'_>, keys: SmallVec<[Keys; 2]>) {
        let (digest, handle) = (*guard.digest(), guard.handle());
        if keys.iter().any(|keys| !keys.is_empty()) {
            guard.meta_mut().set_in_sindex(true);
        }
        for (index, added) in self.indexes.iter().zip(keys) {
            let change = KeyChange { added, ..KeyChange::default() };
            index.change(self.namespace, handle, &digest, &change);
        }
    }
}
