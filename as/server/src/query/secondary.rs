//! Walking a partition by a secondary index: by key, then by digest, in the order in which clients page.
//!
//! # Beside writers
//! The entries of a partition are collected at one moment, up to [`PORTION_SIZE_MAX`] of them. At that moment each
//! record has its keys, so a record that matches throughout the query is among them once for each of its keys;
//! `repeats.rs` decides how often it is sent. If there are more entries than one portion holds, a record may change
//! its key between two portions.
//!
//! No state is kept from one page of a client to the next. A record does not show either whether an earlier page had
//! it: one of its values before the end of the last page may be newer than that page. So a record appears on each
//! page where it has a value.
//!
//! Records are read later, when their entries may have been removed. An integer entry decides the condition, so a
//! record is not checked if no entry of the partition was removed since the entries were collected. The
//! last-update-time of the record cannot replace that count, because a copy that another node sends now may be old.

use std::ops::ControlFlow;

use datamodel::sindex::Key;

use super::condition::{Condition, Resume};
use super::repeats::Repeats;
use super::request::Part;
use super::row::FoundEntry;
use super::walked::Stop;
use super::walker::{Visited, Walker};
use crate::index::IndexEntry;
use crate::namespace::Namespace;

/// Index entries collected at once.
const PORTION_SIZE_MAX: usize = 1 << 16;
/// Least number collected if few records are wanted.
const PORTION_SIZE_MIN: usize = 256;
/// How many records ahead of the current one each hint is given, see [`Ahead`].
const SPRIG_DISTANCE: usize = 24;
const ELEMENT_DISTANCE: usize = 12;
const BYTES_DISTANCE: usize = 6;

/// Hints to the processor about the records of entries. Each hint needs what the one before it has loaded.
struct Ahead<'a> {
    namespace: &'a Namespace,
    entries: &'a [IndexEntry<Key>],
}

impl Ahead<'_> {
    fn sprig(&self, at: usize) {
        if let Some(ahead) = self.entries.get(at) {
            self.namespace.index.prefetch_sprig(&ahead.digest);
        }
    }

    fn element(&self, at: usize) {
        if let Some(ahead) = self.entries.get(at) {
            self.namespace.index.prefetch_element(&ahead.digest);
        }
    }

    fn bytes(&self, at: usize) {
        if let Some(guard) =
            self.entries.get(at).and_then(|ahead| self.namespace.index.try_get(&ahead.digest))
        {
            self.namespace.storage.prefetch(guard.location);
        }
    }

    /// The hints for the first records. A partition may have few, so each must not wait for its own.
    fn begin(&self) {
        (0..SPRIG_DISTANCE).for_each(|at| self.sprig(at));
        (0..ELEMENT_DISTANCE).for_each(|at| self.element(at));
        (0..BYTES_DISTANCE).for_each(|at| self.bytes(at));
    }

    /// The hints that are due with record number `at`.
    #[inline]
    fn go_on(&self, at: usize) {
        self.sprig(at + SPRIG_DISTANCE);
        self.element(at + ELEMENT_DISTANCE);
        self.bytes(at + BYTES_DISTANCE);
    }
}

impl Walker<'_> {
    /// Walks through one part, and then through `next`; breaks when there are enough records.
    pub(super) fn walk_secondary(
        &mut self,
        condition: &Condition,
        part: &Part,
        next: Option<&Part>,
    ) -> Result<ControlFlow<()>, Stop> {
        let Some(index) = condition.index() else { return Ok(ControlFlow::Continue(())) };
        let namespace = &*self.run.query.namespace;
        let mut repeats = Repeats::of(&self.run.query, condition);
        let (mut after, mut entries) = (part.after, std::mem::take(&mut self.entries));
        if let Some(next) = next {
            index.prefetch_directory(next.partition);
        }
        loop {
            let max = self.run.samples_left().map_or(PORTION_SIZE_MAX, |left| {
                (left as usize).saturating_mul(2).clamp(PORTION_SIZE_MIN, PORTION_SIZE_MAX)
            });
            entries.clear();
            let ranges = condition.ranges_after(after);
            let removals = condition.removals(part.partition);
            self.read_clock();
            let has_more = index.collect(namespace, part.partition, ranges, max, &mut entries);
            if has_more {
                repeats.expect_portions();
            }
            if let (Some(next), Some((low, _))) = (next, condition.ranges().first()) {
                index.prefetch_leaf(next.partition, *low);
            }
            if self.walk_entries(condition, part, (&entries[..], removals), &mut repeats)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            match entries.last() {
                Some(last) if has_more && !condition.is_dropped() => {
                    after = Some(Resume { digest: last.digest, bval: last.key.bval(condition.key_type()) });
                }
                _ => break,
            }
        }
        self.entries = entries;
        Ok(ControlFlow::Continue(()))
    }

    /// Walks through entries that were collected when the number of removals was `removals`.
    fn walk_entries(
        &mut self,
        condition: &Condition,
        part: &Part,
        (entries, removals): (&[IndexEntry<Key>], u64),
        repeats: &mut Repeats,
    ) -> Result<ControlFlow<()>, Stop> {
        let ahead = Ahead { namespace: &self.run.query.namespace, entries };
        ahead.begin();
        for (at, found) in entries.iter().enumerate() {
            if at > 0 && at.is_multiple_of(PORTION_SIZE_MIN) {
                self.read_clock();
                self.check_end()?;
            }
            ahead.go_on(at);
            if !repeats.is_due(found, condition.ranges()) {
                continue;
            }
            let visited = loop {
                let Some(guard) = self.find(&found.digest)? else { break None };
                let entry = FoundEntry {
                    bval: found.key.bval(condition.key_type()),
                    must_check: guard.handle() != found.handle
                        || condition.must_check(part.partition, removals),
                };
                let visited = self.visit(guard, Some(entry));
                if !self.must_look_again()? {
                    break Some(visited);
                }
            };
            let Some(visited) = visited else { continue };
            match visited {
                ControlFlow::Break(()) => return Ok(ControlFlow::Break(())),
                ControlFlow::Continue(Visited::Passed) => {
                    repeats.note_taken(&found.digest);
                    self.go_on(&found.digest)?;
                }
                ControlFlow::Continue(Visited::LeftOut) => self.rest()?,
            }
        }
        self.check_end_after(entries.len() % PORTION_SIZE_MIN)?;
        self.keep_partition()?;
        Ok(ControlFlow::Continue(()))
    }
}
