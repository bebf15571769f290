//! Walking a partition by the primary index, in the order in which clients page.

use std::ops::ControlFlow;

use super::request::Part;
use super::run::{Visited, Walker};
use super::walked::Stop;
use crate::namespace::Namespace;

/// How many records ahead of the current one stored bytes are prefetched.
const PREFETCH_DISTANCE: usize = 8;

impl Walker<'_> {
    /// Walks through one part; breaks when there are enough records.
    pub(super) fn walk_primary(&mut self, part: &Part) -> Result<ControlFlow<()>, Stop> {
        let query = &self.run.query;
        let Namespace { index, storage, .. } = &*query.namespace;
        let after = part.after.as_ref().map(|after| &after.digest);
        let mut walk = query.namespace.walk(part.partition, query.set.set_id(), after);
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
                    let Some(guard) = index.get(&found.digest).filter(|guard| self.is_wanted(guard)) else {
                        break None;
                    };
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
