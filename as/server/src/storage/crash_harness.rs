//! A test harness: a node on media that crash, with starts, writes, and a model of the versions that each
//! record may have.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cf::sys::block::BlockMedium;
use datamodel::flat::{FlatRecord, NewRecord};
use datamodel::{Bins, BytesType, Particle};

use super::callers::DiskCaller;
use super::crash_medium::CrashMedium;
use super::engine::Storage;
use super::error::StorageError;
use super::load::{LoadCommit, LoadContext, LoadStats};
use super::media::Media;
use super::medium::Opened;
use super::open::OpenSettings;
use super::tests::{Random, digest_of};
use super::{ReadBuffer, WBLOCK_SIZE};
use crate::config::{Engine, StorageConfig};
use crate::index::{Index, IndexGeometry, RecordMeta, SetId, WriteGuard};
use crate::namespace::Partitions;

/// A disk of 24 write blocks. Eight are defrag's, so overwrites of a few records soon reuse blocks.
pub(super) const DISK_SIZE: u64 = 24 * WBLOCK_SIZE as u64;
pub(super) const KEYS: u32 = 40;
pub(super) const VALUE_SIZE_MAX: u32 = 700_000;

pub(super) struct Node {
    pub(super) storage: Storage,
    pub(super) partitions: Partitions,
    pub(super) index: Index,
    pub(super) clock: AtomicU64,
}

struct Context<'a> {
    index: &'a Index,
    stats: LoadStats,
}

impl LoadContext for Context<'_> {
    fn set_id(&self, _: &[u8]) -> Option<SetId> {
        Some(SetId(1))
    }

    fn index(&self) -> &Index {
        self.index
    }

    fn now_seconds(&self) -> u32 {
        1_000
    }

    fn stats(&self) -> &LoadStats {
        &self.stats
    }

    fn committer(&self) -> Box<dyn LoadCommit + '_> {
        Box::new(WithoutFigures)
    }
}

/// A committer that keeps no figures.
pub(super) struct WithoutFigures;

impl LoadCommit for WithoutFigures {
    fn commit(&mut self, mut guard: WriteGuard<'_>, after: &RecordMeta, _: Option<&FlatRecord<'_>>) {
        *guard.meta_mut() = *after;
    }

    fn finish(self: Box<Self>) {}
}

pub(super) fn config(engine: Engine, commit: bool) -> StorageConfig {
    let config = StorageConfig { engine, ..StorageConfig::default() };
    let params = &config.params;
    params.flush_size.set(1 << 20);
    params.max_write_cache.set(64 << 20);
    params.commit_to_device.set(commit);
    config
}

/// Starts on `media`. Returns the node and the findings of the load.
pub(super) fn start(
    media: Vec<(Arc<CrashMedium>, Option<Arc<CrashMedium>>)>,
    config: &StorageConfig,
) -> (Node, LoadStats) {
    let (node, stats) = open(media, config);
    let cluster_key = cf::clock::monotonic_nanos();
    node.partitions.deal_alone(&node.storage, cluster_key).expect("the headers can be written");
    (node, stats)
}

/// As [`start`], up to the point where the owners of partitions are determined.
pub(super) fn open(
    media: Vec<(Arc<CrashMedium>, Option<Arc<CrashMedium>>)>,
    config: &StorageConfig,
) -> (Node, LoadStats) {
    let geometry = IndexGeometry { sprigs_per_partition: 256, stage_size: 128 << 20 };
    let index = Index::new(geometry);
    let disks = media
        .into_iter()
        .map(|(main, shadow)| Opened {
            size: main.size(),
            found_size: main.size(),
            shadow_found_size: main.size(),
            media: Media {
                main,
                shadow: shadow.map(|shadow| -> Arc<dyn BlockMedium> { shadow }),
                cached: None,
                is_volatile: true,
            },
        })
        .collect();
    // Each run has its own number.
    let signature = cf::clock::monotonic_nanos();
    let settings = OpenSettings { namespace: "test", config, signature };
    let context = Context { index: &index, stats: LoadStats::default() };
    let storage = Storage::open_on(&settings, disks, &context).expect("the devices can be opened");
    let stats = context.stats;
    let partitions = Partitions::load(1, &storage.partition_entries());
    (Node { storage, partitions, index, clock: AtomicU64::new(1) }, stats)
}

/// Bytes derived from `key` and `version`, so that a mixture of two versions is detected.
fn value_of(key: u32, version: u64, size: usize) -> Vec<u8> {
    let mut seed = u64::from(key) << 40 ^ version;
    let mut bytes = version.to_le_bytes().to_vec();
    while bytes.len() < size.max(8) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(seed >> 16).to_le_bytes()[..4]);
    }
    bytes
}

impl Node {
    /// Writes version `version` of record `key` with a value of `size` bytes.
    pub(super) fn write(&self, key: u32, version: u64, size: usize) -> Result<(), StorageError> {
        let digest = digest_of(key);
        let (mut guard, _) = self.index.get_or_create(&digest).expect("room in the index");
        let value = value_of(key, version, size);
        let mut bins = Bins::new();
        bins.set(b"bin", Particle::Bytes(BytesType::Blob, value.as_slice().into()));
        let record = NewRecord {
            digest,
            last_update_time: version,
            generation: guard.generation.wrapping_add(1).max(1),
            void_time: 0,
            tree_id: self.partitions.tree_id(crate::index::PartitionId::of(&digest)),
            set_name: b"set",
            key: None,
            leaves_tombstone: false,
        };
        let mut flat = Vec::new();
        record.encode(&bins, record.size(&bins), &mut flat);
        let before = (guard.generation, guard.last_update_time());
        guard.meta_mut().generation = record.generation;
        guard.meta_mut().set_last_update_time(version);
        let result = self.storage.write(&mut guard, &flat, false);
        if result.is_err() {
            guard.meta_mut().generation = before.0;
            guard.meta_mut().set_last_update_time(before.1);
        }
        let location = guard.location;
        drop(guard);
        result?;
        if self.storage.commits() { self.storage.settle(location, DiskCaller::Other) } else { Ok(()) }
    }

    /// The version of record `key`. Checks every byte of it.
    pub(super) fn version(&self, key: u32) -> Option<u64> {
        let mut scratch = ReadBuffer::new();
        let guard = self.storage.get_readable(&self.index, &digest_of(key), &mut scratch)?;
        let record = self.storage.record(&guard, &mut scratch).expect("what the index points to is readable");
        record.verify().expect("a whole record");
        let Some(Particle::Bytes(_, value)) = record.bin(b"bin").expect("a whole bin") else {
            panic!("no bin")
        };
        let version = u64::from_le_bytes(*value.first_chunk().expect("a version"));
        assert_eq!(*value, value_of(key, version, value.len()), "record {key} is a mixture");
        Some(version)
    }

    pub(super) fn next_version(&self) -> u64 {
        self.clock.fetch_add(1, Relaxed)
    }
}

/// The versions that each key may have after a crash: the acknowledged one, or a later one in progress.
#[derive(Default)]
pub(super) struct Model {
    acknowledged: HashMap<u32, u64>,
    attempted: HashMap<u32, Vec<u64>>,
}

impl Model {
    pub(super) fn write(&mut self, node: &Node, random: &mut Random) -> Result<(), StorageError> {
        let (key, size) = (random.below(KEYS), random.below(VALUE_SIZE_MAX));
        let version = node.next_version();
        self.attempted.entry(key).or_default().push(version);
        node.write(key, version, size as usize)?;
        self.acknowledged.insert(key, version);
        Ok(())
    }

    /// Checks the records after a crash. The versions found are the expected ones from now on.
    pub(super) fn check(&mut self, node: &Node, with_losses: bool) {
        for key in 0..KEYS {
            let found = node.version(key);
            let acknowledged = self.acknowledged.get(&key).copied();
            let attempted = self.attempted.entry(key).or_default();
            assert!(
                found.is_none_or(|found| attempted.contains(&found)),
                "record {key}: {found:?} was never written"
            );
            if !with_losses {
                assert!(
                    found >= acknowledged,
                    "record {key}: {found:?}, but {acknowledged:?} was acknowledged"
                );
            }
            attempted.retain(|version| Some(*version) == found);
            match found {
                Some(found) => self.acknowledged.insert(key, found),
                None => self.acknowledged.remove(&key),
            };
        }
        node.storage.check();
    }
}

/// Overwrites records until the engine fails or `writes` writes are done, while flush and defrag run.
pub(super) fn load(node: &Node, model: &mut Model, random: &mut Random, writes: usize) {
    std::thread::scope(|scope| {
        scope.spawn(|| node.storage.run_defrag(0, &node.index));
        scope.spawn(|| node.storage.run_flush(0));
        for _ in 0..writes {
            match model.write(node, random) {
                Ok(()) => {}
                Err(StorageError::OutOfSpace | StorageError::Congested) => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Err(StorageError::Failed) => break,
                Err(error) => panic!("{error:?}"),
            }
            while node.storage.is_overloaded() {
                std::thread::yield_now();
            }
        }
        node.storage.stop();
    });
}

/// Makes a node on one fresh disk that holds some records, all of them on disk.
pub(super) fn loaded_node(medium: &Arc<CrashMedium>, config: &StorageConfig, model: &mut Model) -> Node {
    let (node, _) = start(vec![(Arc::clone(medium), None)], config);
    load(&node, model, &mut Random(9), 60);
    node.storage.close();
    start(vec![(Arc::clone(medium), None)], config).0
}
