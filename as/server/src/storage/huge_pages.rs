//! Huge pages for the blocks of a memory stripe ([`cf::huge_pages`]): prepared before a block is used, or collapsed when
//! it is full.
//!
//! # Threads
//! All calls come from one thread.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use cf::huge_pages::HUGE_PAGE_SIZE;

use super::WBLOCK_SIZE;
use super::stripe::Stripe;
use super::wblock::{WblockId, WblockState, WblockTable};

/// The first block of a stripe that is prepared before its use. In smaller stripes it would be much memory that is not
/// used yet. The blocks before it are collapsed when they are full, which takes no more memory.
const PREPARED_FROM: u32 = 8;
const HUGE_PAGES_PER_WBLOCK: u32 = WBLOCK_SIZE / HUGE_PAGE_SIZE as u32;

/// How much of a stripe has been given huge pages.
pub(super) struct HugePages {
    /// The block that [`prepare_ahead`](Self::prepare_ahead) found to be the first never used; 0 before the first call.
    prepared: AtomicU32,
    /// The next huge page of the stripe for [`collapse_next`](Self::collapse_next).
    collapsed: AtomicU32,
}

impl Default for HugePages {
    fn default() -> Self {
        // The first block is that of the header.
        HugePages { prepared: AtomicU32::new(0), collapsed: AtomicU32::new(HUGE_PAGES_PER_WBLOCK) }
    }
}

impl HugePages {
    /// Backs the next block that was never used with huge pages, if another one was taken since the last call; returns
    /// whether.
    pub(super) fn prepare_ahead(&self, stripe: &Stripe, wblocks: &WblockTable) -> bool {
        let pristine = wblocks.pristine();
        let last = self.prepared.swap(pristine, Relaxed);
        let is_growing = last != 0 && last != pristine;
        if is_growing && (PREPARED_FROM..wblocks.count()).contains(&pristine) {
            stripe.prepare(WblockId(pristine));
        }
        is_growing
    }

    /// Tries to turn the small pages of the next full block before [`PREPARED_FROM`] into a huge page; returns whether there
    /// was such a block. What cannot be turned now stays as it is: without free huge pages, each try would cost the system
    /// much for nothing.
    pub(super) fn collapse_next(&self, stripe: &Stripe, wblocks: &WblockTable) -> bool {
        loop {
            let page = self.collapsed.load(Relaxed);
            let id = WblockId(page / HUGE_PAGES_PER_WBLOCK);
            if id.0 >= PREPARED_FROM.min(wblocks.pristine()) {
                return false;
            }
            let state = wblocks.state(id);
            if state == WblockState::Current {
                return false;
            }
            self.collapsed.store(page + 1, Relaxed);
            // The memory of a free block may be given back.
            if matches!(state, WblockState::Used | WblockState::Queued) {
                let _ = stripe.collapse(page);
                return true;
            }
        }
    }
}
