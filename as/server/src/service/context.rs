//! State shared by all service threads.

use std::sync::Arc;

use super::compression_jobs::MessageCompression;
use super::connection_count::ConnectionCount;
use super::pool::ServicePool;
use super::reply_budget::ReplyBudget;
use super::requests::InfoRequest;
use super::security::SecurityWorkers;
use crate::config::Config;
use crate::metrics::ServerMetrics;
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
    /// The budget of inflated requests, separate because they may wait for the room of their replies.
    pub(crate) inflated: Arc<ReplyBudget>,
    pub(crate) compression: MessageCompression,
}
