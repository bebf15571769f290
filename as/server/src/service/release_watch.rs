//! Whether the thread of a connection must be woken when the held reply of that connection was sent by another thread.
//!
//! Nothing is to be done for the connection then until its client sends the next request, which wakes its thread anyway.
//! So the releasing thread wakes it only if something of the connection waits already. Both sides exchange the state: the
//! one that comes second sees the other.

use std::sync::atomic::{AtomicU8, Ordering::AcqRel};

/// Something waits for the release. Before that the state is 0.
const WANTED: u8 = 1;
/// The mail about the release is in the mailbox.
const RELEASED: u8 = 2;

/// Shared by a connection with a held reply and whoever releases it.
#[derive(Default)]
pub(super) struct ReleaseWatch(AtomicU8);

impl ReleaseWatch {
    /// Something waits for the release, on the connection's thread; returns whether the mail about it has come.
    pub(super) fn want(&self) -> bool {
        self.0.fetch_max(WANTED, AcqRel) == RELEASED
    }

    /// The reply is sent and the mail about it posted; returns whether to wake the connection's thread.
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
