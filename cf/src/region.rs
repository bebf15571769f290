//! A large range of zeroed memory. Many threads write to it, each in a part of its own.
//!
//! The kernel backs it page by page on first use, or [before it](Region::prepare); pages can be returned while the addresses stay valid.

use std::io;
use std::ptr::NonNull;

#[cfg(not(miri))]
use memmap2::UncheckedAdvice;
use memmap2::{MmapOptions, MmapRaw};

use crate::huge_pages::{self, HUGE_PAGE_SIZE};

const PAGE_SIZE: usize = 4096;

/// The memory, which begins at a huge page if it is large enough for one. Its owner decides which thread may access
/// which part at which time, so the accessors are unsafe.
pub struct Region {
    /// First byte, in `map`. All accesses use it; references to the whole map do not occur.
    base: NonNull<u8>,
    size: usize,
    /// Raw, because the length of a `MmapMut` can only be read with a borrow of all its bytes, while other
    /// threads write to some.
    map: MmapRaw,
}

// SAFETY: the region is plain bytes. Every access uses the unsafe accessors, whose callers promise that no
// two threads access the same part at once unless both only read.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Makes a region of `size` zeroed bytes; `None` if the system has no such address space left. The bytes
    /// take no memory before their first use, and the system reserves none for them.
    #[must_use]
    pub fn new(size: usize) -> Option<Self> {
        if size == 0 {
            return None;
        }
        let slack = if size < HUGE_PAGE_SIZE { 0 } else { HUGE_PAGE_SIZE };
        let mut options = MmapOptions::new();
        options.len(size.checked_add(slack)?);
        #[cfg(not(miri))]
        options.no_reserve_swap();
        let map = MmapRaw::from(options.map_anon().ok()?);
        let start = map.as_mut_ptr();
        let first = if slack == 0 { start } else { start.map_addr(|at| at.next_multiple_of(HUGE_PAGE_SIZE)) };
        Some(Region { base: NonNull::new(first)?, size, map })
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The bytes `offset..offset + size`.
    ///
    /// # Safety
    /// No thread writes to them during the life of the slice.
    ///
    /// # Panics
    /// If they are not all inside the region.
    #[inline]
    #[must_use]
    pub unsafe fn slice(&self, offset: usize, size: usize) -> &[u8] {
        self.check(offset, size);
        // SAFETY: inside one live mapping (checked), initialised (zeroed), not written to (caller).
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset), size) }
    }

    /// Hints that the bytes `offset..offset + size` will be used soon.
    #[inline]
    pub fn prefetch(&self, offset: usize, size: usize) {
        crate::prefetch::bytes(self.base.as_ptr().wrapping_add(offset), size);
    }

    /// Backs the bytes `offset..offset + size` with huge pages, in time before they are used. Their content stays.
    ///
    /// # Panics
    /// If they are not all inside the region.
    pub fn prepare(&self, offset: usize, size: usize) {
        self.check(offset, size);
        huge_pages::prepare(self.base.as_ptr().wrapping_add(offset), size);
    }

    /// Turns the small pages of `offset..offset + HUGE_PAGE_SIZE` into a huge page, as
    /// [`huge_pages::collapse`] does. `offset` is a multiple of [`HUGE_PAGE_SIZE`].
    ///
    /// # Errors
    /// When the system cannot do this, or has no huge page left.
    ///
    /// # Panics
    /// If `offset` is no such multiple, or they are not all inside the region.
    pub fn collapse(&self, offset: usize) -> io::Result<()> {
        self.check(offset, HUGE_PAGE_SIZE);
        assert!(offset.is_multiple_of(HUGE_PAGE_SIZE), "a huge page begins at its multiple");
        huge_pages::collapse(self.base.as_ptr().wrapping_add(offset))
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Safety
    /// No other thread reads or writes that part during the call, and no slice of it is alive.
    ///
    /// # Panics
    /// If they do not fit in the region.
    #[inline]
    pub unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: the target is inside one live mapping (checked) and used by no other thread (caller), so it
        // cannot overlap `bytes`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.as_ptr().add(offset), bytes.len()) };
    }

    /// Returns the pages of `offset..offset + size` to the system; they read as zeros afterwards.
    ///
    /// # Safety
    /// Same as [`write`](Self::write).
    pub unsafe fn discard(&self, offset: usize, size: usize) {
        self.check(offset, size);
        assert!(
            offset.is_multiple_of(PAGE_SIZE) && size.is_multiple_of(PAGE_SIZE),
            "pages are discarded as a whole"
        );
        #[cfg(not(miri))]
        {
            let at = self.base.as_ptr().addr() - self.map.as_ptr().addr() + offset;
            // SAFETY: these are whole pages of this region's private anonymous mapping (checked); they become
            // zeros, and the caller ensures that no thread accesses them meanwhile.
            if unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, at, size) }.is_ok() {
                return;
            }
        }
        // The system does not take back pages that are locked into memory. SAFETY: inside one live mapping
        // (checked), and used by no other thread (caller).
        unsafe { std::ptr::write_bytes(self.base.as_ptr().add(offset), 0, size) };
    }

    /// Bytes of memory that the system has given to the region; 0 if it does not report it.
    #[cfg(test)]
    pub(crate) fn resident_size(&self) -> usize {
        if cfg!(miri) {
            return 0;
        }
        let mut pages = vec![0u8; self.size() / PAGE_SIZE];
        // SAFETY: the mapping is live, and `pages` has a byte for each of its pages.
        let result = unsafe { libc::mincore(self.base.as_ptr().cast(), self.size(), pages.as_mut_ptr()) };
        assert_eq!(result, 0);
        pages.iter().filter(|page| **page & 1 != 0).count() * PAGE_SIZE
    }

    #[inline]
    fn check(&self, offset: usize, size: usize) {
        let end = self.size;
        assert!(offset <= end && size <= end - offset, "access beyond the region");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_regions_begin_at_a_huge_page() {
        for size in [HUGE_PAGE_SIZE, 3 * HUGE_PAGE_SIZE + PAGE_SIZE] {
            let regions = [(); 3].map(|()| Region::new(size).expect("memory"));
            assert!(regions.iter().all(|region| region.base.addr().get().is_multiple_of(HUGE_PAGE_SIZE)));
            assert!(regions.iter().all(|region| region.size() == size));
            // SAFETY: one thread, and no slice is alive during a write.
            unsafe {
                regions[0].write(size - 5, b"hello");
                assert_eq!(regions[0].slice(size - 5, 5), b"hello");
                let last_page = (size - 1) / PAGE_SIZE * PAGE_SIZE;
                regions[0].discard(last_page, PAGE_SIZE);
                assert_eq!(regions[0].slice(size - 5, 5), [0; 5]);
            }
        }
        assert!(Region::new(usize::MAX).is_none());
    }

    #[test]
    fn discarded_pages_read_as_zeros() {
        let region = Region::new(16 * PAGE_SIZE).expect("memory");
        // SAFETY: one thread, and no slice is alive during a write.
        unsafe {
            region.write(PAGE_SIZE, b"hello");
            assert_eq!(region.slice(PAGE_SIZE, 5), b"hello");
            region.discard(PAGE_SIZE, PAGE_SIZE);
            assert_eq!(region.slice(PAGE_SIZE, 5), [0; 5]);
        }
    }

    #[test]
    fn a_region_takes_memory_only_while_it_is_touched() {
        const SIZE: usize = if cfg!(miri) { 16 * PAGE_SIZE } else { 64 << 20 };
        let region = Region::new(SIZE).expect("memory");
        let resident_at_first = region.resident_size();
        // SAFETY: one thread, and no slice is alive during a write.
        unsafe { region.write(0, &vec![7; SIZE]) };
        let resident_when_full = region.resident_size();
        // SAFETY: as above.
        unsafe { region.discard(PAGE_SIZE, SIZE - PAGE_SIZE) };
        if !cfg!(miri) {
            assert_eq!((resident_at_first, resident_when_full), (0, SIZE));
            assert_eq!(region.resident_size(), PAGE_SIZE);
        }
        // SAFETY: as above.
        let bytes = unsafe { region.slice(0, SIZE) };
        assert!(
            bytes[..PAGE_SIZE].iter().all(|byte| *byte == 7)
                && bytes[PAGE_SIZE..].iter().all(|byte| *byte == 0)
        );
    }

    #[test]
    #[should_panic(expected = "beyond the region")]
    fn access_beyond_the_end_is_refused() {
        let region = Region::new(PAGE_SIZE).expect("memory");
        // SAFETY: the call panics before it accesses any memory.
        unsafe { region.write(PAGE_SIZE - 2, b"abc") };
    }
}
