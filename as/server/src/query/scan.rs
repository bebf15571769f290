//! Running a basic query by primary index: partition by partition, in the order in which clients page.
//!
//! # Locks
//! A cursor gives the digests of a portion of records. Each record is read under its sprig's lock, shared, that of no
//! other; no lock is held while the client is waited for.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use cf::clock::StoredMillis;
use datamodel::Budget;
use datamodel::exp::Filter;
use datamodel::flat::FlatError;
use proto::ResultCode;
use proto::frame::{self, FrameType, HEADER_SIZE};
use proto::message::{field, info1, op_code};
use proto::reply::{self, ReplyHeader, ReplyWriter};

use super::job::{End, Job};
use super::request::{Part, Query, SetFilter, warn_of_filter};
use crate::config::Engine;
use crate::index::{Element, Location};
use crate::namespace::Namespace;
use crate::storage::ReadBuffer;
use crate::transaction::ReplySink;
use crate::transaction::filter::{self, OpenQuestion};

/// Replies are sent when they reach this size.
const CHUNK_SIZE: usize = 128 << 10;
/// How many records ahead of the one that is read stored bytes are asked of memory.
const PREFETCH_DISTANCE: usize = 8;
/// Steps, of about a nanosecond each, that filters and records take between two looks at whether the query is to end.
const PORTION_STEPS: u64 = 1_000_000;
/// With a rate limit, how often it is kept to.
const PACE_PERIOD: Duration = Duration::from_millis(50);

struct Scan<'a> {
    query: &'a Query,
    filter: Option<&'a Filter<'a>>,
    job: &'a Job,
    sink: &'a dyn ReplySink,
    is_stopping: &'a AtomicBool,
    started: Instant,
    /// One frame in the making: its header, then messages.
    chunk: Vec<u8>,
    record_count: u64,
    /// Records that count for the rate limit: those sent, and those read from a device only to be filtered out.
    throttled: u64,
    /// Those of them since the last send.
    since_send: u64,
    now: StoredMillis,
    scratch: ReadBuffer,
    /// Records in the chunk that must be on disk before it is sent.
    unsettled: Vec<Location>,
    /// What filters and bins of records draw on.
    budget: &'a Budget<'a>,
}

/// Runs `query` and sends its replies, the last one included. Returns how it ended.
pub(super) fn run(query: &Query, job: &Job, sink: &dyn ReplySink, is_stopping: &AtomicBool) -> End {
    let started = Instant::now();
    let may_go_on = || reason_to_end(query, job, sink, is_stopping, started).is_none();
    let budget = Budget::with_refill(PORTION_STEPS, &may_go_on);
    let mut compiled = None;
    let filter = query.filter.get(&mut compiled, &budget);
    let mut scan = Scan {
        query,
        filter: filter.unwrap_or_default(),
        job,
        sink,
        is_stopping,
        started,
        chunk: vec![0; HEADER_SIZE],
        record_count: 0,
        throttled: 0,
        since_send: 0,
        now: StoredMillis::now(),
        scratch: ReadBuffer::new(),
        unsettled: Vec::new(),
        budget: &budget,
    };
    let walked = match filter {
        Ok(_) => scan.walk(),
        Err(_) if budget.is_exhausted() => scan.check_end(),
        Err(_) => {
            warn_of_filter(&query.namespace);
            Err(End::BadFilter)
        }
    };
    let end = scan.settle().and(walked).err().unwrap_or(End::Complete);
    let mut last = scan.take_frame();
    last.extend(last_reply(end));
    job.bytes_sent.fetch_add(last.len() as u64, Relaxed);
    sink.finish(last);
    end
}

/// The message that ends the replies of a query.
pub(super) fn last_reply(end: End) -> Vec<u8> {
    let mut last = Vec::new();
    reply::write_header_only(&mut last, &ReplyHeader::last(end.result()));
    last
}

impl Scan<'_> {
    /// Goes through all parts; an error is what ended it early.
    fn walk(&mut self) -> Result<(), End> {
        if self.query.set == SetFilter::None {
            return Ok(());
        }
        for part in &self.query.parts {
            if self.walk_part(part)?.is_break() {
                return Ok(());
            }
            self.job.partitions_done.fetch_add(1, Relaxed);
            self.check_end()?;
        }
        Ok(())
    }

    /// Goes through one part; breaks when there are enough records.
    fn walk_part(&mut self, part: &Part) -> Result<ControlFlow<()>, End> {
        let query = self.query;
        let Namespace { index, storage, .. } = &*query.namespace;
        let mut cursor = index.cursor(part.partition, part.after.as_ref());
        while let Some(portion) = cursor.next_portion(|element| self.is_wanted(element)) {
            for (at, found) in portion.iter().enumerate() {
                if query.sample_max != 0 && self.record_count >= query.sample_max {
                    return Ok(ControlFlow::Break(()));
                }
                if let Some(ahead) = portion.get(at + PREFETCH_DISTANCE) {
                    storage.prefetch(ahead.location);
                }
                // It may have gone or changed since the cursor saw it.
                let Some(guard) = index.get(&found.digest) else { continue };
                if self.is_wanted(&guard) && self.add(&guard) {
                    self.record_count += 1;
                    self.count_for_rate();
                    self.job.records_sent.store(self.record_count, Relaxed);
                }
                drop(guard);
                if self.chunk.len() >= CHUNK_SIZE || self.is_ahead_of_rate() {
                    self.send()?;
                }
            }
            self.check_end()?;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn count_for_rate(&mut self) {
        self.throttled += 1;
        self.since_send += 1;
        if self.query.records_per_second != 0 {
            self.job.records_throttled.store(self.throttled, Relaxed);
        }
    }

    /// Whether it is time to see whether the rate limit is kept.
    fn is_ahead_of_rate(&self) -> bool {
        let rate = u64::from(self.query.records_per_second);
        rate != 0 && self.since_send > rate / (1000 / PACE_PERIOD.as_millis() as u64)
    }

    fn is_wanted(&self, element: &Element) -> bool {
        let in_set = match self.query.set {
            SetFilter::All => true,
            SetFilter::One(id) => element.set_id == id,
            SetFilter::None => false,
        };
        in_set && element.generation != 0 && !self.query.namespace.is_gone(element, self.now.seconds())
    }

    /// Adds the record of `element` to the chunk; returns whether there was something to add.
    fn add(&mut self, element: &Element) -> bool {
        let query = self.query;
        let asked = self.filter.map_or(Ok(None), |filter| {
            filter::ask(filter, filter::metadata(&query.namespace, element, self.now), self.budget)
        });
        let Ok(question) = asked else {
            if self.budget.is_exhausted() {
                return false;
            }
            self.job.records_filtered_by_metadata.fetch_add(1, Relaxed);
            return false;
        };
        match write_record(query, element, question.as_ref(), &mut self.scratch, &mut self.chunk) {
            Ok(has_wanted_bins) => {
                if has_wanted_bins && query.namespace.storage.is_unsettled(element.location) {
                    self.unsettled.push(element.location);
                }
                return has_wanted_bins;
            }
            Err(_) if self.budget.is_exhausted() => return false,
            Err(ResultCode::FilteredOut) => {
                if query.namespace.config().storage.engine == Engine::Device {
                    self.count_for_rate();
                }
                &self.job.records_filtered_by_bins
            }
            // What cannot be read is logged and left out.
            Err(_) => &self.job.records_failed,
        }
        .fetch_add(1, Relaxed);
        false
    }

    /// Waits until the records in the chunk are on disk. Where that fails nobody is told of them.
    fn settle(&mut self) -> Result<(), End> {
        for location in self.unsettled.drain(..) {
            if self.query.namespace.storage.settle(location).is_err() {
                self.chunk.truncate(HEADER_SIZE);
                return Err(End::Failed);
            }
        }
        Ok(())
    }

    /// Sends the chunk, and waits as long as the rate limit asks.
    fn send(&mut self) -> Result<(), End> {
        self.settle()?;
        let frame = self.take_frame();
        if !frame.is_empty() {
            let (size, start) = (frame.len() as u64, Instant::now());
            self.sink.send(frame).map_err(|_| End::Unread)?;
            self.job.bytes_sent.fetch_add(size, Relaxed);
            self.job.send_nanos.fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
        }
        let rate = self.query.records_per_second;
        if rate != 0 {
            let due = Duration::from_secs_f64(self.throttled as f64 / f64::from(rate));
            while let Some(early) = due.checked_sub(self.started.elapsed()).filter(|early| !early.is_zero()) {
                std::thread::sleep(early.min(PACE_PERIOD));
                self.check_end()?;
            }
        }
        self.now = StoredMillis::now();
        self.since_send = 0;
        self.check_end()
    }

    fn check_end(&self) -> Result<(), End> {
        let reason = reason_to_end(self.query, self.job, self.sink, self.is_stopping, self.started);
        reason.map_or(Ok(()), Err)
    }

    /// The chunk as a frame, or nothing if no message is in it; starts the next one.
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

/// Why a query that began at `started` is to end early, if it is.
fn reason_to_end(
    query: &Query,
    job: &Job,
    sink: &dyn ReplySink,
    is_stopping: &AtomicBool,
    started: Instant,
) -> Option<End> {
    if is_stopping.load(Relaxed) || job.is_aborted.load(Relaxed) {
        Some(End::Aborted)
    } else if sink.is_closed() {
        Some(End::Unread)
    } else {
        query.time_max.is_some_and(|limit| started.elapsed() > limit).then_some(End::TimedOut)
    }
}

/// Appends a record as a message; returns whether it has any of the wanted bins.
///
/// # Errors
/// `FilteredOut` when it is not what `question` asks for, others when it cannot be read.
fn write_record(
    query: &Query,
    element: &Element,
    question: Option<&OpenQuestion<'_>>,
    scratch: &mut ReadBuffer,
    out: &mut Vec<u8>,
) -> Result<bool, ResultCode> {
    let damaged = |error: FlatError| query.namespace.report_damage(element, &error);
    let record = query.namespace.record(element, scratch)?;
    question.map_or(Ok(()), |question| question.resolve(&record, record.key))?;
    let mut reply = ReplyWriter::unframed(out);
    reply.field(field::NAMESPACE, query.namespace.name().as_bytes());
    reply.field(field::DIGEST, &element.digest().0);
    if let Some(set) = query.namespace.set_of(element) {
        reply.field(field::SET, &set.name);
    }
    if let Some(key) = record.key {
        reply.field(field::KEY, key);
    }
    if !query.without_bins {
        let mut found = query.bins.is_none();
        if query.bins.is_none() {
            for bin in record.bins() {
                let bin = bin.map_err(damaged)?;
                reply.op(op_code::READ, bin.name, bin.particle.type_number(), |out| {
                    bin.particle.write_wire(out);
                });
            }
        }
        for name in query.bins.iter().flatten() {
            if let Some(particle) = record.bin(name).map_err(damaged)? {
                reply.op(op_code::READ, name, particle.type_number(), |out| particle.write_wire(out));
                found = true;
            }
        }
        if !found {
            return Ok(false);
        }
    }
    reply.finish(&ReplyHeader {
        info1: if query.without_bins { info1::GET_NO_BINS } else { 0 },
        generation: u32::from(element.generation),
        void_time: element.void_time,
        ..ReplyHeader::result(ResultCode::Ok)
    });
    Ok(true)
}
