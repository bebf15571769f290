//! Where a request with many replies sends them, from threads that are not the connection's.
//!
//! A maker with a thread of its own [sends](ReplySink::send) and waits while the client is behind. One that shares its
//! thread with others [posts](ReplySink::post), looks whether the client [is behind](ReplySink::is_behind), and is
//! [called](ReplySink::when_read) when it no longer is.

/// The client is gone or does not read: whoever makes replies stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SinkClosed;

/// Goes on with making replies. It may be called on any thread, and does not wait.
pub(crate) type GoOn = Box<dyn FnOnce() + Send>;

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

    /// Sends nothing any more but the last frames, and calls all that wait.
    fn give_up(&self) {}

    /// Sends the last frames; the connection takes its next request after them.
    fn finish(&self, frames: Vec<u8>);
}
