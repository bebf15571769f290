//! The transaction pool: threads for requests that are too long for a service thread.
//!
//! A request runs here from its start, on a copy of its record. Its budget ends at its deadline, or when nobody waits
//! for it any more: when the client of a request that only reads is gone, or when the server stops. A request that is
//! here only because it met a lock sleeps on its pool thread until the lock is free. Then it runs as on a service
//! thread, with the budget of one.
//!
//! # Threads
//! [`thread_count`] threads share one queue. There are more of them than processors, so that a request of a
//! millisecond does not wait for one of a second; the system divides the processors among them, with lower priority
//! than the service threads. Functions have threads of their own, and functions of a module whose last call used up
//! its time have a few others. So an endless loop in one module delays neither operations nor functions of other
//! modules for long. While it is unknown how a module's calls end, they have no more than their
//! [share](super::module_shares) of the threads.
//!
//! [`prompt_thread_count`] of the threads for functions have the priority of service threads. A function gets one of them
//! if it is free, unless the last call of its module was brief. So a long function that runs alone gets its share of the
//! processors when other programs keep them busy, and many functions at a time take little from other clients. A brief one
//! is as fast with the lower priority: its thread lets the others run that its client waits for.
//!
//! [`LOCK_TURN_THREADS`] threads, with the priority of service threads, take the requests that met a lock. They run
//! only short requests, so a request that met a lock never waits behind a long one. A request that turns out to be
//! long is queued for the other threads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};
use std::time::Instant;

use proto::message::{Request, field};

use super::module_shares::ModuleShares;
use super::wait::{LockLines, ModuleShare, OwnedRequest};
use crate::udf::{Functions, ModulePace};
use crate::workers::{Work, Workers};

/// Steps, of about a nanosecond each, between two checks of the clock.
pub(super) const PORTION_STEPS: u64 = 500_000;
const THREADS_PER_PROCESSOR: usize = 4;
const THREADS_MIN: usize = 16;
/// Threads for functions of modules whose last call used up its time.
const OVERDUE_THREADS: usize = 4;
/// Threads for requests that met a lock. Each sleeps for one record at a time, and locks are held for a millisecond or so.
const LOCK_TURN_THREADS: usize = 4;
/// One prompt thread for functions for so many processors.
const PROCESSORS_PER_PROMPT_THREAD: usize = 2;
/// How much lower the pool threads' priority is than that of service threads: about a tenth of the share.
const NICENESS: i32 = 10;

/// Number of threads of each of the pools for long work.
pub(crate) fn thread_count() -> usize {
    (cf::threads::cpu_count() * THREADS_PER_PROCESSOR).max(THREADS_MIN)
}

/// Number of threads for functions that have the priority of service threads.
fn prompt_thread_count() -> usize {
    (cf::threads::cpu_count() / PROCESSORS_PER_PROMPT_THREAD).max(1)
}

/// The threads of the pool, in groups that do not wait for each other.
pub(crate) struct Pool {
    /// For everything but functions.
    operations: Workers<OwnedRequest>,
    /// For functions, as long as a thread is free.
    prompt_functions: Workers<OwnedRequest>,
    /// Number of free threads among those.
    prompt_free: Arc<AtomicUsize>,
    /// For other functions.
    functions: Workers<OwnedRequest>,
    /// The shares of modules in `functions`.
    shares: ModuleShares,
    /// For functions of modules whose last call used up its time.
    overdue_functions: Workers<OwnedRequest>,
    /// For short requests that met the lock of their record's sprig.
    pub(super) lock_lines: Arc<LockLines>,
    /// The functions, which know how the calls of each module end.
    registry: Arc<Functions>,
}

impl Pool {
    /// Without threads yet; requests may already be submitted.
    pub(super) fn new(registry: &Arc<Functions>) -> Self {
        Pool {
            operations: Workers::with_niceness("transaction", NICENESS),
            prompt_functions: Workers::new("prompt-func"),
            prompt_free: Arc::default(),
            functions: Workers::with_niceness("function", NICENESS),
            shares: ModuleShares::new(thread_count()),
            overdue_functions: Workers::with_niceness("overdue-func", NICENESS),
            lock_lines: LockLines::new(),
            registry: Arc::clone(registry),
        }
    }

    /// Starts the threads, `count` for operations and as many for functions. `new_body` makes the body of each.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(
        &self,
        count: usize,
        new_body: impl Fn() -> Option<Box<dyn Work<OwnedRequest>>> + Send + Sync + 'static,
    ) -> io::Result<()> {
        let new_body = Arc::new(new_body);
        let groups = [
            (&self.operations, count),
            (&self.functions, count),
            (&self.overdue_functions, count.min(OVERDUE_THREADS)),
            (&self.lock_lines.workers, LOCK_TURN_THREADS),
        ];
        for (workers, count) in groups {
            let new_body = Arc::clone(&new_body);
            workers.start(count, move || new_body())?;
        }
        let (count, free) = (prompt_thread_count(), Arc::clone(&self.prompt_free));
        self.prompt_functions.start(count, move || {
            Some(Box::new(PromptWork { body: new_body()?, free: Arc::clone(&free) }))
        })?;
        self.prompt_free.store(count, Release);
        Ok(())
    }

    /// Queues `request` for a thread of its group, after earlier requests. Only functions may overtake others: one that finds a
    /// prompt thread free takes it, although earlier ones wait for the other threads, and those that wait for their module's
    /// share come later.
    pub(super) fn submit(&self, request: OwnedRequest) {
        let module = match Request::parse(&request.body).map(|parsed| parsed.field(field::UDF_FILE)) {
            Ok(Some(module)) => module,
            Ok(None) | Err(_) => return self.operations.submit(request),
        };
        // A call with the turn to write a record does not wait behind endless loops, because other requests wait for
        // it.
        let pace = if request.has_turn() { ModulePace::Quick } else { self.registry.pace(module) };
        match pace {
            ModulePace::Quick => self.functions.submit(request),
            ModulePace::Overdue => self.overdue_functions.submit(request),
            ModulePace::Unknown => {
                let module = Box::<[u8]>::from(module);
                if let Some(request) = self.shares.admit(module.clone(), request) {
                    self.submit_function(&module, request);
                }
            }
        }
    }

    /// Queues a function of `module`, which is not known as overdue: for a prompt thread if it may be long and one is free,
    /// otherwise for one of the others.
    fn submit_function(&self, module: &[u8], request: OwnedRequest) {
        let has_place = !self.registry.was_brief(module)
            && self.prompt_free.fetch_update(AcqRel, Acquire, |free| free.checked_sub(1)).is_ok();
        let workers = if has_place { &self.prompt_functions } else { &self.functions };
        workers.submit(request);
    }

    /// Gives back the share of a call that needs no thread any more. The next call of its module takes it.
    pub(super) fn give_back_share(&self, share: &ModuleShare) {
        let is_known = |module: &[u8]| self.registry.pace(module) != ModulePace::Unknown;
        for next in self.shares.give_back(share, is_known) {
            if next.share.is_some() {
                self.submit_function(&share.0, next);
            } else {
                self.submit(next);
            }
        }
    }

    /// Starts substitutes for `hanging` threads, as long as these hang. It is unknown in which groups they are.
    pub(super) fn substitute(&self, hanging: usize) {
        self.groups().into_iter().for_each(|workers| workers.substitute(hanging));
    }

    /// Ends all threads and waits for them, until `deadline` at most. They carry out the requests that were submitted
    /// before. Returns the names of the threads that still run.
    pub(crate) fn stop_until(&self, deadline: Instant) -> Vec<String> {
        self.shares.close().into_iter().for_each(|request| self.functions.submit(request));
        self.groups().into_iter().flat_map(|workers| workers.stop_until(deadline)).collect()
    }

    /// Requests that no thread has taken yet, by group: operations, functions, functions of overdue modules, requests that met
    /// a lock, functions for prompt threads.
    #[cfg(test)]
    pub(super) fn queued_counts(&self) -> [usize; 5] {
        self.groups().map(Workers::queued_count)
    }

    /// Makes one more prompt thread free, for a test.
    #[cfg(test)]
    pub(super) fn free_prompt_thread(&self) {
        self.prompt_free.fetch_add(1, Release);
    }

    fn groups(&self) -> [&Workers<OwnedRequest>; 5] {
        [
            &self.operations,
            &self.functions,
            &self.overdue_functions,
            &self.lock_lines.workers,
            &self.prompt_functions,
        ]
    }
}

/// The work of a prompt thread, which is free again after each request.
struct PromptWork {
    body: Box<dyn Work<OwnedRequest>>,
    free: Arc<AtomicUsize>,
}

impl Work<OwnedRequest> for PromptWork {
    fn run(&mut self, request: OwnedRequest) {
        let _place = PromptPlace(&self.free);
        self.body.run(request);
    }

    fn maintain(&mut self) -> bool {
        self.body.maintain()
    }
}

/// The place of a request on a prompt thread, until this is dropped.
struct PromptPlace<'a>(&'a AtomicUsize);

impl Drop for PromptPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Release);
    }
}
