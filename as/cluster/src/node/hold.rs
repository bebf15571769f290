//! When writes wait: a master that could not get a write to its replicas, or that others may have replaced, does not begin
//! it. What it began could end in no way that is right: unacknowledged it would still count as newer than what the others
//! write meanwhile, when copies are compared.
//!
//! Writes of a partition wait while
//! - this node is about to be ready to rebalance, and has not yet: others may have. It is ready when writes that began before
//!   have ended, or were judged again;
//! - a replica is not alive, or is in another cluster: the write could only be acknowledged after the next rebalance;
//! - this node's side is *outvoted*: it sees another cluster than that of its partitions, with more nodes than are left of its
//!   own, or as many and a higher principal; or more former members that are orphans now, which may still serve what they
//!   had. Clients that reach both sides after a cut has healed write on the other one only. It stays
//!   so until the next rebalance, or until no stranger is seen any more.
//!
//! The C server begins such writes, and loses acknowledged ones by it now and then.

use std::collections::BTreeSet;

use proto::peer::{ClusterKey, NodeId};

use super::{Action, Node};
use crate::balance::MEMBERS_MAX;
use crate::migration::PartitionId;

/// Why writes wait.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Hold {
    /// The members of the last rebalance.
    balanced: Vec<NodeId>,
    /// Who was a member before that, and has not come back.
    former: BTreeSet<NodeId>,
    /// Members that are, or were lately, in another cluster.
    gone: BTreeSet<NodeId>,
    is_outvoted: bool,
    /// What partitions were last told.
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
        // Partitions are new: they are told again.
        self.told = Told::default();
    }
}

impl Node {
    /// Looks whether writes must wait, and tells the partitions.
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

    /// Whether a cluster is the one of the partitions, or the next one of this node.
    fn is_own(&self, cluster_key: ClusterKey) -> bool {
        cluster_key == self.balanced_key() || cluster_key == self.clustering.cluster_key()
    }

    fn unreachable_members(&self) -> BTreeSet<NodeId> {
        let known = |node: &NodeId| self.is_changing() && self.hold.told.unreachable.contains(node);
        let members = self.hold.balanced.iter().copied();
        members.filter(|node| known(node) || !self.is_on_our_side(*node)).collect()
    }

    /// Whether the node has learnt of another cluster than that of its partitions. What pulses said before is obsolete then,
    /// but what was held stays held.
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

    /// Whether a member of the last rebalance still belongs to it, as far as this node sees: itself, and those alive who have
    /// not been in another cluster since.
    fn is_on_our_side(&self, node: NodeId) -> bool {
        node == self.id() || self.heartbeat.is_alive(node) && !self.hold.gone.contains(&node)
    }

    /// Notes which members are in another cluster. One that leaves it as an orphan, to join ours again, still has what it
    /// took there.
    fn note_gone_members(&mut self) {
        for node in &self.hold.balanced.clone() {
            // An orphan has no cluster that others could not know of yet: all that they say counts.
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
