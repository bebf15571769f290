//! `cf::sync::RwWord`: writers exclude all others, no thread sleeps for ever, and readers let a writer in.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread;

use crate::explore;
use crate::sync::RwWord;

#[derive(Default)]
struct Guarded {
    lock: RwWord,
    data: UnsafeCell<u32>,
}

fn read(guarded: &Guarded) {
    guarded.lock.lock_shared();
    guarded.data.with(|_| ());
    guarded.lock.unlock_shared();
}

fn write(guarded: &Guarded) {
    guarded.lock.lock_exclusive();
    guarded.data.with_mut(|_| ());
    guarded.lock.unlock_exclusive();
}

/// Reads if the lock can be taken at once.
fn read_soon(guarded: &Guarded) {
    if guarded.lock.lock_shared_soon() {
        guarded.data.with(|_| ());
        guarded.lock.unlock_shared();
    }
}

/// Writes if the lock can be taken at once.
fn write_soon(guarded: &Guarded) {
    if guarded.lock.lock_exclusive_soon() {
        guarded.data.with_mut(|_| ());
        guarded.lock.unlock_exclusive();
    }
}

fn run(threads: &'static [fn(&Guarded)], preemptions: usize) {
    explore(preemptions, || {
        let guarded = Arc::new(Guarded::default());
        let (last, others) = threads.split_last().expect("threads");
        let others: Vec<_> = others
            .iter()
            .map(|act| {
                let guarded = Arc::clone(&guarded);
                thread::spawn(move || act(&guarded))
            })
            .collect();
        last(&guarded);
        others.into_iter().for_each(|thread| thread.join().expect("it ends"));
    });
}

#[test]
fn a_writer_is_alone() {
    run(&[write, write], 4);
    run(&[read, write], 4);
}

#[test]
fn no_thread_sleeps_for_ever() {
    run(&[read, write, write], 2);
    run(&[read, read, write], 2);
}

#[test]
fn threads_that_do_not_sleep_respect_the_lock_and_wake_sleepers() {
    run(&[write_soon, write], 4);
    run(&[read_soon, write], 4);
    run(&[write_soon, read], 4);
    run(&[write_soon, read, write], 2);
    run(&[read_soon, write_soon, write], 2);
}

#[test]
fn readers_and_writers_that_return_all_enter() {
    let again: &[fn(&Guarded)] = &[
        |guarded| {
            read(guarded);
            read(guarded);
        },
        |guarded| {
            write(guarded);
            write(guarded);
        },
    ];
    run(again, 3);
}

#[test]
fn writers_after_a_wait_see_what_was_done_before_it() {
    explore(4, || {
        let guarded = Arc::new((Guarded::default(), AtomicBool::new(false)));
        let writer = {
            let guarded = Arc::clone(&guarded);
            thread::spawn(move || {
                guarded.0.lock.lock_exclusive();
                if !guarded.1.load(Relaxed) {
                    guarded.0.data.with_mut(|_| ());
                }
                guarded.0.lock.unlock_exclusive();
            })
        };
        guarded.1.store(true, Relaxed);
        guarded.0.lock.wait_for_writer();
        // The writer has left, or leaves the data alone.
        guarded.0.data.with_mut(|_| ());
        writer.join().expect("it ends");
    });
}

#[test]
fn a_reader_after_a_sleeping_writer_enters_after_it() {
    explore(3, || {
        let guarded = Arc::new((Guarded::default(), AtomicBool::new(false)));
        guarded.0.lock.lock_shared();
        let writer = {
            let guarded = Arc::clone(&guarded);
            thread::spawn(move || {
                guarded.0.lock.lock_exclusive();
                guarded.1.store(true, Relaxed);
                guarded.0.lock.unlock_exclusive();
            })
        };
        let reader = {
            let guarded = Arc::clone(&guarded);
            thread::spawn(move || {
                let writer_waits = guarded.0.lock.has_waiting_writer();
                guarded.0.lock.lock_shared();
                assert!(!writer_waits || guarded.1.load(Relaxed), "the reader overtook a writer");
                guarded.0.lock.unlock_shared();
            })
        };
        guarded.0.lock.unlock_shared();
        writer.join().expect("it ends");
        reader.join().expect("it ends");
    });
}
