//! A namespace: its records (index and storage), sets, figures, and the parameters it was given.

mod ahead;
mod commit;
mod late_copies;
mod load_figures;
mod load_observer;
mod memory_ahead;
mod nsup;
mod opening;
mod partition;
#[cfg(test)]
mod partition_tests;
mod removals;
mod roles;
mod section_word;
mod sections;
mod set_index;
mod sets;
mod thresholds;
mod tomb_raider;
mod tombstones;
mod truncate;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use cf::Digest;
use cluster::migration::MigrationLoad;
use datamodel::Budget;
use datamodel::flat::FlatRecord;
use parking_lot::Mutex;
use proto::ResultCode;

use crate::config::model::{Config, NamespaceConfig};
use crate::index::{Element, Index, IndexGeometry, Location, ReadGuard, RecordMeta, SetId};
use crate::metrics::{NamespaceMetrics, Unit};
use crate::storage::{self, OpenError, ReadBuffer, Storage, StorageError};

pub(crate) use ahead::{LOCKED_SIZE_MAX, LOOKS_MAX};
pub(crate) use commit::{
    AfterCommit, Cause, Change, CommitObserver, ForObservers, NewVersion, Observed, Preparation,
    PreparedChange, Transition, stored_size,
};
pub(crate) use load_observer::{LoadObserver, LoadedCopy};
pub(crate) use memory_ahead::prepare_memory;
use nsup::{EvictionState, ExpiryState, RecordHistograms};
pub(crate) use nsup::{
    IndexMemory, RecordHistogram, is_memory_breached, is_system_memory_short, spread, supervise,
    watch_stop_writes,
};
use opening::{open_partitions, open_storage};
pub(crate) use partition::{
    PartitionFigures, PartitionReservation, PartitionRow, Partitions, QueryAccess, RecordAccess, Refused,
    Replica,
};
use removals::Removals;
pub(crate) use roles::RecordsByRole;
pub(crate) use sections::{Inside, Leaving, Section};
pub(crate) use set_index::RecordWalk;
use set_index::SetIndexBuilder;
pub(crate) use sets::{Set, SetCreationError, Sets};
pub(crate) use thresholds::RemovalThresholds;
use thresholds::Truncation;
pub(crate) use tomb_raider::raid;
pub(crate) use tombstones::Removal;

/// A TTL value that stands for "never expires", in requests and set parameters.
pub(crate) const TTL_NEVER_EXPIRE: u32 = u32::MAX;

pub(crate) struct Namespace {
    config: Arc<Config>,
    position: usize,
    pub(crate) index: Index,
    pub(crate) storage: Storage,
    pub(crate) partitions: Partitions,
    pub(crate) sets: Sets,
    pub(crate) metrics: NamespaceMetrics,
    pub(crate) expiry: ExpiryState,
    tombstones: AtomicU64,
    /// Number of records that the start found, before it removed any.
    pub(crate) loaded_count: AtomicU64,
    removals: Removals,
    /// Parts of the server that follow every commit.
    observers: Vec<Box<dyn CommitObserver>>,
    /// Bytes of memory of its secondary indexes.
    pub(crate) sindex_used_bytes: AtomicU64,
    set_index_builder: SetIndexBuilder,
    pub(crate) eviction: EvictionState,
    pub(crate) truncation: Truncation,
    /// Its migrations in progress, as last reported by the cluster thread.
    pub(crate) migration_load: Mutex<MigrationLoad>,
    pub(crate) record_histograms: RecordHistograms,
    /// Whether writes are refused because a limit is breached.
    pub(crate) stop_writes: AtomicBool,
    /// Whether one of the breached limits is for memory.
    pub(crate) memory_breached: AtomicBool,
    /// Figures of the last run of nsup: its duration, and the removed share of the namespace in hundredths of a
    /// percent.
    pub(crate) nsup_cycle_duration_ms: AtomicU64,
    nsup_cycle_deleted_pct100: AtomicU64,
}

/// The reason why a namespace cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NamespaceError {
    #[error(
        "{{{0}}} storage-engine {1} is not supported: use 'device', or 'memory' with or without files or devices"
    )]
    Engine(String, String),
    #[error("{{{0}}} {1}")]
    Open(String, OpenError),
    #[error("{{{0}}} cannot reserve {1} bytes of address space for its records")]
    AddressSpace(String, u64),
}

impl Namespace {
    /// As [`open`](Self::open), without earlier truncations or evictions.
    #[cfg(test)]
    pub(crate) fn new(
        config: &Arc<Config>,
        position: usize,
        thread_count: usize,
        own_node: u64,
    ) -> Result<Self, NamespaceError> {
        Namespace::open(config, position, thread_count, own_node, &RemovalThresholds::default(), None)
    }

    /// Opens namespace number `position` of `config` on node `own_node`, with the records on its devices except those
    /// below `thresholds`. Its partitions are not in service until they are dealt. `observer` follows the load.
    pub(crate) fn open(
        config: &Arc<Config>,
        position: usize,
        thread_count: usize,
        own_node: u64,
        thresholds: &RemovalThresholds,
        observer: Option<&dyn LoadObserver>,
    ) -> Result<Self, NamespaceError> {
        let of_namespace = &config.namespaces[position];
        let geometry = IndexGeometry {
            sprigs_per_partition: of_namespace.params.partition_tree_sprigs.get(),
            stage_size: of_namespace.params.index_stage_size.get(),
        };
        let (index, sets) = (Index::new(geometry), Sets::new());
        for (name, _) in of_namespace.sets.list() {
            // The parser has checked the names and their number.
            let _ = sets.find_or_create(name.as_bytes(), &of_namespace.sets);
        }
        let is_clustered = config.network.is_clustered();
        let (storage, figures) =
            open_storage((of_namespace, is_clustered), (&index, &sets), thresholds, observer)?;
        let partitions = open_partitions(own_node, &of_namespace.name, &storage);
        let is_loaded = storage.disk_count() > 0;
        let namespace = Namespace {
            config: Arc::clone(config),
            position,
            index,
            storage,
            partitions,
            sets,
            metrics: NamespaceMetrics::new(thread_count),
            expiry: ExpiryState::new(),
            tombstones: AtomicU64::new(0),
            loaded_count: AtomicU64::new(0),
            removals: Removals::new(is_loaded),
            observers: Vec::new(),
            sindex_used_bytes: AtomicU64::new(0),
            set_index_builder: SetIndexBuilder::default(),
            eviction: EvictionState::new(),
            truncation: Truncation::default(),
            migration_load: Mutex::default(),
            record_histograms: RecordHistograms::new(),
            stop_writes: AtomicBool::new(false),
            memory_breached: AtomicBool::new(false),
            nsup_cycle_duration_ms: AtomicU64::new(0),
            nsup_cycle_deleted_pct100: AtomicU64::new(0),
        };
        namespace.storage.restart_benchmarks(Unit::configured(config));
        namespace.resume_truncation(thresholds);
        namespace.eviction.resume(thresholds.evict_void_time);
        if is_loaded {
            namespace.finish_loading(&figures);
        }
        namespace.open_set_indexes();
        Ok(namespace)
    }

    /// The configuration of this namespace.
    #[inline]
    pub(crate) fn config(&self) -> &NamespaceConfig {
        &self.config.namespaces[self.position]
    }

    /// Its position among the namespaces.
    #[inline]
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn name(&self) -> &str {
        &self.config().name
    }

    /// Prefetches the memory that requests for `digests` will access. The accesses overlap, so this takes hardly longer
    /// than for one digest, while each request by itself would wait for sprig, element and record in turn. Waits for
    /// no lock.
    pub(crate) fn prefetch(&self, digests: &[Digest]) {
        digests.iter().for_each(|digest| self.index.prefetch_sprig(digest));
        digests.iter().for_each(|digest| self.index.prefetch_element(digest));
        for digest in digests {
            if let Some(guard) = self.index.try_get(digest) {
                self.storage.prefetch(guard.location);
            }
        }
    }

    /// Percentage of the records that the last run of nsup removed.
    pub(crate) fn nsup_cycle_deleted_pct(&self) -> f64 {
        self.nsup_cycle_deleted_pct100.load(Relaxed) as f64 / 100.0
    }

    /// Number of records.
    pub(crate) fn object_count(&self) -> u64 {
        self.index.element_count().saturating_sub(self.tombstone_count())
    }

    /// Number of tombstones.
    pub(crate) fn tombstone_count(&self) -> u64 {
        self.tombstones.load(Relaxed)
    }

    /// Number of records without a void-time.
    pub(crate) fn non_expirable_count(&self) -> u64 {
        self.object_count().saturating_sub(self.expiry.expirable_count())
    }

    /// The set of a record.
    #[inline]
    pub(crate) fn set_of(&self, meta: &RecordMeta) -> Option<&Set> {
        self.sets.get(meta.set_id)
    }

    /// The set called `name`, for creating a record in it.
    ///
    /// # Errors
    /// `Parameter` if such a set is not possible, `Forbidden` if it may not grow.
    pub(crate) fn set_for_creation(&self, name: &[u8]) -> Result<SetId, ResultCode> {
        if name.is_empty() {
            return Ok(SetId::NONE);
        }
        if name.contains(&0) {
            cf::warning_limited!(Namespace, "{{{}}} set name with a zero byte", self.name());
            return Err(ResultCode::Parameter);
        }
        let set = self.sets.find_or_create(name, &self.config().sets).map_err(|error| {
            match error {
                SetCreationError::NameTooLong => {
                    cf::warning_limited!(Namespace, "{{{}}} set name longer than 63 bytes", self.name());
                }
                SetCreationError::TooManySets => {
                    cf::warning_limited!(Namespace, "{{{}}} has 4095 sets, cannot add another", self.name());
                }
            }
            ResultCode::Parameter
        })?;
        if set.is_at_count_limit() {
            cf::warning_limited!(
                Namespace,
                "{{{}|{}}} at stop-writes-count - can't add record",
                self.name(),
                set.display_name()
            );
            return Err(ResultCode::Forbidden);
        }
        Ok(set.id)
    }

    /// The set called `name`, for a copy of a record that another node has accepted.
    ///
    /// # Errors
    /// `Parameter` if such a set is not possible.
    pub(crate) fn set_of_copy(&self, name: &[u8]) -> Result<SetId, ResultCode> {
        if name.is_empty() {
            return Ok(SetId::NONE);
        }
        let set = self.sets.find_or_create(name, &self.config().sets);
        set.map(|set| set.id).map_err(|_| ResultCode::Parameter)
    }

    /// The last-update-time of a record created in set `set_id` now, in milliseconds since 2010-01-01: `now`, or
    /// later so that it comes after records removed under its digest, here or on other nodes, and is not truncated.
    #[inline]
    pub(crate) fn creation_time(&self, digest: &Digest, set_id: SetId, now: u64) -> u64 {
        let now = now.max(self.partitions.removed_at(digest).unwrap_or(0));
        self.removals.creation_time(digest, now).max(self.truncate_lut(set_id))
    }

    /// The stored record of `element`, borrowed from the storage or from `scratch`.
    ///
    /// # Errors
    /// `Unknown` if it cannot be read or is damaged; the log has the details. `Timeout` if it must be
    /// [fetched](Storage::fetch) first.
    #[inline]
    pub(crate) fn record<'g>(
        &'g self,
        element: &'g Element,
        scratch: &'g mut ReadBuffer,
    ) -> Result<FlatRecord<'g>, ResultCode> {
        self.storage.record(element, scratch).map_err(|error| self.read_error(element, error))
    }

    /// A copy of the record of `guard`, in its flat form. The guard is released before the copy is unpacked.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub(crate) fn copy_of(
        &self,
        guard: ReadGuard<'_>,
        scratch: &mut ReadBuffer,
    ) -> Result<Vec<u8>, ResultCode> {
        let (digest, location) = (*guard.digest(), guard.location);
        let stored = self.storage.stored_bytes(&guard, &mut scratch.stored).map(<[u8]>::to_vec);
        let stored = stored.map_err(|error| self.read_error(&guard, error))?;
        drop(guard);
        storage::into_unpacked(stored, &mut scratch.unpacker)
            .map_err(|error| self.report_damage_at(&digest, location, &error))
    }

    /// As [`record`](Self::record), for a transaction with `budget`. Nothing is logged if the budget does not suffice
    /// for unpacking.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    #[inline(always)]
    pub(crate) fn record_within<'g>(
        &'g self,
        element: &'g Element,
        scratch: &'g mut ReadBuffer,
        budget: &Budget<'_>,
    ) -> Result<FlatRecord<'g>, ResultCode> {
        let record = self.storage.record_within(element, scratch, |steps| budget.draw(steps).is_ok());
        record.map_err(|error| self.read_error(element, error))
    }

    /// The result for a client if the record of `element` cannot be read. Damage of the record is logged.
    #[cold]
    pub(crate) fn read_error(&self, element: &Element, error: StorageError) -> ResultCode {
        match error {
            StorageError::Refused | StorageError::NotInMemory => ResultCode::Timeout,
            error => self.report_damage(element, &error),
        }
    }

    /// Logs that a stored record cannot be used; returns the result for the client.
    #[cold]
    pub(crate) fn report_damage(&self, element: &Element, error: &dyn std::fmt::Display) -> ResultCode {
        self.report_damage_at(element.digest(), element.location, error)
    }

    /// As [`report_damage`](Self::report_damage), of the record of `digest` at `location`.
    #[cold]
    pub(crate) fn report_damage_at(
        &self,
        digest: &Digest,
        location: Location,
        error: &dyn std::fmt::Display,
    ) -> ResultCode {
        cf::warning_limited!(
            Storage,
            "{{{}}} record {digest} at {}: {error}; replace it or delete it",
            self.name(),
            self.storage.place_name(location)
        );
        ResultCode::Unknown
    }
}

#[cfg(test)]
impl Namespace {
    /// The first namespace of a configuration with `namespaces`, all of its partitions in the service of node 1.
    pub(crate) fn for_tests(namespaces: &str) -> (Arc<Config>, Arc<Self>) {
        let config = crate::config::for_tests(namespaces);
        let namespace = Namespace::new(&config, 0, 1, 1).unwrap_or_else(|error| panic!("{error}"));
        namespace.deal_alone(1).expect("headers are written");
        (config, Arc::new(namespace))
    }

    /// Writes `bins` to the record of `guard`, in a set of this name, with the metadata `meta`.
    pub(crate) fn write_for_tests(
        &self,
        guard: crate::index::WriteGuard<'_>,
        meta: RecordMeta,
        (set_name, bins): (&[u8], &datamodel::Bins<'_>),
    ) -> Result<commit::Committed, StorageError> {
        let digest = *guard.digest();
        let record = datamodel::flat::NewRecord {
            digest,
            last_update_time: meta.last_update_time(),
            generation: meta.generation,
            void_time: meta.void_time,
            tree_id: self.partitions.tree_id(crate::index::PartitionId::of(&digest)),
            set_name,
            key: None,
            leaves_tombstone: false,
        };
        let mut flat = Vec::new();
        record.encode(bins, record.size(bins), &mut flat);
        let version = NewVersion { flat: &flat, packed: None, meta, key_stored: false };
        self.commit(guard, &Change::Record(version), Cause::Write)
    }
}
