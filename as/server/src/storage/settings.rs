//! What the configuration says about storage, as the engine uses it; follows `set-config` while the server runs.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::WBLOCK_SIZE;
use crate::config::params::storage::StorageParams;

/// What an engine is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// `data-size` of a memory namespace in bytes.
    pub(crate) data_size: u64,
    /// `defrag-lwm-pct`.
    pub(crate) defrag_low_water_pct: u32,
    /// `defrag-queue-min`.
    pub(crate) defrag_queue_min: u32,
    /// `defrag-sleep` in microseconds.
    pub(crate) defrag_sleep_us: u32,
}

/// How defrag goes about it.
pub(super) struct DefragSettings {
    pub(super) low_water_bytes: AtomicU32,
    /// `defrag-queue-min`.
    pub(super) queue_min: AtomicU32,
    /// `defrag-sleep` in microseconds.
    pub(super) sleep_us: AtomicU32,
}

impl DefragSettings {
    pub(super) fn new(low_water_pct: u32, queue_min: u32, sleep_us: u32) -> Self {
        DefragSettings {
            low_water_bytes: AtomicU32::new(low_water_bytes(low_water_pct)),
            queue_min: AtomicU32::new(queue_min),
            sleep_us: AtomicU32::new(sleep_us),
        }
    }

    pub(super) fn of(params: &StorageParams) -> Self {
        Self::new(params.defrag_lwm_pct.get(), params.defrag_queue_min.get(), params.defrag_sleep.get())
    }

    pub(super) fn low_water(&self) -> u32 {
        self.low_water_bytes.load(Relaxed)
    }
}

/// Times and sizes of writing to disks.
pub(super) struct DiskSettings {
    /// `flush-size` in bytes: writes have this size at most.
    pub(super) flush_size: AtomicUsize,
    /// `flush-max-ms`: longest a record waits in memory; 0 = until its block is full.
    pub(super) flush_max_ms: AtomicU64,
    /// `post-write-cache` in blocks of one disk.
    pub(super) cache_blocks: AtomicUsize,
    /// `max-write-cache` in blocks of one disk.
    pub(super) queue_blocks: AtomicUsize,
    /// `read-page-cache`.
    pub(super) read_page_cache: AtomicBool,
    /// `commit-to-device`.
    pub(super) commit: bool,
}

impl DiskSettings {
    pub(super) fn of(params: &StorageParams) -> Self {
        let settings = DiskSettings {
            flush_size: AtomicUsize::new(0),
            flush_max_ms: AtomicU64::new(0),
            cache_blocks: AtomicUsize::new(0),
            queue_blocks: AtomicUsize::new(0),
            read_page_cache: AtomicBool::new(false),
            commit: params.commit_to_device.get(),
        };
        settings.follow(params);
        settings
    }

    /// Takes over what may change while the server runs.
    pub(super) fn follow(&self, params: &StorageParams) {
        self.flush_size.store(params.flush_size.get() as usize, Relaxed);
        self.flush_max_ms.store(params.flush_max_ms.get(), Relaxed);
        self.cache_blocks.store(blocks(params.post_write_cache.get()), Relaxed);
        self.queue_blocks.store(blocks(params.max_write_cache.get()), Relaxed);
        self.read_page_cache.store(params.read_page_cache.get(), Relaxed);
    }
}

fn blocks(bytes: u64) -> usize {
    usize::try_from(bytes / u64::from(WBLOCK_SIZE)).unwrap_or(usize::MAX)
}

/// The low-water mark of defrag in bytes of a block.
pub(super) fn low_water_bytes(pct: u32) -> u32 {
    (u64::from(WBLOCK_SIZE) * u64::from(pct.min(100)) / 100) as u32
}
