//! State shared by all transactions of a server.

use std::ops::Deref;
use std::sync::Arc;

use super::base::TransactionBase;
use super::disk_watch::DiskWatch;
use super::duplicates::Duplicates;
use super::proxy::PassedOn;
use super::replicas::ReplicaWrites;
use super::wait::WaitTable;
use crate::config::Config;
use crate::metrics::ServerMetrics;
use crate::namespace::Namespace;

/// State shared by all transactions of a server: its base, and the tables of waiting requests and unanswered
/// messages.
pub(crate) struct TransactionContext {
    base: TransactionBase,
    /// Requests that wait for a record reserved by a pool thread.
    pub(super) waits: WaitTable,
    /// Writes that replicas have not acknowledged yet.
    pub(crate) replicas: Arc<ReplicaWrites>,
    /// Questions to nodes that may have newer copies of records.
    pub(crate) duplicates: Duplicates,
    /// Pool threads that hang because a disk does not answer.
    pub(crate) disk_watch: DiskWatch,
    /// Requests that are forwarded to other nodes.
    pub(crate) passed_on: PassedOn,
}

impl TransactionContext {
    pub(crate) fn new(
        config: Arc<Config>,
        namespaces: Arc<[Arc<Namespace>]>,
        metrics: Arc<ServerMetrics>,
    ) -> Self {
        TransactionContext {
            base: TransactionBase::new(config, namespaces, metrics),
            waits: WaitTable::new(),
            replicas: ReplicaWrites::new(),
            duplicates: Duplicates::new(),
            disk_watch: DiskWatch::default(),
            passed_on: PassedOn::new(),
        }
    }

    /// The same, with `replicas` sending writes to replicas.
    pub(crate) fn with_replicas(self, replicas: Arc<ReplicaWrites>) -> Self {
        TransactionContext { replicas, ..self }
    }
}

impl Deref for TransactionContext {
    type Target = TransactionBase;

    #[inline]
    fn deref(&self) -> &TransactionBase {
        &self.base
    }
}
