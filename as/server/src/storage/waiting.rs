//! Who waits for room on a device, and who is let go on: the rules for the queues of `room`.

use cf::Digest;

use super::WBLOCK_SIZE;
use super::device::Device;
use super::disk::Disk;
use super::engine::Storage;
use super::room::RoomWait;

impl Storage {
    /// Whether a writer of the record had better wait: there is no room, or others wait already and it would go first.
    #[inline]
    pub(crate) fn must_wait_for_room(&self, digest: &Digest, may_go_first: bool) -> bool {
        let room = &self.device_of(digest).room;
        room.is_congested() || self.is_overloaded() || !may_go_first && room.count() != 0
    }

    /// Has `wait` go on when there is room for the record.
    ///
    /// # Errors
    /// Gives it back when too many wait, or the server stops.
    pub(crate) fn when_room(&self, digest: &Digest, wait: RoomWait) -> Result<(), RoomWait> {
        let device = self.device_of(digest);
        device.room.push(wait)?;
        self.wake_defrag(device);
        Ok(())
    }

    /// Lets as many go on as there is room for, and those whose time is over. Returns how many still wait.
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

    /// Lets all go on: the server stops.
    pub(super) fn release_all(&self, device: &Device) {
        device.room.end();
    }
}
