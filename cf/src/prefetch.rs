//! Hints to the processor about memory that will be used soon. They affect speed only.

/// Size of a cache line.
const LINE_SIZE: usize = 64;

/// Starts loading the cache line of `value`, which need not be readable.
#[inline]
pub fn line<T>(value: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address is allowed and changes nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(value.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// As [`line`], for a value that will be written.
#[inline]
pub fn line_for_write<T>(value: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: a prefetch of any address is allowed and changes nothing.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(value.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Starts loading the first `size` bytes from `start`.
#[inline]
pub fn bytes(start: *const u8, size: usize) {
    for offset in (0..size).step_by(LINE_SIZE) {
        line(start.wrapping_add(offset));
    }
}
