//! Transport of heartbeats: over a mesh of TCP connections that begins with seeds, or to a multicast group.
//!
//! The cluster thread makes pulses ([`Heartbeat::pulse`]) and gets those of other nodes; this module only
//! transports them. A mesh has one connection for each pair of nodes; `mesh` decides, without I/O, which
//! connections to make.
//!
//! # Threads
//! `heartbeat` owns all sockets, and is essential. `heartbeat-dns` resolves seeds that are names, and may
//! block on that. It starts again after a panic, and the mesh asks again for the address that it was
//! resolving.

mod mesh;
mod resolver;
mod seeds;
mod shared;
mod sockets;
mod thread;

use std::io;
use std::sync::Arc;

use cf::threads::{self, Handle};
use parking_lot::Mutex;
use proto::peer::NodeId;
use proto::peer::nested::Endpoint;

use crate::config::Config;
use crate::peer_traffic::HeartbeatTraffic;
use crate::tls::TlsPort;
use resolver::Resolver;
pub(crate) use seeds::Seeds;
use shared::{Deliver, Post, Shared};
pub(crate) use sockets::{HeartbeatSockets, addresses_of as multicast_addresses, packet_size_max};
use thread::HeartbeatThread;

/// The heartbeat of this node.
pub(crate) struct Heartbeat {
    shared: Arc<Shared>,
    running: Mutex<Option<Handle>>,
}

impl Heartbeat {
    /// Makes a heartbeat whose threads are not started yet.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub(crate) fn new(
        self_node: NodeId,
        config: &Arc<Config>,
        endpoints: Vec<Endpoint>,
        tls: Option<Arc<TlsPort>>,
    ) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Heartbeat {
            shared: Arc::new(Shared::new(self_node, config, endpoints, tls)?),
            running: Mutex::default(),
        }))
    }

    /// Starts the threads; messages of other nodes go to `deliver`.
    ///
    /// # Errors
    /// When the system refuses a thread or file descriptor.
    pub(crate) fn start(&self, sockets: HeartbeatSockets, deliver: Deliver) -> io::Result<()> {
        let (resolver, requests) = Resolver::new();
        let thread = HeartbeatThread::new(Arc::clone(&self.shared), sockets, deliver, resolver)?;
        *self.running.lock() = Some(threads::spawn_essential("heartbeat", move || thread.run())?);
        let shared = Arc::clone(&self.shared);
        // The thread is not joined at the end, because it may be blocked.
        threads::spawn_restarting("heartbeat-dns", move || {
            requests.serve(|seed, addresses| shared.post(Post::Resolved(seed, addresses)));
            Ok(())
        })?;
        Ok(())
    }

    /// Sends a pulse to all reachable nodes.
    pub(crate) fn pulse(&self, message: Vec<u8>) {
        self.shared.post(Post::Pulse(message));
    }

    /// The seeds of a mesh.
    pub(crate) fn seeds(&self) -> &Seeds {
        &self.shared.seeds
    }

    /// Counts of received messages, and of the connections of a mesh.
    pub(crate) fn traffic(&self) -> &HeartbeatTraffic {
        &self.shared.traffic
    }

    /// Closes all sockets and ends the threads.
    pub(crate) fn stop(&self) {
        self.shared.post(Post::Stop);
        if let Some(thread) = self.running.lock().take() {
            let _ = thread.join();
        }
    }
}
