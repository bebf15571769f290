//! The record that a transaction works on: in place under a lock, or a copy.
//!
//! A service thread works on the record in place; its budget bounds how long it holds the lock. A pool thread takes a
//! copy under the lock and works on that. A read-touch works on a copy on any thread. No disk is read under the lock
//! (`storage/fetch.rs`).

use datamodel::flat::{FlatError, FlatRecord};
use proto::ResultCode;

use super::Call;
use crate::index::{Element, RecordMeta};
use crate::storage::{self, ReadBuffer};

/// A copy of a record, or of its absence.
pub(super) struct RecordCopy {
    pub(super) meta: RecordMeta,
    /// Its flat form; empty if there is no live record, or why it cannot be read.
    bytes: Result<Vec<u8>, ResultCode>,
}

impl RecordCopy {
    /// A copy of a missing record.
    pub(super) fn of_none() -> Self {
        RecordCopy { meta: RecordMeta::default(), bytes: Ok(Vec::new()) }
    }

    /// An unpacked copy of the call's record as it is now. A record that is not in memory is read from its disk,
    /// without a lock. `seen` is called with the element under the guard, each time that the record is looked up.
    ///
    /// # Errors
    /// As [`Call::get`].
    pub(super) fn read(
        call: &Call<'_>,
        scratch: &mut ReadBuffer,
        mut seen: impl FnMut(&Element),
    ) -> Result<Self, ResultCode> {
        loop {
            let Some(guard) = call.get()? else { return Ok(Self::of_none()) };
            seen(&guard);
            let copy = Self::of(call, &guard, scratch);
            drop(guard);
            if !call.fetch(scratch) {
                return Ok(copy.unpacked(call, scratch));
            }
        }
    }

    /// A copy of the record of `element`, whose guard the caller holds, in its stored form.
    pub(super) fn of(call: &Call<'_>, element: &Element, scratch: &mut ReadBuffer) -> Self {
        if call.namespace.is_gone(element, call.now.seconds()) {
            return RecordCopy { meta: **element, bytes: Ok(Vec::new()) };
        }
        // Damage is reported when the record is asked for, as for a record in place.
        let bytes = call.namespace.storage.stored_bytes(element, &mut scratch.stored).map(<[u8]>::to_vec);
        let bytes = bytes.map_err(|error| call.namespace.read_error(element, error));
        RecordCopy { meta: **element, bytes }
    }

    /// The copy with its record unpacked. Unpacking may take long, so it is done without a lock.
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
    /// The reason why it cannot be read.
    pub(super) fn bytes(&self) -> Result<&[u8], ResultCode> {
        self.bytes.as_deref().map_err(|result| *result)
    }

    /// Takes its flat form out, as [`bytes`](Self::bytes) returns it.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub(super) fn take_bytes(&mut self) -> Result<Vec<u8>, ResultCode> {
        self.bytes.as_mut().map(std::mem::take).map_err(|result| *result)
    }

    /// Puts the flat form back.
    pub(super) fn put_back(&mut self, bytes: Vec<u8>) {
        self.bytes = Ok(bytes);
    }

    /// Whether `meta` belongs to the same version of the record. It may have been moved since.
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
    /// Its metadata.
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
    /// `Unknown` if it cannot be read or is damaged; the log has the details.
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

    /// Logs that the record cannot be used; returns the result for the client.
    #[cold]
    pub(super) fn report_damage(&self, call: &Call<'_>, error: &dyn std::fmt::Display) -> ResultCode {
        call.namespace.report_damage_at(&call.digest, self.meta().location, error)
    }
}
