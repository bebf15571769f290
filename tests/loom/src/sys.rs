//! The system calls of the code under test, modelled in loom.

/// Models `cf::sys::futex`. The system compares and sleeps in one step, which is here one lock for all words.
pub(crate) mod futex {
    use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use loom::sync::{Condvar, Mutex};

    loom::lazy_static! {
        static ref SLEEPERS: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
    }

    pub(crate) fn wait(word: &AtomicU32, expected: u32) {
        let (lock, woken) = &*SLEEPERS;
        let guard = lock.lock().expect("no thread panics");
        if word.load(Relaxed) == expected {
            drop(woken.wait(guard).expect("no thread panics"));
        }
    }

    pub(crate) fn wake_all(_word: &AtomicU32) {
        let (lock, woken) = &*SLEEPERS;
        let _guard = lock.lock().expect("no thread panics");
        woken.notify_all();
    }
}
