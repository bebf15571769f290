//! The state of one write block, its live bytes, and how far its buffer is filled. All of it is atomic.
//!
//! ```text
//! Free ──take──▶ Current ──close──▶ Used ──below low water──▶ Queued ──defrag──▶ Emptying ──▶ Free
//!                   │                 └──nothing alive──▶ Free ◀──nothing alive── Queued
//!                   └──close, nothing alive──▶ Free
//! ```
//! Invariants: a free block has no live bytes and no writer; only a current block gains live bytes.
//!
//! # Races between two atomics
//! A thread changes one atomic and then reads another, while a second thread does so the other way round. At
//! least one of them must see the change of the other:
//! - A thread that takes the last live bytes then reads whether it may free the block. A thread that changes
//!   the block's state then reads whether any bytes are alive. One of them frees the block.
//! - A thread that rewrites a record in place announces itself and then reads whether the block is being
//!   emptied. Defrag makes the block `Emptying` and then reads whether threads have announced themselves. One
//!   of them gives way.
//!
//! The second step is therefore a read-modify-write. It comes before or after that of the other thread, and
//! the later one sees what was done before the earlier one.
//!
//! `tests/loom` runs the code of this file through all orders of its steps, so the file uses no other part of
//! the server.

#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32};
#[cfg(not(loom))]
use std::thread::yield_now;

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32};
#[cfg(loom)]
use loom::thread::yield_now;

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

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

/// Effect on a block that lost a live record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AfterFree {
    /// The block did not change.
    Kept,
    /// The block is free again.
    Freed,
    /// The block now waits for defrag.
    Queued,
}

/// One write block. All zeros mean that it is free and nothing in it is alive.
#[derive(Default)]
pub(super) struct BlockState {
    live_bytes: AtomicU32,
    /// Number of threads that are copying a record into the block. It is not emptied before they are done.
    writers: AtomicU32,
    /// Live bytes of records that were replaced on another device. They become garbage when the replacement
    /// is on disk.
    awaited_bytes: AtomicU32,
    state: AtomicU8,
    /// Whether the live bytes cannot be read, so that defrag does not empty the block.
    is_kept: AtomicBool,
    /// Number of times that the block was taken, modulo 2^16.
    life: AtomicU16,
}

impl BlockState {
    pub(super) fn state(&self) -> WblockState {
        WblockState::from_number(self.state.load(Acquire))
    }

    fn change(&self, from: WblockState, to: WblockState) -> bool {
        self.state.compare_exchange(from as u8, to as u8, AcqRel, Acquire).is_ok()
    }

    /// Bytes of live records.
    pub(super) fn live_bytes(&self) -> u32 {
        self.live_bytes.load(Acquire)
    }

    /// Bytes of live records, read after a change of the state.
    fn live_bytes_now(&self) -> u32 {
        self.live_bytes.fetch_add(0, AcqRel)
    }

    /// Live bytes that will not become garbage as soon as a replacement is on disk.
    pub(super) fn lasting_bytes(&self) -> u32 {
        self.live_bytes.load(Acquire).saturating_sub(self.awaited_bytes.load(Acquire))
    }

    pub(super) fn is_kept(&self) -> bool {
        self.is_kept.load(Relaxed)
    }

    /// Notes whether the live bytes cannot be read. Returns the former value.
    pub(super) fn set_kept(&self, is_kept: bool) -> bool {
        self.is_kept.swap(is_kept, Relaxed)
    }

    /// The life that the block is in; each time that it is taken, a new life begins. If a record is in the
    /// block at two reads of the same life, it has not left the block in between. Both reads are made under
    /// the record's lock, and a thread that brings the record back in a later life must have held that lock
    /// in between.
    pub(super) fn life(&self) -> u16 {
        self.life.load(Relaxed)
    }

    /// Makes a free block current. Returns whether it was free and had no live bytes.
    pub(super) fn take(&self) -> bool {
        let was_free = self.change(WblockState::Free, WblockState::Current);
        self.life.fetch_add(1, Relaxed);
        self.is_kept.store(false, Relaxed);
        was_free && self.live_bytes_now() == 0
    }

    /// Makes a current block a used one; [`review`](Self::review) follows. Returns whether it was current.
    pub(super) fn close(&self) -> bool {
        self.change(WblockState::Current, WblockState::Used)
    }

    /// Counts `size` bytes as alive and their writer as busy until [`end_write`](Self::end_write). Returns the live bytes
    /// before.
    pub(super) fn begin_write(&self, size: u32) -> u32 {
        self.writers.fetch_add(1, Relaxed);
        self.live_bytes.fetch_add(size, Relaxed)
    }

    /// Ends a write: the record is copied.
    pub(super) fn end_write(&self) {
        self.writers.fetch_sub(1, Release);
    }

    /// Waits until no record is being copied into the block. The caller ensures that copies end.
    pub(super) fn wait_for_writers(&self) {
        while self.writers.load(Acquire) != 0 {
            yield_now();
        }
    }

    /// Tries to announce a writer that changes a record in place. Refused while defrag has the block.
    pub(super) fn begin_rewrite(&self) -> bool {
        self.writers.fetch_add(1, AcqRel);
        if self.state() == WblockState::Emptying {
            self.end_write();
            return false;
        }
        true
    }

    /// Takes a queued block for defrag. After that no thread writes to it. Returns whether it was queued.
    pub(super) fn begin_emptying(&self) -> bool {
        if !self.change(WblockState::Queued, WblockState::Emptying) {
            return false;
        }
        while self.writers.fetch_add(0, AcqRel) != 0 {
            yield_now();
        }
        true
    }

    /// Makes a block that defrag took a used one again; [`review`](Self::review) follows. Returns whether
    /// defrag had it.
    pub(super) fn end_emptying(&self) -> bool {
        self.change(WblockState::Emptying, WblockState::Used)
    }

    /// Makes a block that defrag took wait again. Returns whether defrag had it.
    pub(super) fn put_back(&self) -> bool {
        self.change(WblockState::Emptying, WblockState::Queued)
    }

    /// Counts `size` bytes as garbage; [`review_seen`](Self::review_seen) follows. Returns the live bytes before.
    pub(super) fn free_bytes(&self, size: u32) -> u32 {
        self.live_bytes.fetch_sub(size, AcqRel)
    }

    /// Notes that `size` live bytes become garbage as soon as their replacement is on disk.
    pub(super) fn await_free(&self, size: u32) {
        self.awaited_bytes.fetch_add(size, AcqRel);
    }

    /// Ends [`await_free`](Self::await_free), because the replacement is on disk and the bytes are freed.
    pub(super) fn end_await(&self, size: u32) {
        self.awaited_bytes.fetch_sub(size, AcqRel);
    }

    /// Frees or queues a used block, depending on its live bytes. The caller puts it into the queue of its new state.
    pub(super) fn review(&self, low_water_bytes: u32) -> AfterFree {
        self.review_seen(self.live_bytes_now(), low_water_bytes)
    }

    /// As [`review`](Self::review), for a block that had `live` live bytes when the caller read them.
    pub(super) fn review_seen(&self, mut live: u32, low_water_bytes: u32) -> AfterFree {
        while live == 0 {
            if !self.change(WblockState::Used, WblockState::Emptying)
                && !self.change(WblockState::Queued, WblockState::Emptying)
            {
                return AfterFree::Kept;
            }
            // The block may have been freed, taken and filled again since then. From here on no thread takes
            // it or adds to it.
            live = self.live_bytes_now();
            if live == 0 {
                self.state.store(WblockState::Free as u8, Release);
                return AfterFree::Freed;
            }
            self.end_emptying();
            // A thread that freed the last live bytes meanwhile has left it to this thread to free the block.
            live = self.live_bytes_now();
        }
        let is_sparse = live < low_water_bytes && self.lasting_bytes() != 0 && !self.is_kept();
        if is_sparse && self.change(WblockState::Used, WblockState::Queued) {
            AfterFree::Queued
        } else {
            AfterFree::Kept
        }
    }

    /// Counts `size` more bytes as alive, at start. Returns the live bytes before.
    pub(super) fn load_bytes(&self, size: u32) -> u32 {
        self.live_bytes.fetch_add(size, Relaxed)
    }

    /// Takes an unused block at start, to fill it with its bytes on disk. Returns whether it was free.
    pub(super) fn take_to_load(&self) -> bool {
        self.change(WblockState::Free, WblockState::Current)
    }

    /// Sets and returns the state that follows from the live bytes, at start, when all records are loaded.
    pub(super) fn loaded(&mut self, low_water_bytes: u32) -> WblockState {
        let state = match self.live_bytes() {
            0 => WblockState::Free,
            live if live < low_water_bytes => WblockState::Queued,
            _ => WblockState::Used,
        };
        self.state.store(state as u8, Relaxed);
        state
    }
}

/// How far the buffer of a block is filled, and how far it is on disk.
#[derive(Default)]
pub(super) struct FillMark {
    filled: AtomicU32,
    flushed: AtomicU32,
}

impl FillMark {
    /// Notes that bytes up to `end` are reserved. The caller holds the stream's lock, and has announced the
    /// writer to the block before.
    pub(super) fn reserve(&self, end: u32) {
        self.filled.store(end, Release);
    }

    /// Bytes reserved so far.
    pub(super) fn filled(&self) -> u32 {
        self.filled.load(Acquire)
    }

    /// Waits until the bytes reserved so far are written, and returns their end. Bytes below it do not change
    /// any more.
    pub(super) fn complete(&self, block: &BlockState) -> u32 {
        let end = self.filled();
        block.wait_for_writers();
        end
    }

    /// Bytes on disk so far.
    pub(super) fn flushed(&self) -> u32 {
        self.flushed.load(Acquire)
    }

    /// Notes that bytes up to `end` are on disk.
    pub(super) fn set_flushed(&self, end: u32) {
        self.flushed.store(end, Release);
    }
}
