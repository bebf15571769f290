//! Sections: stretches of work in which a thread may rely on the partitions that it finds in service, without reserving
//! each.
//!
//! A reservation costs two atomic operations on a cache line that other threads change too. There are 256 KiB of such
//! lines, and reserving was measured as a tenth of the cost of a pipelined read. A section costs one fence for all
//! transactions of a wake-up. In it, each read costs a lookup in a bitmap of 512 bytes and each write one in a table
//! of 4 KiB, which rarely change.
//!
//! In return, a thread that takes a partition out of service waits for every thread in a section, whatever it does
//! there. So sections are for service threads and for short turns of others; work that may take until its deadline
//! reserves.
//!
//! Every committing thread is also in a section of another kind, from its last check that it may commit until after
//! the commit. So a thread that forbids new writes can wait until the commits under way have ended; all later ones
//! check again.
//!
//! # Locks
//! The list of threads is behind a mutex, taken when a thread joins or goes and when a partition is taken out of
//! service.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::section_word::{SectionState, SectionWord, hide};

/// Time between checks whether the last thread has left. Waking a waiter would make leaving more than a store.
const POLL_PERIOD: Duration = Duration::from_millis(1);

/// The threads that carry out transactions in sections.
#[derive(Default)]
pub(super) struct Sections(Mutex<Vec<Arc<SectionWord>>>);

/// The handle with which one thread enters sections. It starts outside; dropping it leaves the section.
pub(crate) struct Section {
    word: Arc<SectionWord>,
    is_inside: bool,
}

impl Section {
    /// Enters a section, unless the thread is in it already.
    #[inline]
    pub(crate) fn enter(&mut self) {
        if !self.is_inside {
            self.is_inside = true;
            self.word.enter();
        }
    }

    /// Enters the section until the returned value is dropped.
    #[inline]
    pub(crate) fn stay(&mut self) -> Inside<'_> {
        self.enter();
        Inside(self)
    }

    /// Leaves the section, if the thread is in it.
    #[inline]
    pub(crate) fn leave(&mut self) {
        if self.is_inside {
            self.is_inside = false;
            self.word.leave();
        }
    }
}

/// Keeps the thread in a section until it is dropped.
pub(crate) struct Inside<'a>(&'a mut Section);

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Sections that threads were in at some moment.
pub(crate) struct Leaving(Vec<(Arc<SectionWord>, SectionState)>);

impl Leaving {
    /// Whether all of them have been left.
    pub(crate) fn is_over(&mut self) -> bool {
        self.0.retain(|(word, state)| !word.has_left(*state));
        self.0.is_empty()
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Sections {
    /// Registers a thread that will carry out transactions.
    pub(super) fn join(&self) -> Section {
        let word = Arc::<SectionWord>::default();
        let mut words = self.0.lock();
        // A word with one reference belongs to a thread that has ended.
        words.retain(|word| Arc::strong_count(word) > 1);
        words.push(Arc::clone(&word));
        Section { word, is_inside: false }
    }

    /// Waits until all sections that threads were in at the call have been left, or until `deadline`. Returns whether
    /// all have been left. Call it after hiding what threads must not find any more.
    pub(super) fn await_left(&self, deadline: Instant) -> bool {
        let mut leaving = self.leaving();
        while !leaving.is_over() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(POLL_PERIOD);
        }
        true
    }

    /// The sections that threads are in now. Call it after hiding what threads must not find any more.
    pub(super) fn leaving(&self) -> Leaving {
        hide();
        Leaving(self.0.lock().iter().map(|word| (Arc::clone(word), word.state())).collect())
    }
}
