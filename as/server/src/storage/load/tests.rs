//! Tests that the order in which several threads load blocks makes no difference.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use cf::aligned::AlignedBuf;
use datamodel::device_header::PartitionEntry;
use datamodel::flat::NewRecord;
use datamodel::partition_version::PartitionVersion;
use datamodel::{Bins, Particle};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::super::WBLOCK_SIZE;
use super::super::benchmarks::{DiskBenchmarks, StorageBenchmarks};
use super::super::crash_harness::config;
use super::super::crash_medium::CrashMedium;
use super::super::disk::Disk;
use super::super::media::Media;
use super::super::settings::Settings;
use super::super::tests::digest_of;
use super::super::wblock::{Reuse, WblockTable};
use super::*;
use crate::config::Engine;
use crate::index::{IndexGeometry, WriteGuard};

const BLOCKS: u32 = 6;
const KEYS: u32 = 8;

/// Adds up the figures of a load.
#[derive(Default)]
struct Context {
    index: Option<Index>,
    stats: LoadStats,
    /// Number of records, number of tombstones, and number of blocks of 16 bytes.
    sums: Mutex<[i64; 3]>,
}

struct Tally<'a>(&'a Mutex<[i64; 3]>, [i64; 3]);

impl LoadCommit for Tally<'_> {
    fn commit(&mut self, mut guard: WriteGuard<'_>, after: &RecordMeta, _: Option<&FlatRecord<'_>>) {
        let before = std::mem::replace(guard.meta_mut(), *after);
        for (meta, sign) in [(&before, -1), (after, 1)] {
            if meta.exists() {
                self.1[usize::from(meta.is_tombstone())] += sign;
                self.1[2] += sign * i64::from(meta.location.rblock_count());
            }
        }
    }

    fn finish(self: Box<Self>) {
        self.0.lock().iter_mut().zip(self.1).for_each(|(total, own)| *total += own);
    }
}

impl LoadContext for Context {
    fn set_id(&self, name: &[u8]) -> Option<SetId> {
        Some(SetId(u16::from(name[0])))
    }

    fn index(&self) -> &Index {
        self.index.as_ref().expect("an index")
    }

    fn now_seconds(&self) -> u32 {
        1_000
    }

    fn stats(&self) -> &LoadStats {
        &self.stats
    }

    fn committer(&self) -> Box<dyn LoadCommit + '_> {
        Box::new(Tally(&self.sums, [0; 3]))
    }
}

/// A stored copy of a record: block, key, last-update-time, generation, void-time, number of bins, and
/// whether it is marked as leaving a tombstone.
type Copy = (u32, u32, u64, u16, u32, usize, bool);

fn copies() -> impl Strategy<Value = Vec<Copy>> {
    // The values are few, so that there are many equal copies.
    let copy = (1..BLOCKS, 0..KEYS, 1u64..4, 1u16..4, 0u32..3, 0usize..3, any::<bool>());
    prop::collection::vec(copy, 1..60)
}

fn block_of(copies: &[Copy], id: u32) -> AlignedBuf {
    let mut bytes = Vec::new();
    for (_, key, last_update_time, generation, void_time, bin_count, leaves_tombstone) in
        copies.iter().filter(|copy| copy.0 == id)
    {
        let mut bins = Bins::new();
        for bin in &[b"one", b"two"][..*bin_count] {
            bins.set(*bin, Particle::Integer(i64::from(*key)));
        }
        let record = NewRecord {
            digest: digest_of(*key),
            last_update_time: *last_update_time,
            generation: *generation,
            void_time: *void_time,
            tree_id: 0,
            set_name: if *generation == 1 { b"a" } else { b"b" },
            key: None,
            leaves_tombstone: *leaves_tombstone,
        };
        let mut flat = Vec::new();
        record.encode(&bins, record.size(&bins), &mut flat);
        bytes.extend(flat);
    }
    let mut block = AlignedBuf::zeroed(WBLOCK_SIZE as usize);
    block[..bytes.len()].copy_from_slice(&bytes);
    block
}

fn device() -> Device {
    let main = Arc::new(CrashMedium::zeroed(BLOCKS as usize * WBLOCK_SIZE as usize, true));
    let settings = Settings::new(&config(Engine::Device, false).params);
    let benchmarks = DiskBenchmarks::new(Arc::new(StorageBenchmarks::new(settings.clone())));
    let media = Media { main, shadow: None, cached: None, is_volatile: false };
    let disk = Disk::new(media, BLOCKS, None, 1, settings, benchmarks);
    Device::disk(0, WblockTable::new(0, BLOCKS, 0, Reuse::Oldest), disk)
}

/// The result of a load: the metadata of all records, live bytes of all blocks, sums, number of records.
type Loaded = (Vec<Option<RecordMeta>>, Vec<u32>, [i64; 3], u64);

/// Loads the blocks of `order`, with one thread for each list.
fn load(devices: &[Device; 1], copies: &[Copy], order: &[Vec<u32>]) -> Loaded {
    let [device] = devices;
    let index = Index::new(IndexGeometry { sprigs_per_partition: 256, stage_size: 128 << 20 });
    let context = Context { index: Some(index), ..Context::default() };
    let version = PartitionVersion::new(5, 0);
    let partitions = vec![PartitionEntry { version, tree_id: 0 }; crate::index::PARTITION_COUNT];
    let disk_load = DiskLoad {
        device,
        devices,
        source: &*device.as_disk().expect("a disk").media.main,
        copy_to: None,
        partitions: &partitions,
        known_pristine: BLOCKS,
        was_clean: true,
        written_in_order: true,
        suspects: Mutex::default(),
        progress: &AtomicU32::new(0),
        parser_count: order.len(),
        context: &context,
    };
    std::thread::scope(|scope| {
        for ids in order {
            let disk_load = &disk_load;
            scope.spawn(move || {
                let mut parser = Parser::new(disk_load);
                for id in ids {
                    let bytes = block_of(copies, *id);
                    let is_used = disk_load.is_used(WblockId(*id), &bytes);
                    parser.load_block(&Block { id: WblockId(*id), bytes, unreadable: None, is_used });
                }
                parser.finish();
            });
        }
    });
    let index = context.index();
    let metas = (0..KEYS).map(|key| index.get(&digest_of(key)).map(|guard| **guard)).collect();
    let live = (0..BLOCKS).map(|id| device.wblocks.live_bytes_of(WblockId(id))).collect();
    let sums = *context.sums.lock();
    (metas, live, sums, context.stats.unique.load(Relaxed))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn blocks_in_any_order_make_the_same_index(
        copies in copies(), order in Just((1..BLOCKS).collect::<Vec<u32>>()).prop_shuffle(), cut in 0..BLOCKS as usize,
    ) {
        let expected = load(&[device()], &copies, &[(1..BLOCKS).collect()]);
        prop_assert_eq!(&load(&[device()], &copies, std::slice::from_ref(&order)), &expected);
        let (one, other) = order.split_at(cut.min(order.len()));
        prop_assert_eq!(&load(&[device()], &copies, &[one.to_vec(), other.to_vec()]), &expected);
        let (metas, live, [records, tombstones, rblocks], unique) = expected;
        let known: Vec<RecordMeta> = metas.iter().copied().flatten().collect();
        prop_assert_eq!((records + tombstones, unique as usize), (known.len() as i64, known.len()));
        prop_assert_eq!(tombstones as usize, known.iter().filter(|meta| meta.is_tombstone()).count());
        prop_assert_eq!(rblocks * i64::from(RBLOCK_SIZE), live.iter().map(|live| i64::from(*live)).sum::<i64>());
        for (key, meta) in (0..KEYS).zip(metas) {
            // The newest copy wins, and it leaves a tombstone if any of the copies is one or is marked as leaving one.
            let of_key = copies.iter().filter(|copy| copy.1 == key);
            let age = |copy: &Copy| CopyAge { last_update_time: copy.2, generation: copy.3, void_time: copy.4 };
            let newest = of_key.clone().map(age).reduce(|a, b| if b.supersedes(a) { b } else { a });
            prop_assert_eq!(meta.as_ref().map(age_of), newest);
            let leaves = of_key.clone().any(|copy| copy.5 == 0 || copy.6);
            prop_assert_eq!(meta.is_some_and(|meta| meta.is_tombstone() || meta.leaves_tombstone()), leaves);
        }
    }
}

#[test]
fn the_newest_copy_wins_if_this_nodes_clock_is_behind() {
    let now_seconds = Context::default().now_seconds();
    let void_time_max = now_seconds + VOID_TIME_AHEAD_MAX;
    let void_time_of = |last_update_time, void_time| {
        let copies = [(1, 0, 1, 1, 0, 1, false), (2, 0, last_update_time, 2, void_time, 1, false)];
        let (metas, ..) = load(&[device()], &copies, &[vec![1, 2]]);
        metas[0].expect("a record").void_time
    };
    assert_eq!(void_time_of(2, void_time_max), void_time_max);
    assert_eq!(void_time_of(2, void_time_max + 1), 0, "nobody asks for such a time to live");
    let later = u64::from(now_seconds) * 1000 + 3_600_000;
    assert_eq!(void_time_of(later, void_time_max + 3600), void_time_max + 3600);
    assert_eq!(void_time_of(later, void_time_max + 3601), 0);
}
