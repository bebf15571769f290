//! Syncs of media whose writes are not durable by themselves: what they cover.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::crash_medium::CrashMedium;
use super::crash_tests::{DISK_SIZE, KEYS, Model, config, loaded_node, start};
use super::tests::digest_of;
use crate::config::Engine;

/// How long a thread that should wait is watched.
const WATCH_TIME: Duration = Duration::from_millis(200);

/// A power failure may come while a sync runs. Until it has ended, what it covers replaces nothing on another disk.
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
    // What is written before the sync begins takes this one, what is written while it runs another one.
    for (late_key, sync_count) in [(None, 1), (Some(keys[1]), 2)] {
        write(keys[0]);
        let (before, syncs) = (old.wblocks.live_bytes(), disk.sync_count());
        media[1].hold_next_sync();
        // Asserted afterwards: a panic here would wait for the sync for ever.
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
