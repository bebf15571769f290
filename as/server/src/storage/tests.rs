//! Tests of the engine with the index above it: written records are read back, nothing leaks, defrag makes
//! room.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cf::Digest;
use cf::huge_pages::HUGE_PAGE_SIZE;
use datamodel::flat::{FlatRecord, NewRecord};
use datamodel::{Bins, BytesType, Particle};

use super::defrag::defrag_one;
use super::device::Device;
use super::engine::Storage;
use super::error::StorageError;
use super::read_buffer::{DiskBuffer, ReadBuffer};
use super::wblock::{WblockId, WblockState};
use crate::config::params::storage::StorageParams;
use crate::index::{Index, IndexGeometry};

const DATA_SIZE: u64 = 1 << 30;

fn storage(low_water_pct: u32) -> Storage {
    storage_of(DATA_SIZE, low_water_pct)
}

fn storage_of(data_size: u64, low_water_pct: u32) -> Storage {
    let params = StorageParams::default();
    params.data_size.set(data_size);
    params.defrag_lwm_pct.set(low_water_pct);
    params.defrag_sleep.set(0);
    Storage::memory(&Arc::new(params)).expect("address space")
}

fn index() -> Index {
    Index::new(IndexGeometry { sprigs_per_partition: 256, stage_size: 128 << 20 })
}

/// An index small enough for Miri.
pub(super) fn small_index() -> Index {
    Index::new(IndexGeometry { sprigs_per_partition: 1, stage_size: 64 << 10 })
}

pub(super) fn digest_of(key: u32) -> Digest {
    Digest::of_key(b"set", 1, &u64::from(key).to_be_bytes())
}

/// A flat record whose bytes follow from `key`, `version` and `size`.
fn record(key: u32, version: u16, size: usize) -> Vec<u8> {
    let value = vec![(key as u8) ^ (version as u8); size];
    let mut bins = Bins::new();
    bins.set(b"bin", Particle::Bytes(BytesType::Blob, value.into()));
    let record = NewRecord {
        digest: digest_of(key),
        last_update_time: 1,
        generation: version,
        void_time: 0,
        tree_id: 0,
        set_name: b"set",
        key: None,
        leaves_tombstone: false,
    };
    let mut flat = Vec::new();
    record.encode(&bins, record.size(&bins), &mut flat);
    flat
}

fn write(storage: &Storage, index: &Index, key: u32, flat: &[u8]) -> Result<(), StorageError> {
    let (mut guard, _) = index.get_or_create(&digest_of(key)).expect("room in the index");
    let result = storage.write(&mut guard, flat, false);
    if result.is_ok() {
        guard.meta_mut().generation = 1;
    }
    result
}

/// Writes, and waits for defrag if necessary. A load with this much room must never wait long.
fn write_when_there_is_room(storage: &Storage, index: &Index, key: u32, flat: &[u8]) {
    let started = Instant::now();
    while write(storage, index, key, flat) == Err(StorageError::OutOfSpace) {
        assert!(started.elapsed().as_secs() < 60, "defrag makes no room");
        std::thread::yield_now();
    }
}

fn remove(storage: &Storage, index: &Index, key: u32) {
    if let Some(mut guard) = index.get_exclusive(&digest_of(key)) {
        storage.release(&mut guard);
        guard.remove();
    }
}

fn stored(storage: &Storage, index: &Index, key: u32) -> Option<Vec<u8>> {
    let mut scratch = ReadBuffer::new();
    let guard = storage.get_readable(index, &digest_of(key), &mut scratch)?;
    Some(storage.record_bytes(&guard, &mut scratch).expect("readable").to_vec())
}

/// A sequence of numbers that is the same in each run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as u32) % limit
    }
}

#[test]
fn a_rewrite_of_the_same_size_stays_in_place() {
    let (storage, index) = (storage(50), index());
    write(&storage, &index, 1, &record(1, 1, 100)).expect("room");
    let place = index.get(&digest_of(1)).expect("written").location;
    write(&storage, &index, 1, &record(1, 2, 101)).expect("room");
    assert_eq!(index.get(&digest_of(1)).expect("written").location, place);
    write(&storage, &index, 1, &record(1, 3, 200)).expect("room");
    assert_ne!(index.get(&digest_of(1)).expect("written").location, place);
    assert_eq!(storage.used_bytes(), record(1, 3, 200).len() as u64);
    storage.check();
}

/// Bytes of this process in huge pages.
fn huge_bytes() -> u64 {
    let memory = std::fs::read_to_string("/proc/self/smaps_rollup").expect("smaps");
    let line = memory.lines().find_map(|line| line.strip_prefix("AnonHugePages:")).expect("huge pages");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn can_collapse() -> bool {
    let region = cf::region::Region::new(HUGE_PAGE_SIZE).expect("memory");
    region.prepare(0, HUGE_PAGE_SIZE);
    region.collapse(0).is_ok()
}

#[test]
fn full_blocks_in_memory_get_huge_pages_and_keep_their_records() {
    const RECORDS: u32 = 24 * 8 + 4;
    let (storage, index) = (storage(50), index());
    let version_of = |key| record(key, 1, 1 << 20);
    write(&storage, &index, 0, &version_of(0)).expect("room");
    assert!(!storage.devices.iter().any(Device::collapse_next), "no block is full");
    (1..RECORDS).for_each(|key| write(&storage, &index, key, &version_of(key)).expect("room"));
    let used = |device: &Device| {
        let ids = (1..device.wblocks.pristine()).map(WblockId);
        ids.filter(|id| device.wblocks.state(*id) == WblockState::Used).count()
    };
    let full: usize = storage.devices.iter().map(used).sum();
    assert!(full >= 8, "{full} blocks are full");
    let before = huge_bytes();
    let calls = (0..5 * full).take_while(|_| storage.devices.iter().any(Device::collapse_next)).count();
    assert_eq!(calls, 4 * full, "each huge page of a full block once");
    // Linux before 6.1 cannot do this.
    if can_collapse() {
        assert!(huge_bytes() > before, "{calls} huge pages");
    }
    for key in 0..RECORDS {
        assert!(stored(&storage, &index, key) == Some(version_of(key)), "record {key}");
    }
}

#[test]
fn overwrites_of_many_times_the_size_keep_every_record_and_leak_nothing() {
    let (storage, index) = (storage(50), index());
    let mut model: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut random = Random(7);
    let mut written = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| storage.run_defrag(0, &index));
        for round in 0.. {
            let key = random.below(60_000);
            if random.below(10) == 0 {
                remove(&storage, &index, key);
                model.remove(&key);
                continue;
            }
            let flat = record(key, (round % 60_000) as u16 + 1, random.below(6_000) as usize);
            write_when_there_is_room(&storage, &index, key, &flat);
            written += flat.len() as u64;
            model.insert(key, flat);
            if written > 5 * DATA_SIZE / 2 {
                break;
            }
        }
        storage.stop();
    });
    storage.check();
    for key in 0..60_000 {
        assert_eq!(stored(&storage, &index, key), model.get(&key).cloned(), "record {key}");
    }
    assert_eq!(storage.used_bytes(), model.values().map(|flat| flat.len() as u64).sum::<u64>());
    let defragged: u64 = storage.device_stats().map(|stats| stats.defrag_reads).sum();
    assert!(defragged > 0, "the load was meant to need defrag");
    for key in 0..60_000 {
        remove(&storage, &index, key);
    }
    storage.check();
    assert_eq!((storage.used_bytes(), index.element_count()), (0, 0));
}

#[test]
fn readers_see_whole_records_while_writers_and_defrag_move_them() {
    let (storage, index) = (storage(80), index());
    let stop = AtomicBool::new(false);
    for key in 0..2_000 {
        write(&storage, &index, key, &record(key, 1, 5_000)).expect("room");
    }
    std::thread::scope(|scope| {
        scope.spawn(|| storage.run_defrag(0, &index));
        scope.spawn(|| {
            let mut random = Random(3);
            while !stop.load(Ordering::Relaxed) {
                let key = random.below(2_000);
                if let Some(flat) = stored(&storage, &index, key) {
                    let read = FlatRecord::parse(&flat).expect("a whole record");
                    assert_eq!(read.verify(), Ok(()));
                    assert_eq!(read.digest, digest_of(key));
                }
            }
        });
        let mut random = Random(5);
        for version in 0..40_000u16 {
            let key = random.below(2_000);
            let flat = record(key, version + 1, 4_000 + random.below(4_000) as usize);
            write_when_there_is_room(&storage, &index, key, &flat);
        }
        stop.store(true, Ordering::Relaxed);
        storage.stop();
    });
    storage.check();
}

#[test]
fn a_full_engine_refuses_writes_and_takes_them_again_after_deletes() {
    let (storage, index) = (storage(50), index());
    let mut key = 0;
    while write(&storage, &index, key, &record(key, 1, 900_000)).is_ok() {
        key += 1;
        assert!(u64::from(key) * 900_000 < DATA_SIZE, "more was taken than fits");
    }
    assert!(key > 100, "only {key} records fit");
    // The refused record has left nothing behind.
    assert_eq!(stored(&storage, &index, key), None);
    storage.check();
    for gone in 0..key {
        remove(&storage, &index, gone);
    }
    for again in 0..key {
        write(&storage, &index, again, &record(again, 2, 900_000)).expect("room again");
    }
    storage.check();
}

#[test]
fn blocks_that_large_records_leave_half_used_are_not_moved_for_ever() {
    // Eight records take nine tenths of a block, wherever they are.
    const SIZE: usize = 940_000;
    let (storage, index) = (storage_of(512 << 20, 50), index());
    let stored = (0..1_000).filter(|key| write(&storage, &index, *key, &record(*key, 1, SIZE)).is_ok());
    assert!(stored.count() > 100);
    let empty_all = || {
        let mut scratch = DiskBuffer::new();
        for device in &storage.devices {
            let emptied = (0..1_000).take_while(|_| defrag_one(&storage, device, &index, &mut scratch));
            assert!(emptied.count() < 100, "of 7 blocks");
        }
    };
    empty_all();
    let moved_before: u64 = storage.device_stats().map(|stats| stats.defrag_reads).sum();
    assert!(moved_before > 0, "it was tried");
    empty_all();
    assert_eq!(storage.device_stats().map(|stats| stats.defrag_reads).sum::<u64>(), moved_before);
    // Removals make room.
    (0..1_000).filter(|key| key % 2 == 0).for_each(|key| remove(&storage, &index, key));
    empty_all();
    for device in &storage.devices {
        assert!(!device.wblocks.is_short(0), "{} blocks are free", device.wblocks.free_count());
    }
    storage.check();
}

/// Overwrites records of many sizes, `bytes` in all, and waits for room where that is expected. Returns the
/// number of writes that were refused anyway.
fn overwrite(storage: &Storage, index: &Index, seed: u64, key_count: u32, bytes: usize) -> usize {
    const SIZES: [usize; 4] = [100, 2_000, 9_000, 30_000];
    const PATIENCE: Duration = Duration::from_secs(20);
    let mut random = Random(seed);
    let (mut written, mut refused) = (0, 0);
    while written < bytes {
        let (key, size) = (random.below(key_count), SIZES[random.below(4) as usize]);
        let flat = record(key, 1, size);
        let started = Instant::now();
        let mut result = write(storage, index, key, &flat);
        while result == Err(StorageError::Congested) && started.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_micros(100));
            result = write(storage, index, key, &flat);
        }
        refused += usize::from(result.is_err());
        written += flat.len();
    }
    refused
}

/// The stripes of the smallest namespace have three blocks for records. It still has as many stripes as any
/// other, because clients see them.
#[test]
fn stripes_of_few_blocks_take_writes_as_long_as_defrag_makes_room() {
    // A twenty-fifth and a fifth of the block are alive.
    for key_count in [1_000, 5_000] {
        let (storage, index) = (storage_of(256 << 20, 50), index());
        assert_eq!(storage.devices.len(), 8);
        let refused = std::thread::scope(|scope| {
            scope.spawn(|| storage.run_defrag(0, &index));
            let writers = [1, 2, 3].map(|seed| {
                let (storage, index) = (&storage, &index);
                scope.spawn(move || overwrite(storage, index, seed, key_count, 150 << 20))
            });
            let refused = writers.map(std::thread::ScopedJoinHandle::join);
            storage.stop();
            refused
        });
        assert_eq!(refused.map(|refused| refused.expect("no panic")), [0; 3], "{key_count} records");
        let moved: u64 = storage.device_stats().map(|stats| stats.defrag_reads).sum();
        assert!(moved > 0, "the load was meant to need defrag");
        // Defrag has given back the blocks that it took.
        assert!(storage.devices.iter().all(|device| device.wblocks.free_count() > 0));
        storage.check();
    }
}
