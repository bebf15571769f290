//! Fixed-size elements addressed by 32-bit handles, in stages that are allocated as they fill.
//!
//! A stage is one zeroed allocation of the global allocator; the kernel backs it page by page as elements are
//! first used, so a stage costs address space, not memory. Handle 0 is the null handle. Freed elements are kept
//! in per-shard lists and handed out again before fresh ones.
//!
//! # Locking
//! Each shard has a mutex for its free list and its run of fresh elements; the stage table has one for growing.
//! Order: shard, then stages. Element memory itself is guarded by whoever holds the handle.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::zeroed::Zeroable;

/// Most stages an arena can have.
pub const STAGE_COUNT_MAX: usize = 256;
/// Shards of the free list; a power of two.
const SHARD_COUNT: usize = 16;
/// Fresh elements a shard takes from the current stage at a time.
const RUN_LENGTH: u32 = 256;

/// Address of an element; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(transparent)]
pub struct Handle(pub u32);

impl Handle {
    /// No element.
    pub const NULL: Handle = Handle(0);

    /// Whether this is no element.
    #[inline]
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }
}

#[derive(Default)]
struct ShardState {
    free: Vec<u32>,
    next_fresh: u32,
    fresh_end: u32,
}

#[repr(align(128))]
#[derive(Default)]
struct Shard(Mutex<ShardState>);

/// The arena. `T` is the element.
pub struct Arena<T: Zeroable> {
    stages: [AtomicPtr<T>; STAGE_COUNT_MAX],
    stage_count: AtomicU32,
    grow: Mutex<u32>,
    shards: [Shard; SHARD_COUNT],
    elements_per_stage_log2: u32,
    used: AtomicU64,
    owned: PhantomData<T>,
}

/// The arena has no stage left.
#[derive(Debug, PartialEq, Eq)]
pub struct Exhausted;

impl<T: Zeroable> Arena<T> {
    /// An empty arena whose stages have `stage_size` bytes, a power of two and a multiple of the element size.
    ///
    /// # Panics
    /// If `stage_size` is not such a number: the configuration table admits no other.
    #[must_use]
    pub fn new(stage_size: u64) -> Self {
        let elements = stage_size / size_of::<T>() as u64;
        assert!(elements.is_power_of_two() && elements >= u64::from(RUN_LENGTH) && elements <= 1 << 24);
        Arena {
            stages: [const { AtomicPtr::new(ptr::null_mut()) }; STAGE_COUNT_MAX],
            stage_count: AtomicU32::new(0),
            grow: Mutex::new(0),
            shards: std::array::from_fn(|_| Shard::default()),
            elements_per_stage_log2: elements.trailing_zeros(),
            used: AtomicU64::new(0),
            owned: PhantomData,
        }
    }

    /// Takes an element from the free list that `shard_hint` chooses, or a fresh one. Its content is what the last
    /// owner left, or zeros.
    ///
    /// # Errors
    /// [`Exhausted`] when all stages are full.
    pub fn allocate(&self, shard_hint: usize) -> Result<Handle, Exhausted> {
        let mut shard = self.shards[shard_hint % SHARD_COUNT].0.lock();
        let index = match shard.free.pop() {
            Some(index) => index,
            None => {
                if shard.next_fresh == shard.fresh_end {
                    let start = self.fresh_run()?;
                    shard.fresh_end = start + (RUN_LENGTH - 1);
                    shard.next_fresh = start;
                    // The last element of the run is taken at once: `fresh_end` may not overflow u32.
                    shard.fresh_end
                } else {
                    shard.next_fresh += 1;
                    shard.next_fresh - 1
                }
            }
        };
        self.used.fetch_add(1, Ordering::Relaxed);
        if index == 0 {
            // Element 0 is the null handle: leave it unused for good.
            drop(shard);
            self.used.fetch_sub(1, Ordering::Relaxed);
            return self.allocate(shard_hint);
        }
        Ok(Handle(index))
    }

    /// Gives `handle` back. The caller holds the only path to it.
    pub fn release(&self, handle: Handle, shard_hint: usize) {
        debug_assert!(!handle.is_null());
        self.shards[shard_hint % SHARD_COUNT].0.lock().free.push(handle.0);
        self.used.fetch_sub(1, Ordering::Relaxed);
    }

    /// The address of element `handle`, which was allocated here.
    #[inline]
    #[must_use]
    pub fn resolve(&self, handle: Handle) -> NonNull<T> {
        debug_assert!(!handle.is_null());
        let stage = (handle.0 >> self.elements_per_stage_log2) as usize;
        let index = (handle.0 & ((1 << self.elements_per_stage_log2) - 1)) as usize;
        let base = self.stages[stage].load(Ordering::Acquire);
        debug_assert!(!base.is_null());
        // SAFETY: a handle is only ever made for an element of an allocated stage, and stages are freed with the
        // arena; `index` is below the stage's element count by the mask.
        unsafe { NonNull::new_unchecked(base.add(index)) }
    }

    /// Elements handed out and not given back.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Number of allocated stages.
    #[must_use]
    pub fn stage_count(&self) -> u32 {
        self.stage_count.load(Ordering::Relaxed)
    }

    fn layout(&self) -> Layout {
        let bytes = size_of::<T>() << self.elements_per_stage_log2;
        Layout::from_size_align(bytes, 4096).expect("a stage is at most 1 GiB, aligned to a page")
    }

    /// Reserves [`RUN_LENGTH`] fresh elements and gives the first one's index.
    fn fresh_run(&self) -> Result<u32, Exhausted> {
        let mut next = self.grow.lock();
        let count = self.stage_count.load(Ordering::Relaxed);
        let capacity = u64::from(count) << self.elements_per_stage_log2;
        if u64::from(*next) + u64::from(RUN_LENGTH) > capacity {
            if count as usize == STAGE_COUNT_MAX
                || capacity > u64::from(u32::MAX) - (1 << self.elements_per_stage_log2)
            {
                return Err(Exhausted);
            }
            // SAFETY: the layout has a size above zero.
            let stage = unsafe { alloc_zeroed(self.layout()) };
            if stage.is_null() {
                return Err(Exhausted);
            }
            self.stages[count as usize].store(stage.cast(), Ordering::Release);
            self.stage_count.store(count + 1, Ordering::Relaxed);
        }
        let start = *next;
        *next += RUN_LENGTH;
        Ok(start)
    }
}

impl<T: Zeroable> Drop for Arena<T> {
    fn drop(&mut self) {
        let layout = self.layout();
        for stage in &self.stages {
            let base = stage.load(Ordering::Acquire);
            if !base.is_null() {
                // SAFETY: allocated in `fresh_run` with the same layout, freed once, here.
                unsafe { dealloc(base.cast(), layout) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[derive(Clone, Copy)]
    struct Cell64([u64; 8]);
    // SAFETY: an array of integers.
    unsafe impl Zeroable for Cell64 {}

    #[test]
    fn handles_are_unique_and_reused_after_release() {
        let arena = Arena::<Cell64>::new(64 * 512);
        let mut seen = HashSet::new();
        let handles: Vec<Handle> = (0..2000).map(|hint| arena.allocate(hint).expect("room")).collect();
        for handle in &handles {
            assert!(!handle.is_null());
            assert!(seen.insert(handle.0), "handle {} given twice", handle.0);
            // SAFETY: the test owns every handle.
            unsafe { arena.resolve(*handle).as_mut().0[0] = u64::from(handle.0) };
        }
        for handle in &handles {
            // SAFETY: as above.
            assert_eq!(unsafe { arena.resolve(*handle).as_ref().0[0] }, u64::from(handle.0));
        }
        assert_eq!(arena.used(), 2000);
        let stages = arena.stage_count();
        for (hint, handle) in handles.iter().enumerate() {
            arena.release(*handle, hint);
        }
        assert_eq!(arena.used(), 0);
        for hint in 0..2000 {
            arena.allocate(hint).expect("room");
        }
        assert_eq!(arena.stage_count(), stages);
    }

    #[test]
    fn a_full_arena_says_so() {
        let arena = Arena::<Cell64>::new(64 * 256);
        let mut count = 0;
        while arena.allocate(0).is_ok() {
            count += 1;
        }
        assert_eq!(count, 256 * STAGE_COUNT_MAX - 1);
        assert_eq!(arena.allocate(0), Err(Exhausted));
    }
}
