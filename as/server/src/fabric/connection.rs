//! Connections to other nodes, as all threads see them, and the set of connections to one node.
//!
//! A connection's fabric thread sends the waiting bytes. A thread that [gathers](super::gathering) its
//! messages sends them itself, or leaves them to another thread that is sending on the connection: each thread
//! looks for more bytes after it has released the sending side.
//!
//! # Locks
//! Two mutexes for each connection: one for its outbox, held to append to it or to take its bytes, and one
//! for sending, taken before the other and held during system calls that do not wait. Threads that gather
//! only try to take the second.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use proto::peer::NodeId;
use proto::peer::hello::Channel;

use super::gathering::{self, Gather};
use super::postbox::Postbox;
use crate::peer_frames::{PeerFrames, PeerPlace};
use crate::peer_traffic::FabricTraffic;
use crate::tls::{PeerSession, PeerStream};

/// Largest number of bytes that wait to be sent on a connection, besides one message. It bounds the memory
/// for a peer that stalls.
const OUTBOX_SIZE_MAX: usize = 16 << 20;
/// Number of waiting bytes from which the next connection of the channel is used.
const BUSY_SIZE: usize = 64 << 10;

/// The reason why a message was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SendError {
    /// There is no connection to the node.
    NotConnected,
    /// Too many bytes wait to be sent to the node.
    Full,
}

/// An outgoing connection to be made.
pub(super) struct Dial {
    pub(super) peer: Arc<Peer>,
    pub(super) channel: Channel,
    /// Number of failed attempts in a row.
    pub(super) failures: u32,
}

/// A message to a fabric thread.
pub(super) enum Post {
    /// A connection made by another node that has named its channel, with the bytes received after that.
    Adopt(Arc<Connection>, PeerFrames, Option<Box<PeerSession>>),
    /// Connect to another node.
    Dial(Dial),
    /// The connection with this token has something to send, or is to be closed.
    Look(u64),
    /// Close everything and end.
    Stop,
}

#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    is_closed: bool,
}

/// The sending side of a connection: bytes from the outbox, and the number of those already sent.
#[derive(Default)]
pub(super) struct Sender {
    bytes: Vec<u8>,
    sent: usize,
    /// Whether the socket may have room. An event on the fabric thread sets it again.
    pub(super) may_write: bool,
}

/// A connection that is open or being opened.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) peer: Arc<Peer>,
    pub(super) channel: Channel,
    /// The token of the connection on its fabric thread.
    pub(super) token: u64,
    thread: Arc<Postbox<Post>>,
    traffic: Arc<FabricTraffic>,
    /// With TLS only the fabric thread sends, because it owns the session.
    uses_tls: bool,
    pub(super) sender: Mutex<Sender>,
    outbox: Mutex<Outbox>,
    /// Number of bytes in the outbox or in the sender.
    backlog: AtomicUsize,
    /// Whether the fabric thread has been told to send.
    is_told: AtomicBool,
    /// Whether the other side has answered.
    is_established: AtomicBool,
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        peer: Arc<Peer>,
        channel: Channel,
        (token, thread): (u64, &Arc<Postbox<Post>>),
        traffic: &Arc<FabricTraffic>,
        uses_tls: bool,
    ) -> Arc<Self> {
        Arc::new(Connection {
            stream,
            peer,
            channel,
            token,
            thread: Arc::clone(thread),
            traffic: Arc::clone(traffic),
            uses_tls,
            sender: Mutex::default(),
            outbox: Mutex::default(),
            backlog: AtomicUsize::new(0),
            is_told: AtomicBool::new(false),
            is_established: AtomicBool::new(false),
        })
    }

    /// Notes that the other side has answered.
    pub(super) fn establish(&self) {
        self.is_established.store(true, Release);
    }

    /// Whether an answer on `channel` to a message that came on this connection leaves on it: the other node reads it,
    /// and nothing large waits before it.
    pub(super) fn takes_answers(&self, channel: Channel) -> bool {
        self.channel == channel && !self.uses_tls && self.backlog.load(Relaxed) < BUSY_SIZE
    }

    /// Whether the other side has answered.
    pub(super) fn is_established(&self) -> bool {
        self.is_established.load(Acquire)
    }

    /// Queues a message behind the waiting ones.
    pub(super) fn queue(self: &Arc<Self>, message: &[u8]) -> Result<(), SendError> {
        let mut outbox = self.outbox.lock();
        if outbox.is_closed {
            return Err(SendError::NotConnected);
        }
        if !outbox.bytes.is_empty() && outbox.bytes.len() + message.len() > OUTBOX_SIZE_MAX {
            return Err(SendError::Full);
        }
        self.backlog.fetch_add(message.len(), Relaxed);
        outbox.bytes.extend_from_slice(message);
        let is_much = outbox.bytes.len() >= BUSY_SIZE;
        drop(outbox);
        // A turn may be long, so the fabric thread sends large amounts during the turn.
        if !gathering::note(self) || is_much {
            self.tell();
        }
        Ok(())
    }

    /// Tells the fabric thread to send the waiting bytes.
    fn tell(&self) {
        if !self.is_told.swap(true, AcqRel) {
            self.thread.post(Post::Look(self.token));
        }
    }

    /// Notes that the fabric thread begins to look at the waiting bytes. It must be told of bytes queued from
    /// now on.
    pub(super) fn looked_at(&self) {
        self.is_told.swap(false, AcqRel);
    }

    /// Sends waiting bytes, as far as the socket takes them.
    ///
    /// # Errors
    /// When the connection is broken. Its fabric thread must close it.
    pub(super) fn send(&self, sender: &mut Sender, mut tls: Option<&mut PeerSession>) -> io::Result<()> {
        loop {
            if sender.sent == sender.bytes.len() {
                sender.bytes.clear();
                sender.sent = 0;
                std::mem::swap(&mut self.outbox.lock().bytes, &mut sender.bytes);
                if sender.bytes.is_empty() {
                    return Ok(());
                }
            }
            if !sender.may_write {
                return Ok(());
            }
            let mut stream = PeerStream { socket: &self.stream, tls: tls.as_deref_mut() };
            match stream.write(&sender.bytes[sender.sent..]) {
                Ok(size) => {
                    sender.sent += size;
                    self.backlog.fetch_sub(size, Relaxed);
                    self.traffic.note_sent(self.channel, size);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sender.may_write = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Releases `sender` after it has sent. Returns whether to send again: meanwhile another thread has queued
    /// bytes, and has left them to this one because it did not get the sender.
    pub(super) fn has_more_for(&self, sender: MutexGuard<'_, Sender>) -> bool {
        let may_write = sender.may_write;
        drop(sender);
        may_write && !self.outbox.lock().bytes.is_empty()
    }

    /// Sends `hello` before everything else, as soon as the socket has room.
    pub(super) fn begin_with(&self, hello: &[u8]) {
        self.backlog.fetch_add(hello.len(), Relaxed);
        self.sender.lock().bytes.extend_from_slice(hello);
    }

    /// Whether the connection must be closed.
    pub(super) fn is_closed(&self) -> bool {
        self.outbox.lock().is_closed
    }

    /// Ends sending; the fabric thread closes the connection.
    pub(super) fn close(&self) {
        let mut outbox = self.outbox.lock();
        outbox.is_closed = true;
        outbox.bytes = Vec::new();
        drop(outbox);
        // The fabric thread may have been told to send already, and then waits until the peer reads.
        self.thread.post(Post::Look(self.token));
    }
}

impl Gather for Connection {
    /// Sends the waiting bytes, or leaves them to the thread that is sending already. The fabric thread is
    /// told of a broken connection, and of bytes for a TLS session, which it owns.
    fn send_gathered(&self) {
        if self.uses_tls {
            return self.tell();
        }
        while let Some(mut sender) = self.sender.try_lock() {
            if self.send(&mut sender, None).is_err() {
                return self.tell();
            }
            if !self.has_more_for(sender) {
                return;
            }
        }
    }
}

/// Another node.
pub(super) struct Peer {
    pub(super) node: NodeId,
    /// Whether heartbeats show that the node is alive. Broken connections to it are then made again.
    is_alive: AtomicBool,
    /// Addresses where the node accepts connections.
    places: Mutex<Vec<PeerPlace>>,
    /// The connections to the node, by channel.
    channels: [ArcSwap<Vec<Arc<Connection>>>; Channel::ALL.len()],
}

impl Peer {
    pub(super) fn new(node: NodeId) -> Self {
        Peer {
            node,
            is_alive: AtomicBool::new(false),
            places: Mutex::default(),
            channels: std::array::from_fn(|_| ArcSwap::default()),
        }
    }

    /// Notes that the node is alive and reachable at `places`.
    pub(super) fn arrive(&self, places: Vec<PeerPlace>) {
        *self.places.lock() = places;
        self.is_alive.store(true, Release);
    }

    /// Notes that the node has departed: all of its connections are closed.
    pub(super) fn depart(&self) {
        self.is_alive.store(false, Release);
        for channel in &self.channels {
            channel.swap(Arc::default()).iter().for_each(|connection| connection.close());
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.is_alive.load(Acquire)
    }

    /// The address for attempt number `attempt` to connect.
    pub(super) fn place(&self, attempt: u32) -> Option<PeerPlace> {
        let places = self.places.lock();
        let at = (attempt as usize).checked_rem(places.len())?;
        places.get(at).copied()
    }

    pub(super) fn connection_count(&self, channel: Channel) -> usize {
        self.channels[channel as usize].load().len()
    }

    /// Bytes that wait to be sent on a channel.
    pub(super) fn backlog(&self, channel: Channel) -> usize {
        let connections = self.channels[channel as usize].load();
        connections.iter().map(|connection| connection.backlog.load(Relaxed)).sum()
    }

    pub(super) fn attach(&self, connection: &Arc<Connection>) {
        self.channels[connection.channel as usize].rcu(|all| {
            let mut all = Vec::clone(all);
            all.push(Arc::clone(connection));
            all
        });
    }

    pub(super) fn detach(&self, connection: &Arc<Connection>) {
        self.channels[connection.channel as usize]
            .rcu(|all| all.iter().filter(|one| !Arc::ptr_eq(one, connection)).cloned().collect::<Vec<_>>());
    }

    /// Sends a message on the first connection of the channel that is not busy, or else on the one with the
    /// shortest queue. While one connection is enough, messages gather there and are sent together.
    pub(super) fn send(&self, channel: Channel, message: &[u8]) -> Result<(), SendError> {
        self.send_if(channel, message, |_| true)
    }

    /// Sends a message about a record. Messages about one record use the same connection as long as it
    /// exists, and so keep their order. The first `spread` connections share the records; more connections
    /// would only send smaller pieces.
    pub(super) fn send_in_order(
        &self,
        channel: Channel,
        record: u64,
        spread: usize,
        message: &[u8],
    ) -> Result<(), SendError> {
        let connections = self.channels[channel as usize].load();
        let spread = spread.clamp(1, connections.len().max(1));
        let connection = connections.get(record as usize % spread);
        connection.ok_or(SendError::NotConnected)?.queue(message)
    }

    /// As [`send`](Self::send), but only on a connection that is `wanted`.
    pub(super) fn send_if(
        &self,
        channel: Channel,
        message: &[u8],
        wanted: impl Fn(&Connection) -> bool,
    ) -> Result<(), SendError> {
        let connections = self.channels[channel as usize].load();
        let connections = || connections.iter().filter(|connection| wanted(connection));
        let backlog = |connection: &Arc<Connection>| connection.backlog.load(Relaxed);
        let idle = connections().find(|connection| backlog(connection) < BUSY_SIZE);
        let best = idle.or_else(|| connections().min_by_key(|connection| backlog(connection)));
        best.ok_or(SendError::NotConnected)?.queue(message)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::time::Duration;

    use super::super::gathering::Gathering;
    use super::*;

    const MESSAGE: [u8; 20] = [7; 20];
    const THREADS: usize = 3;
    const MESSAGES: usize = 1000;

    #[test]
    fn what_threads_send_at_the_same_time_leaves_without_the_fabric_thread() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut other_end, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let postbox = Arc::new(Postbox::new().unwrap());
        let peer = Arc::new(Peer::new(NodeId(2)));
        let connection =
            Connection::new(stream, peer, Channel::ReadWrite, (1, &postbox), &Arc::default(), false);
        connection.sender.lock().may_write = true;
        other_end.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut received = vec![0; THREADS * MESSAGES * MESSAGE.len()];
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..MESSAGES {
                        let _gathering = Gathering::begin();
                        connection.queue(&MESSAGE).unwrap();
                    }
                });
            }
            other_end.read_exact(&mut received).unwrap();
        });
        assert_eq!(connection.backlog.load(Relaxed), 0);
        assert!(postbox.take().is_none(), "the fabric thread was told");
    }
}
