//! Filling the indexes of sets with existing records.
//!
//! # Beside writers
//! Commits change an index before the builder begins. The builder adds the entry of a record under the record's sprig
//! lock, shared, if the record still belongs to the set. So a later removal finds the entry. Adding an entry twice
//! has no effect.
//!
//! # Threads
//! One thread for each namespace fills all waiting indexes in one walk on [`THREAD_COUNT`] threads. At a start all are
//! filled with as many threads as there are processors.

use std::sync::atomic::{AtomicBool, Ordering::*};
use std::thread::Thread;
use std::time::Instant;

use parking_lot::Mutex;

use super::{Phase, SetIndex, State, listing_set};
use crate::index::{PartitionId, RecordMeta, SetId};
use crate::namespace::nsup::spread;
use crate::namespace::{Namespace, Set};

/// Threads that walk over the records while clients are served.
const THREAD_COUNT: usize = 4;
/// How much lower their priority is than that of service threads, see [`cf::threads::lower_own_priority`].
const NICENESS: i32 = 10;
/// How many records ahead of the current one elements are prefetched.
const PREFETCH_DISTANCE: usize = 8;

/// The thread that fills indexes.
#[derive(Debug, Default)]
pub(crate) struct SetIndexBuilder(Mutex<Option<Thread>>);

impl SetIndexBuilder {
    /// Wakes the thread to fill an index.
    pub(super) fn wake(&self) {
        if let Some(thread) = &*self.0.lock() {
            thread.unpark();
        }
    }
}

/// An index to be filled, with its state when the walk began.
struct Task<'a> {
    set: &'a Set,
    index: &'a SetIndex,
    state: State,
}

impl Task<'_> {
    /// Whether the index has not been switched meanwhile.
    fn is_wanted(&self) -> bool {
        self.index.state() == self.state
    }
}

impl Namespace {
    /// Body of the thread that fills indexes of sets; ends once `stopping` is set and the thread is unparked.
    pub(crate) fn run_set_index_builder(&self, stopping: &AtomicBool) {
        *self.set_index_builder.0.lock() = Some(std::thread::current());
        let mut failures = 0;
        while !stopping.load(Acquire) {
            let tasks = self.set_index_tasks();
            if tasks.is_empty() {
                std::thread::park();
                continue;
            }
            cf::fault_point!("set-index");
            // From now on commits change the indexes; the walk sees the changes of earlier commits.
            self.index.wait_for_writers();
            if self.fill(&tasks, THREAD_COUNT, NICENESS, stopping) {
                failures = 0;
            } else {
                // Another index that is switched on meanwhile wakes the thread.
                failures += 1;
                std::thread::park_timeout(cf::threads::pause_after_panics(failures));
            }
        }
    }

    /// After a load: fills the indexes of the sets with `enable-index`.
    pub(in crate::namespace) fn open_set_indexes(&self) {
        self.sets.iter().for_each(|set| self.switch_set_index(set));
        let tasks = self.set_index_tasks();
        if !tasks.is_empty() {
            self.fill(&tasks, cf::threads::cpu_count(), 0, &AtomicBool::new(false));
        }
    }

    fn set_index_tasks(&self) -> Vec<Task<'_>> {
        let sets = self.sets.iter().filter_map(|set| Some((set, &**set.index.get()?)));
        let tasks = sets.map(|(set, index)| Task { set, index, state: index.state() });
        tasks.filter(|task| task.state.phase() == Phase::Populating).collect()
    }

    /// Fills the indexes of `tasks`, unless `stopping`. Indexes that were switched meanwhile stay unchanged. Returns
    /// false if a thread panicked; the indexes are not filled then.
    fn fill(&self, tasks: &[Task<'_>], thread_count: usize, niceness: i32, stopping: &AtomicBool) -> bool {
        let started = Instant::now();
        let label = |task: &Task<'_>| format!("{{{}|{}}}", self.name(), task.set.display_name());
        for task in tasks {
            cf::info!(Index, "{} start populating set-index ...", label(task));
        }
        let must_end = || stopping.load(Acquire) || !tasks.iter().any(Task::is_wanted);
        let lower = || {
            if niceness > 0 {
                cf::threads::lower_own_priority(niceness);
            }
        };
        let partitions: Vec<PartitionId> = PartitionId::all().collect();
        let done = cf::sync::scope(|scope| {
            // A separate thread keeps the caller's priority unchanged.
            let walk = scope.spawn(|| {
                spread(thread_count, &partitions, lower, |(), partition| {
                    self.fill_partition(tasks, partition, &must_end);
                })
            });
            walk.join().is_ok_and(|parts| parts.len() == thread_count)
        });
        if !done || stopping.load(Acquire) {
            return done;
        }
        for task in tasks {
            let ready = State::new(task.state.switches(), Phase::Ready);
            if task.index.state.compare_exchange(task.state.0, ready.0, AcqRel, Acquire).is_ok() {
                let elapsed_ms = started.elapsed().as_millis();
                cf::info!(Index, "{} done populating set-index ({elapsed_ms} ms)", label(task));
            }
        }
        true
    }

    fn fill_partition(&self, tasks: &[Task<'_>], partition: PartitionId, must_end: &dyn Fn() -> bool) {
        cf::fault_point!("set-index-fill");
        let task_of = |set_id: SetId| tasks.iter().find(|task| task.set.id == set_id);
        let is_wanted = |meta: &RecordMeta| task_of(listing_set(meta)).is_some();
        let mut cursor = self.index.cursor(partition, None);
        while let Some(portion) = cursor.next_portion(|element| is_wanted(element)) {
            if must_end() {
                return;
            }
            for (at, found) in portion.iter().enumerate() {
                if let Some(ahead) = portion.get(at + PREFETCH_DISTANCE) {
                    self.index.prefetch_element(&ahead.digest);
                }
                if let Some(guard) = self.index.get(&found.digest)
                    && let Some(task) = task_of(listing_set(&guard))
                {
                    task.index.insert(self, guard.handle(), &found.digest);
                }
            }
        }
    }
}
