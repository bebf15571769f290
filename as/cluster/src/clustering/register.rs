//! The register: the cluster of a node, and the members that have applied it.

use std::collections::BTreeSet;

use proto::peer::{ClusterKey, NodeId};

use crate::time::{Now, Timing};

/// Key and members of the cluster; key 0 and no members for an orphan.
#[derive(Clone, Debug)]
pub(super) struct Register {
    pub(super) cluster_key: ClusterKey,
    /// The sequence of the round that made it.
    pub(super) sequence: u64,
    /// The members in descending order; the first is the principal.
    pub(super) succession: Vec<NodeId>,
    /// Members that may not have applied it yet.
    pending: BTreeSet<NodeId>,
    /// Reports of members about a cluster that this node has not applied yet.
    early: Early,
    /// Time of the last change by the monotonic clock, and below by the hybrid logical clock.
    modified_ms: u64,
    modified_time: u64,
}

/// Changes that others applied before this node.
#[derive(Clone, Default, Debug)]
struct Early {
    cluster_key: ClusterKey,
    succession: Vec<NodeId>,
    send_time: u64,
    from: BTreeSet<NodeId>,
}

impl Register {
    pub(super) fn new() -> Self {
        Register {
            cluster_key: ClusterKey::NONE,
            sequence: 0,
            succession: Vec::new(),
            pending: BTreeSet::new(),
            early: Early::default(),
            modified_ms: 0,
            modified_time: 0,
        }
    }

    pub(super) fn is_orphan(&self) -> bool {
        self.cluster_key.is_none()
    }

    pub(super) fn principal(&self) -> Option<NodeId> {
        self.succession.first().copied()
    }

    pub(super) fn is_synced(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn holds(&self, cluster_key: ClusterKey, succession: &[NodeId]) -> bool {
        self.cluster_key == cluster_key && self.succession == succession
    }

    /// Applies the outcome of a round.
    pub(super) fn apply(
        &mut self,
        sequence: u64,
        cluster_key: ClusterKey,
        succession: Vec<NodeId>,
        now: Now,
        time: u64,
    ) {
        let early = std::mem::take(&mut self.early);
        let mut pending: BTreeSet<NodeId> = succession.iter().copied().collect();
        if early.cluster_key == cluster_key && early.succession == succession {
            pending.retain(|node| !early.from.contains(node));
        }
        *self = Register {
            cluster_key,
            sequence,
            succession,
            pending,
            early: Early::default(),
            modified_ms: now.monotonic_ms,
            modified_time: time,
        };
    }

    /// Leaves the cluster.
    pub(super) fn become_orphan(&mut self, now: Now, time: u64) {
        let early = std::mem::take(&mut self.early);
        *self = Register { early, modified_ms: now.monotonic_ms, modified_time: time, ..Register::new() };
    }

    /// Notes that a member has applied a change. Returns whether it was the last one.
    pub(super) fn applied_by(
        &mut self,
        from: NodeId,
        cluster_key: ClusterKey,
        succession: &[NodeId],
        send_time: u64,
    ) -> bool {
        if self.holds(cluster_key, succession) {
            return self.pending.remove(&from) && self.pending.is_empty();
        }
        if self.early.cluster_key != cluster_key || self.early.succession != succession {
            if self.early.send_time >= send_time {
                return false;
            }
            self.early =
                Early { cluster_key, succession: succession.to_vec(), send_time, from: BTreeSet::new() };
        }
        self.early.from.insert(from);
        false
    }

    /// Removes the members whose pulses show that they have applied it. Returns whether none is left.
    pub(super) fn sync(&mut self, has_applied: impl Fn(NodeId) -> bool) -> bool {
        let was_pending = !self.pending.is_empty();
        self.pending.retain(|node| !has_applied(*node));
        was_pending && self.pending.is_empty()
    }

    /// Whether a message sent at `send_time` and received at `received_ms` may be older than its sender's
    /// knowledge of the last change.
    pub(super) fn is_obsolete(&self, send_time: u64, received_ms: u64, timing: &Timing) -> bool {
        send_time <= self.modified_time || received_ms < self.modified_ms + timing.stale_after_change_ms()
    }
}
