//! How far what was written to a disk survives a power failure. `sync` says what follows from it.

use std::sync::atomic::{AtomicBool, AtomicU64};

/// How far the writes of a disk are durable.
#[derive(Default)]
pub(super) struct Durability {
    /// All that was in blocks up to this number when the block behind it was taken was written.
    pub(super) written: AtomicU64,
    /// The same, and is durable.
    pub(super) synced: AtomicU64,
    /// Something was written since the last sync began.
    pub(super) is_dirty: AtomicBool,
    /// The last sync failed.
    pub(super) has_failed: AtomicBool,
    /// Syncs done.
    pub(super) syncs: AtomicU64,
}
