//! Aggregations: the server's part of a stream function runs over the records of each partition that has records. The
//! values that it yields are sent as messages with a bin `SUCCESS`. An error is the value of a bin `FAILURE`, and
//! ends the query.
//!
//! # Bounds
//! Records are copied one at a time under their sprig's lock, shared, after they are read from a disk if necessary.
//! The function runs without a lock and without a reservation of the partition. Its interpreter bounds memory, and
//! the time between two records or values. While the client does not take a value, the function waits, and other
//! functions run in its place. If the partition goes to another node while the function runs, the query fails,
//! because a result over a part of the records is useless.

use std::sync::Arc;

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::flat::{FlatError, FlatRecord};
use datamodel::sindex::Key;
use proto::ResultCode;
use proto::message::op_code;
use proto::reply::{ReplyHeader, ReplyWriter};

use super::condition::{Condition, Resume};
use super::job::End;
use super::operations::Aggregation;
use super::repeats::Repeats;
use super::request::{Part, Query};
use super::walked::Stop;
use super::walker::Walker;
use crate::config::Engine;
use crate::index::IndexEntry;
use crate::namespace::{RecordWalk, stored_size};
use crate::udf::{self, FoundRecord, FunctionCall, Output, RecordInput, StreamClosed, StreamOwner};

/// Index entries collected at once.
const PORTION_SIZE: usize = 4_096;
/// Maximum number of records that were read and may not be on disk yet before the query waits for the disk.
const UNSETTLED_MAX: usize = 1_024;

impl Walker<'_> {
    /// Runs the function over the records of one part.
    pub(super) fn aggregate(&mut self, aggregation: &Aggregation, part: &Part) -> Result<(), End> {
        let run = self.run;
        let mut records = Records::of(&run.query, part);
        if !records.refill(self)? {
            return Ok(());
        }
        self.release_partition();
        let call = FunctionCall {
            module: &aggregation.module,
            function: aggregation.function.as_bytes(),
            arguments: &aggregation.arguments,
        };
        let mut stream = PartStream { walker: self, records, end: None };
        let (asked, ended) = (Arc::clone(run), Arc::clone(run));
        let owner = StreamOwner {
            is_unwanted: Box::new(move || asked.reason_to_end().is_some()),
            end_wait: Box::new(move || ended.give_up_client()),
        };
        let done = run.functions().aggregate(&call, &mut stream, owner);
        let PartStream { mut records, end, .. } = stream;
        if let Some(end) = end {
            return Err(end);
        }
        self.check_end()?;
        if let Err(failure) = done {
            // Of several threads whose functions fail at the same time, one says so.
            if !run.end_with(End::Failed) {
                return Err(End::Failed);
            }
            let text = udf::failure_text(&failure);
            cf::warning_limited!(
                Query,
                "{{{}}} aggregation of query {} failed: {}",
                run.query.namespace.name(),
                run.job.id,
                String::from_utf8_lossy(&text)
            );
            self.write_value(b"FAILURE", &Output::text(&text));
            return Err(End::Failed);
        }
        // A function that has ended early needs no further records.
        while records.refill(self)? {}
        Ok(())
    }

    /// Adds a value to what is sent.
    fn write_value(&mut self, name: &[u8], value: &Output) {
        let mut reply = ReplyWriter::unframed(&mut self.chunk);
        reply.op(op_code::READ, name, value.particle_type, |out| out.extend_from_slice(&value.bytes));
        reply.finish(&ReplyHeader::result(ResultCode::Ok));
    }

    /// A copy of a record for the function; `None` if the record does not belong to the query, or no longer does.
    fn record_input(&mut self, digest: &Digest, condition: Option<&Condition>) -> Option<RecordInput> {
        let run = self.run;
        let namespace = &*run.query.namespace;
        let storage = &namespace.storage;
        let guard = namespace.index.get(digest).filter(|guard| self.is_wanted(guard))?;
        let meta = **guard;
        let flat = namespace.copy_of(guard, &mut self.scratch);
        if flat.is_ok() && storage.is_unsettled(meta.location) {
            self.unsettled.push(meta.location);
        }
        let passes = flat.and_then(|flat| {
            let damaged = |error: FlatError| namespace.report_damage_at(digest, meta.location, &error);
            let record = FlatRecord::parse(&flat).map_err(damaged)?;
            if record.digest != *digest {
                return Err(damaged(FlatError::Magic));
            }
            let matches =
                condition.map_or(Ok(true), |condition| condition.matches(namespace, &record, self.budget))?;
            Ok(matches.then_some(flat))
        });
        let Ok(flat) = passes else {
            if !self.scratch.is_unread() {
                run.job.count_failed();
            }
            return None;
        };
        let is_in_memory = matches!(namespace.config().storage.engine, Engine::Memory);
        Some(RecordInput {
            digest: *digest,
            now: self.now,
            found: Some(FoundRecord {
                flat: flat?,
                generation: meta.generation,
                void_time: meta.void_time,
                last_update_time: meta.last_update_time(),
                stored_size: stored_size(&meta),
                set_name: namespace.set_of(&meta).map_or_else(Vec::new, |set| set.name.to_vec()),
            }),
            created_set: Vec::new(),
            sent_key: None,
            is_uncreatable: true,
            save_refusal: None,
            is_in_memory,
            is_on_device: !is_in_memory || namespace.config().storage.is_backed(),
            is_read_only: true,
        })
    }
}

/// The records of a part that match the query according to the index, found portion by portion, in order.
struct Records<'q> {
    source: Source<'q>,
    portion: Vec<Digest>,
    /// Number of records of the portion that were taken.
    taken: usize,
}

enum Source<'q> {
    Primary(RecordWalk<'q>),
    Secondary(Entries<'q>),
}

/// The rest of a part in a secondary index.
struct Entries<'q> {
    condition: &'q Condition,
    part: &'q Part,
    after: Option<Resume>,
    has_more: bool,
    found: Vec<IndexEntry<Key>>,
    repeats: Repeats,
}

impl<'q> Records<'q> {
    fn of(query: &'q Query, part: &'q Part) -> Self {
        let source = match &query.condition {
            None => Source::Primary(query.namespace.walk(part.partition, query.set.set_id(), None)),
            Some(condition) => Source::Secondary(Entries {
                condition,
                part,
                after: None,
                has_more: true,
                found: Vec::new(),
                repeats: Repeats::of(query, condition),
            }),
        };
        Records { source, portion: Vec::new(), taken: 0 }
    }

    /// Finds further records; `false` if there are none.
    fn refill(&mut self, walker: &mut Walker<'_>) -> Result<bool, End> {
        (self.taken, walker.now) = (0, StoredMillis::now());
        self.portion.clear();
        while self.portion.is_empty() {
            walker.check_end()?;
            walker.keep_partition().map_err(end_of)?;
            let has_more = match &mut self.source {
                Source::Primary(walk) => {
                    let found = walk.next_portion(|element| walker.is_wanted(element));
                    self.portion.extend(found.into_iter().flatten().map(|found| found.digest));
                    found.is_some()
                }
                Source::Secondary(entries) => entries.next_portion(walker, &mut self.portion),
            };
            if !has_more {
                return Ok(false);
            }
        }
        walker.run.job.count_collected(self.portion.len() as u64);
        Ok(true)
    }
}

impl Entries<'_> {
    /// Adds records to `portion`, perhaps none; returns whether there are entries left.
    fn next_portion(&mut self, walker: &Walker<'_>, portion: &mut Vec<Digest>) -> bool {
        let Some(index) = self.condition.index().filter(|_| self.has_more) else { return false };
        let namespace = &*walker.run.query.namespace;
        self.found.clear();
        let ranges = self.condition.ranges_after(self.after);
        let has_more = index.collect(namespace, self.part.partition, ranges, PORTION_SIZE, &mut self.found);
        let Some(last) = self.found.last() else {
            self.has_more = false;
            return false;
        };
        self.after = Some(Resume { digest: last.digest, bval: last.key.bval(self.condition.key_type()) });
        self.has_more = has_more && !self.condition.is_dropped();
        if has_more {
            self.repeats.expect_portions();
        }
        for entry in &self.found {
            let is_there = namespace.index.get(&entry.digest).is_some_and(|guard| walker.is_wanted(&guard));
            if is_there && self.repeats.is_due(entry, self.condition.ranges()) {
                self.repeats.note_taken(&entry.digest);
                portion.push(entry.digest);
            }
        }
        true
    }
}

/// How an aggregation ends whose walk stops with `stop`.
fn end_of(stop: Stop) -> End {
    match stop {
        Stop::Query(end) => end,
        Stop::PartitionLost => End::PartitionLost,
    }
}

/// The records and values of a function.
struct PartStream<'w, 'a, 'q> {
    walker: &'w mut Walker<'a>,
    records: Records<'q>,
    /// The reason why the query has ended meanwhile.
    end: Option<End>,
}

impl PartStream<'_, '_, '_> {
    fn close(&mut self, end: End) -> StreamClosed {
        self.end = Some(end);
        StreamClosed
    }

    fn next_record(&mut self) -> Result<Option<RecordInput>, End> {
        self.walker.keep_partition().map_err(end_of)?;
        loop {
            let Some(digest) = self.records.portion.get(self.records.taken).copied() else {
                if self.records.refill(self.walker)? {
                    continue;
                }
                return Ok(None);
            };
            self.records.taken += 1;
            let condition = match &self.records.source {
                Source::Primary(_) => None,
                Source::Secondary(entries) => Some(entries.condition),
            };
            let input = loop {
                let input = self.walker.record_input(&digest, condition);
                if !self.walker.must_look_again().map_err(end_of)? {
                    break input;
                }
            };
            self.walker.count_read();
            if self.walker.unsettled.len() >= UNSETTLED_MAX {
                self.walker.release_partition();
                self.walker.settle()?;
            }
            self.walker.rest().map_err(end_of)?;
            if input.is_some() {
                return Ok(input);
            }
        }
    }
}

impl udf::RecordStream for PartStream<'_, '_, '_> {
    fn next(&mut self) -> Result<Option<RecordInput>, StreamClosed> {
        let next = self.next_record();
        // The function may take long.
        self.walker.release_partition();
        next.map_err(|end| self.close(end))
    }

    fn write(&mut self, value: Output) -> Result<(), StreamClosed> {
        self.walker.write_value(b"SUCCESS", &value);
        let sent = if self.walker.is_chunk_full() { self.walker.send() } else { Ok(()) };
        sent.map_err(|end| self.close(end))
    }
}
