//! What state each write block of a device is in, and how much of it is alive.
//!
//! ```text
//! Free ──take──▶ Current ──close──▶ Used ──below low water──▶ Queued ──defrag──▶ Emptying ──▶ Free
//!                   │                 └──nothing alive──▶ Free ◀──nothing alive── Queued
//!                   └──close, nothing alive──▶ Free
//! ```
//! A block that defrag could not empty, because it holds records that cannot be read, is *kept*: it is used, but not
//! queued again, and becomes free when these records are replaced or deleted, as any other.
//!
//! Invariants: a block is in the free queue, beyond the pristine mark, or in one of the other states, never in two;
//! live bytes of a free block are 0. The defrag queue may name blocks that have left `Queued` since; they are passed over.
//!
//! # Locking
//! State and live bytes are atomics; a state changes by compare-and-swap, so that two threads that see the same reason
//! act once. Who frees a block makes it `Emptying` first and then looks again whether it is empty. The queues share one
//! mutex.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};

use parking_lot::Mutex;

use super::WBLOCK_SIZE;

/// Number of a write block on its device; block 0 is the device header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct WblockId(pub(super) u32);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum WblockState {
    Free = 0,
    Current = 1,
    Used = 2,
    Queued = 3,
    Emptying = 4,
}

impl WblockState {
    fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Free,
            1 => Self::Current,
            2 => Self::Used,
            3 => Self::Queued,
            _ => Self::Emptying,
        }
    }
}

/// One write block. All zeros: free, nothing alive.
#[derive(Default)]
struct Wblock {
    live_bytes: AtomicU32,
    /// Threads that are copying a record into the block; it is not emptied before they are done.
    writers: AtomicU32,
    /// Live bytes of records that were replaced on another device, and are garbage once the replacement is on disk.
    awaited_bytes: AtomicU32,
    state: AtomicU8,
    /// What is alive in it cannot be read, so that defrag leaves it alone.
    is_kept: AtomicBool,
}

struct Queues {
    free: VecDeque<WblockId>,
    /// First block never used so far.
    pristine: u32,
    defrag: VecDeque<WblockId>,
}

/// What became of a block that lost a live record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AfterFree {
    /// Nothing changed.
    Kept,
    /// It is free again.
    Freed,
    /// It now waits for defrag.
    Queued,
}

/// All write blocks of one device.
pub(super) struct WblockTable {
    blocks: Box<[Wblock]>,
    queues: Mutex<Queues>,
    live_bytes: AtomicU64,
    /// Free blocks that only defrag may take, so that it can always make room.
    reserved: usize,
    reuse: Reuse,
}

/// Which free block is taken next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reuse {
    /// The one freed last, whose memory is most likely still there.
    Newest,
    /// The one freed first, so that all parts of a disk wear alike, and what was overwritten stays longest.
    Oldest,
}

impl WblockTable {
    /// `count` blocks, of which the first is not for records, and `reserved` others are for defrag.
    pub(super) fn new(count: u32, reserved: usize, reuse: Reuse) -> Self {
        WblockTable {
            blocks: (0..count).map(|_| Wblock::default()).collect(),
            queues: Mutex::new(Queues { free: VecDeque::new(), pristine: 1, defrag: VecDeque::new() }),
            live_bytes: AtomicU64::new(0),
            reserved,
            reuse,
        }
    }

    /// Takes a free block as current. Writers leave the reserve to defrag.
    pub(super) fn take(&self, for_defrag: bool) -> Option<WblockId> {
        let mut queues = self.queues.lock();
        if !for_defrag && self.free_in(&queues) <= self.reserved {
            return None;
        }
        let freed = match self.reuse {
            Reuse::Newest => queues.free.pop_back(),
            Reuse::Oldest => queues.free.pop_front(),
        };
        let id = match freed {
            Some(id) => id,
            None if (queues.pristine as usize) < self.blocks.len() => {
                queues.pristine += 1;
                WblockId(queues.pristine - 1)
            }
            None => return None,
        };
        let before = self.block(id).state.swap(WblockState::Current as u8, AcqRel);
        cf::must!(before == WblockState::Free as u8, "write block {} was taken in state {before}", id.0);
        self.block(id).is_kept.store(false, Relaxed);
        Some(id)
    }

    /// A current block is full: it becomes used, and what follows from how much of it is still alive.
    pub(super) fn close(&self, id: WblockId, low_water_bytes: u32) -> AfterFree {
        let was_current = self.change(id, WblockState::Current, WblockState::Used);
        cf::must!(was_current, "write block {} was closed in state {:?}", id.0, self.state(id));
        self.settle(id, low_water_bytes)
    }

    /// Counts `size` bytes of block `id` as alive and their writer as busy until [`end_write`](Self::end_write).
    pub(super) fn begin_write(&self, id: WblockId, size: u32) {
        let block = self.block(id);
        block.writers.fetch_add(1, Relaxed);
        block.live_bytes.fetch_add(size, Relaxed);
        self.live_bytes.fetch_add(u64::from(size), Relaxed);
    }

    /// The record is copied.
    pub(super) fn end_write(&self, id: WblockId) {
        self.block(id).writers.fetch_sub(1, Release);
    }

    /// Waits until no record is being copied into block `id`. The caller sees to it that copies end.
    pub(super) fn wait_for_writers(&self, id: WblockId) {
        while self.block(id).writers.load(Acquire) != 0 {
            std::thread::yield_now();
        }
    }

    /// Tries to announce a writer that changes a record of block `id` in place. Refused once defrag has the block.
    pub(super) fn begin_rewrite(&self, id: WblockId) -> bool {
        let block = self.block(id);
        block.writers.fetch_add(1, SeqCst);
        if self.state(id) == WblockState::Emptying {
            block.writers.fetch_sub(1, Release);
            return false;
        }
        true
    }

    /// Counts `size` bytes of block `id` as garbage.
    pub(super) fn free_bytes(&self, id: WblockId, size: u32, low_water_bytes: u32) -> AfterFree {
        let before = self.block(id).live_bytes.fetch_sub(size, AcqRel);
        cf::must!(before >= size, "write block {} had {before} live bytes, {size} were freed", id.0);
        self.live_bytes.fetch_sub(u64::from(size), Relaxed);
        self.settle(id, low_water_bytes)
    }

    /// Notes that `size` live bytes of block `id` are garbage as soon as what replaces them is on disk.
    pub(super) fn await_free(&self, id: WblockId, size: u32) {
        self.block(id).awaited_bytes.fetch_add(size, AcqRel);
    }

    /// What [`await_free`](Self::await_free) noted has come true.
    pub(super) fn free_awaited(&self, id: WblockId, size: u32, low_water_bytes: u32) -> AfterFree {
        let after = self.free_bytes(id, size, low_water_bytes);
        // Afterwards, as too much that is awaited costs a later look at most, and too little a false alarm.
        self.block(id).awaited_bytes.fetch_sub(size, AcqRel);
        after
    }

    /// Live bytes of block `id` that are not merely waiting to be garbage.
    fn lasting_bytes(&self, id: WblockId) -> u32 {
        let block = self.block(id);
        block.live_bytes.load(Acquire).saturating_sub(block.awaited_bytes.load(Acquire))
    }

    /// Frees or queues a used block whose live bytes ask for it.
    fn settle(&self, id: WblockId, low_water_bytes: u32) -> AfterFree {
        self.settle_seen(id, self.live_bytes_of(id), low_water_bytes)
    }

    /// As [`settle`](Self::settle), of a block that had `live` live bytes when it was looked at.
    fn settle_seen(&self, id: WblockId, mut live: u32, low_water_bytes: u32) -> AfterFree {
        while live == 0 {
            if !self.change(id, WblockState::Used, WblockState::Emptying)
                && !self.change(id, WblockState::Queued, WblockState::Emptying)
            {
                return AfterFree::Kept;
            }
            // Since the look it may have been freed, taken and filled again. Now nobody takes it or adds to it.
            live = self.live_bytes_of(id);
            if live == 0 {
                self.block(id).state.store(WblockState::Free as u8, Release);
                self.queues.lock().free.push_back(id);
                return AfterFree::Freed;
            }
            let _ = self.change(id, WblockState::Emptying, WblockState::Used);
            // Who freed the last of it meanwhile has left it to us.
            live = self.live_bytes_of(id);
        }
        if live < low_water_bytes
            && self.lasting_bytes(id) != 0
            && !self.block(id).is_kept.load(Relaxed)
            && self.change(id, WblockState::Used, WblockState::Queued)
        {
            self.queues.lock().defrag.push_back(id);
            AfterFree::Queued
        } else {
            AfterFree::Kept
        }
    }

    /// Queues every used block below the low-water mark, after the mark was raised. Gives their number.
    pub(super) fn sweep(&self, low_water_bytes: u32) -> usize {
        (1..self.blocks.len() as u32)
            .filter(|id| self.settle(WblockId(*id), low_water_bytes) == AfterFree::Queued)
            .count()
    }

    /// Queues the used block with least alive in it, if that is below `limit_bytes`: what is done for want of room when
    /// no block is below the low-water mark. Gives whether it queued one.
    pub(super) fn queue_emptiest(&self, limit_bytes: u32) -> bool {
        let used = (1..self.blocks.len() as u32)
            .map(WblockId)
            .filter(|id| self.block(*id).state.load(Relaxed) == WblockState::Used as u8)
            .filter(|id| !self.block(*id).is_kept.load(Relaxed) && self.lasting_bytes(*id) != 0);
        let emptiest = used.min_by_key(|id| self.block(*id).live_bytes.load(Relaxed));
        emptiest.is_some_and(|id| self.settle(id, limit_bytes) == AfterFree::Queued)
    }

    /// Whether so few blocks are free that writers are about to be refused.
    pub(super) fn is_short(&self) -> bool {
        self.free_count() <= self.reserved + self.reserved.div_ceil(4)
    }

    /// Takes the next block to empty, once more than `queue_min` wait. It stays with the caller until
    /// [`emptied`](Self::emptied).
    pub(super) fn next_to_defrag(&self, queue_min: usize) -> Option<WblockId> {
        let id = loop {
            let mut queues = self.queues.lock();
            if queues.defrag.len() <= queue_min {
                return None;
            }
            let id = queues.defrag.pop_front()?;
            drop(queues);
            let (from, to) = (WblockState::Queued as u8, WblockState::Emptying as u8);
            // Sequentially consistent, as are the other three accesses of the handshake with `begin_rewrite`.
            if self.block(id).state.compare_exchange(from, to, SeqCst, Relaxed).is_ok() {
                break id;
            }
        };
        let block = self.block(id);
        while block.writers.load(SeqCst) != 0 {
            std::thread::yield_now();
        }
        Some(id)
    }

    /// A block that defrag took is done with. Gives the bytes of what it could not move, because it cannot be read; if
    /// there are any the block is kept.
    pub(super) fn emptied(&self, id: WblockId) -> u32 {
        let unreadable = self.lasting_bytes(id);
        self.block(id).is_kept.store(unreadable != 0, Relaxed);
        let was_emptying = self.change(id, WblockState::Emptying, WblockState::Used);
        cf::must!(was_emptying, "write block {} was emptied in state {:?}", id.0, self.state(id));
        // Only now, as who frees the last of it meanwhile leaves the block to defrag.
        self.settle(id, 0);
        unreadable
    }

    /// Blocks that were kept are tried again: what could not be read may be readable now. Gives how many wait for defrag.
    pub(super) fn retry_kept(&self, low_water_bytes: u32) -> usize {
        (1..self.blocks.len() as u32)
            .map(WblockId)
            .filter(|id| self.block(*id).is_kept.swap(false, Relaxed))
            .filter(|id| self.settle(*id, low_water_bytes) == AfterFree::Queued)
            .count()
    }

    /// Whether nothing in block `id` is alive. Of a block that is not current that stays so.
    pub(super) fn is_empty(&self, id: WblockId) -> bool {
        self.live_bytes_of(id) == 0
    }

    /// Bytes of live records in block `id`.
    pub(super) fn live_bytes_of(&self, id: WblockId) -> u32 {
        self.block(id).live_bytes.load(Acquire)
    }

    /// A block that defrag took could not be emptied; it is tried again later.
    pub(super) fn put_back(&self, id: WblockId) {
        let was_emptying = self.change(id, WblockState::Emptying, WblockState::Queued);
        cf::must!(was_emptying, "write block {} was put back in state {:?}", id.0, self.state(id));
        self.queues.lock().defrag.push_back(id);
    }

    pub(super) fn state(&self, id: WblockId) -> WblockState {
        WblockState::from_number(self.block(id).state.load(SeqCst))
    }

    /// Bytes of live records on the device.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Relaxed)
    }

    /// Blocks that are free or pristine.
    pub(super) fn free_count(&self) -> usize {
        self.free_in(&self.queues.lock())
    }

    /// At start: block `id` holds `size` more live bytes, or after an older copy lost against a newer one, fewer.
    pub(super) fn load_bytes(&self, id: WblockId, size: u32, is_alive: bool) {
        let block = self.block(id);
        if is_alive {
            block.live_bytes.fetch_add(size, Relaxed);
            self.live_bytes.fetch_add(u64::from(size), Relaxed);
        } else {
            block.live_bytes.fetch_sub(size, Relaxed);
            self.live_bytes.fetch_sub(u64::from(size), Relaxed);
        }
    }

    /// At start, after all records were loaded: blocks below `pristine` are used, to be defragged or free, by what is
    /// alive in them; those to be defragged emptiest first.
    pub(super) fn settle_loaded(&mut self, pristine: u32, low_water_bytes: u32) {
        let queues = self.queues.get_mut();
        queues.pristine = pristine.clamp(1, self.blocks.len() as u32);
        for at in 1..queues.pristine {
            let block = &mut self.blocks[at as usize];
            let live = *block.live_bytes.get_mut();
            let state = match live {
                0 => WblockState::Free,
                _ if live < low_water_bytes => WblockState::Queued,
                _ => WblockState::Used,
            };
            *block.state.get_mut() = state as u8;
            match state {
                WblockState::Free => queues.free.push_back(WblockId(at)),
                WblockState::Queued => queues.defrag.push_back(WblockId(at)),
                _ => {}
            }
        }
        let blocks = &self.blocks;
        queues.defrag.make_contiguous().sort_by_key(|id| blocks[id.0 as usize].live_bytes.load(Relaxed));
    }

    /// Blocks that were used and are free.
    pub(super) fn freed(&self) -> Vec<WblockId> {
        self.queues.lock().free.iter().copied().collect()
    }

    /// First block never used so far.
    pub(super) fn pristine(&self) -> u32 {
        self.queues.lock().pristine
    }

    /// Number of blocks, with the one of the device header.
    pub(super) fn count(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Blocks that wait for defrag.
    pub(super) fn defrag_queue_size(&self) -> usize {
        self.queues.lock().defrag.len()
    }

    /// Bytes of all blocks together.
    pub(super) fn size(&self) -> u64 {
        self.blocks.len() as u64 * u64::from(WBLOCK_SIZE)
    }

    fn free_in(&self, queues: &Queues) -> usize {
        queues.free.len() + self.blocks.len() - queues.pristine as usize
    }

    fn block(&self, id: WblockId) -> &Wblock {
        &self.blocks[id.0 as usize]
    }

    fn change(&self, id: WblockId, from: WblockState, to: WblockState) -> bool {
        self.block(id).state.compare_exchange(from as u8, to as u8, AcqRel, Relaxed).is_ok()
    }
}

#[cfg(test)]
impl WblockTable {
    /// Blocks that are kept for what cannot be read.
    pub(super) fn kept_count(&self) -> usize {
        self.blocks.iter().filter(|block| block.is_kept.load(Relaxed)).count()
    }

    /// Asserts that every block is accounted for exactly once and that live bytes add up.
    pub(super) fn check(&self) {
        let queues = self.queues.lock();
        let mut sum = 0;
        for (at, block) in self.blocks.iter().enumerate().skip(1) {
            let id = WblockId(at as u32);
            let live = u64::from(block.live_bytes.load(Relaxed));
            sum += live;
            let listed = queues.free.iter().filter(|free| **free == id).count();
            let queued = queues.defrag.iter().filter(|queued| **queued == id).count();
            let (state, pristine) = (self.state(id), at as u32 >= queues.pristine);
            assert_eq!(
                usize::from(state == WblockState::Free && !pristine),
                listed,
                "block {at} in the free queue"
            );
            assert!(state != WblockState::Queued || queued > 0, "block {at} is missing in the defrag queue");
            assert!(live == 0 || state != WblockState::Free, "free block {at} has live bytes");
        }
        assert_eq!(sum, self.live_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW_WATER: u32 = WBLOCK_SIZE / 2;

    #[test]
    fn a_block_goes_through_its_life() {
        let table = WblockTable::new(12, 1, Reuse::Newest);
        let id = table.take(false).expect("11 blocks are free");
        table.begin_write(id, 6 << 20);
        table.begin_write(id, 1 << 20);
        table.end_write(id);
        table.end_write(id);
        assert_eq!(table.free_bytes(id, 1 << 20, LOW_WATER), AfterFree::Kept);
        assert_eq!(table.close(id, LOW_WATER), AfterFree::Kept);
        assert_eq!(table.free_bytes(id, 4 << 20, LOW_WATER), AfterFree::Queued);
        assert_eq!(table.next_to_defrag(1), None);
        assert_eq!(table.next_to_defrag(0), Some(id));
        assert!(!table.begin_rewrite(id));
        assert_eq!(table.free_bytes(id, 2 << 20, LOW_WATER), AfterFree::Kept);
        assert_eq!(table.emptied(id), 0);
        table.check();
        assert_eq!((table.live_bytes(), table.free_count()), (0, 11));
    }

    #[test]
    fn writers_leave_the_reserve_to_defrag() {
        let table = WblockTable::new(1 + 8 + 2, 8, Reuse::Oldest);
        assert!(table.take(false).is_some() && table.take(false).is_some());
        assert_eq!(table.take(false), None);
        for _ in 0..8 {
            assert!(table.take(true).is_some());
        }
        assert_eq!(table.take(true), None);
        table.check();
    }

    #[test]
    fn a_block_that_dies_while_current_is_free_when_closed() {
        let table = WblockTable::new(12, 1, Reuse::Newest);
        let id = table.take(false).expect("free");
        table.begin_write(id, 100);
        table.end_write(id);
        assert_eq!(table.free_bytes(id, 100, LOW_WATER), AfterFree::Kept);
        assert_eq!(table.close(id, LOW_WATER), AfterFree::Freed);
        table.check();
    }

    #[test]
    fn a_block_with_unreadable_records_is_left_alone_until_they_are_gone() {
        let table = WblockTable::new(12, 1, Reuse::Newest);
        let id = table.take(false).expect("free");
        table.begin_write(id, 300);
        table.end_write(id);
        assert_eq!(table.close(id, LOW_WATER), AfterFree::Queued);
        assert_eq!(table.next_to_defrag(0), Some(id));
        assert_eq!(table.free_bytes(id, 100, LOW_WATER), AfterFree::Kept);
        assert_eq!(table.emptied(id), 200);
        assert_eq!(table.free_bytes(id, 100, LOW_WATER), AfterFree::Kept);
        assert!(!table.queue_emptiest(WBLOCK_SIZE));
        assert_eq!((table.sweep(WBLOCK_SIZE), table.next_to_defrag(0)), (0, None));
        assert_eq!(table.retry_kept(LOW_WATER), 1);
        assert_eq!(table.next_to_defrag(0), Some(id));
        assert_eq!(table.emptied(id), 100);
        assert_eq!(table.free_bytes(id, 100, LOW_WATER), AfterFree::Freed);
        table.check();
        let again = table.take(false).expect("free");
        table.begin_write(again, 300);
        table.end_write(again);
        assert_eq!((again, table.close(again, LOW_WATER)), (id, AfterFree::Queued), "it is as any other");
    }

    #[test]
    fn what_waits_for_its_replacement_is_not_unreadable() {
        let table = WblockTable::new(12, 1, Reuse::Newest);
        let id = table.take(false).expect("free");
        table.begin_write(id, 300);
        table.end_write(id);
        table.close(id, LOW_WATER);
        assert_eq!(table.next_to_defrag(0), Some(id));
        table.await_free(id, 200);
        table.await_free(id, 100);
        assert_eq!(table.emptied(id), 0);
        assert_eq!(table.free_awaited(id, 200, LOW_WATER), AfterFree::Kept);
        assert_eq!(table.next_to_defrag(0), None);
        assert_eq!(table.free_awaited(id, 100, LOW_WATER), AfterFree::Freed);
        table.check();
    }

    /// Runs itself in a process of its own, which is to be aborted: a panic would be caught, and the server go on.
    #[test]
    fn freeing_more_than_is_alive_is_a_bug() {
        if std::env::var_os("ASD_TEST_AGAIN").is_some() {
            let _ = std::panic::catch_unwind(|| {
                let table = WblockTable::new(12, 1, Reuse::Newest);
                let id = table.take(false).expect("free");
                table.free_bytes(id, 16, LOW_WATER);
            });
            return;
        }
        let name = concat!(module_path!(), "::freeing_more_than_is_alive_is_a_bug");
        let name = name.split_once("::").expect("the crate's name comes first").1;
        let mut again = std::process::Command::new(std::env::current_exe().expect("a test's binary"));
        let output = again.args(["--exact", name]).env("ASD_TEST_AGAIN", "1").output().expect("it runs");
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        assert_eq!(signal, Some(6), "{output:?}");
    }

    #[test]
    fn a_late_look_at_an_empty_block_does_not_free_it_once_it_is_filled_again() {
        let table = WblockTable::new(4, 0, Reuse::Newest);
        let fill = || {
            let id = table.take(false).expect("a free block");
            table.begin_write(id, 4096);
            table.end_write(id);
            assert_eq!(table.close(id, 0), AfterFree::Kept);
            id
        };
        let id = fill();
        assert_eq!(table.free_bytes(id, 4096, 0), AfterFree::Freed);
        assert_eq!(fill(), id);
        // The look of a thread that had to wait for the processor since the block was empty.
        for low_water_bytes in [0, WBLOCK_SIZE] {
            assert_ne!(table.settle_seen(id, 0, low_water_bytes), AfterFree::Freed);
            assert_ne!(table.state(id), WblockState::Free);
            table.check();
        }
        assert_eq!(table.state(id), WblockState::Queued);
        assert_eq!(table.free_bytes(id, 4096, 0), AfterFree::Freed);
        table.check();
    }
}
