//! A walk over the records of a partition, of one set or of all, in the order in which queries resume: by the index of
//! the set if that is ready, else by the primary index. Both have the order of falling digests, so a walk whose set
//! index is switched off continues in the primary index.
//!
//! A record that exists throughout is found exactly once, as by [`Cursor`].

use cf::Digest;

use super::SetIndex;
use crate::index::{Cursor, Element, LockWait, PartitionId, SeenRecord, SetId};
use crate::namespace::Namespace;

/// Records of a portion.
const PORTION_SIZE: usize = 512;
/// How many records ahead of the current one elements are prefetched.
const PREFETCH_DISTANCE: usize = 8;

/// A walk over the records of a partition.
pub(crate) enum RecordWalk<'a> {
    Primary(Cursor<'a>),
    Set(SetWalk<'a>),
}

/// A walk by the index of a set.
pub(crate) struct SetWalk<'a> {
    namespace: &'a Namespace,
    index: &'a SetIndex,
    partition: PartitionId,
    /// All records that are not taken from the index yet are before this digest.
    bound: Option<Digest>,
    /// The bound before the last digests were taken.
    taken_from: Option<Digest>,
    has_more: bool,
    digests: Vec<Digest>,
    portion: Vec<SeenRecord>,
    wait: LockWait,
}

impl Namespace {
    /// A walk over the records of `partition`, those of set `set_id` or, for [`SetId::NONE`], all, after the digest
    /// `after` if one is given. It may include records of other sets too.
    pub(crate) fn walk(
        &self,
        partition: PartitionId,
        set_id: SetId,
        after: Option<&Digest>,
    ) -> RecordWalk<'_> {
        match self.set_index(set_id).filter(|index| index.is_ready()) {
            None => RecordWalk::Primary(self.index.cursor(partition, after)),
            Some(index) => RecordWalk::Set(SetWalk {
                namespace: self,
                index,
                partition,
                bound: after.copied(),
                taken_from: after.copied(),
                has_more: true,
                digests: Vec::new(),
                portion: Vec::new(),
                wait: LockWait::Sleep,
            }),
        }
    }
}

impl RecordWalk<'_> {
    /// The same, waiting for locks as [`Cursor::within`] describes.
    pub(crate) fn within(self, wait: LockWait) -> Self {
        match self {
            RecordWalk::Primary(cursor) => RecordWalk::Primary(cursor.within(wait)),
            RecordWalk::Set(walk) => RecordWalk::Set(SetWalk { wait, ..walk }),
        }
    }

    /// The next records that are `wanted`, in order; `None` after the last. As [`Cursor::next_portion`].
    pub(crate) fn next_portion(&mut self, mut wanted: impl FnMut(&Element) -> bool) -> Option<&[SeenRecord]> {
        if let RecordWalk::Set(walk) = self
            && !walk.collect()
        {
            let cursor = walk.namespace.index.cursor(walk.partition, walk.bound.as_ref());
            *self = RecordWalk::Primary(cursor.within(walk.wait));
        }
        match self {
            RecordWalk::Primary(cursor) => cursor.next_portion(wanted),
            RecordWalk::Set(walk) => walk.look_up(&mut wanted),
        }
    }
}

impl SetWalk<'_> {
    /// Takes the next digests from the index; returns `false` if the index is off.
    fn collect(&mut self) -> bool {
        self.digests.clear();
        if !self.has_more {
            return true;
        }
        let place = (self.partition, self.bound.as_ref());
        let Some(has_more) = self.index.collect(self.namespace, place, PORTION_SIZE, &mut self.digests)
        else {
            return false;
        };
        self.has_more = has_more;
        self.taken_from = self.bound;
        self.bound = self.digests.last().copied().or(self.bound);
        true
    }

    /// Looks up the records of the digests taken; `None` if there are none.
    fn look_up(&mut self, wanted: &mut impl FnMut(&Element) -> bool) -> Option<&[SeenRecord]> {
        if self.digests.is_empty() {
            return None;
        }
        let index = &self.namespace.index;
        self.portion.clear();
        for (at, digest) in self.digests.iter().enumerate() {
            if let Some(ahead) = self.digests.get(at + 2 * PREFETCH_DISTANCE) {
                index.prefetch_sprig(ahead);
            }
            if let Some(ahead) = self.digests.get(at + PREFETCH_DISTANCE) {
                index.prefetch_element(ahead);
            }
            let Ok(found) = index.get_within(digest, self.wait) else {
                // The next portion begins with it.
                self.bound = at.checked_sub(1).map(|last| self.digests[last]).or(self.taken_from);
                self.has_more = true;
                break;
            };
            if let Some(guard) = found.filter(|guard| wanted(guard)) {
                self.portion.push(SeenRecord::of(&guard));
            }
        }
        Some(&self.portion)
    }
}
