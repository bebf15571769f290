//! How many sprig locks a thread holds, counted in builds with debug assertions: a thread takes one at a time, and holds none while
//! it reads a disk.

use std::marker::PhantomData;

#[cfg(debug_assertions)]
thread_local! {
    static COUNT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
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

/// Asserts, in builds with debug assertions, that the thread holds no sprig lock: it is going to wait for a disk.
#[inline]
pub(crate) fn assert_no_lock_held() {
    #[cfg(debug_assertions)]
    assert_eq!(COUNT.with(std::cell::Cell::get), 0, "a disk is read under the lock of a sprig");
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
}
