//! Threads that take jobs from one queue: as many as configured, also when that changes.
//!
//! # Locking
//! `threads` is held while threads are started or told to end, never while they work.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::time::Duration;

use cf::threads::{self, Handle};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use parking_lot::Mutex;

/// How often a thread looks after what it has to beside its jobs.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// What one thread does.
pub(crate) trait Work<J>: Send {
    /// Does a job.
    fn take(&mut self, job: J);

    /// Looks after what is to be looked after beside the jobs: after each of them, and every second while there is
    /// anything. Gives whether there still is.
    fn look(&mut self) -> bool {
        false
    }
}

impl<J, F: FnMut(J) + Send> Work<J> for F {
    fn take(&mut self, job: J) {
        self(job);
    }
}

type Body<J> = Box<dyn Work<J>>;

/// What a thread does from its start to its end, which has to wait while there is something to look after, unless all
/// threads end: jobs that would come of it are not done any more.
fn serve<J>(work: &mut dyn Work<J>, queue: &Receiver<Order<J>>, is_stopping: &AtomicBool) {
    let mut must_look = false;
    loop {
        let order = if must_look {
            queue.recv_timeout(LOOK_PERIOD)
        } else {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match order {
            Ok(Order::Do(job)) => work.take(job),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Order::End) | Err(RecvTimeoutError::Disconnected) => break,
        }
        must_look = work.look();
    }
    while must_look && !is_stopping.load(Acquire) {
        std::thread::sleep(LOOK_PERIOD);
        must_look = work.look();
    }
}

enum Order<J> {
    Do(J),
    /// The thread that takes it is to end.
    End,
}

/// Threads of one kind and their queue.
pub(crate) struct Workers<J> {
    /// What the names of the threads begin with.
    name: &'static str,
    orders: Sender<Order<J>>,
    queue: Receiver<Order<J>>,
    threads: Mutex<Threads<J>>,
    /// All threads are to end.
    is_stopping: Arc<AtomicBool>,
}

struct Threads<J> {
    /// Makes the body of another thread; `None` before the start and after the end of all.
    hire: Option<Box<dyn Fn() -> Option<Body<J>> + Send>>,
    /// Those that were not told to end.
    count: usize,
    started: usize,
    handles: Vec<Handle>,
}

impl<J: Send + 'static> Workers<J> {
    /// Without threads yet, but jobs may be given.
    pub(crate) fn new(name: &'static str) -> Self {
        let (orders, queue) = unbounded();
        let threads = Threads { hire: None, count: 0, started: 0, handles: Vec::new() };
        Workers { name, orders, queue, threads: Mutex::new(threads), is_stopping: Arc::default() }
    }

    /// Has a thread do `job` when those given before are taken.
    pub(crate) fn give(&self, job: J) {
        self.order(Order::Do(job));
    }

    /// Jobs that no thread has taken yet.
    pub(crate) fn queued_count(&self) -> usize {
        self.queue.len()
    }

    /// Starts `count` threads. `hire` makes the body of each, also of those that come later; `None` when it is too late.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(
        &self,
        count: usize,
        hire: impl Fn() -> Option<Body<J>> + Send + 'static,
    ) -> io::Result<()> {
        self.threads.lock().hire = Some(Box::new(hire));
        self.change_count(count)
    }

    /// Makes them `count`, as far as the system allows.
    pub(crate) fn resize(&self, count: usize) {
        if let Err(error) = self.change_count(count) {
            cf::warning!(Service, "cannot start another {} thread: {error}", self.name);
        }
    }

    fn change_count(&self, count: usize) -> io::Result<()> {
        let mut threads = self.threads.lock();
        while threads.count > count {
            self.order(Order::End);
            threads.count -= 1;
        }
        while threads.count < count {
            let Some(mut work) = threads.hire.as_ref().and_then(|hire| hire()) else { return Ok(()) };
            let (queue, is_stopping) = (self.queue.clone(), Arc::clone(&self.is_stopping));
            let name = format!("{}-{}", self.name, threads.started % 1000);
            threads.handles.push(threads::spawn(&name, move || serve(&mut *work, &queue, &is_stopping))?);
            threads.started += 1;
            threads.count += 1;
        }
        threads.handles.retain(|handle| !handle.is_finished());
        Ok(())
    }

    /// Ends all threads and waits for them. What was given before is done.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Release);
        let handles = {
            let mut threads = self.threads.lock();
            threads.hire = None;
            for _ in 0..std::mem::take(&mut threads.count) {
                self.order(Order::End);
            }
            std::mem::take(&mut threads.handles)
        };
        for handle in handles {
            // One that panicked has logged it.
            let _ = handle.join();
        }
    }

    fn order(&self, order: Order<J>) {
        // The queue is open as long as this value lives.
        let _ = self.orders.send(order);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[test]
    fn every_job_is_done_however_many_threads_there_are() {
        let workers = Workers::new("test");
        let done = Arc::new(AtomicUsize::new(0));
        workers.give(1);
        let sum = Arc::clone(&done);
        let hire = move || {
            let sum = Arc::clone(&sum);
            let body: Body<usize> = Box::new(move |job| {
                sum.fetch_add(job, Relaxed);
            });
            Some(body)
        };
        workers.start(2, hire).expect("threads");
        for count in [1, 5, 3, 4] {
            workers.resize(count);
            (0..100).for_each(|job| workers.give(job));
        }
        assert_eq!(workers.threads.lock().count, 4);
        workers.stop();
        assert_eq!(done.load(Relaxed), 1 + 4 * 4950);
        // None is hired any more.
        workers.resize(3);
        assert_eq!(workers.threads.lock().count, 0);
    }

    /// Has always something to look after.
    struct Worried;

    impl Work<()> for Worried {
        fn take(&mut self, (): ()) {}

        fn look(&mut self) -> bool {
            true
        }
    }

    #[test]
    fn nothing_to_look_after_keeps_all_from_ending() {
        let workers = Workers::new("test");
        workers.start(2, || Some(Box::new(Worried))).expect("threads");
        workers.give(());
        workers.give(());
        workers.resize(1);
        workers.stop();
    }
}
