//! Buffers of a thread for records that are not read in place: those from a disk, and packed ones.

use std::ops::Range;

use cf::aligned::AlignedBuf;
use datamodel::flat::FlatRecord;
use datamodel::packing::Unpacker;

use super::callers::DiskCaller;
use super::error::StorageError;
use crate::index::Location;

/// First size of a [`ReadBuffer`].
const READ_BUFFER_SIZE: usize = 16 << 10;

/// A thread's buffers for records that are not read in place: from a disk, and unpacked. They take no memory before the first.
pub(crate) struct ReadBuffer {
    pub(crate) stored: DiskBuffer,
    pub(crate) unpacker: Unpacker,
}

impl ReadBuffer {
    /// Those of a thread that waits for disks itself.
    pub(crate) fn new() -> Self {
        Self::of(DiskCaller::Other)
    }

    /// Those of a thread of `caller`.
    pub(crate) fn of(caller: DiskCaller) -> Self {
        ReadBuffer { stored: DiskBuffer::of(caller), unpacker: Unpacker::default() }
    }

    /// Whether the last record that was asked for was not read: its disk does not answer, or it has to be
    /// [fetched](super::Storage::fetch) first.
    pub(crate) fn is_unread(&self) -> bool {
        self.stored.stuck.is_some() || self.stored.wanted.is_some()
    }

    /// The device of the last record that was not read, as its disk is stuck, if there was one since the last call.
    pub(crate) fn take_stuck(&mut self) -> Option<u8> {
        self.stored.stuck.take()
    }

    /// Forgets which record it has, so that it is read anew, which one is wanted, and which disk was stuck: a transaction that
    /// succeeded all the same has left that to the next one, perhaps of another namespace.
    #[inline]
    pub(crate) fn forget(&mut self) {
        self.stored.record = None;
        self.stored.wanted = None;
        self.stored.stuck = None;
    }
}

/// Where a record is on a disk, in which life of its write block: the bytes there are those of the record, as long as its index
/// element says that it is there in this life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StoredPlace {
    /// The address of the disk.
    pub(super) disk: usize,
    pub(super) location: Location,
    pub(super) block_life: u16,
}

/// Bytes read from a disk; grows to the most.
pub(crate) struct DiskBuffer {
    bytes: Option<AlignedBuf>,
    /// The record that was read last, if it was one, and where in the buffer it is, or why it cannot be read.
    record: Option<(StoredPlace, Result<Range<usize>, StorageError>)>,
    /// A record that was asked for under its guard, and has to be read without one.
    wanted: Option<StoredPlace>,
    pub(super) caller: DiskCaller,
    /// Where calls are noted that are under way.
    pub(super) slot_hint: usize,
    /// The device that was not read, as its disk is stuck.
    pub(super) stuck: Option<u8>,
}

impl DiskBuffer {
    pub(super) fn new() -> Self {
        Self::of(DiskCaller::Other)
    }

    fn of(caller: DiskCaller) -> Self {
        DiskBuffer { bytes: None, record: None, wanted: None, caller, slot_hint: 0, stuck: None }
    }

    /// Whether it has the record at `place`, or knows why that cannot be read. Nothing is wanted any more.
    #[inline]
    pub(super) fn has(&mut self, place: StoredPlace) -> bool {
        self.wanted = None;
        self.record.as_ref().is_some_and(|(own, _)| *own == place)
    }

    /// The record at `place` has to be read.
    pub(super) fn want(&mut self, place: StoredPlace) {
        self.wanted = Some(place);
    }

    /// The record that has to be read, if there is one.
    #[inline]
    pub(super) fn take_wanted(&mut self) -> Option<StoredPlace> {
        self.wanted.take()
    }

    /// The record at `place` was read to a part of the buffer, or cannot be read.
    pub(super) fn keep(&mut self, place: StoredPlace, outcome: Result<Range<usize>, StorageError>) {
        self.record = Some((place, outcome));
    }

    /// The record that it has.
    ///
    /// # Errors
    /// Why that cannot be read; `NotInMemory` if it has none.
    pub(super) fn kept(&self) -> Result<&[u8], StorageError> {
        let Some((_, outcome)) = &self.record else { return Err(StorageError::NotInMemory) };
        let range = outcome.clone()?;
        let bytes = self.bytes.as_deref().and_then(|bytes| bytes.get(range));
        bytes.ok_or(StorageError::NotInMemory)
    }

    /// The buffer, with room for `size` bytes at least.
    pub(super) fn of_size(&mut self, size: usize) -> &mut AlignedBuf {
        self.record = None;
        if self.bytes.as_ref().is_some_and(|buffer| buffer.len() < size) {
            self.bytes = None;
        }
        self.bytes.get_or_insert_with(|| AlignedBuf::zeroed(size.max(READ_BUFFER_SIZE).next_power_of_two()))
    }
}

/// The same of a copy; one that is not packed stays as it is.
///
/// # Errors
/// When it is damaged.
pub(crate) fn into_unpacked(stored: Vec<u8>, unpacker: &mut Unpacker) -> Result<Vec<u8>, StorageError> {
    if FlatRecord::parse(&stored).is_ok_and(|record| record.packing.is_some()) {
        unpacked(&stored, unpacker).map(<[u8]>::to_vec)
    } else {
        Ok(stored)
    }
}

/// The flat record in `stored`, not packed.
///
/// # Errors
/// When it is damaged.
pub(crate) fn unpacked<'b>(stored: &'b [u8], unpacker: &'b mut Unpacker) -> Result<&'b [u8], StorageError> {
    match FlatRecord::parse(stored) {
        Ok(record) if record.packing.is_some() => unpacker.unpack(&record).map_err(|_| StorageError::Damaged),
        // Whoever parses it learns what is wrong with it.
        _ => Ok(stored),
    }
}
