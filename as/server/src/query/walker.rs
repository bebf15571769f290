//! The work of one thread on a query: it walks through parts, and sends the records that it finds in its own
//! chunks.
//!
//! # Threads
//! One thread walks a partition, so its records are sent in order.
//!
//! # Locks
//! Cursors and indexes return the digests of a portion of records. Each record is read under its sprig's lock,
//! shared, without any other lock. A record that is not in memory is read from its disk before that, without a lock.
//! A filter that takes longer than [`LOCKED_STEPS`] works on a copy of the record, without a lock. While a thread
//! waits for the client it holds no lock and no reservation of the partition.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use cf::clock::StoredMillis;
use datamodel::Budget;
use datamodel::sindex::Key;
use proto::ResultCode;
use proto::frame::{self, FrameType, HEADER_SIZE};
use proto::reply::{ReplyHeader, ReplyWriter};

use super::background::Changer;
use super::job::End;
use super::pace::Turns;
use super::request::{Part, Projection, Query, QueryKind, SetFilter};
use super::row::{self, CopiedRecord, FoundEntry, VisitedRecord};
use super::run::{QueryRun, last_reply};
use super::walked::{Stop, WalkedPartition};
use crate::config::Engine;
use crate::index::{Element, IndexEntry, Location, ReadGuard, SeenRecord};
use crate::storage::{DiskCaller, ReadBuffer};
use crate::transaction::filter;

/// Longest try of a query on the service thread of its client.
const INLINE_TIME_MAX: Duration = Duration::from_millis(1);
/// Steps, of about a nanosecond each, between two checks whether the query must end.
const PORTION_STEPS: u64 = 1_000_000;
/// Replies are sent when they reach this size.
const CHUNK_SIZE: usize = 128 << 10;
/// Room for the record with which they reach it.
const CHUNK_ROOM: usize = 16 << 10;
/// A thread checks whether its query must end at least once in so many records.
const CHECK_RECORDS: usize = 256;
/// A partition counts as so many of them.
const PARTITION_RECORDS: usize = 16;
/// Steps that a filter and the rest of a visit may take under the lock of a record; longer work uses a copy.
const LOCKED_STEPS: u64 = 50_000;
/// How often a thread checks whether a disk answers again.
const DISK_PERIOD: Duration = Duration::from_millis(20);
/// How long it does so if other queries need the thread.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

impl QueryRun {
    /// Tries to carry the query out on the service thread of its client, for at most [`INLINE_TIME_MAX`], into one
    /// frame. If that is not enough, returns the query, and nothing has been done.
    pub(super) fn answer_inline(mut self) -> Result<Vec<u8>, Box<Query>> {
        self.inline_until = Some(self.started + INLINE_TIME_MAX);
        let run = Arc::new(self);
        let answer = {
            let may_go_on = || run.reason_to_end().is_none();
            let budget = Budget::with_refill(PORTION_STEPS, &may_go_on);
            let mut walker = Walker::new(&run, &budget);
            let is_done = walker.walk().is_ok() && walker.unsettled.is_empty();
            walker.note_sent();
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

    /// The work of one thread. Returns how the query ended, if this was the last thread.
    pub(super) fn run_thread(self: &Arc<Self>) -> Option<End> {
        // The first reason is kept, because the budget that it ended stays exhausted.
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
}

/// One thread's work on a query.
pub(super) struct Walker<'a> {
    pub(super) run: &'a Arc<QueryRun>,
    /// The partition it walks; `None` between two parts.
    walked: Option<WalkedPartition<'a>>,
    /// One frame under construction: its header, then messages.
    pub(super) chunk: Vec<u8>,
    /// Index entries of the partition it walks.
    pub(super) entries: Vec<IndexEntry<Key>>,
    /// Records since the last check whether the query must end.
    unchecked: usize,
    /// Records since the last check of the rate.
    since_look: u64,
    /// Lets clients and service threads run that share its processor.
    turns: Turns,
    /// Records sent that are not counted yet in the job, which all threads share.
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
    pub(super) fn new(run: &'a Arc<QueryRun>, budget: &'a Budget<'a>) -> Self {
        let changer = match &run.query.kind {
            QueryKind::Basic(_) | QueryKind::Aggregation(_) => None,
            QueryKind::Operations(operations) => Changer::new(operations, &run.query, &run.transactions),
        };
        Walker {
            run,
            walked: None,
            chunk: vec![0; HEADER_SIZE],
            entries: Vec::new(),
            // The first part begins with a check.
            unchecked: CHECK_RECORDS,
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
    pub(super) fn walk(&mut self) -> Result<(), End> {
        loop {
            let parts = self.run.take_parts();
            if parts.is_empty() {
                self.check_end_after(0)?;
                return if self.run.is_index_dropped() { Err(End::IndexDropped) } else { Ok(()) };
            }
            for (at, part) in parts.iter().enumerate() {
                self.check_end_after(PARTITION_RECORDS)?;
                self.walk_whole(part, parts.get(at + 1))?;
                self.run.job.partitions_done.fetch_add(1, Relaxed);
            }
        }
    }

    /// Walks through one part, unless it is lost; it walks through `next` afterwards.
    fn walk_whole(&mut self, part: &Part, next: Option<&Part>) -> Result<(), End> {
        let walked = self.reserve_part(part).and_then(|()| self.walk_part(part, next));
        self.walked = None;
        match walked {
            Ok(_) => Ok(()),
            Err(Stop::PartitionLost) => {
                self.tell_lost(part);
                Ok(())
            }
            Err(Stop::Query(end)) => Err(end),
        }
    }

    fn reserve_part(&mut self, part: &Part) -> Result<(), Stop> {
        let Query { namespace, access, .. } = &self.run.query;
        self.walked = WalkedPartition::reserve(&namespace.partitions, part.partition, *access);
        if self.walked.is_some() { Ok(()) } else { Err(Stop::PartitionLost) }
    }

    /// Reports a part that is not read here, or not to its end. A client that has named the partition asks another
    /// node for the rest. In a query for all partitions each node reads its own.
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

    /// Walks through one part, and then through `next`; breaks when there are enough records.
    fn walk_part(&mut self, part: &Part, next: Option<&Part>) -> Result<ControlFlow<()>, Stop> {
        let run = self.run;
        if run.query.set == SetFilter::None || !run.has_samples() {
            return Ok(ControlFlow::Continue(()));
        }
        if let QueryKind::Aggregation(aggregation) = &run.query.kind {
            return Ok(ControlFlow::Continue(self.aggregate(aggregation, part)?));
        }
        match &run.query.condition {
            None => self.walk_primary(part),
            Some(condition) => self.walk_secondary(condition, part, next),
        }
    }

    /// Reads the clock: records that have expired meanwhile no longer exist.
    pub(super) fn read_clock(&mut self) {
        self.now = StoredMillis::now();
    }

    /// Whether the query selects the record of `element` according to the index.
    pub(super) fn is_wanted(&self, element: &Element) -> bool {
        self.run.query.set.admits(element.set_id)
            && element.generation != 0
            && !self.run.query.namespace.is_gone(element, self.now.seconds())
    }

    /// Processes the record of `guard` if it passes; breaks when there are enough. `entry` is the index entry that
    /// led to it. Long work uses a copy of the record, because other threads need its lock.
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
            // The record is read from its disk first and visited again, so nothing is counted yet.
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
        if !run.has_samples() {
            // No filter is evaluated any more, so nothing is counted as filtered.
            return ControlFlow::Break(());
        }
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
    pub(super) fn note_sent(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        if sent > 0 {
            self.run.job.records_sent.fetch_add(sent, Relaxed);
        }
    }

    /// Continues after a record, whose lock is released: changes the record in a background query, sends a full
    /// chunk, and keeps the rate.
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

    /// Whether the caller, which holds no guard, must look up the last record again: the record was not in memory,
    /// and has now been read from its disk. While the disk does not answer, this thread waits, and others may run in
    /// its place.
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

    /// Keeps the rate if a check is due, lets other threads run if the turn is over, and keeps the partition's
    /// reservation.
    pub(super) fn rest(&mut self) -> Result<(), Stop> {
        // A service thread does not yield here: other clients wait for it.
        if self.run.inline_until.is_none() {
            self.turns.count_record();
        }
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

    /// Sends the last chunk, and waits to keep the rate. Everything is sent before the wait, so a reason to end the
    /// wait does not change the result.
    pub(super) fn keep_last_pace(&mut self) -> Result<(), End> {
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
        if frame.len() >= CHUNK_SIZE {
            // The next one is probably as large.
            self.chunk.reserve_exact(CHUNK_SIZE + CHUNK_ROOM);
        }
        if let Some(sink) = self.run.sink.as_ref().filter(|_| !frame.is_empty()) {
            let (size, start) = (frame.len() as u64, Instant::now());
            sink.send(frame).map_err(|_| self.run.reason_to_end().unwrap_or(End::Unread))?;
            self.run.job.bytes_sent.fetch_add(size, Relaxed);
            self.run.job.send_nanos.fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
        }
        self.now = StoredMillis::now();
        self.check_end()
    }

    /// Checks whether the query must end if that is due after `count` further records, or if the budget is exhausted: then
    /// records were left out.
    #[inline]
    pub(super) fn check_end_after(&mut self, count: usize) -> Result<(), End> {
        self.unchecked += count;
        if self.unchecked >= CHECK_RECORDS || self.budget.is_exhausted() { self.check_end() } else { Ok(()) }
    }

    /// Whether the query must end; called regularly.
    pub(super) fn check_end(&mut self) -> Result<(), End> {
        self.unchecked = 0;
        self.note_sent();
        match self.run.reason_to_end() {
            Some(end) => Err(end),
            // The reason for which the budget ended has passed.
            None if self.budget.is_exhausted() => Err(End::TimedOut),
            None => Ok(()),
        }
    }

    /// The chunk as a frame, or nothing if it has no message; starts the next one.
    pub(super) fn take_frame(&mut self) -> Vec<u8> {
        if self.chunk.len() == HEADER_SIZE {
            return Vec::new();
        }
        let mut chunk = std::mem::replace(&mut self.chunk, vec![0; HEADER_SIZE]);
        let header = frame::header_bytes(FrameType::Message, chunk.len() - HEADER_SIZE);
        chunk[..HEADER_SIZE].copy_from_slice(&header);
        chunk
    }
}
