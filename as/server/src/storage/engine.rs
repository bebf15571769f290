//! The storage engine of one namespace: reads, writes and frees records on its devices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::time::Duration;

use cf::Digest;
use datamodel::device_header::DeviceHeader;
use datamodel::flat::FlatRecord;
use datamodel::packing::{PackSettings, Unpacker};
use datamodel::wblock_scan::visit_everything;
use parking_lot::{Condvar, Mutex};

use super::benchmarks::StorageBenchmarks;
use super::callers::DiskCaller;
use super::device::{Device, location_in};
use super::disk::{Disk, DurableWait};
use super::error::StorageError;
use super::read_buffer::{DiskBuffer, ReadBuffer, unpacked};
use super::reservation::Stream;
use super::reservation::place::Pinned;
use super::settings::Settings;
use super::wblock::{AfterFree, WblockId};
use super::{RBLOCK_SIZE, WBLOCK_SIZE};
use crate::config::params::storage::StorageParams;
use crate::index::{Element, Location, WriteGuard};

/// Smallest number of stripes of a memory namespace.
const STRIPE_COUNT_MIN: u64 = 8;
/// Largest size of a stripe: 2 TiB, the range of 37 bits of 16-byte blocks.
const STRIPE_SIZE_MAX: u64 = 2 << 40;
/// Offset of the bytes of the digest that choose the device.
const DEVICE_DIGEST_OFFSET: usize = 8;

/// The free blocks that a record may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Room {
    /// The blocks for writers.
    Writes,
    /// Also the blocks reserved for defrag, if there is no other: a tombstone frees more than it takes.
    Tombstones,
}

/// An idle defrag thread waits on this.
#[derive(Default)]
pub(super) struct Wake {
    is_due: Mutex<bool>,
    changed: Condvar,
}

impl Wake {
    fn wake(&self) {
        *self.is_due.lock() = true;
        self.changed.notify_one();
    }

    pub(super) fn wait(&self, longest: Duration) {
        let mut is_due = self.is_due.lock();
        if !*is_due {
            self.changed.wait_for(&mut is_due, longest);
        }
        *is_due = false;
    }
}

pub(crate) struct Storage {
    pub(super) devices: Box<[Device]>,
    /// Whether the devices are disks; all of them are, or none.
    pub(super) is_on_disk: bool,
    /// Whether records are read from disks, because the namespace is not kept in memory.
    pub(super) reads_disks: bool,
    pub(super) settings: Settings,
    pub(super) benchmarks: Arc<StorageBenchmarks>,
    /// The headers of the disks as last written; empty without disks.
    pub(super) headers: Mutex<Vec<DeviceHeader>>,
    /// One for each defrag thread.
    pub(super) wakes: Box<[Wake]>,
    pub(super) stopping: AtomicBool,
    /// Share of records read from buffers at the last sample, in hundredths of a percent.
    pub(super) cache_read_pct100: AtomicU64,
}

impl Storage {
    /// Makes an empty in-memory engine; `None` if the system lacks the address space.
    pub(crate) fn memory(params: &Arc<StorageParams>) -> Option<Self> {
        let data_size = params.data_size.get();
        let stripe_count = STRIPE_COUNT_MIN.max(data_size.div_ceil(STRIPE_SIZE_MAX)).min(128);
        let wblock_count = data_size / stripe_count / u64::from(WBLOCK_SIZE);
        let wblock_count = u32::try_from(wblock_count).ok()?;
        let devices = (0..stripe_count as u8)
            .map(|number| Device::memory(number, wblock_count))
            .collect::<Option<_>>()?;
        let settings = Settings::new(params);
        let benchmarks = Arc::new(StorageBenchmarks::new(settings.clone()));
        Some(Self::new(devices, settings, benchmarks))
    }

    /// Makes an engine on `devices`, whose disks have the same `settings` and `benchmarks`.
    pub(super) fn new(
        devices: Box<[Device]>,
        settings: Settings,
        benchmarks: Arc<StorageBenchmarks>,
    ) -> Self {
        let is_on_disk = devices.iter().any(|device| device.as_disk().is_some());
        // One thread is enough for data in memory, which is moved fast.
        let thread_count = if is_on_disk { devices.len() } else { 1 };
        Storage {
            reads_disks: devices.iter().any(|device| device.as_disk().is_some() && !device.is_in_memory()),
            devices,
            is_on_disk,
            settings,
            benchmarks,
            headers: Mutex::new(Vec::new()),
            wakes: (0..thread_count).map(|_| Wake::default()).collect(),
            stopping: AtomicBool::new(false),
            cache_read_pct100: AtomicU64::new(0),
        }
    }

    /// The stored record that `element` points to. The borrow of `element` comes from its guard, so the bytes
    /// cannot change or be freed while they are borrowed.
    ///
    /// # Errors
    /// When the bytes cannot be read, or are not those of the record. `NotInMemory` if the record has to be
    /// [fetched](Self::fetch).
    #[inline]
    pub(crate) fn record<'g>(
        &'g self,
        element: &'g Element,
        scratch: &'g mut ReadBuffer,
    ) -> Result<FlatRecord<'g>, StorageError> {
        self.record_within(element, scratch, |_| true)
    }

    /// As [`record`](Self::record). If the record has to be unpacked, `may_unpack` is called with the number
    /// of steps that this takes.
    ///
    /// # Errors
    /// Those of [`record`](Self::record); `Refused` if `may_unpack` returns false.
    #[inline(always)]
    pub(crate) fn record_within<'g>(
        &'g self,
        element: &'g Element,
        scratch: &'g mut ReadBuffer,
        may_unpack: impl FnOnce(u64) -> bool,
    ) -> Result<FlatRecord<'g>, StorageError> {
        let ReadBuffer { stored, unpacker } = scratch;
        let bytes = self.stored_bytes(element, stored)?;
        match FlatRecord::parse(bytes) {
            Ok(record) if record.packing.is_some() => self.unpack(element, record, unpacker, may_unpack),
            Ok(record) if is_of(&record, element) => Ok(record),
            _ => Err(StorageError::Damaged),
        }
    }

    /// Unpacks a packed record. The checksum of a record without compression is checked only if the record
    /// has left memory since the checksum was made.
    #[cold]
    fn unpack<'g>(
        &self,
        element: &Element,
        record: FlatRecord<'g>,
        unpacker: &'g mut Unpacker,
        may_unpack: impl FnOnce(u64) -> bool,
    ) -> Result<FlatRecord<'g>, StorageError> {
        if let Some(packing) = record.packing.filter(|_| record.is_compressed()) {
            if !may_unpack(packing.method.unpack_steps(packing.original_size as usize)) {
                return Err(StorageError::Refused);
            }
            let plain = unpacker.unpack(&record).map_err(|_| StorageError::Damaged)?;
            let record = FlatRecord::parse(plain).map_err(|_| StorageError::Damaged)?;
            return if is_of(&record, element) { Ok(record) } else { Err(StorageError::Damaged) };
        }
        let is_in_memory = self.devices[usize::from(element.location.device())].is_in_memory();
        if is_of(&record, element) && (is_in_memory || record.verify().is_ok()) {
            Ok(record)
        } else {
            Err(StorageError::Damaged)
        }
    }

    /// The record that `element` points to without its bins, which may be packed.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub(crate) fn record_head<'g>(
        &'g self,
        element: &'g Element,
        scratch: &'g mut ReadBuffer,
    ) -> Result<FlatRecord<'g>, StorageError> {
        let bytes = self.stored_bytes(element, &mut scratch.stored)?;
        let record = FlatRecord::parse(bytes).map_err(|_| StorageError::Damaged)?;
        let is_it = record.digest == *element.digest() && record.generation == element.generation;
        if is_it { Ok(record) } else { Err(StorageError::Damaged) }
    }

    /// The bytes of the record that `element` points to, not packed.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub(crate) fn record_bytes<'g>(
        &'g self,
        element: &'g Element,
        scratch: &'g mut ReadBuffer,
    ) -> Result<&'g [u8], StorageError> {
        let ReadBuffer { stored, unpacker } = scratch;
        let bytes = self.stored_bytes(element, stored)?;
        unpacked(bytes, unpacker)
    }

    /// The place of the record of `element`, which is borrowed from its guard.
    #[inline]
    #[expect(unsafe_code, reason = "records are read where their elements say")]
    pub(super) fn pinned<'g>(&self, element: &'g Element) -> Pinned<'g> {
        // SAFETY: elements of this storage's index get their locations only from this storage: commits and defrag store
        // the place that `append` or `rewrite` returned, and a load stores the place where it found the record. Only
        // the holder of the exclusive guard frees a place, after it has made the element point elsewhere.
        unsafe { Pinned::of(element) }
    }

    /// The bytes of the record that `element` points to, in stored form.
    #[inline]
    pub(crate) fn stored_bytes<'g>(
        &'g self,
        element: &'g Element,
        scratch: &'g mut DiskBuffer,
    ) -> Result<&'g [u8], StorageError> {
        self.devices[usize::from(element.location.device())].record(self.pinned(element), scratch)
    }

    /// How records are packed, if they are.
    #[inline]
    pub(crate) fn pack_settings(&self) -> Option<PackSettings> {
        self.settings.packing()
    }

    /// The name of `location` in messages.
    pub(crate) fn place_name(&self, location: Location) -> String {
        let device = &self.devices[usize::from(location.device())];
        let offset = location.rblock() * u64::from(RBLOCK_SIZE);
        match device.as_disk() {
            Some(disk) => format!("offset {offset} of {}", disk.media.main.path().display()),
            None => format!("offset {offset} of stripe {}", device.number()),
        }
    }

    /// Hints that the bytes at `location` will be read soon. A record is there, or was there recently.
    #[inline]
    pub(crate) fn prefetch(&self, location: Location) {
        self.devices[usize::from(location.device())].prefetch(location);
    }

    /// Stores the flat record that replaces that of `guard`. The record is replaced only when the caller
    /// points the index element to the new place. The caller then [frees](Self::free_replaced) the old place.
    /// A record in memory may be written over in place; the result is then the old place.
    ///
    /// # Errors
    /// When there is no room, or the device fails. Nothing has changed then.
    pub(crate) fn put(
        &self,
        guard: &mut WriteGuard<'_>,
        record: &[u8],
        room: Room,
    ) -> Result<Location, StorageError> {
        let old = guard.location;
        let is_rewritten = old.is_stored()
            && (old.rblock_count() * RBLOCK_SIZE) as usize == record.len()
            && self.devices[usize::from(old.device())].rewrite(guard, record);
        let place = if is_rewritten {
            old
        } else {
            match (self.append(Stream::Write, guard.digest(), record), room) {
                (Err(StorageError::OutOfSpace | StorageError::Congested), Room::Tombstones) => {
                    self.append(Stream::Defrag, guard.digest(), record)?
                }
                (place, _) => place?,
            }
        };
        self.benchmarks.note_write(record.len());
        Ok(place)
    }

    fn replace(
        &self,
        stream: Stream,
        guard: &mut WriteGuard<'_>,
        record: &[u8],
        key_stored: bool,
    ) -> Result<(), StorageError> {
        let old = guard.location;
        let new = self.append(stream, guard.digest(), record)?;
        guard.meta_mut().location = new.with_key_stored(key_stored);
        self.free_replaced(old, new);
        Ok(())
    }

    /// Whether the record found at `location` must get to its disk before a reply reports it, because of
    /// `commit-to-device`. Records on a failed disk need not: the disk takes no writes, and reads continue.
    #[inline]
    pub(crate) fn is_unsettled(&self, location: Location) -> bool {
        self.is_awaited(location, |disk| !disk.has_failed())
    }

    /// Whether the record just stored at `location` must get to its disk before its client gets the reply. If
    /// the disk fails meanwhile, the reply says so.
    #[inline]
    pub(crate) fn is_change_unsettled(&self, location: Location) -> bool {
        self.is_awaited(location, |_| true)
    }

    #[inline]
    fn is_awaited(&self, location: Location, may_come: impl Fn(&Disk) -> bool) -> bool {
        self.commits()
            && location.is_stored()
            && self.devices[usize::from(location.device())]
                .as_disk()
                .is_some_and(|disk| may_come(disk) && !disk.is_durable(location))
    }

    /// Whether `commit-to-device` is on.
    #[inline]
    pub(crate) fn commits(&self) -> bool {
        self.is_on_disk && self.settings.commits()
    }

    /// Waits until the record at `location` is on its disk, on a thread of `caller`. For threads that may
    /// wait; others use [`when_durable`](Self::when_durable).
    ///
    /// # Errors
    /// When the disk fails. The record may still get there later.
    pub(crate) fn settle(&self, location: Location, caller: DiskCaller) -> Result<(), StorageError> {
        let device = &self.devices[usize::from(location.device())];
        let Some(disk) = device.as_disk() else { return Ok(()) };
        let _call = disk.callers.begin(caller, &mut 0);
        disk.settle(location, &device.wblocks).map_err(|error| {
            disk.fail(&error);
            StorageError::Failed
        })
    }

    /// Makes the flush thread of device number `device` write the records of `wait` to its disk, together
    /// with those of other waits, and report the result. Returns at once.
    pub(crate) fn when_durable(&self, device: u8, wait: DurableWait) {
        match self.devices[usize::from(device)].as_disk() {
            Some(disk) => disk.when_durable(wait),
            None => (wait.done)(&[]),
        }
    }

    fn append(&self, stream: Stream, digest: &Digest, record: &[u8]) -> Result<Location, StorageError> {
        let device = self.device_of(digest);
        let (location, wants_defrag) = device.append(stream, record, &self.settings);
        if wants_defrag {
            self.wake_defrag(device);
        }
        location
    }

    /// The device to which a record is written.
    #[inline]
    pub(super) fn device_of(&self, digest: &Digest) -> &Device {
        // The division has 32 bits, because one of 64 bits takes processors several times as long.
        &self.devices[(digest.le_u32_at(DEVICE_DIGEST_OFFSET) % self.devices.len() as u32) as usize]
    }

    /// Frees `old`, which was replaced by `new` or removed.
    pub(crate) fn free_replaced(&self, old: Location, new: Location) {
        if old.same_place(new) {
            return;
        }
        let replaced_on = self.devices[usize::from(new.device())].as_disk();
        match replaced_on {
            Some(disk) if new.is_stored() && old.is_stored() && old.device() != new.device() => {
                self.devices[usize::from(old.device())].await_free(old);
                disk.defer_free(new, old);
            }
            _ => self.free(old),
        }
    }

    /// Frees a place whose replacement on another device is on its disk.
    fn free_awaited(&self, location: Location) {
        let device = &self.devices[usize::from(location.device())];
        self.after_free(device, device.free_awaited(location, self.low_water()));
    }

    fn free(&self, location: Location) {
        if location.is_stored() {
            let device = &self.devices[usize::from(location.device())];
            self.after_free(device, device.free(location, self.low_water()));
        }
    }

    #[inline]
    fn after_free(&self, device: &Device, after: AfterFree) {
        if after == AfterFree::Queued {
            self.wake_defrag(device);
        }
    }

    pub(super) fn wake_defrag(&self, device: &Device) {
        self.wakes[usize::from(device.number()) % self.wakes.len()].wake();
    }

    /// The value of `defrag-lwm-pct` that defrag uses.
    #[cfg(test)]
    pub(crate) fn low_water_pct(&self) -> u32 {
        (u64::from(self.low_water()) * 100).div_ceil(u64::from(WBLOCK_SIZE)) as u32
    }

    fn low_water(&self) -> u32 {
        self.settings.low_water_bytes()
    }

    /// Applies a changed parameter: blocks that are now below the low-water mark are queued, and defrag looks
    /// for work.
    pub(crate) fn settings_changed(&self) {
        for device in &self.devices {
            device.wblocks.sweep(self.low_water());
        }
        self.wakes.iter().for_each(Wake::wake);
    }

    /// Backs the next blocks in memory with huge pages on devices that took one since the last call; returns whether any
    /// did. Called every few milliseconds while it returns true.
    pub(crate) fn prepare_ahead(&self) -> bool {
        self.devices.iter().filter(|device| device.prepare_ahead()).count() > 0
    }

    /// Turns small pages of full blocks in memory into one huge page, if there are some; called now and then while no
    /// table grows.
    pub(crate) fn collapse_next(&self) {
        let _ = self.devices.iter().any(Device::collapse_next);
    }

    /// Number of threads that are to [`run_defrag`](Self::run_defrag).
    pub(crate) fn defrag_thread_count(&self) -> usize {
        self.wakes.len()
    }

    /// Sleeps as `defrag-sleep` requires, unless writers are about to be refused.
    pub(super) fn rest_from_defrag(&self, device: &Device) {
        let sleep = self.settings.defrag_sleep();
        if !sleep.is_zero() && !self.stopping.load(Acquire) && !self.is_short(device) {
            std::thread::sleep(sleep);
        }
    }

    /// Whether so few blocks of `device` are free that writers are about to be refused.
    pub(super) fn is_short(&self, device: &Device) -> bool {
        device.is_short(&self.settings)
    }

    /// Writes out the full blocks. Returns whether that succeeded.
    pub(super) fn flush_full_blocks(&self) -> bool {
        self.devices.iter().all(|device| {
            device.as_disk().is_none_or(|disk| {
                disk.flush_full(&device.wblocks, |garbage| self.free_awaited(garbage))
                    .inspect_err(|error| disk.fail(error))
                    .is_ok()
            })
        })
    }

    /// Ends [`run_defrag`](Self::run_defrag) and [`run_flush`](Self::run_flush).
    pub(crate) fn stop(&self) {
        self.disks().for_each(Disk::stop);
        self.disks().for_each(|disk| disk.unread.end());
        self.stopping.store(true, Release);
        self.wakes.iter().for_each(Wake::wake);
    }

    /// Moves the record of `guard`'s element, if it is still at `place`, into defrag's block.
    pub(super) fn move_record(
        &self,
        guard: &mut WriteGuard<'_>,
        place: Location,
        record: &[u8],
    ) -> Result<(), StorageError> {
        if !guard.location.same_place(place) {
            return Ok(());
        }
        let key_stored = guard.location.key_stored();
        self.replace(Stream::Defrag, guard, record, key_stored)
    }

    /// Body of the flush thread of disk number `number`. Returns at once if there is no such disk.
    pub(crate) fn run_flush(&self, number: usize) {
        if let Some((device, disk)) =
            self.devices.get(number).and_then(|device| Some((device, device.as_disk()?)))
        {
            let retry_kept = || {
                if device.wblocks.retry_kept(self.low_water()) > 0 {
                    self.after_free(device, AfterFree::Queued);
                }
            };
            disk.run_flush(&device.wblocks, |garbage| self.free_awaited(garbage), retry_kept);
        }
    }

    /// Whether disk number `number` needs a thread that [syncs](Self::run_sync) it.
    pub(crate) fn needs_sync(&self, number: usize) -> bool {
        self.devices.get(number).and_then(Device::as_disk).is_some_and(|disk| disk.media.is_volatile)
    }

    /// Body of the sync thread of disk number `number`.
    pub(crate) fn run_sync(&self, number: usize) {
        if let Some(disk) = self.devices.get(number).and_then(Device::as_disk) {
            disk.run_sync();
        }
    }

    /// Calls `visit` with every readable record on the disks and its place, newest or not, in used and free
    /// blocks, in memory and on disk. `go_on` is called after each block. Returns whether it always returned
    /// true.
    pub(crate) fn visit_stored(
        &self,
        mut visit: impl FnMut(Location, &FlatRecord<'_>),
        mut go_on: impl FnMut() -> bool,
    ) -> bool {
        let mut scratch = DiskBuffer::new();
        for device in &self.devices {
            let Some(disk) = device.as_disk() else { continue };
            for id in (1..device.wblocks.pristine()).map(WblockId) {
                // Memory is visited first. A block that is written and leaves memory meanwhile is then found
                // on disk.
                for in_memory in [true, false] {
                    let found = if in_memory {
                        Ok(disk.buffered(id, &device.wblocks, &mut scratch))
                    } else {
                        disk.on_disk(id, &mut scratch).map(Some)
                    };
                    match found {
                        Ok(Some(block)) => visit_everything(block, |offset, record| {
                            visit(location_in(device, id, offset, record.size), &record);
                        }),
                        Ok(None) => {}
                        Err(error) => {
                            cf::warning_limited!(Storage, "{error}");
                            return false;
                        }
                    }
                }
                if !go_on() {
                    return false;
                }
            }
        }
        true
    }

    /// Whether records are on disks, whether or not they are in memory too.
    pub(crate) fn is_on_disk(&self) -> bool {
        self.is_on_disk
    }

    pub(super) fn disks(&self) -> impl Iterator<Item = &Disk> {
        self.devices.iter().filter_map(Device::as_disk)
    }

    /// Number of disks.
    pub(crate) fn disk_count(&self) -> usize {
        self.disks().count()
    }

    /// Whether more full blocks wait to be written than `max-write-cache` allows. Blocks of a failed disk do
    /// not count: the disk itself refuses writes, and its blocks may wait for long.
    #[inline]
    pub(crate) fn is_overloaded(&self) -> bool {
        self.is_on_disk && {
            let limit = self.settings.queue_blocks().saturating_mul(self.devices.len());
            self.disks().filter(|disk| !disk.has_failed()).map(Disk::queued_blocks).sum::<usize>() > limit
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        for device in &self.devices {
            device.wblocks.check();
        }
    }
}

/// Whether the stored record is that of `element`.
#[inline]
fn is_of(record: &FlatRecord<'_>, element: &Element) -> bool {
    record.digest == *element.digest() && record.generation == element.generation
}

#[cfg(test)]
impl Storage {
    /// Stores the flat record `record` for `guard`'s element and points the element to it.
    pub(super) fn write(
        &self,
        guard: &mut WriteGuard<'_>,
        record: &[u8],
        key_stored: bool,
    ) -> Result<(), StorageError> {
        let old = guard.location;
        let new = self.put(guard, record, Room::Writes)?;
        guard.meta_mut().location = new.with_key_stored(key_stored);
        self.free_replaced(old, new);
        Ok(())
    }

    /// Frees the record of `guard`'s element and makes the element point nowhere.
    pub(super) fn release(&self, guard: &mut WriteGuard<'_>) {
        let old = std::mem::take(&mut guard.meta_mut().location);
        self.free_replaced(old, Location::default());
    }
}
