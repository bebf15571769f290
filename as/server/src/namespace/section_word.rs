//! A word that tells whether a thread is in a section, and whether it has left an earlier one. Only that thread
//! writes it.
//!
//! The word protects state that another thread hides, such as the fact that a partition is in service. A thread
//! enters its section, then reads the state. The other thread hides the state, then checks which threads are inside.
//! Each has a fence between its two steps, so at least one sees the other: either the entering thread finds the state
//! hidden, or the hiding thread sees it inside.
//!
//! `tests/loom` runs the code of this file through all orders of its steps, so it uses nothing else of the crate.

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, fence};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, fence};

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

/// Counts the beginnings and ends of sections: odd inside of one.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct SectionWord(AtomicU64);

/// A word as it was at some moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SectionState(u64);

impl SectionWord {
    /// Enters a section. Only the word's own thread calls this, while it is in no section. Either this thread then
    /// finds the state hidden, or the hiding thread sees this thread inside.
    #[inline]
    pub(crate) fn enter(&self) {
        let before = self.0.load(Relaxed);
        debug_assert!(before.is_multiple_of(2), "a thread is in one section at a time");
        // A thread that sees this store also sees everything that was done before the section was left.
        self.0.store(before + 1, Release);
        fence(SeqCst);
    }

    /// Leaves the section that the thread is in.
    #[inline]
    pub(crate) fn leave(&self) {
        let before = self.0.load(Relaxed);
        debug_assert!(!before.is_multiple_of(2), "who leaves a section is in one");
        self.0.store(before + 1, Release);
    }

    /// The present state. Called by a thread that has [hidden](hide) something.
    pub(crate) fn state(&self) -> SectionState {
        SectionState(self.0.load(Acquire))
    }

    /// Whether the thread has left the section that it was in when it had the state `seen`; true if it was in none.
    pub(crate) fn has_left(&self, seen: SectionState) -> bool {
        seen.0.is_multiple_of(2) || self.state() != seen
    }
}

/// The fence between hiding something and checking who is inside.
pub(crate) fn hide() {
    fence(SeqCst);
}
