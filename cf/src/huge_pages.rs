//! Huge pages for large tables that are read at random places.
//!
//! An index of a million records has 16,000 pages of 4 KiB, far more than the processor's table of addresses (TLB)
//! holds, but only 32 pages of 2 MiB. Most systems give huge pages only on request (`transparent_hugepage` is
//! `madvise`). The tables fill from their beginning, so that a huge page is soon used as a whole.
//!
//! Where memory is fragmented, the system moves other pages to make a huge one, which takes milliseconds. A thread that
//! serves clients must not wait for that. So a thread of its own [prepares](prepare) the pages that a growing table
//! needs next; a page that is needed earlier is a small one. A table that is used at random places from its beginning is
//! [collapsed](collapse) once it is well used.

use std::alloc::Layout;
use std::io;

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

/// Backs the `size` bytes from `base` on with huge pages now, which may take the system milliseconds for each. Their
/// content stays. Pages that were touched before stay small. Ranges smaller than a huge page, and systems that cannot
/// do this (Linux before 5.14), stay as they are.
pub fn prepare(base: *const u8, size: usize) {
    if size < HUGE_PAGE_SIZE || advise(base, size, libc::MADV_HUGEPAGE).is_err() {
        return;
    }
    // In steps, because the system lets no thread map memory during one.
    for offset in (0..size).step_by(HUGE_PAGE_SIZE) {
        let step = HUGE_PAGE_SIZE.min(size - offset);
        if advise(base.wrapping_add(offset), step, libc::MADV_POPULATE_WRITE).is_err() {
            break;
        }
    }
    // The pages stay. If some are given back to the system, it does not make them again by itself (`khugepaged`), and
    // the thread that touches them next gets small ones.
    let _ = advise(base, size, libc::MADV_NOHUGEPAGE);
}

/// Turns the huge page's worth of small pages at `base`, which is aligned to it, into a huge page. Their content stays.
/// Threads that touch them meanwhile wait, for about as long as it takes to copy them.
///
/// # Errors
/// When the system cannot do this (Linux before 6.1), or has no huge page left.
pub fn collapse(base: *const u8) -> io::Result<()> {
    advise(base, HUGE_PAGE_SIZE, libc::MADV_COLLAPSE)
}

/// Advises the system about the whole pages among the `size` bytes from `base` on.
fn advise(base: *const u8, size: usize, advice: libc::c_int) -> io::Result<()> {
    let start = base.addr().next_multiple_of(PAGE_SIZE);
    let end = (base.addr() + size) / PAGE_SIZE * PAGE_SIZE;
    if cfg!(miri) || end <= start {
        return Ok(());
    }
    // SAFETY: the advices used here change which pages are behind the addresses, and no byte of any memory.
    let failed = unsafe { libc::madvise(base.with_addr(start).cast_mut().cast(), end - start, advice) != 0 };
    if !failed {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    crate::detail!(Misc, "no huge pages: {error}");
    Err(error)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::region::Region;

    /// Whether the system has huge pages to request; tests print it if not.
    pub(crate) fn are_available() -> bool {
        let are_available = std::fs::exists("/sys/kernel/mm/transparent_hugepage").is_ok_and(|exists| exists);
        if !are_available {
            eprintln!("this system has no huge pages to request: not tested");
        }
        are_available
    }

    /// Whether the memory at `address` was prepared: such memory gets no further huge pages, see `nh` in proc_pid_smaps(5).
    pub(crate) fn is_prepared_at(address: usize) -> bool {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let mut is_inside = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let parse = |number| usize::from_str_radix(number, 16).ok();
            if let Some((first, end)) = range.and_then(|(first, end)| Some((parse(first)?, parse(end)?))) {
                is_inside = (first..end).contains(&address);
            } else if is_inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                return flags.split(' ').any(|flag| flag == "nh");
            }
        }
        panic!("no mapping at {address:x}");
    }

    #[test]
    fn large_ranges_begin_at_a_huge_page() {
        assert_eq!(layout(4096).map(|layout| layout.align()), Some(PAGE_SIZE));
        assert_eq!(layout(8 << 20).map(|layout| layout.align()), Some(HUGE_PAGE_SIZE));
        assert_eq!(layout(usize::MAX), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "reads /proc")]
    fn prepared_memory_is_there_and_keeps_its_content() {
        if !are_available() {
            return;
        }
        let region = Region::new(8 << 20).expect("memory");
        // SAFETY: nobody else uses the region, and no slice is alive over the write.
        unsafe { region.write(5 << 20, b"hello") };
        // SAFETY: nothing is written any more.
        let at = |offset| unsafe { region.slice(offset, 5) };
        assert!(!is_prepared_at(at(4 << 20).as_ptr().addr()));
        region.prepare(0, 8 << 20);
        assert!(is_prepared_at(at(4 << 20).as_ptr().addr()));
        assert_eq!(region.resident_size(), 8 << 20);
        assert_eq!((at(5 << 20), at(4 << 20)), (&b"hello"[..], &[0; 5][..]));
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the system for pages")]
    fn collapsed_pages_keep_their_content() {
        let region = Region::new(8 << 20).expect("memory");
        // SAFETY: nobody else uses the region, and no slice is alive over the write.
        unsafe { region.write(0, &vec![7; 8 << 20]) };
        // SAFETY: nothing is written any more.
        let start = unsafe { region.slice(0, 1) }.as_ptr();
        let aligned = start.wrapping_add(start.align_offset(HUGE_PAGE_SIZE));
        if let Err(error) = collapse(aligned) {
            eprintln!("this system collapses no pages: {error}");
        }
        // SAFETY: as above.
        assert!(unsafe { region.slice(0, 8 << 20) }.iter().all(|byte| *byte == 7));
    }
}
