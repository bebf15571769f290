//! Durability: which writes of a disk survive a power failure. `sync` explains the consequences.

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use cf::sys::block::{BlockError, Operation};
use parking_lot::Mutex;

/// Durability of a disk's writes.
#[derive(Default)]
pub(super) struct Durability {
    /// Held while a sync runs. It is taken after `flush`, and no other lock is taken inside it.
    pub(super) running: Mutex<()>,
    /// Blocks up to this number have been written, with the content that they had when the next block was
    /// taken.
    pub(super) written: AtomicU64,
    /// Blocks up to this number have been made durable, with the content of `written`.
    pub(super) synced: AtomicU64,
    /// Number of writes that have returned.
    pub(super) writes: AtomicU64,
    /// Number of these writes that are durable.
    pub(super) synced_writes: AtomicU64,
    /// The first sync that failed.
    pub(super) failure: OnceLock<SyncFailure>,
    /// Number of syncs.
    pub(super) syncs: AtomicU64,
}

/// The error of a failed sync.
pub(super) struct SyncFailure {
    path: PathBuf,
    reason: String,
}

impl SyncFailure {
    pub(super) fn of(error: &BlockError) -> Self {
        SyncFailure { path: error.path.clone(), reason: error.source.to_string() }
    }

    /// A copy of the error.
    pub(super) fn error(&self) -> BlockError {
        BlockError {
            path: self.path.clone(),
            operation: Operation::Sync,
            place: None,
            source: io::Error::other(self.reason.clone()),
        }
    }
}
