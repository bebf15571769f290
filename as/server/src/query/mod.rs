//! Queries: requests that concern many records. Basic queries by primary index, as scans and paged scans are.
//!
//! # Threads
//! A query runs on a thread of its own, at most `query-threads-limit` at a time. It reads one record at a time under its
//! sprig's lock, shared, and never waits for the client while it holds one.
//!
//! # Locking
//! `jobs` and `threads` are taken alone and briefly.

mod job;
mod request;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use cf::threads;
use parking_lot::Mutex;
use proto::ResultCode;
use proto::reply::{self, ReplyHeader};

use crate::config::Config;
use crate::metrics::{Latency, Unit};
use crate::namespace::Namespace;
use crate::transaction::{ReplySink, StalledSenders};

use job::{End, Job};
pub(crate) use request::Query;

/// With those whose clients do not read there may be so many times `query-threads-limit` threads.
const STALLED_FACTOR: usize = 4;

/// Answers a query that is not started with the reason.
pub(crate) fn refuse(out: &mut Vec<u8>, reason: ResultCode) {
    // It is not marked as the last of many replies.
    reply::write_header_only(out, &ReplyHeader::result(reason));
}

/// The queries of a server.
pub(crate) struct Queries {
    config: Arc<Config>,
    /// Those that run, short ones among them.
    active: AtomicUsize,
    is_stopping: AtomicBool,
    /// Those that wait for their clients, in whose place others may run.
    pub(crate) stalled: Arc<StalledSenders>,
    threads: Mutex<Vec<threads::Handle>>,
    /// Counts up for queries that come without a number.
    last_id: AtomicU64,
    jobs: Mutex<Jobs>,
}

/// The long queries; oldest first.
#[derive(Default)]
struct Jobs {
    active: Vec<Arc<Job>>,
    /// At most `query-max-done`.
    done: VecDeque<Arc<Job>>,
}

impl Queries {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Queries {
            config,
            active: AtomicUsize::new(0),
            is_stopping: AtomicBool::new(false),
            stalled: Arc::default(),
            threads: Mutex::new(Vec::new()),
            last_id: AtomicU64::new(0),
            jobs: Mutex::default(),
        }
    }

    /// A short query of `namespace` that began at `started` is complete.
    fn measure(&self, namespace: &Namespace, started: Instant) {
        let unit = Unit::configured(&self.config);
        namespace.metrics.latency(Latency::PiQuery).add(unit, started.elapsed(), 1);
    }

    /// Starts `query` of `client`. Its replies, with the last one, go to `sink`.
    ///
    /// # Errors
    /// `Forbidden` at the limit of threads, `Parameter` when there is a query of its number; then nothing goes to
    /// `sink`.
    pub(crate) fn start(
        self: &Arc<Self>,
        query: Query,
        client: SocketAddr,
        sink: Arc<dyn ReplySink>,
    ) -> Result<(), ResultCode> {
        let limit = self.config.service.query_threads_limit.get() as usize;
        let before = self.active.fetch_add(1, Ordering::AcqRel);
        let is_full = before >= limit.saturating_mul(STALLED_FACTOR);
        if is_full {
            self.stalled.want_one();
        }
        if is_full || before >= limit + self.stalled.count() || self.is_stopping.load(Ordering::Acquire) {
            self.active.fetch_sub(1, Ordering::AcqRel);
            cf::warning_limited!(
                Query,
                "cannot start a query: {before} are active, query-threads-limit is {limit}"
            );
            return Err(ResultCode::Forbidden);
        }
        let started = self.enter(&query, client).and_then(|job| self.run(query, job, sink));
        if started.is_err() {
            self.active.fetch_sub(1, Ordering::AcqRel);
        }
        started
    }

    /// Gives the query its place among the jobs.
    fn enter(&self, query: &Query, client: SocketAddr) -> Result<Arc<Job>, ResultCode> {
        let id = match query.id {
            0 => self.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            id => id,
        };
        let job = Arc::new(Job::new(query, id, client));
        if query.is_short() {
            return Ok(job);
        }
        let mut jobs = self.jobs.lock();
        if jobs.active.iter().chain(&jobs.done).any(|job| job.id == id) {
            cf::warning_limited!(Query, "there is a query of the number {id} already");
            return Err(ResultCode::Parameter);
        }
        jobs.active.push(Arc::clone(&job));
        Ok(job)
    }

    fn run(
        self: &Arc<Self>,
        query: Query,
        job: Arc<Job>,
        sink: Arc<dyn ReplySink>,
    ) -> Result<(), ResultCode> {
        let queries = Arc::clone(self);
        let (entered, is_short) = (Arc::clone(&job), query.is_short());
        let started = Instant::now();
        let thread = threads::spawn("query", move || {
            let scan = AssertUnwindSafe(|| {
                cf::fault_point!("query");
                scan::run(&query, &job, &*sink, &queries.is_stopping)
            });
            // A panic is a bug of ours that must not leave the client waiting and the query active for ever.
            let end = catch_unwind(scan).unwrap_or_else(|_| {
                cf::critical!(Query, "a query failed on an internal error");
                sink.finish(scan::last_reply(End::Failed));
                End::Failed
            });
            job.end(end);
            query.namespace.metrics.add(end.counter(is_short), 1);
            if is_short && end == End::Complete {
                queries.measure(&query.namespace, started);
            }
            queries.leave(&job, true);
            queries.active.fetch_sub(1, Ordering::AcqRel);
        });
        let Ok(thread) = thread else {
            self.leave(&entered, false);
            return Err(ResultCode::Forbidden);
        };
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// The query of `job` runs no longer; it is remembered if it ever did.
    fn leave(&self, job: &Arc<Job>, ran: bool) {
        let max_done = self.config.service.query_max_done.get() as usize;
        let mut jobs = self.jobs.lock();
        let before = jobs.active.len();
        jobs.active.retain(|active| !Arc::ptr_eq(active, job));
        if ran && jobs.active.len() < before {
            jobs.done.push_back(Arc::clone(job));
        }
        while jobs.done.len() > max_done {
            jobs.done.pop_front();
        }
    }

    /// Long queries that run.
    pub(crate) fn long_count(&self) -> usize {
        self.jobs.lock().active.len()
    }

    /// All that is known, newest first, those that run before those that are done.
    pub(crate) fn jobs(&self) -> Vec<Arc<Job>> {
        let jobs = self.jobs.lock();
        jobs.active.iter().rev().chain(jobs.done.iter().rev()).cloned().collect()
    }

    /// The query of the number `id`, running or done.
    pub(crate) fn job(&self, id: u64) -> Option<Arc<Job>> {
        self.jobs().into_iter().find(|job| job.id == id)
    }

    /// Asks the running query of the number `id` to end; `false` if there is none.
    pub(crate) fn abort(&self, id: u64) -> bool {
        let jobs = self.jobs.lock();
        let job = jobs.active.iter().find(|job| job.id == id);
        job.inspect(|job| job.is_aborted.store(true, Ordering::Relaxed)).is_some()
    }

    /// Asks all long queries to end; returns how many there are.
    pub(crate) fn abort_all(&self) -> usize {
        let jobs = self.jobs.lock();
        jobs.active.iter().for_each(|job| job.is_aborted.store(true, Ordering::Relaxed));
        jobs.active.len()
    }

    /// Ends all queries and waits for their threads. None starts afterwards.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}
