//! Leaving: a node that stops cleanly gives its partitions to others first, so that its clients notice
//! nothing.
//!
//! The node's pulses say that it is leaving. The principal then forms the cluster anew, and the leaving
//! node's exchange data says that it is quiesced. Where other nodes have full copies, they become masters
//! with the rebalance. Where the leaving node has the only full copy, it continues as acting master until it
//! has sent the records. It proxies requests that clients still send to it. Its last pulse says that it is
//! gone, so that others do not wait for the node timeout.
//!
//! C servers do not know these messages. In a cluster with them a node just stops, as theirs do.

use std::collections::BTreeSet;

use proto::peer::NodeId;
use proto::peer::exchange::{ExchangeData, FLAG_QUIESCE};

use super::Node;
use super::rebalance::knows_placement;
use crate::clustering::ClusteringEvent;
use crate::exchange::Committed;
use crate::time::Now;

/// The progress of a node that is leaving.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HandOver {
    /// The node is not leaving.
    #[default]
    None,
    /// No other node can take its partitions over.
    Impossible,
    /// It still serves partitions.
    UnderWay,
    /// The cluster is not balanced without the node yet, or the node still serves partitions.
    Done,
}

/// Facts that members reported at the last rebalance.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Leaving {
    /// Whether all of them support quiesced nodes.
    is_understood: bool,
    /// The members that were quiesced.
    quiesced: BTreeSet<NodeId>,
}

impl Leaving {
    pub(super) fn of(committed: &Committed) -> Self {
        let is_quiesced =
            |data: &ExchangeData| data.namespaces.iter().any(|namespace| namespace.flags & FLAG_QUIESCE != 0);
        let quiesced = committed.data.iter().filter(|(_, data)| is_quiesced(data));
        Leaving {
            is_understood: committed.data.values().all(knows_placement),
            quiesced: quiesced.map(|(node, _)| *node).collect(),
        }
    }
}

impl Node {
    /// Whether the node asks to be quiesced.
    pub(super) fn wants_no_partitions(&self) -> bool {
        self.is_quiesced || self.heartbeat.is_leaving(self.id())
    }

    /// Whether other members of the cluster can take over partitions of members that leave.
    fn has_heirs(&self) -> bool {
        let members = self.clustering.succession();
        // A member that has departed takes nothing over, whatever it reported last.
        let can_inherit = |node: &NodeId| self.heartbeat.is_alive(*node) && !self.heartbeat.is_leaving(*node);
        self.leaving.is_understood && members.iter().any(can_inherit)
    }

    /// Whether all members understand a last pulse that says that its sender is gone. C servers would take
    /// this node for alive until the node timeout and see that their neighbours do not, and might evict those
    /// from their clique.
    pub(super) fn may_say_farewell(&self) -> bool {
        self.leaving.is_understood
    }

    /// Forms the cluster again, as its principal, when members have begun to leave.
    pub(super) fn let_members_leave(&mut self, now: Now) {
        let is_balanced = self.clustering.is_principal()
            && self.balanced_key() == self.clustering.cluster_key()
            && self.exchange.is_resting();
        if !is_balanced {
            return;
        }
        let is_new =
            |node: &NodeId| self.heartbeat.is_leaving(*node) && !self.leaving.quiesced.contains(node);
        if self.clustering.succession().iter().any(is_new) && self.has_heirs() {
            self.cluster(ClusteringEvent::Recluster, now);
        }
    }

    /// The progress of this node, after it was told to [leave](super::Event::Leave).
    #[must_use]
    pub fn hand_over(&self) -> HandOver {
        if !self.heartbeat.is_leaving(self.id()) {
            return HandOver::None;
        }
        if self.clustering.is_orphan() || !self.has_heirs() {
            return HandOver::Impossible;
        }
        let is_balanced = self.balanced_key() == self.clustering.cluster_key() && self.exchange.is_resting();
        let is_serving = || {
            // Partitions of a namespace that no other member has stay here.
            let given =
                self.namespaces.iter().filter(|namespace| namespace.placement.quiesced.contains(&self.id()));
            let mut partitions = given.flat_map(|namespace| &namespace.partitions);
            partitions
                .any(|partition| partition.working_master == self.id() || partition.pending_emigrations != 0)
        };
        if !is_balanced || !self.leaving.quiesced.contains(&self.id()) || is_serving() {
            return HandOver::UnderWay;
        }
        HandOver::Done
    }
}
