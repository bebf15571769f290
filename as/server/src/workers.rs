//! A pool of threads that take jobs from one queue. The number of threads follows the configuration while the
//! server runs.
//!
//! A panic in a job is a bug of ours and loses only that job: the thread continues with a new body.
//!
//! # Locking
//! `threads` is held while threads are started or told to end, never while they work.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::time::{Duration, Instant};

use cf::threads::{self, Handle};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use parking_lot::Mutex;

/// Maximum number of substitutes for threads that hang.
const SUBSTITUTES_MAX: usize = 64;
/// How often a thread does its maintenance.
const MAINTENANCE_PERIOD: Duration = Duration::from_secs(1);

/// The work of one thread.
pub(crate) trait Work<J>: Send {
    /// Does a job.
    fn run(&mut self, job: J);

    /// Does maintenance. It is called after each job, and every second while there is maintenance to do.
    /// Returns whether there is more.
    fn maintain(&mut self) -> bool {
        false
    }
}

impl<J, F: FnMut(J) + Send> Work<J> for F {
    fn run(&mut self, job: J) {
        self(job);
    }
}

type Body<J> = Box<dyn Work<J>>;
type NewBody<J> = Arc<dyn Fn() -> Option<Body<J>> + Send + Sync>;

enum Message<J> {
    Job(J),
    /// Ends the thread that receives it.
    End,
}

/// State of one thread.
struct Worker<J> {
    name: &'static str,
    body: Body<J>,
    new_body: NewBody<J>,
    queue: Receiver<Message<J>>,
    is_stopping: Arc<AtomicBool>,
}

impl<J> Worker<J> {
    /// The thread's loop. Before it ends it finishes its maintenance, unless all threads end: the jobs that
    /// would result are then not done.
    fn serve(mut self) {
        let mut must_maintain = false;
        loop {
            let message = if must_maintain {
                self.queue.recv_timeout(MAINTENANCE_PERIOD)
            } else {
                self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            let job = match message {
                Ok(Message::Job(job)) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => break,
            };
            let done = catch_unwind(AssertUnwindSafe(|| {
                if let Some(job) = job {
                    self.body.run(job);
                }
                self.body.maintain()
            }));
            must_maintain = matches!(done, Ok(true));
            if done.is_err() && !self.renew() {
                return;
            }
        }
        while must_maintain && !self.is_stopping.load(Acquire) {
            std::thread::sleep(MAINTENANCE_PERIOD);
            must_maintain = catch_unwind(AssertUnwindSafe(|| self.body.maintain())).unwrap_or(false);
        }
    }

    /// Replaces the body after a panic, which may have left the old one inconsistent. Returns false if no new
    /// body can be made any more.
    #[cold]
    fn renew(&mut self) -> bool {
        cf::critical!(Service, "a job of the {} threads failed on an internal error", self.name);
        match (self.new_body)() {
            Some(body) => {
                self.body = body;
                true
            }
            None => false,
        }
    }
}

/// Threads of one kind and their queue.
pub(crate) struct Workers<J> {
    /// Start of the threads' names.
    name: &'static str,
    /// Difference between the priority of service threads and the lower one of these threads, see
    /// [`threads::lower_own_priority`].
    niceness: i32,
    sender: Sender<Message<J>>,
    queue: Receiver<Message<J>>,
    threads: Mutex<Threads<J>>,
    /// Whether all threads end.
    is_stopping: Arc<AtomicBool>,
}

struct Threads<J> {
    /// Makes the body of another thread; `None` before the start and after all threads have ended.
    new_body: Option<NewBody<J>>,
    /// Number of threads that should exist, without substitutes.
    wanted: usize,
    /// Number of additional threads, because some threads hang.
    substitutes: usize,
    /// Number of threads that were not told to end.
    count: usize,
    started: usize,
    handles: Vec<Handle>,
}

impl<J: Send + 'static> Workers<J> {
    /// A pool without threads. Jobs may already be submitted.
    pub(crate) fn new(name: &'static str) -> Self {
        Self::with_niceness(name, 0)
    }

    /// As [`new`](Self::new), with threads of lower priority.
    pub(crate) fn with_niceness(name: &'static str, niceness: i32) -> Self {
        let (sender, queue) = unbounded();
        let threads =
            Threads { new_body: None, wanted: 0, substitutes: 0, count: 0, started: 0, handles: Vec::new() };
        Workers { name, niceness, sender, queue, threads: Mutex::new(threads), is_stopping: Arc::default() }
    }

    /// Queues `job` behind those submitted before.
    pub(crate) fn submit(&self, job: J) {
        self.send(Message::Job(job));
    }

    /// Number of jobs that no thread has taken yet.
    pub(crate) fn queued_count(&self) -> usize {
        self.queue.len()
    }

    /// Starts `count` threads. `new_body` makes the body of each thread, also of later ones and after a
    /// panic. It returns `None` if the server ends.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(
        &self,
        count: usize,
        new_body: impl Fn() -> Option<Body<J>> + Send + Sync + 'static,
    ) -> io::Result<()> {
        let mut threads = self.threads.lock();
        threads.new_body = Some(Arc::new(new_body));
        threads.wanted = count;
        self.adapt_count(&mut threads)
    }

    /// Changes the number of threads to `count`, as far as the system allows.
    pub(crate) fn resize(&self, count: usize) {
        let mut threads = self.threads.lock();
        threads.wanted = count;
        self.adapt_count_if_possible(&mut threads);
    }

    /// Starts substitutes for `hanging` threads, as long as these hang.
    pub(crate) fn substitute(&self, hanging: usize) {
        let mut threads = self.threads.lock();
        let substitutes = hanging.min(SUBSTITUTES_MAX);
        if threads.substitutes != substitutes {
            threads.substitutes = substitutes;
            self.adapt_count_if_possible(&mut threads);
        }
    }

    fn adapt_count_if_possible(&self, threads: &mut Threads<J>) {
        if let Err(error) = self.adapt_count(threads) {
            cf::warning!(Service, "cannot start another {} thread: {error}", self.name);
        }
    }

    /// Number of threads that are not told to end.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.threads.lock().count
    }

    fn adapt_count(&self, threads: &mut Threads<J>) -> io::Result<()> {
        let count = threads.wanted + threads.substitutes;
        while threads.count > count {
            self.send(Message::End);
            threads.count -= 1;
        }
        while threads.count < count {
            let Some(new_body) = threads.new_body.clone() else { return Ok(()) };
            let Some(body) = new_body() else { return Ok(()) };
            let (queue, is_stopping) = (self.queue.clone(), Arc::clone(&self.is_stopping));
            let worker = Worker { name: self.name, body, new_body, queue, is_stopping };
            let name = format!("{}-{}", self.name, threads.started % 1000);
            let niceness = self.niceness;
            threads.handles.push(threads::spawn_essential(&name, move || {
                if niceness > 0 {
                    threads::lower_own_priority(niceness);
                }
                worker.serve();
            })?);
            threads.started += 1;
            threads.count += 1;
        }
        threads.handles.retain(|handle| !handle.is_finished());
        Ok(())
    }

    /// Ends all threads and waits for them. Jobs that were submitted before are done.
    pub(crate) fn stop(&self) {
        for handle in self.tell_to_end() {
            // A panic of the thread has been logged.
            let _ = handle.join();
        }
    }

    /// As [`stop`](Self::stop), but waits until `deadline` at most. Returns the names of the threads that still run.
    pub(crate) fn stop_until(&self, deadline: Instant) -> Vec<String> {
        threads::join_until(self.tell_to_end(), deadline)
    }

    fn tell_to_end(&self) -> Vec<Handle> {
        self.is_stopping.store(true, Release);
        let mut threads = self.threads.lock();
        threads.new_body = None;
        for _ in 0..std::mem::take(&mut threads.count) {
            self.send(Message::End);
        }
        std::mem::take(&mut threads.handles)
    }

    fn send(&self, message: Message<J>) {
        // The queue is open as long as this value exists.
        let _ = self.sender.send(message);
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
        workers.submit(1);
        let sum = Arc::clone(&done);
        let new_body = move || {
            let sum = Arc::clone(&sum);
            let body: Body<usize> = Box::new(move |job| {
                sum.fetch_add(job, Relaxed);
            });
            Some(body)
        };
        workers.start(2, new_body).expect("threads");
        for count in [1, 5, 3, 4] {
            workers.resize(count);
            (0..100).for_each(|job| workers.submit(job));
        }
        assert_eq!(workers.threads.lock().count, 4);
        workers.stop();
        assert_eq!(done.load(Relaxed), 1 + 4 * 4950);
        // No more threads are started.
        workers.resize(3);
        assert_eq!(workers.threads.lock().count, 0);
    }

    /// Work that always has more maintenance to do.
    struct Worried;

    impl Work<()> for Worried {
        fn run(&mut self, (): ()) {}

        fn maintain(&mut self) -> bool {
            true
        }
    }

    #[test]
    fn maintenance_does_not_prevent_the_end() {
        let workers = Workers::new("test");
        workers.start(2, || Some(Box::new(Worried))).expect("threads");
        workers.submit(());
        workers.submit(());
        workers.resize(1);
        workers.stop();
    }

    #[test]
    fn threads_that_hang_have_substitutes() {
        let workers = Workers::new("test");
        let (gate, done) = (Arc::new(Mutex::new(())), Arc::new(AtomicUsize::new(0)));
        let (closed, sum) = (Arc::clone(&gate), Arc::clone(&done));
        let new_body = move || {
            let (gate, sum) = (Arc::clone(&closed), Arc::clone(&sum));
            let body: Body<bool> = Box::new(move |hangs| {
                if hangs {
                    drop(gate.lock());
                }
                sum.fetch_add(1, Relaxed);
            });
            Some(body)
        };
        let hold = gate.lock();
        workers.start(2, new_body).expect("threads");
        [true, true, false].iter().for_each(|hangs| workers.submit(*hangs));
        workers.substitute(2);
        assert_eq!(workers.count(), 4);
        while done.load(Relaxed) == 0 {
            std::thread::yield_now();
        }
        workers.substitute(1000);
        assert_eq!(workers.count(), 2 + SUBSTITUTES_MAX);
        drop(hold);
        workers.substitute(0);
        assert_eq!(workers.count(), 2);
        workers.stop();
        assert_eq!(done.load(Relaxed), 3);
    }

    #[test]
    fn a_thread_that_never_ends_does_not_keep_a_stop() {
        let workers = Workers::new("test");
        let gate = Arc::new(Mutex::new(()));
        let hold = gate.lock();
        let closed = Arc::clone(&gate);
        let new_body = move || {
            let closed = Arc::clone(&closed);
            let body: Body<bool> = Box::new(move |hangs| {
                if hangs {
                    drop(closed.lock());
                }
            });
            Some(body)
        };
        workers.start(2, new_body).expect("threads");
        [true, false, false].iter().for_each(|hangs| workers.submit(*hangs));
        assert_eq!(workers.stop_until(Instant::now() + Duration::from_millis(100)).len(), 1);
        drop(hold);
    }

    #[test]
    fn a_panic_costs_one_job() {
        let workers = Workers::new("test");
        let (bodies, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (made, sum) = (Arc::clone(&bodies), Arc::clone(&done));
        let new_body = move || {
            made.fetch_add(1, Relaxed);
            let sum = Arc::clone(&sum);
            let body: Body<usize> = Box::new(move |job| {
                assert!(job != 3, "a bug for a test");
                sum.fetch_add(job, Relaxed);
            });
            Some(body)
        };
        (1..=5).for_each(|job| workers.submit(job));
        workers.start(1, new_body).expect("a thread");
        workers.stop();
        assert_eq!((bodies.load(Relaxed), done.load(Relaxed)), (2, 12));
    }
}
