//! Checks whether the system has memory left while a start fills indexes, when no other thread watches it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::namespace::is_system_memory_short;

/// How often the system is asked.
const PERIOD_MS: u64 = 50;

/// Asks the system at most once in a period, however many threads call it.
pub(super) struct MemoryWatch {
    limit_pct: u32,
    started: Instant,
    /// When the system is asked next, in milliseconds since the start.
    next_ms: AtomicU64,
}

impl MemoryWatch {
    /// A watch with the limit `stop-writes-sys-memory-pct`, a percentage of the system's memory.
    pub(super) fn new(limit_pct: u32) -> Self {
        MemoryWatch { limit_pct, started: Instant::now(), next_ms: AtomicU64::new(0) }
    }

    /// Whether the system uses more memory than the limit; false if the system is not asked now.
    pub(super) fn is_short(&self) -> bool {
        let (now_ms, due_ms) = (self.started.elapsed().as_millis() as u64, self.next_ms.load(Relaxed));
        let is_due = now_ms >= due_ms
            && self.next_ms.compare_exchange(due_ms, now_ms + PERIOD_MS, Relaxed, Relaxed).is_ok();
        is_due && is_system_memory_short(self.limit_pct)
    }
}
