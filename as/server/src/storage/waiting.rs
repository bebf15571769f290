//! The rules for the queues of `room`: which requests wait for room on a device, or for a stuck disk to
//! answer, and which resume.
//!
//! # Threads
//! Defrag threads resume requests that wait for room. The thread that watches the disks resumes those that
//! wait to read.

use cf::Digest;

use super::WBLOCK_SIZE;
use super::callers::DiskCaller;
use super::device::Device;
use super::disk::Disk;
use super::engine::Storage;
use super::room::RoomWait;

impl Storage {
    /// Whether a writer of the record should wait, because there is no room, or because it would overtake
    /// waiting requests.
    #[inline]
    pub(crate) fn must_wait_for_room(&self, digest: &Digest, may_go_first: bool) -> bool {
        let room = &self.device_of(digest).room;
        room.is_congested() || self.is_overloaded() || !may_go_first && room.count() != 0
    }

    /// Resumes `wait` when there is room for the record.
    ///
    /// # Errors
    /// The request, if too many wait or the server stops.
    pub(crate) fn when_room(&self, digest: &Digest, wait: RoomWait) -> Result<(), RoomWait> {
        let device = self.device_of(digest);
        device.room.push(wait)?;
        self.wake_defrag(device);
        Ok(())
    }

    /// Resumes as many requests as there is room for, and those whose deadline has passed. Returns how many
    /// still wait.
    pub(super) fn release_waiting(&self, device: &Device) -> usize {
        let room = &device.room;
        if room.is_congested()
            && (!device.can_gain()
                || device.as_disk().is_some_and(Disk::has_failed)
                || device.has_block_for_writers(&self.settings))
        {
            room.set_congested(false);
        }
        if room.count() == 0 {
            return 0;
        }
        let has_room = !room.is_congested() && !self.is_overloaded();
        room.release(if has_room { WBLOCK_SIZE as usize } else { 0 });
        room.count()
    }

    /// Resumes `wait` when the disk of device number `device` answers.
    ///
    /// # Errors
    /// The request, if too many wait or the server stops.
    pub(crate) fn when_readable(&self, device: u8, wait: RoomWait) -> Result<(), RoomWait> {
        match self.devices.get(usize::from(device)).and_then(Device::as_disk) {
            Some(disk) => disk.unread.push(wait),
            None => Err(wait),
        }
    }

    /// Checks whether the disks answer. Resumes requests whose disk does, and those whose deadline has
    /// passed.
    pub(crate) fn watch_disks(&self) {
        for disk in self.disks() {
            let path = disk.media.main.path().display();
            match disk.callers.check() {
                (true, true) => cf::warning!(
                    Storage,
                    "{path}: the disk does not answer: batches, queries and long requests that need it wait"
                ),
                (false, true) => cf::info!(Storage, "{path}: the disk answers again"),
                _ => {}
            }
            disk.unread.release(if disk.callers.is_stuck() { 0 } else { usize::MAX });
        }
    }

    /// The device of the record of `digest`, if its disk did not answer at the last check.
    #[inline]
    pub(crate) fn stuck_device_of(&self, digest: &Digest) -> Option<u8> {
        let device = self.device_of(digest);
        let is_stuck = device.as_disk().is_some_and(|disk| disk.callers.is_stuck());
        is_stuck.then(|| device.number())
    }

    /// Whether a disk did not answer at the last check.
    pub(crate) fn is_stuck(&self) -> bool {
        self.disks().any(|disk| disk.callers.is_stuck())
    }

    /// Number of threads of `caller` that hang because a disk does not answer.
    pub(crate) fn hanging(&self, caller: DiskCaller) -> usize {
        self.disks().map(|disk| disk.callers.hanging(caller)).sum()
    }

    /// Resumes all requests, because the server stops.
    pub(super) fn release_all(&self, device: &Device) {
        device.room.end();
    }
}
