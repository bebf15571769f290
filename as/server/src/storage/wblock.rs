//! The write blocks of a device: which are free, which wait for defrag, and how many bytes of each are alive.
//!
//! The life of one block is in [`block_state`](super::block_state). A block that defrag could not empty,
//! because it holds records that cannot be read, is *kept*: it is used, but not queued again, and becomes
//! free when these records are replaced or deleted, as any other block does.
//!
//! Invariants: a block is in the free queue, beyond the pristine mark, or in one of the other states, never
//! in two; live bytes of a free block are 0, and those of any block at most its size. The defrag queue may
//! name blocks that have left `Queued` since; they are skipped.
//!
//! [`Taken`], [`Emptying`], [`Unused`] and [`Rewrite`] prove what their holder may do with the bytes of a
//! block. Only the table makes them.
//!
//! # Locking
//! State and live bytes are atomics. A state changes by compare-and-swap, so that two threads that see the
//! same reason act once. A thread that frees a block makes it `Emptying` first and then checks again whether
//! it is empty. The queues share one mutex.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::block_state::BlockState;
pub(super) use super::block_state::{AfterFree, WblockState};
use super::{RBLOCK_SIZE, RBLOCKS_PER_WBLOCK, WBLOCK_SIZE};
use crate::index::{Location, WriteGuard};

/// Number of a write block on its device; block 0 is the device header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct WblockId(pub(super) u32);

impl WblockId {
    /// The block that holds `location`.
    pub(super) fn of(location: Location) -> Self {
        WblockId((location.rblock() / RBLOCKS_PER_WBLOCK) as u32)
    }
}

/// The offset of block `id`, in bytes.
pub(super) fn wblock_offset(id: WblockId) -> u64 {
    u64::from(id.0) * u64::from(WBLOCK_SIZE)
}

/// The block that holds `location` and the offset in it.
pub(super) fn wblock_place(location: Location) -> (WblockId, u32) {
    let (block, rblock) = (location.rblock() / RBLOCKS_PER_WBLOCK, location.rblock() % RBLOCKS_PER_WBLOCK);
    (WblockId(block as u32), rblock as u32 * RBLOCK_SIZE)
}

/// A block that was taken to be filled: only its holder adds to it.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Taken {
    device: u8,
    id: WblockId,
    /// Number of blocks of the device taken so far, including this one.
    number: u64,
    /// Number of the block that was taken last when this one became free; 0 if it was not in use since the
    /// start.
    freed_after: u64,
}

impl Taken {
    pub(super) fn device(&self) -> u8 {
        self.device
    }

    pub(super) fn id(&self) -> WblockId {
        self.id
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Number of the last block that may hold replacements of the block's former records.
    pub(super) fn freed_after(&self) -> u64 {
        self.freed_after
    }
}

/// A block taken by defrag. No thread writes to it until it is free.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Emptying {
    device: u8,
    id: WblockId,
}

impl Emptying {
    pub(super) fn device(&self) -> u8 {
        self.device
    }

    pub(super) fn id(&self) -> WblockId {
        self.id
    }
}

/// A block without live records. No thread takes it until this is dropped.
pub(super) struct Unused<'a> {
    device: u8,
    id: WblockId,
    holder: PhantomData<&'a mut Emptying>,
}

impl Unused<'_> {
    pub(super) fn device(&self) -> u8 {
        self.device
    }

    pub(super) fn id(&self) -> WblockId {
        self.id
    }
}

/// The right to write over a record in place. Its element's guard is held exclusively, and defrag keeps away.
pub(super) struct Rewrite<'g> {
    wblocks: &'g WblockTable,
    location: Location,
    guard: PhantomData<&'g mut WriteGuard<'g>>,
}

impl Rewrite<'_> {
    pub(super) fn location(&self) -> Location {
        self.location
    }
}

impl Drop for Rewrite<'_> {
    fn drop(&mut self) {
        self.wblocks.end_write(WblockId::of(self.location));
    }
}

/// A block that was in use and is free.
#[derive(Clone, Copy)]
struct FreeBlock {
    id: WblockId,
    /// Number of blocks taken before it became free.
    freed_after: u64,
    /// When it became free, unless its memory has been given back since.
    memory_since: Option<Instant>,
}

struct Queues {
    free: VecDeque<FreeBlock>,
    /// Number of blocks taken so far.
    taken: u64,
    /// First block never used so far.
    pristine: u32,
    /// Free blocks that are not in the queue while their memory is given back.
    discarding: usize,
    defrag: VecDeque<WblockId>,
}

/// All write blocks of one device.
pub(super) struct WblockTable {
    /// Number of the device.
    device: u8,
    blocks: Box<[BlockState]>,
    queues: Mutex<Queues>,
    live_bytes: AtomicU64,
    /// Number of free blocks that only defrag may take, so that it can always make room.
    reserved: usize,
    reuse: Reuse,
}

/// Largest percentage of blocks that writers leave and defrag tries to keep free, whatever
/// `stop-writes-avail-pct` is.
const STOP_PCT_MAX: u32 = 20;

/// One block in this many is free, in addition to those at which writers wait, when defrag begins to empty
/// blocks above its mark.
const LEAD_SHARE: usize = 96;

/// A device with fewer blocks than this, including that of the header, has *few*.
const FEW_BLOCKS: usize = 8;

/// The free block to take next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reuse {
    /// The one freed last, whose memory is most likely still present.
    Newest,
    /// The one freed first, so that all parts of a disk wear alike, and overwritten data stays longest.
    Oldest,
}

impl WblockTable {
    /// Makes a table of `count` blocks of device number `device`. The first block is not for records, and
    /// `reserved` others are for defrag.
    pub(super) fn new(device: u8, count: u32, reserved: usize, reuse: Reuse) -> Self {
        WblockTable {
            device,
            blocks: (0..count).map(|_| BlockState::default()).collect(),
            queues: Mutex::new(Queues {
                free: VecDeque::new(),
                taken: 0,
                pristine: 1,
                discarding: 0,
                defrag: VecDeque::new(),
            }),
            live_bytes: AtomicU64::new(0),
            reserved,
            reuse,
        }
    }

    pub(super) fn device(&self) -> u8 {
        self.device
    }

    /// Takes a free block that `may_take` accepts and makes it current, if more than `left` are free.
    pub(super) fn take(&self, left: usize, may_take: impl Fn(WblockId) -> bool) -> Option<Taken> {
        let mut queues = self.queues.lock();
        if self.free_in(&queues) <= left {
            return None;
        }
        let mut freed = queues.free.iter();
        let found = match self.reuse {
            Reuse::Newest => freed.rposition(|block| may_take(block.id)),
            Reuse::Oldest => freed.position(|block| may_take(block.id)),
        };
        let FreeBlock { id, freed_after, .. } = match found.and_then(|at| queues.free.remove(at)) {
            Some(block) => block,
            None if (queues.pristine as usize) < self.blocks.len() => {
                queues.pristine += 1;
                FreeBlock { id: WblockId(queues.pristine - 1), freed_after: 0, memory_since: None }
            }
            None => return None,
        };
        queues.taken += 1;
        let was_free = self.block(id).take();
        cf::invariant!(was_free, "write block {} was taken in state {:?}", id.0, self.state(id));
        Some(Taken { device: self.device, id, number: queues.taken, freed_after })
    }

    /// Closes a full current block: it becomes used, queued or free, depending on its live bytes.
    pub(super) fn close(&self, block: Taken, low_water_bytes: u32) -> AfterFree {
        let Taken { id, .. } = block;
        let was_current = self.block(id).close();
        cf::invariant!(was_current, "write block {} was closed in state {:?}", id.0, self.state(id));
        self.review(id, low_water_bytes)
    }

    /// Counts `size` bytes of block `id` as alive and their writer as busy until [`end_write`](Self::end_write).
    pub(super) fn begin_write(&self, id: WblockId, size: u32) {
        let before = self.block(id).begin_write(size);
        cf::invariant!(before <= WBLOCK_SIZE - size, "write block {} got {size} bytes beyond {before}", id.0);
        self.live_bytes.fetch_add(u64::from(size), Relaxed);
    }

    /// Ends a write: the record is copied.
    pub(super) fn end_write(&self, id: WblockId) {
        self.block(id).end_write();
    }

    /// Tries to get the right to write over the record of `guard` in place. Refused while defrag has its
    /// block.
    pub(super) fn begin_rewrite<'g>(&'g self, guard: &'g mut WriteGuard<'_>) -> Option<Rewrite<'g>> {
        let location = guard.location;
        assert_eq!(location.device(), self.device, "a record is rewritten on its own device");
        let begun = self.block(WblockId::of(location)).begin_rewrite();
        begun.then(|| Rewrite { wblocks: self, location, guard: PhantomData })
    }

    /// Counts `size` bytes of block `id` as garbage.
    pub(super) fn free_bytes(&self, id: WblockId, size: u32, low_water_bytes: u32) -> AfterFree {
        let before = self.block(id).free_bytes(size);
        cf::invariant!(before >= size, "write block {} had {before} live bytes, {size} were freed", id.0);
        let total = self.live_bytes.fetch_sub(u64::from(size), Relaxed);
        cf::invariant!(total >= u64::from(size), "{total} bytes were alive on the device, {size} were freed");
        let after = self.block(id).review_seen(before - size, low_water_bytes);
        self.enqueue(id, after)
    }

    /// Notes that `size` live bytes of block `id` become garbage as soon as their replacement is on disk.
    pub(super) fn await_free(&self, id: WblockId, size: u32) {
        self.block(id).await_free(size);
    }

    /// Ends [`await_free`](Self::await_free), because the replacement is on disk, and frees the bytes.
    pub(super) fn free_awaited(&self, id: WblockId, size: u32, low_water_bytes: u32) -> AfterFree {
        let after = self.free_bytes(id, size, low_water_bytes);
        // This is done last: too many awaited bytes cost at most a later check, too few a false alarm.
        self.block(id).end_await(size);
        after
    }

    /// Frees or queues a used block if its live bytes require that.
    fn review(&self, id: WblockId, low_water_bytes: u32) -> AfterFree {
        let after = self.block(id).review(low_water_bytes);
        self.enqueue(id, after)
    }

    /// Puts block `id` into the queue of the state that a review gave it.
    #[inline]
    fn enqueue(&self, id: WblockId, after: AfterFree) -> AfterFree {
        match after {
            AfterFree::Kept => {}
            AfterFree::Freed => {
                let mut queues = self.queues.lock();
                let freed_after = queues.taken;
                let memory_since = Some(Instant::now());
                queues.free.push_back(FreeBlock { id, freed_after, memory_since });
            }
            AfterFree::Queued => self.queues.lock().defrag.push_back(id),
        }
        after
    }

    /// Queues every used block below the low-water mark, after the mark was raised. Returns their number.
    pub(super) fn sweep(&self, low_water_bytes: u32) -> usize {
        self.ids().filter(|id| self.review(*id, low_water_bytes) == AfterFree::Queued).count()
    }

    /// Queues the used block with the fewest live bytes, if these are below `limit_bytes`. Used when room is
    /// needed and no block is below the low-water mark. Returns whether it queued one.
    pub(super) fn queue_emptiest(&self, limit_bytes: u32) -> bool {
        let is_candidate = |block: &BlockState| {
            block.state() == WblockState::Used && !block.is_kept() && block.lasting_bytes() != 0
        };
        let used = self.ids().filter(|id| is_candidate(self.block(*id)));
        let emptiest = used.min_by_key(|id| self.live_bytes_of(*id));
        emptiest.is_some_and(|id| self.review(id, limit_bytes) == AfterFree::Queued)
    }

    /// Whether there are so few blocks that writers and defrag must share one: after an open block for each,
    /// and a full one, almost none would be left for freeing others.
    #[inline]
    pub(super) fn has_few_blocks(&self) -> bool {
        self.blocks.len() < FEW_BLOCKS
    }

    /// Free blocks that only defrag may take, so that it can always make room.
    pub(super) fn reserved(&self) -> usize {
        self.reserved
    }

    /// Number of free blocks that writers leave as long as defrag makes room. With fewer blocks defrag could
    /// not make room, or fewer than `stop_pct` percent, the limit of `stop-writes-avail-pct`, would be free
    /// once defrag takes one. On a device of few blocks defrag takes one only to free another at once.
    pub(super) fn writers_leave(&self, stop_pct: u32) -> usize {
        let stop = (self.blocks.len() * stop_pct.min(STOP_PCT_MAX) as usize).div_ceil(100);
        self.reserved.max(stop + usize::from(!self.has_few_blocks()))
    }

    /// Whether so few blocks are free that writers are about to wait for defrag.
    pub(super) fn is_short(&self, stop_pct: u32) -> bool {
        let lead = if self.has_few_blocks() { 0 } else { 1 + self.blocks.len() / LEAD_SHARE };
        self.free_count() <= self.writers_leave(stop_pct) + lead
    }

    /// Whether defrag is emptying a block now.
    pub(super) fn is_emptying(&self) -> bool {
        self.ids().any(|id| self.state(id) == WblockState::Emptying)
    }

    /// Takes the next block to empty, if more than `queue_min` wait. It stays with the caller until
    /// [`emptied`](Self::emptied).
    pub(super) fn next_to_defrag(&self, queue_min: usize) -> Option<Emptying> {
        loop {
            let mut queues = self.queues.lock();
            if queues.defrag.len() <= queue_min {
                return None;
            }
            let id = queues.defrag.pop_front()?;
            drop(queues);
            if self.block(id).begin_emptying() {
                return Some(Emptying { device: self.device, id });
            }
        }
    }

    /// Proves that nothing in the block is alive; `None` if something is.
    pub(super) fn unused<'e>(&self, block: &'e mut Emptying) -> Option<Unused<'e>> {
        assert_eq!(block.device, self.device, "a block belongs to one table");
        let is_unused = self.live_bytes_of(block.id) == 0;
        is_unused.then_some(Unused { device: block.device, id: block.id, holder: PhantomData })
    }

    /// Ends defrag of a block. Returns the number of bytes that defrag could not move because they cannot be
    /// read. If there are any, the block is kept.
    pub(super) fn emptied(&self, block: Emptying) -> u32 {
        let Emptying { id, .. } = block;
        let unreadable = self.block(id).lasting_bytes();
        self.block(id).set_kept(unreadable != 0);
        let was_emptying = self.block(id).end_emptying();
        cf::invariant!(was_emptying, "write block {} was emptied in state {:?}", id.0, self.state(id));
        // The block is reviewed only now, because a thread that frees its last bytes meanwhile leaves it to
        // defrag.
        self.review(id, 0);
        unreadable
    }

    /// Allows defrag to try kept blocks again, which may be readable now. Returns how many wait for defrag.
    pub(super) fn retry_kept(&self, low_water_bytes: u32) -> usize {
        self.ids()
            .filter(|id| self.block(*id).set_kept(false))
            .filter(|id| self.review(*id, low_water_bytes) == AfterFree::Queued)
            .count()
    }

    /// Whether nothing in block `id` is alive. This stays so for a block that is not current.
    pub(super) fn is_empty(&self, id: WblockId) -> bool {
        self.live_bytes_of(id) == 0
    }

    /// Bytes of live records in block `id`.
    pub(super) fn live_bytes_of(&self, id: WblockId) -> u32 {
        self.block(id).live_bytes()
    }

    /// Puts back a block that defrag could not empty. It is tried again later.
    pub(super) fn put_back(&self, block: Emptying) {
        let Emptying { id, .. } = block;
        let was_emptying = self.block(id).put_back();
        cf::invariant!(was_emptying, "write block {} was put back in state {:?}", id.0, self.state(id));
        self.queues.lock().defrag.push_back(id);
    }

    pub(super) fn state(&self, id: WblockId) -> WblockState {
        self.block(id).state()
    }

    /// Bytes of live records on the device.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Relaxed)
    }

    /// Number of blocks that are free or pristine.
    pub(super) fn free_count(&self) -> usize {
        self.free_in(&self.queues.lock())
    }

    /// Takes block `id` at start, to fill it with its bytes on disk.
    pub(super) fn take_to_load(&self, id: WblockId) -> Taken {
        let was_free = self.block(id).take_to_load();
        cf::invariant!(was_free, "write block {} was loaded in state {:?}", id.0, self.state(id));
        Taken { device: self.device, id, number: 0, freed_after: 0 }
    }

    /// Counts `size` more live bytes in block `id` at start, or fewer after an older copy lost against a
    /// newer one.
    pub(super) fn load_bytes(&self, id: WblockId, size: u32, is_alive: bool) {
        if is_alive {
            let before = self.block(id).load_bytes(size);
            cf::invariant!(
                before <= WBLOCK_SIZE - size,
                "write block {} got {size} bytes beyond {before}",
                id.0
            );
            self.live_bytes.fetch_add(u64::from(size), Relaxed);
        } else {
            let before = self.block(id).free_bytes(size);
            cf::invariant!(before >= size, "write block {} had {before} live bytes, {size} were freed", id.0);
            self.live_bytes.fetch_sub(u64::from(size), Relaxed);
        }
    }

    /// Makes blocks below `pristine` used, queued or free, depending on their live bytes, at start, after all
    /// records were loaded. The emptiest are queued first.
    pub(super) fn sort_loaded(&mut self, pristine: u32, low_water_bytes: u32) {
        let queues = self.queues.get_mut();
        queues.pristine = pristine.clamp(1, self.blocks.len() as u32);
        let (below, beyond) = self.blocks.split_at_mut(queues.pristine as usize);
        for (at, block) in below.iter_mut().enumerate().skip(1) {
            match block.loaded(low_water_bytes) {
                WblockState::Free => {
                    let id = WblockId(at as u32);
                    queues.free.push_back(FreeBlock { id, freed_after: 0, memory_since: None });
                }
                WblockState::Queued => queues.defrag.push_back(WblockId(at as u32)),
                _ => {}
            }
        }
        let is_untouched = |block: &BlockState| block.live_bytes() == 0 && block.state() == WblockState::Free;
        assert!(beyond.iter().all(is_untouched), "nothing is alive beyond the blocks that were used");
        let sum: u64 = below.iter().map(|block| u64::from(block.live_bytes())).sum();
        assert_eq!(sum, *self.live_bytes.get_mut(), "the live bytes of the blocks are those of the device");
        let blocks = &self.blocks;
        queues.defrag.make_contiguous().sort_by_key(|id| blocks[id.0 as usize].live_bytes());
    }

    /// Calls `visit` with the blocks that were used and are free.
    pub(super) fn visit_free(&mut self, mut visit: impl FnMut(Unused<'_>)) {
        let device = self.device;
        for block in &self.queues.get_mut().free {
            visit(Unused { device, id: block.id, holder: PhantomData });
        }
    }

    /// Calls `discard` to give back the memory of the block that has been free for longest, if that is at
    /// least `idle` and it still has memory. Returns whether there was one.
    pub(super) fn discard_idle(&self, idle: Duration, discard: impl FnOnce(&Unused<'_>)) -> bool {
        let mut queues = self.queues.lock();
        let is_idle = |block: &FreeBlock| block.memory_since.is_some_and(|since| since.elapsed() >= idle);
        let found = queues.free.iter().position(is_idle);
        let Some(block) = found.and_then(|at| queues.free.remove(at)) else { return false };
        queues.discarding += 1;
        drop(queues);
        // No other thread can take the block meanwhile.
        discard(&Unused { device: self.device, id: block.id, holder: PhantomData });
        let mut queues = self.queues.lock();
        queues.discarding -= 1;
        queues.free.push_front(FreeBlock { memory_since: None, ..block });
        true
    }

    fn ids(&self) -> impl Iterator<Item = WblockId> {
        (1..self.blocks.len() as u32).map(WblockId)
    }

    /// The life that the block of `location` is in. The caller has a guard of the record there.
    #[inline]
    pub(super) fn life_at(&self, location: Location) -> u16 {
        self.block(WblockId::of(location)).life()
    }

    /// The state of block `id`, on which a flush waits for writers.
    pub(super) fn block(&self, id: WblockId) -> &BlockState {
        &self.blocks[id.0 as usize]
    }

    /// First block never used so far.
    pub(super) fn pristine(&self) -> u32 {
        self.queues.lock().pristine
    }

    /// Number of blocks, including that of the device header.
    pub(super) fn count(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Number of blocks that wait for defrag.
    pub(super) fn defrag_queue_size(&self) -> usize {
        self.queues.lock().defrag.len()
    }

    /// Number of bytes of all blocks together.
    pub(super) fn size(&self) -> u64 {
        self.blocks.len() as u64 * u64::from(WBLOCK_SIZE)
    }

    fn free_in(&self, queues: &Queues) -> usize {
        queues.free.len() + queues.discarding + self.blocks.len() - queues.pristine as usize
    }
}

#[cfg(test)]
impl WblockTable {
    /// Number of blocks kept because of unreadable records.
    pub(super) fn kept_count(&self) -> usize {
        self.blocks.iter().filter(|block| block.is_kept()).count()
    }

    /// Asserts that every block is accounted for exactly once and that live bytes add up.
    pub(super) fn check(&self) {
        let queues = self.queues.lock();
        let mut sum = 0;
        for (at, block) in self.blocks.iter().enumerate().skip(1) {
            let id = WblockId(at as u32);
            let live = u64::from(block.live_bytes());
            sum += live;
            let listed = queues.free.iter().filter(|free| free.id == id).count();
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
mod tests;
