//! Invariants, checked after every step of a node:
//! - all nodes that know a cluster key know the same succession list for it, hence the same principal;
//! - of the nodes that balanced for one cluster key, at most one accepts writes of a partition; when all
//!   members have balanced, there is one working master, or two while one of them hands over;
//! - the version of a partition keeps its cluster key, takes that of the cluster that the node has balanced
//!   for, or becomes null; a complete replica stays complete.
//!
//! After a fault has healed, there is one cluster of all nodes, no migration is under way, each partition is
//! complete on as many nodes as there are replicas, and all acknowledged writes exist.

use std::collections::BTreeMap;

use cluster::balance::Route;
use proto::peer::{ClusterKey, NodeId};

use crate::host::{Host, Shape};

/// The state that the checks keep during a run.
#[derive(Debug, Default)]
pub(crate) struct Invariants {
    successions: BTreeMap<ClusterKey, Vec<NodeId>>,
}

impl Invariants {
    /// Checks a node after its step. `has_changed` tells whether partitions changed.
    pub(crate) fn after_step(&mut self, hosts: &mut [Host], place: usize, shape: &Shape, has_changed: bool) {
        let Some(process) = &hosts[place].process else { return };
        let clustering = process.node.clustering();
        let key = clustering.cluster_key();
        if !key.is_none() {
            let known = self.successions.entry(key).or_insert_with(|| clustering.succession().to_vec());
            assert_eq!(known, clustering.succession(), "one succession list for cluster key {key}");
            assert!(known.is_sorted_by(|left, right| left > right), "the principal is the highest");
            assert!(known.contains(&process.node.id()), "a node is in its own cluster");
        }
        if has_changed {
            versions_go_forward(&mut hosts[place], shape);
            let key = hosts[place].process.as_ref().map(|process| process.node.balanced_key());
            if let Some(key) = key.filter(|key| !key.is_none()) {
                self.one_master(hosts, key, shape);
            }
        }
    }

    fn one_master(&self, hosts: &[Host], key: ClusterKey, shape: &Shape) {
        let running = hosts.iter().filter_map(|host| host.process.as_ref());
        let balanced: Vec<_> = running.filter(|process| process.node.balanced_key() == key).collect();
        let is_complete = self.successions.get(&key).is_some_and(|members| members.len() == balanced.len());
        for partition in 0..shape.partitions as u16 {
            let id = shape.id_of(partition);
            let (mut writers, mut masters, mut handing_over) = (0, 0, 0);
            for process in &balanced {
                let state = process.node.partition(id);
                let self_node = process.node.id();
                writers += usize::from(state.route(self_node, false) == Route::Here);
                masters += usize::from(state.working_master == self_node);
                handing_over += usize::from(state.working_master == self_node && state.is_handing_over);
            }
            assert!(writers <= 1, "partition {partition} has {writers} masters that take writes in {key}");
            assert!(masters <= 1 + handing_over, "partition {partition} has {masters} masters in {key}");
            assert!(!is_complete || masters >= 1, "partition {partition} has no master in {key}");
        }
    }
}

fn versions_go_forward(host: &mut Host, shape: &Shape) {
    let Some(process) = &mut host.process else { return };
    let balanced = process.node.balanced_key();
    for partition in 0..shape.partitions as u16 {
        let state = process.node.partition(shape.id_of(partition));
        let before = &mut process.versions[usize::from(partition)];
        let after = state.version;
        if after != *before {
            let keys = [balanced.0, before.cluster_key()];
            let is_forward = after.is_null() || keys.contains(&after.cluster_key());
            assert!(is_forward, "partition {partition}: version {before} became {after} in {balanced}");
            let was_complete =
                before.cluster_key() == balanced.0 && !before.is_subset() && !before.is_evade();
            let is_replica = state.replica_place(process.node.id()).is_some();
            let kept = !after.is_subset() || state.pending_immigrations != 0;
            assert!(!(was_complete && is_replica) || kept, "partition {partition}: {before} became {after}");
            *before = after;
        }
    }
}

/// The reason why the cluster is not whole yet; `None` if it is.
pub(crate) fn unrest(hosts: &[Host], shape: &Shape) -> Option<String> {
    let running: Vec<_> = hosts.iter().filter_map(|host| host.process.as_ref()).collect();
    let first = running.first()?;
    let key = first.node.balanced_key();
    if key.is_none() {
        return Some(format!("{} has not balanced", first.node.id()));
    }
    for process in &running {
        let node = &process.node;
        if node.clustering().cluster_key() != key || node.balanced_key() != key {
            return Some(format!("{} is in {}, not {key}", node.id(), node.clustering().cluster_key()));
        }
        if node.clustering().succession().len() != running.len() {
            return Some(format!("a cluster of {:?}", node.clustering().succession()));
        }
        if node.emigrations_remaining() != 0 {
            return Some(format!("{} still sends", node.id()));
        }
        for partition in 0..shape.partitions as u16 {
            let state = node.partition(shape.id_of(partition));
            if state.pending_emigrations != 0 || state.pending_immigrations != 0 {
                return Some(format!("partition {partition} migrates at {}", node.id()));
            }
        }
    }
    None
}

/// Checks that in a cluster at rest every replica is complete, and no other node has data.
pub(crate) fn replicas_are_complete(hosts: &[Host], shape: &Shape) {
    let running: Vec<_> = hosts.iter().filter_map(|host| host.process.as_ref()).collect();
    for partition in 0..shape.partitions as u16 {
        let copies: Vec<_> = running
            .iter()
            .filter(|process| process.node.partition(shape.id_of(partition)).version.has_data())
            .collect();
        let wanted = running.len().min(shape.replication_factor as usize);
        assert_eq!(copies.len(), wanted, "copies of partition {partition}");
        for process in copies {
            let state = process.node.partition(shape.id_of(partition));
            let version = state.version;
            assert_eq!(version, state.final_version, "partition {partition} at {}", process.node.id());
            assert!(process.store.trees.contains_key(&partition), "a tree for partition {partition}");
        }
    }
}
