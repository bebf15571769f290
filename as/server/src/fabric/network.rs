//! The fabric: the connections to other nodes, and the sending and receiving of messages.
//!
//! # Locks
//! One mutex for the list of threads, taken only at the start and the end.

use std::io;
use std::sync::Arc;

use cf::Digest;
use cf::threads::{self, Handle};
use parking_lot::Mutex;
use proto::peer::NodeId;
use proto::peer::hello::Channel;
use proto::peer::nested::Endpoint;

use super::arrival;
use super::connection::{Connection, Dial, Post, SendError};
use super::peers::{FabricSettings, Handlers, Peers};
use super::thread::FabricThread;
use crate::peer_traffic::FabricTraffic;
use crate::tls::PeerDoor;

/// The connections of a channel to a node.
pub(crate) struct ChannelFigures {
    pub(crate) name: &'static str,
    pub(crate) connections: usize,
    /// Bytes that wait to be sent.
    pub(crate) waiting_bytes: usize,
}

/// Another node.
pub(crate) struct PeerFigures {
    pub(crate) node: NodeId,
    pub(crate) is_alive: bool,
    pub(crate) channels: [ChannelFigures; Channel::ALL.len()],
}

/// Connections to other nodes.
pub(crate) struct Fabric {
    peers: Arc<Peers>,
    running: Mutex<Vec<Handle>>,
}

impl Fabric {
    /// A fabric without connections and threads.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub(crate) fn new(self_node: NodeId, settings: FabricSettings) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Fabric { peers: Arc::new(Peers::new(self_node, settings)?), running: Mutex::default() }))
    }

    /// Starts the threads. `doors` accept connections, and `handlers` take messages.
    ///
    /// # Errors
    /// When the system refuses a thread or file descriptor.
    pub(crate) fn start(&self, doors: Vec<PeerDoor>, handlers: Handlers) -> io::Result<()> {
        let handlers = Arc::new(handlers);
        let mut doors = Some(doors);
        for channel in Channel::ALL {
            for (number, postbox) in self.peers.postboxes(channel).iter().enumerate() {
                let takes_in = if channel == Channel::Control { doors.take() } else { None };
                let thread = FabricThread::new(
                    Arc::clone(&self.peers),
                    Arc::clone(postbox),
                    Arc::clone(&handlers),
                    takes_in.unwrap_or_default(),
                )?;
                let name = format!("fabric-{}-{number}", name(channel));
                self.running.lock().push(threads::spawn_essential(&name, move || thread.run())?);
            }
        }
        Ok(())
    }

    /// Closes all connections and ends the threads.
    pub(crate) fn stop(&self) {
        for channel in Channel::ALL {
            self.peers.postboxes(channel).iter().for_each(|postbox| postbox.post(Post::Stop));
        }
        for thread in std::mem::take(&mut *self.running.lock()) {
            let _ = thread.join();
        }
    }

    /// The id of this node.
    pub(crate) fn self_node(&self) -> NodeId {
        self.peers.self_node()
    }

    /// Sends a whole message, including its header, to another node, without waiting. Success does not mean
    /// that the message arrives.
    ///
    /// # Errors
    /// When there is no connection, or too many bytes wait to be sent on it.
    pub(crate) fn send(&self, to: NodeId, channel: Channel, message: &[u8]) -> Result<(), SendError> {
        self.peers.find(to).ok_or(SendError::NotConnected)?.send(channel, message)
    }

    /// As [`send`](Self::send), for the answer to a message of that node. A handler's answer leaves on the connection
    /// on which the message came, if that is not busy. With TLS it does not: C servers read only the connections that
    /// they have accepted.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(crate) fn answer(&self, to: NodeId, channel: Channel, message: &[u8]) -> Result<(), SendError> {
        match arrival::connection_to(to).filter(|connection| connection.takes_answers(channel)) {
            Some(connection) if connection.queue(message).is_ok() => Ok(()),
            _ => self.send(to, channel, message),
        }
    }

    /// As [`send`](Self::send), on the read-write channel, in the order of messages about the record of
    /// `digest`: unless a connection breaks, a message does not overtake an earlier one.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(crate) fn send_in_order(&self, to: NodeId, digest: &Digest, message: &[u8]) -> Result<(), SendError> {
        let peer = self.peers.find(to).ok_or(SendError::NotConnected)?;
        let spread = self.peers.postboxes(Channel::ReadWrite).len();
        let record = u64::from(u32::from_le_bytes([digest.0[16], digest.0[17], digest.0[18], digest.0[19]]));
        peer.send_in_order(Channel::ReadWrite, record, spread, message)
    }

    /// As [`send`](Self::send), but only on connections on which the other node has answered, not on those
    /// being made. It is for messages that may be sent to another node instead.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(crate) fn send_now(&self, to: NodeId, channel: Channel, message: &[u8]) -> Result<(), SendError> {
        let peer = self.peers.find(to).ok_or(SendError::NotConnected)?;
        peer.send_if(channel, message, Connection::is_established)
    }

    /// Whether heartbeats show that a node is alive.
    pub(crate) fn is_alive(&self, node: NodeId) -> bool {
        self.peers.find(node).is_some_and(|peer| peer.is_alive())
    }

    /// Notes that a node has arrived, and connects to it. It stays connected until it
    /// [departs](Self::depart).
    pub(crate) fn arrive(&self, node: NodeId, endpoints: &[Endpoint]) {
        let Some(peer) = self.peers.peer(node) else { return };
        let was_alive = peer.is_alive();
        let places = self.peers.settings.reach.places(endpoints);
        if places.is_empty() && !was_alive {
            cf::warning_limited!(
                Fabric,
                "cannot connect to node {node}, whose heartbeats arrive here: {}",
                misfit(endpoints)
            );
        }
        peer.arrive(places);
        if was_alive {
            return;
        }
        for channel in Channel::ALL {
            for number in 0..self.peers.settings.connections[channel as usize] {
                let dial = Dial { peer: Arc::clone(&peer), channel, failures: 0 };
                self.peers.postbox(node, channel, number as usize).post(Post::Dial(dial));
            }
        }
    }

    /// Notes that a node has departed: closes its connections, and drops its waiting messages.
    pub(crate) fn depart(&self, node: NodeId) {
        if let Some(departed) = self.peers.remove(node) {
            departed.depart();
        }
    }

    /// The other nodes and the connections to them.
    pub(crate) fn peers(&self) -> Vec<PeerFigures> {
        self.peers.visit(|peer| PeerFigures {
            node: peer.node,
            is_alive: peer.is_alive(),
            channels: Channel::ALL.map(|channel| ChannelFigures {
                name: name(channel),
                connections: peer.connection_count(channel),
                waiting_bytes: peer.backlog(channel),
            }),
        })
    }

    /// The traffic on the connections.
    pub(crate) fn traffic(&self) -> &FabricTraffic {
        &self.peers.traffic
    }

    /// Number of connections.
    pub(crate) fn connection_count(&self) -> usize {
        self.peers.connection_count()
    }
}

/// The channel's part of thread names.
fn name(channel: Channel) -> &'static str {
    match channel {
        Channel::ReadWrite => "rw",
        Channel::Control => "ctrl",
        Channel::Bulk => "bulk",
        Channel::Metadata => "meta",
    }
}

/// Why none of a node's endpoints can be used from here, and what helps.
fn misfit(endpoints: &[Endpoint]) -> &'static str {
    if endpoints.is_empty() {
        "it tells no address of its fabric; give it an address and a port in network { fabric } there"
    } else if endpoints.iter().all(|endpoint| endpoint.capabilities & Endpoint::TLS != 0) {
        "its fabric has only TLS, and the fabric of this node has none; give network { fabric } here a tls-port and a \
         tls-name, or that node a port without TLS"
    } else {
        "its fabric has no TLS, and the fabric of this node has only that; give network { fabric } there a tls-port and a \
         tls-name, or this node a port without TLS"
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use proto::peer::MessageType;
    use proto::peer::fields::{Fields, Value, Writer};
    use proto::peer::hello::Hello;
    use proto::peer::nested::Address;

    use super::super::peers::Handler;
    use super::*;
    use crate::config::NetworkConfig;

    /// Keeps the received messages.
    #[derive(Default)]
    struct Kept(Mutex<Vec<(NodeId, u64)>>);

    impl Handler for Kept {
        fn take(&self, from: NodeId, message: &[u8]) {
            for field in Fields::of(message, MessageType::Smd).expect("an SMD message") {
                if let Ok((0, Value::U64(number))) = field {
                    self.0.lock().push((from, number));
                }
            }
        }
    }

    struct Side {
        fabric: Arc<Fabric>,
        kept: Arc<Kept>,
        endpoint: Endpoint,
    }

    fn new_fabric(node: u64) -> Arc<Fabric> {
        Fabric::new(NodeId(node), FabricSettings::new(&NetworkConfig::default(), None)).unwrap()
    }

    /// Starts a fabric whose messages `handler` takes. Returns its port.
    fn start(fabric: &Fabric, handler: Arc<dyn Handler>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut handlers = Handlers::default();
        handlers.add(MessageType::Smd, handler);
        fabric.start(vec![PeerDoor { listener, tls: None }], handlers).unwrap();
        port
    }

    fn side(node: u64) -> Side {
        let (fabric, kept) = (new_fabric(node), Arc::<Kept>::default());
        let port = start(&fabric, Arc::clone(&kept) as Arc<dyn Handler>);
        let endpoint = Endpoint { capabilities: 0, address: Address::V4([127, 0, 0, 1]), port };
        Side { fabric, kept, endpoint }
    }

    fn message(number: u64, padding: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, MessageType::Smd);
        writer.u64(0, number);
        writer.buffer(1, &vec![7; padding]);
        writer.finish();
        bytes
    }

    fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < Duration::from_secs(20), "never: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn messages_arrive_on_every_channel_and_large_ones_whole() {
        let (one, two) = (side(1), side(2));
        assert_eq!(
            one.fabric.send(NodeId(2), Channel::Control, &message(1, 0)),
            Err(SendError::NotConnected)
        );
        one.fabric.arrive(NodeId(2), &[two.endpoint]);
        // Node two made 12 connections; the other side has accepted them.
        wait_for("connected", || two.fabric.connection_count() == 12);
        let mut sent = Vec::new();
        for (number, channel) in Channel::ALL.into_iter().cycle().take(400).enumerate() {
            let padding = if number % 50 == 0 { 3 << 20 } else { number };
            one.fabric.send(NodeId(2), channel, &message(number as u64, padding)).unwrap();
            sent.push((NodeId(1), number as u64));
        }
        wait_for("all have come", || two.kept.0.lock().len() == 400);
        let mut kept = std::mem::take(&mut *two.kept.0.lock());
        kept.sort_unstable();
        assert_eq!(kept, sent);
        // Connections carry messages both ways.
        two.fabric.send(NodeId(1), Channel::Metadata, &message(5, 0)).unwrap();
        wait_for("the answer has come", || one.kept.0.lock().len() == 1);
        two.fabric.depart(NodeId(1));
        assert_eq!(two.fabric.connection_count(), 0);
        // The other side considers it alive, and connects again.
        wait_for("connected again", || two.fabric.connection_count() == 12);
        one.fabric.depart(NodeId(2));
        wait_for("gone", || one.fabric.connection_count() == 0 && two.fabric.connection_count() == 0);
        one.fabric.stop();
        two.fabric.stop();
    }

    /// Sends each message back.
    struct Echo(Arc<Fabric>);

    impl Handler for Echo {
        fn take(&self, from: NodeId, message: &[u8]) {
            self.0.answer(from, Channel::ReadWrite, message).unwrap();
        }
    }

    #[test]
    fn an_answer_leaves_on_the_connection_of_its_question() {
        let fabric = new_fabric(1);
        let port = start(&fabric, Arc::new(Echo(Arc::clone(&fabric))));
        let mut hello = Vec::new();
        Hello { node: NodeId(2), channel: Channel::ReadWrite }.encode(&mut hello);
        let mut connections = [0, 1].map(|number| {
            let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
            connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            connection.write_all(&hello).unwrap();
            wait_for("accepted", || fabric.connection_count() > number);
            connection
        });
        for (number, at) in [1, 0, 1].into_iter().enumerate() {
            let question = message(number as u64, 300);
            connections[at].write_all(&question).unwrap();
            let mut answer = vec![0; question.len()];
            connections[at].read_exact(&mut answer).unwrap();
            assert_eq!(answer, question);
        }
        fabric.stop();
    }

    #[test]
    fn a_peer_that_does_not_read_fills_its_own_queue_only() {
        let (one, two) = (side(1), side(2));
        let stalled = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = stalled.local_addr().unwrap().port();
        one.fabric.arrive(NodeId(3), &[Endpoint { port, ..two.endpoint }]);
        one.fabric.arrive(NodeId(2), &[two.endpoint]);
        wait_for("connected", || two.fabric.connection_count() == 12);
        let large = message(1, 1 << 20);
        let mut count = 0;
        while one.fabric.send(NodeId(3), Channel::Metadata, &large).is_ok() {
            count += 1;
            assert!(count < 1000, "the queue has no end");
        }
        assert_eq!(one.fabric.send(NodeId(3), Channel::Metadata, &large), Err(SendError::Full));
        one.fabric.send(NodeId(2), Channel::Metadata, &message(9, 0)).unwrap();
        wait_for("the other has its message", || !two.kept.0.lock().is_empty());
        one.fabric.stop();
        two.fabric.stop();
    }
}
