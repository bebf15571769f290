//! State that the heartbeat thread shares with others.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use cf::doorbell::Doorbell;
use cf::sys::eventfd::EventFd;
use crossbeam::queue::SegQueue;
use proto::peer::NodeId;
use proto::peer::nested::Endpoint;

use super::seeds::Seeds;
use crate::config::Config;
use crate::config::value::Endpoint as SeedEndpoint;
use crate::peer_traffic::HeartbeatTraffic;
use crate::tls::TlsPort;

/// A message to the heartbeat thread.
pub(super) enum Post {
    /// Send this pulse to all nodes.
    Pulse(Vec<u8>),
    /// The addresses of a seed; empty if it has none now.
    Resolved(SeedEndpoint, Vec<SocketAddr>),
    Stop,
}

/// Passes messages of other nodes to the cluster thread.
pub(crate) type Deliver = Box<dyn Fn(Vec<u8>) + Send>;

pub(super) struct Shared {
    pub(super) self_node: NodeId,
    pub(super) config: Arc<Config>,
    /// Endpoints where other nodes reach this one; unused with multicast.
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) seeds: Seeds,
    /// Settings of TLS connections, if there are any.
    pub(super) tls: Option<Arc<TlsPort>>,
    pub(super) traffic: HeartbeatTraffic,
    pub(super) posts: SegQueue<Post>,
    pub(super) bell: Doorbell<EventFd>,
}

impl Shared {
    /// # Errors
    /// When the process has no file descriptor left.
    pub(super) fn new(
        self_node: NodeId,
        config: &Arc<Config>,
        endpoints: Vec<Endpoint>,
        tls: Option<Arc<TlsPort>>,
    ) -> io::Result<Self> {
        Ok(Shared {
            self_node,
            endpoints,
            seeds: Seeds::new(
                &config.network.heartbeat.mesh_seed_address_port.get(),
                &config.network.heartbeat.tls_mesh_seed_address_port.get(),
            ),
            tls,
            traffic: HeartbeatTraffic::default(),
            config: Arc::clone(config),
            posts: SegQueue::new(),
            bell: Doorbell::new(EventFd::new()?),
        })
    }

    pub(super) fn post(&self, post: Post) {
        self.posts.push(post);
        self.bell.ring();
    }
}
