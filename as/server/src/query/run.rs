//! Runs a query: its partitions are divided among one or several threads, each of which sends its results in chunks of
//! its own.
//!
//! # Threads
//! One thread walks a partition, so its records are sent in order. The last thread sends the last message.
//!
//! # Locks
//! Cursors and indexes return the digests of a portion of records. Each record is read under its sprig's lock, shared,
//! without any other; a record that is not in memory is read from its disk before that, without a lock. A filter that
//! takes longer than [`LOCKED_STEPS`] works on a copy of the record, without a lock. While a thread waits for the client it
//! holds no lock and no reservation of the partition.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cf::clock::StoredMillis;
use datamodel::Budget;
use parking_lot::{Condvar, Mutex};
use proto::ResultCode;
use proto::frame::{self, FrameType, HEADER_SIZE};
use proto::reply::{self, ReplyHeader, ReplyWriter};

use super::background::Changer;
use super::condition::Condition;
use super::job::{End, Job};
use super::pace::{Pace, Turns};
use super::request::{Part, Projection, Query, QueryKind, SetFilter};
use super::row::{self, CopiedRecord, FoundEntry, VisitedRecord};
use super::walked::{Stop, WalkedPartition};
use crate::config::Engine;
use crate::index::{Element, Location, ReadGuard, SeenRecord};
use crate::security::Permit;
use crate::storage::{DiskCaller, ReadBuffer};
use crate::transaction::filter;
use crate::transaction::{ReplySink, StalledSenders, TransactionContext};
use crate::udf::Functions;

/// Replies are sent when they reach this size.
const CHUNK_SIZE: usize = 128 << 10;
/// Longest try of a query on the service thread of its client.
const INLINE_TIME_MAX: Duration = Duration::from_millis(1);
/// Steps, of about a nanosecond each, between two checks whether the query must end.
const PORTION_STEPS: u64 = 1_000_000;
/// Steps that a filter and the rest of a visit may take under the lock of a record; longer work uses a copy.
const LOCKED_STEPS: u64 = 50_000;
/// How often a thread checks whether a disk answers again.
const DISK_PERIOD: Duration = Duration::from_millis(20);
/// How long it does so if other queries need the thread.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// A running query, shared by its threads.
pub(super) struct QueryRun {
    pub(super) query: Query,
    pub(super) job: Arc<Job>,
    sink: Option<Arc<dyn ReplySink>>,
    /// The right that its user must keep.
    permit: Option<Permit>,
    transactions: Arc<TransactionContext>,
    /// Counts waiting threads; others may run in their place.
    stalled: Arc<StalledSenders>,
    is_stopping: Arc<AtomicBool>,
    started: Instant,
    /// Set while the query is tried on a service thread, where it must end by then.
    pub(super) inline_until: Option<Instant>,
    next_part: AtomicUsize,
    /// Records that count for `sample_max`.
    samples: AtomicU64,
    pace: Pace,
    /// Why it ends before it is complete.
    end: OnceLock<End>,
    /// Number of threads that work on it; 0 when it has ended.
    threads: AtomicUsize,
    /// Whether no more work is to be done for it. Taken alone and briefly.
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

    /// Tries to carry the query out on the service thread of its client, for at most [`INLINE_TIME_MAX`], into one
    /// frame. Returns the query, with nothing done, if that is not enough.
    pub(super) fn answer_inline(mut self) -> Result<Vec<u8>, Box<Query>> {
        self.inline_until = Some(self.started + INLINE_TIME_MAX);
        let run = Arc::new(self);
        let answer = {
            let may_go_on = || run.reason_to_end().is_none();
            let budget = Budget::with_refill(PORTION_STEPS, &may_go_on);
            let mut walker = Walker::new(&run, &budget);
            let is_done = walker.walk().is_ok() && walker.unsettled.is_empty();
            is_done.then(|| walker.take_frame())
        };
        match (answer, Arc::try_unwrap(run)) {
            (Some(mut answer), _) => {
                answer.extend(last_reply(End::Complete));
                Ok(answer)
            }
            (None, Ok(run)) => Err(Box::new(run.query)),
            (None, Err(_)) => unreachable!("the walker is gone"),
        }
    }

    /// Counts a further thread, besides the one that the query begins with; `false` if the query has ended.
    pub(super) fn join_in(&self) -> bool {
        let more = |count: usize| (count > 0).then_some(count + 1);
        let is_joined = self.threads.fetch_update(AcqRel, Acquire, more).is_ok();
        if is_joined {
            self.job.active_threads.fetch_add(1, Relaxed);
        }
        is_joined
    }

    /// The work of one thread. Returns how the query ended, if this was the last thread.
    pub(super) fn run_thread(self: &Arc<Self>) -> Option<End> {
        // The first reason is kept, as the budget that it ended does not come back.
        let may_go_on = || match self.reason_to_end() {
            Some(end) => {
                self.end_with(end);
                false
            }
            None => true,
        };
        let budget = Budget::with_refill(PORTION_STEPS, &may_go_on);
        let mut walker = Walker::new(self, &budget);
        let mut walked = walker.walk();
        if walked.is_ok() {
            // The rate applies to the last records too.
            walked = walker.keep_last_pace();
        } else if matches!(self.query.kind, QueryKind::Aggregation(_)) {
            // Values that a function has yielded, and the error of a failed one, are sent. The first end counts.
            let _ = walker.send();
        }
        if let Err(end) = walked {
            self.end_with(end);
        }
        walker.note_sent();
        self.leave()
    }

    /// Notes why the query ends early; the first reason counts.
    pub(super) fn end_with(&self, end: End) {
        // A later reason is ignored.
        let _ = self.end.set(end);
    }

    /// Ends the query like one whose client does not read: others need its resources.
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

    /// Whether there is a partition that no thread has taken.
    pub(super) fn has_parts_left(&self) -> bool {
        self.next_part.load(Relaxed) < self.query.parts.len()
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Why the query must end early, if it must.
    pub(super) fn reason_to_end(&self) -> Option<End> {
        if let Some(end) = self.end.get() {
            Some(*end)
        } else if self.is_index_dropped() {
            Some(End::IndexDropped)
        } else if self.is_stopping.load(Relaxed) || self.job.is_aborted.load(Relaxed) {
            Some(End::Aborted)
        } else if self.sink.as_ref().is_some_and(|sink| sink.is_closed()) {
            Some(End::Unread)
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
    fn is_index_dropped(&self) -> bool {
        self.query.condition.as_ref().is_some_and(Condition::is_dropped)
    }

    /// Takes one sample of the limit; `false` if there are enough.
    fn take_sample(&self) -> bool {
        let max = self.query.sample_max;
        max == 0 || self.samples.fetch_add(1, Relaxed) < max
    }

    /// Samples left, if they are limited.
    pub(super) fn samples_left(&self) -> Option<u64> {
        let max = self.query.sample_max;
        (max != 0).then(|| max.saturating_sub(self.samples.load(Relaxed)))
    }

    fn has_samples(&self) -> bool {
        self.samples_left() != Some(0)
    }
}

/// The message that ends the replies of a query.
pub(super) fn last_reply(end: End) -> Vec<u8> {
    let mut last = Vec::new();
    reply::write_header_only(&mut last, &ReplyHeader::last(end.result()));
    last
}

/// One thread's work on a query.
pub(super) struct Walker<'a> {
    pub(super) run: &'a Arc<QueryRun>,
    /// The partition it walks; `None` between two parts.
    walked: Option<WalkedPartition<'a>>,
    /// One frame under construction: its header, then messages.
    pub(super) chunk: Vec<u8>,
    /// Records since the last check of the rate.
    since_look: u64,
    /// Lets clients and service threads run that its processor is shared with.
    turns: Turns,
    /// Records sent that are not noted in the job yet, which all threads share.
    sent: u64,
    pub(super) now: StoredMillis,
    pub(super) scratch: ReadBuffer,
    /// Records in the chunk that must be on disk before it is sent.
    pub(super) unsettled: Vec<Location>,
    /// Budget of filters and bins of records.
    pub(super) budget: &'a Budget<'a>,
    /// Carries out the operations, in a query that changes records.
    changer: Option<Changer<'a>>,
}

/// The outcome for a record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Visited {
    Passed,
    LeftOut,
}

impl<'a> Walker<'a> {
    fn new(run: &'a Arc<QueryRun>, budget: &'a Budget<'a>) -> Self {
        let changer = match &run.query.kind {
            QueryKind::Basic(_) | QueryKind::Aggregation(_) => None,
            QueryKind::Operations(operations) => Changer::new(operations, &run.query, &run.transactions),
        };
        Walker {
            run,
            walked: None,
            chunk: vec![0; HEADER_SIZE],
            since_look: 0,
            turns: Turns::default(),
            sent: 0,
            now: StoredMillis::now(),
            scratch: ReadBuffer::of(DiskCaller::Queries),
            unsettled: Vec::new(),
            budget,
            changer,
        }
    }

    /// Walks through parts until none is left; an error is the reason for an early end.
    fn walk(&mut self) -> Result<(), End> {
        loop {
            let at = self.run.next_part.fetch_add(1, Relaxed);
            let Some(part) = self.run.query.parts.get(at) else {
                return if self.run.is_index_dropped() { Err(End::IndexDropped) } else { Ok(()) };
            };
            self.check_end()?;
            let walked = self.reserve_part(part).and_then(|()| self.walk_part(part));
            self.walked = None;
            match walked {
                Ok(_) => {}
                Err(Stop::PartitionLost) => self.tell_lost(part),
                Err(Stop::Query(end)) => return Err(end),
            }
            self.run.job.partitions_done.fetch_add(1, Relaxed);
        }
    }

    fn reserve_part(&mut self, part: &Part) -> Result<(), Stop> {
        let Query { namespace, access, .. } = &self.run.query;
        self.walked = WalkedPartition::reserve(&namespace.partitions, part.partition, *access);
        if self.walked.is_some() { Ok(()) } else { Err(Stop::PartitionLost) }
    }

    /// Reports a part that is not read here, or not to its end. A client that has named it asks another node for the
    /// rest. In a query for all partitions each node reads its own.
    fn tell_lost(&mut self, part: &Part) {
        let query = &self.run.query;
        if query.has_parts {
            let number = part.partition.index() as u32;
            let header = ReplyHeader::partition_done(number, ResultCode::Unavailable);
            ReplyWriter::unframed(&mut self.chunk).finish(&header);
        } else {
            cf::detail!(
                Query,
                "{{{}}} query {} leaves partition {} to another node",
                query.namespace.name(),
                self.run.job.id,
                part.partition.index()
            );
        }
    }

    /// Walks through one part; breaks when there are enough records.
    fn walk_part(&mut self, part: &Part) -> Result<ControlFlow<()>, Stop> {
        let run = self.run;
        if run.query.set == SetFilter::None || !run.has_samples() {
            return Ok(ControlFlow::Continue(()));
        }
        if let QueryKind::Aggregation(aggregation) = &run.query.kind {
            return Ok(ControlFlow::Continue(self.aggregate(aggregation, part)?));
        }
        match &run.query.condition {
            None => self.walk_primary(part),
            Some(condition) => self.walk_secondary(condition, part),
        }
    }

    /// Reads the clock: records that have expired meanwhile no longer exist.
    pub(super) fn read_clock(&mut self) {
        self.now = StoredMillis::now();
    }

    /// Whether the query selects the record of `element`, as far as the index tells.
    pub(super) fn is_wanted(&self, element: &Element) -> bool {
        self.run.query.set.admits(element.set_id)
            && element.generation != 0
            && !self.run.query.namespace.is_gone(element, self.now.seconds())
    }

    /// Processes the record of `guard` if it passes; breaks when there are enough. `entry` is the index entry that led
    /// to it. Others need the record's lock meanwhile: long work uses a copy.
    pub(super) fn visit(
        &mut self,
        guard: ReadGuard<'_>,
        entry: Option<FoundEntry>,
    ) -> ControlFlow<(), Visited> {
        let short = Budget::new(LOCKED_STEPS);
        let visited = self.look_at(VisitedRecord::Locked(&guard), entry, &short);
        // The walk checks whether the budget is exhausted.
        let _ = self.budget.draw(short.drawn());
        if !short.is_exhausted() {
            return visited;
        }
        let copy = CopiedRecord::of(&self.run.query.namespace, guard, &mut self.scratch);
        if self.scratch.is_unread() {
            // It is read first, and looked at again: nothing may count yet.
            return ControlFlow::Continue(Visited::LeftOut);
        }
        self.look_at(VisitedRecord::Copied(&copy), entry, self.budget)
    }

    fn look_at(
        &mut self,
        found: VisitedRecord<'_>,
        entry: Option<FoundEntry>,
        budget: &Budget<'_>,
    ) -> ControlFlow<(), Visited> {
        let (run, seen) = (self.run, found.seen());
        let asked = run.query.filter.as_ref().map_or(Ok(None), |filter| {
            let metadata = filter::metadata_of(&run.query.namespace, &seen.digest, &seen.meta, self.now);
            filter::ask(filter, metadata, budget)
        });
        let Ok(question) = asked else {
            if !budget.is_exhausted() {
                run.job.records_filtered_by_metadata.fetch_add(1, Relaxed);
                if let Some(changer) = &self.changer {
                    changer.count_filtered();
                }
            }
            return ControlFlow::Continue(Visited::LeftOut);
        };
        let QueryKind::Basic(projection) = &run.query.kind else {
            return ControlFlow::Continue(Visited::Passed);
        };
        let row = row::QueryRow { query: &run.query, projection, found, entry, budget };
        match row.write(question.as_ref(), &mut self.scratch, || run.take_sample(), &mut self.chunk) {
            Ok(row::Written::Sent) => {
                if run.query.namespace.storage.is_unsettled(seen.meta.location) {
                    self.unsettled.push(seen.meta.location);
                }
            }
            Ok(row::Written::WithoutBins) => {}
            Ok(row::Written::Enough) => return ControlFlow::Break(()),
            Ok(row::Written::NoMatch) => return ControlFlow::Continue(Visited::LeftOut),
            Err(_) if budget.is_exhausted() || self.scratch.is_unread() => {
                return ControlFlow::Continue(Visited::LeftOut);
            }
            Err(ResultCode::FilteredOut) => {
                run.job.records_filtered_by_bins.fetch_add(1, Relaxed);
                if run.query.namespace.config().storage.engine == Engine::Device {
                    self.count_for_rate();
                }
                return ControlFlow::Continue(Visited::LeftOut);
            }
            Err(_) => {
                // A record that cannot be read is logged and skipped.
                run.job.records_failed.fetch_add(1, Relaxed);
                return ControlFlow::Continue(Visited::LeftOut);
            }
        }
        self.sent += 1;
        self.count_for_rate();
        ControlFlow::Continue(Visited::Passed)
    }

    /// Sends a record from its metadata, for a query that needs no more; breaks when there are enough.
    pub(super) fn send_metadata(
        &mut self,
        projection: &Projection,
        found: &SeenRecord,
    ) -> Result<ControlFlow<()>, Stop> {
        let run = self.run;
        if !run.take_sample() {
            return Ok(ControlFlow::Break(()));
        }
        let row = row::RowHead { query: &run.query, projection, entry: None };
        if row.write(found, None, &mut self.chunk).is_ok() {
            self.sent += 1;
        }
        if run.query.namespace.storage.is_unsettled(found.meta.location) {
            self.unsettled.push(found.meta.location);
        }
        self.count_for_rate();
        self.go_on(&found.digest)?;
        Ok(ControlFlow::Continue(()))
    }

    /// Notes sent records in the job.
    fn note_sent(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        if sent > 0 {
            self.run.job.records_sent.fetch_add(sent, Relaxed);
        }
    }

    /// Continues after a record, whose lock is released: changes it if the query does that, sends a full chunk, and
    /// keeps the rate.
    pub(super) fn go_on(&mut self, digest: &cf::Digest) -> Result<(), Stop> {
        if self.changer.is_some() {
            self.release_partition();
            self.read_clock();
        }
        if let Some(changer) = &mut self.changer {
            changer.change(digest, &self.run.job, self.now);
            self.count_for_rate();
        }
        if self.is_chunk_full() {
            self.release_partition();
            self.send()?;
        }
        self.rest()
    }

    /// Releases the reservation of the partition for a wait.
    pub(super) fn release_partition(&mut self) {
        self.walked.as_mut().into_iter().for_each(WalkedPartition::release);
    }

    /// Reserves the partition again while there is work to do.
    ///
    /// # Errors
    /// When it is lost.
    #[inline]
    pub(super) fn keep_partition(&mut self) -> Result<(), Stop> {
        self.walked.as_mut().map_or(Ok(()), WalkedPartition::go_on)
    }

    /// If the last record was not in memory, reads it from its disk; then the caller, which holds no guard, must look for it
    /// again. If the disk does not answer, waits until it does; others may run in the place of this thread meanwhile.
    #[inline]
    pub(super) fn must_look_again(&mut self) -> Result<bool, Stop> {
        if self.scratch.is_unread() { self.fetch() } else { Ok(false) }
    }

    #[cold]
    fn fetch(&mut self) -> Result<bool, Stop> {
        if self.run.query.namespace.storage.fetch(&mut self.scratch) {
            return Ok(true);
        }
        if self.scratch.take_stuck().is_none() {
            return Ok(false);
        }
        if self.run.inline_until.is_some() {
            // A service thread must not wait.
            return Err(Stop::Query(End::TimedOut));
        }
        self.release_partition();
        let (stalled, since) = (self.run.stalled.enter(), Instant::now());
        while self.run.query.namespace.storage.is_stuck() {
            std::thread::sleep(DISK_PERIOD);
            self.check_end()?;
            if since.elapsed() >= DISK_PATIENCE && stalled.must_give_up() {
                return Err(Stop::Query(End::Failed));
            }
        }
        self.keep_partition()?;
        Ok(true)
    }

    /// Whether the chunk is large enough to be sent.
    pub(super) fn is_chunk_full(&self) -> bool {
        self.chunk.len() >= CHUNK_SIZE
    }

    /// Counts a record that was read, for the rate only.
    pub(super) fn count_read(&mut self) {
        self.since_look += 1;
    }

    /// Keeps the rate, if a check is due, the length of turns, and the partition's reservation.
    pub(super) fn rest(&mut self) -> Result<(), Stop> {
        self.turns.count_record();
        if self.run.pace.is_due(self.since_look) {
            self.release_partition();
            self.keep_pace()?;
        }
        self.keep_partition()
    }

    /// Counts a record that was sent or changed, or read from a device and filtered out.
    fn count_for_rate(&mut self) {
        self.since_look += 1;
        if self.run.query.records_per_second != 0 {
            self.run.job.records_throttled.fetch_add(1, Relaxed);
        }
    }

    /// Waits to keep the rate; the chunk is sent first.
    fn keep_pace(&mut self) -> Result<(), End> {
        self.send()?;
        let count = std::mem::take(&mut self.since_look);
        self.run.pace.add(count);
        while let Some(early) = self.run.pace.early(self.run.started) {
            std::thread::sleep(early);
            self.check_end()?;
        }
        self.read_clock();
        Ok(())
    }

    /// Sends the last chunk, and waits to keep the rate. All is sent then, so whatever ends the wait does not change the result.
    fn keep_last_pace(&mut self) -> Result<(), End> {
        self.send()?;
        self.run.pace.add(std::mem::take(&mut self.since_look));
        while let Some(early) = self.run.pace.early(self.run.started) {
            std::thread::sleep(early);
            if self.check_end().is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Waits until the records in the chunk are on disk. If that fails, they are not sent.
    pub(super) fn settle(&mut self) -> Result<(), End> {
        for location in self.unsettled.drain(..) {
            if self.run.query.namespace.storage.settle(location, DiskCaller::Queries).is_err() {
                self.chunk.truncate(HEADER_SIZE);
                return Err(End::Failed);
            }
        }
        Ok(())
    }

    /// Sends the chunk.
    pub(super) fn send(&mut self) -> Result<(), End> {
        if self.run.inline_until.is_some() {
            // A short answer must fit in one frame.
            return Err(End::TimedOut);
        }
        self.settle()?;
        let frame = self.take_frame();
        if let Some(sink) = self.run.sink.as_ref().filter(|_| !frame.is_empty()) {
            let (size, start) = (frame.len() as u64, Instant::now());
            sink.send(frame).map_err(|_| End::Unread)?;
            self.run.job.bytes_sent.fetch_add(size, Relaxed);
            self.run.job.send_nanos.fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
        }
        self.now = StoredMillis::now();
        self.check_end()
    }

    /// Whether the query must end; called regularly.
    pub(super) fn check_end(&mut self) -> Result<(), End> {
        self.note_sent();
        self.run.reason_to_end().map_or(Ok(()), Err)
    }

    /// The chunk as a frame, or nothing if it has no message; starts the next one.
    fn take_frame(&mut self) -> Vec<u8> {
        if self.chunk.len() == HEADER_SIZE {
            return Vec::new();
        }
        let mut chunk = std::mem::replace(&mut self.chunk, vec![0; HEADER_SIZE]);
        let header = frame::header_bytes(FrameType::Message, chunk.len() - HEADER_SIZE);
        chunk[..HEADER_SIZE].copy_from_slice(&header);
        chunk
    }
}
