//! Filling indexes from the records that are there already.
//!
//! # Beside writers
//! Commits tell an index of changes before the builder begins. The builder computes the keys of a record under the
//! record's shared lock; a record that is not in memory is read from its disk before that. It adds the entries under the
//! exclusive lock if the record still has that version; otherwise it begins with the record again. So an entry is never
//! added for what a record no longer has, and none is missing: what the builder passed was not there or is in the index.
//! Adding an entry twice does nothing.
//!
//! # Threads
//! One thread fills one index after the other, with `sindex-builder-threads` threads that share the partitions. Should one of
//! these panic, the index is filled again, after longer and longer pauses. At a start all indexes of a namespace are filled
//! together, in as many threads as there are processors.
//!
//! # Memory
//! While clients are served, filling ends when a limit of memory is breached that stops writes; at a start, when that of the
//! system's memory is. The index has failed then: queries cannot use it, and it stays so until it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::time::{Duration, Instant};

use cf::Digest;
use datamodel::flat::FlatRecord;
use datamodel::sindex::Keys;
use smallvec::SmallVec;

use super::cardinality;
use super::index::{KeyChange, SecondaryIndex};
use super::loaded::{LoadOutcome, remove_gone};
use super::memory_watch::MemoryWatch;
use super::observer::keys_of_record;
use super::registry::{PopulateJob, SecondaryIndexes};
use crate::config::Config;
use crate::index::{Element, PARTITION_COUNT, PartitionId, ReadGuard, RecordMeta, SetId, WriteGuard};
use crate::namespace::{LOCKED_SIZE_MAX, Namespace, stored_size};
use crate::storage::ReadBuffer;

/// Looks at a record that changes all the time before it is kept from changing while its keys are computed.
const LOOKS_MAX: u32 = 64;
/// Interval at which the builder checks whether the server stops.
const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// How much less weight builder threads have than service threads, see [`cf::threads::lower_own_priority`].
const NICENESS: i32 = 10;
/// Fills indexes as they are made, until `is_stopping`.
pub(crate) fn run_builder(indexes: &SecondaryIndexes, config: &Config, is_stopping: &AtomicBool) {
    // Those that are to be filled again, and when.
    let mut failed: Vec<(Instant, PopulateJob)> = Vec::new();
    while !is_stopping.load(Acquire) {
        let due = failed.iter().position(|(at, _)| *at <= Instant::now());
        let job = match due {
            Some(due) => failed.swap_remove(due).1,
            None => match indexes.queue.recv_timeout(LOOK_PERIOD) {
                Ok(job) => job,
                Err(_) => continue,
            },
        };
        let thread_count = config.service.sindex_builder_threads.get() as usize;
        let populating =
            Populating::new(&job.namespace, std::slice::from_ref(&job.index), is_stopping, NICENESS);
        if !populating.run(thread_count) {
            let job = PopulateJob { failures: job.failures + 1, ..job };
            let pause = cf::threads::pause_after_panics(job.failures);
            cf::info!(
                Sindex,
                "{{{}}} index {} is filled again in {} ms",
                job.namespace.name(),
                job.index.name(),
                pause.as_millis()
            );
            failed.push((Instant::now() + pause, job));
        }
    }
}

/// Fills all indexes of all namespaces, at a start, but for those that the load has [filled](super::loaded).
pub(crate) fn populate_all(namespaces: &[Arc<Namespace>], indexes: &SecondaryIndexes) {
    let never = AtomicBool::new(false);
    for namespace in namespaces {
        let mut all = indexes.of(namespace).all();
        if let Some(loaded) = indexes.take_loaded(namespace) {
            all.retain(|index| match loaded.outcome_of(index) {
                LoadOutcome::Filled => {
                    remove_gone(namespace, index);
                    set_ready(namespace, index, loaded.started(), ", with the load of the records");
                    false
                }
                LoadOutcome::OutOfMemory => {
                    give_up(namespace, index);
                    false
                }
                LoadOutcome::NotFilled => true,
            });
        }
        if !all.is_empty() && !Populating::new(namespace, &all, &never, 0).run(cf::threads::cpu_count()) {
            // They are there a little later.
            for index in all {
                indexes.populate_again(PopulateJob::new(namespace, index));
            }
        }
    }
}

/// Lets queries read an index that is filled, since `started`; `how` is for the log.
fn set_ready(namespace: &Namespace, index: &SecondaryIndex, started: Instant, how: &str) {
    let elapsed_ms = started.elapsed().as_millis() as u64;
    index.load_time_ms.store(elapsed_ms, Relaxed);
    index.set_readable();
    cardinality::estimate(index);
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

struct Populating<'a> {
    namespace: &'a Namespace,
    indexes: &'a [Arc<SecondaryIndex>],
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
        is_stopping: &'a AtomicBool,
        niceness: i32,
    ) -> Self {
        let (next_partition, partitions_done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let is_out_of_memory = AtomicBool::new(false);
        Populating {
            namespace,
            indexes,
            is_stopping,
            niceness,
            next_partition,
            partitions_done,
            is_out_of_memory,
            started: Instant::now(),
            memory: MemoryWatch::new(namespace.config().params.stop_writes_sys_memory_pct.get()),
        }
    }

    /// Returns false if a thread panicked: then it is all to be done again.
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
            cf::critical!(
                Sindex,
                "{{{}}} filling indexes failed on an internal error",
                self.namespace.name()
            );
            return false;
        }
        let is_complete = self.partitions_done.load(Acquire) == PARTITION_COUNT;
        if !is_complete && self.is_out_of_memory.load(Relaxed) {
            let indexes = self.indexes.iter().filter(|index| !index.is_dropped());
            indexes.for_each(|index| give_up(self.namespace, index));
        }
        for index in self.indexes.iter().filter(|index| is_complete && !index.is_dropped()) {
            set_ready(self.namespace, index, self.started, "");
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
            self.namespace.memory_breached.load(Relaxed)
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
        while !self.must_end() {
            cf::fault_point!("sindex-build");
            let Some(partition) = PartitionId::new(self.next_partition.fetch_add(1, Relaxed)) else { return };
            let mut walk = self.namespace.walk(partition, self.set_id(), None);
            while let Some(portion) = walk.next_portion(|element| self.is_wanted(element)) {
                for (at, found) in portion.iter().enumerate() {
                    if let Some(ahead) = portion.get(at + 8) {
                        self.namespace.storage.prefetch(ahead.meta.location);
                    }
                    self.put(&found.digest, &mut scratch);
                }
                if self.must_end() {
                    return;
                }
            }
            let done = self.partitions_done.fetch_add(1, AcqRel) + 1;
            for index in self.indexes {
                index.load_pct.fetch_max((done * 100 / PARTITION_COUNT) as u32, Relaxed);
            }
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
    fn put(&self, digest: &Digest, scratch: &mut ReadBuffer) {
        let Namespace { index, storage, .. } = self.namespace;
        for _ in 0..LOOKS_MAX {
            let find = || index.get(digest).filter(|guard| self.is_wanted(guard)).ok_or(());
            let Ok(guard) = storage.find_readable(find, |_| true, scratch) else { return };
            let version = **guard;
            let keys = self.keys_of_found(guard, scratch);
            if keys.iter().all(SmallVec::is_empty) {
                return;
            }
            let Some(guard) = index.get_exclusive(digest) else { return };
            if guard.is_version_of(&version) {
                self.add(guard, keys);
                return;
            }
        }
        let find = || index.get_exclusive(digest).filter(|guard| self.is_wanted(guard)).ok_or(());
        if let Ok(guard) = storage.find_readable(find, |_| true, scratch) {
            let keys = self.keys(&guard, scratch);
            self.add(guard, keys);
        }
    }

    /// The keys of a record in each index. Those of a large one may take long: they are computed from a copy, without its lock.
    fn keys_of_found(&self, guard: ReadGuard<'_>, scratch: &mut ReadBuffer) -> SmallVec<[Keys; 2]> {
        if stored_size(&guard) <= LOCKED_SIZE_MAX {
            return self.keys(&guard, scratch);
        }
        let (digest, set_id) = (*guard.digest(), guard.set_id);
        let Ok(copy) = self.namespace.copy_of(guard, scratch) else { return SmallVec::new() };
        match FlatRecord::parse(&copy) {
            Ok(record) if record.digest == digest => {
                self.indexes.iter().map(|index| keys_of_record(index, &record, set_id)).collect()
            }
            _ => SmallVec::new(),
        }
    }

    /// The keys of a record in each index. One that cannot be read has none.
    fn keys(&self, element: &Element, scratch: &mut ReadBuffer) -> SmallVec<[Keys; 2]> {
        let Ok(record) = self.namespace.record(element, scratch) else { return SmallVec::new() };
        self.indexes.iter().map(|index| keys_of_record(index, &record, element.set_id)).collect()
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
