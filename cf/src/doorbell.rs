//! A flag beside a queue: only the first sender since the reader's last check wakes the reader.
//!
//! The reader [silences](Doorbell::silence) the bell and then empties the queue. A sender posts and then
//! [rings](Doorbell::ring). Both exchange the flag, so one exchange precedes the other: either the reader
//! sees the posted item, or the sender sees the lowered flag and wakes the reader again.
//!
//! `tests/loom` runs this file through all orders of its steps, so it uses no other part of the crate.

#[cfg(not(loom))]
use std::sync::atomic::AtomicBool;

#[cfg(loom)]
use loom::sync::atomic::AtomicBool;

use std::sync::atomic::Ordering::AcqRel;

/// The object that a thread sleeps on. The end of a sleep consumes all signals up to then.
pub trait Wake {
    /// Ends the current sleep. If there is none, the next sleep ends at once.
    fn signal(&self);
}

/// The flag, and the reader's wake object.
#[derive(Default)]
pub struct Doorbell<W> {
    /// Whether the reader was woken and has not checked yet.
    is_rung: AtomicBool,
    wake: W,
}

impl<W: Wake> Doorbell<W> {
    /// A silent bell.
    pub fn new(wake: W) -> Self {
        Doorbell { is_rung: AtomicBool::new(false), wake }
    }

    /// Wakes the reader after a post, unless another sender has done so since its last check.
    pub fn ring(&self) {
        if !self.is_rung.swap(true, AcqRel) {
            self.wake.signal();
        }
    }

    /// Begins the reader's check: a later post wakes it again.
    pub fn silence(&self) {
        self.is_rung.swap(false, AcqRel);
    }

    /// The reader's wake object.
    pub fn wake(&self) -> &W {
        &self.wake
    }
}
