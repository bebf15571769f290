//! The configuration values of storage, in the units that it uses. Nothing is copied: each call reads the
//! cell that `set-config` changes.

use std::sync::Arc;
use std::time::Duration;

use datamodel::packing::{Method, PackSettings};

use super::WBLOCK_SIZE;
use crate::config::params::storage::{Compression, StorageParams};

/// `compression-level` if it is not set.
const ZSTD_LEVEL_DEFAULT: u32 = 9;

/// The parameters of one namespace's storage.
#[derive(Clone)]
pub(super) struct Settings(Arc<StorageParams>, IsEncrypted);

/// Whether there is a key file. This does not change, and is read with each write.
#[derive(Clone, Copy)]
struct IsEncrypted(bool);

impl Settings {
    pub(super) fn new(params: &Arc<StorageParams>) -> Self {
        Settings(Arc::clone(params), IsEncrypted(params.encryption_key_file.is_set()))
    }

    /// `defrag-lwm-pct`, as bytes of a block.
    #[inline]
    pub(super) fn low_water_bytes(&self) -> u32 {
        low_water_bytes(self.0.defrag_lwm_pct.get())
    }

    /// `defrag-queue-min`, as a number of blocks.
    pub(super) fn defrag_queue_min(&self) -> usize {
        self.0.defrag_queue_min.get() as usize
    }

    /// `defrag-sleep`.
    pub(super) fn defrag_sleep(&self) -> Duration {
        Duration::from_micros(self.0.defrag_sleep.get().into())
    }

    /// `stop-writes-avail-pct`.
    pub(super) fn stop_writes_avail_pct(&self) -> u32 {
        self.0.stop_writes_avail_pct.get()
    }

    /// `flush-size` in bytes: the largest size of a write.
    pub(super) fn flush_size(&self) -> usize {
        self.0.flush_size.get() as usize
    }

    /// `flush-max-ms`: longest time that a record waits in memory; with `None` it waits until its block is
    /// full.
    pub(super) fn flush_max(&self) -> Option<Duration> {
        let max_ms = self.0.flush_max_ms.get();
        (max_ms != 0).then(|| Duration::from_millis(max_ms))
    }

    /// `post-write-cache`, as a number of blocks of one disk.
    pub(super) fn cache_blocks(&self) -> usize {
        blocks(self.0.post_write_cache.get())
    }

    /// `max-write-cache`, as a number of blocks of one disk.
    #[inline]
    pub(super) fn queue_blocks(&self) -> usize {
        blocks(self.0.max_write_cache.get())
    }

    /// `read-page-cache`.
    pub(super) fn read_page_cache(&self) -> bool {
        self.0.read_page_cache.get()
    }

    /// `commit-to-device`, which does not change while the server runs.
    #[inline]
    pub(super) fn commits(&self) -> bool {
        self.0.commit_to_device.get()
    }

    /// `compression` and its parameters; `None` if records are stored unchanged. On an encrypted device they
    /// have a checksum.
    #[inline]
    pub(super) fn packing(&self) -> Option<PackSettings> {
        let compression = self.0.compression.get();
        let IsEncrypted(has_checksum) = self.1;
        if compression == Compression::None && !has_checksum {
            return None;
        }
        let method = match compression {
            Compression::None => Method::None,
            Compression::Lz4 => Method::Lz4,
            Compression::Snappy => Method::Snappy,
            Compression::Zstd => Method::Zstd,
        };
        let level = match self.0.compression_level.get() {
            0 => ZSTD_LEVEL_DEFAULT,
            level => level,
        };
        Some(PackSettings {
            method,
            acceleration: self.0.compression_acceleration.get().max(1),
            level,
            has_checksum,
        })
    }

    /// `enable-benchmarks-storage`.
    #[inline]
    pub(super) fn measures(&self) -> bool {
        self.0.enable_benchmarks_storage.get()
    }
}

fn blocks(bytes: u64) -> usize {
    usize::try_from(bytes / u64::from(WBLOCK_SIZE)).unwrap_or(usize::MAX)
}

/// A share of a block in bytes.
pub(super) fn low_water_bytes(pct: u32) -> u32 {
    (u64::from(WBLOCK_SIZE) * u64::from(pct.min(100)) / 100) as u32
}
