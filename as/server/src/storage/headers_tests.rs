//! Tests of the partition entries in headers: over restarts, clean or not, over torn or failed writes, and of
//! dropped partitions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use datamodel::device_header::{COPY_BYTES, DeviceHeader, Found, PartitionEntry, WRITTEN_SIZE};
use datamodel::partition_version::PartitionVersion;

use super::WBLOCK_SIZE;
use super::crash_harness::{DISK_SIZE, KEYS, Node, config, open, start};
use super::crash_medium::{CrashMedium, Faults, SECTOR_SIZE};
use super::tests::{Random, digest_of};
use crate::config::{Engine, StorageConfig};
use crate::index::{PARTITION_COUNT, PartitionId};
use crate::namespace::PartitionRow;

/// Twelve write blocks: enough for few records, and fast to copy.
const SMALL_DISK_SIZE: usize = 12 * WBLOCK_SIZE as usize;

fn version(text: &str) -> PartitionVersion {
    text.parse().expect("a version")
}

fn id(number: usize) -> PartitionId {
    PartitionId::new(number).expect("a partition")
}

fn alone(medium: &Arc<CrashMedium>) -> Vec<(Arc<CrashMedium>, Option<Arc<CrashMedium>>)> {
    vec![(Arc::clone(medium), None)]
}

/// Makes a node with records under [`KEYS`] keys, on the disk.
fn filled(medium: &Arc<CrashMedium>, config: &StorageConfig) -> Node {
    let (node, _) = start(alone(medium), config);
    for key in 0..KEYS {
        node.write(key, u64::from(key) + 1, 1_000).expect("room");
    }
    node
}

fn assert_filled(node: &Node, absent: Option<PartitionId>) {
    for key in 0..KEYS {
        let is_absent = Some(PartitionId::of(&digest_of(key))) == absent;
        assert_eq!(node.version(key), (!is_absent).then_some(u64::from(key) + 1), "record {key}");
    }
}

#[test]
fn a_start_leaves_versions_as_they_were() {
    for (engine, is_clean) in [(Engine::Device, true), (Engine::Device, false), (Engine::Memory, false)] {
        let config = config(engine, true);
        let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
        let (node, _) = open(alone(&medium), &config);
        assert!(node.storage.partition_entries().iter().all(|entry| *entry == PartitionEntry::default()));
        drop(node);
        let node = filled(&medium, &config);
        // Versions of any kind that a cluster may assign.
        let mut versions =
            vec![(id(7), version("0000000000ab.3.-se")), (id(4095), version("0000000000ab.U.mp-"))];
        let of_records = (0..KEYS).map(|key| PartitionId::of(&digest_of(key)));
        versions.extend(of_records.map(|id| (id, version("0000000000ab.1.-p-"))));
        node.partitions.set_versions(&node.storage, &versions).expect("the headers can be written");
        let entries = node.storage.partition_entries();
        if is_clean {
            node.storage.close();
        }
        drop(node);
        for _ in 0..3 {
            let (node, _) = open(alone(&medium), &config);
            assert_eq!(node.storage.partition_entries(), entries);
            assert_filled(&node, None);
            node.partitions.visit(|id, row| {
                let entry = entries[id.index()];
                assert_eq!((row.version, row.tree_id), (entry.version.isolated(), entry.tree_id));
            });
            if is_clean {
                node.storage.close();
            }
        }
        assert!(entries.iter().all(|entry| entry.tree_id == 1), "the first life of each");
    }
}

#[test]
fn each_group_is_written_once_and_nothing_else() {
    let config = config(Engine::Device, true);
    let [medium, shadow, second] = [(); 3].map(|()| Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true)));
    let media = vec![(Arc::clone(&medium), Some(Arc::clone(&shadow))), (Arc::clone(&second), None)];
    let (node, _) = start(media, &config);
    let all = [&medium, &shadow, &second];
    let images = || all.map(|medium| medium.crash(|_| false));
    let (writes, before) = (all.map(|medium| medium.writes()), images());
    let changed = version("0000000000ab.0.mp-");
    let same = node.storage.partition_entries()[3000].version;
    // Three changes in the first group, one in the third, and an unchanged entry.
    let versions = [(0, changed), (17, changed), (255, changed), (600, changed), (3000, same)];
    let versions = versions.map(|(number, version)| (id(number), version));
    node.partitions.set_versions(&node.storage, &versions).expect("the headers can be written");
    // The two groups, their copies, and the seal of the copies.
    assert_eq!(all.map(|medium| medium.writes()), writes.map(|writes| writes + 5));
    for (before, after) in before.iter().zip(images()) {
        for rest in [WRITTEN_SIZE..COPY_BYTES.start, COPY_BYTES.end..after.len()] {
            assert_eq!(before[rest.clone()], after[rest]);
        }
        let differs = |number: &usize| {
            let place = PartitionEntry::offset(*number)..PartitionEntry::offset(number + 1);
            before[place.clone()] != after[place]
        };
        assert_eq!((0..PARTITION_COUNT).filter(differs).collect::<Vec<_>>(), [0, 17, 255, 600]);
    }
    node.partitions.set_versions(&node.storage, &versions).expect("nothing to write");
    assert_eq!(all.map(|medium| medium.writes()), writes.map(|writes| writes + 5), "all as it was");
}

#[test]
fn changes_that_can_wait_are_written_together() {
    let config = config(Engine::Device, true);
    let medium = Arc::new(CrashMedium::zeroed(SMALL_DISK_SIZE, true));
    let (node, _) = start(alone(&medium), &config);
    let (began, before, changed) = (Instant::now(), medium.writes(), version("0000000000ab.0.-s-"));
    let change = |number: usize| {
        let mut row = None;
        node.partitions.visit(|found, of_found| {
            row = row.take().or((found == id(number)).then(|| of_found.clone()));
        });
        let row = PartitionRow { version: changed, ..row.expect("a partition") };
        node.partitions.take_over(&node.storage, vec![(id(number), row)], None).expect("no write");
    };
    let writes_at = |ms| {
        let now = began + Duration::from_millis(ms);
        node.partitions.store_versions_if_due(&node.storage, now).expect("the headers can be written");
        medium.writes() - before
    };
    // A write of a group takes three writes to the disk.
    change(3);
    assert_eq!((writes_at(0), writes_at(1)), (3, 3));
    change(4);
    assert_eq!(writes_at(25), 3);
    change(5);
    assert_eq!((writes_at(99), writes_at(100), writes_at(500)), (3, 6, 6));
    change(6);
    assert_eq!(writes_at(500), 9, "the last write was long ago");
    change(7);
    node.partitions.store_versions(&node.storage).expect("the headers can be written");
    assert_eq!(writes_at(501), 12, "a stop does not wait");
    let entries = node.storage.partition_entries();
    assert!((3..8).all(|number| entries[number].version == changed));
}

#[test]
fn a_torn_group_is_made_whole_by_its_copy() {
    let config = config(Engine::Device, true);
    let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, false));
    let node = filled(&medium, &config);
    node.storage.close();
    drop(node);
    let medium = Arc::new(CrashMedium::from_image(medium.crash(|_| true), false));
    let (node, _) = start(alone(&medium), &config);
    let before = node.storage.partition_entries();
    medium.set_faults(Faults { syncs_fail_after: Some(1), ..Faults::default() });
    let all: Vec<_> = PartitionId::all().map(|id| (id, version("0000000000ab.0.-s-"))).collect();
    let error = node.partitions.set_versions(&node.storage, &all).expect_err("it cannot be synced");
    assert!(error.to_string().contains("injected fault"), "{error}");
    let after = version("0000000000ab.0.-s-");
    let mut random = Random(5);
    let mut torn = 0;
    for _ in 0..20 {
        let image = medium.crash(|_| random.below(2) == 0);
        let (node, stats) = open(alone(&Arc::new(CrashMedium::from_image(image, true))), &config);
        assert_eq!(stats.dropped.into_inner(), 0);
        assert_filled(&node, None);
        let entries = node.storage.partition_entries();
        for (entry, before) in entries.iter().zip(&before) {
            assert_eq!(entry.tree_id, before.tree_id);
            assert!(entry.version == before.version || entry.version == after);
        }
        let group = |number: usize| &entries[number..number + 256];
        torn += (0..PARTITION_COUNT)
            .step_by(256)
            .filter(|number| {
                let is_new = |entry: &PartitionEntry| entry.version == after;
                group(*number).iter().any(is_new) && !group(*number).iter().all(is_new)
            })
            .count();
    }
    assert!(torn == 0 && SECTOR_SIZE == 512, "{torn} groups were torn");
}

#[test]
fn a_header_that_cannot_be_written_changes_nothing() {
    let config = config(Engine::Device, true);
    let media = [(); 2].map(|()| Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true)));
    let (node, _) = start(media.iter().map(|medium| (Arc::clone(medium), None)).collect(), &config);
    let row = || {
        let mut rows = Vec::new();
        node.partitions.visit(|id, row| rows.extend((id.index() == 300).then(|| row.clone())));
        rows
    };
    let (before, entries) = (row(), node.storage.partition_entries());
    // The first disk has the new entries, the second has half of them.
    media[1].set_faults(Faults { write_fails_at: Some((media[1].writes(), 4)), ..Faults::default() });
    let changed = [(id(300), version("0000000000ab.0.-s-"))];
    assert!(node.partitions.set_versions(&node.storage, &changed).is_err());
    assert_eq!((row(), node.storage.partition_entries()), (before, entries.clone()));
    media[1].repair();
    node.partitions.set_versions(&node.storage, &[(id(301), changed[0].1)]).expect("it works again");
    drop(node);
    let (node, _) = open(media.iter().map(|medium| (Arc::clone(medium), None)).collect(), &config);
    let found = node.storage.partition_entries();
    assert_eq!((found[300], found[301].version), (entries[300], changed[0].1));
    assert!(node.partitions.set_versions(&node.storage, &changed).is_ok());
}

/// The records of a dropped partition stay on the device until their blocks are reused. They must not come
/// back, either with the first start or with a later one.
#[test]
fn records_of_a_dropped_partition_never_return() {
    for engine in [Engine::Device, Engine::Memory] {
        let config = config(engine, true);
        let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
        let node = filled(&medium, &config);
        let dropped = PartitionId::of(&digest_of(1));
        assert!(node.partitions.isolate(dropped, Duration::ZERO));
        node.partitions
            .set_versions(&node.storage, &[(dropped, PartitionVersion::default())])
            .expect("the headers can be written");
        drop(node);
        for life in [1, 2] {
            let (node, stats) = open(alone(&medium), &config);
            assert_eq!(stats.dropped.into_inner(), 1);
            assert_filled(&node, Some(dropped));
            assert_eq!(node.partitions.tree_id(dropped), life);
            node.partitions.deal_alone(&node.storage, 0xABC).expect("the headers can be written");
            assert_eq!(node.partitions.tree_id(dropped), 2);
        }
        let (node, _) = start(alone(&medium), &config);
        node.write(1, 1_000, 1_000).expect("room");
        drop(node);
        let (node, _) = start(alone(&medium), &config);
        assert_eq!(node.version(1), Some(1_000), "written in the next life");
    }
}

/// Power fails while the copy is written, or between the copy and the entries. The entries then have their
/// old or their new values, each group as a whole, and nothing is lost.
#[test]
fn a_torn_copy_leaves_each_group_as_it_was_or_as_it_was_to_be() {
    let config = config(Engine::Device, true);
    let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, false));
    let node = filled(&medium, &config);
    node.storage.close();
    drop(node);
    let mut random = Random(9);
    let (mut old_groups, mut new_groups) = (0, 0);
    let image = medium.crash(|_| true);
    for syncs in [0, 1] {
        let medium = Arc::new(CrashMedium::from_image(image.clone(), false));
        let (node, _) = start(alone(&medium), &config);
        let before = node.storage.partition_entries();
        medium.set_faults(Faults { syncs_fail_after: Some(syncs), ..Faults::default() });
        let after = version("0000000000ab.0.-s-");
        let all: Vec<_> = PartitionId::all().map(|id| (id, after)).collect();
        assert!(node.partitions.set_versions(&node.storage, &all).is_err());
        for _ in 0..10 {
            let image = medium.crash(|_| random.below(2) == 0);
            let (node, stats) = open(alone(&Arc::new(CrashMedium::from_image(image, true))), &config);
            assert_eq!(stats.dropped.into_inner(), 0);
            assert_filled(&node, None);
            let entries = node.storage.partition_entries();
            for (group, before) in entries.chunks(256).zip(before.chunks(256)) {
                let is_new = group.iter().all(|entry| entry.version == after);
                assert!(
                    is_new || group.iter().zip(before).all(|(entry, before)| entry.version == before.version)
                );
                if is_new { new_groups += 1 } else { old_groups += 1 }
            }
        }
    }
    assert!(old_groups > 50 && new_groups > 50, "{old_groups} as they were, {new_groups} as they were to be");
}

/// A kill leaves the writes up to then. Between any two writes of a start, of a change of partitions and of a
/// stop, the header and its copy hold the old or the new value of every partition, nothing is damaged and
/// nothing is lost.
#[test]
fn a_kill_between_writes_of_the_header_and_its_copy_loses_nothing() {
    let config = config(Engine::Device, true);
    let medium = Arc::new(CrashMedium::zeroed(SMALL_DISK_SIZE, true));
    filled(&medium, &config).storage.close();
    let image = medium.crash(|_| true);
    let after = version("0000000000ab.0.-s-");
    let changed: Vec<_> = [3, 300, 4000].map(|number| (id(number), after)).into();
    let mut seen = [0, 0];
    for kept in 0.. {
        let medium = Arc::new(CrashMedium::from_image(image.clone(), true));
        medium.set_faults(Faults { freeze_at: Some(kept), ..Faults::default() });
        let (node, _) = open(alone(&medium), &config);
        let before = node.storage.partition_entries();
        node.partitions.set_versions(&node.storage, &changed).expect("it seems to be written");
        node.storage.close();
        drop(node);
        let found = Arc::new(CrashMedium::from_image(medium.crash(|_| true), true));
        let (node, stats) = open(alone(&found), &config);
        assert_eq!((stats.damaged.into_inner(), stats.dropped.into_inner()), (0, 0), "after {kept} writes");
        assert_filled(&node, None);
        let entries = node.storage.partition_entries();
        for (number, (entry, before)) in entries.iter().zip(&before).enumerate() {
            let is_changed = changed.iter().any(|(id, _)| id.index() == number);
            assert_eq!(entry.tree_id, before.tree_id);
            assert!(
                entry.version == before.version || is_changed && entry.version == after,
                "partition {number} after {kept} writes: {}",
                entry.version
            );
        }
        seen[usize::from(entries[3].version == after)] += 1;
        if kept >= medium.writes() {
            break;
        }
    }
    // The copy and the header at the start; three groups of the copy and their seal; three groups; two writes
    // at the stop.
    assert!(seen[0] >= 5 && seen[1] >= 5, "{seen:?}");
}

/// The C server takes a device of ours and writes its own header, which erases the key of the end marks and the copy of
/// the entries.
#[test]
fn end_marks_whose_key_another_server_erased_are_no_damage() {
    let config = config(Engine::Device, true);
    let medium = Arc::new(CrashMedium::zeroed(SMALL_DISK_SIZE, true));
    filled(&medium, &config).storage.close();
    let mut image = medium.crash(|_| true);
    let Ok(Found::Used(mut header)) = DeviceHeader::parse(&image) else { panic!("a header") };
    (header.runs, header.end_mark_key, header.size) = (Vec::new(), 0, 0);
    header.encode(&mut image);
    image[COPY_BYTES].fill(0);
    let medium = Arc::new(CrashMedium::from_image(image, true));
    // Later starts have a key, but not that of these marks.
    for _ in 0..3 {
        let (node, stats) = start(alone(&medium), &config);
        assert_eq!((stats.damaged.into_inner(), stats.dropped.into_inner()), (0, 0));
        assert_filled(&node, None);
        node.write(KEYS, 9, 1_000).expect("room");
        node.storage.close();
    }
}

/// A stop writes the pristine offset before it marks the header as trusted.
#[test]
fn a_header_is_trusted_only_after_all_its_writes() {
    let config = config(Engine::Device, true);
    let medium = Arc::new(CrashMedium::zeroed(DISK_SIZE as usize, true));
    let node = filled(&medium, &config);
    let header = |image: &[u8]| match DeviceHeader::parse(image) {
        Ok(Found::Used(header)) => *header,
        other => panic!("{other:?}"),
    };
    let trusted = datamodel::device_header::Flags::TRUSTED;
    assert!(!header(&medium.crash(|_| true)).flags.contains(trusted));
    // Only the first of the two writes reaches the disk.
    medium.set_faults(Faults { freeze_at: Some(medium.writes() + 1), ..Faults::default() });
    node.storage.close();
    let torn = header(&medium.crash(|_| true));
    assert_eq!((torn.flags.contains(trusted), torn.pristine_offset), (false, 2 * u64::from(WBLOCK_SIZE)));
    medium.repair();
    node.storage.close();
    let whole = header(&medium.crash(|_| true));
    assert_eq!((whole.flags.contains(trusted), whole.pristine_offset), (true, torn.pristine_offset));
    drop(node);
    let (node, _) = open(alone(&medium), &config);
    assert_filled(&node, None);
}
