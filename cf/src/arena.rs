//! Fixed-size elements addressed by 32-bit handles, in stages that are allocated on demand.
//!
//! A stage is one zeroed allocation of the global allocator; the kernel backs it page by page on first use, or with
//! huge pages [before it](Arena::prepare_ahead), so an unused stage costs only address space. Handle 0 is the null handle.
//!
//! # Free elements
//! 64 consecutive elements are a *group*. A group always belongs to the same shard, so elements return to the
//! shard that they came from. Each group has a word with the bits of its free elements, and each shard lists
//! its groups with free elements; these are used before fresh ones. [`Arena::give_back`] returns the memory
//! of completely free groups to the system.
//!
//! # Locking
//! Each shard has a mutex for its lists, the words of its groups and its run of fresh elements; the stage
//! table has one for growth. Order: shard, then stages. The holder of a handle must prevent races on the
//! element's memory.
//!
//! # Cache lines
//! Fields that change with every allocation (shards) or occasionally (`grow`) do not share a cache line with those that
//! every access reads (`stages`, `elements_per_stage_log2`).

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::huge_pages::{self, HUGE_PAGE_SIZE};
use crate::zeroed::{self, Zeroable};

pub const STAGE_COUNT_MAX: usize = if cfg!(miri) { 32 } else { 256 };
/// Number of shards of the free list; a power of two.
const SHARD_COUNT: usize = 16;
/// Number of fresh elements that a shard takes at a time.
const RUN_LENGTH: u32 = 256;
/// Elements in a group; a run holds whole groups.
const GROUP_LENGTH: u32 = u64::BITS;
const PAGE_SIZE: usize = 4096;
/// Most bytes that are prepared ahead of their use.
const PREPARED_MAX: usize = 16 << 20;
/// Groups that [`Arena::give_back`] checks under one lock.
const PORTION: usize = 1024;

/// Address of an element; 0 means none. Only an arena makes other handles.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(transparent)]
pub struct Handle(u32);

impl Handle {
    /// No element.
    pub const NULL: Handle = Handle(0);

    /// Whether this is the null handle.
    #[inline]
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }
}

/// A [`Handle`] shared by threads; zeros are [`Handle::NULL`].
#[derive(Default)]
#[repr(transparent)]
pub struct AtomicHandle(AtomicU32);

impl AtomicHandle {
    #[inline]
    #[must_use]
    pub fn load(&self, order: Ordering) -> Handle {
        Handle(self.0.load(order))
    }

    #[inline]
    pub fn store(&self, handle: Handle, order: Ordering) {
        self.0.store(handle.0, order);
    }
}

// SAFETY: an integer, whose zero is the null handle.
unsafe impl Zeroable for AtomicHandle {}

#[derive(Default)]
struct ShardState {
    /// Groups with free elements, each listed once. The last one supplies the next element.
    open: Vec<u32>,
    /// Groups without elements whose memory was returned to the system. When needed, the last one becomes
    /// open again.
    returned: Vec<u32>,
    next_fresh: u32,
    fresh_end: u32,
}

#[repr(align(128))]
#[derive(Default)]
struct Shard {
    state: Mutex<ShardState>,
    /// Elements taken from this shard minus those returned to it; may be negative. Changed only under
    /// `state`.
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

/// How far fresh elements have memory.
#[derive(Default)]
struct Prepared {
    /// The next fresh element at the last call.
    last_next: u32,
    /// Elements of the present stage before this one have memory; it may lie in an earlier stage.
    end: u64,
}

/// The arena. `T` is the element.
pub struct Arena<T: Zeroable> {
    stages: [AtomicPtr<T>; STAGE_COUNT_MAX],
    stage_count: AtomicU32,
    /// For each stage, the words of its groups, with a bit for each free element. Changed only under the lock of the
    /// group's shard.
    free_bits: [OnceLock<Box<[AtomicU64]>>; STAGE_COUNT_MAX],
    /// The next fresh element.
    grow: OwnLine<Mutex<u32>>,
    shards: [Shard; SHARD_COUNT],
    given_back_bytes: AtomicU64,
    prepared: OwnLine<Mutex<Prepared>>,
    elements_per_stage_log2: u32,
    owned: PhantomData<T>,
}

/// The arena has no stage left.
#[derive(Debug, PartialEq, Eq)]
pub struct Exhausted;

impl<T: Zeroable> Arena<T> {
    /// Bytes of a group.
    const GROUP_SIZE: usize = size_of::<T>() * GROUP_LENGTH as usize;

    /// An empty arena whose stages have `stage_size` bytes, a power of two and a multiple of the element size.
    ///
    /// # Panics
    /// If `stage_size` is invalid. The configuration table excludes that.
    #[must_use]
    pub fn new(stage_size: u64) -> Self {
        let elements = stage_size / size_of::<T>() as u64;
        assert!(elements.is_power_of_two() && elements >= u64::from(RUN_LENGTH) && elements <= 1 << 24);
        const { assert!(Self::GROUP_SIZE.is_multiple_of(PAGE_SIZE), "a group has whole pages") };
        Arena {
            stages: [const { AtomicPtr::new(ptr::null_mut()) }; STAGE_COUNT_MAX],
            stage_count: AtomicU32::new(0),
            free_bits: [const { OnceLock::new() }; STAGE_COUNT_MAX],
            grow: OwnLine(Mutex::new(0)),
            shards: std::array::from_fn(|_| Shard::default()),
            given_back_bytes: AtomicU64::new(0),
            prepared: OwnLine(Mutex::default()),
            elements_per_stage_log2: elements.trailing_zeros(),
            owned: PhantomData,
        }
    }

    /// Takes a free element of the shard that `shard_hint` selects, or a fresh one. Its content is what the
    /// last owner left, or zeros.
    ///
    /// # Errors
    /// [`Exhausted`] when all stages are full.
    pub fn allocate(&self, shard_hint: usize) -> Result<Handle, Exhausted> {
        let shard = &self.shards[shard_hint % SHARD_COUNT];
        let mut state = shard.state.lock();
        let index = loop {
            let index = self.next_index(&mut state)?;
            // Element 0 is the null handle and is never used.
            if index != 0 {
                break index;
            }
        };
        shard.add_used(1);
        Ok(Handle(index))
    }

    fn next_index(&self, state: &mut ShardState) -> Result<u32, Exhausted> {
        if state.open.is_empty()
            && let Some(group) = state.returned.pop()
        {
            state.open.push(group);
        }
        if let Some(&group) = state.open.last() {
            let word = self.free_bits(group);
            let bits = word.load(Ordering::Relaxed);
            debug_assert_ne!(bits, 0, "an open group has free elements");
            let rest = bits & bits.wrapping_sub(1);
            word.store(rest, Ordering::Relaxed);
            if rest == 0 {
                state.open.pop();
            } else {
                self.prefetch_for_write(group * GROUP_LENGTH + rest.trailing_zeros());
            }
            return Ok(group * GROUP_LENGTH + bits.trailing_zeros());
        }
        if state.next_fresh == state.fresh_end {
            let start = self.fresh_run()?;
            state.fresh_end = start + (RUN_LENGTH - 1);
            state.next_fresh = start;
            // The last element of the run is taken at once, because `fresh_end` must not overflow u32.
            return Ok(state.fresh_end);
        }
        state.next_fresh += 1;
        self.prefetch_for_write(state.next_fresh);
        Ok(state.next_fresh - 1)
    }

    /// Returns `handle` with the hint of its allocation. The caller has the only path to the element.
    pub fn release(&self, handle: Handle, shard_hint: usize) {
        debug_assert!(!handle.is_null());
        let shard = &self.shards[shard_hint % SHARD_COUNT];
        let group = handle.0 / GROUP_LENGTH;
        let word = self.free_bits(group);
        let mut state = shard.state.lock();
        let bits = word.load(Ordering::Relaxed);
        let bit = 1 << (handle.0 % GROUP_LENGTH);
        debug_assert_eq!(bits & bit, 0, "an element is released once");
        word.store(bits | bit, Ordering::Relaxed);
        if bits == 0 {
            state.open.push(group);
        }
        shard.add_used(-1);
    }

    /// The word of `group`, one of whose elements was handed out.
    #[inline]
    fn free_bits(&self, group: u32) -> &AtomicU64 {
        let groups_per_stage_log2 = self.elements_per_stage_log2 - GROUP_LENGTH.trailing_zeros();
        let (stage, index) = (group >> groups_per_stage_log2, group & ((1 << groups_per_stage_log2) - 1));
        let words = self.free_bits[stage as usize].get().expect("the stage was allocated with its words");
        &words[index as usize]
    }

    /// Returns the memory of groups without elements to the system, at most about `bytes_max`; returns the
    /// number of bytes. Memory in constant use is not affected, if the calls are rare.
    ///
    /// A shard is locked only briefly, and not while the system takes the memory.
    pub fn give_back(&self, bytes_max: usize) -> usize {
        let mut bytes = 0;
        for shard in &self.shards {
            let mut end = shard.state.lock().open.len();
            while end != 0 && bytes < bytes_max {
                let mut idle;
                (idle, end) = self.take_idle(&mut shard.state.lock().open, end);
                if idle.is_empty() {
                    continue;
                }
                idle.sort_unstable();
                let is_given = idle.chunk_by(|group, next| group + 1 == *next).all(|run| self.discard(run));
                let mut state = shard.state.lock();
                if !is_given {
                    // The system does not take back locked memory (mlock).
                    state.open.append(&mut idle);
                    return bytes;
                }
                let given = idle.len() * Self::GROUP_SIZE;
                state.returned.append(&mut idle);
                drop(state);
                self.given_back_bytes.fetch_add(given as u64, Ordering::Relaxed);
                bytes += given;
            }
        }
        bytes
    }

    /// Takes groups without elements out of `open`, checking the last `PORTION` groups before `end`. Returns
    /// these groups, and the end of the next check.
    fn take_idle(&self, open: &mut Vec<u32>, end: usize) -> (Vec<u32>, usize) {
        let end = end.min(open.len());
        let start = end.saturating_sub(PORTION);
        let mut idle = Vec::new();
        for at in (start..end).rev() {
            if self.free_bits(open[at]).load(Ordering::Relaxed) == u64::MAX {
                idle.push(open.swap_remove(at));
            }
        }
        (idle, start)
    }

    /// Returns the memory of `groups`, which are consecutive and in no list, to the system. The memory then
    /// reads as zeros.
    fn discard(&self, groups: &[u32]) -> bool {
        let [first, ..] = groups else { return true };
        let (stage, index) = self.place(Handle(first * GROUP_LENGTH));
        // SAFETY: the group has been handed out, so its stage exists, and `index` is inside it.
        let start = unsafe { self.stages[stage].load(Ordering::Acquire).add(index) };
        let size = groups.len() * Self::GROUP_SIZE;
        // SAFETY: these are whole pages of a stage, which is private anonymous memory of this arena. Their
        // elements are free, and in no list from which they could be handed out, so no thread accesses them.
        cfg!(not(miri)) && unsafe { libc::madvise(start.cast(), size, libc::MADV_DONTNEED) } == 0
    }

    /// Bytes returned to the system so far.
    #[must_use]
    pub fn given_back_bytes(&self) -> u64 {
        self.given_back_bytes.load(Ordering::Relaxed)
    }

    /// The address of element `handle`.
    ///
    /// # Safety
    /// [`allocate`](Self::allocate) of this arena returned `handle`, and that happened before this call: the
    /// caller got the handle from it, or read it from a place that is accessed only under a lock which the
    /// caller holds.
    #[inline]
    #[must_use]
    pub unsafe fn resolve(&self, handle: Handle) -> NonNull<T> {
        debug_assert!(!handle.is_null());
        let (stage, index) = self.place(handle);
        let base = self.stages[stage].load(Ordering::Acquire);
        debug_assert!(!base.is_null());
        // SAFETY: this arena returned the handle, so its stage was allocated before, and the caller sees
        // that. Stages are freed with the arena. The mask keeps `index` below the element count of the stage.
        unsafe { NonNull::new_unchecked(base.add(index)) }
    }

    /// The address of element `handle`, allocated or free; `None` if the arena has no memory there. Any handle is allowed.
    #[inline]
    #[must_use]
    pub fn find(&self, handle: Handle) -> Option<NonNull<T>> {
        let (stage, index) = self.place(handle);
        let base = NonNull::new(self.stages.get(stage)?.load(Ordering::Acquire))?;
        // SAFETY: the stage exists, and the mask keeps `index` below its element count.
        Some(unsafe { base.add(index) })
    }

    /// Hints that element `handle` will be used soon. Any handle is allowed.
    #[inline]
    pub fn prefetch(&self, handle: Handle) {
        let (stage, index) = self.place(handle);
        if let Some(base) = self.stages.get(stage) {
            crate::prefetch::line(base.load(Ordering::Relaxed).wrapping_add(index));
        }
    }

    /// Hints that the element of `index` is handed out next: its user writes it at once, and would wait for its memory.
    #[inline]
    fn prefetch_for_write(&self, index: u32) {
        let (stage, index) = self.place(Handle(index));
        if let Some(base) = self.stages.get(stage) {
            crate::prefetch::line_for_write(base.load(Ordering::Relaxed).wrapping_add(index));
        }
    }

    /// The number of a handle's stage, and the number of its element in the stage.
    #[inline]
    fn place(&self, handle: Handle) -> (usize, usize) {
        let stage = (handle.0 >> self.elements_per_stage_log2) as usize;
        (stage, (handle.0 & ((1 << self.elements_per_stage_log2) - 1)) as usize)
    }

    /// Number of elements handed out and not returned.
    #[must_use]
    pub fn used(&self) -> u64 {
        let of_shards = self.shards.iter().map(|shard| shard.used.load(Ordering::Relaxed)).sum::<i64>();
        // The sum may be a value that never existed, because allocations go on meanwhile.
        of_shards.max(0) as u64
    }

    /// Number of allocated stages.
    #[must_use]
    pub fn stage_count(&self) -> u32 {
        self.stage_count.load(Ordering::Relaxed)
    }

    fn layout(&self) -> Layout {
        let bytes = size_of::<T>() << self.elements_per_stage_log2;
        huge_pages::layout(bytes).expect("a stage is at most 1 GiB")
    }

    /// If fresh elements were taken since the last call, backs the next ones with huge pages: twice as many as were
    /// taken, within the present stage. Returns whether any were taken. Called by one thread, every few milliseconds
    /// while it returns true.
    pub fn prepare_ahead(&self) -> bool {
        let mut prepared = self.prepared.0.lock();
        let next = *self.grow.0.lock();
        let taken = next.wrapping_sub(std::mem::replace(&mut prepared.last_next, next));
        if taken == 0 {
            return false;
        }
        let (next, size) = (u64::from(next), size_of::<T>() as u64);
        let stage = (next - 1) >> self.elements_per_stage_log2;
        let base = self.stages[stage as usize].load(Ordering::Acquire).cast::<u8>();
        let stage_start = stage << self.elements_per_stage_log2;
        let huge_page = HUGE_PAGE_SIZE as u64;
        // Bytes of the stage. The huge page that is in use has small ones already.
        let in_use = ((next - stage_start) * size).next_multiple_of(huge_page);
        let start = in_use.max(prepared.end.saturating_sub(stage_start) * size);
        let ahead = (2 * u64::from(taken) * size).clamp(huge_page, PREPARED_MAX as u64);
        let end = (in_use + ahead).next_multiple_of(huge_page).min(self.layout().size() as u64);
        for offset in (start..end).step_by(HUGE_PAGE_SIZE) {
            huge_pages::prepare(base.wrapping_add(offset as usize), HUGE_PAGE_SIZE);
            prepared.end = stage_start + (offset + huge_page) / size;
        }
        true
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
            let groups = 1 << self.elements_per_stage_log2 >> GROUP_LENGTH.trailing_zeros();
            self.free_bits[count as usize].get_or_init(|| zeroed::boxed_slice(groups));
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
    #[cfg_attr(miri, ignore = "reads /proc")]
    fn elements_that_come_next_have_huge_pages() {
        const STAGE_SIZE: usize = 8 << 20;
        if !huge_pages::tests::are_available() {
            return;
        }
        let arena = Arena::<Cell64>::new(STAGE_SIZE as u64);
        assert!(!arena.prepare_ahead(), "nothing was taken");
        let prepared = |stage: usize| {
            let base = arena.stages[stage].load(Ordering::Relaxed).addr();
            [0, 1, 2, 3].map(|part| huge_pages::tests::is_prepared_at(base + part * HUGE_PAGE_SIZE))
        };
        let take =
            |count: usize| (0..count).for_each(|_| assert!(!arena.allocate(0).expect("room").is_null()));
        take(1);
        assert_eq!(prepared(0), [false; 4]);
        assert!(arena.prepare_ahead());
        assert_eq!(prepared(0), [false, true, false, false], "the first part has small pages, on first use");
        assert!(!arena.prepare_ahead(), "nothing was taken since");
        take(HUGE_PAGE_SIZE / 64);
        assert!(arena.prepare_ahead());
        assert_eq!(prepared(0), [false, true, true, true], "twice as many as were taken, within the stage");
        take(3 * HUGE_PAGE_SIZE / 64);
        assert_eq!(arena.stage_count(), 2);
        assert!(arena.prepare_ahead());
        assert_eq!(prepared(1), [false, true, true, true]);
    }

    #[test]
    fn memory_of_deleted_elements_is_given_back() {
        const COUNT: usize = if cfg!(miri) { 1024 } else { 100_000 };
        let arena = Arena::<Cell64>::new(64 * 4096);
        let fill = || -> Vec<Handle> {
            let handles: Vec<Handle> = (0..COUNT).map(|hint| arena.allocate(hint).expect("room")).collect();
            for handle in &handles {
                // SAFETY: the arena gave the handle to this test, which uses one element at a time.
                unsafe { arena.resolve(*handle).as_mut().0 = [u64::from(handle.0); 8] };
            }
            handles
        };
        let handles = fill();
        assert_eq!(arena.give_back(usize::MAX), 0, "nothing is free");
        // A few elements stay, each in a different group.
        let (kept, released): (Vec<_>, Vec<_>) =
            handles.iter().enumerate().partition(|(hint, _)| hint % 9000 == 0);
        let mut seed = 7u64;
        let mut released = released;
        released.sort_by_cached_key(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 20
        });
        for (hint, handle) in &released {
            arena.release(**handle, *hint);
        }
        let bytes = arena.give_back(usize::MAX);
        assert_eq!(arena.given_back_bytes(), bytes as u64);
        assert_eq!(arena.give_back(usize::MAX), 0, "it is gone");
        if !cfg!(miri) {
            assert!(bytes > COUNT * 64 * 9 / 10, "{bytes} bytes of {} were given back", COUNT * 64);
            // SAFETY: the test uses one element at a time; zeros are a value.
            let zeros = |handle: Handle| unsafe { arena.resolve(handle).as_ref() }.0 == [0; 8];
            assert!(released.iter().filter(|(_, handle)| zeros(**handle)).count() > COUNT * 9 / 10);
        }
        for (_, handle) in &kept {
            // SAFETY: as above.
            assert_eq!(unsafe { arena.resolve(**handle).as_ref() }.0, [u64::from(handle.0); 8]);
        }
        // The same elements are handed out again, each once, before any other.
        let stages = arena.stage_count();
        let again: Vec<Handle> =
            released.iter().map(|(hint, _)| arena.allocate(*hint).expect("room")).collect();
        let all: HashSet<u32> =
            again.iter().chain(kept.iter().map(|(_, handle)| *handle)).map(|it| it.0).collect();
        assert_eq!((all.len(), arena.used()), (COUNT, COUNT as u64));
        assert_eq!(all, handles.iter().map(|handle| handle.0).collect());
        assert_eq!(arena.stage_count(), stages);
    }

    #[test]
    fn memory_is_given_back_while_other_threads_allocate() {
        const TURNS: usize = if cfg!(miri) { 1 } else { 60 };
        let arena = Arena::<Cell64>::new(64 * 4096);
        std::thread::scope(|scope| {
            for own in 0..3u64 {
                let arena = &arena;
                scope.spawn(move || {
                    for turn in 0..TURNS as u64 {
                        let value = [own << 32 | turn; 8];
                        let handles: Vec<Handle> =
                            (0..1000).map(|hint| arena.allocate(hint).expect("room")).collect();
                        for handle in &handles {
                            // SAFETY: the arena gave the handle to this thread alone.
                            unsafe { arena.resolve(*handle).as_mut().0 = value };
                        }
                        for (hint, handle) in handles.iter().enumerate() {
                            // SAFETY: as above.
                            assert_eq!(unsafe { arena.resolve(*handle).as_ref() }.0, value);
                            arena.release(*handle, hint);
                        }
                    }
                });
            }
            for _ in 0..TURNS {
                arena.give_back(usize::MAX);
                std::thread::yield_now();
            }
        });
        assert_eq!(arena.used(), 0);
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
