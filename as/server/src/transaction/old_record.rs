//! The record that a change replaces, for the observers of the change, and the result when a change cannot be stored.

use proto::ResultCode;

use super::call::Call;
use super::subject::RecordCopy;
use crate::index::Element;
use crate::namespace::{Change, Namespace, Preparation, PreparedChange};
use crate::storage::{ReadBuffer, StorageError};

/// Where the old record was read to.
pub(super) enum OldRecord<'a> {
    /// The thread's read buffer if it was read from a disk, otherwise its place in memory.
    LastRead,
    /// A copy of its flat form. Observers have prepared the change with it.
    Copied(&'a [u8], PreparedChange),
}

impl<'a> OldRecord<'a> {
    /// The copy that `change` was computed from.
    pub(super) fn of(call: &Call<'_>, copy: &'a RecordCopy, change: &Change<'_>) -> Self {
        let old = copy.bytes().unwrap_or_default();
        let (digest, before) = (&call.digest, &copy.meta);
        let preparation = Preparation { digest, before, old, budget: call.budget, change };
        OldRecord::Copied(old, call.namespace.prepare(&preparation))
    }

    /// Its flat form for the observers of its change. If this is `None`, they read it from its place in memory.
    ///
    /// # Errors
    /// `Timeout` when it has to be fetched first.
    pub(super) fn bytes<'b>(
        &'b self,
        namespace: &Namespace,
        element: &Element,
        buffer: &'b mut ReadBuffer,
    ) -> Result<Option<&'b [u8]>, ResultCode> {
        match self {
            OldRecord::Copied(bytes, _) if !bytes.is_empty() => Ok(Some(bytes)),
            _ if namespace.is_ready_to_change(element, buffer) => Ok(namespace.old_record(element, buffer)),
            _ => Err(ResultCode::Timeout),
        }
    }

    pub(super) fn prepared(&self) -> Option<&PreparedChange> {
        match self {
            OldRecord::LastRead => None,
            OldRecord::Copied(_, prepared) => Some(prepared),
        }
    }
}

/// The client's result for a record that could not be stored.
pub(super) fn storage_result(call: &Call<'_>, error: StorageError) -> ResultCode {
    match error {
        StorageError::OutOfSpace => {
            cf::warning_limited!(Storage, "{{{}}} out of space", call.namespace.name());
            ResultCode::OutOfSpace
        }
        StorageError::Congested => call.lacks_room(),
        StorageError::NotInMemory => ResultCode::Timeout,
        StorageError::Failed | StorageError::Damaged | StorageError::Refused => ResultCode::Unknown,
    }
}
