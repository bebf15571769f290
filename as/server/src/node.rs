//! The parts of a running server, for code that answers questions about it. They are made once, at start.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::config::Config;
use crate::fabric::{Cluster, Membership};
use crate::health::Health;
use crate::metrics::{Latency, ServerLatency, ServerMetrics, SystemUsage, Unit};
use crate::namespace::Namespace;
use crate::peer_traffic::{FabricFigures, HeartbeatFigures};
use crate::security::AccessControl;
use crate::service::{Advertised, ServiceContext};
use crate::sindex::SecondaryIndexes;
use crate::smd::Smd;
use crate::tls::TlsPorts;

/// The bound addresses of each kind of port; empty if there is no such port.
#[derive(Default)]
pub(crate) struct PortAddresses {
    pub(crate) clients: Vec<SocketAddr>,
    pub(crate) clients_tls: Vec<SocketAddr>,
    pub(crate) admin: Vec<SocketAddr>,
    pub(crate) admin_tls: Vec<SocketAddr>,
    pub(crate) info: Vec<SocketAddr>,
    /// The addresses at which other nodes reach the fabric, and the heartbeat of a mesh.
    pub(crate) fabric: Vec<SocketAddr>,
    pub(crate) fabric_tls: Vec<SocketAddr>,
    pub(crate) heartbeat: Vec<SocketAddr>,
    pub(crate) heartbeat_tls: Vec<SocketAddr>,
}

/// Parts of a running server that all its code may use.
pub(crate) struct Node {
    pub(crate) config: Arc<Config>,
    pub(crate) namespaces: Arc<[Arc<Namespace>]>,
    pub(crate) metrics: Arc<ServerMetrics>,
    pub(crate) cluster: Arc<Cluster>,
    /// Its membership in a cluster; empty on a single node, and until clustering has started.
    pub(crate) membership: OnceLock<Membership>,
    pub(crate) smd: Arc<Smd>,
    /// `None` without access control: every request is allowed.
    pub(crate) security: Option<Arc<AccessControl>>,
    /// Addresses of this node that are reported to clients.
    pub(crate) advertised: Advertised,
    /// The same addresses for clients with TLS.
    pub(crate) advertised_tls: Advertised,
    pub(crate) started: Instant,
    pub(crate) service: Arc<ServiceContext>,
    pub(crate) indexes: Arc<SecondaryIndexes>,
    pub(crate) addresses: PortAddresses,
    pub(crate) tls: TlsPorts,
    pub(crate) usage: SystemUsage,
    pub(crate) health: Health,
    /// Names of best practices that are not followed.
    pub(crate) failed_best_practices: Vec<&'static str>,
}

impl Node {
    /// The namespace called `name`.
    pub(crate) fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.iter().find(|namespace| namespace.name() == name)
    }

    /// The traffic on the connections with other nodes; zeros for a single node.
    pub(crate) fn peer_figures(&self) -> (HeartbeatFigures, FabricFigures) {
        let figures = |membership: &Membership| {
            (membership.heartbeat.traffic().figures(), membership.fabric.traffic().figures())
        };
        self.membership.get().map(figures).unwrap_or_default()
    }

    /// Number of requests that wait for other nodes: for their copies, or for a newer copy of theirs.
    pub(crate) fn awaiting_count(&self) -> usize {
        let transactions = &self.service.transactions;
        transactions.replicas.count() + transactions.duplicates.count()
    }

    /// Number of records in all namespaces.
    pub(crate) fn object_count(&self) -> u64 {
        self.namespaces.iter().map(|namespace| namespace.object_count()).sum()
    }

    pub(crate) fn latency_unit(&self) -> Unit {
        Unit::configured(&self.config)
    }

    /// Counts the time of an info request from `received` until now, if `enable-hist-info` is on.
    pub(crate) fn measure_info(&self, received: Instant) {
        if self.config.service.enable_hist_info.get() {
            let latency = self.metrics.latency(ServerLatency::Info);
            latency.add(self.latency_unit(), received.elapsed(), 1);
        }
    }

    /// Clears all latencies, because their unit changes.
    pub(crate) fn clear_latencies(&self) {
        ServerLatency::ALL.iter().for_each(|latency| self.metrics.latency(*latency).clear());
        for namespace in self.namespaces.iter() {
            Latency::ALL.iter().for_each(|latency| namespace.metrics.latency(*latency).clear());
            namespace.storage.restart_benchmarks(self.latency_unit());
        }
    }

    /// Number of tombstones in all namespaces.
    pub(crate) fn tombstone_count(&self) -> u64 {
        self.namespaces.iter().map(|namespace| namespace.tombstone_count()).sum()
    }
}
