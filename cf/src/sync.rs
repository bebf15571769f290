//! A reader-writer lock of four bytes, for structures that need a million of them.
//!
//! State word: bit 31 = a writer holds the lock, bit 30 = a thread sleeps on it, bit 29 = a writer has waited
//! long, the rest = number of readers. Uncontended lock and unlock are one atomic operation each. Waiters
//! spin briefly, then sleep in a futex; a release wakes all of them.
//!
//! Overlapping readers, as on a record in high demand, would keep a writer out for ever. Therefore no reader
//! enters while a writer sleeps, and a thread must never enter a lock that it holds. A writer's release lets
//! readers in again, so that overlapping writers do not keep readers out. Otherwise the order is arbitrary.
//!
//! A thread that must not sleep uses the *soon* methods: they only spin, and enter within a few microseconds
//! or not at all.
//!
//! `tests/loom` runs this file through all orders of its steps, so it uses no other part of the crate except
//! the futex.

#[cfg(not(loom))]
use std::hint::spin_loop;
#[cfg(not(loom))]
use std::sync::atomic::AtomicU32;

#[cfg(loom)]
use loom::hint::spin_loop;
#[cfg(loom)]
use loom::sync::atomic::AtomicU32;

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

#[cfg(not(loom))]
pub use std::thread::scope;

const WRITER: u32 = 1 << 31;
const SLEEPERS: u32 = 1 << 30;
const WRITER_WAITS: u32 = 1 << 29;
const READERS: u32 = WRITER_WAITS - 1;
/// The bits that keep readers out.
const CLOSED: u32 = WRITER | WRITER_WAITS;
/// Number of checks before a thread sleeps. In a loom model they would only add steps.
const SPINS_MAX: u32 = if cfg!(loom) { 0 } else { 100 };

/// A reader-writer lock without data. The caller keeps the guarded data beside it.
#[derive(Default)]
#[repr(transparent)]
pub struct RwWord(AtomicU32);

impl RwWord {
    /// An unlocked lock.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        RwWord(AtomicU32::new(0))
    }

    /// Waits until no writer holds the lock or has waited long, and enters as a reader.
    #[inline]
    pub fn lock_shared(&self) {
        if !self.try_lock_shared() {
            self.wait_for(SLEEPERS, enter_shared);
        }
    }

    /// Enters as a reader if that is possible at once; returns whether it did. It may fail when another reader enters at the
    /// same moment.
    #[inline]
    #[must_use]
    pub fn try_lock_shared(&self) -> bool {
        let state = self.0.load(Relaxed);
        state & CLOSED == 0 && self.0.compare_exchange_weak(state, state + 1, Acquire, Relaxed).is_ok()
    }

    /// Enters as a reader if that is possible within a few microseconds; returns whether it did. Never sleeps.
    #[must_use]
    pub fn lock_shared_soon(&self) -> bool {
        self.spin_for(enter_shared)
    }

    /// Enters as the writer if that is possible at once; returns whether it did. It may fail without a reason.
    #[inline]
    #[must_use]
    pub fn try_lock_exclusive(&self) -> bool {
        self.0.compare_exchange_weak(0, WRITER, Acquire, Relaxed).is_ok()
    }

    /// Waits until no thread holds the lock, and enters as the writer.
    #[inline]
    pub fn lock_exclusive(&self) {
        if !self.try_lock_exclusive() {
            self.wait_for(SLEEPERS | WRITER_WAITS, enter_exclusive);
        }
    }

    /// Enters as the writer if that is possible within a few microseconds; returns whether it did. Never sleeps.
    #[must_use]
    pub fn lock_exclusive_soon(&self) -> bool {
        self.spin_for(enter_exclusive)
    }

    /// Leaves as a reader. The caller entered by one of the methods that enter shared.
    #[inline]
    pub fn unlock_shared(&self) {
        let before = self.0.fetch_sub(1, Release);
        debug_assert!(before & READERS != 0);
        if before & SLEEPERS != 0 && before & READERS == 1 {
            self.wake();
        }
    }

    /// Leaves as the writer. The caller entered by one of the methods that enter exclusively.
    #[inline]
    pub fn unlock_exclusive(&self) {
        let before = self.0.fetch_and(!(WRITER | WRITER_WAITS), Release);
        debug_assert!(before & WRITER != 0);
        if before & SLEEPERS != 0 {
            self.wake();
        }
    }

    /// Waits until the writer that holds the lock now has left, if there is one. The caller sees what writers did until
    /// now, and later ones see what the caller did before.
    #[inline]
    pub fn wait_for_writer(&self) {
        // Unlike a load, an atomic change has a place in the order of all writers.
        if self.0.fetch_or(0, AcqRel) & WRITER != 0 {
            self.lock_shared();
            self.unlock_shared();
        }
    }

    /// Spins, then sleeps, until `enter` accepts the state and returns the next one. A thread sets the bits of `mark`
    /// before it sleeps.
    #[cold]
    fn wait_for(&self, mark: u32, enter: impl Fn(u32) -> Option<u32>) {
        let mut spins = 0;
        loop {
            let state = self.0.load(Relaxed);
            if let Some(entered) = enter(state) {
                if self.0.compare_exchange_weak(state, entered, Acquire, Relaxed).is_ok() {
                    return;
                }
            } else if spins < SPINS_MAX {
                spins += 1;
                spin_loop();
            } else if state & mark == mark
                || self.0.compare_exchange(state, state | mark, Relaxed, Relaxed).is_ok()
            {
                crate::sys::futex::wait(&self.0, state | mark);
            }
        }
    }

    /// Spins until `enter` accepts the state and returns the next one; returns whether it did in time.
    fn spin_for(&self, enter: impl Fn(u32) -> Option<u32>) -> bool {
        let mut spins = 0;
        loop {
            let state = self.0.load(Relaxed);
            match enter(state) {
                // If this fails, another thread has made progress.
                Some(entered) if self.0.compare_exchange_weak(state, entered, Acquire, Relaxed).is_ok() => {
                    return true;
                }
                Some(_) => {}
                None if spins < SPINS_MAX => {
                    spins += 1;
                    spin_loop();
                }
                None => return false,
            }
        }
    }

    /// Whether a sleeping writer keeps readers out.
    #[cfg(loom)]
    pub fn has_waiting_writer(&self) -> bool {
        self.0.load(Relaxed) & WRITER_WAITS != 0
    }

    #[cold]
    fn wake(&self) {
        self.0.fetch_and(!SLEEPERS, Relaxed);
        crate::sys::futex::wake_all(&self.0);
    }
}

/// The state after one more reader has entered, if it may.
#[inline]
fn enter_shared(state: u32) -> Option<u32> {
    (state & CLOSED == 0).then_some(state + 1)
}

/// The state after the writer has entered, if it may.
#[inline]
fn enter_exclusive(state: u32) -> Option<u32> {
    (state & (WRITER | READERS) == 0).then_some(state & !WRITER_WAITS | WRITER)
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn writers_exclude_each_other_and_readers() {
        let lock = RwWord::new();
        let (low, high) = (AtomicU64::new(0), AtomicU64::new(0));
        scope(|scope| {
            for writer in 0..4 {
                let (lock, low, high) = (&lock, &low, &high);
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        if writer % 2 == 0 {
                            lock.lock_exclusive();
                            low.store(low.load(Relaxed) + 1, Relaxed);
                            high.store(high.load(Relaxed) + 1, Relaxed);
                            lock.unlock_exclusive();
                        } else {
                            lock.lock_shared();
                            assert_eq!(low.load(Relaxed), high.load(Relaxed));
                            lock.unlock_shared();
                        }
                    }
                });
            }
        });
        assert_eq!(low.load(Relaxed), 40_000);
        assert_eq!(lock.0.load(Relaxed) & !SLEEPERS, 0);
    }

    #[test]
    fn a_try_does_not_wait_for_a_writer() {
        let lock = RwWord::new();
        lock.lock_exclusive();
        assert!(!lock.try_lock_shared());
        lock.unlock_exclusive();
        // The attempt may fail without a reason, but not for ever.
        while !lock.try_lock_shared() {}
        while !lock.try_lock_shared() {}
        assert_eq!(lock.0.load(Relaxed), 2);
        lock.unlock_shared();
        lock.unlock_shared();
        assert_eq!(lock.0.load(Relaxed), 0);
    }

    #[test]
    fn a_thread_that_must_not_sleep_gives_up_soon() {
        let lock = RwWord::new();
        lock.lock_exclusive();
        assert!(!lock.lock_shared_soon() && !lock.lock_exclusive_soon());
        lock.unlock_exclusive();
        assert!(lock.lock_shared_soon() && lock.lock_shared_soon());
        assert!(!lock.lock_exclusive_soon());
        lock.unlock_shared();
        lock.unlock_shared();
        assert!(lock.lock_exclusive_soon());
        lock.unlock_exclusive();
        assert_eq!(lock.0.load(Relaxed), 0);
    }

    #[test]
    fn readers_that_overlap_do_not_keep_a_writer_out() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let (lock, is_written, starved) = (RwWord::new(), AtomicBool::new(false), AtomicBool::new(false));
        let started = Instant::now();
        scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !is_written.load(Relaxed) && !starved.load(Relaxed) {
                        lock.lock_shared();
                        std::thread::sleep(Duration::from_millis(1));
                        lock.unlock_shared();
                        starved.fetch_or(started.elapsed() > PATIENCE, Relaxed);
                    }
                });
            }
            lock.lock_exclusive();
            is_written.store(true, Relaxed);
            lock.unlock_exclusive();
        });
        assert!(!starved.load(Relaxed), "the writer waited for {:?}", started.elapsed());
        assert_eq!(lock.0.load(Relaxed) & !SLEEPERS, 0);
    }
}
