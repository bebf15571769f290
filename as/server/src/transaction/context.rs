//! State shared by all transactions of a server, and buffers reused by those of one thread.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::time::Duration;

use proto::message::Request;

use super::disk_watch::DiskWatch;
use super::duplicates::Duplicates;
use super::flat_buffer::FlatBuffer;
use super::pool::Pool;
use super::proxy::PassedOn;
use super::replicas::ReplicaWrites;
use super::settle::Unsettled;
use super::wait::{LockLines, WaitTable};
use super::{benchmarks, measure};
use crate::config::Config;
use crate::metrics::ServerMetrics;
use crate::namespace::{Namespace, Section};
use crate::storage::{DiskCaller, ReadBuffer};
use crate::udf::Functions;

/// State shared by all transactions of a server.
pub(crate) struct TransactionContext {
    pub(crate) config: Arc<Config>,
    pub(crate) namespaces: Arc<[Arc<Namespace>]>,
    pub(crate) metrics: Arc<ServerMetrics>,
    /// The functions that clients have registered.
    pub(crate) functions: Functions,
    /// The threads for requests that are too long for a service thread.
    pub(crate) pool: Pool,
    /// Requests that wait for a record reserved by a pool thread.
    pub(super) waits: WaitTable,
    /// Requests that met the lock of their record's sprig.
    pub(super) lock_lines: LockLines,
    /// Writes that replicas have not acknowledged yet.
    pub(crate) replicas: Arc<ReplicaWrites>,
    /// Questions to nodes that may have newer copies of records.
    pub(crate) duplicates: Duplicates,
    /// Pool threads that hang because a disk does not answer.
    pub(crate) disk_watch: DiskWatch,
    /// Requests that are forwarded to other nodes.
    pub(crate) passed_on: PassedOn,
    /// Whether the server stops: transactions that only read end soon.
    is_stopping: AtomicBool,
}

impl TransactionContext {
    pub(crate) fn new(
        config: Arc<Config>,
        namespaces: Arc<[Arc<Namespace>]>,
        metrics: Arc<ServerMetrics>,
    ) -> Self {
        let mod_lua = &config.mod_lua;
        let folder = mod_lua.user_path.get().unwrap_or_default();
        let functions = Functions::new(Path::new(&*folder), mod_lua.cache_enabled.get());
        TransactionContext {
            config,
            namespaces,
            metrics,
            functions,
            pool: Pool::new(),
            waits: WaitTable::new(),
            lock_lines: LockLines::default(),
            replicas: ReplicaWrites::new(),
            duplicates: Duplicates::new(),
            disk_watch: DiskWatch::default(),
            passed_on: PassedOn::new(),
            is_stopping: AtomicBool::new(false),
        }
    }

    /// The same, with `replicas` sending writes to replicas.
    pub(crate) fn with_replicas(mut self, replicas: Arc<ReplicaWrites>) -> Self {
        self.replicas = replicas;
        self
    }

    /// From now on, transactions that only read end soon, without an answer.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Release);
    }

    /// Whether the server stops.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Acquire)
    }

    /// How long `request` may take.
    pub(crate) fn time_max(&self, request: &Request<'_>) -> Duration {
        Duration::from_millis(match request.transaction_ttl_ms {
            0 => self.config.service.transaction_max_ms.get(),
            own => u64::from(own),
        })
    }

    /// The namespace that `request` names, if there is one.
    #[inline]
    pub(crate) fn known_namespace(&self, request: &Request<'_>) -> Option<&Arc<Namespace>> {
        self.namespace_called(request.namespace?)
    }

    /// The namespace called `name`, if there is one.
    #[inline]
    pub(super) fn namespace_called(&self, name: &[u8]) -> Option<&Arc<Namespace>> {
        self.namespaces.iter().find(|namespace| namespace.name().as_bytes() == name)
    }

    /// The namespace that `request` names. An unknown one is logged.
    #[inline]
    pub(super) fn namespace_of(&self, request: &Request<'_>) -> Option<&Arc<Namespace>> {
        let namespace = self.known_namespace(request);
        if namespace.is_none() {
            warn_of_namespace(request.namespace);
        }
        namespace
    }
}

/// Logs that a request names no namespace, or an unknown one.
#[cold]
fn warn_of_namespace(name: Option<&[u8]>) {
    match name {
        None => cf::warning_limited!(Tsvc, "request without a namespace"),
        Some(name) => {
            cf::warning_limited!(Tsvc, "request for unknown namespace '{}'", String::from_utf8_lossy(name));
        }
    }
}

/// Buffers that a thread reuses for its transactions.
pub(super) struct Buffers {
    /// A flat record being made.
    pub(super) flat: FlatBuffer,
    /// A record that was read from a disk.
    pub(super) read: ReadBuffer,
    /// Records that must be on disk before the replies made so far are sent, in the order of the replies.
    pub(super) unsettled: Vec<Unsettled>,
    /// By namespace, the section for commits of this thread.
    pub(super) commits: Box<[Section]>,
}

/// State that a thread reuses for its transactions.
pub(super) struct Workspace {
    pub(super) buffers: Buffers,
    /// By namespace, the section for transactions of this thread.
    pub(super) sections: Box<[Section]>,
    pub(super) tally: measure::Tally,
    /// Transactions whose replies are made and wait to be sent.
    pub(super) held: measure::HeldTransactions,
    pub(super) stopwatch: benchmarks::Stopwatch,
}

impl Workspace {
    /// For a thread of the kind `caller`.
    pub(super) fn new(namespaces: &[Arc<Namespace>], caller: DiskCaller) -> Self {
        let namespace_count = namespaces.len();
        Workspace {
            sections: namespaces.iter().map(|namespace| namespace.partitions.join_sections()).collect(),
            buffers: Buffers {
                flat: FlatBuffer::default(),
                read: ReadBuffer::of(caller),
                unsettled: Vec::new(),
                commits: namespaces.iter().map(|namespace| namespace.partitions.join_commits()).collect(),
            },
            tally: measure::Tally::new(namespace_count),
            held: measure::HeldTransactions::new(namespace_count),
            stopwatch: benchmarks::Stopwatch::new(),
        }
    }
}
