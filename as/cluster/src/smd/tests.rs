//! Tests of metadata of several nodes in one process: changes reach all nodes, and nodes that meet end with
//! the same items, even if messages are lost or delayed.

use std::collections::{BTreeMap, VecDeque};

use proto::peer::smd::{Item, ModuleVersion, Smd};
use proto::peer::{ClusterKey, NodeId};

use super::{SetResult, SmdAction, SmdEvent, SmdPropagation};
use crate::time::{Now, Random};

const MODULE: u32 = 3;

struct Member {
    propagation: SmdPropagation,
    items: BTreeMap<Vec<u8>, Item>,
    finished: Vec<(u64, SetResult)>,
    has_full_disk: bool,
}

struct Cluster {
    members: BTreeMap<NodeId, Member>,
    messages: VecDeque<(NodeId, NodeId, Smd)>,
    time_ms: u64,
    random: Random,
    lost_percent: u64,
}

impl Cluster {
    fn new(nodes: u64, lost_percent: u64, seed: u64) -> Self {
        let version = ModuleVersion { module: MODULE, committed_key: ClusterKey::NONE, transaction_id: 0 };
        let member = |id| {
            let propagation = SmdPropagation::new(NodeId(id), &[version]);
            (
                NodeId(id),
                Member { propagation, items: BTreeMap::new(), finished: Vec::new(), has_full_disk: false },
            )
        };
        let members = (1..=nodes).map(member).collect();
        Cluster { members, messages: VecDeque::new(), time_ms: 0, random: Random::new(seed), lost_percent }
    }

    fn step(&mut self, node: NodeId, event: SmdEvent) {
        let now = Now { monotonic_ms: self.time_ms, wall_ms: self.time_ms };
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let member = self.members.get_mut(&node).unwrap();
            for action in member.propagation.step(event, now) {
                match action {
                    SmdAction::Send { to, message } => {
                        let mut bytes = Vec::new();
                        message.encode(&mut bytes);
                        if self.random.next_u64() % 100 >= self.lost_percent {
                            self.messages.push_back((node, to, Smd::decode(&bytes).unwrap()));
                        }
                    }
                    SmdAction::Collect { module, purpose } => {
                        let items = member.items.values().cloned().collect();
                        events.push_back(SmdEvent::Collected { module, items, purpose });
                    }
                    SmdAction::Merge { module, others, replaces, .. } => {
                        if replaces {
                            member.items.clear();
                        }
                        for item in others {
                            let present = member.items.get(&item.key).map(|item| item.timestamp);
                            if present.is_none_or(|present| present < item.timestamp) {
                                member.items.insert(item.key.clone(), item);
                            }
                        }
                        let items = member.items.values().cloned().collect();
                        events.push_back(SmdEvent::Merged { module, items });
                    }
                    SmdAction::Change { module, .. } if member.has_full_disk => {
                        events.push_back(SmdEvent::NotStored { module });
                    }
                    SmdAction::Change { module, key, value, .. } => {
                        let generation = member.items.get(&key).map_or(1, |item| item.generation + 1);
                        let item = Item { key: key.clone(), value, generation, timestamp: self.time_ms };
                        member.items.insert(key, item.clone());
                        events.push_back(SmdEvent::Changed { module, item: Some(item) });
                    }
                    SmdAction::Apply { item, .. } => drop(member.items.insert(item.key.clone(), item)),
                    SmdAction::Replace { items, .. } => {
                        member.items = items.into_iter().map(|item| (item.key.clone(), item)).collect();
                    }
                    SmdAction::Finished { set, result } => member.finished.push((set, result)),
                }
            }
        }
    }

    fn run(&mut self, duration_ms: u64) {
        let end_ms = self.time_ms + duration_ms;
        while self.time_ms < end_ms {
            for _ in 0..self.messages.len() {
                // Half of the messages go to the back, so that they change order.
                let Some((from, to, message)) = self.messages.pop_front() else { break };
                if self.random.next_u64().is_multiple_of(2) {
                    self.messages.push_back((from, to, message));
                } else {
                    self.step(to, SmdEvent::Message { from, message });
                }
            }
            self.time_ms += 5;
            for node in self.members.keys().copied().collect::<Vec<_>>() {
                self.step(node, SmdEvent::Tick);
            }
        }
    }

    fn form(&mut self, key: u64, nodes: &[u64]) {
        let mut succession: Vec<NodeId> = nodes.iter().map(|node| NodeId(*node)).collect();
        succession.sort_unstable_by(|left, right| right.cmp(left));
        for node in succession.clone() {
            let succession = succession.clone();
            self.step(node, SmdEvent::ClusterChanged { cluster_key: ClusterKey(key), succession });
            // Members learn of the cluster one after the other.
            self.run(20);
        }
    }

    fn set(&mut self, node: u64, set: u64, value: &str) {
        let (key, value) = (format!("key{set}").into_bytes(), Some(value.as_bytes().to_vec()));
        let deadline_ms = self.time_ms + 60_000;
        self.step(NodeId(node), SmdEvent::Set { set, module: MODULE, key, value, deadline_ms });
    }

    fn is_agreed(&self, nodes: &[u64], count: usize) {
        for node in nodes {
            let member = &self.members[&NodeId(*node)];
            let first = &self.members[&NodeId(nodes[0])];
            assert!(member.propagation.is_in_sync(), "{node} {:?}", member.propagation);
            assert_eq!(member.items, first.items);
            assert_eq!(member.items.len(), count);
            assert_eq!(member.propagation.version(MODULE), first.propagation.version(MODULE));
        }
    }
}

#[test]
fn changes_of_any_node_reach_all() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(4, seed % 3 * 10, seed);
        cluster.form(77, &[1, 2, 3, 4]);
        (1..=4).for_each(|node| cluster.set(node, node, "value"));
        cluster.run(40_000);
        cluster.is_agreed(&[1, 2, 3, 4], 4);
        for (node, member) in &cluster.members {
            assert_eq!(member.finished, [(node.0, SetResult::Done)], "seed {seed}");
        }
    }
}

#[test]
fn clusters_that_meet_merge_and_newcomers_catch_up() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(5, seed % 3 * 10, seed);
        cluster.form(7, &[1, 2]);
        cluster.form(8, &[3, 4]);
        cluster.set(1, 1, "one");
        cluster.set(3, 2, "two");
        cluster.run(20_000);
        cluster.is_agreed(&[1, 2], 1);
        cluster.is_agreed(&[3, 4], 1);
        cluster.form(9, &[1, 2, 3, 4]);
        cluster.run(40_000);
        cluster.is_agreed(&[1, 2, 3, 4], 2);
        cluster.form(10, &[1, 2, 3, 4, 5]);
        cluster.run(40_000);
        cluster.is_agreed(&[1, 2, 3, 4, 5], 2);
    }
}

#[test]
fn one_history_counts_where_they_are_not_mixed() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(5, seed % 3 * 10, seed);
        for (id, member) in &mut cluster.members {
            let propagation = member.propagation.clone();
            member.propagation = propagation.with_whole_histories(&[MODULE]);
            // The items of each member before it meets others.
            let item = Item { key: b"own".to_vec(), value: None, generation: 0, timestamp: id.0 };
            member.items.insert(item.key.clone(), item);
        }
        // No node has a history, so that of the principal begins.
        cluster.form(7, &[1, 2]);
        cluster.run(20_000);
        cluster.is_agreed(&[1, 2], 1);
        assert_eq!(cluster.members[&NodeId(1)].items[&b"own"[..]].timestamp, 2);
        cluster.set(1, 1, "one");
        cluster.run(20_000);
        // A node with another history joins, as principal.
        cluster.form(8, &[4]);
        cluster.set(4, 2, "two");
        cluster.run(20_000);
        cluster.form(9, &[1, 2, 4]);
        cluster.run(40_000);
        cluster.is_agreed(&[1, 2, 4], 2);
        assert!(cluster.members[&NodeId(4)].items.contains_key(&b"key1"[..]), "seed {seed}");
        // A node without a history joins.
        cluster.form(10, &[1, 2, 4, 5]);
        cluster.run(40_000);
        cluster.is_agreed(&[1, 2, 4, 5], 2);
    }
}

/// The versions of these nodes are from damaged files.
#[test]
fn a_history_without_end_begins_again() {
    for transaction_id in [u64::MAX, u64::MAX - 1] {
        for is_whole in [false, true] {
            let mut cluster = Cluster::new(3, 0, 1);
            let version = ModuleVersion { module: MODULE, committed_key: ClusterKey(5), transaction_id };
            for (id, member) in &mut cluster.members {
                let whole: &[u32] = if is_whole { &[MODULE] } else { &[] };
                member.propagation = SmdPropagation::new(*id, &[version]).with_whole_histories(whole);
            }
            cluster.form(77, &[1, 2, 3]);
            cluster.run(20_000);
            for set in 1..=4 {
                cluster.set(set % 3 + 1, set, "value");
                cluster.run(1_000);
                cluster.is_agreed(&[1, 2, 3], set as usize);
            }
            let agreed = ModuleVersion { committed_key: ClusterKey(77), transaction_id: 5, ..version };
            assert_eq!(cluster.members[&NodeId(1)].propagation.version(MODULE), Some(agreed));
        }
    }
    // A node alone compares its version with nobody.
    let mut cluster = Cluster::new(1, 0, 1);
    let version = ModuleVersion { module: MODULE, committed_key: ClusterKey(5), transaction_id: u64::MAX };
    let member = cluster.members.get_mut(&NodeId(1)).unwrap();
    member.propagation = SmdPropagation::new(NodeId(1), &[version]);
    cluster.form(77, &[1]);
    cluster.set(1, 1, "value");
    cluster.run(1_000);
    cluster.is_agreed(&[1], 1);
}

#[test]
fn a_change_that_the_principal_cannot_store_is_made_nowhere() {
    let mut cluster = Cluster::new(2, 0, 1);
    cluster.form(7, &[1, 2]);
    cluster.run(20_000);
    let has_full_disk = |cluster: &mut Cluster, is_full| {
        cluster.members.get_mut(&NodeId(2)).unwrap().has_full_disk = is_full;
    };
    has_full_disk(&mut cluster, true);
    cluster.set(2, 1, "own");
    cluster.set(1, 2, "of another node");
    cluster.run(1_000);
    assert_eq!(cluster.members[&NodeId(2)].finished, [(1, SetResult::NotStored)]);
    assert!(cluster.members[&NodeId(1)].finished.is_empty());
    cluster.is_agreed(&[1, 2], 0);
    has_full_disk(&mut cluster, false);
    cluster.run(1_000);
    assert_eq!(cluster.members[&NodeId(1)].finished, [(2, SetResult::Done)]);
    cluster.is_agreed(&[1, 2], 1);
}

#[test]
fn a_change_without_a_cluster_times_out() {
    let mut cluster = Cluster::new(1, 0, 1);
    cluster.set(1, 1, "value");
    cluster.run(60_100);
    assert_eq!(cluster.members[&NodeId(1)].finished, [(1, SetResult::TimedOut)]);
}
