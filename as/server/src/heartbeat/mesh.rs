//! The connections of a mesh: to seeds, to nodes that others report, and one for each pair of nodes. This is
//! pure logic, without I/O and clock; the heartbeat thread carries out its actions.
//!
//! A pulse names the nodes that its sender hears. If one of them is unknown here, this node asks the sender
//! for its address and connects to it. If two nodes have connected to each other at the same time, both keep
//! the connection accepted by the node with the higher id, as the C server does.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proto::peer::NodeId;
use proto::peer::heartbeat::{Heartbeat, HeartbeatBody};
use proto::peer::nested::Endpoint;

use crate::config::value::Endpoint as SeedEndpoint;
use crate::peer_frames::{PeerPlace, PeerReach};

/// Time after which a seed that has led to no node is resolved again.
const RESOLVE_AGAIN_MS: u64 = 1500;
/// Time after which a seed that led to this node itself is resolved again.
const RESOLVE_SELF_AGAIN_MS: u64 = 60_000;
/// How long seeds are tried before the log names them, as nodes that start together do not reach each other at first; and time
/// between two such lines.
const UNREACHED_MS: u64 = 3_000;
const UNREACHED_AGAIN_MS: u64 = 10_000;
/// Largest number of known nodes, connected or not.
const NODES_MAX: usize = 512;

/// Names a connection.
pub(super) type LinkId = u64;

/// An action for the heartbeat thread.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum MeshAction {
    /// Resolve the addresses of a seed.
    Resolve(SeedEndpoint),
    /// Connect; the connection gets this id, and [`Mesh::closed`] is called if it fails.
    Connect(LinkId, PeerPlace),
    Close(LinkId),
    Send(LinkId, HeartbeatBody),
    /// Pass the message to the cluster thread.
    Deliver,
    /// Log that these seeds cannot be reached.
    WarnOfUnreached(Vec<SeedEndpoint>),
}

/// Times from the configuration, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct MeshTimes {
    pub(super) interval_ms: u64,
    pub(super) timeout_intervals: u64,
}

impl MeshTimes {
    /// Time without a message after which a connection is closed.
    fn idle_ms(self) -> u64 {
        self.interval_ms * (self.timeout_intervals / 3).max(2)
    }

    /// Time without a message after which a node is forgotten.
    fn forget_ms(self) -> u64 {
        10 * self.interval_ms * self.timeout_intervals
    }
}

#[derive(Debug)]
struct Seed {
    endpoint: SeedEndpoint,
    addresses: Vec<SocketAddr>,
    attempts: usize,
    resolve_at_ms: u64,
    /// The node that the seed led to.
    node: Option<NodeId>,
    /// Whether the seed led to this node itself.
    is_self: bool,
    /// Since when it has led to no node.
    unreached_since_ms: Option<u64>,
}

#[derive(Debug, Default)]
struct MeshNode {
    endpoints: Vec<Endpoint>,
    attempts: usize,
    heard_ms: u64,
    /// When the node's address was last requested.
    asked_ms: Option<u64>,
}

/// The purpose of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Origin {
    Accepted,
    Seed(SeedEndpoint),
    Node(NodeId),
}

#[derive(Debug)]
struct MeshLink {
    origin: Origin,
    /// Known with the first message.
    node: Option<NodeId>,
    heard_ms: u64,
}

/// The mesh as this node sees it.
#[derive(Debug)]
pub(super) struct Mesh {
    self_node: NodeId,
    reach: PeerReach,
    seeds: Vec<Seed>,
    nodes: BTreeMap<NodeId, MeshNode>,
    links: BTreeMap<LinkId, MeshLink>,
    last_link: LinkId,
    /// When unreached seeds may be named again.
    warn_at_ms: u64,
}

impl Mesh {
    pub(super) fn new(self_node: NodeId, reach: PeerReach) -> Self {
        Mesh {
            self_node,
            reach,
            seeds: Vec::new(),
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            last_link: 0,
            warn_at_ms: 0,
        }
    }

    /// Replaces the seeds.
    pub(super) fn set_seeds(&mut self, seeds: &[SeedEndpoint]) {
        self.seeds.retain(|seed| seeds.contains(&seed.endpoint));
        for endpoint in seeds {
            if !self.seeds.iter().any(|seed| seed.endpoint == *endpoint) {
                self.seeds.push(Seed {
                    endpoint: endpoint.clone(),
                    addresses: Vec::new(),
                    attempts: 0,
                    resolve_at_ms: 0,
                    node: None,
                    is_self: false,
                    unreached_since_ms: None,
                });
            }
        }
    }

    /// Notes the addresses of a seed.
    pub(super) fn resolved(&mut self, endpoint: &SeedEndpoint, addresses: Vec<SocketAddr>) {
        if let Some(seed) = self.seeds.iter_mut().find(|seed| seed.endpoint == *endpoint) {
            if seed.addresses != addresses {
                seed.is_self = false;
            }
            seed.addresses = addresses;
        }
    }

    /// Notes an accepted connection of another node.
    pub(super) fn accepted(&mut self, now_ms: u64) -> LinkId {
        self.add_link(Origin::Accepted, now_ms)
    }

    /// Notes that a connection is gone.
    pub(super) fn closed(&mut self, link: LinkId) {
        self.links.remove(&link);
    }

    fn add_link(&mut self, origin: Origin, now_ms: u64) -> LinkId {
        self.last_link += 1;
        self.links.insert(self.last_link, MeshLink { origin, node: None, heard_ms: now_ms });
        self.last_link
    }

    /// Whether there is a connection to a node, or one is being made.
    fn is_linked(&self, node: NodeId) -> bool {
        let is_to = |link: &MeshLink| {
            link.node == Some(node) || link.node.is_none() && link.origin == Origin::Node(node)
        };
        self.links.values().any(is_to)
    }

    /// Closes idle connections and makes missing ones. Called at each interval.
    pub(super) fn tick(&mut self, times: MeshTimes, now_ms: u64) -> Vec<MeshAction> {
        let mut actions = Vec::new();
        let is_idle = |link: &MeshLink| link.heard_ms + times.idle_ms() < now_ms;
        let idle = self.links.iter().filter(|(_, link)| is_idle(link)).map(|(id, _)| MeshAction::Close(*id));
        actions.extend(idle);
        self.nodes.retain(|_, node| now_ms < node.heard_ms + times.forget_ms());
        self.connect_seeds(now_ms, &mut actions);
        self.warn_of_unreached(now_ms, &mut actions);
        let unlinked: Vec<NodeId> =
            self.nodes.keys().copied().filter(|node| !self.is_linked(*node)).collect();
        unlinked.into_iter().for_each(|node| self.connect_node(node, now_ms, &mut actions));
        actions
    }

    fn connect_seeds(&mut self, now_ms: u64, actions: &mut Vec<MeshAction>) {
        for at in 0..self.seeds.len() {
            let seed = &self.seeds[at];
            let origin = Origin::Seed(seed.endpoint.clone());
            let is_reached =
                seed.node.is_some_and(|node| self.is_linked(node) || self.nodes.contains_key(&node));
            let is_tried = self.links.values().any(|link| link.origin == origin);
            let seed = &mut self.seeds[at];
            if is_reached || seed.is_self {
                seed.unreached_since_ms = None;
            } else {
                seed.unreached_since_ms.get_or_insert(now_ms);
            }
            if is_reached || is_tried {
                continue;
            }
            if seed.resolve_at_ms <= now_ms {
                let pause_ms = if seed.is_self { RESOLVE_SELF_AGAIN_MS } else { RESOLVE_AGAIN_MS };
                seed.resolve_at_ms = now_ms + pause_ms;
                actions.push(MeshAction::Resolve(seed.endpoint.clone()));
            }
            if seed.addresses.is_empty() || seed.is_self {
                continue;
            }
            let address = seed.addresses[seed.attempts % seed.addresses.len()];
            let place = PeerPlace { address, is_tls: seed.endpoint.tls_name.is_some() };
            seed.attempts += 1;
            let link = self.add_link(origin, now_ms);
            actions.push(MeshAction::Connect(link, place));
        }
    }

    /// Forgets since when seeds have led to no node, because heartbeats are switched off.
    pub(super) fn excuse_seeds(&mut self) {
        self.seeds.iter_mut().for_each(|seed| seed.unreached_since_ms = None);
    }

    /// Names the seeds that have not led to a node for some time: all in one line, not too often.
    fn warn_of_unreached(&mut self, now_ms: u64, actions: &mut Vec<MeshAction>) {
        let is_unreached =
            |seed: &&Seed| seed.unreached_since_ms.is_some_and(|since_ms| since_ms + UNREACHED_MS <= now_ms);
        let unreached = self.seeds.iter().filter(is_unreached).map(|seed| seed.endpoint.clone());
        let unreached: Vec<SeedEndpoint> = unreached.collect();
        if self.warn_at_ms <= now_ms && !unreached.is_empty() {
            self.warn_at_ms = now_ms + UNREACHED_AGAIN_MS;
            actions.push(MeshAction::WarnOfUnreached(unreached));
        }
    }

    fn connect_node(&mut self, id: NodeId, now_ms: u64, actions: &mut Vec<MeshAction>) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let places = self.reach.places(&node.endpoints);
        if places.is_empty() {
            return;
        }
        let place = places[node.attempts % places.len()];
        node.attempts += 1;
        let link = self.add_link(Origin::Node(id), now_ms);
        actions.push(MeshAction::Connect(link, place));
    }

    /// Handles a message.
    pub(super) fn received(
        &mut self,
        link_id: LinkId,
        message: &Heartbeat,
        times: MeshTimes,
        now_ms: u64,
    ) -> Vec<MeshAction> {
        let Some(link) = self.links.get_mut(&link_id) else { return Vec::new() };
        link.heard_ms = now_ms;
        let is_first = link.node.replace(message.node) != Some(message.node);
        let mut actions = Vec::new();
        if let Origin::Seed(endpoint) = link.origin.clone()
            && let Some(seed) = self.seeds.iter_mut().find(|seed| seed.endpoint == endpoint)
        {
            seed.node = Some(message.node);
            seed.is_self = message.node == self.self_node;
        }
        if message.node == self.self_node {
            if link.origin != Origin::Accepted {
                actions.push(MeshAction::Close(link_id));
            }
            // The other node may have our id.
            actions.push(MeshAction::Deliver);
            return actions;
        }
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&message.node) {
            return vec![MeshAction::Close(link_id)];
        }
        let node = self.nodes.entry(message.node).or_default();
        node.heard_ms = now_ms;
        node.attempts = 0;
        if let Some(endpoints) = &message.endpoints {
            node.endpoints.clone_from(endpoints);
        }
        if is_first && let Some(loser) = self.loser(link_id, message.node) {
            actions.push(MeshAction::Close(loser));
        }
        match &message.body {
            HeartbeatBody::Pulse(pulse) => {
                actions.push(MeshAction::Deliver);
                let unknown = self.ask_for(&pulse.adjacency, times, now_ms);
                if !unknown.is_empty() {
                    actions.push(MeshAction::Send(link_id, HeartbeatBody::InfoRequest(unknown)));
                }
            }
            HeartbeatBody::InfoRequest(asked) => {
                let known = |id: &NodeId| {
                    let endpoints = self.nodes.get(id).map(|node| node.endpoints.clone())?;
                    (!endpoints.is_empty()).then_some((*id, endpoints))
                };
                let told: Vec<_> = asked.iter().filter_map(known).collect();
                if !told.is_empty() {
                    actions.push(MeshAction::Send(link_id, HeartbeatBody::InfoReply(told)));
                }
            }
            HeartbeatBody::InfoReply(told) => self.told(told, now_ms, &mut actions),
        }
        actions
    }

    /// The connection to close if there are two to a node: the link `link_id` or an older one.
    fn loser(&self, link_id: LinkId, node: NodeId) -> Option<LinkId> {
        let acceptor = |link: &MeshLink| {
            if link.origin == Origin::Accepted { self.self_node } else { node }
        };
        let is_other = |(id, link): &(&LinkId, &MeshLink)| **id != link_id && link.node == Some(node);
        let (other_id, other) = self.links.iter().find(is_other)?;
        let own = self.links.get(&link_id)?;
        // Of two connections made by the same side, the older one stays.
        Some(if acceptor(own) > acceptor(other) { *other_id } else { link_id })
    }

    /// The nodes of `adjacency` whose addresses are to be requested now.
    fn ask_for(&mut self, adjacency: &[NodeId], times: MeshTimes, now_ms: u64) -> Vec<NodeId> {
        let mut unknown = Vec::new();
        for id in adjacency.iter().filter(|id| **id != self.self_node) {
            if self.is_linked(*id) || self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(id) {
                continue;
            }
            let node = self.nodes.entry(*id).or_default();
            node.heard_ms = now_ms;
            let is_due = node.asked_ms.is_none_or(|asked_ms| asked_ms + times.interval_ms <= now_ms);
            if node.endpoints.is_empty() && is_due {
                node.asked_ms = Some(now_ms);
                unknown.push(*id);
            }
        }
        unknown
    }

    /// Handles addresses that were requested; others are ignored.
    fn told(&mut self, told: &[(NodeId, Vec<Endpoint>)], now_ms: u64, actions: &mut Vec<MeshAction>) {
        for (id, endpoints) in told {
            let is_linked = self.is_linked(*id);
            let Some(node) = self.nodes.get_mut(id) else { continue };
            if is_linked || node.asked_ms.is_none() || !node.endpoints.is_empty() {
                continue;
            }
            node.endpoints.clone_from(endpoints);
            self.connect_node(*id, now_ms, actions);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::peer::heartbeat::{ClusteringState, Departure, Pulse};
    use proto::peer::nested::Address;

    use super::*;

    const TIMES: MeshTimes = MeshTimes { interval_ms: 150, timeout_intervals: 10 };

    fn endpoint(node: u64) -> Endpoint {
        Endpoint { capabilities: 0, address: Address::V4([10, 0, 0, node as u8]), port: 3002 }
    }

    fn clear(address: SocketAddr) -> PeerPlace {
        PeerPlace { address, is_tls: false }
    }

    fn seed(host: &str) -> SeedEndpoint {
        SeedEndpoint { host: host.to_owned(), port: 3002, tls_name: None }
    }

    fn mesh(node: u64) -> Mesh {
        Mesh::new(NodeId(node), PeerReach { clear: true, tls: false })
    }

    fn message(node: u64, body: HeartbeatBody) -> Heartbeat {
        Heartbeat { node: NodeId(node), send_time: 1, endpoints: Some(vec![endpoint(node)]), body }
    }

    fn pulse(node: u64, adjacency: &[u64]) -> Heartbeat {
        let pulse = Pulse {
            cluster_name: None,
            fabric_endpoints: Vec::new(),
            adjacency: adjacency.iter().map(|node| NodeId(*node)).collect(),
            clustering: ClusteringState::default(),
            wall_ms: None,
            departure: Departure::Staying,
        };
        message(node, HeartbeatBody::Pulse(pulse))
    }

    #[test]
    fn seeds_are_resolved_then_connected_again_and_again() {
        let mut mesh = mesh(5);
        mesh.set_seeds(&[seed("a")]);
        assert_eq!(mesh.tick(TIMES, 1000), [MeshAction::Resolve(seed("a"))]);
        assert_eq!(mesh.tick(TIMES, 1150), [], "it was asked just now");
        let (first, second) = ("10.0.0.1:3002".parse().unwrap(), "10.0.0.2:3002".parse().unwrap());
        mesh.resolved(&seed("a"), vec![first, second]);
        assert_eq!(mesh.tick(TIMES, 1300), [MeshAction::Connect(1, clear(first))]);
        assert_eq!(mesh.tick(TIMES, 1450), [], "a connection is being made");
        mesh.closed(1);
        assert_eq!(mesh.tick(TIMES, 1600), [MeshAction::Connect(2, clear(second))]);
        assert_eq!(mesh.received(2, &pulse(9, &[]), TIMES, 1700), [MeshAction::Deliver]);
        mesh.closed(2);
        // From now on it is a node of the mesh.
        let own: SocketAddr = "10.0.0.9:3002".parse().unwrap();
        assert_eq!(mesh.tick(TIMES, 1800), [MeshAction::Connect(3, clear(own))]);
        // No message arrives on it.
        assert_eq!(mesh.tick(TIMES, 2300), [MeshAction::Close(3)]);
        mesh.closed(3);
        mesh.set_seeds(&[]);
        assert_eq!(mesh.tick(TIMES, 1700 + 15_000), [], "the node is forgotten");
    }

    #[test]
    fn seeds_that_cannot_be_reached_are_named_now_and_then() {
        let mut mesh = mesh(5);
        mesh.set_seeds(&[seed("a"), seed("b"), seed("c")]);
        let address = |node: u8| SocketAddr::from(([10, 0, 0, node], 3002));
        let mut warned = Vec::new();
        for now_ms in (0..30_000).step_by(150) {
            for action in mesh.tick(TIMES, now_ms) {
                match action {
                    MeshAction::Resolve(seed) => {
                        let addresses = match seed.host.as_str() {
                            "a" => vec![address(5)],
                            "b" => vec![address(6)],
                            _ => Vec::new(),
                        };
                        mesh.resolved(&seed, addresses);
                    }
                    // The node itself answers always, node 6 from 15 s on.
                    MeshAction::Connect(link, place) if place.address == address(5) => {
                        mesh.received(link, &pulse(5, &[]), TIMES, now_ms);
                        mesh.closed(link);
                    }
                    MeshAction::Connect(link, _) if now_ms > 15_000 => {
                        mesh.received(link, &pulse(6, &[]), TIMES, now_ms);
                    }
                    MeshAction::Connect(link, _) | MeshAction::Close(link) => mesh.closed(link),
                    MeshAction::WarnOfUnreached(seeds) => {
                        warned.push((now_ms, seeds.into_iter().map(|seed| seed.host).collect::<String>()));
                    }
                    MeshAction::Send(..) | MeshAction::Deliver => {}
                }
            }
        }
        let warned: Vec<_> = warned.iter().map(|(at_ms, hosts)| (*at_ms, hosts.as_str())).collect();
        assert_eq!(warned, [(3_000, "bc"), (13_050, "bc"), (23_100, "c")]);
    }

    #[test]
    fn seeds_are_not_named_while_heartbeats_are_switched_off() {
        let mut mesh = mesh(5);
        mesh.set_seeds(&[seed("a")]);
        let is_warning = |action: &MeshAction| matches!(action, MeshAction::WarnOfUnreached(_));
        let warns = |now_ms: &u64| {
            if (2_000..20_000).contains(now_ms) {
                mesh.excuse_seeds();
            }
            mesh.tick(TIMES, *now_ms).iter().any(is_warning)
        };
        // They are tried for as long as ever when heartbeats are on again.
        assert_eq!((0..30_000).step_by(100).find(warns), Some(19_900 + UNREACHED_MS));
    }

    #[test]
    fn a_seed_that_is_the_node_itself_is_left_alone() {
        let mut mesh = mesh(5);
        mesh.set_seeds(&[seed("a")]);
        mesh.tick(TIMES, 0);
        mesh.resolved(&seed("a"), vec!["10.0.0.5:3002".parse().unwrap()]);
        mesh.tick(TIMES, 150);
        let accepted = mesh.accepted(150);
        let actions = mesh.received(1, &pulse(5, &[]), TIMES, 300);
        assert_eq!(actions, [MeshAction::Close(1), MeshAction::Deliver]);
        assert_eq!(mesh.received(accepted, &pulse(5, &[]), TIMES, 300), [MeshAction::Deliver]);
        mesh.closed(1);
        mesh.closed(accepted);
        assert_eq!(mesh.tick(TIMES, 1000), []);
    }

    #[test]
    fn nodes_that_others_hear_are_asked_for_and_connected_to() {
        let mut mesh = mesh(5);
        let link = mesh.accepted(0);
        let asks = MeshAction::Send(link, HeartbeatBody::InfoRequest(vec![NodeId(7)]));
        assert_eq!(mesh.received(link, &pulse(6, &[5, 7]), TIMES, 0), [MeshAction::Deliver, asks.clone()]);
        assert_eq!(mesh.received(link, &pulse(6, &[5, 7]), TIMES, 10), [MeshAction::Deliver]);
        assert_eq!(mesh.received(link, &pulse(6, &[5, 7]), TIMES, 160), [MeshAction::Deliver, asks]);
        // Addresses that were not requested are ignored.
        let reply = |node: u64| HeartbeatBody::InfoReply(vec![(NodeId(node), vec![endpoint(node)])]);
        assert_eq!(mesh.received(link, &message(6, reply(8)), TIMES, 170), []);
        let to: SocketAddr = "10.0.0.7:3002".parse().unwrap();
        let actions = mesh.received(link, &message(6, reply(7)), TIMES, 180);
        assert_eq!(actions, [MeshAction::Connect(2, clear(to))]);
        // The node answers such questions itself.
        let asked = message(6, HeartbeatBody::InfoRequest(vec![NodeId(7), NodeId(8), NodeId(5)]));
        assert_eq!(mesh.received(link, &asked, TIMES, 190), [MeshAction::Send(link, reply(7))]);
    }

    #[test]
    fn of_two_connections_both_sides_keep_the_same() {
        // Node 5 has accepted link 1 and made link 2, node 6 the other way round.
        let (mut low, mut high) = (mesh(5), mesh(6));
        for mesh in [&mut low, &mut high] {
            mesh.accepted(0);
            let other = if mesh.self_node == NodeId(5) { 6 } else { 5 };
            mesh.nodes
                .insert(NodeId(other), MeshNode { endpoints: vec![endpoint(other)], ..Default::default() });
            assert!(matches!(mesh.tick(TIMES, 1)[..], [MeshAction::Connect(2, _)]));
        }
        assert_eq!(low.received(1, &pulse(6, &[]), TIMES, 2), [MeshAction::Deliver]);
        assert_eq!(low.received(2, &pulse(6, &[]), TIMES, 3), [MeshAction::Close(1), MeshAction::Deliver]);
        assert_eq!(high.received(2, &pulse(5, &[]), TIMES, 2), [MeshAction::Deliver]);
        assert_eq!(high.received(1, &pulse(5, &[]), TIMES, 3), [MeshAction::Close(2), MeshAction::Deliver]);
    }
}
