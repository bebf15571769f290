//! One record of a basic query, as a message.

use datamodel::Budget;
use datamodel::flat::{FlatError, FlatRecord};
use proto::ResultCode;
use proto::message::{field, info1, op_code};
use proto::reply::{ReplyHeader, ReplyWriter};

use super::request::{Projection, Query};
use super::run::FoundEntry;
use crate::index::{Element, SeenRecord};
use crate::storage::ReadBuffer;
use crate::transaction::filter::OpenQuestion;

/// A record that a query has found.
pub(super) struct QueryRow<'a> {
    pub(super) query: &'a Query,
    pub(super) projection: &'a Projection,
    pub(super) element: &'a Element,
    pub(super) entry: Option<FoundEntry>,
    pub(super) budget: &'a Budget<'a>,
}

/// The outcome for a record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    Sent,
    /// It has none of the bins that are asked for, but counts as one of those that were.
    WithoutBins,
    /// It does not match what the index was asked for.
    NoMatch,
    /// There were enough before.
    Enough,
}

impl QueryRow<'_> {
    /// Appends the record as a message, if it is one of the query's and `is_counted` says that there are not enough
    /// yet.
    ///
    /// # Errors
    /// `FilteredOut` when it is not what `question` asks for, others when it cannot be read.
    pub(super) fn write(
        &self,
        question: Option<&OpenQuestion<'_>>,
        scratch: &mut ReadBuffer,
        is_counted: impl FnOnce() -> bool,
        out: &mut Vec<u8>,
    ) -> Result<Written, ResultCode> {
        let namespace = &self.query.namespace;
        let needs_record = !self.projection.without_bins
            || question.is_some()
            || self.element.location.key_stored()
            || self.entry.is_some_and(|entry| entry.must_check || entry.after.is_some());
        let record = needs_record.then(|| namespace.record(self.element, scratch)).transpose()?;
        if let Some(record) = &record {
            question.map_or(Ok(()), |question| question.resolve(record, record.key))?;
            if !self.matches(record)? {
                return Ok(Written::NoMatch);
            }
        }
        if !is_counted() {
            return Ok(Written::Enough);
        }
        let start = out.len();
        let row = RowHead { query: self.query, projection: self.projection, entry: self.entry };
        let written = row.write(&SeenRecord::of(self.element), record.as_ref(), out);
        if !matches!(written, Ok(Written::Sent)) {
            out.truncate(start);
        }
        written.map_err(|error| namespace.report_damage(self.element, &error))
    }

    /// Whether the record has what the index was asked for, and was not among those that the client has.
    fn matches(&self, record: &FlatRecord<'_>) -> Result<bool, ResultCode> {
        let (Some(condition), Some(entry)) = (&self.query.condition, &self.entry) else { return Ok(true) };
        // The record is at hand, so it is believed more than the entry: bytes may rot, and leave entries behind.
        if !condition.matches(&self.query.namespace, record, self.budget)? {
            return Ok(false);
        }
        match entry.after {
            Some(after) => Ok(!condition.was_before(after, record, self.budget)?),
            None => Ok(true),
        }
    }
}

/// The part of a message that does not follow from its record.
pub(super) struct RowHead<'a> {
    pub(super) query: &'a Query,
    pub(super) projection: &'a Projection,
    pub(super) entry: Option<FoundEntry>,
}

impl RowHead<'_> {
    /// Writes the message; without `record` that of one without bins and key.
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

    /// Adds the bins that are asked for; returns whether there are any.
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
        for name in names {
            if let Some(particle) = record.bin(name)? {
                reply.op(op_code::READ, name, particle.type_number(), |out| particle.write_wire(out));
                has_any = true;
            }
        }
        Ok(has_any)
    }
}
