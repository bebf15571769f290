//! Destination of a request's replies, for threads other than the connection's.
//!
//! Code with a thread of its own [sends](ReplySink::send) replies, and waits while the client is behind. Code that
//! shares its thread with others [posts](ReplySink::post) them, checks whether the client
//! [is behind](ReplySink::is_behind), and is [called](ReplySink::when_read) when it no longer is.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use proto::peer::NodeId;

/// The client is gone or does not read: no more replies are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SinkClosed;

/// Counts the threads of a limited number that wait for their clients to read. Other threads may work in their place
/// meanwhile.
#[derive(Default)]
pub(crate) struct StalledSenders {
    count: AtomicUsize,
    /// Number of waiting threads that are asked to give up, because no further threads may be started.
    wanted: AtomicUsize,
}

impl StalledSenders {
    /// Number of waiting threads.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Asks one thread that has waited long to give up, so that another request gets its thread.
    pub(crate) fn want_one(&self) {
        self.wanted.store(1, Relaxed);
    }

    /// Counts the caller as waiting, until the value is dropped.
    pub(crate) fn enter(&self) -> Stalled<'_> {
        self.count.fetch_add(1, Relaxed);
        Stalled(self)
    }
}

/// A waiting thread.
pub(crate) struct Stalled<'a>(&'a StalledSenders);

impl Stalled<'_> {
    /// Whether this thread must give up: true for the first thread that asks after
    /// [`want_one`](StalledSenders::want_one).
    pub(crate) fn must_give_up(&self) -> bool {
        self.0.wanted.swap(0, Relaxed) != 0
    }
}

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Relaxed);
    }
}

/// Continues making replies. It may be called on any thread, and must not wait.
pub(crate) type GoOn = Box<dyn FnOnce() + Send>;
/// Resumes a request that waited for room for its reply; the argument tells whether there may be room now. As [`GoOn`].
pub(crate) type GoOnWithRoom = Box<dyn FnOnce(bool) + Send>;

/// The replies of one request. They arrive in the order in which they were sent. The default methods are for sinks that
/// are never behind.
pub(crate) trait ReplySink: Send + Sync {
    /// Sends whole frames; waits while the client is too slow.
    ///
    /// # Errors
    /// When the client is gone, or did not read for as long as the request allows.
    fn send(&self, frames: Vec<u8>) -> Result<(), SinkClosed>;

    /// Sends whole frames without waiting; they are dropped if the client is gone or was given up.
    fn post(&self, frames: Vec<u8>);

    /// Whether too many bytes are unread by the client.
    fn is_behind(&self) -> bool {
        false
    }

    /// Calls `go_on` when the client is no longer behind, is gone, or is given up.
    fn when_read(&self, go_on: GoOn) {
        go_on();
    }

    /// Whether a thread waits and the client has read nothing for as long as the request allows.
    fn is_stalled(&self) -> bool {
        false
    }

    /// Whether the client is gone or was given up: replies reach nobody.
    fn is_closed(&self) -> bool {
        false
    }

    /// Reserves room for the last frames, which may have `size` bytes; `false` while there is none.
    fn take_room(&self, _size: usize) -> bool {
        true
    }

    /// Calls `go_on` when there may be room for `size` bytes, or at `deadline`.
    fn when_room(&self, _size: usize, _deadline: Instant, go_on: GoOnWithRoom) {
        go_on(true);
    }

    /// Tells the node that has passed the request on that another node serves its partition. Returns false if the
    /// request comes from a client: then this node passes it on.
    fn send_back(&self, _better: NodeId) -> bool {
        false
    }

    /// Sends nothing except the last frames from now on, and calls all waiting callbacks.
    fn give_up(&self) {}

    /// Sends the last frames; the connection takes its next request after them.
    fn finish(&self, frames: Vec<u8>);
}
