//! A counter in the kernel that wakes an epoll loop from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{self, EfdFlags};

use crate::doorbell::Wake;

/// A non-blocking eventfd. It is never read: an epoll instance watches it for
/// [signals](super::epoll::Trigger::Signal).
pub struct EventFd(eventfd::EventFd);

impl EventFd {
    /// An eventfd without a signal.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(EventFd(eventfd::EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Makes the descriptor readable, and wakes the thread that waits for signals.
    pub fn signal(&self) {
        // The write fails only when the counter is full, after 2^64 signals.
        let _ = self.0.write(1);
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Wake for EventFd {
    fn signal(&self) {
        EventFd::signal(self);
    }
}
