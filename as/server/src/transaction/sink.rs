//! Where a request with many replies sends them, from threads that are not the connection's.

/// The client is gone or does not read: whoever makes replies stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SinkClosed;

/// The replies of one request. They arrive in the order in which they were sent.
pub(crate) trait ReplySink: Send + Sync {
    /// Sends whole frames; waits while the client is too slow.
    ///
    /// # Errors
    /// When the client is gone, or did not read for as long as the request allows.
    fn send(&self, frames: Vec<u8>) -> Result<(), SinkClosed>;

    /// Sends the last frames; the connection takes its next request after them.
    fn finish(&self, frames: Vec<u8>);
}
