//! How far what was written to a disk survives a power failure. `sync` says what follows from it.

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use cf::sys::block::{BlockError, Operation};
use parking_lot::Mutex;

/// How far the writes of a disk are durable.
#[derive(Default)]
pub(super) struct Durability {
    /// Held while a sync runs. Its lock comes after `flush`, and no other is taken inside it.
    pub(super) running: Mutex<()>,
    /// All that was in blocks up to this number when the block behind it was taken was written.
    pub(super) written: AtomicU64,
    /// The same, and is durable.
    pub(super) synced: AtomicU64,
    /// Writes that have returned.
    pub(super) writes: AtomicU64,
    /// So many of them are durable.
    pub(super) synced_writes: AtomicU64,
    /// The first sync that failed.
    pub(super) failure: OnceLock<SyncFailure>,
    /// Syncs done.
    pub(super) syncs: AtomicU64,
}

/// Why a sync failed.
pub(super) struct SyncFailure {
    path: PathBuf,
    reason: String,
}

impl SyncFailure {
    pub(super) fn of(error: &BlockError) -> Self {
        SyncFailure { path: error.path.clone(), reason: error.source.to_string() }
    }

    /// The error again.
    pub(super) fn error(&self) -> BlockError {
        BlockError {
            path: self.path.clone(),
            operation: Operation::Sync,
            place: None,
            source: io::Error::other(self.reason.clone()),
        }
    }
}
