//! The heartbeat thread: it owns the sockets, sends pulses to all nodes, and dispatches messages of other
//! nodes.
//!
//! A pulse that a node's connection does not take is dropped: nothing is kept for a node that does not read.
//!
//! # Panics
//! A panic is a bug of ours. It costs the connection that was served, or one pulse.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cf::sys::epoll::{Epoll, Event, Events, Trigger};
use proto::peer::heartbeat::{self, Heartbeat as HeartbeatMessage, HeartbeatBody, INFLATED_SIZE_MAX};
use socket2::{Domain, Protocol, Socket, Type};

use super::mesh::{LinkId, Mesh, MeshAction, MeshTimes};
use super::resolver::Resolver;
use super::shared::{Deliver, Post, Shared};
use super::sockets::{GroupMember, HeartbeatSockets};
use crate::config::params::network::HeartbeatProtocol;
use crate::config::value::Endpoint;
use crate::peer_frames::{PeerFrames, PeerPlace, PeerReach};
use crate::peer_misfits::{Misfit, Misfits, begins_tls};
use crate::tls::{PeerDoor, PeerSession, PeerStream, is_no_tls};

const WAKE_TOKEN: u64 = u64::MAX;
const LISTENER_TOKEN: u64 = 1 << 62;
const GROUP_TOKEN: u64 = 1 << 61;
const EVENTS_MAX: usize = 64;
/// Largest number of connections.
const LINKS_MAX: usize = 1024;
/// Largest datagram.
const DATAGRAM_SIZE_MAX: usize = 64 << 10;
/// Number of datagrams read before other sockets are served.
const DATAGRAMS_PER_TURN: usize = 256;
/// Packet size if none is configured, and that of the interface is not known.
const MTU_DEFAULT: u32 = 1500;
/// Maximum number of seeds that a line of the log names.
const SEEDS_NAMED_MAX: usize = 8;

struct Link {
    socket: TcpStream,
    peer: SocketAddr,
    /// Whether this node made the connection.
    is_ours: bool,
    /// The TLS session, if the connection uses TLS.
    tls: Option<Box<PeerSession>>,
    frames: PeerFrames,
    /// The rest of a message of which a part was sent.
    rest: Vec<u8>,
    connect_by: Option<Instant>,
}

impl Link {
    fn stream(&mut self) -> PeerStream<'_> {
        PeerStream { socket: &self.socket, tls: self.tls.as_deref_mut() }
    }

    /// The misfit that explains an error.
    fn misfit(&self, error: &io::Error) -> Option<Misfit> {
        let port = self.socket.local_addr().ok()?.port();
        match self.tls {
            Some(_) if !is_no_tls(error) => None,
            Some(_) if self.is_ours => Some(Misfit::ClearPeer),
            Some(_) => Some(Misfit::ClearOnTlsPort { port }),
            None => begins_tls(self.frames.unsplit()).then_some(Misfit::TlsOnClearPort { port }),
        }
    }
}

pub(super) struct HeartbeatThread {
    shared: Arc<Shared>,
    doors: Vec<PeerDoor>,
    groups: Vec<GroupMember>,
    deliver: Deliver,
    resolver: Resolver,
    epoll: Epoll,
    links: HashMap<LinkId, Link>,
    mesh: Mesh,
    misfits: Misfits,
    started: Instant,
    next_tick: Instant,
    /// The send time of the last pulse, used in other messages.
    send_time: u64,
}

impl HeartbeatThread {
    pub(super) fn new(
        shared: Arc<Shared>,
        sockets: HeartbeatSockets,
        deliver: Deliver,
        resolver: Resolver,
    ) -> io::Result<Self> {
        let (doors, groups) = match sockets {
            HeartbeatSockets::Mesh(doors) => (doors, Vec::new()),
            HeartbeatSockets::Multicast(groups) => (Vec::new(), groups),
        };
        let epoll = Epoll::new()?;
        epoll.add(shared.bell.wake(), WAKE_TOKEN, Trigger::Signal)?;
        for (at, door) in doors.iter().enumerate() {
            epoll.add(&door.listener, LISTENER_TOKEN + at as u64, Trigger::Level)?;
        }
        for (at, member) in groups.iter().enumerate() {
            epoll.add(&member.socket, GROUP_TOKEN + at as u64, Trigger::Level)?;
        }
        let network = &shared.config.network;
        let reach = PeerReach { clear: network.has_heartbeat_clear(), tls: shared.tls.is_some() };
        Ok(HeartbeatThread {
            mesh: Mesh::new(shared.self_node, reach),
            shared,
            doors,
            groups,
            deliver,
            resolver,
            epoll,
            links: HashMap::new(),
            misfits: Misfits::default(),
            started: Instant::now(),
            next_tick: Instant::now(),
            send_time: 1,
        })
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            let timeout = self.next_tick.saturating_duration_since(Instant::now());
            // The timeout is rounded up, because a wait of less than a millisecond would not wait.
            let timeout = timeout + Duration::from_millis(1);
            let happened = match self.epoll.wait(&mut events, Some(timeout)) {
                Ok(happened) => happened,
                Err(error) => cf::fatal!("epoll of the heartbeat thread failed: {error}"),
            };
            for event in happened {
                self.guard(Some(event.token()), |thread| thread.on_event(event));
            }
            if !self.open_post() {
                return;
            }
            if self.next_tick <= Instant::now() {
                self.guard(None, Self::tick);
            }
        }
    }

    /// Runs `act`. A panic closes the connection that `act` is about, if any.
    fn guard(&mut self, id: Option<LinkId>, act: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| act(self))).is_err() {
            cf::critical!(Hb, "heartbeats failed on an internal error, and continue");
            // Tokens from `GROUP_TOKEN` on are no connections.
            if let Some(id) = id.filter(|id| *id < GROUP_TOKEN) {
                self.close(id);
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn times(&self) -> MeshTimes {
        let params = &self.shared.config.network.heartbeat;
        MeshTimes {
            interval_ms: params.interval.get().into(),
            timeout_intervals: params.timeout.get().into(),
        }
    }

    /// Whether heartbeats are sent and received.
    fn is_on(&self) -> bool {
        self.shared.config.network.heartbeat.protocol.get() != HeartbeatProtocol::None
    }

    fn open_post(&mut self) -> bool {
        self.shared.bell.silence();
        while let Some(post) = self.shared.posts.pop() {
            match post {
                Post::Pulse(message) => self.guard(None, |thread| thread.pulse(&message)),
                Post::Resolved(seed, addresses) => {
                    self.guard(None, |thread| thread.mesh.resolved(&seed, addresses));
                }
                Post::Stop => return false,
            }
        }
        true
    }

    fn tick(&mut self) {
        let times = self.times();
        self.next_tick = Instant::now() + Duration::from_millis(times.interval_ms);
        cf::fault_point!("heartbeat-tick");
        if !self.groups.is_empty() {
            return;
        }
        let now = Instant::now();
        let is_late = |link: &Link| link.connect_by.is_some_and(|limit| limit < now);
        let late: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| is_late(link)).map(|(id, _)| *id).collect();
        late.into_iter().for_each(|id| self.close(id));
        self.mesh.set_seeds(&self.shared.seeds.list());
        if !self.is_on() {
            self.mesh.excuse_seeds();
        }
        let actions = self.mesh.tick(times, self.now_ms());
        self.carry_out(actions, &[]);
    }

    fn carry_out(&mut self, actions: Vec<MeshAction>, message: &[u8]) {
        for action in actions {
            let id = match action {
                MeshAction::Connect(id, _) | MeshAction::Close(id) | MeshAction::Send(id, _) => Some(id),
                MeshAction::Resolve(_) | MeshAction::Deliver | MeshAction::WarnOfUnreached(_) => None,
            };
            self.guard(id, |thread| thread.carry_out_one(action, message));
        }
    }

    fn carry_out_one(&mut self, action: MeshAction, message: &[u8]) {
        match action {
            MeshAction::Resolve(seed) => {
                if let Some(addresses) = self.resolver.ask(&seed) {
                    self.mesh.resolved(&seed, addresses);
                }
            }
            MeshAction::Connect(id, place) => {
                if let Err(error) = self.connect(id, place) {
                    cf::detail!(Hb, "cannot connect to {}: {error}", place.address);
                    self.mesh.closed(id);
                }
            }
            MeshAction::Close(id) => self.close(id),
            MeshAction::Send(id, body) => {
                let message = HeartbeatMessage {
                    node: self.shared.self_node,
                    send_time: self.send_time,
                    endpoints: Some(self.shared.endpoints.clone()),
                    body,
                };
                let mut bytes = Vec::new();
                message.encode(&mut bytes);
                self.send(id, &bytes);
            }
            MeshAction::Deliver => (self.deliver)(message.to_vec()),
            MeshAction::WarnOfUnreached(seeds) => warn_of_unreached(&seeds),
        }
    }

    fn on_event(&mut self, event: &Event) {
        let token = event.token();
        if token == WAKE_TOKEN {
            // The posts are handled after all events.
        } else if token >= LISTENER_TOKEN {
            self.accept((token - LISTENER_TOKEN) as usize);
        } else if token >= GROUP_TOKEN {
            self.receive_datagrams((token - GROUP_TOKEN) as usize);
        } else if event.is_broken() {
            self.close(token);
        } else {
            cf::fault_point!("heartbeat-event");
            if event.is_writable() {
                self.connected(token);
                self.send(token, &[]);
            }
            if event.is_readable() {
                self.read(token);
            }
        }
    }

    fn accept(&mut self, at: usize) {
        let Some(door) = self.doors.get(at) else { return };
        match door.listener.accept() {
            Ok((stream, peer)) => {
                cf::fault_point!("heartbeat-accept");
                if self.links.len() >= LINKS_MAX {
                    return cf::warning_limited!(Hb, "refusing {peer}: there are {LINKS_MAX} connections");
                }
                let tls = match door.tls.as_ref().map(|port| port.peer_session(true)) {
                    Some(None) => return,
                    session => session.flatten(),
                };
                let id = self.mesh.accepted(self.now_ms());
                if let Err(error) = self.add(id, (stream, peer), tls, None) {
                    cf::warning_limited!(Hb, "cannot take the connection of {peer}: {error}");
                    self.mesh.closed(id);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => cf::warning_limited!(Hb, "cannot accept a connection: {error}"),
        }
    }

    fn connect(&mut self, id: LinkId, place: PeerPlace) -> io::Result<()> {
        cf::fault_point!("heartbeat-connect");
        let PeerPlace { address, is_tls } = place;
        let session = self.shared.tls.as_ref().filter(|_| is_tls).and_then(|port| port.peer_session(false));
        if is_tls && session.is_none() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let timeout = self.shared.config.network.heartbeat.connect_timeout_ms.get();
        let connect_by = Instant::now() + Duration::from_millis(timeout.into());
        self.add(id, (socket.into(), address), session, Some(connect_by))
    }

    fn add(
        &mut self,
        id: LinkId,
        (socket, peer): (TcpStream, SocketAddr),
        tls: Option<Box<PeerSession>>,
        connect_by: Option<Instant>,
    ) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        self.epoll.add(&socket, id, Trigger::Edge)?;
        let frames = PeerFrames::new(INFLATED_SIZE_MAX);
        self.shared.traffic.connections.note_opened();
        let is_ours = connect_by.is_some();
        self.links.insert(id, Link { socket, peer, is_ours, tls, frames, rest: Vec::new(), connect_by });
        Ok(())
    }

    fn connected(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.connect_by = None;
        }
    }

    fn close(&mut self, id: LinkId) {
        if let Some(link) = self.links.remove(&id) {
            self.shared.traffic.connections.note_closed();
            self.epoll.remove(&link.socket);
        }
        self.mesh.closed(id);
    }

    // --- messages

    /// Sends a pulse to all nodes. A pulse larger than a packet is compressed.
    fn pulse(&mut self, message: &[u8]) {
        if !self.is_on() {
            return;
        }
        cf::fault_point!("heartbeat-pulse");
        if let Ok(HeartbeatMessage { send_time, .. }) = HeartbeatMessage::decode_plain(message) {
            self.send_time = send_time;
        }
        let network = &self.shared.config.network;
        let sizes = [network.heartbeat.mtu.get(), network.heartbeat_interface_mtu.get(), MTU_DEFAULT];
        let mtu = sizes.into_iter().find(|size| *size != 0).unwrap_or(MTU_DEFAULT);
        let mut wrapped = Vec::new();
        if message.len() > mtu as usize / 10 * 6 {
            heartbeat::wrap(&mut wrapped, &heartbeat::deflate(message));
        }
        let bytes = if wrapped.is_empty() { message } else { &wrapped };
        for member in &self.groups {
            if let Err(error) = member.socket.send_to(bytes, member.group) {
                cf::warning_limited!(Hb, "cannot send to {}: {error}", member.group);
            }
        }
        let connected = self.links.iter().filter(|(_, link)| link.connect_by.is_none());
        let ids: Vec<LinkId> = connected.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.send(id, bytes));
    }

    /// Sends the rest of the previous message, then this one, if its connection takes it.
    fn send(&mut self, id: LinkId, message: &[u8]) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.rest.is_empty() {
            link.rest.extend_from_slice(message);
        }
        if link.stream().flush().is_err() {
            return self.close(id);
        }
        while let Some(link) = self.links.get_mut(&id).filter(|link| !link.rest.is_empty()) {
            let mut stream = PeerStream { socket: &link.socket, tls: link.tls.as_deref_mut() };
            match stream.write(&link.rest) {
                Ok(size) => _ = link.rest.drain(..size),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // No byte of the message was sent, so a later pulse replaces it.
                    if link.rest.len() == message.len() {
                        link.rest.clear();
                    }
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(id),
            }
        }
    }

    fn read(&mut self, id: LinkId) {
        loop {
            let Some(link) = self.links.get_mut(&id) else { return };
            let mut stream = PeerStream { socket: &link.socket, tls: link.tls.as_deref_mut() };
            match link.frames.receive(&mut stream) {
                Ok(0) => return self.close(id),
                Ok(_) => {
                    let mut messages = Vec::new();
                    let taken = link.frames.take_apart(|message| {
                        messages.push(message.to_vec());
                        true
                    });
                    messages.iter().for_each(|message| self.take(id, message));
                    if let Err(error) = taken {
                        return self.fail(id, &io::Error::new(io::ErrorKind::InvalidData, error));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(id, &error),
            }
        }
    }

    /// Closes a connection after an error. Invalid data is the fault of the other side, and is logged.
    fn fail(&mut self, id: LinkId, error: &io::Error) {
        if let Some(link) = self.links.get(&id)
            && error.kind() == io::ErrorKind::InvalidData
        {
            match link.misfit(error) {
                None => cf::warning_limited!(Hb, "closing a connection of {}: {error}", link.peer),
                Some(misfit) => {
                    if self.misfits.is_due(link.peer.ip(), Instant::now()) {
                        cf::warning_limited!(Hb, "closing a connection of {}: {misfit}", link.peer);
                    }
                }
            }
        }
        self.close(id);
    }

    fn take(&mut self, id: LinkId, message: &[u8]) {
        if !self.is_on() {
            return;
        }
        match HeartbeatMessage::decode(message) {
            Ok(decoded) => {
                self.count_pulse(&decoded);
                let actions = self.mesh.received(id, &decoded, self.times(), self.now_ms());
                self.carry_out(actions, message);
            }
            Err(error) => {
                self.fail(id, &io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }

    fn receive_datagrams(&mut self, at: usize) {
        let Some(member) = self.groups.get(at) else { return };
        let mut datagram = vec![0; DATAGRAM_SIZE_MAX];
        for _ in 0..DATAGRAMS_PER_TURN {
            let Ok((size, _)) = member.socket.recv_from(&mut datagram) else { return };
            let message = &datagram[..size];
            let pulse = HeartbeatMessage::decode(message).ok();
            if self.is_on()
                && let Some(pulse) = pulse.filter(|pulse| matches!(pulse.body, HeartbeatBody::Pulse(_)))
            {
                self.count_pulse(&pulse);
                (self.deliver)(message.to_vec());
            }
        }
    }

    fn count_pulse(&self, message: &HeartbeatMessage) {
        if matches!(message.body, HeartbeatBody::Pulse(_)) {
            self.shared.traffic.note_pulse(message.node == self.shared.self_node);
        }
    }
}

fn warn_of_unreached(seeds: &[Endpoint]) {
    let (named, others) = seeds.split_at(seeds.len().min(SEEDS_NAMED_MAX));
    let named: Vec<String> = named.iter().map(|seed| format!("{}:{}", seed.host, seed.port)).collect();
    let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
    cf::warning!(Hb, "seeds that cannot be reached: {}{more}", named.join(", "));
}
