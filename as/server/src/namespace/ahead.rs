//! Prepares changes before the record's guard is taken, for threads without a transaction: those that store copies
//! from other nodes, and those that remove records for nsup, truncations and partitions that leave this node.
//!
//! Observers may take long to analyse the change of a large record. So they analyse it on a copy of the record, and
//! the result is used if the record still has that version under its guard. After a few attempts on a record that
//! changes all the time, all of the work is done under the guard.

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::Budget;

use super::Namespace;
use super::commit::{Cause, Change, Committed, ForObservers, Preparation, PreparedChange, stored_size};
use super::tombstones::Removal;
use crate::index::{Element, RecordMeta, WriteGuard};
use crate::storage::{ReadBuffer, StorageError};

/// Attempts to prepare the change of a record that changes all the time, before it is changed without a preparation.
pub(crate) const LOOKS_MAX: u32 = 4;
/// Largest record that may be read, and whose index keys may be computed, under its guard.
pub(crate) const LOCKED_SIZE_MAX: u64 = 4 << 10;

/// A record, or the absence of one, as it was when it was looked up.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) meta: RecordMeta,
    /// Its flat form, if observers read it and it can be read; else empty.
    old: Vec<u8>,
}

impl Seen {
    /// Whether `meta` is of the same version. It may have been moved since.
    fn is_version(&self, meta: &RecordMeta) -> bool {
        let mut moved = *meta;
        moved.location = self.meta.location;
        moved == self.meta
    }
}

/// The results of observers about a change, computed ahead of it.
pub(crate) struct Ahead {
    seen: Seen,
    prepared: PreparedChange,
}

impl Ahead {
    /// For the observers of the change, if the record of `guard` is still of the version that was seen.
    pub(crate) fn for_observers(&self, guard: &WriteGuard<'_>) -> Option<ForObservers<'_>> {
        let old = Some(&*self.seen.old).filter(|old| !old.is_empty());
        let for_observers = ForObservers { old, prepared: Some(&self.prepared), ..ForObservers::default() };
        self.seen.is_version(guard).then_some(for_observers)
    }
}

impl Namespace {
    /// The record of `digest` as it is now, copied if it has at least `size_min` bytes.
    pub(crate) fn see(&self, digest: &Digest, size_min: u64, scratch: &mut ReadBuffer) -> Seen {
        let is_copied = |element: &Element| self.is_old_read(element) && stored_size(element) >= size_min;
        let found = self.storage.find_readable(|| self.index.get(digest).ok_or(()), is_copied, scratch);
        let Ok(guard) = found else { return Seen::default() };
        let meta = **guard;
        let old =
            if is_copied(&guard) { self.copy_of(guard, scratch).unwrap_or_default() } else { Vec::new() };
        Seen { meta, old }
    }

    /// Lets observers prepare `change` of the record of `digest` that was `seen`.
    pub(crate) fn look_ahead(&self, digest: &Digest, seen: Seen, change: &Change<'_>) -> Ahead {
        let budget = Budget::unlimited();
        let Seen { meta, old } = &seen;
        let prepared = self.prepare(&Preparation { digest, before: meta, old, budget: &budget, change });
        Ahead { seen, prepared }
    }

    /// Removes the record of `digest`, if there is one and `cause_for` gives a cause for it under its guard. Returns
    /// its metadata, the cause and the result. A failure is logged.
    pub(in crate::namespace) fn sweep_out(
        &self,
        digest: &Digest,
        scratch: &mut ReadBuffer,
        cause_for: impl Fn(&Element) -> Option<Cause>,
    ) -> Option<(RecordMeta, Cause, Result<Committed, StorageError>)> {
        for look in 1.. {
            let seen = if self.may_read_old() {
                self.see(digest, LOCKED_SIZE_MAX, scratch)
            } else {
                Seen::default()
            };
            let ahead = (!seen.old.is_empty()).then(|| self.look_ahead(digest, seen, &Change::Gone));
            let guard = self.get_to_change(digest, scratch)?;
            let cause = cause_for(&guard)?;
            let mut for_observers = ahead.as_ref().and_then(|ahead| ahead.for_observers(&guard));
            if ahead.is_some() && for_observers.is_none() && look < LOOKS_MAX {
                continue;
            }
            if for_observers.is_none() {
                let old = self.old_record(&guard, scratch);
                for_observers = Some(ForObservers { old, ..ForObservers::default() });
            }
            let before = **guard;
            let for_observers = for_observers.unwrap_or_default();
            let removed = if cause == Cause::PartitionLeft {
                self.commit_with(guard, &Change::Gone, cause, for_observers)
            } else {
                let removal = Removal { for_observers, ..Removal::plain(cause, StoredMillis::now()) };
                self.remove(guard, &removal, &mut Vec::new())
            };
            let removed = removed.inspect_err(|error| {
                cf::warning_limited!(Nsup, "{{{}}} a record cannot be removed: {error}", self.name());
            });
            return Some((before, cause, removed));
        }
        None
    }
}
