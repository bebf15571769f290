//! State shared by all service threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::compression::MessageCompression;
use super::park::InfoRequest;
use super::pool::ServicePool;
use super::reply_budget::ReplyBudget;
use super::security::SecurityWorkers;
use crate::config::Config;
use crate::metrics::{ServerCounter, ServerMetrics};
use crate::query::Queries;
use crate::security::AccessControl;
use crate::transaction::{BatchPool, TransactionContext};
use crate::workers::Workers;

/// The pools to which service threads pass work, and their counters.
pub(crate) struct ServiceContext {
    pub(crate) config: Arc<Config>,
    pub(crate) metrics: Arc<ServerMetrics>,
    pub(crate) connection_count: Arc<ConnectionCount>,
    /// Connections of the admin port, which `connection_count` does not include.
    pub(crate) admin_connection_count: Arc<ConnectionCount>,
    /// The info threads; the code that starts them defines how they answer.
    pub(crate) info: Workers<InfoRequest>,
    /// `None` without access control.
    pub(crate) access_control: Option<Arc<AccessControl>>,
    /// The security threads; `None` without access control.
    pub(crate) security: Option<SecurityWorkers>,
    pub(crate) queries: Arc<Queries>,
    pub(crate) transactions: Arc<TransactionContext>,
    pub(crate) batches: BatchPool,
    pub(crate) pool: ServicePool,
    pub(crate) replies: Arc<ReplyBudget>,
    /// Inflated requests have a budget of their own, because they may wait for the room of their replies.
    pub(crate) inflated: Arc<ReplyBudget>,
    pub(crate) compression: MessageCompression,
}

/// The number of open client connections.
pub(crate) struct ConnectionCount {
    open: AtomicUsize,
    metrics: Arc<ServerMetrics>,
}

impl ConnectionCount {
    /// A count without connections.
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
