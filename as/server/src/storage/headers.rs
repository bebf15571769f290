//! The headers of a namespace's disks during use: which parts are written, and when.
//!
//! A start writes them whole, as not trusted. After that only changed parts are written: first the groups of
//! the partitions whose versions changed, each group once; at a clean stop the unique part, and then the
//! prefix, which says that the rest can be trusted. A torn sector leaves every entry with its old or its new
//! value. The second copy of the entries is written to all disks before the entries
//! (`datamodel::partition_copy`).
//!
//! `Storage::headers` is locked during these writes; no request takes that lock.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use cf::aligned::AlignedBuf;
use cf::sys::block::BlockError;
use datamodel::device_header::{
    COPY_BYTES, COPY_SEAL_BYTES, DeviceHeader, Flags, Found, HEADER_SIZE, PREFIX_BYTES, PartitionEntry,
    UNIQUE_BYTES, WRITTEN_SIZE,
};
use datamodel::partition_copy::{self, copy_of_group};

use super::WBLOCK_SIZE;
use super::device::Device;
use super::engine::Storage;
use crate::index::{PARTITION_COUNT, PartitionId};

/// How long the server tries to write to a failed disk at its end.
const LAST_TRIES: Duration = Duration::from_secs(5);
const TRY_PERIOD: Duration = Duration::from_millis(200);

impl Storage {
    /// Writes the headers of a running server: not trusted, with the partitions unchanged.
    pub(super) fn mark_in_use(&self) -> Result<(), BlockError> {
        let mut headers = self.headers.lock();
        for header in headers.iter_mut() {
            header.flags = header.flags.with(Flags::TRUSTED, false);
        }
        let before = headers.first().map_or_else(Box::default, |header| header.partitions.clone());
        self.write_headers(&headers, &before, std::slice::from_ref(&COPY_BYTES))?;
        self.write_headers(&headers, &before, std::slice::from_ref(&(0..WRITTEN_SIZE)))
    }

    /// The headers' entries of all partitions; default entries without disks.
    pub(crate) fn partition_entries(&self) -> Box<[PartitionEntry]> {
        match self.headers.lock().first() {
            Some(header) => header.partitions.clone(),
            None => vec![PartitionEntry::default(); PARTITION_COUNT].into(),
        }
    }

    /// Writes these entries of partitions to all headers, durably.
    ///
    /// # Errors
    /// When a header cannot be written. Some headers then have the new entries and some do not, and those
    /// that do revert when one of their neighbours is written.
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

    /// Ends cleanly: writes everything to disk, and marks the headers. A disk that cannot be written is tried
    /// for some seconds. Returns whether nothing is lost.
    pub(crate) fn close(&self) -> bool {
        let mut headers = self.headers.lock();
        if !self.save() {
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

    /// Writes everything to disk, and leaves the headers as they are, so that the next start reads
    /// everything, as after a crash. Returns whether nothing is lost.
    pub(crate) fn save(&self) -> bool {
        let deadline = Instant::now() + LAST_TRIES;
        // All disks are saved as far as possible, even if one of them fails.
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
                "{error}: writes since the last good sync may be lost; the next start treats it as after a crash"
            );
            return false;
        }
        true
    }

    /// What an end at this moment loses: a sentence for each disk with records that are in memory only.
    pub(crate) fn losses(&self) -> Vec<String> {
        let loss = |device: &Device| {
            let disk = device.as_disk()?;
            let (records, bytes) = disk.unwritten(&device.wblocks);
            let path = disk.media.main.path().display();
            (bytes != 0).then(|| {
                format!(
                    "{path}: {records} records of {bytes} bytes were not written before the end and are lost"
                )
            })
        };
        self.devices.iter().filter_map(loss).collect()
    }

    /// Makes earlier writes durable, on all disks as far as possible.
    ///
    /// # Errors
    /// When a sync fails, or has failed before.
    fn sync(&self) -> Result<(), BlockError> {
        self.disks()
            .map(|disk| disk.sync_if_volatile().and_then(|()| disk.check_syncs()))
            .fold(Ok(()), Result::and)
    }

    /// Writes `parts` of each device's header, and waits until they are durable. `before` are the previous
    /// partition entries, if parts of their copy are written.
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
            assert_is_header(&bytes);
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

/// Asserts that a start can read the header that is about to be written.
fn assert_is_header(bytes: &[u8]) {
    assert!(matches!(DeviceHeader::parse(bytes), Ok(Found::Used(_))), "a header is written as it is read");
}

/// Writes out all of a disk, with retries until `deadline`. Returns whether that succeeded; if not, the loss
/// is logged.
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
