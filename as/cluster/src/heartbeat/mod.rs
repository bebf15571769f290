//! Heartbeat membership: the nodes that are alive, the nodes that each of them sees, and their clusters.
//!
//! Every node sends a *pulse* each interval. The pulse names the nodes whose pulses the sender receives (its
//! *adjacency*) and the sender's clustering state. A node without a pulse for the node timeout has
//! *departed*. The caller transports the pulses, by the links of a mesh or by multicast. A node that stops
//! says so in its pulses, and departs with its last one.
//!
//! A pulse is ignored when its cluster name differs, when a later one of the sender is known, and when the
//! cluster is full. A pulse with our own id from other fabric endpoints means that two nodes share an id:
//! this node then stays an orphan. A peer whose fabric endpoints keep changing is on probation, and invisible
//! until they stop changing.

pub(crate) mod clique;

use std::collections::{BTreeMap, BTreeSet};

use proto::peer::NodeId;
use proto::peer::heartbeat::{self as wire, ClusteringState, Departure, HeartbeatBody, Pulse};
use proto::peer::nested::Endpoint;

use crate::time::{Now, Timing};

/// Number of consecutive pulses with another cluster name after which a node counts as departed.
const NAME_MISMATCHES_MAX: u32 = 2;

/// The contents of a node's pulses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    pub fabric_endpoints: Vec<Endpoint>,
    /// Its addresses for heartbeat connections; none in multicast.
    pub endpoints: Vec<Endpoint>,
    /// When its last pulse arrived, by the monotonic clock.
    pub received_ms: u64,
    /// When that pulse was sent, by the sender's hybrid logical clock.
    pub send_time: u64,
    pub adjacency: BTreeSet<NodeId>,
    pub clustering: ClusteringState,
    /// The difference between its wall clock and ours at its last pulse.
    pub clock_skew_ms: i64,
    /// Whether it is about to stop.
    pub departure: Departure,
    name_mismatches: u32,
    /// The end of its probation for changing endpoints; it is invisible until then.
    probation_until_ms: u64,
    endpoints_changed_ms: Option<u64>,
}

/// A change of the visible nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    Arrived(NodeId),
    Departed(NodeId),
    /// The set of nodes that a peer sees changed.
    AdjacencyChanged(NodeId),
    /// A peer's clustering state changed.
    ClusteringChanged(NodeId),
}

/// The reason why a message was ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ignored {
    /// It is not a pulse, but a question or an answer about endpoints.
    NotAPulse,
    ClusterName,
    /// A later pulse of that node is known.
    Stale,
    /// The cluster has its largest permitted number of nodes.
    Full,
    /// It has this node's id.
    OwnId,
    /// The node's endpoints keep changing.
    OnProbation,
}

/// The membership state of this node.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    self_node: NodeId,
    cluster_name: Option<Vec<u8>>,
    nodes_max: usize,
    timing: Timing,
    peers: BTreeMap<NodeId, Peer>,
    /// Until this time another node with our id counts as present.
    duplicate_until_ms: u64,
    fabric_endpoints: Vec<Endpoint>,
    next_pulse_ms: u64,
    /// Whether our pulses say that this node is about to stop.
    departure: Departure,
}

impl Heartbeat {
    /// Makes the state of a node that sees no others yet. The cluster may have `nodes_max` nodes, this one
    /// included.
    #[must_use]
    pub fn new(
        self_node: NodeId,
        cluster_name: Option<Vec<u8>>,
        fabric_endpoints: Vec<Endpoint>,
        nodes_max: usize,
        timing: Timing,
    ) -> Self {
        Heartbeat {
            self_node,
            cluster_name,
            nodes_max,
            timing,
            peers: BTreeMap::new(),
            duplicate_until_ms: 0,
            fabric_endpoints,
            next_pulse_ms: 0,
            departure: Departure::Staying,
        }
    }

    pub(crate) fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// The contents of the last pulse of a live node.
    #[must_use]
    pub fn peer(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(&node).filter(|peer| peer.is_seen())
    }

    /// All other nodes that are alive, in ascending order of ids.
    pub fn alive(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.is_seen()).map(|(node, _)| *node)
    }

    /// Whether a node is alive; this one always is.
    #[must_use]
    pub fn is_alive(&self, node: NodeId) -> bool {
        node == self.self_node || self.peer(node).is_some()
    }

    /// Whether another node has our id.
    #[must_use]
    pub fn has_duplicate_id(&self, now: Now) -> bool {
        now.monotonic_ms < self.duplicate_until_ms
    }

    /// Whether `node` receives pulses of `other`, as far as this node knows.
    #[must_use]
    pub fn sees(&self, node: NodeId, other: NodeId) -> bool {
        if node == self.self_node {
            return self.is_alive(other);
        }
        self.peer(node).is_some_and(|peer| peer.adjacency.contains(&other))
    }

    /// Removes nodes from a list until the rest all see each other; returns the removed ones.
    pub fn evict_from_clique(&self, nodes: &mut Vec<NodeId>) -> Vec<NodeId> {
        clique::evict(nodes, self.self_node, |node, other| self.sees(node, other))
    }

    /// Processes a message of another node.
    ///
    /// # Errors
    /// When the message is ignored.
    pub fn received(&mut self, message: &wire::Heartbeat, now: Now) -> Result<Vec<Change>, Ignored> {
        let HeartbeatBody::Pulse(pulse) = &message.body else { return Err(Ignored::NotAPulse) };
        if message.node == self.self_node {
            if pulse.fabric_endpoints != self.fabric_endpoints {
                self.duplicate_until_ms = now.monotonic_ms + self.timing.node_timeout_ms();
            }
            return Err(Ignored::OwnId);
        }
        if pulse.cluster_name != self.cluster_name {
            if let Some(peer) = self.peers.get_mut(&message.node) {
                peer.name_mismatches += 1;
            }
            return Err(Ignored::ClusterName);
        }
        let count = self.peers.len() + 1;
        let known = self.peers.get_mut(&message.node);
        let is_last = pulse.departure == Departure::Gone;
        let Some(peer) = known else {
            if is_last {
                return Ok(Vec::new());
            }
            if count >= self.nodes_max {
                return Err(Ignored::Full);
            }
            self.peers.insert(message.node, Peer::new(message, pulse, now));
            return Ok(vec![Change::Arrived(message.node), Change::ClusteringChanged(message.node)]);
        };
        if message.send_time <= peer.send_time {
            return Err(Ignored::Stale);
        }
        if is_last {
            return Ok(self.forget(message.node).into_iter().collect());
        }
        peer.judge_endpoints(pulse, now, self.timing);
        let before = peer.clone();
        *peer = Peer {
            probation_until_ms: before.probation_until_ms,
            endpoints_changed_ms: before.endpoints_changed_ms,
            ..Peer::new(message, pulse, now)
        };
        if !peer.is_seen() {
            return Err(Ignored::OnProbation);
        }
        let mut changes = Vec::new();
        if peer.adjacency != before.adjacency {
            changes.push(Change::AdjacencyChanged(message.node));
        }
        if peer.clustering != before.clustering {
            changes.push(Change::ClusteringChanged(message.node));
        }
        Ok(changes)
    }

    /// Lets nodes depart that have been silent for too long or name another cluster, and ends probations.
    pub fn tick(&mut self, now: Now) -> Vec<Change> {
        let timeout_ms = self.timing.node_timeout_ms();
        let mut changes = Vec::new();
        self.peers.retain(|node, peer| {
            let is_silent = peer.received_ms + timeout_ms < now.monotonic_ms;
            let is_foreign = peer.name_mismatches > NAME_MISMATCHES_MAX;
            if is_silent || is_foreign {
                changes.push(Change::Departed(*node));
            }
            !is_silent && !is_foreign
        });
        for (node, peer) in &mut self.peers {
            if peer.probation_until_ms != 0 {
                changes.extend(peer.is_new_on_probation(now, timeout_ms).then_some(Change::Departed(*node)));
                if peer.probation_until_ms <= now.monotonic_ms {
                    peer.probation_until_ms = 0;
                    changes.push(Change::Arrived(*node));
                }
            }
        }
        changes
    }

    /// Gives all peers a new node timeout after this process did not run for longer than they wait. Knowledge
    /// of them is old, so they stay until it is clear whether they are silent.
    pub fn woke_up(&mut self, now: Now) {
        self.peers.values_mut().for_each(|peer| peer.received_ms = peer.received_ms.max(now.monotonic_ms));
    }

    /// Forgets a node that said that it stops: it departs at once.
    fn forget(&mut self, node: NodeId) -> Option<Change> {
        self.peers.remove(&node).filter(Peer::is_seen).map(|_| Change::Departed(node))
    }

    /// Whether the next pulse is due. The pulse after it is due an interval later, or at once after a
    /// `hurry`.
    pub fn is_pulse_due(&mut self, now: Now) -> bool {
        if now.monotonic_ms < self.next_pulse_ms {
            return false;
        }
        self.next_pulse_ms = now.monotonic_ms + self.timing.interval_ms;
        true
    }

    /// Makes the next pulse due with the next tick, because something has changed.
    pub fn hurry(&mut self) {
        self.next_pulse_ms = 0;
    }

    /// Makes our pulses say whether this node stops, beginning with the next tick.
    pub(crate) fn depart(&mut self, departure: Departure) {
        self.departure = departure;
        self.hurry();
    }

    /// Whether a node that is alive is about to stop.
    #[must_use]
    pub fn is_leaving(&self, node: NodeId) -> bool {
        let departure = if node == self.self_node {
            self.departure
        } else {
            self.peer(node).map_or(Departure::Staying, |peer| peer.departure)
        };
        departure != Departure::Staying
    }

    /// The pulse to send.
    #[must_use]
    pub fn pulse(
        &self,
        send_time: u64,
        endpoints: Option<Vec<Endpoint>>,
        clustering: ClusteringState,
        now: Now,
    ) -> wire::Heartbeat {
        let pulse = Pulse {
            cluster_name: self.cluster_name.clone(),
            fabric_endpoints: self.fabric_endpoints.clone(),
            adjacency: self.alive().collect(),
            clustering,
            wall_ms: Some(now.wall_ms),
            departure: self.departure,
        };
        wire::Heartbeat { node: self.self_node, send_time, endpoints, body: HeartbeatBody::Pulse(pulse) }
    }
}

impl Peer {
    fn new(message: &wire::Heartbeat, pulse: &Pulse, now: Now) -> Self {
        let wall_ms = pulse.wall_ms.unwrap_or(now.wall_ms);
        Peer {
            fabric_endpoints: pulse.fabric_endpoints.clone(),
            endpoints: message.endpoints.clone().unwrap_or_default(),
            received_ms: now.monotonic_ms,
            send_time: message.send_time,
            adjacency: pulse.adjacency.iter().copied().collect(),
            clustering: pulse.clustering.clone(),
            clock_skew_ms: wall_ms.cast_signed().saturating_sub(now.wall_ms.cast_signed()),
            departure: pulse.departure,
            name_mismatches: 0,
            probation_until_ms: 0,
            endpoints_changed_ms: None,
        }
    }

    fn is_seen(&self) -> bool {
        self.probation_until_ms == 0
    }

    /// Puts a peer on probation whose endpoints keep changing. One change is a restart elsewhere; another one
    /// soon after means two nodes with one id.
    fn judge_endpoints(&mut self, pulse: &Pulse, now: Now, timing: Timing) {
        if self.fabric_endpoints == pulse.fabric_endpoints {
            return;
        }
        let window_ms = (timing.timeout_intervals / 2).max(3) * timing.interval_ms;
        let last = self.endpoints_changed_ms.replace(now.monotonic_ms);
        if last.is_some_and(|last| now.monotonic_ms < last + window_ms) {
            self.probation_until_ms = now.monotonic_ms + timing.node_timeout_ms();
        }
    }

    fn is_new_on_probation(&self, now: Now, timeout_ms: u64) -> bool {
        self.probation_until_ms + Timing::TICK_MS > now.monotonic_ms + timeout_ms
    }
}

#[cfg(test)]
mod tests {
    use proto::peer::nested::Address;

    use super::*;

    fn at(monotonic_ms: u64) -> Now {
        Now { monotonic_ms, wall_ms: 1_000_000 + monotonic_ms }
    }

    fn endpoint(last: u8) -> Endpoint {
        Endpoint { capabilities: 0, address: Address::V4([10, 0, 0, last]), port: 3001 }
    }

    fn heartbeat(node: u64) -> Heartbeat {
        Heartbeat::new(NodeId(node), Some(b"c".to_vec()), vec![endpoint(node as u8)], 3, Timing::default())
    }

    fn pulse(node: u64, time: u64) -> wire::Heartbeat {
        heartbeat(node).pulse(time, None, ClusteringState::default(), at(time))
    }

    #[test]
    fn nodes_arrive_by_pulses_and_depart_by_silence() {
        let mut own = heartbeat(1);
        let arrived = own.received(&pulse(2, 10), at(10)).unwrap();
        assert_eq!(arrived[0], Change::Arrived(NodeId(2)));
        assert_eq!(own.received(&pulse(2, 10), at(20)), Err(Ignored::Stale));
        assert_eq!(own.tick(at(1510)), []);
        assert_eq!(own.tick(at(1511)), [Change::Departed(NodeId(2))]);
        assert!(!own.is_alive(NodeId(2)) && own.is_alive(NodeId(1)));
    }

    #[test]
    fn a_node_that_stops_is_gone_with_its_last_pulse() {
        let (mut own, mut other) = (heartbeat(1), heartbeat(2));
        own.received(&pulse(2, 10), at(10)).unwrap();
        other.depart(Departure::Leaving);
        assert!(other.is_pulse_due(at(20)) && other.is_leaving(NodeId(2)));
        let leaving = other.pulse(20, None, ClusteringState::default(), at(20));
        assert_eq!(own.received(&leaving, at(20)), Ok(vec![]));
        assert!(own.is_leaving(NodeId(2)) && own.is_alive(NodeId(2)) && !own.is_leaving(NodeId(1)));
        other.depart(Departure::Gone);
        let last = other.pulse(30, None, ClusteringState::default(), at(30));
        assert_eq!(own.received(&last, at(30)), Ok(vec![Change::Departed(NodeId(2))]));
        assert_eq!(own.received(&last, at(31)), Ok(vec![]), "it is gone");
        // It starts again.
        let arrived = own.received(&pulse(2, 40), at(40)).unwrap();
        assert_eq!(arrived[0], Change::Arrived(NodeId(2)));
        assert!(!own.is_leaving(NodeId(2)));
    }

    #[test]
    fn strangers_are_not_let_in() {
        let mut own = heartbeat(1);
        let mut foreign = pulse(2, 10);
        let HeartbeatBody::Pulse(body) = &mut foreign.body else { panic!("a pulse") };
        body.cluster_name = Some(b"other".to_vec());
        assert_eq!(own.received(&foreign, at(10)), Err(Ignored::ClusterName));
        own.received(&pulse(2, 10), at(10)).unwrap();
        own.received(&pulse(3, 10), at(10)).unwrap();
        assert_eq!(own.received(&pulse(4, 10), at(10)), Err(Ignored::Full));
        for _ in 0..3 {
            assert_eq!(own.received(&foreign, at(20)), Err(Ignored::ClusterName));
        }
        assert_eq!(own.tick(at(30)), [Change::Departed(NodeId(2))]);
    }

    #[test]
    fn two_nodes_with_one_id_are_noticed() {
        let mut own = heartbeat(1);
        assert_eq!(own.received(&pulse(1, 10), at(10)), Err(Ignored::OwnId));
        assert!(!own.has_duplicate_id(at(11)), "one's own pulse comes back in multicast");
        let mut other = heartbeat(1);
        other.fabric_endpoints = vec![endpoint(9)];
        let foreign = other.pulse(10, None, ClusteringState::default(), at(10));
        own.received(&foreign, at(10)).unwrap_err();
        assert!(own.has_duplicate_id(at(11)) && !own.has_duplicate_id(at(2000)));
        // Two other nodes share an id.
        own.received(&pulse(2, 20), at(20)).unwrap();
        for time in 21..24 {
            let mut message = pulse(2, time);
            let HeartbeatBody::Pulse(body) = &mut message.body else { panic!("a pulse") };
            body.fabric_endpoints = vec![endpoint(time as u8)];
            let _ = own.received(&message, at(time));
        }
        assert!(!own.is_alive(NodeId(2)));
        assert_eq!(own.tick(at(30)), [Change::Departed(NodeId(2))]);
    }
}
