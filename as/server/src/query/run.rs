//! A running query, shared by its threads: which parts are left, how many samples, and why it ends.
//!
//! # Threads
//! Its partitions are divided among one or several threads, each of which [walks](super::walker) through some. The last
//! thread sends the last message.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use proto::reply::{self, ReplyHeader};

use super::condition::Condition;
use super::job::{End, Job};
use super::pace::Pace;
use super::request::{Part, Query};
use crate::security::Permit;
use crate::transaction::{ReplySink, StalledSenders, TransactionContext};
use crate::udf::Functions;

/// Maximum number of parts that a thread takes at once. It loads the index of the next one while it works on one.
const PARTS_AT_ONCE_MAX: usize = 8;
/// The parts of a query are taken in at least this many shares, so that its threads end at about the same time.
const SHARE_COUNT_MIN: usize = 256;

/// A running query, shared by its threads.
pub(super) struct QueryRun {
    pub(super) query: Query,
    pub(super) job: Arc<Job>,
    pub(super) sink: Option<Arc<dyn ReplySink>>,
    /// The permit of its user, checked again while it runs.
    permit: Option<Permit>,
    pub(super) transactions: Arc<TransactionContext>,
    /// Counts waiting threads; others may run in their place.
    pub(super) stalled: Arc<StalledSenders>,
    is_stopping: Arc<AtomicBool>,
    pub(super) started: Instant,
    /// Set while the query is tried on a service thread, where it must end by then.
    pub(super) inline_until: Option<Instant>,
    next_part: AtomicUsize,
    /// Records that count for `sample_max`.
    samples: AtomicU64,
    pub(super) pace: Pace,
    /// The reason why it ends before it is complete.
    end: OnceLock<End>,
    /// Number of threads that work on it; 0 when it has ended.
    threads: AtomicUsize,
    /// Whether all work for it is done. Taken alone and briefly.
    has_ended: Mutex<bool>,
    ended: Condvar,
}

impl QueryRun {
    /// Prepares a run. `sink` takes the replies; `None` for a query whose client waits for no records.
    pub(super) fn new(
        query: Query,
        job: Arc<Job>,
        sink: Option<Arc<dyn ReplySink>>,
        permit: Option<Permit>,
        transactions: Arc<TransactionContext>,
        (stalled, is_stopping): (Arc<StalledSenders>, Arc<AtomicBool>),
    ) -> Self {
        QueryRun {
            pace: Pace::new(query.records_per_second),
            query,
            job,
            sink,
            permit,
            transactions,
            stalled,
            is_stopping,
            started: Instant::now(),
            inline_until: None,
            next_part: AtomicUsize::new(0),
            samples: AtomicU64::new(0),
            end: OnceLock::new(),
            threads: AtomicUsize::new(1),
            has_ended: Mutex::new(false),
            ended: Condvar::new(),
        }
    }

    /// Counts a further thread, in addition to the one with which the query begins. Returns `false` if the
    /// query has ended.
    pub(super) fn join_in(&self) -> bool {
        let more = |count: usize| (count > 0).then_some(count + 1);
        let is_joined = self.threads.fetch_update(AcqRel, Acquire, more).is_ok();
        if is_joined {
            self.job.active_threads.fetch_add(1, Relaxed);
        }
        is_joined
    }

    /// Notes why the query ends early; the first reason counts. Returns whether this is it.
    pub(super) fn end_with(&self, end: End) -> bool {
        self.end.set(end).is_ok()
    }

    /// Ends the query as if its client did not read, because others need its resources.
    pub(super) fn give_up_client(&self) {
        self.end_with(End::Unread);
        if let Some(sink) = &self.sink {
            sink.give_up();
        }
    }

    /// Ends a thread's work for the query. Returns how the query ended, if this was the last thread, which then
    /// [finishes](Self::finish) it.
    pub(super) fn leave(&self) -> Option<End> {
        self.job.active_threads.fetch_sub(1, Relaxed);
        let is_last = self.threads.fetch_sub(1, AcqRel) == 1;
        is_last.then(|| self.end.get().copied().unwrap_or(End::Complete))
    }

    /// Waits until the query has ended, at most for `longest`.
    pub(super) fn await_end(&self, longest: Duration) {
        let deadline = Instant::now() + longest;
        let mut has_ended = self.has_ended.lock();
        while !*has_ended && !self.ended.wait_until(&mut has_ended, deadline).timed_out() {}
    }

    /// Sends the last message.
    pub(super) fn finish(&self, end: End) {
        *self.has_ended.lock() = true;
        self.ended.notify_all();
        if let Some(sink) = &self.sink {
            sink.finish(last_reply(end));
        }
    }

    /// The functions that clients have registered.
    pub(super) fn functions(&self) -> &Functions {
        &self.transactions.functions
    }

    /// Takes the next parts that no thread has taken yet; none if there are no more.
    pub(super) fn take_parts(&self) -> &[Part] {
        let parts = &*self.query.parts;
        let count = (parts.len() / SHARE_COUNT_MIN).clamp(1, PARTS_AT_ONCE_MAX);
        let start = self.next_part.fetch_add(count, Relaxed).min(parts.len());
        &parts[start..parts.len().min(start + count)]
    }

    /// Whether there is a partition that no thread has taken.
    pub(super) fn has_parts_left(&self) -> bool {
        self.next_part.load(Relaxed) < self.query.parts.len()
    }

    /// The reason why the query must end early, if it must.
    pub(super) fn reason_to_end(&self) -> Option<End> {
        if let Some(end) = self.end.get() {
            Some(*end)
        } else if self.is_index_dropped() {
            Some(End::IndexDropped)
        } else if self.is_stopping.load(Relaxed) || self.job.is_aborted.load(Relaxed) {
            Some(End::Aborted)
        } else if self.sink.as_ref().is_some_and(|sink| sink.is_closed()) {
            Some(End::ClientGone)
        } else if self.inline_until.is_some_and(|until| Instant::now() > until) {
            Some(End::TimedOut)
        } else if let Some(Err(refusal)) = self.permit.as_ref().map(Permit::check) {
            Some(End::Refused(refusal))
        } else {
            let limit = self.query.time_max;
            limit.is_some_and(|limit| self.started.elapsed() > limit).then_some(End::TimedOut)
        }
    }

    /// Whether the index was dropped, so that nothing more can be found.
    pub(super) fn is_index_dropped(&self) -> bool {
        self.query.condition.as_ref().is_some_and(Condition::is_dropped)
    }

    /// Takes one sample of the limit; `false` if there are enough.
    pub(super) fn take_sample(&self) -> bool {
        let max = self.query.sample_max;
        max == 0 || self.samples.fetch_add(1, Relaxed) < max
    }

    /// Samples left, if they are limited.
    pub(super) fn samples_left(&self) -> Option<u64> {
        let max = self.query.sample_max;
        (max != 0).then(|| max.saturating_sub(self.samples.load(Relaxed)))
    }

    pub(super) fn has_samples(&self) -> bool {
        self.samples_left() != Some(0)
    }
}

/// The message that ends the replies of a query.
pub(super) fn last_reply(end: End) -> Vec<u8> {
    let mut last = Vec::new();
    reply::write_header_only(&mut last, &ReplyHeader::last(end.result()));
    last
}
