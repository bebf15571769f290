//! The progress of a request on a service thread, and its next step.

use std::sync::Arc;

use proto::batch::RowPosition;

use super::Wait;
use super::batch_frames::PartialFrame;
use crate::namespace::Namespace;
use crate::security::Permit;

/// Result of a record message.
pub(crate) enum Step {
    /// It was carried out and its reply appended. If the reply must wait, the records it waits for are noted: see
    /// `settle.rs`.
    Done,
    /// It has changed nothing, and runs again from its start when the wait is over.
    Restart(Wait),
    /// A query on this namespace that is still to be started, with the right of its user if there is access control.
    Query(Arc<Namespace>, Option<Permit>),
    /// A batch for the batch threads, from this row on. Full reply frames of the rows before are appended.
    Batch(BatchRest),
}

/// The rest of a batch.
#[derive(Debug)]
pub(crate) struct BatchRest {
    pub(super) first: RowPosition,
    /// Number of rows from there on.
    pub(super) count: u32,
    /// Code of the error that ended the reply before, or 0.
    pub(super) result: u8,
    /// Replies of the rows before, to be sent with the next ones.
    pub(super) partial: PartialFrame,
    /// Full reply frames of the rows before that are not sent yet.
    pub(super) frames: Vec<u8>,
}

impl BatchRest {
    /// Takes the full reply frames of the rows before, which are sent like all others.
    pub(crate) fn take_over(&mut self, frames: Vec<u8>) {
        self.frames = frames;
    }
}
