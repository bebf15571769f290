//! The rules for threads that take sprig locks, checked in builds with debug assertions: a thread takes one at a
//! time, and holds none while it reads a disk or does other long work. A service thread never sleeps until one is
//! free.

use std::marker::PhantomData;

#[cfg(debug_assertions)]
use std::cell::Cell;

#[cfg(debug_assertions)]
thread_local! {
    /// Locks that the thread holds.
    static COUNT: Cell<usize> = const { Cell::new(0) };
    /// Whether the thread must not sleep until a lock is free.
    static MUST_NOT_SLEEP: Cell<bool> = const { Cell::new(false) };
}

/// A sprig lock that the thread holds for as long as this lives. It stays on its thread.
pub(super) struct HeldLock(PhantomData<*const ()>);

impl HeldLock {
    /// The thread has taken a lock.
    #[inline]
    pub(super) fn new() -> Self {
        #[cfg(debug_assertions)]
        COUNT.with(|count| count.set(count.get() + 1));
        HeldLock(PhantomData)
    }
}

#[cfg(debug_assertions)]
impl Drop for HeldLock {
    fn drop(&mut self) {
        COUNT.with(|count| count.set(count.get() - 1));
    }
}

/// Forbids its thread to sleep for a sprig lock, for as long as this lives. Service threads have one.
pub(crate) struct NoSleep(PhantomData<*const ()>);

impl NoSleep {
    /// Forbids the calling thread to sleep for a sprig lock.
    pub(crate) fn for_this_thread() -> Self {
        #[cfg(debug_assertions)]
        MUST_NOT_SLEEP.with(|must_not| must_not.set(true));
        NoSleep(PhantomData)
    }
}

impl Drop for NoSleep {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        MUST_NOT_SLEEP.with(|must_not| must_not.set(false));
    }
}

/// Asserts, in builds with debug assertions, that the thread may sleep until a lock is free. This is asserted even if
/// the lock is free now.
#[inline]
pub(super) fn assert_may_sleep() {
    #[cfg(debug_assertions)]
    MUST_NOT_SLEEP
        .with(|must_not| assert!(!must_not.get(), "a service thread waits for the lock of a sprig"));
}

/// Asserts, in builds with debug assertions, that the thread holds no sprig lock. The thread is going to wait for a
/// disk, or to do long work.
#[inline]
pub(crate) fn assert_no_lock_held() {
    #[cfg(debug_assertions)]
    assert_eq!(COUNT.with(Cell::get), 0, "a disk is read, or long work done, under the lock of a sprig");
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn locks_are_counted() {
        let held = HeldLock::new();
        assert!(std::panic::catch_unwind(assert_no_lock_held).is_err());
        drop(held);
        assert_no_lock_held();
    }

    #[test]
    fn a_thread_that_must_not_sleep_is_found_out() {
        assert_may_sleep();
        let no_sleep = NoSleep::for_this_thread();
        assert!(std::panic::catch_unwind(assert_may_sleep).is_err());
        drop(no_sleep);
        assert_may_sleep();
    }
}
