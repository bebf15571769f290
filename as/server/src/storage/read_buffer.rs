//! Buffers of a thread for records that are not read in place: those from a disk, and packed ones.

use std::ops::Range;

use cf::aligned::AlignedBuf;
use datamodel::flat::FlatRecord;
use datamodel::packing::Unpacker;

use super::callers::DiskCaller;
use super::error::StorageError;
use crate::index::Location;

/// Initial size of a [`ReadBuffer`].
const READ_BUFFER_SIZE: usize = 16 << 10;

/// A thread's buffers for records that are not read in place: those from a disk, and packed ones. They take
/// no memory before the first such record.
pub(crate) struct ReadBuffer {
    pub(crate) stored: DiskBuffer,
    pub(crate) unpacker: Unpacker,
}

impl ReadBuffer {
    /// The buffers of a thread that waits for disks itself.
    pub(crate) fn new() -> Self {
        Self::of(DiskCaller::Other)
    }

    /// The buffers of a thread of `caller`.
    pub(crate) fn of(caller: DiskCaller) -> Self {
        ReadBuffer { stored: DiskBuffer::of(caller), unpacker: Unpacker::default() }
    }

    /// Whether the last record that was asked for was not read, because its disk does not answer, or because
    /// it has to be [fetched](super::Storage::fetch) first.
    pub(crate) fn is_unread(&self) -> bool {
        self.stored.stuck.is_some() || self.stored.wanted.is_some()
    }

    /// The device of the last record that was not read because its disk is stuck; `None` if there was none
    /// since the last call.
    pub(crate) fn take_stuck(&mut self) -> Option<u8> {
        self.stored.stuck.take()
    }

    /// Forgets the buffer's record, so that the record is read again, the wanted record, and the stuck disk.
    /// A transaction that succeeded without them may have left them behind, and the next one may be of
    /// another namespace.
    #[inline]
    pub(crate) fn forget(&mut self) {
        self.stored.record = None;
        self.stored.wanted = None;
        self.stored.stuck = None;
    }
}

/// The place of a record on a disk, and the life of its write block. The bytes at the place are those of the
/// record as long as its index element points there in this life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StoredPlace {
    /// The address of the disk.
    pub(super) disk: usize,
    pub(super) location: Location,
    pub(super) block_life: u16,
}

/// Bytes read from a disk. The buffer never shrinks.
pub(crate) struct DiskBuffer {
    bytes: Option<AlignedBuf>,
    /// The record that was read last, if any, and its place in the buffer or the error.
    record: Option<(StoredPlace, Result<Range<usize>, StorageError>)>,
    /// A record that was asked for under its guard, and has to be read without it.
    wanted: Option<StoredPlace>,
    pub(super) caller: DiskCaller,
    /// The caller for registering calls in progress, and the hint of its slot.
    pub(super) slot_hint: usize,
    /// The device that was not read because its disk is stuck.
    pub(super) stuck: Option<u8>,
}

impl DiskBuffer {
    pub(super) fn new() -> Self {
        Self::of(DiskCaller::Other)
    }

    fn of(caller: DiskCaller) -> Self {
        DiskBuffer { bytes: None, record: None, wanted: None, caller, slot_hint: 0, stuck: None }
    }

    /// Whether the buffer has the record at `place`, or the error of its read. No record is wanted
    /// afterwards.
    #[inline]
    pub(super) fn has(&mut self, place: StoredPlace) -> bool {
        self.wanted = None;
        self.record.as_ref().is_some_and(|(own, _)| *own == place)
    }

    /// Notes that the record at `place` has to be read.
    pub(super) fn want(&mut self, place: StoredPlace) {
        self.wanted = Some(place);
    }

    /// The record that has to be read, if there is one.
    #[inline]
    pub(super) fn take_wanted(&mut self) -> Option<StoredPlace> {
        self.wanted.take()
    }

    /// Notes that the record at `place` was read to a part of the buffer, or the error.
    pub(super) fn keep(&mut self, place: StoredPlace, outcome: Result<Range<usize>, StorageError>) {
        self.record = Some((place, outcome));
    }

    /// The record in the buffer.
    ///
    /// # Errors
    /// The error of its read; `NotInMemory` if there is none.
    pub(super) fn kept(&self) -> Result<&[u8], StorageError> {
        let Some((_, outcome)) = &self.record else { return Err(StorageError::NotInMemory) };
        let range = outcome.clone()?;
        let bytes = self.bytes.as_deref().and_then(|bytes| bytes.get(range));
        bytes.ok_or(StorageError::NotInMemory)
    }

    /// The buffer, with room for at least `size` bytes.
    pub(super) fn of_size(&mut self, size: usize) -> &mut AlignedBuf {
        self.record = None;
        if self.bytes.as_ref().is_some_and(|buffer| buffer.len() < size) {
            self.bytes = None;
        }
        self.bytes.get_or_insert_with(|| AlignedBuf::zeroed(size.max(READ_BUFFER_SIZE).next_power_of_two()))
    }
}

/// Unpacks a copied record; a record that is not packed stays unchanged.
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
        // The caller parses the record and finds the error.
        _ => Ok(stored),
    }
}
