//! Memory for direct I/O: page-aligned buffers of whole pages.
//!
//! Devices opened with `O_DIRECT` refuse transfers with other memory, so [`crate::sys::block`] accepts only
//! this type. A buffer has one owner and no lock.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Alignment of a buffer, and the unit of its size; the largest minimum transfer of any device.
pub const ALIGNMENT: usize = 4096;

/// A buffer of fixed size that begins on a multiple of [`ALIGNMENT`]. Dereferences to its bytes.
pub struct AlignedBuf {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: the buffer owns its memory, which is plain bytes.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared references only read.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// Zeros, at least `size` bytes and at least one page: `size` is rounded up to a multiple of [`ALIGNMENT`].
    ///
    /// # Panics
    /// When `size` is beyond the address space.
    #[must_use]
    pub fn zeroed(size: usize) -> Self {
        let size = size.max(1).checked_next_multiple_of(ALIGNMENT);
        let layout = size.and_then(|size| Layout::from_size_align(size, ALIGNMENT).ok());
        let Some(layout) = layout else { panic!("buffer larger than the address space") };
        // SAFETY: the layout's size is above zero.
        let Some(base) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        AlignedBuf { base, size: layout.size() }
    }

    /// The bytes.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: one live allocation of `size` initialised bytes, borrowed as long as `self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.size) }
    }

    /// The bytes, mutable.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.size) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: `zeroed` made a layout of the same size and alignment, so it is valid.
        let layout = unsafe { Layout::from_size_align_unchecked(self.size, ALIGNMENT) };
        // SAFETY: allocated with this layout, freed once, here.
        unsafe { dealloc(self.base.as_ptr(), layout) };
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl DerefMut for AlignedBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_whole_zeroed_pages() {
        for (asked, given) in [(0, 4096), (1, 4096), (4096, 4096), (4097, 8192), (8 << 20, 8 << 20)] {
            let mut buffer = AlignedBuf::zeroed(asked);
            assert_eq!(buffer.len(), given);
            assert!(buffer.as_ptr().addr().is_multiple_of(ALIGNMENT));
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer[given - 1] = 7;
            assert_eq!(buffer.as_slice()[given - 1], 7);
        }
    }

    #[test]
    #[should_panic(expected = "larger than the address space")]
    fn absurd_sizes_are_refused() {
        drop(AlignedBuf::zeroed(usize::MAX));
    }
}
