//! Held writes: a master does not begin a write that it could not replicate, or if other nodes may have replaced it.
//! Such a write could not end correctly: even unacknowledged it would count as newer than the others' writes of that
//! time when copies are compared.
//!
//! Writes of a partition wait while
//! - this node is about to be ready to rebalance and has not rebalanced yet, while others may have. It is ready when
//!   all writes that began before have ended, or were checked again;
//! - a replica is not alive, or is in another cluster: the write could be acknowledged only after the next rebalance;
//! - this node's side is *outvoted*: it sees another cluster than that of its partitions, with more nodes than its own
//!   side still has, or as many and a higher principal; or more former members that are orphans now, which may still
//!   serve their old partitions. Clients that reach both sides after a cut has healed then write only on the other one.
//!   This lasts until the next rebalance, or until no foreign node is visible any more.
//!
//! The C server begins such writes, and occasionally loses acknowledged ones that way.

use std::collections::BTreeSet;

use proto::peer::{ClusterKey, NodeId};

use super::{Action, Node};
use crate::balance::MEMBERS_MAX;
use crate::migration::PartitionId;

/// The reasons for holding writes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Hold {
    /// The members of the last rebalance.
    balanced: Vec<NodeId>,
    /// Earlier members that have not come back.
    former: BTreeSet<NodeId>,
    /// Members that are in another cluster, or were recently.
    gone: BTreeSet<NodeId>,
    is_outvoted: bool,
    /// The state last given to the partitions.
    told: Told,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Told {
    all: bool,
    unreachable: BTreeSet<NodeId>,
}

impl Hold {
    pub(super) fn rebalanced(&mut self, members: &[NodeId]) {
        self.former.extend(std::mem::replace(&mut self.balanced, members.to_vec()));
        self.former.retain(|node| !members.contains(node));
        while self.former.len() > MEMBERS_MAX {
            self.former.pop_first();
        }
        self.gone.clear();
        self.is_outvoted = false;
        // The partitions are new and must be told again.
        self.told = Told::default();
    }
}

impl Node {
    /// Decides whether writes must wait, and tells the partitions.
    pub(super) fn update_hold(&mut self) {
        self.note_gone_members();
        let told = Told {
            all: self.exchange.holds_writes() || self.is_outvoted(),
            unreachable: self.unreachable_members(),
        };
        if told == self.hold.told {
            return;
        }
        for (namespace, of_namespace) in self.namespaces.iter_mut().enumerate() {
            for (number, partition) in of_namespace.partitions.iter_mut().enumerate() {
                let is_unreachable = |node: &NodeId| told.unreachable.contains(node);
                let holds = told.all || partition.replicas.iter().any(is_unreachable);
                if holds != partition.holds_writes {
                    partition.holds_writes = holds;
                    let id = PartitionId { namespace, partition: number as u16 };
                    self.actions.push(Action::PartitionChanged(id));
                }
            }
        }
        self.hold.told = told;
    }

    /// Whether a cluster is that of the partitions, or this node's next one.
    fn is_own(&self, cluster_key: ClusterKey) -> bool {
        cluster_key == self.balanced_key() || cluster_key == self.clustering.cluster_key()
    }

    fn unreachable_members(&self) -> BTreeSet<NodeId> {
        let known = |node: &NodeId| self.is_changing() && self.hold.told.unreachable.contains(node);
        let members = self.hold.balanced.iter().copied();
        members.filter(|node| known(node) || !self.is_on_our_side(*node)).collect()
    }

    /// Whether the node has learnt of another cluster than that of its partitions. Earlier pulses are obsolete then,
    /// but held writes stay held.
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
                former_orphans +=
                    usize::from(state.cluster_key.is_none() && self.hold.former.contains(&node));
            }
        }
        is_outvoted |= former_orphans > side.len();
        self.hold.is_outvoted = is_outvoted || self.hold.is_outvoted && sees_strangers;
        self.hold.is_outvoted
    }

    /// Whether a member of the last rebalance still belongs to it, as far as this node sees: itself, and live members
    /// that have not been in another cluster since.
    fn is_on_our_side(&self, node: NodeId) -> bool {
        node == self.id() || self.heartbeat.is_alive(node) && !self.hold.gone.contains(&node)
    }

    /// Notes the members that are in another cluster. One that leaves it as an orphan, to join ours again, still has
    /// the data that it got there.
    fn note_gone_members(&mut self) {
        for node in &self.hold.balanced.clone() {
            // An orphan has no cluster that others might not know of yet: all their states count.
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
