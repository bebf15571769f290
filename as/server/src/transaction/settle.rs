//! Replies that wait for the disk: with `commit-to-device` no reply reports a record that a crash could undo.
//!
//! A transaction changes the index at once and notes the record as unsettled. A read notes a record that is not on
//! disk yet as unsettled too. The handling of the reply depends on the thread:
//!
//! - Service and pool threads do not wait. They [hold](super::Executor::hold) the replies with unsettled records, and continue
//!   with other requests. The disk's flush thread writes the records, with one flush for all waiting replies, and
//!   releases the replies.
//! - A batch thread waits, with one flush for all rows that it has carried out together. A service thread leaves no
//!   unsettled row: a row that would be unsettled goes to a batch thread.

use crossbeam::channel::bounded;
use proto::ResultCode;
use proto::frame::HEADER_SIZE;
use proto::message::info3;

use super::call::{Call, Place};
use super::context::TransactionContext;
use super::resent::SentFor;
use super::unsettled::{Awaited, OnReplicas, Unsettled};
use super::wait::{Hold, Wait};
use super::workspace::Workspace;
use crate::config::params::namespace::WriteCommitLevel;
use crate::index::{Location, PartitionId};
use crate::storage::DiskCaller;

/// Offset of the result in a record message.
const RESULT_OFFSET: usize = 5;

impl Call<'_> {
    /// An entry that makes the reply wait for `awaited`; the [position](Workspace::note_replies) of the result is set
    /// when the reply is made.
    fn waits_for(&self, awaited: Awaited) -> Unsettled {
        Unsettled { namespace: self.namespace.position(), awaited, result_at: 0 }
    }

    /// Makes the reply about the record at `location` wait until the record is on disk.
    #[inline]
    pub(super) fn note_unsettled(&self, location: Location, unsettled: &mut Vec<Unsettled>) {
        if self.namespace.storage.is_unsettled(location) {
            unsettled.push(self.waits_for(Awaited::Disk(location)));
        }
    }

    /// Makes the reply about a change of the record wait until it is on disk at `location`, and on all replicas.
    #[inline]
    pub(super) fn note_changed(&self, location: Location, unsettled: &mut Vec<Unsettled>) {
        let key = self.record_key();
        if self.namespace.storage.is_change_unsettled(location) {
            unsettled.push(self.waits_for(Awaited::Disk(location)));
        }
        if self.namespace.partitions.has_other_replicas(PartitionId::of(&key.digest))
            && self.waits_for_replicas()
            && let Some(transaction_id) = self.context.replicas.sent(&key)
        {
            let time_max_ms = self.request.transaction_ttl_ms;
            let sent_for = SentFor::of(self.request, self.origin);
            let on_replicas = OnReplicas { key, transaction_id, time_max_ms, sent_for };
            unsettled.push(self.waits_for(Awaited::Replicas(on_replicas)));
        }
    }

    /// Whether the client gets its reply only when all replicas have the change. The override of the namespace
    /// decides; without one, the client may ask for the master only.
    fn waits_for_replicas(&self) -> bool {
        match self.namespace.config().params.write_commit_level_override.get() {
            WriteCommitLevel::All => true,
            WriteCommitLevel::Master => false,
            WriteCommitLevel::Off => self.request.info3 & info3::COMMIT_LEVEL_MASTER == 0,
        }
    }

    /// The wait of a row on a service thread whose record at `location` is not on disk yet, or whose change must be
    /// on disk or on replicas before the reply. The service thread must not wait, so the row runs on a batch thread.
    #[inline]
    pub(super) fn wait_of_unsettled_row(&self, location: Location, changes_it: bool) -> Option<Wait> {
        let storage = &self.namespace.storage;
        let is_inline_row = self.row.is_some() && matches!(self.place, Place::Service);
        if !is_inline_row {
            return None;
        }
        let is_replicated = || self.namespace.partitions.has_other_replicas(PartitionId::of(&self.digest));
        let leaves_unsettled = if changes_it {
            storage.commits() || is_replicated()
        } else {
            storage.commits() && storage.is_unsettled(location)
        };
        leaves_unsettled.then_some(Wait::Pool)
    }
}

impl Workspace {
    /// Sets the position of the reply at `start` for the records noted since there were `settled`.
    #[inline]
    pub(super) fn note_replies(&mut self, settled: usize, start: usize, is_row: bool) {
        let result_at = start + RESULT_OFFSET + if is_row { 0 } else { HEADER_SIZE };
        for entry in &mut self.buffers.unsettled[settled..] {
            entry.result_at = result_at;
        }
    }

    /// Waits until the records noted after the first `count` are on disk; their replies are in `replies`. If the disk
    /// fails, the reply gets an error. Only batch threads call this.
    pub(super) fn settle_behind(&mut self, context: &TransactionContext, count: usize, replies: &mut [u8]) {
        if self.buffers.unsettled.len() > count {
            self.leave_sections();
        }
        let mut on_replicas = Vec::new();
        for Unsettled { namespace, awaited, result_at } in self.buffers.unsettled.drain(count..) {
            match awaited {
                Awaited::Disk(location) => {
                    if context.namespaces[namespace].storage.settle(location, DiskCaller::Batches).is_err()
                        && let Some(result) = replies.get_mut(result_at)
                    {
                        *result = ResultCode::Unknown.code();
                    }
                }
                Awaited::Replicas(on) => on_replicas.push((on, result_at)),
            }
        }
        if !on_replicas.is_empty() {
            await_replicas(context, &on_replicas, replies);
        }
    }
}

/// Waits until each record is on its replicas, or its time is over; then its reply gets an error.
fn await_replicas(context: &TransactionContext, records: &[(OnReplicas, usize)], replies: &mut [u8]) {
    let (released, results) = bounded(1);
    // One byte for each record, which becomes its result.
    let first = Hold::on(vec![ResultCode::Ok.code(); records.len()], move |results| {
        let _ = released.send(results);
    });
    for (at, (on, _)) in records.iter().enumerate() {
        on.hold(&context.replicas, first.about(vec![at]));
    }
    drop(first);
    let results = results.recv().unwrap_or_default();
    for ((_, result_at), code) in records.iter().zip(results) {
        if code != ResultCode::Ok.code()
            && let Some(result) = replies.get_mut(*result_at)
        {
            *result = code;
        }
    }
}
