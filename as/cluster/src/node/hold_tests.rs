//! Tests that incomplete partitions hold writes while a former member is visible. Node 2 is under test; the
//! tests write the messages of its peers.

use datamodel::partition_version::PartitionVersion;
use proto::peer::clustering::{Clustering as ClusteringMessage, ClusteringBody};
use proto::peer::exchange::{COMPATIBILITY_ID, Exchange, ExchangeBody, ExchangeData, NamespaceData};
use proto::peer::heartbeat::ClusteringState;
use proto::peer::nested::{Address, Endpoint, VersionGroup};
use proto::peer::{ClusterKey, NodeId};

use super::{Action, Event, Node, settings_of_tests};
use crate::balance::Route;
use crate::heartbeat::Heartbeat;
use crate::migration::PartitionId;
use crate::time::{Now, Timing};

const PARTITIONS: usize = 64;
const OWN: NodeId = NodeId(2);
const BEFORE: ClusterKey = ClusterKey(0xB);
const HALF: ClusterKey = ClusterKey(0xC);

fn id(partition: usize) -> PartitionId {
    PartitionId { namespace: 0, partition: partition as u16 }
}

struct Scene {
    node: Node,
    time_ms: u64,
    sequence: u64,
}

impl Scene {
    /// Makes node 2 a member of a new cluster with two copies of each partition. `own` and `version` are the
    /// versions that the node and the others had before.
    fn new(
        members: &[u64],
        own: PartitionVersion,
        version: impl Fn(NodeId, usize) -> PartitionVersion,
    ) -> Self {
        let settings = settings_of_tests(OWN, PARTITIONS);
        let node =
            Node::new(settings, vec![vec![own; PARTITIONS]], Now { monotonic_ms: 1000, wall_ms: 1000 });
        let mut scene = Scene { node, time_ms: 1000, sequence: 1 << 20 };
        scene.pulses(members);
        scene.form(BEFORE, members, version);
        scene
    }

    fn now(&self) -> Now {
        Now { monotonic_ms: self.time_ms, wall_ms: self.time_ms }
    }

    fn send_time(&mut self) -> u64 {
        self.sequence += 1;
        self.time_ms << 16 | self.sequence & 0xFFFF
    }

    fn step(&mut self, event: Event<'_>) -> Vec<Action> {
        self.node.step(event, self.now()).unwrap()
    }

    /// Gives the node a pulse of each of these nodes, which are members of its cluster or else orphans.
    fn pulses(&mut self, nodes: &[u64]) {
        for node in nodes.iter().filter(|node| NodeId(**node) != OWN) {
            let endpoint =
                Endpoint { capabilities: 0, address: Address::V4([10, 0, 0, *node as u8]), port: 1 };
            let heartbeat = Heartbeat::new(NodeId(*node), None, vec![endpoint], 8, Timing::default());
            let own = self.node.clustering().state();
            let is_member = own.succession.contains(&NodeId(*node));
            let state = if is_member { own } else { ClusteringState::default() };
            let pulse = heartbeat.pulse(self.send_time(), None, state, self.now());
            let mut bytes = Vec::new();
            pulse.encode(&mut bytes);
            self.step(Event::Heartbeat(&bytes));
        }
    }

    /// Lets time pass in which these nodes send pulses.
    fn pass(&mut self, ms: u64, nodes: &[u64]) {
        let end_ms = self.time_ms + ms;
        while self.time_ms < end_ms {
            self.time_ms = (self.time_ms + Timing::TICK_MS).min(end_ms);
            self.pulses(nodes);
            self.step(Event::Tick);
        }
    }

    fn clustering(&mut self, from: NodeId, body: ClusteringBody) {
        let send_time = self.send_time();
        let mut message = Vec::new();
        ClusteringMessage { send_time, body }.encode(&mut message);
        self.step(Event::Fabric { from, message: &message });
    }

    fn exchange(&mut self, from: NodeId, cluster_key: ClusterKey, body: ExchangeBody) -> Vec<Action> {
        let mut message = Vec::new();
        Exchange { cluster_key, send_time: None, body }.encode(&mut message);
        self.step(Event::Fabric { from, message: &message })
    }

    /// Runs a round of agreement, the exchange and the rebalance, in which members have these versions.
    fn form(
        &mut self,
        cluster_key: ClusterKey,
        members: &[u64],
        version: impl Fn(NodeId, usize) -> PartitionVersion,
    ) {
        let succession: Vec<NodeId> = members.iter().map(|node| NodeId(*node)).collect();
        let others: Vec<NodeId> = succession.iter().copied().filter(|node| *node != OWN).collect();
        let principal = succession[0];
        let sequence = self.send_time();
        self.clustering(principal, ClusteringBody::Prepare { sequence });
        self.clustering(principal, ClusteringBody::Accept { sequence });
        let learn = ClusteringBody::Learn { sequence, cluster_key, succession: succession.clone() };
        self.clustering(principal, learn);
        for from in &others {
            let body = ClusteringBody::ChangeApplied { cluster_key, succession: succession.clone() };
            self.clustering(*from, body);
        }
        for from in &others {
            let groups = (0..PARTITIONS).filter(|partition| version(*from, *partition).has_data());
            let groups = groups.map(|partition| VersionGroup {
                version: version(*from, partition).0,
                partitions: vec![partition as u16],
            });
            let namespace = NamespaceData {
                name: b"test".to_vec(),
                versions: groups.collect(),
                replication_factor: 2,
                ..NamespaceData::default()
            };
            let compatibility_id = COMPATIBILITY_ID;
            let data = ExchangeData { compatibility_id, features: None, namespaces: vec![namespace] };
            self.exchange(*from, cluster_key, ExchangeBody::Data(data));
            self.exchange(*from, cluster_key, ExchangeBody::DataAck);
        }
        self.step(Event::WritesEnded { cluster_key });
        let actions = self.exchange(principal, cluster_key, ExchangeBody::Commit);
        assert!(actions.iter().any(|action| matches!(action, Action::Rebalanced { .. })), "{actions:?}");
    }

    /// The partitions of which this node is master.
    fn mastered(&self) -> Vec<usize> {
        let is_master =
            |partition: &usize| self.node.partition(id(*partition)).route(OWN, false) == Route::Here;
        (0..PARTITIONS).filter(is_master).collect()
    }

    fn held(&self) -> Vec<usize> {
        let mastered = self.mastered().into_iter();
        mastered.filter(|partition| !self.node.may_write(id(*partition), self.now())).collect()
    }

    /// Replicas of all partitions.
    fn replicas(&self) -> Vec<Vec<NodeId>> {
        (0..PARTITIONS).map(|partition| self.node.partition(id(partition)).replicas.clone()).collect()
    }
}

/// The versions that members have after a rebalance without earlier data.
fn full_copies(key: ClusterKey, replicas: &[Vec<NodeId>]) -> impl Fn(NodeId, usize) -> PartitionVersion {
    move |node, partition| match replicas[partition].iter().position(|replica| *replica == node) {
        Some(place) => PartitionVersion::new(key.0, 0).with_master(place == 0),
        None => PartitionVersion::default(),
    }
}

/// Makes a cluster of nodes 2 and 4, while 1 and 3 are orphans that may still serve the old partitions.
/// Returns the partitions of node 2 that had both copies on 1 and 3.
fn split() -> (Scene, Vec<Vec<NodeId>>, Vec<usize>) {
    let mut scene =
        Scene::new(&[4, 3, 2, 1], PartitionVersion::default(), |_, _| PartitionVersion::default());
    assert!(!scene.mastered().is_empty() && scene.held().is_empty(), "a first cluster waits for nobody");
    let before = scene.replicas();
    scene.pass(1000, &[1, 3, 4]);
    scene.form(HALF, &[4, 2], full_copies(BEFORE, &before));
    let is_elsewhere = |partition: &usize| !before[*partition].iter().any(|node| [2, 4].contains(&node.0));
    let fresh: Vec<usize> = scene.mastered().into_iter().filter(is_elsewhere).collect();
    assert!(!fresh.is_empty() && fresh.len() < scene.mastered().len());
    (scene, before, fresh)
}

#[test]
fn a_partition_without_copies_waits_for_former_members() {
    let (mut scene, before, fresh) = split();
    assert_eq!(scene.held(), fresh, "only these lack records");
    // The others ask to join meanwhile.
    scene.pass(3000, &[1, 3, 4]);
    assert_eq!(scene.held(), fresh);
    // The same two nodes form a cluster again: the empty copies of the last rebalance are not complete.
    let halves = scene.replicas();
    scene.form(ClusterKey(0xD), &[4, 2], full_copies(HALF, &halves));
    assert_eq!(scene.held(), fresh);
    // All four nodes form a cluster.
    let halves = scene.replicas();
    scene.form(ClusterKey(0xE), &[4, 3, 2, 1], |node, partition| match node.0 {
        1 | 3 => full_copies(BEFORE, &before)(node, partition),
        _ => full_copies(ClusterKey(0xD), &halves)(node, partition),
    });
    assert_eq!(scene.held(), [] as [usize; 0]);
}

#[test]
fn partitions_do_not_wait_for_nodes_that_are_gone() {
    let (mut scene, _, fresh) = split();
    scene.pass(1400, &[4]);
    assert_eq!(scene.held(), fresh);
    scene.pass(200, &[4]);
    assert_eq!(scene.held(), [] as [usize; 0]);
    // Node 3 comes back.
    scene.pass(75, &[4, 3]);
    assert_eq!(scene.held(), fresh);
}

#[test]
fn partitions_do_not_wait_for_ever() {
    let (mut scene, ..) = split();
    let bound_ms = Timing::default().orphan_serves_ms();
    scene.pass(bound_ms - 1, &[1, 3, 4]);
    assert!(!scene.held().is_empty());
    scene.pass(1, &[1, 3, 4]);
    assert_eq!(scene.held(), [] as [usize; 0]);
}

#[test]
fn a_copy_that_still_expected_records_is_not_complete() {
    let none = PartitionVersion::default();
    // Before, this node had no data or older data, and node 3 was about to send it all records.
    for own in [none, PartitionVersion::new(0x9, 0)] {
        let master = PartitionVersion::new(0xA, 0).with_master(true);
        let mut scene =
            Scene::new(&[4, 3, 2, 1], own, |node, _| if node == NodeId(3) { master } else { none });
        let before = scene.replicas();
        let was_eventual_master = |partition: &usize| before[*partition][0] == OWN;
        scene.pass(1000, &[1, 3, 4]);
        scene.form(HALF, &[4, 2], |_, _| none);
        let had_copy = scene.mastered().into_iter().filter(was_eventual_master).count();
        assert!(had_copy > PARTITIONS / 8, "{had_copy}");
        assert_eq!(scene.held(), scene.mastered(), "own copy before: {own}");
    }
}

#[test]
fn more_orphans_than_members_outvote_at_once() {
    let none = PartitionVersion::default();
    let mut scene = Scene::new(&[5, 4, 3, 2, 1], none, |_, _| none);
    let before = scene.replicas();
    scene.pass(1000, &[1, 3, 4, 5]);
    scene.form(HALF, &[5, 2], full_copies(BEFORE, &before));
    assert!(scene.held().len() < scene.mastered().len());
    // These pulses are too early to tell about members of the new cluster.
    scene.pulses(&[1, 3, 4, 5]);
    assert_eq!(scene.held(), scene.mastered());
}
