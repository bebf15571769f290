//! The headers of a namespace's disks while it is in use: what is written of them, and when.
//!
//! A start writes them whole, not trusted. After that only the part that changed is written: the groups of the partitions
//! whose versions changed, each once however many of its entries did; at a clean stop the unique part, then the prefix,
//! which says that all else can be trusted. A sector that is torn off leaves every entry as it was or as it is to be. The
//! second copy of the entries is brought to all disks before they are (`datamodel::partition_copy`).
//!
//! `Storage::headers` is locked while they are written; nobody on the way of a request takes that lock.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use cf::aligned::AlignedBuf;
use cf::sys::block::BlockError;
use datamodel::device_header::{
    COPY_BYTES, COPY_SEAL_BYTES, DeviceHeader, Flags, HEADER_SIZE, PREFIX_BYTES, PartitionEntry,
    UNIQUE_BYTES, WRITTEN_SIZE,
};
use datamodel::partition_copy::{self, copy_of_group};

use super::WBLOCK_SIZE;
use super::device::Device;
use super::engine::Storage;
use crate::index::{PARTITION_COUNT, PartitionId};

/// How long a disk that cannot be written to is tried at the end, and how often.
const LAST_TRIES: Duration = Duration::from_secs(5);
const TRY_PERIOD: Duration = Duration::from_millis(200);

impl Storage {
    /// Writes the headers of a server that runs: not trusted; with the partitions as they were.
    pub(super) fn mark_in_use(&self) -> Result<(), BlockError> {
        let mut headers = self.headers.lock();
        for header in headers.iter_mut() {
            header.flags = header.flags.with(Flags::TRUSTED, false);
        }
        let before = headers.first().map_or_else(Box::default, |header| header.partitions.clone());
        self.write_headers(&headers, &before, std::slice::from_ref(&COPY_BYTES))?;
        self.write_headers(&headers, &before, std::slice::from_ref(&(0..WRITTEN_SIZE)))
    }

    /// What the headers say of each partition; nothing if there are no disks.
    pub(crate) fn partition_entries(&self) -> Box<[PartitionEntry]> {
        match self.headers.lock().first() {
            Some(header) => header.partitions.clone(),
            None => vec![PartitionEntry::default(); PARTITION_COUNT].into(),
        }
    }

    /// Has all headers say this of partitions, durably.
    ///
    /// # Errors
    /// When a header cannot be written. Some then say it and some do not, and those that do take it back when one of
    /// their neighbours is written.
    pub(crate) fn write_partitions(
        &self,
        entries: &[(PartitionId, PartitionEntry)],
    ) -> Result<(), BlockError> {
        let mut headers = self.headers.lock();
        let Some(first) = headers.first() else { return Ok(()) };
        let before = first.partitions.clone();
        let changed = entries.iter().filter(|(id, entry)| before[id.index()] != *entry);
        let groups: BTreeSet<usize> =
            changed.map(|(id, _)| PartitionEntry::group_bytes(id.index()).start).collect();
        let groups: Vec<Range<usize>> =
            groups.into_iter().map(|start| start..start + PartitionEntry::group_bytes(0).len()).collect();
        for header in headers.iter_mut() {
            entries.iter().for_each(|(id, entry)| header.partitions[id.index()] = *entry);
        }
        let mut copies: Vec<Range<usize>> = groups.iter().map(copy_of_group).collect();
        copies.extend((!copies.is_empty()).then_some(COPY_SEAL_BYTES));
        let result = self
            .write_headers(&headers, &before, &copies)
            .and_then(|()| self.write_headers(&headers, &before, &groups));
        if result.is_err() {
            headers.iter_mut().for_each(|header| header.partitions = before.clone());
        }
        result
    }

    /// The clean end: everything is on disk, and the headers say so. A disk that cannot be written to is tried for some
    /// seconds. Gives whether nothing is lost.
    pub(crate) fn close(&self) -> bool {
        let mut headers = self.headers.lock();
        let deadline = Instant::now() + LAST_TRIES;
        // Of all disks what can be saved, also if one of them fails.
        let saved = self
            .devices
            .iter()
            .map(|device| flush_at_the_end(device, deadline))
            .fold(true, |all, one| all & one);
        if !saved {
            return false;
        }
        if let Err(error) = self.sync() {
            cf::critical!(
                Storage,
                "{error}: what was written since the last good sync may be lost; the next start treats it as after a crash"
            );
            return false;
        }
        for (device, header) in self.devices.iter().zip(headers.iter_mut()) {
            header.pristine_offset = u64::from(device.wblocks.pristine()) * u64::from(WBLOCK_SIZE);
            header.flags = header.flags.with(Flags::TRUSTED, true);
        }
        let written = self
            .write_headers(&headers, &[], &[UNIQUE_BYTES])
            .and_then(|()| self.write_headers(&headers, &[], &[PREFIX_BYTES]));
        if let Err(error) = &written {
            cf::critical!(Storage, "{error}: the device header could not be written at the end");
        }
        written.is_ok()
    }

    /// Makes durable what was written without waiting for it, of all disks what can be.
    ///
    /// # Errors
    /// When a sync fails, or has failed before.
    fn sync(&self) -> Result<(), BlockError> {
        self.disks()
            .map(|disk| disk.sync_if_volatile().and_then(|()| disk.check_syncs()))
            .fold(Ok(()), Result::and)
    }

    /// Writes `parts` of each device's header, and waits until they are on it. `before` are the partition entries that were
    /// there until now, if parts of their copy are written.
    fn write_headers(
        &self,
        headers: &[DeviceHeader],
        before: &[PartitionEntry],
        parts: &[Range<usize>],
    ) -> Result<(), BlockError> {
        if parts.is_empty() {
            return Ok(());
        }
        let mut bytes = AlignedBuf::zeroed(HEADER_SIZE);
        for (device, header) in self.devices.iter().zip(headers) {
            let Some(disk) = device.as_disk() else { continue };
            header.encode(&mut bytes);
            partition_copy::encode(header, before, &mut bytes);
            for medium in disk.media.written() {
                for part in parts {
                    medium.write_at(part.start as u64, &bytes, part.clone())?;
                }
                disk.sync_header(medium)?;
            }
        }
        Ok(())
    }
}

/// Writes out all of a disk, trying again until `deadline`. Gives whether that went well; if not, the log says what is lost.
fn flush_at_the_end(device: &Device, deadline: Instant) -> bool {
    let Some(disk) = device.as_disk() else { return true };
    loop {
        let Err(error) = disk.flush_all(&device.wblocks) else { return true };
        disk.fail(&error);
        if Instant::now() < deadline && !disk.has_sync_failed() {
            std::thread::sleep(TRY_PERIOD);
            continue;
        }
        let (records, bytes) = disk.unwritten(&device.wblocks);
        cf::critical!(
            Storage,
            "{error}: {records} records of {bytes} bytes could not be written before the end and are lost"
        );
        return false;
    }
}
