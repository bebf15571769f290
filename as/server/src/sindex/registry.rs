//! The secondary indexes of a server, by namespace: made, renamed and dropped by changes of system metadata.
//!
//! # Threads
//! System metadata calls [`SecondaryIndexes::apply`] for one item after the other. A new index of a set that has records goes
//! to the builder (`populate.rs`), a thread that fills one index after the other.
//!
//! # Order
//! An index is in `active` before the builder begins, so commits update it. A dropped index is closed, and so empty,
//! before it leaves `active`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use super::definition::{Definition, DefinitionError, check_index_name};
use super::index::SecondaryIndex;
use super::loaded::LoadedIndexes;
use super::observer::IndexObserver;
use super::of_namespace::NamespaceIndexes;
use crate::index::SetId;
use crate::namespace::{CommitObserver, Namespace};
use crate::smd::{Module, SmdItem, report_unusable};

/// Maximum number of indexes in a namespace.
pub(crate) const INDEX_COUNT_MAX: usize = 256;

/// The pause after the first failure to fill an index, and the longest one.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// The pause after a failure to fill an index that failed `before` times already.
fn pause_after_failures(before: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1u32.checked_shl(before).unwrap_or(u32::MAX)).min(PAUSE_MAX)
}

/// What to do about an index whose item has no effect.
const CREATE_NAMED: &str = "create the index again, under a proper name";
const DELETE_AND_CREATE: &str = "delete the index by its name with sindex-delete and create it again";

/// Why an index that is defined properly cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum CreateError {
    #[error("another index has the name {0}")]
    NameInUse(String),
    #[error("the namespace has no room for the set {0}")]
    NoSet(String),
    #[error("the namespace has {INDEX_COUNT_MAX} indexes, and no room for {0}")]
    TooMany(String),
}

impl CreateError {
    fn remedy(&self) -> Option<&'static str> {
        match self {
            CreateError::NameInUse(_) => Some(CREATE_NAMED),
            CreateError::NoSet(_) => None,
            CreateError::TooMany(_) => Some("delete other indexes, then this one, and create it again"),
        }
    }
}

/// An index to be filled.
pub(super) struct PopulateJob {
    pub(super) namespace: Arc<Namespace>,
    pub(super) index: Arc<SecondaryIndex>,
    /// How often it ended in a panic so far.
    pub(super) failures: u32,
}

impl PopulateJob {
    pub(super) fn new(namespace: &Arc<Namespace>, index: Arc<SecondaryIndex>) -> Self {
        PopulateJob { namespace: Arc::clone(namespace), index, failures: 0 }
    }
}

/// All secondary indexes of a server.
pub(crate) struct SecondaryIndexes {
    /// In the order of the namespaces.
    namespaces: Box<[Arc<NamespaceIndexes>]>,
    jobs: Sender<PopulateJob>,
    pub(super) queue: Receiver<PopulateJob>,
    /// Indexes whose filling ended in a panic, and when they are filled again. Taken alone and briefly.
    failed: Mutex<Vec<(Instant, PopulateJob)>>,
    /// Indexes that loads have filled, by position of the namespace. Taken alone and briefly.
    loaded: Mutex<HashMap<usize, Arc<LoadedIndexes>>>,
}

impl SecondaryIndexes {
    /// For `namespace_count` namespaces, without indexes yet.
    pub(crate) fn new(namespace_count: usize) -> Self {
        let (jobs, queue) = unbounded();
        let namespaces = (0..namespace_count).map(|_| Arc::new(NamespaceIndexes::new())).collect();
        SecondaryIndexes { namespaces, jobs, queue, failed: Mutex::default(), loaded: Mutex::default() }
    }

    /// Queues an index again whose filling ended in a panic at `now`. The pauses become longer. The first panic is
    /// logged as critical, each later one at level info.
    pub(super) fn populate_again(&self, mut job: PopulateJob, now: Instant) {
        let pause = pause_after_failures(job.failures);
        if job.failures == 0 {
            cf::critical!(
                Sindex,
                "{{{}}} filling index {} failed on an internal error: it is tried again, after longer and longer pauses, \
                 until it succeeds or the index is dropped",
                job.namespace.name(),
                job.index.name()
            );
        } else {
            let (namespace, index) = (job.namespace.name(), job.index.name());
            cf::info!(Sindex, "{{{namespace}}} index {index} is filled again in {} ms", pause.as_millis());
        }
        job.failures = job.failures.saturating_add(1);
        self.failed.lock().push((now + pause, job));
    }

    /// An index that is to be filled again by `now`. Dropped indexes are forgotten.
    pub(super) fn next_failed(&self, now: Instant) -> Option<PopulateJob> {
        let mut failed = self.failed.lock();
        failed.retain(|(_, job)| !job.index.is_dropped());
        let due = failed.iter().position(|(at, _)| *at <= now)?;
        Some(failed.swap_remove(due).1)
    }

    /// Prepares the filling of the indexes that system metadata defines for namespace number `position`, while its
    /// records are loaded. They become indexes of the namespace when [`apply`](Self::apply) makes them.
    pub(crate) fn to_load(&self, position: usize, namespace: &str, items: &[SmdItem]) -> Arc<LoadedIndexes> {
        let loaded = Arc::new(LoadedIndexes::new(namespace, items, INDEX_COUNT_MAX));
        self.loaded.lock().insert(position, Arc::clone(&loaded));
        loaded
    }

    /// The indexes that the load of a namespace has filled, once.
    pub(super) fn take_loaded(&self, namespace: &Namespace) -> Option<Arc<LoadedIndexes>> {
        self.loaded.lock().remove(&namespace.position())
    }

    /// The observer of the commits of namespace number `position`.
    pub(crate) fn observer(&self, position: usize) -> Box<dyn CommitObserver> {
        Box::new(IndexObserver(Arc::clone(&self.namespaces[position])))
    }

    /// The indexes of a namespace.
    pub(crate) fn of(&self, namespace: &Namespace) -> &Arc<NamespaceIndexes> {
        &self.namespaces[namespace.position()]
    }

    /// Makes, renames or, without a `name`, drops the index that `key` of system metadata defines. An index of an
    /// unknown namespace is ignored. At the start new indexes are not filled here.
    pub(crate) fn apply(&self, namespaces: &[Arc<Namespace>], key: &str, name: Option<&str>, is_start: bool) {
        let of = key.split('|').next();
        let Some(namespace) = namespaces.iter().find(|namespace| Some(namespace.name()) == of) else {
            cf::detail!(Sindex, "no namespace {} here", of.unwrap_or_default());
            return;
        };
        let (why, remedy) = match (Definition::from_smd_item(key, name), name) {
            (Ok(definition), Some(name)) => match self.create(namespace, definition, name, is_start) {
                Ok(()) => return,
                Err(error) => (error.to_string(), error.remedy()),
            },
            (Ok(definition), None) => return self.drop_index(namespace, &definition),
            // What is gone had no effect.
            (Err(_), None) => return,
            (Err(DefinitionError::Key(why)), Some(name)) => {
                (why.to_owned(), check_index_name(name).is_ok().then_some(DELETE_AND_CREATE))
            }
            (Err(DefinitionError::Name(why)), Some(_)) => (why.to_owned(), Some(CREATE_NAMED)),
        };
        report_unusable(Module::Sindex, key, why, remedy);
    }

    /// Makes or renames an index unless it is there already, or returns why that is impossible.
    pub(super) fn create(
        &self,
        namespace: &Arc<Namespace>,
        definition: Definition,
        name: &str,
        is_start: bool,
    ) -> Result<(), CreateError> {
        let indexes = self.of(namespace);
        match indexes.named(name) {
            Some(index) if index.definition == definition => return Ok(()),
            Some(_) => return Err(CreateError::NameInUse(name.to_owned())),
            None => {}
        }
        let set_id = match definition.set.as_str() {
            "" => SetId::NONE,
            set => match namespace.sets.find_or_create(set.as_bytes(), &namespace.config().sets) {
                Ok(set) => set.id,
                Err(_) => return Err(CreateError::NoSet(set.to_owned())),
            },
        };
        if let Some(index) = indexes.find_exactly(set_id, &definition.value) {
            cf::info!(Sindex, "{{{}}} index {} is now called {name}", namespace.name(), index.name());
            index.rename(name);
            return Ok(());
        }
        if indexes.all().len() >= INDEX_COUNT_MAX {
            return Err(CreateError::TooMany(name.to_owned()));
        }
        let loaded = self.loaded.lock().get(&namespace.position()).cloned();
        let index = loaded.and_then(|loaded| loaded.claim(set_id, &definition, name));
        let index = index.unwrap_or_else(|| Arc::new(SecondaryIndex::new(definition, set_id, name)));
        namespace.sindex_used_bytes.fetch_add(index.used_bytes(), Relaxed);
        indexes.add(&index);
        let set = namespace.sets.get(set_id);
        if let Some(set) = set {
            set.sindexes.fetch_add(1, Relaxed);
        }
        if is_start {
            return Ok(());
        }
        // From now on commits update the index; figures and the builder see the changes of earlier commits.
        namespace.index.wait_for_writers();
        let object_count = set.map_or_else(|| namespace.object_count(), |set| set.objects.load(Relaxed));
        if object_count == 0 {
            cf::info!(Sindex, "{{{}}} empty index {name} ready", namespace.name());
            index.set_readable();
            return Ok(());
        }
        // The builder ends after the threads that make indexes, so the send does not fail.
        let _ = self.jobs.send(PopulateJob::new(namespace, index));
        Ok(())
    }

    fn drop_index(&self, namespace: &Namespace, definition: &Definition) {
        let indexes = self.of(namespace);
        let set_id = match definition.set.as_str() {
            "" => Some(SetId::NONE),
            set => namespace.sets.find(set.as_bytes()).map(|set| set.id),
        };
        let Some(index) = set_id.and_then(|set_id| indexes.find_exactly(set_id, &definition.value)) else {
            cf::warning!(Sindex, "{{{}}} no such index to drop", namespace.name());
            return;
        };
        cf::info!(Sindex, "{{{}}} dropping index {}", namespace.name(), index.name());
        index.close(namespace);
        indexes.remove(&index);
        namespace.sindex_used_bytes.fetch_sub(index.used_bytes(), Relaxed);
        if let Some(set) = namespace.sets.get(index.set_id) {
            set.sindexes.fetch_sub(1, Relaxed);
        }
    }
}
