//! How far a request got on a service thread, and what is to be done with it next.

use std::sync::Arc;

use proto::batch::RowPosition;

use super::Wait;
use super::batch::PartialFrame;
use crate::namespace::Namespace;
use crate::security::Permit;

/// What became of a record message.
pub(crate) enum Step {
    /// It was carried out and its reply appended. If that must not be sent yet, what it waits for is noted: see `settle.rs`.
    Done,
    /// It has changed nothing, and runs again from its start when the wait is over.
    Restart(Wait),
    /// It concerns many records of this namespace and has yet to be started. It ends with the right of its user, if there is
    /// access control.
    Query(Arc<Namespace>, Option<Permit>),
    /// It is a batch for the batch threads, from this row on. Full frames of replies to rows before are appended.
    Batch(BatchRest),
}

/// What is left of a batch.
#[derive(Debug)]
pub(crate) struct BatchRest {
    pub(super) first: RowPosition,
    /// Rows from there on.
    pub(super) count: u32,
    /// Code of the error that ended the reply before, or 0.
    pub(super) result: u8,
    /// Replies of the rows before, which go out with the next ones.
    pub(super) partial: PartialFrame,
    /// Full frames of replies to the rows before that are yet to be sent.
    pub(super) frames: Vec<u8>,
}

impl BatchRest {
    /// Full frames of replies to the rows before, which are to go the way of all others.
    pub(crate) fn take_over(&mut self, frames: Vec<u8>) {
        self.frames = frames;
    }
}
