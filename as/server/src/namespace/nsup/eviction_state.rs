//! The ordered eviction and the last one done: the part of eviction that the rest of the server sees.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::Relaxed};

/// The ordered eviction and the last one done.
pub(crate) struct EvictionState {
    /// A limit asked for eviction at the last check.
    pub(crate) is_limit_breached: AtomicBool,
    /// Records with an earlier void-time are to be evicted; 0 = none.
    ordered: AtomicU32,
    /// Records with an earlier void-time were evicted; 0 = none.
    done: AtomicU32,
    /// Seconds between the last run and the void-time up to which it evicted.
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

    /// Orders nsup to evict the records with a void-time before `void_time`, unless it has done so.
    pub(crate) fn order(&self, void_time: u32) {
        self.ordered.store(void_time, Relaxed);
    }

    /// Takes over an eviction from before the server started: records that expire before `void_time` are gone.
    pub(crate) fn resume(&self, void_time: u32) {
        self.order(void_time);
        self.finish(void_time);
    }

    /// Forgets what was ordered and done.
    pub(crate) fn reset(&self) {
        self.ordered.store(0, Relaxed);
        self.done.store(0, Relaxed);
    }

    /// The void-time of the last ordered eviction.
    pub(crate) fn ordered_void_time(&self) -> u32 {
        self.ordered.load(Relaxed)
    }

    /// The void-time of the last eviction done.
    pub(crate) fn void_time(&self) -> u32 {
        self.done.load(Relaxed)
    }

    /// Seconds between the last run and the void-time up to which it evicted.
    pub(crate) fn ttl(&self) -> i32 {
        self.ttl.load(Relaxed)
    }

    /// The void-time of an ordered eviction that is not done yet.
    pub(super) fn open_order(&self) -> Option<u32> {
        let ordered = self.ordered_void_time();
        (ordered > self.void_time()).then_some(ordered)
    }

    pub(super) fn begin(&self, void_time: u32, now_seconds: u32) {
        // Negative if that time has passed.
        self.ttl.store(void_time.wrapping_sub(now_seconds).cast_signed(), Relaxed);
    }

    pub(super) fn finish(&self, void_time: u32) {
        self.done.store(void_time, Relaxed);
    }
}
