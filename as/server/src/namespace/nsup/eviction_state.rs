//! Which eviction was asked for and which was done: what the rest of the server sees of eviction.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::Relaxed};

/// The eviction that was done, and the one that is wanted.
pub(crate) struct EvictionState {
    /// A limit asked for eviction when it was looked at last.
    pub(crate) is_limit_breached: AtomicBool,
    /// Records whose void-time is before this are to be evicted; 0 = none.
    ordered: AtomicU32,
    /// Records whose void-time is before this were evicted; 0 = none.
    done: AtomicU32,
    /// How far ahead of its time the last run evicted, in seconds.
    ttl: AtomicI32,
}

impl EvictionState {
    pub(in crate::namespace) fn new() -> Self {
        EvictionState {
            is_limit_breached: AtomicBool::new(false),
            ordered: AtomicU32::new(0),
            done: AtomicU32::new(0),
            ttl: AtomicI32::new(0),
        }
    }

    /// Asks nsup to evict the records whose void-time is before `void_time`, if it has not done so.
    pub(crate) fn order(&self, void_time: u32) {
        self.ordered.store(void_time, Relaxed);
    }

    /// Takes over what was evicted before the server started: what expires before `void_time` is gone.
    pub(crate) fn resume(&self, void_time: u32) {
        self.order(void_time);
        self.finish(void_time);
    }

    /// Forgets what was asked for and done.
    pub(crate) fn reset(&self) {
        self.ordered.store(0, Relaxed);
        self.done.store(0, Relaxed);
    }

    /// The eviction that was asked for last.
    pub(crate) fn ordered_void_time(&self) -> u32 {
        self.ordered.load(Relaxed)
    }

    /// The eviction that was done last.
    pub(crate) fn void_time(&self) -> u32 {
        self.done.load(Relaxed)
    }

    /// How far ahead of its time the last run evicted, in seconds.
    pub(crate) fn ttl(&self) -> i32 {
        self.ttl.load(Relaxed)
    }

    /// The eviction that was asked for and is not done yet.
    pub(super) fn open_order(&self) -> Option<u32> {
        let ordered = self.ordered_void_time();
        (ordered > self.void_time()).then_some(ordered)
    }

    pub(super) fn begin(&self, void_time: u32, now_seconds: u32) {
        // Negative when the moment has passed.
        self.ttl.store(void_time.wrapping_sub(now_seconds).cast_signed(), Relaxed);
    }

    pub(super) fn finish(&self, void_time: u32) {
        self.done.store(void_time, Relaxed);
    }
}
