//! Whether a thread is in a section, and whether it has left the one that it was in: one word, which it alone writes.
//!
//! It works together with something that is hidden: a thread enters, then looks for it; whoever hides it looks
//! afterwards who is inside. Between the two steps of each there is a fence, so one of them sees the other: either
//! the thread does not find what is hidden, or it is seen to be inside.
//!
//! `tests/loom` runs the code of this file through all orders of its steps. So it uses nothing of the rest of the
//! crate.

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, fence};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, fence};

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

/// Counts the ends of sections and their beginnings: odd inside of one.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct SectionWord(AtomicU64);

/// A word as it was at some moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SectionState(u64);

impl SectionWord {
    /// The thread whose word this is enters a section, being in none. Either it sees what was hidden before, or the one
    /// who hides sees that it is inside.
    #[inline]
    pub(crate) fn enter(&self) {
        let before = self.0.load(Relaxed);
        debug_assert!(before.is_multiple_of(2), "a thread is in one section at a time");
        // A thread that sees this store also sees everything that was done before the section was left.
        self.0.store(before + 1, Release);
        fence(SeqCst);
    }

    /// The thread leaves the section that it is in.
    #[inline]
    pub(crate) fn leave(&self) {
        let before = self.0.load(Relaxed);
        debug_assert!(!before.is_multiple_of(2), "who leaves a section is in one");
        self.0.store(before + 1, Release);
    }

    /// The present state. Called by who has [hidden](hide) something.
    pub(crate) fn state(&self) -> SectionState {
        SectionState(self.0.load(Acquire))
    }

    /// Whether the thread has left the section that it was in when it had this state, if it was in one.
    pub(crate) fn has_left(&self, seen: SectionState) -> bool {
        seen.0.is_multiple_of(2) || self.state() != seen
    }
}

/// Stands between hiding something and asking who is inside.
pub(crate) fn hide() {
    fence(SeqCst);
}
