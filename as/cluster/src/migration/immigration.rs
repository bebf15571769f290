//! The receiving side of migration: the immigrations under way, and the completed ones.

use std::collections::BTreeMap;

use proto::peer::{ClusterKey, NodeId};

use super::{MigrationLoad, MigrationSettings, PartitionId, SMALL_IMMIGRATIONS_MAX};
use crate::time::Now;

/// How long finished immigrations are remembered, for senders that repeat messages.
const REMEMBERED_MS: u64 = 60_000;

/// The answer to a start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartAnswer {
    Ok,
    AgainLater,
    Fail,
}

#[derive(Clone, Copy, Debug)]
struct Immigration {
    partition: PartitionId,
    cluster_key: ClusterKey,
    /// Whether the partition is small, according to its sender.
    is_small: bool,
    /// When it was complete.
    done_ms: Option<u64>,
}

/// The immigrations of a node. The sender and the sender's number identify one.
#[derive(Clone, Debug, Default)]
pub struct Immigrations {
    known: BTreeMap<(NodeId, u32), Immigration>,
    /// Number of those under way: of small partitions, and of others.
    under_way: [usize; 2],
}

impl Immigrations {
    /// Whether another immigration may begin, of a partition that its sender calls small or not.
    #[must_use]
    pub fn has_room(&self, settings: &MigrationSettings, is_small: bool) -> bool {
        let max = if is_small { SMALL_IMMIGRATIONS_MAX } else { settings.incoming_max };
        self.under_way[usize::from(!is_small)] < max && settings.incoming_max != 0
    }

    /// Whether a start message repeats an admitted one.
    #[must_use]
    pub fn is_known(&self, from: NodeId, emigration_id: u32, cluster_key: ClusterKey) -> bool {
        self.known.get(&(from, emigration_id)).is_some_and(|known| known.cluster_key == cluster_key)
    }

    /// Notes an admitted immigration.
    pub fn started(
        &mut self,
        from: NodeId,
        emigration_id: u32,
        cluster_key: ClusterKey,
        partition: PartitionId,
        is_small: bool,
    ) {
        let immigration = Immigration { partition, cluster_key, is_small, done_ms: None };
        self.under_way[usize::from(!is_small)] += 1;
        let replaced = self.known.insert((from, emigration_id), immigration);
        if let Some(Immigration { is_small, done_ms: None, .. }) = replaced {
            self.under_way[usize::from(!is_small)] -= 1;
        }
    }

    /// The partition for an immigration's records. `None` if the immigration is not under way in this
    /// cluster.
    #[must_use]
    pub fn partition(
        &self,
        from: NodeId,
        emigration_id: u32,
        cluster_key: ClusterKey,
    ) -> Option<PartitionId> {
        let known = self.known.get(&(from, emigration_id))?;
        (known.cluster_key == cluster_key && known.done_ms.is_none()).then_some(known.partition)
    }

    /// Notes that all records have arrived. Returns the partition the first time, `Err` for a repetition,
    /// which is only acknowledged, and `None` for an unknown immigration, which is not acknowledged.
    pub fn done(
        &mut self,
        from: NodeId,
        emigration_id: u32,
        cluster_key: ClusterKey,
        now: Now,
    ) -> Option<Result<PartitionId, Repeated>> {
        let known = self.known.get_mut(&(from, emigration_id))?;
        if known.cluster_key != cluster_key {
            return None;
        }
        match known.done_ms.replace(now.monotonic_ms) {
            None => {
                self.under_way[usize::from(!known.is_small)] -= 1;
                Some(Ok(known.partition))
            }
            Some(_) => Some(Err(Repeated)),
        }
    }

    /// Ends incomplete immigrations when the cluster changes. Returns whether there were any.
    pub fn cancel(&mut self) -> bool {
        !std::mem::take(self).known.is_empty()
    }

    /// Adds the immigrations of a namespace.
    pub(crate) fn add_to(&self, load: &mut MigrationLoad, namespace: usize) {
        let own = self.known.values().filter(|known| known.partition.namespace == namespace);
        for immigration in own {
            load.immigrations_known += 1;
            load.immigrations += usize::from(immigration.done_ms.is_none());
        }
    }

    /// Forgets immigrations that finished long ago.
    pub fn tick(&mut self, now: Now) {
        self.known.retain(|_, known| {
            known.done_ms.is_none_or(|done_ms| done_ms + REMEMBERED_MS > now.monotonic_ms)
        });
    }
}

/// The message repeats one that was processed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repeated;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_partitions_and_others_have_separate_limits() {
        let (mut immigrations, settings) = (Immigrations::default(), MigrationSettings::default());
        let partition = PartitionId { namespace: 0, partition: 1 };
        let (small, large) = (true, false);
        for id in 0..SMALL_IMMIGRATIONS_MAX as u32 {
            assert!(immigrations.has_room(&settings, small));
            immigrations.started(NodeId(1), id, ClusterKey(1), partition, small);
        }
        assert!(!immigrations.has_room(&settings, small));
        for id in 0..settings.incoming_max as u32 {
            assert!(immigrations.has_room(&settings, large));
            immigrations.started(NodeId(2), id, ClusterKey(1), partition, large);
        }
        assert!(!immigrations.has_room(&settings, large));
        let done = immigrations.done(NodeId(1), 0, ClusterKey(1), Now { monotonic_ms: 0, wall_ms: 0 });
        assert_eq!(done, Some(Ok(partition)));
        assert_eq!([small, large].map(|is_small| immigrations.has_room(&settings, is_small)), [true, false]);
        immigrations.started(NodeId(1), 1, ClusterKey(2), partition, small);
        assert!(immigrations.has_room(&settings, small), "it replaces one of an earlier cluster");
        let closed = MigrationSettings { incoming_max: 0, ..settings };
        assert!(!Immigrations::default().has_room(&closed, small));
    }
}
