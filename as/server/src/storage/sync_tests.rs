//! Tests of syncs of media whose writes are not durable by themselves: what they cover, and the consequences
//! of a failure.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use cf::sys::block::BlockMedium;

use super::crash_harness::{DISK_SIZE, KEYS, Model, config, loaded_node, start};
use super::crash_medium::{CrashMedium, Faults};
use super::tests::digest_of;
use crate::config::Engine;

/// How long a test watches a thread that should wait.
const WATCH_TIME: Duration = Duration::from_millis(200);

/// A power failure may come during a sync. Until the sync has ended, records on another disk are not replaced
/// by the synced ones.
#[test]
fn a_place_on_another_disk_is_freed_when_the_sync_has_ended() {
    let config = config(Engine::Device, false);
    let media = [(); 2].map(|()| Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, false)));
    drop(loaded_node(&media[0], &config, &mut Model::default()));
    let (node, _) = start(media.iter().map(|medium| (Arc::clone(medium), None)).collect(), &config);
    node.clock.store(1_000, Relaxed);
    let (old, new) = (&node.storage.devices[0], &node.storage.devices[1]);
    let disk = new.as_disk().expect("it is one");
    // Records on the first disk whose next versions go to the second.
    let moves = |key: &u32| {
        let digest = digest_of(*key);
        node.index.get(&digest).is_some() && node.storage.device_of(&digest).number() == new.number()
    };
    let keys: Vec<u32> = (0..KEYS).filter(moves).collect();
    assert!(keys.len() > 1, "{keys:?}");
    let write = |key: u32| {
        node.write(key, node.clock.fetch_add(1, Relaxed), 3_000).expect("room");
        disk.flush_all(&new.wblocks).expect("it can be written to");
    };
    // Writes before the sync need this sync; writes during it need another one.
    for (late_key, sync_count) in [(None, 1), (Some(keys[1]), 2)] {
        write(keys[0]);
        let (before, syncs) = (old.wblocks.live_bytes(), disk.sync_count());
        media[1].hold_next_sync();
        // The assertion follows later, because a panic here would wait for the sync for ever.
        let (meanwhile, is_flushed) = std::thread::scope(|scope| {
            scope.spawn(|| disk.sync_if_volatile().expect("it works"));
            media[1].await_held_sync();
            late_key.into_iter().for_each(write);
            let flush = scope.spawn(|| node.storage.flush_full_blocks());
            let started = Instant::now();
            while !flush.is_finished() && started.elapsed() < WATCH_TIME {
                std::thread::sleep(Duration::from_millis(1));
            }
            let meanwhile = old.wblocks.live_bytes();
            media[1].let_sync_go();
            (meanwhile, flush.join().expect("no panic"))
        });
        assert!(is_flushed);
        assert_eq!(meanwhile, before, "nothing is freed while the sync runs");
        assert!(old.wblocks.live_bytes() < before, "it is freed afterwards");
        assert_eq!(disk.sync_count(), syncs + sync_count);
    }
    node.storage.check();
}

/// The system forgets data that it could not write, and reports that once, whether the header or records are
/// synced.
#[test]
fn after_a_failed_sync_a_disk_takes_no_writes_until_a_restart() {
    for is_of_header in [false, true] {
        let config = config(Engine::Device, false);
        config.params.flush_max_ms.set(5);
        let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, false));
        let (node, _) = start(vec![(Arc::clone(&medium), None)], &config);
        let device = &node.storage.devices[0];
        let disk = device.as_disk().expect("it is one");
        node.write(1, 1, 3_000).expect("room");
        disk.flush_all(&device.wblocks).expect("it can be written to");
        medium.set_faults(Faults { next_sync_loses: true, ..Faults::default() });
        let failed = if is_of_header { node.storage.mark_in_use() } else { disk.sync_if_volatile() };
        let error = failed.expect_err("the medium says so");
        assert!(error.to_string().contains("injected fault"), "{error}");
        medium.sync().expect("now it says that all is well");
        let error = disk.sync_if_volatile().expect_err("that is not believed");
        assert!(error.to_string().contains("sync failed: injected fault"), "{error}");
        disk.fail(&error);
        // The assertion follows later, because a panic here would wait for the threads for ever.
        let accepted = std::thread::scope(|scope| {
            scope.spawn(|| node.storage.run_flush(0));
            scope.spawn(|| node.storage.run_sync(0));
            let (started, mut accepted) = (Instant::now(), 0);
            while started.elapsed() < WATCH_TIME {
                accepted += usize::from(node.write(1, 2, 100).is_ok());
                std::thread::sleep(Duration::from_millis(1));
            }
            node.storage.stop();
            accepted
        });
        assert_eq!((accepted, node.storage.failed_count()), (0, 1));
        assert_eq!(node.version(1), Some(1), "reads go on");
        assert!(!node.storage.close(), "that is no clean end");
        drop(node);
        let image = medium.crash(|_| true);
        let (node, stats) = start(vec![(Arc::new(CrashMedium::from_image(image, false)), None)], &config);
        assert_eq!((node.version(1), stats.damaged.into_inner()), (None, 0), "it was lost");
        node.write(1, 3, 100).expect("it takes writes again");
    }
}
