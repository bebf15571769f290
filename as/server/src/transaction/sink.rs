//! Where a request with many replies sends them, from threads that are not the connection's.
//!
//! A maker with a thread of its own [sends](ReplySink::send) and waits while the client is behind. One that shares its
//! thread with others [posts](ReplySink::post), looks whether the client [is behind](ReplySink::is_behind), and is
//! [called](ReplySink::when_read) when it no longer is.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use proto::peer::NodeId;

/// The client is gone or does not read: whoever makes replies stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SinkClosed;

/// Threads that wait for their clients to read, of those that may be at work at a time: while they wait others may work in
/// their place.
#[derive(Default)]
pub(crate) struct StalledSenders {
    count: AtomicUsize,
    /// Threads that are wanted back, as all there may be are there.
    wanted: AtomicUsize,
}

impl StalledSenders {
    /// How many wait.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// One that has waited for long is to give up, for another to have its thread.
    pub(crate) fn want_one(&self) {
        self.wanted.store(1, Relaxed);
    }

    /// Counts the caller as one that waits, until the value is dropped.
    pub(crate) fn enter(&self) -> Stalled<'_> {
        self.count.fetch_add(1, Relaxed);
        Stalled(self)
    }
}

/// A thread that waits.
pub(crate) struct Stalled<'a>(&'a StalledSenders);

impl Stalled<'_> {
    /// Whether it is the one to give up, of those that may.
    pub(crate) fn must_give_up(&self) -> bool {
        self.0.wanted.swap(0, Relaxed) != 0
    }
}

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Relaxed);
    }
}

/// Goes on with making replies. It may be called on any thread, and does not wait.
pub(crate) type GoOn = Box<dyn FnOnce() + Send>;
/// Goes on with a request that waited for room for its reply; told whether there may be some now. As [`GoOn`].
pub(crate) type GoOnWithRoom = Box<dyn FnOnce(bool) + Send>;

/// The replies of one request. They arrive in the order in which they were sent. What is given here for all is for sinks
/// that are never behind.
pub(crate) trait ReplySink: Send + Sync {
    /// Sends whole frames; waits while the client is too slow.
    ///
    /// # Errors
    /// When the client is gone, or did not read for as long as the request allows.
    fn send(&self, frames: Vec<u8>) -> Result<(), SinkClosed>;

    /// Sends whole frames without waiting; they are dropped if the client is gone or was given up.
    fn post(&self, frames: Vec<u8>);

    /// Whether more than enough waits for the client to read.
    fn is_behind(&self) -> bool {
        false
    }

    /// Has `go_on` called when the client is no longer behind, or gone, or given up.
    fn when_read(&self, go_on: GoOn) {
        go_on();
    }

    /// Whether somebody waits and the client has read nothing for as long as the request allows.
    fn is_stalled(&self) -> bool {
        false
    }

    /// Whether the client has gone or was given up: nobody hears of what is sent.
    fn is_closed(&self) -> bool {
        false
    }

    /// Takes room for the last frames, which may have `size` bytes; `false` while there is none.
    fn take_room(&self, _size: usize) -> bool {
        true
    }

    /// Has `go_on` called when there may be room for `size` bytes, or at `deadline`.
    fn when_room(&self, _size: usize, _deadline: Instant, go_on: GoOnWithRoom) {
        go_on(true);
    }

    /// Tells the node that has passed the request on that another one serves its partition. Returns false if no node has:
    /// then the request is passed on from here.
    fn send_back(&self, _better: NodeId) -> bool {
        false
    }

    /// Sends nothing any more but the last frames, and calls all that wait.
    fn give_up(&self) {}

    /// Sends the last frames; the connection takes its next request after them.
    fn finish(&self, frames: Vec<u8>);
}
