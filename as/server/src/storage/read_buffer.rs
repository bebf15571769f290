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

    /// Whether a record was not read since the last [`take_stuck`](Self::take_stuck), as its disk is stuck.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stored.stuck.is_some()
    }

    /// The device of the last record that was not read, as its disk is stuck, if there was one since the last call.
    pub(crate) fn take_stuck(&mut self) -> Option<u8> {
        self.stored.stuck.take()
    }

    /// Forgets which record it has.
    #[inline]
    pub(crate) fn forget(&mut self) {
        self.stored.record = None;
    }

    /// The record of `location`, not packed, if it was read from a disk since all was [forgotten](Self::forget): for the
    /// holder of a guard who has forgotten what was read before it had that.
    pub(crate) fn reread(&mut self, location: Location) -> Option<&[u8]> {
        let (_, range) = self.stored.record.as_ref().filter(|(own, _)| own.same_place(location))?;
        let bytes = self.stored.bytes.as_deref()?.get(range.clone())?;
        unpacked(bytes, &mut self.unpacker).ok()
    }
}

/// Bytes read from a disk; grows to the most.
pub(crate) struct DiskBuffer {
    bytes: Option<AlignedBuf>,
    /// The record that was read last, if it was one, and where in the buffer it is.
    record: Option<(Location, Range<usize>)>,
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
        DiskBuffer { bytes: None, record: None, caller, slot_hint: 0, stuck: None }
    }

    /// The bytes at `range`, which are the record of `location`.
    pub(super) fn keep_record(&mut self, location: Location, range: Range<usize>) -> &[u8] {
        self.record = Some((location, range.clone()));
        self.bytes.as_deref().and_then(|bytes| bytes.get(range)).unwrap_or_default()
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
