//! A fabric thread: it owns connections, passes received messages to their handlers, and sends waiting bytes.
//!
//! Between two waits for events it reads received bytes, and then sends the bytes that its handlers and other
//! threads have queued meanwhile. The answers to many messages so leave together. A connection with more to
//! read than one turn allows is read again after the others.
//!
//! # Panics
//! A panic in the work for a connection, or in the handler of a message that arrived on it, is a bug of ours.
//! It costs only that connection, and the thread connects again if this node made the connection. The thread
//! is essential: a panic elsewhere ends the process.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cf::sys::epoll::{Epoll, Event, Events, Trigger};
use proto::peer::hello::{Channel, Hello};
use proto::peer::{HEADER_SIZE, MESSAGE_SIZE_MAX, MessageHeader, NodeId};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::arrival;
use super::connection::{Connection, Dial, Peer, Post};
use super::gathering::Gathering;
use super::peers::{Handlers, Peers};
use super::postbox::Postbox;
use crate::peer_frames::{PeerFrames, PeerPlace};
use crate::peer_misfits::begins_tls;
use crate::tls::{PeerDoor, PeerSession, PeerStream};

const WAKE_TOKEN: u64 = u64::MAX;
/// First token of listeners; tokens of connections begin at 0.
const LISTENER_TOKEN: u64 = 1 << 62;
const EVENTS_MAX: usize = 128;
/// Number of reads from one connection before others have their turn.
const READS_PER_TURN: usize = 8;
/// How often timeouts are checked, while there may be some.
const SWEEP_PERIOD: Duration = Duration::from_millis(50);
/// Longest time for making a connection, and for a hello on an accepted one.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
const HELLO_TIME_MAX: Duration = Duration::from_secs(5);
const HELLO_SIZE_MAX: usize = 1 << 10;
/// Largest number of connections without a hello yet.
const GREETINGS_MAX: usize = 512;
/// Largest number of connections that one peer may make for one channel.
const ACCEPTED_MAX: usize = 256;
/// Pause before a connection is made again; it doubles with each failure.
const REDIAL_PAUSE: Duration = Duration::from_millis(20);
const REDIAL_DOUBLINGS_MAX: u32 = 6;

/// A connection that this thread owns.
struct Link {
    connection: Arc<Connection>,
    /// The TLS session, if the connection uses TLS.
    tls: Option<Box<PeerSession>>,
    frames: PeerFrames,
    /// Deadline of the connection attempt.
    connect_by: Option<Instant>,
    /// Deadline of a TLS handshake that this node has begun.
    handshake_by: Option<Instant>,
    /// Whether this node made the connection, and makes it again when it breaks.
    is_ours: bool,
    failures: u32,
    may_read: bool,
    /// Whether the peer sends nothing more.
    is_ending: bool,
}

/// An accepted connection before its hello.
struct Greeting {
    stream: TcpStream,
    peer: SocketAddr,
    /// The TLS session, if the connection uses TLS.
    tls: Option<Box<PeerSession>>,
    frames: PeerFrames,
    hello_by: Instant,
}

pub(super) struct FabricThread {
    peers: Arc<Peers>,
    postbox: Arc<Postbox<Post>>,
    handlers: Arc<Handlers>,
    doors: Vec<PeerDoor>,
    epoll: Epoll,
    links: HashMap<u64, Link>,
    greetings: HashMap<u64, Greeting>,
    /// Connections to be made, ordered by time.
    redials: BTreeMap<(Instant, u64), Dial>,
    /// Links with more to read.
    ready: Vec<u64>,
    next_sweep: Instant,
}

impl FabricThread {
    pub(super) fn new(
        peers: Arc<Peers>,
        postbox: Arc<Postbox<Post>>,
        handlers: Arc<Handlers>,
        doors: Vec<PeerDoor>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(&postbox.wake, WAKE_TOKEN, Trigger::Signal)?;
        for (at, door) in doors.iter().enumerate() {
            epoll.add(&door.listener, LISTENER_TOKEN + at as u64, Trigger::Level)?;
        }
        Ok(FabricThread {
            peers,
            postbox,
            handlers,
            doors,
            epoll,
            links: HashMap::new(),
            greetings: HashMap::new(),
            redials: BTreeMap::new(),
            ready: Vec::new(),
            next_sweep: Instant::now(),
        })
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        while self.open_post() {
            let may_sleep = self.ready.is_empty() && self.postbox.fall_asleep();
            let timeout = if may_sleep { self.patience() } else { Duration::ZERO };
            let happened = match self.epoll.wait(&mut events, Some(timeout)) {
                Ok(happened) => happened,
                Err(error) => cf::fatal!("epoll of a fabric thread failed: {error}"),
            };
            self.postbox.wake_up();
            let gathering = Gathering::begin();
            for event in happened {
                self.guard(event.token(), |thread| thread.on_event(event));
            }
            for token in std::mem::take(&mut self.ready) {
                self.guard(token, |thread| thread.read(token));
            }
            drop(gathering);
            self.sweep();
        }
        for (_, link) in self.links.drain() {
            link.connection.peer.detach(&link.connection);
        }
    }

    /// Runs `act`, which is about the connection of `token`. A panic closes that connection. Returns whether
    /// there was none.
    fn guard(&mut self, token: u64, act: impl FnOnce(&mut Self)) -> bool {
        let is_done = catch_unwind(AssertUnwindSafe(|| act(self))).is_ok();
        if !is_done {
            cf::critical!(Fabric, "a connection with another node failed on an internal error");
            self.greetings.remove(&token);
            self.close(token);
        }
        is_done
    }

    /// How long the thread may wait for events.
    fn patience(&self) -> Duration {
        let has_limits = !self.greetings.is_empty()
            || !self.redials.is_empty()
            || self.links.values().any(|link| link.connect_by.is_some() || link.handshake_by.is_some());
        if has_limits { SWEEP_PERIOD } else { Duration::from_secs(1) }
    }

    /// Handles the posts of other threads. Returns whether to continue.
    fn open_post(&mut self) -> bool {
        while let Some(post) = self.postbox.take() {
            match post {
                Post::Adopt(connection, frames, tls) => {
                    let adopted = Arc::clone(&connection);
                    if !self.guard(adopted.token, |thread| thread.adopt(connection, frames, tls)) {
                        // No thread may queue messages on the connection any more.
                        adopted.peer.detach(&adopted);
                    }
                }
                Post::Dial(dial) => self.dial(dial),
                Post::Look(token) => _ = self.guard(token, |thread| thread.send(token)),
                Post::Stop => return false,
            }
        }
        true
    }

    fn on_event(&mut self, event: &Event) {
        let token = event.token();
        if token == WAKE_TOKEN {
            // The posts are handled before the next wait.
        } else if token >= LISTENER_TOKEN {
            self.accept((token - LISTENER_TOKEN) as usize);
        } else if self.greetings.contains_key(&token) {
            self.greet(token);
        } else if let Some(link) = self.links.get_mut(&token) {
            cf::fault_point!("fabric-event");
            link.may_read |= event.is_readable();
            link.is_ending |= event.is_last_to_read();
            if event.is_broken() {
                return self.close(token);
            }
            if event.is_writable() {
                link.connection.sender.lock().may_write = true;
                if link.connect_by.take().is_some() {
                    if link.tls.is_some() {
                        link.handshake_by = Some(Instant::now() + CONNECT_TIME_MAX);
                    } else {
                        link.failures = 0;
                        link.connection.establish();
                    }
                }
                self.send(token);
            }
            self.read(token);
        }
    }

    // --- connections of other nodes

    fn accept(&mut self, at: usize) {
        let Some(door) = self.doors.get(at) else { return };
        match door.listener.accept() {
            Ok((stream, peer)) => {
                cf::fault_point!("fabric-accept");
                if self.greetings.len() >= GREETINGS_MAX {
                    return cf::warning_limited!(
                        Fabric,
                        "refusing {peer}: too many connections have sent nothing yet"
                    );
                }
                let tls = match door.tls.as_ref().map(|port| port.peer_session(true)) {
                    Some(None) => return,
                    session => session.flatten(),
                };
                let token = self.postbox.new_token();
                let added = stream
                    .set_nonblocking(true)
                    .and_then(|()| self.epoll.add(&stream, token, Trigger::Level));
                if let Err(error) = added {
                    return cf::warning_limited!(Fabric, "cannot take the connection of {peer}: {error}");
                }
                let frames = PeerFrames::new(HELLO_SIZE_MAX);
                let hello_by = Instant::now() + HELLO_TIME_MAX;
                self.greetings.insert(token, Greeting { stream, peer, tls, frames, hello_by });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => cf::warning_limited!(Fabric, "cannot accept a connection: {error}"),
        }
    }

    /// Reads the hello of a connection, and hands the connection to the thread that will own it.
    fn greet(&mut self, token: u64) {
        while let Some(greeting) = self.greetings.get_mut(&token) {
            let mut stream = PeerStream { socket: &greeting.stream, tls: greeting.tls.as_deref_mut() };
            match greeting.frames.receive(&mut stream) {
                Ok(0) => _ = self.greetings.remove(&token),
                Ok(_) => self.take_hello(token),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    if error.kind() == io::ErrorKind::InvalidData {
                        cf::warning_limited!(Fabric, "closing the connection of {}: {error}", greeting.peer);
                    }
                    self.greetings.remove(&token);
                }
            }
        }
    }

    fn take_hello(&mut self, token: u64) {
        let Some(greeting) = self.greetings.get_mut(&token) else { return };
        let mut hello = None;
        let taken = greeting.frames.take_apart(|message| {
            hello = Some(Hello::decode(message));
            false
        });
        match (taken, hello) {
            (Ok(()), None) => {}
            (Ok(()), Some(Ok(hello))) => {
                if let Some(greeting) = self.greetings.remove(&token) {
                    self.epoll.remove(&greeting.stream);
                    self.hand_over(greeting, hello);
                }
            }
            (Err(error), _) | (_, Some(Err(error))) => {
                let is_tls = greeting.tls.is_none() && begins_tls(greeting.frames.unsplit());
                let why =
                    if is_tls { "it uses TLS, and this port has none".into() } else { error.to_string() };
                cf::warning_limited!(
                    Fabric,
                    "the connection of {} does not begin with a hello: {why}",
                    greeting.peer
                );
                self.greetings.remove(&token);
            }
        }
    }

    fn hand_over(&self, greeting: Greeting, hello: Hello) {
        let Some(peer) = self.peers.peer(hello.node) else {
            return cf::warning_limited!(Fabric, "refusing a connection of node {}", hello.node);
        };
        let number = peer.connection_count(hello.channel);
        if number >= ACCEPTED_MAX {
            return cf::warning_limited!(
                Fabric,
                "refusing a connection of node {}: it has too many",
                hello.node
            );
        }
        if let Err(error) = self.prepare(&greeting.stream) {
            return cf::warning_limited!(Fabric, "cannot use a connection of node {}: {error}", hello.node);
        }
        let postbox = self.peers.postbox(hello.node, hello.channel, number);
        let Greeting { stream, mut frames, tls, .. } = greeting;
        frames.allow(HEADER_SIZE + MESSAGE_SIZE_MAX);
        let connection = Connection::new(
            stream,
            Arc::clone(&peer),
            hello.channel,
            (postbox.new_token(), postbox),
            &self.peers.traffic,
            tls.is_some(),
        );
        peer.attach(&connection);
        postbox.post(Post::Adopt(connection, frames, tls));
    }

    fn adopt(&mut self, connection: Arc<Connection>, frames: PeerFrames, tls: Option<Box<PeerSession>>) {
        cf::fault_point!("fabric-adopt");
        if let Err(error) = self.epoll.add(&connection.stream, connection.token, Trigger::Edge) {
            connection.peer.detach(&connection);
            return cf::warning_limited!(Fabric, "cannot watch a connection: {error}");
        }
        let token = connection.token;
        connection.establish();
        connection.sender.lock().may_write = true;
        self.peers.traffic.connections.note_opened();
        self.links.insert(token, Link::new(connection, frames, tls, None));
        // Handle the bytes that arrived with the hello.
        self.take_apart(token);
        self.read(token);
        self.send(token);
    }

    // --- connections of this node

    fn dial(&mut self, dial: Dial) {
        if !dial.peer.is_alive() {
            return;
        }
        let connected = catch_unwind(AssertUnwindSafe(|| self.connect(&dial)));
        match connected {
            Ok(Ok(())) => return,
            Ok(Err(error)) => cf::detail!(Fabric, "cannot connect to node {}: {error}", dial.peer.node),
            Err(_) => {
                cf::critical!(
                    Fabric,
                    "connecting to node {} failed on an internal error, and is tried again",
                    dial.peer.node
                );
            }
        }
        self.dial_later(dial.peer, dial.channel, dial.failures + 1);
    }

    fn dial_later(&mut self, peer: Arc<Peer>, channel: Channel, failures: u32) {
        let at = Instant::now() + REDIAL_PAUSE * (1 << failures.min(REDIAL_DOUBLINGS_MAX));
        let token = self.postbox.new_token();
        self.redials.insert((at, token), Dial { peer, channel, failures });
    }

    fn connect(&mut self, dial: &Dial) -> io::Result<()> {
        cf::fault_point!("fabric-dial");
        let place = dial.peer.place(dial.failures).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let PeerPlace { address, is_tls } = place;
        let port = self.peers.settings.tls.as_ref().filter(|_| is_tls);
        let tls = port.and_then(|port| port.peer_session(false));
        if is_tls && tls.is_none() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let stream = TcpStream::from(socket);
        self.prepare(&stream)?;
        let token = self.postbox.new_token();
        self.epoll.add(&stream, token, Trigger::Edge)?;
        let connection = Connection::new(
            stream,
            Arc::clone(&dial.peer),
            dial.channel,
            (token, &self.postbox),
            &self.peers.traffic,
            tls.is_some(),
        );
        let frames = PeerFrames::new(HEADER_SIZE + MESSAGE_SIZE_MAX);
        let mut link =
            Link::new(Arc::clone(&connection), frames, tls, Some(Instant::now() + CONNECT_TIME_MAX));
        link.failures = dial.failures;
        let mut hello = Vec::new();
        Hello { node: self.peers.self_node(), channel: dial.channel }.encode(&mut hello);
        connection.begin_with(&hello);
        self.peers.traffic.connections.note_opened();
        self.links.insert(token, link);
        // Messages queued from now on are sent after the hello.
        dial.peer.attach(&connection);
        if !dial.peer.is_alive() {
            connection.close();
        }
        Ok(())
    }

    /// Sets the options of a connection's socket. TCP need not wait for more bytes, because the server
    /// gathers them itself.
    fn prepare(&self, stream: &TcpStream) -> io::Result<()> {
        let socket = socket2::SockRef::from(stream);
        socket.set_tcp_nodelay(true)?;
        if let Some((idle, interval, probes)) = self.peers.settings.keepalive {
            let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(probes);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        Ok(())
    }

    // --- reading and sending

    fn read(&mut self, token: u64) {
        for _ in 0..READS_PER_TURN {
            let Some(link) = self.links.get_mut(&token) else { return };
            if !link.may_read || link.connect_by.is_some() {
                return;
            }
            let mut stream = PeerStream { socket: &link.connection.stream, tls: link.tls.as_deref_mut() };
            let received = link.frames.receive(&mut stream);
            let is_established = link.tls.as_deref_mut().is_some_and(PeerSession::has_just_been_established);
            if is_established {
                link.handshake_by = None;
                link.failures = 0;
                link.connection.establish();
                link.connection.sender.lock().may_write = true;
            }
            if link.connection.channel == Channel::Bulk && received.is_ok() {
                acknowledge_at_once(&link.connection.stream);
            }
            match received {
                Ok(0) => return self.close(token),
                Ok(size) => {
                    self.peers.traffic.note_received(link.connection.channel, size);
                    // An event tells of bytes that arrive later. The end of a connection may be told only
                    // once.
                    link.may_read = link.tls.is_some() || link.is_ending || link.frames.is_full();
                    self.take_apart(token);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => link.may_read = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(token, &error),
            }
            if is_established {
                self.send(token);
            }
        }
        self.ready.push(token);
    }

    /// Closes a connection after an error. Invalid data is the fault of the other side, and is logged.
    fn fail(&mut self, token: u64, error: &io::Error) {
        if let Some(link) = self.links.get(&token)
            && error.kind() == io::ErrorKind::InvalidData
        {
            cf::warning_limited!(
                Fabric,
                "closing a connection of node {}: {error}",
                link.connection.peer.node
            );
        }
        self.close(token);
    }

    /// Passes received messages to their handlers.
    fn take_apart(&mut self, token: u64) {
        let Some(link) = self.links.get_mut(&token) else { return };
        let (from, handlers) = (link.connection.peer.node, &self.handlers);
        let taken = arrival::handle_on(&link.connection, || {
            link.frames.take_apart(|message| {
                cf::fault_point!("fabric-message");
                handle(handlers, from, message);
                true
            })
        });
        if let Err(error) = taken {
            cf::warning_limited!(Fabric, "closing a connection of node {from}: {error}");
            self.close(token);
        }
    }

    /// Sends waiting bytes, as far as the connection takes them.
    fn send(&mut self, token: u64) {
        let Some(link) = self.links.get_mut(&token) else { return };
        if link.connection.is_closed() {
            return self.close(token);
        }
        cf::fault_point!("fabric-send");
        link.connection.looked_at();
        let mut tls = link.tls.as_deref_mut().filter(|_| link.connect_by.is_none());
        loop {
            let mut sender = link.connection.sender.lock();
            // Bytes encrypted earlier go first.
            let flushed = tls.as_deref_mut().map(|tls| tls.flush(&link.connection.stream));
            if let Some(Ok(false)) = flushed {
                sender.may_write = false;
            }
            let is_broken = matches!(flushed, Some(Err(_)))
                || link.connection.send(&mut sender, tls.as_deref_mut()).is_err();
            if is_broken {
                drop(sender);
                return self.close(token);
            }
            if !link.connection.has_more_for(sender) {
                return;
            }
        }
    }

    /// Closes a connection. One that this node made is made again while the peer is alive.
    fn close(&mut self, token: u64) {
        let Some(link) = self.links.remove(&token) else { return };
        self.peers.traffic.connections.note_closed();
        self.epoll.remove(&link.connection.stream);
        let peer = Arc::clone(&link.connection.peer);
        peer.detach(&link.connection);
        if link.is_ours && peer.is_alive() {
            self.dial_later(peer, link.connection.channel, link.failures + 1);
        }
    }

    /// Closes connections that have timed out, and makes those that are due.
    fn sweep(&mut self) {
        let now = Instant::now();
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP_PERIOD;
        self.greetings.retain(|_, greeting| now < greeting.hello_by);
        let is_late = |link: &Link| link.connect_by.or(link.handshake_by).is_some_and(|limit| limit < now);
        let late: Vec<u64> =
            self.links.iter().filter(|(_, link)| is_late(link)).map(|(token, _)| *token).collect();
        late.into_iter().for_each(|token| self.close(token));
        while let Some(entry) = self.redials.first_entry()
            && entry.key().0 <= now
        {
            let dial = entry.remove();
            self.dial(dial);
        }
    }
}

impl Link {
    fn new(
        connection: Arc<Connection>,
        frames: PeerFrames,
        tls: Option<Box<PeerSession>>,
        connect_by: Option<Instant>,
    ) -> Self {
        Link {
            connection,
            tls,
            handshake_by: None,
            frames,
            is_ours: connect_by.is_some(),
            connect_by,
            failures: 0,
            may_read: true,
            is_ending: false,
        }
    }
}

/// Makes TCP acknowledge the received bytes now. By Nagle's rule the C server sends the second message of a
/// partition only after the first is acknowledged. TCP would delay the acknowledgement by 40 ms, because our
/// answers use another connection.
fn acknowledge_at_once(stream: &TcpStream) {
    // The connection works without the option, but more slowly.
    let _ = socket2::SockRef::from(stream).set_tcp_quickack(true);
}

fn handle(handlers: &Handlers, from: NodeId, message: &[u8]) {
    let Ok(Some(header)) = MessageHeader::parse(message) else { return };
    match handlers.get(header.type_number) {
        Some(handler) => handler.take(from, message),
        None => cf::detail!(Fabric, "message of type {} from node {from} dropped", header.type_number),
    }
}
