//! Bringing up the storage of a namespace: empty memory, or devices whose records are loaded.

use std::time::Instant;

use cf::clock::StoredMillis;

use super::commit::{Cause, stored_size};
use super::tombstones::Removal;
use super::{Namespace, NamespaceError, Partitions, Sets};
use crate::config::{Engine, NamespaceConfig, SetDirectory};
use crate::index::{Index, PARTITION_COUNT, PartitionId, SetId};
use crate::storage::{LoadContext, LoadStats, OpenSettings, Settings, Storage};

/// What loading fills.
struct Loading<'a> {
    index: &'a Index,
    sets: &'a Sets,
    directory: &'a SetDirectory,
    now_seconds: u32,
    stats: LoadStats,
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
}

/// The storage that `config` asks for; what its devices hold is in `index` and `sets` afterwards.
pub(super) fn open_storage(
    config: &NamespaceConfig,
    index: &Index,
    sets: &Sets,
) -> Result<Storage, NamespaceError> {
    if config.storage.is_backed() {
        return load(config, index, sets);
    }
    let params = &config.storage.params;
    match config.storage.engine {
        Engine::Memory => {
            let settings = Settings {
                data_size: params.data_size.get(),
                defrag_low_water_pct: params.defrag_lwm_pct.get(),
                defrag_queue_min: params.defrag_queue_min.get(),
                defrag_sleep_us: params.defrag_sleep.get(),
            };
            let storage = Storage::memory(settings)
                .ok_or_else(|| NamespaceError::AddressSpace(config.name.clone(), settings.data_size))?;
            name_stripes(config, &storage);
            Ok(storage)
        }
        engine => Err(NamespaceError::Engine(config.name.clone(), engine.name().to_owned())),
    }
}

/// The partitions as the headers of `storage` remember them.
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

fn load(config: &NamespaceConfig, index: &Index, sets: &Sets) -> Result<Storage, NamespaceError> {
    let loading = Loading {
        index,
        sets,
        directory: &config.sets,
        now_seconds: StoredMillis::now().seconds(),
        stats: LoadStats::default(),
    };
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
    let LoadStats { unique, replaced, older, damaged, dropped } = loading.stats;
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
            "{{{}}} {damaged} damaged records or write blocks were not loaded: restore them from a backup or write them again; older copies of them may be served",
            config.name
        );
    }
    if dropped > 0 {
        cf::warning!(
            DrvSsd,
            "{{{}}} {dropped} records were not loaded, as the device headers say that their partitions are not here",
            config.name
        );
    }
    Ok(storage)
}

impl Namespace {
    /// After a load: counts the records into their sets, notes when they expire, removes those that have, evicts others if
    /// a limit is breached, and makes room if `defrag-startup-minimum` asks for it.
    pub(super) fn settle_loaded(&self) {
        let now = StoredMillis::now();
        for partition in PartitionId::all() {
            let mut expired = Vec::new();
            self.index.for_each(partition, |element| {
                self.note_size(stored_size(element));
                self.join_figures(element);
                self.expiry.note(element.digest(), 0, element.void_time);
                if element.is_expired(now.seconds()) {
                    expired.push(*element.digest());
                }
            });
            for digest in expired {
                if let Some(guard) = self.index.get_exclusive(&digest) {
                    // If it cannot go yet, it has expired all the same; nsup tries again.
                    let removal = Removal::plain(Cause::Expiry, now);
                    let _ = self.remove_from_sweep(guard, &removal);
                }
            }
        }
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
}
