//! Readiness of many file descriptors.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// What happened on a descriptor.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Event(libc::epoll_event);

impl Event {
    /// An empty slot for [`Epoll::wait`] to fill.
    pub const EMPTY: Event = Event(libc::epoll_event { events: 0, u64: 0 });

    /// The number the descriptor was registered under.
    #[inline]
    #[must_use]
    pub fn token(&self) -> u64 {
        self.0.u64
    }

    /// There is something to read, or the peer is done sending.
    #[inline]
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.0.events & (libc::EPOLLIN | libc::EPOLLRDHUP) as u32 != 0
    }

    /// The peer is done sending; what it has sent may still be there to read.
    #[inline]
    #[must_use]
    pub fn is_last_to_read(&self) -> bool {
        self.0.events & libc::EPOLLRDHUP as u32 != 0
    }

    /// There is room to write.
    #[inline]
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.0.events & libc::EPOLLOUT as u32 != 0
    }

    /// The connection is broken in both directions.
    #[inline]
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.events & (libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0
    }
}

/// When a registered descriptor reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// Whenever it is readable.
    Level,
    /// Each time it becomes readable or writable, or its peer hangs up.
    Edge,
}

/// An epoll instance.
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An instance without descriptors.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and belongs to nobody else.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watches `fd` under the number `token`; closing the descriptor ends it.
    ///
    /// # Errors
    /// When the system's limit of watches is reached.
    pub fn add(&self, fd: &impl AsRawFd, token: u64, trigger: Trigger) -> io::Result<()> {
        let events = match trigger {
            Trigger::Level => libc::EPOLLIN,
            Trigger::Edge => libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET,
        };
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        // SAFETY: `event` is a valid epoll_event; both descriptors are open.
        let result = unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// No longer watches `fd`. It is not an error if it was not watched.
    pub fn remove(&self, fd: &impl AsRawFd) {
        // SAFETY: no pointers are passed; both descriptors are open.
        unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_DEL, fd.as_raw_fd(), std::ptr::null_mut())
        };
    }

    /// Waits for events, at most `timeout` (`None`: without end), and gives those that came. A signal ends the wait
    /// with none.
    ///
    /// # Errors
    /// Only on misuse of the descriptor.
    pub fn wait<'a>(&self, events: &'a mut [Event], timeout: Option<Duration>) -> io::Result<&'a [Event]> {
        let timeout_ms = timeout.map_or(-1, |t| i32::try_from(t.as_millis()).unwrap_or(i32::MAX));
        let capacity = i32::try_from(events.len()).unwrap_or(i32::MAX);
        // SAFETY: `Event` is a transparent epoll_event and `events` has room for `capacity` of them.
        let count =
            unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr().cast(), capacity, timeout_ms) };
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(&[]) } else { Err(error) };
        }
        Ok(&events[..count as usize])
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
