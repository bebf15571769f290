//! One record of a basic query, as a message.

use datamodel::Budget;
use datamodel::flat::{self, FlatError, FlatRecord};
use proto::ResultCode;
use proto::message::{field, info1, op_code};
use proto::reply::{ReplyHeader, ReplyWriter};

use super::request::{Projection, Query};
use crate::index::{Element, ReadGuard, SeenRecord};
use crate::namespace::Namespace;
use crate::storage::ReadBuffer;
use crate::transaction::filter::OpenQuestion;

impl Projection {
    /// The price of the message of `record`, without the copy of its values: a copy of the record under its lock would take
    /// as long.
    fn steps(&self, record: &FlatRecord<'_>) -> u64 {
        match &self.bins {
            _ if self.without_bins => 0,
            None => record.lookup_steps(),
            Some(names) => record.lookups_steps(names.len() as u64),
        }
    }
}

/// The entry of an index that led to a record.
#[derive(Clone, Copy)]
pub(super) struct FoundEntry {
    pub(super) bval: i64,
    /// Whether the record itself must be checked against the condition.
    pub(super) must_check: bool,
}

/// A record as a query accesses it.
#[derive(Clone, Copy)]
pub(super) enum VisitedRecord<'a> {
    /// In place, under its lock: only for short work.
    Locked(&'a Element),
    /// A copy, without a lock.
    Copied(&'a CopiedRecord),
}

/// A copy of a record, for long work.
pub(super) struct CopiedRecord {
    seen: SeenRecord,
    /// Its flat form, or why it cannot be read.
    flat: Result<Vec<u8>, ResultCode>,
}

impl CopiedRecord {
    /// Copies the record of `guard`, which is released before the copy is unpacked.
    pub(super) fn of(namespace: &Namespace, guard: ReadGuard<'_>, scratch: &mut ReadBuffer) -> Self {
        let seen = SeenRecord::of(&guard);
        let flat = namespace.copy_of(guard, scratch);
        CopiedRecord { seen, flat }
    }
}

impl<'a> VisitedRecord<'a> {
    /// The digest and metadata of the record.
    pub(super) fn seen(&self) -> SeenRecord {
        match self {
            VisitedRecord::Locked(element) => SeenRecord::of(element),
            VisitedRecord::Copied(copy) => copy.seen,
        }
    }

    /// The stored record. It is not unpacked in place if unpacking would exceed `budget`.
    fn record(
        &self,
        namespace: &'a Namespace,
        scratch: &'a mut ReadBuffer,
        budget: &Budget<'_>,
    ) -> Result<FlatRecord<'a>, ResultCode> {
        let CopiedRecord { seen, flat } = match self {
            VisitedRecord::Locked(element) => return namespace.record_within(element, scratch, budget),
            VisitedRecord::Copied(copy) => copy,
        };
        let damaged = |error: FlatError| namespace.report_damage_at(&seen.digest, seen.meta.location, &error);
        let record = FlatRecord::parse(flat.as_ref().map_err(|result| *result)?).map_err(damaged)?;
        if record.digest == seen.digest && record.generation == seen.meta.generation {
            Ok(record)
        } else {
            Err(damaged(FlatError::Magic))
        }
    }
}

/// A record that a query has found.
pub(super) struct QueryRow<'a> {
    pub(super) query: &'a Query,
    pub(super) projection: &'a Projection,
    pub(super) found: VisitedRecord<'a>,
    pub(super) entry: Option<FoundEntry>,
    pub(super) budget: &'a Budget<'a>,
}

/// The outcome for a record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    Sent,
    /// It has none of the requested bins, but counts as sent.
    WithoutBins,
    /// It does not match the condition.
    NoMatch,
    /// There were already enough.
    Enough,
}

impl<'a> QueryRow<'a> {
    /// Appends the record as a message, if it belongs to the query and `is_counted` returns true, that is, if there
    /// are not enough records yet.
    ///
    /// # Errors
    /// `FilteredOut` if it does not pass `question`, `Timeout` if the budget does not suffice, others if it cannot be
    /// read.
    pub(super) fn write(
        &self,
        question: Option<&OpenQuestion<'_>>,
        scratch: &'a mut ReadBuffer,
        is_counted: impl FnOnce() -> bool,
        out: &mut Vec<u8>,
    ) -> Result<Written, ResultCode> {
        let (namespace, seen) = (&*self.query.namespace, self.found.seen());
        let needs_record = !self.projection.without_bins
            || question.is_some()
            || seen.meta.location.key_stored()
            || self.entry.is_some_and(|entry| entry.must_check);
        let record = needs_record.then(|| self.found.record(namespace, scratch, self.budget)).transpose()?;
        if let Some(record) = &record {
            question.map_or(Ok(()), |question| question.resolve(record, record.key))?;
            if !self.matches(record)? {
                return Ok(Written::NoMatch);
            }
        }
        if let Some(record) = &record {
            self.budget.draw(self.projection.steps(record))?;
        }
        // A result computed after the budget ran out is not valid.
        self.budget.check(Ok(()))?;
        if !is_counted() {
            return Ok(Written::Enough);
        }
        let start = out.len();
        let row = RowHead { query: self.query, projection: self.projection, entry: self.entry };
        let written = row.write(&seen, record.as_ref(), out);
        if !matches!(written, Ok(Written::Sent)) {
            out.truncate(start);
        }
        written.map_err(|error| namespace.report_damage_at(&seen.digest, seen.meta.location, &error))
    }

    /// Whether the record matches the condition.
    fn matches(&self, record: &FlatRecord<'_>) -> Result<bool, ResultCode> {
        match (&self.query.condition, &self.entry) {
            (Some(condition), Some(entry)) if entry.must_check => {
                condition.matches(&self.query.namespace, record, self.budget)
            }
            _ => Ok(true),
        }
    }
}

/// The part of a message that does not depend on its record.
pub(super) struct RowHead<'a> {
    pub(super) query: &'a Query,
    pub(super) projection: &'a Projection,
    pub(super) entry: Option<FoundEntry>,
}

impl RowHead<'_> {
    /// Writes the message; without `record` one without bins and key.
    pub(super) fn write(
        &self,
        found: &SeenRecord,
        record: Option<&FlatRecord<'_>>,
        out: &mut Vec<u8>,
    ) -> Result<Written, FlatError> {
        let namespace = &self.query.namespace;
        let SeenRecord { digest, meta } = found;
        let mut reply = ReplyWriter::unframed(out);
        reply.field(field::NAMESPACE, namespace.name().as_bytes());
        reply.field(field::DIGEST, &digest.0);
        if let Some(set) = namespace.set_of(meta) {
            reply.field(field::SET, &set.name);
        }
        if let Some(key) = record.and_then(|record| record.key) {
            reply.field(field::KEY, key);
        }
        if let Some(entry) = &self.entry {
            reply.field(field::BVAL_ARRAY, &entry.bval.to_le_bytes());
        }
        if let Some(record) = record.filter(|_| !self.projection.without_bins)
            && !self.write_bins(record, &mut reply)?
        {
            return Ok(Written::WithoutBins);
        }
        reply.finish(&ReplyHeader {
            info1: if self.projection.without_bins { info1::GET_NO_BINS } else { 0 },
            generation: u32::from(meta.generation),
            void_time: meta.void_time,
            ..ReplyHeader::result(ResultCode::Ok)
        });
        Ok(Written::Sent)
    }

    /// Adds the requested bins; returns whether there are any.
    fn write_bins(&self, record: &FlatRecord<'_>, reply: &mut ReplyWriter<'_>) -> Result<bool, FlatError> {
        let Some(names) = &self.projection.bins else {
            for bin in record.bins() {
                let bin = bin?;
                reply.op(op_code::READ, bin.name, bin.particle.type_number(), |out| {
                    bin.particle.write_wire(out);
                });
            }
            return Ok(true);
        };
        let mut has_any = false;
        if (names.len() as u64) < flat::LOOKUPS_TO_LOAD {
            for name in names {
                if let Some(particle) = record.bin(name)? {
                    reply.op(op_code::READ, name, particle.type_number(), |out| particle.write_wire(out));
                    has_any = true;
                }
            }
            return Ok(has_any);
        }
        let bins = record.load_bins()?;
        for name in names {
            if let Some(particle) = bins.get(name) {
                reply.op(op_code::READ, name, particle.type_number(), |out| particle.write_wire(out));
                has_any = true;
            }
        }
        Ok(has_any)
    }
}
