//! Placement of replicas: the placement that this node wishes, which others learn with the next rebalance,
//! and the placement in effect since the last one.

use proto::peer::NodeId;

use super::Node;
use crate::balance::{Adjustments, NamespaceView, RackId};

/// The placement that this node wishes for a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PlacementWish {
    pub rack: RackId,
    pub active_rack: RackId,
    pub prefers_uniform_balance: bool,
}

/// The placement of a namespace in effect.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Placement {
    /// The rack of each member that has the namespace, in the order of the succession list.
    pub racks: Vec<(NodeId, RackId)>,
    pub active_rack: RackId,
    pub is_uniform: bool,
    /// Members that are quiesced.
    pub quiesced: Vec<NodeId>,
}

impl Placement {
    pub(super) fn of(view: &NamespaceView) -> Self {
        let adjustments = Adjustments::of(view);
        let all_are_active = adjustments.active_size() == view.members.len();
        let quiesced = view.members.iter().filter(|member| member.is_quiesced && !all_are_active);
        Placement {
            racks: view.members.iter().map(|member| (member.node, member.rack)).collect(),
            active_rack: adjustments.active_rack(),
            is_uniform: view.is_uniform,
            quiesced: quiesced.map(|member| member.node).collect(),
        }
    }
}

impl Node {
    /// Applies an administrator's change of the wish for a namespace. It takes effect with the next
    /// rebalance.
    pub fn wish_placement(&mut self, namespace: usize, wish: PlacementWish) {
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            let PlacementWish { rack, active_rack, prefers_uniform_balance } = wish;
            let settings = &mut namespace.settings;
            (settings.rack, settings.active_rack) = (rack, active_rack);
            settings.prefers_uniform_balance = prefers_uniform_balance;
        }
    }

    /// Applies a change of `min-cluster-size`.
    pub fn set_size_min(&mut self, size_min: usize) {
        self.clustering.set_size_min(size_min);
    }

    /// The placement of a namespace since the last rebalance.
    #[must_use]
    pub fn placement(&self, namespace: usize) -> Option<&Placement> {
        self.namespaces.get(namespace).map(|namespace| &namespace.placement)
    }
}
