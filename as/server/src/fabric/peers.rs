//! State shared by the fabric's threads: the other nodes, the threads themselves, and the handlers of
//! messages.
//!
//! # Locks
//! The map of peers is replaced as a whole under a mutex and read without a lock.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cf::threads;
use parking_lot::Mutex;
use proto::peer::hello::Channel;
use proto::peer::{MessageType, NodeId};

use super::connection::{Peer, Post};
use super::postbox::Postbox;
use crate::config::NetworkConfig;
use crate::peer_frames::PeerReach;
use crate::peer_traffic::FabricTraffic;
use crate::tls::TlsPort;

/// Largest number of nodes whose connections are kept, alive or not.
const PEERS_MAX: usize = 512;

/// Takes messages of one type. It runs on a fabric thread and delays other messages there, so it must not
/// wait.
pub(crate) trait Handler: Send + Sync {
    /// Takes a whole message of `from`, including its header. Its bytes have not been checked.
    fn take(&self, from: NodeId, message: &[u8]);
}

/// The handlers of messages by type; messages without a handler are dropped.
#[derive(Default)]
pub(crate) struct Handlers(BTreeMap<u16, Arc<dyn Handler>>);

impl Handlers {
    /// Registers `handler` for messages of `message_type`.
    pub(crate) fn add(&mut self, message_type: MessageType, handler: Arc<dyn Handler>) {
        self.0.insert(message_type as u16, handler);
    }

    pub(super) fn get(&self, type_number: u16) -> Option<&Arc<dyn Handler>> {
        self.0.get(&type_number)
    }
}

/// The fabric's settings from the configuration.
#[derive(Clone)]
pub(crate) struct FabricSettings {
    /// Connections to each peer, by channel.
    pub(super) connections: [u32; Channel::ALL.len()],
    /// Threads that own connections, by channel.
    threads: [usize; Channel::ALL.len()],
    /// Idle time before the first probe, time between probes, and their number.
    pub(super) keepalive: Option<(Duration, Duration, u32)>,
    /// Settings of TLS connections, if there are any.
    pub(super) tls: Option<Arc<TlsPort>>,
    /// How this node may connect to other nodes.
    pub(super) reach: PeerReach,
}

impl FabricSettings {
    /// Takes the settings from the configuration. One thread for each processor is enough for any channel,
    /// because no thread waits. Half as many are enough for the channel read-write without TLS: service threads do
    /// the other half of the work for a replicated write, and a thread that finds more messages when it wakes up
    /// needs less time for each.
    pub(crate) fn new(network: &NetworkConfig, tls: Option<Arc<TlsPort>>) -> Self {
        let params = &network.fabric;
        let processors = threads::cpu_count();
        let for_records = if tls.is_some() { processors } else { processors.div_ceil(2) };
        let threads = |configured: u32, limit: usize| (configured as usize).clamp(1, limit);
        let seconds = |number: u32| Duration::from_secs(u64::from(number.max(1)));
        let keepalive = (
            seconds(params.keepalive_time.get()),
            seconds(params.keepalive_intvl.get()),
            params.keepalive_probes.get(),
        );
        FabricSettings {
            connections: [
                params.channel_rw_fds.get(),
                params.channel_ctrl_fds.get(),
                params.channel_bulk_fds.get(),
                params.channel_meta_fds.get(),
            ],
            threads: [
                threads(params.channel_rw_recv_threads.get(), for_records),
                1,
                threads(params.channel_bulk_recv_threads.get(), processors),
                1,
            ],
            keepalive: params.keepalive_enabled.get().then_some(keepalive),
            reach: PeerReach { clear: network.has_fabric_clear(), tls: tls.is_some() },
            tls,
        }
    }
}

type Postboxes = Vec<Arc<Postbox<Post>>>;

/// The other nodes and the threads that own connections to them.
pub(super) struct Peers {
    self_node: NodeId,
    pub(super) settings: FabricSettings,
    pub(super) traffic: Arc<FabricTraffic>,
    peers: ArcSwap<BTreeMap<NodeId, Arc<Peer>>>,
    changing: Mutex<()>,
    /// By channel.
    postboxes: [Postboxes; Channel::ALL.len()],
}

impl Peers {
    /// Makes the state without other nodes.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub(super) fn new(self_node: NodeId, settings: FabricSettings) -> io::Result<Self> {
        let of_channel = |channel: Channel| -> io::Result<Postboxes> {
            (0..settings.threads[channel as usize]).map(|_| Postbox::new().map(Arc::new)).collect()
        };
        let [read_write, control, bulk, metadata] = Channel::ALL.map(of_channel);
        Ok(Peers {
            self_node,
            postboxes: [read_write?, control?, bulk?, metadata?],
            settings,
            traffic: Arc::default(),
            peers: ArcSwap::default(),
            changing: Mutex::default(),
        })
    }

    pub(super) fn self_node(&self) -> NodeId {
        self.self_node
    }

    /// The state of a node, if it is known.
    pub(super) fn find(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.peers.load().get(&node).cloned()
    }

    /// The state of a node, alive or not, which is added if needed. `None` if there are too many.
    pub(super) fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        let _changing = self.changing.lock();
        let peers = self.peers.load();
        if let Some(peer) = peers.get(&node) {
            return Some(Arc::clone(peer));
        }
        if node == self.self_node || peers.len() >= PEERS_MAX {
            return None;
        }
        let peer = Arc::new(Peer::new(node));
        let mut peers = BTreeMap::clone(&peers);
        peers.insert(node, Arc::clone(&peer));
        self.peers.store(Arc::new(peers));
        Some(peer)
    }

    /// Removes the state of a node and returns it.
    pub(super) fn remove(&self, node: NodeId) -> Option<Arc<Peer>> {
        let _changing = self.changing.lock();
        let mut peers = BTreeMap::clone(&self.peers.load());
        let removed = peers.remove(&node);
        self.peers.store(Arc::new(peers));
        removed
    }

    /// The results of `visit` for all nodes.
    pub(super) fn visit<T>(&self, visit: impl Fn(&Peer) -> T) -> Vec<T> {
        self.peers.load().values().map(|peer| visit(peer)).collect()
    }

    /// Number of connections.
    pub(super) fn connection_count(&self) -> usize {
        let peers = self.peers.load();
        let of_peer = |peer: &Arc<Peer>| Channel::ALL.map(|channel| peer.connection_count(channel));
        peers.values().flat_map(of_peer).sum()
    }

    /// The postboxes of the threads that own connections of a channel.
    pub(super) fn postboxes(&self, channel: Channel) -> &Postboxes {
        &self.postboxes[channel as usize]
    }

    /// The postbox of the thread that owns connection number `number` of a channel to `node`. The first
    /// connections to the nodes, which carry most messages, are spread over the threads.
    pub(super) fn postbox(&self, node: NodeId, channel: Channel, number: usize) -> &Arc<Postbox<Post>> {
        let postboxes = self.postboxes(channel);
        let first = cf::wyhash::hash64(&node.0.to_le_bytes()) as usize;
        &postboxes[first.wrapping_add(number) % postboxes.len()]
    }
}
