//! Ids of nodes and clusters.

use std::fmt;

/// The id of a node: its fabric port and hardware address, or the configured id. 0 means no node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u64);

impl NodeId {
    /// No node.
    pub const NONE: NodeId = NodeId(0);

    /// Whether it stands for no node.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// Upper-case hexadecimal without leading zeros, as info answers and logs show it.
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The key of a cluster: a random number of 48 bits that changes with each change of the cluster's members. 0
/// means no cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterKey(pub u64);

impl ClusterKey {
    /// The key of a node without a cluster.
    pub const NONE: ClusterKey = ClusterKey(0);
    /// The bits that a key may use.
    pub const MASK: u64 = (1 << 48) - 1;

    /// Whether it is the key of no cluster.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}", self.0)
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
