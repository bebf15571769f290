//! How far what was written to a disk survives a power failure. `sync` says what follows from it.

use std::sync::atomic::{AtomicBool, AtomicU64};

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
    /// The last sync failed.
    pub(super) has_failed: AtomicBool,
    /// Syncs done.
    pub(super) syncs: AtomicU64,
}
