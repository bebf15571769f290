//! Fetching records that are not in memory: a thread reads them from their disk without their lock, and finds
//! them again under the lock.
//!
//! Under a guard only memory is read, so no thread that needs the lock of a sprig waits for a disk. A thread
//! that finds a record which is not in memory ([`StorageError::NotInMemory`]) drops its guard, calls
//! [`Storage::fetch`] to read the record's place into its [`ReadBuffer`], and looks for the record again. The
//! bytes are valid if the record is still at that place and its write block is in the same life: a block is
//! written to only after it was taken, so the bytes were those of the record all the time. Otherwise the
//! record has moved or changed. It is mostly in memory then; if not, its new place is read.

use std::ops::Deref;

use cf::Digest;

use super::engine::Storage;
use super::error::StorageError;
use super::read_buffer::{ReadBuffer, unpacked};
use crate::index::{Element, Index, ReadGuard};

/// Largest number of fetches of a record that moves between any two attempts.
pub(crate) const FETCHES_MAX: u32 = 16;

impl Storage {
    /// Whether records are read from disks, because the namespace is not kept in memory.
    #[inline]
    pub(crate) fn reads_disks(&self) -> bool {
        self.reads_disks
    }

    /// Reads from its disk the record that the last read with `scratch` did not find in memory. Returns
    /// whether the caller should look for the record again, with the bytes in `scratch`. It should not if no
    /// record was missing, or if the disk does not answer and the caller's thread may not wait for it. The
    /// caller holds no guard.
    #[inline]
    pub(crate) fn fetch(&self, scratch: &mut ReadBuffer) -> bool {
        let Some(place) = scratch.stored.take_wanted() else { return false };
        let disk = self.devices[usize::from(place.location.device())].as_disk();
        disk.is_some_and(|disk| disk.fetch(place, &mut scratch.stored))
    }

    /// The record of `digest` in `index`, whose bytes are in memory or in `scratch`. If its disk does not
    /// answer, or the record moves all the time, the bytes are not there, and reading it gives `NotInMemory`.
    pub(crate) fn get_readable<'i>(
        &self,
        index: &'i Index,
        digest: &Digest,
        scratch: &mut ReadBuffer,
    ) -> Option<ReadGuard<'i>> {
        self.find_readable(|| index.get(digest).ok_or(()), |_| true, scratch).ok()
    }

    /// The record that `find` returns. If `is_read` is true for it, its bytes are in memory or in `scratch`, with the
    /// exceptions of [`get_readable`](Self::get_readable).
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

    /// Whether the record of `element`, which is borrowed from its guard, can be read at once, or is known to
    /// be unreadable. If neither, it is marked to be [fetched](Self::fetch).
    #[inline]
    pub(crate) fn is_readable(&self, element: &Element, scratch: &mut ReadBuffer) -> bool {
        !self.reads_disks
            || !element.location.is_stored()
            || !matches!(self.stored_bytes(element, &mut scratch.stored), Err(StorageError::NotInMemory))
    }

    /// The flat form, not packed, of the record of `element`, which is borrowed from its guard, if the record
    /// was read into `scratch` from a disk or a disk's buffer.
    ///
    /// # Errors
    /// When the record could not be read.
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
