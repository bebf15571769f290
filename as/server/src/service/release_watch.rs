//! Tells whether the thread of a connection must be woken after another thread has sent the connection's held
//! reply.
//!
//! The thread has nothing to do for the connection then until its client sends the next request, which wakes
//! the thread anyway. The releasing thread therefore wakes it only if something of the connection already
//! waits. Both sides exchange the state, so that the one that comes second sees the other.

use std::sync::atomic::{AtomicU8, Ordering::AcqRel};

/// Something waits for the release. The state is 0 before.
const WANTED: u8 = 1;
/// The mail about the release is in the mailbox.
const RELEASED: u8 = 2;

/// Shared by a connection with a held reply and the thread that releases it.
#[derive(Default)]
pub(super) struct ReleaseWatch(AtomicU8);

impl ReleaseWatch {
    /// Records, on the connection's thread, that something waits for the release. Returns whether the mail
    /// about it is there.
    pub(super) fn want(&self) -> bool {
        self.0.fetch_max(WANTED, AcqRel) == RELEASED
    }

    /// Notes that the reply is sent and the mail about it posted. Returns whether to wake the connection's
    /// thread.
    pub(super) fn release(&self) -> bool {
        self.0.swap(RELEASED, AcqRel) == WANTED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_of_both_sides_sees_the_first() {
        let (early, late) = (ReleaseWatch::default(), ReleaseWatch::default());
        assert!(!early.want() && !early.want());
        assert!(early.release());
        assert!(!late.release());
        assert!(late.want() && late.want());
    }
}
