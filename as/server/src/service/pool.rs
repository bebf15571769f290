//! The pool of service threads, and the number of them over which connections are spread.
//!
//! # Invariants
//! - Each connection has a number and so an owner: the thread at that number modulo the count of active
//!   threads. A thread that gets an event of another thread's connection hands the connection over, unless a
//!   request of it is in progress. Therefore a change of the count costs nothing for idle connections.
//! - The pool only grows. Threads beyond the active ones have nothing to do and sleep.
//!
//! # Threads
//! The sizing thread samples the activity of the service threads ten times a second and changes the count of
//! active ones. It also starts further service threads when `service-threads` is raised; a lower value only
//! limits the count.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Acquire, Ordering::Relaxed};
use std::time::{Duration, Instant};

use cf::sys::facts::IdleMeter;
use cf::threads;
use parking_lot::{Mutex, RwLock};

use super::activity::{Activity, Meter, WorkerStats};
use super::mailbox::{Mail, Mailbox};
use super::sizing::{Chooser, Sample};

/// How often the sizing thread samples.
const PERIOD: Duration = Duration::from_millis(100);

/// The pool's view of a service thread.
struct Worker {
    mailbox: Arc<Mailbox>,
    activity: Arc<Activity>,
}

/// All service threads.
pub(crate) struct ServicePool {
    workers: RwLock<Vec<Worker>>,
    handles: Mutex<Vec<threads::Handle>>,
    /// Number of workers that own connections, counted from the first one.
    active_count: AtomicUsize,
}

impl ServicePool {
    /// Makes a pool without threads.
    pub(crate) fn new() -> Self {
        ServicePool {
            workers: RwLock::default(),
            handles: Mutex::default(),
            active_count: AtomicUsize::new(1),
        }
    }

    /// Adds a service thread.
    pub(super) fn add(&self, mailbox: Arc<Mailbox>, activity: Arc<Activity>, handle: threads::Handle) {
        let size = {
            let mut workers = self.workers.write();
            workers.push(Worker { mailbox, activity });
            workers.len()
        };
        self.active_count.fetch_max(size.min(threads::cpu_count()), Relaxed);
        self.handles.lock().push(handle);
    }

    /// Number of service threads, with or without connections.
    pub(crate) fn size(&self) -> usize {
        self.workers.read().len()
    }

    /// The position of the thread that owns connection `number`.
    pub(super) fn owner_of(&self, number: u64) -> usize {
        (number % self.active_count.load(Relaxed) as u64) as usize
    }

    /// Posts mail to the thread at a position.
    pub(super) fn post(&self, position: usize, mail: Mail) {
        if let Some(worker) = self.workers.read().get(position) {
            worker.mailbox.post(mail);
        }
    }

    /// Spreads connections over the first `count` threads from now on.
    pub(crate) fn spread(&self, count: usize) {
        self.active_count.store(count.clamp(1, self.size().max(1)), Relaxed);
    }

    #[cfg(test)]
    pub(super) fn active_count(&self) -> usize {
        self.active_count.load(Relaxed)
    }

    /// How many requests each thread has carried out.
    #[cfg(test)]
    pub(super) fn request_counts(&self) -> Vec<u64> {
        self.workers.read().iter().map(|worker| worker.activity.request_count()).collect()
    }

    /// Ends all service threads, and waits for them until `deadline` at most. The sizing thread must have
    /// ended before. Returns the names of the threads that still run.
    pub(crate) fn stop_until(&self, deadline: Instant) -> Vec<String> {
        self.workers.read().iter().for_each(|worker| worker.mailbox.post(Mail::Stop));
        let handles = std::mem::take(&mut *self.handles.lock());
        threads::join_until(handles, deadline)
    }

    /// Body of the sizing thread. Ends once `stopping` is set and the thread is unparked. `start_worker` adds
    /// a service thread; `wanted` is the configured number of them.
    pub(crate) fn run_sizing(
        &self,
        stopping: &AtomicBool,
        wanted: impl Fn() -> usize,
        start_worker: impl Fn(usize) -> io::Result<()>,
    ) {
        let mut monitor = PoolMonitor::new();
        loop {
            std::thread::park_timeout(PERIOD);
            if stopping.load(Acquire) {
                return;
            }
            cf::fault_point!("pool-sizing");
            while self.size() < wanted() {
                if let Err(error) = start_worker(self.size()) {
                    cf::warning_limited!(Service, "cannot start another service thread: {error}");
                    break;
                }
            }
            let limit = wanted().min(self.size());
            let active_count = self.active_count.load(Relaxed);
            let next = monitor.next_count(&self.workers.read(), active_count, limit);
            if next != active_count {
                cf::detail!(Service, "connections spread over {next} of {limit} service threads");
                self.spread(next);
            }
        }
    }
}

/// Samples the activity of all service threads.
struct PoolMonitor {
    meters: Vec<Meter>,
    idle: IdleMeter,
    chooser: Chooser,
    last: Instant,
}

impl PoolMonitor {
    fn new() -> Self {
        PoolMonitor {
            meters: Vec::new(),
            idle: IdleMeter::default(),
            chooser: Chooser::new(threads::cpu_count()),
            last: Instant::now(),
        }
    }

    /// The count of active threads that follows from the activity of `workers` since the last sample.
    fn next_count(&mut self, workers: &[Worker], active_count: usize, limit: usize) -> usize {
        let now = Instant::now();
        let period = now - std::mem::replace(&mut self.last, now);
        self.meters.resize_with(workers.len(), Meter::default);
        let stats: Vec<WorkerStats> = self
            .meters
            .iter_mut()
            .zip(workers)
            .map(|(meter, worker)| meter.sample(&worker.activity, now))
            .collect();
        let sample = Sample::new(&stats, period);
        self.chooser.choose(active_count, limit, &sample, || self.idle.sample())
    }
}
