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
/// How many records ahead of the current one elements are prefetched; stored bytes are prefetched half as far ahead.
const PREFETCH_DISTANCE: usize = 12;

impl Walker<'_> {
    /// Walks through one part; breaks when there are enough records.
    pub(super) fn walk_secondary(
        &mut self,
        condition: &Condition,
        part: &Part,
    ) -> Result<ControlFlow<()>, Stop> {
        let Some(index) = condition.index() else { return Ok(ControlFlow::Continue(())) };
        let namespace = &*self.run.query.namespace;
        let mut repeats = Repeats::of(&self.run.query, condition);
        let (mut after, mut entries) = (part.after, Vec::new());
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
            if self.walk_entries(condition, part, (&entries[..], removals), &mut repeats)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            match entries.last() {
                Some(last) if has_more && !condition.is_dropped() => {
                    after = Some(Resume { digest: last.digest, bval: last.key.bval(condition.key_type()) });
                }
                _ => return Ok(ControlFlow::Continue(())),
            }
        }
    }

    /// Walks through entries that were collected when the number of removals was `removals`.
    fn walk_entries(
        &mut self,
        condition: &Condition,
        part: &Part,
        (entries, removals): (&[IndexEntry<Key>], u64),
        repeats: &mut Repeats,
    ) -> Result<ControlFlow<()>, Stop> {
        let Namespace { index, storage, .. } = &*self.run.query.namespace;
        for (at, found) in entries.iter().enumerate() {
            if let Some(ahead) = entries.get(at + 2 * PREFETCH_DISTANCE) {
                index.prefetch_sprig(&ahead.digest);
            }
            if let Some(ahead) = entries.get(at + PREFETCH_DISTANCE) {
                index.prefetch_element(&ahead.digest);
            }
            if let Some(guard) =
                entries.get(at + PREFETCH_DISTANCE / 2).and_then(|ahead| index.try_get(&ahead.digest))
            {
                storage.prefetch(guard.location);
            }
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
            if at % PORTION_SIZE_MIN == PORTION_SIZE_MIN - 1 {
                self.read_clock();
                self.check_end()?;
            }
        }
        self.check_end()?;
        self.keep_partition()?;
        Ok(ControlFlow::Continue(()))
    }
}
