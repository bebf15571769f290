//! Answers that wait for the disk: with `commit-to-device` no reply tells of a record that a crash could take back.
//!
//! A transaction changes the index at once and notes the record as unsettled. Whoever sends replies settles the noted
//! records first: one flush for all the requests that a thread found ready, whichever connections they came from. A read of
//! a record that is not on disk yet waits in the same way.

use std::ops::Range;

use proto::ResultCode;
use proto::frame::HEADER_SIZE;

use super::{Call, Executor, TransactionContext, Workspace};
use crate::index::Location;

/// Offset of the result in a record message.
const RESULT_OFFSET: usize = 5;

/// A record that must be on disk before the reply that tells of it is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unsettled {
    namespace: usize,
    location: Location,
    /// Where in the replies the result is that says it is.
    result_at: usize,
}

impl Call<'_> {
    /// The reply about the record at `location` must wait until the record is on disk.
    #[inline]
    pub(super) fn note_unsettled(&self, location: Location, unsettled: &mut Vec<Unsettled>) {
        if self.namespace.storage.is_unsettled(location) {
            unsettled.push(Unsettled { namespace: self.namespace.position(), location, result_at: 0 });
        }
    }
}

impl Workspace {
    /// The reply at `start` is about the records noted since there were `settled`.
    #[inline]
    pub(super) fn note_replies(&mut self, settled: usize, start: usize, is_row: bool) {
        let result_at = start + RESULT_OFFSET + if is_row { 0 } else { HEADER_SIZE };
        for entry in &mut self.buffers.unsettled[settled..] {
            entry.result_at = result_at;
        }
    }

    /// Settles the replies about what was noted behind the first `count`; they are all in `replies`.
    pub(super) fn settle_behind(&mut self, context: &TransactionContext, count: usize, replies: &mut [u8]) {
        let end = self.buffers.unsettled.len();
        self.settle_range(context, count..end, replies);
    }

    fn settle_range(&mut self, context: &TransactionContext, range: Range<usize>, replies: &mut [u8]) {
        for Unsettled { namespace, location, result_at } in self.buffers.unsettled.drain(range) {
            if context.namespaces[namespace].storage.settle(location).is_err()
                && let Some(result) = replies.get_mut(result_at)
            {
                *result = ResultCode::Unknown.code();
            }
        }
    }
}

impl Executor {
    /// Whether replies made so far must not be sent yet.
    #[inline]
    pub(crate) fn has_unsettled(&self) -> bool {
        !self.workspace.buffers.unsettled.is_empty()
    }

    /// How many records must be settled before the replies made so far are sent.
    pub(crate) fn unsettled_count(&self) -> usize {
        self.workspace.buffers.unsettled.len()
    }

    /// Forgets all but the first `count` of them: nobody is told of the others.
    pub(crate) fn forget_unsettled(&mut self, count: usize) {
        self.workspace.buffers.unsettled.truncate(count);
    }

    /// Settles the replies that end before `end` of `replies`, which is everything made so far. Where the disk fails, the
    /// reply says so.
    #[inline]
    pub(crate) fn settle_until(&mut self, end: usize, replies: &mut [u8]) {
        if self.has_unsettled() {
            let count = self.unsettled_until(end);
            self.workspace.settle_range(&self.context, 0..count, replies);
        }
    }

    /// Forgets those of replies that end before `end`: nobody is told of them.
    pub(crate) fn forget_unsettled_until(&mut self, end: usize) {
        let count = self.unsettled_until(end);
        self.workspace.buffers.unsettled.drain(..count);
    }

    fn unsettled_until(&self, end: usize) -> usize {
        self.workspace.buffers.unsettled.partition_point(|unsettled| unsettled.result_at < end)
    }
}
