//! Large slices of zeroed memory; the kernel backs a page on first use, so an unused part costs only address space.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::sync::atomic::AtomicU64;

/// A type whose all-zero bytes are a valid value.
///
/// # Safety
/// All-zero bytes must be a valid value of the type, and the type must need no drop.
pub unsafe trait Zeroable {}

// SAFETY: an integer.
unsafe impl Zeroable for AtomicU64 {}

/// `count` zeroed values. They cost only address space until they are used.
#[must_use]
pub fn boxed_slice<T: Zeroable>(count: usize) -> Box<[T]> {
    let Ok(layout) = Layout::array::<T>(count) else { panic!("slice larger than the address space") };
    if layout.size() == 0 {
        return Box::new([]);
    }
    // SAFETY: the layout has a size above zero.
    let base = unsafe { alloc_zeroed(layout) }.cast::<T>();
    if base.is_null() {
        handle_alloc_error(layout);
    }
    // SAFETY: `base` was allocated by the global allocator with the layout of `[T; count]`, and zeros are valid values
    // of `T`.
    unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(base, count)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_as_zeros() {
        const COUNT: usize = if cfg!(miri) { 1 << 10 } else { 1 << 20 };
        let slice = boxed_slice::<AtomicU64>(COUNT);
        assert_eq!(slice.len(), COUNT);
        assert!(slice.iter().all(|value| value.load(std::sync::atomic::Ordering::Relaxed) == 0));
        assert!(boxed_slice::<AtomicU64>(0).is_empty());
    }
}
