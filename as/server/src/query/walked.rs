//! The partition that a thread of a query walks through. It is reserved while the thread works on it, so that its
//! records are not dropped. It is not reserved while the thread waits for its client, for a disk, or for the rate.
//!
//! A thread that takes the partition out of service waits for the reservation. The walking thread notices that at its
//! next record and gives the partition up. The partition also counts as lost if it has begun another life, with
//! another tree id, while it was not reserved.

use super::job::End;
use crate::index::PartitionId;
use crate::namespace::{PartitionReservation, Partitions, QueryAccess};

/// The reason why a walk ends early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// The query ends.
    Query(End),
    /// The partition is not read here any more; other partitions may be.
    PartitionLost,
}

impl From<End> for Stop {
    fn from(end: End) -> Self {
        Stop::Query(end)
    }
}

/// A partition that a query walks through.
pub(super) struct WalkedPartition<'a> {
    partitions: &'a Partitions,
    id: PartitionId,
    access: QueryAccess,
    /// The tree id of its present life.
    tree_id: u8,
    reservation: Option<PartitionReservation<'a>>,
}

impl<'a> WalkedPartition<'a> {
    /// Reserves a partition; `None` if queries do not read it here.
    pub(super) fn reserve(partitions: &'a Partitions, id: PartitionId, access: QueryAccess) -> Option<Self> {
        let reservation = partitions.reserve_for_query(id, access)?;
        let tree_id = reservation.tree_id();
        Some(WalkedPartition { partitions, id, access, tree_id, reservation: Some(reservation) })
    }

    /// Releases the reservation before a wait.
    pub(super) fn release(&mut self) {
        self.reservation = None;
    }

    /// Continues with the partition, which is reserved again if it was released.
    ///
    /// # Errors
    /// When it is taken out of service, or was meanwhile.
    #[inline]
    pub(super) fn go_on(&mut self) -> Result<(), Stop> {
        match &self.reservation {
            Some(reservation) if !reservation.is_waited_for() => Ok(()),
            _ => self.reserve_again(),
        }
    }

    #[cold]
    fn reserve_again(&mut self) -> Result<(), Stop> {
        // Released first: another thread may wait for it.
        self.release();
        let reserved = self.partitions.reserve_for_query(self.id, self.access);
        self.reservation = reserved.filter(|reservation| reservation.tree_id() == self.tree_id);
        if self.reservation.is_some() { Ok(()) } else { Err(Stop::PartitionLost) }
    }
}
