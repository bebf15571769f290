//! Sections: when data is hidden while a thread may be inside, it is not touched before the thread has left.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use loom::thread;

use crate::explore;
use crate::section_word::{SectionWord, hide};

/// A partition, and the word of a thread that works on it.
struct Partition {
    is_served: AtomicBool,
    word: SectionWord,
    records: UnsafeCell<u32>,
}

fn partition() -> Arc<Partition> {
    Arc::new(Partition {
        is_served: AtomicBool::new(true),
        word: SectionWord::default(),
        records: UnsafeCell::new(7),
    })
}

#[test]
fn records_are_dropped_when_no_thread_uses_them() {
    explore(3, || {
        let partition = partition();
        let at_work = Arc::clone(&partition);
        let worker = thread::spawn(move || {
            for _ in 0..2 {
                at_work.word.enter();
                if at_work.is_served.load(Acquire) {
                    at_work.records.with(|_| ());
                }
                at_work.word.leave();
            }
        });
        partition.is_served.store(false, Release);
        hide();
        let seen = partition.word.state();
        while !partition.word.has_left(seen) {
            thread::yield_now();
        }
        partition.records.with_mut(|_| ());
        worker.join().expect("it ends");
    });
}
