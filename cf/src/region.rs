//! A large stretch of zeroed memory that many threads write to in parts that do not overlap.
//!
//! The kernel backs it page by page as it is touched; pages can be given back while the addresses stay.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

const PAGE_SIZE: usize = 4096;

/// The memory. Who may touch which part when is for the owner to decide, hence the unsafe accessors.
pub struct Region {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: the region is plain bytes; every access goes through the unsafe accessors, whose callers promise that no
// two threads touch the same part at once unless both only read.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// `size` zeroed bytes, or `None` when the system has no such address space left.
    #[must_use]
    pub fn new(size: usize) -> Option<Self> {
        let layout = Self::layout(size)?;
        // SAFETY: `layout` has a size above zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Region { base, size })
    }

    fn layout(size: usize) -> Option<Layout> {
        (size > 0).then(|| Layout::from_size_align(size, PAGE_SIZE).ok()).flatten()
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The bytes `offset..offset + size`.
    ///
    /// # Safety
    /// Nobody writes to them while the slice lives.
    ///
    /// # Panics
    /// If they are not all inside the region.
    #[inline]
    #[must_use]
    pub unsafe fn slice(&self, offset: usize, size: usize) -> &[u8] {
        self.check(offset, size);
        // SAFETY: inside one live allocation (checked), initialised (zeroed), not written to (caller).
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset), size) }
    }

    /// Hints that the bytes `offset..offset + size` will be wanted soon.
    #[inline]
    pub fn prefetch(&self, offset: usize, size: usize) {
        crate::prefetch::bytes(self.base.as_ptr().wrapping_add(offset), size);
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Safety
    /// Nobody else reads or writes that part meanwhile, and no slice of it is alive.
    ///
    /// # Panics
    /// If they do not fit inside the region.
    #[inline]
    pub unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: the target is inside one live allocation (checked) and exclusively ours (caller), so it cannot
        // overlap `bytes`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.as_ptr().add(offset), bytes.len()) };
    }

    /// Gives the pages of `offset..offset + size` back to the system; they read as zeros afterwards.
    ///
    /// # Safety
    /// As [`write`](Self::write).
    pub unsafe fn discard(&self, offset: usize, size: usize) {
        self.check(offset, size);
        debug_assert!(offset.is_multiple_of(PAGE_SIZE) && size.is_multiple_of(PAGE_SIZE));
        // SAFETY: inside our own private anonymous mapping; MADV_DONTNEED drops the pages' content, which the caller
        // says nobody looks at.
        unsafe { libc::madvise(self.base.as_ptr().add(offset).cast(), size, libc::MADV_DONTNEED) };
    }

    #[inline]
    fn check(&self, offset: usize, size: usize) {
        assert!(offset <= self.size && size <= self.size - offset, "access beyond the region");
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.size) {
            // SAFETY: allocated in `new` with the same layout, freed once, here.
            unsafe { dealloc(self.base.as_ptr(), layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discarded_pages_read_as_zeros() {
        let region = Region::new(16 * PAGE_SIZE).expect("memory");
        // SAFETY: one thread, no slice alive over a write.
        unsafe {
            region.write(PAGE_SIZE, b"hello");
            assert_eq!(region.slice(PAGE_SIZE, 5), b"hello");
            region.discard(PAGE_SIZE, PAGE_SIZE);
            assert_eq!(region.slice(PAGE_SIZE, 5), [0; 5]);
        }
    }

    #[test]
    #[should_panic(expected = "beyond the region")]
    fn access_beyond_the_end_is_refused() {
        let region = Region::new(PAGE_SIZE).expect("memory");
        // SAFETY: panics before touching anything.
        unsafe { region.write(PAGE_SIZE - 2, b"abc") };
    }
}
