//! The number of open client connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::metrics::{ServerCounter, ServerMetrics};

/// The number of open client connections.
pub(crate) struct ConnectionCount {
    open: AtomicUsize,
    metrics: Arc<ServerMetrics>,
}

impl ConnectionCount {
    /// Makes a count without connections.
    pub(crate) fn new(metrics: Arc<ServerMetrics>) -> Arc<Self> {
        Arc::new(ConnectionCount { open: AtomicUsize::new(0), metrics })
    }

    /// The number of open connections.
    pub(crate) fn get(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Counts one more, for as long as the result lives.
    pub(super) fn admit(self: &Arc<Self>) -> Admission {
        self.open.fetch_add(1, Relaxed);
        self.metrics.add(ServerCounter::ClientConnectionsOpened, 1);
        Admission(Arc::clone(self))
    }
}

/// A connection's place in the count, given back when it is dropped.
pub(super) struct Admission(Arc<ConnectionCount>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
        self.0.metrics.add(ServerCounter::ClientConnectionsClosed, 1);
    }
}
