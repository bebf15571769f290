//! The record that a transaction works on: in its place under a lock, or a copy.
//!
//! A service thread works on the record in its place; its budget bounds how long it holds the lock. A thread of a pool takes
//! a copy under the lock and works on that.

use datamodel::flat::{FlatError, FlatRecord};
use proto::ResultCode;

use super::Call;
use crate::index::{Element, RecordMeta};
use crate::storage::{self, ReadBuffer};

/// A copy of a record, or of the fact that there is none.
pub(super) struct RecordCopy {
    pub(super) meta: RecordMeta,
    /// Its flat form; empty if there is no live record, or why it cannot be read.
    bytes: Result<Vec<u8>, ResultCode>,
}

impl RecordCopy {
    /// There is no record.
    pub(super) fn of_none() -> Self {
        RecordCopy { meta: RecordMeta::default(), bytes: Ok(Vec::new()) }
    }

    /// A copy of the record of `element`, whose guard the caller holds, as it is stored.
    pub(super) fn of(call: &Call<'_>, element: &Element, scratch: &mut ReadBuffer) -> Self {
        if call.namespace.is_gone(element, call.now.seconds()) {
            return RecordCopy { meta: **element, bytes: Ok(Vec::new()) };
        }
        // What is damaged is told when the record is asked for, as if it was in its place.
        let bytes = call.namespace.storage.stored_bytes(element, &mut scratch.stored).map(<[u8]>::to_vec);
        let bytes = bytes.map_err(|error| call.namespace.read_error(element, error));
        RecordCopy { meta: **element, bytes }
    }

    /// The copy with its record unpacked, which may take long: without a lock.
    pub(super) fn unpacked(self, call: &Call<'_>, scratch: &mut ReadBuffer) -> Self {
        let RecordCopy { meta, bytes } = self;
        let bytes = bytes.and_then(|stored| {
            let plain = storage::into_unpacked(stored, &mut scratch.unpacker);
            plain.map_err(|error| call.namespace.report_damage_at(&call.digest, meta.location, &error))
        });
        RecordCopy { meta, bytes }
    }

    /// Its flat form; empty if there is no live record.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn bytes(&self) -> Result<&[u8], ResultCode> {
        self.bytes.as_deref().map_err(|result| *result)
    }

    /// Takes its flat form away, as [`bytes`](Self::bytes) gives it.
    ///
    /// # Errors
    /// As there.
    pub(super) fn take_bytes(&mut self) -> Result<Vec<u8>, ResultCode> {
        self.bytes.as_mut().map(std::mem::take).map_err(|result| *result)
    }

    /// Puts back what was taken.
    pub(super) fn put_back(&mut self, bytes: Vec<u8>) {
        self.bytes = Ok(bytes);
    }

    /// Whether `meta` is of the same version of the record. It may have been moved since.
    pub(super) fn is_version(&self, meta: &RecordMeta) -> bool {
        let mut moved = *meta;
        moved.location = self.meta.location;
        moved == self.meta
    }
}

/// A record that a transaction works on.
#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    Locked(&'a Element),
    Copied(&'a RecordCopy),
}

impl<'a> Subject<'a> {
    /// What the index says of it.
    #[inline]
    pub(super) fn meta(&self) -> &'a RecordMeta {
        match self {
            Subject::Locked(element) => element,
            Subject::Copied(copy) => &copy.meta,
        }
    }

    /// The stored record, borrowed from its place, from `scratch` or from the copy.
    ///
    /// # Errors
    /// `Unknown` when it cannot be read or is damaged; the log says more.
    #[inline(always)]
    pub(super) fn record(
        &self,
        call: &Call<'a>,
        scratch: &'a mut ReadBuffer,
    ) -> Result<FlatRecord<'a>, ResultCode> {
        match self {
            Subject::Locked(element) => call.namespace.record_within(element, scratch, call.budget),
            Subject::Copied(copy) => {
                let bytes = copy.bytes.as_ref().map_err(|result| *result)?;
                let record = FlatRecord::parse(bytes).map_err(|error| self.report_damage(call, &error))?;
                if record.digest == call.digest && record.generation == copy.meta.generation {
                    Ok(record)
                } else {
                    Err(self.report_damage(call, &FlatError::Magic))
                }
            }
        }
    }

    /// Logs that the record cannot be used; returns what the client is told.
    #[cold]
    pub(super) fn report_damage(&self, call: &Call<'_>, error: &dyn std::fmt::Display) -> ResultCode {
        call.namespace.report_damage_at(&call.digest, self.meta().location, error)
    }
}
