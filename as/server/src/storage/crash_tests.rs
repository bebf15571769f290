//! Tests of the engine on a medium that crashes: acknowledged records survive every crash, and every record
//! read is whole.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use cf::sys::block::BlockMedium;

use super::crash_harness::{DISK_SIZE, KEYS, Model, Node, VALUE_SIZE_MAX, config, load, loaded_node, start};
use super::crash_medium::{CrashMedium, Faults, SECTOR_SIZE};
use super::error::StorageError;
use super::tests::{Random, digest_of};
use super::{ReadBuffer, WBLOCK_SIZE};
use crate::config::Engine;

/// The seed that `make soak` sets for this round.
fn soak_seed() -> u64 {
    std::env::var("FERROSPIKE_SOAK_SEED").map_or(0, |text| text.parse().expect("a number"))
}

/// Runs rounds of load, crash and restart. A random number of sectors of the last write arrives.
fn crash_rounds(engine: Engine, commit: bool, seed: u64) {
    let config = config(engine, commit);
    let mut random = Random(soak_seed() << 16 | seed);
    let mut model = Model::default();
    let mut image = vec![0; DISK_SIZE as usize];
    let mut version = 1;
    for round in 0..6 {
        let medium = Arc::new(CrashMedium::from_image(std::mem::take(&mut image), true));
        let (node, stats) = start(vec![(Arc::clone(&medium), None)], &config);
        node.clock.store(version, Relaxed);
        model.check(&node, !commit);
        let damaged = stats.damaged.into_inner();
        assert!(damaged <= round, "{damaged} damaged records after {round} torn writes");
        let writes = medium.writes();
        let (cut, torn) = (u64::from(random.below(150)) + 5, random.below(2048) as usize);
        medium.set_faults(Faults { write_fails_at: Some((writes + cut, torn)), ..Faults::default() });
        load(&node, &mut model, &mut random, 600);
        version = node.next_version();
        image = medium.crash(|_| false);
    }
}

#[test]
fn committed_writes_survive_every_cut() {
    for seed in 1..3 {
        crash_rounds(Engine::Device, true, seed);
    }
}

#[test]
fn committed_writes_of_a_namespace_in_memory_survive_every_cut() {
    crash_rounds(Engine::Memory, true, 4);
}

#[test]
fn without_commit_surviving_records_are_whole_and_were_written() {
    crash_rounds(Engine::Device, false, 5);
    crash_rounds(Engine::Memory, false, 6);
}

/// Each flush writes a buffer once, whether it is full or not, however fast other threads continue to fill
/// it.
#[test]
fn a_flush_ends_while_others_write() {
    let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
    let (node, _) = start(vec![(Arc::clone(&medium), None)], &config(Engine::Device, false));
    let device = &node.storage.devices[0];
    let disk = device.as_disk().expect("it is one");
    node.write(0, 1, 100).expect("room");
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The writes fill half a block at most.
            let versions = (2..).take(WBLOCK_SIZE as usize / 400).take_while(|_| !is_done.load(Relaxed));
            versions.for_each(|version| node.write(version as u32 % KEYS, version, 100).expect("room"));
        });
        disk.flush_all(&device.wblocks).expect("it can be written to");
        is_done.store(true, Relaxed);
    });
    assert_eq!(disk.stats().partial_writes, 1);
}

#[test]
fn a_failed_disk_refuses_writes_serves_reads_and_recovers() {
    let config = config(Engine::Device, true);
    let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
    let mut model = Model::default();
    let node = loaded_node(&medium, &config, &mut model);
    node.clock.store(1_000, Relaxed);
    medium.set_faults(Faults { write_fails_at: Some((0, 0)), ..Faults::default() });
    let key = (0..KEYS).find(|key| node.version(*key).is_some()).expect("records");
    let before = node.version(key);
    assert_eq!(node.write(key, 1_001, 100), Err(StorageError::Failed));
    assert_eq!(node.write(key, 1_002, 100), Err(StorageError::Failed), "and from then on at once");
    assert_eq!(node.version(key), Some(1_001), "it is in memory, and tried again");
    assert!(before < Some(1_001));
    node.storage.check();

    medium.repair();
    std::thread::scope(|scope| {
        scope.spawn(|| node.storage.run_flush(0));
        let started = std::time::Instant::now();
        while node.write(key, 1_003, 100) == Err(StorageError::Failed) {
            assert!(started.elapsed().as_secs() < 60, "the disk does not come back");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        node.storage.stop();
    });
    assert_eq!(node.version(key), Some(1_003));
    let found =
        start(vec![(Arc::new(CrashMedium::from_image(medium.crash(|_| false), true)), None)], &config).0;
    assert_eq!(found.version(key), Some(1_003));
}

/// A request that waits for room in the write cache must not wait for a disk that takes no writes.
#[test]
fn the_queue_of_a_failed_disk_is_no_overload() {
    let config = config(Engine::Device, false);
    config.params.max_write_cache.set(u64::from(WBLOCK_SIZE));
    let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
    let (node, _) = start(vec![(Arc::clone(&medium), None)], &config);
    let mut version = 0;
    while !node.storage.is_overloaded() {
        version += 1;
        node.write(version as u32 % KEYS, version, VALUE_SIZE_MAX as usize).expect("there is room");
    }
    medium.set_faults(Faults { write_fails_at: Some((0, 0)), ..Faults::default() });
    std::thread::scope(|scope| {
        scope.spawn(|| node.storage.run_flush(0));
        while node.storage.is_overloaded() {
            std::thread::yield_now();
        }
        assert_eq!(node.write(0, version + 1, 100), Err(StorageError::Failed));
        medium.repair();
        while node.write(0, version + 1, 100).is_err() || node.storage.is_overloaded() {
            std::thread::yield_now();
        }
        node.storage.stop();
    });
    node.storage.check();
}

#[test]
fn unreadable_bytes_cost_the_records_on_them_only() {
    let config = config(Engine::Device, true);
    let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
    let mut model = Model::default();
    let node = loaded_node(&medium, &config, &mut model);
    let place = {
        let key = (0..KEYS).find(|key| node.version(*key).is_some()).expect("records");
        let guard = node.index.get(&digest_of(key)).expect("it is there");
        guard.location.rblock() * 16
    };
    medium.set_faults(Faults { unreadable: Some(place..place + 1), ..Faults::default() });
    let mut scratch = ReadBuffer::new();
    let (mut read, mut failed) = (0, 0);
    for key in 0..KEYS {
        let Some(guard) = node.storage.get_readable(&node.index, &digest_of(key), &mut scratch) else {
            continue;
        };
        match node.storage.record(&guard, &mut scratch) {
            Ok(_) => read += 1,
            Err(error) => {
                assert_eq!(error, StorageError::Failed);
                failed += 1;
            }
        }
    }
    assert!(read > 10 && (1..=2).contains(&failed), "{read} read, {failed} failed");
    // A start also loses only those records. It reports the bytes, and a record that begins before them.
    let image = medium.crash(|_| true);
    let again = Arc::new(CrashMedium::from_image(image, true));
    again.set_faults(Faults { unreadable: Some(place..place + 1), ..Faults::default() });
    let (node, stats) = start(vec![(again, None)], &config);
    assert!((1..=2).contains(&stats.damaged.into_inner()));
    let found = (0..KEYS).filter(|key| node.version(*key).is_some()).count();
    assert!(found >= read, "{found} of {read}");
}

#[test]
fn the_shadow_stands_in_for_a_lost_disk() {
    let config = config(Engine::Device, true);
    let (main, shadow) = (
        Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true)),
        Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true)),
    );
    let mut model = Model::default();
    let (node, _) = start(vec![(Arc::clone(&main), Some(Arc::clone(&shadow)))], &config);
    load(&node, &mut model, &mut Random(11), 80);
    // The machine stops without a clean stop and comes back with an empty disk.
    let fresh = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
    let shadow = Arc::new(CrashMedium::from_image(shadow.crash(|_| true), true));
    let (node, _) = start(vec![(Arc::clone(&fresh), Some(shadow))], &config);
    model.check(&node, false);
    node.storage.close();
    // The disk alone has all records again.
    let (node, _) = start(vec![(fresh, None)], &config);
    model.check(&node, false);
}

#[test]
fn records_move_to_a_device_that_joins() {
    let config = config(Engine::Device, true);
    let first = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
    let mut model = Model::default();
    drop(loaded_node(&first, &config, &mut model));
    let second = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
    let media = || vec![(Arc::clone(&first), None), (Arc::clone(&second), None)];
    let (node, _) = start(media(), &config);
    model.check(&node, false);
    node.clock.store(10_000, Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| node.storage.run_flush(0));
        scope.spawn(|| node.storage.run_flush(1));
        let mut random = Random(12);
        for _ in 0..100 {
            model.write(&node, &mut random).expect("there is room");
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        node.storage.stop();
    });
    assert!(node.storage.device_stats().all(|device| device.used_bytes > 0), "both devices are used");
    drop(node);
    let (node, _) = start(media(), &config);
    model.check(&node, false);
}

#[test]
fn a_record_torn_at_any_sector_is_left_out() {
    let config = config(Engine::Device, true);
    let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
    let (node, _) = start(vec![(Arc::clone(&medium), None)], &config);
    node.write(1, 1, 3_000).expect("room");
    let before = medium.crash(|_| true);
    node.write(1, 2, 10_000).expect("room");
    let after = medium.crash(|_| true);
    let changed: Vec<usize> = (0..before.len() / SECTOR_SIZE)
        .filter(|sector| {
            let bytes = sector * SECTOR_SIZE..(sector + 1) * SECTOR_SIZE;
            before[bytes.clone()] != after[bytes]
        })
        .collect();
    assert!(changed.len() > 15, "the record takes {} sectors", changed.len());
    for arrived in (0..changed.len()).step_by(4) {
        let mut image = before.clone();
        for sector in &changed[..arrived] {
            let bytes = sector * SECTOR_SIZE..(sector + 1) * SECTOR_SIZE;
            image[bytes.clone()].copy_from_slice(&after[bytes]);
        }
        let (node, _) = start(vec![(Arc::new(CrashMedium::from_image(image, true)), None)], &config);
        assert_eq!(node.version(1), Some(1), "after {arrived} of {} sectors", changed.len());
    }
}

/// The head of a record whose write was cut short states a size that covers older records behind it. These
/// are alive, and defrag must find them as the start did.
#[test]
fn defrag_finds_records_after_the_start_of_a_torn_record() {
    for engine in [Engine::Device, Engine::Memory] {
        let config = config(engine, true);
        let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
        let (node, _) = start(vec![(Arc::clone(&medium), None)], &config);
        for key in 0..4 {
            node.write(key, u64::from(key) + 1, 1_000).expect("room");
        }
        let torn_at = node.index.get(&digest_of(0)).expect("it is there").location.rblock() as usize * 16;
        node.write(9, 9, 100_000).expect("room");
        let large_at = node.index.get(&digest_of(9)).expect("it is there").location.rblock() as usize * 16;
        node.storage.close();
        let mut image = medium.crash(|_| false);
        image.copy_within(large_at..large_at + SECTOR_SIZE, torn_at);
        image[large_at..large_at + 100_064].fill(0);

        let (node, stats) = start(vec![(Arc::new(CrashMedium::from_image(image, true)), None)], &config);
        assert_eq!(stats.damaged.into_inner(), 1);
        let versions = || (0..4).map(|key| node.version(key)).collect::<Vec<_>>();
        let expected = [None, Some(2), Some(3), Some(4)];
        assert_eq!(versions(), expected);
        let before = node.storage.used_bytes();
        node.storage.defrag_until_available(100, &node.index);
        let reads: u64 = node.storage.device_stats().map(|stats| stats.defrag_reads).sum();
        assert_eq!((reads, node.storage.used_bytes()), (1, before));
        assert_eq!(versions(), expected);
        let places: Vec<_> =
            (1..4).map(|key| node.index.get(&digest_of(key)).expect("it is there").location).collect();
        assert!(
            places.iter().all(|place| place.rblock() as usize * 16 >= 2 * WBLOCK_SIZE as usize),
            "{places:?}"
        );
        node.storage.check();
    }
}

/// The last used block is in use even if its first record is damaged.
#[test]
fn a_block_whose_first_record_is_damaged_is_not_written_over() {
    for engine in [Engine::Device, Engine::Memory] {
        let config = config(engine, true);
        let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
        let (node, _) = start(vec![(Arc::clone(&medium), None)], &config);
        for key in 0..4 {
            node.write(key, u64::from(key) + 1, 1_000).expect("room");
        }
        let mut image = medium.crash(|_| false);
        let first = node.index.get(&digest_of(0)).expect("it is there").location.rblock() as usize * 16;
        image[first] ^= 0xFF;
        let (node, _) = start(vec![(Arc::new(CrashMedium::from_image(image, true)), None)], &config);
        node.write(9, 9, 100_000).expect("room");
        let versions: Vec<_> = (0..4).map(|key| node.version(key)).collect();
        assert_eq!(versions, [None, Some(2), Some(3), Some(4)]);
        node.storage.check();
    }
}

/// A start finds records that defrag moved twice; it must not take the copies in the freed blocks.
#[test]
fn blocks_that_defrag_freed_are_free_after_a_start() {
    for engine in [Engine::Device, Engine::Memory] {
        let config = config(engine, true);
        let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
        let (node, _) = start(vec![(Arc::clone(&medium), None)], &config);
        // One record in each block stays alive; the others are overwritten in the next block.
        for key in 0..10 {
            node.write(key, node.next_version(), 100).expect("room");
            for large in 10..20 {
                node.write(large, node.next_version(), VALUE_SIZE_MAX as usize).expect("room");
            }
        }
        node.storage.defrag_until_available(90, &node.index);
        let free_blocks =
            |node: &Node| -> usize { node.storage.device_stats().map(|stats| stats.free_wblocks).sum() };
        let versions = |node: &Node| (0..20).map(|key| node.version(key)).collect::<Vec<_>>();
        let before = (free_blocks(&node), versions(&node));
        assert!(before.0 >= 16, "{} blocks are free", before.0);
        node.storage.close();
        let image = medium.crash(|_| false);
        let (node, _) = start(vec![(Arc::new(CrashMedium::from_image(image, true)), None)], &config);
        // The two blocks that were being filled count as free when they are empty.
        assert!(free_blocks(&node) >= before.0, "{} of {} blocks are free", free_blocks(&node), before.0);
        assert_eq!(versions(&node), before.1);
        node.storage.check();
    }
}

/// On a medium whose writes are not durable by themselves, a power failure leaves any of the sectors that
/// were not synced. A record that was durable before still exists after it, in that version or a later one,
/// although defrag moved it and its old place was overwritten.
#[test]
fn a_power_failure_does_not_remove_durable_records() {
    for seed in (30..34).map(|seed| soak_seed() << 16 | seed) {
        let config = config(Engine::Device, false);
        let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, false));
        let node = loaded_node(&medium, &config, &mut Model::default());
        let before: Vec<_> = (0..KEYS).map(|key| node.version(key)).collect();
        medium.sync().expect("it works");
        node.clock.store(1_000, Relaxed);
        let mut random = Random(seed);
        std::thread::scope(|scope| {
            scope.spawn(|| node.storage.run_defrag(0, &node.index));
            scope.spawn(|| node.storage.run_flush(0));
            for _ in 0..400 {
                // Half of the records are not overwritten.
                let (key, size) = (random.below(KEYS / 2) * 2, random.below(VALUE_SIZE_MAX));
                match node.write(key, node.next_version(), size as usize) {
                    Ok(()) => {}
                    Err(StorageError::OutOfSpace | StorageError::Congested) => {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    Err(error) => panic!("{error:?}"),
                }
                while node.storage.is_overloaded() {
                    std::thread::yield_now();
                }
            }
            node.storage.stop();
        });
        let disk = node.storage.disks().next().expect("a disk");
        let (blocks, syncs) =
            (node.storage.device_stats().map(|stats| stats.writes).sum::<u64>(), disk.sync_count());
        assert!(blocks > 12 && (1..blocks).contains(&syncs), "{syncs} syncs for {blocks} blocks");
        // The part of a large write that arrived is contiguous.
        let mut arrived: HashMap<usize, bool> = HashMap::new();
        let image = medium.crash(|sector| {
            *arrived.entry((sector * SECTOR_SIZE) >> 20).or_insert_with(|| random.below(2) == 0)
        });
        let (node, _) = start(vec![(Arc::new(CrashMedium::from_image(image, true)), None)], &config);
        for key in 0..KEYS {
            let found = node.index.get(&digest_of(key)).map(|guard| guard.last_update_time());
            assert!(
                found >= before[key as usize],
                "record {key}: {found:?}, {:?} was durable",
                before[key as usize]
            );
        }
    }
}

/// A torn write is not reported as damage, and stale bytes of the block are not taken for records.
#[test]
fn a_write_that_was_cut_short_is_no_damage() {
    for commit in [false, true] {
        let config = config(Engine::Device, commit);
        let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
        let (node, _) = start(vec![(Arc::clone(&medium), None)], &config);
        let flush = |node: &Node| {
            let device = &node.storage.devices[0];
            device.as_disk().expect("it is one").flush_all(&device.wblocks)
        };
        for key in 0..3 {
            node.write(key, 1, 3_000).expect("room");
        }
        flush(&node).expect("it works");
        for torn in [0, 1, 5, 6, 7, 12] {
            let image = medium.crash(|_| true);
            let again = Arc::new(CrashMedium::from_image(image, true));
            let (node, _) = start(vec![(Arc::clone(&again), None)], &config);
            for key in 0..3 {
                node.write(key, 2, 3_000).expect("room");
            }
            let writes = again.writes();
            again.set_faults(Faults { write_fails_at: Some((writes, torn)), ..Faults::default() });
            let _ = node.write(3, 1, 3_000);
            let _ = flush(&node);
            let image = again.crash(|_| true);
            let (node, stats) = start(vec![(Arc::new(CrashMedium::from_image(image, true)), None)], &config);
            assert_eq!(stats.damaged.into_inner(), 0, "{torn} sectors arrived");
            assert!((0..3).all(|key| node.version(key) >= Some(1)), "{torn} sectors arrived");
        }
    }
}
