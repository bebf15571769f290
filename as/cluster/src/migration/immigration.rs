//! The receiving side: who is sending which partition, and what has been received.

use std::collections::BTreeMap;

use proto::peer::{ClusterKey, NodeId};

use super::{MigrationLoad, MigrationSettings, PartitionId};
use crate::time::Now;

/// What is done is remembered for so long, for senders that repeat themselves.
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
    /// When all of it was there.
    done_ms: Option<u64>,
}

/// All that a node is receiving. An immigration is named by the sender and the sender's number for it.
#[derive(Clone, Debug, Default)]
pub struct Immigrations {
    known: BTreeMap<(NodeId, u32), Immigration>,
}

impl Immigrations {
    /// Whether one more may begin.
    #[must_use]
    pub fn has_room(&self, settings: &MigrationSettings) -> bool {
        let active = self.known.values().filter(|immigration| immigration.done_ms.is_none()).count();
        active < settings.incoming_max
    }

    /// Whether the start is the repetition of one that was admitted.
    #[must_use]
    pub fn is_known(&self, from: NodeId, emigration_id: u32, cluster_key: ClusterKey) -> bool {
        self.known.get(&(from, emigration_id)).is_some_and(|known| known.cluster_key == cluster_key)
    }

    /// A start was admitted.
    pub fn started(
        &mut self,
        from: NodeId,
        emigration_id: u32,
        cluster_key: ClusterKey,
        partition: PartitionId,
    ) {
        self.known.insert((from, emigration_id), Immigration { partition, cluster_key, done_ms: None });
    }

    /// Where records of an immigration go; `None` if it is not under way in this cluster.
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

    /// All records are there. Gives the partition the first time; `Err` if it is a repetition, which is only acknowledged;
    /// `None` if it is not known, and not acknowledged.
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
            None => Some(Ok(known.partition)),
            Some(_) => Some(Err(Repeated)),
        }
    }

    /// The cluster changes: what is not complete never will be. Returns whether there was anything.
    pub fn cancel(&mut self) -> bool {
        !std::mem::take(&mut self.known).is_empty()
    }

    /// Adds what comes in for a namespace.
    pub(crate) fn add_to(&self, load: &mut MigrationLoad, namespace: usize) {
        let own = self.known.values().filter(|known| known.partition.namespace == namespace);
        for immigration in own {
            load.immigrations_known += 1;
            load.immigrations += usize::from(immigration.done_ms.is_none());
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now) {
        self.known.retain(|_, known| {
            known.done_ms.is_none_or(|done_ms| done_ms + REMEMBERED_MS > now.monotonic_ms)
        });
    }
}

/// The message repeats one that was dealt with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repeated;
