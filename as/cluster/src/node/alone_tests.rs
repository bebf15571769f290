//! A node that expects no others forms a cluster at once, and serves on however long it did not run.

use proto::peer::NodeId;
use proto::peer::heartbeat::ClusteringState;
use proto::peer::nested::{Address, Endpoint};

use super::{Action, Event, Node, NodeSettings, settings_of_tests};
use crate::heartbeat::Heartbeat;
use crate::migration::PartitionId;
use crate::time::{Now, Timing};

const OWN: NodeId = NodeId(2);
const PARTITIONS: usize = 16;

fn at(time_ms: u64) -> Now {
    Now { monotonic_ms: time_ms, wall_ms: time_ms }
}

fn node(starts_alone: bool, size_min: usize) -> Node {
    let settings = NodeSettings { size_min, starts_alone, ..settings_of_tests(OWN, PARTITIONS) };
    Node::new(settings, vec![vec![Default::default(); PARTITIONS]], at(1000))
}

/// A step with all that follows from it on this node alone; returns whether the node was balanced.
fn step(node: &mut Node, event: Event<'_>, time_ms: u64) -> bool {
    let mut actions = node.step(event, at(time_ms)).unwrap();
    let mut is_balanced = false;
    while let Some(action) = actions.pop() {
        let more = match action {
            Action::Send { to, message, .. } if to == OWN => {
                node.step(Event::Fabric { from: OWN, message: &message }, at(time_ms)).unwrap()
            }
            Action::AwaitWrites { cluster_key } => {
                node.step(Event::WritesEnded { cluster_key }, at(time_ms)).unwrap()
            }
            Action::Rebalanced { ref succession, .. } => {
                assert_eq!(*succession, [OWN]);
                is_balanced = true;
                Vec::new()
            }
            _ => Vec::new(),
        };
        actions.extend(more);
    }
    is_balanced
}

fn serves(node: &Node, time_ms: u64) -> bool {
    let id = PartitionId { namespace: 0, partition: 3 };
    node.partition(id).working_master == OWN && node.may_write(id, at(time_ms))
}

#[test]
fn it_forms_its_cluster_at_once() {
    let mut alone = node(true, 1);
    assert!(step(&mut alone, Event::Tick, 1000) && serves(&alone, 1000));
    // Others wait whether another node appears.
    let mut other = node(false, 1);
    let balanced_ms = (1000..5000).step_by(25).find(|time_ms| step(&mut other, Event::Tick, *time_ms));
    assert!(balanced_ms.is_some_and(|time_ms| time_ms >= 1000 + Timing::default().quantum_ms()));
    // A minimum of nodes counts in any case.
    let mut small = node(true, 2);
    assert!(!(1000..9000).step_by(25).any(|time_ms| step(&mut small, Event::Tick, time_ms)));
}

#[test]
fn it_serves_on_after_a_pause_until_it_has_heard_of_others() {
    let mut node = node(true, 1);
    step(&mut node, Event::Tick, 1000);
    assert!(node.is_alone() && serves(&node, 90_000));
    let actions = node.step(Event::Tick, at(90_000)).unwrap();
    assert!(!actions.iter().any(|action| matches!(action, Action::Warn(_) | Action::Frozen)));
    assert!(serves(&node, 90_000));
    let endpoint = Endpoint { capabilities: 0, address: Address::V4([10, 0, 0, 1]), port: 1 };
    let peer = Heartbeat::new(NodeId(1), None, vec![endpoint], 8, Timing::default());
    let mut bytes = Vec::new();
    peer.pulse(90_000 << 16, None, ClusteringState::default(), at(90_000)).encode(&mut bytes);
    step(&mut node, Event::Heartbeat(&bytes), 90_010);
    assert!(!node.is_alone() && serves(&node, 90_020));
    let slept_until = 90_020 + 2 * Timing::default().node_timeout_ms();
    assert!(!serves(&node, slept_until), "the other one may have taken over");
    let actions = node.step(Event::Tick, at(slept_until)).unwrap();
    assert!(actions.iter().any(|action| matches!(action, Action::Frozen)));
}
