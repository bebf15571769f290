//! The thresholds of truncation: records below them count as removed. `truncate` changes them and removes the records.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire};
use std::thread::Thread;

use parking_lot::Mutex;

/// The thresholds in the system metadata at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RemovalThresholds {
    /// Records last updated before this are truncated; 0 = none.
    pub(crate) truncate_lut: u64,
    /// By name of set, as `truncate_lut`.
    pub(crate) set_truncate_luts: HashMap<String, u64>,
    /// Records whose void-time is before this are evicted; 0 = none.
    pub(crate) evict_void_time: u32,
}

/// The threshold of a set or namespace.
#[derive(Debug, Default)]
pub(crate) struct Threshold {
    pub(super) last_update_time: AtomicU64,
    /// Whether records below it are still to be removed.
    pub(super) is_removing: AtomicBool,
}

impl Threshold {
    /// Records last updated before this, in milliseconds since 2010-01-01, are truncated; 0 = none.
    pub(crate) fn last_update_time(&self) -> u64 {
        self.last_update_time.load(Acquire)
    }

    /// Whether records below it are still to be removed.
    pub(crate) fn is_removing(&self) -> bool {
        self.is_removing.load(Acquire)
    }

    /// The threshold, if records below it are still to be removed.
    pub(super) fn open(&self) -> Option<u64> {
        self.is_removing().then(|| self.last_update_time())
    }
}

/// The threshold of a namespace, and what its sets share; each set has its own threshold.
#[derive(Debug, Default)]
pub(crate) struct Truncation {
    /// The latest of all thresholds, or later.
    pub(super) latest: AtomicU64,
    /// The threshold of the whole namespace.
    pub(crate) of_namespace: Threshold,
    /// Held while thresholds change.
    pub(super) changes: Mutex<()>,
    /// The thread that removes records.
    pub(super) remover: Mutex<Option<Thread>>,
}
