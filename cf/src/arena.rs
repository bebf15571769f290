//! Fixed-size elements addressed by 32-bit handles, in stages that are allocated as they fill.
//!
//! A stage is one zeroed allocation of the global allocator; the kernel backs it page by page as elements are
//! first used, so a stage costs address space, not memory. Handle 0 is the null handle. Freed elements are kept
//! in per-shard lists and handed out again before fresh ones.
//!
//! # Locking
//! Each shard has a mutex for its free list and its run of fresh elements; the stage table has one for growing.
//! Order: shard, then stages. Element memory itself is guarded by whoever holds the handle.
//!
//! # Cache lines
//! What changes with every allocation (shards) or now and then (`grow`) does not share a line with what every access
//! to an element reads (`stages`, `elements_per_stage_log2`).

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::zeroed::Zeroable;

/// Most stages an arena can have.
pub const STAGE_COUNT_MAX: usize = if cfg!(miri) { 32 } else { 256 };
/// Shards of the free list; a power of two.
const SHARD_COUNT: usize = 16;
/// Fresh elements a shard takes from the current stage at a time.
const RUN_LENGTH: u32 = 256;

/// Address of an element; 0 is none. Only an arena makes others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(transparent)]
pub struct Handle(u32);

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

/// A place for a [`Handle`] that threads share; zeros are [`Handle::NULL`].
#[derive(Default)]
#[repr(transparent)]
pub struct AtomicHandle(AtomicU32);

impl AtomicHandle {
    /// The handle that is here.
    #[inline]
    #[must_use]
    pub fn load(&self, order: Ordering) -> Handle {
        Handle(self.0.load(order))
    }

    /// Puts `handle` here.
    #[inline]
    pub fn store(&self, handle: Handle, order: Ordering) {
        self.0.store(handle.0, order);
    }
}

// SAFETY: an integer, whose zero is the null handle.
unsafe impl Zeroable for AtomicHandle {}

#[derive(Default)]
struct ShardState {
    free: Vec<u32>,
    next_fresh: u32,
    fresh_end: u32,
}

#[repr(align(128))]
#[derive(Default)]
struct Shard {
    state: Mutex<ShardState>,
    /// Elements taken from this shard less those given back to it, which may be more. Changed only under `state`.
    used: AtomicI64,
}

impl Shard {
    /// Adds to `used`; the caller holds `state`.
    fn add_used(&self, difference: i64) {
        self.used.store(self.used.load(Ordering::Relaxed) + difference, Ordering::Relaxed);
    }
}

/// A value with cache lines of its own.
#[repr(align(128))]
struct OwnLine<V>(V);

/// The arena. `T` is the element.
pub struct Arena<T: Zeroable> {
    stages: [AtomicPtr<T>; STAGE_COUNT_MAX],
    stage_count: AtomicU32,
    /// The next fresh element.
    grow: OwnLine<Mutex<u32>>,
    shards: [Shard; SHARD_COUNT],
    elements_per_stage_log2: u32,
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
            grow: OwnLine(Mutex::new(0)),
            shards: std::array::from_fn(|_| Shard::default()),
            elements_per_stage_log2: elements.trailing_zeros(),
            owned: PhantomData,
        }
    }

    /// Takes an element from the free list that `shard_hint` chooses, or a fresh one. Its content is what the last
    /// owner left, or zeros.
    ///
    /// # Errors
    /// [`Exhausted`] when all stages are full.
    pub fn allocate(&self, shard_hint: usize) -> Result<Handle, Exhausted> {
        let shard = &self.shards[shard_hint % SHARD_COUNT];
        let mut state = shard.state.lock();
        let index = loop {
            let index = self.next_index(&mut state)?;
            // Element 0 is the null handle: leave it unused for good.
            if index != 0 {
                break index;
            }
        };
        shard.add_used(1);
        Ok(Handle(index))
    }

    fn next_index(&self, state: &mut ShardState) -> Result<u32, Exhausted> {
        if let Some(index) = state.free.pop() {
            return Ok(index);
        }
        if state.next_fresh == state.fresh_end {
            let start = self.fresh_run()?;
            state.fresh_end = start + (RUN_LENGTH - 1);
            state.next_fresh = start;
            // The last element of the run is taken at once: `fresh_end` may not overflow u32.
            return Ok(state.fresh_end);
        }
        state.next_fresh += 1;
        Ok(state.next_fresh - 1)
    }

    /// Gives `handle` back. The caller holds the only path to it.
    pub fn release(&self, handle: Handle, shard_hint: usize) {
        debug_assert!(!handle.is_null());
        let shard = &self.shards[shard_hint % SHARD_COUNT];
        let mut state = shard.state.lock();
        state.free.push(handle.0);
        shard.add_used(-1);
    }

    /// The address of element `handle`.
    ///
    /// # Safety
    /// [`allocate`](Self::allocate) of this arena has given `handle`, and that happened before this call: the caller
    /// has it from there, or from where it was stored under a lock that the caller holds.
    #[inline]
    #[must_use]
    pub unsafe fn resolve(&self, handle: Handle) -> NonNull<T> {
        debug_assert!(!handle.is_null());
        let (stage, index) = self.place(handle);
        let base = self.stages[stage].load(Ordering::Acquire);
        debug_assert!(!base.is_null());
        // SAFETY: this arena gave the handle, so its stage was allocated before, and the caller sees that. Stages are
        // freed with the arena. `index` is below the stage's element count by the mask.
        unsafe { NonNull::new_unchecked(base.add(index)) }
    }

    /// Hints that element `handle` will be wanted soon. A handle of any origin does no harm.
    #[inline]
    pub fn prefetch(&self, handle: Handle) {
        let (stage, index) = self.place(handle);
        if let Some(base) = self.stages.get(stage) {
            crate::prefetch::line(base.load(Ordering::Relaxed).wrapping_add(index));
        }
    }

    /// Number of a handle's stage, and of its element therein.
    #[inline]
    fn place(&self, handle: Handle) -> (usize, usize) {
        let stage = (handle.0 >> self.elements_per_stage_log2) as usize;
        (stage, (handle.0 & ((1 << self.elements_per_stage_log2) - 1)) as usize)
    }

    /// Elements handed out and not given back.
    #[must_use]
    pub fn used(&self) -> u64 {
        let of_shards = self.shards.iter().map(|shard| shard.used.load(Ordering::Relaxed)).sum::<i64>();
        // A sum taken while others allocate and release need not be one that ever was.
        of_shards.max(0) as u64
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

    /// Reserves [`RUN_LENGTH`] fresh elements and returns the first one's index.
    fn fresh_run(&self) -> Result<u32, Exhausted> {
        let mut next = self.grow.0.lock();
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
            // SAFETY: the arena gave the handle to this test, which uses one element at a time.
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
