//! Tests of the engine on disks that lose bytes while it runs: damaged records stay in place and everything
//! else continues.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::WBLOCK_SIZE;
use super::crash_harness::{DISK_SIZE, Model, Node, config, start};
use super::crash_medium::{CrashMedium, Faults};
use super::defrag::defrag_one;
use super::disk::Disk;
use super::error::StorageError;
use super::read_buffer::{DiskBuffer, ReadBuffer};
use super::tests::{Random, digest_of};
use super::wblock::WblockId;
use crate::config::{Engine, StorageConfig};

const VALUE_SIZE: usize = 500_000;

/// The offset of record `key` on its disk, in bytes.
fn place_of(node: &Node, key: u32) -> Range<u64> {
    let location = node.index.get(&digest_of(key)).expect("it is there").location;
    let start = location.rblock() * 16;
    start..start + u64::from(location.rblock_count()) * 16
}

fn read(node: &Node, key: u32) -> Result<(), StorageError> {
    let mut scratch = ReadBuffer::new();
    let guard = node.storage.get_readable(&node.index, &digest_of(key), &mut scratch).expect("it is there");
    let record = node.storage.record(&guard, &mut scratch)?;
    record.verify().map_err(|_| StorageError::Damaged)
}

/// Makes a node on `medium` with records 0 to 59 on disk. All but every fifth were written a second time, so
/// that blocks wait for defrag.
fn sparse_node(medium: &Arc<CrashMedium>) -> Node {
    let config = config(Engine::Device, true);
    let media = || vec![(Arc::clone(medium), None)];
    let (node, _) = start(media(), &config);
    for key in 0..60 {
        node.write(key, 1 + u64::from(key), VALUE_SIZE).expect("room");
    }
    for key in (0..60).filter(|key| key % 5 != 0) {
        node.write(key, 1_000 + u64::from(key), VALUE_SIZE).expect("room");
    }
    node.storage.close();
    start(media(), &config).0
}

/// Empties all blocks that can be emptied. Returns the number of blocks that were checked.
fn defrag(node: &Node) -> u64 {
    let reads = || node.storage.device_stats().map(|stats| stats.defrag_reads).sum::<u64>();
    let before = reads();
    node.storage.defrag_until_available(101, &node.index);
    reads() - before
}

#[test]
fn defrag_keeps_a_block_with_unreadable_bytes_and_continues() {
    let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
    let node = sparse_node(&medium);
    let bad = place_of(&node, 5);
    medium.set_faults(Faults { unreadable: Some(bad.start + 5_000..bad.start + 5_001), ..Faults::default() });
    assert!(defrag(&node) > 3, "several blocks wait");
    assert_eq!(defrag(&node), 0, "and none is tried for ever");
    assert_eq!(read(&node, 5), Err(StorageError::Failed));
    assert_eq!(place_of(&node, 5), bad, "it is where it was");
    for key in (0..60).filter(|key| *key != 5) {
        assert_eq!(read(&node, key), Ok(()), "record {key}");
    }
    let block = |place: &Range<u64>| place.start / u64::from(WBLOCK_SIZE);
    assert_ne!(block(&place_of(&node, 0)), block(&bad), "its neighbours were moved");
    node.storage.check();

    // When the last record of the block is written again, the block is free.
    let free = || node.storage.device_stats().map(|stats| stats.free_wblocks).sum::<usize>();
    node.write(0, 2_000, 100).expect("room");
    let before = free();
    node.write(5, 2_001, 100).expect("room");
    assert_eq!((node.version(5), free()), (Some(2_001), before + 1));
    node.storage.check();
}

/// Makes a node with twelve full blocks, of each of which two fifths are alive, so that defrag fills several
/// blocks.
fn half_empty_node(config: &StorageConfig) -> Node {
    let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
    let (node, _) = start(vec![(medium, None)], config);
    (0..192).for_each(|key| node.write(key, 1 + u64::from(key), VALUE_SIZE).expect("room"));
    for key in (0..192).filter(|key| key % 5 > 1) {
        let mut guard = node.index.get_exclusive(&digest_of(key)).expect("it is there");
        node.storage.release(&mut guard);
        guard.remove();
    }
    let device = &node.storage.devices[0];
    device.as_disk().expect("it is one").flush_all(&device.wblocks).expect("it can be written to");
    node
}

#[test]
fn records_moved_before_the_server_runs_do_not_gather_in_memory() {
    let node = half_empty_node(&config(Engine::Device, false));
    assert!(defrag(&node) > 8);
    assert_eq!(node.storage.disks().map(Disk::queued_blocks).sum::<usize>(), 0);
    assert!((0..192).filter(|key| key % 5 < 2).all(|key| read(&node, key) == Ok(())));
    node.storage.check();
}

#[test]
fn defrag_does_not_add_to_a_queue_that_is_too_long() {
    let config = config(Engine::Device, false);
    let node = half_empty_node(&config);
    let device = &node.storage.devices[0];
    let disk = device.as_disk().expect("it is one");
    config.params.max_write_cache.set(u64::from(WBLOCK_SIZE));
    let empty_all = || {
        let mut scratch = DiskBuffer::new();
        while defrag_one(&node.storage, device, &node.index, &mut scratch) {}
        disk.queued_blocks()
    };
    assert_eq!(empty_all(), 3, "one more than twice as many as may wait");
    disk.flush_all(&device.wblocks).expect("it can be written to");
    assert!((1..=3).contains(&empty_all()), "and goes on");
    node.storage.check();
}

#[test]
fn defrag_does_not_move_damaged_records() {
    for damaged_byte in [0, 5, 40, VALUE_SIZE + 49] {
        let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
        drop(sparse_node(&medium));
        let medium = Arc::new(CrashMedium::from_image(medium.crash(|_| true), true));
        let config = config(Engine::Device, true);
        let node = start(vec![(Arc::clone(&medium), None)], &config).0;
        let place = place_of(&node, 10);
        medium.damage(place.start + damaged_byte as u64..place.start + damaged_byte as u64 + 8);
        assert!(defrag(&node) > 3);
        assert_eq!(defrag(&node), 0);
        assert_eq!(place_of(&node, 10), place);
        assert_eq!(read(&node, 10), Err(StorageError::Damaged), "byte {damaged_byte}");
        for key in (0..60).filter(|key| *key != 10) {
            assert_eq!(read(&node, key), Ok(()), "record {key}");
        }
        node.storage.check();
    }
}

/// When few blocks are free, defrag empties the emptiest one. It must not choose one that cannot be emptied.
#[test]
fn a_kept_block_does_not_stop_the_making_of_room() {
    let config = config(Engine::Device, true);
    config.params.defrag_lwm_pct.set(1);
    let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
    let (node, _) = start(vec![(Arc::clone(&medium), None)], &config);
    let mut key = 0;
    while node.write(key, 1, VALUE_SIZE).is_ok() {
        key += 1;
    }
    node.storage.close();
    let (node, _) = start(vec![(Arc::clone(&medium), None)], &config);
    // The first block holds only unreadable records, the others are about two thirds full.
    let bad = place_of(&node, 0);
    medium.set_faults(Faults { unreadable: Some(bad.start..bad.start + 1), ..Faults::default() });
    let first = bad.start / u64::from(WBLOCK_SIZE);
    for other in 1..key {
        let is_first = place_of(&node, other).start / u64::from(WBLOCK_SIZE) == first;
        if is_first || other % 3 == 0 {
            let mut guard = node.index.get_exclusive(&digest_of(other)).expect("it is there");
            node.storage.release(&mut guard);
            guard.remove();
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(|| node.storage.run_defrag(0, &node.index));
        scope.spawn(|| node.storage.run_flush(0));
        let started = std::time::Instant::now();
        let mut written = 0;
        while written < 16 {
            match node.write(1_000 + written, 5_000, VALUE_SIZE) {
                Ok(()) => written += 1,
                Err(StorageError::OutOfSpace | StorageError::Congested) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
            assert!(started.elapsed().as_secs() < 60, "no room after {written} records");
        }
        node.storage.stop();
    });
    assert_eq!(read(&node, 0), Err(StorageError::Failed));
    node.storage.check();
}

/// A disk that could not be read for a while is defragmented when it works again.
#[test]
fn kept_blocks_are_tried_again_when_the_disk_recovers() {
    let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
    let node = sparse_node(&medium);
    medium.set_faults(Faults {
        unreadable: Some(0..u64::MAX),
        write_fails_at: Some((0, 0)),
        ..Faults::default()
    });
    assert!(defrag(&node) > 3);
    assert_eq!(node.write(7, 3_000, 100), Err(StorageError::Failed));
    assert_eq!(defrag(&node), 0);
    medium.repair();
    std::thread::scope(|scope| {
        scope.spawn(|| node.storage.run_flush(0));
        let started = std::time::Instant::now();
        while node.storage.device_stats().all(|stats| stats.defrag_queue == 0) {
            assert!(started.elapsed().as_secs() < 60, "no block is tried again");
            std::thread::yield_now();
        }
        node.storage.stop();
    });
    assert!(defrag(&node) > 3);
    let emptied = (0..60).filter(|key| key % 5 == 0).all(|key| read(&node, key) == Ok(()));
    assert!(emptied);
    node.storage.check();
}

/// A replaced record on another disk stays there until its replacement is durable. That is no damage.
#[test]
fn places_that_wait_to_be_freed_are_not_taken_for_damage() {
    let config = config(Engine::Device, false);
    let first = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
    let (node, _) = start(vec![(Arc::clone(&first), None)], &config);
    let mut model = Model::default();
    let mut random = Random(21);
    for _ in 0..40 {
        model.write(&node, &mut random).expect("room");
    }
    node.storage.close();
    let second = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
    let media = || vec![(Arc::clone(&first), None), (Arc::clone(&second), None)];
    let (node, _) = start(media(), &config);
    node.clock.store(10_000, Relaxed);
    // Every record moves to the disk of its digest; nothing of it is on the second disk yet.
    config.params.defrag_lwm_pct.set(100);
    node.storage.settings_changed();
    defrag(&node);
    let kept = || node.storage.devices.iter().map(|device| device.wblocks.kept_count()).sum::<usize>();
    assert!(node.storage.devices.iter().all(|device| device.wblocks.live_bytes() > 0));
    assert_eq!(kept(), 0, "all of it is readable");
    assert_eq!(defrag(&node), 0, "and not looked at again");
    let used = node.storage.used_bytes();
    std::thread::scope(|scope| {
        scope.spawn(|| node.storage.run_flush(1));
        let started = std::time::Instant::now();
        while node.storage.used_bytes() == used {
            assert!(started.elapsed().as_secs() < 60, "what was replaced is never freed");
            std::thread::yield_now();
        }
        node.storage.stop();
    });
    model.check(&node, false);
    let read_errors = |stats: super::DeviceStats| stats.disk.map_or(0, |disk| disk.read_errors);
    assert_eq!(node.storage.device_stats().map(read_errors).sum::<u64>(), 0);
    assert_eq!(kept(), 0);
}

/// A start reports every record that it cannot load, wherever it is, and finds the records after it.
#[test]
fn a_record_without_its_magic_is_reported_and_the_others_are_loaded() {
    for engine in [Engine::Device, Engine::Memory] {
        for (damaged, size) in [(0, 4), (2, 4), (5, 4), (0, 64), (2, 64), (5, 64)] {
            let config = config(engine, true);
            let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
            let (node, _) = start(vec![(Arc::clone(&medium), None)], &config);
            for key in 0..6 {
                node.write(key, 1 + u64::from(key), 1_000).expect("room");
            }
            let place = place_of(&node, damaged);
            node.storage.close();
            medium.damage(place.start..place.start + size);
            let medium = Arc::new(CrashMedium::from_image(medium.crash(|_| true), true));
            let (node, stats) = start(vec![(medium, None)], &config);
            assert_eq!(stats.damaged.into_inner(), 1, "{size} bytes of record {damaged}");
            for key in 0..6 {
                let expected = (key != damaged).then_some(1 + u64::from(key));
                assert_eq!(node.version(key), expected, "{size} bytes of record {damaged}");
            }
        }
    }
}

/// Bytes where no server has ever written are not reported as damage.
#[test]
fn unused_blocks_are_not_damage() {
    let config = config(Engine::Device, true);
    let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
    medium.damage(3 * u64::from(WBLOCK_SIZE)..4 * u64::from(WBLOCK_SIZE));
    let (node, _) = start(vec![(Arc::clone(&medium), None)], &config);
    node.write(1, 1, 1_000).expect("room");
    drop(node);
    let medium = Arc::new(CrashMedium::from_image(medium.crash(|_| true), true));
    let (node, stats) = start(vec![(medium, None)], &config);
    assert_eq!((node.version(1), stats.damaged.into_inner()), (Some(1), 0));
}

#[test]
fn fetched_bytes_are_valid_as_long_as_the_record_stays_in_place() {
    let node = sparse_node(&Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true)));
    let mut scratch = ReadBuffer::new();
    let is_on_disk_only = |key: u32, scratch: &mut ReadBuffer| {
        let guard = node.index.get(&digest_of(key)).expect("it is there");
        !node.storage.is_readable(&guard, scratch)
    };
    let key = (0..60).find(|key| is_on_disk_only(*key, &mut scratch)).expect("the start has read them all");
    let is_at_hand = |scratch: &mut ReadBuffer| {
        let guard = node.index.get(&digest_of(key)).expect("it is there");
        node.storage.bytes_read(&guard, scratch).is_some_and(|bytes| bytes.is_ok())
    };
    assert!(!is_at_hand(&mut scratch) && is_on_disk_only(key, &mut scratch));
    assert!(node.storage.fetch(&mut scratch) && is_at_hand(&mut scratch));
    assert!(!node.storage.fetch(&mut scratch), "nothing is missing any more");
    // A caller that forgets the record reads it from the disk again.
    scratch.forget();
    assert!(is_on_disk_only(key, &mut scratch) && node.storage.fetch(&mut scratch));
    // The record changes after it was fetched: the bytes read are no longer the record.
    node.write(key, 7_777, VALUE_SIZE).expect("room");
    assert!(!is_at_hand(&mut scratch));
    assert!(!is_on_disk_only(key, &mut scratch), "the new version is in a buffer");
    assert_eq!(node.version(key), Some(7_777));
}

#[test]
fn bytes_fetched_from_an_earlier_use_of_the_block_are_not_valid() {
    let node = sparse_node(&Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true)));
    let (mut scratch, device) = (ReadBuffer::new(), &node.storage.devices[0]);
    let (key, location) = (0..60)
        .find_map(|key| {
            let guard = node.index.get(&digest_of(key)).expect("it is there");
            (!node.storage.is_readable(&guard, &mut scratch)).then_some((key, guard.location))
        })
        .expect("the start has read them all");
    assert!(node.storage.fetch(&mut scratch));
    // This simulates that all records have left the block, and that it was taken again.
    device.wblocks.block(WblockId::of(location)).take();
    let guard = node.index.get(&digest_of(key)).expect("it is there");
    assert!(node.storage.bytes_read(&guard, &mut scratch).is_none());
    assert!(!node.storage.is_readable(&guard, &mut scratch), "it has to be fetched again");
}
