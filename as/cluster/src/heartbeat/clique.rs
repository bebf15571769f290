//! Cliques: sets of nodes that all see each other. A cluster is a clique.

use std::collections::BTreeSet;

use proto::peer::NodeId;

/// Removes nodes until the rest all see each other, and returns the removed ones. `self_node` stays. Nodes
/// without links to it in both directions go first, then the node with the most missing links; of equal ones
/// the one with the smaller id.
pub(crate) fn evict(
    nodes: &mut Vec<NodeId>,
    self_node: NodeId,
    sees: impl Fn(NodeId, NodeId) -> bool,
) -> Vec<NodeId> {
    let missing = |left: NodeId, right: NodeId| left != right && !(sees(left, right) && sees(right, left));
    let mut evicted: BTreeSet<NodeId> = BTreeSet::new();
    if nodes.contains(&self_node) {
        evicted.extend(nodes.iter().filter(|node| missing(self_node, **node)));
    }
    loop {
        let left: Vec<NodeId> = nodes.iter().copied().filter(|node| !evicted.contains(node)).collect();
        let degree = |node: NodeId| left.iter().filter(|other| missing(node, **other)).count();
        let candidates = left.iter().filter(|node| **node != self_node).map(|node| (degree(*node), *node));
        let worst = candidates
            .filter(|(degree, _)| *degree > 0)
            .max_by(|(left, a), (right, b)| left.cmp(right).then(b.cmp(a)));
        match worst {
            Some((_, node)) => evicted.insert(node),
            None => break,
        };
    }
    nodes.retain(|node| !evicted.contains(node));
    evicted.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    #[test]
    fn nodes_that_do_not_see_each_other_are_parted() {
        let cut = [(3, 4)];
        let sees = |a: NodeId, b: NodeId| !cut.contains(&(a.0, b.0));
        // One missing direction is enough. Of 3 and 4, with one missing link each, the smaller goes.
        let mut nodes = ids(&[1, 2, 3, 4]);
        assert_eq!(evict(&mut nodes, NodeId(1), sees), ids(&[3]));
        assert_eq!(nodes, ids(&[1, 2, 4]));
        // A node that self does not see goes first.
        let mut nodes = ids(&[1, 2, 3, 4]);
        assert_eq!(evict(&mut nodes, NodeId(3), sees), ids(&[4]));
    }

    #[test]
    fn the_node_that_misses_most_links_is_removed_first() {
        let cut = [(5, 1), (5, 2), (5, 3)];
        let mut nodes = ids(&[1, 2, 3, 4, 5]);
        evict(&mut nodes, NodeId(4), |a, b| !cut.contains(&(a.0, b.0)));
        assert_eq!(nodes, ids(&[1, 2, 3, 4]));
    }
}
