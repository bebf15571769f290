//! Opens the storage of a namespace: empty memory, or devices whose records are loaded.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use cf::clock::StoredMillis;
use parking_lot::Mutex;

use super::commit::Cause;
use super::load_figures::{LoadFigures, LoadThread};
use super::load_observer::LoadObserver;
use super::thresholds::RemovalThresholds;
use super::truncate::LoadedTruncation;
use super::{Namespace, NamespaceError, Partitions, Sets};
use crate::config::{Engine, NamespaceConfig, SetDirectory};
use crate::index::{Index, PARTITION_COUNT, PartitionId, SetId};
use crate::storage::{LoadCommit, LoadContext, LoadStats, OpenSettings, ReadBuffer, Storage};

/// The parts that a load fills.
struct Loading<'a> {
    index: &'a Index,
    sets: &'a Sets,
    directory: &'a SetDirectory,
    now_seconds: u32,
    stats: LoadStats,
    figures: Mutex<LoadFigures>,
    truncation: LoadedTruncation<'a>,
    observer: Option<&'a dyn LoadObserver>,
}

impl LoadContext for Loading<'_> {
    fn set_id(&self, name: &[u8]) -> Option<SetId> {
        self.sets.find_or_create(name, self.directory).ok().map(|set| set.id)
    }

    fn index(&self) -> &Index {
        self.index
    }

    fn now_seconds(&self) -> u32 {
        self.now_seconds
    }

    fn stats(&self) -> &LoadStats {
        &self.stats
    }

    fn committer(&self) -> Box<dyn LoadCommit + '_> {
        Box::new(LoadThread::new(&self.figures, &self.truncation, self.observer))
    }

    fn finish(&self) {
        self.observer.into_iter().for_each(|observer| observer.finish(self.index));
    }
}

/// Opens the storage of `config` and loads its records into `index` and `sets`. Returns it with the figures of these
/// records, which the sets do not include yet.
pub(super) fn open_storage(
    (config, is_clustered): (&NamespaceConfig, bool),
    (index, sets): (&Index, &Sets),
    thresholds: &RemovalThresholds,
    observer: Option<&dyn LoadObserver>,
) -> Result<(Storage, LoadFigures), NamespaceError> {
    if config.storage.is_backed() {
        return load((config, is_clustered), (index, sets), thresholds, observer);
    }
    let params = &config.storage.params;
    match config.storage.engine {
        Engine::Memory => {
            let storage = Storage::memory(params)
                .ok_or_else(|| NamespaceError::AddressSpace(config.name.clone(), params.data_size.get()))?;
            name_stripes(config, &storage);
            Ok((storage, LoadFigures::new()))
        }
        engine => Err(NamespaceError::Engine(config.name.clone(), engine.name().to_owned())),
    }
}

/// The partitions as stored in the headers of `storage`.
pub(super) fn open_partitions(own_node: u64, namespace: &str, storage: &Storage) -> Partitions {
    let partitions = Partitions::load(own_node, &storage.partition_entries());
    let stored = partitions.stored_count();
    cf::info!(
        Partition,
        "{{{namespace}}} {PARTITION_COUNT} partitions: found {} absent, {stored} stored",
        PARTITION_COUNT - stored
    );
    partitions
}

fn name_stripes(config: &NamespaceConfig, storage: &Storage) {
    let names = (0..storage.device_stats().count()).map(|n| format!("stripe-{n}"));
    config.storage.stripes.set(names.collect());
}

fn load(
    (config, is_clustered): (&NamespaceConfig, bool),
    (index, sets): (&Index, &Sets),
    thresholds: &RemovalThresholds,
    observer: Option<&dyn LoadObserver>,
) -> Result<(Storage, LoadFigures), NamespaceError> {
    let loading = Loading {
        index,
        sets,
        directory: &config.sets,
        now_seconds: StoredMillis::now().seconds(),
        stats: LoadStats::default(),
        figures: Mutex::new(LoadFigures::new()),
        truncation: LoadedTruncation::new(thresholds, sets),
        observer,
    };
    observer.into_iter().for_each(|observer| observer.begin(config, sets));
    let settings = OpenSettings {
        namespace: &config.name,
        config: &config.storage,
        signature: cf::wyhash::hash64(&StoredMillis::now().unix_nanos().to_le_bytes()).max(1),
    };
    let started = Instant::now();
    let storage = Storage::open(&settings, &loading)
        .map_err(|error| NamespaceError::Open(config.name.clone(), error))?;
    if config.storage.engine == Engine::Memory {
        name_stripes(config, &storage);
    }
    let LoadStats { unique, replaced, older, damaged, damaged_bytes, dropped, ahead, latest_update } =
        loading.stats;
    let (damaged, dropped) = (damaged.into_inner(), dropped.into_inner());
    cf::info!(
        DrvSsd,
        "{{{}}} read complete: UNIQUE {} (REPLACED {}) (OLDER {}) (DROPPED {}) (UNPARSABLE {damaged}) records in {} ms",
        config.name,
        unique.into_inner(),
        replaced.into_inner(),
        older.into_inner(),
        dropped,
        started.elapsed().as_millis()
    );
    if damaged > 0 {
        cf::warning!(
            DrvSsd,
            "{{{}}} {damaged} damaged places, {} bytes in all, were not loaded: restore the records that were there from a \
             backup or write them again; older copies of them may be served",
            config.name,
            damaged_bytes.into_inner()
        );
    }
    if dropped > 0 {
        let text = "records were not loaded, as the device headers say that their partitions are not here";
        if is_clustered {
            // Other nodes have taken over these partitions.
            cf::info!(DrvSsd, "{{{}}} {dropped} {text}", config.name);
        } else {
            cf::warning!(DrvSsd, "{{{}}} {dropped} {text}", config.name);
        }
    }
    if ahead.into_inner() > 0 {
        cf::warning!(
            DrvSsd,
            "{{{}}} there are records that were last updated up to {} s later than now, by a clock that was ahead: their \
             last-update-times stay until the clock has come there",
            config.name,
            latest_update.into_inner().saturating_sub(StoredMillis::now().0) / 1000
        );
    }
    Ok((storage, loading.figures.into_inner()))
}

impl Namespace {
    /// After a load: applies the `figures` of the records, removes records that had been truncated or evicted or have
    /// expired, evicts others if a limit is breached, and frees space if `defrag-startup-minimum` asks for it.
    pub(super) fn finish_loading(&self, figures: &LoadFigures) {
        let now = StoredMillis::now();
        self.tombstones.fetch_add(figures.tombstones.cast_unsigned(), Relaxed);
        figures.add_to(&self.sets);
        self.loaded_count.store(self.object_count(), Relaxed);
        for partition in PartitionId::all() {
            let void_times = figures.void_times(partition);
            self.expiry.add_loaded(partition, void_times.expirable as u32);
            if void_times.earliest < now.seconds() {
                self.remove_expired(partition, now);
            }
        }
        let truncated: Vec<PartitionId> =
            PartitionId::all().filter(|partition| figures.has_truncated(*partition)).collect();
        self.remove_loaded_truncated(&truncated);
        self.evict_again_after_load();
        self.evict_after_load();
        let minimum_pct = self.config().storage.params.defrag_startup_minimum.get();
        if self.storage.available_pct() < minimum_pct {
            cf::info!(
                DrvSsd,
                "{{{}}} wait-for-defrag: avail-pct {} wait-for {minimum_pct} ...",
                self.name(),
                self.storage.available_pct()
            );
            self.storage.defrag_until_available(minimum_pct, &self.index);
        }
    }

    /// Removes the records of a partition that have expired.
    fn remove_expired(&self, partition: PartitionId, now: StoredMillis) {
        let mut scratch = ReadBuffer::new();
        let mut cursor = self.index.cursor(partition, None);
        while let Some(portion) = cursor.next_portion(|element| element.is_expired(now.seconds())) {
            for found in portion {
                // If the record cannot be removed now, it is expired anyway; nsup tries again.
                let _ = self.sweep_out(&found.digest, &mut scratch, |element| {
                    element.is_expired(now.seconds()).then_some(Cause::Expiry)
                });
            }
        }
    }
}
