//! A flag beside a queue: the first sender that posts since the reader last looked wakes it; later ones need not.
//!
//! The reader [silences](Doorbell::silence) the bell, then empties the queue; a sender posts, then [rings](Doorbell::ring).
//! Both exchange the flag, so one comes before the other: either the reader sees what was posted, or the sender sees the
//! flag lowered and wakes it again.
//!
//! `tests/loom` runs the code of this file through all orders of its steps. So it uses nothing of the rest of the crate.

#[cfg(not(loom))]
use std::sync::atomic::AtomicBool;

#[cfg(loom)]
use loom::sync::atomic::AtomicBool;

use std::sync::atomic::Ordering::AcqRel;

/// What a thread sleeps on.
pub trait Wake {
    /// Ends the sleep, or the next one at once.
    fn signal(&self);

    /// Takes signals back.
    fn clear(&self);
}

/// The flag, and what the reader sleeps on.
#[derive(Default)]
pub struct Doorbell<W> {
    /// The reader was woken and has not looked yet.
    is_rung: AtomicBool,
    wake: W,
}

impl<W: Wake> Doorbell<W> {
    /// A silent bell.
    pub fn new(wake: W) -> Self {
        Doorbell { is_rung: AtomicBool::new(false), wake }
    }

    /// Something was posted: wakes the reader, unless somebody has since it looked.
    pub fn ring(&self) {
        if !self.is_rung.swap(true, AcqRel) {
            self.wake.signal();
        }
    }

    /// The reader begins to look: whatever is posted from now on wakes it again.
    pub fn silence(&self) {
        self.wake.clear();
        self.is_rung.swap(false, AcqRel);
    }

    /// What the reader sleeps on.
    pub fn wake(&self) -> &W {
        &self.wake
    }
}
