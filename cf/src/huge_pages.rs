//! Huge pages for large tables that are read at random places.
//!
//! An index of a million records has 16,000 pages of 4 KiB, far more than the processor's table of addresses (TLB)
//! holds, but only 32 pages of 2 MiB. Most systems give huge pages only on request (`transparent_hugepage` is
//! `madvise`). The tables fill from their beginning, so that a huge page is soon used as a whole.
//!
//! Where memory is fragmented, the system moves other pages to make a huge one, which takes milliseconds. A thread that
//! serves clients must not wait for that. So a thread of its own [prepares](prepare) the pages that a growing table
//! will need next; a page that is needed earlier is a small one.

use std::alloc::Layout;

/// Size of a huge page of x86-64, and of AArch64 with pages of 4 KiB.
pub const HUGE_PAGE_SIZE: usize = 2 << 20;
const PAGE_SIZE: usize = 4096;

/// A layout for `size` bytes that begins at a page, or at a huge page if it is large enough for one; `None` if `size`
/// is too large.
#[must_use]
pub fn layout(size: usize) -> Option<Layout> {
    let alignment = if size < HUGE_PAGE_SIZE { PAGE_SIZE } else { HUGE_PAGE_SIZE };
    Layout::from_size_align(size, alignment).ok()
}

/// Requests huge pages for the `size` bytes from `base` on. They have an effect on pages that are touched later.
/// Systems without huge pages, and ranges smaller than one, stay as they are.
pub fn request(base: *const u8, size: usize) {
    advise(base, size, libc::MADV_HUGEPAGE);
}

/// Backs the `size` bytes from `base` on with huge pages now, which takes the system up to milliseconds for each. Their
/// content stays.
pub fn prepare(base: *const u8, size: usize) {
    request(base, size);
    advise(base, size, libc::MADV_POPULATE_WRITE);
}

fn advise(base: *const u8, size: usize, advice: libc::c_int) {
    let start = base.addr().next_multiple_of(PAGE_SIZE);
    let end = (base.addr() + size) / PAGE_SIZE * PAGE_SIZE;
    if cfg!(miri) || end < start + HUGE_PAGE_SIZE {
        return;
    }
    // SAFETY: both advices change which pages are behind the addresses, and no byte of any memory.
    let failed = unsafe { libc::madvise(base.with_addr(start).cast_mut().cast(), end - start, advice) != 0 };
    if failed {
        crate::detail!(Misc, "no huge pages: {}", std::io::Error::last_os_error());
    }
}

/// Whether the system has huge pages to request; tests print it if not.
#[cfg(test)]
pub(crate) fn are_available() -> bool {
    let are_available = std::fs::exists("/sys/kernel/mm/transparent_hugepage").is_ok_and(|exists| exists);
    if !are_available {
        eprintln!("this system has no huge pages to request: not tested");
    }
    are_available
}

/// Whether huge pages were requested for `address`, according to proc_pid_smaps(5).
#[cfg(test)]
pub(crate) fn are_requested_at(address: usize) -> bool {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
    let mut is_inside = false;
    for line in maps.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let parse = |number| usize::from_str_radix(number, 16).ok();
        if let Some((first, end)) = range.and_then(|(first, end)| Some((parse(first)?, parse(end)?))) {
            is_inside = (first..end).contains(&address);
        } else if is_inside && let Some(flags) = line.strip_prefix("VmFlags:") {
            return flags.split(' ').any(|flag| flag == "hg");
        }
    }
    panic!("no mapping at {address:x}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Region;

    #[test]
    fn large_ranges_begin_at_a_huge_page() {
        assert_eq!(layout(4096).map(|layout| layout.align()), Some(PAGE_SIZE));
        assert_eq!(layout(8 << 20).map(|layout| layout.align()), Some(HUGE_PAGE_SIZE));
        assert_eq!(layout(usize::MAX), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "reads /proc")]
    fn prepared_regions_and_large_slices_request_huge_pages() {
        if !are_available() {
            return;
        }
        let region = Region::new(8 << 20).expect("memory");
        // SAFETY: nobody writes to the region.
        let middle = unsafe { region.slice(4 << 20, 1) }.as_ptr().addr();
        assert!(!are_requested_at(middle));
        region.prepare(0, 8 << 20);
        assert!(are_requested_at(middle));
        let slice = crate::zeroed::boxed_slice::<std::sync::atomic::AtomicU64>(1 << 20);
        assert!(are_requested_at((&raw const slice[1 << 19]).addr()));
    }
}
