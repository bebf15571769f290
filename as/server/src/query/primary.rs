//! Walking a partition by the primary index, in the order in which clients page.

use std::ops::ControlFlow;

use cf::Digest;

use super::job::End;
use super::request::Part;
use super::walked::Stop;
use super::walker::{Visited, Walker};
use crate::index::{LockWait, ReadGuard};
use crate::namespace::Namespace;

/// How many records ahead of the current one stored bytes are prefetched.
const PREFETCH_DISTANCE: usize = 8;

impl<'a> Walker<'a> {
    /// How it waits for the locks of sprigs: on a service thread it does not sleep.
    pub(super) fn lock_wait(&self) -> LockWait {
        if self.run.inline_until.is_some() { LockWait::Spin } else { LockWait::Sleep }
    }

    /// The record of `digest`, if it is there and selected by the query.
    ///
    /// # Errors
    /// When a service thread would have to wait for it.
    pub(super) fn find(&self, digest: &Digest) -> Result<Option<ReadGuard<'a>>, Stop> {
        let index = &self.run.query.namespace.index;
        let found = index.get_within(digest, self.lock_wait()).map_err(|_| Stop::Query(End::TimedOut))?;
        Ok(found.filter(|guard| self.is_wanted(guard)))
    }

    /// Walks through one part; breaks when there are enough records.
    pub(super) fn walk_primary(&mut self, part: &Part) -> Result<ControlFlow<()>, Stop> {
        let query = &self.run.query;
        let Namespace { storage, .. } = &*query.namespace;
        let after = part.after.as_ref().map(|after| &after.digest);
        let walk = query.namespace.walk(part.partition, query.set.set_id(), after);
        let mut walk = walk.within(self.lock_wait());
        while let Some(portion) = walk.next_portion(|element| self.is_wanted(element)) {
            self.read_clock();
            for (at, found) in portion.iter().enumerate() {
                if let Some(projection) = query.asks_only_index(&found.meta) {
                    if self.send_metadata(projection, found)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    continue;
                }
                if let Some(ahead) = portion.get(at + PREFETCH_DISTANCE) {
                    storage.prefetch(ahead.meta.location);
                }
                let visited = loop {
                    // The record may have been removed or changed since the cursor saw it.
                    let Some(guard) = self.find(&found.digest)? else { break None };
                    let visited = self.visit(guard, None);
                    if !self.must_look_again()? {
                        break Some(visited);
                    }
                };
                let Some(visited) = visited else { continue };
                match visited {
                    ControlFlow::Break(()) => return Ok(ControlFlow::Break(())),
                    ControlFlow::Continue(Visited::Passed) => self.go_on(&found.digest)?,
                    ControlFlow::Continue(Visited::LeftOut) => self.rest()?,
                }
            }
            self.check_end()?;
            self.keep_partition()?;
        }
        Ok(ControlFlow::Continue(()))
    }
}
