//! Held writes: a master does not begin a write that it could not replicate, nor one while other nodes may
//! have replaced it. Such a write could not end correctly: even unacknowledged, it would win against the
//! others' writes of that time when copies are compared.
//!
//! Writes of a partition wait while
//! - this node is about to be ready to rebalance and has not rebalanced yet, while others may have. It is
//!   ready when all writes that began before have ended, or were checked again;
//! - a replica is not alive, or is in another cluster: the write could be acknowledged only after the next
//!   rebalance;
//! - this node's side is *outvoted*. Either it sees a cluster other than that of its partitions, with more
//!   nodes than its own side still has, or as many and a higher principal; or it sees more former members
//!   that are orphans now, which may still serve their old partitions. Clients that reach both sides after a
//!   cut has healed then write only on the other one. This lasts until the next rebalance, or until no
//!   foreign node is visible any more;
//! - the partition is *incomplete*: no member had all its records at the rebalance, and a former member that
//!   may have them is visible outside of the cluster. Whichever side has more votes, a record written here
//!   would lose against the other side's, or replace it without its history. This lasts until a complete copy
//!   takes part in a rebalance, until no former member is visible any more, or at most as long as an orphan
//!   serves: nodes that cannot merge must not hold each other's writes for ever.
//!
//! The C server begins such writes, and occasionally loses acknowledged ones that way.

use std::collections::{BTreeMap, BTreeSet};

use datamodel::partition_version::PartitionVersion;
use proto::peer::{ClusterKey, NodeId};

use super::{Action, Node};
use crate::balance::{MEMBERS_MAX, Plan};
use crate::exchange::Committed;
use crate::migration::PartitionId;

/// The reasons for holding writes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Hold {
    /// The members of the last rebalance.
    balanced: Vec<NodeId>,
    balanced_key: ClusterKey,
    /// The cluster keys of the copies that members had before the last rebalance. A member whose copy still
    /// has one of these keys was not to keep it.
    replaced_keys: BTreeSet<u64>,
    /// Earlier members that have not come back.
    former: BTreeSet<NodeId>,
    /// Members that are in another cluster, or were recently.
    gone: BTreeSet<NodeId>,
    is_outvoted: bool,
    /// Incomplete partitions, each with the time until which it holds writes.
    incomplete: BTreeMap<PartitionId, u64>,
    /// The state last given to the partitions.
    told: Told,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Told {
    all: bool,
    unreachable: BTreeSet<NodeId>,
    /// Number of incomplete partitions that hold writes; it only shrinks until the next rebalance.
    incomplete: usize,
}

impl Hold {
    /// Notes before a rebalance whether a partition is incomplete under its new plan. `awaits_records` tells
    /// that `self_node` was to get records of others.
    pub(super) fn planned(
        &mut self,
        id: PartitionId,
        plan: &Plan,
        self_node: NodeId,
        awaits_records: bool,
        until_ms: u64,
    ) {
        if self.balanced.is_empty() {
            return;
        }
        let known = self.incomplete.remove(&id);
        let copies = plan.nodes.iter().zip(&plan.versions);
        let mut full =
            copies.filter(|(_, version)| version.has_data() && !version.is_subset() && !version.is_evade());
        let is_complete = full.any(|(node, version)| {
            let key = version.cluster_key();
            if !self.balanced.contains(node) {
                true
            } else if key == self.balanced_key.0 {
                known.is_none() && !(awaits_records && *node == self_node)
            } else {
                !self.replaced_keys.contains(&key)
            }
        });
        if !is_complete {
            self.incomplete.insert(id, known.unwrap_or(until_ms));
        }
    }

    pub(super) fn rebalanced(&mut self, committed: &Committed) {
        let members = &committed.succession;
        self.former.extend(std::mem::replace(&mut self.balanced, members.clone()));
        self.former.retain(|node| !members.contains(node));
        while self.former.len() > MEMBERS_MAX {
            self.former.pop_first();
        }
        if self.former.is_empty() {
            self.incomplete.clear();
        }
        let groups =
            committed.data.values().flat_map(|data| &data.namespaces).flat_map(|data| &data.versions);
        self.replaced_keys = groups.map(|group| PartitionVersion(group.version).cluster_key()).collect();
        self.balanced_key = committed.cluster_key;
        self.gone.clear();
        self.is_outvoted = false;
        // A rebalance sets the partitions anew, so they must be told again.
        self.told = Told::default();
    }
}

impl Node {
    /// Decides whether writes must wait, and tells the partitions.
    pub(super) fn update_hold(&mut self) {
        self.note_gone_members();
        let now_ms = self.last_step_ms;
        self.hold.incomplete.retain(|_, until_ms| now_ms < *until_ms);
        let told = Told {
            all: self.exchange.holds_writes() || self.is_outvoted(),
            unreachable: self.unreachable_members(),
            incomplete: if self.sees_former_member() { self.hold.incomplete.len() } else { 0 },
        };
        if told == self.hold.told {
            return;
        }
        for (namespace, of_namespace) in self.namespaces.iter_mut().enumerate() {
            for (number, partition) in of_namespace.partitions.iter_mut().enumerate() {
                let is_unreachable = |node: &NodeId| told.unreachable.contains(node);
                let id = PartitionId { namespace, partition: number as u16 };
                let holds = told.all
                    || partition.replicas.iter().any(is_unreachable)
                    || told.incomplete != 0 && self.hold.incomplete.contains_key(&id);
                if holds != partition.holds_writes {
                    partition.holds_writes = holds;
                    self.actions.push(Action::PartitionChanged(id));
                }
            }
        }
        self.hold.told = told;
    }

    /// Whether a former member is visible, either as an orphan, which may still serve its old partitions, or
    /// in another cluster.
    fn sees_former_member(&self) -> bool {
        self.heartbeat.alive().any(|node| self.hold.former.contains(&node))
    }

    /// Whether a cluster is that of the partitions, or the next one of this node.
    fn is_own(&self, cluster_key: ClusterKey) -> bool {
        cluster_key == self.balanced_key() || cluster_key == self.clustering.cluster_key()
    }

    fn unreachable_members(&self) -> BTreeSet<NodeId> {
        let known = |node: &NodeId| self.is_changing() && self.hold.told.unreachable.contains(node);
        let members = self.hold.balanced.iter().copied();
        members.filter(|node| known(node) || !self.is_on_our_side(*node)).collect()
    }

    /// Whether the node has learnt of a cluster other than that of its partitions. Earlier pulses are
    /// obsolete then, but held writes stay held.
    fn is_changing(&self) -> bool {
        let cluster_key = self.clustering.cluster_key();
        !cluster_key.is_none() && cluster_key != self.balanced_key()
    }

    fn is_outvoted(&mut self) -> bool {
        if self.balanced_key().is_none() {
            return false;
        }
        if self.is_changing() && self.hold.is_outvoted {
            return true;
        }
        let side: Vec<NodeId> =
            self.hold.balanced.iter().copied().filter(|node| self.is_on_our_side(*node)).collect();
        let ours = (side.len(), side.iter().max().copied());
        let strangers = self.heartbeat.alive().filter(|node| !side.contains(node));
        let mut sees_strangers = false;
        let mut is_outvoted = false;
        let mut former_orphans = 0;
        for node in strangers {
            sees_strangers = true;
            if let Some(state) = self.clustering.state_of(node, &self.heartbeat) {
                let theirs = (state.succession.len(), state.succession.first().copied());
                is_outvoted |=
                    !state.cluster_key.is_none() && !self.is_own(state.cluster_key) && theirs > ours;
            }
            // An orphan that is no member of ours is not on our side, even if its pulse is older than our
            // cluster.
            let is_orphan =
                self.heartbeat.peer(node).is_some_and(|peer| peer.clustering.cluster_key.is_none());
            former_orphans += usize::from(is_orphan && self.hold.former.contains(&node));
        }
        is_outvoted |= former_orphans > side.len();
        self.hold.is_outvoted = is_outvoted || self.hold.is_outvoted && sees_strangers;
        self.hold.is_outvoted
    }

    /// Whether a member of the last rebalance still belongs to it, as far as this node sees. This holds for
    /// the node itself, and for live members that have not been in another cluster since.
    fn is_on_our_side(&self, node: NodeId) -> bool {
        node == self.id() || self.heartbeat.is_alive(node) && !self.hold.gone.contains(&node)
    }

    /// Notes the members that are in another cluster. A member that leaves it as an orphan, to join ours
    /// again, still has the data that it got there.
    fn note_gone_members(&mut self) {
        for node in &self.hold.balanced.clone() {
            // An orphan has no cluster that others might not know of yet, so all their states are current.
            let state = if self.clustering.is_orphan() {
                self.heartbeat.peer(*node).map(|peer| &peer.clustering)
            } else {
                self.clustering.state_of(*node, &self.heartbeat)
            };
            match state {
                Some(state) if state.cluster_key.is_none() => {}
                Some(state) if self.is_own(state.cluster_key) => _ = self.hold.gone.remove(node),
                Some(_) => _ = self.hold.gone.insert(*node),
                None => {}
            }
        }
    }
}
