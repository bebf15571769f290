//! Records that are not in memory: read from their disk without their lock, and found again under it.
//!
//! Under a guard only what is in memory is read, so nobody who wants the lock of a sprig waits for a disk. Whoever finds that a
//! record is not ([`StorageError::NotInMemory`]) gives its guard up, has [`Storage::fetch`] read the place that the record had
//! into the thread's [`ReadBuffer`], and looks for the record again. What was read counts if the record is still at that place,
//! and the write block there has not begun another life: a block is written to only after it was taken, so the bytes were
//! those of the record all the time. Otherwise the record has moved or changed, which mostly has brought it into memory, and
//! the new place is read.

use std::ops::Deref;

use cf::Digest;

use super::engine::Storage;
use super::error::StorageError;
use super::read_buffer::{ReadBuffer, unpacked};
use crate::index::{Element, Index, ReadGuard};

/// So often a record is fetched that is never where it was a moment ago.
pub(crate) const FETCHES_MAX: u32 = 16;

impl Storage {
    /// Whether records are read from disks: those of a namespace that is not kept in memory.
    #[inline]
    pub(crate) fn reads_disks(&self) -> bool {
        self.reads_disks
    }

    /// Reads the record from its disk that was not in memory when it was last asked for with `scratch`. Returns whether it is to
    /// be looked for again, with what was read at hand in `scratch`: not if nothing is missing, or if its disk does not answer and
    /// whoever has `scratch` does not wait for that. The caller holds no guard.
    #[inline]
    pub(crate) fn fetch(&self, scratch: &mut ReadBuffer) -> bool {
        let Some(place) = scratch.stored.take_wanted() else { return false };
        let disk = self.devices[usize::from(place.location.device())].as_disk();
        disk.is_some_and(|disk| disk.fetch(place, &mut scratch.stored))
    }

    /// The record of `digest` in `index`, whose bytes are in memory or in `scratch`. They are not if its disk does not answer, or the
    /// record is moved all the time; then it is `NotInMemory`.
    pub(crate) fn get_readable<'i>(
        &self,
        index: &'i Index,
        digest: &Digest,
        scratch: &mut ReadBuffer,
    ) -> Option<ReadGuard<'i>> {
        self.find_readable(|| index.get(digest).ok_or(()), |_| true, scratch).ok()
    }

    /// The record that `find` gives, whose bytes are in memory or in `scratch` if it is one that `is_read`; or as
    /// [`get_readable`](Self::get_readable) says.
    ///
    /// # Errors
    /// Those of `find`.
    pub(crate) fn find_readable<G: Deref<Target = Element>, E>(
        &self,
        find: impl Fn() -> Result<G, E>,
        is_read: impl Fn(&Element) -> bool,
        scratch: &mut ReadBuffer,
    ) -> Result<G, E> {
        for _ in 0..FETCHES_MAX {
            let guard = find()?;
            if !is_read(&guard) || self.is_readable(&guard, scratch) {
                return Ok(guard);
            }
            drop(guard);
            if !self.fetch(scratch) {
                break;
            }
        }
        find()
    }

    /// Whether the record of `element`, which is borrowed from its guard, can be read at once, or is known to be unreadable. If
    /// not, it is [wanted](Self::fetch).
    #[inline]
    pub(crate) fn is_readable(&self, element: &Element, scratch: &mut ReadBuffer) -> bool {
        !self.reads_disks
            || !element.location.is_stored()
            || !matches!(self.stored_bytes(element, &mut scratch.stored), Err(StorageError::NotInMemory))
    }

    /// The flat form of the record of `element`, which is borrowed from its guard, if it was read from a disk, or a buffer of one,
    /// into `scratch`; not packed.
    ///
    /// # Errors
    /// When it could not be read.
    pub(crate) fn bytes_read<'s>(
        &self,
        element: &Element,
        scratch: &'s mut ReadBuffer,
    ) -> Option<Result<&'s [u8], StorageError>> {
        if !self.reads_disks || !element.location.is_stored() {
            return None;
        }
        let device = &self.devices[usize::from(element.location.device())];
        let place = device.place_to_fetch(self.pinned(element))?;
        let ReadBuffer { stored, unpacker } = scratch;
        stored.has(place).then(|| stored.kept().and_then(|bytes| unpacked(bytes, unpacker)))
    }
}
