//! Readiness of many file descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{self, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// An event on a descriptor.
#[derive(Clone, Copy)]
pub struct Event {
    flags: EpollFlags,
    token: u64,
}

impl Event {
    /// The number the descriptor was registered under.
    #[inline]
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    /// There are bytes to read, or the peer has finished sending.
    #[inline]
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP)
    }

    /// The peer has finished sending; bytes from it may still be unread.
    #[inline]
    #[must_use]
    pub fn is_last_to_read(&self) -> bool {
        self.flags.contains(EpollFlags::EPOLLRDHUP)
    }

    /// There is room to write.
    #[inline]
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.flags.contains(EpollFlags::EPOLLOUT)
    }

    /// The connection is broken in both directions.
    #[inline]
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP)
    }
}

/// Room for the events of one [`Epoll::wait`], reused by the next.
pub struct Events {
    slots: Box<[EpollEvent]>,
    happened: Vec<Event>,
}

impl Events {
    /// Room for `count` events at a time.
    #[must_use]
    pub fn with_capacity(count: usize) -> Self {
        Events {
            slots: vec![EpollEvent::empty(); count].into_boxed_slice(),
            happened: Vec::with_capacity(count),
        }
    }
}

/// The condition under which a registered descriptor reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// Whenever it is readable.
    Level,
    /// Each time it becomes readable or writable, or its peer hangs up.
    Edge,
    /// Each time it is written to, for an eventfd. Several signals before a wait are reported once.
    Signal,
}

/// An epoll instance.
pub struct Epoll(epoll::Epoll);

impl Epoll {
    /// An instance without descriptors.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Epoll(epoll::Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Watches `fd` under the number `token` until the descriptor is closed.
    ///
    /// # Errors
    /// When the system's limit of watches is reached.
    pub fn add(&self, fd: &impl AsFd, token: u64, trigger: Trigger) -> io::Result<()> {
        let flags = match trigger {
            Trigger::Level => EpollFlags::EPOLLIN,
            Trigger::Signal => EpollFlags::EPOLLIN | EpollFlags::EPOLLET,
            Trigger::Edge => {
                EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET
            }
        };
        Ok(self.0.add(fd, EpollEvent::new(flags, token))?)
    }

    /// Stops watching `fd`. It is no error if `fd` is not watched.
    pub fn remove(&self, fd: &impl AsFd) {
        let _ = self.0.delete(fd);
    }

    /// Waits for events, at most `timeout` (`None`: without a limit), and returns them. A signal ends the wait
    /// without events.
    ///
    /// # Errors
    /// Only on misuse of the descriptor.
    pub fn wait<'a>(&self, events: &'a mut Events, timeout: Option<Duration>) -> io::Result<&'a [Event]> {
        let timeout =
            timeout.map_or(EpollTimeout::NONE, |t| EpollTimeout::try_from(t).unwrap_or(EpollTimeout::MAX));
        let count = match self.0.wait(&mut events.slots, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        events.happened.clear();
        let happened = events.slots[..count].iter();
        events.happened.extend(happened.map(|slot| Event { flags: slot.events(), token: slot.data() }));
        Ok(&events.happened)
    }
}

impl AsFd for Epoll {
    /// The descriptor is readable while there are events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::super::eventfd::EventFd;
    use super::*;

    #[test]
    fn events_on_a_descriptor_have_its_token() {
        let (epoll, wake) = (Epoll::new().expect("a descriptor"), EventFd::new().expect("a descriptor"));
        let mut events = Events::with_capacity(4);
        epoll.add(&wake, 7, Trigger::Level).expect("room");
        assert!(epoll.wait(&mut events, Some(Duration::ZERO)).expect("events").is_empty());
        wake.signal();
        wake.signal();
        for _ in 0..2 {
            let happened = epoll.wait(&mut events, None).expect("events");
            assert_eq!(happened.iter().map(Event::token).collect::<Vec<_>>(), [7]);
            assert!(happened[0].is_readable() && !happened[0].is_writable() && !happened[0].is_broken());
        }
    }

    #[test]
    fn each_signal_ends_one_wait_without_being_read() {
        let (epoll, wake) = (Epoll::new().expect("a descriptor"), EventFd::new().expect("a descriptor"));
        let mut events = Events::with_capacity(4);
        epoll.add(&wake, 7, Trigger::Signal).expect("room");
        for signals in [1, 1, 3] {
            (0..signals).for_each(|_| wake.signal());
            assert_eq!(epoll.wait(&mut events, None).expect("events").len(), 1);
            assert!(epoll.wait(&mut events, Some(Duration::ZERO)).expect("events").is_empty());
        }
    }

    #[test]
    fn an_edge_is_reported_once_and_a_hang_up_as_the_last_to_read() {
        let (epoll, (ours, mut theirs)) =
            (Epoll::new().expect("a descriptor"), UnixStream::pair().expect("two"));
        let mut events = Events::with_capacity(4);
        epoll.add(&ours, 1, Trigger::Edge).expect("room");
        theirs.write_all(b"x").expect("room");
        let event = epoll.wait(&mut events, None).expect("events")[0];
        assert!(event.is_readable() && event.is_writable() && !event.is_last_to_read());
        assert!(epoll.wait(&mut events, Some(Duration::ZERO)).expect("events").is_empty());
        theirs.shutdown(std::net::Shutdown::Write).expect("it is open");
        assert!(epoll.wait(&mut events, None).expect("events")[0].is_last_to_read());
        epoll.remove(&ours);
        epoll.remove(&ours);
        drop(theirs);
        assert!(epoll.wait(&mut events, Some(Duration::ZERO)).expect("events").is_empty());
    }
}
